/* SPDX-License-Identifier: MIT */
/*
 * io_destroy and io_queue_release: what they wait for, what they cut short, and what is left.
 *
 * Transfers are kept in flight by a file system that answers when the test says so (holdfs.h).
 * That io_destroy waits is seen in its thread, which must be asleep while the transfer is held;
 * that something else does not wait is shown by its return while the transfer is still held.
 */
#include "contract.h"
#include "holdfs.h"

#define FILE_BYTES ((size_t)1 << 20)

/* A direct write of one block of file 0, held by the disk. */
struct held_write {
	struct holdfs *fs;
	io_context_t ctx;
	int fd;
	char *buffer;
	struct iocb iocb;
	unsigned operation;
};

static bool held_write_start(struct held_write *held)
{
	*held = (struct held_write){ .fs = holdfs_mount(2, FILE_BYTES) };
	if (!held->fs)
		return false;
	held->ctx = new_context(8);
	held->fd = holdfs_open(held->fs, 0, O_RDWR | O_DIRECT);
	held->buffer = aligned_buffer(DIRECT_BLOCK_BYTES);
	memset(held->buffer, 'w', DIRECT_BLOCK_BYTES);
	holdfs_hold(held->fs, HOLDFS_ALL);
	io_prep_pwrite(&held->iocb, held->fd, held->buffer, DIRECT_BLOCK_BYTES, 0);
	expect_submitted(held->ctx, &held->iocb, HERE);
	held->operation = holdfs_wait_arrived(held->fs, HOLDFS_WRITE, 0);
	return true;
}

static bool held_write_is_held(struct held_write *held)
{
	return holdfs_operation(held->fs, held->operation).answered == 0;
}

static void held_write_end(struct held_write *held)
{
	close(held->fd);
	free(held->buffer);
	holdfs_unmount(held->fs);
}

#define HELD_WRITE(held)                                                                           \
	struct held_write held;                                                                    \
	if (!held_write_start(&held))                                                              \
	SKIP("no FUSE here")

CASE(destroy_refuses_what_is_no_context)
{
	io_context_t live = new_context(4), gone = new_context(4);
	struct bad_handle table[BAD_HANDLE_COUNT];

	free_context(gone);
	bad_handles(table, live, gone);
	for (int i = 0; i < BAD_HANDLE_COUNT; i++) {
		int result = io_destroy(table[i].ctx);

		ck_assert_msg(result == -EINVAL, "io_destroy, %s: %d", table[i].name, result);
		result = io_queue_release(table[i].ctx);
		ck_assert_msg(result == -EINVAL, "io_queue_release, %s: %d", table[i].name, result);
	}
	expect_works(live, HERE);
	ck_assert_int_eq(io_queue_release(live), 0);
	ck_assert_int_eq(io_queue_release(live), -EINVAL);
	ck_assert_int_eq(io_destroy(live), -EINVAL);
}

CASE(a_destroyed_context_is_refused_by_every_call)
{
	io_context_t ctx = new_context(4);
	struct timespec zero = { 0 }, second = { .tv_sec = 1 };
	struct io_event event;
	struct iocb iocb;
	char byte;
	int device = open_device("/dev/zero", O_RDONLY);

	io_prep_pread(&iocb, device, &byte, 1, 0);
	free_context(ctx);
	ck_assert_int_eq(io_submit(ctx, 0, NULL), -EINVAL);
	ck_assert_int_eq(submit_one(ctx, &iocb), -EINVAL);
	ck_assert_int_eq(io_cancel(ctx, &iocb, &event), -EINVAL);
	ck_assert_int_eq(io_destroy(ctx), -EINVAL);
	if (!on_reference()) {
		ck_assert_int_eq(io_getevents(ctx, 0, 1, &event, &zero), -EINVAL);
		ck_assert_int_eq(io_getevents(ctx, 1, 1, &event, NULL), -EINVAL);
		ck_assert_int_eq(io_pgetevents(ctx, 1, 1, &event, &second, NULL), -EINVAL);
		ck_assert_int_eq(io_queue_run(ctx), -EINVAL);
		ck_assert_int_eq(io_queue_wait(ctx, &second), -EINVAL);
	}
	close(device);
}

