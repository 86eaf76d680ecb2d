/* SPDX-License-Identifier: MIT */
/*
 * without SYSCALL[/ARGUMENT=VALUE]:ERRNO... -- COMMAND [ARGUMENT...]
 *
 * Starts a command under a seccomp filter, as a container would, that answers the named system
 * calls with an error: "without io_setup:ENOSYS clone:EPERM -- program".  With an
 * argument, counted from 0, only the calls in which it has that value are answered so: an older
 * kernel can be played by "preadv2/5=128:EOPNOTSUPP".
 *
 * Exit status: the command's; 125 if the filter could not be made, 127 if the command could not be
 * started.
 */
#include <errno.h>
#include <seccomp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ERRNO_MAX 4095
#define NOT_TRIED 125
#define NOT_STARTED 127

static void fail(const char *what, const char *why)
{
	fprintf(stderr, "without: %s: %s\n", what, why);
	exit(NOT_TRIED);
}

/* "EPERM" is 1; 0: there is no such error. */
static unsigned errno_of(const char *name)
{
	for (int error = 1; error <= ERRNO_MAX; error++) {
		const char *known = strerrorname_np(error);

		if (known && strcmp(known, name) == 0)
			return (unsigned)error;
	}
	return 0;
}

static struct scmp_arg_cmp condition_of(const char *text, const char *rule)
{
	char *end;
	unsigned long argument = strtoul(text, &end, 0);

	if (end == text || *end != '=' || argument > 5)
		fail(rule, "after the slash stands ARGUMENT=VALUE, the argument from 0 to 5");
	text = end + 1;
	unsigned long long value = strtoull(text, &end, 0);
	if (end == text || *end)
		fail(rule, "the argument's value is no number");
	return (struct scmp_arg_cmp){
		.arg = (unsigned)argument, .op = SCMP_CMP_EQ, .datum_a = value, .datum_b = 0
	};
}

static void add_rule(scmp_filter_ctx filter, const char *rule)
{
	char *name = strdup(rule);
	char *error_name = name ? strrchr(name, ':') : NULL;
	char *condition;
	unsigned error;
	int number, result;

	if (!error_name)
		fail(rule, "a rule is SYSCALL[/ARGUMENT=VALUE]:ERRNO");
	*error_name++ = '\0';
	error = errno_of(error_name);
	if (error == 0)
		fail(rule, "no such error");
	condition = strchr(name, '/');
	if (condition)
		*condition++ = '\0';
	number = seccomp_syscall_resolve_name(name);
	if (number == __NR_SCMP_ERROR)
		fail(rule, "no such system call");
	if (condition)
		result = seccomp_rule_add(filter, SCMP_ACT_ERRNO(error), number, 1,
					  condition_of(condition, rule));
	else
		result = seccomp_rule_add(filter, SCMP_ACT_ERRNO(error), number, 0);
	if (result < 0)
		fail(rule, strerror(-result));
	free(name);
}

int main(int argc, char **argv)
{
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
	int i, result;

	if (!filter)
		fail("seccomp_init", "failed");
	for (i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
		add_rule(filter, argv[i]);
	if (i == 1 || i + 1 >= argc)
		fail("usage", "without SYSCALL[/ARGUMENT=VALUE]:ERRNO... -- COMMAND [ARGUMENT...]");
	result = seccomp_load(filter);
	if (result < 0)
		fail("seccomp_load", strerror(-result));
	seccomp_release(filter);
	execvp(argv[i + 1], argv + i + 1);
	fprintf(stderr, "without: %s: %s\n", argv[i + 1], strerror(errno));
	return NOT_STARTED;
}
