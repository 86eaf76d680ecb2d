/* SPDX-License-Identifier: MIT */
/*
 * fsync_promise: does io_fsync keep the promise of its manual page?
 *
 * The page says that an fsync's completion is reported only after every request queued earlier on
 * that file has ended. A database that logs by it acknowledges a commit when the event comes: if a
 * write is still in flight then, a power cut takes the acknowledged commit away.
 *
 * Method: rounds of requests with an fsync behind them, in four ways that programs use. A round
 * breaks the promise when the fsync's event is there and the event of an earlier request is not.
 * The program asks for nothing but what it was linked for, libaio.so.1, and runs on the one that
 * LD_LIBRARY_PATH names or on the system's; it prints which one that was.
 *
 *	fsync_promise ROUNDS [DIRECTORY]
 *
 * The file (32 MiB) is made in DIRECTORY, or here, and has no name while it is used. The exit
 * status is 0 when the promise was kept, 1 when it was not, 2 when it could not be tried.
 */
#include <dlfcn.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <libaio.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#define REQUESTS 32
#define WRITE_BYTES (1 << 20)
#define READ_BYTES 4096
#define FILE_BYTES (REQUESTS * WRITE_BYTES)
/* A disk that needs longer for 32 MiB is out of order, and so is an fsync that never ends. */
#define PATIENCE_MS 60000

static io_context_t context;
static io_context_t other_context;
static int direct_fd;
static int buffered_fd;
static int event_fd;
static char *buffer;
/* The requests of a round; the fsync is the last one. */
static struct iocb iocbs[REQUESTS + 1];
static struct iocb *iocb_pointers[REQUESTS + 1];
static struct iocb *const fsync_iocb = &iocbs[REQUESTS];

static void check_call(const char *call, int result, int wanted)
{
	if (result < 0)
		errx(2, "%s: %s", call, strerror(-result));
	if (result != wanted)
		errx(2, "%s: %d instead of %d", call, result, wanted);
}

static void check_event(const struct io_event *event)
{
	long wanted = 0;

	if (event->obj != fsync_iocb)
		wanted = (long)event->obj->u.c.nbytes;
	if ((long)event->res != wanted)
		errx(2, "%s: result %ld instead of %ld", wanted ? "transfer" : "fsync",
		     (long)event->res, wanted);
}

static void submit(io_context_t where, int first, int count)
{
	check_call("io_submit", io_submit(where, count, &iocb_pointers[first]), count);
}

/* Takes what is there, at least min_nr events, and returns their number. */
static int reap(io_context_t where, int min_nr, struct io_event *events)
{
	struct timespec patience = { PATIENCE_MS / 1000, 0 };
	int count = 0;

	do {
		int result = io_getevents(where, min_nr > count, REQUESTS + 1 - count,
					  &events[count], min_nr > count ? &patience : NULL);

		if (result < 0)
			errx(2, "io_getevents: %s", strerror(-result));
		if (result == 0 && min_nr > count)
			errx(2, "no event for %d seconds", PATIENCE_MS / 1000);
		count += result;
	} while (count < min_nr);
	for (int i = 0; i < count; i++)
		check_event(&events[i]);
	return count;
}

/* Takes all events of a round from one context; true if the fsync's was not the last. */
static bool fsync_overtook(void)
{
	struct io_event events[REQUESTS + 1];

	reap(context, REQUESTS + 1, events);
	return events[REQUESTS].obj != fsync_iocb;
}

/*
 * The file is a log whose space is allocated and not written yet, as databases keep theirs. Where
 * the space cannot be put back into that state, it is overwritten.
 */
static void prepare_writes(void)
{
	if (fallocate(buffered_fd, FALLOC_FL_ZERO_RANGE, 0, FILE_BYTES) < 0 && errno != EOPNOTSUPP)
		err(2, "fallocate");
	if (fsync(buffered_fd) < 0)
		err(2, "fsync");
	for (int i = 0; i < REQUESTS; i++)
		io_prep_pwrite(&iocbs[i], direct_fd, buffer, WRITE_BYTES,
			       (long long)i * WRITE_BYTES);
	io_prep_fsync(fsync_iocb, direct_fd);
}

static bool same_submit(void)
{
	prepare_writes();
	submit(context, 0, REQUESTS + 1);
	return fsync_overtook();
}

static bool another_context(void)
{
	struct io_event events[REQUESTS + 1];
	int early;

	prepare_writes();
	submit(context, 0, REQUESTS);
	submit(other_context, REQUESTS, 1);
	reap(other_context, 1, events);
	early = REQUESTS - reap(context, 0, events);
	reap(context, early, events);
	return early > 0;
}

