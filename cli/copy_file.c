/* SPDX-License-Identifier: MIT */
/*
 * One file that is copied: everything about it that is a name, a descriptor or an attribute, and
 * none of the reading and writing.
 *
 * The copy grows under a temporary name in the directory of its target, so that one rename, within
 * one file system, makes it the target.  Until then the target is the old file or nothing; a
 * process that dies by SIGKILL leaves the temporary (".trueaio-" and two numbers) behind, and
 * nothing else.
 *
 * The size that the source has when it is opened is the size of the copy: of a file that grows
 * meanwhile, what it was then; a file that shrinks is an error, because what was read before and
 * after may not belong together.
 *
 * The mode is set before there are contents: it is then on the disk by the copy's fsync.  Set-ID
 * bits are left out, since the copy belongs to the user who copies.  The times are set last, as
 * every write changes them.
 */
#include "cli.h"
#include "cp.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	MODE_BITS = 0777,
	STAT_BLOCK_BYTES = 512,
};

/* A killed process of the same number may have left names.  Null if there is no memory. */
static char *temporary_beside(const char *target)
{
	static unsigned count;
	const char *slash = strrchr(target, '/');
	int directory_length = slash ? (int)(slash - target) + 1 : 0;
	struct stat status;
	char *name = NULL;

	do {
		free(name);
		if (asprintf(&name, "%.*s.trueaio-%d-%u", directory_length, target, (int)getpid(),
			     count++) < 0)
			return NULL;
	} while (lstat(name, &status) == 0);
	return name;
}

