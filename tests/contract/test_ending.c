/* SPDX-License-Identifier: MIT */
/*
 * Goal: exit() finishes what the process owed when it began, wherever it is called and whatever
 * the other threads do: in the first thread or in another, in a handler that has interrupted a
 * wait, beside a handler that stays, after a wait that was left by a jump, while others go on
 * submitting for ever.  And it ends.
 *
 * Method: a child process owes writes to a pipe that nobody reads, an fsync behind a write that
 * the disk holds, or writes to a file that the library may carry out in its threads; it says so
 * and leaves.  Once it is seen on its way out, the pipe is read and the disk let go.  What has
 * arrived then tells what was finished.
 */
#include "children.h"
#include "scene.h"

#include <setjmp.h>

#define SKIP_UNDER_THREAD_SANITIZER()                                                              \
	do {                                                                                       \
		if (UNDER_THREAD_SANITIZER)                                                        \
			SKIP("ThreadSanitizer does not work in a forked child");                   \
	} while (0)

#define EXIT_CODE 7

enum owed { A_PIPE, AN_FSYNC, A_FILE, OWED };

static const char *const owed_names[] = { "writes to a pipe", "a held fsync", "writes to a file" };

enum leaving {
	IN_FIRST_THREAD,
	IN_SECOND_THREAD, /* the first sleeps in io_getevents */
	IN_HANDLER, /* that has interrupted io_getevents */
	IN_HANDLER_MASKED, /* io_pgetevents */
	IN_HANDLER_OF_SECOND,
	BESIDE_A_HANDLER, /* of another thread, that stays */
	AFTER_A_JUMP, /* out of io_getevents */
	AFTER_A_THREADS_END, /* in io_getevents */
};

static const char *const leaving_names[] = {
	"in the first thread",
	"in the second thread",
	"in a handler",
	"in a handler that io_pgetevents has let in",
	"in a handler of the second thread",
	"beside a handler",
	"after a jump",
	"after the end of a thread",
};

/* More than a pipe holds. */
#define PIPE_WRITES 8
#define PIPE_WRITE_BYTES 65536
#define PIPE_BYTES ((size_t)PIPE_WRITES * PIPE_WRITE_BYTES)
#define FILE_WRITES 16

static struct job {
	enum owed owed;
	enum leaving leaving;
	bool endless; /* other threads submit for ever */
	char what[160];
	struct scene *disk;
	int ends[2];
	int buffered, direct, synchronous; /* a file, opened in three ways */
	int endless_file;
	const struct child *child;
	io_context_t ctx;
	pthread_t sleeper;
	_Atomic pid_t sleeper_tid;
	_Atomic bool in_handler;
	sigjmp_buf back;
	char data[PIPE_BYTES];
} job;

/*
 * In the child.
 */

static void tell_leaving(void)
{
	child_says(job.child, 'x');
}

static void leave(void)
{
	/* Runs before anything that the library does at exit. */
	CHILD_CHECK(atexit(tell_leaving) == 0);
	exit(EXIT_CODE);
}

static void submit(io_context_t ctx, struct iocb *iocb)
{
	CHILD_CHECK(io_submit(ctx, 1, &iocb) == 1);
}

static void owe_to_pipe(void)
{
	for (int i = 0; i < PIPE_WRITES; i++) {
		struct iocb iocb;

		io_prep_pwrite(&iocb, job.ends[1], job.data + (size_t)i * PIPE_WRITE_BYTES,
			       PIPE_WRITE_BYTES, 0);
		submit(job.ctx, &iocb);
	}
}

static void owe_fsync(void)
{
	struct iocb iocbs[2], *batch[] = { &iocbs[0], &iocbs[1] };

	prepare_write(&iocbs[0], job.disk->fd, 0);
	prepare_sync(&iocbs[1], job.disk->fd, IO_CMD_FSYNC);
	CHILD_CHECK(io_submit(job.ctx, 2, batch) == 2);
}

