/* SPDX-License-Identifier: MIT */
/*
 * Requests that are over when io_submit returns: what cannot wait, and what libaio does in the
 * caller as well.  They keep the order of their array, are made once, and are nobody's surprise
 * while they last; and a number that was one kind of file a moment ago is taken for what it is.
 */
#include "contract.h"
#include "holdfs.h"

#include <dirent.h>
#include <pthread.h>

#define PAGE 4096
#define FILE_BYTES ((size_t)1 << 20)
/* More than is copied without blocking signals. */
#define LONG_BYTES ((size_t)256 << 10)

static char data[LONG_BYTES];

static int memory_file(size_t bytes)
{
	int file = memfd_create("memory", MFD_CLOEXEC);

	ck_assert_int_ge(file, 0);
	ck_assert_int_eq(ftruncate(file, (off_t)bytes), 0);
	return file;
}

static void expect_at_once(io_context_t ctx, struct iocb *iocb, long result, const char *what)
{
	struct io_event event;

	expect_submitted(ctx, iocb, what);
	ck_assert_msg(take_events_now(ctx, &event, 1) == 1, "%s: no event when io_submit returns",
		      what);
	ck_assert_ptr_eq(event.obj, iocb);
	ck_assert_msg((long)event.res == result, "%s: %ld", what, (long)event.res);
}

static void transfers_are_over(int file)
{
	io_context_t ctx = new_context(4);
	struct iovec vector[2] = { { data, 100 }, { data + 1000, 200 } };
	struct iocb iocb;

	ck_assert_int_eq(pread(file, data, sizeof(data), 0), sizeof(data));
	io_prep_pread(&iocb, file, data, PAGE, PAGE);
	expect_at_once(ctx, &iocb, PAGE, "a cached read");
	io_prep_preadv(&iocb, file, vector, 2, 50);
	expect_at_once(ctx, &iocb, 300, "a cached read of a vector");
	io_prep_pwrite(&iocb, file, data, PAGE, 10);
	expect_at_once(ctx, &iocb, PAGE, "a buffered write");
	io_prep_pwritev(&iocb, file, vector, 2, (long long)FILE_BYTES);
	expect_at_once(ctx, &iocb, 300, "a buffered write of a vector behind the end");
	io_prep_pwrite(&iocb, file, data, sizeof(data), 0);
	expect_at_once(ctx, &iocb, sizeof(data), "a long one");
	free_context(ctx);
}

CASE(cached_transfers_are_over_when_submit_returns)
{
	int file = scratch_file(FILE_BYTES);

	NEEDS_FLAGS();
	transfers_are_over(file);
	close(file);
}

CASE(transfers_of_files_in_memory_are_over_when_submit_returns)
{
	int file = memory_file(FILE_BYTES);

	NEEDS_FLAGS();
	transfers_are_over(file);
	close(file);
}

/* What the file is has to be known from a request just before: not in every round. */
CASE(fsyncs_of_files_in_memory_are_over_when_submit_returns)
{
	io_context_t ctx = new_context(4);
	int file = memory_file(FILE_BYTES), event_fd = open_eventfd(0, EFD_NONBLOCK);
	unsigned over = 0, rounds = 0;
	struct iocb iocbs[2];
	struct io_event event;

	SKIP_ON_REFERENCE("the kernel has a thread for each fsync");
	for (; over < 2 && rounds < 200; rounds++) {
		io_prep_pwrite(&iocbs[0], file, data, PAGE, 0);
		rounds % 2 ? io_prep_fdsync(&iocbs[1], file) : io_prep_fsync(&iocbs[1], file);
		io_set_eventfd(&iocbs[1], event_fd);
		expect_result(ctx, &iocbs[0], PAGE, HERE);
		expect_submitted(ctx, &iocbs[1], HERE);
		if (take_events_now(ctx, &event, 1) == 1)
			over++;
		else
			event = take_event(ctx, HERE);
		ck_assert_ptr_eq(event.obj, &iocbs[1]);
		ck_assert_int_eq((long)event.res, 0);
		expect_count(event_fd, 1, HERE);
	}
	ck_assert_uint_eq(over, 2);
	free_context(ctx);
	close(event_fd);
	close(file);
}

