/* SPDX-License-Identifier: MIT */
/*
 * Goal: the ring at the handle is the program's memory, and whatever the program writes there the
 * library neither crashes, nor reads or writes elsewhere, nor goes round for ever.  Events of that
 * context may be lost or made up, as with the kernel's own; other contexts have theirs, io_destroy
 * returns, and who slept in the context is woken by it.
 *
 * Method: a program of its own (alone.h) makes a context, has events in it or requests in flight or
 * threads asleep, and writes into each field of the ring's header and into its slots what is out of
 * range, what looks like something else, and what is random; at once, or all the time from another
 * thread.  Then it makes every call.  The slots are filled with addresses that would be noticed if
 * they were used.
 *
 * Programs that reap by themselves (programs/hostile) are harder: the library follows
 * their rings to hold an fsync back.
 */
#include "alone.h"

struct ring {
	unsigned id, nr, head, tail, magic, compat_features, incompat_features, header_length;
	struct io_event events[];
};

#define KERNEL_MAGIC 0xa10a10a1u

/*
 * What is written.
 */

enum field {
	HEAD,
	TAIL,
	HEAD_AND_TAIL,
	NR,
	MAGIC,
	FEATURES,
	HEADER_LENGTH,
	ID,
	SLOTS,
	ALL_FIELDS,
	FIELDS,
};

static const char *const field_names[FIELDS] = {
	"head",		 "tail", "head and tail", "nr",		"magic", "features",
	"header length", "id",	 "slots",	  "everything",
};

enum { VALUES = 10 };

static unsigned value_of(const struct ring *ring, unsigned number, unsigned *seed)
{
	const unsigned values[VALUES] = { ring->nr,
					  ring->nr + 1,
					  0x7fffffff,
					  0x80000000,
					  0xffffffff,
					  0,
					  1,
					  ring->tail + 1,
					  KERNEL_MAGIC,
					  (unsigned)rand_r(seed) };

	return values[number];
}

/* Nothing is mapped there, or the kernel is, or it is somebody else's. */
static void *false_address(unsigned number)
{
	static char own[64];
	void *const addresses[] = { NULL,
				    (void *)1,
				    KERNEL_ADDRESS,
				    (void *)-1L,
				    contract_arena,
				    own,
				    (char *)contract_arena + 4095 };

	return addresses[number % (sizeof(addresses) / sizeof(addresses[0]))];
}

/* All slots, and all of them said to be full; the size of the mapping is not asked of the ring. */
static void scribble_slots(struct ring *ring, unsigned slots, unsigned number)
{
	for (unsigned i = 0; i < slots; i++) {
		ring->events[i].data = false_address(number + i);
		ring->events[i].obj = false_address(number + i / 7);
		ring->events[i].res = (unsigned long)(long)(i % 2 ? -1 : 1 << 30);
		ring->events[i].res2 = number;
	}
	ring->head = 0;
	ring->tail = number % 2 ? slots - 1 : number;
}

static void scribble(struct ring *ring, unsigned slots, enum field field, unsigned number,
		     unsigned *seed)
{
	unsigned value = value_of(ring, number, seed);

	switch (field) {
	case HEAD:
		ring->head = value;
		break;
	case TAIL:
		ring->tail = value;
		break;
	case HEAD_AND_TAIL:
		ring->head = value;
		ring->tail = value ^ (value >> 1);
		break;
	case NR:
		ring->nr = value;
		break;
	case MAGIC:
		ring->magic = value;
		break;
	case FEATURES:
		ring->compat_features = ring->incompat_features = value;
		break;
	case HEADER_LENGTH:
		ring->header_length = value;
		break;
	case ID:
		ring->id = value;
		break;
	case SLOTS:
		scribble_slots(ring, slots, number);
		break;
	default:
		scribble_slots(ring, slots, number);
		ring->head = (unsigned)rand_r(seed);
		ring->tail = (unsigned)rand_r(seed);
		ring->nr = value;
		ring->magic = (unsigned)rand_r(seed);
		ring->header_length = value;
		ring->id = (unsigned)rand_r(seed);
	}
}

