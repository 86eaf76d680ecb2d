/* SPDX-License-Identifier: MIT */
/*
 * Programs that do what Check does not survive: they close every descriptor, use all of them up, or
 * may crash or hang.  Each is a child of the case, which watches it from outside: it has a limit of
 * its own, and when it does not pass the case says what it was doing last (alone_does).
 *
 * In such a program nothing of Check may be used, not even an assertion that holds, for Check keeps
 * a file open: CHILD_CHECK and CHILD_WAIT_UNTIL take its place.
 *
 * An actor makes requests of every kind, one after the other, and finds of each the event, the data
 * and one signal of its eventfd.  It is the measure of "the library still works", wherever its
 * descriptors may be.
 */
#ifndef ALONE_H
#define ALONE_H

#include "scene.h"

#include <grp.h>
#include <sched.h>
#include <stdarg.h>
#include <sys/sendfile.h>

#define NEEDS_A_PROCESS_OF_ITS_OWN()                                                               \
	do {                                                                                       \
		if (UNDER_THREAD_SANITIZER)                                                        \
			SKIP("ThreadSanitizer does not work in a forked child");                   \
		if (is_emulated())                                                                 \
			SKIP("an emulator has descriptors and memory of its own there");           \
	} while (0)

/*
 * The program.
 */

#define ALONE_LIMIT_SECONDS 40
#define ALONE_TEXT_BYTES 200

/* What the program and the case share. */
struct alone_shared {
	char doing[ALONE_TEXT_BYTES];
	_Atomic int said; /* by the program */
	_Atomic int told; /* to the program */
	_Atomic bool proved; /* which engine serves it */
	_Atomic pid_t submitter; /* who is going to need a byte in a pipe: actor_waits_for_pipe */
	_Atomic bool submitted;
	_Atomic unsigned flown; /* which requests of a flight were accepted, a bit each */
};

static struct alone_shared *alone;

/* What the case says of a program that does not pass. */
__attribute__((format(printf, 1, 2))) static inline void alone_does(const char *format, ...)
{
	char text[ALONE_TEXT_BYTES];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	memcpy(alone->doing, text, sizeof(text));
}

/* One step each: the program has come to it, or may go on to it. */
static inline void alone_say(int step)
{
	atomic_store(&alone->said, step);
}

static inline void alone_listen(int step)
{
	CHILD_WAIT_UNTIL(atomic_load(&alone->told) >= step);
}

static inline void alone_tell(int step)
{
	atomic_store(&alone->told, step);
}

/* Shorter than the limit of a case, and longer where that is. */
static inline long long alone_end_ns(void)
{
	const char *multiplier = getenv("CK_TIMEOUT_MULTIPLIER");
	long long times = multiplier ? atoll(multiplier) : 1;

	return monotonic_ns() + ALONE_LIMIT_SECONDS * 1000000000LL * (times > 1 ? times : 1);
}

