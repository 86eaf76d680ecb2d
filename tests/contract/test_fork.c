/* SPDX-License-Identifier: MIT */
/*
 * Goal: a child process inherits nothing of its parent's contexts, and costs the parent nothing.
 * In the child every call on them is EINVAL, contexts of its own work, and no descriptor of the
 * library stays open.  In the parent everything goes on as if nothing had happened.
 *
 * Method: children are made by fork, by _Fork, which runs no handlers, and by the system call, of
 * which even the C library knows nothing, while the parent has requests of every kind in flight, a
 * thread asleep, and in the end traffic from several threads.  What a child finds it tells by its
 * exit status: it may be the copy of one thread out of many, so it keeps away from everything that
 * takes locks.
 */
#include "scene.h"

#include <dirent.h>
#include <sched.h>

#define SKIP_UNDER_THREAD_SANITIZER                                                                \
	do {                                                                                       \
		if (UNDER_THREAD_SANITIZER)                                                        \
			SKIP("ThreadSanitizer does not work in a forked child");                   \
	} while (0)

enum how { BY_FORK, BY_BARE_FORK, BY_CLONE, HOWS };

static const char *const how_names[HOWS] = { "fork", "_Fork", "clone" };

static pid_t make_child(enum how how)
{
	pid_t child;

	fflush(NULL);
	if (how == BY_FORK)
		child = fork();
	else if (how == BY_BARE_FORK)
		child = _Fork();
	else
		child = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, 0);
	/* Check's own lock may be held in the child for ever, so it is not asked there. */
	if (child < 0)
		ck_abort_msg("%s: %s", how_names[how], strerror(errno));
	return child;
}

static void expect_child_ends_well(pid_t child, const char *what)
{
	long long end_ns = monotonic_ns() + EVENT_LIMIT_SECONDS * 1000000000LL;
	int status = 0;
	pid_t ended;

	while ((ended = waitpid(child, &status, WNOHANG)) == 0) {
		if (monotonic_ns() > end_ns) {
			kill(child, SIGKILL);
			waitpid(child, &status, 0);
			ck_abort_msg("%s: the child hangs", what);
		}
		contract_pause();
	}
	ck_assert_int_eq(ended, child);
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0,
		      "%s: the child's wait status is 0x%x", what, (unsigned)status);
}

/*
 * The parent's contexts in the child.
 */

/* Functions that only programs of long ago are linked with. */
struct old_calls {
	int (*getevents)(io_context_t, long, struct io_event *, const struct timespec *);
	int (*cancel)(io_context_t, struct iocb *);
	int (*queue_wait)(io_context_t, const struct timespec *);
};

static void find_old(const char *name, void *function)
{
	void *symbol = dlvsym(RTLD_DEFAULT, name, "LIBAIO_0.1");

	ck_assert_msg(symbol != NULL, "%s", dlerror());
	memcpy(function, &symbol, sizeof(symbol));
}

static void expect_every_call_is_refused(const struct old_calls *old, io_context_t ctx,
					 struct iocb *in_flight, int fd)
{
	struct timespec zero = { 0 }, second = { .tv_sec = 1 };
	struct io_event events[4];
	struct iocb iocb, *batch[] = { &iocb };
	sigset_t mask;

