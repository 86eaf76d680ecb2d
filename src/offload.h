/* SPDX-License-Identifier: MIT */
/*
 * The contract between the library and whoever carries out operations for it.
 *
 * open		once a process; makes what is needed.  0, or a negative errno with the reason logged: then the kernel does what it can alone.
 * capture	in the thread of io_submit: takes hold of the open file behind fd, so that the operation means it whatever becomes of the
 *		number.  Never a descriptor in the program's table: closing one would drop the process's record locks on the file.
 * release	gives the file back.  Done before the operation's event is visible, so that the file system can be unmounted on seeing it.
 * submit	any thread, no lock held: carries the operation out, then calls ta_operation_ended from a thread of the library.
 * cancel	tries to end a running operation early: 0 if it will end with -ECANCELED, or a negative errno.
 * abandon	asks for a running operation to be ended early, without an answer.
 */
#ifndef TA_OFFLOAD_H
#define TA_OFFLOAD_H

#include "internal.h"

TA_HIDDEN int ta_uring_open(void);
TA_HIDDEN int ta_uring_capture(int fd);
TA_HIDDEN void ta_uring_release(int hold);
TA_HIDDEN void ta_uring_submit(struct ta_operation *operation);
/* The same with offload_lock held, which it lets go. */
TA_HIDDEN void ta_uring_submit_locked(struct ta_operation *operation);
TA_HIDDEN int ta_uring_cancel(struct ta_operation *operation);
TA_HIDDEN void ta_uring_abandon(struct ta_operation *operation);

#endif
