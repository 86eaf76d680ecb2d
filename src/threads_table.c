/* SPDX-License-Identifier: MIT */
/*
 * The descriptor table of the worker threads: how files of the program get into it and out again.
 *
 * io_submit sends a file as a message through a socket (SCM_RIGHTS): from that moment it is held.
 * The first thread of the table that needs it takes it out of the socket, together with what else
 * is there; the message says which file it carries.
 */
#include "threads.h"

#include <limits.h>
#include <linux/close_range.h>
#include <sched.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

/* Waiting for the keeper to empty the socket. */
#define RECEIVE_ATTEMPTS 500
#define RECEIVE_NS 10000000LL

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
	int number = TA_NUMBER_LOST;

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

/* The descriptor of a file in the table of this thread; TA_NUMBER_LOST if it did not get there. */
int ta_threads_number(struct ta_threads *threads, struct ta_threads_file *file)
{
	/* acquire: pairs with the release in receive_one. */
	int number = atomic_load_explicit(&file->number, memory_order_acquire);

	if (ta_likely(number != TA_NUMBER_COMING))
		return number;
	ta_lock(&threads->receive_lock);
	while (atomic_load(&file->number) == TA_NUMBER_COMING && receive_one(threads))
		;
	ta_unlock(&threads->receive_lock);
	number = atomic_load(&file->number);
	return number == TA_NUMBER_COMING ? TA_NUMBER_LOST : number;
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

/*
 * The socket is full, or as many files are under way as the user may have: the keeper empties it.
 */
static void wait_until_received(struct ta_threads *threads)
{
	uint32_t seen = atomic_load(&threads->received_word);

	ta_lock(&ta_process()->offload_lock);
	threads->receive_wanted = true;
	ta_unlock(&ta_process()->offload_lock);
	ta_threads_wake_keeper(threads);
	ta_futex_wait(&threads->received_word, seen, ta_now_ns() + RECEIVE_NS);
}

static int send_to_table(struct ta_threads *threads, uint32_t index, int fd)
{
	int attempts;
	long result = -EAGAIN;

	if (!sender_is_ours(threads)) {
		ta_offload_lost();
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

static uint32_t group_of(int fd)
{
	struct ta_file_identity identity;
	uint64_t hash;

	if (ta_file_identify(fd, &identity) < 0)
		return 0;
	hash = (identity.inode ^ identity.device << 20) * 0x9e3779b97f4a7c15u;
	return (uint32_t)(hash >> 32) % TA_THREADS_GROUPS;
}

static int take_file(struct ta_threads *threads, uint32_t group)
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
	/* A worker may look at the place: it is listed still if its last request was cancelled. */
	if (index >= 0)
		threads->files[index].group = group;
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

int ta_threads_capture(int fd)
{
	struct ta_threads *threads = ta_threads_get();
	int index = take_file(threads, group_of(fd));
	int result;

	if (index < 0)
		return index;
	if (!threads->owns_table) {
		/* Then the number must do: what it means when the operation is carried out. */
		atomic_store(&threads->files[index].number, fd);
		return index;
	}
	atomic_store(&threads->files[index].number, TA_NUMBER_COMING);
	result = send_to_table(threads, (uint32_t)index, fd);
	if (result < 0) {
		put_file(threads, index);
		return result;
	}
	return index;
}

/* On a thread that shares the table. */
void ta_threads_close_file(struct ta_threads *threads, int index)
{
	struct ta_threads_file *file = &threads->files[index];
	struct ta_process *process = ta_process();
	int number = ta_threads_number(threads, file);

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

void ta_threads_release(int index)
{
	struct ta_threads *threads = ta_threads_get();
	struct ta_process *process = ta_process();

	if (ta_thread.is_foreign || !threads->owns_table) {
		ta_threads_close_file(threads, index);
		return;
	}
	ta_lock(&process->offload_lock);
	threads->files[index].next = threads->closing;
	threads->closing = index;
	ta_unlock(&process->offload_lock);
	ta_threads_wake_keeper(threads);
}

void ta_threads_receive_all(struct ta_threads *threads)
{
	ta_lock(&threads->receive_lock);
	while (receive_one(threads))
		;
	ta_unlock(&threads->receive_lock);
	atomic_fetch_add(&threads->received_word, 1);
	ta_futex_wake(&threads->received_word, INT_MAX);
}

/* ---- making the table ------------------------------------------------------------------------ */

/* A table with the receiving end of the socket and nothing else. */
bool ta_threads_take_empty_table(struct ta_threads *threads)
{
	int number;

	if (ta_syscall3(SYS_close_range, 0, UINT32_MAX, CLOSE_RANGE_UNSHARE) < 0)
		return false;
	number = ta_fetch_descriptor(threads->receiver);
	if (number < 0)
		return false;
	threads->receiver = number;
	return true;
}

/*
 * A copy of the program's table, emptied of all but the receiving end.  The second choice: closing
 * a copy of a file of FUSE or NFS asks its server.
 */
bool ta_threads_copy_table(struct ta_threads *threads)
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
	for (number = 0; number < limit && number < TA_THREADS_FILES_MAX; number++)
		if ((int)number != threads->receiver)
			ta_syscall1(SYS_close, number);
	return true;
}
