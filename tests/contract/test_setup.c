/* SPDX-License-Identifier: MIT */
/*
 * io_setup and io_queue_init: arguments, capacity, accounting, and who a context belongs to.
 *
 * Capacity is measured by filling a context: with polls of an idle pipe, which never end, or with
 * reads of /dev/zero, which end at once and are not reaped.  It is compared with what the kernel's
 * own context of that size takes, computed from the number of possible processors and the page
 * size, so the figures hold on any machine.
 */
#include "contract.h"

static const char aio_nr_path[] = "/proc/sys/fs/aio-nr";
static const char aio_max_path[] = "/proc/sys/fs/aio-max-nr";

static long read_number(const char *path)
{
	FILE *stream = fopen(path, "re");
	long number = -1;

	ck_assert_ptr_nonnull(stream);
	ck_assert_int_eq(fscanf(stream, "%ld", &number), 1);
	fclose(stream);
	return number;
}

/* Possible processors, from a list like "0-3,8". */
static long possible_processors(void)
{
	FILE *stream = fopen("/sys/devices/system/cpu/possible", "re");
	long first, last, count = 0;
	int matched;

	if (!stream)
		return sysconf(_SC_NPROCESSORS_CONF);
	while ((matched = fscanf(stream, "%ld-%ld", &first, &last)) >= 1) {
		count += matched == 2 ? last - first + 1 : 1;
		if (fgetc(stream) != ',')
			break;
	}
	fclose(stream);
	return count;
}

struct capacity {
	long slots; /* of the kernel's ring: never more than one less is in flight */
	long accepted; /* by an idle context, from one processor */
};

static struct capacity kernel_capacity(long events)
{
	long processors = possible_processors(), page_bytes = sysconf(_SC_PAGESIZE);
	long wanted = 2 * (events > 4 * processors ? events : 4 * processors) + 2;
	long pages = (32 + 32 * wanted + page_bytes - 1) / page_bytes;
	struct capacity capacity = { .slots = (pages * page_bytes - 32) / 32 };
	long batch = (capacity.slots - 1) / (4 * processors);

	if (batch < 1)
		batch = 1;
	capacity.accepted = (capacity.slots - 1) / batch * batch;
	return capacity;
}

static void run_on_processor(int processor)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((size_t)processor, &set);
	/* A processor that may not be used here leaves the thread where it is. */
	sched_setaffinity(0, sizeof(set), &set);
}

/* How many polls of a descriptor that is never ready fit. */
static int fill_with_polls(io_context_t ctx, int idle, int limit)
{
	struct iocb iocb;
	int count = 0, result = 1;

	io_prep_poll(&iocb, idle, POLLIN);
	while (count < limit && (result = submit_one(ctx, &iocb)) == 1)
		count++;
	ck_assert_msg(count == limit || result == -EAGAIN, "a full context says %d", result);
	return count;
}

CASE(setup_checks_the_number_of_events)
{
	static const struct {
		int events;
		int result;
	} rows[] = {
		{ 0, -EINVAL },	      { -1, -EINVAL },	     { -2, -EINVAL },
		{ INT_MAX, -EINVAL }, { 0x400001, -EINVAL }, { 0x800000, -EINVAL },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		io_context_t ctx = NULL;
		int result = io_setup(rows[i].events, &ctx);

		ck_assert_msg(result == rows[i].result, "io_setup(%d): %d", rows[i].events, result);
		ck_assert_msg(!ctx, "io_setup(%d) has written a handle", rows[i].events);
	}
	free_context(new_context(1));
}

CASE(setup_beyond_the_quota_fails_or_goes_on_without_kernel_aio)
{
	io_context_t ctx = NULL;
	long most = read_number(aio_max_path);
	int result;

	if (most >= 0x400000)
		SKIP("aio-max-nr is as large as a context can be");
	result = io_setup((int)most + 1, &ctx);
	if (result == 0) {
		ck_assert_msg(!on_reference(), "more than the quota");
		free_context(ctx);
	} else {
		ck_assert_msg(result == -EAGAIN || (!on_reference() && result == -ENOSYS),
			      "io_setup(aio-max-nr + 1): %d", result);
		ck_assert_ptr_null(ctx);
	}
	free_context(new_context(1));
}

CASE(setup_leaves_a_handle_that_is_not_null_alone)
{
	io_context_t live = new_context(1), ctx = (io_context_t)1L;

	ck_assert_int_eq(io_setup(1, &ctx), -EINVAL);
	ck_assert_ptr_eq(ctx, (io_context_t)1L);
	ctx = live;
	ck_assert_int_eq(io_setup(1, &ctx), -EINVAL);
	ck_assert_ptr_eq(ctx, live);
	expect_works(live, HERE);
	free_context(live);
}

