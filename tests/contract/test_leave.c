/* SPDX-License-Identifier: MIT */
/*
 * Goal: a call that sleeps may be left other than by return, as a bare system call may: by
 * siglongjmp, by the end of its thread, by a handler that forks, ends the process or stays where it
 * is.  Nobody else's wait, fsync or io_destroy depends on who has left, and the next call of the
 * thread works.
 *
 * Method: one thread, the leaver, sleeps in each of the calls that sleep, alone or among others,
 * and a signal makes it leave.  Then a request ends: a POLL, which only the kernel can complete; a
 * read of a pipe, which the library does; an fsync that was held behind a write.  Its event must
 * come to those who are left, once, and io_destroy must wake them.  Every step is taken in a thread
 * of its own, so that a call that hangs is named.
 */
#include "scene.h"

#include <sched.h>
#include <setjmp.h>

#define SKIP_UNDER_THREAD_SANITIZER()                                                              \
	do {                                                                                       \
		if (UNDER_THREAD_SANITIZER)                                                        \
			SKIP("ThreadSanitizer runs no handler inside a system call");              \
	} while (0)

enum way {
	RETURN, /* which shows that the test can pass */
	JUMP,
	NESTED_JUMP, /* out of a wait in a handler and the wait that it has interrupted */
	THREAD_END,
	CANCEL,
	FORK,
	BARE_FORK,
	CLONE,
	STAY,
};

static const char *const way_names[] = {
	"return",	"siglongjmp", "siglongjmp out of two",
	"pthread_exit", "cancelled",  "fork",
	"_Fork",	"clone",      "stays",
};

enum place { ENDLESS, HOUR, FOR_THREE, MASKED, QUEUE_WAIT, PLACES };

static const char *const place_names[] = {
	"io_getevents",	 "io_getevents, an hour", "io_getevents for three of which one is there",
	"io_pgetevents", "io_queue_wait",
};

/* When the others fall asleep: never, after it has left, before it sleeps, while it sleeps. */
enum others { NOBODY, LATER, BEFORE, BETWEEN, OTHERS };

static const char *const others_names[] = { "alone", "before others", "behind others",
					    "with others behind it" };

enum ending { BY_POLL, BY_PIPE, BY_FSYNC };

static const char *const ending_names[] = { "poll", "pipe", "fsync" };

/* What the events' data say. */
enum number {
	REQUEST = 1,
	WRITE, /* that the fsync waits for */
	THERE, /* an event that is there when the leaver comes */
	NEXT, /* of the leaver, when it has left */
	NUMBERS,
};

#define OTHER_THREADS 2

struct stage;

struct other {
	struct worker worker;
	struct stage *stage;
	_Atomic int last;
};

static struct stage {
	io_context_t ctx;
	enum way way;
	enum place place;
	enum others when;
	enum ending ending;
	bool early; /* the request is in flight when the leaver sleeps */
	bool quiet; /* the leaver calls nothing any more when it has left */
	char what[200];
	struct scene *disk;
	int zero;
	int ends[2]; /* of a pipe, or twice an eventfd */
	int counter; /* the request's eventfd */
	int let_go[2]; /* a pipe that is closed when a handler may end */
	struct iocb iocbs[2];
	struct iocb callback_iocbs[3];
	struct other leaver;
	struct other others[OTHER_THREADS];
	sigjmp_buf back;
	struct io_event in_hand[8];
	_Atomic bool nested;
	_Atomic bool left;
	_Atomic bool destroyed;
	_Atomic pid_t child;
	int result;
	_Atomic int seen[NUMBERS];
} stage;

static bool in_child; /* in its own copy */

static void join_thread(struct worker *worker, const char *who)
{
	struct timespec end;
	int error;

	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += EVENT_LIMIT_SECONDS;
	error = pthread_timedjoin_np(worker->thread, NULL, &end);
	ck_assert_msg(error == 0, "%s: %s does not end: %s", stage.what, who, strerror(error));
}

