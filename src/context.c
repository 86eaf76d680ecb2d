/* SPDX-License-Identifier: MIT */
/*
 * Contexts: the table of handles, set-up, destruction, and what each context keeps of descriptors.
 *
 * The table maps the program's handle to our context without following the handle, which may be any
 * number.  Look-ups take no lock: buckets are chains of type-stable contexts, and a hit counts only
 * after its handle was read again under the context's lock.  A miss is settled under table_lock,
 * because a chain can change under a reader's feet.
 *
 * Destroying a kernel context takes two grace periods, about 30 ms.  The caller does not pay them:
 * it waits for what is in flight, as the manual demands, and *retires* the idle kernel context.  A
 * retired one that was never used serves the next io_setup of the same size; the others are
 * destroyed by a retirer thread within 100 ms, so that its share of fs.aio-max-nr comes back.
 *
 * Destruction must not drain the ring while another thread still sleeps in the kernel: the wake-up
 * that was posted for it is an event in that ring, and a sleeper that finds the ring empty again
 * goes on sleeping.  So: first everybody leaves, then the destroyer drives.
 */
#include "internal.h"

#include "pool.h"

#include <string.h>

/* How long a retired kernel context waits for an io_setup that can use it. */
#define RETIRE_GRACE_NS (10 * 1000000LL)
/* A retirer destroys about 30 contexts a second; this many a thread come back within 100 ms. */
#define RETIRED_PER_RETIRER 2
#define RETIRERS_MAX 16
/* How often a destroyer looks again for a POLL that was being submitted when it looked first. */
#define CANCEL_RETRY_NS 1000000LL

static _Atomic(struct ta_context *) *bucket_of(struct ta_process *process, uintptr_t handle)
{
	return &process->buckets[ta_bucket(handle)];
}

/* The settled look-up; table_lock is held. */
static struct ta_context *find_context(struct ta_process *process, uintptr_t handle)
{
	struct ta_context *context;

	if (!handle)
		return NULL;
	for (context = atomic_load_explicit(bucket_of(process, handle), memory_order_relaxed);
	     context; context = atomic_load_explicit(&context->next, memory_order_relaxed))
		if (atomic_load_explicit(&context->handle, memory_order_relaxed) == handle)
			return context;
	return NULL;
}

TA_COLD struct ta_context *ta_context_lock_slow(struct ta_process *process, uintptr_t handle)
{
	struct ta_context *context;

	ta_lock(&process->table_lock);
	context = find_context(process, handle);
	if (context)
		ta_lock(&context->lock);
	ta_unlock(&process->table_lock);
	return context;
}

/* table_lock is held. */
static void link_context(struct ta_process *process, struct ta_context *context, uintptr_t handle)
{
	_Atomic(struct ta_context *) *bucket = bucket_of(process, handle);

	ta_lock(&context->lock);
	atomic_store_explicit(&context->handle, handle, memory_order_relaxed);
	ta_unlock(&context->lock);
	atomic_store_explicit(&context->next, atomic_load_explicit(bucket, memory_order_relaxed),
			      memory_order_relaxed);
	/* release: a look-up that finds the context finds it whole. */
	atomic_store_explicit(bucket, context, memory_order_release);
	context->all_previous = NULL;
	context->all_next = process->contexts;
	if (process->contexts)
		process->contexts->all_previous = context;
	process->contexts = context;
}

/* The handle means nothing any more.  table_lock and the context's lock are held. */
static void unlink_context(struct ta_process *process, struct ta_context *context)
{
	_Atomic(struct ta_context *) *link = bucket_of(process, atomic_load(&context->handle));

	while (atomic_load_explicit(link, memory_order_relaxed) != context)
		link = &atomic_load_explicit(link, memory_order_relaxed)->next;
	/*
	 * The context keeps its own next: a look-up that stands on it walks on and ends with a miss
	 * to be settled.
	 */
	atomic_store_explicit(link, atomic_load_explicit(&context->next, memory_order_relaxed),
			      memory_order_release);
	atomic_store_explicit(&context->handle, 0, memory_order_relaxed);
}

/*
 * Nothing is in flight any more: from here on no fsync looks for earlier requests in the context.
 */
static void unlist_context(struct ta_process *process, struct ta_context *context)
{
	ta_lock(&process->table_lock);
	if (context->all_previous)
		context->all_previous->all_next = context->all_next;
	else
		process->contexts = context->all_next;
	if (context->all_next)
		context->all_next->all_previous = context->all_previous;
	ta_unlock(&process->table_lock);
}

/* table_lock is held. */
static struct ta_context *alloc_context(struct ta_process *process)
{
	struct ta_context *context = process->free_contexts;

