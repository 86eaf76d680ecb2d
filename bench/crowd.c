/* SPDX-License-Identifier: MIT */
/*
 * The modes of bench that measure calls in company.
 *
 * Goal: what a call costs must not grow with what else the process has: idle contexts, threads,
 * descriptors that were used once, files and requests in flight.
 *
 * Method:
 *   pairs     a write of 4 KiB and an fdsync behind it go in with one io_submit and come out with
 *             one io_getevents, over and over. Each of --threads threads has a context and a file
 *             of its own; with one, the process has no other thread. Before that, --contexts
 *             contexts are made that stay idle; with --used each has carried out a write.
 *   closed    --descriptors descriptors of one file are used for a write each and closed. Then
 *             fdsyncs of that file, one at a time.
 *   files     on --descriptors files a write of 4 KiB each by O_DIRECT with one io_submit, and an
 *             fdsync each with another; timed from the first call until all events are there. The
 *             writes go over what was written before or, with --extend, to empty files.
 *   cancel    --requests polls of eventfds that nobody signals are in flight; some of them, all
 *             over the list, are cancelled. The call of io_cancel is timed, the event checked.
 *   contexts  --contexts contexts are made, each carries out a read, all are destroyed. The
 *             system's library takes 30 ms for each: after DESTROY_NS the rest is left to exit.
 *   apart     one thread submits reads of --size bytes one by one, --batch in flight, and another
 *             sleeps in io_getevents for one event at a time.
 * pairs and closed last for --milliseconds, whatever a library gets done in them: one may be a
 * hundred times slower than the other. That time is cut into slices; the middle one counts.
 *
 * Files are made in --directory and have no name while they are used.
 */
#define _GNU_SOURCE
#include "measure.h"

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

/* Polls are spread over so many eventfds, and so many of them are cancelled. */
#define EVENTFDS 1000
#define CANCELS 201
/* A slice in which fewer ended tells nothing by itself. */
#define FEW 50
#define DESTROY_NS 3000000000U
/* What the program has open beside the descriptors that it was told to open. */
#define OTHER_DESCRIPTORS 200

static void permit_descriptors(size_t count)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		err(1, "RLIMIT_NOFILE");
	if (limit.rlim_max < count + OTHER_DESCRIPTORS)
		errx(1, "%zu descriptors are not allowed (RLIMIT_NOFILE)", count);
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit))
		err(1, "RLIMIT_NOFILE");
}

static void carry_out(io_context_t context, struct iocb *iocb)
{
	struct io_event event;

	submit_all(context, &iocb, 1);
	reap_all(context, &event, 1);
}

/* What ended in each slice of the time from start on. */
struct tally {
	uint64_t start;
	uint64_t slice_ns;
	uint64_t counts[SLICES];
};

static void start_tally(struct tally *tally, uint64_t start, size_t milliseconds)
{
	*tally = (struct tally){ .start = start, .slice_ns = milliseconds * 1000000U / SLICES };
}

/* One more has ended; false when the time is over. */
static bool count_one(struct tally *tally)
{
	uint64_t slice = (clock_ns(CLOCK_MONOTONIC) - tally->start) / tally->slice_ns;

	if (slice >= SLICES)
		return false;
	tally->counts[slice]++;
	return true;
}

static void add_tally(struct tally *sum, const struct tally *tally)
{
	for (size_t i = 0; i < SLICES; i++)
		sum->counts[i] += tally->counts[i];
}

static uint64_t total(const struct tally *tally)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < SLICES; i++)
		sum += tally->counts[i];
	if (sum == 0)
		errx(1, "nothing ended in %.3f s", (double)tally->slice_ns * SLICES / 1e9);
	return sum;
}

/* In the middle slice, or on average where the slices saw too few end to tell them apart. Sorts. */
static double per_second(struct tally *tally)
{
	double seconds = (double)tally->slice_ns / 1e9;
	uint64_t sum = total(tally);
	uint64_t middle = median(tally->counts, SLICES);

	return (double)(middle < FEW ? sum : middle * SLICES) / seconds / SLICES;
}

/* pairs */

struct writer {
	pthread_t thread;
	io_context_t context;
	struct iocb write;
	struct iocb sync;
	struct tally tally;
};

static pthread_barrier_t all_ready;

