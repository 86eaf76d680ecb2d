/* SPDX-License-Identifier: MIT */
/*
 * Goal: every event of the kernel's ring and every completion of the library's own reaches exactly
 * one reaper, in order; events of the library's own reach none; whoever can be satisfied is woken.
 *
 * Method: ring, slots and waiters are made here, in a context that the kernel does not know; the
 * test plays the kernel.  As nobody sleeps, all of the bookkeeping runs in one thread.  Random
 * histories are compared with a model of two queues after every step.  TRUEAIO_SEED=n plays the one
 * history with that seed.
 */
#include "internal.h"

#include "pool.h"

#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#define PAGE 4096ul
#define SLOTS 12
#define OWN_EVENTS 4 /* places of the ring that are left for them */
#define WAITERS 4
#define STEPS 200
#define HISTORIES 2000

static struct ta_process *process;
static uint64_t random_state;
static unsigned seed, step;

static unsigned draw(unsigned below)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (unsigned)(random_state >> 11) % below;
}

static void begin_history(unsigned chosen)
{
	seed = chosen;
	random_state = 0x9e3779b97f4a7c15u * (seed + 1);
}

/* Unlike an assertion of Check's, costs nothing while it holds: those write to a file each time. */
#define EXPECT(condition)                                                                          \
	do {                                                                                       \
		if (!(condition))                                                                  \
			ck_abort_msg("%s: TRUEAIO_SEED=%u, step %u", #condition, seed, step);      \
	} while (0)

/* The library's assertions trap. */
static void say_seed(int signal_number)
{
	dprintf(STDERR_FILENO, "signal %d: TRUEAIO_SEED=%u, step %u\n", signal_number, seed, step);
	signal(signal_number, SIG_DFL);
	raise(signal_number);
}

/* Calls play with one seed after the other, or with the chosen one. */
static void play_histories(void (*play)(void))
{
	const char *chosen = getenv("TRUEAIO_SEED");
	unsigned first = chosen ? (unsigned)strtoul(chosen, NULL, 10) : 1;

	signal(SIGILL, say_seed);
	signal(SIGTRAP, say_seed);
	signal(SIGSEGV, say_seed);
	for (unsigned next = first; next < first + (chosen ? 1 : HISTORIES); next++) {
		begin_history(next);
		play();
	}
}

/*
 * The ring alone.
 */

static _Alignas(
	struct ta_ring) char ring_memory[sizeof(struct ta_ring) + 64 * sizeof(struct io_event)];
static struct ta_ring *const ring = (struct ta_ring *)ring_memory;

static void new_ring(uint32_t event_count, uint32_t start)
{
	memset(ring_memory, 0, sizeof(ring_memory));
	ring->event_count = event_count;
	atomic_store(&ring->head, start);
	atomic_store(&ring->tail, start);
}

static bool ring_is_full(void)
{
	return (ring->tail + 1) % ring->event_count == ring->head;
}

/* As the kernel does it: the event, then tail. */
static void kernel_adds(struct io_event event)
{
	EXPECT(!ring_is_full());
	ring->events[ring->tail] = event;
	atomic_store(&ring->tail, (ring->tail + 1) % ring->event_count);
}

static void play_ring(void)
{
	uint32_t size = 2 + draw(8), start = draw(size);
	uintptr_t added = 0, consumed = 0;

	new_ring(size, start);
	for (step = 0; step < STEPS; step++) {
		struct ta_ring_reader reader;
		uint32_t tail, wanted;
		uintptr_t seen = consumed;
		bool publish = draw(4);

		for (unsigned n = draw(size); n > 0 && !ring_is_full(); n--)
			kernel_adds((struct io_event){ .data = (void *)++added });
		EXPECT(ta_ring_available(ring) == added - consumed);
		EXPECT(ta_ring_is_empty(ring) == (added == consumed));
		EXPECT(ring_is_full() == (added - consumed == size - 1));
		reader = ta_ring_open(ring);
		tail = ring->tail;
		wanted = draw(size + 1);
		while (wanted-- > 0) {
			const struct io_event *event = ta_ring_next(ring, &reader);

			EXPECT((event != NULL) == (seen < added));
			if (event)
				EXPECT((uintptr_t)event->data == ++seen);
			/* The kernel must not hear of it before all of it was read. */
			EXPECT(ring->head == (start + consumed) % size);
		}
		if (publish) {
			ta_ring_publish(ring, reader);
			consumed = seen;
		}
		EXPECT(ring->head == (start + consumed) % size && ring->tail == tail);
	}
}

START_TEST(a_ring_hands_out_what_was_added)
{
	play_histories(play_ring);
}
END_TEST

START_TEST(a_full_ring_that_wraps_is_not_empty)
{
	for (uint32_t start = 0; start < 5; start++) {
		struct ta_ring_reader reader;

		new_ring(5, start);
		ck_assert(ta_ring_is_empty(ring));
		ck_assert_uint_eq(ta_ring_available(ring), 0);
		for (uintptr_t i = 1; i <= 4; i++)
			kernel_adds((struct io_event){ .data = (void *)i });
		ck_assert(!ta_ring_is_empty(ring));
		ck_assert_uint_eq(ta_ring_available(ring), 4);
		reader = ta_ring_open(ring);
		for (uintptr_t i = 1; i <= 4; i++)
			ck_assert_uint_eq((uintptr_t)ta_ring_next(ring, &reader)->data, i);
		ck_assert_ptr_null(ta_ring_next(ring, &reader));
		ta_ring_publish(ring, reader);
		ck_assert(ta_ring_is_empty(ring));
	}
}
END_TEST

/*
 * A context of which the kernel knows nothing.
 */

static struct ta_context *context;
static struct ta_slot slots[SLOTS];
static struct ta_waiter waiters[WAITERS];
static struct io_event *room; /* SLOTS events, then a page that cannot be touched */
static int a_wake_up, a_proxy; /* whose addresses are no slots */

/* A handle that the kernel refuses, so that nothing is posted. */
#define HANDLE ((io_context_t)0x1000)

static void new_context(void)
{
	uint32_t size = SLOTS + OWN_EVENTS + 1;

	new_ring(size, draw(size));
	ta_pool_free_all(&context->pool_pages);
	memset(context, 0, sizeof(*context));
	memset(slots, 0, sizeof(slots));
	context->kernel_handle = (unsigned long)HANDLE;
	context->ring = ring;
	context->slots = slots;
	context->slot_count = SLOTS;
	for (int i = SLOTS; i-- > 0;) {
		slots[i].next = context->free_slots;
		context->free_slots = &slots[i];
	}
	atomic_store(&context->handle, (uintptr_t)HANDLE);
	atomic_store(&process->buckets[ta_bucket((uintptr_t)HANDLE)], context);
}

static void set_up(void)
{
	char *pages =
		mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	process = ta_process_enter();
	context = ta_pages_alloc(sizeof(*context));
	ck_assert(process && context && pages != MAP_FAILED);
	ck_assert_int_eq(mprotect(pages + PAGE, PAGE, PROT_NONE), 0);
	room = (struct io_event *)(pages + PAGE) - SLOTS;
	begin_history(1);
	new_context();
}

/* An array with room for so many events and no more. */
static struct io_event *room_for(long events)
{
	return room + SLOTS - events;
}

static long reap(struct io_event *events, long nr)
{
	struct ta_wait wait = { .nr = nr, .events = events, .timeout = &(struct timespec){ 0 } };

	return ta_reap(process, HANDLE, &wait);
}

static struct ta_slot *submit(uintptr_t number)
{
	struct ta_slot *slot = ta_slot_take(context);

	EXPECT(slot);
	slot->epoch = NULL;
	slot->flags = 0;
	slot->state = TA_SLOT_KERNEL;
	slot->iocb.data = (void *)number;
	slot->object = (struct iocb *)(number << 8);
	return slot;
}

static void kernel_ends(struct ta_slot *slot, long result)
{
	kernel_adds((struct io_event){
		.data = slot->iocb.data, .obj = &slot->iocb, .res = (unsigned long)result });
}

static void wake_up_arrives(void)
{
	context->wake_posted = true;
	kernel_adds((struct io_event){ .obj = (struct iocb *)&a_wake_up });
}

static void proxy_arrives(void)
{
	context->proxies++;
	kernel_adds((struct io_event){ .obj = (struct iocb *)&a_proxy, .data = &a_proxy });
}

static void expect_event(const struct io_event *event, uintptr_t number)
{
	EXPECT((uintptr_t)event->data == number);
	EXPECT((uintptr_t)event->obj == number << 8);
	EXPECT(event->res == number * 3);
}

static void add_waiter(struct ta_waiter *waiter, uint32_t want)
{
	*waiter = (struct ta_waiter){ .want = want,
				      .event_fd = -1,
				      .previous = context->waiters_tail };
	if (context->waiters_tail)
		context->waiters_tail->next = waiter;
	else
		context->waiters = waiter;
	context->waiters_tail = waiter;
}

/*
 * Random histories of a context.  The model: what was drained or completed by the library, and
 * behind it what the kernel's ring holds; zero stands for an event of the library's own.
 */

struct queue {
	uintptr_t numbers[SLOTS + OWN_EVENTS];
	unsigned count;
};

static struct queue in_list, in_ring;
static struct ta_slot *in_flight[SLOTS];
static unsigned in_flight_count, own_events;
static uintptr_t last_number;
static struct ta_epoch *epoch; /* of the requests with an even number */

static void add(struct queue *queue, uintptr_t number)
{
	queue->numbers[queue->count++] = number;
}

static uintptr_t remove_first(struct queue *queue)
{
	uintptr_t first = queue->numbers[0];

	memmove(&queue->numbers[0], &queue->numbers[1], --queue->count * sizeof(queue->numbers[0]));
	return first;
}

static bool of_epoch(uintptr_t number)
{
	return number > 0 && number % 2 == 0;
}

static void model_drains(void)
{
	while (in_ring.count > 0) {
		uintptr_t number = remove_first(&in_ring);

		if (number)
			add(&in_list, number);
		else
			own_events--;
	}
}

static unsigned reapable(void)
{
	unsigned count = in_list.count;

	for (unsigned i = 0; i < in_ring.count; i++)
		count += in_ring.numbers[i] != 0;
	return count;
}

/* What the next reaper is given, in order; 0: nothing more. */
static uintptr_t model_takes(void)
{
	if (in_list.count > 0)
		return remove_first(&in_list);
	while (in_ring.count > 0) {
		uintptr_t number = remove_first(&in_ring);

		if (number)
			return number;
		own_events--;
	}
	return 0;
}

static void expect_waiters_woken(bool dying, bool *was_woken)
{
	for (int i = 0; i < WAITERS; i++) {
		bool satisfied = waiters[i].want <= in_list.count && &waiters[i] != context->driver;

		EXPECT(waiters[i].word == (satisfied || was_woken[i]));
		was_woken[i] = waiters[i].word;
	}
	EXPECT(context->dying == dying);
}

static void random_reap(bool *was_woken)
{
	long nr = (long)draw(SLOTS + 1), space = draw(3) ? nr : (long)draw((unsigned)nr + 1);
	long expected = (long)reapable() < nr ? (long)reapable() : nr;
	unsigned raw = in_list.count + in_ring.count, before = in_list.count;
	struct io_event *events = room_for(space);
	long result = reap(events, nr);

	/* No room for all that may come: then it looks closer. */
	if ((long)raw > space && nr > space)
		model_drains();
	if (expected > space) {
		EXPECT(result == -EFAULT);
		return;
	}
	EXPECT(result == expected);
	for (long i = 0; i < expected; i++)
		expect_event(&events[i], model_takes());
	if (expected < nr)
		EXPECT(model_takes() == 0);
	/* Filled from the list: what the library has put in the ring must not stay there. */
	if (raw > 0 && (long)before >= nr && own_events > 0)
		model_drains();
	if (raw > 0 && context->driver)
		expect_waiters_woken(false, was_woken);
}

static void random_wake(bool *was_woken)
{
	bool was_posted = context->wake_posted, dying = draw(8) == 0, post;
	struct ta_work work = { 0 };

	context->dying = dying;
	context->driver_asleep = draw(2);
	post = dying || (context->driver && context->driver->want <= in_list.count);
	ta_wake_satisfied(context, &work);
	expect_waiters_woken(dying, was_woken);
	EXPECT(work.wake_driver == (post && context->driver_asleep && !was_posted));
	EXPECT(context->wake_posted == (was_posted || work.wake_driver));
	/* Posted at once, or refused. */
	if (work.wake_driver && !ring_is_full() && own_events < OWN_EVENTS && draw(2)) {
		wake_up_arrives();
		add(&in_ring, 0);
		own_events++;
	} else if (work.wake_driver) {
		context->wake_posted = false;
	}
	context->dying = false;
	context->driver_asleep = false;
}

static void random_step(bool *was_woken)
{
	unsigned what = draw(100);

	if (what < 35 && context->free_slots) {
		struct ta_slot *slot = submit(++last_number);

		if (of_epoch(last_number)) {
			slot->epoch = epoch;
			epoch->in_flight++;
		}
		in_flight[in_flight_count++] = slot;
	} else if (what < 65 && in_flight_count > 0) {
		unsigned index = draw(in_flight_count);
		struct ta_slot *slot = in_flight[index];
		uintptr_t number = (uintptr_t)slot->iocb.data;

		in_flight[index] = in_flight[--in_flight_count];
		if (what < 55) {
			kernel_ends(slot, (long)number * 3);
			add(&in_ring, number);
		} else {
			if (slot->epoch)
				slot->epoch->in_flight--;
			ta_ready_push(context, slot, (long)number * 3);
			add(&in_list, number);
		}
	} else if (what < 70 && own_events < OWN_EVENTS) {
		proxy_arrives();
		add(&in_ring, 0);
		own_events++;
	} else if (what < 75) {
		struct ta_work work = { 0 };

		ta_drain(context, &work);
		model_drains();
		EXPECT(!work.tried && !work.issue && !work.wake_driver && !work.want_assistant);
	} else if (what < 92) {
		random_reap(was_woken);
	} else if (what < 95) {
		int index = (int)draw(WAITERS + 1);

		context->driver = index < WAITERS ? &waiters[index] : NULL;
	} else if (what < 98) {
		random_wake(was_woken);
	} else {
		int index = (int)draw(WAITERS);

		waiters[index].want = 1 + draw(SLOTS);
		waiters[index].word = 0;
		was_woken[index] = false;
	}
}

static void play_context(void)
{
	bool was_woken[WAITERS] = { false };

	new_context();
	in_list.count = in_ring.count = in_flight_count = own_events = 0;
	last_number = 0;
	for (int i = 0; i < WAITERS; i++)
		add_waiter(&waiters[i], 1 + draw(SLOTS));
	ck_assert_int_eq(ta_epoch_open(context, ta_descriptor_find(context, 3)), 0);
	epoch = ta_descriptor_find(context, 3)->open;
	for (step = 0; step < STEPS; step++) {
		unsigned unseen = 0;

		random_step(was_woken);
		for (unsigned i = 0; i < in_ring.count; i++)
			unseen += of_epoch(in_ring.numbers[i]);
		for (unsigned i = 0; i < in_flight_count; i++)
			unseen += of_epoch((uintptr_t)in_flight[i]->iocb.data);
		EXPECT(epoch->in_flight == unseen);
		EXPECT(context->ready_count == in_list.count);
		EXPECT(ta_ring_available(ring) == in_ring.count);
		EXPECT(context->proxies + context->wake_posted == own_events);
		EXPECT(context->used == in_flight_count + reapable());
	}
}

START_TEST(each_event_reaches_one_reaper)
{
	play_histories(play_context);
}
END_TEST

/*
 * What the histories leave out, and what deserves a name.
 */

START_TEST(completions_of_the_library_come_before_the_ring)
{
	struct io_event *events = room_for(3);

	kernel_ends(submit(1), 3);
	ta_ready_push(context, submit(2), 6);
	kernel_ends(submit(3), 9);
	ck_assert_int_eq(reap(events, 3), 3);
	expect_event(&events[0], 2);
	expect_event(&events[1], 1);
	expect_event(&events[2], 3);
}
END_TEST

START_TEST(events_of_the_library_need_no_room_and_reach_nobody)
{
	struct io_event *events = room_for(1);

	wake_up_arrives();
	ck_assert_int_eq(reap(room_for(0), 4), 0);
	ck_assert(!context->wake_posted);
	proxy_arrives();
	kernel_ends(submit(1), 3);
	wake_up_arrives();
	ck_assert_int_eq(reap(events, 3), 1);
	expect_event(&events[0], 1);
	ck_assert_uint_eq(context->proxies, 0);
	ck_assert(!context->wake_posted);
}
END_TEST

START_TEST(a_bad_array_consumes_nothing)
{
	struct io_event *events = room_for(3);

	ta_ready_push(context, submit(1), 3);
	kernel_ends(submit(2), 6);
	kernel_ends(submit(3), 9);
	ck_assert_int_eq(reap(room_for(0), 1), -EFAULT);
	ck_assert_int_eq(reap(room_for(2), 8), -EFAULT);
	ck_assert_uint_eq(context->used, 3);
	ck_assert_int_eq(reap(events, 8), 3);
	for (uintptr_t i = 0; i < 3; i++)
		expect_event(&events[i], i + 1);
	/* With nothing there, nothing is looked at. */
	ck_assert_int_eq(reap(room_for(0), 8), 0);
}
END_TEST

/* The last request before a sync: who drains its event is given the sync. */
START_TEST(the_last_event_of_an_epoch_hands_back_its_sync)
{
	struct ta_sync *sync = ta_barrier_enter(&process->barrier, 1, 1, 3, false, &a_wake_up);
	struct ta_descriptor *descriptor = ta_descriptor_find(context, 3);
	struct ta_work work = { 0 };
	struct ta_slot *two[2];

	ck_assert_int_eq(ta_epoch_open(context, descriptor), 0);
	for (int i = 0; i < 2; i++) {
		two[i] = submit((uintptr_t)i + 1);
		two[i]->epoch = descriptor->open;
		descriptor->open->in_flight++;
	}
	descriptor->open->sealed = true;
	ck_assert_int_eq(ta_barrier_attach(&process->barrier, sync, descriptor->open), 0);
	descriptor->open = NULL;
	context->owed = 1;
	ta_barrier_arm(&process->barrier, sync, &work.issue);
	kernel_ends(two[1], 6);
	ta_drain(context, &work);
	ck_assert_ptr_null(work.issue);
	kernel_ends(two[0], 3);
	ta_drain(context, &work);
	ck_assert_ptr_eq(work.issue, sync);
	ck_assert_uint_eq(context->owed, 0);
	ck_assert_ptr_null(descriptor->epochs);
	ck_assert_uint_eq(context->ready_count, 2);
}
END_TEST

static struct ta_slot *submit_trial(uintptr_t number, long asked)
{
	struct ta_descriptor *descriptor = ta_descriptor_find(context, 3);
	struct ta_slot *slot = submit(number);

	if (!descriptor->open)
		ck_assert_int_eq(ta_epoch_open(context, descriptor), 0);
	slot->epoch = descriptor->open;
	slot->epoch->in_flight++;
	slot->flags = TA_SLOT_TRIAL;
	slot->asked = asked;
	context->trials++;
	return slot;
}

START_TEST(a_missed_trial_is_nobodys_event_yet)
{
	struct ta_slot *miss = submit_trial(1, 100), *hit = submit_trial(2, 6),
		       *cut = submit_trial(3, 100);
	struct ta_work work = { 0 };
	struct io_event *events = room_for(1);

	kernel_ends(miss, -EAGAIN);
	kernel_ends(hit, 6);
	kernel_ends(cut, 99);
	ta_drain(context, &work);
	ck_assert_ptr_eq(work.tried, cut);
	ck_assert_ptr_eq(cut->next, miss);
	ck_assert_ptr_null(miss->next);
	ck_assert_uint_eq(context->trials, 0);
	ck_assert_uint_eq(ta_descriptor_find(context, 3)->open->in_flight, 2);
	ck_assert_int_eq(reap(events, 1), 1);
	expect_event(&events[0], 2);
	ck_assert_int_eq(reap(room_for(0), 3), 0);
}
END_TEST

START_TEST(a_waiter_with_an_eventfd_is_woken_there_and_once)
{
	struct ta_work work = { 0 };
	uint64_t count = 0;
	int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

	add_waiter(&waiters[0], 1);
	waiters[0].event_fd = fd;
	ta_wake_satisfied(context, &work);
	ck_assert_int_eq(read(fd, &count, sizeof(count)), -1);
	ta_ready_push(context, submit(1), 3);
	ta_wake_satisfied(context, &work);
	ta_wake_satisfied(context, &work);
	ck_assert_int_eq(read(fd, &count, sizeof(count)), sizeof(count));
	ck_assert_uint_eq(count, 1);
	close(fd);
}
END_TEST

START_TEST(a_sleeping_driver_is_posted_to_once)
{
	struct ta_work first = { 0 }, second = { 0 }, third = { 0 };

	add_waiter(&waiters[0], 1);
	context->driver = &waiters[0];
	context->driver_asleep = true;
	ta_ready_push(context, submit(1), 3);
	ta_wake_satisfied(context, &first);
	ta_wake_satisfied(context, &second);
	ck_assert(first.wake_driver && !second.wake_driver);
	ck_assert_uint_eq(waiters[0].word, 0);
	/* Another thread has drained the wake-up and left what the driver wants. */
	kernel_adds((struct io_event){ .obj = (struct iocb *)&a_wake_up });
	ta_drain(context, &third);
	ta_wake_satisfied(context, &third);
	ck_assert(third.wake_driver);
}
END_TEST

/*
 * The same with the kernel's ring: a reaper that takes the wake-up, and not all that woke, posts
 * another.
 */
START_TEST(a_reaper_that_takes_the_wake_up_posts_another)
{
	struct ta_context *fake = context;
	io_context_t handle = NULL;
	struct ta_wait wait = { .nr = 1,
				.events = room_for(1),
				.timeout = &(struct timespec){ 0 } };
	struct ta_work work = { 0 };
	int result = ta_context_setup(process, 8, TA_CONTEXT_MEDIATED, &handle);

	if (result < 0) {
		fprintf(stderr, "SKIP: %s: no kernel AIO (%s)\n", tcase_name(), strerror(-result));
		return;
	}
	context = ta_context_lock(process, handle);
	ta_unlock(&context->lock);
	add_waiter(&waiters[0], 1);
	context->driver = &waiters[0];
	context->driver_asleep = true;
	ta_ready_push(context, submit(1), 3);
	ta_ready_push(context, submit(2), 6);
	ta_wake_satisfied(context, &work);
	ta_work_finish(context, &work);
	ck_assert(context->wake_posted);
	ck_assert_uint_eq(ta_ring_available(context->ring), 1);
	ck_assert_int_eq(ta_reap(process, handle, &wait), 1);
	/* The old one was drained, so what is there now is new. */
	ck_assert(context->wake_posted);
	ck_assert_uint_eq(ta_ring_available(context->ring), 1);
	ck_assert_int_eq(ta_reap(process, handle, &wait), 1);
	ck_assert(!context->wake_posted);
	ck_assert_uint_eq(ta_ring_available(context->ring), 0);
	context->driver_asleep = false;
	context->driver = NULL;
	context->waiters = context->waiters_tail = NULL;
	ck_assert_int_eq(ta_context_destroy(process, handle), 0);
	context = fake;
}
END_TEST

START_TEST(a_driver_that_leaves_wakes_the_oldest_waiter)
{
	struct ta_waiter driver = { .event_fd = -1 };
	struct ta_work work = { 0 };

	add_waiter(&waiters[0], 9);
	add_waiter(&waiters[1], 1);
	context->driver = &driver;
	context->driver_asleep = true;
	/* One that did not drive changes nothing. */
	ta_driver_leave(context, &waiters[2], &work);
	ck_assert_ptr_eq(context->driver, &driver);
	ck_assert_uint_eq(waiters[0].word, 0);
	ta_driver_leave(context, &driver, &work);
	ck_assert_ptr_null(context->driver);
	ck_assert(!context->driver_asleep);
	ck_assert_uint_eq(waiters[0].word, 1);
	ck_assert_uint_eq(waiters[1].word, 0);
	ck_assert(!work.want_assistant);
}
END_TEST

START_TEST(the_last_that_leaves_asks_for_an_assistant_if_something_is_owed)
{
	struct ta_waiter driver = { .event_fd = -1 };
	struct ta_work work = { 0 };

	context->driver = &driver;
	ta_driver_leave(context, &driver, &work);
	ck_assert(!work.want_assistant && !context->assisted);
	context->driver = &driver;
	context->owed = 1;
	ta_driver_leave(context, &driver, &work);
	ck_assert(work.want_assistant && context->assisted);
	ck_assert_uint_eq(context->inside, 1);
	ck_assert_ptr_eq(process->assist_head, context);
	/* One is enough. */
	work.want_assistant = false;
	ta_driver_leave(context, &driver, &work);
	ck_assert(!work.want_assistant);
	ck_assert_uint_eq(context->inside, 1);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("ring");
	TCase *cases = tcase_create("ring");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(cases, set_up, NULL);
	tcase_set_timeout(cases, 60);
	tcase_add_test(cases, a_ring_hands_out_what_was_added);
	tcase_add_test(cases, a_full_ring_that_wraps_is_not_empty);
	tcase_add_test(cases, each_event_reaches_one_reaper);
	tcase_add_test(cases, completions_of_the_library_come_before_the_ring);
	tcase_add_test(cases, events_of_the_library_need_no_room_and_reach_nobody);
	tcase_add_test(cases, a_bad_array_consumes_nothing);
	tcase_add_test(cases, the_last_event_of_an_epoch_hands_back_its_sync);
	tcase_add_test(cases, a_missed_trial_is_nobodys_event_yet);
	tcase_add_test(cases, a_waiter_with_an_eventfd_is_woken_there_and_once);
	tcase_add_test(cases, a_sleeping_driver_is_posted_to_once);
	tcase_add_test(cases, a_reaper_that_takes_the_wake_up_posts_another);
	tcase_add_test(cases, a_driver_that_leaves_wakes_the_oldest_waiter);
	tcase_add_test(cases, the_last_that_leaves_asks_for_an_assistant_if_something_is_owed);
	suite_add_tcase(suite, cases);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed > 0;
}
