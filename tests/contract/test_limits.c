/* SPDX-License-Identifier: MIT */
/*
 * Goal: a limit that is reached between two calls changes nothing for what was accepted: it ends as
 * it would have, and its eventfd is signalled.  What comes afterwards is done as libaio does it;
 * EAGAIN is an answer only while something else is in flight, whose end a program can wait for.
 * And what a small program has to pay in memory is small.
 *
 * Method: programs of their own (alone.h) run into a limit at each stage of their life: no number
 * is left for a descriptor, because all are taken or because the limit was lowered below what is
 * open; no thread can be made; no memory is left.  Then every kind of request must work, one at a
 * time, with nothing else in flight; and what the disk, a pipe or nobody has kept from before must
 * end.  A read of an empty pipe may wait in io_submit then, as it does in libaio: the case sees
 * that from outside and writes into the pipe.
 */
#include "alone.h"

#include <dirent.h>

/*
 * Everything that can be asked, one after the other, at each stage.
 */

enum stage { BEFORE_SETUP, BEFORE_USE, AFTER_USE, STAGES };

#define SLEEPERS 3

struct trial {
	const char *path;
	enum way way;
	enum stage stage;
	int pipe[2];
};

static void prepare_actor(struct actor *actor, const struct trial *trial)
{
	*actor = (struct actor){ .ctx = NULL };
	actor_open(actor, trial->path, 3);
	close(actor->reader);
	close(actor->writer);
	actor->reader = trial->pipe[0];
	actor->writer = trial->pipe[1];
}

static void prepare_for_limit(struct actor *actor, const struct trial *trial)
{
	prepare_actor(actor, trial);
	if (trial->way == NO_THREADS)
		become_nobody();
}

static void everything_twice(struct actor *actor, const char *when)
{
	int counter = actor->counter;

	actor_does_everything(actor, when);
	actor->counter = -1;
	actor_does_everything(actor, when);
	actor->counter = counter;
}

static void wake(struct sleeper *sleepers, struct actor *actor)
{
	static struct iocb iocbs[SLEEPERS];

	alone_does("threads that sleep are woken");
	CHILD_CHECK(pread(actor->buffered, actor->data, 1, 0) == 1);
	for (int i = 0; i < SLEEPERS; i++) {
		if (i % 3 == 0) {
			io_prep_pread(&iocbs[i], actor->buffered, actor->data, 1, 0);
		} else if (i % 3 == 1) {
			io_prep_poll(&iocbs[i], actor->writer, POLLOUT);
		} else {
			CHILD_CHECK(write(actor->writer, "w", 1) == 1);
			io_prep_pread(&iocbs[i], actor->reader, actor->data, 1, 0);
		}
		alone_submit(actor->ctx, &iocbs[i], 1);
	}
	for (int i = 0; i < SLEEPERS; i++)
		CHILD_CHECK(sleeper_join(&sleepers[i]) == 1);
}

/*
 * An engine that needs what is not there may say so in io_setup; it is there once the limit
 * is not.  Kernel AIO needs nothing.
 */
static bool set_up_at(const struct trial *trial, io_context_t *ctx)
{
	int result;

	*ctx = NULL;
	result = io_setup(64, ctx);
	if (result == 0) {
		alone_proves_engine(*ctx);
		return true;
	}
	CHILD_CHECK_MSG(trial->stage == BEFORE_SETUP && on_threads() &&
				(result == -ENOSYS || result == -EAGAIN) && !*ctx,
			"io_setup: %d", result);
	lift(trial->way == NO_THREADS ? RLIMIT_NPROC : RLIMIT_NOFILE);
	alone_destroy(alone_context(64));
	return false;
}

static void live_with_a_limit(void *argument)
{
	const struct trial *trial = argument;
	struct sleeper sleepers[SLEEPERS];
	struct actor actor;

	prepare_for_limit(&actor, trial);
	if (trial->stage == BEFORE_SETUP)
		reach(trial->way);
	if (!set_up_at(trial, &actor.ctx))
		return;
	if (trial->stage == AFTER_USE)
		actor_does_everything(&actor, "at ease");
	if (trial->stage != BEFORE_SETUP) {
		for (int i = 0; i < SLEEPERS; i++)
			sleeper_start(&sleepers[i], actor.ctx);
		reach(trial->way);
		wake(sleepers, &actor);
	}
	if (trial->way != NO_THREADS) {
		for (int i = 0; i < SLEEPERS; i++)
			sleeper_start_unseen(&sleepers[i], actor.ctx);
		wake(sleepers, &actor);
	}
	actor.limited = true;
	everything_twice(&actor, way_names[trial->way]);
	alone_destroy(actor.ctx);
	actor.ctx = alone_context(64);
	everything_twice(&actor, "in a new context");
	alone_destroy(actor.ctx);
}

static void try_stage(enum stage stage)
{
	const char *path = actor_file();

	for (int way = 0; way < WAYS; way++) {
		struct trial trial = { path, (enum way)way, stage, { -1, -1 } };
		pid_t child;

		/* An engine that is named and has no threads cannot start. */
		if (on_threads() && stage == BEFORE_SETUP && way == NO_THREADS)
			continue;
		make_pipe(trial.pipe, 0);
		child = alone_start(live_with_a_limit, &trial);
		alone_expect_status(alone_feed(child, trial.pipe[1], way_names[way]),
				    way_names[way]);
		close_pair(trial.pipe);
	}
}

