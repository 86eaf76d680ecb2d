/* SPDX-License-Identifier: MIT */
/*
 * The modes of bench that measure writes which the disk must have.
 *
 * Method: files are made in --directory and have no name while they are used; --requests requests.
 *   durable   buffered writes of --size bytes with O_DSYNC, one after the other over the same file,
 *             --batch in flight. What io_submit takes is timed by itself.
 *   extend    writes of --size bytes by O_DIRECT, each behind the end of the file, and an fdsync
 *             behind each with an io_submit of its own; the write's io_submit is timed.
 *   commits   --threads threads, each with a context of its own, write --size bytes to places of
 *             their own in one file, buffered or with --direct, and an fdsync behind it: one
 *             io_submit, one io_getevents for both.
 */
#define _GNU_SOURCE
#include "measure.h"

#include <err.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void print_times(uint64_t *times, size_t count, uint64_t wall_ns)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < count; i++)
		sum += times[i];
	printf("submit_ns %.1f\n", (double)sum / (double)count);
	printf("submit_median_ns %" PRIu64 "\n", median(times, count));
	printf("requests_per_s %.1f\n", (double)count * 1e9 / (double)wall_ns);
}

static uint64_t timed_submit(io_context_t context, struct iocb *iocb)
{
	uint64_t start = clock_ns(CLOCK_MONOTONIC);

	submit_all(context, &iocb, 1);
	return clock_ns(CLOCK_MONOTONIC) - start;
}

void measure_durable(const struct options *options)
{
	int file = make_file(options->directory, O_RDWR | O_DSYNC);
	struct iocb *iocbs = allocate(options->batch, sizeof(*iocbs));
	uint64_t *times = allocate(options->requests, sizeof(*times));
	io_context_t context = open_context(options->batch);
	size_t submitted = 0;

	print_engine(context);
	for (size_t i = 0; i < options->batch; i++)
		io_prep_pwrite(&iocbs[i], file, allocate_pages(options->size), options->size,
			       (long long)(i * options->size));
	uint64_t start = clock_ns(CLOCK_MONOTONIC);
	for (; submitted < options->batch && submitted < options->requests; submitted++)
		times[submitted] = timed_submit(context, &iocbs[submitted]);
	for (size_t done = 0; done < options->requests; done++) {
		struct io_event event;

		reap_all(context, &event, 1);
		if (submitted < options->requests)
			times[submitted++] = timed_submit(context, event.obj);
	}
	print_times(times, options->requests, clock_ns(CLOCK_MONOTONIC) - start);
}

void measure_extend(const struct options *options)
{
	int file = make_file(options->directory, O_RDWR | O_DIRECT);
	uint64_t *times = allocate(options->requests, sizeof(*times));
	void *buffer = allocate_pages(options->size);
	io_context_t context = open_context(2);
	struct io_event events[2];
	struct iocb iocbs[2];

	print_engine(context);
	uint64_t start = clock_ns(CLOCK_MONOTONIC);
	for (size_t i = 0; i < options->requests; i++) {
		struct iocb *sync = &iocbs[1];

		io_prep_pwrite(&iocbs[0], file, buffer, options->size,
			       (long long)(i * options->size));
		io_prep_fdsync(sync, file);
		times[i] = timed_submit(context, &iocbs[0]);
		submit_all(context, &sync, 1);
		reap_all(context, events, 2);
	}
	print_times(times, options->requests, clock_ns(CLOCK_MONOTONIC) - start);
}

struct committer {
	const struct options *options;
	int file;
	size_t number;
	pthread_t thread;
};

static void *commit(void *argument)
{
	struct committer *committer = argument;
	const struct options *options = committer->options;
	void *buffer = allocate_pages(options->size);
	io_context_t context = open_context(2);
	struct io_event events[2];
	struct iocb iocbs[2], *list[2] = { &iocbs[0], &iocbs[1] };

	for (size_t i = 0; i < options->requests; i++) {
		io_prep_pwrite(&iocbs[0], committer->file, buffer, options->size,
			       (long long)(committer->number * options->size));
		io_prep_fdsync(&iocbs[1], committer->file);
		submit_all(context, list, 2);
		reap_all(context, events, 2);
	}
	io_destroy(context);
	return NULL;
}

void measure_commits(const struct options *options)
{
	int file = make_file(options->directory, O_RDWR | (options->direct ? O_DIRECT : 0));
	struct committer *committers = allocate(options->threads, sizeof(*committers));

	/* Its blocks are there: only the flush is to be measured. */
	for (size_t i = 0; i < options->threads; i++)
		expect("write",
		       pwrite(file, allocate_pages(options->size), options->size,
			      (off_t)(i * options->size)),
		       (long)options->size);
	fsync(file);
	uint64_t start = clock_ns(CLOCK_MONOTONIC);
	for (size_t i = 0; i < options->threads; i++) {
		committers[i] = (struct committer){ .options = options, .file = file, .number = i };
		if (pthread_create(&committers[i].thread, NULL, commit, &committers[i]))
			errx(1, "no thread");
	}
	for (size_t i = 0; i < options->threads; i++)
		pthread_join(committers[i].thread, NULL);
	uint64_t wall_ns = clock_ns(CLOCK_MONOTONIC) - start;
	io_context_t context = open_context(1);

	print_engine(context);
	printf("commits_per_s %.1f\n",
	       (double)(options->threads * options->requests) * 1e9 / (double)wall_ns);
}
