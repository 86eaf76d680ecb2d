/* SPDX-License-Identifier: MIT */
/* Pages for what lives inside the library: see pages.c. */
#ifndef TA_PAGES_H
#define TA_PAGES_H

#include "sys.h"

#define TA_PAGE_BYTES 4096u
/* Each is as large as all before it, so these are more than there is memory for. */
#define TA_REGIONS_MAX 64

struct ta_region {
	char *start;
	char *end;
};

struct ta_pages {
	struct ta_lock lock;
	void *free; /* lock */
	char *fresh; /* of the latest region: pages never used; lock */
	char *fresh_end; /* lock */
	size_t page_count; /* lock */
	_Atomic uint32_t region_count;
	struct ta_region regions[TA_REGIONS_MAX]; /* those below region_count do not change */
};

TA_HIDDEN void *ta_page_take(void);
TA_HIDDEN void ta_page_put(void *page);
TA_HIDDEN bool ta_page_is_ours(const void *address);

#endif