static void open_writer(struct writer *writer, const struct options *options)
{
	int file = make_file(options->directory, 0);

	io_prep_pwrite(&writer->write, file, allocate_pages(PAGE_BYTES), PAGE_BYTES, 0);
	io_prep_fdsync(&writer->sync, file);
	writer->context = open_context(2);
}

static void carry_out_pair(struct writer *writer)
{
	struct iocb *list[] = { &writer->write, &writer->sync };
	struct io_event events[2];

	expect("io_submit", io_submit(writer->context, 2, list), 2);
	expect("io_getevents", io_getevents(writer->context, 2, 2, events, NULL), 2);
	check_event(&events[0]);
	check_event(&events[1]);
}

static void *write_pairs(void *argument)
{
	struct writer *writer = argument;
	struct tally warm_up = { .start = clock_ns(CLOCK_MONOTONIC),
				 .slice_ns = writer->tally.slice_ns / 10 };

	do
		carry_out_pair(writer);
	while (count_one(&warm_up));
	pthread_barrier_wait(&all_ready);
	writer->tally.start = clock_ns(CLOCK_MONOTONIC);
	do
		carry_out_pair(writer);
	while (count_one(&writer->tally));
	return NULL;
}

/* They are never destroyed: the system's library would take minutes, and exit takes all at once. */
static void make_idle_contexts(const struct options *options)
{
	int file = make_file(options->directory, 0);
	void *page = allocate_pages(PAGE_BYTES);
	struct iocb iocb;

	for (size_t i = 0; i < options->contexts; i++) {
		io_context_t context = open_context(1);

		io_prep_pwrite(&iocb, file, page, PAGE_BYTES, 0);
		if (options->used)
			carry_out(context, &iocb);
	}
}

/* The calling thread is the first writer, so that one writer has no other thread beside it. */
static void run_writers(struct writer *writers, size_t count)
{
	int error = pthread_barrier_init(&all_ready, NULL, (unsigned int)count);

	for (size_t i = 1; i < count && !error; i++)
		error = pthread_create(&writers[i].thread, NULL, write_pairs, &writers[i]);
	if (error) {
		errno = error;
		err(1, "threads");
	}
	write_pairs(&writers[0]);
	for (size_t i = 1; i < count; i++)
		pthread_join(writers[i].thread, NULL);
}

void measure_pairs(const struct options *options)
{
	struct writer writers[MAX_THREADS] = { 0 };
	size_t count = options->threads;
	struct tally sum;

	make_idle_contexts(options);
	for (size_t i = 0; i < count; i++) {
		open_writer(&writers[i], options);
		start_tally(&writers[i].tally, 0, options->milliseconds);
	}
	print_engine(writers[0].context);
	uint64_t cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
	run_writers(writers, count);
	cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu_ns;

	start_tally(&sum, 0, options->milliseconds);
	for (size_t i = 0; i < count; i++)
		add_tally(&sum, &writers[i].tally);
	printf("cpu_ns %.1f\n", (double)cpu_ns / (double)total(&sum));
	printf("pairs_per_s %.1f\n", per_second(&sum));
}

/* closed */

static void use_and_close(io_context_t context, int file, size_t count)
{
	int *descriptors = allocate(count, sizeof(*descriptors));
	void *page = allocate_pages(PAGE_BYTES);
	struct iocb iocb;

	permit_descriptors(count);
	for (size_t i = 0; i < count; i++) {
		descriptors[i] = dup(file);
		if (descriptors[i] < 0)
			err(1, "descriptor %zu", i);
		io_prep_pwrite(&iocb, descriptors[i], page, PAGE_BYTES, 0);
		carry_out(context, &iocb);
	}
	for (size_t i = 0; i < count; i++)
		close(descriptors[i]);
	free(descriptors);
}

void measure_closed(const struct options *options)
{
	int file = make_file(options->directory, 0);
	io_context_t context = open_context(1);
	struct iocb sync;
	struct tally tally;

	print_engine(context);
	use_and_close(context, file, options->descriptors);
	io_prep_fdsync(&sync, file);
	carry_out(context, &sync);

	uint64_t cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
	start_tally(&tally, clock_ns(CLOCK_MONOTONIC), options->milliseconds);
	do
		carry_out(context, &sync);
	while (count_one(&tally));
	cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu_ns;
	printf("cpu_ns %.1f\n", (double)cpu_ns / (double)total(&tally));
	printf("wall_ns %.1f\n", 1e9 / per_second(&tally));
}

