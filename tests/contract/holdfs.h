/* SPDX-License-Identifier: MIT */
/*
 * holdfs: a file system whose disk waits for the test.
 *
 * Reads, writes and syncs of its files reach a server that notes them in a log and, when told to,
 * keeps them unanswered until the test releases each one.  So a test holds requests in flight for
 * exactly as long as it wants, sees in which order they reach the disk, and makes any of them fail:
 * no slow device, no sleeps.
 *
 * The server is a child process, so that a request which blocks the test cannot block the disk as
 * well.  Both share the log and the contents of the files (holdfs_medium).  A write changes the
 * medium, and a read looks at it, at the moment the operation is answered.  When the test ends
 * in any way, also by a signal with requests in flight, the server lets everything go, unmounts and
 * removes the directory; the kernel would otherwise keep the dying test waiting for its own
 * requests.
 *
 * What reaches the server:
 *   O_DIRECT read or write     one operation of exactly that range (up to 128 KiB; more is split),
 *                              asynchronous under kernel AIO unless it reaches past the end
 *   buffered read, not cached  one operation for each page, one after the other; the reader waits
 *   buffered write             one operation; the writer waits (there is no write-back cache)
 *   fsync, fdatasync           one operation.  The kernel holds the file's inode lock meanwhile:
 *                              while a sync is held HERE, a direct write to the same file blocks
 *                              in the kernel, no matter who submits it.  Direct reads do not,
 *                              nor does anything on other files.
 *   close(2)                   nothing, unless the file was opened while "flushed" is set: a flush,
 *                              which is counted, is in no log, and is never held
 * Kernel AIO releases the inode lock as soon as a direct write is on its way.  A write of an
 * ordinary thread keeps it until it is answered, so on the engine "threads" a sync of a file
 * cannot arrive while a write to it is held, whatever the library does, and a case whose sync must
 * get past a later request makes that one a read.  Direct writes share the lock there (the server
 * asks for it), unless the file is also open without O_DIRECT: then they arrive one by one.  And
 * with such a write held, opening the file without O_DIRECT waits for its end.
 * Files are named "0", "1", ..., have the size given, start as zeroes and cannot grow.
 *
 * One thread of a test drives a file system.  Waits are bounded; when one is over, the log is
 * printed and the test fails.
 *
 * The log is shared memory with one writer, the server: an entry is complete before the length that
 * admits it is stored (release), and the test reads the length first (acquire).  There is no lock
 * that a killed test could leave behind.
 */
#ifndef HOLDFS_H
#define HOLDFS_H

#define FUSE_USE_VERSION 35

#include "contract.h"
#include "not_fuse.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse3/fuse_lowlevel.h>
#include <linux/fuse.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Younger than the headers of some systems. */
#define HOLDFS_FOPEN_NOFLUSH (1u << 5)
#define HOLDFS_FOPEN_PARALLEL_DIRECT_WRITES (1u << 6)

enum holdfs_kind {
	HOLDFS_READ = 1,
	HOLDFS_WRITE = 2,
	HOLDFS_FSYNC = 4,
	HOLDFS_ALL = 7,
};

/*
 * arrived and answered are moments of one logical clock of the file system: comparing them tells
 * whether one operation reached the disk before another one was done.  answered is 0 while held.
 */
struct holdfs_operation {
	unsigned kind;
	unsigned file;
	bool data_only; /* of a sync: fdatasync rather than fsync */
	off_t offset;
	size_t bytes;
	unsigned arrived;
	unsigned answered;
};

#define HOLDFS_LOG_MAX 65536u
#define HOLDFS_PATH_BYTES 256
#define HOLDFS_NOT_ASKED (-1)
/* Added to a number of bytes: holdfs_release answers a read with so many. */
#define HOLDFS_SHORT (1 << 24)
/* A flag for holdfs_open: every read arrives as it was asked, in one operation. */
#define HOLDFS_UNCACHED O_NOATIME
/*
 * Longer than anything takes that is going to happen at all, shorter than the time limit of a case.
 */
#define HOLDFS_WAIT_MS 20000

struct holdfs_entry {
	struct holdfs_operation operation; /* all but answered: constant once published */
	_Atomic unsigned answered;
	/* The test's word: HOLDFS_NOT_ASKED, or what holdfs_release was told. */
	_Atomic int release;
};

