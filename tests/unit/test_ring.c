/* SPDX-License-Identifier: MIT */
/*
 * Goal: every event of the kernel's ring and every completion of the library's own reaches exactly
 * one reaper, in order; events of the library's own reach none; whatever the program writes into
 * its ring, nothing outside of it is read and no request ends twice; a wake-up is posted when
 * somebody sleeps who has not looked, and only then; what is in flight is counted for fsyncs.
 *
 * Method: ring and slots are made here, in a context that the kernel does not know; the test plays
 * the kernel, and takes the place of ta_kaio_post (by the linker's --wrap).  As nobody sleeps, all
 * of the bookkeeping runs in one thread, and those who would sleep are counted.  Random histories
 * are compared with a model of two queues after every step.  The ring ends where memory ends.
 * TRUEAIO_SEED=n plays the one history with that seed.
 */
#include "internal.h"

#include "pool.h"

#include <check.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE 4096ul
#define RING_MAX 64 /* events, in a page */
#define SLOTS 12
#define OWN_EVENTS 4 /* places of the ring that are left for them */
#define SLEEPERS 3
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

/* So many bytes, up to a page, then one that cannot be touched.  The end of the former. */
static char *map_to_the_end(void)
{
	char *pages =
		mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ck_assert_ptr_ne(pages, MAP_FAILED);
	ck_assert_int_eq(mprotect(pages + PAGE, PAGE, PROT_NONE), 0);
	return pages + PAGE;
}

/*
 * The ring alone.
 */

static char *ring_end;
static struct ta_ring *ring;
static uint32_t ring_size;

/* What the library knows of its size is not what stands there. */
static void new_ring(uint32_t event_count, uint32_t start)
{
	size_t bytes = sizeof(struct ta_ring) + event_count * sizeof(struct io_event);

	memset(ring_end - PAGE, 0, PAGE);
	ring = (struct ta_ring *)(void *)(ring_end - bytes);
	ring_size = event_count;
	ring->event_count = UINT32_MAX;
	atomic_store(&ring->head, start);
	atomic_store(&ring->tail, start);
}

static bool ring_is_full(void)
{
	return (ring->tail + 1) % ring_size == ring->head;
}

static uint32_t available(void)
{
	return ta_ring_available(ta_ring_open(ring, ring_size));
}

/* As the kernel does it: the event, then tail. */
static void kernel_adds(struct io_event event)
{
	EXPECT(!ring_is_full());
	ring->events[ring->tail] = event;
	atomic_store(&ring->tail, (ring->tail + 1) % ring_size);
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
		EXPECT(available() == added - consumed);
		EXPECT(ring_is_full() == (added - consumed == size - 1));
		reader = ta_ring_open(ring, size);
		tail = ring->tail;
		wanted = draw(size + 1);
		while (wanted-- > 0) {
			const struct io_event *event = ta_ring_next(&reader);

			EXPECT((event != NULL) == (seen < added));
			if (event)
				EXPECT((uintptr_t)event->data == ++seen);
			/* The kernel must not hear of it before all of it was read. */
			EXPECT(ring->head == (start + consumed) % size);
		}
		if (publish) {
			ta_ring_publish(reader);
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
		ck_assert_uint_eq(available(), 0);
		for (uintptr_t i = 1; i <= 4; i++)
			kernel_adds((struct io_event){ .data = (void *)i });
		ck_assert_uint_eq(available(), 4);
		reader = ta_ring_open(ring, 5);
		for (uintptr_t i = 1; i <= 4; i++)
			ck_assert_uint_eq((uintptr_t)ta_ring_next(&reader)->data, i);
		ck_assert_ptr_null(ta_ring_next(&reader));
		ta_ring_publish(reader);
		ck_assert_uint_eq(available(), 0);
	}
}
END_TEST

/* Values of head and tail that a program may leave there, for a ring of this size. */
#define SCRIBBLES 12

