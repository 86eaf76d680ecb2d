/* SPDX-License-Identifier: MIT */
/*
 * What a probe found, in words: for programs, for people, and what can be done about it.
 *
 * The words for programs are documented in trueaio(1).
 */
#include "probe.h"

#include <stdarg.h>
#include <stdio.h>

const char *ta_probe_word(enum ta_probe_reason reason)
{
	static const char *const words[TA_PROBE_REASONS] = {
		[TA_PROBE_WORKS] = "works",
		[TA_PROBE_AIO_QUOTA] = "quota",
		[TA_PROBE_NOT_BUILT_IN] = "not-built-in",
		[TA_PROBE_SECCOMP] = "seccomp",
		[TA_PROBE_REFUSED] = "refused",
		[TA_PROBE_ABSENT_OR_REFUSED] = "absent-or-refused",
		[TA_PROBE_NO_MEMORY] = "no-memory",
		[TA_PROBE_PROCESS_FILES] = "process-files",
		[TA_PROBE_SYSTEM_FILES] = "system-files",
		[TA_PROBE_PROCESSES] = "process-limit",
		[TA_PROBE_CGROUP_PIDS] = "cgroup-pids",
		[TA_PROBE_SYSTEM_THREADS] = "system-threads",
		[TA_PROBE_OTHER] = "other",
	};

	return words[reason];
}

