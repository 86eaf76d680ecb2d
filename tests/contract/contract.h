/* SPDX-License-Identifier: MIT */
/*
 * What the contract tests share: cases, the proof of the engine, scratch files, threads, events.
 *
 * A contract test is a program like any other: it includes libaio.h, links with -laio and knows
 * nothing of the library's inside.  It runs on every engine, and also on another libaio:
 *
 *   TRUEAIO_ENGINE=native build/tests/contract/test_submit
 *   TRUEAIO_ENGINE=reference LD_LIBRARY_PATH=/usr/lib/x86_64-linux-gnu \
 *           build/tests/contract/test_submit
 *
 * "reference" names no engine of ours.  It says that the library under test is the libaio that the
 * kernel's own behaviour was read from; cases in which trueaio decided otherwise skip themselves
 * there, so that all the others are known to tell the truth.
 *
 * A case registers itself where it is written, CASE(name) { ... }, and is named as a fact.  It
 * proves which engine served it: new_context does, and a case that passes without having asked is
 * failed.  Each has a process of its own unless CK_FORK=no, so it gives back what it took when it
 * passes.
 *
 * main is a supervisor.  It makes one scratch directory, names it in TMPDIR, runs the cases in a
 * child, and afterwards unmounts and removes whatever is in there, however the child has ended.
 *
 * Waiting is for conditions: events with a generous limit, threads seen asleep in a system call,
 * files of /proc.  The short pauses in this file are the steps of such bounded polls.
 */
#ifndef CONTRACT_H
#define CONTRACT_H

#include <check.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <libaio.h>
#include <limits.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#if defined(__has_feature)
#define CONTRACT_HAS_FEATURE(feature) __has_feature(feature)
#else
#define CONTRACT_HAS_FEATURE(feature) 0
#endif
#if defined(__SANITIZE_THREAD__) || CONTRACT_HAS_FEATURE(thread_sanitizer)
#define UNDER_THREAD_SANITIZER 1
#else
#define UNDER_THREAD_SANITIZER 0
#endif
#if defined(__SANITIZE_ADDRESS__) || CONTRACT_HAS_FEATURE(address_sanitizer)
#define UNDER_ADDRESS_SANITIZER 1
#else
#define UNDER_ADDRESS_SANITIZER 0
#endif

/*
 * An event that is due comes within this time on the busiest machine; waiting longer is a failure.
 */
#define EVENT_LIMIT_SECONDS 15
#define CASE_LIMIT_SECONDS 60

#define DIRECT_BLOCK_BYTES 4096

/*
 * Cases.
 */

struct contract_case {
	const TTest *test;
	int limit_seconds;
	struct contract_case *next;
};

static struct contract_case *contract_first_case, **contract_last_case = &contract_first_case;
static bool contract_engine_proved;

static inline void contract_register(struct contract_case *added)
{
	*contract_last_case = added;
	contract_last_case = &added->next;
}

#define CASE(name)                                                                                 \
	static void name##_fn(int);                                                                \
	static const TTest name##_test = { #name, name##_fn, __FILE__, __LINE__ };                 \
	static struct contract_case name##_case = { &name##_test, CASE_LIMIT_SECONDS, NULL };      \
	__attribute__((constructor)) static void name##_register(void)                             \
	{                                                                                          \
		contract_register(&name##_case);                                                   \
	}                                                                                          \
	static void name##_fn(int contract_index CK_ATTRIBUTE_UNUSED)

/* Ends the case.  One line for a skipped case: they are counted. */
#define SKIP(reason)                                                                               \
	do {                                                                                       \
		fprintf(stderr, "SKIP: %s: %s\n", tcase_name(), (reason));                         \
		contract_engine_proved = true;                                                     \
		return;                                                                            \
	} while (0)

#define CONTRACT_TEXT_OF(x) #x
#define CONTRACT_TEXT(x) CONTRACT_TEXT_OF(x)
/* The "what" of a check that belongs to no table. */
#define HERE "line " CONTRACT_TEXT(__LINE__)

/*
 * The engine.
 */

/*
 * "auto" chooses by what the machine allows; the one that takes something away from it says in
 * TRUEAIO_TEST_EXPECT what is left.
 */
static inline const char *expected_engine(void)
{
	const char *expected = getenv("TRUEAIO_TEST_EXPECT");
	const char *name = expected ? expected : getenv("TRUEAIO_ENGINE");

	return name && strcmp(name, "auto") != 0 ? name : "native";
}

/* Whether the user has named the engine, so that nothing else may serve. */
static inline bool engine_is_named(void)
{
	const char *name = getenv("TRUEAIO_ENGINE");

	return name && strcmp(name, "auto") != 0;
}

static inline bool on_native(void)
{
	return strcmp(expected_engine(), "native") == 0;
}

/* The library carries out every request itself: nothing ends inside io_submit. */
static inline bool on_threads(void)
{
	return strcmp(expected_engine(), "threads") == 0;
}

static inline bool on_reference(void)
{
	return strcmp(expected_engine(), "reference") == 0;
}

#define SKIP_ON_REFERENCE(reason)                                                                  \
	do {                                                                                       \
		if (on_reference())                                                                \
			SKIP("reference: " reason);                                                \
	} while (0)

/* Every instruction takes longer there, so what is done many times is done fewer times. */
static inline bool is_emulated(void)
{
	return getenv("EMULATOR") != NULL; /* by scripts/emulate */
}

/* Linux 6.18; older headers lack it. */
#ifndef RWF_NOSIGNAL
#define RWF_NOSIGNAL 0x100
#endif

/* For this thread, and with SECCOMP_FILTER_FLAG_TSYNC for all. */
static inline bool install_filter(struct sock_filter *code, size_t length, unsigned flags)
{
	struct sock_fprog program = { (unsigned short)length, code };

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
	       syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program) == 0;
}

