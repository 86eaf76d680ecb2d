/* SPDX-License-Identifier: MIT */
/*
 * What is in flight: epochs of descriptors, and the contexts that have any.
 *
 * A request joins the *open* epoch of its descriptor number in its context, and leaves it when it
 * has ended.  Only descriptors with something in flight have an epoch, and the one that the latest
 * request used: so what has been used and closed costs nothing.
 *
 * An fsync must know what is in flight on its file, whatever context and descriptor it came by.  So
 * it *seals* all open epochs that have requests: it drains the rings first, asks once what each
 * descriptor refers to, and files the epoch there (barrier.h).  Later requests join new epochs.  It
 * looks through busy contexts alone: those in which a request has joined an open epoch since the
 * last look.  Such a context is pushed on a list, without a lock of the process.  table_lock lets
 * one fsync look at a time: what it has taken off the list and not yet sealed, no other may miss.
 *
 * Locks: an epoch belongs to its context's lock; what of it is used by barrier.h, to barrier_lock.
 */
#include "internal.h"

#include "pool.h"

static struct ta_epoch **bucket_of(struct ta_context *context, int number)
{
	return &context->epoch_buckets[(unsigned)number % TA_EPOCH_BUCKETS];
}

static void unlink_open(struct ta_context *context, struct ta_epoch *epoch)
{
	struct ta_epoch **link = bucket_of(context, epoch->number);

	while (*link != epoch)
		link = &(*link)->bucket_next;
	*link = epoch->bucket_next;
	if (epoch->previous)
		epoch->previous->next = epoch->next;
	else
		context->open_epochs = epoch->next;
	if (epoch->next)
		epoch->next->previous = epoch->previous;
	if (context->last_epoch == epoch)
		context->last_epoch = NULL;
}

static struct ta_epoch *make_open(struct ta_context *context, int number)
{
	struct ta_epoch *epoch =
		TA_POOL_TAKE(&context->free_epochs, &context->pool_pages, bucket_next);
	struct ta_epoch **bucket = bucket_of(context, number);

	if (!epoch)
		return NULL;
	*epoch = (struct ta_epoch){
		.number = number,
		.context = context,
		.next = context->open_epochs,
		.bucket_next = *bucket,
	};
	*bucket = epoch;
	if (epoch->next)
		epoch->next->previous = epoch;
	context->open_epochs = epoch;
	return epoch;
}

/*
 * The open epoch of the descriptor number, made if there is none; it is the latest from now on.
 * NULL when there is no memory.
 */
struct ta_epoch *ta_epoch_open(struct ta_context *context, int number)
{
	struct ta_epoch *latest = context->last_epoch, *epoch;

	for (epoch = *bucket_of(context, number); epoch; epoch = epoch->bucket_next)
		if (epoch->number == number)
			break;
	if (!epoch)
		epoch = make_open(context, number);
	if (!epoch)
		return NULL;
	if (latest && latest != epoch && latest->in_flight == 0) {
		unlink_open(context, latest);
		TA_POOL_PUT(&context->free_epochs, latest, bucket_next);
	}
	context->last_epoch = epoch;
	return epoch;
}

/* The last request of an epoch has ended: tells the syncs that wait for it, and drops it. */
TA_COLD void ta_epoch_empty(struct ta_context *context, struct ta_epoch *epoch,
			    struct ta_work *work)
{
	struct ta_process *process = ta_process();

	if (epoch->sealed) {
		ta_lock(&process->barrier_lock);
		if (epoch->waits)
			context->owed--;
		ta_barrier_drained(&process->barrier, epoch, &work->issue);
		ta_unlock(&process->barrier_lock);
	} else {
		unlink_open(context, epoch);
	}
	TA_POOL_PUT(&context->free_epochs, epoch, bucket_next);
}

/* ---- the look of an fsync -------------------------------------------------------------------- */

