/* SPDX-License-Identifier: MIT */
/*
 * Goal: a sync is issued once all that came before it on its file has ended, never earlier, and
 * never forgotten; syncs of one file end in the order in which they came; a call is shared where it
 * may be; nothing is kept of a file that nothing is in flight on.
 *
 * Method: the barrier is pure logic, so a history needs no file and no thread.  Random ones are
 * played on the barrier and on a model that keeps a list of all requests and syncs and asks it
 * after every step.  What the barrier hands back, and what it has of each file, must be what the
 * model expects at that step, no more and no less.  Epochs are made, sealed, filed and attached as
 * an fsync of the library does it, also a few at a time with other steps in between, as when
 * several threads submit.  Descriptors are closed and opened again, so that an epoch may be of any
 * file.
 *
 * TRUEAIO_SEED=n plays the one history with that seed.  The rules have named cases, too.
 */
#include "internal.h"

#include "pool.h"

#include <check.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define FILES 3
#define DESCRIPTORS 6
#define LOOKS 3
#define STEPS 150
#define HISTORIES 6000
/*
 * Of a descriptor; and of an epoch that was sealed when its descriptor was: it may be of any file.
 */
#define CLOSED (-1)
#define OBJECTS_MAX 100000

struct identity {
	uint64_t device, inode;
};

/* The first two differ in the device alone, the last two in the inode. */
static const struct identity spread[FILES] = { { 1, 7 }, { 2, 7 }, { 2, 8 } };
/* The same of others, which share a bucket. */
static struct identity crowded[FILES] = { { 0, 7 }, { 2, 7 }, { 2, 0 } };

struct epoch {
	struct ta_epoch epoch;
	int file;
	bool sealed, drained;
	uint64_t filed; /* how many had been before, in all histories */
	unsigned seen; /* in which list */
};

struct request {
	int epoch;
	bool leaving; /* the last of a sealed epoch, which is not drained yet */
	bool ended;
};

/* An fsync that seals what is in flight, and has not entered. */
struct look {
	int descriptor;
	bool data_only;
	bool is_on;
	int surveyed; /* descriptors whose epochs are sealed */
};

enum sync_progress { ENTERED, ARMED, ISSUED, CANCELLED, ENDED, WITHDRAWN };

struct sync {
	struct ta_sync *sync;
	int file;
	int descriptor;
	bool data_only;
	enum sync_progress progress;
	bool waits[STEPS]; /* for these requests */
	int leader; /* of the call that serves it */
	bool called, told; /* as a leader: its call has begun, the events of its group are made */
	uint64_t entered; /* as epochs are filed */
};

struct history {
	unsigned seed, step, lists;
	uint64_t random;
	uint64_t filed; /* epochs and syncs, in all histories */
	bool looks_overlap;
	const struct identity *identities;
	struct ta_barrier *barrier;
	struct ta_sync *due; /* handed back and not yet called */
	int due_count;
	int file_of[DESCRIPTORS];
	int open[DESCRIPTORS]; /* the epoch that new requests join */
	struct epoch epochs[STEPS];
	unsigned sealed[FILES +
			1]; /* epochs of each file, and first of CLOSED, that are not drained */
	struct request requests[STEPS];
	struct look looks[LOOKS];
	struct sync syncs[STEPS];
	int epoch_count, request_count, sync_count;
	char story[STEPS * 64];
	size_t story_length;
};

static struct history history;

__attribute__((format(printf, 2, 3))) static void tell(struct history *h, const char *format, ...)
{
	size_t left = sizeof(h->story) - h->story_length;
	va_list arguments;
	int length;

	va_start(arguments, format);
	length = vsnprintf(h->story + h->story_length, left, format, arguments);
	va_end(arguments);
	if (length > 0 && (size_t)length < left)
		h->story_length += (size_t)length;
}

#define EXPECT(h, condition)                                                                       \
	do {                                                                                       \
		if (!(condition))                                                                  \
			ck_abort_msg("%s: TRUEAIO_SEED=%u, step %u:%s", #condition, (h)->seed,     \
				     (h)->step, (h)->story);                                       \
	} while (0)

/* The library's assertions trap. */
static void say_seed(int signal_number)
{
	dprintf(STDERR_FILENO, "signal %d: TRUEAIO_SEED=%u, step %u:%s\n", signal_number,
		history.seed, history.step, history.story);
	signal(signal_number, SIG_DFL);
	raise(signal_number);
}

static unsigned draw(struct history *h, unsigned below)
{
	h->random ^= h->random << 13;
	h->random ^= h->random >> 7;
	h->random ^= h->random << 17;
	return (unsigned)(h->random >> 11) % below;
}

/*
 * The model.
 */

static bool is_live(const struct sync *sync)
{
	return sync->progress != ENDED && sync->progress != WITHDRAWN;
}

static bool waits_for_any(const struct sync *sync, const struct history *h)
{
	for (int i = 0; i < h->request_count; i++)
		if (sync->waits[i] && !h->requests[i].ended)
			return true;
	return false;
}

static bool is_ready(const struct sync *sync, const struct history *h)
{
	return sync->progress == ARMED && !waits_for_any(sync, h);
}

static int next_of_file(const struct history *h, int file, int index)
{
	for (int i = index; i < h->sync_count; i++)
		if (h->syncs[i].file == file && is_live(&h->syncs[i]))
			return i;
	return -1;
}

static int oldest_of_file(const struct history *h, int file)
{
	return next_of_file(h, file, 0);
}

static bool is_of_file(const struct epoch *epoch, int file)
{
	return epoch->file == file || epoch->file == CLOSED;
}

/* A sync was handed back: it and those that the barrier put behind it are one call. */
static void issue_group(struct history *h, int leader)
{
	struct sync *first = &h->syncs[leader];
	bool data_only = true, complete = false;

	EXPECT(h, oldest_of_file(h, first->file) == leader);
	EXPECT(h, is_ready(first, h));
	for (int i = leader; i >= 0; i = next_of_file(h, first->file, i + 1)) {
		struct sync *rider = &h->syncs[i];
		bool may_ride = is_ready(rider, h) && rider->descriptor == first->descriptor;
		bool rides = rider->sync->state == TA_SYNC_RUNNING;

		complete |= !may_ride;
		EXPECT(h, rides == !complete);
		if (!rides)
			continue;
		rider->progress = ISSUED;
		rider->leader = leader;
		data_only &= rider->data_only;
	}
	EXPECT(h, first->progress == ISSUED);
	EXPECT(h, first->sync->group_data_only == data_only);
}

static void compare_due(struct history *h)
{
	struct ta_sync *sync = h->due;

	for (int i = 0; i < h->due_count; i++)
		sync = sync->due_next;
	for (; sync; sync = sync->due_next) {
		issue_group(h, (int)((struct sync *)sync->owner - h->syncs));
		h->due_count++;
	}
	for (int file = 0; file < FILES; file++) {
		int oldest = oldest_of_file(h, file);

		EXPECT(h, oldest < 0 || !is_ready(&h->syncs[oldest], h));
	}
}

