/* SPDX-License-Identifier: MIT */
/*
 * trueaio doctor: what a file is, and where its requests would go.
 *
 * A look must do nothing to the file.  Merely opening a FIFO wakes those who wait to write to it,
 * and opening a device may rewind a tape or start a watchdog.  So the type is asked through a
 * descriptor that opens nothing (O_PATH), and only files, directories, block devices and the
 * devices of memory (/dev/zero and the like) are opened after that.
 */
#include "doctor.h"

#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>

/* Linux 6.14. */
#ifndef RWF_DONTCACHE
#define RWF_DONTCACHE 0x00000080
#endif

#define MEMORY_MAJOR 1
#define PTY_MAJOR_FIRST 136
#define PTY_MAJOR_LAST 143

const char *file_type_name(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
		return "regular file";
	case S_IFDIR:
		return "directory";
	case S_IFBLK:
		return "block device";
	case S_IFCHR:
		return "character device";
	case S_IFIFO:
		return "FIFO";
	case S_IFSOCK:
		return "socket";
	default:
		return "unknown type";
	}
}

/* Names in mountinfo have blanks and the like as octal numbers. */
static void unescape(char *text)
{
	char *to = text;

	for (const char *from = text; *from; from++) {
		if (from[0] == '\\' && strspn(from + 1, "01234567") >= 3) {
			*to++ = (char)((from[1] - '0') * 64 + (from[2] - '0') * 8 + from[3] - '0');
			from += 3;
		} else {
			*to++ = *from;
		}
	}
	*to = '\0';
}

/* "36 35 98:0 /root /mount rw,noatime shared:1 - ext4 /dev/sda1 rw" */
static bool parse_mount(char *line, uint64_t mount, bool by_mount, const struct file_facts *facts,
			char **type, char **source)
{
	char *rest = strstr(line, " - "), *place = NULL;
	unsigned major, minor;
	unsigned long id;

	if (!rest || sscanf(line, "%lu %*u %u:%u", &id, &major, &minor) != 3)
		return false;
	if (by_mount ? id != mount : major != facts->device_major || minor != facts->device_minor)
		return false;
	*type = strtok_r(rest + 3, " ", &place);
	*source = strtok_r(NULL, " ", &place);
	return *type && *source;
}

/* By the mount the file was reached through; of kernels before 5.8, by the device. */
static bool find_mount(const struct statx *status, struct file_facts *facts)
{
	FILE *mounts = fopen("/proc/self/mountinfo", "re");
	bool by_mount = status->stx_mask & STATX_MNT_ID, found = false;
	char *line = NULL, *type, *source;
	size_t size = 0;

	if (!mounts)
		return false;
	while (!found && getline(&line, &size, mounts) > 0) {
		found = parse_mount(line, status->stx_mnt_id, by_mount, facts, &type, &source);
		if (found) {
			unescape(source);
			snprintf(facts->file_system, sizeof(facts->file_system), "%s", type);
			snprintf(facts->source, sizeof(facts->source), "%s", source);
		}
	}
	free(line);
	fclose(mounts);
	return found;
}

static void look_at_file_system(int fd, const struct statx *status, struct file_facts *facts)
{
	struct statfs old;

	facts->device_major = status->stx_dev_major;
	facts->device_minor = status->stx_dev_minor;
	if (!find_mount(status, facts) && fstatfs(fd, &old) == 0)
		snprintf(facts->file_system, sizeof(facts->file_system), "0x%lx",
			 (unsigned long)old.f_type);
	if (S_ISBLK(facts->mode) || S_ISCHR(facts->mode)) {
		facts->device_major = status->stx_rdev_major;
		facts->device_minor = status->stx_rdev_minor;
	}
}

/* Serial lines and the console are known to the kernel's device tree, pseudoterminals are not. */
static bool is_terminal_device(const struct file_facts *facts)
{
	char path[64], target[256];
	ssize_t length;

	if (facts->device_major >= PTY_MAJOR_FIRST && facts->device_major <= PTY_MAJOR_LAST)
		return true;
	snprintf(path, sizeof(path), "/sys/dev/char/%u:%u/subsystem", facts->device_major,
		 facts->device_minor);
	length = readlink(path, target, sizeof(target) - 1);
	if (length < 0)
		return false;
	target[length] = '\0';
	return strcmp(basename(target), "tty") == 0;
}

static bool may_be_opened(const struct file_facts *facts)
{
	return S_ISREG(facts->mode) || S_ISDIR(facts->mode) || S_ISBLK(facts->mode) ||
	       (S_ISCHR(facts->mode) && facts->device_major == MEMORY_MAJOR);
}

/* The very file that was looked at, whatever its name means by now; by the name without /proc. */
static int reopen(int fd, const char *path, int flags)
{
	char link[32];
	int opened;

	flags |= O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	opened = open(link, flags);
	return opened >= 0 || errno != ENOENT ? opened : open(path, flags);
}

static void look_at_direct(int fd, struct file_facts *facts)
{
	int direct = reopen(fd, facts->path, O_DIRECT);

	facts->takes_direct = direct >= 0 ? 1 : errno == EINVAL ? 0 : -1;
	if (direct >= 0)
		close(direct);
#ifdef STATX_DIOALIGN
	struct statx status;

	if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_DIOALIGN, &status) == 0 &&
	    status.stx_mask & STATX_DIOALIGN) {
		facts->direct_memory_bytes = status.stx_dio_mem_align;
		facts->direct_offset_bytes = status.stx_dio_offset_align;
	}
