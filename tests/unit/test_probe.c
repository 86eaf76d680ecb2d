/* SPDX-License-Identifier: MIT */
/*
 * Goal: each cause of a refusal is told from the others that have the same errno, and has a
 * sentence and an advice of its own; asking the system leaves nothing behind in the process.
 *
 * Method: the judgement is a function of an errno and of what the system looks like, so systems are
 * made up: no sysctl has to be changed, and no old kernel booted.  Another case sees to it that
 * every reason is met.  The probes themselves run on the system as it is; tests/cli/doctor.bats
 * refuses them what they ask for.
 */
#include "probe.h"

#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

/* A healthy system of today, without a filter and without privileges. */
static const struct ta_evidence healthy = {
	.major = 6,
	.minor = 12,
	.has_aio = 1,
	.aio_nr = 100,
	.aio_max_nr = 65536,
	.aio_wanted = 1,
	.files_limit = 1024,
	.processes_limit = 31000,
	.files_max = 800000,
	.threads = 300,
	.threads_max = 63000,
	.pids = -1,
	.pids_max = -1,
};

struct verdict {
	const char *name;
	enum ta_probe_subject subject;
	int error;
	/* What differs from the healthy system. */
	void (*change)(struct ta_evidence *evidence);
	enum ta_probe_reason reason;
	const char *sentence; /* all of it */
	const char *advice; /* what it must contain; NULL: there is none */
};

static void nothing(struct ta_evidence *evidence)
{
	(void)evidence;
}

static void filter(struct ta_evidence *evidence)
{
	evidence->seccomp_mode = 2;
}

static void no_proc(struct ta_evidence *evidence)
{
	evidence->seccomp_mode = -1;
	evidence->has_aio = -1;
	evidence->aio_nr = evidence->aio_max_nr = -1;
}

static void used_up(struct ta_evidence *evidence)
{
	evidence->aio_nr = 65536;
}

/* In a container: the filter is there and has nothing to do with it. */
static void used_up_under_filter(struct ta_evidence *evidence)
{
	filter(evidence);
	evidence->aio_nr = 65000;
	evidence->aio_wanted = 1000;
}

static void large_quota_used_up(struct ta_evidence *evidence)
{
	evidence->aio_nr = evidence->aio_max_nr = 2000000;
}

static void no_aio(struct ta_evidence *evidence)
{
	evidence->has_aio = 0;
}

static void no_aio_under_filter(struct ta_evidence *evidence)
{
	filter(evidence);
	evidence->has_aio = 0;
}

static void very_old_kernel(struct ta_evidence *evidence)
{
	evidence->major = 4;
	evidence->minor = 19;
}

static void full_cgroup(struct ta_evidence *evidence)
{
	evidence->pids = evidence->pids_max = 512;
}

static void roomy_cgroup(struct ta_evidence *evidence)
{
	evidence->pids = 511;
	evidence->pids_max = 512;
}

static void full_system(struct ta_evidence *evidence)
{
	evidence->threads = 63000;
}

static void privileged(struct ta_evidence *evidence)
{
	evidence->may_fork = 1;
}

static void privileged_under_filter(struct ta_evidence *evidence)
{
	privileged(evidence);
	filter(evidence);
}

#define AIO TA_PROBE_KERNEL_AIO
#define THREADS TA_PROBE_THREADS
#define TABLE TA_PROBE_TABLE

#define AIO_FILTER_ADVICE "allow io_setup, io_submit"

