/* SPDX-License-Identifier: MIT */
/*
 * Carrying out reads, writes and fsyncs by system calls, on a worker.  At a position a call may
 * wait for the disk.  A stream is never waited for: where the kernel cannot be told so, it is asked
 * first whether the stream is ready, and given no more than it takes then.
 */
#include "threads.h"

#include <poll.h>
#include <sys/stat.h>

#ifndef RWF_NOWAIT
#define RWF_NOWAIT 0x00000008
#endif

/*
 * What a terminal or an old kernel's pipe takes without waiting when it says that it takes any.
 */
#define TERMINAL_CHUNK 128
#define PIPE_CHUNK 4096
#define CHUNK_PARTS 16

static long transfer_at_position(struct ta_operation *operation, int number)
{
	long result = ta_transfer_rest(operation, number, operation->flags);
	struct iovec aligned;

	if (result == -EINVAL && ta_threads_get()->owns_table &&
	    ta_transfer_may_begin_anew(operation))
		return ta_transfer_write_anew(operation, number);
	if (result == -EINVAL && ta_transfer_may_bounce(operation) &&
	    ta_transfer_bounce(operation)) {
		aligned = (struct iovec){ operation->bounce, operation->bounce_bytes };
		result = ta_transfer_parts(operation, number, &aligned, 1,
					   operation->offset + (int64_t)operation->transferred -
						   (int64_t)operation->bounce_skip,
					   0);
		result = ta_transfer_unbounce(operation, result);
	}
	return result;
}

/* The first parts of the vector, no more than so many bytes. */
static unsigned first_bytes(const struct ta_operation *operation, size_t bytes, struct iovec *parts)
{
	unsigned from = operation->vector_skipped, count = 0;

	while (from < operation->vector_count && count < CHUNK_PARTS && bytes > 0) {
		parts[count] = operation->vector[from++];
		if (parts[count].iov_len > bytes)
			parts[count].iov_len = bytes;
		bytes -= parts[count++].iov_len;
	}
	return count;
}

/*
 * A stream that cannot be told not to wait: terminals, and pipes before Linux 6.4.  It is asked
 * first, and given no more than it takes then.
 */
static long transfer_when_ready(struct ta_operation *operation, int number, uint16_t events)
{
	struct iovec parts[CHUNK_PARTS];
	struct ta_file_identity identity;
	size_t chunk = PIPE_CHUNK;
	unsigned count;

	/* Nothing is read from an empty stream, too. */
	if (operation->nonblocking ||
	    (!ta_transfer_is_write(operation) && ta_transfer_left(operation) == 0))
		return ta_transfer_rest(operation, number, 0);
	if (ta_file_poll(number, events) == 0)
		return -EAGAIN;
	if (!ta_transfer_is_write(operation))
		return ta_transfer_rest(operation, number, 0);
	if (ta_file_identify(number, &identity) < 0 || S_ISCHR(identity.mode))
		chunk = TERMINAL_CHUNK;
	count = first_bytes(operation, chunk, parts);
	return ta_transfer_parts(operation, number, parts, count, -1, 0);
}

/* One attempt, which does not wait. */
static long transfer_on_stream(struct ta_operation *operation, int number, uint16_t events)
{
	long result;

	if (operation->refusal)
		return operation->refusal;
	if (operation->is_socket)
		return ta_transfer_on_socket(operation, number);
	result = ta_transfer_rest(operation, number, operation->flags | RWF_NOWAIT);
	if (result == -EOPNOTSUPP)
		return transfer_when_ready(operation, number, events);
	return result;
}

/* True: *result is the end of it.  False: it is parked, and in other hands. */
bool ta_threads_carry_out_stream(struct ta_threads *threads, struct ta_operation *operation,
				 int number, long *result)
{
	bool writes = ta_transfer_is_write(operation);
	uint16_t events = writes ? POLLOUT : POLLIN;
	bool may_wait = !operation->nonblocking && !(operation->flags & RWF_NOWAIT);

	for (;;) {
		*result = transfer_on_stream(operation, number, events);
		if (*result == -EAGAIN && may_wait) {
			*result = -ECANCELED;
			return !ta_threads_park(threads, operation, events);
		}
		if (*result <= 0 || !writes || !may_wait)
			return true;
		ta_transfer_skip(operation, (size_t)*result);
		if (ta_transfer_left(operation) == 0)
			return true;
		operation->transferred += (size_t)*result;
	}
}

long ta_threads_carry_out_file(struct ta_operation *operation, int number)
{
	long before, result;

	if (operation->is_sync)
		return ta_syscall1(operation->sync->group_data_only ? SYS_fdatasync : SYS_fsync,
				   number);
	before = ta_transfer_take_priority(operation);
	result = transfer_at_position(operation, number);
	ta_transfer_give_priority_back(before);
	return result;
}
