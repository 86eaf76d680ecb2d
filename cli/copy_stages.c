/* SPDX-License-Identifier: MIT */
/*
 * The stages of a copy, and what the end of each request leads to.
 *
 * A transfer owns a buffer and moves one block at a time: it reads it from the source, then writes
 * it to the copy, each step beginning when the one before has ended.  Transfers know nothing of
 * each other, so blocks pass each other freely.
 *
 * A copy is one file on its way.  Its blocks are copied; it is synchronized; with --verify its
 * blocks go round again, and the second step is now to read the block back and compare; it is
 * renamed into place.
 *
 * The fsync is queued right behind the last write, in the same io_submit: the library lets it wait
 * for all earlier requests on the file, so the program need not.  But an fsync says nothing about
 * writes that failed.  So a copy goes on to its next stage when its last request has ended, and
 * only if none has failed.
 */
#include "cli.h"
#include "copy_engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A step that moved too little is queued again, so it comes before and behind its callback. */
static void read_done(io_context_t context, struct iocb *iocb, long result, long unused);
static void write_done(io_context_t context, struct iocb *iocb, long result, long unused);
static void readback_done(io_context_t context, struct iocb *iocb, long result, long unused);
static void sync_done(io_context_t context, struct iocb *iocb, long result, long unused);

/* O_DIRECT moves whole sectors.  A block's buffer has the room; a read stops at the file's end. */
static size_t rounded(size_t bytes, bool direct)
{
	return direct ? (bytes + COPY_ALIGNMENT - 1) / COPY_ALIGNMENT * COPY_ALIGNMENT : bytes;
}

static void read_source(struct transfer *transfer)
{
	const struct copy_file *file = &transfer->copy->file;
	size_t left = rounded(transfer->bytes, file->source_direct) - transfer->done;

	io_prep_pread(&transfer->iocb, file->source, transfer->block + transfer->done, left,
		      transfer->offset + (off_t)transfer->done);
	engine_queue(transfer->copy->engine, &transfer->iocb, read_done);
}

static void write_copy(struct transfer *transfer)
{
	struct copy *copy = transfer->copy;
	size_t whole = rounded(transfer->bytes, copy->file.target_direct);

	if (whole > transfer->bytes) {
		memset(transfer->block + transfer->bytes, 0, whole - transfer->bytes);
		copy->padded = true;
	}
	io_prep_pwrite(&transfer->iocb, copy->file.target, transfer->block + transfer->done,
		       whole - transfer->done, transfer->offset + (off_t)transfer->done);
	engine_queue(copy->engine, &transfer->iocb, write_done);
	copy->synchronized = false;
}

static void read_back(struct transfer *transfer)
{
	const struct copy_file *file = &transfer->copy->file;
	size_t left = rounded(transfer->bytes, file->target_direct) - transfer->done;

	io_prep_pread(&transfer->iocb, file->target, transfer->readback + transfer->done, left,
		      transfer->offset + (off_t)transfer->done);
	engine_queue(transfer->copy->engine, &transfer->iocb, readback_done);
}

/* io_fsync(3) without its io_submit, so that it goes with the write before it. */
void copy_synchronize(struct copy *copy)
{
	io_prep_fsync(&copy->sync, copy->file.target);
	engine_queue(copy->engine, &copy->sync, sync_done);
	copy->synchronized = true;
	copy->in_flight++;
}

void copy_begin(struct copy *copy)
{
	struct copy_engine *engine = copy->engine;

	copy->has_blocks = true;
	copy->next = NULL;
	if (engine->last_with_blocks)
		engine->last_with_blocks->next = copy;
	else
		engine->first_with_blocks = copy;
	engine->last_with_blocks = copy;
}

static void remove_first_copy_with_blocks(struct copy_engine *engine)
{
	struct copy *copy = engine->first_with_blocks;

	engine->first_with_blocks = copy->next;
	if (!engine->first_with_blocks)
		engine->last_with_blocks = NULL;
	copy->has_blocks = false;
}

struct copy *copy_take(struct copy_engine *engine, enum stage stage)
{
	struct copy *copy = engine->idle_copies;

	engine->idle_copies = copy->next;
	engine->active_copies++;
	*copy = (struct copy){ .engine = engine, .stage = stage, .active = true };
	return copy;
}

void copy_give_back(struct copy *copy)
{
	struct copy_engine *engine = copy->engine;

	copy_file_close(&copy->file);
	copy->active = false;
	copy->next = engine->idle_copies;
	engine->idle_copies = copy;
	engine->active_copies--;
}

/* Only the first failure is worth a message; the others mostly follow from it. */
static void fail(struct copy *copy, int error, const char *name, const char *what)
{
	if (!copy->failed)
		report_error(error, "%s: %s", name, what);
	copy->failed = true;
}

static void begin_check(struct copy *copy)
{
	copy->stage = CHECKING;
	copy_file_begin_check(&copy->file);
	copy_begin(copy);
}

/* No request of the copy is in flight, and it has no more blocks. */
static void end_of_stage(struct copy *copy)
{
	struct copy_file *file = &copy->file;

	if (!copy->failed && !copy->synchronized) {
		/* Nothing was written, or too long a tail, or the rest of a short write. */
		if (!copy->padded || ftruncate(file->target, file->size) == 0) {
			copy_synchronize(copy);
			return;
		}
		fail(copy, errno, file->target_name, "cannot set the size");
	}
	if (!copy->failed && copy->stage == COPYING && copy->engine->options.verify &&
	    file->size > 0) {
		begin_check(copy);
		return;
	}
	if (!copy->failed && copy->stage != SYNCHRONIZING_DIRECTORY)
		copy_file_publish(file);
	copy_give_back(copy);
}