/* The part of a mounted file system that the test and the server share. */
struct holdfs_shared {
	_Atomic unsigned log_length;
	_Atomic unsigned hold;
	_Atomic bool leave;
	_Atomic bool flushed; /* files opened from now on are asked to flush at each close */
	_Atomic unsigned flushes;
	_Atomic int flush_error; /* the next flush's, once */
	struct holdfs_entry log[HOLDFS_LOG_MAX];
};

struct holdfs {
	struct holdfs_shared *shared;
	char *media; /* the files' contents, one after the other; shared as well */
	unsigned file_count;
	size_t file_bytes;
	size_t stride_bytes;
	char directory[HOLDFS_PATH_BYTES];
	char path[HOLDFS_PATH_BYTES + 16];
	int command; /* an eventfd: the test has written something that the server should look at */
	pid_t owner;
	pid_t server;
};

/*
 * The server.  Everything from here to the next heading runs in the child, in one thread.
 */

#define HOLDFS_OWNER_LOOK_MS 100

struct holdfs_pending {
	fuse_req_t request;
	char *data; /* of a write */
};

struct holdfs_server {
	struct holdfs *fs;
	struct holdfs_pending pending[HOLDFS_LOG_MAX];
	unsigned first_pending;
	unsigned clock;
	unsigned opens;
	int direct_flag; /* O_DIRECT, by the kernel's number */
};

static inline struct holdfs_server *holdfs_server_of(fuse_req_t request)
{
	return fuse_req_userdata(request);
}

static inline bool holdfs_attributes(struct holdfs *fs, fuse_ino_t ino, struct stat *status)
{
	*status = (struct stat){
		.st_ino = ino, .st_nlink = 1, .st_uid = getuid(), .st_gid = getgid()
	};
	if (ino == FUSE_ROOT_ID) {
		status->st_mode = S_IFDIR | 0755;
		status->st_nlink = 2;
		return true;
	}
	if (ino - FUSE_ROOT_ID > fs->file_count)
		return false;
	status->st_mode = S_IFREG | 0644;
	status->st_size = (off_t)fs->file_bytes;
	status->st_blocks = (blkcnt_t)((fs->file_bytes + 511) / 512);
	status->st_blksize = 4096;
	return true;
}

static inline void holdfs_lookup(fuse_req_t request, fuse_ino_t parent, const char *name)
{
	struct holdfs *fs = holdfs_server_of(request)->fs;
	char *end;
	unsigned long file = strtoul(name, &end, 10);
	struct fuse_entry_param entry = { .attr_timeout = 1e6, .entry_timeout = 1e6 };

	if (parent != FUSE_ROOT_ID || end == name || *end != '\0' || file >= fs->file_count) {
		fuse_reply_err(request, ENOENT);
		return;
	}
	entry.ino = FUSE_ROOT_ID + 1 + file;
	holdfs_attributes(fs, entry.ino, &entry.attr);
	fuse_reply_entry(request, &entry);
}

static inline void holdfs_getattr(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
	struct stat status;

	(void)info;
	if (holdfs_attributes(holdfs_server_of(request)->fs, ino, &status))
		fuse_reply_attr(request, &status, 1e6);
	else
		fuse_reply_err(request, ENOENT);
}

/* Times and modes are taken note of by nobody; a size cannot change. */
static inline void holdfs_setattr(fuse_req_t request, fuse_ino_t ino, struct stat *wanted,
				  int which, struct fuse_file_info *info)
{
	struct holdfs *fs = holdfs_server_of(request)->fs;

	if ((which & FUSE_SET_ATTR_SIZE) && wanted->st_size != (off_t)fs->file_bytes)
		fuse_reply_err(request, EFBIG);
	else
		holdfs_getattr(request, ino, info);
}

/*
 * The kernel tells the flags of its own machine, and in an emulator that is not this program's.  So
 * the first two opens are those of holdfs_show_direct_flag, which differ in O_DIRECT alone.
 *
 * fuse_reply_open knows no flag for parallel writes before libfuse 3.15, and the answer is no more
 * than this structure.
 */
