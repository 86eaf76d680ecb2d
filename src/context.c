/* SPDX-License-Identifier: MIT */
/*
 * Contexts: the table of handles, set-up and destruction.
 *
 * The table maps the program's handle to our context without following the handle, which may be any
 * number.  Look-ups take no lock: buckets are chains of type-stable contexts, and a hit counts only
 * after its handle was read again under the context's lock.  A miss is settled under table_lock,
 * because a chain can change under a reader's feet.
 *
 * Destruction.  The handle and the generation of the context change first, so that who sleeps
 * there finds out when it wakes, and nobody has to be waited for who might never come back.  Waited
 * for are the library's own threads and io_submits that are not the kernel's alone, which no signal
 * interrupts.  Requests in the kernel's hands are ended by its io_destroy, which also wakes all
 * sleepers and cancels polls.
 *
 * The kernel's io_destroy takes two grace periods, about 30 ms.  Of an idle context the caller does
 * not pay them: it is *retired*.  A retired one that was never used serves the next io_setup of the
 * same size; the others are destroyed by a retirer thread within 100 ms, so that their share of
 * fs.aio-max-nr comes back.  Its sleepers are woken by an event that nobody drains.
 */
#include "internal.h"

#include "work.h"
#include "pool.h"

/* How long a retired kernel context waits for an io_setup that can use it. */
#define RETIRE_GRACE_NS (10 * 1000000LL)

/*
 * What is brief takes microseconds: after so long its thread has left it by a jump, or stands in a
 * page fault or a full disk queue, and finds the context gone when it comes back.
 */
#define BRIEF_NS (2000 * 1000000LL)

/* How far destruction moves the generation at most, as zero is skipped. */
#define GENERATION_STEP_MAX 2
/* A retirer destroys about 30 contexts a second; this many a thread come back within 100 ms. */
#define RETIRED_PER_RETIRER 2
#define RETIRERS_MAX 16

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

/* table_lock is held. */
static struct ta_context *alloc_context(struct ta_process *process)
{
	struct ta_context *context = process->free_contexts;

	if (!context) {
		size_t count = TA_PAGE_BYTES / sizeof(*context), i;

		context = ta_page_take();
		if (!context)
			return NULL;
		memset(context, 0, TA_PAGE_BYTES);
		for (i = 0; i + 1 < count; i++)
			context[i].list_next = &context[i + 1];
	}
	process->free_contexts = context->list_next;
	return context;
}

static void free_context(struct ta_process *process, struct ta_context *context)
{
	ta_lock(&process->table_lock);
	context->list_next = process->free_contexts;
	process->free_contexts = context;
	ta_unlock(&process->table_lock);
}

/* ---- slots ----------------------------------------------------------------------------------- */

/*
 * How many requests an idle kernel context of this ring takes: it hands out free places in batches
 * (kernel: ioctx_alloc, req_batch).  Ours take no more, so a full context says so, whatever thread
 * would do the work.
 */
static uint32_t capacity_of(const struct ta_context *context)
{
	uint32_t places = context->event_count - 1;
	uint32_t batch = places / (4 * ta_possible_cpus());

	return batch > 1 ? places / batch * batch : places;
}

/* One more page of slots; the first of them, or NULL when there is no memory. */
TA_COLD struct ta_slot *ta_slots_grow(struct ta_context *context)
{
	struct ta_slot_page *page = ta_page_take();
	size_t i;

	if (!page)
		return NULL;
	page->context = context;
	page->next = context->slot_pages;
	context->slot_pages = page;
	for (i = 0; i < TA_SLOTS_A_PAGE; i++) {
		page->slots[i].state = TA_SLOT_FREE;
		page->slots[i].next = i + 1 < TA_SLOTS_A_PAGE ? &page->slots[i + 1] : NULL;
	}
	context->free_slots = page->slots;
	return page->slots;
}

/* Those of an io_submit that its thread has left, by sequence.  The lock is held. */
TA_COLD void ta_slots_abandon(struct ta_context *context, uint64_t after, uint64_t latest)
{
	struct ta_slot_page *page;
	size_t i;

	for (page = context->slot_pages; page; page = page->next) {
		for (i = 0; i < TA_SLOTS_A_PAGE; i++) {
			struct ta_slot *slot = &page->slots[i];

			if (slot->state != TA_SLOT_SUBMITTING || slot->sequence <= after ||
			    slot->sequence > latest)
				continue;
			if (context->index)
				ta_index_remove(context, slot);
			ta_slot_free(context, slot);
		}
	}
}

