/* SPDX-License-Identifier: MIT */
/*
 * Goal: each page that is taken belongs to one taker, and serves the next when it is put back; any
 * address can be asked whether it lies in a page of the library's, or is a slot of a context.
 *
 * Method: what a page is given as stamp must still be there when it goes back.  Addresses are all
 * of a page, what lies at the ends of the regions, and memory of the program's that was made to
 * look like a page of slots.
 */
#include "internal.h"

#include "pool.h"

#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define MANY 3000
#define THREADS 4
#define ROUNDS 20000
#define LAST_MEMORY (96 * 1024)

static struct ta_process *process;

static void set_up(void)
{
	process = ta_process_enter();
	ck_assert_ptr_nonnull(process);
}

static char *take(void)
{
	char *page = ta_page_take();

	ck_assert_ptr_nonnull(page);
	ck_assert_uint_eq((uintptr_t)page % TA_PAGE_BYTES, 0);
	return page;
}

/* All of the page is its taker's. */
static void stamp(char *page, unsigned number)
{
	memset(page, (int)(number % 251), TA_PAGE_BYTES);
	memcpy(page + 64, &number, sizeof(number));
}

static bool has_stamp(const char *page, unsigned number)
{
	unsigned found;

	memcpy(&found, page + 64, sizeof(found));
	return found == number && page[0] == (char)(number % 251) &&
	       page[TA_PAGE_BYTES - 1] == (char)(number % 251);
}

/*
 * Taking and putting back.
 */

START_TEST(each_page_has_one_taker)
{
	static char *pages[MANY];

	for (unsigned i = 0; i < MANY; i++) {
		pages[i] = take();
		stamp(pages[i], i);
	}
	for (unsigned i = 0; i < MANY; i++) {
		ck_assert_msg(has_stamp(pages[i], i), "page %u", i);
		ck_assert(ta_page_is_ours(pages[i]));
		ck_assert(ta_page_is_ours(pages[i] + TA_PAGE_BYTES - 1));
	}
	for (unsigned i = 0; i < MANY; i++)
		ta_page_put(pages[i]);
}
END_TEST

/* Each region is as large as all before it. */
START_TEST(many_pages_are_few_regions)
{
	static char *pages[MANY];
	size_t count;
	unsigned i;

	for (i = 0; i < MANY; i++)
		pages[i] = take();
	ck_assert_uint_ge(process->pages.page_count, MANY);
	ck_assert_uint_le(process->pages.page_count, 2 * MANY);
	ck_assert_uint_le(process->pages.region_count, 12);
	while (i > 0)
		ta_page_put(pages[--i]);
	/* They serve again before there are more. */
	count = process->pages.page_count;
	for (i = 0; i < MANY; i++)
		pages[i] = take();
	ck_assert_uint_eq(process->pages.page_count, count);
	while (i > 0)
		ta_page_put(pages[--i]);
}
END_TEST

START_TEST(a_page_that_is_put_back_is_still_ours)
{
	char *page = take();

	ta_page_put(page);
	ck_assert(ta_page_is_ours(page));
	ck_assert_ptr_eq(take(), page);
	ta_page_put(page);
}
END_TEST

static void *take_and_put(void *argument)
{
	unsigned number = *(const unsigned *)argument;
	char *pages[8] = { NULL };

	for (unsigned i = 0; i < ROUNDS; i++) {
		char **place = &pages[i * 7 % 8];

		if (*place && !has_stamp(*place, number + i % 8))
			return NULL;
		if (*place)
			ta_page_put(*place);
		*place = ta_page_take();
		stamp(*place, number + i % 8);
	}
	for (unsigned i = 0; i < 8; i++)
		ta_page_put(pages[i]);
	return argument;
}

START_TEST(threads_take_different_pages)
{
	unsigned numbers[THREADS];
	pthread_t threads[THREADS];
	void *good;

	for (unsigned i = 0; i < THREADS; i++) {
		numbers[i] = i * 100;
		ck_assert_int_eq(pthread_create(&threads[i], NULL, take_and_put, &numbers[i]), 0);
	}
	for (unsigned i = 0; i < THREADS; i++) {
		pthread_join(threads[i], &good);
		ck_assert_msg(good, "thread %u found another's stamp", i);
	}
}
END_TEST

/*
 * Without memory.
 */