static inline pid_t alone_start(void (*run)(void *), void *argument)
{
	pid_t child;

	if (!alone)
		alone = mmap(NULL, sizeof(*alone), PROT_READ | PROT_WRITE,
			     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ck_assert(alone != MAP_FAILED);
	memset(alone, 0, sizeof(*alone));
	fflush(NULL);
	child = fork();
	ck_assert_int_ge(child, 0);
	if (child > 0)
		return child;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	run(argument);
	_exit(0);
}

/* It may be kept from ending by the disk, which lets it go when the case has failed. */
static inline void alone_abort(pid_t child, const char *what)
{
	kill(child, SIGKILL);
	ck_abort_msg("%s: the program does not end; it was: %s", what, alone->doing);
}

static inline void alone_expect_status(int status, const char *what)
{
	ck_assert_msg(status == 0, "%s: the program's wait status is 0x%x; it was: %s", what,
		      (unsigned)status, alone->doing);
	ck_assert_msg(atomic_load(&alone->proved), "%s: it has not asked which engine serves it",
		      what);
	contract_engine_proved = true;
}

/* Until the program has come to this step. */
static inline void alone_hear(pid_t child, int step, const char *what)
{
	long long end_ns = alone_end_ns();
	int status = 0;

	while (atomic_load(&alone->said) < step) {
		if (waitpid(child, &status, WNOHANG) == child) {
			alone_expect_status(status, what);
			ck_abort_msg("%s: the program has ended", what);
		}
		if (monotonic_ns() > end_ns)
			alone_abort(child, what);
		contract_pause();
	}
}

static inline int alone_status(pid_t child, const char *what)
{
	long long end_ns = alone_end_ns();
	int status = 0;

	while (waitpid(child, &status, WNOHANG) != child) {
		if (monotonic_ns() > end_ns)
			alone_abort(child, what);
		contract_pause();
	}
	return status;
}

static inline void alone_expect_pass(pid_t child, const char *what)
{
	alone_expect_status(alone_status(child, what), what);
}

static inline void run_alone(void (*run)(void *), void *argument, const char *what)
{
	alone_expect_pass(alone_start(run, argument), what);
}

static inline void alone_proves_engine(io_context_t ctx)
{
	engine_function *engine = find_engine_function();

	CHILD_CHECK(!engine == on_reference());
	if (engine)
		CHILD_CHECK(engine(ctx) && strcmp(engine(ctx), expected_engine()) == 0);
	atomic_store(&alone->proved, true);
}

static inline io_context_t alone_context(int events)
{
	io_context_t ctx = NULL;
	int result = io_setup(events, &ctx);

	CHILD_CHECK_MSG(result == 0, "%s: io_setup: %d", alone->doing, result);
	alone_proves_engine(ctx);
	return ctx;
}

static inline void alone_destroy(io_context_t ctx)
{
	int result = io_destroy(ctx);

	CHILD_CHECK_MSG(result == 0, "%s: io_destroy: %d", alone->doing, result);
}

static inline void alone_submit(io_context_t ctx, struct iocb *iocbs, int count)
{
	struct iocb *list[8];
	int result;

	for (int i = 0; i < count; i++)
		list[i] = &iocbs[i];
	result = io_submit(ctx, count, list);
	CHILD_CHECK_MSG(result == count, "%s: io_submit: %d, not %d", alone->doing, result, count);
}

/* How a program takes its events: most sleep until there is one, some look again and again. */
static bool alone_takes_without_sleep;
/* poll(2) refuses: the library learns of readiness by what epoll reports, which has more names. */
static bool alone_has_no_poll;
/* preadv2 or pwritev2 is refused: the library takes no flags. */
static bool alone_has_no_flags;

static inline struct io_event alone_event(io_context_t ctx)
{
	struct timespec limit = { .tv_sec = EVENT_LIMIT_SECONDS }, zero = { 0 };
	struct io_event event = { .res = 0 };
	int result = 0;

	if (alone_takes_without_sleep)
		CHILD_WAIT_UNTIL((result = io_getevents(ctx, 0, 1, &event, &zero)) != 0);
	else
		result = io_getevents(ctx, 1, 1, &event, &limit);
	CHILD_CHECK_MSG(result == 1, "%s: io_getevents: %d", alone->doing, result);
	return event;
}

static inline void alone_expect_event(io_context_t ctx, const struct iocb *iocb, long result)
{
	struct io_event event = alone_event(ctx);

	CHILD_CHECK_MSG(event.obj == iocb, "%s: the event of another request", alone->doing);
	CHILD_CHECK_MSG((long)event.res == result, "%s: the result is %ld, not %ld", alone->doing,
			(long)event.res, result);
}

static inline uint64_t alone_take_count(int event_fd)
{
	uint64_t count = 0;

	if (read(event_fd, &count, sizeof(count)) != sizeof(count))
		CHILD_CHECK_MSG(errno == EAGAIN, "%s: the eventfd: %s", alone->doing,
				strerror(errno));
	return count;
}

static inline void alone_expect_count(int event_fd, uint64_t expected)
{
	uint64_t count = 0;

	CHILD_WAIT_UNTIL((count += alone_take_count(event_fd)) >= expected);
	CHILD_CHECK_MSG(count == expected, "%s: signalled %llu times, not %llu", alone->doing,
			(unsigned long long)count, (unsigned long long)expected);
}

/* So that the low numbers stay free. */
static inline int moved_up(int fd, int lowest)
{
	int moved = fcntl(fd, F_DUPFD_CLOEXEC, lowest);

	CHILD_CHECK_MSG(fd >= 0 && moved >= lowest, "a descriptor from %d on: %s", lowest,
			strerror(errno));
	close(fd);
	return moved;
}

/*
 * Limits that a program runs into.
 */

#define NOBODY 65534
/* Enough for what the program and a library at ease have open. */
#define NUMBERS 128

enum way {
	ALL_TAKEN, /* by duplicates, as by a server under load */
	LOWERED_TO_3,
	LOWERED_TO_1,
	LOWERED_TO_0, /* as a sandbox does: poll(2) refuses even one descriptor then */
	NO_THREADS,
	WAYS,
};

static const char *const way_names[WAYS] = {
	"all numbers are taken",
	"the limit is lowered to 3",
	"the limit is lowered to 1",
	"the limit is lowered to 0",
	"no thread can be made",
};

/* Root may start threads without limit.  Threads that sleep are woken by this: it comes before. */
static inline void become_nobody(void)
{
	if (geteuid() == 0)
		CHILD_CHECK(setgroups(0, NULL) == 0 && setresgid(NOBODY, NOBODY, NOBODY) == 0 &&
			    setresuid(NOBODY, NOBODY, NOBODY) == 0);
}

static inline void set_soft_limit(__rlimit_resource_t resource, rlim_t limit)
{
	struct rlimit limits;

	CHILD_CHECK(getrlimit(resource, &limits) == 0);
	limits.rlim_cur = limit;
	CHILD_CHECK(setrlimit(resource, &limits) == 0);
}

static inline void reach(enum way way)
{
	alone_does("%s", way_names[way]);
	switch (way) {
	case ALL_TAKEN:
		set_soft_limit(RLIMIT_NOFILE, NUMBERS);
		while (dup(STDERR_FILENO) >= 0)
			;
		CHILD_CHECK(errno == EMFILE);
		break;
	case LOWERED_TO_3:
		/* The hard limit as well, as servers do. */
		CHILD_CHECK(setrlimit(RLIMIT_NOFILE, &(struct rlimit){ 3, NUMBERS }) == 0);
		break;
	case LOWERED_TO_1:
		set_soft_limit(RLIMIT_NOFILE, 1);
		break;
	case LOWERED_TO_0:
		set_soft_limit(RLIMIT_NOFILE, 0);
		alone_has_no_poll = on_threads();
		break;
	default:
		set_soft_limit(RLIMIT_NPROC, 0);
	}
}

static inline void lift(__rlimit_resource_t resource)
{
	struct rlimit limits;

	CHILD_CHECK(getrlimit(resource, &limits) == 0);
	set_soft_limit(resource, limits.rlim_max);
}

/*
 * The actor.
 */

#define ACTOR_FILE_BYTES ((size_t)1 << 20)
#define ACTOR_BYTES ((size_t)64 << 10)

struct actor {
	io_context_t ctx;
	int buffered, direct; /* the same file; direct is -1 where there is no O_DIRECT */
	int reader, writer; /* of a pipe */
	int counter; /* an eventfd; -1: requests have none */
	char *data; /* ACTOR_BYTES, aligned */
	unsigned round;
	bool limited; /* a read of an empty pipe may wait in io_submit: somebody feeds it */
};

/* A file with its pattern, which an actor leaves as it is.  main removes it. */
static inline const char *actor_file(void)
{
	static char path[PATH_MAX];
	int fd = scratch_file(ACTOR_FILE_BYTES), named;

	snprintf(path, sizeof(path), "%s/actor-%d", scratch_directory(), getpid());
	named = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	ck_assert_int_ge(named, 0);
	ck_assert_int_eq(lseek(fd, 0, SEEK_SET), 0);
	ck_assert_int_eq(sendfile(named, fd, NULL, ACTOR_FILE_BYTES), ACTOR_FILE_BYTES);
	ck_assert_int_eq(fsync(named), 0);
	close(named);
	close(fd);
	return path;
}

static inline void actor_open(struct actor *actor, const char *path, int lowest)
{
	int ends[2], direct = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);

	CHILD_CHECK(pipe2(ends, O_CLOEXEC) == 0);
	actor->direct = direct < 0 ? -1 : moved_up(direct, lowest);
	actor->buffered = moved_up(open(path, O_RDWR | O_CLOEXEC), lowest);
	actor->reader = moved_up(ends[0], lowest);
	actor->writer = moved_up(ends[1], lowest);
	actor->counter = moved_up(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), lowest);
	if (!actor->data)
		CHILD_CHECK(posix_memalign((void **)&actor->data, BLOCK_BYTES, ACTOR_BYTES) == 0);
}

