/* SPDX-License-Identifier: MIT */
/* Free lists cut from pages: see pool.h. */
#include "pool.h"

#include "pages.h"

#define POOL_ALIGNMENT 64

/* A fresh page as a list of objects linked through link_offset; returns the first. */
void *ta_pool_grow(struct ta_pool_page **pages, size_t object_bytes, size_t link_offset)
{
	size_t stride = (object_bytes + POOL_ALIGNMENT - 1) & ~(size_t)(POOL_ALIGNMENT - 1);
	struct ta_pool_page *page = ta_page_take();
	char *first, *object;

	if (!page)
		return NULL;
	memset(page, 0, TA_PAGE_BYTES);
	page->next = *pages;
	*pages = page;
	first = (char *)page + POOL_ALIGNMENT;
	ta_assert(first + stride <= (char *)page + TA_PAGE_BYTES);
	for (object = first; object + 2 * stride <= (char *)page + TA_PAGE_BYTES; object += stride)
		*(void **)(object + link_offset) = object + stride;
	*(void **)(object + link_offset) = NULL;
	return first;
}

void ta_pool_free_all(struct ta_pool_page **pages)
{
	struct ta_pool_page *page;

	while ((page = *pages) != NULL) {
		*pages = page->next;
		ta_page_put(page);
	}
}
