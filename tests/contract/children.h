/* SPDX-License-Identifier: MIT */
/*
 * A child process that runs part of a test and ends in its own way.  It says one letter at each
 * stage, and keeps away from Check.
 */
#ifndef CHILDREN_H
#define CHILDREN_H

#include "contract.h"

struct child {
	pid_t pid;
	int says[2];
};

static inline void child_start(struct child *child, void (*run)(struct child *, void *),
			       void *argument)
{
	make_pipe(child->says, 0);
	fflush(NULL);
	child->pid = fork();
	ck_assert_int_ge(child->pid, 0);
	if (child->pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(child->says[0]);
		run(child, argument);
		_exit(1);
	}
	close(child->says[1]);
}

static inline void child_says(const struct child *child, char letter)
{
	CHILD_CHECK(write(child->says[1], &letter, 1) == 1);
}

static inline void expect_said(const struct child *child, char letter, const char *what)
{
	struct pollfd look = { .fd = child->says[0], .events = POLLIN };
	char said = 0;

	ck_assert_msg(poll(&look, 1, EVENT_LIMIT_SECONDS * 1000) == 1, "%s: the child is silent",
		      what);
	ck_assert_msg(read(child->says[0], &said, 1) == 1, "%s: the child has ended", what);
	ck_assert_msg(said == letter, "%s: the child says %c", what, said);
}

/* What a child has written; 0 when all who could write are gone. */
static inline ssize_t read_from_child(int reader, void *bytes, size_t room, const char *what)
{
	struct pollfd look = { .fd = reader, .events = POLLIN };

	ck_assert_msg(poll(&look, 1, EVENT_LIMIT_SECONDS * 1000) == 1,
		      "%s: the child neither writes nor ends", what);
	return read(reader, bytes, room);
}

/* A child that does not end is ended. */
static inline void expect_child_exits(struct child *child, int code, const char *what)
{
	long long end_ns = monotonic_ns() + EVENT_LIMIT_SECONDS * 1000000000LL;
	int status = 0;
	pid_t ended;

	while ((ended = waitpid(child->pid, &status, WNOHANG)) == 0) {
		if (monotonic_ns() > end_ns) {
			kill(child->pid, SIGKILL);
			waitpid(child->pid, &status, 0);
			ck_abort_msg("%s: the child does not end", what);
		}
		contract_pause();
	}
	ck_assert_int_eq(ended, child->pid);
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == code,
		      "%s: the child's wait status is 0x%x", what, (unsigned)status);
	close(child->says[0]);
}

/* Where the build has put the programs that tests start. */
static inline const char *beside_test(const char *name)
{
	static char path[PATH_MAX];
	ssize_t length = readlink("/proc/self/exe", path, sizeof(path) / 2);
	char *slash;

	ck_assert_int_gt(length, 0);
	path[length] = '\0';
	slash = strrchr(path, '/');
	snprintf(slash + 1, sizeof(path) / 2, "%s", name);
	return path;
}

/* Runs such a program to its end, which must be a good one, and stores what it has printed. */
static inline void run_program(const char *const arguments[], char *output, size_t room)
{
	size_t length = 0;
	ssize_t got = 1;
	int ends[2], status = 0;
	pid_t program;

	make_pipe(ends, 0);
	program = fork();
	ck_assert_int_ge(program, 0);
	if (program == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(ends[1], STDOUT_FILENO);
		execv(beside_test(arguments[0]), (char *const *)(uintptr_t)arguments);
		_exit(127);
	}
	close(ends[1]);
	while (length < room - 1 && got > 0) {
		got = read(ends[0], output + length, room - 1 - length);
		length += got > 0 ? (size_t)got : 0;
	}
	output[length] = '\0';
	close(ends[0]);
	ck_assert_int_eq(waitpid(program, &status, 0), program);
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0,
		      "%s %s: its wait status is 0x%x; it has said: %s", arguments[0], arguments[1],
		      (unsigned)status, output);
}

#endif