/* Another place of the file each time. */
static inline off_t actor_place(struct actor *actor)
{
	return (off_t)(actor->round++ % (ACTOR_FILE_BYTES / ACTOR_BYTES) * ACTOR_BYTES);
}

static inline void actor_submits(struct actor *actor, struct iocb *iocbs, int count)
{
	for (int i = 0; i < count && actor->counter >= 0; i++)
		io_set_eventfd(&iocbs[i], actor->counter);
	alone_submit(actor->ctx, iocbs, count);
}

static inline void actor_is_signalled(struct actor *actor, uint64_t count)
{
	if (actor->counter >= 0)
		alone_expect_count(actor->counter, count);
}

static inline void actor_expects(struct actor *actor, struct iocb *iocb, long result)
{
	actor_submits(actor, iocb, 1);
	alone_expect_event(actor->ctx, iocb, result);
	actor_is_signalled(actor, 1);
}

static inline void actor_expects_pattern(struct actor *actor, off_t place, size_t bytes)
{
	size_t good = 0;

	while (good < bytes && actor->data[good] == pattern_at(place + (off_t)good))
		good++;
	CHILD_CHECK_MSG(good == bytes, "%s: byte %zu of %zu is not the file's", alone->doing, good,
			bytes);
}

static inline void actor_reads(struct actor *actor, int fd, off_t place, size_t bytes)
{
	struct iocb iocb;

	memset(actor->data, 0, ACTOR_BYTES);
	io_prep_pread(&iocb, fd, actor->data, bytes, place);
	actor_expects(actor, &iocb, (long)bytes);
	actor_expects_pattern(actor, place, bytes);
}