/* One kind of request is all that the library has done before: what others need is not there. */
struct narrow_trial {
	struct trial trial;
	size_t kind;
	bool with_counter;
};

static void live_with_a_limit_after_one_kind(void *argument)
{
	const struct narrow_trial *narrow = argument;
	const struct trial *trial = &narrow->trial;
	struct actor actor;
	int counter;

	prepare_for_limit(&actor, trial);
	counter = actor.counter;
	actor.ctx = alone_context(64);
	alone_takes_without_sleep = true;
	if (!narrow->with_counter)
		actor.counter = -1;
	actor_does(&actor, narrow->kind, "at ease");
	alone_takes_without_sleep = false;
	reach(trial->way);
	actor.counter = counter;
	actor.limited = true;
	everything_twice(&actor, actor_kinds[narrow->kind].name);
	alone_destroy(actor.ctx);
}

static void try_narrow(enum way way, bool with_counter)
{
	const char *path = actor_file();

	for (size_t kind = 0; kind < ACTOR_KINDS; kind++) {
		struct narrow_trial narrow = { { path, way, AFTER_USE, { -1, -1 } },
					       kind,
					       with_counter };
		char what[128];
		pid_t child;

		snprintf(what, sizeof(what), "%s after %s", way_names[way], actor_kinds[kind].name);
		make_pipe(narrow.trial.pipe, 0);
		child = alone_start(live_with_a_limit_after_one_kind, &narrow);
		alone_expect_status(alone_feed(child, narrow.trial.pipe[1], what), what);
		close_pair(narrow.trial.pipe);
	}
}

CASE(descriptors_used_up_after_one_kind_of_request_change_nothing)
{
	NEEDS_A_PROCESS_OF_ITS_OWN();
	try_narrow(ALL_TAKEN, false);
	try_narrow(ALL_TAKEN, true);
}

CASE(a_lower_limit_of_descriptors_after_one_kind_of_request_changes_nothing)
{
	NEEDS_A_PROCESS_OF_ITS_OWN();
	try_narrow(LOWERED_TO_3, false);
	try_narrow(LOWERED_TO_1, true);
	try_narrow(LOWERED_TO_0, true);
}

CASE(threads_used_up_after_one_kind_of_request_change_nothing)
{
	NEEDS_A_PROCESS_OF_ITS_OWN();
	try_narrow(NO_THREADS, false);
	try_narrow(NO_THREADS, true);
}

CASE(a_limit_reached_before_io_setup_changes_nothing)
{
	NEEDS_A_PROCESS_OF_ITS_OWN();
	try_stage(BEFORE_SETUP);
}

CASE(a_limit_reached_before_the_first_request_changes_nothing)
{
	NEEDS_A_PROCESS_OF_ITS_OWN();
	try_stage(BEFORE_USE);
}

CASE(a_limit_reached_after_use_changes_nothing)
{
	NEEDS_A_PROCESS_OF_ITS_OWN();
	try_stage(AFTER_USE);
}

/*
 * What was accepted before.
 */

struct last_flight {
	struct flight flight;
	const char *path;
	enum way way;
	bool used; /* the library has done everything before */
	bool late; /* the requests come at the limit, not before it */
	bool destroyed; /* io_destroy comes before anything has landed */
};

/* Sleepers of another context are in nobody's way. */
static void limit_in_flight(void *argument)
{
	struct last_flight *last = argument;
	struct sleeper sleepers[SLEEPERS];
	struct trial trial = { last->path, last->way, AFTER_USE, { -1, -1 } };
	struct actor actor;
	io_context_t ctx;

	CHILD_CHECK(pipe2(trial.pipe, O_CLOEXEC) == 0);
	flight_opens_files(&last->flight);
	prepare_for_limit(&actor, &trial);
	actor.ctx = alone_context(64);
	ctx = alone_context(64);
	if (last->used)
		actor_does_everything(&actor, "at ease");
	if (!last->late)
		flight_takes_off(&last->flight, ctx, false);
	for (int i = 0; i < SLEEPERS && last->used; i++)
		sleeper_start(&sleepers[i], actor.ctx);
	reach(last->way);
	if (last->late)
		flight_takes_off(&last->flight, ctx, true);
	alone_say(1);
	if (!last->destroyed)
		flight_lands(&last->flight, ctx);
	alone_does("%s: io_destroy", way_names[last->way]);
	alone_destroy(ctx);
	if (last->used)
		wake(sleepers, &actor);
	alone_destroy(actor.ctx);
}

/* What is done as libaio does it may wait in io_submit. */
static void hear_or_see_blocked(pid_t child, const char *what)
{
	long long end_ns = alone_end_ns();
	siginfo_t end = { .si_pid = 0 };

	while (atomic_load(&alone->said) < 1 && end.si_pid == 0) {
		pid_t submitter = atomic_load(&alone->submitter);

		if (submitter && task_is_blocked(submitter))
			return;
		if (monotonic_ns() > end_ns)
			alone_abort(child, what);
		ck_assert_int_eq(waitid(P_PID, (id_t)child, &end, WEXITED | WNOHANG | WNOWAIT), 0);
		contract_pause();
	}
}

