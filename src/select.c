/* SPDX-License-Identifier: MIT */
/*
 * The process's state, the environment, whether there are workers, and the log.
 *
 * The environment is read once, by secure_getenv, and here alone.  The settings survive fork (they
 * are no state); the state does not.
 */
#include "offload.h"

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

/*
 * Descriptors of ours that a child inherits and must close.  Not wiped by fork: that is their
 * purpose.  A program that closes them behind our back makes us open more, of which the latest
 * count.
 */
#define INHERITED_MAX 8
static _Atomic uint64_t inherited[INHERITED_MAX];

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

/* The number and, of a socket, its inode, which the numbers of others do not have.  Never zero. */
#define INHERITED_INODE_SHIFT 24

static uint64_t inherited_entry(int fd)
{
	struct ta_file_identity identity;
	bool is_socket = ta_file_identify(fd, &identity) == 0 && S_ISSOCK(identity.mode);

	return (is_socket ? identity.inode << INHERITED_INODE_SHIFT : 0) | ((uint64_t)fd + 1);
}

void ta_inherited_add(int fd)
{
	uint64_t entry = inherited_entry(fd);
	int i;

	for (i = 0; i < INHERITED_MAX; i++) {
		uint64_t empty = 0;

		if (atomic_compare_exchange_strong(&inherited[i], &empty, entry))
			return;
	}
	atomic_store(&inherited[fd % INHERITED_MAX], entry);
}

/* The number may be the program's by now: only what still looks like ours is closed. */
static void close_inherited(uint64_t entry)
{
	int fd = (int)(entry & ((1u << INHERITED_INODE_SHIFT) - 1)) - 1;
	char path[40], target[32];
	long length;

	if (entry >> INHERITED_INODE_SHIFT) {
		if (inherited_entry(fd) == entry)
			ta_syscall1(SYS_close, fd);
		return;
	}
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	length = ta_syscall4(SYS_readlinkat, AT_FDCWD, path, target, sizeof(target) - 1);
	if (length <= 0)
		return;
	target[length] = '\0';
	if (strcmp(target, "anon_inode:[eventfd]") == 0)
		ta_syscall1(SYS_close, fd);
}

/* The state is zero: it is new, or this is a child. */
static void set_up(void)
{
	int i;

	for (i = 0; i < INHERITED_MAX; i++) {
		uint64_t entry = atomic_exchange(&inherited[i], 0);

		if (entry)
			close_inherited(entry);
	}
	read_settings();
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
		set_up();
		atomic_store(&process->ready, 2);
	}
	ta_thread_leave();
	/* Another thread is at it, or it is done.  It needs microseconds. */
	while (atomic_load(&process->ready) != 2)
		sched_yield();
	return process;
}

/* ---- the workers ----------------------------------------------------------------------------- */

/* What is refused now may be had later: descriptors and threads come and go. */
#define RETRY_NS 1000000000LL

static void settle(struct ta_process *process, enum ta_offload_state state)
{
	atomic_store(&process->offload_retry_ns, ta_tick_ns() + RETRY_NS);
	atomic_store(&process->offload_state, state);
	ta_futex_wake(&process->offload_state, INT32_MAX);
}

bool ta_offload_possible(void)
{
	struct ta_process *process = ta_process();

	/* relaxed: a guess, which ta_offload_open makes sure of. */
	return atomic_load_explicit(&process->offload_state, memory_order_relaxed) !=
		       TA_OFFLOAD_REFUSED ||
	       ta_tick_ns() >=
		       atomic_load_explicit(&process->offload_retry_ns, memory_order_relaxed);
}

bool ta_offload_is_there(void)
{
	return atomic_load(&ta_process()->offload_state) == TA_OFFLOAD_THERE;
}

/* In the given state, tries to start them, unless another thread does. */
static void try_from(struct ta_process *process, uint32_t state)
{
	/* As with a lock: a handler that interrupts this thread here must not wait for it. */
	ta_thread_enter();
	if (atomic_compare_exchange_strong(&process->offload_state, &state, TA_OFFLOAD_BEING_TRIED))
		settle(process,
		       ta_threads_open(process) == 0 ? TA_OFFLOAD_THERE : TA_OFFLOAD_REFUSED);
	ta_thread_leave();
}

bool ta_offload_open(void)
{
	struct ta_process *process = ta_process();
	uint32_t state;

	for (;;) {
		state = atomic_load(&process->offload_state);
		if (ta_likely(state == TA_OFFLOAD_THERE))
			return true;
		if (state == TA_OFFLOAD_BEING_TRIED)
			ta_futex_wait(&process->offload_state, state, TA_NO_DEADLINE);
		else if (!ta_offload_possible())
			return false;
		else
			try_from(process, state);
	}
}

/* What runs goes on: the program has closed a descriptor that takes hold of files, no more. */
void ta_offload_lost(void)
{
	struct ta_process *process = ta_process();
	uint32_t state = TA_OFFLOAD_THERE;

	atomic_store(&process->offload_retry_ns, ta_tick_ns() + RETRY_NS);
	if (atomic_compare_exchange_strong(&process->offload_state, &state, TA_OFFLOAD_REFUSED))
		ta_log("threads: the program has closed a descriptor of theirs; "
		       "they take no more requests");
}