static inline void actor_reads_cached(struct actor *actor)
{
	off_t place = actor_place(actor);

	CHILD_CHECK(pread(actor->buffered, actor->data, BLOCK_BYTES, place) == BLOCK_BYTES);
	actor_reads(actor, actor->buffered, place, BLOCK_BYTES);
}

static inline void actor_reads_cold(struct actor *actor)
{
	off_t place = actor_place(actor);

	posix_fadvise(actor->buffered, 0, 0, POSIX_FADV_RANDOM);
	posix_fadvise(actor->buffered, 0, 0, POSIX_FADV_DONTNEED);
	actor_reads(actor, actor->buffered, place, (size_t)4 * BLOCK_BYTES);
}

/* The page cache has its beginning. */
static inline void actor_reads_half_cold(struct actor *actor)
{
	off_t place = actor_place(actor);

	posix_fadvise(actor->buffered, 0, 0, POSIX_FADV_RANDOM);
	posix_fadvise(actor->buffered, 0, 0, POSIX_FADV_DONTNEED);
	CHILD_CHECK(pread(actor->buffered, actor->data, BLOCK_BYTES, place) == BLOCK_BYTES);
	actor_reads(actor, actor->buffered, place, ACTOR_BYTES);
}

static inline void actor_writes_to(struct actor *actor, int fd, int flags)
{
	off_t place = actor_place(actor);
	struct iovec all = { actor->data, ACTOR_BYTES };
	struct iocb iocb;

	fill_pattern(actor->data, place, ACTOR_BYTES);
	if (flags)
		io_prep_pwritev2(&iocb, fd, &all, 1, place, flags);
	else
		io_prep_pwrite(&iocb, fd, actor->data, ACTOR_BYTES, place);
	actor_expects(actor, &iocb, ACTOR_BYTES);
}

static inline void actor_writes_buffered(struct actor *actor)
{
	actor_writes_to(actor, actor->buffered, 0);
}

static inline void actor_writes_durably(struct actor *actor)
{
	actor_writes_to(actor, actor->buffered, has_flags() && !alone_has_no_flags ? RWF_DSYNC : 0);
}

static inline void actor_writes_direct(struct actor *actor)
{
	if (actor->direct >= 0)
		actor_writes_to(actor, actor->direct, 0);
}

static inline void actor_reads_direct(struct actor *actor)
{
	if (actor->direct >= 0)
		actor_reads(actor, actor->direct, actor_place(actor), BLOCK_BYTES);
}

