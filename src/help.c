/* SPDX-License-Identifier: MIT */
/*
 * A thread that waits for a file's read or write carries it out.
 *
 * With one request in flight, to hand it to a worker and back costs as much as a fast disk takes.
 * So a waiter takes it out of the queue, if no worker has begun it and nothing else of the context
 * is in flight, and uses the program's own descriptor.  A wait with a timeout is overrun by one
 * access of the disk at most.  That is what kernel AIO would have done in io_submit; what it would
 * not have waited for (O_DIRECT, without kernel AIO) stays with the workers: the disk may never
 * answer, and it may be the program that is to see to that.  So do files of servers and of FUSE.
 *
 * Once a waiter has come in time and found a worker at it, no worker is woken for the next such
 * request.  If nobody has come when the supervisor has looked twice, it gives it to one; a waiter
 * who finds more than that in its context does so at once.  Who comes late computes meanwhile: then
 * the workers are woken again, until a waiter is seen in time once more.
 *
 * The descriptor's number must not become another file's meanwhile.  So only the only thread of
 * the program does it, which is in here, with its signals blocked; and it looks first whether the
 * number still means the file that was captured.  That one it takes back from the way to the
 * workers; if it has arrived there, the supervisor closes it while the disk is at it, and the event
 * waits until it is closed.
 */
#include "internal.h"

#include "work.h"

#include <fcntl.h>
#include <sys/stat.h>

/* Of more, a wait with a timeout might be overrun for long, and the hand-over matters little. */
#define HELPED_BYTES_MAX (1 << 20)
/* From io_submit to a wait that is all that the program does next. */
#define IN_TIME_NS 50000

/*
 * The kernel counts the threads of the process as subdirectories.  One of the library's is counted
 * by it from a little before to a little after we do: so there may seem to be more, never fewer, if
 * none of them comes or goes meanwhile.
 */
bool ta_is_only_thread(const struct ta_process *process)
{
	const uint32_t links_of_an_empty_one = 2;
	uint32_t own = atomic_load(&process->own_threads);
	struct statx status;

	if (ta_syscall5(SYS_statx, AT_FDCWD, "/proc/self/task", AT_STATX_DONT_SYNC, STATX_NLINK,
			&status) < 0)
		return false;
	return status.stx_nlink == links_of_an_empty_one + own + 1 &&
	       own == atomic_load(&process->own_threads);
}

/* It has no server that may not answer: its kernel could tell that the page was not there. */
static bool is_local(const struct ta_operation *operation)
{
	return operation->slot->flags & TA_SLOT_TRIED ||
	       ta_file_is_on_disk(&operation->hold->identity);
}

/*
 * Is the latest operation all that is in flight, and one that a waiter may carry out?  offload_lock
 * and the context's lock are held.
 */
bool ta_help_is_possible(const struct ta_context *context)
{
	const struct ta_operation *operation = context->latest;

	return operation && context->operations == 1 && context->used == context->ready_count + 1 &&
	       operation->context == context && operation->slot &&
	       operation->slot->operation == operation && operation->target == TA_TARGET_FILE &&
	       ta_iocb_is_transfer(&operation->slot->iocb) && !operation->is_direct &&
	       operation->resfd < 0 && operation->hold && is_local(operation) &&
	       ta_transfer_left(operation) <= HELPED_BYTES_MAX;
}

/*
 * The only request of the context, out of its queue; or NULL, and a worker has it, or is woken.
 * *comes_in_time: it could be left to such a waiter.  The context's lock is held.
 */
static struct ta_operation *take(struct ta_process *process, struct ta_context *context,
				 bool *comes_in_time)
{
	struct ta_operation *operation = context->latest;
	uint8_t state;

	ta_lock(&process->offload_lock);
	if (context->operations != 1 || !ta_help_is_possible(context)) {
		ta_workers_announce(process->workers,
				    atomic_exchange(&process->leaves_to_waiter, false));
		return NULL;
	}
	state = operation->state;
	*comes_in_time = (state == TA_OPERATION_QUEUED || state == TA_OPERATION_RUNNING) &&
			 ta_now_ns() - operation->started_ns < IN_TIME_NS;
	if (state == TA_OPERATION_QUEUED) {
		ta_list_remove(&operation->hold->queue, operation, TA_LIST_QUEUE);
		operation->state = TA_OPERATION_CALLERS;
	} else {
		operation = NULL;
	}
	ta_unlock(&process->offload_lock);
	return operation;
}

static void put_back(struct ta_process *process, struct ta_operation *operation)
{
	ta_lock(&process->offload_lock);
	ta_queue_push(process->workers, operation);
	ta_workers_announce(process->workers, 1);
}

static bool is_the_captured_file(int number, const struct ta_hold *hold)
{
	return ta_syscall2(SYS_fcntl, number, F_GETFL) == hold->file_flags &&
	       ta_file_is_still(number, &hold->identity);
}

/*
 * A worker's write raises no SIGXFSZ: this thread's, which is blocked, is taken away, but not one
 * that has come from elsewhere before.
 */
static long transfer(struct ta_operation *operation, int number)
{
	struct ta_signals signals = { { TA_SIGNAL_BIT(SIGXFSZ) } };
	bool is_pending =
		ta_transfer_is_write(operation) && ta_signals_pending().words[0] & signals.words[0];
	const struct timespec zero = { 0, 0 };
	long result = ta_transfer(operation, number, false);

	if (result == -EFBIG && !is_pending)
		ta_syscall4(SYS_rt_sigtimedwait, &signals, NULL, &zero, TA_SIGNAL_SET_BYTES);
	return result;
}

static bool carry_out(struct ta_process *process, struct ta_operation *operation)
{
	int number = operation->slot->iocb.aio_fildes;
	struct ta_hold *hold = operation->hold;
	bool is_back;
	long result;

	if (!ta_is_only_thread(process) || !is_the_captured_file(number, hold)) {
		atomic_store(&process->leaves_to_waiter, false);
		put_back(process, operation);
		return false;
	}
	operation->hold = NULL;
	is_back = ta_hold_take_back(hold);
	if (!is_back)
		ta_hold_release(hold);
	result = transfer(operation, number);
	if (!is_back)
		ta_workers_wait_closed(process->workers);
	ta_operation_ended(operation, result);
	return true;
}

/*
 * False: there is nothing to help with, or it cannot be done.  The lock is held, and let go
 * meanwhile; signals are blocked.
 */
bool ta_help(struct ta_process *process, struct ta_context *context)
{
	bool comes_in_time = false, has_helped;
	struct ta_operation *operation;

	if (context->operations == 0 ||
	    (context->operations > 1 && !atomic_load(&process->leaves_to_waiter)))
		return false;
	operation = take(process, context, &comes_in_time);
	if (!operation) {
		/* The next is not given to a worker before this thread has had time to come. */
		if (comes_in_time && !atomic_load(&process->leaves_to_waiter))
			atomic_store(&process->leaves_to_waiter, ta_is_only_thread(process));
		return false;
	}
	if (!comes_in_time)
		atomic_store(&process->leaves_to_waiter, false);
	ta_unlock(&context->lock);
	has_helped = carry_out(process, operation);
	ta_lock(&context->lock);
	return has_helped;
}