static inline void holdfs_open_file(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
	struct fuse_open_out answer = { .open_flags = FOPEN_KEEP_CACHE | HOLDFS_FOPEN_NOFLUSH };
	struct holdfs_server *server = holdfs_server_of(request);

	(void)ino;
	if (++server->opens == 1)
		server->direct_flag = info->flags;
	else if (server->opens == 2)
		server->direct_flag &= ~info->flags;
	else if (on_threads() && (info->flags & server->direct_flag))
		answer.open_flags |= FOPEN_DIRECT_IO | HOLDFS_FOPEN_PARALLEL_DIRECT_WRITES;
	if (info->flags & HOLDFS_UNCACHED)
		answer.open_flags |= FOPEN_DIRECT_IO;
	if (atomic_load(&server->fs->shared->flushed))
		answer.open_flags &= ~HOLDFS_FOPEN_NOFLUSH;
	fuse_reply_buf(request, (const char *)&answer, sizeof(answer));
}

static inline void holdfs_answer(struct holdfs_server *server, unsigned index, int word)
{
	struct holdfs *fs = server->fs;
	struct holdfs_pending *pending = &server->pending[index];
	struct holdfs_entry *entry = &fs->shared->log[index];
	const struct holdfs_operation *operation = &entry->operation;
	char *medium = fs->media + operation->file * fs->stride_bytes + operation->offset;
	int error = word < HOLDFS_SHORT ? word : 0;
	size_t bytes = word < HOLDFS_SHORT ? operation->bytes : (size_t)(word - HOLDFS_SHORT);
	fuse_req_t request = pending->request;

	if (!error && operation->kind == HOLDFS_WRITE)
		memcpy(medium, pending->data, operation->bytes);
	free(pending->data);
	*pending = (struct holdfs_pending){ 0 };
	/* Before the reply, so that those who have seen its effect find it answered. */
	atomic_store_explicit(&entry->answered, ++server->clock, memory_order_release);
	if (error)
		fuse_reply_err(request, error);
	else if (operation->kind == HOLDFS_READ)
		fuse_reply_buf(request, medium, bytes);
	else if (operation->kind == HOLDFS_WRITE)
		fuse_reply_write(request, operation->bytes);
	else
		fuse_reply_err(request, 0);
}

static inline void holdfs_arrive(fuse_req_t request, struct holdfs_operation operation,
				 const char *data)
{
	struct holdfs_server *server = holdfs_server_of(request);
	struct holdfs_shared *shared = server->fs->shared;
	unsigned index = atomic_load_explicit(&shared->log_length, memory_order_relaxed);
	struct holdfs_entry *entry = &shared->log[index];
	char *copy = NULL;

	if (data) {
		copy = malloc(operation.bytes ? operation.bytes : 1);
		if (copy)
			memcpy(copy, data, operation.bytes);
	}
	if (index == HOLDFS_LOG_MAX || (data && !copy)) {
		free(copy);
		fuse_reply_err(request, EIO);
		return;
	}
	operation.arrived = ++server->clock;
	entry->operation = operation;
	atomic_store_explicit(&entry->release, HOLDFS_NOT_ASKED, memory_order_relaxed);
	server->pending[index] = (struct holdfs_pending){ .request = request, .data = copy };
	/*
	 * In this order for all: one that stops the holding and then finds nothing held here will
	 * find this operation not held.
	 */
	atomic_store(&shared->log_length, index + 1);
	if (!(atomic_load(&shared->hold) & operation.kind))
		holdfs_answer(server, index, 0);
}

/* The part of [offset, offset + bytes) that lies in the file. */
static inline size_t holdfs_clip(struct holdfs *fs, off_t offset, size_t bytes)
{
	size_t start = (size_t)offset;

	if (start >= fs->file_bytes)
		return 0;
	return bytes < fs->file_bytes - start ? bytes : fs->file_bytes - start;
}

static inline void holdfs_read(fuse_req_t request, fuse_ino_t ino, size_t bytes, off_t offset,
			       struct fuse_file_info *info)
{
	struct holdfs_operation operation = {
		.kind = HOLDFS_READ,
		.file = (unsigned)(ino - FUSE_ROOT_ID - 1),
		.offset = offset,
		.bytes = holdfs_clip(holdfs_server_of(request)->fs, offset, bytes),
	};

	(void)info;
	holdfs_arrive(request, operation, NULL);
}

static inline void holdfs_write(fuse_req_t request, fuse_ino_t ino, const char *data, size_t bytes,
				off_t offset, struct fuse_file_info *info)
{
	struct holdfs_operation operation = {
		.kind = HOLDFS_WRITE,
		.file = (unsigned)(ino - FUSE_ROOT_ID - 1),
		.offset = offset,
		.bytes = holdfs_clip(holdfs_server_of(request)->fs, offset, bytes),
	};

	(void)info;
	if (operation.bytes < bytes)
		fuse_reply_err(request, ENOSPC);
	else
		holdfs_arrive(request, operation, data);
}

