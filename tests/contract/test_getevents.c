/* SPDX-License-Identifier: MIT */
/*
 * io_getevents: arguments, timeouts, signals, and which of several waiters gets what.
 *
 * Events are made at will, in turn by reads of /dev/zero, which kernel AIO ends inside io_submit,
 * and by polls that fire when io_submit is over, of which the library learns only by looking.
 * Whether a call waits is seen in its thread, which must be asleep; a signal is sent only once it
 * is.  Times are only ever compared downwards: a timeout must not be over too early, how late it is
 * proves nothing.
 */
#include "contract.h"

#include <sys/utsname.h>

static char byte;

/* One event that the kernel has by the time this returns, or else the library. */
static void fire_poll(io_context_t ctx, long number)
{
	int counter = open_eventfd(0, EFD_CLOEXEC), ended;
	uint64_t one = 1;
	struct iocb iocb;

	io_prep_poll(&iocb, counter, POLLIN);
	iocb.data = (void *)number;
	ended = end_counter(&iocb);
	expect_submitted(ctx, &iocb, HERE);
	ck_assert_int_eq(write(counter, &one, sizeof(one)), sizeof(one));
	wait_for_end(ended, 1, HERE);
	close(counter);
}

static void end_read(io_context_t ctx, long number)
{
	int zero = open_device("/dev/zero", O_RDONLY);
	struct iocb iocb;

	io_prep_pread(&iocb, zero, &byte, 1, 0);
	iocb.data = (void *)number;
	expect_ended(ctx, &iocb, HERE);
	close(zero);
}

/* Ends so many requests; their data are the numbers from first on. */
static void put_events(io_context_t ctx, int count, long first)
{
	for (long number = first; number < first + count; number++) {
		if (number % 2)
			end_read(ctx, number);
		else
			fire_poll(ctx, number);
	}
}

static void expect_numbers(const struct io_event *events, int count, long first, const char *what)
{
	for (int i = 0; i < count; i++)
		ck_assert_msg((long)events[i].data == first + i, "%s: event %d is number %ld", what,
			      i, (long)events[i].data);
}

CASE(getevents_refuses_what_is_no_context)
{
	io_context_t live = new_context(4), gone = new_context(4);
	struct bad_handle table[BAD_HANDLE_COUNT];
	struct timespec zero = { 0 }, second = { .tv_sec = 1 };
	struct timespec *timeouts[] = { &zero, &second, NULL };
	struct io_event event;

	free_context(gone);
	bad_handles(table, live, gone);
	for (int i = 0; i < bad_handles_for_reaping(); i++) {
		for (int j = 0; j < 3; j++) {
			int result;

			/*
			 * With a ring's looks and a zero timeout the reference never asks the
			 * kernel.
			 */
			if (on_reference() && j == 0)
				continue;
			result = io_getevents(table[i].ctx, 0, 1, &event, timeouts[j]);
			ck_assert_msg(result == -EINVAL, "%s: %d", table[i].name, result);
			result = io_getevents(table[i].ctx, 1, 1, &event, timeouts[j]);
			ck_assert_msg(result == -EINVAL, "%s, waiting: %d", table[i].name, result);
		}
	}
	expect_works(live, HERE);
	free_context(live);
}

CASE(getevents_checks_its_numbers)
{
	static const long rows[][2] = { { -1, 1 }, { 1, -1 },	    { -1, -1 },	     { 0, -1 },
					{ 2, 1 },  { LONG_MIN, 1 }, { 1, LONG_MIN }, { 1, 0 } };
	io_context_t ctx = new_context(8);
	struct timespec zero = { 0 }, second = { .tv_sec = 1 };
	struct timespec *timeouts[] = { &second, NULL, &zero };
	struct io_event events[8];

	for (int present = 0; present < 2; present++) {
		for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
			for (int j = 0; j < 3; j++) {
				int result;

				if (on_reference() && !present && j == 2)
					continue;
				result = io_getevents(ctx, rows[i][0], rows[i][1], events,
						      timeouts[j]);
				ck_assert_msg(result == -EINVAL, "min %ld, nr %ld, %d present: %d",
					      rows[i][0], rows[i][1], present, result);
			}
		}
		if (!present)
			put_events(ctx, 1, 0);
	}
	ck_assert_int_eq(take_events_now(ctx, events, 8), 1);
	free_context(ctx);
}