#define STAGE_WAIT_UNTIL(condition)                                                                \
	do {                                                                                       \
		long long end_ns = monotonic_ns() + EVENT_LIMIT_SECONDS * 1000000000LL;            \
		while (!(condition)) {                                                             \
			ck_assert_msg(monotonic_ns() < end_ns, "%s: still not: %s", stage.what,    \
				      #condition);                                                 \
			contract_pause();                                                          \
		}                                                                                  \
	} while (0)

static void note_events(const struct io_event *events, int count)
{
	for (int i = 0; i < count; i++) {
		long number = (long)events[i].data;

		ck_assert_msg(number > 0 && number < NUMBERS, "%s: an event of no request",
			      stage.what);
		ck_assert_msg((long)events[i].res >= 0, "%s: the result is %ld", stage.what,
			      (long)events[i].res);
		atomic_fetch_add(&stage.seen[number], 1);
	}
}

static bool has_seen(enum number number)
{
	return atomic_load(&stage.seen[number]) > 0;
}

/* What the call had stored when it was left is the program's. */
static void note_what_is_in_hand(void)
{
	for (int i = 0; i < 8; i++)
		if (stage.in_hand[i].obj)
			note_events(&stage.in_hand[i], 1);
}

/* Takes events until the context is gone; what says so is stored. */
static void reap_until_destroyed(struct other *self)
{
	struct io_event events[8];
	int got;

	while ((got = io_getevents(stage.ctx, 1, 8, events, NULL)) > 0)
		note_events(events, got);
	atomic_store(&self->last, got);
}

static void other_run(void *argument)
{
	reap_until_destroyed(argument);
}

static void start_others(void)
{
	for (int i = 0; i < OTHER_THREADS; i++) {
		stage.others[i] = (struct other){ .stage = &stage };
		worker_start(&stage.others[i].worker, other_run, &stage.others[i]);
		worker_wait_blocked(&stage.others[i].worker);
	}
}

/* A request that the calling thread makes for itself, and that needs nobody. */
static void end_read(enum number number)
{
	static char byte;
	struct iocb iocb;

	io_prep_pread(&iocb, stage.zero, &byte, 1, 0);
	iocb.data = (void *)number;
	expect_submitted(stage.ctx, &iocb, stage.what);
}

static int sleep_at_place(void)
{
	static struct timespec hour = { .tv_sec = 3600 };
	sigset_t none;

	switch (stage.place) {
	case ENDLESS:
		return io_getevents(stage.ctx, 1, 8, stage.in_hand, NULL);
	case HOUR:
		return io_getevents(stage.ctx, 1, 8, stage.in_hand, &hour);
	case FOR_THREE:
		return io_getevents(stage.ctx, 3, 8, stage.in_hand, NULL);
	case MASKED:
		sigemptyset(&none);
		return io_pgetevents(stage.ctx, 1, 8, stage.in_hand, NULL, &none);
	default:
		return io_queue_wait(stage.ctx, NULL);
	}
}

/*
 * The child has come back into its parent's wait.
 */

static void child_reads(io_context_t ctx, int fd, int feed)
{
	struct timespec limit = { .tv_sec = EVENT_LIMIT_SECONDS };
	struct io_event event = { .res = 0 };
	struct iocb iocb, *batch[] = { &iocb };
	char byte = 0;

	io_prep_pread(&iocb, fd, &byte, 1, 0);
	if (feed >= 0 && on_reference())
		CHILD_CHECK(write(feed, "x", 1) == 1);
	CHILD_CHECK(io_submit(ctx, 1, batch) == 1);
	if (feed >= 0 && !on_reference())
		CHILD_CHECK(write(feed, "x", 1) == 1);
	CHILD_CHECK(io_getevents(ctx, 1, 1, &event, &limit) == 1);
	CHILD_CHECK(event.obj == &iocb && event.res == 1);
}

static void child_polls(io_context_t ctx, int fd)
{
	struct timespec limit = { .tv_sec = EVENT_LIMIT_SECONDS };
	struct io_event event = { .res = 0 };
	struct iocb iocb, *batch[] = { &iocb };

	io_prep_poll(&iocb, fd, POLLIN);
	CHILD_CHECK(io_submit(ctx, 1, batch) == 1);
	CHILD_CHECK(io_getevents(ctx, 1, 1, &event, &limit) == 1);
	CHILD_CHECK(event.obj == &iocb && (event.res & POLLIN));
}

static void child_after_wait(int result)
{
	struct io_event event;
	io_context_t own = NULL;
	int ends[2];

	/* With an event in hand the kernel's answer is as old as the signal. */
	if (stage.place != FOR_THREE || result != 1) {
		if (on_reference())
			CHILD_CHECK(result < 0);
		else
			CHILD_CHECK(result == -EINTR);
	}
	if (!on_reference()) {
		CHILD_CHECK(io_getevents(stage.ctx, 1, 1, &event, NULL) == -EINVAL);
		CHILD_CHECK(io_submit(stage.ctx, 0, NULL) == -EINVAL);
		CHILD_CHECK(io_destroy(stage.ctx) == -EINVAL);
	}
	CHILD_CHECK(pipe2(ends, O_CLOEXEC) == 0);
	for (int i = 0; i < 2; i++) {
		own = NULL;
		CHILD_CHECK(io_setup(4, &own) == 0);
		child_reads(own, stage.zero, -1);
		child_reads(own, ends[0], ends[1]);
		CHILD_CHECK(write(ends[1], "x", 1) == 1);
		child_polls(own, ends[0]);
		child_reads(own, stage.zero, -1);
		CHILD_CHECK(read(ends[0], &event, 1) == 1);
		CHILD_CHECK(io_destroy(own) == 0);
	}
	_exit(0);
}

/*
 * The leaver.
 */

static void jump_back(int number)
{
	(void)number;
	siglongjmp(stage.back, 1);
}

static pid_t make_child(void)
{
	if (stage.way == FORK)
		return fork();
	if (stage.way == BARE_FORK)
		return _Fork();
	return (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, 0);
}

static void stay_until_let_go(void)
{
	char byte;

	atomic_store(&stage.left, true);
	while (read(stage.let_go[0], &byte, 1) < 0 && errno == EINTR)
		;
}

static void leave(int number)
{
	int error = errno;
	pid_t child;

	(void)number;
	switch (stage.way) {
	case JUMP:
		siglongjmp(stage.back, 1);
	case NESTED_JUMP:
		atomic_store(&stage.nested, true);
		sleep_at_place();
		break;
	case THREAD_END:
		pthread_exit(NULL);
	case STAY:
		stay_until_let_go();
		break;
	case RETURN:
	case CANCEL:
		break;
	default:
		child = make_child();
		if (child == 0)
			in_child = true;
		else
			atomic_store(&stage.child, child);
	}
	errno = error;
}

/* Whatever the library has left on the stack of a call that is over is gone. */
static __attribute__((noinline)) void scribble_on_stack(void)
{
	volatile char area[32768];

	for (size_t i = 0; i < sizeof(area); i++)
		area[i] = 0x5a;
}

static void leaver_run(void *argument)
{
	struct other *self = argument;
	sigset_t usr1;

	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	if (stage.place == MASKED)
		pthread_sigmask(SIG_BLOCK, &usr1, NULL);
	if (stage.way == CANCEL)
		pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
	if (sigsetjmp(stage.back, 1) == 0) {
		stage.result = sleep_at_place();
		if (in_child)
			child_after_wait(stage.result);
		note_events(stage.in_hand, stage.result > 0 ? stage.result : 0);
	} else {
		note_what_is_in_hand();
	}
	scribble_on_stack();
	atomic_store(&stage.left, true);
	if (stage.quiet || atomic_load(&stage.destroyed))
		return;
	end_read(NEXT);
	reap_until_destroyed(self);
}

static bool leaver_comes_back(void)
{
	return stage.way != THREAD_END && stage.way != CANCEL;
}

/*
 * One round.
 */

static void submit_request(void)
{
	struct iocb *last = &stage.iocbs[stage.ending == BY_FSYNC];
	unsigned writes;

	if (stage.ending == BY_POLL)
		io_prep_poll(last, stage.ends[0], POLLIN);
	else if (stage.ending == BY_PIPE)
		io_prep_pread(last, stage.ends[0], read_blocks[0], 1, 0);
	else
		prepare_sync(last, stage.disk->fd, IO_CMD_FSYNC);
	last->data = (void *)REQUEST;
	io_set_eventfd(last, stage.counter);
	if (stage.ending == BY_FSYNC) {
		writes = count_of_file(stage.disk->fs, HOLDFS_WRITE, SUBJECT);
		prepare_write(&stage.iocbs[0], stage.disk->fd, 0);
		stage.iocbs[0].data = (void *)WRITE;
		holdfs_hold(stage.disk->fs, HOLDFS_WRITE);
		expect_all_submitted(stage.ctx, stage.iocbs, 2, stage.what);
		wait_operation(stage.disk->fs, HOLDFS_WRITE, SUBJECT, writes);
	} else {
		expect_submitted(stage.ctx, last, stage.what);
	}
}

static void end_request(void)
{
	const uint64_t one = 1;

	if (stage.ending == BY_POLL)
		ck_assert_int_eq(write(stage.ends[1], &one, sizeof(one)), sizeof(one));
	else if (stage.ending == BY_PIPE)
		ck_assert_int_eq(write(stage.ends[1], "x", 1), 1);
	else
		holdfs_release_all(stage.disk->fs);
}

static void round_open(void)
{
	struct sigaction action = { .sa_handler = leave };

	snprintf(stage.what, sizeof(stage.what), "%s, %s, %s, %s%s", way_names[stage.way],
		 place_names[stage.place], others_names[stage.when], ending_names[stage.ending],
		 stage.early ? " in flight" : "");
	stage.ctx = new_context(16);
	stage.zero = open_device("/dev/zero", O_RDONLY);
	stage.counter = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (stage.ending == BY_PIPE)
		make_pipe(stage.ends, 0);
	else
		stage.ends[0] = stage.ends[1] = open_eventfd(0, EFD_CLOEXEC);
	make_pipe(stage.let_go, 0);
	ck_assert_int_eq(sigaction(SIGUSR1, &action, NULL), 0);
	action.sa_handler = jump_back;
	ck_assert_int_eq(sigaction(SIGUSR2, &action, NULL), 0);
}

static void round_close(void)
{
	restore_signal(SIGUSR1);
	restore_signal(SIGUSR2);
	close(stage.zero);
	close(stage.counter);
	close(stage.ends[0]);
	if (stage.ending == BY_PIPE)
		close(stage.ends[1]);
	close(stage.let_go[0]);
}

static void expect_child_exits(pid_t child, int code)
{
	long long end_ns = monotonic_ns() + EVENT_LIMIT_SECONDS * 1000000000LL;
	int status = 0;
	pid_t ended;

	while ((ended = waitpid(child, &status, WNOHANG)) == 0) {
		if (monotonic_ns() > end_ns) {
			kill(child, SIGKILL);
			waitpid(child, &status, 0);
			ck_abort_msg("%s: the child hangs", stage.what);
		}
		contract_pause();
	}
	ck_assert_int_eq(ended, child);
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == code,
		      "%s: the child's wait status is 0x%x", stage.what, (unsigned)status);
}

