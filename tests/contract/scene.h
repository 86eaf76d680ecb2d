/* SPDX-License-Identifier: MIT */
/*
 * The scene of the tests about fsync and about requests in flight: a file on a disk that waits, and
 * a context for requests on it.
 *
 * That something has not happened is asked of the disk, after a witness has been there: a second
 * file is synchronized many times through a context of its own, from io_submit to the event.
 * Whatever the library would have let go by mistake has then had its turn too, and nobody had to
 * guess a time.
 */
#ifndef SCENE_H
#define SCENE_H

#include "contract.h"
#include "holdfs.h"

#define BLOCK_BYTES 4096
#define SCENE_BLOCKS 256

enum scene_file { SUBJECT, OTHER, WITNESS, SCENE_FILES };

#define WITNESS_ROUNDS 20

struct scene {
	struct holdfs *fs;
	io_context_t ctx;
	int fd; /* of the subject, O_DIRECT */
	int witness;
	io_context_t witness_ctx;
};

/* False where there is no FUSE. */
static inline bool scene_open(struct scene *scene)
{
	*scene = (struct scene){ .fs = holdfs_mount(SCENE_FILES, SCENE_BLOCKS * BLOCK_BYTES) };
	if (!scene->fs)
		return false;
	scene->fd = holdfs_open(scene->fs, SUBJECT, O_RDWR | O_DIRECT);
	scene->witness = holdfs_open(scene->fs, WITNESS, O_RDWR);
	scene->ctx = new_context(64);
	scene->witness_ctx = new_context(1);
	return true;
}

#define SCENE_OPEN(scene)                                                                          \
	do {                                                                                       \
		if (!scene_open(scene))                                                            \
			SKIP("FUSE cannot be used here");                                          \
	} while (0)

static inline void scene_close(struct scene *scene)
{
	holdfs_release_all(scene->fs);
	if (scene->ctx)
		free_context(scene->ctx);
	free_context(scene->witness_ctx);
	if (scene->fd >= 0)
		close(scene->fd);
	close(scene->witness);
	holdfs_unmount(scene->fs);
}

static inline unsigned count_of_file(struct holdfs *fs, unsigned kinds, unsigned file)
{
	unsigned count = 0, length = holdfs_log_length(fs);

	for (unsigned index = 0; index < length; index++) {
		struct holdfs_operation operation = holdfs_operation(fs, index);

		count += (operation.kind & kinds) && operation.file == file;
	}
	return count;
}

/* How often the subject has been synchronized, or is being. */
static inline unsigned syncs(struct scene *scene)
{
	return count_of_file(scene->fs, HOLDFS_FSYNC, SUBJECT);
}

/* Waits for operation number nth (from 0) of these kinds on a file; returns its index. */
static inline unsigned wait_operation(struct holdfs *fs, unsigned kinds, unsigned file,
				      unsigned nth)
{
	unsigned seen = 0;

	for (unsigned index = 0;; index++) {
		struct holdfs_operation operation;

		holdfs_wait_arrived(fs, HOLDFS_ALL, index);
		operation = holdfs_operation(fs, index);
		if ((operation.kind & kinds) && operation.file == file && seen++ == nth)
			return index;
	}
}

/*
 * The same for the transfer of a block of the subject, when requests that were sent together may
 * arrive in any order.
 */
static inline unsigned wait_transfer(struct scene *scene, unsigned block)
{
	for (unsigned index = 0;; index++) {
		struct holdfs_operation operation;

		holdfs_wait_arrived(scene->fs, HOLDFS_ALL, index);
		operation = holdfs_operation(scene->fs, index);
		if (operation.kind != HOLDFS_FSYNC && operation.file == SUBJECT &&
		    operation.offset == (off_t)block * BLOCK_BYTES)
			return index;
	}
}

