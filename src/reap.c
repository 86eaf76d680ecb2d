/* SPDX-License-Identifier: MIT */
/*
 * Reaping: io_getevents and its relatives.
 *
 * Who holds the context's lock takes events from the ready list and straight from the kernel's
 * ring: a caller that finds enough returns without a system call, with one lock, one acquire of
 * tail and one release of head.
 *
 * Waiting has no roles.  Every thread that waits in a mediated context sleeps in the kernel's
 * io_getevents until the ring is not empty, consuming nothing (kaio.c).  Who wakes looks under
 * the lock, takes what it is to have, and sleeps again if that is not enough.  In an offloaded
 * context they sleep on one word.  So a wait is what it is in libaio, a bare system call: it can be
 * left by siglongjmp, pthread_exit, cancellation, by a handler that calls exit or fork, or never,
 * and nobody else depends on it.  All signals are blocked but during the sleep itself, in which the
 * thread holds nothing.
 *
 * What a thread that sleeps leaves behind is a count, context->sleepers, raised under the lock
 * before the lock is let go.  One that is never lowered again, because the thread was left
 * otherwise, costs wake-ups for nobody.
 *
 * A thread that has looked and not yet slept would find an empty ring if another drained it
 * meanwhile.  So each sleeper remembers the arrivals that it has seen, and context->unaware counts
 * those who have not seen the latest.  Who leaves ended requests in the ready list, to return
 * or to sleep, posts a wake-up if somebody is unaware.  A waiter for more than there is, which the
 * posted wake-up wakes as well, sleeps for a moment beside the ring until the others have looked.
 *
 * As in the kernel, a waiter for k events takes what is there when it comes, then leaves later ones
 * for others until the rest of its k are there together; at its timeout it takes what there is.
 */
#include "internal.h"

#include <limits.h>
#include <poll.h>
#include <signal.h>

/*
 * A posted wake-up needs a place in the ring.  Where it may find none, sleepers look for themselves
 * after this long: where such wake-ups are known to come, and where they are not.
 */
#define SHORT_SLEEP_NS 2000000LL
#define LONG_SLEEP_NS 50000000LL
/* Who sleeps for several events looks for itself after this long. */
#define LOOK_NS 500000000LL
/*
 * Sleeps beside what would wake: a wait with a mask in an offloaded context, for no futex call
 * takes one; or until those who have not looked have done so.  An eighth of the time that the wait
 * has lasted, within these.
 */
#define PAUSE_FIRST_NS 20000LL
#define PAUSE_MAX_NS 50000000LL

/* The kernel's field has 64 bits, whatever a long of the program's has, and a sign. */
static inline void set_result(struct io_event *event, int64_t result)
{
	memcpy((char *)event + TA_FIELD_RES, &result, sizeof(result));
}

static long take_ready(struct ta_context *context, struct io_event *events, long nr)
{
	long taken = 0;

	while (taken < nr && context->ready_head) {
		struct ta_slot *slot = context->ready_head;

		context->ready_head = slot->next;
		if (!context->ready_head)
			context->ready_tail = NULL;
		context->ready_count--;
		/* Unlinked before it is free, for a handler that does not come back. */
		atomic_signal_fence(memory_order_seq_cst);
		events[taken] = (struct io_event){ .data = slot->iocb.data, .obj = slot->object };
		set_result(&events[taken++], slot->result);
		ta_slot_free(context, slot);
	}
	return taken;
}

static inline long take_from_ring(struct ta_context *context, struct ta_ring_reader reader,
				  struct io_event *events, long nr, struct ta_work *work)
{
	const struct io_event *event;
	long taken = 0;

	while (taken < nr && (event = ta_ring_next(&reader)) != NULL) {
		struct ta_slot *slot = ta_kernel_event(context, event, work);

		if (ta_unlikely(!slot))
			continue;
		events[taken] = (struct io_event){ .data = slot->iocb.data, .obj = slot->object };
		set_result(&events[taken++], (int64_t)event->res);
		ta_slot_free(context, slot);
	}
	ta_ring_publish(reader);
	return taken;
}

