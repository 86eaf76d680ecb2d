/* SPDX-License-Identifier: MIT */
/*
 * Goal: the threads of the library do no harm to the program.  A program with one thread keeps one
 * as long as nothing needs another; in a program with threads none is made inside the calls that
 * may be made from a signal handler.  They run as the process began, not as their maker does; they
 * take no signals, have a name, and change their identity with the process.  Where no thread can
 * be started nothing is lost.
 *
 * Method: programs that are started fresh tell how many threads they have (programs/one_thread)
 * and call from a handler while malloc is locked (programs/locked_malloc).  Here, what /proc says
 * of threads that the test has not made is compared.  A seccomp filter refuses new threads, to one
 * thread or to all.
 */
#include "children.h"
#include "scene.h"

#include <dirent.h>
#include <grp.h>
#include <sched.h>
#include <semaphore.h>

#define SKIP_UNDER_THREAD_SANITIZER()                                                              \
	do {                                                                                       \
		if (UNDER_THREAD_SANITIZER)                                                        \
			SKIP("ThreadSanitizer has a thread of its own");                           \
	} while (0)

#define EXIT_CODE 7
#define FILE_BLOCKS 256
#define NOBODY_ID 65534

/* A file on a disk, with its blocks allocated; its name ends with the test. */
static const char *file_path(void)
{
	static char path[PATH_MAX];
	char block[BLOCK_BYTES];
	int fd;

	snprintf(path, sizeof(path), "%s/blocks-XXXXXX", scratch_directory());
	fd = mkostemp(path, O_CLOEXEC);
	ck_assert_msg(fd >= 0, "%s: %s", path, strerror(errno));
	memset(block, 1, sizeof(block));
	for (int i = 0; i < FILE_BLOCKS; i++)
		ck_assert_int_eq(write(fd, block, sizeof(block)), sizeof(block));
	ck_assert_int_eq(fsync(fd), 0);
	close(fd);
	return path;
}

static bool has_direct_io(const char *path)
{
	int fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);

	close(fd);
	return fd >= 0;
}

/* The engine that this process would have is the child's too. */
static void prove_engine_here(void)
{
	free_context(new_context(1));
}

/*
 * One thread.
 */

static void expect_one_thread(const char *const arguments[])
{
	char output[2048], line[64];
	const char *place = output;
	int engine_length = 0;

	run_program(arguments, output, sizeof(output));
	ck_assert_msg(sscanf(output, "engine %63s\n%n", line, &engine_length) == 1, "%s", output);
	ck_assert_str_eq(line, expected_engine());
	contract_engine_proved = true;
	place += engine_length;
	for (int i = 2; arguments[i]; i++) {
		const char *end = strchr(place, '\n');

		ck_assert_ptr_nonnull(end);
		if (strcmp(arguments[i], "unshare") == 0) {
			ck_assert_msg(strncmp(place, "unshare 0\n", 10) == 0, "%.*s",
				      (int)(end - place), place);
			return; /* Afterwards it may have what it likes. */
		}
		snprintf(line, sizeof(line), "%s 1 1\n", arguments[i]);
		ck_assert_msg(strncmp(place, line, strlen(line)) == 0,
			      "it says \"%.*s\" where one thread is due", (int)(end - place),
			      place);
		place = end + 1;
	}
}

static void unshare_users(void *argument)
{
	(void)argument;
	_exit(unshare(CLONE_NEWUSER) != 0);
}

#define NEEDS_USER_NAMESPACES()                                                                    \
	do {                                                                                       \
		if (run_in_child(unshare_users, NULL) != 0)                                        \
			SKIP("unshare(CLONE_NEWUSER) is refused here");                            \
	} while (0)

CASE(a_program_with_one_thread_keeps_one_and_may_unshare_its_users)
{
	if (on_threads())
		SKIP("io_setup finds out whether the engine that is named can start");
	const char *path = file_path();
	const char *const on_kernel_aio[] = { "programs/one_thread",
					      path,
					      "setup",
					      "wait",
					      "write",
					      "read",
					      "direct-write",
					      "direct-read",
					      "sync",
					      "poll",
					      "cancel",
					      "wait",
					      "unshare",
					      "direct-write",
					      "destroy",
					      NULL };
	const char *const at_once[] = { "programs/one_thread",
					path,
					"setup",
					"wait",
					"write",
					"read",
					"wait",
					"unshare",
					"read",
					NULL };

	if (UNDER_THREAD_SANITIZER || UNDER_ADDRESS_SANITIZER)
		SKIP("sanitizers have threads of their own");
	NEEDS_USER_NAMESPACES();
	if (!has_direct_io(path))
		SKIP("no O_DIRECT here");
	expect_one_thread(on_native() || on_reference() ? on_kernel_aio : at_once);
	unlink(path);
}

/*
 * Calls while malloc is locked.
 */

static const char *line_of(const char *output, const char *name, int *number)
{
	const char *place = strstr(output, name);
	char format[32];

	snprintf(format, sizeof(format), "%s %%d", name);
	ck_assert_msg(place && sscanf(place, format, number) == 1, "no %s: %s", name, output);
	return place;
}

static void call_while_malloc_is_locked(const char *how)
{
	static const char *const names[] = { "pipe", "poll", "sync", "cold" };
	const char *path = file_path();
	const char *const arguments[] = { "programs/locked_malloc", how, path, NULL };
	char output[1024];
	int number, accepted;

	if (UNDER_THREAD_SANITIZER || UNDER_ADDRESS_SANITIZER)
		SKIP("a sanitizer's malloc cannot be replaced");
	run_program(arguments, output, sizeof(output));
	for (int i = 0; i < 4; i++) {
		line_of(output, names[i], &number);
		ck_assert_msg(number == 1 || number == -EAGAIN || (i == 2 && number == 2),
			      "%s: io_submit: %d", names[i], number);
	}
	line_of(output, "poll", &number);
	if (number == 1) {
		line_of(output, "cancel", &number);
		ck_assert_msg(number == -EINPROGRESS || number == -EAGAIN, "io_cancel: %d", number);
	}
	line_of(output, "reap", &number);
	ck_assert_msg(number >= 0 || number == -EINTR, "io_getevents: %d", number);
	ck_assert_int_eq(sscanf(strstr(output, "events"), "events %d of %d", &number, &accepted),
			 2);
	ck_assert_msg(number == accepted, "%d events of %d requests", number, accepted);
	line_of(output, "destroy", &number);
	ck_assert_int_eq(number, 0);
	unlink(path);
	prove_engine_here();
}

