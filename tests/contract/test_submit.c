/* SPDX-License-Identifier: MIT */
/*
 * io_submit: which calls and which iocbs it refuses, with which error, and what a refusal leaves
 * behind.
 *
 * The checks of one iocb have an order, so an iocb with two faults says which comes first.  That a
 * refused request was not carried out after all is asked of io_destroy, which waits for everything:
 * afterwards the buffer, the key and the eventfd of a request that was not accepted are as they
 * were.
 */
#include "contract.h"
#include "holdfs.h"

#include <linux/fs.h>
#include <sys/epoll.h>

#ifndef RWF_NOAPPEND
#define RWF_NOAPPEND 0x20
#endif
#define FLAG_RESFD 1u
#define FLAG_IOPRIO 2u

static char data[8192];

/* A descriptor number that is not open. */
static int closed_number(void)
{
	int fd = dup(0);

	ck_assert_int_ge(fd, 0);
	close(fd);
	return fd;
}

CASE(submit_checks_its_arguments)
{
	io_context_t ctx = new_context(8);
	int zero = open_device("/dev/zero", O_RDONLY);
	struct iocb iocb, *list[1] = { &iocb };

	io_prep_pread(&iocb, zero, data, 16, 0);
	ck_assert_int_eq(io_submit(ctx, -1, list), -EINVAL);
	ck_assert_int_eq(io_submit(ctx, LONG_MIN, list), -EINVAL);
	ck_assert_int_eq(io_submit(NULL, -1, list), -EINVAL);
	ck_assert_int_eq(io_submit(ctx, 0, list), 0);
	ck_assert_int_eq(io_submit(ctx, 0, NULL), 0);
	ck_assert_int_eq(io_submit(ctx, 0, unreadable_page()), 0);
	ck_assert_int_eq(io_submit(ctx, 1, NULL), -EFAULT);
	ck_assert_int_eq(io_submit(ctx, 1, unreadable_page()), -EFAULT);
	ck_assert_int_eq(io_submit(ctx, 1, KERNEL_ADDRESS), -EFAULT);
	expect_works(ctx, HERE);
	free_context_without_events(ctx, HERE);
	close(zero);
}

CASE(submit_refuses_what_is_no_context)
{
	io_context_t live = new_context(4), gone = new_context(4);
	struct bad_handle table[BAD_HANDLE_COUNT];
	int zero = open_device("/dev/zero", O_RDONLY);
	struct iocb iocb;

	io_prep_pread(&iocb, zero, data, 16, 0);
	free_context(gone);
	bad_handles(table, live, gone);
	for (int i = 0; i < BAD_HANDLE_COUNT; i++) {
		int result = submit_one(table[i].ctx, &iocb);

		ck_assert_msg(result == -EINVAL, "%s: %d", table[i].name, result);
		result = io_submit(table[i].ctx, 0, NULL);
		ck_assert_msg(result == -EINVAL, "%s, nothing to submit: %d", table[i].name,
			      result);
		result = io_submit(table[i].ctx, 1, NULL);
		ck_assert_msg(result == -EINVAL, "%s, null array: %d", table[i].name, result);
	}
	free_context_without_events(live, HERE);
	close(zero);
}

CASE(submit_refuses_an_iocb_it_cannot_read)
{
	io_context_t ctx = new_context(8);
	int zero = open_device("/dev/zero", O_RDONLY);
	struct iocb good, *straddling = (struct iocb *)(void *)bytes_before_bad_page(32);

	io_prep_pread(&good, zero, data, 16, 0);
	memcpy(straddling, &good, 32);
	expect_refused(ctx, NULL, -EFAULT, "null");
	expect_refused(ctx, unreadable_page(), -EFAULT, "unreadable");
	expect_refused(ctx, KERNEL_ADDRESS, -EFAULT, "a kernel address");
	expect_refused(ctx, straddling, -EFAULT, "half of it unreadable");
	free_context_without_events(ctx, HERE);
	close(zero);
}

CASE(an_iocb_may_end_where_its_memory_ends)
{
	io_context_t ctx = new_context(8);
	int zero = open_device("/dev/zero", O_RDONLY);
	struct iocb *iocb = (struct iocb *)(void *)bytes_before_bad_page(sizeof(*iocb));

	io_prep_pread(iocb, zero, data, 16, 0);
	expect_result(ctx, iocb, 16, HERE);
	free_context(ctx);
	close(zero);
}

CASE(an_iocb_needs_no_alignment)
{
	io_context_t ctx = new_context(8);
	int zero = open_device("/dev/zero", O_RDONLY);
	char memory[sizeof(struct iocb) + 8];
	struct iocb good, *list[1];

	io_prep_pread(&good, zero, data, 16, 0);
	for (int shift = 0; shift < 8; shift++) {
		memcpy(memory + shift, &good, sizeof(good));
		list[0] = (struct iocb *)(void *)(memory + shift);
		ck_assert_int_eq(io_submit(ctx, 1, list), 1);
		expect_event(ctx, list[0], 16, HERE);
	}
	free_context(ctx);
	close(zero);
}

CASE(submit_stops_where_the_array_cannot_be_read)
{
	io_context_t ctx = new_context(8);
	int zero = open_device("/dev/zero", O_RDONLY);
	struct iocb **list = (struct iocb **)(void *)bytes_before_bad_page(2 * sizeof(*list));
	struct iocb iocbs[2];

	for (int i = 0; i < 2; i++) {
		io_prep_pread(&iocbs[i], zero, data, 16, 0);
		list[i] = &iocbs[i];
	}
	ck_assert_int_eq(io_submit(ctx, 4, list), 2);
	for (int i = 0; i < 2; i++) {
		struct io_event event = take_event(ctx, HERE);

		/* In any order where the library reads: each of them once. */
		ck_assert_int_eq((long)event.res, 16);
		ck_assert(event.obj == &iocbs[0] || event.obj == &iocbs[1]);
		ck_assert(on_threads() || event.obj == &iocbs[i]);
		ck_assert_int_eq(event.obj->aio_fildes, zero);
		event.obj->aio_fildes = -1;
	}
	free_context_without_events(ctx, HERE);
	close(zero);
}

/*
 * A batch of five, of different kinds (a device, a file through the page cache, a pipe with data),
 * in which one is bad in some way.  What stands before it runs; it and what stands behind is as if
 * never given.
 */
enum batch_fault {
	FAULT_DESCRIPTOR,
	FAULT_OPCODE,
	FAULT_RESERVED,
	FAULT_BUFFER,
	FAULT_NULL,
	FAULT_COUNT,
};

static const int batch_error[FAULT_COUNT] = { -EBADF, -EINVAL, -EINVAL, -EFAULT, -EFAULT };

struct batch {
	int zero, file, pipes[5][2], signal_fds[5];
	struct iocb iocbs[5], *list[5];
	char buffers[5][64];
};