static void free_slots(struct ta_context *context)
{
	struct ta_slot_page *page;

	while ((page = context->slot_pages) != NULL) {
		context->slot_pages = page->next;
		page->context = NULL;
		ta_page_put(page);
	}
	context->free_slots = NULL;
	context->used = 0;
	if (context->index)
		ta_page_put(context->index);
	context->index = NULL;
}

static size_t ring_bytes(uint32_t event_count)
{
	return sizeof(struct ta_ring) + event_count * sizeof(struct io_event);
}

/* ---- retired kernel contexts ----------------------------------------------------------------- */

static struct ta_context *take_retired(struct ta_process *process, unsigned asked, bool any)
{
	struct ta_context **link, *context;

	for (link = &process->retired; (context = *link) != NULL; link = &context->list_next) {
		/*
		 * One that has carried requests keeps free places parked with other CPUs, and would
		 * take fewer than a new one; and one in which somebody sleeps has an event in its
		 * ring.
		 */
		if (!any &&
		    (context->asked != asked || context->sequence > 0 || context->sleepers > 0))
			continue;
		*link = context->list_next;
		process->retired_count--;
		return context;
	}
	return NULL;
}

/* The kernel finds its context by a number in the ring, which is the program's memory. */
static void destroy_kernel_context(const struct ta_context *context)
{
	struct ta_ring *ring = (struct ta_ring *)context->kernel_handle;

	if (ta_kaio_destroy(context->kernel_handle) != -EINVAL || !ta_memory_ask(&ring->id))
		return;
	ring->id = context->ring_id;
	ta_kaio_destroy(context->kernel_handle);
}