/* The program of an event loop: it calls the library only when the eventfd says so. */
static bool only_eventfd_watched(void)
{
	struct pollfd watched = { .fd = event_fd, .events = POLLIN };
	struct io_event events[REQUESTS + 1];
	eventfd_t signals;
	int early;

	prepare_writes();
	io_set_eventfd(fsync_iocb, event_fd);
	submit(context, 0, REQUESTS + 1);
	if (poll(&watched, 1, PATIENCE_MS) != 1 || eventfd_read(event_fd, &signals) < 0)
		errx(2, "no signal for %d seconds", PATIENCE_MS / 1000);
	early = REQUESTS + 1 - reap(context, 0, events);
	reap(context, early, events);
	return early > 0;
}

static bool behind_cold_reads(void)
{
	for (int i = 0; i < REQUESTS; i++) {
		if (pwrite(buffered_fd, buffer, READ_BYTES, (off_t)i * WRITE_BYTES) != READ_BYTES)
			err(2, "write");
	}
	if (fsync(buffered_fd) < 0)
		err(2, "fsync");
	posix_fadvise(buffered_fd, 0, 0, POSIX_FADV_DONTNEED);
	for (int i = 0; i < REQUESTS; i++)
		io_prep_pread(&iocbs[i], buffered_fd, buffer + i * READ_BYTES, READ_BYTES,
			      (long long)i * WRITE_BYTES);
	io_prep_fsync(fsync_iocb, buffered_fd);
	submit(context, 0, REQUESTS + 1);
	return fsync_overtook();
}

/* Two descriptions of one file: the direct one for writes, the buffered one for reads. */
static void make_file(const char *directory)
{
	char *name;
	char by_number[sizeof("/proc/self/fd/") + 16];

	if (asprintf(&name, "%s/fsync-promise.XXXXXX", directory) < 0)
		err(2, "asprintf");
	buffered_fd = mkstemp(name);
	if (buffered_fd < 0)
		err(2, "%s", name);
	unlink(name);
	snprintf(by_number, sizeof(by_number), "/proc/self/fd/%d", buffered_fd);
	direct_fd = open(by_number, O_RDWR | O_DIRECT);
	if (direct_fd < 0)
		err(2, "%s: a file for O_DIRECT", directory);
	if (posix_fallocate(buffered_fd, 0, FILE_BYTES))
		errx(2, "%s: no room for 32 MiB", directory);
	posix_fadvise(buffered_fd, 0, FILE_BYTES, POSIX_FADV_RANDOM);
	free(name);
}

static void print_library(void)
{
	Dl_info library;
	union {
		int (*function)(io_context_t, long, struct iocb **);
		void *address;
	} symbol = { io_submit };

	if (dladdr(symbol.address, &library) && library.dli_fname)
		printf("library: %s\n", library.dli_fname);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		bool (*broke_promise)(void);
	} ways[] = {
		{ "fsync in the same io_submit", same_submit },
		{ "fsync in another context", another_context },
		{ "only an eventfd watched", only_eventfd_watched },
		{ "behind cold buffered reads", behind_cold_reads },
	};
	long rounds = argc > 1 ? strtol(argv[1], NULL, 10) : 0;
	bool broken_at_all = false;

	if (argc > 3 || rounds < 1)
		errx(2, "usage: fsync_promise ROUNDS [DIRECTORY]");
	/* A round of cold reads needs a page for each; the writes share one. */
	if (posix_memalign((void **)&buffer, 4096, WRITE_BYTES))
		errx(2, "no memory");
	memset(buffer, 'x', WRITE_BYTES);
	for (int i = 0; i <= REQUESTS; i++)
		iocb_pointers[i] = &iocbs[i];
	make_file(argc > 2 ? argv[2] : ".");
	event_fd = eventfd(0, EFD_CLOEXEC);
	if (event_fd < 0)
		err(2, "eventfd");
	check_call("io_setup", io_setup(REQUESTS + 1, &context), 0);
	check_call("io_setup", io_setup(1, &other_context), 0);

	print_library();
	for (size_t way = 0; way < sizeof(ways) / sizeof(ways[0]); way++) {
		long broken = 0;

		for (long round = 0; round < rounds; round++)
			broken += ways[way].broke_promise();
		printf("%s: %ld of %ld\n", ways[way].name, broken, rounds);
		fflush(stdout);
		broken_at_all |= broken > 0;
	}
	io_destroy(other_context);
	io_destroy(context);
	return broken_at_all ? 1 : 0;
}
