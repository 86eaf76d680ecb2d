/* SPDX-License-Identifier: MIT */
/*
 * Buffered writes that the io_uring refused because their file has O_DIRECT by now.
 *
 * The registered file has the flag, and only another opening of the file does not.  To open it anew
 * takes a descriptor of it.  In the program's table that would be the lowest free number, which
 * the program may be about to use; children would inherit it; and closing it would drop the
 * program's record locks.  So it is done by *rewriters*: threads with tables of their own that are
 * empty, into which they fetch the program's descriptor, if that means the same file still.  They
 * may wait for a server that is slow to open a file, which the ring thread must not.
 *
 * A rewriter is started when there is something to do, and goes when there is nothing left.
 *
 * offload_lock guards the list and the number of rewriters.
 */
#include "offload.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <unistd.h>

/* A server that does not answer keeps one of them; others go on. */
#define REWRITERS_MAX 8

/* Linux 6.9, which is older than any kernel whose io_uring is used. */
#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL
#endif

/* The file of the hold, as a descriptor of this thread's table; or a negative errno. */
static int fetch(const struct ta_hold *hold, int ring_thread)
{
	struct ta_file_identity identity;
	int fd = ta_fetch_descriptor(ring_thread, PIDFD_THREAD, hold->descriptor);

	if (fd < 0)
		return fd;
	if (ta_file_identify(fd, &identity) == 0 && identity.inode == hold->identity.inode &&
	    identity.device == hold->identity.device)
		return fd;
	ta_syscall1(SYS_close, fd);
	return -EBADF;
}

static long rewrite(struct ta_operation *operation, int ring_thread)
{
	int fd = fetch(operation->hold, ring_thread);
	long before, result;

	if (fd < 0)
		return -EINVAL;
	before = ta_transfer_take_priority(operation);
	result = ta_transfer_write_anew(operation, fd);
	ta_transfer_give_priority_back(before);
	ta_syscall1(SYS_close, fd);
	return result;
}

/* NULL: there is none, and the caller is no rewriter any more. */
static struct ta_operation *next_operation(struct ta_process *process)
{
	struct ta_operation *operation;

	ta_lock(&process->offload_lock);
	operation = process->rewrites_head;
	if (operation) {
		process->rewrites_head = operation->queue_next;
		if (!process->rewrites_head)
			process->rewrites_tail = NULL;
		operation->queue_next = NULL;
	} else {
		process->rewriters--;
	}
	ta_unlock(&process->offload_lock);
	return operation;
}

static void *rewriter(void *argument)
{
	int ring_thread = (int)(intptr_t)argument;
	bool owns_table = ta_syscall3(SYS_close_range, 0, UINT32_MAX, CLOSE_RANGE_UNSHARE) == 0;
	struct ta_process *process = ta_process();
	struct ta_operation *operation;

	if (owns_table)
		ta_thread_becomes_foreign(-1);
	while ((operation = next_operation(process)) != NULL)
		ta_uring_rewritten(operation,
				   owns_table ? rewrite(operation, ring_thread) : -EINVAL);
	return NULL;
}

/* offload_lock is held. */
static void push(struct ta_process *process, struct ta_operation *operation)
{
	operation->queue_next = NULL;
	if (process->rewrites_tail)
		process->rewrites_tail->queue_next = operation;
	else
		process->rewrites_head = operation;
	process->rewrites_tail = operation;
}

/*
 * No thread was to be had.  False: nobody has the operation or will have it.  The list is empty if
 * a rewriter took it and went; else there are rewriters, or it is alone there.
 */
static bool leave_to_others(struct ta_process *process)
{
	bool is_theirs;

	ta_lock(&process->offload_lock);
	is_theirs = --process->rewriters > 0 || !process->rewrites_head;
	if (!is_theirs)
		process->rewrites_head = process->rewrites_tail = NULL;
	ta_unlock(&process->offload_lock);
	return is_theirs;
}

/*
 * On the ring thread, for an operation that runs: ta_uring_rewritten will have its result.  False:
 * there is no thread for it.
 */
bool ta_uring_rewrite(struct ta_operation *operation)
{
	struct ta_process *process = ta_process();
	bool start;

	ta_assert(operation->hold->is_shared);
	if (ta_messenger_start() < 0)
		return false;
	ta_lock(&process->offload_lock);
	push(process, operation);
	start = process->rewriters < REWRITERS_MAX;
	process->rewriters += start;
	ta_unlock(&process->offload_lock);
	return !start || ta_thread_start(rewriter, (void *)(intptr_t)gettid()) == 0 ||
	       leave_to_others(process);
}