/* The moment when the disk was done with all of these operations on the subject. */
static inline unsigned last_answered(struct scene *scene, unsigned kinds)
{
	unsigned last = 0, length = holdfs_log_length(scene->fs);

	for (unsigned index = 0; index < length; index++) {
		struct holdfs_operation operation = holdfs_operation(scene->fs, index);

		if (!(operation.kind & kinds) || operation.file != SUBJECT)
			continue;
		ck_assert_msg(operation.answered != 0, "operation %u is still held", index);
		last = operation.answered > last ? operation.answered : last;
	}
	return last;
}

static inline void send_witness(struct scene *scene)
{
	for (int i = 0; i < WITNESS_ROUNDS; i++) {
		struct iocb iocb;

		io_prep_fsync(&iocb, scene->witness);
		expect_result(scene->witness_ctx, &iocb, 0, "the witness");
	}
}

/* The same without a call into the library. */
static inline void send_silent_witness(struct scene *scene)
{
	for (int i = 0; i < WITNESS_ROUNDS; i++)
		ck_assert_int_eq(fsync(scene->witness), 0);
}

/*
 * Whether a sync of the subject that was asked for after syncs_before had come is being held back.
 * It must be.  On the reference it must not: there this shows that the test can see the difference,
 * the answer is false, and the rest of the case makes no sense.
 */
static inline bool sync_is_held_behind(struct scene *scene, unsigned syncs_before,
				       void (*witness)(struct scene *))
{
	if (on_reference()) {
		wait_operation(scene->fs, HOLDFS_FSYNC, SUBJECT, syncs_before);
		return false;
	}
	witness(scene);
	ck_assert_msg(syncs(scene) == syncs_before,
		      "the file was synchronized before an earlier request had ended");
	return true;
}

static inline bool sync_is_held(struct scene *scene, unsigned syncs_before)
{
	return sync_is_held_behind(scene, syncs_before, send_witness);
}

/*
 * Where the library must not be called; and where a descriptor has been closed with a request in
 * flight, which the library may count for any file, the witness included.
 */
static inline bool sync_is_silently_held(struct scene *scene, unsigned syncs_before)
{
	return sync_is_held_behind(scene, syncs_before, send_silent_witness);
}

/* What the requests read into and write from: a buffer a block. */
static char read_blocks[SCENE_BLOCKS][BLOCK_BYTES] __attribute__((aligned(BLOCK_BYTES)));
static char write_blocks[SCENE_BLOCKS][BLOCK_BYTES] __attribute__((aligned(BLOCK_BYTES)));

static inline void prepare_write(struct iocb *iocb, int fd, unsigned block)
{
	memset(write_blocks[block], (int)('a' + block % 26), BLOCK_BYTES);
	io_prep_pwrite(iocb, fd, write_blocks[block], BLOCK_BYTES, (long long)block * BLOCK_BYTES);
}

static inline void prepare_read(struct iocb *iocb, int fd, unsigned block)
{
	io_prep_pread(iocb, fd, read_blocks[block], BLOCK_BYTES, (long long)block * BLOCK_BYTES);
}

/*
 * A request that is later than a sync and stays with the disk while the sync is done: a write,
 * unless a held write would keep the sync itself from the disk (holdfs.h).
 */
static inline void prepare_later(struct iocb *iocb, int fd, unsigned block)
{
	if (on_threads())
		prepare_read(iocb, fd, block);
	else
		prepare_write(iocb, fd, block);
}

static inline void prepare_sync(struct iocb *iocb, int fd, short opcode)
{
	io_prep_fsync(iocb, fd);
	iocb->aio_lio_opcode = opcode;
}

static inline bool is_readable(int fd)
{
	struct pollfd look = { .fd = fd, .events = POLLIN };

	return poll(&look, 1, 0) == 1;
}

/*
 * An eventfd (EFD_NONBLOCK) is signalled this often.  The signal may come a moment after the event
 * can be taken; what may come on top of it would be seen by a look at the end of the case.
 */
static inline void expect_signals(int event_fd, uint64_t expected, const char *what)
{
	uint64_t count = 0;

	WAIT_UNTIL((count += take_count(event_fd)) >= expected);
	ck_assert_msg(count == expected, "%s: signalled %u times", what, (unsigned)count);
}

#endif
