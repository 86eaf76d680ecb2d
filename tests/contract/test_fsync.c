/* SPDX-License-Identifier: MIT */
/*
 * Goal: an fsync ends only after every earlier request on its file has ended and the file has been
 * synchronized after that; later requests and the fsync do not wait for each other.
 *
 * Method: the file is on a disk that waits (holdfs).  A case holds earlier requests there, submits
 * the fsync, and asks the disk, not the library, whether the sync has come to it, and when: the
 * flush itself must begin after the last earlier request, to hold back its event is not enough.  On
 * the reference the same look at the disk sees the sync overtake, so the look is known to be able
 * to tell.
 *
 * "Earlier" is taken apart: by kind of request, batch, context, thread, descriptor, and by how the
 * request ends.  Then come those who depend on the end of the fsync: sleepers, watchers of an
 * eventfd, io_cancel, io_destroy, umount.  Histories longer than anybody writes by hand are in
 * test_fsync_model.
 */
#include "scene.h"

/*
 * What is waited for.
 */

enum earlier_kind {
	DIRECT_WRITE,
	DIRECT_WRITEV,
	DIRECT_READ,
	DIRECT_READV,
	COLD_READ, /* buffered, not in the page cache: io_submit must not wait for it either */
	COLD_READV,
	EARLIER_KINDS,
};

static const char *const earlier_names[EARLIER_KINDS] = {
	"direct write", "direct writev", "direct read", "direct readv", "cold read", "cold readv",
};

static bool is_cold(enum earlier_kind kind)
{
	return kind == COLD_READ || kind == COLD_READV;
}

/* Two blocks from this one on; a descriptor is O_DIRECT or not as the kind wants it. */
static void prepare_earlier(struct iocb *iocb, enum earlier_kind kind, int fd, unsigned block)
{
	static struct iovec segments[2];
	long long offset = (long long)block * BLOCK_BYTES;
	bool write = kind == DIRECT_WRITE || kind == DIRECT_WRITEV;
	char *buffer = write ? write_blocks[block] : read_blocks[block];

	segments[0] = (struct iovec){ buffer, BLOCK_BYTES };
	segments[1] = (struct iovec){ buffer + BLOCK_BYTES, BLOCK_BYTES };
	if (kind == DIRECT_WRITE)
		io_prep_pwrite(iocb, fd, buffer, (size_t)2 * BLOCK_BYTES, offset);
	else if (kind == DIRECT_WRITEV)
		io_prep_pwritev(iocb, fd, segments, 2, offset);
	else if (kind == DIRECT_READ || kind == COLD_READ)
		io_prep_pread(iocb, fd, buffer, (size_t)2 * BLOCK_BYTES, offset);
	else
		io_prep_preadv(iocb, fd, segments, 2, offset);
}

static void waits_for(struct scene *scene, int fd, enum earlier_kind kind, short opcode,
		      bool one_batch, unsigned block)
{
	unsigned before = count_of_file(scene->fs, HOLDFS_READ | HOLDFS_WRITE, SUBJECT);
	unsigned syncs_before = syncs(scene);
	struct holdfs_operation sync;
	struct iocb iocbs[2];
	char what[64];
	bool held;

	snprintf(what, sizeof(what), "%s, opcode %d%s", earlier_names[kind], opcode,
		 one_batch ? ", one batch" : "");
	prepare_earlier(&iocbs[0], kind, fd, block);
	prepare_sync(&iocbs[1], fd, opcode);
	holdfs_hold(scene->fs, HOLDFS_READ | HOLDFS_WRITE);
	if (one_batch) {
		expect_all_submitted(scene->ctx, iocbs, 2, what);
	} else {
		expect_submitted(scene->ctx, &iocbs[0], what);
		expect_submitted(scene->ctx, &iocbs[1], what);
	}
	wait_operation(scene->fs, HOLDFS_READ | HOLDFS_WRITE, SUBJECT, before);
	held = sync_is_held(scene, syncs_before);
	if (held)
		expect_no_event(scene->ctx, what);
	holdfs_release_all(scene->fs);
	if (held) {
		expect_event(scene->ctx, &iocbs[0], 2L * BLOCK_BYTES, what);
		expect_event(scene->ctx, &iocbs[1], 0, what);
		sync = holdfs_operation(
			scene->fs, wait_operation(scene->fs, HOLDFS_FSYNC, SUBJECT, syncs_before));
		ck_assert_msg(sync.arrived > last_answered(scene, HOLDFS_READ | HOLDFS_WRITE),
			      "%s: synchronized too early", what);
		ck_assert_msg(sync.data_only == (opcode == IO_CMD_FDSYNC), "%s: the other kind",
			      what);
		ck_assert_uint_eq(syncs(scene), syncs_before + 1);
	} else {
		take_event(scene->ctx, what);
		take_event(scene->ctx, what);
	}
}

CASE(fsync_waits_for_every_kind_of_request)
{
	static const short opcodes[] = { IO_CMD_FSYNC, IO_CMD_FDSYNC };
	struct scene scene;
	unsigned block = 0;
	int buffered;

	SCENE_OPEN(&scene);
	buffered = holdfs_open(scene.fs, SUBJECT, O_RDONLY);
	for (int kind = 0; kind < EARLIER_KINDS; kind++) {
		/* The reference would wait for the disk in io_submit. */
		if (on_reference() && is_cold((enum earlier_kind)kind))
			continue;
		for (int i = 0; i < 4; i++, block += 2)
			waits_for(&scene, is_cold((enum earlier_kind)kind) ? buffered : scene.fd,
				  (enum earlier_kind)kind, opcodes[i & 1], i & 2, block);
	}
	close(buffered);
	scene_close(&scene);
}

/* Six requests of mixed kinds, which end in another order than they were submitted. */
CASE(fsync_waits_for_the_last_of_many)
{
	struct scene scene;
	struct iocb iocbs[7];
	unsigned index[6];

	SCENE_OPEN(&scene);
	for (unsigned i = 0; i < 6; i++) {
		if (i & 1)
			prepare_read(&iocbs[i], scene.fd, i);
		else
			prepare_write(&iocbs[i], scene.fd, i);
	}
	prepare_sync(&iocbs[6], scene.fd, IO_CMD_FSYNC);
	holdfs_hold(scene.fs, HOLDFS_READ | HOLDFS_WRITE);
	expect_all_submitted(scene.ctx, iocbs, 7, HERE);
	for (unsigned i = 0; i < 6; i++)
		index[i] = wait_operation(scene.fs, HOLDFS_READ | HOLDFS_WRITE, SUBJECT, i);
	for (unsigned i = 0; i < 6; i++) {
		if (!sync_is_held(&scene, 0))
			break;
		holdfs_release(scene.fs, index[5 - i], 0);
		take_event(scene.ctx, HERE);
	}
	holdfs_release_all(scene.fs);
	if (!on_reference()) {
		expect_event(scene.ctx, &iocbs[6], 0, HERE);
		ck_assert_uint_eq(syncs(&scene), 1);
	}
	scene_close(&scene);
}

CASE(fsync_alone_completes)
{
	static const short opcodes[] = { IO_CMD_FSYNC, IO_CMD_FDSYNC };
	static const int flags[] = { O_RDWR | O_DIRECT, O_RDONLY, O_WRONLY };
	struct scene scene;

	SCENE_OPEN(&scene);
	for (unsigned i = 0; i < 6; i++) {
		int fd = holdfs_open(scene.fs, SUBJECT, flags[i / 2]);
		struct iocb iocb;

		prepare_sync(&iocb, fd, opcodes[i & 1]);
		expect_result(scene.ctx, &iocb, 0, HERE);
		ck_assert_uint_eq(syncs(&scene), i + 1);
		close(fd);
	}
	scene_close(&scene);
}

/*
 * What is not waited for.
 */

CASE(fsync_in_the_middle_of_a_batch_waits_for_what_stands_before_it)
{
	struct scene scene;
	struct iocb iocbs[3];
	unsigned before, after;

	SCENE_OPEN(&scene);
	prepare_write(&iocbs[0], scene.fd, 0);
	prepare_sync(&iocbs[1], scene.fd, IO_CMD_FSYNC);
	prepare_later(&iocbs[2], scene.fd, 1);
	holdfs_hold(scene.fs, HOLDFS_READ | HOLDFS_WRITE);
	expect_all_submitted(scene.ctx, iocbs, 3, HERE);
	before = wait_transfer(&scene, 0);
	after = wait_transfer(&scene, 1);
	if (sync_is_held(&scene, 0)) {
		holdfs_release(scene.fs, before, 0);
		expect_event(scene.ctx, &iocbs[0], BLOCK_BYTES, HERE);
		expect_event(scene.ctx, &iocbs[1], 0, HERE);
		ck_assert_uint_eq(holdfs_operation(scene.fs, after).answered, 0);
		expect_no_event(scene.ctx, HERE);
		holdfs_release_all(scene.fs);
		expect_event(scene.ctx, &iocbs[2], BLOCK_BYTES, HERE);
	}
	scene_close(&scene);
}

CASE(fsync_at_the_head_of_a_batch_waits_for_nothing)
{
	struct scene scene;
	struct iocb iocbs[2];

	SCENE_OPEN(&scene);
	prepare_sync(&iocbs[0], scene.fd, IO_CMD_FSYNC);
	prepare_later(&iocbs[1], scene.fd, 0);
	holdfs_hold(scene.fs, HOLDFS_READ | HOLDFS_WRITE);
	expect_all_submitted(scene.ctx, iocbs, 2, HERE);
	expect_event(scene.ctx, &iocbs[0], 0, HERE);
	holdfs_release_all(scene.fs);
	expect_event(scene.ctx, &iocbs[1], BLOCK_BYTES, HERE);
	scene_close(&scene);
}

