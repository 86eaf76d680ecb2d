/* SPDX-License-Identifier: MIT */
/*
 * The library does not take hold of files whose close has effects: those of FUSE that are open for
 * writing.  The files of holdfs.h have none (FOPEN_NOFLUSH), which it cannot know; so it is told of
 * another file system, unless is_fuse_told is set.  The linker lets this take the place of the C
 * library's.
 */
#ifndef NOT_FUSE_H
#define NOT_FUSE_H

#include <stdbool.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

static bool is_fuse_told;

int fstatfs(int fd, struct statfs *status)
{
#ifdef SYS_fstatfs64
	int result = (int)syscall(SYS_fstatfs64, fd, sizeof(*status), status);
#else
	int result = (int)syscall(SYS_fstatfs, fd, status);
#endif
	const int fuse = 0x65735546, other = 0x484f4c44;

	if (result == 0 && status->f_type == fuse && !is_fuse_told)
		status->f_type = other;
	return result;
}

#endif
