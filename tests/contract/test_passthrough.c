/* SPDX-License-Identifier: MIT */
/*
 * Goal: a program that reaps completions past the library finds what it would find without us: the
 * kernel's own ring with its magic, its own iocb pointers, eventfds signalled by the kernel.  The
 * promise of fsync holds for it all the same, also while it does not call us.  Who calls for the
 * kernel's io_getevents in its own way is told from what the calling object imports, each object
 * for itself.
 *
 * Method: programs/passthrough reaps in the ring or by system call and prints what it sees; this
 * test holds the disk under its file.  objects/passthrough.so brings such contexts into this
 * program, whose own are mediated, as it imports io_getevents.
 *
 * Where there is no such ring, because another engine is asked for or the kernel refuses, two cases
 * say what comes instead, here and in what they start, and the others have no subject.
 */
#include "scene.h"

#define KERNEL_MAGIC 0xa10a10a1u
#define OWN_MAGIC 0x7a10a10au

struct ring {
	unsigned id, nr, head, tail, magic, compat_features, incompat_features, header_length;
	struct io_event events[];
};

static struct ring *ring_of(io_context_t ctx)
{
	return (struct ring *)(void *)ctx;
}

/* Where the build has put the programs and objects of the tests. */
static const char *beside_test(const char *name)
{
	static char path[PATH_MAX];
	ssize_t length = readlink("/proc/self/exe", path, sizeof(path) / 2);
	char *slash;

	ck_assert_int_gt(length, 0);
	path[length] = '\0';
	slash = strrchr(path, '/');
	snprintf(slash + 1, sizeof(path) / 2, "%s", name);
	return path;
}

static const char *passthrough_engine(void)
{
	return on_reference() ? "reference" : "native-passthrough";
}

#define SKIP_WITHOUT_KERNEL_RING()                                                                 \
	do {                                                                                       \
		if (setup_error_of_foreign_reapers() != 0)                                         \
			SKIP("no ring of the kernel's here; what is said of that has its cases");  \
	} while (0)

/*
 * The program.
 */

struct program {
	pid_t pid;
	int output;
};

static void program_start(struct program *program, const char *const arguments[])
{
	int ends[2];

	make_pipe(ends, 0);
	program->pid = fork();
	ck_assert_int_ge(program->pid, 0);
	if (program->pid == 0) {
		dup2(ends[1], STDOUT_FILENO);
		execv(beside_test("programs/passthrough"), (char *const *)(uintptr_t)arguments);
		_exit(127);
	}
	close(ends[1]);
	program->output = ends[0];
}

static void program_line(struct program *program, char *line, size_t bytes)
{
	struct pollfd look = { .fd = program->output, .events = POLLIN };
	size_t length = 0;

	do {
		ck_assert_msg(poll(&look, 1, EVENT_LIMIT_SECONDS * 1000) == 1, "it says nothing");
		ck_assert_msg(read(program->output, line + length, 1) == 1, "it has ended");
		ck_assert_uint_lt(++length, bytes);
	} while (line[length - 1] != '\n');
	line[length - 1] = '\0';
}

static void program_says(struct program *program, const char *expected)
{
	char line[256];

	program_line(program, line, sizeof(line));
	ck_assert_str_eq(line, expected);
}

static void program_ends(struct program *program)
{
	int status;

	ck_assert_int_eq(waitpid(program->pid, &status, 0), program->pid);
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "its wait status is 0x%x",
		      (unsigned)status);
	close(program->output);
}

static void program_says_context(struct program *program)
{
	char expected[64];

	snprintf(expected, sizeof(expected), "context %08x %s", KERNEL_MAGIC, passthrough_engine());
	contract_engine_proved = true;
	program_says(program, expected);
}

static const char *const reapers[] = { "ring", "syscall" };

/* The program on the subject of a scene, one round; the request list ends with NULL. */
static void program_on_subject(struct program *program, struct scene *scene, const char *reaper,
			       const char *const requests[])
{
	const char *arguments[16] = { "passthrough", reaper, "1", holdfs_path(scene->fs, SUBJECT) };
	int count = 4;

	while (*requests)
		arguments[count++] = *requests++;
	program_start(program, arguments);
	program_says_context(program);
}

