/* SPDX-License-Identifier: MIT */
/*
 * The memory of contexts, slots and pools: pages of 4 KiB that the library never gives back.
 *
 * Pages are cut from regions that grow with what is in use: each new region is as large as all
 * before it, so a process with 40,000 contexts has a dozen of them, and a daemon that locks its
 * memory pays for little that it does not use.  A page that is put back serves the next who takes
 * one.
 *
 * That regions stay is what makes it safe to look at an address that may be anything:
 * ta_page_is_ours tells whether it lies in a page of ours.  Their lock guards the list of free
 * pages; it is the innermost one. Regions are published with release and counted last, so they are
 * read without a lock.
 */
#include "internal.h"

#include "pages.h"

/* 32 KiB. */
#define FIRST_REGION_PAGES 8

struct free_page {
	struct free_page *next;
};

/* The lock is held.  Where there is not so much, a small region may. */
static bool add_region(struct ta_pages *pages)
{
	uint32_t count = atomic_load_explicit(&pages->region_count, memory_order_relaxed);
	size_t wanted =
		pages->page_count > FIRST_REGION_PAGES ? pages->page_count : FIRST_REGION_PAGES;
	char *start;

	if (count == TA_REGIONS_MAX)
		return false;
	start = ta_pages_alloc(wanted * TA_PAGE_BYTES);
	if (!start && wanted > FIRST_REGION_PAGES) {
		wanted = FIRST_REGION_PAGES;
		start = ta_pages_alloc(wanted * TA_PAGE_BYTES);
	}
	if (!start)
		return false;
	pages->regions[count] = (struct ta_region){ start, start + wanted * TA_PAGE_BYTES };
	pages->fresh = start;
	pages->fresh_end = pages->regions[count].end;
	pages->page_count += wanted;
	/* release: who sees the count sees the region. */
	atomic_store_explicit(&pages->region_count, count + 1, memory_order_release);
	return true;
}

/* A page; what is in it is stale.  NULL when there is no memory. */
void *ta_page_take(void)
{
	struct ta_pages *pages = &ta_process()->pages;
	struct free_page *page;

	ta_lock(&pages->lock);
	page = pages->free;
	if (page) {
		pages->free = page->next;
	} else if (pages->fresh < pages->fresh_end || add_region(pages)) {
		page = (struct free_page *)(void *)pages->fresh;
		pages->fresh += TA_PAGE_BYTES;
	}
	ta_unlock(&pages->lock);
	return page;
}

void ta_page_put(void *taken)
{
	struct ta_pages *pages = &ta_process()->pages;
	struct free_page *page = taken;

	ta_lock(&pages->lock);
	page->next = pages->free;
	pages->free = page;
	ta_unlock(&pages->lock);
}

bool ta_page_is_ours(const void *address)
{
	const struct ta_pages *pages = &ta_process()->pages;
	/* acquire: pairs with the release in add_region. */
	uint32_t count = atomic_load_explicit(&pages->region_count, memory_order_acquire);
	uint32_t i;

	/* The latest is the largest. */
	for (i = count; i > 0; i--)
		if ((const char *)address >= pages->regions[i - 1].start &&
		    (const char *)address < pages->regions[i - 1].end)
			return true;
	return false;
}
