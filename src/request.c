/* SPDX-License-Identifier: MIT */
/*
 * Submission, completion and cancellation in mediated contexts.
 *
 * io_submit goes in steps.  *Gather*, under the context's lock: copy each iocb into a slot, decide
 * who does it, let it join its descriptor's epoch.  *Prepare*, without the lock: what the library
 * carries out itself is checked and its file captured, so that a bad one cuts the batch where the
 * kernel would.  One io_submit system call for the kernel's part.  *Settle*: what stands after a
 * refused element goes back, what was accepted of ours starts.  Most batches are the kernel's alone
 * and end with the system call: their budget is one lock and unlock, and no system call but that
 * one.
 *
 * A slot belongs to the submitting thread until the system call; from then on the kernel, or
 * whoever drains its event, has it.  A batch that was accepted whole is not touched again, since
 * its slots may be in new hands by the time the system call returns.
 */
#include "offload.h"

#include <fcntl.h>
#include <stddef.h>
#include <string.h>

#ifndef RWF_NOWAIT
#define RWF_NOWAIT 0x00000008
#endif

/*
 * Elements handled at a time: what their pointers take on the caller's stack (4 KiB) bounds it.
 * Larger batches go in several steps.
 */
#define BATCH_MAX 256
/* HIPRI, DSYNC, SYNC, APPEND: of aio_rw_flags, those that leave the way of a request to us. */
#define ROUTABLE_FLAGS 0x17u
/* Of a stream, all that there are: whatever a request asks for, it must stand in line. */
#define STREAM_FLAGS 0x1ffu
/* Reads outstanding at which the block layer may make even a trial wait for a free tag. */
#define TRIALS_UNTIL 128
/*
 * After a miss so many reads of the descriptor go to the workers untried, doubling up to the
 * second figure.
 */
#define TRIAL_BACKOFF_FIRST 1
#define TRIAL_BACKOFF_MAX 31

struct batch {
	struct ta_process *process;
	struct ta_context *context;
	struct iocb **iocbs;
	long count; /* elements gathered */
	uint64_t number; /* of the batch in its context */
	bool mixed; /* not the kernel's alone */
	bool trials; /* some reads may miss */
	int error; /* why gathering ended early */
	struct ta_slot *slots[BATCH_MAX]; /* NULL: a NOOP */
};

/* ---- gather ---------------------------------------------------------------------------------- */

static bool is_read(const struct iocb *iocb)
{
	return iocb->aio_lio_opcode == IO_CMD_PREAD || iocb->aio_lio_opcode == IO_CMD_PREADV;
}

/* The bytes a read asks for, as the kernel cuts them; -1 if that cannot be told. */
static long bytes_asked(const struct iocb *iocb)
{
	unsigned count = (unsigned)iocb->u.v.nr;
	struct iovec vector;
	uint64_t bytes = 0;
	unsigned i;

	if (iocb->aio_lio_opcode == IO_CMD_PREAD)
		return iocb->u.c.nbytes > TA_TRANSFER_MAX ? (long)TA_TRANSFER_MAX
							  : (long)iocb->u.c.nbytes;
	for (i = 0; i < count && count <= TA_VECTOR_MAX; i++) {
		if (!ta_copy_in(&vector, &iocb->u.v.vec[i], sizeof(vector)) ||
		    (long)vector.iov_len < 0)
			return -1;
		bytes += vector.iov_len;
	}
	return bytes > TA_TRANSFER_MAX ? (long)TA_TRANSFER_MAX : (long)bytes;
}

static void start_trial(struct batch *batch, struct ta_slot *slot)
{
	if (slot->iocb.u.c.flags & IOCB_FLAG_RESFD) {
		/*
		 * The kernel would signal a miss, too: the signal is ours to give.  A bad eventfd
		 * is left for the kernel to refuse.
		 */
		if (ta_kaio_check(batch->context->kernel_handle, &slot->iocb) < 0)
			return;
		slot->iocb.u.c.flags &= ~IOCB_FLAG_RESFD;
		slot->flags |= TA_SLOT_SIGNAL;
	}
	slot->iocb.aio_rw_flags |= RWF_NOWAIT;
	slot->flags |= TA_SLOT_TRIAL;
	slot->asked = bytes_asked(&slot->iocb);
	slot->submitter = batch;
	batch->context->trials++;
	batch->trials = true;
}

