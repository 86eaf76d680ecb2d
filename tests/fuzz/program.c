/* SPDX-License-Identifier: MIT */
/*
 * Bytes to programs of AIO calls, and programs to text.
 *
 * A program is a byte of settings and records of RECORD_BYTES. A record is a request, which joins
 * the batch of the next submit record, or one of the other operations. Each field is a byte of
 * its own at a fixed place, and zero is the plainest value, so that a shrinker can leave out
 * records and write zeros without changing what the rest means. Any bytes make a program.
 *
 * What makes an outcome depend on time is taken out here. Within a period (see fuzz.h), each page
 * of a file is written by one request and then read by none, each non-blocking stream is either
 * read, or written, or polled, and blocking ones are used within what they hold. A request that
 * would break this goes to /dev/null or /dev/zero instead.
 */
#include "fuzz.h"
#include <linux/fs.h>

/* A request's fields, by their place in the record. */
enum field {
	FIELD_KIND,
	FIELD_OPCODE,
	FIELD_TARGET,
	FIELD_BUFFER,
	FIELD_SIZE,
	FIELD_OFFSET,
	FIELD_RW_FLAGS,
	FIELD_FLAGS,
	FIELD_PLACE,
	FIELD_ODDITY,
	FIELD_VECTOR,
	FIELD_POLL,
	FIELD_PRIORITY,
	FIELD_ALIGNMENT,
};

/* RWF_NOAPPEND and RWF_DONTCACHE are younger than some headers. */
#define NO_APPEND 0x20u

enum use { USE_READ = 1, USE_WRITE = 2, USE_POLL = 4 };

struct range {
	enum inode inode;
	int64_t start, end;
	bool write, append;
};

struct decoder {
	struct program *program;
	struct operation *batch; /* the submit under way, or null */
	const uint8_t *record;
	uint8_t number;
	/* Of this period. */
	struct range ranges[RECORDS_MAX];
	unsigned range_count;
	uint8_t used[CHANNELS];
	bool uses_file;
	/* Of the whole program. */
	size_t read_left[CHANNELS];
	unsigned pages_left[CHANNELS];
	bool reads_semaphore;
};

static const size_t sizes[] = { 512, 0, 1, 100, 511, 4096, 4608, 8192, 12288, 3000, 16384, 7 };

#define PICK(table, choice) ((table)[(choice) % (sizeof(table) / sizeof((table)[0]))])

/* ---- what a request may touch ---------------------------------------------------------------- */

static bool is_vectored(const struct iocb *iocb)
{
	return iocb->aio_lio_opcode == IO_CMD_PREADV || iocb->aio_lio_opcode == IO_CMD_PWRITEV;
}

static bool is_write(const struct iocb *iocb)
{
	return iocb->aio_lio_opcode == IO_CMD_PWRITE || iocb->aio_lio_opcode == IO_CMD_PWRITEV;
}

static bool is_transfer(const struct iocb *iocb)
{
	return is_write(iocb) || iocb->aio_lio_opcode == IO_CMD_PREAD ||
	       iocb->aio_lio_opcode == IO_CMD_PREADV;
}

static bool claim_range(struct decoder *decoder, const struct iocb *iocb,
			const struct descriptor *target, size_t bytes)
{
	struct range range = { .inode = target->inode, .write = is_write(iocb) };
	int64_t offset = iocb->u.c.offset;
	bool appends = range.write && ((target->append && !(iocb->aio_rw_flags & NO_APPEND)) ||
				       iocb->aio_rw_flags & RWF_APPEND);

	decoder->program->files_touched |= 1u << target->inode;
	if (offset < 0)
		return true;
	if (__builtin_add_overflow(offset, (int64_t)bytes, &range.end))
		range.end = INT64_MAX;
	if (appends || range.end > FILE_BYTES) {
		/* What lies beyond the end depends on everything that may move the end. */
		range.end = INT64_MAX;
		if (appends || offset > FILE_BYTES)
			offset = FILE_BYTES;
	}
	range.append = appends && !target->direct;
	range.start = offset & ~(int64_t)(PAGE - 1);
	if (range.end != INT64_MAX)
		range.end = (range.end + PAGE - 1) & ~(int64_t)(PAGE - 1);
	for (unsigned i = 0; i < decoder->range_count; i++) {
		const struct range *other = &decoder->ranges[i];

		if (other->inode != range.inode || (!range.write && !other->write) ||
		    (range.append && other->append))
			continue;
		if (range.start < other->end && other->start < range.end)
			return false;
	}
	decoder->ranges[decoder->range_count++] = range;
	return true;
}