/* All that extends the file or is to be on the disk; an fsync behind it. */
static void owe_to_file(void)
{
	const int fds[] = { job.synchronous, job.direct, job.buffered };
	struct iocb iocb;

	for (unsigned i = 0; i < FILE_WRITES; i++) {
		prepare_write(&iocb, fds[i % 3], i);
		submit(job.ctx, &iocb);
	}
	prepare_sync(&iocb, job.buffered, IO_CMD_FSYNC);
	submit(job.ctx, &iocb);
}

static void owe(void)
{
	CHILD_CHECK(io_setup(64, &job.ctx) == 0);
	if (job.owed == A_PIPE)
		owe_to_pipe();
	else if (job.owed == AN_FSYNC)
		owe_fsync();
	else
		owe_to_file();
}

/* More than will ever come, so it does not end before the process. */
static int wait_for_too_many(void)
{
	struct io_event events[64];
	sigset_t none;

	sigemptyset(&none);
	if (job.leaving == IN_HANDLER_MASKED)
		return io_pgetevents(job.ctx, 64, 64, events, NULL, &none);
	return io_getevents(job.ctx, 64, 64, events, NULL);
}

static void handle(int number)
{
	(void)number;
	switch (job.leaving) {
	case AFTER_A_JUMP:
		siglongjmp(job.back, 1);
	case AFTER_A_THREADS_END:
		pthread_exit(NULL);
	case BESIDE_A_HANDLER:
		atomic_store(&job.in_handler, true);
		for (;;)
			pause();
	default:
		leave();
	}
}

static void sleep_here(void)
{
	sigset_t usr1;

	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	pthread_sigmask(job.leaving == IN_HANDLER_MASKED ? SIG_BLOCK : SIG_UNBLOCK, &usr1, NULL);
	job.sleeper = pthread_self();
	atomic_store(&job.sleeper_tid, gettid());
	/* A leak checker stops all threads and lets them go on, which ends a wait. */
	if (sigsetjmp(job.back, 1) == 0)
		for (;;)
			wait_for_too_many();
}

static void *sleep_in_thread(void *argument)
{
	(void)argument;
	sleep_here();
	return NULL;
}

static void wait_for_sleeper(void)
{
	CHILD_WAIT_UNTIL(task_is_blocked(atomic_load(&job.sleeper_tid)));
}

static void *interrupt_sleeper(void *argument)
{
	(void)argument;
	wait_for_sleeper();
	pthread_kill(job.sleeper, SIGUSR1);
	return NULL;
}

static void *leave_when_the_first_sleeps(void *argument)
{
	(void)argument;
	wait_for_sleeper();
	leave();
	return NULL;
}

static pthread_t in_thread(void *(*run)(void *))
{
	pthread_t thread;

	CHILD_CHECK(pthread_create(&thread, NULL, run, NULL) == 0);
	return thread;
}

static void leave_as_told(void)
{
	pthread_t thread;

	switch (job.leaving) {
	case IN_FIRST_THREAD:
		leave();
		break;
	case IN_SECOND_THREAD:
		in_thread(leave_when_the_first_sleeps);
		sleep_here();
		break;
	case IN_HANDLER:
	case IN_HANDLER_MASKED:
		in_thread(interrupt_sleeper);
		sleep_here();
		break;
	case IN_HANDLER_OF_SECOND:
		in_thread(interrupt_sleeper);
		pthread_join(in_thread(sleep_in_thread), NULL);
		break;
	case BESIDE_A_HANDLER:
		in_thread(sleep_in_thread);
		interrupt_sleeper(NULL);
		while (!atomic_load(&job.in_handler))
			contract_pause();
		leave();
		break;
	case AFTER_A_JUMP:
		in_thread(interrupt_sleeper);
		sleep_here();
		leave();
		break;
	case AFTER_A_THREADS_END:
		thread = in_thread(sleep_in_thread);
		interrupt_sleeper(NULL);
		pthread_join(thread, NULL);
		leave();
	}
}

/*
 * Threads that always owe something, to the end of the process.
 */

#define ENDLESS_IN_FLIGHT 4

