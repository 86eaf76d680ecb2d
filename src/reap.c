/* SPDX-License-Identifier: MIT */
/*
 * Reaping: the kernel's ring and our own completions become the program's events.
 *
 * A request that has ended is either still an event in the kernel's ring or already in the
 * context's ready list.  Whoever holds the context's lock may *drain* the ring into the list (or
 * straight into a program's array, if nothing must be looked at first).  So a caller that finds
 * enough returns without a system call: one lock, one acquire of tail, one release of head.
 *
 * Sleeping.  One waiter of the context is the driver: it sleeps in the kernel until the ring is not
 * empty, for *one* event whatever it wants, because an event may be the last that a held fsync
 * waits for, and its own wish may be that fsync.  It drains, wakes who is satisfied, and sleeps
 * again.  All others sleep on a word of their own.  A completion that does not come from the kernel
 * wakes the driver by an event posted into the ring; being an event it cannot be lost between the
 * driver's last look and its sleep.  If another thread drains that event first, it settles in
 * ta_wake_satisfied whether the driver must still be woken, and posts again.
 *
 * As in the kernel, a waiter for k events takes what is there when it comes, then leaves later ones
 * for others until the rest of its k are there together; at its timeout it takes what there is.
 */
#include "internal.h"

#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>

/*
 * A posted wake-up needs a place in the ring.  Where the program's requests may have taken all that
 * the kernel keeps free (it parks free places per CPU, up to half of the ring), a driver that waits
 * for our own completions looks for itself after this long.
 */
#define UNPOSTABLE_SLICE_NS 2000000LL

/* An event of the kernel's ring: the slot that now has its result to deliver, or NULL. */
static inline struct ta_slot *kernel_event(struct ta_context *context, const struct io_event *event,
					   struct ta_work *work)
{
	struct ta_slot *slot = ta_slot_of(context, event->obj);

	if (ta_unlikely(!slot)) {
		if (event->data)
			context->proxies--;
		else
			context->wake_posted = false;
		return NULL;
	}
	if (ta_unlikely(slot->flags & TA_SLOT_TRIAL)) {
		context->trials--;
		if (!ta_trial_ended(context, slot, (long)event->res, work))
			return NULL;
	}
	if (slot->epoch)
		ta_epoch_leave(context, slot->epoch, work);
	return slot;
}

/* Moves all events of the kernel's ring into the ready list.  The lock is held. */
void ta_drain(struct ta_context *context, struct ta_work *work)
{
	struct ta_ring_reader reader = ta_ring_open(context->ring);
	const struct io_event *event;

	while ((event = ta_ring_next(context->ring, &reader)) != NULL) {
		struct ta_slot *slot = kernel_event(context, event, work);

		if (slot)
			ta_ready_push(context, slot, (long)event->res);
	}
	ta_ring_publish(context->ring, reader);
}

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
		events[taken] = (struct io_event){ .data = slot->iocb.data, .obj = slot->object };
		set_result(&events[taken++], slot->result);
		ta_slot_free(context, slot);
	}
	return taken;
}

static inline long take_from_ring(struct ta_context *context, struct io_event *events, long nr,
				  struct ta_work *work)
{
	struct ta_ring_reader reader = ta_ring_open(context->ring);
	const struct io_event *event;
	long taken = 0;

	while (taken < nr && (event = ta_ring_next(context->ring, &reader)) != NULL) {
		struct ta_slot *slot = kernel_event(context, event, work);

		if (ta_unlikely(!slot))
			continue;
		events[taken] = *event;
		events[taken++].obj = slot->object;
		ta_slot_free(context, slot);
	}
	ta_ring_publish(context->ring, reader);
	return taken;
}

/*
 * Takes up to nr ended requests.  Returns how many, or -EFAULT with nothing consumed if their
 * events cannot be written.  Only as much of the array is looked at as there is to write.
 */
static long take(struct ta_context *context, struct io_event *events, long nr, struct ta_work *work)
{
	long available = (long)context->ready_count + (long)ta_ring_available(context->ring);
	long taken = 0;

	if (available == 0)
		return 0;
	if (available > nr)
		available = nr;
	if (ta_unlikely(!ta_memory_probe(events, (size_t)available * sizeof(*events), true))) {
		/* The count may include events of the library's own, which need no room. */
		ta_drain(context, work);
		available = (long)context->ready_count < nr ? (long)context->ready_count : nr;
		if (available > 0 &&
		    !ta_memory_probe(events, (size_t)available * sizeof(*events), true))
			return -EFAULT;
	}
	if (ta_unlikely(context->ready_head != NULL))
		taken = take_ready(context, events, nr);
	if (taken < nr)
		taken += take_from_ring(context, events + taken, nr - taken, work);
	else if (ta_unlikely(context->proxies > 0 || context->wake_posted))
		/* Events of our own must not fill a ring whose program reaps one by one. */
		ta_drain(context, work);
	/* This thread may have drained the event that was to wake the driver. */
	if (ta_unlikely(context->driver != NULL))
		ta_wake_satisfied(context, work);
	return taken;
}

