/* SPDX-License-Identifier: MIT */
/*
 * libaio.h: asynchronous input and output on Linux.
 *
 * A program fills iocbs (requests), hands them to io_submit, and takes one io_event for each from
 * io_getevents.  Names, types and layouts are those of libaio 0.3.113: a program compiled with that
 * header runs on this library, and a program compiled with this header runs on that library.
 *
 * Rules that hold for every function here:
 *
 *  - Failure is a negative errno in the return value.  The variable errno is never changed.
 *  - A handle that names no live context of the calling process (null, garbage, destroyed, made by
 *    the parent before a fork) is -EINVAL.  The memory at a handle is not the caller's business.
 *  - Every function may be called from any thread, on any context, at any time, and from a signal
 *    handler.  A handler that interrupted a call into this library in its own thread at an
 *    unlucky moment gets -EAGAIN (from a function that waits: -EINTR) and should try later.
 *    A context is shared by all threads of its process.  No function is a cancellation point.
 *  - The inline functions that only fill an iocb touch nothing else and cannot fail.  Two threads
 *    must not fill the same iocb at once.
 *  - Timeouts are relative, in seconds and nanoseconds, and are never written back.  A null
 *    pointer waits without limit.  1,000,000,000 ns or more are added to the seconds; a total
 *    below zero waits without limit; a total of zero looks and does not wait.
 *
 * The header compiles as C89 with GNU's __inline__ and __extension__, as any later C, and as C++98
 * and later.  Define LIBAIO_FSYNC_RETURNS_COUNT before including it for the return value that
 * io_fsync and io_fdsync had in earlier versions of this header.
 */
#ifndef __LIBAIO_H
#define __LIBAIO_H

#include <sys/types.h>
#include <sys/select.h>	/* sigset_t, also where <signal.h> holds it back (-std=c99) */
#include <string.h>
#include <signal.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Offsets are long long in every dialect, and C89 and C++98 have no such type. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wlong-long"

struct timespec;
struct sockaddr;
struct iovec;

/*
 * The handle of a context: a queue of requests in flight and of events not yet taken.  It must hold
 * null before io_setup fills it, and is worth nothing after io_destroy.  The process owns the
 * context until io_destroy, exec or exit.
 */
typedef struct io_context *io_context_t;

/* What an iocb asks for, in aio_lio_opcode. */
typedef enum io_iocb_cmd {
	IO_CMD_PREAD = 0,	/* read at an offset: io_prep_pread(3) */
	IO_CMD_PWRITE = 1,	/* write at an offset: io_prep_pwrite(3) */

	IO_CMD_FSYNC = 2,	/* data and metadata to the device: io_prep_fsync(3) */
	IO_CMD_FDSYNC = 3,	/* data, and the metadata needed to read it back */

	IO_CMD_POLL = 5,	/* wait, once, until a descriptor is ready */
	IO_CMD_NOOP = 6,	/* skipped by io_submit: counted there, and no event comes */
	IO_CMD_PREADV = 7,	/* read into several buffers */
	IO_CMD_PWRITEV = 8	/* write from several buffers */
} io_iocb_cmd_t;

/*
 * The kernel reads these structures as 64-bit fields whatever the width of the program.
 * LIBAIO_WORD declares a pointer or a long that fills such a field, with padding where it is half
 * as wide; LIBAIO_HALVES declares the two 32-bit halves of one field.  The padding is part of what
 * the kernel reads and must be zero, as the io_prep_ functions leave it.
 */
#if !defined(__BYTE_ORDER__) || !defined(__SIZEOF_LONG__)
#error "libaio.h: this compiler defines neither byte order nor width of long"
#elif __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define LIBAIO_HALVES(low, high) low; high
#define LIBAIO_LOW_HALF 0
#define LIBAIO_HIGH_HALF 4
#elif __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define LIBAIO_HALVES(low, high) high; low
#define LIBAIO_LOW_HALF 4
#define LIBAIO_HIGH_HALF 0
#else
#error "libaio.h: neither little nor big endian"
#endif

