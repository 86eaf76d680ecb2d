/* SPDX-License-Identifier: MIT */
/*
 * Submission in mediated and offloaded contexts.
 *
 * io_submit goes in steps.  *Gather*, under the context's lock: copy each iocb into a slot, decide
 * who does it, let it join its descriptor's epoch.  A batch that is the kernel's alone ends with
 * one io_submit system call: its budget is one lock and unlock, and no system call but that one and
 * one look at each descriptor.  Any other is carried out in order, element by element: runs of
 * elements for the kernel by one system call each, buffered reads at once where the page cache has
 * them, the rest by operations of ours, with signals blocked from there on.  So an element is begun
 * only when all before it have been accepted, and an error ends the batch where the kernel would.
 * An fsync is a step by itself: what it finds in flight is all that was submitted before it, and
 * nothing that comes later.
 *
 * A slot belongs to the submitting thread until the system call; from then on the kernel, or
 * who drains its event, has it.  A batch that was accepted whole is not touched again, since
 * its slots may be in new hands by the time the system call returns.
 */
#include "internal.h"

#include "work.h"

#include <fcntl.h>
#include <stddef.h>

#ifndef RWF_NOWAIT
#define RWF_NOWAIT 0x00000008
#endif

/*
 * Elements handled at a time: what their pointers take on the caller's stack (2 KiB) bounds it.
 * Larger batches go in several steps.
 */
#define BATCH_MAX 256
/* HIPRI, DSYNC, SYNC, APPEND: of aio_rw_flags, those that leave the way of a request to us. */
#define ROUTABLE_FLAGS 0x17u
/* Of a stream, all that there are: whatever a request asks for, it must stand in line. */
#define STREAM_FLAGS 0x1ffu
/*
 * Reads outstanding at which the block layer may make even a read with RWF_NOWAIT wait for a free
 * tag.
 */
#define TRIES_UNTIL 128

struct batch {
	struct ta_process *process;
	struct ta_context *context;
	uint32_t generation; /* of the context */
	unsigned long kernel_handle;
	struct iocb **iocbs;
	long count; /* elements gathered */
	long turn; /* the element that is looked at, when each is looked at in turn */
	bool mixed; /* not the kernel's alone */
	long at_once; /* of the elements, reads to be tried without waiting */
	bool is_cut; /* before an fsync: there is more */
	int error; /* why gathering ended early */
	bool is_reading; /* at once, counted in context->reading */
	bool is_blocked; /* signals are, and the context is kept */
	struct ta_signals signals; /* those that were blocked before */
	int checked_number; /* the descriptor that was last seen to be what it was */
	int64_t tick_ns;
	struct ta_work work; /* of a look at what is in flight */
	struct ta_slot *slots[BATCH_MAX]; /* NULL: a NOOP */
};

/* ---- what descriptors are -------------------------------------------------------------------- */

/*
 * Known for one tick of the kernel's clock, by number, in one word: the upper half of the number,
 * the tick, the class, and whether O_DIRECT made it TA_FILE_KERNEL.  A hint: numbers are closed and
 * reused, and threads may have tables of their own.
 */
#define CLASS_BITS 3
#define CLASS_DIRECT (1u << CLASS_BITS)
#define TICK_SHIFT (CLASS_BITS + 1)
#define TICK_BITS 28
#define NUMBER_SHIFT (TICK_SHIFT + TICK_BITS)
#define TICK_NS 4000000

static uint64_t class_key(int number, int64_t tick_ns)
{
	uint64_t tick = (uint64_t)(tick_ns / TICK_NS) & ((1u << TICK_BITS) - 1);

	/* Plus one: an empty entry is nobody's. */
	return (uint64_t)(number / TA_KNOWN_CLASSES + 1) << NUMBER_SHIFT | tick << TICK_SHIFT;
}

static _Atomic uint64_t *class_entry(struct batch *batch, int number)
{
	return &batch->process->known_classes[(unsigned)number % TA_KNOWN_CLASSES];
}

static void remember_class(struct batch *batch, int number, enum ta_file_class file_class,
			   bool is_direct)
{
	uint64_t value = class_key(number, batch->tick_ns) | (is_direct ? CLASS_DIRECT : 0) |
			 (unsigned)file_class;

	/* relaxed: the word is the whole message. */
	atomic_store_explicit(class_entry(batch, number), value, memory_order_relaxed);
}