static bool claim_channel(struct decoder *decoder, enum channel channel, enum use use, size_t bytes)
{
	if (channel == NO_CHANNEL)
		return true;
	if (channel < CHANNELS_NONBLOCKING) {
		if (decoder->used[channel] & (uint8_t)~use)
			return false;
		decoder->used[channel] |= (uint8_t)use;
		decoder->program->channels_touched |= 1u << channel;
		return true;
	}
	/* A write wakes POLLs even with what they do not find. */
	if (use == USE_POLL ? decoder->used[channel] & (USE_READ | USE_WRITE)
			    : decoder->used[channel] & USE_POLL)
		return false;
	decoder->used[channel] |= (uint8_t)use;
	if (use == USE_READ) {
		if (bytes >= decoder->read_left[channel])
			return false;
		decoder->read_left[channel] -= bytes;
	} else if (use == USE_WRITE) {
		unsigned pages = (unsigned)(bytes / PAGE) + 2;

		if (pages > decoder->pages_left[channel])
			return false;
		decoder->pages_left[channel] -= pages;
	}
	decoder->program->channels_touched |= 1u << channel;
	return true;
}

/* Takes what the request needs, so that later ones leave it alone.  False: it must go elsewhere. */
static bool claim(struct decoder *decoder, const struct iocb *iocb, enum target number,
		  size_t bytes)
{
	const struct descriptor *target = &world.descriptors[number];

	if (iocb->aio_lio_opcode == IO_CMD_POLL)
		return claim_channel(decoder, target->read_channel, USE_POLL, 0) &&
		       (target->write_channel == target->read_channel ||
			claim_channel(decoder, target->write_channel, USE_POLL, 0));
	if (!is_transfer(iocb))
		return true;
	if (target->inode != NO_INODE)
		return claim_range(decoder, iocb, target, bytes);
	if (is_write(iocb))
		return claim_channel(decoder, target->write_channel, USE_WRITE, bytes);
	return claim_channel(decoder, target->read_channel, USE_READ, bytes);
}

/* ---- buffers --------------------------------------------------------------------------------- */

/* Every request has memory of its own. */
static char *take_buffer(struct decoder *decoder, size_t bytes)
{
	struct program *program = decoder->program;
	size_t start = (program->buffer_bytes + PAGE - 1) & ~(size_t)(PAGE - 1);
	static const size_t misalignments[] = { 0, 0, 0, 0, 0, 0, 1, 512 };

	start += PICK(misalignments, decoder->record[FIELD_ALIGNMENT]);
	program->buffer_bytes = start + bytes;
	return world.buffers + start;
}

static bool has_edge(const struct decoder *decoder)
{
	return decoder->program->edges_used < EDGES;
}

/* The first `good` bytes are there, and then nothing. */
static char *take_edge(struct decoder *decoder, size_t good)
{
	return world.edges[decoder->program->edges_used++] + EDGE_BYTES - good;
}

static char *bad_buffer(uint8_t choice)
{
	switch (choice % 5) {
	case 0:
		return NULL;
	case 1:
		return UNMAPPED_ADDRESS;
	case 2:
		return world.no_access;
	case 3:
		return KERNEL_ADDRESS;
	default:
		return world.read_only;
	}
}

/* The address for one buffer of *bytes, which may be changed to a size that makes no sense. */
static char *choose_buffer(struct decoder *decoder, uint8_t choice, size_t *bytes)
{
	static const size_t senseless[] = { 0x7ffff000, LONG_MAX, SIZE_MAX, (size_t)LONG_MIN,
					    1ul << 31 };

	if (choice < 200 || !has_edge(decoder))
		return take_buffer(decoder, *bytes);
	if (choice < 220)
		return bad_buffer(choice);
	if (choice < 240)
		return take_edge(decoder, (size_t)(choice - 220) * 300);
	*bytes = PICK(senseless, choice);
	return take_edge(decoder, choice & 1 ? PAGE : EDGE_BYTES);
}

/* Returns how many bytes the request can move at most. */
static size_t choose_plain(struct decoder *decoder, struct iocb *iocb)
{
	size_t bytes = PICK(sizes, decoder->record[FIELD_SIZE]);

	iocb->u.c.buf = choose_buffer(decoder, decoder->record[FIELD_BUFFER], &bytes);
	iocb->u.c.nbytes = bytes;
	return bytes > EDGE_BYTES && decoder->record[FIELD_BUFFER] >= 240 ? EDGE_BYTES : bytes;
}

/* As many elements as asked for, whatever is said about their number. */
static size_t fill_vector(struct decoder *decoder, struct iovec *vector, unsigned count)
{
	const uint8_t *record = decoder->record;
	size_t total = 0;

	for (unsigned i = 0; i < count; i++) {
		size_t bytes = PICK(sizes, record[FIELD_SIZE] + 3 * i);
		/* Mostly one element alone may be bad. */
		bool bad = record[FIELD_BUFFER] % count == i || (record[FIELD_VECTOR] & 96) == 96;
		uint8_t choice = bad ? record[FIELD_BUFFER] : 0;

		vector[i].iov_base = choose_buffer(decoder, choice, &bytes);
		vector[i].iov_len = bytes;
		total += bytes > BUFFERS_BYTES ? EDGE_BYTES : bytes;
	}
	return total;
}

