/* SPDX-License-Identifier: MIT */
/*
 * io_fsync as the manual promises it: the file is synchronized after every earlier request on it
 * has ended.
 *
 * Earlier is what any io_submit of this process accepted before, in whatever context and by
 * whatever descriptor of the same file.  An fsync comes to this file when all that stands before it
 * in its batch has been submitted.  It first looks, then decides: what is in flight is sealed in
 * epochs and filed by what the descriptors refer to, the rings concerned are drained (epoch.c), and
 * only what is still in flight then holds it.  If there is nothing the fsync goes to the kernel, as
 * ever.  Otherwise its file is captured, and it is issued to the workers when the barrier hands it
 * back; the follower sees to it that what it waits for is noticed, whatever callers do.
 *
 * A descriptor number that was closed and reused for another file while requests of the old one
 * were in flight is not recognized: the one documented limit.
 */
#include "internal.h"

#include "work.h"

#include <fcntl.h>

/*
 * Is nothing in flight anywhere that a new fsync of this context could have to wait for?  A quick
 * answer, under the context's lock, which leaves other contexts alone: false where it would have to
 * look into them.
 */
bool ta_sync_is_clear(struct ta_context *context, struct ta_work *work)
{
	struct ta_process *process = ta_process();
	const struct ta_context *busy;
	bool is_clear;

	/* Who drains while somebody sleeps may have to wake him, with signals blocked. */
	if (context->sleepers == 0)
		ta_drain(context, work);
	else if (ta_events_in_ring(context) > 0)
		return false;
	if (context->open_epochs &&
	    (context->open_epochs->next || context->open_epochs->in_flight > 0))
		return false;
	busy = atomic_load(&process->busy);
	if (busy && (busy != context || context->busy_next))
		return false;
	/*
	 * In this order: a look that has emptied the list is under way, or has filed what it found.
	 */
	if (atomic_load(&process->is_sealing))
		return false;
	ta_lock(&process->barrier_lock);
	is_clear = ta_barrier_is_empty(&process->barrier);
	ta_unlock(&process->barrier_lock);
	return is_clear;
}

/* Of what had been filed until then.  The rings concerned are drained. */
static bool is_in_flight(struct ta_process *process, const struct ta_file_identity *identity,
			 uint64_t filed)
{
	bool must_wait;

	ta_epochs_drain(process, identity);
	ta_lock(&process->barrier_lock);
	must_wait =
		ta_barrier_must_wait(&process->barrier, identity->device, identity->inode, filed);
	ta_unlock(&process->barrier_lock);
	return must_wait;
}

/*
 * Is something earlier in flight on the file of the descriptor?  Its identity is asked for only if
 * anything is in flight anywhere.
 */
bool ta_sync_must_wait(struct ta_process *process, int fd, struct ta_file_identity *identity)
{
	bool must_wait;

	ta_epochs_seal(process);
	ta_lock(&process->barrier_lock);
	must_wait = !ta_barrier_is_empty(&process->barrier);
	ta_unlock(&process->barrier_lock);
	if (!must_wait || ta_file_identify(fd, identity) < 0)
		return false;
	return is_in_flight(process, identity, UINT64_MAX);
}

/* Until what is in flight by now has ended. */
void ta_sync_wait_in_caller(struct ta_process *process, const struct ta_file_identity *identity)
{
	int64_t since_ns = ta_now_ns();
	_Atomic uint32_t nobody_wakes = 0;
	uint64_t filed;

	ta_lock(&process->barrier_lock);
	filed = process->barrier.filed;
	ta_unlock(&process->barrier_lock);
	while (is_in_flight(process, identity, filed))
		ta_futex_wait(&nobody_wakes, 0, ta_now_ns() + ta_look_interval_ns(since_ns));
}

/* ---- held fsyncs ----------------------------------------------------------------------------- */