/* kind: 0 the device, 1 the file, 2 the pipe. */
static void batch_prepare(struct batch *batch, int position, int kind)
{
	int fds[] = { batch->zero, batch->file, batch->pipes[position][0] };

	memset(batch->buffers[position], '-', sizeof(batch->buffers[position]));
	ck_assert_int_eq(write(batch->pipes[position][1], data, 8), 8);
	io_prep_pread(&batch->iocbs[position], fds[kind], batch->buffers[position], 8, 0);
	io_set_eventfd(&batch->iocbs[position], batch->signal_fds[position]);
	batch->iocbs[position].key = 0x1234;
	batch->list[position] = &batch->iocbs[position];
}

static void batch_spoil(struct batch *batch, int position, enum batch_fault fault)
{
	struct iocb *iocb = &batch->iocbs[position];

	switch (fault) {
	case FAULT_DESCRIPTOR:
		iocb->aio_fildes = -1;
		break;
	case FAULT_OPCODE:
		iocb->aio_lio_opcode = 99;
		break;
	case FAULT_RESERVED:
		iocb->u.c.__pad3 = 1;
		break;
	case FAULT_BUFFER:
		iocb->u.c.buf = KERNEL_ADDRESS;
		break;
	case FAULT_NULL:
	case FAULT_COUNT:
		batch->list[position] = NULL;
		break;
	}
}

static void batch_try(struct batch *batch, int bad, enum batch_fault fault, int first_kind)
{
	io_context_t ctx = new_context(8);
	struct io_event events[8];
	int result, piped, got = 0;
	char what[64];

	snprintf(what, sizeof(what), "fault %d at %d, kinds from %d", (int)fault, bad, first_kind);
	for (int i = 0; i < 5; i++)
		batch_prepare(batch, i, (first_kind + i) % 3);
	batch_spoil(batch, bad, fault);
	result = io_submit(ctx, 5, batch->list);
	ck_assert_msg(result == (bad ? bad : batch_error[fault]), "%s: %d", what, result);
	while (got < bad)
		got += io_getevents(ctx, 1, 8 - got, events + got, NULL);
	ck_assert_int_eq(got, bad);
	for (int i = 0; i < got; i++)
		ck_assert_msg((long)events[i].res == 8, "%s: result %ld", what,
			      (long)events[i].res);
	free_context_without_events(ctx, what);

	for (int i = 0; i < 5; i++) {
		ck_assert_msg(take_count(batch->signal_fds[i]) == (i < bad), "%s: eventfd %d", what,
			      i);
		ck_assert_msg((batch->buffers[i][0] != '-') == (i < bad), "%s: buffer %d", what, i);
		if (i != bad)
			ck_assert_msg((batch->iocbs[i].key == 0) == (i < bad), "%s: key %d", what,
				      i);
		piped = (int)read(batch->pipes[i][0], data, sizeof(data));
		ck_assert_msg(piped == (i < bad && (first_kind + i) % 3 == 2 ? -1 : 8),
			      "%s: pipe %d", what, i);
	}
}

CASE(submit_stops_at_the_first_bad_iocb)
{
	struct batch batch;

	memset(data, 'p', sizeof(data));
	batch.zero = open_device("/dev/zero", O_RDONLY);
	batch.file = scratch_file(8192);
	for (int i = 0; i < 5; i++) {
		make_pipe(batch.pipes[i], 0);
		fcntl(batch.pipes[i][0], F_SETFL, O_NONBLOCK);
		batch.signal_fds[i] = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	}
	for (int fault = 0; fault < FAULT_COUNT; fault++)
		for (int bad = 0; bad < 5 && (fault != FAULT_BUFFER || BUFFERS_CAN_BE_THE_KERNELS);
		     bad++)
			batch_try(&batch, bad, (enum batch_fault)fault, (fault + bad) % 3);
	close(batch.zero);
	close(batch.file);
	for (int i = 0; i < 5; i++) {
		close_pair(batch.pipes[i]);
		close(batch.signal_fds[i]);
	}
}

CASE(refused_requests_take_no_room)
{
	io_context_t ctx = new_context(1);
	int idle[2], before = 0, after = 0;
	struct iocb good, bad;

	make_pipe(idle, 0);
	io_prep_poll(&good, idle[0], POLLIN);
	while (submit_one(ctx, &good) == 1)
		before++;
	free_context(ctx);
	ctx = new_context(1);
	for (int i = 0; i < 1000; i++) {
		io_prep_pread(&bad, idle[0], data, 16, -1);
		expect_refused(ctx, &bad, -EINVAL, HERE);
		io_prep_pread(&bad, -1, data, 16, 0);
		expect_refused(ctx, &bad, -EBADF, HERE);
		io_prep_poll(&bad, idle[0], 0x10000);
		expect_refused(ctx, &bad, -EINVAL, HERE);
		io_prep_fsync(&bad, idle[0]);
		expect_refused(ctx, &bad, -EINVAL, HERE);
	}
	while (submit_one(ctx, &good) == 1)
		after++;
	/* Kernel slots that are set aside for another processor count neither here nor there. */
	ck_assert_int_ge(after, before - 32);
	free_context(ctx);
	close_pair(idle);
}

CASE(an_array_longer_than_the_context_is_taken_as_far_as_it_fits)
{
	enum { COUNT = 20000 };
	io_context_t ctx = new_context(1);
	struct iocb iocb, *more[1] = { &iocb }, **list = calloc(COUNT, sizeof(*list));
	struct io_event event;
	int idle[2], result;

	make_pipe(idle, 0);
	io_prep_poll(&iocb, idle[0], POLLIN);
	for (int i = 0; i < COUNT; i++)
		list[i] = &iocb;
	result = io_submit(ctx, COUNT, list);
	ck_assert_msg(result >= 1 && result < COUNT, "io_submit: %d", result);
	ck_assert_int_eq(io_submit(ctx, 1, more), -EAGAIN);
	ck_assert_int_eq(write(idle[1], "x", 1), 1);
	while (result > 0) {
		ck_assert_int_eq(io_getevents(ctx, 1, 1, &event, NULL), 1);
		ck_assert_ptr_eq(event.obj, &iocb);
		result--;
	}
	free_context_without_events(ctx, HERE);
	free(list);
	close_pair(idle);
}

/* Also faults that are looked for before and after the room: see the order of checks below. */
CASE(a_full_context_says_eagain_after_the_first_checks)
{
	io_context_t ctx = new_context(1);
	struct iocb good, bad;
	int idle[2];

	make_pipe(idle, 0);
	io_prep_poll(&good, idle[0], POLLIN);
	while (submit_one(ctx, &good) == 1)
		;
	expect_refused(ctx, &good, -EAGAIN, "good");
	expect_refused(ctx, NULL, -EFAULT, "null");
	bad = good;
	bad.u.c.__pad3 = 1;
	expect_refused(ctx, &bad, -EINVAL, "reserved field");
	io_prep_pread(&bad, idle[0], data, (size_t)-1, 0);
	expect_refused(ctx, &bad, BUFFERS_CAN_BE_THE_KERNELS ? -EINVAL : -EAGAIN, "negative size");
	io_prep_pread(&bad, -1, data, 16, 0);
	expect_refused(ctx, &bad, -EAGAIN, "descriptor");
	io_prep_pread(&bad, idle[0], data, 16, 0);
	bad.aio_lio_opcode = 99;
	expect_refused(ctx, &bad, -EAGAIN, "opcode");
	io_prep_pread(&bad, idle[0], data, 16, -1);
	expect_refused(ctx, &bad, -EAGAIN, "offset");
	free_context(ctx);
	close_pair(idle);
}

