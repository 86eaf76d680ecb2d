/* SPDX-License-Identifier: MIT */
/*
 * Goal: the library can be a plugin's.  It comes by dlopen, stays where it is after dlclose (its
 * threads and the kernel still know its memory), and requests in flight at that moment end as
 * always.  A shared object that calls it through its own imports is served by what that object
 * imports, whatever was loaded at the same address before it.
 *
 * Method: this program is linked with the library, so what it loads and closes is a copy of the
 * library's file, which the dynamic loader takes for another one.  The objects are those of
 * objects/.
 */
#include "scene.h"

struct calls {
	void *handle;
	int (*setup)(int, io_context_t *);
	int (*submit)(io_context_t, long, struct iocb **);
	int (*getevents)(io_context_t, long, long, struct io_event *, struct timespec *);
	int (*destroy)(io_context_t);
};

static void find(void *handle, const char *name, void *function)
{
	void *symbol = dlsym(handle, name);

	ck_assert_msg(symbol != NULL, "%s", dlerror());
	memcpy(function, &symbol, sizeof(symbol));
}

/* The engine of a context, as the library at this handle names it. */
static void expect_engine(void *library, io_context_t ctx, const char *expected)
{
	void *symbol = dlsym(library, "trueaio_engine");
	const char *(*engine)(io_context_t);

	contract_engine_proved = true;
	if (on_reference()) {
		ck_assert_msg(!symbol, "this is not the reference library");
		return;
	}
	find(library, "trueaio_engine", &engine);
	ck_assert_str_eq(engine(ctx), expected);
}

static int count_lines_with(const char *path, const char *text)
{
	FILE *stream = fopen(path, "re");
	char line[PATH_MAX + 256];
	int count = 0;

	ck_assert_ptr_nonnull(stream);
	while (fgets(line, sizeof(line), stream))
		count += strstr(line, text) != NULL;
	fclose(stream);
	return count;
}

/*
 * The library itself.
 */

/* A copy of the library under test, in a file of its own. */
static const char *library_copy(void)
{
	static char path[PATH_MAX];
	Dl_info info;
	char buffer[65536];
	ssize_t got;
	int from, to;

	ck_assert_int_ne(dladdr(dlsym(RTLD_DEFAULT, "io_setup"), &info), 0);
	snprintf(path, sizeof(path), "%s/copy-XXXXXX", scratch_directory());
	to = mkostemp(path, O_CLOEXEC);
	from = open(info.dli_fname, O_RDONLY | O_CLOEXEC);
	ck_assert_msg(from >= 0 && to >= 0, "%s: %s", info.dli_fname, strerror(errno));
	while ((got = read(from, buffer, sizeof(buffer))) > 0)
		ck_assert_int_eq(write(to, buffer, (size_t)got), got);
	ck_assert_int_eq(got, 0);
	close(from);
	close(to);
	return path;
}

static struct calls load_library(const char *path)
{
	struct calls calls = { .handle = dlopen(path, RTLD_NOW | RTLD_LOCAL) };
	void *own = dlsym(RTLD_DEFAULT, "io_setup"), *loaded;

	ck_assert_msg(calls.handle != NULL, "%s", dlerror());
	loaded = dlsym(calls.handle, "io_setup");
	ck_assert_msg(loaded && loaded != own, "not another library");
	find(calls.handle, "io_setup", &calls.setup);
	find(calls.handle, "io_submit", &calls.submit);
	find(calls.handle, "io_getevents", &calls.getevents);
	find(calls.handle, "io_destroy", &calls.destroy);
	return calls;
}

static io_context_t set_up(const struct calls *calls)
{
	io_context_t ctx = NULL;

	ck_assert_int_eq(calls->setup(8, &ctx), 0);
	return ctx;
}

static void takes_event(const struct calls *calls, io_context_t ctx, const struct iocb *iocb,
			long result)
{
	struct timespec limit = { .tv_sec = EVENT_LIMIT_SECONDS };
	struct io_event event = { .obj = NULL };

	ck_assert_int_eq(calls->getevents(ctx, 1, 1, &event, &limit), 1);
	ck_assert_ptr_eq(event.obj, iocb);
	ck_assert_int_eq((long)event.res, result);
}

static void reads_zeroes(const struct calls *calls, io_context_t ctx)
{
	int zero = open_device("/dev/zero", O_RDONLY);
	char bytes[8] = "before";
	struct iocb iocb, *batch[] = { &iocb };

	io_prep_pread(&iocb, zero, bytes, sizeof(bytes), 0);
	ck_assert_int_eq(calls->submit(ctx, 1, batch), 1);
	takes_event(calls, ctx, &iocb, sizeof(bytes));
	ck_assert_int_eq(bytes[0], 0);
	close(zero);
}