static void try_flight(struct last_flight *last)
{
	char what[128];
	pid_t child;

	snprintf(what, sizeof(what), "%s, %s, requests %s, %s", way_names[last->way],
		 last->used ? "used" : "unused", last->late ? "after that" : "before that",
		 last->destroyed ? "destroyed" : "taken");
	ck_assert(flight_open(&last->flight));
	child = alone_start(limit_in_flight, last);
	if (last->late)
		hear_or_see_blocked(child, what);
	else
		alone_hear(child, 1, what);
	if (last->destroyed)
		holdfs_release_all(last->flight.fs);
	else
		flight_is_let_go(&last->flight);
	alone_expect_pass(child, what);
	flight_close(&last->flight, what);
}

static void try_flights(bool late, bool destroyed)
{
	const char *path = actor_file();

	for (int way = 0; way < WAYS; way++)
		for (int used = 0; used < 2; used++) {
			static struct last_flight last;

			last = (struct last_flight){ .path = path,
						     .way = (enum way)way,
						     .used = used,
						     .late = late,
						     .destroyed = destroyed };
			try_flight(&last);
		}
}

#define NEEDS_FUSE()                                                                               \
	do {                                                                                       \
		struct flight flight;                                                              \
		FLIGHT_OPEN(&flight);                                                              \
		flight_free(&flight);                                                              \
	} while (0)

CASE(what_was_accepted_before_a_limit_was_reached_ends)
{
	NEEDS_A_PROCESS_OF_ITS_OWN();
	NEEDS_FUSE();
	try_flights(false, false);
}

/* The poll and the read of the pipe are cancelled: nobody would end them. */
CASE(io_destroy_ends_what_was_accepted_before_a_limit_was_reached)
{
	NEEDS_A_PROCESS_OF_ITS_OWN();
	NEEDS_FUSE();
	try_flights(false, true);
}

CASE(what_is_accepted_at_a_limit_ends)
{
	NEEDS_A_PROCESS_OF_ITS_OWN();
	NEEDS_FUSE();
	try_flights(true, false);
}

/* The other order: threads sleep, and the program destroys the context under them. */
static void destroy_under_sleepers(void *argument)
{
	const struct trial *trial = argument;
	struct sleeper sleepers[SLEEPERS];
	struct actor actor;

	prepare_for_limit(&actor, trial);
	actor.ctx = alone_context(64);
	actor_does_everything(&actor, "at ease");
	for (int i = 0; i < SLEEPERS; i++)
		sleeper_start(&sleepers[i], actor.ctx);
	reach(trial->way);
	alone_does("%s: io_destroy wakes", way_names[trial->way]);
	alone_destroy(actor.ctx);
	for (int i = 0; i < SLEEPERS; i++)
		CHILD_CHECK(sleeper_join(&sleepers[i]) == -EINVAL);
}

CASE(io_destroy_wakes_all_at_a_limit)
{
	const char *path = actor_file();

	NEEDS_A_PROCESS_OF_ITS_OWN();
	for (int way = 0; way < WAYS; way++) {
		struct trial trial = { path, (enum way)way, AFTER_USE, { -1, -1 } };

		make_pipe(trial.pipe, 0);
		run_alone(destroy_under_sleepers, &trial, way_names[way]);
		close_pair(trial.pipe);
	}
}

/* A limit that nobody can lift again: no descriptor is made any more. */
static void sleep_without_descriptors(void *argument)
{
	const struct trial *trial = argument;
	const struct rlimit none = { 0, 0 };
	struct sleeper sleeper;
	struct actor actor;
	struct iocb iocb;

	prepare_actor(&actor, trial);
	actor.ctx = alone_context(64);
	become_nobody();
	CHILD_CHECK(setrlimit(RLIMIT_NOFILE, &none) == 0);
	for (int i = 0; i < 3; i++) {
		CHILD_CHECK(pread(actor.buffered, actor.data, 1, 0) == 1);
		sleeper_start_unseen(&sleeper, actor.ctx);
		io_prep_pread(&iocb, actor.buffered, actor.data, 1, 0);
		alone_submit(actor.ctx, &iocb, 1);
		CHILD_CHECK(sleeper_join(&sleeper) == 1);
	}
	alone_destroy(actor.ctx);
}

CASE(who_sleeps_is_woken_where_no_descriptor_can_be_made)
{
	struct trial trial = { actor_file(), ALL_TAKEN, AFTER_USE, { -1, -1 } };

	NEEDS_A_PROCESS_OF_ITS_OWN();
	make_pipe(trial.pipe, 0);
	run_alone(sleep_without_descriptors, &trial, HERE);
	close_pair(trial.pipe);
}

/*
 * The same limit once something is accepted, as a sandbox has it: no file gets a number any more.
 */

static void forbid_descriptors(void)
{
	CHILD_CHECK(setrlimit(RLIMIT_NOFILE, &(struct rlimit){ 0, 0 }) == 0);
}

