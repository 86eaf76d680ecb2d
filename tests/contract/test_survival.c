/* SPDX-License-Identifier: MIT */
/*
 * Goal: a request in flight outlives everything its submitter owned but the data buffer: the
 * thread, the descriptor, the name of the file, the iocb, the arrays, the eventfd's descriptor.
 *
 * Method: requests of every kind that is served in its own way (asynchronous in the kernel; a read
 * that misses the page cache; a pipe; an fsync that is held back) are held in flight, on a disk
 * that waits or on an empty pipe.  Then the thing is taken away or used for something else, the
 * request let go, and its event and data must be those of the request as it was submitted.
 */
#include "scene.h"

enum kind {
	DIRECT_READ,
	DIRECT_READV,
	DIRECT_WRITE,
	COLD_READ, /* buffered, not in the page cache */
	COLD_READV,
	PIPE_READ,
	PIPE_READV,
	HELD_SYNC, /* behind a direct write */
	KINDS,
};

static const char *const kind_names[KINDS] = {
	"direct read", "direct readv", "direct write", "cold read",
	"cold readv",  "pipe read",    "pipe readv",   "held fsync",
};

/* io_submit of another libaio would wait, or the request end at once. */
static bool reference_cannot(enum kind kind)
{
	return on_reference() && kind >= COLD_READ;
}

#define TEXT "what the reader waits for"
#define TEXT_BYTES ((long)sizeof(TEXT))

/* One request in flight. */
struct flight {
	struct scene scene;
	enum kind kind;
	int fd; /* the request's */
	int ends[2]; /* of the pipe, whichever the kind */
	struct iocb iocb;
	struct iocb write; /* what the held fsync waits for */
	struct iovec segments[2];
	char mark; /* its address is the request's data */
	long result;
};

static void fill_medium(struct scene *scene)
{
	memset(holdfs_medium(scene->fs, SUBJECT), 'S', SCENE_BLOCKS * BLOCK_BYTES);
	memset(holdfs_medium(scene->fs, OTHER), 'O', SCENE_BLOCKS * BLOCK_BYTES);
}

static void prepare_flight(struct flight *flight)
{
	struct iocb *iocb = &flight->iocb;
	char *buffer = read_blocks[0];
	int fd = flight->fd;

	flight->segments[0] = (struct iovec){ buffer, BLOCK_BYTES };
	flight->segments[1] = (struct iovec){ buffer + BLOCK_BYTES, BLOCK_BYTES };
	flight->result = BLOCK_BYTES;
	switch (flight->kind) {
	case DIRECT_READV:
	case COLD_READV:
		io_prep_preadv(iocb, fd, flight->segments, 2, 0);
		flight->result = 2L * BLOCK_BYTES;
		break;
	case PIPE_READV:
		io_prep_preadv(iocb, fd, flight->segments, 2, 0);
		flight->result = TEXT_BYTES;
		break;
	case PIPE_READ:
		prepare_read(iocb, fd, 0);
		flight->result = TEXT_BYTES;
		break;
	case DIRECT_WRITE:
		prepare_write(iocb, fd, 0);
		break;
	case HELD_SYNC:
		prepare_sync(iocb, fd, IO_CMD_FSYNC);
		flight->result = 0;
		break;
	default:
		prepare_read(iocb, fd, 0);
	}
	iocb->data = &flight->mark;
}

static bool flight_open(struct flight *flight, enum kind kind)
{
	bool direct = kind <= DIRECT_WRITE || kind == HELD_SYNC;

	memset(flight, 0, sizeof(*flight));
	flight->kind = kind;
	if (!scene_open(&flight->scene))
		return false;
	fill_medium(&flight->scene);
	memset(read_blocks[0], 0, (size_t)2 * BLOCK_BYTES);
	make_pipe(flight->ends, 0);
	if (kind == PIPE_READ || kind == PIPE_READV)
		flight->fd = fcntl(flight->ends[0], F_DUPFD_CLOEXEC, 0);
	else
		flight->fd = holdfs_open(flight->scene.fs, SUBJECT,
					 direct ? O_RDWR | O_DIRECT : O_RDONLY);
	prepare_flight(flight);
	holdfs_hold(flight->scene.fs, HOLDFS_READ | HOLDFS_WRITE);
	return true;
}

#define FLIGHT_OPEN(flight, kind)                                                                  \
	do {                                                                                       \
		if (!flight_open(flight, kind))                                                    \
			SKIP("FUSE cannot be used here");                                          \
	} while (0)

