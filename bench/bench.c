/* SPDX-License-Identifier: MIT */
/*
 * bench: what the calls of libaio cost, measured in one process on one library.
 *
 * Goal: figures that can be compared between two libraries behind the same interface. The program
 * is linked with libaio.so.1 dynamically and knows nothing of which one it runs on; LD_LIBRARY_PATH
 * decides, and the output names the file that was mapped, so that nobody compares a library with
 * itself by mistake. bench/run calls it many times, in turns on either library, and does the sums.
 *
 * Method: three modes.
 *   cost     --batch requests go in with one io_submit and come out with one io_getevents, over and
 *            over. The timed part is cut into slices and the middle slice is reported: a neighbour
 *            on the machine that takes the processor away for a while spoils a few slices, not the
 *            figure. The processor time is that of the whole process over all slices, so work that
 *            a library moves to threads of its own does not look free.
 *   cold     --batch reads are kept in flight on a file of which nothing is cached, each submitted
 *            by an io_submit of its own, which is timed: a library that reads inside io_submit
 *            holds its caller there. Every block is read once: no read is a hit by accident.
 *   context  io_setup, one read, io_destroy, each timed. Nothing is in flight at io_destroy.
 * All modes warm up first, use a fixed number of requests and CLOCK_MONOTONIC, check the result of
 * every read, and print lines of "name value". A call that fails ends the program with status 1.
 */
#define _GNU_SOURCE
#include <argp.h>
#include <dlfcn.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libaio.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* Room in each context: more than any batch here, little enough to be granted everywhere. */
#define CONTEXT_EVENTS 128
/* Odd, so that there is a middle one. */
#define SLICES 25
#define PAGE_BYTES 4096
/* Of a file's pages, how many in a hundred may be cached for it to count as cold. */
#define RESIDENT_PERCENT 1

struct options {
	const char *mode;
	const char *file;
	size_t size;
	size_t batch;
	size_t requests;
	size_t skip;
	bool direct;
};

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

static _Noreturn void refuse(const char *call, long result)
{
	if (result < 0)
		errx(1, "%s: %s", call, strerror((int)-result));
	errx(1, "%s: unexpected result %ld", call, result);
}

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

static int compare_times(const void *left, const void *right)
{
	uint64_t a = *(const uint64_t *)left;
	uint64_t b = *(const uint64_t *)right;

	return (a > b) - (a < b);
}

static void *allocate(size_t count, size_t size)
{
	void *memory = calloc(count, size);

	if (!memory)
		err(1, "%zu times %zu bytes of memory", count, size);
	return memory;
}

/* Every block number once, in an order that looks random and is the same in every run. */
static void shuffle_blocks(struct load *load, size_t count)
{
	uint64_t state = 88172645463325252U;

	load->blocks = allocate(count, sizeof(*load->blocks));
	load->block_count = count;
	for (size_t i = 0; i < count; i++) {
		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		size_t other = (size_t)(state % (i + 1));
		load->blocks[i] = load->blocks[other];
		load->blocks[other] = (uint32_t)i;
	}
}

static long long next_offset(struct load *load)
{
	long long offset = (long long)load->blocks[load->next_block] * (long long)load->size;

	if (++load->next_block == load->block_count)
		load->next_block = 0;
	return offset;
}

static io_context_t open_context(void)
{
	io_context_t context = NULL;
	int result = io_setup(CONTEXT_EVENTS, &context);

	if (result)
		refuse("io_setup", result);
	return context;
}

