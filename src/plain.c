/* SPDX-License-Identifier: MIT */
/*
 * Plain requests: reads and writes of one buffer, without flags, priority and eventfd, that the
 * calling thread can carry out, by what their descriptor was a moment ago.  Most requests of most
 * programs are such, so they have a short way of their own, from gathering to their events.  What
 * does not fit, or is not done by its first system call, goes on the general way (request.c).
 *
 * The budget of an array of n cached reads that follow one another in their file, from io_submit to
 * the return of io_getevents, in instructions of the library on x86-64: 700 and 165 for each (of
 * reads here and there 220).  Beside these three locks, and one system call for each stretch of the
 * file.  tests/budget holds it to that.
 */
#include "submit.h"

#include "work.h"

#define NOT_PLAIN (-1)

/* Which plain requests of the descriptor there are. */
struct manner {
	int number;
	uint8_t file_class;
	bool reads;
	bool writes;
};

static inline struct manner manner_of(struct ta_batch *batch, int number)
{
	bool unused_is_direct;
	enum ta_file_class file_class = ta_class_of(batch, number, &unused_is_direct);

	return (struct manner){
		.number = number,
		.file_class = (uint8_t)file_class,
		.reads = ta_route_tries_reads(batch->process, file_class),
		.writes = file_class == TA_FILE_MEMORY || file_class == TA_FILE_CACHED,
	};
}

/* Is the copy of an iocb plain? */
static inline bool is_plain(const struct iocb *iocb, const struct manner *manner)
{
	uint64_t bytes = iocb->u.c.nbytes;
	bool reads = iocb->aio_lio_opcode == IO_CMD_PREAD;

	if (!reads && iocb->aio_lio_opcode != IO_CMD_PWRITE)
		return false;
	if (iocb->aio_rw_flags || iocb->u.c.flags || ta_iocb_is_malformed(iocb))
		return false;
	if (!(reads ? manner->reads : manner->writes))
		return false;
	return bytes - 1 < TA_BRIEF_BYTES && (uint64_t)iocb->u.c.offset <= INT64_MAX / 2;
}

/* The plain elements at the beginning of the array get their slots.  The lock is held. */
static inline __attribute__((always_inline)) void gather(struct ta_batch *batch, long nr)
{
	struct ta_context *context = batch->context;
	struct manner manner = { .number = -1 };
	long i;

	if (ta_unlikely(!ta_lines_are_empty()))
		return;
	if (!ta_memory_probe(batch->iocbs, (size_t)nr * sizeof(*batch->iocbs), false))
		return;
	for (i = 0; i < nr; i++) {
		struct ta_slot *slot;
		struct iocb *iocb;
		int number;

		memcpy(&iocb, (const char *)batch->iocbs + (size_t)i * sizeof(iocb), sizeof(iocb));
		if (!ta_memory_probe(iocb, sizeof(*iocb), true))
			break;
		memcpy(&number, (const char *)iocb + offsetof(struct iocb, aio_fildes),
		       sizeof(number));
		/* By system calls at times: a handler that jumps out of them finds no slot. */
		if (number != manner.number)
			manner = manner_of(batch, number);
		slot = ta_slot_take(context);
		if (!slot)
			break;
		memcpy(&slot->iocb, iocb, sizeof(*iocb));
		if (slot->iocb.aio_fildes != number || !is_plain(&slot->iocb, &manner)) {
			ta_slot_free(context, slot);
			break;
		}
		slot->object = iocb;
		slot->epoch = NULL;
		slot->sequence = ++context->sequence;
		slot->state = TA_SLOT_SUBMITTING;
		slot->flags = TA_SLOT_AT_ONCE | TA_SLOT_BRIEF;
		slot->file_class = manner.file_class;
		if (ta_unlikely(context->index != NULL))
			ta_index_add(context, slot);
		ta_store_key(iocb, 0);
		batch->slots[i] = slot;
	}
	batch->count = batch->brief = i;
}

/* ---- one system call ------------------------------------------------------------------------- */

#define STRETCH_MAX 16

/* How many elements from the first on follow one another in their file. */
static inline long stretch(const struct ta_batch *batch, struct iovec *vector, int64_t *bytes)
{
	const struct iocb *first = &batch->slots[batch->accepted]->iocb;
	long count = 0, left = batch->count - batch->accepted;

	*bytes = 0;
	do {
		const struct iocb *iocb = &batch->slots[batch->accepted + count]->iocb;

		if (count > 0 && (iocb->u.c.offset != first->u.c.offset + *bytes ||
				  iocb->aio_fildes != first->aio_fildes ||
				  iocb->aio_lio_opcode != first->aio_lio_opcode))
			break;
		vector[count++] = (struct iovec){ iocb->u.c.buf, iocb->u.c.nbytes };
		*bytes += (int64_t)iocb->u.c.nbytes;
	} while (count < left && count < STRETCH_MAX);
	return count;
}

/*
 * For preadv2 and pwritev2, such that a file which the number has become just now refuses what it
 * would not do for kernel AIO; NOT_PLAIN where no flag does that, and it is such a file.
 */
static inline int flags_of(struct ta_batch *batch, const struct ta_slot *slot)
{
	if (slot->file_class == TA_FILE_MEMORY)
		return RWF_DSYNC;
	if (slot->iocb.aio_lio_opcode == IO_CMD_PREAD)
		return RWF_NOWAIT;
	if (ta_likely(!ta_lacks_nosignal(batch)))
		return RWF_NOSIGNAL;
	return ta_at_once_look_again(batch, slot->iocb.aio_fildes) == TA_VERDICT_DONE ? 0
										      : NOT_PLAIN;
}

/* False: the first that is not accepted goes on the general way. */
static inline __attribute__((always_inline)) bool carry_stretch(struct ta_batch *batch)
{
	struct ta_slot *slot = batch->slots[batch->accepted];
	bool is_write = slot->iocb.aio_lio_opcode == IO_CMD_PWRITE;
	struct iovec vector[STRETCH_MAX];
	int flags = flags_of(batch, slot);
	int64_t bytes;
	long count, done, i;

	if (ta_unlikely(flags == NOT_PLAIN))
		return false;
	count = stretch(batch, vector, &bytes);
	done = ta_file_transfer(is_write, slot->iocb.aio_fildes, vector, (unsigned)count,
				slot->iocb.u.c.offset, flags);
	/* This thread may have been in there for long: the slots may be another context's. */
	if (ta_unlikely(!ta_context_is_of(batch->context, batch->generation)))
		return false;
	if (ta_unlikely(done != bytes))
		return ta_at_once_accept_part(batch, count, done);
	for (i = 0; i < count; i++)
		batch->slots[batch->accepted++]->result = (long)vector[i].iov_len;
	/* A long copy's event waits for no other. */
	return bytes <= TA_MOMENT_BYTES || ta_at_once_finish(batch) == 0;
}

/*
 * The elements at the beginning of the array, as long as they are plain: batch->accepted of them
 * are accepted.  False, and the lock is still held: the first is none.  Otherwise it is let go.
 */
bool ta_submit_plain(struct ta_batch *batch, long nr)
{
	struct ta_context *context = batch->context;

	gather(batch, nr);
	if (batch->count == 0)
		return false;
	context->may_post = true;
	ta_at_once_enter(batch);
	batch->is_cut = true;
	ta_submit_unlock(context);
	while (carry_stretch(batch) && batch->accepted < batch->count)
		;
	if (ta_unlikely(batch->accepted < batch->count || ta_at_once_finish(batch) < 0))
		(void)ta_submit_rest(batch);
	return true;
}
