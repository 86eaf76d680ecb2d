/* SPDX-License-Identifier: MIT */
/*
 * A program that reaps completions without libaio's help: it imports io_submit and none of the
 * calls that reap, and reads the ring in memory (as QEMU does) or makes the io_getevents system
 * call itself (as MariaDB does).  It says on standard output what it sees, one line a fact, and
 * judges nothing: the test that started it holds the file's disk and does that.
 *
 *	passthrough ring|syscall ROUNDS FILE REQUEST... [/ REQUEST...] ...
 *	passthrough destroy
 *	passthrough object FILE
 *
 * REQUEST is w0, w1, ... (write of that 4 KiB block), r0, r1, ..., f (FSYNC) or d (FDSYNC); each
 * "/" starts another io_submit.  All of them share one eventfd.  From the last io_submit to the
 * last event the library is not called.  That happens ROUNDS times.  "destroy" ends a context while
 * another thread waits in it.  "object" makes contexts here and in a shared object.
 *
 * Nothing shared with the tests may be linked in here: it would bring the reaping calls with it.
 */
#include "../not_fuse.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libaio.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BLOCK_BYTES 4096
#define REQUESTS_MAX 64

struct ring {
	uint32_t id;
	uint32_t nr;
	uint32_t head;
	uint32_t tail;
	uint32_t magic;
	uint32_t compat_features;
	uint32_t incompat_features;
	uint32_t header_length;
	struct io_event events[];
};

static struct iocb iocbs[REQUESTS_MAX];
static int request_count;
static int event_count;

static void die(const char *what, int error)
{
	fprintf(stderr, "passthrough: %s: %s\n", what, strerror(error));
	exit(1);
}

static void tell_context(io_context_t ctx)
{
	void *symbol = dlsym(RTLD_DEFAULT, "trueaio_engine"); /* another libaio has none */
	const char *(*engine)(io_context_t) = NULL;

	memcpy(&engine, &symbol, sizeof(engine));
	printf("context %08" PRIx32 " %s\n", ((struct ring *)(void *)ctx)->magic,
	       engine ? engine(ctx) : "reference");
	fflush(stdout);
}

static io_context_t set_up(void)
{
	io_context_t ctx = NULL;
	int result = io_setup(REQUESTS_MAX, &ctx);

	if (result < 0)
		die("io_setup", -result);
	tell_context(ctx);
	return ctx;
}

static void prepare(struct iocb *iocb, const char *request, int fd, int eventfd_number)
{
	static char blocks[REQUESTS_MAX][BLOCK_BYTES] __attribute__((aligned(BLOCK_BYTES)));
	char *block = blocks[iocb - iocbs];
	long number = strtol(request + 1, NULL, 10);

	if (request[0] == 'f') {
		io_prep_fsync(iocb, fd);
	} else if (request[0] == 'd') {
		io_prep_fdsync(iocb, fd);
	} else {
		memset(block, 'a' + (int)number % 26, BLOCK_BYTES);
		if (request[0] == 'w')
			io_prep_pwrite(iocb, fd, block, BLOCK_BYTES, number * BLOCK_BYTES);
		else
			io_prep_pread(iocb, fd, block, BLOCK_BYTES, number * BLOCK_BYTES);
	}
	iocb->data = (void *)(uintptr_t)request;
	io_set_eventfd(iocb, eventfd_number);
}

static void submit_all(io_context_t ctx, char **requests, int fd, int eventfd_number)
{
	while (*requests) {
		struct iocb *batch[REQUESTS_MAX];
		long batch_count = 0;

		for (; *requests && strcmp(*requests, "/") != 0; requests++) {
			if (request_count == REQUESTS_MAX)
				die("too many requests", E2BIG);
			prepare(&iocbs[request_count], *requests, fd, eventfd_number);
			batch[batch_count++] = &iocbs[request_count++];
		}
		if (*requests)
			requests++;
		printf("submitted %d\n", io_submit(ctx, batch_count, batch));
	}
	fflush(stdout);
}

static void tell(const struct io_event *event)
{
	bool own = event->obj >= iocbs && event->obj < iocbs + request_count &&
		   event->obj->data == event->data;

	printf("event %s %ld %s\n", (const char *)event->data, (long)event->res,
	       own ? "own" : "foreign");
	fflush(stdout);
	event_count++;
}

static uint64_t wait_for_eventfd(int eventfd_number)
{
	struct pollfd wait = { .fd = eventfd_number, .events = POLLIN };
	uint64_t count = 0;

	if (poll(&wait, 1, -1) != 1 || read(eventfd_number, &count, sizeof(count)) != sizeof(count))
		die("eventfd", errno);
	return count;
}