static uint32_t scribble(uint32_t size, unsigned which)
{
	const uint32_t values[SCRIBBLES] = {
		0,	  1,	     size / 2,	  size - 1,	     size,	     size + 1,
		2 * size, INT32_MAX, 0x80000000u, UINT32_MAX - size, UINT32_MAX - 1, UINT32_MAX,
	};

	return values[which];
}

/* Nothing outside the ring, and no longer than the ring, whatever is written there meanwhile. */
static void expect_walk(uint32_t head, uint32_t tail)
{
	struct ta_ring_reader reader;
	uint32_t count, place = head % ring_size;

	atomic_store(&ring->head, head);
	atomic_store(&ring->tail, tail);
	reader = ta_ring_open(ring, ring_size);
	count = ta_ring_available(reader);
	ck_assert_uint_lt(count, ring_size);
	atomic_store(&ring->head, UINT32_MAX);
	atomic_store(&ring->tail, ring_size);
	for (uint32_t i = 0; i < count; i++) {
		ck_assert_ptr_eq(ta_ring_next(&reader), &ring->events[place]);
		place = (place + 1) % ring_size;
	}
	ck_assert_ptr_null(ta_ring_next(&reader));
	ck_assert_ptr_null(ta_ring_next(&reader));
	ta_ring_publish(reader);
	ck_assert_uint_eq(atomic_load(&ring->head), tail % ring_size);
	ck_assert_uint_eq(place, tail % ring_size);
}

START_TEST(head_and_tail_may_hold_anything)
{
	static const uint32_t sizes[] = { 2, 3, 5, 32, 63, RING_MAX };

	for (unsigned i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		new_ring(sizes[i], 0);
		for (unsigned head = 0; head < SCRIBBLES; head++)
			for (unsigned tail = 0; tail < SCRIBBLES; tail++)
				expect_walk(scribble(sizes[i], head), scribble(sizes[i], tail));
	}
}
END_TEST

/*
 * A context of which the kernel knows nothing.
 */

static struct ta_context *context, *other; /* the latter to have slots of its own */
static struct io_event *room; /* SLOTS events, then a page that cannot be touched */
static int a_wake_up; /* whose address is no slot */
/* Two descriptors of requests that an fsync waits for: a file, and a number that is closed. */
static int numbers[2];
static struct ta_file_identity identity; /* of the file */

static bool kernel_refuses; /* the next wake-up that is posted */
static unsigned posts;

/* The kernel has no such context. */
#define HANDLE ((io_context_t)0x1000)

static void free_pages(struct ta_context *used)
{
	struct ta_slot_page *page;

	while ((page = used->slot_pages) != NULL) {
		used->slot_pages = page->next;
		page->context = NULL;
		ta_page_put(page);
	}
	if (used->index)
		ta_page_put(used->index);
	ta_pool_free_all(&used->pool_pages);
	memset(used, 0, sizeof(*used));
}

static void new_context(void)
{
	uint32_t size = SLOTS + OWN_EVENTS + 1;

	kernel_refuses = false;
	posts = 0;
	new_ring(size, draw(size));
	free_pages(context);
	atomic_store(&process->busy, NULL);
	context->generation = 1;
	context->kernel_handle = (unsigned long)HANDLE;
	context->ring = ring;
	context->event_count = size;
	context->slot_count = SLOTS;
	atomic_store(&context->handle, (uintptr_t)HANDLE);
	atomic_store(&process->buckets[ta_bucket((uintptr_t)HANDLE)], context);
}

/* A number that is closed; whatever it is, an open one may have the same bucket of epochs. */
static int closed_number(int first)
{
	int number = fcntl(numbers[0], F_DUPFD_CLOEXEC, first);

	ck_assert_int_eq(number, first);
	close(number);
	return number;
}

static void open_numbers(void)
{
	numbers[0] = memfd_create("test_ring", MFD_CLOEXEC);
	numbers[1] = closed_number(numbers[0] + 10 * TA_EPOCH_BUCKETS);
	ck_assert_int_eq(ta_file_identify(numbers[0], &identity), 0);
}