static const struct verdict verdicts[] = {
	{ "aio works", AIO, 0, nothing, TA_PROBE_WORKS,
	  "works; the system has promised 100 (fs.aio-nr) of 65536 requests (fs.aio-max-nr)",
	  NULL },
	{ "aio works, no /proc", AIO, 0, no_proc, TA_PROBE_WORKS, "works", NULL },
	{ "aio quota", AIO, -EAGAIN, used_up, TA_PROBE_AIO_QUOTA,
	  "used up by the contexts of the whole system: 65536 of fs.aio-max-nr = 65536 (EAGAIN)",
	  "sysctl fs.aio-max-nr=1048576." },
	{ "aio quota, filter", AIO, -EAGAIN, used_up_under_filter, TA_PROBE_AIO_QUOTA,
	  "used up by the contexts of the whole system: 65000 of fs.aio-max-nr = 65536 (EAGAIN)",
	  "fs.aio-max-nr" },
	{ "aio quota, large", AIO, -EAGAIN, large_quota_used_up, TA_PROBE_AIO_QUOTA,
	  "used up by the contexts of the whole system: 2000000 of fs.aio-max-nr = 2000000 "
	  "(EAGAIN)",
	  "fs.aio-max-nr=4000000." },
	{ "aio quota, no /proc", AIO, -EAGAIN, no_proc, TA_PROBE_AIO_QUOTA,
	  "used up by the contexts of the whole system (EAGAIN)", "fs.aio-max-nr=1048576" },
	{ "aio EAGAIN by filter", AIO, -EAGAIN, filter, TA_PROBE_SECCOMP,
	  "refused by a seccomp filter (EAGAIN)", AIO_FILTER_ADVICE },
	{ "aio absent", AIO, -ENOSYS, no_aio, TA_PROBE_NOT_BUILT_IN,
	  "not in this kernel, which was built without CONFIG_AIO (ENOSYS)", "CONFIG_AIO" },
	{ "aio absent, filter", AIO, -ENOSYS, no_aio_under_filter, TA_PROBE_NOT_BUILT_IN,
	  "not in this kernel, which was built without CONFIG_AIO (ENOSYS)", "CONFIG_AIO" },
	{ "aio ENOSYS by filter", AIO, -ENOSYS, filter, TA_PROBE_SECCOMP,
	  "refused by a seccomp filter (ENOSYS)", AIO_FILTER_ADVICE },
	{ "aio EPERM by filter", AIO, -EPERM, filter, TA_PROBE_SECCOMP,
	  "refused by a seccomp filter (EPERM)", "SystemCallFilter=@aio" },
	{ "aio EPERM, no filter", AIO, -EPERM, nothing, TA_PROBE_REFUSED,
	  "refused, by no seccomp filter: by a security module, a tracer or an emulated kernel "
	  "(EPERM)",
	  "denial of io_setup" },
	{ "aio ENOSYS, no /proc", AIO, -ENOSYS, no_proc, TA_PROBE_ABSENT_OR_REFUSED,
	  "not in this kernel or refused by a filter; there is no /proc to tell (ENOSYS)",
	  "/proc" },
	{ "aio memory", AIO, -ENOMEM, nothing, TA_PROBE_NO_MEMORY, "no memory for it (ENOMEM)",
	  "Free memory" },
	{ "aio something", AIO, -EXDEV, nothing, TA_PROBE_OTHER,
	  "fails for a reason that is not known (error 18)", NULL },

	{ "threads work", THREADS, 0, nothing, TA_PROBE_WORKS, "can be started", NULL },
	{ "threads user", THREADS, -EAGAIN, nothing, TA_PROBE_PROCESSES,
	  "the user has as many processes and threads as allowed: RLIMIT_NPROC = 31000 (EAGAIN)",
	  "ulimit -u" },
	{ "threads user, cgroup", THREADS, -EAGAIN, roomy_cgroup, TA_PROBE_PROCESSES,
	  "the user has as many processes and threads as allowed: RLIMIT_NPROC = 31000 (EAGAIN)",
	  "ulimit -u" },
	{ "threads cgroup", THREADS, -EAGAIN, full_cgroup, TA_PROBE_CGROUP_PIDS,
	  "the control group has as many processes and threads as allowed: 512 of pids.max = 512 "
	  "(EAGAIN)",
	  "--pids-limit" },
	{ "threads system", THREADS, -EAGAIN, full_system, TA_PROBE_SYSTEM_THREADS,
	  "the system has as many threads as it may: 63000 of kernel.threads-max = 63000 (EAGAIN)",
	  "sysctl kernel.threads-max" },
	{ "threads privileged", THREADS, -EAGAIN, privileged, TA_PROBE_OTHER,
	  "fails for a reason that is not known (EAGAIN)", NULL },
	{ "threads descriptors", THREADS, -EMFILE, nothing, TA_PROBE_PROCESS_FILES,
	  "this process has no descriptor left for it: RLIMIT_NOFILE = 1024 (EMFILE)",
	  "ulimit -n" },
	{ "threads files", THREADS, -ENFILE, nothing, TA_PROBE_SYSTEM_FILES,
	  "the system has as many files open as it may: fs.file-max = 800000 (ENFILE)",
	  "sysctl fs.file-max" },
	{ "threads filter", THREADS, -EAGAIN, privileged_under_filter, TA_PROBE_SECCOMP,
	  "refused by a seccomp filter (EAGAIN)", "allow clone, clone3" },
	{ "threads EPERM", THREADS, -EPERM, filter, TA_PROBE_SECCOMP,
	  "refused by a seccomp filter (EPERM)", "allow clone, clone3" },

	{ "table works", TABLE, 0, nothing, TA_PROBE_WORKS, "can be had", NULL },
	{ "table old", TABLE, -ENOSYS, very_old_kernel, TA_PROBE_NOT_BUILT_IN,
	  "cannot be had in this kernel, which is older than Linux 5.9 (ENOSYS)",
	  "Use Linux 5.9 or later." },
	{ "table filter", TABLE, -EPERM, filter, TA_PROBE_SECCOMP,
	  "refused by a seccomp filter (EPERM)", "allow close_range, unshare" },
	{ "table ENOSYS by filter", TABLE, -ENOSYS, filter, TA_PROBE_SECCOMP,
	  "refused by a seccomp filter (ENOSYS)", "allow close_range, unshare" },
};