static inline void holdfs_fsync(fuse_req_t request, fuse_ino_t ino, int data_only,
				struct fuse_file_info *info)
{
	struct holdfs_operation operation = {
		.kind = HOLDFS_FSYNC,
		.file = (unsigned)(ino - FUSE_ROOT_ID - 1),
		.data_only = data_only != 0,
	};

	(void)info;
	holdfs_arrive(request, operation, NULL);
}

/* Asked for when any descriptor of a file is closed; no operation of the log, and never held. */
static inline void holdfs_flush(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
	struct holdfs_shared *shared = holdfs_server_of(request)->fs->shared;

	(void)ino;
	(void)info;
	atomic_fetch_add(&shared->flushes, 1);
	fuse_reply_err(request, atomic_exchange(&shared->flush_error, 0));
}

static inline void holdfs_init(void *userdata, struct fuse_conn_info *connection)
{
	(void)userdata;
	connection->want |= connection->capable & FUSE_CAP_ASYNC_DIO;
	connection->want &= ~(unsigned)(FUSE_CAP_WRITEBACK_CACHE | FUSE_CAP_AUTO_INVAL_DATA);
	connection->max_readahead = 0;
	/*
	 * Direct requests count as background ones; beyond the limit their submitter would block.
	 */
	connection->max_background = 4096;
	connection->congestion_threshold = 4096;
}

static inline void holdfs_answer_released(struct holdfs_server *server)
{
	struct holdfs_shared *shared = server->fs->shared;
	unsigned length = atomic_load_explicit(&shared->log_length, memory_order_relaxed);
	bool nothing_before = true;

	for (unsigned index = server->first_pending; index < length; index++) {
		int release =
			atomic_load_explicit(&shared->log[index].release, memory_order_acquire);

		if (server->pending[index].request && release != HOLDFS_NOT_ASKED)
			holdfs_answer(server, index, release);
		nothing_before = nothing_before && !server->pending[index].request;
		if (nothing_before)
			server->first_pending = index + 1;
	}
}

/*
 * A killed test does not end while the kernel waits for its requests: neither the end of a pipe nor
 * the parent-death signal would come.  What can be seen is that it is exiting (PF_EXITING), or that
 * a SIGKILL is pending for a thread that sleeps uninterruptibly.
 */
static inline bool holdfs_owner_is_dying(pid_t owner)
{
	char path[64], text[4096], *field;
	unsigned long flags = 0;
	unsigned long long pending = 0;
	FILE *stream;
	bool found;

	snprintf(path, sizeof(path), "/proc/%d/stat", owner);
	stream = fopen(path, "re");
	if (!stream)
		return true;
	found = fgets(text, sizeof(text), stream) != NULL;
	fclose(stream);
	field = found ? strrchr(text, ')') : NULL;
	if (!field || sscanf(field + 1, " %*c %*d %*d %*d %*d %*d %lu", &flags) != 1 || (flags & 4))
		return true;
	snprintf(path, sizeof(path), "/proc/%d/status", owner);
	stream = fopen(path, "re");
	if (!stream)
		return true;
	while (fgets(text, sizeof(text), stream))
		if (sscanf(text, "SigPnd: %llx", &pending) == 1)
			break;
	fclose(stream);
	return pending >> (SIGKILL - 1) & 1;
}

static inline void holdfs_serve(struct holdfs_server *server, struct fuse_session *session)
{
	struct pollfd watched[] = {
		{ .fd = fuse_session_fd(session), .events = POLLIN },
		{ .fd = server->fs->command, .events = POLLIN },
	};
	struct fuse_buf buffer = { 0 };
	uint64_t ignored;

	/* An operation can be taken back between poll and read. */
	fcntl(watched[0].fd, F_SETFL, fcntl(watched[0].fd, F_GETFL) | O_NONBLOCK);
	while (!fuse_session_exited(session) && !atomic_load(&server->fs->shared->leave) &&
	       !holdfs_owner_is_dying(server->fs->owner)) {
		poll(watched, 2, HOLDFS_OWNER_LOOK_MS);
		if (watched[1].revents && read(watched[1].fd, &ignored, sizeof(ignored)) < 0)
			break;
		holdfs_answer_released(server);
		if (watched[0].revents) {
			int got = fuse_session_receive_buf(session, &buffer);

			if (got > 0)
				fuse_session_process_buf(session, &buffer);
			else if (got != -EINTR && got != -EAGAIN)
				break;
		}
	}
	free(buffer.mem);
}

