/* SPDX-License-Identifier: MIT */
/*
 * Goal: the numbers of descriptors are the program's.  It may close all of them, also those that
 * the library has made, and use them for files of its own: the library goes on, and neither writes
 * to, signals, changes nor closes what is not its own.  And a number in a request means the file of
 * the moment of the call: what it meant before or means afterwards is nothing to the request.
 *
 * Method: programs of their own (alone.h) use the library until it has all that it ever makes, and
 * then take its numbers away: at once with close_range, as daemons and sandboxes do, or one by one.
 * Files of the program take the numbers, of kinds that show what is done to them: a data file shows
 * a write, an eventfd a signal, a socket the bytes that reach its peer, an epoll what is watched in
 * it; all show whether they are still there.  Then every kind of request must work as before.
 *
 * Threads with a table of their own, and forked children, come to the same in another way: there a
 * number that the library knows has never been its own.
 */
#include "alone.h"

#include <dirent.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>

#define FIRST_NUMBER 3
#define LAST_NUMBER 99
/* What the program goes on with lies above all that it lets its own files take. */
#define ABOVE_NUMBERS 120
#define PEER_NUMBERS 300

/*
 * The program's files.
 */

enum own_kind { DATA_FILE, COUNTER, SOCKET, EPOLL, OWN_KINDS };

static const char *const own_names[OWN_KINDS] = { "data files", "eventfds", "sockets", "epolls" };

struct own_file {
	int number;
	ino_t inode;
	int flags;
};

struct own_files {
	enum own_kind kind;
	int count;
	struct own_file files[256];
};

static int make_own(enum own_kind kind, int number)
{
	int ends[2], peer;

	switch (kind) {
	case DATA_FILE:
		return memfd_create("own", MFD_CLOEXEC);
	case COUNTER:
		return eventfd((unsigned)number, EFD_CLOEXEC | EFD_NONBLOCK);
	case SOCKET:
		CHILD_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
		peer = dup3(ends[1], PEER_NUMBERS + number, O_CLOEXEC);
		CHILD_CHECK(peer == PEER_NUMBERS + number);
		close(ends[1]);
		return ends[0];
	default:
		return epoll_create1(EPOLL_CLOEXEC);
	}
}

/* The program gives this number to a new file, whatever it has been. */
static void take_number(struct own_files *own, int number)
{
	struct own_file *file = &own->files[own->count++];
	struct stat status;
	int fd = make_own(own->kind, number);

	CHILD_CHECK_MSG(fd >= 0, "%s: %s", own_names[own->kind], strerror(errno));
	if (fd != number) {
		CHILD_CHECK(dup3(fd, number, O_CLOEXEC) == number);
		close(fd);
	}
	CHILD_CHECK(fstat(number, &status) == 0);
	*file = (struct own_file){ number, status.st_ino, fcntl(number, F_GETFL) };
}

static void take_numbers(struct own_files *own, enum own_kind kind)
{
	*own = (struct own_files){ .kind = kind };
	for (int number = FIRST_NUMBER; number <= LAST_NUMBER; number++)
		take_number(own, number);
}

static bool watches_nothing(int epoll)
{
	char path[64], line[256];
	bool nothing = true;
	FILE *info;

	snprintf(path, sizeof(path), "/proc/self/task/%ld/fdinfo/%d", syscall(SYS_gettid), epoll);
	info = fopen(path, "re");
	CHILD_CHECK(info != NULL);
	while (fgets(line, sizeof(line), info))
		nothing = nothing && strncmp(line, "tfd:", 4) != 0;
	fclose(info);
	return nothing;
}

