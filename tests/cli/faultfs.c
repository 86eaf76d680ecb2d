/* SPDX-License-Identifier: MIT */
/*
 * faultfs: a file system that shows a directory and goes wrong as told.
 *
 *	faultfs MOUNTPOINT DIRECTORY [FAULT...]
 *
 *	damage=OFFSET      the byte there is stored inverted
 *	read-error=OFFSET  a read that reaches it fails (EIO)
 *	sync-error         fsync fails (EIO)
 *	slow-writes        a write takes a while, so that what does not wait for it overtakes it
 *	short=BYTES        no read moves more than that (the kernel makes an error of a short write)
 *	hold=FILE          while FILE exists reads and writes wait; FILE.reached says that one does
 *	log=FILE           gets a line for each write that is done, each fsync and rename that comes
 *	no-modes           chmod fails (EPERM)
 *	cached             the kernel keeps what is written and reads that
 *
 * Otherwise nothing is cached in the kernel (direct_io), and every read and write of a program
 * comes here as it was made.  The mount goes to the background when it is there; it ends when it is
 * unmounted.
 */
#define FUSE_USE_VERSION 35

#include <errno.h>
#include <fcntl.h>
#include <fuse3/fuse.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int directory; /* what is shown */
static long long damage = -1;
static long long read_error = -1;
static size_t most = SIZE_MAX;
static int sync_error;
static int slow_writes;
static int cached;
static int no_modes;
static const char *hold;
static int log_file = -1;

static int answer(int result)
{
	return result < 0 ? -errno : 0;
}

/* One write, with O_APPEND: lines of several threads do not mix. */
__attribute__((format(printf, 1, 2))) static void note(const char *format, ...)
{
	char line[PATH_MAX];
	va_list arguments;

	if (log_file < 0)
		return;
	va_start(arguments, format);
	int length = vsnprintf(line, sizeof(line), format, arguments);
	va_end(arguments);
	if (write(log_file, line, (size_t)length) != length)
		abort();
}

static void wait_while_held(void)
{
	char reached[PATH_MAX];

	if (!hold)
		return;
	while (access(hold, F_OK) == 0) {
		snprintf(reached, sizeof(reached), "%s.reached", hold);
		close(open(reached, O_CREAT | O_WRONLY, 0600));
		usleep(2000);
	}
}

/* The paths that come begin with a slash. */
static const char *relative(const char *path)
{
	return path[1] ? path + 1 : ".";
}

static void *start(struct fuse_conn_info *connection, struct fuse_config *config)
{
	(void)connection;
	config->direct_io = !cached;
	config->hard_remove = 1;
	config->attr_timeout = 0;
	config->entry_timeout = 0;
	config->negative_timeout = 0;
	return NULL;
}

static int get_attributes(const char *path, struct stat *status, struct fuse_file_info *file)
{
	if (file)
		return answer(fstat((int)file->fh, status));
	return answer(fstatat(directory, relative(path), status, AT_SYMLINK_NOFOLLOW));
}

static int open_file(const char *path, struct fuse_file_info *file)
{
	int fd = openat(directory, relative(path), file->flags & ~O_DIRECT);

	file->fh = (uint64_t)fd;
	return answer(fd);
}

static int create_file(const char *path, mode_t mode, struct fuse_file_info *file)
{
	int fd = openat(directory, relative(path), (file->flags & ~O_DIRECT) | O_CREAT, mode);

	file->fh = (uint64_t)fd;
	return answer(fd);
}

static int release_file(const char *path, struct fuse_file_info *file)
{
	(void)path;
	return answer(close((int)file->fh));
}

static int read_file(const char *path, char *buffer, size_t size, off_t offset,
		     struct fuse_file_info *file)
{
	(void)path;
	wait_while_held();
	if (read_error >= 0 && offset <= read_error && read_error < offset + (off_t)size)
		return -EIO;
	ssize_t moved = pread((int)file->fh, buffer, size < most ? size : most, offset);
	return moved < 0 ? -errno : (int)moved;
}

static int write_file(const char *path, const char *buffer, size_t size, off_t offset,
		      struct fuse_file_info *file)
{
	(void)path;
	wait_while_held();
	if (slow_writes)
		usleep(50000);
	ssize_t moved = pwrite((int)file->fh, buffer, size, offset);
	note("write %lld %zu\n", (long long)offset, size);
	if (moved < 0)
		return -errno;
	if (damage >= offset && damage < offset + moved) {
		char inverted = (char)~buffer[damage - offset];
		if (pwrite((int)file->fh, &inverted, 1, damage) != 1)
			return -errno;
	}
	return (int)moved;
}