CASE(getevents_with_nothing_to_wait_for_does_not_wait)
{
	io_context_t ctx = new_context(8);
	struct timespec zero = { 0 }, hour = { .tv_sec = 3600 };
	struct timespec *timeouts[] = { NULL, &zero, &hour };
	struct io_event events[8];

	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(io_getevents(ctx, 0, 8, events, timeouts[i]), 0);
		ck_assert_int_eq(io_getevents(ctx, 0, 0, NULL, timeouts[i]), 0);
		ck_assert_int_eq(io_getevents(ctx, 0, LONG_MAX, events, timeouts[i]), 0);
	}
	ck_assert_int_eq(io_getevents(ctx, 8, 8, events, &zero), 0);
	put_events(ctx, 5, 100);
	ck_assert_int_eq(io_getevents(ctx, 0, 0, NULL, NULL), 0);
	ck_assert_int_eq(io_getevents(ctx, 0, 2, events, NULL), 2);
	expect_numbers(events, 2, 100, HERE);
	ck_assert_int_eq(io_getevents(ctx, 5, 8, events, &zero), 3);
	expect_numbers(events, 3, 102, HERE);
	free_context_without_events(ctx, HERE);
}

CASE(getevents_takes_no_more_than_asked_and_in_order)
{
	io_context_t ctx = new_context(64);
	struct io_event events[64];

	put_events(ctx, 40, 1);
	ck_assert_int_eq(io_getevents(ctx, 1, 3, events, NULL), 3);
	expect_numbers(events, 3, 1, HERE);
	ck_assert_int_eq(io_getevents(ctx, 1, 1, events, NULL), 1);
	expect_numbers(events, 1, 4, HERE);
	ck_assert_int_eq(io_getevents(ctx, 36, 64, events, NULL), 36);
	expect_numbers(events, 36, 5, HERE);
	free_context_without_events(ctx, HERE);
}

CASE(events_keep_their_order_through_many_rounds_of_the_ring)
{
	io_context_t ctx = new_context(1);
	struct io_event events[64];
	const int rounds = is_emulated() ? 100 : 400;
	long next = 0, expected = 0;

	for (int round = 0; round < rounds; round++) {
		int count = 1 + round * 7 % 40;

		put_events(ctx, count, next);
		next += count;
		while (expected < next) {
			int got = io_getevents(ctx, 1, 1 + round % 13, events, NULL);

			ck_assert_int_gt(got, 0);
			expect_numbers(events, got, expected, HERE);
			expected += got;
		}
	}
	free_context_without_events(ctx, HERE);
}

CASE(an_expired_timeout_returns_what_is_there_and_not_too_early)
{
	io_context_t ctx = new_context(8);
	struct timespec timeout = { .tv_nsec = 50000000 };
	struct io_event events[8];
	long long start = monotonic_ns();

	ck_assert_int_eq(io_getevents(ctx, 1, 8, events, &timeout), 0);
	ck_assert_int_ge(monotonic_ns() - start, 50000000);
	put_events(ctx, 2, 7);
	start = monotonic_ns();
	ck_assert_int_eq(io_getevents(ctx, 3, 8, events, &timeout), 2);
	ck_assert_int_ge(monotonic_ns() - start, 50000000);
	expect_numbers(events, 2, 7, HERE);
	ck_assert(timeout.tv_sec == 0 && timeout.tv_nsec == 50000000);
	free_context_without_events(ctx, HERE);
}

CASE(timeouts_are_sums_of_seconds_and_nanoseconds)
{
	static const struct {
		struct timespec timeout;
		long long at_least_ns;
	} rows[] = {
		{ { 0, 1020000000 }, 1020000000 }, { { -1, 1030000000 }, 30000000 },
		{ { 1, -980000000 }, 20000000 },   { { 1, -1000000000 }, 0 },
		{ { -2, 2000000000 }, 0 },	   { { 0, 1 }, 0 },
	};
	io_context_t ctx = new_context(8);
	struct io_event event;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct timespec timeout = rows[i].timeout;
		long long start = monotonic_ns();

		ck_assert_int_eq(io_getevents(ctx, 1, 1, &event, &timeout), 0);
		ck_assert_msg(monotonic_ns() - start >= rows[i].at_least_ns,
			      "row %zu: over too early", i);
		ck_assert(timeout.tv_sec == rows[i].timeout.tv_sec &&
			  timeout.tv_nsec == rows[i].timeout.tv_nsec);
	}
	free_context(ctx);
}

