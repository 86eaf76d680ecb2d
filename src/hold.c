/* SPDX-License-Identifier: MIT */
/*
 * Holds: the open files that operations in flight refer to, in the table of the workers (table.c).
 *
 * Taking hold of a file costs some microseconds and a descriptor, and a program may have a million
 * requests in flight on one file.  So operations share a hold: one that is in use is joined by a
 * request that comes by the same descriptor number, if the number still means the same inode,
 * opened with the same flags.  (The inode cannot be another one of the same number, because the
 * hold keeps it.)  A file that was closed and opened again under its old number and flags while its
 * requests are in flight may so be reached by the old opening; for a read or write that makes no
 * difference.  An fsync is particular about its opening, which collects writeback errors: it takes
 * a hold alone.
 *
 * Eventfds and their like share one inode, and openings of a device may have nothing to do with
 * each other: their holds are not shared, but for eventfds that the kernel tells apart by a number.
 *
 * A hold goes with its last user, before that one's event is visible: the file system can be
 * unmounted on seeing it.  Closing some files has effects, which the program would miss where it
 * closes them itself: those cannot be held.
 */
#include "work.h"

#include "pool.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/stat.h>

/* Waiting until the supervisor has made room on the way to the table. */
#define RECEIVE_ATTEMPTS 20
#define RECEIVE_NS 10000000LL

static struct ta_hold **bucket_of(struct ta_process *process, int fd,
				  const struct ta_file_identity *identity)
{
	uint64_t hash = identity->inode * 0x9e3779b97f4a7c15u + (unsigned)fd;

	return &process->holds[(hash >> 32 ^ hash) % TA_HOLD_BUCKETS];
}

/* offload_lock is held, here and in the next three. */
static struct ta_hold *find(struct ta_process *process, int fd,
			    const struct ta_file_identity *identity, long file_flags)
{
	struct ta_hold *hold;

	for (hold = *bucket_of(process, fd, identity); hold; hold = hold->next)
		if (hold->descriptor == fd && hold->identity.inode == identity->inode &&
		    hold->identity.device == identity->device && hold->file_flags == file_flags)
			return hold;
	return NULL;
}

/* NULL: no memory. */
static struct ta_hold *make(struct ta_process *process, int fd,
			    const struct ta_file_identity *identity, long file_flags)
{
	struct ta_inode *inode = ta_inode_enter(process, identity);
	struct ta_hold *hold;

	if (!inode)
		return NULL;
	hold = TA_POOL_TAKE(&process->free_holds, &process->operation_pages, next);
	if (!hold) {
		ta_inode_leave(process, inode);
		return NULL;
	}
	/* The queue may know it still: the last of its operations there was cancelled. */
	hold->users = 1;
	hold->sharing = TA_HOLD_ALONE;
	hold->descriptor = fd;
	hold->file_flags = file_flags;
	hold->identity = *identity;
	hold->inode = inode;
	return hold;
}

static void put_back(struct ta_process *process, struct ta_hold *hold)
{
	ta_inode_leave(process, hold->inode);
	hold->generation++;
	hold->is_watched = false;
	hold->is_arming = false;
	hold->wanted_events = 0;
	hold->armed_events = 0;
	TA_POOL_PUT(&process->free_holds, hold, next);
}

/* From its start on, an operation's hold may be joined by others.  NULL is no hold. */
void ta_hold_share(struct ta_hold *hold)
{
	struct ta_hold **bucket;

	if (!hold || hold->sharing != TA_HOLD_UNSHARED)
		return;
	bucket = bucket_of(ta_process(), hold->descriptor, &hold->identity);
	hold->sharing = TA_HOLD_SHARED;
	hold->next = *bucket;
	*bucket = hold;
}

/* The supervisor takes in what is on its way. */
static void ask_to_receive(struct ta_workers *workers)
{
	ta_lock(&ta_process()->offload_lock);
	workers->receive_wanted = true;
	ta_unlock(&ta_process()->offload_lock);
	ta_workers_wake_supervisor(workers);
}

/* The way to the table is full. */
static void wait_until_received(struct ta_workers *workers)
{
	uint32_t seen = atomic_load(&workers->received_word);

	ask_to_receive(workers);
	ta_futex_wait(&workers->received_word, seen, ta_now_ns() + RECEIVE_NS);
}

