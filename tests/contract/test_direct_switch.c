/* SPDX-License-Identifier: MIT */
/*
 * A program that switches O_DIRECT on and off between its requests, as glusterfs does: each request
 * is carried out with the flag that it was submitted with.
 *
 * The library may still have a request in hand when the flag comes on: reads that miss the cache,
 * writes where it does all itself. Their buffers, offsets and sizes are none that direct I/O takes.
 */
#include "holdfs.h"

enum { FILE_BYTES = 1 << 20, ROUNDS = 200 };

static void set_direct(int fd, bool direct)
{
	int flags = fcntl(fd, F_GETFL);

	flags = direct ? flags | O_DIRECT : flags & ~O_DIRECT;
	ck_assert_int_eq(fcntl(fd, F_SETFL, flags), 0);
}

static void drop_cache(int fd)
{
	ck_assert_int_eq(fsync(fd), 0);
	ck_assert_int_eq(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
}

CASE(a_cold_read_stays_buffered_when_the_flag_comes_on_behind_it)
{
	io_context_t ctx = new_context(8);
	int file = scratch_file(FILE_BYTES);
	static char buffer[8192];

	for (int round = 0; round < ROUNDS; round++) {
		off_t offset = (round * 8192L + 513) % (FILE_BYTES - 8192);
		struct iocb iocb;

		drop_cache(file);
		io_prep_pread(&iocb, file, buffer + 1, 5001, offset);
		expect_submitted(ctx, &iocb, HERE);
		set_direct(file, true);
		expect_event(ctx, &iocb, 5001, HERE);
		set_direct(file, false);
		expect_pattern(buffer + 1, offset, 5001, HERE);
	}
	close(file);
	free_context(ctx);
}

/* What is in the cache is taken before the flag comes on; the rest is read behind it. */
CASE(so_does_one_that_finds_its_first_page_in_the_cache)
{
	io_context_t ctx = new_context(8);
	int file = scratch_file(FILE_BYTES);
	static char buffer[16384];

	ck_assert_int_eq(posix_fadvise(file, 0, 0, POSIX_FADV_RANDOM), 0);
	for (int round = 0; round < ROUNDS; round++) {
		off_t offset = (round * 16384L + 513) % (FILE_BYTES - 16384);
		struct iocb iocb;

		drop_cache(file);
		ck_assert_int_eq(pread(file, buffer, 1, offset), 1);
		io_prep_pread(&iocb, file, buffer + 1, 9001, offset);
		expect_submitted(ctx, &iocb, HERE);
		set_direct(file, true);
		expect_event(ctx, &iocb, 9001, HERE);
		set_direct(file, false);
		expect_pattern(buffer + 1, offset, 9001, HERE);
	}
	close(file);
	free_context(ctx);
}

CASE(so_does_a_vectored_read_across_the_end)
{
	io_context_t ctx = new_context(8);
	int file = scratch_file(FILE_BYTES);
	static char parts[3][2048];

	for (int round = 0; round < ROUNDS; round++) {
		off_t offset = FILE_BYTES - 3000 - round;
		struct iovec vectors[3] = { { parts[0] + 1, 999 },
					    { parts[1] + 3, 1 },
					    { parts[2], 2048 } };
		long bytes = 999 + 1 + 2048;
		struct iocb iocb;

		if (bytes > FILE_BYTES - offset)
			bytes = (long)(FILE_BYTES - offset);
		drop_cache(file);
		io_prep_preadv(&iocb, file, vectors, 3, offset);
		expect_submitted(ctx, &iocb, HERE);
		set_direct(file, true);
		expect_event(ctx, &iocb, bytes, HERE);
		set_direct(file, false);
		expect_pattern(parts[0] + 1, offset, 999, HERE);
		expect_pattern(parts[1] + 3, offset + 999, 1, HERE);
		expect_pattern(parts[2], offset + 1000, (size_t)bytes - 1000, HERE);
	}
	close(file);
	free_context(ctx);
}

/* Of the two lowest the second: what is left open may have a free number below it. */
static int free_number(int fd)
{
	int first = dup(fd), second = dup(fd);

	close(first);
	close(second);
	return second;
}

CASE(so_does_a_write)
{
	io_context_t ctx = new_context(8);
	int file = scratch_file(FILE_BYTES);
	static char buffer[8192], written[5001];
	int number = free_number(file);

	lock_file(file);
	for (int round = 0; round < ROUNDS; round++) {
		off_t offset = (round * 8192L + 513) % (FILE_BYTES - 8192);
		struct iocb iocb;

		memset(buffer, round, sizeof(buffer));
		io_prep_pwrite(&iocb, file, buffer + 1, sizeof(written), offset);
		expect_submitted(ctx, &iocb, HERE);
		set_direct(file, true);
		expect_event(ctx, &iocb, sizeof(written), HERE);
		set_direct(file, false);
		ck_assert_int_eq(pread(file, written, sizeof(written), offset), sizeof(written));
		ck_assert_mem_eq(written, buffer, sizeof(written));
	}
	expect_locked(file, HERE);
	ck_assert_int_eq(free_number(file), number);
	close(file);
	free_context(ctx);
}

/* Those at the end of the line have not been looked at when the flag and the other file come. */
CASE(a_write_whose_number_means_another_file_by_then_leaves_that_alone)
{
	enum { WRITES = 64 };
	io_context_t ctx = new_context(WRITES);
	int other = scratch_file(FILE_BYTES), file = scratch_file(FILE_BYTES), kept = dup(file);
	static char buffer[8192], found[8192];
	static struct iocb iocbs[WRITES];

	lock_file(other);
	memset(buffer, 0xaa, sizeof(buffer));
	for (int round = 0; round < 20; round++) {
		for (int i = 0; i < WRITES; i++)
			io_prep_pwrite(&iocbs[i], file, buffer + 1, 5001, 513);
		expect_all_submitted(ctx, iocbs, WRITES, HERE);
		set_direct(kept, true);
		ck_assert_int_eq(dup3(other, file, O_CLOEXEC), file);
		for (int i = 0; i < WRITES; i++) {
			long result = (long)take_event(ctx, HERE).res;

			ck_assert_msg(result == 5001 || result == -EINVAL, "%ld", result);
		}
		ck_assert_int_eq(pread(other, found, sizeof(found), 0), sizeof(found));
		expect_pattern(found, 0, sizeof(found), HERE);
		expect_locked(other, HERE);
		set_direct(kept, false);
		/* This closes a number of the other file, and drops the lock. */
		ck_assert_int_eq(dup2(kept, file), file);
		lock_file(other);
	}
	close(file);
	close(kept);
	close(other);
	free_context(ctx);
}

/* The number means another opening of the same file by then. */
static void write_past_other_opening(int flags)
{
	enum { WRITES = 64 };
	io_context_t ctx = new_context(WRITES);
	int file = scratch_file(FILE_BYTES), kept = dup(file), other = reopen_file(file, flags);
	static char buffer[8192], found[5001];
	static struct iocb iocbs[WRITES];
	struct stat status;

	for (int round = 0; round < 20; round++) {
		memset(buffer, round, sizeof(buffer));
		for (int i = 0; i < WRITES; i++)
			io_prep_pwrite(&iocbs[i], file, buffer + 1, sizeof(found), i * 8192 + 513);
		expect_all_submitted(ctx, iocbs, WRITES, HERE);
		set_direct(kept, true);
		ck_assert_int_eq(dup3(other, file, O_CLOEXEC), file);
		for (int i = 0; i < WRITES; i++)
			ck_assert_int_eq((long)take_event(ctx, HERE).res, (long)sizeof(found));
		set_direct(kept, false);
		for (int i = 0; i < WRITES; i++) {
			ck_assert_int_eq(pread(kept, found, sizeof(found), i * 8192 + 513),
					 sizeof(found));
			ck_assert_mem_eq(found, buffer, sizeof(found));
		}
		ck_assert_int_eq(fstat(kept, &status), 0);
		ck_assert_int_eq(status.st_size, FILE_BYTES);
		ck_assert_int_eq(dup3(kept, file, O_CLOEXEC), file);
	}
	close(file);
	close(kept);
	close(other);
	free_context(ctx);
}

CASE(a_write_keeps_its_place_when_its_number_has_been_opened_anew)
{
	write_past_other_opening(O_RDWR | O_APPEND | O_DIRECT);
	write_past_other_opening(O_RDWR | O_APPEND);
	write_past_other_opening(O_RDONLY);
}

/*
 * What the flag cuts short ends with a page, and goes on; what a server ends so does not: it may
 * have no more for a long time.
 */
CASE(a_short_count_of_a_server_is_the_end)
{
	static const int words[] = { HOLDFS_SHORT + 4096 };
	static char buffer[8192];
	struct holdfs *fs;
	struct iocb iocb;

	SKIP_ON_REFERENCE("a read that waits for a server waits in io_submit");
	fs = holdfs_mount(1, FILE_BYTES);
	if (!fs)
		SKIP("no FUSE here");
	io_prep_pread(&iocb, -1, buffer, sizeof(buffer), 0);
	holdfs_expect_result(fs, HOLDFS_UNCACHED, &iocb, words, 1, 4096);
	holdfs_unmount(fs);
}

/* The server refuses for a reason of its own. */
CASE(a_server_may_refuse_a_write_with_the_same_error)
{
	static const int words[] = { EINVAL, EINVAL };
	static char buffer[5001];
	struct holdfs *fs;
	struct iocb iocb;

	if (!on_threads())
		SKIP("a write that waits for a server waits in io_submit");
	fs = holdfs_mount(1, FILE_BYTES);
	if (!fs)
		SKIP("no FUSE here");
	io_prep_pwrite(&iocb, -1, buffer, sizeof(buffer), 513);
	holdfs_expect_result(fs, 0, &iocb, words, 2, -EINVAL);
	holdfs_unmount(fs);
}

CASE(a_direct_read_that_is_not_aligned_is_still_refused_in_its_event)
{
	io_context_t ctx = new_context(8);
	int file = scratch_file(FILE_BYTES);
	static char buffer[8192];
	struct iocb iocb;

	set_direct(file, true);
	io_prep_pread(&iocb, file, buffer + 1, 5001, 513);
	expect_result(ctx, &iocb, -EINVAL, "unaligned");
	close(file);
	free_context(ctx);
}