/* From now on this system call gets the error. */
static inline bool refuse_system_call(unsigned number, int error, unsigned flags)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};

	return install_filter(code, sizeof(code) / sizeof(code[0]), flags);
}

/* Linux has had them since 4.6, and an emulator may lack them. */
static inline bool has_flags(void)
{
	return syscall(SYS_preadv2, -1, NULL, 0, 0, 0, 0) >= 0 || errno != ENOSYS;
}

#define NEEDS_FLAGS()                                                                              \
	do {                                                                                       \
		if (!has_flags())                                                                  \
			SKIP("there is no preadv2 here");                                          \
	} while (0)

/* What a child gets of the library's memory, Linux does since 4.14; an emulator may only say so. */
static inline bool forks_wipe(void)
{
	char *page = (char *)mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
				  -1, 0);
	pid_t child;
	int status = 0;

	ck_assert(page != MAP_FAILED);
	*page = 1;
	if (madvise(page, 4096, MADV_WIPEONFORK) == 0) {
		child = fork();
		if (child == 0)
			_exit(*page);
		ck_assert_int_eq(waitpid(child, &status, 0), child);
	}
	munmap(page, 4096);
	return status == 0;
}

#define NEEDS_WIPE_ON_FORK()                                                                       \
	do {                                                                                       \
		if (!forks_wipe())                                                                 \
			SKIP("MADV_WIPEONFORK wipes nothing here");                                \
	} while (0)

/* Where a thread out of many goes on alone, in the middle of whatever the others did. */
#define NEEDS_LOCKS_THAT_FORK()                                                                    \
	do {                                                                                       \
		NEEDS_WIPE_ON_FORK();                                                              \
		if (UNDER_ADDRESS_SANITIZER)                                                       \
			SKIP("a child may find AddressSanitizer's own locks taken");               \
	} while (0)

typedef const char *engine_function(io_context_t);

/* The library's trueaio_engine; NULL: it is none of ours. */
static inline engine_function *find_engine_function(void)
{
	void *symbol = dlsym(RTLD_DEFAULT, "trueaio_engine");
	engine_function *engine;

	memcpy(&engine, &symbol, sizeof(engine));
	return engine;
}

static inline void prove_engine(io_context_t ctx)
{
	engine_function *engine = find_engine_function();
	const char *name;

	contract_engine_proved = true;
	if (on_reference()) {
		ck_assert_msg(!engine, "this is not the reference library");
		return;
	}
	ck_assert_msg(engine != NULL, "this is not trueaio");
	name = engine(ctx);
	ck_assert_msg(name && strcmp(name, expected_engine()) == 0, "served by %s instead of %s",
		      name ? name : "nothing", expected_engine());
}

static inline io_context_t new_context(int events)
{
	io_context_t ctx = NULL;
	int result = io_setup(events, &ctx);

	ck_assert_msg(result == 0, "io_setup(%d): %s", events, strerror(-result));
	ck_assert_ptr_nonnull(ctx);
	prove_engine(ctx);
	return ctx;
}

static inline void free_context(io_context_t ctx)
{
	int result = io_destroy(ctx);

	ck_assert_msg(result == 0, "io_destroy: %s", strerror(-result));
}

static inline void contract_setup(void)
{
	contract_engine_proved = false;
}

static inline void contract_teardown(void)
{
	ck_assert_msg(contract_engine_proved, "the case has not asked which engine serves it");
}

/* The error of the kernel's own io_setup, for those who ask it without the library; 0: it works. */
static inline int kernel_aio_error(void)
{
	unsigned long ctx = 0;

	if (syscall(SYS_io_setup, 1, &ctx) != 0)
		return errno;
	ck_assert_int_eq(syscall(SYS_io_destroy, ctx), 0);
	return 0;
}

/*
 * What io_setup says to programs and objects that take their events from the kernel by themselves.
 * Only kernel AIO can serve them: where another engine is asked for by name they are told so, and
 * where the kernel refuses they are told what it says.
 */
static inline int setup_error_of_foreign_reapers(void)
{
	if (on_threads() && engine_is_named())
		return -ENOSYS;
	return -kernel_aio_error();
}

/*
 * Conditions.
 */

static inline long long monotonic_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (long long)now.tv_sec * 1000000000 + now.tv_nsec;
}

static inline void contract_pause(void)
{
	const struct timespec step = { .tv_nsec = 200000 };

	nanosleep(&step, NULL);
}

