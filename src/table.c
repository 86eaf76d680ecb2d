/* SPDX-License-Identifier: MIT */
/*
 * A table of descriptors that is not the program's, and how files of the program get into it.
 *
 * In such a table an open file stays what it is, whatever the program does with its number; and
 * because record locks belong to a table, closing the file there drops none of the program's.  The
 * thread that owns the table has left the program's with as few copies as the kernel allows, and
 * closed them (a file of FUSE or NFS is flushed by that, once), so no descriptor can be handed
 * over at the start.  Instead the table has a *listener*, a socket with an address of the kernel's
 * choice in the abstract namespace.  A *sender* is a socket in a table of the program that is
 * connected to it: if the program closes it, or a thread has another table, another one is made
 * (own.c).  Strangers may find the address: who is not this process is shut out.
 *
 * A file is sent as a message (SCM_RIGHTS), and held from that moment.  The message says where its
 * number is to be stored.  The first thread of the table that needs one takes in all that there
 * are.
 *
 * A file may be *lent*: sent by one end of a pair, whose other end, the receiver, is in both
 * tables.  As long as nobody has taken it in, the sending thread can take it back: a message that
 * is read without room for the file lets go of it, and closes no descriptor.  A child of the
 * program would keep what is on that way: fork(3) closes both ends there, and nothing goes by them
 * that is not lent.
 *
 * How many descriptors there can be is the hard limit's to say: a program that lowers its soft one
 * means its own.
 *
 * receive_lock guards the receiving; a number is stored before it is released.
 */
#include "table.h"

#include "pool.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>

/* Connections that wait to be taken in; who finds it full tries again. */
#define BACKLOG 64
/* Kept free, for what threads of the table open themselves. */
#define DESCRIPTORS_RESERVED 8

/* Where the files of one sender come out. */
struct ta_receiver {
	struct ta_receiver *next;
	int fd;
};

/* ---- how many it can take -------------------------------------------------------------------- */

static struct ta_limit descriptor_limit(const struct ta_limit *wanted)
{
	struct ta_limit limit = { UINT64_MAX, UINT64_MAX };

	ta_syscall4(SYS_prlimit64, 0, RLIMIT_NOFILE, wanted, &limit);
	return limit;
}

/* Numbers are the lowest free ones: as long as fewer are open than the limit says, there is one. */
static uint64_t open_at_most(const struct ta_table *table)
{
	return atomic_load(&table->files) + 1 + atomic_load(&table->receiver_count) +
	       DESCRIPTORS_RESERVED;
}

static bool has_room(const struct ta_table *table)
{
	return open_at_most(table) < descriptor_limit(NULL).hard;
}

struct ta_limit ta_table_lift_limit(uint64_t descriptors)
{
	struct ta_limit before, lifted;

	ta_lock(&ta_process()->limit_lock);
	before = descriptor_limit(NULL);
	lifted = (struct ta_limit){ before.hard, before.hard };
	if (before.soft > descriptors || before.soft >= before.hard)
		return lifted;
	return descriptor_limit(&lifted);
}

void ta_table_lower_limit(struct ta_limit before)
{
	struct ta_limit found;

	if (before.soft < before.hard) {
		found = descriptor_limit(&before);
		/* The program has set it meanwhile. */
		if (found.soft != before.hard || found.hard != before.hard)
			descriptor_limit(&found);
	}
	ta_unlock(&ta_process()->limit_lock);
}

/* The program has lowered it meanwhile: what it has set comes back later. */
static void lift_again(struct ta_limit *before)
{
	struct ta_limit found = descriptor_limit(NULL), lifted = { found.hard, found.hard };

	if (found.soft >= found.hard)
		return;
	found = descriptor_limit(&lifted);
	/* Refused if the program has lowered the hard limit just now. */
	if (found.hard != UINT64_MAX)
		*before = found;
}

/* ---- making it ------------------------------------------------------------------------------- */