CASE(an_iocb_in_read_only_memory_is_refused_and_not_started)
{
	io_context_t ctx = new_context(8);
	int signal_fd = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), file = scratch_file(4096);
	int ends[2];
	struct iocb iocb;
	char byte;

	make_pipe(ends, O_NONBLOCK);
	io_prep_pwrite(&iocb, ends[1], "w", 1, 0);
	io_set_eventfd(&iocb, signal_fd);
	expect_refused(ctx, read_only_page(&iocb, sizeof(iocb)), -EFAULT, "a pipe");
	io_prep_pwrite(&iocb, file, "\0", 1, 0);
	io_set_eventfd(&iocb, signal_fd);
	expect_refused(ctx, read_only_page(&iocb, sizeof(iocb)), -EFAULT, "a file");
	free_context_without_events(ctx, HERE);
	ck_assert_uint_eq(take_count(signal_fd), 0);
	ck_assert_int_eq(read(ends[0], &byte, 1), -1);
	ck_assert_int_eq(pread(file, &byte, 1, 0), 1);
	ck_assert_int_eq(byte, pattern_at(0));
	close(signal_fd);
	close(file);
	close_pair(ends);
}

CASE(the_key_is_set_to_zero_once_the_descriptors_are_good)
{
	io_context_t ctx = new_context(8);
	int zero = open_device("/dev/zero", O_RDONLY);
	struct iocb iocb;

	io_prep_pread(&iocb, zero, data, 16, 0);
	iocb.key = 0x1234;
	expect_result(ctx, &iocb, 16, HERE);
	ck_assert_uint_eq(iocb.key, 0);
	iocb.key = 0x1234;
	iocb.aio_lio_opcode = 99;
	expect_refused(ctx, &iocb, -EINVAL, HERE);
	ck_assert_uint_eq(iocb.key, 0);
	iocb.key = 0x1234;
	iocb.aio_fildes = -1;
	expect_refused(ctx, &iocb, -EBADF, HERE);
	ck_assert_uint_eq(iocb.key, 0x1234);
	iocb.aio_fildes = zero;
	iocb.u.c.flags = FLAG_RESFD;
	iocb.u.c.resfd = (unsigned)zero;
	expect_refused(ctx, &iocb, -EINVAL, HERE);
	ck_assert_uint_eq(iocb.key, 0x1234);
	free_context(ctx);
	close(zero);
}

CASE(unknown_opcodes_are_refused)
{
	static const short opcodes[] = { -1, -2, 4, 9, 10, 11, 12, 99, 0x100, 0x7fff, -0x8000 };
	io_context_t ctx = new_context(8);
	int zero = open_device("/dev/zero", O_RDONLY);
	struct iocb iocb;
	char what[32];

	for (size_t i = 0; i < sizeof(opcodes) / sizeof(opcodes[0]); i++) {
		io_prep_pread(&iocb, zero, data, 0, 0);
		iocb.aio_lio_opcode = opcodes[i];
		snprintf(what, sizeof(what), "opcode %d", opcodes[i]);
		expect_refused(ctx, &iocb, -EINVAL, what);
	}
	free_context_without_events(ctx, HERE);
	close(zero);
}

CASE(noop_is_counted_and_has_no_event)
{
	io_context_t ctx = new_context(8);
	int zero = open_device("/dev/zero", O_RDONLY);
	struct iocb noop = { .aio_lio_opcode = IO_CMD_NOOP }, reads[2];
	struct iocb *batch[] = { &noop, &reads[0], &noop, &reads[1], &noop };
	struct io_event events[8];

	if (on_reference()) {
		expect_refused(ctx, &noop, -EINVAL, HERE);
		free_context(ctx);
		SKIP("reference: NOOP is an unknown opcode");
	}
	ck_assert_int_eq(submit_one(ctx, &noop), 1);
	expect_no_event(ctx, HERE);
	noop.aio_fildes = -1;
	ck_assert_int_eq(submit_one(ctx, &noop), 1);
	for (int i = 0; i < 2; i++)
		io_prep_pread(&reads[i], zero, data, 16, 0);
	ck_assert_int_eq(io_submit(ctx, 5, batch), 5);
	ck_assert_int_eq(io_getevents(ctx, 2, 8, events, NULL), 2);
	/* In one order or the other. */
	ck_assert(events[0].obj == &reads[0] || events[1].obj == &reads[0]);
	ck_assert(events[0].obj == &reads[1] || events[1].obj == &reads[1]);
	/* They take no room: any number of them goes through. */
	for (int i = 0; i < 5000; i++)
		ck_assert_int_eq(submit_one(ctx, &noop), 1);
	reads[1].aio_fildes = -1;
	ck_assert_int_eq(io_submit(ctx, 5, batch), 3);
	expect_event(ctx, &reads[0], 16, HERE);
	free_context_without_events(ctx, HERE);
	close(zero);
}