static size_t choose_vector(struct decoder *decoder, struct iocb *iocb)
{
	uint8_t choice = decoder->record[FIELD_VECTOR];
	unsigned count = choice % VECTOR_MAX + 1;
	struct iovec *vector = world.vectors + decoder->program->vectors_used;
	size_t total;

	decoder->program->vectors_used += VECTOR_MAX;
	total = fill_vector(decoder, vector, count);
	iocb->u.c.buf = vector;
	iocb->u.c.nbytes = count;
	if (choice < 200)
		return total;
	switch (choice % 8) {
	case 0:
		iocb->u.c.nbytes = 0;
		break;
	case 1:
		iocb->u.c.nbytes = 0;
		iocb->u.c.buf = NULL;
		break;
	case 2:
		iocb->u.c.buf = world.vectors_empty;
		iocb->u.c.nbytes = choice & 8 ? 1025 : 1024;
		break;
	case 3:
		iocb->u.c.nbytes = (unsigned long)-1;
		break;
	case 4:
		/* The kernel looks at the low half alone. */
#if __SIZEOF_LONG__ == 8
		iocb->u.c.nbytes = (1ul << 32) + count;
#else
		iocb->u.c.nbytes = count;
		iocb->u.c.__pad2 = 1;
#endif
		break;
	case 5:
		iocb->u.c.buf = bad_buffer((uint8_t)(choice >> 3) % 4);
		break;
	case 6:
		/* The array ends before its number does. */
		iocb->u.c.buf = world.vectors_end - sizeof(struct iovec);
		iocb->u.c.nbytes = count + 1;
		break;
	default:
		iocb->u.c.nbytes = 1ul << 31;
		break;
	}
	return total;
}

/* ---- requests -------------------------------------------------------------------------------- */

static int64_t choose_offset(uint8_t choice)
{
	static const int64_t senseless[] = { -1, INT64_MIN, INT64_MAX, INT64_MAX - 100 };

	if (choice < 160)
		return (choice % 20) * (int64_t)PAGE / 2;
	if (choice < 240)
		return (choice - 160) * 500;
	if (choice < 244)
		return FILE_BYTES + (choice - 240) - 2;
	return PICK(senseless, choice);
}

static void choose_flags(struct decoder *decoder, struct iocb *iocb)
{
	static const unsigned rw_flags[] = { RWF_HIPRI,	 RWF_DSYNC, RWF_SYNC, RWF_NOWAIT,
					     RWF_APPEND, 0x20,	    0x30,     0x40,
					     0x80,	 0x100,	    0x200,    0x80000000,
					     0x12 };
	static const enum target signals[] = { COUNTER_A, COUNTER_A, COUNTER_B,
					       CLOSED,	  DEV_NULL,  MINUS_ONE };
	static const short priorities[] = { 0, 4, 1 << 13, 2 << 13 | 4, 3 << 13, -32768, -1, 7 };
	const uint8_t *record = decoder->record;

	if (record[FIELD_RW_FLAGS] >= 230)
		iocb->aio_rw_flags = PICK(rw_flags, record[FIELD_RW_FLAGS]);
	iocb->aio_rw_flags = intended_rw_flags(iocb->aio_fildes, iocb->aio_rw_flags);
	/* What a write without waiting meets on a disk depends on the state of its cache. */
	if (decoder->program->disk && iocb->aio_rw_flags & (RWF_NOWAIT | DONT_CACHE))
		iocb->aio_rw_flags = 0;
	if (record[FIELD_FLAGS] >= 160) {
		iocb->u.c.flags = FLAG_RESFD;
		iocb->u.c.resfd =
			(unsigned)world.descriptors[PICK(signals, record[FIELD_FLAGS])].fd;
	}
	if (record[FIELD_PRIORITY] >= 220) {
		iocb->u.c.flags |= FLAG_IOPRIO;
		iocb->aio_reqprio = PICK(priorities, record[FIELD_PRIORITY]);
	}
	if (record[FIELD_PRIORITY] == 200)
		iocb->u.c.flags |= 0xf0;
	if (record[FIELD_PRIORITY] == 201)
		iocb->aio_reqprio = 0x7fff;
}

