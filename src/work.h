/* SPDX-License-Identifier: MIT */
/*
 * What carries out operations: lines, files in a table of our own, and the threads there.
 * offload_lock guards all of it, but for what says otherwise.
 *
 *	line.c		inodes, and what of theirs must come one after the other
 *	hold.c		the open files that operations refer to
 *	table.c		the table of descriptors and the way there
 *	queue.c		whose turn with a worker it is
 *	workers.c	the supervisor, the workers, opening
 *	poller.c	operations that wait until their file is ready
 *	transfer.c	reads and writes of files, by system calls
 *	stream.c	the same of pipes, sockets and terminals, without waiting
 */
#ifndef TA_WORK_H
#define TA_WORK_H

#include "internal.h"
#include "table.h"

/* ---- line.c ---------------------------------------------------------------------------------- */

/* A file that operations refer to, by however many openings. */
struct ta_inode {
	struct ta_inode *next; /* in its bucket, or free */
	uint64_t device;
	uint64_t inode;
	uint32_t users; /* holds, and operations in its lines */
	uint32_t running[2]; /* with workers: transfers, and fsyncs */
	bool is_waited_in; /* somebody has waited in a line */
	struct ta_list lines[2]; /* reads of a stream; everything else */
};

TA_HIDDEN struct ta_inode *ta_inode_enter(struct ta_process *process,
					  const struct ta_file_identity *identity);
TA_HIDDEN void ta_inode_leave(struct ta_process *process, struct ta_inode *inode);
/* True: it may run now.  It is in line, if it belongs there. */
TA_HIDDEN bool ta_line_join(struct ta_operation *operation);
/*
 * Without offload_lock: a stream's, whose file is not held yet, joins its line if nobody is there.
 */
TA_HIDDEN bool ta_line_begin(struct ta_operation *operation,
			     const struct ta_file_identity *identity);
/* Without offload_lock: starts the one whose turn comes then.  Not in line: nothing. */
TA_HIDDEN void ta_line_leave(struct ta_operation *operation);
static inline bool ta_lines_are_empty(void)
{
	return atomic_load(&ta_process()->in_lines) == 0;
}
/* Without offload_lock: does anything of the file stand in its line? */
TA_HIDDEN bool ta_line_is_busy_slow(int fd);
static inline bool ta_line_is_busy(int fd)
{
	return ta_unlikely(!ta_lines_are_empty()) && ta_line_is_busy_slow(fd);
}
/* Without offload_lock: must a transfer through the page cache wait for others of its file? */
TA_HIDDEN bool ta_line_is_before(const struct iocb *iocb, long bytes);
/* Without offload_lock: would the operation, on this file, find nobody before it? */
TA_HIDDEN bool ta_line_is_free(const struct ta_operation *operation,
			       const struct ta_file_identity *identity);

/* ---- hold.c ---------------------------------------------------------------------------------- */

enum ta_hold_sharing {
	TA_HOLD_ALONE,
	TA_HOLD_UNSHARED, /* others could join it, once it is in its bucket */
	TA_HOLD_SHARED, /* it is there */
};

/* An open file in the table of the workers.  Its memory never becomes anything else. */
struct ta_hold {
	struct ta_hold *next; /* in its bucket, free, or to be closed */
	uint32_t users;
	enum ta_hold_sharing sharing;
	int descriptor; /* the number in the program under which it was captured */
	long file_flags;
	struct ta_file_identity identity;
	struct ta_inode *inode;
	_Atomic int number; /* in the table: see ta_hold_number */
	bool is_listed; /* in the list of those with queued operations */
	bool is_watched; /* known to epoll */
	bool is_arming; /* a thread is telling epoll what to watch for */
	uint32_t wanted_events; /* by the parked ones, and TA_EVENTS_ARMED */
	uint32_t armed_events; /* what epoll has been told, 0 once it has reported */
	uint32_t generation; /* changes when it is given back */
	struct ta_hold *list_next;
	struct ta_list queue; /* for a worker */
	struct ta_list parked; /* until the file is ready */
};

/* What is to be closed when the lock is released. */
struct ta_leftover {
	bool is_there;
	bool is_watched;
	int number;
};

/* 0, -EBADF; -ENFILE where the file cannot be held, -EAGAIN where it may be soon: helper.c. */
TA_HIDDEN int ta_hold_take(int fd, const struct ta_file_identity *identity, long file_flags,
			   struct ta_hold **taken);
TA_HIDDEN int ta_hold_take_alone(int fd, struct ta_hold **taken);
TA_HIDDEN void ta_hold_share(struct ta_hold *hold);
TA_HIDDEN struct ta_leftover ta_hold_leave(struct ta_hold *hold);
/* The rest: without offload_lock. */
TA_HIDDEN void ta_hold_close(struct ta_leftover leftover);
TA_HIDDEN void ta_hold_release(struct ta_hold *hold);
/* In the thread that has taken it, which alone uses it.  False: it is to be released. */
TA_HIDDEN bool ta_hold_take_back(struct ta_hold *hold);
TA_HIDDEN int ta_hold_number(struct ta_hold *hold);
TA_HIDDEN uint32_t ta_holds_count(void);

/* ---- workers --------------------------------------------------------------------------------- */

/* No event has this bit: with it, waiting for nothing but errors is something, too. */
#define TA_EVENTS_ARMED 0x10000u

/* What becomes of the threads that were started to open. */
enum ta_gate { TA_GATE_MAKING, TA_GATE_MADE, TA_GATE_OPEN, TA_GATE_CLOSED };

struct ta_workers {
	_Atomic uint32_t gate; /* enum ta_gate */
	_Atomic uint32_t waiting; /* threads at the gate */
	int error; /* why it will not open; written before the gate is */
	bool owns_table; /* constant from then on, as are these */
	int wake_fd; /* the workers post with it: see ta_wake_fd_make() */
	_Atomic int epoll; /* -1: refused */
	struct ta_table table; /* see there */

