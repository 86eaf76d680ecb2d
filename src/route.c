/* SPDX-License-Identifier: MIT */
/*
 * Who carries a request out: the calling thread *at once*, kernel AIO, or a worker.
 *
 * At once goes what cannot wait, or what kernel AIO would do in the caller as well: reads of what
 * is in the page cache, buffered writes, files in memory, memory devices.  The workers get what
 * would hold the caller: streams, reads of files that cannot say "would block", writes that return
 * when the disk has them.  The rest is the kernel's; in an offloaded context the workers'.
 *
 * It is decided under the context's lock, by what the descriptor was a moment ago.
 */
#include "submit.h"

#include "work.h"

/*
 * Of aio_rw_flags, those that leave the way of a request to us.  A program that asks for RWF_NOWAIT
 * wants the kernel's answer; so does one with flags we do not know.
 */
#define SYNC_FLAGS (RWF_DSYNC | RWF_SYNC)
#define ROUTABLE_FLAGS (RWF_HIPRI | SYNC_FLAGS | RWF_APPEND)
static void remember(struct ta_batch *batch, int number, enum ta_file_class file_class,
		     bool is_direct)
{
	uint64_t value = ta_class_key(number, batch->tick_ns) | (is_direct ? TA_CLASS_DIRECT : 0) |
			 (unsigned)file_class;

	/* relaxed: the word is the whole message. */
	atomic_store_explicit(ta_class_entry(batch, number), value, memory_order_relaxed);
}

TA_COLD enum ta_file_class ta_class_learn(struct ta_batch *batch, int number, bool *is_direct)
{
	enum ta_file_class file_class = ta_file_classify(number, is_direct);

	remember(batch, number, file_class, *is_direct);
	return file_class;
}

/*
 * Of a file that is TA_FILE_BUFFERED at first sight: what it is indeed.  Its file system is asked,
 * which may have a server, so no lock is held.
 */
enum ta_file_class ta_class_settle(struct ta_batch *batch, int number, bool says_would_block)
{
	enum ta_file_class file_class = ta_file_settle(number, says_would_block);

	remember(batch, number, file_class, false);
	return file_class;
}

/* It is over before anybody could ask for it, and in flight for nobody. */
static bool is_brief(const struct iocb *iocb)
{
	long bytes = ta_iocb_is_read(iocb) ? 0 : ta_bytes_asked(iocb);

	return bytes >= 0 && bytes <= TA_BRIEF_BYTES;
}

static void go_at_once(struct ta_batch *batch, struct ta_slot *slot)
{
	slot->flags |= TA_SLOT_AT_ONCE;
	if (!is_brief(&slot->iocb))
		return;
	slot->flags |= TA_SLOT_BRIEF;
	batch->brief++;
}

static bool route_read(struct ta_batch *batch, struct ta_slot *slot)
{
	enum ta_file_class file_class = (enum ta_file_class)slot->file_class;

	if (ta_route_tries_reads(batch->process, file_class)) {
		go_at_once(batch, slot);
		return true;
	}
	return file_class == TA_FILE_BUFFERED || file_class == TA_FILE_CACHED ||
	       file_class == TA_FILE_SYNCHRONOUS || file_class == TA_FILE_SLOW;
}

static bool route_write(struct ta_batch *batch, struct ta_slot *slot)
{
	switch (slot->file_class) {
	case TA_FILE_BUFFERED:
	case TA_FILE_CACHED:
		if (slot->iocb.aio_rw_flags & SYNC_FLAGS)
			return true;
		go_at_once(batch, slot);
		return true;
	case TA_FILE_MEMORY:
		go_at_once(batch, slot);
		return true;
	default:
		return slot->file_class == TA_FILE_SYNCHRONOUS;
	}
}

/* True: not the kernel's alone. */
static bool is_ours(struct ta_batch *batch, struct ta_slot *slot)
{
	bool is_stream = slot->file_class == TA_FILE_STREAM;
	/* Whatever a request of a stream asks for, it must stand in line. */
	unsigned routable = is_stream ? TA_KNOWN_FLAGS : ROUTABLE_FLAGS;

	if (slot->iocb.aio_rw_flags & ~routable)
		return false;
	if (is_stream)
		return true;
	return ta_iocb_is_read(&slot->iocb) ? route_read(batch, slot) : route_write(batch, slot);
}

/* A read or write, of what slot->file_class says. */
void ta_route(struct ta_batch *batch, struct ta_slot *slot)
{
	/* What the kernel would do must not overtake what stands in a line of its file. */
	if (!is_ours(batch, slot) &&
	    (slot->state != TA_SLOT_KERNEL || !ta_line_is_busy(slot->iocb.aio_fildes)))
		return;
	slot->state = TA_SLOT_SUBMITTING;
	batch->mixed = true;
}