/* ---- order in the array ---------------------------------------------------------------------- */

static void refused_in_the_middle(int file)
{
	io_context_t ctx = new_context(8);
	char found[4], read_back[4] = "abc";
	struct iocb iocbs[4];
	struct iocb *list[4] = { &iocbs[0], &iocbs[1], &iocbs[2], &iocbs[3] };

	ck_assert_int_eq(pwrite(file, "....", 4, 0), 4);
	io_prep_pwrite(&iocbs[0], file, "1", 1, 0);
	io_prep_pread(&iocbs[1], -1, found, 1, 0);
	io_prep_pwrite(&iocbs[2], file, "2", 1, 1);
	io_prep_pread(&iocbs[3], file, read_back, 3, 0);
	ck_assert_int_eq(io_submit(ctx, 4, list), 1);
	expect_event(ctx, &iocbs[0], 1, HERE);
	ck_assert_int_eq(pread(file, found, 4, 0), 4);
	ck_assert_msg(memcmp(found, "1...", 4) == 0, "the file has %.4s", found);
	ck_assert_str_eq(read_back, "abc");
	ck_assert_int_eq(io_submit(ctx, 3, list + 1), -EBADF);
	ck_assert_str_eq(read_back, "abc");
	free_context_without_events(ctx, HERE);
}

CASE(nothing_behind_a_refused_request_is_begun)
{
	int file = scratch_file(FILE_BYTES), memory = memory_file(FILE_BYTES);

	refused_in_the_middle(file);
	refused_in_the_middle(memory);
	close(file);
	close(memory);
}

/* Each finds what the one before it did, by whatever opening and in whatever way. */
static void one_after_the_other(int file, int other)
{
	enum { PAIRS = 100 };
	static char read_back[PAIRS][8];
	static struct iocb iocbs[2 * PAIRS];
	static char text[PAIRS][8];
	io_context_t ctx = new_context(2 * PAIRS);
	struct io_event events[2 * PAIRS];

	for (int i = 0; i < PAIRS; i++) {
		snprintf(text[i], sizeof(text[i]), "%07d", i);
		io_prep_pwrite(&iocbs[2 * i], file, text[i], 8, 3);
		io_prep_pread(&iocbs[2 * i + 1], other, read_back[i], 8, 3);
	}
	expect_all_submitted(ctx, iocbs, 2 * PAIRS, HERE);
	ck_assert_int_eq(io_getevents(ctx, 2 * PAIRS, 2 * PAIRS, events, NULL), 2 * PAIRS);
	for (int i = 0; i < PAIRS; i++) {
		ck_assert_str_eq(read_back[i], text[i]);
		ck_assert_ptr_eq(events[2 * i].obj, &iocbs[2 * i]);
		ck_assert_ptr_eq(events[2 * i + 1].obj, &iocbs[2 * i + 1]);
	}
	free_context(ctx);
}

CASE(each_request_of_an_array_finds_what_those_before_it_did)
{
	int file = scratch_file(FILE_BYTES), memory = memory_file(FILE_BYTES);
	int files[2] = { file, memory };

	NEEDS_FLAGS();
	for (int i = 0; i < 2; i++) {
		int other = reopen_file(files[i], O_RDWR);

		one_after_the_other(files[i], other);
		close(other);
		close(files[i]);
	}
}

/* ---- a write is made once -------------------------------------------------------------------- */

static volatile sig_atomic_t signals_seen;

static void count_signal(int unused_number)
{
	(void)unused_number;
	signals_seen = signals_seen + 1;
}

static void fail_once_each(int file)
{
	io_context_t ctx = new_context(8);
	struct iovec vector = { data, 10 };
	struct iocb iocbs[3];

	io_prep_pwrite(&iocbs[0], file, data, 10, (long long)FILE_BYTES);
	io_prep_pwritev(&iocbs[1], file, &vector, 1, (long long)FILE_BYTES + 10);
	io_prep_pwrite(&iocbs[2], file, data, LONG_BYTES, (long long)FILE_BYTES);
	for (int i = 0; i < 3; i++) {
		signals_seen = 0;
		expect_result(ctx, &iocbs[i], -EFBIG, HERE);
		ck_assert_int_eq(signals_seen, 1);
	}
	free_context(ctx);
}

