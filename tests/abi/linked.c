/* SPDX-License-Identifier: MIT */
/*
 * A program for linking.bats, in parts that are compiled together or into objects of their own:
 *
 *	-DSETUP		set_up calls io_setup; with -DTAIL_CALL it jumps there
 *	-DSUBMIT	send calls io_submit
 *	-DTAKE=...	take takes the events: GETEVENTS, GETEVENTS_0_1, PGETEVENTS or QUEUE_RUN by
 *			the library's function, RING in memory, SYSCALL by a system call
 *	-DMAIN		the rest
 *
 * With -DBY_ADDRESS functions are called through a table of their addresses, with -DBY_DLSYM the
 * library is loaded and its functions looked up.  -DQUEUE_WAIT calls io_queue_wait as well.
 * -DREFERS is for a reference to io_getevents that nobody uses.
 *
 * Three blocks are written to FILE, each with the same eventfd.  When it has counted three, the
 * program takes what there is, and prints what it found:
 *
 *	MAGIC-OF-THE-RING ENGINE NUMBER-OF-EVENTS-WITH-ITS-OWN-IOCB
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <libaio.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#define REQUESTS 3
#define BLOCK_BYTES 4096

#define GETEVENTS 1
#define GETEVENTS_0_1 2
#define PGETEVENTS 3
#define QUEUE_RUN 4
#define RING 5
#define SYSCALL 6

struct ring {
	unsigned id, nr, head, tail, magic, compat_features, incompat_features, header_length;
	struct io_event events[];
};

int set_up(int count, io_context_t *ctx);
int send(io_context_t ctx, long count, struct iocb **iocbs);
void take(io_context_t ctx);
void took(const struct iocb *iocb);

#ifdef BY_DLSYM

static void *look_up(const char *name)
{
	static void *library;
	void *symbol;

	if (!library)
		library = dlopen("libaio.so.1", RTLD_NOW | RTLD_LOCAL);
	symbol = library ? dlsym(library, name) : NULL;
	if (!symbol) {
		fprintf(stderr, "%s\n", dlerror());
		exit(1);
	}
	return symbol;
}

#define CALL(name) ((__typeof__(&name))look_up(#name))

#elif defined(BY_ADDRESS)

/* Volatile, or the compiler would call the functions themselves. */
#define CALL(name)                                                                                 \
	({                                                                                         \
		static __typeof__(&name) volatile address = name;                                  \
		address;                                                                           \
	})

#else
#define CALL(name) name
#endif

#ifdef SETUP
int set_up(int count, io_context_t *ctx)
{
#ifdef TAIL_CALL
	return CALL(io_setup)(count, ctx);
#else
	int result = CALL(io_setup)(count, ctx);

	return result > 0 ? 0 : result;
#endif
}
#endif

#ifdef SUBMIT
int send(io_context_t ctx, long count, struct iocb **iocbs)
{
	return CALL(io_submit)(ctx, count, iocbs);
}
#endif

#ifdef TAKE

#if TAKE == GETEVENTS_0_1
int getevents_0_1(io_context_t ctx, long nr, struct io_event *events,
		  const struct timespec *timeout);
__asm__(".symver getevents_0_1, io_getevents@LIBAIO_0.1");
#endif

#if TAKE == QUEUE_RUN
static void called_back(io_context_t ctx, struct iocb *iocb, long result, long unused)
{
	(void)ctx;
	(void)unused;
	if (result == BLOCK_BYTES)
		took(iocb);
}
#elif TAKE == RING
static int take_from_ring(struct ring *ring, struct io_event *events)
{
	unsigned head = ring->head;
	int count = 0;

	while (count < REQUESTS && head != __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE)) {
		events[count++] = ring->events[head];
		head = (head + 1) % ring->nr;
		__atomic_store_n(&ring->head, head, __ATOMIC_RELEASE);
	}
	return count;
}
#endif

void take(io_context_t ctx)
{
	struct timespec at_once = { 0, 0 };
	struct io_event events[REQUESTS];
	int count = 0, i;

	(void)at_once;
#if TAKE == GETEVENTS
	count = CALL(io_getevents)(ctx, 0, REQUESTS, events, &at_once);
#elif TAKE == GETEVENTS_0_1
	count = getevents_0_1(ctx, REQUESTS, events, NULL);
#elif TAKE == PGETEVENTS
	count = CALL(io_pgetevents)(ctx, 0, REQUESTS, events, &at_once, NULL);
#elif TAKE == QUEUE_RUN
	CALL(io_queue_run)(ctx);
#elif TAKE == RING
	count = take_from_ring((struct ring *)(void *)ctx, events);
#elif TAKE == SYSCALL
	count = (int)syscall(SYS_io_getevents, ctx, 0, REQUESTS, events, &at_once);
#endif
	for (i = 0; i < count; i++)
		if ((long)events[i].res == BLOCK_BYTES && events[i].obj == events[i].data)
			took(events[i].obj);
}

#endif

#ifdef REFERS
int (*volatile unused_getevents)(io_context_t, long, long, struct io_event *,
				 struct timespec *) = io_getevents;
#endif

#ifdef MAIN

static struct iocb iocbs[REQUESTS];
static char block[BLOCK_BYTES];
static int own;

void took(const struct iocb *iocb)
{
	own += iocb >= iocbs && iocb < iocbs + REQUESTS;
}

static void die(const char *what, int error)
{
	fprintf(stderr, "%s: %s\n", what, strerror(error));
	exit(1);
}

int main(int argc, char **argv)
{
	struct iocb *batch[REQUESTS];
	io_context_t ctx = NULL;
	uint64_t signals = 0, some;
	int fd, signal, i, rc;

	fd = argc == 2 ? open(argv[1], O_RDWR | O_CREAT | O_TRUNC, 0600) : -1;
	signal = eventfd(0, 0);
	if (fd < 0 || signal < 0)
		die("open", errno);
	rc = set_up(REQUESTS, &ctx);
	if (rc < 0)
		die("io_setup", -rc);
	memset(block, 'x', sizeof(block));
	for (i = 0; i < REQUESTS; i++) {
		io_prep_pwrite(&iocbs[i], fd, block, sizeof(block), (long long)i * BLOCK_BYTES);
		io_set_eventfd(&iocbs[i], signal);
		iocbs[i].data = &iocbs[i];
#if defined(TAKE) && TAKE == QUEUE_RUN
		io_set_callback(&iocbs[i], called_back);
#endif
		batch[i] = &iocbs[i];
	}
	rc = send(ctx, REQUESTS, batch);
	if (rc != REQUESTS)
		die("io_submit", -rc);
	for (; signals < REQUESTS; signals += some)
		if (read(signal, &some, sizeof(some)) != sizeof(some))
			die("eventfd", errno);
#ifdef QUEUE_WAIT
	rc = CALL(io_queue_wait)(ctx, NULL);
	if (rc < 0)
		die("io_queue_wait", -rc);
#endif
	take(ctx);
	printf("%08x %s %d\n", ((struct ring *)(void *)ctx)->magic, CALL(trueaio_engine)(ctx), own);
	rc = CALL(io_destroy)(ctx);
	if (rc < 0)
		die("io_destroy", -rc);
	for (i = 0; i < REQUESTS; i++)
		if (pread(fd, block, 1, (off_t)i * BLOCK_BYTES) != 1 || block[0] != 'x')
			die("the file", EIO);
	return 0;
}

#endif
