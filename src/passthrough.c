/* SPDX-License-Identifier: MIT */
/*
 * Pass-through contexts: for programs that reap the kernel's ring without us (QEMU reads it,
 * MariaDB calls io_getevents by number).
 *
 * The kernel gets the program's own iocb pointers, signals its eventfds, and its ring is left
 * alone; all calls behave as with any libaio.  The one thing added is the promise of io_fsync.  For
 * it we must know what is in flight, without taking events: each request is *tracked* by its iocb
 * pointer, and a cursor of our own follows the ring's tail.  No more than the ring holds is ever
 * tracked, so an event is seen before its place is used again.  A pointer that is in flight twice
 * is ambiguous; its first event ends the newest request, so an fsync may come late, never early.
 *
 * A held fsync is kept by the custodian (custody.c), which submits the program's iocb when its turn
 * has come; the follower sees its event.  The iocb must be unchanged by then, as the manual of
 * io_submit(2) asks of every program.
 *
 * The context's lock guards the tracking.  A ring that may be gone is not looked at: context->ring
 * says so.
 */
#include "internal.h"

#include "work.h"

#include <fcntl.h>

#define BATCH_MAX 256

struct tracked {
	const struct iocb *object;
	struct ta_epoch *epoch;
	struct tracked *next; /* in its bucket, newest first; or free */
	struct ta_operation *operation; /* a held fsync that ends with the event; NULL: none */
};

struct ta_tracking {
	size_t bytes;
	uint32_t cursor; /* the next event to look at */
	uint32_t bucket_mask;
	struct tracked *free;
	struct tracked **buckets;
	struct tracked entries[];
};

static struct tracked **bucket_of(struct ta_tracking *tracking, const struct iocb *object)
{
	uintptr_t address = (uintptr_t)object;

	return &tracking->buckets[(address >> 4 ^ address >> 12) & tracking->bucket_mask];
}

int ta_passthrough_open(struct ta_context *context)
{
	uint32_t count = context->event_count - 1;
	struct ta_tracking *tracking;
	uint32_t buckets = 64, i;
	size_t bytes;

	while (buckets < count)
		buckets *= 2;
	bytes = sizeof(*tracking) + count * sizeof(struct tracked) +
		buckets * sizeof(struct tracked *);
	tracking = ta_pages_alloc(bytes);
	if (!tracking)
		return -ENOMEM;
	tracking->bytes = bytes;
	tracking->cursor = ta_ring_open(context->ring, context->event_count).tail;
	tracking->bucket_mask = buckets - 1;
	tracking->buckets = (struct tracked **)(void *)&tracking->entries[count];
	for (i = 0; i < count; i++) {
		tracking->entries[i].next = tracking->free;
		tracking->free = &tracking->entries[i];
	}
	/* An fsync may still find the context among the busy ones of its life before. */
	ta_lock(&context->lock);
	context->tracking = tracking;
	ta_unlock(&context->lock);
	return 0;
}

/* NULL: as many are in flight as the ring holds, or there is no memory. */
static struct tracked *track(struct ta_context *context, const struct iocb *object, int number)
{
	struct ta_tracking *tracking = context->tracking;
	struct tracked *tracked = tracking->free;
	struct tracked **bucket = bucket_of(tracking, object);
	struct ta_epoch *epoch = tracked ? ta_epoch_join(context, number) : NULL;

	if (!epoch)
		return NULL;
	tracking->free = tracked->next;
	*tracked = (struct tracked){ .object = object, .epoch = epoch, .next = *bucket };
	*bucket = tracked;
	return tracked;
}

static void untrack(struct ta_context *context, struct tracked *tracked, struct ta_work *work)
{
	struct ta_tracking *tracking = context->tracking;
	struct tracked **link = bucket_of(tracking, tracked->object);

	while (*link != tracked)
		link = &(*link)->next;
	*link = tracked->next;
	ta_epoch_leave(context, tracked->epoch, work);
	if (tracked->operation) {
		tracked->operation->next = work->ended;
		work->ended = tracked->operation;
	}
	tracked->operation = NULL;
	tracked->next = tracking->free;
	tracking->free = tracked;
}

/* Follows the ring: what has an event there has ended.  The lock is held. */
void ta_passthrough_scan(struct ta_context *context, struct ta_work *work)
{
	struct ta_tracking *tracking = context->tracking;
	struct ta_ring_reader reader;
	const struct io_event *event;

	if (!context->ring || !tracking)
		return;
	reader = ta_ring_open(context->ring, context->event_count);
	reader.head = tracking->cursor;
	while ((event = ta_ring_next(&reader)) != NULL) {
		struct tracked *tracked = *bucket_of(tracking, event->obj);

		while (tracked && tracked->object != event->obj)
			tracked = tracked->next;
		if (tracked)
			untrack(context, tracked, work);
	}
	tracking->cursor = reader.head;
}

