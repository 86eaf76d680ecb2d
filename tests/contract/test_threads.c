/* SPDX-License-Identifier: MIT */
/*
 * Many threads on one context, threads that end or are cancelled, signal handlers that call the
 * library.
 *
 * The measure is always the same: as many events as requests were accepted, each one exactly once,
 * and every call comes back.
 */
#include "contract.h"
#include "holdfs.h"

enum {
	SUBMITTERS = 4,
	REAPERS = 4,
	KINDS = 4,
	/* A sanitizer is an order of magnitude slower. */
	PER_SUBMITTER = UNDER_THREAD_SANITIZER || UNDER_ADDRESS_SANITIZER ? 2000 : 20000,
	TOTAL = SUBMITTERS * PER_SUBMITTER,
	READ_BYTES = 64,
};

/* Nobody looks at what is read.  Requests may be in flight when their thread has ended. */
static _Alignas(DIRECT_BLOCK_BYTES) char buffers[SUBMITTERS][DIRECT_BLOCK_BYTES];

/* What all threads of a case work on. */
struct arena {
	io_context_t ctx;
	int fds[KINDS]; /* a device, a file, the same file O_DIRECT, a pipe that feed writes to */
	int feed;
	int kinds;
	_Atomic int accepted;
	_Atomic int taken;
	_Atomic unsigned char *seen;
	_Atomic bool doubled;
};

struct participant {
	struct worker worker;
	struct arena *arena;
	int number;
	_Atomic int last_result;
};

static void arena_open(struct arena *arena, int events, int kinds)
{
	int ends[2];

	*arena = (struct arena){ .ctx = new_context(events), .kinds = kinds };
	make_pipe(ends, 0);
	arena->fds[0] = open_device("/dev/zero", O_RDONLY);
	arena->fds[1] = scratch_file(1 << 20);
	arena->fds[2] = reopen_file(arena->fds[1], O_RDONLY | O_DIRECT);
	arena->fds[3] = ends[0];
	arena->feed = ends[1];
	arena->seen = calloc(TOTAL, sizeof(*arena->seen));
	ck_assert_ptr_nonnull(arena->seen);
	if (arena->fds[2] < 0)
		arena->fds[2] = dup(arena->fds[0]);
}

static void arena_close(struct arena *arena)
{
	for (int i = 0; i < KINDS; i++)
		close(arena->fds[i]);
	close(arena->feed);
	free((void *)arena->seen);
}

/* The iocb is the thread's own and used again at once. */
static int submit_number(struct arena *arena, int number, char *buffer)
{
	static const size_t bytes[KINDS] = { READ_BYTES, READ_BYTES, 512, 1 };
	int kind = number % arena->kinds, result;
	struct iocb iocb;

	io_prep_pread(&iocb, arena->fds[kind], buffer, bytes[kind], number % 1000 * 512);
	iocb.data = (void *)(long)number;
	result = submit_one(arena->ctx, &iocb);
	/*
	 * One byte for each read of one byte, so that none waits for ever and the pipe is never
	 * full.
	 */
	if (result == 1 && kind == 3 && write(arena->feed, "x", 1) != 1)
		return -EIO;
	return result;
}

static void submit_many(void *argument)
{
	struct participant *self = argument;
	struct arena *arena = self->arena;

	for (int i = 0; i < PER_SUBMITTER; i++) {
		int result;

		if (arena->kinds > 1 && i % 512 == 0)
			posix_fadvise(arena->fds[1], 0, 0, POSIX_FADV_DONTNEED);
		while ((result = submit_number(arena, self->number * PER_SUBMITTER + i,
					       buffers[self->number])) == -EAGAIN)
			sched_yield();
		atomic_store(&self->last_result, result);
		if (result != 1)
			break;
		atomic_fetch_add(&arena->accepted, 1);
	}
}

static void note_events(struct arena *arena, const struct io_event *events, int count)
{
	for (int i = 0; i < count; i++)
		if (atomic_exchange(&arena->seen[(long)events[i].data], 1) ||
		    (long)events[i].res <= 0)
			atomic_store(&arena->doubled, true);
	atomic_fetch_add(&arena->taken, count);
}

