/* SPDX-License-Identifier: MIT */
/*
 * io_fsync as the manual promises it: the file is synchronized after every earlier request on it
 * has ended.
 *
 * Earlier is what any io_submit of this process accepted before, in whatever context and by
 * whatever descriptor of the same file.  So an fsync looks through all contexts: an epoch with
 * requests in flight is its business if its descriptor number is the fsync's own, refers to the
 * same file now, or refers to nothing any more.  (A number that was closed and reused for another
 * file meanwhile is not recognized: the one documented limit.)  If nothing is found the fsync goes
 * to the kernel with its batch, as ever.  Otherwise it is held: its file is captured, and it is
 * issued when the barrier hands it back.
 *
 * The walk takes table_lock and one context's lock at a time.  It runs before the batch goes to the
 * kernel, so later elements of the batch are kept apart by the sealing that request.c did when it
 * came to the fsync.
 */
#include "internal.h"

#include "custody.h"
#include "offload.h"

#include <fcntl.h>

struct survey {
	struct ta_process *process;
	struct ta_context *own; /* context of the fsync */
	uint64_t before; /* its sequence there */
	int descriptor;
	struct ta_file_identity identity;
	struct ta_sync *sync;
	int error;
	bool want_assistant;
	struct ta_sync *due; /* of other fsyncs */
	int last_number; /* the latest look-up, since many contexts use the same descriptors */
	bool last_matches;
};

static bool is_same_file(struct survey *survey, int number)
{
	struct ta_file_identity identity;

	if (number == survey->descriptor)
		return true;
	if (number == survey->last_number)
		return survey->last_matches;
	survey->last_number = number;
	survey->last_matches = ta_file_identify(number, &identity) < 0 ||
			       (identity.device == survey->identity.device &&
				identity.inode == survey->identity.inode);
	return survey->last_matches;
}

/*
 * An epoch of the fsync's own context counts only if it was sealed by then: what is open holds
 * later requests.
 */
static bool is_earlier(const struct survey *survey, const struct ta_context *context,
		       struct ta_epoch *epoch)
{
	if (epoch->in_flight == 0)
		return false;
	return context != survey->own || (epoch->sealed && epoch->sealed_at <= survey->before);
}

static void survey_epoch(struct survey *survey, struct ta_context *context, struct ta_epoch *epoch)
{
	bool first = epoch->waits == NULL;

	if (!epoch->sealed) {
		epoch->sealed = true;
		epoch->sealed_at = context->sequence;
		ta_assert(epoch->descriptor->open == epoch);
		epoch->descriptor->open = NULL;
	}
	ta_lock(&survey->process->barrier_lock);
	survey->error = ta_barrier_attach(&survey->process->barrier, survey->sync, epoch);
	ta_unlock(&survey->process->barrier_lock);
	if (survey->error == 0 && first)
		context->owed++;
}

static void survey_descriptor(struct survey *survey, struct ta_context *context,
			      struct ta_descriptor *descriptor)
{
	struct ta_epoch *epoch;

	for (epoch = descriptor->epochs; epoch && survey->error == 0; epoch = epoch->next)
		if (is_earlier(survey, context, epoch) && is_same_file(survey, descriptor->number))
			survey_epoch(survey, context, epoch);
}

static void survey_context(struct survey *survey, struct ta_context *context)
{
	struct ta_descriptor *descriptor;
	struct ta_work work = { 0 };
	unsigned i;

	ta_lock(&context->lock);
	if (context->tracking)
		ta_passthrough_scan(context, &work);
	for (i = 0; i < TA_DESCRIPTOR_BUCKETS; i++)
		for (descriptor = context->descriptors[i]; descriptor;
		     descriptor = descriptor->next)
			survey_descriptor(survey, context, descriptor);
	ta_assist_want(context, &work);
	survey->want_assistant |= work.want_assistant;
	while (work.issue) {
		/* Due by the scan; issued with what else this fsync finds, after the locks. */
		struct ta_sync *sync = work.issue;

		work.issue = sync->due_next;
		sync->due_next = survey->due;
		survey->due = sync;
	}
	ta_unlock(&context->lock);
}

static void survey_all(struct survey *survey)
{
	struct ta_process *process = survey->process;
	struct ta_context *context;

	ta_lock(&process->table_lock);
	for (context = process->contexts; context; context = context->all_next)
		survey_context(survey, context);
	ta_unlock(&process->table_lock);
}