CASE(a_handler_that_has_interrupted_malloc_may_make_the_first_requests)
{
	call_while_malloc_is_locked("cold");
}

CASE(a_handler_that_has_interrupted_malloc_may_make_requests)
{
	call_while_malloc_is_locked("warm");
}

/*
 * New threads are refused with EAGAIN, as at a limit.
 */

static bool refuse_threads(bool to_all)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 1, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EAGAIN),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};

	return install_filter(filter, sizeof(filter) / sizeof(filter[0]),
			      to_all ? SECCOMP_FILTER_FLAG_TSYNC : 0);
}

static void *do_nothing(void *argument)
{
	return argument;
}

static void try_filter(void *argument)
{
	pthread_t thread;

	(void)argument;
	_exit(!refuse_threads(true) || pthread_create(&thread, NULL, do_nothing, NULL) != EAGAIN);
}

#define NEEDS_FILTERS()                                                                            \
	do {                                                                                       \
		if (run_in_child(try_filter, NULL) != 0)                                           \
			SKIP("seccomp refuses no thread here");                                    \
	} while (0)

/*
 * A thread that can make none calls; what needs one must have it.
 */

#define PIPES 24

struct caller {
	struct worker worker;
	io_context_t ctx;
	struct scene *scene;
	int pipes[PIPES][2];
	int buffered;
	_Atomic bool filtered;
};

static void expect_all_end(struct caller *caller, const struct iocb *iocbs, int count,
			   const char *what)
{
	unsigned long seen = 0;

	for (int i = 0; i < count; i++) {
		struct io_event event = take_event(caller->ctx, what);
		long number = event.obj - iocbs;

		ck_assert_msg(number >= 0 && number < count && !(seen >> number & 1),
			      "%s: an event of no request", what);
		ck_assert_msg((long)event.res >= 0, "%s: the result is %ld", what, (long)event.res);
		seen |= 1UL << number;
	}
}

/* The last to come is the first to go. */
static void read_many_pipes(struct caller *caller)
{
	static char bytes[PIPES];
	struct iocb iocbs[PIPES];

	for (int i = 0; i < PIPES; i++)
		io_prep_pread(&iocbs[i], caller->pipes[i][0], &bytes[i], 1, 0);
	if (on_reference())
		for (int i = 0; i < PIPES; i++)
			ck_assert_int_eq(write(caller->pipes[i][1], "x", 1), 1);
	expect_all_submitted(caller->ctx, iocbs, PIPES, "pipes");
	if (!on_reference())
		for (int i = PIPES - 1; i >= 0; i--)
			ck_assert_int_eq(write(caller->pipes[i][1], "x", 1), 1);
	expect_all_end(caller, iocbs, PIPES, "pipes");
}

static void cancel_a_pipe_read(struct caller *caller)
{
	struct io_event event;
	struct iocb iocb;
	char byte;
	int result;

	if (on_reference())
		return;
	io_prep_pread(&iocb, caller->pipes[0][0], &byte, 1, 0);
	expect_submitted(caller->ctx, &iocb, "a pipe");
	result = io_cancel(caller->ctx, &iocb, &event);
	ck_assert_msg(result == -EINPROGRESS || result == -EAGAIN, "io_cancel: %d", result);
	ck_assert_int_eq(write(caller->pipes[0][1], "x", 1), 1);
	expect_event(caller->ctx, &iocb, result == -EAGAIN ? 1 : -ECANCELED, "a pipe");
	if (result != -EAGAIN)
		ck_assert_int_eq(read(caller->pipes[0][0], &byte, 1), 1);
}

static void read_cold_blocks(struct caller *caller)
{
	struct iocb iocbs[8];

	for (unsigned i = 0; i < 8; i++)
		prepare_read(&iocbs[i], caller->buffered, 8 * i);
	expect_all_submitted(caller->ctx, iocbs, 8, "cold reads");
	expect_all_end(caller, iocbs, 8, "cold reads");
}

static void hold_an_fsync(struct caller *caller)
{
	unsigned writes = count_of_file(caller->scene->fs, HOLDFS_WRITE, SUBJECT);
	struct iocb iocbs[2];

	prepare_write(&iocbs[0], caller->scene->fd, 0);
	prepare_sync(&iocbs[1], caller->scene->fd, IO_CMD_FSYNC);
	holdfs_hold(caller->scene->fs, HOLDFS_WRITE);
	expect_all_submitted(caller->ctx, iocbs, 2, "a held fsync");
	wait_operation(caller->scene->fs, HOLDFS_WRITE, SUBJECT, writes);
	holdfs_release_all(caller->scene->fs);
	expect_all_end(caller, iocbs, 2, "a held fsync");
}

static void call_without_threads(void *argument)
{
	struct caller *caller = argument;

	ck_assert(refuse_threads(false));
	atomic_store(&caller->filtered, true);
	hold_an_fsync(caller);
	read_many_pipes(caller);
	cancel_a_pipe_read(caller);
	read_cold_blocks(caller);
	hold_an_fsync(caller);
	read_many_pipes(caller);
}

CASE(calls_make_no_thread_in_a_program_with_threads)
{
	struct caller caller = { .ctx = NULL };
	struct reaper beside;
	io_context_t other;
	struct scene scene;

	SKIP_UNDER_THREAD_SANITIZER();
	NEEDS_FILTERS();
	/* A thread is there before the context is. */
	other = new_context(1);
	reaper_start(&beside, other, 1, 1, NULL);
	SCENE_OPEN(&scene);
	caller.scene = &scene;
	caller.ctx = scene.ctx;
	caller.buffered = scratch_file((size_t)FILE_BLOCKS * BLOCK_BYTES);
	posix_fadvise(caller.buffered, 0, 0, POSIX_FADV_DONTNEED);
	for (int i = 0; i < PIPES; i++)
		make_pipe(caller.pipes[i], 0);
	worker_start(&caller.worker, call_without_threads, &caller);
	WAIT_UNTIL(worker_has_ended(&caller.worker));
	worker_join(&caller.worker);
	free_context(other);
	ck_assert_int_eq(reaper_join(&beside), -EINVAL);
	for (int i = 0; i < PIPES; i++)
		close_pair(caller.pipes[i]);
	close(caller.buffered);
	scene_close(&scene);
}

/*
 * What /proc says of a thread.
 */

struct task {
	pid_t tid;
	char name[32];
	unsigned long long blocked;
	unsigned ids[2][4]; /* Uid and Gid: real, effective, saved, file system */
};

