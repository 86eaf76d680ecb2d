/* SPDX-License-Identifier: MIT */
/*
 * The copying engine's loop: many blocks of many files in flight, one thread, the calls of libaio.h
 * and no others.
 *
 * Transfers (a buffer each) are what bounds memory and the load on the disks; there are `depth` of
 * them.  A copy takes them while it has blocks left, then the next copy takes them: the end of a
 * large file, a thousand small files and the waiting for their fsyncs all overlap.  How many copies
 * there are is bounded by the descriptors they hold.
 *
 * The one that adds files runs the loop until there is room: copy_engine_add returns when the next
 * file can be begun.  Requests are gathered and submitted together, and each wait takes all the
 * completions there are.
 *
 * Each request carries the function that handles its end, as io_queue_run(3) would call it.  It is
 * called here, because io_queue_run does not wait and because the wait must be io_pgetevents: the
 * signals that end the command are blocked everywhere but in there, so none can fall between the
 * question whether one has come and the sleep.
 */
#include "cli.h"
#include "copy_engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum {
	COPIES_MAX = 128,
	DESCRIPTORS_A_COPY = 2,
	/* Standard streams, the walk through a directory, what the library opens. */
	DESCRIPTORS_RESERVED = 32,
	EVENTS_MAX = 64,
};

void engine_queue(struct copy_engine *engine, struct iocb *iocb, io_callback_t callback)
{
	io_set_callback(iocb, callback);
	engine->pending[engine->pending_count++] = iocb;
}

static void drop_pending(struct copy_engine *engine, long count)
{
	engine->pending_count -= count;
	memmove(engine->pending, engine->pending + count,
		(size_t)engine->pending_count * sizeof(*engine->pending));
}

/*
 * io_submit answers with the number it has accepted, which ends at the first request that it
 * refuses; that one is then the first of the next call, and the answer is its error.
 */
static void submit(struct copy_engine *engine)
{
	while (engine->pending_count > 0) {
		int accepted = io_submit(engine->context, engine->pending_count, engine->pending);

		if (accepted > 0) {
			engine->in_flight += (unsigned)accepted;
			drop_pending(engine, accepted);
		} else if (accepted == -EAGAIN && engine->in_flight > 0) {
			return;
		} else {
			struct iocb *refused = engine->pending[0];
			io_callback_t callback = (io_callback_t)refused->data;

			drop_pending(engine, 1);
			callback(engine->context, refused, accepted ? accepted : -EAGAIN, 0);
		}
	}
}

static void wait_and_handle(struct copy_engine *engine)
{
	struct io_event events[EVENTS_MAX];
	int count = io_pgetevents(engine->context, 1, EVENTS_MAX, events, progress_interval(),
				  &engine->waiting_mask);

	/* -EINTR: the loops look whether the signal asks for the end. */
	if (count < 0 && count != -EINTR) {
		report_error(-count, "cannot wait for completions");
		copy_engine_close(engine);
		exit(STATUS_FAILURE);
	}
	for (int i = 0; i < count; i++) {
		io_callback_t callback = (io_callback_t)events[i].data;

		engine->in_flight--;
		callback(engine->context, events[i].obj, (long)events[i].res, (long)events[i].res2);
	}
}

static void step(struct copy_engine *engine)
{
	copy_start_transfers(engine);
	submit(engine);
	if (engine->in_flight > 0)
		wait_and_handle(engine);
	progress_show();
}

/* Two files for one name, as in `cp a/x b/x there`: the later one has to wait, so as to win. */
static bool on_its_way(const struct copy_engine *engine, const char *target)
{
	for (unsigned i = 0; i < engine->copy_count; i++) {
		const struct copy *copy = &engine->copies[i];
		if (copy->active && strcmp(copy->file.target_name, target) == 0)
			return true;
	}
	return false;
}

static bool wait_for_room(struct copy_engine *engine)
{
	while (!interrupting_signal() && (!engine->idle_copies || !engine->idle_transfers))
		step(engine);
	return !interrupting_signal();
}

/* Copies a file: sooner or later, and from now on without the caller.  Both names are copied. */
void copy_engine_add(struct copy_engine *engine, const char *source, const char *target)
{
	struct copy *copy;

	while (!interrupting_signal() && on_its_way(engine, target))
		step(engine);
	if (!wait_for_room(engine))
		return;
	copy = copy_take(engine, COPYING);
	if (!copy_file_open(&copy->file, source, target, engine->options.direct)) {
		copy_give_back(copy);
		return;
	}
	progress_add(copy->file.next_offset);
	copy_begin(copy);
	copy_start_transfers(engine);
}

