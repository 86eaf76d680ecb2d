/* SPDX-License-Identifier: MIT */
/*
 * Goal: a sync is issued once all that came before it on its file has ended, never earlier, and
 * never forgotten; syncs of one file end in the order in which they came; a call is shared where it
 * may be.
 *
 * Method: the barrier is pure logic, so a history needs no file and no thread.  Random ones are
 * played on the barrier and on a model that keeps a list of all requests and syncs and asks it anew
 * after every step.  What the barrier hands back must be what the model expects at that step, no
 * more and no less. Epochs are made, sealed and attached as an fsync of the library does it, also a
 * few at a time with other steps in between, as when several threads submit.  Descriptors are
 * closed and opened again.
 *
 * TRUEAIO_SEED=n plays the one history with that seed.  The rules have named cases besides.
 */
#include "barrier.h"
#include "pool.h"

#include <check.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define FILES 3
#define DESCRIPTORS 6
#define STEPS 150
#define HISTORIES 3000
#define CLOSED (-1)

/* The first two differ in the device alone, the last two in the inode. */
static const struct {
	uint64_t device, inode;
} identities[FILES] = { { 1, 7 }, { 2, 7 }, { 2, 8 } };

struct request {
	int descriptor;
	bool ended;
	struct ta_epoch *epoch;
};

enum sync_progress { ENTERED, ARMED, ISSUED, ENDED, WITHDRAWN };

struct sync {
	struct ta_sync *sync;
	int file;
	int descriptor;
	bool data_only;
	enum sync_progress progress;
	int surveyed; /* descriptors that were looked through for earlier requests */
	unsigned before[DESCRIPTORS]; /* it waits for the requests there with a lower number */
	int leader; /* of the call that serves it */
	bool called; /* as a leader: its call has begun */
};

struct history {
	unsigned seed, step;
	uint64_t random;
	bool surveys_overlap;
	struct ta_barrier *barrier;
	struct ta_sync *due; /* handed back and not yet called */
	int due_count;
	int file_of[DESCRIPTORS];
	struct ta_epoch *open[DESCRIPTORS];
	struct ta_epoch epochs[STEPS];
	int epoch_descriptor[STEPS];
	struct request requests[STEPS];
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

static bool waits_for(const struct sync *sync, const struct history *h, int request)
{
	const struct request *earlier = &h->requests[request];

	return !earlier->ended && (unsigned)request < sync->before[earlier->descriptor];
}

static bool waits_for_any(const struct sync *sync, const struct history *h)
{
	for (int i = 0; i < h->request_count; i++)
		if (waits_for(sync, h, i))
			return true;
	return false;
}

static bool is_ready(const struct sync *sync, const struct history *h)
{
	return sync->progress == ARMED && !waits_for_any(sync, h);
}

static int oldest_of_file(const struct history *h, int file)
{
	for (int i = 0; i < h->sync_count; i++)
		if (h->syncs[i].file == file && is_live(&h->syncs[i]))
			return i;
	return -1;
}

static int next_of_file(const struct history *h, int index)
{
	for (int i = index + 1; i < h->sync_count; i++)
		if (h->syncs[i].file == h->syncs[index].file && is_live(&h->syncs[i]))
			return i;
	return -1;
}

/* A sync was handed back: it and those that the barrier put behind it are one call. */
static void issue_group(struct history *h, int leader)
{
	struct sync *first = &h->syncs[leader];
	bool data_only = true, complete = false;

	EXPECT(h, oldest_of_file(h, first->file) == leader);
	EXPECT(h, is_ready(first, h));
	for (int i = leader; i >= 0; i = next_of_file(h, i)) {
		struct sync *rider = &h->syncs[i];
		bool may_ride = is_ready(rider, h) && rider->descriptor == first->descriptor;
		bool rides = rider->sync->state == TA_SYNC_RUNNING;

		complete |= !may_ride;
		EXPECT(h, !(rides && complete));
		/*
		 * Where surveys overlapped, a rider may hear of the same last request too late to
		 * be taken along.
		 */
		EXPECT(h, rides || complete || h->surveys_overlap);
		complete |= !rides;
		if (!rides)
			continue;
		rider->progress = ISSUED;
		rider->leader = leader;
		data_only &= rider->data_only;
	}
	EXPECT(h, first->progress == ISSUED);
	EXPECT(h, first->sync->group_data_only == data_only);
}

/* After every step: all that is due was handed back, and nothing else. */
static void compare(struct history *h)
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
	for (int i = 0; i < h->sync_count; i++) {
		const struct sync *each = &h->syncs[i];

		if (is_live(each))
			EXPECT(h, (each->sync->state == TA_SYNC_RUNNING) ==
					  (each->progress == ISSUED));
	}
}