static void reaper_of_arena(void *argument)
{
	static const int wanted[] = { 1, 1, 2, 7 };
	struct participant *self = argument;
	struct arena *arena = self->arena;
	struct io_event events[16];

	while (atomic_load(&arena->taken) < TOTAL) {
		struct timespec timeout = { .tv_nsec = 20000000 };
		int result =
			io_getevents(arena->ctx, wanted[self->number % 4], 16, events, &timeout);

		atomic_store(&self->last_result, result);
		if (result < 0)
			break;
		note_events(arena, events, result);
	}
}

static void exchange(int events, int kinds)
{
	struct participant submitters[SUBMITTERS], reapers[REAPERS];
	struct arena arena;

	arena_open(&arena, events, kinds);
	for (int i = 0; i < REAPERS; i++) {
		reapers[i] = (struct participant){ .arena = &arena, .number = i };
		worker_start(&reapers[i].worker, reaper_of_arena, &reapers[i]);
	}
	for (int i = 0; i < SUBMITTERS; i++) {
		submitters[i] = (struct participant){ .arena = &arena, .number = i };
		worker_start(&submitters[i].worker, submit_many, &submitters[i]);
	}
	/* As long as anything moves. */
	for (int before = -1, now; (now = atomic_load(&arena.taken)) < TOTAL; before = now) {
		ck_assert_int_lt(before, now);
		for (int i = 0; i < EVENT_LIMIT_SECONDS * 100 && atomic_load(&arena.taken) == now;
		     i++)
			for (int j = 0; j < 50 && atomic_load(&arena.taken) == now; j++)
				contract_pause();
	}
	for (int i = 0; i < SUBMITTERS; i++) {
		worker_join(&submitters[i].worker);
		ck_assert_int_eq(atomic_load(&submitters[i].last_result), 1);
	}
	for (int i = 0; i < REAPERS; i++) {
		worker_join(&reapers[i].worker);
		ck_assert_int_ge(atomic_load(&reapers[i].last_result), 0);
	}
	ck_assert_int_eq(atomic_load(&arena.accepted), TOTAL);
	ck_assert(!atomic_load(&arena.doubled));
	free_context_without_events(arena.ctx, HERE);
	arena_close(&arena);
}

CASE(four_submitters_and_four_reapers_exchange_each_event_once)
{
	exchange(64, 1);
}

CASE(also_when_the_context_is_always_full)
{
	exchange(1, 1);
}

CASE(also_with_requests_of_every_kind)
{
	exchange(64, on_reference() ? 3 : KINDS);
}

CASE(also_with_requests_of_every_kind_in_a_large_context)
{
	exchange(4096, on_reference() ? 3 : KINDS);
}

static void submit_until_refused(void *argument)
{
	struct participant *self = argument;
	int result;

	for (int i = 0;; i = (i + 1) % PER_SUBMITTER) {
		result = submit_number(self->arena, i, buffers[self->number]);
		if (result != 1 && result != -EAGAIN)
			break;
		if (result == 1)
			atomic_fetch_add(&self->arena->accepted, 1);
		else
			sched_yield();
	}
	atomic_store(&self->last_result, result);
}

static void reap_until_refused(void *argument)
{
	struct participant *self = argument;
	struct io_event events[16];
	int result;

	do
		result = io_getevents(self->arena->ctx, 1 + self->number % 2, 16, events, NULL);
	while (result > 0);
	atomic_store(&self->last_result, result);
}

/* Everybody is sent away; the files are closed as soon as io_destroy is back. */
static void destroy_in_full_swing(int kinds, int rounds)
{
	for (int round = 0; round < rounds; round++) {
		struct participant submitters[2], reapers[2];
		struct arena arena;

		arena_open(&arena, 32, kinds);
		for (int i = 0; i < 2; i++) {
			reapers[i] = (struct participant){ .arena = &arena, .number = i };
			worker_start(&reapers[i].worker, reap_until_refused, &reapers[i]);
			submitters[i] = (struct participant){ .arena = &arena, .number = i };
			worker_start(&submitters[i].worker, submit_until_refused, &submitters[i]);
		}
		WAIT_UNTIL(atomic_load(&arena.accepted) > 10 * round);
		free_context(arena.ctx);
		for (int i = 0; i < 2; i++) {
			worker_join(&submitters[i].worker);
			ck_assert_int_eq(atomic_load(&submitters[i].last_result), -EINVAL);
			worker_join(&reapers[i].worker);
			ck_assert_int_eq(atomic_load(&reapers[i].last_result), -EINVAL);
		}
		arena_close(&arena);
	}
}

