/* SPDX-License-Identifier: MIT */
/*
 * A program with one thread.  It does one thing after the other and says after each how many
 * threads the process has, and whether the C library still takes it for one with a single thread:
 * "STEP COUNT SINGLE".  It judges nothing.
 *
 *	one_thread FILE STEP...
 *
 * FILE has some blocks, of which the first are read and written.  The last step may be "unshare",
 * which says how unshare(CLONE_NEWUSER) has ended: "unshare ERRNO".
 */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <libaio.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/single_threaded.h>
#include <unistd.h>

#define BLOCK_BYTES 4096
#define BATCH 8
#define LIMIT_SECONDS 30 /* the end of a program that hangs */

static io_context_t contexts[2];
static char blocks[BATCH][BLOCK_BYTES] __attribute__((aligned(BLOCK_BYTES)));
static struct iocb iocbs[BATCH];
static int buffered, direct, event_fd;

static void expect(const char *step, long got, long due)
{
	if (got == due)
		return;
	fprintf(stderr, "one_thread: %s: %ld instead of %ld\n", step, got, due);
	exit(1);
}

static void tell(const char *step)
{
	DIR *tasks = opendir("/proc/self/task");
	struct dirent *entry;
	int count = 0;

	while (tasks && (entry = readdir(tasks)))
		count += entry->d_name[0] != '.';
	if (tasks)
		closedir(tasks);
	printf("%s %d %d\n", step, count, __libc_single_threaded);
}

static void tell_engine(void)
{
	void *symbol = dlsym(RTLD_DEFAULT, "trueaio_engine"); /* another libaio has none */
	const char *(*engine)(io_context_t) = NULL;

	memcpy(&engine, &symbol, sizeof(engine));
	printf("engine %s\n", engine ? engine(contexts[0]) : "reference");
}

static void transfer(const char *step, int fd, short opcode, long bytes)
{
	for (int c = 0; c < 2; c++) {
		struct iocb *batch[BATCH];
		struct io_event events[BATCH];

		for (int i = 0; i < BATCH; i++) {
			io_prep_pread(&iocbs[i], fd, blocks[i], BLOCK_BYTES,
				      (long long)i * BLOCK_BYTES);
			iocbs[i].aio_lio_opcode = opcode;
			batch[i] = &iocbs[i];
		}
		expect(step, io_submit(contexts[c], BATCH, batch), BATCH);
		expect(step, io_getevents(contexts[c], BATCH, BATCH, events, NULL), BATCH);
		for (int i = 0; i < BATCH; i++)
			expect(step, (long)events[i].res, bytes);
	}
}

static void synchronize(const char *step)
{
	for (int c = 0; c < 2; c++) {
		struct iocb *batch[] = { &iocbs[0] };
		struct io_event event;

		io_prep_fsync(&iocbs[0], buffered);
		expect(step, io_submit(contexts[c], 1, batch), 1);
		expect(step, io_getevents(contexts[c], 1, 1, &event, NULL), 1);
		expect(step, (long)event.res, 0);
	}
}

static void submit_poll(const char *step)
{
	struct iocb *batch[] = { &iocbs[0] };

	io_prep_poll(&iocbs[0], event_fd, POLLIN);
	expect(step, io_submit(contexts[0], 1, batch), 1);
}

static void poll_and_fire(const char *step)
{
	struct io_event event;

	submit_poll(step);
	eventfd_write(event_fd, 1);
	expect(step, io_getevents(contexts[0], 1, 1, &event, NULL), 1);
	eventfd_read(event_fd, &(eventfd_t){ 0 });
}

static void poll_and_cancel(const char *step)
{
	struct io_event event;

	submit_poll(step);
	expect(step, io_cancel(contexts[0], &iocbs[0], &event), -EINPROGRESS);
	expect(step, io_getevents(contexts[0], 1, 1, &event, NULL), 1);
}

static void wait_for_nothing(const char *step)
{
	struct timespec moment = { .tv_nsec = 2000000 };
	struct io_event event;
	sigset_t none;

	sigemptyset(&none);
	for (int c = 0; c < 2; c++) {
		expect(step, io_getevents(contexts[c], 1, 1, &event, &moment), 0);
		expect(step, io_pgetevents(contexts[c], 1, 1, &event, &moment, &none), 0);
	}
}

static void set_up(const char *step)
{
	for (int c = 0; c < 2; c++)
		expect(step, io_setup(16, &contexts[c]), 0);
	tell_engine();
}

static void tear_down(const char *step)
{
	for (int c = 0; c < 2; c++)
		expect(step, io_destroy(contexts[c]), 0);
}

static void run(const char *step)
{
	if (strcmp(step, "setup") == 0)
		set_up(step);
	else if (strcmp(step, "write") == 0)
		transfer(step, buffered, IO_CMD_PWRITE, BLOCK_BYTES);
	else if (strcmp(step, "read") == 0)
		transfer(step, buffered, IO_CMD_PREAD, BLOCK_BYTES);
	else if (strcmp(step, "direct-write") == 0)
		transfer(step, direct, IO_CMD_PWRITE, BLOCK_BYTES);
	else if (strcmp(step, "direct-read") == 0)
		transfer(step, direct, IO_CMD_PREAD, BLOCK_BYTES);
	else if (strcmp(step, "sync") == 0)
		synchronize(step);
	else if (strcmp(step, "poll") == 0)
		poll_and_fire(step);
	else if (strcmp(step, "cancel") == 0)
		poll_and_cancel(step);
	else if (strcmp(step, "wait") == 0)
		wait_for_nothing(step);
	else if (strcmp(step, "destroy") == 0)
		tear_down(step);
	else
		expect(step, 0, 1);
	tell(step);
}

int main(int argc, char **argv)
{
	if (argc < 3) {
		fprintf(stderr, "usage: one_thread FILE STEP...\n");
		return 2;
	}
	alarm(LIMIT_SECONDS);
	buffered = open(argv[1], O_RDWR | O_CLOEXEC);
	direct = open(argv[1], O_RDWR | O_DIRECT | O_CLOEXEC);
	event_fd = eventfd(0, EFD_CLOEXEC);
	expect("open", buffered >= 0 && event_fd >= 0, 1);
	for (int i = 2; i < argc; i++) {
		if (strcmp(argv[i], "unshare") != 0)
			run(argv[i]);
		else
			printf("unshare %d\n", unshare(CLONE_NEWUSER) == 0 ? 0 : errno);
	}
	return 0;
}