/* False if it has ended meanwhile. */
static bool look_at_task(pid_t tid, struct task *task)
{
	char path[64], line[256];
	bool all = false;
	FILE *stream;

	*task = (struct task){ .tid = tid };
	snprintf(path, sizeof(path), "/proc/self/task/%d/status", tid);
	stream = fopen(path, "re");
	while (stream && fgets(line, sizeof(line), stream)) {
		unsigned(*ids)[4] = task->ids;

		if (sscanf(line, "Name: %31[^\n]", task->name) == 1)
			continue;
		if (sscanf(line, "SigBlk: %llx", &task->blocked) == 1)
			all = true;
		sscanf(line, "Uid: %u %u %u %u", &ids[0][0], &ids[0][1], &ids[0][2], &ids[0][3]);
		sscanf(line, "Gid: %u %u %u %u", &ids[1][0], &ids[1][1], &ids[1][2], &ids[1][3]);
	}
	if (stream)
		fclose(stream);
	return all;
}

#define TASKS_MAX 256

static int list_tasks(pid_t *tids)
{
	DIR *stream = opendir("/proc/self/task");
	struct dirent *entry;
	int count = 0;

	while (stream && (entry = readdir(stream)) && count < TASKS_MAX)
		if (entry->d_name[0] != '.')
			tids[count++] = atoi(entry->d_name);
	if (stream)
		closedir(stream);
	return count;
}

/*
 * As the process began.
 */

struct maker {
	struct worker worker;
	struct scene scene;
	int policy, priority, cpu;
	bool refused;
	int pipe[2], counter, cold;
	struct iocb iocbs[5];
	int count;
	_Atomic bool submitted;
	_Atomic bool may_reap;
	_Atomic bool retired;
};

/* glibc uses the first two signals of the realtime ones itself, and nobody can block these two. */
#define SIGNALS_NOT_BLOCKED                                                                        \
	(1ULL << (SIGKILL - 1) | 1ULL << (SIGSTOP - 1) | 1ULL << (32 - 1) | 1ULL << (33 - 1))
#define SIGNALS_BLOCKED (~SIGNALS_NOT_BLOCKED)

/* What is not as it should be with a thread of the library; NULL: nothing. */
static const char *complaint_about(const struct task *task, const cpu_set_t *first_cpus)
{
	static char text[160];
	cpu_set_t cpus;
	int policy = sched_getscheduler(task->tid);

	CPU_ZERO(&cpus);
	if (policy < 0 || sched_getaffinity(task->tid, sizeof(cpus), &cpus) != 0)
		return NULL; /* gone */
	if (policy != SCHED_OTHER)
		snprintf(text, sizeof(text), "%s has the scheduling policy %d", task->name, policy);
	else if (!CPU_EQUAL(&cpus, first_cpus))
		snprintf(text, sizeof(text), "%s may run on %d CPUs instead of %d", task->name,
			 CPU_COUNT(&cpus), CPU_COUNT(first_cpus));
	else if (strncmp(task->name, "trueaio-", 8) != 0 || !task->name[8])
		snprintf(text, sizeof(text), "a thread is named %s", task->name);
	else if ((task->blocked & SIGNALS_BLOCKED) != SIGNALS_BLOCKED)
		snprintf(text, sizeof(text), "%s blocks only %016llx", task->name, task->blocked);
	else
		return NULL;
	return text;
}

/* Those that are there while a file is waited for; the last where fsyncs wait for kernel AIO. */
static const char *const library_names[] = {
	"trueaio-helper", "trueaio-super", "trueaio-poller", "trueaio-worker", "trueaio-follow",
};

static unsigned all_names(void)
{
	return on_native() ? 0x1f : 0x0f;
}

/* Every thread that is none of the test's is as it should be: the names of them, a bit each. */
static unsigned look_at_library(pid_t maker, const cpu_set_t *first_cpus, const char **complaint)
{
	pid_t tids[TASKS_MAX];
	int count = list_tasks(tids);
	unsigned found = 0;

	*complaint = NULL;
	for (int i = 0; i < count && !*complaint; i++) {
		struct task task;

		if (tids[i] == getpid() || tids[i] == maker || !look_at_task(tids[i], &task))
			continue;
		for (unsigned name = 0; name < sizeof(library_names) / sizeof(*library_names);
		     name++)
			if (strcmp(task.name, library_names[name]) == 0)
				found |= 1U << name;
		*complaint = complaint_about(&task, first_cpus);
	}
	return found;
}

/* A thread may have been made, and not yet have come to what it does first. */
static void expect_library_threads(pid_t maker, const cpu_set_t *first_cpus, unsigned names,
				   const char *what)
{
	long long end_ns = monotonic_ns() + EVENT_LIMIT_SECONDS * 1000000000LL;
	const char *complaint;
	unsigned found;

	while ((found = look_at_library(maker, first_cpus, &complaint), complaint) ||
	       (found & names) != names) {
		ck_assert_msg(monotonic_ns() < end_ns, "%s: %s; names: %#x of %#x", what,
			      complaint ? complaint : "a thread is missing", found, names);
		contract_pause();
	}
}

static void expect_maker_submits(struct maker *maker, struct iocb *iocb)
{
	expect_submitted(maker->scene.ctx, iocb, HERE);
	maker->count++;
}

static void make_everything_run(void *argument)
{
	struct maker *maker = argument;
	struct sched_param parameter = { .sched_priority = maker->priority };
	struct iocb *iocbs = maker->iocbs;
	cpu_set_t cpus;
	io_context_t own;

	CPU_ZERO(&cpus);
	CPU_SET((size_t)maker->cpu, &cpus);
	ck_assert_int_eq(sched_setaffinity(0, sizeof(cpus), &cpus), 0);
	if (sched_setscheduler(0, maker->policy, &parameter) != 0) {
		maker->refused = true;
		atomic_store(&maker->submitted, true);
		return;
	}
	maker->scene.ctx = new_context(16);
	own = new_context(4);
	io_prep_pread(&iocbs[0], maker->pipe[0], read_blocks[0], 1, 0);
	io_prep_poll(&iocbs[1], maker->counter, POLLIN);
	prepare_write(&iocbs[2], maker->scene.fd, 2);
	prepare_sync(&iocbs[3], maker->scene.fd, IO_CMD_FSYNC);
	prepare_read(&iocbs[4], maker->cold, 3);
	for (int i = 0; i < 5; i++)
		expect_maker_submits(maker, &iocbs[i]);
	free_context(own);
	atomic_store(&maker->submitted, true);
	while (!atomic_load(&maker->may_reap))
		contract_pause();
	for (int i = 0; i < maker->count; i++)
		take_event(maker->scene.ctx, HERE);
	free_context(maker->scene.ctx);
	maker->scene.ctx = NULL;
	atomic_store(&maker->retired, true);
}