CASE(destroy_waits_until_the_data_is_written)
{
	struct destroyer destroyer;
	HELD_WRITE(held);

	destroyer_start(&destroyer, held.ctx);
	worker_wait_blocked(&destroyer.worker);
	ck_assert(held_write_is_held(&held));
	holdfs_release(held.fs, held.operation, 0);
	ck_assert_int_eq(destroyer_join(&destroyer), 0);
	ck_assert_mem_eq(holdfs_medium(held.fs, 0), held.buffer, DIRECT_BLOCK_BYTES);
	held_write_end(&held);
}

CASE(destroy_waits_until_a_direct_read_has_its_data)
{
	struct holdfs *fs = holdfs_mount(1, FILE_BYTES);
	struct destroyer destroyer;
	struct iocb iocb;
	io_context_t ctx;
	char *buffer;
	unsigned operation;
	int fd;

	if (!fs)
		SKIP("no FUSE here");
	ctx = new_context(8);
	fd = holdfs_open(fs, 0, O_RDWR | O_DIRECT);
	buffer = aligned_buffer(DIRECT_BLOCK_BYTES);
	fill_pattern(holdfs_medium(fs, 0), 0, DIRECT_BLOCK_BYTES);
	holdfs_hold(fs, HOLDFS_ALL);
	io_prep_pread(&iocb, fd, buffer, DIRECT_BLOCK_BYTES, 0);
	expect_submitted(ctx, &iocb, HERE);
	operation = holdfs_wait_arrived(fs, HOLDFS_READ, 0);
	destroyer_start(&destroyer, ctx);
	worker_wait_blocked(&destroyer.worker);
	holdfs_release(fs, operation, 0);
	ck_assert_int_eq(destroyer_join(&destroyer), 0);
	expect_pattern(buffer, 0, DIRECT_BLOCK_BYTES, HERE);
	close(fd);
	free(buffer);
	holdfs_unmount(fs);
}

CASE(destroy_waits_until_a_buffered_read_has_its_data)
{
	struct holdfs *fs;
	struct destroyer destroyer;
	struct iocb iocb;
	io_context_t ctx;
	char buffer[4096];
	unsigned operation;
	int fd;

	SKIP_ON_REFERENCE("the read would hold io_submit itself");
	fs = holdfs_mount(1, FILE_BYTES);
	if (!fs)
		SKIP("no FUSE here");
	ctx = new_context(8);
	fd = holdfs_open(fs, 0, O_RDWR);
	fill_pattern(holdfs_medium(fs, 0), 0, sizeof(buffer));
	holdfs_hold(fs, HOLDFS_ALL);
	io_prep_pread(&iocb, fd, buffer, sizeof(buffer), 0);
	expect_submitted(ctx, &iocb, HERE);
	operation = holdfs_wait_arrived(fs, HOLDFS_READ, 0);
	destroyer_start(&destroyer, ctx);
	worker_wait_blocked(&destroyer.worker);
	holdfs_release(fs, operation, 0);
	ck_assert_int_eq(destroyer_join(&destroyer), 0);
	expect_pattern(buffer, 0, sizeof(buffer), HERE);
	close(fd);
	holdfs_unmount(fs);
}

