/* SPDX-License-Identifier: MIT */
/*
 * Lines: what of one file must be carried out in order of submission.
 *
 * A pipe, socket or terminal has a line for each direction: its operations run one at a time.  A
 * regular file or block device has one: for buffered writes and appends, because kernel AIO carries
 * them out inside io_submit, so that of two to one place the later one stays; for O_DIRECT writes,
 * which kernel AIO begins there; and for whatever else must not overtake those.  A file is known by
 * its inode, so that all openings and duplicates share the line.
 *
 * With the workers are those that may pass all before them in the line: O_DIRECT writes to places
 * of their own are in flight together, whatever is strict comes alone.  Each leaves when its event
 * is visible, so that events of what waited come in order, too.  offload_lock guards all of it.
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

/*
 * So many of a line are looked at for one that may pass it, at least, and as many as there can be
 * workers; behind more it waits without a look.
 */
#define LOOKED_AT_MIN 64

static struct ta_list *line_of(struct ta_inode *inode, const struct ta_operation *operation)
{
	return &inode->lines[!ta_is_stream(operation) || ta_transfer_is_write(operation)];
}

/* Transfers of files and streams alone. */
static bool has_line(const struct ta_operation *operation)
{
	return !operation->is_sync && operation->opcode != IO_CMD_POLL &&
	       operation->target != TA_TARGET_DEVICE && operation->target != TA_TARGET_LOOSE;
}

/* Does it wait for whatever is before it? */
static bool is_strict(const struct ta_operation *operation)
{
	return ta_is_stream(operation) || (ta_transfer_is_write(operation) &&
					   (!operation->is_direct || operation->end == INT64_MAX));
}

/*
 * A read finds what was written before it, and of two writes to one place the later one stays.
 * O_DIRECT does not mix with a buffered write at all: they may have a page in common.
 */
static bool may_pass(const struct ta_operation *operation, const struct ta_operation *earlier)
{
	bool is_apart = operation->offset >= earlier->end || earlier->offset >= operation->end;

	if (is_apart && (earlier->is_direct || !operation->is_direct))
		return true;
	return !ta_transfer_is_write(earlier);
}

static unsigned looked_at_most(void)
{
	unsigned workers = ta_workers_get()->limit;

	return workers > LOOKED_AT_MIN ? workers : LOOKED_AT_MIN;
}

/* Of one that stands in the line, or would be its last. */
static bool must_wait(const struct ta_operation *operation, const struct ta_list *line)
{
	const struct ta_operation *earlier = line->head;
	unsigned left = is_strict(operation) ? 0 : looked_at_most();

	for (; earlier && earlier != operation; earlier = earlier->links[TA_LIST_LINE].next)
		if (left-- == 0 || !may_pass(operation, earlier))
			return true;
	return false;
}

bool ta_line_join(struct ta_operation *operation)
{
	struct ta_inode *inode = operation->hold ? operation->hold->inode : NULL;
	struct ta_list *line;
	bool waits;

	/* Or it is the first already. */
	if (!inode || operation->inode || !has_line(operation))
		return true;
	line = line_of(inode, operation);
	waits = must_wait(operation, line);
	/* Nothing waits for a read of a file. */
	if (!waits && !ta_is_stream(operation) && !ta_transfer_is_write(operation))
		return true;
	operation->inode = inode;
	inode->users++;
	inode->is_waited_in |= waits;
	if (!ta_is_stream(operation))
		atomic_fetch_add(&ta_process()->in_lines, 1);
	ta_list_push(line, operation, TA_LIST_LINE);
	return !waits;
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
	is_free = !line || !line->head || !has_line(operation) || !must_wait(operation, line);
	ta_unlock(&process->offload_lock);
	return is_free;
}

bool ta_line_is_before(const struct iocb *iocb, long bytes)
{
	const struct ta_operation like = {
		.opcode = (uint8_t)iocb->aio_lio_opcode,
		.target = TA_TARGET_FILE,
		.offset = iocb->u.c.offset,
		.end = iocb->u.c.offset + bytes,
	};
	struct ta_file_identity identity;

	return ta_file_identify(iocb->aio_fildes, &identity) == 0 &&
	       !ta_line_is_free(&like, &identity);
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

/*
 * Queues those whose turn has come.  How many.  One that was cancelled has its end already.  The
 * first of a line waits for nobody, so that there is always one that will leave.
 */
static uint32_t go_on(struct ta_workers *workers, const struct ta_list *line)
{
	struct ta_operation *operation = line->head, *next;
	unsigned left = looked_at_most();
	uint32_t begun = 0;

	for (; operation && left-- > 0; operation = next) {
		next = operation->links[TA_LIST_LINE].next;
		if (operation->state != TA_OPERATION_IN_LINE)
			continue;
		if (!must_wait(operation, line)) {
			ta_queue_push(workers, operation);
			begun++;
		} else if (is_strict(operation)) {
			break;
		}
	}
	return begun;
}

void ta_line_leave(struct ta_operation *operation)
{
	struct ta_workers *workers = ta_workers_get();
	struct ta_process *process = ta_process();
	struct ta_inode *inode = operation->inode;
	struct ta_list *line;
	uint32_t begun = 0;

	if (!inode)
		return;
	ta_lock(&process->offload_lock);
	line = line_of(inode, operation);
	ta_list_remove(line, operation, TA_LIST_LINE);
	if (!ta_is_stream(operation))
		atomic_fetch_sub(&process->in_lines, 1);
	operation->inode = NULL;
	if (inode->is_waited_in)
		begun = go_on(workers, line);
	ta_inode_leave(process, inode);
	ta_workers_announce(workers, begun);
}