static bool look_at_threads_made_by(int policy, int priority, const char *what)
{
	static struct maker maker;
	const uint64_t one = 1;
	cpu_set_t first_cpus;

	memset(&maker, 0, sizeof(maker));
	CPU_ZERO(&first_cpus);
	ck_assert_int_eq(sched_getaffinity(0, sizeof(first_cpus), &first_cpus), 0);
	while (!CPU_ISSET((size_t)maker.cpu, &first_cpus))
		maker.cpu++;
	if (!scene_open(&maker.scene))
		return false;
	free_context(maker.scene.ctx);
	maker.policy = policy;
	maker.priority = priority;
	make_pipe(maker.pipe, 0);
	maker.counter = open_eventfd(0, EFD_CLOEXEC);
	maker.cold = holdfs_open(maker.scene.fs, OTHER, O_RDONLY);
	holdfs_hold(maker.scene.fs, HOLDFS_READ | HOLDFS_WRITE);
	worker_start(&maker.worker, make_everything_run, &maker);
	WAIT_UNTIL(atomic_load(&maker.submitted));
	if (!maker.refused) {
		wait_operation(maker.scene.fs, HOLDFS_WRITE, SUBJECT, 0);
		wait_operation(maker.scene.fs, HOLDFS_READ, OTHER, 0);
		expect_library_threads(maker.worker.tid, &first_cpus, all_names(), what);
		ck_assert_int_eq(write(maker.pipe[1], "x", 1), 1);
		ck_assert_int_eq(write(maker.counter, &one, sizeof(one)), sizeof(one));
		holdfs_release_all(maker.scene.fs);
		atomic_store(&maker.may_reap, true);
		WAIT_UNTIL(atomic_load(&maker.retired));
		/* Those that have nothing to do any more may be gone. */
		expect_library_threads(maker.worker.tid, &first_cpus, 0, what);
	}
	worker_join(&maker.worker);
	maker.scene.ctx = NULL;
	close(maker.cold);
	close(maker.counter);
	close_pair(maker.pipe);
	scene_close(&maker.scene);
	return !maker.refused;
}

CASE(threads_of_the_library_are_not_pinned_with_their_maker)
{
	SKIP_UNDER_THREAD_SANITIZER();
	SKIP_ON_REFERENCE("has no threads");
	if (!look_at_threads_made_by(SCHED_OTHER, 0, "pinned"))
		SKIP("FUSE cannot be used here");
}

CASE(threads_of_the_library_have_not_the_policy_of_their_maker)
{
	SKIP_UNDER_THREAD_SANITIZER();
	SKIP_ON_REFERENCE("has no threads");
	if (!look_at_threads_made_by(SCHED_BATCH, 0, "SCHED_BATCH"))
		SKIP("FUSE cannot be used here");
}

CASE(threads_of_the_library_are_not_realtime_with_their_maker)
{
	SKIP_UNDER_THREAD_SANITIZER();
	SKIP_ON_REFERENCE("has no threads");
	if (!look_at_threads_made_by(SCHED_FIFO, 1, "SCHED_FIFO"))
		SKIP("no FUSE, or no permission for SCHED_FIFO");
	look_at_threads_made_by(SCHED_RR, 1, "SCHED_RR");
}

/* It never lets anybody else have its CPU, and asks for its event without ever waiting. */
static void poll_for_events(void *argument)
{
	struct maker *maker = argument;
	struct sched_param parameter = { .sched_priority = 1 };
	struct timespec zero = { 0 };
	long long end_ns;
	struct io_event event;
	cpu_set_t cpus;
	int got = 0;

	CPU_ZERO(&cpus);
	CPU_SET((size_t)maker->cpu, &cpus);
	ck_assert_int_eq(sched_setaffinity(0, sizeof(cpus), &cpus), 0);
	if (sched_setscheduler(0, SCHED_FIFO, &parameter) != 0) {
		maker->refused = true;
		return;
	}
	maker->scene.ctx = new_context(16);
	prepare_read(&maker->iocbs[0], maker->cold, 100);
	io_prep_pread(&maker->iocbs[1], maker->pipe[0], read_blocks[0], 1, 0);
	ck_assert_int_eq(write(maker->pipe[1], "x", 1), 1);
	for (int i = 0; i < 2; i++) {
		expect_submitted(maker->scene.ctx, &maker->iocbs[i], HERE);
		end_ns = monotonic_ns() + EVENT_LIMIT_SECONDS * 1000000000LL / 3;
		do
			got = io_getevents(maker->scene.ctx, 0, 1, &event, &zero);
		while (got == 0 && monotonic_ns() < end_ns);
		parameter.sched_priority = 0;
		if (got != 1)
			sched_setscheduler(0, SCHED_OTHER, &parameter);
		ck_assert_msg(got == 1, "request %d: no event for who does not sleep: %d", i, got);
	}
	free_context(maker->scene.ctx);
}

CASE(a_realtime_thread_that_never_sleeps_gets_its_events)
{
	static struct maker maker;
	cpu_set_t cpus;

	SKIP_UNDER_THREAD_SANITIZER();
	ck_assert_int_eq(sched_getaffinity(0, sizeof(cpus), &cpus), 0);
	if (CPU_COUNT(&cpus) < 2)
		SKIP("only one CPU here");
	while (!CPU_ISSET((size_t)maker.cpu, &cpus))
		maker.cpu++;
	maker.cold = scratch_file((size_t)FILE_BLOCKS * BLOCK_BYTES);
	posix_fadvise(maker.cold, 0, 0, POSIX_FADV_DONTNEED);
	make_pipe(maker.pipe, 0);
	worker_start(&maker.worker, poll_for_events, &maker);
	WAIT_UNTIL(worker_has_ended(&maker.worker));
	worker_join(&maker.worker);
	close(maker.cold);
	close_pair(maker.pipe);
	if (maker.refused)
		SKIP("no permission for SCHED_FIFO");
}

/*
 * Other identities.
 */

enum dropping { ALL_IDS, EFFECTIVE_IDS, DROPPINGS };

struct drop {
	enum dropping dropping;
	bool beside_a_waiter;
	int fd, cold;
};