	prepare_write(&iocb, fd, 0);
	sigemptyset(&mask);
	CHILD_CHECK(io_submit(ctx, 0, NULL) == -EINVAL);
	CHILD_CHECK(io_submit(ctx, 1, batch) == -EINVAL);
	prepare_sync(&iocb, fd, IO_CMD_FSYNC);
	CHILD_CHECK(io_submit(ctx, 1, batch) == -EINVAL);
	CHILD_CHECK(io_getevents(ctx, 0, 4, events, &zero) == -EINVAL);
	CHILD_CHECK(io_getevents(ctx, 0, 4, events, NULL) == -EINVAL);
	CHILD_CHECK(io_getevents(ctx, 1, 4, events, &second) == -EINVAL);
	CHILD_CHECK(io_pgetevents(ctx, 1, 4, events, &zero, &mask) == -EINVAL);
	CHILD_CHECK(io_pgetevents(ctx, 1, 4, events, NULL, NULL) == -EINVAL);
	CHILD_CHECK(io_cancel(ctx, in_flight, events) == -EINVAL);
	CHILD_CHECK(io_queue_run(ctx) == -EINVAL);
	CHILD_CHECK(io_queue_wait(ctx, NULL) == -EINVAL);
	CHILD_CHECK(old->getevents(ctx, 4, events, &zero) == -EINVAL);
	CHILD_CHECK(old->cancel(ctx, in_flight) == -EINVAL);
	CHILD_CHECK(old->queue_wait(ctx, NULL) == -EINVAL);
	CHILD_CHECK(io_queue_release(ctx) == -EINVAL);
	CHILD_CHECK(io_destroy(ctx) == -EINVAL);
}

static void expect_no_engine(io_context_t ctx)
{
	void *symbol = dlsym(RTLD_DEFAULT, "trueaio_engine");
	const char *(*engine)(io_context_t);

	if (!symbol)
		return;
	memcpy(&engine, &symbol, sizeof(engine));
	CHILD_CHECK(engine(ctx) == NULL);
}

/* A parent with something of everything in flight, and a thread that sleeps for all of it. */
struct busy {
	struct scene scene;
	int buffered;
	int ends[2];
	struct iocb iocbs[6];
	int count;
	struct reaper reaper;
	struct old_calls old;
};

static void busy_add(struct busy *busy)
{
	expect_submitted(busy->scene.ctx, &busy->iocbs[busy->count++], HERE);
}

static bool busy_open(struct busy *busy)
{
	memset(busy, 0, sizeof(*busy));
	find_old("io_getevents", &busy->old.getevents);
	find_old("io_cancel", &busy->old.cancel);
	find_old("io_queue_wait", &busy->old.queue_wait);
	if (!scene_open(&busy->scene))
		return false;
	busy->buffered = holdfs_open(busy->scene.fs, SUBJECT, O_RDONLY);
	make_pipe(busy->ends, 0);
	holdfs_hold(busy->scene.fs, HOLDFS_READ | HOLDFS_WRITE);
	prepare_write(&busy->iocbs[busy->count], busy->scene.fd, 0);
	busy_add(busy);
	prepare_sync(&busy->iocbs[busy->count], busy->scene.fd, IO_CMD_FSYNC);
	busy_add(busy);
	io_prep_poll(&busy->iocbs[busy->count], busy->ends[0], POLLIN);
	busy_add(busy);
	if (!on_reference()) {
		prepare_read(&busy->iocbs[busy->count], busy->buffered, 1);
		busy_add(busy);
		io_prep_pread(&busy->iocbs[busy->count], busy->ends[0], read_blocks[2], 1, 0);
		busy_add(busy);
	}
	wait_operation(busy->scene.fs, HOLDFS_WRITE, SUBJECT, 0);
	reaper_start(&busy->reaper, busy->scene.ctx, busy->count, 64, NULL);
	reaper_wait_blocked(&busy->reaper);
	return true;
}

/* Every request of the parent ends, each with one event. */
static void busy_close(struct busy *busy)
{
	bool seen[6] = { false };

	ck_assert(!worker_has_ended(&busy->reaper.worker));
	holdfs_release_all(busy->scene.fs);
	ck_assert_int_eq(write(busy->ends[1], "x", 1), 1);
	ck_assert_int_eq(reaper_join(&busy->reaper), busy->count);
	for (int i = 0; i < busy->count; i++) {
		long number = busy->reaper.events[i].obj - busy->iocbs;

		ck_assert(number >= 0 && number < busy->count && !seen[number]);
		ck_assert_int_ge((long)busy->reaper.events[i].res, 0);
		seen[number] = true;
	}
	expect_no_event(busy->scene.ctx, HERE);
	expect_works(busy->scene.ctx, HERE);
	ck_assert_uint_eq(syncs(&busy->scene), 1);
	close(busy->buffered);
	close_pair(busy->ends);
	scene_close(&busy->scene);
}

