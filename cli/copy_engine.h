/* SPDX-License-Identifier: MIT */
/*
 * What the two halves of the copying engine share: copy_engine.c, the loop that submits requests
 * and waits for them, and copy_stages.c, what each request's end leads to.  One thread, no locks.
 */
#ifndef TRUEAIO_COPY_ENGINE_H
#define TRUEAIO_COPY_ENGINE_H

#include "cp.h"

#include <libaio.h>
#include <signal.h>

enum stage {
	COPYING,
	CHECKING,
	SYNCHRONIZING_DIRECTORY,
};

struct copy {
	struct iocb sync; /* first: its completion names it */
	struct copy_engine *engine;
	struct copy *next; /* in the list of idle ones, or of those that have blocks to take */
	struct copy_file file;
	enum stage stage;
	unsigned in_flight; /* transfers at work on it, and its fsync */
	unsigned reading; /* of those transfers, the ones that have not begun their second step */
	bool active;
	bool has_blocks; /* stands in the list */
	bool synchronized; /* an fsync stands behind the last write */
	bool padded; /* the last block was written longer than it is, for O_DIRECT */
	bool failed;
};

struct transfer {
	struct iocb iocb; /* first: its completion names it */
	struct transfer *next_idle;
	struct copy *copy;
	char *block; /* COPY_BLOCK_BYTES from the source */
	char *readback; /* as many from the copy, with --verify */
	off_t offset;
	size_t bytes; /* contents in this block */
	size_t done; /* of them, in the present step */
};

_Static_assert(offsetof(struct copy, sync) == 0, "a completed fsync is its copy");
_Static_assert(offsetof(struct transfer, iocb) == 0, "a completed read or write is its transfer");

struct copy_engine {
	struct copy_options options;
	io_context_t context;
	struct transfer *transfers;
	struct transfer *idle_transfers;
	char *buffers;
	struct copy *copies;
	unsigned copy_count;
	unsigned active_copies;
	struct copy *idle_copies;
	struct copy *first_with_blocks;
	struct copy *last_with_blocks;
	/* Gathered for the next io_submit, with room for every request that there can be. */
	struct iocb **pending;
	long pending_count;
	unsigned in_flight; /* accepted by io_submit, events not yet taken */
	sigset_t waiting_mask; /* the signals of the caller's mask, while waiting */
};

/* copy_engine.c */
void engine_queue(struct copy_engine *engine, struct iocb *iocb, io_callback_t callback);

/* copy_stages.c */
struct copy *copy_take(struct copy_engine *engine, enum stage stage);
void copy_begin(struct copy *copy);
void copy_synchronize(struct copy *copy);
void copy_give_back(struct copy *copy);
void copy_start_transfers(struct copy_engine *engine);

#endif