CASE(destroy_waits_for_a_sync)
{
	struct holdfs *fs = holdfs_mount(1, FILE_BYTES);
	int signal_fd = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct destroyer destroyer;
	struct iocb iocb;
	io_context_t ctx;
	unsigned operation;
	int fd;

	if (!fs)
		SKIP("no FUSE here");
	ctx = new_context(8);
	fd = holdfs_open(fs, 0, O_RDWR);
	holdfs_hold(fs, HOLDFS_ALL);
	io_prep_fsync(&iocb, fd);
	io_set_eventfd(&iocb, signal_fd);
	expect_submitted(ctx, &iocb, HERE);
	operation = holdfs_wait_arrived(fs, HOLDFS_FSYNC, 0);
	destroyer_start(&destroyer, ctx);
	worker_wait_blocked(&destroyer.worker);
	ck_assert_uint_eq(take_count(signal_fd), 0);
	holdfs_release(fs, operation, 0);
	ck_assert_int_eq(destroyer_join(&destroyer), 0);
	ck_assert_uint_eq(take_count(signal_fd), 1);
	close(fd);
	close(signal_fd);
	holdfs_unmount(fs);
}

CASE(signals_do_not_interrupt_destroy)
{
	struct destroyer destroyer;
	HELD_WRITE(held);

	catch_signal(SIGUSR1, 0);
	destroyer_start(&destroyer, held.ctx);
	for (int i = 0; i < 3; i++) {
		worker_wait_blocked(&destroyer.worker);
		ck_assert_int_eq(pthread_kill(destroyer.worker.thread, SIGUSR1), 0);
	}
	worker_wait_blocked(&destroyer.worker);
	holdfs_release(held.fs, held.operation, 0);
	ck_assert_int_eq(destroyer_join(&destroyer), 0);
	restore_signal(SIGUSR1);
	held_write_end(&held);
}

CASE(the_second_of_two_destroys_fails_without_waiting)
{
	struct destroyer destroyer;
	HELD_WRITE(held);

	destroyer_start(&destroyer, held.ctx);
	worker_wait_blocked(&destroyer.worker);
	ck_assert_int_eq(io_destroy(held.ctx), -EINVAL);
	ck_assert_int_eq(io_queue_release(held.ctx), -EINVAL);
	ck_assert(held_write_is_held(&held));
	holdfs_release(held.fs, held.operation, 0);
	ck_assert_int_eq(destroyer_join(&destroyer), 0);
	held_write_end(&held);
}

CASE(a_context_being_destroyed_takes_no_more)
{
	struct destroyer destroyer;
	struct io_event event;
	struct iocb iocb;
	int device = open_device("/dev/zero", O_RDONLY);
	char byte;
	HELD_WRITE(held);

	destroyer_start(&destroyer, held.ctx);
	worker_wait_blocked(&destroyer.worker);
	io_prep_pread(&iocb, device, &byte, 1, 0);
	ck_assert_int_eq(submit_one(held.ctx, &iocb), -EINVAL);
	ck_assert_int_eq(io_cancel(held.ctx, &held.iocb, &event), -EINVAL);
	ck_assert(held_write_is_held(&held));
	holdfs_release(held.fs, held.operation, 0);
	ck_assert_int_eq(destroyer_join(&destroyer), 0);
	close(device);
	held_write_end(&held);
}

CASE(destroy_cancels_a_waiting_poll_and_signals_its_eventfd)
{
	int idle[2], signal_fd = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct iocb iocbs[3];
	io_context_t ctx = new_context(8);

	make_pipe(idle, 0);
	for (int i = 0; i < 3; i++) {
		io_prep_poll(&iocbs[i], idle[0], POLLIN);
		io_set_eventfd(&iocbs[i], signal_fd);
	}
	expect_all_submitted(ctx, iocbs, 3, HERE);
	ck_assert_uint_eq(take_count(signal_fd), 0);
	free_context(ctx);
	ck_assert_uint_eq(take_count(signal_fd), 3);
	/* Nothing is left that holds the pipe. */
	close(idle[0]);
	WAIT_UNTIL(has_no_reader(idle[1]));
	close(idle[1]);
	close(signal_fd);
}