CASE(a_write_that_fails_is_not_made_again)
{
	int file = scratch_file(FILE_BYTES), memory = memory_file(FILE_BYTES);
	struct rlimit old, limit;

	NEEDS_FLAGS();
	ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &old), 0);
	limit = (struct rlimit){ FILE_BYTES, old.rlim_max };
	signal(SIGXFSZ, count_signal);
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
	fail_once_each(file);
	fail_once_each(memory);
	setrlimit(RLIMIT_FSIZE, &old);
	signal(SIGXFSZ, SIG_DFL);
	close(file);
	close(memory);
}

/* ---- neighbours ------------------------------------------------------------------------------ */

/* Elements that follow one another in the array and in their file; each has its own result. */
#define NEIGHBOURS 40

struct row {
	struct iocb iocbs[NEIGHBOURS];
	char buffers[NEIGHBOURS][PAGE];
};

static struct row row;

static void prepare_row(int file, long long from, bool writing)
{
	for (int i = 0; i < NEIGHBOURS; i++) {
		long long at = from + (long long)i * PAGE;

		if (writing) {
			memset(row.buffers[i], 'a' + i % 26, PAGE);
			io_prep_pwrite(&row.iocbs[i], file, row.buffers[i], PAGE, at);
		} else {
			memset(row.buffers[i], 0, PAGE);
			io_prep_pread(&row.iocbs[i], file, row.buffers[i], PAGE, at);
		}
	}
}

static void submit_row(io_context_t ctx, const long results[NEIGHBOURS], const char *what)
{
	struct io_event events[NEIGHBOURS];

	expect_all_submitted(ctx, row.iocbs, NEIGHBOURS, what);
	ck_assert_int_eq(io_getevents(ctx, NEIGHBOURS, NEIGHBOURS, events, NULL), NEIGHBOURS);
	for (int i = 0; i < NEIGHBOURS; i++) {
		long element = events[i].obj - row.iocbs;

		ck_assert(element >= 0 && element < NEIGHBOURS);
		ck_assert_msg((long)events[i].res == results[element],
			      "%s: element %ld: %ld, not %ld", what, element, (long)events[i].res,
			      results[element]);
	}
}

/* The file ends in the middle of the element in the middle, whose neighbour's buffer is bad. */
static void read_row(int file, bool is_cold)
{
	io_context_t ctx = new_context(NEIGHBOURS);
	long long from = (long long)FILE_BYTES - NEIGHBOURS / 2 * PAGE - 100;
	long results[NEIGHBOURS];

	prepare_row(file, from, false);
	row.iocbs[3].u.c.buf = unreadable_page();
	for (int i = 0; i < NEIGHBOURS; i++)
		results[i] = i == 3 ? -EFAULT : i < NEIGHBOURS / 2 ? PAGE : 0;
	results[NEIGHBOURS / 2] = 100;
	if (is_cold)
		posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
	submit_row(ctx, results, is_cold ? "cold reads" : "reads");
	for (int i = 0; i < NEIGHBOURS; i++)
		if (results[i] > 0)
			expect_pattern(row.buffers[i], from + i * PAGE, (size_t)results[i], HERE);
	free_context(ctx);
}

/* The limit on the size of files is in the middle of the element in the middle. */
static void write_row(int file, long long from)
{
	struct rlimit old, limit;
	io_context_t ctx = new_context(NEIGHBOURS);
	long results[NEIGHBOURS];
	char found[PAGE];

	prepare_row(file, from, true);
	row.iocbs[3].u.c.buf = unreadable_page();
	for (int i = 0; i < NEIGHBOURS; i++)
		results[i] = i == 3 ? -EFAULT : i < NEIGHBOURS / 2 ? PAGE : -EFBIG;
	results[NEIGHBOURS / 2] = 100;
	ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &old), 0);
	limit = (struct rlimit){ (rlim_t)(from + NEIGHBOURS / 2 * PAGE + 100), old.rlim_max };
	signal(SIGXFSZ, SIG_IGN);
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
	submit_row(ctx, results, "writes");
	setrlimit(RLIMIT_FSIZE, &old);
	signal(SIGXFSZ, SIG_DFL);
	for (int i = 0; i < NEIGHBOURS; i++) {
		if (results[i] <= 0)
			continue;
		ck_assert_int_eq(pread(file, found, (size_t)results[i], from + i * PAGE),
				 results[i]);
		ck_assert(memcmp(found, row.buffers[i], (size_t)results[i]) == 0);
	}
	free_context(ctx);
}