static bool has_ids(const struct task *task, unsigned real, unsigned effective)
{
	for (int kind = 0; kind < 2; kind++) {
		const unsigned *ids = task->ids[kind];

		if (ids[0] != real || ids[1] != effective || ids[3] != effective)
			return false;
	}
	return true;
}

/* A thread that is about to end may be seen as it was. */
static void child_expects_ids(unsigned real, unsigned effective)
{
	long long end_ns = monotonic_ns() + EVENT_LIMIT_SECONDS * 1000000000LL / 3;
	pid_t tids[TASKS_MAX];
	int count = list_tasks(tids);

	for (int i = 0; i < count; i++) {
		struct task task;

		while (look_at_task(tids[i], &task) && !has_ids(&task, real, effective)) {
			if (monotonic_ns() > end_ns)
				fprintf(stderr, "%s has not the ids %u and %u\n", task.name, real,
					effective);
			CHILD_CHECK(monotonic_ns() <= end_ns);
			contract_pause();
		}
	}
}

static void child_takes(io_context_t ctx, int count)
{
	struct timespec limit = { .tv_sec = EVENT_LIMIT_SECONDS };
	struct io_event event;

	while (count-- > 0) {
		CHILD_CHECK(io_getevents(ctx, 1, 1, &event, &limit) == 1);
		CHILD_CHECK((long)event.res >= 0);
	}
}

/* A pipe read, which needs a thread; a cold read; a write with an fsync behind it. */
static void child_does_io(io_context_t ctx, const struct drop *drop)
{
	struct iocb iocbs[4], *batch[] = { &iocbs[0], &iocbs[1], &iocbs[2], &iocbs[3] };
	int ends[2];

	CHILD_CHECK(pipe2(ends, O_CLOEXEC) == 0);
	posix_fadvise(drop->cold, 0, 0, POSIX_FADV_DONTNEED);
	io_prep_pread(&iocbs[0], ends[0], read_blocks[0], 1, 0);
	prepare_read(&iocbs[1], drop->cold, 40);
	prepare_write(&iocbs[2], drop->fd, 2);
	prepare_sync(&iocbs[3], drop->fd, IO_CMD_FSYNC);
	if (on_reference())
		CHILD_CHECK(write(ends[1], "x", 1) == 1);
	CHILD_CHECK(io_submit(ctx, 4, batch) == 4);
	if (!on_reference())
		CHILD_CHECK(write(ends[1], "x", 1) == 1);
	child_takes(ctx, 4);
	close_pair(ends);
}

static void *wait_for_ever(void *argument)
{
	struct io_event event;

	/* The C library changes the identity of a thread by a signal. */
	while (io_getevents(*(io_context_t *)argument, 1, 1, &event, NULL) == -EINTR)
		;
	return NULL;
}

static void drop_and_go_on(struct child *child, void *argument)
{
	const struct drop *drop = argument;
	io_context_t ctx = NULL, other = NULL, late = NULL;
	pthread_t thread;

	(void)child;
	CHILD_CHECK(io_setup(8, &ctx) == 0 && io_setup(8, &other) == 0);
	if (drop->beside_a_waiter)
		CHILD_CHECK(pthread_create(&thread, NULL, wait_for_ever, &other) == 0);
	child_does_io(ctx, drop);
	child_expects_ids(0, 0);
	if (drop->dropping == ALL_IDS) {
		CHILD_CHECK(setgroups(0, NULL) == 0);
		CHILD_CHECK(setgid(NOBODY_ID) == 0 && setuid(NOBODY_ID) == 0);
		child_expects_ids(NOBODY_ID, NOBODY_ID);
	} else {
		CHILD_CHECK(setegid(NOBODY_ID) == 0 && seteuid(NOBODY_ID) == 0);
		child_expects_ids(0, NOBODY_ID);
	}
	child_does_io(ctx, drop);
	CHILD_CHECK(io_setup(8, &late) == 0);
	child_does_io(late, drop);
	if (drop->dropping == EFFECTIVE_IDS) {
		CHILD_CHECK(seteuid(0) == 0 && setegid(0) == 0);
		child_expects_ids(0, 0);
		child_does_io(ctx, drop);
	}
	CHILD_CHECK(io_destroy(late) == 0 && io_destroy(ctx) == 0);
	exit(EXIT_CODE);
}

CASE(threads_of_the_library_change_their_identity_with_the_process)
{
	SKIP_UNDER_THREAD_SANITIZER();
	if (getuid() != 0)
		SKIP("only root can change its identity");
	for (int variant = 0; variant < 2 * DROPPINGS; variant++) {
		struct drop drop = { .dropping = (enum dropping)(variant / 2),
				     .beside_a_waiter = variant & 1,
				     .fd = scratch_file((size_t)FILE_BLOCKS * BLOCK_BYTES),
				     .cold = scratch_file((size_t)FILE_BLOCKS * BLOCK_BYTES) };
		int direct = reopen_file(drop.fd, O_RDWR | O_DIRECT);
		struct child child;

		if (direct >= 0)
			dup3(direct, drop.fd, O_CLOEXEC);
		close(direct);
		child_start(&child, drop_and_go_on, &drop);
		expect_child_exits(&child, EXIT_CODE, HERE);
		close(drop.fd);
		close(drop.cold);
	}
	prove_engine_here();
}

/*
 * No thread can be started.
 */

enum moment { BEFORE_SETUP, AFTER_SETUP, AFTER_FIRST_REQUESTS };

struct shortage {
	enum moment moment;
	bool to_all; /* or to the calling thread alone */
	struct scene *scene;
	int buffered, direct, synchronous;
	io_context_t ctx;
	int ends[2];
	int owed[2]; /* a pipe of which the test keeps the reading end */
	int counter;
};

#define CROWD 32
#define OWED_WRITES 4
#define OWED_BYTES 65536

static char owed_bytes[OWED_BYTES];

/* A library that can have no thread for anything may say so. */
static bool may_refuse(const struct shortage *shortage)
{
	return !on_native() && !on_reference() && shortage->moment != AFTER_FIRST_REQUESTS;
}

/*
 * Every request ends, each with one event of this result or a count.  Refused is only what can
 * wait for something in flight, unless the library says so of everything.
 */
