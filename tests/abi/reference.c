/* SPDX-License-Identifier: MIT */
/*
 * A library with every function of libaio 0.3.113 and nothing in them, so that their types can be
 * read from its debug information: the library that a distribution ships has none.  It is compiled
 * against the system's <libaio.h>, so the compiler itself sees to it that the functions declared
 * there have here the types they have there.
 *
 * Four are declared nowhere.  The older versions, which programs linked with libaio 0.1 call, take
 * what the manual pages of section 3 still show.  io_queue_wait takes its timeout without const, as
 * the line says that this header has commented out.
 */
#include <errno.h>
#include <libaio.h>

/* Two versions of one name cannot share a C name. */
#define VERSION(versioned) __attribute__((symver(versioned)))

int io_queue_init(int maxevents, io_context_t *ctxp)
{
	(void)maxevents, (void)ctxp;
	return -ENOSYS;
}

int io_queue_release(io_context_t ctx)
{
	(void)ctx;
	return -ENOSYS;
}

int io_queue_run(io_context_t ctx)
{
	(void)ctx;
	return -ENOSYS;
}

int io_setup(int maxevents, io_context_t *ctxp)
{
	(void)maxevents, (void)ctxp;
	return -ENOSYS;
}

int io_destroy(io_context_t ctx)
{
	(void)ctx;
	return -ENOSYS;
}

int io_submit(io_context_t ctx, long nr, struct iocb *ios[])
{
	(void)ctx, (void)nr, (void)ios;
	return -ENOSYS;
}

int io_pgetevents(io_context_t ctx, long min_nr, long nr, struct io_event *events,
		  struct timespec *timeout, sigset_t *sigmask)
{
	(void)ctx, (void)min_nr, (void)nr, (void)events, (void)timeout, (void)sigmask;
	return -ENOSYS;
}

extern __typeof__(io_cancel) cancel_default VERSION("io_cancel@@LIBAIO_0.4");
int cancel_default(io_context_t ctx, struct iocb *iocb, struct io_event *evt)
{
	(void)ctx, (void)iocb, (void)evt;
	return -ENOSYS;
}

extern __typeof__(io_getevents) getevents_default VERSION("io_getevents@@LIBAIO_0.4");
int getevents_default(io_context_t ctx, long min_nr, long nr, struct io_event *events,
		      struct timespec *timeout)
{
	(void)ctx, (void)min_nr, (void)nr, (void)events, (void)timeout;
	return -ENOSYS;
}

VERSION("io_queue_wait@@LIBAIO_0.4")
int queue_wait_default(io_context_t ctx, struct timespec *timeout)
{
	(void)ctx, (void)timeout;
	return -ENOSYS;
}

VERSION("io_cancel@LIBAIO_0.1")
int cancel_older(io_context_t ctx, struct iocb *iocb)
{
	(void)ctx, (void)iocb;
	return -ENOSYS;
}

VERSION("io_getevents@LIBAIO_0.1")
int getevents_older(io_context_t ctx, long nr, struct io_event *events,
		    const struct timespec *timeout)
{
	(void)ctx, (void)nr, (void)events, (void)timeout;
	return -ENOSYS;
}

VERSION("io_queue_wait@LIBAIO_0.1")
int queue_wait_older(io_context_t ctx, const struct timespec *timeout)
{
	(void)ctx, (void)timeout;
	return -ENOSYS;
}
