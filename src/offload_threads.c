/* SPDX-License-Identifier: MIT */
/*
 * Threads of our own that carry out operations.
 *
 * The threads share a descriptor table that is not the program's, and in it are only the files that
 * operations refer to.  So an operation means the file of its io_submit whatever the program does
 * with the number since; and because record locks belong to a descriptor table, closing a file
 * there drops none of the program's.  A file gets there as a message (SCM_RIGHTS), which io_submit
 * sends and the first thread that needs the file takes out of the socket.
 *
 * The *keeper* made the table and starts the other threads, so that they share it; it also ends
 * what was cancelled, because no worker may be free to do so.  *Workers* carry out operations, in
 * order of submission within a file.  Their number grows while operations are queued and nobody is
 * idle, and shrinks when they are.  One file, by however many descriptors, can take half of the
 * workers that others leave, never all: a file that hangs leaves the rest alone.  No worker waits
 * for a pipe, a socket or a terminal: an operation that finds nothing there is *parked*, and the
 * *poller* queues it again when its file is ready.  A POLL request is nothing but parked.
 *
 * offload_lock guards everything here but the numbers of files that are on their way, which
 * receive_lock guards.
 */
#include "threads.h"

#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/epoll.h>
#include <sys/socket.h>

/* Descriptors of the table that are no files of the program. */
#define OWN_DESCRIPTORS 8
/* A worker without work goes after so long. */
#define IDLE_NS 1000000000LL
/* With this between two new workers, those there are have a chance to be done. */
#define GROWTH_NS 100000LL

/* ---- lists of operations --------------------------------------------------------------------- */

void ta_threads_queue_push(struct ta_threads *threads, struct ta_threads_file *file,
			   struct ta_operation *operation)
{
	operation->is_queued = true;
	operation->queue_next = NULL;
	operation->queue_previous = file->queue_tail;
	if (file->queue_tail)
		file->queue_tail->queue_next = operation;
	else
		file->queue_head = operation;
	file->queue_tail = operation;
	if (file->is_listed)
		return;
	file->is_listed = true;
	file->list_next = NULL;
	if (threads->list_tail)
		threads->list_tail->list_next = file;
	else
		threads->list_head = file;
	threads->list_tail = file;
}

static void queue_remove(struct ta_threads_file *file, struct ta_operation *operation)
{
	operation->is_queued = false;
	if (operation->queue_previous)
		operation->queue_previous->queue_next = operation->queue_next;
	else
		file->queue_head = operation->queue_next;
	if (operation->queue_next)
		operation->queue_next->queue_previous = operation->queue_previous;
	else
		file->queue_tail = operation->queue_previous;
}

/* ---- who may run ----------------------------------------------------------------------------- */

/*
 * Whose share an operation takes: its file's; an fsync has one beside it, because it waits for no
 * later request.
 */
static uint32_t share_of(const struct ta_threads_file *file, const struct ta_operation *operation)
{
	return 2 * file->group + (operation->is_sync ? 1 : 0);
}

/* Half of the workers that other files leave, and one at least. */
static bool may_run(const struct ta_threads *threads, const struct ta_threads_file *file)
{
	uint32_t own =
		file->queue_head ? threads->group_running[share_of(file, file->queue_head)] : 0;
	uint32_t others = threads->running - own;
	uint32_t left = threads->limit > others ? threads->limit - others : 0;
	uint32_t share = (left + 1) / 2;

	return file->queue_head && own < (share > 0 ? share : 1);
}

static bool has_work(const struct ta_threads *threads)
{
	const struct ta_threads_file *file;

	for (file = threads->list_head; file; file = file->list_next)
		if (may_run(threads, file))
			return true;
	return false;
}

/* Takes the file out of the list, and puts it at its end if it has more: files take turns. */
static void take_turn(struct ta_threads *threads, struct ta_threads_file *file,
		      struct ta_threads_file *previous)
{
	if (previous)
		previous->list_next = file->list_next;
	else
		threads->list_head = file->list_next;
	if (threads->list_tail == file)
		threads->list_tail = previous;
	file->list_next = NULL;
	file->is_listed = file->queue_head != NULL;
	if (!file->is_listed)
		return;
	if (threads->list_tail)
		threads->list_tail->list_next = file;
	else
		threads->list_head = file;
	threads->list_tail = file;
}

