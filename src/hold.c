/* SPDX-License-Identifier: MIT */
/*
 * Holds: the open files that operations in flight refer to.
 *
 * Taking hold of a file costs a microsecond or two and a place in a table of limited size, and a
 * program may have a million requests in flight on one file.  So operations share a hold: one that
 * is in use is joined by a request that comes by the same descriptor number, if the number still
 * means the same inode, opened with the same flags.  (The inode cannot be another one of the same
 * number, because the hold keeps it.)  A file that was closed and opened anew under its old number
 * and flags while its requests are in flight may so be reached by the old opening; for a read or
 * write that makes no difference.  An fsync is particular about its opening, which collects
 * writeback errors: it takes a hold alone.
 *
 * Eventfds and their like share one inode, and openings of a device may have nothing to do with
 * each other: their holds are not shared, but for eventfds that the kernel tells apart by a number.
 *
 * A hold goes with its last user, before that one's event is visible: the file system can be
 * unmounted on seeing it.
 */
#include "offload.h"

#include "pool.h"

#include <sys/stat.h>

static struct ta_hold **bucket_of(struct ta_process *process, int fd,
				  const struct ta_file_identity *identity)
{
	uint64_t hash = identity->inode * 0x9e3779b97f4a7c15u + (unsigned)fd;

	return &process->holds[(hash >> 32 ^ hash) % TA_HOLD_BUCKETS];
}

/* offload_lock is held. */
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

static void put_back(struct ta_process *process, struct ta_hold *hold)
{
	ta_lock(&process->offload_lock);
	TA_POOL_PUT(&process->free_holds, hold, next);
	ta_unlock(&process->offload_lock);
}

/* A hold of one's own: 0, -EBADF, -ENFILE or -EAGAIN. */
int ta_hold_take_alone(int fd, struct ta_hold **taken)
{
	struct ta_process *process = ta_process();
	struct ta_hold *hold;
	int file;

	ta_lock(&process->offload_lock);
	hold = TA_POOL_TAKE(&process->free_holds, &process->operation_pages, next);
	ta_unlock(&process->offload_lock);
	if (!hold)
		return -EAGAIN;
	file = ta_threads_capture(fd);
	if (file < 0) {
		put_back(process, hold);
		return file;
	}
	*hold = (struct ta_hold){ .file = file, .users = 1 };
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
		return identity->mode == TA_MODE_EVENTFD;
	}
}

/*
 * A hold of the open file behind fd, shared where there is one.  0, -EBADF, -ENFILE or -EAGAIN.
 */
int ta_hold_take(int fd, const struct ta_file_identity *identity, long file_flags,
		 struct ta_hold **taken)
{
	struct ta_process *process = ta_process();
	struct ta_hold *hold, **bucket;
	int result;

	if (!may_be_shared(identity))
		return ta_hold_take_alone(fd, taken);
	ta_lock(&process->offload_lock);
	hold = find(process, fd, identity, file_flags);
	if (hold)
		hold->users++;
	ta_unlock(&process->offload_lock);
	if (hold) {
		*taken = hold;
		return 0;
	}
	result = ta_hold_take_alone(fd, taken);
	if (result < 0)
		return result;
	hold = *taken;
	hold->is_shared = true;
	hold->descriptor = fd;
	hold->file_flags = file_flags;
	hold->identity = *identity;
	ta_lock(&process->offload_lock);
	bucket = bucket_of(process, fd, identity);
	hold->next = *bucket;
	*bucket = hold;
	ta_unlock(&process->offload_lock);
	return 0;
}

/* True if the caller was the last user: then nobody else can reach the hold. */
static bool leave(struct ta_process *process, struct ta_hold *hold)
{
	struct ta_hold **link;
	bool is_last;

	ta_lock(&process->offload_lock);
	ta_assert(hold->users > 0);
	is_last = --hold->users == 0;
	if (is_last && hold->is_shared) {
		link = bucket_of(process, hold->descriptor, &hold->identity);
		while (*link != hold)
			link = &(*link)->next;
		*link = hold->next;
	}
	ta_unlock(&process->offload_lock);
	return is_last;
}

/* NULL is no hold. */
void ta_hold_release(struct ta_hold *hold)
{
	struct ta_process *process = ta_process();

	if (!hold || !leave(process, hold))
		return;
	ta_threads_release(hold->file);
	put_back(process, hold);
}
