/* SPDX-License-Identifier: MIT */
/*
 * trueaio run: start a program on our libaio.so.1.
 *
 * The program is not changed and not watched: its environment is prepared, then exec.  Two
 * variables lead the dynamic linker to the library, and both are needed.
 *
 *   LD_LIBRARY_PATH  finds it for everything that asks for "libaio.so.1", also for a plugin loaded
 *                    much later into a name space of its own (dlmopen), where preloaded objects do
 *                    not count.  But a DT_RPATH goes before it and an absolute path past it, and
 *                    where the system's library is called libaio.so.1t64 (Debian 13, Ubuntu 24.04)
 *                    nobody asks for our name.
 *   LD_PRELOAD       puts the library in front of every other one.  The linker then takes it for
 *                    each "libaio.so.1", whatever the program's own search path says, and resolves
 *                    io_submit and its like to it, also where libaio.so.1t64 is loaded behind it:
 *                    symbol versions are compared by their names, not by the library's.
 *
 * The price of the preload: programs of another architecture that the program starts print a line
 * of their dynamic linker, which cannot load it.  That is better than a program which ran on the
 * system's library while its user believed it had run on ours; the same rule makes program.c refuse
 * programs that the linker would silently start without the library.
 */
#include "cli.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <libgen.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LIBRARY_NAME "libaio.so.1"

/* What both variables separate paths with, and the dynamic linker's own variables ($ORIGIN). */
#define LINKER_SPECIALS ":; $"

static const char *const engines[] = { "auto", "native", "threads" };

const char run_usage[] =
	"Usage: trueaio run [--engine ENGINE] [--log FILE] [--] PROGRAM [ARGUMENT...]\n"
	"\n"
	"Starts PROGRAM on trueaio's libaio.so.1, with everything that it starts in turn.\n"
	"\n"
	"Options:\n"
	"  -e, --engine ENGINE  what serves its requests: auto (as without this option), native\n"
	"                       or threads; trueaio(7) explains them\n"
	"  -l, --log FILE       the library appends a line for each notable decision to FILE\n"
	"  -h, --help           print this text\n"
	"  -V, --version        print the version\n"
	"\n"
	"Exit status: PROGRAM's; 125 if trueaio run itself failed, 126 if PROGRAM cannot be\n"
	"started or cannot take the library (static, set-user-ID, another architecture), 127 if\n"
	"it was not found.\n";

static const struct option options[] = {
	{ "engine", required_argument, NULL, 'e' },
	{ "log", required_argument, NULL, 'l' },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, 'V' },
	{ NULL, 0, NULL, 0 },
};

/*
 * Other libraries of that name may stand where ours could be, the system's for one: ours has
 * trueaio_engine.
 */
static void *load_if_ours(const char *path)
{
	void *handle = dlopen(path, RTLD_LAZY | RTLD_LOCAL);

	if (handle && !dlsym(handle, "trueaio_engine")) {
		dlclose(handle);
		handle = NULL;
	}
	return handle;
}

static char *library_in(const char *directory)
{
	char *path = NULL, *absolute = NULL;
	void *handle = NULL;

	if (asprintf(&path, "%s/" LIBRARY_NAME, directory) >= 0)
		handle = load_if_ours(path);
	if (handle) {
		absolute = realpath(directory, NULL);
		dlclose(handle);
	}
	free(path);
	return absolute;
}

/*
 * Where the dynamic linker itself finds it: installed, in whatever directory this system searches.
 */
static char *library_of_system(void)
{
	void *handle = load_if_ours(LIBRARY_NAME);
	struct link_map *map;
	char *directory = NULL;

	if (!handle)
		return NULL;
	if (dlinfo(handle, RTLD_DI_LINKMAP, &map) == 0) {
		char *path = strdup(map->l_name);
		if (path)
			directory = realpath(dirname(path), NULL);
		free(path);
	}
	dlclose(handle);
	return directory;
}

/*
 * Where ours can stand, seen from this program: beside it, as after make; where both were installed
 * with one prefix; in a directory that no other program searches, if the command was installed
 * without the library.
 */
static const char *const places[] = { "", "/../lib", "/../lib64", "/../lib/trueaio" };

