/* SPDX-License-Identifier: MIT */
/*
 * What this system allows, and why not where it does not.
 *
 * A *probe* tries one thing the way the library would, and undoes it.  What came of it, an errno,
 * rarely says why: so the system is looked at, too (the *evidence*), and both together are judged.
 * The three are apart because the library asks for a judgement after a failure of its own, and
 * because evidence can be made up to test the judgement.
 *
 * Nothing here depends on the library's state: the command `trueaio doctor` contains a copy.
 */
#ifndef TA_PROBE_H
#define TA_PROBE_H

#include "sys.h"

#include <stddef.h>

enum ta_probe_subject {
	TA_PROBE_KERNEL_AIO,
	TA_PROBE_THREADS,
	TA_PROBE_TABLE, /* a thread with a descriptor table of its own */
};

enum ta_probe_reason {
	TA_PROBE_WORKS,
	TA_PROBE_AIO_QUOTA, /* fs.aio-max-nr */
	TA_PROBE_NOT_BUILT_IN,
	TA_PROBE_SECCOMP,
	TA_PROBE_REFUSED, /* by something else: a security module, a tracer, an emulated kernel */
	TA_PROBE_ABSENT_OR_REFUSED, /* one of these three, and no /proc to tell which */
	TA_PROBE_NO_MEMORY,
	TA_PROBE_PROCESS_FILES, /* RLIMIT_NOFILE */
	TA_PROBE_SYSTEM_FILES, /* fs.file-max */
	TA_PROBE_PROCESSES, /* RLIMIT_NPROC */
	TA_PROBE_CGROUP_PIDS, /* pids.max of the control group */
	TA_PROBE_SYSTEM_THREADS, /* kernel.threads-max */
	TA_PROBE_OTHER, /* only the errno is known */
	TA_PROBE_REASONS,
};

/* What was found; -1 is "not known" in all numbers. */
struct ta_probe {
	enum ta_probe_subject subject;
	enum ta_probe_reason reason;
	int error; /* negative errno of the trial, 0 if it went well */
	int64_t used; /* of the limit that the reason is about */
	int64_t limit;
};

struct ta_evidence {
	unsigned major, minor; /* of the kernel's release */
	int seccomp_mode; /* of this thread: 0 none, 2 a filter */
	int has_aio; /* 1: built in, 0: not */
	int64_t aio_nr, aio_max_nr;
	int64_t aio_wanted; /* requests that the context was to have: 1, if nobody says else */
	int64_t files_limit, processes_limit; /* INT64_MAX: none */
	int may_fork; /* a privilege that lifts the latter */
	int64_t files_max; /* fs.file-max */
	int64_t threads, threads_max; /* of the system */
	int64_t pids, pids_max; /* of the fullest control group around this process */
};

/* What the kernel can also do: 1, 0, or -1 where it could not be asked. */
struct ta_features {
	int rwf_nowait, rwf_dontcache; /* for reads of the program's own file */
	int io_pgetevents, io_cmd_poll;
	int close_range_unshare, unshare_files;
};

TA_HIDDEN void ta_probe_look(struct ta_evidence *evidence);
TA_HIDDEN void ta_probe_judge(enum ta_probe_subject subject, int error,
			      const struct ta_evidence *evidence, struct ta_probe *probe);

/* Each looks, tries and judges; all is as before when it returns. */
TA_HIDDEN void ta_probe_kernel_aio(const struct ta_evidence *evidence, struct ta_probe *probe);
TA_HIDDEN void ta_probe_threads(const struct ta_evidence *evidence, struct ta_probe *probe);
TA_HIDDEN void ta_probe_table(const struct ta_evidence *evidence, struct ta_probe *probe);
TA_HIDDEN void ta_probe_features(struct ta_features *features);

/* May a read of the file with these RWF_* flags be sent?  1, 0, or -1: could not be asked. */
TA_HIDDEN int ta_probe_read_flags(int fd, int flags);

/* The reason as a word, for programs. */
TA_HIDDEN const char *ta_probe_word(enum ta_probe_reason reason);
/* "EPERM" of -EPERM; NULL for one that no probe is known to meet. */
TA_HIDDEN const char *ta_probe_error_name(int error);

#define TA_PROBE_TEXT_BYTES 512

/* A sentence without its full stop, to stand behind "kernel AIO: ". */
TA_HIDDEN void ta_probe_sentence(const struct ta_probe *probe, char *text, size_t bytes);
/* What to do about it, a whole sentence; empty if there is nothing to do. */
TA_HIDDEN void ta_probe_advice(const struct ta_probe *probe, char *text, size_t bytes);

#endif