static void append_row(int file)
{
	io_context_t ctx = new_context(NEIGHBOURS);
	int append = reopen_file(file, O_WRONLY | O_APPEND);
	long results[NEIGHBOURS];
	char found[PAGE];

	ck_assert_int_eq(ftruncate(file, 10), 0);
	prepare_row(append, 0, true);
	for (int i = 0; i < NEIGHBOURS; i++)
		results[i] = PAGE;
	submit_row(ctx, results, "appends");
	for (int i = 0; i < NEIGHBOURS; i++) {
		ck_assert_int_eq(pread(file, found, PAGE, 10 + i * PAGE), PAGE);
		ck_assert(memcmp(found, row.buffers[i], PAGE) == 0);
	}
	free_context(ctx);
	close(append);
}

/* A short append must not be made again. */
static void append_to_limit(int file)
{
	struct rlimit old, limit = { 0 };
	io_context_t ctx = new_context(NEIGHBOURS);
	int append = reopen_file(file, O_WRONLY | O_APPEND);
	long results[NEIGHBOURS];

	ck_assert_int_eq(ftruncate(file, 10), 0);
	prepare_row(append, 0, true);
	for (int i = 0; i < NEIGHBOURS; i++)
		results[i] = i < 5 ? PAGE : -EFBIG;
	results[5] = 100;
	ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &old), 0);
	limit = (struct rlimit){ 10 + 5 * PAGE + 100, old.rlim_max };
	signal(SIGXFSZ, SIG_IGN);
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
	submit_row(ctx, results, "appends to the limit");
	setrlimit(RLIMIT_FSIZE, &old);
	signal(SIGXFSZ, SIG_DFL);
	free_context(ctx);
	close(append);
}

/* Whatever follows whatever: as if one after the other. */
#define MODEL_PAGES 8

struct place {
	int fd;
	int file; /* which one it opens */
};

static void compare_with_model(const struct place *places, int place_count, unsigned seed)
{
	static char model[2][MODEL_PAGES][PAGE], expected[NEIGHBOURS][PAGE];
	io_context_t ctx = new_context(NEIGHBOURS);
	long results[NEIGHBOURS];

	for (int i = 0; i < 2; i++) {
		memset(model[i], '.', sizeof(model[i]));
		ck_assert_int_eq(pwrite(places[i].fd, model[i], sizeof(model[i]), 0),
				 sizeof(model[i]));
	}
	for (int i = 0, page = 0; i < NEIGHBOURS; i++) {
		const struct place *place = &places[rand_r(&seed) % place_count];
		bool reads = rand_r(&seed) % 4 == 0;

		/* Often the next one, of the same opening. */
		if (i > 0 && rand_r(&seed) % 4 > 0)
			page = (page + 1) % MODEL_PAGES;
		else
			page = (int)(rand_r(&seed) % MODEL_PAGES);
		if (rand_r(&seed) % 4 > 0)
			place = &places[0];
		memset(row.buffers[i], reads ? 0 : (int)('A' + i % 26), PAGE);
		results[i] = PAGE;
		if (reads) {
			memcpy(expected[i], model[place->file][page], PAGE);
			io_prep_pread(&row.iocbs[i], place->fd, row.buffers[i], PAGE, page * PAGE);
		} else {
			memcpy(expected[i], row.buffers[i], PAGE);
			memcpy(model[place->file][page], row.buffers[i], PAGE);
			io_prep_pwrite(&row.iocbs[i], place->fd, row.buffers[i], PAGE, page * PAGE);
		}
	}
	submit_row(ctx, results, "a mixed row");
	for (int i = 0; i < NEIGHBOURS; i++)
		ck_assert_msg(memcmp(row.buffers[i], expected[i], PAGE) == 0, "seed %u: element %d",
			      seed, i);
	free_context(ctx);
}