#if __SIZEOF_LONG__ == 8
#define LIBAIO_WORD(declaration, padding) declaration
#define LIBAIO_WORD_AT 0
#elif __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define LIBAIO_WORD(declaration, padding) declaration; unsigned padding
#define LIBAIO_WORD_AT 0
#else
#define LIBAIO_WORD(declaration, padding) unsigned padding; declaration
#define LIBAIO_WORD_AT 4
#endif

/* Operand of IO_CMD_POLL.  The event's res is the set of POLL* bits that woke it. */
struct io_iocb_poll {
	LIBAIO_HALVES(int events, int __pad1);	/* POLLIN, POLLOUT ... of poll(2) */
};

/* Operand of a request that no kernel serves; kept because programs may name it. */
struct io_iocb_sockaddr {
	LIBAIO_WORD(struct sockaddr *addr, __pad1);
	LIBAIO_WORD(unsigned long len, __pad2);
};

/* Operand of reads and writes, and the place of the flags for every request. */
struct io_iocb_common {
	LIBAIO_WORD(void *buf, __pad1);	/* the data, or the array of iovecs; the caller's own */
	LIBAIO_WORD(unsigned long nbytes, __pad2);	/* bytes, or the number of iovecs */
	long long offset;	/* bytes from the start of the file */
	long long __pad3;	/* must be 0 */
	unsigned flags;		/* 1: signal resfd; 2: aio_reqprio counts */
	unsigned resfd;		/* an eventfd(2), see io_set_eventfd */
};

/* The same memory as io_iocb_common, named for reads and writes with several buffers. */
struct io_iocb_vector {
	LIBAIO_WORD(const struct iovec *vec, __pad1);
	LIBAIO_WORD(unsigned long nr, __pad2);	/* number of elements of vec */
	long long offset;	/* bytes from the start of the file */
};

/*
 * One request: 64 bytes, no alignment required by the library.  io_submit copies it, so it may be
 * changed, reused or freed as soon as io_submit has returned; only its address lives on, as
 * io_event.obj.  The buffers it points to must stay until its event is taken.
 */
struct iocb {
	LIBAIO_WORD(void *data, __pad1);	/* comes back in io_event.data; io_set_callback */
	LIBAIO_HALVES(unsigned key, unsigned aio_rw_flags);	/* io_submit writes key to 0;
								   aio_rw_flags: RWF_* */

	short aio_lio_opcode;	/* enum io_iocb_cmd */
	short aio_reqprio;	/* ioprio_set(2) value, if bit 1 of u.c.flags is set */
	int aio_fildes;		/* the descriptor */

	union {
		struct io_iocb_common c;
		struct io_iocb_vector v;
		struct io_iocb_poll poll;
		struct io_iocb_sockaddr saddr;
	} u;
};

/* How one request ended: 32 bytes. */
struct io_event {
	LIBAIO_WORD(void *data, __pad1);	/* iocb.data as it was at io_submit */
	LIBAIO_WORD(struct iocb *obj, __pad2);	/* the address given to io_submit */
	LIBAIO_WORD(unsigned long res, __pad3);	/* read it as long: bytes moved, poll bits,
						   0, or a negative errno */
	LIBAIO_WORD(unsigned long res2, __pad4);	/* 0 */
};

/* What the io_pgetevents system call takes for its mask; programs of their own system calls. */
struct io_sigset {
	unsigned long ss;	/* address of the mask */
	unsigned long ss_len;	/* its size in bytes */
};

/* The same for a 32-bit program on a 64-bit kernel. */
struct io_sigset_compat {
	LIBAIO_WORD(unsigned long ss, __ss_pad);
	unsigned long ss_len;
};

/*
 * The layout is shared with the kernel and with programs compiled long ago: a compiler that lays it
 * out otherwise must stop here.
 */
#if defined(__cplusplus) && __cplusplus >= 201103L
#define LIBAIO_ASSERT(name, condition) static_assert(condition, #name)
#elif !defined(__cplusplus) && defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L
#define LIBAIO_ASSERT(name, condition) _Static_assert(condition, #name)
#else
#define LIBAIO_ASSERT(name, condition) typedef char libaio_assert_##name[(condition) ? 1 : -1]
#endif
#define LIBAIO_ASSERT_AT(name, type, member, offset) \
	LIBAIO_ASSERT(name, __builtin_offsetof(type, member) == (offset))