#define WAIT_UNTIL(condition)                                                                      \
	do {                                                                                       \
		long long end_ns = monotonic_ns() + EVENT_LIMIT_SECONDS * 1000000000LL;            \
		while (!(condition)) {                                                             \
			ck_assert_msg(monotonic_ns() < end_ns, "still not: %s", #condition);       \
			contract_pause();                                                          \
		}                                                                                  \
	} while (0)

/*
 * Memory that is bad from the first moment.
 *
 * A library may remember which memory it has found good, so an address that is to be bad must never
 * have been anything else: all of it comes from one range, reserved at start, no part of which is
 * used twice.
 */

#define CONTRACT_ARENA_BYTES ((size_t)256 << 20)

/* Not for a user process in any configuration of a kernel; in 32 bits the last page. */
#if UINTPTR_MAX > UINT32_MAX
#define KERNEL_ADDRESS ((void *)0xffff800000000000UL)
#else
#define KERNEL_ADDRESS ((void *)0xfffff000UL)
#endif

/*
 * What io_submit itself sees of such a buffer, and of a size that is negative, it sees by the
 * address space of the kernel, which has 64 bits; those of a 32-bit program lie in it.
 */
#define BUFFERS_CAN_BE_THE_KERNELS (sizeof(void *) == 8)

static char *contract_arena;
static _Atomic size_t contract_arena_used;

/* Pages without any access. */
static inline char *unreadable_pages(size_t count)
{
	size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
	size_t start = atomic_fetch_add(&contract_arena_used, count * page_bytes);

	ck_assert(start + count * page_bytes <= CONTRACT_ARENA_BYTES);
	return contract_arena + start;
}

static inline void *unreadable_page(void)
{
	return unreadable_pages(1);
}

/* So many bytes that may be used, ending where a page without access begins. */
static inline char *bytes_before_bad_page(size_t bytes)
{
	size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
	size_t pages = (bytes + page_bytes - 1) / page_bytes;
	char *start = unreadable_pages(pages + 1);

	ck_assert_int_eq(mprotect(start, pages * page_bytes, PROT_READ | PROT_WRITE), 0);
	return start + pages * page_bytes - bytes;
}

/* A page with this content that has never been writable. */
static inline void *read_only_page(const void *content, size_t bytes)
{
	size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
	int fd = memfd_create("read-only", MFD_CLOEXEC);
	void *page = unreadable_page();

	ck_assert_int_eq(ftruncate(fd, (off_t)page_bytes), 0);
	if (bytes)
		ck_assert_int_eq(write(fd, content, bytes), (ssize_t)bytes);
	ck_assert_ptr_eq(mmap(page, page_bytes, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0), page);
	close(fd);
	return page;
}

static inline void *aligned_buffer(size_t bytes)
{
	void *buffer = NULL;

	ck_assert_int_eq(posix_memalign(&buffer, DIRECT_BLOCK_BYTES, bytes), 0);
	memset(buffer, 0, bytes);
	return buffer;
}

/* The kernel goes as far as the memory does; an emulator may look at all of it before. */
static inline bool reads_end_with_the_memory(void)
{
	int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	ssize_t got = read(zero, bytes_before_bad_page(16), 32);

	close(zero);
	return got == 16;
}

#define NEEDS_BUFFERS_GOOD_IN_PART()                                                               \
	do {                                                                                       \
		if (!reads_end_with_the_memory())                                                  \
			SKIP("a buffer that is good in part is refused here");                     \
	} while (0)

/*
 * Files.
 */

/* What a scratch file holds at an offset: no two pages are alike, and no byte is 0. */
static inline char pattern_at(off_t offset)
{
	return (char)(1 + ((unsigned long long)offset * 2654435761u >> 7) % 255);
}

static inline void fill_pattern(char *buffer, off_t offset, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		buffer[i] = pattern_at(offset + (off_t)i);
}

/* One assertion for all bytes: each one that Check sees is a write to a file of its own. */
static inline void expect_pattern(const char *buffer, off_t offset, size_t bytes, const char *what)
{
	size_t good = 0;

	while (good < bytes && buffer[good] == pattern_at(offset + (off_t)good))
		good++;
	ck_assert_msg(good == bytes, "%s: byte %zu of %zu is not the file's", what, good, bytes);
}

static inline const char *scratch_directory(void)
{
	const char *directory = getenv("TMPDIR");

	return directory ? directory : "/tmp";
}

/*
 * A new file in that directory, without a name, holding its pattern; on the disk, not only in the
 * cache.
 */
static inline int scratch_file_in(const char *directory, size_t bytes)
{
	char path[PATH_MAX];
	size_t chunk = 1 << 16, done = 0;
	char *buffer = malloc(chunk);
	int fd;

	snprintf(path, sizeof(path), "%s/file-XXXXXX", directory);
	fd = mkostemp(path, O_CLOEXEC);
	ck_assert_msg(fd >= 0 && buffer, "%s: %s", path, strerror(errno));
	unlink(path);
	for (; done < bytes; done += chunk) {
		size_t part = bytes - done < chunk ? bytes - done : chunk;

		fill_pattern(buffer, (off_t)done, part);
		ck_assert_int_eq(pwrite(fd, buffer, part, (off_t)done), (ssize_t)part);
	}
	free(buffer);
	ck_assert_int_eq(fsync(fd), 0);
	return fd;
}

static inline int scratch_file(size_t bytes)
{
	return scratch_file_in(scratch_directory(), bytes);
}

/* Another open description of the same file; -1 where it cannot be opened that way. */
static inline int reopen_file(int fd, int flags)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, flags | O_CLOEXEC);
}

static inline void make_pipe(int ends[2], int flags)
{
	ck_assert_int_eq(pipe2(ends, flags | O_CLOEXEC), 0);
}

static inline void close_pair(const int ends[2])
{
	close(ends[0]);
	close(ends[1]);
}

/* Whether the last one who could read from a pipe has let go of it. */
static inline bool has_no_reader(int writer)
{
	struct pollfd look = { .fd = writer };

	return poll(&look, 1, 0) == 1 && (look.revents & POLLERR);
}

static inline int open_device(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC);

	ck_assert_msg(fd >= 0, "%s: %s", path, strerror(errno));
	return fd;
}