/* ---- waiters --------------------------------------------------------------------------------- */

/* The lock is held: what the waiter sleeps on is there as long as it is linked. */
void ta_waiter_wake(struct ta_context *context, struct ta_waiter *waiter)
{
	const uint64_t one = 1;

	if (atomic_exchange(&waiter->word, 1) == 1)
		return;
	if (waiter->event_fd < 0) {
		ta_futex_wake(&waiter->word, 1);
	} else if (ta_thread.is_foreign) {
		waiter->bell_wanted = true;
		ta_message_bell(context);
	} else {
		ta_syscall3(SYS_write, waiter->event_fd, &one, sizeof(one));
	}
}

/*
 * Wakes every waiter that the ready list can satisfy by now.  The lock is held; a posted wake-up is
 * left to work.
 */
void ta_wake_satisfied(struct ta_context *context, struct ta_work *work)
{
	bool post = context->dying;
	struct ta_waiter *waiter;

	for (waiter = context->waiters; waiter; waiter = waiter->next) {
		if (waiter->want > context->ready_count)
			continue;
		if (waiter == context->driver)
			post = true;
		else
			ta_waiter_wake(context, waiter);
	}
	if (post)
		ta_driver_wake(context, work);
}

/*
 * The driver must look again.  The lock is held; the wake-up is left to work where it is an event
 * to be posted.
 */
void ta_driver_wake(struct ta_context *context, struct ta_work *work)
{
	if (!context->driver_asleep || context->wake_posted)
		return;
	if (context->mode == TA_CONTEXT_OFFLOADED) {
		ta_waiter_wake(context, context->driver);
		return;
	}
	context->wake_posted = true;
	work->wake_driver = true;
}

static void link_waiter(struct ta_context *context, struct ta_waiter *waiter)
{
	waiter->next = NULL;
	waiter->previous = context->waiters_tail;
	if (context->waiters_tail)
		context->waiters_tail->next = waiter;
	else
		context->waiters = waiter;
	context->waiters_tail = waiter;
}

static void unlink_waiter(struct ta_context *context, struct ta_waiter *waiter)
{
	if (waiter->previous)
		waiter->previous->next = waiter->next;
	else
		context->waiters = waiter->next;
	if (waiter->next)
		waiter->next->previous = waiter->previous;
	else
		context->waiters_tail = waiter->previous;
}

/*
 * The thread stops waiting: if that leaves nobody to drive, the oldest waiter must, or an assistant
 * if something is owed.
 */
void ta_driver_leave(struct ta_context *context, struct ta_waiter *self, struct ta_work *work)
{
	if (context->driver == self) {
		context->driver = NULL;
		context->driver_is_assistant = false;
		context->driver_asleep = false;
	}
	if (context->driver || context->mode == TA_CONTEXT_OFFLOADED)
		return;
	if (context->waiters)
		ta_waiter_wake(context, context->waiters);
	else
		ta_assist_want(context, work);
}

static bool may_be_unpostable(const struct ta_context *context)
{
	return context->operations > 0 && context->used > context->slot_count / 4;
}

/*
 * Must the driver, asleep without a limit, be woken to sleep with one?  Asked while there is still
 * room to post.  True: the caller posts.  The lock is held.
 */
bool ta_driver_must_look(struct ta_context *context)
{
	if (!context->driver_asleep || context->driver_sliced || context->wake_posted ||
	    context->mode == TA_CONTEXT_OFFLOADED || !may_be_unpostable(context))
		return false;
	context->wake_posted = true;
	return true;
}

/*
 * In an offloaded context nothing is driven but its destruction: the last driver sleeps on its own
 * word until a request has ended.
 */
static bool sleep_as_destroyer(struct ta_context *context, struct ta_waiter *self,
			       int64_t deadline_ns)
{
	atomic_store(&self->word, 0);
	context->driver_asleep = true;
	ta_unlock(&context->lock);
	ta_futex_wait(&self->word, 0, deadline_ns);
	ta_lock(&context->lock);
	context->driver_asleep = false;
	return true;
}