/*
 * The context when it happens.
 */

enum state { IDLE, EVENTS_WAIT, IN_FLIGHT, ASLEEP, STATES };

static const char *const state_names[STATES] = { "idle", "with events", "with requests in flight",
						 "with threads asleep" };

#define SLEEPERS 2
#define PENDING 6

/* What a victim's requests use outlives it, for the ring does not tell when they end. */
struct victim {
	io_context_t ctx;
	struct ring *ring;
	unsigned id, slots;
	int file, reader, writer;
	struct iocb iocbs[PENDING + 4];
	struct sleeper sleepers[SLEEPERS];
	bool sleeping;
};

static void victim_submit(struct victim *victim, struct iocb *iocb, bool must)
{
	int result = submit_one(victim->ctx, iocb);

	CHILD_CHECK_MSG(!must || result == 1, "io_submit: %d", result);
}

static void victim_set_up(struct victim *victim, enum state state)
{
	static char bytes[PENDING][8];

	victim->ctx = alone_context(16);
	victim->ring = (struct ring *)(void *)victim->ctx;
	victim->id = victim->ring->id;
	victim->slots = victim->ring->nr;
	victim->sleeping = state == ASLEEP;
	for (int i = 0; i < PENDING && state == EVENTS_WAIT; i++) {
		if (i % 2)
			io_prep_poll(&victim->iocbs[i], victim->writer, POLLOUT);
		else
			io_prep_pread(&victim->iocbs[i], victim->file, bytes[i], 8, 0);
		victim_submit(victim, &victim->iocbs[i], true);
	}
	for (int i = 0; i < PENDING && (state == IN_FLIGHT || state == ASLEEP); i++) {
		if (i % 2 || on_reference())
			io_prep_poll(&victim->iocbs[i], victim->reader, POLLIN);
		else
			io_prep_pread(&victim->iocbs[i], victim->reader, bytes[i], 1, 0);
		victim_submit(victim, &victim->iocbs[i], true);
	}
	for (int i = 0; i < SLEEPERS && victim->sleeping; i++)
		sleeper_start(&victim->sleepers[i], victim->ctx);
}

static void expect_sane(int result, int most, const char *what)
{
	CHILD_CHECK_MSG(result >= -4095 && result <= most, "%s: %s: %d", alone->doing, what,
			result);
}

/* Every call, some of them more than once; what they say is nobody's business. */
static void make_every_call(struct victim *victim)
{
	static struct io_event events[512];
	static char bytes[3][8];
	struct timespec zero = { 0 }, moment = { .tv_nsec = 2000000 };
	io_context_t ctx = victim->ctx;
	struct iocb *last = &victim->iocbs[PENDING];
	struct io_event event;

	expect_sane(io_getevents(ctx, 0, 512, events, &zero), 512, "io_getevents");
	expect_sane(io_getevents(ctx, 1, 4, events, &moment), 4, "io_getevents");
	io_prep_pread(&last[0], victim->file, bytes[0], 8, 0);
	victim_submit(victim, &last[0], false);
	io_prep_fsync(&last[1], victim->file);
	victim_submit(victim, &last[1], false);
	io_prep_poll(&last[2], victim->reader, POLLIN);
	victim_submit(victim, &last[2], false);
	expect_sane(io_cancel(ctx, &last[2], &event), 0, "io_cancel");
	expect_sane(io_cancel(ctx, &victim->iocbs[0], &event), 0, "io_cancel");
	expect_sane(io_getevents(ctx, 3, 512, events, &moment), 512, "io_getevents");
	expect_sane(io_getevents(ctx, 0, 1, events, NULL), 1, "io_getevents");
	expect_sane(io_pgetevents(ctx, 2, 8, events, &moment, NULL), 8, "io_pgetevents");
	CHILD_CHECK(write(victim->writer, "1234", 4) == 4);
	expect_sane(io_getevents(ctx, 4, 512, events, &moment), 512, "io_getevents");
	expect_sane(io_getevents(ctx, 0, 512, events, &zero), 512, "io_getevents");
}