/* files */

/* The first half of the list writes, the second synchronizes. */
struct many_files {
	size_t count;
	int *files;
	void *page;
	struct iocb *iocbs;
	struct iocb **list;
	struct io_event *events;
	io_context_t context;
};

static void open_files(struct many_files *many, const struct options *options)
{
	size_t count = options->descriptors;

	permit_descriptors(count);
	many->count = count;
	many->files = allocate(count, sizeof(*many->files));
	many->page = allocate_pages(PAGE_BYTES);
	many->iocbs = allocate(2 * count, sizeof(*many->iocbs));
	many->list = allocate(2 * count, sizeof(struct iocb *));
	many->events = allocate(2 * count, sizeof(*many->events));
	for (size_t i = 0; i < count; i++) {
		many->files[i] = make_file(options->directory, O_DIRECT);
		many->list[i] = &many->iocbs[i];
		many->list[count + i] = &many->iocbs[count + i];
		io_prep_pwrite(many->list[i], many->files[i], many->page, PAGE_BYTES, 0);
		io_prep_fdsync(many->list[count + i], many->files[i]);
	}
	many->context = open_context(2 * count);
}

/* Nothing of what went before is left for the fdsyncs to write. */
static void prepare_files(const struct many_files *many, bool empty)
{
	for (size_t i = 0; i < many->count; i++) {
		if (empty ? ftruncate(many->files[i], 0) != 0
			  : pwrite(many->files[i], many->page, PAGE_BYTES, 0) != PAGE_BYTES)
			err(1, "preparing a file");
	}
	if (syncfs(many->files[0]))
		err(1, "syncfs");
}

static void write_and_sync(const struct many_files *many)
{
	submit_all(many->context, many->list, many->count);
	submit_all(many->context, many->list + many->count, many->count);
	reap_all(many->context, many->events, 2 * many->count);
}

void measure_files(const struct options *options)
{
	struct many_files many;
	uint64_t wall_ns = 0;
	uint64_t cpu_ns = 0;

	open_files(&many, options);
	print_engine(many.context);
	/* The first turn warms up. */
	for (int turn = 0; turn < 2; turn++) {
		prepare_files(&many, options->extend);
		cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
		wall_ns = clock_ns(CLOCK_MONOTONIC);
		write_and_sync(&many);
		wall_ns = clock_ns(CLOCK_MONOTONIC) - wall_ns;
		cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu_ns;
	}
	printf("wall_ns %.1f\n", (double)wall_ns);
	printf("cpu_ns %.1f\n", (double)cpu_ns);
}

/* cancel */

static struct iocb *submit_polls(io_context_t context, size_t count)
{
	struct iocb *polls = allocate(count, sizeof(*polls));
	struct iocb **list = allocate(count, sizeof(struct iocb *));
	int eventfds[EVENTFDS];

	permit_descriptors(EVENTFDS);
	for (size_t i = 0; i < EVENTFDS; i++) {
		eventfds[i] = eventfd(0, EFD_CLOEXEC);
		if (eventfds[i] < 0)
			err(1, "eventfd");
	}
	for (size_t i = 0; i < count; i++) {
		list[i] = &polls[i];
		io_prep_poll(list[i], eventfds[i % EVENTFDS], POLLIN);
	}
	submit_all(context, list, count);
	free(list);
	return polls;
}

static uint64_t cancel_one(io_context_t context, struct iocb *iocb)
{
	struct io_event unused;
	uint64_t start = clock_ns(CLOCK_MONOTONIC);
	int result = io_cancel(context, iocb, &unused);
	uint64_t end = clock_ns(CLOCK_MONOTONIC);

	expect("io_cancel", result, -EINPROGRESS);
	return end - start;
}

void measure_cancel(const struct options *options)
{
	io_context_t context = open_context(options->requests);
	struct io_event events[CANCELS];
	uint64_t times[CANCELS];

	if (options->requests < CANCELS)
		errx(2, "--requests must be at least %d", CANCELS);
	print_engine(context);
	struct iocb *polls = submit_polls(context, options->requests);
	uint32_t *order = shuffled_numbers(options->requests);

	for (size_t i = 0; i < CANCELS; i++)
		times[i] = cancel_one(context, &polls[order[i]]);
	reap_all(context, events, CANCELS);
	printf("cancel_ns %ju\n", (uintmax_t)median(times, CANCELS));
}