/* What was done to it; an eventfd tells that once. */
static bool is_untouched(enum own_kind kind, int number)
{
	struct stat status;
	uint64_t count = 0;
	char byte;

	switch (kind) {
	case DATA_FILE:
		return fstat(number, &status) == 0 && status.st_size == 0 &&
		       lseek(number, 0, SEEK_CUR) == 0;
	case COUNTER:
		return read(number, &count, sizeof(count)) == sizeof(count) &&
		       count == (uint64_t)number;
	case SOCKET:
		return recv(PEER_NUMBERS + number, &byte, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN;
	default:
		return watches_nothing(number);
	}
}

static void expect_untouched(const struct own_files *own, const char *when)
{
	for (int i = 0; i < own->count; i++) {
		const struct own_file *file = &own->files[i];
		struct stat status = { .st_ino = 0 };

		CHILD_CHECK_MSG(fstat(file->number, &status) == 0, "%s: %s: %d is closed", when,
				own_names[own->kind], file->number);
		CHILD_CHECK_MSG(status.st_ino == file->inode, "%s: %s: %d is another file", when,
				own_names[own->kind], file->number);
		CHILD_CHECK_MSG(fcntl(file->number, F_GETFL) == file->flags &&
					fcntl(file->number, F_GETFD) == FD_CLOEXEC,
				"%s: %s: %d has other flags", when, own_names[own->kind],
				file->number);
		CHILD_CHECK_MSG(is_untouched(own->kind, file->number),
				"%s: something was done to one of the program's %s, %d", when,
				own_names[own->kind], file->number);
	}
}

/*
 * The library is used until it has everything.
 */

#define SLEEPERS 3

static void submit_ready_poll(struct actor *actor, struct iocb *iocb)
{
	io_prep_poll(iocb, actor->writer, POLLOUT);
	alone_submit(actor->ctx, iocb, 1);
}

static void put_to_sleep(struct sleeper *sleepers, io_context_t ctx)
{
	for (int i = 0; i < SLEEPERS; i++)
		sleeper_start(&sleepers[i], ctx);
}

/* One event each, of requests that end without anybody's help. */
static void wake(struct sleeper *sleepers, struct actor *actor)
{
	static struct iocb iocbs[SLEEPERS];

	alone_does("threads that sleep are woken");
	for (int i = 0; i < SLEEPERS; i++) {
		if (i % 2 || on_reference()) {
			submit_ready_poll(actor, &iocbs[i]);
		} else {
			io_prep_pread(&iocbs[i], actor->reader, actor->data, 1, 0);
			alone_submit(actor->ctx, &iocbs[i], 1);
			CHILD_CHECK(write(actor->writer, "w", 1) == 1);
		}
	}
	for (int i = 0; i < SLEEPERS; i++)
		CHILD_CHECK(sleeper_join(&sleepers[i]) == 1);
}

/* It is somebody's first use of the library and leaves nothing in flight. */
static void use_everything(struct actor *actor)
{
	struct sleeper sleepers[SLEEPERS];

	actor_does_everything(actor, "at first");
	put_to_sleep(sleepers, actor->ctx);
	wake(sleepers, actor);
}

/* When the numbers are taken away. */
enum moment {
	UNUSED, /* a context is there and has done nothing */
	IDLE,
	ASLEEP, /* threads sleep in io_getevents */
	MOMENTS,
};

static const char *const moment_names[MOMENTS] = { "before its first use", "idle",
						   "with threads asleep" };

struct scenario {
	const char *path;
	enum moment moment;
	enum own_kind own; /* OWN_KINDS: the numbers stay free */
	bool by_hand; /* all descriptors of the library, one by one, instead of close_range */
};

static void close_everything(void)
{
	CHILD_CHECK(close_range(FIRST_NUMBER, ~0u, 0) == 0);
}

static void lose_numbers(const struct scenario *scenario)
{
	static struct own_files own;
	struct actor actor = { .ctx = alone_context(64) }, second = { 0 };
	struct sleeper sleepers[SLEEPERS];

	actor_open(&actor, scenario->path, FIRST_NUMBER);
	if (scenario->moment != UNUSED)
		use_everything(&actor);
	if (scenario->moment == ASLEEP)
		put_to_sleep(sleepers, actor.ctx);
	close_everything();
	if (scenario->own != OWN_KINDS)
		take_numbers(&own, scenario->own);
	actor_open(&actor, scenario->path, ABOVE_NUMBERS);
	if (scenario->moment == ASLEEP)
		wake(sleepers, &actor);
	actor_does_everything(&actor, "afterwards");
	put_to_sleep(sleepers, actor.ctx);
	wake(sleepers, &actor);
	second = actor;
	second.ctx = alone_context(64);
	actor_does_everything(&second, "in a new context");
	alone_destroy(actor.ctx);
	actor_does_everything(&second, "with one context destroyed");
	alone_destroy(second.ctx);
	expect_untouched(&own, "in the end");
}

static void lose_numbers_alone(void *argument)
{
	lose_numbers(argument);
}

static void try_moments(enum own_kind own)
{
	const char *path = actor_file();

	for (int moment = 0; moment < MOMENTS; moment++) {
		struct scenario scenario = { path, (enum moment)moment, own, false };

		run_alone(lose_numbers_alone, &scenario, moment_names[moment]);
	}
}

CASE(a_program_that_has_closed_every_descriptor_goes_on)
{
	NEEDS_A_PROCESS_OF_ITS_OWN();
	try_moments(OWN_KINDS);
}

CASE(data_files_that_take_the_numbers_are_left_alone)
{
	NEEDS_A_PROCESS_OF_ITS_OWN();
	try_moments(DATA_FILE);
}

CASE(eventfds_that_take_the_numbers_are_left_alone)
{
	NEEDS_A_PROCESS_OF_ITS_OWN();
	try_moments(COUNTER);
}

CASE(sockets_that_take_the_numbers_are_left_alone)
{
	NEEDS_A_PROCESS_OF_ITS_OWN();
	try_moments(SOCKET);
}

CASE(epolls_that_take_the_numbers_are_left_alone)
{
	NEEDS_A_PROCESS_OF_ITS_OWN();
	try_moments(EPOLL);
}

/* Again and again, with the numbers taken by another kind each time. */
static void lose_numbers_again(void *argument)
{
	static struct own_files own;
	struct actor actor = { .ctx = alone_context(64) };

	actor_open(&actor, argument, FIRST_NUMBER);
	for (int round = 0; round < 2 * OWN_KINDS; round++) {
		char when[64];

		snprintf(when, sizeof(when), "round %d", round);
		actor_does_everything(&actor, when);
		if (round > 0)
			expect_untouched(&own, when);
		close_everything();
		take_numbers(&own, (enum own_kind)(round % OWN_KINDS));
		actor_open(&actor, argument, ABOVE_NUMBERS);
	}
	alone_destroy(actor.ctx);
	expect_untouched(&own, "in the end");
}

CASE(a_program_may_close_every_descriptor_again_and_again)
{
	NEEDS_A_PROCESS_OF_ITS_OWN();
	run_alone(lose_numbers_again, (void *)(uintptr_t)actor_file(), HERE);
}

/*
 * One number at a time: a library that sees that one is gone must not rely on the others, and must
 * not give up all of them.
 */

#define NUMBERS_MAX 1024

static void list_numbers(bool open[NUMBERS_MAX])
{
	memset(open, 0, NUMBERS_MAX * sizeof(*open));
	for (int number = 0; number < NUMBERS_MAX; number++)
		open[number] = fcntl(number, F_GETFD) >= 0;
}

static void take_one_number(struct actor *actor, int number, enum own_kind kind)
{
	static struct own_files own;
	struct sleeper sleepers[SLEEPERS];
	char when[64];

	snprintf(when, sizeof(when), "%d is one of the %s", number, own_names[kind]);
	put_to_sleep(sleepers, actor->ctx);
	own = (struct own_files){ .kind = kind };
	take_number(&own, number);
	wake(sleepers, actor);
	actor_does_everything(actor, when);
	expect_untouched(&own, when);
	if (kind == SOCKET)
		close(PEER_NUMBERS + number);
	close(number);
}

static void lose_each_number(void *argument)
{
	bool before[NUMBERS_MAX], after[NUMBERS_MAX];
	struct actor actor = { .ctx = NULL };
	int count = 0;

	actor_open(&actor, argument, ABOVE_NUMBERS);
	list_numbers(before);
	actor.ctx = alone_context(64);
	use_everything(&actor);
	list_numbers(after);
	for (int number = 0; number < NUMBERS_MAX; number++)
		for (int kind = 0; kind < OWN_KINDS && after[number] && !before[number]; kind++) {
			CHILD_CHECK(number < PEER_NUMBERS);
			take_one_number(&actor, number, (enum own_kind)kind);
			count++;
		}
	alone_destroy(actor.ctx);
	CHILD_CHECK(on_reference() ? count == 0 : count > 0);
}

CASE(each_descriptor_of_the_library_may_become_a_file_of_the_program)
{
	NEEDS_A_PROCESS_OF_ITS_OWN();
	run_alone(lose_each_number, (void *)(uintptr_t)actor_file(), HERE);
}

/*
 * Requests in flight when all numbers are taken away.
 */

struct departure {
	struct flight *flight;
	const char *path; /* an actor's */
	enum own_kind own;
};

static void lose_numbers_in_flight(void *argument)
{
	static struct own_files own;
	const struct departure *departure = argument;
	struct actor actor = { .ctx = alone_context(64) };
	io_context_t ctx = alone_context(64);

	actor_open(&actor, departure->path, FIRST_NUMBER);
	use_everything(&actor);
	flight_opens_files(departure->flight);
	flight_takes_off(departure->flight, ctx, false);
	close_everything();
	take_numbers(&own, departure->own);
	actor_open(&actor, departure->path, ABOVE_NUMBERS);
	actor_does_everything(&actor, "with others in flight");
	alone_say(1);
	flight_lands(departure->flight, ctx);
	actor_does_everything(&actor, "in the end");
	alone_destroy(ctx);
	alone_destroy(actor.ctx);
	expect_untouched(&own, "in the end");
}

/* The end of all numbers is not the end of what they meant. */
CASE(requests_in_flight_end_when_all_descriptors_have_been_closed)
{
	const char *path = actor_file();

	NEEDS_A_PROCESS_OF_ITS_OWN();
	for (int own = 0; own < OWN_KINDS; own++) {
		struct flight flight;
		struct departure departure = { &flight, path, (enum own_kind)own };
		pid_t child;

		FLIGHT_OPEN(&flight);
		child = alone_start(lose_numbers_in_flight, &departure);
		alone_hear(child, 1, own_names[own]);
		flight_is_let_go(&flight);
		alone_expect_pass(child, own_names[own]);
		flight_close(&flight, own_names[own]);
	}
}

/*
 * A thread with a descriptor table of its own.  Below ABOVE_NUMBERS it has files that the library
 * must leave alone; above, where the other threads have a file of zeroes, those of its requests.
 */

#define SHOWN_ROUNDS 2

struct split {
	const char *path;
	io_context_t ctx; /* of all threads */
	bool first_use; /* the thread is the first one to use the library */
	enum own_kind own;
	_Atomic int step;
	struct actor other; /* whose requests the thread reaps, and who reaps the thread's */
	struct iocb crossing[2];
	char bytes[2][8];
};

/* A request of one table, whose event is taken in the other. */
static void submit_crossing(struct split *split, int which, struct actor *actor)
{
	struct iocb *iocb = &split->crossing[which];

	CHILD_CHECK(write(actor->writer, which ? "1" : "0", 1) == 1);
	io_prep_pread(iocb, actor->reader, split->bytes[which], 1, 0);
	io_set_eventfd(iocb, actor->counter);
	alone_submit(split->ctx, iocb, 1);
}

static void take_crossing(struct split *split, int which)
{
	alone_expect_event(split->ctx, &split->crossing[which], 1);
	CHILD_CHECK(split->bytes[which][0] == (which ? '1' : '0'));
}

static void *split_main(void *argument)
{
	static struct own_files own;
	struct split *split = argument;
	struct actor actor = { .ctx = NULL };

	CHILD_CHECK(unshare(CLONE_FILES) == 0);
	take_numbers(&own, split->own);
	actor_open(&actor, split->path, ABOVE_NUMBERS);
	if (split->first_use)
		split->ctx = alone_context(64);
	actor.ctx = split->ctx;
	for (int round = 0; round < SHOWN_ROUNDS; round++)
		actor_does_everything(&actor, "in a thread with its own table");
	submit_crossing(split, 0, &actor);
	atomic_store(&split->step, 1);
	CHILD_WAIT_UNTIL(atomic_load(&split->step) == 2);
	alone_does("an event of the other table is taken");
	take_crossing(split, 1);
	actor_is_signalled(&actor, 1);
	actor_does_everything(&actor, "in a thread with its own table, in the end");
	actor.ctx = alone_context(64);
	actor_does_everything(&actor, "in a context of its own");
	alone_destroy(actor.ctx);
	alone_destroy(split->ctx);
	expect_untouched(&own, "in a thread with its own table");
	return NULL;
}

/* Where the thread has its files, there are others here. */
static void open_zeroes(const char *path)
{
	char name[PATH_MAX];
	int zeroes;

	snprintf(name, sizeof(name), "%s.zeroes", path);
	zeroes = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	CHILD_CHECK(zeroes >= 0 && ftruncate(zeroes, ACTOR_FILE_BYTES) == 0);
	for (int number = ABOVE_NUMBERS; number < ABOVE_NUMBERS + 10; number++)
		CHILD_CHECK(dup3(zeroes, number, O_CLOEXEC) == number);
	close(zeroes);
}

static void expect_zeroes(void)
{
	char *bytes = malloc(ACTOR_FILE_BYTES);
	size_t i = 0;

	CHILD_CHECK(bytes &&
		    pread(ABOVE_NUMBERS, bytes, ACTOR_FILE_BYTES, 0) == (ssize_t)ACTOR_FILE_BYTES);
	while (i < ACTOR_FILE_BYTES && !bytes[i])
		i++;
	CHILD_CHECK_MSG(i == ACTOR_FILE_BYTES, "a request of the thread has written to a file of "
					       "the other table");
	free(bytes);
}

static void split_tables(void *argument)
{
	struct split *split = argument;
	struct actor *actor = &split->other;
	pthread_t thread;

	actor_open(actor, split->path, ABOVE_NUMBERS + 20);
	open_zeroes(split->path);
	if (!split->first_use) {
		actor->ctx = split->ctx = alone_context(64);
		use_everything(actor);
	}
	CHILD_CHECK(pthread_create(&thread, NULL, split_main, split) == 0);
	CHILD_WAIT_UNTIL(atomic_load(&split->step) == 1);
	alone_does("an event of the thread with its own table is taken");
	take_crossing(split, 0);
	actor->ctx = split->ctx;
	actor_does_everything(actor, "beside a thread with its own table");
	submit_crossing(split, 1, actor);
	alone_expect_count(actor->counter, 1);
	atomic_store(&split->step, 2);
	CHILD_CHECK(pthread_join(thread, NULL) == 0);
	CHILD_CHECK(io_submit(split->ctx, 0, NULL) == -EINVAL);
	actor->ctx = alone_context(64);
	actor_does_everything(actor, "after a thread with its own table");
	alone_destroy(actor->ctx);
	expect_zeroes();
}

static void try_split(bool first_use)
{
	for (int own = 0; own < OWN_KINDS; own++) {
		static struct split split;

		split = (struct split){ .path = actor_file(),
					.first_use = first_use,
					.own = (enum own_kind)own };
		run_alone(split_tables, &split, own_names[own]);
	}
}

CASE(a_thread_with_its_own_table_shares_a_context)
{
	NEEDS_A_PROCESS_OF_ITS_OWN();
	try_split(false);
}

CASE(a_thread_with_its_own_table_may_be_the_first_to_use_the_library)
{
	NEEDS_A_PROCESS_OF_ITS_OWN();
	try_split(true);
}

/*
 * Forked children, whose numbers may be the program's own from the first moment.
 */

struct family {
	const char *path;
	enum own_kind own;
	bool in_flight; /* the parent sleeps, and waits for a pipe */
};

static void child_of_family(const struct family *family)
{
	static struct own_files own;
	struct actor actor = { .ctx = NULL };

	close_everything();
	take_numbers(&own, family->own);
	actor_open(&actor, family->path, ABOVE_NUMBERS);
	alone_does("a child uses the library for the first time");
	actor.ctx = alone_context(64);
	expect_untouched(&own, "after a child's io_setup");
	/* An eventfd has told once. */
	take_numbers(&own, family->own);
	use_everything(&actor);
	alone_destroy(actor.ctx);
	expect_untouched(&own, "in a child");
	_exit(0);
}

static void be_a_family(void *argument)
{
	const struct family *family = argument;
	struct actor actor = { .ctx = alone_context(64) };
	struct sleeper sleepers[SLEEPERS];
	struct iocb waiting;
	int status;
	pid_t child;

	actor_open(&actor, family->path, FIRST_NUMBER);
	use_everything(&actor);
	if (family->in_flight) {
		put_to_sleep(sleepers, actor.ctx);
		io_prep_poll(&waiting, actor.reader, POLLIN);
		alone_submit(actor.ctx, &waiting, 1);
	}
	child = fork();
	if (child == 0)
		child_of_family(family);
	CHILD_CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
	if (family->in_flight) {
		char byte;

		CHILD_CHECK(write(actor.writer, "x", 1) == 1);
		CHILD_WAIT_UNTIL(atomic_load(&sleepers[0].awake) ||
				 atomic_load(&sleepers[1].awake) ||
				 atomic_load(&sleepers[2].awake));
		CHILD_CHECK(read(actor.reader, &byte, 1) == 1);
		_exit(0);
	}
	actor_does_everything(&actor, "after a child");
	alone_destroy(actor.ctx);
}

static void try_families(bool in_flight)
{
	const char *path = actor_file();

	for (int own = 0; own < OWN_KINDS; own++) {
		struct family family = { path, (enum own_kind)own, in_flight };

		run_alone(be_a_family, &family, own_names[own]);
	}
}

CASE(a_child_keeps_what_it_has_opened_before_its_first_call)
{
	NEEDS_A_PROCESS_OF_ITS_OWN();
	try_families(false);
}

CASE(a_child_of_a_program_that_waits_keeps_what_it_has_opened)
{
	NEEDS_A_PROCESS_OF_ITS_OWN();
	try_families(true);
}

/*
 * The eventfd of a request: when io_submit has returned its number is the program's again.
 */

enum signalled {
	CACHED_READ,
	MISSED_READ,
	HALF_MISSED_READ,
	FAILED_READ,
	PIPE_READ,
	EMPTY_PIPE_READ,
	BUFFERED_WRITE,
	DURABLE_WRITE,
	DIRECT_WRITE,
	DIRECT_READ,
	READY_POLL,
	LATER_POLL,
	LONE_SYNC,
	SYNC_BEHIND_WRITE,
	CANCELLED_POLL,
	CANCELLED_READ,
	CANCELLED_SYNC,
	SIGNALLED_KINDS,
};

static const char *const signalled_names[SIGNALLED_KINDS] = {
	"a cached read",
	"a cold read",
	"a half cold read",
	"a read that fails",
	"a read of a pipe with data",
	"a read of an empty pipe",
	"a buffered write",
	"a durable write",
	"a direct write",
	"a direct read",
	"a poll of what is ready",
	"a poll of what is not",
	"an fsync",
	"an fsync behind a write",
	"a cancelled poll",
	"a cancelled read of a pipe",
	"an fsync cancelled behind a write",
};

#define SIGNAL_ROUNDS 40
#define SIGNAL_BYTES ((size_t)64 << 10)

/* What the requests are about. */
struct desk {
	io_context_t ctx;
	int buffered, direct, reader, writer;
	char *data;
	struct iocb iocbs[2]; /* the second one is what a sync is behind of */
};

static void desk_open(struct desk *desk)
{
	int ends[2];

	make_pipe(ends, 0);
	*desk = (struct desk){ .ctx = new_context(8),
			       .buffered = scratch_file(1 << 20),
			       .reader = ends[0],
			       .writer = ends[1],
			       .data = aligned_buffer(SIGNAL_BYTES) };
	desk->direct = reopen_file(desk->buffered, O_RDWR | O_DIRECT);
	posix_fadvise(desk->buffered, 0, 0, POSIX_FADV_RANDOM);
}

static void desk_close(struct desk *desk)
{
	free_context_without_events(desk->ctx, HERE);
	free(desk->data);
	close(desk->buffered);
	close(desk->reader);
	close(desk->writer);
	if (desk->direct >= 0)
		close(desk->direct);
}

static bool desk_can(const struct desk *desk, enum signalled kind)
{
	switch (kind) {
	case EMPTY_PIPE_READ:
	case CANCELLED_READ:
		return !on_reference();
	case DIRECT_READ:
	case DIRECT_WRITE:
	case SYNC_BEHIND_WRITE:
	case CANCELLED_SYNC:
		return desk->direct >= 0;
	default:
		return true;
	}
}

static void desk_prepares_read(struct desk *desk, enum signalled kind, off_t place)
{
	struct iocb *iocb = &desk->iocbs[0];

	if (kind != CACHED_READ && kind != FAILED_READ)
		posix_fadvise(desk->buffered, 0, 0, POSIX_FADV_DONTNEED);
	if (kind != MISSED_READ)
		ck_assert_int_eq(pread(desk->buffered, desk->data, BLOCK_BYTES, place),
				 BLOCK_BYTES);
	io_prep_pread(iocb, desk->buffered, desk->data,
		      kind == HALF_MISSED_READ ? SIGNAL_BYTES : BLOCK_BYTES, place);
	if (kind == FAILED_READ)
		iocb->u.c.buf = unreadable_page();
}

static void desk_prepares_write(struct desk *desk, enum signalled kind, off_t place)
{
	static struct iovec all;

	all = (struct iovec){ desk->data, SIGNAL_BYTES };
	fill_pattern(desk->data, place, SIGNAL_BYTES);
	if (kind == DURABLE_WRITE && has_flags())
		io_prep_pwritev2(&desk->iocbs[0], desk->buffered, &all, 1, place, RWF_DSYNC);
	else
		io_prep_pwrite(&desk->iocbs[0],
			       kind != DIRECT_WRITE ? desk->buffered : desk->direct, desk->data,
			       SIGNAL_BYTES, place);
}

static void desk_prepares_sync(struct desk *desk, enum signalled kind, off_t place)
{
	if (kind != LONE_SYNC) {
		desk_prepares_write(desk, DIRECT_WRITE, place);
		desk->iocbs[1] = desk->iocbs[0];
	}
	io_prep_fsync(&desk->iocbs[0], kind == LONE_SYNC ? desk->buffered : desk->direct);
}

static void desk_prepares(struct desk *desk, enum signalled kind, off_t place)
{
	switch (kind) {
	case CACHED_READ:
	case MISSED_READ:
	case HALF_MISSED_READ:
	case FAILED_READ:
		desk_prepares_read(desk, kind, place);
		break;
	case PIPE_READ:
		ck_assert_int_eq(write(desk->writer, "x", 1), 1);
		io_prep_pread(&desk->iocbs[0], desk->reader, desk->data, 8, 0);
		break;
	case EMPTY_PIPE_READ:
	case CANCELLED_READ:
		io_prep_pread(&desk->iocbs[0], desk->reader, desk->data, 8, 0);
		break;
	case BUFFERED_WRITE:
	case DURABLE_WRITE:
	case DIRECT_WRITE:
		desk_prepares_write(desk, kind, place);
		break;
	case DIRECT_READ:
		io_prep_pread(&desk->iocbs[0], desk->direct, desk->data, SIGNAL_BYTES, place);
		break;
	case READY_POLL:
		io_prep_poll(&desk->iocbs[0], desk->writer, POLLOUT);
		break;
	case LATER_POLL:
	case CANCELLED_POLL:
		io_prep_poll(&desk->iocbs[0], desk->reader, POLLIN);
		break;
	default:
		desk_prepares_sync(desk, kind, place);
	}
}

/* The eventfd's number means another file by now. */
static void desk_ends(struct desk *desk, enum signalled kind)
{
	bool two = kind == SYNC_BEHIND_WRITE || kind == CANCELLED_SYNC;
	char byte;

	if (kind == EMPTY_PIPE_READ || kind == LATER_POLL)
		ck_assert_int_eq(write(desk->writer, "x", 1), 1);
	if (kind >= CANCELLED_POLL)
		io_cancel(desk->ctx, &desk->iocbs[0], NULL);
	/* Past cancelling for a moment: nothing else would end it. */
	while (kind == CANCELLED_READ && io_cancel(desk->ctx, &desk->iocbs[0], NULL) == -EAGAIN)
		contract_pause();
	for (int i = 0; i < 1 + two; i++)
		take_event(desk->ctx, signalled_names[kind]);
	if (kind == LATER_POLL)
		ck_assert_int_eq(read(desk->reader, &byte, 1), 1);
}

static void desk_signals_once(struct desk *desk, enum signalled kind, int other, off_t place)
{
	const char *what = signalled_names[kind];
	int counter = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int kept = fcntl(counter, F_DUPFD_CLOEXEC, 100);
	struct iocb *both[2] = { &desk->iocbs[1], &desk->iocbs[0] };
	bool two = kind == SYNC_BEHIND_WRITE || kind == CANCELLED_SYNC;

	desk_prepares(desk, kind, place);
	io_set_eventfd(&desk->iocbs[0], counter);
	ck_assert_msg(io_submit(desk->ctx, 1 + two, two ? both : &both[1]) == 1 + two, "%s", what);
	ck_assert_int_eq(dup3(other, counter, O_CLOEXEC), counter);
	desk_ends(desk, kind);
	expect_count(kept, 1, what);
	close(counter);
	/* One too many would come now. */
	expect_works(desk->ctx, what);
	ck_assert_msg(take_count(kept) == 0, "%s: signalled twice", what);
	close(kept);
}

static void signal_when_the_number_is(bool data_file)
{
	struct desk desk;
	int other = data_file ? memfd_create("other", MFD_CLOEXEC)
			      : open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct stat status;

	desk_open(&desk);
	for (int kind = 0; kind < SIGNALLED_KINDS; kind++) {
		for (int round = 0; round < SIGNAL_ROUNDS && desk_can(&desk, (enum signalled)kind);
		     round++)
			desk_signals_once(&desk, (enum signalled)kind, other,
					  round % 16 * (off_t)SIGNAL_BYTES);
		if (data_file)
			ck_assert_msg(fstat(other, &status) == 0 && status.st_size == 0,
				      "%s: bytes were written into a data file",
				      signalled_names[kind]);
		else
			ck_assert_msg(take_count(other) == 0, "%s: another eventfd was signalled",
				      signalled_names[kind]);
	}
	desk_close(&desk);
	close(other);
}

CASE(each_request_signals_once_when_another_eventfd_has_its_number)
{
	signal_when_the_number_is(false);
}

CASE(each_request_signals_once_when_a_data_file_has_its_number)
{
	signal_when_the_number_is(true);
}

/* Many at a time, as class and eventfd are looked at for all of a batch. */
CASE(a_batch_signals_once_a_request_when_the_number_is_taken)
{
	enum { COUNT = 32, ROUNDS = 40 };
	struct desk desk;
	struct iocb iocbs[COUNT], *list[COUNT];
	struct io_event events[COUNT];
	int other = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	desk_open(&desk);
	free_context(desk.ctx);
	desk.ctx = new_context(COUNT);
	for (int round = 0; round < ROUNDS; round++) {
		int counter = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), taken = 0;
		int kept = fcntl(counter, F_DUPFD_CLOEXEC, 100);
		int fd = round % 2 && desk.direct >= 0 ? desk.direct : desk.buffered;

		posix_fadvise(desk.buffered, 0, 0, POSIX_FADV_DONTNEED);
		for (int i = 0; i < COUNT; i++) {
			io_prep_pread(&iocbs[i], fd, read_blocks[i], BLOCK_BYTES,
				      i * 5L * BLOCK_BYTES);
			io_set_eventfd(&iocbs[i], counter);
			list[i] = &iocbs[i];
		}
		ck_assert_int_eq(io_submit(desk.ctx, COUNT, list), COUNT);
		ck_assert_int_eq(dup3(other, counter, O_CLOEXEC), counter);
		while (taken < COUNT)
			taken += io_getevents(desk.ctx, 1, COUNT, events, NULL);
		expect_count(kept, COUNT, HERE);
		close(counter);
		close(kept);
	}
	ck_assert_uint_eq(take_count(other), 0);
	desk_close(&desk);
	close(other);
}

