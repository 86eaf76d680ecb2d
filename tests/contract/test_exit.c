/* SPDX-License-Identifier: MIT */
/*
 * Goal: what io_submit has accepted is not lost by the program's end.  exit() finishes writes and
 * fsyncs that the library has yet to carry out, however long that takes; reads are nobody's any
 * more, and do not keep the process.  _exit, exec and SIGKILL drop what has not begun, and never
 * hang.
 *
 * Method: a child process submits and ends without a look at its events.  Pipes without a reader
 * and a disk that waits keep its requests where they are until the child is seen on its way out;
 * what arrived at the other end afterwards tells what was finished.
 */
#include "scene.h"

#include <dirent.h>

#define SKIP_UNDER_THREAD_SANITIZER                                                                \
	do {                                                                                       \
		if (UNDER_THREAD_SANITIZER)                                                        \
			SKIP("ThreadSanitizer does not work in a forked child");                   \
	} while (0)

/* More than a pipe holds. */
#define PIPE_WRITES 8
#define PIPE_WRITE_BYTES 65536
#define PIPE_BYTES ((size_t)PIPE_WRITES * PIPE_WRITE_BYTES)

enum ending { BY_EXIT, BY_BARE_EXIT, BY_KILL, BY_EXEC };

/* A child, and the pipe on which it says one letter at each stage. */
struct child {
	pid_t pid;
	int says[2];
};

static void child_start(struct child *child, void (*run)(struct child *, void *), void *argument)
{
	make_pipe(child->says, 0);
	fflush(NULL);
	child->pid = fork();
	ck_assert_int_ge(child->pid, 0);
	if (child->pid == 0) {
		run(child, argument);
		_exit(1);
	}
	close(child->says[1]);
}

static void child_says(const struct child *child, char letter)
{
	CHILD_CHECK(write(child->says[1], &letter, 1) == 1);
}

static void expect_said(const struct child *child, char letter)
{
	struct pollfd look = { .fd = child->says[0], .events = POLLIN };
	char said = 0;

	ck_assert_msg(poll(&look, 1, EVENT_LIMIT_SECONDS * 1000) == 1, "the child is silent");
	ck_assert_int_eq(read(child->says[0], &said, 1), 1);
	ck_assert_int_eq(said, letter);
}

static int child_status(struct child *child)
{
	int status = 0;
	pid_t ended = 0;

	WAIT_UNTIL((ended = waitpid(child->pid, &status, WNOHANG)) != 0);
	ck_assert_int_eq(ended, child->pid);
	close(child->says[0]);
	return status;
}

static void expect_child_gone(struct child *child)
{
	int status = child_status(child);

	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0,
		      "the child's wait status is 0x%x", (unsigned)status);
}

/*
 * Says that exit has begun.  Registered after the library is in use, so that it runs before
 * anything that the library does at exit.
 */
static const struct child *leaving;

static void tell_leaving(void)
{
	child_says(leaving, 'x');
}

static void end_process(const struct child *child, enum ending ending)
{
	switch (ending) {
	case BY_EXIT:
		leaving = child;
		CHILD_CHECK(atexit(tell_leaving) == 0);
		exit(0);
	case BY_BARE_EXIT:
		_exit(0);
	case BY_KILL:
		raise(SIGKILL);
		break;
	case BY_EXEC:
		execlp("true", "true", NULL);
		break;
	}
	_exit(1);
}

/* A field behind the name in /proc/PID/task/TID/stat: 1 is the state, 7 the flags. */
static unsigned long task_field(pid_t pid, const char *tid, int field)
{
	char path[PATH_MAX], line[512];
	FILE *stream;
	char *text;

	snprintf(path, sizeof(path), "/proc/%d/task/%s/stat", pid, tid);
	stream = fopen(path, "re");
	text = stream && fgets(line, sizeof(line), stream) ? strrchr(line, ')') : NULL;
	if (stream)
		fclose(stream);
	for (int i = 0; text && i < field; i++)
		text = strchr(text + 1, ' ');
	if (!text)
		return field == 1 ? 'Z' : 0;
	return field == 1 ? (unsigned long)(unsigned char)text[1] : strtoul(text, NULL, 10);
}