/* The fsync is the kernel's: later ones must wait for it like for any request.  0 or -EAGAIN. */
static int join_as_request(struct ta_context *context, struct ta_slot *slot)
{
	struct ta_descriptor *descriptor;
	struct ta_epoch *open;
	int result = 0;

	ta_lock(&context->lock);
	slot->state = TA_SLOT_KERNEL;
	descriptor = ta_descriptor_of(context, slot->iocb.aio_fildes);
	open = descriptor ? descriptor->open : NULL;
	if (!descriptor || ta_epoch_open(context, descriptor) < 0) {
		result = -EAGAIN;
	} else {
		/*
		 * Sealed at its place in the order: the open epoch holds later requests, which a
		 * later fsync of the batch leaves out.
		 */
		slot->epoch = descriptor->open;
		slot->epoch->in_flight = 1;
		slot->epoch->sealed = true;
		slot->epoch->sealed_at = slot->sequence;
		descriptor->open = open;
	}
	ta_unlock(&context->lock);
	return result;
}

/* An fsync has no priority to be checked, whatever its flags say. */
bool ta_sync_eventfd_is_good(struct ta_context *context, const struct iocb *iocb)
{
	struct iocb like = *iocb;

	like.u.c.flags &= IOCB_FLAG_RESFD;
	if (like.u.c.flags) {
		int result = ta_kaio_check(context->kernel_handle, &like);

		/*
		 * Anything else (no room to ask in, no descriptor to ask with) says nothing of the
		 * eventfd.
		 */
		return result != -EBADF && result != -EINVAL;
	}
	return true;
}

static bool has_fields_set(const struct iocb *iocb)
{
	return ta_iocb_field(iocb, TA_FIELD_BUF) || ta_iocb_field(iocb, TA_FIELD_NBYTES) ||
	       iocb->u.c.offset || iocb->aio_rw_flags;
}

/* What the kernel would refuse at submission, it shall refuse itself. */
static bool kernel_would_refuse(struct ta_context *context, const struct iocb *iocb,
				const struct ta_file_identity *identity)
{
	long file_flags = ta_syscall2(SYS_fcntl, iocb->aio_fildes, F_GETFL);

	if (file_flags < 0 || file_flags & O_PATH)
		return true;
	if (ta_file_cannot_sync(iocb->aio_fildes, identity->mode))
		return true;
	if (has_fields_set(iocb) || iocb->u.c.__pad3)
		return true;
	return !ta_sync_eventfd_is_good(context, iocb);
}

static void withdraw(struct ta_operation *operation)
{
	struct ta_process *process = ta_process();
	struct ta_sync *due = NULL;

	ta_lock(&process->barrier_lock);
	ta_barrier_withdraw(&process->barrier, operation->sync, &due);
	ta_unlock(&process->barrier_lock);
	operation->sync = NULL;
	ta_syncs_issue(due);
}

/* Takes the operation back before it was armed. */
void ta_sync_refused(struct ta_operation *operation)
{
	withdraw(operation);
	if (operation->custodian)
		ta_custody_dismiss(operation->custodian);
	ta_operation_discard(operation);
}

/*
 * Enters the sync into its file's queue and attaches it to all that is in flight.  0 with *alone
 * set if there is nothing, so that it need not be held; -EAGAIN when there is no memory.
 */
int ta_sync_enter(struct ta_operation *operation, const struct ta_file_identity *identity,
		  int descriptor, int group, uint64_t before, bool *alone)
{
	struct ta_process *process = ta_process();
	struct survey survey = {
		.process = process,
		.own = operation->context,
		.before = before,
		.descriptor = descriptor,
		.identity = *identity,
		.last_number = -1,
	};

	ta_lock(&process->barrier_lock);
	survey.sync = ta_barrier_enter(&process->barrier, identity->device, identity->inode, group,
				       operation->opcode == IO_CMD_FDSYNC, operation);
	ta_unlock(&process->barrier_lock);
	if (!survey.sync)
		return -EAGAIN;
	operation->sync = survey.sync;
	survey_all(&survey);
	if (survey.want_assistant)
		ta_assist_start();
	ta_syncs_issue(survey.due);
	ta_lock(&process->barrier_lock);
	*alone = survey.error == 0 && ta_barrier_is_alone(survey.sync);
	ta_unlock(&process->barrier_lock);
	return survey.error < 0 ? -EAGAIN : 0;
}

/* Takes hold of the file, and in an offloaded context of the program's eventfd. */
static int capture(struct ta_operation *operation, const struct iocb *iocb)
{
	int result;

	if (!ta_offload_open())
		return -EAGAIN;
	result = ta_hold_take_alone(iocb->aio_fildes, &operation->hold);
	if (result == 0 && operation->context->mode == TA_CONTEXT_OFFLOADED)
		result = ta_eventfd_capture(operation, operation->resfd);
	return result == -ENFILE ? -EAGAIN : result;
}

/*
 * Makes a held operation of an fsync that can be.  0 with *alone set if there is nothing to wait
 * for and kernel AIO to do it.
 */
