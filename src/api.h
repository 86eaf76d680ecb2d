/* SPDX-License-Identifier: MIT */
/*
 * What the files of exported functions share: how a function gets its symbol version, and the way
 * into ta_reap.
 */
#ifndef TA_API_H
#define TA_API_H

#include "internal.h"

#define TA_EXPORT __attribute__((visibility("default")))

/*
 * Ties a function to a versioned name: the attribute survives gcc's link-time optimization, clang
 * has the assembler's directive alone.  The default versions are tied here, too, not left to the
 * map: GNU ld makes them local symbols under link-time optimization.  The static archive has plain
 * names, and only the default version of each.
 */
#if defined(TA_STATIC)
#define TA_DEFAULT_VERSION(function, name, node)                                                   \
	extern __typeof__(function) name __attribute__((visibility("default"), alias(#function)))
#define TA_OLD_VERSION(function, name, node) extern __typeof__(function) function
#else
#if defined(__has_attribute) && __has_attribute(symver)
#define TA_VERSIONED(function, versioned)                                                          \
	extern __typeof__(function) function                                                       \
		__attribute__((visibility("default"), used, symver(versioned)))
#else
#define TA_VERSIONED(function, versioned)                                                          \
	extern __typeof__(function) function __attribute__((visibility("default"), used));         \
	__asm__(".symver " #function ", " versioned)
#endif
#define TA_DEFAULT_VERSION(function, name, node) TA_VERSIONED(function, #name "@@" node)
#define TA_OLD_VERSION(function, name, node) TA_VERSIONED(function, #name "@" node)
#endif

/*
 * The time to wait: -1 for ever, which is what no timeout and a sum below zero mean.  Nanoseconds
 * beyond a second are added; what does not fit is as good as for ever.
 */
static inline int64_t ta_timeout_in_ns(const struct timespec *timeout)
{
	int64_t ns;

	if (!timeout || __builtin_mul_overflow((int64_t)timeout->tv_sec, 1000000000, &ns) ||
	    __builtin_add_overflow(ns, (int64_t)timeout->tv_nsec, &ns))
		return -1;
	return ns < 0 ? -1 : ns;
}

static inline int ta_api_reap(io_context_t ctx, struct ta_wait *wait,
			      const struct timespec *timeout)
{
	struct ta_process *process;
	struct timespec copy;

	if (ta_thread_is_inside())
		return -EINTR;
	process = ta_process_enter();
	if (ta_unlikely(!process))
		return -EINVAL;
	if (timeout) {
		if (ta_unlikely(!ta_copy_in(&copy, timeout, sizeof(copy))))
			return -EFAULT;
		wait->timeout = &copy;
	}
	wait->timeout_ns = ta_timeout_in_ns(wait->timeout);
	if (ta_unlikely(wait->min_nr < 0 || wait->nr < 0 ||
			(wait->min_nr > wait->nr && !wait->peek)))
		return -EINVAL;
	return ta_reap(process, ctx, wait);
}

#endif
