/* SPDX-License-Identifier: MIT */
/*
 * How a request ends: from an event of the kernel's ring, or from an operation of ours, to the
 * ready list; and what that sets off.
 *
 * A request that has ended is either still an event in the kernel's ring or already in the
 * context's ready list. Who holds the context's lock may *drain* the ring into the list.  What
 * a step under the lock finds to do (fsyncs whose turn has come) is collected in a struct ta_work
 * and done by ta_work_finish when the lock is free.
 *
 * Waking.  A kernel completion wakes every thread that sleeps in the ring by itself.  What comes
 * into the ready list does not: so a wake-up is *posted* if anybody sleeps, an event that names no
 * slot.  There is at most one at a time: it stays in the ring until one of the woken drains it, and
 * that one posts again if it leaves anything for others who have not looked since the latest
 * arrival (context->unaware; reap.c).
 */
#include "internal.h"

#include "work.h"

#include <limits.h>

/*
 * An event of the kernel's ring: the slot that has its result to deliver, or NULL.  The event is
 * the program's memory: it may name anything.
 */
struct ta_slot *ta_kernel_event(struct ta_context *context, const struct io_event *event,
				struct ta_work *work)
{
	struct ta_slot *slot = ta_slot_of(context, event->obj);

	if (ta_unlikely(!slot)) {
		context->wake_posted = false;
		return NULL;
	}
	if (ta_unlikely(slot->state != TA_SLOT_KERNEL))
		return NULL;
	if (slot->epoch)
		ta_epoch_leave(context, slot->epoch, work);
	if (ta_unlikely(context->index != NULL))
		ta_index_remove(context, slot);
	return slot;
}

void ta_drain_slow(struct ta_context *context, struct ta_work *work)
{
	struct ta_ring_reader reader = ta_ring_open(context->ring, context->event_count);
	const struct io_event *event;

	while ((event = ta_ring_next(&reader)) != NULL) {
		struct ta_slot *slot = ta_kernel_event(context, event, work);

		if (slot)
			ta_ready_push(context, slot, (long)event->res);
	}
	ta_ring_publish(reader);
}

/*
 * A request that the kernel does not hold has ended; what the kernel ended before comes first.  The
 * lock is held.
 */
void ta_end(struct ta_context *context, struct ta_slot *slot, long result, struct ta_work *work)
{
	ta_drain(context, work);
	ta_wake_sleepers(context);
	ta_end_drained(context, slot, result, work);
}

/*
 * Makes the event of an operation visible.  Its file is released; its eventfd is signalled by the
 * caller, which calls ta_complete_end then: io_destroy does not return before.
 */
void ta_complete(struct ta_operation *operation, long result)
{
	struct ta_context *context = operation->context;
	struct ta_work work = { 0 };

	ta_lock(&context->lock);
	context->operations--;
	context->inside++;
	operation->slot->operation = NULL;
	ta_end(context, operation->slot, result, &work);
	ta_unlock(&context->lock);
	ta_work_finish(&work);
}

void ta_complete_end(struct ta_context *context)
{
	ta_lock(&context->lock);
	ta_context_leave(context);
	ta_unlock(&context->lock);
}

/* ---- waking ---------------------------------------------------------------------------------- */

/* Who sleeps comes to look.  The lock is held. */
TA_COLD void ta_wake(struct ta_context *context)
{
	if (context->wake_posted)
		return;
	/* Handlers come when a system call returns, and may leave the lock behind. */
	ta_assert(ta_signals_are_blocked());
	if (context->mode == TA_CONTEXT_OFFLOADED) {
		atomic_fetch_add(&context->word, 1);
		ta_futex_wake(&context->word, INT_MAX);
	} else {
		/* No place in the ring: the sleepers look for themselves before long (reap.c). */
		context->wake_posted =
			ta_kaio_post(context->kernel_handle, ta_wake_events(context)) == 0;
	}
}

/* ---- what a step leaves to do ---------------------------------------------------------------- */

TA_COLD void ta_work_finish_slow(struct ta_work *work)
{
	struct ta_operation *operation;

	if (work->issue)
		ta_syncs_issue(work->issue);
	while ((operation = work->ended) != NULL) {
		work->ended = operation->next;
		ta_passthrough_ended(operation);
	}
	*work = (struct ta_work){ 0 };
}