CASE(a_timeout_below_zero_waits_for_ever)
{
	static const struct timespec rows[] = {
		{ -1, 0 }, { 0, -1 }, { -1, 999999999 }, { 1, -1000000001 }, { -2, 1500000000 },
	};
	io_context_t ctx = new_context(8);

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct timespec timeout = rows[i];
		struct reaper reaper;

		reaper_start(&reaper, ctx, 1, 1, &timeout);
		reaper_wait_blocked(&reaper);
		put_events(ctx, 1, (long)i);
		ck_assert_int_eq(reaper_join(&reaper), 1);
		expect_numbers(reaper.events, 1, (long)i, HERE);
	}
	free_context(ctx);
}

CASE(a_timeout_beyond_the_clock_waits_for_ever)
{
	static const struct timespec rows[] = { { LONG_MAX, 0 },
						{ LONG_MAX, 999999999 },
						{ LONG_MAX / 1000000000 + 1, 0 } };
	io_context_t ctx = new_context(8);

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct timespec timeout = rows[i];
		struct reaper reaper;

		reaper_start(&reaper, ctx, 1, 1, &timeout);
		reaper_wait_blocked(&reaper);
		put_events(ctx, 1, 0);
		ck_assert_int_eq(reaper_join(&reaper), 1);
	}
	free_context(ctx);
}

CASE(the_timeout_is_never_written)
{
	io_context_t ctx = new_context(8);
	struct timespec value = { .tv_nsec = 1000000 };
	struct timespec *timeout = read_only_page(&value, sizeof(value));
	struct io_event events[4];

	ck_assert_int_eq(io_getevents(ctx, 1, 4, events, timeout), 0);
	put_events(ctx, 2, 0);
	ck_assert_int_eq(io_getevents(ctx, 3, 4, events, timeout), 2);
	put_events(ctx, 2, 0);
	ck_assert_int_eq(io_getevents(ctx, 1, 4, events, timeout), 2);
	free_context(ctx);
}

CASE(an_unreadable_timeout_is_efault)
{
	io_context_t ctx = new_context(8);
	struct io_event events[4];

	SKIP_ON_REFERENCE("it looks into the timeout itself");
	for (int present = 0; present < 2; present++) {
		ck_assert_int_eq(io_getevents(ctx, 1, 4, events, unreadable_page()), -EFAULT);
		ck_assert_int_eq(io_getevents(ctx, 0, 4, events, unreadable_page()), -EFAULT);
		ck_assert_int_eq(io_getevents(ctx, 1, 4, events, KERNEL_ADDRESS), -EFAULT);
		ck_assert_int_eq(
			io_getevents(ctx, 1, 4, events,
				     (void *)bytes_before_bad_page(sizeof(struct timespec) / 2)),
			-EFAULT);
		if (!present)
			put_events(ctx, 1, 0);
	}
	ck_assert_int_eq(take_events_now(ctx, events, 4), 1);
	free_context(ctx);
}

CASE(unwritable_events_are_efault_and_nothing_is_lost)
{
	io_context_t ctx = new_context(8);
	struct timespec moment = { .tv_nsec = 1000000 };
	struct io_event events[8],
		*two = (struct io_event *)(void *)bytes_before_bad_page(2 * sizeof(*two));
	struct io_event *read_only = read_only_page(NULL, 0);

	/* It matters only when there is something to store. */
	ck_assert_int_eq(io_getevents(ctx, 1, 4, NULL, &moment), 0);
	ck_assert_int_eq(io_getevents(ctx, 1, 4, unreadable_page(), &moment), 0);
	put_events(ctx, 3, 30);
	ck_assert_int_eq(io_getevents(ctx, 1, 3, NULL, NULL), -EFAULT);
	ck_assert_int_eq(io_getevents(ctx, 1, 3, unreadable_page(), NULL), -EFAULT);
	ck_assert_int_eq(io_getevents(ctx, 1, 3, KERNEL_ADDRESS, NULL), -EFAULT);
	ck_assert_int_eq(io_getevents(ctx, 1, 3, read_only, NULL), -EFAULT);
	ck_assert_int_eq(io_getevents(ctx, 0, 3, unreadable_page(), &moment), -EFAULT);
	ck_assert_int_eq(io_getevents(ctx, 1, 3, two, NULL), -EFAULT);
	ck_assert_int_eq(io_getevents(ctx, 1, 2, two, NULL), 2);
	expect_numbers(two, 2, 30, HERE);
	ck_assert_int_eq(take_events_now(ctx, events, 8), 1);
	expect_numbers(events, 1, 32, HERE);
	/* Nor does it matter behind what there is to store. */
	put_events(ctx, 2, 40);
	ck_assert_int_eq(io_getevents(ctx, 1, 8, two, NULL), 2);
	expect_numbers(two, 2, 40, HERE);
	free_context_without_events(ctx, HERE);
}

