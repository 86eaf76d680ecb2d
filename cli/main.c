/* SPDX-License-Identifier: MIT */
/*
 * trueaio: the command beside the library.
 *
 * This file knows the commands by name and nothing about what they do.
 */
#include "cli.h"

#include <stdio.h>
#include <string.h>

struct command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *usage;
};

static const struct command commands[] = {
	{ "run", run_main, run_usage },
	{ "cp", cp_main, cp_usage },
	{ "doctor", doctor_main, doctor_usage },
};

static const char usage[] =
	"Usage: trueaio COMMAND [ARGUMENT...]\n"
	"\n"
	"Commands:\n"
	"  run     start a program on trueaio's libaio.so.1\n"
	"  cp      copy files with many requests in flight, synchronized and atomically\n"
	"  doctor  say what the library can do on this system, and what would help\n"
	"  help    explain a command: trueaio help run\n"
	"\n"
	"Options:\n"
	"  -h, --help     print this text\n"
	"  -V, --version  print the version\n"
	"\n"
	"trueaio(1) says more.\n";

/* What was asked for is the output, so that losing it (a full disk behind stdout) is a failure. */
static int finish_output(void)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return 0;
	report_error(0, "cannot write to standard output");
	return STATUS_FAILURE;
}

int print_version(void)
{
	puts("trueaio " TRUEAIO_VERSION);
	return finish_output();
}

int print_help(const char *text)
{
	fputs(text, stdout);
	return finish_output();
}

static const struct command *find_command(const char *name)
{
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	}
	return NULL;
}

static int unknown_command(const char *name)
{
	report_error(0, "no command \"%s\"; try: trueaio --help", name);
	return STATUS_USAGE;
}

static int help_main(int argc, char **argv)
{
	if (argc < 2)
		return print_help(usage);
	const struct command *command = find_command(argv[1]);
	return command ? print_help(command->usage) : unknown_command(argv[1]);
}

int main(int argc, char **argv)
{
	if (argc < 2) {
		fputs(usage, stderr);
		return STATUS_USAGE;
	}

	const char *name = argv[1];
	if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
		return print_help(usage);
	if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0)
		return print_version();
	if (strcmp(name, "help") == 0)
		return help_main(argc - 1, argv + 1);

	const struct command *command = find_command(name);
	if (!command)
		return unknown_command(name);
	report_as(command->name);
	/* getopt_long begins its messages with this. */
	char full_name[32];
	snprintf(full_name, sizeof(full_name), "trueaio %s", command->name);
	argv[1] = full_name;
	return command->run(argc - 1, argv + 1);
}