/* The number under which another process, or this one, receives a descriptor through a socket. */
static inline int received_descriptor(int fd)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control = { .space = { 0 } };
	char byte = 0;
	struct iovec payload = { &byte, 1 };
	struct msghdr message = { .msg_iov = &payload,
				  .msg_iovlen = 1,
				  .msg_control = &control,
				  .msg_controllen = sizeof(control) };
	int ends[2], received = -1;

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, ends), 0);
	control.header.cmsg_level = SOL_SOCKET;
	control.header.cmsg_type = SCM_RIGHTS;
	control.header.cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
	ck_assert_int_eq(sendmsg(ends[0], &message, 0), 1);
	ck_assert_int_eq(recvmsg(ends[1], &message, MSG_CMSG_CLOEXEC), 1);
	memcpy(&received, CMSG_DATA(&control.header), sizeof(received));
	close(ends[0]);
	close(ends[1]);
	return received;
}

/*
 * An emulator that turns the bytes of what eventfds count knows them by the numbers that it has
 * seen made, and the workers have files under other numbers.
 */
static inline bool eventfds_count_by_any_number(void)
{
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
	int event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int received = received_descriptor(event_fd);
	const uint64_t one = 1;
	uint64_t count = 0;

	ck_assert(write(received, &one, sizeof(one)) == sizeof(one) &&
		  read(event_fd, &count, sizeof(count)) == sizeof(count));
	close(received);
	close(event_fd);
	return count == one;
#else
	return true;
#endif
}

/*
 * As eventfd(2). Under such an emulator the file gets a number that has not been seen made, where
 * no bytes are turned; so it counts for all who add to it and take from it, up to 255.
 */
static inline int open_eventfd(unsigned count, int flags)
{
	const uint64_t first = count;
	int made, received, fd;

	if (eventfds_count_by_any_number())
		return eventfd(count, flags);
	made = eventfd(0, flags);
	received = received_descriptor(made);
	close(made);
	/* The lowest number, as eventfd(2) gives. */
	fd = fcntl(received, F_DUPFD_CLOEXEC, 0);
	close(received);
	if (count)
		ck_assert_int_eq(write(fd, &first, sizeof(first)), sizeof(first));
	return fd;
}

/* For what the kernel itself counts: a semaphore's 1, a timer's expirations. */
#define NEEDS_KERNELS_COUNTS()                                                                     \
	do {                                                                                       \
		if (on_threads() && !eventfds_count_by_any_number())                               \
			SKIP("eventfds and timers count by their first number alone here");        \
	} while (0)

/* The count of an eventfd made with EFD_NONBLOCK, which is 0 afterwards. */
static inline uint64_t take_count(int event_fd)
{
	uint64_t count = 0;

	if (read(event_fd, &count, sizeof(count)) != sizeof(count))
		ck_assert_int_eq(errno, EAGAIN);
	return count;
}

/*
 * An eventfd (EFD_NONBLOCK) reaches this count, which may be a moment after the event can be taken.
 * What comes on top of it later is seen by a look at the end of the case.
 */
static inline void expect_count(int event_fd, uint64_t expected, const char *what)
{
	uint64_t count = 0;

	WAIT_UNTIL((count += take_count(event_fd)) >= expected);
	ck_assert_msg(count == expected, "%s: counted %llu instead of %llu", what,
		      (unsigned long long)count, (unsigned long long)expected);
}

/* Runs a program without its output; whether it ended well. */
static inline bool run_command(const char *const arguments[])
{
	int status, null;
	pid_t child = fork();

	if (child == 0) {
		null = open("/dev/null", O_RDWR);
		dup2(null, 0);
		dup2(null, 1);
		dup2(null, 2);
		execvp(arguments[0], (char *const *)(uintptr_t)arguments);
		_exit(127);
	}
	return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) &&
	       WEXITSTATUS(status) == 0;
}

/*
 * A small file system of that type ("ext4", "xfs", "tmpfs", ...) mounted for the case: the
 * directory, or NULL where there is none.  loop_unmount takes it away; main does if the case
 * fails.
 */
