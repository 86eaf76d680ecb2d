/* SPDX-License-Identifier: MIT */
/*
 * Helpers: threads of the library in the program's descriptor table; and the services that need
 * threads.
 *
 * The *first helper* starts other threads.  io_setup starts it in a program that has threads
 * already, and from then on no thread is created inside io_submit, io_getevents or io_cancel:
 * pthread_create allocates memory, and a handler that interrupted malloc would wait for itself.  A
 * program with one thread keeps one until something needs another (glibc is faster there, and
 * unshare(CLONE_NEWUSER) and setns refuse a process that has more); then the thread that needs it
 * starts the first helper, which starts the rest.
 *
 * A *service* is a set of threads that is started when it is first wanted, and stays: the workers,
 * the follower, the custodian.  A request that needs one is accepted only when it is there.  One
 * that cannot start is tried again after a second.
 *
 * The *follower* watches contexts in which an fsync awaits something: what ends there must be
 * noticed although the program may only watch an eventfd and never call us, or be below a signal
 * handler for minutes.  While it follows one context it sleeps in its ring like any waiter, but not
 * for long; while it follows several it looks at all rings, at intervals that grow with how long it
 * has been waiting.  In a pass-through context the events belong to the program, so there it can
 * only look.
 *
 * helper_lock guards the list of followed contexts.
 */
#include "internal.h"

#include "work.h"

#include <limits.h>

/* What is refused now may work later: descriptors and threads come and go. */
#define RETRY_NS 1000000000LL
/*
 * So long a caller waits for the first helper, which takes a millisecond; but it may be waiting for
 * a lock of malloc that the very thread holds which a handler has interrupted.
 */
#define START_NS 2000000000LL
/* The follower looks whether a second context has come. */
#define FOLLOW_SLICE_NS 10000000LL
#define LOOK_FIRST_NS 20000LL
#define LOOK_MAX_NS 1000000LL

#define HELPER_STACK_BYTES (32 * 1024)

/* ---- the follower ---------------------------------------------------------------------------- */

/* A context in which something is owed.  Any lock may be held: helper_lock is an inner one. */
void ta_follow(struct ta_context *context)
{
	struct ta_process *process = ta_process();
	bool is_new;

	ta_lock(&process->helper_lock);
	is_new = !context->is_followed && context->mode != TA_CONTEXT_OFFLOADED;
	if (is_new) {
		context->is_followed = true;
		context->follow_next = process->followed;
		process->followed = context;
	}
	ta_unlock(&process->helper_lock);
	if (!is_new)
		return;
	atomic_fetch_add(&process->follow_word, 1);
	ta_futex_wake(&process->follow_word, 1);
}

/* The lock is held. */
static void look_at(struct ta_context *context, struct ta_work *work)
{
	if (context->mode == TA_CONTEXT_PASSTHROUGH)
		ta_passthrough_scan(context, work);
	else
		ta_drain(context, work);
	ta_wake_unaware(context);
}

static void follow_once(struct ta_context *context)
{
	struct ta_work work = { 0 };

	ta_lock(&context->lock);
	look_at(context, &work);
	ta_unlock(&context->lock);
	ta_work_finish(&work);
}

/*
 * Takes those out in which nothing is owed any more.  Returns how many are left, and the first of
 * them.
 */
static unsigned prune(struct ta_process *process, struct ta_context **first)
{
	struct ta_context **link = &process->followed, *context;
	unsigned count = 0;

	ta_lock(&process->helper_lock);
	while ((context = *link) != NULL) {
		if (atomic_load(&context->owed) > 0) {
			count++;
			link = &context->follow_next;
			continue;
		}
		context->is_followed = false;
		*link = context->follow_next;
	}
	*first = process->followed;
	ta_unlock(&process->helper_lock);
	return count;
}

/*
 * Once a context is in the list, only this thread takes it out: so it may walk without the lock,
 * which is not held while it looks.
 */