	if (!context) {
		const size_t count = 8;
		size_t i;

		context = ta_pages_alloc(count * sizeof(*context));
		if (!context)
			return NULL;
		for (i = 0; i + 1 < count; i++)
			context[i].all_next = &context[i + 1];
		process->free_contexts = context;
	}
	process->free_contexts = context->all_next;
	return context;
}

static void free_context(struct ta_process *process, struct ta_context *context)
{
	ta_lock(&process->table_lock);
	context->all_next = process->free_contexts;
	process->free_contexts = context;
	ta_unlock(&process->table_lock);
}

/*
 * How many requests an idle kernel context of this ring takes: it hands out free places in batches
 * (kernel: ioctx_alloc, req_batch).  Ours take no more, so a full context says so whoever would do
 * the work.
 */
static uint32_t capacity_of(const struct ta_ring *ring)
{
	uint32_t places = ring->event_count - 1;
	uint32_t batch = places / (4 * ta_possible_cpus());

	return batch > 1 ? places / batch * batch : places;
}

/* Memory that is not touched before its slot is needed: an idle context has none of it. */
static int alloc_slots(struct ta_context *context)
{
	uint32_t count = capacity_of(context->ring);

	context->slots = ta_pages_alloc(count * sizeof(*context->slots));
	if (!context->slots)
		return -ENOMEM;
	context->slot_count = count;
	context->touched_slots = 0;
	context->free_slots = NULL;
	return 0;
}

static void free_slots(struct ta_context *context)
{
	if (context->slots)
		ta_pages_free(context->slots, context->slot_count * sizeof(*context->slots));
	context->slots = NULL;
	context->free_slots = NULL;
	context->slot_count = 0;
}

static size_t ring_bytes(uint32_t event_count)
{
	return sizeof(struct ta_ring) + event_count * sizeof(struct io_event);
}

/* ---- retired kernel contexts ----------------------------------------------------------------- */

static struct ta_context *take_retired(struct ta_process *process, unsigned asked, bool any)
{
	struct ta_context **link, *context;

	for (link = &process->retired; (context = *link) != NULL; link = &context->all_next) {
		/*
		 * One that has carried requests keeps free places parked with other CPUs, and would
		 * take fewer than a new one.
		 */
		if (!any && (context->asked != asked || context->sequence > 0))
			continue;
		*link = context->all_next;
		process->retired_count--;
		return context;
	}
	return NULL;
}

static void destroy_retired(struct ta_process *process, struct ta_context *context)
{
	if (context->mode == TA_CONTEXT_OFFLOADED)
		ta_pages_free(context->ring, ring_bytes(context->ring->event_count));
	else
		ta_kaio_destroy(context->kernel_handle);
	free_slots(context);
	free_context(process, context);
}

/*
 * Gives all retired contexts back to the kernel now: its quota is used up.  False if there was
 * none.
 */
static bool flush_retired(struct ta_process *process)
{
	struct ta_context *context;
	bool any = false;

	for (;;) {
		ta_lock(&process->table_lock);
		context = take_retired(process, 0, true);
		ta_unlock(&process->table_lock);
		if (!context)
			return any;
		destroy_retired(process, context);
		any = true;
	}
}

static void *retirer(void *argument)
{
	struct ta_process *process = argument;
	_Atomic uint32_t nobody_wakes = 0;
	struct ta_context *context;

	for (;;) {
		ta_futex_wait(&nobody_wakes, 0, ta_now_ns() + RETIRE_GRACE_NS);
		ta_lock(&process->table_lock);
		context = take_retired(process, 0, true);
		if (!context) {
			process->retirers--;
			ta_unlock(&process->table_lock);
			return NULL;
		}
		ta_unlock(&process->table_lock);
		destroy_retired(process, context);
	}
}

/*
 * The context is idle and unlinked.  Without a thread to be had, the caller waits for the kernel
 * itself.
 */
static void retire(struct ta_process *process, struct ta_context *context)
{
	bool start;

	ta_lock(&process->table_lock);
	if (process->retired_count >= RETIRED_PER_RETIRER * RETIRERS_MAX) {
		ta_unlock(&process->table_lock);
		destroy_retired(process, context);
		return;
	}
	context->all_next = process->retired;
	process->retired = context;
	process->retired_count++;
	start = process->retired_count > RETIRED_PER_RETIRER * process->retirers &&
		process->retirers < RETIRERS_MAX;
	if (start)
		process->retirers++;
	ta_unlock(&process->table_lock);
	if (start && ta_thread_start(retirer, process) < 0) {
		ta_lock(&process->table_lock);
		process->retirers--;
		start = process->retirers == 0;
		ta_unlock(&process->table_lock);
		if (start)
			flush_retired(process);
	}
}