static char state_in(const char *status_path)
{
	FILE *stream = fopen(status_path, "re");
	char line[256], state = '?';

	while (stream && fgets(line, sizeof(line), stream))
		if (sscanf(line, "State: %c", &state) == 1)
			break;
	if (stream)
		fclose(stream);
	return state;
}

/* A thread that sleeps in the kernel for a request of its own will get no further than its end. */
static bool kill_is_pending(pid_t pid, const char *tid)
{
	char path[PATH_MAX], line[256];
	unsigned long long pending = 0;
	FILE *stream;

	snprintf(path, sizeof(path), "/proc/%d/task/%s/status", pid, tid);
	stream = fopen(path, "re");
	while (stream && fgets(line, sizeof(line), stream))
		if (sscanf(line, "SigPnd: %llx", &pending) == 1)
			break;
	if (stream)
		fclose(stream);
	return pending >> (SIGKILL - 1) & 1;
}

#define PROCESS_IS_EXITING 4 /* the kernel's PF_EXITING */

/*
 * Nothing of the child's own can run any more.  What is left is a wait of the kernel's for requests
 * that it has accepted; in exec the first thread waits for that, or for others that do, and only
 * few files of /proc may be asked about it without having to wait as well.  For what the library
 * has not begun nobody waits: the new program may have ended already.
 */
static bool has_left(pid_t pid, enum ending ending)
{
	char path[PATH_MAX];
	bool all = true;
	struct dirent *entry;
	DIR *stream;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	stream = opendir(path);
	ck_assert_ptr_nonnull(stream);
	while ((entry = readdir(stream))) {
		if (entry->d_name[0] == '.')
			continue;
		if (ending == BY_EXEC)
			all = all &&
			      (atoi(entry->d_name) == pid || kill_is_pending(pid, entry->d_name));
		else
			all = all && (task_field(pid, entry->d_name, 1) == 'Z' ||
				      task_field(pid, entry->d_name, 7) & PROCESS_IS_EXITING ||
				      kill_is_pending(pid, entry->d_name));
	}
	closedir(stream);
	if (ending != BY_EXEC)
		return all;
	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	return state_in(path) == 'Z' || (all && state_in(path) == 'D');
}

/*
 * Writes to a pipe.
 */

struct pipe_job {
	int ends[2];
	enum ending ending;
	bool from_thread;
	const struct child *child;
	char data[PIPE_BYTES];
};

static void *leave_from_thread(void *argument)
{
	const struct pipe_job *job = argument;

	end_process(job->child, job->ending);
	return NULL;
}

static void write_and_leave(struct child *child, void *argument)
{
	struct pipe_job *job = argument;
	struct iocb iocbs[PIPE_WRITES], *batch[PIPE_WRITES];
	struct iovec segments[2];
	io_context_t ctx = NULL;
	pthread_t thread;

	close(job->ends[0]);
	job->child = child;
	CHILD_CHECK(io_setup(PIPE_WRITES, &ctx) == 0);
	for (int i = 0; i < PIPE_WRITES; i++) {
		char *data = job->data + (size_t)i * PIPE_WRITE_BYTES;

		segments[0] = (struct iovec){ data, 100 };
		segments[1] = (struct iovec){ data + 100, PIPE_WRITE_BYTES - 100 };
		batch[i] = &iocbs[i];
		if (i & 1)
			io_prep_pwritev(&iocbs[i], job->ends[1], segments, 2, 0);
		else
			io_prep_pwrite(&iocbs[i], job->ends[1], data, PIPE_WRITE_BYTES, 0);
		CHILD_CHECK(io_submit(ctx, 1, &batch[i]) == 1);
	}
	child_says(child, 's');
	if (job->from_thread) {
		CHILD_CHECK(pthread_create(&thread, NULL, leave_from_thread, job) == 0);
		pthread_join(thread, NULL);
	}
	end_process(child, job->ending);
}