static void submit_for_ever(struct iocb *iocbs, int count)
{
	struct iocb *batch[ENDLESS_IN_FLIGHT];
	io_context_t ctx = NULL;

	for (int i = 0; i < count; i++)
		batch[i] = &iocbs[i];
	CHILD_CHECK(io_setup(ENDLESS_IN_FLIGHT, &ctx) == 0);
	CHILD_CHECK(io_submit(ctx, count, batch) == count);
	for (;;) {
		struct io_event event;

		if (io_getevents(ctx, 1, 1, &event, NULL) == 1)
			while (io_submit(ctx, 1, &event.obj) != 1)
				contract_pause();
	}
}

static char endless_bytes[ENDLESS_IN_FLIGHT][PIPE_WRITE_BYTES];
static int endless_pipe[2];

static void *write_pipe_for_ever(void *argument)
{
	struct iocb iocbs[ENDLESS_IN_FLIGHT];
	/* A blocking write of another libaio is in io_submit. */
	int count = on_reference() ? 1 : ENDLESS_IN_FLIGHT;

	(void)argument;
	for (int i = 0; i < count; i++)
		io_prep_pwrite(&iocbs[i], endless_pipe[1], endless_bytes[i], PIPE_WRITE_BYTES, 0);
	submit_for_ever(iocbs, count);
	return NULL;
}

static void *write_same_pipe_for_ever(void *argument)
{
	struct iocb iocbs[ENDLESS_IN_FLIGHT];

	(void)argument;
	for (int i = 0; i < ENDLESS_IN_FLIGHT; i++)
		io_prep_pwrite(&iocbs[i], job.ends[1], endless_bytes[i], PIPE_WRITE_BYTES, 0);
	submit_for_ever(iocbs, ENDLESS_IN_FLIGHT);
	return NULL;
}

/* Not too fast: so the writer has always more in flight than has been read. */
static void *read_pipe_for_ever(void *argument)
{
	static char bytes[PIPE_WRITE_BYTES / 8];

	(void)argument;
	for (;;) {
		CHILD_CHECK(read(endless_pipe[0], bytes, sizeof(bytes)) > 0);
		contract_pause();
	}
	return NULL;
}

static void *synchronize_for_ever(void *argument)
{
	static char block[BLOCK_BYTES] __attribute__((aligned(BLOCK_BYTES)));
	struct iocb iocbs[ENDLESS_IN_FLIGHT];

	(void)argument;
	for (int i = 0; i < ENDLESS_IN_FLIGHT; i += 2) {
		io_prep_pwrite(&iocbs[i], job.endless_file, block, BLOCK_BYTES,
			       (long long)i * BLOCK_BYTES);
		io_prep_fsync(&iocbs[i + 1], job.endless_file);
	}
	submit_for_ever(iocbs, ENDLESS_IN_FLIGHT);
	return NULL;
}

static void start_endless_threads(void)
{
	CHILD_CHECK(pipe2(endless_pipe, O_CLOEXEC) == 0);
	in_thread(read_pipe_for_ever);
	in_thread(write_pipe_for_ever);
	in_thread(synchronize_for_ever);
}

static void owe_and_leave(struct child *child, void *argument)
{
	struct sigaction action = { .sa_handler = handle };

	(void)argument;
	job.child = child;
	if (job.owed == A_PIPE)
		close(job.ends[0]);
	CHILD_CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
	owe();
	if (job.endless)
		start_endless_threads();
	child_says(child, 's');
	leave_as_told();
}

/*
 * In the test.
 */

/* A slow reader; what follows the data that is owed is nobody's. */
static void expect_all_data(bool nothing_else)
{
	long long end_ns = monotonic_ns() + EVENT_LIMIT_SECONDS * 1000000000LL;
	size_t length = 0;
	char piece[1000];
	ssize_t got;

	while ((got = read_from_child(job.ends[0], piece, sizeof(piece), job.what)) > 0) {
		size_t due = length < PIPE_BYTES ? PIPE_BYTES - length : 0;
		size_t compared = (size_t)got < due ? (size_t)got : due;

		ck_assert_msg(memcmp(piece, job.data + length, compared) == 0,
			      "%s: other data near byte %zu", job.what, length);
		ck_assert_msg(compared == (size_t)got || !nothing_else, "%s: more than was written",
			      job.what);
		ck_assert_msg(monotonic_ns() < end_ns, "%s: the child does not end", job.what);
		length += (size_t)got;
		/* The others never run out of what they have in flight. */
		if (length > PIPE_BYTES)
			contract_pause();
	}
	ck_assert_msg(length >= PIPE_BYTES, "%s: %zu of %zu bytes were written", job.what, length,
		      PIPE_BYTES);
}

