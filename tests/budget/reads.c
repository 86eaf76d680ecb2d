/* SPDX-License-Identifier: MIT */
/*
 * Cached reads or buffered writes, in arrays that are submitted and reaped one after the other:
 *
 *	reads read|write FILE ARRAYS ELEMENTS STRIDE
 *
 * of 512 bytes at every STRIDE.  For callgrind, which counts what the library does.
 */
#include <fcntl.h>
#include <libaio.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ELEMENTS_MAX 64
#define BYTES 512
#define FILE_BYTES (1 << 20)

static char buffers[ELEMENTS_MAX][BYTES];

static void prepare(struct iocb *iocb, bool writes, int file, char *buffer, long long at)
{
	if (writes)
		io_prep_pwrite(iocb, file, buffer, BYTES, at % FILE_BYTES);
	else
		io_prep_pread(iocb, file, buffer, BYTES, at % FILE_BYTES);
}

int main(int argc, char **argv)
{
	struct iocb iocbs[ELEMENTS_MAX], *list[ELEMENTS_MAX];
	struct io_event events[ELEMENTS_MAX];
	io_context_t ctx = NULL;
	long arrays, elements, stride;
	bool writes;
	int file;

	if (argc != 6)
		return 2;
	writes = strcmp(argv[1], "write") == 0;
	file = open(argv[2], O_RDWR);
	arrays = atol(argv[3]);
	elements = atol(argv[4]);
	stride = atol(argv[5]);
	if (file < 0 || elements > ELEMENTS_MAX || io_setup(2 * ELEMENTS_MAX, &ctx) < 0)
		return 1;
	for (long array = 0; array < arrays; array++) {
		for (long i = 0; i < elements; i++) {
			list[i] = &iocbs[i];
			prepare(&iocbs[i], writes, file, buffers[i], (array + i) * stride);
		}
		if (io_submit(ctx, elements, list) != elements ||
		    io_getevents(ctx, elements, elements, events, NULL) != elements)
			return 1;
		for (long i = 0; i < elements; i++)
			if (events[i].res != BYTES)
				return 1;
	}
	return io_destroy(ctx) < 0;
}
