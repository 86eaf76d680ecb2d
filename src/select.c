/* SPDX-License-Identifier: MIT */
/*
 * The process's state, the environment, and the log.
 *
 * The environment is read once, by secure_getenv, and here alone.  The settings survive fork (they
 * are no state); the state does not.
 */
#include "internal.h"

#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Atomic(struct ta_process *) ta_process_pointer;

static struct ta_settings settings;
static _Atomic bool settings_read;

/*
 * Descriptors of ours that a child inherits and must close.  Not wiped by fork: that is their
 * purpose.  Two rings' worth and the wake-ups; a program that closes them behind our back makes us
 * open more, of which the latest count.
 */
#define INHERITED_MAX 8
static _Atomic int inherited[INHERITED_MAX];

static void read_settings(void)
{
	/*
	 * acquire/release: pairs with the store below.  Two first threads read the same
	 * environment.
	 */
	if (atomic_load_explicit(&settings_read, memory_order_acquire))
		return;
	settings.engine = secure_getenv("TRUEAIO_ENGINE");
	settings.log = secure_getenv("TRUEAIO_LOG");
	settings.forced_native = settings.engine && strcmp(settings.engine, "native") == 0;
	settings.unknown_engine = settings.engine && *settings.engine && !settings.forced_native &&
				  strcmp(settings.engine, "auto") != 0;
	atomic_store_explicit(&settings_read, true, memory_order_release);
}

const struct ta_settings *ta_settings(void)
{
	read_settings();
	return &settings;
}

/*
 * One line to the file that TRUEAIO_LOG names; nothing without it.  For decisions, which are rare:
 * it opens the file each time.
 */
void ta_log(const char *format, ...)
{
	char line[512];
	va_list arguments;
	int length, prefix;
	long fd;

	if (!ta_settings()->log || !*ta_settings()->log)
		return;
	prefix = snprintf(line, sizeof(line),
			  "trueaio[%d]: ", (int)ta_syscall(SYS_getpid, 0, 0, 0, 0, 0, 0));
	va_start(arguments, format);
	length = vsnprintf(line + prefix, sizeof(line) - (size_t)prefix - 1, format, arguments);
	va_end(arguments);
	if (length < 0)
		return;
	length += prefix;
	if ((size_t)length > sizeof(line) - 2)
		length = sizeof(line) - 2;
	line[length++] = '\n';
	fd = ta_syscall4(SYS_openat, AT_FDCWD, ta_settings()->log,
			 O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	if (fd < 0)
		return;
	ta_syscall3(SYS_write, fd, line, length);
	ta_syscall1(SYS_close, fd);
}

void ta_inherited_add(int fd)
{
	int i;

	for (i = 0; i < INHERITED_MAX; i++) {
		int empty = 0;

		if (atomic_compare_exchange_strong(&inherited[i], &empty, fd + 1))
			return;
	}
	atomic_store(&inherited[fd % INHERITED_MAX], fd + 1);
}

/* The number is closed by us, not by a child. */
void ta_inherited_remove(int fd)
{
	int i;

	for (i = 0; i < INHERITED_MAX; i++)
		atomic_compare_exchange_strong(&inherited[i], &(int){ fd + 1 }, 0);
}

/* The number may be the program's by now: only what still looks like ours is closed. */
static void close_inherited(int fd)
{
	char path[32], target[32];
	long length;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	length = ta_syscall4(SYS_readlinkat, AT_FDCWD, path, target, sizeof(target) - 1);
	if (length <= 0)
		return;
	target[length] = '\0';
	if (strcmp(target, "anon_inode:[eventfd]") == 0 ||
	    strcmp(target, "anon_inode:[io_uring]") == 0)
		ta_syscall1(SYS_close, fd);
}

/* The state is zero: it is new, or this is a child. */
static void set_up(void)
{
	int i;

	for (i = 0; i < INHERITED_MAX; i++) {
		int stored = atomic_exchange(&inherited[i], 0);

		if (stored)
			close_inherited(stored - 1);
	}
	read_settings();
}

static struct ta_process *map_process(void)
{
	struct ta_process *mapped, *first = NULL;
	long result = ta_syscall(SYS_mmap, 0, sizeof(struct ta_process), PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (result < 0 && result > -4096)
		return NULL;
	mapped = (struct ta_process *)result;
	/* Linux 4.14; io_setup refuses to work without (see ta_process_enter_slow). */
	if (ta_syscall3(SYS_madvise, mapped, sizeof(*mapped), MADV_WIPEONFORK) < 0) {
		ta_syscall2(SYS_munmap, mapped, sizeof(*mapped));
		return NULL;
	}
	if (atomic_compare_exchange_strong(&ta_process_pointer, &first, mapped))
		return mapped;
	ta_syscall2(SYS_munmap, mapped, sizeof(*mapped));
	return first;
}

TA_COLD struct ta_process *ta_process_enter_slow(void)
{
	struct ta_process *process = atomic_load(&ta_process_pointer);
	uint32_t state = 0;

	if (!process)
		process = map_process();
	if (!process)
		return NULL;
	if (atomic_compare_exchange_strong(&process->ready, &state, 1)) {
		set_up();
		atomic_store(&process->ready, 2);
		return process;
	}
	/*
	 * Another thread is at it.  It needs microseconds and takes no lock that this thread could
	 * hold.
	 */
	while (atomic_load(&process->ready) != 2)
		sched_yield();
	return process;
}
