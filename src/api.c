/* SPDX-License-Identifier: MIT */
/*
 * The exported functions but those that take events, which are in api_reap.c.
 *
 * What stands here is checks and delegation: arguments that the manual gives an errno for, a
 * context looked up by the function that does the work, and the way out for a signal handler that
 * interrupted the library in its own thread at a bad moment (-EAGAIN, from waits -EINTR) instead of
 * a deadlock.  Errors are returned as negative errno; errno itself stays as it was.
 *
 * io_queue_init and io_queue_release call the exported functions, not their insides: a program that
 * interposes io_setup or io_destroy has always seen those calls, too.
 */
#include "api.h"

#include "work.h"
#include "probe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- set-up and destruction ------------------------------------------------------------------ */

/*
 * Who sets TRUEAIO_ENGINE should hear why it is not used: the one line that the library ever
 * prints.
 */
static TA_COLD int refuse_engine(const char *line)
{
	static _Atomic bool said;

	if (!atomic_exchange(&said, true))
		ta_syscall3(SYS_write, 2, line, strlen(line));
	return -ENOSYS;
}

/* The same with the reason that this system has, which trueaio doctor tells of at length. */
static TA_COLD int refuse_for_reason(const char *engine,
				     void (*look)(const struct ta_evidence *, struct ta_probe *))
{
	static const char *const subjects[] = {
		[TA_PROBE_KERNEL_AIO] = "kernel AIO",
		[TA_PROBE_THREADS] = "threads",
	};
	char reason[256], line[512];
	struct ta_evidence evidence;
	struct ta_probe probe;

	ta_probe_look(&evidence);
	look(&evidence, &probe);
	ta_probe_sentence(&probe, reason, sizeof(reason));
	snprintf(line, sizeof(line),
		 "trueaio: TRUEAIO_ENGINE=%s cannot start: %s: %s; "
		 "use auto, or ask trueaio doctor\n",
		 engine, subjects[probe.subject], reason);
	return refuse_engine(line);
}

static bool is_refusal(int result)
{
	return result == -EAGAIN || ta_call_is_refused(result);
}

static int set_up_offloaded(struct ta_process *process, int nr_events, io_context_t *made)
{
	struct ta_signals before;
	int result;

	ta_signals_block(&before);
	result = ta_service_open(TA_SERVICE_WORK);
	ta_signals_set(&before, NULL);
	if (result < 0)
		return result;
	return ta_context_setup(process, (unsigned)nr_events, TA_CONTEXT_OFFLOADED, made);
}

/* Kernel AIO, or what stands in for it. */
static int set_up_native(struct ta_process *process, int nr_events, bool passthrough,
			 io_context_t *made)
{
	enum ta_context_mode mode = passthrough ? TA_CONTEXT_PASSTHROUGH : TA_CONTEXT_MEDIATED;
	int result = ta_context_setup(process, (unsigned)nr_events, mode, made);
	int offloaded;

	if (!is_refusal(result))
		return result;
	if (ta_settings()->engine == TA_ENGINE_NATIVE)
		return result == -EAGAIN ? result
					 : refuse_for_reason("native", ta_probe_kernel_aio);
	/* A program that reaps without us can do nothing with a ring that is not the kernel's. */
	if (passthrough)
		return result;
	offloaded = set_up_offloaded(process, nr_events, made);
	return offloaded == -ENOSYS ? result : offloaded;
}

static int set_up_as_asked(struct ta_process *process, int nr_events, bool passthrough,
			   io_context_t *made)
{
	enum ta_engine engine = ta_settings()->engine;
	int result;

	if (engine == TA_ENGINE_UNKNOWN)
		return refuse_engine(
			"trueaio: TRUEAIO_ENGINE names an engine that this library does not have; "
			"use auto, native or threads, or unset it\n");
	if (engine == TA_ENGINE_AUTO || engine == TA_ENGINE_NATIVE)
		return set_up_native(process, nr_events, passthrough, made);
	if (passthrough)
		return refuse_engine("trueaio: TRUEAIO_ENGINE cannot be threads for this program: "
				     "it takes its events from the kernel's ring by itself; "
				     "use auto or native\n");
	result = set_up_offloaded(process, nr_events, made);
	return result == -ENOSYS ? refuse_for_reason("threads", ta_probe_threads) : result;
}

static int set_up(int nr_events, io_context_t *ctxp, const void *caller)
{
	struct ta_process *process;
	io_context_t present, made = NULL;
	int result;

	if (ta_thread_is_inside())
		return -EAGAIN;
	process = ta_process_enter();
	if (!process)
		return -ENOMEM;
	if (!ta_copy_in(&present, ctxp, sizeof(present)))
		return -EFAULT;
	if (present || nr_events == 0)
		return -EINVAL;
	ta_helper_begin(process);
	result = set_up_as_asked(process, nr_events, ta_caller_reaps_by_itself(caller), &made);
	if (result < 0)
		return result;
	ta_log("io_setup(%d): engine %s", nr_events, trueaio_engine(made));
	/* The kernel writes last, too: a context that cannot be told of is not left behind. */
	if (!ta_memory_probe(ctxp, sizeof(made), true)) {
		ta_context_destroy(process, made);
		return -EFAULT;
	}
	memcpy(ctxp, &made, sizeof(made));
	return 0;
}