static void set_up(void)
{
	struct ta_signals unused;

	/* As everybody does who wakes others. */
	ta_signals_block(&unused);
	process = ta_process_enter();
	ck_assert_ptr_nonnull(process);
	context = ta_pages_alloc(sizeof(*context));
	other = ta_pages_alloc(sizeof(*other));
	ck_assert(context && other);
	other->slot_count = SLOTS;
	ring_end = map_to_the_end();
	room = (struct io_event *)(void *)map_to_the_end() - SLOTS;
	open_numbers();
	begin_history(1);
	new_context();
}

static void tear_down(void)
{
	close(numbers[0]);
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
	if (context->index)
		ta_index_add(context, slot);
	return slot;
}

static struct ta_slot *submit_to(uintptr_t number, int descriptor)
{
	struct ta_slot *slot = submit(number);

	slot->epoch = ta_epoch_join(context, descriptor);
	EXPECT(slot->epoch);
	return slot;
}

static void kernel_ends(struct ta_slot *slot, long result)
{
	kernel_adds((struct io_event){
		.data = slot->iocb.data, .obj = &slot->iocb, .res = (unsigned long)result });
}

static void event_arrives(const void *object)
{
	kernel_adds((struct io_event){ .obj = (struct iocb *)(uintptr_t)object });
}

int __wrap_ta_kaio_post(unsigned long handle, uint32_t events);
int __wrap_ta_kaio_post(unsigned long handle, uint32_t events)
{
	EXPECT(handle == (unsigned long)HANDLE && events == 1);
	posts++;
	if (kernel_refuses)
		return -EAGAIN;
	event_arrives(&a_wake_up);
	return 0;
}

static void wake_up_arrives(void)
{
	context->wake_posted = true;
	event_arrives(&a_wake_up);
}

static void expect_event(const struct io_event *event, uintptr_t number)
{
	EXPECT((uintptr_t)event->data == number);
	EXPECT((uintptr_t)event->obj == number << 8);
	EXPECT(event->res == number * 3);
}

/*
 * Random histories of a context.  The model: what was drained or completed by the library, and
 * behind it what the kernel's ring holds.
 */

/* Of the ring: an event of the library's own; one that names a slot with nothing in flight. */
#define OWN 0
#define STALE UINTPTR_MAX

struct queue {
	uintptr_t numbers[SLOTS + OWN_EVENTS];
	unsigned count;
};

static struct queue in_list, in_ring;
static struct ta_slot *in_flight[SLOTS];
static unsigned in_flight_count, extra_events;
static uintptr_t last_number;
static bool is_sealed[STEPS + 1]; /* a request by its number */
static bool posted, busy;
static uint32_t arrivals;
static struct {
	bool there;
	uint32_t seen;
} sleepers[SLEEPERS];

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

/* Which of numbers[] a request belongs to; 2: none. */
static unsigned descriptor_of(uintptr_t number)
{
	return (unsigned)(number % 3);
}

static void arrives_in_list(uintptr_t number)
{
	add(&in_list, number);
	arrivals++;
}

/* The next request that ended in the ring; 0: no more. */
static uintptr_t model_takes_from_ring(void)
{
	while (in_ring.count > 0) {
		uintptr_t number = remove_first(&in_ring);

		if (number != OWN && number != STALE)
			return number;
		extra_events--;
		if (number == OWN)
			posted = false;
	}
	return 0;
}

static void model_drains(void)
{
	uintptr_t number;

	while ((number = model_takes_from_ring()) != 0)
		arrives_in_list(number);
}

static unsigned reapable(void)
{
	unsigned count = in_list.count;

	for (unsigned i = 0; i < in_ring.count; i++)
		count += in_ring.numbers[i] != OWN && in_ring.numbers[i] != STALE;
	return count;
}

/* What the next reaper is given, in order; 0: nothing more. */
static uintptr_t model_takes(void)
{
	return in_list.count > 0 ? remove_first(&in_list) : model_takes_from_ring();
}

static unsigned count_unaware(void)
{
	unsigned count = 0;

	for (int i = 0; i < SLEEPERS; i++)
		count += sleepers[i].there && sleepers[i].seen != arrivals;
	return count;
}