LIBAIO_ASSERT(iocb_size, sizeof(struct iocb) == 64);
LIBAIO_ASSERT_AT(iocb_data, struct iocb, data, 0 + LIBAIO_WORD_AT);
LIBAIO_ASSERT_AT(iocb_key, struct iocb, key, 8 + LIBAIO_LOW_HALF);
LIBAIO_ASSERT_AT(iocb_rw_flags, struct iocb, aio_rw_flags, 8 + LIBAIO_HIGH_HALF);
LIBAIO_ASSERT_AT(iocb_opcode, struct iocb, aio_lio_opcode, 16);
LIBAIO_ASSERT_AT(iocb_reqprio, struct iocb, aio_reqprio, 18);
LIBAIO_ASSERT_AT(iocb_fildes, struct iocb, aio_fildes, 20);
LIBAIO_ASSERT_AT(iocb_buf, struct iocb, u.c.buf, 24 + LIBAIO_WORD_AT);
LIBAIO_ASSERT_AT(iocb_nbytes, struct iocb, u.c.nbytes, 32 + LIBAIO_WORD_AT);
LIBAIO_ASSERT_AT(iocb_offset, struct iocb, u.c.offset, 40);
LIBAIO_ASSERT_AT(iocb_reserved, struct iocb, u.c.__pad3, 48);
LIBAIO_ASSERT_AT(iocb_flags, struct iocb, u.c.flags, 56);
LIBAIO_ASSERT_AT(iocb_resfd, struct iocb, u.c.resfd, 60);
LIBAIO_ASSERT_AT(iocb_vec, struct iocb, u.v.vec, 24 + LIBAIO_WORD_AT);
LIBAIO_ASSERT_AT(iocb_nr, struct iocb, u.v.nr, 32 + LIBAIO_WORD_AT);
LIBAIO_ASSERT_AT(iocb_vec_offset, struct iocb, u.v.offset, 40);
LIBAIO_ASSERT_AT(iocb_poll_events, struct iocb, u.poll.events, 24 + LIBAIO_LOW_HALF);
LIBAIO_ASSERT(event_size, sizeof(struct io_event) == 32);
LIBAIO_ASSERT_AT(event_data, struct io_event, data, 0 + LIBAIO_WORD_AT);
LIBAIO_ASSERT_AT(event_obj, struct io_event, obj, 8 + LIBAIO_WORD_AT);
LIBAIO_ASSERT_AT(event_res, struct io_event, res, 16 + LIBAIO_WORD_AT);
LIBAIO_ASSERT_AT(event_res2, struct io_event, res2, 24 + LIBAIO_WORD_AT);

#undef LIBAIO_ASSERT
#undef LIBAIO_ASSERT_AT
#undef LIBAIO_HALVES
#undef LIBAIO_WORD
#undef LIBAIO_LOW_HALF
#undef LIBAIO_HIGH_HALF
#undef LIBAIO_WORD_AT

/*
 * What io_queue_run calls for an event: the context, the iocb's address, and the event's two
 * results.  It runs in the thread that called io_queue_run, outside all locks; it may submit, free
 * the iocb, and call io_queue_run again.
 */
typedef void (*io_callback_t)(io_context_t ctx, struct iocb *iocb, long res, long res2);

/*
 * io_setup - make a context (io_setup(2)).
 * @maxevents: how many requests the context must be able to hold; one counts from io_submit until
 *             its event is taken.  More may fit.
 * @ctxp:      receives the handle; must hold null.  Untouched on failure.
 *
 * Returns 0, or
 *   -EINVAL  maxevents is 0, negative or beyond 4,194,304; or *ctxp is not null
 *   -EFAULT  ctxp can't be read or written
 *   -EAGAIN  the system's quota (/proc/sys/fs/aio-max-nr) is used up, and the context can't be
 *            served without kernel AIO: always so for a program that reaps without the library
 *   -ENOMEM  no memory
 *   -ENOSYS  neither the kernel's AIO nor another engine works here; or the one that
 *            TRUEAIO_ENGINE names can't start
 */