#define SOCKET_TYPE (SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK)

static long make_socket(void)
{
	long fd = ta_syscall3(SYS_socket, AF_UNIX, SOCKET_TYPE, 0);
	struct ta_limit before;

	if (fd == -EMFILE) {
		before = ta_table_lift_limit(UINT64_MAX);
		fd = ta_syscall3(SYS_socket, AF_UNIX, SOCKET_TYPE, 0);
		ta_table_lower_limit(before);
	}
	return fd;
}

/* The kernel takes a family alone for the wish of an address, and tells which one it has chosen. */
static int listen_somewhere(struct ta_table *table)
{
	sa_family_t family = AF_UNIX;
	socklen_t bytes = sizeof(table->address);
	long fd, result;

	fd = make_socket();
	if (fd < 0)
		return (int)fd;
	result = ta_syscall3(SYS_bind, fd, &family, sizeof(family));
	if (result == 0)
		result = ta_syscall2(SYS_listen, fd, BACKLOG);
	if (result == 0)
		result = ta_syscall3(SYS_getsockname, fd, table->address, &bytes);
	if (result < 0 || bytes > sizeof(table->address)) {
		ta_syscall1(SYS_close, fd);
		return result < 0 ? (int)result : -EINVAL;
	}
	table->listener = (int)fd;
	table->address_bytes = bytes;
	return 0;
}

/*
 * Closing a descriptor of a message queue takes the process's registration with it away
 * (mq_notify), whatever table it is in: so copies of such stay.
 */
#define MESSAGE_QUEUES 0x19800202

/*
 * The kernel copies the first numbers even where all are to be closed: as many as its smallest
 * table has.
 */
#define COPIED_MAX 64

static bool must_stay(int fd)
{
	return ta_file_system_type(fd) == MESSAGE_QUEUES;
}

/* A table of this thread's own, with nothing in it.  Linux 5.9. */
static int leave_table(void)
{
	int number = COPIED_MAX - 1;

	while (number >= 0 && !must_stay(number))
		number--;
	if (ta_syscall3(SYS_close_range, number + 1, UINT32_MAX, CLOSE_RANGE_UNSHARE) < 0)
		return -ENOSYS;
	while (--number >= 0)
		if (!must_stay(number))
			ta_syscall1(SYS_close, number);
	return 0;
}

/* ---- sending --------------------------------------------------------------------------------- */

/* What is accepted must not depend on memory for the receiver of what is sent. */
static bool can_be_received(struct ta_table *table)
{
	struct ta_receiver *receiver;

	ta_lock(&table->receive_lock);
	receiver = TA_POOL_TAKE(&table->free_receivers, &table->pages, next);
	if (receiver)
		TA_POOL_PUT(&table->free_receivers, receiver, next);
	ta_unlock(&table->receive_lock);
	return receiver != NULL;
}

/* A new way to the table: a descriptor, or a negative errno. */
static int connect_socket(struct ta_table *table)
{
	long result, fd = can_be_received(table) ? make_socket() : -ENOMEM;

	if (fd < 0)
		return (int)fd;
	result = ta_syscall3(SYS_connect, fd, table->address, table->address_bytes);
	if (result < 0) {
		ta_syscall1(SYS_close, fd);
		return (int)result;
	}
	return (int)fd;
}

/* A new sender in the table of this thread: its number, or a negative errno. */
static int connect_sender(struct ta_table *table)
{
	int fd = connect_socket(table);

	return fd < 0 ? fd : ta_own_add(table->sender, fd);
}

static int find_sender(struct ta_table *table)
{
	int sender = ta_own_find(table->sender);

	return sender < 0 ? connect_sender(table) : sender;
}

int ta_table_try(struct ta_table *table)
{
	int sender = find_sender(table);

	return sender < 0 ? sender : 0;
}

union control {
	struct cmsghdr header;
	char space[CMSG_SPACE(sizeof(int))];
};

