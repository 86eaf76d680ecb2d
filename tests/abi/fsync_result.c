/* SPDX-License-Identifier: MIT */
/*
 * What io_fsync and io_fdsync, as compiled into this program, do with the library that it runs on.
 * Prints one line for each fact; fsync.bats knows which lines are right.  Compiles as C and as C++,
 * with this header and with that of libaio 0.3.113.
 *
 * Arguments: a file that can be written, and "bad-iocb" to end with iocbs that can't be written,
 * which is the end of the program too where io_fsync fills the iocb itself.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <libaio.h>

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* No wait here lasts longer, unless an event has been lost. */
#define PATIENCE_S 60

static int callbacks;
static struct iocb *called_back_for;
static long called_back_with;

static void callback(io_context_t ctx, struct iocb *iocb, long res, long res2)
{
	(void)ctx;
	(void)res2;
	callbacks++;
	called_back_for = iocb;
	called_back_with = res;
}

static void say_segv(int signal_number)
{
	(void)signal_number;
	if (write(STDOUT_FILENO, "SIGSEGV\n", 8) != 8)
		_exit(1);
	_exit(0);
}

static void say_library(void)
{
	Dl_info info;

	memset(&info, 0, sizeof(info));
	if (!dladdr(dlsym(RTLD_DEFAULT, "io_submit"), &info))
		info.dli_fname = "none";
	printf("library %s\n", info.dli_fname);
}

static void say_events(io_context_t ctx, int fd)
{
	struct iocb iocb;
	struct io_event event;
	struct timespec patience;
	int result, taken;

	patience.tv_sec = PATIENCE_S;
	patience.tv_nsec = 0;

	errno = 77;
	result = io_fsync(ctx, &iocb, callback, fd);
	printf("io_fsync %d errno %d opcode %d fd %d\n", result, errno, iocb.aio_lio_opcode,
	       iocb.aio_fildes == fd);
	memset(&event, 0xff, sizeof(event));
	taken = io_getevents(ctx, 1, 1, &event, &patience);
	printf("event %d obj %d data %d res %ld res2 %ld\n", taken, event.obj == &iocb,
	       event.data == iocb.data && iocb.data != NULL, (long)event.res, (long)event.res2);

	result = io_fdsync(ctx, &iocb, callback, fd);
	printf("io_fdsync %d opcode %d fd %d\n", result, iocb.aio_lio_opcode,
	       iocb.aio_fildes == fd);
	alarm(PATIENCE_S);
	while (callbacks == 0 && io_queue_run(ctx) == 0)
		sched_yield();
	alarm(0);
	printf("callback %d iocb %d res %ld\n", callbacks, called_back_for == &iocb,
	       called_back_with);
}

static void say_errors(io_context_t ctx, int fd)
{
	struct iocb iocb;
	int ends[2];

	printf("no context %d\n", io_fsync(NULL, &iocb, callback, fd));
	printf("no file %d\n", io_fsync(ctx, &iocb, callback, -1));
	if (pipe(ends) != 0)
		perror("pipe");
	printf("pipe %d\n", io_fdsync(ctx, &iocb, callback, ends[1]));
}

static void say_bad_iocbs(io_context_t ctx, int fd)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	char *memory = (char *)mmap(NULL, 2 * page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct timespec now;
	struct io_event event;

	if (memory == MAP_FAILED || munmap(memory + page, page) != 0)
		perror("mmap");
	now.tv_sec = now.tv_nsec = 0;
	fflush(stdout);
	signal(SIGSEGV, say_segv);
	printf("read-only iocb %d\n", io_fsync(ctx, (struct iocb *)memory, callback, fd));
	printf("unmapped iocb %d\n", io_fdsync(ctx, (struct iocb *)(memory + page), callback, fd));
	printf("null iocb %d\n", io_fsync(ctx, NULL, callback, fd));
	printf("events %d\n", io_getevents(ctx, 0, 1, &event, &now));
}

/* The name lets a test make a shared object of this file and call it there. */
#ifndef MAIN
#define MAIN main
#endif
#ifdef __cplusplus
extern "C"
#endif
	int
	MAIN(int argc, char **argv);

int MAIN(int argc, char **argv)
{
	io_context_t ctx = NULL;
	int fd, result;

	if (argc < 2) {
		fprintf(stderr, "usage: %s FILE [bad-iocb]\n", argv[0]);
		return 2;
	}
	fd = open(argv[1], O_RDWR | O_CREAT, 0600);
	if (fd < 0) {
		perror(argv[1]);
		return 1;
	}
	result = io_setup(4, &ctx);
	if (result != 0) {
		fprintf(stderr, "io_setup: %s\n", strerror(-result));
		return 1;
	}

	say_library();
	say_events(ctx, fd);
	say_errors(ctx, fd);
	if (argc > 2)
		say_bad_iocbs(ctx, fd);
	close(fd);
	return io_destroy(ctx) == 0 ? 0 : 1;
}
