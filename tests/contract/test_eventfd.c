/* SPDX-License-Identifier: MIT */
/*
 * Requests with an eventfd (io_set_eventfd): every completion adds exactly 1, and not before its
 * event can be taken.
 *
 * Programs sleep on the eventfd and then take as many events as it says, so a count too many makes
 * them wait for ever and one too few loses a completion.  Each way that a request can go is tried:
 * inside io_submit, in the kernel later, through the page cache with and without what is wanted in
 * it, and through pipes.
 */
#include "contract.h"
#include "holdfs.h"

static char data[65536];

static int new_counter(int flags)
{
	int fd = open_eventfd(0, EFD_CLOEXEC | flags);

	ck_assert_int_ge(fd, 0);
	return fd;
}

/* The events of these requests, in any order. */
static void expect_events(io_context_t ctx, const struct iocb *iocbs, int count, long result,
			  const char *what)
{
	bool seen[16] = { false };

	for (int i = 0; i < count; i++) {
		struct io_event event = take_event(ctx, what);
		long which = event.obj - iocbs;

		ck_assert_msg(which >= 0 && which < count && !seen[which], "%s: event %d", what, i);
		ck_assert_msg((long)event.res == result, "%s: %ld", what, (long)event.res);
		seen[which] = true;
	}
}

CASE(each_completion_adds_one)
{
	io_context_t ctx = new_context(64);
	int zero = open_device("/dev/zero", O_RDONLY), counter = new_counter(EFD_NONBLOCK);
	struct iocb iocbs[10];
	struct io_event events[64];

	for (int i = 0; i < 10; i++) {
		io_prep_pread(&iocbs[i], zero, data, 8, 0);
		io_set_eventfd(&iocbs[i], counter);
	}
	expect_all_submitted(ctx, iocbs, 10, HERE);
	expect_count(counter, 10, HERE);
	ck_assert_int_eq(io_getevents(ctx, 10, 64, events, NULL), 10);
	ck_assert_uint_eq(take_count(counter), 0);
	io_prep_pread(&iocbs[0], zero, data, 8, 0);
	expect_result(ctx, &iocbs[0], 8, "without an eventfd");
	ck_assert_uint_eq(take_count(counter), 0);
	free_context(ctx);
	close(zero);
	close(counter);
}

CASE(failed_requests_count_and_refused_ones_do_not)
{
	io_context_t ctx = new_context(64);
	int zero = open_device("/dev/zero", O_RDONLY), counter = new_counter(EFD_NONBLOCK), ends[2];
	struct iocb iocbs[3], *list[3] = { &iocbs[0], &iocbs[1], &iocbs[2] };

	make_pipe(ends, O_NONBLOCK);
	io_prep_pread(&iocbs[0], zero, unreadable_page(), 8, 0);
	io_set_eventfd(&iocbs[0], counter);
	expect_result(ctx, &iocbs[0], -EFAULT, "EFAULT");
	expect_count(counter, 1, HERE);
	io_prep_pread(&iocbs[0], ends[0], data, 8, 0);
	io_set_eventfd(&iocbs[0], counter);
	expect_result(ctx, &iocbs[0], -EAGAIN, "EAGAIN");
	expect_count(counter, 1, HERE);
	io_prep_pread(&iocbs[0], -1, data, 8, 0);
	io_set_eventfd(&iocbs[0], counter);
	expect_refused(ctx, &iocbs[0], -EBADF, "EBADF");
	io_prep_pread(&iocbs[0], ends[0], data, 8, -1);
	io_set_eventfd(&iocbs[0], counter);
	expect_refused(ctx, &iocbs[0], -EINVAL, "EINVAL");
	ck_assert_uint_eq(take_count(counter), 0);
	for (int i = 0; i < 3; i++) {
		io_prep_pread(&iocbs[i], i == 2 ? -1 : zero, data, 8, 0);
		io_set_eventfd(&iocbs[i], counter);
	}
	ck_assert_int_eq(io_submit(ctx, 3, list), 2);
	expect_events(ctx, iocbs, 2, 8, HERE);
	free_context_without_events(ctx, HERE);
	expect_count(counter, 2, HERE);
	close(zero);
	close(counter);
	close_pair(ends);
}