/* The step has posted a wake-up if one was wanted, and none is there. */
static void expect_wake(bool is_wanted)
{
	EXPECT(posts == (is_wanted && !posted));
	if (posts == 1 && !kernel_refuses) {
		add(&in_ring, OWN);
		extra_events++;
		posted = true;
	}
	posts = 0;
}

static void expect_wake_of_unaware(void)
{
	expect_wake(count_unaware() > 0 && in_list.count > 0);
}

static void decide_about_posts(void)
{
	kernel_refuses = extra_events == OWN_EVENTS || draw(2);
}

static void random_submit(void)
{
	struct ta_slot *slot;

	if (context->used == SLOTS) {
		EXPECT(!ta_slot_take(context));
		return;
	}
	last_number++;
	if (descriptor_of(last_number) < 2) {
		slot = submit_to(last_number, numbers[descriptor_of(last_number)]);
		busy = true;
	} else {
		slot = submit(last_number);
	}
	in_flight[in_flight_count++] = slot;
}

static void random_end(bool by_kernel)
{
	struct ta_work work = { 0 };
	struct ta_slot *slot;
	uintptr_t number;
	unsigned index;

	if (in_flight_count == 0)
		return;
	index = draw(in_flight_count);
	slot = in_flight[index];
	number = (uintptr_t)slot->iocb.data;
	in_flight[index] = in_flight[--in_flight_count];
	if (by_kernel) {
		kernel_ends(slot, (long)number * 3);
		add(&in_ring, number);
		return;
	}
	ta_end(context, slot, (long)number * 3, &work);
	EXPECT(!ta_work_is_any(&work));
	model_drains();
	arrives_in_list(number);
	expect_wake(context->sleepers > 0);
}

/* Of the slots of the page there are more than may be used, so the last is always free. */
static void random_extra_event(void)
{
	if (extra_events == OWN_EVENTS)
		return;
	extra_events++;
	if (draw(2) && context->slot_pages) {
		event_arrives(&context->slot_pages->slots[TA_SLOTS_A_PAGE - 1]);
		add(&in_ring, STALE);
	} else {
		event_arrives(draw(2) ? &a_wake_up : NULL);
		add(&in_ring, OWN);
	}
}

static void random_reap(void)
{
	long nr = (long)draw(SLOTS + 1), space = draw(3) ? nr : (long)draw((unsigned)nr + 1);
	long expected = (long)reapable() < nr ? (long)reapable() : nr;
	unsigned raw = in_list.count + in_ring.count;
	struct io_event *events = room_for(space);
	long result = reap(events, nr);
	bool from_list;

	/* No room for all that may come: then it looks closer. */
	if ((long)raw > space && nr > space)
		model_drains();
	if (expected > space) {
		EXPECT(result == -EFAULT);
		expect_wake_of_unaware();
		return;
	}
	EXPECT(result == expected);
	from_list = raw > 0 && (long)in_list.count >= nr;
	for (long i = 0; i < expected; i++)
		expect_event(&events[i], model_takes());
	if (expected < nr)
		EXPECT(model_takes() == 0);
	/* Filled from the list: what the library has put in the ring must not stay there. */
	if (from_list && posted)
		model_drains();
	expect_wake_of_unaware();
}

/* An fsync seals what is in flight, if anything has been submitted since the last one did. */
static void random_seal(void)
{
	EXPECT(context->is_busy == busy);
	ta_epochs_seal(process);
	EXPECT(!context->is_busy && !process->busy);
	if (!busy)
		return;
	busy = false;
	model_drains();
	expect_wake_of_unaware();
	for (unsigned i = 0; i < in_flight_count; i++)
		is_sealed[(uintptr_t)in_flight[i]->iocb.data] = true;
}

/* As reap.c does it around the sleep. */
static void random_sleeper(void)
{
	int i = (int)draw(SLEEPERS);

	sleepers[i].there = !sleepers[i].there;
	if (sleepers[i].there) {
		context->sleepers++;
		sleepers[i].seen = context->arrivals;
	} else {
		context->sleepers--;
		if (sleepers[i].seen != context->arrivals)
			context->unaware--;
	}
}