static void flight_sends(struct flight *flight, io_context_t ctx, enum flying flying)
{
	flight_prepares(flight, flying);
	alone_submit(ctx, &flight->iocbs[flying], 1);
	atomic_fetch_or(&alone->flown, 1u << flying);
}

/* The only worker is busy, so that nobody takes in the eventfd of the second read in time. */
static void signal_without_descriptors(void *argument)
{
	struct flight *flight = argument;
	struct iocb first;
	io_context_t ctx;

	CHILD_CHECK(setenv("TRUEAIO_THREADS", "1", 1) == 0);
	ctx = alone_context(8);
	flight_opens_files(flight);
	io_prep_pread(&first, flight->buffered, read_blocks[64], BLOCK_BYTES, 64L * BLOCK_BYTES);
	alone_submit(ctx, &first, 1);
	alone_say(1);
	alone_listen(1);
	flight_sends(flight, ctx, COLD_DISK_READ);
	forbid_descriptors();
	alone_say(2);
	alone_expect_event(ctx, &first, BLOCK_BYTES);
	flight_lands(flight, ctx);
	alone_destroy(ctx);
}

CASE(an_eventfd_is_signalled_where_no_descriptor_can_be_had_any_more)
{
	struct flight flight;
	pid_t child;

	NEEDS_A_PROCESS_OF_ITS_OWN();
	SKIP_ON_REFERENCE("a cold read holds io_submit");
	FLIGHT_OPEN(&flight);
	child = alone_start(signal_without_descriptors, &flight);
	alone_hear(child, 1, HERE);
	holdfs_wait_arrived(flight.fs, HOLDFS_READ, 0);
	alone_tell(1);
	alone_hear(child, 2, HERE);
	holdfs_release_all(flight.fs);
	alone_expect_pass(child, HERE);
	flight_close(&flight, HERE);
}

/*
 * With something else in flight EAGAIN is an answer, and never a wait for a peer; once nothing is,
 * the same request is accepted.
 */

#define CROWD 100

struct crowd {
	int pipes[CROWD][2];
	struct iocb iocbs[CROWD];
	bool accepted[CROWD];
	int counter;
	char bytes[CROWD];
};

static int crowd_submits(struct crowd *crowd, io_context_t ctx)
{
	int count = 0;

	for (int i = 0; i < CROWD; i++) {
		int result;

		alone_does("read %d of a crowd is submitted", i);
		io_prep_pread(&crowd->iocbs[i], crowd->pipes[i][0], &crowd->bytes[i], 1, 0);
		io_set_eventfd(&crowd->iocbs[i], crowd->counter);
		result = submit_one(ctx, &crowd->iocbs[i]);
		CHILD_CHECK_MSG(result == 1 || result == -EAGAIN, "io_submit: %d", result);
		crowd->accepted[i] = result == 1;
		count += crowd->accepted[i];
	}
	return count;
}

static void crowd_at_a_limit(void *argument)
{
	static struct crowd crowd;
	const struct trial *trial = argument;
	struct iocb poll_iocb;
	struct actor actor;
	int count;

	set_soft_limit(RLIMIT_NOFILE, 2 * CROWD + 60);
	for (int i = 0; i < CROWD; i++)
		CHILD_CHECK(pipe2(crowd.pipes[i], O_CLOEXEC) == 0);
	crowd.counter = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	prepare_for_limit(&actor, trial);
	actor.ctx = alone_context(2 * CROWD);
	if (trial->stage == AFTER_USE)
		actor_does_everything(&actor, "at ease");
	io_prep_poll(&poll_iocb, actor.reader, POLLIN);
	alone_submit(actor.ctx, &poll_iocb, 1);
	if (trial->way == ALL_TAKEN)
		while (dup(STDERR_FILENO) >= 0)
			;
	else
		reach(trial->way);
	count = crowd_submits(&crowd, actor.ctx);
	for (int i = 0; i < CROWD; i++)
		CHILD_CHECK(write(crowd.pipes[i][1], "c", 1) == 1);
	alone_does("%d of a crowd end", count);
	for (int i = 0; i < count; i++)
		CHILD_CHECK((long)alone_event(actor.ctx).res == 1);
	alone_expect_count(crowd.counter, (uint64_t)count);
	CHILD_CHECK(write(actor.writer, "p", 1) == 1);
	alone_expect_event(actor.ctx, &poll_iocb, POLLIN | POLLRDNORM);
	CHILD_CHECK(read(actor.reader, actor.data, 1) == 1);
	for (int i = 0; i < CROWD; i++) {
		alone_does("read %d, which was refused, is accepted with nothing in flight", i);
		if (crowd.accepted[i])
			continue;
		alone_submit(actor.ctx, &crowd.iocbs[i], 1);
		alone_expect_event(actor.ctx, &crowd.iocbs[i], 1);
		alone_expect_count(crowd.counter, 1);
	}
	for (int i = 0; i < CROWD; i++)
		CHILD_CHECK(crowd.bytes[i] == 'c');
	alone_destroy(actor.ctx);
}