CASE(program_finds_its_own_events_in_the_kernels_ring)
{
	SKIP_WITHOUT_KERNEL_RING();
	for (int i = 0; i < 2; i++) {
		struct scene scene;
		struct program program;
		const char *const requests[] = { "w0", "r1", NULL };

		SCENE_OPEN(&scene);
		holdfs_hold(scene.fs, HOLDFS_READ);
		program_on_subject(&program, &scene, reapers[i], requests);
		program_says(&program, "submitted 2");
		program_says(&program, "event w0 4096 own");
		holdfs_release_all(scene.fs);
		program_says(&program, "event r1 4096 own");
		program_says(&program, "eventfd 2");
		program_says(&program, "destroyed 0");
		program_ends(&program);
		ck_assert_int_eq(holdfs_medium(scene.fs, SUBJECT)[0], 'a');
		scene_close(&scene);
	}
}

/* Two writes and a sync: how the program submits them, and what it says of that. */
struct script {
	const char *requests[7];
	const char *submitted[4];
	const char *synced;
};

static void hold_and_release(const char *reaper, const struct script *script)
{
	struct scene scene;
	struct program program;
	struct holdfs_operation sync;
	unsigned writes[2];

	SCENE_OPEN(&scene);
	holdfs_hold(scene.fs, HOLDFS_WRITE);
	program_on_subject(&program, &scene, reaper, script->requests);
	for (int i = 0; script->submitted[i]; i++)
		program_says(&program, script->submitted[i]);
	for (unsigned i = 0; i < 2; i++)
		writes[i] = wait_operation(scene.fs, HOLDFS_WRITE, SUBJECT, i);
	if (sync_is_silently_held(&scene, 0)) {
		holdfs_release(scene.fs, writes[1], 0);
		program_says(&program, "event w1 4096 own");
		sync_is_silently_held(&scene, 0);
		holdfs_release(scene.fs, writes[0], 0);
		program_says(&program, "event w0 4096 own");
		program_says(&program, script->synced);
		sync = holdfs_operation(scene.fs,
					wait_operation(scene.fs, HOLDFS_FSYNC, SUBJECT, 0));
		ck_assert_uint_gt(sync.arrived, last_answered(&scene, HOLDFS_WRITE));
		program_says(&program, "eventfd 3");
		program_says(&program, "destroyed 0");
	} else {
		holdfs_release_all(scene.fs);
		for (int i = 0; i < 5; i++) {
			char line[64];

			program_line(&program, line, sizeof(line));
		}
	}
	program_ends(&program);
	scene_close(&scene);
}

CASE(program_that_does_not_call_has_its_fsync_held_and_issued)
{
	static const struct script scripts[] = {
		{ { "w0", "w1", "f", NULL }, { "submitted 3", NULL }, "event f 0 own" },
		{ { "w0", "w1", "/", "d", NULL },
		  { "submitted 2", "submitted 1", NULL },
		  "event d 0 own" },
		{ { "w0", "/", "w1", "/", "f", NULL },
		  { "submitted 1", "submitted 1", "submitted 1", NULL },
		  "event f 0 own" },
	};

	SKIP_WITHOUT_KERNEL_RING();
	for (unsigned i = 0; i < 6; i++)
		hold_and_release(reapers[i & 1], &scripts[i / 2]);
}

CASE(fsync_of_a_program_does_not_wait_for_its_later_requests)
{
	static const char *const requests[] = { "w0", "f", "w1", NULL };

	SKIP_WITHOUT_KERNEL_RING();
	SKIP_ON_REFERENCE("holds no fsync");
	for (int i = 0; i < 2; i++) {
		struct scene scene;
		struct program program;
		unsigned first;

		SCENE_OPEN(&scene);
		holdfs_hold(scene.fs, HOLDFS_WRITE);
		program_on_subject(&program, &scene, reapers[i], requests);
		program_says(&program, "submitted 3");
		first = wait_operation(scene.fs, HOLDFS_WRITE, SUBJECT, 0);
		wait_operation(scene.fs, HOLDFS_WRITE, SUBJECT, 1);
		sync_is_silently_held(&scene, 0);
		holdfs_release(scene.fs, first, 0);
		program_says(&program, "event w0 4096 own");
		program_says(&program, "event f 0 own");
		holdfs_release_all(scene.fs);
		program_says(&program, "event w1 4096 own");
		program_says(&program, "eventfd 3");
		program_says(&program, "destroyed 0");
		program_ends(&program);
		scene_close(&scene);
	}
}

