/* SPDX-License-Identifier: MIT */
/*
 * Goal: the library knows which of the caller's memory can be read and written, leaves all of it as
 * it was, and asks the kernel about a page once.
 *
 * Method: pages of known protection, in a row and at random, against what their protection says.
 * That a page is not asked about again shows when it has lost its protection meanwhile: it still
 * counts as good.
 */
#include "internal.h"

#include <check.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096ul
#define PAGES 64
#define RANGES 20000
/* More than the library remembers, so that pages share a place there. */
#define MANY_PAGES (3 * TA_KNOWN_PAGES)

static struct ta_process *process;

static char *map(size_t pages, int protection)
{
	char *memory = mmap(NULL, pages * PAGE, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ck_assert_ptr_ne(memory, MAP_FAILED);
	return memory;
}

static void protect(void *page, size_t pages, int protection)
{
	ck_assert_int_eq(mprotect(page, pages * PAGE, protection), 0);
}

static void forget_pages(void)
{
	memset((void *)process->known_pages, 0, sizeof(process->known_pages));
}

static bool can_read(const void *address, size_t bytes)
{
	return ta_memory_probe(address, bytes, false);
}

static bool can_write(const void *address, size_t bytes)
{
	return ta_memory_probe(address, bytes, true);
}

static void set_up(void)
{
	process = ta_process_enter();
	ck_assert_ptr_nonnull(process);
	forget_pages();
}

START_TEST(a_page_is_what_its_protection_says)
{
	char *page = map(1, PROT_READ | PROT_WRITE);

	for (int asked = 0; asked < 2; asked++) {
		ck_assert(can_write(page, PAGE));
		ck_assert(can_read(page, PAGE));
	}
	page = map(1, PROT_READ);
	for (int asked = 0; asked < 2; asked++) {
		ck_assert(can_read(page, PAGE));
		ck_assert(!can_write(page, PAGE));
	}
	page = map(1, PROT_NONE);
	for (int asked = 0; asked < 2; asked++) {
		ck_assert(!can_read(page, PAGE));
		ck_assert(!can_write(page, PAGE));
	}
}
END_TEST

START_TEST(addresses_that_are_nobodys_are_bad)
{
	static const uintptr_t addresses[] = {
		0,
		1,
		8,
		PAGE - 1, /* what follows a null pointer */
#if __SIZEOF_POINTER__ == 8
		0xffff888000000000, /* the kernel's */
		0xffffffff81000000,
		0x8000000000000000, /* no address at all */
		0x00007ffffffff000, /* the guard above the program's */
#endif
		UINTPTR_MAX - PAGE + 1,
		UINTPTR_MAX,
	};

	for (size_t i = 0; i < sizeof(addresses) / sizeof(*addresses); i++) {
		ck_assert_msg(!can_read((void *)addresses[i], 1), "%#lx",
			      (unsigned long)addresses[i]);
		ck_assert_msg(!can_write((void *)addresses[i], 1), "%#lx",
			      (unsigned long)addresses[i]);
	}
}
END_TEST

START_TEST(one_bad_page_spoils_a_range)
{
	char *pages = map(5, PROT_READ | PROT_WRITE);

	protect(pages, 1, PROT_NONE);
	protect(pages + 2 * PAGE, 1, PROT_READ);
	protect(pages + 4 * PAGE, 1, PROT_NONE);
	ck_assert(can_read(pages + PAGE, 3 * PAGE));
	ck_assert(!can_read(pages + PAGE - 1, 2));
	ck_assert(!can_read(pages + PAGE, 3 * PAGE + 1));
	ck_assert(!can_read(pages + 3 * PAGE, 2 * PAGE));
	ck_assert(!can_read(pages, 5 * PAGE));
	ck_assert(can_write(pages + PAGE, PAGE));
	ck_assert(!can_write(pages + PAGE, PAGE + 1));
	ck_assert(!can_write(pages + PAGE, 3 * PAGE));
	ck_assert(can_write(pages + 3 * PAGE, PAGE));
	ck_assert(!can_write(pages + 3 * PAGE - 1, 2));
}
END_TEST

START_TEST(a_range_that_wraps_is_bad)
{
	char *pages = map(2, PROT_READ | PROT_WRITE);

	ck_assert(can_write(pages, 2 * PAGE));
	ck_assert(!can_read(pages, SIZE_MAX));
	ck_assert(!can_write(pages, SIZE_MAX));
	/* To the byte before it, all the way round. */
	ck_assert(!can_read(pages + 1, SIZE_MAX));
	ck_assert(!can_read((void *)(UINTPTR_MAX - 7), 9));
	/* To the last byte there is, which is no wrap but no memory either. */
	ck_assert(!can_read((void *)(UINTPTR_MAX - 7), 8));
}
END_TEST

START_TEST(no_bytes_are_good_anywhere)
{
	ck_assert(can_read(NULL, 0));
	ck_assert(can_write((void *)UINTPTR_MAX, 0));
	ck_assert(can_write(map(1, PROT_NONE), 0));
}
END_TEST

/* An emulator may look by itself at what a call is given, and die of it. */
static bool survives_reading(const void *address)
{
	pid_t child = fork();
	int status;

	if (child == 0) {
		syscall(SYS_rt_sigprocmask, -1, address, NULL, 8);
		_exit(0);
	}
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	return status == 0;
}

/* A mapping of a file reaches further than the file: such a page has a protection and no memory. */
START_TEST(a_page_behind_the_end_of_its_file_is_bad)
{
	FILE *file = tmpfile();
	char *pages;

	ck_assert_ptr_nonnull(file);
	ck_assert_int_eq(ftruncate(fileno(file), (off_t)PAGE), 0);
	pages = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fileno(file), 0);
	ck_assert_ptr_ne(pages, MAP_FAILED);
	ck_assert(can_write(pages, PAGE));
	if (!survives_reading(pages + PAGE)) {
		fprintf(stderr, "SKIP: %s: system calls die of such a page here\n", tcase_name());
		return;
	}
	ck_assert(!can_read(pages + PAGE, PAGE));
	ck_assert(!can_write(pages + PAGE, PAGE));
	fclose(file);
}
END_TEST

