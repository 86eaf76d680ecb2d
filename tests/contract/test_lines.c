/* SPDX-License-Identifier: MIT */
/*
 * Goal: requests of one file keep the order that a program sees them in, whatever becomes of each:
 * what is written to one place stays as it was written last, streams and appends are in the order
 * of submission, also where a request cannot be held.  A file is held no longer than its last
 * event is awaited, and never closed in a way that the program would notice.  And nothing is done
 * to a file but what was asked: no byte of a device is read to find out what it is, no read is
 * short, no poll is ended by a signal, nobody waits for the file's position.
 *
 * Method: much is submitted at once, so that what could overtake has the opportunity; what has
 * happened is asked of the file itself, of the peer, or of a FUSE server.  Limits are reached in
 * programs of their own (alone.h).
 */
#include "alone.h"

#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <pty.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/timerfd.h>
#include <termios.h>

/*
 * One place of a file.
 */

#define WRITES 16
#define WRITE_BYTES ((size_t)256 << 10)
#define LAST_PLACE ((long long)((WRITES - 1) * WRITE_BYTES))

enum later { LATER_ELSEWHERE, LATER_SWITCHED, LATER_READ, LATER_SWITCHED_READ, LATERS };

static const char *const later_names[LATERS] = {
	"a write of another descriptor with O_DIRECT",
	"a write after the descriptor was switched to O_DIRECT",
	"a read of another descriptor with O_DIRECT",
	"a read after the descriptor was switched to O_DIRECT",
};

struct place {
	io_context_t ctx;
	int file, direct;
	char *older, *newer, *found;
	struct iocb iocbs[WRITES + 1];
	struct iovec vectors[WRITES];
};

static bool place_open(struct place *place)
{
	*place = (struct place){ .ctx = new_context(2 * WRITES),
				 .file = scratch_file(WRITES * WRITE_BYTES),
				 .older = aligned_buffer(WRITE_BYTES),
				 .newer = aligned_buffer(WRITE_BYTES),
				 .found = aligned_buffer(WRITE_BYTES) };
	place->direct = reopen_file(place->file, O_RDWR | O_DIRECT);
	memset(place->newer, 'n', WRITE_BYTES);
	return place->direct >= 0;
}

static void place_close(struct place *place)
{
	free_context_without_events(place->ctx, HERE);
	close(place->file);
	close(place->direct);
	free(place->older);
	free(place->newer);
	free(place->found);
}

/* So many that the last of them has to wait for its turn, wherever it is carried out. */
static void prepare_older_writes(struct place *place, int flags)
{
	for (int i = 0; i < WRITES; i++) {
		place->vectors[i] = (struct iovec){ place->older, WRITE_BYTES };
		if (flags)
			io_prep_pwritev2(&place->iocbs[i], place->file, &place->vectors[i], 1,
					 (long long)((size_t)i * WRITE_BYTES), flags);
		else
			io_prep_pwrite(&place->iocbs[i], place->file, place->older, WRITE_BYTES,
				       (long long)((size_t)i * WRITE_BYTES));
	}
}

/* The last block of the last write. */
static void prepare_later_request(struct place *place, enum later later)
{
	long long block = LAST_PLACE + (long long)WRITE_BYTES - BLOCK_BYTES;
	bool reads = later == LATER_READ || later == LATER_SWITCHED_READ;
	bool switched = later == LATER_SWITCHED || later == LATER_SWITCHED_READ;
	int fd = switched ? place->file : place->direct;

	if (reads)
		io_prep_pread(&place->iocbs[WRITES], fd, place->found, BLOCK_BYTES, block);
	else
		io_prep_pwrite(&place->iocbs[WRITES], fd, place->newer, BLOCK_BYTES, block);
}

static void submit_whole(io_context_t ctx, struct iocb *iocbs, int count)
{
	struct iocb *list[WRITES + 1];

	for (int i = 0; i < count; i++)
		list[i] = &iocbs[i];
	for (int done = 0; done < count;) {
		int result = io_submit(ctx, count - done, list + done);

		ck_assert_int_gt(result, 0);
		done += result;
	}
}

static void take_whole(struct place *place, const char *what)
{
	for (int i = 0; i < WRITES + 1; i++) {
		struct io_event event = take_event(place->ctx, what);
		long expected =
			event.obj == &place->iocbs[WRITES] ? BLOCK_BYTES : (long)WRITE_BYTES;

		ck_assert_msg((long)event.res == expected, "%s: %ld", what, (long)event.res);
	}
}

static void later_comes_later(struct place *place, enum later later, int flags, int round)
{
	bool reads = later == LATER_READ || later == LATER_SWITCHED_READ;
	bool switched = later == LATER_SWITCHED || later == LATER_SWITCHED_READ;
	const char *what = later_names[later];
	char older = (char)('a' + round % 20);

	memset(place->older, older, WRITE_BYTES);
	memset(place->found, 0, BLOCK_BYTES);
	prepare_older_writes(place, flags);
	prepare_later_request(place, later);
	if (!switched && round % 2) {
		submit_whole(place->ctx, place->iocbs, WRITES + 1);
	} else {
		submit_whole(place->ctx, place->iocbs, WRITES);
		if (switched)
			ck_assert_int_eq(fcntl(place->file, F_SETFL, O_DIRECT), 0);
		submit_whole(place->ctx, &place->iocbs[WRITES], 1);
	}
	take_whole(place, what);
	ck_assert_int_eq(fcntl(place->file, F_SETFL, 0), 0);
	if (!reads)
		ck_assert_int_eq(pread(place->file, place->found, BLOCK_BYTES,
				       LAST_PLACE + (off_t)WRITE_BYTES - BLOCK_BYTES),
				 BLOCK_BYTES);
	ck_assert_msg(place->found[0] == (reads ? older : 'n') &&
			      place->found[0] == place->found[BLOCK_BYTES - 1],
		      "%s%s, round %d: found '%c'", what, flags ? ", behind durable writes" : "",
		      round, place->found[0]);
}

static void try_later(enum later later, int flags, int rounds)
{
	struct place place;

	if (!place_open(&place)) {
		place_close(&place);
		SKIP("no O_DIRECT here");
	}
	for (int round = 0; round < rounds; round++)
		later_comes_later(&place, later, flags, round);
	place_close(&place);
}

CASE(a_direct_write_does_not_overtake_buffered_ones)
{
	try_later(LATER_ELSEWHERE, 0, 40);
}

CASE(a_write_does_not_overtake_when_its_descriptor_becomes_direct)
{
	try_later(LATER_SWITCHED, 0, 40);
}

CASE(a_direct_read_finds_what_buffered_writes_wrote)
{
	try_later(LATER_READ, 0, 40);
}

CASE(a_read_finds_what_was_written_before_its_descriptor_became_direct)
{
	try_later(LATER_SWITCHED_READ, 0, 40);
}

/* These are not done when io_submit returns: they have to reach the disk. */
CASE(direct_requests_do_not_overtake_durable_writes)
{
	NEEDS_FLAGS();
	for (int later = 0; later < LATERS; later++)
		try_later((enum later)later, RWF_DSYNC, 6);
}

/*
 * Behind O_DIRECT writes.  Kernel AIO begins them inside io_submit, and how the disk goes on is its
 * own affair; on threads of ours they have to take turns.
 */

#define NEEDS_THREADS()                                                                            \
	do {                                                                                       \
		if (!on_threads())                                                                 \
			SKIP("the kernel begins them in order, and the disk ends them in any");    \
	} while (0)

enum behind {
	BEHIND_BUFFERED_WRITE,
	BEHIND_DIRECT_WRITE,
	BEHIND_DURABLE_WRITE,
	BEHIND_BUFFERED_READ,
	BEHIND_DIRECT_READ,
	BEHINDS,
};

static const char *const behind_names[BEHINDS] = { "a buffered write", "a direct write",
						   "a durable write", "a buffered read",
						   "a direct read" };

