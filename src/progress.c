/* SPDX-License-Identifier: MIT */
/*
 * Assistants: threads that drive a context when something is owed there and no caller is inside.
 *
 * Owed is an epoch that a sync waits for, or a trial that has not ended: the program may only watch
 * an eventfd and never call us.  A context asks for an assistant when it has none (ta_assist_want,
 * under its lock); the assistant takes the driver's role unless a caller has it, and goes when
 * nothing is owed any more.  A caller takes the role back without asking.  The assistant then looks
 * again every millisecond whether the caller is still there, instead of waking for each event
 * beside it.
 *
 * In a pass-through context the events belong to the program, and nothing tells when one more has
 * come; the assistant scans, at intervals that grow with how long it has been waiting.
 *
 * The messenger does for foreign threads what they cannot do themselves (see internal.h): it wakes
 * waiters that sleep on a descriptor, signals eventfds by their numbers, and starts assistants.
 *
 * offload_lock guards the queue of contexts and the count of threads.  An assistant without work
 * goes after a second.
 */
#include "internal.h"

#include "offload.h"
#include "progress.h"

#define IDLE_NS 1000000000LL
#define BESIDE_CALLER_NS 1000000LL

/* The lock is held.  What it finds is started by ta_work_finish, after the lock is released. */
void ta_assist_want(struct ta_context *context, struct ta_work *work)
{
	struct ta_process *process = ta_process();

	bool ends_by_itself = context->mode == TA_CONTEXT_OFFLOADED ||
			      (context->dying && context->mode == TA_CONTEXT_MEDIATED);

	if ((context->owed == 0 && context->trials == 0) || context->assisted || ends_by_itself)
		return;
	if (context->driver && !context->driver_is_assistant)
		return;
	context->assisted = true;
	context->inside++;
	ta_lock(&process->offload_lock);
	context->assist_next = process->assist_head;
	process->assist_head = context;
	process->assist_count++;
	ta_unlock(&process->offload_lock);
	work->want_assistant = true;
}

static struct ta_context *next_context(struct ta_process *process)
{
	struct ta_context *context;

	ta_lock(&process->offload_lock);
	context = process->assist_head;
	if (context) {
		process->assist_head = context->assist_next;
		process->assist_count--;
	}
	ta_unlock(&process->offload_lock);
	return context;
}

/* The lock is held, and let go meanwhile. */
static void sleep_until_told(struct ta_context *context, int64_t interval_ns)
{
	uint32_t seen = atomic_load(&context->assist_word);

	ta_unlock(&context->lock);
	ta_futex_wait(&context->assist_word, seen, ta_now_ns() + interval_ns);
	ta_lock(&context->lock);
}

int64_t ta_scan_interval_ns(int64_t since_ns)
{
	int64_t interval_ns = (ta_now_ns() - since_ns) / 8;

	if (interval_ns < 20000)
		return 20000;
	return interval_ns > 1000000 ? 1000000 : interval_ns;
}

/* The lock is held, and let go meanwhile.  False: there is no driving here any more. */
static bool assist_mediated(struct ta_context *context, struct ta_waiter *self)
{
	struct ta_work work = { 0 };
	int error;

	if (context->driver && context->driver != self) {
		sleep_until_told(context, BESIDE_CALLER_NS);
		return true;
	}
	context->driver = self;
	context->driver_is_assistant = true;
	ta_drain(context, &work);
	ta_wake_satisfied(context, &work);
	if (work.tried || work.issue || work.wake_driver) {
		ta_unlock(&context->lock);
		ta_work_finish(context, &work);
		ta_lock(&context->lock);
		return true;
	}
	if (context->owed == 0 && context->trials == 0)
		return false;
	ta_drive_once(context, self, TA_NO_DEADLINE, NULL, &error);
	return error != -EINVAL;
}

static bool assist_passthrough(struct ta_context *context, int64_t since_ns)
{
	struct ta_work work = { 0 };

	ta_passthrough_scan(context, &work);
	if (work.issue) {
		ta_unlock(&context->lock);
		ta_work_finish(context, &work);
		ta_lock(&context->lock);
	}
	if (context->owed == 0)
		return false;
	sleep_until_told(context, ta_scan_interval_ns(since_ns));
	return true;
}

/*
 * A destroyer drives a mediated context itself; in a pass-through one it waits for what is held
 * there, and that needs scanning.
 */
static bool is_wanted(const struct ta_context *context)
{
	if (context->dying && context->mode == TA_CONTEXT_MEDIATED)
		return false;
	return context->owed > 0 || context->trials > 0;
}

static void assist(struct ta_context *context)
{
	struct ta_waiter self = { .want = UINT32_MAX, .event_fd = -1 };
	int64_t since_ns = ta_now_ns();
	struct ta_work work = { 0 };
	bool more = true;

	ta_lock(&context->lock);
	while (more && is_wanted(context))
		more = context->mode == TA_CONTEXT_PASSTHROUGH
			       ? assist_passthrough(context, since_ns)
			       : assist_mediated(context, &self);
	context->assisted = false;
	ta_driver_leave(context, &self, &work);
	ta_unlock(&context->lock);
	ta_work_finish(context, &work);
	ta_lock(&context->lock);
	ta_context_leave(context);
	ta_unlock(&context->lock);
}

