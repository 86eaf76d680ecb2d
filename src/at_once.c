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

/* ---- before it is begun ---------------------------------------------------------------------- */

/* Does the kernel accept it, as far as can be told without beginning it? */
static bool is_acceptable(struct ta_batch *batch, const struct iocb *iocb)
{
	struct iocb like = *iocb;

	if (ta_iocb_is_malformed(iocb))
		return false;
	/* An fsync has no priority to be checked, whatever its flags say. */
	if (ta_iocb_is_sync(iocb))
		like.u.c.flags &= IOCB_FLAG_RESFD;
	if (!(like.u.c.flags & (IOCB_FLAG_RESFD | IOCB_FLAG_IOPRIO)))
		return true;
	return ta_request_check(batch->context, batch->kernel_handle, &like) == 0;
}

/* The number may have become a file which has only the old kind of write. */
enum ta_verdict ta_at_once_look_again(struct ta_batch *batch, int number)
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

/* ---- what the answer means ------------------------------------------------------------------- */

static enum ta_verdict accept(struct ta_batch *batch, long result)
{
	if (ta_unlikely(!ta_context_is_of(batch->context, batch->generation)))
		return TA_VERDICT_GONE;
	batch->slots[batch->accepted++]->result = result;
	return TA_VERDICT_DONE;
}

/* Says the error that nothing was begun? */
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

/*
 * One call for so many elements, plain ones of one stretch, has done less than all.  What it has
 * done is accepted; a write that it has done in part, too, which is a short one then.  False: none.
 */
TA_COLD bool ta_at_once_accept_part(struct ta_batch *batch, long count, long done)
{
	struct ta_slot *slot = batch->slots[batch->accepted];
	bool is_write = !ta_iocb_is_read(&slot->iocb);
	long first = batch->accepted;

	if (is_write && done < 0 && !was_not_begun(done))
		return accept(batch, done) == TA_VERDICT_DONE;
	if (done == -EAGAIN)
		slot->flags |= TA_SLOT_TRIED;
	while (done > 0 && batch->accepted < first + count) {
		long bytes = (long)batch->slots[batch->accepted]->iocb.u.c.nbytes;

		if (done < bytes && !is_write)
			break;
		accept(batch, done < bytes ? done : bytes);
		done -= bytes;
	}
	return batch->accepted > first;
}

/* ---- one request ----------------------------------------------------------------------------- */

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

static enum ta_verdict write_answered(struct ta_batch *batch, long result)
{
	return was_not_begun(result) ? refused(result) : accept(batch, result);
}

/*
 * RWF_NOSIGNAL (Linux 6.18) means nothing to a file on a disk, and a file that has only the old
 * kind of write refuses it.  An older kernel refuses it as well, which the first such write shows;
 * from then on the file is looked at before each.
 */
static enum ta_verdict write_to_cache(struct ta_batch *batch, const struct iocb *iocb)
{
	long result = ta_lacks_nosignal(batch) ? -EOPNOTSUPP : transfer(iocb, true, RWF_NOSIGNAL);
	enum ta_verdict verdict;

	if (result != -EOPNOTSUPP)
		return write_answered(batch, result);
	verdict = ta_at_once_look_again(batch, iocb->aio_fildes);
	if (verdict != TA_VERDICT_DONE)
		return verdict;
	result = transfer(iocb, true, 0);
	/* relaxed: a hint. */
	if (result > 0)
		atomic_store_explicit(&batch->process->lacks_nosignal, true, memory_order_relaxed);
	return write_answered(batch, result);
}

/*
 * Of a file in memory nothing waits.  RWF_DSYNC means nothing there, and is refused by a file that
 * the number has become just now, if that has only the old kinds of read and write.
 */
static enum ta_verdict read_memory(struct ta_batch *batch, const struct iocb *iocb)
{
	long result = transfer(iocb, false, RWF_DSYNC);

	return result < 0 ? refused(result) : accept(batch, result);
}

static enum ta_verdict sync_memory(struct ta_batch *batch, const struct iocb *iocb)
{
	long result;

	if (ta_sync_fields_are_set(iocb))
		return TA_VERDICT_KERNEL;
	result = ta_iocb_sync_now(iocb);
	return was_not_begun(result) ? TA_VERDICT_KERNEL : accept(batch, result);
}

/* It cannot say "would block". */
static enum ta_verdict read_settled(struct ta_batch *batch, const struct iocb *iocb)
{
	switch (ta_class_settle(batch, iocb->aio_fildes, false)) {
	case TA_FILE_MEMORY:
		return read_memory(batch, iocb);
	case TA_FILE_SLOW:
		return TA_VERDICT_WORK;
	default:
		return TA_VERDICT_KERNEL;
	}
}

/* The answer is good if it is all that was asked for, or ends where the file does. */
static enum ta_verdict read_from_cache(struct ta_batch *batch, struct ta_slot *slot, long asked)
{
	const struct iocb *iocb = &slot->iocb;
	long result = slot->flags & TA_SLOT_TRIED ? -EAGAIN : transfer(iocb, false, RWF_NOWAIT);

	if (result == -EOPNOTSUPP)
		return read_settled(batch, iocb);
	if (result < 0 && result != -EAGAIN)
		return refused(result);
	if (result == asked ||
	    (result >= 0 && ta_file_ends_at(iocb->aio_fildes, iocb->u.c.offset + result, result)))
		return accept(batch, result);
	slot->result = result > 0 ? result : 0;
	slot->flags |= TA_SLOT_TRIED;
	return TA_VERDICT_WORK;
}

/*
 * The turn of the first element that is not accepted.  No lock is held; the slot is this thread's.
 */