/* The lock is held. */
TA_COLD void ta_context_becomes_busy(struct ta_context *context)
{
	struct ta_process *process = ta_process();
	struct ta_context *head = atomic_load(&process->busy);

	context->is_busy = true;
	do
		context->busy_next = head;
	while (!atomic_compare_exchange_weak(&process->busy, &head, context));
}

/*
 * Asks what the descriptor refers to; where that is not known any more, every fsync must wait for
 * the epoch.
 */
static void seal(struct ta_process *process, struct ta_context *context, struct ta_epoch *epoch)
{
	struct ta_file_identity identity;
	bool is_known = ta_file_identify(epoch->number, &identity) == 0;

	unlink_open(context, epoch);
	epoch->sealed = true;
	ta_lock(&process->barrier_lock);
	if (!is_known ||
	    ta_barrier_file_epoch(&process->barrier, epoch, identity.device, identity.inode) < 0)
		ta_barrier_file_anywhere(&process->barrier, epoch);
	ta_unlock(&process->barrier_lock);
}

static void drain(struct ta_context *context, struct ta_work *work)
{
	if (context->mode == TA_CONTEXT_PASSTHROUGH)
		ta_passthrough_scan(context, work);
	else if (context->mode == TA_CONTEXT_MEDIATED)
		ta_drain(context, work);
	ta_wake_unaware(context);
}

static void look_through(struct ta_process *process, struct ta_context *context)
{
	struct ta_epoch *epoch, *following;
	struct ta_work work = { 0 };

	ta_lock(&context->lock);
	context->is_busy = false;
	drain(context, &work);
	for (epoch = context->open_epochs; epoch; epoch = following) {
		following = epoch->next;
		if (epoch->in_flight > 0)
			seal(process, context, epoch);
	}
	ta_unlock(&context->lock);
	ta_work_finish(&work);
}

/* All that is in flight by now is in sealed epochs. */
void ta_epochs_seal(struct ta_process *process)
{
	struct ta_context *context, *following;

	ta_lock(&process->table_lock);
	/* For those who do not take the lock: what is taken off the list is not sealed yet. */
	atomic_store(&process->is_sealing, true);
	for (context = atomic_exchange(&process->busy, NULL); context; context = following) {
		following = context->busy_next;
		look_through(process, context);
	}
	atomic_store(&process->is_sealing, false);
	ta_unlock(&process->table_lock);
}

/*
 * The contexts that a new fsync of the file would wait for, linked.  table_lock is held, so that
 * one look at a time marks them.
 */
static struct ta_context *concerned(struct ta_process *process,
				    const struct ta_file_identity *identity)
{
	struct ta_barrier *barrier = &process->barrier;
	struct ta_epoch *lists[2], *epoch;
	struct ta_context *found = NULL;
	int i;

	process->latest_look++;
	ta_lock(&process->barrier_lock);
	lists[0] = ta_barrier_epochs(barrier, identity->device, identity->inode);
	lists[1] = barrier->anywhere;
	for (i = 0; i < 2; i++) {
		for (epoch = lists[i]; epoch; epoch = epoch->next) {
			struct ta_context *context = epoch->context;

			if (context->looked_at == process->latest_look)
				continue;
			context->looked_at = process->latest_look;
			context->concerned_next = found;
			found = context;
		}
	}
	ta_unlock(&process->barrier_lock);
	return found;
}

/*
 * Has the file's work ended, as the rings will tell?  Those of the contexts concerned are drained.
 */
void ta_epochs_drain(struct ta_process *process, const struct ta_file_identity *identity)
{
	struct ta_context *context, *following;

	ta_lock(&process->table_lock);
	for (context = concerned(process, identity); context; context = following) {
		struct ta_work work = { 0 };

		following = context->concerned_next;
		ta_lock(&context->lock);
		drain(context, &work);
		ta_unlock(&context->lock);
		ta_work_finish(&work);
	}
	ta_unlock(&process->table_lock);
}
