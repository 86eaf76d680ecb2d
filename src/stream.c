/* SPDX-License-Identifier: MIT */
/*
 * Reads and writes of pipes, sockets, terminals and the like.  None of them waits: where the kernel
 * cannot be told so, the stream is asked first whether it is ready, and given no more than it takes
 * then.
 */
#include "work.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

/*
 * What a terminal or an old kernel's pipe takes without waiting when it says that it takes any.
 */
#define TERMINAL_CHUNK 128
#define PIPE_CHUNK 4096
#define CHUNK_PARTS 16

uint16_t ta_stream_events(const struct ta_operation *operation)
{
	return ta_transfer_is_write(operation) ? POLLOUT : POLLIN;
}

/* What is left, without waiting and without SIGPIPE.  Here writes of nothing are sent, too. */
static long transfer_on_socket(struct ta_operation *operation, int fd)
{
	struct msghdr message = {
		.msg_iov = operation->vector + operation->vector_skipped,
		.msg_iovlen = operation->vector_count - operation->vector_skipped,
	};
	bool writes = ta_transfer_is_write(operation);

	if (!writes && ta_transfer_left(operation) == 0)
		return 0;
	return ta_syscall3(writes ? SYS_sendmsg : SYS_recvmsg, fd, &message,
			   MSG_DONTWAIT | MSG_NOSIGNAL);
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

/* A stream that cannot be told not to wait: terminals, and pipes before Linux 6.4. */
static long transfer_when_ready(struct ta_operation *operation, int fd)
{
	bool writes = ta_transfer_is_write(operation);
	struct iovec parts[CHUNK_PARTS];
	struct ta_file_identity identity;
	size_t chunk = PIPE_CHUNK;
	unsigned count;

	if (operation->flags & RWF_NOWAIT)
		return -EOPNOTSUPP;
	/* Nothing is read from an empty stream, too. */
	if (operation->nonblocking || (!writes && ta_transfer_left(operation) == 0))
		return ta_transfer_rest(operation, fd, 0);
	if (ta_file_poll(fd, ta_stream_events(operation), 0) == 0)
		return -EAGAIN;
	if (!writes)
		return ta_transfer_rest(operation, fd, 0);
	if (ta_file_identify(fd, &identity) < 0 || S_ISCHR(identity.mode))
		chunk = TERMINAL_CHUNK;
	count = first_bytes(operation, chunk, parts);
	return ta_transfer_parts(operation, fd, parts, count, operation->offset, 0);
}

static long transfer_once(struct ta_operation *operation, int fd)
{
	long result;

	if (operation->target == TA_TARGET_SOCKET)
		return transfer_on_socket(operation, fd);
	result = ta_transfer_rest(operation, fd, operation->flags | RWF_NOWAIT);
	return result == -EOPNOTSUPP ? transfer_when_ready(operation, fd) : result;
}

/* Without waiting and without SIGPIPE; -EOPNOTSUPP if the kernel cannot be told so. */
static long transfer_in_caller(struct ta_operation *operation, int fd)
{
	int no_signal = ta_transfer_is_write(operation) ? RWF_NOSIGNAL : 0;

	if (operation->target == TA_TARGET_SOCKET)
		return transfer_on_socket(operation, fd);
	return ta_transfer_rest(operation, fd, operation->flags | RWF_NOWAIT | no_signal);
}

bool ta_stream_memory_was_used(const struct ta_operation *operation)
{
	const struct iovec *next = operation->vector + operation->vector_skipped;

	return next->iov_len > 0 &&
	       ta_memory_was_used(next->iov_base, !ta_transfer_is_write(operation));
}

/* Of what was used just now the first page is enough: others are likely to be like it. */
static void remember_memory(const struct ta_operation *operation)
{
	const struct iovec *next = operation->vector + operation->vector_skipped;

	if (next->iov_len > 0)
		ta_memory_remember_use(next->iov_base, !ta_transfer_is_write(operation));
}

/* True: it is a write to a stream that waits, and goes on until all is written. */
static bool goes_on(struct ta_operation *operation, long result)
{
	if (result > 0)
		remember_memory(operation);
	if (result <= 0 || !ta_transfer_is_write(operation) || operation->nonblocking)
		return false;
	ta_transfer_skip(operation, (size_t)result);
	if (ta_transfer_left(operation) == 0)
		return false;
	operation->transferred += (size_t)result;
	return true;
}

long ta_stream_advance(struct ta_operation *operation, int fd)
{
	long result;

	do
		result = transfer_once(operation, fd);
	while (goes_on(operation, result));
	return result;
}

long ta_stream_try(struct ta_operation *operation, int fd)
{
	long result = transfer_in_caller(operation, fd);

	return goes_on(operation, result) ? -EAGAIN : result;
}