CASE(destroy_sends_everybody_away)
{
	if (on_reference())
		SKIP("reference: its io_getevents looks into the ring that has just gone");
	destroy_in_full_swing(1, 30);
}

CASE(destroy_sends_everybody_away_from_requests_of_every_kind)
{
	if (on_reference())
		SKIP("reference: its io_getevents looks into the ring that has just gone");
	destroy_in_full_swing(3, 30);
}

static void destroy_once(void *argument)
{
	struct participant *self = argument;

	atomic_store(&self->last_result, io_destroy(self->arena->ctx));
}

CASE(of_many_destroys_one_wins)
{
	enum { COUNT = 4 };

	for (int round = 0; round < (on_reference() ? 10 : 100); round++) {
		struct arena arena = { .ctx = new_context(8) };
		struct participant destroyers[COUNT];
		int won = 0;

		for (int i = 0; i < COUNT; i++) {
			destroyers[i] = (struct participant){ .arena = &arena };
			worker_start(&destroyers[i].worker, destroy_once, &destroyers[i]);
		}
		for (int i = 0; i < COUNT; i++) {
			int result;

			worker_join(&destroyers[i].worker);
			result = atomic_load(&destroyers[i].last_result);
			ck_assert(result == 0 || result == -EINVAL);
			won += result == 0;
		}
		ck_assert_int_eq(won, 1);
	}
}

/* Each thread has contexts of its own, one after the other; none may meet another's events. */
static void live_in_own_contexts(void *argument)
{
	struct participant *self = argument;
	struct timespec seconds = { .tv_sec = EVENT_LIMIT_SECONDS };
	int zero = open_device("/dev/zero", O_RDONLY), rounds = on_reference() ? 5 : 150;
	char bytes[READ_BYTES];

	atomic_store(&self->last_result, 1);
	for (int round = 0; round < rounds; round++) {
		io_context_t ctx = NULL;
		struct io_event events[8];
		struct iocb iocb;

		if (io_setup(1 + round % 100, &ctx) != 0)
			atomic_store(&self->last_result, 0);
		io_prep_pread(&iocb, zero, bytes, sizeof(bytes), 0);
		iocb.data = self;
		for (int i = 0; i < 8; i++)
			if (submit_one(ctx, &iocb) != 1)
				atomic_store(&self->last_result, 0);
		if (io_getevents(ctx, 8, 8, events, &seconds) != 8)
			atomic_store(&self->last_result, 0);
		for (int i = 0; i < 8; i++)
			if (events[i].data != self || events[i].res != sizeof(bytes))
				atomic_store(&self->last_result, 0);
		if (io_destroy(ctx) != 0)
			atomic_store(&self->last_result, 0);
	}
	close(zero);
}

CASE(threads_with_contexts_of_their_own_do_not_meet)
{
	enum { COUNT = 4 };
	struct participant threads[COUNT];

	free_context(new_context(1));
	for (int i = 0; i < COUNT; i++) {
		threads[i] = (struct participant){ .number = i };
		worker_start(&threads[i].worker, live_in_own_contexts, &threads[i]);
	}
	for (int i = 0; i < COUNT; i++) {
		worker_join(&threads[i].worker);
		ck_assert_int_eq(atomic_load(&threads[i].last_result), 1);
	}
}

/*
 * A poll, a direct write, a sync, and (not for the reference) a cold buffered read, by a thread
 * that ends.
 */
struct leaving {
	struct worker worker;
	io_context_t ctx;
	int idle, fds[3], count;
	char *buffer;
	struct iocb *known[4];
};

static void submit_and_leave(void *argument)
{
	struct leaving *leaving = argument;
	struct iocb iocbs[4];

	io_prep_poll(&iocbs[0], leaving->idle, POLLIN);
	io_prep_pwrite(&iocbs[1], leaving->fds[0], leaving->buffer, DIRECT_BLOCK_BYTES, 0);
	io_prep_fsync(&iocbs[2], leaving->fds[1]);
	io_prep_pread(&iocbs[3], leaving->fds[2], leaving->buffer + DIRECT_BLOCK_BYTES,
		      DIRECT_BLOCK_BYTES, 0);
	for (long i = 0; i < leaving->count; i++) {
		iocbs[i].data = (void *)i;
		leaving->known[i] = &iocbs[i];
		expect_submitted(leaving->ctx, &iocbs[i], HERE);
	}
}