static void come_behind(struct place *place, enum behind behind, int round)
{
	bool reads = behind >= BEHIND_BUFFERED_READ;
	bool direct = behind == BEHIND_DIRECT_WRITE || behind == BEHIND_DIRECT_READ;
	int fd = direct ? place->direct : place->file;
	struct iovec vector = { place->newer, WRITE_BYTES };
	struct iocb iocbs[2];
	char first, last;

	memset(place->older, 'a' + round % 20, WRITE_BYTES);
	memset(place->newer, 'b' + round % 20, WRITE_BYTES);
	io_prep_pwrite(&iocbs[0], place->direct, place->older, WRITE_BYTES, 0);
	if (behind == BEHIND_DURABLE_WRITE)
		io_prep_pwritev2(&iocbs[1], fd, &vector, 1, 0, RWF_DSYNC);
	else if (reads)
		io_prep_pread(&iocbs[1], fd, place->found, WRITE_BYTES, 0);
	else
		io_prep_pwrite(&iocbs[1], fd, place->newer, WRITE_BYTES, 0);
	if (round % 2)
		expect_all_submitted(place->ctx, iocbs, 2, HERE);
	for (int i = 0; i < 2; i++)
		if (!(round % 2))
			expect_submitted(place->ctx, &iocbs[i], HERE);
	for (int i = 0; i < 2; i++)
		ck_assert_int_eq((long)take_event(place->ctx, HERE).res, WRITE_BYTES);
	if (!reads)
		ck_assert_int_eq(pread(place->file, place->found, WRITE_BYTES, 0), WRITE_BYTES);
	first = place->found[0];
	last = place->found[WRITE_BYTES - 1];
	ck_assert_msg(first == (reads ? place->older : place->newer)[0] && last == first,
		      "%s, round %d: found '%c' and '%c'", behind_names[behind], round, first,
		      last);
}

CASE(nothing_overtakes_a_direct_write_to_its_place)
{
	struct place place;

	NEEDS_THREADS();
	NEEDS_FLAGS();
	if (!place_open(&place)) {
		place_close(&place);
		SKIP("no O_DIRECT here");
	}
	for (int behind = 0; behind < BEHINDS; behind++)
		for (int round = 0; round < 40; round++)
			come_behind(&place, (enum behind)behind, round);
	place_close(&place);
}

/* Of those to few places, more than are looked at when one joins; some are cancelled. */
#define CROWD 400
#define CROWD_PLACES 40

struct crowd {
	io_context_t ctx;
	int file, direct;
	char *bytes;
	struct iocb iocbs[CROWD];
	bool cancelled[CROWD];
};

static char *bytes_of(struct crowd *crowd, int i)
{
	return crowd->bytes + (size_t)i * BLOCK_BYTES;
}

static bool is_read(const struct iocb *iocb)
{
	return iocb->aio_lio_opcode == IO_CMD_PREAD;
}

/* What the last write to the place wrote, of those before. */
static char expected_of(struct crowd *crowd, int before, long long offset)
{
	for (int i = before - 1; i >= 0; i--)
		if (!is_read(&crowd->iocbs[i]) && !crowd->cancelled[i] &&
		    crowd->iocbs[i].u.c.offset == offset)
			return bytes_of(crowd, i)[0];
	return 0;
}

/* Later writes wait for no read. */
static bool finds_no_older(struct crowd *crowd, int read)
{
	int before = read;

	while (before <= CROWD && expected_of(crowd, before, crowd->iocbs[read].u.c.offset) !=
					  bytes_of(crowd, read)[0])
		before++;
	return before <= CROWD;
}

static void submit_crowd(struct crowd *crowd, unsigned *random)
{
	memset(crowd->cancelled, 0, sizeof(crowd->cancelled));
	for (int i = 0; i < CROWD; i++) {
		unsigned dice = (unsigned)rand_r(random);
		long long offset = dice / 64 % CROWD_PLACES * (long long)BLOCK_BYTES;
		int fd = dice % 64 < 2 ? crowd->file : crowd->direct;

		memset(bytes_of(crowd, i), 1 + i % 100, BLOCK_BYTES);
		if (dice % 4 == 3)
			io_prep_pread(&crowd->iocbs[i], fd, bytes_of(crowd, i), BLOCK_BYTES,
				      offset);
		else
			io_prep_pwrite(&crowd->iocbs[i], fd, bytes_of(crowd, i), BLOCK_BYTES,
				       offset);
		expect_submitted(crowd->ctx, &crowd->iocbs[i], HERE);
		if (dice % 16 == 4)
			io_cancel(crowd->ctx, &crowd->iocbs[i - (i > 0)], NULL);
	}
}

static void look_at_crowd(struct crowd *crowd)
{
	char found[BLOCK_BYTES];

	for (int i = 0; i < CROWD; i++) {
		struct io_event event = take_event(crowd->ctx, HERE);

		crowd->cancelled[event.obj - crowd->iocbs] = (long)event.res == -ECANCELED;
		ck_assert((long)event.res == -ECANCELED || event.res == BLOCK_BYTES);
	}
	for (int i = 0; i < CROWD; i++)
		ck_assert_msg(!is_read(&crowd->iocbs[i]) || crowd->cancelled[i] ||
				      finds_no_older(crowd, i),
			      "read %d found %d", i, bytes_of(crowd, i)[0]);
	for (long long offset = 0; offset < CROWD_PLACES * BLOCK_BYTES; offset += BLOCK_BYTES) {
		ck_assert_int_eq(pread(crowd->file, found, BLOCK_BYTES, offset), BLOCK_BYTES);
		ck_assert_int_eq(found[0], expected_of(crowd, CROWD, offset));
	}
}

CASE(a_crowd_of_direct_requests_keeps_the_order_of_each_place)
{
	static struct crowd crowd;
	unsigned random = 1;

	NEEDS_THREADS();
	crowd.file = scratch_file(0);
	crowd.direct = reopen_file(crowd.file, O_RDWR | O_DIRECT);
	if (crowd.direct < 0)
		SKIP("no O_DIRECT here");
	crowd.ctx = new_context(CROWD);
	crowd.bytes = aligned_buffer((size_t)CROWD * BLOCK_BYTES);
	for (int round = 0; round < 20; round++) {
		/* Zeroes, as what nothing is written to. */
		ck_assert_int_eq(ftruncate(crowd.file, 0), 0);
		ck_assert_int_eq(ftruncate(crowd.file, CROWD_PLACES * BLOCK_BYTES), 0);
		submit_crowd(&crowd, &random);
		look_at_crowd(&crowd);
	}
	free_context_without_events(crowd.ctx, HERE);
	free(crowd.bytes);
	close(crowd.direct);
	close(crowd.file);
}

static void has_arrived(struct scene *scene, unsigned count)
{
	send_witness(scene);
	ck_assert_uint_eq(count_of_file(scene->fs, HOLDFS_READ | HOLDFS_WRITE, SUBJECT), count);
}

CASE(a_direct_request_waits_for_nothing_but_a_write_to_its_place)
{
	struct scene scene;
	struct iocb first, iocbs[5];
	unsigned index;

	NEEDS_THREADS();
	SCENE_OPEN(&scene);
	holdfs_hold(scene.fs, HOLDFS_READ | HOLDFS_WRITE);
	prepare_write(&first, scene.fd, 1);
	expect_submitted(scene.ctx, &first, HERE);
	index = wait_transfer(&scene, 1);
	prepare_write(&iocbs[0], scene.fd, 1);
	prepare_read(&iocbs[1], scene.fd, 1);
	prepare_write(&iocbs[2], scene.fd, 2);
	prepare_read(&iocbs[3], scene.fd, 3);
	prepare_write(&iocbs[4], scene.fd, 4);
	expect_all_submitted(scene.ctx, iocbs, 5, HERE);
	for (unsigned block = 2; block <= 4; block++)
		wait_transfer(&scene, block);
	has_arrived(&scene, 4);
	holdfs_release(scene.fs, index, 0);
	index = wait_operation(scene.fs, HOLDFS_WRITE, SUBJECT, 3);
	has_arrived(&scene, 5);
	holdfs_release(scene.fs, index, 0);
	wait_operation(scene.fs, HOLDFS_READ, SUBJECT, 1);
	holdfs_release_all(scene.fs);
	for (int i = 0; i < 6; i++)
		ck_assert_int_eq((long)take_event(scene.ctx, HERE).res, BLOCK_BYTES);
	scene_close(&scene);
}