CASE(library_works_after_dlopen_and_stays_after_dlclose)
{
	const char *path = library_copy();
	struct calls calls = load_library(path);
	io_context_t ctx = set_up(&calls);

	expect_engine(calls.handle, ctx, expected_engine());
	reads_zeroes(&calls, ctx);
	if (on_reference())
		ck_assert_int_eq(calls.destroy(ctx), 0);
	ck_assert_int_eq(dlclose(calls.handle), 0);
	if (on_reference()) {
		/* So this look can tell. */
		ck_assert_int_eq(count_lines_with("/proc/self/maps", path), 0);
	} else {
		ck_assert_int_gt(count_lines_with("/proc/self/maps", path), 0);
		reads_zeroes(&calls, ctx);
		ck_assert_int_eq(calls.destroy(ctx), 0);
	}
	unlink(path);
}

/* The plugin is gone, its eventfd is still watched, and its buffers are still there. */
CASE(requests_in_flight_survive_dlclose)
{
	struct scene scene;
	struct calls calls;
	struct iocb iocbs[3], *batch[] = { &iocbs[0], &iocbs[1], &iocbs[2] };
	int event_fd = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), ends[2];
	const char *path = library_copy();
	io_context_t ctx;
	char byte = 0;

	SKIP_ON_REFERENCE("is unloaded by dlclose");
	SCENE_OPEN(&scene);
	calls = load_library(path);
	ctx = set_up(&calls);
	make_pipe(ends, 0);
	prepare_write(&iocbs[0], scene.fd, 0);
	prepare_sync(&iocbs[1], scene.fd, IO_CMD_FSYNC);
	io_prep_pread(&iocbs[2], ends[0], &byte, 1, 0);
	for (int i = 0; i < 3; i++)
		io_set_eventfd(&iocbs[i], event_fd);
	holdfs_hold(scene.fs, HOLDFS_WRITE);
	ck_assert_int_eq(calls.submit(ctx, 3, batch), 3);
	wait_operation(scene.fs, HOLDFS_WRITE, SUBJECT, 0);
	ck_assert_int_eq(dlclose(calls.handle), 0);
	send_silent_witness(&scene);
	ck_assert_uint_eq(syncs(&scene), 0);
	holdfs_release_all(scene.fs);
	ck_assert_int_eq(write(ends[1], "d", 1), 1);
	expect_signals(event_fd, 3, HERE);
	ck_assert_uint_eq(syncs(&scene), 1);
	ck_assert_int_eq(byte, 'd');
	/* Loaded again, it is the same library, and knows its contexts. */
	calls = load_library(path);
	for (int i = 0; i < 3; i++) {
		struct timespec limit = { .tv_sec = EVENT_LIMIT_SECONDS };
		struct io_event event;

		ck_assert_int_eq(calls.getevents(ctx, 1, 1, &event, &limit), 1);
		ck_assert_int_ge((long)event.res, 0);
	}
	ck_assert_int_eq(calls.destroy(ctx), 0);
	ck_assert_int_eq(dlclose(calls.handle), 0);
	close_pair(ends);
	close(event_fd);
	unlink(path);
	scene_close(&scene);
}

CASE(loading_again_and_again_adds_nothing)
{
	const char *path = library_copy();
	int mappings = 0;

	SKIP_ON_REFERENCE("is unloaded by dlclose");
	for (int round = 0; round < 100; round++) {
		struct calls calls = load_library(path);
		io_context_t ctx = set_up(&calls);

		expect_engine(calls.handle, ctx, expected_engine());
		reads_zeroes(&calls, ctx);
		ck_assert_int_eq(calls.destroy(ctx), 0);
		ck_assert_int_eq(dlclose(calls.handle), 0);
		if (round == 0)
			mappings = count_lines_with("/proc/self/maps", path);
	}
	ck_assert_int_eq(count_lines_with("/proc/self/maps", path), mappings);
	unlink(path);
}

/* Each has its own contexts, and a handle of one is nothing to the other. */
CASE(two_copies_of_the_library_live_side_by_side)
{
	const char *path = library_copy();
	struct calls calls = load_library(path);
	io_context_t other = set_up(&calls), own = new_context(8);

	reads_zeroes(&calls, other);
	expect_works(own, HERE);
	if (!on_reference()) {
		ck_assert_int_eq(io_submit(other, 0, NULL), -EINVAL);
		ck_assert_int_eq(calls.submit(own, 0, NULL), -EINVAL);
	}
	free_context(own);
	ck_assert_int_eq(calls.destroy(other), 0);
	dlclose(calls.handle);
	unlink(path);
}

/*
 * Objects with imports of their own.
 */