CASE(arrays_do_what_their_elements_would_do_one_by_one)
{
	int file = scratch_file(FILE_BYTES), memory = memory_file(FILE_BYTES);
	struct place places[4] = { { file, 0 }, { memory, 1 } };

	NEEDS_FLAGS();
	places[2] = (struct place){ reopen_file(file, O_RDWR), 0 };
	places[3] = (struct place){ reopen_file(memory, O_RDWR), 1 };
	for (unsigned seed = 1; seed <= 200; seed++)
		compare_with_model(places, 4, seed);
	for (int i = 0; i < 4; i++)
		close(places[i].fd);
}

CASE(neighbours_have_results_of_their_own)
{
	int files[2] = { scratch_file(FILE_BYTES), memory_file(0) };

	fill_pattern(data, 0, sizeof(data));
	for (size_t at = 0; at < FILE_BYTES; at += sizeof(data)) {
		fill_pattern(data, (off_t)at, sizeof(data));
		ck_assert_int_eq(pwrite(files[1], data, sizeof(data), (off_t)at), sizeof(data));
	}
	for (int i = 0; i < 2; i++) {
		read_row(files[i], false);
		read_row(files[i], true);
		write_row(files[i], 0);
		write_row(files[i], (long long)FILE_BYTES);
		append_row(files[i]);
		append_to_limit(files[i]);
		close(files[i]);
	}
}

/* ---- while it lasts -------------------------------------------------------------------------- */

/* A buffer whose pages a server keeps back, as long as the file system holds its reads. */
static char *held_buffer(struct holdfs *fs, unsigned medium, size_t bytes)
{
	int file = holdfs_open(fs, medium, O_RDONLY);
	char *buffer = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);

	ck_assert_ptr_ne(buffer, MAP_FAILED);
	close(file);
	holdfs_hold(fs, HOLDFS_READ);
	return buffer;
}

/* An io_submit that stands in the copy of a write. */
static void begin_long_write(struct submitter *submitter, io_context_t ctx, struct holdfs *fs,
			     int file, struct iocb *iocb)
{
	unsigned arrived = holdfs_log_length(fs);

	io_prep_pwrite(iocb, file, held_buffer(fs, 0, LONG_BYTES), LONG_BYTES, 0);
	submitter_start(submitter, ctx, iocb, NULL);
	holdfs_wait_arrived(fs, HOLDFS_READ, arrived);
}

static void end_long_write(struct submitter *submitter, struct holdfs *fs)
{
	holdfs_release_all(fs);
	ck_assert_int_eq(submitter_join(submitter), 1);
}

static void long_write_is_in_flight(struct holdfs *fs, int file)
{
	io_context_t ctx = new_context(4);
	struct submitter submitter;
	io_context_t other = new_context(4);
	struct iocb write_iocb, sync_iocb;

	begin_long_write(&submitter, ctx, fs, file, &write_iocb);
	ck_assert_int_eq(io_cancel(ctx, &write_iocb, &(struct io_event){ 0 }), -EAGAIN);
	io_prep_fdsync(&sync_iocb, file);
	expect_submitted(other, &sync_iocb, HERE);
	for (int i = 0; i < 20; i++)
		contract_pause();
	expect_no_event(other, "an fsync while a write is being copied");
	end_long_write(&submitter, fs);
	expect_event(other, &sync_iocb, 0, HERE);
	expect_event(ctx, &write_iocb, LONG_BYTES, HERE);
	free_context(ctx);
	free_context(other);
	munmap(write_iocb.u.c.buf, LONG_BYTES);
}

static void destroy_waits_for_long_write(struct holdfs *fs, int file)
{
	io_context_t ctx = new_context(4);
	struct submitter submitter;
	struct destroyer destroyer;
	struct iocb iocb;

	begin_long_write(&submitter, ctx, fs, file, &iocb);
	destroyer_start(&destroyer, ctx);
	worker_wait_blocked(&destroyer.worker);
	ck_assert(!worker_has_ended(&destroyer.worker));
	holdfs_release_all(fs);
	submitter_join(&submitter);
	worker_join(&destroyer.worker);
	ck_assert_int_eq(destroyer.result, 0);
	munmap(iocb.u.c.buf, LONG_BYTES);
}