/*
 * A copy of the test's process: it keeps nothing of the test's open, and leaves its process group,
 * which is killed as a whole when a case takes too long.
 */
static inline void holdfs_leave_test(int keep1, int keep2)
{
	int low = keep1 < keep2 ? keep1 : keep2, high = keep1 < keep2 ? keep2 : keep1;

	setsid();
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	if (low > 3)
		close_range(3, (unsigned)low - 1, 0);
	if (high > low + 1)
		close_range((unsigned)low + 1, (unsigned)high - 1, 0);
	close_range((unsigned)high + 1, ~0u, 0);
}

static inline int holdfs_server_main(struct holdfs *fs, int ready)
{
	static const struct fuse_lowlevel_ops operations = {
		.init = holdfs_init,
		.lookup = holdfs_lookup,
		.getattr = holdfs_getattr,
		.setattr = holdfs_setattr,
		.open = holdfs_open_file,
		.read = holdfs_read,
		.write = holdfs_write,
		.flush = holdfs_flush,
		.fsync = holdfs_fsync,
	};
	/* A test may give its privileges up; others than root may not let others in. */
	char *arguments[] = { (char *)"holdfs", (char *)"-oallow_other", NULL };
	struct fuse_args args = FUSE_ARGS_INIT(geteuid() == 0 ? 2 : 1, arguments);
	struct holdfs_server *server = calloc(1, sizeof(*server));
	struct fuse_session *session;

	holdfs_leave_test(fs->command, ready);
	if (!server)
		return 1;
	server->fs = fs;
	session = fuse_session_new(&args, &operations, sizeof(operations), server);
	if (!session)
		return 1;
	if (fuse_session_mount(session, fs->directory) != 0) {
		fuse_session_destroy(session);
		return 1;
	}
	if (write(ready, "y", 1) == 1) {
		close(ready);
		holdfs_serve(server, session);
	}
	/* Closes the kernel's end first: what is held fails. */
	fuse_session_unmount(session);
	fuse_session_destroy(session);
	rmdir(fs->directory);
	free(server);
	return 0;
}

/*
 * The test's side.
 */

static inline void holdfs_discard(struct holdfs *fs)
{
	if (fs->command >= 0)
		close(fs->command);
	if (fs->media != MAP_FAILED)
		munmap(fs->media, fs->stride_bytes * fs->file_count);
	if (fs->shared != MAP_FAILED)
		munmap(fs->shared, sizeof(*fs->shared));
	free(fs);
}

/*
 * A big endian process may be an emulated one, and /dev/fuse that of a little endian kernel: then
 * its first question is none that there is.
 */
static inline bool holdfs_kernel_is_understood(const char *directory)
{
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
	int device = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	bool understood = true;
	union {
		struct fuse_in_header header;
		char bytes[65536];
	} question;
	char options[80];

	snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=0,group_id=0", device);
	if (mount("holdfs", directory, "fuse", 0, options) == 0) {
		understood = read(device, &question, sizeof(question)) > 0 &&
			     question.header.opcode == FUSE_INIT;
		umount2(directory, MNT_DETACH);
	}
	close(device);
	return understood;
#else
	(void)directory;
	return true;
#endif
}

static inline const char *holdfs_path(struct holdfs *fs, unsigned file)
{
	snprintf(fs->path, sizeof(fs->path), "%s/%u", fs->directory, file);
	return fs->path;
}

/* A new descriptor, close-on-exec; flags as for open(2), with or without O_DIRECT. */
static inline int holdfs_open(struct holdfs *fs, unsigned file, int flags)
{
	int fd = open(holdfs_path(fs, file), flags | O_CLOEXEC);

	ck_assert_msg(fd >= 0, "open %s: %s", fs->path, strerror(errno));
	return fd;
}

static inline void holdfs_show_direct_flag(struct holdfs *fs)
{
	close(holdfs_open(fs, 0, O_RDONLY | O_DIRECT));
	close(holdfs_open(fs, 0, O_RDONLY));
}