/* Synchronizes an open directory, so that the names in it last, and closes it. */
void copy_engine_add_directory(struct copy_engine *engine, int fd, const char *path)
{
	struct copy *copy;

	if (!wait_for_room(engine)) {
		close(fd);
		return;
	}
	copy = copy_take(engine, SYNCHRONIZING_DIRECTORY);
	copy->file.source = -1;
	copy->file.target = fd;
	copy->file.target_name = strdup(path);
	if (copy->file.target_name) {
		copy_synchronize(copy);
	} else {
		report_error(ENOMEM, "%s", path);
		copy_give_back(copy);
	}
}

/* Waits until everything added is done. */
void copy_engine_finish(struct copy_engine *engine)
{
	while (!interrupting_signal() && engine->active_copies > 0)
		step(engine);
}

/* Making and unmaking. */

static unsigned copies_possible(void)
{
	struct rlimit limit;
	rlim_t free_descriptors;

	if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
		return COPIES_MAX;
	if (limit.rlim_cur < DESCRIPTORS_RESERVED + DESCRIPTORS_A_COPY)
		return 1;
	free_descriptors = limit.rlim_cur - DESCRIPTORS_RESERVED;
	if (free_descriptors > COPIES_MAX * DESCRIPTORS_A_COPY)
		return COPIES_MAX;
	return (unsigned)(free_descriptors / DESCRIPTORS_A_COPY);
}

static bool make_transfers(struct copy_engine *engine)
{
	size_t buffers_a_transfer = engine->options.verify ? 2 : 1;
	size_t bytes = engine->options.depth * buffers_a_transfer * COPY_BLOCK_BYTES;
	char *buffer;

	engine->transfers = calloc(engine->options.depth, sizeof(*engine->transfers));
	engine->buffers = aligned_alloc(COPY_ALIGNMENT, bytes);
	if (!engine->transfers || !engine->buffers)
		return false;
	buffer = engine->buffers;
	for (unsigned i = 0; i < engine->options.depth; i++) {
		struct transfer *transfer = &engine->transfers[i];

		transfer->block = buffer;
		transfer->readback = engine->options.verify ? buffer + COPY_BLOCK_BYTES : NULL;
		buffer += buffers_a_transfer * COPY_BLOCK_BYTES;
		transfer->next_idle = engine->idle_transfers;
		engine->idle_transfers = transfer;
	}
	return true;
}

static bool make_copies(struct copy_engine *engine)
{
	engine->copy_count = copies_possible();
	engine->copies = calloc(engine->copy_count, sizeof(*engine->copies));
	if (!engine->copies)
		return false;
	for (unsigned i = 0; i < engine->copy_count; i++) {
		engine->copies[i].next = engine->idle_copies;
		engine->idle_copies = &engine->copies[i];
	}
	return true;
}

static void free_engine(struct copy_engine *engine)
{
	free(engine->pending);
	free(engine->copies);
	free(engine->buffers);
	free(engine->transfers);
	free(engine);
}

static int set_up(struct copy_engine *engine)
{
	/* One for each transfer and one for each copy's fsync: the context is never full. */
	unsigned requests = engine->options.depth + copies_possible();

	engine->pending = calloc(requests, sizeof(*engine->pending));
	if (!engine->pending || !make_transfers(engine) || !make_copies(engine))
		return -ENOMEM;
	return io_setup((int)requests, &engine->context);
}

/* Returns null after saying why. */
struct copy_engine *copy_engine_open(const struct copy_options *options)
{
	struct copy_engine *engine = calloc(1, sizeof(*engine));
	int result = -ENOMEM;

	if (engine) {
		engine->options = *options;
		result = set_up(engine);
	}
	if (result < 0) {
		report_error(-result, "cannot set up asynchronous I/O");
		if (engine)
			free_engine(engine);
		return NULL;
	}
	interrupt_catch(&engine->waiting_mask);
	/* A file that meets the limit of its size is an error like others. */
	signal(SIGXFSZ, SIG_IGN);
	return engine;
}

/*
 * After copy_engine_finish nothing is in flight.  After a signal io_destroy waits for what is; then
 * the temporary files go.  The signals stay blocked: who ends by one unblocks it.
 */
void copy_engine_close(struct copy_engine *engine)
{
	io_destroy(engine->context);
	for (unsigned i = 0; i < engine->copy_count; i++) {
		if (engine->copies[i].active)
			copy_file_close(&engine->copies[i].file);
	}
	free_engine(engine);
}