static void random_drain(void)
{
	struct ta_work work = { 0 };

	ta_drain(context, &work);
	model_drains();
	EXPECT(!ta_work_is_any(&work));
}

static void random_wake(void)
{
	ta_wake_unaware(context);
	expect_wake_of_unaware();
}

static void random_step(void)
{
	unsigned what = draw(100);

	decide_about_posts();
	if (what < 35)
		random_submit();
	else if (what < 65)
		random_end(what < 55);
	else if (what < 70)
		random_extra_event();
	else if (what < 75)
		random_drain();
	else if (what < 90)
		random_reap();
	else if (what < 93)
		random_seal();
	else if (what < 97)
		random_sleeper();
	else
		random_wake();
}

/* Requests that have not ended for all that the library has seen. */
static unsigned unseen(unsigned descriptor, bool sealed)
{
	unsigned count = 0;

	for (unsigned i = 0; i < in_flight_count; i++) {
		uintptr_t number = (uintptr_t)in_flight[i]->iocb.data;

		count += descriptor_of(number) == descriptor && is_sealed[number] == sealed;
	}
	for (unsigned i = 0; i < in_ring.count; i++) {
		uintptr_t number = in_ring.numbers[i];

		if (number != OWN && number != STALE)
			count += descriptor_of(number) == descriptor && is_sealed[number] == sealed;
	}
	return count;
}

/* Of these epochs, those of the descriptor: what they count. */
static unsigned count_in(const struct ta_epoch *epoch, unsigned descriptor)
{
	unsigned count = 0;

	for (; epoch; epoch = epoch->next) {
		EXPECT(epoch->context == context);
		EXPECT(epoch->in_flight > 0 || epoch == context->last_epoch);
		if (epoch->number == numbers[descriptor])
			count += epoch->in_flight;
	}
	return count;
}

/* A sealed epoch is filed under what its descriptor refers to. */
static void compare_epochs(void)
{
	const struct ta_epoch *of_file =
		ta_barrier_epochs(&process->barrier, identity.device, identity.inode);
	const struct ta_epoch *anywhere = process->barrier.anywhere;

	for (unsigned i = 0; i < 2; i++)
		EXPECT(count_in(context->open_epochs, i) == unseen(i, false));
	EXPECT(count_in(of_file, 0) == unseen(0, true) && count_in(of_file, 1) == 0);
	EXPECT(count_in(anywhere, 1) == unseen(1, true) && count_in(anywhere, 0) == 0);
	EXPECT(ta_barrier_is_empty(&process->barrier) == (!of_file && !anywhere));
}

static void compare(void)
{
	unsigned asleep = 0;

	for (int i = 0; i < SLEEPERS; i++)
		asleep += sleepers[i].there;
	EXPECT(context->sleepers == asleep && context->unaware == count_unaware());
	EXPECT(context->arrivals == arrivals);
	EXPECT(context->ready_count == in_list.count);
	EXPECT(available() == in_ring.count);
	EXPECT(context->wake_posted == posted && context->inside == 0 && context->owed == 0);
	EXPECT(context->used == in_flight_count + reapable());
	compare_epochs();
}

static unsigned count_index(void)
{
	unsigned count = 0;

	for (unsigned i = 0; context->index && i < PAGE / sizeof(*context->index); i++)
		for (const struct ta_slot *slot = context->index[i]; slot; slot = slot->index_next)
			count++;
	return count;
}

static void begin_context_history(void)
{
	new_context();
	memset(sleepers, 0, sizeof(sleepers));
	memset(is_sealed, 0, sizeof(is_sealed));
	in_list.count = in_ring.count = in_flight_count = extra_events = 0;
	last_number = 0;
	posted = busy = false;
	arrivals = 0;
	numbers[1] = closed_number(numbers[0] + 10 * TA_EPOCH_BUCKETS + (int)draw(2));
	/* Once something was cancelled there is an index of what is in flight. */
	if (draw(2))
		context->index = memset(ta_page_take(), 0, PAGE);
}

