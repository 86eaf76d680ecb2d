/* SPDX-License-Identifier: MIT */
/*
 * Libraries with a known defect, for the test of the test: for each kind of comparison one that
 * nothing else would notice.
 *
 * They are the library under test behind functions that spoil one thing.  A defect shows in certain
 * calls alone, as real ones do, so that the shrinker has something to find.
 */
#include "fuzz.h"
#include <sys/eventfd.h>

/* io_submit forgets the last one of two. */
static int submit_miscounts(io_context_t context, long nr, struct iocb **iocbs)
{
	int result = io_submit(context, nr, iocbs);

	return result == 2 ? 1 : result;
}

static int submit_dirties_key(io_context_t context, long nr, struct iocb **iocbs)
{
	int result = io_submit(context, nr, iocbs);

	if (result > 0)
		iocbs[0]->key = 1;
	return result;
}

static int submit_spoils_file(io_context_t context, long nr, struct iocb **iocbs)
{
	int result = io_submit(context, nr, iocbs);

	if (result > 0 && iocbs[0]->aio_lio_opcode == IO_CMD_PWRITE &&
	    iocbs[0]->aio_fildes == world.descriptors[TMPFS].fd &&
	    pwrite(iocbs[0]->aio_fildes, "", 1, 5) < 0)
		abort();
	return result;
}

static int submit_spoils_stream(io_context_t context, long nr, struct iocb **iocbs)
{
	int result = io_submit(context, nr, iocbs);

	if (result > 0 && iocbs[0]->aio_lio_opcode == IO_CMD_PWRITE &&
	    iocbs[0]->aio_fildes == world.descriptors[PIPE_WRITE].fd &&
	    write(iocbs[0]->aio_fildes, "", 1) < 0)
		abort();
	return result;
}

static int submit_signals_twice(io_context_t context, long nr, struct iocb **iocbs)
{
	int result = io_submit(context, nr, iocbs);

	if (result > 0 && iocbs[0]->u.c.flags & FLAG_RESFD)
		eventfd_write((int)iocbs[0]->u.c.resfd, 1);
	return result;
}

static int submit_hangs(io_context_t context, long nr, struct iocb **iocbs)
{
	int result = io_submit(context, nr, iocbs);

	while (result == 3)
		pause();
	return result;
}

static int submit_crashes(io_context_t context, long nr, struct iocb **iocbs)
{
	int result = io_submit(context, nr, iocbs);

	if (result == 3)
		abort();
	return result;
}

static int cancel_lies(io_context_t context, struct iocb *iocb, struct io_event *event)
{
	int result = io_cancel(context, iocb, event);

	return result == -EINPROGRESS ? 0 : result;
}

static int setup_takes_anything(int nr, io_context_t *context)
{
	return nr == 0 ? 0 : io_setup(nr, context);
}

static int getevents_spoils_res(io_context_t context, long min_nr, long nr, struct io_event *events,
				struct timespec *timeout)
{
	int result = io_getevents(context, min_nr, nr, events, timeout);

	if (result > 0 && events[0].res == 4096)
		events[0].res = 4095;
	return result;
}

static int getevents_spoils_res2(io_context_t context, long min_nr, long nr,
				 struct io_event *events, struct timespec *timeout)
{
	int result = io_getevents(context, min_nr, nr, events, timeout);

	if (result > 0)
		events[0].res2 = 1;
	return result;
}

static int getevents_swaps_data(io_context_t context, long min_nr, long nr, struct io_event *events,
				struct timespec *timeout)
{
	int result = io_getevents(context, min_nr, nr, events, timeout);

	if (result > 1) {
		void *data = events[0].data;

		events[0].data = events[1].data;
		events[1].data = data;
	}
	return result;
}

static int getevents_spoils_obj(io_context_t context, long min_nr, long nr, struct io_event *events,
				struct timespec *timeout)
{
	int result = io_getevents(context, min_nr, nr, events, timeout);

	if (result > 2)
		events[2].obj++;
	return result;
}

static int getevents_loses_one(io_context_t context, long min_nr, long nr, struct io_event *events,
			       struct timespec *timeout)
{
	int result = io_getevents(context, min_nr, nr, events, timeout);

	return result == 3 ? 2 : result;
}

static int getevents_repeats_one(io_context_t context, long min_nr, long nr,
				 struct io_event *events, struct timespec *timeout)
{
	int result = io_getevents(context, min_nr, nr, events, timeout);

	if (result == 2 && nr > 2)
		events[result++] = events[0];
	return result;
}

static int getevents_spoils_buffer(io_context_t context, long min_nr, long nr,
				   struct io_event *events, struct timespec *timeout)
{
	int result = io_getevents(context, min_nr, nr, events, timeout);

	if (result > 0 && events[0].res == 512 && events[0].obj->aio_lio_opcode == IO_CMD_PREAD)
		((char *)events[0].obj->u.c.buf)[511] ^= 1;
	return result;
}

static int getevents_accepts_any_array(io_context_t context, long min_nr, long nr,
				       struct io_event *events, struct timespec *timeout)
{
	int result = io_getevents(context, min_nr, nr, events, timeout);

	return result == -EFAULT ? 0 : result;
}

#define LIBRARY_CALLS                                                                              \
	.name = "library", .setup = io_setup, .destroy = io_destroy, .submit = io_submit,          \
	.cancel = io_cancel, .getevents = io_getevents, .pgetevents = io_pgetevents

#define PLANT(defect_name, defect_sign, member, function)                                          \
	{                                                                                          \
		.name = defect_name, .sign = defect_sign, .calls = {                               \
			LIBRARY_CALLS,                                                             \
			.member = function                                                         \
		}                                                                                  \
	}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Woverride-init"
const struct planted planted[] = {
	PLANT("result of io_submit", "io_submit", submit, submit_miscounts),
	PLANT("key of an iocb", "keys", submit, submit_dirties_key),
	PLANT("content of a file", "file", submit, submit_spoils_file),
	PLANT("content of a stream", "stream", submit, submit_spoils_stream),
	PLANT("count of an eventfd", "counter", submit, submit_signals_twice),
	PLANT("io_submit that never returns", "hangs", submit, submit_hangs),
	PLANT("crash", "signal", submit, submit_crashes),
	PLANT("result of io_cancel", "io_cancel", cancel, cancel_lies),
	PLANT("result of io_setup", "io_setup", setup, setup_takes_anything),
	PLANT("res of an event", "event {", getevents, getevents_spoils_res),
	PLANT("res2 of an event", "event {", getevents, getevents_spoils_res2),
	PLANT("data of an event", "event {", getevents, getevents_swaps_data),
	PLANT("obj of an event", "event {", getevents, getevents_spoils_obj),
	PLANT("an event that is lost", "events", getevents, getevents_loses_one),
	PLANT("an event that comes twice", "event", getevents, getevents_repeats_one),
	PLANT("data in a buffer", "buffers", getevents, getevents_spoils_buffer),
	PLANT("result of io_getevents", "io_getevents", getevents, getevents_accepts_any_array),
};
#pragma GCC diagnostic pop

const unsigned planted_count = sizeof(planted) / sizeof(planted[0]);
