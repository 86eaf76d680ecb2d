/* SPDX-License-Identifier: MIT */
/*
 * The contract between the library and whoever carries out operations for it: an *offloader*.
 * There are two, the library's io_uring and its worker threads.  Which one serves is settled when
 * the first operation comes (select.c); an operation stays with the one that took hold of its file.
 */
#ifndef TA_OFFLOAD_H
#define TA_OFFLOAD_H

#include "internal.h"

struct ta_offloader {
	const char *name;
	/*
	 * In the thread of io_submit: takes hold of the open file behind fd, so that an operation
	 * means it whatever becomes of the number.  Never a descriptor in the program's table:
	 * closing one would drop the process's record locks on the file.  A number for the other
	 * calls; -EBADF; or -ENFILE when no more files can be held.
	 */
	int (*capture)(int fd);
	/* Gives a file back.  Any thread. */
	void (*release)(int file);
	/*
	 * Carries the operation out, or, if it is cancelled, its end; then calls
	 * ta_operation_ended from a thread of the library.  offload_lock is held, and let go.
	 */
	void (*submit)(struct ta_operation *operation);
	/*
	 * Tries to end a running operation early: 0 if it will end with -ECANCELED, or a negative
	 * errno.  The lock of its context is held, which keeps the operation from going away.
	 */
	int (*cancel)(struct ta_operation *operation);
	/* The same without an answer, at the next chance if not now. */
	void (*abandon)(struct ta_operation *operation);
	/*
	 * Adds one to the program's eventfd that the operation holds, then calls ta_complete_end.
	 * From a thread of the offloader, which does not wait for it.
	 */
	void (*signal)(struct ta_operation *operation);
};

extern TA_HIDDEN const struct ta_offloader ta_uring_offloader;
extern TA_HIDDEN const struct ta_offloader ta_threads_offloader;

/* Make what is needed, once a process.  0, or a negative errno. */
TA_HIDDEN int ta_uring_open(struct ta_process *process);
TA_HIDDEN int ta_threads_open(struct ta_process *process);
TA_HIDDEN void ta_uring_ring_doorbell(void);

/* ---- uring_rewrite.c ------------------------------------------------------------------------- */

TA_HIDDEN bool ta_uring_rewrite(struct ta_operation *operation);
/* From there, with offload_lock free: the operation's result is this. */
TA_HIDDEN void ta_uring_rewritten(struct ta_operation *operation, long result);

/* ---- select.c -------------------------------------------------------------------------------- */

/* The offloader for new operations, made now if need be; NULL where none can be had. */
TA_HIDDEN const struct ta_offloader *ta_offload_open(void);
/* The guess of a moment: does asking for an operation make sense at all? */
TA_HIDDEN bool ta_offload_possible(void);
/* The offloader can take hold of nothing any more: another one, if there is one, takes over. */
TA_HIDDEN void ta_offload_lost(const struct ta_offloader *offloader);

/* ---- hold.c ---------------------------------------------------------------------------------- */

/* An open file that operations refer to, however many they are. */
struct ta_hold {
	struct ta_hold *next; /* in its bucket, or free */
	const struct ta_offloader *offloader;
	int file; /* as the offloader numbers it */
	uint32_t users; /* offload_lock */
	bool is_shared; /* others may join it: it is in its bucket */
	int descriptor; /* the number in the program under which it was captured */
	long file_flags;
	struct ta_file_identity identity;
};

TA_HIDDEN int ta_hold_take(const struct ta_offloader *offloader, int fd,
			   const struct ta_file_identity *identity, long file_flags,
			   struct ta_hold **taken);
TA_HIDDEN int ta_hold_take_alone(const struct ta_offloader *offloader, int fd,
				 struct ta_hold **taken);
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
TA_HIDDEN bool ta_transfer_may_be_cut(const struct ta_operation *operation, int bytes);
TA_HIDDEN bool ta_transfer_bounce(struct ta_operation *operation);
TA_HIDDEN long ta_transfer_unbounce(struct ta_operation *operation, long result);

#endif