/*
 * Reads behind writes, all through the page cache or not, of one open description or two.
 */

static void read_behind_write(io_context_t ctx, int writer, int reader, int flags, bool one_batch,
			      char fill)
{
	static char written[4 * BLOCK_BYTES] __attribute__((aligned(BLOCK_BYTES)));
	static char found[4 * BLOCK_BYTES] __attribute__((aligned(BLOCK_BYTES)));
	struct iovec vector = { written, sizeof(written) };
	struct iocb iocbs[2];

	memset(written, fill, sizeof(written));
	memset(found, 0, sizeof(found));
	io_prep_pwritev2(&iocbs[0], writer, &vector, 1, BLOCK_BYTES, flags);
	/* It begins before the write does, and ends behind it. */
	io_prep_pread(&iocbs[1], reader, found, sizeof(found), 2L * BLOCK_BYTES);
	if (one_batch) {
		expect_all_submitted(ctx, iocbs, 2, HERE);
	} else {
		expect_submitted(ctx, &iocbs[0], HERE);
		expect_submitted(ctx, &iocbs[1], HERE);
	}
	for (int i = 0; i < 2; i++)
		ck_assert_int_eq((long)take_event(ctx, HERE).res, sizeof(found));
	for (int i = 0; i < 3 * BLOCK_BYTES; i++)
		ck_assert_msg(found[i] == fill, "flags %d, %s: byte %d is %d", flags,
			      one_batch ? "one batch" : "two", i, found[i]);
}

CASE(a_read_finds_what_an_earlier_write_wrote)
{
	io_context_t ctx;
	int file, others[4];

	NEEDS_FLAGS();
	ctx = new_context(8);
	file = scratch_file(1 << 16);
	others[0] = file;
	others[1] = fcntl(file, F_DUPFD_CLOEXEC, 0);
	others[2] = reopen_file(file, O_RDONLY);
	others[3] = reopen_file(file, O_RDONLY | O_DIRECT);
	for (int round = 0; round < 40; round++)
		for (int i = 0; i < 4; i++) {
			static const int flags[] = { 0, RWF_DSYNC, 0, RWF_SYNC };

			if (others[i] >= 0)
				read_behind_write(ctx, file, others[i], flags[round % 4], round & 4,
						  (char)('a' + round % 26));
		}
	free_context_without_events(ctx, HERE);
	for (int i = 0; i < 4; i++)
		if (others[i] >= 0)
			close(others[i]);
}

/* Records in the order of submission, whatever flag and descriptor makes each an append. */
CASE(appends_of_every_kind_are_in_the_order_of_submission)
{
	enum { RECORDS = 48, BYTES = 3000, ROUNDS = 10 };
	io_context_t ctx = new_context(RECORDS);
	struct iovec vectors[RECORDS];
	struct iocb iocbs[RECORDS], *list[RECORDS];
	char *records = malloc((size_t)RECORDS * BYTES), *found = malloc((size_t)RECORDS * BYTES);

	NEEDS_FLAGS();
	for (int round = 0; round < ROUNDS; round++) {
		int file = scratch_file(0), appending = reopen_file(file, O_WRONLY | O_APPEND);
		static const int flags[] = { 0, RWF_DSYNC, RWF_APPEND, RWF_APPEND | RWF_DSYNC };

		for (int i = 0; i < RECORDS; i++) {
			int which = (i * (round + 1) + i / 7) % 4;

			memset(records + i * BYTES, 1 + (i + round) % 200, BYTES);
			vectors[i] = (struct iovec){ records + i * BYTES, BYTES };
			io_prep_pwritev2(&iocbs[i], which < 2 ? appending : file, &vectors[i], 1, 0,
					 flags[which]);
			list[i] = &iocbs[i];
		}
		for (int done = 0; done < RECORDS;) {
			int result = io_submit(ctx,
					       1 + (done + round) % 5 < RECORDS - done
						       ? 1 + (done + round) % 5
						       : RECORDS - done,
					       list + done);

			ck_assert_int_gt(result, 0);
			done += result;
		}
		for (int i = 0; i < RECORDS; i++)
			ck_assert_int_eq((long)take_event(ctx, HERE).res, BYTES);
		ck_assert_int_eq(pread(file, found, (size_t)RECORDS * BYTES, 0), RECORDS * BYTES);
		ck_assert_msg(memcmp(records, found, (size_t)RECORDS * BYTES) == 0, "round %d",
			      round);
		close(appending);
		close(file);
	}
	free(records);
	free(found);
	free_context_without_events(ctx, HERE);
}

/*
 * A stream's request that cannot be held is not sent past those that are.
 */

#define BIG_BYTES ((size_t)1 << 20)
#define SMALL_BYTES 1000
#define FILLERS 100

enum fullness {
	FULL_ALL_TAKEN,
	FULL_LOWERED,
	FULL_TABLE, /* the library has made its tables under a low limit, and they are full */
	FULLNESSES,
};

static const char *const fullness_names[FULLNESSES] = { "all numbers are taken",
							"the limit is lowered", "tables are full" };

struct stream_trial {
	enum fullness fullness;
	bool socket, duplicate;
};

/* Two descriptors of what bytes go in by, and one of where they come out. */
static void open_stream(const struct stream_trial *trial, int *writer, int *again, int *reader)
{
	int ends[2];

	if (trial->socket)
		CHILD_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
	else
		CHILD_CHECK(pipe2(ends, O_CLOEXEC) == 0);
	*reader = ends[0];
	*writer = ends[1];
	*again = trial->duplicate ? fcntl(ends[1], F_DUPFD_CLOEXEC, 0) : ends[1];
	CHILD_CHECK(*again >= 0);
}

/* Reads of silent pipes, each of which takes a place; refused where there is none. */
static void fill_table(io_context_t ctx)
{
	static struct iocb iocbs[FILLERS];
	static char bytes[FILLERS];

	for (int i = 0; i < FILLERS; i++) {
		int ends[2], result;

		alone_does("silent read %d is submitted", i);
		CHILD_CHECK(pipe2(ends, O_CLOEXEC) == 0);
		io_prep_pread(&iocbs[i], ends[0], &bytes[i], 1, 0);
		result = submit_one(ctx, &iocbs[i]);
		CHILD_CHECK_MSG(result == 1 || result == -EAGAIN, "io_submit: %d", result);
	}
}

static void use_a_little(io_context_t ctx)
{
	struct iocb iocb;
	int ends[2];
	char byte;

	CHILD_CHECK(pipe2(ends, O_CLOEXEC) == 0 && write(ends[1], "x", 1) == 1);
	io_prep_pread(&iocb, ends[0], &byte, 1, 0);
	alone_submit(ctx, &iocb, 1);
	alone_expect_event(ctx, &iocb, 1);
	close(ends[0]);
	close(ends[1]);
}

static void make_full(enum fullness fullness, io_context_t ctx)
{
	if (fullness == FULL_TABLE)
		fill_table(ctx);
	else
		reach(fullness == FULL_ALL_TAKEN ? ALL_TAKEN : LOWERED_TO_3);
}

static io_context_t context_for(enum fullness fullness)
{
	io_context_t ctx;

	if (fullness == FULL_TABLE)
		set_soft_limit(RLIMIT_NOFILE, 64);
	ctx = alone_context(4 * FILLERS);
	use_a_little(ctx);
	lift(RLIMIT_NOFILE);
	return ctx;
}

static void read_all(int fd, char *bytes, size_t count)
{
	for (size_t done = 0; done < count;) {
		ssize_t got = read(fd, bytes + done, count - done);

		CHILD_CHECK(got > 0);
		done += (size_t)got;
	}
}

static bool all_are(const char *bytes, char fill, size_t count)
{
	size_t i = 0;

	while (i < count && bytes[i] == fill)
		i++;
	return i == count;
}