CASE(unwritable_events_lose_nothing_wherever_the_ring_ends)
{
	io_context_t ctx = new_context(1);
	struct io_event events[8];
	long next = 0;

	/* More rounds than any ring for one event has slots. */
	for (int round = 0; round < 600; round++) {
		struct io_event *two;

		put_events(ctx, 5, next);
		if (round % 20 == 0) {
			two = (struct io_event *)(void *)bytes_before_bad_page(2 * sizeof(*two));
			ck_assert_int_eq(io_getevents(ctx, 1, 5, two, NULL), -EFAULT);
		}
		ck_assert_int_eq(io_getevents(ctx, 5, 5, events, NULL), 5);
		expect_numbers(events, 5, next, HERE);
		next += 5;
	}
	free_context_without_events(ctx, HERE);
}

CASE(min_nr_beyond_the_ring_takes_what_comes_until_the_timeout)
{
	enum { ROOM = 2000 };
	io_context_t ctx = new_context(1);
	struct timespec moment = { .tv_nsec = 20000000 };
	struct io_event *events = calloc(ROOM, sizeof(*events));
	int zero = open_device("/dev/zero", O_RDONLY), count = 0, ended;
	struct iocb iocb;

	io_prep_pread(&iocb, zero, &byte, 1, 0);
	ended = end_counter(&iocb);
	while (submit_one(ctx, &iocb) == 1)
		count++;
	wait_for_end(ended, (uint64_t)count, HERE);
	ck_assert_int_eq(io_getevents(ctx, ROOM, ROOM, events, &moment), count);
	free_context_without_events(ctx, HERE);
	free(events);
	close(zero);
}

static void signal_while_waiting(int flags, long min_nr, int present, struct timespec *timeout,
				 int expected)
{
	io_context_t ctx = new_context(8);
	struct reaper reaper;

	catch_signal(SIGUSR1, flags);
	put_events(ctx, present, 0);
	reaper_start(&reaper, ctx, min_nr, 8, timeout);
	reaper_wait_blocked(&reaper);
	ck_assert_int_eq(pthread_kill(reaper.worker.thread, SIGUSR1), 0);
	ck_assert_int_eq(reaper_join(&reaper), expected);
	WAIT_UNTIL(atomic_load(&contract_signal_count) == 1);
	expect_numbers(reaper.events, expected > 0 ? expected : 0, 0, HERE);
	restore_signal(SIGUSR1);
	free_context_without_events(ctx, HERE);
}

CASE(a_signal_handler_ends_the_wait_with_eintr)
{
	struct timespec hour = { .tv_sec = 3600 };

	signal_while_waiting(0, 1, 0, NULL, -EINTR);
	signal_while_waiting(0, 1, 0, &hour, -EINTR);
	ck_assert_int_eq(hour.tv_sec, 3600);
}

CASE(sa_restart_does_not_restart_the_wait)
{
	struct timespec hour = { .tv_sec = 3600 };

	signal_while_waiting(SA_RESTART, 1, 0, NULL, -EINTR);
	signal_while_waiting(SA_RESTART, 1, 0, &hour, -EINTR);
}

CASE(a_signal_handler_ends_the_wait_with_the_events_in_hand)
{
	signal_while_waiting(0, 5, 2, NULL, 2);
	signal_while_waiting(SA_RESTART, 5, 1, NULL, 1);
}