CASE(setup_checks_the_pointer_before_the_number)
{
	static const int numbers[] = { 1, 0, -1, INT_MAX };

	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		ck_assert_int_eq(io_setup(numbers[i], NULL), -EFAULT);
		ck_assert_int_eq(io_setup(numbers[i], unreadable_page()), -EFAULT);
		ck_assert_int_eq(io_setup(numbers[i], KERNEL_ADDRESS), -EFAULT);
	}
	free_context(new_context(1));
}

static int count_ring_mappings(void)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	char line[PATH_MAX + 128];
	int count = 0;

	ck_assert_ptr_nonnull(maps);
	while (fgets(line, sizeof(line), maps))
		count += strstr(line, "[aio]") != NULL;
	fclose(maps);
	return count;
}

CASE(setup_into_read_only_memory_fails_and_leaks_nothing)
{
	io_context_t *place = read_only_page(NULL, 0);
	int before;

	free_context(new_context(1));
	WAIT_UNTIL(count_ring_mappings() == 0);
	before = count_ring_mappings();
	for (int i = 0; i < 50; i++)
		ck_assert_int_eq(io_setup(1, place), -EFAULT);
	WAIT_UNTIL(count_ring_mappings() == before);
}

CASE(setup_takes_a_misaligned_pointer)
{
	char memory[sizeof(io_context_t) + 1] = { 0 };
	io_context_t *place = (io_context_t *)(void *)(memory + 1), ctx;

	ck_assert_int_eq(io_setup(1, place), 0);
	memcpy(&ctx, memory + 1, sizeof(ctx));
	prove_engine(ctx);
	expect_works(ctx, HERE);
	free_context(ctx);
}

CASE(calls_that_fail_leave_errno_alone)
{
	io_context_t ctx = new_context(1), none = NULL;
	struct timespec zero = { 0 };
	struct io_event event;
	struct iocb iocb, *list[1] = { &iocb };

	io_prep_pread(&iocb, -1, NULL, 0, 0);
	errno = 77;
	ck_assert_int_lt(io_setup(0, &none), 0);
	ck_assert_int_lt(io_queue_init(0, &none), 0);
	ck_assert_int_lt(io_submit(ctx, 1, list), 0);
	ck_assert_int_lt(io_submit(NULL, 1, list), 0);
	ck_assert_int_lt(io_getevents(NULL, 1, 1, &event, &zero), 0);
	ck_assert_int_lt(io_getevents(ctx, 2, 1, &event, NULL), 0);
	ck_assert_int_lt(io_pgetevents(ctx, 2, 1, &event, NULL, NULL), 0);
	ck_assert_int_lt(io_cancel(ctx, &iocb, &event), 0);
	ck_assert_int_lt(io_queue_run(NULL), 0);
	ck_assert_int_lt(io_destroy(NULL), 0);
	ck_assert_int_lt(io_queue_release(NULL), 0);
	ck_assert_int_eq(errno, 77);
	free_context(ctx);
	ck_assert_int_eq(errno, 77);
}

CASE(queue_init_overwrites_what_the_handle_held)
{
	static const int refused[] = { 0, -1, INT_MIN };
	io_context_t ctx = (io_context_t)0x1234L;

	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		ck_assert_int_eq(io_queue_init(refused[i], &ctx), -EINVAL);
		ck_assert_msg(ctx == (io_context_t)0x1234L, "io_queue_init(%d) touched the handle",
			      refused[i]);
		ck_assert_int_eq(io_queue_init(refused[i], NULL), -EINVAL);
	}
	ck_assert_int_eq(io_queue_init(INT_MAX, &ctx), -EINVAL);
	ck_assert_ptr_null(ctx);
	ctx = (io_context_t)0x1234L;
	ck_assert_int_eq(io_queue_init(1, &ctx), 0);
	prove_engine(ctx);
	expect_works(ctx, HERE);
	ck_assert_int_eq(io_queue_release(ctx), 0);
}

/*
 * Other programs come and go, so an attempt counts only when the number is the same before and
 * after; that it ever is the same again is the other half of the check.  Without kernel AIO nothing
 * is taken.
 */
