/* SPDX-License-Identifier: MIT */
/*
 * Submission in mediated and offloaded contexts.
 *
 * io_submit goes in steps.  *Gather*, under the context's lock: copy each iocb into a slot, decide
 * who does it, let it join its descriptor's epoch.  A batch that is the kernel's alone ends with
 * one io_submit system call: its budget is one lock and unlock, and no system call but that one and
 * one look at each descriptor.  Any other is carried out in order, element by element: runs of
 * elements for the kernel by one system call each, what cannot wait at once (at_once.c), the rest
 * by operations of ours, with signals blocked from there on.  So an element is begun only when all
 * before it have been accepted, and an error ends the batch where the kernel would.  An fsync is a
 * step by itself: what it finds in flight is all that was submitted before it, and nothing that
 * comes later.
 *
 * A slot belongs to the submitting thread until the system call; from then on the kernel, or
 * who drains its event, has it.  A batch that was accepted whole is not touched again, since
 * its slots may be in new hands by the time the system call returns.
 */
#include "submit.h"

#include "work.h"

#include <fcntl.h>
#include <stddef.h>

/* ---- gather ---------------------------------------------------------------------------------- */

/* What the descriptor is: most elements of an array have the same. */
static inline void look_up(struct ta_batch *batch, struct ta_slot *slot)
{
	int number = slot->iocb.aio_fildes;

	if (number != batch->number)
		batch->file_class = ta_class_of(batch, number, &batch->is_direct);
	batch->number = number;
	slot->file_class = (uint8_t)batch->file_class;
}

/* A number that may hold its caller in the kernel is looked at once a batch. */
static inline void check_number(struct ta_batch *batch, struct ta_slot *slot)
{
	int number = slot->iocb.aio_fildes;

	if (slot->state != TA_SLOT_KERNEL || batch->checked_number == number)
		return;
	batch->checked_number = number;
	if (ta_likely(!ta_file_may_have_changed(number, ta_iocb_is_read(&slot->iocb),
						batch->is_direct)))
		return;
	batch->file_class = ta_class_learn(batch, number, &batch->is_direct);
	slot->file_class = (uint8_t)batch->file_class;
	ta_route(batch, slot);
}

/* Who is to have a read or write?  It joins the open epoch of its descriptor: 0 or -EAGAIN. */
static inline int join_transfer(struct ta_batch *batch, struct ta_slot *slot)
{
	look_up(batch, slot);
	if (slot->file_class != TA_FILE_KERNEL || ta_unlikely(!ta_lines_are_empty()))
		ta_route(batch, slot);
	check_number(batch, slot);
	if (slot->flags & TA_SLOT_BRIEF)
		return 0;
	slot->epoch = ta_epoch_join(batch->context, slot->iocb.aio_fildes);
	return slot->epoch ? 0 : -EAGAIN;
}

/* A NOOP: counted, and nothing else. */
static int skip_element(struct ta_batch *batch)
{
	batch->slots[batch->count++] = NULL;
	batch->mixed = true;
	return 0;
}

/* The context is full: what the kernel looks at before its free places still counts. */
static TA_COLD int gather_without_slot(struct ta_batch *batch, const struct iocb *iocb)
{
	struct iocb copy;

	memcpy(&copy, iocb, sizeof(copy));
	if (copy.aio_lio_opcode == IO_CMD_NOOP)
		return skip_element(batch);
	return ta_iocb_is_malformed(&copy) ? -EINVAL : -EAGAIN;
}

/*
 * The kernel clears the key of an iocb, and finds out only then that it cannot: what it looks at
 * before that counts first.
 */
static TA_COLD int gather_unwritable(struct ta_batch *batch, const struct iocb *iocb)
{
	struct ta_context *context = batch->context;
	struct iocb copy;
	long flags;
	int result = 0;

	if (!ta_copy_in(&copy, iocb, sizeof(copy)))
		return -EFAULT;
	if (ta_iocb_is_malformed(&copy))
		return -EINVAL;
	if (context->used == context->slot_count)
		return -EAGAIN;
	flags = ta_syscall2(SYS_fcntl, copy.aio_fildes, F_GETFL);
	if (flags < 0 || flags & O_PATH)
		return -EBADF;
	copy.u.c.flags &= IOCB_FLAG_RESFD;
	if (copy.u.c.flags)
		result = context->mode == TA_CONTEXT_OFFLOADED
				 ? ta_eventfd_check(context, &copy)
				 : ta_kaio_check(context->kernel_handle, &copy);
	return result == -EBADF || result == -EINVAL ? result : -EFAULT;
}

