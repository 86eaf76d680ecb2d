/* SPDX-License-Identifier: MIT */
/*
 * trueaio doctor: what the library can do on this system, and what would have to be changed for it
 * to do better.
 *
 * It finds out by the library's own probes, and says what the library would make of the answers
 * (set_up_native in api.c).  It changes nothing: what the probes make is
 * gone when it ends.
 */
#include "doctor.h"

#include "cli.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>

const char doctor_usage[] =
	"Usage: trueaio doctor [--json] [FILE...]\n"
	"\n"
	"Says what the library can do on this system and for each FILE, why not more, and what\n"
	"would help.  Changes nothing.\n"
	"\n"
	"Options:\n"
	"  -j, --json     print the same as one JSON object; trueaio(1) explains its members\n"
	"  -h, --help     print this text\n"
	"  -V, --version  print the version\n"
	"\n"
	"Exit status: 0 if programs started here find an engine that works, 1 if not or if a FILE\n"
	"could not be looked at, 2 for wrong usage.\n";

static const struct option options[] = {
	{ "json", no_argument, NULL, 'j' },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, 'V' },
	{ NULL, 0, NULL, 0 },
};

/* The library's own, see threads_wanted in process.c. */
#define THREADS_DEFAULT 64
#define THREADS_MAX 1024

const char *engine_name(enum engine engine)
{
	static const char *const names[ENGINES] = { "auto", "native", "threads" };

	return names[engine];
}

/* ---- the system ------------------------------------------------------------------------------ */

static bool works(const struct ta_probe *probe)
{
	return probe->reason == TA_PROBE_WORKS;
}

/* What the engine cannot do without. */
static const struct ta_probe *obstacle(const struct system_facts *system, enum engine engine)
{
	if (engine == ENGINE_NATIVE)
		return works(&system->aio) ? NULL : &system->aio;
	return works(&system->threads) ? NULL : &system->threads;
}

/* Native fails with kernel AIO's own error, but for those that mean it is not there at all. */
static struct engine_outlook outlook(const struct system_facts *system, enum engine engine)
{
	struct engine_outlook here = { .served_by = engine, .cause = obstacle(system, engine) };

	if (here.cause)
		here.error = -ENOSYS;
	if (here.cause && engine == ENGINE_NATIVE && here.cause->error != -EPERM)
		here.error = here.cause->error;
	return here;
}

static struct engine_outlook outlook_of_auto(const struct system_facts *system)
{
	int error = system->aio.error;
	bool falls_back = error == -EAGAIN || error == -ENOSYS || error == -EPERM;

	for (enum engine engine = ENGINE_NATIVE; engine < ENGINES; engine++)
		if (!system->engines[engine].cause && (engine == ENGINE_NATIVE || falls_back))
			return system->engines[engine];
	return (struct engine_outlook){ ENGINE_AUTO, error, &system->aio };
}

static void consider_engines(struct system_facts *system)
{
	for (enum engine engine = ENGINE_NATIVE; engine < ENGINES; engine++)
		system->engines[engine] = outlook(system, engine);
	system->engines[ENGINE_AUTO] = outlook_of_auto(system);
	system->has_workers = !system->engines[ENGINE_THREADS].cause;
}

static enum engine engine_of(const char *name, bool *is_known)
{
	*is_known = true;
	if (!name || !*name)
		return ENGINE_AUTO;
	for (enum engine engine = ENGINE_AUTO; engine < ENGINES; engine++)
		if (strcmp(name, engine_name(engine)) == 0)
			return engine;
	*is_known = false;
	return ENGINE_AUTO;
}