/* contexts */

static void destroy_contexts(io_context_t *contexts, size_t count)
{
	uint64_t start = clock_ns(CLOCK_MONOTONIC);
	uint64_t spent = 0;
	size_t destroyed = 0;

	while (destroyed < count && spent < DESTROY_NS) {
		expect("io_destroy", io_destroy(contexts[destroyed++]), 0);
		spent = clock_ns(CLOCK_MONOTONIC) - start;
	}
	printf("destroy_ns %.1f\n", (double)spent / (double)destroyed);
	printf("destroyed %zu\n", destroyed);
}

void measure_contexts(const struct options *options)
{
	size_t count = options->contexts;
	io_context_t *contexts = allocate(count, sizeof(*contexts));
	int zero = open(options->file, O_RDONLY);
	struct iocb iocb;

	if (zero < 0 || count == 0)
		errx(2, "--file must be readable, and --contexts not 0");
	io_prep_pread(&iocb, zero, allocate_pages(options->size), options->size, 0);
	uint64_t start = clock_ns(CLOCK_MONOTONIC);
	for (size_t i = 0; i < count; i++) {
		int result = io_setup(1, &contexts[i]);

		if (result)
			errx(1, "io_setup of context %zu: %s", i + 1, strerror(-result));
	}
	uint64_t made = clock_ns(CLOCK_MONOTONIC);
	for (size_t i = 0; i < count; i++)
		carry_out(contexts[i], &iocb);
	uint64_t served = clock_ns(CLOCK_MONOTONIC);

	print_engine(contexts[count - 1]);
	printf("setup_ns %.1f\n", (double)(made - start) / (double)count);
	printf("first_read_ns %.1f\n", (double)(served - made) / (double)count);
	destroy_contexts(contexts, count);
	free(contexts);
}

/* ---- submitter and reaper apart -------------------------------------------------------------- */

struct apart {
	io_context_t context;
	size_t requests;
	sem_t room; /* requests that may go in */
	struct iocb **free_list; /* what has come out, for the submitter */
};

static void *reap_apart(void *argument)
{
	struct apart *apart = argument;

	for (size_t i = 0; i < apart->requests; i++) {
		struct io_event event;

		expect("io_getevents", io_getevents(apart->context, 1, 1, &event, NULL), 1);
		expect("read", (long)event.res, (long)event.obj->u.c.nbytes);
		apart->free_list[i] = event.obj;
		sem_post(&apart->room);
	}
	return NULL;
}

void measure_apart(const struct options *options)
{
	int file = open(options->file, O_RDONLY | (options->direct ? O_DIRECT : 0));
	off_t end = file < 0 ? -1 : lseek(file, 0, SEEK_END);
	struct apart apart = { .requests = options->requests };
	struct iocb *iocbs = allocate(options->batch, sizeof(*iocbs));
	pthread_t reaper;

	if (end < (off_t)options->size)
		err(1, "%s", options->file);
	size_t blocks = (size_t)end / options->size;
	uint32_t *places = shuffled_numbers(blocks);

	apart.context = open_context(options->batch);
	print_engine(apart.context);
	apart.free_list = allocate(options->requests, sizeof(*apart.free_list));
	sem_init(&apart.room, 0, (unsigned)options->batch);
	for (size_t i = 0; i < options->batch; i++)
		io_prep_pread(&iocbs[i], file, allocate_pages(options->size), options->size, 0);
	if (pthread_create(&reaper, NULL, reap_apart, &apart))
		errx(1, "no thread");
	uint64_t start = clock_ns(CLOCK_MONOTONIC), cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
	for (size_t i = 0; i < options->requests; i++) {
		while (sem_wait(&apart.room))
			;
		struct iocb *iocb =
			i < options->batch ? &iocbs[i] : apart.free_list[i - options->batch];

		iocb->u.c.offset = (long long)places[i % blocks] * (long long)options->size;
		expect("io_submit", io_submit(apart.context, 1, &iocb), 1);
	}
	pthread_join(reaper, NULL);
	cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu_ns;
	uint64_t wall_ns = clock_ns(CLOCK_MONOTONIC) - start;
	printf("wall_ns %.1f\n", (double)wall_ns / (double)options->requests);
	printf("cpu_ns %.1f\n", (double)cpu_ns / (double)options->requests);
}