static void *assistant(void *argument)
{
	struct ta_process *process = argument;

	for (;;) {
		uint32_t seen = atomic_load(&process->assist_word);
		struct ta_context *context = next_context(process);
		bool timed_out;

		if (context) {
			assist(context);
			continue;
		}
		ta_lock(&process->offload_lock);
		process->parked_assistants++;
		ta_unlock(&process->offload_lock);
		timed_out = ta_futex_wait(&process->assist_word, seen, ta_now_ns() + IDLE_NS) ==
			    -ETIMEDOUT;
		ta_lock(&process->offload_lock);
		process->parked_assistants--;
		if (timed_out && !process->assist_head) {
			ta_unlock(&process->offload_lock);
			return NULL;
		}
		ta_unlock(&process->offload_lock);
	}
}

static void call_messenger(struct ta_process *process)
{
	atomic_fetch_add(&process->message_word, 1);
	ta_futex_wake(&process->message_word, 1);
}

/* No thread is to be had: the contexts go without, and what is owed waits for the next call. */
static void give_up(struct ta_process *process)
{
	struct ta_context *context;

	while ((context = next_context(process)) != NULL) {
		ta_lock(&context->lock);
		context->assisted = false;
		ta_context_leave(context);
		ta_unlock(&context->lock);
	}
}

/*
 * Sees to it that the contexts in the queue get their assistants, one each: an assistant that
 * drives one context cannot look at another.  No lock is held.
 */
void ta_assist_start(void)
{
	struct ta_process *process = ta_process();
	uint32_t missing;

	/* What such a thread starts would share its table. */
	if (ta_thread.is_foreign) {
		ta_lock(&process->offload_lock);
		process->message_assist = true;
		ta_unlock(&process->offload_lock);
		call_messenger(process);
		return;
	}
	ta_lock(&process->offload_lock);
	missing = process->assist_count > process->parked_assistants
			  ? process->assist_count - process->parked_assistants
			  : 0;
	ta_unlock(&process->offload_lock);
	atomic_fetch_add(&process->assist_word, 1);
	ta_futex_wake(&process->assist_word, INT32_MAX);
	while (missing-- > 0) {
		if (ta_thread_start(assistant, process) < 0) {
			give_up(process);
			return;
		}
	}
}

/* ---- the messenger --------------------------------------------------------------------------- */

/*
 * A waiter in the context sleeps on a descriptor.  The context's lock is held; the context stays
 * until the messenger has been there.
 */
void ta_message_bell(struct ta_context *context)
{
	struct ta_process *process = ta_process();

	ta_lock(&process->offload_lock);
	if (!context->message_pending) {
		context->message_pending = true;
		context->inside++;
		context->message_next = process->message_head;
		process->message_head = context;
	}
	ta_unlock(&process->offload_lock);
	call_messenger(process);
}

/* The operation has its event, and an eventfd of which nothing is held: it has its number alone. */
void ta_message_signal(struct ta_operation *operation)
{
	struct ta_process *process = ta_process();

	ta_lock(&process->offload_lock);
	operation->queue_next = process->message_signals;
	process->message_signals = operation;
	ta_unlock(&process->offload_lock);
	call_messenger(process);
}

static void ring_bells(struct ta_process *process, struct ta_context *context)
{
	struct ta_waiter *waiter;
	const uint64_t one = 1;

	ta_lock(&context->lock);
	ta_lock(&process->offload_lock);
	context->message_pending = false;
	ta_unlock(&process->offload_lock);
	for (waiter = context->waiters; waiter; waiter = waiter->next) {
		if (!waiter->bell_wanted)
			continue;
		waiter->bell_wanted = false;
		ta_syscall3(SYS_write, waiter->event_fd, &one, sizeof(one));
	}
	ta_context_leave(context);
	ta_unlock(&context->lock);
}

static void signal_by_number(struct ta_operation *operation)
{
	struct ta_operation *following;

	for (; operation; operation = following) {
		following = operation->queue_next;
		ta_eventfd_signal(operation->context, operation->resfd);
		ta_complete_end(operation);
	}
}

static void *messenger(void *argument)
{
	struct ta_process *process = argument;
	struct ta_context *context, *following;
	struct ta_operation *signals;
	uint32_t seen;
	bool assist;

	for (;;) {
		seen = atomic_load(&process->message_word);
		ta_lock(&process->offload_lock);
		assist = process->message_assist;
		context = process->message_head;
		signals = process->message_signals;
		process->message_signals = NULL;
		process->message_assist = false;
		process->message_head = NULL;
		ta_unlock(&process->offload_lock);
		if (assist)
			ta_assist_start();
		signal_by_number(signals);
		for (; context; context = following) {
			following = context->message_next;
			ring_bells(process, context);
		}
		ta_futex_wait(&process->message_word, seen, TA_NO_DEADLINE);
	}
	return NULL;
}

/*
 * Before the first foreign thread, in a thread that is none: 0, or a negative errno when no thread
 * is to be had.
 */
int ta_messenger_start(void)
{
	struct ta_process *process = ta_process();
	bool start;
	int result;

	ta_lock(&process->offload_lock);
	start = !process->has_messenger;
	process->has_messenger = true;
	ta_unlock(&process->offload_lock);
	result = start ? ta_thread_start(messenger, process) : 0;
	if (result < 0) {
		ta_lock(&process->offload_lock);
		process->has_messenger = false;
		ta_unlock(&process->offload_lock);
	}
	return result;
}