#define VERDICTS ((int)(sizeof(verdicts) / sizeof(verdicts[0])))

static void judge(const struct verdict *verdict, struct ta_probe *probe)
{
	struct ta_evidence evidence = healthy;

	verdict->change(&evidence);
	ta_probe_judge(verdict->subject, verdict->error, &evidence, probe);
}

START_TEST(refusals_are_told_apart)
{
	const struct verdict *verdict = &verdicts[_i];
	char text[TA_PROBE_TEXT_BYTES];
	struct ta_probe probe;

	judge(verdict, &probe);
	ck_assert_msg(probe.reason == verdict->reason, "%s: %s", verdict->name,
		      ta_probe_word(probe.reason));
	ck_assert_int_eq(probe.error, verdict->error);
	ta_probe_sentence(&probe, text, sizeof(text));
	ck_assert_msg(strcmp(text, verdict->sentence) == 0, "%s: \"%s\"", verdict->name, text);
	ta_probe_advice(&probe, text, sizeof(text));
	ck_assert_msg(verdict->advice ? strstr(text, verdict->advice) != NULL : *text == '\0',
		      "%s: \"%s\"", verdict->name, text);
	ck_assert_msg(!*text || text[strlen(text) - 1] == '.', "%s: \"%s\"", verdict->name, text);
}
END_TEST

START_TEST(every_reason_is_met_and_has_a_word_of_its_own)
{
	for (int reason = 0; reason < TA_PROBE_REASONS; reason++) {
		const char *word = ta_probe_word((enum ta_probe_reason)reason);
		int met = 0;

		ck_assert_ptr_nonnull(word);
		for (int other = 0; other < reason; other++)
			ck_assert_str_ne(word, ta_probe_word((enum ta_probe_reason)other));
		for (int i = 0; i < VERDICTS; i++)
			met += verdicts[i].reason == (enum ta_probe_reason)reason;
		ck_assert_msg(met > 0, "no case leads to \"%s\"", word);
	}
}
END_TEST

START_TEST(text_ends_where_its_room_ends)
{
	struct ta_probe probe = { .subject = TA_PROBE_KERNEL_AIO,
				  .reason = TA_PROBE_AIO_QUOTA,
				  .error = -EAGAIN,
				  .used = 65536,
				  .limit = 65536 };
	char text[64], whole[TA_PROBE_TEXT_BYTES];

	ta_probe_sentence(&probe, whole, sizeof(whole));
	ck_assert_uint_gt(strlen(whole), sizeof(text));
	for (size_t bytes = 1; bytes < sizeof(text); bytes++) {
		memset(text, 'x', sizeof(text));
		ta_probe_sentence(&probe, text, bytes);
		ck_assert_uint_eq(strlen(text), bytes - 1);
		ck_assert_int_eq(strncmp(text, whole, bytes - 1), 0);
		ck_assert_int_eq(text[bytes], 'x');
	}
}
END_TEST

/* ---- the system as it is --------------------------------------------------------------------- */

static int entries(const char *directory)
{
	DIR *entry_list = opendir(directory);
	int count = 0;

	ck_assert_ptr_nonnull(entry_list);
	while (readdir(entry_list))
		count++;
	closedir(entry_list);
	return count;
}

/* A thread that was joined may take a moment to leave the kernel's list. */
static int threads_left(int expected)
{
	const struct timespec pause = { 0, 1000000 };
	int count, tries = 0;

	while ((count = entries("/proc/self/task")) > expected && tries++ < 1000)
		nanosleep(&pause, NULL);
	return count;
}

static int mappings(void)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	int count = 0, character;

	ck_assert_ptr_nonnull(maps);
	while ((character = fgetc(maps)) != EOF)
		count += character == '\n';
	fclose(maps);
	return count;
}

static void probe_all(void)
{
	struct ta_evidence evidence;
	struct ta_features features;
	struct ta_probe probe;

	ta_probe_look(&evidence);
	ta_probe_kernel_aio(&evidence, &probe);
	ta_probe_threads(&evidence, &probe);
	ta_probe_table(&evidence, &probe);
	ta_probe_features(&features);
}

