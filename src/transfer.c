/* SPDX-License-Identifier: MIT */
/* Reads and writes that are carried out in parts. */
#include "offload.h"

#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>

#ifndef RWF_HIPRI
#define RWF_HIPRI 0x00000001
#endif

/* Enough for O_DIRECT on any device; and the most that is read so. */
#define BOUNCE_ALIGNMENT 4096u
#define BOUNCE_MAX (64u << 20)

bool ta_transfer_is_write(const struct ta_operation *operation)
{
	return operation->opcode == IO_CMD_PWRITE || operation->opcode == IO_CMD_PWRITEV;
}

/* So many bytes of the vector are done. */
void ta_transfer_skip(struct ta_operation *operation, size_t bytes)
{
	while (operation->vector_skipped < operation->vector_count) {
		struct iovec *part = &operation->vector[operation->vector_skipped];

		if (bytes < part->iov_len) {
			part->iov_base = (char *)part->iov_base + bytes;
			part->iov_len -= bytes;
			return;
		}
		bytes -= part->iov_len;
		operation->vector_skipped++;
	}
}

/* Bytes of the vector that are not done. */
size_t ta_transfer_left(const struct ta_operation *operation)
{
	size_t bytes = 0;
	unsigned i;

	for (i = operation->vector_skipped; i < operation->vector_count; i++)
		bytes += operation->vector[i].iov_len;
	return bytes;
}

/* What is left, without waiting and without SIGPIPE.  Here writes of nothing are sent, too. */
long ta_transfer_on_socket(struct ta_operation *operation, int fd)
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

/*
 * A program may set O_DIRECT while buffered requests of the file are in flight (glusterfs switches
 * it between requests).  Who carries them out meets the new flag, and they are refused for their
 * alignment: a read may be bounced then, and a write may go through the file opened once more.
 */
static bool may_meet_flag(const struct ta_operation *operation)
{
	return !operation->is_stream && !operation->is_device && !operation->is_direct;
}

bool ta_transfer_may_bounce(const struct ta_operation *operation)
{
	return may_meet_flag(operation) && !ta_transfer_is_write(operation);
}

bool ta_transfer_may_begin_anew(const struct ta_operation *operation)
{
	return may_meet_flag(operation) && ta_transfer_is_write(operation);
}

/* By a system call of this thread, which nothing interrupts for good. */
long ta_transfer_parts(const struct ta_operation *operation, int fd, const struct iovec *vector,
		       unsigned count, int64_t offset, int flags)
{
	long result;

	do
		result = ta_file_transfer(ta_transfer_is_write(operation), fd, vector, count,
					  offset, flags & ~RWF_HIPRI);
	while (result == -EINTR);
	return result;
}

/* What is left of the vector, by position; by the file's own where it has none to be given. */
long ta_transfer_rest(const struct ta_operation *operation, int fd, int flags)
{
	const struct iovec *vector = operation->vector + operation->vector_skipped;
	unsigned count = operation->vector_count - operation->vector_skipped;
	int64_t offset = operation->offset + (int64_t)operation->transferred;
	long result;

	if (operation->is_stream)
		return ta_transfer_parts(operation, fd, vector, count, -1, flags);
	result = ta_transfer_parts(operation, fd, vector, count, offset, flags);
	return result == -ESPIPE ? ta_transfer_parts(operation, fd, vector, count, -1, flags)
				 : result;
}

/* The operation's I/O priority for this thread.  Returns what to give back; -1: nothing. */
long ta_transfer_take_priority(const struct ta_operation *operation)
{
	const long which_process = 1, this_thread = 0;
	long before;

	if (!operation->io_priority)
		return -1;
	before = ta_syscall2(SYS_ioprio_get, which_process, this_thread);
	ta_syscall3(SYS_ioprio_set, which_process, this_thread, operation->io_priority);
	return before;
}

void ta_transfer_give_priority_back(long before)
{
	const long which_process = 1, this_thread = 0;

	if (before >= 0)
		ta_syscall3(SYS_ioprio_set, which_process, this_thread, before);
}

/* Does the opening do with a write what the one did that it was submitted with? */
static bool is_as_submitted(const struct ta_operation *operation, int fd)
{
	const long flags = O_ACCMODE | O_APPEND | O_DIRECT | O_DSYNC | O_PATH | O_SYNC;

	return ((ta_syscall2(SYS_fcntl, fd, F_GETFL) ^ operation->hold->file_flags) & flags) == 0;
}

/*
 * The write that was refused, as it was submitted.  fd is its file in a table of descriptors that
 * is not the program's, where opening and closing it does no harm; the opening may be another one.
 * Where O_DIRECT is gone again, the write is made through fd, and if it is refused then, for a
 * reason of the file system's own.
 */
long ta_transfer_write_anew(struct ta_operation *operation, int fd)
{
	long result = -EINVAL;
	int buffered;

	if (is_as_submitted(operation, fd))
		result = ta_transfer_rest(operation, fd, operation->flags);
	if (result != -EINVAL || is_as_submitted(operation, fd))
		return result;
	buffered = ta_file_reopen_buffered(fd, operation->hold->file_flags);
	if (buffered < 0)
		return -EINVAL;
	result = ta_transfer_rest(operation, buffered, operation->flags);
	ta_syscall1(SYS_close, buffered);
	return result;
}

/*
 * The read is to go past the cache into a buffer that is aligned, with all that covers what is
 * asked for: operation->bounce_bytes from bounce_skip bytes before its offset.  False: there is no
 * such buffer.
 */
bool ta_transfer_bounce(struct ta_operation *operation)
{
	uint64_t offset = (uint64_t)operation->offset + operation->transferred;
	size_t bytes;

	operation->bounce_skip = offset % BOUNCE_ALIGNMENT;
	bytes = ta_transfer_left(operation) + operation->bounce_skip;
	bytes = (bytes + BOUNCE_ALIGNMENT - 1) / BOUNCE_ALIGNMENT * BOUNCE_ALIGNMENT;
	if (bytes > BOUNCE_MAX)
		return false;
	operation->bounce = ta_pages_alloc(bytes);
	operation->bounce_bytes = bytes;
	return operation->bounce != NULL;
}

/* Copies to where the read was to go; returns the bytes, or the error. */
long ta_transfer_unbounce(struct ta_operation *operation, long result)
{
	size_t available = result > 0 && (size_t)result > operation->bounce_skip
				   ? (size_t)result - operation->bounce_skip
				   : 0;
	const char *from = operation->bounce + operation->bounce_skip;
	size_t copied = 0;
	unsigned i;

	for (i = operation->vector_skipped; i < operation->vector_count && copied < available;
	     i++) {
		const struct iovec *part = &operation->vector[i];
		size_t bytes =
			part->iov_len < available - copied ? part->iov_len : available - copied;

		if (!ta_memory_probe(part->iov_base, bytes, true))
			break;
		memcpy(part->iov_base, from + copied, bytes);
		copied += bytes;
	}
	ta_pages_free(operation->bounce, operation->bounce_bytes);
	operation->bounce = NULL;
	if (result < 0)
		return result;
	return available > 0 && copied == 0 ? -EFAULT : (long)copied;
}
