/* SPDX-License-Identifier: MIT */
/*
 * bench: what the calls of libaio cost, measured in one process on one library.
 *
 * Goal: figures that can be compared between two libraries behind the same interface. The program
 * is linked with libaio.so.1 dynamically and knows nothing of which one it runs on; LD_LIBRARY_PATH
 * decides, and the output names the file that was mapped, so that nobody compares a library with
 * itself by mistake. bench/run calls it many times, in turns on either library, and does the sums.
 *
 * Method: modes. These are here; calls in company are in crowd.c, writes to the disk in writes.c.
 *   cost     --batch requests go in with one io_submit and come out with one io_getevents, over and
 *            over. The timed part is cut into slices and the middle slice is reported: a neighbour
 *            on the machine that takes the processor away for a while spoils a few slices, not the
 *            figure. The processor time is that of the whole process over all slices, so work that
 *            a library moves to threads of its own does not look free.
 *   cold     --batch reads are kept in flight on a file of which nothing is cached, each submitted
 *            by an io_submit of its own, which is timed: a library that reads inside io_submit
 *            holds its caller there. Every block is read once: no read is a hit by accident.
 *   context  io_setup, one read, io_destroy, each timed. Nothing is in flight at io_destroy.
 * These warm up first and use a fixed number of requests. All modes use CLOCK_MONOTONIC, check the
 * result of every request, and print lines of "name value". A call that fails ends the program with
 * status 1.
 */
#define _GNU_SOURCE
#include "measure.h"

#include <dlfcn.h>
#include <err.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The reads of one run: each iocb has a buffer of its own, and the offsets go round in blocks. */
struct load {
	io_context_t context;
	int descriptor;
	size_t size;
	size_t batch;
	struct iocb *iocbs;
	struct iocb **list;
	struct io_event *events;
	struct blocks blocks;
};

static struct load *open_load(const struct options *options)
{
	struct load *load = allocate(1, sizeof(*load));

	load->descriptor = open_file(options);
	load->blocks = find_blocks(load->descriptor, options);
	load->size = options->size;
	load->batch = options->batch;
	load->iocbs = allocate(load->batch, sizeof(*load->iocbs));
	load->list = allocate(load->batch, sizeof(*load->list));
	load->events = allocate(load->batch, sizeof(*load->events));
	for (size_t i = 0; i < load->batch; i++) {
		void *buffer = allocate_pages(options->size);

		if (options->writes)
			io_prep_pwrite(&load->iocbs[i], load->descriptor, buffer, load->size, 0);
		else
			io_prep_pread(&load->iocbs[i], load->descriptor, buffer, load->size, 0);
		load->list[i] = &load->iocbs[i];
	}
	load->context = open_context(CONTEXT_EVENTS);
	print_engine(load->context);
	return load;
}

static void check_read(const struct load *load, const struct io_event *event)
{
	expect("read", (long)event->res, (long)load->size);
}

static void submit_and_reap(void *argument)
{
	struct load *load = argument;
	long batch = (long)load->batch;

	for (size_t i = 0; i < load->batch; i++)
		load->iocbs[i].u.c.offset = next_offset(&load->blocks);
	expect("io_submit", io_submit(load->context, batch, load->list), batch);
	expect("io_getevents", io_getevents(load->context, batch, batch, load->events, NULL),
	       batch);
	for (size_t i = 0; i < load->batch; i++)
		check_read(load, &load->events[i]);
}

static void measure_cost(const struct options *options)
{
	measure_slices(options, submit_and_reap, open_load(options));
}

static uint64_t submit_one(struct load *load, struct iocb *iocb)
{
	iocb->u.c.offset = next_offset(&load->blocks);
	uint64_t start = clock_ns(CLOCK_MONOTONIC);
	long accepted = io_submit(load->context, 1, &iocb);
	uint64_t end = clock_ns(CLOCK_MONOTONIC);
	expect("io_submit", accepted, 1);
	return end - start;
}

/*
 * Reads count blocks with the whole batch in flight; times gets what each io_submit took, and ends,
 * if it is there, how long after the call of io_submit each event was taken.
 */
static void keep_in_flight(struct load *load, size_t count, uint64_t *times, uint64_t *ends)
{
	uint64_t *starts = allocate(load->batch, sizeof(*starts));
	size_t submitted = 0, ended = 0;

	for (; submitted < load->batch && submitted < count; submitted++) {
		starts[submitted] = clock_ns(CLOCK_MONOTONIC);
		times[submitted] = submit_one(load, load->list[submitted]);
	}
	for (size_t done = 0; done < count;) {
		long reaped = io_getevents(load->context, 1, (long)load->batch, load->events, NULL);

		if (reaped < 1)
			refuse("io_getevents", reaped);
		for (long i = 0; i < reaped; i++) {
			size_t place = (size_t)(load->events[i].obj - load->iocbs);

			check_read(load, &load->events[i]);
			if (ends)
				ends[ended++] = clock_ns(CLOCK_MONOTONIC) - starts[place];
			if (submitted < count) {
				starts[place] = clock_ns(CLOCK_MONOTONIC);
				times[submitted] = submit_one(load, load->events[i].obj);
				submitted++;
			}
		}
		done += (size_t)reaped;
	}
	free(starts);
}

