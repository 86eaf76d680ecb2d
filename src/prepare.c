/* SPDX-License-Identifier: MIT */
/*
 * Preparing an operation inside io_submit: what kernel AIO would say to the request, and who is to
 * carry it out.
 *
 * A request is checked as the kernel would, in its order, and its vector is copied.  Then there are
 * three ways.  The *workers* get what would hold the caller: its file and its eventfd are captured
 * for them (hold.c).  The *caller* carries out, when the operation is started, what would not wait
 * in an offloaded context, and what cannot be captured there.  The *kernel* gets the rest of a
 * mediated context.  A request whose file cannot be captured never passes the line in which it
 * should stand: it is refused while there is one (EAGAIN).
 *
 * Everything here runs in the thread of io_submit, before the request is accepted; no lock is held.
 */
#include "work.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sys/stat.h>

/*
 * Files held from which on it pays to ask which eventfd a descriptor is, so that its requests share
 * one hold: the question costs more than a hold, but places are limited.
 */
#define HOLDS_WITHOUT_ASKING 32

/* ---- eventfds -------------------------------------------------------------------------------- */

/*
 * Adds one to an eventfd, never waiting: the kernel's own way saturates.  At its maximum an eventfd
 * is not writable, and readable as it should be.  Where the program may have no descriptor at all,
 * poll(2) tells nothing.
 */
void ta_eventfd_signal(int fd)
{
	const uint64_t one = 1;

	if (ta_file_poll(fd, POLLOUT, 0) != 0)
		ta_syscall3(SYS_write, fd, &one, sizeof(one));
}

/* IOCB_FLAG_RESFD in an offloaded context, as the kernel checks it: 0, -EBADF or -EINVAL. */
int ta_eventfd_check(struct ta_context *context, const struct iocb *iocb)
{
	ta_assert(context->mode == TA_CONTEXT_OFFLOADED);
	return iocb->u.c.flags & IOCB_FLAG_RESFD ? ta_file_is_eventfd((int)iocb->u.c.resfd) : 0;
}

/* Takes hold of the program's eventfd, if there is one (not -1), for the end of the operation. */
int ta_eventfd_capture(struct ta_operation *operation, int fd)
{
	struct ta_file_identity identity = {
		.inode = TA_UNKNOWN_EVENTFD,
		.mode = TA_MODE_EVENTFD,
	};

	if (fd < 0)
		return 0;
	if (ta_holds_count() >= HOLDS_WITHOUT_ASKING)
		ta_file_tell_eventfd(fd, &identity);
	return ta_hold_take(fd, &identity, 0, &operation->eventfd);
}

/* ---- checks, in the kernel's order ----------------------------------------------------------- */

/*
 * The half of the address space that is the kernel's, seen from a 64-bit process; a 32-bit one has
 * no such addresses.
 */
static bool is_kernel_range(const void *address, size_t bytes)
{
	uintptr_t end = (uintptr_t)address + bytes;

	return sizeof(void *) == 8 &&
	       (end < (uintptr_t)address || (intptr_t)(end | (uintptr_t)address) < 0);
}

/* The kernel takes no more than so much in one request. */
static void cut_vector(struct ta_operation *operation)
{
	size_t left = TA_TRANSFER_MAX;
	unsigned i;

	for (i = 0; i < operation->vector_count; i++) {
		if (operation->vector[i].iov_len > left)
			operation->vector[i].iov_len = left;
		left -= operation->vector[i].iov_len;
	}
}

static int copy_vector(struct ta_operation *operation, const struct iocb *iocb)
{
	unsigned count = (unsigned)iocb->u.v.nr; /* the kernel looks at 32 bits, too */
	size_t bytes;
	unsigned i;

	if (count > TA_VECTOR_MAX)
		return -EINVAL;
	operation->vector = operation->inline_vector;
	if (count > TA_OPERATION_VECTOR) {
		operation->vector_bytes = count * sizeof(struct iovec);
		operation->vector_memory = ta_pages_alloc(operation->vector_bytes);
		if (!operation->vector_memory) {
			operation->vector_bytes = 0;
			return -EAGAIN;
		}
		operation->vector = operation->vector_memory;
	}
	bytes = count * sizeof(struct iovec);
	if (!ta_copy_in(operation->vector, iocb->u.v.vec, bytes))
		return -EFAULT;
	operation->vector_count = count;
	/* All lengths first, as the kernel does. */
	for (i = 0; i < count; i++)
		if ((ssize_t)operation->vector[i].iov_len < 0)
			return -EINVAL;
	/* One buffer is cut before its addresses are looked at, several are after. */
	if (count == 1)
		cut_vector(operation);
	for (i = 0; i < count; i++)
		if (is_kernel_range(operation->vector[i].iov_base, operation->vector[i].iov_len))
			return -EFAULT;
	cut_vector(operation);
	return 0;
}