/* barrier_lock is held.  0 or -ENOMEM. */
static int attach(struct ta_process *process, struct ta_sync *sync, struct ta_epoch *epoch)
{
	for (; epoch; epoch = epoch->next) {
		bool is_first = !epoch->waits;

		if (ta_barrier_attach(&process->barrier, sync, epoch) < 0)
			return -ENOMEM;
		if (is_first)
			atomic_fetch_add(&epoch->context->owed, 1);
		ta_follow(epoch->context);
	}
	return 0;
}

/*
 * Enters a sync into its file's queue behind all that is in flight there.  It is not issued before
 * it is armed.  0, or -EAGAIN when there is no memory.
 */
int ta_sync_enter(struct ta_operation *operation, const struct ta_file_identity *identity,
		  int group)
{
	struct ta_process *process = ta_process();
	struct ta_barrier *barrier = &process->barrier;
	struct ta_sync *sync, *due = NULL;
	int result = -ENOMEM;

	ta_lock(&process->barrier_lock);
	sync = ta_barrier_enter(barrier, identity->device, identity->inode, group,
				operation->opcode == IO_CMD_FDSYNC, operation);
	if (sync)
		result = attach(process, sync,
				ta_barrier_epochs(barrier, identity->device, identity->inode));
	if (result == 0)
		result = attach(process, sync, barrier->anywhere);
	if (result == 0)
		operation->sync = sync;
	else if (sync)
		ta_barrier_withdraw(barrier, sync, &due);
	ta_unlock(&process->barrier_lock);
	ta_syncs_issue(due);
	return result < 0 ? -EAGAIN : 0;
}

/* From here on it is issued when what it waits for has ended, which may be at once. */
void ta_sync_arm(struct ta_operation *operation)
{
	struct ta_process *process = ta_process();
	struct ta_sync *due = NULL;

	ta_lock(&process->barrier_lock);
	ta_barrier_arm(&process->barrier, operation->sync, &due);
	ta_unlock(&process->barrier_lock);
	ta_syncs_issue(due);
}

/* The fsync is the kernel's: later ones must wait for it like for any request.  0 or -EAGAIN. */
static int join_as_request(struct ta_context *context, struct ta_slot *slot)
{
	ta_lock(&context->lock);
	slot->epoch = ta_epoch_join(context, slot->iocb.aio_fildes);
	ta_unlock(&context->lock);
	return slot->epoch ? 0 : -EAGAIN;
}

/* What an fsync must leave empty. */
bool ta_sync_fields_are_set(const struct iocb *iocb)
{
	return ta_iocb_field(iocb, TA_FIELD_BUF) || ta_iocb_field(iocb, TA_FIELD_NBYTES) ||
	       iocb->u.c.offset || iocb->aio_rw_flags;
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
	operation->is_sync = true;
	if (iocb->u.c.flags & IOCB_FLAG_RESFD)
		operation->resfd = (int)iocb->u.c.resfd;
	return operation;
}

/* Takes hold of the file and of the program's eventfd. */
static int capture(struct ta_operation *operation, const struct iocb *iocb)
{
	int result = ta_service_open(TA_SERVICE_WORK);

	if (result == 0 && atomic_load(&ta_process()->has_kernel_contexts))
		result = ta_service_open(TA_SERVICE_FOLLOW);
	if (result == 0)
		result = ta_hold_take_alone(iocb->aio_fildes, &operation->hold);
	if (result == 0)
		result = ta_eventfd_capture(operation, operation->resfd);
	return result == -ENFILE ? -EAGAIN : result;
}

/* Holds an fsync.  0; or a negative errno, and nothing has happened. */
static int hold(struct ta_context *context, struct ta_slot *slot,
		const struct ta_file_identity *identity)
{
	struct ta_operation *operation = new_operation(context, slot);
	int result;

	if (!operation)
		return -EAGAIN;
	result = capture(operation, &slot->iocb);
	if (result == 0)
		result = ta_sync_enter(operation, identity, slot->iocb.aio_fildes);
	if (result < 0) {
		ta_operation_discard(operation);
		return result;
	}
	ta_operation_enroll(operation, TA_OPERATION_HELD);
	ta_sync_arm(operation);
	return 0;
}