/* Breaks one thing that only this test would break. */
static void choose_oddity(struct decoder *decoder, struct element *element)
{
	struct iocb *iocb = &element->iocb;

	switch (decoder->record[FIELD_ODDITY]) {
	case 240 ... 243:
		iocb->u.c.__pad3 = 1;
		break;
	case 244:
		iocb->u.c.nbytes = (unsigned long)-5;
#if __SIZEOF_LONG__ == 4
		/* Negative for the kernel, which would take all behind the buffer otherwise. */
		iocb->u.c.__pad2 = ~0u;
#endif
		break;
	case 245 ... 247:
		if (!is_transfer(iocb))
			iocb->u.c.nbytes = 8;
		break;
	case 248 ... 249:
		if (!is_transfer(iocb))
			iocb->u.c.offset = 8;
		break;
	case 250:
		if (!is_transfer(iocb))
			iocb->aio_rw_flags = 1;
		break;
	case 251 ... 255:
		iocb->key = 0xabcd;
		break;
	default:
		break;
	}
}

/* The opcode that a target can do, in place of one that it cannot. */
static short fit_opcode(short opcode, enum target target)
{
	const struct descriptor *descriptor = &world.descriptors[target];
	bool reads = descriptor->read_channel != NO_CHANNEL;
	bool writes = descriptor->write_channel != NO_CHANNEL;

	if (descriptor->inode != NO_INODE || reads == writes)
		return opcode;
	switch (opcode) {
	case IO_CMD_PREAD:
	case IO_CMD_PWRITE:
	case IO_CMD_FSYNC:
		return reads ? IO_CMD_PREAD : IO_CMD_PWRITE;
	case IO_CMD_PREADV:
	case IO_CMD_PWRITEV:
	case IO_CMD_FDSYNC:
		return reads ? IO_CMD_PREADV : IO_CMD_PWRITEV;
	default:
		return opcode;
	}
}

static short choose_opcode(uint8_t choice)
{
	static const short common[] = { IO_CMD_PREAD,  IO_CMD_PWRITE,  IO_CMD_PREAD, IO_CMD_PWRITE,
					IO_CMD_PREADV, IO_CMD_PWRITEV, IO_CMD_POLL,  IO_CMD_FSYNC,
					IO_CMD_FDSYNC, IO_CMD_POLL };
	static const short rare[] = { IO_CMD_NOOP, IO_CMD_NOOP, 4, 9, -1, 0x100 };

	return choice < 246 ? PICK(common, choice) : PICK(rare, choice);
}

static void choose_poll(struct decoder *decoder, struct iocb *iocb)
{
	static const int masks[] = { POLLIN,  POLLOUT, POLLIN | POLLOUT, POLLIN, POLLOUT, 0,
				     POLLPRI, POLLHUP, POLLIN,		 0x2041, 0x10000, -1 };

	iocb->u.poll.events = PICK(masks, decoder->record[FIELD_POLL]);
}

/* Half of the requests go where most can be done. */
static enum target choose_target(struct decoder *decoder)
{
	static const enum target useful[] = {
		TMPFS,	      TMPFS_DIRECT, TMPFS_APPEND,	MEMFD,
		TMPFS,	      PIPE_READ,    BLOCKING_PIPE_READ, SOCKET_A,
		TMPFS,	      PIPE_WRITE,   BLOCKING_SOCKET_A,	EVENTFD,
		DISK_DIRECT,  DEV_ZERO,	    BLOCKING_SOCKET_B,	BLOCKING_PIPE_WRITE,
		TMPFS_DIRECT, SOCKET_B,	    TMPFS_READ_ONLY,	TMPFS_WRITE_ONLY,
	};
	uint8_t choice = decoder->record[FIELD_TARGET];
	enum target target = choice < 128 ? PICK(useful, choice) : choice % TARGETS;

	/* When a completion signals them is known only roughly. */
	if (target == COUNTER_A || target == COUNTER_B)
		target = EVENTFD;
	/* A disk is slow, and few programs have one. */
	if (decoder->program->disk) {
		if (target < DISK)
			target = target - TMPFS + DISK;
	} else if (target >= DISK && target < MEMFD) {
		target = target - DISK + TMPFS;
	}
	return target;
}

static void choose_place(struct decoder *decoder, struct element *element)
{
	uint8_t choice = decoder->record[FIELD_PLACE];
	struct operation *batch = decoder->batch;

	element->address = &world.iocbs[decoder->number];
	element->stored_bytes = sizeof(struct iocb);
	element->checks_key = true;
	if (choice < 160 || element->noop)
		return;
	if (choice < 200 && decoder->number > 0) {
		/* An address that has been used, unless it is in this batch. */
		struct iocb *address = &world.iocbs[choice % decoder->number];

		for (unsigned i = 0; i < batch->submit.count; i++)
			if (batch->submit.elements[i].address == address)
				return;
		element->address = address;
		element->iocb.key = 0;
		return;
	}
	element->checks_key = false;
	if (choice < 232) {
		element->address = (struct iocb *)(world.iocbs_misaligned + 64 * decoder->number);
	} else if (choice < 238) {
		element->address = &world.iocbs_read_only[decoder->number];
	} else if (choice < 242) {
		element->address = (struct iocb *)world.iocb_at_edge;
		element->stored_bytes = 32;
	} else if (choice < 252) {
		element->address = (struct iocb *)bad_buffer(choice % 4);
		element->stored_bytes = 0;
	}
}

