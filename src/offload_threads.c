/* SPDX-License-Identifier: MIT */
/*
 * The offloader on threads of our own, for machines that refuse io_uring.
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
 * idle, and shrinks when they are.  One file can take half of the workers that others leave, never
 * all: a file that hangs leaves the rest alone.  No worker waits for a pipe, a socket or a terminal:
 * an operation that finds nothing there is *parked*, and the *poller* queues it again when its file
 * is ready.  A POLL request is nothing but parked.
 *
 * offload_lock guards everything here but the numbers of files that are on their way (receive_lock).
 */
#include "offload.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>

#ifndef RWF_HIPRI
#define RWF_HIPRI 0x00000001
#endif
#ifndef RWF_NOWAIT
#define RWF_NOWAIT 0x00000008
#endif

/* Files held at a time; fewer where RLIMIT_NOFILE is lower. */
#define FILES_MAX 65536u
/* Descriptors of the table that are no files of the program. */
#define OWN_DESCRIPTORS 8
/* A worker without work goes after so long. */
#define IDLE_NS 1000000000LL
/* With this between two new workers, those there are have a chance to be done. */
#define GROWTH_NS 100000LL
/* Waiting for the keeper to empty the socket. */
#define RECEIVE_ATTEMPTS 500
#define RECEIVE_NS 10000000LL
/*
 * What a terminal or an old kernel's pipe takes without waiting when it says that it takes any.
 */
#define TERMINAL_CHUNK 128
#define PIPE_CHUNK 4096
#define CHUNK_PARTS 16

/* No event has this bit: with it, waiting for nothing but errors is something, too. */
#define IS_ARMED 0x10000u

#define NUMBER_COMING (-1) /* in the socket */
#define NUMBER_LOST (-2) /* the table had no room for it */

struct file {
	_Atomic int number; /* in the table; receive_lock, or nobody else knows the file yet */
	int next; /* index of the next free, or to be closed */
	uint32_t running; /* of its operations, with workers */
	bool is_listed; /* has queued operations, and stands in the list of such files */
	bool is_watched; /* known to epoll */
	bool is_arming; /* a thread is telling epoll what to watch for */
	uint32_t wanted_events; /* by the parked ones, and IS_ARMED */
	uint32_t armed_events; /* what epoll has been told, 0 once it has reported */
	uint32_t generation; /* changes when the place is given back */
	struct file *list_next;
	struct ta_operation *queue_head;
	struct ta_operation *queue_tail;
	struct ta_operation *parked;
};

struct ta_threads {
	int sender; /* in the program's table */
	uint64_t sender_inode;
	int receiver; /* in the keeper's */
	int epoll;
	int wake_fd; /* an eventfd that is never signalled */
	bool owns_table;
	bool (*take_table)(struct ta_threads *threads); /* what the keeper does first */
	_Atomic uint32_t state; /* of the keeper: enum keeper_state */

	uint32_t limit; /* workers at most */
	uint32_t workers;
	uint32_t idle;
	uint32_t running;
	uint64_t begun; /* operations, ever */
	_Atomic uint32_t work_word; /* changes when there is work for an idle worker */
	struct file *list_head; /* files with queued operations */
	struct file *list_tail;

	_Atomic uint32_t keeper_word; /* changes when there is work for the keeper */
	struct ta_operation *ended; /* cancelled ones that wait for their end */
	int closing; /* files to be given back; -1: none */
	bool receive_wanted;
	_Atomic uint32_t received_word; /* changes when the socket has been emptied */

	struct ta_lock receive_lock;
	uint32_t file_limit;
	uint32_t file_count; /* ever used */
	int free_file; /* -1: none */
	struct file files[];
};

enum keeper_state { KEEPER_STARTING, KEEPER_READY, KEEPER_FAILED };

static struct ta_threads *the_threads(void)
{
	return ta_process()->threads;
}

/* Said by each thread that shares the table, unless that is the program's. */
static void enter_table(const struct ta_threads *threads)
{
	if (threads->owns_table)
		ta_thread_becomes_foreign(threads->wake_fd);
}

static struct file *file_of(struct ta_threads *threads, const struct ta_operation *operation)
{
	return &threads->files[operation->hold->file];
}

