/* SPDX-License-Identifier: MIT */
/*
 * Kernel AIO by raw system calls.
 *
 * Two uses of the calls deserve a word.  *Waiting without taking*: io_getevents with an events
 * pointer that cannot be written sleeps until the ring holds an event and then fails with EFAULT,
 * having consumed nothing (kernel: aio_read_events_ring copies before it moves head; so in 4.18 to
 * 6.18).  All taking is done from user memory under the context's lock, so a sleeper never holds
 * events in transit that another thread looks for, and any event that arrives between its last look
 * and its sleep ends the sleep at once.  *Posting*: a POLL of something that is always ready
 * completes inside io_submit and leaves an event in the ring, which wakes every sleeper.  A POLL
 * changes nothing of its file, so even a number that the program has just reused comes to no harm.
 */
#include "internal.h"

#include "table.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>

struct sigset_argument {
	const void *mask;
	size_t bytes;
};

/* Of aio_rw_flags, none that a kernel has given a meaning. */
#define UNKNOWN_FLAGS 0x40000000u

/*
 * An address that no process can write: in the last page of the address space. Not lower: the stack
 * of a 32-bit process on a 64-bit kernel begins two pages below its end.
 */
#define UNWRITABLE ((struct io_event *)(UINTPTR_MAX - 4095))

int ta_kaio_setup(unsigned nr_events, unsigned long *handle)
{
	*handle = 0;
	return (int)ta_syscall2(SYS_io_setup, nr_events, handle);
}

int ta_kaio_destroy(unsigned long handle)
{
	return (int)ta_syscall1(SYS_io_destroy, handle);
}

long ta_kaio_submit(unsigned long handle, long count, struct iocb **iocbs)
{
	TA_KERNEL_RELEASE(handle);
	return ta_syscall3(SYS_io_submit, handle, count, iocbs);
}

int ta_kaio_cancel(unsigned long handle, struct iocb *iocb, struct io_event *event)
{
	return (int)ta_syscall3(SYS_io_cancel, handle, iocb, event);
}

int ta_kaio_getevents(unsigned long handle, long min_nr, long nr, struct io_event *events,
		      const struct timespec *timeout, const void *mask)
{
	struct sigset_argument argument = { mask, TA_SIGNAL_SET_BYTES };

	if (!mask)
		return (int)ta_syscall5(SYS_io_getevents, handle, min_nr, nr, events, timeout);
	return (int)ta_syscall(SYS_io_pgetevents, (long)handle, min_nr, nr, (long)events,
			       (long)timeout, (long)&argument);
}

/* Linux 4.18; without it a signal may come just before the sleep, and does not end it. */
static int wait_with_mask_beside(unsigned long handle, const struct timespec *limit,
				 const void *mask)
{
	struct ta_signals before;
	int result;

	ta_signals_set(mask, &before);
	result = ta_kaio_getevents(handle, 1, 1, UNWRITABLE, limit, NULL);
	ta_signals_set(&before, NULL);
	return result;
}

/*
 * Sleeps until the ring, if it is empty now, has so many events, with this mask of signals: 0; or
 * -ETIMEDOUT, -EINTR, -EINVAL (the context is gone).  Before Linux 6.8 the first event ends it.
 * Consumes nothing.
 */
int ta_kaio_wait(unsigned long handle, uint32_t events, int64_t deadline_ns, const void *mask)
{
	struct timespec timeout, *limit = NULL;
	int result;

	if (deadline_ns != TA_NO_DEADLINE) {
		int64_t left_ns = deadline_ns - ta_now_ns();

		if (left_ns < 0)
			left_ns = 0;
		timeout = ta_timespec(left_ns);
		limit = &timeout;
	}
	result = ta_kaio_getevents(handle, (long)events, (long)events, UNWRITABLE, limit, mask);
	if (ta_unlikely(ta_call_is_refused(result)))
		result = wait_with_mask_beside(handle, limit, mask);
	if (result == -EFAULT)
		return 0;
	return result == 0 ? -ETIMEDOUT : result;
}