static bool lend(struct ta_workers *workers, struct ta_hold *hold)
{
	int result = ta_table_lend(&workers->table, &hold->number, hold->descriptor);

	if (result == -ENOTCONN && ta_is_only_thread(ta_process()) &&
	    ta_table_make_pair(&workers->table) == 0) {
		/* What is in flight counts against a limit of the user. */
		ask_to_receive(workers);
		result = ta_table_lend(&workers->table, &hold->number, hold->descriptor);
	}
	return result == 0;
}

static int capture(struct ta_workers *workers, struct ta_hold *hold, bool lends)
{
	int result = -EAGAIN, attempts;

	if (!workers->owns_table) {
		/* Then the number must do, if it means the same when the operation runs. */
		atomic_store(&hold->number, hold->descriptor);
		return 0;
	}
	if (lends && lend(workers, hold))
		return 0;
	for (attempts = 0; attempts < RECEIVE_ATTEMPTS; attempts++) {
		result = ta_table_send(&workers->table, &hold->number, hold->descriptor);
		if (result != -EAGAIN)
			return result;
		wait_until_received(workers);
	}
	return -ENFILE;
}

/* Can the file be held?  0; -EAGAIN: not now; -ENFILE. */
static int begin_to_take(int fd, const struct ta_file_identity *identity, long file_flags)
{
	int result;

	if (ta_file_close_has_effects(fd, identity->mode, file_flags))
		return -ENFILE;
	result = ta_service_open(TA_SERVICE_WORK);
	return result == 0 || result == -EAGAIN ? result : -ENFILE;
}

/* A new one.  sharing says what may become of it. */
static int take_new(struct ta_hold *hold, enum ta_hold_sharing sharing, bool lends,
		    struct ta_hold **taken)
{
	struct ta_process *process = ta_process();
	int result;

	if (!hold)
		return -ENFILE;
	result = capture(process->workers, hold, lends);
	if (result < 0) {
		ta_lock(&process->offload_lock);
		put_back(process, hold);
		ta_unlock(&process->offload_lock);
		return result;
	}
	hold->sharing = sharing;
	*taken = hold;
	return 0;
}

static bool may_be_shared(const struct ta_file_identity *identity)
{
	switch (identity->mode & S_IFMT) {
	case S_IFREG:
	case S_IFDIR:
	case S_IFBLK:
	case S_IFIFO:
	case S_IFSOCK:
		return true;
	default:
		return identity->mode == TA_MODE_EVENTFD && identity->inode != TA_UNKNOWN_EVENTFD;
	}
}

/* A hold of the open file behind fd, shared where there is one. */
int ta_hold_take(int fd, const struct ta_file_identity *identity, long file_flags,
		 struct ta_hold **taken)
{
	struct ta_process *process = ta_process();
	bool is_shareable = may_be_shared(identity), lends;
	struct ta_hold *hold = NULL;
	int result = begin_to_take(fd, identity, file_flags);

	if (result < 0)
		return result;
	ta_lock(&process->offload_lock);
	if (is_shareable)
		hold = find(process, fd, identity, file_flags);
	if (hold) {
		hold->users++;
		ta_unlock(&process->offload_lock);
		*taken = hold;
		return 0;
	}
	hold = make(process, fd, identity, file_flags);
	ta_unlock(&process->offload_lock);
	/* What a waiter may carry out he wants back then: help.c. */
	lends = atomic_load(&process->leaves_to_waiter) &&
		(S_ISREG(identity->mode) || S_ISBLK(identity->mode));
	return take_new(hold, is_shareable ? TA_HOLD_UNSHARED : TA_HOLD_ALONE, lends, taken);
}

/* A hold of one's own. */
int ta_hold_take_alone(int fd, struct ta_hold **taken)
{
	struct ta_process *process = ta_process();
	long file_flags = ta_syscall2(SYS_fcntl, fd, F_GETFL);
	struct ta_file_identity identity;
	struct ta_hold *hold;
	int result;

	if (file_flags < 0 || ta_file_identify(fd, &identity) < 0)
		return -EBADF;
	result = begin_to_take(fd, &identity, file_flags);
	if (result < 0)
		return result;
	ta_lock(&process->offload_lock);
	hold = make(process, fd, &identity, file_flags);
	ta_unlock(&process->offload_lock);
	return take_new(hold, TA_HOLD_ALONE, false, taken);
}