static void consider_environment(struct system_facts *system)
{
	unsigned long threads;

	system->engine_variable = getenv("TRUEAIO_ENGINE");
	system->threads_variable = getenv("TRUEAIO_THREADS");
	system->log_variable = getenv("TRUEAIO_LOG");
	threads = system->threads_variable ? strtoul(system->threads_variable, NULL, 10) : 0;
	system->threads_max = threads == 0	      ? THREADS_DEFAULT
			      : threads > THREADS_MAX ? THREADS_MAX
						      : (unsigned)threads;
	system->engine = engine_of(system->engine_variable, &system->engine_is_known);
	if (system->engine == ENGINE_AUTO)
		system->engine = system->engines[ENGINE_AUTO].served_by;
}

bool engine_outlook_is_good(const struct system_facts *system)
{
	return system->engine_is_known && !system->engines[system->engine].cause;
}

static void look_at_system(struct system_facts *system)
{
	struct utsname name;

	*system = (struct system_facts){ .release = "?" };
	if (uname(&name) == 0)
		snprintf(system->release, sizeof(system->release), "%s", name.release);
	ta_probe_look(&system->evidence);
	ta_probe_kernel_aio(&system->evidence, &system->aio);
	ta_probe_threads(&system->evidence, &system->threads);
	ta_probe_table(&system->evidence, &system->table);
	ta_probe_features(&system->features);
	consider_engines(system);
	consider_environment(system);
}

/* ---- advice ---------------------------------------------------------------------------------- */

/* Each line once: a thread that cannot be started is the reason for two refusals. */
size_t doctor_advice(const struct system_facts *system, const char **lines, size_t size,
		     char texts[][TA_PROBE_TEXT_BYTES])
{
	const struct ta_probe *const probes[] = { &system->aio, &system->threads, &system->table };
	size_t count = 0, i, j;

	if (!system->engine_is_known)
		lines[count++] = "Unset TRUEAIO_ENGINE, or set it to auto, native or threads.";
	else if (system->engines[system->engine].cause && !system->engines[ENGINE_AUTO].cause)
		lines[count++] = "Unset TRUEAIO_ENGINE: another engine works here.";
	for (i = 0; i < sizeof(probes) / sizeof(probes[0]) && count < size; i++) {
		ta_probe_advice(probes[i], texts[i], TA_PROBE_TEXT_BYTES);
		for (j = 0; j < count && strcmp(lines[j], texts[i]) != 0; j++)
			;
		if (j == count && *texts[i])
			lines[count++] = texts[i];
	}
	return count;
}

static void print_advice(const struct system_facts *system)
{
	char texts[3][TA_PROBE_TEXT_BYTES];
	const char *lines[5];
	size_t count = doctor_advice(system, lines, 5, texts);

	printf("\n");
	for (size_t i = 0; i < count; i++)
		printf("Advice: %s\n", lines[i]);
	if (count == 0)
		printf("Nothing to do.\n");
}

/* ---- for people ------------------------------------------------------------------------------ */

static void print_probe(const char *name, const struct ta_probe *probe)
{
	char sentence[TA_PROBE_TEXT_BYTES];

	ta_probe_sentence(probe, sentence, sizeof(sentence));
	printf("%-12s %s.\n", name, sentence);
}

/* Of no interest where it works, or where there is no thread to have one. */
static void print_table(const struct ta_probe *table)
{
	char sentence[TA_PROBE_TEXT_BYTES];

	if (works(table) || table->subject != TA_PROBE_TABLE)
		return;
	ta_probe_sentence(table, sentence, sizeof(sentence));
	printf("             A descriptor table of their own: %s.\n"
	       "             So a thread means by a descriptor what the program means by it then,\n"
	       "             not what it meant by it in io_submit.\n",
	       sentence);
}

static void print_probes(const struct system_facts *system)
{
	printf("Linux %s, trueaio " TRUEAIO_VERSION "\n\n", system->release);
	print_probe("kernel AIO", &system->aio);
	print_probe("threads", &system->threads);
	print_table(&system->table);
}

static const char *error_name(int error)
{
	const char *name = ta_probe_error_name(error);

	return name ? name : strerror(-error);
}