/*
 * Steps.
 */

static void begin_request(struct history *h, int descriptor)
{
	struct request *request = &h->requests[h->request_count];

	if (h->file_of[descriptor] == CLOSED)
		return;
	if (!h->open[descriptor]) {
		h->epoch_descriptor[h->epoch_count] = descriptor;
		h->open[descriptor] = &h->epochs[h->epoch_count++];
	}
	tell(h, " r%d(fd%d)", h->request_count++, descriptor);
	*request = (struct request){ .descriptor = descriptor, .epoch = h->open[descriptor] };
	request->epoch->in_flight++;
}

static void end_request(struct history *h, int index)
{
	struct request *request = &h->requests[index];

	if (request->ended)
		return;
	tell(h, " -r%d", index);
	request->ended = true;
	if (--request->epoch->in_flight > 0 || !request->epoch->sealed)
		return;
	ta_barrier_drained(h->barrier, request->epoch, &h->due);
	EXPECT(h, !request->epoch->waits);
}

static void survey_descriptor(struct history *h, struct sync *sync)
{
	int descriptor = sync->surveyed++;
	int file = h->file_of[descriptor];

	if (descriptor != sync->descriptor && file != sync->file && file != CLOSED)
		return;
	sync->before[descriptor] = (unsigned)h->request_count;
	h->open[descriptor] = NULL;
	for (int i = 0; i < h->epoch_count; i++) {
		struct ta_epoch *epoch = &h->epochs[i];

		if (h->epoch_descriptor[i] != descriptor)
			continue;
		epoch->sealed = true;
		if (epoch->in_flight > 0)
			EXPECT(h, ta_barrier_attach(h->barrier, sync->sync, epoch) == 0);
	}
}

static void survey(struct history *h, int index, int descriptors)
{
	struct sync *sync = &h->syncs[index];

	if (!is_live(sync) || sync->surveyed == DESCRIPTORS)
		return;
	tell(h, " look(s%d,%d)", index, descriptors);
	while (descriptors-- > 0 && sync->surveyed < DESCRIPTORS)
		survey_descriptor(h, sync);
	if (sync->surveyed == DESCRIPTORS)
		EXPECT(h,
		       ta_barrier_is_alone(sync->sync) ==
			       (oldest_of_file(h, sync->file) == index && !waits_for_any(sync, h)));
}

static void enter_sync(struct history *h, int descriptor, bool data_only)
{
	struct sync *sync = &h->syncs[h->sync_count];
	int file = h->file_of[descriptor];

	if (file == CLOSED)
		return;
	*sync = (struct sync){ .file = file, .descriptor = descriptor, .data_only = data_only };
	tell(h, " s%d(fd%d,file%d%s)", h->sync_count, descriptor, file, data_only ? ",data" : "");
	sync->sync = ta_barrier_enter(h->barrier, identities[file].device, identities[file].inode,
				      descriptor, data_only, sync);
	EXPECT(h, sync->sync);
	h->sync_count++;
	if (!h->surveys_overlap)
		survey(h, h->sync_count - 1, DESCRIPTORS);
}

static void arm(struct history *h, int index)
{
	struct sync *sync = &h->syncs[index];

	if (sync->progress != ENTERED || sync->surveyed < DESCRIPTORS)
		return;
	tell(h, " arm(s%d)", index);
	sync->progress = ARMED;
	ta_barrier_arm(h->barrier, sync->sync, &h->due);
}

