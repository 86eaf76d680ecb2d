/* SPDX-License-Identifier: MIT */
/*
 * Trees: directories and links are made here, at once; files go to the engine.
 *
 * A directory gets its mode and its times at the very end, when nothing more is created in it: a
 * mode without write permission would forbid that, and each new name changes the times.  Then it is
 * synchronized, which makes the renames in it last.  So every directory in which a name was made is
 * noted on the way, and the notes are worked off backwards, children before their parents.
 */
#include "cli.h"
#include "cp.h"

#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	/* A directory keeps "only the owner removes"; set-ID bits go, as those of files do. */
	DIRECTORY_MODE_BITS = 01777,
};

/*
 * @made: the source's attributes if we made it, else null: a directory that was there keeps its
 * own.
 */
static bool note_directory(struct cp_tree *tree, const char *path, const struct stat *made)
{
	struct cp_directory *directory;
	char *copied_path = NULL;

	if (tree->count > 0 && strcmp(tree->directories[tree->count - 1].path, path) == 0)
		return true;
	if (tree->count == tree->capacity) {
		size_t capacity = tree->capacity ? 2 * tree->capacity : 64;
		void *grown = reallocarray(tree->directories, capacity, sizeof(*tree->directories));
		if (grown) {
			tree->directories = grown;
			tree->capacity = capacity;
		}
	}
	if (tree->count < tree->capacity)
		copied_path = strdup(path);
	if (!copied_path) {
		report_error(ENOMEM, "%s", path);
		return false;
	}
	directory = &tree->directories[tree->count++];
	*directory = (struct cp_directory){ .path = copied_path, .made = made };
	if (made) {
		directory->mode = made->st_mode & DIRECTORY_MODE_BITS;
		directory->times[0] = made->st_atim;
		directory->times[1] = made->st_mtim;
	}
	return true;
}

static bool note_parent(struct cp_tree *tree, const char *path)
{
	char *copied_path = strdup(path);
	bool noted = copied_path && note_directory(tree, dirname(copied_path), NULL);

	free(copied_path);
	return noted;
}

/* The name itself, or the file that it leads to if it is a link: as with cp(1), the link stays. */
static char *follow_link(const char *name)
{
	struct stat status;
	char *path;

	if (lstat(name, &status) == 0 && S_ISLNK(status.st_mode))
		path = realpath(name, NULL);
	else
		path = strdup(name);
	if (!path)
		report_error(errno, "%s: cannot follow the link", name);
	return path;
}

/* @parent_noted: a link's file may be anywhere, so its directory is noted all the same. */
static void copy_file(struct cp_tree *tree, const char *source, const char *target,
		      bool parent_noted)
{
	char *path = follow_link(target);

	if (path && ((parent_noted && strcmp(path, target) == 0) || note_parent(tree, path)))
		copy_engine_add(tree->engine, source, path);
	free(path);
}

void cp_tree_copy_file(struct cp_tree *tree, const char *source, const char *target)
{
	copy_file(tree, source, target, false);
}

static bool same_directory(const struct stat *status, dev_t device, ino_t inode)
{
	return status->st_dev == device && status->st_ino == inode;
}

/*
 * A directory that was there is merged with, but not one behind a link inside the tree: that would
 * write outside.  The top is the user's to name.
 */
static bool make_directory(struct cp_tree *tree, const FTSENT *entry, const char *path)
{
	bool top = entry->fts_level == FTS_ROOTLEVEL;
	struct stat status;

	if (mkdir(path, (entry->fts_statp->st_mode & DIRECTORY_MODE_BITS) | S_IRWXU) == 0) {
		if (top && !note_parent(tree, path))
			return false;
		return note_directory(tree, path, entry->fts_statp);
	}
	if (errno != EEXIST)
		report_error(errno, "%s: cannot create the directory", path);
	else if (fstatat(AT_FDCWD, path, &status, top ? 0 : AT_SYMLINK_NOFOLLOW) != 0)
		report_error(errno, "%s", path);
	else if (!S_ISDIR(status.st_mode))
		report_error(0, "%s: is not a directory: not replaced by one", path);
	else
		return note_directory(tree, path, NULL);
	return false;
}

static void visit_directory(struct cp_tree *tree, FTS *walk, FTSENT *entry, const char *path)
{
	struct stat status;

	/* Through a bind mount the target can be inside the source though no ".." leads there. */
	if (entry->fts_level > FTS_ROOTLEVEL &&
	    same_directory(entry->fts_statp, tree->top_device, tree->top_inode)) {
		report_error(0, "%s: is the copy itself: left out", entry->fts_path);
		fts_set(walk, entry, FTS_SKIP);
		return;
	}
	if (!make_directory(tree, entry, path)) {
		fts_set(walk, entry, FTS_SKIP);
		return;
	}
	if (entry->fts_level == FTS_ROOTLEVEL && stat(path, &status) == 0) {
		tree->top_device = status.st_dev;
		tree->top_inode = status.st_ino;
	}
}

