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

#include <argp.h>
#include <dlfcn.h>
#include <err.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Room in each context: more than any batch here, little enough to be granted everywhere. */
#define CONTEXT_EVENTS 128
/* Of a file's pages, how many in a hundred may be cached for it to count as cold. */
#define RESIDENT_PERCENT 1

/* The reads of one run: each iocb has a buffer of its own, and the offsets go round in blocks. */
struct load {
	io_context_t context;
	int descriptor;
	size_t size;
	size_t batch;
	struct iocb *iocbs;
	struct iocb **list;
	struct io_event *events;
	uint32_t *blocks;
	size_t block_count;
	size_t next_block;
};

static long long next_offset(struct load *load)
{
	long long offset = (long long)load->blocks[load->next_block] * (long long)load->size;

	if (++load->next_block == load->block_count)
		load->next_block = 0;
	return offset;
}

static struct load *open_load(const struct options *options)
{
	struct load *load = allocate(1, sizeof(*load));

	load->descriptor = open(options->file, (options->writes ? O_RDWR : O_RDONLY) |
						       (options->direct ? O_DIRECT : 0));
	if (load->descriptor < 0)
		err(1, "%s", options->file);
	/* Only seeking finds the end of a block device; a character device has none: one block. */
	off_t end = lseek(load->descriptor, 0, SEEK_END);
	size_t count = end < 0 ? 0 : (size_t)end / options->size;
	load->block_count = count ? count : 1;
	load->blocks = shuffled_numbers(load->block_count);
	for (size_t i = 0; options->in_order && i < load->block_count; i++)
		load->blocks[i] = (uint32_t)i;
	load->next_block = options->skip % load->block_count;

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

static void submit_and_reap(struct load *load)
{
	long batch = (long)load->batch;

	for (size_t i = 0; i < load->batch; i++)
		load->iocbs[i].u.c.offset = next_offset(load);
	expect("io_submit", io_submit(load->context, batch, load->list), batch);
	expect("io_getevents", io_getevents(load->context, batch, batch, load->events, NULL),
	       batch);
	for (size_t i = 0; i < load->batch; i++)
		check_read(load, &load->events[i]);
}

static void measure_cost(const struct options *options)
{
	struct load *load = open_load(options);
	size_t turns = options->requests / load->batch / SLICES;
	uint64_t slices[SLICES];

	if (turns == 0)
		errx(1, "--requests must be at least %d times --batch", SLICES);
	for (size_t i = 0; i < turns; i++)
		submit_and_reap(load);

	uint64_t cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
	for (size_t slice = 0; slice < SLICES; slice++) {
		uint64_t start = clock_ns(CLOCK_MONOTONIC);

		for (size_t i = 0; i < turns; i++)
			submit_and_reap(load);
		slices[slice] = clock_ns(CLOCK_MONOTONIC) - start;
	}
	cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu_ns;

	double requests = (double)(turns * load->batch);
	printf("wall_ns %.1f\n", (double)median(slices, SLICES) / requests);
	printf("cpu_ns %.1f\n", (double)cpu_ns / requests / SLICES);
}

/* Nothing of the file may be cached, or the reads to come are not cold. */
static void drop_cache(const struct load *load)
{
	size_t pages = load->block_count * load->size / PAGE_BYTES;
	unsigned char *residence = allocate(pages, 1);
	size_t resident = 0;

	int error = posix_fadvise(load->descriptor, 0, 0, POSIX_FADV_DONTNEED);
	if (!error)
		/* Else read-ahead turns neighbours of what was read into hits. */
		error = posix_fadvise(load->descriptor, 0, 0, POSIX_FADV_RANDOM);
	if (error)
		errx(1, "posix_fadvise: %s", strerror(error));
	void *map = mmap(NULL, pages * PAGE_BYTES, PROT_READ, MAP_SHARED, load->descriptor, 0);
	if (map == MAP_FAILED || mincore(map, pages * PAGE_BYTES, residence))
		err(1, "cannot see what is cached");
	munmap(map, pages * PAGE_BYTES);
	for (size_t i = 0; i < pages; i++)
		resident += residence[i] & 1;
	free(residence);
	if (resident > pages * RESIDENT_PERCENT / 100)
		errx(1, "%zu of %zu pages stay in the cache", resident, pages);
}

static uint64_t submit_one(struct load *load, struct iocb *iocb)
{
	iocb->u.c.offset = next_offset(load);
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

	if (count < 100 || options->skip + warm_up + count > load->block_count)
		errx(1, "%s is too small to read %zu blocks once", options->file, count + warm_up);
	drop_cache(load);
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

/* Options that have no letter. */
enum {
	DIRECTORY = 256,
	THREADS,
	CONTEXTS,
	DESCRIPTORS,
	MILLISECONDS,
	USED,
	EXTEND,
	WRITES,
	IN_ORDER,
	DISTRIBUTION,
};

static const struct argp_option option_list[] = {
	{ "file", 'f', "PATH", 0, "file or device to read (default /dev/zero)", 0 },
	{ "size", 's', "BYTES", 0, "bytes a read (default 4096)", 0 },
	{ "batch", 'b', "COUNT", 0, "reads per io_submit; cold: reads in flight (default 1)", 0 },
	{ "requests", 'n', "COUNT", 0,
	  "reads to measure; context: contexts; cancel: polls in flight (default 10000)", 0 },
	{ "skip", 'k', "COUNT", 0, "pass over so many of the shuffled blocks first", 0 },
	{ "direct", 'd', NULL, 0, "open with O_DIRECT", 0 },
	{ "directory", DIRECTORY, "PATH", 0, "where files are made (default .)", 0 },
	{ "threads", THREADS, "COUNT", 0, "pairs, commits: threads (default 1)", 0 },
	{ "contexts", CONTEXTS, "COUNT", 0, "contexts; pairs: idle ones (default 0)", 0 },
	{ "used", USED, NULL, 0, "pairs: each idle context has served a request", 0 },
	{ "descriptors", DESCRIPTORS, "COUNT", 0, "closed: descriptors; files: files", 0 },
	{ "extend", EXTEND, NULL, 0, "files: they are empty", 0 },
	{ "writes", WRITES, NULL, 0, "cost: writes instead of reads", 0 },
	{ "in-order", IN_ORDER, NULL, 0, "cost: block after block", 0 },
	{ "distribution", DISTRIBUTION, NULL, 0, "cold: of the times, too", 0 },
	{ "milliseconds", MILLISECONDS, "COUNT", 0, "pairs, closed: how long (default 300)", 0 },
	{ NULL, 0, NULL, 0, NULL, 0 },
};

static size_t parse_number(const char *text, size_t lowest, size_t highest,
			   struct argp_state *state)
{
	char *end;
	unsigned long long number = strtoull(text, &end, 10);

	if (*text < '0' || *text > '9' || *end || number < lowest || number > highest)
		argp_error(state, "%s is not a number from %zu to %zu", text, lowest, highest);
	return (size_t)number;
}

static error_t parse_crowd(int key, char *argument, struct argp_state *state)
{
	struct options *options = state->input;

	switch (key) {
	case DIRECTORY:
		options->directory = argument;
		return 0;
	case THREADS:
		options->threads = parse_number(argument, 1, MAX_THREADS, state);
		return 0;
	case CONTEXTS:
		options->contexts = parse_number(argument, 0, 1 << 20, state);
		return 0;
	case DESCRIPTORS:
		options->descriptors = parse_number(argument, 1, 1 << 20, state);
		return 0;
	case MILLISECONDS:
		options->milliseconds = parse_number(argument, SLICES, 60000, state);
		return 0;
	case USED:
		options->used = true;
		return 0;
	case EXTEND:
		options->extend = true;
		return 0;
	case WRITES:
		options->writes = true;
		return 0;
	case DISTRIBUTION:
		options->distribution = true;
		return 0;
	case IN_ORDER:
		options->in_order = true;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static error_t parse_option(int key, char *argument, struct argp_state *state)
{
	struct options *options = state->input;

	switch (key) {
	case 'f':
		options->file = argument;
		return 0;
	case 's':
		options->size = parse_number(argument, 1, 1 << 20, state);
		return 0;
	case 'b':
		options->batch = parse_number(argument, 1, CONTEXT_EVENTS, state);
		return 0;
	case 'n':
		options->requests = parse_number(argument, 1, 1 << 30, state);
		return 0;
	case 'k':
		options->skip = parse_number(argument, 0, 1 << 30, state);
		return 0;
	case 'd':
		options->direct = true;
		return 0;
	case ARGP_KEY_ARG:
		if (options->mode)
			argp_usage(state);
		options->mode = argument;
		return 0;
	case ARGP_KEY_END:
		if (!options->mode)
			argp_usage(state);
		return 0;
	default:
		return parse_crowd(key, argument, state);
	}
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*measure)(const struct options *options);
	} modes[] = {
		{ "cost", measure_cost },	{ "cold", measure_cold },
		{ "context", measure_context }, { "pairs", measure_pairs },
		{ "closed", measure_closed },	{ "files", measure_files },
		{ "cancel", measure_cancel },	{ "contexts", measure_contexts },
		{ "apart", measure_apart },	{ "durable", measure_durable },
		{ "extend", measure_extend },	{ "commits", measure_commits },
	};
	const struct argp parser = {
		.options = option_list,
		.parser = parse_option,
		.args_doc = "cost|cold|context|pairs|closed|files|cancel|contexts|apart|durable|"
			    "extend|commits",
		.doc = "Measure what the calls of libaio cost on the library that is loaded.",
	};
	struct options options = {
		.file = "/dev/zero",
		.size = 4096,
		.batch = 1,
		.requests = 10000,
		.directory = ".",
		.threads = 1,
		.descriptors = 1,
		.milliseconds = 300,
	};

	argp_parse(&parser, argc, argv, 0, NULL, &options);
	for (size_t i = 0; i < sizeof(modes) / sizeof(*modes); i++) {
		if (strcmp(options.mode, modes[i].name) != 0)
			continue;
		print_library();
		modes[i].measure(&options);
		return 0;
	}
	errx(2, "%s: no such mode", options.mode);
}
