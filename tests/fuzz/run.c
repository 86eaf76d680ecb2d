/* SPDX-License-Identifier: MIT */
/*
 * Runs a program on the reference or on the library, and compares what is seen.
 *
 * The reference goes first and leaves a trace of observations.  The library's run makes the same
 * observations in the same order; each is held against the trace at once, and the run ends at the
 * first one that differs, because what follows would make no sense.
 *
 * How many events there will be at a settlement is known from the reference: all requests end but
 * POLLs, and a POLL ends if poll(2) finds its descriptor ready.  The library must deliver as many,
 * within event_limit_s.  What a wait before the settlement returns depends on time, so that it is
 * held against bounds, and the events of the whole period are compared as a set.
 */
#include "fuzz.h"
#include <err.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/syscall.h>

enum { EVENTS_MAX = 64 };

int event_limit_s = 5;

struct run {
	const struct program *program;
	struct side *side;
	const struct trace *guide; /* null: this is the reference */
	struct difference *difference;
	uint8_t operation;
	bool stopped;
	struct request requests[REQUESTS_MAX];
	unsigned request_count;
	/* Of this period, by context. */
	struct io_event events[2][REQUESTS_MAX];
	unsigned event_count[2];
	unsigned long signals[2]; /* that the counters must have had since they were read */
};

/* ---- the two implementations ----------------------------------------------------------------- */

static int result_of(long result)
{
	return (int)(result < 0 ? -errno : result);
}

static int raw_setup(int nr, io_context_t *context)
{
	return result_of(syscall(SYS_io_setup, nr, context));
}

static int raw_destroy(io_context_t context)
{
	return result_of(syscall(SYS_io_destroy, context));
}

static int raw_submit(io_context_t context, long nr, struct iocb **iocbs)
{
	return result_of(syscall(SYS_io_submit, context, nr, iocbs));
}

static int raw_cancel(io_context_t context, struct iocb *iocb, struct io_event *result)
{
	return result_of(syscall(SYS_io_cancel, context, iocb, result));
}

static int raw_getevents(io_context_t context, long min_nr, long nr, struct io_event *events,
			 struct timespec *timeout)
{
	return result_of(syscall(SYS_io_getevents, context, min_nr, nr, events, timeout));
}

static int raw_pgetevents(io_context_t context, long min_nr, long nr, struct io_event *events,
			  struct timespec *timeout, sigset_t *mask)
{
	struct io_sigset argument = { .ss = (unsigned long)mask, .ss_len = 8 };

	return result_of(
		syscall(SYS_io_pgetevents, context, min_nr, nr, events, timeout, &argument));
}

const struct calls calls_reference = { .name = "reference",
				       .setup = raw_setup,
				       .destroy = raw_destroy,
				       .submit = raw_submit,
				       .cancel = raw_cancel,
				       .getevents = raw_getevents,
				       .pgetevents = raw_pgetevents };

const struct calls calls_library = { .name = "library",
				     .setup = io_setup,
				     .destroy = io_destroy,
				     .submit = io_submit,
				     .cancel = io_cancel,
				     .getevents = io_getevents,
				     .pgetevents = io_pgetevents };

void side_open(struct side *side, const struct calls *calls)
{
	memset(side->contexts, 0, sizeof(side->contexts));
	side->calls = calls;
	for (unsigned i = 0; i < 2; i++) {
		int result = calls->setup(EVENTS_MAX, &side->contexts[i]);

		if (result < 0)
			errx(2, "%s: io_setup: %s", calls->name, strerror(-result));
	}
	if (side->trace.buffers)
		return;
	side->trace.buffers = malloc(BUFFERS_BYTES + EDGES * EDGE_BYTES);
	for (enum inode inode = 0; inode < INODES; inode++)
		side->trace.content[inode] = malloc(CONTENT_MAX);
}

/* ---- observations ---------------------------------------------------------------------------- */

static void print_event(const struct io_event *event, FILE *stream)
{
	char name[64];

	fprintf(stream, "{ data %p, obj %s, res %ld, res2 %ld }", event->data,
		world_name_of(event->obj, name, sizeof(name)), (long)event->res, (long)event->res2);
}

