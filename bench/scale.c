/* SPDX-License-Identifier: MIT */
/*
 * How far a process gets: many contexts, many requests in flight, many set-ups and destroys.
 *
 *   scale contexts N	N contexts at a time, a request in each; bytes for each context
 *   scale requests N	N reads in flight on one context; bytes for each request
 *   scale cycles N	N times io_setup, a read, io_destroy; what is left of it
 *
 * Bytes are of resident memory, before and after, the process's own (not the kernel's).  Exits with
 * 1 if a request got a wrong result, an event was missing, or something was left behind.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libaio.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BATCH 1024
#define READ_BYTES 8

static void fail(const char *what, int result)
{
	fprintf(stderr, "scale: %s: %s\n", what, strerror(-result));
	exit(1);
}

static long resident_bytes(void)
{
	FILE *file = fopen("/proc/self/statm", "re");
	long size, resident = 0;

	if (!file || fscanf(file, "%ld %ld", &size, &resident) != 2)
		fail("/proc/self/statm", -errno);
	fclose(file);
	return resident * sysconf(_SC_PAGESIZE);
}

static long entries(const char *directory)
{
	DIR *stream = opendir(directory);
	long count = -2;

	if (!stream)
		fail(directory, -errno);
	while (readdir(stream))
		count++;
	closedir(stream);
	return count;
}

static long mappings(void)
{
	FILE *file = fopen("/proc/self/maps", "re");
	long count = 0;
	int c;

	if (!file)
		fail("/proc/self/maps", -errno);
	while ((c = getc(file)) != EOF)
		count += c == '\n';
	fclose(file);
	return count;
}

static double seconds_since(const struct timespec *start)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - start->tv_sec) + (double)(now.tv_nsec - start->tv_nsec) / 1e9;
}

static void make_pipe(int ends[2])
{
	if (pipe2(ends, O_CLOEXEC) < 0)
		fail("pipe", -errno);
}

static io_context_t new_context(int nr_events)
{
	io_context_t ctx = NULL;
	int result = io_setup(nr_events, &ctx);

	if (result < 0)
		fail("io_setup", result);
	return ctx;
}

static void expect_event(io_context_t ctx, const struct iocb *iocb, long res)
{
	struct io_event event;
	int result = io_getevents(ctx, 1, 1, &event, NULL);

	if (result != 1)
		fail("io_getevents", result < 0 ? result : -ENODATA);
	if (event.obj != iocb || (long)event.res != res)
		fail("a request's result", (long)event.res < 0 ? (int)event.res : -EIO);
}

static void many_contexts(long count)
{
	io_context_t *contexts = calloc((size_t)count, sizeof(*contexts));
	struct iocb iocb, *list = &iocb;
	int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	char buffer[READ_BYTES];
	long before, idle, i;
	int result;

	if (!contexts || zero < 0)
		fail("preparing", -errno);
	memset(contexts, 1, (size_t)count * sizeof(*contexts));
	memset(contexts, 0, (size_t)count * sizeof(*contexts));
	contexts[0] = new_context(1);
	before = resident_bytes();
	for (i = 1; i < count; i++)
		contexts[i] = new_context(1);
	idle = resident_bytes() - before;
	for (i = 0; i < count; i++) {
		io_prep_pread(&iocb, zero, buffer, READ_BYTES, 0);
		result = io_submit(contexts[i], 1, &list);
		if (result != 1)
			fail("io_submit", result);
		expect_event(contexts[i], &iocb, READ_BYTES);
	}
	printf("contexts: %ld, %ld bytes each idle, %ld after a request\n", count,
	       idle / (count - 1), (resident_bytes() - before) / (count - 1));
	for (i = 0; i < count; i++)
		if ((result = io_destroy(contexts[i])) < 0)
			fail("io_destroy", result);
	free(contexts);
	close(zero);
}

static void submit_reads(io_context_t ctx, int fd, struct iocb *iocbs, char *buffers, long count)
{
	struct iocb *list[BATCH];
	long i, batch, done;

	for (done = 0; done < count; done += batch) {
		int result;

		batch = count - done < BATCH ? count - done : BATCH;
		for (i = 0; i < batch; i++) {
			list[i] = &iocbs[done + i];
			io_prep_pread(list[i], fd, buffers + (done + i) * READ_BYTES, READ_BYTES,
				      0);
		}
		result = io_submit(ctx, batch, list);
		if (result != batch)
			fail("io_submit", result < 0 ? result : -EAGAIN);
	}
}

static void feed(int fd, long count)
{
	int64_t i;

	for (i = 0; i < count; i++)
		if (write(fd, &i, READ_BYTES) != READ_BYTES)
			fail("write", -errno);
}

/* The reads of a pipe are served in order: the i-th gets the i-th number. */
static void many_requests(long count)
{
	struct iocb *iocbs = calloc((size_t)count, sizeof(*iocbs));
	char *buffers = calloc((size_t)count, READ_BYTES);
	io_context_t ctx = new_context((int)count);
	struct timespec start;
	int ends[2];
	int64_t i;
	long before;
	pid_t feeder;

	if (!iocbs || !buffers)
		fail("preparing", -ENOMEM);
	memset(iocbs, 1, (size_t)count * sizeof(*iocbs));
	memset(buffers, 1, (size_t)count * READ_BYTES);
	make_pipe(ends);
	before = resident_bytes();
	clock_gettime(CLOCK_MONOTONIC, &start);
	submit_reads(ctx, ends[0], iocbs, buffers, count);
	printf("requests: %ld in flight after %.2f s, %ld bytes each\n", count,
	       seconds_since(&start), (resident_bytes() - before) / count);
	feeder = fork();
	if (feeder == 0) {
		feed(ends[1], count);
		_exit(0);
	}
	for (i = 0; i < count; i++)
		expect_event(ctx, &iocbs[i], READ_BYTES);
	for (i = 0; i < count; i++)
		if (memcmp(buffers + i * READ_BYTES, &i, READ_BYTES) != 0)
			fail("the order of a stream", -EILSEQ);
	printf("requests: all served in order after %.2f s\n", seconds_since(&start));
	submit_reads(ctx, ends[0], iocbs, buffers, count);
	clock_gettime(CLOCK_MONOTONIC, &start);
	if (io_destroy(ctx) < 0)
		fail("io_destroy", -EINVAL);
	printf("requests: as many cancelled by io_destroy in %.2f s\n", seconds_since(&start));
	free(iocbs);
	free(buffers);
	close(ends[0]);
	close(ends[1]);
}