/* What a number was an hour ago is no answer to what it is. */
CASE(a_number_that_is_no_eventfd_any_more_is_refused)
{
	io_context_t ctx = new_context(8);
	int zero = open_device("/dev/zero", O_RDONLY), file = scratch_file(4096), ends[2];
	int counter = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int number = fcntl(counter, F_DUPFD_CLOEXEC, 50);
	struct iocb iocb;
	char bytes[8];

	make_pipe(ends, O_NONBLOCK);
	for (int round = 0; round < 20; round++) {
		static const char *const names[] = { "a file", "a pipe", "a device" };
		int others[] = { file, ends[1], zero };

		io_prep_pread(&iocb, round % 2 ? zero : file, bytes, sizeof(bytes), 0);
		io_set_eventfd(&iocb, number);
		ck_assert_int_eq(dup3(counter, number, O_CLOEXEC), number);
		expect_result(ctx, &iocb, sizeof(bytes), HERE);
		expect_count(counter, 1, HERE);
		ck_assert_int_eq(dup3(others[round % 3], number, O_CLOEXEC), number);
		expect_refused(ctx, &iocb, -EINVAL, names[round % 3]);
		close(number);
		expect_refused(ctx, &iocb, -EBADF, "nothing");
	}
	ck_assert_int_eq(read(ends[0], bytes, 1), -1);
	ck_assert_uint_eq(take_count(counter), 0);
	free_context_without_events(ctx, HERE);
	close(zero);
	close(file);
	close(counter);
	close_pair(ends);
}

