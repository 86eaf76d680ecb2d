/* SPDX-License-Identifier: MIT */
/*
 * A program that reaps completions without libaio's help, as programs/passthrough, and is no good
 * guest: it destroys contexts beside others in use, asks the kernel for a notice that closing the
 * wrong descriptor would take away, and writes into its rings what it likes.  On standard output it
 * says by what it is served, and "ok" in the end, or what it has found.
 *
 *	hostile churn ROUNDS FILE	contexts come and go while others synchronize FILE
 *	hostile notify FILE		a read and an fsync, with a notice of mq_notify(3) asked for
 *	hostile scribble FILE NUMBER	a read and an fsync, while the ring says something else
 *
 * It imports none of the calls that reap, and nothing shared with the tests may be linked in.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libaio.h>
#include <mqueue.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BLOCK_BYTES 4096
#define EVENTS 64

struct ring {
	uint32_t id, nr, head, tail, magic, compat_features, incompat_features, header_length;
	struct io_event events[];
};

static char block[BLOCK_BYTES] __attribute__((aligned(BLOCK_BYTES)));

static void die(const char *what, long error)
{
	printf("%s: %ld\n", what, error);
	fflush(stdout);
	_exit(1);
}

static io_context_t set_up(void)
{
	io_context_t ctx = NULL;
	int result = io_setup(EVENTS, &ctx);

	if (result != 0)
		die("io_setup", result);
	return ctx;
}

static void tell_engine(io_context_t ctx)
{
	void *symbol = dlsym(RTLD_DEFAULT, "trueaio_engine"); /* another libaio has none */
	const char *(*engine)(io_context_t) = NULL;

	memcpy(&engine, &symbol, sizeof(engine));
	printf("%s\n", engine ? engine(ctx) : "reference");
	fflush(stdout);
}

static void submit(io_context_t ctx, struct iocb **iocbs, long count)
{
	int result = io_submit(ctx, count, iocbs);

	if (result != count)
		die("io_submit", result);
}

/* As the kernel's io_getevents has them. */
static void take(io_context_t ctx, long count)
{
	while (count > 0) {
		struct io_event events[8];
		long got = syscall(SYS_io_getevents, ctx, 1, 8, events, NULL);

		if (got < 0)
			die("io_getevents", -errno);
		for (long i = 0; i < got; i++)
			if ((long)events[i].res < 0)
				die("event", (long)events[i].res);
		count -= got;
	}
}

static struct iocb iocbs[3];

static void prepare(int fd)
{
	io_prep_pread(&iocbs[0], fd, block, BLOCK_BYTES, 0);
	io_prep_fsync(&iocbs[1], fd);
	io_prep_fdsync(&iocbs[2], fd);
}

/*
 * One thread makes contexts, uses them and destroys them; two synchronize a file in others.
 */

static _Atomic bool over;
static int churned_fd;

static void *synchronize(void *argument)
{
	io_context_t ctx = set_up();
	uintptr_t seed = (uintptr_t)argument;

	for (int i = 0; !atomic_load(&over); i++) {
		struct iocb own[2], *list[2] = { &own[0], &own[1] };

		io_prep_pwrite(&own[0], churned_fd, block, BLOCK_BYTES,
			       (long long)seed * BLOCK_BYTES);
		io_prep_fdsync(&own[1], churned_fd);
		submit(ctx, list, 2);
		take(ctx, 2);
		if (i % 8 == 0) {
			if (io_destroy(ctx) != 0)
				die("io_destroy", 1);
			ctx = set_up();
		}
	}
	return NULL;
}

static int churn(long rounds, const char *path)
{
	pthread_t threads[2];

	churned_fd = open(path, O_RDWR | O_CLOEXEC);
	if (churned_fd < 0)
		die(path, errno);
	tell_engine(set_up());
	for (uintptr_t i = 0; i < 2; i++)
		if (pthread_create(&threads[i], NULL, synchronize, (void *)i))
			die("pthread_create", EAGAIN);
	for (long round = 0; round < rounds; round++) {
		io_context_t ctx = set_up();
		struct iocb own, *list = &own;

		if (round % 2) {
			io_prep_fsync(&own, churned_fd);
			submit(ctx, &list, 1);
		}
		if (round % 4 == 3)
			take(ctx, 1);
		if (io_destroy(ctx) != 0)
			die("io_destroy", 2);
	}
	atomic_store(&over, true);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	return 0;
}