/* A target that takes anything, in place of one that another request needs for itself. */
static void divert(struct element *element)
{
	struct iocb *iocb = &element->iocb;

	element->target =
		is_write(iocb) || iocb->aio_lio_opcode == IO_CMD_POLL ? DEV_NULL : DEV_ZERO;
	iocb->aio_fildes = world.descriptors[element->target].fd;
}

/* A read of /dev/zero that must not wait stops short when its thread is to make way for another. */
static void make_patient(struct element *element)
{
	if (element->target == DEV_ZERO)
		element->iocb.aio_rw_flags &= ~(unsigned)RWF_NOWAIT;
}

static bool blocks(enum target target)
{
	enum channel channel = world.descriptors[target].read_channel;
	enum channel other = world.descriptors[target].write_channel;

	return (channel != NO_CHANNEL && channel >= CHANNELS_NONBLOCKING) ||
	       (other != NO_CHANNEL && other >= CHANNELS_NONBLOCKING);
}

static void decode_element(struct decoder *decoder, struct element *element)
{
	struct iocb *iocb = &element->iocb;
	size_t bytes = 0;

	iocb->data = (void *)(0x1000ul + decoder->number);
	element->record = decoder->number;
	element->target = (uint8_t)choose_target(decoder);
	iocb->aio_lio_opcode = choose_opcode(decoder->record[FIELD_OPCODE]);
	if (decoder->record[FIELD_OPCODE] < 200)
		iocb->aio_lio_opcode = fit_opcode(iocb->aio_lio_opcode, element->target);
	element->noop = iocb->aio_lio_opcode == IO_CMD_NOOP;
	iocb->aio_fildes = world.descriptors[element->target].fd;
	choose_flags(decoder, iocb);
	if (is_transfer(iocb)) {
		iocb->u.c.offset = choose_offset(decoder->record[FIELD_OFFSET]);
		/* A socket that is given an offset does nothing. */
		if (world.descriptors[element->target].inode == NO_INODE &&
		    decoder->record[FIELD_OFFSET] < 128)
			iocb->u.c.offset = 0;
		bytes = is_vectored(iocb) ? choose_vector(decoder, iocb)
					  : choose_plain(decoder, iocb);
	} else if (iocb->aio_lio_opcode == IO_CMD_POLL) {
		iocb->aio_rw_flags = 0;
		choose_poll(decoder, iocb);
		iocb->u.poll.events = intended_poll_events(element->target, iocb->u.poll.events);
	} else {
		iocb->aio_rw_flags = 0;
	}
	choose_oddity(decoder, element);
	choose_place(decoder, element);
	/* What a stream that waits holds is counted in sizes that make sense. */
	if ((blocks(element->target) && bytes >= EDGE_BYTES) ||
	    !claim(decoder, iocb, element->target, bytes))
		divert(element);
	make_patient(element);
}

/* ---- operations ------------------------------------------------------------------------------ */

static struct operation *add_operation(struct decoder *decoder, enum operation_kind kind)
{
	struct operation *operation = &decoder->program->operations[decoder->program->count++];

	memset(operation, 0, sizeof(*operation));
	operation->kind = kind;
	operation->record = decoder->number;
	return operation;
}

static enum handle choose_handle(uint8_t choice)
{
	if (choice < 180)
		return HANDLE_A;
	if (choice < 244)
		return HANDLE_B;
	return HANDLE_NULL + choice % 4;
}

static void place_pointers(struct operation *batch, struct iocb **array)
{
	batch->submit.array = array;
}

/* The batch ends: where its pointers lie, and how many of them the call speaks of. */
static void end_batch(struct decoder *decoder, const uint8_t *record)
{
	static const long numbers[] = { 0, -1, LONG_MIN, LONG_MAX, 1000, -2 };
	struct operation *batch = decoder->batch;

	decoder->batch = NULL;
	if (!batch)
		return;
	batch->submit.nr = (long)batch->submit.count;
	place_pointers(batch, world.pointers);
	if (!record)
		return;
	batch->handle = choose_handle(record[1]);
	if (record[2] >= 240)
		batch->submit.nr = PICK(numbers, record[2]);
	else if (record[2] >= 225 && batch->submit.count > 0)
		batch->submit.nr = (long)(record[2] % batch->submit.count);
	if (record[3] >= 250) {
		place_pointers(batch, (struct iocb **)bad_buffer(record[3] % 4));
		batch->submit.array_is_bad = true;
	} else if (record[3] >= 220) {
		place_pointers(batch, (struct iocb **)world.pointers_end - batch->submit.count);
		batch->submit.array_at_edge = true;
		if (record[3] >= 240)
			batch->submit.nr = (long)batch->submit.count + 1;
	}
}