static void compare_states(struct history *h)
{
	for (int i = 0; i < h->sync_count; i++) {
		const struct sync *sync = &h->syncs[i];

		if (!is_live(sync))
			continue;
		EXPECT(h, (sync->sync->state == TA_SYNC_RUNNING) == (sync->progress == ISSUED));
		EXPECT(h,
		       (sync->sync->state == TA_SYNC_CANCELLED) == (sync->progress == CANCELLED));
		EXPECT(h, sync->sync->owner == sync);
	}
}

/* These are the sealed epochs of the file, each of them once. */
static void compare_list(struct history *h, const struct ta_epoch *list, int file)
{
	unsigned count = 0;

	h->lists++;
	for (; list; list = list->next) {
		struct epoch *epoch = (struct epoch *)(uintptr_t)list;

		EXPECT(h, epoch >= h->epochs && epoch < h->epochs + h->epoch_count);
		EXPECT(h, epoch->sealed && !epoch->drained && epoch->file == file);
		EXPECT(h, epoch->seen != h->lists);
		epoch->seen = h->lists;
		count++;
	}
	EXPECT(h, count == h->sealed[file + 1]);
}

/* Those count that were filed or entered when so many had been. */
static bool must_wait_since(const struct history *h, int file, uint64_t filed)
{
	int oldest = oldest_of_file(h, file);
	bool is_held_up = oldest >= 0 && h->syncs[oldest].entered < filed;

	for (int i = 0; i < h->epoch_count; i++) {
		const struct epoch *epoch = &h->epochs[i];

		is_held_up |= epoch->sealed && !epoch->drained && is_of_file(epoch, file) &&
			      epoch->filed < filed;
	}
	return is_held_up;
}

static void compare_files(struct history *h)
{
	uint64_t back = h->step % 4 * 2, filed = back < h->filed ? h->filed - back : 0;
	uint32_t files = 0;

	EXPECT(h, h->barrier->filed == h->filed);
	compare_list(h, h->barrier->anywhere, CLOSED);
	for (int file = 0; file < FILES; file++) {
		uint64_t device = h->identities[file].device, inode = h->identities[file].inode;

		compare_list(h, ta_barrier_epochs(h->barrier, device, inode), file);
		EXPECT(h, ta_barrier_must_wait(h->barrier, device, inode, UINT64_MAX) ==
				  must_wait_since(h, file, UINT64_MAX));
		EXPECT(h, ta_barrier_must_wait(h->barrier, device, inode, filed) ==
				  must_wait_since(h, file, filed));
		files += h->sealed[file + 1] > 0 || oldest_of_file(h, file) >= 0;
	}
	EXPECT(h, h->barrier->files == files);
	EXPECT(h, ta_barrier_is_empty(h->barrier) == (files == 0 && h->sealed[0] == 0));
}

/* After every step: all that is due was handed back, and nothing else. */
static void compare(struct history *h)
{
	compare_due(h);
	compare_states(h);
	compare_files(h);
}

/*
 * Steps of requests.
 */

/* As its context leaves it: with links of a list in which it is no more. */
static struct ta_epoch open_epoch(uint32_t in_flight)
{
	static struct ta_epoch stale;

	return (struct ta_epoch){
		.in_flight = in_flight,
		.next = &stale,
		.previous = &stale,
		.file = (struct ta_barrier_file *)(void *)&stale,
	};
}

static void begin_request(struct history *h, int descriptor)
{
	if (h->file_of[descriptor] == CLOSED)
		return;
	if (h->open[descriptor] < 0) {
		h->open[descriptor] = h->epoch_count++;
		h->epochs[h->open[descriptor]] = (struct epoch){ .epoch = open_epoch(0) };
	}
	tell(h, " r%d(fd%d)", h->request_count, descriptor);
	h->requests[h->request_count++] = (struct request){ .epoch = h->open[descriptor] };
	h->epochs[h->open[descriptor]].epoch.in_flight++;
}

/* The barrier has no more to do with it: its memory is another's. */
static void drain_epoch(struct history *h, int request)
{
	struct epoch *epoch = &h->epochs[h->requests[request].epoch];

	tell(h, " drained(r%d)", request);
	h->requests[request].leaving = false;
	h->requests[request].ended = true;
	ta_barrier_drained(h->barrier, &epoch->epoch, &h->due);
	EXPECT(h, !epoch->epoch.waits);
	memset(&epoch->epoch, 0xa5, sizeof(epoch->epoch));
	epoch->drained = true;
	h->sealed[epoch->file + 1]--;
}

/*
 * The last of a sealed epoch has ended under its context's lock, a moment before the barrier hears
 * of it.
 */
static void end_request(struct history *h, int index, bool drains_later)
{
	struct request *request = &h->requests[index];

	if (request->ended || request->leaving)
		return;
	tell(h, " -r%d", index);
	if (--h->epochs[request->epoch].epoch.in_flight > 0 || !h->epochs[request->epoch].sealed)
		request->ended = true;
	else if (drains_later)
		request->leaving = true;
	else
		drain_epoch(h, index);
}

static int random_request(struct history *h)
{
	int from = h->request_count ? (int)draw(h, (unsigned)h->request_count) : 0;

	for (int i = 0; i < h->request_count; i++) {
		int index = (from + i) % h->request_count;

		if (!h->requests[index].ended)
			return index;
	}
	return -1;
}

static void end_random_request(struct history *h)
{
	int index = random_request(h);

	if (index < 0)
		return;
	if (h->requests[index].leaving)
		drain_epoch(h, index);
	else
		end_request(h, index, draw(h, 2));
}

/*
 * Steps of syncs.
 */

static void seal(struct history *h, int descriptor)
{
	int index = h->open[descriptor], file = h->file_of[descriptor];
	struct epoch *epoch;

	if (index < 0 || h->epochs[index].epoch.in_flight == 0)
		return;
	epoch = &h->epochs[index];
	h->open[descriptor] = -1;
	epoch->epoch.sealed = epoch->sealed = true;
	epoch->file = file;
	epoch->filed = h->filed++;
	h->sealed[file + 1]++;
	if (file == CLOSED)
		ta_barrier_file_anywhere(h->barrier, &epoch->epoch);
	else
		EXPECT(h,
		       ta_barrier_file_epoch(h->barrier, &epoch->epoch, h->identities[file].device,
					     h->identities[file].inode) == 0);
}

static void withdraw(struct history *h, int index)
{
	struct sync *sync = &h->syncs[index];

	if (!is_live(sync) || sync->progress == ISSUED)
		return;
	tell(h, " withdraw(s%d)", index);
	sync->progress = WITHDRAWN;
	ta_barrier_withdraw(h->barrier, sync->sync, &h->due);
	sync->sync = NULL;
}

/* False: not to all, as when there is no memory. */
static bool attach_list(struct history *h, struct ta_sync *sync, struct ta_epoch *epoch)
{
	for (; epoch; epoch = epoch->next) {
		if (draw(h, 32) == 0)
			return false;
		EXPECT(h, ta_barrier_attach(h->barrier, sync, epoch) == 0);
	}
	return true;
}