static int copy_buffers(struct ta_operation *operation, const struct iocb *iocb)
{
	if (iocb->aio_lio_opcode == IO_CMD_PREADV || iocb->aio_lio_opcode == IO_CMD_PWRITEV)
		return copy_vector(operation, iocb);
	operation->inline_vector[0] = (struct iovec){ iocb->u.c.buf, iocb->u.c.nbytes };
	operation->vector = operation->inline_vector;
	operation->vector_count = 1;
	cut_vector(operation);
	return is_kernel_range(iocb->u.c.buf, operation->vector->iov_len) ? -EFAULT : 0;
}

/* Where it ends, and whether there is such a place. */
static int check_offset(struct ta_operation *operation)
{
	int64_t bytes = (int64_t)ta_transfer_left(operation);

	return operation->offset < 0 ||
			       __builtin_add_overflow(operation->offset, bytes, &operation->end)
		       ? -EINVAL
		       : 0;
}

static int check_access(const struct ta_operation *operation, long flags)
{
	long access = flags & O_ACCMODE;

	if (flags & O_PATH || access == O_ACCMODE)
		return -EBADF;
	return access == (ta_transfer_is_write(operation) ? O_RDONLY : O_WRONLY) ? -EBADF : 0;
}

/*
 * What the kernel would say to the priority of a transfer: it is checked before anybody looks for
 * the process that it is for, and there is none of that number.
 */
static int check_priority(const struct iocb *iocb)
{
	const long which_process = 1, no_process = INT_MAX;
	long result;

	if (!(iocb->u.c.flags & IOCB_FLAG_IOPRIO))
		return 0;
	result = ta_syscall3(SYS_ioprio_set, which_process, no_process,
			     (unsigned short)iocb->aio_reqprio);
	return result == -EINVAL || result == -EPERM ? (int)result : 0;
}

/* What the kernel would say to eventfd and priority of a transfer: 0 or a negative errno. */
int ta_request_check(struct ta_context *context, unsigned long kernel_handle,
		     const struct iocb *iocb)
{
	int result;

	if (context->mode != TA_CONTEXT_OFFLOADED)
		return ta_kaio_check(kernel_handle, iocb);
	result = ta_eventfd_check(context, iocb);
	return result == 0 ? check_priority(iocb) : result;
}

/* What the kernel asks of any request, in its order: reserved fields, descriptor, eventfd. */
static int check_head(struct ta_context *context, const struct iocb *iocb, long file_flags)
{
	if (ta_iocb_is_malformed(iocb))
		return -EINVAL;
	if (file_flags < 0)
		return (int)file_flags;
	if (file_flags & O_PATH)
		return -EBADF;
	if (context->mode == TA_CONTEXT_OFFLOADED)
		return ta_eventfd_check(context, iocb);
	if (iocb->u.c.flags & (IOCB_FLAG_RESFD | IOCB_FLAG_IOPRIO))
		return ta_kaio_check(context->kernel_handle, iocb);
	return 0;
}

/*
 * The checks of a read or write that io_submit would have made, in its order.  What depends on the
 * file is asked only where kernel AIO is not there to ask.
 */
static int check_transfer(struct ta_operation *operation, const struct iocb *iocb, long file_flags,
			  const struct ta_file_identity *identity)
{
	bool is_offloaded = operation->context->mode == TA_CONTEXT_OFFLOADED;
	bool writes = ta_transfer_is_write(operation);
	int result = 0;

	if (is_offloaded)
		result = check_priority(iocb);
	if (result == 0)
		result = ta_file_check_flags(iocb->aio_fildes, file_flags, identity,
					     operation->flags, writes);
	if (result == 0)
		result = check_access(operation, file_flags);
	if (result == 0 && is_offloaded &&
	    ta_file_cannot_transfer(iocb->aio_fildes, identity, writes))
		result = -EINVAL;
	if (result == 0)
		result = copy_buffers(operation, iocb);
	if (result == 0)
		result = check_offset(operation);
	return result;
}

