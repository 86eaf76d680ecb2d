/* SPDX-License-Identifier: MIT */
/*
 * Trying what the library needs of the system, and judging what came of it.
 *
 * The same errno has many causes.  ENOSYS is a kernel without the call, or a container's filter
 * that plays one; EPERM a filter, a sysctl or a security module; EAGAIN a quota of the system, of
 * the user or of a control group.  What tells them apart lies in /proc: a sysctl that exists proves
 * that the kernel has the call, whatever it answers to this process.  Where /proc is not there, the
 * judgement says that it does not know.
 *
 * No heap, no state, no lock: only the C library's own part of starting a thread may allocate.
 * Everything that a probe makes is gone when it returns; a kernel context takes some 30 ms for
 * that.
 */
#include "probe.h"

#include "libaio.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/utsname.h>

#ifndef RWF_NOWAIT
#define RWF_NOWAIT 0x00000008
#endif
/* Linux 6.14. */
#ifndef RWF_DONTCACHE
#define RWF_DONTCACHE 0x00000080
#endif

#define SECCOMP_FILTER 2
#define CGROUP_PATH_BYTES 512
/* Sanitizers take most of it. */
#define THREAD_STACK_BYTES (1024 * 1024)

/* No file has data here, so a read answers without touching any, access time included. */
#define FAR_OFFSET (INT64_MAX - 65535)

/* ---- evidence -------------------------------------------------------------------------------- */

