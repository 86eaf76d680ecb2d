/* SPDX-License-Identifier: MIT */
/*
 * io_cancel.  Whatever it answers, every request has exactly one event, which comes through the
 * queue: a program that cancels and then drains must neither hang nor lose anything.
 *
 * Requests that can be cancelled for certain are polls that wait.  Requests that cannot are
 * transfers that have reached the disk, which is kept from answering (holdfs.h).
 */
#include "contract.h"
#include "holdfs.h"

static char byte;

static int idle[2];

static void arm_poll(io_context_t ctx, struct iocb *iocb, long number)
{
	io_prep_poll(iocb, idle[0], POLLIN);
	iocb->data = (void *)number;
	expect_submitted(ctx, iocb, HERE);
}

/* In flight, but no longer to be cancelled. */
static int too_late(void)
{
	return on_reference() ? -EINVAL : -EAGAIN;
}

/*
 * Ended, with the event not taken.  Nobody can tell whether the library has seen the event yet, so
 * both answers that leave the request alone are right.
 */
static bool says_ended(int result)
{
	return result == -EINVAL || (!on_reference() && result == -EAGAIN);
}

CASE(cancel_refuses_what_is_no_context)
{
	io_context_t live = new_context(4), gone = new_context(4);
	struct bad_handle table[BAD_HANDLE_COUNT];
	struct io_event event;
	struct iocb iocb;

	make_pipe(idle, 0);
	arm_poll(live, &iocb, 1);
	free_context(gone);
	bad_handles(table, live, gone);
	for (int i = 0; i < BAD_HANDLE_COUNT; i++) {
		int result = io_cancel(table[i].ctx, &iocb, &event);

		ck_assert_msg(result == -EINVAL, "%s: %d", table[i].name, result);
	}
	expect_no_event(live, HERE);
	free_context(live);
	close_pair(idle);
}

CASE(cancel_refuses_an_iocb_it_cannot_read)
{
	io_context_t ctx = new_context(4);
	struct io_event event;

	ck_assert_int_eq(io_cancel(ctx, NULL, &event), -EFAULT);
	ck_assert_int_eq(io_cancel(ctx, unreadable_page(), &event), -EFAULT);
	ck_assert_int_eq(io_cancel(ctx, KERNEL_ADDRESS, &event), -EFAULT);
	ck_assert_int_eq(io_cancel(NULL, NULL, NULL), -EFAULT);
	free_context(ctx);
}

CASE(cancel_refuses_what_is_not_in_flight)
{
	io_context_t ctx = new_context(4);
	struct io_event event;
	struct iocb iocb;

	make_pipe(idle, 0);
	io_prep_poll(&iocb, idle[0], POLLIN);
	ck_assert_int_eq(io_cancel(ctx, &iocb, &event), -EINVAL);
	arm_poll(ctx, &iocb, 1);
	ck_assert_int_eq(write(idle[1], "x", 1), 1);
	expect_event(ctx, &iocb, POLLIN | POLLRDNORM, HERE);
	ck_assert_int_eq(io_cancel(ctx, &iocb, &event), -EINVAL);
	free_context(ctx);
	close_pair(idle);
}

CASE(a_waiting_poll_is_cancelled_and_its_event_comes_through_the_queue)
{
	io_context_t ctx = new_context(4);
	int signal_fd = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct iocb iocb;
	struct io_event event, untouched;
	/* The pointer is neither read nor written. */
	struct io_event *pointers[] = { &event, NULL, unreadable_page(), KERNEL_ADDRESS };

	make_pipe(idle, 0);
	memset(&event, 0x77, sizeof(event));
	untouched = event;
	for (int i = 0; i < 4; i++) {
		io_prep_poll(&iocb, idle[0], POLLIN);
		iocb.data = &untouched;
		io_set_eventfd(&iocb, signal_fd);
		expect_submitted(ctx, &iocb, HERE);
		ck_assert_int_eq(io_cancel(ctx, &iocb, pointers[i]), -EINPROGRESS);
		expect_event(ctx, &iocb, 0, HERE);
		expect_count(signal_fd, 1, HERE);
		expect_no_event(ctx, HERE);
		ck_assert_int_eq(io_cancel(ctx, &iocb, pointers[i]), -EINVAL);
	}
	ck_assert_mem_eq(&event, &untouched, sizeof(event));
	free_context(ctx);
	close(signal_fd);
	close_pair(idle);
}