/* What the kernel would refuse at submission, it shall refuse itself. */
static bool kernel_would_refuse(struct ta_context *context, const struct iocb *iocb,
				const struct ta_file_identity *identity)
{
	long file_flags = ta_syscall2(SYS_fcntl, iocb->aio_fildes, F_GETFL);
	struct iocb like = *iocb;
	int result;

	if (file_flags < 0 || file_flags & O_PATH)
		return true;
	if (ta_file_cannot_sync(iocb->aio_fildes, identity->mode) || ta_sync_fields_are_set(iocb) ||
	    iocb->u.c.__pad3)
		return true;
	/* An fsync has no priority to be checked, whatever its flags say. */
	like.u.c.flags &= IOCB_FLAG_RESFD;
	if (!like.u.c.flags)
		return false;
	result = ta_kaio_check(context->kernel_handle, &like);
	return result == -EBADF || result == -EINVAL;
}

/*
 * No descriptor of ours may be closed of such a file, so it cannot be kept: the caller waits for
 * what is in flight by now.
 */
static bool waits_in_caller(int fd, const struct ta_file_identity *identity)
{
	long file_flags = ta_syscall2(SYS_fcntl, fd, F_GETFL);

	if (!ta_file_close_has_effects(fd, identity->mode, file_flags))
		return false;
	ta_sync_wait_in_caller(ta_process(), identity);
	return true;
}

/*
 * Holds it.  0; 1: what it would wait for has ended meanwhile; -EAGAIN: it cannot be held, and goes
 * past nothing; or another negative errno.
 */
static int try_to_hold(struct ta_context *context, struct ta_slot *slot,
		       const struct ta_file_identity *identity)
{
	int result = hold(context, slot, identity);

	if (result != -EAGAIN && result != -ENOSYS)
		return result;
	return is_in_flight(ta_process(), identity, UINT64_MAX) ? -EAGAIN : 1;
}

static int prepare_mediated(struct ta_context *context, struct ta_slot *slot, enum ta_sync_way *way)
{
	int fd = slot->iocb.aio_fildes, result;
	struct ta_file_identity identity;

	*way = TA_SYNC_KERNEL;
	if (!ta_sync_must_wait(ta_process(), fd, &identity) ||
	    kernel_would_refuse(context, &slot->iocb, &identity) || waits_in_caller(fd, &identity))
		return join_as_request(context, slot);
	result = try_to_hold(context, slot, &identity);
	if (result > 0)
		return join_as_request(context, slot);
	*way = TA_SYNC_HELD;
	return result;
}

/* What kernel AIO would say to an fsync in an offloaded context, in its order. */
static int check(struct ta_context *context, const struct iocb *iocb,
		 struct ta_file_identity *identity)
{
	long file_flags = ta_syscall2(SYS_fcntl, iocb->aio_fildes, F_GETFL);
	int result;

	if (ta_iocb_is_malformed(iocb))
		return -EINVAL;
	if (file_flags < 0 || file_flags & O_PATH)
		return -EBADF;
	result = ta_eventfd_check(context, iocb);
	if (result < 0)
		return result;
	result = ta_file_identify(iocb->aio_fildes, identity);
	if (result < 0)
		return result;
	return ta_sync_fields_are_set(iocb) || ta_file_cannot_sync(iocb->aio_fildes, identity->mode)
		       ? -EINVAL
		       : 0;
}

static int prepare_offloaded(struct ta_context *context, struct ta_slot *slot,
			     enum ta_sync_way *way, long *done)
{
	int fd = slot->iocb.aio_fildes;
	struct ta_file_identity identity;
	int result = check(context, &slot->iocb, &identity);