	uint32_t limit; /* workers at most */
	uint32_t workers;
	uint32_t idle;
	uint32_t running; /* operations with workers */
	uint64_t begun; /* operations, ever */
	uint64_t left_to_waiters; /* the same */
	int64_t paused_until_ns; /* no thread could be started; 0: one could */
	_Atomic uint32_t work_word; /* changes when there is work for an idle worker */
	struct ta_list ended; /* they want nothing but their events */
	struct ta_hold *list_head; /* files with queued operations */
	struct ta_hold *list_tail;

	_Atomic uint32_t supervisor_word; /* changes when there is work for the supervisor */
	bool looks_again; /* soon, without being woken */
	struct ta_hold *closing; /* by threads of the program */
	_Atomic uint32_t closings; /* of these, those that are not closed */
	bool receive_wanted;
	_Atomic uint32_t received_word; /* changes when what was on its way has come */
};

static inline struct ta_workers *ta_workers_get(void)
{
	return ta_process()->workers;
}

/* Does this thread share the table in which the workers' numbers mean something? */
static inline bool ta_is_worker(const struct ta_workers *workers)
{
	return ta_thread.table == &workers->table || !workers->owns_table;
}

/* ---- queue.c --------------------------------------------------------------------------------- */

TA_HIDDEN void ta_list_push(struct ta_list *list, struct ta_operation *operation,
			    enum ta_list_kind kind);
TA_HIDDEN void ta_list_remove(struct ta_list *list, struct ta_operation *operation,
			      enum ta_list_kind kind);
TA_HIDDEN void ta_queue_push(struct ta_workers *workers, struct ta_operation *operation);
TA_HIDDEN bool ta_queue_has_work(const struct ta_workers *workers);
TA_HIDDEN struct ta_operation *ta_queue_next(struct ta_workers *workers);
TA_HIDDEN void ta_queue_stopped(struct ta_workers *workers, const struct ta_operation *operation);

/* ---- workers.c ------------------------------------------------------------------------------- */

/* True: the threads are there for good.  False: this one is to end. */
TA_HIDDEN bool ta_workers_pass_gate(struct ta_workers *workers);
/* Starts the threads, once a process.  0; or a negative errno, and nothing is left of the trial. */
TA_HIDDEN int ta_threads_open(struct ta_process *process);
/*
 * Whom to wake for so many operations that were queued or have ended.  The second half comes
 * without offload_lock; ta_workers_announce is both, and lets it go.
 */
struct ta_call {
	uint32_t workers;
	bool supervisor;
};
TA_HIDDEN struct ta_call ta_workers_call(struct ta_workers *workers, uint32_t operations);
/* The same for a read that was queued just now, and is on its way from the disk already. */
TA_HIDDEN struct ta_call ta_workers_call_for_read(struct ta_workers *workers,
						  const struct ta_operation *operation);
/* The same for one that is left to who waits for it, and given to a worker if nobody comes. */
TA_HIDDEN struct ta_call ta_workers_call_later(struct ta_workers *workers);
TA_HIDDEN void ta_workers_wake(struct ta_workers *workers, struct ta_call call);
TA_HIDDEN void ta_workers_announce(struct ta_workers *workers, uint32_t operations);
TA_HIDDEN void ta_workers_wake_supervisor(struct ta_workers *workers);
/* Until the supervisor has closed what threads of the program have left to it. */
TA_HIDDEN void ta_workers_wait_closed(struct ta_workers *workers);
/* The operation is over, in the hands of nobody: a worker gives it its event. */
TA_HIDDEN void ta_workers_end(struct ta_workers *workers, struct ta_operation *operation,
			      long result);

/* ---- poller.c -------------------------------------------------------------------------------- */

TA_HIDDEN bool ta_poller_park(struct ta_workers *workers, struct ta_operation *operation,
			      uint16_t events);
TA_HIDDEN int ta_poller_open(struct ta_workers *workers);
TA_HIDDEN void *ta_poller(void *argument);

/* ---- transfer.c ------------------------------------------------------------------------------ */

TA_HIDDEN bool ta_transfer_is_write(const struct ta_operation *operation);
TA_HIDDEN void ta_transfer_skip(struct ta_operation *operation, size_t bytes);
TA_HIDDEN size_t ta_transfer_left(const struct ta_operation *operation);
TA_HIDDEN long ta_transfer_parts(const struct ta_operation *operation, int fd,
				 const struct iovec *vector, unsigned count, int64_t offset,
				 int flags);
TA_HIDDEN long ta_transfer_rest(const struct ta_operation *operation, int fd, int flags);
/* may_reopen: fd is in a table where opening and closing its file does no harm. */
TA_HIDDEN long ta_transfer(struct ta_operation *operation, int fd, bool may_reopen);

/* ---- stream.c -------------------------------------------------------------------------------- */

static inline bool ta_is_stream(const struct ta_operation *operation)
{
	return operation->target >= TA_TARGET_LOOSE;
}

/* What a stream that would wait waits for. */
TA_HIDDEN uint16_t ta_stream_events(const struct ta_operation *operation);
/* Moves what can be moved without waiting.  The result; -EAGAIN if it would wait. */
TA_HIDDEN long ta_stream_advance(struct ta_operation *operation, int fd);
/* Was its memory used before, so that its page will not have to be fetched from somewhere? */
TA_HIDDEN bool ta_stream_memory_was_used(const struct ta_operation *operation);
/* The same by one call, inside io_submit; -EOPNOTSUPP as well, if only a worker can. */
TA_HIDDEN long ta_stream_try(struct ta_operation *operation, int fd);

#endif
