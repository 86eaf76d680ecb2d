/* SPDX-License-Identifier: MIT */
/*
 * Operations: requests that the library carries out itself, because the kernel would make io_submit
 * wait for them.
 *
 * An operation is prepared inside io_submit (checked as the kernel would, vector copied, file
 * captured), started once its batch is accepted, and ended by a worker.  It belongs to the
 * submitting thread until it is started, then to the workers; offload_lock guards the pool and the
 * streams.
 *
 * A *stream* is one direction of a pipe, socket or terminal.  Its operations run one at a time in
 * order of submission; a write to a blocking descriptor goes on until all of it is written.
 * Streams are found by what the descriptor is, not by its number, so duplicates share one.
 *
 * The program's eventfd must be signalled at the end, whatever has become of its number.  A *proxy*
 * does that: a POLL request for nothing, on an eventfd of ours that never fires, given to the
 * kernel with the program's eventfd as its IOCB_FLAG_RESFD.  Cancelling it makes the kernel signal
 * with its own reference and its own saturating arithmetic.  No descriptor of the program is
 * duplicated for it.
 */
#include "internal.h"

#include "offload.h"
#include "pool.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>

#ifndef RWF_NOWAIT
#define RWF_NOWAIT 0x00000008
#endif
#ifndef RWF_APPEND
#define RWF_APPEND 0x00000010
#endif
#ifndef RWF_NOAPPEND
#define RWF_NOAPPEND 0x00000020
#endif

/* The data field of a proxy's event tells it from a wake-up. */
#define PROXY_TAG ((void *)1)

struct ta_stream {
	struct ta_stream *next;
	uint64_t device;
	uint64_t inode;
	bool writes;
	uint32_t users; /* operations prepared for it, queued or not */
	struct ta_operation *head; /* the first one runs */
	struct ta_operation *tail;
};

/* ---- pool ------------------------------------------------------------------------------------ */

struct ta_operation *ta_operation_alloc(void)
{
	struct ta_process *process = ta_process();
	struct ta_operation *operation;

	ta_lock(&process->offload_lock);
	operation = TA_POOL_TAKE(&process->free_operations, &process->operation_pages, next);
	ta_unlock(&process->offload_lock);
	if (operation) {
		memset(operation, 0, sizeof(*operation));
		operation->resfd = -1;
	}
	return operation;
}

