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
 * A held fsync is kept by a custodian, which submits the program's iocb when its turn has come and
 * follows the ring until it has ended.  The iocb must be unchanged by then, as the manual of
 * io_submit(2) asks of every program.
 */
#include "internal.h"

#include "custody.h"
#include "progress.h"

#include <string.h>

#define BATCH_MAX 256

struct tracked {
	const struct iocb *object;
	struct ta_epoch *epoch;
	struct tracked *next; /* in its bucket, newest first; or free */
	_Atomic uint32_t *ended; /* set to 1 when the event is seen; NULL: nobody asks */
};

/* Guarded by the context's lock. */
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
	uint32_t count = context->ring->event_count - 1;
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
	tracking->cursor = ta_ring_open(context->ring).tail;
	tracking->bucket_mask = buckets - 1;
	tracking->buckets = (struct tracked **)(void *)&tracking->entries[count];
	for (i = 0; i < count; i++) {
		tracking->entries[i].next = tracking->free;
		tracking->free = &tracking->entries[i];
	}
	context->tracking = tracking;
	return 0;
}

/* NULL: as many are in flight as the ring holds. */
static struct tracked *track(struct ta_context *context, const struct iocb *object,
			     struct ta_epoch *epoch)
{
	struct ta_tracking *tracking = context->tracking;
	struct tracked *tracked = tracking->free;
	struct tracked **bucket = bucket_of(tracking, object);

	if (!tracked)
		return NULL;
	tracking->free = tracked->next;
	*tracked = (struct tracked){ .object = object, .epoch = epoch, .next = *bucket };
	*bucket = tracked;
	if (epoch)
		epoch->in_flight++;
	return tracked;
}

static void untrack(struct ta_context *context, struct tracked *tracked, struct ta_work *work)
{
	struct ta_tracking *tracking = context->tracking;
	struct tracked **link = bucket_of(tracking, tracked->object);

	while (*link != tracked)
		link = &(*link)->next;
	*link = tracked->next;
	if (tracked->epoch)
		ta_epoch_leave(context, tracked->epoch, work);
	if (tracked->ended)
		atomic_store(tracked->ended, 1);
	tracked->next = tracking->free;
	tracking->free = tracked;
}

