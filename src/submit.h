/* SPDX-License-Identifier: MIT */
/*
 * What the files of io_submit share: one step of it, a batch.
 *
 *	request.c	the steps: gathering, beginning in order, giving back
 *	route.c		what descriptors are, and who carries a request out
 *	at_once.c	requests that the calling thread carries out
 *	plain.c		the short way of most of these
 */
#ifndef TA_SUBMIT_H
#define TA_SUBMIT_H

#include "internal.h"

#include <stddef.h>

/*
 * Elements handled at a time: what their pointers take on the caller's stack (2 KiB) bounds it.
 * Larger batches go in several steps.
 */
#define TA_BATCH_MAX 256

/* It belongs to the thread of io_submit. */
struct ta_batch {
	struct ta_process *process;
	struct ta_context *context;
	uint32_t generation; /* of the context */
	unsigned long kernel_handle;
	struct iocb **iocbs;
	long count; /* elements gathered */
	long accepted; /* of these, when they are begun in order */
	long finished; /* of the accepted ones, those before here need no event from this thread */
	long brief; /* elements that are carried out at once and in flight for nobody */
	bool mixed; /* not the kernel's alone */
	bool is_cut; /* before an fsync: there is more */
	bool is_counted; /* in context->at_once */
	bool is_blocked; /* signals are, and the context is kept */
	int error; /* why gathering ended early */
	int number; /* the latest descriptor, and what it is */
	enum ta_file_class file_class;
	bool is_direct;
	int checked_number; /* the descriptor that was last seen to be what it was */
	int disk_number; /* the same of one whose file is on a disk */
	uint64_t sequence; /* the context's, before they were gathered */
	int64_t tick_ns;
	struct ta_signals signals; /* those that were blocked before */
	struct ta_work work; /* of a look at what is in flight */
	struct ta_brief outer; /* of a call of this thread that a handler has interrupted */
	struct ta_slot *slots[TA_BATCH_MAX]; /* NULL: a NOOP */
};

static inline bool ta_iocb_is_read(const struct iocb *iocb)
{
	return iocb->aio_lio_opcode == IO_CMD_PREAD || iocb->aio_lio_opcode == IO_CMD_PREADV;
}

static inline bool ta_iocb_is_vector(const struct iocb *iocb)
{
	return iocb->aio_lio_opcode == IO_CMD_PREADV || iocb->aio_lio_opcode == IO_CMD_PWRITEV;
}

static inline void ta_store_key(struct iocb *iocb, unsigned key)
{
	memcpy((char *)iocb + offsetof(struct iocb, key), &key, sizeof(key));
}

/* What a write copies within microseconds. */
#define TA_BRIEF_BYTES 65536
/* What is copied within a moment: its event may wait for the next one. */
#define TA_MOMENT_BYTES 16384

/* ---- request.c ------------------------------------------------------------------------------- */

TA_HIDDEN long ta_submit_rest(struct ta_batch *batch);
TA_HIDDEN void ta_submit_wake_sleepers(struct ta_context *context, uint32_t generation);

/* Lets go of the lock, once a step has gathered what it submits. */
static inline void ta_submit_unlock(struct ta_context *context)
{
	bool must_wake =
		ta_unlikely(context->unlimited > 0) && ta_sleep_limit_ns(context) != TA_NO_DEADLINE;
	uint32_t generation = context->generation;

	ta_unlock(&context->lock);
	if (ta_unlikely(must_wake))
		ta_submit_wake_sleepers(context, generation);
}

/* ---- plain.c --------------------------------------------------------------------------------- */

TA_HIDDEN bool ta_submit_plain(struct ta_batch *batch, long nr);

/* ---- route.c --------------------------------------------------------------------------------- */

TA_HIDDEN enum ta_file_class ta_class_learn(struct ta_batch *batch, int number, bool *is_direct);
TA_HIDDEN enum ta_file_class ta_class_settle(struct ta_batch *batch, int number,
					     bool says_would_block);
TA_HIDDEN void ta_route(struct ta_batch *batch, struct ta_slot *slot);

/*
 * Reads outstanding at which the block layer may make even a read with RWF_NOWAIT wait for a free
 * tag.
 */
#define TA_TRIES_UNTIL 128

/* Do reads of such a file go at once? */
static inline bool ta_route_tries_reads(struct ta_process *process, enum ta_file_class file_class)
{
	const unsigned always = 1u << TA_FILE_DEVICE | 1u << TA_FILE_MEMORY;
	const unsigned often =
		1u << TA_FILE_BUFFERED | 1u << TA_FILE_CACHED | 1u << TA_FILE_SYNCHRONOUS;

	return 1u << file_class & always ||
	       (1u << file_class & often &&
		atomic_load_explicit(&process->reads_offloaded, memory_order_relaxed) <
			TA_TRIES_UNTIL);
}

