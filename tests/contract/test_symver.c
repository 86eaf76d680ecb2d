/* SPDX-License-Identifier: MIT */
/*
 * Symbol versions: what a program that was linked long ago finds, and the old forms of three
 * functions.
 *
 * Version LIBAIO_0.1 has an io_getevents without min_nr, an io_cancel without a place for the
 * event, and an io_queue_wait of its own.  They are called here the way the loader binds them, by
 * name and version.
 */
#include "contract.h"

typedef int old_getevents_function(io_context_t, long, struct io_event *, const struct timespec *);
typedef int old_cancel_function(io_context_t, struct iocb *);
typedef int old_wait_function(io_context_t, const struct timespec *);

/* C allows no cast from a pointer to an object to one to a function. */
#define LOOK_UP(function, name, version)                                                           \
	do {                                                                                       \
		void *symbol = dlvsym(RTLD_DEFAULT, (name), (version));                            \
		ck_assert_msg(symbol != NULL, "no %s@%s", (name), (version));                      \
		memcpy(&(function), &symbol, sizeof(symbol));                                      \
	} while (0)

static char byte;

static void put_events(io_context_t ctx, struct iocb *iocb, int count)
{
	int zero = open_device("/dev/zero", O_RDONLY);

	io_prep_pread(iocb, zero, &byte, 1, 0);
	for (int i = 0; i < count; i++)
		expect_ended(ctx, iocb, HERE);
	close(zero);
}

CASE(every_function_is_there_under_its_versions)
{
	static const struct {
		const char *name, *version;
		bool is_default;
	} rows[] = {
		{ "io_queue_init", "LIBAIO_0.1", true },    { "io_queue_run", "LIBAIO_0.1", true },
		{ "io_queue_release", "LIBAIO_0.1", true }, { "io_submit", "LIBAIO_0.1", true },
		{ "io_cancel", "LIBAIO_0.1", false },	    { "io_getevents", "LIBAIO_0.1", false },
		{ "io_queue_wait", "LIBAIO_0.1", false },   { "io_setup", "LIBAIO_0.4", true },
		{ "io_destroy", "LIBAIO_0.4", true },	    { "io_cancel", "LIBAIO_0.4", true },
		{ "io_getevents", "LIBAIO_0.4", true },	    { "io_queue_wait", "LIBAIO_0.4", true },
		{ "io_pgetevents", "LIBAIO_0.5", true },
	};
	void *library = dlopen("libaio.so.1", RTLD_NOW | RTLD_NOLOAD);

	ck_assert_ptr_nonnull(library);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		void *versioned = dlvsym(library, rows[i].name, rows[i].version);

		ck_assert_msg(versioned != NULL, "no %s@%s", rows[i].name, rows[i].version);
		ck_assert_msg((dlsym(library, rows[i].name) == versioned) == rows[i].is_default,
			      "%s@%s is %sthe default", rows[i].name, rows[i].version,
			      rows[i].is_default ? "not " : "");
	}
	dlclose(library);
	free_context(new_context(1));
}

CASE(old_getevents_waits_for_one_event)
{
	io_context_t ctx = new_context(8);
	old_getevents_function *old_getevents;
	struct timespec zero = { 0 }, value = { .tv_nsec = 20000000 };
	const struct timespec *moment = read_only_page(&value, sizeof(value));
	struct io_event events[8];
	struct iocb iocb;
	long long start;

	LOOK_UP(old_getevents, "io_getevents", "LIBAIO_0.1");
	put_events(ctx, &iocb, 2);
	ck_assert_int_eq(old_getevents(ctx, 8, events, NULL), 2);
	ck_assert(events[0].obj == &iocb && events[0].res == 1 && events[1].obj == &iocb);
	start = monotonic_ns();
	ck_assert_int_eq(old_getevents(ctx, 8, events, moment), 0);
	ck_assert_int_ge(monotonic_ns() - start, 20000000);
	ck_assert_int_eq(old_getevents(ctx, 8, events, &zero), 0);
	ck_assert_int_eq(old_getevents(ctx, 0, events, moment), -EINVAL);
	ck_assert_int_eq(old_getevents(ctx, -1, events, moment), -EINVAL);
	ck_assert_int_eq(old_getevents(NULL, 8, events, moment), -EINVAL);
	put_events(ctx, &iocb, 5);
	ck_assert_int_eq(old_getevents(ctx, 3, events, NULL), 3);
	ck_assert_int_eq(old_getevents(ctx, 8, events, &zero), 2);
	free_context(ctx);
}