/* The next operation whose turn it is, taken off its queue; NULL: none. */
static struct ta_operation *next_operation(struct ta_threads *threads)
{
	struct ta_threads_file *file = threads->list_head, *previous = NULL, *following;
	struct ta_operation *operation;

	while (file && !may_run(threads, file)) {
		following = file->list_next;
		if (file->queue_head)
			previous = file;
		else
			/* Its last operation was cancelled. */
			take_turn(threads, file, previous);
		file = following;
	}
	if (!file)
		return NULL;
	operation = file->queue_head;
	queue_remove(file, operation);
	take_turn(threads, file, previous);
	threads->group_running[share_of(file, operation)]++;
	threads->running++;
	threads->begun++;
	if (operation->state != TA_OPERATION_RUNNING) {
		operation->state = TA_OPERATION_RUNNING;
		ta_transfer_skip(operation, operation->transferred);
	}
	return operation;
}

void ta_threads_wake_keeper(struct ta_threads *threads)
{
	atomic_fetch_add(&threads->keeper_word, 1);
	ta_futex_wake(&threads->keeper_word, 1);
}

static bool must_grow(const struct ta_threads *threads)
{
	return threads->idle == 0 && threads->workers < threads->limit && has_work(threads);
}

/* offload_lock is held, and let go: somebody takes what has been queued. */
void ta_threads_announce_work(struct ta_threads *threads)
{
	bool wake_worker = threads->idle > 0;
	bool grow = must_grow(threads);

	if (wake_worker)
		atomic_fetch_add(&threads->work_word, 1);
	ta_unlock(&ta_process()->offload_lock);
	if (wake_worker)
		ta_futex_wake(&threads->work_word, 1);
	else if (grow)
		ta_threads_wake_keeper(threads);
}

static void carry_out(struct ta_threads *threads, struct ta_operation *operation)
{
	struct ta_threads_file *file = ta_threads_file_of(threads, operation);
	uint32_t group = share_of(file, operation);
	int number = ta_threads_number(threads, file);
	struct ta_process *process = ta_process();
	bool is_over = true;
	long result;

	if (number == TA_NUMBER_LOST) {
		result = -EMFILE;
	} else if (operation->opcode == IO_CMD_POLL) {
		result = -ECANCELED;
		is_over = !ta_threads_park(threads, operation, operation->poll_events);
	} else if (operation->is_stream) {
		is_over = ta_threads_carry_out_stream(threads, operation, number, &result);
	} else {
		result = ta_threads_carry_out_file(operation, number);
	}
	ta_lock(&process->offload_lock);
	if (is_over)
		operation->state = TA_OPERATION_ENDED;
	threads->group_running[group]--;
	threads->running--;
	ta_unlock(&process->offload_lock);
	if (is_over)
		ta_operation_ended(operation, result);
}

static void *worker(void *argument)
{
	struct ta_threads *threads = argument;
	struct ta_process *process = ta_process();
	struct ta_operation *operation;
	bool timed_out, grow;
	uint32_t seen;

	ta_threads_enter_table(threads);
	ta_lock(&process->offload_lock);
	for (;;) {
		operation = next_operation(threads);
		if (operation) {
			grow = must_grow(threads);
			ta_unlock(&process->offload_lock);
			if (grow)
				ta_threads_wake_keeper(threads);
			carry_out(threads, operation);
			ta_lock(&process->offload_lock);
			continue;
		}
		threads->idle++;
		seen = atomic_load(&threads->work_word);
		ta_unlock(&process->offload_lock);
		timed_out = ta_futex_wait(&threads->work_word, seen, ta_now_ns() + IDLE_NS) ==
			    -ETIMEDOUT;
		ta_lock(&process->offload_lock);
		threads->idle--;
		if (timed_out && !has_work(threads))
			break;
	}
	threads->workers--;
	ta_unlock(&process->offload_lock);
	return NULL;
}

/* ---- the keeper ------------------------------------------------------------------------------ */

static void close_files(struct ta_threads *threads, int index)
{
	while (index >= 0) {
		int following = threads->files[index].next;

		ta_threads_close_file(threads, index);
		index = following;
	}
}