CASE(descriptors_that_cannot_be_used_are_refused)
{
	io_context_t ctx = new_context(8);
	int file = scratch_file(4096),
	    directory = open_device(scratch_directory(), O_RDONLY | O_DIRECTORY);
	int read_only = reopen_file(file, O_RDONLY), write_only = reopen_file(file, O_WRONLY);
	int path_only = reopen_file(file, O_PATH), no_access = reopen_file(file, O_ACCMODE);
	bool keeps_mode = (fcntl(no_access, F_GETFL) & O_ACCMODE) == O_ACCMODE;
	struct {
		const char *name;
		int fd;
		short opcode;
		size_t bytes;
		int error;
	} rows[] = {
		{ "-1", -1, IO_CMD_PREAD, 16, -EBADF },
		{ "a closed number", closed_number(), IO_CMD_PREAD, 16, -EBADF },
		{ "INT_MAX", INT_MAX, IO_CMD_PREAD, 16, -EBADF },
		{ "-1, write", -1, IO_CMD_PWRITE, 16, -EBADF },
		{ "-1, fsync", -1, IO_CMD_FSYNC, 0, -EBADF },
		{ "-1, fdsync", -1, IO_CMD_FDSYNC, 0, -EBADF },
		{ "-1, poll", -1, IO_CMD_POLL, 0, -EBADF },
		{ "O_PATH", path_only, IO_CMD_PREAD, 16, -EBADF },
		{ "O_PATH, fsync", path_only, IO_CMD_FSYNC, 0, -EBADF },
		{ "O_PATH, poll", path_only, IO_CMD_POLL, 0, -EBADF },
		{ "read on O_WRONLY", write_only, IO_CMD_PREAD, 16, -EBADF },
		{ "read of 0 bytes on O_WRONLY", write_only, IO_CMD_PREAD, 0, -EBADF },
		{ "vectored read on O_WRONLY", write_only, IO_CMD_PREADV, 0, -EBADF },
		{ "write on O_RDONLY", read_only, IO_CMD_PWRITE, 16, -EBADF },
		{ "write of 0 bytes on O_RDONLY", read_only, IO_CMD_PWRITE, 0, -EBADF },
		{ "vectored write on O_RDONLY", read_only, IO_CMD_PWRITEV, 0, -EBADF },
		{ "read without access", no_access, IO_CMD_PREAD, 16, -EBADF },
		{ "write without access", no_access, IO_CMD_PWRITE, 16, -EBADF },
		{ "read of a directory", directory, IO_CMD_PREAD, 16, -EINVAL },
		{ "write to a directory", directory, IO_CMD_PWRITE, 16, -EBADF },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct iocb iocb = { .aio_fildes = rows[i].fd, .aio_lio_opcode = rows[i].opcode };

		if (rows[i].fd == no_access && !keeps_mode)
			continue;
		if (rows[i].bytes)
			iocb.u.c.buf = data;
		iocb.u.c.nbytes = rows[i].bytes;
		expect_refused(ctx, &iocb, rows[i].error, rows[i].name);
	}
	free_context_without_events(ctx, HERE);
	close(file);
	close(directory);
	close(read_only);
	close(write_only);
	close(path_only);
	close(no_access);
	if (!keeps_mode)
		SKIP("all else is refused, but here is no file that is open for neither");
}

CASE(a_directory_can_be_synced_and_polled)
{
	io_context_t ctx = new_context(8);
	int directory = open_device(scratch_directory(), O_RDONLY | O_DIRECTORY);
	struct iocb iocb;

	io_prep_fsync(&iocb, directory);
	expect_result(ctx, &iocb, 0, "fsync");
	io_prep_fdsync(&iocb, directory);
	expect_result(ctx, &iocb, 0, "fdsync");
	io_prep_poll(&iocb, directory, POLLIN | POLLOUT);
	expect_result(ctx, &iocb, POLLIN | POLLOUT, "poll");
	free_context(ctx);
	close(directory);
}

CASE(unknown_flag_bits_and_an_unflagged_resfd_are_ignored)
{
	io_context_t ctx = new_context(8);
	int zero = open_device("/dev/zero", O_RDONLY), file = scratch_file(4096);
	struct iocb iocb;
	char what[32];

	for (int bit = 2; bit < 32; bit++) {
		snprintf(what, sizeof(what), "flag bit %d", bit);
		io_prep_pread(&iocb, bit % 2 ? zero : file, data, 16, 0);
		iocb.u.c.flags = 1u << bit;
		expect_result(ctx, &iocb, 16, what);
	}
	io_prep_pread(&iocb, zero, data, 16, 0);
	iocb.u.c.resfd = 9999;
	expect_result(ctx, &iocb, 16, "resfd without its flag");
	free_context(ctx);
	close(zero);
	close(file);
}

CASE(resfd_must_be_an_eventfd)
{
	io_context_t ctx = new_context(8);
	int zero = open_device("/dev/zero", O_RDONLY), file = scratch_file(4096), ends[2];
	struct iocb iocb;

	make_pipe(ends, 0);
	io_prep_pread(&iocb, zero, data, 16, 0);
	iocb.u.c.flags = FLAG_RESFD;
	iocb.u.c.resfd = (unsigned)closed_number();
	expect_refused(ctx, &iocb, -EBADF, "closed");
	iocb.u.c.resfd = (unsigned)-1;
	expect_refused(ctx, &iocb, -EBADF, "-1");
	iocb.u.c.resfd = (unsigned)file;
	expect_refused(ctx, &iocb, -EINVAL, "a file");
	iocb.u.c.resfd = (unsigned)ends[1];
	expect_refused(ctx, &iocb, -EINVAL, "a pipe");
	/* Also where the request itself would not go to the kernel at once. */
	io_prep_pread(&iocb, ends[0], data, 16, 0);
	iocb.u.c.flags = FLAG_RESFD;
	iocb.u.c.resfd = (unsigned)file;
	expect_refused(ctx, &iocb, -EINVAL, "a file, for a pipe read");
	iocb.u.c.resfd = (unsigned)closed_number();
	expect_refused(ctx, &iocb, -EBADF, "closed, for a pipe read");
	free_context_without_events(ctx, HERE);
	close(zero);
	close(file);
	close_pair(ends);
}

CASE(the_eventfd_may_be_descriptor_zero)
{
	io_context_t ctx = new_context(8);
	int zero = open_device("/dev/zero", O_RDONLY), saved = dup(0);
	int signal_fd = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct iocb iocb;

	ck_assert_int_eq(dup2(signal_fd, 0), 0);
	io_prep_pread(&iocb, zero, data, 16, 0);
	io_set_eventfd(&iocb, 0);
	expect_result(ctx, &iocb, 16, HERE);
	expect_count(signal_fd, 1, HERE);
	dup2(saved, 0);
	free_context(ctx);
	close(saved);
	close(zero);
	close(signal_fd);
}

/*
 * The order of checks.  Each row has faults of two neighbouring checks; the error is the earlier
 * one's.
 */
struct order_fixture {
	int file, write_only, directory, pipe_end, closed;
};

struct order_row {
	const char *name;
	void (*spoil)(struct iocb *iocb, const struct order_fixture *fixture);
	int error;
};

static void reserved_and_descriptor(struct iocb *iocb, const struct order_fixture *fixture)
{
	(void)fixture;
	iocb->u.c.__pad3 = 1;
	iocb->aio_fildes = -1;
}

static void size_and_descriptor(struct iocb *iocb, const struct order_fixture *fixture)
{
	(void)fixture;
	iocb->u.c.nbytes = (unsigned long)-1;
	iocb->aio_fildes = -1;
}

static void descriptor_and_resfd(struct iocb *iocb, const struct order_fixture *fixture)
{
	iocb->aio_fildes = -1;
	iocb->u.c.flags = FLAG_RESFD;
	iocb->u.c.resfd = (unsigned)fixture->file;
}

static void descriptor_and_opcode(struct iocb *iocb, const struct order_fixture *fixture)
{
	(void)fixture;
	iocb->aio_fildes = -1;
	iocb->aio_lio_opcode = 99;
}

static void closed_resfd_and_opcode(struct iocb *iocb, const struct order_fixture *fixture)
{
	iocb->u.c.flags = FLAG_RESFD;
	iocb->u.c.resfd = (unsigned)fixture->closed;
	iocb->aio_lio_opcode = 99;
}