/* With another id the context may be none, until it has its own again. */
static void victim_destroy(struct victim *victim, bool restored)
{
	int result;

	if (restored)
		victim->ring->id = victim->id;
	result = io_destroy(victim->ctx);
	if (result == -EINVAL && !restored) {
		victim->ring->id = victim->id;
		result = io_destroy(victim->ctx);
	}
	CHILD_CHECK_MSG(result == 0, "%s: io_destroy: %d", alone->doing, result);
	for (int i = 0; i < SLEEPERS && victim->sleeping; i++)
		expect_sane(sleeper_join(&victim->sleepers[i]), 1, "who slept");
}

/*
 * Another file than that of the context beside it: a request whose event has been written over may
 * be in flight for ever, and an fsync of its file wait for it until the context is destroyed.
 */
static int open_victims_file(const char *path)
{
	char name[PATH_MAX];
	int file;

	snprintf(name, sizeof(name), "%s.victim", path);
	file = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	CHILD_CHECK(file >= 0 && ftruncate(file, 1 << 20) == 0);
	return file;
}

static void drain(int reader)
{
	char bytes[64];

	while (read(reader, bytes, sizeof(bytes)) > 0)
		;
}

struct hostility {
	const char *path;
	enum state state;
};

static void be_hostile(void *argument)
{
	static struct victim victim;
	const struct hostility *hostility = argument;
	struct actor actor = { .ctx = alone_context(64) };
	int ends[2];
	unsigned seed = 1;

	actor_open(&actor, hostility->path, 3);
	victim.file = open_victims_file(hostility->path);
	for (int field = 0; field < FIELDS; field++)
		for (unsigned number = 0; number < VALUES; number++) {
			/* A pipe of its own: what is lost in flight may read of it later. */
			CHILD_CHECK(pipe2(ends, O_CLOEXEC) == 0);
			victim.reader = ends[0];
			victim.writer = ends[1];
			victim_set_up(&victim, hostility->state);
			alone_does("%s, %s, value %u", state_names[hostility->state],
				   field_names[field], number);
			scribble(victim.ring, victim.slots, (enum field)field, number, &seed);
			make_every_call(&victim);
			victim_destroy(&victim, number % 2);
			CHILD_CHECK(fcntl(ends[0], F_SETFL, O_NONBLOCK) == 0);
			drain(ends[0]);
			close(ends[0]);
			close(ends[1]);
			if (number == 0)
				actor_does_everything(&actor, field_names[field]);
		}
	actor_does_everything(&actor, "in the end");
	alone_destroy(actor.ctx);
}

static void try_hostility(enum state state)
{
	struct hostility hostility = { actor_file(), state };

	run_alone(be_hostile, &hostility, state_names[state]);
}

CASE(an_idle_ring_may_say_anything)
{
	NEEDS_A_PROCESS_OF_ITS_OWN();
	try_hostility(IDLE);
}

CASE(a_ring_with_events_may_say_anything)
{
	NEEDS_A_PROCESS_OF_ITS_OWN();
	try_hostility(EVENTS_WAIT);
}

CASE(a_ring_may_say_anything_with_requests_in_flight)
{
	NEEDS_A_PROCESS_OF_ITS_OWN();
	try_hostility(IN_FLIGHT);
}

CASE(a_ring_may_say_anything_with_threads_asleep)
{
	NEEDS_A_PROCESS_OF_ITS_OWN();
	try_hostility(ASLEEP);
}

/*
 * All the time: from another thread, while calls are made.
 */

struct vandal {
	struct victim *victim;
	_Atomic bool leave;
	unsigned seed;
	pthread_t thread;
};

static void *vandal_main(void *argument)
{
	struct vandal *vandal = argument;
	struct ring *ring = vandal->victim->ring;

	while (!atomic_load(&vandal->leave)) {
		unsigned number = (unsigned)rand_r(&vandal->seed);

		scribble(ring, vandal->victim->slots, (enum field)(number % FIELDS),
			 number / FIELDS % VALUES, &vandal->seed);
		if (number % 3)
			ring->id = vandal->victim->id;
	}
	return NULL;
}

