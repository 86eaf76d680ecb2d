/* SPDX-License-Identifier: MIT */
/* The command line of the measuring programs: a mode, and options that all modes share. */
#define _GNU_SOURCE
#include "measure.h"

#include <argp.h>
#include <err.h>
#include <stdlib.h>
#include <string.h>

/* Options that have no letter. */
enum {
	DIRECTORY = 256,
	THREADS,
	CONTEXTS,
	DESCRIPTORS,
	MILLISECONDS,
	USED,
	EXTEND,
	WRITES,
	IN_ORDER,
	DISTRIBUTION,
};

static const struct argp_option option_list[] = {
	{ "file", 'f', "PATH", 0, "file or device to read (default /dev/zero)", 0 },
	{ "size", 's', "BYTES", 0, "bytes a read (default 4096)", 0 },
	{ "batch", 'b', "COUNT", 0, "reads per io_submit; cold: reads in flight (default 1)", 0 },
	{ "requests", 'n', "COUNT", 0,
	  "requests to measure; context: contexts; cancel: polls in flight (default 10000)", 0 },
	{ "skip", 'k', "COUNT", 0, "pass over so many of the shuffled blocks first", 0 },
	{ "direct", 'd', NULL, 0, "open with O_DIRECT", 0 },
	{ "directory", DIRECTORY, "PATH", 0, "where files are made (default .)", 0 },
	{ "threads", THREADS, "COUNT", 0, "pairs, commits: threads (default 1)", 0 },
	{ "contexts", CONTEXTS, "COUNT", 0, "contexts; pairs: idle ones (default 0)", 0 },
	{ "used", USED, NULL, 0, "pairs: each idle context has served a request", 0 },
	{ "descriptors", DESCRIPTORS, "COUNT", 0, "closed: descriptors; files: files", 0 },
	{ "extend", EXTEND, NULL, 0, "files: they are empty", 0 },
	{ "writes", WRITES, NULL, 0, "cost: writes instead of reads", 0 },
	{ "in-order", IN_ORDER, NULL, 0, "cost: block after block", 0 },
	{ "distribution", DISTRIBUTION, NULL, 0, "cold: of the times, too", 0 },
	{ "milliseconds", MILLISECONDS, "COUNT", 0, "pairs, closed: how long (default 300)", 0 },
	{ NULL, 0, NULL, 0, NULL, 0 },
};

static size_t parse_number(const char *text, size_t lowest, size_t highest,
			   struct argp_state *state)
{
	char *end;
	unsigned long long number = strtoull(text, &end, 10);

	if (*text < '0' || *text > '9' || *end || number < lowest || number > highest)
		argp_error(state, "%s is not a number from %zu to %zu", text, lowest, highest);
	return (size_t)number;
}

static error_t parse_crowd(int key, char *argument, struct argp_state *state)
{
	struct options *options = state->input;

	switch (key) {
	case DIRECTORY:
		options->directory = argument;
		return 0;
	case THREADS:
		options->threads = parse_number(argument, 1, MAX_THREADS, state);
		return 0;
	case CONTEXTS:
		options->contexts = parse_number(argument, 0, 1 << 20, state);
		return 0;
	case DESCRIPTORS:
		options->descriptors = parse_number(argument, 1, 1 << 20, state);
		return 0;
	case MILLISECONDS:
		options->milliseconds = parse_number(argument, SLICES, 60000, state);
		return 0;
	case USED:
		options->used = true;
		return 0;
	case EXTEND:
		options->extend = true;
		return 0;
	case WRITES:
		options->writes = true;
		return 0;
	case DISTRIBUTION:
		options->distribution = true;
		return 0;
	case IN_ORDER:
		options->in_order = true;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static error_t parse_option(int key, char *argument, struct argp_state *state)
{
	struct options *options = state->input;

	switch (key) {
	case 'f':
		options->file = argument;
		return 0;
	case 's':
		options->size = parse_number(argument, 1, 1 << 20, state);
		return 0;
	case 'b':
		options->batch = parse_number(argument, 1, CONTEXT_EVENTS, state);
		return 0;
	case 'n':
		options->requests = parse_number(argument, 1, 1 << 30, state);
		return 0;
	case 'k':
		options->skip = parse_number(argument, 0, 1 << 30, state);
		return 0;
	case 'd':
		options->direct = true;
		return 0;
	case ARGP_KEY_ARG:
		if (options->mode)
			argp_usage(state);
		options->mode = argument;
		return 0;
	case ARGP_KEY_END:
		if (!options->mode)
			argp_usage(state);
		return 0;
	default:
		return parse_crowd(key, argument, state);
	}
}

/* For the help: "cost|cold|..." */
static char *names_of(const struct mode *modes)
{
	char *names = allocate(1, 1);

	for (; modes->name; modes++) {
		char *longer;

		if (asprintf(&longer, "%s%s%s", names, *names ? "|" : "", modes->name) < 0)
			err(1, "asprintf");
		free(names);
		names = longer;
	}
	return names;
}

void run_mode(int argc, char **argv, const struct mode *modes, const char *what)
{
	char *names = names_of(modes);
	const struct argp parser = {
		.options = option_list,
		.parser = parse_option,
		.args_doc = names,
		.doc = what,
	};
	struct options options = {
		.file = "/dev/zero",
		.size = 4096,
		.batch = 1,
		.requests = 10000,
		.directory = ".",
		.threads = 1,
		.descriptors = 1,
		.milliseconds = 300,
	};

	argp_parse(&parser, argc, argv, 0, NULL, &options);
	while (modes->name && strcmp(options.mode, modes->name) != 0)
		modes++;
	if (!modes->name)
		errx(2, "%s: no such mode: it is one of %s", options.mode, names);
	free(names);
	modes->measure(&options);
}