/* Reads and writes, submitted while an fsync is held back, go to the disk and end there. */
CASE(requests_after_a_held_fsync_do_not_wait_for_it)
{
	struct scene scene;
	struct iocb earlier, sync, later[3];
	int buffered;

	SKIP_ON_REFERENCE("holds no fsync");
	SCENE_OPEN(&scene);
	buffered = holdfs_open(scene.fs, SUBJECT, O_RDONLY);
	/* A held write would keep the later one from the disk there (holdfs.h). */
	if (on_threads())
		prepare_read(&earlier, scene.fd, 0);
	else
		prepare_write(&earlier, scene.fd, 0);
	prepare_sync(&sync, scene.fd, IO_CMD_FSYNC);
	holdfs_hold(scene.fs, HOLDFS_READ | HOLDFS_WRITE);
	expect_submitted(scene.ctx, &earlier, HERE);
	expect_submitted(scene.ctx, &sync, HERE);
	wait_transfer(&scene, 0);
	holdfs_hold(scene.fs, 0);
	prepare_write(&later[0], scene.fd, 1);
	prepare_read(&later[1], scene.fd, 2);
	prepare_read(&later[2], buffered, 3);
	for (int i = 0; i < 3; i++) {
		expect_submitted(scene.ctx, &later[i], HERE);
		expect_event(scene.ctx, &later[i], BLOCK_BYTES, HERE);
	}
	ck_assert(sync_is_held(&scene, 0));
	holdfs_release_all(scene.fs);
	expect_event(scene.ctx, &earlier, BLOCK_BYTES, HERE);
	expect_event(scene.ctx, &sync, 0, HERE);
	close(buffered);
	scene_close(&scene);
}

/* A sync at work in the disk holds up neither reads of its file nor anything on another. */
CASE(requests_after_a_running_fsync_do_not_wait_for_it)
{
	struct scene scene;
	struct iocb sync, later[3];
	int other, buffered;

	SKIP_ON_REFERENCE("a cold read waits for the disk in io_submit");
	SCENE_OPEN(&scene);
	other = holdfs_open(scene.fs, OTHER, O_RDWR | O_DIRECT);
	buffered = holdfs_open(scene.fs, SUBJECT, O_RDONLY);
	holdfs_hold(scene.fs, HOLDFS_FSYNC);
	prepare_sync(&sync, scene.fd, IO_CMD_FSYNC);
	expect_submitted(scene.ctx, &sync, HERE);
	wait_operation(scene.fs, HOLDFS_FSYNC, SUBJECT, 0);
	prepare_read(&later[0], scene.fd, 1);
	prepare_write(&later[1], other, 2);
	prepare_read(&later[2], buffered, 3);
	for (int i = 0; i < 3; i++) {
		expect_submitted(scene.ctx, &later[i], HERE);
		expect_event(scene.ctx, &later[i], BLOCK_BYTES, HERE);
	}
	holdfs_release_all(scene.fs);
	expect_event(scene.ctx, &sync, 0, HERE);
	close(buffered);
	close(other);
	scene_close(&scene);
}

CASE(fsync_does_not_wait_for_other_files)
{
	struct scene scene;
	struct iocb write, sync;
	int other;

	SCENE_OPEN(&scene);
	other = holdfs_open(scene.fs, OTHER, O_RDWR | O_DIRECT);
	prepare_write(&write, other, 0);
	prepare_sync(&sync, scene.fd, IO_CMD_FSYNC);
	holdfs_hold(scene.fs, HOLDFS_WRITE);
	expect_submitted(scene.ctx, &write, HERE);
	expect_submitted(scene.ctx, &sync, HERE);
	expect_event(scene.ctx, &sync, 0, HERE);
	holdfs_release_all(scene.fs);
	expect_event(scene.ctx, &write, BLOCK_BYTES, HERE);
	close(other);
	scene_close(&scene);
}

/*
 * As many reads as may wait for a slow disk, all later than the write: the one that carries them
 * out must have a hand free for the fsync.
 */
static void sync_beside_reads(enum scene_file read_file)
{
	enum { READS = 40 };
	struct scene scene;
	struct iocb write, sync, reads[READS];
	unsigned index;
	int buffered;

	SKIP_ON_REFERENCE("a cold read waits for the disk in io_submit");
	SCENE_OPEN(&scene);
	buffered = holdfs_open(scene.fs, read_file, O_RDONLY);
	prepare_write(&write, scene.fd, 0);
	prepare_sync(&sync, scene.fd, IO_CMD_FSYNC);
	holdfs_hold(scene.fs, HOLDFS_READ | HOLDFS_WRITE);
	expect_submitted(scene.ctx, &write, HERE);
	expect_submitted(scene.ctx, &sync, HERE);
	index = wait_operation(scene.fs, HOLDFS_WRITE, SUBJECT, 0);
	for (unsigned i = 0; i < READS; i++)
		prepare_read(&reads[i], buffered, 1 + i);
	expect_all_submitted(scene.ctx, reads, READS, HERE);
	wait_operation(scene.fs, HOLDFS_READ, read_file, 0);
	ck_assert(sync_is_held(&scene, 0));
	holdfs_release(scene.fs, index, 0);
	expect_event(scene.ctx, &write, BLOCK_BYTES, HERE);
	expect_event(scene.ctx, &sync, 0, HERE);
	holdfs_release_all(scene.fs);
	for (int i = 0; i < READS; i++)
		ck_assert_int_eq((long)take_event(scene.ctx, HERE).res, BLOCK_BYTES);
	close(buffered);
	scene_close(&scene);
}

CASE(fsync_does_not_wait_for_many_later_reads_of_its_file)
{
	sync_beside_reads(SUBJECT);
}

CASE(fsync_does_not_wait_for_many_reads_of_another_file)
{
	sync_beside_reads(OTHER);
}

/*
 * A POLL may wait for ever, and there are files that can be both polled in vain and synchronized.
 */
CASE(fsync_does_not_wait_for_poll)
{
	io_context_t ctx = new_context(4);
	struct iocb waiting, sync;
	char text[64];
	int fd = open("/sys/kernel/uevent_seqnum", O_RDONLY | O_CLOEXEC);

	if (fd < 0 || read(fd, text, sizeof(text)) < 0) {
		free_context(ctx);
		SKIP("no attribute file to poll");
	}
	io_prep_poll(&waiting, fd, POLLPRI);
	expect_submitted(ctx, &waiting, HERE);
	expect_no_event(ctx, HERE);
	io_prep_fsync(&sync, fd);
	expect_submitted(ctx, &sync, HERE);
	expect_event(ctx, &sync, 0, HERE);
	ck_assert_int_eq(io_cancel(ctx, &waiting, NULL), -EINPROGRESS);
	expect_event(ctx, &waiting, 0, HERE);
	free_context(ctx);
	close(fd);
}

/*
 * A read of an empty pipe may wait for ever, too.  Nothing can synchronize a pipe, so no fsync can
 * mean it, also not when its descriptor is gone and its number says no more what it was.
 */
CASE(fsync_does_not_wait_for_a_pipe_whose_descriptor_is_closed)
{
	struct scene scene;
	struct iocb waiting, sync;
	int ends[2];
	char byte;

	SKIP_ON_REFERENCE("a pipe holds io_submit");
	SCENE_OPEN(&scene);
	make_pipe(ends, 0);
	io_prep_pread(&waiting, ends[0], &byte, 1, 0);
	expect_submitted(scene.ctx, &waiting, HERE);
	close(ends[0]);
	prepare_sync(&sync, scene.fd, IO_CMD_FSYNC);
	expect_submitted(scene.ctx, &sync, HERE);
	expect_event(scene.ctx, &sync, 0, HERE);
	ck_assert_int_eq(write(ends[1], "x", 1), 1);
	expect_event(scene.ctx, &waiting, 1, HERE);
	close(ends[1]);
	scene_close(&scene);
}

/*
 * Whose requests: other descriptors of the file, other contexts, other threads.
 */

enum sync_descriptor {
	SAME,
	DUPLICATE,
	ANOTHER_OPEN,
	READ_ONLY,
	BUFFERED,
	THE_ONLY_ONE_LEFT, /* the request's own has been closed */
	SYNC_DESCRIPTORS,
};

static const char *const descriptor_names[SYNC_DESCRIPTORS] = {
	"the same descriptor", "a duplicate",	       "another open",
	"a read-only one",     "one without O_DIRECT", "the request's is closed",
};

static int open_sync_descriptor(struct scene *scene, enum sync_descriptor kind, int fd)
{
	switch (kind) {
	case SAME:
		return fd;
	case DUPLICATE:
		return fcntl(fd, F_DUPFD_CLOEXEC, 0);
	case READ_ONLY:
		return holdfs_open(scene->fs, SUBJECT, O_RDONLY);
	case BUFFERED:
		return holdfs_open(scene->fs, SUBJECT, O_RDWR);
	default:
		return holdfs_open(scene->fs, SUBJECT, O_RDWR | O_DIRECT);
	}
}