/*
 * The file of a request: what kind it is is a matter of the call.  Whatever has been learned of a
 * number may cost time, and nothing else.
 */

enum class {
	CLASS_BUFFERED,
	CLASS_DIRECT,
	CLASS_MEMORY,
	CLASS_DEVICE,
	CLASS_PIPE,
	CLASS_SOCKET,
	CLASS_COUNTER,
	CLASSES,
};

static const char *const class_names[CLASSES] = {
	"a file", "a file with O_DIRECT", "a memfd", "a device", "a pipe", "a socket", "an eventfd",
};

#define SHELF_READS 4

struct shelf {
	io_context_t ctx;
	int files[CLASSES]; /* to read from; -1: there is none */
	int peers[CLASSES]; /* what is read there was written here */
	int other; /* an eventfd that takes the number of the requests' own */
	char *data[SHELF_READS];
	int number;
};

static void shelf_open(struct shelf *shelf)
{
	int pipe_ends[2], socket_ends[2];

	make_pipe(pipe_ends, 0);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, socket_ends), 0);
	shelf->ctx = new_context(8);
	for (int i = 0; i < SHELF_READS; i++)
		shelf->data[i] = aligned_buffer(SIGNAL_BYTES);
	shelf->other = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	shelf->files[CLASS_BUFFERED] = scratch_file(1 << 20);
	shelf->files[CLASS_DIRECT] = reopen_file(shelf->files[CLASS_BUFFERED], O_RDWR | O_DIRECT);
	shelf->files[CLASS_MEMORY] = memfd_create("class", MFD_CLOEXEC);
	shelf->files[CLASS_DEVICE] = open_device("/dev/zero", O_RDWR);
	shelf->files[CLASS_PIPE] = pipe_ends[0];
	shelf->peers[CLASS_PIPE] = pipe_ends[1];
	shelf->files[CLASS_SOCKET] = socket_ends[0];
	shelf->peers[CLASS_SOCKET] = socket_ends[1];
	shelf->files[CLASS_COUNTER] = shelf->peers[CLASS_COUNTER] =
		open_eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
	fill_pattern(shelf->data[0], 0, SIGNAL_BYTES);
	ck_assert_int_eq(pwrite(shelf->files[CLASS_MEMORY], shelf->data[0], SIGNAL_BYTES, 0),
			 (ssize_t)SIGNAL_BYTES);
	posix_fadvise(shelf->files[CLASS_BUFFERED], 0, 0, POSIX_FADV_RANDOM);
	shelf->number = fcntl(shelf->files[CLASS_DEVICE], F_DUPFD_CLOEXEC, 60);
}

