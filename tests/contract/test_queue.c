/* SPDX-License-Identifier: MIT */
/*
 * io_queue_init, io_queue_run, io_queue_wait, io_queue_release: the interface with callbacks.
 */
#include "contract.h"

static char data[64];
static int zero_fd;

struct called {
	int count;
	io_context_t ctx;
	struct iocb *iocb;
	long res, res2;
};

static struct called called;

static void note_call(io_context_t ctx, struct iocb *iocb, long res, long res2)
{
	called.count++;
	called.ctx = ctx;
	called.iocb = iocb;
	called.res = res;
	called.res2 = res2;
}

static io_context_t new_queue(int events)
{
	io_context_t ctx = NULL;

	called = (struct called){ 0 };
	zero_fd = open_device("/dev/zero", O_RDONLY);
	ck_assert_int_eq(io_queue_init(events, &ctx), 0);
	prove_engine(ctx);
	return ctx;
}

static void free_queue(io_context_t ctx)
{
	close(zero_fd);
	ck_assert_int_eq(io_queue_release(ctx), 0);
}

static void put_request(io_context_t ctx, struct iocb *iocb, io_callback_t callback)
{
	io_prep_pread(iocb, zero_fd, data, 8, 0);
	io_set_callback(iocb, callback);
	expect_ended(ctx, iocb, HERE);
}

CASE(queue_run_calls_back_for_every_event)
{
	io_context_t ctx = new_queue(16);
	struct iocb iocbs[5];

	ck_assert_int_eq(io_queue_run(ctx), 0);
	for (int i = 0; i < 5; i++)
		put_request(ctx, &iocbs[i], note_call);
	ck_assert_int_eq(io_queue_run(ctx), 0);
	ck_assert_int_eq(called.count, 5);
	ck_assert(called.ctx == ctx && called.iocb == &iocbs[4]);
	ck_assert(called.res == 8 && called.res2 == 0);
	ck_assert_int_eq(io_queue_run(ctx), 0);
	ck_assert_int_eq(called.count, 5);
	expect_no_event(ctx, HERE);
	free_queue(ctx);
}

CASE(a_failed_request_is_called_back_with_its_error)
{
	io_context_t ctx = new_queue(16);
	struct iocb iocb;

	io_prep_pread(&iocb, zero_fd, unreadable_page(), 8, 0);
	io_set_callback(&iocb, note_call);
	expect_ended(ctx, &iocb, HERE);
	ck_assert_int_eq(io_queue_run(ctx), 0);
	ck_assert(called.count == 1 && called.iocb == &iocb);
	ck_assert(called.res == -EFAULT && called.res2 == 0);
	free_queue(ctx);
}

CASE(queue_run_does_not_wait)
{
	io_context_t ctx = new_queue(16);
	struct iocb iocb;
	int idle[2];

	make_pipe(idle, 0);
	io_prep_poll(&iocb, idle[0], POLLIN);
	io_set_callback(&iocb, note_call);
	expect_submitted(ctx, &iocb, HERE);
	ck_assert_int_eq(io_queue_run(ctx), 0);
	ck_assert_int_eq(called.count, 0);
	ck_assert_int_eq(write(idle[1], "x", 1), 1);
	WAIT_UNTIL(io_queue_run(ctx) == 0 && called.count == 1);
	ck_assert_int_eq(called.res, POLLIN | POLLRDNORM);
	free_queue(ctx);
	close_pair(idle);
}

static void submit_again(io_context_t ctx, struct iocb *iocb, long res, long res2)
{
	note_call(ctx, iocb, res, res2);
	if (called.count < 500)
		expect_ended(ctx, iocb, HERE);
}

CASE(what_a_callback_submits_is_called_back_in_the_same_run)
{
	io_context_t ctx = new_queue(16);
	struct iocb iocb;

	put_request(ctx, &iocb, submit_again);
	ck_assert_int_eq(io_queue_run(ctx), 0);
	ck_assert_int_eq(called.count, 500);
	free_queue(ctx);
}

static void run_again(io_context_t ctx, struct iocb *iocb, long res, long res2)
{
	note_call(ctx, iocb, res, res2);
	ck_assert_int_eq(io_queue_run(ctx), 0);
}

CASE(a_callback_may_run_the_queue)
{
	io_context_t ctx = new_queue(16);
	struct iocb iocbs[5];

	for (int i = 0; i < 5; i++)
		put_request(ctx, &iocbs[i], run_again);
	ck_assert_int_eq(io_queue_run(ctx), 0);
	ck_assert_int_eq(called.count, 5);
	expect_no_event(ctx, HERE);
	free_queue(ctx);
}