/* ---- set-up ---------------------------------------------------------------------------------- */

/* A context with a kernel context of its own, new or retired. */
static int obtain_context(struct ta_process *process, unsigned nr_events,
			  struct ta_context **obtained)
{
	struct ta_context *context;
	int result;

	ta_lock(&process->table_lock);
	*obtained = take_retired(process, nr_events, false);
	context = *obtained ? NULL : alloc_context(process);
	ta_unlock(&process->table_lock);
	if (*obtained)
		return 0;
	if (!context)
		return -ENOMEM;
	result = ta_kaio_setup(nr_events, &context->kernel_handle);
	if (result == -EAGAIN && flush_retired(process))
		result = ta_kaio_setup(nr_events, &context->kernel_handle);
	if (result < 0) {
		free_context(process, context);
		return result;
	}
	context->asked = nr_events;
	context->sequence = 0;
	context->ring = (struct ta_ring *)context->kernel_handle;
	context->slots = NULL;
	ta_syscall3(SYS_madvise, context->kernel_handle, ring_bytes(context->ring->event_count),
		    MADV_DONTFORK);
	*obtained = context;
	return 0;
}

/*
 * The kernel's arithmetic (ioctx_alloc, aio_setup_ring), so that as many requests find room as with
 * kernel AIO, and the same numbers are refused.
 */
#define KERNEL_PAGE_BYTES 4096u
#define KERNEL_EVENTS_MAX (0x10000000u / sizeof(struct io_event))

static int count_events(unsigned nr_events, uint32_t *event_count)
{
	uint32_t floor = 4 * ta_possible_cpus();
	uint32_t doubled = 2 * (nr_events > floor ? nr_events : floor);
	size_t bytes;

	if (doubled > KERNEL_EVENTS_MAX)
		return -EINVAL;
	/* Doubling has wrapped: the kernel finds that more than its whole quota. */
	if (nr_events > KERNEL_EVENTS_MAX)
		return -EAGAIN;
	bytes = ring_bytes(doubled + 2);
	bytes = (bytes + KERNEL_PAGE_BYTES - 1) / KERNEL_PAGE_BYTES * KERNEL_PAGE_BYTES;
	*event_count = (uint32_t)((bytes - sizeof(struct ta_ring)) / sizeof(struct io_event));
	return 0;
}

/*
 * A context without the kernel's: its handle is a range of ours, laid out like the ring.  The ring
 * stays empty, for whoever looks.
 */
static int make_offloaded(struct ta_process *process, unsigned nr_events,
			  struct ta_context **obtained)
{
	struct ta_context *context;
	uint32_t event_count;
	int result = count_events(nr_events, &event_count);

	if (result < 0)
		return result;
	ta_lock(&process->table_lock);
	context = alloc_context(process);
	ta_unlock(&process->table_lock);
	if (!context)
		return -ENOMEM;
	context->ring = ta_pages_alloc(ring_bytes(event_count));
	if (!context->ring) {
		free_context(process, context);
		return -ENOMEM;
	}
	context->ring->event_count = event_count;
	context->ring->compat_features = 1;
	context->ring->header_length = sizeof(struct ta_ring);
	context->kernel_handle = (unsigned long)context->ring;
	context->mode = TA_CONTEXT_OFFLOADED;
	context->asked = nr_events;
	context->sequence = 0;
	context->slots = NULL;
	*obtained = context;
	return 0;
}

/* 0 and the new context's handle, or what io_setup returns of such a mode. */
int ta_context_setup(struct ta_process *process, unsigned nr_events, enum ta_context_mode mode,
		     io_context_t *handle)
{
	struct ta_context *context;
	int result;

	result = mode == TA_CONTEXT_OFFLOADED ? make_offloaded(process, nr_events, &context)
					      : obtain_context(process, nr_events, &context);
	if (result < 0)
		return result;
	context->mode = mode;
	if (mode == TA_CONTEXT_PASSTHROUGH)
		result = ta_passthrough_open(context);
	else if (!context->slots)
		result = alloc_slots(context);
	if (result < 0) {
		destroy_retired(process, context);
		return result;
	}
	context->dying = false;
	/* Atomic for those who check it in a stale handle. */
	atomic_store_explicit(&context->ring->magic,
			      mode == TA_CONTEXT_PASSTHROUGH ? TA_RING_MAGIC_KERNEL
							     : TA_RING_MAGIC_MEDIATED,
			      memory_order_relaxed);
	ta_lock(&process->table_lock);
	link_context(process, context, context->kernel_handle);
	ta_unlock(&process->table_lock);
	*handle = (io_context_t)context->kernel_handle;
	return 0;
}