static void decode_request(struct decoder *decoder)
{
	struct operation *batch;

	if (decoder->batch && decoder->batch->submit.count == BATCH_MAX)
		end_batch(decoder, NULL);
	if (!decoder->batch)
		decoder->batch = add_operation(decoder, OP_SUBMIT);
	batch = decoder->batch;
	if (decoder->record[FIELD_PLACE] >= 252 && batch->submit.count > 0) {
		/* The same iocb twice.  Streams and files are claimed once more. */
		struct element *element = &batch->submit.elements[batch->submit.count];

		*element = element[-1];
		element->repeated = true;
		if (!is_transfer(&element->iocb) ||
		    (world.descriptors[element->target].inode == NO_INODE &&
		     !blocks(element->target)))
			batch->submit.count++;
		return;
	}
	decode_element(decoder, &batch->submit.elements[batch->submit.count]);
	batch->submit.count++;
}

static void decode_submit(struct decoder *decoder)
{
	/* One of nothing is a call too. */
	if (!decoder->batch)
		decoder->batch = add_operation(decoder, OP_SUBMIT);
	end_batch(decoder, decoder->record);
}

static void decode_wait(struct decoder *decoder)
{
	static const long numbers[] = { -1, LONG_MIN, LONG_MAX, 100000 };
	const uint8_t *record = decoder->record;
	struct operation *operation = add_operation(decoder, OP_WAIT);

	operation->handle = choose_handle(record[1]);
	operation->wait.min_nr = record[2] >= 240 ? PICK(numbers, record[2]) : record[2] % 6;
	operation->wait.nr = record[3] >= 245 ? PICK(numbers, record[3]) : record[3] % 12;
	/* More than there is room for cannot be asked of a good array. */
	if (operation->wait.nr > 64)
		operation->wait.nr = -operation->wait.nr;
	operation->wait.timeout = record[4] < 200 ? record[4] % 4 : record[4] % TIMEOUTS;
	operation->wait.events = record[5] < 200 ? EVENTS_GOOD : record[5] % EVENTS_ARRAYS;
	operation->wait.pgetevents = record[6] >= 170;
	operation->wait.mask = record[7] < 200 ? record[7] & 1 : 2;
}

static void decode_cancel(struct decoder *decoder)
{
	const uint8_t *record = decoder->record;
	struct operation *operation = add_operation(decoder, OP_CANCEL);

	operation->handle = choose_handle(record[1]);
	operation->cancel.address = record[2] < 220 ? &world.iocbs[record[2] % RECORDS_MAX]
						    : (struct iocb *)bad_buffer(record[2] % 4);
	operation->cancel.result = (struct io_event *)(record[3] < 128 ? world.events_end - 64
								       : bad_buffer(record[3]));
}

static void decode_transfer(struct decoder *decoder, enum operation_kind kind)
{
	struct operation *operation = add_operation(decoder, kind);

	operation->transfer.channel = decoder->record[1] % CHANNELS_NONBLOCKING;
	operation->transfer.bytes = PICK(sizes, decoder->record[2]);
	if (operation->transfer.channel == CHANNEL_EVENTFD)
		operation->transfer.bytes = 8;
	decoder->program->channels_touched |= 1u << operation->transfer.channel;
}

static void decode_setup(struct decoder *decoder)
{
	static const int numbers[] = { 0, -1, -2, INT_MAX, 4194305, INT_MIN + 1 };
	struct operation *operation = add_operation(decoder, OP_SETUP);

	operation->setup.pointer = decoder->record[1] % 5;
	operation->setup.nr = PICK(numbers, decoder->record[2]);
	/* A pointer that is refused is refused with any number. */
	if (operation->setup.pointer != 0 && operation->setup.pointer != 2)
		operation->setup.nr = decoder->record[2] & 1 ? operation->setup.nr : 1;
}

static void decode_destroy(struct decoder *decoder)
{
	struct operation *operation;

	/* The kernel takes 31 ms for a context, so that few programs make one. */
	if (decoder->record[1] == 255 && decoder->record[2] >= 240) {
		add_operation(decoder, OP_LIFE);
		return;
	}
	operation = add_operation(decoder, OP_DESTROY);
	operation->handle = HANDLE_NULL + decoder->record[1] % 4;
}

static void new_period(struct decoder *decoder)
{
	decoder->range_count = 0;
	/* A write that fails for its buffer may wake a POLL of its pipe, and may not. */
	for (unsigned i = 0; i < CHANNELS; i++)
		decoder->used[i] &= (uint8_t)USE_POLL;
}