static TA_COLD enum ta_file_class learn_class(struct batch *batch, int number, bool *is_direct)
{
	enum ta_file_class file_class = ta_file_classify(number, is_direct);

	remember_class(batch, number, file_class, *is_direct);
	return file_class;
}

static inline enum ta_file_class class_of(struct batch *batch, int number, bool *is_direct)
{
	uint64_t known = atomic_load_explicit(class_entry(batch, number), memory_order_relaxed);

	if (batch->tick_ns == 0)
		batch->tick_ns = ta_tick_ns();
	if (ta_unlikely(known >> TICK_SHIFT != class_key(number, batch->tick_ns) >> TICK_SHIFT))
		return learn_class(batch, number, is_direct);
	*is_direct = known & CLASS_DIRECT;
	return (enum ta_file_class)(known & (CLASS_DIRECT - 1));
}

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

/*
 * Reads and writes of descriptors for which the kernel's own way is not the whole answer.  Decides
 * where the request goes.
 */
static TA_COLD void route_transfer(struct batch *batch, struct ta_slot *slot,
				   enum ta_file_class file_class)
{
	/*
	 * A program that asks for RWF_NOWAIT wants the kernel's answer; so does one with flags we
	 * do not know.
	 */
	unsigned routable = file_class == TA_FILE_STREAM ? STREAM_FLAGS : ROUTABLE_FLAGS;
	bool reads = is_read(&slot->iocb);

	if (slot->iocb.aio_rw_flags & ~routable)
		return;
	switch (file_class) {
	case TA_FILE_DEVICE:
	case TA_FILE_BUFFERED:
		if (!reads)
			return;
		if (file_class == TA_FILE_DEVICE ||
		    atomic_load_explicit(&batch->process->reads_offloaded, memory_order_relaxed) <
			    TRIES_UNTIL)
			slot->flags |= TA_SLOT_AT_ONCE;
		break;
	case TA_FILE_SLOW:
		if (!reads)
			return;
		break;
	case TA_FILE_STREAM:
		break;
	default:
		return;
	}
	slot->state = TA_SLOT_SUBMITTING;
	batch->mixed = true;
}

/*
 * Joins the open epoch of the slot's descriptor and learns what the descriptor is.  0 or -EAGAIN.
 */