/* What others have left to the keeper. */
static void tidy_up(struct ta_threads *threads)
{
	struct ta_process *process = ta_process();
	struct ta_operation *ended;
	bool receive_wanted;
	int closing;

	ta_lock(&process->offload_lock);
	ended = threads->ended;
	threads->ended = NULL;
	closing = threads->closing;
	threads->closing = -1;
	receive_wanted = threads->receive_wanted;
	threads->receive_wanted = false;
	ta_unlock(&process->offload_lock);
	if (receive_wanted)
		ta_threads_receive_all(threads);
	ta_threads_end_all(ended);
	close_files(threads, closing);
}

/* No thread is to be had.  If there is not a single worker, the keeper is one for the moment. */
static void work_alone(struct ta_threads *threads)
{
	struct ta_process *process = ta_process();
	struct ta_operation *operation;

	ta_lock(&process->offload_lock);
	operation = threads->workers == 0 ? next_operation(threads) : NULL;
	ta_unlock(&process->offload_lock);
	if (operation)
		carry_out(threads, operation);
}

/*
 * Starts one worker if there is need.  True: look again after a moment, whether that was enough.
 */
static bool grow(struct ta_threads *threads, uint64_t *begun)
{
	struct ta_process *process = ta_process();
	bool wanted, stuck;

	ta_lock(&process->offload_lock);
	wanted = must_grow(threads);
	/* As long as workers get on with it, two for each CPU are enough. */
	stuck = threads->begun == *begun || threads->workers < 2 * ta_possible_cpus();
	*begun = threads->begun;
	if (wanted && stuck)
		threads->workers++;
	ta_unlock(&process->offload_lock);
	if (wanted && stuck && ta_thread_start(worker, threads) < 0) {
		ta_lock(&process->offload_lock);
		threads->workers--;
		ta_unlock(&process->offload_lock);
		work_alone(threads);
	}
	return wanted;
}

static void *keeper(void *argument)
{
	struct ta_threads *threads = argument;
	enum keeper_state state = KEEPER_FAILED;
	uint64_t begun = 0;
	uint32_t seen;

	if (threads->take_table(threads)) {
		threads->wake_fd = (int)ta_syscall2(SYS_eventfd2, 0, EFD_CLOEXEC | EFD_NONBLOCK);
		threads->epoll = (int)ta_syscall1(SYS_epoll_create1, EPOLL_CLOEXEC);
		ta_threads_enter_table(threads);
		if (threads->wake_fd >= 0 && threads->epoll >= 0 &&
		    ta_thread_start(ta_threads_poller, threads) == 0)
			state = KEEPER_READY;
	}
	atomic_store(&threads->state, state);
	ta_futex_wake(&threads->state, 1);
	while (state == KEEPER_READY) {
		seen = atomic_load(&threads->keeper_word);
		tidy_up(threads);
		ta_futex_wait(&threads->keeper_word, seen,
			      grow(threads, &begun) ? ta_now_ns() + GROWTH_NS : TA_NO_DEADLINE);
	}
	return NULL;
}

/* ---- opening --------------------------------------------------------------------------------- */

static bool start_keeper(struct ta_threads *threads, bool (*take_table)(struct ta_threads *threads))
{
	uint32_t state;

	threads->take_table = take_table;
	atomic_store(&threads->state, KEEPER_STARTING);
	if (ta_thread_start(keeper, threads) < 0)
		return false;
	while ((state = atomic_load(&threads->state)) == KEEPER_STARTING)
		ta_futex_wait(&threads->state, KEEPER_STARTING, TA_NO_DEADLINE);
	return state == KEEPER_READY;
}

