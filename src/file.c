/* SPDX-License-Identifier: MIT */
/*
 * What a descriptor is, as far as sending a request the right way needs to know.
 *
 * The answer is a hint, remembered for one tick of the kernel's clock (a few milliseconds): numbers
 * are closed and reused, and glusterfs switches O_DIRECT on and off between requests.  A stale hint
 * sends a request the slower way or lets io_submit wait for a disk as it always did; it never
 * changes what the request does.  One mistake would not do: a number that has become a pipe, socket
 * or terminal may hold its caller for ever.  So what goes to the kernel without RWF_NOWAIT is asked
 * about in each batch, by the cheapest call that tells (about 100 ns).
 */
#include "internal.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>

/* Of aio_rw_flags, what older headers lack. */
#ifndef RWF_HIPRI
#define RWF_HIPRI 0x00000001
#endif
#ifndef RWF_DSYNC
#define RWF_DSYNC 0x00000002
#endif
#ifndef RWF_NOWAIT
#define RWF_NOWAIT 0x00000008
#endif
#ifndef RWF_APPEND
#define RWF_APPEND 0x00000010
#endif
#ifndef RWF_NOAPPEND
#define RWF_NOAPPEND 0x00000020
#endif
#ifndef RWF_ATOMIC
#define RWF_ATOMIC 0x00000040
#endif
#ifndef RWF_DONTCACHE
#define RWF_DONTCACHE 0x00000080
#endif

/* No file has data here, so a read answers without touching any, access time included. */
#define FAR_OFFSET (INT64_MAX - 65535)

/*
 * preadv2 and pwritev2; and what can be had of them where they are missing (before Linux 4.6, in
 * emulators): no flag, but that which means nothing here.  -1 is the file's own position.
 */
long ta_file_transfer(bool is_write, int fd, const struct iovec *vector, unsigned count,
		      int64_t offset, int flags)
{
	/* The system call takes it in two parts where a part is half of it. */
	long low = (long)offset;
	long high = sizeof(long) == 8 ? 0 : (long)((uint64_t)offset >> 32);
	long result = ta_syscall(is_write ? SYS_pwritev2 : SYS_preadv2, fd, (long)vector,
				 (long)count, low, high, flags);

	if (ta_likely(result != -ENOSYS))
		return result;
	if (flags & ~RWF_HIPRI)
		return -EOPNOTSUPP;
	if (offset == -1)
		return ta_syscall3(is_write ? SYS_writev : SYS_readv, fd, vector, count);
	return ta_syscall(is_write ? SYS_pwritev : SYS_preadv, fd, (long)vector, (long)count, low,
			  high, 0);
}

/*
 * The file behind fd opened once more, with what file_flags say but O_DIRECT: a descriptor, or an
 * error where /proc is not mounted or the file may not be opened any more.
 */
int ta_file_reopen_buffered(int fd, long file_flags)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/thread-self/fd/%d", fd);
	file_flags &= O_ACCMODE | O_APPEND | O_DSYNC | O_SYNC;
	/* The C library, which is not asked here, adds the last where positions have 32 bits. */
	file_flags |= O_CLOEXEC | O_LARGEFILE;
	return (int)ta_syscall4(SYS_openat, AT_FDCWD, path, file_flags, 0);
}

static void settle_block_device(struct ta_file_identity *identity)
{
	if (!S_ISBLK(identity->mode))
		return;
	identity->device = identity->node;
	identity->inode = 0;
}

/* Sandboxes older than statx.  By the C library, which knows the layout of the machine. */
static int identify_without_statx(int fd, struct ta_file_identity *identity)
{
	int saved_errno = errno, error;
	struct stat status;

	error = fstat(fd, &status) < 0 ? errno : 0;
	errno = saved_errno;
	if (error)
		return -error;
	*identity = (struct ta_file_identity){
		.device = status.st_dev,
		.inode = status.st_ino,
		.node = status.st_rdev,
		.mode = status.st_mode,
	};
	settle_block_device(identity);
	return 0;
}

/*
 * Device, inode and type.  Block devices are identified by the device they are, not by the node
 * they were opened through.  Network and FUSE file systems are not asked afresh: the server may be
 * the process itself.
 */
int ta_file_identify(int fd, struct ta_file_identity *identity)
{
	struct statx status;
	long result = ta_syscall5(SYS_statx, fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC,
				  STATX_TYPE | STATX_INO, &status);

	if (result == -ENOSYS || result == -EPERM) {
		return identify_without_statx(fd, identity);
	}
	if (result < 0)
		return (int)result;
	*identity = (struct ta_file_identity){
		.device = makedev(status.stx_dev_major, status.stx_dev_minor),
		.inode = status.stx_ino,
		.node = makedev(status.stx_rdev_major, status.stx_rdev_minor),
		.mode = status.stx_mode,
	};
	settle_block_device(identity);
	return 0;
}