CASE(a_request_is_refused_only_while_another_is_in_flight)
{
	const char *path = actor_file();

	NEEDS_A_PROCESS_OF_ITS_OWN();
	SKIP_ON_REFERENCE("a pipe holds io_submit");
	for (int way = 0; way < WAYS; way++)
		for (int stage = BEFORE_USE; stage <= AFTER_USE; stage++) {
			struct trial trial = { path, (enum way)way, (enum stage)stage, { -1, -1 } };

			make_pipe(trial.pipe, 0);
			run_alone(crowd_at_a_limit, &trial, way_names[way]);
			close_pair(trial.pipe);
		}
}

/*
 * Memory.
 */

static long status_of_process(const char *field)
{
	char line[256];
	long value = -1;
	FILE *status = fopen("/proc/self/status", "re");
	size_t length = strlen(field);

	CHILD_CHECK(status != NULL);
	while (fgets(line, sizeof(line), status))
		if (strncmp(line, field, length) == 0 && line[length] == ':')
			value = strtol(line + length + 1, NULL, 10);
	fclose(status);
	CHILD_CHECK(value >= 0);
	return value;
}

static int count_lines(const char *path)
{
	FILE *file = fopen(path, "re");
	int count = 0, byte;

	CHILD_CHECK(file != NULL);
	while ((byte = getc(file)) != EOF)
		count += byte == '\n';
	fclose(file);
	return count;
}

static int count_descriptors(void)
{
	DIR *directory = opendir("/proc/self/fd");
	int count = 0;

	CHILD_CHECK(directory != NULL);
	while (readdir(directory))
		count++;
	closedir(directory);
	return count;
}

struct room {
	const char *path;
	long kibibytes; /* that are left */
	int pipe[2];
};

struct state {
	int maps, descriptors;
	long threads, kibibytes;
};

static struct state look_at_state(void)
{
	return (struct state){ count_lines("/proc/self/maps"), count_descriptors(),
			       status_of_process("Threads"), status_of_process("VmSize") };
}

static int set_up_in(long kibibytes, io_context_t *ctx)
{
	rlim_t bytes = (rlim_t)(status_of_process("VmSize") + kibibytes) * 1024;
	int result;

	set_soft_limit(RLIMIT_AS, bytes);
	*ctx = NULL;
	result = io_setup(64, ctx);
	CHILD_CHECK_MSG(result == 0 || result == -ENOMEM || result == -EAGAIN, "io_setup: %d",
			result);
	CHILD_CHECK((result == 0) == (*ctx != NULL));
	return result;
}

/*
 * The first failure may leave what is made once, so that the second try is none; further ones leave
 * nothing.
 */
static void fail_again_and_again(long kibibytes)
{
	struct state first = { .maps = 0 }, last;
	io_context_t ctx;

	for (int i = 0; i < 50; i++) {
		int result = set_up_in(kibibytes, &ctx);

		lift(RLIMIT_AS);
		if (result == 0)
			alone_destroy(ctx);
		if (result == 0)
			return;
		if (i == 1)
			first = look_at_state();
	}
	last = look_at_state();
	CHILD_CHECK_MSG(last.maps <= first.maps && last.descriptors == first.descriptors &&
				last.threads == first.threads && last.kibibytes <= first.kibibytes,
			"%d, %d mappings, %d, %d descriptors, %ld, %ld threads, %ld, %ld KiB",
			first.maps, last.maps, first.descriptors, last.descriptors, first.threads,
			last.threads, first.kibibytes, last.kibibytes);
}

static void live_in_little_room(void *argument)
{
	const struct room *room = argument;
	struct trial trial = { .path = room->path, .pipe = { room->pipe[0], room->pipe[1] } };
	struct actor actor;
	char when[64];

	prepare_actor(&actor, &trial);
	snprintf(when, sizeof(when), "with %ld KiB left", room->kibibytes);
	alone_does("%s: io_setup", when);
	actor.limited = true;
	if (set_up_in(room->kibibytes, &actor.ctx) != 0) {
		lift(RLIMIT_AS);
		fail_again_and_again(room->kibibytes);
		actor.ctx = alone_context(64);
	}
	everything_twice(&actor, when);
	lift(RLIMIT_AS);
	actor_does_everything(&actor, "with the limit taken away");
	alone_destroy(actor.ctx);
	alone_destroy(alone_context(64));
}

/* From none to more than anything needs. */
CASE(with_little_memory_io_setup_works_or_fails_and_leaks_nothing)
{
	const char *path = actor_file();

	NEEDS_A_PROCESS_OF_ITS_OWN();
	if (UNDER_ADDRESS_SANITIZER)
		SKIP("AddressSanitizer needs memory of its own");
	if (on_threads())
		SKIP("an engine that is named and has no room for its threads cannot start");
	for (long kibibytes = 0; kibibytes <= 32768; kibibytes = kibibytes ? 2 * kibibytes : 4) {
		struct room room = { path, kibibytes, { -1, -1 } };
		char what[64];
		pid_t child;

		snprintf(what, sizeof(what), "%ld KiB left", kibibytes);
		make_pipe(room.pipe, 0);
		child = alone_start(live_in_little_room, &room);
		alone_expect_status(alone_feed(child, room.pipe[1], what), what);
		close_pair(room.pipe);
	}
}