static void play_context(void)
{
	struct io_event *events = room_for(SLOTS);
	long left;

	begin_context_history();
	for (step = 0; step < STEPS; step++) {
		random_step();
		compare();
	}
	EXPECT(!context->index || count_index() == in_flight_count + reapable() - in_list.count);
	while (in_flight_count > 0) {
		decide_about_posts();
		random_end(draw(2));
	}
	left = (long)reapable();
	EXPECT(reap(events, SLOTS) == left);
	for (long i = 0; i < left; i++)
		expect_event(&events[i], model_takes());
	EXPECT(context->used == 0 && count_index() == 0 && ta_barrier_is_empty(&process->barrier));
}

START_TEST(each_event_reaches_one_reaper)
{
	play_histories(play_context);
}
END_TEST

/*
 * A program that writes into its ring.
 */

static unsigned ended[SLOTS + 1]; /* a request by its number: how often */

static const void *random_object(void)
{
	const char *page = (const char *)context->slot_pages;

	switch (draw(8)) {
	case 0:
		return (const void *)(uintptr_t)((uint64_t)draw(UINT32_MAX) << draw(33));
	case 1:
		return page + draw(PAGE);
	case 2:
		return &other->slot_pages->slots[draw(TA_SLOTS_A_PAGE)];
	case 3:
		return (const char *)context->index + draw(PAGE / 64) * 64;
	default:
		return &context->slot_pages->slots[draw(2 * SLOTS)];
	}
}

static void scribble_all(void)
{
	uint32_t size = context->event_count;

	for (uint32_t i = 0; i < size; i++)
		ring->events[i].obj = (struct iocb *)(uintptr_t)random_object();
	ring->event_count = draw(UINT32_MAX);
	atomic_store(&ring->head, draw(2) ? draw(2 * size) : scribble(size, draw(SCRIBBLES)));
	atomic_store(&ring->tail, draw(2) ? draw(2 * size) : scribble(size, draw(SCRIBBLES)));
}

static void reap_scribbled(unsigned *left)
{
	long nr = (long)draw(SLOTS + 1), result;
	struct io_event *events = room_for(nr);

	result = reap(events, nr);
	EXPECT(result >= 0 && result <= nr && result <= (long)*left);
	for (long i = 0; i < result; i++) {
		uintptr_t number = (uintptr_t)events[i].data;

		EXPECT(number >= 1 && number <= SLOTS && ++ended[number] == 1);
		EXPECT((uintptr_t)events[i].obj == number << 8);
	}
	*left -= (unsigned)result;
}

/*
 * Requests end that have not, and no more than that: each at most once, and into no other's memory.
 */
static void play_scribbles(void)
{
	struct ta_work work = { 0 };
	unsigned left = SLOTS;

	new_context();
	memset(ended, 0, sizeof(ended));
	context->index = memset(ta_page_take(), 0, PAGE);
	if (!other->slot_pages)
		ta_slot_take(other)->state = TA_SLOT_KERNEL;
	for (uintptr_t number = 1; number <= SLOTS; number++)
		submit_to(number, numbers[number % 2]);
	for (step = 0; step < 20; step++) {
		scribble_all();
		if (draw(4) == 0)
			ta_drain(context, &work);
		else
			reap_scribbled(&left);
		EXPECT(context->used == left && context->ready_count <= left);
		EXPECT(count_index() == left - context->ready_count);
		EXPECT(count_in(context->open_epochs, 0) + count_in(context->open_epochs, 1) ==
		       left - context->ready_count);
	}
	EXPECT(!ta_work_is_any(&work) && other->used == 1);
}

