/* SPDX-License-Identifier: MIT */
/*
 * Threads of our own that carry out operations.
 *
 * They share a descriptor table that is not the program's (table.c).  The *supervisor* made it and
 * starts the other threads, so that they share it.  *Workers* carry out operations and give them
 * their events.  Their number grows while something is queued and nobody is idle, and shrinks when
 * they are; one stays for ever, so that what is accepted depends on no thread that is still to be
 * had.  No worker waits for a pipe, a socket or a terminal: an operation that finds nothing there
 * is *parked*, and the *poller* queues it again when its file is ready.  A POLL request is nothing
 * but parked.
 *
 * What is over without having run (it was cancelled, or its file became ready for a POLL) is given
 * its event by a worker, too, because closing its file may wait; the supervisor does that only when
 * all workers are busy and no more can be started.
 *
 * Where the threads cannot have a table of their own, they stay in the program's: an operation
 * means then what its number means when it is carried out.
 *
 * offload_lock guards everything here, but for what work.h says otherwise.
 */
#include "work.h"

#include <poll.h>

/* All tests pass with half of it; a handler of the C library's (setuid) needs some, too. */
#define STACK_BYTES (32 * 1024)
/* A worker without work goes after so long. */
#define IDLE_NS 1000000000LL
/* With this between two new workers, those there are have a chance to be done. */
#define GROWTH_NS 100000LL
/* As many workers as this are woken for the reads of one file that are on their way. */
#define READERS_A_FILE 2
/* While something is queued, what the workers get on with is looked at so often. */
#define LOOK_NS 250000LL
/* No thread could be started: the next is asked for after so long, unless a worker has gone. */
#define PAUSE_NS 1000000000LL

/* ---- waking ---------------------------------------------------------------------------------- */

void ta_workers_wake_supervisor(struct ta_workers *workers)
{
	atomic_fetch_add(&workers->supervisor_word, 1);
	ta_futex_wake(&workers->supervisor_word, 1);
}

static bool may_grow(const struct ta_workers *workers)
{
	return workers->workers < workers->limit &&
	       (workers->paused_until_ns == 0 || ta_now_ns() >= workers->paused_until_ns);
}

/* Could one more worker be set to work? */
static bool has_more(const struct ta_workers *workers)
{
	return workers->idle > 0 || may_grow(workers);
}

static bool must_grow(const struct ta_workers *workers)
{
	return workers->idle == 0 && may_grow(workers) && ta_queue_has_work(workers);
}

/* Is it left to the supervisor to give operations their events? */
static bool must_end_alone(const struct ta_workers *workers)
{
	return workers->ended.head && !has_more(workers);
}

struct ta_call ta_workers_call(struct ta_workers *workers, uint32_t operations)
{
	struct ta_call call = {
		.workers = operations < workers->idle ? operations : workers->idle,
		.supervisor = must_grow(workers) || must_end_alone(workers),
	};

	if (call.workers > 0)
		atomic_fetch_add(&workers->work_word, 1);
	return call;
}

/*
 * The kernel fetches its pages since it was tried, so that one thread can wait for those of a file
 * in turn: it finds most of them there, and nobody is woken for each.  The supervisor sees to it
 * that none waits for long behind one that does not come.
 */
struct ta_call ta_workers_call_for_read(struct ta_workers *workers,
					const struct ta_operation *operation)
{
	const struct ta_hold *file = operation->hold;

	if (file->queue.head == operation && file->inode->running[0] < READERS_A_FILE)
		return ta_workers_call(workers, 1);
	return (struct ta_call){ .supervisor = !workers->looks_again && has_more(workers) };
}

struct ta_call ta_workers_call_later(struct ta_workers *workers)
{
	if (!has_more(workers))
		return ta_workers_call(workers, 1);
	workers->left_to_waiters++;
	return (struct ta_call){ .supervisor = !workers->looks_again };
}

void ta_workers_wake(struct ta_workers *workers, struct ta_call call)
{
	if (call.workers > 0)
		ta_futex_wake(&workers->work_word, (int)call.workers);
	if (call.supervisor)
		ta_workers_wake_supervisor(workers);
}