static void attach_all(struct history *h, int index)
{
	struct sync *sync = &h->syncs[index];
	const struct identity *identity = &h->identities[sync->file];
	struct ta_epoch *of_file = ta_barrier_epochs(h->barrier, identity->device, identity->inode);

	for (int i = 0; i < h->request_count; i++) {
		const struct epoch *epoch = &h->epochs[h->requests[i].epoch];

		sync->waits[i] = epoch->sealed && !epoch->drained && is_of_file(epoch, sync->file);
	}
	if (!attach_list(h, sync->sync, of_file) ||
	    !attach_list(h, sync->sync, h->barrier->anywhere))
		withdraw(h, index);
}

static void enter_sync(struct history *h, const struct look *look)
{
	struct sync *sync = &h->syncs[h->sync_count];
	int descriptor = look->descriptor, file = h->file_of[descriptor];

	if (file == CLOSED)
		return;
	memset(sync, 0, sizeof(*sync));
	sync->file = file;
	sync->descriptor = descriptor;
	sync->data_only = look->data_only;
	tell(h, " s%d(fd%d,file%d%s)", h->sync_count, descriptor, file,
	     look->data_only ? ",data" : "");
	sync->entered = h->filed++;
	sync->sync = ta_barrier_enter(h->barrier, h->identities[file].device,
				      h->identities[file].inode, descriptor, look->data_only, sync);
	EXPECT(h, sync->sync);
	attach_all(h, h->sync_count++);
}

static void survey(struct history *h, int index, int descriptors)
{
	struct look *look = &h->looks[index];

	if (!look->is_on)
		return;
	tell(h, " look%d(%d)", index, descriptors);
	while (descriptors-- > 0 && look->surveyed < DESCRIPTORS)
		seal(h, look->surveyed++);
	if (look->surveyed < DESCRIPTORS)
		return;
	look->is_on = false;
	enter_sync(h, look);
}

static void begin_look(struct history *h, int descriptor, bool data_only)
{
	int index = (int)draw(h, LOOKS);

	if (h->looks[index].is_on || h->file_of[descriptor] == CLOSED)
		return;
	h->looks[index] =
		(struct look){ .descriptor = descriptor, .data_only = data_only, .is_on = true };
	if (!h->looks_overlap)
		survey(h, index, DESCRIPTORS);
}

static void arm(struct history *h, int index)
{
	struct sync *sync = &h->syncs[index];

	if (sync->progress != ENTERED)
		return;
	tell(h, " arm(s%d)", index);
	sync->progress = ARMED;
	ta_barrier_arm(h->barrier, sync->sync, &h->due);
}

static void cancel(struct history *h, int index)
{
	struct sync *sync = &h->syncs[index];

	if (sync->progress != ARMED)
		return;
	tell(h, " cancel(s%d)", index);
	sync->progress = CANCELLED;
	ta_barrier_cancel(sync->sync);
}

static void begin_call(struct history *h)
{
	struct ta_sync *leader = h->due;

	if (!leader)
		return;
	tell(h, " call(s%d)", (int)((struct sync *)leader->owner - h->syncs));
	h->due = leader->due_next;
	h->due_count--;
	((struct sync *)leader->owner)->called = true;
}

/* All that the call serves, linked by due_next in the order in which they came. */
static void expect_group(struct history *h, int leader, const struct ta_sync *group)
{
	for (int i = leader; i < h->sync_count; i++) {
		if (h->syncs[i].progress != ISSUED || h->syncs[i].leader != leader)
			continue;
		EXPECT(h, group == h->syncs[i].sync && group->owner == &h->syncs[i]);
		group = group->due_next;
	}
	EXPECT(h, !group);
}

static void tell_group(struct history *h, int leader)
{
	struct sync *sync = &h->syncs[leader];

	if (!sync->called || sync->told)
		return;
	tell(h, " group(s%d)", leader);
	sync->told = true;
	expect_group(h, leader, ta_barrier_group(sync->sync));
}

static void end_call(struct history *h, int leader)
{
	struct ta_sync *ended, *next;

	if (!h->syncs[leader].told || h->syncs[leader].progress != ISSUED)
		return;
	tell(h, " -call(s%d)", leader);
	ended = ta_barrier_ended(h->barrier, h->syncs[leader].sync, &h->due);
	expect_group(h, leader, ended);
	for (; ended; ended = next) {
		struct sync *sync = ended->owner;

		next = ended->due_next;
		sync->progress = ENDED;
		sync->sync = NULL;
		ta_barrier_release(h->barrier, ended);
	}
}

static int random_sync(struct history *h)
{
	int from = h->sync_count ? (int)draw(h, (unsigned)h->sync_count) : 0;

	for (int i = 0; i < h->sync_count; i++) {
		int index = (from + i) % h->sync_count;

		if (is_live(&h->syncs[index]))
			return index;
	}
	return -1;
}

static void step_of_sync(struct history *h, unsigned what)
{
	int sync = random_sync(h);

	if (sync < 0)
		return;
	if (what < 12)
		arm(h, sync);
	else if (what < 17)
		tell_group(h, sync);
	else if (what < 22)
		end_call(h, sync);
	else if (what < 27)
		cancel(h, sync);
	else
		withdraw(h, sync);
}

static void random_step(struct history *h)
{
	int descriptor = (int)draw(h, DESCRIPTORS);
	unsigned what = draw(h, 100);

	if (what < 28)
		begin_request(h, descriptor);
	else if (what < 41)
		begin_look(h, descriptor, draw(h, 2));
	else if (what < 45)
		survey(h, (int)draw(h, LOOKS), 1 + (int)draw(h, DESCRIPTORS));
	else if (what < 48)
		h->file_of[descriptor] =
			h->file_of[descriptor] == CLOSED ? (int)draw(h, FILES) : CLOSED;
	else if (what < 66)
		end_random_request(h);
	else if (what < 71)
		begin_call(h);
	else
		step_of_sync(h, what - 71);
	compare(h);
}

/* Everything ends, in any order: then every sync must have been served or withdrawn. */
static void finish(struct history *h)
{
	int i;

	for (i = 0; i < LOOKS; i++) {
		survey(h, i, DESCRIPTORS);
		compare(h);
	}
	for (i = 0; i < h->sync_count; i++) {
		arm(h, i);
		compare(h);
	}
	while (random_request(h) >= 0) {
		end_random_request(h);
		compare(h);
	}
	/* Each round ends a call or a cancelled sync of every file that has any. */
	for (int round = 0; random_sync(h) >= 0 && round < STEPS; round++) {
		while (h->due)
			begin_call(h);
		for (i = 0; i < h->sync_count; i++) {
			if (h->syncs[i].progress == CANCELLED)
				withdraw(h, i);
			tell_group(h, i);
			end_call(h, i);
			compare(h);
		}
	}
	EXPECT(h, random_sync(h) < 0);
	EXPECT(h, h->barrier->files == 0 && !h->barrier->anywhere);
	for (i = 0; i < TA_BARRIER_BUCKETS; i++)
		EXPECT(h, !h->barrier->buckets[i]);
}