static bool trial_is_worth_it(struct batch *batch, struct ta_descriptor *descriptor)
{
	if (descriptor->trial_pause > 0) {
		descriptor->trial_pause--;
		return false;
	}
	return atomic_load_explicit(&batch->process->reads_offloaded, memory_order_relaxed) <
	       TRIALS_UNTIL;
}

/*
 * Reads and writes of descriptors for which the kernel's own way is not the whole answer.  Decides
 * where the request goes.
 */
static TA_COLD void route_transfer(struct batch *batch, struct ta_slot *slot,
				   struct ta_descriptor *descriptor)
{
	/*
	 * A program that asks for RWF_NOWAIT wants the kernel's answer; so does one with flags we
	 * do not know.
	 */
	unsigned routable =
		descriptor->file_class == TA_FILE_STREAM ? STREAM_FLAGS : ROUTABLE_FLAGS;
	bool plain = (slot->iocb.aio_rw_flags & ~routable) == 0;

	if (!plain || !ta_offload_possible())
		return;
	switch (descriptor->file_class) {
	case TA_FILE_BUFFERED:
		if (!is_read(&slot->iocb))
			return;
		if (trial_is_worth_it(batch, descriptor)) {
			start_trial(batch, slot);
			return;
		}
		break;
	case TA_FILE_SLOW:
		if (!is_read(&slot->iocb))
			return;
		break;
	case TA_FILE_DEVICE:
		/* A read that says "would block" needs no look at what the number means by now. */
		if (is_read(&slot->iocb))
			start_trial(batch, slot);
		return;
	case TA_FILE_KERNEL:
		return;
	default:
		break;
	}
	slot->state = TA_SLOT_SUBMITTING;
	batch->mixed = true;
}

/*
 * An fsync: later elements of this batch must not be counted as earlier ones, so what is open now
 * is sealed.
 */
static TA_COLD void gather_sync(struct batch *batch, struct ta_slot *slot)
{
	struct ta_context *context = batch->context;
	struct ta_descriptor *descriptor;
	unsigned i;

	for (i = 0; i < TA_DESCRIPTOR_BUCKETS; i++) {
		for (descriptor = context->descriptors[i]; descriptor;
		     descriptor = descriptor->next) {
			struct ta_epoch *open = descriptor->open;

			if (!open || open->in_flight == 0)
				continue;
			open->sealed = true;
			open->sealed_at = slot->sequence;
			descriptor->open = NULL;
		}
	}
	slot->state = TA_SLOT_SUBMITTING;
	batch->mixed = true;
}

/*
 * Joins the open epoch of the slot's descriptor and learns what the descriptor is.  0 or -EAGAIN.
 */
static inline int join_epoch(struct batch *batch, struct ta_slot *slot, int64_t *tick_ns)
{
	struct ta_context *context = batch->context;
	struct ta_descriptor *descriptor = ta_descriptor_of(context, slot->iocb.aio_fildes);

	if (ta_unlikely(!descriptor))
		return -EAGAIN;
	if (ta_unlikely(!descriptor->open) && ta_epoch_open(context, descriptor) < 0)
		return -EAGAIN;
	slot->epoch = descriptor->open;
	slot->epoch->in_flight++;
	if (ta_unlikely(context->mode == TA_CONTEXT_OFFLOADED))
		return 0;
	if (*tick_ns == 0)
		*tick_ns = ta_tick_ns();
	if (ta_unlikely(descriptor->tick_ns != *tick_ns)) {
		ta_file_classify(descriptor);
		descriptor->tick_ns = *tick_ns;
	}
	if (ta_unlikely(descriptor->file_class != TA_FILE_KERNEL))
		route_transfer(batch, slot, descriptor);
	if (slot->state == TA_SLOT_KERNEL && !(slot->flags & TA_SLOT_TRIAL) &&
	    descriptor->checked_at != batch->number) {
		descriptor->checked_at = batch->number;
		if (ta_unlikely(ta_file_has_changed(descriptor, is_read(&slot->iocb))))
			route_transfer(batch, slot, descriptor);
	}
	return 0;
}

