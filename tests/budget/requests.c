/* SPDX-License-Identifier: MIT */
/*
 * Requests in arrays that are submitted and reaped one after the other:
 *
 *	requests read|write|pair FILE ARRAYS ELEMENTS STRIDE [CROWD]
 *
 * Cached reads or buffered writes of 512 bytes at every STRIDE; of a pair, the second element is an
 * fdsync.  Beside them are CROWD contexts, each with a descriptor that it has used for a read, and
 * a request in flight.  For callgrind, which counts what the library does.
 */
#include <fcntl.h>
#include <libaio.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define ELEMENTS_MAX 64
#define BYTES 512
#define FILE_BYTES (1 << 20)

static char buffers[ELEMENTS_MAX][BYTES];

struct kind {
	bool writes;
	bool syncs;
};

static void prepare(struct iocb *iocb, struct kind kind, int file, long element, long long at)
{
	if (kind.syncs && element == 1)
		io_prep_fdsync(iocb, file);
	else if (kind.writes)
		io_prep_pwrite(iocb, file, buffers[element], BYTES, at % FILE_BYTES);
	else
		io_prep_pread(iocb, file, buffers[element], BYTES, at % FILE_BYTES);
}

/* These may be accepted in parts. */
static bool submit(io_context_t ctx, struct iocb **list, long count)
{
	while (count > 0) {
		int accepted = io_submit(ctx, count, list);

		if (accepted < 1)
			return false;
		list += accepted;
		count -= accepted;
	}
	return true;
}

/* One that is never over: of an eventfd that nobody adds to. */
static bool join_crowd(int file, int idle)
{
	static struct iocb polls[4096];
	static long joined;
	struct iocb read, *list = &read;
	struct io_event event;
	io_context_t ctx = NULL;

	if (io_setup(2, &ctx) < 0)
		return false;
	io_prep_pread(&read, dup(file), buffers[0], BYTES, 0);
	if (io_submit(ctx, 1, &list) != 1 || io_getevents(ctx, 1, 1, &event, NULL) != 1)
		return false;
	list = &polls[joined++];
	io_prep_poll(list, idle, POLLIN);
	return io_submit(ctx, 1, &list) == 1;
}

int main(int argc, char **argv)
{
	struct iocb iocbs[ELEMENTS_MAX], *list[ELEMENTS_MAX];
	int file, idle = eventfd(0, EFD_CLOEXEC);
	struct io_event events[ELEMENTS_MAX];
	io_context_t ctx = NULL;
	long arrays, elements, stride, crowd;
	struct kind kind;

	if (argc < 6)
		return 2;
	kind.writes = strcmp(argv[1], "read") != 0;
	kind.syncs = strcmp(argv[1], "pair") == 0;
	file = open(argv[2], O_RDWR);
	arrays = atol(argv[3]);
	elements = atol(argv[4]);
	stride = atol(argv[5]);
	crowd = argc > 6 ? atol(argv[6]) : 0;
	if (file < 0 || elements > ELEMENTS_MAX || io_setup(2 * ELEMENTS_MAX, &ctx) < 0)
		return 1;
	while (crowd-- > 0)
		if (!join_crowd(file, idle))
			return 1;
	for (long array = 0; array < arrays; array++) {
		for (long i = 0; i < elements; i++) {
			list[i] = &iocbs[i];
			prepare(&iocbs[i], kind, file, i, (array + i) * stride);
		}
		if (!submit(ctx, list, elements) ||
		    io_getevents(ctx, elements, elements, events, NULL) != elements)
			return 1;
		for (long i = 0; i < elements; i++)
			if (events[i].res !=
			    (events[i].obj->aio_lio_opcode == IO_CMD_FDSYNC ? 0 : BYTES))
				return 1;
	}
	return 0;
}