static void write_past_the_line(void *argument)
{
	const struct stream_trial *trial = argument;
	static char small[SMALL_BYTES];
	char *big = malloc(BIG_BYTES), *found = malloc(BIG_BYTES + SMALL_BYTES);
	io_context_t ctx = context_for(trial->fullness);
	struct iocb first, second;
	int writer, again, reader, result;

	CHILD_CHECK(big && found);
	memset(big, 'A', BIG_BYTES);
	memset(small, 'B', SMALL_BYTES);
	open_stream(trial, &writer, &again, &reader);
	io_prep_pwrite(&first, writer, big, BIG_BYTES, 0);
	alone_submit(ctx, &first, 1);
	make_full(trial->fullness, ctx);
	alone_does("%s: a second write is submitted", fullness_names[trial->fullness]);
	io_prep_pwrite(&second, again, small, SMALL_BYTES, 0);
	result = submit_one(ctx, &second);
	CHILD_CHECK_MSG(result == 1 || result == -EAGAIN, "io_submit: %d", result);
	alone_does("%s: what was written is read", fullness_names[trial->fullness]);
	read_all(reader, found, BIG_BYTES);
	CHILD_CHECK_MSG(all_are(found, 'A', BIG_BYTES), "the second write came first");
	alone_expect_event(ctx, &first, (long)BIG_BYTES);
	if (result == -EAGAIN && trial->fullness != FULL_TABLE)
		alone_submit(ctx, &second, 1);
	else if (result == -EAGAIN)
		return;
	read_all(reader, found, SMALL_BYTES);
	CHILD_CHECK(all_are(found, 'B', SMALL_BYTES));
	alone_expect_event(ctx, &second, SMALL_BYTES);
}

static void read_past_the_line(void *argument)
{
	const struct stream_trial *trial = argument;
	static char bytes[2][8];
	io_context_t ctx = context_for(trial->fullness);
	int reader, again, writer, ends[2], results[2];
	struct iocb iocbs[2];

	if (trial->socket)
		CHILD_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
	else
		CHILD_CHECK(pipe2(ends, O_CLOEXEC) == 0);
	reader = ends[0];
	writer = ends[1];
	again = trial->duplicate ? fcntl(reader, F_DUPFD_CLOEXEC, 0) : reader;
	io_prep_pread(&iocbs[0], reader, bytes[0], 8, 0);
	alone_submit(ctx, &iocbs[0], 1);
	make_full(trial->fullness, ctx);
	alone_does("%s: a second read is submitted", fullness_names[trial->fullness]);
	io_prep_pread(&iocbs[1], again, bytes[1], 8, 0);
	results[1] = submit_one(ctx, &iocbs[1]);
	CHILD_CHECK_MSG(results[1] == 1 || results[1] == -EAGAIN, "io_submit: %d", results[1]);
	CHILD_CHECK(write(writer, "firsts..seconds.", 16) == 16);
	alone_expect_event(ctx, &iocbs[0], 8);
	CHILD_CHECK_MSG(memcmp(bytes[0], "firsts..", 8) == 0, "the second read came first");
	if (results[1] == -EAGAIN && trial->fullness != FULL_TABLE)
		alone_submit(ctx, &iocbs[1], 1);
	else if (results[1] == -EAGAIN)
		return;
	alone_expect_event(ctx, &iocbs[1], 8);
	CHILD_CHECK(memcmp(bytes[1], "seconds.", 8) == 0);
}

static void try_streams(void (*run)(void *))
{
	for (int fullness = 0; fullness < FULLNESSES; fullness++)
		for (int variant = 0; variant < 4; variant++) {
			struct stream_trial trial = { (enum fullness)fullness, variant & 1,
						      variant & 2 };
			char what[96];

			snprintf(what, sizeof(what), "%s, a %s, %s", fullness_names[fullness],
				 trial.socket ? "socket" : "pipe",
				 trial.duplicate ? "a duplicate" : "one descriptor");
			run_alone(run, &trial, what);
		}
}

CASE(a_write_that_cannot_be_held_does_not_pass_its_line)
{
	NEEDS_A_PROCESS_OF_ITS_OWN();
	SKIP_ON_REFERENCE("a stream holds io_submit");
	try_streams(write_past_the_line);
}

CASE(a_read_that_cannot_be_held_does_not_pass_its_line)
{
	NEEDS_A_PROCESS_OF_ITS_OWN();
	SKIP_ON_REFERENCE("a stream holds io_submit");
	try_streams(read_past_the_line);
}

/*
 * How long a file is held: not longer than its last event is awaited.  The peer sees the end of a
 * pipe or socket; of a file, a lock that goes with the open description tells.
 */

enum holder {
	HOLD_PIPE_WRITE,
	HOLD_PIPE_READ,
	HOLD_SOCKET_WRITE,
	HOLD_SOCKET_READ,
	HOLD_CACHED_READ,
	HOLD_COLD_READ,
	HOLD_BUFFERED_WRITE,
	HOLD_DURABLE_WRITE,
	HOLDERS,
};

static const char *const holder_names[HOLDERS] = {
	"a write to a pipe", "a read of a pipe", "a write to a socket", "a read of a socket",
	"a cached read",     "a cold read",	 "a buffered write",	"a durable write",
};

static void open_peers(enum holder holder, int ends[2], bool nonblocking)
{
	if (holder <= HOLD_PIPE_READ)
		make_pipe(ends, nonblocking ? O_NONBLOCK : 0);
	else
		ck_assert_int_eq(
			socketpair(AF_UNIX,
				   SOCK_STREAM | SOCK_CLOEXEC | (nonblocking ? SOCK_NONBLOCK : 0),
				   0, ends),
			0);
}

/* Whether it is, at once. */
static bool peer_is_gone(int fd)
{
	struct pollfd look = { .fd = fd, .events = POLLIN };

	return poll(&look, 1, 0) == 1 && (look.revents & (POLLHUP | POLLERR));
}

static void stream_is_let_go(io_context_t ctx, enum holder holder, bool nonblocking, bool waits)
{
	bool writes = holder == HOLD_PIPE_WRITE || holder == HOLD_SOCKET_WRITE;
	const char *what = holder_names[holder];
	char bytes[8] = "abc";
	struct iocb iocb;
	int ends[2];

	open_peers(holder, ends, nonblocking);
	if (!writes && !waits)
		ck_assert_int_eq(write(ends[1], bytes, 3), 3);
	if (writes)
		io_prep_pwrite(&iocb, ends[1], bytes, 3, 0);
	else
		io_prep_pread(&iocb, ends[0], bytes, sizeof(bytes), 0);
	expect_submitted(ctx, &iocb, what);
	if (!writes && waits)
		ck_assert_int_eq(write(ends[1], bytes, 3), 3);
	expect_event(ctx, &iocb, 3, what);
	ck_assert_int_eq(close(ends[writes]), 0);
	ck_assert_msg(peer_is_gone(ends[!writes]), "%s%s%s: it is still held", what,
		      nonblocking ? ", non-blocking" : "", waits ? ", which waits" : "");
	close(ends[!writes]);
}

CASE(a_stream_is_let_go_before_its_last_event)
{
	enum { ROUNDS = 300 };
	io_context_t ctx = new_context(8);

	for (int holder = 0; holder <= HOLD_SOCKET_READ; holder++)
		for (int round = 0; round < 2 * ROUNDS; round++)
			stream_is_let_go(ctx, (enum holder)holder, round % 2, false);
	free_context_without_events(ctx, HERE);
}

CASE(a_stream_that_was_waited_for_is_let_go_before_its_last_event)
{
	enum { ROUNDS = 300 };
	io_context_t ctx;

	SKIP_ON_REFERENCE("a stream holds io_submit");
	ctx = new_context(8);
	for (int round = 0; round < ROUNDS; round++) {
		stream_is_let_go(ctx, HOLD_PIPE_READ, false, true);
		stream_is_let_go(ctx, HOLD_SOCKET_READ, false, true);
	}
	free_context_without_events(ctx, HERE);
}