/* A NOOP: counted, and nothing else. */
static int skip_element(struct batch *batch)
{
	batch->slots[batch->count++] = NULL;
	batch->mixed = true;
	return 0;
}

/* The context is full: what the kernel looks at before its free places still counts. */
static TA_COLD int gather_without_slot(struct batch *batch, const struct iocb *iocb)
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
static TA_COLD int gather_unwritable(struct batch *batch, const struct iocb *iocb)
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

static void store_key(struct iocb *iocb, unsigned key)
{
	memcpy((char *)iocb + offsetof(struct iocb, key), &key, sizeof(key));
}

/* Puts one iocb into a slot.  0, or why the batch ends before it. */
static inline int gather_one(struct batch *batch, struct iocb *iocb, int64_t *tick_ns)
{
	struct ta_context *context = batch->context;
	struct ta_slot *slot;
	int result = 0;

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
	slot->sequence = ++context->sequence;
	if (ta_unlikely(context->mode == TA_CONTEXT_OFFLOADED)) {
		slot->state = TA_SLOT_SUBMITTING;
		batch->mixed = true;
	}
	switch (slot->iocb.aio_lio_opcode) {
	case IO_CMD_PREAD:
	case IO_CMD_PWRITE:
	case IO_CMD_PREADV:
	case IO_CMD_PWRITEV:
		result = join_epoch(batch, slot, tick_ns);
		break;
	case IO_CMD_FSYNC:
	case IO_CMD_FDSYNC:
		gather_sync(batch, slot);
		break;
	default:
		/*
		 * POLL is not waited for by an fsync; an unknown opcode is the kernel's to refuse.
		 */
		break;
	}
	if (ta_unlikely(result < 0)) {
		ta_slot_free(context, slot);
		return result;
	}
	/*
	 * As the kernel does.  The slot keeps the old value until the kernel accepts it, for
	 * elements that are given back.
	 */
	store_key(iocb, 0);
	batch->slots[batch->count++] = slot;
	return 0;
}

static void gather(struct batch *batch, long nr)
{
	struct iocb **iocbs = batch->iocbs;
	struct iocb *iocb;
	int64_t tick_ns = 0;
	long i;

	/* One question for the array where it is all there; element by element where it is not. */
	bool array_is_readable = ta_memory_probe(iocbs, (size_t)nr * sizeof(*iocbs), false);

	for (i = 0; i < nr && batch->error == 0; i++) {
		if (ta_unlikely(!array_is_readable &&
				!ta_memory_probe(&iocbs[i], sizeof(*iocbs), false))) {
			batch->error = -EFAULT;
			return;
		}
		memcpy(&iocb, (const char *)iocbs + (size_t)i * sizeof(iocb), sizeof(iocb));
		batch->error = gather_one(batch, iocb, &tick_ns);
	}
}

/* ---- settle ---------------------------------------------------------------------------------- */

/*
 * Elements from `from` on were not accepted: as if they had never been.  The context's lock is
 * held.
 */
static void give_back(struct batch *batch, long from, struct ta_work *work)
{
	struct ta_context *context = batch->context;
	long i;

	for (i = from; i < batch->count; i++) {
		struct ta_slot *slot = batch->slots[i];

		if (!slot)
			continue;
		if (slot->iocb.key != 0 && !(i == from && slot->flags & TA_SLOT_KEY_CLEARED))
			store_key(slot->object, slot->iocb.key);
		if (slot->flags & TA_SLOT_TRIAL)
			context->trials--;
		if (slot->epoch)
			ta_epoch_leave(context, slot->epoch, work);
		ta_slot_free(context, slot);
	}
	batch->count = from;
	/* A destroyer may sleep for these slots. */
	if (context->dying)
		ta_driver_wake(context, work);
}