/*
 * As the driver: sleeps until the ring has an event.  The lock is held, and let go meanwhile.
 * Returns false when the deadline has passed or *error is set (-EINTR, or -EINVAL if the context is
 * gone).
 */
bool ta_drive_once(struct ta_context *context, struct ta_waiter *self, int64_t deadline_ns,
		   const sigset_t *mask, int *error)
{
	int64_t until_ns = deadline_ns;
	int result;

	*error = 0;
	if (context->mode == TA_CONTEXT_OFFLOADED)
		return sleep_as_destroyer(context, self, deadline_ns);
	context->driver_sliced = may_be_unpostable(context);
	if (context->driver_sliced) {
		int64_t slice_ns = ta_now_ns() + UNPOSTABLE_SLICE_NS;

		if (slice_ns < until_ns)
			until_ns = slice_ns;
	}
	context->driver_asleep = true;
	ta_unlock(&context->lock);
	result = ta_kaio_wait(context->kernel_handle, until_ns, mask);
	ta_lock(&context->lock);
	if (context->driver == self)
		context->driver_asleep = false;
	if (result == -ETIMEDOUT)
		return until_ns < deadline_ns;
	*error = result;
	return result == 0;
}

/*
 * As any other waiter: sleeps until woken.  The lock is held, and let go meanwhile.  0, -ETIMEDOUT,
 * -EINTR, or -EAGAIN where a mask needs an eventfd and there is none to be had.
 */
