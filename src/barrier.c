/* SPDX-License-Identifier: MIT */
/*
 * Barriers: see barrier.h for what they promise.
 *
 * Readiness is monotonic along a file's queue: a sync attaches to every undrained epoch of its
 * file, so one that arrived later waits for at least what the earlier ones still wait for.  That
 * makes "the drained prefix with the head's descriptor" the whole rule of group commit, and it is
 * decided when the call is issued, not when a sync arrives: all that gathered behind a running call
 * share the next one.
 *
 * A withdrawn sync stays allocated until the last epoch that refers to it has drained; nothing else
 * may look at it.  A cancelled one keeps its place until its event is visible, and is withdrawn
 * then: what came later must not be over before it.
 */
#include "barrier.h"

#include "pool.h"
#include "sys.h"

struct ta_barrier_wait {
	struct ta_barrier_wait *next;
	struct ta_sync *sync;
};

/* A file with sealed epochs or syncs. */
struct ta_barrier_file {
	struct ta_barrier_file *next; /* in its bucket */
	uint64_t device;
	uint64_t inode;
	struct ta_epoch *epochs;
	struct ta_sync *head;
	struct ta_sync *tail;
};

static struct ta_barrier_file **bucket_of(struct ta_barrier *barrier, uint64_t device,
					  uint64_t inode)
{
	uint64_t hash = (inode ^ device << 40) * 0x9e3779b97f4a7c15u;

	return &barrier->buckets[(hash >> 32) % TA_BARRIER_BUCKETS];
}

static struct ta_barrier_file *find_file(struct ta_barrier *barrier, uint64_t device,
					 uint64_t inode)
{
	struct ta_barrier_file *file;

	for (file = *bucket_of(barrier, device, inode); file; file = file->next)
		if (file->device == device && file->inode == inode)
			return file;
	return NULL;
}

static struct ta_barrier_file *find_or_make_file(struct ta_barrier *barrier, uint64_t device,
						 uint64_t inode)
{
	struct ta_barrier_file **bucket = bucket_of(barrier, device, inode);
	struct ta_barrier_file *file = find_file(barrier, device, inode);

	if (file)
		return file;
	file = TA_POOL_TAKE(&barrier->free_files, &barrier->pages, next);
	if (!file)
		return NULL;
	*file = (struct ta_barrier_file){ .next = *bucket, .device = device, .inode = inode };
	*bucket = file;
	barrier->files++;
	return file;
}

static void drop_file_if_unused(struct ta_barrier *barrier, struct ta_barrier_file *file)
{
	struct ta_barrier_file **link = bucket_of(barrier, file->device, file->inode);

	if (file->head || file->epochs)
		return;
	while (*link != file)
		link = &(*link)->next;
	*link = file->next;
	barrier->files--;
	TA_POOL_PUT(&barrier->free_files, file, next);
}

/* ---- epochs ---------------------------------------------------------------------------------- */

static void link_epoch(struct ta_barrier *barrier, struct ta_epoch **list, struct ta_epoch *epoch)
{
	epoch->filed_at = ++barrier->filed;
	epoch->previous = NULL;
	epoch->next = *list;
	if (*list)
		(*list)->previous = epoch;
	*list = epoch;
}

/* The sealed epoch is one of this file's.  -ENOMEM leaves it as it was. */
int ta_barrier_file_epoch(struct ta_barrier *barrier, struct ta_epoch *epoch, uint64_t device,
			  uint64_t inode)
{
	struct ta_barrier_file *file = find_or_make_file(barrier, device, inode);

	if (!file)
		return -ENOMEM;
	epoch->file = file;
	link_epoch(barrier, &file->epochs, epoch);
	return 0;
}

/* Its descriptor is closed, so that nobody knows what it refers to: every fsync waits for it. */
void ta_barrier_file_anywhere(struct ta_barrier *barrier, struct ta_epoch *epoch)
{
	epoch->file = NULL;
	link_epoch(barrier, &barrier->anywhere, epoch);
}

static void unlink_epoch(struct ta_barrier *barrier, struct ta_epoch *epoch)
{
	if (epoch->next)
		epoch->next->previous = epoch->previous;
	if (epoch->previous)
		epoch->previous->next = epoch->next;
	else if (epoch->file)
		epoch->file->epochs = epoch->next;
	else
		barrier->anywhere = epoch->next;
}

