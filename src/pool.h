/* SPDX-License-Identifier: MIT */
/*
 * Free lists cut from pages, for objects of one type that live inside the library.
 *
 * Objects are never given back one by one: the pages of a pool go when its owner goes (a context is
 * destroyed), or never (process-wide pools, which are as large as the most that was ever in
 * flight).  The owner's lock guards the pool.  An object is smaller than a page of pages.h.
 */
#ifndef TA_POOL_H
#define TA_POOL_H

#include <stddef.h>

struct ta_pool_page {
	struct ta_pool_page *next;
};

__attribute__((visibility("hidden"))) void *ta_pool_grow(struct ta_pool_page **pages,
							 size_t object_bytes, size_t link_offset);
__attribute__((visibility("hidden"))) void ta_pool_free_all(struct ta_pool_page **pages);

/*
 * One object off the free list, which grows by a page when empty; NULL when there is no memory.
 * Contents are stale.
 */
#define TA_POOL_TAKE(free_list, pages, link)                                                       \
	__extension__({                                                                            \
		__typeof__(*(free_list)) object_ = *(free_list);                                   \
		if (!object_)                                                                      \
			object_ = ta_pool_grow(pages, sizeof(*object_),                            \
					       offsetof(__typeof__(*object_), link));              \
		if (object_)                                                                       \
			*(free_list) = object_->link;                                              \
		object_;                                                                           \
	})

#define TA_POOL_PUT(free_list, object, link)                                                       \
	do {                                                                                       \
		(object)->link = *(free_list);                                                     \
		*(free_list) = (object);                                                           \
	} while (0)

#endif