void observation_print(const struct observation *seen, FILE *stream)
{
	fprintf(stream, "%2u: %s ", seen->operation, seen->what);
	if (seen->kind == SAW_EVENT)
		print_event(&seen->event, stream);
	else if (seen->kind == SAW_BOUNDS)
		fprintf(stream, "%ld, within %ld and %ld", seen->value, seen->low, seen->high);
	else
		fprintf(stream, "%ld", seen->value);
}

void trace_print(const struct trace *trace, FILE *stream)
{
	for (unsigned i = 0; i < trace->count; i++) {
		fprintf(stream, "    ");
		observation_print(&trace->seen[i], stream);
		fprintf(stream, "\n");
	}
}

__attribute__((format(printf, 2, 3))) static void differ(struct run *run, const char *format, ...)
{
	va_list arguments;

	run->stopped = true;
	if (!run->difference)
		return;
	run->difference->found = true;
	va_start(arguments, format);
	vsnprintf(run->difference->text, sizeof(run->difference->text), format, arguments);
	va_end(arguments);
}

static bool same(const struct observation *one, const struct observation *other)
{
	if (one->kind == SAW_BOUNDS)
		return other->value >= other->low && other->value <= other->high;
	if (one->kind == SAW_EVENT)
		return memcmp(&one->event, &other->event, sizeof(one->event)) == 0;
	return one->value == other->value;
}

/* What the reference is about to be, or was, at this place. */
static const struct observation *guide_at(const struct run *run)
{
	return run->guide && run->side->trace.count < run->guide->count
		       ? &run->guide->seen[run->side->trace.count]
		       : NULL;
}

static void observe(struct run *run, struct observation seen)
{
	struct trace *trace = &run->side->trace;
	const struct observation *expected = guide_at(run);
	char *texts[2] = { NULL, NULL };
	size_t size;

	if (run->stopped)
		return;
	if (trace->count == OBSERVATIONS_MAX)
		errx(2, "a program with too many observations");
	seen.operation = run->operation;
	trace->seen[trace->count++] = seen;
	if (!run->guide || (expected && expected->kind == seen.kind &&
			    (same(expected, &seen) || intended_difference(expected, &seen))))
		return;
	for (unsigned i = 0; i < 2; i++) {
		FILE *stream = open_memstream(&texts[i], &size);

		if (i == 1)
			observation_print(&seen, stream);
		else if (expected)
			observation_print(expected, stream);
		fclose(stream);
	}
	differ(run, "reference %s; library %s", texts[0], texts[1]);
	free(texts[0]);
	free(texts[1]);
}

static void observe_value(struct run *run, enum observation_kind kind, const char *what, long value)
{
	observe(run, (struct observation){ .kind = kind, .what = what, .value = value });
}

/* ---- requests and events --------------------------------------------------------------------- */

static io_context_t handle_of(const struct run *run, enum handle handle)
{
	switch (handle) {
	case HANDLE_A:
	case HANDLE_B:
		return run->side->contexts[handle];
	case HANDLE_MEMORY:
		return (io_context_t)world.buffers;
	case HANDLE_UNMAPPED:
		return UNMAPPED_ADDRESS;
	case HANDLE_INSIDE:
		return (io_context_t)((char *)run->side->contexts[HANDLE_A] + 64);
	default:
		return NULL;
	}
}

static bool is_context(enum handle handle)
{
	return handle == HANDLE_A || handle == HANDLE_B;
}

static struct request *request_of(struct run *run, unsigned context, const struct io_event *event)
{
	for (unsigned i = 0; i < run->request_count; i++) {
		struct request *request = &run->requests[i];

		if (!request->ended && request->context == context &&
		    request->address == event->obj && request->iocb.data == event->data)
			return request;
	}
	return NULL;
}