CASE(polls_syncs_and_cancelled_requests_count)
{
	io_context_t ctx = new_context(64);
	int file = scratch_file(4096), counter = new_counter(EFD_NONBLOCK), ends[2];
	struct iocb iocb;

	make_pipe(ends, 0);
	io_prep_poll(&iocb, ends[1], POLLOUT);
	io_set_eventfd(&iocb, counter);
	expect_result(ctx, &iocb, POLLOUT, "poll, ready");
	expect_count(counter, 1, HERE);
	io_prep_poll(&iocb, ends[0], POLLIN);
	io_set_eventfd(&iocb, counter);
	expect_submitted(ctx, &iocb, "poll, later");
	ck_assert_uint_eq(take_count(counter), 0);
	ck_assert_int_eq(write(ends[1], "x", 1), 1);
	expect_event(ctx, &iocb, POLLIN | POLLRDNORM, "poll, later");
	expect_count(counter, 1, HERE);
	ck_assert_int_eq(read(ends[0], data, 1), 1);
	io_prep_poll(&iocb, ends[0], POLLIN);
	io_set_eventfd(&iocb, counter);
	expect_submitted(ctx, &iocb, "poll, cancelled");
	ck_assert_int_eq(io_cancel(ctx, &iocb, NULL), -EINPROGRESS);
	expect_event(ctx, &iocb, 0, "poll, cancelled");
	expect_count(counter, 1, HERE);
	io_prep_fsync(&iocb, file);
	io_set_eventfd(&iocb, counter);
	expect_result(ctx, &iocb, 0, "fsync");
	expect_count(counter, 1, HERE);
	io_prep_fdsync(&iocb, file);
	io_set_eventfd(&iocb, counter);
	expect_result(ctx, &iocb, 0, "fdsync");
	expect_count(counter, 1, HERE);
	free_context_without_events(ctx, HERE);
	ck_assert_uint_eq(take_count(counter), 0);
	close(file);
	close(counter);
	close_pair(ends);
}

/* The reader sleeps on the eventfd, and finds the event without waiting. */
static void event_before_count(io_context_t ctx, struct iocb *iocb, int counter, const char *what)
{
	struct io_event event;
	uint64_t count;

	io_set_eventfd(iocb, counter);
	expect_submitted(ctx, iocb, what);
	ck_assert_int_eq(read(counter, &count, sizeof(count)), sizeof(count));
	ck_assert_msg(count == 1, "%s: count %llu", what, (unsigned long long)count);
	ck_assert_msg(take_events_now(ctx, &event, 1) == 1, "%s: counted, but not there", what);
	ck_assert_ptr_eq(event.obj, iocb);
}

CASE(the_event_is_there_before_the_count_for_direct_writes)
{
	io_context_t ctx = new_context(64);
	int file = scratch_file(1 << 20), direct = reopen_file(file, O_RDWR | O_DIRECT);
	int counter = new_counter(0);
	char *buffer = aligned_buffer(4096);
	struct iocb iocb;

	if (direct < 0)
		SKIP("no O_DIRECT in TMPDIR");
	for (int i = 0; i < 1000; i++) {
		io_prep_pwrite(&iocb, direct, buffer, 4096, i % 256 * 4096);
		event_before_count(ctx, &iocb, counter, HERE);
	}
	free(buffer);
	free_context_without_events(ctx, HERE);
	close(file);
	close(direct);
	close(counter);
}

CASE(the_event_is_there_before_the_count_for_buffered_reads)
{
	io_context_t ctx = new_context(64);
	int file = scratch_file(1 << 20), counter = new_counter(0);
	struct iocb iocb;

	posix_fadvise(file, 0, 0, POSIX_FADV_RANDOM);
	for (int i = 0; i < 1000; i++) {
		if (i % 50 == 0)
			posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
		io_prep_pread(&iocb, file, data, 8192, i * 37 % 254 * 4096);
		event_before_count(ctx, &iocb, counter, HERE);
	}
	free_context_without_events(ctx, HERE);
	close(file);
	close(counter);
}

static void feed_pipe(void *argument)
{
	for (int i = 0; i < 500; i++)
		if (write(*(int *)argument, "x", 1) != 1)
			break;
}

CASE(the_event_is_there_before_the_count_for_pipe_reads)
{
	io_context_t ctx = new_context(64);
	int counter = new_counter(0), ends[2];
	struct worker writer;
	struct iocb iocb;

	make_pipe(ends, 0);
	worker_start(&writer, feed_pipe, &ends[1]);
	for (int i = 0; i < 500; i++) {
		io_prep_pread(&iocb, ends[0], data, 1, 0);
		event_before_count(ctx, &iocb, counter, HERE);
	}
	worker_join(&writer);
	free_context_without_events(ctx, HERE);
	close(counter);
	close_pair(ends);
}