static inline int join_epoch(struct batch *batch, struct ta_slot *slot)
{
	struct ta_context *context = batch->context;
	int number = slot->iocb.aio_fildes;
	enum ta_file_class file_class;
	bool is_direct = false;

	file_class = ta_unlikely(context->mode == TA_CONTEXT_OFFLOADED)
			     ? TA_FILE_KERNEL
			     : class_of(batch, number, &is_direct);
	if (ta_unlikely(file_class != TA_FILE_KERNEL))
		route_transfer(batch, slot, file_class);
	/* One that is over inside io_submit is in flight for nobody. */
	if (!(slot->flags & TA_SLOT_AT_ONCE) && !(slot->epoch = ta_epoch_join(context, number)))
		return -EAGAIN;
	if (slot->state == TA_SLOT_KERNEL && batch->checked_number != number) {
		batch->checked_number = number;
		if (ta_unlikely(ta_file_may_have_changed(number, is_read(&slot->iocb), is_direct)))
			route_transfer(batch, slot, learn_class(batch, number, &is_direct));
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

/* An fsync with nothing in flight anywhere is the kernel's without a further look. */
static int join_sync(struct batch *batch, struct ta_slot *slot)
{
	struct ta_context *context = batch->context;

	if (context->mode == TA_CONTEXT_MEDIATED && ta_sync_is_clear(context, &batch->work) &&
	    !ta_work_is_any(&batch->work)) {
		slot->epoch = ta_epoch_join(context, slot->iocb.aio_fildes);
		return slot->epoch ? 0 : -EAGAIN;
	}
	slot->state = TA_SLOT_SUBMITTING;
	batch->mixed = true;
	return 0;
}

/* By opcode: 0 or -EAGAIN. */
static inline int join(struct batch *batch, struct ta_slot *slot)
{
	switch (slot->iocb.aio_lio_opcode) {
	case IO_CMD_PREAD:
	case IO_CMD_PWRITE:
	case IO_CMD_PREADV:
	case IO_CMD_PWRITEV:
		return join_epoch(batch, slot);
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
static inline int gather_one(struct batch *batch, struct iocb *iocb)
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
	store_key(iocb, 0);
	batch->slots[batch->count++] = slot;
	batch->at_once += (slot->flags & TA_SLOT_AT_ONCE) != 0;
	/* What an fsync finds in flight must not be what stands behind it. */
	batch->is_cut = batch->mixed && ta_iocb_is_sync(&slot->iocb);
	return 0;
}

static void gather(struct batch *batch, long nr)
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
		if (slot->epoch)
			ta_epoch_leave(context, slot->epoch, work);
		if (ta_unlikely(context->index != NULL))
			ta_index_remove(context, slot);
		ta_slot_free(context, slot);
	}
}

static TA_COLD void settle_refused(struct batch *batch, long from)
{
	struct ta_context *context = batch->context;
	struct ta_work work = { 0 };
	struct ta_signals before;

	ta_signals_block(&before);
	ta_lock(&context->lock);
	/*
	 * The context may be destroyed by now, or this is a child that a handler has forked: then
	 * nothing is left.
	 */
	if (context->generation == batch->generation)
		give_back(batch, from, &work);
	ta_unlock(&context->lock);
	ta_work_finish(context, &work);
	ta_signals_set(&before, NULL);
}

/* ---- reads at once --------------------------------------------------------------------------- */

enum verdict { VERDICT_DONE, VERDICT_KERNEL, VERDICT_WORK };

/* The lock is held. */
static inline void leave_reads(struct batch *batch)
{
	if (batch->is_reading)
		ta_context_leave_reads(batch->context, batch->generation);
	batch->is_reading = false;
}

/*
 * A slot of which no more is to be done.  Its eventfd still means what it did in the call.  0, or
 * -EINVAL.
 */
static int finish_at_once(struct batch *batch, struct ta_slot *slot, long result)
{
	struct ta_context *context = batch->context;
	bool signals = slot->iocb.u.c.flags & IOCB_FLAG_RESFD;
	int eventfd = (int)slot->iocb.u.c.resfd;
	struct ta_work work = { 0 };
	struct ta_signals before;

	ta_lock(&context->lock);
	if (batch->turn == batch->count - 1)
		leave_reads(batch);
	if (context->generation != batch->generation) {
		ta_unlock(&context->lock);
		return -EINVAL;
	}
	ta_end(context, slot, result, &work);
	if (ta_likely(!ta_work_is_any(&work))) {
		ta_unlock(&context->lock);
		if (signals)
			ta_eventfd_signal(eventfd);
		return 0;
	}
	ta_signals_block(&before);
	ta_unlock(&context->lock);
	if (signals)
		ta_eventfd_signal(eventfd);
	ta_work_finish(context, &work);
	ta_signals_set(&before, NULL);
	return 0;
}

/*
 * A read without waiting, whose answer is good if it is all that was asked for, or ends where the
 * file does.  *done is what has been read, for the workers to go on from.  What is an error goes to
 * the kernel, which refuses it in its own words.
 */
static enum verdict read_at_once(struct batch *batch, struct ta_slot *slot, long *done)
{
	const struct iocb *iocb = &slot->iocb;
	struct iovec one = { iocb->u.c.buf, iocb->u.c.nbytes };
	bool is_vector = iocb->aio_lio_opcode == IO_CMD_PREADV;
	long asked = bytes_asked(iocb), result;

	*done = 0;
	if (asked <= 0 || iocb->u.c.offset < 0 || ta_iocb_is_malformed(iocb))
		return VERDICT_KERNEL;
	if (iocb->u.c.flags & (IOCB_FLAG_RESFD | IOCB_FLAG_IOPRIO) &&
	    ta_kaio_check(batch->kernel_handle, iocb) < 0)
		return VERDICT_KERNEL;
	result = ta_file_transfer(false, iocb->aio_fildes, is_vector ? iocb->u.v.vec : &one,
				  is_vector ? (unsigned)iocb->u.v.nr : 1, iocb->u.c.offset,
				  (int)iocb->aio_rw_flags | RWF_NOWAIT);
	if (result == -EOPNOTSUPP) {
		enum ta_file_class file_class = ta_file_classify_slow(iocb->aio_fildes);

		remember_class(batch, iocb->aio_fildes, file_class, false);
		return file_class == TA_FILE_SLOW ? VERDICT_WORK : VERDICT_KERNEL;
	}
	/*
	 * The number has become a pipe, socket or terminal just now, in which the kernel would
	 * wait.
	 */
	if (result == -ESPIPE)
		return VERDICT_WORK;
	if (result < 0)
		return result == -EAGAIN ? VERDICT_WORK : VERDICT_KERNEL;
	*done = result;
	return result >= asked ||
			       ta_file_ends_at(iocb->aio_fildes, iocb->u.c.offset + result, result)
		       ? VERDICT_DONE
		       : VERDICT_WORK;
}

/* ---- batches that are not the kernel's alone ------------------------------------------------- */

/*
 * From here on signals are blocked, and a destroyer waits for this thread.  0, or -EINVAL: the
 * context is destroyed already.  The lock is held.
 */
static int begin_locked(struct batch *batch)
{
	struct ta_context *context = batch->context;

	if (batch->is_blocked)
		return 0;
	leave_reads(batch);
	if (context->generation != batch->generation)
		return -EINVAL;
	ta_signals_block(&batch->signals);
	context->inside++;
	batch->is_blocked = true;
	return 0;
}

static int begin_in_earnest(struct batch *batch)
{
	int result;

	ta_lock(&batch->context->lock);
	result = begin_locked(batch);
	ta_unlock(&batch->context->lock);
	return result;
}

static void end_earnest(struct batch *batch)
{
	if (!batch->is_blocked)
		return;
	ta_complete_end(batch->context);
	ta_signals_set(&batch->signals, NULL);
}

/* Under the lock, because others look at what slots are.  0, -EAGAIN or -EINVAL. */
static int hand_on(struct batch *batch, struct ta_slot *slot, uint8_t state)
{
	struct ta_context *context = batch->context;
	int result = 0;

	ta_lock(&context->lock);
	if (context->generation != batch->generation)
		result = -EINVAL;
	else if (slot->flags & TA_SLOT_AT_ONCE && !slot->epoch &&
		 !(slot->epoch = ta_epoch_join(context, slot->iocb.aio_fildes)))
		result = -EAGAIN;
	else
		slot->state = state;
	ta_unlock(&context->lock);
	return result;
}

/* The turn of an operation.  0 with *is_ours false: it is the kernel's after all. */
static int carry_out(struct batch *batch, struct ta_slot *slot, long done, bool *is_ours)
{
	struct ta_operation *operation;
	int result = begin_in_earnest(batch);

	if (result == 0)
		result = hand_on(batch, slot, TA_SLOT_SUBMITTING);
	if (result == 0)
		result = ta_operation_prepare(batch->context, slot,
					      (uint32_t)(batch->count - batch->turn), &operation);
	if (result < 0)
		return result;
	*is_ours = operation != NULL;
	if (!operation)
		return 0;
	operation->transferred = (size_t)done;
	ta_operation_start(operation);
	return 0;
}

static int carry_out_sync(struct batch *batch, struct ta_slot *slot, bool *is_ours)
{
	enum ta_sync_way way;
	long done;
	int result;

	ta_assert(batch->is_blocked);
	result = ta_sync_prepare(batch->context, slot, &way, &done);
	if (result < 0)
		return result;
	*is_ours = way != TA_SYNC_KERNEL;
	return way == TA_SYNC_DONE ? finish_at_once(batch, slot, done) : 0;
}

/* 0 with *is_ours false: it joins the next run for the kernel.  Or why the batch ends before it. */
static int carry(struct batch *batch, struct ta_slot *slot, bool *is_ours)
{
	enum verdict verdict = VERDICT_WORK;
	long done = 0;

	*is_ours = true;
	if (ta_iocb_is_sync(&slot->iocb))
		return carry_out_sync(batch, slot, is_ours);
	if (slot->flags & TA_SLOT_AT_ONCE)
		verdict = read_at_once(batch, slot, &done);
	switch (verdict) {
	case VERDICT_DONE:
		return finish_at_once(batch, slot, done);
	case VERDICT_WORK:
		return carry_out(batch, slot, done, is_ours);
	default:
		*is_ours = false;
		return 0;
	}
}

/*
 * Gives elements from *accepted to the one before end to the kernel.  False: it has not taken all.
 */
static bool submit_run(struct batch *batch, long *accepted, long end)
{
	long count = end - *accepted, result;

	if (count == 0)
		return true;
	/* A slot begins with its iocb. */
	result = ta_kaio_submit(batch->kernel_handle, count,
				(struct iocb **)(void *)(batch->slots + *accepted));
	if (result > 0)
		*accepted += result;
	else
		batch->error = (int)result;
	return result == count;
}

/* Returns how many were accepted. */
static long submit_in_order(struct batch *batch)
{
	long accepted = 0, i;

	for (i = 0; i < batch->count; i++) {
		struct ta_slot *slot = batch->slots[i];
		bool is_ours = true;

		batch->turn = i;
		if (slot && slot->state == TA_SLOT_KERNEL)
			continue;
		if (!submit_run(batch, &accepted, i))
			return accepted;
		if (slot) {
			int result = carry(batch, slot, &is_ours);

			if (result == 0 && !is_ours)
				result = hand_on(batch, slot, TA_SLOT_KERNEL);
			if (result < 0) {
				batch->error = result;
				return accepted;
			}
		}
		accepted += is_ours;
	}
	submit_run(batch, &accepted, batch->count);
	return accepted;
}

/*
 * The context's lock is held, and let go.  Only reads that are all tried at once go without signals
 * blocked, as long as they hit: a handler that finds them half-way finds nothing in flight.
 */
static TA_COLD long submit_mixed(struct batch *batch)
{
	struct ta_context *context = batch->context;
	long accepted;

	if (batch->at_once < batch->count || ta_work_is_any(&batch->work)) {
		(void)begin_locked(batch);
	} else {
		context->reading++;
		batch->is_reading = true;
	}
	ta_unlock(&context->lock);
	ta_work_finish(context, &batch->work);
	accepted = submit_in_order(batch);
	if (accepted < batch->count)
		settle_refused(batch, accepted);
	if (ta_unlikely(batch->is_reading)) {
		ta_lock(&context->lock);
		leave_reads(batch);
		ta_unlock(&context->lock);
	}
	end_earnest(batch);
	return accepted;
}

/* ---- io_submit ------------------------------------------------------------------------------- */

/*
 * Somebody sleeps until he is woken, and what wakes him may soon find no place in the ring.  The
 * lock is held.
 */
static TA_COLD void wake_while_there_is_room(struct ta_context *context)
{
	if (ta_sleep_limit_ns(context) == TA_NO_DEADLINE || context->wake_posted)
		return;
	context->wake_posted = ta_kaio_post(context->kernel_handle) == 0;
}

/*
 * Up to BATCH_MAX elements, or fewer, up to an fsync.  Returns how many were accepted; batch->error
 * says why not all, if it is known.  The context's lock is held, and let go.
 */
static long submit_batch(struct batch *batch, long nr)
{
	struct ta_context *context = batch->context;
	long result;

	gather(batch, nr);
	context->may_post |= batch->mixed;
	if (ta_unlikely(context->unlimited > 0))
		wake_while_there_is_room(context);
	if (ta_unlikely(batch->mixed))
		return submit_mixed(batch);
	ta_unlock(&context->lock);
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
		if (nr > (long)context->event_count)
			nr = (long)context->event_count;
		step = nr - total < BATCH_MAX ? nr - total : BATCH_MAX;
		batch.process = process;
		batch.context = context;
		batch.generation = context->generation;
		batch.kernel_handle = context->kernel_handle;
		batch.iocbs = iocbs + total;
		batch.count = 0;
		batch.mixed = false;
		batch.is_reading = false;
		batch.at_once = 0;
		batch.is_cut = false;
		batch.is_blocked = false;
		batch.work = (struct ta_work){ 0 };
		batch.error = 0;
		batch.checked_number = -1;
		batch.tick_ns = 0;
		accepted = submit_batch(&batch, step);
		total += accepted;
		if (accepted < step && !(batch.is_cut && accepted == batch.count))
			return total > 0 ? (int)total : batch.error;
	} while (total < nr);
	return (int)total;
}