static void last_long(int file, void (*check)(struct holdfs *fs, int file))
{
	struct holdfs *fs;

	SKIP_ON_REFERENCE("no fsync waits for another thread's io_submit");
	fs = holdfs_mount(1, LONG_BYTES);
	if (!fs)
		SKIP("no FUSE here");
	check(fs, file);
	close(file);
	holdfs_unmount(fs);
}

CASE(a_long_write_is_in_flight_until_it_is_copied)
{
	last_long(scratch_file(FILE_BYTES), long_write_is_in_flight);
}

CASE(a_long_write_to_memory_is_in_flight_until_it_is_copied)
{
	last_long(memory_file(FILE_BYTES), long_write_is_in_flight);
}

CASE(io_destroy_waits_until_a_long_write_is_copied)
{
	last_long(scratch_file(FILE_BYTES), destroy_waits_for_long_write);
}

/*
 * One that takes so long that io_destroy does not wait for it any more.  When it is over its thread
 * must leave alone what is another context's by then.
 */
static void destroyed_in_the_middle(struct holdfs *fs, int file)
{
	io_context_t ctx = new_context(8), next;
	char *held = held_buffer(fs, 0, PAGE), found[4];
	unsigned arrived = holdfs_log_length(fs);
	struct iocb stuck[2], iocbs[2];
	struct submitter submitter;
	int other = memory_file(FILE_BYTES);

	ck_assert_int_eq(pwrite(file, "....", 4, 2 * PAGE), 4);
	io_prep_pwrite(&stuck[0], file, held, PAGE, 0);
	io_prep_pwrite(&stuck[1], file, "bad", 3, 2 * PAGE);
	submitter_start(&submitter, ctx, &stuck[0], &stuck[1]);
	holdfs_wait_arrived(fs, HOLDFS_READ, arrived);
	ck_assert_int_eq(io_destroy(ctx), 0);
	next = new_context(8);
	/* The file itself is locked by the write. */
	io_prep_pwrite(&iocbs[0], other, "first", 5, 0);
	io_prep_pwrite(&iocbs[1], other, "second", 6, PAGE);
	expect_all_submitted(next, iocbs, 2, HERE);
	holdfs_release_all(fs);
	ck_assert_int_eq(submitter_join(&submitter), -EINVAL);
	expect_event(next, &iocbs[0], 5, HERE);
	expect_event(next, &iocbs[1], 6, HERE);
	ck_assert_int_eq(pread(file, found, 4, 2 * PAGE), 4);
	ck_assert(memcmp(found, "....", 4) == 0);
	free_context(next);
	close(other);
	munmap(held, PAGE);
}

CASE(who_comes_back_to_a_destroyed_context_touches_no_other)
{
	int memory = memory_file(FILE_BYTES);
	char byte;

	NEEDS_FLAGS();
	if (UNDER_THREAD_SANITIZER)
		SKIP("what a thread that is given up did before is ordered by time alone");
	/* What the file is, is known from a request just before. */
	for (int i = 0; i < 3; i++) {
		io_context_t ctx = new_context(1);
		struct iocb iocb;

		io_prep_pread(&iocb, memory, &byte, 1, 0);
		expect_result(ctx, &iocb, 1, HERE);
		free_context(ctx);
	}
	last_long(memory, destroyed_in_the_middle);
}

/* ---- writes that return when the disk has them ----------------------------------------------- */