/* The kernel context is gone: so are all requests. */
void ta_passthrough_close(struct ta_context *context)
{
	struct ta_tracking *tracking = context->tracking;
	struct ta_work work = { 0 };
	uint32_t i;

	ta_lock(&context->lock);
	for (i = 0; i <= tracking->bucket_mask; i++)
		while (tracking->buckets[i])
			untrack(context, tracking->buckets[i], &work);
	context->tracking = NULL;
	ta_unlock(&context->lock);
	ta_work_finish(&work);
	ta_pages_free(tracking, tracking->bytes);
}

/* ---- submission ------------------------------------------------------------------------------ */

/* A copy of element i, or false: then the kernel will refuse it. */
static bool read_element(struct iocb **iocbs, long i, struct iocb **object, struct iocb *copy)
{
	return ta_copy_in(object, &iocbs[i], sizeof(*object)) &&
	       ta_copy_in(copy, *object, sizeof(*copy));
}

/*
 * Gives up to BATCH_MAX elements to the kernel, up to the first fsync after the first element.  The
 * lock is held, and let go.  Returns what io_submit returns.
 */
static long submit_tracked(struct ta_context *context, long nr, struct iocb **iocbs)
{
	struct tracked *tracked[BATCH_MAX];
	uint32_t generation = context->generation;
	struct ta_work work = { 0 };
	struct iocb *object, copy;
	long count, result, i;

	ta_passthrough_scan(context, &work);
	for (count = 0; count < nr && count < BATCH_MAX; count++) {
		tracked[count] = NULL;
		if (!read_element(iocbs, count, &object, &copy) ||
		    copy.aio_lio_opcode == IO_CMD_POLL)
			continue;
		if (count > 0 && ta_iocb_is_sync(&copy))
			break;
		tracked[count] = track(context, object, copy.aio_fildes);
		if (!tracked[count])
			break;
	}
	ta_unlock(&context->lock);
	result = count > 0 ? ta_kaio_submit(context->kernel_handle, count, iocbs) : -EAGAIN;
	if (ta_unlikely(result != count)) {
		ta_lock(&context->lock);
		/* Destroyed meanwhile: nothing is tracked any more. */
		for (i = result > 0 ? result : 0; i < count && context->generation == generation;
		     i++)
			if (tracked[i])
				untrack(context, tracked[i], &work);
		ta_unlock(&context->lock);
	}
	ta_work_finish(&work);
	return result;
}

/* A group of its own for each: its event can only come from a request of its own. */
static int unique_group(void)
{
	static _Atomic int latest;

	return -2 - (atomic_fetch_add(&latest, 1) & 0x3fffffff);
}

static bool kernel_would_refuse(struct ta_context *context, const struct iocb *copy, uint32_t mode)
{
	struct iocb like = *copy;
	int result = 0;

	like.u.c.flags &= IOCB_FLAG_RESFD;
	if (like.u.c.flags)
		result = ta_kaio_check(context->kernel_handle, &like);
	return ta_file_cannot_sync(copy->aio_fildes, mode) || ta_sync_fields_are_set(copy) ||
	       copy->u.c.__pad3 || result == -EBADF || result == -EINVAL;
}

static struct ta_operation *new_operation(struct ta_context *context, struct iocb *object,
					  const struct iocb *copy)
{
	struct ta_operation *operation = ta_operation_alloc();

	if (!operation)
		return NULL;
	operation->context = context;
	operation->object = object;
	operation->proxy = *copy;
	operation->opcode = (uint8_t)copy->aio_lio_opcode;
	operation->is_sync = true;
	operation->owed_phase = (uint8_t)atomic_load(&ta_process()->exit_phase);
	if (copy->u.c.flags & IOCB_FLAG_RESFD)
		operation->resfd = (int)copy->u.c.resfd;
	return operation;
}

/* 0: held; or a negative errno.  Signals are blocked; no lock is held. */
static int hold(struct ta_operation *operation, const struct ta_file_identity *identity)
{
	struct ta_context *context = operation->context;
	int result = ta_custody_take(operation);

	if (result < 0)
		return result;
	result = ta_sync_enter(operation, identity, unique_group());
	if (result < 0) {
		ta_custody_release(operation);
		return result;
	}
	atomic_fetch_add(&ta_process()->owed_at_exit[operation->owed_phase], 1);
	ta_lock(&context->lock);
	context->operations++;
	ta_unlock(&context->lock);
	ta_sync_arm(operation);
	return 0;
}

/* Not where descriptors of ours that were closed would have effects (ta_file_close_has_effects). */
static bool can_be_kept(const struct iocb *copy, const struct ta_file_identity *identity)
{
	long file_flags = ta_syscall2(SYS_fcntl, copy->aio_fildes, F_GETFL);

	return !ta_file_close_has_effects(copy->aio_fildes, identity->mode, file_flags);
}

/*
 * Holds an fsync if something earlier is in flight.  False: it can go to the kernel, at once or
 * because the caller has waited for what is in flight.
 */