/* A program may hand over memory that it reserves and touches later, or never. */
START_TEST(asking_changes_nothing)
{
	static const unsigned char patterns[] = { 0x00, 0x5a, 0x80, 0xff };
	unsigned char *page = (unsigned char *)map(1, PROT_READ | PROT_WRITE);
	sigset_t mask_before, mask_after;

	ck_assert_int_eq(sigprocmask(SIG_SETMASK, NULL, &mask_before), 0);
	for (unsigned i = 0; i < sizeof(patterns); i++) {
		memset(page, patterns[i], PAGE);
		forget_pages();
		errno = ENOTTY;
		ck_assert(can_read(page, PAGE));
		forget_pages();
		ck_assert(can_write(page, PAGE));
		ck_assert(!can_read(NULL, 1));
		ck_assert_int_eq(errno, ENOTTY);
		for (unsigned byte = 0; byte < PAGE; byte++)
			ck_assert_msg(page[byte] == patterns[i], "byte %u of %#x", byte,
				      patterns[i]);
	}
	ck_assert_int_eq(sigprocmask(SIG_SETMASK, NULL, &mask_after), 0);
	ck_assert_mem_eq(&mask_before, &mask_after, 8);
}
END_TEST

static void *count_words_up(void *argument)
{
	_Atomic uint32_t *words = argument;

	for (int i = 0; i < 200000; i++)
		for (int word = 0; word < 8; word++)
			atomic_fetch_add_explicit(&words[word], 1, memory_order_relaxed);
	return NULL;
}

/* The words that are counted up are the ones that the library may ask by. */
START_TEST(asking_races_with_the_programs_own_use)
{
	_Atomic uint32_t *page = (_Atomic uint32_t *)map(1, PROT_READ | PROT_WRITE);
	pthread_t thread;

	ck_assert_int_eq(pthread_create(&thread, NULL, count_words_up, page), 0);
	while (atomic_load(&page[7]) < 200000) {
		forget_pages();
		ck_assert(can_write((void *)page, PAGE));
	}
	pthread_join(thread, NULL);
	for (int word = 0; word < 8; word++)
		ck_assert_uint_eq(atomic_load(&page[word]), 200000);
}
END_TEST

START_TEST(a_good_page_is_asked_about_once)
{
	char *page = map(1, PROT_READ | PROT_WRITE);

	ck_assert(can_write(page, PAGE));
	protect(page, 1, PROT_NONE);
	ck_assert(can_write(page, PAGE));
	/* What is writable is readable. */
	ck_assert(can_read(page, PAGE));
	page = map(1, PROT_READ | PROT_WRITE);
	ck_assert(can_read(page, PAGE));
	protect(page, 1, PROT_NONE);
	ck_assert(can_read(page, PAGE));
	/* That it was readable does not answer for writing. */
	ck_assert(!can_write(page, PAGE));
}
END_TEST

START_TEST(a_bad_page_is_asked_about_again)
{
	char *page = map(1, PROT_NONE);

	ck_assert(!can_write(page, PAGE) && !can_read(page, PAGE));
	protect(page, 1, PROT_READ);
	ck_assert(!can_write(page, PAGE) && can_read(page, PAGE));
	protect(page, 1, PROT_READ | PROT_WRITE);
	ck_assert(can_write(page, PAGE));
}
END_TEST

/* Where it matters what a page is now: its memory counts for nothing, and is left as it is. */
START_TEST(a_page_can_be_asked_about_afresh)
{
	char *page = map(1, PROT_READ | PROT_WRITE);

	memset(page, 0x5a, PAGE);
	ck_assert(can_write(page, PAGE));
	for (int protection = PROT_NONE; protection <= PROT_READ; protection++) {
		protect(page, 1, protection);
		ck_assert(can_write(page, PAGE));
		ck_assert(!ta_memory_ask(page));
		ck_assert(!ta_memory_ask(page + PAGE - 1));
		ck_assert(can_write(page, PAGE));
	}
	protect(page, 1, PROT_READ | PROT_WRITE);
	forget_pages();
	ck_assert(ta_memory_ask(page));
	for (unsigned byte = 0; byte < PAGE; byte++)
		ck_assert_int_eq(page[byte], 0x5a);
	/* Nor does the answer stay. */
	protect(page, 1, PROT_NONE);
	ck_assert(!can_write(page, PAGE));
	ck_assert(!ta_memory_ask(NULL));
}
END_TEST