static void make_it_leave(void)
{
	pthread_t thread = stage.leaver.worker.thread;

	ck_assert_int_eq(
		stage.way == CANCEL ? pthread_cancel(thread) : pthread_kill(thread, SIGUSR1), 0);
	switch (stage.way) {
	case NESTED_JUMP:
		STAGE_WAIT_UNTIL(atomic_load(&stage.nested));
		worker_wait_blocked(&stage.leaver.worker);
		ck_assert_int_eq(pthread_kill(thread, SIGUSR2), 0);
		break;
	case THREAD_END:
	case CANCEL:
		join_thread(&stage.leaver.worker, "the leaver");
		note_what_is_in_hand();
		return;
	case FORK:
	case BARE_FORK:
	case CLONE:
		STAGE_WAIT_UNTIL(atomic_load(&stage.child) != 0);
		ck_assert_int_gt(atomic_load(&stage.child), 0);
		expect_child_exits(atomic_load(&stage.child), 0);
		break;
	default:
		break;
	}
	STAGE_WAIT_UNTIL(atomic_load(&stage.left));
}

/* The event comes to those who are there for it; to this thread if nobody is. */
static void expect_request_seen(void)
{
	if (stage.when == NOBODY) {
		STAGE_WAIT_UNTIL(take_count(stage.counter) == 1);
		while (!leaver_comes_back() || stage.way == STAY) {
			struct io_event event;

			if (has_seen(REQUEST) && (stage.ending != BY_FSYNC || has_seen(WRITE)))
				break;
			event = take_event(stage.ctx, stage.what);
			note_events(&event, 1);
		}
	}
	STAGE_WAIT_UNTIL(has_seen(REQUEST) && (stage.ending != BY_FSYNC || has_seen(WRITE)));
}

static void expect_result_of_wait(void)
{
	int result = stage.result;

	if (stage.way == JUMP || stage.way == NESTED_JUMP || !leaver_comes_back())
		return;
	if (stage.way == STAY && (result >= 0 || (stage.destroyed && result == -EINVAL)))
		return;
	if (stage.place == FOR_THREE && result == 1)
		return;
	ck_assert_msg(result == -EINTR, "%s: the call has ended with %d", stage.what, result);
}

static void expect_end(struct other *other)
{
	join_thread(&other->worker, "a thread whose context is destroyed");
	ck_assert_msg(atomic_load(&other->last) == -EINVAL, "%s: a wait has ended with %d",
		      stage.what, atomic_load(&other->last));
}

static void destroy_stage(void)
{
	struct destroyer destroyer;

	/* Asleep they are: the reference looks at a ring that is gone. */
	for (int i = 0; i < OTHER_THREADS && stage.when != NOBODY; i++)
		worker_wait_blocked(&stage.others[i].worker);
	atomic_store(&stage.destroyed, true);
	destroyer_start(&destroyer, stage.ctx);
	join_thread(&destroyer.worker, "io_destroy");
	ck_assert_msg(destroyer.result == 0, "%s: io_destroy: %d", stage.what, destroyer.result);
	for (int i = 0; i < OTHER_THREADS && stage.when != NOBODY; i++)
		expect_end(&stage.others[i]);
}

static void leave_once(void)
{
	bool destroyed_first = stage.way == STAY && stage.early;

	round_open();
	if (stage.early)
		submit_request();
	if (stage.place == FOR_THREE)
		end_read(THERE);
	if (stage.when == BEFORE)
		start_others();
	stage.leaver = (struct other){ .stage = &stage };
	worker_start(&stage.leaver.worker, leaver_run, &stage.leaver);
	worker_wait_blocked(&stage.leaver.worker);
	if (stage.when == BETWEEN)
		start_others();
	make_it_leave();
	if (stage.when == LATER)
		start_others();
	if (!stage.early)
		submit_request();
	end_request();
	expect_request_seen();
	if (destroyed_first)
		destroy_stage();
	close(stage.let_go[1]);
	if (leaver_comes_back() && !destroyed_first) {
		STAGE_WAIT_UNTIL(has_seen(NEXT));
		worker_wait_blocked(&stage.leaver.worker);
	}
	if (!destroyed_first)
		destroy_stage();
	if (leaver_comes_back() && destroyed_first)
		join_thread(&stage.leaver.worker, "the leaver");
	else if (leaver_comes_back())
		expect_end(&stage.leaver);
	expect_result_of_wait();
	for (int i = REQUEST; i < NUMBERS; i++) {
		bool due = i == REQUEST || (i == WRITE && stage.ending == BY_FSYNC) ||
			   (i == THERE && stage.place == FOR_THREE) ||
			   (i == NEXT && leaver_comes_back() && !destroyed_first);

		ck_assert_msg(atomic_load(&stage.seen[i]) == due, "%s: event %d was seen %d times",
			      stage.what, i, atomic_load(&stage.seen[i]));
	}
	round_close();
}

/* Whether this libaio can be asked that. */
static bool is_beyond_reference(enum place place, enum ending ending, bool early)
{
	/* Its io_queue_wait never waits, and its fsync is never held. */
	return on_reference() && (place == QUEUE_WAIT || (ending == BY_FSYNC && early));
}

static void leave_everywhere(enum way way, enum ending ending)
{
	struct scene disk;

	if (ending == BY_PIPE)
		SKIP_ON_REFERENCE("a pipe holds io_submit");
	if (ending == BY_FSYNC)
		SCENE_OPEN(&disk);
	for (int place = 0; place < PLACES; place++) {
		for (int when = 0; when < OTHERS; when++) {
			for (int early = 0; early < 2; early++) {
				if (is_beyond_reference((enum place)place, ending, early))
					continue;
				memset(&stage, 0, sizeof(stage));
				stage.way = way;
				stage.place = (enum place)place;
				stage.when = (enum others)when;
				stage.ending = ending;
				stage.early = early;
				stage.disk = &disk;
				leave_once();
			}
		}
	}
	if (ending == BY_FSYNC)
		scene_close(&disk);
}

CASE(a_handler_that_returns_keeps_nothing_from_anybody)
{
	leave_everywhere(RETURN, BY_POLL);
	leave_everywhere(RETURN, BY_FSYNC);
	if (!on_reference())
		leave_everywhere(RETURN, BY_PIPE);
}

CASE(a_jump_out_of_a_wait_keeps_no_poll_from_anybody)
{
	SKIP_UNDER_THREAD_SANITIZER();
	leave_everywhere(JUMP, BY_POLL);
}

CASE(a_jump_out_of_a_wait_keeps_no_pipe_read_from_anybody)
{
	SKIP_UNDER_THREAD_SANITIZER();
	leave_everywhere(JUMP, BY_PIPE);
}

CASE(a_jump_out_of_a_wait_keeps_no_fsync_from_anybody)
{
	SKIP_UNDER_THREAD_SANITIZER();
	leave_everywhere(JUMP, BY_FSYNC);
}

CASE(a_jump_out_of_two_nested_waits_keeps_no_poll_from_anybody)
{
	SKIP_UNDER_THREAD_SANITIZER();
	leave_everywhere(NESTED_JUMP, BY_POLL);
}

CASE(a_jump_out_of_two_nested_waits_keeps_no_pipe_read_from_anybody)
{
	SKIP_UNDER_THREAD_SANITIZER();
	leave_everywhere(NESTED_JUMP, BY_PIPE);
}

CASE(a_thread_that_ends_in_a_handler_keeps_no_poll_from_anybody)
{
	SKIP_UNDER_THREAD_SANITIZER();
	leave_everywhere(THREAD_END, BY_POLL);
}

CASE(a_thread_that_ends_in_a_handler_keeps_no_pipe_read_from_anybody)
{
	SKIP_UNDER_THREAD_SANITIZER();
	leave_everywhere(THREAD_END, BY_PIPE);
}

CASE(a_thread_that_ends_in_a_handler_keeps_no_fsync_from_anybody)
{
	SKIP_UNDER_THREAD_SANITIZER();
	leave_everywhere(THREAD_END, BY_FSYNC);
}