static void free_iocb(io_context_t ctx, struct iocb *iocb, long res, long res2)
{
	note_call(ctx, iocb, res, res2);
	memset(iocb, 0xff, sizeof(*iocb));
	free(iocb);
}

CASE(a_callback_may_free_its_iocb)
{
	io_context_t ctx = new_queue(16);

	for (int i = 0; i < 5; i++) {
		struct iocb *iocb = malloc(sizeof(*iocb));

		ck_assert_ptr_nonnull(iocb);
		put_request(ctx, iocb, free_iocb);
	}
	ck_assert_int_eq(io_queue_run(ctx), 0);
	ck_assert_int_eq(called.count, 5);
	free_queue(ctx);
}

CASE(an_event_without_callback_is_dropped)
{
	io_context_t ctx = new_queue(16);
	struct iocb iocbs[3];

	SKIP_ON_REFERENCE("it jumps to address 0");
	for (int i = 0; i < 3; i++)
		put_request(ctx, &iocbs[i], i == 1 ? note_call : NULL);
	ck_assert_int_eq(io_queue_run(ctx), 0);
	ck_assert_int_eq(called.count, 1);
	expect_no_event(ctx, HERE);
	free_queue(ctx);
}

CASE(queue_functions_refuse_what_is_no_context)
{
	io_context_t live = new_queue(4), gone = new_context(4);
	struct bad_handle table[BAD_HANDLE_COUNT];
	struct timespec moment = { .tv_nsec = 1000000 };

	free_context(gone);
	bad_handles(table, live, gone);
	for (int i = 0; i < bad_handles_for_reaping(); i++) {
		int result;

		/* To the reference a forged ring is an empty one. */
		if (on_reference() && i > 1)
			continue;
		result = io_queue_run(table[i].ctx);
		ck_assert_msg(result == -EINVAL, "io_queue_run, %s: %d", table[i].name, result);
		if (on_reference())
			continue;
		result = io_queue_wait(table[i].ctx, &moment);
		ck_assert_msg(result == -EINVAL, "io_queue_wait, %s: %d", table[i].name, result);
		result = io_queue_wait(table[i].ctx, NULL);
		ck_assert_msg(result == -EINVAL, "io_queue_wait for ever, %s: %d", table[i].name,
			      result);
	}
	free_queue(live);
}

struct waiter {
	struct worker worker;
	io_context_t ctx;
	struct timespec *timeout;
	int result;
};

static void waiter_run(void *argument)
{
	struct waiter *waiter = argument;

	waiter->result = io_queue_wait(waiter->ctx, waiter->timeout);
}

static void waiter_start(struct waiter *waiter, io_context_t ctx, struct timespec *timeout)
{
	*waiter = (struct waiter){ .ctx = ctx, .timeout = timeout };
	worker_start(&waiter->worker, waiter_run, waiter);
}

CASE(queue_wait_waits_for_an_event_and_takes_none)
{
	io_context_t ctx = new_queue(16);
	struct timespec hour = { .tv_sec = 3600 };
	struct waiter waiter;
	struct iocb iocb;

	SKIP_ON_REFERENCE("it never waits");
	for (int i = 0; i < 2; i++) {
		waiter_start(&waiter, ctx, i ? &hour : NULL);
		worker_wait_blocked(&waiter.worker);
		put_request(ctx, &iocb, note_call);
		worker_join(&waiter.worker);
		ck_assert_int_eq(waiter.result, 0);
		/* There already. */
		ck_assert_int_eq(io_queue_wait(ctx, NULL), 0);
		ck_assert_int_eq(io_queue_wait(ctx, i ? NULL : &hour), 0);
		expect_event(ctx, &iocb, 8, HERE);
		expect_no_event(ctx, HERE);
	}
	ck_assert_int_eq(hour.tv_sec, 3600);
	free_queue(ctx);
}

CASE(queue_wait_returns_zero_when_the_time_is_over)
{
	io_context_t ctx = new_queue(16);
	struct timespec zero = { 0 }, moment = { .tv_nsec = 20000000 };
	long long start;

	SKIP_ON_REFERENCE("it never waits");
	ck_assert_int_eq(io_queue_wait(ctx, &zero), 0);
	start = monotonic_ns();
	ck_assert_int_eq(io_queue_wait(ctx, &moment), 0);
	ck_assert_int_ge(monotonic_ns() - start, 20000000);
	ck_assert_int_eq(io_queue_wait(ctx, unreadable_page()), -EFAULT);
	free_queue(ctx);
}