struct old_reaper {
	struct worker worker;
	old_getevents_function *old_getevents;
	io_context_t ctx;
	struct io_event events[4];
	int result;
};

static void old_reaper_run(void *argument)
{
	struct old_reaper *reaper = argument;

	reaper->result = reaper->old_getevents(reaper->ctx, 4, reaper->events, NULL);
}

CASE(old_getevents_sleeps_until_then)
{
	struct old_reaper reaper = { .ctx = new_context(8) };
	struct iocb iocb;

	LOOK_UP(reaper.old_getevents, "io_getevents", "LIBAIO_0.1");
	worker_start(&reaper.worker, old_reaper_run, &reaper);
	worker_wait_blocked(&reaper.worker);
	put_events(reaper.ctx, &iocb, 1);
	worker_join(&reaper.worker);
	ck_assert_int_eq(reaper.result, 1);
	free_context(reaper.ctx);
}

CASE(old_cancel_leaves_the_event_in_the_queue)
{
	io_context_t ctx = new_context(8);
	old_cancel_function *old_cancel;
	struct iocb iocb, unknown;
	int idle[2];

	LOOK_UP(old_cancel, "io_cancel", "LIBAIO_0.1");
	make_pipe(idle, 0);
	io_prep_poll(&iocb, idle[0], POLLIN);
	unknown = iocb;
	expect_submitted(ctx, &iocb, HERE);
	ck_assert_int_eq(old_cancel(ctx, &iocb), -EINPROGRESS);
	expect_event(ctx, &iocb, 0, HERE);
	ck_assert_int_eq(old_cancel(ctx, &unknown), -EINVAL);
	ck_assert_int_eq(old_cancel(NULL, &unknown), -EINVAL);
	ck_assert_int_eq(old_cancel(ctx, NULL), -EFAULT);
	free_context(ctx);
	close_pair(idle);
}

struct old_waiter {
	struct worker worker;
	old_wait_function *old_wait;
	io_context_t ctx;
	int result;
};

static void old_waiter_run(void *argument)
{
	struct old_waiter *waiter = argument;

	waiter->result = waiter->old_wait(waiter->ctx, NULL);
}

/* The reference library's old form does not wait, like its new one. */
CASE(old_queue_wait_is_the_new_one)
{
	struct old_waiter waiter = { .ctx = new_context(8) };
	struct timespec zero = { 0 };
	struct iocb iocb;
	int idle[2];

	LOOK_UP(waiter.old_wait, "io_queue_wait", "LIBAIO_0.1");
	make_pipe(idle, 0);
	ck_assert_int_eq(waiter.old_wait(waiter.ctx, &zero), 0);
	io_prep_poll(&iocb, idle[0], POLLIN);
	expect_submitted(waiter.ctx, &iocb, HERE);
	worker_start(&waiter.worker, old_waiter_run, &waiter);
	if (!on_reference())
		worker_wait_blocked(&waiter.worker);
	ck_assert_int_eq(write(idle[1], "x", 1), 1);
	worker_join(&waiter.worker);
	ck_assert_int_eq(waiter.result, 0);
	expect_event(waiter.ctx, &iocb, POLLIN | POLLRDNORM, HERE);
	free_context(waiter.ctx);
	close_pair(idle);
}

/* So that a program linked with this library still starts on another one. */
CASE(additions_have_no_version)
{
	static const char *const names[] = { "trueaio_engine", "trueaio_sync_call" };
	static const char *const versions[] = { "LIBAIO_0.1", "LIBAIO_0.4", "LIBAIO_0.5" };
	void *library = dlopen("libaio.so.1", RTLD_NOW | RTLD_NOLOAD);

	free_context(new_context(1));
	ck_assert_ptr_nonnull(library);
	for (size_t i = 0; i < 2; i++) {
		ck_assert_msg(!dlsym(library, names[i]) == on_reference(), "%s", names[i]);
		for (size_t j = 0; j < 3; j++)
			ck_assert_ptr_null(dlvsym(library, names[i], versions[j]));
	}
	dlclose(library);
}