static void closed_resfd_and_vector(struct iocb *iocb, const struct order_fixture *fixture)
{
	iocb->aio_lio_opcode = IO_CMD_PREADV;
	iocb->u.c.buf = unreadable_page();
	iocb->u.c.nbytes = 2;
	iocb->u.c.flags = FLAG_RESFD;
	iocb->u.c.resfd = (unsigned)fixture->closed;
}

static void priority_and_rw_flags(struct iocb *iocb, const struct order_fixture *fixture)
{
	(void)fixture;
	iocb->u.c.flags = FLAG_IOPRIO;
	iocb->aio_reqprio = (short)(7 << 13);
	iocb->aio_rw_flags = 0x8000;
}

static void rw_flags_and_direction(struct iocb *iocb, const struct order_fixture *fixture)
{
	iocb->aio_rw_flags = 0x8000;
	iocb->aio_fildes = fixture->write_only;
}

static void direction_and_buffer(struct iocb *iocb, const struct order_fixture *fixture)
{
	iocb->aio_fildes = fixture->write_only;
	iocb->u.c.buf = KERNEL_ADDRESS;
}

static void file_type_and_buffer(struct iocb *iocb, const struct order_fixture *fixture)
{
	iocb->aio_fildes = fixture->directory;
	iocb->u.c.buf = KERNEL_ADDRESS;
}

static void buffer_and_offset(struct iocb *iocb, const struct order_fixture *fixture)
{
	(void)fixture;
	iocb->u.c.buf = KERNEL_ADDRESS;
	iocb->u.c.offset = -1;
}

/* In 32 bits the request is good: see BUFFERS_CAN_BE_THE_KERNELS. */
#if UINTPTR_MAX > UINT32_MAX
static void pipe_buffer_and_offset(struct iocb *iocb, const struct order_fixture *fixture)
{
	iocb->aio_fildes = fixture->pipe_end;
	iocb->u.c.buf = KERNEL_ADDRESS;
	iocb->u.c.offset = -1;
}
#endif

static void vector_count_and_pointer(struct iocb *iocb, const struct order_fixture *fixture)
{
	(void)fixture;
	iocb->aio_lio_opcode = IO_CMD_PREADV;
	iocb->u.c.buf = unreadable_page();
	iocb->u.c.nbytes = 1025;
}

static void vector_pointer_and_offset(struct iocb *iocb, const struct order_fixture *fixture)
{
	(void)fixture;
	iocb->aio_lio_opcode = IO_CMD_PREADV;
	iocb->u.c.buf = unreadable_page();
	iocb->u.c.nbytes = 1;
	iocb->u.c.offset = -1;
}

static void resfd_type_and_opcode(struct iocb *iocb, const struct order_fixture *fixture)
{
	iocb->aio_lio_opcode = 99;
	iocb->key = 0x1234;
	iocb->u.c.flags = FLAG_RESFD;
	iocb->u.c.resfd = (unsigned)fixture->file;
}

CASE(the_first_fault_in_the_order_of_checks_is_reported)
{
	static const struct order_row rows[] = {
		{ "reserved field, descriptor", reserved_and_descriptor, -EINVAL },
		{ "size, descriptor", size_and_descriptor,
		  BUFFERS_CAN_BE_THE_KERNELS ? -EINVAL : -EBADF },
		{ "descriptor, type of resfd", descriptor_and_resfd, -EBADF },
		{ "descriptor, opcode", descriptor_and_opcode, -EBADF },
		{ "closed resfd, opcode", closed_resfd_and_opcode, -EBADF },
		{ "closed resfd, vector", closed_resfd_and_vector, -EBADF },
		{ "type of resfd, opcode", resfd_type_and_opcode, -EINVAL },
		{ "priority, flags", priority_and_rw_flags, -EINVAL },
		{ "flags, direction", rw_flags_and_direction, -EOPNOTSUPP },
		{ "direction, buffer", direction_and_buffer, -EBADF },
		{ "kind of file, buffer", file_type_and_buffer, -EINVAL },
		{ "buffer, offset", buffer_and_offset,
		  BUFFERS_CAN_BE_THE_KERNELS ? -EFAULT : -EINVAL },
#if UINTPTR_MAX > UINT32_MAX
		{ "buffer, offset, of a pipe", pipe_buffer_and_offset, -EFAULT },
#endif
		{ "number of vectors, their address", vector_count_and_pointer, -EINVAL },
		{ "address of vectors, offset", vector_pointer_and_offset, -EFAULT },
	};
	io_context_t ctx = new_context(8);
	int ends[2];
	struct order_fixture fixture = { .file = scratch_file(4096) };
	struct iocb iocb;

	make_pipe(ends, 0);
	fixture.write_only = reopen_file(fixture.file, O_WRONLY);
	fixture.directory = open_device(scratch_directory(), O_RDONLY | O_DIRECTORY);
	fixture.pipe_end = ends[0];
	fixture.closed = closed_number();
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		io_prep_pread(&iocb, fixture.file, data, 16, 0);
		rows[i].spoil(&iocb, &fixture);
		expect_refused(ctx, &iocb, rows[i].error, rows[i].name);
	}
	/*
	 * Where type of resfd and opcode have the same error, the key tells: it is written in
	 * between.
	 */
	ck_assert_uint_eq(iocb.key, 0);
	io_prep_pread(&iocb, fixture.file, data, 16, 0);
	resfd_type_and_opcode(&iocb, &fixture);
	expect_refused(ctx, &iocb, -EINVAL, HERE);
	ck_assert_uint_eq(iocb.key, 0x1234);
	free_context_without_events(ctx, HERE);
	close(fixture.file);
	close(fixture.write_only);
	close(fixture.directory);
	close_pair(ends);
}

CASE(the_priority_counts_only_with_its_flag_and_for_reads_and_writes)
{
	static const struct {
		const char *name;
		unsigned flags;
		int priority;
		bool refused;
	} rows[] = {
		{ "0x7fff without the flag", 0, 0x7fff, false },
		{ "-1 without the flag", 0, -1, false },
		{ "none", FLAG_IOPRIO, 0, false },
		{ "none with a level", FLAG_IOPRIO, 4, true },
		{ "best effort 0", FLAG_IOPRIO, 2 << 13, false },
		{ "best effort 7", FLAG_IOPRIO, 2 << 13 | 7, false },
		{ "idle", FLAG_IOPRIO, 3 << 13, false },
		{ "class 4", FLAG_IOPRIO, 4 << 13, true },
		{ "class 7", FLAG_IOPRIO, 7 << 13, true },
	};
	io_context_t ctx = new_context(8);
	int file = scratch_file(4096), zero = open_device("/dev/zero", O_RDONLY), ends[2];
	struct iocb iocb;

	make_pipe(ends, 0);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		int fds[] = { file, zero, ends[0] };

		for (int j = 0; j < 3; j++) {
			ck_assert_int_eq(write(ends[1], data, 16), 16);
			io_prep_pread(&iocb, fds[j], data, 16, 0);
			iocb.u.c.flags = rows[i].flags;
			iocb.aio_reqprio = (short)rows[i].priority;
			if (rows[i].refused)
				expect_refused(ctx, &iocb, -EINVAL, rows[i].name);
			else
				expect_result(ctx, &iocb, 16, rows[i].name);
		}
	}
	io_prep_fsync(&iocb, file);
	iocb.u.c.flags = FLAG_IOPRIO;
	iocb.aio_reqprio = (short)(7 << 13);
	expect_result(ctx, &iocb, 0, "fsync");
	io_prep_poll(&iocb, ends[1], POLLOUT);
	iocb.u.c.flags = FLAG_IOPRIO;
	iocb.aio_reqprio = (short)(7 << 13);
	expect_result(ctx, &iocb, POLLOUT, "poll");
	free_context(ctx);
	close(file);
	close(zero);
	close_pair(ends);
}