static void settle(struct decoder *decoder)
{
	add_operation(decoder, OP_SETTLE);
	new_period(decoder);
}

static void decode_record(struct decoder *decoder)
{
	unsigned kind = decoder->record[FIELD_KIND] % 32;

	if (kind < 16) {
		decode_request(decoder);
		return;
	}
	if (kind < 19) {
		decode_submit(decoder);
		return;
	}
	end_batch(decoder, NULL);
	if (kind < 23) {
		decode_wait(decoder);
	} else if (kind < 25) {
		decode_cancel(decoder);
	} else if (kind < 26) {
		settle(decoder);
	} else if (kind < 28) {
		new_period(decoder);
		decode_transfer(decoder, OP_WRITE_CHANNEL);
	} else if (kind == 28) {
		new_period(decoder);
		decode_transfer(decoder, OP_READ_CHANNEL);
	} else if (kind == 29) {
		new_period(decoder);
		add_operation(decoder, OP_COUNTER)->counter.counter = decoder->record[1] & 1;
	} else if (kind == 30) {
		decode_setup(decoder);
	} else if (decoder->program->disk) {
		new_period(decoder);
		add_operation(decoder, OP_DROP_CACHE);
	} else {
		decode_destroy(decoder);
	}
}

void program_decode(struct program *program, const uint8_t *bytes, size_t size)
{
	static uint8_t record[RECORD_BYTES];
	struct decoder decoder = { .program = program, .record = record };

	memset(program, 0, offsetof(struct program, operations));
	program->disk = size > 0 && bytes[0] >= 232;
	for (enum channel i = CHANNELS_NONBLOCKING; i < CHANNELS; i++) {
		decoder.read_left[i] = PREFILL_BYTES;
		decoder.pages_left[i] = 12;
	}
	for (size_t at = 1; at < size && decoder.number < RECORDS_MAX; at += RECORD_BYTES) {
		size_t left = size - at < RECORD_BYTES ? size - at : RECORD_BYTES;

		memset(record, 0, sizeof(record));
		memcpy(record, bytes + at, left);
		decode_record(&decoder);
		decoder.number++;
	}
	end_batch(&decoder, NULL);
	add_operation(&decoder, OP_SETTLE);
}

/* splitmix64: good enough, and the same everywhere. */
static uint64_t next_random(uint64_t *state)
{
	uint64_t value = *state += 0x9e3779b97f4a7c15u;

	value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9u;
	value = (value ^ value >> 27) * 0x94d049bb133111ebu;
	return value ^ value >> 31;
}

/* Half of the fields are plain: of programs that are odd everywhere, little is accepted. */
void program_from_seed(uint64_t seed, uint8_t bytes[PROGRAM_BYTES], size_t *size)
{
	uint64_t state = seed * 0x5851f42d4c957f2du + 1;
	unsigned oddness = (unsigned)(next_random(&state) % 4);

	*size = 1 + (size_t)(1 + next_random(&state) % RECORDS_MAX) * RECORD_BYTES;
	for (size_t i = 0; i < *size; i++) {
		uint64_t random = next_random(&state);
		uint8_t byte = (uint8_t)random;
		size_t field = i == 0 ? 0 : (i - 1) % RECORD_BYTES;

		if (field > FIELD_TARGET && (random >> 40) % 4 >= oddness)
			byte &= 0x7f;
		bytes[i] = byte;
	}
}

/* ---- text ------------------------------------------------------------------------------------ */

static const char *const handle_names[] = { "A", "B", "NULL", "memory", "unmapped", "inside_A" };

static const char *opcode_name(short opcode, char text[16])
{
	static const char *const names[] = { "PREAD", "PWRITE", "FSYNC",  "FDSYNC", NULL,
					     "POLL",  "NOOP",	"PREADV", "PWRITEV" };

	if (opcode >= 0 && opcode < 9 && names[opcode])
		return names[opcode];
	snprintf(text, 16, "%d", opcode);
	return text;
}

static void print_vector(const struct iocb *iocb, FILE *stream)
{
	const struct iovec *vector = iocb->u.c.buf;
	char name[64];

	if (vector < world.vectors || vector >= world.vectors + PAGE / sizeof(*vector))
		return;
	for (unsigned i = 0; i < VECTOR_MAX && i < (unsigned)iocb->u.c.nbytes; i++)
		fprintf(stream, "%s{ %s, %#zx }", i ? ", " : " = {",
			world_name_of(vector[i].iov_base, name, sizeof(name)), vector[i].iov_len);
	fprintf(stream, "}");
}