static void play(struct ta_barrier *barrier, unsigned seed)
{
	struct history *h = &history;

	memset(h, 0, sizeof(*h));
	h->seed = seed;
	h->random = 0x9e3779b97f4a7c15u * (seed + 1);
	h->barrier = barrier;
	h->filed = barrier->filed;
	h->identities = draw(h, 2) ? spread : crowded;
	h->looks_overlap = draw(h, 2);
	for (int i = 0; i < DESCRIPTORS; i++) {
		h->file_of[i] = i % FILES;
		h->open[i] = -1;
	}
	for (h->step = 0; h->step < STEPS; h->step++)
		random_step(h);
	finish(h);
}

/*
 * Pools and buckets.
 */

struct pools {
	size_t pages, objects;
};

/* Every object of the barrier begins with its link. */
static size_t list_length(const void *object)
{
	size_t length = 0;

	for (; object; object = *(void *const *)object)
		if (++length > OBJECTS_MAX)
			ck_abort_msg("a list of free objects that has no end");
	return length;
}

static struct pools count_pools(const struct ta_barrier *barrier)
{
	return (struct pools){
		.pages = list_length(barrier->pages),
		.objects = list_length(barrier->free_files) + list_length(barrier->free_syncs) +
			   list_length(barrier->free_waits),
	};
}

static int bucket_of(struct ta_barrier *barrier, const struct identity *identity)
{
	struct ta_epoch epoch = { .sealed = true };
	struct ta_sync *due = NULL;
	int bucket = 0;

	ck_assert_int_eq(ta_barrier_file_epoch(barrier, &epoch, identity->device, identity->inode),
			 0);
	while (!barrier->buckets[bucket])
		bucket++;
	ta_barrier_drained(barrier, &epoch, &due);
	return bucket;
}

/*
 * The first of them gets a device, and the last an inode, with which they share the second's
 * bucket.
 */
static void crowd(struct ta_barrier *barrier)
{
	int bucket = bucket_of(barrier, &crowded[1]);

	do
		crowded[0].device++;
	while (crowded[0].device == 2 || bucket_of(barrier, &crowded[0]) != bucket);
	do
		crowded[2].inode++;
	while (crowded[2].inode == 7 || bucket_of(barrier, &crowded[2]) != bucket);
}

START_TEST(random_histories_agree_with_the_model)
{
	const char *chosen = getenv("TRUEAIO_SEED");
	unsigned first = chosen ? (unsigned)strtoul(chosen, NULL, 10) : 1;
	struct ta_barrier barrier = { 0 };
	struct pools before, after;

	ck_assert_ptr_nonnull(ta_process_enter());
	crowd(&barrier);
	before = count_pools(&barrier);
	signal(SIGILL, say_seed);
	signal(SIGTRAP, say_seed);
	signal(SIGSEGV, say_seed);
	for (unsigned seed = first; seed < first + (chosen ? 1 : HISTORIES); seed++) {
		play(&barrier, seed);
		/*
		 * Nothing is left of a history but free objects: as many as before, unless pages
		 * were added.
		 */
		after = count_pools(&barrier);
		EXPECT(&history, after.pages == before.pages ? after.objects == before.objects
							     : after.objects > before.objects);
		before = after;
	}
	/* Room for the most that one history can have. */
	ck_assert_uint_le(before.pages, 64);
	ta_pool_free_all(&barrier.pages);
}
END_TEST

/*
 * The rules, one by one.
 */

static struct ta_barrier barrier;
static struct ta_sync *due;
static int owners[8];
static size_t records; /* of files, in use or free */

static struct ta_sync *enter_file(uint64_t inode, int descriptor, bool data_only, int owner)
{
	struct ta_sync *sync =
		ta_barrier_enter(&barrier, 1, inode, descriptor, data_only, &owners[owner]);

	ck_assert_ptr_nonnull(sync);
	return sync;
}

static struct ta_sync *enter(int descriptor, bool data_only, int owner)
{
	return enter_file(1, descriptor, data_only, owner);
}

static struct ta_epoch sealed_epoch(void)
{
	struct ta_epoch epoch = open_epoch(1);

	epoch.sealed = true;
	return epoch;
}

/* One request of that file is in flight. */
static void seal_epoch(struct ta_epoch *epoch, uint64_t inode)
{
	*epoch = sealed_epoch();
	ck_assert_int_eq(ta_barrier_file_epoch(&barrier, epoch, 1, inode), 0);
}

/* One of any. */
static void seal_anywhere(struct ta_epoch *epoch)
{
	*epoch = sealed_epoch();
	ta_barrier_file_anywhere(&barrier, epoch);
}

static void attach(struct ta_sync *sync, struct ta_epoch *epoch)
{
	ck_assert_int_eq(ta_barrier_attach(&barrier, sync, epoch), 0);
}

static void arm_sync(struct ta_sync *sync)
{
	ta_barrier_arm(&barrier, sync, &due);
}

/* A sync on its way that waits for one request. */
static struct ta_sync *enter_behind(struct ta_epoch *epoch, int descriptor, bool data_only,
				    int owner)
{
	struct ta_sync *sync = enter(descriptor, data_only, owner);

	seal_epoch(epoch, 1);
	attach(sync, epoch);
	arm_sync(sync);
	return sync;
}

static void drain(struct ta_epoch *epoch)
{
	epoch->in_flight = 0;
	ta_barrier_drained(&barrier, epoch, &due);
	ck_assert_ptr_null(epoch->waits);
}

static void withdraw_sync(struct ta_sync *sync)
{
	ta_barrier_withdraw(&barrier, sync, &due);
}

/* Takes what is due: this one sync. */
static void expect_due(struct ta_sync *sync)
{
	ck_assert_ptr_eq(due, sync);
	ck_assert_ptr_null(sync->due_next);
	due = NULL;
}

static void expect_ended(struct ta_sync *leader, struct ta_sync *rider)
{
	struct ta_sync *ended = ta_barrier_ended(&barrier, leader, &due);

	ck_assert_ptr_eq(ended, leader);
	ck_assert_ptr_eq(leader->due_next, rider);
	if (rider) {
		ck_assert_ptr_null(rider->due_next);
		ta_barrier_release(&barrier, rider);
	}
	ta_barrier_release(&barrier, leader);
}

/* So many files have something; and each record of a file is in use or free, and not both. */
static void expect_files(uint32_t files)
{
	size_t known = list_length(barrier.free_files) + files;

	ck_assert_uint_eq(barrier.files, files);
	ck_assert(ta_barrier_is_empty(&barrier) == (files == 0 && !barrier.anywhere));
	/* A page of them is enough for a case. */
	if (records == 0)
		records = known;
	ck_assert_uint_eq(known, records);
}

static bool must_wait(uint64_t inode)
{
	return ta_barrier_must_wait(&barrier, 1, inode, UINT64_MAX);
}

