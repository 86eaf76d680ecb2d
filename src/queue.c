/* SPDX-License-Identifier: MIT */
/*
 * Whose turn with a worker it is.
 *
 * Operations are queued with their files, and files with something queued stand in a list and take
 * turns.  One inode, by however many openings, can take half of the workers that others leave,
 * never all: a file that hangs leaves the rest alone.  Its fsyncs have a share beside it, because
 * an fsync waits for no later request.
 *
 * offload_lock guards all of it.
 */
#include "work.h"

/* ---- lists of operations --------------------------------------------------------------------- */

void ta_list_push(struct ta_list *list, struct ta_operation *operation, enum ta_list_kind kind)
{
	operation->links[kind].next = NULL;
	operation->links[kind].previous = list->tail;
	if (list->tail)
		list->tail->links[kind].next = operation;
	else
		list->head = operation;
	list->tail = operation;
}

void ta_list_remove(struct ta_list *list, struct ta_operation *operation, enum ta_list_kind kind)
{
	struct ta_operation *next = operation->links[kind].next;
	struct ta_operation *previous = operation->links[kind].previous;

	if (previous)
		previous->links[kind].next = next;
	else
		list->head = next;
	if (next)
		next->links[kind].previous = previous;
	else
		list->tail = previous;
}

/* ---- lists of files -------------------------------------------------------------------------- */

static void list_file(struct ta_workers *workers, struct ta_hold *file)
{
	file->is_listed = true;
	file->list_next = NULL;
	if (workers->list_tail)
		workers->list_tail->list_next = file;
	else
		workers->list_head = file;
	workers->list_tail = file;
}

void ta_queue_push(struct ta_workers *workers, struct ta_operation *operation)
{
	struct ta_hold *file = operation->hold;

	operation->state = TA_OPERATION_QUEUED;
	ta_list_push(&file->queue, operation, TA_LIST_QUEUE);
	if (!file->is_listed)
		list_file(workers, file);
}

/* Takes the file out of the list, and puts it at its end if it has more. */
static void take_turn(struct ta_workers *workers, struct ta_hold *file, struct ta_hold *previous)
{
	if (previous)
		previous->list_next = file->list_next;
	else
		workers->list_head = file->list_next;
	if (workers->list_tail == file)
		workers->list_tail = previous;
	file->is_listed = false;
	if (file->queue.head)
		list_file(workers, file);
}

/* ---- shares ---------------------------------------------------------------------------------- */

static uint32_t *share_of(const struct ta_operation *operation)
{
	return &operation->hold->inode->running[operation->is_sync];
}

/* Half of the workers that others leave, and one at least. */
static bool may_run(const struct ta_workers *workers, const struct ta_hold *file)
{
	uint32_t own, others, left, share;

	if (!file->queue.head)
		return false;
	own = *share_of(file->queue.head);
	others = workers->running - own;
	left = workers->limit > others ? workers->limit - others : 0;
	share = (left + 1) / 2;
	return own < (share > 0 ? share : 1);
}

bool ta_queue_has_work(const struct ta_workers *workers)
{
	const struct ta_hold *file;

	if (workers->ended.head)
		return true;
	for (file = workers->list_head; file; file = file->list_next)
		if (may_run(workers, file))
			return true;
	return false;
}

/*
 * The next operation for a worker: one that wants nothing but its event, or one whose turn it is,
 * which runs from now on.  NULL: none.
 */
struct ta_operation *ta_queue_next(struct ta_workers *workers)
{
	struct ta_hold *file = workers->list_head, *previous = NULL, *following;
	struct ta_operation *operation = workers->ended.head;

	if (operation) {
		ta_list_remove(&workers->ended, operation, TA_LIST_QUEUE);
		return operation;
	}
	while (file && !may_run(workers, file)) {
		following = file->list_next;
		if (file->queue.head)
			previous = file;
		else
			/* Its last operation was cancelled. */
			take_turn(workers, file, previous);
		file = following;
	}
	if (!file)
		return NULL;
	operation = file->queue.head;
	ta_list_remove(&file->queue, operation, TA_LIST_QUEUE);
	take_turn(workers, file, previous);
	operation->state = TA_OPERATION_RUNNING;
	++*share_of(operation);
	workers->running++;
	workers->begun++;
	return operation;
}

/* It runs no longer. */
void ta_queue_stopped(struct ta_workers *workers, const struct ta_operation *operation)
{
	--*share_of(operation);
	workers->running--;
}