enum ta_verdict ta_at_once(struct ta_batch *batch)
{
	struct ta_slot *slot = batch->slots[batch->accepted];
	const struct iocb *iocb = &slot->iocb;
	bool unused_is_direct;
	long asked;

	slot->result = 0;
	if (!is_acceptable(batch, iocb))
		return TA_VERDICT_KERNEL;
	if (ta_iocb_is_sync(iocb))
		return sync_memory(batch, iocb);
	asked = ta_bytes_asked(iocb);
	if (!has_place(iocb, asked))
		return TA_VERDICT_KERNEL;
	if (ta_unlikely(!ta_lines_are_empty()) && ta_line_is_before(iocb, asked))
		return TA_VERDICT_WORK;
	/* A class that was taken at first sight may be settled by now, or is where it matters. */
	if (slot->file_class == TA_FILE_BUFFERED)
		slot->file_class = (uint8_t)ta_class_of(batch, iocb->aio_fildes, &unused_is_direct);
	if (ta_iocb_is_read(iocb))
		return slot->file_class == TA_FILE_MEMORY ? read_memory(batch, iocb)
							  : read_from_cache(batch, slot, asked);
	if (slot->file_class == TA_FILE_BUFFERED)
		slot->file_class = (uint8_t)ta_class_settle(batch, iocb->aio_fildes, true);
	switch (slot->file_class) {
	case TA_FILE_MEMORY:
		return write_answered(batch, transfer(iocb, true, RWF_DSYNC));
	case TA_FILE_CACHED:
		return write_to_cache(batch, iocb);
	default:
		return TA_VERDICT_KERNEL;
	}
}

/* ---- their events ---------------------------------------------------------------------------- */

/* The lock is held. */
void ta_at_once_leave(struct ta_batch *batch)
{
	if (!batch->is_counted)
		return;
	batch->is_counted = false;
	ta_context_leave_at_once(batch->context, batch->generation);
	if (ta_unlikely(batch->outer.batch != NULL))
		ta_thread.brief = batch->outer;
}

/*
 * A handler has left the io_submit of this thread that is recorded: what has no event by now gets
 * none.  For the program it was never accepted.
 */
TA_COLD void ta_at_once_abandon(void)
{
	struct ta_brief brief = ta_thread.brief;
	struct ta_context *context = brief.context;
	struct ta_signals before;

	ta_signals_block(&before);
	ta_lock(&context->lock);
	if (context->generation == brief.generation)
		ta_slots_abandon(context, brief.sequence, brief.latest);
	ta_context_leave_at_once(context, brief.generation);
	ta_unlock(&context->lock);
	ta_signals_set(&before, NULL);
}

/* The lock is held.  The eventfd of the last one, if it has any: -1. */
static inline int end_all(struct ta_batch *batch, struct ta_work *work)
{
	struct ta_context *context = batch->context;
	int eventfd = -1;

	ta_wake_sleepers(context);
	for (; batch->finished < batch->accepted; batch->finished++) {
		struct ta_slot *slot = batch->slots[batch->finished];

		if (!slot)
			continue;
		if (ta_unlikely(slot->iocb.u.c.flags & IOCB_FLAG_RESFD))
			eventfd = (int)slot->iocb.u.c.resfd;
		ta_end_drained(context, slot, slot->result, work);
	}
	return eventfd;
}

/*
 * May the events set something off, or those of the kernel that come first?  Then signals are
 * blocked: a handler that does not come back must not leave a sleeper, an fsync or an eventfd
 * behind; nor the lock, and signals are delivered when a system call returns.  The lock is held.
 */
static inline bool may_set_off(const struct ta_batch *batch)
{
	const struct ta_context *context = batch->context;
	const struct ta_slot *latest = batch->slots[batch->accepted - 1];

	/* A wake-up that is in the ring is not posted again, and is all that may be there. */
	return (context->sleepers > 0 &&
		(!context->wake_posted || ta_events_in_ring(context) > 1)) ||
	       batch->brief < batch->count ||
	       atomic_load_explicit(&context->owed, memory_order_relaxed) > 0 ||
	       (latest && latest->iocb.u.c.flags & IOCB_FLAG_RESFD);
}

static TA_COLD void finish_blocked(struct ta_batch *batch)
{
	struct ta_context *context = batch->context;
	struct ta_work work = { 0 };
	struct ta_signals before;
	int eventfd;

	ta_signals_block(&before);
	ta_drain(context, &work);
	eventfd = end_all(batch, &work);
	ta_unlock(&context->lock);
	if (eventfd >= 0)
		ta_eventfd_signal(eventfd);
	ta_work_finish(&work);
	ta_signals_set(&before, NULL);
}

/*
 * Gives those that were carried out their events.  The last one's eventfd still means what it did
 * in the call.  0, or -EINVAL: the context is destroyed, or this is a child that a handler forked.
 */
int ta_at_once_finish(struct ta_batch *batch)
{
	struct ta_context *context = batch->context;
	struct ta_work work = { 0 };

	if (batch->finished == batch->accepted)
		return 0;
	ta_lock(&context->lock);
	if (batch->accepted == batch->count)
		ta_at_once_leave(batch);
	if (context->generation != batch->generation) {
		ta_unlock(&context->lock);
		return -EINVAL;
	}
	if (ta_unlikely(may_set_off(batch))) {
		finish_blocked(batch);
		return 0;
	}
	/* Of what comes from here on, the kernel wakes the sleepers itself. */
	if (ta_likely(context->sleepers == 0))
		ta_drain(context, &work);
	(void)end_all(batch, &work);
	ta_unlock(&context->lock);
	ta_work_finish(&work);
	return 0;
}