void ta_workers_announce(struct ta_workers *workers, uint32_t operations)
{
	struct ta_call call = { 0 };

	if (operations > 0)
		call = ta_workers_call(workers, operations);
	ta_unlock(&ta_process()->offload_lock);
	ta_workers_wake(workers, call);
}

void ta_workers_end(struct ta_workers *workers, struct ta_operation *operation, long result)
{
	operation->state = TA_OPERATION_ENDED;
	operation->ready_result = result;
	ta_list_push(&workers->ended, operation, TA_LIST_QUEUE);
}

/* ---- workers --------------------------------------------------------------------------------- */

/* False: it is parked, and in other hands. */
static bool carry_out(struct ta_workers *workers, struct ta_operation *operation, long *result)
{
	int number = ta_hold_number(operation->hold);
	_Atomic uint32_t unused_word = 0;
	uint16_t events;

	if (number == TA_NUMBER_LOST) {
		*result = workers->owns_table ? -EMFILE : -EBADF;
		return true;
	}
	if (operation->is_sync) {
		*result = ta_syscall1(operation->sync->group_data_only ? SYS_fdatasync : SYS_fsync,
				      number);
		return true;
	}
	if (operation->is_unwatched)
		ta_futex_wait(&unused_word, 0,
			      ta_now_ns() + ta_look_interval_ns(operation->started_ns));
	if (operation->opcode == IO_CMD_POLL) {
		events = operation->poll_events;
		if (operation->is_unwatched && (*result = ta_file_poll(number, events, 0)) > 0)
			return true;
	} else if (ta_is_stream(operation)) {
		*result = ta_stream_advance(operation, number);
		if (*result != -EAGAIN || operation->nonblocking)
			return true;
		events = ta_stream_events(operation);
	} else {
		*result = ta_transfer(operation, number, workers->owns_table);
		return true;
	}
	*result = -ECANCELED;
	return !ta_poller_park(workers, operation, events);
}

/* offload_lock is held, and let go meanwhile. */
static void serve(struct ta_workers *workers, struct ta_operation *operation)
{
	struct ta_call call = ta_workers_call(workers, 0);
	struct ta_process *process = ta_process();
	long result = operation->ready_result;
	bool is_over = operation->state == TA_OPERATION_ENDED;

	ta_unlock(&process->offload_lock);
	ta_workers_wake(workers, call);
	if (is_over || carry_out(workers, operation, &result))
		ta_operation_ended(operation, result);
	ta_lock(&process->offload_lock);
}

static void *worker(void *argument)
{
	struct ta_workers *workers = argument;
	struct ta_process *process = ta_process();
	struct ta_operation *operation;
	int64_t deadline_ns;
	bool timed_out;
	uint32_t seen;

	if (!ta_workers_pass_gate(workers))
		return NULL;
	ta_lock(&process->offload_lock);
	for (;;) {
		operation = ta_queue_next(workers);
		if (operation) {
			serve(workers, operation);
			continue;
		}
		deadline_ns = workers->workers > 1 ? ta_now_ns() + IDLE_NS : TA_NO_DEADLINE;
		workers->idle++;
		seen = atomic_load(&workers->work_word);
		ta_unlock(&process->offload_lock);
		timed_out = ta_futex_wait(&workers->work_word, seen, deadline_ns) == -ETIMEDOUT;
		ta_lock(&process->offload_lock);
		workers->idle--;
		if (timed_out && workers->workers > 1 && !ta_queue_has_work(workers))
			break;
	}
	workers->workers--;
	workers->paused_until_ns = 0;
	ta_unlock(&process->offload_lock);
	return NULL;
}

/* ---- the supervisor -------------------------------------------------------------------------- */

void ta_workers_wait_closed(struct ta_workers *workers)
{
	uint32_t closings;

	while ((closings = atomic_load(&workers->closings)) > 0)
		ta_futex_wait(&workers->closings, closings, TA_NO_DEADLINE);
}