static inline char *loop_mount(const char *type, const char *megabytes)
{
	char directory[PATH_MAX], image[PATH_MAX + 8], size[32], maker[32];
	const char *const make[] = { maker, "-q", image, NULL };
	const char *const mount_image[] = { "mount", "-o", "loop", image, directory, NULL };
	int fd;
	bool mounted;

	snprintf(directory, sizeof(directory), "%s/%s-XXXXXX", scratch_directory(), type);
	ck_assert_ptr_nonnull(mkdtemp(directory));
	if (strcmp(type, "tmpfs") == 0) {
		snprintf(size, sizeof(size), "size=%sm", megabytes);
		mounted = mount("tmpfs", directory, "tmpfs", 0, size) == 0;
	} else {
		snprintf(image, sizeof(image), "%s.image", directory);
		snprintf(maker, sizeof(maker), "mkfs.%s", type);
		fd = open(image, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		ck_assert_int_ge(fd, 0);
		ck_assert_int_eq(ftruncate(fd, (off_t)atol(megabytes) << 20), 0);
		close(fd);
		mounted = run_command(make) && run_command(mount_image);
		unlink(image);
	}
	if (mounted)
		return strdup(directory);
	rmdir(directory);
	return NULL;
}

static inline void loop_unmount(char *directory)
{
	if (!directory)
		return;
	ck_assert_msg(umount2(directory, 0) == 0, "umount %s: %s", directory, strerror(errno));
	rmdir(directory);
	free(directory);
}

/*
 * Requests and events.
 */

static inline int submit_one(io_context_t ctx, struct iocb *iocb)
{
	return io_submit(ctx, 1, &iocb);
}

static inline void expect_submitted(io_context_t ctx, struct iocb *iocb, const char *what)
{
	int result = submit_one(ctx, iocb);

	ck_assert_msg(result == 1, "%s: io_submit: %d (%s)", what, result,
		      result < 0 ? strerror(-result) : "?");
}

static inline void expect_all_submitted(io_context_t ctx, struct iocb *iocbs, int count,
					const char *what)
{
	struct iocb **list = calloc((size_t)count, sizeof(*list));
	int result;

	ck_assert_ptr_nonnull(list);
	for (int i = 0; i < count; i++)
		list[i] = &iocbs[i];
	result = io_submit(ctx, count, list);
	free(list);
	ck_assert_msg(result == count, "%s: io_submit: %d of %d", what, result, count);
}

static inline struct io_event take_event(io_context_t ctx, const char *what)
{
	struct timespec limit = { .tv_sec = EVENT_LIMIT_SECONDS };
	struct io_event event = { .res = 0 };
	int result = io_getevents(ctx, 1, 1, &event, &limit);

	ck_assert_msg(result == 1, "%s: io_getevents: %d (%s)", what, result,
		      result < 0 ? strerror(-result) : "no event");
	ck_assert_msg(event.res2 == 0, "%s: res2 is %ld", what, (long)event.res2);
	return event;
}

/*
 * A request that has ended when the case goes on.  With kernel AIO that is so when io_submit is
 * over, or when the kernel has done what ends it, and nothing is waited for.  Where the library
 * carries out everything itself, the request gets an eventfd that is signalled when its event can
 * be taken: -1, or that eventfd.
 */
static inline int end_counter(struct iocb *iocb)
{
	int counter;

	if (!on_threads())
		return -1;
	counter = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ck_assert_int_ge(counter, 0);
	io_set_eventfd(iocb, counter);
	return counter;
}

static inline void wait_for_end(int counter, uint64_t requests, const char *what)
{
	if (counter < 0)
		return;
	expect_count(counter, requests, what);
	close(counter);
}

/* It ends without anybody's help, and its event can be taken on return. */
static inline void expect_ended(io_context_t ctx, struct iocb *iocb, const char *what)
{
	struct iocb kept = *iocb;
	int counter = end_counter(iocb);

	expect_submitted(ctx, iocb, what);
	iocb->u = kept.u;
	wait_for_end(counter, 1, what);
}

/* Takes what is there. */
static inline int take_events_now(io_context_t ctx, struct io_event *events, int room)
{
	struct timespec zero = { 0 };

	return io_getevents(ctx, 0, room, events, &zero);
}

/* Takes some of the requests that end without anybody's help: with kernel AIO they have ended. */
static inline int take_ended(io_context_t ctx, struct io_event *events, int room)
{
	struct timespec limit = { .tv_sec = EVENT_LIMIT_SECONDS };

	return on_threads() ? io_getevents(ctx, 1, room, events, &limit)
			    : take_events_now(ctx, events, room);
}

static inline void expect_no_event(io_context_t ctx, const char *what)
{
	struct io_event event;
	int result = take_events_now(ctx, &event, 1);

	ck_assert_msg(result == 0, "%s: io_getevents: %d where no event should be", what, result);
}

/* The next event is this request's, with this result. */
static inline void expect_event(io_context_t ctx, const struct iocb *iocb, long result,
				const char *what)
{
	struct io_event event = take_event(ctx, what);

	ck_assert_msg(event.obj == iocb, "%s: the event of another request", what);
	ck_assert_msg((long)event.res == result, "%s: the event's result is %ld, not %ld", what,
		      (long)event.res, result);
}

/* Submits one request into an idle context: accepted, and its event says this. */
static inline void expect_result(io_context_t ctx, struct iocb *iocb, long result, const char *what)
{
	struct io_event event;
	char mark;

	iocb->data = &mark;
	expect_submitted(ctx, iocb, what);
	event = take_event(ctx, what);
	ck_assert_msg(event.obj == iocb && event.data == &mark, "%s: the event of another request",
		      what);
	ck_assert_msg((long)event.res == result, "%s: the event's result is %ld, not %ld", what,
		      (long)event.res, result);
}

/* io_submit itself refuses it. */
static inline void expect_refused(io_context_t ctx, struct iocb *iocb, int error, const char *what)
{
	int result = submit_one(ctx, iocb);

	ck_assert_msg(result == error, "%s: io_submit: %d, not %d", what, result, error);
}

/*
 * One more request that runs at once.  What it is for: when its event is the next one, no other was
 * there; and the context is still of use.
 *
 * Its descriptor has a number that no other file of a test gets: for a moment a library may take a
 * number for what it was the last time, and then lets io_submit wait for a pipe after all.
 */
static inline void expect_works(io_context_t ctx, const char *what)
{
	int low = open_device("/dev/zero", O_RDONLY), zero = fcntl(low, F_DUPFD_CLOEXEC, 900);
	char bytes[8] = "before";
	struct iocb iocb;

	close(low);
	ck_assert_int_ge(zero, 0);
	io_prep_pread(&iocb, zero, bytes, sizeof(bytes), 0);
	expect_result(ctx, &iocb, sizeof(bytes), what);
	ck_assert_msg(bytes[0] == 0, "%s: nothing was read", what);
	close(zero);
}

/*
 * Destroys the context and says how many events it still had: those of requests that it had to wait
 * for.
 */
static inline void free_context_without_events(io_context_t ctx, const char *what)
{
	expect_no_event(ctx, what);
	free_context(ctx);
}

/*
 * Handles that are none.  Those whose memory cannot be read come last: the reference library looks
 * at it in every function that takes events.
 */

struct bad_handle {
	const char *name;
	io_context_t ctx;
};

#define BAD_HANDLE_COUNT 9
#define BAD_HANDLE_GOOD_TO_READ 5

struct forged_ring {
	unsigned id, nr, head, tail, magic, compatible, incompatible, header_bytes;
	char slots[4096];
};

/* live: a context that exists; destroyed: the handle of one that does no longer. */
static inline void bad_handles(struct bad_handle table[BAD_HANDLE_COUNT], io_context_t live,
			       io_context_t destroyed)
{
	static char zeroes[4096];
	static struct forged_ring fresh, copy;

	fresh = (struct forged_ring){
		.nr = 127, .magic = 0xa10a10a1, .compatible = 1, .header_bytes = 32
	};
	memcpy(&copy, live, offsetof(struct forged_ring, slots));
	copy.magic = 0xa10a10a1;
	copy.head = copy.tail = 0;
	table[0] = (struct bad_handle){ "null", NULL };
	table[1] = (struct bad_handle){ "zeroes", (io_context_t)(void *)zeroes };
	table[2] = (struct bad_handle){ "a forged ring", (io_context_t)(void *)&fresh };
	table[3] = (struct bad_handle){ "a copy of a live ring", (io_context_t)(void *)&copy };
	table[4] = (struct bad_handle){ "inside a live ring",
					(io_context_t)(void *)((char *)live + 4) };
	table[5] = (struct bad_handle){ "a page without access", unreadable_page() };
	table[6] = (struct bad_handle){ "-1", (io_context_t)-1L };
	table[7] = (struct bad_handle){ "a kernel address", KERNEL_ADDRESS };
	table[8] = (struct bad_handle){ "a destroyed context", destroyed };
}

/* How many of them may be given to a function that takes events. */
static inline int bad_handles_for_reaping(void)
{
	return on_reference() ? BAD_HANDLE_GOOD_TO_READ : BAD_HANDLE_COUNT;
}

/*
 * Threads.
 */

struct worker {
	void (*run)(void *argument);
	void *argument;
	pthread_t thread;
	_Atomic pid_t tid;
	_Atomic bool ended;
};

static inline void *worker_main(void *argument)
{
	struct worker *worker = argument;

	atomic_store(&worker->tid, (pid_t)syscall(SYS_gettid));
	worker->run(worker->argument);
	atomic_store(&worker->ended, true);
	return NULL;
}

static inline void worker_start(struct worker *worker, void (*run)(void *), void *argument)
{
	*worker = (struct worker){ .run = run, .argument = argument };
	ck_assert_int_eq(pthread_create(&worker->thread, NULL, worker_main, worker), 0);
}

static inline bool worker_has_ended(struct worker *worker)
{
	return atomic_load(&worker->ended);
}

static inline void worker_join(struct worker *worker)
{
	struct timespec end;
	int error;

	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += EVENT_LIMIT_SECONDS;
	error = pthread_timedjoin_np(worker->thread, NULL, &end);
	ck_assert_msg(error == 0, "a thread that should end does not: %s", strerror(error));
}

struct task_look {
	char state;
	char system_call[32];
	unsigned long long switches;
};

/* Also of another process's thread. */
static inline bool task_look(pid_t tid, struct task_look *look)
{
	char path[64], line[256];
	unsigned long long count;
	FILE *stream;

	*look = (struct task_look){ .state = '?' };
	snprintf(path, sizeof(path), "/proc/%d/status", tid);
	stream = fopen(path, "re");
	if (!stream)
		return false;
	while (fgets(line, sizeof(line), stream)) {
		if (sscanf(line, "State: %c", &look->state) == 1)
			continue;
		if (sscanf(line, "voluntary_ctxt_switches: %llu", &count) == 1 ||
		    sscanf(line, "nonvoluntary_ctxt_switches: %llu", &count) == 1)
			look->switches += count;
	}
	fclose(stream);
	/* Some kernels are built without this one; what is left then is the rest. */
	snprintf(path, sizeof(path), "/proc/%d/syscall", tid);
	stream = fopen(path, "re");
	if (stream) {
		if (fscanf(stream, "%31s", look->system_call) != 1)
			look->system_call[0] = '\0';
		fclose(stream);
	}
	return true;
}

/*
 * Whether a thread sleeps in a system call, and not just for a moment: it is seen asleep in the
 * same call several times in a row, without having run in between.
 */
static inline bool task_is_blocked(pid_t tid)
{
	struct task_look first, again;

	if (!tid || !task_look(tid, &first))
		return false;
	for (int i = 0; i < 6; i++) {
		if ((first.state != 'S' && first.state != 'D') ||
		    strcmp(first.system_call, "running") == 0)
			return false;
		for (int j = 0; j < 5; j++)
			contract_pause();
		if (!task_look(tid, &again) || again.state != first.state ||
		    again.switches != first.switches ||
		    strcmp(again.system_call, first.system_call) != 0)
			return false;
	}
	return true;
}

/* The worker must do nothing but the call in question, so that this is where it sleeps. */
static inline void worker_wait_blocked(struct worker *worker)
{
	long long end_ns = monotonic_ns() + EVENT_LIMIT_SECONDS * 1000000000LL;

	while (!task_is_blocked(atomic_load(&worker->tid))) {
		ck_assert_msg(!worker_has_ended(worker), "a call that should wait has returned");
		ck_assert_msg(monotonic_ns() < end_ns, "a call that should wait does not sleep");
	}
	ck_assert_msg(!worker_has_ended(worker), "a call that should wait has returned");
}

/* One io_getevents in a thread of its own. */
struct reaper {
	struct worker worker;
	io_context_t ctx;
	long min_nr;
	long nr;
	struct timespec *timeout;
	struct io_event events[64];
	int result;
};

static inline void reaper_run(void *argument)
{
	struct reaper *reaper = argument;

	reaper->result = io_getevents(reaper->ctx, reaper->min_nr, reaper->nr, reaper->events,
				      reaper->timeout);
}

static inline void reaper_start(struct reaper *reaper, io_context_t ctx, long min_nr, long nr,
				struct timespec *timeout)
{
	*reaper = (struct reaper){ .ctx = ctx, .min_nr = min_nr, .nr = nr, .timeout = timeout };
	worker_start(&reaper->worker, reaper_run, reaper);
}

static inline void reaper_wait_blocked(struct reaper *reaper)
{
	worker_wait_blocked(&reaper->worker);
}

static inline int reaper_join(struct reaper *reaper)
{
	worker_join(&reaper->worker);
	return reaper->result;
}

/* One io_submit, of one request or two, in a thread of its own. */
struct submitter {
	struct worker worker;
	io_context_t ctx;
	struct iocb *list[2];
	int result;
};

static inline void submitter_run(void *argument)
{
	struct submitter *submitter = argument;

	submitter->result = io_submit(submitter->ctx, submitter->list[1] ? 2 : 1, submitter->list);
}

/* second: NULL, or one more in the same call. */
static inline void submitter_start(struct submitter *submitter, io_context_t ctx,
				   struct iocb *first, struct iocb *second)
{
	*submitter = (struct submitter){ .ctx = ctx, .list = { first, second } };
	worker_start(&submitter->worker, submitter_run, submitter);
}

static inline int submitter_join(struct submitter *submitter)
{
	worker_join(&submitter->worker);
	return submitter->result;
}

/* One io_destroy in a thread of its own. */
struct destroyer {
	struct worker worker;
	io_context_t ctx;
	int result;
};

static inline void destroyer_run(void *argument)
{
	struct destroyer *destroyer = argument;

	destroyer->result = io_destroy(destroyer->ctx);
}

static inline void destroyer_start(struct destroyer *destroyer, io_context_t ctx)
{
	*destroyer = (struct destroyer){ .ctx = ctx };
	worker_start(&destroyer->worker, destroyer_run, destroyer);
}

static inline int destroyer_join(struct destroyer *destroyer)
{
	worker_join(&destroyer->worker);
	return destroyer->result;
}

/* Signals are counted here; the handler does nothing else. */
static _Atomic int contract_signal_count;

static inline void contract_count_signal(int number)
{
	(void)number;
	atomic_fetch_add(&contract_signal_count, 1);
}

static inline void catch_signal(int number, int flags)
{
	struct sigaction action = { .sa_handler = contract_count_signal, .sa_flags = flags };

	atomic_store(&contract_signal_count, 0);
	ck_assert_int_eq(sigaction(number, &action, NULL), 0);
}

static inline void restore_signal(int number)
{
	ck_assert_ptr_ne((void *)(uintptr_t)signal(number, SIG_DFL), (void *)(uintptr_t)SIG_ERR);
}

/*
 * Child processes.  In a child nothing of Check may be used: it says what is wrong and exits.  A
 * case that can, makes its children before it has used the library itself: sanitizers do not cope
 * with a fork while a thread starts or ends.
 */

#define CHILD_CHECK(condition)                                                                     \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "%s:%d: in the child: not %s\n", __FILE__, __LINE__,       \
				#condition);                                                       \
			_exit(1);                                                                  \
		}                                                                                  \
	} while (0)