/*
 * Does a read that ended at this offset with so many bytes, fewer than were asked for, end there
 * for good?  Only files and block devices have more to give to the same request; asked without
 * bothering a server.
 */
bool ta_file_ends_at(int fd, int64_t offset, long count)
{
	struct statx status;

	if (ta_syscall5(SYS_statx, fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC,
			STATX_TYPE | STATX_SIZE, &status) < 0)
		return false;
	if (S_ISREG(status.stx_mode))
		return offset >= (int64_t)status.stx_size;
	/* /dev/zero stops when another thread wants the processor, others where they end. */
	if (S_ISCHR(status.stx_mode))
		return count == 0 || ta_syscall3(SYS_lseek, fd, 0, SEEK_CUR) == -ESPIPE;
	return !S_ISBLK(status.stx_mode);
}

/*
 * The magic number; 0 if it cannot be had.  By the C library, which knows the layout of the
 * machine.
 */
static unsigned long file_system_type(int fd)
{
	int saved_errno = errno;
	struct statfs status;
	bool known = fstatfs(fd, &status) == 0;

	errno = saved_errno;
	return known ? (unsigned long)status.f_type : 0;
}

/*
 * File systems whose reads are memory copies, or whose files compute their contents: they never
 * wait for a disk.
 */
static bool is_memory_file_system(int fd)
{
	switch (file_system_type(fd)) {
	case TMPFS_MAGIC:
	case RAMFS_MAGIC:
	case HUGETLBFS_MAGIC:
	case PROC_SUPER_MAGIC:
	case SYSFS_MAGIC:
	case DEBUGFS_MAGIC:
	case TRACEFS_MAGIC:
	case CGROUP_SUPER_MAGIC:
	case CGROUP2_SUPER_MAGIC:
		return true;
	default:
		return false;
	}
}

/*
 * Will the kernel refuse an fsync of the file when it is submitted?  The files of /proc have none,
 * by and large.
 */
bool ta_file_cannot_sync(int fd, uint32_t mode)
{
	if (!S_ISREG(mode) && !S_ISDIR(mode) && !S_ISBLK(mode))
		return true;
	return !S_ISBLK(mode) && file_system_type(fd) == PROC_SUPER_MAGIC;
}

static bool has_calls_with_flags(void)
{
	return ta_syscall(SYS_preadv2, -1, 0, 0, 0, 0, 0) != -ENOSYS;
}

/* What the kernel says to a read with these flags that finds nothing. */
static long read_nothing(int fd, int flags)
{
	char unused_byte;
	struct iovec vector = { &unused_byte, 1 };

	return ta_file_transfer(false, fd, &vector, 1, FAR_OFFSET, flags);
}

/*
 * Can a read of the file say "would block" (RWF_NOWAIT)?  FUSE, most network file systems and
 * overlay cannot.
 */
static bool can_say_would_block(int fd)
{
	return read_nothing(fd, RWF_NOWAIT) != -EOPNOTSUPP;
}

/* By the C library, whose struct termios is not the kernel's on some machines (powerpc). */
static bool is_terminal(int fd)
{
	int saved_errno = errno;
	bool answers = isatty(fd);

	errno = saved_errno;
	return answers;
}

static enum ta_file_class class_of_file(struct ta_descriptor *descriptor,
					const struct ta_file_identity *identity)
{
	bool known = descriptor->device == identity->device &&
		     (descriptor->file_class == TA_FILE_BUFFERED ||
		      descriptor->file_class == TA_FILE_SLOW);

	/* The file system's abilities do not change while the number stays on it. */
	if (known)
		return descriptor->file_class;
	if (S_ISREG(identity->mode) && is_memory_file_system(descriptor->number))
		return TA_FILE_KERNEL;
	descriptor->device = identity->device;
	return can_say_would_block(descriptor->number) ? TA_FILE_BUFFERED : TA_FILE_SLOW;
}

static enum ta_file_class classify(struct ta_descriptor *descriptor)
{
	struct ta_file_identity identity;
	long flags = ta_syscall2(SYS_fcntl, descriptor->number, F_GETFL);

	descriptor->is_direct = false;
	/* What is no open file gets its error from the kernel. */
	if (flags < 0 || (flags & O_PATH) || ta_file_identify(descriptor->number, &identity) < 0)
		return TA_FILE_KERNEL;
	switch (identity.mode & S_IFMT) {
	case S_IFIFO:
	case S_IFSOCK:
		return TA_FILE_STREAM;
	case S_IFCHR:
		if (is_terminal(descriptor->number))
			return TA_FILE_STREAM;
		return can_say_would_block(descriptor->number) ? TA_FILE_DEVICE : TA_FILE_KERNEL;
	case S_IFREG:
	case S_IFBLK:
		descriptor->is_direct = flags & O_DIRECT;
		return descriptor->is_direct ? TA_FILE_KERNEL
					     : class_of_file(descriptor, &identity);
	default:
		return TA_FILE_KERNEL;
	}
}