/*
 * The ring's events are there before the eventfd is readable, so each round finds at least its
 * count.
 */
static uint64_t reap_ring(io_context_t ctx, int eventfd_number)
{
	struct ring *ring = (struct ring *)(void *)ctx;
	uint64_t signals = 0;

	while (event_count < request_count || signals < (uint64_t)request_count) {
		uint32_t head = __atomic_load_n(&ring->head, __ATOMIC_RELAXED);

		signals += wait_for_eventfd(eventfd_number);
		while (head != __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE)) {
			tell(&ring->events[head]);
			head = (head + 1) % ring->nr;
			__atomic_store_n(&ring->head, head, __ATOMIC_RELEASE);
		}
	}
	return signals;
}

static uint64_t reap_syscall(io_context_t ctx, int eventfd_number)
{
	uint64_t signals = 0;

	while (event_count < request_count) {
		struct io_event events[8];
		long count = syscall(SYS_io_getevents, ctx, 1, 8, events, NULL);

		if (count < 0)
			die("io_getevents", errno);
		for (long i = 0; i < count; i++)
			tell(&events[i]);
	}
	while (signals < (uint64_t)request_count)
		signals += wait_for_eventfd(eventfd_number);
	return signals;
}

static int run(bool by_ring, long rounds, const char *path, char **requests)
{
	int fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	int eventfd_number = eventfd(0, EFD_CLOEXEC);
	io_context_t ctx = set_up();

	if (fd < 0 || eventfd_number < 0)
		die(path, errno);
	while (rounds-- > 0) {
		uint64_t signals;

		request_count = event_count = 0;
		submit_all(ctx, requests, fd, eventfd_number);
		signals = by_ring ? reap_ring(ctx, eventfd_number)
				  : reap_syscall(ctx, eventfd_number);
		printf("eventfd %" PRIu64 "\n", signals);
	}
	printf("destroyed %d\n", io_destroy(ctx));
	return 0;
}

struct waiter {
	io_context_t ctx;
	pid_t thread;
	long result;
};

static void *wait_in_kernel(void *argument)
{
	struct waiter *waiter = argument;
	struct io_event events[256];

	__atomic_store_n(&waiter->thread, gettid(), __ATOMIC_RELEASE);
	waiter->result = syscall(SYS_io_getevents, waiter->ctx, 1, 256, events, NULL);
	if (waiter->result < 0)
		waiter->result = -errno;
	return NULL;
}

static bool blocked_in_getevents(const struct waiter *waiter)
{
	pid_t thread = __atomic_load_n(&waiter->thread, __ATOMIC_ACQUIRE);
	char path[64];
	long number = -1;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", thread);
	file = thread ? fopen(path, "re") : NULL;
	if (!file)
		return false;
	if (fscanf(file, "%ld", &number) != 1)
		number = -1;
	fclose(file);
	return number == SYS_io_getevents;
}

static int destroy_under_waiter(void)
{
	struct waiter waiter = { .ctx = set_up() };
	pthread_t thread;

	if (pthread_create(&thread, NULL, wait_in_kernel, &waiter))
		die("pthread_create", EAGAIN);
	while (!blocked_in_getevents(&waiter))
		usleep(1000);
	printf("destroyed %d\n", io_destroy(waiter.ctx));
	fflush(stdout);
	pthread_join(thread, NULL);
	printf("waiter %ld\n", waiter.result);
	return 0;
}

static int load_object(const char *path)
{
	void *object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	void *symbol = object ? dlsym(object, "object_setup") : NULL;
	int (*object_setup)(int, io_context_t *);
	io_context_t ctx = NULL;

	if (!symbol) {
		fprintf(stderr, "passthrough: %s\n", dlerror());
		return 1;
	}
	set_up();
	memcpy(&object_setup, &symbol, sizeof(object_setup));
	if (object_setup(1, &ctx) != 0)
		die("object_setup", EIO);
	tell_context(ctx);
	set_up();
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "destroy") == 0)
		return destroy_under_waiter();
	if (argc == 3 && strcmp(argv[1], "object") == 0)
		return load_object(argv[2]);
	if (argc < 5) {
		fprintf(stderr, "usage: passthrough ring|syscall ROUNDS FILE REQUEST... | destroy |"
				" object FILE\n");
		return 2;
	}
	return run(strcmp(argv[1], "ring") == 0, strtol(argv[2], NULL, 10), argv[3], argv + 4);
}