/* An event without a request stays in the set, where nothing of the reference equals it. */
static void take_events(struct run *run, unsigned context, const struct io_event *events, int count)
{
	for (int i = 0; i < count; i++) {
		struct request *request = request_of(run, context, &events[i]);

		if (run->event_count[context] == REQUESTS_MAX)
			errx(2, "more events than there can be requests");
		run->events[context][run->event_count[context]++] = events[i];
		if (!request)
			continue;
		request->ended = true;
		request->result = (long)events[i].res;
		for (unsigned counter = 0; counter < 2; counter++)
			if (request->iocb.u.c.flags & FLAG_RESFD &&
			    (int)request->iocb.u.c.resfd ==
				    world.descriptors[COUNTER_A + counter].fd)
				run->signals[counter]++;
	}
}

static bool is_ready(const struct request *request)
{
	struct pollfd descriptor = { .fd = request->iocb.aio_fildes,
				     .events = (short)request->iocb.u.poll.events };

	return poll(&descriptor, 1, 0) == 1 &&
	       descriptor.revents & (descriptor.events | POLLERR | POLLHUP);
}

/* Must its event come, in the reference? */
static bool is_due(const struct request *request)
{
	return !request->is_poll || request->cancelled || is_ready(request);
}

static long count_requests(struct run *run, unsigned context, bool all)
{
	long count = 0;

	for (unsigned i = 0; i < run->request_count; i++) {
		const struct request *request = &run->requests[i];

		count += request->context == context && !request->ended && (all || is_due(request));
	}
	return count;
}

static int compare_events(const void *one, const void *other)
{
	const struct io_event *a = one, *b = other;

	if (a->data != b->data)
		return a->data < b->data ? -1 : 1;
	if (a->obj != b->obj)
		return a->obj < b->obj ? -1 : 1;
	return (long)a->res < (long)b->res ? -1 : (long)a->res > (long)b->res;
}

static struct request request_for_report(struct run *run, unsigned context,
					 const struct io_event *event)
{
	for (unsigned i = 0; i < run->request_count; i++) {
		const struct request *request = &run->requests[i];

		if (request->context == context && request->address == event->obj &&
		    request->iocb.data == event->data)
			return *request;
	}
	return (struct request){ 0 };
}

static void observe_events(struct run *run, unsigned context)
{
	struct io_event *events = run->events[context];

	observe_value(run, SAW_COUNT, "events", (long)run->event_count[context]);
	qsort(events, run->event_count[context], sizeof(*events), compare_events);
	for (unsigned i = 0; i < run->event_count[context]; i++)
		observe(run, (struct observation){
				     .kind = SAW_EVENT,
				     .what = "event",
				     .event = events[i],
				     .request = request_for_report(run, context, &events[i]) });
	run->event_count[context] = 0;
}

/* Takes `missing` events with a limit, and then whatever is there beyond them. */
static void collect(struct run *run, unsigned context, long missing)
{
	struct timespec zero = { 0, 0 };
	struct io_event events[EVENTS_MAX];
	int result;

	while (missing > 0) {
		struct timespec limit = { event_limit_s, 0 };
		long wanted = missing < EVENTS_MAX ? missing : EVENTS_MAX;

		result = run->side->calls->getevents(run->side->contexts[context], wanted, wanted,
						     events, &limit);
		take_events(run, context, events, result);
		if (result < wanted)
			break;
		missing -= result;
	}
	result = run->side->calls->getevents(run->side->contexts[context], 0, EVENTS_MAX, events,
					     &zero);
	take_events(run, context, events, result);
}

static void settle(struct run *run)
{
	for (unsigned context = 0; context < 2 && !run->stopped; context++) {
		const struct observation *expected = guide_at(run);
		long missing;

		if (!run->guide)
			missing = count_requests(run, context, false);
		else
			missing = expected && expected->kind == SAW_COUNT
					  ? expected->value - (long)run->event_count[context]
					  : 0;
		collect(run, context, missing);
		observe_events(run, context);
	}
	for (unsigned i = 0; i < run->request_count; i++)
		run->requests[i].of_this_period = false;
}

/*
 * An eventfd is signalled after its event has become visible, so that what is due is waited for; no
 * more than that must be there.
 */