/* In the second context nobody calls anything of the first one until the fsync has ended. */
static void waits_for_other(struct scene *scene, enum sync_descriptor kind, bool other_context,
			    unsigned round)
{
	io_context_t sync_ctx = other_context ? new_context(4) : scene->ctx;
	int fd = holdfs_open(scene->fs, SUBJECT, O_RDWR | O_DIRECT);
	int sync_fd = open_sync_descriptor(scene, kind, fd);
	unsigned syncs_before = syncs(scene);
	struct iocb write, sync;
	char what[64];

	snprintf(what, sizeof(what), "%s%s", descriptor_names[kind],
		 other_context ? ", another context" : "");
	prepare_write(&write, fd, round);
	prepare_sync(&sync, sync_fd, IO_CMD_FSYNC);
	holdfs_hold(scene->fs, HOLDFS_WRITE);
	expect_submitted(scene->ctx, &write, what);
	wait_operation(scene->fs, HOLDFS_WRITE, SUBJECT, round);
	if (kind == THE_ONLY_ONE_LEFT)
		close(fd);
	expect_submitted(sync_ctx, &sync, what);
	if (kind == THE_ONLY_ONE_LEFT ? sync_is_silently_held(scene, syncs_before)
				      : sync_is_held(scene, syncs_before)) {
		holdfs_release_all(scene->fs);
		if (!other_context)
			expect_event(scene->ctx, &write, BLOCK_BYTES, what);
		expect_event(sync_ctx, &sync, 0, what);
		if (other_context)
			expect_event(scene->ctx, &write, BLOCK_BYTES, what);
	} else {
		holdfs_release_all(scene->fs);
		take_event(scene->ctx, what);
		take_event(sync_ctx, what);
	}
	if (other_context)
		free_context(sync_ctx);
	if (kind != SAME)
		close(sync_fd);
	if (kind != THE_ONLY_ONE_LEFT)
		close(fd);
}

CASE(fsync_waits_for_all_descriptors_and_contexts)
{
	struct scene scene;
	unsigned round = 0;

	SCENE_OPEN(&scene);
	for (int kind = 0; kind < SYNC_DESCRIPTORS; kind++)
		for (int other_context = 0; other_context < 2; other_context++)
			waits_for_other(&scene, (enum sync_descriptor)kind, other_context, round++);
	scene_close(&scene);
}

CASE(fsync_waits_for_requests_of_threads_that_are_gone)
{
	struct scene scene;
	struct iocb write, sync;
	struct submitter of_write, of_sync;

	SCENE_OPEN(&scene);
	prepare_write(&write, scene.fd, 0);
	prepare_sync(&sync, scene.fd, IO_CMD_FSYNC);
	holdfs_hold(scene.fs, HOLDFS_WRITE);
	submitter_start(&of_write, scene.ctx, &write, NULL);
	ck_assert_int_eq(submitter_join(&of_write), 1);
	submitter_start(&of_sync, scene.ctx, &sync, NULL);
	ck_assert_int_eq(submitter_join(&of_sync), 1);
	wait_operation(scene.fs, HOLDFS_WRITE, SUBJECT, 0);
	if (sync_is_held(&scene, 0)) {
		holdfs_release_all(scene.fs);
		expect_event(scene.ctx, &write, BLOCK_BYTES, HERE);
		expect_event(scene.ctx, &sync, 0, HERE);
	}
	scene_close(&scene);
}

/* One file, four contexts with a request each, an fsync in a fifth. */
CASE(fsync_waits_for_several_contexts)
{
	struct scene scene;
	io_context_t contexts[4];
	struct iocb writes[4], sync;

	SCENE_OPEN(&scene);
	holdfs_hold(scene.fs, HOLDFS_WRITE);
	for (unsigned i = 0; i < 4; i++) {
		contexts[i] = new_context(4);
		prepare_write(&writes[i], scene.fd, i);
		expect_submitted(contexts[i], &writes[i], HERE);
		wait_operation(scene.fs, HOLDFS_WRITE, SUBJECT, i);
	}
	prepare_sync(&sync, scene.fd, IO_CMD_FSYNC);
	expect_submitted(scene.ctx, &sync, HERE);
	for (unsigned i = 0; i < 4 && sync_is_held(&scene, 0); i++) {
		unsigned index = wait_operation(scene.fs, HOLDFS_WRITE, SUBJECT, 3 - i);

		holdfs_release(scene.fs, index, 0);
		holdfs_wait_answered(scene.fs, index);
	}
	holdfs_release_all(scene.fs);
	expect_event(scene.ctx, &sync, 0, HERE);
	for (int i = 0; i < 4; i++) {
		expect_event(contexts[i], &writes[i], BLOCK_BYTES, HERE);
		free_context(contexts[i]);
	}
	scene_close(&scene);
}

/*
 * The fsync waits for several contexts.  A caller is quick and takes the event of each but one,
 * before the one that follows that context for the fsync has seen it; nobody calls that one.  The
 * machine is busy, so that wake-ups come late; and there are more contexts each time, so that
 * helpers left over from the last time are never enough.
 */
#define FOLLOWED_MAX 12

static void reap_all_but(struct scene *scene, int count, int unreaped)
{
	io_context_t contexts[FOLLOWED_MAX];
	struct iocb writes[FOLLOWED_MAX], sync;
	unsigned index[FOLLOWED_MAX], before = count_of_file(scene->fs, HOLDFS_WRITE, SUBJECT);
	struct io_event event;

	holdfs_hold(scene->fs, HOLDFS_WRITE);
	for (int i = 0; i < count; i++) {
		contexts[i] = new_context(4);
		prepare_write(&writes[i], scene->fd, (unsigned)i);
		expect_submitted(contexts[i], &writes[i], HERE);
		index[i] = wait_operation(scene->fs, HOLDFS_WRITE, SUBJECT, before + (unsigned)i);
	}
	prepare_sync(&sync, scene->fd, IO_CMD_FSYNC);
	expect_submitted(scene->ctx, &sync, HERE);
	/* Who follows them has time to get there. */
	send_silent_witness(scene);
	for (int i = 0; i < count; i++) {
		long long end_ns = monotonic_ns() + EVENT_LIMIT_SECONDS * 1000000000LL;

		holdfs_release(scene->fs, index[i], 0);
		while (i != unreaped && take_events_now(contexts[i], &event, 1) == 0)
			ck_assert(monotonic_ns() < end_ns);
	}
	expect_event(scene->ctx, &sync, 0, "the fsync");
	expect_event(contexts[unreaped], &writes[unreaped], BLOCK_BYTES, HERE);
	for (int i = 0; i < count; i++)
		free_context(contexts[i]);
}

static _Atomic bool spinners_end;

static void spin(void *argument)
{
	long long end_ns = monotonic_ns() + 2 * EVENT_LIMIT_SECONDS * 1000000000LL;

	(void)argument;
	while (!atomic_load(&spinners_end) && monotonic_ns() < end_ns)
		;
}

CASE(fsync_ends_when_callers_reap_all_but_one_of_its_contexts)
{
	enum { SPINNERS = 4 };
	struct worker spinners[SPINNERS];
	struct scene scene;

	SCENE_OPEN(&scene);
	atomic_store(&spinners_end, false);
	for (int i = 0; i < SPINNERS; i++)
		worker_start(&spinners[i], spin, NULL);
	for (int count = 2; count <= FOLLOWED_MAX; count++)
		reap_all_but(&scene, count, count & 1 ? 0 : count - 1);
	atomic_store(&spinners_end, true);
	for (int i = 0; i < SPINNERS; i++)
		worker_join(&spinners[i]);
	scene_close(&scene);
}

/*
 * Several syncs.
 */

/* A held write, then syncs; hands back when they are submitted and the write is with the disk. */
static unsigned hold_syncs(struct scene *scene, struct iocb *write, struct iocb *sync_iocbs,
			   int count)
{
	unsigned before = count_of_file(scene->fs, HOLDFS_WRITE, SUBJECT);

	prepare_write(write, scene->fd, before);
	holdfs_hold(scene->fs, HOLDFS_WRITE);
	expect_submitted(scene->ctx, write, HERE);
	for (int i = 0; i < count; i++)
		expect_submitted(scene->ctx, &sync_iocbs[i], HERE);
	return wait_operation(scene->fs, HOLDFS_WRITE, SUBJECT, before);
}

CASE(fsyncs_released_together_share_one_flush)
{
	struct scene scene;
	struct iocb write, sync_iocbs[5];

	SCENE_OPEN(&scene);
	for (int i = 0; i < 5; i++)
		prepare_sync(&sync_iocbs[i], scene.fd, IO_CMD_FSYNC);
	hold_syncs(&scene, &write, sync_iocbs, 5);
	if (sync_is_held(&scene, 0)) {
		holdfs_release_all(scene.fs);
		expect_event(scene.ctx, &write, BLOCK_BYTES, HERE);
		for (int i = 0; i < 5; i++)
			expect_event(scene.ctx, &sync_iocbs[i], 0, HERE);
		ck_assert_uint_eq(syncs(&scene), 1);
	} else {
		/* Each one has a flush of its own there. */
		wait_operation(scene.fs, HOLDFS_FSYNC, SUBJECT, 4);
	}
	scene_close(&scene);
}

/* What comes while a flush is running is not covered by it. */
CASE(fsyncs_during_a_flush_share_the_next_one)
{
	struct scene scene;
	struct iocb first, late[3];
	unsigned flush;

	SKIP_ON_REFERENCE("every fsync is a flush of its own");
	SCENE_OPEN(&scene);
	holdfs_hold(scene.fs, HOLDFS_FSYNC);
	prepare_sync(&first, scene.fd, IO_CMD_FSYNC);
	expect_submitted(scene.ctx, &first, HERE);
	flush = wait_operation(scene.fs, HOLDFS_FSYNC, SUBJECT, 0);
	for (int i = 0; i < 3; i++) {
		prepare_sync(&late[i], scene.fd, IO_CMD_FSYNC);
		expect_submitted(scene.ctx, &late[i], HERE);
	}
	holdfs_release(scene.fs, flush, 0);
	expect_event(scene.ctx, &first, 0, HERE);
	flush = wait_operation(scene.fs, HOLDFS_FSYNC, SUBJECT, 1);
	expect_no_event(scene.ctx, HERE);
	holdfs_release(scene.fs, flush, 0);
	for (int i = 0; i < 3; i++)
		expect_event(scene.ctx, &late[i], 0, HERE);
	ck_assert_uint_eq(syncs(&scene), 2);
	scene_close(&scene);
}