static void request_ended(struct copy *copy)
{
	copy->in_flight--;
	if (copy->in_flight == 0 && !copy->has_blocks)
		end_of_stage(copy);
}

static void give_back_transfer(struct transfer *transfer)
{
	struct copy *copy = transfer->copy;
	struct copy_engine *engine = copy->engine;

	transfer->next_idle = engine->idle_transfers;
	engine->idle_transfers = transfer;
	request_ended(copy);
}

static void second_step(struct transfer *transfer)
{
	struct copy *copy = transfer->copy;

	copy->reading--;
	transfer->done = 0;
	if (copy->stage == CHECKING) {
		read_back(transfer);
		return;
	}
	write_copy(transfer);
	/* That was the last write.  A padded tail is cut first, when all writes have ended. */
	if (copy->reading == 0 && !copy->has_blocks && !copy->padded)
		copy_synchronize(copy);
}

/*
 * Counts what a request has moved.  Fewer bytes than were asked for are no error yet: the rest is
 * asked for, and the answer to that tells.  More are what O_DIRECT adds.
 */
static void count_moved(struct transfer *transfer, long moved)
{
	size_t left = transfer->bytes - transfer->done;

	transfer->done += (size_t)moved < left ? (size_t)moved : left;
}

static void read_done(io_context_t context, struct iocb *iocb, long result, long unused)
{
	struct transfer *transfer = (struct transfer *)iocb;
	struct copy *copy = transfer->copy;

	(void)context, (void)unused;
	if (result < 0)
		fail(copy, (int)-result, copy->file.source_name, "cannot read");
	else if (result == 0)
		fail(copy, 0, copy->file.source_name,
		     "ended before the size that it had when opened");
	else
		count_moved(transfer, result);

	if (copy->failed) {
		copy->reading--;
		give_back_transfer(transfer);
	} else if (transfer->done < transfer->bytes) {
		read_source(transfer);
	} else {
		second_step(transfer);
	}
}

static void write_done(io_context_t context, struct iocb *iocb, long result, long unused)
{
	struct transfer *transfer = (struct transfer *)iocb;
	struct copy *copy = transfer->copy;

	(void)context, (void)unused;
	/* A file system that takes nothing and gives no reason has no room. */
	if (result <= 0)
		fail(copy, result ? (int)-result : ENOSPC, copy->file.target_name, "cannot write");
	else
		count_moved(transfer, result);

	if (!copy->failed && transfer->done < transfer->bytes) {
		write_copy(transfer);
		return;
	}
	if (!copy->failed)
		progress_add((off_t)transfer->bytes);
	give_back_transfer(transfer);
}

static void compare(const struct transfer *transfer)
{
	struct copy *copy = transfer->copy;
	size_t at = 0;

	if (memcmp(transfer->block, transfer->readback, transfer->bytes) == 0) {
		progress_add((off_t)transfer->bytes);
		return;
	}
	while (transfer->block[at] == transfer->readback[at])
		at++;
	if (!copy->failed)
		report_error(0, "%s: the copy differs from %s at byte %lld", copy->file.target_name,
			     copy->file.source_name, (long long)transfer->offset + (long long)at);
	copy->failed = true;
}

static void readback_done(io_context_t context, struct iocb *iocb, long result, long unused)
{
	struct transfer *transfer = (struct transfer *)iocb;
	struct copy *copy = transfer->copy;

	(void)context, (void)unused;
	if (result < 0)
		fail(copy, (int)-result, copy->file.target_name, "cannot read the copy back");
	else if (result == 0)
		fail(copy, 0, copy->file.target_name, "the copy is shorter than what was written");
	else
		count_moved(transfer, result);

	if (!copy->failed && transfer->done < transfer->bytes) {
		read_back(transfer);
		return;
	}
	if (!copy->failed)
		compare(transfer);
	give_back_transfer(transfer);
}

static void sync_done(io_context_t context, struct iocb *iocb, long result, long unused)
{
	struct copy *copy = (struct copy *)iocb;

	(void)context, (void)unused;
	/* File systems that have nothing to synchronize in a directory say so by EINVAL. */
	if (result < 0 && !(result == -EINVAL && copy->stage == SYNCHRONIZING_DIRECTORY))
		fail(copy, (int)-result, copy->file.target_name, "cannot synchronize");
	request_ended(copy);
}

/* Nothing moves for a hole, but it is done. */
static void count_hole(const struct copy_file *file, off_t start)
{
	progress_add(file->next_offset - start);
}

/* Gives idle transfers to the copies that have blocks, the oldest copy first. */
void copy_start_transfers(struct copy_engine *engine)
{
	while (engine->first_with_blocks && engine->idle_transfers) {
		struct copy *copy = engine->first_with_blocks;
		struct transfer *transfer = engine->idle_transfers;

		if (!copy->failed && !copy_file_taken(&copy->file)) {
			engine->idle_transfers = transfer->next_idle;
			transfer->copy = copy;
			transfer->done = 0;
			copy_file_take(&copy->file, &transfer->offset, &transfer->bytes);
			count_hole(&copy->file, transfer->offset + (off_t)transfer->bytes);
			copy->in_flight++;
			copy->reading++;
			read_source(transfer);
		}
		if (copy->failed || copy_file_taken(&copy->file)) {
			remove_first_copy_with_blocks(engine);
			if (copy->in_flight == 0)
				end_of_stage(copy);
		}
	}
}
