/* SPDX-License-Identifier: MIT */
/*
 * used_up COMMAND [ARGUMENTS]: runs a command while nobody on the machine can have another context
 * of kernel AIO, because this process holds all that fs.aio-max-nr allows.  Exits as the command
 * does.  Nothing else that needs kernel AIO should run meanwhile.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static unsigned long read_number(const char *path)
{
	FILE *file = fopen(path, "re");
	unsigned long number;

	if (!file || fscanf(file, "%lu", &number) != 1) {
		fprintf(stderr, "used_up: %s: %s\n", path, strerror(errno));
		exit(125);
	}
	fclose(file);
	return number;
}

/* In ever smaller pieces, because others may take or give back some at the same time. */
static void use_up(void)
{
	unsigned long piece = read_number("/proc/sys/fs/aio-max-nr");
	unsigned long context;

	while (piece > 0) {
		context = 0;
		if (syscall(SYS_io_setup, piece, &context) < 0)
			piece /= 2;
	}
	if (errno != EAGAIN) {
		fprintf(stderr, "used_up: io_setup: %s\n", strerror(errno));
		exit(125);
	}
}

int main(int argc, char **argv)
{
	pid_t child;
	int status;

	if (argc < 2) {
		fprintf(stderr, "usage: used_up COMMAND [ARGUMENTS]\n");
		return 125;
	}
	use_up();
	child = fork();
	if (child == 0) {
		execvp(argv[1], argv + 1);
		fprintf(stderr, "used_up: %s: %s\n", argv[1], strerror(errno));
		_exit(127);
	}
	if (child < 0 || waitpid(child, &status, 0) != child) {
		fprintf(stderr, "used_up: %s\n", strerror(errno));
		return 125;
	}
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