/* Nothing is in flight anywhere that an fsync could have to wait for. */
bool ta_barrier_is_empty(const struct ta_barrier *barrier)
{
	return barrier->files == 0 && !barrier->anywhere;
}

static bool has_one_until(const struct ta_epoch *epoch, uint64_t filed)
{
	for (; epoch; epoch = epoch->next)
		if (epoch->filed_at <= filed)
			return true;
	return false;
}

/*
 * Does an fsync of the file have something to wait for?  Of what was filed or entered when
 * barrier->filed was this.
 */
bool ta_barrier_must_wait(struct ta_barrier *barrier, uint64_t device, uint64_t inode,
			  uint64_t filed)
{
	const struct ta_barrier_file *file = find_file(barrier, device, inode);

	return has_one_until(barrier->anywhere, filed) ||
	       (file && ((file->head && file->head->entered_at <= filed) ||
			 has_one_until(file->epochs, filed)));
}

/* The sealed epochs of a file; those that may be of any are in barrier->anywhere. */
struct ta_epoch *ta_barrier_epochs(struct ta_barrier *barrier, uint64_t device, uint64_t inode)
{
	struct ta_barrier_file *file = find_file(barrier, device, inode);

	return file ? file->epochs : NULL;
}

/* ---- syncs ----------------------------------------------------------------------------------- */

static void unlink_sync(struct ta_sync *sync)
{
	struct ta_barrier_file *file = sync->file;

	if (sync->previous)
		sync->previous->next = sync->next;
	else
		file->head = sync->next;
	if (sync->next)
		sync->next->previous = sync->previous;
	else
		file->tail = sync->previous;
	sync->file = NULL;
}

static void append_due(struct ta_sync **due, struct ta_sync *sync)
{
	while (*due)
		due = &(*due)->due_next;
	sync->due_next = NULL;
	*due = sync;
}

/*
 * Issues the head of the file's queue if its time has come, and takes along those that may ride
 * with it.
 */
static void advance(struct ta_barrier *barrier, struct ta_barrier_file *file, struct ta_sync **due)
{
	struct ta_sync *leader = file->head;
	struct ta_sync *rider;

	if (!leader) {
		drop_file_if_unused(barrier, file);
		return;
	}
	if (leader->state != TA_SYNC_WAITING || leader->pending > 0)
		return;
	leader->group_data_only = true;
	for (rider = leader; rider && rider->state == TA_SYNC_WAITING && rider->pending == 0 &&
			     rider->descriptor == leader->descriptor;
	     rider = rider->next) {
		rider->state = TA_SYNC_RUNNING;
		if (!rider->data_only)
			leader->group_data_only = false;
	}
	append_due(due, leader);
}

/* A new sync at the end of its file's queue, held back until it is armed.  NULL: no memory. */
struct ta_sync *ta_barrier_enter(struct ta_barrier *barrier, uint64_t device, uint64_t inode,
				 int descriptor, bool data_only, void *owner)
{
	struct ta_barrier_file *file = find_or_make_file(barrier, device, inode);
	struct ta_sync *sync;

	if (!file)
		return NULL;
	sync = TA_POOL_TAKE(&barrier->free_syncs, &barrier->pages, next);
	if (!sync) {
		drop_file_if_unused(barrier, file);
		return NULL;
	}
	*sync = (struct ta_sync){
		.previous = file->tail,
		.file = file,
		.owner = owner,
		.descriptor = descriptor,
		.data_only = data_only,
		.state = TA_SYNC_WAITING,
		.pending = 1,
		.entered_at = ++barrier->filed,
	};
	if (file->tail)
		file->tail->next = sync;
	else
		file->head = sync;
	file->tail = sync;
	return sync;
}