static long send_file(struct ta_table *table, int sender, _Atomic int *number, int fd)
{
	struct iovec payload = { &number, sizeof(number) };
	union control control;
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
	TA_KERNEL_RELEASE(table);
	return ta_syscall3(SYS_sendmsg, sender, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* What says that the sender is none any more: its number was closed, or taken by another file. */
static bool is_without_sender(long result, int fd)
{
	switch (result) {
	case -EBADF:
		return ta_syscall2(SYS_fcntl, fd, F_GETFD) >= 0;
	case -ENOTSOCK:
	case -ENOTCONN:
	case -EPIPE:
	case -ECONNRESET:
	case -ECONNREFUSED:
		return true;
	default:
		return false;
	}
}

/* A file that is wanted in the table, by a sender or a lender. */
static long send_counted(struct ta_table *table, int sender, _Atomic int *number, int fd)
{
	long result;

	atomic_store(number, TA_NUMBER_COMING);
	atomic_fetch_add(&table->files, 1);
	result = send_file(table, sender, number, fd);
	if (result < 0)
		atomic_fetch_sub(&table->files, 1);
	return result;
}

/*
 * A sandbox may refuse any call of the way, and who has sent a file learns too late that it cannot
 * be taken in: so one goes all the way first.
 */
static int try_way(struct ta_table *table)
{
	int fd = connect_socket(table), number_there;
	_Atomic int number;
	long result;

	if (fd < 0)
		return fd;
	result = send_counted(table, fd, &number, fd);
	if (result >= 0) {
		number_there = ta_table_number(table, &number);
		ta_table_close(table, number_there);
		result = number_there < 0 ? -EPERM : 0;
	}
	ta_syscall1(SYS_close, fd);
	return (int)result;
}

int ta_table_make(struct ta_table *table, enum ta_own_kind sender)
{
	int result = leave_table();

	if (result < 0)
		return result;
	*table = (struct ta_table){
		.sender = sender,
		.process_id = (int)ta_syscall(SYS_getpid, 0, 0, 0, 0, 0, 0),
	};
	result = listen_somewhere(table);
	/* Without room it takes in nothing. */
	return result == 0 && has_room(table) ? try_way(table) : result;
}

int ta_table_send(struct ta_table *table, _Atomic int *number, int fd)
{
	long result = has_room(table) ? find_sender(table) : -ENFILE;

	if (result >= 0) {
		result = send_counted(table, (int)result, number, fd);
		if (is_without_sender(result, fd)) {
			result = connect_sender(table);
			if (result >= 0)
				result = send_counted(table, (int)result, number, fd);
		}
	}
	switch (result) {
	case -EAGAIN: /* the socket, or the backlog, is full */
	case -ETOOMANYREFS: /* as many files are on their way as the user may have open */
	case -ENOBUFS:
		return -EAGAIN;
	case -EBADF:
		return -EBADF;
	default:
		return result < 0 ? -ENFILE : 0;
	}
}

/* ---- lending --------------------------------------------------------------------------------- */

/* The place of the number of what is a receiver. */
#define NO_PLACE NULL

int ta_table_make_pair(struct ta_table *table)
{
	int sender = has_room(table) ? find_sender(table) : -ENFILE;
	int left = ta_own_find(TA_OWN_RECEIVER), ends[2];
	long result;

	if (sender < 0 || !can_be_received(table))
		return sender < 0 ? sender : -ENOMEM;
	/* The program has closed its lender. */
	if (left >= 0)
		ta_syscall1(SYS_close, left);
	result = ta_syscall4(SYS_socketpair, AF_UNIX, SOCKET_TYPE, 0, ends);
	if (result < 0)
		return (int)result;
	result = send_file(table, sender, NO_PLACE, ends[1]);
	if (result < 0) {
		ta_syscall1(SYS_close, ends[0]);
		ta_syscall1(SYS_close, ends[1]);
		return (int)result;
	}
	ta_own_add(TA_OWN_RECEIVER, ends[1]);
	ta_own_add(TA_OWN_LENDER, ends[0]);
	return 0;
}

int ta_table_lend(struct ta_table *table, _Atomic int *number, int fd)
{
	int lender = ta_own_find(TA_OWN_LENDER);

	if (lender < 0)
		return -ENOTCONN;
	if (!has_room(table))
		return -ENFILE;
	if (send_counted(table, lender, number, fd) >= 0)
		return 0;
	/* Full, or the other end is gone: the next pair will do. */
	ta_syscall1(SYS_close, lender);
	return -ENFILE;
}

bool ta_table_take_back(struct ta_table *table, const _Atomic int *number)
{
	int receiver = ta_own_find(TA_OWN_RECEIVER);
	const _Atomic int *place;
	struct iovec payload = { &place, sizeof(place) };
	struct msghdr message = { .msg_iov = &payload, .msg_iovlen = 1 };
	bool is_next;

	if (receiver < 0)
		return false;
	ta_lock(&table->receive_lock);
	is_next = ta_syscall3(SYS_recvmsg, receiver, &message, MSG_DONTWAIT | MSG_PEEK) ==
			  sizeof(place) &&
		  place == number && ta_syscall3(SYS_read, receiver, &place, sizeof(place)) > 0;
	if (is_next)
		atomic_fetch_sub(&table->files, 1);
	ta_unlock(&table->receive_lock);
	return is_next;
}

/* ---- receiving, with receive_lock held ------------------------------------------------------- */

static bool is_this_process(const struct ta_table *table, int fd)
{
	struct ucred peer = { .pid = 0 };
	socklen_t bytes = sizeof(peer);

	return ta_syscall5(SYS_getsockopt, fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) == 0 &&
	       peer.pid == table->process_id;
}

/*
 * Times that a file which found no room is tried again, should the program lower its limit each
 * time.
 */
#define RECEIVE_TRIES 8

static long accept_one(struct ta_table *table, struct ta_limit *before)
{
	long fd = -EMFILE;

	for (int tries = RECEIVE_TRIES; tries > 0 && fd == -EMFILE; tries--) {
		fd = ta_syscall4(SYS_accept4, table->listener, NULL, NULL, SOCK_CLOEXEC);
		if (fd == -EMFILE)
			lift_again(before);
	}
	return fd;
}

/* Behind the link, where a pass through the list comes next.  False: no memory; it is closed. */
static bool add_receiver(struct ta_table *table, struct ta_receiver **link, int fd)
{
	struct ta_receiver *receiver = TA_POOL_TAKE(&table->free_receivers, &table->pages, next);

	if (!receiver) {
		/* Who lends learns it, although the program's receiver is open. */
		ta_syscall2(SYS_shutdown, fd, SHUT_RDWR);
		ta_syscall1(SYS_close, fd);
		return false;
	}
	receiver->fd = fd;
	receiver->next = *link;
	*link = receiver;
	atomic_fetch_add(&table->receiver_count, 1);
	return true;
}

/* Takes in new senders.  False: there are none. */
static bool accept_senders(struct ta_table *table, struct ta_limit *before)
{
	bool any = false;
	long fd;

	while ((fd = accept_one(table, before)) >= 0) {
		if (is_this_process(table, (int)fd))
			any |= add_receiver(table, &table->receivers, (int)fd);
		else
			ta_syscall1(SYS_close, fd);
	}
	return any;
}

/* An end, or an empty message by somebody who has written to a number that he did not know. */
static int receive_nothing(const struct ta_receiver *receiver)
{
	char unused_byte;

	ta_syscall3(SYS_read, receiver->fd, &unused_byte, 1);
	return ta_file_poll(receiver->fd, POLLRDHUP, 0) == 0;
}

/*
 * 1: took in a file; 0: the sender is gone; negative: there is nothing.  A file that finds no
 * number is lost with its message, and the program may lower its limit at any moment: so the
 * message stays until the file is there.
 */
static int receive_one(struct ta_table *table, struct ta_receiver *receiver,
		       struct ta_limit *before)
{
	_Atomic int *place;
	struct iovec payload = { &place, sizeof(place) };
	union control control;
	struct msghdr message;
	int number = TA_NUMBER_LOST;
	bool has_file;
	long result;

	for (int tries = RECEIVE_TRIES; tries > 0; tries--) {
		message = (struct msghdr){ .msg_iov = &payload,
					   .msg_iovlen = 1,
					   .msg_control = &control,
					   .msg_controllen = sizeof(control) };
		result = ta_syscall3(SYS_recvmsg, receiver->fd, &message,
				     MSG_DONTWAIT | MSG_CMSG_CLOEXEC | MSG_PEEK);
		if (result <= 0)
			return result == 0 ? receive_nothing(receiver) : (int)result;
		if (!(message.msg_flags & MSG_CTRUNC))
			break;
		lift_again(before);
	}
	TA_KERNEL_ACQUIRE(table);
	has_file = message.msg_controllen >= sizeof(control.header) &&
		   control.header.cmsg_type == SCM_RIGHTS;
	if (has_file)
		memcpy(&number, CMSG_DATA(&control.header), sizeof(number));
	/* Without a file, somebody has written to a number that he did not know. */
	has_file |= (message.msg_flags & MSG_CTRUNC) != 0;
	if (has_file && place == NO_PLACE && number < 0)
		return -EAGAIN;
	if (ta_syscall3(SYS_read, receiver->fd, &place, sizeof(place)) < 0) {
		/* Refused, and met again each time. */
		ta_syscall1(SYS_close, number);
		return -EPERM;
	}
	if (has_file && place != NO_PLACE)
		/* release: who sees the number sees the table that it is in. */
		atomic_store_explicit(place, number, memory_order_release);
	else if (has_file)
		add_receiver(table, &receiver->next, number);
	return 1;
}

static void receive_all(struct ta_table *table, struct ta_limit *before)
{
	struct ta_receiver **link = &table->receivers, *receiver;
	int result;

	while ((receiver = *link) != NULL) {
		while ((result = receive_one(table, receiver, before)) == 1)
			;
		if (result != 0 && result != -ECONNRESET) {
			link = &receiver->next;
			continue;
		}
		*link = receiver->next;
		ta_syscall1(SYS_close, receiver->fd);
		TA_POOL_PUT(&table->free_receivers, receiver, next);
		atomic_fetch_sub(&table->receiver_count, 1);
	}
}

/* Until this one has come; all that there is, if it is NULL.  New senders are met on the way. */
static void receive(struct ta_table *table, const _Atomic int *number)
{
	struct ta_limit before;

	ta_lock(&table->receive_lock);
	before = ta_table_lift_limit(open_at_most(table));
	do
		receive_all(table, &before);
	while ((!number || atomic_load(number) == TA_NUMBER_COMING) &&
	       accept_senders(table, &before));
	ta_table_lower_limit(before);
	ta_unlock(&table->receive_lock);
}

void ta_table_receive(struct ta_table *table)
{
	receive(table, NULL);
}

int ta_table_number(struct ta_table *table, _Atomic int *number)
{
	/* acquire: pairs with the release in receive_one. */
	int result = atomic_load_explicit(number, memory_order_acquire);

	if (ta_likely(result != TA_NUMBER_COMING))
		return result;
	receive(table, number);
	result = atomic_load(number);
	return result == TA_NUMBER_COMING ? TA_NUMBER_LOST : result;
}

void ta_table_close(struct ta_table *table, int number)
{
	if (number >= 0)
		ta_syscall1(SYS_close, number);
	atomic_fetch_sub(&table->files, 1);
}