static bool hold_sync(struct ta_context *context, struct iocb *object, const struct iocb *copy)
{
	struct ta_file_identity identity;
	struct ta_operation *operation;

	if (!ta_sync_must_wait(ta_process(), copy->aio_fildes, &identity) ||
	    kernel_would_refuse(context, copy, identity.mode))
		return false;
	operation = new_operation(context, object, copy);
	if (operation && ta_service_open(TA_SERVICE_CUSTODY) == 0 &&
	    ta_service_open(TA_SERVICE_FOLLOW) == 0 && can_be_kept(copy, &identity) &&
	    hold(operation, &identity) == 0)
		return true;
	if (operation)
		ta_operation_free(operation);
	ta_sync_wait_in_caller(ta_process(), &identity);
	return false;
}

/* An fsync: 1 if it is held, 0, or -EINVAL.  The lock is held, and let go meanwhile. */
static int try_to_hold(struct ta_context *context, struct iocb *object, const struct iocb *copy)
{
	uint32_t generation = context->generation;
	struct ta_signals before;
	int result;

	ta_signals_block(&before);
	context->inside++;
	ta_unlock(&context->lock);
	result = hold_sync(context, object, copy);
	ta_lock(&context->lock);
	if (result == 0 && context->generation != generation)
		result = -EINVAL;
	ta_context_leave(context);
	ta_signals_set(&before, NULL);
	return result;
}

/* io_submit(3) of a pass-through context.  The lock is held, and let go. */
int ta_passthrough_submit(struct ta_process *process, struct ta_context *context, long nr,
			  struct iocb **iocbs)
{
	io_context_t handle = (io_context_t)context->kernel_handle;
	long total = 0, result = 0;

	while (context) {
		struct iocb *object, copy;

		if (nr - total == 0)
			break;
		result = 0;
		if (read_element(iocbs, total, &object, &copy) && ta_iocb_is_sync(&copy))
			result = try_to_hold(context, object, &copy);
		if (result == 0)
			result = submit_tracked(context, nr - total, iocbs + total);
		else
			ta_unlock(&context->lock);
		if (result <= 0)
			return total > 0 ? (int)total : (int)result;
		total += result;
		context = total < nr ? ta_context_lock(process, handle) : NULL;
	}
	if (context)
		ta_unlock(&context->lock);
	return (int)total;
}

/* io_cancel(3): the kernel's own answer. */
int ta_passthrough_cancel(struct ta_context *context, struct iocb *iocb)
{
	struct io_event unused_event;

	return ta_kaio_cancel(context->kernel_handle, iocb, &unused_event);
}

/*
 * ---- held fsyncs, on the custodian's thread ---------------------------------------------------
 */

/*
 * Submits the program's iocb, whose file and eventfd are in the custodian's table under the
 * program's numbers.  1; -EAGAIN while the ring has no room; -ESHUTDOWN: its context is destroyed;
 * or why it is refused: the program has changed it.
 */
long ta_passthrough_submit_held(struct ta_operation *operation)
{
	struct ta_context *context = operation->context;
	struct iocb *list = operation->object;
	struct ta_work work = { 0 };
	struct tracked *tracked;
	long result;

	ta_lock(&context->lock);
	if (context->dying) {
		ta_unlock(&context->lock);
		return -ESHUTDOWN;
	}
	/* A destroyer waits until what is tracked is submitted, or is not tracked any more. */
	context->inside++;
	ta_passthrough_scan(context, &work);
	tracked = track(context, operation->object, operation->proxy.aio_fildes);
	if (tracked) {
		tracked->operation = operation;
		/* Its event must be noticed, for those behind it. */
		atomic_fetch_add(&context->owed, 1);
	}
	ta_unlock(&context->lock);
	ta_work_finish(&work);
	result = tracked ? ta_kaio_submit(context->kernel_handle, 1, &list) : -EAGAIN;
	if (tracked)
		ta_follow(context);
	ta_lock(&context->lock);
	ta_context_leave(context);
	if (!tracked || result == 1) {
		ta_unlock(&context->lock);
		return result;
	}
	/* Unless an event of the same iocb, used a second time, has ended it meanwhile. */
	if (tracked->operation != operation) {
		result = 1;
	} else {
		tracked->operation = NULL;
		untrack(context, tracked, &work);
		atomic_fetch_sub(&context->owed, 1);
	}
	ta_unlock(&context->lock);
	ta_work_finish(&work);
	return result;
}

bool ta_passthrough_is_dying(struct ta_operation *operation)
{
	struct ta_context *context = operation->context;
	bool is_dying;

	ta_lock(&context->lock);
	is_dying = context->dying;
	ta_unlock(&context->lock);
	return is_dying;
}

/* The event of a held fsync has been seen, by the one who looked at the ring. */
void ta_passthrough_ended(struct ta_operation *operation)
{
	atomic_fetch_sub(&operation->context->owed, 1);
	ta_operation_ended(operation, 0);
}

/* The program has its event; the operation goes. */
void ta_passthrough_finished(struct ta_operation *operation)
{
	struct ta_context *context = operation->context;

	ta_operation_free(operation);
	ta_lock(&context->lock);
	context->operations--;
	context->inside++;
	ta_context_leave(context);
	ta_unlock(&context->lock);
}