CASE(quota_is_taken_as_asked_and_given_back)
{
	const long asked = 1000;
	io_context_t ctx = new_context(1);
	long before, during = 0, after = -1;

	free_context(ctx);
	for (int attempt = 0; attempt < 50; attempt++) {
		long long end_ns = monotonic_ns() + 1000000000;

		before = read_number(aio_nr_path);
		ctx = new_context((int)asked);
		during = read_number(aio_nr_path);
		free_context(ctx);
		do
			after = read_number(aio_nr_path);
		while (after != before && monotonic_ns() < end_ns);
		if (after != before)
			continue;
		if (on_threads() ? during == before
				 : during - before >= asked && during - before <= asked + 64)
			return;
	}
	ck_abort_msg("aio-nr went from %ld to %ld and came back to %ld", before, during, after);
}

static void make_context_and_stay(void *argument)
{
	io_context_t ctx = NULL;
	struct iocb iocb;

	CHILD_CHECK(io_setup(1000, &ctx) == 0);
	io_prep_poll(&iocb, *(int *)argument, POLLIN);
	CHILD_CHECK(submit_one(ctx, &iocb) == 1);
}

CASE(exit_with_a_live_context_gives_the_quota_back)
{
	int idle[2];
	long before = 0, after = -1;

	if (UNDER_THREAD_SANITIZER)
		SKIP("a child of a process with threads has no thread sanitizer");
	make_pipe(idle, 0);
	for (int attempt = 0; attempt < 50 && after != before; attempt++) {
		before = read_number(aio_nr_path);
		expect_child_passes(make_context_and_stay, &idle[0], HERE);
		after = read_number(aio_nr_path);
	}
	ck_assert_int_eq(after, before);
	close_pair(idle);
	free_context(new_context(1));
}

CASE(many_contexts_work_side_by_side)
{
	enum { COUNT = 60 };
	io_context_t contexts[COUNT];

	for (int i = 0; i < COUNT; i++) {
		contexts[i] = new_context(1);
		for (int j = 0; j < i; j++)
			ck_assert_ptr_ne(contexts[i], contexts[j]);
	}
	for (int i = 0; i < COUNT; i++)
		expect_works(contexts[i], HERE);
	for (int i = 0; i < COUNT; i += 2)
		free_context(contexts[i]);
	for (int i = 1; i < COUNT; i += 2) {
		expect_works(contexts[i], HERE);
		free_context(contexts[i]);
	}
}

CASE(contexts_can_be_made_and_destroyed_without_end)
{
	for (int i = 0; i < (on_reference() ? 20 : 300); i++) {
		io_context_t ctx = new_context(1 + i % 64);

		expect_works(ctx, HERE);
		free_context(ctx);
	}
}