/*
 * An fsync with nothing in flight anywhere is the kernel's without a further look; of a file in
 * memory it is over at once.
 */
static int join_sync(struct ta_batch *batch, struct ta_slot *slot)
{
	struct ta_context *context = batch->context;
	bool is_clear;

	look_up(batch, slot);
	is_clear = ta_sync_is_clear(context, &batch->work) && !ta_work_is_any(&batch->work);
	if (is_clear && slot->file_class == TA_FILE_MEMORY) {
		slot->flags |= TA_SLOT_AT_ONCE | TA_SLOT_BRIEF;
		batch->brief++;
	} else if (is_clear && context->mode == TA_CONTEXT_MEDIATED) {
		slot->epoch = ta_epoch_join(context, slot->iocb.aio_fildes);
		return slot->epoch ? 0 : -EAGAIN;
	}
	slot->state = TA_SLOT_SUBMITTING;
	batch->mixed = true;
	return 0;
}

/* By opcode: 0 or -EAGAIN. */
static inline int join(struct ta_batch *batch, struct ta_slot *slot)
{
	switch (slot->iocb.aio_lio_opcode) {
	case IO_CMD_PREAD:
	case IO_CMD_PWRITE:
	case IO_CMD_PREADV:
	case IO_CMD_PWRITEV:
		return join_transfer(batch, slot);
	case IO_CMD_FSYNC:
	case IO_CMD_FDSYNC:
		return join_sync(batch, slot);
	default:
		/*
		 * POLL is not waited for by an fsync; an unknown opcode is the kernel's to refuse.
		 */
		return 0;
	}
}

/* Puts one iocb into a slot.  0, or why the batch ends before it. */
static inline int gather_one(struct ta_batch *batch, struct iocb *iocb)
{
	struct ta_context *context = batch->context;
	struct ta_slot *slot;

	if (ta_unlikely(!ta_memory_probe(iocb, sizeof(*iocb), true)))
		return gather_unwritable(batch, iocb);
	slot = ta_slot_take(context);
	if (ta_unlikely(!slot))
		return gather_without_slot(batch, iocb);
	/* Copied as bytes: an iocb may lie anywhere. */
	memcpy(&slot->iocb, iocb, sizeof(*iocb));
	if (ta_unlikely(slot->iocb.aio_lio_opcode == IO_CMD_NOOP)) {
		ta_slot_free(context, slot);
		return skip_element(batch);
	}
	slot->object = iocb;
	slot->epoch = NULL;
	slot->state = TA_SLOT_KERNEL;
	slot->flags = 0;
	if (ta_unlikely(context->mode == TA_CONTEXT_OFFLOADED)) {
		slot->state = TA_SLOT_SUBMITTING;
		batch->mixed = true;
	}
	if (ta_unlikely(ta_iocb_is_sync(&slot->iocb) && batch->count > 0)) {
		ta_slot_free(context, slot);
		batch->is_cut = true;
		return 0;
	}
	slot->sequence = ++context->sequence;
	if (ta_unlikely(join(batch, slot) < 0)) {
		ta_slot_free(context, slot);
		return -EAGAIN;
	}
	if (ta_unlikely(context->index != NULL))
		ta_index_add(context, slot);
	/*
	 * As the kernel does.  The slot keeps the old value until the kernel accepts it, for
	 * elements that are given back.
	 */
	ta_store_key(iocb, 0);
	batch->slots[batch->count++] = slot;
	/* What an fsync finds in flight must not be what stands behind it. */
	batch->is_cut = batch->mixed && ta_iocb_is_sync(&slot->iocb);
	return 0;
}

static void gather(struct ta_batch *batch, long nr)
{
	struct iocb **iocbs = batch->iocbs;
	struct iocb *iocb;
	long i;

	/* One question for the array where it is all there; element by element where it is not. */
	bool array_is_readable = ta_memory_probe(iocbs, (size_t)nr * sizeof(*iocbs), false);

	for (i = 0; i < nr && batch->error == 0 && !batch->is_cut; i++) {
		if (ta_unlikely(!array_is_readable &&
				!ta_memory_probe(&iocbs[i], sizeof(*iocbs), false))) {
			batch->error = -EFAULT;
			return;
		}
		memcpy(&iocb, (const char *)iocbs + (size_t)i * sizeof(iocb), sizeof(iocb));
		batch->error = gather_one(batch, iocb);
	}
}

/* ---- what was not accepted ------------------------------------------------------------------- */