static void follow_all(struct ta_context *context)
{
	for (; context; context = context->follow_next)
		follow_once(context);
}

/* False: not in this one. */
static bool sleep_in(struct ta_context *context, const struct ta_signals *signals)
{
	bool sleeps;

	ta_lock(&context->lock);
	/* What is in the ready list is for callers, who have been told. */
	sleeps = context->mode == TA_CONTEXT_MEDIATED && context->ring && !context->dying &&
		 atomic_load(&context->owed) > 0;
	if (sleeps)
		(void)ta_sleep_in_kernel(context, 1, ta_now_ns() + FOLLOW_SLICE_NS, signals);
	ta_unlock(&context->lock);
	return sleeps;
}

/*
 * How long to wait before the next look at something that has been waiting since then: an eighth of
 * that.
 */
int64_t ta_look_interval_ns(int64_t since_ns)
{
	int64_t interval_ns = (ta_now_ns() - since_ns) / 8;

	if (interval_ns < LOOK_FIRST_NS)
		return LOOK_FIRST_NS;
	return interval_ns > LOOK_MAX_NS ? LOOK_MAX_NS : interval_ns;
}

static void *follower(void *argument)
{
	struct ta_process *process = argument;
	struct ta_signals signals;
	int64_t since_ns = 0;

	/*
	 * Those that such a thread blocks anyway: all but the C library's own, which change the
	 * user of all threads.
	 */
	ta_syscall4(SYS_rt_sigprocmask, SIG_SETMASK, NULL, &signals, TA_SIGNAL_SET_BYTES);
	for (;;) {
		uint32_t seen = atomic_load(&process->follow_word);
		struct ta_context *first;
		unsigned count = prune(process, &first);

		if (count == 0) {
			since_ns = 0;
			ta_futex_wait(&process->follow_word, seen, TA_NO_DEADLINE);
			continue;
		}
		if (since_ns == 0)
			since_ns = ta_now_ns();
		follow_all(first);
		if (count != 1 || !sleep_in(first, &signals))
			ta_futex_wait(&process->follow_word, seen,
				      ta_now_ns() + ta_look_interval_ns(since_ns));
	}
	return NULL;
}

static int open_follower(struct ta_process *process)
{
	return ta_thread_start("trueaio-follow", HELPER_STACK_BYTES, follower, process);
}

/* ---- services -------------------------------------------------------------------------------- */

static int (*const open_service[])(struct ta_process *) = {
	[TA_SERVICE_WORK] = ta_threads_open,
	[TA_SERVICE_FOLLOW] = open_follower,
	[TA_SERVICE_CUSTODY] = ta_custody_open,
};

static void settle(struct ta_process *process, enum ta_service service, uint32_t state)
{
	atomic_store(&process->services[service].retry_ns, ta_tick_ns() + RETRY_NS);
	atomic_store(&process->services[service].state, state);
	ta_futex_wake(&process->services[service].state, INT_MAX);
}

static bool may_be_tried(struct ta_process *process, enum ta_service service)
{
	return atomic_load(&process->services[service].state) != TA_SERVICE_REFUSED ||
	       ta_tick_ns() >= atomic_load(&process->services[service].retry_ns);
}

void ta_helper_wake(struct ta_process *process)
{
	atomic_fetch_add(&process->helper_word, 1);
	ta_futex_wake(&process->helper_word, 1);
}

/* ---- the first helper ------------------------------------------------------------------------ */

static void start_retirers(struct ta_process *process)
{
	uint32_t wanted = atomic_exchange(&process->retirers_wanted, 0);

	while (wanted-- > 0) {
		if (ta_thread_start("trueaio-helper", HELPER_STACK_BYTES, ta_retirer, process) < 0)
			/* This thread is one then, until nothing is left. */
			ta_retirer(process);
	}
}