static inline void actor_takes_from_pipe(struct actor *actor)
{
	struct iocb iocb;

	CHILD_CHECK(write(actor->writer, "x", 1) == 1);
	io_prep_pread(&iocb, actor->reader, actor->data, 8, 0);
	actor->data[0] = 0;
	actor_expects(actor, &iocb, 1);
	CHILD_CHECK(actor->data[0] == 'x');
}

/*
 * The kernel itself would wait in io_submit, and so may a library that is at a limit: who watches
 * from outside sees the thread sleep, and writes (alone_feed).
 */
static inline void actor_submits_a_wait(struct actor *actor, struct iocb *iocbs, int count)
{
	io_prep_pread(&iocbs[0], actor->reader, actor->data, 8, 0);
	if (actor->limited) {
		atomic_store(&alone->submitted, false);
		atomic_store(&alone->submitter, (pid_t)syscall(SYS_gettid));
	}
	actor_submits(actor, iocbs, count);
	if (actor->limited)
		atomic_store(&alone->submitted, true);
	else
		CHILD_CHECK(write(actor->writer, "y", 1) == 1);
}

static inline void actor_waits_for_pipe(struct actor *actor)
{
	struct iocb iocb;

	if (on_reference() && !actor->limited)
		return;
	actor_submits_a_wait(actor, &iocb, 1);
	alone_expect_event(actor->ctx, &iocb, 1);
	actor_is_signalled(actor, 1);
	CHILD_CHECK(actor->data[0] == 'y');
}

/* What is behind it in its array is not in flight yet, and nothing to wait for. */
static inline void actor_waits_for_pipe_first(struct actor *actor)
{
	static char block[BLOCK_BYTES];
	off_t place = actor_place(actor);
	struct io_event first, second;
	struct iocb iocbs[2];

	if (on_reference() && !actor->limited)
		return;
	CHILD_CHECK(pread(actor->buffered, block, BLOCK_BYTES, place) == BLOCK_BYTES);
	io_prep_pread(&iocbs[1], actor->buffered, block, BLOCK_BYTES, place);
	actor_submits_a_wait(actor, iocbs, 2);
	first = alone_event(actor->ctx);
	second = alone_event(actor->ctx);
	CHILD_CHECK(first.obj != second.obj && first.res + second.res == BLOCK_BYTES + 1);
	actor_is_signalled(actor, 2);
	CHILD_CHECK(actor->data[0] == 'y');
}

/* By the case, until the program has ended: the pipe is one that it has from before the fork. */
static inline int alone_feed(pid_t child, int writer, const char *what)
{
	long long end_ns = alone_end_ns();
	int status = 0;

	while (waitpid(child, &status, WNOHANG) != child) {
		pid_t submitter = atomic_load(&alone->submitter);

		if (submitter && (atomic_load(&alone->submitted) || task_is_blocked(submitter))) {
			atomic_store(&alone->submitter, 0);
			ck_assert_int_eq(write(writer, "y", 1), 1);
		}
		if (monotonic_ns() > end_ns)
			alone_abort(child, what);
		contract_pause();
	}
	return status;
}

static inline void actor_puts_into_pipe(struct actor *actor)
{
	char byte = 0;
	struct iocb iocb;

	io_prep_pwrite(&iocb, actor->writer, (void *)(uintptr_t) "z", 1, 0);
	actor_expects(actor, &iocb, 1);
	CHILD_CHECK(read(actor->reader, &byte, 1) == 1 && byte == 'z');
}

static inline void actor_polls(struct actor *actor)
{
	struct iocb iocb;
	char byte;

	io_prep_poll(&iocb, actor->writer, POLLOUT);
	actor_expects(actor, &iocb, alone_has_no_poll ? POLLOUT | POLLWRNORM : POLLOUT);
	io_prep_poll(&iocb, actor->reader, POLLIN);
	actor_submits(actor, &iocb, 1);
	CHILD_CHECK(write(actor->writer, "p", 1) == 1);
	alone_expect_event(actor->ctx, &iocb, POLLIN | POLLRDNORM);
	actor_is_signalled(actor, 1);
	CHILD_CHECK(read(actor->reader, &byte, 1) == 1);
}

