/* SPDX-License-Identifier: MIT */
/*
 * What exec would start, and whether our library can come along.
 *
 * The dynamic linker says nothing when it has to leave a library out: a static program has no
 * dynamic linker at all, and in a set-user-ID program the linker ignores the environment.  Such a
 * program would run, on another libaio or on none, and its user would not know.  So we look first,
 * at the file that the kernel is going to load: the program, or the interpreter that its "#!" line
 * names.
 *
 * A program that may be executed but not read is started unseen.
 */
#include "cli.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

/* The kernel's: what it reads of a file to learn its format, and how many "#!" it follows. */
enum {
	SCRIPT_LINE_BYTES = 256,
	SCRIPT_DEPTH_MAX = 5,
};

enum format {
	FORMAT_UNREADABLE,
	FORMAT_SCRIPT, /* interpreter: what stands behind "#!" */
	FORMAT_ELF, /* header; interpreter: the dynamic linker */
	FORMAT_UNKNOWN,
};

struct image {
	ElfW(Ehdr) header;
	char interpreter[PATH_MAX]; /* "" if there is none */
};

static const struct {
	unsigned machine;
	const char *name;
} machines[] = {
	{ EM_386, "i386" },	   { EM_X86_64, "x86-64" },   { EM_ARM, "ARM" },
	{ EM_AARCH64, "AArch64" }, { EM_PPC64, "PowerPC64" }, { EM_S390, "s390" },
	{ EM_RISCV, "RISC-V" },
};

static int executable(const char *path)
{
	struct stat status;

	if (stat(path, &status) != 0)
		return errno;
	if (!S_ISREG(status.st_mode))
		return EACCES;
	return faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) == 0 ? 0 : errno;
}

static char *join(const char *directory, size_t length, const char *name)
{
	char *path;

	/* An empty element of PATH is the current directory. */
	if (length == 0)
		return asprintf(&path, "./%s", name) < 0 ? NULL : path;
	return asprintf(&path, "%.*s/%s", (int)length, directory, name) < 0 ? NULL : path;
}

/*
 * Looks for a program as execvp does.  Returns 0 and an allocated path with a slash in it, ENOENT,
 * or EACCES for one that was found and may not be executed.
 */
int program_find(const char *name, char **path)
{
	const char *element = getenv("PATH");
	int error = ENOENT;

	if (strchr(name, '/')) {
		*path = strdup(name);
		return *path ? executable(*path) : ENOMEM;
	}
	if (!*name)
		return ENOENT;
	if (!element)
		element = "/bin:/usr/bin";

	for (;;) {
		size_t length = strcspn(element, ":");
		char *candidate = join(element, length, name);
		if (!candidate)
			return ENOMEM;
		int result = executable(candidate);
		if (result == 0) {
			*path = candidate;
			return 0;
		}
		free(candidate);
		if (result == EACCES)
			error = EACCES;
		if (!element[length])
			return error;
		element += length + 1;
	}
}

/* Of the file's first bytes. */
static void read_script_line(const char *line, char *interpreter)
{
	const char *start = line + 2 + strspn(line + 2, " \t");

	snprintf(interpreter, SCRIPT_LINE_BYTES, "%.*s", (int)strcspn(start, " \t\n"), start);
}

static void read_elf_interpreter(int fd, struct image *image)
{
	for (unsigned i = 0; i < image->header.e_phnum; i++) {
		ElfW(Phdr) segment;
		off_t at = (off_t)(image->header.e_phoff + i * image->header.e_phentsize);
		size_t bytes;

		if (pread(fd, &segment, sizeof(segment), at) != sizeof(segment))
			return;
		if (segment.p_type != PT_INTERP)
			continue;
		bytes = segment.p_filesz < PATH_MAX ? segment.p_filesz : PATH_MAX - 1;
		if (pread(fd, image->interpreter, bytes, (off_t)segment.p_offset) < 0)
			return;
		return;
	}
}

/*
 * The class, the byte order and the machine stand at the same place in 32-bit and 64-bit files;
 * what comes behind is read only of a file of our own class.
 */
static enum format read_image(const char *path, struct image *image)
{
	union {
		ElfW(Ehdr) header;
		char line[SCRIPT_LINE_BYTES + 1];
	} start;
	enum format format = FORMAT_UNKNOWN;

	memset(image, 0, sizeof(*image));
	memset(&start, 0, sizeof(start));
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return FORMAT_UNREADABLE;
	if (read(fd, start.line, SCRIPT_LINE_BYTES) < 0) {
		format = FORMAT_UNREADABLE;
	} else if (memcmp(start.line, ELFMAG, SELFMAG) == 0) {
		format = FORMAT_ELF;
		image->header = start.header;
		if (image->header.e_ident[EI_CLASS] ==
		    (sizeof(void *) == 8 ? ELFCLASS64 : ELFCLASS32))
			read_elf_interpreter(fd, image);
	} else if (memcmp(start.line, "#!", 2) == 0) {
		format = FORMAT_SCRIPT;
		read_script_line(start.line, image->interpreter);
	}
	close(fd);
	return format;
}