static void submit_unprivileged(void *argument)
{
	io_context_t ctx = NULL;
	struct timespec seconds = { .tv_sec = EVENT_LIMIT_SECONDS };
	struct io_event event;
	struct iocb iocb;

	CHILD_CHECK(setresgid(65534, 65534, 65534) == 0 && setresuid(65534, 65534, 65534) == 0);
	CHILD_CHECK(io_setup(4, &ctx) == 0);
	io_prep_pread(&iocb, *(int *)argument, data, 16, 0);
	iocb.u.c.flags = FLAG_IOPRIO;
	iocb.aio_reqprio = 1 << 13;
	CHILD_CHECK(submit_one(ctx, &iocb) == -EPERM);
	iocb.aio_reqprio = 3 << 13;
	CHILD_CHECK(submit_one(ctx, &iocb) == 1);
	CHILD_CHECK(io_getevents(ctx, 1, 1, &event, &seconds) == 1 && event.res == 16);
	CHILD_CHECK(io_destroy(ctx) == 0);
}

CASE(realtime_priority_needs_a_privilege)
{
	io_context_t ctx = new_context(1);
	int file = scratch_file(4096);
	struct iocb iocb;

	if (geteuid() != 0)
		SKIP("needs root, to become somebody else");
	if (UNDER_THREAD_SANITIZER)
		SKIP("a child of a process with threads has no thread sanitizer");
	NEEDS_WIPE_ON_FORK();
	io_prep_pread(&iocb, file, data, 16, 0);
	iocb.u.c.flags = FLAG_IOPRIO;
	iocb.aio_reqprio = 1 << 13;
	expect_result(ctx, &iocb, 16, "root");
	expect_child_passes(submit_unprivileged, &file, HERE);
	free_context(ctx);
	close(file);
}

/*
 * preadv2 and pwritev2 know the same flags, and which of them this kernel and this file system
 * have.
 */
CASE(rw_flags_are_those_of_preadv2_and_pwritev2)
{
	io_context_t ctx = new_context(8);
	int file = scratch_file(8192);
	struct iovec vector = { data, 16 };
	struct iocb iocb;
	char what[32];

	NEEDS_FLAGS();
	for (int bit = 0; bit < 31; bit++) {
		for (int writing = 0; writing < 2; writing++) {
			int flag = 1 << bit, error;
			long direct;

			/* The page is in the cache, so that RWF_NOWAIT has nothing to wait for. */
			ck_assert_int_eq(pread(file, data, 16, 0), 16);
			direct = writing ? pwritev2(file, &vector, 1, 0, flag)
					 : preadv2(file, &vector, 1, 0, flag);
			error = direct < 0 ? -errno : 0;
			snprintf(what, sizeof(what), "%s with 0x%x", writing ? "write" : "read",
				 flag);
			if (writing)
				io_prep_pwritev2(&iocb, file, &vector, 1, 0, flag);
			else
				io_prep_preadv2(&iocb, file, &vector, 1, 0, flag);
			if (error && bit >= 9)
				expect_refused(ctx, &iocb, -EOPNOTSUPP, what);
			else if (!error)
				expect_result(ctx, &iocb, 16, what);
			else if (submit_one(ctx, &iocb) == 1)
				expect_event(ctx, &iocb, error, what);
			else
				expect_refused(ctx, &iocb, error, what);
		}
	}
	iocb.aio_rw_flags = 0x80000000u;
	expect_refused(ctx, &iocb, -EOPNOTSUPP, "the last bit");
	iocb.aio_rw_flags = ~0u;
	expect_refused(ctx, &iocb, -EOPNOTSUPP, "all bits");
	free_context(ctx);
	close(file);
}

CASE(contradicting_and_unsupported_rw_flags_are_refused)
{
	io_context_t ctx = new_context(8);
	int file = scratch_file(8192), memory = memfd_create("memory", MFD_CLOEXEC), ends[2];
	struct iocb iocb;

	NEEDS_FLAGS();
	make_pipe(ends, 0);
	io_prep_pwrite(&iocb, file, data, 16, 0);
	iocb.aio_rw_flags = RWF_APPEND | RWF_NOAPPEND;
	if (pwritev2(file, &(struct iovec){ data, 0 }, 1, 0, RWF_NOAPPEND) == 0)
		expect_refused(ctx, &iocb, -EINVAL, "append and do not");
	io_prep_pread(&iocb, memory, data, 16, 0);
	iocb.aio_rw_flags = RWF_NOWAIT;
	expect_refused(ctx, &iocb, -EOPNOTSUPP, "NOWAIT on tmpfs");
	io_prep_pread(&iocb, ends[0], data, 16, 0);
	iocb.aio_rw_flags = 0x8000;
	expect_refused(ctx, &iocb, -EOPNOTSUPP, "an unknown flag on a pipe");
	io_prep_poll(&iocb, ends[0], POLLIN);
	iocb.aio_rw_flags = 1;
	expect_refused(ctx, &iocb, -EINVAL, "a flag on a poll");
	io_prep_fsync(&iocb, file);
	iocb.aio_rw_flags = RWF_SYNC;
	expect_refused(ctx, &iocb, -EINVAL, "a flag on a sync");
	free_context_without_events(ctx, HERE);
	close(file);
	close(memory);
	close_pair(ends);
}

CASE(sync_takes_no_operands)
{
	io_context_t ctx = new_context(8);
	int file = scratch_file(4096);
	struct iocb iocb;

	for (int data_only = 0; data_only < 2; data_only++) {
		struct iocb plain;

		if (data_only)
			io_prep_fdsync(&plain, file);
		else
			io_prep_fsync(&plain, file);
		iocb = plain;
		iocb.u.c.buf = data;
		expect_refused(ctx, &iocb, -EINVAL, "buf");
		iocb = plain;
		iocb.u.c.nbytes = 1;
		expect_refused(ctx, &iocb, -EINVAL, "nbytes");
		iocb = plain;
		iocb.u.c.offset = 1;
		expect_refused(ctx, &iocb, -EINVAL, "offset");
		iocb.u.c.offset = -1;
		expect_refused(ctx, &iocb, -EINVAL, "negative offset");
		iocb = plain;
		iocb.u.c.__pad3 = 1;
		expect_refused(ctx, &iocb, -EINVAL, "reserved");
		iocb = plain;
		iocb.aio_reqprio = 5;
		expect_result(ctx, &iocb, 0, "reqprio");
		iocb = plain;
		iocb.u.c.flags = 4;
		expect_result(ctx, &iocb, 0, "flags");
		iocb = plain;
		iocb.u.c.resfd = 9;
		expect_result(ctx, &iocb, 0, "resfd");
	}
	free_context(ctx);
	close(file);
}

