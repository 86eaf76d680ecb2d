/* SPDX-License-Identifier: MIT */
/*
 * Requests that the calling thread carries out inside io_submit, without kernel AIO and workers.
 *
 * A read is tried without waiting; what it misses goes on as work.  A write and a request of a file
 * in memory are carried out as kernel AIO would, in the caller.  No lock is held meanwhile: a copy
 * may take long.  Only when all that stands before it in its array was accepted is a request
 * begun, and what the kernel looks at before it accepts one has been looked at.  A write is never
 * made twice: its error is its event.  One that says that nothing was begun, and any error of a
 * read, sends the request to the kernel, which refuses it in its own words.
 *
 * The events of what has been done one after the other become visible together.  A handler may
 * interrupt and not come back: what is *brief* then was in flight for nobody, and io_destroy waits
 * for it for a while; else signals are blocked.
 */
#include "submit.h"

#include "work.h"

#include <sys/stat.h>

#ifndef RWF_DSYNC
#define RWF_DSYNC 0x00000002
#endif
#ifndef RWF_NOWAIT
#define RWF_NOWAIT 0x00000008
#endif

long ta_bytes_asked(const struct iocb *iocb)
{
	unsigned count = (unsigned)iocb->u.v.nr;
	struct iovec vector;
	uint64_t bytes = 0;
	unsigned i;

	if (!ta_iocb_is_vector(iocb))
		return iocb->u.c.nbytes > TA_TRANSFER_MAX ? (long)TA_TRANSFER_MAX
							  : (long)iocb->u.c.nbytes;
	if (count > TA_VECTOR_MAX)
		return -1;
	for (i = 0; i < count; i++) {
		if (!ta_copy_in(&vector, &iocb->u.v.vec[i], sizeof(vector)) ||
		    (long)vector.iov_len < 0)
			return -1;
		bytes += vector.iov_len;
	}
	return bytes > TA_TRANSFER_MAX ? (long)TA_TRANSFER_MAX : (long)bytes;
}

/* ---- one request ----------------------------------------------------------------------------- */

/* Does the kernel accept it, as far as can be told without beginning it? */
static bool is_acceptable(struct ta_batch *batch, const struct iocb *iocb)
{
	struct iocb like;

	if (ta_iocb_is_malformed(iocb))
		return false;
	if (ta_likely(!(iocb->u.c.flags & (IOCB_FLAG_RESFD | IOCB_FLAG_IOPRIO))))
		return true;
	like = *iocb;
	/* An fsync has no priority to be checked, whatever its flags say. */
	if (ta_iocb_is_sync(iocb))
		like.u.c.flags &= IOCB_FLAG_RESFD;
	return ta_request_check(batch->context, batch->kernel_handle, &like) == 0;
}

static bool has_place(const struct iocb *iocb, long bytes)
{
	return bytes > 0 && iocb->u.c.offset >= 0 && iocb->u.c.offset <= INT64_MAX - bytes;
}

static long transfer(const struct iocb *iocb, bool is_write, int flags)
{
	struct iovec one = { iocb->u.c.buf, iocb->u.c.nbytes };
	bool is_vector = ta_iocb_is_vector(iocb);

	return ta_file_transfer(is_write, iocb->aio_fildes, is_vector ? iocb->u.v.vec : &one,
				is_vector ? (unsigned)iocb->u.v.nr : 1, iocb->u.c.offset,
				(int)iocb->aio_rw_flags | flags);
}

/* Says the error that the write was not begun? */
static bool was_not_begun(long result)
{
	switch (result) {
	case -EBADF:
	case -EFAULT:
	case -EINVAL:
	case -EOPNOTSUPP:
	case -ESPIPE:
		return true;
	default:
		return false;
	}
}

/* A number that has become a stream just now may hold its caller: it is not the kernel's. */
static enum ta_verdict refused(long result)
{
	return result == -ESPIPE ? TA_VERDICT_WORK : TA_VERDICT_KERNEL;
}

/* The number may have become a file which has only the old kind of write. */
static enum ta_verdict look_again(struct ta_batch *batch, int number)
{
	struct ta_file_identity identity;

	if (batch->disk_number == number)
		return TA_VERDICT_DONE;
	if (ta_file_identify(number, &identity) < 0)
		return TA_VERDICT_KERNEL;
	if (!ta_file_is_on_disk(&identity))
		return S_ISREG(identity.mode) ? TA_VERDICT_KERNEL : TA_VERDICT_WORK;
	batch->disk_number = number;
	return TA_VERDICT_DONE;
}

static enum ta_verdict write_at_once(struct ta_batch *batch, struct ta_slot *slot)
{
	enum ta_verdict verdict = look_again(batch, slot->iocb.aio_fildes);

	if (verdict != TA_VERDICT_DONE)
		return verdict;
	slot->result = transfer(&slot->iocb, true, 0);
	return was_not_begun(slot->result) ? refused(slot->result) : TA_VERDICT_DONE;
}

/* The answer is good if it is all that was asked for, or ends where the file does. */
static enum ta_verdict read_at_once(struct ta_slot *slot, long asked)
{
	const struct iocb *iocb = &slot->iocb;
	long result = transfer(iocb, false, RWF_NOWAIT);