/* ---- ways ------------------------------------------------------------------------------------ */

enum way { WAY_KERNEL, WAY_CALLER, WAY_WORKERS };

/* In a mediated context: is the request ours, now that the file is looked at again? */
static bool is_ours(const struct ta_operation *operation, const struct ta_file_identity *identity)
{
	switch (identity->mode & S_IFMT) {
	case S_IFIFO:
	case S_IFSOCK:
		return true;
	case S_IFCHR:
		return operation->target != TA_TARGET_DEVICE || !ta_transfer_is_write(operation);
	case S_IFREG:
	case S_IFBLK:
		/* Direct ones in line would keep each other there, and from the kernel. */
		if (ta_transfer_is_write(operation))
			return !operation->is_direct && ta_file_is_on_disk(identity);
		/* A number that was a stream's may be a file now that has no such read. */
		return !operation->is_direct && operation->slot->file_class != TA_FILE_STREAM;
	default:
		return false;
	}
}

/* What its file would say to it, whatever state it is in; 0: that is to be tried. */
static long refusal(const struct ta_operation *operation, const struct ta_file_identity *identity)
{
	/* As the kernel has it: pipes ignore an offset, sockets do not. */
	if (operation->target == TA_TARGET_SOCKET && operation->offset > 0)
		return -ESPIPE;
	/* An eventfd and its like give so many bytes or none; preadv2 would not ask them. */
	if ((identity->mode & S_IFMT) == 0 && ta_transfer_left(operation) == 0)
		return -EINVAL;
	return 0;
}

static bool appends(const struct ta_operation *operation, long file_flags)
{
	return ta_transfer_is_write(operation) &&
	       (operation->flags & RWF_APPEND ||
		(file_flags & O_APPEND && !(operation->flags & RWF_NOAPPEND)));
}

/* What the file makes of the operation. */
static void settle_target(struct ta_operation *operation, int fd, struct ta_file_identity *identity,
			  long file_flags)
{
	operation->target = (uint8_t)ta_file_target(fd, identity);
	operation->is_direct = file_flags & O_DIRECT;
	if (!ta_is_stream(operation)) {
		if (appends(operation, file_flags)) {
			operation->offset = 0;
			operation->end = INT64_MAX;
		}
		return;
	}
	operation->nonblocking |= (file_flags & O_NONBLOCK) != 0;
	operation->ready_result = refusal(operation, identity);
	if (!S_ISCHR(identity->mode) || !ta_file_has_position(fd))
		operation->offset = -1;
}

static int capture(struct ta_operation *operation, int fd, const struct ta_file_identity *identity,
		   long file_flags)
{
	int result = ta_hold_take(fd, identity, file_flags, &operation->hold);

	return result < 0 ? result : ta_eventfd_capture(operation, operation->resfd);
}

/* Nothing is in flight but those of its own io_submit that have not had their turn. */
static bool is_alone(const struct ta_operation *operation)
{
	struct ta_context *context = operation->context;
	bool is_alone;

	ta_lock(&context->lock);
	is_alone = context->used <= operation->to_submit;
	ta_unlock(&context->lock);
	return is_alone;
}

/* From here on it is the caller's, and its eventfd is signalled by number. */
static void let_go(struct ta_operation *operation)
{
	ta_hold_release(operation->hold);
	ta_hold_release(operation->eventfd);
	operation->hold = operation->eventfd = NULL;
}

/*
 * The file or the eventfd cannot be captured.  What might hold the caller for ever is refused while
 * there is something in flight whose end can be waited for; what has begun goes on.
 */