	if (result < 0)
		return result;
	ta_epochs_seal(ta_process());
	*way = TA_SYNC_HELD;
	if (!waits_in_caller(fd, &identity)) {
		result = try_to_hold(context, slot, &identity);
		if (result <= 0)
			return result;
	}
	*way = TA_SYNC_DONE;
	*done = ta_iocb_sync_now(&slot->iocb);
	return 0;
}

/*
 * An fsync whose turn in its batch has come.  0, and *way tells whether it is held, the kernel's to
 * do, or done already with *result; or why it is refused.
 */
int ta_sync_prepare(struct ta_context *context, struct ta_slot *slot, enum ta_sync_way *way,
		    long *result)
{
	return context->mode == TA_CONTEXT_MEDIATED ? prepare_mediated(context, slot, way)
						    : prepare_offloaded(context, slot, way, result);
}

/*
 * ---- their turn, and their end ----------------------------------------------------------------
 */

/* The turn of these has come. */
void ta_syncs_issue(struct ta_sync *due)
{
	while (due) {
		struct ta_operation *operation = due->owner;

		due = due->due_next;
		if (operation->object)
			ta_custody_submit(operation);
		else
			ta_operation_submit(operation);
	}
}

/* Gives each of a group its event, in order of arrival. */
static void finish_group(struct ta_sync *group, long result)
{
	struct ta_process *process = ta_process();

	while (group) {
		struct ta_sync *sync = group;
		struct ta_operation *operation = sync->owner;

		group = sync->due_next;
		/* Under the lock, because io_cancel may be looking at the operation. */
		ta_lock(&process->barrier_lock);
		sync->owner = NULL;
		operation->sync = NULL;
		ta_unlock(&process->barrier_lock);
		ta_operation_finish(operation, result);
	}
}

static void end_cancelled(struct ta_process *process, struct ta_operation *operation)
{
	struct ta_sync *sync = operation->sync, *due = NULL;

	ta_operation_finish(operation, -ECANCELED);
	ta_lock(&process->barrier_lock);
	ta_barrier_withdraw(&process->barrier, sync, &due);
	ta_unlock(&process->barrier_lock);
	ta_syncs_issue(due);
}

/*
 * The call that the leader was issued for has ended: so have all that rode along.  They leave the
 * queue when their events are visible, as a cancelled one does: an fsync that comes in between must
 * not be over before them.
 */
void ta_sync_ended(struct ta_operation *leader, long result)
{
	struct ta_process *process = ta_process();
	struct ta_sync *first = leader->sync, *due = NULL, *group;

	if (first->state == TA_SYNC_CANCELLED) {
		end_cancelled(process, leader);
		return;
	}
	ta_lock(&process->barrier_lock);
	group = ta_barrier_group(first);
	ta_unlock(&process->barrier_lock);
	finish_group(group, result);
	ta_lock(&process->barrier_lock);
	group = ta_barrier_ended(&process->barrier, first, &due);
	while (group) {
		struct ta_sync *sync = group;

		group = sync->due_next;
		ta_barrier_release(&process->barrier, sync);
	}
	ta_unlock(&process->barrier_lock);
	ta_syncs_issue(due);
}

/*
 * io_cancel of an fsync: true if it was still waiting.  Its context's lock is held, so its event is
 * left to a thread of the library.
 */
bool ta_sync_cancel(struct ta_operation *operation)
{
	struct ta_process *process = ta_process();
	bool is_waiting;

	ta_lock(&process->barrier_lock);
	/* Its io_submit may still be at it: what is not armed is not cancelled. */
	is_waiting = operation->sync && operation->sync->state == TA_SYNC_WAITING &&
		     operation->sync->armed;
	if (is_waiting)
		ta_barrier_cancel(operation->sync);
	ta_unlock(&process->barrier_lock);
	if (is_waiting) {
		operation->cancelled = true;
		ta_operation_submit(operation);
	}
	return is_waiting;
}