/* Both see the one event: neither takes it. */
CASE(one_event_satisfies_several_queue_waits)
{
	io_context_t ctx = new_queue(16);
	struct waiter waiters[3];
	struct iocb iocb;

	SKIP_ON_REFERENCE("it never waits");
	for (int i = 0; i < 3; i++) {
		waiter_start(&waiters[i], ctx, NULL);
		worker_wait_blocked(&waiters[i].worker);
	}
	put_request(ctx, &iocb, note_call);
	for (int i = 0; i < 3; i++) {
		worker_join(&waiters[i].worker);
		ck_assert_int_eq(waiters[i].result, 0);
	}
	expect_event(ctx, &iocb, 8, HERE);
	free_queue(ctx);
}

/*
 * A thread that looks at an event and does not take it, while another sleeps that came first: it
 * may have moved the event where the other does not look.
 */

struct refused_reaper {
	struct worker worker;
	io_context_t ctx;
	struct timespec hour;
};

static void refused_reaper_run(void *argument)
{
	struct refused_reaper *reaper = argument;

	io_getevents(reaper->ctx, 1, 1, unreadable_page(), &reaper->hour);
}

/* The order in which they wake is by chance, and on one processor mostly the bad one. */
static void on_one_processor(cpu_set_t *before)
{
	cpu_set_t one;
	int cpu = sched_getcpu();

	ck_assert_int_eq(sched_getaffinity(0, sizeof(*before), before), 0);
	CPU_ZERO(&one);
	CPU_SET((size_t)cpu, &one);
	ck_assert_int_eq(sched_setaffinity(0, sizeof(one), &one), 0);
}

static void look_without_taking(bool is_refused)
{
	struct refused_reaper refused = { .hour = { .tv_sec = 3600 } };
	io_context_t ctx = new_queue(16);
	struct waiter waiter;
	struct reaper reaper;
	struct iocb iocb;
	int ends[2];

	make_pipe(ends, 0);
	io_prep_poll(&iocb, ends[0], POLLIN);
	expect_submitted(ctx, &iocb, HERE);
	reaper_start(&reaper, ctx, 1, 1, NULL);
	reaper_wait_blocked(&reaper);
	if (is_refused) {
		refused.ctx = ctx;
		worker_start(&refused.worker, refused_reaper_run, &refused);
		worker_wait_blocked(&refused.worker);
	} else {
		waiter_start(&waiter, ctx, NULL);
		worker_wait_blocked(&waiter.worker);
	}
	ck_assert_int_eq(write(ends[1], "x", 1), 1);
	ck_assert_int_eq(reaper_join(&reaper), 1);
	ck_assert_ptr_eq(reaper.events[0].obj, &iocb);
	free_queue(ctx);
	worker_join(is_refused ? &refused.worker : &waiter.worker);
	close_pair(ends);
}

CASE(who_looks_and_takes_nothing_keeps_no_event_from_a_sleeper)
{
	cpu_set_t before;

	SKIP_ON_REFERENCE("io_queue_wait never waits");
	on_one_processor(&before);
	for (int round = 0; round < 10; round++)
		look_without_taking(round % 2);
	ck_assert_int_eq(sched_setaffinity(0, sizeof(before), &before), 0);
}

CASE(a_signal_handler_ends_a_queue_wait_with_eintr)
{
	io_context_t ctx = new_queue(16);
	struct waiter waiter;

	SKIP_ON_REFERENCE("it never waits");
	catch_signal(SIGUSR1, SA_RESTART);
	waiter_start(&waiter, ctx, NULL);
	worker_wait_blocked(&waiter.worker);
	ck_assert_int_eq(pthread_kill(waiter.worker.thread, SIGUSR1), 0);
	worker_join(&waiter.worker);
	ck_assert_int_eq(waiter.result, -EINTR);
	restore_signal(SIGUSR1);
	free_queue(ctx);
}

CASE(destroy_ends_a_queue_wait)
{
	io_context_t ctx = new_queue(16);
	struct waiter waiter;

	SKIP_ON_REFERENCE("it never waits");
	waiter_start(&waiter, ctx, NULL);
	worker_wait_blocked(&waiter.worker);
	free_queue(ctx);
	worker_join(&waiter.worker);
	ck_assert_int_eq(waiter.result, -EINVAL);
}