static void read_counter(struct run *run, unsigned counter)
{
	struct pollfd descriptor = { .fd = world.descriptors[COUNTER_A + counter].fd,
				     .events = POLLIN };
	uint64_t total = 0, value;

	while (total < run->signals[counter] && poll(&descriptor, 1, 2000) == 1)
		if (read(descriptor.fd, &value, sizeof(value)) == sizeof(value))
			total += value;
	if (read(descriptor.fd, &value, sizeof(value)) == sizeof(value))
		total += value;
	run->signals[counter] = 0;
	observe_value(run, SAW_COUNTER, counter ? "counter b:" : "counter a:", (long)total);
}

/* ---- io_submit ------------------------------------------------------------------------------- */

/* The contents, and then the pointers. */
static void store_batch(const struct operation *operation)
{
	for (unsigned i = 0; i < operation->submit.count; i++) {
		const struct element *element = &operation->submit.elements[i];
		void *address = element->address;

		if (element->stored_bytes == 0)
			continue;
		if (element->address >= world.iocbs_read_only &&
		    element->address < world.iocbs_read_only + IOCBS_MAX)
			address = world.iocbs + (element->address - world.iocbs_read_only);
		memcpy(address, &element->iocb, element->stored_bytes);
	}
	if (operation->submit.array_is_bad)
		return;
	for (unsigned i = 0; i < operation->submit.count; i++)
		operation->submit.array[i] = operation->submit.elements[i].address;
	if (!operation->submit.array_at_edge)
		operation->submit.array[operation->submit.count] = NULL;
}

/*
 * The accepted ones' keys are zero, and those behind the refused one are as they were.  What a
 * refused one's key is depends on how far its checks came.
 */
static void observe_keys(struct run *run, const struct operation *operation, int result)
{
	long keys = 0;

	for (unsigned i = 0; i < operation->submit.count; i++) {
		const struct element *element = &operation->submit.elements[i];

		if (!element->checks_key || element->noop || element->repeated ||
		    (int)i == (result < 0 ? 0 : result))
			continue;
		if (element->address->key)
			keys |= 1l << i;
	}
	observe_value(run, SAW_KEY, "keys", keys);
}

static void accept_requests(struct run *run, const struct operation *operation, int count)
{
	for (int i = 0; i < count && i < (int)operation->submit.count; i++) {
		const struct element *element = &operation->submit.elements[i];

		if (element->noop)
			continue;
		if (run->request_count == REQUESTS_MAX)
			errx(2, "too many requests");
		run->requests[run->request_count++] = (struct request){
			.iocb = element->iocb,
			.address = element->address,
			.record = element->record,
			.target = element->target,
			.context = (uint8_t)operation->handle,
			.is_poll = element->iocb.aio_lio_opcode == IO_CMD_POLL,
			.of_this_period = true,
		};
	}
}

/*
 * The library has accepted a request that the reference refused, as it may; what follows in the two
 * runs has nothing in common any more.  All of this side ends here, and the request with an error.
 */
static void leave_early(struct run *run, const struct operation *operation, int refused)
{
	const struct element *element = &operation->submit.elements[refused];
	struct io_event *events = run->events[operation->handle];
	const struct io_event *late = NULL;

	for (unsigned i = 0; i < run->request_count; i++)
		if (run->requests[i].is_poll && !run->requests[i].ended)
			run->side->calls->cancel(run->side->contexts[run->requests[i].context],
						 run->requests[i].address,
						 (struct io_event *)world.events_end - 2);
	for (unsigned context = 0; context < 2; context++)
		collect(run, context, count_requests(run, context, true));
	for (unsigned i = 0; i < run->event_count[operation->handle] && !late; i++)
		if (events[i].obj == element->address && events[i].data == element->iocb.data)
			late = &events[i];
	if (!late || !intended_late_error((long)late->res))
		differ(run, "io_submit: reference refuses element %d; library accepts it, %s %ld",
		       refused, late ? "res" : "and no event comes:", late ? (long)late->res : 0l);
	run->stopped = true;
	for (unsigned i = 0; i < 2; i++)
		read_counter(run, i);
}

