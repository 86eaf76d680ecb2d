/* SPDX-License-Identifier: MIT */
/*
 * A program with threads, in which a signal arrives while malloc has its lock.  The handler
 * submits, cancels and reaps.  What is accepted there is let go afterwards, and its events taken.
 *
 *	locked_malloc cold|warm FILE
 *
 * "warm" has had its first requests of each kind before.  It says one line for each call of the
 * handler, "NAME RESULT", and in the end "events TAKEN of ACCEPTED".
 *
 * The lock is the program's own, around what the C library does.  A thread that would wait for
 * itself says so, and ends the program; others wait, as they would for an arena of the C library.
 */
#include <errno.h>
#include <fcntl.h>
#include <libaio.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BLOCK_BYTES 4096
#define LIMIT_SECONDS 20 /* the end of a program that hangs */

static volatile bool armed;

/* A sanitizer has a malloc of its own. */
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
static _Atomic pid_t lock_owner;

static void lock(void)
{
	static const char complaint[] = "allocation while malloc is interrupted\n";
	pid_t self = (pid_t)syscall(SYS_gettid), none = 0;

	while (!atomic_compare_exchange_weak(&lock_owner, &none, self)) {
		if (none == self) {
			if (write(STDOUT_FILENO, complaint, sizeof(complaint) - 1) < 0)
				_exit(4);
			_exit(3);
		}
		none = 0;
		syscall(SYS_sched_yield);
	}
	if (armed) {
		armed = false;
		raise(SIGUSR1);
	}
}

static void unlock(void)
{
	atomic_store(&lock_owner, 0);
}

void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);
void __libc_free(void *);

#define LOCKED(call)                                                                               \
	do {                                                                                       \
		void *result;                                                                      \
		lock();                                                                            \
		result = call;                                                                     \
		unlock();                                                                          \
		return result;                                                                     \
	} while (0)

void *malloc(size_t bytes)
{
	LOCKED(__libc_malloc(bytes));
}

void *calloc(size_t count, size_t bytes)
{
	LOCKED(__libc_calloc(count, bytes));
}

void *realloc(void *old, size_t bytes)
{
	LOCKED(__libc_realloc(old, bytes));
}

void *memalign(size_t alignment, size_t bytes)
{
	LOCKED(__libc_memalign(alignment, bytes));
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
	LOCKED(__libc_memalign(alignment, bytes));
}

int posix_memalign(void **place, size_t alignment, size_t bytes)
{
	void *result = memalign(alignment, bytes);

	if (!result)
		return ENOMEM;
	*place = result;
	return 0;
}

void free(void *block)
{
	lock();
	__libc_free(block);
	unlock();
}
#endif

enum call { PIPE, POLL, SYNC, COLD, CALLS };

static const char *const call_names[CALLS] = { "pipe", "poll", "sync", "cold" };

static io_context_t ctx;
static int ends[2], event_fd, buffered, direct;
static char bytes[3][BLOCK_BYTES] __attribute__((aligned(BLOCK_BYTES)));
static struct iocb iocbs[CALLS + 1];
static volatile int submitted[CALLS], cancelled, reaped;
static bool reference;

static void prepare(void)
{
	io_prep_pread(&iocbs[PIPE], ends[0], bytes[0], 1, 0);
	io_prep_poll(&iocbs[POLL], event_fd, POLLIN);
	/* A write and an fsync behind it. */
	io_prep_pwrite(&iocbs[SYNC], direct, bytes[1], BLOCK_BYTES, 0);
	io_prep_fsync(&iocbs[CALLS], direct);
	io_prep_pread(&iocbs[COLD], buffered, bytes[2], BLOCK_BYTES, 64LL * BLOCK_BYTES);
	posix_fadvise(buffered, 0, 0, POSIX_FADV_DONTNEED);
	posix_fadvise(buffered, 0, 0, POSIX_FADV_RANDOM);
	/* The reference would wait in io_submit. */
	if (reference && write(ends[1], "x", 1) != 1)
		exit(1);
}

static void submit_all(void)
{
	for (int i = 0; i < CALLS; i++) {
		struct iocb *batch[] = { &iocbs[i], &iocbs[CALLS] };

		submitted[i] = io_submit(ctx, i == SYNC ? 2 : 1, batch);
	}
}

static void handle(int number)
{
	struct timespec zero = { 0 };
	struct io_event event;

	(void)number;
	submit_all();
	cancelled = submitted[POLL] == 1 ? io_cancel(ctx, &iocbs[POLL], &event) : 0;
	reaped = io_getevents(ctx, 0, 1, &event, &zero);
}

/* Lets go all that was accepted, and takes its events; returns how many of how many. */
static int take_all(int *accepted)
{
	struct timespec limit = { .tv_sec = LIMIT_SECONDS / 2 };
	struct io_event event;
	int taken = reaped > 0 ? reaped : 0;

	*accepted = 0;
	for (int i = 0; i < CALLS; i++)
		*accepted += submitted[i] > 0 ? submitted[i] : 0;
	if (!reference && submitted[PIPE] == 1 && write(ends[1], "x", 1) != 1)
		exit(1);
	eventfd_write(event_fd, 1);
	while (taken < *accepted && io_getevents(ctx, 1, 1, &event, &limit) == 1)
		taken++;
	eventfd_read(event_fd, &(eventfd_t){ 0 });
	return taken;
}

static void *stay(void *argument)
{
	for (;;)
		pause();
	return argument;
}

static void die(const char *what)
{
	perror(what);
	exit(1);
}

int main(int argc, char **argv)
{
	const char *engine = getenv("TRUEAIO_ENGINE");
	void *volatile block;
	int accepted, taken;
	pthread_t thread;

	if (argc != 3) {
		fprintf(stderr, "usage: locked_malloc cold|warm FILE\n");
		return 2;
	}
	alarm(LIMIT_SECONDS);
	reference = engine && strcmp(engine, "reference") == 0;
	buffered = open(argv[2], O_RDWR | O_CLOEXEC);
	direct = open(argv[2], O_RDWR | O_DIRECT | O_CLOEXEC);
	if (direct < 0)
		direct = open(argv[2], O_RDWR | O_CLOEXEC);
	event_fd = eventfd(0, EFD_CLOEXEC);
	if (buffered < 0 || event_fd < 0 || pipe2(ends, O_CLOEXEC) != 0)
		die(argv[2]);
	if (pthread_create(&thread, NULL, stay, NULL) != 0 || io_setup(16, &ctx) != 0)
		die("io_setup");
	signal(SIGUSR1, handle);
	if (strcmp(argv[1], "warm") == 0) {
		prepare();
		submit_all();
		taken = take_all(&accepted);
		if (accepted != CALLS + 1 || taken != accepted)
			die("the first requests");
	}
	prepare();
	armed = true;
	block = malloc(100);
	free(block);
	for (int i = 0; i < CALLS; i++)
		printf("%s %d\n", call_names[i], submitted[i]);
	printf("cancel %d\nreap %d\n", cancelled, reaped);
	taken = take_all(&accepted);
	printf("events %d of %d\n", taken, accepted);
	printf("destroy %d\n", io_destroy(ctx));
	return 0;
}
