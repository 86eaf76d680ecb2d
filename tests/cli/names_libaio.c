/* SPDX-License-Identifier: MIT */
/*
 * A program that uses libaio, and says which one it has met: the path of the object that its
 * io_submit comes from.  Exits with the number given, else with 0.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

/* As the header declares it; the program is to be built where there is none. */
struct io_context;
struct iocb;
int io_submit(struct io_context *context, long nr, struct iocb *requests[]);

int main(int argc, char **argv)
{
	Dl_info object;

	if (!dladdr((void *)io_submit, &object))
		return 99;
	puts(object.dli_fname);
	return argc > 1 ? atoi(argv[1]) : 0;
}
