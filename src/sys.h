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
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
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

/* What this thread is doing inside the library, for the sake of signal handlers. */
struct ta_thread {
	unsigned locks_held;
	/*
	 * Calls of io_submit and waits that are under way: io_destroy and a wait in a handler would
	 * wait for this very thread.
	 */
	unsigned calls;
	const void *setup_caller; /* who called io_queue_init, while that calls io_setup */
	bool is_foreign; /* a thread of ours whose descriptor table is not the program's */
	int own_wake_fd; /* of such a thread: what it has in place of ta_kaio_wake_fd's, plus one */
};

/*
 * initial-exec: no call to __tls_get_addr, which may allocate, on a path that a signal handler can
 * take.
 */
extern TA_HIDDEN __thread struct ta_thread ta_thread __attribute__((tls_model("initial-exec")));

struct ta_lock {
	_Atomic uint32_t word; /* 0 free, 1 held, 2 held and somebody sleeps */
};

TA_HIDDEN void ta_lock_slow(struct ta_lock *lock);

static inline void ta_lock(struct ta_lock *lock)
{
	uint32_t free_word = 0;

	ta_thread.locks_held++;
	/*
	 * A handler that runs from here on must see the count; the processor needs no fence against
	 * itself.
	 */
	atomic_signal_fence(memory_order_seq_cst);
	/* acquire: pairs with the release in ta_unlock. */
	if (ta_unlikely(!atomic_compare_exchange_strong_explicit(
		    &lock->word, &free_word, 1, memory_order_acquire, memory_order_relaxed)))
		ta_lock_slow(lock);
}

static inline void ta_unlock(struct ta_lock *lock)
{
	/* release: what was written under the lock is seen by the next holder. */
	if (ta_unlikely(atomic_exchange_explicit(&lock->word, 0, memory_order_release) == 2))
		ta_syscall3(SYS_futex, &lock->word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1);
	atomic_signal_fence(memory_order_seq_cst);
	ta_thread.locks_held--;
}

/* Around what is no lock but must be as safe from the thread's own signal handlers. */
static inline void ta_thread_enter(void)
{
	ta_thread.locks_held++;
	atomic_signal_fence(memory_order_seq_cst);
}

static inline void ta_thread_leave(void)
{
	atomic_signal_fence(memory_order_seq_cst);
	ta_thread.locks_held--;
}

/* True in a signal handler that interrupted this thread between a lock and its release. */
static inline bool ta_thread_is_inside(void)
{
	return ta_unlikely(ta_thread.locks_held != 0);
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

/* RLIMIT_NOFILE as it is now. */
TA_HIDDEN uint64_t ta_descriptor_limit(void);

/*
 * The file behind a number of the program's, as a descriptor of this thread's own table; or a
 * negative errno.
 */
TA_HIDDEN int ta_fetch_descriptor(int number);

/* Zeroed pages that a forked child does not get; NULL when there is no memory. */
TA_HIDDEN void *ta_pages_alloc(size_t bytes);
TA_HIDDEN void ta_pages_free(void *pages, size_t bytes);

/*
 * Starts a detached thread of the library: all signals blocked, so that no handler of the program
 * ever runs on it, and a small stack. Returns 0 or a negative errno.
 */
TA_HIDDEN int ta_thread_start(void *(*function)(void *), void *argument);

#endif
