/* SPDX-License-Identifier: MIT */
/*
 * Prints the 64 bytes that each inline function of <libaio.h> makes of an iocb full of rubbish.
 * Compiled with two headers and run, the two outputs are to be the same.
 */
#include <libaio.h>

#include <stdio.h>
#include <string.h>

static struct iocb iocb;

/* A callback and buffers are addresses only here, and must be the same in both programs. */
#define BUFFER ((void *)0x1122334455667788)
#define VECTOR ((const struct iovec *)0x1223344556677889)
#define CALLBACK ((io_callback_t)0x23344556677889aa)

static void print_and_spoil(const char *name)
{
	const unsigned char *byte = (const unsigned char *)&iocb;
	size_t i;

	printf("%s", name);
	for (i = 0; i < sizeof(iocb); i++)
		printf(" %02x", byte[i]);
	printf("\n");
	memset(&iocb, 0xa5, sizeof(iocb));
}

#define PRINT(call) \
	do { \
		call; \
		print_and_spoil(#call); \
	} while (0)

int main(void)
{
	print_and_spoil("static");
	PRINT(io_prep_pread(&iocb, 3, BUFFER, 0x99887766554433, 0x7766554433221100));
	PRINT(io_prep_pwrite(&iocb, -1, BUFFER, 0x99887766554433, -2));
	PRINT(io_prep_preadv(&iocb, 3, VECTOR, 1024, 0x7766554433221100));
	PRINT(io_prep_pwritev(&iocb, 3, VECTOR, -1, -2));
	PRINT(io_prep_preadv2(&iocb, 3, VECTOR, 1024, 0x7766554433221100, -3));
	PRINT(io_prep_pwritev2(&iocb, 3, VECTOR, 0, -2, 0x10));
	PRINT(io_prep_poll(&iocb, 3, 0x12345678));
	PRINT(io_prep_fsync(&iocb, 3));
	PRINT(io_prep_fdsync(&iocb, 3));
	PRINT(io_set_callback(&iocb, CALLBACK));
	PRINT(io_set_eventfd(&iocb, 7));
	PRINT(io_prep_fsync(&iocb, 3); io_set_eventfd(&iocb, -1));

	/* No context: the library refuses, and what it was given is to be seen all the same. */
	PRINT(io_poll(NULL, &iocb, CALLBACK, 3, 1));
	PRINT(io_fsync(NULL, &iocb, CALLBACK, 3));
	PRINT(io_fdsync(NULL, &iocb, CALLBACK, 3));
	return 0;
}
