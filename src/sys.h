/* SPDX-License-Identifier: MIT */
/*
 * The one door to the kernel and to the hardware's atomics.
 *
 * The system calls of the library go through ta_syscall: it returns a negative errno and leaves
 * the caller's errno as it was, because a program that calls io_submit between a failing call and
 * its perror must still see its own error.  syscall(2) is no cancellation point, so neither is any
 * function of the library.
 *
 * The lock is a three-state futex.  A thread that holds one has ta_thread.locks_held above zero; a
 * signal handler that interrupts it there and calls the library finds the count and is refused
 * instead of waiting for a thread that cannot go on (itself).
 */
#ifndef TA_SYS_H
#define TA_SYS_H

#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define TA_HIDDEN __attribute__((visibility("hidden")))
/*
 * What a thread did before io_submit is done before anybody sees the event: the kernel sees to it,
 * and ThreadSanitizer is told, by the address of the ring.
 */
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TA_THREAD_SANITIZER
#endif
#elif defined(__SANITIZE_THREAD__)
#define TA_THREAD_SANITIZER
#endif
#ifdef TA_THREAD_SANITIZER
void __tsan_acquire(void *address);
void __tsan_release(void *address);
#define TA_KERNEL_RELEASE(ring) __tsan_release((void *)(ring))
#define TA_KERNEL_ACQUIRE(ring) __tsan_acquire((void *)(ring))
#else
#define TA_KERNEL_RELEASE(ring) ((void)(ring))
#define TA_KERNEL_ACQUIRE(ring) ((void)(ring))
#endif

#define ta_likely(condition) __builtin_expect(!!(condition), 1)
#define ta_unlikely(condition) __builtin_expect(!!(condition), 0)
#define TA_COLD __attribute__((cold, noinline))

/* On in every build that tests the library: it guards our own state, never a caller's argument. */
#ifdef TA_ASSERTIONS
#define ta_assert(condition)                                                                       \
	do {                                                                                       \
		if (!(condition))                                                                  \
			__builtin_trap();                                                          \
	} while (0)
#else
#define ta_assert(condition) ((void)sizeof(condition))
#endif

static inline long ta_syscall(long number, long a, long b, long c, long d, long e, long f)
{
	int saved_errno = errno;
	long result = syscall(number, a, b, c, d, e, f);

	if (ta_unlikely(result == -1)) {
		result = -errno;
		errno = saved_errno;
	}
	return result;
}

