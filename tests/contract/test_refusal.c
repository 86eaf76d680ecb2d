/* SPDX-License-Identifier: MIT */
/*
 * Goal: what the library tries and gives up is nothing that the program's own thread could notice.
 * The kernel rouses the thread that has made an io_uring, as a signal would, soon after that is
 * closed; a wait of this thread's then ends with EINTR, and no signal has come.
 *
 * Method: a child refuses itself something by a seccomp filter, so that an io_uring can be made and
 * is of no use.  It lets the library find that out, and then waits for what does not come.
 */
#include "contract.h"

#include <dirent.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/epoll.h>

/*
 * The kernel takes a moment to do away with a ring, and may find the thread on its way out of a
 * system call or into one: so some waits of one, and each long enough.
 */
#define WAIT_MS 200
#define ROUNDS 3

struct refusal {
	const char *what;
	long call;
	int argument; /* the one that decides, -1: all are refused */
	unsigned value;
	int error;
};

static const struct refusal refusals[] = {
	/* The library looks for the end of a pipe by reading one byte. */
	{ "files of an io_uring are closed late", SYS_read, 2, 1, EAGAIN },
	{ "no files can be registered", SYS_io_uring_register, -1, 0, EINVAL },
};

#define REFUSALS (sizeof(refusals) / sizeof(refusals[0]))

/* The low half of an argument, which is all that there is of a small number. */
static unsigned place_of_argument(int argument)
{
	const union {
		unsigned number;
		char first;
	} one = { 1 };
	size_t place = offsetof(struct seccomp_data, args) + sizeof(uint64_t) * (size_t)argument;

	return (unsigned)place + (one.first ? 0 : 4);
}

static bool refuse(const struct refusal *refusal)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)refusal->call, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, refusal->argument < 0
							   ? offsetof(struct seccomp_data, nr)
							   : place_of_argument(refusal->argument)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K,
			 refusal->argument < 0 ? (unsigned)refusal->call : refusal->value, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)refusal->error),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog filter = { sizeof(code) / sizeof(code[0]), code };

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
	       syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter) == 0;
}

/* Of this process: as descriptors, which the library keeps as long as it uses one. */
static int count_rings(void)
{
	DIR *descriptors = opendir("/proc/self/fd");
	struct dirent *entry;
	char target[64];
	int count = 0;

	CHILD_CHECK(descriptors != NULL);
	while ((entry = readdir(descriptors)) != NULL) {
		ssize_t length =
			readlinkat(dirfd(descriptors), entry->d_name, target, sizeof(target) - 1);

		target[length < 0 ? 0 : length] = '\0';
		count += strcmp(target, "anon_inode:[io_uring]") == 0;
	}
	closedir(descriptors);
	return count;
}

static bool ends_with_a_timeout(io_context_t idle)
{
	struct timespec timeout = { .tv_nsec = WAIT_MS * 1000000L };
	struct io_event event;

	return io_getevents(idle, 1, 1, &event, &timeout) == 0;
}

static bool wait_of_the_program_ends_with_a_timeout(void)
{
	struct epoll_event event;
	int epoll = epoll_create1(EPOLL_CLOEXEC);

	return epoll >= 0 && epoll_wait(epoll, &event, 1, WAIT_MS) == 0;
}

/* A context whose first request brings the library to try an io_uring. */
static void be_served_without_a_ring(void)
{
	struct timespec limit = { .tv_sec = EVENT_LIMIT_SECONDS };
	io_context_t ctx = NULL, idle = NULL;
	struct io_event event;
	struct iocb iocb;
	char bytes[8];
	int ends[2];

	CHILD_CHECK(io_setup(1, &ctx) == 0 && io_setup(1, &idle) == 0);
	CHILD_CHECK(pipe2(ends, O_CLOEXEC) == 0 && write(ends[1], "12345678", 8) == 8);
	io_prep_pread(&iocb, ends[0], bytes, sizeof(bytes), 0);
	CHILD_CHECK(submit_one(ctx, &iocb) == 1);
	CHILD_CHECK(io_getevents(ctx, 1, 1, &event, &limit) == 1 && event.res == sizeof(bytes));
	CHILD_CHECK(count_rings() == 0);
	/* Only kernel AIO is waited for in a system call that the kernel would end. */
	CHILD_CHECK(on_native() ? ends_with_a_timeout(idle)
				: wait_of_the_program_ends_with_a_timeout());
}

static void wait_after_refusal(void *argument)
{
	io_context_t ctx = NULL;

	CHILD_CHECK(refuse(argument));
	if (on_uring() && engine_is_named()) {
		CHILD_CHECK(io_setup(1, &ctx) == -ENOSYS && !ctx && count_rings() == 0);
		CHILD_CHECK(wait_of_the_program_ends_with_a_timeout());
	} else {
		be_served_without_a_ring();
	}
}

CASE(a_ring_that_is_of_no_use_interrupts_no_wait)
{
	if (UNDER_THREAD_SANITIZER)
		SKIP("ThreadSanitizer does not work in a forked child");
	if (on_threads() || io_uring_is_refused())
		SKIP("no io_uring is made here anyway");
	for (size_t i = 0; i < REFUSALS; i++)
		for (int round = 0; round < ROUNDS; round++)
			expect_child_passes(wait_after_refusal, (void *)(uintptr_t)&refusals[i],
					    refusals[i].what);
	free_context(new_context(1));
}