static void durable_write_holds_nobody(struct holdfs *fs, unsigned medium, int file, int flags)
{
	io_context_t ctx = new_context(8);
	char *buffer = held_buffer(fs, medium, PAGE), found[8] = "";
	struct iovec vector = { buffer, PAGE };
	unsigned arrived = holdfs_log_length(fs);
	char found_now[8] = "";
	struct iovec found_vector = { found_now, 4 };
	struct iocb iocbs[4];
	long result;

	io_prep_pwritev2(&iocbs[0], file, &vector, 1, 0, flags);
	expect_submitted(ctx, &iocbs[0], HERE);
	holdfs_wait_arrived(fs, HOLDFS_READ, arrived);
	/* These come to the same place, and find it in their turn. */
	io_prep_pread(&iocbs[1], file, found, 4, 0);
	io_prep_preadv2(&iocbs[2], file, &found_vector, 1, 0, RWF_NOWAIT);
	io_prep_pwrite(&iocbs[3], file, "after", 5, 0);
	for (int i = 1; i < 4; i++)
		expect_submitted(ctx, &iocbs[i], HERE);
	expect_no_event(ctx, "behind a write that is held");
	holdfs_release_all(fs);
	expect_event(ctx, &iocbs[0], PAGE, HERE);
	expect_event(ctx, &iocbs[1], 4, HERE);
	/* What must not wait may say so. */
	result = (long)take_event(ctx, HERE).res;
	ck_assert(result == -EAGAIN || (result == 4 && memcmp(found_now, "held", 4) == 0));
	expect_event(ctx, &iocbs[3], 5, HERE);
	ck_assert_msg(memcmp(found, "held", 4) == 0, "found '%s'", found);
	ck_assert_int_eq(pread(file, found, 5, 0), 5);
	ck_assert_str_eq(found, "after");
	free_context(ctx);
	munmap(buffer, PAGE);
}

CASE(a_write_that_must_reach_the_disk_does_not_hold_its_caller)
{
	int file = scratch_file(FILE_BYTES), durable = reopen_file(file, O_RDWR | O_DSYNC);
	struct holdfs *fs;

	NEEDS_FLAGS();
	SKIP_ON_REFERENCE("libaio makes it in the caller");
	fs = holdfs_mount(2, PAGE);
	if (!fs)
		SKIP("no FUSE here");
	memcpy(holdfs_medium(fs, 0), "held", 4);
	memcpy(holdfs_medium(fs, 1), "held", 4);
	durable_write_holds_nobody(fs, 0, file, RWF_DSYNC);
	durable_write_holds_nobody(fs, 1, durable, 0);
	close(file);
	close(durable);
	holdfs_unmount(fs);
}

/* Has a worker of the library this I/O priority? */
static bool a_worker_has(int priority)
{
	const int which_process = 1;
	DIR *tasks = opendir("/proc/self/task");
	struct dirent *entry;
	bool has = false;

	ck_assert_ptr_nonnull(tasks);
	while ((entry = readdir(tasks)) != NULL) {
		char path[300], name[32] = "";
		FILE *stream;

		snprintf(path, sizeof(path), "/proc/self/task/%s/comm", entry->d_name);
		stream = fopen(path, "re");
		if (!stream)
			continue;
		if (fgets(name, sizeof(name), stream) && strcmp(name, "trueaio-worker\n") == 0 &&
		    syscall(SYS_ioprio_get, which_process, atoi(entry->d_name)) == priority)
			has = true;
		fclose(stream);
	}
	closedir(tasks);
	return has;
}

CASE(what_the_workers_do_has_the_priority_of_the_submitter)
{
	const int which_process = 1, best_effort = 2 << 13, last = best_effort | 7;
	io_context_t ctx = new_context(8);
	int file = scratch_file(FILE_BYTES);
	struct holdfs *fs;
	struct iovec vector;
	struct iocb iocb;
	unsigned arrived;

	NEEDS_FLAGS();
	SKIP_ON_REFERENCE("there are no workers");
	fs = holdfs_mount(1, PAGE);
	if (!fs)
		SKIP("no FUSE here");
	if (syscall(SYS_ioprio_set, which_process, 0, last) < 0)
		SKIP("no priority can be set here");
	arrived = holdfs_log_length(fs);
	vector = (struct iovec){ held_buffer(fs, 0, PAGE), PAGE };
	io_prep_pwritev2(&iocb, file, &vector, 1, 0, RWF_DSYNC);
	expect_submitted(ctx, &iocb, HERE);
	holdfs_wait_arrived(fs, HOLDFS_READ, arrived);
	ck_assert(a_worker_has(last));
	holdfs_release_all(fs);
	expect_event(ctx, &iocb, PAGE, HERE);
	/* It is no longer needed, and the worker gives it back. */
	WAIT_UNTIL(!a_worker_has(last));
	syscall(SYS_ioprio_set, which_process, 0, 0);
	munmap(vector.iov_base, PAGE);
	free_context(ctx);
	close(file);
	holdfs_unmount(fs);
}