/* Takes the batch's own out of the trials that have ended, whoever drained them. */
static void collect_tried(struct batch *batch, struct ta_work *work)
{
	struct ta_slot **link = &batch->context->tried;
	struct ta_slot **end = &work->tried;

	while (*link) {
		struct ta_slot *slot = *link;

		if (slot->submitter != batch) {
			link = &slot->next;
			continue;
		}
		*link = slot->next;
		/* Newest first, as they came: ta_work_finish turns the list round. */
		slot->next = *end;
		*end = slot;
		end = &slot->next;
	}
}

/*
 * A trial that has not ended inside the system call (its file is not what it was taken for) is
 * followed by whoever drains it.
 */
static void disown_trials(struct batch *batch, long accepted)
{
	long i;

	for (i = 0; i < accepted; i++) {
		struct ta_slot *slot = batch->slots[i];

		/*
		 * A slot in new hands has another submitter: the address of a batch is its own
		 * while its io_submit runs.
		 */
		if (slot && slot->submitter == batch)
			slot->submitter = NULL;
	}
}

/*
 * The cache may have missed: the trials of this batch have ended inside the system call, so their
 * events are there.
 */
static void settle_trials(struct batch *batch, long accepted)
{
	struct ta_context *context = batch->context;
	struct ta_work work = { 0 };

	ta_lock(&context->lock);
	/* A destroyer must find the wake-up it has posted; it follows what is left here. */
	if (!context->dying) {
		ta_drain(context, &work);
		ta_wake_satisfied(context, &work);
	}
	collect_tried(batch, &work);
	disown_trials(batch, accepted);
	ta_assist_want(context, &work);
	ta_unlock(&context->lock);
	ta_work_finish(context, &work);
}

static void settle_refused(struct batch *batch, long from)
{
	struct ta_work work = { 0 };

	ta_lock(&batch->context->lock);
	/* What follows must not meet the context's successor in the same ring. */
	batch->context->inside++;
	give_back(batch, from, &work);
	ta_unlock(&batch->context->lock);
	ta_work_finish(batch->context, &work);
	ta_lock(&batch->context->lock);
	ta_context_leave(batch->context);
	ta_unlock(&batch->context->lock);
}

/*
 * Hands slots to the kernel.  A trial that is refused because its file cannot say "would block"
 * after all (the number was reused) goes on without.  Returns how many were accepted, or the first
 * one's error if none was.
 */
static long submit_to_kernel(struct ta_context *context, struct ta_slot **slots, long count)
{
	long accepted = 0;

	while (accepted < count) {
		/* A slot begins with its iocb. */
		long result = ta_kaio_submit(context->kernel_handle, count - accepted,
					     (struct iocb **)(void *)(slots + accepted));
		struct ta_slot *slot;

		if (result > 0)
			accepted += result;
		if (ta_likely(accepted == count))
			break;
		slot = slots[accepted];
		if (!(slot->flags & TA_SLOT_TRIAL))
			return accepted ? accepted : result;
		ta_lock(&context->lock);
		context->trials--;
		slot->iocb.aio_rw_flags &= ~(unsigned)RWF_NOWAIT;
		if (slot->flags & TA_SLOT_SIGNAL)
			slot->iocb.u.c.flags |= IOCB_FLAG_RESFD;
		slot->flags = 0;
		ta_unlock(&context->lock);
	}
	return accepted;
}

/* ---- batches that are not the kernel's alone ------------------------------------------------- */

struct mixed {
	struct batch *batch;
	long kernel_count;
	struct ta_slot *kernel[BATCH_MAX];
	uint16_t position[BATCH_MAX]; /* in the batch, of each that goes to the kernel */
	struct ta_operation *operations; /* ours, in order */
	struct ta_operation **operations_end;
};

static bool is_sync(const struct iocb *iocb)
{
	return iocb->aio_lio_opcode == IO_CMD_FSYNC || iocb->aio_lio_opcode == IO_CMD_FDSYNC;
}

