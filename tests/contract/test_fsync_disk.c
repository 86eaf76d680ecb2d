/* SPDX-License-Identifier: MIT */
/*
 * Goal: the promise of fsync holds on a real disk, where nobody chooses the order in which things
 * end.
 *
 * Method: many rounds of large O_DIRECT writes with an fsync behind them.  When the event of the
 * fsync is there, the events of all the writes must be there too, and the file must hold the new
 * data.  The space is allocated and not yet written, as in a database's log: the end of such a
 * write takes the file system a while.  One look proves little, as the order is up to the disk, so
 * each case makes TRUEAIO_TEST_ROUNDS of them (default 50).  On the reference the first case must
 * see the fsync overtake; the others differ in who waits and how, and add nothing there.
 */
#include "contract.h"

#define WRITES 32
#define WRITE_BYTES ((size_t)1 << 20)
#define FILE_BYTES (WRITES * WRITE_BYTES)
#define COLD_READS 32
#define READ_BYTES 4096
#define REQUESTS (WRITES + COLD_READS + 1)

struct disk {
	io_context_t ctx;
	io_context_t sync_ctx; /* where the fsyncs go; may be the same */
	int buffered;
	int direct;
	int sync_fd;
	int event_fd; /* -1: the fsync's event is waited for with io_getevents */
	bool cold_reads;
	char *data;
	struct iocb writes[WRITES], reads[COLD_READS], sync;
	char cold[COLD_READS][READ_BYTES];
};

static int rounds(void)
{
	const char *text = getenv("TRUEAIO_TEST_ROUNDS");

	return text ? atoi(text) : 50;
}

/* False where files cannot be opened with O_DIRECT. */
static bool disk_open(struct disk *disk)
{
	*disk = (struct disk){ .event_fd = -1 };
	disk->buffered = scratch_file(FILE_BYTES);
	disk->direct = reopen_file(disk->buffered, O_RDWR | O_DIRECT);
	disk->sync_fd = disk->direct;
	disk->data = aligned_buffer(WRITE_BYTES);
	disk->ctx = disk->sync_ctx = new_context(REQUESTS);
	return disk->direct >= 0;
}

static void disk_close(struct disk *disk)
{
	if (disk->sync_ctx != disk->ctx)
		free_context(disk->sync_ctx);
	free_context(disk->ctx);
	free(disk->data);
	close(disk->direct);
	close(disk->buffered);
	if (disk->event_fd >= 0)
		close(disk->event_fd);
}

#define DISK_OPEN(disk)                                                                            \
	do {                                                                                       \
		if (!disk_open(disk)) {                                                            \
			disk_close(disk);                                                          \
			SKIP("no O_DIRECT here");                                                  \
		}                                                                                  \
	} while (0)

/* Hands back how many requests there are beside the fsync. */
static int submit_round(struct disk *disk)
{
	struct iocb *batch[REQUESTS];
	int count = 0;

	if (disk->cold_reads)
		posix_fadvise(disk->buffered, 0, 0, POSIX_FADV_DONTNEED);
	else if (fallocate(disk->buffered, FALLOC_FL_ZERO_RANGE, 0, FILE_BYTES) == 0)
		ck_assert_int_eq(fsync(disk->buffered), 0);
	for (int i = 0; i < COLD_READS && disk->cold_reads; i++) {
		long long offset = (long long)i * (long long)WRITE_BYTES + 100 * READ_BYTES;

		io_prep_pread(&disk->reads[i], disk->buffered, disk->cold[i], READ_BYTES, offset);
		batch[count++] = &disk->reads[i];
	}
	for (int i = 0; i < WRITES; i++) {
		io_prep_pwrite(&disk->writes[i], disk->direct, disk->data, WRITE_BYTES,
			       (long long)i * (long long)WRITE_BYTES);
		batch[count++] = &disk->writes[i];
	}
	io_prep_fsync(&disk->sync, disk->sync_fd);
	if (disk->event_fd >= 0)
		io_set_eventfd(&disk->sync, disk->event_fd);
	if (disk->sync_ctx == disk->ctx) {
		batch[count] = &disk->sync;
		ck_assert_int_eq(io_submit(disk->ctx, count + 1, batch), count + 1);
	} else {
		ck_assert_int_eq(io_submit(disk->ctx, count, batch), count);
		expect_submitted(disk->sync_ctx, &disk->sync, HERE);
	}
	return count;
}