/* So many bytes more, and no others; false if that limits nothing, as in an emulator. */
static bool limit_memory(size_t more, struct rlimit *before)
{
	unsigned long pages;
	struct rlimit limit;
	FILE *stream = fopen("/proc/self/statm", "re");
	void *beyond;

	ck_assert_ptr_nonnull(stream);
	ck_assert_int_eq(fscanf(stream, "%lu", &pages), 1);
	fclose(stream);
	getrlimit(RLIMIT_AS, before);
	limit = (struct rlimit){ .rlim_cur = pages * 4096 + more, .rlim_max = before->rlim_max };
	setrlimit(RLIMIT_AS, &limit);
	beyond = mmap(NULL, more + 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return beyond == MAP_FAILED;
}

static char *in_use[2 * MANY];

static size_t take_all(void)
{
	size_t count = 0;

	while (count < 2 * MANY && (in_use[count] = ta_page_take()) != NULL)
		count++;
	return count;
}

/* No region that doubles what there is can be mapped, but one as small as the first. */
START_TEST(what_memory_there_is_is_used)
{
	struct rlimit before;
	bool is_limited;
	size_t count, fresh = 0;

	/* All but a few pages are in use, and there are many. */
	while (process->pages.page_count < 256 || process->pages.free ||
	       process->pages.fresh < process->pages.fresh_end)
		in_use[fresh++] = take();
	is_limited = limit_memory(LAST_MEMORY, &before);
	count = is_limited ? take_all() : 0;
	setrlimit(RLIMIT_AS, &before);
	if (!is_limited) {
		fprintf(stderr, "SKIP: %s: RLIMIT_AS limits nothing here\n", tcase_name());
		return;
	}
	/* At least half of it. */
	ck_assert_uint_ge(count, LAST_MEMORY / TA_PAGE_BYTES / 2);
	ck_assert_uint_le(count, LAST_MEMORY / TA_PAGE_BYTES);
	for (unsigned i = 0; i < count; i++) {
		ck_assert(ta_page_is_ours(in_use[i]));
		stamp(in_use[i], i);
	}
	/* The refusal is of that moment. */
	ck_assert(ta_page_is_ours(take()));
	for (unsigned i = 0; i < count; i++)
		ck_assert(has_stamp(in_use[i], i));
	ta_page_put(in_use[0]);
	ck_assert_ptr_eq(take(), in_use[0]);
}
END_TEST

/*
 * Addresses.
 */

static bool is_in_a_region(const char *address)
{
	for (uint32_t i = 0; i < process->pages.region_count; i++)
		if (address >= process->pages.regions[i].start &&
		    address < process->pages.regions[i].end)
			return true;
	return false;
}

START_TEST(nothing_but_pages_is_ours)
{
	static char of_program;
	char on_stack, *allocated = malloc(1);

	ck_assert(!ta_page_is_ours(NULL));
	ta_page_put(take());
	ck_assert(!ta_page_is_ours(NULL));
	ck_assert(!ta_page_is_ours((void *)1));
	ck_assert(!ta_page_is_ours((void *)UINTPTR_MAX));
	ck_assert(!ta_page_is_ours(&on_stack));
	ck_assert(!ta_page_is_ours(&of_program));
	ck_assert(!ta_page_is_ours(allocated));
	ck_assert(!ta_page_is_ours(process));
	free(allocated);
}
END_TEST

START_TEST(regions_end_where_they_end)
{
	static char *pages[300];

	for (unsigned i = 0; i < 300; i++)
		pages[i] = take();
	ck_assert_uint_gt(process->pages.region_count, 2);
	for (uint32_t i = 0; i < process->pages.region_count; i++) {
		const char *start = process->pages.regions[i].start;
		const char *end = process->pages.regions[i].end;

		ck_assert(ta_page_is_ours(start) && ta_page_is_ours(end - 1));
		/* The kernel may have put one beside another. */
		ck_assert(ta_page_is_ours(start - 1) == is_in_a_region(start - 1));
		ck_assert(ta_page_is_ours(end) == is_in_a_region(end));
	}
	for (unsigned i = 0; i < 300; i++)
		ta_page_put(pages[i]);
}
END_TEST

/*
 * Slots.
 */

static struct ta_context *new_context(uint32_t slots)
{
	struct ta_context *context = ta_pages_alloc(sizeof(*context));

	ck_assert_ptr_nonnull(context);
	context->slot_count = slots;
	return context;
}

static struct ta_slot *slot_at(struct ta_context *context, const void *address)
{
	return ta_slot_of(context, address);
}

START_TEST(a_context_knows_all_its_slots_and_no_others)
{
	const uint32_t count = 3 * TA_SLOTS_A_PAGE + 1;
	struct ta_context *first = new_context(count), *second = new_context(count);
	struct ta_slot *slots[2][3 * TA_SLOTS_A_PAGE + 1];

	for (uint32_t i = 0; i < count; i++) {
		slots[0][i] = ta_slot_take(first);
		slots[1][i] = ta_slot_take(second);
		ck_assert(slots[0][i] && slots[1][i]);
		slots[0][i]->sequence = i;
	}
	ck_assert_ptr_null(ta_slot_take(first));
	ck_assert_ptr_nonnull(first->slot_pages->next->next->next);
	ck_assert_ptr_null(first->slot_pages->next->next->next->next);
	for (uint32_t i = 0; i < count; i++) {
		/* Each is another. */
		ck_assert_uint_eq(slots[0][i]->sequence, i);
		ck_assert_ptr_eq(slot_at(first, slots[0][i]), slots[0][i]);
		ck_assert_ptr_eq(slot_at(second, slots[1][i]), slots[1][i]);
		ck_assert_ptr_null(slot_at(first, slots[1][i]));
		ck_assert_ptr_null(slot_at(second, slots[0][i]));
	}
	/* One that is free is one all the same: its state tells. */
	ta_slot_free(first, slots[0][7]);
	ck_assert_ptr_eq(slot_at(first, slots[0][7]), slots[0][7]);
}
END_TEST

/* Every address of the page. */
START_TEST(only_the_beginning_of_a_slot_is_one)
{
	struct ta_context *context = new_context(TA_SLOTS_A_PAGE);
	const char *page = (const char *)ta_slot_take(context);
	unsigned found = 0;

	page -= (uintptr_t)page % TA_PAGE_BYTES;
	for (size_t i = 0; i < TA_PAGE_BYTES; i++) {
		struct ta_slot *slot = slot_at(context, page + i);

		if (!slot)
			continue;
		ck_assert_ptr_eq(slot, &context->slot_pages->slots[found++]);
		ck_assert_ptr_eq(slot, page + i);
		/* The whole of it. */
		ck_assert_uint_le(i + sizeof(*slot), TA_PAGE_BYTES);
	}
	ck_assert_uint_eq(found, TA_SLOTS_A_PAGE);
	/* The first page that is nobody's yet, and the program's. */
	ck_assert_ptr_null(slot_at(context, process->pages.fresh + sizeof(struct ta_slot_page)));
}
END_TEST

START_TEST(what_looks_like_a_slot_is_none)
{
	static _Alignas(TA_PAGE_BYTES) char forged[TA_PAGE_BYTES];
	struct ta_context *context = new_context(1);
	struct ta_slot *slot = ta_slot_take(context);
	size_t place = (uintptr_t)slot % TA_PAGE_BYTES;

	memcpy(forged, (char *)slot - place, TA_PAGE_BYTES);
	ck_assert_ptr_eq(slot_at(context, slot), slot);
	ck_assert_ptr_null(slot_at(context, forged + place));
	/* Nor is there anything to be looked at. */
	ck_assert_ptr_null(slot_at(context, NULL));
	ck_assert_ptr_null(slot_at(context, (void *)place));
	ck_assert_ptr_null(slot_at(context, (void *)(UINTPTR_MAX - TA_PAGE_BYTES + 1 + place)));
	ck_assert_ptr_null(slot_at(context, (char *)((uintptr_t)slot ^ (UINTPTR_MAX / 2 + 1))));
}
END_TEST

/* Other pages of ours have other things where a page of slots tells whose it is. */
START_TEST(other_pages_of_ours_have_no_slots)
{
	struct ta_context *context = new_context(1);
	struct ta_pool_page *pool = NULL;
	size_t place = (uintptr_t)ta_slot_take(context) % TA_PAGE_BYTES;
	const char *pages[2] = { take(), NULL };

	memset((void *)(uintptr_t)pages[0], 0, TA_PAGE_BYTES);
	ck_assert_ptr_nonnull(ta_pool_grow(&pool, sizeof(struct ta_sync), 0));
	pages[1] = (const char *)pool;
	for (int i = 0; i < 2; i++)
		for (unsigned slot = 0; slot < TA_SLOTS_A_PAGE; slot++)
			ck_assert_ptr_null(
				slot_at(context, pages[i] + place + slot * sizeof(struct ta_slot)));
	ta_pool_free_all(&pool);
}
END_TEST

/* The pages of a context that was destroyed are nobody's, until they are another's. */
START_TEST(a_destroyed_context_has_no_slots)
{
	io_context_t handle = NULL;
	struct ta_context *context;
	struct ta_slot *slot, *again = NULL;

	ck_assert_int_eq(ta_context_setup(process, 4, TA_CONTEXT_OFFLOADED, &handle), 0);
	context = ta_context_lock(process, handle);
	slot = ta_slot_take(context);
	ck_assert_ptr_eq(slot_at(context, slot), slot);
	ta_slot_free(context, slot);
	ta_unlock(&context->lock);
	ck_assert_int_eq(ta_context_destroy(process, handle), 0);
	ck_assert(ta_page_is_ours(slot));
	ck_assert_ptr_null(slot_at(context, slot));
	for (int i = 0; i < 100 && again != slot; i++)
		again = ta_slot_take(new_context(1));
	ck_assert_ptr_eq(again, slot);
	ck_assert_ptr_null(slot_at(context, slot));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("pages");
	TCase *cases = tcase_create("pages");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(cases, set_up, NULL);
	tcase_set_timeout(cases, 30);
	tcase_add_test(cases, each_page_has_one_taker);
	tcase_add_test(cases, many_pages_are_few_regions);
	tcase_add_test(cases, a_page_that_is_put_back_is_still_ours);
	tcase_add_test(cases, threads_take_different_pages);
	tcase_add_test(cases, what_memory_there_is_is_used);
	tcase_add_test(cases, nothing_but_pages_is_ours);
	tcase_add_test(cases, regions_end_where_they_end);
	tcase_add_test(cases, a_context_knows_all_its_slots_and_no_others);
	tcase_add_test(cases, only_the_beginning_of_a_slot_is_one);
	tcase_add_test(cases, what_looks_like_a_slot_is_none);
	tcase_add_test(cases, other_pages_of_ours_have_no_slots);
	tcase_add_test(cases, a_destroyed_context_has_no_slots);
	suite_add_tcase(suite, cases);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed > 0;
}
