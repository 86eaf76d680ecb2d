/* SPDX-License-Identifier: MIT */
/*
 * What the library has of the worker threads that carry out operations for it, and what it shares
 * with them.  They are started when the first operation comes (select.c).
 */
#ifndef TA_OFFLOAD_H
#define TA_OFFLOAD_H

#include "internal.h"

/* ---- offload_threads.c ----------------------------------------------------------------------- */

/* Makes what is needed, once a process.  0, or a negative errno. */
TA_HIDDEN int ta_threads_open(struct ta_process *process);
/*
 * Carries the operation out, or, if it is cancelled, its end; then calls ta_operation_ended from a
 * thread of the library.  offload_lock is held, and let go.
 */
TA_HIDDEN void ta_threads_submit(struct ta_operation *operation);
/*
 * Tries to end a running operation early: 0 if it will end with -ECANCELED, or a negative errno.
 * The lock of its context is held, which keeps the operation from going away.
 */
TA_HIDDEN int ta_threads_cancel(struct ta_operation *operation);
/* The same without an answer, at the next chance if not now. */
TA_HIDDEN void ta_threads_abandon(struct ta_operation *operation);
/*
 * Adds one to the program's eventfd that the operation holds, then calls ta_complete_end.  From a
 * thread of the library's own table.
 */
TA_HIDDEN void ta_threads_signal(struct ta_operation *operation);

/* ---- threads_table.c ------------------------------------------------------------------------- */

/*
 * In the thread of io_submit: takes hold of the open file behind fd, so that an operation means it
 * whatever becomes of the number.  Never by a descriptor in the program's table: closing one would
 * drop the process's record locks on the file.  A number for the other calls; -EBADF; or -ENFILE
 * when no more files can be held.
 */
TA_HIDDEN int ta_threads_capture(int fd);
/* Gives a file back.  Any thread. */
TA_HIDDEN void ta_threads_release(int file);

/* ---- select.c -------------------------------------------------------------------------------- */

/* True: new operations can be had, with threads that are started now if need be. */
TA_HIDDEN bool ta_offload_open(void);
/* The guess of a moment: does asking for an operation make sense at all? */
TA_HIDDEN bool ta_offload_possible(void);
/* Are they there for what is submitted from now on? */
TA_HIDDEN bool ta_offload_is_there(void);
/* They can take hold of nothing any more. */
TA_HIDDEN void ta_offload_lost(void);

/* ---- hold.c ---------------------------------------------------------------------------------- */

/* An open file that operations refer to, however many they are. */
struct ta_hold {
	struct ta_hold *next; /* in its bucket, or free */
	int file; /* as the workers number it */
	uint32_t users; /* offload_lock */
	bool is_shared; /* others may join it: it is in its bucket */
	int descriptor; /* the number in the program under which it was captured */
	long file_flags;
	struct ta_file_identity identity;
};

TA_HIDDEN int ta_hold_take(int fd, const struct ta_file_identity *identity, long file_flags,
			   struct ta_hold **taken);
TA_HIDDEN int ta_hold_take_alone(int fd, struct ta_hold **taken);
TA_HIDDEN void ta_hold_release(struct ta_hold *hold);

/* ---- transfer.c ------------------------------------------------------------------------------ */

TA_HIDDEN bool ta_transfer_is_write(const struct ta_operation *operation);
TA_HIDDEN void ta_transfer_skip(struct ta_operation *operation, size_t bytes);
TA_HIDDEN size_t ta_transfer_left(const struct ta_operation *operation);
TA_HIDDEN long ta_transfer_on_socket(struct ta_operation *operation, int fd);
TA_HIDDEN long ta_transfer_parts(const struct ta_operation *operation, int fd,
				 const struct iovec *vector, unsigned count, int64_t offset,
				 int flags);
TA_HIDDEN long ta_transfer_rest(const struct ta_operation *operation, int fd, int flags);
TA_HIDDEN long ta_transfer_take_priority(const struct ta_operation *operation);
TA_HIDDEN void ta_transfer_give_priority_back(long before);
TA_HIDDEN bool ta_transfer_may_bounce(const struct ta_operation *operation);
TA_HIDDEN bool ta_transfer_may_begin_anew(const struct ta_operation *operation);
TA_HIDDEN long ta_transfer_write_anew(struct ta_operation *operation, int fd);
TA_HIDDEN bool ta_transfer_bounce(struct ta_operation *operation);
TA_HIDDEN long ta_transfer_unbounce(struct ta_operation *operation, long result);

#endif