static int sleep_beside_driver(struct ta_context *context, struct ta_waiter *self,
			       int64_t deadline_ns, const sigset_t *mask)
{
	int result;

	if (mask && self->event_fd < 0) {
		self->event_fd = (int)ta_syscall2(SYS_eventfd2, 0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (self->event_fd < 0)
			return -EAGAIN;
	}
	if (!mask) {
		ta_unlock(&context->lock);
		result = ta_futex_wait(&self->word, 0, deadline_ns);
	} else {
		struct pollfd readable = { .fd = self->event_fd, .events = POLLIN };
		struct timespec timeout, *limit = NULL;

		ta_unlock(&context->lock);
		if (deadline_ns != TA_NO_DEADLINE) {
			int64_t left_ns = deadline_ns - ta_now_ns();

			left_ns = left_ns < 0 ? 0 : left_ns;
			timeout = ta_timespec(left_ns);
			limit = &timeout;
		}
		/* The mask must be there for the sleep and no longer: no futex call takes one. */
		result = (int)ta_syscall5(SYS_ppoll, &readable, 1, limit, mask, 8);
		result = result > 0 ? 0 : result == 0 ? -ETIMEDOUT : result;
	}
	ta_lock(&context->lock);
	if (self->event_fd >= 0) {
		uint64_t unused_count;

		/* Under the lock, like the word that is reset next: no wake-up slips in between. */
		ta_syscall3(SYS_read, self->event_fd, &unused_count, sizeof(unused_count));
	}
	return result;
}

/*
 * Becomes the driver if nobody is, or only an assistant: it stays asleep in the kernel and finds
 * out when it wakes.
 */
static bool become_driver(struct ta_context *context, struct ta_waiter *self)
{
	/* Where nothing comes from the kernel, whatever ends wakes those whom it satisfies. */
	if (context->mode == TA_CONTEXT_OFFLOADED)
		return false;
	if (context->driver && context->driver != self && !context->driver_is_assistant)
		return false;
	if (context->driver != self) {
		context->driver = self;
		context->driver_is_assistant = false;
		context->driver_asleep = false;
	}
	return true;
}

struct waiting {
	const struct ta_wait *wait;
	struct ta_waiter self;
	int64_t deadline_ns;
	long taken;
	int error; /* ends the wait; reported if nothing was taken */
	bool is_over; /* deadline or signal: take what there is */
};

/* One look at what is there.  True: the wait has ended. */
static bool look(struct ta_context *context, struct waiting *waiting, bool drives,
		 struct ta_work *work)
{
	const struct ta_wait *wait = waiting->wait;
	long result;

	if (context->dying) {
		waiting->error = -EINVAL;
		return true;
	}
	if (drives) {
		ta_drain(context, work);
		ta_wake_satisfied(context, work);
	}
	if (context->ready_count >= waiting->self.want || waiting->is_over) {
		if (wait->peek)
			return true;
		result = take(context, wait->events + waiting->taken, wait->nr - waiting->taken,
			      work);
		if (result < 0) {
			waiting->error = (int)result;
			return true;
		}
		waiting->taken += result;
		if (waiting->taken >= wait->min_nr || waiting->is_over)
			return true;
		waiting->self.want = (uint32_t)(wait->min_nr - waiting->taken);
	}
	return false;
}

static void wait_once(struct ta_context *context, struct waiting *waiting, bool drives)
{
	const sigset_t *mask = waiting->wait->mask;
	int error = 0;

	if (drives) {
		if (!ta_drive_once(context, &waiting->self, waiting->deadline_ns, mask, &error))
			waiting->is_over = true;
	} else {
		error = sleep_beside_driver(context, &waiting->self, waiting->deadline_ns, mask);
		waiting->is_over = error < 0;
	}
	if (error < 0 && error != -ETIMEDOUT)
		waiting->error = error;
}

/* The lock is held, and released at the end. */
static TA_COLD int wait_for_events(struct ta_context *context, struct waiting *waiting)
{
	struct ta_work work;

	link_waiter(context, &waiting->self);
	context->inside++;
	for (;;) {
		bool drives = become_driver(context, &waiting->self);
		bool ended;

		atomic_store(&waiting->self.word, 0);
		work = (struct ta_work){ 0 };
		ended = look(context, waiting, drives, &work);
		if (ended)
			break;
		if (work.tried || work.issue || work.wake_driver || work.want_assistant) {
			ta_unlock(&context->lock);
			ta_work_finish(context, &work);
			ta_lock(&context->lock);
			continue;
		}
		wait_once(context, waiting, drives);
	}
	unlink_waiter(context, &waiting->self);
	ta_driver_leave(context, &waiting->self, &work);
	ta_unlock(&context->lock);
	ta_work_finish(context, &work);
	if (waiting->self.event_fd >= 0)
		ta_syscall1(SYS_close, waiting->self.event_fd);
	ta_lock(&context->lock);
	ta_context_leave(context);
	ta_unlock(&context->lock);
	if (waiting->taken > 0)
		return (int)waiting->taken;
	return waiting->error;
}

/* The lock is held, and released at the end. */
static TA_COLD int begin_to_wait(struct ta_context *context, const struct ta_wait *wait, long taken)
{
	struct waiting waiting = {
		.wait = wait,
		.self = { .want = (uint32_t)(wait->min_nr - taken), .event_fd = -1 },
		.deadline_ns = wait->timeout_ns < 0 ? TA_NO_DEADLINE : ta_now_ns(),
		.taken = taken,
	};
	int result;

	if (ta_thread.calls > 0) {
		/*
		 * A handler that interrupted another wait of this thread, which may be the one that
		 * drives.
		 */
		ta_unlock(&context->lock);
		return taken > 0 ? (int)taken : -EINTR;
	}
	if (wait->timeout_ns >= 0 &&
	    __builtin_add_overflow(waiting.deadline_ns, wait->timeout_ns, &waiting.deadline_ns))
		waiting.deadline_ns = TA_NO_DEADLINE;
	ta_thread.calls++;
	result = wait_for_events(context, &waiting);
	ta_thread.calls--;
	return result;
}

/* Lets the signals that the mask opens be delivered, as a wait that finds nothing would. */
static int poll_signals(const sigset_t *mask)
{
	const struct timespec zero = { 0, 0 };

	return (int)ta_syscall5(SYS_ppoll, NULL, 0, &zero, mask, 8);
}

/*
 * io_getevents(3), io_pgetevents, and io_queue_wait (peek).  The arguments are checked; only the
 * handle is not.
 */
int ta_reap(struct ta_process *process, io_context_t handle, const struct ta_wait *wait)
{
	struct ta_context *context = ta_context_lock(process, handle);
	struct ta_work work = { 0 };
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
	taken = wait->peek ? 0 : take(context, wait->events, wait->nr, &work);
	if (taken >= 0 && taken < wait->min_nr && wait->timeout_ns != 0) {
		if (ta_unlikely(work.tried || work.issue || work.wake_driver ||
				work.want_assistant)) {
			context->inside++;
			ta_unlock(&context->lock);
			ta_work_finish(context, &work);
			ta_lock(&context->lock);
			ta_context_leave(context);
		}
		return begin_to_wait(context, wait, taken);
	}
	ta_unlock(&context->lock);
	ta_work_finish(context, &work);
	if (ta_unlikely(wait->mask != NULL) && poll_signals(wait->mask) == -EINTR && taken == 0)
		return -EINTR;
	return (int)taken;
}
