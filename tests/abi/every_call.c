/* SPDX-License-Identifier: MIT */
/*
 * A program that uses everything in <libaio.h>, in the words that C89 and C++98 share with all
 * later dialects.  To be compiled with every warning on, not run.
 */
#include <libaio.h>
#include <libaio.h>

static void callback(io_context_t ctx, struct iocb *iocb, long res, long res2)
{
	(void)ctx;
	(void)iocb;
	(void)res;
	(void)res2;
}

int every_call(int fd, void *buffer, const struct iovec *iov, struct timespec *timeout,
	       sigset_t *mask);

int every_call(int fd, void *buffer, const struct iovec *iov, struct timespec *timeout,
	       sigset_t *mask)
{
	io_context_t ctx = 0;
	io_iocb_cmd_t command = IO_CMD_NOOP;
	io_callback_t function = callback;
	struct iocb iocb;
	struct iocb *list[1];
	struct io_event event;
	struct io_sigset set;
	struct io_sigset_compat compat;
	int sum = 0;

	sum += io_setup(1, &ctx);
	sum += io_destroy(ctx);
	sum += io_queue_init(1, &ctx);
	io_prep_pread(&iocb, fd, buffer, 512, 0);
	io_prep_pwrite(&iocb, fd, buffer, 512, 0);
	io_prep_preadv(&iocb, fd, iov, 1, 0);
	io_prep_pwritev(&iocb, fd, iov, 1, 0);
	io_prep_preadv2(&iocb, fd, iov, 1, 0, 0);
	io_prep_pwritev2(&iocb, fd, iov, 1, 0, 0);
	io_prep_poll(&iocb, fd, 1);
	io_prep_fsync(&iocb, fd);
	io_prep_fdsync(&iocb, fd);
	io_set_callback(&iocb, function);
	io_set_eventfd(&iocb, fd);
	iocb.aio_lio_opcode = (short)command;
	iocb.u.saddr.len = iocb.u.v.nr;
	list[0] = &iocb;
	sum += io_submit(ctx, 1, list);
	sum += io_poll(ctx, &iocb, callback, fd, 1);
	sum += io_fsync(ctx, &iocb, callback, fd);
	sum += io_fdsync(ctx, &iocb, callback, fd);
	sum += io_cancel(ctx, &iocb, &event);
	sum += io_getevents(ctx, 1, 1, &event, timeout);
	sum += io_pgetevents(ctx, 1, 1, &event, timeout, mask);
	sum += io_queue_wait(ctx, timeout);
	sum += io_queue_run(ctx);
	sum += io_queue_release(ctx);
	sum += trueaio_engine(ctx) != 0;
	set.ss = set.ss_len = 0;
	compat.ss = compat.ss_len = set.ss;
	return sum + (int)compat.ss;
}