extern int io_setup(int maxevents, io_context_t *ctxp);

/*
 * io_destroy - end a context and wait for its requests (io_destroy(2)).
 *
 * On return every transfer has ended and no buffer is in use any more.  A waiting IO_CMD_POLL is
 * cancelled.  Events not taken are lost.  Threads that wait in io_getevents return at once, with
 * what they hold or with -EINVAL.  Signals do not interrupt the wait.
 *
 * Returns 0, or
 *   -EINVAL  ctx is no context; also for the loser of two calls for the same one
 */
extern int io_destroy(io_context_t ctx);

/*
 * io_queue_init - io_setup for a handle with any content (io_queue_init(3)).
 *
 * Stores null at @ctxp, which must be writable, and then does what io_setup does.  A handle that
 * stood there is overwritten, its context not destroyed.
 *
 * Returns what io_setup does; -EINVAL for maxevents <= 0 leaves *ctxp alone.
 */
extern int io_queue_init(int maxevents, io_context_t *ctxp);

/* io_queue_release - another name of io_destroy (io_queue_release(3)). */
extern int io_queue_release(io_context_t ctx);

/*
 * io_submit - start requests (io_submit(2), io_submit(3)).
 * @nr:  number of elements of ios; 0 only checks the context.
 * @ios: pointers to the requests.  The array and the iocbs are the caller's again on return, the
 *       buffers when the event has been taken.
 *
 * Requests are taken from the front; the first that is refused ends the call, and nothing after it
 * is looked at.  Each one accepted has exactly one event, except IO_CMD_NOOP, which has none.  The
 * key of an iocb is set to 0.  Completions may come in any order: only IO_CMD_FSYNC and
 * IO_CMD_FDSYNC wait, for all requests accepted before them on the same file (io_fsync below).
 * Buffered writes are copied and O_DIRECT requests are started in here; reads that must wait for
 * the device, pipes, sockets and terminals do not hold the caller, with the exceptions that
 * io_submit(3) names.
 *
 * Returns the number accepted, from 0 to nr; or, if the first is refused,
 *   -EINVAL      ctx is no context; nr is negative; the opcode is unknown, the file can't do it,
 *                or an operand is not allowed (__pad3 not 0, negative size or offset, resfd no
 *                eventfd, more than 1024 iovecs)
 *   -EFAULT      the array, the iocb or its iovecs can't be read, or key can't be written
 *   -EBADF       aio_fildes or resfd is not open, or not for this direction
 *   -EAGAIN      the context is full: take events first; rarely, something else is short
 *   -EOPNOTSUPP  the file knows no such RWF_* flag
 *   -EPERM       the priority asked for needs a privilege
 * An error met during the transfer itself (EIO, ENOSPC, EFAULT for the buffer, EINVAL for the
 * alignment that O_DIRECT needs) comes in the event.
 */
extern int io_submit(io_context_t ctx, long nr, struct iocb *ios[]);

/*
 * io_cancel - ask that a request end early (io_cancel(2), io_cancel(3)).
 * @iocb: the address given to io_submit; what it holds does not matter.  Of several requests
 *        submitted from that address the oldest is meant.
 * @evt:  neither read nor written; may be null.
 *
 * The event of the request always comes through io_getevents: never twice, never not at all.
 *
 * Returns, never 0,
 *   -EINPROGRESS  cancelled; its event has res -ECANCELED (an IO_CMD_POLL: 0)
 *   -EAGAIN       in flight and past cancelling, as reads and writes on files mostly are; it ends
 *                 as if nothing had been asked
 *   -EINVAL       ctx is no context, or no request in flight has this address
 *   -EFAULT       iocb is null or can't be read
 */
extern int io_cancel(io_context_t ctx, struct iocb *iocb, struct io_event *evt);