CASE(a_thread_cancelled_in_a_wait_keeps_no_poll_from_anybody)
{
	SKIP_UNDER_THREAD_SANITIZER();
	leave_everywhere(CANCEL, BY_POLL);
}

CASE(a_thread_cancelled_in_a_wait_keeps_no_pipe_read_from_anybody)
{
	SKIP_UNDER_THREAD_SANITIZER();
	leave_everywhere(CANCEL, BY_PIPE);
}

CASE(a_thread_cancelled_in_a_wait_keeps_no_fsync_from_anybody)
{
	SKIP_UNDER_THREAD_SANITIZER();
	leave_everywhere(CANCEL, BY_FSYNC);
}

CASE(a_handler_that_stays_keeps_no_poll_from_anybody)
{
	SKIP_UNDER_THREAD_SANITIZER();
	leave_everywhere(STAY, BY_POLL);
}

CASE(a_handler_that_stays_keeps_no_pipe_read_from_anybody)
{
	SKIP_UNDER_THREAD_SANITIZER();
	leave_everywhere(STAY, BY_PIPE);
}

CASE(a_handler_that_stays_keeps_no_fsync_from_anybody)
{
	SKIP_UNDER_THREAD_SANITIZER();
	leave_everywhere(STAY, BY_FSYNC);
}

CASE(a_child_forked_in_a_handler_returns_from_the_wait)
{
	SKIP_UNDER_THREAD_SANITIZER();
	NEEDS_LOCKS_THAT_FORK();
	leave_everywhere(FORK, BY_POLL);
}

CASE(a_child_made_by_bare_fork_in_a_handler_returns_from_the_wait)
{
	SKIP_UNDER_THREAD_SANITIZER();
	NEEDS_LOCKS_THAT_FORK();
	leave_everywhere(BARE_FORK, BY_POLL);
}

CASE(a_child_cloned_in_a_handler_returns_from_the_wait)
{
	SKIP_UNDER_THREAD_SANITIZER();
	NEEDS_LOCKS_THAT_FORK();
	leave_everywhere(CLONE, BY_POLL);
}

CASE(a_child_forked_in_a_handler_costs_its_parent_no_pipe_read)
{
	SKIP_UNDER_THREAD_SANITIZER();
	NEEDS_LOCKS_THAT_FORK();
	leave_everywhere(FORK, BY_PIPE);
}

CASE(a_child_forked_in_a_handler_costs_its_parent_no_fsync)
{
	SKIP_UNDER_THREAD_SANITIZER();
	NEEDS_LOCKS_THAT_FORK();
	leave_everywhere(FORK, BY_FSYNC);
}

CASE(a_jump_out_of_two_nested_waits_keeps_no_fsync_from_anybody)
{
	SKIP_UNDER_THREAD_SANITIZER();
	leave_everywhere(NESTED_JUMP, BY_FSYNC);
}

/*
 * An fsync of one context, held behind a write of another, in which nobody is asleep any more.
 */

static void leave_the_write_of_a_held_fsync(struct scene *disk, enum way way, bool early)
{
	io_context_t other = new_context(4);
	struct iocb sync;

	memset(&stage, 0, sizeof(stage));
	stage.way = way;
	stage.ending = BY_FSYNC;
	stage.early = early;
	stage.quiet = true;
	stage.disk = disk;
	round_open();
	prepare_write(&stage.iocbs[0], disk->fd, 0);
	stage.iocbs[0].data = (void *)WRITE;
	holdfs_hold(disk->fs, HOLDFS_WRITE);
	expect_submitted(stage.ctx, &stage.iocbs[0], stage.what);
	prepare_sync(&sync, disk->fd, IO_CMD_FSYNC);
	if (early)
		expect_submitted(other, &sync, stage.what);
	stage.leaver = (struct other){ .stage = &stage };
	worker_start(&stage.leaver.worker, leaver_run, &stage.leaver);
	worker_wait_blocked(&stage.leaver.worker);
	make_it_leave();
	if (!early)
		expect_submitted(other, &sync, stage.what);
	holdfs_release_all(disk->fs);
	expect_event(other, &sync, 0, stage.what);
	expect_event(stage.ctx, &stage.iocbs[0], BLOCK_BYTES, stage.what);
	close(stage.let_go[1]);
	if (leaver_comes_back())
		join_thread(&stage.leaver.worker, "the leaver");
	destroy_stage();
	free_context(other);
	round_close();
}

CASE(an_fsync_does_not_depend_on_who_has_left_the_context_of_its_write)
{
	static const enum way ways[] = { JUMP, THREAD_END, CANCEL, STAY };
	struct scene disk;

	SKIP_UNDER_THREAD_SANITIZER();
	SCENE_OPEN(&disk);
	for (int i = 0; i < 4; i++) {
		leave_the_write_of_a_held_fsync(&disk, ways[i], true);
		leave_the_write_of_a_held_fsync(&disk, ways[i], false);
	}
	scene_close(&disk);
}

/*
 * Waiters for one, two and more; one of them leaves, the others have all that comes.
 */

enum {
	CROWD = 6,
	BATCHES = 10,
	BATCH_EACH = 50,
	CROWD_EVENTS = BATCHES * 4 * BATCH_EACH,
};

static const long crowd_wants[CROWD] = { 1, 3, 2, 8, 1, 5 };

static struct crowd {
	io_context_t ctx;
	struct other waiters[CROWD];
	int counter;
	_Atomic int seen[CROWD_EVENTS];
	char bytes[4 * BATCH_EACH];
	struct io_event in_hand[CROWD];
} crowd;

static void note_crowd_events(const struct io_event *events, int count)
{
	for (int i = 0; i < count; i++) {
		long number = (long)events[i].data;

		ck_assert_msg(number >= 0 && number < CROWD_EVENTS, "an event of no request");
		ck_assert_int_ge((long)events[i].res, 1);
		atomic_fetch_add(&crowd.seen[number], 1);
	}
}

static void crowd_waiter_run(void *argument)
{
	struct other *self = argument;
	struct io_event events[16];
	int got;

	do {
		got = io_getevents(crowd.ctx, crowd_wants[self - crowd.waiters], 16, events, NULL);
		note_crowd_events(events, got > 0 ? got : 0);
	} while (got > 0 && !atomic_load(&stage.destroyed));
	atomic_store(&self->last, got);
}

static void crowd_leaver_run(void *argument)
{
	struct other *self = argument;
	struct io_event events[16];

	if (stage.way == CANCEL)
		pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
	if (sigsetjmp(stage.back, 1) == 0)
		io_getevents(crowd.ctx, crowd_wants[self - crowd.waiters], 16, events, NULL);
	scribble_on_stack();
	atomic_store(&stage.left, true);
}

static void crowd_submit(struct iocb *iocb, long number)
{
	int result;

	iocb->data = (void *)number;
	io_set_eventfd(iocb, crowd.counter);
	WAIT_UNTIL((result = submit_one(crowd.ctx, iocb)) != -EAGAIN);
	ck_assert_int_eq(result, 1);
}

/* Of each kind so many: what ends at once, and what a later word of the test ends. */
static void crowd_batch(long first, const int pipe_ends[2], int gate)
{
	const uint64_t one = 1;
	uint64_t ended = 0;
	struct iocb iocb;

	for (long i = 0; i < BATCH_EACH; i++) {
		io_prep_pread(&iocb, stage.zero, &crowd.bytes[4 * i], 1, 0);
		crowd_submit(&iocb, first + 4 * i);
		io_prep_poll(&iocb, gate, POLLIN);
		crowd_submit(&iocb, first + 4 * i + 1);
		/* The reference would wait in io_submit. */
		if (on_reference())
			io_prep_poll(&iocb, gate, POLLIN);
		else
			io_prep_pread(&iocb, pipe_ends[0], &crowd.bytes[4 * i + 2], 1, 0);
		crowd_submit(&iocb, first + 4 * i + 2);
		io_prep_poll(&iocb, pipe_ends[1], POLLOUT);
		crowd_submit(&iocb, first + 4 * i + 3);
		if (!on_reference())
			ck_assert_int_eq(write(pipe_ends[1], "x", 1), 1);
	}
	ck_assert_int_eq(write(gate, &one, sizeof(one)), sizeof(one));
	WAIT_UNTIL((ended += take_count(crowd.counter)) >= 4UL * BATCH_EACH);
	ck_assert_uint_eq(take_count(gate), 1);
}