static void expect_sync(unsigned syncs_before)
{
	unsigned count = syncs(job.disk);
	struct holdfs_operation sync;

	ck_assert_msg(count == syncs_before + 1, "%s: synchronized %u times", job.what,
		      count - syncs_before);
	sync = holdfs_operation(job.disk->fs,
				wait_operation(job.disk->fs, HOLDFS_FSYNC, SUBJECT, syncs_before));
	ck_assert_msg(sync.arrived > last_answered(job.disk, HOLDFS_WRITE),
		      "%s: synchronized before the write", job.what);
}

static void expect_file(void)
{
	struct stat status;

	ck_assert_int_eq(fstat(job.buffered, &status), 0);
	ck_assert_msg(status.st_size == (off_t)FILE_WRITES * BLOCK_BYTES,
		      "%s: the file has %lld bytes", job.what, (long long)status.st_size);
	for (unsigned i = 0; i < FILE_WRITES; i++) {
		char *block = read_blocks[i];

		ck_assert_int_eq(pread(job.buffered, block, BLOCK_BYTES, (off_t)i * BLOCK_BYTES),
				 BLOCK_BYTES);
		ck_assert_msg(block[0] == (char)('a' + i % 26) &&
				      block[BLOCK_BYTES - 1] == block[0],
			      "%s: write %u is not there", job.what, i);
	}
}

static void run_job(enum owed owed, enum leaving leaving, bool endless)
{
	struct child child;
	unsigned syncs_before = 0;

	job.owed = owed;
	job.leaving = leaving;
	job.endless = endless;
	snprintf(job.what, sizeof(job.what), "%s, exit %s", owed_names[owed],
		 leaving_names[leaving]);
	if (owed == A_PIPE)
		make_pipe(job.ends, 0);
	else if (owed == A_FILE)
		ck_assert_int_eq(ftruncate(job.buffered, 0), 0);
	if (owed == AN_FSYNC) {
		syncs_before = syncs(job.disk);
		holdfs_hold(job.disk->fs, HOLDFS_WRITE);
	}
	child_start(&child, owe_and_leave, NULL);
	if (owed == A_PIPE)
		close(job.ends[1]);
	expect_said(&child, 's', job.what);
	expect_said(&child, 'x', job.what);
	if (owed == A_PIPE)
		expect_all_data(true);
	else if (owed == AN_FSYNC)
		holdfs_release_all(job.disk->fs);
	expect_child_exits(&child, EXIT_CODE, job.what);
	if (owed == A_PIPE)
		close(job.ends[0]);
	else if (owed == AN_FSYNC)
		expect_sync(syncs_before);
	else
		expect_file();
}

/* The engine that this process would have is the child's too. */
static void prove_engine_here(void)
{
	free_context(new_context(1));
}

static void exit_with_everything_owed(enum leaving leaving, bool endless)
{
	struct scene disk;

	SKIP_UNDER_THREAD_SANITIZER();
	NEEDS_WIPE_ON_FORK();
	memset(&job, 0, sizeof(job));
	fill_pattern(job.data, 0, PIPE_BYTES);
	job.buffered = scratch_file(0);
	job.synchronous = reopen_file(job.buffered, O_RDWR | O_DSYNC);
	job.direct = reopen_file(job.buffered, O_RDWR | O_DIRECT);
	job.endless_file = scratch_file((size_t)ENDLESS_IN_FLIGHT * BLOCK_BYTES);
	ck_assert_int_ge(job.synchronous, 0);
	if (job.direct < 0)
		job.direct = dup(job.buffered);
	run_job(A_FILE, leaving, endless);
	if (on_reference())
		goto done; /* A pipe holds io_submit there, and no fsync is held. */
	run_job(A_PIPE, leaving, endless);
	SCENE_OPEN(&disk);
	job.disk = &disk;
	run_job(AN_FSYNC, leaving, endless);
	scene_close(&disk);
done:
	close(job.buffered);
	close(job.synchronous);
	close(job.direct);
	close(job.endless_file);
	prove_engine_here();
}

