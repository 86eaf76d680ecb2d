/* SPDX-License-Identifier: MIT */
/*
 * What the files of the worker threads share; nobody else includes it.  offload_lock guards all of
 * it, but for what says otherwise.
 *
 *	offload_threads.c	queues, workers, the keeper, what is asked of them
 *	threads_table.c		the descriptor table and how files get there and back
 *	threads_poller.c	operations that wait until their file is ready
 *	threads_transfer.c	the system calls that carry out reads, writes and fsyncs
 */
#ifndef TA_THREADS_H
#define TA_THREADS_H

#include "offload.h"

/* Files held at a time; fewer where RLIMIT_NOFILE is lower. */
#define TA_THREADS_FILES_MAX 65536u

/* Files are told apart by inode for their shares of the workers; some share one by chance. */
#define TA_THREADS_GROUPS 1024u

/* In place of a descriptor: in the socket; or lost, because the table had no room for it. */
#define TA_NUMBER_COMING (-1)
#define TA_NUMBER_LOST (-2)

/* No event has this bit: with it, waiting for nothing but errors is something, too. */
#define TA_EVENTS_ARMED 0x10000u

struct ta_threads_file {
	_Atomic int number; /* in the table; receive_lock, or nobody else knows the file yet */
	int next; /* index of the next free, or to be closed */
	uint32_t group; /* the same for all that refer to one inode */
	bool is_listed; /* has queued operations, and stands in the list of such files */
	bool is_watched; /* known to epoll */
	bool is_arming; /* a thread is telling epoll what to watch for */
	uint32_t wanted_events; /* by the parked ones, and TA_EVENTS_ARMED */
	uint32_t armed_events; /* what epoll has been told, 0 once it has reported */
	uint32_t generation; /* changes when the place is given back */
	struct ta_threads_file *list_next;
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
	uint32_t group_running[2 * TA_THREADS_GROUPS]; /* transfers and fsyncs with workers */
	uint32_t workers;
	uint32_t idle;
	uint32_t running;
	uint64_t begun; /* operations, ever */
	_Atomic uint32_t work_word; /* changes when there is work for an idle worker */
	struct ta_threads_file *list_head; /* files with queued operations */
	struct ta_threads_file *list_tail;

	_Atomic uint32_t keeper_word; /* changes when there is work for the keeper */
	struct ta_operation *ended; /* cancelled ones that wait for their end */
	int closing; /* files to be given back; -1: none */
	bool receive_wanted;
	_Atomic uint32_t received_word; /* changes when the socket has been emptied */

	struct ta_lock receive_lock;
	uint32_t file_limit;
	uint32_t file_count; /* ever used */
	int free_file; /* -1: none */
	struct ta_threads_file files[];
};

enum keeper_state { KEEPER_STARTING, KEEPER_READY, KEEPER_FAILED };

static inline struct ta_threads *ta_threads_get(void)
{
	return ta_process()->threads;
}

/* Said by each thread that shares the table, unless that is the program's. */
static inline void ta_threads_enter_table(const struct ta_threads *threads)
{
	if (threads->owns_table)
		ta_thread_becomes_foreign(threads->wake_fd);
}

static inline struct ta_threads_file *ta_threads_file_of(struct ta_threads *threads,
							 const struct ta_operation *operation)
{
	return &threads->files[operation->hold->file];
}

static inline void ta_threads_parked_push(struct ta_threads_file *file,
					  struct ta_operation *operation)
{
	operation->is_parked = true;
	operation->queue_previous = NULL;
	operation->queue_next = file->parked;
	if (file->parked)
		file->parked->queue_previous = operation;
	file->parked = operation;
}

static inline void ta_threads_parked_remove(struct ta_threads_file *file,
					    struct ta_operation *operation)
{
	operation->is_parked = false;
	if (operation->queue_previous)
		operation->queue_previous->queue_next = operation->queue_next;
	else
		file->parked = operation->queue_next;
	if (operation->queue_next)
		operation->queue_next->queue_previous = operation->queue_previous;
}

/* ---- offload_threads.c ----------------------------------------------------------------------- */

TA_HIDDEN void ta_threads_queue_push(struct ta_threads *threads, struct ta_threads_file *file,
				     struct ta_operation *operation);
TA_HIDDEN void ta_threads_announce_work(struct ta_threads *threads);
TA_HIDDEN void ta_threads_wake_keeper(struct ta_threads *threads);

/* ---- threads_table.c ------------------------------------------------------------------------- */

TA_HIDDEN int ta_threads_number(struct ta_threads *threads, struct ta_threads_file *file);
TA_HIDDEN void ta_threads_close_file(struct ta_threads *threads, int index);
TA_HIDDEN void ta_threads_receive_all(struct ta_threads *threads);
TA_HIDDEN bool ta_threads_take_empty_table(struct ta_threads *threads);
TA_HIDDEN bool ta_threads_copy_table(struct ta_threads *threads);

/* ---- threads_poller.c ------------------------------------------------------------------------ */

TA_HIDDEN bool ta_threads_park(struct ta_threads *threads, struct ta_operation *operation,
			       uint16_t events);
TA_HIDDEN void ta_threads_end_all(struct ta_operation *operation);
TA_HIDDEN void *ta_threads_poller(void *argument);

/* ---- threads_transfer.c ---------------------------------------------------------------------- */

TA_HIDDEN bool ta_threads_carry_out_stream(struct ta_threads *threads,
					   struct ta_operation *operation, int number,
					   long *result);
TA_HIDDEN long ta_threads_carry_out_file(struct ta_operation *operation, int number);

#endif