CASE(requests_outlive_the_thread_that_submitted_them)
{
	struct leaving leaving = { .count = on_reference() ? 3 : 4 };
	struct holdfs *fs = holdfs_mount(3, 1 << 20);
	static const long results[] = { POLLIN | POLLRDNORM, DIRECT_BLOCK_BYTES, 0,
					DIRECT_BLOCK_BYTES };
	int ends[2];

	if (!fs)
		SKIP("no FUSE here");
	make_pipe(ends, 0);
	leaving.ctx = new_context(8);
	leaving.idle = ends[0];
	leaving.buffer = aligned_buffer(2 * DIRECT_BLOCK_BYTES);
	memset(leaving.buffer, 'l', DIRECT_BLOCK_BYTES);
	leaving.fds[0] = holdfs_open(fs, 0, O_RDWR | O_DIRECT);
	leaving.fds[1] = holdfs_open(fs, 1, O_RDWR);
	leaving.fds[2] = holdfs_open(fs, 2, O_RDWR);
	holdfs_hold(fs, HOLDFS_ALL);
	worker_start(&leaving.worker, submit_and_leave, &leaving);
	worker_join(&leaving.worker);
	for (int i = 1; i < leaving.count; i++)
		holdfs_wait_arrived(fs, HOLDFS_ALL, (unsigned)i - 1);
	expect_no_event(leaving.ctx, HERE);
	holdfs_release_all(fs);
	ck_assert_int_eq(write(ends[1], "x", 1), 1);
	for (int i = 0; i < leaving.count; i++) {
		struct io_event event = take_event(leaving.ctx, HERE);
		long which = (long)event.data;

		ck_assert_ptr_eq(event.obj, leaving.known[which]);
		ck_assert_msg((long)event.res == results[which], "request %ld: %ld", which,
			      (long)event.res);
	}
	ck_assert_mem_eq(holdfs_medium(fs, 0), leaving.buffer, DIRECT_BLOCK_BYTES);
	free_context(leaving.ctx);
	for (int i = 0; i < 3; i++)
		close(leaving.fds[i]);
	close_pair(ends);
	free(leaving.buffer);
	holdfs_unmount(fs);
}

/*
 * Reads that miss the cache, while other threads take events all the time: if one of them comes
 * across the miss, the submitter is free to use descriptor, eventfd and vectors for something else
 * at once.
 */
struct greedy {
	struct worker worker;
	io_context_t ctx;
	_Atomic bool stop;
	_Atomic int taken;
	_Atomic long result;
};

static void take_greedily(void *argument)
{
	struct greedy *greedy = argument;
	struct timespec zero = { 0 };
	struct io_event event;

	while (!atomic_load(&greedy->stop)) {
		if (io_getevents(greedy->ctx, 0, 1, &event, &zero) != 1)
			continue;
		atomic_store(&greedy->result, (long)event.res);
		atomic_fetch_add(&greedy->taken, 1);
	}
}

CASE(a_miss_found_by_another_thread_is_of_the_file_of_the_call)
{
	enum { BYTES = 2048 };
	const int rounds = UNDER_THREAD_SANITIZER || is_emulated() ? 300 : 2000;
	struct greedy greedy = { .ctx = new_context(8) };
	int file = scratch_file(1 << 20), null = open_device("/dev/null", O_RDONLY);
	int counter = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int other = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), number = dup(file),
	    resfd = dup(counter);
	static char buffer[2 * BYTES];

	posix_fadvise(file, 0, 0, POSIX_FADV_RANDOM);
	worker_start(&greedy.worker, take_greedily, &greedy);
	for (int round = 0; round < rounds; round++) {
		struct iovec vectors[2] = { { buffer, BYTES }, { buffer + BYTES, BYTES } };
		off_t offset = round * 8192 % (1 << 20);
		struct iocb iocb;
		long result;

		posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
		ck_assert_int_eq(dup2(file, number), number);
		ck_assert_int_eq(dup2(counter, resfd), resfd);
		memset(buffer, 0, sizeof(buffer));
		io_prep_preadv(&iocb, number, vectors, 2, offset);
		io_set_eventfd(&iocb, resfd);
		expect_submitted(greedy.ctx, &iocb, HERE);
		memset(vectors, 0xff, sizeof(vectors));
		dup2(null, number);
		dup2(other, resfd);
		WAIT_UNTIL(atomic_load(&greedy.taken) == round + 1);
		result = atomic_load(&greedy.result);
		ck_assert_msg(result == sizeof(buffer), "round %d: %ld", round, result);
		expect_pattern(buffer, offset, sizeof(buffer), HERE);
		expect_count(counter, 1, HERE);
	}
	atomic_store(&greedy.stop, true);
	worker_join(&greedy.worker);
	ck_assert_uint_eq(take_count(other), 0);
	free_context_without_events(greedy.ctx, HERE);
	close(number);
	close(resfd);
	close(file);
	close(null);
	close(counter);
	close(other);
}