/* An offloaded context has an empty one. */
static inline struct ta_ring_reader open_ring(const struct ta_context *context)
{
	if (ta_unlikely(context->mode == TA_CONTEXT_OFFLOADED))
		return (struct ta_ring_reader){ 0 };
	return ta_ring_open(context->ring, context->event_count);
}

/* The array cannot be written as far as it seemed to be needed: events of our own need no room. */
static TA_COLD bool has_no_room(struct ta_context *context, struct io_event *events, long nr,
				struct ta_work *work)
{
	long available;

	ta_drain(context, work);
	available = (long)context->ready_count < nr ? (long)context->ready_count : nr;
	return available > 0 && !ta_memory_probe(events, (size_t)available * sizeof(*events), true);
}

/*
 * Takes up to nr ended requests.  Returns how many, or -EFAULT with nothing consumed if their
 * events cannot be written.  Only as much of the array is looked at as there is to write.
 */
static inline __attribute__((always_inline)) long
take(struct ta_context *context, struct io_event *events, long nr, struct ta_work *work)
{
	struct ta_ring_reader reader = open_ring(context);
	long available = (long)context->ready_count + (long)ta_ring_available(reader);
	long taken = 0;

	if (available == 0)
		return 0;
	if (available > nr)
		available = nr;
	if (ta_unlikely(!ta_memory_probe(events, (size_t)available * sizeof(*events), true))) {
		if (has_no_room(context, events, nr, work)) {
			ta_wake_unaware(context);
			return -EFAULT;
		}
		reader = open_ring(context);
	}
	if (ta_unlikely(context->ready_head != NULL))
		taken = take_ready(context, events, nr);
	if (taken < nr && reader.head != reader.tail)
		taken += take_from_ring(context, reader, events + taken, nr - taken, work);
	else if (ta_unlikely(context->wake_posted))
		/* Events of our own must not fill a ring whose program reaps one by one. */
		ta_drain(context, work);
	ta_wake_unaware(context);
	return taken;
}

/* ---- sleeping -------------------------------------------------------------------------------- */

/*
 * After how long must a sleeper look for itself?  Where the program's requests may have taken all
 * places that the kernel keeps free in the ring (it parks free places per CPU, up to half of them)
 * a wake-up of ours may find none.  The lock is held.
 */
int64_t ta_sleep_limit_ns(const struct ta_context *context)
{
	if (context->may_post && context->used > context->slot_count / 4)
		return SHORT_SLEEP_NS;
	return context->used > context->slot_count / 2 ? LONG_SLEEP_NS : TA_NO_DEADLINE;
}

/*
 * Where all that can come is the kernel's, and nobody else sleeps, it is told how many events are
 * wanted, and wakes the thread once for them.  Others may drain what it counts, and then have to
 * post as many; so it looks for itself from time to time.  Who comes to sleep beside it wakes it.
 */
static uint32_t events_to_sleep_for(const struct ta_context *context, uint32_t want)
{
	uint32_t most = context->slot_count / 4;

	if (context->may_post || context->sleepers > 0 || want <= 1 || most <= 1)
		return 1;
	if (most > TA_POSTED_MAX)
		most = TA_POSTED_MAX;
	return want < most ? want : most;
}

/*
 * With this mask of signals.  Where a sandbox refuses that, one may come just before the sleep, and
 * does not end it.
 */
static int sleep_with_mask(int64_t ns, const void *mask)
{
	struct timespec timeout = ta_timespec(ns);
	long result = ta_syscall5(SYS_ppoll, NULL, 0, &timeout, mask, TA_SIGNAL_SET_BYTES);
	_Atomic uint32_t unused_word = 0;
	struct ta_signals before;

	if (ta_call_is_refused(result)) {
		ta_signals_set(mask, &before);
		result = ta_futex_wait(&unused_word, 0, ta_now_ns() + ns);
		ta_signals_set(&before, NULL);
	}
	return result == -ETIMEDOUT ? 0 : (int)result;
}