/*
 * The way of a program with an event loop: as many events as counted are taken with min_nr, without
 * a timeout.  Everything is mixed, so that a count for one kind cannot hide another's.
 */
CASE(as_many_events_as_counted_can_be_taken)
{
	enum { COUNT = 2000, BATCH = 20 };
	io_context_t ctx = new_context(COUNT);
	int zero = open_device("/dev/zero", O_RDONLY), file = scratch_file(1 << 20), ends[2];
	int counter = new_counter(0);
	struct iocb *iocbs = calloc(COUNT, sizeof(*iocbs));
	struct io_event events[COUNT];
	bool *seen = calloc(COUNT, sizeof(*seen));
	int submitted = 0, taken = 0;

	ck_assert(iocbs && seen);
	make_pipe(ends, 0);
	posix_fadvise(file, 0, 0, POSIX_FADV_RANDOM);
	while (taken < COUNT) {
		uint64_t count;
		int got;

		if (submitted < COUNT) {
			posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
			for (int i = submitted; i < submitted + BATCH; i++) {
				int fds[] = { zero, file, file, ends[0] };

				if (i % 4 == 3)
					ck_assert_int_eq(write(ends[1], data, 16), 16);
				io_prep_pread(&iocbs[i], fds[i % 4], data, 16, i * 31 % 255 * 4096);
				io_set_eventfd(&iocbs[i], counter);
			}
			expect_all_submitted(ctx, iocbs + submitted, BATCH, HERE);
			submitted += BATCH;
		}
		ck_assert_int_eq(read(counter, &count, sizeof(count)), sizeof(count));
		ck_assert_int_le((int)count, submitted - taken);
		got = io_getevents(ctx, (long)count, (long)count, events, NULL);
		ck_assert_int_eq(got, (int)count);
		for (int i = 0; i < got; i++) {
			ck_assert_int_eq((long)events[i].res, 16);
			ck_assert(!seen[events[i].obj - iocbs]);
			seen[events[i].obj - iocbs] = true;
		}
		taken += got;
	}
	free_context_without_events(ctx, HERE);
	free(iocbs);
	free(seen);
	close(zero);
	close(file);
	close(counter);
	close_pair(ends);
}

CASE(a_semaphore_counts_each_one)
{
	io_context_t ctx = new_context(8);
	int zero = open_device("/dev/zero", O_RDONLY),
	    counter = new_counter(EFD_NONBLOCK | EFD_SEMAPHORE);
	struct iocb iocbs[3];

	NEEDS_KERNELS_COUNTS();
	for (int i = 0; i < 3; i++) {
		io_prep_pread(&iocbs[i], zero, data, 8, 0);
		io_set_eventfd(&iocbs[i], counter);
	}
	expect_all_submitted(ctx, iocbs, 3, HERE);
	expect_events(ctx, iocbs, 3, 8, HERE);
	for (int i = 0; i < 3; i++)
		expect_count(counter, 1, HERE);
	ck_assert_uint_eq(take_count(counter), 0);
	free_context(ctx);
	close(zero);
	close(counter);
}

CASE(a_full_counter_stays_full_and_holds_nobody)
{
	io_context_t ctx = new_context(8);
	int zero = open_device("/dev/zero", O_RDONLY), counter = new_counter(0), ends[2];
	uint64_t full = 0xfffffffffffffffeULL, count;
	struct iocb iocb;

	NEEDS_KERNELS_COUNTS();
	make_pipe(ends, 0);
	ck_assert_int_eq(write(counter, &full, sizeof(full)), sizeof(full));
	io_prep_pread(&iocb, zero, data, 8, 0);
	io_set_eventfd(&iocb, counter);
	expect_result(ctx, &iocb, 8, "a device");
	ck_assert_int_eq(write(ends[1], "x", 1), 1);
	io_prep_pread(&iocb, ends[0], data, 8, 0);
	io_set_eventfd(&iocb, counter);
	expect_result(ctx, &iocb, 1, "a pipe");
	expect_works(ctx, HERE);
	ck_assert_int_eq(read(counter, &count, sizeof(count)), sizeof(count));
	ck_assert_uint_ge(count, full);
	free_context_without_events(ctx, HERE);
	close(zero);
	close(counter);
	close_pair(ends);
}