static void leave_a_crowd(enum way way, int leaver)
{
	struct worker *worker;
	int ends[2], gate;

	memset(&stage, 0, sizeof(stage));
	memset(&crowd, 0, sizeof(crowd));
	stage.way = way;
	round_open();
	crowd.ctx = stage.ctx;
	snprintf(stage.what, sizeof(stage.what), "%s, waiter %d", way_names[way], leaver);
	crowd.counter = stage.counter;
	make_pipe(ends, 0);
	gate = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	for (int i = 0; i < CROWD; i++) {
		worker_start(&crowd.waiters[i].worker,
			     i == leaver ? crowd_leaver_run : crowd_waiter_run, &crowd.waiters[i]);
		worker_wait_blocked(&crowd.waiters[i].worker);
	}
	worker = &crowd.waiters[leaver].worker;
	stage.leaver.worker.thread = worker->thread;
	ck_assert_int_eq(way == CANCEL ? pthread_cancel(worker->thread)
				       : pthread_kill(worker->thread, SIGUSR1),
			 0);
	if (way == STAY)
		STAGE_WAIT_UNTIL(atomic_load(&stage.left));
	else
		join_thread(worker, "the leaver");
	for (long batch = 0; batch < BATCHES; batch++)
		crowd_batch(batch * 4 * BATCH_EACH, ends, gate);
	/* All has ended; who sleeps for several may have some in hand. */
	for (int i = 0; i < CROWD; i++)
		if (i != leaver)
			worker_wait_blocked(&crowd.waiters[i].worker);
	destroy_stage();
	close(stage.let_go[1]);
	for (int i = 0; i < CROWD; i++)
		if (i != leaver || way == STAY)
			join_thread(&crowd.waiters[i].worker, "a waiter");
	for (int i = 0; i < CROWD_EVENTS; i++)
		ck_assert_msg(crowd.seen[i] == 1, "%s: event %d was seen %d times", stage.what, i,
			      crowd.seen[i]);
	close_pair(ends);
	close(gate);
	round_close();
}

static void leave_a_crowd_in_each_place(enum way way)
{
	static const int leavers[] = { 0, 2, 3, 5 };

	for (int i = 0; i < 4; i++)
		leave_a_crowd(way, leavers[i]);
}

CASE(every_event_is_reaped_once_when_one_of_many_waiters_was_interrupted)
{
	leave_a_crowd_in_each_place(RETURN);
}

CASE(every_event_is_reaped_once_when_one_of_many_waiters_has_jumped_out)
{
	SKIP_UNDER_THREAD_SANITIZER();
	leave_a_crowd_in_each_place(JUMP);
}

CASE(every_event_is_reaped_once_when_one_of_many_waiters_has_ended)
{
	SKIP_UNDER_THREAD_SANITIZER();
	leave_a_crowd_in_each_place(THREAD_END);
}

CASE(every_event_is_reaped_once_when_one_of_many_waiters_was_cancelled)
{
	SKIP_UNDER_THREAD_SANITIZER();
	leave_a_crowd_in_each_place(CANCEL);
}

CASE(every_event_is_reaped_once_when_one_of_many_waiters_stays_in_a_handler)
{
	SKIP_UNDER_THREAD_SANITIZER();
	leave_a_crowd_in_each_place(STAY);
}

/*
 * Calls from the handler that has interrupted a wait.
 */

struct call_results {
	int set_up, zero[2], pipe[2], poll[2], cancelled[2], destroyed;
};

static struct call_results results;

/* Takes events of a context until it has this one's; other numbers are noted. */
static bool handler_takes(io_context_t ctx, const struct iocb *iocb)
{
	struct timespec limit = { .tv_sec = EVENT_LIMIT_SECONDS };
	struct io_event event;

	while (io_getevents(ctx, 1, 1, &event, &limit) == 1) {
		if (event.obj == iocb)
			return true;
		note_events(&event, 1);
	}
	return false;
}

static int handler_calls(io_context_t ctx, struct iocb *iocb)
{
	struct iocb *batch[] = { iocb };
	int result = io_submit(ctx, 1, batch);

	if (result != 1)
		return result;
	if (iocb->aio_fildes == stage.ends[0] && iocb->aio_lio_opcode == IO_CMD_PREAD &&
	    write(stage.ends[1], "x", 1) != 1)
		return -EIO;
	return handler_takes(ctx, iocb) ? 1 : -ETIME;
}

static void call_everything(int number)
{
	struct io_event unused;
	io_context_t own = NULL;
	int error = errno;

	(void)number;
	results.set_up = io_setup(4, &own);
	for (int i = 0; i < 2; i++) {
		io_context_t ctx = i ? own : stage.ctx;
		struct iocb iocb, *batch[] = { &iocb };
		char byte;

		io_prep_pread(&iocb, stage.zero, &byte, 1, 0);
		results.zero[i] = handler_calls(ctx, &iocb);
		io_prep_poll(&iocb, stage.ends[1], POLLOUT);
		results.poll[i] = handler_calls(ctx, &iocb);
		io_prep_pread(&iocb, stage.ends[0], &byte, 1, 0);
		results.pipe[i] = on_reference() ? 1 : handler_calls(ctx, &iocb);
		io_prep_poll(&iocb, stage.ends[0], POLLIN);
		results.cancelled[i] = io_submit(ctx, 1, batch);
		if (results.cancelled[i] == 1)
			results.cancelled[i] = io_cancel(ctx, &iocb, &unused);
		if (results.cancelled[i] == -EINPROGRESS && !handler_takes(ctx, &iocb))
			results.cancelled[i] = -ETIME;
	}
	results.destroyed = io_destroy(own);
	atomic_store(&stage.left, true);
	errno = error;
}

static void destroy_the_context(int number)
{
	(void)number;
	results.destroyed = io_destroy(stage.ctx);
	atomic_store(&stage.left, true);
}

static void quiet_waiter_run(void *argument)
{
	sigset_t usr1;

	(void)argument;
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	if (stage.place == MASKED)
		pthread_sigmask(SIG_BLOCK, &usr1, NULL);
	stage.result = sleep_at_place();
}

/* A wait at this place is interrupted by this handler; others sleep in the same context. */
static void interrupt_wait(enum place place, bool crowded, void (*handler)(int))
{
	struct sigaction action = { .sa_handler = handler };

	memset(&stage, 0, sizeof(stage));
	memset(&results, 0, sizeof(results));
	stage.way = STAY;
	stage.place = place;
	stage.when = crowded ? BEFORE : NOBODY;
	stage.ending = BY_PIPE;
	round_open();
	snprintf(stage.what, sizeof(stage.what), "%s, %s", place_names[place],
		 others_names[stage.when]);
	ck_assert_int_eq(sigaction(SIGUSR1, &action, NULL), 0);
	if (place == FOR_THREE)
		end_read(THERE);
	if (crowded)
		start_others();
	worker_start(&stage.leaver.worker, quiet_waiter_run, NULL);
	worker_wait_blocked(&stage.leaver.worker);
	ck_assert_int_eq(pthread_kill(stage.leaver.worker.thread, SIGUSR1), 0);
	STAGE_WAIT_UNTIL(atomic_load(&stage.left));
	join_thread(&stage.leaver.worker, "the wait");
}