static void visit(struct cp_tree *tree, FTS *walk, FTSENT *entry, const char *path)
{
	bool parent_noted = entry->fts_level > FTS_ROOTLEVEL;

	switch (entry->fts_info) {
	case FTS_D:
		visit_directory(tree, walk, entry, path);
		break;
	case FTS_DP:
		break;
	case FTS_F:
		copy_file(tree, entry->fts_path, path, parent_noted);
		break;
	case FTS_SL:
	case FTS_SLNONE:
		if (parent_noted || note_parent(tree, path))
			copy_symlink(entry->fts_path, path);
		break;
	case FTS_DNR:
	case FTS_ERR:
	case FTS_NS:
		report_error(entry->fts_errno, "%s", entry->fts_path);
		break;
	case FTS_DC:
		report_error(ELOOP, "%s", entry->fts_path);
		break;
	default:
		report_error(0, "%s: is not a regular file: not copied", entry->fts_path);
		break;
	}
}

/* Climbs from the target to the root.  True also if it is the source. */
static bool is_inside(const char *target, const char *source)
{
	struct stat outer, here, above;
	bool inside = false;
	int fd = open(target, O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0 && errno == ENOENT) {
		char *copied_path = strdup(target);
		if (copied_path)
			fd = open(dirname(copied_path), O_PATH | O_DIRECTORY | O_CLOEXEC);
		free(copied_path);
	}
	if (fd < 0)
		return false;
	if (lstat(source, &outer) == 0 && fstat(fd, &here) == 0) {
		for (;;) {
			int parent;

			inside = same_directory(&outer, here.st_dev, here.st_ino);
			parent = inside ? -1 : openat(fd, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
			if (parent < 0)
				break;
			close(fd);
			fd = parent;
			if (fstat(fd, &above) != 0 ||
			    same_directory(&above, here.st_dev, here.st_ino))
				break;
			here = above;
		}
	}
	close(fd);
	return inside;
}

static char *join(const char *directory, const char *rest)
{
	size_t length = strlen(directory);
	char *path;

	rest += strspn(rest, "/");
	if (!*rest)
		return strdup(directory);
	while (length > 0 && directory[length - 1] == '/')
		length--;
	return asprintf(&path, "%.*s/%s", (int)length, directory, rest) < 0 ? NULL : path;
}

static FTS *open_walk(const char *source)
{
	char *const roots[] = { (char *)source, NULL };
	FTS *walk = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR, NULL);

	if (!walk)
		report_error(errno, "%s", source);
	return walk;
}

/* Copies whatever it is to the name target. */
void cp_tree_copy(struct cp_tree *tree, const char *source, const char *target)
{
	size_t root_length = strlen(source);
	FTSENT *entry;
	FTS *walk;

	if (is_inside(target, source)) {
		report_error(0, "%s: cannot copy a directory into itself, %s", source, target);
		return;
	}
	walk = open_walk(source);
	if (!walk)
		return;
	while (!interrupting_signal() && (errno = 0, entry = fts_read(walk))) {
		char *path = join(target, entry->fts_path + root_length);
		if (path)
			visit(tree, walk, entry, path);
		else
			report_error(ENOMEM, "%s", entry->fts_path);
		free(path);
	}
	if (!interrupting_signal() && errno)
		report_error(errno, "%s", source);
	fts_close(walk);
}

/* The bytes of all files in a tree, for the progress bar; what cannot be read is not counted. */
off_t cp_tree_bytes(const char *source)
{
	FTS *walk = open_walk(source);
	FTSENT *entry;
	off_t bytes = 0;

	if (!walk)
		return 0;
	while ((entry = fts_read(walk))) {
		if (entry->fts_info == FTS_F)
			bytes += entry->fts_statp->st_size;
	}
	fts_close(walk);
	return bytes;
}

static void finish_directory(struct cp_tree *tree, const struct cp_directory *directory)
{
	int fd = open(directory->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0) {
		report_error(errno, "%s: cannot synchronize", directory->path);
		return;
	}
	if (directory->made && (!copy_mode(fd, directory->mode, directory->path) ||
				futimens(fd, directory->times) != 0))
		report_error(errno, "%s: cannot set mode and times", directory->path);
	copy_engine_add_directory(tree->engine, fd, directory->path);
}

/* Waits for all files, then finishes the directories. */
void cp_tree_finish(struct cp_tree *tree)
{
	copy_engine_finish(tree->engine);
	while (tree->count > 0) {
		struct cp_directory *directory = &tree->directories[--tree->count];

		if (!interrupting_signal())
			finish_directory(tree, directory);
		free(directory->path);
	}
	free(tree->directories);
	copy_engine_finish(tree->engine);
}