/* What threads of the program have left to it. */
static void tidy_up(struct ta_workers *workers)
{
	struct ta_process *process = ta_process();
	struct ta_hold *closing, *following;
	bool receive_wanted;

	ta_lock(&process->offload_lock);
	closing = workers->closing;
	workers->closing = NULL;
	receive_wanted = workers->receive_wanted;
	workers->receive_wanted = false;
	ta_unlock(&process->offload_lock);
	if (receive_wanted) {
		ta_table_receive(&workers->table);
		atomic_fetch_add(&workers->received_word, 1);
		ta_futex_wake(&workers->received_word, INT32_MAX);
	}
	for (; closing; closing = following) {
		following = closing->next;
		ta_hold_release(closing);
		if (atomic_fetch_sub(&workers->closings, 1) == 1)
			ta_futex_wake(&workers->closings, INT32_MAX);
	}
}

/* When to look again. */
static int64_t start_worker(struct ta_workers *workers)
{
	struct ta_process *process = ta_process();
	int64_t now_ns = ta_now_ns();

	if (ta_thread_start("trueaio-worker", STACK_BYTES, worker, workers) < 0) {
		ta_lock(&process->offload_lock);
		workers->workers--;
		workers->paused_until_ns = now_ns + PAUSE_NS;
		ta_unlock(&process->offload_lock);
	}
	return now_ns + GROWTH_NS;
}

struct progress {
	uint64_t begun;
	uint64_t left_to_waiters;
};

/*
 * Wakes or starts one worker if there is need.  When to look again: after a moment, whether that
 * was enough; or when another can be asked for.
 */
static int64_t grow(struct ta_workers *workers, struct progress *latest)
{
	struct ta_process *process = ta_process();
	bool has_work, is_stuck, is_waited_for, must_start;
	struct ta_call call = { 0 };
	int64_t look_again_ns = TA_NO_DEADLINE;

	ta_lock(&process->offload_lock);
	has_work = ta_queue_has_work(workers);
	is_waited_for = workers->left_to_waiters != latest->left_to_waiters;
	is_stuck = workers->begun == latest->begun && !is_waited_for;
	*latest = (struct progress){ workers->begun, workers->left_to_waiters };
	/* As long as workers get on with it, two for each CPU are enough. */
	must_start = must_grow(workers) && (is_stuck || workers->workers < 2 * ta_possible_cpus());
	workers->workers += must_start;
	if (has_work && is_stuck) {
		call = ta_workers_call(workers, 1);
		atomic_store(&process->leaves_to_waiter, false);
	}
	workers->looks_again = (has_work || is_waited_for) && has_more(workers);
	if (workers->paused_until_ns > 0 && ta_now_ns() >= workers->paused_until_ns)
		workers->paused_until_ns = 0;
	if (workers->looks_again)
		look_again_ns = ta_now_ns() + LOOK_NS;
	else if (workers->paused_until_ns > 0)
		look_again_ns = workers->paused_until_ns;
	ta_unlock(&process->offload_lock);
	call.supervisor = false;
	ta_workers_wake(workers, call);
	return must_start ? start_worker(workers) : look_again_ns;
}

static void end_alone(struct ta_workers *workers)
{
	struct ta_process *process = ta_process();
	struct ta_operation *operation;

	for (;;) {
		ta_lock(&process->offload_lock);
		operation = must_end_alone(workers) ? ta_queue_next(workers) : NULL;
		ta_unlock(&process->offload_lock);
		if (!operation)
			return;
		ta_operation_ended(operation, operation->ready_result);
	}
}

/* The descriptors: 0, or a negative errno. */
static int make_table(struct ta_workers *workers)
{
	struct ta_limit before;
	int result = 0;

	if (workers->owns_table)
		result = ta_table_make(&workers->table, TA_OWN_SENDER);
	if (result < 0)
		return result;
	if (workers->owns_table)
		workers->wake_fd = ta_wake_fd_make();
	before = ta_table_lift_limit(UINT64_MAX);
	result = ta_poller_open(workers);
	ta_table_lower_limit(before);
	return result;
}

/* Everything that what is accepted will need: 0, or a negative errno. */
static int make_all(struct ta_workers *workers)
{
	int result = make_table(workers);

	if (result < 0)
		return result;
	workers->workers = 1;
	atomic_fetch_add(&workers->waiting, 2);
	result = ta_thread_start("trueaio-worker", STACK_BYTES, worker, workers);
	if (result < 0) {
		atomic_fetch_sub(&workers->waiting, 2);
		return result;
	}
	result = ta_thread_start("trueaio-poller", STACK_BYTES, ta_poller, workers);
	if (result < 0)
		atomic_fetch_sub(&workers->waiting, 1);
	return result;
}

