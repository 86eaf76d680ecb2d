/* SPDX-License-Identifier: MIT */
/*
 * The slow halves of sys.h: sleeping for a lock, sleeping on a word, pages, threads, descriptors.
 *
 * Memory comes from mmap and not from malloc: a request may be submitted by a signal handler that
 * interrupted malloc, and a child after _Fork has no usable heap.
 */
#include "sys.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>

__thread struct ta_thread ta_thread __attribute__((tls_model("initial-exec")));

/* Enough for the deepest call chain of the library's own threads with sanitizers on. */
#define THREAD_STACK_BYTES (256 * 1024)

TA_COLD void ta_lock_slow(struct ta_lock *lock)
{
	/*
	 * acquire: pairs with the release in ta_unlock.  The word stays 2, so that the release
	 * wakes the next sleeper.
	 */
	while (atomic_exchange_explicit(&lock->word, 2, memory_order_acquire) != 0)
		ta_syscall4(SYS_futex, &lock->word, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 2, NULL);
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
	ta_syscall3(SYS_madvise, pages, bytes, MADV_DONTFORK);
	return pages;
}

void ta_pages_free(void *pages, size_t bytes)
{
	munmap(pages, bytes);
}

int ta_thread_start(void *(*function)(void *), void *argument)
{
	pthread_attr_t attributes;
	sigset_t all, before;
	pthread_t thread;
	int error;

	error = pthread_attr_init(&attributes);
	if (error)
		return -error;
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	/* Fails where thread-local storage is huge; the default size serves then. */
	(void)pthread_attr_setstacksize(&attributes, THREAD_STACK_BYTES);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&thread, &attributes, function, argument);
	if (error) {
		pthread_attr_destroy(&attributes);
		pthread_attr_init(&attributes);
		pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
		error = pthread_create(&thread, &attributes, function, argument);
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
	return -error;
}

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

uint64_t ta_descriptor_limit(void)
{
	uint64_t limit = 256;

	(void)ta_resource_limit(RLIMIT_NOFILE, &limit);
	return limit;
}

int ta_fetch_descriptor(int number)
{
	long handle = ta_syscall2(SYS_pidfd_open, getpid(), 0);
	long fd;

	if (handle < 0)
		return (int)handle;
	fd = ta_syscall3(SYS_pidfd_getfd, handle, number, 0);
	ta_syscall1(SYS_close, handle);
	return (int)fd;
}