/* A slow reader: small pieces, and the first of them when the writer has begun to leave. */
static void expect_all_data(const struct pipe_job *job)
{
	size_t length = 0;
	char piece[1000];
	ssize_t got;

	while ((got = read(job->ends[0], piece, sizeof(piece))) > 0) {
		ck_assert_uint_le(length + (size_t)got, PIPE_BYTES);
		ck_assert_msg(memcmp(piece, job->data + length, (size_t)got) == 0,
			      "other data near byte %zu", length);
		length += (size_t)got;
	}
	ck_assert_uint_eq(length, PIPE_BYTES);
}

static void finish_pipe_writes(bool from_thread)
{
	static struct pipe_job job;
	struct child child;

	job.ending = BY_EXIT;
	job.from_thread = from_thread;
	fill_pattern(job.data, 0, PIPE_BYTES);
	make_pipe(job.ends, 0);
	child_start(&child, write_and_leave, &job);
	close(job.ends[1]);
	expect_said(&child, 's');
	expect_said(&child, 'x');
	expect_all_data(&job);
	expect_child_gone(&child);
	close(job.ends[0]);
}

/* The engine that this process would have is the child's too. */
static void prove_engine_here(void)
{
	free_context(new_context(1));
}

CASE(exit_finishes_writes_to_a_pipe)
{
	SKIP_UNDER_THREAD_SANITIZER;
	SKIP_ON_REFERENCE("a pipe holds io_submit");
	finish_pipe_writes(false);
	prove_engine_here();
}

CASE(exit_from_another_thread_finishes_writes_to_a_pipe)
{
	SKIP_UNDER_THREAD_SANITIZER;
	SKIP_ON_REFERENCE("a pipe holds io_submit");
	finish_pipe_writes(true);
	prove_engine_here();
}

/* Nobody reads, so a library that finished them would stay for ever. */
CASE(sudden_ends_drop_writes_to_a_pipe)
{
	static const enum ending endings[] = { BY_BARE_EXIT, BY_KILL, BY_EXEC };

	SKIP_UNDER_THREAD_SANITIZER;
	SKIP_ON_REFERENCE("a pipe holds io_submit");
	for (int i = 0; i < 3; i++) {
		static struct pipe_job job;
		struct child child;
		int status;

		job.ending = endings[i];
		make_pipe(job.ends, 0);
		child_start(&child, write_and_leave, &job);
		close(job.ends[1]);
		expect_said(&child, 's');
		status = child_status(&child);
		if (endings[i] == BY_KILL)
			ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
		else
			ck_assert_int_eq(status, 0);
		close(job.ends[0]);
	}
	prove_engine_here();
}

/*
 * An fsync behind a write.
 */

struct sync_job {
	struct scene *scene;
	enum ending ending;
	int may_leave[2]; /* a pipe that the test closes then */
};

static void sync_and_leave(struct child *child, void *argument)
{
	const struct sync_job *job = argument;
	struct iocb iocbs[2], *batch[] = { &iocbs[0], &iocbs[1] };
	io_context_t ctx = NULL;
	char byte;

	CHILD_CHECK(io_setup(4, &ctx) == 0);
	prepare_write(&iocbs[0], job->scene->fd, 0);
	prepare_sync(&iocbs[1], job->scene->fd, IO_CMD_FSYNC);
	CHILD_CHECK(io_submit(ctx, 2, batch) == 2);
	child_says(child, 's');
	close(job->may_leave[1]);
	CHILD_CHECK(read(job->may_leave[0], &byte, 1) == 0);
	end_process(child, job->ending);
}