/* NULL, with the reason on standard error, where FUSE cannot be used: the case is to be skipped. */
static inline struct holdfs *holdfs_mount(unsigned file_count, size_t file_bytes)
{
	const char *base = getenv("TMPDIR");
	struct holdfs *fs = calloc(1, sizeof(*fs));
	int ready[2];
	char answer;

	ck_assert_ptr_nonnull(fs);
	if (access("/dev/fuse", R_OK | W_OK) != 0) {
		fprintf(stderr, "holdfs: /dev/fuse: %s\n", strerror(errno));
		free(fs);
		return NULL;
	}
	fs->file_count = file_count;
	fs->file_bytes = file_bytes;
	fs->stride_bytes = (file_bytes + 4095) & ~(size_t)4095;
	fs->shared = mmap(NULL, sizeof(*fs->shared), PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	fs->media = mmap(NULL, fs->stride_bytes * file_count, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	fs->command = eventfd(0, EFD_CLOEXEC);
	ck_assert(fs->shared != MAP_FAILED && fs->media != MAP_FAILED && fs->command >= 0);
	snprintf(fs->directory, sizeof(fs->directory), "%s/holdfs-XXXXXX", base ? base : "/tmp");
	ck_assert_ptr_nonnull(mkdtemp(fs->directory));
	fs->owner = getpid();
	if (!holdfs_kernel_is_understood(fs->directory)) {
		fprintf(stderr, "holdfs: the kernel behind /dev/fuse has another byte order\n");
		rmdir(fs->directory);
		holdfs_discard(fs);
		return NULL;
	}
	ck_assert_int_eq(pipe2(ready, O_CLOEXEC), 0);
	fs->server = fork();
	ck_assert_int_ge(fs->server, 0);
	if (fs->server == 0)
		_exit(holdfs_server_main(fs, ready[1]));
	close(ready[1]);
	if (read(ready[0], &answer, 1) != 1) {
		fprintf(stderr, "holdfs: a FUSE file system cannot be mounted here\n");
		close(ready[0]);
		waitpid(fs->server, NULL, 0);
		rmdir(fs->directory);
		holdfs_discard(fs);
		return NULL;
	}
	close(ready[0]);
	holdfs_show_direct_flag(fs);
	return fs;
}

static inline void holdfs_notify(struct holdfs *fs)
{
	uint64_t one = 1;

	ck_assert_int_eq(write(fs->command, &one, sizeof(one)), sizeof(one));
}

/* What is still held fails. */
static inline void holdfs_unmount(struct holdfs *fs)
{
	if (!fs)
		return;
	atomic_store(&fs->shared->leave, true);
	holdfs_notify(fs);
	waitpid(fs->server, NULL, 0);
	holdfs_discard(fs);
}

/*
 * The file's contents as the disk has them: what has been answered, whatever the page cache says.
 */
static inline char *holdfs_medium(struct holdfs *fs, unsigned file)
{
	return fs->media + file * fs->stride_bytes;
}

/* Operations of these kinds that arrive from now on are held; others are answered at once. */
static inline void holdfs_hold(struct holdfs *fs, unsigned kinds)
{
	atomic_store(&fs->shared->hold, kinds);
}

/* The log, in order of arrival; an index is a position in it. */
static inline unsigned holdfs_log_length(struct holdfs *fs)
{
	return atomic_load(&fs->shared->log_length);
}

static inline struct holdfs_operation holdfs_operation(struct holdfs *fs, unsigned index)
{
	struct holdfs_operation operation = fs->shared->log[index].operation;

	operation.answered =
		atomic_load_explicit(&fs->shared->log[index].answered, memory_order_acquire);
	return operation;
}

/* How many operations of these kinds have arrived. */
static inline unsigned holdfs_count(struct holdfs *fs, unsigned kinds)
{
	unsigned count = 0, length = holdfs_log_length(fs);

	for (unsigned index = 0; index < length; index++)
		count += (fs->shared->log[index].operation.kind & kinds) != 0;
	return count;
}

static inline void holdfs_print_log(struct holdfs *fs)
{
	unsigned length = holdfs_log_length(fs);

	fprintf(stderr, "holdfs: the log\n");
	for (unsigned index = 0; index < length; index++) {
		struct holdfs_operation operation = holdfs_operation(fs, index);
		const char *name = operation.kind == HOLDFS_READ    ? "read"
				   : operation.kind == HOLDFS_WRITE ? "write"
				   : operation.data_only	    ? "fdatasync"
								    : "fsync";

		fprintf(stderr, "  %u: file %u %s %zu at %lld, arrived %u, answered %u\n", index,
			operation.file, name, operation.bytes, (long long)operation.offset,
			operation.arrived, operation.answered);
	}
}

/* Waits until the predicate is true; it looks at the log through the functions above. */
static inline void holdfs_wait_for(struct holdfs *fs, bool (*predicate)(struct holdfs *, void *),
				   void *argument)
{
	const struct timespec pause = { .tv_nsec = 200000 };
	struct timespec now;
	long long end_ms = 0, now_ms;

	while (!predicate(fs, argument)) {
		clock_gettime(CLOCK_MONOTONIC, &now);
		now_ms = (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
		if (end_ms == 0)
			end_ms = now_ms + HOLDFS_WAIT_MS;
		if (now_ms > end_ms) {
			holdfs_print_log(fs);
			ck_abort_msg("holdfs: what the test waits for has not happened");
		}
		nanosleep(&pause, NULL);
	}
}

struct holdfs_search {
	unsigned kinds;
	unsigned nth;
	unsigned index;
};

static inline bool holdfs_has_arrived(struct holdfs *fs, void *argument)
{
	struct holdfs_search *search = argument;
	unsigned seen = 0, length = holdfs_log_length(fs);

	for (unsigned index = 0; index < length; index++)
		if ((fs->shared->log[index].operation.kind & search->kinds) &&
		    seen++ == search->nth) {
			search->index = index;
			return true;
		}
	return false;
}

/* Waits for the operation number nth (from 0) among those of the given kinds; returns its index. */
static inline unsigned holdfs_wait_arrived(struct holdfs *fs, unsigned kinds, unsigned nth)
{
	struct holdfs_search search = { .kinds = kinds, .nth = nth };

	holdfs_wait_for(fs, holdfs_has_arrived, &search);
	return search.index;
}

static inline bool holdfs_is_answered(struct holdfs *fs, void *argument)
{
	const unsigned *index = argument;

	return holdfs_operation(fs, *index).answered != 0;
}

static inline void holdfs_wait_answered(struct holdfs *fs, unsigned index)
{
	holdfs_wait_for(fs, holdfs_is_answered, &index);
}

/*
 * Answers a held operation: 0 performs it, a positive errno makes it fail without effect, and
 * HOLDFS_SHORT + bytes ends a read early.  It is answered on return; when the kernel has passed
 * that on to the request is another matter.
 */
static inline void holdfs_release(struct holdfs *fs, unsigned index, int word)
{
	ck_assert_uint_lt(index, holdfs_log_length(fs));
	atomic_store_explicit(&fs->shared->log[index].release, word, memory_order_release);
	holdfs_notify(fs);
	holdfs_wait_answered(fs, index);
}

/* Holds nothing from now on, and answers all that is held. */
static inline void holdfs_release_all(struct holdfs *fs)
{
	holdfs_hold(fs, 0);
	/*
	 * An operation may be arriving that still saw the old order: it is looked for until none is
	 * left.
	 */
	for (unsigned index = 0; index < holdfs_log_length(fs); index++) {
		if (!holdfs_operation(fs, index).answered)
			holdfs_release(fs, index, 0);
	}
}

/*
 * A request of file 0, opened with these flags, whose server answers the operations that it makes
 * with these words in turn (see holdfs_release): there are no others, and its event says the
 * result.
 */
static inline void holdfs_expect_result(struct holdfs *fs, int flags, struct iocb *iocb,
					const int *words, unsigned count, long result)
{
	io_context_t ctx = new_context(8);

	iocb->aio_fildes = holdfs_open(fs, 0, O_RDWR | flags);
	holdfs_hold(fs, HOLDFS_ALL);
	expect_submitted(ctx, iocb, HERE);
	for (unsigned nth = 0; nth < count; nth++)
		holdfs_release(fs, holdfs_wait_arrived(fs, HOLDFS_ALL, nth), words[nth]);
	expect_event(ctx, iocb, result, HERE);
	ck_assert_uint_eq(holdfs_log_length(fs), count);
	close(iocb->aio_fildes);
	free_context(ctx);
}

#endif
