/* SPDX-License-Identifier: MIT */
/*
 * A program as a user would build it on the installed library: writes a file through it, reads it
 * back, and prints the object that io_submit is in and the engine.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <libaio.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int transfer(io_context_t context, struct iocb *iocb)
{
	struct io_event event;

	return io_submit(context, 1, &iocb) == 1 &&
			       io_getevents(context, 1, 1, &event, NULL) == 1 && event.res == 5
		       ? 0
		       : 1;
}

int main(void)
{
	int fd = open("data", O_RDWR | O_CREAT | O_TRUNC, 0600);
	char hello[] = "hello", back[5] = "";
	io_context_t context = NULL;
	struct iocb iocb;
	Dl_info object;

	if (fd < 0 || io_setup(4, &context) != 0)
		return 1;
	io_prep_pwrite(&iocb, fd, hello, 5, 0);
	if (transfer(context, &iocb) != 0)
		return 2;
	io_prep_pread(&iocb, fd, back, 5, 0);
	if (transfer(context, &iocb) != 0 || memcmp(hello, back, 5) != 0)
		return 3;
	/* In a static program, the program itself. */
	if (!dladdr((void *)io_submit, &object))
		object.dli_fname = "itself";
	printf("%s %s\n", object.dli_fname, trueaio_engine(context));
	return io_destroy(context) == 0 && close(fd) == 0 ? 0 : 4;
}