/* As if they had never been.  The context's lock is held. */
static void give_back(struct ta_batch *batch, long from, struct ta_work *work)
{
	struct ta_context *context = batch->context;
	long i;

	for (i = from; i < batch->count; i++) {
		struct ta_slot *slot = batch->slots[i];

		if (!slot)
			continue;
		if (slot->iocb.key != 0 && !(i == from && slot->flags & TA_SLOT_KEY_CLEARED))
			ta_store_key(slot->object, slot->iocb.key);
		if (slot->epoch)
			ta_epoch_leave(context, slot->epoch, work);
		if (ta_unlikely(context->index != NULL))
			ta_index_remove(context, slot);
		ta_slot_free(context, slot);
	}
}

static TA_COLD void settle_refused(struct ta_batch *batch, long from)
{
	struct ta_context *context = batch->context;
	struct ta_work work = { 0 };
	struct ta_signals before;

	ta_signals_block(&before);
	ta_lock(&context->lock);
	ta_at_once_leave(batch);
	/*
	 * The context may be destroyed by now, or this is a child that a handler has forked: then
	 * nothing is left.
	 */
	if (context->generation == batch->generation)
		give_back(batch, from, &work);
	ta_unlock(&context->lock);
	ta_work_finish(&work);
	ta_signals_set(&before, NULL);
}

/* ---- batches that are not the kernel's alone ------------------------------------------------- */

/*
 * From here on signals are blocked, and a destroyer waits for this thread.  0, or -EINVAL: the
 * context is destroyed already.  The lock is held.
 */
static int begin_locked(struct ta_batch *batch)
{
	struct ta_context *context = batch->context;

	if (batch->is_blocked)
		return 0;
	ta_at_once_leave(batch);
	if (context->generation != batch->generation)
		return -EINVAL;
	ta_signals_block(&batch->signals);
	context->inside++;
	batch->is_blocked = true;
	return 0;
}

static int begin_in_earnest(struct ta_batch *batch)
{
	int result;

	ta_lock(&batch->context->lock);
	result = begin_locked(batch);
	ta_unlock(&batch->context->lock);
	return result;
}

static void end_earnest(struct ta_batch *batch)
{
	if (!batch->is_blocked)
		return;
	ta_complete_end(batch->context);
	ta_signals_set(&batch->signals, NULL);
}

/*
 * To the kernel, or to a worker: from here on it is in flight.  Under the lock, because others look
 * at what slots are.  0, -EAGAIN or -EINVAL.
 */
static int hand_on(struct ta_batch *batch, struct ta_slot *slot, uint8_t state)
{
	struct ta_context *context = batch->context;
	int result = 0;

	ta_lock(&context->lock);
	if (context->generation != batch->generation)
		result = -EINVAL;
	else if (slot->flags & TA_SLOT_BRIEF && !slot->epoch &&
		 !(slot->epoch = ta_epoch_join(context, slot->iocb.aio_fildes)))
		result = -EAGAIN;
	else
		slot->state = state;
	ta_unlock(&context->lock);
	return result;
}

/* The element whose turn it is goes to the next run for the kernel. */
static int leave_to_kernel(struct ta_batch *batch, struct ta_slot *slot)
{
	return hand_on(batch, slot, TA_SLOT_KERNEL);
}

/* One more element is accepted; if it needs an event from this thread, that is still to come. */
static int accept(struct ta_batch *batch, bool needs_event)
{
	batch->accepted++;
	if (!needs_event)
		batch->finished = batch->accepted;
	return 0;
}

/* The turn of an operation: 0, or why the batch ends before it. */
static int carry_out(struct ta_batch *batch, struct ta_slot *slot, long done)
{
	struct ta_operation *operation;
	int result = ta_at_once_finish(batch);

	if (result == 0)
		result = begin_in_earnest(batch);
	if (result == 0)
		result = hand_on(batch, slot, TA_SLOT_SUBMITTING);
	if (result == 0)
		result = ta_operation_prepare(batch->context, slot,
					      (uint32_t)(batch->count - batch->accepted),
					      &operation);
	if (result < 0)
		return result;
	if (!operation)
		return leave_to_kernel(batch, slot);
	if (done > 0) {
		ta_transfer_skip(operation, (size_t)done);
		operation->transferred = (size_t)done;
	}
	ta_operation_start(operation, &batch->signals);
	return accept(batch, false);
}