/*
 * io_getevents - take events, waiting for them if need be (io_getevents(2), io_getevents(3)).
 * @min_nr:  how many to wait for; 0 takes what is there.
 * @nr:      how many to take at most.
 * @events:  room for nr; the caller's own.
 * @timeout: how long to wait for min_nr at most.  See the rules at the top.
 *
 * Events of one context may be taken by several threads; each event goes to exactly one.
 *
 * Returns the number taken: fewer than min_nr only if the time was over, a signal handler ran, or
 * the context was destroyed.  Or
 *   -EINVAL  ctx is no context, or was destroyed meanwhile; min_nr or nr is negative, or
 *            min_nr > nr
 *   -EFAULT  events can't be written (no event is lost), or timeout can't be read
 *   -EINTR   a signal handler ran and no event was in hand; SA_RESTART does not change that
 */
extern int io_getevents(io_context_t ctx, long min_nr, long nr, struct io_event *events,
			struct timespec *timeout);

/*
 * io_pgetevents - io_getevents under another signal mask (io_getevents(3), pselect(2)).
 * @sigmask: the thread's mask during the call, put in place and taken back atomically with the
 *           wait (before Linux 4.18 just before it).  Null: as io_getevents.
 *
 * Returns what io_getevents does; -EFAULT also if sigmask can't be read.
 */
extern int io_pgetevents(io_context_t ctx, long min_nr, long nr, struct io_event *events,
			 struct timespec *timeout, sigset_t *sigmask);

/*
 * io_queue_run - call the callbacks of all requests that have ended (io_queue_run(3)).
 *
 * Takes events one at a time, without waiting, until there is none, and calls for each the function
 * that io_set_callback has put into the iocb.  An event whose data is null is dropped.
 *
 * Returns 0, or
 *   -EINVAL  ctx is no context
 */
extern int io_queue_run(io_context_t ctx);

/*
 * io_queue_wait - wait until there is an event, and leave it there (io_queue_wait(3)).
 *
 * Other libaio libraries export this function but do not wait in it.  They do not declare it
 * either, so programs do, without const in C; in C++ a program's own function of that name remains
 * an overload beside the const one.
 *
 * Returns 0 when an event is there or the time is over, or
 *   -EINVAL  ctx is no context, or was destroyed meanwhile
 *   -EFAULT  timeout can't be read
 *   -EINTR   a signal handler ran
 */
#ifdef __cplusplus
extern int io_queue_wait(io_context_t ctx, const struct timespec *timeout);
#else
extern int io_queue_wait(io_context_t ctx, struct timespec *timeout);
#endif

/*
 * trueaio_engine - what serves a context:
 *   "native"              the kernel's AIO, helped by the library where the kernel would hold the
 *                         caller
 *   "native-passthrough"  the same for a program that reads the completions without the library
 *   "threads"             the library's worker threads, without kernel AIO
 * Later versions may have other names.
 *
 * The string is static: the caller must not free it.  Null if ctx is no context of this process.
 * Only this library has the function.  A program that must also start on another libaio asks
 * dlsym(RTLD_DEFAULT, "trueaio_engine"); comparing the function's address with null does not do in
 * an executable that is not position independent, where it is never null.
 */
extern const char *trueaio_engine(io_context_t ctx);

/*
 * The way of io_fsync and io_fdsync into the library.  The function fills all 64 bytes of *iocb,
 * submits it, and returns what io_submit returns: 1 or a negative errno, -EFAULT if iocb can't be
 * written.  opcode is IO_CMD_FSYNC or IO_CMD_FDSYNC.  Programs have no use of their own for it.
 *
 * It is unversioned and weak, so that a program compiled with this header starts on another libaio
 * too.  And it is a variable: the address of a weak function that is missing is null in position
 * independent code alone; elsewhere it may be that of a stub that jumps to 0.
 */
typedef int trueaio_sync_function(io_context_t ctx, struct iocb *iocb, io_callback_t cb, int fd,
				  int opcode);
extern trueaio_sync_function *const trueaio_sync_call __attribute__((__weak__));

/*
 * io_set_callback - say what io_queue_run calls when the request has ended (io_set_callback(3)).
 *
 * Takes the place of iocb->data.  To be called after the io_prep_ function, which clears it.
 */
static __inline__ void io_set_callback(struct iocb *iocb, io_callback_t cb)
{
	iocb->data = __extension__ (void *)cb;
}

/*
 * io_set_eventfd - have 1 added to an eventfd(2) when the request has ended, whatever its result.
 *
 * The event can be taken by the time the eventfd is readable.  To be called after the io_prep_
 * function, which clears it.
 */