CASE(fdsync_does_not_serve_an_fsync)
{
	struct scene scene;
	struct iocb data_sync, late[2];
	unsigned flush;

	SCENE_OPEN(&scene);
	holdfs_hold(scene.fs, HOLDFS_FSYNC);
	prepare_sync(&data_sync, scene.fd, IO_CMD_FDSYNC);
	expect_submitted(scene.ctx, &data_sync, HERE);
	flush = wait_operation(scene.fs, HOLDFS_FSYNC, SUBJECT, 0);
	ck_assert(holdfs_operation(scene.fs, flush).data_only);
	prepare_sync(&late[0], scene.fd, IO_CMD_FDSYNC);
	prepare_sync(&late[1], scene.fd, IO_CMD_FSYNC);
	expect_all_submitted(scene.ctx, late, 2, HERE);
	holdfs_release_all(scene.fs);
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq((long)take_event(scene.ctx, HERE).res, 0);
	flush = holdfs_log_length(scene.fs) - 1;
	while (holdfs_operation(scene.fs, flush).file != SUBJECT ||
	       holdfs_operation(scene.fs, flush).data_only)
		ck_assert_msg(flush-- > 0, "the fsync has had no flush of its kind");
	scene_close(&scene);
}

/* Released together, in either order: one full flush does for both. */
CASE(fsync_serves_an_fdsync)
{
	struct scene scene;

	SKIP_ON_REFERENCE("every fsync is a flush of its own");
	SCENE_OPEN(&scene);
	for (int first = 0; first < 2; first++) {
		unsigned syncs_before = syncs(&scene);
		struct iocb write, sync_iocbs[2];
		struct holdfs_operation flush;

		prepare_sync(&sync_iocbs[first], scene.fd, IO_CMD_FSYNC);
		prepare_sync(&sync_iocbs[!first], scene.fd, IO_CMD_FDSYNC);
		hold_syncs(&scene, &write, sync_iocbs, 2);
		holdfs_release_all(scene.fs);
		expect_event(scene.ctx, &write, BLOCK_BYTES, HERE);
		expect_event(scene.ctx, &sync_iocbs[0], 0, HERE);
		expect_event(scene.ctx, &sync_iocbs[1], 0, HERE);
		flush = holdfs_operation(
			scene.fs, wait_operation(scene.fs, HOLDFS_FSYNC, SUBJECT, syncs_before));
		ck_assert(!flush.data_only);
		ck_assert_uint_eq(syncs(&scene), syncs_before + 1);
	}
	scene_close(&scene);
}

/*
 * The kernel reports a failed write-back once to each open description.  A flush shared between two
 * of them would swallow it for one.
 */
CASE(each_open_description_has_its_own_flush)
{
	struct scene scene;
	struct iocb write, sync_iocbs[2];
	unsigned write_index;
	int another;

	SKIP_ON_REFERENCE("holds no fsync");
	SCENE_OPEN(&scene);
	another = holdfs_open(scene.fs, SUBJECT, O_RDWR);
	prepare_sync(&sync_iocbs[0], scene.fd, IO_CMD_FSYNC);
	prepare_sync(&sync_iocbs[1], another, IO_CMD_FSYNC);
	write_index = hold_syncs(&scene, &write, sync_iocbs, 2);
	holdfs_hold(scene.fs, HOLDFS_FSYNC);
	holdfs_release(scene.fs, write_index, 0);
	expect_event(scene.ctx, &write, BLOCK_BYTES, HERE);
	holdfs_release(scene.fs, wait_operation(scene.fs, HOLDFS_FSYNC, SUBJECT, 0), EIO);
	expect_event(scene.ctx, &sync_iocbs[0], -EIO, HERE);
	holdfs_release(scene.fs, wait_operation(scene.fs, HOLDFS_FSYNC, SUBJECT, 1), 0);
	expect_event(scene.ctx, &sync_iocbs[1], 0, HERE);
	close(another);
	scene_close(&scene);
}

/* Two descriptors of one description: whether they share is open, but each result comes. */
CASE(fsync_waits_for_earlier_fsyncs)
{
	struct scene scene;
	struct iocb iocbs[4];
	int duplicate;
	unsigned first, second;

	SKIP_ON_REFERENCE("holds no fsync");
	SCENE_OPEN(&scene);
	duplicate = fcntl(scene.fd, F_DUPFD_CLOEXEC, 0);
	prepare_write(&iocbs[0], scene.fd, 0);
	prepare_sync(&iocbs[1], scene.fd, IO_CMD_FSYNC);
	prepare_write(&iocbs[2], scene.fd, 1);
	prepare_sync(&iocbs[3], duplicate, IO_CMD_FSYNC);
	holdfs_hold(scene.fs, HOLDFS_WRITE);
	expect_all_submitted(scene.ctx, iocbs, 4, HERE);
	first = wait_transfer(&scene, 0);
	second = wait_transfer(&scene, 1);
	/* The second fsync's own write is done; what is left for it is the first fsync. */
	holdfs_release(scene.fs, second, 0);
	expect_event(scene.ctx, &iocbs[2], BLOCK_BYTES, HERE);
	ck_assert(sync_is_held(&scene, 0));
	holdfs_release(scene.fs, first, 0);
	expect_event(scene.ctx, &iocbs[0], BLOCK_BYTES, HERE);
	expect_event(scene.ctx, &iocbs[1], 0, HERE);
	expect_event(scene.ctx, &iocbs[3], 0, HERE);
	close(duplicate);
	scene_close(&scene);
}

static void batches_end_in_order(int descriptions)
{
	enum { ROUNDS = 300, SYNCS = 8, DESCRIPTIONS_MAX = 4 };
	struct scene scene;
	struct iocb sync_iocbs[SYNCS];
	int descriptors[DESCRIPTIONS_MAX];

	SKIP_ON_REFERENCE("starts every fsync at once");
	SCENE_OPEN(&scene);
	for (int i = 0; i < descriptions; i++)
		descriptors[i] = holdfs_open(scene.fs, SUBJECT, O_RDWR);
	for (int round = 0; round < ROUNDS; round++) {
		for (int i = 0; i < SYNCS; i++)
			prepare_sync(&sync_iocbs[i], descriptors[i % descriptions], IO_CMD_FSYNC);
		expect_all_submitted(scene.ctx, sync_iocbs, SYNCS, HERE);
		for (int i = 0; i < SYNCS; i++)
			expect_event(scene.ctx, &sync_iocbs[i], 0, HERE);
	}
	for (int i = 0; i < descriptions; i++)
		close(descriptors[i]);
	scene_close(&scene);
}

CASE(fsyncs_of_one_batch_and_descriptor_end_in_order)
{
	batches_end_in_order(1);
}

/* Their flushes are calls of their own, which nothing else puts in order. */
CASE(fsyncs_of_one_batch_and_several_open_descriptions_end_in_order)
{
	batches_end_in_order(4);
}

CASE(fsync_does_not_wait_for_later_fsyncs)
{
	struct scene scene;
	struct iocb iocbs[4];
	unsigned first;

	SKIP_ON_REFERENCE("holds no fsync");
	SCENE_OPEN(&scene);
	prepare_write(&iocbs[0], scene.fd, 0);
	prepare_sync(&iocbs[1], scene.fd, IO_CMD_FSYNC);
	prepare_later(&iocbs[2], scene.fd, 1);
	prepare_sync(&iocbs[3], scene.fd, IO_CMD_FSYNC);
	holdfs_hold(scene.fs, HOLDFS_READ | HOLDFS_WRITE);
	expect_all_submitted(scene.ctx, iocbs, 4, HERE);
	first = wait_transfer(&scene, 0);
	wait_transfer(&scene, 1);
	holdfs_release(scene.fs, first, 0);
	expect_event(scene.ctx, &iocbs[0], BLOCK_BYTES, HERE);
	expect_event(scene.ctx, &iocbs[1], 0, HERE);
	ck_assert(sync_is_held(&scene, 1));
	holdfs_release_all(scene.fs);
	expect_event(scene.ctx, &iocbs[2], BLOCK_BYTES, HERE);
	expect_event(scene.ctx, &iocbs[3], 0, HERE);
	scene_close(&scene);
}

/*
 * Requests that end badly.
 */

CASE(errors_of_earlier_requests_are_not_the_fsyncs)
{
	struct scene scene;
	struct iocb iocbs[3];
	unsigned write, read;

	SCENE_OPEN(&scene);
	prepare_write(&iocbs[0], scene.fd, 0);
	prepare_read(&iocbs[1], scene.fd, 1);
	prepare_sync(&iocbs[2], scene.fd, IO_CMD_FSYNC);
	holdfs_hold(scene.fs, HOLDFS_READ | HOLDFS_WRITE);
	expect_all_submitted(scene.ctx, iocbs, 3, HERE);
	write = wait_operation(scene.fs, HOLDFS_WRITE, SUBJECT, 0);
	read = wait_operation(scene.fs, HOLDFS_READ, SUBJECT, 0);
	if (sync_is_held(&scene, 0)) {
		holdfs_release(scene.fs, write, EIO);
		expect_event(scene.ctx, &iocbs[0], -EIO, HERE);
		ck_assert(sync_is_held(&scene, 0));
		holdfs_release(scene.fs, read, EIO);
		expect_event(scene.ctx, &iocbs[1], -EIO, HERE);
		expect_event(scene.ctx, &iocbs[2], 0, HERE);
	}
	scene_close(&scene);
}