/*
 * The notice of a message queue belongs to the process: any close of the queue's file takes it
 * away.
 */

static volatile sig_atomic_t noticed;

static void notice(int number)
{
	noticed = number;
}

static int notify(const char *path)
{
	struct mq_attr attributes = { .mq_maxmsg = 4, .mq_msgsize = 16 };
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1 };
	struct iocb *list[3] = { &iocbs[0], &iocbs[1], &iocbs[2] };
	io_context_t ctx = set_up();
	char name[32];
	mqd_t queue;
	int fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);

	tell_engine(ctx);
	snprintf(name, sizeof(name), "/trueaio-%d", getpid());
	signal(SIGUSR1, notice);
	queue = mq_open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600, &attributes);
	if (queue < 0 || fd < 0) {
		printf("no message queue: %s\n", strerror(errno));
		return 1;
	}
	mq_unlink(name);
	if (mq_notify(queue, &event) != 0)
		die("mq_notify", errno);
	prepare(fd);
	submit(ctx, list, 3);
	take(ctx, 3);
	if (io_destroy(ctx) != 0)
		die("io_destroy", 0);
	if (mq_send(queue, "hi", 2, 0) != 0)
		die("mq_send", errno);
	/* It has come when the call returns. */
	if (noticed != SIGUSR1) {
		printf("the notice was taken away\n");
		return 1;
	}
	return 0;
}

/*
 * The ring is the program's memory.
 */

static void scribble_in(struct ring *ring, int number)
{
	uint32_t values[] = { ring->nr, ring->nr + 1, 0x7fffffff, 0x80000000, 0xffffffff, 0, 1 };
	uint32_t value = values[number % 7], slots = ring->nr;

	switch (number / 7) {
	case 0:
		ring->head = value;
		break;
	case 1:
		ring->tail = value;
		break;
	case 2:
		ring->head = value;
		ring->tail = value / 2 + 1;
		break;
	case 3:
		ring->nr = value;
		break;
	case 4:
		ring->magic = value;
		ring->header_length = value;
		break;
	default:
		memset(ring->events, (int)value, slots * sizeof(ring->events[0]));
		ring->head = 0;
		ring->tail = slots - 1;
	}
}

/* The test lets the read go when it has seen that the fsyncs are held. */
static int scribble(const char *path, int number)
{
	struct iocb *list[3] = { &iocbs[0], &iocbs[1], &iocbs[2] };
	int fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC), counter = eventfd(0, EFD_CLOEXEC);
	io_context_t ctx = set_up(), other = set_up();
	uint64_t count, total = 0;

	tell_engine(ctx);
	if (fd < 0 || counter < 0)
		die(path, errno);
	prepare(fd);
	for (int i = 0; i < 3; i++)
		io_set_eventfd(&iocbs[i], counter);
	submit(ctx, list, 3);
	scribble_in((struct ring *)(void *)ctx, number);
	printf("scribbled\n");
	fflush(stdout);
	/* The disk's read signals whatever the ring says. */
	if (read(counter, &count, sizeof(count)) != sizeof(count))
		die("eventfd", errno);
	total += count;
	if (io_destroy(ctx) != 0)
		die("io_destroy", 0);
	prepare(fd);
	submit(other, list, 3);
	take(other, 3);
	if (io_destroy(other) != 0)
		die("io_destroy", 1);
	return total < 1;
}

int main(int argc, char **argv)
{
	int result = 2;

	if (argc == 4 && strcmp(argv[1], "churn") == 0)
		result = churn(strtol(argv[2], NULL, 10), argv[3]);
	else if (argc == 3 && strcmp(argv[1], "notify") == 0)
		result = notify(argv[2]);
	else if (argc == 4 && strcmp(argv[1], "scribble") == 0)
		result = scribble(argv[2], atoi(argv[3]));
	else
		printf("usage: hostile churn ROUNDS FILE | notify FILE | scribble FILE NUMBER\n");
	if (result == 0)
		printf("ok\n");
	return result;
}