static void child_completes(struct shortage *shortage, struct iocb *iocbs, int count)
{
	struct timespec limit = { .tv_sec = EVENT_LIMIT_SECONDS };
	int submitted = 0, ended = 0;
	bool seen[CROWD] = { false };

	while (ended < count) {
		struct iocb *batch[CROWD];
		struct io_event event;
		int result = 0;

		for (int i = submitted; i < count; i++)
			batch[i - submitted] = &iocbs[i];
		if (submitted < count)
			result = io_submit(shortage->ctx, count - submitted, batch);
		if (result > 0) {
			submitted += result;
			continue;
		}
		CHILD_CHECK(result == 0 || result == -EAGAIN);
		if (submitted == ended) {
			CHILD_CHECK(may_refuse(shortage));
			return;
		}
		CHILD_CHECK(io_getevents(shortage->ctx, 1, 1, &event, &limit) == 1);
		CHILD_CHECK(event.obj >= iocbs && event.obj < iocbs + submitted);
		CHILD_CHECK(!seen[event.obj - iocbs]);
		CHILD_CHECK((long)event.res >= 0);
		seen[event.obj - iocbs] = true;
		ended++;
	}
	CHILD_CHECK(io_getevents(shortage->ctx, 0, 1, &(struct io_event){ .res = 0 }, NULL) == 0);
}

/* Of an fsync somebody may only be told through its eventfd. */
static void child_is_told_of_syncs(struct shortage *shortage)
{
	struct iocb iocbs[2], *batch[] = { &iocbs[0], &iocbs[1] };
	struct pollfd look = { .fd = shortage->counter, .events = POLLIN };
	struct io_event events[2];
	int result;

	CHILD_CHECK(pwrite(shortage->buffered, write_blocks, 64 * BLOCK_BYTES, 0) ==
		    64 * BLOCK_BYTES);
	io_prep_fsync(&iocbs[0], shortage->buffered);
	io_prep_fsync(&iocbs[1], shortage->buffered);
	io_set_eventfd(&iocbs[0], shortage->counter);
	io_set_eventfd(&iocbs[1], shortage->counter);
	result = io_submit(shortage->ctx, 2, batch);
	if (result < 0) {
		CHILD_CHECK(result == -EAGAIN && may_refuse(shortage));
		return;
	}
	for (uint64_t told = 0, count; told < (uint64_t)result; told += count) {
		CHILD_CHECK(poll(&look, 1, EVENT_LIMIT_SECONDS * 1000) == 1);
		CHILD_CHECK(read(shortage->counter, &count, sizeof(count)) == sizeof(count));
	}
	CHILD_CHECK(io_getevents(shortage->ctx, result, 2, events, NULL) == result);
	for (int i = 0; i < result; i++)
		CHILD_CHECK(events[i].res == 0);
}

/* The promise of an fsync is kept, or it is not given. */
static void child_holds_fsync(struct shortage *shortage)
{
	struct timespec limit = { .tv_sec = EVENT_LIMIT_SECONDS };
	struct scene *scene = shortage->scene;
	unsigned writes = count_of_file(scene->fs, HOLDFS_WRITE, SUBJECT);
	unsigned syncs_before = syncs(scene);
	struct iocb iocbs[2], *batch[] = { &iocbs[0], &iocbs[1] };
	struct holdfs_operation sync;
	struct io_event events[2];
	int result;

	prepare_write(&iocbs[0], scene->fd, 0);
	prepare_sync(&iocbs[1], scene->fd, IO_CMD_FSYNC);
	io_set_eventfd(&iocbs[1], shortage->counter);
	holdfs_hold(scene->fs, HOLDFS_WRITE);
	result = io_submit(shortage->ctx, 2, batch);
	if (result < 0) {
		CHILD_CHECK(result == -EAGAIN && may_refuse(shortage));
		holdfs_release_all(scene->fs);
		return;
	}
	wait_operation(scene->fs, HOLDFS_WRITE, SUBJECT, writes);
	holdfs_release_all(scene->fs);
	if (result == 2) {
		struct pollfd look = { .fd = shortage->counter, .events = POLLIN };

		CHILD_CHECK(poll(&look, 1, EVENT_LIMIT_SECONDS * 1000) == 1);
		CHILD_CHECK(read(shortage->counter, events, sizeof(uint64_t)) == sizeof(uint64_t));
	}
	CHILD_CHECK(io_getevents(shortage->ctx, result, 2, events, &limit) == result);
	if (result == 1) {
		CHILD_CHECK((long)events[0].res == BLOCK_BYTES);
		child_completes(shortage, &iocbs[1], 1);
		CHILD_CHECK(read(shortage->counter, events, sizeof(uint64_t)) == sizeof(uint64_t) ||
			    may_refuse(shortage));
	}
	if (on_reference() || (result == 1 && may_refuse(shortage)))
		return;
	CHILD_CHECK(syncs(scene) == syncs_before + 1);
	sync = holdfs_operation(scene->fs,
				wait_operation(scene->fs, HOLDFS_FSYNC, SUBJECT, syncs_before));
	CHILD_CHECK(sync.arrived > last_answered(scene, HOLDFS_WRITE));
}

static void child_reads_pipe(struct shortage *shortage)
{
	struct iocb iocbs[2];

	/* Data is there: libaio would wait for it. */
	CHILD_CHECK(write(shortage->ends[1], "xx", 2) == 2);
	for (int i = 0; i < 2; i++)
		io_prep_pread(&iocbs[i], shortage->ends[0], read_blocks[i], 1, 0);
	child_completes(shortage, iocbs, 2);
	if (may_refuse(shortage))
		while (poll(&(struct pollfd){ .fd = shortage->ends[0], .events = POLLIN }, 1, 0) ==
		       1)
			CHILD_CHECK(read(shortage->ends[0], read_blocks[0], 1) == 1);
}

static void child_polls(struct shortage *shortage)
{
	struct iocb iocb;

	CHILD_CHECK(write(shortage->ends[1], "x", 1) == 1);
	io_prep_poll(&iocb, shortage->ends[0], POLLIN);
	child_completes(shortage, &iocb, 1);
	CHILD_CHECK(read(shortage->ends[0], read_blocks[0], 1) == 1);
}

static void child_reads_cold(struct shortage *shortage)
{
	struct iocb iocbs[CROWD];

	posix_fadvise(shortage->buffered, 0, 0, POSIX_FADV_DONTNEED);
	posix_fadvise(shortage->buffered, 0, 0, POSIX_FADV_RANDOM);
	for (unsigned i = 0; i < CROWD; i++)
		prepare_read(&iocbs[i], shortage->buffered, 7 * i);
	child_completes(shortage, iocbs, CROWD);
}