CASE(destroy_drops_events_that_nobody_took)
{
	int device = open_device("/dev/zero", O_RDONLY);
	io_context_t ctx = new_context(8), next;
	struct iocb iocb;
	char byte;

	io_prep_pread(&iocb, device, &byte, 1, 0);
	for (int i = 0; i < 5; i++)
		expect_submitted(ctx, &iocb, HERE);
	free_context(ctx);
	next = new_context(8);
	expect_no_event(next, HERE);
	free_context(next);
	close(device);
}

/* min_nr 3 with one event there: the others wait for their first. */
static void destroy_under_reaper(long min_nr, int present, struct timespec *timeout, int expected)
{
	int device = open_device("/dev/zero", O_RDONLY);
	struct destroyer destroyer;
	struct reaper reaper;
	struct iocb iocb;
	char byte;
	HELD_WRITE(held);

	io_prep_pread(&iocb, device, &byte, 1, 0);
	for (int i = 0; i < present; i++)
		expect_ended(held.ctx, &iocb, HERE);
	reaper_start(&reaper, held.ctx, min_nr, 8, timeout);
	reaper_wait_blocked(&reaper);
	destroyer_start(&destroyer, held.ctx);
	ck_assert_int_eq(reaper_join(&reaper), expected);
	ck_assert(held_write_is_held(&held));
	worker_wait_blocked(&destroyer.worker);
	holdfs_release(held.fs, held.operation, 0);
	ck_assert_int_eq(destroyer_join(&destroyer), 0);
	close(device);
	held_write_end(&held);
}

CASE(destroy_ends_a_waiting_getevents_at_once)
{
	destroy_under_reaper(1, 0, NULL, -EINVAL);
}

CASE(destroy_ends_a_waiting_getevents_with_a_timeout_at_once)
{
	struct timespec hour = { .tv_sec = 3600 };

	destroy_under_reaper(1, 0, &hour, -EINVAL);
}

CASE(destroy_ends_a_waiting_getevents_with_what_it_has)
{
	destroy_under_reaper(3, 1, NULL, 1);
}

CASE(destroy_ends_all_waiting_getevents)
{
	enum { COUNT = 4 };
	io_context_t ctx = new_context(8);
	struct reaper reapers[COUNT];
	struct iocb iocb;
	int idle[2];

	make_pipe(idle, 0);
	io_prep_poll(&iocb, idle[0], POLLIN);
	expect_submitted(ctx, &iocb, HERE);
	for (int i = 0; i < COUNT; i++) {
		reaper_start(&reapers[i], ctx, 1 + i % 2, 8, NULL);
		reaper_wait_blocked(&reapers[i]);
	}
	free_context(ctx);
	/* The poll that destroy cancels may have reached one of them as an event. */
	for (int i = 0; i < COUNT; i++) {
		int result = reaper_join(&reapers[i]);

		ck_assert_msg(result == -EINVAL ||
				      (result == 1 && reapers[i].events[0].obj == &iocb),
			      "waiter %d: %d", i, result);
	}
	close_pair(idle);
}

/* A buffered write runs inside io_submit, and here the disk keeps it there. */
CASE(destroy_waits_for_a_running_io_submit)
{
	struct holdfs *fs = holdfs_mount(1, FILE_BYTES);
	io_context_t ctx = new_context(8);
	struct submitter submitter;
	struct destroyer destroyer;
	struct iocb iocb;
	char buffer[512];
	unsigned operation;
	int fd;

	if (!fs)
		SKIP("no FUSE here");
	memset(buffer, 'b', sizeof(buffer));
	fd = holdfs_open(fs, 0, O_RDWR);
	holdfs_hold(fs, HOLDFS_WRITE);
	io_prep_pwrite(&iocb, fd, buffer, sizeof(buffer), 0);
	submitter_start(&submitter, ctx, &iocb, NULL);
	operation = holdfs_wait_arrived(fs, HOLDFS_WRITE, 0);
	destroyer_start(&destroyer, ctx);
	worker_wait_blocked(&destroyer.worker);
	holdfs_release(fs, operation, 0);
	ck_assert_int_eq(destroyer_join(&destroyer), 0);
	ck_assert_int_eq(submitter_join(&submitter), 1);
	ck_assert_mem_eq(holdfs_medium(fs, 0), buffer, sizeof(buffer));
	close(fd);
	holdfs_unmount(fs);
}