CASE(a_handler_that_has_interrupted_a_wait_may_call_everything)
{
	SKIP_UNDER_THREAD_SANITIZER();
	for (int place = 0; place < PLACES; place++) {
		if (is_beyond_reference((enum place)place, BY_POLL, false))
			continue;
		interrupt_wait((enum place)place, false, call_everything);
		ck_assert_msg(results.set_up == 0 && results.destroyed == 0,
			      "%s: io_setup %d, io_destroy %d", stage.what, results.set_up,
			      results.destroyed);
		for (int i = 0; i < 2; i++)
			ck_assert_msg(results.zero[i] == 1 && results.poll[i] == 1 &&
					      results.pipe[i] == 1 &&
					      results.cancelled[i] == -EINPROGRESS,
				      "%s: %s: read %d, poll %d, pipe %d, io_cancel %d", stage.what,
				      i ? "a context of its own" : "the context waited for",
				      results.zero[i], results.poll[i], results.pipe[i],
				      results.cancelled[i]);
		expect_result_of_wait();
		note_events(stage.in_hand, stage.result > 0 ? stage.result : 0);
		ck_assert_int_eq(atomic_load(&stage.seen[THERE]), place == FOR_THREE);
		expect_works(stage.ctx, stage.what);
		close(stage.let_go[1]);
		destroy_stage();
		round_close();
	}
}

CASE(a_handler_may_destroy_the_context_that_its_thread_waits_for)
{
	SKIP_UNDER_THREAD_SANITIZER();
	for (int place = 0; place < PLACES; place++) {
		for (int crowded = 0; crowded < 2; crowded++) {
			if (is_beyond_reference((enum place)place, BY_POLL, false))
				continue;
			interrupt_wait((enum place)place, crowded, destroy_the_context);
			ck_assert_msg(results.destroyed == 0, "%s: io_destroy: %d", stage.what,
				      results.destroyed);
			stage.destroyed = true;
			expect_result_of_wait();
			for (int i = 0; i < OTHER_THREADS && crowded; i++)
				expect_end(&stage.others[i]);
			ck_assert_int_eq(io_submit(stage.ctx, 0, NULL), -EINVAL);
			close(stage.let_go[1]);
			round_close();
		}
	}
}

/*
 * io_queue_run, left by the callbacks that it calls.
 */

enum { CALLBACKS = 3 };

static _Atomic int callbacks[CALLBACKS];

static void leave_callback(io_context_t ctx, struct iocb *iocb, long result, long unused)
{
	(void)ctx;
	(void)unused;
	ck_assert_int_eq(result, 1);
	atomic_fetch_add(&callbacks[iocb - stage.callback_iocbs], 1);
	if (stage.way == THREAD_END)
		pthread_exit(NULL);
	siglongjmp(stage.back, 1);
}

static void queue_runner(void *argument)
{
	(void)argument;
	if (sigsetjmp(stage.back, 0) == 0)
		ck_assert_int_eq(io_queue_run(stage.ctx), 0);
	scribble_on_stack();
}

static void leave_callbacks(enum way way)
{
	static char byte;

	memset(&stage, 0, sizeof(stage));
	stage.way = way;
	snprintf(stage.what, sizeof(stage.what), "%s in a callback", way_names[way]);
	stage.ctx = new_context(8);
	stage.zero = open_device("/dev/zero", O_RDONLY);
	for (int i = 0; i < CALLBACKS; i++) {
		struct iocb *iocb = &stage.callback_iocbs[i];

		atomic_store(&callbacks[i], 0);
		io_prep_pread(iocb, stage.zero, &byte, 1, 0);
		io_set_callback(iocb, leave_callback);
		expect_ended(stage.ctx, iocb, stage.what);
	}
	/* A thread for each, as some end; one more finds nothing. */
	for (int i = 0; i < CALLBACKS + 1; i++) {
		struct worker worker;

		worker_start(&worker, queue_runner, NULL);
		join_thread(&worker, "io_queue_run");
	}
	for (int i = 0; i < CALLBACKS; i++)
		ck_assert_msg(atomic_load(&callbacks[i]) == 1,
			      "%s: callback %d was called %d times", stage.what, i,
			      atomic_load(&callbacks[i]));
	expect_works(stage.ctx, stage.what);
	stage.when = NOBODY;
	destroy_stage();
	close(stage.zero);
}

CASE(a_callback_may_leave_io_queue_run)
{
	leave_callbacks(JUMP);
	leave_callbacks(THREAD_END);
}

/*
 * io_destroy, which waits for a write.
 */

static void destroying_leaver_run(void *argument)
{
	(void)argument;
	if (stage.way == CANCEL)
		pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
	if (sigsetjmp(stage.back, 1) == 0)
		stage.result = io_destroy(stage.ctx);
	atomic_store(&stage.left, true);
}

/* Who is in it may be kept until the write has ended, as the kernel does, but no longer. */
static void leave_io_destroy(struct scene *disk, enum way way)
{
	io_context_t other = new_context(4);
	struct iocb sync;
	unsigned writes = count_of_file(disk->fs, HOLDFS_WRITE, SUBJECT);

	memset(&stage, 0, sizeof(stage));
	stage.way = way;
	stage.when = BEFORE;
	stage.ending = BY_FSYNC;
	round_open();
	snprintf(stage.what, sizeof(stage.what), "%s out of io_destroy", way_names[way]);
	prepare_write(&stage.iocbs[0], disk->fd, 0);
	holdfs_hold(disk->fs, HOLDFS_WRITE);
	expect_submitted(stage.ctx, &stage.iocbs[0], stage.what);
	wait_operation(disk->fs, HOLDFS_WRITE, SUBJECT, writes);
	start_others();
	worker_start(&stage.leaver.worker, destroying_leaver_run, NULL);
	worker_wait_blocked(&stage.leaver.worker);
	for (int i = 0; i < OTHER_THREADS; i++)
		expect_end(&stage.others[i]);
	ck_assert_int_eq(way == CANCEL ? pthread_cancel(stage.leaver.worker.thread)
				       : pthread_kill(stage.leaver.worker.thread, SIGUSR1),
			 0);
	prepare_sync(&sync, disk->fd, IO_CMD_FSYNC);
	expect_submitted(other, &sync, stage.what);
	ck_assert_int_eq(io_submit(stage.ctx, 0, NULL), -EINVAL);
	ck_assert_int_eq(io_destroy(stage.ctx), -EINVAL);
	holdfs_release_all(disk->fs);
	join_thread(&stage.leaver.worker, "who is in io_destroy");
	expect_event(other, &sync, 0, stage.what);
	ck_assert_int_eq(io_destroy(stage.ctx), -EINVAL);
	expect_works(other, stage.what);
	free_context(other);
	close(stage.let_go[1]);
	round_close();
}

CASE(io_destroy_may_be_left)
{
	struct scene disk;

	SKIP_UNDER_THREAD_SANITIZER();
	SCENE_OPEN(&disk);
	leave_io_destroy(&disk, JUMP);
	leave_io_destroy(&disk, THREAD_END);
	leave_io_destroy(&disk, CANCEL);
	leave_io_destroy(&disk, JUMP);
	scene_close(&disk);
}

/*
 * exit() in a handler.
 */

#define EXIT_CODE 7

static pthread_t exiting_thread;
static _Atomic pid_t exiting_tid;

static void exit_now(int number)
{
	(void)number;
	exit(EXIT_CODE);
}

static void *interrupt_when_asleep(void *argument)
{
	(void)argument;
	CHILD_WAIT_UNTIL(task_is_blocked(atomic_load(&exiting_tid)));
	pthread_kill(exiting_thread, SIGUSR1);
	return NULL;
}