/* ---- destruction ----------------------------------------------------------------------------- */

/* A thread that was counted in context->inside goes; the context's lock is held. */
void ta_context_leave(struct ta_context *context)
{
	ta_assert(context->inside > 0);
	if (--context->inside == 0 && context->dying) {
		atomic_fetch_add(&context->inside_word, 1);
		ta_futex_wake(&context->inside_word, 1);
	}
}

/*
 * Unlinks the context and tells its sleepers.  Returns it locked, or NULL if the handle is none: a
 * second destroy finds nothing.
 */
static struct ta_context *begin_destroy(struct ta_process *process, uintptr_t handle)
{
	struct ta_context *context;
	struct ta_waiter *waiter;

	ta_lock(&process->table_lock);
	context = find_context(process, handle);
	if (!context) {
		ta_unlock(&process->table_lock);
		return NULL;
	}
	ta_lock(&context->lock);
	unlink_context(process, context);
	context->dying = true;
	ta_unlock(&process->table_lock);
	for (waiter = context->waiters; waiter; waiter = waiter->next)
		ta_waiter_wake(context, waiter);
	atomic_fetch_add(&context->assist_word, 1);
	ta_futex_wake(&context->assist_word, INT32_MAX);
	return context;
}

/*
 * Cancels what might never end: polls, and reads and writes of streams.  Returns true if something
 * may have slipped through.
 */
static bool cancel_endless(struct ta_context *context, struct ta_work *work)
{
	struct io_event unused_event;
	bool again = false;
	uint32_t i;

	for (i = 0; i < context->touched_slots; i++) {
		struct ta_slot *slot = &context->slots[i];

		if (slot->state == TA_SLOT_KERNEL && slot->iocb.aio_lio_opcode == IO_CMD_POLL) {
			/*
			 * Not found: it is firing right now, or its io_submit has not reached the
			 * kernel yet.
			 */
			if (ta_kaio_cancel(context->kernel_handle, &slot->iocb, &unused_event) ==
			    -EINVAL)
				again = true;
		} else if (slot->state == TA_SLOT_OPERATION &&
			   (slot->operation->is_stream || slot->operation->opcode == IO_CMD_POLL)) {
			ta_operation_abandon(slot->operation, work);
			again = true;
		} else if (slot->state == TA_SLOT_SUBMITTING) {
			again = true;
		}
	}
	return again;
}

/*
 * Waits until no thread sleeps or announces in the context.  The lock is held, and let go
 * meanwhile.  A sleeper in the kernel goes when there is an event; the wake-up that is posted for
 * it needs a place in the ring, and so does the end of each POLL that is cancelled.  Nobody drains
 * meanwhile, so the event stays until all have seen it.
 */
static void wait_until_left(struct ta_context *context, bool wake)
{
	while (context->inside > 0) {
		uint32_t seen = atomic_load(&context->inside_word);
		struct ta_work work = { 0 };
		int64_t deadline_ns = TA_NO_DEADLINE;

		if (wake && cancel_endless(context, &work))
			deadline_ns = 0;
		ta_unlock(&context->lock);
		ta_work_finish(context, &work);
		if (wake && context->mode == TA_CONTEXT_MEDIATED &&
		    ta_ring_is_empty(context->ring) && ta_kaio_post(context->kernel_handle, -1) < 0)
			deadline_ns = 0;
		if (deadline_ns == 0)
			deadline_ns = ta_now_ns() + CANCEL_RETRY_NS;
		ta_futex_wait(&context->inside_word, seen, deadline_ns);
		ta_lock(&context->lock);
	}
}

static void free_ready(struct ta_context *context)
{
	struct ta_slot *slot;

	while ((slot = context->ready_head) != NULL) {
		context->ready_head = slot->next;
		ta_slot_free(context, slot);
	}
	context->ready_tail = NULL;
	context->ready_count = 0;
}

/*
 * Cancels what might never end, and says when to look again: never, or after a multiple of the time
 * that it takes to look, which with a million requests is long.
 */
static int64_t cancel_again_at(struct ta_context *context, struct ta_work *work)
{
	int64_t before_ns = ta_now_ns(), pause_ns;

	if (!cancel_endless(context, work))
		return TA_NO_DEADLINE;
	pause_ns = 8 * (ta_now_ns() - before_ns);
	return ta_now_ns() + (pause_ns > CANCEL_RETRY_NS ? pause_ns : CANCEL_RETRY_NS);
}