/* True: files are held in a table of our own. */
static bool start_with_own_table(struct ta_threads *threads)
{
	struct ta_file_identity identity;
	int ends[2];
	bool started;

	if (ta_syscall4(SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		return false;
	threads->sender = ta_high_descriptor(ends[0]);
	threads->owns_table = true;
	started = ta_file_identify(threads->sender, &identity) == 0;
	threads->sender_inode = identity.inode;
	threads->receiver = ends[1];
	if (started && !start_keeper(threads, ta_threads_take_empty_table)) {
		threads->receiver = ends[1];
		started = start_keeper(threads, ta_threads_copy_table);
	}
	ta_syscall1(SYS_close, ends[1]);
	if (started) {
		ta_inherited_add(threads->sender);
		return true;
	}
	ta_syscall1(SYS_close, threads->sender);
	threads->owns_table = false;
	return false;
}

static bool stay_in_table(struct ta_threads *threads)
{
	return !threads->owns_table;
}

int ta_threads_open(struct ta_process *process)
{
	uint64_t limit = ta_descriptor_limit();
	size_t bytes =
		sizeof(struct ta_threads) + TA_THREADS_FILES_MAX * sizeof(struct ta_threads_file);
	struct ta_threads *threads = ta_pages_alloc(bytes);

	if (!threads)
		return -ENOMEM;
	threads->limit = ta_settings()->threads;
	threads->file_limit = limit < TA_THREADS_FILES_MAX ? (uint32_t)limit : TA_THREADS_FILES_MAX;
	threads->file_limit -= threads->file_limit > OWN_DESCRIPTORS ? OWN_DESCRIPTORS : 0;
	threads->closing = -1;
	threads->free_file = -1;
	process->threads = threads;
	if (ta_messenger_start() == 0 && start_with_own_table(threads)) {
		ta_log("threads: %u at most", threads->limit);
		return 0;
	}
	if (start_keeper(threads, stay_in_table)) {
		ta_log("threads: %u at most, without a descriptor table of their own",
		       threads->limit);
		return 0;
	}
	process->threads = NULL;
	ta_pages_free(threads, bytes);
	ta_log("threads: none is to be had");
	return -EAGAIN;
}

/* ---- what the program's threads do ----------------------------------------------------------- */

/* The keeper ends it.  offload_lock is held, and let go. */
static void leave_to_keeper(struct ta_threads *threads, struct ta_operation *operation)
{
	operation->state = TA_OPERATION_ENDED;
	operation->ready_result = -ECANCELED;
	operation->queue_next = threads->ended;
	threads->ended = operation;
	ta_unlock(&ta_process()->offload_lock);
	ta_threads_wake_keeper(threads);
}

void ta_threads_submit(struct ta_operation *operation)
{
	struct ta_threads *threads = ta_threads_get();
	struct ta_threads_file *file = ta_threads_file_of(threads, operation);

	if (operation->cancelled && operation->state != TA_OPERATION_RUNNING) {
		if (operation->is_queued)
			queue_remove(file, operation);
		leave_to_keeper(threads, operation);
		return;
	}
	ta_threads_queue_push(threads, file, operation);
	ta_threads_announce_work(threads);
}

/* Takes a parked operation, or one queued again after it, out of its list.  The lock is held. */
static bool withdraw(struct ta_threads *threads, struct ta_operation *operation)
{
	if (operation->is_parked)
		ta_threads_parked_remove(ta_threads_file_of(threads, operation), operation);
	else if (operation->is_queued)
		queue_remove(ta_threads_file_of(threads, operation), operation);
	else
		return false;
	return true;
}

int ta_threads_cancel(struct ta_operation *operation)
{
	struct ta_threads *threads = ta_threads_get();
	struct ta_process *process = ta_process();
	int result = -EALREADY;

	ta_lock(&process->offload_lock);
	if (withdraw(threads, operation)) {
		leave_to_keeper(threads, operation);
		return 0;
	}
	/* A POLL with a worker is about to be parked, and will not be. */
	if (operation->opcode == IO_CMD_POLL && operation->state == TA_OPERATION_RUNNING) {
		operation->abandon_wanted = true;
		result = 0;
	}
	ta_unlock(&process->offload_lock);
	return result;
}

void ta_threads_abandon(struct ta_operation *operation)
{
	struct ta_threads *threads = ta_threads_get();
	struct ta_process *process = ta_process();

	ta_lock(&process->offload_lock);
	if (withdraw(threads, operation)) {
		leave_to_keeper(threads, operation);
		return;
	}
	operation->abandon_wanted = true;
	ta_unlock(&process->offload_lock);
}

/* At its maximum an eventfd is not writable, and readable as it should be. */
void ta_threads_signal(struct ta_operation *operation)
{
	struct ta_threads *threads = ta_threads_get();
	int number = ta_threads_number(threads, &threads->files[operation->eventfd->file]);
	const uint64_t one = 1;

	if (ta_file_poll(number, POLLOUT) > 0)
		ta_syscall3(SYS_write, number, &one, sizeof(one));
	ta_complete_end(operation);
}
