/* SPDX-License-Identifier: MIT */
/*
 * Kernel AIO by raw system calls.
 *
 * Two uses of the calls deserve a word.  *Waiting without taking*: io_getevents with an events
 * pointer that cannot be written sleeps until the ring holds an event and then fails with EFAULT,
 * having consumed nothing (kernel: aio_read_events_ring copies before it moves head; so in 4.18 to
 * 6.18).  All taking is done from user memory under the context's lock, so a sleeper never holds
 * events in transit that another thread looks for, and any event that arrives between its last look
 * and its sleep ends the sleep at once. *Posting*: a read of zero bytes from an eventfd completes
 * inside io_submit (with EINVAL) and leaves an event in the ring.  That wakes a sleeper, and with
 * IOCB_FLAG_RESFD it signals a program's eventfd with the kernel's own saturating arithmetic, never
 * blocking.
 */
#include "internal.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

struct sigset_argument {
	const sigset_t *mask;
	size_t bytes;
};

/* The kernel's sigset_t, which is shorter than the C library's. */
#define KERNEL_SIGSET_BYTES 8

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
		      const struct timespec *timeout, const sigset_t *mask)
{
	struct sigset_argument argument = { mask, KERNEL_SIGSET_BYTES };

	if (!mask)
		return (int)ta_syscall5(SYS_io_getevents, handle, min_nr, nr, events, timeout);
	return (int)ta_syscall(SYS_io_pgetevents, (long)handle, min_nr, nr, (long)events,
			       (long)timeout, (long)&argument);
}

/*
 * Sleeps until the ring is not empty: 0; or -ETIMEDOUT, -EINTR, -EINVAL (the context is gone).
 * Consumes nothing.
 */
int ta_kaio_wait(unsigned long handle, int64_t deadline_ns, const sigset_t *mask)
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
	result = ta_kaio_getevents(handle, 1, 1, UNWRITABLE, limit, mask);
	if (result == -EFAULT)
		return 0;
	return result == 0 ? -ETIMEDOUT : result;
}

/*
 * Moves a descriptor of ours out of the way of the program's: programs count on the lowest numbers.
 * Not higher than this: a process starts with room for 64, and growing the table makes a process
 * with threads wait for a grace period of the kernel, some 10 ms inside an io_submit. Returns the
 * new number, or fd itself where there is no higher one to be had.
 */
#define HIGH_DESCRIPTOR 48

int ta_high_descriptor(int fd)
{
	long high;

	if (fd >= HIGH_DESCRIPTOR)
		return fd;
	high = ta_syscall3(SYS_fcntl, fd, F_DUPFD_CLOEXEC, HIGH_DESCRIPTOR);
	if (high < 0)
		return fd;
	ta_syscall1(SYS_close, fd);
	return (int)high;
}

/*
 * An eventfd that nobody ever signals: what wake-ups read and proxies poll.  Negative errno if
 * there is none to be had.
 */
int ta_kaio_wake_fd(void)
{
	struct ta_process *process = ta_process();
	int stored = atomic_load(&process->wake_fd);
	int none = 0;
	int fd;

	if (ta_thread.is_foreign)
		return ta_thread.own_wake_fd > 0 ? ta_thread.own_wake_fd - 1 : -EBADF;
	if (stored)
		return stored - 1;
	fd = (int)ta_syscall2(SYS_eventfd2, 0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fd < 0)
		return fd;
	fd = ta_high_descriptor(fd);
	if (!atomic_compare_exchange_strong(&process->wake_fd, &none, fd + 1)) {
		ta_syscall1(SYS_close, fd);
		return none - 1;
	}
	ta_inherited_add(fd);
	return fd;
}

/* A thread that has a table of its own, whatever is in it, needs a wake-up descriptor there. */
void ta_thread_becomes_foreign(int own_wake_fd)
{
	ta_thread.is_foreign = true;
	ta_thread.own_wake_fd = own_wake_fd + 1;
}

/* Is the number still ours, so that making another would change nothing? */
static bool is_eventfd_still(int wake_fd)
{
	struct ta_file_identity identity;

	return ta_file_identify(wake_fd, &identity) == 0 && (identity.mode & S_IFMT) == 0;
}

/*
 * Puts an event that names no slot into the ring, and adds one to the eventfd resfd unless that is
 * -1.  Returns 0, -EAGAIN when the ring is full, or what is wrong with resfd.
 */
int ta_kaio_post(unsigned long handle, int resfd)
{
	struct iocb iocb, *list = &iocb;
	int attempts, wake_fd;
	long result = -EBADF;

	for (attempts = 0; attempts < 2; attempts++) {
		wake_fd = ta_kaio_wake_fd();
		if (wake_fd < 0)
			return wake_fd;
		memset(&iocb, 0, sizeof(iocb));
		iocb.aio_lio_opcode = IO_CMD_PREAD;
		iocb.aio_fildes = wake_fd;
		if (resfd >= 0) {
			iocb.u.c.flags = IOCB_FLAG_RESFD;
			iocb.u.c.resfd = (unsigned)resfd;
		}
		result = ta_kaio_submit(handle, 1, &list);
		if (result == 1)
			return 0;
		if (result == -EAGAIN || resfd >= 0 || ta_thread.is_foreign ||
		    is_eventfd_still(wake_fd))
			break;
		/*
		 * A program that closes descriptors it does not know has closed ours: make another.
		 */
		atomic_compare_exchange_strong(&ta_process()->wake_fd, &(int){ wake_fd + 1 }, 0);
	}
	return result < 0 ? (int)result : -EAGAIN;
}

/* The wake-up descriptor, made anew if the program has closed what it does not know. */
static int usable_wake_fd(void)
{
	int wake_fd = ta_kaio_wake_fd();

	if (wake_fd >= 0 && ta_syscall2(SYS_fcntl, wake_fd, F_GETFD) < 0) {
		atomic_compare_exchange_strong(&ta_process()->wake_fd, &(int){ wake_fd + 1 }, 0);
		wake_fd = ta_kaio_wake_fd();
	}
	return wake_fd;
}

/*
 * What would the kernel say to the eventfd and the priority of a request?  0, -EBADF, -EINVAL or
 * -EPERM.  Asked with a request that it refuses right after it has looked at them, for flags that
 * no kernel knows (io_submit checks in this order in all versions).
 */
int ta_kaio_check(unsigned long handle, const struct iocb *like)
{
	struct iocb iocb, *list = &iocb;
	int wake_fd = usable_wake_fd();
	long result;

	if (wake_fd < 0)
		return -EAGAIN;
	memset(&iocb, 0, sizeof(iocb));
	iocb.aio_lio_opcode = IO_CMD_PREAD;
	iocb.aio_fildes = wake_fd;
	iocb.aio_rw_flags = UNKNOWN_FLAGS;
	iocb.aio_reqprio = like->aio_reqprio;
	iocb.u.c.flags = like->u.c.flags;
	iocb.u.c.resfd = like->u.c.resfd;
	result = ta_kaio_submit(handle, 1, &list);
	return result == -EOPNOTSUPP ? 0 : (int)result;
}