static bool open_source(struct copy_file *file, struct stat *status)
{
	ssize_t got;
	char byte;

	/* Not opened before it is known to be a file: a FIFO would wait, a tape wind. */
	if (stat(file->source_name, status) != 0) {
		report_error(errno, "%s", file->source_name);
		return false;
	}
	if (!S_ISREG(status->st_mode)) {
		report_error(0, "%s: is not a regular file: not copied", file->source_name);
		return false;
	}
	file->source = open(file->source_name, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	if (file->source < 0 || fstat(file->source, status) != 0) {
		report_error(errno, "%s: cannot open", file->source_name);
		return false;
	}
	file->size = status->st_size;
	file->times[0] = status->st_atim;
	file->times[1] = status->st_mtim;

	/* Files of /proc have contents and no size: to copy nothing of them would lose it all. */
	got = file->size == 0 ? pread(file->source, &byte, 1, 0) : 0;
	if (got < 0)
		report_error(errno, "%s: cannot read", file->source_name);
	else if (got > 0)
		report_error(0, "%s: has contents but says that its size is 0: not copied",
			     file->source_name);
	return got == 0;
}

/*
 * A rename asks only the directory.  The file itself is asked here, so that nothing is replaced
 * that cp(1) could not overwrite.
 */
static bool may_replace(const struct copy_file *file, const struct stat *source)
{
	struct stat target;

	if (stat(file->target_name, &target) != 0) {
		if (errno == ENOENT)
			return true;
		report_error(errno, "%s", file->target_name);
	} else if (target.st_dev == source->st_dev && target.st_ino == source->st_ino) {
		report_error(0, "%s: is the same file as %s", file->target_name, file->source_name);
	} else if (!S_ISREG(target.st_mode)) {
		report_error(0, "%s: is not a regular file: not replaced", file->target_name);
	} else if (faccessat(AT_FDCWD, file->target_name, W_OK, AT_EACCESS) != 0) {
		report_error(errno, "%s: cannot replace", file->target_name);
	} else {
		return true;
	}
	return false;
}

/* A file system that cannot keep it (vfat) is no reason not to copy: that is said, once. */
bool copy_mode(int fd, mode_t mode, const char *name)
{
	static bool said;

	if (fchmod(fd, mode) == 0)
		return true;
	if (errno != EPERM && errno != EOPNOTSUPP && errno != ENOSYS)
		return false;
	if (!said)
		report_note("%s: the file system does not keep modes", name);
	said = true;
	return true;
}

static bool open_temporary(struct copy_file *file, mode_t mode)
{
	file->temporary_name = temporary_beside(file->target_name);
	if (file->temporary_name)
		file->target =
			open(file->temporary_name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	/*
	 * The size comes first: an O_DIRECT write that makes a file longer is done inside io_submit
	 * on ext4, one into its length is not.  It is also what makes a hole at the end.
	 */
	if (file->target >= 0 && copy_mode(file->target, mode & MODE_BITS, file->target_name) &&
	    ftruncate(file->target, file->size) == 0)
		return true;
	report_error(errno, "%s: cannot create", file->target_name);
	return false;
}

/* The flag is set on the open file, since some file systems refuse it only there. */
static bool set_direct(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return flags >= 0 && fcntl(fd, F_SETFL, flags | O_DIRECT) == 0;
}

/* Said once for reading and once for writing, not for each file of a tree. */
static void choose_direct(struct copy_file *file)
{
	static bool said_source, said_target;

	file->source_direct = set_direct(file->source);
	file->target_direct = set_direct(file->target);
	if (!file->source_direct && !said_source) {
		report_note("%s: the file system refuses O_DIRECT: read through the page cache",
			    file->source_name);
		said_source = true;
	}
	if (!file->target_direct && !said_target) {
		report_note("%s: the file system refuses O_DIRECT: written through the page cache",
			    file->target_name);
		said_target = true;
	}
}

/*
 * Moves next_offset to where contents begin, or to the start of the COPY_ALIGNMENT in which they
 * do.  A file system that knows no holes has contents.
 */
static void skip_hole(struct copy_file *file)
{
	off_t data;

	if (!file->sparse || file->next_offset >= file->size)
		return;
	data = lseek(file->source, file->next_offset, SEEK_DATA);
	if (data < 0 && errno != ENXIO)
		file->sparse = false;
	else if (data < 0 || data > file->size)
		file->next_offset = file->size;
	else
		file->next_offset = data - data % COPY_ALIGNMENT;
}

/* Returns false, with everything undone, after saying why. */
bool copy_file_open(struct copy_file *file, const char *source, const char *target, bool direct)
{
	struct stat status;

	*file = (struct copy_file){ .source = -1, .target = -1 };
	file->source_name = strdup(source);
	file->target_name = strdup(target);
	if (!file->source_name || !file->target_name) {
		report_error(ENOMEM, "%s", source);
		copy_file_close(file);
		return false;
	}
	if (!open_source(file, &status) || !may_replace(file, &status) ||
	    !open_temporary(file, status.st_mode)) {
		copy_file_close(file);
		return false;
	}
	if (direct)
		choose_direct(file);
	file->sparse = status.st_blocks < status.st_size / STAT_BLOCK_BYTES;
	skip_hole(file);
	return true;
}

bool copy_file_taken(const struct copy_file *file)
{
	return file->next_offset >= file->size;
}

/*
 * The next block of contents; there must be one.  It begins and ends at multiples of
 * COPY_ALIGNMENT, or at the end of the file: a block that O_DIRECT makes longer must not reach into
 * the next one.
 */
void copy_file_take(struct copy_file *file, off_t *offset, size_t *bytes)
{
	off_t end = file->size;

	if (file->sparse) {
		off_t hole = lseek(file->source, file->next_offset, SEEK_HOLE);
		off_t beyond = hole + COPY_ALIGNMENT - 1;

		beyond -= beyond % COPY_ALIGNMENT;
		if (hole > file->next_offset && beyond < end)
			end = beyond;
	}
	*offset = file->next_offset;
	*bytes = COPY_BLOCK_BYTES;
	if (end - *offset < COPY_BLOCK_BYTES)
		*bytes = (size_t)(end - *offset);
	file->next_offset += (off_t)*bytes;
	skip_hole(file);
}

/*
 * From the start again, this time to compare: with the medium and not with the page cache, which
 * O_DIRECT passes by.  Where it is refused the cache is asked to forget the copy, which is clean by
 * now.  Holes are compared too.
 */
void copy_file_begin_check(struct copy_file *file)
{
	file->next_offset = 0;
	file->sparse = false;
	if (!file->target_direct)
		file->target_direct = set_direct(file->target);
	if (!file->target_direct)
		posix_fadvise(file->target, 0, 0, POSIX_FADV_DONTNEED);
}

/* Makes the copy, complete and synchronized, the target. */
bool copy_file_publish(struct copy_file *file)
{
	struct stat status;

	if (fstat(file->source, &status) == 0 && status.st_size < file->size) {
		report_error(0, "%s: ended before the size that it had when opened",
			     file->source_name);
		return false;
	}
	if (futimens(file->target, file->times) != 0 ||
	    rename(file->temporary_name, file->target_name) != 0) {
		report_error(errno, "%s: cannot put the copy in place", file->target_name);
		return false;
	}
	free(file->temporary_name);
	file->temporary_name = NULL;
	return true;
}

/* A copy that is still a temporary one goes. */
void copy_file_close(struct copy_file *file)
{
	if (file->temporary_name && file->target >= 0)
		unlink(file->temporary_name);
	if (file->source >= 0)
		close(file->source);
	if (file->target >= 0)
		close(file->target);
	free(file->temporary_name);
	free(file->target_name);
	free(file->source_name);
	*file = (struct copy_file){ .source = -1, .target = -1 };
}

static bool make_link(const char *contents, const char *target, const struct timespec times[2])
{
	char *name = temporary_beside(target);
	bool made = false;

	if (!name)
		return false;
	if (symlink(contents, name) == 0) {
		utimensat(AT_FDCWD, name, times, AT_SYMLINK_NOFOLLOW);
		made = rename(name, target) == 0;
		if (!made) {
			int error = errno;
			unlink(name);
			errno = error;
		}
	}
	free(name);
	return made;
}

static bool may_replace_by_link(const char *source, const struct stat *link, const char *target)
{
	struct stat old;

	if (lstat(target, &old) != 0)
		return true;
	if (old.st_dev == link->st_dev && old.st_ino == link->st_ino)
		report_error(0, "%s: is the same file as %s", target, source);
	else if (!S_ISREG(old.st_mode) && !S_ISLNK(old.st_mode))
		report_error(0, "%s: is neither a file nor a link: not replaced", target);
	else
		return true;
	return false;
}

/* A symbolic link as a link.  It takes the place of a file or link as a file does: whole. */
void copy_symlink(const char *source, const char *target)
{
	char contents[PATH_MAX];
	struct stat status;
	ssize_t length = readlink(source, contents, sizeof(contents) - 1);

	if (length < 0 || lstat(source, &status) != 0) {
		report_error(errno, "%s: cannot read the link", source);
		return;
	}
	contents[length] = '\0';
	if (!may_replace_by_link(source, &status, target))
		return;
	if (!make_link(contents, target, (struct timespec[2]){ status.st_atim, status.st_mtim }))
		report_error(errno, "%s: cannot create the link", target);
}