#endif
#ifdef STATX_WRITE_ATOMIC
	if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_WRITE_ATOMIC, &status) == 0 &&
	    status.stx_mask & STATX_WRITE_ATOMIC) {
		facts->atomic_min_bytes = status.stx_atomic_write_unit_min;
		facts->atomic_max_bytes = status.stx_atomic_write_unit_max;
	}
#endif
}

/* ---- where requests go ----------------------------------------------------------------------- */

static enum route with_workers(const struct system_facts *system, enum route route)
{
	return system->has_workers ? route : ROUTE_WAITING;
}

static void route_on_kernel_aio(const struct system_facts *system, enum ta_file_class class,
				struct file_facts *facts)
{
	facts->direct_reads = ROUTE_KERNEL;
	facts->buffered_reads = ROUTE_KERNEL;
	facts->writes = ROUTE_KERNEL;
	facts->syncs = system->has_workers ? ROUTE_KERNEL_OR_HELD : ROUTE_KERNEL;
	switch (class) {
	case TA_FILE_KERNEL:
		break;
	case TA_FILE_MEMORY:
		facts->buffered_reads = facts->writes = ROUTE_AT_ONCE;
		break;
	case TA_FILE_DEVICE:
		facts->buffered_reads = ROUTE_AT_ONCE;
		break;
	case TA_FILE_BUFFERED:
	case TA_FILE_CACHED:
	case TA_FILE_SYNCHRONOUS:
		facts->buffered_reads = with_workers(system, ROUTE_TRIAL);
		facts->writes = ROUTE_AT_ONCE;
		break;
	case TA_FILE_SLOW:
		facts->buffered_reads = with_workers(system, ROUTE_WORKERS);
		break;
	case TA_FILE_STREAM:
		facts->buffered_reads = with_workers(system, ROUTE_WORKERS_IN_TURN);
		facts->writes = facts->buffered_reads;
		break;
	}
}

/* The workers have what would be the kernel's. */
static void route_without_kernel_aio(struct file_facts *facts)
{
	if (facts->buffered_reads == ROUTE_KERNEL)
		facts->buffered_reads = ROUTE_WORKERS;
	if (facts->writes == ROUTE_KERNEL)
		facts->writes = ROUTE_WORKERS;
	facts->direct_reads = facts->syncs = ROUTE_WORKERS;
}

/* fd is -1 for what was not opened. */
static void route_requests(const struct system_facts *system, int fd, enum ta_file_class class,
			   struct file_facts *facts)
{
	route_on_kernel_aio(system, class, facts);
	if (system->engine != ENGINE_NATIVE)
		route_without_kernel_aio(facts);
	if (ta_file_cannot_sync(fd, facts->mode))
		facts->syncs = ROUTE_REFUSED;
	if (facts->takes_direct == 0 || (!S_ISREG(facts->mode) && !S_ISBLK(facts->mode)))
		facts->direct_reads = ROUTE_REFUSED;
	if (S_ISDIR(facts->mode))
		facts->buffered_reads = facts->writes = ROUTE_REFUSED;
}

/* ---- looking --------------------------------------------------------------------------------- */

static void look_inside(int fd, const struct system_facts *system, struct file_facts *facts)
{
	bool is_direct;
	enum ta_file_class class = ta_file_classify(fd, &is_direct);

	facts->is_opened = true;
	facts->says_would_block = ta_probe_read_flags(fd, RWF_NOWAIT);
	if (S_ISREG(facts->mode))
		class = ta_file_settle(fd, facts->says_would_block != 0);
	facts->is_in_memory =
		S_ISREG(facts->mode) && (class == TA_FILE_MEMORY || class == TA_FILE_KERNEL);
	if (S_ISREG(facts->mode) || S_ISBLK(facts->mode)) {
		facts->takes_dontcache = ta_probe_read_flags(fd, RWF_DONTCACHE);
		look_at_direct(fd, facts);
	}
	route_requests(system, fd, class, facts);
}

static void look_from_outside(const struct system_facts *system, struct file_facts *facts)
{
	if (S_ISCHR(facts->mode) && !is_terminal_device(facts))
		return;
	route_requests(system, -1, TA_FILE_STREAM, facts);
}

/* 0, or an errno. */
int doctor_look_at_file(const char *path, const struct system_facts *system,
			struct file_facts *facts)
{
	int fd = open(path, O_PATH | O_CLOEXEC), opened;
	struct statx status;

	*facts = (struct file_facts){
		.path = path, .says_would_block = -1, .takes_dontcache = -1, .takes_direct = -1
	};
	if (fd < 0)
		return facts->error = errno;
	if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_BASIC_STATS | STATX_MNT_ID,
		  &status) < 0) {
		facts->error = errno;
		goto done;
	}
	facts->mode = status.stx_mode;
	look_at_file_system(fd, &status, facts);
	if (!may_be_opened(facts)) {
		look_from_outside(system, facts);
		goto done;
	}
	opened = reopen(fd, path, 0);
	if (opened < 0) {
		facts->error = errno;
		goto done;
	}
	look_inside(opened, system, facts);
	close(opened);
done:
	close(fd);
	return facts->error;
}