/* The C library's strerrorname_np would make the library need a newer one. */
const char *ta_probe_error_name(int error)
{
	static const struct {
		int error;
		const char *name;
	} names[] = {
		{ -EPERM, "EPERM" },   { -EACCES, "EACCES" }, { -ENOSYS, "ENOSYS" },
		{ -EAGAIN, "EAGAIN" }, { -ENOMEM, "ENOMEM" }, { -EMFILE, "EMFILE" },
		{ -ENFILE, "ENFILE" }, { -EINVAL, "EINVAL" }, { -EFAULT, "EFAULT" },
		{ -ENXIO, "ENXIO" },   { -EBUSY, "EBUSY" },   { -EINTR, "EINTR" },
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (names[i].error == error)
			return names[i].name;
	return NULL;
}

/* Text that grows, and is cut off where its room ends. */
struct text {
	char *start;
	size_t bytes;
	size_t length;
};

static void add(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void add(struct text *text, const char *format, ...)
{
	va_list arguments;
	int added;

	va_start(arguments, format);
	added = vsnprintf(text->start + text->length, text->bytes - text->length, format,
			  arguments);
	va_end(arguments);
	if (added > 0)
		text->length += (size_t)added < text->bytes - text->length
					? (size_t)added
					: text->bytes - text->length - 1;
}

static void add_error(struct text *text, int error)
{
	const char *name = ta_probe_error_name(error);

	if (error == 0)
		return;
	if (name)
		add(text, " (%s)", name);
	else
		add(text, " (error %d)", -error);
}

/* Numbers that are not known leave no trace; they are what a reader may miss. */
static void add_numbers(struct text *text, const struct ta_probe *probe, const char *of)
{
	if (probe->used >= 0 && probe->limit >= 0)
		add(text, ": %lld of %s = %lld", (long long)probe->used, of,
		    (long long)probe->limit);
	else if (probe->limit >= 0)
		add(text, ": %s = %lld", of, (long long)probe->limit);
}

static void add_what_works(struct text *text, const struct ta_probe *probe)
{
	switch (probe->subject) {
	case TA_PROBE_KERNEL_AIO:
		add(text, "works");
		if (probe->used >= 0 && probe->limit >= 0)
			add(text,
			    "; the system has promised %lld (fs.aio-nr) of %lld requests "
			    "(fs.aio-max-nr)",
			    (long long)probe->used, (long long)probe->limit);
		break;
	case TA_PROBE_THREADS:
		add(text, "can be started");
		break;
	case TA_PROBE_TABLE:
		add(text, "can be had");
		break;
	}
}

static void add_not_built_in(struct text *text, const struct ta_probe *probe)
{
	static const char *const options[] = {
		[TA_PROBE_KERNEL_AIO] = "not in this kernel, which was built without CONFIG_AIO",
		[TA_PROBE_THREADS] = "not in this kernel",
		[TA_PROBE_TABLE] = "cannot be had in this kernel, which is older than Linux 5.9",
	};

	add(text, "%s", options[probe->subject]);
}

static void add_limit(struct text *text, const struct ta_probe *probe)
{
	switch (probe->reason) {
	case TA_PROBE_AIO_QUOTA:
		add(text, "used up by the contexts of the whole system");
		add_numbers(text, probe, "fs.aio-max-nr");
		break;
	case TA_PROBE_PROCESS_FILES:
		add(text, "this process has no descriptor left for it");
		add_numbers(text, probe, "RLIMIT_NOFILE");
		break;
	case TA_PROBE_SYSTEM_FILES:
		add(text, "the system has as many files open as it may");
		add_numbers(text, probe, "fs.file-max");
		break;
	case TA_PROBE_PROCESSES:
		add(text, "the user has as many processes and threads as allowed");
		add_numbers(text, probe, "RLIMIT_NPROC");
		break;
	case TA_PROBE_CGROUP_PIDS:
		add(text, "the control group has as many processes and threads as allowed");
		add_numbers(text, probe, "pids.max");
		break;
	default:
		add(text, "the system has as many threads as it may");
		add_numbers(text, probe, "kernel.threads-max");
		break;
	}
}

void ta_probe_sentence(const struct ta_probe *probe, char *bytes, size_t size)
{
	struct text text = { bytes, size, 0 };

	switch (probe->reason) {
	case TA_PROBE_WORKS:
		add_what_works(&text, probe);
		break;
	case TA_PROBE_NOT_BUILT_IN:
		add_not_built_in(&text, probe);
		break;
	case TA_PROBE_SECCOMP:
		add(&text, "refused by a seccomp filter");
		break;
	case TA_PROBE_REFUSED:
		add(&text, "refused, by no seccomp filter: by a security module, a tracer or an "
			   "emulated kernel");
		break;
	case TA_PROBE_ABSENT_OR_REFUSED:
		add(&text, "not in this kernel or refused by a filter; there is no /proc to tell");
		break;
	case TA_PROBE_NO_MEMORY:
		add(&text, "no memory for it");
		break;
	case TA_PROBE_OTHER:
	case TA_PROBE_REASONS:
		add(&text, "fails for a reason that is not known");
		break;
	default:
		add_limit(&text, probe);
		break;
	}
	add_error(&text, probe->error);
}

/* What a filter has to let through. */
static const char *calls_of(enum ta_probe_subject subject)
{
	static const char *const calls[] = {
		[TA_PROBE_KERNEL_AIO] =
			"io_setup, io_submit, io_getevents, io_pgetevents, io_cancel, io_destroy",
		[TA_PROBE_THREADS] = "clone, clone3",
		[TA_PROBE_TABLE] = "close_range, unshare, socketpair",
	};

	return calls[subject];
}

static void advise_on_filter(struct text *text, const struct ta_probe *probe)
{
	bool is_aio = probe->subject == TA_PROBE_KERNEL_AIO;

	add(text,
	    "Let the seccomp filter allow %s: a profile for docker run --security-opt "
	    "seccomp=PROFILE.json%s.",
	    calls_of(probe->subject), is_aio ? ", SystemCallFilter=@aio in a systemd unit" : "");
}

static void advise_on_absence(struct text *text, const struct ta_probe *probe)
{
	static const char *const advice[] = {
		[TA_PROBE_KERNEL_AIO] = "Use a kernel that was built with CONFIG_AIO.",
		[TA_PROBE_THREADS] = "",
		[TA_PROBE_TABLE] = "Use Linux 5.9 or later.",
	};

	add(text, "%s", advice[probe->subject]);
}

#define AIO_MAX_NR_ENOUGH 1048576

void ta_probe_advice(const struct ta_probe *probe, char *bytes, size_t size)
{
	struct text text = { bytes, size, 0 };
	int64_t quota = probe->limit < AIO_MAX_NR_ENOUGH ? AIO_MAX_NR_ENOUGH : probe->limit * 2;

	bytes[0] = '\0';
	switch (probe->reason) {
	case TA_PROBE_AIO_QUOTA:
		add(&text, "Raise the quota: sysctl fs.aio-max-nr=%lld.", (long long)quota);
		break;
	case TA_PROBE_SECCOMP:
		advise_on_filter(&text, probe);
		break;
	case TA_PROBE_NOT_BUILT_IN:
		advise_on_absence(&text, probe);
		break;
	case TA_PROBE_REFUSED:
		add(&text,
		    "Look for a denial of %s in the system's log (journalctl -k, ausearch -m avc).",
		    calls_of(probe->subject));
		break;
	case TA_PROBE_ABSENT_OR_REFUSED:
		add(&text, "Mount /proc, and ask again.");
		break;
	case TA_PROBE_NO_MEMORY:
		add(&text, "Free memory, or raise the limit on it (ulimit -v, memory.max of the "
			   "control group).");
		break;
	case TA_PROBE_PROCESS_FILES:
		add(&text, "Raise the limit: ulimit -n, LimitNOFILE= in a systemd unit.");
		break;
	case TA_PROBE_SYSTEM_FILES:
		add(&text, "Raise the limit: sysctl fs.file-max.");
		break;
	case TA_PROBE_PROCESSES:
		add(&text, "Raise the limit: ulimit -u, LimitNPROC= in a systemd unit.");
		break;
	case TA_PROBE_CGROUP_PIDS:
		add(&text,
		    "Raise the limit: TasksMax= in a systemd unit, docker run --pids-limit.");
		break;
	case TA_PROBE_SYSTEM_THREADS:
		add(&text, "Raise the limit: sysctl kernel.threads-max.");
		break;
	case TA_PROBE_WORKS:
	case TA_PROBE_OTHER:
	case TA_PROBE_REASONS:
		break;
	}
}