/* A thread that has a table of its own has another descriptor to post with there. */
void ta_thread_becomes_foreign(int own_wake_fd)
{
	ta_thread.is_foreign = true;
	ta_thread.own_wake_fd = own_wake_fd + 1;
}

/*
 * The end of a pipe that has no other: who asks hears at once that it is hung up.  Not an
 * eventfd: an emulator takes the program's file of the same number for one, and swaps its bytes.
 */
int ta_wake_fd_make(void)
{
	struct ta_limit before;
	int ends[2];
	long result = ta_syscall2(SYS_pipe2, ends, O_CLOEXEC);

	if (result == -EMFILE) {
		/* A sleeper would wait for ever: the program's own limit is not meant for this. */
		before = ta_table_lift_limit(UINT64_MAX);
		result = ta_syscall2(SYS_pipe2, ends, O_CLOEXEC);
		ta_table_lower_limit(before);
	}
	if (result < 0)
		return (int)result;
	ta_syscall1(SYS_close, ends[1]);
	return ends[0];
}

/*
 * A descriptor of ours in the table of this thread, made again if it is gone; or a negative errno.
 */
static int wake_fd(void)
{
	int fd;

	if (ta_thread.is_foreign)
		return ta_thread.own_wake_fd - 1;
	fd = ta_own_find(TA_OWN_WAKE);
	if (fd >= 0)
		return fd;
	fd = ta_wake_fd_make();
	return fd < 0 ? fd : ta_own_add(TA_OWN_WAKE, fd);
}

/*
 * Will there be a descriptor when somebody is to be woken?  The program may leave itself none until
 * then, so it is made before anybody sleeps without a limit.
 */
bool ta_kaio_can_post(void)
{
	/* Nobody else is there to wake the only thread. */
	return ta_thread.is_foreign || ta_own_is_known(TA_OWN_WAKE) ||
	       ta_program_has_one_thread() || wake_fd() >= 0;
}

/*
 * Puts so many events that name no slot into the ring.  0, -EAGAIN when the ring is full, or
 * another negative errno.
 */
int ta_kaio_post(unsigned long handle, uint32_t events)
{
	struct iocb iocb, *list[TA_POSTED_MAX];
	int fd = wake_fd();
	uint32_t i;
	long result;

	if (fd < 0)
		return fd;
	memset(&iocb, 0, sizeof(iocb));
	iocb.aio_lio_opcode = IO_CMD_POLL;
	iocb.aio_fildes = fd;
	iocb.u.poll.events = POLLIN | POLLOUT;
	for (i = 0; i < events; i++)
		list[i] = &iocb;
	result = ta_kaio_submit(handle, (long)events, list);
	return result == (long)events ? 0 : result < 0 ? (int)result : -EAGAIN;
}

/*
 * What would the kernel say to the descriptor, the eventfd and the priority of a request?  0,
 * -EBADF, -EINVAL or -EPERM; or -EAGAIN, which says nothing.  Asked with a request that it refuses
 * right after it has looked at them, for flags that no kernel knows (io_submit checks in this order
 * in all versions).
 */
int ta_kaio_check(unsigned long handle, const struct iocb *like)
{
	struct iocb iocb, *list = &iocb;
	long result;

	memset(&iocb, 0, sizeof(iocb));
	iocb.aio_lio_opcode = IO_CMD_PREAD;
	iocb.aio_fildes = like->aio_fildes;
	iocb.aio_rw_flags = UNKNOWN_FLAGS;
	iocb.aio_reqprio = like->aio_reqprio;
	iocb.u.c.flags = like->u.c.flags;
	iocb.u.c.resfd = like->u.c.resfd;
	result = ta_kaio_submit(handle, 1, &list);
	return result == -EOPNOTSUPP ? 0 : (int)result;
}
