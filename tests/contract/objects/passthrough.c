/* SPDX-License-Identifier: MIT */
/* A shared object that submits and leaves the reaping to others: no object_getevents. */
#include "object.h"

int object_setup(int event_count, io_context_t *ctx)
{
	int result = io_setup(event_count, ctx);

	return result < 0 ? result : 0;
}

int object_submit(io_context_t ctx, long count, struct iocb **iocbs)
{
	return io_submit(ctx, count, iocbs);
}

int object_destroy(io_context_t ctx)
{
	return io_destroy(ctx);
}