static void run_submit(struct run *run, const struct operation *operation)
{
	io_context_t context = handle_of(run, operation->handle);
	const struct observation *expected;
	int result;

	store_batch(operation);
	if (run->guide)
		result = run->side->calls->submit(context, operation->submit.nr,
						  operation->submit.array);
	else
		result = intended_submit(run->side->calls, context, operation);
	expected = guide_at(run);
	if (expected && intended_late_submit((int)expected->value, result)) {
		accept_requests(run, operation, result);
		leave_early(run, operation, expected->value < 0 ? 0 : (int)expected->value);
		return;
	}
	observe_value(run, SAW_RESULT, "io_submit =", result);
	if (run->stopped)
		return;
	accept_requests(run, operation, result);
	observe_keys(run, operation, result);
}

/* ---- io_getevents ---------------------------------------------------------------------------- */

static struct timespec *make_timeout(enum wait_timeout kind, struct timespec *timeout)
{
	static const struct timespec values[] = {
		[TIMEOUT_ZERO] = { 0, 0 },
		[TIMEOUT_NEGATIVE] = { -1, 0 },
		[TIMEOUT_CARRY] = { 4, 1500000000 },
		[TIMEOUT_SHORT] = { 0, 20000 },
	};

	switch (kind) {
	case TIMEOUT_NONE:
		return NULL;
	case TIMEOUT_UNMAPPED:
		return UNMAPPED_ADDRESS;
	case TIMEOUT_KERNEL:
		return KERNEL_ADDRESS;
	default:
		*timeout = values[kind];
		return timeout;
	}
}

static struct io_event *make_array(enum events_array kind, long nr, struct io_event *good)
{
	switch (kind) {
	case EVENTS_NULL:
		return NULL;
	case EVENTS_UNMAPPED:
		return UNMAPPED_ADDRESS;
	case EVENTS_READ_ONLY:
		return (struct io_event *)world.read_only;
	case EVENTS_AT_EDGE:
		return (struct io_event *)world.events_end - (nr > 0 ? nr : 0);
	default:
		return good;
	}
}

static int call_wait(struct run *run, const struct operation *operation, long min_nr,
		     struct io_event *events, enum wait_timeout kind)
{
	const struct calls *calls = run->side->calls;
	io_context_t context = handle_of(run, operation->handle);
	struct timespec buffer, *timeout = make_timeout(kind, &buffer);
	sigset_t mask;

	if (!operation->wait.pgetevents)
		return calls->getevents(context, min_nr, operation->wait.nr, events, timeout);
	sigemptyset(&mask);
	return calls->pgetevents(context, min_nr, operation->wait.nr, events, timeout,
				 operation->wait.mask == 0   ? NULL
				 : operation->wait.mask == 1 ? &mask
							     : UNMAPPED_ADDRESS);
}

/* Wrong whatever has happened: the answer is exact. */
static bool wait_is_refused(const struct operation *operation)
{
	return !is_context(operation->handle) || operation->wait.min_nr < 0 ||
	       operation->wait.nr < 0 || operation->wait.min_nr > operation->wait.nr ||
	       operation->wait.timeout >= TIMEOUT_UNMAPPED ||
	       (operation->wait.pgetevents && operation->wait.mask == 2);
}

/* How many events of the period the wait may count on, those taken included. */
static long count_on(struct run *run, unsigned context)
{
	const struct observation *expected = guide_at(run);

	if (run->guide)
		return expected ? expected->total : 0;
	return (long)run->event_count[context] + count_requests(run, context, false);
}