/* Accepted, and failed before anything reached the disk. */
CASE(requests_that_fail_at_once_have_ended)
{
	struct scene scene;
	struct iocb iocbs[3];

	SCENE_OPEN(&scene);
	io_prep_pwrite(&iocbs[0], scene.fd, unreadable_page(), BLOCK_BYTES, 0);
	io_prep_pwrite(&iocbs[1], scene.fd, write_blocks[0], 0, 0);
	prepare_sync(&iocbs[2], scene.fd, IO_CMD_FSYNC);
	expect_all_submitted(scene.ctx, iocbs, 3, HERE);
	for (int i = 0; i < 3; i++) {
		struct io_event event = take_event(scene.ctx, HERE);

		ck_assert_int_eq((long)event.res, event.obj == &iocbs[0] ? -EFAULT : 0);
	}
	scene_close(&scene);
}

CASE(errors_of_a_flush_reach_all_who_share_it_and_nobody_else)
{
	struct scene scene;
	struct iocb write, sync_iocbs[3];
	unsigned write_index;

	SKIP_ON_REFERENCE("every fsync is a flush of its own");
	SCENE_OPEN(&scene);
	for (int i = 0; i < 3; i++)
		prepare_sync(&sync_iocbs[i], scene.fd, IO_CMD_FSYNC);
	write_index = hold_syncs(&scene, &write, sync_iocbs, 3);
	holdfs_hold(scene.fs, HOLDFS_FSYNC);
	holdfs_release(scene.fs, write_index, 0);
	expect_event(scene.ctx, &write, BLOCK_BYTES, HERE);
	holdfs_release(scene.fs, wait_operation(scene.fs, HOLDFS_FSYNC, SUBJECT, 0), EIO);
	for (int i = 0; i < 3; i++)
		expect_event(scene.ctx, &sync_iocbs[i], -EIO, HERE);
	holdfs_hold(scene.fs, 0);
	expect_result(scene.ctx, &sync_iocbs[0], 0, HERE);
	ck_assert_uint_eq(syncs(&scene), 2);
	scene_close(&scene);
}

CASE(errors_of_a_lone_fsync_are_reported)
{
	struct scene scene;
	struct iocb sync;

	SCENE_OPEN(&scene);
	holdfs_hold(scene.fs, HOLDFS_FSYNC);
	prepare_sync(&sync, scene.fd, IO_CMD_FSYNC);
	expect_submitted(scene.ctx, &sync, HERE);
	holdfs_release(scene.fs, wait_operation(scene.fs, HOLDFS_FSYNC, SUBJECT, 0), ENOSPC);
	expect_event(scene.ctx, &sync, -ENOSPC, HERE);
	scene_close(&scene);
}

/*
 * Who waits for the fsync.
 */

/*
 * The thread sleeps for all three events before the fsync is there.  A library in which it sleeps
 * in the kernel for that many would never learn that the write has ended.
 */
CASE(sleeper_from_before_the_fsync_gets_its_event)
{
	struct scene scene;
	struct iocb writes[2], sync;
	struct reaper reaper;

	SCENE_OPEN(&scene);
	holdfs_hold(scene.fs, HOLDFS_WRITE);
	for (unsigned i = 0; i < 2; i++) {
		prepare_write(&writes[i], scene.fd, i);
		expect_submitted(scene.ctx, &writes[i], HERE);
		wait_operation(scene.fs, HOLDFS_WRITE, SUBJECT, i);
	}
	reaper_start(&reaper, scene.ctx, 3, 3, NULL);
	reaper_wait_blocked(&reaper);
	prepare_sync(&sync, scene.fd, IO_CMD_FSYNC);
	expect_submitted(scene.ctx, &sync, HERE);
	if (sync_is_held(&scene, 0))
		ck_assert(!worker_has_ended(&reaper.worker));
	holdfs_release_all(scene.fs);
	ck_assert_int_eq(reaper_join(&reaper), 3);
	if (!on_reference())
		ck_assert_ptr_eq(reaper.events[2].obj, &sync);
	scene_close(&scene);
}

/* Several sleepers with different counts, of which one waits for the fsync alone. */
CASE(sleepers_with_different_counts_all_wake)
{
	struct scene scene;
	struct iocb writes[3], sync;
	struct reaper one, two;

	SKIP_ON_REFERENCE("its fsync does not wait");
	SCENE_OPEN(&scene);
	holdfs_hold(scene.fs, HOLDFS_WRITE);
	for (unsigned i = 0; i < 3; i++) {
		prepare_write(&writes[i], scene.fd, i);
		expect_submitted(scene.ctx, &writes[i], HERE);
		wait_operation(scene.fs, HOLDFS_WRITE, SUBJECT, i);
	}
	reaper_start(&two, scene.ctx, 2, 2, NULL);
	reaper_wait_blocked(&two);
	reaper_start(&one, scene.ctx, 2, 2, NULL);
	reaper_wait_blocked(&one);
	prepare_sync(&sync, scene.fd, IO_CMD_FSYNC);
	expect_submitted(scene.ctx, &sync, HERE);
	ck_assert(sync_is_held(&scene, 0));
	holdfs_release_all(scene.fs);
	ck_assert_int_eq(reaper_join(&one), 2);
	ck_assert_int_eq(reaper_join(&two), 2);
	ck_assert(one.events[1].obj == &sync || two.events[1].obj == &sync);
	scene_close(&scene);
}

/* It sleeps where only the fsync is; what the fsync waits for is in a context that nobody calls. */
CASE(sleeper_in_another_context_gets_the_fsyncs_event)
{
	struct scene scene;
	io_context_t ctx;
	struct iocb write, sync;
	struct reaper reaper;

	SCENE_OPEN(&scene);
	ctx = new_context(4);
	holdfs_hold(scene.fs, HOLDFS_WRITE);
	prepare_write(&write, scene.fd, 0);
	expect_submitted(scene.ctx, &write, HERE);
	wait_operation(scene.fs, HOLDFS_WRITE, SUBJECT, 0);
	reaper_start(&reaper, ctx, 1, 1, NULL);
	reaper_wait_blocked(&reaper);
	prepare_sync(&sync, scene.fd, IO_CMD_FSYNC);
	expect_submitted(ctx, &sync, HERE);
	if (sync_is_held(&scene, 0))
		ck_assert(!worker_has_ended(&reaper.worker));
	holdfs_release_all(scene.fs);
	ck_assert_int_eq(reaper_join(&reaper), 1);
	ck_assert_ptr_eq(reaper.events[0].obj, &sync);
	expect_event(scene.ctx, &write, BLOCK_BYTES, HERE);
	free_context(ctx);
	scene_close(&scene);
}

/* From submission to the signal nothing of the library is called. */
static void watch_eventfd(struct scene *scene, int fd, enum earlier_kind kind, bool other_context,
			  unsigned block)
{
	io_context_t sync_ctx = other_context ? new_context(4) : scene->ctx;
	unsigned before = count_of_file(scene->fs, HOLDFS_READ | HOLDFS_WRITE, SUBJECT);
	unsigned syncs_before = syncs(scene);
	int event_fd = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct iocb earlier, sync;

	prepare_earlier(&earlier, kind, fd, block);
	prepare_sync(&sync, fd, IO_CMD_FSYNC);
	io_set_eventfd(&sync, event_fd);
	holdfs_hold(scene->fs, HOLDFS_READ | HOLDFS_WRITE);
	expect_submitted(scene->ctx, &earlier, HERE);
	expect_submitted(sync_ctx, &sync, HERE);
	wait_operation(scene->fs, HOLDFS_READ | HOLDFS_WRITE, SUBJECT, before);
	send_silent_witness(scene);
	if (!on_reference())
		ck_assert(!is_readable(event_fd));
	holdfs_release_all(scene->fs);
	WAIT_UNTIL(is_readable(event_fd));
	ck_assert_uint_eq(take_count(event_fd), 1);
	ck_assert_uint_eq(syncs(scene), syncs_before + 1);
	if (!other_context && !on_reference())
		expect_event(scene->ctx, &earlier, 2L * BLOCK_BYTES, HERE);
	else if (!other_context)
		take_event(scene->ctx, HERE);
	if (on_reference() && !other_context)
		take_event(sync_ctx, HERE);
	else
		expect_event(sync_ctx, &sync, 0, HERE);
	if (other_context) {
		expect_event(scene->ctx, &earlier, 2L * BLOCK_BYTES, HERE);
		free_context(sync_ctx);
	}
	ck_assert_uint_eq(take_count(event_fd), 0);
	close(event_fd);
}

CASE(eventfd_of_a_held_fsync_is_signalled_without_a_call)
{
	struct scene scene;
	int buffered;

	SCENE_OPEN(&scene);
	buffered = holdfs_open(scene.fs, SUBJECT, O_RDONLY);
	for (unsigned i = 0; i < 2; i++) {
		watch_eventfd(&scene, scene.fd, DIRECT_WRITE, i, 4 * i);
		if (!on_reference())
			watch_eventfd(&scene, buffered, COLD_READ, i, 4 * i + 2);
	}
	close(buffered);
	scene_close(&scene);
}