	slot->result = result;
	if (ta_likely(result == asked))
		return TA_VERDICT_DONE;
	if (result < 0 && result != -EAGAIN)
		return refused(result);
	if (result >= 0 && ta_file_ends_at(iocb->aio_fildes, iocb->u.c.offset + result, result))
		return TA_VERDICT_DONE;
	slot->flags |= TA_SLOT_TRIED;
	return TA_VERDICT_WORK;
}

/*
 * Of a file in memory: nothing in it waits.  RWF_DSYNC means nothing there, and is refused by a
 * file that the number has become just now, if that has only the old kinds of read and write.
 */
static enum ta_verdict transfer_in_memory(struct ta_slot *slot)
{
	bool is_write = !ta_iocb_is_read(&slot->iocb);

	slot->result = transfer(&slot->iocb, is_write, RWF_DSYNC);
	if (ta_likely(slot->result >= 0) || (is_write && !was_not_begun(slot->result)))
		return TA_VERDICT_DONE;
	return refused(slot->result);
}

static enum ta_verdict sync_memory(struct ta_slot *slot)
{
	if (ta_sync_fields_are_set(&slot->iocb))
		return TA_VERDICT_KERNEL;
	slot->result =
		ta_syscall1(slot->iocb.aio_lio_opcode == IO_CMD_FDSYNC ? SYS_fdatasync : SYS_fsync,
			    slot->iocb.aio_fildes);
	return was_not_begun(slot->result) ? TA_VERDICT_KERNEL : TA_VERDICT_DONE;
}

/* It cannot say "would block". */
static enum ta_verdict read_settled(struct ta_batch *batch, struct ta_slot *slot)
{
	switch (ta_class_settle(batch, slot->iocb.aio_fildes, false)) {
	case TA_FILE_MEMORY:
		return transfer_in_memory(slot);
	case TA_FILE_SLOW:
		return TA_VERDICT_WORK;
	default:
		return TA_VERDICT_KERNEL;
	}
}

/* A class that was taken at first sight is settled where it matters. */
static enum ta_verdict transfer_at_once(struct ta_batch *batch, struct ta_slot *slot, long asked)
{
	int number = slot->iocb.aio_fildes;
	uint8_t file_class = slot->file_class;
	enum ta_verdict verdict;

	if (file_class == TA_FILE_BUFFERED && !ta_iocb_is_read(&slot->iocb))
		file_class = (uint8_t)ta_class_settle(batch, number, true);
	if (file_class == TA_FILE_MEMORY)
		return transfer_in_memory(slot);
	if (!ta_iocb_is_read(&slot->iocb))
		return file_class == TA_FILE_CACHED ? write_at_once(batch, slot)
						    : TA_VERDICT_KERNEL;
	verdict = read_at_once(slot, asked);
	return slot->result == -EOPNOTSUPP ? read_settled(batch, slot) : verdict;
}

/* The turn of a request.  No lock is held; the slot is this thread's. */
enum ta_verdict ta_at_once(struct ta_batch *batch, struct ta_slot *slot)
{
	const struct iocb *iocb = &slot->iocb;
	long asked;

	slot->result = 0;
	if (!is_acceptable(batch, iocb))
		return TA_VERDICT_KERNEL;
	if (ta_unlikely(ta_iocb_is_sync(iocb)))
		return sync_memory(slot);
	asked = ta_bytes_asked(iocb);
	if (!has_place(iocb, asked))
		return TA_VERDICT_KERNEL;
	if (ta_line_is_busy(iocb->aio_fildes))
		return TA_VERDICT_WORK;
	return transfer_at_once(batch, slot, asked);
}

/* ---- their events ---------------------------------------------------------------------------- */

/* The lock is held. */
void ta_at_once_leave(struct ta_batch *batch)
{
	if (batch->is_counted)
		ta_context_leave_at_once(batch->context, batch->generation);
	batch->is_counted = false;
}

/* The lock is held.  The eventfd of the last one, if it has any: -1. */
static int end_all(struct ta_batch *batch, struct ta_work *work)
{
	int eventfd = -1;

	for (; batch->finished < batch->accepted; batch->finished++) {
		struct ta_slot *slot = batch->slots[batch->finished];

		if (!slot)
			continue;
		if (slot->iocb.u.c.flags & IOCB_FLAG_RESFD)
			eventfd = (int)slot->iocb.u.c.resfd;
		ta_end(batch->context, slot, slot->result, work);
	}
	return eventfd;
}

/*
 * Gives those that were carried out their events.  The last one's eventfd still means what it did
 * in the call.  0, or -EINVAL: the context is destroyed, or this is a child that a handler forked.
 */
int ta_at_once_finish(struct ta_batch *batch)
{
	struct ta_context *context = batch->context;
	struct ta_work work = { 0 };
	struct ta_signals before;
	bool has_work;
	int eventfd;

	if (batch->finished == batch->accepted)
		return 0;
	ta_lock(&context->lock);
	if (batch->accepted == batch->count)
		ta_at_once_leave(batch);
	if (context->generation != batch->generation) {
		ta_unlock(&context->lock);
		return -EINVAL;
	}
	eventfd = end_all(batch, &work);
	has_work = ta_work_is_any(&work);
	if (ta_unlikely(has_work))
		ta_signals_block(&before);
	ta_unlock(&context->lock);
	if (eventfd >= 0)
		ta_eventfd_signal(eventfd);
	if (ta_likely(!has_work))
		return 0;
	ta_work_finish(context, &work);
	ta_signals_set(&before, NULL);
	return 0;
}