/*
 * Checks and captures one element of ours.  It may turn out to be the kernel's: then *operation is
 * NULL.
 */
static int prepare_one(struct batch *batch, struct ta_slot *slot, struct ta_operation **operation)
{
	*operation = NULL;
	if (slot->state != TA_SLOT_SUBMITTING)
		return 0;
	if (is_sync(&slot->iocb))
		return ta_sync_prepare(batch->context, slot, operation);
	return ta_operation_prepare(batch->context, slot, operation);
}

/* Under the lock, because a destroyer looks at what its slots are. */
static void hand_to_kernel(struct ta_context *context, struct ta_slot *slot)
{
	ta_lock(&context->lock);
	slot->state = TA_SLOT_KERNEL;
	ta_unlock(&context->lock);
}

/*
 * Returns the number of elements that may go on; batch->error says why it is fewer than there were.
 */
static long prepare(struct mixed *mixed)
{
	struct batch *batch = mixed->batch;
	long i;

	mixed->operations_end = &mixed->operations;
	for (i = 0; i < batch->count; i++) {
		struct ta_slot *slot = batch->slots[i];
		struct ta_operation *operation;
		int result;

		if (!slot)
			continue;
		result = prepare_one(batch, slot, &operation);
		if (result < 0) {
			batch->error = result;
			break;
		}
		if (operation) {
			operation->position = (uint16_t)i;
			*mixed->operations_end = operation;
			mixed->operations_end = &operation->next;
			continue;
		}
		if (slot->state != TA_SLOT_KERNEL)
			hand_to_kernel(batch->context, slot);
		mixed->position[mixed->kernel_count] = (uint16_t)i;
		mixed->kernel[mixed->kernel_count++] = slot;
	}
	return i;
}

/* Starts what was accepted of ours, in order, and drops the rest. */
static void start_operations(struct mixed *mixed, long accepted)
{
	struct ta_operation *operation, *next;

	for (operation = mixed->operations; operation; operation = next) {
		bool is_accepted = operation->position < accepted;

		next = operation->next;
		operation->next = NULL;
		if (operation->sync) {
			if (is_accepted)
				ta_sync_accepted(operation);
			else
				ta_sync_refused(operation);
		} else if (is_accepted) {
			ta_operation_start(operation);
		} else {
			ta_operation_discard(operation);
		}
	}
}

static TA_COLD long submit_mixed(struct batch *batch)
{
	struct mixed mixed = { .batch = batch };
	long end = prepare(&mixed);
	long result = mixed.kernel_count;
	long accepted = end;

	if (mixed.kernel_count > 0) {
		result = submit_to_kernel(batch->context, mixed.kernel, mixed.kernel_count);
		if (result < mixed.kernel_count) {
			accepted = mixed.position[result > 0 ? result : 0];
			batch->error = result < 0 ? (int)result : 0;
		}
	}
	start_operations(&mixed, accepted);
	if (accepted < batch->count)
		settle_refused(batch, accepted);
	return accepted;
}

/* ---- io_submit ------------------------------------------------------------------------------- */

/* A batch that the kernel does not take whole, or that holds more than it can do alone. */
static TA_COLD long submit_slowly(struct batch *batch)
{
	bool trials = batch->trials;
	long accepted;

	if (batch->mixed) {
		accepted = submit_mixed(batch);
	} else {
		long result = submit_to_kernel(batch->context, batch->slots, batch->count);

		accepted = result > 0 ? result : 0;
		if (accepted < batch->count) {
			batch->error = result < 0 ? (int)result : 0;
			settle_refused(batch, accepted);
		}
	}
	if (trials && accepted > 0)
		settle_trials(batch, accepted);
	return accepted;
}

/*
 * Up to BATCH_MAX elements.  Returns how many were accepted; batch->error says why not all, if it
 * is known.
 */