START_TEST(a_scribbled_ring_ends_each_request_once_at_most)
{
	play_histories(play_scribbles);
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

START_TEST(what_the_kernel_has_ended_comes_before_what_the_library_ends_then)
{
	struct io_event *events = room_for(3);
	struct ta_work work = { 0 };

	kernel_ends(submit(1), 3);
	ta_end(context, submit(2), 6, &work);
	kernel_ends(submit(3), 9);
	ck_assert(!ta_work_is_any(&work));
	ck_assert_int_eq(reap(events, 3), 3);
	for (uintptr_t i = 0; i < 3; i++)
		expect_event(&events[i], i + 1);
}
END_TEST

START_TEST(events_of_the_library_need_no_room_and_reach_nobody)
{
	struct io_event *events = room_for(1);

	wake_up_arrives();
	ck_assert_int_eq(reap(room_for(0), 4), 0);
	ck_assert(!context->wake_posted);
	wake_up_arrives();
	kernel_ends(submit(1), 3);
	wake_up_arrives();
	ck_assert_int_eq(reap(events, 3), 1);
	expect_event(&events[0], 1);
	ck_assert(!context->wake_posted);
	ck_assert_uint_eq(available(), 0);
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

/* Enters an fsync of the file, which waits for all that is in flight there. */
static struct ta_sync *enter_sync(struct ta_work *work)
{
	struct ta_barrier *barrier = &process->barrier;
	struct ta_epoch *epoch = ta_barrier_epochs(barrier, identity.device, identity.inode);
	struct ta_sync *sync = ta_barrier_enter(barrier, identity.device, identity.inode,
						numbers[0], false, &a_wake_up);

	ck_assert_ptr_nonnull(epoch);
	ck_assert_int_eq(ta_barrier_attach(barrier, sync, epoch), 0);
	context->owed = 1;
	ta_barrier_arm(barrier, sync, &work->issue);
	return sync;
}

/* The last request before a sync: who drains its event is given the sync. */
START_TEST(the_last_event_of_an_epoch_hands_back_its_sync)
{
	struct ta_work work = { 0 };
	struct ta_slot *two[2], *later;
	struct ta_sync *sync;

	for (uintptr_t i = 0; i < 2; i++)
		two[i] = submit_to(i + 1, numbers[0]);
	ta_epochs_seal(process);
	ck_assert_ptr_null(context->open_epochs);
	sync = enter_sync(&work);
	later = submit_to(3, numbers[0]);
	kernel_ends(two[1], 6);
	ta_drain(context, &work);
	ck_assert_ptr_null(work.issue);
	ck_assert_uint_eq(context->owed, 1);
	kernel_ends(two[0], 3);
	ta_drain(context, &work);
	ck_assert_ptr_eq(work.issue, sync);
	ck_assert_ptr_null(sync->due_next);
	ck_assert_uint_eq(context->owed, 0);
	ck_assert_uint_eq(context->ready_count, 2);
	/* One that came later joined another epoch. */
	ck_assert_ptr_eq(later->epoch, context->open_epochs);
	ck_assert_uint_eq(later->epoch->in_flight, 1);
	/* Its memory is the barrier's again. */
	ck_assert_ptr_eq(ta_barrier_ended(&process->barrier, sync, &work.issue), sync);
	ta_barrier_release(&process->barrier, sync);
	ck_assert(ta_barrier_is_empty(&process->barrier));
}
END_TEST

/* In an epoch that nobody has sealed nothing is owed, and of all such the latest alone stays. */
START_TEST(an_open_epoch_goes_with_its_last_request_unless_it_is_the_latest)
{
	struct ta_work work = { 0 };
	struct ta_slot *first = submit_to(1, numbers[0]), *second = submit_to(2, numbers[1]);

	ck_assert_ptr_eq(context->last_epoch, second->epoch);
	kernel_ends(second, 6);
	ta_drain(context, &work);
	ck_assert_ptr_eq(context->last_epoch, second->epoch);
	ck_assert_uint_eq(second->epoch->in_flight, 0);
	/* Another descriptor's is the latest now. */
	submit_to(3, numbers[0]);
	ck_assert_ptr_eq(context->last_epoch, first->epoch);
	ck_assert_ptr_eq(context->open_epochs, first->epoch);
	ck_assert_ptr_null(first->epoch->next);
	ck_assert_uint_eq(first->epoch->in_flight, 2);
	ck_assert(!ta_work_is_any(&work));
}
END_TEST

/*
 * Wake-ups, where somebody sleeps.
 */

START_TEST(a_wake_up_is_posted_once)
{
	struct ta_work work = { 0 };

	context->sleepers = 1;
	ta_end(context, submit(1), 3, &work);
	ck_assert_uint_eq(posts, 1);
	ck_assert(context->wake_posted);
	/* What comes later drains it; so does a thread that leaves what the sleeper wants. */
	ta_end(context, submit(2), 6, &work);
	ck_assert_uint_eq(posts, 2);
	ta_wake_unaware(context);
	ck_assert_uint_eq(posts, 2);
	ta_drain(context, &work);
	ck_assert(!context->wake_posted);
	ta_wake_unaware(context);
	ck_assert_uint_eq(posts, 3);
	ck_assert(context->wake_posted);
}
END_TEST

START_TEST(a_wake_up_that_could_not_be_posted_is_wanted_again)
{
	struct ta_work work = { 0 };

	context->sleepers = 1;
	kernel_refuses = true;
	ta_end(context, submit(1), 3, &work);
	ck_assert_uint_eq(posts, 1);
	ck_assert(!context->wake_posted);
	ta_wake_unaware(context);
	ck_assert_uint_eq(posts, 2);
}
END_TEST

START_TEST(nobody_is_woken_who_has_looked_or_for_nothing)
{
	struct ta_work work = { 0 };

	/* One who came to sleep after the arrival. */
	ta_end(context, submit(1), 3, &work);
	context->sleepers = 1;
	ta_wake_unaware(context);
	ck_assert_uint_eq(posts, 0);
	/* What has arrived since was taken by others. */
	ta_ready_push(context, submit(2), 6);
	ck_assert_uint_eq(context->unaware, 1);
	ck_assert_int_eq(reap(room_for(2), 2), 2);
	ta_wake_unaware(context);
	ck_assert(posts == 0 && !context->wake_posted);
}
END_TEST

/* By the follower, each context once. */
START_TEST(a_context_in_which_something_is_owed_is_followed)
{
	uint32_t word = atomic_load(&process->follow_word);

	other->mode = TA_CONTEXT_OFFLOADED;
	ta_follow(other);
	ck_assert_ptr_null(process->followed);
	ck_assert_uint_eq(atomic_load(&process->follow_word), word);
	ta_follow(context);
	ck_assert_ptr_eq(process->followed, context);
	ck_assert_uint_eq(atomic_load(&process->follow_word), word + 1);
	ta_follow(context);
	ck_assert_ptr_null(context->follow_next);
	ck_assert_uint_eq(atomic_load(&process->follow_word), word + 1);
	process->followed = NULL;
	context->is_followed = false;
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("ring");
	TCase *cases = tcase_create("ring");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(cases, set_up, tear_down);
	tcase_set_timeout(cases, 60);
	tcase_add_test(cases, a_ring_hands_out_what_was_added);
	tcase_add_test(cases, a_full_ring_that_wraps_is_not_empty);
	tcase_add_test(cases, head_and_tail_may_hold_anything);
	tcase_add_test(cases, each_event_reaches_one_reaper);
	tcase_add_test(cases, a_scribbled_ring_ends_each_request_once_at_most);
	tcase_add_test(cases, completions_of_the_library_come_before_the_ring);
	tcase_add_test(cases, what_the_kernel_has_ended_comes_before_what_the_library_ends_then);
	tcase_add_test(cases, events_of_the_library_need_no_room_and_reach_nobody);
	tcase_add_test(cases, a_bad_array_consumes_nothing);
	tcase_add_test(cases, the_last_event_of_an_epoch_hands_back_its_sync);
	tcase_add_test(cases, an_open_epoch_goes_with_its_last_request_unless_it_is_the_latest);
	tcase_add_test(cases, a_wake_up_is_posted_once);
	tcase_add_test(cases, a_wake_up_that_could_not_be_posted_is_wanted_again);
	tcase_add_test(cases, nobody_is_woken_who_has_looked_or_for_nothing);
	tcase_add_test(cases, a_context_in_which_something_is_owed_is_followed);
	suite_add_tcase(suite, cases);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed > 0;
}