/*
 * The kernel has events, and the ring shows none, nor has anybody taken any: the program has put
 * something else in its place.  The lock is held, and let go meanwhile.
 */
static TA_COLD int sleep_beside(struct ta_context *context, int64_t deadline_ns, const void *mask)
{
	int result;

	ta_unlock(&context->lock);
	result = sleep_with_mask(PAUSE_MAX_NS, mask);
	ta_lock(&context->lock);
	return result == 0 && ta_now_ns() >= deadline_ns ? -ETIMEDOUT : result;
}

/*
 * Sleeps until the ring is not empty, or has what is wanted; or a little while where that may not
 * tell.  0, -ETIMEDOUT, -EINTR, or -EINVAL if the context is gone.  The lock is held, and let go
 * meanwhile.  Afterwards the context may be another's, which its generation tells.
 */
int ta_sleep_in_kernel(struct ta_context *context, uint32_t want, int64_t deadline_ns,
		       const void *mask)
{
	int64_t limit_ns = ta_kaio_can_post() ? ta_sleep_limit_ns(context) : SHORT_SLEEP_NS;
	uint32_t generation = context->generation, seen = context->arrivals;
	uint32_t events = events_to_sleep_for(context, want), head = ta_ring_head(context->ring);
	unsigned long kernel_handle = context->kernel_handle;
	int64_t until_ns = deadline_ns;
	bool is_short;
	int result;

	if (context->sleepers == 0)
		context->most_wanted = events;
	else if (context->most_wanted > 1)
		(void)ta_kaio_post(kernel_handle, ta_wake_events(context));
	if (events > 1 && limit_ns == TA_NO_DEADLINE)
		limit_ns = LOOK_NS;
	is_short = limit_ns != TA_NO_DEADLINE;
	if (is_short && deadline_ns - ta_now_ns() > limit_ns)
		until_ns = ta_now_ns() + limit_ns;
	context->sleepers++;
	context->unlimited += !is_short;
	ta_unlock(&context->lock);
	result = ta_kaio_wait(kernel_handle, events, until_ns, mask);
	ta_lock(&context->lock);
	if (result == 0 && context->generation == generation && ta_events_in_ring(context) == 0 &&
	    ta_ring_head(context->ring) == head)
		result = sleep_beside(context, until_ns, mask);
	if (context->generation != generation)
		return -EINVAL;
	context->sleepers--;
	context->unlimited -= !is_short;
	if (events > 1)
		context->most_wanted = 1;
	if (seen != context->arrivals)
		context->unaware--;
	return result == -ETIMEDOUT && until_ns != deadline_ns ? 0 : result;
}

struct waiting {
	const struct ta_wait *wait;
	struct ta_signals signals; /* those that were blocked before */
	uint32_t generation;
	uint32_t want; /* events that satisfy it */
	int64_t deadline_ns;
	int64_t since_ns; /* when it began */
	long taken;
	int error; /* ends the wait; reported if nothing was taken */
	bool is_over; /* deadline or signal: take what there is */
	bool may_help; /* with what it waits for: help.c */
};

/* With this mask of signals.  No lock is held. */
static int pause_waiting(const struct waiting *waiting, const void *mask)
{
	int64_t now_ns = ta_now_ns(), pause_ns = (now_ns - waiting->since_ns) / 8;
	int result;

	pause_ns = pause_ns < PAUSE_FIRST_NS ? PAUSE_FIRST_NS
		   : pause_ns > PAUSE_MAX_NS ? PAUSE_MAX_NS
					     : pause_ns;
	if (waiting->deadline_ns - now_ns < pause_ns)
		pause_ns = waiting->deadline_ns > now_ns ? waiting->deadline_ns - now_ns : 0;
	result = sleep_with_mask(pause_ns, mask);
	if (result < 0)
		return result;
	return waiting->deadline_ns <= ta_now_ns() ? -ETIMEDOUT : 0;
}

