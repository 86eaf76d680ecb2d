/* SPDX-License-Identifier: MIT */
/*
 * vectored FILE: writes a table to a file, sixteen pages at a time, and reads it back by columns.
 *
 * Shows vectored requests.  On the disk a page is a header, keys, and values; in memory the three
 * live apart, each with its likes: no page is ever put together or taken apart by copying.  Sixteen
 * pages go out by io_prep_pwritev in one io_submit, and come in again by io_prep_preadv.  A vector
 * may end early, as any read or write: what is missing is a request of its own for the rest.
 *
 *	cc -o vectored vectored.c -laio
 *	./vectored /tmp/table
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <libaio.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGES 16
#define ROWS 256
#define PARTS 3

struct header {
	uint32_t page, rows;
	uint64_t sum; /* of the keys and values */
};

/* The table by columns, as a program would compute with it. */
struct table {
	struct header headers[PAGES];
	uint64_t keys[PAGES][ROWS];
	double values[PAGES][ROWS];
};

#define PAGE_BYTES (sizeof(struct header) + ROWS * (sizeof(uint64_t) + sizeof(double)))

struct request {
	struct iocb iocb;
	struct iovec parts[PARTS];
	size_t done;
};

static void point_to_page(struct request *request, struct table *table, int page)
{
	request->done = 0;
	request->parts[0] = (struct iovec){ &table->headers[page], sizeof(table->headers[page]) };
	request->parts[1] = (struct iovec){ table->keys[page], sizeof(table->keys[page]) };
	request->parts[2] = (struct iovec){ table->values[page], sizeof(table->values[page]) };
}

/* Takes what has been moved off the front of the vector; an empty part does no harm. */
static void advance(struct request *request, size_t bytes)
{
	int i;

	request->done += bytes;
	for (i = 0; i < PARTS; i++) {
		size_t step = bytes < request->parts[i].iov_len ? bytes : request->parts[i].iov_len;

		request->parts[i].iov_base = (char *)request->parts[i].iov_base + step;
		request->parts[i].iov_len -= step;
		bytes -= step;
	}
}

static void prepare(struct request *request, int fd, int page, int writing)
{
	long long offset = (long long)((size_t)page * PAGE_BYTES + request->done);

	if (writing)
		io_prep_pwritev(&request->iocb, fd, request->parts, PARTS, offset);
	else
		io_prep_preadv(&request->iocb, fd, request->parts, PARTS, offset);
	request->iocb.data = request;
}

static void submit(io_context_t ctx, long count, struct iocb **batch)
{
	int rc = io_submit(ctx, count, batch);

	if (rc != count)
		errx(1, "io_submit: %s", rc < 0 ? strerror(-rc) : "not all accepted");
}

/* Moves all pages between the table and the file. */
static void transfer(io_context_t ctx, int fd, struct table *table, int writing)
{
	struct request requests[PAGES];
	struct iocb *batch[PAGES];
	int page, unfinished = PAGES;

	for (page = 0; page < PAGES; page++) {
		point_to_page(&requests[page], table, page);
		prepare(&requests[page], fd, page, writing);
		batch[page] = &requests[page].iocb;
	}
	submit(ctx, PAGES, batch);
	while (unfinished > 0) {
		struct io_event events[PAGES];
		int count = io_getevents(ctx, 1, PAGES, events, NULL), i;

		if (count == -EINTR)
			continue;
		if (count < 0)
			errx(1, "io_getevents: %s", strerror(-count));
		for (i = 0; i < count; i++) {
			struct request *request = events[i].data;
			long result = (long)events[i].res;

			page = (int)(request - requests);
			if (result <= 0)
				errx(1, "page %d: %s", page,
				     result < 0 ? strerror((int)-result) : "the file has no more");
			advance(request, (size_t)result);
			if (request->done == PAGE_BYTES) {
				unfinished--;
				continue;
			}
			prepare(request, fd, page, writing);
			batch[0] = &request->iocb;
			submit(ctx, 1, batch);
		}
	}
}

static uint64_t sum_of(const struct table *table, int page)
{
	uint64_t sum = 0, bits;
	int row;

	for (row = 0; row < ROWS; row++) {
		memcpy(&bits, &table->values[page][row], sizeof(bits));
		sum = (sum ^ table->keys[page][row]) * 0x100000001b3u + bits;
	}
	return sum;
}

static void fill(struct table *table)
{
	int page, row;

	for (page = 0; page < PAGES; page++) {
		for (row = 0; row < ROWS; row++) {
			table->keys[page][row] = (uint64_t)(page * ROWS + row) * 2654435761u;
			table->values[page][row] = page + row / 1000.0;
		}
		table->headers[page] = (struct header){ (uint32_t)page, ROWS, sum_of(table, page) };
	}
}

int main(int argc, char **argv)
{
	static struct table written, read_back;
	io_context_t ctx = NULL;
	int fd, page, rc;

	if (argc != 2)
		errx(2, "usage: vectored FILE");
	fd = open(argv[1], O_RDWR | O_CREAT | O_TRUNC, 0666);
	if (fd < 0)
		err(1, "%s", argv[1]);
	rc = io_setup(PAGES, &ctx);
	if (rc < 0)
		errx(1, "io_setup: %s", strerror(-rc));

	fill(&written);
	transfer(ctx, fd, &written, 1);
	transfer(ctx, fd, &read_back, 0);
	for (page = 0; page < PAGES; page++)
		if (read_back.headers[page].sum != sum_of(&read_back, page) ||
		    memcmp(&read_back.headers[page], &written.headers[page],
			   sizeof(struct header)) != 0)
			errx(1, "page %d came back different", page);

	rc = io_destroy(ctx);
	if (rc < 0)
		errx(1, "io_destroy: %s", strerror(-rc));
	if (close(fd) < 0)
		err(1, "%s", argv[1]);
	if (printf("%d pages of %d rows\n", PAGES, ROWS) < 0 || fflush(stdout) != 0)
		err(1, "standard output");
	return 0;
}