static void shelf_close(struct shelf *shelf)
{
	free_context_without_events(shelf->ctx, HERE);
	ck_assert_uint_eq(take_count(shelf->other), 0);
	for (int class = 0; class < CLASSES; class ++)
		close(shelf->files[class]);
	close(shelf->peers[CLASS_PIPE]);
	close(shelf->peers[CLASS_SOCKET]);
	close(shelf->other);
	close(shelf->number);
	for (int i = 0; i < SHELF_READS; i++)
		free(shelf->data[i]);
}

/* So that there is something to read: an eventfd is a semaphore, of which each read takes 1. */
static void shelf_is_filled(struct shelf *shelf, enum class class)
{
	static const uint64_t all = SHELF_READS;
	const char one[8] = { 1 };

	if (class == CLASS_BUFFERED) {
		posix_fadvise(shelf->files[class], 0, 0, POSIX_FADV_DONTNEED);
		ck_assert_int_eq(pread(shelf->files[class], shelf->data[0], 4096, 0), 4096);
	}
	if (class == CLASS_COUNTER)
		ck_assert_int_eq(write(shelf->peers[class], &all, 8), 8);
	for (int i = 0; i < SHELF_READS && (class == CLASS_PIPE || class == CLASS_SOCKET); i++)
		ck_assert_int_eq(write(shelf->peers[class], one, 8), 8);
}