struct cancelled_waiter {
	pthread_t thread;
	io_context_t ctx;
	_Atomic pid_t tid;
	_Atomic int result;
};

static void *wait_and_be_cancelled(void *argument)
{
	struct cancelled_waiter *waiter = argument;
	struct io_event events[4];

	atomic_store(&waiter->tid, (pid_t)syscall(SYS_gettid));
	atomic_store(&waiter->result, io_getevents(waiter->ctx, 1, 4, events, NULL));
	pthread_testcancel();
	return NULL;
}

CASE(waiting_for_events_is_no_cancellation_point)
{
	struct cancelled_waiter waiter = { .ctx = new_context(8), .result = -1000 };
	int zero = open_device("/dev/zero", O_RDONLY);
	struct iocb iocb;
	void *value = NULL;
	char byte;

	ck_assert_int_eq(pthread_create(&waiter.thread, NULL, wait_and_be_cancelled, &waiter), 0);
	WAIT_UNTIL(task_is_blocked(atomic_load(&waiter.tid)));
	ck_assert_int_eq(pthread_cancel(waiter.thread), 0);
	/*
	 * The request to end interrupts the sleep like a signal; whether it ends the wait is open.
	 */
	io_prep_pread(&iocb, zero, &byte, 1, 0);
	expect_submitted(waiter.ctx, &iocb, HERE);
	ck_assert_int_eq(pthread_join(waiter.thread, &value), 0);
	ck_assert_ptr_eq(value, PTHREAD_CANCELED);
	ck_assert_int_ne(atomic_load(&waiter.result), -1000);
	if (atomic_load(&waiter.result) != 1) {
		ck_assert_int_eq(atomic_load(&waiter.result), -EINTR);
		expect_event(waiter.ctx, &iocb, 1, HERE);
	}
	free_context_without_events(waiter.ctx, HERE);
	close(zero);
}

/*
 * A handler that uses the library.  Where it has interrupted a call of its own thread at a bad
 * moment, it is told to come again; it never waits for its own thread, and no event is lost.
 */
static struct {
	io_context_t ctx;
	int zero;
	_Atomic int accepted;
	_Atomic int taken;
	_Atomic int runs;
	_Atomic int wrong;
} handler;

static void use_library_in_handler(int number)
{
	struct timespec zero = { 0 };
	struct io_event events[4];
	static char byte;
	struct iocb iocb;
	int result;

	(void)number;
	io_prep_pread(&iocb, handler.zero, &byte, 1, 0);
	result = submit_one(handler.ctx, &iocb);
	if (result == 1)
		atomic_fetch_add(&handler.accepted, 1);
	else if (result != -EAGAIN)
		atomic_store(&handler.wrong, result);
	result = io_getevents(handler.ctx, 0, 4, events, &zero);
	if (result >= 0)
		atomic_fetch_add(&handler.taken, result);
	else if (result != -EINTR)
		atomic_store(&handler.wrong, result);
	atomic_fetch_add(&handler.runs, 1);
}

static void use_library_and_be_interrupted(void *argument)
{
	_Atomic bool *stop = argument;
	struct timespec zero = { 0 };
	struct io_event events[8];
	static char byte;
	struct iocb iocb;

	io_prep_pread(&iocb, handler.zero, &byte, 1, 0);
	while (!atomic_load(stop)) {
		int result = submit_one(handler.ctx, &iocb);

		if (result == 1)
			atomic_fetch_add(&handler.accepted, 1);
		else if (result != -EAGAIN)
			atomic_store(&handler.wrong, result);
		result = io_getevents(handler.ctx, 0, 8, events, &zero);
		if (result >= 0)
			atomic_fetch_add(&handler.taken, result);
		else if (result != -EINTR)
			atomic_store(&handler.wrong, result);
	}
}

