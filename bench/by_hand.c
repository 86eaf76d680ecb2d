/* SPDX-License-Identifier: MIT */
/*
 * by_hand: the work of bench's modes cost and cold as a program does it that calls the kernel
 * without a library like libaio: by io_uring, or by pread and pwrite, which wait.
 *
 * Goal: what a program could gain by being rewritten, beside what it gains by another library.
 * The figures have the names that bench gives them, so that bench/run compares both.
 *
 * Method: io_uring through liburing, with default flags, without registered buffers and files,
 * which libaio's interface does not have either.  A batch is one io_uring_enter, which submits it
 * and waits for all of it.  Cold, what has ended is reaped together, and as many reads go in by one
 * call.  pread and pwrite do one request after the other.
 */
#define _GNU_SOURCE
#include "measure.h"

#include <err.h>
#include <inttypes.h>
#include <liburing.h>
#include <stdio.h>
#include <unistd.h>

struct load {
	struct io_uring ring;
	int file;
	const struct options *options;
	struct blocks blocks;
	void **buffers;
};

static struct load *open_load(const struct options *options)
{
	struct load *load = allocate(1, sizeof(*load));

	load->options = options;
	load->file = open_file(options);
	load->blocks = find_blocks(load->file, options);
	load->buffers = allocate(options->batch, sizeof(*load->buffers));
	for (size_t i = 0; i < options->batch; i++)
		load->buffers[i] = allocate_pages(options->size);
	return load;
}

static struct load *open_ring(const struct options *options)
{
	struct load *load = open_load(options);

	expect("io_uring_queue_init", io_uring_queue_init(CONTEXT_EVENTS, &load->ring, 0), 0);
	printf("engine io_uring\n");
	return load;
}

static struct load *open_calls(const struct options *options)
{
	printf("engine pread\n");
	return open_load(options);
}

static void prepare(struct load *load, size_t place)
{
	const struct options *options = load->options;
	struct io_uring_sqe *sqe = io_uring_get_sqe(&load->ring);
	uint64_t offset = (uint64_t)next_offset(&load->blocks);

	if (!sqe)
		errx(1, "no place in the submission queue");
	if (options->writes)
		io_uring_prep_write(sqe, load->file, load->buffers[place], (unsigned)options->size,
				    offset);
	else
		io_uring_prep_read(sqe, load->file, load->buffers[place], (unsigned)options->size,
				   offset);
	io_uring_sqe_set_data64(sqe, place);
}

static void ring_turn(void *argument)
{
	struct load *load = argument;
	size_t batch = load->options->batch;
	struct io_uring_cqe *cqe;
	unsigned head, count = 0;

	for (size_t i = 0; i < batch; i++)
		prepare(load, i);
	expect("io_uring_submit_and_wait", io_uring_submit_and_wait(&load->ring, (unsigned)batch),
	       (long)batch);
	io_uring_for_each_cqe(&load->ring, head, cqe)
	{
		expect("a request", cqe->res, (long)load->options->size);
		count++;
	}
	io_uring_cq_advance(&load->ring, count);
	expect("completions", count, (long)batch);
}

static void one_call(struct load *load, size_t place)
{
	const struct options *options = load->options;
	long long offset = next_offset(&load->blocks);
	long result = options->writes
			      ? pwrite(load->file, load->buffers[place], options->size, offset)
			      : pread(load->file, load->buffers[place], options->size, offset);

	expect("a request", result, (long)options->size);
}

static void calls_turn(void *argument)
{
	struct load *load = argument;

	for (size_t i = 0; i < load->options->batch; i++)
		one_call(load, i);
}

static void cost_by_ring(const struct options *options)
{
	measure_slices(options, ring_turn, open_ring(options));
}

static void cost_by_calls(const struct options *options)
{
	measure_slices(options, calls_turn, open_calls(options));
}

static void read_cold_by_ring(struct load *load, size_t count)
{
	size_t submitted = 0, done = 0;

	for (; submitted < load->options->batch && submitted < count; submitted++)
		prepare(load, submitted);
	while (done < count) {
		struct io_uring_cqe *cqe;
		unsigned head, reaped = 0;
		int result = io_uring_submit_and_wait(&load->ring, 1);

		if (result < 0)
			refuse("io_uring_submit_and_wait", result);
		io_uring_for_each_cqe(&load->ring, head, cqe)
		{
			expect("a read", cqe->res, (long)load->options->size);
			reaped++;
			if (submitted == count)
				continue;
			prepare(load, (size_t)cqe->user_data);
			submitted++;
		}
		io_uring_cq_advance(&load->ring, reaped);
		done += reaped;
	}
}

static void read_cold_by_calls(struct load *load, size_t count)
{
	while (count-- > 0)
		one_call(load, 0);
}

static void measure_cold(struct load *load, void (*reads)(struct load *load, size_t count))
{
	const struct options *options = load->options;
	size_t warm_up = options->requests / 20;

	expect_blocks(&load->blocks, options, options->requests + warm_up);
	drop_cache(load->file, &load->blocks);
	reads(load, warm_up);

	uint64_t cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
	uint64_t wall_ns = clock_ns(CLOCK_MONOTONIC);
	reads(load, options->requests);
	wall_ns = clock_ns(CLOCK_MONOTONIC) - wall_ns;
	cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu_ns;
	printf("requests_per_s %.0f\n", (double)options->requests * 1e9 / (double)wall_ns);
	printf("cpu_ns %.1f\n", (double)cpu_ns / (double)options->requests);
}

static void cold_by_ring(const struct options *options)
{
	measure_cold(open_ring(options), read_cold_by_ring);
}

static void cold_by_calls(const struct options *options)
{
	if (options->batch != 1)
		errx(1, "pread has one request in flight");
	measure_cold(open_calls(options), read_cold_by_calls);
}

int main(int argc, char **argv)
{
	static const struct mode modes[] = {
		{ "io_uring-cost", cost_by_ring },
		{ "io_uring-cold", cold_by_ring },
		{ "pread-cost", cost_by_calls },
		{ "pread-cold", cold_by_calls },
		{ NULL, NULL },
	};

	run_mode(argc, argv, modes, "Measure the same work without a library like libaio.");
	return 0;
}