static const char *subject_name(enum ta_probe_subject subject)
{
	static const char *const names[] = {
		[TA_PROBE_KERNEL_AIO] = "kernel AIO",
		[TA_PROBE_THREADS] = "threads",
		[TA_PROBE_TABLE] = "descriptor tables",
	};

	return names[subject];
}

static void print_engine(const struct system_facts *system, enum engine engine)
{
	const char *waiting = system->has_workers ? "; what would wait goes to worker threads"
						  : "; what would wait, waits in io_submit";
	const struct engine_outlook *here = &system->engines[engine];
	char sentence[TA_PROBE_TEXT_BYTES];

	printf("  %-8s ", engine_name(engine));
	if (here->cause) {
		ta_probe_sentence(here->cause, sentence, sizeof(sentence));
		printf("io_setup fails with -%s: %s: %s\n", error_name(here->error),
		       subject_name(here->cause->subject), sentence);
	} else if (engine == ENGINE_AUTO) {
		printf("works, as %s\n", engine_name(here->served_by));
	} else {
		printf("works%s\n", engine == ENGINE_NATIVE ? waiting : "");
	}
}

static void print_engines(const struct system_facts *system)
{
	printf("\nWhat each engine would do here:\n");
	for (enum engine engine = ENGINE_AUTO; engine < ENGINES; engine++)
		print_engine(system, engine);
	if (!works(&system->aio) && !system->engines[ENGINE_AUTO].cause)
		printf("  Programs that take their events from the kernel's ring by themselves get "
		       "kernel AIO's error.\n");
}

static void print_variable(const char *name, const char *value)
{
	if (value)
		printf("  %s=%s: ", name, value);
	else
		printf("  %s is not set: ", name);
}

static void print_environment(const struct system_facts *system)
{
	printf("\nThe environment:\n");
	print_variable("TRUEAIO_ENGINE", system->engine_variable);
	if (!system->engine_is_known)
		printf("there is no such engine, every io_setup fails with -ENOSYS\n");
	else if (!engine_outlook_is_good(system))
		printf("every io_setup fails with -%s\n",
		       error_name(system->engines[system->engine].error));
	else
		printf("programs get the engine %s\n", engine_name(system->engine));
	print_variable("TRUEAIO_THREADS", system->threads_variable);
	printf("at most %u worker threads in a process that needs them\n", system->threads_max);
	if (system->log_variable && *system->log_variable)
		printf("  TRUEAIO_LOG=%s: the library appends its decisions to this file\n",
		       system->log_variable);
}

static const char *yes_or_no(int answer)
{
	return answer < 0 ? "not known" : answer ? "yes" : "no";
}

static void print_features(const struct ta_features *features)
{
	printf("\nOf the kernel:\n");
	printf("  RWF_NOWAIT: %s, RWF_DONTCACHE: %s (both asked of this command's own file)\n",
	       yes_or_no(features->rwf_nowait), yes_or_no(features->rwf_dontcache));
	printf("  io_pgetevents: %s, IO_CMD_POLL: %s\n", yes_or_no(features->io_pgetevents),
	       yes_or_no(features->io_cmd_poll));
	printf("  close_range with CLOSE_RANGE_UNSHARE: %s, unshare(CLONE_FILES): %s\n",
	       yes_or_no(features->close_range_unshare), yes_or_no(features->unshare_files));
}

static void print_route(const char *what, enum route route)
{
	printf("  %-15s ", what);
	switch (route) {
	case ROUTE_NOT_KNOWN:
		printf("not known\n");
		break;
	case ROUTE_REFUSED:
		printf("refused by the kernel\n");
		break;
	case ROUTE_KERNEL:
		printf("kernel AIO\n");
		break;
	case ROUTE_AT_ONCE:
		printf("at once, inside io_submit\n");
		break;
	case ROUTE_TRIAL:
		printf("at once what is in the page cache; the rest by worker threads\n");
		break;
	case ROUTE_WORKERS:
		printf("worker threads\n");
		break;
	case ROUTE_WORKERS_IN_TURN:
		printf("worker threads, one after the other\n");
		break;
	case ROUTE_KERNEL_OR_HELD:
		printf("kernel AIO; if held for earlier requests, worker threads\n");
		break;
	case ROUTE_WAITING:
		printf("kernel AIO inside io_submit, which waits\n");
		break;
	}
}