/* The lock is held, and let go meanwhile. */
static int sleep_on_word(struct ta_context *context, struct waiting *waiting)
{
	uint32_t word = atomic_load(&context->word);
	struct ta_signals blocked;
	int result;

	context->sleepers++;
	ta_unlock(&context->lock);
	if (waiting->wait->mask) {
		result = pause_waiting(waiting, waiting->wait->mask);
	} else {
		ta_signals_set(&waiting->signals, &blocked);
		result = ta_futex_wait(&context->word, word, waiting->deadline_ns);
		ta_signals_set(&blocked, NULL);
	}
	ta_lock(&context->lock);
	if (context->generation != waiting->generation)
		return -EINVAL;
	context->sleepers--;
	return result;
}

/*
 * More is wanted than there is, and somebody sleeps who has not looked: a wake-up is posted for
 * him, which would wake this thread as well, over and over.  The lock is held, and let go
 * meanwhile.
 */
static int step_aside(struct ta_context *context, struct waiting *waiting)
{
	const void *mask =
		waiting->wait->mask ? (const void *)waiting->wait->mask : &waiting->signals;
	int result;

	ta_unlock(&context->lock);
	result = pause_waiting(waiting, mask);
	ta_lock(&context->lock);
	return context->generation == waiting->generation ? result : -EINVAL;
}

static int sleep_once(struct ta_context *context, struct waiting *waiting)
{
	const void *mask =
		waiting->wait->mask ? (const void *)waiting->wait->mask : &waiting->signals;

	if (context->mode == TA_CONTEXT_OFFLOADED)
		return sleep_on_word(context, waiting);
	if (context->ready_count > 0 && context->unaware > 0)
		return step_aside(context, waiting);
	return ta_sleep_in_kernel(context, waiting->want - context->ready_count,
				  waiting->deadline_ns, mask);
}

/* ---- waiting --------------------------------------------------------------------------------- */

/* One look at what is there.  True: the wait has ended. */
static bool look(struct ta_context *context, struct waiting *waiting, struct ta_work *work)
{
	const struct ta_wait *wait = waiting->wait;
	long result;

	if (context->ready_count < waiting->want)
		ta_drain(context, work);
	if (context->ready_count < waiting->want && !waiting->is_over) {
		ta_wake_unaware(context);
		return false;
	}
	if (wait->peek) {
		ta_wake_unaware(context);
		return true;
	}
	result = take(context, wait->events + waiting->taken, wait->nr - waiting->taken, work);
	if (result < 0) {
		waiting->error = (int)result;
		return true;
	}
	waiting->taken += result;
	waiting->want = (uint32_t)(wait->min_nr - waiting->taken);
	return waiting->taken >= wait->min_nr || waiting->is_over;
}

/* The lock is held, and let go meanwhile.  True: nothing has arrived since the look, so sleep. */
static bool finish_look(struct ta_context *context, struct ta_work *work)
{
	uint32_t seen = context->arrivals;

	if (!ta_work_is_any(work))
		return true;
	ta_unlock(&context->lock);
	ta_work_finish(work);
	ta_lock(&context->lock);
	return context->arrivals == seen;
}

/* The lock is held, and let go at times. */
static void look_and_sleep(struct ta_process *process, struct ta_context *context,
			   struct waiting *waiting)
{
	struct ta_work work = { 0 };

	for (;;) {
		bool ended = look(context, waiting, &work);
		bool is_quiet = finish_look(context, &work);
		int result;

		if (ended || context->generation != waiting->generation)
			return;
		if (waiting->may_help) {
			waiting->may_help = ta_help(process, context);
			if (context->generation != waiting->generation)
				return;
			continue;
		}
		if (!is_quiet)
			continue;
		result = sleep_once(context, waiting);
		if (context->generation != waiting->generation)
			return;
		waiting->is_over = result < 0;
		if (result < 0 && result != -ETIMEDOUT)
			waiting->error = result;
	}
}