/*
 * A cached read ends inside io_submit, where the pages that it is read into keep it: they come from
 * a disk.  Nothing is written there once io_destroy has returned.
 */
CASE(destroy_waits_for_a_cached_read_in_a_running_io_submit)
{
	struct holdfs *fs = holdfs_mount(1, FILE_BYTES);
	int cached = scratch_file(FILE_BYTES), fd;
	io_context_t ctx = new_context(8);
	struct submitter submitter;
	struct destroyer destroyer;
	struct iocb iocb;
	unsigned operation;
	char *buffer;

	if (!fs)
		SKIP("no FUSE here");
	fd = holdfs_open(fs, 0, O_RDWR);
	buffer = mmap(NULL, 512, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	ck_assert_ptr_ne((void *)buffer, MAP_FAILED);
	holdfs_hold(fs, HOLDFS_READ);
	io_prep_pread(&iocb, cached, buffer, 512, 0);
	submitter_start(&submitter, ctx, &iocb, NULL);
	operation = holdfs_wait_arrived(fs, HOLDFS_READ, 0);
	destroyer_start(&destroyer, ctx);
	/* Not only a moment, as the kernel's io_destroy does, too. */
	for (int i = 0; i < 20; i++)
		worker_wait_blocked(&destroyer.worker);
	holdfs_release(fs, operation, 0);
	ck_assert_int_eq(destroyer_join(&destroyer), 0);
	(void)submitter_join(&submitter);
	ck_assert_int_eq(munmap(buffer, 512), 0);
	close(fd);
	close(cached);
	holdfs_unmount(fs);
}

/* The file is only held by the request: its last reference goes while the context is destroyed. */
CASE(destroy_copes_with_the_last_reference_to_the_file)
{
	struct destroyer destroyer;
	HELD_WRITE(held);

	close(held.fd);
	held.fd = -1;
	destroyer_start(&destroyer, held.ctx);
	worker_wait_blocked(&destroyer.worker);
	holdfs_release(held.fs, held.operation, 0);
	ck_assert_int_eq(destroyer_join(&destroyer), 0);
	ck_assert_mem_eq(holdfs_medium(held.fs, 0), held.buffer, DIRECT_BLOCK_BYTES);
	held_write_end(&held);
}

/* A program frees what its event loop needs for the eventfd right behind io_destroy. */
CASE(eventfds_are_signalled_when_destroy_returns)
{
	int zero = open_device("/dev/zero", O_RDONLY), idle[2];
	int signal_fd = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	/* Each io_destroy of kernel AIO takes its time. */
	int rounds = on_threads() ? 1000 : 200;
	char bytes[8];

	make_pipe(idle, 0);
	for (int round = 0; round < rounds; round++) {
		io_context_t ctx = new_context(8);
		struct iocb iocbs[3];
		int count = 1 + round % 3;

		io_prep_poll(&iocbs[0], idle[0], POLLIN);
		/* It ends by itself, in another thread even now. */
		io_prep_pread(&iocbs[1], zero, bytes, sizeof(bytes), 0);
		io_prep_poll(&iocbs[2], idle[1], POLLOUT);
		for (int i = 0; i < count; i++)
			io_set_eventfd(&iocbs[i], signal_fd);
		expect_all_submitted(ctx, iocbs, count, HERE);
		free_context(ctx);
		ck_assert_uint_eq(take_count(signal_fd), (uint64_t)count);
	}
	close(zero);
	close(signal_fd);
	close_pair(idle);
}