/* Follows the ring: what has an event there has ended.  The lock is held. */
void ta_passthrough_scan(struct ta_context *context, struct ta_work *work)
{
	struct ta_tracking *tracking = context->tracking;
	struct ta_ring_reader reader = ta_ring_open(context->ring);
	const struct io_event *event;

	reader.head = tracking->cursor;
	while ((event = ta_ring_next(context->ring, &reader)) != NULL) {
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
	ta_work_finish(context, &work);
	ta_pages_free(tracking, tracking->bytes);
}

/* ---- submission ------------------------------------------------------------------------------ */

/* The open epoch of a descriptor; NULL when there is no memory for one. */
static struct ta_epoch *open_epoch(struct ta_context *context, int number)
{
	struct ta_descriptor *descriptor = ta_descriptor_of(context, number);

	if (!descriptor || (!descriptor->open && ta_epoch_open(context, descriptor) < 0))
		return NULL;
	return descriptor->open;
}

/* A copy of element i, or false: then the kernel will refuse it. */
static bool read_element(struct iocb **iocbs, long i, struct iocb **object, struct iocb *copy)
{
	return ta_copy_in(object, &iocbs[i], sizeof(*object)) &&
	       ta_copy_in(copy, *object, sizeof(*copy));
}

static bool is_sync(const struct iocb *iocb)
{
	return iocb->aio_lio_opcode == IO_CMD_FSYNC || iocb->aio_lio_opcode == IO_CMD_FDSYNC;
}

/*
 * Gives up to BATCH_MAX elements to the kernel, up to the first fsync after the first element.  The
 * lock is held, and let go.  Returns what io_submit returns.
 */
static long submit_tracked(struct ta_context *context, long nr, struct iocb **iocbs)
{
	struct tracked *tracked[BATCH_MAX];
	struct ta_work work = { 0 };
	struct iocb *object, copy;
	long count, result, i;

	ta_passthrough_scan(context, &work);
	for (count = 0; count < nr && count < BATCH_MAX; count++) {
		struct ta_epoch *epoch = NULL;

		tracked[count] = NULL;
		if (!read_element(iocbs, count, &object, &copy) ||
		    copy.aio_lio_opcode == IO_CMD_POLL)
			continue;
		if (count > 0 && is_sync(&copy))
			break;
		epoch = open_epoch(context, copy.aio_fildes);
		tracked[count] = epoch ? track(context, object, epoch) : NULL;
		if (!tracked[count])
			break;
	}
	/* As in the kernel, io_destroy waits for an io_submit that is inside. */
	context->inside++;
	ta_unlock(&context->lock);
	result = count > 0 ? ta_kaio_submit(context->kernel_handle, count, iocbs) : -EAGAIN;
	ta_lock(&context->lock);
	for (i = result > 0 ? result : 0; i < count; i++)
		if (tracked[i])
			untrack(context, tracked[i], &work);
	ta_context_leave(context);
	ta_unlock(&context->lock);
	ta_work_finish(context, &work);
	return result;
}

static uint64_t seal_open_epochs(struct ta_context *context)
{
	struct ta_descriptor *descriptor;
	unsigned i;

	context->sequence++;
	for (i = 0; i < TA_DESCRIPTOR_BUCKETS; i++) {
		for (descriptor = context->descriptors[i]; descriptor;
		     descriptor = descriptor->next) {
			if (!descriptor->open || descriptor->open->in_flight == 0)
				continue;
			descriptor->open->sealed = true;
			descriptor->open->sealed_at = context->sequence;
			descriptor->open = NULL;
		}
	}
	return context->sequence;
}

/* A group of its own for each: its event can only come from a request of its own. */
static int unique_group(void)
{
	static _Atomic int latest;

	return -2 - (atomic_fetch_add(&latest, 1) & 0x3fffffff);
}

/*
 * Holds an fsync.  1: held; 0: it can go to the kernel at once; or a negative errno.  No lock is
 * held.
 */
static int hold_sync(struct ta_context *context, struct iocb *object, const struct iocb *copy,
		     uint64_t before)
{
	bool signals = copy->u.c.flags & IOCB_FLAG_RESFD;
	struct ta_file_identity identity;
	struct ta_operation *operation;
	bool alone = false;
	int result;

	if (ta_file_identify(copy->aio_fildes, &identity) < 0 ||
	    ta_file_cannot_sync(copy->aio_fildes, identity.mode))
		return 0;
	if (!ta_sync_eventfd_is_good(context, copy))
		return 0;
	if (copy->u.c.buf || copy->u.c.nbytes || copy->u.c.offset || copy->aio_rw_flags ||
	    copy->u.c.__pad3)
		return 0;
	operation = ta_operation_alloc();
	if (!operation)
		return -EAGAIN;
	operation->context = context;
	operation->object = object;
	operation->proxy = *copy;
	operation->opcode = (uint8_t)copy->aio_lio_opcode;
	operation->is_sync = true;
	result = ta_sync_enter(operation, &identity, copy->aio_fildes, unique_group(), before,
			       &alone);
	if (result == 0 && !alone)
		result = ta_custody_begin(operation, copy->aio_fildes,
					  signals ? (int)copy->u.c.resfd : -1);
	if (result < 0 || alone) {
		if (operation->sync)
			ta_sync_refused(operation);
		else
			ta_operation_discard(operation);
		return result;
	}
	ta_lock(&context->lock);
	context->inside++;
	ta_unlock(&context->lock);
	ta_sync_accepted(operation);
	return 1;
}

/* io_submit(3) of a pass-through context.  The lock is held, and let go. */
int ta_passthrough_submit(struct ta_process *process, struct ta_context *context, long nr,
			  struct iocb **iocbs)
{
	io_context_t handle = (io_context_t)context->kernel_handle;
	long total = 0, result = 0;

	while (context) {
		struct iocb *object, copy;
		uint64_t before;

		if (nr - total == 0)
			break;
		result = 0;
		if (read_element(iocbs, total, &object, &copy) && is_sync(&copy)) {
			struct ta_work work = { 0 };

			ta_passthrough_scan(context, &work);
			before = seal_open_epochs(context);
			context->inside++;
			ta_unlock(&context->lock);
			ta_work_finish(context, &work);
			result = hold_sync(context, object, &copy, before);
			ta_lock(&context->lock);
			ta_context_leave(context);
		}
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

/* ---- held fsyncs, on their custodian's thread ------------------------------------------------ */

static void pause_scanning(struct ta_context *context, int64_t since_ns)
{
	uint32_t seen = atomic_load(&context->assist_word);

	ta_futex_wait(&context->assist_word, seen, ta_now_ns() + ta_scan_interval_ns(since_ns));
}

/*
 * Submits the program's iocb, when the ring has room.  False: it is refused, because the program
 * has changed it.
 */
static bool submit_held(struct ta_operation *operation, _Atomic uint32_t *ended)
{
	struct ta_context *context = operation->context;
	int64_t since_ns = ta_now_ns();
	struct iocb *list = operation->object;
	long result;

	for (;;) {
		struct ta_work work = { 0 };
		struct tracked *tracked;

		ta_lock(&context->lock);
		ta_passthrough_scan(context, &work);
		tracked = track(context, operation->object,
				open_epoch(context, operation->proxy.aio_fildes));
		if (tracked)
			tracked->ended = ended;
		ta_unlock(&context->lock);
		ta_work_finish(context, &work);
		result = tracked ? ta_kaio_submit(context->kernel_handle, 1, &list) : -EAGAIN;
		if (result == 1)
			return true;
		work = (struct ta_work){ 0 };
		ta_lock(&context->lock);
		if (tracked) {
			tracked->ended = NULL;
			untrack(context, tracked, &work);
		}
		ta_unlock(&context->lock);
		ta_work_finish(context, &work);
		if (result != -EAGAIN)
			return false;
		pause_scanning(context, since_ns);
	}
}

/* The turn of a held fsync has come. */
void ta_passthrough_sync(struct ta_operation *operation)
{
	struct ta_context *context = operation->context;
	int64_t since_ns = ta_now_ns();
	_Atomic uint32_t ended = 0;

	if (!submit_held(operation, &ended)) {
		ta_log("pass-through: the iocb of a held fsync was changed before its event; "
		       "it has none");
		ended = 1;
	}
	while (!atomic_load(&ended)) {
		struct ta_work work = { 0 };

		ta_lock(&context->lock);
		ta_passthrough_scan(context, &work);
		ta_unlock(&context->lock);
		ta_work_finish(context, &work);
		if (!atomic_load(&ended))
			pause_scanning(context, since_ns);
	}
	ta_operation_ended(operation, 0);
}

/* The program has its event; the operation goes. */
void ta_passthrough_finished(struct ta_operation *operation)
{
	struct ta_context *context = operation->context;

	ta_operation_free(operation);
	ta_lock(&context->lock);
	context->operations--;
	ta_context_leave(context);
	ta_unlock(&context->lock);
}