static void handler_start(void)
{
	struct sigaction action = { .sa_handler = use_library_in_handler };

	handler.ctx = new_context(64);
	handler.zero = open_device("/dev/zero", O_RDONLY);
	atomic_store(&handler.accepted, 0);
	atomic_store(&handler.taken, 0);
	atomic_store(&handler.runs, 0);
	atomic_store(&handler.wrong, 0);
	ck_assert_int_eq(sigaction(SIGUSR1, &action, NULL), 0);
}

static void handler_end(void)
{
	struct io_event events[64];
	int left;

	restore_signal(SIGUSR1);
	while (atomic_load(&handler.taken) < atomic_load(&handler.accepted) &&
	       (left = take_ended(handler.ctx, events, 64)) > 0)
		atomic_fetch_add(&handler.taken, left);
	ck_assert_int_eq(atomic_load(&handler.wrong), 0);
	ck_assert_int_eq(atomic_load(&handler.taken), atomic_load(&handler.accepted));
	free_context_without_events(handler.ctx, HERE);
	close(handler.zero);
}

CASE(a_signal_handler_may_submit_and_take_events)
{
	handler_start();
	for (int i = 0; i < 10; i++) {
		/* What the last one has submitted, this one takes, if that one was too early. */
		if (atomic_load(&handler.taken) < i)
			ck_assert_int_eq(io_queue_wait(handler.ctx, NULL), 0);
		ck_assert_int_eq(raise(SIGUSR1), 0);
		ck_assert_int_ge(atomic_load(&handler.taken), on_threads() ? i : i + 1);
	}
	ck_assert_int_eq(atomic_load(&handler.runs), 10);
	ck_assert_int_eq(atomic_load(&handler.accepted), 10);
	handler_end();
}

CASE(a_signal_handler_may_interrupt_the_library)
{
	_Atomic bool stop = false;
	struct worker worker;

	handler_start();
	worker_start(&worker, use_library_and_be_interrupted, &stop);
	for (int i = 0; i < 2000; i++) {
		int before = atomic_load(&handler.runs);

		ck_assert_int_eq(pthread_kill(worker.thread, SIGUSR1), 0);
		WAIT_UNTIL(atomic_load(&handler.runs) > before);
	}
	atomic_store(&stop, true);
	worker_join(&worker);
	handler_end();
}

static void wait_and_be_interrupted(void *argument)
{
	_Atomic bool *stop = argument;
	struct io_event events[8];

	while (!atomic_load(stop)) {
		int result = io_getevents(handler.ctx, 8, 8, events, NULL);

		if (result >= 0)
			atomic_fetch_add(&handler.taken, result);
		else if (result != -EINTR)
			atomic_store(&handler.wrong, result);
	}
}

CASE(a_signal_handler_may_interrupt_a_wait)
{
	_Atomic bool stop = false;
	struct worker worker;

	handler_start();
	worker_start(&worker, wait_and_be_interrupted, &stop);
	for (int i = 0; i < 200; i++) {
		int before = atomic_load(&handler.runs);

		if (i % 10 == 0)
			worker_wait_blocked(&worker);
		ck_assert_int_eq(pthread_kill(worker.thread, SIGUSR1), 0);
		/*
		 * ThreadSanitizer puts a handler off until the thread's next call that it knows;
		 * the wait is none, so a signal just before it would be put off for ever.
		 */
		WAIT_UNTIL(atomic_load(&handler.runs) > before ||
			   (UNDER_THREAD_SANITIZER && pthread_kill(worker.thread, SIGUSR1) != 0));
	}
	atomic_store(&stop, true);
	/* It may be about to sleep: until it has ended, every signal wakes it. */
	WAIT_UNTIL(worker_has_ended(&worker) || pthread_kill(worker.thread, SIGUSR1) != 0);
	worker_join(&worker);
	handler_end();
}

/*
 * The first request that the library carries out itself makes it start its threads, or its ring.  A
 * handler that submits one more in the middle of that must not wait for what its own thread does.
 *
 * Each attempt is a process of its own, since there is one first time in each.  The timer fires
 * many times from a moment that is another one each time, so that most of the way is interrupted.
 */