static void one_cycle(int zero)
{
	io_context_t ctx = new_context(1);
	struct iocb iocb, *list = &iocb;
	char buffer[READ_BYTES];
	int result;

	io_prep_pread(&iocb, zero, buffer, READ_BYTES, 0);
	result = io_submit(ctx, 1, &list);
	if (result != 1)
		fail("io_submit", result);
	expect_event(ctx, &iocb, READ_BYTES);
	result = io_destroy(ctx);
	if (result < 0)
		fail("io_destroy", result);
}

struct belongings {
	long descriptors;
	long threads;
	long mappings;
};

static struct belongings take_stock(void)
{
	return (struct belongings){ entries("/proc/self/fd"), entries("/proc/self/task"),
				    mappings() };
}

/* The C library keeps the stacks of threads that have ended for the next ones. */
#define KEPT_STACKS 128

/* Threads that have nothing to do any more go within seconds. */
static bool is_back(const struct belongings *before, struct belongings *after)
{
	const struct timespec step = { .tv_nsec = 100000000 };
	int i;

	for (i = 0; i < 300; i++) {
		*after = take_stock();
		if (after->descriptors <= before->descriptors &&
		    after->threads <= before->threads &&
		    after->mappings <= before->mappings + KEPT_STACKS)
			return true;
		nanosleep(&step, NULL);
	}
	return false;
}

/* The first cycles make what stays as long as the process does. */
#define WARM_UP 100

static void many_cycles(long count)
{
	int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	struct belongings before, after;
	struct timespec start;
	bool back;
	long i;

	if (zero < 0)
		fail("/dev/zero", -errno);
	for (i = 0; i < WARM_UP; i++)
		one_cycle(zero);
	before = take_stock();
	clock_gettime(CLOCK_MONOTONIC, &start);
	for (i = 0; i < count; i++)
		one_cycle(zero);
	printf("cycles: %ld in %.2f s\n", count, seconds_since(&start));
	back = is_back(&before, &after);
	printf("cycles: descriptors %ld to %ld, threads %ld to %ld, mappings %ld to %ld\n",
	       before.descriptors, after.descriptors, before.threads, after.threads,
	       before.mappings, after.mappings);
	close(zero);
	if (!back)
		exit(1);
}

int main(int argc, char **argv)
{
	long count = argc == 3 ? strtol(argv[2], NULL, 10) : 0;

	if (count > 1 && strcmp(argv[1], "contexts") == 0)
		many_contexts(count);
	else if (count > 1 && strcmp(argv[1], "requests") == 0)
		many_requests(count);
	else if (count > 0 && strcmp(argv[1], "cycles") == 0)
		many_cycles(count);
	else {
		fprintf(stderr, "usage: scale contexts|requests|cycles NUMBER\n");
		return 2;
	}
	return 0;
}