CASE(cancelling_wakes_a_waiter)
{
	io_context_t ctx = new_context(4);
	struct io_event event;
	struct reaper reaper;
	struct iocb iocb;

	make_pipe(idle, 0);
	arm_poll(ctx, &iocb, 5);
	reaper_start(&reaper, ctx, 1, 4, NULL);
	reaper_wait_blocked(&reaper);
	ck_assert_int_eq(io_cancel(ctx, &iocb, &event), -EINPROGRESS);
	ck_assert_int_eq(reaper_join(&reaper), 1);
	ck_assert(reaper.events[0].obj == &iocb && reaper.events[0].data == (void *)5L);
	ck_assert_int_eq((long)reaper.events[0].res, 0);
	free_context(ctx);
	close_pair(idle);
}

CASE(a_request_is_cancelled_once)
{
	io_context_t ctx = new_context(4);
	struct io_event event;
	struct iocb iocb;

	make_pipe(idle, 0);
	arm_poll(ctx, &iocb, 1);
	ck_assert_int_eq(io_cancel(ctx, &iocb, &event), -EINPROGRESS);
	ck_assert(says_ended(io_cancel(ctx, &iocb, &event)));
	expect_event(ctx, &iocb, 0, HERE);
	free_context_without_events(ctx, HERE);
	close_pair(idle);
}

CASE(a_request_is_known_by_context_and_address)
{
	io_context_t ctx = new_context(4), other = new_context(4);
	struct iocb iocb, copy;
	struct io_event event;

	make_pipe(idle, 0);
	arm_poll(ctx, &iocb, 1);
	copy = iocb;
	ck_assert_int_eq(io_cancel(ctx, &copy, &event), -EINVAL);
	ck_assert_int_eq(io_cancel(other, &iocb, &event), -EINVAL);
	expect_no_event(ctx, HERE);
	/* What the iocb holds by now is of no importance. */
	memset(&iocb, 0xff, sizeof(iocb));
	iocb.key = 0;
	ck_assert_int_eq(io_cancel(ctx, &iocb, &event), -EINPROGRESS);
	event = take_event(ctx, HERE);
	ck_assert(event.obj == &iocb && event.data == (void *)1L);
	free_context(ctx);
	free_context(other);
	close_pair(idle);
}

CASE(the_key_is_not_looked_at)
{
	io_context_t ctx = new_context(4);
	struct io_event event;
	struct iocb iocb;

	SKIP_ON_REFERENCE("a key other than 0 is EINVAL");
	make_pipe(idle, 0);
	arm_poll(ctx, &iocb, 1);
	iocb.key = 5;
	ck_assert_int_eq(io_cancel(ctx, &iocb, &event), -EINPROGRESS);
	expect_event(ctx, &iocb, 0, HERE);
	free_context(ctx);
	close_pair(idle);
}

CASE(of_two_requests_from_one_address_the_oldest_is_cancelled)
{
	io_context_t ctx = new_context(8);
	struct io_event event;
	struct iocb iocb;

	make_pipe(idle, 0);
	for (long i = 1; i <= 3; i++)
		arm_poll(ctx, &iocb, i);
	for (long i = 1; i <= 3; i++) {
		ck_assert_int_eq(io_cancel(ctx, &iocb, &event), -EINPROGRESS);
		event = take_event(ctx, HERE);
		ck_assert(event.obj == &iocb && event.data == (void *)i);
		expect_no_event(ctx, HERE);
	}
	ck_assert_int_eq(io_cancel(ctx, &iocb, &event), -EINVAL);
	free_context(ctx);
	close_pair(idle);
}

CASE(requests_that_have_ended_are_left_alone)
{
	io_context_t ctx = new_context(8);
	int zero = open_device("/dev/zero", O_RDONLY), file = scratch_file(4096);
	struct io_event event;
	struct iocb iocb;

	make_pipe(idle, 0);
	ck_assert_int_eq(write(idle[1], "x", 1), 1);
	io_prep_poll(&iocb, idle[0], POLLIN);
	expect_ended(ctx, &iocb, HERE);
	ck_assert(says_ended(io_cancel(ctx, &iocb, &event)));
	expect_event(ctx, &iocb, POLLIN, HERE);
	io_prep_pread(&iocb, zero, &byte, 1, 0);
	expect_ended(ctx, &iocb, HERE);
	ck_assert(says_ended(io_cancel(ctx, &iocb, &event)));
	expect_event(ctx, &iocb, 1, HERE);
	io_prep_pread(&iocb, file, &byte, 1, 0);
	expect_ended(ctx, &iocb, HERE);
	ck_assert(says_ended(io_cancel(ctx, &iocb, &event)));
	expect_event(ctx, &iocb, 1, HERE);
	free_context_without_events(ctx, HERE);
	close(zero);
	close(file);
	close_pair(idle);
}