static void setup_without_address_space(void *argument)
{
	struct rlimit limit = { 1 << 20, 1 << 20 };
	io_context_t ctx = NULL;
	bool *is_limited = argument;

	CHILD_CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
	/* An emulator may have its own idea of it. */
	*is_limited =
		mmap(NULL, 1 << 21, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED;
	if (!*is_limited)
		return;
	CHILD_CHECK(io_setup(1024, &ctx) == -ENOMEM);
	CHILD_CHECK(ctx == NULL);
}

CASE(setup_without_address_space_is_enomem)
{
	bool *is_limited = (bool *)mmap(NULL, sizeof(*is_limited), PROT_READ | PROT_WRITE,
					MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (UNDER_ADDRESS_SANITIZER || UNDER_THREAD_SANITIZER)
		SKIP("a sanitizer needs the address space itself");
	ck_assert(is_limited != MAP_FAILED);
	expect_child_passes(setup_without_address_space, is_limited, HERE);
	free_context(new_context(1024));
	if (!*is_limited)
		SKIP("RLIMIT_AS limits nothing here");
}

static void use_without_locked_memory(void *argument)
{
	struct rlimit limit = { 0, 0 };
	struct timespec seconds = { .tv_sec = EVENT_LIMIT_SECONDS };
	io_context_t ctx = NULL;
	struct io_event event;
	struct iocb iocb;
	char bytes[8];
	int *ends = argument;

	CHILD_CHECK(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
	/* Not as root, whom the limit does not bind. */
	CHILD_CHECK(setresgid(65534, 65534, 65534) == 0 && setresuid(65534, 65534, 65534) == 0);
	CHILD_CHECK(io_setup(1024, &ctx) == 0);
	CHILD_CHECK(write(ends[1], "12345678", 8) == 8);
	io_prep_pread(&iocb, ends[0], bytes, sizeof(bytes), 0);
	CHILD_CHECK(submit_one(ctx, &iocb) == 1);
	CHILD_CHECK(io_getevents(ctx, 1, 1, &event, &seconds) == 1);
	CHILD_CHECK((long)event.res == 8 && memcmp(bytes, "12345678", 8) == 0);
	CHILD_CHECK(io_destroy(ctx) == 0);
}

CASE(the_limit_on_locked_memory_does_not_matter)
{
	int ends[2];

	if (geteuid() != 0)
		SKIP("needs root, to become somebody else");
	if (UNDER_THREAD_SANITIZER)
		SKIP("a child of a process with threads has no thread sanitizer");
	make_pipe(ends, 0);
	expect_child_passes(use_without_locked_memory, ends, HERE);
	close_pair(ends);
	free_context(new_context(1024));
}

static const int capacity_rows[] = { 1, 2, 32, 63, 64, 128, 256, 1024, 4096 };

CASE(a_context_takes_what_the_kernels_own_would)
{
	int idle[2];

	make_pipe(idle, 0);
	run_on_processor(0);
	for (size_t i = 0; i < sizeof(capacity_rows) / sizeof(capacity_rows[0]); i++) {
		io_context_t ctx = new_context(capacity_rows[i]);
		struct capacity capacity = kernel_capacity(capacity_rows[i]);
		int count = fill_with_polls(ctx, idle[0], (int)capacity.slots + 1000);

		ck_assert_msg(
			count >= capacity.accepted - 4 && count < capacity.slots,
			"io_setup(%d): %d in flight, where the kernel takes %ld with a ring of %ld",
			capacity_rows[i], count, capacity.accepted, capacity.slots);
		ck_assert_int_ge(count, capacity_rows[i]);
		free_context(ctx);
	}
	close_pair(idle);
}

CASE(events_not_taken_hold_their_place)
{
	int zero = open_device("/dev/zero", O_RDONLY);
	io_context_t ctx = new_context(1);
	struct capacity capacity = kernel_capacity(1);
	struct io_event events[64];
	struct iocb iocb;
	char byte;
	int count = 0, result, again;

	run_on_processor(0);
	io_prep_pread(&iocb, zero, &byte, 1, 0);
	while (count <= capacity.slots && (result = submit_one(ctx, &iocb)) == 1)
		count++;
	ck_assert_int_eq(result, -EAGAIN);
	ck_assert_msg(count >= capacity.accepted - 4 && count < capacity.slots, "%d accepted",
		      count);
	for (int taken = 1; taken <= 64; taken *= 4) {
		ck_assert_int_eq(io_getevents(ctx, taken, taken, events, NULL), taken);
		for (again = 0; submit_one(ctx, &iocb) == 1; again++)
			;
		ck_assert_msg(again >= taken, "room for %d after taking %d events", again, taken);
		count += again - taken;
		ck_assert_int_lt(count, capacity.slots);
	}
	for (int taken; count > 0 && (taken = take_ended(ctx, events, 64)) > 0;)
		count -= taken;
	ck_assert_int_eq(count, 0);
	free_context_without_events(ctx, HERE);
	close(zero);
}

/*
 * Kernel slots that another processor has set aside may lower the figure, but never below the
 * promise.
 */
CASE(the_number_asked_for_fits_after_use_on_all_processors)
{
	static const int asked[] = { 1, 64, 128, 1024 };
	int zero = open_device("/dev/zero", O_RDONLY), idle[2];
	int processors = (int)sysconf(_SC_NPROCESSORS_ONLN);
	struct io_event events[64];
	struct iocb iocb;
	char byte;

	make_pipe(idle, 0);
	for (size_t i = 0; i < sizeof(asked) / sizeof(asked[0]); i++) {
		io_context_t ctx = new_context(asked[i]);
		unsigned random = 1;

		io_prep_pread(&iocb, zero, &byte, 1, 0);
		for (int round = 0; round < 300; round++) {
			random = random * 1103515245 + 12345;
			run_on_processor(round % processors);
			int outstanding = (int)(random >> 16) % 20;

			for (int j = 0; j < outstanding; j++)
				expect_submitted(ctx, &iocb, HERE);
			run_on_processor((int)(random >> 8) % processors);
			while (outstanding > 0) {
				int taken = io_getevents(ctx, 1, 64, events, NULL);

				ck_assert_int_gt(taken, 0);
				outstanding -= taken;
			}
		}
		for (int processor = 0; processor < processors; processor++) {
			int count = 0;

			run_on_processor(processor);
			/* Half of them here, half from the next one. */
			count = fill_with_polls(ctx, idle[0], asked[i] / 2);
			run_on_processor((processor + 1) % processors);
			count += fill_with_polls(ctx, idle[0], asked[i] - asked[i] / 2);
			ck_assert_msg(count == asked[i], "io_setup(%d): %d fit", asked[i], count);
			ck_assert_int_eq(write(idle[1], "x", 1), 1);
			while (count > 0)
				count -= io_getevents(ctx, 1, 64, events, NULL);
			ck_assert_int_eq(read(idle[0], &byte, 1), 1);
		}
		free_context(ctx);
	}
	close_pair(idle);
	close(zero);
}

/*
 * Programs that would take events from the ring by themselves recognize it by its magic number;
 * with another one in its place they call io_getevents, which knows about all events.
 */
CASE(the_ring_at_the_handle_does_not_invite_foreign_reapers)
{
	io_context_t ctx = new_context(8);
	struct forged_ring *ring = (struct forged_ring *)(void *)ctx;

	if (on_reference())
		ck_assert_uint_eq(ring->magic, 0xa10a10a1);
	else
		ck_assert_uint_ne(ring->magic, 0xa10a10a1);
	free_context(ctx);
}

struct inherited {
	io_context_t ctx;
	int idle;
};

static void use_in_child(void *argument)
{
	struct inherited *inherited = argument;
	struct timespec zero = { 0 }, seconds = { .tv_sec = EVENT_LIMIT_SECONDS };
	int device = open("/dev/zero", O_RDONLY);
	io_context_t parents = inherited->ctx, own = NULL;
	struct io_event event;
	struct iocb iocb;
	char bytes[8] = "before";

	io_prep_poll(&iocb, inherited->idle, POLLIN);
	CHILD_CHECK(io_submit(parents, 0, NULL) == -EINVAL);
	CHILD_CHECK(submit_one(parents, &iocb) == -EINVAL);
	CHILD_CHECK(io_cancel(parents, &iocb, &event) == -EINVAL);
	if (!on_reference()) {
		CHILD_CHECK(io_getevents(parents, 0, 1, &event, &zero) == -EINVAL);
		CHILD_CHECK(io_getevents(parents, 1, 1, &event, NULL) == -EINVAL);
		CHILD_CHECK(io_pgetevents(parents, 1, 1, &event, NULL, NULL) == -EINVAL);
		CHILD_CHECK(io_queue_run(parents) == -EINVAL);
		CHILD_CHECK(io_queue_wait(parents, &zero) == -EINVAL);
	}
	CHILD_CHECK(io_destroy(parents) == -EINVAL);
	CHILD_CHECK(io_queue_release(parents) == -EINVAL);

	CHILD_CHECK(io_setup(8, &own) == 0);
	io_prep_pread(&iocb, device, bytes, sizeof(bytes), 0);
	CHILD_CHECK(parents == own || submit_one(parents, &iocb) == -EINVAL);
	CHILD_CHECK(submit_one(own, &iocb) == 1);
	CHILD_CHECK(io_getevents(own, 1, 1, &event, &seconds) == 1);
	CHILD_CHECK(event.obj == &iocb && event.res == 8 && bytes[0] == 0);
	CHILD_CHECK(io_destroy(own) == 0);
}

CASE(a_forked_child_has_no_context_but_its_own)
{
	io_context_t ctx = new_context(8);
	struct inherited inherited = { .ctx = ctx };
	struct iocb poll_iocb, read_iocb;
	int zero = open_device("/dev/zero", O_RDONLY), idle[2];
	char bytes[8];

	if (UNDER_THREAD_SANITIZER)
		SKIP("a child of a process with threads has no thread sanitizer");
	NEEDS_WIPE_ON_FORK();
	make_pipe(idle, 0);
	inherited.idle = idle[0];
	io_prep_poll(&poll_iocb, idle[0], POLLIN);
	expect_submitted(ctx, &poll_iocb, HERE);
	io_prep_pread(&read_iocb, zero, bytes, sizeof(bytes), 0);
	expect_submitted(ctx, &read_iocb, HERE);

	expect_child_passes(use_in_child, &inherited, HERE);

	/* The parent has lost nothing: not the event that was there, nor the request in flight. */
	expect_event(ctx, &read_iocb, sizeof(bytes), HERE);
	ck_assert_int_eq(write(idle[1], "x", 1), 1);
	ck_assert_int_eq(take_event(ctx, HERE).obj == &poll_iocb, 1);
	free_context(ctx);
	close_pair(idle);
	close(zero);
}