/* Many of one file: the last event counts, in whichever context. */
CASE(a_stream_of_many_requests_is_let_go_before_the_last_event)
{
	enum { ROUNDS = 100, COUNT = 8 };
	io_context_t ctx = new_context(2 * COUNT);

	for (int round = 0; round < ROUNDS; round++) {
		struct iocb iocbs[COUNT];
		struct io_event events[COUNT];
		char bytes[COUNT];
		int ends[2], taken = 0;

		make_pipe(ends, 0);
		for (int i = 0; i < COUNT; i++)
			io_prep_pwrite(&iocbs[i], ends[1], &bytes[i], 1, 0);
		expect_all_submitted(ctx, iocbs, COUNT, HERE);
		while (taken < COUNT)
			taken += io_getevents(ctx, 1, COUNT, events, NULL);
		ck_assert_int_eq(close(ends[1]), 0);
		ck_assert_msg(peer_is_gone(ends[0]), "round %d: it is still held", round);
		close(ends[0]);
	}
	free_context_without_events(ctx, HERE);
}

/* The lock of flock(2) belongs to the open description: it is gone when nobody holds that. */
static void file_is_let_go(io_context_t ctx, int file, enum holder holder, int round)
{
	static char bytes[4 * BLOCK_BYTES];
	struct iovec vector = { bytes, sizeof(bytes) };
	long long offset = round % 8 * (long long)sizeof(bytes);
	int locked = reopen_file(file, O_RDWR);
	struct iocb iocb;

	ck_assert_int_eq(flock(locked, LOCK_EX | LOCK_NB), 0);
	if (holder == HOLD_CACHED_READ)
		ck_assert_int_eq(pread(locked, bytes, sizeof(bytes), offset), sizeof(bytes));
	if (holder == HOLD_COLD_READ)
		posix_fadvise(locked, 0, 0, POSIX_FADV_DONTNEED);
	if (holder <= HOLD_COLD_READ)
		io_prep_pread(&iocb, locked, bytes, sizeof(bytes), offset);
	else if (holder == HOLD_BUFFERED_WRITE)
		io_prep_pwrite(&iocb, locked, bytes, sizeof(bytes), offset);
	else
		io_prep_pwritev2(&iocb, locked, &vector, 1, offset, RWF_DSYNC);
	expect_result(ctx, &iocb, sizeof(bytes), holder_names[holder]);
	ck_assert_int_eq(close(locked), 0);
	ck_assert_msg(flock(file, LOCK_EX | LOCK_NB) == 0, "%s, round %d: it is still held",
		      holder_names[holder], round);
	ck_assert_int_eq(flock(file, LOCK_UN), 0);
}

CASE(a_file_is_let_go_before_its_last_event)
{
	enum { ROUNDS = 200 };
	io_context_t ctx;
	int file;

	NEEDS_FLAGS();
	ctx = new_context(8);
	file = scratch_file(1 << 20);
	for (int holder = HOLD_CACHED_READ; holder < HOLDERS; holder++)
		for (int round = 0; round < (holder == HOLD_DURABLE_WRITE ? 20 : ROUNDS); round++)
			file_is_let_go(ctx, file, (enum holder)holder, round);
	free_context_without_events(ctx, HERE);
	close(file);
}

/*
 * A file whose server is told of each close(2), and answers the first with what went wrong: that
 * answer is the program's, and it comes when the program closes.
 */

enum flushed_by { BUFFERED_REQUESTS, DIRECT_REQUESTS, SYNCED_REQUESTS, ALL_REQUESTS };

static void use_for_writing(struct holdfs *fs, io_context_t ctx, int fd, enum flushed_by kind)
{
	bool direct = kind != BUFFERED_REQUESTS;
	struct iocb iocbs[6];
	int count = 0;

	(void)fs;
	prepare_write(&iocbs[count++], fd, 1);
	prepare_read(&iocbs[count++], fd, 2);
	prepare_write(&iocbs[count++], fd, 3);
	if (kind >= SYNCED_REQUESTS)
		prepare_sync(&iocbs[count++], fd, IO_CMD_FSYNC);
	if (kind == ALL_REQUESTS) {
		prepare_read(&iocbs[count++], fd, 4);
		prepare_sync(&iocbs[count++], fd, IO_CMD_FDSYNC);
	}
	if (!direct)
		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	expect_all_submitted(ctx, iocbs, count, HERE);
	for (int i = 0; i < count; i++) {
		struct io_event event = take_event(ctx, HERE);

		ck_assert_int_ge((long)event.res, 0);
	}
}

static void close_says_it(struct holdfs *fs, enum flushed_by kind, bool separate)
{
	io_context_t ctx = new_context(16);
	int flags = kind == BUFFERED_REQUESTS ? O_RDWR : O_RDWR | O_DIRECT, fd, result;

	atomic_store(&fs->shared->flushes, 0);
	atomic_store(&fs->shared->flush_error, EIO);
	fd = holdfs_open(fs, 0, flags);
	for (int round = 0; round < 1 + 4 * separate; round++)
		use_for_writing(fs, ctx, fd, kind);
	ck_assert_msg(atomic_load(&fs->shared->flushes) == 0, "kind %d: %u flushes before close(2)",
		      kind, atomic_load(&fs->shared->flushes));
	errno = 0;
	result = close(fd);
	ck_assert_msg(result == -1 && errno == EIO, "kind %d: close: %d, %s", kind, result,
		      strerror(errno));
	free_context(ctx);
	ck_assert_msg(atomic_load(&fs->shared->flushes) == 1, "kind %d: %u flushes", kind,
		      atomic_load(&fs->shared->flushes));
}

CASE(what_close_says_is_said_to_the_program)
{
	struct holdfs *fs = holdfs_mount(1, SCENE_BLOCKS * BLOCK_BYTES);

	if (!fs)
		SKIP("FUSE cannot be used here");
	atomic_store(&fs->shared->flushed, true);
	is_fuse_told = true;
	for (int kind = 0; kind <= ALL_REQUESTS; kind++)
		for (int separate = 0; separate < 2; separate++)
			close_says_it(fs, (enum flushed_by)kind, separate);
	is_fuse_told = false;
	holdfs_unmount(fs);
}

/*
 * Syncs that are cancelled: the event of an earlier one comes first.
 */

CASE(the_event_of_a_cancelled_fsync_comes_before_that_of_a_later_one)
{
	enum { ROUNDS = 3000 };
	io_context_t ctx;
	int file, direct;
	char *data;

	SKIP_ON_REFERENCE("no fsync is cancelled");
	file = scratch_file(1 << 20);
	direct = reopen_file(file, O_RDWR | O_DIRECT);
	data = aligned_buffer(1 << 16);
	ctx = new_context(16);
	for (int round = 0; round < ROUNDS; round++) {
		int fd = round % 2 && direct >= 0 ? direct : file, place[3] = { -1, -1, -1 };
		struct iocb iocbs[3];

		io_prep_pwrite(&iocbs[0], fd, data, 1 << 16, 0);
		io_prep_fsync(&iocbs[1], fd);
		io_prep_fsync(&iocbs[2], fd);
		expect_all_submitted(ctx, iocbs, 3, HERE);
		/* Each time a little later. */
		for (volatile int i = 0; i < round % 64 * 50; i++)
			;
		io_cancel(ctx, &iocbs[1], NULL);
		for (int i = 0; i < 3; i++) {
			struct io_event event = take_event(ctx, HERE);
			long result = (long)event.res;

			place[event.obj - iocbs] = i;
			ck_assert(event.obj == iocbs ? result == 1 << 16
						     : result == 0 || (event.obj == &iocbs[1] &&
								       result == -ECANCELED));
		}
		ck_assert_msg(place[1] < place[2], "round %d: the later fsync's event came first",
			      round);
	}
	free(data);
	free_context_without_events(ctx, HERE);
	close(file);
	if (direct >= 0)
		close(direct);
}