/* ---- numbers --------------------------------------------------------------------------------- */

enum kind { KIND_DISK, KIND_MEMORY, KIND_PROC, KIND_FULL, KIND_NULL, KIND_PIPE, KINDS };

static const char *const kind_names[] = { "disk", "memory", "/proc", "/dev/full", "null", "pipe" };

/* A write of one byte: what io_submit says, or what the event says. */
static long write_a_byte(io_context_t ctx, int number)
{
	struct iocb iocb;
	int result;

	io_prep_pwrite(&iocb, number, "0", 1, 0);
	result = submit_one(ctx, &iocb);
	return result == 1 ? (long)take_event(ctx, HERE).res + 1000 : result;
}

static long read_a_byte(io_context_t ctx, int number)
{
	char byte;
	struct iocb iocb;
	int result;

	io_prep_pread(&iocb, number, &byte, 1, 0);
	result = submit_one(ctx, &iocb);
	return result == 1 ? (long)take_event(ctx, HERE).res + 1000 : result;
}

static void try_all_changes(void)
{
	io_context_t ctx = new_context(4);
	int ends[2], files[KINDS];
	long wrote[KINDS], read[KINDS];

	make_pipe(ends, 0);
	files[KIND_DISK] = scratch_file(PAGE);
	files[KIND_MEMORY] = memory_file(PAGE);
	files[KIND_PROC] = open_device("/proc/self/oom_score_adj", O_RDWR);
	files[KIND_FULL] = open_device("/dev/full", O_RDWR);
	files[KIND_NULL] = open_device("/dev/null", O_RDWR);
	files[KIND_PIPE] = ends[1];
	for (int i = 0; i < KINDS; i++) {
		wrote[i] = write_a_byte(ctx, files[i]);
		read[i] = read_a_byte(ctx, files[i]);
	}
	for (int i = 0; i < 2 * KINDS * KINDS; i++) {
		int before = i / 2 % KINDS, now = i / 2 / KINDS;
		/* One that nothing is known of. */
		int number = fcntl(files[before], F_DUPFD_CLOEXEC, 200 + i);

		(void)write_a_byte(ctx, number);
		if (i % 2)
			(void)read_a_byte(ctx, number);
		ck_assert_int_eq(dup2(files[now], number), number);
		ck_assert_msg(write_a_byte(ctx, number) == wrote[now],
			      "a write of %s, which was %s", kind_names[now], kind_names[before]);
		ck_assert_msg(read_a_byte(ctx, number) == read[now], "a read of %s, which was %s",
			      kind_names[now], kind_names[before]);
		close(number);
	}
	for (int i = 0; i < KINDS; i++)
		close(files[i]);
	close(ends[0]);
	free_context(ctx);
}

CASE(a_number_is_taken_for_what_it_is_now)
{
	try_all_changes();
}

/* Kernels before 6.18 have no RWF_NOSIGNAL. */
static bool refuse_nosignal(void)
{
	enum { IS_BIG_ENDIAN = __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ };
	const unsigned flags = offsetof(struct seccomp_data, args[5]) + 4 * IS_BIG_ENDIAN;
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_pwritev2, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, flags),
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, RWF_NOSIGNAL, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EOPNOTSUPP),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};

	return install_filter(filter, sizeof(filter) / sizeof(filter[0]), 0);
}

CASE(a_number_is_taken_for_what_it_is_now_by_an_older_kernel)
{
	char byte = 0;
	struct iovec vector = { &byte, 1 };
	int file;

	if (!refuse_nosignal())
		SKIP("no seccomp filter here");
	file = scratch_file(PAGE);
	ck_assert_int_eq(pwritev2(file, &vector, 1, 0, RWF_NOSIGNAL), -1);
	ck_assert_int_eq(errno, EOPNOTSUPP);
	close(file);
	try_all_changes();
}
