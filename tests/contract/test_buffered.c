/* SPDX-License-Identifier: MIT */
/*
 * Reads through the page cache, wherever the data is: all there, not there, there in part, cut off
 * by the end of the file.  The caller sees one and the same: the bytes of the file, the count that
 * read(2) would have returned, one event, one count of the eventfd.
 *
 * Each case runs on several file systems, because they differ in whether and how they can say that
 * a read would have to wait.  That io_submit does not wait where they cannot is shown with a file
 * system that keeps its data back until the test releases it (holdfs.h).
 */
#include "contract.h"
#include "holdfs.h"

#include <linux/magic.h>

#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif

#define FILE_BYTES ((size_t)1 << 20)
#define PAGE 4096

/*
 * A file system and a way to make files in it: one mounted for the case, or "tmpdir", TMPDIR's own.
 */
struct place {
	const char *type;
	char *directory;
	struct holdfs *fs;
	unsigned files_used;
};

#define PLACE_FILES 8

static bool open_place(struct place *place, const char *type)
{
	*place = (struct place){ .type = type };
	if (strcmp(type, "fuse") == 0) {
		place->fs = holdfs_mount(PLACE_FILES, FILE_BYTES);
		return place->fs != NULL;
	}
	place->directory = strcmp(type, "tmpdir") == 0
				   ? strdup(scratch_directory())
				   : loop_mount(type, strcmp(type, "xfs") == 0 ? "320" : "32");
	return place->directory != NULL;
}

static void close_place(struct place *place)
{
	if (place->fs)
		holdfs_unmount(place->fs);
	else if (strcmp(place->type, "tmpdir") == 0)
		free(place->directory);
	else
		loop_unmount(place->directory);
}

/* Whether direct transfers have to be aligned there. */
static bool place_wants_alignment(int fd)
{
	struct statfs status;

	ck_assert_int_eq(fstatfs(fd, &status), 0);
	return status.f_type == EXT4_SUPER_MAGIC || status.f_type == XFS_SUPER_MAGIC;
}

/* A file with its pattern, none of it in the cache. */
static int place_file(struct place *place)
{
	int fd;

	if (place->fs) {
		ck_assert_uint_lt(place->files_used, PLACE_FILES);
		fill_pattern(holdfs_medium(place->fs, place->files_used), 0, FILE_BYTES);
		return holdfs_open(place->fs, place->files_used++, O_RDWR);
	}
	fd = scratch_file_in(place->directory, FILE_BYTES);
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	return fd;
}

static void run_in_place(const char *type, void (*test)(struct place *place))
{
	struct place place;

	if (!open_place(&place, type)) {
		char reason[64];

		snprintf(reason, sizeof(reason), "%s cannot be mounted here", type);
		SKIP(reason);
	}
	test(&place);
	close_place(&place);
}