static struct {
	io_context_t ctx;
	timer_t timer;
	int reader;
	_Atomic int runs;
	_Atomic int accepted;
	_Atomic int wrong;
} beginning;

enum { BEGINNING_RUNS = 32, BEGINNING_ATTEMPTS = 30 };

static void note_answer(int result)
{
	if (result == 1)
		atomic_fetch_add(&beginning.accepted, 1);
	else if (result != -EAGAIN)
		atomic_store(&beginning.wrong, result);
}

static void submit_pipe_read(void)
{
	static char byte;
	struct iocb iocb;

	io_prep_pread(&iocb, beginning.reader, &byte, 1, 0);
	note_answer(submit_one(beginning.ctx, &iocb));
}

static void submit_in_handler(int number)
{
	const struct itimerspec never = { .it_value = { 0 } };
	io_context_t own = NULL;
	int result;

	(void)number;
	if (beginning.ctx) {
		submit_pipe_read();
	} else {
		/* Where the library does everything, it begins with that in the first io_setup. */
		result = io_setup(1, &own);
		if (result == 0)
			result = io_destroy(own);
		if (result != 0 && result != -EAGAIN)
			atomic_store(&beginning.wrong, result);
	}
	if (atomic_fetch_add(&beginning.runs, 1) == BEGINNING_RUNS)
		timer_settime(beginning.timer, 0, &never, NULL);
}

static void begin_and_be_interrupted(void *argument)
{
	struct sigaction action = { .sa_handler = submit_in_handler };
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1 };
	struct itimerspec soon = { .it_value.tv_nsec = 1 + *(int *)argument % 400 * 1000L,
				   .it_interval.tv_nsec = 30000 };
	const struct timespec limit = { .tv_sec = EVENT_LIMIT_SECONDS }, pause = { 0, 200000 };
	struct io_event events[BEGINNING_RUNS * 2 + 4];
	io_context_t ctx = NULL;
	struct timespec timeout = limit;
	char bytes[BEGINNING_RUNS * 2 + 4] = "";
	int ends[2], accepted;

	/* Check's own handler would end the whole case, without a word. */
	CHILD_CHECK(signal(SIGALRM, SIG_DFL) != SIG_ERR);
	alarm(EVENT_LIMIT_SECONDS);
	CHILD_CHECK(pipe2(ends, O_CLOEXEC) == 0);
	CHILD_CHECK(write(ends[1], bytes, sizeof(bytes)) == sizeof(bytes));
	beginning.reader = ends[0];
	CHILD_CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
	CHILD_CHECK(timer_create(CLOCK_MONOTONIC, &event, &beginning.timer) == 0);
	if (on_threads())
		CHILD_CHECK(timer_settime(beginning.timer, 0, &soon, NULL) == 0);
	CHILD_CHECK(io_setup(sizeof(events) / sizeof(events[0]), &ctx) == 0);
	beginning.ctx = ctx;
	if (!on_threads())
		CHILD_CHECK(timer_settime(beginning.timer, 0, &soon, NULL) == 0);
	submit_pipe_read();
	/* One that comes late, as they do under a sanitizer, is waited for. */
	while (atomic_load(&beginning.runs) <= BEGINNING_RUNS)
		nanosleep(&pause, NULL);
	CHILD_CHECK(atomic_load(&beginning.wrong) == 0);
	accepted = atomic_load(&beginning.accepted);
	CHILD_CHECK(accepted > 0);
	for (int taken = 0, result; taken < accepted; taken += result) {
		result = io_getevents(ctx, 1, accepted - taken, events, &timeout);
		CHILD_CHECK(result > 0);
		for (int i = 0; i < result; i++)
			CHILD_CHECK(events[i].res == 1);
	}
	timeout = (struct timespec){ 0 };
	CHILD_CHECK(io_getevents(ctx, 0, 1, events, &timeout) == 0);
	CHILD_CHECK(io_destroy(ctx) == 0);
}

CASE(a_signal_handler_may_interrupt_the_first_request_of_all)
{
	if (UNDER_THREAD_SANITIZER)
		SKIP("ThreadSanitizer does not work in a forked child");
	for (int attempt = 0; attempt < BEGINNING_ATTEMPTS; attempt++) {
		int microseconds = attempt * 53;

		expect_child_passes(begin_and_be_interrupted, &microseconds, HERE);
	}
	free_context(new_context(1));
}