static void flight_start(struct flight *flight)
{
	if (flight->kind == HELD_SYNC) {
		prepare_write(&flight->write, flight->fd, 9);
		flight->write.data = NULL;
		expect_submitted(flight->scene.ctx, &flight->write, kind_names[flight->kind]);
	}
	expect_submitted(flight->scene.ctx, &flight->iocb, kind_names[flight->kind]);
}

static void flight_wait_underway(struct flight *flight)
{
	if (flight->kind != PIPE_READ && flight->kind != PIPE_READV)
		wait_operation(flight->scene.fs, HOLDFS_READ | HOLDFS_WRITE, SUBJECT, 0);
	expect_no_event(flight->scene.ctx, kind_names[flight->kind]);
}

static void flight_let_go(struct flight *flight)
{
	ck_assert_int_eq(write(flight->ends[1], TEXT, TEXT_BYTES), TEXT_BYTES);
	holdfs_release_all(flight->scene.fs);
}

static void expect_bytes(const char *bytes, char fill, size_t count, const char *what)
{
	for (size_t i = 0; i < count; i++)
		ck_assert_msg(bytes[i] == fill, "%s: byte %zu is %d", what, i, bytes[i]);
}

static void flight_check_data(struct flight *flight, const char *what)
{
	struct holdfs *fs = flight->scene.fs;

	switch (flight->kind) {
	case DIRECT_WRITE:
		expect_bytes(holdfs_medium(fs, SUBJECT), 'a', BLOCK_BYTES, what);
		expect_bytes(holdfs_medium(fs, OTHER), 'O', BLOCK_BYTES, what);
		break;
	case HELD_SYNC:
		ck_assert_uint_eq(syncs(&flight->scene), 1);
		ck_assert_uint_eq(count_of_file(fs, HOLDFS_FSYNC, OTHER), 0);
		break;
	case PIPE_READ:
	case PIPE_READV:
		ck_assert_str_eq(read_blocks[0], TEXT);
		break;
	default:
		expect_bytes(read_blocks[0], 'S', (size_t)flight->result, what);
	}
}

/* The request's event, as it was submitted, and what it has done. */
static void flight_land(struct flight *flight)
{
	const char *what = kind_names[flight->kind];
	struct io_event event;

	flight_let_go(flight);
	event = take_event(flight->scene.ctx, what);
	if (flight->kind == HELD_SYNC) {
		ck_assert_int_eq((long)event.res, BLOCK_BYTES);
		event = take_event(flight->scene.ctx, what);
	}
	ck_assert_msg(event.obj == &flight->iocb, "%s: another iocb", what);
	ck_assert_msg(event.data == &flight->mark, "%s: other data", what);
	ck_assert_msg((long)event.res == flight->result, "%s: the result is %ld", what,
		      (long)event.res);
	flight_check_data(flight, what);
}

static void flight_close(struct flight *flight)
{
	if (flight->fd >= 0)
		close(flight->fd);
	close_pair(flight->ends);
	scene_close(&flight->scene);
}

/*
 * The thread.
 */

static bool task_exists(pid_t tid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/task/%d", tid);
	return access(path, F_OK) == 0;
}

static void start_run(void *argument)
{
	flight_start(argument);
}

CASE(requests_outlive_the_thread_that_submitted_them)
{
	for (int kind = 0; kind < KINDS; kind++) {
		static struct flight flight;
		struct worker worker;

		if (reference_cannot((enum kind)kind))
			continue;
		FLIGHT_OPEN(&flight, (enum kind)kind);
		worker_start(&worker, start_run, &flight);
		worker_join(&worker);
		WAIT_UNTIL(!task_exists(worker.tid));
		flight_wait_underway(&flight);
		flight_land(&flight);
		flight_close(&flight);
	}
}

/* Many at once, of which most have not begun when the thread ends. */
#define CROWD 48

struct crowd {
	io_context_t ctx;
	struct iocb iocbs[CROWD];
};

static void submit_crowd(void *argument)
{
	struct crowd *crowd = argument;

	expect_all_submitted(crowd->ctx, crowd->iocbs, CROWD, HERE);
}