static long submit_batch(struct batch *batch, long nr)
{
	long result;

	gather(batch, nr);
	if (ta_unlikely(ta_driver_must_look(batch->context))) {
		struct ta_work work = { .wake_driver = true };

		batch->context->inside++;
		ta_unlock(&batch->context->lock);
		ta_work_finish(batch->context, &work);
		ta_lock(&batch->context->lock);
		ta_context_leave(batch->context);
	}
	if (ta_unlikely(batch->mixed || batch->trials)) {
		/*
		 * Its requests may all end, and the context be destroyed, before this thread is
		 * through.
		 */
		batch->context->inside++;
		ta_unlock(&batch->context->lock);
		result = submit_slowly(batch);
		ta_lock(&batch->context->lock);
		ta_context_leave(batch->context);
		ta_unlock(&batch->context->lock);
		return result;
	}
	ta_unlock(&batch->context->lock);
	if (batch->count == 0)
		return 0;
	result = ta_kaio_submit(batch->context->kernel_handle, batch->count,
				(struct iocb **)(void *)batch->slots);
	if (ta_likely(result == batch->count))
		return result;
	batch->error = result < 0 ? (int)result : 0;
	settle_refused(batch, result > 0 ? result : 0);
	return result > 0 ? result : 0;
}

/* io_submit(3): the number accepted, or the first element's error. */
int ta_submit(struct ta_process *process, io_context_t handle, long nr, struct iocb **iocbs)
{
	struct batch batch;
	long total = 0;

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
		if (nr > (long)context->ring->event_count)
			nr = (long)context->ring->event_count;
		step = nr - total < BATCH_MAX ? nr - total : BATCH_MAX;
		batch.process = process;
		batch.context = context;
		batch.iocbs = iocbs + total;
		batch.count = 0;
		batch.number = ++context->batches;
		batch.mixed = false;
		batch.trials = false;
		batch.error = 0;
		accepted = submit_batch(&batch, step);
		total += accepted;
		if (accepted < step)
			return total > 0 ? (int)total : batch.error;
	} while (total < nr);
	return (int)total;
}

/* ---- completion ------------------------------------------------------------------------------ */

/*
 * The one upward call of the workers: an operation has ended, its file is released.  Makes the
 * event visible, then signals the program's eventfd.
 */
void ta_complete(struct ta_operation *operation, long result)
{
	struct ta_context *context = operation->context;
	struct ta_slot *slot = operation->slot;
	bool signals = operation->resfd >= 0;
	struct ta_work work = { 0 };

	ta_lock(&context->lock);
	slot->operation = NULL;
	context->operations--;
	if (slot->epoch)
		ta_epoch_leave(context, slot->epoch, &work);
	ta_ready_push(context, slot, result);
	ta_wake_satisfied(context, &work);
	/* Until all is told: io_destroy returns only when the program's eventfd is signalled. */
	context->inside++;
	ta_unlock(&context->lock);
	if (operation->stream)
		ta_operation_leave_stream(operation);
	ta_work_finish(context, &work);
	if (operation->eventfd) {
		ta_threads_signal(operation);
		return;
	}
	if (signals && ta_thread.is_foreign && !operation->has_proxy) {
		ta_message_signal(operation);
		return;
	}
	if (signals)
		ta_proxy_fire(operation);
	ta_complete_end(operation);
}

/* The operation's event is visible and its eventfd signalled. */
void ta_complete_end(struct ta_operation *operation)
{
	struct ta_context *context = operation->context;

	ta_hold_release(operation->eventfd);
	operation->eventfd = NULL;
	ta_operation_free(operation);
	ta_lock(&context->lock);
	ta_context_leave(context);
	ta_unlock(&context->lock);
}

/*
 * A trial that ended in the kernel: true if its slot can have its event at once.  Otherwise what is
 * left to do looks at the descriptor, the eventfd and the vector, which are the program's again as
 * soon as io_submit returns: so it is left to the submitter while that is inside, whoever has come
 * across the event.  The context's lock is held.
 */
bool ta_trial_ended(struct ta_context *context, struct ta_slot *slot, long result,
		    struct ta_work *work)
{
	struct ta_slot **list = slot->submitter ? &context->tried : &work->tried;