static int open_to_read(const char *path)
{
	return (int)ta_syscall4(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
}

/*
 * Copies what follows key in the first line that begins with it: its length, -ENOENT if there is no
 * such line, or another negative errno.  Lines may be of any length; text takes what fits.
 */
static int read_line(const char *path, const char *key, char *text, size_t bytes)
{
	char chunk[512];
	size_t key_bytes = strlen(key), column = 0, length = 0;
	bool matches = true, found = false;
	long got = 0;
	int fd = open_to_read(path);

	if (fd < 0)
		return fd;
	while (!found && (got = ta_syscall3(SYS_read, fd, chunk, sizeof(chunk))) > 0) {
		for (long i = 0; i < got && !found; i++) {
			if (chunk[i] == '\n') {
				found = matches && column >= key_bytes;
				column = 0;
				matches = true;
				continue;
			}
			if (column < key_bytes)
				matches = matches && chunk[i] == key[column];
			else if (matches && column - key_bytes < bytes - 1)
				text[length++] = chunk[i];
			column++;
		}
	}
	/* The last line of a file may have no end. */
	if (!found && got == 0 && matches && column > key_bytes)
		found = true;
	ta_syscall1(SYS_close, fd);
	if (!found)
		return got < 0 ? (int)got : -ENOENT;
	text[length] = '\0';
	return (int)length;
}

/* A number, or -1; "max" is INT64_MAX. */
static int64_t read_number(const char *path, const char *key)
{
	char text[64], *start = text, *end;
	long long number;

	if (read_line(path, key, text, sizeof(text)) < 0)
		return -1;
	while (*start == ' ' || *start == '\t')
		start++;
	if (strcmp(start, "max") == 0)
		return INT64_MAX;
	number = strtoll(start, &end, 10);
	return end == start ? -1 : number;
}

static bool exists(const char *path)
{
	return ta_syscall4(SYS_faccessat, AT_FDCWD, path, F_OK, 0) == 0;
}

static const char *status_path(void)
{
	/* A filter is a thread's. */
	return exists("/proc/thread-self/status") ? "/proc/thread-self/status"
						  : "/proc/self/status";
}

static int seccomp_mode(void)
{
	char unused_text[8];

	if (read_line(status_path(), "Pid:", unused_text, sizeof(unused_text)) < 0)
		return -1;
	/* A kernel without seccomp has no such line. */
	int64_t mode = read_number(status_path(), "Seccomp:");
	return mode < 0 ? 0 : (int)mode;
}

static bool has_capability(unsigned capability)
{
	char text[64];

	if (read_line(status_path(), "CapEff:", text, sizeof(text)) < 0)
		return ta_syscall1(SYS_geteuid, 0) == 0;
	return strtoull(text, NULL, 16) >> capability & 1;
}

static int64_t soft_limit(int resource)
{
	uint64_t limit = 0;

	if (ta_resource_limit(resource, &limit) < 0)
		return -1;
	return limit > INT64_MAX ? INT64_MAX : (int64_t)limit;
}

static void look_at_kernel(struct ta_evidence *evidence)
{
	struct utsname name;

	if (ta_syscall1(SYS_uname, &name) == 0)
		sscanf(name.release, "%u.%u", &evidence->major, &evidence->minor);
}

static bool is_older(const struct ta_evidence *evidence, unsigned major, unsigned minor)
{
	return evidence->major < major || (evidence->major == major && evidence->minor < minor);
}

static void look_at_calls(struct ta_evidence *evidence)
{
	bool has_sysctls = exists("/proc/sys/kernel/osrelease");

	evidence->aio_nr = read_number("/proc/sys/fs/aio-nr", "");
	evidence->aio_max_nr = read_number("/proc/sys/fs/aio-max-nr", "");
	evidence->has_aio = evidence->aio_max_nr >= 0 ? 1 : has_sysctls ? 0 : -1;
}

/* The level that is nearest to its limit, of those from this group up to the root. */
static void look_at_cgroup(struct ta_evidence *evidence, const char *mount, char *group)
{
	char path[CGROUP_PATH_BYTES + 64];
	char *slash;

	for (;;) {
		snprintf(path, sizeof(path), "%s%s/pids.max", mount, group);
		int64_t limit = read_number(path, "");
		snprintf(path, sizeof(path), "%s%s/pids.current", mount, group);
		int64_t used = read_number(path, "");

		if (limit >= 0 && limit != INT64_MAX && used >= 0 &&
		    (evidence->pids_max < 0 ||
		     limit - used < evidence->pids_max - evidence->pids)) {
			evidence->pids = used;
			evidence->pids_max = limit;
		}
		slash = strrchr(group, '/');
		if (!slash)
			return;
		*slash = '\0';
	}
}

static void look_at_cgroups(struct ta_evidence *evidence)
{
	char line[CGROUP_PATH_BYTES], key[32];
	int number;

	if (read_line("/proc/self/cgroup", "0::", line, sizeof(line)) > 0)
		look_at_cgroup(evidence, "/sys/fs/cgroup", line);
	/* The first version of control groups has hierarchies with numbers. */
	for (number = 1; number < 32; number++) {
		snprintf(key, sizeof(key), "%d:pids:", number);
		if (read_line("/proc/self/cgroup", key, line, sizeof(line)) > 0)
			look_at_cgroup(evidence, "/sys/fs/cgroup/pids", line);
	}
}

static void look_at_limits(struct ta_evidence *evidence)
{
	char load[64], *slash;

	evidence->files_limit = soft_limit(RLIMIT_NOFILE);
	evidence->processes_limit = soft_limit(RLIMIT_NPROC);
	evidence->may_fork = has_capability(CAP_SYS_ADMIN) || has_capability(CAP_SYS_RESOURCE);
	evidence->files_max = read_number("/proc/sys/fs/file-max", "");
	evidence->threads_max = read_number("/proc/sys/kernel/threads-max", "");
	/* "0.00 0.01 0.05 1/123 4567": of 123 threads one runs. */
	if (read_line("/proc/loadavg", "", load, sizeof(load)) > 0 && (slash = strchr(load, '/')))
		evidence->threads = strtoll(slash + 1, NULL, 10);
}

void ta_probe_look(struct ta_evidence *evidence)
{
	*evidence = (struct ta_evidence){
		.aio_wanted = 1, .has_aio = -1, .threads = -1, .pids = -1, .pids_max = -1
	};
	evidence->seccomp_mode = seccomp_mode();
	look_at_kernel(evidence);
	look_at_calls(evidence);
	look_at_limits(evidence);
	look_at_cgroups(evidence);
}

/* ---- judgement ------------------------------------------------------------------------------- */

/* Something says no to a call that the kernel has. */
static enum ta_probe_reason who_refuses(const struct ta_evidence *evidence)
{
	if (evidence->seccomp_mode < 0)
		return TA_PROBE_ABSENT_OR_REFUSED;
	return evidence->seccomp_mode == SECCOMP_FILTER ? TA_PROBE_SECCOMP : TA_PROBE_REFUSED;
}

/* has_call: 1, 0, or -1: nothing but the answer itself tells. */
static enum ta_probe_reason judge_absence(int has_call, const struct ta_evidence *evidence)
{
	if (has_call == 0)
		return TA_PROBE_NOT_BUILT_IN;
	if (has_call < 0 && evidence->seccomp_mode == 0)
		return TA_PROBE_NOT_BUILT_IN;
	return who_refuses(evidence);
}

static enum ta_probe_reason judge_thread_limits(const struct ta_evidence *evidence,
						struct ta_probe *probe)
{
	if (evidence->pids_max >= 0 && evidence->pids >= evidence->pids_max) {
		probe->used = evidence->pids;
		probe->limit = evidence->pids_max;
		return TA_PROBE_CGROUP_PIDS;
	}
	if (evidence->threads_max >= 0 && evidence->threads >= evidence->threads_max) {
		probe->used = evidence->threads;
		probe->limit = evidence->threads_max;
		return TA_PROBE_SYSTEM_THREADS;
	}
	if (!evidence->may_fork && evidence->processes_limit >= 0 &&
	    evidence->processes_limit != INT64_MAX) {
		probe->limit = evidence->processes_limit;
		return TA_PROBE_PROCESSES;
	}
	return evidence->seccomp_mode == SECCOMP_FILTER ? TA_PROBE_SECCOMP : TA_PROBE_OTHER;
}

/* Where the quota has room for what was asked, a filter answers. */
static enum ta_probe_reason judge_quota(const struct ta_evidence *evidence, struct ta_probe *probe)
{
	if (evidence->seccomp_mode == SECCOMP_FILTER && evidence->aio_nr >= 0 &&
	    evidence->aio_nr + evidence->aio_wanted <= evidence->aio_max_nr)
		return TA_PROBE_SECCOMP;
	return probe->subject == TA_PROBE_KERNEL_AIO ? TA_PROBE_AIO_QUOTA : TA_PROBE_OTHER;
}

static int has_call(enum ta_probe_subject subject, const struct ta_evidence *evidence)
{
	switch (subject) {
	case TA_PROBE_KERNEL_AIO:
		return evidence->has_aio;
	case TA_PROBE_THREADS:
		return 1;
	default:
		return is_older(evidence, 5, 9) ? 0 : 1;
	}
}

static enum ta_probe_reason judge_error(const struct ta_evidence *evidence, struct ta_probe *probe)
{
	switch (probe->error) {
	case 0:
		return TA_PROBE_WORKS;
	case -EPERM:
	case -EACCES:
		return who_refuses(evidence);
	case -ENOSYS:
		return judge_absence(has_call(probe->subject, evidence), evidence);
	case -EAGAIN:
		return probe->subject == TA_PROBE_THREADS ? judge_thread_limits(evidence, probe)
							  : judge_quota(evidence, probe);
	case -ENOMEM:
		return TA_PROBE_NO_MEMORY;
	case -EMFILE:
		probe->limit = evidence->files_limit;
		return TA_PROBE_PROCESS_FILES;
	case -ENFILE:
		probe->limit = evidence->files_max;
		return TA_PROBE_SYSTEM_FILES;
	default:
		return TA_PROBE_OTHER;
	}
}

void ta_probe_judge(enum ta_probe_subject subject, int error, const struct ta_evidence *evidence,
		    struct ta_probe *probe)
{
	*probe = (struct ta_probe){ .subject = subject, .error = error, .used = -1, .limit = -1 };
	if (subject == TA_PROBE_KERNEL_AIO) {
		probe->used = evidence->aio_nr;
		probe->limit = evidence->aio_max_nr;
	}
	probe->reason = judge_error(evidence, probe);
}

/* ---- trials ---------------------------------------------------------------------------------- */

/*
 * To its end, in a thread on a stack of our own: the C library would keep the one that it makes.
 * With signals blocked, as all threads of the library run; and the caller cannot be cancelled
 * meanwhile, as in no function of the library.
 */
static int run_thread(void *(*function)(void *), void *argument)
{
	int saved_errno = errno, error, cancel_state;
	void *stack = mmap(NULL, THREAD_STACK_BYTES, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	pthread_attr_t attributes;
	sigset_t all, before;
	pthread_t thread;

	if (stack == MAP_FAILED) {
		errno = saved_errno;
		return -ENOMEM;
	}
	pthread_attr_init(&attributes);
	sigfillset(&all);
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_state);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_attr_setstack(&attributes, stack, THREAD_STACK_BYTES);
	if (error == 0)
		error = pthread_create(&thread, &attributes, function, argument);
	/* Thread-local storage does not fit: the default size serves. */
	if (error == EINVAL)
		error = pthread_create(&thread, NULL, function, argument);
	if (error == 0)
		pthread_join(thread, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_setcancelstate(cancel_state, NULL);
	pthread_attr_destroy(&attributes);
	munmap(stack, THREAD_STACK_BYTES);
	errno = saved_errno;
	return -error;
}

void ta_probe_kernel_aio(const struct ta_evidence *evidence, struct ta_probe *probe)
{
	unsigned long handle = 0;
	long result = ta_syscall2(SYS_io_setup, 1, &handle);

	if (result == 0)
		ta_syscall1(SYS_io_destroy, handle);
	ta_probe_judge(TA_PROBE_KERNEL_AIO, (int)result, evidence, probe);
}

struct thread_trial {
	int close_range; /* 0 or a negative errno */
	int unshare;
};

/* No descriptor is closed: there is none of this number. */
static void *try_tables(void *argument)
{
	struct thread_trial *trial = argument;

	trial->close_range =
		(int)ta_syscall3(SYS_close_range, UINT_MAX, UINT_MAX, CLOSE_RANGE_UNSHARE);
	trial->unshare = (int)ta_syscall1(SYS_unshare, CLONE_FILES);
	return NULL;
}

/* Files reach another table through a pair of sockets. */
static int try_sockets(void)
{
	int ends[2];
	long result = ta_syscall4(SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends);

	if (result < 0)
		return (int)result;
	ta_syscall1(SYS_close, ends[0]);
	ta_syscall1(SYS_close, ends[1]);
	return 0;
}

static int try_table(const struct thread_trial *trial)
{
	return trial->close_range == 0 || trial->unshare == 0 ? try_sockets() : trial->unshare;
}

/* Workers wait for pipes and sockets by an epoll descriptor: in the program's table if need be. */
static int try_epoll(void)
{
	long fd = ta_syscall1(SYS_epoll_create1, EPOLL_CLOEXEC);

	/* Where it is refused they do without. */
	if (fd < 0)
		return ta_call_is_refused(fd) ? 0 : (int)fd;
	ta_syscall1(SYS_close, fd);
	return 0;
}

void ta_probe_threads(const struct ta_evidence *evidence, struct ta_probe *probe)
{
	struct thread_trial trial;
	int error = run_thread(try_tables, &trial);

	if (error == 0 && try_table(&trial) < 0)
		error = try_epoll();
	ta_probe_judge(TA_PROBE_THREADS, error, evidence, probe);
}

void ta_probe_table(const struct ta_evidence *evidence, struct ta_probe *probe)
{
	struct thread_trial trial;
	int error = run_thread(try_tables, &trial);

	/* Where there can be no thread, that is what is to be mended. */
	if (error < 0)
		ta_probe_judge(TA_PROBE_THREADS, error, evidence, probe);
	else
		ta_probe_judge(TA_PROBE_TABLE, try_table(&trial), evidence, probe);
}

/* ---- features -------------------------------------------------------------------------------- */

/* What a filter refuses is not there either; but where nobody could be asked, nothing is known. */
static int is_there(long result)
{
	return !ta_call_is_refused(result);
}

int ta_probe_read_flags(int fd, int flags)
{
	char unused_byte;
	struct iovec vector = { &unused_byte, 1 };
	long low = (long)FAR_OFFSET, high = (long)((uint64_t)FAR_OFFSET >> 32);
	long result;

	if (sizeof(long) == 8)
		high = 0;
	result = ta_syscall(SYS_preadv2, fd, (long)&vector, 1, low, high, flags);
	if (result == -EBADF || result == -EISDIR)
		return -1;
	return result != -EOPNOTSUPP && is_there(result);
}

static void feature_read_flags(struct ta_features *features)
{
	int fd = open_to_read("/proc/self/exe");

	if (fd < 0)
		return;
	features->rwf_nowait = ta_probe_read_flags(fd, RWF_NOWAIT);
	features->rwf_dontcache = ta_probe_read_flags(fd, RWF_DONTCACHE);
	ta_syscall1(SYS_close, fd);
}

/* An eventfd that is readable: the poll ends at once. */
static int try_poll(unsigned long handle)
{
	long fd = ta_syscall2(SYS_eventfd2, 1, EFD_CLOEXEC | EFD_NONBLOCK);
	struct iocb poll, *list[1] = { &poll };
	long result;

	if (fd < 0)
		return -1;
	io_prep_poll(&poll, (int)fd, 1 /* POLLIN */);
	result = ta_syscall3(SYS_io_submit, handle, 1, list);
	ta_syscall1(SYS_close, fd);
	return result == 1;
}

static void feature_kernel_aio(struct ta_features *features)
{
	const struct timespec zero = { 0, 0 };
	unsigned long handle = 0;
	struct io_event event;
	bool made = ta_syscall2(SYS_io_setup, 1, &handle) == 0;

	/* Without a context, the handle 0 is refused with EINVAL. */
	features->io_pgetevents = is_there(
		ta_syscall(SYS_io_pgetevents, (long)handle, 0, 1, (long)&event, (long)&zero, 0));
	if (!made)
		return;
	features->io_cmd_poll = try_poll(handle);
	ta_syscall1(SYS_io_destroy, handle);
}

void ta_probe_features(struct ta_features *features)
{
	struct thread_trial trial;

	*features = (struct ta_features){ -1, -1, -1, -1, -1, -1 };
	feature_read_flags(features);
	feature_kernel_aio(features);
	if (run_thread(try_tables, &trial) == 0) {
		features->close_range_unshare = trial.close_range == 0;
		features->unshare_files = trial.unshare == 0;
	}
}