START_TEST(a_sync_waits_for_all_its_epochs)
{
	struct ta_epoch epochs[4];
	struct ta_sync *sync;

	for (int i = 0; i < 3; i++)
		seal_epoch(&epochs[i], 1);
	seal_anywhere(&epochs[3]);
	sync = enter(3, false, 0);
	for (int i = 0; i < 4; i++)
		attach(sync, &epochs[i]);
	arm_sync(sync);
	drain(&epochs[1]);
	drain(&epochs[3]);
	drain(&epochs[0]);
	ck_assert_ptr_null(due);
	drain(&epochs[2]);
	expect_due(sync);
	ck_assert_ptr_eq(sync->owner, &owners[0]);
	expect_ended(sync, NULL);
	ck_assert_ptr_null(due);
}
END_TEST

START_TEST(nothing_is_issued_before_it_is_armed)
{
	struct ta_epoch epoch;
	struct ta_sync *sync = enter(3, false, 0);

	seal_epoch(&epoch, 1);
	attach(sync, &epoch);
	drain(&epoch);
	ck_assert_ptr_null(due);
	arm_sync(sync);
	expect_due(sync);
}
END_TEST

/* Its last request has ended, and the barrier is about to hear of it. */
START_TEST(a_sync_may_attach_to_an_epoch_that_is_about_to_be_drained)
{
	struct ta_epoch epoch;
	struct ta_sync *sync = enter(3, false, 0);

	seal_epoch(&epoch, 1);
	epoch.in_flight = 0;
	attach(sync, &epoch);
	arm_sync(sync);
	ck_assert_ptr_null(due);
	drain(&epoch);
	expect_due(sync);
}
END_TEST

START_TEST(a_drained_sync_behind_an_undrained_one_waits)
{
	struct ta_epoch epochs[2];
	struct ta_sync *first = enter_behind(&epochs[0], 3, false, 0);
	struct ta_sync *second = enter_behind(&epochs[1], 4, false, 1);

	drain(&epochs[1]);
	ck_assert_ptr_null(due);
	drain(&epochs[0]);
	expect_due(first);
	expect_ended(first, NULL);
	expect_due(second);
}
END_TEST

START_TEST(one_call_serves_all_that_are_drained)
{
	struct ta_epoch epochs[2];
	struct ta_sync *first = enter_behind(&epochs[0], 3, false, 0);
	struct ta_sync *second = enter_behind(&epochs[1], 3, false, 1);

	drain(&epochs[1]);
	drain(&epochs[0]);
	expect_due(first);
	expect_ended(first, second);
	ck_assert_ptr_null(due);
	ck_assert_uint_eq(barrier.files, 0);
}
END_TEST

/* Both hear of it by one call: the later must not miss the group by coming second. */
START_TEST(syncs_that_wait_for_the_same_request_share_a_call)
{
	struct ta_epoch epoch;
	struct ta_sync *first = enter_behind(&epoch, 3, false, 0), *second = enter(3, false, 1);

	attach(second, &epoch);
	arm_sync(second);
	drain(&epoch);
	expect_due(first);
	expect_ended(first, second);
	ck_assert_ptr_null(due);
}
END_TEST

START_TEST(a_rider_needs_the_same_descriptor)
{
	struct ta_epoch epochs[3];
	struct ta_sync *first = enter_behind(&epochs[0], 3, false, 0);
	struct ta_sync *other = enter_behind(&epochs[1], 4, false, 1);
	struct ta_sync *third = enter_behind(&epochs[2], 3, false, 2);

	for (int i = 2; i >= 0; i--)
		drain(&epochs[i]);
	expect_due(first);
	expect_ended(first, NULL);
	expect_due(other);
	expect_ended(other, NULL);
	expect_due(third);
}
END_TEST

START_TEST(a_rider_must_be_drained)
{
	struct ta_epoch epochs[3];
	struct ta_sync *first = enter_behind(&epochs[0], 3, false, 0);
	struct ta_sync *second = enter_behind(&epochs[1], 3, false, 1);
	struct ta_sync *third = enter_behind(&epochs[2], 3, false, 2);

	drain(&epochs[2]);
	drain(&epochs[0]);
	expect_due(first);
	/* Too late for the call that runs. */
	drain(&epochs[1]);
	ck_assert_ptr_null(due);
	expect_ended(first, NULL);
	expect_due(second);
	expect_ended(second, third);
}
END_TEST

START_TEST(fsync_serves_fdatasync_and_not_the_reverse)
{
	static const bool kinds[][2] = {
		{ true, true }, { true, false }, { false, true }, { false, false }
	};

	for (unsigned i = 0; i < 4; i++) {
		struct ta_epoch epochs[2];
		struct ta_sync *first = enter_behind(&epochs[0], 3, kinds[i][0], 0);
		struct ta_sync *second = enter_behind(&epochs[1], 3, kinds[i][1], 1);

		drain(&epochs[1]);
		drain(&epochs[0]);
		expect_due(first);
		ck_assert_msg(first->group_data_only == (kinds[i][0] && kinds[i][1]), "pair %u", i);
		expect_ended(first, second);
	}
}
END_TEST

/* Their events are made visible meanwhile: what comes in between must not be over before them. */
START_TEST(a_group_keeps_its_place_until_it_has_ended)
{
	struct ta_epoch epochs[2];
	struct ta_sync *first = enter_behind(&epochs[0], 3, false, 0);
	struct ta_sync *second = enter_behind(&epochs[1], 3, false, 1), *late;

	drain(&epochs[1]);
	drain(&epochs[0]);
	expect_due(first);
	ck_assert_ptr_eq(ta_barrier_group(first), first);
	ck_assert_ptr_eq(first->due_next, second);
	ck_assert_ptr_null(second->due_next);
	ck_assert(must_wait(1));
	late = enter(3, false, 2);
	arm_sync(late);
	ck_assert_ptr_null(due);
	ck_assert_ptr_eq(ta_barrier_group(first), first);
	ck_assert_ptr_eq(first->due_next, second);
	ck_assert_ptr_null(second->due_next);
	expect_ended(first, second);
	expect_due(late);
}
END_TEST

/*
 * Syncs that leave before their turn.
 */

START_TEST(a_withdrawn_sync_lets_the_next_go)
{
	struct ta_epoch epochs[2];
	struct ta_sync *first = enter_behind(&epochs[0], 3, false, 0);
	struct ta_sync *second = enter_behind(&epochs[1], 4, false, 1);

	drain(&epochs[1]);
	withdraw_sync(first);
	expect_due(second);
	drain(&epochs[0]);
	ck_assert_ptr_null(due);
	expect_ended(second, NULL);
	ck_assert_ptr_null(due);
}
END_TEST