/* The number is closed, and another eventfd takes it, before the request ends. */
static void close_in_flight(io_context_t ctx, struct iocb *iocb, int waker, long result,
			    const char *what)
{
	int counter = new_counter(EFD_NONBLOCK), kept = fcntl(counter, F_DUPFD_CLOEXEC, 100), other;

	io_set_eventfd(iocb, counter);
	expect_submitted(ctx, iocb, what);
	close(counter);
	other = new_counter(EFD_NONBLOCK);
	ck_assert_int_eq(other, counter);
	ck_assert_int_eq(write(waker, "x", 1), 1);
	expect_event(ctx, iocb, result, what);
	expect_count(kept, 1, HERE);
	ck_assert_msg(take_count(other) == 0, "%s: counted elsewhere", what);
	close(kept);
	close(other);
}

CASE(an_eventfd_closed_in_flight_is_still_signalled)
{
	io_context_t ctx = new_context(8);
	struct iocb iocb;
	int ends[2];

	make_pipe(ends, 0);
	io_prep_poll(&iocb, ends[0], POLLIN);
	close_in_flight(ctx, &iocb, ends[1], POLLIN | POLLRDNORM, "a poll");
	ck_assert_int_eq(read(ends[0], data, 1), 1);
	if (!on_reference()) {
		io_prep_pread(&iocb, ends[0], data, 8, 0);
		close_in_flight(ctx, &iocb, ends[1], 1, "a pipe read");
	}
	free_context(ctx);
	close_pair(ends);
}

CASE(an_eventfd_closed_during_a_buffered_read_is_still_signalled)
{
	int counter = new_counter(EFD_NONBLOCK), kept = dup(counter), fd;
	struct holdfs *fs;
	struct iocb iocb;
	io_context_t ctx;

	SKIP_ON_REFERENCE("the read would hold io_submit itself");
	fs = holdfs_mount(1, 1 << 20);
	if (!fs)
		SKIP("no FUSE here");
	ctx = new_context(8);
	fd = holdfs_open(fs, 0, O_RDONLY);
	holdfs_hold(fs, HOLDFS_READ);
	io_prep_pread(&iocb, fd, data, 4096, 0);
	io_set_eventfd(&iocb, counter);
	expect_submitted(ctx, &iocb, HERE);
	close(counter);
	close(fd);
	holdfs_wait_arrived(fs, HOLDFS_READ, 0);
	ck_assert_uint_eq(take_count(kept), 0);
	holdfs_release_all(fs);
	expect_event(ctx, &iocb, 4096, HERE);
	expect_count(kept, 1, HERE);
	free_context_without_events(ctx, HERE);
	ck_assert_uint_eq(take_count(kept), 0);
	close(kept);
	holdfs_unmount(fs);
}

CASE(preparing_an_iocb_takes_its_eventfd_away)
{
	io_context_t ctx = new_context(8);
	int zero = open_device("/dev/zero", O_RDONLY);
	int first = new_counter(EFD_NONBLOCK), second = new_counter(EFD_NONBLOCK);
	struct iocb iocb;

	io_prep_pread(&iocb, zero, data, 8, 0);
	io_set_eventfd(&iocb, first);
	io_set_eventfd(&iocb, second);
	expect_result(ctx, &iocb, 8, "the last one counts");
	ck_assert_uint_eq(take_count(first), 0);
	expect_count(second, 1, HERE);
	io_prep_pread(&iocb, zero, data, 8, 0);
	expect_result(ctx, &iocb, 8, "none");
	ck_assert_uint_eq(take_count(second), 0);
	free_context(ctx);
	close(zero);
	close(first);
	close(second);
}

/*
 * What the kernel carries out inside io_submit it ends in order, and an eventfd changes nothing of
 * that.  Where a request is carried out elsewhere, each event comes once.
 */