static char *find_library_directory(void)
{
	char *self = realpath("/proc/self/exe", NULL);
	const char *own = self ? dirname(self) : NULL;
	char *directory = NULL, *place;

	for (size_t i = 0; own && !directory && i < sizeof(places) / sizeof(places[0]); i++) {
		if (asprintf(&place, "%s%s", own, places[i]) < 0)
			break;
		directory = library_in(place);
		free(place);
	}
	free(self);
	return directory ? directory : library_of_system();
}

/* An empty old value is left out: to the linker an empty element means the current directory. */
static bool prepend(const char *variable, const char *path)
{
	const char *old = getenv(variable);
	char *value;
	bool done;

	if (!old || !*old)
		return setenv(variable, path, 1) == 0;
	if (asprintf(&value, "%s:%s", path, old) < 0)
		return false;
	done = setenv(variable, value, 1) == 0;
	free(value);
	return done;
}

/*
 * The program may change its directory before it first uses the library, so the name is made
 * absolute; and a log that nobody can write is the user's to know now, since the library will not
 * say so.
 */
static bool set_log(const char *name)
{
	int fd = open(name, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
	char *absolute;
	bool done;

	if (fd < 0) {
		report_error(errno, "%s: cannot open the log", name);
		return false;
	}
	close(fd);
	absolute = realpath(name, NULL);
	done = absolute && setenv("TRUEAIO_LOG", absolute, 1) == 0;
	if (!done)
		report_error(errno, "%s: cannot name the log", name);
	free(absolute);
	return done;
}

static bool set_engine(const char *name)
{
	for (size_t i = 0; i < sizeof(engines) / sizeof(engines[0]); i++) {
		if (strcmp(engines[i], name) == 0)
			return setenv("TRUEAIO_ENGINE", name, 1) == 0;
	}
	report_error(0, "no engine \"%s\"; there are auto, native and threads", name);
	return false;
}

static bool set_library(const char *directory, const char *library)
{
	if (strpbrk(directory, LINKER_SPECIALS)) {
		report_error(0,
			     "%s: the dynamic linker cannot be told of a directory with one of "
			     "\"" LINKER_SPECIALS "\" in its name",
			     directory);
		return false;
	}
	if (prepend("LD_LIBRARY_PATH", directory) && prepend("LD_PRELOAD", library))
		return true;
	report_error(errno, "cannot set the environment");
	return false;
}

/* Returns only if it failed, with the exit status. */
static int start(char **arguments)
{
	char *directory = find_library_directory();
	char *library = NULL, *path = NULL;
	int error, status;

	if (!directory || asprintf(&library, "%s/" LIBRARY_NAME, directory) < 0) {
		report_error(0, "trueaio's " LIBRARY_NAME
				" is neither beside this program nor installed");
		return STATUS_NOT_TRIED;
	}
	error = program_find(arguments[0], &path);
	if (error) {
		report_error(error, "%s", arguments[0]);
		return error == ENOENT ? STATUS_NOT_FOUND : STATUS_UNFIT;
	}
	status = program_check(path, library);
	if (status)
		return status;
	if (!set_library(directory, library))
		return STATUS_NOT_TRIED;

	/* Of the exec family execvp is the one that hands a script without "#!" to the shell. */
	execvp(path, arguments);
	error = errno;
	report_error(error, "%s: cannot start", path);
	return error == ENOENT ? STATUS_NOT_FOUND : STATUS_UNFIT;
}

int run_main(int argc, char **argv)
{
	int option;

	/* "+": the first argument that is no option begins the program's own command line. */
	while ((option = getopt_long(argc, argv, "+e:l:hV", options, NULL)) != -1) {
		switch (option) {
		case 'e':
			if (!set_engine(optarg))
				return STATUS_NOT_TRIED;
			break;
		case 'l':
			if (!set_log(optarg))
				return STATUS_NOT_TRIED;
			break;
		case 'h':
			return print_help(run_usage);
		case 'V':
			return print_version();
		default:
			return STATUS_NOT_TRIED;
		}
	}
	if (optind == argc) {
		report_error(0, "no program given; try: trueaio help run");
		return STATUS_NOT_TRIED;
	}
	return start(argv + optind);
}