static int callbacks;
static struct iocb *last_called;

static void count_callback(io_context_t ctx, struct iocb *iocb, long res, long res2)
{
	(void)ctx;
	(void)res2;
	callbacks += res == 0 || res == BLOCK_BYTES;
	last_called = iocb;
}

CASE(io_fsync_calls_back_after_the_flush)
{
	struct scene scene;
	struct iocb write, sync;

	SCENE_OPEN(&scene);
	prepare_write(&write, scene.fd, 0);
	io_set_callback(&write, count_callback);
	holdfs_hold(scene.fs, HOLDFS_WRITE);
	expect_submitted(scene.ctx, &write, HERE);
	ck_assert_int_eq(io_fsync(scene.ctx, &sync, count_callback, scene.fd), 0);
	wait_operation(scene.fs, HOLDFS_WRITE, SUBJECT, 0);
	if (sync_is_held(&scene, 0)) {
		ck_assert_int_eq(io_queue_run(scene.ctx), 0);
		ck_assert_int_eq(callbacks, 0);
	}
	holdfs_release_all(scene.fs);
	WAIT_UNTIL(io_queue_run(scene.ctx) == 0 && callbacks == 2);
	if (!on_reference())
		ck_assert_ptr_eq(last_called, &sync);
	scene_close(&scene);
}

/*
 * io_cancel.
 */

CASE(held_fsync_can_be_cancelled)
{
	struct scene scene;
	struct iocb write, sync_iocbs[3];
	int event_fd = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	SKIP_ON_REFERENCE("holds no fsync, and cancels none");
	SCENE_OPEN(&scene);
	for (int i = 0; i < 3; i++)
		prepare_sync(&sync_iocbs[i], scene.fd, IO_CMD_FSYNC);
	io_set_eventfd(&sync_iocbs[0], event_fd);
	hold_syncs(&scene, &write, sync_iocbs, 3);
	/* The oldest, on which the others might hang, then the youngest. */
	ck_assert_int_eq(io_cancel(scene.ctx, &sync_iocbs[0], NULL), -EINPROGRESS);
	expect_event(scene.ctx, &sync_iocbs[0], -ECANCELED, HERE);
	expect_signals(event_fd, 1, HERE);
	ck_assert_int_eq(io_cancel(scene.ctx, &sync_iocbs[0], NULL), -EINVAL);
	ck_assert_int_eq(io_cancel(scene.ctx, &sync_iocbs[2], NULL), -EINPROGRESS);
	expect_event(scene.ctx, &sync_iocbs[2], -ECANCELED, HERE);
	ck_assert(sync_is_held(&scene, 0));
	holdfs_release_all(scene.fs);
	expect_event(scene.ctx, &write, BLOCK_BYTES, HERE);
	expect_event(scene.ctx, &sync_iocbs[1], 0, HERE);
	ck_assert_uint_eq(syncs(&scene), 1);
	ck_assert_uint_eq(take_count(event_fd), 0);
	close(event_fd);
	scene_close(&scene);
}

/*
 * Nothing of a cancelled fsync stays behind that a later one would wait for, or that it would skip.
 */
CASE(fsync_after_a_cancelled_one_waits_for_the_write)
{
	struct scene scene;
	struct iocb write, cancelled, later;

	SKIP_ON_REFERENCE("holds no fsync, and cancels none");
	SCENE_OPEN(&scene);
	prepare_sync(&cancelled, scene.fd, IO_CMD_FSYNC);
	hold_syncs(&scene, &write, &cancelled, 1);
	ck_assert_int_eq(io_cancel(scene.ctx, &cancelled, NULL), -EINPROGRESS);
	expect_event(scene.ctx, &cancelled, -ECANCELED, HERE);
	prepare_sync(&later, scene.fd, IO_CMD_FSYNC);
	expect_submitted(scene.ctx, &later, HERE);
	ck_assert(sync_is_held(&scene, 0));
	holdfs_release_all(scene.fs);
	expect_event(scene.ctx, &write, BLOCK_BYTES, HERE);
	expect_event(scene.ctx, &later, 0, HERE);
	ck_assert_uint_eq(syncs(&scene), 1);
	scene_close(&scene);
}

CASE(running_fsync_is_past_cancelling)
{
	struct scene scene;
	struct iocb sync;

	SCENE_OPEN(&scene);
	holdfs_hold(scene.fs, HOLDFS_FSYNC);
	prepare_sync(&sync, scene.fd, IO_CMD_FSYNC);
	expect_submitted(scene.ctx, &sync, HERE);
	wait_operation(scene.fs, HOLDFS_FSYNC, SUBJECT, 0);
	ck_assert_int_eq(io_cancel(scene.ctx, &sync, NULL), on_reference() ? -EINVAL : -EAGAIN);
	expect_no_event(scene.ctx, HERE);
	holdfs_release_all(scene.fs);
	expect_event(scene.ctx, &sync, 0, HERE);
	scene_close(&scene);
}

/*
 * Reads that wait for the disk: whether each can still be cancelled or not, it has ended
 * afterwards.
 */
CASE(cancelled_requests_have_ended)
{
	struct scene scene;
	struct iocb reads[8], sync;
	int buffered, cancelled = 0, fsync_seen = 0;

	SKIP_ON_REFERENCE("a cold read waits for the disk in io_submit");
	SCENE_OPEN(&scene);
	buffered = holdfs_open(scene.fs, SUBJECT, O_RDONLY);
	holdfs_hold(scene.fs, HOLDFS_READ);
	for (unsigned i = 0; i < 8; i++)
		prepare_read(&reads[i], buffered, i);
	expect_all_submitted(scene.ctx, reads, 8, HERE);
	wait_operation(scene.fs, HOLDFS_READ, SUBJECT, 0);
	prepare_sync(&sync, buffered, IO_CMD_FSYNC);
	expect_submitted(scene.ctx, &sync, HERE);
	ck_assert(sync_is_held(&scene, 0));
	for (int i = 7; i > 0; i--) {
		int result = io_cancel(scene.ctx, &reads[i], NULL);

		ck_assert(result == -EINPROGRESS || result == -EAGAIN);
		cancelled += result == -EINPROGRESS;
	}
	ck_assert(sync_is_held(&scene, 0));
	holdfs_release_all(scene.fs);
	for (int i = 0; i < 9; i++) {
		struct io_event event = take_event(scene.ctx, HERE);

		ck_assert_msg(!fsync_seen, "the fsync ended before a read");
		fsync_seen = event.obj == &sync;
		cancelled -= (long)event.res == -ECANCELED;
		ck_assert(fsync_seen || (long)event.res == BLOCK_BYTES ||
			  (long)event.res == -ECANCELED);
	}
	ck_assert(fsync_seen);
	ck_assert_int_eq(cancelled, 0);
	close(buffered);
	scene_close(&scene);
}

/*
 * io_destroy.
 */

/* here: the write is in the context that is destroyed.  Otherwise only the fsync is. */
static void destroy_with_held(bool here)
{
	int event_fd = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct scene scene;
	struct iocb write, sync;
	struct destroyer destroyer;
	io_context_t ctx;

	SKIP_ON_REFERENCE("holds no fsync");
	SCENE_OPEN(&scene);
	ctx = new_context(4);
	prepare_write(&write, scene.fd, 0);
	prepare_sync(&sync, scene.fd, IO_CMD_FSYNC);
	io_set_eventfd(&sync, event_fd);
	holdfs_hold(scene.fs, HOLDFS_WRITE);
	expect_submitted(here ? ctx : scene.ctx, &write, HERE);
	expect_submitted(ctx, &sync, HERE);
	wait_operation(scene.fs, HOLDFS_WRITE, SUBJECT, 0);
	destroyer_start(&destroyer, ctx);
	worker_wait_blocked(&destroyer.worker);
	ck_assert(sync_is_held(&scene, 0));
	holdfs_release_all(scene.fs);
	ck_assert_int_eq(destroyer_join(&destroyer), 0);
	ck_assert_uint_eq(syncs(&scene), 1);
	ck_assert_uint_ne(
		holdfs_operation(scene.fs, wait_operation(scene.fs, HOLDFS_FSYNC, SUBJECT, 0))
			.answered,
		0);
	ck_assert_uint_eq(take_count(event_fd), 1);
	if (!here)
		expect_event(scene.ctx, &write, BLOCK_BYTES, HERE);
	close(event_fd);
	scene_close(&scene);
}

CASE(io_destroy_waits_for_a_held_fsync)
{
	destroy_with_held(true);
}

CASE(io_destroy_waits_for_an_fsync_held_by_another_context)
{
	destroy_with_held(false);
}

/* The other way round: the context whose requests the fsync waits for goes away. */
CASE(fsync_survives_the_context_it_waits_for)
{
	struct scene scene;
	struct iocb write, sync;
	struct destroyer destroyer;
	io_context_t ctx;

	SCENE_OPEN(&scene);
	ctx = new_context(4);
	prepare_write(&write, scene.fd, 0);
	prepare_sync(&sync, scene.fd, IO_CMD_FSYNC);
	holdfs_hold(scene.fs, HOLDFS_WRITE);
	expect_submitted(ctx, &write, HERE);
	expect_submitted(scene.ctx, &sync, HERE);
	wait_operation(scene.fs, HOLDFS_WRITE, SUBJECT, 0);
	destroyer_start(&destroyer, ctx);
	worker_wait_blocked(&destroyer.worker);
	sync_is_held(&scene, 0);
	holdfs_release_all(scene.fs);
	ck_assert_int_eq(destroyer_join(&destroyer), 0);
	expect_event(scene.ctx, &sync, 0, HERE);
	scene_close(&scene);
}