/* No answer for one page is given for another that shares its place. */
START_TEST(pages_that_share_a_place_are_told_apart)
{
	char *pages = map(MANY_PAGES, PROT_READ | PROT_WRITE);

	for (size_t i = 0; i < MANY_PAGES; i += 2)
		protect(pages + i * PAGE, 1, i % 4 ? PROT_READ : PROT_NONE);
	for (int round = 0; round < 2; round++)
		for (size_t i = 0; i < MANY_PAGES; i++) {
			ck_assert_msg(can_write(pages + i * PAGE, PAGE) == (i % 2 == 1), "page %zu",
				      i);
			ck_assert_msg(can_read(pages + i * PAGE, PAGE) == (i % 4 != 0), "page %zu",
				      i);
		}
}
END_TEST

/* Nor where their addresses have all but the high bits in common. */
START_TEST(pages_far_apart_are_told_apart)
{
	const size_t far = SIZE_MAX > UINT32_MAX ? (size_t)UINT32_MAX + 1 : (size_t)1 << 30;
	char *pages = mmap(NULL, far + PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
			   -1, 0);

	ck_assert_ptr_ne(pages, MAP_FAILED);
	protect(pages, 1, PROT_READ | PROT_WRITE);
	ck_assert(can_write(pages, PAGE));
	ck_assert(!can_write(pages + far, PAGE));
	ck_assert(!can_read(pages + far, PAGE));
}
END_TEST

START_TEST(random_ranges_are_what_their_pages_say)
{
	const char *chosen = getenv("TRUEAIO_SEED");
	unsigned seed = chosen ? (unsigned)strtoul(chosen, NULL, 10) : 1;
	static const int protections[] = { PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE };
	char *pages = map(PAGES, PROT_NONE);
	int level[PAGES] = { 0 };

	srand(seed);
	for (int step = 0; step < RANGES; step++) {
		size_t from = (size_t)rand() % (PAGES * PAGE),
		       bytes = 1 + (size_t)rand() % (6 * PAGE);
		size_t first = from / PAGE, last = (from + bytes - 1) / PAGE, page;
		bool write = rand() % 2, good = true;

		/* A page only ever gains rights: what it loses need not be noticed. */
		if (step % 100 == 0 && level[page = (size_t)rand() % PAGES] < 2)
			protect(pages + page * PAGE, 1, protections[++level[page]]);
		if (last >= PAGES)
			continue;
		for (page = first; page <= last; page++)
			good &= level[page] >= (write ? 2 : 1);
		ck_assert_msg(ta_memory_probe(pages + from, bytes, write) == good,
			      "TRUEAIO_SEED=%u, step %d: %s %zu bytes at %zu", seed, step,
			      write ? "write" : "read", bytes, from);
	}
}
END_TEST

START_TEST(copy_in_copies_all_or_nothing)
{
	char *pages = map(2, PROT_READ | PROT_WRITE);
	char to[8] = "before";

	protect(pages + PAGE, 1, PROT_NONE);
	memcpy(pages + PAGE - 8, "12345678", 8);
	ck_assert(!ta_copy_in(to, pages + PAGE - 7, 8));
	ck_assert_str_eq(to, "before");
	ck_assert(ta_copy_in(to, pages + PAGE - 8, 8));
	ck_assert_mem_eq(to, "12345678", 8);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("usermem");
	TCase *cases = tcase_create("usermem");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(cases, set_up, NULL);
	tcase_set_timeout(cases, 30);
	tcase_add_test(cases, a_page_is_what_its_protection_says);
	tcase_add_test(cases, addresses_that_are_nobodys_are_bad);
	tcase_add_test(cases, one_bad_page_spoils_a_range);
	tcase_add_test(cases, a_range_that_wraps_is_bad);
	tcase_add_test(cases, no_bytes_are_good_anywhere);
	tcase_add_test(cases, a_page_behind_the_end_of_its_file_is_bad);
	tcase_add_test(cases, asking_changes_nothing);
	tcase_add_test(cases, asking_races_with_the_programs_own_use);
	tcase_add_test(cases, a_good_page_is_asked_about_once);
	tcase_add_test(cases, a_bad_page_is_asked_about_again);
	tcase_add_test(cases, a_page_can_be_asked_about_afresh);
	tcase_add_test(cases, pages_that_share_a_place_are_told_apart);
	tcase_add_test(cases, pages_far_apart_are_told_apart);
	tcase_add_test(cases, random_ranges_are_what_their_pages_say);
	tcase_add_test(cases, copy_in_copies_all_or_nothing);
	suite_add_tcase(suite, cases);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed > 0;
}