START_TEST(a_sync_withdrawn_in_the_middle_leaves_the_order)
{
	struct ta_epoch epochs[3];
	struct ta_sync *first = enter_behind(&epochs[0], 3, false, 0);
	struct ta_sync *second = enter_behind(&epochs[1], 4, false, 1);
	struct ta_sync *third = enter_behind(&epochs[2], 3, false, 2);

	withdraw_sync(second);
	drain(&epochs[2]);
	drain(&epochs[1]);
	ck_assert_ptr_null(due);
	drain(&epochs[0]);
	expect_due(first);
	/* Contiguous now, and by the same descriptor. */
	expect_ended(first, third);
}
END_TEST

/* Its memory must not go to another sync while an epoch still counts it down, and goes once. */
START_TEST(a_withdrawn_sync_is_kept_while_epochs_refer_to_it)
{
	struct ta_epoch epochs[2];
	struct ta_sync *first = enter_behind(&epochs[0], 3, false, 0), *second;
	size_t free_syncs = list_length(barrier.free_syncs);

	withdraw_sync(first);
	ck_assert_uint_eq(list_length(barrier.free_syncs), free_syncs);
	second = enter_behind(&epochs[1], 3, false, 1);
	ck_assert_ptr_ne(first, second);
	drain(&epochs[0]);
	ck_assert_ptr_null(due);
	ck_assert_uint_eq(list_length(barrier.free_syncs), free_syncs);
	drain(&epochs[1]);
	expect_due(second);
}
END_TEST

START_TEST(an_unarmed_sync_can_be_withdrawn)
{
	size_t free_syncs;
	struct ta_epoch epoch;
	struct ta_sync *first = enter(3, false, 0), *second = enter_behind(&epoch, 4, false, 1);

	free_syncs = list_length(barrier.free_syncs);
	attach(first, &epoch);
	drain(&epoch);
	ck_assert_ptr_null(due);
	withdraw_sync(first);
	ck_assert_uint_eq(list_length(barrier.free_syncs), free_syncs + 1);
	expect_due(second);
}
END_TEST

START_TEST(a_cancelled_sync_keeps_its_place_until_it_is_withdrawn)
{
	struct ta_epoch epochs[2];
	struct ta_sync *first = enter_behind(&epochs[0], 3, false, 0);
	struct ta_sync *second = enter_behind(&epochs[1], 4, false, 1);

	ta_barrier_cancel(first);
	ck_assert_uint_eq(first->state, TA_SYNC_CANCELLED);
	ck_assert_ptr_eq(first->owner, &owners[0]);
	drain(&epochs[1]);
	ck_assert_ptr_null(due);
	drain(&epochs[0]);
	ck_assert_ptr_null(due);
	ck_assert(must_wait(1));
	withdraw_sync(first);
	expect_due(second);
}
END_TEST

/* Also one of the same descriptor, and with nothing left to wait for. */
START_TEST(nobody_rides_past_a_cancelled_sync)
{
	struct ta_epoch epochs[3];
	struct ta_sync *first = enter_behind(&epochs[0], 3, false, 0);
	struct ta_sync *second = enter_behind(&epochs[1], 3, false, 1);
	struct ta_sync *third = enter_behind(&epochs[2], 3, false, 2);

	drain(&epochs[2]);
	drain(&epochs[1]);
	ta_barrier_cancel(second);
	drain(&epochs[0]);
	expect_due(first);
	ck_assert_uint_eq(third->state, TA_SYNC_WAITING);
	ck_assert_ptr_eq(ta_barrier_group(first), first);
	ck_assert_ptr_null(first->due_next);
	expect_ended(first, NULL);
	ck_assert_ptr_null(due);
	withdraw_sync(second);
	expect_due(third);
}
END_TEST

START_TEST(a_cancelled_sync_may_go_before_its_epochs_are_drained)
{
	struct ta_epoch epochs[2];
	struct ta_sync *first = enter_behind(&epochs[0], 3, false, 0);
	struct ta_sync *second = enter_behind(&epochs[1], 3, false, 1);
	size_t free_syncs = list_length(barrier.free_syncs);

	ta_barrier_cancel(first);
	withdraw_sync(first);
	ck_assert_uint_eq(list_length(barrier.free_syncs), free_syncs);
	drain(&epochs[1]);
	expect_due(second);
	drain(&epochs[0]);
	ck_assert_ptr_null(due);
	ck_assert_uint_eq(list_length(barrier.free_syncs), free_syncs + 1);
}
END_TEST

/* One that is cancelled while the call ahead runs: the call that follows is the next one's. */
START_TEST(a_sync_cancelled_behind_a_running_call_holds_up_the_next)
{
	struct ta_epoch epochs[3];
	struct ta_sync *first = enter_behind(&epochs[0], 3, false, 0);
	struct ta_sync *second = enter_behind(&epochs[1], 3, false, 1);
	struct ta_sync *third = enter_behind(&epochs[2], 3, false, 2);

	drain(&epochs[0]);
	expect_due(first);
	drain(&epochs[1]);
	drain(&epochs[2]);
	ta_barrier_cancel(second);
	expect_ended(first, NULL);
	ck_assert_ptr_null(due);
	withdraw_sync(second);
	expect_due(third);
}
END_TEST

/*
 * Files.
 */

START_TEST(files_differ_by_device_and_inode)
{
	struct ta_sync *syncs[3];

	for (unsigned i = 0; i < 3; i++) {
		syncs[i] = ta_barrier_enter(&barrier, spread[i].device, spread[i].inode, 3, false,
					    &owners[i]);
		arm_sync(syncs[i]);
		expect_due(syncs[i]);
	}
}
END_TEST

START_TEST(what_is_due_is_added_to_what_was)
{
	struct ta_epoch epochs[2];
	struct ta_sync *first = enter_behind(&epochs[0], 3, false, 0), *second;

	second = ta_barrier_enter(&barrier, 2, 1, 3, false, &owners[1]);
	arm_sync(second);
	drain(&epochs[0]);
	ck_assert_ptr_eq(due, second);
	ck_assert_ptr_eq(second->due_next, first);
	ck_assert_ptr_null(first->due_next);
}
END_TEST

START_TEST(an_fsync_must_wait_where_an_epoch_or_a_sync_is)
{
	struct ta_epoch epoch;
	struct ta_sync *sync;

	ck_assert(ta_barrier_is_empty(&barrier) && !must_wait(1));
	seal_epoch(&epoch, 1);
	ck_assert(!ta_barrier_is_empty(&barrier) && must_wait(1) && !must_wait(2));
	ck_assert_ptr_eq(ta_barrier_epochs(&barrier, 1, 1), &epoch);
	ck_assert_ptr_null(ta_barrier_epochs(&barrier, 1, 2));
	drain(&epoch);
	ck_assert(ta_barrier_is_empty(&barrier) && !must_wait(1));
	sync = enter(3, false, 0);
	ck_assert(!ta_barrier_is_empty(&barrier) && must_wait(1) && !must_wait(2));
	ck_assert_ptr_null(ta_barrier_epochs(&barrier, 1, 1));
	arm_sync(sync);
	expect_due(sync);
	/* It runs, and its event is still to come. */
	ck_assert(must_wait(1));
	expect_ended(sync, NULL);
	ck_assert(ta_barrier_is_empty(&barrier) && !must_wait(1));
}
END_TEST