/*
 * The file that is synchronized is the one of the call.
 */

CASE(descriptor_may_be_closed_while_its_fsync_is_held)
{
	struct scene scene;
	struct iocb write, sync;

	SCENE_OPEN(&scene);
	prepare_sync(&sync, scene.fd, IO_CMD_FSYNC);
	hold_syncs(&scene, &write, &sync, 1);
	close(scene.fd);
	scene.fd = -1;
	if (sync_is_silently_held(&scene, 0)) {
		holdfs_release_all(scene.fs);
		expect_event(scene.ctx, &write, BLOCK_BYTES, HERE);
		expect_event(scene.ctx, &sync, 0, HERE);
		ck_assert_uint_eq(syncs(&scene), 1);
	}
	scene_close(&scene);
}

/*
 * shared: the write went through the same number.  Otherwise through another descriptor, which
 * stays.
 */
static void reuse_number(bool shared)
{
	struct scene scene;
	struct iocb write, sync;
	int fd, other;

	SKIP_ON_REFERENCE("holds no fsync");
	SCENE_OPEN(&scene);
	other = holdfs_open(scene.fs, OTHER, O_RDWR | O_DIRECT);
	fd = shared ? scene.fd : fcntl(scene.fd, F_DUPFD_CLOEXEC, 0);
	prepare_sync(&sync, fd, IO_CMD_FSYNC);
	hold_syncs(&scene, &write, &sync, 1);
	ck_assert_int_eq(dup3(other, fd, O_CLOEXEC), fd);
	ck_assert(sync_is_held(&scene, 0));
	holdfs_release_all(scene.fs);
	expect_event(scene.ctx, &write, BLOCK_BYTES, HERE);
	expect_event(scene.ctx, &sync, 0, HERE);
	ck_assert_uint_eq(syncs(&scene), 1);
	ck_assert_uint_eq(count_of_file(scene.fs, HOLDFS_FSYNC, OTHER), 0);
	/* What the number means now is synchronized when asked for now. */
	expect_result(scene.ctx, &sync, 0, HERE);
	ck_assert_uint_eq(count_of_file(scene.fs, HOLDFS_FSYNC, OTHER), 1);
	if (!shared)
		close(fd);
	close(other);
	scene_close(&scene);
}

CASE(number_reused_while_its_fsync_is_held_does_not_change_the_file)
{
	reuse_number(true);
}

CASE(number_of_the_fsync_alone_reused_does_not_change_the_file)
{
	reuse_number(false);
}

/* As soon as io_submit has returned, the iocb is the caller's again. */
CASE(iocb_of_a_held_fsync_may_be_overwritten)
{
	struct scene scene;
	struct iocb write, sync;
	int mark;

	SCENE_OPEN(&scene);
	prepare_sync(&sync, scene.fd, IO_CMD_FSYNC);
	sync.data = &mark;
	hold_syncs(&scene, &write, &sync, 1);
	memset(&sync, 0xff, sizeof(sync));
	memset(&write, 0xff, sizeof(write));
	if (sync_is_held(&scene, 0)) {
		struct io_event event;

		holdfs_release_all(scene.fs);
		expect_event(scene.ctx, &write, BLOCK_BYTES, HERE);
		event = take_event(scene.ctx, HERE);
		ck_assert_ptr_eq(event.data, &mark);
		ck_assert_ptr_eq(event.obj, &sync);
		ck_assert_int_eq((long)event.res, 0);
	}
	scene_close(&scene);
}

CASE(eventfd_of_a_held_fsync_may_be_closed)
{
	struct scene scene;
	struct iocb write, sync;
	int event_fd = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int duplicate = fcntl(event_fd, F_DUPFD_CLOEXEC, 0), other;

	SCENE_OPEN(&scene);
	prepare_sync(&sync, scene.fd, IO_CMD_FSYNC);
	io_set_eventfd(&sync, event_fd);
	hold_syncs(&scene, &write, &sync, 1);
	other = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ck_assert_int_eq(dup3(other, event_fd, O_CLOEXEC), event_fd);
	if (sync_is_held(&scene, 0)) {
		holdfs_release_all(scene.fs);
		expect_event(scene.ctx, &write, BLOCK_BYTES, HERE);
		expect_event(scene.ctx, &sync, 0, HERE);
		expect_signals(duplicate, 1, HERE);
	}
	ck_assert_uint_eq(take_count(other), 0);
	close(other);
	close(duplicate);
	close(event_fd);
	scene_close(&scene);
}

CASE(record_locks_survive)
{
	struct scene scene;
	struct iocb write, read, sync_iocbs[3];
	io_context_t ctx;
	int buffered;

	SKIP_ON_REFERENCE("a cold read waits for the disk in io_submit");
	SCENE_OPEN(&scene);
	ctx = new_context(8);
	buffered = holdfs_open(scene.fs, SUBJECT, O_RDWR);
	lock_file(scene.fd);
	holdfs_hold(scene.fs, HOLDFS_READ | HOLDFS_WRITE);
	prepare_write(&write, scene.fd, 0);
	prepare_read(&read, buffered, 1);
	prepare_sync(&sync_iocbs[0], scene.fd, IO_CMD_FSYNC);
	prepare_sync(&sync_iocbs[1], buffered, IO_CMD_FDSYNC);
	prepare_sync(&sync_iocbs[2], scene.fd, IO_CMD_FSYNC);
	expect_submitted(ctx, &write, HERE);
	expect_submitted(ctx, &read, HERE);
	expect_all_submitted(ctx, sync_iocbs, 3, HERE);
	wait_operation(scene.fs, HOLDFS_WRITE, SUBJECT, 0);
	wait_operation(scene.fs, HOLDFS_READ, SUBJECT, 0);
	expect_locked(scene.fd, "with requests in flight");
	ck_assert_int_eq(io_cancel(ctx, &sync_iocbs[2], NULL), -EINPROGRESS);
	expect_event(ctx, &sync_iocbs[2], -ECANCELED, HERE);
	expect_locked(scene.fd, "after io_cancel");
	holdfs_release_all(scene.fs);
	for (int i = 0; i < 4; i++)
		ck_assert_int_ge((long)take_event(ctx, HERE).res, 0);
	expect_locked(scene.fd, "after the events");
	free_context(ctx);
	expect_locked(scene.fd, "after io_destroy");
	close(buffered);
	scene_close(&scene);
}

/*
 * Batches with an element that is refused.
 */

enum bad_element { BAD_DESCRIPTOR, BAD_OPCODE, BAD_POINTER, BAD_ELEMENTS };

static struct iocb *bad_iocb(struct iocb *storage, enum bad_element kind, int fd)
{
	prepare_write(storage, fd, 9);
	if (kind == BAD_DESCRIPTOR)
		storage->aio_fildes = -1;
	if (kind == BAD_OPCODE)
		storage->aio_lio_opcode = 99;
	return kind == BAD_POINTER ? NULL : storage;
}

static const int bad_element_errors[BAD_ELEMENTS] = { -EBADF, -EINVAL, -EFAULT };

CASE(fsync_before_a_refused_element_is_accepted)
{
	struct scene scene;
	struct iocb write, sync, storage;

	SCENE_OPEN(&scene);
	for (int kind = 0; kind < BAD_ELEMENTS; kind++) {
		unsigned syncs_before = syncs(&scene);
		struct iocb *batch[] = { &write, &sync,
					 bad_iocb(&storage, (enum bad_element)kind, scene.fd) };

		prepare_write(&write, scene.fd, (unsigned)kind);
		prepare_sync(&sync, scene.fd, IO_CMD_FSYNC);
		holdfs_hold(scene.fs, HOLDFS_WRITE);
		ck_assert_int_eq(io_submit(scene.ctx, 3, batch), 2);
		wait_operation(scene.fs, HOLDFS_WRITE, SUBJECT, (unsigned)kind);
		if (!sync_is_held(&scene, syncs_before))
			break;
		holdfs_release_all(scene.fs);
		expect_event(scene.ctx, &write, BLOCK_BYTES, HERE);
		expect_event(scene.ctx, &sync, 0, HERE);
		ck_assert_uint_eq(syncs(&scene), syncs_before + 1);
	}
	scene_close(&scene);
}

/* Also when something is in flight, so that the fsync would have been held. */
CASE(fsync_after_a_refused_element_is_not_accepted)
{
	int event_fd = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct scene scene;
	struct iocb write, sync, storage;

	SCENE_OPEN(&scene);
	for (int i = 0; i < 2 * BAD_ELEMENTS; i++) {
		enum bad_element kind = (enum bad_element)(i / 2);
		bool leading_write = i & 1;
		struct iocb *bad = bad_iocb(&storage, kind, scene.fd);
		struct iocb *batch[] = { &write, bad, &sync };

		prepare_write(&write, scene.fd, (unsigned)i);
		prepare_sync(&sync, scene.fd, IO_CMD_FSYNC);
		io_set_eventfd(&sync, event_fd);
		holdfs_hold(scene.fs, HOLDFS_WRITE);
		if (leading_write) {
			ck_assert_int_eq(io_submit(scene.ctx, 3, batch), 1);
		} else {
			expect_submitted(scene.ctx, &write, HERE);
			ck_assert_int_eq(io_submit(scene.ctx, 2, batch + 1),
					 bad_element_errors[kind]);
		}
		wait_operation(scene.fs, HOLDFS_WRITE, SUBJECT, (unsigned)i);
		holdfs_release_all(scene.fs);
		expect_event(scene.ctx, &write, BLOCK_BYTES, HERE);
		send_witness(&scene);
		expect_no_event(scene.ctx, HERE);
		ck_assert_uint_eq(syncs(&scene), 0);
		ck_assert_uint_eq(take_count(event_fd), 0);
	}
	/* No trace of them is left to wait for. */
	expect_result(scene.ctx, &sync, 0, HERE);
	close(event_fd);
	scene_close(&scene);
}