/* On its way into the kernel a request is past cancelling for a moment; once it waits it is not. */
static inline void actor_cancels_one(struct actor *actor, struct iocb *iocb, long result)
{
	struct io_event event;
	int answer = -EAGAIN;

	actor_submits(actor, iocb, 1);
	CHILD_WAIT_UNTIL((answer = io_cancel(actor->ctx, iocb, &event)) != -EAGAIN);
	CHILD_CHECK_MSG(answer == -EINPROGRESS, "%s: io_cancel: %d", alone->doing, answer);
	alone_expect_event(actor->ctx, iocb, result);
	actor_is_signalled(actor, 1);
}

static inline void actor_cancels(struct actor *actor)
{
	struct iocb iocb;

	io_prep_poll(&iocb, actor->reader, POLLIN);
	actor_cancels_one(actor, &iocb, 0);
	if (on_reference() || actor->limited)
		return;
	io_prep_pread(&iocb, actor->reader, actor->data, 8, 0);
	actor_cancels_one(actor, &iocb, -ECANCELED);
}

static inline void actor_syncs(struct actor *actor)
{
	struct iocb iocb;

	io_prep_fsync(&iocb, actor->buffered);
	actor_expects(actor, &iocb, 0);
	io_prep_fdsync(&iocb, actor->buffered);
	actor_expects(actor, &iocb, 0);
}

/* At a limit a batch may be accepted in parts: the rest when something of it has ended. */
static inline int actor_submits_some(struct actor *actor, struct iocb *iocbs, int count,
				     int in_flight)
{
	struct iocb *list[4];
	int result;

	for (int i = 0; i < count; i++) {
		list[i] = &iocbs[i];
		if (actor->counter >= 0)
			io_set_eventfd(&iocbs[i], actor->counter);
	}
	result = io_submit(actor->ctx, count, list);
	if (actor->limited && in_flight > 0 && result == -EAGAIN)
		return 0;
	CHILD_CHECK_MSG(result == count || (actor->limited && result > 0),
			"%s: io_submit: %d of %d, %d in flight", alone->doing, result, count,
			in_flight);
	return result;
}

/* A write and two syncs, each behind the one before it. */
static inline void actor_syncs_behind_a_write(struct actor *actor)
{
	int fd = actor->direct >= 0 ? actor->direct : actor->buffered, submitted = 0;
	off_t place = actor_place(actor);
	struct iocb iocbs[3];

	fill_pattern(actor->data, place, ACTOR_BYTES);
	io_prep_pwrite(&iocbs[0], fd, actor->data, ACTOR_BYTES, place);
	io_prep_fsync(&iocbs[1], fd);
	io_prep_fdsync(&iocbs[2], fd);
	for (int taken = 0; taken < 3; taken++) {
		struct io_event event;

		if (submitted < 3)
			submitted += actor_submits_some(actor, iocbs + submitted, 3 - submitted,
							submitted - taken);
		event = alone_event(actor->ctx);
		CHILD_CHECK(on_reference() || event.obj == &iocbs[taken]);
		CHILD_CHECK_MSG((long)event.res == (event.obj == iocbs ? (long)ACTOR_BYTES : 0),
				"%s: the result is %ld", alone->doing, (long)event.res);
	}
	actor_is_signalled(actor, 3);
}

struct actor_kind {
	const char *name;
	void (*act)(struct actor *);
};

static const struct actor_kind actor_kinds[] = {
	{ "a cached read", actor_reads_cached },
	{ "a cold read", actor_reads_cold },
	{ "a half cold read", actor_reads_half_cold },
	{ "a buffered write", actor_writes_buffered },
	{ "a durable write", actor_writes_durably },
	{ "a direct write", actor_writes_direct },
	{ "a direct read", actor_reads_direct },
	{ "a read of a pipe with data", actor_takes_from_pipe },
	{ "a read of an empty pipe", actor_waits_for_pipe },
	{ "a read of an empty pipe before another", actor_waits_for_pipe_first },
	{ "a write to a pipe", actor_puts_into_pipe },
	{ "polls", actor_polls },
	{ "cancelled requests", actor_cancels },
	{ "syncs", actor_syncs },
	{ "syncs behind a write", actor_syncs_behind_a_write },
};

#define ACTOR_KINDS (sizeof(actor_kinds) / sizeof(actor_kinds[0]))

static inline void actor_does(struct actor *actor, size_t kind, const char *when)
{
	alone_does("%s: %s%s", when, actor_kinds[kind].name,
		   actor->counter >= 0 ? "" : ", without an eventfd");
	actor_kinds[kind].act(actor);
}