/* More events than the ring has slots, so that one that follows it must go round with it. */
CASE(program_can_synchronize_again_and_again)
{
	SKIP_WITHOUT_KERNEL_RING();
	for (int i = 0; i < 2; i++) {
		struct scene scene;
		struct program program;
		const char *arguments[] = { "passthrough", reapers[i], "200", NULL, "w0",
					    "f",	   "w1",       "/",   "r2", "d",
					    "/",	   "f",	       "w3",  NULL };

		SCENE_OPEN(&scene);
		arguments[3] = holdfs_path(scene.fs, SUBJECT);
		program_start(&program, arguments);
		program_says_context(&program);
		for (int round = 0; round < 200; round++) {
			char line[64];

			program_says(&program, "submitted 3");
			program_says(&program, "submitted 2");
			program_says(&program, "submitted 2");
			for (int event = 0; event < 7; event++) {
				program_line(&program, line, sizeof(line));
				ck_assert_msg(strncmp(line, "event ", 6) == 0 &&
						      strstr(line, " own"),
					      "%s", line);
			}
			program_says(&program, "eventfd 7");
		}
		program_says(&program, "destroyed 0");
		program_ends(&program);
		scene_close(&scene);
	}
}

CASE(io_destroy_wakes_a_thread_in_the_kernels_io_getevents)
{
	const char *const arguments[] = { "passthrough", "destroy", NULL };
	struct program program;

	SKIP_WITHOUT_KERNEL_RING();
	program_start(&program, arguments);
	program_says_context(&program);
	program_says(&program, "destroyed 0");
	program_says(&program, "waiter -22");
	program_ends(&program);
}

/* How many of its lines are the library's. */
static int read_complaints(int input, char *text, size_t bytes)
{
	size_t length = 0;
	ssize_t got;
	int count = 0;

	while ((got = read(input, text + length, bytes - 1 - length)) > 0)
		length += (size_t)got;
	text[length] = '\0';
	for (char *line = text; (line = strstr(line, "trueaio: ")); line++)
		count += line == text || line[-1] == '\n';
	return count;
}

static int expected_complaints(void)
{
	return engine_is_named() && setup_error_of_foreign_reapers() != 0;
}

CASE(program_that_cannot_be_served_is_refused_and_told_why)
{
	const char *const arguments[] = { "passthrough", "destroy", NULL };
	int complaints[2], count, status, own_stderr = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
	int error = setup_error_of_foreign_reapers();
	char expected[64], text[4096];
	struct program program;

	make_pipe(complaints, 0);
	dup2(complaints[1], STDERR_FILENO);
	program_start(&program, arguments);
	dup2(own_stderr, STDERR_FILENO);
	close(own_stderr);
	close(complaints[1]);
	count = read_complaints(complaints[0], text, sizeof(text));
	ck_assert_int_eq(waitpid(program.pid, &status, 0), program.pid);
	snprintf(expected, sizeof(expected), "passthrough: io_setup: %s", strerror(-error));
	ck_assert_msg((strstr(text, expected) != NULL) == (error != 0), "%s", text);
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == (error != 0), "%s", text);
	ck_assert_msg(count == expected_complaints(), "%s", text);
	close(program.output);
	close(complaints[0]);
	free_context(new_context(1));
}

/* The executable reaps by itself; the object that it loads does not, and is another matter. */
CASE(objects_of_a_program_count_each_for_itself)
{
	const char *arguments[] = { "passthrough", "object", NULL, NULL };
	char object[PATH_MAX], line[64];
	struct program program;

	SKIP_WITHOUT_KERNEL_RING();
	snprintf(object, sizeof(object), "%s", beside_test("objects/mediated.so"));
	arguments[2] = object;
	program_start(&program, arguments);
	program_says_context(&program);
	program_line(&program, line, sizeof(line));
	if (!on_reference()) {
		ck_assert(strncmp(line, "context a10a10a1", 16) != 0);
		ck_assert_str_eq(line + 17, expected_engine());
	}
	program_says_context(&program);
	program_ends(&program);
}

/*
 * The object.
 */

struct object {
	int (*setup)(int, io_context_t *);
	int (*submit)(io_context_t, long, struct iocb **);
	int (*destroy)(io_context_t);
};