static int synchronize_file(const char *path, int data_only, struct fuse_file_info *file)
{
	(void)path, (void)data_only, (void)file;
	note("fsync\n");
	return sync_error ? -EIO : 0;
}

static int synchronize_directory(const char *path, int data_only, struct fuse_file_info *file)
{
	(void)path, (void)data_only, (void)file;
	note("fsync directory\n");
	return 0;
}

static int truncate_file(const char *path, off_t size, struct fuse_file_info *file)
{
	if (file)
		return answer(ftruncate((int)file->fh, size));
	int fd = openat(directory, relative(path), O_WRONLY);
	if (fd < 0)
		return -errno;
	int result = answer(ftruncate(fd, size));
	close(fd);
	return result;
}

static int rename_file(const char *from, const char *to, unsigned flags)
{
	note("rename %s\n", to);
	return flags ? -EINVAL
		     : answer(renameat(directory, relative(from), directory, relative(to)));
}

static int unlink_file(const char *path)
{
	return answer(unlinkat(directory, relative(path), 0));
}

static int change_mode(const char *path, mode_t mode, struct fuse_file_info *file)
{
	(void)file;
	return no_modes ? -EPERM : answer(fchmodat(directory, relative(path), mode, 0));
}

static int change_times(const char *path, const struct timespec times[2],
			struct fuse_file_info *file)
{
	(void)file;
	return answer(utimensat(directory, relative(path), times, AT_SYMLINK_NOFOLLOW));
}

static off_t seek_in_file(const char *path, off_t offset, int whence, struct fuse_file_info *file)
{
	(void)path;
	offset = lseek((int)file->fh, offset, whence);
	return offset < 0 ? -errno : offset;
}

static const struct fuse_operations operations = {
	.init = start,
	.getattr = get_attributes,
	.open = open_file,
	.create = create_file,
	.release = release_file,
	.read = read_file,
	.write = write_file,
	.lseek = seek_in_file,
	.fsync = synchronize_file,
	.fsyncdir = synchronize_directory,
	.truncate = truncate_file,
	.rename = rename_file,
	.unlink = unlink_file,
	.chmod = change_mode,
	.utimens = change_times,
};

static const char *value_of(const char *argument, const char *name)
{
	size_t length = strlen(name);

	return strncmp(argument, name, length) == 0 ? argument + length : NULL;
}

static void set_fault(const char *fault)
{
	const char *value;

	if ((value = value_of(fault, "damage="))) {
		damage = atoll(value);
	} else if ((value = value_of(fault, "read-error="))) {
		read_error = atoll(value);
	} else if ((value = value_of(fault, "short="))) {
		most = (size_t)atoll(value);
	} else if ((value = value_of(fault, "hold="))) {
		hold = value;
	} else if ((value = value_of(fault, "log="))) {
		log_file = open(value, O_WRONLY | O_CREAT | O_APPEND, 0600);
	} else if (strcmp(fault, "sync-error") == 0) {
		sync_error = 1;
	} else if (strcmp(fault, "slow-writes") == 0) {
		slow_writes = 1;
	} else if (strcmp(fault, "cached") == 0) {
		cached = 1;
	} else if (strcmp(fault, "no-modes") == 0) {
		no_modes = 1;
	} else {
		fprintf(stderr, "faultfs: no fault \"%s\"\n", fault);
		exit(2);
	}
}

int main(int argc, char **argv)
{
	/* Requests that are held must not keep others from being served: a thread for each. */
	char *arguments[] = { argv[0], argv[1], "-o", "max_threads=200,fsname=faultfs", NULL };

	if (argc < 3) {
		fputs("Usage: faultfs MOUNTPOINT DIRECTORY [FAULT...]\n", stderr);
		return 2;
	}
	directory = open(argv[2], O_RDONLY | O_DIRECTORY);
	if (directory < 0) {
		perror(argv[2]);
		return 2;
	}
	for (int i = 3; i < argc; i++)
		set_fault(argv[i]);
	return fuse_main(4, arguments, &operations, NULL);
}