/* What waits for its event gets it now, unless the next is only a moment away. */
static inline int announce(struct ta_batch *batch)
{
	const struct ta_slot *latest = batch->slots[batch->accepted - 1];

	return latest->iocb.u.c.flags & IOCB_FLAG_RESFD || latest->result > TA_MOMENT_BYTES
		       ? ta_at_once_finish(batch)
		       : 0;
}

static inline int carry_at_once(struct ta_batch *batch, struct ta_slot *slot)
{
	enum ta_verdict verdict = ta_at_once(batch);
	int result;

	if (ta_likely(verdict == TA_VERDICT_DONE))
		return announce(batch);
	if (ta_unlikely(verdict == TA_VERDICT_GONE))
		return -EINVAL;
	if (verdict != TA_VERDICT_KERNEL || batch->context->mode != TA_CONTEXT_MEDIATED)
		return carry_out(batch, slot, slot->result);
	/* It may refuse it, and signals are delivered when the system call returns. */
	result = begin_in_earnest(batch);
	return result == 0 ? leave_to_kernel(batch, slot) : result;
}

/* It stands alone in its batch. */
static int carry_sync(struct ta_batch *batch, struct ta_slot *slot)
{
	enum ta_sync_way way;
	int result;

	if (slot->flags & TA_SLOT_AT_ONCE && ta_at_once(batch) == TA_VERDICT_DONE)
		return announce(batch);
	result = begin_in_earnest(batch);
	if (result == 0)
		result = ta_sync_prepare(batch->context, slot, &way, &slot->result);
	if (result < 0)
		return result;
	if (way == TA_SYNC_HELD)
		return accept(batch, false);
	if (way == TA_SYNC_DONE) {
		accept(batch, true);
		return announce(batch);
	}
	if (slot->file_class == TA_FILE_MEMORY && ta_at_once(batch) == TA_VERDICT_DONE)
		return announce(batch);
	return leave_to_kernel(batch, slot);
}

/*
 * The turn of an element that is not the kernel's without a question.  0: it is accepted, or left
 * to the kernel; or why the batch ends before it.
 */
static inline int carry(struct ta_batch *batch, struct ta_slot *slot)
{
	if (!slot)
		return accept(batch, true);
	if (ta_unlikely(ta_iocb_is_sync(&slot->iocb)))
		return carry_sync(batch, slot);
	if (ta_likely(slot->flags & TA_SLOT_AT_ONCE))
		return carry_at_once(batch, slot);
	return carry_out(batch, slot, 0);
}

/*
 * Gives the elements up to the one before end to the kernel.  False: it has not taken all.
 */
static inline bool submit_run(struct ta_batch *batch, long end)
{
	long count = end - batch->accepted, result;

	if (count == 0)
		return true;
	result = ta_at_once_finish(batch);
	/* A slot begins with its iocb. */
	if (result == 0)
		result = ta_kaio_submit(batch->kernel_handle, count,
					(struct iocb **)(void *)(batch->slots + batch->accepted));
	if (result > 0)
		batch->finished = batch->accepted += result;
	else
		batch->error = (int)result;
	return result == count;
}

/* The kernel's alone, unless something of a file has to come first. */
static inline bool is_for_next_run(const struct ta_slot *slot)
{
	return slot->state == TA_SLOT_KERNEL &&
	       !(ta_iocb_is_transfer(&slot->iocb) && ta_line_is_busy(slot->iocb.aio_fildes));
}

static void submit_in_order(struct ta_batch *batch)
{
	long next = batch->accepted;

	while (next < batch->count) {
		struct ta_slot *slot = batch->slots[next];

		if (slot && is_for_next_run(slot)) {
			next++;
			continue;
		}
		if (!submit_run(batch, next))
			return;
		batch->error = carry(batch, slot);
		if (batch->error < 0)
			return;
		/* Or it is left to the next run. */
		next = batch->accepted > next ? batch->accepted : next + 1;
	}
	(void)submit_run(batch, batch->count);
}

/* Those that have not had their turn.  No lock is held.  Returns how many were accepted in all. */
long ta_submit_rest(struct ta_batch *batch)
{
	struct ta_context *context = batch->context;
	int result;

	if (ta_likely(ta_context_is_of(context, batch->generation)))
		submit_in_order(batch);
	else
		batch->error = -EINVAL;
	result = ta_at_once_finish(batch);
	if (ta_unlikely(result < 0 && batch->error == 0))
		batch->error = result;
	if (batch->accepted < batch->count)
		settle_refused(batch, batch->accepted);
	if (batch->is_counted) {
		ta_lock(&context->lock);
		ta_at_once_leave(batch);
		ta_unlock(&context->lock);
	}
	end_earnest(batch);
	return batch->accepted;
}

