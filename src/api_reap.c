/* SPDX-License-Identifier: MIT */
/*
 * The exported functions that take events.
 *
 * They stand apart because they are a member of their own in the static archive, which a linker
 * takes only for a program that calls one of them.  That tells it from one that reaps by itself, as
 * what an object imports does with the shared library: see caller.c.
 */
#include "api.h"

#ifdef TA_STATIC
const volatile bool ta_events_are_taken_here = true;
#endif

int ta_io_getevents(io_context_t ctx, long min_nr, long nr, struct io_event *events,
		    struct timespec *timeout);
TA_DEFAULT_VERSION(ta_io_getevents, io_getevents, "LIBAIO_0.4");

int ta_io_getevents(io_context_t ctx, long min_nr, long nr, struct io_event *events,
		    struct timespec *timeout)
{
	struct ta_wait wait = { .min_nr = min_nr, .nr = nr, .events = events };

	return ta_api_reap(ctx, &wait, timeout);
}

int ta_io_getevents_0_1(io_context_t ctx, long nr, struct io_event *events,
			const struct timespec *timeout);
TA_OLD_VERSION(ta_io_getevents_0_1, io_getevents, "LIBAIO_0.1");

int ta_io_getevents_0_1(io_context_t ctx, long nr, struct io_event *events,
			const struct timespec *timeout)
{
	struct ta_wait wait = { .min_nr = 1, .nr = nr, .events = events };

	return ta_api_reap(ctx, &wait, timeout);
}

/* The kernel's sigset_t is 8 bytes; that much of the program's must be readable. */
TA_EXPORT int io_pgetevents(io_context_t ctx, long min_nr, long nr, struct io_event *events,
			    struct timespec *timeout, sigset_t *sigmask)
{
	struct ta_wait wait = { .min_nr = min_nr, .nr = nr, .events = events, .mask = sigmask };

	if (ta_thread_is_inside())
		return -EINTR;
	if (!ta_process_enter())
		return -EINVAL;
	if (sigmask && !ta_memory_probe(sigmask, 8, false))
		return -EFAULT;
	return ta_api_reap(ctx, &wait, timeout);
}

/*
 * Takes events one at a time, so that a callback may submit, or call this again, and what it starts
 * is seen in the same call.
 */
TA_EXPORT int io_queue_run(io_context_t ctx)
{
	struct timespec timeout = { 0, 0 };
	struct io_event event;
	int result;

	while ((result = io_getevents(ctx, 0, 1, &event, &timeout)) == 1) {
		io_callback_t callback = (io_callback_t)event.data;

		if (callback)
			callback(ctx, event.obj, (long)event.res, (long)event.res2);
	}
	return result;
}