static __inline__ void io_set_eventfd(struct iocb *iocb, int event_fd)
{
	iocb->u.c.flags |= 1U;
	iocb->u.c.resfd = (unsigned)event_fd;
}

/*
 * io_prep_pread, io_prep_pwrite - make a request to read or write count bytes at offset, counted in
 * bytes from the start of the file (io_prep_pread(3), io_prep_pwrite(3)).
 *
 * Clears all 64 bytes of the iocb first.  The file's own position is neither used nor moved.  The
 * buffer is the caller's, and must stay until the event is taken.  The event's res is the number of
 * bytes moved, which may be less than count, or a negative errno.
 */
static __inline__ void io_prep_pread(struct iocb *iocb, int fd, void *buf, size_t count,
				     long long offset)
{
	memset(iocb, 0, sizeof(*iocb));
	iocb->aio_lio_opcode = IO_CMD_PREAD;
	iocb->aio_fildes = fd;
	iocb->u.c.buf = buf;
	iocb->u.c.nbytes = count;
	iocb->u.c.offset = offset;
}

static __inline__ void io_prep_pwrite(struct iocb *iocb, int fd, void *buf, size_t count,
				      long long offset)
{
	io_prep_pread(iocb, fd, buf, count, offset);
	iocb->aio_lio_opcode = IO_CMD_PWRITE;
}

/*
 * io_prep_preadv2, io_prep_pwritev2 - make a request to read into, or write from, several buffers
 * in one stretch of the file (preadv2(2)).
 * @iov:    iovcnt elements, at most 1024; the array is the caller's again after io_submit, the
 *          buffers when the event has been taken.
 * @offset: bytes from the start of the file.
 * @flags:  RWF_* bits of preadv2(2).
 *
 * Otherwise as io_prep_pread and io_prep_pwrite.
 */
static __inline__ void io_prep_preadv2(struct iocb *iocb, int fd, const struct iovec *iov,
				       int iovcnt, long long offset, int flags)
{
	memset(iocb, 0, sizeof(*iocb));
	iocb->aio_lio_opcode = IO_CMD_PREADV;
	iocb->aio_rw_flags = (unsigned)flags;
	iocb->aio_fildes = fd;
	iocb->u.c.buf = (void *)iov;
	iocb->u.c.nbytes = (unsigned long)iovcnt;
	iocb->u.c.offset = offset;
}

static __inline__ void io_prep_pwritev2(struct iocb *iocb, int fd, const struct iovec *iov,
					int iovcnt, long long offset, int flags)
{
	io_prep_preadv2(iocb, fd, iov, iovcnt, offset, flags);
	iocb->aio_lio_opcode = IO_CMD_PWRITEV;
}

/* io_prep_preadv, io_prep_pwritev - the same without flags (preadv(2)). */
static __inline__ void io_prep_preadv(struct iocb *iocb, int fd, const struct iovec *iov,
				      int iovcnt, long long offset)
{
	io_prep_preadv2(iocb, fd, iov, iovcnt, offset, 0);
}

static __inline__ void io_prep_pwritev(struct iocb *iocb, int fd, const struct iovec *iov,
				       int iovcnt, long long offset)
{
	io_prep_pwritev2(iocb, fd, iov, iovcnt, offset, 0);
}

/*
 * io_prep_poll - make a request that ends when the descriptor is ready for one of the POLL* bits of
 * events, or has an error or a hangup (poll(2)).
 *
 * Clears all 64 bytes of the iocb first.  Fires once.  The event's res holds the bits that woke it;
 * there may be others among them than those asked for.
 */
static __inline__ void io_prep_poll(struct iocb *iocb, int fd, int events)
{
	memset(iocb, 0, sizeof(*iocb));
	iocb->aio_lio_opcode = IO_CMD_POLL;
	iocb->aio_fildes = fd;
	iocb->u.poll.events = events;
}

/*
 * io_prep_fsync, io_prep_fdsync - make a request to synchronize a file, as fsync(2) and
 * fdatasync(2) do (io_prep_fsync(3)).
 *
 * Clears all 64 bytes of the iocb first.  When it completes: see io_fsync.
 */