CASE(events_of_cached_reads_come_in_the_order_of_submission)
{
	enum { ROUNDS = 50, COUNT = 64, BYTES = 512 };
	io_context_t ctx = new_context(COUNT);
	int file = scratch_file(COUNT * BYTES), counter = new_counter(EFD_NONBLOCK);
	struct iovec all = { data, COUNT * BYTES };
	struct iocb iocbs[COUNT];
	bool in_order;

	ck_assert_int_eq(pread(file, data, COUNT * BYTES, 0), COUNT * BYTES);
	in_order = !on_threads() && preadv2(file, &all, 1, 0, RWF_NOWAIT) == COUNT * BYTES;
	for (int round = 0; round < ROUNDS; round++) {
		bool seen[COUNT] = { false };

		memset(data, 0, sizeof(data));
		for (int i = 0; i < COUNT; i++) {
			io_prep_pread(&iocbs[i], file, data + i * BYTES, BYTES, i * BYTES);
			if (round % 2 == 0 || i % 3 == 0)
				io_set_eventfd(&iocbs[i], counter);
		}
		for (int i = 0, batch = 1 << round % 7; i < COUNT; i += batch)
			expect_all_submitted(ctx, iocbs + i, batch, HERE);
		for (int i = 0; i < COUNT; i++) {
			struct io_event event = take_event(ctx, HERE);
			long which = event.obj - iocbs;

			ck_assert(which >= 0 && which < COUNT && !seen[which]);
			ck_assert_msg(!in_order || round % 2 || which == i,
				      "round %d: %ld in the place of %d", round, which, i);
			ck_assert_int_eq((long)event.res, BYTES);
			seen[which] = true;
		}
		expect_pattern(data, 0, COUNT * BYTES, HERE);
		expect_count(counter, round % 2 == 0 ? COUNT : (COUNT + 2) / 3, HERE);
	}
	free_context_without_events(ctx, HERE);
	ck_assert_uint_eq(take_count(counter), 0);
	close(file);
	close(counter);
}

/* Both are in use under one number, one after the other: each gets its own. */
CASE(an_eventfd_that_takes_anothers_number_is_signalled_for_its_own_requests)
{
	io_context_t ctx = new_context(8);
	int first = new_counter(EFD_NONBLOCK), kept = fcntl(first, F_DUPFD_CLOEXEC, 100), second;
	struct iocb iocbs[3];
	int ends[2];

	make_pipe(ends, 0);
	for (int i = 0; i < 3; i++) {
		io_prep_poll(&iocbs[i], ends[0], POLLIN);
		io_set_eventfd(&iocbs[i], first);
	}
	expect_submitted(ctx, &iocbs[0], HERE);
	close(first);
	second = new_counter(EFD_NONBLOCK);
	ck_assert_int_eq(second, first);
	expect_all_submitted(ctx, &iocbs[1], 2, HERE);
	ck_assert_int_eq(write(ends[1], "x", 1), 1);
	expect_events(ctx, iocbs, 3, POLLIN | POLLRDNORM, HERE);
	expect_count(second, 2, HERE);
	expect_count(kept, 1, HERE);
	free_context_without_events(ctx, HERE);
	ck_assert(take_count(second) == 0 && take_count(kept) == 0);
	close(kept);
	close(second);
	close_pair(ends);
}

/* Its requests end, and io_destroy returns, although nobody makes room in it. */
CASE(destroy_does_not_wait_for_room_in_a_full_counter)
{
	uint64_t full = 0xfffffffffffffffeULL, count;
	int zero = open_device("/dev/zero", O_RDONLY), ends[2];

	NEEDS_KERNELS_COUNTS();
	make_pipe(ends, 0);
	for (int flags = 0; flags <= EFD_NONBLOCK; flags += EFD_NONBLOCK) {
		io_context_t ctx = new_context(8);
		int counter = new_counter(flags);
		struct destroyer destroyer;
		struct iocb iocbs[3];

		ck_assert_int_eq(write(counter, &full, sizeof(full)), sizeof(full));
		io_prep_pread(&iocbs[0], zero, data, 8, 0);
		for (int i = 1; i < 3; i++)
			io_prep_poll(&iocbs[i], ends[0], POLLIN);
		for (int i = 0; i < 3; i++)
			io_set_eventfd(&iocbs[i], counter);
		expect_all_submitted(ctx, iocbs, 3, HERE);
		expect_event(ctx, &iocbs[0], 8, "a read");
		ck_assert_int_eq(io_cancel(ctx, &iocbs[1], NULL), -EINPROGRESS);
		expect_event(ctx, &iocbs[1], 0, "a cancelled poll");
		destroyer_start(&destroyer, ctx);
		ck_assert_int_eq(destroyer_join(&destroyer), 0);
		ck_assert_int_eq(read(counter, &count, sizeof(count)), sizeof(count));
		ck_assert_uint_ge(count, full);
		close(counter);
	}
	close(zero);
	close_pair(ends);
}