	slot->iocb.aio_rw_flags &= ~(unsigned)RWF_NOWAIT;
	slot->flags &= (uint8_t)~TA_SLOT_TRIAL;
	if (!(slot->flags & TA_SLOT_SIGNAL) && result != -EAGAIN &&
	    (result < 0 || result >= slot->asked)) {
		slot->epoch->descriptor->trial_backoff = 0;
		return true;
	}
	slot->state = TA_SLOT_TRIED;
	slot->result = result;
	slot->next = *list;
	*list = slot;
	return false;
}

/* Gives a tried slot its event, and the program's eventfd its signal. */
static void finish_trial(struct ta_context *context, struct ta_slot *slot, long result)
{
	bool signal = slot->flags & TA_SLOT_SIGNAL;
	int eventfd = (int)slot->iocb.u.c.resfd;
	struct ta_work work = { 0 };

	ta_lock(&context->lock);
	ta_epoch_leave(context, slot->epoch, &work);
	ta_ready_push(context, slot, result);
	ta_wake_satisfied(context, &work);
	context->inside++;
	ta_unlock(&context->lock);
	if (signal)
		ta_eventfd_signal(context, eventfd);
	ta_work_finish(context, &work);
	ta_lock(&context->lock);
	ta_context_leave(context);
	ta_unlock(&context->lock);
}

/* The next reads of the descriptor skip the trial, more of them each time. */
static void note_miss(struct ta_context *context, struct ta_slot *slot)
{
	struct ta_descriptor *descriptor;

	ta_lock(&context->lock);
	descriptor = slot->epoch->descriptor;
	descriptor->trial_backoff = (uint8_t)(descriptor->trial_backoff * 2 + TRIAL_BACKOFF_FIRST);
	if (descriptor->trial_backoff > TRIAL_BACKOFF_MAX)
		descriptor->trial_backoff = TRIAL_BACKOFF_MAX;
	descriptor->trial_pause = descriptor->trial_backoff;
	ta_unlock(&context->lock);
}

/* Has the trial done all that there is to do?  A short count is no miss where the file ends. */
static bool trial_was_a_hit(const struct ta_slot *slot)
{
	if (slot->result == -EAGAIN)
		return false;
	if (slot->result < 0 || slot->result >= slot->asked)
		return true;
	return ta_file_ends_at(slot->iocb.aio_fildes, slot->iocb.u.c.offset + slot->result,
			       slot->result);
}

/*
 * The cache could not serve all of a read.  Its rest goes to the workers; what was read already
 * counts.  Where no operation is to be had, the read ends with what there is, or the kernel does it
 * as it always did.
 */
static void follow_miss(struct ta_context *context, struct ta_slot *slot)
{
	struct iocb *list = &slot->iocb;
	struct ta_operation *operation;
	int error;

	note_miss(context, slot);
	if (slot->flags & TA_SLOT_SIGNAL)
		slot->iocb.u.c.flags |= IOCB_FLAG_RESFD;
	error = ta_operation_prepare(context, slot, &operation);
	if (error == 0 && operation) {
		operation->transferred = slot->result > 0 ? (size_t)slot->result : 0;
		ta_operation_start(operation);
		return;
	}
	if (slot->result < 0 && error != -EBADF) {
		uint8_t flags = slot->flags;

		slot->flags = 0;
		hand_to_kernel(context, slot);
		if (ta_kaio_submit(context->kernel_handle, 1, &list) == 1)
			return;
		slot->flags = flags;
	}
	finish_trial(context, slot, slot->result >= 0 ? slot->result : error ? error : -EAGAIN);
}

static struct ta_slot *in_order(struct ta_slot *newest_first)
{
	struct ta_slot *oldest_first = NULL;

	while (newest_first) {
		struct ta_slot *slot = newest_first;

		newest_first = slot->next;
		slot->next = oldest_first;
		oldest_first = slot;
	}
	return oldest_first;
}

/*
 * Does what a step under the context's lock has left to do.  The context may be destroyed by the
 * time this returns.
 */