CASE(what_cannot_be_synced_is_refused)
{
	io_context_t ctx = new_context(8);
	int ends[2], sockets[2], epoll = epoll_create1(EPOLL_CLOEXEC),
				 counter = open_eventfd(0, EFD_CLOEXEC);
	struct iocb iocb;

	make_pipe(ends, 0);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
	{
		struct {
			const char *name;
			int fd;
		} rows[] = {
			{ "a pipe", ends[1] },
			{ "a socket", sockets[0] },
			{ "an epoll descriptor", epoll },
			{ "an eventfd", counter },
			{ "/dev/null", open_device("/dev/null", O_RDWR) },
			{ "/dev/zero", open_device("/dev/zero", O_RDWR) },
			{ "a file of /proc", open_device("/proc/self/status", O_RDONLY) },
			{ "a terminal", posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC) },
		};

		for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
			io_prep_fsync(&iocb, rows[i].fd);
			expect_refused(ctx, &iocb, -EINVAL, rows[i].name);
			io_prep_fdsync(&iocb, rows[i].fd);
			expect_refused(ctx, &iocb, -EINVAL, rows[i].name);
			close(rows[i].fd);
		}
	}
	free_context_without_events(ctx, HERE);
	close(ends[0]);
	close(sockets[1]);
}

CASE(what_can_be_synced_is_synced)
{
	io_context_t ctx = new_context(8);
	int file = scratch_file(4096), memory = memfd_create("memory", MFD_CLOEXEC);
	struct {
		const char *name;
		int fd;
	} rows[] = {
		{ "read and write", file },
		{ "read only", reopen_file(file, O_RDONLY) },
		{ "write only", reopen_file(file, O_WRONLY) },
		{ "a directory", open_device(scratch_directory(), O_RDONLY | O_DIRECTORY) },
		{ "a memory file", memory },
		{ "a file of /sys", open_device("/sys/kernel/uevent_seqnum", O_RDONLY) },
	};
	struct iocb iocb;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		io_prep_fsync(&iocb, rows[i].fd);
		expect_result(ctx, &iocb, 0, rows[i].name);
		io_prep_fdsync(&iocb, rows[i].fd);
		expect_result(ctx, &iocb, 0, rows[i].name);
		close(rows[i].fd);
	}
	free_context(ctx);
}

/* The kernel's field has 64 bits; where a size has 32, the rest is padding that follows it. */
static void prep_read_with_field(struct iocb *iocb, int fd, void *buffer, uint64_t bytes)
{
	io_prep_pread(iocb, fd, buffer, 0, 0);
	memcpy((char *)iocb + 32, &bytes, sizeof(bytes));
}

CASE(sizes_are_checked_and_cut)
{
	io_context_t ctx = new_context(8);
	int file = scratch_file(8192), zero = open_device("/dev/zero", O_RDONLY);
	struct iocb iocb;

	prep_read_with_field(&iocb, file, data, UINT64_MAX);
	expect_refused(ctx, &iocb, -EINVAL, "-1");
	prep_read_with_field(&iocb, file, data, (uint64_t)1 << 63);
	expect_refused(ctx, &iocb, -EINVAL, "the sign bit");
	NEEDS_BUFFERS_GOOD_IN_PART();
	io_prep_pread(&iocb, file, data, SSIZE_MAX, 0);
	expect_result(ctx, &iocb, 8192, "SSIZE_MAX, of a short file");
	io_prep_pread(&iocb, zero, bytes_before_bad_page(8192), SSIZE_MAX / 2, 0);
	expect_result(ctx, &iocb, 8192, "little memory behind the buffer");
	free_context(ctx);
	close(file);
	close(zero);
}

#if __SIZEOF_POINTER__ == 8
CASE(more_than_2_gigabytes_are_cut)
{
	io_context_t ctx = new_context(8);
	int null = open_device("/dev/null", O_WRONLY);
	size_t five_gigabytes = (size_t)5 << 30;
	char *huge = mmap(NULL, five_gigabytes, PROT_READ,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct iocb iocb;

	ck_assert(huge != MAP_FAILED);
	io_prep_pwrite(&iocb, null, huge, five_gigabytes, 0);
	expect_result(ctx, &iocb, 0x7ffff000, "5 GiB");
	munmap(huge, five_gigabytes);
	free_context(ctx);
	close(null);
}
#endif

CASE(offsets_are_checked)
{
	io_context_t ctx = new_context(8);
	int file = scratch_file(8192), zero = open_device("/dev/zero", O_RDONLY), ends[2];
	struct iocb iocb;

	make_pipe(ends, 0);
	{
		struct {
			const char *name;
			int fd;
			short opcode;
			long long offset;
		} rows[] = {
			{ "file, read, -1", file, IO_CMD_PREAD, -1 },
			{ "file, write, -1", file, IO_CMD_PWRITE, -1 },
			{ "file, read, LLONG_MIN", file, IO_CMD_PREAD, LLONG_MIN },
			{ "file, read, LLONG_MAX", file, IO_CMD_PREAD, LLONG_MAX },
			{ "file, write, LLONG_MAX", file, IO_CMD_PWRITE, LLONG_MAX },
			{ "device, read, -5", zero, IO_CMD_PREAD, -5 },
			{ "empty pipe, read, -5", ends[0], IO_CMD_PREAD, -5 },
			{ "pipe, write, -5", ends[1], IO_CMD_PWRITE, -5 },
		};

		for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
			io_prep_pread(&iocb, rows[i].fd, data, 16, rows[i].offset);
			iocb.aio_lio_opcode = rows[i].opcode;
			expect_refused(ctx, &iocb, -EINVAL, rows[i].name);
		}
	}
	io_prep_pread(&iocb, file, data, 16, LLONG_MAX - 4095);
	expect_result(ctx, &iocb, 0, "far behind the end");
	free_context_without_events(ctx, HERE);
	close(file);
	close(zero);
	close_pair(ends);
}

CASE(the_file_position_is_neither_used_nor_moved)
{
	io_context_t ctx = new_context(8);
	int file = scratch_file(8192);
	struct iocb iocb;

	ck_assert_int_eq(lseek(file, 100, SEEK_SET), 100);
	io_prep_pread(&iocb, file, data, 50, 1000);
	expect_result(ctx, &iocb, 50, "read");
	expect_pattern(data, 1000, 50, "read");
	ck_assert_int_eq(lseek(file, 0, SEEK_CUR), 100);
	posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
	io_prep_pread(&iocb, file, data, 50, 5000);
	expect_result(ctx, &iocb, 50, "read from the disk");
	expect_pattern(data, 5000, 50, "read from the disk");
	ck_assert_int_eq(lseek(file, 0, SEEK_CUR), 100);
	io_prep_pwrite(&iocb, file, "abc", 3, 2000);
	expect_result(ctx, &iocb, 3, "write");
	ck_assert_int_eq(lseek(file, 0, SEEK_CUR), 100);
	ck_assert_int_eq(pread(file, data, 3, 2000), 3);
	ck_assert_mem_eq(data, "abc", 3);
	free_context(ctx);
	close(file);
}