static int choose_without_capture(struct ta_operation *operation, int fd,
				  const struct ta_file_identity *identity)
{
	bool may_wait = ta_is_stream(operation) && !operation->nonblocking;

	let_go(operation);
	if (operation->transferred > 0)
		return WAY_CALLER;
	ta_line_leave(operation);
	if (!ta_line_is_free(operation, identity))
		return -EAGAIN;
	if (may_wait && ta_file_poll(fd, ta_stream_events(operation), 0) <= 0 &&
	    !is_alone(operation))
		return -EAGAIN;
	/* Signals are blocked: the kernel would wait whatever comes. */
	return may_wait || operation->context->mode == TA_CONTEXT_OFFLOADED ? WAY_CALLER
									    : WAY_KERNEL;
}

/* Its number is another file's by now: the caller is told how far it has come. */
static int end_in_part(struct ta_operation *operation)
{
	let_go(operation);
	operation->ready_result = 0;
	operation->state = TA_OPERATION_ENDED;
	return WAY_CALLER;
}

/*
 * From the first byte on the program may close the number and reuse it.  So a write that waits must
 * be done by one call: of so much a pipe and a socket take all or nothing, but for one of TCP whose
 * room ends there.  A pipe is read and written at the place where it is, and so would a file be
 * that gets its number in between: only the only thread of the program can rule that out.  A socket
 * has calls of its own.
 */
static bool may_be_tried(const struct ta_operation *operation)
{
	bool waits = ta_transfer_is_write(operation) && !operation->nonblocking;

	/* The first request starts the workers: a later fsync may be unable to do so. */
	return ta_is_stream(operation) && ta_service_is_there(TA_SERVICE_WORK) &&
	       ta_stream_memory_was_used(operation) &&
	       !(waits && ta_transfer_left(operation) > PIPE_BUF) &&
	       (operation->target == TA_TARGET_SOCKET || ta_is_only_thread(ta_process()));
}

/*
 * A stream that has something to give, or room to take, and nobody before it; it is in its line
 * meanwhile, and stays there.
 */
static bool ends_at_once(struct ta_operation *operation, int fd,
			 const struct ta_file_identity *identity)
{
	long result;

	if (!may_be_tried(operation) || !ta_line_begin(operation, identity))
		return false;
	result = ta_stream_try(operation, fd);
	if (result == -EAGAIN || result == -EOPNOTSUPP)
		return false;
	operation->ready_result = result;
	operation->state = TA_OPERATION_ENDED;
	return true;
}

/* A way, or a negative errno. */
static int choose(struct ta_operation *operation, int fd, const struct ta_file_identity *identity,
		  long file_flags)
{
	bool is_offloaded = operation->context->mode == TA_CONTEXT_OFFLOADED;
	int result;

	if (!is_offloaded && operation->ready_result < 0)
		return WAY_KERNEL;
	if (!is_offloaded && !is_ours(operation, identity) && ta_line_is_free(operation, identity))
		return WAY_KERNEL;
	if (operation->ready_result < 0) {
		operation->state = TA_OPERATION_ENDED;
		return WAY_CALLER;
	}
	/* What does not wait is ours only if it must stand in line. */
	if (ta_is_stream(operation) && operation->nonblocking &&
	    ta_line_is_free(operation, identity))
		return is_offloaded ? WAY_CALLER : WAY_KERNEL;
	/* It never waits; and its number may have been a stream's a moment ago. */
	if (operation->target == TA_TARGET_DEVICE)
		return WAY_CALLER;
	if (ends_at_once(operation, fd, identity))
		return WAY_CALLER;
	result = capture(operation, fd, identity, file_flags);
	if (operation->transferred > 0 && !ta_file_is_still(fd, identity))
		return end_in_part(operation);
	if (result == -ENFILE || (result < 0 && operation->transferred > 0))
		return choose_without_capture(operation, fd, identity);
	return result < 0 ? result : WAY_WORKERS;
}

/*
 * A POLL in an offloaded context.  What is ready now has its answer, as from the kernel; the rest
 * waits for its file.
 */