static void shelf_is_whole(const char *data, enum class class, const char *what)
{
	if (class <= CLASS_MEMORY)
		expect_pattern(data, 0, SIGNAL_BYTES, what);
	else if (class == CLASS_DEVICE)
		ck_assert_msg(data[0] == 0, "%s: nothing was read", what);
	else if (class != CLASS_COUNTER || eventfds_count_by_any_number())
		ck_assert_msg(memchr(data, 1, 8) != NULL, "%s: other bytes were read", what);
}

/*
 * Of files all that is there, though the cache may have only the beginning; of others 8 bytes.
 * When io_submit has returned, the iocbs, the vectors and the eventfd's number are used for other
 * things.
 */
static void shelf_reads(struct shelf *shelf, enum class class, const char *what)
{
	static char trap[SIGNAL_BYTES];
	int counter = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int kept = fcntl(counter, F_DUPFD_CLOEXEC, 100);
	size_t bytes = class <= CLASS_MEMORY ? SIGNAL_BYTES : 8, half = bytes / 2;
	struct iovec vectors[SHELF_READS][2];
	struct iocb iocbs[SHELF_READS];

	shelf_is_filled(shelf, class);
	for (int i = 0; i < SHELF_READS; i++) {
		memset(shelf->data[i], class == CLASS_DEVICE ? 1 : 0, SIGNAL_BYTES);
		vectors[i][0] = (struct iovec){ shelf->data[i], half };
		vectors[i][1] = (struct iovec){ shelf->data[i] + half, bytes - half };
		if (class == CLASS_COUNTER)
			io_prep_pread(&iocbs[i], shelf->number, shelf->data[i], bytes, 0);
		else
			io_prep_preadv(&iocbs[i], shelf->number, vectors[i], 2, 0);
		io_set_eventfd(&iocbs[i], counter);
	}
	expect_all_submitted(shelf->ctx, iocbs, SHELF_READS, what);
	ck_assert_int_eq(dup3(shelf->other, counter, O_CLOEXEC), counter);
	memset(iocbs, 0xff, sizeof(iocbs));
	for (int i = 0; i < SHELF_READS; i++)
		vectors[i][0] = vectors[i][1] = (struct iovec){ trap, half };
	for (int i = 0; i < SHELF_READS; i++) {
		struct io_event event = take_event(shelf->ctx, what);

		ck_assert_msg((long)event.res == (long)bytes, "%s: %ld", what, (long)event.res);
	}
	for (int i = 0; i < SHELF_READS; i++)
		shelf_is_whole(shelf->data[i], class, what);
	ck_assert_msg(trap[0] == 0 && trap[half - 1] == 0, "%s: read into other memory", what);
	expect_count(kept, SHELF_READS, what);
	close(counter);
	close(kept);
}