/* One who waits in the caller waits for what there was, and not for what comes. */
START_TEST(epochs_filed_later_can_be_left_out)
{
	struct ta_epoch epochs[4];
	uint64_t filed;

	seal_epoch(&epochs[0], 1);
	seal_anywhere(&epochs[1]);
	filed = barrier.filed;
	seal_epoch(&epochs[2], 1);
	seal_anywhere(&epochs[3]);
	ck_assert(ta_barrier_must_wait(&barrier, 1, 1, filed));
	ck_assert(ta_barrier_must_wait(&barrier, 1, 2, filed));
	drain(&epochs[1]);
	ck_assert(ta_barrier_must_wait(&barrier, 1, 1, filed));
	ck_assert(!ta_barrier_must_wait(&barrier, 1, 2, filed));
	drain(&epochs[0]);
	ck_assert(!ta_barrier_must_wait(&barrier, 1, 1, filed));
	ck_assert(must_wait(1) && must_wait(2));
	drain(&epochs[3]);
	drain(&epochs[2]);
	ck_assert(ta_barrier_is_empty(&barrier));
}
END_TEST

START_TEST(an_epoch_that_may_be_of_any_file_is_waited_for_everywhere)
{
	struct ta_epoch anywhere, elsewhere;
	struct ta_sync *syncs[2];

	seal_anywhere(&anywhere);
	ck_assert(!ta_barrier_is_empty(&barrier) && must_wait(1) && must_wait(2));
	expect_files(0);
	ck_assert_ptr_eq(barrier.anywhere, &anywhere);
	ck_assert_ptr_null(ta_barrier_epochs(&barrier, 1, 1));
	seal_epoch(&elsewhere, 3);
	for (int i = 0; i < 2; i++) {
		syncs[i] = enter_file((uint64_t)i + 1, 3 + i, false, i);
		attach(syncs[i], &anywhere);
		arm_sync(syncs[i]);
	}
	drain(&elsewhere);
	ck_assert_ptr_null(due);
	drain(&anywhere);
	ck_assert_ptr_null(barrier.anywhere);
	ck_assert(due == syncs[0] || due == syncs[1]);
	ck_assert_ptr_eq(due->due_next, due == syncs[0] ? syncs[1] : syncs[0]);
	ck_assert_ptr_null(due->due_next->due_next);
	ck_assert(must_wait(1) && must_wait(2) && !must_wait(3));
}
END_TEST

static bool is_listed(const struct ta_epoch *list, const struct ta_epoch *epoch)
{
	int found = 0;

	for (; list; list = list->next)
		found += list == epoch;
	ck_assert_int_le(found, 1);
	return found;
}

static const struct ta_epoch *listed(bool anywhere)
{
	return anywhere ? barrier.anywhere : ta_barrier_epochs(&barrier, 1, 1);
}

static void drain_in_order(bool anywhere, const int *order)
{
	struct ta_epoch epochs[3];
	bool left[3] = { true, true, true };

	for (int i = 0; i < 3; i++)
		anywhere ? seal_anywhere(&epochs[i]) : seal_epoch(&epochs[i], 1);
	for (int i = 0; i < 3; i++) {
		drain(&epochs[order[i]]);
		memset(&epochs[order[i]], 0xa5, sizeof(epochs[0]));
		left[order[i]] = false;
		for (int j = 0; j < 3; j++)
			ck_assert(is_listed(listed(anywhere), &epochs[j]) == left[j]);
	}
	ck_assert(ta_barrier_is_empty(&barrier));
}

START_TEST(epochs_are_drained_in_any_order)
{
	static const int orders[][3] = { { 0, 1, 2 }, { 0, 2, 1 }, { 1, 0, 2 },
					 { 1, 2, 0 }, { 2, 0, 1 }, { 2, 1, 0 } };

	for (int i = 0; i < 6; i++) {
		drain_in_order(false, orders[i]);
		drain_in_order(true, orders[i]);
	}
}
END_TEST

/* The record of a file goes with the last that it has, and once. */

START_TEST(a_file_is_forgotten_with_its_last_epoch)
{
	struct ta_epoch epochs[2];
	struct ta_sync *sync;

	seal_epoch(&epochs[0], 1);
	expect_files(1);
	sync = enter_behind(&epochs[1], 3, false, 0);
	expect_files(1);
	drain(&epochs[1]);
	expect_due(sync);
	expect_ended(sync, NULL);
	expect_files(1);
	drain(&epochs[0]);
	expect_files(0);
	/* The same, where the epoch still refers to a sync. */
	sync = enter_behind(&epochs[0], 3, false, 0);
	withdraw_sync(sync);
	expect_files(1);
	drain(&epochs[0]);
	expect_files(0);
	ck_assert_ptr_null(due);
}
END_TEST

START_TEST(a_file_is_forgotten_with_its_last_sync)
{
	struct ta_epoch epoch;
	struct ta_sync *sync = enter_behind(&epoch, 3, false, 0);

	drain(&epoch);
	expect_due(sync);
	expect_files(1);
	expect_ended(sync, NULL);
	expect_files(0);
	sync = enter_behind(&epoch, 3, false, 0);
	ta_barrier_cancel(sync);
	drain(&epoch);
	expect_files(1);
	withdraw_sync(sync);
	expect_files(0);
	/* What may be of any file keeps none. */
	seal_anywhere(&epoch);
	sync = enter(3, false, 0);
	attach(sync, &epoch);
	withdraw_sync(sync);
	expect_files(0);
	drain(&epoch);
	expect_files(0);
	ck_assert_ptr_null(due);
}
END_TEST

#define MANY_FILES (4 * TA_BARRIER_BUCKETS)

static bool is_known_with(unsigned file, const struct ta_epoch *epoch)
{
	const struct ta_epoch *list = ta_barrier_epochs(&barrier, file % 3, file / 3);

	ck_assert(ta_barrier_must_wait(&barrier, file % 3, file / 3, UINT64_MAX) == (list != NULL));
	ck_assert(!list || (list == epoch && !list->next));
	return list != NULL;
}

/* More than there are buckets. */
START_TEST(many_files_are_told_apart)
{
	static struct ta_epoch epochs[MANY_FILES];
	bool is_left[MANY_FILES];
	unsigned file;

	for (file = 0; file < MANY_FILES; file++) {
		ck_assert(!is_known_with(file, NULL));
		epochs[file] = sealed_epoch();
		ck_assert_int_eq(ta_barrier_file_epoch(&barrier, &epochs[file], file % 3, file / 3),
				 0);
		is_left[file] = true;
	}
	for (unsigned i = 0; i < TA_BARRIER_BUCKETS; i++)
		ck_assert_uint_le(list_length(barrier.buckets[i]), 32);
	/* In another order. */
	for (unsigned i = 0; i < MANY_FILES; i++) {
		ck_assert_uint_eq(barrier.files, MANY_FILES - i);
		file = (i * 389 + 7) % MANY_FILES;
		drain(&epochs[file]);
		is_left[file] = false;
		if (i % 64 == 0)
			for (file = 0; file < MANY_FILES; file++)
				ck_assert(is_known_with(file, &epochs[file]) == is_left[file]);
	}
	ck_assert(ta_barrier_is_empty(&barrier));
	for (unsigned i = 0; i < TA_BARRIER_BUCKETS; i++)
		ck_assert_ptr_null(barrier.buckets[i]);
	ck_assert_uint_ge(list_length(barrier.free_files), MANY_FILES);
}
END_TEST