CASE(exit_finishes_a_held_fsync)
{
	struct scene scene;
	struct sync_job job = { .scene = &scene, .ending = BY_EXIT };
	struct holdfs_operation sync;
	struct child child;

	SKIP_UNDER_THREAD_SANITIZER;
	NEEDS_WIPE_ON_FORK();
	SKIP_ON_REFERENCE("holds no fsync");
	SCENE_OPEN(&scene);
	holdfs_hold(scene.fs, HOLDFS_WRITE);
	make_pipe(job.may_leave, 0);
	child_start(&child, sync_and_leave, &job);
	expect_said(&child, 's');
	close_pair(job.may_leave);
	expect_said(&child, 'x');
	wait_operation(scene.fs, HOLDFS_WRITE, SUBJECT, 0);
	ck_assert(sync_is_held(&scene, 0));
	ck_assert_int_eq(waitpid(child.pid, NULL, WNOHANG), 0);
	holdfs_release_all(scene.fs);
	expect_child_gone(&child);
	ck_assert_uint_eq(syncs(&scene), 1);
	sync = holdfs_operation(scene.fs, wait_operation(scene.fs, HOLDFS_FSYNC, SUBJECT, 0));
	ck_assert_uint_gt(sync.arrived, last_answered(&scene, HOLDFS_WRITE));
	scene_close(&scene);
}

/*
 * The write has begun, so the kernel finishes it in any case; the fsync was still the library's.
 */
CASE(sudden_ends_drop_a_held_fsync)
{
	static const enum ending endings[] = { BY_BARE_EXIT, BY_KILL, BY_EXEC };

	SKIP_UNDER_THREAD_SANITIZER;
	NEEDS_WIPE_ON_FORK();
	SKIP_ON_REFERENCE("holds no fsync");
	for (int i = 0; i < 3; i++) {
		struct scene scene;
		struct sync_job job = { .scene = &scene, .ending = endings[i] };
		struct child child;
		int status;

		SCENE_OPEN(&scene);
		holdfs_hold(scene.fs, HOLDFS_WRITE);
		make_pipe(job.may_leave, 0);
		child_start(&child, sync_and_leave, &job);
		expect_said(&child, 's');
		wait_operation(scene.fs, HOLDFS_WRITE, SUBJECT, 0);
		close_pair(job.may_leave);
		WAIT_UNTIL(has_left(child.pid, endings[i]));
		holdfs_release_all(scene.fs);
		status = child_status(&child);
		if (endings[i] == BY_KILL)
			ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
		else
			ck_assert_int_eq(status, 0);
		ck_assert_uint_eq(syncs(&scene), 0);
		ck_assert_int_eq(holdfs_medium(scene.fs, SUBJECT)[0], 'a');
		scene_close(&scene);
	}
}

/* What the kernel has accepted, on a real disk. */
#define DISK_WRITES 32

static void write_file_and_leave(struct child *child, void *argument)
{
	struct iocb iocbs[DISK_WRITES + 1], *batch[DISK_WRITES + 1];
	int fd = *(int *)argument;
	io_context_t ctx = NULL;

	CHILD_CHECK(io_setup(DISK_WRITES + 1, &ctx) == 0);
	for (unsigned i = 0; i < DISK_WRITES; i++) {
		prepare_write(&iocbs[i], fd, i);
		batch[i] = &iocbs[i];
	}
	prepare_sync(&iocbs[DISK_WRITES], fd, IO_CMD_FSYNC);
	batch[DISK_WRITES] = &iocbs[DISK_WRITES];
	CHILD_CHECK(io_submit(ctx, DISK_WRITES + 1, batch) == DISK_WRITES + 1);
	end_process(child, BY_EXIT);
}