CASE(a_crowd_of_cold_reads_outlives_its_thread)
{
	static struct crowd crowd;
	struct scene scene;
	struct worker worker;
	bool seen[CROWD] = { false };
	int buffered;

	SKIP_ON_REFERENCE("a cold read waits for the disk in io_submit");
	SCENE_OPEN(&scene);
	fill_medium(&scene);
	buffered = holdfs_open(scene.fs, SUBJECT, O_RDONLY);
	crowd.ctx = scene.ctx;
	for (unsigned i = 0; i < CROWD; i++)
		prepare_read(&crowd.iocbs[i], buffered, i);
	holdfs_hold(scene.fs, HOLDFS_READ);
	worker_start(&worker, submit_crowd, &crowd);
	worker_join(&worker);
	WAIT_UNTIL(!task_exists(worker.tid));
	wait_operation(scene.fs, HOLDFS_READ, SUBJECT, 0);
	holdfs_release_all(scene.fs);
	for (int i = 0; i < CROWD; i++) {
		struct io_event event = take_event(scene.ctx, HERE);
		long number = event.obj - crowd.iocbs;

		ck_assert_int_eq((long)event.res, BLOCK_BYTES);
		ck_assert(number >= 0 && number < CROWD && !seen[number]);
		seen[number] = true;
		expect_bytes(read_blocks[number], 'S', BLOCK_BYTES, HERE);
	}
	close(buffered);
	scene_close(&scene);
}

/*
 * The descriptor.
 */

CASE(requests_outlive_their_descriptor)
{
	for (int kind = 0; kind < KINDS; kind++) {
		static struct flight flight;

		if (reference_cannot((enum kind)kind))
			continue;
		FLIGHT_OPEN(&flight, (enum kind)kind);
		flight_start(&flight);
		ck_assert_int_eq(close(flight.fd), 0);
		flight.fd = -1;
		flight_wait_underway(&flight);
		flight_land(&flight);
		flight_close(&flight);
	}
}

/* At once, so that whatever has not begun yet would begin with the wrong file. */
CASE(requests_mean_the_file_of_the_call_when_the_number_is_reused)
{
	for (int kind = 0; kind < KINDS; kind++) {
		static struct flight flight;
		int other;

		if (reference_cannot((enum kind)kind))
			continue;
		FLIGHT_OPEN(&flight, (enum kind)kind);
		other = holdfs_open(flight.scene.fs, OTHER, O_RDWR | O_DIRECT);
		flight_start(&flight);
		ck_assert_int_eq(dup3(other, flight.fd, O_CLOEXEC), flight.fd);
		flight_wait_underway(&flight);
		flight_land(&flight);
		ck_assert_uint_eq(count_of_file(flight.scene.fs, HOLDFS_ALL, OTHER), 0);
		close(other);
		flight_close(&flight);
	}
}

/* The same on a real disk, where a read may be begun in one way and ended in another. */
CASE(reads_of_a_disk_mean_the_file_of_the_call_when_the_number_is_reused)
{
	enum { READS = 32, ROUNDS = 20 };
	const size_t bytes = (size_t)READS * 16 * BLOCK_BYTES;
	int file = scratch_file(bytes), other = scratch_file(1),
	    fd = fcntl(file, F_DUPFD_CLOEXEC, 0);
	io_context_t ctx = new_context(READS);
	struct iocb iocbs[READS];

	for (int round = 0; round < ROUNDS; round++) {
		posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
		posix_fadvise(file, 0, 0, POSIX_FADV_RANDOM);
		ck_assert_int_eq(dup3(file, fd, O_CLOEXEC), fd);
		memset(read_blocks, 0, sizeof(read_blocks));
		for (unsigned i = 0; i < READS; i++)
			io_prep_pread(&iocbs[i], fd, read_blocks[i], BLOCK_BYTES,
				      (long long)i * 16 * BLOCK_BYTES);
		expect_all_submitted(ctx, iocbs, READS, HERE);
		ck_assert_int_eq(dup3(other, fd, O_CLOEXEC), fd);
		for (int i = 0; i < READS; i++) {
			struct io_event event = take_event(ctx, HERE);

			ck_assert_int_eq((long)event.res, BLOCK_BYTES);
		}
		for (unsigned i = 0; i < READS; i++)
			expect_pattern(read_blocks[i], (off_t)i * 16 * BLOCK_BYTES, BLOCK_BYTES,
				       HERE);
	}
	free_context(ctx);
	close(fd);
	close(other);
	close(file);
}