static void withdraw(struct history *h, int index)
{
	struct sync *sync = &h->syncs[index];

	if (sync->progress != ENTERED && sync->progress != ARMED)
		return;
	tell(h, " withdraw(s%d)", index);
	sync->progress = WITHDRAWN;
	ta_barrier_withdraw(h->barrier, sync->sync, &h->due);
	sync->sync = NULL;
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

/* All that the call served are handed back, in the order in which they came. */
static void end_call(struct history *h, int leader)
{
	struct ta_sync *ended;

	if (!h->syncs[leader].called || h->syncs[leader].progress != ISSUED)
		return;
	tell(h, " -call(s%d)", leader);
	ended = ta_barrier_ended(h->barrier, h->syncs[leader].sync, &h->due);
	for (int i = leader; i < h->sync_count; i++) {
		struct ta_sync *next;

		if (h->syncs[i].progress != ISSUED || h->syncs[i].leader != leader)
			continue;
		EXPECT(h, ended == h->syncs[i].sync && ended->owner == &h->syncs[i]);
		h->syncs[i].progress = ENDED;
		next = ended->due_next;
		ta_barrier_release(h->barrier, ended);
		ended = next;
	}
	EXPECT(h, !ended);
}

static void random_step(struct history *h)
{
	int descriptor = (int)draw(h, DESCRIPTORS);
	int request = h->request_count ? (int)draw(h, (unsigned)h->request_count) : -1;
	int sync = h->sync_count ? (int)draw(h, (unsigned)h->sync_count) : -1;
	unsigned what = draw(h, 100);

	if (what < 30)
		begin_request(h, descriptor);
	else if (what < 45)
		enter_sync(h, descriptor, draw(h, 2));
	else if (what < 48)
		h->file_of[descriptor] =
			h->file_of[descriptor] == CLOSED ? (int)draw(h, FILES) : CLOSED;
	else if (what < 68 && request >= 0)
		end_request(h, request);
	else if (what < 73)
		begin_call(h);
	else if (sync < 0)
		return;
	else if (what < 80)
		end_call(h, sync);
	else if (what < 85)
		survey(h, sync, 1 + (int)draw(h, DESCRIPTORS));
	else if (what < 96)
		arm(h, sync);
	else
		withdraw(h, sync);
	compare(h);
}

/* Everything ends, in any order: then every sync must have been served or withdrawn. */
static void finish(struct history *h)
{
	int i;

	for (i = 0; i < h->sync_count; i++) {
		survey(h, i, DESCRIPTORS);
		arm(h, i);
		compare(h);
	}
	for (unsigned from = draw(h, STEPS), n = 0; n < STEPS; n++) {
		i = (int)((from + n * 7) % STEPS);
		if (i < h->request_count)
			end_request(h, i);
		compare(h);
	}
	while (h->due) {
		begin_call(h);
		for (i = 0; i < h->sync_count; i++) {
			end_call(h, i);
			compare(h);
		}
	}
	for (i = 0; i < h->sync_count; i++) {
		end_call(h, i);
		compare(h);
		/* A call behind this one. */
		while (h->due) {
			begin_call(h);
			for (int j = 0; j < h->sync_count; j++) {
				end_call(h, j);
				compare(h);
			}
		}
	}
	for (i = 0; i < h->sync_count; i++)
		EXPECT(h, !is_live(&h->syncs[i]));
	EXPECT(h, !h->barrier->files);
}

static void play(struct ta_barrier *barrier, unsigned seed)
{
	struct history *h = &history;

	memset(h, 0, sizeof(*h));
	h->seed = seed;
	h->random = 0x9e3779b97f4a7c15u * (seed + 1);
	h->barrier = barrier;
	h->surveys_overlap = draw(h, 2);
	for (int i = 0; i < DESCRIPTORS; i++)
		h->file_of[i] = i % FILES;
	for (h->step = 0; h->step < STEPS; h->step++)
		random_step(h);
	finish(h);
}

/*
 * Pools.
 */

struct pools {
	size_t pages, objects;
};

/* Every object of the barrier begins with its link. */
static size_t list_length(const void *object)
{
	size_t length = 0;

	for (; object; object = *(void *const *)object)
		length++;
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

START_TEST(random_histories_agree_with_the_model)
{
	const char *chosen = getenv("TRUEAIO_SEED");
	unsigned first = chosen ? (unsigned)strtoul(chosen, NULL, 10) : 1;
	struct ta_barrier barrier = { 0 };
	struct pools before = { 0 }, after;

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

static struct ta_sync *enter(int descriptor, bool data_only, int owner)
{
	struct ta_sync *sync =
		ta_barrier_enter(&barrier, 1, 1, descriptor, data_only, &owners[owner]);

	ck_assert_ptr_nonnull(sync);
	return sync;
}

static void attach(struct ta_sync *sync, struct ta_epoch *epoch)
{
	epoch->sealed = true;
	ck_assert_int_eq(ta_barrier_attach(&barrier, sync, epoch), 0);
}

/* A sync on its way that waits for one request. */
static struct ta_sync *enter_behind(struct ta_epoch *epoch, int descriptor, bool data_only,
				    int owner)
{
	struct ta_sync *sync = enter(descriptor, data_only, owner);

	*epoch = (struct ta_epoch){ .in_flight = 1 };
	attach(sync, epoch);
	ta_barrier_arm(&barrier, sync, &due);
	return sync;
}

static void drain(struct ta_epoch *epoch)
{
	epoch->in_flight = 0;
	ta_barrier_drained(&barrier, epoch, &due);
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

START_TEST(a_sync_waits_for_all_its_epochs)
{
	struct ta_epoch epochs[3] = { { .in_flight = 1 }, { .in_flight = 1 }, { .in_flight = 1 } };
	struct ta_sync *sync = enter(3, false, 0);

	for (int i = 0; i < 3; i++)
		attach(sync, &epochs[i]);
	ck_assert(!ta_barrier_is_alone(sync));
	ta_barrier_arm(&barrier, sync, &due);
	drain(&epochs[1]);
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
	struct ta_epoch epoch = { .in_flight = 1 };
	struct ta_sync *sync = enter(3, false, 0);

	attach(sync, &epoch);
	drain(&epoch);
	ck_assert_ptr_null(due);
	ta_barrier_arm(&barrier, sync, &due);
	expect_due(sync);
}
END_TEST

START_TEST(a_sync_behind_another_is_not_alone)
{
	struct ta_epoch epoch;
	struct ta_sync *first, *second, *elsewhere;

	first = enter(3, false, 0);
	ck_assert(ta_barrier_is_alone(first));
	ta_barrier_withdraw(&barrier, first, &due);
	first = enter_behind(&epoch, 3, false, 0);
	second = enter(3, false, 1);
	ck_assert(!ta_barrier_is_alone(second));
	elsewhere = ta_barrier_enter(&barrier, 2, 1, 3, false, &owners[2]);
	ck_assert(ta_barrier_is_alone(elsewhere));
	drain(&epoch);
	expect_due(first);
	/* The one ahead runs, and its events are still to come. */
	ck_assert(!ta_barrier_is_alone(second));
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
	ck_assert_ptr_null(barrier.files);
}
END_TEST

/* Both hear of it by one call: the later must not miss the group by coming second. */
START_TEST(syncs_that_wait_for_the_same_request_share_a_call)
{
	struct ta_epoch epoch;
	struct ta_sync *first = enter_behind(&epoch, 3, false, 0), *second = enter(3, false, 1);

	attach(second, &epoch);
	ta_barrier_arm(&barrier, second, &due);
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

START_TEST(a_withdrawn_sync_lets_the_next_go)
{
	struct ta_epoch epochs[2];
	struct ta_sync *first = enter_behind(&epochs[0], 3, false, 0);
	struct ta_sync *second = enter_behind(&epochs[1], 4, false, 1);

	drain(&epochs[1]);
	ta_barrier_withdraw(&barrier, first, &due);
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

	ta_barrier_withdraw(&barrier, second, &due);
	drain(&epochs[2]);
	drain(&epochs[1]);
	ck_assert_ptr_null(due);
	drain(&epochs[0]);
	expect_due(first);
	/* Contiguous now, and by the same descriptor. */
	expect_ended(first, third);
}
END_TEST

/* Its memory must not go to another sync while an epoch still counts it down. */
START_TEST(a_withdrawn_sync_is_kept_while_epochs_refer_to_it)
{
	struct ta_epoch epochs[2];
	struct ta_sync *first = enter_behind(&epochs[0], 3, false, 0), *second;

	ta_barrier_withdraw(&barrier, first, &due);
	second = enter_behind(&epochs[1], 3, false, 1);
	ck_assert_ptr_ne(first, second);
	drain(&epochs[0]);
	ck_assert_ptr_null(due);
	drain(&epochs[1]);
	expect_due(second);
}
END_TEST

START_TEST(files_differ_by_device_and_inode)
{
	struct ta_sync *syncs[3];

	for (unsigned i = 0; i < 3; i++) {
		syncs[i] = ta_barrier_enter(&barrier, identities[i].device, identities[i].inode, 3,
					    false, &owners[i]);
		ta_barrier_arm(&barrier, syncs[i], &due);
		expect_due(syncs[i]);
	}
}
END_TEST

START_TEST(what_is_due_is_added_to_what_was)
{
	struct ta_epoch epochs[2];
	struct ta_sync *first = enter_behind(&epochs[0], 3, false, 0), *second;

	second = ta_barrier_enter(&barrier, 2, 1, 3, false, &owners[1]);
	ta_barrier_arm(&barrier, second, &due);
	drain(&epochs[0]);
	ck_assert_ptr_eq(due, second);
	ck_assert_ptr_eq(second->due_next, first);
	ck_assert_ptr_null(first->due_next);
}
END_TEST

/* An emulator may have its own idea of it. */
static bool is_limited(void)
{
	void *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return page == MAP_FAILED;
}

/* With no address space left, what was refused leaves no trace. */
START_TEST(without_memory_nothing_changes)
{
	static struct ta_epoch epochs[4096];
	struct ta_sync *sync = enter(3, false, 0), *entered;
	struct rlimit before, none;
	int count = 1, result = 0;
	size_t files = 0;

	for (int i = 0; i < 4096; i++)
		epochs[i] = (struct ta_epoch){ .in_flight = 1, .sealed = true };
	attach(sync, &epochs[0]);
	/* One more sync than files, so that it is syncs that run out. */
	enter(4, false, 2);
	getrlimit(RLIMIT_AS, &before);
	none = (struct rlimit){ .rlim_cur = 0, .rlim_max = before.rlim_max };
	setrlimit(RLIMIT_AS, &none);
	if (!is_limited()) {
		fprintf(stderr, "SKIP: %s: RLIMIT_AS limits nothing here\n", tcase_name());
		return;
	}
	while (count < 4096 && (result = ta_barrier_attach(&barrier, sync, &epochs[count])) == 0)
		count++;
	do
		entered = ta_barrier_enter(&barrier, 2, ++files, 3, false, &owners[1]);
	while (entered && files < 4096);
	setrlimit(RLIMIT_AS, &before);
	ck_assert_int_eq(result, -ENOMEM);
	ck_assert_ptr_null(entered);
	ck_assert_uint_eq(list_length(barrier.files), files);
	ck_assert_ptr_null(epochs[count].waits);
	ta_barrier_arm(&barrier, sync, &due);
	for (int i = 0; i < count; i++) {
		ck_assert_ptr_null(due);
		drain(&epochs[i]);
	}
	expect_due(sync);
}
END_TEST

/* Each case begins with nothing, also where all run in one process. */
static void forget_all(void)
{
	ta_pool_free_all(&barrier.pages);
	memset(&barrier, 0, sizeof(barrier));
	due = NULL;
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
	tcase_add_test(rules, a_sync_behind_another_is_not_alone);
	tcase_add_test(rules, a_drained_sync_behind_an_undrained_one_waits);
	tcase_add_test(rules, one_call_serves_all_that_are_drained);
	tcase_add_test(rules, syncs_that_wait_for_the_same_request_share_a_call);
	tcase_add_test(rules, a_rider_needs_the_same_descriptor);
	tcase_add_test(rules, a_rider_must_be_drained);
	tcase_add_test(rules, fsync_serves_fdatasync_and_not_the_reverse);
	tcase_add_test(rules, a_withdrawn_sync_lets_the_next_go);
	tcase_add_test(rules, a_sync_withdrawn_in_the_middle_leaves_the_order);
	tcase_add_test(rules, a_withdrawn_sync_is_kept_while_epochs_refer_to_it);
	tcase_add_test(rules, files_differ_by_device_and_inode);
	tcase_add_test(rules, what_is_due_is_added_to_what_was);
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
