/* SPDX-License-Identifier: MIT */
/*
 * The life of an operation: a request that the library carries out itself, because the kernel would
 * make io_submit wait for it.
 *
 * It is prepared inside io_submit (prepare.c) and started there: carried out at once, or put into
 * its line and queue for the workers.  It belongs to the submitting thread until then, and is
 * guarded by offload_lock from then on.  Who carries it out ends it: its file is given back,
 * its event becomes visible, its line goes on, its eventfd is signalled, in this order.
 */
#include "work.h"

#include "pool.h"

#include <limits.h>
#include <poll.h>
#include <string.h>

/* A wait in the caller, with signals blocked, looks for them so often. */
#define SIGNAL_LOOK_MS 10

/* ---- pool ------------------------------------------------------------------------------------ */

struct ta_operation *ta_operation_alloc(void)
{
	struct ta_process *process = ta_process();
	struct ta_operation *operation;

	ta_lock(&process->offload_lock);
	if (!process->free_operations)
		process->free_operations = atomic_exchange(&process->spent_operations, NULL);
	operation = TA_POOL_TAKE(&process->free_operations, &process->operation_pages, next);
	ta_unlock(&process->offload_lock);
	if (operation) {
		memset(operation, 0, sizeof(*operation));
		operation->resfd = -1;
	}
	return operation;
}

/* Its files are released already.  Takes no lock: what is spent is only ever taken as a whole. */
void ta_operation_free(struct ta_operation *operation)
{
	struct ta_process *process = ta_process();

	ta_assert(!operation->hold && !operation->eventfd && !operation->inode);
	if (operation->vector_bytes > 0)
		ta_pages_free(operation->vector_memory, operation->vector_bytes);
	operation->next = atomic_load(&process->spent_operations);
	while (!atomic_compare_exchange_weak(&process->spent_operations, &operation->next,
					     operation))
		;
}

/* ---- start ----------------------------------------------------------------------------------- */

/* From its line, or for the first time.  offload_lock is held. */
static struct ta_call queue(struct ta_operation *operation)
{
	struct ta_workers *workers = ta_workers_get();

	if (operation->cancelled)
		ta_workers_end(workers, operation, -ECANCELED);
	else
		ta_queue_push(workers, operation);
	return ta_workers_call(workers, 1);
}

/* A sync whose turn has come, or that was cancelled before. */
void ta_operation_submit(struct ta_operation *operation)
{
	struct ta_process *process = ta_process();
	struct ta_call call;

	ta_lock(&process->offload_lock);
	call = queue(operation);
	ta_unlock(&process->offload_lock);
	ta_workers_wake(process->workers, call);
}

/* What exit() waits for, and how busy the workers are. */
static void count(struct ta_process *process, struct ta_operation *operation)
{
	operation->owed_phase = (uint8_t)atomic_load(&process->exit_phase);
	if (ta_transfer_is_write(operation) || operation->is_sync)
		atomic_fetch_add(&process->owed_at_exit[operation->owed_phase], 1);
	else if (operation->opcode != IO_CMD_POLL)
		atomic_fetch_add(&process->reads_offloaded, 1);
}

/* A read that has found its pages missing, and has told the kernel to fetch them. */
static bool was_tried(const struct ta_operation *operation)
{
	return operation->slot && operation->slot->flags & TA_SLOT_TRIED;
}

/* offload_lock is held. */
static struct ta_call share_and_queue(struct ta_operation *operation)
{
	struct ta_workers *workers = ta_workers_get();

	ta_hold_share(operation->hold);
	ta_hold_share(operation->eventfd);
	if (operation->state != TA_OPERATION_NEW)
		return (struct ta_call){ 0 };
	operation->state = TA_OPERATION_IN_LINE;
	operation->started_ns = ta_now_ns();
	if (!ta_line_join(operation))
		return (struct ta_call){ 0 };
	if (atomic_load(&ta_process()->leaves_to_waiter) &&
	    ta_help_is_possible(operation->context) && !ta_queue_has_work(workers)) {
		ta_queue_push(workers, operation);
		return ta_workers_call_later(workers);
	}
	if (!was_tried(operation))
		return queue(operation);
	ta_queue_push(workers, operation);
	return ta_workers_call_for_read(workers, operation);
}

/*
 * From here on the operation may be found by io_cancel and io_destroy.  A new one is the workers'
 * as soon as the context's lock is released, and may be over by the time this returns.
 */