static void turn_gate(struct ta_workers *workers, enum ta_gate gate)
{
	atomic_store(&workers->gate, gate);
	ta_futex_wake(&workers->gate, INT32_MAX);
}

bool ta_workers_pass_gate(struct ta_workers *workers)
{
	uint32_t gate;

	while ((gate = atomic_load(&workers->gate)) < TA_GATE_OPEN)
		ta_futex_wait(&workers->gate, gate, TA_NO_DEADLINE);
	if (gate == TA_GATE_OPEN) {
		if (workers->owns_table) {
			ta_thread.table = &workers->table;
			ta_thread_becomes_foreign(workers->wake_fd);
		}
		return true;
	}
	atomic_fetch_sub(&workers->waiting, 1);
	/* The memory may be gone by now: waking an address that is no more does nothing. */
	ta_futex_wake(&workers->waiting, 1);
	return false;
}

static void *supervisor(void *argument)
{
	struct ta_workers *workers = argument;
	struct progress latest = { 0 };
	uint32_t seen;
	int64_t look_again_ns;

	workers->error = make_all(workers);
	turn_gate(workers, TA_GATE_MADE);
	if (!ta_workers_pass_gate(workers))
		return NULL;
	for (;;) {
		seen = atomic_load(&workers->supervisor_word);
		tidy_up(workers);
		look_again_ns = grow(workers, &latest);
		end_alone(workers);
		ta_futex_wait(&workers->supervisor_word, seen, look_again_ns);
	}
	return NULL;
}

/* ---- opening --------------------------------------------------------------------------------- */

/* Is there a use in trying the same once more, later? */
static bool is_shortage(int error)
{
	return error == -EAGAIN || error == -ENOMEM || error == -EMFILE || error == -ENFILE ||
	       error == -ENOBUFS;
}

/* Starts the supervisor and waits until it has made everything. */
static int start_supervisor(struct ta_workers *workers)
{
	int result;

	atomic_store(&workers->waiting, 1);
	result = ta_thread_start("trueaio-super", STACK_BYTES, supervisor, workers);
	if (result < 0) {
		atomic_store(&workers->waiting, 0);
		return result;
	}
	while (atomic_load(&workers->gate) == TA_GATE_MAKING)
		ta_futex_wait(&workers->gate, TA_GATE_MAKING, TA_NO_DEADLINE);
	result = workers->error;
	return result == 0 && workers->owns_table ? ta_table_try(&workers->table) : result;
}

static int open_with(struct ta_process *process, bool own_table)
{
	struct ta_workers *workers = ta_pages_alloc(sizeof(*workers));
	uint32_t waiting;
	int result;

	if (!workers)
		return -ENOMEM;
	workers->limit = ta_settings()->threads;
	/* The first connection, while there is a descriptor for it. */
	workers->owns_table = workers->receive_wanted = own_table;
	process->workers = workers;
	result = start_supervisor(workers);
	turn_gate(workers, result == 0 ? TA_GATE_OPEN : TA_GATE_CLOSED);
	if (result == 0) {
		/* A filter that comes later finds the way of this table's sender made. */
		while (own_table && atomic_load(&workers->received_word) == 0)
			ta_futex_wait(&workers->received_word, 0, TA_NO_DEADLINE);
		ta_log("threads: %u at most%s", workers->limit,
		       own_table ? "" : ", without a descriptor table of their own");
		return 0;
	}
	while ((waiting = atomic_load(&workers->waiting)) > 0)
		ta_futex_wait(&workers->waiting, waiting, TA_NO_DEADLINE);
	process->workers = NULL;
	ta_pages_free(workers, sizeof(*workers));
	return result;
}

int ta_threads_open(struct ta_process *process)
{
	int result = open_with(process, true);

	if (result < 0 && !is_shortage(result))
		result = open_with(process, false);
	if (result < 0)
		ta_log("threads: none can be started");
	return result;
}