/* One read at a time goes to a pipe, so all but the first have not begun. */
CASE(reads_queued_on_a_pipe_outlive_its_descriptor)
{
	io_context_t ctx = new_context(8);
	struct iocb iocbs[4];
	char text[4][8] = { "" };
	int ends[2], others[2];

	if (on_reference()) {
		free_context(ctx);
		SKIP("reference: a pipe holds io_submit");
	}
	make_pipe(ends, 0);
	make_pipe(others, 0);
	for (int i = 0; i < 4; i++)
		io_prep_pread(&iocbs[i], ends[0], text[i], 2, 0);
	expect_all_submitted(ctx, iocbs, 4, HERE);
	ck_assert_int_eq(dup3(others[0], ends[0], O_CLOEXEC), ends[0]);
	/*
	 * The other pipe's data is nobody's; that the first still has a reader spares its writer
	 * EPIPE.
	 */
	ck_assert_int_eq(write(others[1], "xxxxxxxx", 8), 8);
	ck_assert_int_eq(write(ends[1], "abcdefgh", 8), 8);
	for (int i = 0; i < 4; i++) {
		expect_event(ctx, &iocbs[i], 2, HERE);
		ck_assert_int_eq(memcmp(text[i], &"abcdefgh"[2 * i], 2), 0);
	}
	close_pair(ends);
	close_pair(others);
	free_context(ctx);
}

CASE(requests_outlive_the_name_of_their_file)
{
	char path[PATH_MAX];
	io_context_t ctx = new_context(16);
	struct iocb iocbs[9];
	int buffered, direct;

	snprintf(path, sizeof(path), "%s/unlinked", scratch_directory());
	buffered = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	ck_assert_int_ge(buffered, 0);
	memset(write_blocks, 'S', sizeof(write_blocks));
	ck_assert_int_eq(write(buffered, write_blocks, sizeof(write_blocks)), sizeof(write_blocks));
	ck_assert_int_eq(fsync(buffered), 0);
	posix_fadvise(buffered, 0, 0, POSIX_FADV_DONTNEED);
	direct = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (direct < 0) {
		close(buffered);
		free_context(ctx);
		SKIP("no O_DIRECT here");
	}
	for (unsigned i = 0; i < 4; i++) {
		prepare_read(&iocbs[i], buffered, 50 * i);
		prepare_write(&iocbs[4 + i], direct, 50 * i + 1);
	}
	prepare_sync(&iocbs[8], direct, IO_CMD_FSYNC);
	expect_all_submitted(ctx, iocbs, 9, HERE);
	ck_assert_int_eq(unlink(path), 0);
	close(direct);
	close(buffered);
	for (int i = 0; i < 9; i++) {
		struct io_event event = take_event(ctx, HERE);

		ck_assert_int_eq((long)event.res, event.obj == &iocbs[8] ? 0 : BLOCK_BYTES);
	}
	for (unsigned i = 0; i < 4; i++)
		expect_bytes(read_blocks[50 * i], 'S', BLOCK_BYTES, HERE);
	free_context(ctx);
}

/*
 * The caller's structures.
 */

/* The iocb, the iovec array and the array of pointers, all in one page that vanishes. */
CASE(structures_may_be_unmapped_after_io_submit)
{
	for (int kind = 0; kind < KINDS; kind++) {
		static struct flight flight;
		struct iocb *iocb, **batch, *address;
		struct iovec *segments;
		struct io_event event;

		if (reference_cannot((enum kind)kind))
			continue;
		FLIGHT_OPEN(&flight, (enum kind)kind);
		iocb = mmap(NULL, BLOCK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			    -1, 0);
		ck_assert_ptr_ne(iocb, MAP_FAILED);
		segments = (struct iovec *)(void *)(iocb + 1);
		batch = (struct iocb **)(void *)(segments + 2);
		memcpy(segments, flight.segments, sizeof(flight.segments));
		*iocb = flight.iocb;
		if (iocb->u.c.buf == flight.segments)
			iocb->u.c.buf = segments;
		batch[0] = address = iocb;
		if (kind == HELD_SYNC) {
			prepare_write(&flight.write, flight.fd, 9);
			expect_submitted(flight.scene.ctx, &flight.write, HERE);
		}
		ck_assert_int_eq(io_submit(flight.scene.ctx, 1, batch), 1);
		ck_assert_int_eq(munmap(iocb, BLOCK_BYTES), 0);
		flight_wait_underway(&flight);
		flight_let_go(&flight);
		if (kind == HELD_SYNC)
			take_event(flight.scene.ctx, HERE);
		event = take_event(flight.scene.ctx, kind_names[kind]);
		ck_assert_ptr_eq(event.obj, address);
		ck_assert_ptr_eq(event.data, &flight.mark);
		ck_assert_int_eq((long)event.res, flight.result);
		flight_check_data(&flight, kind_names[kind]);
		flight_close(&flight);
	}
}