CASE(one_iocb_may_be_in_flight_many_times)
{
	io_context_t ctx = new_context(8);
	int zero = open_device("/dev/zero", O_RDONLY), file = scratch_file(4096);
	struct iocb iocb, *list[4] = { &iocb, &iocb, &iocb, &iocb };
	struct io_event events[8];

	for (int i = 0; i < 2; i++) {
		io_prep_pread(&iocb, i ? file : zero, data, 16, 0);
		iocb.data = data;
		ck_assert_int_eq(io_submit(ctx, 4, list), 4);
		for (int got = 0; got < 4;)
			got += io_getevents(ctx, 4 - got, 8 - got, events + got, NULL);
		for (int j = 0; j < 4; j++)
			ck_assert(events[j].obj == &iocb && events[j].data == data &&
				  events[j].res == 16);
		expect_no_event(ctx, HERE);
	}
	free_context(ctx);
	close(zero);
	close(file);
}

/*
 * As soon as io_submit has returned, the array, the iocbs and the vectors are the program's again.
 * The requests are kept in flight by the disk, scribbled over, and must still do what they were
 * told.
 */
static void scribble_over_requests(bool direct)
{
	struct holdfs *fs = holdfs_mount(1, 1 << 20);
	struct iovec vectors[2];
	struct iocb *iocbs, *list[3], *seen[3];
	struct io_event events[3];
	char *buffer, marks[3];
	io_context_t ctx;
	int fd, signal_fd = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), got = 0;

	if (!fs)
		SKIP("no FUSE here");
	ctx = new_context(8);
	buffer = aligned_buffer(4 * DIRECT_BLOCK_BYTES);
	fill_pattern(holdfs_medium(fs, 0), 0, 1 << 20);
	fd = holdfs_open(fs, 0, direct ? O_RDWR | O_DIRECT : O_RDONLY);
	iocbs = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ck_assert(iocbs != MAP_FAILED);
	holdfs_hold(fs, HOLDFS_READ);
	for (int i = 0; i < 2; i++)
		vectors[i] = (struct iovec){ buffer + i * DIRECT_BLOCK_BYTES, DIRECT_BLOCK_BYTES };
	io_prep_preadv(&iocbs[0], fd, vectors, 2, 0);
	for (int i = 1; i < 3; i++)
		io_prep_pread(&iocbs[i], fd, buffer + (i + 1) * DIRECT_BLOCK_BYTES,
			      DIRECT_BLOCK_BYTES, (i + 1) * DIRECT_BLOCK_BYTES);
	for (int i = 0; i < 3; i++) {
		io_set_eventfd(&iocbs[i], signal_fd);
		iocbs[i].data = &marks[i];
		list[i] = seen[i] = &iocbs[i];
	}
	ck_assert_int_eq(io_submit(ctx, 3, list), 3);
	memset(list, 0xff, sizeof(list));
	memset(vectors, 0xff, sizeof(vectors));
	memset(iocbs, 0xff, 3 * sizeof(*iocbs));
	munmap(iocbs, 4096);
	holdfs_wait_arrived(fs, HOLDFS_READ, 0);
	expect_no_event(ctx, HERE);
	holdfs_release_all(fs);
	while (got < 3)
		got += io_getevents(ctx, 3 - got, 3 - got, events + got, NULL);
	for (int i = 0; i < 3; i++) {
		long which = (char *)events[i].data - marks;

		ck_assert(which >= 0 && which < 3);
		ck_assert_ptr_eq(events[i].obj, seen[which]);
		ck_assert_int_eq((long)events[i].res,
				 which == 0 ? 2 * DIRECT_BLOCK_BYTES : DIRECT_BLOCK_BYTES);
	}
	expect_pattern(buffer, 0, 4 * DIRECT_BLOCK_BYTES, HERE);
	expect_count(signal_fd, 3, HERE);
	free_context(ctx);
	close(fd);
	close(signal_fd);
	free(buffer);
	holdfs_unmount(fs);
}

CASE(iocbs_and_vectors_of_direct_requests_are_free_after_submit)
{
	scribble_over_requests(true);
}

CASE(iocbs_and_vectors_of_buffered_reads_are_free_after_submit)
{
	SKIP_ON_REFERENCE("the reads would hold io_submit itself");
	scribble_over_requests(false);
}

static void write_beyond_limit(void *argument)
{
	struct rlimit limit = { 4096, 4096 };
	io_context_t ctx = NULL;
	struct iocb iocb;

	/* Who started the tests may ignore it, which is inherited. */
	signal(SIGXFSZ, SIG_DFL);
	CHILD_CHECK(io_setup(4, &ctx) == 0);
	CHILD_CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
	io_prep_pwrite(&iocb, *(int *)argument, data, 16, 4096);
	submit_one(ctx, &iocb);
}

CASE(a_write_beyond_the_size_limit_raises_sigxfsz_in_the_submitter)
{
	io_context_t ctx = new_context(4);
	int file = scratch_file(4096), status;

	if (!on_reference() && strncmp(expected_engine(), "native", 6) != 0)
		SKIP("this engine writes in another thread, which reports EFBIG alone");
	if (UNDER_THREAD_SANITIZER)
		SKIP("a child of a process with threads has no thread sanitizer");
	status = run_in_child(write_beyond_limit, &file);
	ck_assert_msg(WIFSIGNALED(status) && WTERMSIG(status) == SIGXFSZ, "wait status 0x%x",
		      (unsigned)status);
	free_context(ctx);
	close(file);
}

CASE(a_requests_data_and_obj_come_back_whatever_they_are)
{
	io_context_t ctx = new_context(64);
	int zero = open_device("/dev/zero", O_RDONLY), file = scratch_file(4096);
	static void *const values[] = { NULL, (void *)1, (void *)-1L, KERNEL_ADDRESS };
	struct iocb iocbs[8];
	struct io_event events[8];

	for (size_t i = 0; i < 8; i++) {
		io_prep_pread(&iocbs[i], i % 2 ? file : zero, data, 16, 0);
		iocbs[i].data = values[i / 2];
	}
	expect_all_submitted(ctx, iocbs, 8, HERE);
	for (int got = 0; got < 8;)
		got += io_getevents(ctx, 8 - got, 8 - got, events + got, NULL);
	for (int i = 0; i < 8; i++)
		ck_assert_ptr_eq(events[i].data, values[(events[i].obj - iocbs) / 2]);
	free_context(ctx);
	close(zero);
	close(file);
}