static void print_element(const struct element *element, FILE *stream)
{
	const struct iocb *iocb = &element->iocb;
	char text[64], opcode[16];

	fprintf(stream, "    %s = { .data = %p, %s, %s", world_name_of(element->address, text, 64),
		iocb->data, opcode_name(iocb->aio_lio_opcode, opcode),
		world.descriptors[element->target].name);
	if (iocb->aio_lio_opcode == IO_CMD_POLL) {
		fprintf(stream, ", .events = %#x", iocb->u.poll.events);
	} else if (is_transfer(iocb)) {
		fprintf(stream, ", %s", world_name_of(iocb->u.c.buf, text, sizeof(text)));
		if (is_vectored(iocb))
			print_vector(iocb, stream);
	}
	fprintf(stream, ", .nbytes = %#lx, .offset = %#llx", iocb->u.c.nbytes, iocb->u.c.offset);
	if (iocb->aio_rw_flags)
		fprintf(stream, ", .aio_rw_flags = %#x", iocb->aio_rw_flags);
	if (iocb->u.c.flags)
		fprintf(stream, ", .flags = %#x, .resfd = %d", iocb->u.c.flags,
			(int)iocb->u.c.resfd);
	if (iocb->aio_reqprio)
		fprintf(stream, ", .aio_reqprio = %#x", (unsigned)iocb->aio_reqprio);
	if (iocb->u.c.__pad3)
		fprintf(stream, ", .__pad3 = %lld", iocb->u.c.__pad3);
	if (iocb->key)
		fprintf(stream, ", .key = %#x", iocb->key);
	fprintf(stream, " };\n");
}

static void print_submit(const struct operation *operation, FILE *stream)
{
	char text[64];

	for (unsigned i = 0; i < operation->submit.count; i++)
		print_element(&operation->submit.elements[i], stream);
	fprintf(stream, "    io_submit(%s, %ld, ", handle_names[operation->handle],
		operation->submit.nr);
	if (operation->submit.array_is_bad) {
		fprintf(stream, "%p);\n", (void *)operation->submit.array);
		return;
	}
	for (unsigned i = 0; i < operation->submit.count; i++)
		fprintf(stream, "%s%s", i ? ", " : "{ ",
			world_name_of(operation->submit.elements[i].address, text, 64));
	fprintf(stream, "%s);\n", operation->submit.array_at_edge ? " } at the edge" : " }");
}

static void print_wait(const struct operation *operation, FILE *stream)
{
	static const char *const timeouts[] = { "zero",	 "NULL",     "negative", "carry",
						"short", "unmapped", "kernel" };
	static const char *const arrays[] = { "events", "NULL", "unmapped", "read_only",
					      "at_edge" };

	fprintf(stream, "    io_%sgetevents(%s, %ld, %ld, %s, %s",
		operation->wait.pgetevents ? "p" : "", handle_names[operation->handle],
		operation->wait.min_nr, operation->wait.nr, arrays[operation->wait.events],
		timeouts[operation->wait.timeout]);
	if (operation->wait.pgetevents)
		fprintf(stream, ", mask %u", operation->wait.mask);
	fprintf(stream, ");\n");
}

static void print_operation(const struct operation *operation, FILE *stream)
{
	static const char *const channels[] = { "pipe", "socket_a", "socket_b", "eventfd" };
	char text[64];

	switch (operation->kind) {
	case OP_SUBMIT:
		print_submit(operation, stream);
		break;
	case OP_WAIT:
		print_wait(operation, stream);
		break;
	case OP_CANCEL:
		fprintf(stream, "    io_cancel(%s, %s, %p);\n", handle_names[operation->handle],
			world_name_of(operation->cancel.address, text, sizeof(text)),
			(void *)operation->cancel.result);
		break;
	case OP_SETTLE:
		fprintf(stream, "    settle();\n");
		break;
	case OP_WRITE_CHANNEL:
	case OP_READ_CHANNEL:
		fprintf(stream, "    settle(); %s(%s, %zu);\n",
			operation->kind == OP_READ_CHANNEL ? "read" : "write",
			channels[operation->transfer.channel], operation->transfer.bytes);
		break;
	case OP_COUNTER:
		fprintf(stream, "    settle(); read(counter_%c);\n",
			'a' + (char)operation->counter.counter);
		break;
	case OP_SETUP:
		fprintf(stream, "    io_setup(%d, pointer %u);\n", operation->setup.nr,
			operation->setup.pointer);
		break;
	case OP_DESTROY:
		fprintf(stream, "    io_destroy(%s);\n", handle_names[operation->handle]);
		break;
	case OP_LIFE:
		fprintf(stream, "    a context's life;\n");
		break;
	case OP_DROP_CACHE:
		fprintf(stream, "    settle(); drop_cache();\n");
		break;
	}
}

void program_print(const struct program *program, FILE *stream)
{
	for (unsigned i = 0; i < program->count; i++) {
		fprintf(stream, "%2u:", i);
		print_operation(&program->operations[i], stream);
	}
}