static void run_wait(struct run *run, const struct operation *operation)
{
	unsigned context = operation->handle;
	enum wait_timeout timeout = operation->wait.timeout;
	bool array_is_bad =
		operation->wait.events != EVENTS_GOOD && operation->wait.events != EVENTS_AT_EDGE;
	struct observation seen = { .kind = SAW_BOUNDS, .what = "io_getevents =" };
	long min_nr = operation->wait.min_nr, left;
	struct io_event good[EVENTS_MAX];
	struct io_event *events = make_array(operation->wait.events, operation->wait.nr, good);

	if (wait_is_refused(operation)) {
		observe_value(run, SAW_RESULT,
			      "io_getevents =", call_wait(run, operation, min_nr, events, timeout));
		return;
	}
	seen.total = count_on(run, context);
	left = seen.total - (long)run->event_count[context];
	if (left <= 0)
		timeout = TIMEOUT_ZERO;
	else if (array_is_bad && operation->wait.nr > 0)
		min_nr = 1, timeout = TIMEOUT_NONE;
	else if (min_nr > left && timeout != TIMEOUT_SHORT)
		min_nr = left;
	seen.low = timeout == TIMEOUT_ZERO || timeout == TIMEOUT_SHORT ? 0 : min_nr;
	seen.high = (long)count_requests(run, context, true);
	if (seen.high > operation->wait.nr)
		seen.high = operation->wait.nr;
	seen.value = call_wait(run, operation, min_nr, events, timeout);
	if (array_is_bad)
		seen.low = seen.high = left > 0 && operation->wait.nr > 0 ? -EFAULT : 0;
	else
		take_events(run, context, events, (int)seen.value);
	observe(run, seen);
}

/* ---- io_cancel ------------------------------------------------------------------------------- */

/* May the request at this address be cancelled without a visible trace of how far it came? */
static bool cancel_is_determined(const struct run *run, const struct operation *operation)
{
	unsigned candidates = 0;

	for (unsigned i = 0; i < run->request_count; i++) {
		const struct request *request = &run->requests[i];

		if (request->address != operation->cancel.address ||
		    request->context != operation->handle)
			continue;
		if (request->of_this_period && !intended_cancellable(request))
			return false;
		candidates += request->of_this_period || request->is_poll;
	}
	return intended_cancel_is_clear(candidates);
}

static void observe_cancel(struct run *run, unsigned context, struct iocb *address, int result,
			   bool is_one)
{
	struct observation seen = { .kind = SAW_CANCEL, .what = "io_cancel =", .value = result };

	for (unsigned i = 0; is_one && i < run->request_count; i++) {
		struct request *request = &run->requests[i];

		if (request->context != context || request->address != address)
			continue;
		if (request->of_this_period || !request->ended)
			seen.request = *request;
		if (result != -EINPROGRESS || request->ended || request->cancelled ||
		    (is_due(request) && (!run->guide || request->is_poll)))
			continue;
		request->cancelled = true;
		break;
	}
	observe(run, seen);
}

static void run_cancel(struct run *run, const struct operation *operation)
{
	int result;

	if (!cancel_is_determined(run, operation))
		return;
	result = run->side->calls->cancel(handle_of(run, operation->handle),
					  operation->cancel.address, operation->cancel.result);
	observe_cancel(run, operation->handle, operation->cancel.address, result,
		       is_context(operation->handle));
}

/* What still waits at the end of the program. */
static void cancel_polls(struct run *run)
{
	for (unsigned i = 0; i < run->request_count && !run->stopped; i++) {
		struct request *request = &run->requests[i];
		int result;

		if (request->ended || !request->is_poll || request->cancelled)
			continue;
		result = run->side->calls->cancel(run->side->contexts[request->context],
						  request->address,
						  (struct io_event *)world.events_end - 2);
		observe_cancel(run, request->context, request->address, result, true);
	}
}

/* ---- the other operations -------------------------------------------------------------------- */

static long sum_of(const uint8_t *bytes, size_t count)
{
	unsigned long sum = count;

	for (size_t i = 0; i < count; i++)
		sum = sum * 31 + bytes[i];
	return (long)(sum >> 1);
}

static void run_transfer(struct run *run, const struct operation *operation)
{
	static uint8_t bytes[16384];
	unsigned channel = operation->transfer.channel;
	size_t count = operation->transfer.bytes;
	const uint64_t one = 1;
	ssize_t result;

	settle(run);
	if (run->stopped)
		return;
	if (operation->kind == OP_READ_CHANNEL)
		result = read(world.channel_reader[channel], bytes, count);
	else
		result = write(world.channel_writer[channel],
			       channel == CHANNEL_EVENTFD ? (const void *)&one : world.pattern,
			       count);
	observe_value(run, SAW_BYTES, "bytes moved:", result);
	if (operation->kind == OP_READ_CHANNEL && result > 0)
		observe_value(run, SAW_BYTES, "their sum:", sum_of(bytes, (size_t)result));
	settle(run);
}