/* A transfer or a sync that the disk already has. */
CASE(what_the_disk_is_doing_ends_as_if_nothing_had_been_asked)
{
	struct holdfs *fs = holdfs_mount(3, 1 << 20);
	char *buffer = aligned_buffer(3 * DIRECT_BLOCK_BYTES);
	struct iocb iocbs[3];
	struct io_event event;
	io_context_t ctx;
	int fds[3];
	long results[3] = { DIRECT_BLOCK_BYTES, DIRECT_BLOCK_BYTES, 0 };

	if (!fs)
		SKIP("no FUSE here");
	ctx = new_context(8);
	for (unsigned i = 0; i < 3; i++)
		fds[i] = holdfs_open(fs, i, O_RDWR | O_DIRECT);
	holdfs_hold(fs, HOLDFS_ALL);
	io_prep_pread(&iocbs[0], fds[0], buffer, DIRECT_BLOCK_BYTES, 0);
	io_prep_pwrite(&iocbs[1], fds[1], buffer, DIRECT_BLOCK_BYTES, 0);
	io_prep_fsync(&iocbs[2], fds[2]);
	for (unsigned i = 0; i < 3; i++) {
		unsigned operation;

		expect_submitted(ctx, &iocbs[i], HERE);
		operation = holdfs_wait_arrived(fs, HOLDFS_ALL, i);
		ck_assert_int_eq(io_cancel(ctx, &iocbs[i], &event), too_late());
		expect_no_event(ctx, HERE);
		ck_assert_int_eq(io_cancel(ctx, &iocbs[i], NULL), too_late());
		holdfs_release(fs, operation, 0);
		expect_event(ctx, &iocbs[i], results[i], HERE);
		ck_assert_int_eq(io_cancel(ctx, &iocbs[i], &event), -EINVAL);
	}
	free_context_without_events(ctx, HERE);
	for (int i = 0; i < 3; i++)
		close(fds[i]);
	free(buffer);
	holdfs_unmount(fs);
}

CASE(a_buffered_read_that_misses_has_one_event_whatever_cancel_says)
{
	struct holdfs *fs;
	struct io_event event;
	struct iocb iocb;
	io_context_t ctx;
	char buffer[4096];
	int fd, result;

	SKIP_ON_REFERENCE("the read would hold io_submit itself");
	fs = holdfs_mount(1, 1 << 20);
	if (!fs)
		SKIP("no FUSE here");
	ctx = new_context(8);
	fd = holdfs_open(fs, 0, O_RDONLY);
	holdfs_hold(fs, HOLDFS_ALL);
	io_prep_pread(&iocb, fd, buffer, sizeof(buffer), 0);
	expect_submitted(ctx, &iocb, HERE);
	holdfs_wait_arrived(fs, HOLDFS_READ, 0);
	result = io_cancel(ctx, &iocb, &event);
	ck_assert_msg(result == -EAGAIN || result == -EINPROGRESS, "io_cancel: %d", result);
	if (result == -EINPROGRESS)
		expect_event(ctx, &iocb, -ECANCELED, HERE);
	else
		expect_no_event(ctx, HERE);
	holdfs_release_all(fs);
	if (result == -EAGAIN)
		expect_event(ctx, &iocb, sizeof(buffer), HERE);
	free_context_without_events(ctx, HERE);
	close(fd);
	holdfs_unmount(fs);
}

/* The wake-up comes before, after or while the poll is cancelled. */
CASE(cancel_against_wakeup_leaves_exactly_one_event)
{
	io_context_t ctx = new_context(4);
	int cancelled = 0;

	make_pipe(idle, 0);
	for (long i = 0; i < 1000; i++) {
		struct io_event event;
		struct iocb iocb;
		int result;

		arm_poll(ctx, &iocb, i);
		if (i & 1)
			ck_assert_int_eq(write(idle[1], "x", 1), 1);
		result = io_cancel(ctx, &iocb, &event);
		ck_assert_msg(result == -EINPROGRESS || says_ended(result), "io_cancel: %d",
			      result);
		cancelled += result == -EINPROGRESS;
		event = take_event(ctx, HERE);
		ck_assert(event.obj == &iocb && event.data == (void *)i);
		if (i & 1)
			ck_assert_int_eq(read(idle[0], &byte, 1), 1);
		else
			ck_assert(result == -EINPROGRESS && event.res == 0);
	}
	ck_assert_int_ge(cancelled, 500);
	free_context_without_events(ctx, HERE);
	close_pair(idle);
}

static _Atomic bool stop_writing;

static void write_and_read_back(void *argument)
{
	char taken;

	(void)argument;
	while (!atomic_load(&stop_writing)) {
		if (write(idle[1], "x", 1) != 1 || read(idle[0], &taken, 1) != 1)
			break;
	}
}