/*
 * Somebody sleeps until he is woken, and what wakes him may soon find no place in the ring.  No
 * lock is held: a handler that comes now and does not come back leaves it to the next submission.
 */
TA_COLD void ta_submit_wake_sleepers(struct ta_context *context, uint32_t generation)
{
	struct ta_signals before;

	ta_signals_block(&before);
	ta_lock(&context->lock);
	if (context->generation == generation)
		ta_wake(context);
	ta_unlock(&context->lock);
	ta_signals_set(&before, NULL);
}

/*
 * The context's lock is held, and let go.  Only what is all brief goes without signals blocked: a
 * handler that finds it half-way finds nothing in flight.
 */
static long submit_mixed(struct ta_batch *batch)
{
	struct ta_context *context = batch->context;

	if (batch->brief < batch->count || ta_work_is_any(&batch->work))
		(void)begin_locked(batch);
	else
		ta_at_once_enter(batch);
	ta_submit_unlock(context);
	ta_work_finish(&batch->work);
	return ta_submit_rest(batch);
}

/* ---- io_submit ------------------------------------------------------------------------------- */

/*
 * Up to TA_BATCH_MAX elements, or fewer, up to an fsync.  Returns how many were accepted;
 * batch->error says why not all, if it is known.  The context's lock is held, and let go.
 */
static long submit_batch(struct ta_batch *batch, long nr)
{
	struct ta_context *context = batch->context;
	long result;

	if (ta_likely(ta_submit_plain(batch, nr)))
		return batch->accepted;
	gather(batch, nr);
	context->may_post |= batch->mixed;
	if (ta_unlikely(batch->mixed))
		return submit_mixed(batch);
	ta_submit_unlock(context);
	if (batch->count == 0)
		return 0;
	result = ta_kaio_submit(batch->kernel_handle, batch->count,
				(struct iocb **)(void *)batch->slots);
	if (ta_likely(result == batch->count))
		return result;
	batch->error = result < 0 ? (int)result : 0;
	settle_refused(batch, result > 0 ? result : 0);
	return result > 0 ? result : 0;
}

/*
 * A call of this thread is recorded.  It may be one that a handler has interrupted; but not if it
 * had its batch where this one is: then the handler has jumped out of it.
 */
static TA_COLD void abandon_what_was_at(uintptr_t here)
{
	uintptr_t there = (uintptr_t)ta_thread.brief.batch;

	if (there < here + sizeof(struct ta_batch) && here < there + sizeof(struct ta_batch))
		ta_at_once_abandon();
}

/* io_submit(3): the number accepted, or the first element's error. */
int ta_submit(struct ta_process *process, io_context_t handle, long nr, struct iocb **iocbs)
{
	struct ta_batch batch;
	long total = 0;

	if (ta_unlikely(ta_thread.brief.batch != NULL))
		abandon_what_was_at((uintptr_t)&batch);
	do {
		struct ta_context *context;
		long step, accepted;

		if (ta_unlikely(nr < 0))
			return -EINVAL;
		context = ta_context_lock(process, handle);
		if (ta_unlikely(!context))
			return total > 0 ? (int)total : -EINVAL;
		if (ta_unlikely(context->mode == TA_CONTEXT_PASSTHROUGH))
			return ta_passthrough_submit(process, context, nr, iocbs);
		/* A batch larger than the ring is treated as one of its size. */
		if (nr > (long)context->event_count)
			nr = (long)context->event_count;
		step = nr - total < TA_BATCH_MAX ? nr - total : TA_BATCH_MAX;
		batch.process = process;
		batch.context = context;
		batch.generation = context->generation;
		batch.kernel_handle = context->kernel_handle;
		batch.sequence = context->sequence;
		batch.iocbs = iocbs + total;
		batch.count = 0;
		batch.mixed = false;
		batch.accepted = 0;
		batch.finished = 0;
		batch.brief = 0;
		batch.is_counted = false;
		batch.is_cut = false;
		batch.is_blocked = false;
		batch.work = (struct ta_work){ 0 };
		batch.error = 0;
		batch.number = batch.checked_number = batch.disk_number = -1;
		batch.file_class = TA_FILE_KERNEL;
		batch.is_direct = false;
		batch.tick_ns = 0;
		accepted = submit_batch(&batch, step);
		total += accepted;
		if (accepted < step && !(batch.is_cut && accepted == batch.count))
			return total > 0 ? (int)total : batch.error;
	} while (total < nr);
	return (int)total;
}