CASE(structures_may_be_overwritten_after_io_submit)
{
	for (int kind = 0; kind < KINDS; kind++) {
		static struct flight flight;

		if (reference_cannot((enum kind)kind))
			continue;
		FLIGHT_OPEN(&flight, (enum kind)kind);
		flight_start(&flight);
		memset(&flight.iocb, 0xff, sizeof(flight.iocb));
		memset(flight.segments, 0xff, sizeof(flight.segments));
		flight_wait_underway(&flight);
		flight_land(&flight);
		flight_close(&flight);
	}
}

/* One iocb for every request in flight; only the events' data tells them apart. */
CASE(one_iocb_serves_many_requests_in_flight)
{
	enum { REUSES = 24 };
	bool seen[REUSES] = { false };
	struct scene scene;
	struct iocb iocb;
	int buffered;

	SCENE_OPEN(&scene);
	fill_medium(&scene);
	buffered = holdfs_open(scene.fs, SUBJECT, O_RDONLY);
	holdfs_hold(scene.fs, HOLDFS_READ | HOLDFS_WRITE);
	for (unsigned i = 0; i < REUSES; i++) {
		if (i % 3 == 0)
			prepare_write(&iocb, scene.fd, i);
		else if (i % 3 == 1 || on_reference())
			prepare_read(&iocb, scene.fd, i);
		else
			prepare_read(&iocb, buffered, i);
		iocb.data = &seen[i];
		expect_submitted(scene.ctx, &iocb, HERE);
	}
	expect_no_event(scene.ctx, HERE);
	holdfs_release_all(scene.fs);
	for (int i = 0; i < REUSES; i++) {
		struct io_event event = take_event(scene.ctx, HERE);
		bool *mark = event.data;

		ck_assert_ptr_eq(event.obj, &iocb);
		ck_assert_int_eq((long)event.res, BLOCK_BYTES);
		ck_assert(mark >= seen && mark < seen + REUSES && !*mark);
		*mark = true;
	}
	for (unsigned i = 0; i < REUSES; i++) {
		if (i % 3 == 0)
			expect_bytes(holdfs_medium(scene.fs, SUBJECT) + i * BLOCK_BYTES,
				     (char)('a' + i % 26), BLOCK_BYTES, HERE);
		else
			expect_bytes(read_blocks[i], 'S', BLOCK_BYTES, HERE);
	}
	close(buffered);
	scene_close(&scene);
}

/*
 * The eventfd.
 */

/* A duplicate still counts; the number, used for another one, does not. */
CASE(eventfds_may_be_closed_with_requests_in_flight)
{
	for (int kind = 0; kind < KINDS; kind++) {
		static struct flight flight;
		int event_fd, duplicate, other;

		if (reference_cannot((enum kind)kind))
			continue;
		FLIGHT_OPEN(&flight, (enum kind)kind);
		event_fd = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		duplicate = fcntl(event_fd, F_DUPFD_CLOEXEC, 0);
		other = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		io_set_eventfd(&flight.iocb, event_fd);
		flight_start(&flight);
		ck_assert_int_eq(dup3(other, event_fd, O_CLOEXEC), event_fd);
		flight_wait_underway(&flight);
		ck_assert_msg(!is_readable(duplicate), "%s: signalled too early", kind_names[kind]);
		flight_land(&flight);
		expect_signals(duplicate, 1, kind_names[kind]);
		ck_assert_uint_eq(take_count(other), 0);
		close(other);
		close(duplicate);
		close(event_fd);
		flight_close(&flight);
	}
}

/* No descriptor of it is left at all. */
CASE(eventfds_may_vanish_with_requests_in_flight)
{
	for (int kind = 0; kind < KINDS; kind++) {
		static struct flight flight;
		int event_fd;

		if (reference_cannot((enum kind)kind))
			continue;
		FLIGHT_OPEN(&flight, (enum kind)kind);
		event_fd = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		io_set_eventfd(&flight.iocb, event_fd);
		flight_start(&flight);
		close(event_fd);
		flight_wait_underway(&flight);
		flight_land(&flight);
		flight_close(&flight);
	}
}