/* The same on a disk that waits: it is known that both are held. */
CASE(a_held_fsync_that_is_cancelled_ends_while_later_ones_are_held)
{
	struct scene scene;
	struct iocb iocbs[4];
	int counter;

	SKIP_ON_REFERENCE("no fsync is cancelled");
	SCENE_OPEN(&scene);
	counter = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	holdfs_hold(scene.fs, HOLDFS_READ);
	prepare_read(&iocbs[0], scene.fd, 0);
	for (int i = 1; i < 4; i++) {
		prepare_sync(&iocbs[i], scene.fd, i % 2 ? IO_CMD_FSYNC : IO_CMD_FDSYNC);
		io_set_eventfd(&iocbs[i], counter);
	}
	expect_all_submitted(scene.ctx, iocbs, 4, HERE);
	ck_assert_int_eq(io_cancel(scene.ctx, &iocbs[2], NULL), -EINPROGRESS);
	expect_event(scene.ctx, &iocbs[2], -ECANCELED, HERE);
	expect_signals(counter, 1, HERE);
	ck_assert_int_eq(io_cancel(scene.ctx, &iocbs[1], NULL), -EINPROGRESS);
	expect_event(scene.ctx, &iocbs[1], -ECANCELED, HERE);
	expect_signals(counter, 1, HERE);
	ck_assert(sync_is_held(&scene, 0));
	holdfs_release_all(scene.fs);
	expect_event(scene.ctx, &iocbs[0], BLOCK_BYTES, HERE);
	expect_event(scene.ctx, &iocbs[3], 0, HERE);
	expect_signals(counter, 1, HERE);
	ck_assert_uint_eq(syncs(&scene), 1);
	close(counter);
	scene_close(&scene);
}

/*
 * Polls under a rain of signals.
 */

static timer_t start_rain(void)
{
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1 };
	struct itimerspec drops = { { 0, 50000 }, { 0, 50000 } };
	timer_t timer;

	catch_signal(SIGUSR1, SA_RESTART);
	ck_assert_int_eq(timer_create(CLOCK_MONOTONIC, &event, &timer), 0);
	ck_assert_int_eq(timer_settime(timer, 0, &drops, NULL), 0);
	return timer;
}

static void stop_rain(timer_t timer)
{
	timer_delete(timer);
	restore_signal(SIGUSR1);
}

static struct io_event take_event_in_rain(io_context_t ctx)
{
	struct io_event event;
	int result;

	while ((result = io_getevents(ctx, 1, 1, &event, NULL)) == -EINTR)
		;
	ck_assert_int_eq(result, 1);
	return event;
}

CASE(no_poll_is_ended_by_a_signal)
{
	enum { POLLS = 6000, SIGNALS = 3000 };
	long long limit_ns = monotonic_ns() + EVENT_LIMIT_SECONDS * 1000000000LL;
	io_context_t ctx = new_context(8);
	timer_t rain = start_rain();
	int ends[2];

	make_pipe(ends, 0);
	for (int i = 0; i < POLLS || atomic_load(&contract_signal_count) < SIGNALS; i++) {
		long expected[2] = { 0, POLLIN | POLLRDNORM };
		bool fires = i % 3 == 0;
		int cancelled = -EINPROGRESS;
		struct io_event event;
		struct iocb iocb;
		char byte;

		ck_assert_msg(i < POLLS || monotonic_ns() < limit_ns, "only %d signals have come",
			      atomic_load(&contract_signal_count));
		io_prep_poll(&iocb, ends[0], POLLIN);
		expect_submitted(ctx, &iocb, HERE);
		if (fires)
			ck_assert_int_eq(write(ends[1], "x", 1), 1);
		else
			WAIT_UNTIL((cancelled = io_cancel(ctx, &iocb, NULL)) != -EAGAIN);
		event = take_event_in_rain(ctx);
		ck_assert_msg((long)event.res == expected[fires], "poll %d: %ld", i,
			      (long)event.res);
		ck_assert_int_eq(cancelled, -EINPROGRESS);
		if (fires)
			ck_assert_int_eq(read(ends[0], &byte, 1), 1);
	}
	stop_rain(rain);
	free_context(ctx);
	close_pair(ends);
}

/* It is not the program's signal that ends it, no matter who carries it out. */
CASE(no_request_in_the_background_is_ended_by_a_signal)
{
	enum { ROUNDS = 2000 };
	io_context_t ctx;
	timer_t rain;
	int file, ends[2];
	struct iovec vector = { read_blocks[0], 8L * BLOCK_BYTES };

	SKIP_ON_REFERENCE("a stream holds io_submit");
	NEEDS_FLAGS();
	ctx = new_context(8);
	rain = start_rain();
	file = scratch_file(1 << 20);
	make_pipe(ends, 0);
	for (int i = 0; i < ROUNDS; i++) {
		struct iocb iocbs[3];

		if (i % 8 == 0)
			posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
		io_prep_pread(&iocbs[0], ends[0], read_blocks[100], 1, 0);
		io_prep_pread(&iocbs[1], file, read_blocks[50], 8L * BLOCK_BYTES,
			      i % 16 * 8L * BLOCK_BYTES);
		io_prep_pwritev2(&iocbs[2], file, &vector, 1, i % 16 * 8L * BLOCK_BYTES,
				 i % 100 ? 0 : RWF_DSYNC);
		expect_all_submitted(ctx, iocbs, 3, HERE);
		ck_assert_int_eq(write(ends[1], "x", 1), 1);
		for (int k = 0; k < 3; k++) {
			struct io_event event = take_event_in_rain(ctx);

			ck_assert_msg((long)event.res ==
					      (event.obj == iocbs ? 1 : 8L * BLOCK_BYTES),
				      "round %d: %ld", i, (long)event.res);
		}
	}
	stop_rain(rain);
	free_context_without_events(ctx, HERE);
	close(file);
	close_pair(ends);
}

/*
 * Reads in the middle of a file are whole, whatever part of it the page cache has and whatever the
 * library can hold.
 */

#define MIDDLE_BYTES ((size_t)64 << 10)
#define MIDDLE_PAGES (MIDDLE_BYTES / BLOCK_BYTES)

enum cached { FIRST_PAGES, LAST_PAGES, MIDDLE_PAGE, EVERY_OTHER, NO_PAGE, CACHED_WAYS };

struct middle_trial {
	const char *path;
	bool limited, crowded;
	enum way way;
};

static void cache_some(int fd, enum cached cached, off_t offset)
{
	char byte;

	posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	for (size_t page = 0; page < MIDDLE_PAGES; page++)
		if ((cached == FIRST_PAGES && page < 2) ||
		    (cached == LAST_PAGES && page >= MIDDLE_PAGES - 2) ||
		    (cached == MIDDLE_PAGE && page == 7) || (cached == EVERY_OTHER && page % 2))
			CHILD_CHECK(pread(fd, &byte, 1, offset + (off_t)(page * BLOCK_BYTES)) == 1);
}

static void read_middle(io_context_t ctx, int fd, enum cached cached, bool vectored, bool may_wait)
{
	static char bytes[MIDDLE_BYTES];
	struct iovec vectors[2] = { { bytes, 5000 }, { bytes + 5000, MIDDLE_BYTES - 5000 } };
	off_t offset = (off_t)MIDDLE_BYTES;
	struct iocb iocb;
	int result;

	alone_does("%s read, %d is cached", vectored ? "a vectored" : "a", cached);
	cache_some(fd, cached, offset);
	memset(bytes, 0, sizeof(bytes));
	if (vectored)
		io_prep_preadv(&iocb, fd, vectors, 2, offset);
	else
		io_prep_pread(&iocb, fd, bytes, sizeof(bytes), offset);
	result = submit_one(ctx, &iocb);
	if (result == -EAGAIN && may_wait)
		return;
	CHILD_CHECK_MSG(result == 1, "io_submit: %d", result);
	alone_expect_event(ctx, &iocb, sizeof(bytes));
	for (size_t i = 0; i < sizeof(bytes); i++)
		CHILD_CHECK_MSG(bytes[i] == pattern_at(offset + (off_t)i),
				"byte %zu is not the "
				"file's",
				i);
}