static int hold_sync(struct ta_context *context, struct ta_slot *slot,
		     const struct ta_file_identity *identity, bool *alone,
		     struct ta_operation **prepared)
{
	const struct iocb *iocb = &slot->iocb;
	struct ta_operation *operation = ta_operation_alloc();
	int result;

	if (!operation)
		return -EAGAIN;
	operation->context = context;
	operation->slot = slot;
	operation->opcode = (uint8_t)iocb->aio_lio_opcode;
	operation->is_sync = true;
	if (iocb->u.c.flags & IOCB_FLAG_RESFD)
		operation->resfd = (int)iocb->u.c.resfd;
	result = ta_sync_enter(operation, identity, iocb->aio_fildes, iocb->aio_fildes,
			       slot->sequence, alone);
	if (context->mode == TA_CONTEXT_OFFLOADED)
		*alone = false;
	if (result == 0 && !*alone)
		result = capture(operation, iocb);
	if (result == 0 && !*alone) {
		*prepared = operation;
		return 0;
	}
	if (operation->sync)
		ta_sync_refused(operation);
	else
		ta_operation_discard(operation);
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
	return has_fields_set(iocb) || ta_file_cannot_sync(iocb->aio_fildes, identity->mode)
		       ? -EINVAL
		       : 0;
}

/*
 * Makes a held operation of an fsync.  0 with *prepared NULL: nothing earlier is in flight, or the
 * kernel will refuse it; either way it goes with the batch.  Not so in an offloaded context.
 */
int ta_sync_prepare(struct ta_context *context, struct ta_slot *slot,
		    struct ta_operation **prepared)
{
	struct ta_file_identity identity;
	bool alone = false;
	int result;

	*prepared = NULL;
	if (context->mode == TA_CONTEXT_OFFLOADED) {
		result = check(context, &slot->iocb, &identity);
		if (result < 0)
			return result;
	} else if (ta_file_identify(slot->iocb.aio_fildes, &identity) < 0 ||
		   kernel_would_refuse(context, &slot->iocb, &identity)) {
		return join_as_request(context, slot);
	}
	result = hold_sync(context, slot, &identity, &alone, prepared);
	if (result < 0 || *prepared)
		return result;
	return join_as_request(context, slot);
}

/* Its io_submit has accepted it: it may be issued from now on. */
void ta_sync_accepted(struct ta_operation *operation)
{
	struct ta_process *process = ta_process();
	struct ta_sync *due = NULL;

	ta_operation_enroll(operation, TA_OPERATION_HELD);
	ta_lock(&process->barrier_lock);
	ta_barrier_arm(&process->barrier, operation->sync, &due);
	ta_unlock(&process->barrier_lock);
	ta_syncs_issue(due);
}

/* The turn of these has come.  No lock is held. */
void ta_syncs_issue(struct ta_sync *due)
{
	while (due) {
		struct ta_sync *sync = due;
		struct ta_operation *operation = sync->owner;

		due = sync->due_next;
		if (operation->custodian)
			ta_custody_release(operation->custodian);
		else
			ta_operation_submit(operation);
	}
}

/* Gives each of a group its event, in order of arrival. */
static void finish_group(struct ta_sync *group, const struct ta_operation *leader, long result)
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
		if (operation != leader && operation->custodian)
			ta_custody_dismiss(operation->custodian);
		ta_operation_finish(operation, result);
	}
}

/*
 * The call that the leader was issued for has ended: so have all that rode along.  They leave the
 * queue when their events are visible: an fsync that comes in between must not be over before them.
 */
void ta_sync_ended(struct ta_operation *leader, long result)
{
	struct ta_process *process = ta_process();
	struct ta_sync *first = leader->sync, *due = NULL, *group;

	ta_lock(&process->barrier_lock);
	group = ta_barrier_group(first);
	ta_unlock(&process->barrier_lock);
	finish_group(group, leader, result);
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
 * io_cancel of an fsync: true if it was still waiting.  The context's lock is held, so its event is
 * left to a thread of the library.
 */
bool ta_sync_cancel(struct ta_operation *operation, struct ta_work *work)
{
	struct ta_process *process = ta_process();

	ta_lock(&process->barrier_lock);
	/* Its io_submit may still be at it: what is not armed is not cancelled. */
	if (!operation->sync || operation->sync->state != TA_SYNC_WAITING ||
	    !operation->sync->armed) {
		ta_unlock(&process->barrier_lock);
		return false;
	}
	ta_barrier_withdraw(&process->barrier, operation->sync, &work->issue);
	operation->sync = NULL;
	ta_unlock(&process->barrier_lock);
	operation->cancelled = true;
	if (operation->custodian)
		ta_custody_release(operation->custodian);
	else
		ta_operation_submit(operation);
	return true;
}