static void *first_helper(void *argument)
{
	struct ta_process *process = argument;
	uint32_t seen, wanted;
	int service;

	for (;;) {
		seen = atomic_load(&process->helper_word);
		wanted = atomic_exchange(&process->services_wanted, 0);
		for (service = 0; service < TA_SERVICES; service++)
			if (wanted & 1u << service)
				settle(process, (enum ta_service)service,
				       open_service[service](process) == 0 ? TA_SERVICE_THERE
									   : TA_SERVICE_REFUSED);
		ta_operations_signal(process);
		start_retirers(process);
		ta_futex_wait(&process->helper_word, seen, TA_NO_DEADLINE);
	}
	return NULL;
}

/* The C library's own word for it, where it has one (glibc 2.32). */
extern char __libc_single_threaded __attribute__((weak));

/* False where that is not known. */
bool ta_program_has_one_thread(void)
{
	return &__libc_single_threaded && __libc_single_threaded;
}

static void refuse_wanted(struct ta_process *process)
{
	uint32_t wanted = atomic_exchange(&process->services_wanted, 0);
	int service;

	for (service = 0; service < TA_SERVICES; service++)
		if (wanted & 1u << service)
			settle(process, (enum ta_service)service, TA_SERVICE_REFUSED);
}

/* True: it is there, or another thread starts it. */
static bool start_first_helper(struct ta_process *process)
{
	bool none = false;

	if (atomic_load(&process->has_helper) ||
	    !atomic_compare_exchange_strong(&process->has_helper, &none, true))
		return true;
	if (ta_thread_start("trueaio-helper", HELPER_STACK_BYTES, first_helper, process) == 0)
		return true;
	atomic_store(&process->has_helper, false);
	refuse_wanted(process);
	return false;
}

/*
 * In io_setup: where the program has threads, the first helper must be there before it is needed.
 */
void ta_helper_begin(struct ta_process *process)
{
	if (&__libc_single_threaded && !__libc_single_threaded)
		start_first_helper(process);
}

/* For one that is counted in process->retirers already. */
bool ta_retirer_start(struct ta_process *process)
{
	if (!atomic_load(&process->has_helper))
		return ta_thread_start("trueaio-helper", HELPER_STACK_BYTES, ta_retirer, process) ==
		       0;
	atomic_fetch_add(&process->retirers_wanted, 1);
	ta_helper_wake(process);
	return true;
}

/* ---- asking for a service -------------------------------------------------------------------- */

static void begin_to_open(struct ta_process *process, enum ta_service service, uint32_t state)
{
	if (!atomic_compare_exchange_strong(&process->services[service].state, &state,
					    TA_SERVICE_BEING_TRIED))
		return;
	if (!start_first_helper(process)) {
		settle(process, service, TA_SERVICE_REFUSED);
		return;
	}
	atomic_fetch_or(&process->services_wanted, 1u << service);
	ta_helper_wake(process);
	/* Another thread has failed to start it meanwhile. */
	if (!atomic_load(&process->has_helper))
		refuse_wanted(process);
}

/*
 * Sees to it that the service is there: 0.  -ENOSYS: its threads cannot start.  -EAGAIN: not now,
 * the first helper may be waiting for this very thread.  Signals are blocked, so no handler finds
 * this thread half-way.
 */
int ta_service_open(enum ta_service service)
{
	struct ta_process *process = ta_process();
	_Atomic uint32_t *word = &process->services[service].state;
	int64_t deadline_ns = 0;

	for (;;) {
		uint32_t state = atomic_load(word);

		if (ta_likely(state == TA_SERVICE_THERE))
			return 0;
		if (state != TA_SERVICE_BEING_TRIED) {
			if (!may_be_tried(process, service))
				return -ENOSYS;
			begin_to_open(process, service, state);
			continue;
		}
		if (deadline_ns == 0)
			deadline_ns = ta_now_ns() + START_NS;
		if (ta_futex_wait(word, state, deadline_ns) == -ETIMEDOUT)
			return -EAGAIN;
	}
}