static void read_middles(void *argument)
{
	const struct middle_trial *trial = argument;
	int fd = open(trial->path, O_RDONLY | O_CLOEXEC);
	io_context_t ctx;

	CHILD_CHECK(fd >= 0);
	if (trial->crowded)
		set_soft_limit(RLIMIT_NOFILE, 64);
	ctx = alone_context(4 * FILLERS);
	if (trial->crowded) {
		use_a_little(ctx);
		lift(RLIMIT_NOFILE);
		fill_table(ctx);
	}
	if (trial->limited)
		reach(trial->way);
	for (int round = 0; round < 4; round++)
		for (int cached = 0; cached < CACHED_WAYS; cached++)
			for (int vectored = 0; vectored < 2; vectored++)
				read_middle(ctx, fd, (enum cached)cached, vectored, trial->crowded);
}

CASE(no_read_in_the_middle_of_a_file_is_short)
{
	const char *path = actor_file();

	NEEDS_A_PROCESS_OF_ITS_OWN();
	for (int way = 0; way <= WAYS; way++)
		for (int crowded = 0; crowded < 2; crowded++) {
			struct middle_trial trial = { path, way < WAYS, crowded, (enum way)way };
			char what[96];

			/* There a silent pipe holds io_submit; and this has no threads to spare. */
			if (crowded && (on_reference() || way == NO_THREADS))
				continue;
			snprintf(what, sizeof(what), "%s%s",
				 way < WAYS ? way_names[way] : "without a limit",
				 crowded ? ", with a crowd in flight" : "");
			run_alone(read_middles, &trial, what);
		}
}

/*
 * What can be read once is read by the request alone: nobody tries what kind of file it is.
 */

/* As many as a socket of datagrams keeps. */
#define MESSAGES 8

enum first_act { READ_FIRST, POLL_FIRST, WRITE_FIRST, SYNC_FIRST, FIRST_ACTS };

static const char *const first_names[FIRST_ACTS] = { "read", "polled", "written", "synced" };

/* Messages wait in it; a read takes one of them, or of a stream as many bytes as it has. */
struct source {
	const char *name;
	int fd, peer; /* where the messages come from */
};

enum source_kind { DATAGRAMS, PACKETS, SEQPACKETS, TERMINAL, MASTER, SEMAPHORE, SOURCES };

static struct source source_open(enum source_kind kind)
{
	static const char *const names[SOURCES] = { "a socket of datagrams", "a pipe of packets",
						    "a socket of packets",   "a terminal",
						    "a terminal's master",   "a semaphore" };
	struct source source = { .name = names[kind] };
	int ends[2] = { -1, -1 };
	struct termios raw;

	switch (kind) {
	case DATAGRAMS:
		ck_assert_int_eq(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, ends), 0);
		break;
	case PACKETS:
		make_pipe(ends, O_DIRECT);
		break;
	case SEQPACKETS:
		ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
		break;
	case TERMINAL:
	case MASTER:
		ck_assert_int_eq(
			openpty(&ends[kind == TERMINAL], &ends[kind != TERMINAL], NULL, NULL, NULL),
			0);
		/* Lines are read one at a time, and come as they were written. */
		ck_assert_int_eq(tcgetattr(ends[0], &raw), 0);
		raw.c_lflag &= ~(tcflag_t)ECHO;
		raw.c_oflag &= ~(tcflag_t)OPOST;
		ck_assert_int_eq(tcsetattr(ends[0], TCSANOW, &raw), 0);
		break;
	default:
		ends[0] = open_eventfd(0, EFD_SEMAPHORE | EFD_NONBLOCK);
		ends[1] = fcntl(ends[0], F_DUPFD_CLOEXEC, 0);
	}
	source.fd = ends[0];
	source.peer = ends[1];
	return source;
}

static void source_fill(const struct source *source, enum source_kind kind)
{
	static const uint64_t all = MESSAGES;
	char line[16];

	if (kind == SEMAPHORE)
		ck_assert_int_eq(write(source->peer, &all, sizeof(all)), sizeof(all));
	for (int i = 0; i < MESSAGES && kind != SEMAPHORE; i++) {
		int bytes = snprintf(line, sizeof(line), "message %02d\n", i);

		ck_assert_int_eq(write(source->peer, line, (size_t)bytes), bytes);
	}
}

/* Something else is asked before, with which a class might be learned. */
static void act_first(io_context_t ctx, const struct source *source, enum first_act first)
{
	struct iocb iocb;
	int result;

	if (first == READ_FIRST)
		return;
	if (first == POLL_FIRST)
		io_prep_poll(&iocb, source->fd, POLLIN);
	else if (first == WRITE_FIRST)
		io_prep_pwrite(&iocb, source->fd, (void *)(uintptr_t) "", 0, 0);
	else
		io_prep_fsync(&iocb, source->fd);
	result = submit_one(ctx, &iocb);
	if (result == 1)
		take_event(ctx, source->name);
	else
		ck_assert_msg(result == -EINVAL || result == -EBADF, "%s: %d", source->name,
			      result);
}

static void all_comes(io_context_t ctx, enum source_kind kind, enum first_act first)
{
	struct source source = source_open(kind);
	char line[16], expected[16];
	struct iocb iocb;

	source_fill(&source, kind);
	act_first(ctx, &source, first);
	for (int i = 0; i < MESSAGES; i++) {
		size_t length = kind == SEMAPHORE ? 8
						  : (size_t)snprintf(expected, sizeof(expected),
								     "message %02d\n", i);

		io_prep_pread(&iocb, source.fd, line, kind == MASTER ? length : sizeof(line), 0);
		expect_result(ctx, &iocb, (long)length, source.name);
		ck_assert_msg(kind == SEMAPHORE || memcmp(line, expected, length) == 0,
			      "%s, %s first: %.11s where %.11s should be", source.name,
			      first_names[first], line, expected);
	}
	fcntl(source.fd, F_SETFL, O_NONBLOCK);
	ck_assert_msg(read(source.fd, line, sizeof(line)) == -1 && errno == EAGAIN,
		      "%s: there is more", source.name);
	close(source.fd);
	close(source.peer);
}

CASE(what_can_be_read_once_is_read_by_requests_alone)
{
	io_context_t ctx = new_context(8);

	for (int round = 0; round < 5; round++)
		for (int kind = 0; kind < SOURCES; kind++)
			for (int first = 0; first < FIRST_ACTS; first++) {
				/* An empty write to it is a datagram, or refused. */
				if (first == WRITE_FIRST && kind != TERMINAL && kind != MASTER)
					continue;
				if (kind == SEMAPHORE && !eventfds_count_by_any_number())
					continue;
				all_comes(ctx, (enum source_kind)kind, (enum first_act)first);
			}
	free_context_without_events(ctx, HERE);
}

/* A network interface of this program's, in a network of its own. */
#define OWN_ETHERTYPE 0x88b5
#define FRAME_BYTES 60
#define FRAMES 20

struct tap {
	int fd, sender;
	struct sockaddr_ll address;
};

/* The kernel would send frames of its own. */
static void keep_silent(const char *interface)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/%s/disable_ipv6", interface);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd >= 0)
		CHILD_CHECK(write(fd, "1", 1) == 1);
	close(fd);
}

static bool tap_open(struct tap *tap)
{
	struct ifreq request = { .ifr_flags = IFF_TAP | IFF_NO_PI };

	*tap = (struct tap){ .fd = -1, .sender = -1 };
	if (unshare(CLONE_NEWNET) != 0)
		return false;
	tap->fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	snprintf(request.ifr_name, IFNAMSIZ, "own%%d");
	if (tap->fd < 0 || ioctl(tap->fd, TUNSETIFF, &request) != 0)
		return false;
	keep_silent(request.ifr_name);
	tap->sender = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(OWN_ETHERTYPE));
	if (tap->sender < 0 || ioctl(tap->sender, SIOCGIFINDEX, &request) != 0)
		return false;
	tap->address = (struct sockaddr_ll){ .sll_family = AF_PACKET,
					     .sll_protocol = htons(OWN_ETHERTYPE),
					     .sll_ifindex = request.ifr_ifindex,
					     .sll_halen = ETH_ALEN };
	if (ioctl(tap->sender, SIOCGIFFLAGS, &request) != 0)
		return false;
	request.ifr_flags |= IFF_UP | IFF_RUNNING;
	return ioctl(tap->sender, SIOCSIFFLAGS, &request) == 0;
}