#define CHILD_CHECK_MSG(condition, ...)                                                            \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "%s:%d: in the child: ", __FILE__, __LINE__);              \
			fprintf(stderr, __VA_ARGS__);                                              \
			fprintf(stderr, "\n");                                                     \
			_exit(1);                                                                  \
		}                                                                                  \
	} while (0)

#define CHILD_WAIT_UNTIL(condition)                                                                \
	do {                                                                                       \
		long long end_ns = monotonic_ns() + EVENT_LIMIT_SECONDS * 1000000000LL;            \
		while (!(condition)) {                                                             \
			CHILD_CHECK_MSG(monotonic_ns() < end_ns, "still not: %s", #condition);     \
			contract_pause();                                                          \
		}                                                                                  \
	} while (0)

/*
 * AddressSanitizer's locks are copied as they are: a child of a process in which a thread was just
 * starting or ending may wait for them for ever.  Such a child is given up, and made again.
 */
#define CHILD_ATTEMPTS 4

static inline bool child_has_ended(pid_t child, int *status)
{
	long long end_ns = monotonic_ns() + EVENT_LIMIT_SECONDS * 1000000000LL;
	pid_t ended;

	while ((ended = waitpid(child, status, UNDER_ADDRESS_SANITIZER ? WNOHANG : 0)) != child) {
		ck_assert(ended == 0 || errno == EINTR);
		if (UNDER_ADDRESS_SANITIZER && monotonic_ns() > end_ns)
			return false;
		contract_pause();
	}
	return true;
}

/* The wait status of a child that has run this function. */
static inline int run_in_child(void (*run)(void *argument), void *argument)
{
	int status = 0;

	for (int attempt = 1;; attempt++) {
		pid_t child;

		fflush(NULL);
		child = fork();
		ck_assert_int_ge(child, 0);
		if (child == 0) {
			run(argument);
			_exit(0);
		}
		if (child_has_ended(child, &status))
			return status;
		ck_assert_int_lt(attempt, CHILD_ATTEMPTS);
		kill(child, SIGKILL);
		waitpid(child, &status, 0);
	}
}

static inline void expect_child_passes(void (*run)(void *argument), void *argument,
				       const char *what)
{
	int status = run_in_child(run, argument);

	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0,
		      "%s: the child's wait status is 0x%x", what, (unsigned)status);
}