static void live_with_a_vandal(void *argument)
{
	enum { CONTEXTS = 12, CALLS = 15 };
	static struct victim victim;
	struct actor actor = { .ctx = alone_context(64) };

	actor_open(&actor, argument, 3);
	victim.file = open_victims_file(argument);
	for (unsigned round = 0; round < CONTEXTS; round++) {
		struct vandal vandal = { .victim = &victim, .seed = round + 1 };
		int ends[2];

		CHILD_CHECK(pipe2(ends, O_CLOEXEC) == 0);
		victim.reader = ends[0];
		victim.writer = ends[1];
		victim_set_up(&victim, (enum state)(round % STATES));
		alone_does("context %u", round);
		CHILD_CHECK(pthread_create(&vandal.thread, NULL, vandal_main, &vandal) == 0);
		for (int call = 0; call < CALLS; call++)
			make_every_call(&victim);
		if (round % 3 == 0)
			actor_does_everything(&actor, "beside a vandal");
		atomic_store(&vandal.leave, true);
		pthread_join(vandal.thread, NULL);
		alone_does("context %u is destroyed", round);
		victim_destroy(&victim, true);
		close(ends[0]);
		close(ends[1]);
	}
	actor_does_everything(&actor, "in the end");
	alone_destroy(actor.ctx);
}

CASE(a_ring_may_change_all_the_time)
{
	NEEDS_A_PROCESS_OF_ITS_OWN();
	run_alone(live_with_a_vandal, (void *)(uintptr_t)actor_file(), HERE);
}