#define ta_syscall1(number, a) ta_syscall(number, (long)(a), 0, 0, 0, 0, 0)
#define ta_syscall2(number, a, b) ta_syscall(number, (long)(a), (long)(b), 0, 0, 0, 0)
#define ta_syscall3(number, a, b, c) ta_syscall(number, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define ta_syscall4(number, a, b, c, d)                                                            \
	ta_syscall(number, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define ta_syscall5(number, a, b, c, d, e)                                                         \
	ta_syscall(number, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)

/* Has an old kernel, an emulator or a sandbox refused the call itself? */
static inline bool ta_call_is_refused(long result)
{
	return result == -ENOSYS || result == -EPERM;
}

/* What this thread is doing inside the library, for the sake of signal handlers. */
#define TA_LOCKS_MAX 8

struct ta_lock;

/* What is begun in io_submit with signals open: a handler may leave it. */
struct ta_brief {
	const void *batch; /* on the stack of the call; NULL: there is none */
	struct ta_context *context;
	uint32_t generation; /* of the context */
	uint64_t sequence; /* of the last slot that was taken before */
	uint64_t latest; /* of the last of its own */
};

struct ta_thread {
	uint32_t id; /* of this thread, in locks; 0 until its first lock */
	unsigned locks_held;
	const char *frame; /* of the function that took the first */
	struct ta_lock *held
		[TA_LOCKS_MAX]; /* in the order in which they were taken; NULL: ta_thread_enter */
	struct ta_brief brief; /* of the latest call */
	const void *ring; /* the latest that it has looked into, and its size */
	size_t ring_bytes;
	const void *setup_caller; /* who called io_queue_init, while that calls io_setup */
	bool is_foreign; /* a thread of ours whose descriptor table is not the program's */
	const void *table; /* which one it is, if it is the workers' */
	int own_wake_fd; /* of such a thread: a descriptor to post with in that table, plus one */
};

/*
 * initial-exec: no call to __tls_get_addr, which may allocate, on a path that a signal handler can
 * take.
 */
extern TA_HIDDEN __thread struct ta_thread ta_thread __attribute__((tls_model("initial-exec")));

/* Tells the processor that this is a loop which waits. */
static inline void ta_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

/* Somebody sleeps until the lock is free. */
#define TA_LOCK_AWAITED 0x80000000u

struct ta_lock {
	_Atomic uint32_t word; /* 0: free; or the holder's id, with TA_LOCK_AWAITED */
};

TA_HIDDEN void ta_lock_slow(struct ta_lock *lock);

static inline void ta_lock(struct ta_lock *lock)
{
	uint32_t free_word = 0;

	ta_assert(ta_thread.locks_held < TA_LOCKS_MAX);
	if (ta_thread.locks_held == 0)
		ta_thread.frame = __builtin_frame_address(0);
	ta_thread.held[ta_thread.locks_held++] = lock;
	/*
	 * A handler that runs from here on must see the count; the processor needs no fence against
	 * itself.
	 */
	atomic_signal_fence(memory_order_seq_cst);
	/* acquire: pairs with the release in ta_unlock. */
	if (ta_unlikely(ta_thread.id == 0 || !atomic_compare_exchange_strong_explicit(
						     &lock->word, &free_word, ta_thread.id,
						     memory_order_acquire, memory_order_relaxed)))
		ta_lock_slow(lock);
}

static inline void ta_unlock(struct ta_lock *lock)
{
	/* release: what was written under the lock is seen by the next holder. */
	if (ta_unlikely(atomic_exchange_explicit(&lock->word, 0, memory_order_release) &
			TA_LOCK_AWAITED))
		ta_syscall3(SYS_futex, &lock->word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1);
	atomic_signal_fence(memory_order_seq_cst);
	ta_thread.locks_held--;
}

/* Around what is no lock but must be as safe from the thread's own signal handlers. */
static inline void ta_thread_enter(void)
{
	if (ta_thread.locks_held == 0)
		ta_thread.frame = __builtin_frame_address(0);
	ta_thread.held[ta_thread.locks_held++] = NULL;
	atomic_signal_fence(memory_order_seq_cst);
}

static inline void ta_thread_leave(void)
{
	atomic_signal_fence(memory_order_seq_cst);
	ta_thread.locks_held--;
}

/*
 * For a handler that ends the process: what it has interrupted will not go on, so its locks are let
 * go.  What they guard may be half changed; others must get on for the rest of the process's life.
 */
TA_HIDDEN void ta_thread_abandon_locks(void);
/* context.c: the lock, which is held, may be a context's, left in the middle of a step. */
TA_HIDDEN void ta_context_mend(struct ta_lock *lock);
/* at_once.c: what this thread has left in io_submit. */
TA_HIDDEN void ta_at_once_abandon(void);

TA_HIDDEN bool ta_thread_was_left(const char *frame);

/* True in a signal handler that interrupted this thread between a lock and its release. */
static inline bool ta_thread_is_inside(void)
{
	return ta_unlikely(ta_thread.locks_held != 0) &&
	       !ta_thread_was_left(__builtin_frame_address(0));
}

/* A set of signals as the kernel has it: shorter than the C library's. */
#define TA_SIGNAL_SET_BYTES 8

struct ta_signals {
	unsigned long words[TA_SIGNAL_SET_BYTES / sizeof(long)];
};

static inline void ta_signals_set(const void *mask, struct ta_signals *before)
{
	ta_syscall4(SYS_rt_sigprocmask, SIG_SETMASK, mask, before, TA_SIGNAL_SET_BYTES);
}

#define TA_SIGNAL_BIT(number) (1ul << ((number)-1))
/*
 * Faults stay open: the kernel ends a process whose fault meets a blocked signal, whatever handler
 * it has.  All of them have numbers below 32.
 */
#define TA_SIGNALS_OF_FAULTS                                                                       \
	(TA_SIGNAL_BIT(SIGSEGV) | TA_SIGNAL_BIT(SIGBUS) | TA_SIGNAL_BIT(SIGFPE) |                  \
	 TA_SIGNAL_BIT(SIGILL) | TA_SIGNAL_BIT(SIGTRAP) | TA_SIGNAL_BIT(SIGSYS))

static inline void ta_signals_block(struct ta_signals *before)
{
	struct ta_signals all;

	memset(&all, 0xff, sizeof(all));
	all.words[0] &= ~TA_SIGNALS_OF_FAULTS;
	ta_signals_set(&all, before);
}

/* For assertions: the ordinary ones; threads of the library leave one of the C library's open. */
static inline bool ta_signals_are_blocked(void)
{
	const unsigned long open =
		TA_SIGNALS_OF_FAULTS | TA_SIGNAL_BIT(SIGKILL) | TA_SIGNAL_BIT(SIGSTOP);
	struct ta_signals blocked;

	ta_syscall4(SYS_rt_sigprocmask, SIG_SETMASK, NULL, &blocked, TA_SIGNAL_SET_BYTES);
	return ((blocked.words[0] | open) & INT32_MAX) == INT32_MAX;
}

/* Those that have come and are blocked. */
static inline struct ta_signals ta_signals_pending(void)
{
	struct ta_signals pending = { { 0 } };

	ta_syscall2(SYS_rt_sigpending, &pending, TA_SIGNAL_SET_BYTES);
	return pending;
}

/*
 * Sleeps while *word is expected.  deadline_ns is a CLOCK_MONOTONIC time, TA_NO_DEADLINE for none.
 * Returns 0 (woken, or the word had changed), -ETIMEDOUT or -EINTR.
 */
#define TA_NO_DEADLINE INT64_MAX

TA_HIDDEN int ta_futex_wait(_Atomic uint32_t *word, uint32_t expected, int64_t deadline_ns);

static inline void ta_futex_wake(_Atomic uint32_t *word, int waiters)
{
	ta_syscall3(SYS_futex, word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, waiters);
}

/* The system calls that are used here take times of the width that the C library gives them. */
_Static_assert(sizeof(time_t) == sizeof(long),
	       "on 32-bit machines build with 32-bit times, without _TIME_BITS=64");

/* Where seconds have 32 bits, what they cannot say is 68 years, which is for ever. */
static inline struct timespec ta_timespec(int64_t ns)
{
	const int64_t seconds_max = sizeof(time_t) == 8 ? INT64_MAX : INT32_MAX;
	int64_t seconds = ns / 1000000000;

	return (struct timespec){
		.tv_sec = (time_t)(seconds < seconds_max ? seconds : seconds_max),
		.tv_nsec = (long)(ns % 1000000000),
	};
}

static inline int64_t ta_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* The kernel's tick, a few milliseconds: read from user memory in about 3 ns. */
static inline int64_t ta_tick_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

TA_HIDDEN unsigned ta_possible_cpus(void);

/* The I/O priority of this thread that ionice has given; 0: none. */
static inline uint16_t ta_io_priority(void)
{
	const long which_process = 1, this_thread = 0, class_shift = 13;
	long priority = ta_syscall2(SYS_ioprio_get, which_process, this_thread);

	return priority > 0 && priority >> class_shift ? (uint16_t)priority : 0;
}

static inline void ta_set_io_priority(uint16_t priority)
{
	const long which_process = 1, this_thread = 0;

	ta_syscall3(SYS_ioprio_set, which_process, this_thread, priority);
}

/* The soft limit of a RLIMIT_*, UINT64_MAX if there is none.  0, or a negative errno. */
static inline int ta_resource_limit(int resource, uint64_t *limit)
{
	/* The kernel's, whose members have 64 bits on every machine. */
	struct {
		uint64_t current;
		uint64_t maximum;
	} both = { .current = *limit };
	long result = ta_syscall4(SYS_prlimit64, 0, resource, NULL, &both);

	*limit = both.current;
	return (int)result;
}

/* Zeroed pages that a forked child gets as zeroes again; NULL when there is no memory. */
TA_HIDDEN void *ta_pages_alloc(size_t bytes);
TA_HIDDEN void ta_pages_free(void *pages, size_t bytes);

/*
 * Starts a detached thread of the library: named (15 characters), all signals blocked, so that no
 * handler of the program ever runs on it, of the ordinary policy and on the CPUs that the process
 * began with, whatever its creator has.  It gets a larger stack where one of this size cannot be.
 * Returns 0 or a negative errno.
 */
TA_HIDDEN int ta_thread_start(const char *name, size_t stack_bytes, void *(*function)(void *),
			      void *argument);

/* process.c: so many more threads of the library run. */
TA_HIDDEN void ta_count_own_thread(int more);

#endif