/* The sync waits for the epoch, which its caller has sealed.  -ENOMEM leaves both as they were. */
int ta_barrier_attach(struct ta_barrier *barrier, struct ta_sync *sync, struct ta_epoch *epoch)
{
	struct ta_barrier_wait *wait = TA_POOL_TAKE(&barrier->free_waits, &barrier->pages, next);

	if (!wait)
		return -ENOMEM;
	/*
	 * Its last request may just have ended: then it is about to be drained, and that tells the
	 * sync.
	 */
	ta_assert(epoch->sealed && sync->state == TA_SYNC_WAITING);
	wait->sync = sync;
	wait->next = epoch->waits;
	epoch->waits = wait;
	sync->pending++;
	return 0;
}

/* Its submission is over: from here on it is issued when its epochs are drained. */
void ta_barrier_arm(struct ta_barrier *barrier, struct ta_sync *sync, struct ta_sync **due)
{
	ta_assert(sync->pending > 0 && !sync->armed);
	sync->armed = true;
	if (--sync->pending == 0)
		advance(barrier, sync->file, due);
}

/* It will not be issued; it is withdrawn when its event is visible. */
void ta_barrier_cancel(struct ta_sync *sync)
{
	ta_assert(sync->state == TA_SYNC_WAITING && sync->armed);
	sync->state = TA_SYNC_CANCELLED;
}

/*
 * Takes a waiting or cancelled sync out; those behind it may become due.  Its owner is forgotten.
 */
void ta_barrier_withdraw(struct ta_barrier *barrier, struct ta_sync *sync, struct ta_sync **due)
{
	struct ta_barrier_file *file = sync->file;

	ta_assert(sync->state == TA_SYNC_WAITING || sync->state == TA_SYNC_CANCELLED);
	unlink_sync(sync);
	sync->state = TA_SYNC_WITHDRAWN;
	sync->owner = NULL;
	if (!sync->armed)
		sync->pending--;
	if (sync->pending == 0)
		TA_POOL_PUT(&barrier->free_syncs, sync, next);
	advance(barrier, file, due);
}

/* The last request of a sealed epoch has ended. */
void ta_barrier_drained(struct ta_barrier *barrier, struct ta_epoch *epoch, struct ta_sync **due)
{
	struct ta_barrier_wait *wait;

	ta_assert(epoch->in_flight == 0 && epoch->sealed);
	unlink_epoch(barrier, epoch);
	while ((wait = epoch->waits) != NULL) {
		struct ta_sync *sync = wait->sync;

		epoch->waits = wait->next;
		TA_POOL_PUT(&barrier->free_waits, wait, next);
		ta_assert(sync->pending > 0);
		if (--sync->pending > 0)
			continue;
		if (sync->state == TA_SYNC_WITHDRAWN)
			TA_POOL_PUT(&barrier->free_syncs, sync, next);
		else
			advance(barrier, sync->file, due);
	}
	if (epoch->file)
		drop_file_if_unused(barrier, epoch->file);
}

/*
 * Those that the leader's call serves: itself and its riders, linked by due_next in order of
 * arrival.  They stay in the queue, so that nothing overtakes them until their events are visible.
 */
struct ta_sync *ta_barrier_group(struct ta_sync *leader)
{
	struct ta_sync *group = NULL, **end = &group, *sync;

	for (sync = leader; sync && sync->state == TA_SYNC_RUNNING; sync = sync->next) {
		*end = sync;
		end = &sync->due_next;
	}
	*end = NULL;
	return group;
}

/*
 * The call that the leader was issued for has returned.  Hands back the leader and its riders,
 * linked by due_next in order of arrival, for the caller to release; what becomes due behind them
 * is added to due.
 */
struct ta_sync *ta_barrier_ended(struct ta_barrier *barrier, struct ta_sync *leader,
				 struct ta_sync **due)
{
	struct ta_barrier_file *file = leader->file;
	struct ta_sync *ended = NULL, **end = &ended;

	ta_assert(file->head == leader && leader->state == TA_SYNC_RUNNING);
	while (file->head && file->head->state == TA_SYNC_RUNNING) {
		struct ta_sync *sync = file->head;

		unlink_sync(sync);
		*end = sync;
		end = &sync->due_next;
	}
	*end = NULL;
	advance(barrier, file, due);
	return ended;
}

/* After ta_barrier_ended: the memory of one that it handed back may be used again. */
void ta_barrier_release(struct ta_barrier *barrier, struct ta_sync *sync)
{
	TA_POOL_PUT(&barrier->free_syncs, sync, next);
}