static inline void actor_does_everything(struct actor *actor, const char *when)
{
	for (size_t kind = 0; kind < ACTOR_KINDS; kind++)
		actor_does(actor, kind, when);
	alone_does("%s: everything is done", when);
}

/*
 * Threads of the program that sleep in io_getevents.
 */

struct sleeper {
	pthread_t thread;
	io_context_t ctx;
	_Atomic pid_t tid;
	_Atomic bool awake;
	int result;
	struct io_event event;
};

static inline void *sleeper_main(void *argument)
{
	struct sleeper *sleeper = argument;

	atomic_store(&sleeper->tid, (pid_t)syscall(SYS_gettid));
	sleeper->result = io_getevents(sleeper->ctx, 1, 1, &sleeper->event, NULL);
	atomic_store(&sleeper->awake, true);
	return NULL;
}

static inline void sleeper_create(struct sleeper *sleeper, io_context_t ctx)
{
	*sleeper = (struct sleeper){ .ctx = ctx };
	CHILD_CHECK(pthread_create(&sleeper->thread, NULL, sleeper_main, sleeper) == 0);
}

static inline void sleeper_start(struct sleeper *sleeper, io_context_t ctx)
{
	sleeper_create(sleeper, ctx);
	CHILD_WAIT_UNTIL(task_is_blocked(atomic_load(&sleeper->tid)));
}

/* Without a descriptor to look with: the thread is given the time to fall asleep. */
static inline void sleeper_start_unseen(struct sleeper *sleeper, io_context_t ctx)
{
	sleeper_create(sleeper, ctx);
	CHILD_WAIT_UNTIL(atomic_load(&sleeper->tid) != 0);
	for (int i = 0; i < 50; i++)
		contract_pause();
}

static inline int sleeper_join(struct sleeper *sleeper)
{
	CHILD_WAIT_UNTIL(atomic_load(&sleeper->awake));
	CHILD_CHECK(pthread_join(sleeper->thread, NULL) == 0);
	return sleeper->result;
}

/*
 * Requests in flight: with a disk that waits, with a pipe, with nobody yet, and behind one another.
 * The case holds them and looks at their eventfds; the program submits them and takes their events.
 */

enum flying { DISK_READ, COLD_DISK_READ, HELD_SYNC, WAITING_POLL, WAITING_READ, FLYING };

static const char *const flying_names[FLYING] = {
	"a direct read", "a cold read", "a held fsync", "a poll", "a read of an empty pipe",
};

struct flight {
	struct holdfs *fs;
	char file[PATH_MAX]; /* of the disk */
	int direct, buffered; /* the program's descriptors of it */
	int pipes[2][2]; /* of the poll and of the read */
	int counters[FLYING];
	struct iocb iocbs[FLYING];
};

/* io_submit of the reference would wait. */
static inline bool can_fly(enum flying flying)
{
	return !on_reference() || (flying != COLD_DISK_READ && flying != WAITING_READ);
}