static void shelf_turns(struct shelf *shelf, enum class class, const char *what)
{
	int number = dup3(shelf->files[class], shelf->number, O_CLOEXEC);

	ck_assert_int_eq(number, shelf->number);
	shelf_reads(shelf, class, what);
}

CASE(a_number_may_be_another_kind_of_file_at_each_request)
{
	struct shelf shelf;

	shelf_open(&shelf);
	for (int round = 0; round < 3; round++)
		for (int first = 0; first < CLASSES; first++)
			for (int second = 0; second < CLASSES; second++) {
				char what[128];

				if (shelf.files[first] < 0 || shelf.files[second] < 0)
					continue;
				snprintf(what, sizeof(what), "%s that was %s", class_names[second],
					 class_names[first]);
				shelf_turns(&shelf, (enum class)first, what);
				shelf_reads(&shelf, (enum class)first, what);
				shelf_turns(&shelf, (enum class)second, what);
			}
	shelf_close(&shelf);
}

/* What is written under a number arrives in the file that it was, and nowhere else. */
CASE(a_write_goes_to_what_its_number_means)
{
	enum { PLACES = 4 };
	io_context_t ctx = new_context(8);
	int file = scratch_file(1 << 16), direct = reopen_file(file, O_RDWR | O_DIRECT);
	int memory = memfd_create("class", MFD_CLOEXEC), ends[2], files[PLACES];
	int number = fcntl(memory, F_DUPFD_CLOEXEC, 60);
	char *data = aligned_buffer(4096), got[4096];

	make_pipe(ends, 0);
	files[0] = file;
	files[1] = direct;
	files[2] = memory;
	files[3] = ends[1];
	for (int step = 0; step < 2 * PLACES * PLACES; step++) {
		/* Each behind each. */
		int which = step % 2 ? step / 2 % PLACES : step / 2 / PLACES;
		struct iocb iocb;

		if (files[which] < 0)
			continue;
		ck_assert_int_eq(dup3(files[which], number, O_CLOEXEC), number);
		memset(data, 'A' + step, 4096);
		io_prep_pwrite(&iocb, number, data, 4096, 8192);
		expect_result(ctx, &iocb, 4096, HERE);
		if (which == 3)
			ck_assert_int_eq(read(ends[0], got, 4096), 4096);
		else
			ck_assert_int_eq(pread(which == 2 ? memory : file, got, 4096, 8192), 4096);
		ck_assert_int_eq(memcmp(data, got, 4096), 0);
	}
	fcntl(ends[0], F_SETFL, O_NONBLOCK);
	ck_assert_int_eq(read(ends[0], got, 1), -1);
	free_context_without_events(ctx, HERE);
	close(file);
	close(memory);
	close(number);
	close_pair(ends);
	if (direct >= 0)
		close(direct);
	free(data);
}