static void print_abilities(const struct file_facts *file)
{
	printf("  reads can say \"would block\": %s; RWF_DONTCACHE: %s\n",
	       yes_or_no(file->says_would_block), yes_or_no(file->takes_dontcache));
	printf("  O_DIRECT: %s", yes_or_no(file->takes_direct));
	if (file->direct_offset_bytes)
		printf(", aligned to %u bytes in the file and %u in memory",
		       file->direct_offset_bytes, file->direct_memory_bytes);
	printf("\n");
	if (file->atomic_max_bytes)
		printf("  RWF_ATOMIC writes: %u to %u bytes\n", file->atomic_min_bytes,
		       file->atomic_max_bytes);
}

static void print_file(const struct system_facts *system, const struct file_facts *file)
{
	printf("\n%s\n  %s on %s", file->path, file_type_name(file->mode),
	       *file->file_system ? file->file_system : "an unknown file system");
	if (file->is_in_memory)
		printf(" (in memory)");
	if (*file->source)
		printf(", from %s", file->source);
	printf(", device %u:%u\n", file->device_major, file->device_minor);
	if (!file->is_opened)
		printf("  not opened, because that may have effects\n");
	if (S_ISREG(file->mode) || S_ISBLK(file->mode))
		print_abilities(file);
	if (!engine_outlook_is_good(system))
		return;
	printf("  on the engine %s these go to:\n", engine_name(system->engine));
	if (!S_ISDIR(file->mode))
		print_route("buffered reads", file->buffered_reads);
	if (S_ISREG(file->mode) || S_ISBLK(file->mode))
		print_route("O_DIRECT reads", file->direct_reads);
	if (!S_ISDIR(file->mode))
		print_route("writes", file->writes);
	print_route("fsync", file->syncs);
}

static void print_text(const struct system_facts *system, const struct file_facts *files,
		       size_t file_count)
{
	print_probes(system);
	print_engines(system);
	print_environment(system);
	print_features(&system->features);
	for (size_t i = 0; i < file_count; i++)
		if (!files[i].error)
			print_file(system, &files[i]);
	print_advice(system);
}

/* ---- the command ----------------------------------------------------------------------------- */

static int examine(char **paths, size_t count, bool json)
{
	struct file_facts *files = calloc(count + 1, sizeof(*files));
	struct system_facts system;
	bool printed = true;

	if (!files) {
		report_error(ENOMEM, "cannot begin");
		return STATUS_FAILURE;
	}
	look_at_system(&system);
	for (size_t i = 0; i < count; i++) {
		int error = doctor_look_at_file(paths[i], &system, &files[i]);

		if (error)
			report_error(error, "%s", paths[i]);
	}
	if (json)
		printed = doctor_print_json(&system, files, count);
	else
		print_text(&system, files, count);
	free(files);
	if (!printed)
		report_error(ENOMEM, "cannot print");
	if (fflush(stdout) != 0 || ferror(stdout))
		report_error(0, "cannot write to standard output");
	return report_errors() || !engine_outlook_is_good(&system) ? STATUS_FAILURE : 0;
}

int doctor_main(int argc, char **argv)
{
	bool json = false;
	int option;

	while ((option = getopt_long(argc, argv, "jhV", options, NULL)) != -1) {
		switch (option) {
		case 'j':
			json = true;
			break;
		case 'h':
			return print_help(doctor_usage);
		case 'V':
			return print_version();
		default:
			return STATUS_USAGE;
		}
	}
	return examine(argv + optind, (size_t)(argc - optind), json);
}
