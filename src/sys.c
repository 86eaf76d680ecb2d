/* SPDX-License-Identifier: MIT */
/*
 * The slow halves of sys.h: sleeping for a lock, sleeping on a word, pages, threads, descriptors.
 *
 * Memory comes from mmap and not from malloc: a request may be submitted by a signal handler that
 * interrupted malloc, and a child after _Fork has no usable heap.
 */
#include "sys.h"

#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>

__thread struct ta_thread ta_thread __attribute__((tls_model("initial-exec")));

/*
 * Locks are held for less time than a sleep and a wake-up take: so a holder that runs is waited
 * for.
 */
#define SPINS 200

static _Atomic uint32_t latest_thread_id;

static void abandon_at_end(void *unused_thread)
{
	(void)unused_thread;
	ta_thread_abandon_locks();
	if (ta_thread.brief.batch)
		ta_at_once_abandon();
}

/* A thread that left a call while it held a lock may end without another call. */
static pthread_key_t thread_key;
static bool has_thread_key; /* written when the library is loaded */

/* glibc takes memory for the values of later keys, and a handler may have interrupted malloc. */
#define KEYS_WITHOUT_MALLOC 32

static void make_thread_key(void)
{
	if (pthread_key_create(&thread_key, abandon_at_end) != 0)
		return;
	has_thread_key = thread_key < KEYS_WITHOUT_MALLOC;
	if (!has_thread_key)
		pthread_key_delete(thread_key);
}

static void name_thread(void)
{
	while (ta_thread.id == 0)
		ta_thread.id = (atomic_fetch_add(&latest_thread_id, 1) + 1) & ~TA_LOCK_AWAITED;
	if (has_thread_key)
		pthread_setspecific(thread_key, &ta_thread);
}

static bool try_lock(struct ta_lock *lock, uint32_t id)
{
	uint32_t free_word = 0;

	/* relaxed: a look; acquire: pairs with the release in ta_unlock. */
	return atomic_load_explicit(&lock->word, memory_order_relaxed) == 0 &&
	       atomic_compare_exchange_strong_explicit(&lock->word, &free_word, id,
						       memory_order_acquire, memory_order_relaxed);
}

TA_COLD void ta_lock_slow(struct ta_lock *lock)
{
	if (ta_thread.id == 0)
		name_thread();
	for (int i = 0; i < SPINS; i++) {
		if (try_lock(lock, ta_thread.id))
			return;
		ta_relax();
	}
	/* Awaited it stays, because others may sleep: the release wakes the next. */
	while (!try_lock(lock, ta_thread.id | TA_LOCK_AWAITED)) {
		uint32_t seen = atomic_load(&lock->word), awaited = seen | TA_LOCK_AWAITED;

		if (seen == 0 || (seen != awaited &&
				  !atomic_compare_exchange_strong(&lock->word, &seen, awaited)))
			continue;
		ta_syscall4(SYS_futex, &lock->word, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, awaited, NULL);
	}
}

void ta_thread_abandon_locks(void)
{
	while (ta_thread.locks_held > 0) {
		struct ta_lock *lock = ta_thread.held[ta_thread.locks_held - 1];

		if (!lock) {
			ta_thread_leave();
		} else if ((atomic_load(&lock->word) & ~TA_LOCK_AWAITED) == ta_thread.id) {
			ta_context_mend(lock);
			ta_unlock(lock);
		} else {
			/*
			 * It was still waiting, and may have had the wake-up that is for another.
			 */
			ta_thread.locks_held--;
			ta_syscall3(SYS_futex, &lock->word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1);
		}
	}
}

/* Farther away is another stack, of a program that switches between several. */
#define STACK_REACH (1024 * 1024)

/*
 * A handler may have interrupted this thread while it held a lock, and jumped out instead of
 * returning.  Then the function that took the lock stands below the one that calls now; in a
 * handler that is still at it, it stands above.  What the lock guards may have been left with a
 * slot too few.
 */
TA_COLD bool ta_thread_was_left(const char *frame)
{
	stack_t stack;

	if (frame < ta_thread.frame || frame - ta_thread.frame > STACK_REACH)
		return false;
	/* The C library keeps this at the top of a thread's stack: what is above is another one. */
	if ((const char *)&ta_thread > ta_thread.frame && (const char *)&ta_thread < frame)
		return false;
	if (ta_syscall2(SYS_sigaltstack, NULL, &stack) < 0 || stack.ss_flags & SS_ONSTACK)
		return false;
	ta_thread_abandon_locks();
	return true;
}

int ta_futex_wait(_Atomic uint32_t *word, uint32_t expected, int64_t deadline_ns)
{
	struct timespec deadline = ta_timespec(deadline_ns);
	long result;

	/*
	 * An absolute time, so that a restart does not prolong the sleep; and always one, because
	 * without it the kernel restarts the call itself after a handler with SA_RESTART.
	 */
	result = ta_syscall(SYS_futex, (long)word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG,
			    (long)expected, (long)&deadline, 0, (long)FUTEX_BITSET_MATCH_ANY);
	return result == -ETIMEDOUT || result == -EINTR ? (int)result : 0;
}

/* By the C library's mmap, which the sanitizers watch: an address may come back as other memory. */
void *ta_pages_alloc(size_t bytes)
{
	int saved_errno = errno;
	void *pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	errno = saved_errno;
	if (pages == MAP_FAILED)
		return NULL;
	ta_syscall3(SYS_madvise, pages, bytes, MADV_WIPEONFORK);
	return pages;
}