static int choose_for_poll(struct ta_operation *operation, const struct iocb *iocb, long file_flags,
			   const struct ta_file_identity *identity)
{
	uint64_t events = ta_iocb_field(iocb, TA_FIELD_BUF);
	int result;

	if (events > UINT16_MAX || ta_iocb_field(iocb, TA_FIELD_NBYTES) || iocb->u.c.offset ||
	    iocb->aio_rw_flags)
		return -EINVAL;
	operation->poll_events = (uint16_t)events;
	operation->ready_result = ta_file_poll(iocb->aio_fildes, operation->poll_events, 0);
	if (operation->ready_result > 0) {
		operation->state = TA_OPERATION_ENDED;
		return WAY_CALLER;
	}
	if (!ta_file_polls_once(iocb->aio_fildes, identity->mode, file_flags))
		return -EINVAL;
	/* What fires later tells a little more than was asked for: so do the kernel's wake-ups. */
	if (operation->poll_events & POLLIN)
		operation->poll_events |= POLLRDNORM;
	if (operation->poll_events & POLLOUT)
		operation->poll_events |= POLLWRNORM;
	result = capture(operation, iocb->aio_fildes, identity, file_flags);
	if (result < 0)
		return result == -ENFILE ? -EAGAIN : result;
	return WAY_WORKERS;
}

/* ---- prepare, discard ------------------------------------------------------------------------ */

static struct ta_operation *new_operation(struct ta_context *context, struct ta_slot *slot)
{
	struct ta_operation *operation = ta_operation_alloc();
	const struct iocb *iocb = &slot->iocb;

	if (!operation)
		return NULL;
	operation->context = context;
	operation->slot = slot;
	operation->opcode = (uint8_t)iocb->aio_lio_opcode;
	operation->flags = (int)iocb->aio_rw_flags;
	operation->offset = iocb->u.c.offset;
	operation->nonblocking = operation->flags & RWF_NOWAIT;
	operation->io_priority =
		iocb->u.c.flags & IOCB_FLAG_IOPRIO ? (uint16_t)iocb->aio_reqprio : ta_io_priority();
	if (iocb->u.c.flags & IOCB_FLAG_RESFD)
		operation->resfd = (int)iocb->u.c.resfd;
	return operation;
}

/* A way, or a negative errno. */
static int check_and_choose(struct ta_operation *operation, struct ta_slot *slot)
{
	const struct iocb *iocb = &slot->iocb;
	long file_flags = ta_syscall2(SYS_fcntl, iocb->aio_fildes, F_GETFL);
	struct ta_file_identity identity;
	int result;

	result = check_head(operation->context, iocb, file_flags);
	if (result < 0)
		return result;
	slot->flags |= TA_SLOT_KEY_CLEARED;
	if (!ta_iocb_is_transfer(iocb) && iocb->aio_lio_opcode != IO_CMD_POLL)
		return -EINVAL;
	result = ta_file_identify(iocb->aio_fildes, &identity);
	if (result < 0)
		return result;
	if (iocb->aio_lio_opcode == IO_CMD_POLL)
		return choose_for_poll(operation, iocb, file_flags, &identity);
	result = check_transfer(operation, iocb, file_flags, &identity);
	if (result < 0)
		return result;
	settle_target(operation, iocb->aio_fildes, &identity, file_flags);
	return choose(operation, iocb->aio_fildes, &identity, file_flags);
}

/*
 * Makes an operation of a request.  0 with *prepared NULL: the kernel does it better, or nobody
 * else can; not so in an offloaded context.  Errors are what io_submit returns for such a request.
 */
int ta_operation_prepare(struct ta_context *context, struct ta_slot *slot, uint32_t to_submit,
			 struct ta_operation **prepared)
{
	struct ta_operation *operation = new_operation(context, slot);
	int way;

	*prepared = NULL;
	if (!operation)
		return context->mode == TA_CONTEXT_OFFLOADED ? -EAGAIN : 0;
	operation->to_submit = to_submit;
	way = check_and_choose(operation, slot);
	if (way <= WAY_KERNEL) {
		ta_operation_discard(operation);
		return way < 0 ? way : 0;
	}
	/* Its eventfd will be signalled by number, which means it still. */
	if (way == WAY_CALLER && operation->state == TA_OPERATION_NEW)
		operation->state = TA_OPERATION_CALLERS;
	*prepared = operation;
	return 0;
}

/* Not accepted after all: as if it had never been. */
void ta_operation_discard(struct ta_operation *operation)
{
	ta_line_leave(operation);
	let_go(operation);
	ta_operation_free(operation);
}
