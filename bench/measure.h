/* SPDX-License-Identifier: MIT */
/* What the modes of bench share. bench.c says what is measured, and how. */
#ifndef MEASURE_H
#define MEASURE_H

#include <libaio.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

/* Odd, so that there is a middle one. */
#define SLICES 25
#define PAGE_BYTES 4096
#define MAX_THREADS 64
/* Room in each context: more than any batch here, little enough to be granted everywhere. */
#define CONTEXT_EVENTS 128

struct options {
	const char *mode;
	const char *file;
	const char *directory;
	size_t size;
	size_t batch;
	size_t requests;
	size_t skip;
	size_t threads;
	size_t contexts;
	size_t descriptors;
	size_t milliseconds;
	bool direct;
	bool used;
	bool extend;
	bool writes;
	bool in_order;
	bool distribution;
};

struct mode {
	const char *name;
	void (*measure)(const struct options *options);
};

/* The blocks of a file, in an order in which they are used, over and over. */
struct blocks {
	uint32_t *order;
	size_t size;
	size_t count;
	size_t next;
};

/* options.c: does what the command line says; the last mode has no name. */
void run_mode(int argc, char **argv, const struct mode *modes, const char *what);

/* These end the program with status 1 where something fails. */
_Noreturn void refuse(const char *call, long result);
void expect(const char *call, long result, long wanted);
void *allocate(size_t count, size_t size);
void *allocate_pages(size_t bytes);
io_context_t open_context(size_t events);
/* The --file. */
int open_file(const struct options *options);
/* A new file in the directory, without a name from then on. */
int make_file(const char *directory, int flags);
/* The result of a write, a read or an fsync is what it should be. */
void check_event(const struct io_event *event);
/* Submits all of the list, which a library may accept in parts. */
void submit_all(io_context_t context, struct iocb **list, size_t count);
/* Takes so many events, and checks the result of each. */
void reap_all(io_context_t context, struct io_event *events, size_t count);

uint64_t clock_ns(clockid_t clock);
/* Sorts the list. */
uint64_t median(uint64_t *list, size_t count);
/* Every number below count once, in an order that looks random and is the same in every run. */
uint32_t *shuffled_numbers(size_t count);
struct blocks find_blocks(int file, const struct options *options);
long long next_offset(struct blocks *blocks);
/* Cold blocks are read once: so many must be there. */
void expect_blocks(const struct blocks *blocks, const struct options *options, size_t count);
/* Afterwards nothing of the file is cached, or the reads to come are not cold. */
void drop_cache(int file, const struct blocks *blocks);
/* The time of --requests requests, of which each turn makes --batch. */
void measure_slices(const struct options *options, void (*turn)(void *load), void *load);
void print_engine(io_context_t context);

/* crowd.c */
void measure_pairs(const struct options *options);
void measure_closed(const struct options *options);
void measure_files(const struct options *options);
void measure_cancel(const struct options *options);
void measure_contexts(const struct options *options);
void measure_apart(const struct options *options);

/* writes.c */
void measure_durable(const struct options *options);
void measure_extend(const struct options *options);
void measure_commits(const struct options *options);

#endif