void ta_operation_enroll(struct ta_operation *operation, uint8_t state)
{
	struct ta_context *context = operation->context;
	struct ta_process *process = ta_process();
	struct ta_work work = { 0 };
	struct ta_call call;

	operation->state = state;
	count(process, operation);
	ta_lock(&context->lock);
	context->operations++;
	context->latest = operation;
	context->may_post = true;
	if (operation->slot) {
		operation->slot->operation = operation;
		operation->slot->state = TA_SLOT_OPERATION;
	}
	if (ta_is_stream(operation) && operation->slot->epoch) {
		/* What cannot be synchronized must hold up no fsync, and may never end. */
		ta_epoch_leave(context, operation->slot->epoch, &work);
		operation->slot->epoch = NULL;
	}
	ta_lock(&process->offload_lock);
	call = share_and_queue(operation);
	ta_unlock(&process->offload_lock);
	ta_unlock(&context->lock);
	if (call.workers > 0 || call.supervisor)
		ta_workers_wake(process->workers, call);
	ta_work_finish(&work);
}

static bool is_ignored(int signal_number)
{
	struct sigaction action;

	/* The C library's own, for pthread_cancel and setuid, it does not tell. */
	if (sigaction(signal_number, NULL, &action) < 0)
		return false;
	if (action.sa_handler != SIG_DFL)
		return action.sa_handler == SIG_IGN;
	return signal_number == SIGCHLD || signal_number == SIGCONT || signal_number == SIGURG ||
	       signal_number == SIGWINCH;
}

/* Does a signal wait for the end of io_submit?  Blocked ones do even where they are ignored. */
static bool is_interrupted(const struct ta_signals *open)
{
	const int bits = 8 * sizeof(open->words[0]);
	struct ta_signals pending = ta_signals_pending();
	int i;

	for (i = 0; i < 8 * TA_SIGNAL_SET_BYTES; i++) {
		unsigned long bit = 1ul << i % bits;

		if (pending.words[i / bits] & ~open->words[i / bits] & bit && !is_ignored(i + 1))
			return true;
	}
	return false;
}

/*
 * In its io_submit: as kernel AIO would, waiting if need be, until there is a signal.  Its handler
 * comes later: it may not come back.
 */
static long carry_out(struct ta_operation *operation, const struct ta_signals *open)
{
	int fd = operation->slot->iocb.aio_fildes;
	long result;

	if (!ta_is_stream(operation))
		return ta_transfer(operation, fd, false);
	while ((result = ta_stream_advance(operation, fd)) == -EAGAIN && !operation->nonblocking) {
		if (is_interrupted(open))
			return -EINTR;
		/* Where the program may have no descriptor at all, poll(2) tells nothing. */
		if (ta_file_poll(fd, ta_stream_events(operation), SIGNAL_LOOK_MS) < 0)
			return ta_transfer_rest(operation, fd, 0);
	}
	return result;
}

void ta_operation_start(struct ta_operation *operation, const struct ta_signals *open)
{
	long result;

	if (operation->state == TA_OPERATION_NEW) {
		ta_operation_enroll(operation, TA_OPERATION_NEW);
		return;
	}
	result = operation->ready_result;
	if (operation->state == TA_OPERATION_CALLERS)
		result = carry_out(operation, open);
	ta_operation_enroll(operation, TA_OPERATION_ENDED);
	ta_operation_ended(operation, result);
}

/* ---- the end --------------------------------------------------------------------------------- */

/* What was counted when the operation was enrolled. */
static void settle_counts(struct ta_process *process, bool write_or_sync, bool is_poll,
			  unsigned phase)
{
	if (is_poll)
		return;
	if (!write_or_sync)
		atomic_fetch_sub(&process->reads_offloaded, 1);
	else if (atomic_fetch_sub(&process->owed_at_exit[phase], 1) == 1)
		ta_futex_wake(&process->owed_at_exit[phase], INT_MAX);
}

/* In a thread of the workers' table, if there is something to be given back. */
static void release_file(struct ta_operation *operation)
{
	struct ta_process *process = ta_process();
	struct ta_hold *hold = operation->hold;
	struct ta_leftover leftover;

	if (!hold)
		return;
	(void)ta_hold_number(hold);
	ta_lock(&process->offload_lock);
	if (operation->state == TA_OPERATION_RUNNING)
		ta_queue_stopped(process->workers, operation);
	operation->state = TA_OPERATION_ENDED;
	operation->hold = NULL;
	leftover = ta_hold_leave(hold);
	ta_unlock(&process->offload_lock);
	ta_hold_close(leftover);
}

/* It was signalled, if there is one. */
static void end(struct ta_operation *operation)
{
	bool write_or_sync = ta_transfer_is_write(operation) || operation->is_sync;
	bool is_poll = operation->opcode == IO_CMD_POLL;
	struct ta_context *context = operation->context;
	unsigned phase = operation->owed_phase;

	ta_operation_free(operation);
	ta_complete_end(context);
	settle_counts(ta_process(), write_or_sync, is_poll, phase);
}