TA_EXPORT int io_setup(int maxevents, io_context_t *ctxp)
{
	const void *caller = ta_thread.setup_caller;

	/* Called by io_queue_init below: then the program is its caller. */
	if (!caller)
		caller = __builtin_return_address(0);
	return set_up(maxevents, ctxp, caller);
}

TA_EXPORT int io_destroy(io_context_t ctx)
{
	struct ta_process *process;

	if (ta_thread_is_inside())
		return -EAGAIN;
	process = ta_process_enter();
	return process ? ta_context_destroy(process, ctx) : -EINVAL;
}

TA_EXPORT int io_queue_init(int maxevents, io_context_t *ctxp)
{
	int result;

	if (maxevents <= 0)
		return -EINVAL;
	if (ta_thread_is_inside())
		return -EAGAIN;
	if (!ta_process_enter())
		return -ENOMEM;
	if (!ta_memory_probe(ctxp, sizeof(*ctxp), true))
		return -EFAULT;
	memset(ctxp, 0, sizeof(*ctxp));
	ta_thread.setup_caller = __builtin_return_address(0);
	result = io_setup(maxevents, ctxp);
	ta_thread.setup_caller = NULL;
	return result;
}

TA_EXPORT int io_queue_release(io_context_t ctx)
{
	return io_destroy(ctx);
}

/* ---- submission ------------------------------------------------------------------------------ */

TA_EXPORT int io_submit(io_context_t ctx, long nr, struct iocb *iocbs[])
{
	struct ta_process *process;

	if (ta_thread_is_inside())
		return -EAGAIN;
	process = ta_process_enter();
	if (ta_unlikely(!process))
		return -EINVAL;
	return ta_submit(process, ctx, nr, iocbs);
}

/* See trueaio_sync_call in libaio.h. */
static int sync_call(io_context_t ctx, struct iocb *iocb, io_callback_t cb, int fd, int opcode)
{
	if (ta_thread_is_inside())
		return -EAGAIN;
	if (!ta_process_enter())
		return -EINVAL;
	if (!ta_memory_probe(iocb, sizeof(*iocb), true))
		return -EFAULT;
	io_prep_fsync(iocb, fd);
	iocb->aio_lio_opcode = (short)opcode;
	io_set_callback(iocb, cb);
	return io_submit(ctx, 1, &iocb);
}

TA_EXPORT trueaio_sync_function *const trueaio_sync_call = sync_call;

static int cancel(io_context_t ctx, struct iocb *iocb)
{
	struct ta_process *process;

	if (ta_thread_is_inside())
		return -EAGAIN;
	process = ta_process_enter();
	return process ? ta_cancel(process, ctx, iocb) : -EINVAL;
}

int ta_io_cancel(io_context_t ctx, struct iocb *iocb, struct io_event *event);
TA_DEFAULT_VERSION(ta_io_cancel, io_cancel, "LIBAIO_0.4");

/* The event is never touched: it comes through the ring. */
int ta_io_cancel(io_context_t ctx, struct iocb *iocb, struct io_event *event)
{
	(void)event;
	return cancel(ctx, iocb);
}

int ta_io_cancel_0_1(io_context_t ctx, struct iocb *iocb);
TA_OLD_VERSION(ta_io_cancel_0_1, io_cancel, "LIBAIO_0.1");

int ta_io_cancel_0_1(io_context_t ctx, struct iocb *iocb)
{
	return cancel(ctx, iocb);
}

/* ---- waiting --------------------------------------------------------------------------------- */

/* Waits until an event is there or the time is over, and takes none. */
static int queue_wait(io_context_t ctx, const struct timespec *timeout)
{
	struct ta_wait wait = { .min_nr = 1, .peek = true };

	return ta_api_reap(ctx, &wait, timeout);
}

int ta_io_queue_wait(io_context_t ctx, struct timespec *timeout);
TA_DEFAULT_VERSION(ta_io_queue_wait, io_queue_wait, "LIBAIO_0.4");

int ta_io_queue_wait(io_context_t ctx, struct timespec *timeout)
{
	return queue_wait(ctx, timeout);
}

int ta_io_queue_wait_0_1(io_context_t ctx, const struct timespec *timeout);
TA_OLD_VERSION(ta_io_queue_wait_0_1, io_queue_wait, "LIBAIO_0.1");

int ta_io_queue_wait_0_1(io_context_t ctx, const struct timespec *timeout)
{
	return queue_wait(ctx, timeout);
}

/* ---- what serves a context ------------------------------------------------------------------- */

TA_EXPORT const char *trueaio_engine(io_context_t ctx)
{
	struct ta_process *process;
	struct ta_context *context;
	const char *engine;

	if (ta_thread_is_inside())
		return NULL;
	process = ta_process_enter();
	context = process ? ta_context_lock(process, ctx) : NULL;
	if (!context)
		return NULL;
	switch (context->mode) {
	case TA_CONTEXT_PASSTHROUGH:
		engine = "native-passthrough";
		break;
	case TA_CONTEXT_OFFLOADED:
		engine = "threads";
		break;
	default:
		engine = "native";
	}
	ta_unlock(&context->lock);
	return engine;
}
