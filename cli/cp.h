/* SPDX-License-Identifier: MIT */
/*
 * trueaio cp, the map: each layer knows the ones below.
 *
 *	cp.c            options; what goes where, by cp(1)'s rules
 *	cp_tree.c       walks a tree, makes its directories and links
 *	copy_engine.c   keeps many requests of many files in flight; copy_engine.h is its inside
 *	copy_stages.c   what the end of each request leads to
 *	copy_file.c     one file: opened, its extents, put in place or removed
 *
 * Errors are reported where they happen, with the name of the file, and the work goes on with the
 * next file; the exit status comes from report_errors().
 */
#ifndef TRUEAIO_CP_H
#define TRUEAIO_CP_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>
#include <sys/types.h>

enum {
	/* Large enough for a disk to stream, small enough for 32 of them to stay in the cache. */
	COPY_BLOCK_BYTES = 256 * 1024,
	/*
	 * What O_DIRECT asks of addresses, offsets and lengths on every device with sectors up to
	 * this.
	 */
	COPY_ALIGNMENT = 4096,
};

struct copy_options {
	unsigned depth; /* blocks in flight */
	bool verify;
	bool direct;
};

/* copy_file.c */
struct copy_file {
	char *source_name;
	char *target_name;
	char *temporary_name; /* what the copy is called until it is complete, then null */
	int source;
	int target;
	bool source_direct; /* opened with O_DIRECT, and not refused */
	bool target_direct;
	bool sparse; /* has holes, which are left out */
	off_t size; /* when it was opened: what is copied */
	off_t next_offset; /* first byte of contents not yet taken */
	struct timespec times[2]; /* read and changed, as utimensat wants them */
};

bool copy_file_open(struct copy_file *file, const char *source, const char *target, bool direct);
void copy_file_take(struct copy_file *file, off_t *offset, size_t *bytes);
bool copy_file_taken(const struct copy_file *file);
void copy_file_begin_check(struct copy_file *file);
bool copy_file_publish(struct copy_file *file);
void copy_file_close(struct copy_file *file);
bool copy_mode(int fd, mode_t mode, const char *name);
void copy_symlink(const char *source, const char *target);

/* copy_engine.c */
struct copy_engine;

struct copy_engine *copy_engine_open(const struct copy_options *options);
void copy_engine_add(struct copy_engine *engine, const char *source, const char *target);
void copy_engine_add_directory(struct copy_engine *engine, int fd, const char *path);
void copy_engine_finish(struct copy_engine *engine);
void copy_engine_close(struct copy_engine *engine);

/* cp_tree.c */
struct cp_directory {
	char *path;
	bool made; /* by us: gets the source's mode and times; others keep theirs */
	mode_t mode;
	struct timespec times[2];
};

struct cp_tree {
	struct copy_engine *engine;
	struct cp_directory *directories; /* where names were made, parents before children */
	size_t count;
	size_t capacity;
	dev_t top_device; /* of the directory that the present walk copies to */
	ino_t top_inode;
};

void cp_tree_copy(struct cp_tree *tree, const char *source, const char *target);
void cp_tree_copy_file(struct cp_tree *tree, const char *source, const char *target);
void cp_tree_finish(struct cp_tree *tree);
off_t cp_tree_bytes(const char *source);

#endif
