/* SPDX-License-Identifier: MIT */
/*
 * What a descriptor is, as far as sending a request the right way needs to know.
 *
 * Nothing is learned about a file by reading from it, where that could take something away or
 * bother somebody: it is told by its type, its flags and its file system.  What a real request is
 * answered may teach more.
 *
 * The class of a descriptor is a hint, remembered by who asks for it: numbers are closed and
 * reused, and glusterfs switches O_DIRECT on and off between requests.  A stale hint sends a
 * request the slower way or lets io_submit wait for a disk as it always did; it never changes what
 * the request does.  One mistake would not do: a number that has become a pipe, socket or terminal
 * may hold its caller for ever.  So what goes to the kernel without RWF_NOWAIT is asked about in
 * each batch, by the cheapest call that tells (about 100 ns), which does not wait for the position
 * of the file, as lseek does.
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

/* Of <linux/magic.h>, what older ones lack. */
#ifndef CIFS_SUPER_MAGIC
#define CIFS_SUPER_MAGIC 0xFF534D42
#endif
#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif
#ifndef SMB2_SUPER_MAGIC
#define SMB2_SUPER_MAGIC 0xFE534D42
#endif

/* No file has data here, so a read answers without touching any, access time included. */
#define FAR_OFFSET (INT64_MAX - 65535)

/* Where they are not there, no descriptor at all is refused so. */
static bool has_calls_with_flags(bool is_write)
{
	return !ta_call_is_refused(
		ta_syscall(is_write ? SYS_pwritev2 : SYS_preadv2, -1, 0, 0, 0, 0, 0));
}