static void run_setup(struct run *run, const struct operation *operation)
{
	io_context_t context = NULL, *pointer = &context;

	switch (operation->setup.pointer) {
	case 1:
		pointer = NULL;
		break;
	case 2:
		pointer = (io_context_t *)world.read_only;
		break;
	case 3:
		pointer = KERNEL_ADDRESS;
		break;
	case 4:
		context = (io_context_t)world.buffers;
		break;
	default:
		break;
	}
	observe_value(run, SAW_RESULT,
		      "io_setup =", run->side->calls->setup(operation->setup.nr, pointer));
	observe_value(run, SAW_RESULT, "its handle:", (long)context);
}

/* A context that is destroyed with a POLL that waits and an event that nobody took. */
static void run_life(struct run *run)
{
	const struct calls *calls = run->side->calls;
	io_context_t context = NULL;
	struct timespec zero = { 0, 0 };
	struct io_event event;
	uint8_t bytes[512] = { 1 };
	struct iocb wait, read, *list[] = { &wait, &read };

	io_prep_poll(&wait, world.descriptors[TIMER].fd, POLLIN);
	io_set_eventfd(&wait, world.descriptors[COUNTER_A].fd);
	io_prep_pread(&read, world.descriptors[MEMFD].fd, bytes, sizeof(bytes), 0);
	io_set_eventfd(&read, world.descriptors[COUNTER_A].fd);
	observe_value(run, SAW_RESULT, "io_setup =", calls->setup(8, &context));
	observe_value(run, SAW_RESULT, "io_submit =", calls->submit(context, 2, list));
	observe_value(run, SAW_RESULT, "io_destroy =", calls->destroy(context));
	observe_value(run, SAW_RESULT, "io_destroy again =", calls->destroy(context));
	observe_value(run, SAW_RESULT, "io_submit =", calls->submit(context, 2, list));
	observe_value(run, SAW_RESULT,
		      "io_getevents =", calls->getevents(context, 0, 1, &event, &zero));
	observe_value(run, SAW_RESULT, "io_cancel =", calls->cancel(context, &wait, &event));
	observe_value(run, SAW_BYTES, "bytes read:", sum_of(bytes, sizeof(bytes)));
	run->signals[0] += 2;
}

static void drop_cache(struct run *run)
{
	int fd = world.descriptors[DISK].fd;

	settle(run);
	fdatasync(fd);
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
}

static void run_operation(struct run *run, const struct operation *operation)
{
	switch (operation->kind) {
	case OP_SUBMIT:
		run_submit(run, operation);
		break;
	case OP_WAIT:
		run_wait(run, operation);
		break;
	case OP_CANCEL:
		run_cancel(run, operation);
		break;
	case OP_SETTLE:
		settle(run);
		break;
	case OP_WRITE_CHANNEL:
	case OP_READ_CHANNEL:
		run_transfer(run, operation);
		break;
	case OP_COUNTER:
		settle(run);
		read_counter(run, operation->counter.counter);
		break;
	case OP_SETUP:
		run_setup(run, operation);
		break;
	case OP_DESTROY:
		observe_value(run, SAW_RESULT, "io_destroy =",
			      run->side->calls->destroy(handle_of(run, operation->handle)));
		break;
	case OP_LIFE:
		run_life(run);
		break;
	case OP_DROP_CACHE:
		drop_cache(run);
		break;
	}
}

/* ---- what is left behind --------------------------------------------------------------------- */

static void compare_bytes(struct run *run, const char *what, const uint8_t *expected,
			  const uint8_t *got, size_t count)
{
	size_t i = 0;

	if (memcmp(expected, got, count) == 0)
		return;
	while (expected[i] == got[i])
		i++;
	differ(run, "%s+%#zx: reference %#x; library %#x", what, i, expected[i], got[i]);
}

/*
 * A transfer that the library was asked to cancel may have moved nothing, and what is read behind a
 * write that was torn may be old or new.
 */
