/* SPDX-License-Identifier: MIT */
/*
 * callbacks FILE: prints the number of lines in a file, as wc -l does.
 *
 * Shows requests that carry their own continuation.  Each of eight readers is a structure with an
 * iocb in it; its callback counts what has come, and sends the same iocb off again for the next
 * block that nobody has taken.  The main program only waits and has the callbacks called, and knows
 * nothing about readers.  Blocks are counted in the order in which they come, which may be any.
 *
 *	cc -o callbacks callbacks.c -laio
 *	./callbacks /usr/share/dict/words
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <libaio.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define READERS 8
#define BLOCK_BYTES 65536

struct reader {
	struct iocb iocb;
	char data[BLOCK_BYTES];
};

static struct reader readers[READERS];
static int fd;
static long long next_offset;
static int in_flight;
static long lines;
static int at_end;

static void block_came(io_context_t ctx, struct iocb *iocb, long result, long unused);

static void read_on(io_context_t ctx, struct iocb *iocb, void *data, long long offset, size_t bytes)
{
	int rc;

	io_prep_pread(iocb, fd, data, bytes, offset);
	io_set_callback(iocb, block_came);
	rc = io_submit(ctx, 1, &iocb);
	if (rc != 1)
		errx(1, "io_submit: %s", strerror(-rc));
	in_flight++;
}

static void read_next_block(io_context_t ctx, struct reader *reader)
{
	read_on(ctx, &reader->iocb, reader->data, next_offset, BLOCK_BYTES);
	next_offset += BLOCK_BYTES;
}

/* The iocb's address is what came back, so it leads to the reader. */
static void block_came(io_context_t ctx, struct iocb *iocb, long result, long unused)
{
	struct reader *reader = (struct reader *)((char *)iocb - offsetof(struct reader, iocb));
	char *data = iocb->u.c.buf;
	size_t asked = iocb->u.c.nbytes;
	long i;

	(void)unused;
	in_flight--;
	if (result < 0)
		errx(1, "read at %lld: %s", (long long)iocb->u.c.offset, strerror((int)-result));
	for (i = 0; i < result; i++)
		lines += data[i] == '\n';
	if (result == 0)
		at_end = 1;
	else if ((size_t)result < asked)
		/* A short read ends a file only if the next one finds nothing. */
		read_on(ctx, iocb, data + result, iocb->u.c.offset + result,
			asked - (size_t)result);
	else if (!at_end)
		read_next_block(ctx, reader);
}

int main(int argc, char **argv)
{
	io_context_t ctx = NULL;
	int rc, i;

	if (argc != 2)
		errx(2, "usage: callbacks FILE");
	fd = open(argv[1], O_RDONLY);
	if (fd < 0)
		err(1, "%s", argv[1]);
	rc = io_queue_init(READERS, &ctx);
	if (rc < 0)
		errx(1, "io_queue_init: %s", strerror(-rc));
	for (i = 0; i < READERS; i++)
		read_next_block(ctx, &readers[i]);

	/*
	 * io_queue_run calls the callbacks of all that has ended, but does not wait.  So the first
	 * event is waited for, and its callback, which is its data, called by hand.
	 */
	while (in_flight > 0) {
		struct io_event event;
		io_callback_t callback;

		do
			rc = io_getevents(ctx, 1, 1, &event, NULL);
		while (rc == -EINTR);
		if (rc != 1)
			errx(1, "io_getevents: %s", strerror(-rc));
		callback = (io_callback_t)event.data;
		callback(ctx, event.obj, (long)event.res, (long)event.res2);
		rc = io_queue_run(ctx);
		if (rc < 0)
			errx(1, "io_queue_run: %s", strerror(-rc));
	}

	rc = io_queue_release(ctx);
	if (rc < 0)
		errx(1, "io_queue_release: %s", strerror(-rc));
	if (printf("%ld\n", lines) < 0 || fflush(stdout) != 0)
		err(1, "standard output");
	return 0;
}