TA_COLD long ta_file_transfer_otherwise(bool is_write, int fd, const struct iovec *vector,
					unsigned count, int64_t offset, int flags)
{
	long low = (long)offset, high = sizeof(long) == 8 ? 0 : (long)((uint64_t)offset >> 32);

	/* Then it is the file that refuses: it is sealed, or immutable. */
	if (has_calls_with_flags(is_write))
		return -EPERM;
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

/* A number that /proc tells of an open file. */
static bool look_up(int fd, const char *name, uint64_t *number)
{
	char path[48], text[512], *place;
	long file, length;

	snprintf(path, sizeof(path), "/proc/thread-self/fdinfo/%d", fd);
	file = ta_syscall4(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
	if (file < 0)
		return false;
	length = ta_syscall3(SYS_read, file, text, sizeof(text) - 1);
	ta_syscall1(SYS_close, file);
	text[length > 0 ? length : 0] = '\0';
	place = strstr(text, name);
	if (!place)
		return false;
	*number = strtoull(place + strlen(name), NULL, 10);
	return true;
}

/*
 * FUSE does not tell another user than its own what an open file is, but reads and writes it.  It
 * is asked for nothing, which it tells with the device, and /proc for the inode (Linux 5.14).
 */
static int identify_in_secret(int fd, struct ta_file_identity *identity)
{
	struct statx status;

	if (ta_syscall5(SYS_statx, fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, 0, &status) < 0)
		return -EACCES;
	*identity = (struct ta_file_identity){
		.device = makedev(status.stx_dev_major, status.stx_dev_minor),
		.mode = S_IFREG,
	};
	return look_up(fd, "ino:", &identity->inode) ? 0 : -EACCES;
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

	if (ta_call_is_refused(result))
		return identify_without_statx(fd, identity);
	if (result == -EACCES)
		return identify_in_secret(fd, identity);
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

bool ta_file_is_still(int fd, const struct ta_file_identity *identity)
{
	struct ta_file_identity found;

	return ta_file_identify(fd, &found) == 0 && found.device == identity->device &&
	       found.inode == identity->inode;
}

/* The major number of file systems that are on no disk of their own. */
#define NO_DISK 0

/* Is it kept on a disk, by a file system of this machine or none at all? */
bool ta_file_is_on_disk(const struct ta_file_identity *identity)
{
	return S_ISBLK(identity->mode) ||
	       (S_ISREG(identity->mode) && major(identity->device) != NO_DISK);
}

/* Character devices that are memory: null, zero, full, random.  They never wait. */
static bool is_memory_device(uint32_t mode, uint64_t node)
{
	const unsigned memory_major = 1;

	return S_ISCHR(mode) && major(node) == memory_major;
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
	if (is_memory_device(status.stx_mode,
			     makedev(status.stx_rdev_major, status.stx_rdev_minor)))
		return count == 0;
	return !S_ISBLK(status.stx_mode);
}

/*
 * The magic number; 0 if it is not known.  By the C library, which knows the layout of the
 * machine.
 */
unsigned long ta_file_system_type(int fd)
{
	int saved_errno = errno;
	struct statfs status;
	bool known = fstatfs(fd, &status) == 0;

	errno = saved_errno;
	return known ? (unsigned long)status.f_type : 0;
}

/* File systems whose files have a server, which is told of each close. */
static bool has_server(unsigned long file_system)
{
	switch (file_system) {
	case FUSE_SUPER_MAGIC:
	case NFS_SUPER_MAGIC:
	case SMB_SUPER_MAGIC:
	case CIFS_SUPER_MAGIC:
	case SMB2_SUPER_MAGIC:
	case V9FS_MAGIC:
	case CEPH_SUPER_MAGIC:
		return true;
	default:
		return false;
	}
}

/*
 * Would closing another descriptor of the file do more than give it back?  What was written is
 * flushed then, and the error of that is told to nobody, instead of to the program when it closes
 * its own.
 */
bool ta_file_close_has_effects(int fd, uint32_t mode, long file_flags)
{
	return (S_ISREG(mode) || S_ISDIR(mode)) && (file_flags & O_ACCMODE) != O_RDONLY &&
	       has_server(ta_file_system_type(fd));
}

/*
 * Will the kernel refuse an fsync of the file when it is submitted?  The files of /proc have none,
 * by and large.
 */
bool ta_file_cannot_sync(int fd, uint32_t mode)
{
	if (!S_ISREG(mode) && !S_ISDIR(mode) && !S_ISBLK(mode))
		return true;
	return !S_ISBLK(mode) && ta_file_system_type(fd) == PROC_SUPER_MAGIC;
}

/* What the kernel says to a read with these flags that finds nothing. */
static long read_nothing(int fd, int flags)
{
	char unused_byte;
	struct iovec vector = { &unused_byte, 1 };

	return ta_file_transfer(false, fd, &vector, 1, FAR_OFFSET, flags);
}

/* By the C library, whose struct termios is not the kernel's on some machines (powerpc). */
static bool is_terminal(int fd)
{
	int saved_errno = errno;
	bool answers = isatty(fd);

	errno = saved_errno;
	return answers;
}

/* What of it is to be known beforehand; is_direct: O_DIRECT made it TA_FILE_KERNEL. */
enum ta_file_class ta_file_classify(int fd, bool *is_direct)
{
	struct ta_file_identity identity;
	long flags = ta_syscall2(SYS_fcntl, fd, F_GETFL);

	*is_direct = false;
	/* What is no open file gets its error from the kernel. */
	if (flags < 0 || (flags & O_PATH) || ta_file_identify(fd, &identity) < 0)
		return TA_FILE_KERNEL;
	switch (identity.mode & S_IFMT) {
	case S_IFIFO:
	case S_IFSOCK:
		return TA_FILE_STREAM;
	case S_IFCHR:
		return is_memory_device(identity.mode, identity.node) ? TA_FILE_DEVICE
								      : TA_FILE_STREAM;
	case S_IFREG:
	case S_IFBLK:
		*is_direct = flags & O_DIRECT;
		if (*is_direct)
			return TA_FILE_KERNEL;
		return flags & O_DSYNC ? TA_FILE_SYNCHRONOUS : TA_FILE_BUFFERED;
	default:
		return TA_FILE_KERNEL;
	}
}

/*
 * Do its requests have a place?  Told by what it is: a read of nothing would say it, too, and
 * inotify would tell of it; lseek would wait for another thread's read(2).
 */
bool ta_file_has_position(int fd)
{
	struct ta_file_identity identity;

	if (ta_file_identify(fd, &identity) < 0)
		return true;
	switch (identity.mode & S_IFMT) {
	case S_IFREG:
	case S_IFBLK:
	case S_IFDIR:
		return true;
	default:
		return is_memory_device(identity.mode, identity.node);
	}
}

/*
 * The class of a file that goes through the page cache, by its file system; says_would_block: as
 * far as is known.  With no lock held: the file system may have a server.
 */
enum ta_file_class ta_file_settle(int fd, bool says_would_block)
{
	struct ta_file_identity identity = { 0 };
	enum ta_file_class on_disk = says_would_block ? TA_FILE_CACHED : TA_FILE_SLOW;

	/* A device is not where its name is. */
	if (ta_file_identify(fd, &identity) < 0 || !S_ISREG(identity.mode))
		return S_ISBLK(identity.mode) ? on_disk : TA_FILE_KERNEL;
	switch (ta_file_system_type(fd)) {
	case TMPFS_MAGIC:
	case RAMFS_MAGIC:
		return TA_FILE_MEMORY;
	case HUGETLBFS_MAGIC:
	case PROC_SUPER_MAGIC:
	case SYSFS_MAGIC:
	case DEBUGFS_MAGIC:
	case TRACEFS_MAGIC:
	case CGROUP_SUPER_MAGIC:
	case CGROUP2_SUPER_MAGIC:
		/* They compute their contents, and not all have the calls that kernel AIO needs. */
		return TA_FILE_KERNEL;
	case EXT4_SUPER_MAGIC:
	case F2FS_SUPER_MAGIC:
	case XFS_SUPER_MAGIC:
		return on_disk;
	default:
		return TA_FILE_SLOW;
	}
}

/*
 * Of a number whose class was TA_FILE_KERNEL: may it have become something that would hold its
 * caller?  A pipe, socket or terminal has no position; and what was read past the page cache may
 * not be any more.
 */
bool ta_file_may_have_changed(int fd, bool is_read, bool was_direct)
{
	if (is_read && was_direct)
		return !(ta_syscall2(SYS_fcntl, fd, F_GETFL) & O_DIRECT);
	return !ta_file_has_position(fd);
}

/* ---- for requests that never reach kernel AIO: what it would say to them --------------------- */

/*
 * What a transfer meets; makes of the identity that of the line in which its requests stand, if
 * they do.  Eventfds and their like all have one inode, as have the masters of all terminals; other
 * devices may be another thing for everyone who opens them.
 */
enum ta_target ta_file_target(int fd, struct ta_file_identity *identity)
{
	unsigned terminal;

	switch (identity->mode & S_IFMT) {
	case S_IFREG:
	case S_IFBLK:
	case S_IFDIR:
		return TA_TARGET_FILE;
	case S_IFIFO:
		return TA_TARGET_STREAM;
	case S_IFSOCK:
		return TA_TARGET_SOCKET;
	case S_IFCHR:
		if (is_memory_device(identity->mode, identity->node))
			return TA_TARGET_DEVICE;
		if (ta_syscall3(SYS_ioctl, fd, TIOCGPTN, &terminal) == 0)
			identity->inode ^= (uint64_t)(terminal + 1) << 32;
		return is_terminal(fd) ? TA_TARGET_STREAM : TA_TARGET_LOOSE;
	default:
		return TA_TARGET_LOOSE;
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
		return !is_write && major(identity->device) == NO_DISK &&
		       ta_file_system_type(fd) == PROC_SUPER_MAGIC &&
		       has_calls_with_flags(is_write) && read_nothing(fd, RWF_DSYNC) == -EOPNOTSUPP;
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

/*
 * Does the file know these flags (RWF_NOWAIT, RWF_DONTCACHE)?  A file system with a server has
 * neither, nor has a terminal; of others a read past all data is asked, which touches none.
 */
static bool takes_flags(int fd, long file_flags, const struct ta_file_identity *identity, int flags)
{
	switch (identity->mode & S_IFMT) {
	case S_IFREG:
		if (has_server(ta_file_system_type(fd)))
			return false;
		break;
	case S_IFBLK:
		break;
	case S_IFCHR:
		if (!is_memory_device(identity->mode, identity->node))
			return !is_terminal(fd);
		break;
	default:
		return true;
	}
	return (file_flags & O_ACCMODE) == O_WRONLY || read_nothing(fd, flags) != -EOPNOTSUPP;
}

/* aio_rw_flags: 0, -EOPNOTSUPP or -EINVAL. */
int ta_file_check_flags(int fd, long file_flags, const struct ta_file_identity *identity, int flags,
			bool is_write)
{
	const int appends = RWF_APPEND | RWF_NOAPPEND;
	uint32_t mode = identity->mode;
	int asked;

	if ((flags & ~RWF_HIPRI) == 0)
		return 0;
	if (flags & ~TA_KNOWN_FLAGS || !has_calls_with_flags(is_write))
		return -EOPNOTSUPP;
	if (flags & RWF_ATOMIC && !(is_write && writes_atomically(fd, file_flags)))
		return -EOPNOTSUPP;
	if (flags & RWF_DONTCACHE && !S_ISREG(mode) && !S_ISBLK(mode))
		return -EOPNOTSUPP;
	if (flags & RWF_NOWAIT && has_no_read(fd, mode))
		return -EOPNOTSUPP;
	asked = flags & (RWF_NOWAIT | RWF_DONTCACHE);
	if (asked && !takes_flags(fd, file_flags, identity, asked))
		return -EOPNOTSUPP;
	return (flags & appends) == appends ? -EINVAL : 0;
}

/*
 * Is the descriptor an eventfd?  0, -EBADF or -EINVAL.  By the name that /proc gives it; without
 * /proc whatever has no file type is taken for one.
 */
int ta_file_is_eventfd(int fd)
{
	long flags = ta_syscall2(SYS_fcntl, fd, F_GETFL);
	struct ta_file_identity identity;

	if (flags < 0 || flags & O_PATH)
		return -EBADF;
	if (name_begins(fd, "anon_inode:[eventfd]"))
		return 0;
	if (!name_begins(fd, "") && ta_file_identify(fd, &identity) == 0 &&
	    (identity.mode & S_IFMT) == 0)
		return 0;
	return -EINVAL;
}

/* Tells one eventfd from others, which all share one inode, where the kernel numbers them (5.2). */
void ta_file_tell_eventfd(int fd, struct ta_file_identity *identity)
{
	uint64_t id;

	if (look_up(fd, "eventfd-id:", &id))
		identity->inode = id + 1;
}

/*
 * What of these events (and POLLERR, POLLHUP) is there, or comes within so many milliseconds; or
 * -EBADF.  A signal tells nothing of the file.
 */
int ta_file_poll(int fd, uint16_t events, int wait_ms)
{
	struct pollfd entry = { .fd = fd, .events = (short)events };
	struct timespec timeout = ta_timespec(wait_ms * 1000000LL);
	long result;

	do
		result = ta_syscall5(SYS_ppoll, &entry, 1, &timeout, NULL, 8);
	while (result == -EINTR);
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
		return !is_terminal(fd) && (ta_file_poll(fd, POLLIN | POLLOUT, 0) &
					    (POLLIN | POLLOUT)) != (POLLIN | POLLOUT);
	default:
		return true;
	}
}