static void destroy_retired(struct ta_process *process, struct ta_context *context)
{
	if (context->mode == TA_CONTEXT_OFFLOADED)
		ta_pages_free((void *)context->kernel_handle, ring_bytes(context->event_count));
	else
		destroy_kernel_context(context);
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

/* A helper that destroys retired contexts until there are none. */
void *ta_retirer(void *argument)
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
 * The context is idle and unlinked.  Without a thread for it, the caller waits for the kernel
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
	context->list_next = process->retired;
	process->retired = context;
	process->retired_count++;
	start = process->retired_count > RETIRED_PER_RETIRER * process->retirers &&
		process->retirers < RETIRERS_MAX;
	if (start)
		process->retirers++;
	ta_unlock(&process->table_lock);
	if (start && !ta_retirer_start(process)) {
		ta_lock(&process->table_lock);
		start = --process->retirers == 0;
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
	context->event_count = ((struct ta_ring *)context->kernel_handle)->event_count;
	context->ring_id = ((struct ta_ring *)context->kernel_handle)->id;
	ta_syscall3(SYS_madvise, context->kernel_handle, ring_bytes(context->event_count),
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
 * stays empty for all who look.
 */
static int make_offloaded(struct ta_process *process, unsigned nr_events,
			  struct ta_context **obtained)
{
	struct ta_context *context;
	struct ta_ring *ring;
	uint32_t event_count;
	int result = count_events(nr_events, &event_count);

	if (result < 0)
		return result;
	ta_lock(&process->table_lock);
	context = alloc_context(process);
	ta_unlock(&process->table_lock);
	if (!context)
		return -ENOMEM;
	ring = ta_pages_alloc(ring_bytes(event_count));
	if (!ring) {
		free_context(process, context);
		return -ENOMEM;
	}
	ring->event_count = event_count;
	ring->compat_features = 1;
	ring->header_length = sizeof(struct ta_ring);
	context->event_count = event_count;
	context->kernel_handle = (unsigned long)ring;
	*obtained = context;
	return 0;
}

/*
 * What a context that serves again has left; table_lock keeps others from it, and its handle is
 * none yet.
 */
static void reset(struct ta_context *context, unsigned nr_events, enum ta_context_mode mode)
{
	ta_lock(&context->lock);
	ta_context_set_generation(context, context->generation + (context->generation == 0));
	context->mode = mode;
	context->asked = nr_events;
	context->ring = (struct ta_ring *)context->kernel_handle;
	context->dying = false;
	context->sequence = 0;
	context->at_once = 0;
	context->sleepers = context->unaware = context->unlimited = context->most_wanted = 0;
	context->wake_posted = false;
	context->may_post = false;
	context->latest = NULL;
	context->slot_count = capacity_of(context);
	ta_unlock(&context->lock);
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
	reset(context, nr_events, mode);
	if (mode != TA_CONTEXT_OFFLOADED)
		atomic_store(&process->has_kernel_contexts, true);
	if (mode == TA_CONTEXT_PASSTHROUGH)
		result = ta_passthrough_open(context);
	if (result < 0) {
		destroy_retired(process, context);
		return result;
	}
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

/* One of the counts that a destroyer waits for has fallen.  The lock is held. */
static void announce_zero(struct ta_context *context, uint32_t count)
{
	if (count > 0 || !context->dying)
		return;
	atomic_fetch_add(&context->inside_word, 1);
	ta_futex_wake(&context->inside_word, 1);
}

/* Until one of them has fallen to zero, or -ETIMEDOUT.  The lock is held, and let go meanwhile. */
static int wait_for_zero(struct ta_context *context, int64_t deadline_ns)
{
	uint32_t seen = atomic_load(&context->inside_word);
	int result;

	ta_unlock(&context->lock);
	result = ta_futex_wait(&context->inside_word, seen, deadline_ns);
	ta_lock(&context->lock);
	return result;
}

/* A thread that was counted in context->inside goes; the context's lock is held. */
void ta_context_leave(struct ta_context *context)
{
	ta_assert(context->inside > 0);
	announce_zero(context, --context->inside);
}

/*
 * The same for one that was counted in context->at_once, in this generation.  A handler that jumps
 * out between the two steps leaves one too many counted, never too few.
 */
void ta_context_leave_at_once(struct ta_context *context, uint32_t generation)
{
	/* It may be another context by now: wait_for_brief_ones. */
	bool is_counted =
		context->at_once > 0 && context->generation - generation <= GENERATION_STEP_MAX;

	ta_thread.brief.batch = NULL;
	atomic_signal_fence(memory_order_seq_cst);
	if (is_counted)
		announce_zero(context, --context->at_once);
}

/* The ready list as far as it is one; the step that was left has not counted what it has linked. */
static void recount_ready(struct ta_context *context)
{
	struct ta_slot *slot = context->ready_head, *last = NULL;

	context->ready_count = 0;
	for (; slot && slot->state == TA_SLOT_READY; slot = slot->next) {
		last = slot;
		context->ready_count++;
	}
	context->ready_tail = last;
	if (last)
		last->next = NULL;
	else
		context->ready_head = NULL;
}

void ta_context_mend(struct ta_lock *lock)
{
	struct ta_process *process = ta_process();
	struct ta_context *context;
	int i;

	for (i = 0; i < TA_BUCKETS; i++)
		for (context = atomic_load(&process->buckets[i]); context;
		     context = atomic_load(&context->next))
			if (&context->lock == lock)
				recount_ready(context);
}

/* Never to zero, which a forked child finds there. */
static void advance_generation(struct ta_context *context, uint32_t steps)
{
	uint32_t generation = context->generation + steps;

	ta_context_set_generation(context, generation + (generation == 0));
}

/*
 * The buffers of brief requests are the program's again when io_destroy returns.  A thread that has
 * left one by a jump is not waited for.  The lock is held, and let go meanwhile.
 */
static void wait_for_brief_ones(struct ta_context *context)
{
	int64_t deadline_ns = ta_now_ns() + BRIEF_NS;
	int result = 0;

	while (context->at_once > 0 && result != -ETIMEDOUT)
		result = wait_for_zero(context, deadline_ns);
	if (context->at_once > 0)
		advance_generation(context, GENERATION_STEP_MAX);
	context->at_once = 0;
}

/* Waits until no thread is inside.  The lock is held, and let go meanwhile. */
static void wait_until_left(struct ta_context *context)
{
	while (context->inside > 0)
		(void)wait_for_zero(context, TA_NO_DEADLINE);
}

/* Waits until the library's own operations have ended, and their eventfds are signalled. */
static void wait_for_operations(struct ta_context *context)
{
	while (context->operations > 0 || context->inside > 0)
		(void)wait_for_zero(context, TA_NO_DEADLINE);
}

/*
 * Unlinks the context: from here on its sleepers are strangers.  Returns it locked, or NULL if the
 * handle is none: a second destroy finds nothing.
 */
static struct ta_context *begin_destroy(struct ta_process *process, uintptr_t handle)
{
	struct ta_context *context;

	ta_lock(&process->table_lock);
	context = find_context(process, handle);
	if (context) {
		ta_lock(&context->lock);
		unlink_context(process, context);
		context->dying = true;
		advance_generation(context, 1);
	}
	ta_unlock(&process->table_lock);
	return context;
}

static bool may_wait_for_ever(const struct ta_operation *operation)
{
	return ta_is_stream(operation) || operation->opcode == IO_CMD_POLL;
}

/*
 * Of our operations those that might never end: polls, and reads and writes of streams.  The lock
 * is held.
 */
static void abandon_endless(struct ta_context *context)
{
	struct ta_slot_page *page;
	size_t i;

	for (page = context->slot_pages; page; page = page->next) {
		for (i = 0; i < TA_SLOTS_A_PAGE; i++) {
			struct ta_slot *slot = &page->slots[i];

			if (slot->state == TA_SLOT_OPERATION && may_wait_for_ever(slot->operation))
				ta_operation_abandon(slot->operation);
		}
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
	context->unaware = 0;
}

/* The kernel context is gone: so are all requests that it had.  The lock is held. */
static void end_kernel_requests(struct ta_context *context, struct ta_work *work)
{
	struct ta_slot_page *page;
	size_t i;

	for (page = context->slot_pages; page; page = page->next) {
		for (i = 0; i < TA_SLOTS_A_PAGE; i++) {
			struct ta_slot *slot = &page->slots[i];

			if (slot->state != TA_SLOT_KERNEL)
				continue;
			if (slot->epoch)
				ta_epoch_leave(context, slot->epoch, work);
			ta_slot_free(context, slot);
		}
	}
}

/*
 * The lock is held, and let go meanwhile.  No sleeper is told: it finds out by the call that it
 * sleeps in.
 */
static void destroy_in_kernel(struct ta_context *context)
{
	struct ta_work work = { 0 };

	context->ring = NULL;
	ta_unlock(&context->lock);
	destroy_kernel_context(context);
	ta_lock(&context->lock);
	end_kernel_requests(context, &work);
	ta_unlock(&context->lock);
	ta_work_finish(&work);
	ta_lock(&context->lock);
}

/*
 * Ends what is in flight, and wakes all who sleep.  The lock is held, and let go meanwhile.  True:
 * the kernel context is idle and still there.
 */
static bool finish_mediated(struct ta_context *context)
{
	struct ta_work work = { 0 };
	bool is_idle;

	ta_drain(context, &work);
	free_ready(context);
	is_idle = context->used == context->operations;
	if (is_idle && context->sleepers > 0)
		is_idle = ta_kaio_post(context->kernel_handle, ta_wake_events(context)) == 0;
	ta_unlock(&context->lock);
	ta_work_finish(&work);
	ta_lock(&context->lock);
	if (!is_idle)
		destroy_in_kernel(context);
	return is_idle;
}

/* Those who sleep find out that the context is gone.  The lock is held. */
static void wake_sleepers(struct ta_context *context)
{
	atomic_fetch_add(&context->word, 1);
	if (context->mode == TA_CONTEXT_OFFLOADED)
		ta_futex_wake(&context->word, INT32_MAX);
	else if (context->mode == TA_CONTEXT_MEDIATED && context->sleepers > 0)
		ta_kaio_post(context->kernel_handle, ta_wake_events(context));
}

/* What a context kept of descriptors; the lock is held. */
static void forget_epochs(struct ta_context *context)
{
	ta_assert(atomic_load(&context->owed) == 0);
	memset(context->epoch_buckets, 0, sizeof(context->epoch_buckets));
	context->open_epochs = NULL;
	context->last_epoch = NULL;
	context->free_epochs = NULL;
	ta_pool_free_all(&context->pool_pages);
}

/* The lock is held, and let go meanwhile.  True: a kernel context is left to retire. */
static bool finish(struct ta_context *context)
{
	bool is_idle = false;

	wake_sleepers(context);
	wait_until_left(context);
	wait_for_brief_ones(context);
	if (context->mode == TA_CONTEXT_PASSTHROUGH) {
		destroy_in_kernel(context);
		ta_unlock(&context->lock);
		/*
		 * What is tracked has ended, whatever the ring said.  Held fsyncs are carried out
		 * without it.
		 */
		ta_passthrough_close(context);
		ta_lock(&context->lock);
		wait_for_operations(context);
		return false;
	}
	abandon_endless(context);
	if (context->mode == TA_CONTEXT_MEDIATED)
		is_idle = finish_mediated(context);
	wait_for_operations(context);
	free_ready(context);
	return is_idle;
}

static void destroy(struct ta_process *process, struct ta_context *context)
{
	bool is_idle = finish(context);

	/* An fsync may still find the context among the busy ones. */
	context->ring = NULL;
	forget_epochs(context);
	free_slots(context);
	ta_unlock(&context->lock);
	if (is_idle)
		retire(process, context);
	else if (context->mode == TA_CONTEXT_OFFLOADED)
		destroy_retired(process, context);
	else
		free_context(process, context);
}

/* io_destroy(3).  As the kernel's, it is not interrupted by signals. */
int ta_context_destroy(struct ta_process *process, io_context_t handle)
{
	struct ta_signals before;
	struct ta_context *context;

	ta_signals_block(&before);
	context = begin_destroy(process, (uintptr_t)handle);
	if (context)
		destroy(process, context);
	ta_signals_set(&before, NULL);
	return context ? 0 : -EINVAL;
}