/* Drives the context until nothing is in flight; the events are lost, as the manual says. */
static void finish_requests(struct ta_context *context)
{
	struct ta_waiter self = { .want = UINT32_MAX, .event_fd = -1 };
	int64_t deadline_ns = 0;
	int error;

	context->driver = &self;
	for (;;) {
		struct ta_work work = { 0 };

		ta_drain(context, &work);
		if (work.tried || work.issue) {
			ta_unlock(&context->lock);
			ta_work_finish(context, &work);
			ta_lock(&context->lock);
			continue;
		}
		free_ready(context);
		if (context->used == 0 && context->proxies == 0) {
			if (context->inside == 0)
				break;
			wait_until_left(context, false);
			continue;
		}
		if (ta_now_ns() >= deadline_ns)
			deadline_ns = cancel_again_at(context, &work);
		if (work.issue) {
			ta_unlock(&context->lock);
			ta_work_finish(context, &work);
			ta_lock(&context->lock);
			continue;
		}
		ta_drive_once(context, &self, deadline_ns, NULL, &error);
	}
	context->driver = NULL;
}

/* What a context kept of descriptors; the lock is held. */
static void forget_descriptors(struct ta_context *context)
{
	memset(context->descriptors, 0, sizeof(context->descriptors));
	context->last_descriptor = NULL;
	context->free_descriptors = NULL;
	context->free_epochs = NULL;
	ta_pool_free_all(&context->pool_pages);
}

int ta_context_destroy(struct ta_process *process, io_context_t handle)
{
	struct ta_context *context = begin_destroy(process, (uintptr_t)handle);
	bool passthrough;

	if (!context)
		return -EINVAL;
	passthrough = context->mode == TA_CONTEXT_PASSTHROUGH;
	wait_until_left(context, !passthrough);
	if (!passthrough)
		finish_requests(context);
	ta_unlock(&context->lock);
	if (passthrough) {
		ta_kaio_destroy(context->kernel_handle);
		ta_passthrough_close(context);
	}
	unlist_context(process, context);
	ta_lock(&context->lock);
	ta_assert(context->owed == 0 && !context->waiters && !context->driver);
	forget_descriptors(context);
	context->wake_posted = false;
	ta_unlock(&context->lock);
	if (passthrough)
		free_context(process, context);
	else if (context->mode == TA_CONTEXT_OFFLOADED)
		destroy_retired(process, context);
	else
		retire(process, context);
	return 0;
}

/* ---- descriptors and epochs ------------------------------------------------------------------ */

/* The record of a descriptor number, made if there is none; NULL when there is no memory. */
struct ta_descriptor *ta_descriptor_find(struct ta_context *context, int number)
{
	struct ta_descriptor **bucket =
		&context->descriptors[(unsigned)number % TA_DESCRIPTOR_BUCKETS];
	struct ta_descriptor *descriptor;

	for (descriptor = *bucket; descriptor; descriptor = descriptor->next)
		if (descriptor->number == number)
			break;
	if (!descriptor) {
		descriptor = TA_POOL_TAKE(&context->free_descriptors, &context->pool_pages, next);
		if (!descriptor)
			return NULL;
		*descriptor = (struct ta_descriptor){ .number = number, .next = *bucket };
		*bucket = descriptor;
	}
	context->last_descriptor = descriptor;
	return descriptor;
}

/* Gives the descriptor an open epoch: 0 or -EAGAIN. */
int ta_epoch_open(struct ta_context *context, struct ta_descriptor *descriptor)
{
	struct ta_epoch *epoch = TA_POOL_TAKE(&context->free_epochs, &context->pool_pages, next);

	if (!epoch)
		return -EAGAIN;
	*epoch = (struct ta_epoch){ .descriptor = descriptor, .next = descriptor->epochs };
	descriptor->epochs = epoch;
	descriptor->open = epoch;
	return 0;
}

/* The last request of a sealed epoch has ended: tells the syncs that wait for it, and drops it. */
TA_COLD void ta_epoch_drained(struct ta_context *context, struct ta_epoch *epoch,
			      struct ta_work *work)
{
	struct ta_process *process = ta_process();
	struct ta_epoch **link = &epoch->descriptor->epochs;

	if (epoch->waits) {
		context->owed--;
		ta_lock(&process->barrier_lock);
		ta_barrier_drained(&process->barrier, epoch, &work->issue);
		ta_unlock(&process->barrier_lock);
	}
	while (*link != epoch)
		link = &(*link)->next;
	*link = epoch->next;
	TA_POOL_PUT(&context->free_epochs, epoch, next);
}