static void find(void *handle, const char *name, void *function)
{
	void *symbol = dlsym(handle, name);

	ck_assert_msg(symbol != NULL, "%s", dlerror());
	memcpy(function, &symbol, sizeof(symbol));
}

/* Called by an object that takes its events by itself, in a program that does not. */
CASE(object_that_cannot_be_served_is_refused_each_time_and_told_once)
{
	int complaints[2], count, status, error = setup_error_of_foreign_reapers();
	char text[4096];
	pid_t child;

	if (UNDER_THREAD_SANITIZER)
		SKIP("ThreadSanitizer does not work in a forked child");
	make_pipe(complaints, 0);
	fflush(NULL);
	child = fork();
	ck_assert_int_ge(child, 0);
	if (child == 0) {
		void *handle = dlopen(beside_test("objects/passthrough.so"), RTLD_NOW | RTLD_LOCAL);
		int (*setup)(int, io_context_t *);
		void *symbol;

		CHILD_CHECK(handle && (symbol = dlsym(handle, "object_setup")));
		memcpy(&setup, &symbol, sizeof(setup));
		CHILD_CHECK(dup2(complaints[1], STDERR_FILENO) == STDERR_FILENO);
		for (int i = 0; i < 3; i++) {
			io_context_t ctx = NULL, own = NULL;

			CHILD_CHECK(setup(8, &ctx) == error && !ctx == (error != 0));
			CHILD_CHECK(io_setup(8, &own) == 0 && io_destroy(own) == 0);
			CHILD_CHECK(error != 0 || io_destroy(ctx) == 0);
		}
		_exit(0);
	}
	close(complaints[1]);
	count = read_complaints(complaints[0], text, sizeof(text));
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert_msg(status == 0, "the child's wait status is 0x%x: %s", (unsigned)status, text);
	ck_assert_msg(count == expected_complaints(), "%s", text);
	close(complaints[0]);
	free_context(new_context(1));
}

/* A context of the object's, and the file of a scene. */
struct passing_scene {
	struct scene scene;
	struct object object;
	void *handle;
	io_context_t ctx;
};

static bool passing_scene_open(struct passing_scene *passing)
{
	const char *(*engine)(io_context_t);

	if (!scene_open(&passing->scene))
		return false;
	passing->handle = dlopen(beside_test("objects/passthrough.so"), RTLD_NOW | RTLD_LOCAL);
	ck_assert_msg(passing->handle != NULL, "%s", dlerror());
	find(passing->handle, "object_setup", &passing->object.setup);
	find(passing->handle, "object_submit", &passing->object.submit);
	find(passing->handle, "object_destroy", &passing->object.destroy);
	passing->ctx = NULL;
	ck_assert_int_eq(passing->object.setup(32, &passing->ctx), 0);
	ck_assert_uint_eq(ring_of(passing->ctx)->magic, KERNEL_MAGIC);
	if (!on_reference()) {
		find(RTLD_DEFAULT, "trueaio_engine", &engine);
		ck_assert_str_eq(engine(passing->ctx), passthrough_engine());
	}
	return true;
}

#define PASSING_SCENE_OPEN(passing)                                                                \
	do {                                                                                       \
		SKIP_WITHOUT_KERNEL_RING();                                                        \
		if (!passing_scene_open(passing))                                                  \
			SKIP("FUSE cannot be used here");                                          \
	} while (0)

static void passing_scene_close(struct passing_scene *passing)
{
	holdfs_release_all(passing->scene.fs);
	if (passing->ctx)
		ck_assert_int_eq(passing->object.destroy(passing->ctx), 0);
	dlclose(passing->handle);
	scene_close(&passing->scene);
}

static void object_submits(struct passing_scene *passing, struct iocb *iocb)
{
	ck_assert_int_eq(passing->object.submit(passing->ctx, 1, &iocb), 1);
}

/* A write by the object, in flight until the disk lets it go. */
static void submit_held_write(struct passing_scene *passing, struct iocb *write)
{
	prepare_write(write, passing->scene.fd, 0);
	holdfs_hold(passing->scene.fs, HOLDFS_WRITE);
	object_submits(passing, write);
	wait_operation(passing->scene.fs, HOLDFS_WRITE, SUBJECT, 0);
}