static struct calls load_object(const char *name)
{
	char path[PATH_MAX], *slash;
	ssize_t length = readlink("/proc/self/exe", path, sizeof(path) / 2);
	struct calls calls = { .handle = NULL };

	ck_assert_int_gt(length, 0);
	path[length] = '\0';
	slash = strrchr(path, '/');
	snprintf(slash, sizeof(path) / 2, "/objects/%s.so", name);
	calls.handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	ck_assert_msg(calls.handle != NULL, "%s", dlerror());
	find(calls.handle, "object_setup", &calls.setup);
	find(calls.handle, "object_submit", &calls.submit);
	find(calls.handle, "object_destroy", &calls.destroy);
	if (dlsym(calls.handle, "object_getevents"))
		find(calls.handle, "object_getevents", &calls.getevents);
	return calls;
}

CASE(object_calls_through_its_own_imports)
{
	struct calls calls = load_object("mediated");
	io_context_t ctx = set_up(&calls);

	expect_engine(RTLD_DEFAULT, ctx, expected_engine());
	reads_zeroes(&calls, ctx);
	ck_assert_int_eq(calls.destroy(ctx), 0);
	ck_assert_int_eq(dlclose(calls.handle), 0);
}

/* The context belongs to the process, not to the object that made it. */
CASE(context_outlives_the_object_that_made_it)
{
	struct scene scene;
	struct calls calls;
	struct iocb write, sync;
	io_context_t ctx;

	SCENE_OPEN(&scene);
	calls = load_object("mediated");
	ctx = set_up(&calls);
	prepare_write(&write, scene.fd, 0);
	prepare_sync(&sync, scene.fd, IO_CMD_FSYNC);
	holdfs_hold(scene.fs, HOLDFS_WRITE);
	for (int i = 0; i < 2; i++) {
		struct iocb *batch[] = { i ? &sync : &write };

		ck_assert_int_eq(calls.submit(ctx, 1, batch), 1);
	}
	wait_operation(scene.fs, HOLDFS_WRITE, SUBJECT, 0);
	ck_assert_int_eq(dlclose(calls.handle), 0);
	if (sync_is_held(&scene, 0)) {
		holdfs_release_all(scene.fs);
		expect_event(ctx, &write, BLOCK_BYTES, HERE);
		expect_event(ctx, &sync, 0, HERE);
	}
	holdfs_release_all(scene.fs);
	free_context(ctx);
	scene_close(&scene);
}

/*
 * The loader gives the second object the addresses of the first.  A library that remembers what it
 * knows of an address would mistake one for the other.
 */
CASE(object_in_the_place_of_another_is_not_mistaken_for_it)
{
	static const char *const names[] = { "passthrough", "mediated" };
	void *places[2] = { NULL, NULL };
	int reused = 0;
	Dl_info info;

	SKIP_ON_REFERENCE("serves all alike");
	for (int round = 0; round < 8; round++) {
		int which = round & 1;
		struct calls calls = load_object(names[which]);
		int error = which ? 0 : setup_error_of_foreign_reapers();
		io_context_t ctx = NULL;

		ck_assert_int_ne(dladdr(dlsym(calls.handle, "object_setup"), &info), 0);
		places[which] = info.dli_fbase;
		reused += places[0] == places[1];
		ck_assert_int_eq(calls.setup(8, &ctx), error);
		if (error == 0) {
			expect_engine(RTLD_DEFAULT, ctx,
				      which ? expected_engine() : "native-passthrough");
			ck_assert_int_eq(calls.destroy(ctx), 0);
		}
		ck_assert_int_eq(dlclose(calls.handle), 0);
	}
	if (!reused)
		SKIP("the loader gives no address twice");
}

#ifdef __x86_64__
/* Code that belongs to no object, as that of a just-in-time compiler, calls the third argument. */
CASE(caller_outside_of_all_objects_is_served)
{
	static const unsigned char code[] = {
		0x48, 0x83, 0xec, 0x08, /* sub $8, %rsp */
		0xff, 0xd2, /* call *%rdx */
		0x48, 0x83, 0xc4, 0x08, /* add $8, %rsp */
		0xc3, /* ret */
	};
	int (*call)(int, io_context_t *, int (*)(int, io_context_t *));
	io_context_t ctx = NULL;
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ck_assert_ptr_ne(page, MAP_FAILED);
	memcpy(page, code, sizeof(code));
	ck_assert_int_eq(mprotect(page, 4096, PROT_READ | PROT_EXEC), 0);
	memcpy(&call, &page, sizeof(call));
	ck_assert_int_eq(call(4, &ctx, io_setup), 0);
	prove_engine(ctx);
	expect_works(ctx, HERE);
	free_context(ctx);
	munmap(page, 4096);
}
#endif
