/* SPDX-License-Identifier: MIT */
/*
 * trueaio cp: copies files, each whole or not at all.
 *
 * Names follow cp(1): into DEST if it is a directory, else to DEST.  The data goes through the
 * engine; this file decides what is copied to where, and how the command ends.
 */
#include "cli.h"
#include "cp.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	DEPTH_DEFAULT = 32,
	DEPTH_MAX = 1024,
};

struct request {
	struct copy_options copying;
	bool recursive;
	bool quiet;
	bool into_directory;
	char **sources;
	int source_count;
	const char *destination;
};

const char cp_usage[] =
	"Usage: trueaio cp [-rq] [--verify] [--direct] [--depth N] SOURCE... DEST\n"
	"\n"
	"Copies files, with many requests in flight.  Each copy is synchronized and renamed into\n"
	"place: DEST is the old file or the whole new one, never something between.\n"
	"\n"
	"Options:\n"
	"  -r, --recursive  copy directories with what is in them; symbolic links stay links\n"
	"      --verify     read each copy back from the disk and compare it with its source\n"
	"      --direct     pass by the page cache (O_DIRECT)\n"
	"      --depth N    blocks of 256 KiB in flight, 1 to 1024; 32 if not given\n"
	"  -q, --quiet      no progress bar, which else is drawn if standard error is a terminal\n"
	"  -h, --help       print this text\n"
	"  -V, --version    print the version\n"
	"\n"
	"Exit status: 0 if everything was copied, 1 if something was not, 2 for wrong usage.\n";

enum {
	OPTION_VERIFY = 256,
	OPTION_DIRECT,
	OPTION_DEPTH,
};

static const struct option options[] = {
	{ "recursive", no_argument, NULL, 'r' },
	{ "verify", no_argument, NULL, OPTION_VERIFY },
	{ "direct", no_argument, NULL, OPTION_DIRECT },
	{ "depth", required_argument, NULL, OPTION_DEPTH },
	{ "quiet", no_argument, NULL, 'q' },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, 'V' },
	{ NULL, 0, NULL, 0 },
};

static bool is_directory(const char *path)
{
	struct stat status;

	return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

/* "." and ".." name no entry of their own: what is in them goes into DEST itself. */
static char *target_of(const struct request *request, const char *source)
{
	size_t end = strlen(source), start;
	char *target;

	if (!request->into_directory)
		return strdup(request->destination);
	while (end > 0 && source[end - 1] == '/')
		end--;
	start = end;
	while (start > 0 && source[start - 1] != '/')
		start--;
	if (end == start || (end - start <= 2 && strncmp(source + start, "..", end - start) == 0))
		return strdup(request->destination);
	if (asprintf(&target, "%s/%.*s", request->destination, (int)(end - start), source + start) <
	    0)
		return NULL;
	return target;
}

static bool ends_in_slash(const char *path)
{
	return *path && path[strlen(path) - 1] == '/';
}

static void copy_source(struct cp_tree *tree, const struct request *request, const char *source)
{
	bool directory = is_directory(source);
	char *target = target_of(request, source);

	if (!target)
		report_error(ENOMEM, "%s", source);
	else if (directory && !request->recursive)
		report_error(0, "%s: is a directory: not copied without -r", source);
	else if (!directory && !request->into_directory && ends_in_slash(target))
		report_error(ENOTDIR, "%s", target);
	else if (request->recursive)
		cp_tree_copy(tree, source, target);
	else
		cp_tree_copy_file(tree, source, target);
	free(target);
}

static off_t bytes_to_move(const struct request *request)
{
	off_t bytes = 0;

	for (int i = 0; i < request->source_count; i++) {
		struct stat status;

		if (request->recursive)
			bytes += cp_tree_bytes(request->sources[i]);
		else if (stat(request->sources[i], &status) == 0 && S_ISREG(status.st_mode))
			bytes += status.st_size;
	}
	return request->copying.verify ? 2 * bytes : bytes;
}

static int copy(const struct request *request)
{
	struct cp_tree tree = { 0 };

	/* Before signals are blocked: it may take a while, and nothing has to be cleaned up. */
	if (!request->quiet && isatty(STDERR_FILENO))
		progress_begin(bytes_to_move(request));
	tree.engine = copy_engine_open(&request->copying);
	if (!tree.engine)
		return STATUS_FAILURE;
	for (int i = 0; i < request->source_count && !interrupting_signal(); i++)
		copy_source(&tree, request, request->sources[i]);
	cp_tree_finish(&tree);

	copy_engine_close(tree.engine);
	if (interrupting_signal()) {
		progress_hide();
		interrupt_end();
	}
	progress_end();
	return report_errors() ? STATUS_FAILURE : 0;
}

static bool parse_depth(const char *text, unsigned *depth)
{
	char *end;
	unsigned long value;

	errno = 0;
	value = strtoul(text, &end, 10);
	if (errno || end == text || *end || value < 1 || value > DEPTH_MAX) {
		report_error(0, "--depth takes a number from 1 to %d, not \"%s\"", DEPTH_MAX, text);
		return false;
	}
	*depth = (unsigned)value;
	return true;
}

static int check_names(struct request *request)
{
	if (request->source_count < 1) {
		report_error(0, "a source and a destination are needed; try: trueaio help cp");
		return STATUS_USAGE;
	}
	request->into_directory = is_directory(request->destination);
	if (request->source_count > 1 && !request->into_directory) {
		report_error(0, "%s: is not a directory, and there are several sources",
			     request->destination);
		return STATUS_USAGE;
	}
	return 0;
}

int cp_main(int argc, char **argv)
{
	struct request request = { .copying.depth = DEPTH_DEFAULT };
	int option, status;

	while ((option = getopt_long(argc, argv, "rqhV", options, NULL)) != -1) {
		switch (option) {
		case 'r':
			request.recursive = true;
			break;
		case 'q':
			request.quiet = true;
			break;
		case OPTION_VERIFY:
			request.copying.verify = true;
			break;
		case OPTION_DIRECT:
			request.copying.direct = true;
			break;
		case OPTION_DEPTH:
			if (!parse_depth(optarg, &request.copying.depth))
				return STATUS_USAGE;
			break;
		case 'h':
			return print_help(cp_usage);
		case 'V':
			return print_version();
		default:
			return STATUS_USAGE;
		}
	}
	request.sources = argv + optind;
	request.source_count = argc - optind - 1;
	request.destination = argc > optind ? argv[argc - 1] : "";
	status = check_names(&request);
	return status ? status : copy(&request);
}