CASE(ignored_and_blocked_signals_do_not_end_the_wait)
{
	io_context_t ctx = new_context(8);
	struct reaper reaper;
	sigset_t set, old;

	for (int blocked = 0; blocked < 2; blocked++) {
		sigemptyset(&set);
		sigaddset(&set, SIGUSR1);
		if (blocked) {
			catch_signal(SIGUSR1, 0);
			/* The thread starts with its maker's mask. */
			pthread_sigmask(SIG_BLOCK, &set, &old);
		} else {
			signal(SIGUSR1, SIG_IGN);
		}
		reaper_start(&reaper, ctx, 1, 1, NULL);
		if (blocked)
			pthread_sigmask(SIG_SETMASK, &old, NULL);
		reaper_wait_blocked(&reaper);
		ck_assert_int_eq(pthread_kill(reaper.worker.thread, SIGUSR1), 0);
		reaper_wait_blocked(&reaper);
		put_events(ctx, 1, 9);
		ck_assert_int_eq(reaper_join(&reaper), 1);
		if (blocked)
			ck_assert_int_eq(atomic_load(&contract_signal_count), 0);
		restore_signal(SIGUSR1);
	}
	free_context(ctx);
}

CASE(a_waiter_for_several_leaves_fewer_to_others)
{
	io_context_t ctx = new_context(8);
	struct io_event events[8];
	struct reaper reaper;

	reaper_start(&reaper, ctx, 3, 8, NULL);
	reaper_wait_blocked(&reaper);
	put_events(ctx, 2, 0);
	reaper_wait_blocked(&reaper);
	ck_assert_int_eq(take_events_now(ctx, events, 8), 2);
	expect_numbers(events, 2, 0, HERE);
	put_events(ctx, 2, 2);
	reaper_wait_blocked(&reaper);
	put_events(ctx, 1, 4);
	ck_assert_int_eq(reaper_join(&reaper), 3);
	expect_numbers(reaper.events, 3, 2, HERE);
	free_context_without_events(ctx, HERE);
}

CASE(a_waiter_for_several_wakes_when_they_come_one_by_one)
{
	io_context_t ctx = new_context(64);
	struct reaper reaper;
	struct iocb iocb;
	int idle[2];

	make_pipe(idle, 0);
	io_prep_poll(&iocb, idle[0], POLLIN);
	for (int i = 0; i < 10; i++)
		expect_submitted(ctx, &iocb, HERE);
	reaper_start(&reaper, ctx, 20, 64, NULL);
	for (int i = 0; i < 10; i++) {
		reaper_wait_blocked(&reaper);
		put_events(ctx, 1, i);
	}
	reaper_wait_blocked(&reaper);
	/* The last ten at once, from the kernel's wake-ups. */
	ck_assert_int_eq(write(idle[1], "x", 1), 1);
	ck_assert_int_eq(reaper_join(&reaper), 20);
	expect_numbers(reaper.events, 10, 0, HERE);
	free_context_without_events(ctx, HERE);
	close_pair(idle);
}

static bool kernel_wakes_for_several(void)
{
	int version, level;
	struct utsname system;

	ck_assert_int_eq(uname(&system), 0);
	return sscanf(system.release, "%d.%d", &version, &level) == 2 &&
	       (version > 6 || (version == 6 && level >= 8));
}

/* Of the kernel's own, as Linux 6.8 has it. */
CASE(a_waiter_for_several_sleeps_until_they_are_there)
{
	enum { EVENTS = 16 };
	io_context_t ctx = new_context(128);
	struct iocb iocbs[EVENTS];
	struct task_look before, after;
	struct reaper reaper;
	int gates[EVENTS];

	if (on_threads() || !kernel_wakes_for_several())
		SKIP("no waiter of this kernel, or engine, sleeps for several");
	for (int i = 0; i < EVENTS; i++) {
		gates[i] = open_eventfd(0, EFD_CLOEXEC);
		io_prep_poll(&iocbs[i], gates[i], POLLIN);
		expect_submitted(ctx, &iocbs[i], HERE);
	}
	reaper_start(&reaper, ctx, EVENTS, EVENTS, NULL);
	reaper_wait_blocked(&reaper);
	ck_assert(task_look(atomic_load(&reaper.worker.tid), &before));
	for (int i = 0; i < EVENTS - 1; i++) {
		ck_assert_int_eq(write(gates[i], &(uint64_t){ 1 }, 8), 8);
		contract_pause();
	}
	reaper_wait_blocked(&reaper);
	ck_assert(task_look(atomic_load(&reaper.worker.tid), &after));
	/* It may look for itself now and then. */
	ck_assert_msg(after.switches - before.switches < EVENTS / 2, "woken %llu times",
		      after.switches - before.switches);
	ck_assert_int_eq(write(gates[EVENTS - 1], &(uint64_t){ 1 }, 8), 8);
	ck_assert_int_eq(reaper_join(&reaper), EVENTS);
	free_context_without_events(ctx, HERE);
	for (int i = 0; i < EVENTS; i++)
		close(gates[i]);
}