/* The next event, as a program of its own kind takes it. */
static void expect_in_ring(io_context_t ctx, const struct iocb *iocb, long result)
{
	struct ring *ring = ring_of(ctx);
	struct io_event event;
	unsigned head = ring->head;

	WAIT_UNTIL(__atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE) != head);
	event = ring->events[head];
	__atomic_store_n(&ring->head, (head + 1) % ring->nr, __ATOMIC_RELEASE);
	ck_assert_ptr_eq(event.obj, iocb);
	ck_assert_ptr_eq(event.data, iocb->data);
	ck_assert_int_eq((long)event.res, result);
}

/*
 * Without kernel AIO it is laid out like the kernel's, and those who look into it find nothing.
 * Reads may never get there, a POLL does.
 */
CASE(mediated_contexts_have_a_live_ring_with_another_magic)
{
	io_context_t ctx = new_context(8);
	struct ring *ring = ring_of(ctx);
	unsigned tail = __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE);
	int ready = open_eventfd(1, EFD_CLOEXEC);
	struct iocb iocb;

	if (on_reference())
		ck_assert_uint_eq(ring->magic, KERNEL_MAGIC);
	else
		ck_assert_uint_ne(ring->magic, KERNEL_MAGIC);
	ck_assert_uint_eq(ring->header_length, 32);
	ck_assert_uint_eq(ring->compat_features, 1);
	ck_assert_uint_eq(ring->incompat_features, 0);
	ck_assert_uint_gt(ring->nr, 8);
	io_prep_poll(&iocb, ready, POLLIN);
	expect_ended(ctx, &iocb, HERE);
	if (on_threads()) {
		ck_assert_uint_eq(ring->magic, OWN_MAGIC);
		ck_assert_uint_eq(ring->head, tail);
		ck_assert_uint_eq(__atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE), tail);
	} else {
		WAIT_UNTIL(__atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE) != tail);
	}
	expect_event(ctx, &iocb, POLLIN, HERE);
	close(ready);
	free_context(ctx);
}

CASE(object_without_reaping_calls_gets_native_rings_beside_mediated_ones)
{
	struct passing_scene passing;
	struct iocb of_object, own;

	PASSING_SCENE_OPEN(&passing);
	prepare_write(&of_object, passing.scene.fd, 0);
	prepare_write(&own, passing.scene.fd, 1);
	object_submits(&passing, &of_object);
	expect_submitted(passing.scene.ctx, &own, HERE);
	expect_in_ring(passing.ctx, &of_object, BLOCK_BYTES);
	expect_event(passing.scene.ctx, &own, BLOCK_BYTES, HERE);
	passing_scene_close(&passing);
}

/* One that shares the context may still use the library's call. */
CASE(io_getevents_works_on_a_context_of_the_other_kind)
{
	struct passing_scene passing;
	struct iocb write, sync;
	struct reaper reaper;

	PASSING_SCENE_OPEN(&passing);
	submit_held_write(&passing, &write);
	prepare_sync(&sync, passing.scene.fd, IO_CMD_FSYNC);
	reaper_start(&reaper, passing.ctx, 2, 2, NULL);
	reaper_wait_blocked(&reaper);
	object_submits(&passing, &sync);
	sync_is_held(&passing.scene, 0);
	holdfs_release_all(passing.scene.fs);
	ck_assert_int_eq(reaper_join(&reaper), 2);
	ck_assert_ptr_eq(reaper.events[on_reference()].obj, &write);
	ck_assert_ptr_eq(reaper.events[!on_reference()].obj, &sync);
	passing_scene_close(&passing);
}

CASE(fsync_of_a_mediated_context_waits_for_a_passed_through_request)
{
	struct passing_scene passing;
	struct iocb write, sync;

	PASSING_SCENE_OPEN(&passing);
	submit_held_write(&passing, &write);
	prepare_sync(&sync, passing.scene.fd, IO_CMD_FSYNC);
	expect_submitted(passing.scene.ctx, &sync, HERE);
	if (sync_is_held(&passing.scene, 0)) {
		holdfs_release_all(passing.scene.fs);
		/* Nobody reaps the other one meanwhile. */
		expect_event(passing.scene.ctx, &sync, 0, HERE);
		expect_in_ring(passing.ctx, &write, BLOCK_BYTES);
	}
	passing_scene_close(&passing);
}