/* Of every kind: direct, durable, buffered, and an fsync behind all of them. */
static void child_writes(struct shortage *shortage)
{
	const int fds[] = { shortage->direct, shortage->synchronous, shortage->buffered };
	struct iocb iocbs[CROWD];

	for (unsigned i = 0; i < CROWD - 1; i++)
		prepare_write(&iocbs[i], fds[i % 3], i);
	prepare_sync(&iocbs[CROWD - 1], shortage->buffered, IO_CMD_FSYNC);
	child_completes(shortage, iocbs, CROWD);
}

/* What it still owes is finished by exit().  It tells how many writes that is. */
static void child_owes_and_exits(const struct child *child, struct shortage *shortage)
{
	int accepted = 0;

	for (int i = 0; i < OWED_WRITES; i++) {
		struct iocb iocb, *batch[] = { &iocb };
		int result;

		io_prep_pwrite(&iocb, shortage->owed[1], owed_bytes, OWED_BYTES, 0);
		result = io_submit(shortage->ctx, 1, batch);
		CHILD_CHECK(result == 1 ||
			    (result == -EAGAIN && (accepted || may_refuse(shortage))));
		accepted += result == 1;
	}
	child_says(child, (char)('0' + accepted));
	exit(EXIT_CODE);
}

static void go_short_of_threads(struct child *child, void *argument)
{
	struct shortage *shortage = argument;
	int result;

	close(shortage->owed[0]);
	CHILD_CHECK(pipe2(shortage->ends, O_CLOEXEC) == 0);
	if (shortage->moment == BEFORE_SETUP)
		CHILD_CHECK(refuse_threads(shortage->to_all));
	result = io_setup(CROWD, &shortage->ctx);
	if (result < 0) {
		CHILD_CHECK(may_refuse(shortage) && shortage->moment == BEFORE_SETUP);
		CHILD_CHECK(result == -EAGAIN || result == -ENOMEM || result == -ENOSYS);
		child_says(child, '0');
		exit(EXIT_CODE);
	}
	if (shortage->moment == AFTER_FIRST_REQUESTS) {
		child_reads_pipe(shortage);
		child_reads_cold(shortage);
	}
	if (shortage->moment != BEFORE_SETUP)
		CHILD_CHECK(refuse_threads(shortage->to_all));
	for (int round = 0; round < 2; round++) {
		child_is_told_of_syncs(shortage);
		child_holds_fsync(shortage);
		child_reads_pipe(shortage);
		child_polls(shortage);
		child_reads_cold(shortage);
		child_writes(shortage);
	}
	child_owes_and_exits(child, shortage);
}

/* A reader who is there from the beginning: the writes may be made in io_submit. */
static void expect_what_is_owed(const struct child *child, int reader, const char *what)
{
	static char bytes[OWED_BYTES];
	size_t length = 0;
	char accepted = 0;
	ssize_t got;

	while ((got = read_from_child(reader, bytes, sizeof(bytes), what)) > 0)
		length += (size_t)got;
	if (read_from_child(child->says[0], &accepted, 1, what) != 1)
		return; /* Its exit status tells. */
	ck_assert_msg(length == (size_t)(accepted - '0') * OWED_BYTES,
		      "%s: %zu bytes of %c writes were written", what, length, accepted);
}

static void lose_nothing(enum moment moment)
{
	struct scene scene;
	io_context_t ctx;

	SKIP_UNDER_THREAD_SANITIZER();
	if (UNDER_ADDRESS_SANITIZER)
		SKIP("the leak checker needs a new thread at exit");
	NEEDS_FILTERS();
	NEEDS_WIPE_ON_FORK();
	SCENE_OPEN(&scene);
	/* The child's table is the test's; only the library is to be new. */
	ctx = scene.ctx;
	for (int to_all = 0; to_all < 2; to_all++) {
		int file = scratch_file((size_t)FILE_BLOCKS * BLOCK_BYTES);
		struct shortage shortage = {
			.moment = moment,
			.to_all = to_all,
			.scene = &scene,
			.buffered = file,
			.direct = reopen_file(file, O_RDWR | O_DIRECT),
			.synchronous = reopen_file(file, O_RDWR | O_DSYNC),
			.counter = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
		};
		struct child child;

		if (shortage.direct < 0)
			shortage.direct = dup(file);
		make_pipe(shortage.owed, 0);
		child_start(&child, go_short_of_threads, &shortage);
		close(shortage.owed[1]);
		expect_what_is_owed(&child, shortage.owed[0], to_all ? "all" : "one");
		expect_child_exits(&child, EXIT_CODE, to_all ? "all" : "one");
		close(shortage.owed[0]);
		close(shortage.direct);
		close(shortage.synchronous);
		close(shortage.counter);
		close(file);
	}
	scene.ctx = ctx;
	scene_close(&scene);
}

CASE(nothing_is_lost_where_no_thread_could_ever_be_started)
{
	lose_nothing(BEFORE_SETUP);
}

CASE(nothing_is_lost_where_no_thread_can_be_started_after_io_setup)
{
	lose_nothing(AFTER_SETUP);
}

CASE(nothing_is_lost_where_no_further_thread_can_be_started)
{
	lose_nothing(AFTER_FIRST_REQUESTS);
}

/* What this thread has used while it waited for the request. */
struct waited {
	long blocks_read, blocks_written;
};

static struct waited wait_for_it(io_context_t ctx, struct iocb *iocb, long result)
{
	struct rusage before, after;
	struct io_event event;
	int got;

	expect_submitted(ctx, iocb, HERE);
	/* No assertion in between: it writes, too. */
	getrusage(RUSAGE_THREAD, &before);
	got = io_getevents(ctx, 1, 1, &event, NULL);
	getrusage(RUSAGE_THREAD, &after);
	ck_assert_int_eq(got, 1);
	ck_assert_int_eq((long)event.res, result);
	return (struct waited){ after.ru_inblock - before.ru_inblock,
				after.ru_oublock - before.ru_oublock };
}

/* Of a durable write. */
static long blocks_written_while_waiting(io_context_t ctx, int file)
{
	static char data[4096];
	struct iovec vector = { data, sizeof(data) };
	struct iocb iocb;

	io_prep_pwritev2(&iocb, file, &vector, 1, 0, RWF_DSYNC);
	return wait_for_it(ctx, &iocb, sizeof(data)).blocks_written;
}

/* Of a read that goes past the page cache. */
static long blocks_read_while_waiting(io_context_t ctx, int file)
{
	static char data[4096] __attribute__((aligned(4096)));
	struct iocb iocb;

	io_prep_pread(&iocb, file, data, sizeof(data), 0);
	return wait_for_it(ctx, &iocb, sizeof(data)).blocks_read;
}

