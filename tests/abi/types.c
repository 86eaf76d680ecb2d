/* SPDX-License-Identifier: MIT */
/*
 * One variable of every type, and one pointer to every function, that <libaio.h> gives to programs.
 * Compiled against two headers, the debug information of the two objects says where they differ,
 * down to the names of members and the types of arguments.  io_queue_wait is not among them: the
 * other header does not declare it.
 */
#include <libaio.h>

io_context_t type_io_context_t;
io_callback_t type_io_callback_t;
enum io_iocb_cmd type_enum_io_iocb_cmd;
io_iocb_cmd_t type_io_iocb_cmd_t;
struct io_iocb_poll type_io_iocb_poll;
struct io_iocb_sockaddr type_io_iocb_sockaddr;
struct io_iocb_common type_io_iocb_common;
struct io_iocb_vector type_io_iocb_vector;
struct iocb type_iocb;
struct io_event type_io_event;
struct io_sigset type_io_sigset;
struct io_sigset_compat type_io_sigset_compat;

#define FUNCTION(name) __typeof__(name) *function_##name = name

FUNCTION(io_queue_init);
FUNCTION(io_queue_release);
FUNCTION(io_queue_run);
FUNCTION(io_setup);
FUNCTION(io_destroy);
FUNCTION(io_submit);
FUNCTION(io_cancel);
FUNCTION(io_getevents);
FUNCTION(io_pgetevents);
FUNCTION(io_set_callback);
FUNCTION(io_prep_pread);
FUNCTION(io_prep_pwrite);
FUNCTION(io_prep_preadv);
FUNCTION(io_prep_pwritev);
FUNCTION(io_prep_preadv2);
FUNCTION(io_prep_pwritev2);
FUNCTION(io_prep_poll);
FUNCTION(io_poll);
FUNCTION(io_prep_fsync);
FUNCTION(io_fsync);
FUNCTION(io_prep_fdsync);
FUNCTION(io_fdsync);
FUNCTION(io_set_eventfd);
