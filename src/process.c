/* SPDX-License-Identifier: MIT */
/*
 * The process's state, the environment, and the log.
 *
 * The environment is read once, by secure_getenv, and here alone.  The settings survive fork (they
 * are no state); the state does not.
 */
#include "work.h"

#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

_Atomic(struct ta_process *) ta_process_pointer;

static struct ta_settings settings;
static _Atomic bool settings_read;

/* Workers at most: enough for a disk at depth 32 beside a file that hangs. */
#define THREADS_DEFAULT 64
#define THREADS_MAX 1024

static enum ta_engine engine_named(const char *name)
{
	static const char *const names[] = {
		[TA_ENGINE_AUTO] = "auto",
		[TA_ENGINE_NATIVE] = "native",
		[TA_ENGINE_THREADS] = "threads",
	};
	unsigned i;

	if (!name || !*name)
		return TA_ENGINE_AUTO;
	for (i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (strcmp(name, names[i]) == 0)
			return (enum ta_engine)i;
	return TA_ENGINE_UNKNOWN;
}

static unsigned threads_wanted(const char *number)
{
	unsigned long threads = number ? strtoul(number, NULL, 10) : 0;

	if (threads == 0)
		return THREADS_DEFAULT;
	return threads > THREADS_MAX ? THREADS_MAX : (unsigned)threads;
}

static void read_settings(void)
{
	/*
	 * acquire/release: pairs with the store below.  Two first threads read the same
	 * environment.
	 */
	if (atomic_load_explicit(&settings_read, memory_order_acquire))
		return;
	settings.engine = engine_named(secure_getenv("TRUEAIO_ENGINE"));
	settings.threads = threads_wanted(secure_getenv("TRUEAIO_THREADS"));
	settings.log = secure_getenv("TRUEAIO_LOG");
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

static struct ta_process *map_process(void)
{
	/* By the C library: on some machines the call has another name, or other arguments. */
	int saved_errno = errno;
	struct ta_process *first = NULL;
	struct ta_process *mapped = mmap(NULL, sizeof(*mapped), PROT_READ | PROT_WRITE,
					 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	errno = saved_errno;
	if (mapped == MAP_FAILED)
		return NULL;
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
	/* As with a lock: a handler that interrupts this thread here must not wait for it. */
	ta_thread_enter();
	if (atomic_compare_exchange_strong(&process->ready, &state, 1)) {
		/* The state is zero: it is new, or this is a child. */
		ta_own_close_inherited();
		read_settings();
		atomic_store(&process->ready, 2);
	}
	ta_thread_leave();
	/* Another thread is at it, or it is done.  It needs microseconds. */
	while (atomic_load(&process->ready) != 2)
		sched_yield();
	return process;
}

void ta_count_own_thread(int more)
{
	struct ta_process *process = ta_process();

	if (process)
		atomic_fetch_add(&process->own_threads, (uint32_t)more);
}