/* ---- lists of operations --------------------------------------------------------------------- */

static void queue_push(struct ta_threads *threads, struct file *file,
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

static void queue_remove(struct file *file, struct ta_operation *operation)
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

static void parked_push(struct file *file, struct ta_operation *operation)
{
	operation->is_parked = true;
	operation->queue_previous = NULL;
	operation->queue_next = file->parked;
	if (file->parked)
		file->parked->queue_previous = operation;
	file->parked = operation;
}

static void parked_remove(struct file *file, struct ta_operation *operation)
{
	operation->is_parked = false;
	if (operation->queue_previous)
		operation->queue_previous->queue_next = operation->queue_next;
	else
		file->parked = operation->queue_next;
	if (operation->queue_next)
		operation->queue_next->queue_previous = operation->queue_previous;
}

/* ---- who may run ----------------------------------------------------------------------------- */

/* Half of the workers that other files leave, and one at least. */
static bool may_run(const struct ta_threads *threads, const struct file *file)
{
	uint32_t others = threads->running - file->running;
	uint32_t left = threads->limit > others ? threads->limit - others : 0;
	uint32_t share = (left + 1) / 2;

	return file->queue_head && file->running < (share > 0 ? share : 1);
}

static bool has_work(const struct ta_threads *threads)
{
	const struct file *file;

	for (file = threads->list_head; file; file = file->list_next)
		if (may_run(threads, file))
			return true;
	return false;
}

/* Takes the file out of the list, and puts it at its end if it has more: files take turns. */
static void take_turn(struct ta_threads *threads, struct file *file, struct file *previous)
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
	struct file *file = threads->list_head, *previous = NULL, *following;
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
	file->running++;
	threads->running++;
	threads->begun++;
	if (operation->state != TA_OPERATION_RUNNING) {
		operation->state = TA_OPERATION_RUNNING;
		ta_transfer_skip(operation, operation->transferred);
	}
	return operation;
}

static void wake_keeper(struct ta_threads *threads)
{
	atomic_fetch_add(&threads->keeper_word, 1);
	ta_futex_wake(&threads->keeper_word, 1);
}

static bool must_grow(const struct ta_threads *threads)
{
	return threads->idle == 0 && threads->workers < threads->limit && has_work(threads);
}

/* offload_lock is held, and let go: somebody takes what has been queued. */
static void announce_work(struct ta_threads *threads)
{
	bool wake_worker = threads->idle > 0;
	bool grow = must_grow(threads);

	if (wake_worker)
		atomic_fetch_add(&threads->work_word, 1);
	ta_unlock(&ta_process()->offload_lock);
	if (wake_worker)
		ta_futex_wake(&threads->work_word, 1);
	else if (grow)
		wake_keeper(threads);
}

/* ---- files ----------------------------------------------------------------------------------- */

/* Takes one file out of the socket.  receive_lock is held.  False: there is none. */
static bool receive_one(struct ta_threads *threads)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	uint32_t index;
	struct iovec payload = { &index, sizeof(index) };
	struct msghdr message = {
		.msg_iov = &payload,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	int number = NUMBER_LOST;

	if (ta_syscall3(SYS_recvmsg, threads->receiver, &message,
			MSG_DONTWAIT | MSG_CMSG_CLOEXEC) != (long)sizeof(index))
		return false;
	if (message.msg_controllen >= sizeof(control.header) &&
	    control.header.cmsg_type == SCM_RIGHTS)
		memcpy(&number, CMSG_DATA(&control.header), sizeof(number));
	/* release: whoever sees the number sees the table that it is in. */
	atomic_store_explicit(&threads->files[index].number, number, memory_order_release);
	return true;
}

/* The descriptor of a file in the table of this thread; NUMBER_LOST if it did not get there. */
static int number_of(struct ta_threads *threads, struct file *file)
{
	/* acquire: pairs with the release in receive_one. */
	int number = atomic_load_explicit(&file->number, memory_order_acquire);

	if (ta_likely(number != NUMBER_COMING))
		return number;
	ta_lock(&threads->receive_lock);
	while (atomic_load(&file->number) == NUMBER_COMING && receive_one(threads))
		;
	ta_unlock(&threads->receive_lock);
	number = atomic_load(&file->number);
	return number == NUMBER_COMING ? NUMBER_LOST : number;
}