/* Its files are released already. */
void ta_operation_free(struct ta_operation *operation)
{
	struct ta_process *process = ta_process();

	ta_assert(!operation->hold && !operation->eventfd);
	if (operation->vector_bytes > 0)
		ta_pages_free(operation->vector_memory, operation->vector_bytes);
	ta_lock(&process->offload_lock);
	TA_POOL_PUT(&process->free_operations, operation, next);
	ta_unlock(&process->offload_lock);
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
	operation->bytes = TA_TRANSFER_MAX - left;
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

static int check_offset(const struct ta_operation *operation)
{
	int64_t bytes = (int64_t)operation->bytes, end;

	return operation->offset < 0 || __builtin_add_overflow(operation->offset, bytes, &end)
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

static bool is_transfer(const struct iocb *iocb)
{
	return iocb->aio_lio_opcode == IO_CMD_PREAD || iocb->aio_lio_opcode == IO_CMD_PREADV ||
	       iocb->aio_lio_opcode == IO_CMD_PWRITE || iocb->aio_lio_opcode == IO_CMD_PWRITEV;
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
 * The checks of a read or write that io_submit would have made, in its order; the capture of the
 * file is the last.  What depends on the file is asked only where kernel AIO is not there to ask.
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
		result = ta_file_check_flags(iocb->aio_fildes, file_flags, identity->mode,
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

/* ---- streams --------------------------------------------------------------------------------- */

/* offload_lock is held. */
static struct ta_stream *find_stream(struct ta_process *process,
				     const struct ta_file_identity *identity, bool writes)
{
	struct ta_stream *stream;

	for (stream = process->streams; stream; stream = stream->next)
		if (stream->device == identity->device && stream->inode == identity->inode &&
		    stream->writes == writes)
			return stream;
	return NULL;
}

static bool stream_is_busy(const struct ta_file_identity *identity, bool writes)
{
	struct ta_process *process = ta_process();
	bool busy;

	ta_lock(&process->offload_lock);
	busy = find_stream(process, identity, writes) != NULL;
	ta_unlock(&process->offload_lock);
	return busy;
}

/* offload_lock is held.  NULL: no memory. */
static struct ta_stream *find_or_make_stream(struct ta_process *process,
					     const struct ta_file_identity *identity, bool writes)
{
	struct ta_stream *stream = find_stream(process, identity, writes);

	if (stream)
		return stream;
	stream = TA_POOL_TAKE(&process->free_streams, &process->operation_pages, next);
	if (!stream)
		return NULL;
	*stream = (struct ta_stream){
		.next = process->streams,
		.device = identity->device,
		.inode = identity->inode,
		.writes = writes,
	};
	process->streams = stream;
	return stream;
}

/* As many writes as are looked at for a read; behind more than that it waits without a look. */
#define OVERLAPS_LOOKED_AT 64

static bool overlaps(const struct ta_operation *read, const struct ta_operation *write)
{
	int64_t read_end = read->offset + (int64_t)read->bytes;
	int64_t write_end = write->offset + (int64_t)write->bytes;

	return write->appends || (read->offset < write_end && write->offset < read_end);
}

/*
 * A buffered read in an offloaded context finds what was written before it: if a write to its place
 * waits in line, so does the read.  offload_lock is held.
 */
static void follow_write(struct ta_process *process, struct ta_operation *operation)
{
	const struct ta_operation *other;
	struct ta_stream *stream;
	unsigned looked_at = 0;

	if (operation->context->mode != TA_CONTEXT_OFFLOADED || operation->is_direct ||
	    operation->is_sync || operation->stream || !operation->hold)
		return;
	stream = find_stream(process, &operation->hold->identity, true);
	for (other = stream ? stream->head : NULL; other; other = other->next) {
		if (++looked_at > OVERLAPS_LOOKED_AT || overlaps(operation, other)) {
			operation->stream = stream;
			stream->users++;
			return;
		}
	}
}

/* True if the operation may run now.  offload_lock is held. */
static bool join_stream(struct ta_operation *operation)
{
	struct ta_stream *stream = operation->stream;

	operation->next = NULL;
	operation->previous = stream->tail;
	if (stream->tail)
		stream->tail->next = operation;
	else
		stream->head = operation;
	stream->tail = operation;
	return stream->head == operation;
}

static void drop_empty_stream(struct ta_process *process, struct ta_stream *stream)
{
	struct ta_stream **link = &process->streams;

	while (*link != stream)
		link = &(*link)->next;
	*link = stream->next;
	TA_POOL_PUT(&process->free_streams, stream, next);
}

/*
 * The operation has its event: takes it out of its stream, and starts the one whose turn has come
 * thereby, so that events come in the order of the stream.  A cancelled one has been started
 * already.
 */
void ta_operation_leave_stream(struct ta_operation *operation)
{
	struct ta_process *process = ta_process();
	struct ta_stream *stream = operation->stream;
	struct ta_operation *successor = NULL;

	ta_lock(&process->offload_lock);
	if (operation->previous)
		operation->previous->next = operation->next;
	else
		successor = stream->head = operation->next;
	if (operation->next)
		operation->next->previous = operation->previous;
	else
		stream->tail = operation->previous;
	operation->next = NULL;
	operation->stream = NULL;
	if (--stream->users == 0)
		drop_empty_stream(process, stream);
	if (successor && !successor->cancelled)
		ta_threads_submit(successor);
	else
		ta_unlock(&process->offload_lock);
}

/* Ties the operation to its stream, without queueing it yet. */
static int prepare_stream(struct ta_operation *operation, const struct ta_file_identity *identity)
{
	struct ta_process *process = ta_process();

	ta_lock(&process->offload_lock);
	operation->stream = find_or_make_stream(process, identity, ta_transfer_is_write(operation));
	if (operation->stream)
		operation->stream->users++;
	ta_unlock(&process->offload_lock);
	return operation->stream ? 0 : -EAGAIN;
}

static void forget_stream(struct ta_operation *operation)
{
	struct ta_process *process = ta_process();

	if (!operation->stream)
		return;
	ta_lock(&process->offload_lock);
	if (--operation->stream->users == 0)
		drop_empty_stream(process, operation->stream);
	operation->stream = NULL;
	ta_unlock(&process->offload_lock);
}

/* ---- prepare, start, discard ----------------------------------------------------------------- */

/* Is the request one for the workers, now that the file is looked at again? */
static bool is_ours(const struct ta_operation *operation, const struct ta_file_identity *identity,
		    long file_flags)
{
	switch (identity->mode & S_IFMT) {
	case S_IFIFO:
	case S_IFSOCK:
	case S_IFCHR:
		return true;
	case S_IFREG:
	case S_IFBLK:
		return !ta_transfer_is_write(operation) && !(file_flags & O_DIRECT);
	default:
		return false;
	}
}

static void prepare_for_stream(struct ta_operation *operation,
			       const struct ta_file_identity *identity, long file_flags)
{
	operation->is_stream = true;
	operation->is_socket = S_ISSOCK(identity->mode);
	operation->nonblocking |= (file_flags & O_NONBLOCK) != 0;
	/* As the kernel has it: pipes ignore an offset, sockets do not. */
	if (operation->is_socket && operation->offset > 0)
		operation->refusal = -ESPIPE;
	/* An eventfd and its like give so many bytes or none; preadv2 would not ask them. */
	if ((identity->mode & S_IFMT) == 0 && ta_transfer_left(operation) == 0)
		operation->refusal = -EINVAL;
}

static bool appends(const struct ta_operation *operation, long file_flags)
{
	return operation->flags & RWF_APPEND ||
	       (file_flags & O_APPEND && !(operation->flags & RWF_NOAPPEND));
}

/*
 * Kernel AIO carries out a buffered write inside io_submit, so that of two to one place the later
 * one stays; and appends come to stand in the order of their submission.  The file's lock would let
 * only one of them write at a time anyway.
 */
static bool writes_in_order(const struct ta_operation *operation,
			    const struct ta_file_identity *identity, long file_flags)
{
	return ta_transfer_is_write(operation) &&
	       (S_ISREG(identity->mode) || S_ISBLK(identity->mode)) &&
	       (appends(operation, file_flags) || !(file_flags & O_DIRECT));
}

/*
 * Everything after the checks.  *operation_is_ours is false if the kernel should have the request
 * after all.
 */
static int capture_request(struct ta_operation *operation, const struct iocb *iocb, long file_flags,
			   const struct ta_file_identity *identity, bool *operation_is_ours)
{
	bool is_offloaded = operation->context->mode == TA_CONTEXT_OFFLOADED;
	bool is_stream = ta_file_is_stream(iocb->aio_fildes, identity->mode);
	struct ta_file_identity line = *identity;
	bool has_line = !is_stream || ta_file_line(iocb->aio_fildes, &line);
	int result = 0;

	*operation_is_ours = is_offloaded || is_ours(operation, identity, file_flags);
	if (*operation_is_ours && !is_offloaded && is_stream &&
	    (file_flags & O_NONBLOCK || operation->nonblocking))
		/* The kernel does not wait there; it is ours only if it must stand in line. */
		*operation_is_ours =
			has_line && stream_is_busy(&line, ta_transfer_is_write(operation));
	if (!*operation_is_ours)
		return 0;
	operation->is_direct = file_flags & O_DIRECT;
	operation->appends = ta_transfer_is_write(operation) && appends(operation, file_flags);
	operation->is_device = S_ISCHR(identity->mode) && !is_stream;
	if (is_stream)
		prepare_for_stream(operation, identity, file_flags);
	if (is_stream && has_line)
		result = prepare_stream(operation, &line);
	else if (is_offloaded && writes_in_order(operation, identity, file_flags))
		result = prepare_stream(operation, identity);
	if (result < 0)
		return result;
	result = ta_hold_take(iocb->aio_fildes, identity, file_flags, &operation->hold);
	if (result == 0 && is_offloaded)
		result = ta_eventfd_capture(operation, operation->resfd);
	if (result == -ENFILE && !is_offloaded) {
		/* No place to hold one more file: better slowly than not at all. */
		*operation_is_ours = false;
		return 0;
	}
	return result == -ENFILE ? -EAGAIN : result;
}

/*
 * A POLL in an offloaded context.  What is ready now has its answer, as from the kernel; the rest
 * waits for its file.
 */
static int prepare_poll(struct ta_operation *operation, const struct iocb *iocb, long file_flags,
			const struct ta_file_identity *identity)
{
	uint64_t events = ta_iocb_field(iocb, TA_FIELD_BUF);
	int result;

	if (events > UINT16_MAX || ta_iocb_field(iocb, TA_FIELD_NBYTES) || iocb->u.c.offset ||
	    iocb->aio_rw_flags)
		return -EINVAL;
	operation->poll_events = (uint16_t)events;
	operation->ready_result = ta_file_poll(iocb->aio_fildes, operation->poll_events);
	if (operation->ready_result != 0) {
		operation->is_ready = true;
		return 0;
	}
	if (!ta_file_polls_once(iocb->aio_fildes, identity->mode, file_flags))
		return -EINVAL;
	/* What fires later tells a little more than was asked for: so do the kernel's wake-ups. */
	if (operation->poll_events & POLLIN)
		operation->poll_events |= POLLRDNORM;
	if (operation->poll_events & POLLOUT)
		operation->poll_events |= POLLWRNORM;
	result = ta_hold_take(iocb->aio_fildes, identity, file_flags, &operation->hold);
	if (result == 0)
		result = ta_eventfd_capture(operation, operation->resfd);
	return result == -ENFILE ? -EAGAIN : result;
}

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
	if (iocb->u.c.flags & IOCB_FLAG_IOPRIO)
		operation->io_priority = (uint16_t)iocb->aio_reqprio;
	if (iocb->u.c.flags & IOCB_FLAG_RESFD)
		operation->resfd = (int)iocb->u.c.resfd;
	return operation;
}

/* Checks a request and takes hold of its file. */
static int prepare_checked(struct ta_operation *operation, struct ta_slot *slot,
			   bool *operation_is_ours)
{
	const struct iocb *iocb = &slot->iocb;
	long file_flags = ta_syscall2(SYS_fcntl, iocb->aio_fildes, F_GETFL);
	struct ta_file_identity identity;
	int result;

	result = check_head(operation->context, iocb, file_flags);
	if (result < 0)
		return result;
	slot->flags |= TA_SLOT_KEY_CLEARED;
	if (!is_transfer(iocb) && iocb->aio_lio_opcode != IO_CMD_POLL)
		return -EINVAL;
	result = ta_file_identify(iocb->aio_fildes, &identity);
	if (result < 0)
		return result;
	if (iocb->aio_lio_opcode == IO_CMD_POLL)
		return prepare_poll(operation, iocb, file_flags, &identity);
	result = check_transfer(operation, iocb, file_flags, &identity);
	if (result < 0)
		return result;
	return capture_request(operation, iocb, file_flags, &identity, operation_is_ours);
}

/*
 * Makes an operation of a request.  0 with *prepared NULL: the kernel does it better, or nobody
 * else can; not so in an offloaded context.  Errors are what io_submit returns for such a request.
 */
int ta_operation_prepare(struct ta_context *context, struct ta_slot *slot,
			 struct ta_operation **prepared)
{
	struct ta_operation *operation;
	bool operation_is_ours = true;
	int result;

	*prepared = NULL;
	if (!ta_offload_open())
		return context->mode == TA_CONTEXT_OFFLOADED ? -EAGAIN : 0;
	operation = new_operation(context, slot);
	if (!operation)
		return -EAGAIN;
	result = prepare_checked(operation, slot, &operation_is_ours);
	if (result < 0 || !operation_is_ours) {
		ta_operation_discard(operation);
		return result;
	}
	*prepared = operation;
	return 0;
}

static void release_files(struct ta_operation *operation)
{
	ta_hold_release(operation->hold);
	operation->hold = NULL;
}

/* Not accepted after all: as if it had never been. */
void ta_operation_discard(struct ta_operation *operation)
{
	forget_stream(operation);
	release_files(operation);
	ta_hold_release(operation->eventfd);
	operation->eventfd = NULL;
	ta_operation_free(operation);
}

/*
 * The proxy; where the kernel has no place for it, the eventfd is held.  If that fails, too, it is
 * signalled by its number.
 */
static void arm_signal(struct ta_operation *operation)
{
	ta_proxy_arm(operation);
	if (!operation->has_proxy)
		(void)ta_eventfd_capture(operation, operation->resfd);
}

/*
 * From here on the operation may be found by io_cancel and io_destroy, so it is in its stream by
 * then.  True if it may run at once.
 */
bool ta_operation_enroll(struct ta_operation *operation, uint8_t state)
{
	struct ta_context *context = operation->context;
	struct ta_process *process = ta_process();
	struct ta_work work = { 0 };
	bool runs = true;

	operation->state = state;
	if (ta_transfer_is_write(operation) || operation->is_sync)
		atomic_fetch_add(&ta_process()->owed_at_exit, 1);
	else if (operation->opcode != IO_CMD_POLL)
		atomic_fetch_add(&ta_process()->reads_offloaded, 1);
	if (operation->resfd >= 0 && context->mode == TA_CONTEXT_MEDIATED)
		arm_signal(operation);
	ta_lock(&context->lock);
	context->operations++;
	if (operation->slot) {
		operation->slot->operation = operation;
		operation->slot->state = TA_SLOT_OPERATION;
	}
	ta_lock(&process->offload_lock);
	follow_write(process, operation);
	if (operation->stream)
		runs = join_stream(operation);
	ta_unlock(&process->offload_lock);
	if (operation->is_stream && operation->slot->epoch) {
		/* What cannot be synchronized must hold up no fsync, and may never end. */
		ta_epoch_leave(context, operation->slot->epoch, &work);
		operation->slot->epoch = NULL;
	}
	work.wake_driver = ta_driver_must_look(context);
	ta_unlock(&context->lock);
	ta_work_finish(context, &work);
	return runs;
}

void ta_operation_submit(struct ta_operation *operation)
{
	ta_lock(&ta_process()->offload_lock);
	ta_threads_submit(operation);
}

/*
 * A stream that does not wait, and in an offloaded context: the request is done here and now, as
 * kernel AIO would.  False: it was cancelled in between.
 */
static bool begin_at_once(struct ta_operation *operation)
{
	struct ta_process *process = ta_process();
	bool begins;

	ta_lock(&process->offload_lock);
	begins = !operation->cancelled;
	if (begins)
		operation->state = TA_OPERATION_ENDED;
	ta_unlock(&process->offload_lock);
	return begins;
}

static long do_at_once(struct ta_operation *operation)
{
	int fd = operation->slot->iocb.aio_fildes;

	if (operation->refusal)
		return operation->refusal;
	if (operation->is_socket)
		return ta_transfer_on_socket(operation, fd);
	return ta_file_transfer(ta_transfer_is_write(operation), fd, operation->vector,
				operation->vector_count, -1, operation->flags);
}

/* In a thread of the program the eventfd is signalled by its number, which still means it. */
static void end_at_once(struct ta_operation *operation, long result)
{
	ta_hold_release(operation->eventfd);
	operation->eventfd = NULL;
	ta_operation_ended(operation, result);
}

void ta_operation_start(struct ta_operation *operation)
{
	bool at_once = operation->context->mode == TA_CONTEXT_OFFLOADED && operation->is_stream &&
		       operation->nonblocking;
	bool is_ready = operation->is_ready;
	bool runs =
		ta_operation_enroll(operation, is_ready ? TA_OPERATION_ENDED : TA_OPERATION_QUEUED);

	/* Unless it is for this thread to run, the operation may be over, and another by now. */
	if (is_ready)
		end_at_once(operation, operation->ready_result);
	else if (runs && at_once && begin_at_once(operation))
		end_at_once(operation, do_at_once(operation));
	else if (runs)
		ta_operation_submit(operation);
}

/* ---- the end --------------------------------------------------------------------------------- */

/* What was counted when the operation was enrolled. */
static void settle_counts(struct ta_process *process, bool write_or_sync, bool is_poll)
{
	if (is_poll)
		return;
	if (!write_or_sync)
		atomic_fetch_sub(&process->reads_offloaded, 1);
	else if (atomic_fetch_sub(&process->owed_at_exit, 1) == 1)
		ta_futex_wake(&process->owed_at_exit, INT_MAX);
}

/* One operation is over: its event, and what was counted for it. */
void ta_operation_finish(struct ta_operation *operation, long result)
{
	bool write_or_sync = ta_transfer_is_write(operation) || operation->is_sync;
	bool is_poll = operation->opcode == IO_CMD_POLL;

	release_files(operation);
	if (operation->object)
		ta_passthrough_finished(operation);
	else
		ta_complete(operation, result);
	settle_counts(ta_process(), write_or_sync, is_poll);
}

/* From the workers: the operation's last part has ended. */
void ta_operation_ended(struct ta_operation *operation, long result)
{
	if (operation->sync) {
		ta_sync_ended(operation, result);
		return;
	}
	if (operation->opcode == IO_CMD_POLL && result == -ECANCELED)
		/* As the kernel says it. */
		result = 0;
	if (result >= 0 || operation->transferred > 0)
		result = (long)operation->transferred + (result > 0 ? result : 0);
	ta_operation_finish(operation, result);
}

static bool may_wait_for_ever(const struct ta_operation *operation)
{
	return operation->is_stream || operation->opcode == IO_CMD_POLL;
}

/*
 * io_cancel of an operation: -EINPROGRESS or -EAGAIN.  Its context's lock is held, so the operation
 * cannot end meanwhile; nothing here waits for that lock.
 */
int ta_operation_cancel(struct ta_operation *operation, struct ta_work *work)
{
	struct ta_process *process = ta_process();
	bool waits_in_stream;

	if (operation->is_sync)
		return ta_sync_cancel(operation, work) ? -EINPROGRESS : -EAGAIN;
	ta_lock(&process->offload_lock);
	/*
	 * Once is enough; and what has moved data already ends with it.  How much is the worker's
	 * to count while it runs.
	 */
	if (operation->cancelled || (operation->state == TA_OPERATION_QUEUED &&
				     operation->transferred > 0 && !operation->is_stream)) {
		ta_unlock(&process->offload_lock);
		return -EAGAIN;
	}
	waits_in_stream = operation->state == TA_OPERATION_QUEUED && operation->stream &&
			  operation->stream->head != operation;
	if (operation->state == TA_OPERATION_QUEUED) {
		operation->cancelled = true;
		/*
		 * One at the head is in the workers' queue, or about to be put there; another must
		 * not wait for its turn.
		 */
		if (waits_in_stream || operation->is_queued)
			ta_threads_submit(operation);
		else
			ta_unlock(&process->offload_lock);
		return -EINPROGRESS;
	}
	ta_unlock(&process->offload_lock);
	if (may_wait_for_ever(operation) && ta_threads_cancel(operation) == 0) {
		ta_lock(&process->offload_lock);
		operation->cancelled = true;
		ta_unlock(&process->offload_lock);
		return -EINPROGRESS;
	}
	return -EAGAIN;
}

/* io_destroy: as cancel, but nothing is left undone where the answer would be "too late". */
void ta_operation_abandon(struct ta_operation *operation, struct ta_work *work)
{
	if (ta_operation_cancel(operation, work) == -EAGAIN && !operation->cancelled &&
	    may_wait_for_ever(operation))
		ta_threads_abandon(operation);
}

/* ---- eventfds -------------------------------------------------------------------------------- */

/* Where the kernel has no place for the proxy, the eventfd will be signalled by its number. */
void ta_proxy_arm(struct ta_operation *operation)
{
	struct ta_context *context = operation->context;
	struct iocb *list = &operation->proxy;
	int wake_fd = ta_kaio_wake_fd();

	if (wake_fd < 0)
		return;
	operation->proxy.data = PROXY_TAG;
	operation->proxy.aio_lio_opcode = IO_CMD_POLL;
	operation->proxy.aio_fildes = wake_fd;
	operation->proxy.u.c.flags = IOCB_FLAG_RESFD;
	operation->proxy.u.c.resfd = (unsigned)operation->resfd;
	ta_lock(&context->lock);
	context->proxies++;
	ta_unlock(&context->lock);
	if (ta_kaio_submit(context->kernel_handle, 1, &list) == 1) {
		operation->has_proxy = true;
		return;
	}
	ta_lock(&context->lock);
	context->proxies--;
	ta_unlock(&context->lock);
}

/* The request's event is visible: signals its eventfd. */
void ta_proxy_fire(struct ta_operation *operation)
{
	struct ta_context *context = operation->context;
	struct io_event unused_event;

	if (operation->has_proxy)
		ta_kaio_cancel(context->kernel_handle, &operation->proxy, &unused_event);
	else
		ta_eventfd_signal(context, operation->resfd);
}

/* Adds one to an eventfd of the program, never waiting: the kernel's own way saturates. */
void ta_eventfd_signal(struct ta_context *context, int eventfd)
{
	struct pollfd writable = { .fd = eventfd, .events = POLLOUT };
	const struct timespec zero = { 0, 0 };
	const uint64_t one = 1;

	if (context->mode == TA_CONTEXT_MEDIATED &&
	    ta_kaio_post(context->kernel_handle, eventfd) != -EAGAIN)
		return;
	/*
	 * No place in the ring, or no ring.  At its maximum an eventfd is not writable, and
	 * readable as it should be.
	 */
	if (ta_syscall5(SYS_ppoll, &writable, 1, &zero, NULL, 8) == 1)
		ta_syscall3(SYS_write, eventfd, &one, sizeof(one));
}

/* IOCB_FLAG_RESFD in an offloaded context, as the kernel checks it: 0, -EBADF or -EINVAL. */
int ta_eventfd_check(struct ta_context *context, const struct iocb *iocb)
{
	struct ta_file_identity unused_identity;

	if (!(iocb->u.c.flags & IOCB_FLAG_RESFD))
		return 0;
	ta_assert(context->mode == TA_CONTEXT_OFFLOADED);
	return ta_file_eventfd((int)iocb->u.c.resfd, &unused_identity);
}

/* Takes hold of the program's eventfd, if the operation has one (not -1), for its end. */
int ta_eventfd_capture(struct ta_operation *operation, int fd)
{
	struct ta_file_identity identity;
	int result;

	if (fd < 0)
		return 0;
	result = ta_file_eventfd(fd, &identity);
	if (result < 0)
		return result;
	if (identity.inode == TA_UNKNOWN_EVENTFD)
		return ta_hold_take_alone(fd, &operation->eventfd);
	return ta_hold_take(fd, &identity, 0, &operation->eventfd);
}