CASE(exit_finishes_what_is_owed)
{
	exit_with_everything_owed(IN_FIRST_THREAD, false);
}

CASE(exit_in_a_second_thread_finishes_what_is_owed_while_the_first_waits)
{
	exit_with_everything_owed(IN_SECOND_THREAD, false);
}

CASE(exit_in_a_handler_that_has_interrupted_a_wait_finishes_what_is_owed)
{
	exit_with_everything_owed(IN_HANDLER, false);
}

CASE(exit_in_a_handler_that_a_mask_has_let_in_finishes_what_is_owed)
{
	exit_with_everything_owed(IN_HANDLER_MASKED, false);
}

CASE(exit_in_a_handler_of_a_second_thread_finishes_what_is_owed)
{
	exit_with_everything_owed(IN_HANDLER_OF_SECOND, false);
}

CASE(exit_beside_a_handler_that_stays_finishes_what_is_owed)
{
	exit_with_everything_owed(BESIDE_A_HANDLER, false);
}

CASE(exit_after_a_jump_out_of_a_wait_finishes_what_is_owed)
{
	exit_with_everything_owed(AFTER_A_JUMP, false);
}

CASE(exit_after_the_end_of_a_waiting_thread_finishes_what_is_owed)
{
	exit_with_everything_owed(AFTER_A_THREADS_END, false);
}

CASE(exit_finishes_what_is_owed_and_ends_while_others_submit_for_ever)
{
	exit_with_everything_owed(IN_FIRST_THREAD, true);
}

CASE(exit_in_a_handler_finishes_what_is_owed_and_ends_while_others_submit_for_ever)
{
	exit_with_everything_owed(IN_HANDLER, true);
}

/* What is owed stands before what comes, in the same line. */
static void owe_before_endless_writes(struct child *child, void *argument)
{
	(void)argument;
	job.child = child;
	close(job.ends[0]);
	owe();
	in_thread(write_same_pipe_for_ever);
	child_says(child, 's');
	leave();
}

CASE(exit_finishes_what_is_owed_to_a_pipe_that_others_write_to_for_ever)
{
	struct child child;

	SKIP_UNDER_THREAD_SANITIZER();
	SKIP_ON_REFERENCE("a pipe holds io_submit");
	memset(&job, 0, sizeof(job));
	snprintf(job.what, sizeof(job.what), "an endless pipe");
	fill_pattern(job.data, 0, PIPE_BYTES);
	make_pipe(job.ends, 0);
	child_start(&child, owe_before_endless_writes, NULL);
	close(job.ends[1]);
	expect_said(&child, 's', job.what);
	expect_said(&child, 'x', job.what);
	expect_all_data(false);
	expect_child_exits(&child, EXIT_CODE, job.what);
	close(job.ends[0]);
	prove_engine_here();
}

/* Handlers of exit() run before the library's own end, so what they submit is owed. */
static void owe_in_exit_handler(void)
{
	owe();
}

static void leave_and_owe(struct child *child, void *argument)
{
	(void)argument;
	job.child = child;
	if (job.owed == A_PIPE)
		close(job.ends[0]);
	/* The library is in use already. */
	CHILD_CHECK(io_setup(1, &job.ctx) == 0 && io_destroy(job.ctx) == 0);
	job.ctx = NULL;
	child_says(child, 's');
	CHILD_CHECK(atexit(tell_leaving) == 0);
	CHILD_CHECK(atexit(owe_in_exit_handler) == 0);
	exit(EXIT_CODE);
}