/* The socket's number may be the program's by now: then nothing must be sent there. */
static bool sender_is_ours(const struct ta_threads *threads)
{
	struct ta_file_identity identity;

	return ta_file_identify(threads->sender, &identity) == 0 &&
	       identity.inode == threads->sender_inode;
}

static long send_file(const struct ta_threads *threads, uint32_t index, int fd)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec payload = { &index, sizeof(index) };
	struct msghdr message = {
		.msg_iov = &payload,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};

	memset(&control, 0, sizeof(control));
	control.header.cmsg_level = SOL_SOCKET;
	control.header.cmsg_type = SCM_RIGHTS;
	control.header.cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
	return ta_syscall3(SYS_sendmsg, threads->sender, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* The socket is full, or as many files are under way as the user may have: the keeper empties it. */
static void wait_until_received(struct ta_threads *threads)
{
	uint32_t seen = atomic_load(&threads->received_word);

	ta_lock(&ta_process()->offload_lock);
	threads->receive_wanted = true;
	ta_unlock(&ta_process()->offload_lock);
	wake_keeper(threads);
	ta_futex_wait(&threads->received_word, seen, ta_now_ns() + RECEIVE_NS);
}

static int send_to_table(struct ta_threads *threads, uint32_t index, int fd)
{
	int attempts;
	long result = -EAGAIN;

	if (!sender_is_ours(threads)) {
		ta_offload_lost(&ta_threads_offloader);
		return -ENFILE;
	}
	for (attempts = 0; attempts < RECEIVE_ATTEMPTS; attempts++) {
		result = send_file(threads, index, fd);
		if (result >= 0)
			return 0;
		if (result != -EAGAIN && result != -ETOOMANYREFS && result != -ENOBUFS)
			break;
		wait_until_received(threads);
	}
	return result == -EBADF ? -EBADF : -ENFILE;
}

static int take_file(struct ta_threads *threads)
{
	struct ta_process *process = ta_process();
	int index = -ENFILE;

	ta_lock(&process->offload_lock);
	if (threads->free_file >= 0) {
		index = threads->free_file;
		threads->free_file = threads->files[index].next;
	} else if (threads->file_count < threads->file_limit) {
		index = (int)threads->file_count++;
	}
	ta_unlock(&process->offload_lock);
	return index;
}

static void put_file(struct ta_threads *threads, int index)
{
	struct ta_process *process = ta_process();

	ta_lock(&process->offload_lock);
	threads->files[index].next = threads->free_file;
	threads->free_file = index;
	ta_unlock(&process->offload_lock);
}

static int capture(int fd)
{
	struct ta_threads *threads = the_threads();
	int index = take_file(threads);
	int result;

	if (index < 0)
		return index;
	if (!threads->owns_table) {
		/* Then the number must do: what it means when the operation is carried out. */
		atomic_store(&threads->files[index].number, fd);
		return index;
	}
	atomic_store(&threads->files[index].number, NUMBER_COMING);
	result = send_to_table(threads, (uint32_t)index, fd);
	if (result < 0) {
		put_file(threads, index);
		return result;
	}
	return index;
}

/* On a thread that shares the table. */
static void close_file(struct ta_threads *threads, int index)
{
	struct file *file = &threads->files[index];
	struct ta_process *process = ta_process();
	int number = number_of(threads, file);

	/* The program's own descriptor would keep the file known to epoll. */
	if (file->is_watched)
		ta_syscall4(SYS_epoll_ctl, threads->epoll, EPOLL_CTL_DEL, number, NULL);
	ta_lock(&process->offload_lock);
	file->is_watched = false;
	file->is_arming = false;
	file->wanted_events = 0;
	file->armed_events = 0;
	file->generation++;
	ta_unlock(&process->offload_lock);
	if (threads->owns_table && number >= 0)
		ta_syscall1(SYS_close, number);
	put_file(threads, index);
}

static void release(int index)
{
	struct ta_threads *threads = the_threads();
	struct ta_process *process = ta_process();

	if (ta_thread.is_foreign || !threads->owns_table) {
		close_file(threads, index);
		return;
	}
	ta_lock(&process->offload_lock);
	threads->files[index].next = threads->closing;
	threads->closing = index;
	ta_unlock(&process->offload_lock);
	wake_keeper(threads);
}

/* ---- parking --------------------------------------------------------------------------------- */

/* Tells epoll to report the file once.  The number may be known there, or not, by a former use. */
static int tell_epoll(const struct ta_threads *threads, int number, struct epoll_event event)
{
	long result = ta_syscall4(SYS_epoll_ctl, threads->epoll, EPOLL_CTL_MOD, number, &event);

	if (result == -ENOENT)
		result = ta_syscall4(SYS_epoll_ctl, threads->epoll, EPOLL_CTL_ADD, number, &event);
	return (int)result;
}

/*
 * epoll asks the file, and a file of FUSE asks its server: so no lock is held meanwhile.  Only one
 * thread at a time arms a file; another that parks an operation there meanwhile leaves it to that
 * one, which looks again.  offload_lock is held, and let go meanwhile.  0 or a negative errno.
 */
static int arm(struct ta_threads *threads, struct file *file)
{
	struct ta_process *process = ta_process();
	uint32_t generation = file->generation;
	int result = 0;

	while (result == 0 && !file->is_arming && file->parked &&
	       file->wanted_events != file->armed_events) {
		struct epoll_event event = {
			.events = (file->wanted_events & ~(uint32_t)IS_ARMED) | EPOLLONESHOT,
			.data.u64 = (uint64_t)(file - threads->files),
		};
		int number = atomic_load(&file->number);

		file->is_arming = true;
		file->is_watched = true;
		file->armed_events = file->wanted_events;
		ta_unlock(&process->offload_lock);
		result = tell_epoll(threads, number, event);
		ta_lock(&process->offload_lock);
		/* What was parked may be over, and the place in other hands. */
		if (file->generation != generation)
			return 0;
		file->is_arming = false;
		if (result < 0)
			file->armed_events = 0;
	}
	return result;
}

/* A file that cannot be waited for: so ends what waits for it.  offload_lock is held. */
static struct ta_operation *give_up_waiting(struct file *file, long result)
{
	struct ta_operation *given_up = NULL, *operation;

	while ((operation = file->parked) != NULL) {
		parked_remove(file, operation);
		operation->state = TA_OPERATION_ENDED;
		operation->ready_result = result;
		operation->queue_next = given_up;
		given_up = operation;
	}
	return given_up;
}

static void end_all(struct ta_operation *operation)
{
	struct ta_operation *following;

	for (; operation; operation = following) {
		following = operation->queue_next;
		ta_operation_ended(operation, operation->ready_result);
	}
}

/*
 * The operation waits until its file is ready.  False: it is wanted no more, and still the
 * caller's.
 */
static bool park(struct ta_threads *threads, struct ta_operation *operation, uint16_t events)
{
	struct ta_process *process = ta_process();
	struct file *file = file_of(threads, operation);
	struct ta_operation *given_up = NULL;
	int result;

	ta_lock(&process->offload_lock);
	if (operation->abandon_wanted) {
		ta_unlock(&process->offload_lock);
		return false;
	}
	operation->poll_events = events;
	parked_push(file, operation);
	file->wanted_events |= events | IS_ARMED;
	result = arm(threads, file);
	if (result < 0)
		given_up = give_up_waiting(file, result);
	ta_unlock(&process->offload_lock);
	end_all(given_up);
	return true;
}

/* What a parked operation is told of, whether it asked or not, as from poll(2). */
static uint32_t wanted_events(const struct ta_operation *operation)
{
	return operation->poll_events | EPOLLERR | EPOLLHUP;
}

/*
 * Takes those off the file that it is ready for, and has the others watched again.  offload_lock is
 * held, and let go meanwhile.
 */
static struct ta_operation *unpark_ready(struct file *file)
{
	struct ta_process *process = ta_process();
	struct ta_operation *operation, *following, *ready = NULL;
	uint32_t generation = file->generation, there;
	int number = atomic_load(&file->number);
	uint16_t events = (uint16_t)file->wanted_events;

	if (!file->parked)
		return NULL;
	ta_unlock(&process->offload_lock);
	there = (uint32_t)ta_file_poll(number, events);
	ta_lock(&process->offload_lock);
	/* The file may have been given back meanwhile, and its place taken by another. */
	if (file->generation != generation)
		return NULL;
	file->wanted_events = IS_ARMED;
	for (operation = file->parked; operation; operation = following) {
		following = operation->queue_next;
		if (!(there & wanted_events(operation))) {
			file->wanted_events |= operation->poll_events;
			continue;
		}
		parked_remove(file, operation);
		if (operation->opcode == IO_CMD_POLL)
			operation->state = TA_OPERATION_ENDED;
		operation->ready_result = (long)(there & wanted_events(operation));
		operation->queue_next = ready;
		ready = operation;
	}
	return ready;
}

/* What had been reported once is not watched any more until it is armed again. */
static void look_at(struct ta_threads *threads, struct file *file)
{
	struct ta_process *process = ta_process();
	struct ta_operation *operation, *following, *given_up = NULL;
	int result;

	ta_lock(&process->offload_lock);
	file->armed_events = 0;
	operation = unpark_ready(file);
	result = arm(threads, file);
	if (result < 0)
		given_up = give_up_waiting(file, result);
	ta_unlock(&process->offload_lock);
	for (; operation; operation = following) {
		following = operation->queue_next;
		if (operation->opcode == IO_CMD_POLL) {
			ta_operation_ended(operation, operation->ready_result);
			continue;
		}
		ta_lock(&process->offload_lock);
		queue_push(threads, file_of(threads, operation), operation);
		announce_work(threads);
	}
	end_all(given_up);
}

static void *poller(void *argument)
{
	struct ta_threads *threads = argument;
	struct epoll_event event;

	enter_table(threads);
	for (;;)
		if (ta_syscall4(SYS_epoll_wait, threads->epoll, &event, 1, -1) == 1)
			look_at(threads, &threads->files[event.data.u64]);
	return NULL;
}

/* ---- carrying out ---------------------------------------------------------------------------- */

static long read_or_write(const struct ta_operation *operation, int number,
			  const struct iovec *vector, unsigned count, int64_t offset, int flags)
{
	long call = ta_transfer_is_write(operation) ? SYS_pwritev2 : SYS_preadv2;
	long high = sizeof(long) == 8 ? 0 : (long)((uint64_t)offset >> 32);
	long result;

	do
		result = ta_syscall(call, number, (long)vector, (long)count, (long)offset, high,
				    flags & ~RWF_HIPRI);
	while (result == -EINTR);
	return result;
}

/* What is left of the vector, by position; by the file's own where it has none to be given. */
static long transfer_rest(struct ta_operation *operation, int number, int flags)
{
	const struct iovec *vector = operation->vector + operation->vector_skipped;
	unsigned count = operation->vector_count - operation->vector_skipped;
	int64_t offset = operation->offset + (int64_t)operation->transferred;
	long result;

	if (operation->is_stream)
		return read_or_write(operation, number, vector, count, -1, flags);
	result = read_or_write(operation, number, vector, count, offset, flags);
	return result == -ESPIPE ? read_or_write(operation, number, vector, count, -1, flags)
				 : result;
}

static long transfer_at_position(struct ta_operation *operation, int number)
{
	long result = transfer_rest(operation, number, operation->flags);
	struct iovec aligned;

	if (result == -EINVAL && ta_transfer_may_bounce(operation) &&
	    ta_transfer_bounce(operation)) {
		aligned = (struct iovec){ operation->bounce, operation->bounce_bytes };
		result = read_or_write(operation, number, &aligned, 1,
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

	if (operation->nonblocking)
		return transfer_rest(operation, number, 0);
	if (ta_file_poll(number, events) == 0)
		return -EAGAIN;
	if (!ta_transfer_is_write(operation))
		return transfer_rest(operation, number, 0);
	if (ta_file_identify(number, &identity) < 0 || S_ISCHR(identity.mode))
		chunk = TERMINAL_CHUNK;
	count = first_bytes(operation, chunk, parts);
	return read_or_write(operation, number, parts, count, -1, 0);
}

/* One attempt, which does not wait. */
static long transfer_on_stream(struct ta_operation *operation, int number, uint16_t events)
{
	long result;

	if (operation->refusal)
		return operation->refusal;
	if (operation->is_socket)
		return ta_transfer_on_socket(operation, number);
	result = transfer_rest(operation, number, operation->flags | RWF_NOWAIT);
	if (result == -EOPNOTSUPP)
		return transfer_when_ready(operation, number, events);
	return result;
}

/* True: *result is the end of it.  False: it is parked, and in other hands. */
static bool carry_out_stream(struct ta_threads *threads, struct ta_operation *operation, int number,
			     long *result)
{
	bool writes = ta_transfer_is_write(operation);
	uint16_t events = writes ? POLLOUT : POLLIN;
	bool may_wait = !operation->nonblocking && !(operation->flags & RWF_NOWAIT);

	for (;;) {
		*result = transfer_on_stream(operation, number, events);
		if (*result == -EAGAIN && may_wait) {
			*result = -ECANCELED;
			return !park(threads, operation, events);
		}
		if (*result <= 0 || !writes || !may_wait)
			return true;
		ta_transfer_skip(operation, (size_t)*result);
		if (ta_transfer_left(operation) == 0)
			return true;
		operation->transferred += (size_t)*result;
	}
}

static long carry_out_file(struct ta_operation *operation, int number)
{
	const long which_process = 1, this_thread = 0;
	long before = 0, result;

	if (operation->is_sync)
		return ta_syscall1(operation->sync->group_data_only ? SYS_fdatasync : SYS_fsync,
				   number);
	if (operation->io_priority) {
		before = ta_syscall2(SYS_ioprio_get, which_process, this_thread);
		ta_syscall3(SYS_ioprio_set, which_process, this_thread, operation->io_priority);
	}
	result = transfer_at_position(operation, number);
	if (operation->io_priority && before >= 0)
		ta_syscall3(SYS_ioprio_set, which_process, this_thread, before);
	return result;
}

static void carry_out(struct ta_threads *threads, struct ta_operation *operation)
{
	struct file *file = file_of(threads, operation);
	int number = number_of(threads, file);
	struct ta_process *process = ta_process();
	bool is_over = true;
	long result;

	if (number == NUMBER_LOST) {
		result = -EMFILE;
	} else if (operation->opcode == IO_CMD_POLL) {
		result = -ECANCELED;
		is_over = !park(threads, operation, operation->poll_events);
	} else if (operation->is_stream) {
		is_over = carry_out_stream(threads, operation, number, &result);
	} else {
		result = carry_out_file(operation, number);
	}
	ta_lock(&process->offload_lock);
	if (is_over)
		operation->state = TA_OPERATION_ENDED;
	file->running--;
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

	enter_table(threads);
	ta_lock(&process->offload_lock);
	for (;;) {
		operation = next_operation(threads);
		if (operation) {
			grow = must_grow(threads);
			ta_unlock(&process->offload_lock);
			if (grow)
				wake_keeper(threads);
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

/* A table with the receiving end of the socket and nothing else. */
static bool take_empty_table(struct ta_threads *threads)
{
	long process_fd, number;

	if (ta_syscall3(SYS_close_range, 0, UINT32_MAX, CLOSE_RANGE_UNSHARE) < 0)
		return false;
	process_fd = ta_syscall2(SYS_pidfd_open, getpid(), 0);
	number = process_fd < 0 ? process_fd
				: ta_syscall3(SYS_pidfd_getfd, process_fd, threads->receiver, 0);
	if (process_fd >= 0)
		ta_syscall1(SYS_close, process_fd);
	if (number < 0)
		return false;
	threads->receiver = (int)number;
	return true;
}

/*
 * A copy of the program's table, emptied of all but the receiving end.  The second choice: closing
 * a copy of a file of FUSE or NFS asks its server.
 */
static bool copy_table(struct ta_threads *threads)
{
	uint64_t limit = ta_descriptor_limit();
	unsigned number;

	if (ta_syscall3(SYS_close_range, (long)threads->receiver + 1, UINT32_MAX,
			CLOSE_RANGE_UNSHARE) == 0)
		return threads->receiver == 0 ||
		       ta_syscall3(SYS_close_range, 0, (long)threads->receiver - 1, 0) == 0;
	/* Before 5.9. */
	if (ta_syscall1(SYS_unshare, CLONE_FILES) < 0)
		return false;
	for (number = 0; number < limit && number < FILES_MAX; number++)
		if ((int)number != threads->receiver)
			ta_syscall1(SYS_close, number);
	return true;
}

static void close_files(struct ta_threads *threads, int index)
{
	while (index >= 0) {
		int following = threads->files[index].next;

		close_file(threads, index);
		index = following;
	}
}

static void receive_all(struct ta_threads *threads)
{
	ta_lock(&threads->receive_lock);
	while (receive_one(threads))
		;
	ta_unlock(&threads->receive_lock);
	atomic_fetch_add(&threads->received_word, 1);
	ta_futex_wake(&threads->received_word, INT_MAX);
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
		receive_all(threads);
	end_all(ended);
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
		enter_table(threads);
		if (threads->wake_fd >= 0 && threads->epoll >= 0 &&
		    ta_thread_start(poller, threads) == 0)
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
	if (started && !start_keeper(threads, take_empty_table)) {
		threads->receiver = ends[1];
		started = start_keeper(threads, copy_table);
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
	size_t bytes = sizeof(struct ta_threads) + FILES_MAX * sizeof(struct file);
	struct ta_threads *threads = ta_pages_alloc(bytes);

	if (!threads)
		return -ENOMEM;
	threads->limit = ta_settings()->threads;
	threads->file_limit = limit < FILES_MAX ? (uint32_t)limit : FILES_MAX;
	threads->file_limit -= threads->file_limit > OWN_DESCRIPTORS ? OWN_DESCRIPTORS : 0;
	threads->closing = -1;
	threads->free_file = -1;
	process->threads = threads;
	if (ta_messenger_start() == 0 && start_with_own_table(threads)) {
		ta_log("offloader: threads, %u at most", threads->limit);
		return 0;
	}
	if (start_keeper(threads, stay_in_table)) {
		ta_log("offloader: threads, %u at most, without a descriptor table of their own",
		       threads->limit);
		return 0;
	}
	process->threads = NULL;
	ta_pages_free(threads, bytes);
	ta_log("offloader: no thread is to be had");
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
	wake_keeper(threads);
}

static void submit(struct ta_operation *operation)
{
	struct ta_threads *threads = the_threads();
	struct file *file = file_of(threads, operation);

	if (operation->cancelled && operation->state != TA_OPERATION_RUNNING) {
		if (operation->is_queued)
			queue_remove(file, operation);
		leave_to_keeper(threads, operation);
		return;
	}
	queue_push(threads, file, operation);
	announce_work(threads);
}

/* Takes a parked operation, or one queued again after it, out of its list.  The lock is held. */
static bool withdraw(struct ta_threads *threads, struct ta_operation *operation)
{
	if (operation->is_parked)
		parked_remove(file_of(threads, operation), operation);
	else if (operation->is_queued)
		queue_remove(file_of(threads, operation), operation);
	else
		return false;
	return true;
}

static int cancel(struct ta_operation *operation)
{
	struct ta_threads *threads = the_threads();
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

static void abandon(struct ta_operation *operation)
{
	struct ta_threads *threads = the_threads();
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
static void signal_eventfd(struct ta_operation *operation)
{
	struct ta_threads *threads = the_threads();
	int number = number_of(threads, &threads->files[operation->eventfd->file]);
	const uint64_t one = 1;

	if (ta_file_poll(number, POLLOUT) > 0)
		ta_syscall3(SYS_write, number, &one, sizeof(one));
	ta_complete_end(operation);
}

const struct ta_offloader ta_threads_offloader = {
	.name = "threads",
	.capture = capture,
	.release = release,
	.submit = submit,
	.cancel = cancel,
	.abandon = abandon,
	.signal = signal_eventfd,
};
