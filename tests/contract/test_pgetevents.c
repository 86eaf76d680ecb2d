/* SPDX-License-Identifier: MIT */
/*
 * io_pgetevents: the signal mask of the call.
 *
 * What is at stake is the moment: a signal that is open in the mask must not slip through between
 * the change of mask and the wait, and one that is closed must not run before the return.  A signal
 * that is already pending shows the first, one sent to the sleeping thread the second.
 */
#include "contract.h"

static char byte;
static sigset_t none, usr1;

/* Events by reads of /dev/zero. */
static void put_events(io_context_t ctx, int count)
{
	int zero = open_device("/dev/zero", O_RDONLY);
	struct iocb iocb;

	io_prep_pread(&iocb, zero, &byte, 1, 0);
	for (int i = 0; i < count; i++)
		expect_ended(ctx, &iocb, HERE);
	close(zero);
}

/* SIGUSR1 is caught, and blocked in this thread. */
static void block_signal(int flags)
{
	sigemptyset(&none);
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	catch_signal(SIGUSR1, flags);
	ck_assert_int_eq(pthread_sigmask(SIG_BLOCK, &usr1, NULL), 0);
}

static void unblock_signal(void)
{
	ck_assert_int_eq(pthread_sigmask(SIG_UNBLOCK, &usr1, NULL), 0);
	restore_signal(SIGUSR1);
}

static bool signal_is_blocked(void)
{
	sigset_t now;

	ck_assert_int_eq(pthread_sigmask(SIG_BLOCK, NULL, &now), 0);
	return sigismember(&now, SIGUSR1) == 1;
}

static int handled(void)
{
	return atomic_load(&contract_signal_count);
}

static void raise_pending(void)
{
	atomic_store(&contract_signal_count, 0);
	ck_assert_int_eq(pthread_kill(pthread_self(), SIGUSR1), 0);
	ck_assert_int_eq(handled(), 0);
}

CASE(pgetevents_without_a_mask_is_getevents)
{
	io_context_t live = new_context(8), gone = new_context(8);
	struct bad_handle table[BAD_HANDLE_COUNT];
	struct timespec zero = { 0 }, moment = { .tv_nsec = 1000000 };
	struct io_event events[8];

	free_context(gone);
	bad_handles(table, live, gone);
	sigemptyset(&none);
	for (int i = 0; i < bad_handles_for_reaping(); i++) {
		int result =
			io_pgetevents(table[i].ctx, 1, 1, events, &moment, i % 2 ? &none : NULL);

		ck_assert_msg(result == -EINVAL, "%s: %d", table[i].name, result);
	}
	for (int i = 0; i < 2; i++) {
		sigset_t *mask = i ? &none : NULL;

		ck_assert_int_eq(io_pgetevents(live, -1, 1, events, &moment, mask), -EINVAL);
		ck_assert_int_eq(io_pgetevents(live, 2, 1, events, &moment, mask), -EINVAL);
		ck_assert_int_eq(io_pgetevents(live, 1, -1, events, &moment, mask), -EINVAL);
		if (!on_reference())
			ck_assert_int_eq(io_pgetevents(live, 2, 1, events, &zero, mask), -EINVAL);
		ck_assert_int_eq(io_pgetevents(live, 1, 1, events, &moment, mask), 0);
		ck_assert_int_eq(io_pgetevents(live, 0, 8, events, NULL, mask), 0);
		ck_assert_int_eq(io_pgetevents(live, 1, 8, events, &zero, mask), 0);
		put_events(live, 3);
		ck_assert_int_eq(io_pgetevents(live, 1, 8, unreadable_page(), NULL, mask), -EFAULT);
		ck_assert_int_eq(io_pgetevents(live, 1, 2, events, NULL, mask), 2);
		ck_assert_int_eq(io_pgetevents(live, 5, 8, events, &moment, mask), 1);
	}
	free_context_without_events(live, HERE);
}

CASE(an_unreadable_mask_is_efault)
{
	io_context_t ctx = new_context(8);
	struct timespec moment = { .tv_nsec = 1000000 };
	struct io_event event;

	ck_assert_int_eq(io_pgetevents(ctx, 1, 1, &event, &moment, unreadable_page()), -EFAULT);
	ck_assert_int_eq(io_pgetevents(ctx, 1, 1, &event, NULL, KERNEL_ADDRESS), -EFAULT);
	put_events(ctx, 1);
	ck_assert_int_eq(io_pgetevents(ctx, 1, 1, &event, NULL, unreadable_page()), -EFAULT);
	ck_assert_int_eq(io_pgetevents(ctx, 1, 1, &event, NULL, NULL), 1);
	free_context(ctx);
}

/*
 * The kernel's set of signals is shorter than the C library's, and nothing more than it may be
 * read.
 */
