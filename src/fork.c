/* SPDX-License-Identifier: MIT */
/*
 * What a forked child needs although it starts empty, and what it must not keep.
 *
 * It has no use for the library's descriptors, and a file that is on its way through one of them
 * would stay open as long as it lives: they are closed.  Where no handler runs (_Fork, clone) its
 * first call does that.
 *
 * A signal handler may fork while its thread looks into a ring, and the child may return into that.
 * Its context is wiped, so nothing comes of it; but the ring is not inherited, for a child must not
 * move the head of its parent's.  So the child gets zeroes in its place.
 */
#include "internal.h"

#include <pthread.h>

static void begin_child(void)
{
	int saved_errno = errno;

	ta_own_close_inherited();
	if (ta_thread.locks_held > 0 && ta_thread.ring)
		(void)mmap((void *)(uintptr_t)ta_thread.ring, ta_thread.ring_bytes,
			   PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	errno = saved_errno;
}

__attribute__((constructor)) static void watch_forks(void)
{
	pthread_atfork(NULL, NULL, begin_child);
}