CASE(exit_loses_no_write_to_a_file)
{
	int buffered = scratch_file((size_t)DISK_WRITES * BLOCK_BYTES), direct;
	struct child child;

	SKIP_UNDER_THREAD_SANITIZER;
	direct = reopen_file(buffered, O_RDWR | O_DIRECT);
	if (direct < 0)
		SKIP("no O_DIRECT here");
	child_start(&child, write_file_and_leave, &direct);
	expect_said(&child, 'x');
	expect_child_gone(&child);
	for (unsigned i = 0; i < DISK_WRITES; i++) {
		char *block = read_blocks[i];

		ck_assert_int_eq(pread(direct, block, BLOCK_BYTES, (off_t)i * BLOCK_BYTES),
				 BLOCK_BYTES);
		ck_assert(block[0] == (char)('a' + i % 26) && block[BLOCK_BYTES - 1] == block[0]);
	}
	close(direct);
	close(buffered);
	prove_engine_here();
}

/*
 * What does not keep a process.
 */

struct idle_job {
	int ends[2];
	io_context_t ctx;
};

static void *wait_for_ever(void *argument)
{
	struct io_event event;

	io_getevents(*(io_context_t *)argument, 1, 1, &event, NULL);
	return NULL;
}

/* A read without data, a POLL, and a thread that waits for both. */
static void wait_and_leave(struct child *child, void *argument)
{
	struct idle_job *job = argument;
	struct iocb iocbs[2], *batch[] = { &iocbs[0], &iocbs[1] };
	pthread_t thread;
	char byte;

	CHILD_CHECK(io_setup(4, &job->ctx) == 0);
	io_prep_poll(&iocbs[0], job->ends[0], POLLIN);
	io_prep_pread(&iocbs[1], job->ends[0], &byte, 1, 0);
	CHILD_CHECK(io_submit(job->ctx, on_reference() ? 1 : 2, batch) >= 1);
	CHILD_CHECK(pthread_create(&thread, NULL, wait_for_ever, &job->ctx) == 0);
	end_process(child, BY_EXIT);
}

CASE(exit_does_not_wait_for_reads_and_sleepers)
{
	struct idle_job job = { .ctx = NULL };
	struct child child;

	SKIP_UNDER_THREAD_SANITIZER;
	for (int round = 0; round < 20; round++) {
		make_pipe(job.ends, 0);
		child_start(&child, wait_and_leave, &job);
		expect_said(&child, 'x');
		expect_child_gone(&child);
		close_pair(job.ends);
	}
	prove_engine_here();
}

/* It has inherited them as memory only; they are none of its business, also not at exit. */
static void leave_at_once(struct child *child, void *argument)
{
	(void)argument;
	end_process(child, BY_EXIT);
}

CASE(exit_of_a_child_does_not_wait_for_its_parents_requests)
{
	struct scene scene;
	struct iocb iocbs[3];
	struct child child;
	char byte;
	int ends[2];

	SKIP_UNDER_THREAD_SANITIZER;
	NEEDS_LOCKS_THAT_FORK();
	SKIP_ON_REFERENCE("holds no fsync");
	SCENE_OPEN(&scene);
	make_pipe(ends, 0);
	prepare_write(&iocbs[0], scene.fd, 0);
	prepare_sync(&iocbs[1], scene.fd, IO_CMD_FSYNC);
	io_prep_pread(&iocbs[2], ends[0], &byte, 1, 0);
	holdfs_hold(scene.fs, HOLDFS_WRITE);
	expect_all_submitted(scene.ctx, iocbs, 3, HERE);
	wait_operation(scene.fs, HOLDFS_WRITE, SUBJECT, 0);
	child_start(&child, leave_at_once, NULL);
	expect_said(&child, 'x');
	expect_child_gone(&child);
	ck_assert(sync_is_held(&scene, 0));
	holdfs_release_all(scene.fs);
	expect_event(scene.ctx, &iocbs[0], BLOCK_BYTES, HERE);
	expect_event(scene.ctx, &iocbs[1], 0, HERE);
	ck_assert_int_eq(write(ends[1], "x", 1), 1);
	expect_event(scene.ctx, &iocbs[2], 1, HERE);
	close_pair(ends);
	scene_close(&scene);
}