/* For a picture: "NAME PERCENT value". */
static void print_distribution(const char *name, uint64_t *times, size_t count)
{
	static const double percents[] = { 1,  5,  10, 20, 30, 40,   50,   60,	 70,
					   80, 90, 95, 98, 99, 99.5, 99.8, 99.9, 99.95 };

	(void)median(times, count);
	for (size_t i = 0; i < sizeof(percents) / sizeof(*percents); i++)
		printf("%s_%g %" PRIu64 "\n", name, percents[i],
		       times[(size_t)((double)count * percents[i] / 100)]);
}

static void measure_cold(const struct options *options)
{
	struct load *load = open_load(options);
	size_t count = options->requests;
	size_t warm_up = count / 20;
	uint64_t *times = allocate(count, sizeof(*times));
	uint64_t *ends = options->distribution ? allocate(count, sizeof(*ends)) : NULL;

	expect_blocks(&load->blocks, options, count + warm_up);
	drop_cache(load->descriptor, &load->blocks);
	keep_in_flight(load, warm_up, times, NULL);

	uint64_t cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
	uint64_t wall_ns = clock_ns(CLOCK_MONOTONIC);
	keep_in_flight(load, count, times, ends);
	wall_ns = clock_ns(CLOCK_MONOTONIC) - wall_ns;
	cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu_ns;

	printf("requests_per_s %.0f\n", (double)count * 1e9 / (double)wall_ns);
	printf("submit_median_ns %" PRIu64 "\n", median(times, count));
	printf("submit_p99_ns %" PRIu64 "\n", times[count * 99 / 100]);
	printf("cpu_ns %.1f\n", (double)cpu_ns / (double)count);
	if (ends) {
		print_distribution("submit", times, count);
		print_distribution("end", ends, count);
	}
	free(ends);
	free(times);
}

static void measure_context(const struct options *options)
{
	struct load *load = open_load(options);
	size_t count = options->requests;
	size_t warm_up = 2;
	uint64_t *setup_times = allocate(count, sizeof(*setup_times));
	uint64_t *destroy_times = allocate(count, sizeof(*destroy_times));

	/* The context that every load starts with. */
	expect("io_destroy", io_destroy(load->context), 0);
	for (size_t i = 0; i < warm_up + count; i++) {
		size_t turn = i < warm_up ? 0 : i - warm_up;

		uint64_t start = clock_ns(CLOCK_MONOTONIC);
		load->context = open_context(CONTEXT_EVENTS);
		setup_times[turn] = clock_ns(CLOCK_MONOTONIC) - start;

		submit_and_reap(load);

		start = clock_ns(CLOCK_MONOTONIC);
		int result = io_destroy(load->context);
		destroy_times[turn] = clock_ns(CLOCK_MONOTONIC) - start;
		expect("io_destroy", result, 0);
	}
	printf("setup_ns %" PRIu64 "\n", median(setup_times, count));
	printf("destroy_ns %" PRIu64 "\n", median(destroy_times, count));
	free(setup_times);
	free(destroy_times);
}

/* The file behind io_submit, as the kernel has it mapped: this cannot be pretended. */
static void print_library(void)
{
	uintptr_t address = (uintptr_t)dlsym(RTLD_DEFAULT, "io_submit");
	FILE *maps = fopen("/proc/self/maps", "re");
	char line[8192];

	if (!maps)
		err(1, "/proc/self/maps");
	while (fgets(line, sizeof(line), maps)) {
		uintptr_t start, end;
		int path = 0;

		line[strcspn(line, "\n")] = '\0';
		if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %*s %*s %*s %*s %n", &start, &end,
			   &path) == 2 &&
		    address >= start && address < end)
			printf("library %s\n", line + path);
	}
	fclose(maps);
}

int main(int argc, char **argv)
{
	static const struct mode modes[] = {
		{ "cost", measure_cost },
		{ "cold", measure_cold },
		{ "context", measure_context },
		{ "pairs", measure_pairs },
		{ "closed", measure_closed },
		{ "files", measure_files },
		{ "cancel", measure_cancel },
		{ "contexts", measure_contexts },
		{ "apart", measure_apart },
		{ "durable", measure_durable },
		{ "extend", measure_extend },
		{ "commits", measure_commits },
		{ NULL, NULL },
	};

	print_library();
	run_mode(argc, argv, modes,
		 "Measure what the calls of libaio cost on the library that is loaded.");
	return 0;
}