void ta_file_classify(struct ta_descriptor *descriptor)
{
	descriptor->file_class = (uint8_t)classify(descriptor);
}

/*
 * Has the number become something that would hold its caller, since its class was read?  Then the
 * class is read again.  A pipe, socket or terminal has no position to tell; and what was read past
 * the page cache may not be any more.
 */
bool ta_file_has_changed(struct ta_descriptor *descriptor, bool is_read)
{
	if (is_read && descriptor->is_direct) {
		if (ta_syscall2(SYS_fcntl, descriptor->number, F_GETFL) & O_DIRECT)
			return false;
	} else if (ta_syscall3(SYS_lseek, descriptor->number, 0, SEEK_CUR) != -ESPIPE) {
		return false;
	}
	ta_file_classify(descriptor);
	return descriptor->file_class != TA_FILE_KERNEL;
}

/* ---- for requests that never reach kernel AIO: what it would say to them --------------------- */

/* Requests of pipes, sockets, terminals and the like have no position and keep their order. */
bool ta_file_is_stream(int fd, uint32_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
	case S_IFBLK:
	case S_IFDIR:
		return false;
	case S_IFCHR:
		return ta_syscall3(SYS_lseek, fd, 0, SEEK_CUR) == -ESPIPE;
	default:
		return true;
	}
}

/*
 * Makes of the identity of a stream that of the line in which its requests stand.  False: they
 * stand in none.  Eventfds and their like all have one inode, as have the masters of all terminals;
 * other devices may be another thing for everyone who opens them.
 */
bool ta_file_line(int fd, struct ta_file_identity *identity)
{
	unsigned terminal;

	switch (identity->mode & S_IFMT) {
	case S_IFIFO:
	case S_IFSOCK:
		return true;
	case S_IFCHR:
		if (ta_syscall3(SYS_ioctl, fd, TIOCGPTN, &terminal) == 0)
			identity->inode ^= (uint64_t)(terminal + 1) << 32;
		return is_terminal(fd);
	default:
		return false;
	}
}

/* Does the name that /proc gives to what is open begin so? */
static bool name_begins(int fd, const char *start)
{
	char path[40], name[40];
	long length;

	snprintf(path, sizeof(path), "/proc/thread-self/fd/%d", fd);
	length = ta_syscall4(SYS_readlinkat, AT_FDCWD, path, name, sizeof(name) - 1);
	if (length <= 0)
		return false;
	name[length] = '\0';
	return strncmp(name, start, strlen(start)) == 0;
}

/* Directories, epoll descriptors and the like are not read. */
static bool has_no_read(int fd, uint32_t mode)
{
	return S_ISDIR(mode) ||
	       ((mode & S_IFMT) == 0 && (name_begins(fd, "anon_inode:[eventpoll]") ||
					 name_begins(fd, "anon_inode:inotify")));
}

/* Does the kernel have no asynchronous read or write for the file: does io_submit say EINVAL? */
bool ta_file_cannot_transfer(int fd, const struct ta_file_identity *identity, bool is_write)
{
	uint32_t mode = identity->mode;

	switch (mode & S_IFMT) {
	case S_IFDIR:
		return true;
	case S_IFREG:
		/*
		 * Most files of /proc have the old kind of read alone, for which a flag that means
		 * nothing to a read is one too many.  Writes cannot be tried.
		 */
		return !is_write && file_system_type(fd) == PROC_SUPER_MAGIC &&
		       has_calls_with_flags() && read_nothing(fd, RWF_DSYNC) == -EOPNOTSUPP;
	case S_IFCHR:
		/* Of the devices that are everywhere, /dev/full has the old kind of write alone. */
		return is_write && identity->node == makedev(1, 7);
	case 0:
		/* Eventfds, timerfds and their like are there to be read. */
		return is_write || has_no_read(fd, mode);
	default:
		return false;
	}
}

/* All flags that a kernel has given a meaning by 6.18. */
#define KNOWN_FLAGS 0x1ff

/* Linux 6.11; no kernel before it knows the flag. */
#define ATTRIBUTE_WRITE_ATOMIC 0x00400000u

/* Writes that are whole or not at all are for O_DIRECT, on file systems that have them. */
static bool writes_atomically(int fd, long file_flags)
{
	struct statx status;

	return file_flags & O_DIRECT &&
	       ta_syscall5(SYS_statx, fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE,
			   &status) == 0 &&
	       status.stx_attributes & ATTRIBUTE_WRITE_ATOMIC;
}