#define BUSY_OPEN(busy)                                                                            \
	do {                                                                                       \
		if (!busy_open(busy))                                                              \
			SKIP("FUSE cannot be used here");                                          \
	} while (0)

/* Once before the child has contexts of its own, and once when it has. */
static void look_at_parents_context(struct busy *busy)
{
	io_context_t own = NULL;

	expect_every_call_is_refused(&busy->old, busy->scene.ctx, &busy->iocbs[0], busy->scene.fd);
	expect_no_engine(busy->scene.ctx);
	/* The parent's ring is not inherited, and the child's own must not get its address. */
	mmap((void *)busy->scene.ctx, 1, PROT_NONE,
	     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	CHILD_CHECK(io_setup(4, &own) == 0);
	expect_every_call_is_refused(&busy->old, busy->scene.ctx, &busy->iocbs[0], busy->scene.fd);
	CHILD_CHECK(io_submit(own, 0, NULL) == 0);
	CHILD_CHECK(io_destroy(own) == 0);
	CHILD_CHECK(io_submit(own, 0, NULL) == -EINVAL);
}

CASE(every_call_of_a_child_on_its_parents_context_is_refused)
{
	static struct busy busy;

	SKIP_UNDER_THREAD_SANITIZER;
	NEEDS_WIPE_ON_FORK();
	/* Its io_getevents would find the inherited ring empty, and say 0. */
	SKIP_ON_REFERENCE("looks at the ring before it asks the kernel");
	BUSY_OPEN(&busy);
	for (int how = 0; how < HOWS; how++) {
		pid_t child = make_child((enum how)how);

		if (child == 0) {
			look_at_parents_context(&busy);
			_exit(0);
		}
		expect_child_ends_well(child, how_names[how]);
	}
	busy_close(&busy);
}

/* Events that the parent has not taken yet are nothing to the child, and are not lost. */
CASE(events_of_the_parent_are_not_the_childs)
{
	io_context_t ctx = new_context(4);
	int zero = open_device("/dev/zero", O_RDONLY);
	struct old_calls old;
	struct iocb iocb;
	char byte;

	if (!forks_wipe()) {
		close(zero);
		free_context(ctx);
		SKIP("MADV_WIPEONFORK wipes nothing here");
	}
	if (UNDER_THREAD_SANITIZER) {
		close(zero);
		free_context(ctx);
		SKIP("ThreadSanitizer does not work in a forked child");
	}
	find_old("io_getevents", &old.getevents);
	find_old("io_cancel", &old.cancel);
	find_old("io_queue_wait", &old.queue_wait);
	for (int how = 0; how < HOWS; how++) {
		pid_t child;

		io_prep_pread(&iocb, zero, &byte, 1, 0);
		expect_submitted(ctx, &iocb, HERE);
		child = make_child((enum how)how);
		if (child == 0) {
			expect_every_call_is_refused(&old, ctx, &iocb, zero);
			_exit(0);
		}
		expect_child_ends_well(child, how_names[how]);
		expect_event(ctx, &iocb, 1, how_names[how]);
	}
	close(zero);
	free_context(ctx);
}

/*
 * The child's own contexts.
 */

/* In a child: the next event is this request's. */
static void child_takes(io_context_t ctx, const struct iocb *iocb, long result)
{
	struct timespec limit = { .tv_sec = EVENT_LIMIT_SECONDS };
	struct io_event event;

	CHILD_CHECK(io_getevents(ctx, 1, 1, &event, &limit) == 1);
	CHILD_CHECK(event.obj == iocb);
	CHILD_CHECK((long)event.res == result);
}

static void child_reads_pipe(io_context_t ctx)
{
	struct iocb iocb, *batch[] = { &iocb };
	char byte = 0;
	int ends[2];

	CHILD_CHECK(pipe2(ends, O_CLOEXEC) == 0);
	io_prep_pread(&iocb, ends[0], &byte, 1, 0);
	if (on_reference())
		CHILD_CHECK(write(ends[1], "p", 1) == 1);
	CHILD_CHECK(io_submit(ctx, 1, batch) == 1);
	if (!on_reference())
		CHILD_CHECK(write(ends[1], "p", 1) == 1);
	child_takes(ctx, &iocb, 1);
	CHILD_CHECK(byte == 'p');
	close_pair(ends);
}

/* The disk is the child's own; its parent waits for the child meanwhile. */
static void child_holds_fsync(io_context_t ctx, struct holdfs *fs)
{
	struct timespec zero = { 0 };
	struct iocb iocbs[2], *batch[] = { &iocbs[0], &iocbs[1] };
	struct io_event event;
	unsigned writes = holdfs_count(fs, HOLDFS_WRITE);
	int fd = holdfs_open(fs, 0, O_RDWR | O_DIRECT);

	prepare_write(&iocbs[0], fd, 0);
	prepare_sync(&iocbs[1], fd, IO_CMD_FSYNC);
	holdfs_hold(fs, HOLDFS_WRITE);
	CHILD_CHECK(io_submit(ctx, 2, batch) == 2);
	holdfs_wait_arrived(fs, HOLDFS_WRITE, writes);
	if (!on_reference())
		CHILD_CHECK(io_getevents(ctx, 0, 1, &event, &zero) == 0);
	holdfs_release_all(fs);
	child_takes(ctx, &iocbs[on_reference()], on_reference() ? 0 : BLOCK_BYTES);
	child_takes(ctx, &iocbs[!on_reference()], on_reference() ? BLOCK_BYTES : 0);
	close(fd);
}

static void use_own_contexts(struct holdfs *fs)
{
	io_context_t contexts[2] = { NULL };

	for (int i = 0; i < 2; i++) {
		CHILD_CHECK(io_setup(8, &contexts[i]) == 0);
		child_reads_pipe(contexts[i]);
		child_holds_fsync(contexts[i], fs);
	}
	child_reads_pipe(contexts[0]);
	for (int i = 0; i < 2; i++)
		CHILD_CHECK(io_destroy(contexts[i]) == 0);
}

CASE(children_use_contexts_of_their_own)
{
	static struct busy busy;
	struct holdfs *fs;

	SKIP_UNDER_THREAD_SANITIZER;
	NEEDS_WIPE_ON_FORK();
	BUSY_OPEN(&busy);
	fs = holdfs_mount(1, (size_t)16 * BLOCK_BYTES);
	for (int how = 0; how < HOWS; how++) {
		pid_t child = make_child((enum how)how);

		if (child == 0) {
			use_own_contexts(fs);
			_exit(0);
		}
		expect_child_ends_well(child, how_names[how]);
	}
	holdfs_unmount(fs);
	busy_close(&busy);
}

CASE(grandchildren_inherit_nothing_either)
{
	static struct busy busy;
	pid_t child;

	SKIP_UNDER_THREAD_SANITIZER;
	NEEDS_LOCKS_THAT_FORK();
	SKIP_ON_REFERENCE("looks at the ring before it asks the kernel");
	BUSY_OPEN(&busy);
	child = make_child(BY_FORK);
	if (child == 0) {
		io_context_t own = NULL;
		int status;
		pid_t grandchild;

		CHILD_CHECK(io_setup(4, &own) == 0);
		child_reads_pipe(own);
		grandchild = fork();
		if (grandchild == 0) {
			expect_every_call_is_refused(&busy.old, own, &busy.iocbs[0], busy.scene.fd);
			look_at_parents_context(&busy);
			_exit(0);
		}
		CHILD_CHECK(waitpid(grandchild, &status, 0) == grandchild && status == 0);
		child_reads_pipe(own);
		CHILD_CHECK(io_destroy(own) == 0);
		_exit(0);
	}
	expect_child_ends_well(child, HERE);
	busy_close(&busy);
}

/* It has the parent's memory itself, so what it submits is the parent's. */
CASE(vfork_child_shares_the_contexts)
{
	io_context_t ctx = new_context(4);
	int zero = open_device("/dev/zero", O_RDONLY);
	static struct iocb iocb, *batch[] = { &iocb };
	static volatile char byte;
	int status;
	pid_t child;

	if (UNDER_THREAD_SANITIZER) {
		close(zero);
		free_context(ctx);
		SKIP("ThreadSanitizer makes a fork of a vfork");
	}
	child = vfork();
	if (child == 0) {
		byte = 1;
		_exit(0);
	}
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	if (byte == 0) {
		close(zero);
		free_context(ctx);
		SKIP("a vfork is a fork here");
	}
	io_prep_pread(&iocb, zero, (void *)&byte, 1, 0);
	expect_result(ctx, &iocb, 1, "before");
	child = vfork();
	if (child == 0)
		_exit(io_submit(ctx, 1, batch) == 1 ? 0 : 1);
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert_int_eq(status, 0);
	expect_event(ctx, &iocb, 1, HERE);
	expect_works(ctx, HERE);
	close(zero);
	free_context(ctx);
}

/*
 * Children under traffic.
 */

#define CHILDREN 200
#define TRAFFIC_THREADS 2
#define TRAFFIC_READS 8

/* A thread whose requests go all ways: pipe, page cache or disk, and an fsync behind them. */
struct traffic {
	struct worker worker;
	io_context_t ctx;
	int file;
	int ends[2];
	struct iocb iocbs[TRAFFIC_READS + 2];
	char blocks[TRAFFIC_READS][BLOCK_BYTES];
	char byte;
};

static _Atomic bool traffic_ends;

static void traffic_round(struct traffic *traffic)
{
	enum { COUNT = TRAFFIC_READS + 2 };
	struct iocb *batch[COUNT];
	struct timespec limit = { .tv_sec = EVENT_LIMIT_SECONDS };
	struct io_event events[COUNT];
	int count = 0;

	posix_fadvise(traffic->file, 0, 0, POSIX_FADV_DONTNEED);
	for (int i = 0; i < TRAFFIC_READS; i++) {
		io_prep_pread(&traffic->iocbs[i], traffic->file, traffic->blocks[i], BLOCK_BYTES,
			      (long long)i * BLOCK_BYTES);
		batch[i] = &traffic->iocbs[i];
	}
	io_prep_fsync(&traffic->iocbs[TRAFFIC_READS], traffic->file);
	batch[TRAFFIC_READS] = &traffic->iocbs[TRAFFIC_READS];
	io_prep_pread(&traffic->iocbs[TRAFFIC_READS + 1], traffic->ends[0], &traffic->byte, 1, 0);
	batch[TRAFFIC_READS + 1] = &traffic->iocbs[TRAFFIC_READS + 1];
	if (on_reference())
		ck_assert_int_eq(write(traffic->ends[1], "t", 1), 1);
	ck_assert_int_eq(io_submit(traffic->ctx, COUNT, batch), COUNT);
	if (!on_reference())
		ck_assert_int_eq(write(traffic->ends[1], "t", 1), 1);
	while (count < COUNT) {
		int got = io_getevents(traffic->ctx, COUNT - count, COUNT - count, events + count,
				       &limit);

		ck_assert_int_gt(got, 0);
		count += got;
	}
	for (int i = 0; i < COUNT; i++) {
		long number = events[i].obj - traffic->iocbs;

		ck_assert_int_eq((long)events[i].res, number < TRAFFIC_READS	? BLOCK_BYTES
						      : number == TRAFFIC_READS ? 0
										: 1);
	}
	for (int i = 0; i < TRAFFIC_READS; i++)
		expect_pattern(traffic->blocks[i], (off_t)i * BLOCK_BYTES, BLOCK_BYTES, HERE);
}

static void traffic_run(void *argument)
{
	while (!atomic_load(&traffic_ends))
		traffic_round(argument);
}

static void traffic_start(struct traffic *traffic)
{
	traffic->file = scratch_file((size_t)TRAFFIC_READS * BLOCK_BYTES);
	make_pipe(traffic->ends, 0);
	traffic->ctx = new_context(64);
	worker_start(&traffic->worker, traffic_run, traffic);
}

static void traffic_stop(struct traffic *traffic)
{
	worker_join(&traffic->worker);
	traffic_round(traffic);
	expect_no_event(traffic->ctx, HERE);
	free_context(traffic->ctx);
	close_pair(traffic->ends);
	close(traffic->file);
}

CASE(two_hundred_children_under_traffic)
{
	static struct traffic traffic[TRAFFIC_THREADS];

	SKIP_UNDER_THREAD_SANITIZER;
	NEEDS_LOCKS_THAT_FORK();
	atomic_store(&traffic_ends, false);
	for (int i = 0; i < TRAFFIC_THREADS; i++)
		traffic_start(&traffic[i]);
	for (int i = 0; i < CHILDREN; i++) {
		enum how how = (enum how)(i % HOWS);
		pid_t child = make_child(how);

		if (child == 0) {
			io_context_t own = NULL;

			CHILD_CHECK(io_submit(traffic[0].ctx, 0, NULL) == -EINVAL);
			CHILD_CHECK(io_setup(4, &own) == 0);
			child_reads_pipe(own);
			CHILD_CHECK(io_destroy(own) == 0);
			_exit(0);
		}
		expect_child_ends_well(child, how_names[how]);
	}
	atomic_store(&traffic_ends, true);
	for (int i = 0; i < TRAFFIC_THREADS; i++)
		traffic_stop(&traffic[i]);
}

/*
 * Descriptors.
 */

static int entries_of(const char *directory)
{
	DIR *stream = opendir(directory);
	int count = 0;

	if (!stream)
		return -1;
	while (readdir(stream))
		count++;
	closedir(stream);
	return count;
}

static int count_descriptors(void)
{
	return entries_of("/proc/self/fd");
}

CASE(a_childs_first_call_closes_what_it_has_inherited)
{
	static struct busy busy;
	struct scene *scene = &busy.scene;
	int before = count_descriptors(), own;
	pid_t child;

	SKIP_UNDER_THREAD_SANITIZER;
	NEEDS_WIPE_ON_FORK();
	BUSY_OPEN(&busy);
	/* The file system's, the scene's two files, the other descriptor and the pipe. */
	own = before + 1 + 2 + 1 + 2;
	child = make_child(BY_FORK);
	if (child == 0) {
		CHILD_CHECK(io_submit(scene->ctx, 0, NULL) == -EINVAL);
		CHILD_CHECK(count_descriptors() == own);
		_exit(0);
	}
	expect_child_ends_well(child, HERE);
	busy_close(&busy);
}

/* What a program sees that is executed now: the numbers of its descriptors, one a line. */
static void list_after_exec(char *list, size_t bytes)
{
	int ends[2];
	ssize_t got;
	size_t length = 0;
	pid_t child;

	make_pipe(ends, 0);
	child = fork();
	if (child == 0) {
		dup2(ends[1], STDOUT_FILENO);
		execlp("ls", "ls", "/proc/self/fd", NULL);
		_exit(127);
	}
	close(ends[1]);
	while ((got = read(ends[0], list + length, bytes - 1 - length)) > 0)
		length += (size_t)got;
	list[length] = '\0';
	close(ends[0]);
	expect_child_ends_well(child, "ls");
	ck_assert_uint_gt(length, 0);
}

CASE(an_executed_program_inherits_no_descriptor)
{
	static struct busy busy;
	char before[1024], after[1024];

	SKIP_UNDER_THREAD_SANITIZER;
	list_after_exec(before, sizeof(before));
	BUSY_OPEN(&busy);
	list_after_exec(after, sizeof(after));
	ck_assert_str_eq(before, after);
	busy_close(&busy);
}

/*
 * Growth.
 */

struct holdings {
	int threads;
	int descriptors;
	int mappings;
};

static struct holdings look_at_holdings(void)
{
	struct holdings now = { entries_of("/proc/self/task"), count_descriptors(), 0 };
	FILE *maps = fopen("/proc/self/maps", "re");
	int character;

	ck_assert_ptr_nonnull(maps);
	while ((character = getc(maps)) != EOF)
		now.mappings += character == '\n';
	fclose(maps);
	return now;
}

/*
 * Some of what io_destroy gives back comes a moment later: until it has not changed for ten looks.
 */
static struct holdings settled_holdings(void)
{
	long long end_ns = monotonic_ns() + EVENT_LIMIT_SECONDS * 1000000000LL;
	struct holdings last = look_at_holdings();

	for (int same = 0; same < 10 && monotonic_ns() < end_ns;) {
		struct holdings now;

		for (int i = 0; i < 100; i++)
			contract_pause();
		now = look_at_holdings();
		same = memcmp(&now, &last, sizeof(now)) == 0 ? same + 1 : 0;
		last = now;
	}
	return last;
}

static void use_once(struct scene *scene, int buffered)
{
	io_context_t ctx = new_context(16);
	int event_fd = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), ends[2];
	struct iocb iocbs[4];
	char byte;

	make_pipe(ends, 0);
	if (on_reference())
		ck_assert_int_eq(write(ends[1], "g", 1), 1);
	prepare_write(&iocbs[0], scene->fd, 0);
	prepare_read(&iocbs[1], buffered, 1);
	prepare_sync(&iocbs[2], scene->fd, IO_CMD_FSYNC);
	io_set_eventfd(&iocbs[2], event_fd);
	io_prep_pread(&iocbs[3], ends[0], &byte, 1, 0);
	io_set_eventfd(&iocbs[3], event_fd);
	expect_all_submitted(ctx, iocbs, 4, HERE);
	if (!on_reference())
		ck_assert_int_eq(write(ends[1], "g", 1), 1);
	for (int i = 0; i < 4; i++)
		ck_assert_int_ge((long)take_event(ctx, HERE).res, 0);
	expect_signals(event_fd, 2, HERE);
	free_context(ctx);
	close_pair(ends);
	close(event_fd);
}