CASE(a_mask_may_end_where_its_memory_ends)
{
	io_context_t ctx = new_context(8);
	struct io_event event;
	char *place = bytes_before_bad_page(8);

	memset(place, 0, 8);
	put_events(ctx, 1);
	ck_assert_int_eq(io_pgetevents(ctx, 1, 1, &event, NULL, (sigset_t *)(void *)place), 1);
	free_context(ctx);
}

CASE(a_pending_signal_that_the_mask_opens_ends_the_call_with_eintr)
{
	io_context_t ctx = new_context(8);
	struct timespec hour = { .tv_sec = 3600 };
	struct io_event event;

	for (int flags = 0; flags < 2; flags++) {
		block_signal(flags ? SA_RESTART : 0);
		raise_pending();
		ck_assert_int_eq(io_pgetevents(ctx, 1, 1, &event, NULL, &none), -EINTR);
		ck_assert_int_eq(handled(), 1);
		ck_assert(signal_is_blocked());
		raise_pending();
		ck_assert_int_eq(io_pgetevents(ctx, 1, 1, &event, &hour, &none), -EINTR);
		ck_assert_int_eq(handled(), 1);
		raise_pending();
		ck_assert_int_eq(io_pgetevents(ctx, 0, 1, &event, NULL, &none), -EINTR);
		ck_assert_int_eq(handled(), 1);
		unblock_signal();
	}
	free_context(ctx);
}

CASE(also_with_a_timeout_of_zero)
{
	io_context_t ctx = new_context(8);
	struct timespec zero = { 0 };
	struct io_event event;

	SKIP_ON_REFERENCE("with an empty ring it does not install the mask");
	block_signal(0);
	raise_pending();
	ck_assert_int_eq(io_pgetevents(ctx, 0, 1, &event, &zero, &none), -EINTR);
	ck_assert_int_eq(handled(), 1);
	raise_pending();
	ck_assert_int_eq(io_pgetevents(ctx, 1, 1, &event, &zero, &none), -EINTR);
	ck_assert_int_eq(handled(), 1);
	ck_assert(signal_is_blocked());
	unblock_signal();
	free_context(ctx);
}

CASE(with_events_present_the_handler_runs_and_the_count_is_returned)
{
	io_context_t ctx = new_context(8);
	struct timespec zero = { 0 };
	struct io_event events[8];

	block_signal(0);
	put_events(ctx, 2);
	raise_pending();
	ck_assert_int_eq(io_pgetevents(ctx, 1, 1, events, NULL, &none), 1);
	ck_assert_int_eq(handled(), 1);
	raise_pending();
	ck_assert_int_eq(io_pgetevents(ctx, 0, 8, events, &zero, &none), 1);
	ck_assert_int_eq(handled(), 1);
	ck_assert(signal_is_blocked());
	unblock_signal();
	free_context_without_events(ctx, HERE);
}

/* A read of what is not in memory, which a waiter may carry out himself instead of sleeping. */
CASE(a_pending_signal_is_handled_also_if_the_call_has_to_wait)
{
	enum { BYTES = 4096, BLOCKS = 64, ROUNDS = 200 };
	static char content[BLOCKS * BYTES], bytes[BYTES];
	io_context_t ctx = new_context(8);
	int file = scratch_file(0);
	struct io_event event;
	struct iocb iocb;

	NEEDS_FLAGS();
	ck_assert_int_eq(pwrite(file, content, sizeof(content), 0), sizeof(content));
	block_signal(0);
	for (int i = 0; i < ROUNDS; i++) {
		fdatasync(file);
		posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
		io_prep_pread(&iocb, file, bytes, BYTES, (long long)(i * 7 % BLOCKS) * BYTES);
		raise_pending();
		expect_submitted(ctx, &iocb, HERE);
		/* A sleep may be ended by it before the event is there. */
		if (io_pgetevents(ctx, 1, 1, &event, NULL, &none) != 1)
			ck_assert_int_eq(io_getevents(ctx, 1, 1, &event, NULL), 1);
		ck_assert_msg(handled() == 1, "round %d: handled %d times", i, handled());
	}
	unblock_signal();
	free_context(ctx);
	close(file);
}

struct masked_reaper {
	struct worker worker;
	io_context_t ctx;
	long min_nr;
	sigset_t *mask;
	int result;
	int handled_on_return;
	bool blocked_on_return;
	bool has_no_ppoll; /* as in a sandbox */
};

static void masked_reaper_run(void *argument)
{
	struct masked_reaper *reaper = argument;
	struct io_event events[8];

	if (reaper->has_no_ppoll && !refuse_system_call(SYS_ppoll, EPERM, 0))
		fprintf(stderr, "no seccomp filter here: nothing is refused\n");
	reaper->result = io_pgetevents(reaper->ctx, reaper->min_nr, 8, events, NULL, reaper->mask);
	reaper->handled_on_return = handled();
	reaper->blocked_on_return = signal_is_blocked();
}