/* aio_rw_flags: 0, -EOPNOTSUPP or -EINVAL. */
int ta_file_check_flags(int fd, long file_flags, uint32_t mode, int flags, bool is_write)
{
	const int appends = RWF_APPEND | RWF_NOAPPEND;
	bool has_positions = S_ISREG(mode) || S_ISBLK(mode) || S_ISCHR(mode);
	int tried;

	if ((flags & ~RWF_HIPRI) == 0)
		return 0;
	if (flags & ~KNOWN_FLAGS || !has_calls_with_flags())
		return -EOPNOTSUPP;
	/* What follows depends on the file; only a read can be tried without doing harm. */
	if (flags & RWF_ATOMIC && !(is_write && writes_atomically(fd, file_flags)))
		return -EOPNOTSUPP;
	if (flags & RWF_DONTCACHE && !S_ISREG(mode) && !S_ISBLK(mode))
		return -EOPNOTSUPP;
	if (flags & RWF_NOWAIT && has_no_read(fd, mode))
		return -EOPNOTSUPP;
	tried = flags & (RWF_NOWAIT | RWF_DONTCACHE);
	if (tried && has_positions && (file_flags & O_ACCMODE) != O_WRONLY &&
	    read_nothing(fd, tried) == -EOPNOTSUPP)
		return -EOPNOTSUPP;
	return (flags & appends) == appends ? -EINVAL : 0;
}

/*
 * Is the descriptor an eventfd?  0, -EBADF or -EINVAL.  The identity tells it from other eventfds,
 * which all share one inode, where the kernel names them (Linux 5.2, /proc mounted).
 */
int ta_file_eventfd(int fd, struct ta_file_identity *identity)
{
	long flags = ta_syscall2(SYS_fcntl, fd, F_GETFL);
	char path[48], text[512], *id;
	long file, length;

	if (flags < 0 || flags & O_PATH)
		return -EBADF;
	*identity = (struct ta_file_identity){ .mode = TA_MODE_EVENTFD };
	snprintf(path, sizeof(path), "/proc/thread-self/fdinfo/%d", fd);
	file = ta_syscall4(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
	if (file < 0) {
		if (ta_file_identify(fd, identity) < 0 || (identity->mode & S_IFMT) != 0)
			return -EINVAL;
		*identity = (struct ta_file_identity){ .mode = TA_MODE_EVENTFD };
		return 0;
	}
	length = ta_syscall3(SYS_read, file, text, sizeof(text) - 1);
	ta_syscall1(SYS_close, file);
	if (length <= 0)
		return -EINVAL;
	text[length] = '\0';
	if (!strstr(text, "eventfd-count:"))
		return -EINVAL;
	id = strstr(text, "eventfd-id:");
	if (id)
		identity->inode = (uint64_t)strtoll(id + strlen("eventfd-id:"), NULL, 10) + 1;
	return 0;
}

/* What of these events (and POLLERR, POLLHUP) is there now; or -EBADF. */
int ta_file_poll(int fd, uint16_t events)
{
	struct pollfd entry = { .fd = fd, .events = (short)events };
	const struct timespec zero = { 0, 0 };
	long result = ta_syscall5(SYS_ppoll, &entry, 1, &zero, NULL, 8);

	if (result <= 0)
		return (int)result;
	return entry.revents & POLLNVAL ? -EBADF : (uint16_t)entry.revents;
}

/*
 * Some files of /proc and /sys tell of changes; epoll refuses those that never do, but for the ones
 * under /proc/sys, of which hardly any does.
 */
static bool can_be_watched(int fd)
{
	struct epoll_event event = { .events = EPOLLPRI };
	long watch = ta_syscall1(SYS_epoll_create1, EPOLL_CLOEXEC);
	long result;

	if (watch < 0)
		return false;
	result = ta_syscall4(SYS_epoll_ctl, watch, EPOLL_CTL_ADD, fd, &event);
	ta_syscall1(SYS_close, watch);
	return result == 0 && !name_begins(fd, "/proc/sys/");
}

/*
 * Can kernel AIO wait for the file to become ready?  Not where it has nothing to wait for, and not
 * where it would have to wait in two places at once.
 */
bool ta_file_polls_once(int fd, uint32_t mode, long file_flags)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
		return can_be_watched(fd);
	case S_IFDIR:
	case S_IFBLK:
		return false;
	case S_IFIFO:
		return (file_flags & O_ACCMODE) != O_RDWR;
	case S_IFCHR:
		return !is_terminal(fd) && (ta_file_poll(fd, POLLIN | POLLOUT) &
					    (POLLIN | POLLOUT)) != (POLLIN | POLLOUT);
	default:
		return true;
	}
}