static bool buffers_are_determined(const struct run *run)
{
	for (unsigned i = 0; i < run->request_count; i++)
		if ((run->requests[i].cancelled && !run->requests[i].is_poll) ||
		    intended_to_be_torn(&run->requests[i]))
			return false;
	return true;
}

/* How many bytes of the file, from its start, are the same after each run. */
static size_t determined_bytes(const struct run *run, enum inode inode)
{
	size_t bytes = CONTENT_MAX;

	for (unsigned i = 0; i < run->request_count; i++) {
		const struct request *request = &run->requests[i];

		if (world.descriptors[request->target].inode == inode &&
		    intended_to_be_torn(request) && (size_t)request->iocb.u.c.offset < bytes)
			bytes = (size_t)request->iocb.u.c.offset;
	}
	return bytes;
}

static void observe_buffers(struct run *run)
{
	size_t count = run->program->buffer_bytes;
	size_t edges = run->program->edges_used;

	for (size_t i = 0; i < edges && !run->guide; i++)
		memcpy(run->side->trace.buffers + BUFFERS_BYTES + i * EDGE_BYTES, world.edges[i],
		       EDGE_BYTES);
	if (!run->guide) {
		memcpy(run->side->trace.buffers, world.buffers, count);
		return;
	}
	if (!buffers_are_determined(run))
		return;
	compare_bytes(run, "buffers", run->guide->buffers, (const uint8_t *)world.buffers, count);
	for (size_t i = 0; i < edges && !run->stopped; i++)
		compare_bytes(run, "edge", run->guide->buffers + BUFFERS_BYTES + i * EDGE_BYTES,
			      (const uint8_t *)world.edges[i], EDGE_BYTES);
}

static void observe_streams(struct run *run)
{
	static uint8_t content[512 * 1024];

	for (enum channel channel = 0; channel < CHANNELS; channel++) {
		size_t count;

		if (!(run->program->channels_touched & 1u << channel))
			continue;
		count = world_drain(channel, content, sizeof(content));
		observe_value(run, SAW_BYTES, "left in a stream:", (long)count);
		observe_value(run, SAW_BYTES, "their sum:", sum_of(content, count));
	}
}

static void observe_files(struct run *run)
{
	struct trace *trace = &run->side->trace;

	for (enum inode inode = 0; inode < INODES && !run->stopped; inode++) {
		if (!(run->program->files_touched & 1u << inode))
			continue;
		trace->content_bytes[inode] = world_content(inode, trace->content[inode]);
		observe_value(run, SAW_FILE, "file's size:", (long)trace->content_bytes[inode]);
		if (run->guide && !run->stopped)
			compare_bytes(run, "file", run->guide->content[inode],
				      trace->content[inode], determined_bytes(run, inode));
	}
}

static void run_program(struct run *run)
{
	world_reset(run->program);
	run->side->trace.count = 0;
	for (unsigned i = 0; i < run->program->count && !run->stopped; i++) {
		run->operation = (uint8_t)i;
		run_operation(run, &run->program->operations[i]);
	}
	run->operation = (uint8_t)run->program->count;
	if (!run->stopped)
		cancel_polls(run);
	if (!run->stopped)
		settle(run);
	for (unsigned i = 0; i < 2 && !run->stopped; i++)
		read_counter(run, i);
	if (!run->stopped)
		observe_buffers(run);
	/* Emptied in any case, for the next program. */
	observe_streams(run);
	observe_files(run);
}

static struct run run_state;

static void start(const struct program *program, struct side *side, const struct trace *guide,
		  struct difference *difference)
{
	memset(&run_state, 0, offsetof(struct run, requests));
	run_state.request_count = 0;
	memset(run_state.event_count, 0, sizeof(run_state.event_count));
	memset(run_state.signals, 0, sizeof(run_state.signals));
	run_state.program = program;
	run_state.side = side;
	run_state.guide = guide;
	run_state.difference = difference;
	run_program(&run_state);
}

void run_reference(const struct program *program, struct side *side)
{
	start(program, side, NULL, NULL);
}

void run_library(const struct program *program, struct side *side, const struct side *reference,
		 struct difference *difference)
{
	difference->found = false;
	start(program, side, &reference->trace, difference);
}