static inline bool flight_open(struct flight *flight)
{
	*flight = (struct flight){ .fs = holdfs_mount(1, SCENE_BLOCKS * BLOCK_BYTES) };
	if (!flight->fs)
		return false;
	snprintf(flight->file, sizeof(flight->file), "%s", holdfs_path(flight->fs, SUBJECT));
	memset(holdfs_medium(flight->fs, SUBJECT), 'S', SCENE_BLOCKS * BLOCK_BYTES);
	make_pipe(flight->pipes[0], 0);
	make_pipe(flight->pipes[1], 0);
	for (int i = 0; i < FLYING; i++)
		flight->counters[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	holdfs_hold(flight->fs, HOLDFS_READ);
	return true;
}

#define FLIGHT_OPEN(flight)                                                                        \
	do {                                                                                       \
		if (!flight_open(flight))                                                          \
			SKIP("FUSE cannot be used here");                                          \
	} while (0)

/*
 * By the program.  They are open for reading alone: files of a server that are open for writing are
 * never held.
 */
static inline void flight_opens_files(struct flight *flight)
{
	flight->direct = open(flight->file, O_RDONLY | O_DIRECT | O_CLOEXEC);
	flight->buffered = open(flight->file, O_RDONLY | O_CLOEXEC);
	CHILD_CHECK(flight->direct >= 0 && flight->buffered >= 0);
}

static inline void flight_prepares(struct flight *flight, enum flying flying)
{
	struct iocb *iocb = &flight->iocbs[flying];

	switch (flying) {
	case DISK_READ:
		io_prep_pread(iocb, flight->direct, read_blocks[0], BLOCK_BYTES, 0);
		break;
	case COLD_DISK_READ:
		io_prep_pread(iocb, flight->buffered, read_blocks[8], BLOCK_BYTES,
			      8L * BLOCK_BYTES);
		break;
	case HELD_SYNC:
		io_prep_fsync(iocb, flight->direct);
		break;
	case WAITING_POLL:
		io_prep_poll(iocb, flight->pipes[0][0], POLLIN);
		break;
	default:
		io_prep_pread(iocb, flight->pipes[1][0], read_blocks[16], 8, 0);
	}
	io_set_eventfd(iocb, flight->counters[flying]);
}

/* At a limit a request may be refused while another is in flight, or wait in io_submit. */
static inline void flight_takes_off(struct flight *flight, io_context_t ctx, bool limited)
{
	atomic_store(&alone->submitter, (pid_t)syscall(SYS_gettid));
	for (int i = 0; i < FLYING; i++) {
		int result;

		if (!can_fly((enum flying)i))
			continue;
		alone_does("%s is submitted", flying_names[i]);
		flight_prepares(flight, (enum flying)i);
		result = submit_one(ctx, &flight->iocbs[i]);
		CHILD_CHECK_MSG(result == 1 || (limited && i > 0 && result == -EAGAIN),
				"%s: io_submit: %d", flying_names[i], result);
		if (result == 1)
			atomic_fetch_or(&alone->flown, 1u << i);
	}
	atomic_store(&alone->submitter, 0);
}

static inline bool has_flown(int which)
{
	return atomic_load(&alone->flown) >> which & 1;
}

static inline void flight_is_let_go(struct flight *flight)
{
	ck_assert_int_eq(write(flight->pipes[0][1], "f", 1), 1);
	ck_assert_int_eq(write(flight->pipes[1][1], "f", 1), 1);
	holdfs_release_all(flight->fs);
}

/* A poll that comes late, when there is something already, says no more than it was asked. */
static inline bool flight_ends_well(long which, long result)
{
	static const long results[FLYING] = { BLOCK_BYTES, BLOCK_BYTES, 0, POLLIN | POLLRDNORM, 1 };

	return result == results[which] || (which == WAITING_POLL && result == POLLIN);
}

/* By the program: the events of all of them, each once. */
static inline void flight_lands(struct flight *flight, io_context_t ctx)
{
	bool landed[FLYING] = { false };

	alone_does("what was in flight lands");
	for (int i = 0; i < FLYING; i++) {
		struct io_event event;
		long which;

		if (!has_flown(i))
			continue;
		event = alone_event(ctx);
		which = event.obj - flight->iocbs;
		CHILD_CHECK(which >= 0 && which < FLYING && has_flown((int)which) &&
			    !landed[which]);
		CHILD_CHECK_MSG(flight_ends_well(which, (long)event.res), "%s: the result is %ld",
				flying_names[which], (long)event.res);
		landed[which] = true;
	}
	CHILD_CHECK(!landed[DISK_READ] || read_blocks[0][0] == 'S');
	CHILD_CHECK(!landed[COLD_DISK_READ] || read_blocks[8][0] == 'S');
	CHILD_CHECK(!landed[WAITING_READ] || read_blocks[16][0] == 'f');
}

static inline void flight_free(struct flight *flight)
{
	for (int i = 0; i < FLYING; i++)
		close(flight->counters[i]);
	close_pair(flight->pipes[0]);
	close_pair(flight->pipes[1]);
	holdfs_unmount(flight->fs);
}

/* Each has signalled once, which may be a moment after its event. */
static inline void flight_close(struct flight *flight, const char *what)
{
	for (int i = 0; i < FLYING; i++) {
		if (has_flown(i))
			expect_count(flight->counters[i], 1, flying_names[i]);
		ck_assert_msg(take_count(flight->counters[i]) == 0, "%s: %s signals twice", what,
			      flying_names[i]);
	}
	flight_free(flight);
}

#endif