static inline void child_finds_lock(void *argument)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

	CHILD_CHECK(fcntl(*(const int *)argument, F_GETLK, &lock) == 0);
	CHILD_CHECK(lock.l_type == F_WRLCK && lock.l_pid == getppid());
}

static inline void child_finds_no_lock(void *argument)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

	CHILD_CHECK(fcntl(*(const int *)argument, F_GETLK, &lock) == 0);
	CHILD_CHECK(lock.l_type == F_UNLCK);
}

/*
 * Record locks belong to the process and the file: closing any descriptor of the file, also one
 * that the library might have made for itself, drops them all.
 */
static inline void expect_locked(int fd, const char *what)
{
	expect_child_passes(child_finds_lock, &fd, what);
}

static inline void lock_file(int fd)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

	ck_assert_int_eq(fcntl(fd, F_SETLK, &lock), 0);
	expect_locked(fd, "to begin with");
}

static inline void unlock_file(int fd)
{
	struct flock lock = { .l_type = F_UNLCK, .l_whence = SEEK_SET };

	ck_assert_int_eq(fcntl(fd, F_SETLK, &lock), 0);
	expect_child_passes(child_finds_no_lock, &fd, "in the end");
}

/*
 * The program.
 */

static pid_t contract_suite_process;

static inline void contract_pass_on(int number)
{
	if (contract_suite_process > 0)
		kill(contract_suite_process, number);
}

