/* SPDX-License-Identifier: MIT */
/* What the modes of bench share; each function's contract is in measure.h. */
#define _GNU_SOURCE
#include "measure.h"

#include <dlfcn.h>
#include <err.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Of a file's pages, how many in a hundred may be cached for it to count as cold. */
#define RESIDENT_PERCENT 1

_Noreturn void refuse(const char *call, long result)
{
	if (result < 0)
		errx(1, "%s: %s", call, strerror((int)-result));
	errx(1, "%s: unexpected result %ld", call, result);
}

void expect(const char *call, long result, long wanted)
{
	if (result != wanted)
		refuse(call, result);
}

void *allocate(size_t count, size_t size)
{
	void *memory = calloc(count, size);

	if (!memory)
		err(1, "%zu times %zu bytes of memory", count, size);
	return memory;
}

void *allocate_pages(size_t bytes)
{
	size_t whole = (bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
	void *memory = aligned_alloc(PAGE_BYTES, whole);

	if (!memory)
		err(1, "%zu bytes of memory", whole);
	/* Page faults would be counted as the library's. */
	memset(memory, 1, whole);
	return memory;
}

io_context_t open_context(size_t events)
{
	io_context_t context = NULL;

	expect("io_setup", io_setup((int)events, &context), 0);
	return context;
}

uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

static int compare_numbers(const void *left, const void *right)
{
	uint64_t a = *(const uint64_t *)left;
	uint64_t b = *(const uint64_t *)right;

	return (a > b) - (a < b);
}

uint64_t median(uint64_t *list, size_t count)
{
	qsort(list, count, sizeof(*list), compare_numbers);
	return list[count / 2];
}

uint32_t *shuffled_numbers(size_t count)
{
	uint32_t *numbers = allocate(count, sizeof(*numbers));
	uint64_t state = 88172645463325252U;

	for (size_t i = 0; i < count; i++) {
		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		size_t other = (size_t)(state % (i + 1));
		numbers[i] = numbers[other];
		numbers[other] = (uint32_t)i;
	}
	return numbers;
}

struct blocks find_blocks(int file, const struct options *options)
{
	/* Only seeking finds the end of a block device; a character device has none: one block. */
	off_t end = lseek(file, 0, SEEK_END);
	size_t count = end < 0 ? 0 : (size_t)end / options->size;
	struct blocks blocks = { .size = options->size, .count = count ? count : 1 };

	blocks.order = shuffled_numbers(blocks.count);
	for (size_t i = 0; options->in_order && i < blocks.count; i++)
		blocks.order[i] = (uint32_t)i;
	blocks.next = options->skip % blocks.count;
	return blocks;
}

long long next_offset(struct blocks *blocks)
{
	long long offset = (long long)blocks->order[blocks->next] * (long long)blocks->size;

	if (++blocks->next == blocks->count)
		blocks->next = 0;
	return offset;
}

void expect_blocks(const struct blocks *blocks, const struct options *options, size_t count)
{
	if (options->requests < 100 || options->skip + count > blocks->count)
		errx(1, "%s is too small to read %zu blocks once", options->file, count);
}

void drop_cache(int file, const struct blocks *blocks)
{
	size_t pages = blocks->count * blocks->size / PAGE_BYTES;
	unsigned char *residence = allocate(pages, 1);
	size_t resident = 0;

	int error = posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
	if (!error)
		/* Else read-ahead turns neighbours of what was read into hits. */
		error = posix_fadvise(file, 0, 0, POSIX_FADV_RANDOM);
	if (error)
		errx(1, "posix_fadvise: %s", strerror(error));
	void *map = mmap(NULL, pages * PAGE_BYTES, PROT_READ, MAP_SHARED, file, 0);
	if (map == MAP_FAILED || mincore(map, pages * PAGE_BYTES, residence))
		err(1, "cannot see what is cached");
	munmap(map, pages * PAGE_BYTES);
	for (size_t i = 0; i < pages; i++)
		resident += residence[i] & 1;
	free(residence);
	if (resident > pages * RESIDENT_PERCENT / 100)
		errx(1, "%zu of %zu pages stay in the cache", resident, pages);
}

void measure_slices(const struct options *options, void (*turn)(void *load), void *load)
{
	size_t turns = options->requests / options->batch / SLICES;
	uint64_t slices[SLICES];

	if (turns == 0)
		errx(1, "--requests must be at least %d times --batch", SLICES);
	for (size_t i = 0; i < turns; i++)
		turn(load);

	uint64_t cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
	for (size_t slice = 0; slice < SLICES; slice++) {
		uint64_t start = clock_ns(CLOCK_MONOTONIC);

		for (size_t i = 0; i < turns; i++)
			turn(load);
		slices[slice] = clock_ns(CLOCK_MONOTONIC) - start;
	}
	cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu_ns;

	double requests = (double)(turns * options->batch);
	printf("wall_ns %.1f\n", (double)median(slices, SLICES) / requests);
	printf("cpu_ns %.1f\n", (double)cpu_ns / requests / SLICES);
}

int open_file(const struct options *options)
{
	int file = open(options->file,
			(options->writes ? O_RDWR : O_RDONLY) | (options->direct ? O_DIRECT : 0));

	if (file < 0)
		err(1, "%s", options->file);
	return file;
}

int make_file(const char *directory, int flags)
{
	char *name;

	if (asprintf(&name, "%s/bench.XXXXXX", directory) < 0)
		err(1, "asprintf");
	int file = mkostemp(name, flags);
	if (file < 0)
		err(1, "%s", name);
	unlink(name);
	free(name);
	return file;
}

void submit_all(io_context_t context, struct iocb **list, size_t count)
{
	for (size_t done = 0; done < count;) {
		int accepted = io_submit(context, (long)(count - done), list + done);

		if (accepted < 1)
			refuse("io_submit", accepted);
		done += (size_t)accepted;
	}
}

void check_event(const struct io_event *event)
{
	short operation = event->obj->aio_lio_opcode;
	bool moves_data = operation == IO_CMD_PREAD || operation == IO_CMD_PWRITE;

	expect("a request", (long)event->res, moves_data ? (long)event->obj->u.c.nbytes : 0);
}

void reap_all(io_context_t context, struct io_event *events, size_t count)
{
	for (size_t done = 0; done < count;) {
		int reaped = io_getevents(context, 1, (long)(count - done), events, NULL);

		if (reaped < 1)
			refuse("io_getevents", reaped);
		for (int i = 0; i < reaped; i++)
			check_event(&events[i]);
		done += (size_t)reaped;
	}
}

/*
 * Looked up by name, not through a weak reference: one binary runs on both libraries, and a linker
 * that saw only the one without the symbol may settle a weak reference as null for good.
 */
void print_engine(io_context_t context)
{
	const char *(*engine)(io_context_t) = NULL;
	void *symbol = dlsym(RTLD_DEFAULT, "trueaio_engine");
	const char *name = NULL;

	memcpy(&engine, &symbol, sizeof(engine));
	if (engine)
		name = engine(context);
	printf("engine %s\n", engine ? (name ? name : "unknown") : "none");
}