CASE(cancel_against_wakeups_of_another_thread_leaves_exactly_one_event)
{
	io_context_t ctx = new_context(4);
	struct worker writer;

	make_pipe(idle, 0);
	atomic_store(&stop_writing, false);
	worker_start(&writer, write_and_read_back, NULL);
	for (long i = 0; i < 3000; i++) {
		struct io_event event;
		struct iocb iocb;

		arm_poll(ctx, &iocb, i);
		io_cancel(ctx, &iocb, &event);
		event = take_event(ctx, HERE);
		ck_assert(event.obj == &iocb && event.data == (void *)i);
	}
	atomic_store(&stop_writing, true);
	worker_join(&writer);
	free_context_without_events(ctx, HERE);
	close_pair(idle);
}

/*
 * A write and an fsync behind it, submitted again and again, while another thread cancels the fsync
 * whenever it finds one: before its io_submit is through with it, while it waits for the write,
 * while it runs.
 */
struct cancelled_syncs {
	io_context_t ctx;
	struct iocb iocbs[2];
	_Atomic bool stop;
	_Atomic int cancelled;
	_Atomic int wrong;
};

static void cancel_the_fsync(void *argument)
{
	struct cancelled_syncs *syncs = argument;
	struct io_event event;

	while (!atomic_load(&syncs->stop)) {
		int result = io_cancel(syncs->ctx, &syncs->iocbs[1], &event);

		if (result == -EINPROGRESS)
			atomic_fetch_add(&syncs->cancelled, 1);
		else if (result != -EINVAL && result != -EAGAIN)
			atomic_store(&syncs->wrong, result);
	}
}

CASE(cancel_against_a_submit_of_the_fsync_leaves_exactly_one_event)
{
	enum { ROUNDS = UNDER_THREAD_SANITIZER || UNDER_ADDRESS_SANITIZER ? 300 : 2000 };
	static struct cancelled_syncs syncs;
	int file = scratch_file(1 << 16), direct = reopen_file(file, O_RDWR | O_DIRECT);
	char *buffer = aligned_buffer(DIRECT_BLOCK_BYTES);
	int cancelled = 0;
	struct worker worker;

	/* Behind a direct write the fsync is held, also where the kernel does buffered ones. */
	if (direct < 0)
		direct = dup(file);
	syncs = (struct cancelled_syncs){ .ctx = new_context(8) };
	worker_start(&worker, cancel_the_fsync, &syncs);
	for (long round = 0; round < ROUNDS; round++) {
		bool seen[2] = { false };

		io_prep_pwrite(&syncs.iocbs[0], direct, buffer, DIRECT_BLOCK_BYTES, 0);
		io_prep_fsync(&syncs.iocbs[1], direct);
		syncs.iocbs[0].data = syncs.iocbs[1].data = (void *)round;
		expect_all_submitted(syncs.ctx, syncs.iocbs, 2, HERE);
		for (int i = 0; i < 2; i++) {
			struct io_event event = take_event(syncs.ctx, HERE);
			long which = event.obj - syncs.iocbs, result = (long)event.res;

			ck_assert((which == 0 || which == 1) && !seen[which]);
			ck_assert_ptr_eq(event.data, (void *)round);
			seen[which] = true;
			if (which == 0)
				ck_assert_int_eq(result, DIRECT_BLOCK_BYTES);
			else
				ck_assert(result == 0 || result == -ECANCELED);
			cancelled += which == 1 && result == -ECANCELED;
		}
	}
	atomic_store(&syncs.stop, true);
	worker_join(&worker);
	ck_assert_int_eq(atomic_load(&syncs.wrong), 0);
	ck_assert_int_eq(atomic_load(&syncs.cancelled), cancelled);
	free_context_without_events(syncs.ctx, HERE);
	free(buffer);
	close(file);
	close(direct);
}

/* A server may answer EINTR without anybody having cancelled. */
CASE(what_nobody_cancelled_is_not_cancelled)
{
	static const int words[] = { EINTR, 0 };
	static char buffer[4096];
	struct holdfs *fs;
	struct iocb iocb;

	SKIP_ON_REFERENCE("a read that waits for a server waits in io_submit");
	fs = holdfs_mount(1, sizeof(buffer));
	if (!fs)
		SKIP("no FUSE here");
	io_prep_pread(&iocb, -1, buffer, sizeof(buffer), 0);
	holdfs_expect_result(fs, HOLDFS_UNCACHED, &iocb, words, 2, sizeof(buffer));
	holdfs_unmount(fs);
}