/* Kernel AIO would not wait for it in io_submit, so that a disk that never answers holds nobody. */
CASE(nobody_carries_out_what_goes_past_the_page_cache)
{
	const char *path = file_path();
	io_context_t ctx = new_context(8);
	int file;

	if (!has_direct_io(path))
		SKIP("no O_DIRECT here");
	file = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	for (int i = 0; i < 1000; i++)
		ck_assert_int_eq(blocks_read_while_waiting(ctx, file), 0);
	free_context(ctx);
	close(file);
}

static void wait_for_end_run(void *argument)
{
	sem_t *end = argument;

	while (sem_wait(end) < 0)
		;
}

/* The number of its descriptor means what it did only while no other thread can change that. */
CASE(the_only_thread_carries_out_what_it_waits_for_and_one_of_two_does_not)
{
	int file = scratch_file(0), rounds = 0;
	io_context_t ctx = new_context(8);
	struct worker other;
	sem_t end;

	NEEDS_FLAGS();
	SKIP_ON_REFERENCE("there are no workers");
	if (is_emulated() || UNDER_THREAD_SANITIZER)
		SKIP("an emulator, and ThreadSanitizer, have threads of their own");
	/* A worker may be there first. */
	while (blocks_written_while_waiting(ctx, file) == 0)
		ck_assert_int_lt(++rounds, 5000);
	ck_assert_int_eq(sem_init(&end, 0, 0), 0);
	worker_start(&other, wait_for_end_run, &end);
	for (int i = 0; i < 300; i++)
		ck_assert_int_eq(blocks_written_while_waiting(ctx, file), 0);
	sem_post(&end);
	worker_join(&other);
	free_context(ctx);
	close(file);
}

/* How often the workers have gone to sleep. */
static unsigned long long worker_switches(void)
{
	pid_t tids[TASKS_MAX];
	int count = list_tasks(tids);
	unsigned long long switches = 0;

	for (int i = 0; i < count; i++) {
		struct task task;
		struct task_look look;

		if (look_at_task(tids[i], &task) && strcmp(task.name, "trueaio-worker") == 0 &&
		    task_look(tids[i], &look))
			switches += look.switches;
	}
	return switches;
}

#define ROUNDS 300

/* No worker is woken while the thread that has waited so far may still come. */
CASE(who_always_waits_wakes_no_worker)
{
	int file = scratch_file(0);
	io_context_t ctx = new_context(8);
	unsigned long long switches = ROUNDS;

	NEEDS_FLAGS();
	SKIP_ON_REFERENCE("there are no workers");
	if (is_emulated() || UNDER_THREAD_SANITIZER)
		SKIP("an emulator, and ThreadSanitizer, have threads of their own");
	(void)blocks_written_while_waiting(ctx, file);
	/* On a busy machine it comes too late at times. */
	for (int tries = 0; tries < 20 && switches >= ROUNDS; tries++) {
		switches = worker_switches();
		for (int i = 0; i < ROUNDS; i++)
			(void)blocks_written_while_waiting(ctx, file);
		switches = worker_switches() - switches;
	}
	ck_assert_uint_lt(switches, ROUNDS);
	free_context(ctx);
	close(file);
}

static void write_beyond_the_limit(io_context_t ctx, int file)
{
	static char data[4096];
	const struct rlimit limit = { 64 << 20, 64 << 20 };
	struct iovec vector = { data, sizeof(data) };
	struct iocb iocb;

	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
	io_prep_pwritev2(&iocb, file, &vector, 1, (long long)limit.rlim_max, RWF_DSYNC);
	expect_result(ctx, &iocb, -EFBIG, HERE);
}

/* As a worker's write, whoever carries it out. */
CASE(a_write_that_has_to_reach_the_disk_raises_no_signal)
{
	io_context_t ctx = new_context(8);
	int file = scratch_file(0);

	NEEDS_FLAGS();
	SKIP_ON_REFERENCE("SIGXFSZ is raised inside io_submit");
	for (int i = 0; i < ROUNDS; i++) {
		write_beyond_the_limit(ctx, file);
	}
	free_context(ctx);
	close(file);
}

/* One that has come from elsewhere is the program's. */
CASE(a_write_takes_no_signal_of_the_program_s_away)
{
	io_context_t ctx = new_context(8);
	int file = scratch_file(0);
	sigset_t signals;

	NEEDS_FLAGS();
	sigemptyset(&signals);
	sigaddset(&signals, SIGXFSZ);
	ck_assert_int_eq(pthread_sigmask(SIG_BLOCK, &signals, NULL), 0);
	for (int i = 0; i < ROUNDS; i++) {
		raise(SIGXFSZ);
		write_beyond_the_limit(ctx, file);
		ck_assert_int_eq(sigtimedwait(&signals, NULL, &(struct timespec){ 0 }), SIGXFSZ);
	}
	ck_assert_int_eq(pthread_sigmask(SIG_UNBLOCK, &signals, NULL), 0);
	free_context(ctx);
	close(file);
}

/* A thread that has always waited need not do so for ever. */
CASE(what_is_left_to_a_waiter_who_does_not_come_is_given_to_a_worker)
{
	static char data[4096];
	struct iovec vector = { data, sizeof(data) };
	io_context_t contexts[] = { new_context(8), new_context(8) };
	int file = scratch_file(0);
	struct iocb iocbs[2];
	struct io_event event;

	NEEDS_FLAGS();
	SKIP_ON_REFERENCE("there are no workers");
	if (is_emulated() || UNDER_THREAD_SANITIZER)
		SKIP("an emulator, and ThreadSanitizer, have threads of their own");
	for (int i = 0; i < 2; i++)
		io_prep_pwritev2(&iocbs[i], file, &vector, 1, 4096 * i, RWF_DSYNC);
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 20; i++)
			(void)blocks_written_while_waiting(contexts[0], file);
		/* The library's threads have gone to sleep by then, or the case shows less. */
		usleep(5000);
		expect_submitted(contexts[0], &iocbs[0], HERE);
		/* Of two it is the second that is waited for. */
		if (round > 0)
			expect_submitted(contexts[1], &iocbs[1], HERE);
		if (round > 1)
			expect_event(contexts[1], &iocbs[1], sizeof(data), HERE);
		WAIT_UNTIL(take_events_now(contexts[0], &event, 1) == 1);
		if (round == 1)
			WAIT_UNTIL(take_events_now(contexts[1], &event, 1) == 1);
	}
	free_context(contexts[0]);
	free_context(contexts[1]);
	close(file);
}