static const char *architecture(const ElfW(Ehdr) * header, char *text, size_t size)
{
	const char *name = NULL;

	for (size_t i = 0; i < sizeof(machines) / sizeof(machines[0]); i++) {
		if (machines[i].machine == header->e_machine)
			name = machines[i].name;
	}
	if (name)
		snprintf(text, size, "%s, ", name);
	else
		snprintf(text, size, "ELF machine %u, ", header->e_machine);
	snprintf(text + strlen(text), size - strlen(text), "%d-bit",
		 header->e_ident[EI_CLASS] == ELFCLASS64 ? 64 : 32);
	return text;
}

static bool same_architecture(const ElfW(Ehdr) * a, const ElfW(Ehdr) * b)
{
	return a->e_ident[EI_CLASS] == b->e_ident[EI_CLASS] &&
	       a->e_ident[EI_DATA] == b->e_ident[EI_DATA] && a->e_machine == b->e_machine;
}

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/*
 * The kernel's conditions for AT_SECURE, under which the dynamic linker ignores its environment:
 * exec changes an identity, or gives capabilities to somebody who is not root.  It does neither on
 * a file system mounted nosuid, nor for a process that has given up new privileges.  Returns what
 * the file has, or null.
 */
static const char *gained_privilege(const char *path)
{
	struct stat status;
	struct statvfs system;

	if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1)
		return NULL;
	if (statvfs(path, &system) == 0 && (system.f_flag & ST_NOSUID))
		return NULL;
	if (stat(path, &status) != 0)
		return NULL;
	if ((status.st_mode & S_ISUID) && status.st_uid != getuid())
		return "is set-user-ID";
	/* Without the group's execute bit, S_ISGID means mandatory locking. */
	if ((status.st_mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP) &&
	    status.st_gid != getgid())
		return "is set-group-ID";
	if (getuid() != 0 && getxattr(path, "security.capability", NULL, 0) > 0)
		return "has file capabilities";
	return NULL;
}

static int check_elf(const char *path, const struct image *image, const char *library)
{
	struct image ours, own;
	char theirs_text[64], ours_text[64];
	const char *privilege;

	if (read_image(library, &ours) == FORMAT_ELF &&
	    !same_architecture(&image->header, &ours.header)) {
		report_error(0, "%s: is built for another architecture (%s) than the library (%s)",
			     path, architecture(&image->header, theirs_text, sizeof(theirs_text)),
			     architecture(&ours.header, ours_text, sizeof(ours_text)));
		return STATUS_UNFIT;
	}
	read_image("/proc/self/exe", &own);
	/* The dynamic linker can be the program: ld-linux-x86-64.so.2 PROGRAM. */
	if (*own.interpreter && strcmp(base_name(path), base_name(own.interpreter)) == 0)
		return 0;
	if (!*image->interpreter) {
		report_error(0, "%s: is statically linked: it has no place for a shared library",
			     path);
		return STATUS_UNFIT;
	}
	if (access(image->interpreter, F_OK) != 0) {
		report_error(errno, "%s: its dynamic linker %s", path, image->interpreter);
		return STATUS_NOT_FOUND;
	}
	/* The library needs the C library that this program has. */
	if (*own.interpreter &&
	    strcmp(base_name(image->interpreter), base_name(own.interpreter)) != 0) {
		report_error(0, "%s: is built for another C library (its dynamic linker is %s)",
			     path, image->interpreter);
		return STATUS_UNFIT;
	}
	privilege = gained_privilege(path);
	if (privilege) {
		report_error(0,
			     "%s: %s: such a program takes no library from its environment, "
			     "unless started by the user whom it would become",
			     path, privilege);
		return STATUS_UNFIT;
	}
	return 0;
}

/*
 * Says what prevents a program from running on the library.  Returns 0, or the exit status for what
 * was said.
 */
int program_check(const char *path, const char *library)
{
	struct image image;
	char interpreter[PATH_MAX];

	for (int depth = 0; depth <= SCRIPT_DEPTH_MAX; depth++) {
		switch (read_image(path, &image)) {
		case FORMAT_ELF:
			return check_elf(path, &image, library);
		case FORMAT_SCRIPT:
			if (!*image.interpreter || access(image.interpreter, F_OK) != 0) {
				report_error(*image.interpreter ? errno : ENOEXEC,
					     "%s: its interpreter \"%s\"", path, image.interpreter);
				return *image.interpreter ? STATUS_NOT_FOUND : STATUS_UNFIT;
			}
			strcpy(interpreter, image.interpreter);
			path = interpreter;
			break;
		case FORMAT_UNKNOWN:
			/*
			 * Formats of binfmt_misc, and scripts without "#!", which the shell gets.
			 */
		case FORMAT_UNREADABLE:
			return 0;
		}
	}
	report_error(ELOOP, "%s: too many interpreters", path);
	return STATUS_UNFIT;
}
