/* SPDX-License-Identifier: MIT */
/*
 * What the tests' shared objects offer.  Each one calls libaio through imports of its own, and what
 * it imports decides how the library serves the contexts that it makes: "mediated" imports
 * io_getevents, "passthrough" has no call that reaps, so a test reaps for it.
 *
 * The library knows the object by the return address of io_setup, which a tail call would take
 * away: object_setup looks at the result before it returns it.
 */
#ifndef OBJECT_H
#define OBJECT_H

#include <libaio.h>

int object_setup(int event_count, io_context_t *ctx);
int object_submit(io_context_t ctx, long count, struct iocb **iocbs);
int object_getevents(io_context_t ctx, long min_nr, long nr, struct io_event *events,
		     struct timespec *timeout);
int object_destroy(io_context_t ctx);

#endif
