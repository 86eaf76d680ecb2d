/* SPDX-License-Identifier: MIT */
/* Free lists cut from pages: see pool.h. */
#include "pool.h"

#include "sys.h"

#define POOL_PAGE_BYTES 4096
#define POOL_ALIGNMENT 64

/* A fresh page as a list of objects linked through link_offset; returns the first. */
void *ta_pool_grow(struct ta_pool_page **pages, size_t object_bytes, size_t link_offset)
{
	size_t stride = (object_bytes + POOL_ALIGNMENT - 1) & ~(size_t)(POOL_ALIGNMENT - 1);
	size_t bytes = stride > POOL_PAGE_BYTES / 4 ? stride * 8 : POOL_PAGE_BYTES;
	struct ta_pool_page *page = ta_pages_alloc(bytes);
	char *first, *object;

	if (!page)
		return NULL;
	page->next = *pages;
	page->bytes = bytes;
	*pages = page;
	first = (char *)page + POOL_ALIGNMENT;
	for (object = first; object + 2 * stride <= (char *)page + bytes; object += stride)
		*(void **)(object + link_offset) = object + stride;
	*(void **)(object + link_offset) = NULL;
	return first;
}

void ta_pool_free_all(struct ta_pool_page **pages)
{
	struct ta_pool_page *page;

	while ((page = *pages) != NULL) {
		*pages = page->next;
		ta_pages_free(page, page->bytes);
	}
}
