/* SPDX-License-Identifier: MIT */
/*
 * Reads and writes by system calls, in parts where one call does not do it all.
 *
 * At a position a call may wait for the disk.  A program may set O_DIRECT while buffered requests
 * of the file are in flight (glusterfs switches it between requests).  Who carries them out meets
 * the new flag, and they are refused for their alignment: a read goes through a buffer of ours
 * then, and a write through the file opened once more.
 */
#include "work.h"

#include <fcntl.h>
#include <string.h>

/* Enough for O_DIRECT on any device; and the most that is read so. */
#define BOUNCE_ALIGNMENT 4096u
#define BOUNCE_MAX (64u << 20)

bool ta_transfer_is_write(const struct ta_operation *operation)
{
	return operation->opcode == IO_CMD_PWRITE || operation->opcode == IO_CMD_PWRITEV;
}

/* ---- vectors --------------------------------------------------------------------------------- */

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

/* ---- calls ----------------------------------------------------------------------------------- */

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

/* What is left of the vector. */
long ta_transfer_rest(const struct ta_operation *operation, int fd, int flags)
{
	int64_t offset = operation->offset;

	if (offset >= 0)
		offset += (int64_t)operation->transferred;
	return ta_transfer_parts(operation, fd, operation->vector + operation->vector_skipped,
				 operation->vector_count - operation->vector_skipped, offset,
				 flags);
}

/* ---- buffered requests that meet O_DIRECT ---------------------------------------------------- */

/* Does the opening do with a write what the one did that it was submitted with? */
static bool is_as_submitted(const struct ta_operation *operation, int fd)
{
	const long flags = O_ACCMODE | O_APPEND | O_DIRECT | O_DSYNC | O_PATH | O_SYNC;

	return ((ta_syscall2(SYS_fcntl, fd, F_GETFL) ^ operation->hold->file_flags) & flags) == 0;
}

/*
 * The write that was refused, as it was submitted.  Where O_DIRECT is gone again, the write is made
 * through fd, and if it is refused then, for a reason of the file system's own.
 */
static long write_anew(const struct ta_operation *operation, int fd)
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

/* What has been read into the buffer, from so many bytes of it on, goes to where it belongs. */
static long copy_out(const struct ta_operation *operation, const char *buffer, size_t skip,
		     long result)
{
	size_t available = result > 0 && (size_t)result > skip ? (size_t)result - skip : 0;
	size_t copied = 0;
	unsigned i;

	for (i = operation->vector_skipped; i < operation->vector_count && copied < available;
	     i++) {
		const struct iovec *part = &operation->vector[i];
		size_t bytes =
			part->iov_len < available - copied ? part->iov_len : available - copied;

		if (!ta_memory_probe(part->iov_base, bytes, true))
			break;
		memcpy(part->iov_base, buffer + skip + copied, bytes);
		copied += bytes;
	}
	if (result < 0)
		return result;
	return available > 0 && copied == 0 ? -EFAULT : (long)copied;
}

/* Past the cache into a buffer that is aligned, with all that covers what is asked for. */
static long read_through_buffer(const struct ta_operation *operation, int fd)
{
	uint64_t offset = (uint64_t)operation->offset + operation->transferred;
	size_t skip = offset % BOUNCE_ALIGNMENT;
	size_t bytes = ta_transfer_left(operation) + skip;
	struct iovec aligned;
	long result;

	bytes = (bytes + BOUNCE_ALIGNMENT - 1) / BOUNCE_ALIGNMENT * BOUNCE_ALIGNMENT;
	aligned.iov_base = bytes > BOUNCE_MAX ? NULL : ta_pages_alloc(bytes);
	aligned.iov_len = bytes;
	if (!aligned.iov_base)
		return -EINVAL;
	result = ta_transfer_parts(operation, fd, &aligned, 1, (int64_t)(offset - skip), 0);
	result = copy_out(operation, aligned.iov_base, skip, result);
	ta_pages_free(aligned.iov_base, bytes);
	return result;
}

/* ---- a request of a file --------------------------------------------------------------------- */

long ta_transfer(struct ta_operation *operation, int fd, bool may_reopen)
{
	uint16_t own = ta_io_priority();
	long result;

	if (operation->io_priority != own)
		ta_set_io_priority(operation->io_priority);
	result = ta_transfer_rest(operation, fd, operation->flags);
	if (result == -EINVAL && operation->target == TA_TARGET_FILE && !operation->is_direct) {
		if (!ta_transfer_is_write(operation))
			result = read_through_buffer(operation, fd);
		else if (may_reopen)
			result = write_anew(operation, fd);
	}
	if (operation->io_priority != own)
		ta_set_io_priority(own);
	return result;
}