/*
 * Memory.
 */

/* An emulator may have its own idea of it. */
static bool is_limited(void)
{
	void *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return page == MAP_FAILED;
}

#define MANY 4096

/* How many there was room for, until one was refused. */
struct room {
	size_t waits, syncs, files;
	int attach_result;
};

static struct ta_epoch waited_for[MANY], filed[MANY];

/* With no address space left: waits of the sync, then other syncs, then other files. */
static struct room use_up(struct ta_sync *sync)
{
	struct room room = { 0 };

	for (; room.waits < MANY; room.waits++) {
		room.attach_result = ta_barrier_attach(&barrier, sync, &waited_for[room.waits]);
		if (room.attach_result < 0)
			break;
	}
	while (room.syncs < MANY && ta_barrier_enter(&barrier, 2, room.syncs, 3, false, &owners[1]))
		room.syncs++;
	while (room.files < MANY &&
	       ta_barrier_file_epoch(&barrier, &filed[room.files], 3, room.files) == 0)
		room.files++;
	return room;
}

/* False: nothing was limited. */
static bool use_up_all(struct ta_sync *sync, struct room *room)
{
	struct rlimit before, none;
	bool limited;

	getrlimit(RLIMIT_AS, &before);
	none = (struct rlimit){ .rlim_cur = 0, .rlim_max = before.rlim_max };
	setrlimit(RLIMIT_AS, &none);
	limited = is_limited();
	if (limited)
		*room = use_up(sync);
	setrlimit(RLIMIT_AS, &before);
	return limited;
}

/* Any file's epochs will do: they are filed when there is memory again. */
START_TEST(without_memory_nothing_changes)
{
	const struct ta_epoch unfiled = sealed_epoch();
	struct ta_sync *sync = enter(3, false, 0);
	struct room room;

	for (int i = 0; i < MANY; i++)
		waited_for[i] = filed[i] = unfiled;
	/* A page of each; more syncs than files, so that it is syncs that run out. */
	seal_epoch(&waited_for[MANY - 1], 1);
	attach(sync, &waited_for[MANY - 1]);
	enter(4, false, 2);
	enter(4, false, 3);
	if (!use_up_all(sync, &room)) {
		fprintf(stderr, "SKIP: %s: RLIMIT_AS limits nothing here\n", tcase_name());
		return;
	}
	ck_assert_int_eq(room.attach_result, -ENOMEM);
	ck_assert_mem_eq(&waited_for[room.waits], &unfiled, sizeof(unfiled));
	ck_assert_uint_lt(room.syncs, MANY);
	ck_assert(!ta_barrier_must_wait(&barrier, 2, room.syncs, UINT64_MAX));
	/* The record that was made for the sync that did not come about serves another. */
	ck_assert_uint_ge(room.files, 1);
	ck_assert_uint_lt(room.files, MANY);
	ck_assert_mem_eq(&filed[room.files], &unfiled, sizeof(unfiled));
	ck_assert(!ta_barrier_must_wait(&barrier, 3, room.files, UINT64_MAX));
	ck_assert_uint_eq(barrier.files, 1 + room.syncs + room.files);
	arm_sync(sync);
	for (size_t i = 0; i < room.waits; i++) {
		ck_assert_int_eq(ta_barrier_file_epoch(&barrier, &waited_for[i], 1, 1), 0);
		drain(&waited_for[i]);
	}
	ck_assert_ptr_null(due);
	drain(&waited_for[MANY - 1]);
	expect_due(sync);
}
END_TEST

/* Each case begins with nothing, also where all run in one process. */
static void forget_all(void)
{
	ck_assert_ptr_nonnull(ta_process_enter());
	ta_pool_free_all(&barrier.pages);
	memset(&barrier, 0, sizeof(barrier));
	due = NULL;
	records = 0;
}

int main(void)
{
	Suite *suite = suite_create("barrier");
	TCase *rules = tcase_create("rules"), *histories = tcase_create("histories");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(rules, forget_all, NULL);
	tcase_add_test(rules, a_sync_waits_for_all_its_epochs);
	tcase_add_test(rules, nothing_is_issued_before_it_is_armed);
	tcase_add_test(rules, a_sync_may_attach_to_an_epoch_that_is_about_to_be_drained);
	tcase_add_test(rules, a_drained_sync_behind_an_undrained_one_waits);
	tcase_add_test(rules, one_call_serves_all_that_are_drained);
	tcase_add_test(rules, syncs_that_wait_for_the_same_request_share_a_call);
	tcase_add_test(rules, a_rider_needs_the_same_descriptor);
	tcase_add_test(rules, a_rider_must_be_drained);
	tcase_add_test(rules, fsync_serves_fdatasync_and_not_the_reverse);
	tcase_add_test(rules, a_group_keeps_its_place_until_it_has_ended);
	tcase_add_test(rules, a_withdrawn_sync_lets_the_next_go);
	tcase_add_test(rules, a_sync_withdrawn_in_the_middle_leaves_the_order);
	tcase_add_test(rules, a_withdrawn_sync_is_kept_while_epochs_refer_to_it);
	tcase_add_test(rules, an_unarmed_sync_can_be_withdrawn);
	tcase_add_test(rules, a_cancelled_sync_keeps_its_place_until_it_is_withdrawn);
	tcase_add_test(rules, nobody_rides_past_a_cancelled_sync);
	tcase_add_test(rules, a_cancelled_sync_may_go_before_its_epochs_are_drained);
	tcase_add_test(rules, a_sync_cancelled_behind_a_running_call_holds_up_the_next);
	tcase_add_test(rules, files_differ_by_device_and_inode);
	tcase_add_test(rules, what_is_due_is_added_to_what_was);
	tcase_add_test(rules, an_fsync_must_wait_where_an_epoch_or_a_sync_is);
	tcase_add_test(rules, epochs_filed_later_can_be_left_out);
	tcase_add_test(rules, an_epoch_that_may_be_of_any_file_is_waited_for_everywhere);
	tcase_add_test(rules, epochs_are_drained_in_any_order);
	tcase_add_test(rules, a_file_is_forgotten_with_its_last_epoch);
	tcase_add_test(rules, a_file_is_forgotten_with_its_last_sync);
	tcase_add_test(rules, many_files_are_told_apart);
	tcase_add_test(rules, without_memory_nothing_changes);
	suite_add_tcase(suite, rules);
	tcase_set_timeout(histories, 60);
	tcase_add_test(histories, random_histories_agree_with_the_model);
	suite_add_tcase(suite, histories);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed > 0;
}