static __inline__ void io_prep_fsync(struct iocb *iocb, int fd)
{
	memset(iocb, 0, sizeof(*iocb));
	iocb->aio_lio_opcode = IO_CMD_FSYNC;
	iocb->aio_fildes = fd;
}

static __inline__ void io_prep_fdsync(struct iocb *iocb, int fd)
{
	io_prep_fsync(iocb, fd);
	iocb->aio_lio_opcode = IO_CMD_FDSYNC;
}

/*
 * io_poll - prepare and submit an IO_CMD_POLL with a callback.
 *
 * Fills *iocb.  Returns what io_submit returns for one request: 1, or a negative errno.
 */
static __inline__ int io_poll(io_context_t ctx, struct iocb *iocb, io_callback_t cb, int fd,
			      int events)
{
	io_prep_poll(iocb, fd, events);
	io_set_callback(iocb, cb);
	return io_submit(ctx, 1, &iocb);
}

/*
 * The common part of io_fsync and io_fdsync.
 *
 * The address of the variable comes out of writable data, and volatile keeps it there.  Code at a
 * fixed address that named the variable itself would make the linker give the executable a copy of
 * it; such an executable does not start on a libaio without the variable if gold has linked it, or
 * if GNU ld has and the library's symbol was not weak.  A linker that copies even so is met by the
 * second test: the copy of a missing variable is null.
 */
static __inline__ int trueaio_sync(io_context_t ctx, struct iocb *iocb, io_callback_t cb, int fd,
				   int opcode)
{
	static trueaio_sync_function *const *volatile call = &trueaio_sync_call;
	trueaio_sync_function *const *known = call;
	int result;

	if (known && *known) {
		result = (*known)(ctx, iocb, cb, fd, opcode);
	} else {
		io_prep_fsync(iocb, fd);
		iocb->aio_lio_opcode = (short)opcode;
		io_set_callback(iocb, cb);
		result = io_submit(ctx, 1, &iocb);
	}
#ifdef LIBAIO_FSYNC_RETURNS_COUNT
	return result;
#else
	return result < 0 ? result : 0;
#endif
}

/*
 * io_fsync, io_fdsync - synchronize a file behind all its requests so far (io_fsync(3)).
 * @iocb: filled here, and the caller's again on return; its address is the event's obj.
 * @cb:   for io_queue_run; the event's data.  Null if events are taken by io_getevents.
 * @fd:   the file.
 *
 * The call returns at once, except for files on FUSE, NFS, SMB, 9p and Ceph that are open for
 * writing: there it waits for what is in flight on the file.  Where a limit keeps the library from
 * holding the fsync it is -EAGAIN; a program that reaps without the library waits there, too.  The
 * event comes after every request has ended that this process submitted earlier on this file,
 * through any descriptor and any context, and after the file has then been synchronized.  Requests
 * that failed or were cancelled have ended; IO_CMD_POLL is not waited for.  Requests submitted
 * later do not wait for this one, nor it for them.  res is 0, or the negative errno of the
 * synchronization alone.
 *
 * Returns 0 (with LIBAIO_FSYNC_RETURNS_COUNT: 1, the count of io_submit), or
 *   -EINVAL  ctx is no context, or the file can't be synchronized
 *   -EBADF   fd is not open
 *   -EFAULT  iocb can't be written
 *   -EAGAIN  the context is full: take events first; or the fsync can't be held, see above
 * A program that runs on another libaio has none of the order, and gets SIGSEGV in place of
 * -EFAULT; so does, on this library, an executable that was linked with another.
 */
static __inline__ int io_fsync(io_context_t ctx, struct iocb *iocb, io_callback_t cb, int fd)
{
	return trueaio_sync(ctx, iocb, cb, fd, IO_CMD_FSYNC);
}

static __inline__ int io_fdsync(io_context_t ctx, struct iocb *iocb, io_callback_t cb, int fd)
{
	return trueaio_sync(ctx, iocb, cb, fd, IO_CMD_FDSYNC);
}

#pragma GCC diagnostic pop

#ifdef __cplusplus
}
#endif

#endif /* __LIBAIO_H */