static void tap_send(const struct tap *tap, int number)
{
	unsigned char frame[FRAME_BYTES] = { 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2 };

	frame[12] = OWN_ETHERTYPE >> 8;
	frame[13] = OWN_ETHERTYPE & 255;
	frame[14] = (unsigned char)number;
	CHILD_CHECK(sendto(tap->sender, frame, sizeof(frame), 0,
			   (const struct sockaddr *)&tap->address,
			   sizeof(tap->address)) == sizeof(frame));
}

/* Should the kernel send frames of its own, those are none of these, which all come, in order. */
static void tap_receive(const struct tap *tap, io_context_t ctx, bool blocking)
{
	for (int next = 0; next < FRAMES;) {
		static unsigned char frame[2048];
		struct io_event event;
		struct iocb iocb;

		io_prep_pread(&iocb, tap->fd, frame, sizeof(frame), 0);
		alone_submit(ctx, &iocb, 1);
		event = alone_event(ctx);
		CHILD_CHECK_MSG((long)event.res > 0, "frame %d of %d%s: %ld", next, FRAMES,
				blocking ? "" : ", non-blocking", (long)event.res);
		if (event.res != FRAME_BYTES || frame[12] != OWN_ETHERTYPE >> 8 ||
		    frame[13] != (OWN_ETHERTYPE & 255))
			continue;
		CHILD_CHECK_MSG(frame[14] == next, "frame %d comes where %d should", frame[14],
				next);
		next++;
	}
}

#define TAP_IS_MISSING 77

static void use_tap(void *argument)
{
	const bool *nonblocking = argument;
	struct tap tap;
	io_context_t ctx;

	if (!tap_open(&tap))
		_exit(TAP_IS_MISSING);
	if (*nonblocking)
		fcntl(tap.fd, F_SETFL, O_NONBLOCK);
	ctx = alone_context(8);
	for (int round = 0; round < 5; round++) {
		alone_does("round %d", round);
		for (int i = 0; i < FRAMES; i++)
			tap_send(&tap, i);
		tap_receive(&tap, ctx, !*nonblocking);
	}
	alone_destroy(ctx);
}

CASE(no_frame_of_a_network_device_is_lost)
{
	NEEDS_A_PROCESS_OF_ITS_OWN();
	for (int i = 0; i < 2; i++) {
		bool nonblocking = i;
		const char *what = nonblocking ? "non-blocking" : "blocking";
		int status = alone_status(alone_start(use_tap, &nonblocking), what);

		if (WIFEXITED(status) && WEXITSTATUS(status) == TAP_IS_MISSING)
			SKIP("no network device can be made here (/dev/net/tun)");
		alone_expect_status(status, what);
	}
}

/*
 * The position of a file has a lock, which a thread in read(2) holds: with a server that does not
 * answer, for ever.
 */

static void read_at_position(void *argument)
{
	static char bytes[BLOCK_BYTES];

	if (read(*(const int *)argument, bytes, sizeof(bytes)) != sizeof(bytes))
		abort();
}

struct beside {
	io_context_t ctx;
	int fd, pipe[2];
	int done; /* how many requests have ended */
};

static void expect_beside(struct beside *beside, struct iocb *iocb, long result)
{
	expect_result(beside->ctx, iocb, result, HERE);
	expect_no_event(beside->ctx, HERE);
	beside->done++;
}

/* Places that the read does not touch; what is cached is. */
static void use_beside_a_read(void *argument)
{
	struct beside *beside = argument;
	struct iovec vector = { read_blocks[41], BLOCK_BYTES };
	struct iocb iocb;

	for (int round = 0; round < 20; round++) {
		prepare_read(&iocb, beside->fd, 40);
		expect_beside(beside, &iocb, BLOCK_BYTES);
		io_prep_preadv(&iocb, beside->fd, &vector, 1, 40L * BLOCK_BYTES);
		expect_beside(beside, &iocb, BLOCK_BYTES);
		prepare_write(&iocb, beside->fd, 60);
		expect_beside(beside, &iocb, BLOCK_BYTES);
		prepare_sync(&iocb, beside->fd, IO_CMD_FSYNC);
		expect_beside(beside, &iocb, 0);
		io_prep_poll(&iocb, beside->fd, POLLIN);
		expect_beside(beside, &iocb, POLLIN);
		ck_assert_int_eq(write(beside->pipe[1], "x", 1), 1);
		io_prep_pread(&iocb, beside->pipe[0], read_blocks[42], 1, 0);
		expect_beside(beside, &iocb, 1);
	}
}

static void nobody_waits_for_the_position(bool duplicate)
{
	struct holdfs *fs = holdfs_mount(1, SCENE_BLOCKS * BLOCK_BYTES);
	struct worker reader, user;
	struct beside beside;
	unsigned held;
	char byte;
	int fd;

	if (!fs)
		SKIP("FUSE cannot be used here");
	beside = (struct beside){ .ctx = new_context(8) };
	fd = holdfs_open(fs, 0, O_RDWR);
	beside.fd = duplicate ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : fd;
	make_pipe(beside.pipe, 0);
	ck_assert_int_eq(pread(fd, &byte, 1, 40L * BLOCK_BYTES), 1);
	holdfs_hold(fs, HOLDFS_READ);
	held = holdfs_count(fs, HOLDFS_READ);
	worker_start(&reader, read_at_position, &fd);
	holdfs_wait_arrived(fs, HOLDFS_READ, held);
	worker_wait_blocked(&reader);
	worker_start(&user, use_beside_a_read, &beside);
	worker_join(&user);
	ck_assert(!worker_has_ended(&reader));
	holdfs_release_all(fs);
	worker_join(&reader);
	/* And nobody has moved it. */
	ck_assert_int_eq(lseek(fd, 0, SEEK_CUR), BLOCK_BYTES);
	free_context(beside.ctx);
	close_pair(beside.pipe);
	if (duplicate)
		close(beside.fd);
	close(fd);
	holdfs_unmount(fs);
}

CASE(a_read_of_another_thread_that_waits_holds_nobody_up)
{
	nobody_waits_for_the_position(false);
}

CASE(a_read_by_a_duplicate_that_waits_holds_nobody_up)
{
	nobody_waits_for_the_position(true);
}

/* Of another context's waiters, too: what one thread waits for is not the library's. */
CASE(a_read_that_waits_holds_no_other_context_up)
{
	struct holdfs *fs = holdfs_mount(2, SCENE_BLOCKS * BLOCK_BYTES);
	struct worker reader, user;
	struct beside beside;
	struct iocb own;
	io_context_t ctx;
	int fd;

	SKIP_ON_REFERENCE("a cold read waits in io_submit");
	if (!fs)
		SKIP("FUSE cannot be used here");
	ctx = new_context(8);
	beside = (struct beside){ .ctx = new_context(8), .fd = holdfs_open(fs, 1, O_RDWR) };
	make_pipe(beside.pipe, 0);
	prepare_read(&own, beside.fd, 40);
	expect_result(ctx, &own, BLOCK_BYTES, HERE);
	fd = holdfs_open(fs, 0, O_RDWR);
	holdfs_hold(fs, HOLDFS_READ);
	worker_start(&reader, read_at_position, &fd);
	holdfs_wait_arrived(fs, HOLDFS_READ, 1);
	worker_wait_blocked(&reader);
	/* The position's lock is held; a request of the file waits for the disk. */
	prepare_read(&own, fd, 50);
	expect_submitted(ctx, &own, HERE);
	worker_start(&user, use_beside_a_read, &beside);
	worker_join(&user);
	expect_no_event(ctx, HERE);
	holdfs_release_all(fs);
	worker_join(&reader);
	expect_event(ctx, &own, BLOCK_BYTES, HERE);
	free_context(ctx);
	free_context(beside.ctx);
	close_pair(beside.pipe);
	close(beside.fd);
	close(fd);
	holdfs_unmount(fs);
}