CASE(exit_finishes_what_its_handlers_submit)
{
	struct child child;

	SKIP_UNDER_THREAD_SANITIZER();
	SKIP_ON_REFERENCE("a pipe holds io_submit");
	memset(&job, 0, sizeof(job));
	snprintf(job.what, sizeof(job.what), "a handler of exit");
	fill_pattern(job.data, 0, PIPE_BYTES);
	make_pipe(job.ends, 0);
	child_start(&child, leave_and_owe, NULL);
	close(job.ends[1]);
	expect_said(&child, 's', job.what);
	expect_said(&child, 'x', job.what);
	expect_all_data(true);
	expect_child_exits(&child, EXIT_CODE, job.what);
	close(job.ends[0]);
	prove_engine_here();
}

/*
 * exit() in a handler that has interrupted the library anywhere.
 */

#define RECORD_BYTES 512
#define SUDDEN_ROUNDS 60

struct record {
	unsigned long number;
	char rest[RECORD_BYTES - sizeof(unsigned long)];
};

static _Atomic unsigned long *accepted; /* shared with the child */

static void exit_now(int number)
{
	(void)number;
	exit(EXIT_CODE);
}

static void write_records_until_interrupted(struct child *child, void *argument)
{
	static struct record records[16];
	const int writer = *(const int *)argument;
	struct timespec zero = { 0 };
	struct io_event events[16];
	io_context_t ctx = NULL;

	CHILD_CHECK(io_setup(16, &ctx) == 0);
	CHILD_CHECK(signal(SIGUSR1, exit_now) != SIG_ERR);
	child_says(child, 's');
	for (unsigned long next = 0, taken = 0;;) {
		struct iocb iocb, *batch[] = { &iocb };
		int got;

		if (next < taken + 16) {
			records[next % 16].number = next;
			io_prep_pwrite(&iocb, writer, &records[next % 16], RECORD_BYTES, 0);
			if (io_submit(ctx, 1, batch) == 1)
				atomic_store(accepted, ++next);
		}
		got = io_getevents(ctx, next == taken + 16, 16, events, next % 2 ? &zero : NULL);
		taken += got > 0 ? (unsigned long)got : 0;
	}
}

/* Reads until there is no writer any more; after so many records the writer is interrupted. */
static unsigned long read_records(int reader, unsigned long until, pid_t child, const char *what)
{
	long long end_ns = monotonic_ns() + EVENT_LIMIT_SECONDS * 1000000000LL;
	struct record record;
	unsigned long count = 0;
	ssize_t got;

	while ((got = read_from_child(reader, &record, sizeof(record), what)) > 0) {
		ck_assert_msg(got == sizeof(record) && record.number == count,
			      "%s: record %lu has %zd bytes and is number %lu", what, count, got,
			      record.number);
		if (++count == until)
			ck_assert_int_eq(kill(child, SIGUSR1), 0);
		ck_assert_msg(monotonic_ns() < end_ns, "%s: the child does not end", what);
	}
	return count;
}

CASE(exit_in_a_handler_at_any_moment_ends_and_loses_no_accepted_write)
{
	unsigned long count, counted;

	SKIP_UNDER_THREAD_SANITIZER();
	if (UNDER_ADDRESS_SANITIZER)
		SKIP("AddressSanitizer does not end in a handler that has interrupted it");
	accepted = mmap(NULL, sizeof(*accepted), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			-1, 0);
	ck_assert_ptr_ne((void *)accepted, MAP_FAILED);
	for (unsigned long round = 0; round < SUDDEN_ROUNDS; round++) {
		struct child child;
		char what[64];
		int ends[2];

		snprintf(what, sizeof(what), "round %lu", round);
		atomic_store(accepted, 0);
		make_pipe(ends, 0);
		child_start(&child, write_records_until_interrupted, &ends[1]);
		close(ends[1]);
		expect_said(&child, 's', what);
		count = read_records(ends[0], 1 + round * 7 % 100, child.pid, what);
		counted = atomic_load(accepted);
		ck_assert_msg(count >= counted, "%s: %lu of %lu records", what, count, counted);
		expect_child_exits(&child, EXIT_CODE, what);
		close(ends[0]);
	}
	munmap((void *)accepted, sizeof(*accepted));
	prove_engine_here();
}