/*
 * The class of a descriptor is known for one tick of the kernel's clock, by number, in one word:
 * the upper half of the number, the tick, the class, and whether O_DIRECT made it TA_FILE_KERNEL.
 * A hint: numbers are closed and reused, and threads may have tables of their own.
 */
#define TA_CLASS_BITS 3
#define TA_CLASS_DIRECT (1u << TA_CLASS_BITS)
#define TA_CLASS_TICK_SHIFT (TA_CLASS_BITS + 1)
#define TA_CLASS_TICK_BITS 28
#define TA_CLASS_NUMBER_SHIFT (TA_CLASS_TICK_SHIFT + TA_CLASS_TICK_BITS)
#define TA_CLASS_TICK_NS 4000000

static inline uint64_t ta_class_key(int number, int64_t tick_ns)
{
	uint64_t tick = (uint64_t)(tick_ns / TA_CLASS_TICK_NS) & ((1u << TA_CLASS_TICK_BITS) - 1);

	/* Plus one: an empty entry is nobody's. */
	return (uint64_t)(number / TA_KNOWN_CLASSES + 1) << TA_CLASS_NUMBER_SHIFT |
	       tick << TA_CLASS_TICK_SHIFT;
}

static inline _Atomic uint64_t *ta_class_entry(struct ta_batch *batch, int number)
{
	return &batch->process->known_classes[(unsigned)number % TA_KNOWN_CLASSES];
}

static inline enum ta_file_class ta_class_of(struct ta_batch *batch, int number, bool *is_direct)
{
	/* relaxed: the word is the whole message. */
	uint64_t known = atomic_load_explicit(ta_class_entry(batch, number), memory_order_relaxed);

	if (batch->tick_ns == 0)
		batch->tick_ns = ta_tick_ns();
	if (ta_unlikely(known >> TA_CLASS_TICK_SHIFT !=
			ta_class_key(number, batch->tick_ns) >> TA_CLASS_TICK_SHIFT))
		return ta_class_learn(batch, number, is_direct);
	*is_direct = known & TA_CLASS_DIRECT;
	return (enum ta_file_class)(known & (TA_CLASS_DIRECT - 1));
}

static inline bool ta_lacks_nosignal(const struct ta_batch *batch)
{
	/* relaxed: a hint. */
	return atomic_load_explicit(&batch->process->lacks_nosignal, memory_order_relaxed);
}

/* ---- at_once.c ------------------------------------------------------------------------------- */

enum ta_verdict {
	TA_VERDICT_DONE, /* it is accepted, and perhaps some that follow it */
	TA_VERDICT_KERNEL, /* not begun: the kernel refuses it, or does it, in its own way */
	TA_VERDICT_WORK, /* it would wait; slot->result is how much is done */
	TA_VERDICT_GONE, /* the context is destroyed: its slots may be another's */
};

TA_HIDDEN enum ta_verdict ta_at_once(struct ta_batch *batch);
TA_HIDDEN enum ta_verdict ta_at_once_look_again(struct ta_batch *batch, int number);
TA_HIDDEN bool ta_at_once_accept_part(struct ta_batch *batch, long count, long done);
TA_HIDDEN int ta_at_once_finish(struct ta_batch *batch);
TA_HIDDEN void ta_at_once_leave(struct ta_batch *batch);

/*
 * From here on signals are open, and slots are this thread's alone: a handler may leave them
 * behind.  The call that it has interrupted has its record back when this one leaves.  The lock is
 * held.
 */
static inline void ta_at_once_enter(struct ta_batch *batch)
{
	struct ta_context *context = batch->context;

	batch->is_counted = true;
	batch->outer.batch = NULL;
	if (ta_unlikely(ta_thread.brief.batch != NULL))
		batch->outer = ta_thread.brief;
	ta_thread.brief.batch = NULL;
	atomic_signal_fence(memory_order_seq_cst);
	ta_thread.brief.context = context;
	ta_thread.brief.generation = batch->generation;
	ta_thread.brief.sequence = batch->sequence;
	ta_thread.brief.latest = context->sequence;
	atomic_signal_fence(memory_order_seq_cst);
	context->at_once++;
	atomic_signal_fence(memory_order_seq_cst);
	ta_thread.brief.batch = batch;
}

/* The bytes that a transfer asks for, as the kernel cuts them; -1 if that cannot be told. */
TA_HIDDEN long ta_bytes_asked(const struct iocb *iocb);

#endif