#define SPIN_UNTIL(condition)                                                                      \
	do {                                                                                       \
		long long end_ns = monotonic_ns() + EVENT_LIMIT_SECONDS * 1000000000LL;            \
		while (!(condition))                                                               \
			ck_assert_msg(monotonic_ns() < end_ns, "still not: %s", #condition);       \
	} while (0)

static void check_event(struct disk *disk, const struct io_event *event)
{
	bool write = event->obj >= disk->writes && event->obj < disk->writes + WRITES;
	long expected = event->obj == &disk->sync ? 0 : write ? (long)WRITE_BYTES : READ_BYTES;

	ck_assert_int_eq((long)event->res, expected);
}

static int take_now(struct disk *disk)
{
	struct io_event events[REQUESTS];
	int count = take_events_now(disk->ctx, events, REQUESTS);

	for (int i = 0; i < count; i++)
		check_event(disk, &events[i]);
	return count;
}

/*
 * Takes events until the fsync's; hands back how many other requests have ended by then.  What is
 * in another context is looked at without a sleep in between, in which the writes would end after
 * all.
 */
static int take_until_sync(struct disk *disk)
{
	struct io_event event;
	int taken = 0;

	if (disk->event_fd >= 0)
		SPIN_UNTIL(take_count(disk->event_fd) == 1);
	if (disk->sync_ctx != disk->ctx) {
		SPIN_UNTIL(take_events_now(disk->sync_ctx, &event, 1) == 1);
		taken = take_now(disk);
		check_event(disk, &event);
		return taken;
	}
	for (;; taken++) {
		event = take_event(disk->ctx, HERE);
		check_event(disk, &event);
		if (event.obj == &disk->sync)
			return taken;
	}
}

/* Through the disk, past the page cache: the end of each megabyte. */
static void expect_on_disk(struct disk *disk, char fill)
{
	char *block = aligned_buffer(READ_BYTES);

	for (size_t i = 1; i <= WRITES; i++) {
		off_t offset = (off_t)(i * WRITE_BYTES - READ_BYTES);

		ck_assert_int_eq(pread(disk->direct, block, READ_BYTES, offset), READ_BYTES);
		ck_assert_msg(block[READ_BYTES - 1] == fill, "old data after the fsync");
	}
	free(block);
}

static void play_rounds(struct disk *disk)
{
	int overtaken = 0;

	for (int round = 0; round < rounds(); round++) {
		char fill = (char)(1 + round % 100);
		int requests, ended;

		memset(disk->data, fill, WRITE_BYTES);
		requests = submit_round(disk);
		ended = take_until_sync(disk);
		if (ended == requests) {
			expect_on_disk(disk, fill);
			continue;
		}
		ck_assert_msg(on_reference(), "round %d: the fsync has overtaken %d of %d requests",
			      round, requests - ended, requests);
		overtaken++;
		for (; ended < requests; ended++) {
			struct io_event event = take_event(disk->ctx, HERE);

			check_event(disk, &event);
		}
	}
	ck_assert_msg(overtaken > 0 || !on_reference(),
		      "the reference has not been seen to overtake");
}

CASE(fsync_does_not_overtake_direct_writes)
{
	struct disk disk;

	DISK_OPEN(&disk);
	play_rounds(&disk);
	disk_close(&disk);
}

#define SKIP_DETECTED SKIP_ON_REFERENCE("the first case has seen that it overtakes")

CASE(fsync_in_another_context_does_not_overtake)
{
	struct disk disk;

	SKIP_DETECTED;
	DISK_OPEN(&disk);
	disk.sync_ctx = new_context(1);
	play_rounds(&disk);
	disk_close(&disk);
}

CASE(fsync_through_another_descriptor_does_not_overtake)
{
	struct disk disk;

	SKIP_DETECTED;
	DISK_OPEN(&disk);
	disk.sync_fd = disk.buffered;
	play_rounds(&disk);
	disk_close(&disk);
}

/* The program sleeps in poll, and nobody is inside the library. */
CASE(eventfd_of_an_fsync_is_signalled_after_the_writes)
{
	struct disk disk;

	SKIP_DETECTED;
	DISK_OPEN(&disk);
	disk.event_fd = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	play_rounds(&disk);
	disk_close(&disk);
}

CASE(eventfd_of_an_fsync_in_another_context_is_signalled_after_the_writes)
{
	struct disk disk;

	SKIP_DETECTED;
	DISK_OPEN(&disk);
	disk.event_fd = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	disk.sync_ctx = new_context(1);
	play_rounds(&disk);
	disk_close(&disk);
}

CASE(fsync_does_not_overtake_cold_reads)
{
	struct disk disk;

	SKIP_DETECTED;
	DISK_OPEN(&disk);
	disk.cold_reads = true;
	play_rounds(&disk);
	disk_close(&disk);
}

CASE(eventfd_of_an_fsync_is_signalled_after_cold_reads)
{
	struct disk disk;

	SKIP_DETECTED;
	DISK_OPEN(&disk);
	disk.cold_reads = true;
	disk.sync_fd = disk.buffered;
	disk.event_fd = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	disk.sync_ctx = new_context(1);
	play_rounds(&disk);
	disk_close(&disk);
}

/*
 * Databases hold such locks on the files that they synchronize; closing any descriptor drops them.
 */
static void look_at_lock(void *argument)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	const struct disk *disk = argument;
	int fd = reopen_file(disk->direct, O_RDWR);

	CHILD_CHECK(fd >= 0);
	CHILD_CHECK(fcntl(fd, F_GETLK, &lock) == 0);
	CHILD_CHECK(lock.l_type == F_WRLCK && lock.l_pid == getppid());
}

CASE(record_locks_survive_fsyncs_and_cold_reads)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	struct disk disk;

	DISK_OPEN(&disk);
	disk.cold_reads = true;
	ck_assert_int_eq(fcntl(disk.direct, F_SETLK, &lock), 0);
	for (int round = 0; round < 4; round++) {
		int requests = submit_round(&disk);

		expect_child_passes(look_at_lock, &disk, "in flight");
		for (int i = 0; i <= requests; i++) {
			struct io_event event = take_event(disk.ctx, HERE);

			check_event(&disk, &event);
		}
		expect_child_passes(look_at_lock, &disk, "after the events");
	}
	free_context(disk.ctx);
	expect_child_passes(look_at_lock, &disk, "after io_destroy");
	disk.ctx = disk.sync_ctx = new_context(1);
	disk_close(&disk);
}

/* Many rounds take their time. */
__attribute__((constructor)) static void give_cases_time(void)
{
	for (struct contract_case *each = contract_first_case; each; each = each->next)
		each->limit_seconds += rounds();
}