void ta_work_finish(struct ta_context *context, struct ta_work *work)
{
	struct ta_slot *slot;

	if (ta_likely(!work->tried && !work->issue && !work->wake_driver && !work->want_assistant))
		return;
	if (work->wake_driver && ta_kaio_post(context->kernel_handle, -1) < 0) {
		/*
		 * No place in the ring: the driver looks for itself before long (see
		 * ta_driver_must_look).
		 */
		ta_lock(&context->lock);
		context->wake_posted = false;
		ta_unlock(&context->lock);
	}
	if (work->want_assistant)
		ta_assist_start();
	if (work->issue)
		ta_syncs_issue(work->issue);
	for (slot = in_order(work->tried); slot;) {
		struct ta_slot *next = slot->next;

		if (trial_was_a_hit(slot))
			finish_trial(context, slot, slot->result);
		else
			follow_miss(context, slot);
		slot = next;
	}
}

/* ---- cancellation ---------------------------------------------------------------------------- */

/* The oldest request of the iocb that is in flight, younger than the one of this sequence. */
static struct ta_slot *oldest_request(struct ta_context *context, const struct iocb *object,
				      uint64_t after)
{
	struct ta_slot *oldest = NULL;
	uint32_t i;

	for (i = 0; i < context->touched_slots; i++) {
		struct ta_slot *slot = &context->slots[i];

		if (slot->state == TA_SLOT_FREE || slot->state == TA_SLOT_READY ||
		    slot->object != object || slot->sequence <= after ||
		    slot->flags & TA_SLOT_CANCELLED)
			continue;
		if (!oldest || slot->sequence < oldest->sequence)
			oldest = slot;
	}
	return oldest;
}

static int cancel_in_kernel(unsigned long handle, struct ta_slot *slot)
{
	struct io_event unused_event;
	int result;

	result = ta_kaio_cancel(handle, &slot->iocb, &unused_event);
	return result == -EINPROGRESS ? -EINPROGRESS : -EAGAIN;
}

/*
 * The program may have used one iocb for several requests: the oldest is meant.  One that is past
 * cancelling is in the way of other transfers, but of no POLL, for which alone the kernel looks.
 */
static int cancel_oldest(struct ta_context *context, const struct iocb *iocb, struct ta_work *work)
{
	int result = -EINVAL;
	struct ta_slot *slot;
	uint64_t after = 0;

	ta_drain(context, work);
	ta_wake_satisfied(context, work);
	while ((slot = oldest_request(context, iocb, after)) != NULL) {
		if (after && slot->iocb.aio_lio_opcode != IO_CMD_POLL) {
			after = slot->sequence;
			continue;
		}
		after = slot->sequence;
		result = -EAGAIN;
		if (slot->state == TA_SLOT_KERNEL)
			result = cancel_in_kernel(context->kernel_handle, slot);
		else if (slot->state == TA_SLOT_OPERATION)
			result = ta_operation_cancel(slot->operation, work);
		if (result != -EINPROGRESS)
			continue;
		slot->flags |= TA_SLOT_CANCELLED;
		break;
	}
	return result;
}

/*
 * io_cancel(3): -EINPROGRESS if its event will say -ECANCELED, -EAGAIN if it is past cancelling,
 * -EINVAL if nothing is known of it.
 */
int ta_cancel(struct ta_process *process, io_context_t handle, struct iocb *iocb)
{
	struct ta_context *context;
	struct ta_work work = { 0 };
	int result;

	if (!ta_memory_probe(iocb, sizeof(*iocb), false))
		return -EFAULT;
	context = ta_context_lock(process, handle);
	if (!context)
		return -EINVAL;
	if (context->mode == TA_CONTEXT_PASSTHROUGH) {
		result = ta_passthrough_cancel(context, iocb);
		ta_unlock(&context->lock);
		return result;
	}
	result = cancel_oldest(context, iocb, &work);
	context->inside++;
	ta_unlock(&context->lock);
	ta_work_finish(context, &work);
	ta_lock(&context->lock);
	ta_context_leave(context);
	ta_unlock(&context->lock);
	return result;
}