/* Where the workers have no table of their own: does the program's number mean the file still? */
static bool is_meant_still(const struct ta_hold *hold)
{
	struct ta_file_identity identity;

	if (hold->identity.mode == TA_MODE_EVENTFD)
		return ta_file_is_eventfd(hold->descriptor) == 0;
	if (ta_file_identify(hold->descriptor, &identity) < 0)
		return false;
	(void)ta_file_target(hold->descriptor, &identity);
	return identity.device == hold->identity.device && identity.inode == hold->identity.inode;
}

/* In a thread of the table: its number there, or TA_NUMBER_LOST. */
int ta_hold_number(struct ta_hold *hold)
{
	struct ta_workers *workers = ta_workers_get();

	if (ta_likely(workers->owns_table))
		return ta_table_number(&workers->table, &hold->number);
	return is_meant_still(hold) ? hold->descriptor : TA_NUMBER_LOST;
}

/* How many files are held. */
uint32_t ta_holds_count(void)
{
	const struct ta_workers *workers = ta_workers_get();

	return workers ? atomic_load(&workers->table.files) : 0;
}

static void unlist(struct ta_process *process, struct ta_hold *hold)
{
	struct ta_hold **link;

	if (hold->sharing != TA_HOLD_SHARED)
		return;
	link = bucket_of(process, hold->descriptor, &hold->identity);
	while (*link != hold)
		link = &(*link)->next;
	*link = hold->next;
}

bool ta_hold_take_back(struct ta_hold *hold)
{
	struct ta_workers *workers = ta_workers_get();
	struct ta_process *process = ta_process();
	bool is_alone;

	ta_lock(&process->offload_lock);
	is_alone = hold->users == 1;
	ta_unlock(&process->offload_lock);
	if (!is_alone || !ta_table_take_back(&workers->table, &hold->number))
		return false;
	ta_lock(&process->offload_lock);
	unlist(process, hold);
	put_back(process, hold);
	ta_unlock(&process->offload_lock);
	return true;
}

/*
 * One user less.  offload_lock is held; and a thread of the table has asked for the hold's number
 * before: a place to which it is on its way must not become another's.
 */
struct ta_leftover ta_hold_leave(struct ta_hold *hold)
{
	struct ta_workers *workers = ta_workers_get();
	struct ta_process *process = ta_process();
	struct ta_leftover leftover = { .is_there = false };

	ta_assert(hold->users > 0);
	if (--hold->users > 0)
		return leftover;
	unlist(process, hold);
	if (!ta_is_worker(workers)) {
		/* A thread that shares the table closes it. */
		hold->users = 1;
		hold->sharing = TA_HOLD_ALONE;
		hold->next = workers->closing;
		workers->closing = hold;
		atomic_fetch_add(&workers->closings, 1);
		return leftover;
	}
	leftover = (struct ta_leftover){
		.is_there = true,
		.is_watched = hold->is_watched,
		.number = atomic_load(&hold->number),
	};
	put_back(process, hold);
	return leftover;
}

void ta_hold_close(struct ta_leftover leftover)
{
	struct ta_workers *workers = ta_workers_get();

	if (!leftover.is_there)
		return;
	/* The program's own descriptor would keep the file known to epoll. */
	if (leftover.is_watched)
		ta_syscall4(SYS_epoll_ctl, workers->epoll, EPOLL_CTL_DEL, leftover.number, NULL);
	if (workers->owns_table)
		ta_table_close(&workers->table, leftover.number);
}

/* NULL is no hold. */
void ta_hold_release(struct ta_hold *hold)
{
	struct ta_workers *workers = ta_workers_get();
	struct ta_process *process = ta_process();
	struct ta_leftover leftover;
	bool is_worker;

	if (!hold)
		return;
	is_worker = ta_is_worker(workers);
	if (is_worker)
		(void)ta_hold_number(hold);
	ta_lock(&process->offload_lock);
	leftover = ta_hold_leave(hold);
	ta_unlock(&process->offload_lock);
	if (is_worker)
		ta_hold_close(leftover);
	else
		ta_workers_wake_supervisor(workers);
}