CASE(a_signal_that_the_mask_opens_ends_the_wait)
{
	struct masked_reaper reaper = { .ctx = new_context(8), .min_nr = 1, .mask = &none };

	block_signal(0);
	for (int with_event = 0; with_event < 2; with_event++) {
		atomic_store(&contract_signal_count, 0);
		put_events(reaper.ctx, with_event);
		reaper.min_nr = 1 + with_event;
		worker_start(&reaper.worker, masked_reaper_run, &reaper);
		worker_wait_blocked(&reaper.worker);
		ck_assert_int_eq(pthread_kill(reaper.worker.thread, SIGUSR1), 0);
		worker_join(&reaper.worker);
		ck_assert_int_eq(reaper.result, with_event ? 1 : -EINTR);
		ck_assert(reaper.blocked_on_return);
		WAIT_UNTIL(handled() == 1);
	}
	unblock_signal();
	free_context(reaper.ctx);
}

CASE(a_wait_with_a_mask_goes_on_where_ppoll_is_refused)
{
	struct masked_reaper reaper = { .ctx = new_context(8), .min_nr = 2, .mask = &none };

	reaper.has_no_ppoll = true;
	worker_start(&reaper.worker, masked_reaper_run, &reaper);
	put_events(reaper.ctx, 1);
	worker_wait_blocked(&reaper.worker);
	put_events(reaper.ctx, 1);
	worker_join(&reaper.worker);
	ck_assert_int_eq(reaper.result, 2);
	free_context(reaper.ctx);
}

struct poller {
	struct worker worker;
	int ends[2];
	int count;
};

static void poll_with_signal_closed(void *argument)
{
	struct poller *poller = argument;
	struct pollfd readable = { .fd = poller->ends[0], .events = POLLIN };

	ppoll(&readable, 1, NULL, &usr1);
	poller->count = handled();
}

/* Asked of the call itself: an emulator may not look for the signal when its mask is open again. */
static bool ppoll_keeps_closed_signals(void)
{
	struct poller poller = { .count = 0 };
	bool kept;

	make_pipe(poller.ends, 0);
	block_signal(0);
	ck_assert_int_eq(pthread_sigmask(SIG_UNBLOCK, &usr1, NULL), 0);
	worker_start(&poller.worker, poll_with_signal_closed, &poller);
	worker_wait_blocked(&poller.worker);
	ck_assert_int_eq(pthread_kill(poller.worker.thread, SIGUSR1), 0);
	worker_wait_blocked(&poller.worker);
	ck_assert_int_eq(write(poller.ends[1], "x", 1), 1);
	worker_join(&poller.worker);
	kept = poller.count == 1;
	restore_signal(SIGUSR1);
	atomic_store(&contract_signal_count, 0);
	close_pair(poller.ends);
	return kept;
}

CASE(a_signal_that_the_mask_closes_waits_for_the_return)
{
	struct masked_reaper reaper = { .ctx = new_context(8), .min_nr = 1, .mask = &usr1 };

	if (!ppoll_keeps_closed_signals()) {
		free_context(reaper.ctx);
		SKIP("a signal that ppoll has kept closed waits for another here");
	}
	block_signal(0);
	/* Open in the thread, closed in the call. */
	ck_assert_int_eq(pthread_sigmask(SIG_UNBLOCK, &usr1, NULL), 0);
	worker_start(&reaper.worker, masked_reaper_run, &reaper);
	worker_wait_blocked(&reaper.worker);
	ck_assert_int_eq(pthread_kill(reaper.worker.thread, SIGUSR1), 0);
	worker_wait_blocked(&reaper.worker);
	ck_assert_int_eq(handled(), 0);
	put_events(reaper.ctx, 1);
	worker_join(&reaper.worker);
	ck_assert_int_eq(reaper.result, 1);
	ck_assert(!reaper.blocked_on_return);
	WAIT_UNTIL(handled() == 1);
	restore_signal(SIGUSR1);
	free_context(reaper.ctx);
}

CASE(the_mask_of_an_error_is_restored_too)
{
	io_context_t ctx = new_context(8);
	struct timespec moment = { .tv_nsec = 1000000 };
	struct io_event event;

	block_signal(0);
	raise_pending();
	ck_assert_int_eq(io_pgetevents(ctx, 2, 1, &event, &moment, &usr1), -EINVAL);
	ck_assert(signal_is_blocked());
	ck_assert_int_eq(io_pgetevents(ctx, 1, 1, &event, &moment, &usr1), 0);
	ck_assert(signal_is_blocked());
	ck_assert_int_eq(handled(), 0);
	unblock_signal();
	free_context(ctx);
}