START_TEST(probes_leave_nothing_behind)
{
	int descriptors, threads, maps;
	sigset_t before, after;

	pthread_sigmask(SIG_SETMASK, NULL, &before);
	/* The first thread of a process makes the C library map what it keeps. */
	probe_all();
	descriptors = entries("/proc/self/fd");
	/* "." and ".." and this one, and those of a sanitizer. */
	threads = threads_left(3);
	maps = mappings();
	errno = EXDEV;
	probe_all();
	ck_assert_int_eq(errno, EXDEV);
	pthread_sigmask(SIG_SETMASK, NULL, &after);
	for (int number = 1; number < SIGRTMAX; number++)
		ck_assert_int_eq(sigismember(&before, number), sigismember(&after, number));
	ck_assert_int_eq(entries("/proc/self/fd"), descriptors);
	ck_assert_int_eq(threads_left(threads), threads);
	/* Sanitizers map memory as they like. */
#ifndef __SANITIZE_ADDRESS__
#ifndef TA_THREAD_SANITIZER
	ck_assert_int_eq(mappings(), maps);
#endif
#endif
	(void)maps;
}
END_TEST

static void *probe_while_cancelled(void *argument)
{
	_Atomic bool *has_returned = argument;

	pthread_cancel(pthread_self());
	probe_all();
	atomic_store(has_returned, true);
	return NULL;
}

START_TEST(probes_are_no_cancellation_points)
{
	_Atomic bool has_returned = false;
	pthread_t thread;

	ck_assert_int_eq(pthread_create(&thread, NULL, probe_while_cancelled, &has_returned), 0);
	ck_assert_int_eq(pthread_join(thread, NULL), 0);
	ck_assert(atomic_load(&has_returned));
}
END_TEST

/* A number that the system tells under that name. */
static long long told(const char *command)
{
	FILE *output = popen(command, "re");
	long long number = -1;

	ck_assert_ptr_nonnull(output);
	if (fscanf(output, "%lld", &number) != 1)
		number = -1;
	pclose(output);
	return number;
}

START_TEST(evidence_is_what_the_system_tells)
{
	struct rlimit limit = { 77, 78 };
	struct ta_evidence evidence;

	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	ta_probe_look(&evidence);
	ck_assert_int_eq(evidence.files_limit, 77);
	ck_assert_int_eq(evidence.major, told("uname -r | cut -d. -f1"));
	ck_assert_int_eq(evidence.minor, told("uname -r | cut -d. -f2"));
	ck_assert_int_eq(evidence.aio_max_nr, told("cat /proc/sys/fs/aio-max-nr 2>/dev/null"));
	ck_assert_int_eq(evidence.files_max, told("cat /proc/sys/fs/file-max"));
	ck_assert_int_eq(evidence.threads_max, told("cat /proc/sys/kernel/threads-max"));
	ck_assert_int_gt(evidence.threads, 0);
	ck_assert_int_eq(evidence.seccomp_mode,
			 told("awk '/^Seccomp:/ { print $2 }' /proc/thread-self/status"));
	ck_assert_int_eq(evidence.processes_limit == INT64_MAX ? -1 : evidence.processes_limit,
			 told("bash -c 'ulimit -u'"));
}
END_TEST

/* The very trick by which the library finds out what a file can say. */
START_TEST(read_flags_are_answered_or_not_known)
{
	int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	int directory = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	ck_assert_int_ge(file, 0);
	if (ta_syscall(SYS_preadv2, file, 0, 0, 0, 0, 0) == -ENOSYS) {
		fprintf(stderr, "SKIP: %s: there is no preadv2 here\n", tcase_name());
		return;
	}
	ck_assert_int_eq(ta_probe_read_flags(file, 0), 1);
	/* No kernel has given it a meaning. */
	ck_assert_int_eq(ta_probe_read_flags(file, 0x40000000), 0);
	ck_assert_int_eq(ta_probe_read_flags(directory, 0), -1);
	ck_assert_int_eq(ta_probe_read_flags(-1, 0), -1);
	close(file);
	close(directory);
}
END_TEST

static Suite *probe_suite(void)
{
	Suite *suite = suite_create("probe");
	TCase *tcase = tcase_create("judgement");

	tcase_add_loop_test(tcase, refusals_are_told_apart, 0, VERDICTS);
	tcase_add_test(tcase, every_reason_is_met_and_has_a_word_of_its_own);
	tcase_add_test(tcase, text_ends_where_its_room_ends);
	suite_add_tcase(suite, tcase);
	tcase = tcase_create("system");
	tcase_set_timeout(tcase, 30);
	tcase_add_test(tcase, probes_leave_nothing_behind);
	tcase_add_test(tcase, probes_are_no_cancellation_points);
	tcase_add_test(tcase, evidence_is_what_the_system_tells);
	tcase_add_test(tcase, read_flags_are_answered_or_not_known);
	suite_add_tcase(suite, tcase);
	return suite;
}

int main(void)
{
	SRunner *runner = srunner_create(probe_suite());
	int failed;

	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