void ta_pages_free(void *pages, size_t bytes)
{
	munmap(pages, bytes);
}

/* ---- threads --------------------------------------------------------------------------------- */

/* The CPUs that the process began with.  As many as a kernel can have. */
#define CPUS_MAX 8192
static unsigned char first_cpus[CPUS_MAX / 8];
static size_t first_cpus_bytes;
/*
 * What the objects of the process have of thread-local storage, which takes its place on the stack.
 */
static size_t tls_bytes;

static int add_tls(struct dl_phdr_info *object, size_t unused_size, void *unused)
{
	int i;

	(void)unused_size;
	(void)unused;
	for (i = 0; i < object->dlpi_phnum; i++)
		if (object->dlpi_phdr[i].p_type == PT_TLS)
			tls_bytes += object->dlpi_phdr[i].p_memsz + object->dlpi_phdr[i].p_align;
	return 0;
}

/* When the library is loaded. */
__attribute__((constructor)) static void note_beginning(void)
{
	long bytes = ta_syscall3(SYS_sched_getaffinity, 0, sizeof(first_cpus), first_cpus);

	first_cpus_bytes = bytes > 0 ? (size_t)bytes : 0;
	dl_iterate_phdr(add_tls, NULL);
	make_thread_key();
}

/* What a new thread is to be, on the stack of its creator, who waits until it has been read. */
struct start {
	const char *name;
	void *(*function)(void *);
	void *argument;
	_Atomic uint32_t is_read;
};

static void *begin(void *argument)
{
	struct start *start = argument;
	void *(*function)(void *) = start->function;
	void *result;

	argument = start->argument;
	ta_count_own_thread(1);
	ta_syscall2(SYS_prctl, PR_SET_NAME, start->name);
	if (ta_io_priority() != 0)
		ta_set_io_priority(0);
	atomic_store(&start->is_read, 1);
	ta_futex_wake(&start->is_read, 1);
	result = function(argument);
	ta_count_own_thread(-1);
	return result;
}

/* Sanitizers need room on the stack, and so may thread-local storage. */
#if defined(__SANITIZE_ADDRESS__) || defined(TA_THREAD_SANITIZER)
#define STACK_FACTOR 16
#else
#define STACK_FACTOR 1
#endif
#define LARGE_STACK_BYTES (1024 * 1024)

/* As many stacks are tried with all wishes, and then as many without those about scheduling. */
enum { STACK_AS_WISHED, LARGE_STACK, DEFAULT_STACK, STACKS };

static int try_to_create(int attempt, size_t stack_bytes, struct start *start)
{
	const struct sched_param ordinary = { .sched_priority = 0 };
	pthread_attr_t attributes;
	pthread_t thread;
	int error = pthread_attr_init(&attributes);

	if (error)
		return error;
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	if (attempt % STACKS != DEFAULT_STACK)
		error = pthread_attr_setstacksize(&attributes, attempt % STACKS == LARGE_STACK
								       ? LARGE_STACK_BYTES
								       : stack_bytes);
	if (attempt < STACKS) {
		pthread_attr_setinheritsched(&attributes, PTHREAD_EXPLICIT_SCHED);
		pthread_attr_setschedpolicy(&attributes, SCHED_OTHER);
		pthread_attr_setschedparam(&attributes, &ordinary);
		if (first_cpus_bytes > 0)
			(void)pthread_attr_setaffinity_np(&attributes, first_cpus_bytes,
							  (const cpu_set_t *)(void *)first_cpus);
	}
	if (!error)
		error = pthread_create(&thread, &attributes, begin, start);
	pthread_attr_destroy(&attributes);
	return error;
}

int ta_thread_start(const char *name, size_t stack_bytes, void *(*function)(void *), void *argument)
{
	struct start start = { .name = name, .function = function, .argument = argument };
	int error = EINVAL, attempt, saved_errno = errno;
	sigset_t all, before;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	/* EAGAIN: no thread is left. */
	for (attempt = 0; error && error != EAGAIN && attempt < 2 * STACKS; attempt++)
		error = try_to_create(attempt, stack_bytes * STACK_FACTOR + tls_bytes, &start);
	while (!error && !atomic_load(&start.is_read))
		ta_futex_wait(&start.is_read, 0, TA_NO_DEADLINE);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	errno = saved_errno;
	return -error;
}

/* ---- the system ------------------------------------------------------------------------------ */

/*
 * CPUs that the kernel could have, which may be more than there are: the last number in a list like
 * "0-3" or "0,2-7".
 */
unsigned ta_possible_cpus(void)
{
	static _Atomic unsigned known;
	char list[64], *digit;
	unsigned last = 0;
	long fd, length;

	if (atomic_load(&known))
		return atomic_load(&known);
	fd = ta_syscall4(SYS_openat, AT_FDCWD, "/sys/devices/system/cpu/possible",
			 O_RDONLY | O_CLOEXEC, 0);
	length = fd < 0 ? 0 : ta_syscall3(SYS_read, fd, list, sizeof(list) - 1);
	if (fd >= 0)
		ta_syscall1(SYS_close, fd);
	if (length <= 0)
		return 1;
	list[length] = '\0';
	for (digit = list; *digit; digit++)
		last = *digit >= '0' && *digit <= '9' ? last * 10 + (unsigned)(*digit - '0')
		       : *digit == '\n'		      ? last
						      : 0;
	atomic_store(&known, last + 1);
	return last + 1;
}