/* Descriptors of all kinds with the answer to an fsync. */
struct answer {
	const char *path;
	int flags;
	int error;
};

static const struct answer answers[] = {
	{ "/dev/null", O_RDWR, -EINVAL },
	{ "/dev/zero", O_RDWR, -EINVAL },
	{ "/proc/self/status", O_RDONLY, -EINVAL },
	{ "/proc/self", O_RDONLY | O_DIRECTORY, -EINVAL },
	{ "/", O_RDONLY | O_DIRECTORY, 0 },
	{ "/dev", O_RDONLY | O_DIRECTORY, 0 },
	{ "/sys/kernel/uevent_seqnum", O_RDONLY, 0 },
	{ "/", O_PATH, -EBADF },
};

#define ANSWERS ((int)(sizeof(answers) / sizeof(*answers)))

static void expect_malformed_refused(struct scene *scene, int resfd, int error, const char *what)
{
	struct iocb iocb;

	for (int field = 0; field < 6; field++) {
		prepare_sync(&iocb, scene->fd, field & 1 ? IO_CMD_FSYNC : IO_CMD_FDSYNC);
		if (field == 0)
			iocb.u.c.nbytes = 1;
		else if (field == 1)
			iocb.u.c.offset = 1;
		else if (field == 2)
			iocb.u.c.buf = &iocb;
		else if (field == 3)
			iocb.aio_rw_flags = 1;
		else if (field == 4)
			iocb.u.c.__pad3 = 1;
		else
			io_set_eventfd(&iocb, resfd);
		expect_refused(scene->ctx, &iocb, field == 5 ? error : -EINVAL, what);
	}
}

/* The same answers whether the kernel is asked at once or the fsync would be held. */
static int expect_answers(struct scene *scene, struct iocb accepted[ANSWERS], const char *what)
{
	int ends[2], closed, count = 0;
	struct iocb iocb;

	make_pipe(ends, 0);
	closed = dup(scene->fd);
	close(closed);
	prepare_sync(&iocb, closed, IO_CMD_FSYNC);
	expect_refused(scene->ctx, &iocb, -EBADF, what);
	prepare_sync(&iocb, ends[1], IO_CMD_FDSYNC);
	expect_refused(scene->ctx, &iocb, -EINVAL, what);
	expect_malformed_refused(scene, closed, -EBADF, what);
	expect_malformed_refused(scene, ends[0], -EINVAL, what);
	close_pair(ends);
	for (int i = 0; i < ANSWERS; i++) {
		int fd = open_device(answers[i].path, answers[i].flags), result;

		prepare_sync(&accepted[count], fd, IO_CMD_FSYNC);
		result = submit_one(scene->ctx, &accepted[count]);
		ck_assert_msg(result == (answers[i].error ? answers[i].error : 1), "%s, %s: %d",
			      what, answers[i].path, result);
		count += result == 1;
		close(fd);
	}
	return count;
}

CASE(fsyncs_are_refused_alike_with_requests_in_flight)
{
	struct scene scene;
	struct iocb write, sync, accepted[3][ANSWERS];
	int fd, count;

	SCENE_OPEN(&scene);
	count = expect_answers(&scene, accepted[0], "idle");
	prepare_write(&write, scene.fd, 0);
	holdfs_hold(scene.fs, HOLDFS_WRITE);
	expect_submitted(scene.ctx, &write, HERE);
	wait_operation(scene.fs, HOLDFS_WRITE, SUBJECT, 0);
	count += expect_answers(&scene, accepted[1], "in flight");
	/* Whatever this closed descriptor was, an fsync of any file may have to wait for it. */
	fd = fcntl(scene.fd, F_DUPFD_CLOEXEC, 500);
	prepare_write(&sync, fd, 1);
	expect_submitted(scene.ctx, &sync, HERE);
	wait_operation(scene.fs, HOLDFS_WRITE, SUBJECT, 1);
	close(fd);
	count += expect_answers(&scene, accepted[2], "closed in flight");
	ck_assert_uint_eq(syncs(&scene), 0);
	holdfs_release_all(scene.fs);
	for (int i = 0; i < count + 2; i++)
		ck_assert_int_ge((long)take_event(scene.ctx, HERE).res, 0);
	prepare_sync(&sync, scene.fd, IO_CMD_FSYNC);
	expect_result(scene.ctx, &sync, 0, HERE);
	ck_assert_uint_eq(syncs(&scene), 1);
	scene_close(&scene);
}

/*
 * umount: when the program has closed its own descriptors, nobody else holds the file system busy.
 * The contexts stay, and nothing of the library is called meanwhile.
 */

/*
 * The kernel itself drops its reference to the file of an asynchronous request a moment after the
 * event, so here umount may be tried again.
 */
CASE(file_system_of_a_finished_fsync_can_be_unmounted)
{
	struct scene scene;
	struct iocb write, sync;

	SCENE_OPEN(&scene);
	prepare_sync(&sync, scene.fd, IO_CMD_FSYNC);
	hold_syncs(&scene, &write, &sync, 1);
	sync_is_held(&scene, 0);
	holdfs_release_all(scene.fs);
	take_event(scene.ctx, HERE);
	take_event(scene.ctx, HERE);
	close(scene.fd);
	close(scene.witness);
	WAIT_UNTIL(umount2(scene.fs->directory, 0) == 0);
	free_context(scene.ctx);
	free_context(scene.witness_ctx);
	holdfs_unmount(scene.fs);
}

/*
 * A read that io_submit itself would have made leaves nothing behind in its event's wake, so
 * neither may one that was made elsewhere: the first umount works.
 */
CASE(file_system_of_an_offloaded_read_can_be_unmounted_at_once)
{
	for (int round = 0; round < 20; round++) {
		struct holdfs *fs = holdfs_mount(1, (size_t)16 * BLOCK_BYTES);
		io_context_t ctx = new_context(4);
		struct iocb read;
		int fd;

		if (!fs) {
			free_context(ctx);
			SKIP("FUSE cannot be used here");
		}
		fd = holdfs_open(fs, 0, O_RDONLY);
		prepare_read(&read, fd, 0);
		expect_result(ctx, &read, BLOCK_BYTES, HERE);
		close(fd);
		ck_assert_msg(umount2(fs->directory, 0) == 0, "round %d: umount: %s", round,
			      strerror(errno));
		free_context(ctx);
		holdfs_unmount(fs);
	}
}

CASE(disk_file_system_can_be_unmounted)
{
	char *directory = loop_mount("ext4", "32");
	io_context_t ctx = new_context(16);
	struct iocb iocbs[9];
	int fd, buffered, count = 0;

	if (!directory) {
		free_context(ctx);
		SKIP("no loop device");
	}
	buffered = scratch_file_in(directory, (size_t)16 * BLOCK_BYTES);
	fd = reopen_file(buffered, O_RDWR | O_DIRECT);
	ck_assert_int_ge(fd, 0);
	posix_fadvise(buffered, 0, 0, POSIX_FADV_DONTNEED);
	for (unsigned i = 0; i < 4; i++) {
		prepare_write(&iocbs[i], fd, i);
		prepare_read(&iocbs[4 + i], buffered, 4 + i);
	}
	prepare_sync(&iocbs[8], buffered, IO_CMD_FSYNC);
	expect_all_submitted(ctx, iocbs, 9, HERE);
	while (count++ < 9)
		ck_assert_int_ge((long)take_event(ctx, HERE).res, 0);
	close(fd);
	close(buffered);
	WAIT_UNTIL(umount2(directory, 0) == 0);
	ck_assert_int_eq(rmdir(directory), 0);
	free(directory);
	free_context(ctx);
}

/* An fsync could join the one that runs; a descriptor that may not sync joins nothing. */
CASE(an_fsync_by_a_path_descriptor_is_refused_beside_a_running_one)
{
	struct scene scene;
	struct iocb first, refused;
	unsigned operation;
	int path, buffered;

	SCENE_OPEN(&scene);
	path = open(holdfs_path(scene.fs, SUBJECT), O_PATH | O_CLOEXEC);
	ck_assert_int_ge(path, 0);
	buffered = holdfs_open(scene.fs, SUBJECT, O_RDWR);
	holdfs_hold(scene.fs, HOLDFS_FSYNC);
	prepare_sync(&first, buffered, IO_CMD_FSYNC);
	expect_submitted(scene.ctx, &first, HERE);
	operation = wait_operation(scene.fs, HOLDFS_FSYNC, SUBJECT, 0);
	for (int i = 0; i < 2; i++) {
		prepare_sync(&refused, path, i ? IO_CMD_FDSYNC : IO_CMD_FSYNC);
		expect_refused(scene.ctx, &refused, -EBADF, "in the same context");
		expect_refused(scene.witness_ctx, &refused, -EBADF, "in another context");
	}
	expect_no_event(scene.ctx, HERE);
	holdfs_release(scene.fs, operation, 0);
	expect_event(scene.ctx, &first, 0, HERE);
	ck_assert_uint_eq(syncs(&scene), 1);
	expect_refused(scene.ctx, &refused, -EBADF, "idle");
	close(path);
	close(buffered);
	scene_close(&scene);
}