CASE(one_event_wakes_one_waiter)
{
	enum { COUNT = 3 };
	io_context_t ctx = new_context(8);
	struct reaper reapers[COUNT];
	bool seen[COUNT] = { false };

	for (int i = 0; i < COUNT; i++) {
		reaper_start(&reapers[i], ctx, 1, 8, NULL);
		reaper_wait_blocked(&reapers[i]);
	}
	for (int round = 0; round < COUNT; round++) {
		int ended = 0;

		put_events(ctx, 1, round);
		WAIT_UNTIL((worker_has_ended(&reapers[0].worker) +
			    worker_has_ended(&reapers[1].worker) +
			    worker_has_ended(&reapers[2].worker)) > round);
		for (int i = 0; i < COUNT; i++) {
			if (worker_has_ended(&reapers[i].worker))
				ended++;
			else
				reaper_wait_blocked(&reapers[i]);
		}
		ck_assert_int_eq(ended, round + 1);
	}
	for (int i = 0; i < COUNT; i++) {
		ck_assert_int_eq(reaper_join(&reapers[i]), 1);
		ck_assert(!seen[(long)reapers[i].events[0].data]);
		seen[(long)reapers[i].events[0].data] = true;
	}
	free_context_without_events(ctx, HERE);
}

CASE(a_waiter_for_one_takes_what_another_for_several_waits_for)
{
	io_context_t ctx = new_context(8);
	struct reaper many, one;

	reaper_start(&many, ctx, 3, 8, NULL);
	reaper_wait_blocked(&many);
	reaper_start(&one, ctx, 1, 1, NULL);
	reaper_wait_blocked(&one);
	put_events(ctx, 1, 0);
	ck_assert_int_eq(reaper_join(&one), 1);
	reaper_wait_blocked(&many);
	put_events(ctx, 2, 1);
	reaper_wait_blocked(&many);
	put_events(ctx, 1, 3);
	ck_assert_int_eq(reaper_join(&many), 3);
	expect_numbers(many.events, 3, 1, HERE);
	free_context_without_events(ctx, HERE);
}

/* The one that leaves is not the one that others depend on. */
CASE(waiters_that_leave_leave_nobody_asleep)
{
	io_context_t ctx = new_context(8);
	struct timespec moment = { .tv_nsec = 30000000 };
	struct reaper first, second, third;

	catch_signal(SIGUSR1, 0);
	for (int round = 0; round < 5; round++) {
		reaper_start(&first, ctx, 1, 1, round % 2 ? NULL : &moment);
		if (round % 2)
			reaper_wait_blocked(&first);
		reaper_start(&second, ctx, 2, 2, NULL);
		reaper_wait_blocked(&second);
		reaper_start(&third, ctx, 1, 1, NULL);
		reaper_wait_blocked(&third);
		if (round % 2)
			ck_assert_int_eq(pthread_kill(first.worker.thread, SIGUSR1), 0);
		ck_assert_int_eq(reaper_join(&first), round % 2 ? -EINTR : 0);
		put_events(ctx, 1, 0);
		ck_assert_int_eq(reaper_join(&third), 1);
		put_events(ctx, 2, 1);
		ck_assert_int_eq(reaper_join(&second), 2);
		expect_numbers(second.events, 2, 1, HERE);
	}
	restore_signal(SIGUSR1);
	free_context_without_events(ctx, HERE);
}

CASE(events_of_another_context_wake_nobody_here)
{
	io_context_t ctx = new_context(8), other = new_context(8);
	struct io_event events[8];
	struct reaper reaper;

	reaper_start(&reaper, ctx, 1, 8, NULL);
	reaper_wait_blocked(&reaper);
	put_events(other, 4, 0);
	reaper_wait_blocked(&reaper);
	ck_assert_int_eq(take_events_now(other, events, 8), 4);
	put_events(ctx, 1, 50);
	ck_assert_int_eq(reaper_join(&reaper), 1);
	expect_numbers(reaper.events, 1, 50, HERE);
	free_context(ctx);
	free_context(other);
}