static void *sleep_and_exit(void *argument)
{
	sigset_t usr1;

	(void)argument;
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	if (stage.place == MASKED)
		pthread_sigmask(SIG_BLOCK, &usr1, NULL);
	exiting_thread = pthread_self();
	atomic_store(&exiting_tid, gettid());
	/* A leak checker stops all threads and lets them go on, which ends a wait. */
	for (;;)
		sleep_at_place();
	return NULL;
}

static void *sleep_beside(void *argument)
{
	struct io_event events[8];

	atomic_store((_Atomic pid_t *)argument, gettid());
	io_getevents(stage.ctx, 1, 8, events, NULL);
	return NULL;
}

/* In the child: a POLL and a read that never end are in flight, which owe nobody anything. */
static void exit_from_wait(bool in_thread)
{
	struct iocb iocbs[2], *batch[] = { &iocbs[0], &iocbs[1] };
	static _Atomic pid_t beside[OTHER_THREADS];
	char byte;
	pthread_t thread;

	CHILD_CHECK(io_setup(8, &stage.ctx) == 0);
	io_prep_poll(&iocbs[0], stage.ends[0], POLLIN);
	io_prep_pread(&iocbs[1], stage.ends[0], &byte, 1, 0);
	CHILD_CHECK(io_submit(stage.ctx, on_reference() ? 1 : 2, batch) >= 1);
	if (stage.place == FOR_THREE) {
		io_prep_pread(&iocbs[0], stage.zero, &byte, 1, 0);
		CHILD_CHECK(io_submit(stage.ctx, 1, batch) == 1);
	}
	for (int i = 0; i < OTHER_THREADS && stage.when == BEFORE; i++) {
		CHILD_CHECK(pthread_create(&thread, NULL, sleep_beside, &beside[i]) == 0);
		if (stage.place == FOR_THREE)
			continue;
		CHILD_WAIT_UNTIL(task_is_blocked(atomic_load(&beside[i])));
	}
	CHILD_CHECK(signal(SIGUSR1, exit_now) != SIG_ERR);
	CHILD_CHECK(pthread_create(&thread, NULL, interrupt_when_asleep, NULL) == 0);
	if (in_thread) {
		CHILD_CHECK(pthread_create(&thread, NULL, sleep_and_exit, NULL) == 0);
		pthread_join(thread, NULL);
	} else {
		sleep_and_exit(NULL);
	}
	_exit(1);
}

CASE(exit_in_a_handler_that_has_interrupted_a_wait_ends_the_process)
{
	SKIP_UNDER_THREAD_SANITIZER();
	for (int variant = 0; variant < PLACES * 4; variant++) {
		pid_t child;

		memset(&stage, 0, sizeof(stage));
		stage.place = (enum place)(variant / 4);
		stage.when = variant & 1 ? BEFORE : NOBODY;
		if (is_beyond_reference(stage.place, BY_POLL, false))
			continue;
		snprintf(stage.what, sizeof(stage.what), "exit, %s, %s, in the %s thread",
			 place_names[stage.place], others_names[stage.when],
			 variant & 2 ? "second" : "first");
		stage.zero = open_device("/dev/zero", O_RDONLY);
		make_pipe(stage.ends, 0);
		fflush(NULL);
		child = fork();
		ck_assert_int_ge(child, 0);
		if (child == 0)
			exit_from_wait(variant & 2);
		expect_child_exits(child, EXIT_CODE);
		close(stage.zero);
		close_pair(stage.ends);
	}
	free_context(new_context(1));
}

/*
 * Calls that are left at any moment, not only asleep.
 */

enum { STORM_JUMPS = 400, STORM_ROOM = 64 };

static struct storm {
	io_context_t ctx;
	int zero, always, pipe[2];
	void (*call)(void); /* that is left */
	sigjmp_buf back;
	_Atomic bool inside;
	_Atomic int jumps;
	_Atomic bool over;
	_Atomic unsigned taken; /* by the reaper, who is left in peace */
} storm;

static __thread bool leaves; /* this is the thread that jumps */

static void jump_if_inside(int number)
{
	(void)number;
	if (!leaves || !atomic_load(&storm.inside))
		return;
	atomic_store(&storm.inside, false);
	atomic_fetch_add(&storm.jumps, 1);
	siglongjmp(storm.back, 1);
}

static void waiting_leaver_run(void *argument)
{
	struct timespec moment = { .tv_nsec = 100000 };
	struct io_event events[4];

	(void)argument;
	leaves = true;
	while (!atomic_load(&storm.over)) {
		if (sigsetjmp(storm.back, 1) == 0) {
			atomic_store(&storm.inside, true);
			io_getevents(storm.ctx, 1 + atomic_load(&storm.jumps) % 3, 4, events,
				     atomic_load(&storm.jumps) % 2 ? &moment : NULL);
			atomic_store(&storm.inside, false);
		}
	}
}

static void storm_submit(void)
{
	static char bytes[8];
	struct iocb iocbs[3], *batch[] = { &iocbs[0], &iocbs[1], &iocbs[2] };

	io_prep_pread(&iocbs[0], storm.zero, bytes, 8, 0);
	io_prep_poll(&iocbs[1], storm.always, POLLOUT);
	io_prep_pread(&iocbs[2], storm.zero, bytes, 8, 0);
	io_submit(storm.ctx, 3, batch);
}

/* Each takes a place, and as much time as there is for a jump. */
static void storm_read(void)
{
	static char bytes[65536];
	struct iocb iocb, *batch = &iocb;

	io_prep_pread(&iocb, storm.zero, bytes, sizeof(bytes), 0);
	io_submit(storm.ctx, 1, &batch);
}

static void submitting_leaver_run(void *argument)
{
	(void)argument;
	leaves = true;
	while (!atomic_load(&storm.over)) {
		if (sigsetjmp(storm.back, 1) == 0) {
			atomic_store(&storm.inside, true);
			storm.call();
			atomic_store(&storm.inside, false);
		}
	}
}

/* It calls nothing any more. */
static void leave_and_end_run(void *argument)
{
	(void)argument;
	leaves = true;
	if (sigsetjmp(storm.back, 1) != 0)
		return;
	while (!atomic_load(&storm.over)) {
		atomic_store(&storm.inside, true);
		storm.call();
		atomic_store(&storm.inside, false);
	}
}

/* One thread after another. */
static void mortal_leavers_run(void *argument)
{
	(void)argument;
	while (!atomic_load(&storm.over)) {
		struct worker mortal;

		worker_start(&mortal, leave_and_end_run, NULL);
		while (!worker_has_ended(&mortal) && !atomic_load(&storm.over)) {
			ck_assert_int_eq(pthread_kill(mortal.thread, SIGUSR1), 0);
			contract_pause();
		}
		join_thread(&mortal, "a thread that left its call");
	}
}

static void storm_feeder_run(void *argument)
{
	(void)argument;
	while (!atomic_load(&storm.over)) {
		storm_submit();
		contract_pause();
	}
}

static void storm_reaper_run(void *argument)
{
	struct timespec moment = { .tv_nsec = 1000000 };
	struct io_event events[8];
	int got;

	(void)argument;
	do {
		got = io_getevents(storm.ctx, 1, 8, events, &moment);
		ck_assert_int_ge(got, 0);
		atomic_fetch_add(&storm.taken, (unsigned)got);
	} while (!atomic_load(&storm.over));
}