CASE(nothing_grows_with_the_number_of_contexts)
{
	/*
	 * A few of each may be kept for later use: as many threads as there may be retirers, and of
	 * each the stack with its guard, which the C library keeps; the library's own descriptors,
	 * which are made when first needed.  What grows with each context, or with each fourth one,
	 * is more.
	 */
	enum { WARM_UP = 50, ROUNDS = 200, SPARE_THREADS = 16, SPARE_MAPPINGS = 40 };
	enum { SPARE_DESCRIPTORS = 3 };
	struct scene scene;
	struct holdings first, last;
	int buffered;

	if (UNDER_THREAD_SANITIZER)
		SKIP("ThreadSanitizer's own mappings grow");
	SCENE_OPEN(&scene);
	buffered = holdfs_open(scene.fs, SUBJECT, O_RDONLY);
	for (int i = 0; i < WARM_UP; i++)
		use_once(&scene, buffered);
	first = settled_holdings();
	for (int i = 0; i < ROUNDS; i++)
		use_once(&scene, buffered);
	last = settled_holdings();
	ck_assert_msg(last.threads <= first.threads + SPARE_THREADS, "threads: %d, then %d",
		      first.threads, last.threads);
	ck_assert_msg(last.descriptors <= first.descriptors + SPARE_DESCRIPTORS,
		      "descriptors: %d, then %d", first.descriptors, last.descriptors);
	ck_assert_msg(last.mappings <= first.mappings + SPARE_MAPPINGS, "mappings: %d, then %d",
		      first.mappings, last.mappings);
	close(buffered);
	scene_close(&scene);
}