/* The first request that the threads get: it is refused, or ends well. */
static void write_without_memory(void *argument)
{
	static char block[BLOCK_BYTES];
	const struct room *room = argument;
	io_context_t ctx = alone_context(8);
	int file = open(room->path, O_RDWR | O_DSYNC | O_CLOEXEC), result;
	struct iocb iocb;

	CHILD_CHECK(file >= 0);
	io_prep_pwrite(&iocb, file, block, BLOCK_BYTES, 0);
	for (long i = 0; i < room->kibibytes / 4; i++)
		alone_context(1);
	set_soft_limit(RLIMIT_AS, 1);
	alone_does("a write with %ld KiB less", room->kibibytes);
	result = submit_one(ctx, &iocb);
	CHILD_CHECK_MSG(result == 1 || result == -EAGAIN, "io_submit: %d", result);
	if (result == 1)
		alone_expect_event(ctx, &iocb, BLOCK_BYTES);
	alone_destroy(ctx);
}

/* Whatever is left of the memory that the library has already. */
CASE(what_is_accepted_needs_no_memory)
{
	struct room room = { .path = actor_file() };

	NEEDS_A_PROCESS_OF_ITS_OWN();
	if (UNDER_ADDRESS_SANITIZER)
		SKIP("AddressSanitizer needs memory of its own");
	for (room.kibibytes = 0; room.kibibytes <= 64; room.kibibytes += 4)
		run_alone(write_without_memory, &room, HERE);
}

static void refuse_call(unsigned number, int error)
{
	CHILD_CHECK(refuse_system_call(number, error, SECCOMP_FILTER_FLAG_TSYNC));
}

/*
 * fs.aio-max-nr is used up between two io_setups: the second context is without kernel AIO, and an
 * fsync there waits for what is in flight in the first one, which nobody looks at.
 */

static void synchronize_on_the_other_engine(void *argument)
{
	struct flight *flight = argument;
	engine_function *engine_of = find_engine_function();
	io_context_t first = NULL, second = NULL;
	struct iocb sync;

	flight_opens_files(flight);
	unsetenv("TRUEAIO_ENGINE");
	CHILD_CHECK(io_setup(8, &first) == 0);
	refuse_call(SYS_io_setup, EAGAIN);
	CHILD_CHECK(io_setup(8, &second) == 0);
	CHILD_CHECK(strcmp(engine_of(first), "native") == 0);
	CHILD_CHECK(strcmp(engine_of(second), "threads") == 0);
	atomic_store(&alone->proved, true);
	flight_prepares(flight, DISK_READ);
	alone_submit(first, &flight->iocbs[DISK_READ], 1);
	io_prep_fsync(&sync, flight->direct);
	alone_submit(second, &sync, 1);
	alone_say(1);
	alone_expect_event(second, &sync, 0);
	alone_expect_event(first, &flight->iocbs[DISK_READ], BLOCK_BYTES);
	alone_destroy(second);
	alone_destroy(first);
}

CASE(an_fsync_on_threads_waits_for_kernel_aio_and_ends)
{
	struct flight flight;
	pid_t child;

	NEEDS_A_PROCESS_OF_ITS_OWN();
	SKIP_ON_REFERENCE("it has one engine");
	if (on_threads())
		SKIP("kernel AIO is what the first context is to have");
	FLIGHT_OPEN(&flight);
	child = alone_start(synchronize_on_the_other_engine, &flight);
	alone_hear(child, 1, HERE);
	holdfs_release_all(flight.fs);
	alone_expect_pass(child, HERE);
	flight_free(&flight);
}

/* Memory that is locked: a daemon's (multipathd, sanlock, corosync), under a small limit. */
#define LOCK_ROOM_KIBIBYTES 2048
#define LOCK_ALLOWED_KIBIBYTES 256
/* What comes with the first context, stacks of threads for one; and a ring for 240 CPUs. */
#define FIRST_KIBIBYTES 160
#define FIRST_WITH_THREADS_KIBIBYTES 512
#define CONTEXT_KIBIBYTES 64