/* What the kernel does at once and what it would make its caller wait for end in one queue. */
CASE(a_waiter_for_two_gets_one_from_the_kernel_and_one_from_a_pipe)
{
	io_context_t ctx = new_context(8);
	struct iocb poll_iocb, read_iocb;
	struct reaper reaper;
	char bytes[8];
	int idle[2], data[2];
	int ended = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	SKIP_ON_REFERENCE("a read of an empty pipe would hold io_submit itself");
	make_pipe(idle, 0);
	make_pipe(data, 0);
	for (int round = 0; round < 4; round++) {
		io_prep_poll(&poll_iocb, idle[0], POLLIN);
		io_prep_pread(&read_iocb, data[0], bytes, sizeof(bytes), 0);
		io_set_eventfd(round % 2 ? &poll_iocb : &read_iocb, ended);
		expect_submitted(ctx, &poll_iocb, HERE);
		expect_submitted(ctx, &read_iocb, HERE);
		reaper_start(&reaper, ctx, 2, 8, NULL);
		reaper_wait_blocked(&reaper);
		ck_assert_int_eq(write(round % 2 ? idle[1] : data[1], "x", 1), 1);
		expect_count(ended, 1, "the first");
		reaper_wait_blocked(&reaper);
		ck_assert_int_eq(write(round % 2 ? data[1] : idle[1], "x", 1), 1);
		ck_assert_int_eq(reaper_join(&reaper), 2);
		ck_assert_ptr_eq(reaper.events[0].obj, round % 2 ? &poll_iocb : &read_iocb);
		ck_assert_ptr_eq(reaper.events[1].obj, round % 2 ? &read_iocb : &poll_iocb);
		ck_assert_int_eq(read(idle[0], bytes, 1), 1);
	}
	free_context_without_events(ctx, HERE);
	close(ended);
	close_pair(idle);
	close_pair(data);
}

CASE(many_short_waits_end)
{
	io_context_t ctx = new_context(8);
	struct io_event event;

	for (int i = 0; i < 300; i++) {
		struct timespec timeout = { .tv_nsec = 1 + i * 1000 };

		ck_assert_int_eq(io_getevents(ctx, 1, 1, &event, &timeout), 0);
	}
	put_events(ctx, 1, 3);
	ck_assert_int_eq(io_getevents(ctx, 1, 1, &event, NULL), 1);
	free_context(ctx);
}

enum { LOOKED_AT_ROUNDS = 10000 };

struct waited {
	io_context_t ctx;
	_Atomic int events;
};

static void wait_again_and_again(void *argument)
{
	struct waited *waited = (struct waited *)argument;
	struct io_event event;

	for (int i = 1; i <= LOOKED_AT_ROUNDS; i++) {
		ck_assert_int_eq(io_getevents(waited->ctx, 1, 1, &event, NULL), 1);
		atomic_store(&waited->events, i);
	}
}

/*
 * An fsync looks what has ended, and may meet an event on its way to one who sleeps.  That of a
 * disk comes by an interrupt, between any two instructions.
 */
CASE(a_refused_fsync_takes_no_event_from_a_sleeper)
{
	struct waited waited = { .ctx = new_context(8) };
	int file = scratch_file(4096), ends[2];
	static _Alignas(4096) char block[4096];
	struct iocb read, fsync, *fsyncs[] = { &fsync };
	struct worker waiter;

	if (fcntl(file, F_SETFL, O_DIRECT) != 0)
		SKIP("O_DIRECT is refused here");
	make_pipe(ends, 0);
	worker_start(&waiter, wait_again_and_again, &waited);
	for (int i = 0; i < LOOKED_AT_ROUNDS; i++) {
		long long end_ns = monotonic_ns() + EVENT_LIMIT_SECONDS * 1000000000LL;

		io_prep_pread(&read, file, block, sizeof(block), 0);
		expect_submitted(waited.ctx, &read, HERE);
		while (atomic_load(&waited.events) <= i) {
			io_prep_fsync(&fsync, ends[0]);
			ck_assert_int_eq(io_submit(waited.ctx, 1, fsyncs), -EINVAL);
			ck_assert_msg(monotonic_ns() < end_ns, "round %d: nobody has its event", i);
		}
	}
	worker_join(&waiter);
	close(file);
	close_pair(ends);
	free_context_without_events(waited.ctx, HERE);
}