CASE(passed_through_fsync_waits_for_a_request_of_a_mediated_context)
{
	struct passing_scene passing;
	struct iocb write, sync;
	int event_fd = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	PASSING_SCENE_OPEN(&passing);
	prepare_write(&write, passing.scene.fd, 0);
	prepare_sync(&sync, passing.scene.fd, IO_CMD_FSYNC);
	io_set_eventfd(&sync, event_fd);
	holdfs_hold(passing.scene.fs, HOLDFS_WRITE);
	expect_submitted(passing.scene.ctx, &write, HERE);
	wait_operation(passing.scene.fs, HOLDFS_WRITE, SUBJECT, 0);
	object_submits(&passing, &sync);
	if (sync_is_held(&passing.scene, 0)) {
		ck_assert(!is_readable(event_fd));
		holdfs_release_all(passing.scene.fs);
		WAIT_UNTIL(is_readable(event_fd));
		ck_assert_uint_eq(take_count(event_fd), 1);
		expect_in_ring(passing.ctx, &sync, 0);
		expect_event(passing.scene.ctx, &write, BLOCK_BYTES, HERE);
	}
	close(event_fd);
	passing_scene_close(&passing);
}

/*
 * Without the threads that hold it the call itself waits.
 */

static _Atomic bool no_thread_starts;

/* The library's, too: a program's own function comes before that of the C library. */
int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *),
		   void *argument)
{
	static int (*create)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

	if (atomic_load(&no_thread_starts))
		return EAGAIN;
	if (!create)
		find(RTLD_NEXT, "pthread_create", &create);
	return create(thread, attributes, start, argument);
}

struct passing_submitter {
	struct worker worker;
	struct passing_scene *passing;
	struct iocb *iocb;
};

static void submit_without_threads(void *argument)
{
	struct passing_submitter *submitter = argument;

	while (!atomic_load(&no_thread_starts))
		contract_pause();
	object_submits(submitter->passing, submitter->iocb);
}

/* It looks again and again, and sleeps in between. */
static bool has_returned_or_sleeps(struct worker *worker)
{
	struct task_look look;

	return worker_has_ended(worker) ||
	       (task_look(atomic_load(&worker->tid), &look) && look.state == 'S' &&
		atol(look.system_call) == SYS_futex);
}

CASE(passed_through_fsync_waits_in_io_submit_where_no_thread_starts)
{
	struct passing_scene passing;
	struct passing_submitter submitter = { .passing = &passing };
	struct iocb write, sync;
	unsigned syncs_before;

	if (UNDER_THREAD_SANITIZER)
		SKIP("earlier cases in this process have started the threads");
	PASSING_SCENE_OPEN(&passing);
	submit_held_write(&passing, &write);
	prepare_sync(&sync, passing.scene.fd, IO_CMD_FSYNC);
	syncs_before = syncs(&passing.scene);
	submitter.iocb = &sync;
	worker_start(&submitter.worker, submit_without_threads, &submitter);
	atomic_store(&no_thread_starts, true);
	WAIT_UNTIL(has_returned_or_sleeps(&submitter.worker));
	if (!on_reference()) {
		ck_assert(!worker_has_ended(&submitter.worker));
		ck_assert_uint_eq(syncs(&passing.scene), syncs_before);
	}
	holdfs_release_all(passing.scene.fs);
	worker_join(&submitter.worker);
	atomic_store(&no_thread_starts, false);
	expect_in_ring(passing.ctx, &write, BLOCK_BYTES);
	expect_in_ring(passing.ctx, &sync, 0);
	passing_scene_close(&passing);
}

/*
 * The same iocb for a request before the fsync and one after it, whose events nothing tells apart.
 * The later request's may come first: it must not be taken for the earlier one's.
 */
CASE(iocb_used_again_in_flight_does_not_let_the_fsync_go_early)
{
	struct passing_scene passing;
	struct scene *scene = &passing.scene;
	struct iocb write, sync;
	unsigned index[2];

	PASSING_SCENE_OPEN(&passing);
	holdfs_hold(scene->fs, HOLDFS_WRITE);
	prepare_write(&write, scene->fd, 0);
	object_submits(&passing, &write);
	index[0] = wait_operation(scene->fs, HOLDFS_WRITE, SUBJECT, 0);
	prepare_sync(&sync, scene->fd, IO_CMD_FSYNC);
	object_submits(&passing, &sync);
	if (sync_is_held(scene, 0)) {
		prepare_write(&write, scene->fd, 1);
		object_submits(&passing, &write);
		index[1] = wait_operation(scene->fs, HOLDFS_WRITE, SUBJECT, 1);
		holdfs_release(scene->fs, index[1], 0);
		expect_in_ring(passing.ctx, &write, BLOCK_BYTES);
		sync_is_held(scene, 0);
		holdfs_release(scene->fs, index[0], 0);
		expect_in_ring(passing.ctx, &write, BLOCK_BYTES);
		expect_in_ring(passing.ctx, &sync, 0);
		ck_assert_uint_eq(syncs(scene), 1);
	}
	passing_scene_close(&passing);
}