/* No number in the workers' table: a thread in the program's has one that means it still. */
static void leave_to_helper(struct ta_operation *operation)
{
	struct ta_process *process = ta_process();

	operation->next = atomic_load(&process->unsignalled);
	while (!atomic_compare_exchange_weak(&process->unsignalled, &operation->next, operation))
		;
	ta_helper_wake(process);
}

/* On the first helper. */
void ta_operations_signal(struct ta_process *process)
{
	struct ta_operation *operation = atomic_exchange(&process->unsignalled, NULL), *next;

	for (; operation; operation = next) {
		next = operation->next;
		if (ta_file_is_eventfd(operation->resfd) == 0)
			ta_eventfd_signal(operation->resfd);
		end(operation);
	}
}

static void signal_and_end(struct ta_operation *operation)
{
	int number = operation->resfd;

	if (operation->eventfd)
		number = ta_hold_number(operation->eventfd);
	if (number >= 0)
		ta_eventfd_signal(number);
	ta_hold_release(operation->eventfd);
	operation->eventfd = NULL;
	if (number == TA_NUMBER_LOST)
		leave_to_helper(operation);
	else
		end(operation);
}

/* One operation is over: its event, and what was counted for it. */
void ta_operation_finish(struct ta_operation *operation, long result)
{
	unsigned phase = operation->owed_phase;

	release_file(operation);
	if (operation->object) {
		ta_passthrough_finished(operation);
		settle_counts(ta_process(), true, false, phase);
	} else {
		ta_complete(operation, result);
		ta_line_leave(operation);
		signal_and_end(operation);
	}
}

/* The operation's last part has ended. */
void ta_operation_ended(struct ta_operation *operation, long result)
{
	if (operation->sync) {
		ta_sync_ended(operation, result);
		return;
	}
	if (operation->opcode == IO_CMD_POLL && result == -ECANCELED)
		/* As the kernel says it. */
		result = 0;
	if (result >= 0 || operation->transferred > 0)
		result = (long)operation->transferred + (result > 0 ? result : 0);
	ta_operation_finish(operation, result);
}

/* ---- cancellation ---------------------------------------------------------------------------- */

/*
 * Takes it from where it waits, if it has not moved data by then: a read of a file that has ends
 * with it, a stream stops there.  offload_lock is held.  What a worker has taken is not looked at:
 * how much it has moved is the worker's to count.
 */
static bool withdraw(struct ta_operation *operation)
{
	struct ta_hold *file = operation->hold;

	if (operation->state != TA_OPERATION_IN_LINE && operation->state != TA_OPERATION_QUEUED &&
	    operation->state != TA_OPERATION_PARKED)
		return false;
	if (operation->transferred > 0 && !ta_is_stream(operation))
		return false;
	if (operation->state != TA_OPERATION_IN_LINE)
		ta_list_remove(operation->state == TA_OPERATION_QUEUED ? &file->queue
								       : &file->parked,
			       operation, TA_LIST_QUEUE);
	ta_workers_end(ta_workers_get(), operation, -ECANCELED);
	return true;
}

/*
 * io_cancel of an operation: -EINPROGRESS or -EAGAIN.  Its context's lock is held, so the operation
 * cannot end meanwhile; nothing here waits for that lock.
 */
int ta_operation_cancel(struct ta_operation *operation)
{
	struct ta_process *process = ta_process();
	bool is_cancelled;

	if (operation->is_sync)
		return ta_sync_cancel(operation) ? -EINPROGRESS : -EAGAIN;
	ta_lock(&process->offload_lock);
	if (withdraw(operation)) {
		ta_workers_announce(process->workers, 1);
		return -EINPROGRESS;
	}
	/* A POLL that runs is about to be parked, and will not be.  Once is enough. */
	is_cancelled = operation->opcode == IO_CMD_POLL &&
		       operation->state == TA_OPERATION_RUNNING && !operation->cancelled;
	if (is_cancelled)
		operation->cancelled = true;
	ta_unlock(&process->offload_lock);
	return is_cancelled ? -EINPROGRESS : -EAGAIN;
}

/*
 * io_destroy: as cancel, but what may wait for ever ends at the next chance if not now.  Both are
 * decided under one lock: in between a worker could park it for ever.
 */
void ta_operation_abandon(struct ta_operation *operation)
{
	struct ta_process *process = ta_process();

	if (operation->is_sync) {
		(void)ta_sync_cancel(operation);
		return;
	}
	ta_lock(&process->offload_lock);
	if (withdraw(operation)) {
		ta_workers_announce(process->workers, 1);
		return;
	}
	operation->cancelled = ta_is_stream(operation) || operation->opcode == IO_CMD_POLL;
	ta_unlock(&process->offload_lock);
}