/* Threads that go on submitting and reaping while the process ends under them. */
static void *make_traffic(void *argument)
{
	io_context_t ctx = *(io_context_t *)argument;
	int file = open("/dev/zero", O_RDONLY | O_CLOEXEC), ends[2];
	struct timespec limit = { .tv_sec = 1 };
	struct io_event events[2];
	struct iocb iocbs[2], *batch[] = { &iocbs[0], &iocbs[1] };
	char bytes[2][8];

	CHILD_CHECK(file >= 0 && pipe2(ends, O_CLOEXEC) == 0);
	for (;;) {
		io_prep_pread(&iocbs[0], file, bytes[0], 8, 0);
		io_prep_pread(&iocbs[1], ends[0], bytes[1], 8, 0);
		CHILD_CHECK(write(ends[1], "traffic", 8) == 8);
		io_submit(ctx, 2, batch);
		io_getevents(ctx, 1, 2, events, &limit);
	}
	return NULL;
}

static void leave_under_traffic(struct child *child, void *argument)
{
	static io_context_t ctx;
	struct io_event event;
	struct timespec limit = { .tv_sec = EVENT_LIMIT_SECONDS };
	pthread_t threads[2];

	(void)argument;
	CHILD_CHECK(io_setup(64, &ctx) == 0);
	for (int i = 0; i < 2; i++)
		CHILD_CHECK(pthread_create(&threads[i], NULL, make_traffic, &ctx) == 0);
	for (int i = 0; i < 10; i++)
		CHILD_CHECK(io_getevents(ctx, 1, 1, &event, &limit) >= 0);
	end_process(child, BY_EXIT);
}

CASE(exit_under_traffic_neither_crashes_nor_hangs)
{
	SKIP_UNDER_THREAD_SANITIZER;
	for (int round = 0; round < 30; round++) {
		struct child child;

		child_start(&child, leave_under_traffic, NULL);
		expect_said(&child, 'x');
		expect_child_gone(&child);
	}
	prove_engine_here();
}

/*
 * Runs after the library's own work at exit, as it was registered before the library was first
 * used.
 */
static io_context_t late_ctx;

static void use_in_exit_handler(void)
{
	struct timespec limit = { .tv_sec = EVENT_LIMIT_SECONDS };
	int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC), ends[2];
	struct iocb iocbs[2], *batch[] = { &iocbs[0], &iocbs[1] };
	struct io_event events[2];
	char bytes[2][8];

	CHILD_CHECK(pipe2(ends, O_CLOEXEC) == 0 && write(ends[1], "at exit", 8) == 8);
	io_prep_pread(&iocbs[0], zero, bytes[0], 8, 0);
	io_prep_pread(&iocbs[1], ends[0], bytes[1], 8, 0);
	CHILD_CHECK(io_submit(late_ctx, 2, batch) == 2);
	CHILD_CHECK(io_getevents(late_ctx, 2, 2, events, &limit) == 2);
	CHILD_CHECK(io_destroy(late_ctx) == 0);
}

static void use_late(struct child *child, void *argument)
{
	(void)argument;
	CHILD_CHECK(atexit(use_in_exit_handler) == 0);
	CHILD_CHECK(io_setup(4, &late_ctx) == 0);
	use_in_exit_handler();
	late_ctx = NULL;
	CHILD_CHECK(io_setup(4, &late_ctx) == 0);
	end_process(child, BY_EXIT);
}

CASE(library_works_in_exit_handlers)
{
	struct child child;

	SKIP_UNDER_THREAD_SANITIZER;
	child_start(&child, use_late, NULL);
	expect_said(&child, 'x');
	expect_child_gone(&child);
	prove_engine_here();
}