/* Who waits finds nothing there, and does not look all the time. */
static void wait_where_no_ring_is(void *argument)
{
	io_context_t ctx = alone_context(8);
	const struct ring *ring = (const struct ring *)(void *)ctx;
	size_t bytes = sizeof(*ring) + ring->nr * sizeof(struct io_event);
	struct timespec moment = { .tv_nsec = 200000000 };
	struct rusage before, after;
	struct io_event events[2];
	int file = open_victims_file(argument);
	struct iocb iocb, *batch = &iocb;
	int got;

	io_prep_pwrite(&iocb, file, contract_arena, 4096, 0);
	CHILD_CHECK(mmap((void *)ctx, bytes, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == (void *)ctx);
	alone_does("a wait for what never comes");
	(void)io_submit(ctx, 1, &batch);
	(void)io_submit(ctx, 1, &batch);
	getrusage(RUSAGE_THREAD, &before);
	got = io_getevents(ctx, 2, 2, events, &moment);
	CHILD_CHECK(got >= 0);
	getrusage(RUSAGE_THREAD, &after);
	/* Where the ring is not the kernel's both are there. */
	CHILD_CHECK(got == 2 || after.ru_nvcsw > before.ru_nvcsw);
	alone_destroy(ctx);
}

CASE(a_ring_may_be_replaced)
{
	NEEDS_A_PROCESS_OF_ITS_OWN();
	run_alone(wait_where_no_ring_is, (void *)(uintptr_t)actor_file(), HERE);
}

/*
 * Programs that reap by themselves.
 */

#define SKIP_WITHOUT_KERNEL_RING()                                                                 \
	do {                                                                                       \
		if (setup_error_of_foreign_reapers() != 0)                                         \
			SKIP("no ring of the kernel's here");                                      \
	} while (0)

struct guest {
	pid_t pid;
	int output;
};

static void guest_start(struct guest *guest, const char *const arguments[])
{
	char path[PATH_MAX], *slash;
	ssize_t length = readlink("/proc/self/exe", path, sizeof(path) / 2);
	int ends[2];

	ck_assert_int_gt(length, 0);
	path[length] = '\0';
	slash = strrchr(path, '/');
	snprintf(slash + 1, sizeof(path) / 2, "programs/hostile");
	make_pipe(ends, 0);
	guest->pid = fork();
	ck_assert_int_ge(guest->pid, 0);
	if (guest->pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(ends[1], STDOUT_FILENO);
		execv(path, (char *const *)(uintptr_t)arguments);
		_exit(127);
	}
	close(ends[1]);
	guest->output = ends[0];
}

static void guest_says(struct guest *guest, const char *expected)
{
	struct pollfd look = { .fd = guest->output, .events = POLLIN };
	char line[256];
	size_t length = 0;
	int status = 0;

	do {
		int ready = poll(&look, 1, 2 * EVENT_LIMIT_SECONDS * 1000);

		if (ready != 1)
			kill(guest->pid, SIGKILL);
		ck_assert_msg(ready == 1, "it hangs where it should say \"%s\"", expected);
		if (read(guest->output, line + length, 1) != 1) {
			waitpid(guest->pid, &status, 0);
			ck_abort_msg("it has ended with wait status 0x%x and has not said \"%s\"",
				     (unsigned)status, expected);
		}
		ck_assert_uint_lt(++length, sizeof(line));
	} while (line[length - 1] != '\n');
	line[length - 1] = '\0';
	ck_assert_str_eq(line, expected);
}

static void guest_ends(struct guest *guest)
{
	int status = -1;

	guest_says(guest, "ok");
	WAIT_UNTIL(waitpid(guest->pid, &status, WNOHANG) == guest->pid);
	ck_assert_msg(status == 0, "its wait status is 0x%x", (unsigned)status);
	close(guest->output);
	free_context(new_context(1));
}

static const char *passthrough_engine(void)
{
	return on_reference() ? "reference" : "native-passthrough";
}

CASE(contexts_come_and_go_beside_others_that_synchronize)
{
	const char *const arguments[] = { "hostile", "churn", "200", actor_file(), NULL };
	struct guest guest;

	SKIP_WITHOUT_KERNEL_RING();
	guest_start(&guest, arguments);
	guest_says(&guest, passthrough_engine());
	guest_ends(&guest);
}

CASE(a_held_fsync_leaves_the_notification_of_a_message_queue_alone)
{
	struct scene scene;
	struct guest guest;

	if (UNDER_THREAD_SANITIZER)
		SKIP("ThreadSanitizer delays the signal");
	SKIP_WITHOUT_KERNEL_RING();
	SCENE_OPEN(&scene);
	for (int round = 0; round < 3; round++) {
		const char *const arguments[] = { "hostile", "notify",
						  holdfs_path(scene.fs, SUBJECT), NULL };
		unsigned reads = holdfs_count(scene.fs, HOLDFS_READ), before = syncs(&scene);

		holdfs_hold(scene.fs, HOLDFS_READ);
		guest_start(&guest, arguments);
		guest_says(&guest, passthrough_engine());
		holdfs_wait_arrived(scene.fs, HOLDFS_READ, reads);
		sync_is_silently_held(&scene, before);
		holdfs_release_all(scene.fs);
		guest_ends(&guest);
	}
	scene_close(&scene);
}

CASE(a_ring_that_the_library_follows_may_say_anything)
{
	enum { SCRIBBLES = 42 };
	struct scene scene;
	struct guest guest;

	if (UNDER_THREAD_SANITIZER)
		SKIP("to write over the ring meanwhile is a race, and meant to be");
	SKIP_WITHOUT_KERNEL_RING();
	SCENE_OPEN(&scene);
	for (int number = 0; number < SCRIBBLES; number++) {
		char text[16];
		const char *const arguments[] = { "hostile", "scribble",
						  holdfs_path(scene.fs, SUBJECT), text, NULL };

		snprintf(text, sizeof(text), "%d", number);
		holdfs_hold(scene.fs, HOLDFS_READ);
		guest_start(&guest, arguments);
		guest_says(&guest, passthrough_engine());
		guest_says(&guest, "scribbled");
		holdfs_release_all(scene.fs);
		guest_ends(&guest);
	}
	scene_close(&scene);
}
