/* SPDX-License-Identifier: MIT */
/*
 * Lines: what of one file must be carried out in order of submission.
 *
 * A pipe, socket or terminal has a line for each direction: its operations run one at a time.  A
 * regular file or block device has one: for buffered writes and appends, because kernel AIO carries
 * them out inside io_submit, so that of two to one place the later one stays; and for whatever else
 * must not overtake those.  A file is known by its inode, so that all openings and duplicates share
 * the line.
 *
 * The first of a line is with the workers; it leaves when its event is visible, so that events come
 * in order, too.  offload_lock guards all of it.
 */
#include "work.h"

#include "pool.h"

/* ---- inodes ---------------------------------------------------------------------------------- */

static struct ta_inode **bucket_of(struct ta_process *process, uint64_t device, uint64_t inode)
{
	uint64_t hash = (inode ^ device << 20) * 0x9e3779b97f4a7c15u;

	return &process->inodes[(hash >> 32) % TA_INODE_BUCKETS];
}

static struct ta_inode *find(struct ta_process *process, const struct ta_file_identity *identity)
{
	struct ta_inode *inode = *bucket_of(process, identity->device, identity->inode);

	while (inode && (inode->inode != identity->inode || inode->device != identity->device))
		inode = inode->next;
	return inode;
}

/* NULL: no memory. */
struct ta_inode *ta_inode_enter(struct ta_process *process, const struct ta_file_identity *identity)
{
	struct ta_inode *inode = find(process, identity), **bucket;

	if (!inode) {
		inode = TA_POOL_TAKE(&process->free_inodes, &process->operation_pages, next);
		if (!inode)
			return NULL;
		bucket = bucket_of(process, identity->device, identity->inode);
		*inode = (struct ta_inode){
			.next = *bucket,
			.device = identity->device,
			.inode = identity->inode,
		};
		*bucket = inode;
	}
	inode->users++;
	return inode;
}

void ta_inode_leave(struct ta_process *process, struct ta_inode *inode)
{
	struct ta_inode **link;

	ta_assert(inode->users > 0);
	if (--inode->users > 0)
		return;
	link = bucket_of(process, inode->device, inode->inode);
	while (*link != inode)
		link = &(*link)->next;
	*link = inode->next;
	TA_POOL_PUT(&process->free_inodes, inode, next);
}

/* ---- lines ----------------------------------------------------------------------------------- */

/* As many of a line are looked at for one that may pass it; behind more it waits without a look. */
#define LOOKED_AT_MAX 64

static struct ta_list *line_of(struct ta_inode *inode, const struct ta_operation *operation)
{
	return &inode->lines[!ta_is_stream(operation) || ta_transfer_is_write(operation)];
}

/*
 * A read finds what was written before it, and of two writes to one place the later one stays.
 * O_DIRECT does not mix with a buffered write at all: they may have a page in common.
 */
static bool may_pass(const struct ta_operation *operation, const struct ta_operation *earlier)
{
	if (!ta_transfer_is_write(earlier))
		return true;
	if (operation->is_direct && !earlier->is_direct)
		return false;
	return operation->offset >= earlier->end || earlier->offset >= operation->end;
}

static bool appends(const struct ta_operation *operation)
{
	return operation->end == INT64_MAX;
}

/* Must it stand in the line? */
static bool belongs(const struct ta_operation *operation, const struct ta_list *line)
{
	const struct ta_operation *earlier;
	unsigned looked_at = 0;

	if (operation->is_sync || operation->opcode == IO_CMD_POLL ||
	    operation->target == TA_TARGET_DEVICE || operation->target == TA_TARGET_LOOSE)
		return false;
	if (ta_is_stream(operation) ||
	    (ta_transfer_is_write(operation) && (!operation->is_direct || appends(operation))))
		return true;
	for (earlier = line->head; earlier; earlier = earlier->links[TA_LIST_LINE].next)
		if (++looked_at > LOOKED_AT_MAX || !may_pass(operation, earlier))
			return true;
	return false;
}

bool ta_line_join(struct ta_operation *operation)
{
	struct ta_inode *inode = operation->hold ? operation->hold->inode : NULL;
	struct ta_list *line;

	/* Or it is the first already. */
	if (!inode || operation->inode)
		return true;
	line = line_of(inode, operation);
	if (!belongs(operation, line))
		return true;
	operation->inode = inode;
	inode->users++;
	if (!ta_is_stream(operation))
		atomic_fetch_add(&ta_process()->in_lines, 1);
	ta_list_push(line, operation, TA_LIST_LINE);
	return line->head == operation;
}

bool ta_line_begin(struct ta_operation *operation, const struct ta_file_identity *identity)
{
	struct ta_process *process = ta_process();
	struct ta_inode *inode;
	bool is_first = false;

	if (operation->target == TA_TARGET_LOOSE)
		return true;
	ta_lock(&process->offload_lock);
	inode = ta_inode_enter(process, identity);
	if (inode && line_of(inode, operation)->head) {
		ta_inode_leave(process, inode);
	} else if (inode) {
		operation->inode = inode;
		ta_list_push(line_of(inode, operation), operation, TA_LIST_LINE);
		is_first = true;
	}
	ta_unlock(&process->offload_lock);
	return is_first;
}

bool ta_line_is_free(const struct ta_operation *operation, const struct ta_file_identity *identity)
{
	struct ta_process *process = ta_process();
	struct ta_inode *inode;
	struct ta_list *line;
	bool is_free;

	ta_lock(&process->offload_lock);
	inode = find(process, identity);
	line = inode ? line_of(inode, operation) : NULL;
	is_free = !line || !line->head || !belongs(operation, line);
	ta_unlock(&process->offload_lock);
	return is_free;
}

bool ta_line_is_busy_slow(int fd)
{
	struct ta_process *process = ta_process();
	struct ta_file_identity identity;
	const struct ta_inode *inode;
	bool is_busy;

	if (ta_file_identify(fd, &identity) < 0)
		return false;
	ta_lock(&process->offload_lock);
	inode = find(process, &identity);
	is_busy = inode && inode->lines[1].head;
	ta_unlock(&process->offload_lock);
	return is_busy;
}

/* One that was cancelled meanwhile has its end already. */
void ta_line_leave(struct ta_operation *operation)
{
	struct ta_workers *workers = ta_workers_get();
	struct ta_process *process = ta_process();
	struct ta_inode *inode = operation->inode;
	struct ta_operation *first;
	struct ta_list *line;

	if (!inode)
		return;
	ta_lock(&process->offload_lock);
	line = line_of(inode, operation);
	ta_list_remove(line, operation, TA_LIST_LINE);
	if (!ta_is_stream(operation))
		atomic_fetch_sub(&process->in_lines, 1);
	operation->inode = NULL;
	first = line->head;
	ta_inode_leave(process, inode);
	if (first && first->state == TA_OPERATION_IN_LINE) {
		ta_queue_push(workers, first);
		ta_workers_announce(workers, 1);
	} else {
		ta_unlock(&process->offload_lock);
	}
}