#define CASE_ON_MOUNTS(name)                                                                       \
	static void name(struct place *place);                                                     \
	CASE(name##_on_ext4)                                                                       \
	{                                                                                          \
		run_in_place("ext4", name);                                                        \
	}                                                                                          \
	CASE(name##_on_xfs)                                                                        \
	{                                                                                          \
		run_in_place("xfs", name);                                                         \
	}                                                                                          \
	CASE(name##_on_tmpfs)                                                                      \
	{                                                                                          \
		run_in_place("tmpfs", name);                                                       \
	}                                                                                          \
	CASE(name##_on_fuse)                                                                       \
	{                                                                                          \
		run_in_place("fuse", name);                                                        \
	}                                                                                          \
	static void name(struct place *place)

/* Also where nothing can be mounted. */
#define CASE_EVERYWHERE(name)                                                                      \
	static void name(struct place *place);                                                     \
	CASE(name##_in_tmpdir)                                                                     \
	{                                                                                          \
		run_in_place("tmpdir", name);                                                      \
	}                                                                                          \
	CASE_ON_MOUNTS(name)

/* What is in the cache when a read comes. */
enum cached {
	CACHED_NOTHING,
	CACHED_ALL,
	CACHED_FRONT, /* the first two pages of it */
	CACHED_BACK, /* all but the first page */
	CACHED_MIDDLE, /* one page, with holes before and behind */
	CACHED_STATES,
};

static void cache_pages(int fd, off_t first_page, off_t count)
{
	char page[PAGE];

	for (off_t i = first_page; i < first_page + count; i++)
		ck_assert_int_ge(pread(fd, page, PAGE, i * PAGE), 0);
}

static void prepare_cache(int fd, enum cached cached, off_t offset, size_t bytes)
{
	off_t first = offset / PAGE, last = (offset + (off_t)bytes - 1) / PAGE;

	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	/* No more than asked for is to come into the cache. */
	posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
	switch (cached) {
	case CACHED_NOTHING:
	case CACHED_STATES:
		break;
	case CACHED_ALL:
		cache_pages(fd, first, last - first + 1);
		break;
	case CACHED_FRONT:
		cache_pages(fd, first, 2);
		break;
	case CACHED_BACK:
		cache_pages(fd, first + 1, last - first);
		break;
	case CACHED_MIDDLE:
		cache_pages(fd, (first + last) / 2, 1);
		break;
	}
}

CASE_EVERYWHERE(reads_are_whole_whatever_is_cached)
{
	static const struct {
		off_t offset;
		size_t bytes;
	} rows[] = {
		{ 0, 1 },
		{ 0, PAGE },
		{ 0, 16 * PAGE },
		{ 5, 3 * PAGE },
		{ PAGE - 1, 2 },
		{ 7 * PAGE + 100, 8 * PAGE + 77 },
		{ 100 * PAGE, 40 * PAGE },
		{ (off_t)FILE_BYTES - 3 * PAGE, 3 * PAGE },
		{ 0, FILE_BYTES },
	};
	io_context_t ctx = new_context(8);
	char *buffer = malloc(FILE_BYTES + 1), what[64];
	int fd = place_file(place), counter = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct iocb iocb;

	ck_assert_ptr_nonnull(buffer);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		for (int cached = 0; cached < CACHED_STATES; cached++) {
			snprintf(what, sizeof(what), "row %zu, cache %d", i, cached);
			prepare_cache(fd, (enum cached)cached, rows[i].offset, rows[i].bytes);
			memset(buffer, 0, FILE_BYTES + 1);
			io_prep_pread(&iocb, fd, buffer, rows[i].bytes, rows[i].offset);
			io_set_eventfd(&iocb, counter);
			expect_result(ctx, &iocb, (long)rows[i].bytes, what);
			expect_pattern(buffer, rows[i].offset, rows[i].bytes, what);
			ck_assert_msg(buffer[rows[i].bytes] == 0, "%s: more than asked for", what);
			expect_count(counter, 1, HERE);
		}
	}
	free_context_without_events(ctx, HERE);
	ck_assert_uint_eq(take_count(counter), 0);
	free(buffer);
	close(fd);
	close(counter);
}

CASE_EVERYWHERE(reads_across_the_end_are_exact)
{
	static const struct {
		off_t size, offset;
		size_t bytes;
		long result;
	} rows[] = {
		{ 10 * PAGE + 123, 0, 20 * PAGE, 10 * PAGE + 123 },
		{ 10 * PAGE + 123, 9 * PAGE + 7, 4 * PAGE, PAGE + 116 },
		{ 10 * PAGE + 123, 10 * PAGE, PAGE, 123 },
		{ 10 * PAGE + 123, 10 * PAGE + 122, 100, 1 },
		{ 10 * PAGE + 123, 10 * PAGE + 123, 100, 0 },
		{ 10 * PAGE, 8 * PAGE, 4 * PAGE, 2 * PAGE },
		{ 10 * PAGE, 10 * PAGE, PAGE, 0 },
		{ 10 * PAGE, 11 * PAGE, PAGE, 0 },
		{ 1, 0, 3 * PAGE, 1 },
		{ 0, 0, 3 * PAGE, 0 },
	};
	io_context_t ctx = new_context(8);
	static char buffer[32 * PAGE];
	char what[64];
	struct iocb iocb;
	int fd;

	if (place->fs) {
		/* Its files have one size. */
		const off_t size = (off_t)FILE_BYTES;

		fd = place_file(place);
		for (int cached = 0; cached < CACHED_STATES; cached++) {
			prepare_cache(fd, (enum cached)cached, size - 4 * PAGE, 4 * PAGE);
			io_prep_pread(&iocb, fd, buffer, 8 * PAGE, size - 4 * PAGE + 5);
			expect_result(ctx, &iocb, 4 * PAGE - 5, "across the end");
			expect_pattern(buffer, size - 4 * PAGE + 5, 4 * PAGE - 5, "across the end");
			io_prep_pread(&iocb, fd, buffer, PAGE, size);
			expect_result(ctx, &iocb, 0, "at the end");
		}
		close(fd);
		free_context(ctx);
		return;
	}
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		fd = scratch_file_in(place->directory, (size_t)rows[i].size);
		for (int cached = 0; cached < CACHED_STATES; cached++) {
			snprintf(what, sizeof(what), "row %zu, cache %d", i, cached);
			prepare_cache(fd, (enum cached)cached, rows[i].offset, rows[i].bytes);
			io_prep_pread(&iocb, fd, buffer, rows[i].bytes, rows[i].offset);
			expect_result(ctx, &iocb, rows[i].result, what);
			expect_pattern(buffer, rows[i].offset, (size_t)rows[i].result, what);
		}
		close(fd);
	}
	free_context_without_events(ctx, HERE);
}

CASE_EVERYWHERE(vectored_reads_are_whole_whatever_is_cached)
{
	/* Bounds of vectors lie on bounds of pages, beside them, and where the cached part ends. */
	static const size_t lengths[][4] = {
		{ PAGE, PAGE, PAGE, 5 * PAGE },	    { 1, 2 * PAGE - 1, PAGE, 5 * PAGE },
		{ 2 * PAGE - 1, 2, 3 * PAGE, 77 },  { 0, 8 * PAGE, 0, 1 },
		{ 3 * PAGE + 50, 10, 0, 2 * PAGE },
	};
	io_context_t ctx = new_context(8);
	int fd = place_file(place), counter = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	static char buffers[4][8 * PAGE];
	char what[64];

	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		for (int cached = 0; cached < CACHED_STATES; cached++) {
			struct iovec vectors[4];
			struct iocb iocb;
			size_t total = 0;
			off_t offset = 20 * PAGE + (off_t)i;

			for (int j = 0; j < 4; j++) {
				vectors[j] = (struct iovec){ buffers[j], lengths[i][j] };
				total += lengths[i][j];
			}
			snprintf(what, sizeof(what), "row %zu, cache %d", i, cached);
			prepare_cache(fd, (enum cached)cached, offset, total);
			memset(buffers, 0, sizeof(buffers));
			io_prep_preadv(&iocb, fd, vectors, 4, offset);
			io_set_eventfd(&iocb, counter);
			iocb.data = what;
			expect_submitted(ctx, &iocb, what);
			memset(vectors, 0xff, sizeof(vectors));
			expect_event(ctx, &iocb, (long)total, what);
			for (int j = 0; j < 4; j++) {
				expect_pattern(buffers[j], offset, lengths[i][j], what);
				offset += (off_t)lengths[i][j];
			}
			expect_count(counter, 1, HERE);
		}
	}
	free_context_without_events(ctx, HERE);
	ck_assert_uint_eq(take_count(counter), 0);
	close(fd);
	close(counter);
}

/* Hits and misses of many requests at a time, each accounted for once. */
CASE_EVERYWHERE(many_reads_at_a_time_each_end_once)
{
	enum { COUNT = 128, ROUNDS = 12, BYTES = 2 * PAGE };
	io_context_t ctx = new_context(COUNT);
	int fd = place_file(place), counter = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	char *buffers = malloc((size_t)COUNT * BYTES);
	struct iocb iocbs[COUNT];
	struct io_event events[COUNT];
	unsigned random = 12345;

	ck_assert_ptr_nonnull(buffers);
	for (int round = 0; round < ROUNDS; round++) {
		bool seen[COUNT] = { false };

		posix_fadvise(fd, 0, 0, round % 2 ? POSIX_FADV_RANDOM : POSIX_FADV_NORMAL);
		if (round % 4 < 3)
			posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
		for (int i = 0; i < COUNT; i++) {
			random = random * 1103515245 + 12345;
			io_prep_pread(&iocbs[i], fd, buffers + i * BYTES, BYTES,
				      (random >> 8) % (FILE_BYTES - BYTES));
			io_set_eventfd(&iocbs[i], counter);
		}
		for (int i = 0; i < COUNT; i += 16)
			expect_all_submitted(ctx, iocbs + i, 16, HERE);
		for (int taken = 0; taken < COUNT;) {
			int got = io_getevents(ctx, 1, COUNT, events, NULL);

			ck_assert_int_gt(got, 0);
			for (int i = 0; i < got; i++) {
				long which = events[i].obj - iocbs;

				ck_assert_int_eq((long)events[i].res, BYTES);
				ck_assert(which >= 0 && which < COUNT && !seen[which]);
				seen[which] = true;
				expect_pattern(buffers + which * BYTES, iocbs[which].u.c.offset,
					       BYTES, HERE);
			}
			taken += got;
		}
		expect_count(counter, COUNT, HERE);
		expect_no_event(ctx, HERE);
	}
	free_context(ctx);
	free(buffers);
	close(fd);
	close(counter);
}

static void set_direct(int fd, bool direct)
{
	int flags = fcntl(fd, F_GETFL);

	ck_assert_int_eq(fcntl(fd, F_SETFL, direct ? flags | O_DIRECT : flags & ~O_DIRECT), 0);
}

/* tmpfs cannot before Linux 6.6. */
static bool can_be_direct(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return fcntl(fd, F_SETFL, flags | O_DIRECT) == 0 && fcntl(fd, F_SETFL, flags) == 0;
}

/* Whether it is direct is a property of the descriptor at the moment of the call. */
CASE_EVERYWHERE(o_direct_may_be_switched_between_requests)
{
	io_context_t ctx = new_context(8);
	int fd = place_file(place);
	char *buffer = aligned_buffer(4 * PAGE);
	bool aligned = place_wants_alignment(fd);
	struct iocb iocb;

	if (!can_be_direct(fd)) {
		free(buffer);
		free_context(ctx);
		close(fd);
		SKIP("there is no O_DIRECT on this file system here");
	}
	for (int round = 0; round < 20; round++) {
		off_t offset = round * 5 * PAGE;

		set_direct(fd, false);
		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
		io_prep_pread(&iocb, fd, buffer + 1, 1000, offset + 3);
		expect_result(ctx, &iocb, 1000, "buffered");
		expect_pattern(buffer + 1, offset + 3, 1000, "buffered");

		set_direct(fd, true);
		io_prep_pread(&iocb, fd, buffer, PAGE, offset);
		expect_result(ctx, &iocb, PAGE, "direct");
		expect_pattern(buffer, offset, PAGE, "direct");
		io_prep_pread(&iocb, fd, buffer + 1, 1000, offset + 3);
		expect_result(ctx, &iocb, aligned ? -EINVAL : 1000, "direct, misaligned");
		fill_pattern(buffer, offset, PAGE);
		io_prep_pwrite(&iocb, fd, buffer, PAGE, offset);
		expect_result(ctx, &iocb, PAGE, "direct write");

		set_direct(fd, false);
		io_prep_pread(&iocb, fd, buffer + 1, 1000, offset + 3);
		expect_result(ctx, &iocb, 1000, "buffered again");
		expect_pattern(buffer + 1, offset + 3, 1000, "buffered again");
		fill_pattern(buffer, offset + 7, 100);
		io_prep_pwrite(&iocb, fd, buffer, 100, offset + 7);
		expect_result(ctx, &iocb, 100, "buffered write");
	}
	free(buffer);
	free_context_without_events(ctx, HERE);
	close(fd);
}

/* The descriptor goes, and its number means another file, before the data has come. */
CASE_EVERYWHERE(a_read_is_of_the_file_that_the_call_named)
{
	io_context_t ctx = new_context(8);
	int null = open_device("/dev/null", O_RDONLY), fd, number;
	char buffer[4 * PAGE];
	struct iocb iocb;

	for (int round = 0; round < PLACE_FILES; round++) {
		fd = place_file(place);
		number = fd;
		io_prep_pread(&iocb, fd, buffer, sizeof(buffer), round * 4 * PAGE);
		expect_submitted(ctx, &iocb, HERE);
		ck_assert_int_eq(dup2(null, number), number);
		expect_event(ctx, &iocb, sizeof(buffer), HERE);
		expect_pattern(buffer, round * 4 * PAGE, sizeof(buffer), HERE);
		io_prep_pread(&iocb, number, buffer, 16, 0);
		expect_result(ctx, &iocb, 0, "the new file");
		close(number);
	}
	free_context_without_events(ctx, HERE);
	close(null);
}

/* The one that has the event may unmount: the library no longer holds the file. */
CASE_ON_MOUNTS(a_file_system_can_be_unmounted_right_after_the_event)
{
	struct place other;
	io_context_t ctx = new_context(8);
	char buffer[8 * PAGE];
	struct iocb iocb;

	(void)place;
	for (int round = 0; round < 4; round++) {
		int fd;

		ck_assert(open_place(&other, place->type));
		fd = place_file(&other);
		io_prep_pread(&iocb, fd, buffer, sizeof(buffer), 0);
		expect_submitted(ctx, &iocb, HERE);
		close(fd);
		expect_event(ctx, &iocb, sizeof(buffer), HERE);
		if (other.fs)
			ck_assert_int_eq(umount2(other.fs->directory, 0), 0);
		close_place(&other);
	}
	free_context(ctx);
}

CASE_EVERYWHERE(record_locks_survive_reads)
{
	io_context_t ctx = new_context(64);
	int fd = place_file(place);
	static char buffers[32][PAGE];
	struct iocb iocbs[32];

	lock_file(fd);
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	for (int i = 0; i < 32; i++)
		io_prep_pread(&iocbs[i], fd, buffers[i], PAGE, i * 7 * PAGE);
	expect_all_submitted(ctx, iocbs, 32, HERE);
	for (int i = 0; i < 32; i++)
		ck_assert_int_eq((long)take_event(ctx, HERE).res, PAGE);
	expect_locked(fd, "after the reads");
	free_context(ctx);
	expect_locked(fd, "after the context");
	unlock_file(fd);
	close(fd);
}

/*
 * What a number meant the last time says nothing about the next: it goes through all kinds of
 * files, and each request is right nevertheless.
 */
CASE(a_number_may_mean_another_kind_of_file_each_time)
{
	enum { KINDS = 6 };
	io_context_t ctx = new_context(8);
	int file = scratch_file(FILE_BYTES), memory = memfd_create("memory", MFD_CLOEXEC), ends[2],
	    number;
	struct holdfs *fs = holdfs_mount(1, FILE_BYTES);
	char *buffer = aligned_buffer(PAGE), *content = malloc(PAGE);
	int kinds[KINDS] = { file,   reopen_file(file, O_RDONLY | O_DIRECT),
			     memory, open_device("/dev/zero", O_RDONLY),
			     0,	     0 };
	struct iocb iocb;

	if (!fs)
		SKIP("no FUSE here");
	ck_assert_ptr_nonnull(content);
	fill_pattern(content, 0, PAGE);
	fill_pattern(holdfs_medium(fs, 0), 0, PAGE);
	ck_assert_int_eq(write(memory, content, PAGE), PAGE);
	make_pipe(ends, 0);
	kinds[4] = ends[0];
	kinds[5] = holdfs_open(fs, 0, O_RDONLY);
	number = dup(file);
	for (int round = 0; round < 40 * KINDS; round++) {
		/* Every pair of neighbours comes in time. */
		int kind = (round * (1 + round / KINDS % (KINDS - 1))) % KINDS;

		ck_assert_int_eq(dup2(kinds[kind], number), number);
		posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
		posix_fadvise(kinds[5], 0, 0, POSIX_FADV_DONTNEED);
		if (kind == 4)
			ck_assert_int_eq(write(ends[1], content, PAGE), PAGE);
		memset(buffer, 0, PAGE);
		io_prep_pread(&iocb, number, buffer, PAGE, 0);
		expect_submitted(ctx, &iocb, HERE);
		expect_event(ctx, &iocb, PAGE, HERE);
		if (kind == 3)
			ck_assert_int_eq(buffer[0], 0);
		else
			expect_pattern(buffer, 0, PAGE, HERE);
	}
	free_context_without_events(ctx, HERE);
	for (int i = 0; i < KINDS; i++)
		close(kinds[i]);
	close(ends[1]);
	close(number);
	free(buffer);
	free(content);
	holdfs_unmount(fs);
}

CASE(submit_does_not_wait_for_a_disk_that_cannot_say_so)
{
	enum { COUNT = 8 };
	struct holdfs *fs;
	struct iocb iocbs[COUNT], other;
	static char buffers[COUNT][PAGE], bytes[PAGE];
	io_context_t ctx;
	int fd, file, ends[2];

	SKIP_ON_REFERENCE("the reads would hold io_submit itself");
	fs = holdfs_mount(1, FILE_BYTES);
	if (!fs)
		SKIP("no FUSE here");
	ctx = new_context(64);
	file = scratch_file(FILE_BYTES);
	make_pipe(ends, 0);
	fill_pattern(holdfs_medium(fs, 0), 0, FILE_BYTES);
	fd = holdfs_open(fs, 0, O_RDONLY);
	holdfs_hold(fs, HOLDFS_READ);
	for (int i = 0; i < COUNT; i++)
		io_prep_pread(&iocbs[i], fd, buffers[i], PAGE, i * PAGE);
	expect_all_submitted(ctx, iocbs, COUNT, HERE);
	for (unsigned i = 0; i < COUNT; i++)
		holdfs_wait_arrived(fs, HOLDFS_READ, i);
	/* Everything else goes on. */
	expect_works(ctx, "a device");
	io_prep_pread(&other, file, bytes, PAGE, 0);
	expect_result(ctx, &other, PAGE, "another file, cached");
	posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
	io_prep_pread(&other, file, bytes, PAGE, PAGE);
	expect_result(ctx, &other, PAGE, "another file, not cached");
	expect_pattern(bytes, PAGE, PAGE, HERE);
	ck_assert_int_eq(write(ends[1], "x", 1), 1);
	io_prep_pread(&other, ends[0], bytes, 1, 0);
	expect_result(ctx, &other, 1, "a pipe");
	/* One by one, the last one first. */
	for (int i = COUNT - 1; i >= 0; i--) {
		unsigned index = 0;

		while (holdfs_operation(fs, index).offset != i * PAGE)
			index++;
		holdfs_release(fs, index, 0);
		expect_event(ctx, &iocbs[i], PAGE, HERE);
		expect_pattern(buffers[i], i * PAGE, PAGE, HERE);
	}
	free_context_without_events(ctx, HERE);
	close(fd);
	close(file);
	close_pair(ends);
	holdfs_unmount(fs);
}

CASE(a_buffered_read_outlives_the_thread_and_the_descriptor)
{
	struct holdfs *fs;
	struct iocb iocb;
	static char buffer[2 * PAGE];
	io_context_t ctx;
	int fd;

	SKIP_ON_REFERENCE("the read would hold io_submit itself");
	fs = holdfs_mount(1, FILE_BYTES);
	if (!fs)
		SKIP("no FUSE here");
	ctx = new_context(8);
	fill_pattern(holdfs_medium(fs, 0), 0, FILE_BYTES);
	fd = holdfs_open(fs, 0, O_RDONLY);
	holdfs_hold(fs, HOLDFS_READ);
	io_prep_pread(&iocb, fd, buffer, sizeof(buffer), PAGE);
	expect_submitted(ctx, &iocb, HERE);
	close(fd);
	holdfs_wait_arrived(fs, HOLDFS_READ, 0);
	expect_no_event(ctx, HERE);
	holdfs_release_all(fs);
	expect_event(ctx, &iocb, sizeof(buffer), HERE);
	expect_pattern(buffer, PAGE, sizeof(buffer), HERE);
	free_context(ctx);
	holdfs_unmount(fs);
}

/*
 * Lets every read that comes fail, from a thread: with the reference, io_submit itself waits for
 * it.
 */
struct failing_disk {
	struct worker worker;
	struct holdfs *fs;
	_Atomic bool stop;
};

static void fail_reads(void *argument)
{
	struct failing_disk *disk = argument;

	while (!atomic_load(&disk->stop)) {
		for (unsigned index = 0; index < holdfs_log_length(disk->fs); index++)
			if (!holdfs_operation(disk->fs, index).answered)
				holdfs_release(disk->fs, index, EIO);
		contract_pause();
	}
}

/* As read(2) has it: the bytes before the error first, the error when there are none. */
CASE(a_read_error_behind_good_pages_makes_the_read_short)
{
	struct failing_disk disk = { .fs = holdfs_mount(1, FILE_BYTES) };
	static char buffer[8 * PAGE];
	struct iocb iocb;
	io_context_t ctx;
	int fd;

	if (!disk.fs)
		SKIP("no FUSE here");
	ctx = new_context(8);
	fill_pattern(holdfs_medium(disk.fs, 0), 0, FILE_BYTES);
	fd = holdfs_open(disk.fs, 0, O_RDONLY);
	cache_pages(fd, 10, 3);
	holdfs_hold(disk.fs, HOLDFS_READ);
	worker_start(&disk.worker, fail_reads, &disk);
	io_prep_pread(&iocb, fd, buffer, sizeof(buffer), 10 * PAGE + 5);
	expect_result(ctx, &iocb, 3 * PAGE - 5, "behind three pages");
	expect_pattern(buffer, 10 * PAGE + 5, 3 * PAGE - 5, HERE);
	io_prep_pread(&iocb, fd, buffer, sizeof(buffer), 20 * PAGE);
	expect_result(ctx, &iocb, -EIO, "at once");
	io_prep_pread(&iocb, fd, buffer, 2 * PAGE, 11 * PAGE);
	expect_result(ctx, &iocb, 2 * PAGE, "not touched");
	atomic_store(&disk.stop, true);
	worker_join(&disk.worker);
	free_context_without_events(ctx, HERE);
	close(fd);
	holdfs_unmount(disk.fs);
}

CASE(reads_and_writes_through_the_cache_see_each_other)
{
	io_context_t ctx = new_context(8);
	int file = scratch_file(FILE_BYTES);
	static char written[3 * PAGE], found[3 * PAGE];
	struct iocb iocb;

	for (int round = 0; round < 50; round++) {
		off_t offset = round * 5000;

		if (round % 3 == 0)
			posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
		memset(written, 'a' + round % 26, sizeof(written));
		io_prep_pwrite(&iocb, file, written, sizeof(written), offset);
		expect_result(ctx, &iocb, sizeof(written), "write");
		io_prep_pread(&iocb, file, found, sizeof(found), offset);
		expect_result(ctx, &iocb, sizeof(found), "read");
		ck_assert_mem_eq(found, written, sizeof(found));
	}
	free_context(ctx);
	close(file);
}

/*
 * Requests on one place that are in flight together.  The kernel carries out buffered writes inside
 * io_submit, one after the other; programs that wait for none of them rely on what that leaves.
 */

enum { IN_FLIGHT = 4, WRITE_BYTES_MAX = 256 << 10 };

static char *written[IN_FLIGHT], *read_back;

static void take_buffers(void)
{
	for (int i = 0; i < IN_FLIGHT; i++)
		written[i] = aligned_buffer(WRITE_BYTES_MAX);
	read_back = aligned_buffer(WRITE_BYTES_MAX);
}

static void free_buffers(void)
{
	for (int i = 0; i < IN_FLIGHT; i++)
		free(written[i]);
	free(read_back);
}

/* 4 KiB to 256 KiB, another one each time. */
static size_t bytes_of(int round, int request)
{
	return (size_t)(1 + (round * 29 + request * 37) % 64) * PAGE;
}

static char mark_of(int round, int request)
{
	return (char)(1 + (round * IN_FLIGHT + request) % 250);
}

static void prepare_writes(struct iocb *iocbs, int file, int round, int count)
{
	for (int i = 0; i < count; i++) {
		size_t bytes = bytes_of(round, i);

		memset(written[i], mark_of(round, i), bytes);
		io_prep_pwrite(&iocbs[i], file, written[i], bytes, PAGE);
	}
}

static void submit_in_order(io_context_t ctx, struct iocb *iocbs, int count, bool in_one_batch)
{
	for (int i = 0, batch = in_one_batch ? count : 1; i < count; i += batch)
		expect_all_submitted(ctx, iocbs + i, batch, HERE);
}

/* Each request's event, in any order, with the whole count. */
static void take_whole(io_context_t ctx, const struct iocb *iocbs, int count, int round)
{
	bool seen[IN_FLIGHT + 1] = { false };

	for (int i = 0; i < count; i++) {
		struct io_event event = take_event(ctx, HERE);
		long which = event.obj - iocbs;

		ck_assert(which >= 0 && which < count && !seen[which]);
		ck_assert_msg(event.res == iocbs[which].u.c.nbytes, "round %d, request %ld: %ld",
			      round, which, (long)event.res);
		seen[which] = true;
	}
}

/* What the writes leave when they come one after the other. */
static void expect_left_by(const char *found, size_t bytes, int round, int count)
{
	size_t good = 0;

	for (; good < bytes; good++) {
		int last = count - 1;

		while (last > 0 && bytes_of(round, last) <= good)
			last--;
		if (found[good] != mark_of(round, last))
			break;
	}
	ck_assert_msg(good == bytes, "round %d: byte %zu of %zu is not the last write's", round,
		      good, bytes);
}

CASE(of_writes_to_one_place_the_last_one_stays)
{
	io_context_t ctx = new_context(8);
	int file = scratch_file(0);

	take_buffers();
	for (int round = 0; round < 100; round++) {
		struct iocb iocbs[IN_FLIGHT];
		int count = 2 + round % (IN_FLIGHT - 1);
		size_t first = bytes_of(round, 0);

		prepare_writes(iocbs, file, round, count);
		submit_in_order(ctx, iocbs, count, round % 2);
		take_whole(ctx, iocbs, count, round);
		ck_assert_int_eq(pread(file, read_back, first, PAGE), (ssize_t)first);
		expect_left_by(read_back, first, round, count);
	}
	free_context_without_events(ctx, HERE);
	free_buffers();
	close(file);
}

CASE(a_read_behind_a_write_finds_what_was_written)
{
	io_context_t ctx = new_context(8);
	int file = scratch_file(PAGE + WRITE_BYTES_MAX), reader = reopen_file(file, O_RDONLY);

	take_buffers();
	for (int round = 0; round < 100; round++) {
		struct iocb iocbs[IN_FLIGHT + 1];
		int count = 1 + round % IN_FLIGHT;
		size_t bytes = bytes_of(round, 0);

		prepare_writes(iocbs, file, round, count);
		io_prep_pread(&iocbs[count], round % 4 < 2 ? file : reader, read_back, bytes, PAGE);
		submit_in_order(ctx, iocbs, count + 1, round % 2);
		take_whole(ctx, iocbs, count + 1, round);
		expect_left_by(read_back, bytes, round, count);
	}
	free_context_without_events(ctx, HERE);
	free_buffers();
	close(file);
	close(reader);
}

CASE(appends_of_different_sizes_land_in_the_order_of_submission)
{
	enum { ROUNDS = 10, APPENDS = 64 };
	io_context_t ctx = new_context(APPENDS);
	struct iocb iocbs[APPENDS];

	take_buffers();
	for (int round = 0; round < ROUNDS; round++) {
		int file = scratch_file(0), append = reopen_file(file, O_WRONLY | O_APPEND);
		char *data = malloc((size_t)APPENDS * 8 * PAGE);
		off_t at = 0;

		ck_assert_ptr_nonnull(data);
		for (int i = 0; i < APPENDS; i++) {
			size_t bytes = 1 + bytes_of(round, i) / 8;

			memset(data + i * 8 * PAGE, 1 + i, bytes);
			io_prep_pwrite(&iocbs[i], append, data + i * 8 * PAGE, bytes, 0);
		}
		submit_in_order(ctx, iocbs, APPENDS, round % 2);
		for (int i = 0; i < APPENDS; i++) {
			struct io_event event = take_event(ctx, HERE);

			ck_assert_uint_eq(event.res, event.obj->u.c.nbytes);
		}
		for (int i = 0; i < APPENDS; i++) {
			size_t bytes = iocbs[i].u.c.nbytes;

			ck_assert_int_eq(pread(file, read_back, bytes, at), (ssize_t)bytes);
			ck_assert_msg(memcmp(read_back, iocbs[i].u.c.buf, bytes) == 0,
				      "round %d: append %d is not in its place", round, i);
			at += (off_t)bytes;
		}
		free(data);
		close(file);
		close(append);
	}
	free_context_without_events(ctx, HERE);
	free_buffers();
}

/* A request to a server that does not answer, and others beside it. */
static void go_on_beside(struct holdfs *fs, int flags, bool writing)
{
	io_context_t ctx = new_context(8);
	char *held_buffer = aligned_buffer(PAGE), *buffer = aligned_buffer(PAGE);
	int held_file = holdfs_open(fs, 0, O_RDWR | flags), file = scratch_file(FILE_BYTES);
	unsigned arrived = holdfs_log_length(fs);
	struct iocb held, iocb;

	holdfs_hold(fs, HOLDFS_ALL);
	if (writing)
		io_prep_pwrite(&held, held_file, held_buffer, PAGE, 0);
	else
		io_prep_pread(&held, held_file, held_buffer, PAGE, 0);
	expect_submitted(ctx, &held, HERE);
	holdfs_wait_arrived(fs, HOLDFS_ALL, arrived);
	for (int round = 0; round < 5; round++) {
		posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
		io_prep_pread(&iocb, file, buffer, PAGE, round * PAGE);
		expect_result(ctx, &iocb, PAGE, HERE);
	}
	holdfs_release_all(fs);
	expect_event(ctx, &held, PAGE, HERE);
	close(held_file);
	close(file);
	free(held_buffer);
	free(buffer);
	free_context(ctx);
}

CASE(a_server_that_does_not_answer_holds_nobody_up)
{
	struct holdfs *fs;

	SKIP_ON_REFERENCE("a read that waits for a server waits in io_submit");
	fs = holdfs_mount(1, FILE_BYTES);
	if (!fs)
		SKIP("no FUSE here");
	go_on_beside(fs, 0, false);
	go_on_beside(fs, HOLDFS_UNCACHED, false);
	go_on_beside(fs, O_DIRECT, false);
	go_on_beside(fs, O_DIRECT, true);
	if (on_threads()) {
		go_on_beside(fs, 0, true);
		go_on_beside(fs, HOLDFS_UNCACHED, true);
	}
	holdfs_unmount(fs);
}

#define STUCK 6

/*
 * One read after the other whose buffer is a page of a file that its server keeps back: each ends
 * up with a thread that does not come back from it.  That is the caller's where the disk was so
 * fast that the page was there at once: false, and nothing is held any more.
 */
static bool submit_stuck_reads(io_context_t ctx, struct holdfs *fs, int file, struct iocb *stuck)
{
	int buffers = holdfs_open(fs, 0, O_RDONLY);
	char *pages = mmap(NULL, STUCK * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, buffers, 0);
	unsigned arrived = holdfs_log_length(fs);
	bool is_stuck = true;

	ck_assert(pages != MAP_FAILED);
	madvise(pages, STUCK * PAGE, MADV_RANDOM);
	close(buffers);
	holdfs_hold(fs, HOLDFS_ALL);
	for (int i = 0; i < STUCK && is_stuck; i++) {
		struct submitter submitter;

		posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
		io_prep_pread(&stuck[i], file, pages + i * PAGE, PAGE, i * PAGE);
		submitter_start(&submitter, ctx, &stuck[i], NULL);
		holdfs_wait_arrived(fs, HOLDFS_READ, arrived + (unsigned)i);
		WAIT_UNTIL(worker_has_ended(&submitter.worker) ||
			   task_is_blocked(atomic_load(&submitter.worker.tid)));
		is_stuck = worker_has_ended(&submitter.worker);
		if (!is_stuck)
			holdfs_release_all(fs);
		ck_assert_int_eq(submitter_join(&submitter), 1);
	}
	return is_stuck;
}

static bool others_come(struct holdfs *fs, int file)
{
	io_context_t ctx = new_context(2 * STUCK);
	struct iocb stuck[STUCK], iocb;
	bool is_stuck = submit_stuck_reads(ctx, fs, file, stuck);
	struct io_event events[STUCK];
	char data[PAGE];

	for (int round = 0; is_stuck && round < 5; round++) {
		posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
		io_prep_pread(&iocb, file, data, PAGE, (STUCK + round) * PAGE);
		expect_result(ctx, &iocb, PAGE, HERE);
		expect_pattern(data, (STUCK + round) * PAGE, PAGE, HERE);
	}
	holdfs_release_all(fs);
	if (is_stuck)
		ck_assert_int_eq(io_getevents(ctx, STUCK, STUCK, events, NULL), STUCK);
	ck_assert_int_eq(io_destroy(ctx), 0);
	return is_stuck;
}

CASE(reads_that_do_not_come_hold_up_no_others_of_their_file)
{
	int file = scratch_file(FILE_BYTES);
	bool came = false;

	SKIP_ON_REFERENCE("a read waits for its buffer in io_submit");
	if (!place_wants_alignment(file))
		SKIP("TMPDIR is not on a disk file system");
	posix_fadvise(file, 0, 0, POSIX_FADV_RANDOM);
	for (int round = 0; round < 20 && !came; round++) {
		struct holdfs *fs = holdfs_mount(1, STUCK * PAGE);

		if (!fs)
			SKIP("no FUSE here");
		came = others_come(fs, file);
		holdfs_unmount(fs);
	}
	ck_assert(came);
	close(file);
}