/* No lock is held: too little was there.  The context may be gone by now. */
static TA_COLD int wait_for_events(struct ta_process *process, io_context_t handle,
				   const struct ta_wait *wait, long taken)
{
	struct waiting waiting = {
		.wait = wait,
		.want = (uint32_t)(wait->min_nr - taken),
		.since_ns = ta_now_ns(),
		.deadline_ns = TA_NO_DEADLINE,
		.taken = taken,
		.may_help = true,
	};
	struct ta_context *context;

	if (wait->timeout_ns >= 0 &&
	    __builtin_add_overflow(waiting.since_ns, wait->timeout_ns, &waiting.deadline_ns))
		waiting.deadline_ns = TA_NO_DEADLINE;
	ta_signals_block(&waiting.signals);
	context = ta_context_lock(process, handle);
	if (context) {
		waiting.generation = context->generation;
		look_and_sleep(process, context, &waiting);
		/* Destroyed meanwhile; or this is a child that was forked by a handler. */
		if (context->generation != waiting.generation)
			waiting.error = context->generation == 0 ? -EINTR : -EINVAL;
		ta_unlock(&context->lock);
	} else {
		waiting.error = -EINVAL;
	}
	ta_signals_set(&waiting.signals, NULL);
	return waiting.taken > 0 ? (int)waiting.taken : waiting.error;
}

/*
 * Taking may set something off: somebody else sleeps, or an fsync waits for what has ended.  With
 * signals blocked from the start, for a handler may not come back.  The lock is held, and released.
 */
static TA_COLD long take_blocked(struct ta_context *context, const struct ta_wait *wait)
{
	struct ta_work work = { 0 };
	struct ta_signals before;
	long taken;

	ta_signals_block(&before);
	taken = take(context, wait->events, wait->nr, &work);
	ta_unlock(&context->lock);
	ta_work_finish(&work);
	ta_signals_set(&before, NULL);
	return taken;
}

/* The lock is held, and released. */
static inline long take_at_first(struct ta_context *context, const struct ta_wait *wait)
{
	struct ta_work work = { 0 };
	long taken = 0;

	/* relaxed: an fsync that comes just now has found what is in the ring, or waits for it. */
	if (ta_unlikely(context->sleepers > 0 ||
			atomic_load_explicit(&context->owed, memory_order_relaxed) > 0) &&
	    !wait->peek)
		return take_blocked(context, wait);
	if (!wait->peek)
		taken = take(context, wait->events, wait->nr, &work);
	ta_unlock(&context->lock);
	ta_work_finish(&work);
	return taken;
}

/*
 * io_getevents(3), io_pgetevents, and io_queue_wait (peek).  The arguments are checked; only the
 * handle is not.
 */
int ta_reap(struct ta_process *process, io_context_t handle, const struct ta_wait *wait)
{
	struct ta_context *context = ta_context_lock(process, handle);
	long taken;

	if (ta_unlikely(!context))
		return -EINVAL;
	if (ta_unlikely(context->mode == TA_CONTEXT_PASSTHROUGH)) {
		unsigned long kernel_handle = context->kernel_handle;

		ta_unlock(&context->lock);
		/* io_queue_wait waits for nothing, as libaio's: the ring is the program's. */
		return ta_kaio_getevents(kernel_handle, wait->peek ? 0 : wait->min_nr, wait->nr,
					 wait->events, wait->timeout, wait->mask);
	}
	taken = take_at_first(context, wait);
	if (taken >= 0 && taken < wait->min_nr && wait->timeout_ns != 0)
		taken = wait_for_events(process, handle, wait, taken);
	/* What the mask opens is delivered, as by a wait that finds nothing. */
	if (ta_unlikely(wait->mask != NULL) && sleep_with_mask(0, wait->mask) == -EINTR &&
	    taken == 0)
		return -EINTR;
	return (int)taken;
}