/* As many polls as the context was made for are accepted, and as many events come. */
static void expect_room(void *argument)
{
	const uint64_t one = 1;
	struct io_event events[STORM_ROOM];
	struct iocb iocbs[STORM_ROOM];
	int gate = open_eventfd(0, EFD_CLOEXEC), got;

	(void)argument;
	/* What was submitted last ends at once; its events go first. */
	while ((got = io_getevents(storm.ctx, 1, STORM_ROOM, events,
				   &(struct timespec){ .tv_nsec = 100000000 })) > 0)
		;
	ck_assert_int_eq(got, 0);
	for (int i = 0; i < STORM_ROOM; i++)
		io_prep_poll(&iocbs[i], gate, POLLIN);
	expect_all_submitted(storm.ctx, iocbs, STORM_ROOM, "after the storm");
	ck_assert_int_eq(write(gate, &one, sizeof(one)), sizeof(one));
	ck_assert_int_eq(io_getevents(storm.ctx, STORM_ROOM, STORM_ROOM, events, NULL), STORM_ROOM);
	close(gate);
}

static void leave_in_a_storm(void (*leaver)(void *), void (*call)(void))
{
	struct sigaction action = { .sa_handler = jump_if_inside },
			 ignore = { .sa_handler = SIG_IGN };
	struct worker workers[3], room;
	struct destroyer destroyer;

	memset(&storm, 0, sizeof(storm));
	memset(&stage, 0, sizeof(stage));
	snprintf(stage.what, sizeof(stage.what), "a storm");
	storm.ctx = new_context(STORM_ROOM);
	storm.call = call;
	storm.zero = open_device("/dev/zero", O_RDONLY);
	storm.always = open_eventfd(0, EFD_CLOEXEC);
	ck_assert_int_eq(sigaction(SIGUSR1, &action, NULL), 0);
	worker_start(&workers[0], leaver, NULL);
	worker_start(&workers[1], storm_feeder_run, NULL);
	worker_start(&workers[2], storm_reaper_run, NULL);
	for (int jumps = 0; jumps < STORM_JUMPS; jumps = atomic_load(&storm.jumps)) {
		unsigned before = atomic_load(&storm.taken);

		STAGE_WAIT_UNTIL(pthread_kill(workers[0].thread, SIGUSR1) == 0 &&
				 atomic_load(&storm.jumps) > jumps);
		/* The others get on. */
		STAGE_WAIT_UNTIL(atomic_load(&storm.taken) != before);
	}
	atomic_store(&storm.over, true);
	/* It may be asleep without an end. */
	STAGE_WAIT_UNTIL(pthread_kill(workers[0].thread, SIGUSR1) != 0 ||
			 worker_has_ended(&workers[0]));
	for (int i = 0; i < 3; i++)
		join_thread(&workers[i], "a thread of the storm");
	ck_assert_int_eq(sigaction(SIGUSR1, &ignore, NULL), 0);
	worker_start(&room, expect_room, NULL);
	join_thread(&room, "a thread that uses the context again");
	destroyer_start(&destroyer, storm.ctx);
	join_thread(&destroyer.worker, "io_destroy");
	ck_assert_int_eq(destroyer.result, 0);
	restore_signal(SIGUSR1);
	close(storm.zero);
	close(storm.always);
}

CASE(io_getevents_may_be_left_at_any_moment)
{
	SKIP_UNDER_THREAD_SANITIZER();
	leave_in_a_storm(waiting_leaver_run, NULL);
}

CASE(io_submit_may_be_left_at_any_moment)
{
	SKIP_UNDER_THREAD_SANITIZER();
	leave_in_a_storm(submitting_leaver_run, storm_submit);
}

CASE(a_thread_that_ends_after_leaving_io_submit_keeps_nobody)
{
	SKIP_UNDER_THREAD_SANITIZER();
	leave_in_a_storm(mortal_leavers_run, storm_submit);
}

CASE(jumps_out_of_reads_leave_no_place_taken)
{
	SKIP_UNDER_THREAD_SANITIZER();
	if (UNDER_ADDRESS_SANITIZER)
		SKIP("AddressSanitizer puts the variables of each call elsewhere");
	leave_in_a_storm(submitting_leaver_run, storm_read);
}

CASE(threads_that_end_after_jumps_out_of_reads_leave_no_place_taken)
{
	SKIP_UNDER_THREAD_SANITIZER();
	leave_in_a_storm(mortal_leavers_run, storm_read);
}

/*
 * A handler that comes back has left nothing, on whatever stack it runs and submits.
 */

enum { COPIES = 40, COPY_BYTES = 65536, STACK_BYTES = 262144 };

#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1u << 31)
#endif

static struct visit {
	io_context_t ctx;
	int file;
	void *stack;
	_Atomic bool inside;
	_Atomic int visits;
} visit;

static __thread bool is_visited;

static void submit_meanwhile(int number)
{
	static char byte;
	static struct iocb iocb;
	struct iocb *batch = &iocb;

	(void)number;
	if (!is_visited || !atomic_exchange(&visit.inside, false))
		return;
	io_prep_pread(&iocb, visit.file, &byte, 1, 0);
	if (io_submit(visit.ctx, 1, &batch) == 1)
		atomic_fetch_add(&visit.visits, 1);
}

static void *copying_run(void *argument)
{
	static char bytes[COPY_BYTES];
	struct iocb iocbs[COPIES], *batch[COPIES];
	stack_t stack = { .ss_sp = visit.stack,
			  .ss_size = COPY_BYTES,
			  .ss_flags = argument ? (int)SS_AUTODISARM : 0 };

	ck_assert_int_eq(sigaltstack(&stack, NULL), 0);
	for (int i = 0; i < COPIES; i++) {
		io_prep_pwrite(&iocbs[i], visit.file, bytes, COPY_BYTES, 2LL * i * COPY_BYTES);
		batch[i] = &iocbs[i];
	}
	is_visited = true;
	atomic_store(&visit.inside, true);
	ck_assert_int_eq(io_submit(visit.ctx, COPIES, batch), COPIES);
	/* Or it comes now. */
	while (atomic_load(&visit.inside))
		contract_pause();
	return NULL;
}

CASE(a_handler_on_another_stack_takes_nothing_from_its_call)
{
	enum { ROUNDS = 40 };
	struct sigaction action = { .sa_handler = submit_meanwhile, .sa_flags = SA_ONSTACK };
	struct io_event events[COPIES + 1];
	pthread_attr_t attributes;
	char *stacks;

	SKIP_UNDER_THREAD_SANITIZER();
	if (UNDER_ADDRESS_SANITIZER)
		SKIP("AddressSanitizer takes the top of a stack of the program's for its own");
	memset(&visit, 0, sizeof(visit));
	visit.ctx = new_context(2 * COPIES);
	visit.file = memfd_create("copies", MFD_CLOEXEC);
	/* The handler's stack is right above the thread's. */
	stacks = mmap(NULL, STACK_BYTES + COPY_BYTES, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	visit.stack = stacks + STACK_BYTES;
	pthread_attr_init(&attributes);
	ck_assert_int_eq(pthread_attr_setstack(&attributes, stacks, STACK_BYTES), 0);
	ck_assert_int_eq(sigaction(SIGUSR1, &action, NULL), 0);
	for (int i = 0; i < ROUNDS; i++) {
		int before = atomic_load(&visit.visits), expected;
		pthread_t thread;

		ck_assert_int_eq(
			pthread_create(&thread, &attributes, copying_run, i % 2 ? &visit : NULL),
			0);
		while (!atomic_load(&visit.inside))
			;
		pthread_kill(thread, SIGUSR1);
		pthread_join(thread, NULL);
		expected = COPIES + atomic_load(&visit.visits) - before;
		ck_assert_int_eq(io_getevents(visit.ctx, expected, COPIES + 1, events, NULL),
				 expected);
	}
	ck_assert_int_gt(atomic_load(&visit.visits), 0);
	pthread_attr_destroy(&attributes);
	munmap(stacks, STACK_BYTES + COPY_BYTES);
	close(visit.file);
	restore_signal(SIGUSR1);
	free_context_without_events(visit.ctx, HERE);
}