static void open_load(struct load *load, const struct options *options)
{
	size_t buffer_bytes = (options->size + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;

	load->descriptor = open(options->file, O_RDONLY | (options->direct ? O_DIRECT : 0));
	if (load->descriptor < 0)
		err(1, "%s", options->file);
	/* Only seeking finds the end of a block device; a character device has none: one block. */
	off_t end = lseek(load->descriptor, 0, SEEK_END);
	size_t count = end < 0 ? 0 : (size_t)end / options->size;
	shuffle_blocks(load, count ? count : 1);
	load->next_block = options->skip % load->block_count;

	load->size = options->size;
	load->batch = options->batch;
	load->iocbs = allocate(load->batch, sizeof(*load->iocbs));
	load->list = allocate(load->batch, sizeof(*load->list));
	load->events = allocate(load->batch, sizeof(*load->events));
	for (size_t i = 0; i < load->batch; i++) {
		void *buffer = aligned_alloc(PAGE_BYTES, buffer_bytes);

		if (!buffer)
			err(1, "%zu bytes of memory", buffer_bytes);
		/* Page faults in the buffer would be counted as the library's. */
		memset(buffer, 1, buffer_bytes);
		io_prep_pread(&load->iocbs[i], load->descriptor, buffer, load->size, 0);
		load->list[i] = &load->iocbs[i];
	}
	load->context = open_context();
}

static void check_read(const struct load *load, const struct io_event *event)
{
	if (event->res != load->size)
		refuse("read", (long)event->res);
}

static void submit_and_reap(struct load *load)
{
	long batch = (long)load->batch;

	for (size_t i = 0; i < load->batch; i++)
		load->iocbs[i].u.c.offset = next_offset(load);
	long accepted = io_submit(load->context, batch, load->list);
	if (accepted != batch)
		refuse("io_submit", accepted);
	long reaped = io_getevents(load->context, batch, batch, load->events, NULL);
	if (reaped != batch)
		refuse("io_getevents", reaped);
	for (size_t i = 0; i < load->batch; i++)
		check_read(load, &load->events[i]);
}

static void measure_cost(struct load *load, const struct options *options)
{
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

	qsort(slices, SLICES, sizeof(*slices), compare_times);
	double requests = (double)(turns * load->batch);
	printf("wall_ns %.1f\n", (double)slices[SLICES / 2] / requests);
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
	if (accepted != 1)
		refuse("io_submit", accepted);
	return end - start;
}

/* Reads count blocks with the whole batch in flight; times gets what each io_submit took. */
static void keep_in_flight(struct load *load, size_t count, uint64_t *times)
{
	size_t submitted = 0;

	for (; submitted < load->batch && submitted < count; submitted++)
		times[submitted] = submit_one(load, load->list[submitted]);
	for (size_t done = 0; done < count;) {
		long reaped = io_getevents(load->context, 1, (long)load->batch, load->events, NULL);

		if (reaped < 1)
			refuse("io_getevents", reaped);
		for (long i = 0; i < reaped; i++) {
			check_read(load, &load->events[i]);
			if (submitted < count) {
				times[submitted] = submit_one(load, load->events[i].obj);
				submitted++;
			}
		}
		done += (size_t)reaped;
	}
}

static void measure_cold(struct load *load, const struct options *options)
{
	size_t count = options->requests;
	size_t warm_up = count / 20;
	uint64_t *times = allocate(count, sizeof(*times));

	if (count < 100 || options->skip + warm_up + count > load->block_count)
		errx(1, "%s is too small to read %zu blocks once", options->file, count + warm_up);
	drop_cache(load);
	keep_in_flight(load, warm_up, times);

	uint64_t cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
	uint64_t wall_ns = clock_ns(CLOCK_MONOTONIC);
	keep_in_flight(load, count, times);
	wall_ns = clock_ns(CLOCK_MONOTONIC) - wall_ns;
	cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu_ns;

	qsort(times, count, sizeof(*times), compare_times);
	printf("requests_per_s %.0f\n", (double)count * 1e9 / (double)wall_ns);
	printf("submit_median_ns %" PRIu64 "\n", times[count / 2]);
	printf("submit_p99_ns %" PRIu64 "\n", times[count * 99 / 100]);
	printf("cpu_ns %.1f\n", (double)cpu_ns / (double)count);
	free(times);
}

static void measure_context(struct load *load, const struct options *options)
{
	size_t count = options->requests;
	size_t warm_up = 2;
	uint64_t *setup_times = allocate(count, sizeof(*setup_times));
	uint64_t *destroy_times = allocate(count, sizeof(*destroy_times));

	/* The context that every mode starts with. */
	int result = io_destroy(load->context);
	for (size_t i = 0; result == 0 && i < warm_up + count; i++) {
		size_t turn = i < warm_up ? 0 : i - warm_up;

		uint64_t start = clock_ns(CLOCK_MONOTONIC);
		load->context = open_context();
		setup_times[turn] = clock_ns(CLOCK_MONOTONIC) - start;

		submit_and_reap(load);

		start = clock_ns(CLOCK_MONOTONIC);
		result = io_destroy(load->context);
		destroy_times[turn] = clock_ns(CLOCK_MONOTONIC) - start;
	}
	if (result)
		refuse("io_destroy", result);
	qsort(setup_times, count, sizeof(*setup_times), compare_times);
	qsort(destroy_times, count, sizeof(*destroy_times), compare_times);
	printf("setup_ns %" PRIu64 "\n", setup_times[count / 2]);
	printf("destroy_ns %" PRIu64 "\n", destroy_times[count / 2]);
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

/*
 * Looked up by name, not through a weak reference: one binary runs on both libraries, and a linker
 * that saw only the one without the symbol may settle a weak reference as null for good.
 */
static void print_engine(io_context_t context)
{
	const char *(*engine)(io_context_t) = NULL;
	void *symbol = dlsym(RTLD_DEFAULT, "trueaio_engine");
	const char *name = NULL;

	memcpy(&engine, &symbol, sizeof(engine));
	if (engine)
		name = engine(context);
	printf("engine %s\n", engine ? (name ? name : "unknown") : "none");
}

static const struct argp_option option_list[] = {
	{ "file", 'f', "PATH", 0, "file or device to read (default /dev/zero)", 0 },
	{ "size", 's', "BYTES", 0, "bytes a read (default 4096)", 0 },
	{ "batch", 'b', "COUNT", 0, "reads per io_submit; cold: reads in flight (default 1)", 0 },
	{ "requests", 'n', "COUNT", 0, "reads to measure; context: contexts (default 10000)", 0 },
	{ "skip", 'k', "COUNT", 0, "pass over so many of the shuffled blocks first", 0 },
	{ "direct", 'd', NULL, 0, "open with O_DIRECT", 0 },
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
		return ARGP_ERR_UNKNOWN;
	}
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*measure)(struct load *load, const struct options *options);
	} modes[] = {
		{ "cost", measure_cost },
		{ "cold", measure_cold },
		{ "context", measure_context },
	};
	const struct argp parser = {
		.options = option_list,
		.parser = parse_option,
		.args_doc = "cost|cold|context",
		.doc = "Measure what the calls of libaio cost on the library that is loaded.",
	};
	struct options options = {
		.file = "/dev/zero",
		.size = 4096,
		.batch = 1,
		.requests = 10000,
	};
	struct load load = { 0 };

	argp_parse(&parser, argc, argv, 0, NULL, &options);
	for (size_t i = 0; i < sizeof(modes) / sizeof(*modes); i++) {
		if (strcmp(options.mode, modes[i].name) != 0)
			continue;
		open_load(&load, &options);
		print_library();
		print_engine(load.context);
		modes[i].measure(&load, &options);
		return 0;
	}
	errx(2, "%s: no such mode", options.mode);
}