static void lock_all_memory(void *argument)
{
	static char bytes[4096];
	const struct room *room = argument;
	io_context_t ctx[2] = { NULL, NULL };
	int file = open(room->path, O_RDWR | O_CLOEXEC);
	long before, one, two, after;
	struct rlimit limit;
	struct iocb iocb;
	bool is_limited;

	/* Counts, although nothing is in it. */
	munmap(contract_arena, CONTRACT_ARENA_BYTES);
	CHILD_CHECK(file >= 0);
	CHILD_CHECK_MSG(mlockall(MCL_CURRENT | MCL_FUTURE) == 0, "mlockall: %s", strerror(errno));
	before = status_of_process("VmLck");
	CHILD_CHECK(getrlimit(RLIMIT_MEMLOCK, &limit) == 0);
	limit.rlim_cur = ((rlim_t)before + LOCK_ROOM_KIBIBYTES) * 1024;
	/* A sanitizer may have locked more than is allowed to anybody but root. */
	is_limited = limit.rlim_cur <= limit.rlim_max;
	if (is_limited) {
		CHILD_CHECK(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
		become_nobody();
	}
	alone_does("%ld KiB are locked; io_setup", before);
	ctx[0] = alone_context(128);
	one = status_of_process("VmLck");
	ctx[1] = alone_context(128);
	two = status_of_process("VmLck");
	CHILD_CHECK_MSG(!is_limited || one - before <= (on_threads() ? FIRST_WITH_THREADS_KIBIBYTES
								     : FIRST_KIBIBYTES),
			"KiB locked: %ld, with one context %ld", before, one);
	CHILD_CHECK_MSG(two - one <= CONTEXT_KIBIBYTES, "a context locks %ld KiB", two - one);
	memset(bytes, pattern_at(0), sizeof(bytes));
	alone_does("%ld, %ld, %ld KiB are locked; a buffered write", before, one, two);
	io_prep_pwrite(&iocb, file, bytes, sizeof(bytes), 0);
	alone_submit(ctx[0], &iocb, 1);
	alone_expect_event(ctx[0], &iocb, sizeof(bytes));
	alone_does("%ld, %ld, %ld KiB are locked; a read of a pipe", before, one, two);
	CHILD_CHECK(write(room->pipe[1], "x", 1) == 1);
	io_prep_pread(&iocb, room->pipe[0], bytes, 1, 0);
	alone_submit(ctx[0], &iocb, 1);
	alone_expect_event(ctx[0], &iocb, 1);
	after = status_of_process("VmLck");
	/* Without a limit malloc reserves 64 MiB for a thread, which count and are not there. */
	CHILD_CHECK_MSG(!is_limited || after - two <= LOCK_ALLOWED_KIBIBYTES,
			"KiB locked: %ld, with one context %ld, with two %ld, after work %ld",
			before, one, two, after);
	alone_destroy(ctx[0]);
	alone_destroy(ctx[1]);
}

CASE(a_program_that_locks_its_memory_pays_little)
{
	struct room room = { .path = actor_file() };

	NEEDS_A_PROCESS_OF_ITS_OWN();
	if (UNDER_ADDRESS_SANITIZER)
		SKIP("AddressSanitizer needs memory of its own");
	make_pipe(room.pipe, 0);
	run_alone(lock_all_memory, &room, HERE);
	close_pair(room.pipe);
}

/*
 * io_cancel(2) refused, as by gVisor or a filter: what waits for ever is ended by io_destroy all
 * the same.
 */

struct refused {
	int error;
	bool late; /* the filter comes when the library's threads are there */
	struct flight flight;
	const char *path;
	bool only[FLYING];
	int pipe[2];
};

/* Answered as the kernel answers, or done without it, or the request is said to go on. */
static void cancel_one(struct actor *actor, int error)
{
	struct io_event event;
	struct iocb iocb;
	char byte;
	int result;

	alone_does("a poll is cancelled with io_cancel refused");
	io_prep_poll(&iocb, actor->reader, POLLIN);
	actor_submits(actor, &iocb, 1);
	/* Without kernel AIO only the library is asked, once it waits for the pipe. */
	if (on_threads())
		CHILD_WAIT_UNTIL((result = io_cancel(actor->ctx, &iocb, &event)) != -EAGAIN);
	else
		result = io_cancel(actor->ctx, &iocb, &event);
	CHILD_CHECK_MSG(result == -EINPROGRESS ||
				(!on_threads() && (result == -error || result == -EAGAIN)),
			"io_cancel: %d", result);
	CHILD_CHECK(write(actor->writer, "p", 1) == 1);
	alone_expect_event(actor->ctx, &iocb, result == -EINPROGRESS ? 0 : POLLIN | POLLRDNORM);
	actor_is_signalled(actor, 1);
	CHILD_CHECK(read(actor->reader, &byte, 1) == 1);
}

static void destroy_without_cancel(void *argument)
{
	struct refused *refused = argument;
	struct trial trial = { .path = refused->path,
			       .pipe = { refused->pipe[0], refused->pipe[1] } };
	struct actor actor;

	if (!refused->late)
		refuse_call(SYS_io_cancel, refused->error);
	flight_opens_files(&refused->flight);
	prepare_actor(&actor, &trial);
	actor.ctx = alone_context(64);
	if (refused->late) {
		actor_does_everything(&actor, "at ease");
		refuse_call(SYS_io_cancel, refused->error);
	}
	cancel_one(&actor, refused->error);
	for (int i = 0; i < FLYING; i++) {
		struct iocb *iocb = &refused->flight.iocbs[i];

		if (!refused->only[i] || !can_fly((enum flying)i))
			continue;
		flight_prepares(&refused->flight, (enum flying)i);
		alone_does("%s is submitted", flying_names[i]);
		alone_submit(actor.ctx, iocb, 1);
	}
	alone_say(1);
	alone_does("io_destroy with io_cancel refused");
	alone_destroy(actor.ctx);
	alone_say(2);
}

static void try_refused(enum flying first, enum flying second, int error, bool late,
			const char *path)
{
	static struct refused refused;
	char what[128];
	pid_t child;

	refused = (struct refused){ .error = error, .late = late, .path = path };
	refused.only[first] = refused.only[second] = true;
	snprintf(what, sizeof(what), "%s, %s, %s, %s", flying_names[first], flying_names[second],
		 strerrorname_np(error), late ? "late" : "from the beginning");
	make_pipe(refused.pipe, 0);
	ck_assert(flight_open(&refused.flight));
	child = alone_start(destroy_without_cancel, &refused);
	alone_hear(child, 1, what);
	holdfs_release_all(refused.flight.fs);
	alone_expect_pass(child, what);
	for (int i = 0; i < FLYING; i++) {
		uint64_t expected = refused.only[i] && can_fly((enum flying)i);

		if (expected)
			expect_count(refused.flight.counters[i], 1, what);
		ck_assert_uint_eq(take_count(refused.flight.counters[i]), 0);
	}
	close_pair(refused.pipe);
	flight_free(&refused.flight);
}

CASE(io_destroy_ends_where_io_cancel_is_refused)
{
	static const enum flying pairs[][2] = { { WAITING_POLL, WAITING_POLL },
						{ WAITING_READ, WAITING_READ },
						{ WAITING_POLL, WAITING_READ },
						{ DISK_READ, HELD_SYNC },
						{ WAITING_POLL, COLD_DISK_READ } };
	const char *path = actor_file();

	NEEDS_A_PROCESS_OF_ITS_OWN();
	NEEDS_FUSE();
	for (unsigned i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++)
		for (int late = 0; late < 2; late++)
			for (int error = 0; error < 2; error++)
				try_refused(pairs[i][0], pairs[i][1], error ? ENOSYS : EPERM, late,
					    path);
}

/*
 * Other calls refused: what is asked of the library is done without them, and the refusal is no
 * answer to the program.
 */

struct sandbox {
	const char *path;
	const char *name;
	unsigned number;
	bool may_come_late; /* the library learns it when its threads are there */
	bool has_no_flags; /* of a request: kernel AIO alone would know them */
	int error;
	bool late;
	int pipe[2];
};

/* An error of its own is told all the same. */
static void write_to_sealed_file(struct actor *actor)
{
	int sealed = memfd_create("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	struct iocb iocb;

	CHILD_CHECK(ftruncate(sealed, BLOCK_BYTES) == 0);
	CHILD_CHECK(fcntl(sealed, F_ADD_SEALS, F_SEAL_WRITE) == 0);
	alone_does("a sealed file is written");
	io_prep_pwrite(&iocb, sealed, actor->data, BLOCK_BYTES, 0);
	actor_expects(actor, &iocb, -EPERM);
	close(sealed);
}

static void act_in_sandbox(void *argument)
{
	const struct sandbox *sandbox = argument;
	struct trial trial = { .path = sandbox->path,
			       .pipe = { sandbox->pipe[0], sandbox->pipe[1] } };
	struct actor actor;

	alone_has_no_flags = sandbox->has_no_flags;
	prepare_actor(&actor, &trial);
	if (!sandbox->late)
		refuse_call(sandbox->number, sandbox->error);
	actor.ctx = alone_context(64);
	if (sandbox->late) {
		actor_does_everything(&actor, "at ease");
		refuse_call(sandbox->number, sandbox->error);
	}
	actor.limited = true;
	everything_twice(&actor, sandbox->name);
	write_to_sealed_file(&actor);
	alone_destroy(actor.ctx);
}

static void try_sandbox(struct sandbox sandbox)
{
	char what[128];
	pid_t child;

	snprintf(what, sizeof(what), "%s: %s, %s", sandbox.name, strerrorname_np(sandbox.error),
		 sandbox.late ? "late" : "from the beginning");
	make_pipe(sandbox.pipe, 0);
	child = alone_start(act_in_sandbox, &sandbox);
	alone_expect_status(alone_feed(child, sandbox.pipe[1], what), what);
	close_pair(sandbox.pipe);
}

CASE(a_call_that_a_sandbox_refuses_is_done_without)
{
	static const struct sandbox rows[] = {
		{ .name = "preadv2", .number = SYS_preadv2, true, true },
		{ .name = "pwritev2", .number = SYS_pwritev2, true, true },
		{ .name = "epoll_create1", .number = SYS_epoll_create1, true },
		{ .name = "epoll_ctl", .number = SYS_epoll_ctl, true },
		{ .name = "epoll_pwait", .number = SYS_epoll_pwait },
		{ .name = "socket", .number = SYS_socket },
		{ .name = "sendmsg", .number = SYS_sendmsg },
		{ .name = "recvmsg", .number = SYS_recvmsg },
		{ .name = "accept4", .number = SYS_accept4, true },
		{ .name = "getsockopt", .number = SYS_getsockopt, true },
		{ .name = "getpid", .number = SYS_getpid, true },
		{ .name = "statx", .number = SYS_statx, true },
	};
	const char *path = actor_file();

	NEEDS_A_PROCESS_OF_ITS_OWN();
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		for (int late = 0; late <= rows[i].may_come_late; late++)
			for (int error = 0; error < 2; error++) {
				struct sandbox sandbox = rows[i];

				sandbox.path = path;
				sandbox.late = late;
				sandbox.error = error ? ENOSYS : EPERM;
				try_sandbox(sandbox);
			}
}