CASE(io_destroy_waits_for_a_held_fsync_of_a_passed_through_context)
{
	struct passing_scene passing;
	struct iocb write, sync;
	struct destroyer destroyer;
	int event_fd = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	SKIP_ON_REFERENCE("holds no fsync");
	PASSING_SCENE_OPEN(&passing);
	prepare_write(&write, passing.scene.fd, 0);
	prepare_sync(&sync, passing.scene.fd, IO_CMD_FSYNC);
	io_set_eventfd(&sync, event_fd);
	holdfs_hold(passing.scene.fs, HOLDFS_WRITE);
	object_submits(&passing, &write);
	object_submits(&passing, &sync);
	wait_operation(passing.scene.fs, HOLDFS_WRITE, SUBJECT, 0);
	destroyer_start(&destroyer, passing.ctx);
	passing.ctx = NULL;
	worker_wait_blocked(&destroyer.worker);
	ck_assert(sync_is_held(&passing.scene, 0));
	holdfs_release_all(passing.scene.fs);
	ck_assert_int_eq(destroyer_join(&destroyer), 0);
	ck_assert_uint_eq(syncs(&passing.scene), 1);
	ck_assert_uint_eq(take_count(event_fd), 1);
	close(event_fd);
	passing_scene_close(&passing);
}

CASE(child_has_no_access_to_a_passed_through_context)
{
	struct passing_scene passing;
	pid_t child;
	int status;

	if (UNDER_THREAD_SANITIZER)
		SKIP("ThreadSanitizer does not work in a forked child");
	SKIP_ON_REFERENCE("asks the kernel, as other cases do");
	PASSING_SCENE_OPEN(&passing);
	child = fork();
	if (child == 0) {
		struct iocb iocb, *batch[] = { &iocb };

		prepare_write(&iocb, passing.scene.fd, 0);
		CHILD_CHECK(passing.object.submit(passing.ctx, 1, batch) == -EINVAL);
		CHILD_CHECK(passing.object.destroy(passing.ctx) == -EINVAL);
		_exit(0);
	}
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert_int_eq(status, 0);
	passing_scene_close(&passing);
}

CASE(held_fsync_of_a_passed_through_context_is_finished_at_exit)
{
	struct passing_scene passing;
	pid_t child;
	int status;

	if (UNDER_THREAD_SANITIZER)
		SKIP("ThreadSanitizer does not work in a forked child");
	SKIP_ON_REFERENCE("holds no fsync");
	PASSING_SCENE_OPEN(&passing);
	holdfs_hold(passing.scene.fs, HOLDFS_WRITE);
	fflush(NULL);
	child = fork();
	if (child == 0) {
		struct iocb iocbs[2], *batch[] = { &iocbs[0], &iocbs[1] };
		io_context_t ctx = NULL;

		prepare_write(&iocbs[0], passing.scene.fd, 0);
		prepare_sync(&iocbs[1], passing.scene.fd, IO_CMD_FSYNC);
		CHILD_CHECK(passing.object.setup(4, &ctx) == 0);
		CHILD_CHECK(passing.object.submit(ctx, 2, batch) == 2);
		exit(0);
	}
	wait_operation(passing.scene.fs, HOLDFS_WRITE, SUBJECT, 0);
	ck_assert(sync_is_held(&passing.scene, 0));
	ck_assert_int_eq(waitpid(child, &status, WNOHANG), 0);
	holdfs_release_all(passing.scene.fs);
	WAIT_UNTIL(waitpid(child, &status, WNOHANG) == child);
	ck_assert_int_eq(status, 0);
	ck_assert_uint_eq(syncs(&passing.scene), 1);
	passing_scene_close(&passing);
}