static inline int contract_remove_one(const char *path, const struct stat *status, int type,
				      struct FTW *ftw)
{
	(void)status;
	(void)type;
	(void)ftw;
	remove(path);
	return 0;
}

/* Mount points below first, the last one mounted before the others, then everything else. */
static inline void contract_remove(const char *directory)
{
	char line[PATH_MAX + 256], path[PATH_MAX], found[PATH_MAX];
	size_t length = strlen(directory);
	FILE *mounts;

	do {
		found[0] = '\0';
		mounts = fopen("/proc/self/mounts", "re");
		while (mounts && fgets(line, sizeof(line), mounts))
			if (sscanf(line, "%*s %4095s", path) == 1 &&
			    strncmp(path, directory, length) == 0 && path[length] == '/')
				snprintf(found, sizeof(found), "%s", path);
		if (mounts)
			fclose(mounts);
	} while (found[0] && umount2(found, MNT_DETACH) == 0);
	nftw(directory, contract_remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

/*
 * What a suite that ended too early has left running: its cases end by the signal.  The servers of
 * file systems (holdfs.h) ignore it, see that their owner is gone, and clean up.
 */
static inline void contract_end_orphans(void)
{
	char path[64];
	int pid;

	snprintf(path, sizeof(path), "/proc/self/task/%d/children", getpid());
	for (int step = 0; step < 50000; step++) {
		FILE *children;

		while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
			;
		if (pid < 0)
			return;
		children = fopen(path, "re");
		while (children && fscanf(children, "%d", &pid) == 1)
			kill(pid, step < 40000 ? SIGTERM : SIGKILL);
		if (children)
			fclose(children);
		contract_pause();
	}
}

static inline int contract_run_suite(void)
{
	Suite *suite = suite_create(program_invocation_short_name);
	SRunner *runner = srunner_create(suite);
	int failed, all_seconds = 0;

	for (struct contract_case *each = contract_first_case; each; each = each->next) {
		TCase *tcase = tcase_create(each->test->name);

		tcase_add_checked_fixture(tcase, contract_setup, contract_teardown);
		tcase_set_timeout(tcase, each->limit_seconds);
		tcase_add_test(tcase, each->test);
		suite_add_tcase(suite, tcase);
		all_seconds += each->limit_seconds;
	}
	/* Without a process for each case Check has no time limits. */
	if (srunner_fork_status(runner) == CK_NOFORK)
		alarm((unsigned)all_seconds);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	/* What a failed case has left in flight would be waited for at exit. */
	if (failed) {
		fflush(NULL);
		_exit(1);
	}
	return 0;
}

int main(void)
{
	const char *base = getenv("TMPDIR");
	char directory[PATH_MAX];
	int status = 0;

	snprintf(directory, sizeof(directory), "%s/trueaio-contract-XXXXXX", base ? base : "/tmp");
	contract_arena = mmap(NULL, CONTRACT_ARENA_BYTES, PROT_NONE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (contract_arena == MAP_FAILED || !mkdtemp(directory) ||
	    setenv("TMPDIR", directory, 1) != 0) {
		perror(directory);
		return 1;
	}
	fflush(NULL);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	contract_suite_process = fork();
	if (contract_suite_process == 0) {
		/* Check passes signals on to the whole group that it is in. */
		setpgid(0, 0);
		prctl(PR_SET_PDEATHSIG, SIGTERM);
		exit(contract_run_suite());
	}
	signal(SIGINT, contract_pass_on);
	signal(SIGTERM, contract_pass_on);
	while (contract_suite_process > 0 && waitpid(contract_suite_process, &status, 0) < 0)
		if (errno != EINTR)
			break;
	contract_end_orphans();
	contract_remove(directory);
	if (WIFSIGNALED(status))
		fprintf(stderr, "%s: killed by signal %d\n", program_invocation_short_name,
			WTERMSIG(status));
	return contract_suite_process > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

#endif
