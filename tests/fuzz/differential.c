/* SPDX-License-Identifier: MIT */
/*
 * The differential test: random programs of AIO calls, on the kernel and on the library.
 *
 *   differential --seed N --count M --jobs J	programs N to N+M-1
 *   differential --seconds S			as many as there is time for
 *   differential --seed N --count 1 --verbose	one program as text, with what both runs saw
 *   differential --bytes HEX --verbose		the same for a program that was printed
 *   differential --self-test			defects are planted, and must be found and shrunk
 *
 * The library's engine is chosen as ever, with TRUEAIO_ENGINE.
 *
 * Programs run in worker processes, so that a crash or a hang is one more kind of difference: the
 * parent sees which program a worker was at. A worker ends with its first difference, since its
 * library has seen what it should not have, and another one takes over behind it. What has been
 * found is then run again and made smaller in processes of their own, the evaluators.
 */
#include "fuzz.h"
#include <err.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

enum { JOBS_MAX = 64, FINDINGS_MAX = 5, HANG_LIMIT_S = 20, SHRINK_LIMIT_S = 20 };

/* Shared with the workers and the evaluator. */
struct shared {
	struct {
		_Atomic uint64_t next; /* the seed that is run now */
		_Atomic uint64_t done;
		struct difference difference;
	} workers[JOBS_MAX];
	uint8_t bytes[PROGRAM_BYTES];
	size_t size;
	bool verbose;
	struct difference difference;
	char engine[32]; /* that served the library's contexts */
};

struct finding {
	uint64_t seed;
	char text[400];
};

static struct shared *shared;
static uint64_t first_seed, seed_count;
static unsigned jobs = 1, seconds;
static bool verbose;
static int hang_limit_s = HANG_LIMIT_S;
static const struct calls *library = &calls_library;

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* ---- inside a worker or an evaluator --------------------------------------------------------- */

static struct side reference_side, library_side;
static struct program program;

static void open_everything(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	world_open();
	world_forget();
	side_open(&reference_side, &calls_reference);
	side_open(&library_side, library);
	snprintf(shared->engine, sizeof(shared->engine), "%s",
		 trueaio_engine(library_side.contexts[0]));
}

static void run_bytes(const uint8_t *bytes, size_t size, struct difference *difference)
{
	program_decode(&program, bytes, size);
	run_reference(&program, &reference_side);
	run_library(&program, &library_side, &reference_side, difference);
}

_Noreturn static void work(unsigned worker)
{
	struct difference difference = { 0 };
	uint8_t bytes[PROGRAM_BYTES];
	size_t size;

	open_everything();
	for (;;) {
		uint64_t seed = atomic_load(&shared->workers[worker].next);

		if (seed_count && seed >= first_seed + seed_count)
			_exit(0);
		program_from_seed(seed, bytes, &size);
		run_bytes(bytes, size, &difference);
		if (difference.found) {
			shared->workers[worker].difference = difference;
			_exit(1);
		}
		atomic_fetch_add(&shared->workers[worker].done, 1);
		atomic_store(&shared->workers[worker].next, seed + jobs);
	}
}

/* ---- evaluators: one program at a time, at the parent's command ------------------------------ */

static struct {
	pid_t pid;
	int command, answer;
} evaluator;

_Noreturn static void evaluate_for(int command, int answer)
{
	char byte;

	event_limit_s = 1;
	open_everything();
	while (read(command, &byte, 1) == 1) {
		shared->difference.found = false;
		if (shared->verbose) {
			/* At once: the run may not come to an end. */
			program_decode(&program, shared->bytes, shared->size);
			program_print(&program, stdout);
			fflush(stdout);
		}
		run_bytes(shared->bytes, shared->size, &shared->difference);
		if (shared->verbose) {
			printf("reference:\n");
			trace_print(&reference_side.trace, stdout);
			printf("library:\n");
			trace_print(&library_side.trace, stdout);
			fflush(stdout);
		}
		if (write(answer, &byte, 1) != 1 || shared->difference.found)
			break;
	}
	_exit(0);
}

static void start_evaluator(void)
{
	int commands[2], answers[2];

	if (pipe2(commands, O_CLOEXEC) < 0 || pipe2(answers, O_CLOEXEC) < 0)
		err(2, "pipe");
	fflush(stdout);
	evaluator.pid = fork();
	if (evaluator.pid < 0)
		err(2, "fork");
	if (evaluator.pid == 0) {
		close(commands[1]);
		close(answers[0]);
		evaluate_for(commands[0], answers[1]);
	}
	close(commands[0]);
	close(answers[1]);
	evaluator.command = commands[1];
	evaluator.answer = answers[0];
}

/* Returns the status of its end. */
static int end_evaluator(bool by_force)
{
	int status = 0;

	if (evaluator.pid == 0)
		return 0;
	close(evaluator.command);
	if (by_force)
		kill(evaluator.pid, SIGKILL);
	close(evaluator.answer);
	waitpid(evaluator.pid, &status, 0);
	evaluator.pid = 0;
	return status;
}

static bool evaluate(const uint8_t *bytes, size_t size)
{
	struct pollfd answer;
	char byte = 0;

	if (evaluator.pid == 0)
		start_evaluator();
	memcpy(shared->bytes, bytes, size);
	shared->size = size;
	answer = (struct pollfd){ .fd = evaluator.answer, .events = POLLIN };
	if (write(evaluator.command, &byte, 1) != 1)
		err(2, "evaluator");
	if (poll(&answer, 1, hang_limit_s * 1000) == 0) {
		end_evaluator(true);
		snprintf(shared->difference.text, sizeof(shared->difference.text),
			 "the library hangs");
		return shared->difference.found = true;
	}
	if (read(evaluator.answer, &byte, 1) != 1) {
		int status = end_evaluator(false);

		snprintf(shared->difference.text, sizeof(shared->difference.text),
			 "the process ended with signal %d, status %d",
			 WIFSIGNALED(status) ? WTERMSIG(status) : 0,
			 WIFEXITED(status) ? WEXITSTATUS(status) : 0);
		return shared->difference.found = true;
	}
	if (shared->difference.found)
		end_evaluator(false);
	return shared->difference.found;
}

/* What a difference is about, without the numbers: "io_submit", "event", "buffers". */
static void kind_of(const char *text, char kind[16])
{
	const char *word = strstr(text, "reference ") == text ? text + 10 : text;
	size_t length = 0;

	word += strspn(word, " 0123456789:");
	while (length < 15 && word[length] && !strchr(" +:=", word[length]))
		length++;
	snprintf(kind, 16, "%.*s", (int)length, word);
}

static char kind_to_keep[16];

/* For the shrinker: one difference must not become another. */
static bool fails_alike(const uint8_t *bytes, size_t size)
{
	char kind[16];

	if (!evaluate(bytes, size))
		return false;
	kind_of(shared->difference.text, kind);
	return strcmp(kind, kind_to_keep) == 0;
}

static void shrink_finding(uint8_t bytes[PROGRAM_BYTES], size_t *size)
{
	kind_of(shared->difference.text, kind_to_keep);
	shrink(bytes, size, fails_alike, SHRINK_LIMIT_S);
}

/* ---- what was found -------------------------------------------------------------------------- */

static void print_bytes(const uint8_t *bytes, size_t size)
{
	printf("--bytes ");
	for (size_t i = 0; i < size; i++)
		printf("%02x", bytes[i]);
	printf("\n");
}

static bool show(const uint8_t *bytes, size_t size)
{
	bool found;

	shared->verbose = true;
	found = evaluate(bytes, size);
	shared->verbose = false;
	if (found)
		printf("difference: %s\n", shared->difference.text);
	return found;
}

static void report(const struct finding *finding)
{
	uint8_t bytes[PROGRAM_BYTES];
	size_t size;
	unsigned attempts = 0;

	printf("seed %" PRIu64 ": %s\n", finding->seed, finding->text);
	program_from_seed(finding->seed, bytes, &size);
	while (attempts < 5 && !evaluate(bytes, size))
		attempts++;
	if (attempts == 5) {
		printf("seed %" PRIu64
		       ": the difference did not come again in 5 runs of the program\n",
		       finding->seed);
	} else {
		if (strstr(shared->difference.text, "hangs"))
			hang_limit_s = 3;
		shrink_finding(bytes, &size);
		hang_limit_s = HANG_LIMIT_S;
		printf("the smallest program:\n");
		show(bytes, size);
	}
	print_bytes(bytes, size);
}

/* ---- the parent of the workers --------------------------------------------------------------- */

struct fleet {
	pid_t pids[JOBS_MAX];
	uint64_t seen[JOBS_MAX]; /* the seed at the last look, for who makes no progress */
	double since[JOBS_MAX];
	struct finding findings[FINDINGS_MAX];
	unsigned finding_count;
	unsigned running;
};

static void start_worker(struct fleet *fleet, unsigned worker)
{
	fflush(stdout);
	fleet->since[worker] = now();
	fleet->seen[worker] = atomic_load(&shared->workers[worker].next);
	fleet->pids[worker] = fork();
	if (fleet->pids[worker] < 0)
		err(2, "fork");
	if (fleet->pids[worker] == 0)
		work(worker);
	fleet->running++;
}

static void add_finding(struct fleet *fleet, unsigned worker, const char *text)
{
	struct finding *finding = &fleet->findings[fleet->finding_count % FINDINGS_MAX];

	finding->seed = atomic_load(&shared->workers[worker].next);
	snprintf(finding->text, sizeof(finding->text), "%s", text);
	fleet->finding_count++;
	atomic_fetch_add(&shared->workers[worker].next, jobs);
}

/* A worker has ended.  Unless it had nothing left to do, another one goes on. */
static void bury(struct fleet *fleet, unsigned worker, int status, bool hung)
{
	char text[80];

	fleet->pids[worker] = 0;
	fleet->running--;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 2)
		errx(2, "a worker could not go on");
	if (hung)
		snprintf(text, sizeof(text), "the library hangs");
	else
		snprintf(text, sizeof(text), "the process ended with signal %d",
			 WIFSIGNALED(status) ? WTERMSIG(status) : 0);
	add_finding(fleet, worker,
		    WIFEXITED(status) ? shared->workers[worker].difference.text : text);
	if (fleet->finding_count < FINDINGS_MAX)
		start_worker(fleet, worker);
}

static void look_after(struct fleet *fleet, unsigned worker, bool over)
{
	uint64_t seed = atomic_load(&shared->workers[worker].next);
	bool hung = false;
	int status;

	if (fleet->pids[worker] == 0)
		return;
	if (waitpid(fleet->pids[worker], &status, WNOHANG) == fleet->pids[worker]) {
		bury(fleet, worker, status, false);
		return;
	}
	if (seed != fleet->seen[worker]) {
		fleet->seen[worker] = seed;
		fleet->since[worker] = now();
	}
	hung = now() - fleet->since[worker] > hang_limit_s;
	if (!hung && !over)
		return;
	kill(fleet->pids[worker], SIGKILL);
	waitpid(fleet->pids[worker], &status, 0);
	if (hung) {
		bury(fleet, worker, status, true);
		return;
	}
	fleet->pids[worker] = 0;
	fleet->running--;
}

static void run_fleet(struct fleet *fleet, double deadline)
{
	const struct timespec pause = { 0, 2000000 };

	for (unsigned i = 0; i < jobs; i++) {
		atomic_store(&shared->workers[i].next, first_seed + i);
		atomic_store(&shared->workers[i].done, 0);
		start_worker(fleet, i);
	}
	while (fleet->running > 0) {
		bool over =
			(deadline > 0 && now() >= deadline) || fleet->finding_count >= FINDINGS_MAX;

		for (unsigned i = 0; i < jobs; i++)
			look_after(fleet, i, over);
		nanosleep(&pause, NULL);
	}
}

static int run_seeds(void)
{
	static struct fleet fleet;
	double start = now(), elapsed;
	uint64_t done = 0, last = first_seed;

	run_fleet(&fleet, seconds ? start + seconds : 0);
	elapsed = now() - start;
	for (unsigned i = 0; i < jobs; i++) {
		uint64_t next = atomic_load(&shared->workers[i].next);

		done += atomic_load(&shared->workers[i].done);
		last = next > last ? next : last;
	}
	for (unsigned i = 0; i < fleet.finding_count && i < FINDINGS_MAX; i++)
		report(&fleet.findings[i]);
	done += fleet.finding_count;
	printf("engine %s: seeds %" PRIu64 " to %" PRIu64 ": %" PRIu64
	       " programs, %.0f per second, %.1f s, "
	       "%u differences\n",
	       shared->engine, first_seed, last - 1, done, (double)done / elapsed, elapsed,
	       fleet.finding_count);
	if (seconds)
		printf("1..1\n%s differential on %s\n", fleet.finding_count ? "not ok 1" : "ok 1",
		       shared->engine);
	return fleet.finding_count > 0;
}

/* ---- the test of the test -------------------------------------------------------------------- */

static bool evaluate_with(const struct calls *calls, const uint8_t *bytes, size_t size)
{
	if (library != calls)
		end_evaluator(false);
	library = calls;
	return evaluate(bytes, size);
}

/* Does the defect show, at the right place, in a program that the library itself does right? */
static bool shows(const struct planted *defect, const uint8_t *bytes, size_t size)
{
	if (!evaluate_with(&defect->calls, bytes, size) ||
	    !strstr(shared->difference.text, defect->sign) ||
	    evaluate_with(&calls_library, bytes, size))
		return false;
	return evaluate_with(&defect->calls, bytes, size);
}

/* Finds the defect, shrinks the program, and wants it small and the report to name the place. */
static bool detect(const struct planted *defect)
{
	uint8_t bytes[PROGRAM_BYTES];
	size_t size = 0;
	uint64_t seed;

	for (seed = first_seed; seed < first_seed + 20000; seed++) {
		program_from_seed(seed, bytes, &size);
		if (shows(defect, bytes, size))
			break;
	}
	if (seed == first_seed + 20000) {
		printf("# %s: not found\n", defect->name);
		return false;
	}
	shrink_finding(bytes, &size);
	printf("# %s: seed %" PRIu64 ", shrunk to %zu records\n", defect->name, seed,
	       (size - 1) / RECORD_BYTES);
	print_bytes(bytes, size);
	return shows(defect, bytes, size) && size <= 1 + 5 * RECORD_BYTES;
}

static int self_test(void)
{
	unsigned failures = 0;

	hang_limit_s = 1;
	printf("1..%u\n", planted_count);
	for (unsigned i = 0; i < planted_count; i++) {
		bool detected = detect(&planted[i]);

		end_evaluator(false);
		failures += !detected;
		printf("%s %u - %s\n", detected ? "ok" : "not ok", i + 1, planted[i].name);
		fflush(stdout);
	}
	return failures > 0;
}

/* ---- the command line ------------------------------------------------------------------------ */

static int run_hex(const char *hex)
{
	uint8_t bytes[PROGRAM_BYTES];
	size_t size = 0;
	unsigned byte;

	for (; size < sizeof(bytes) && sscanf(hex + 2 * size, "%2x", &byte) == 1; size++)
		bytes[size] = (uint8_t)byte;
	return verbose		       ? show(bytes, size)
	       : evaluate(bytes, size) ? (printf("difference: %s\n", shared->difference.text), 1)
				       : 0;
}

static int run_verbose(void)
{
	uint8_t bytes[PROGRAM_BYTES];
	size_t size;
	int found = 0;

	for (uint64_t seed = first_seed; seed < first_seed + seed_count; seed++) {
		program_from_seed(seed, bytes, &size);
		printf("seed %" PRIu64 ":\n", seed);
		found |= show(bytes, size);
		print_bytes(bytes, size);
	}
	return found;
}

static uint64_t number(const char *text)
{
	char *end;
	uint64_t value = strtoull(text, &end, 0);

	if (*end || end == text)
		errx(2, "not a number: %s", text);
	return value;
}

int main(int argc, char **argv)
{
	static const struct option options[] = { { "seed", required_argument, NULL, 's' },
						 { "count", required_argument, NULL, 'c' },
						 { "jobs", required_argument, NULL, 'j' },
						 { "seconds", required_argument, NULL, 't' },
						 { "bytes", required_argument, NULL, 'b' },
						 { "verbose", no_argument, NULL, 'v' },
						 { "self-test", no_argument, NULL, 'x' },
						 { 0 } };
	const char *engine = getenv("TRUEAIO_ENGINE"), *hex = NULL;
	bool tests_itself = false;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 's':
			first_seed = number(optarg);
			break;
		case 'c':
			seed_count = number(optarg);
			break;
		case 'j':
			jobs = (unsigned)number(optarg);
			break;
		case 't':
			seconds = (unsigned)number(optarg);
			break;
		case 'b':
			hex = optarg;
			break;
		case 'v':
			verbose = true;
			break;
		case 'x':
			tests_itself = true;
			break;
		default:
			return 2;
		}
	}
	if (jobs < 1 || jobs > JOBS_MAX)
		errx(2, "jobs: 1 to %d", JOBS_MAX);
	if (!seconds && !seed_count)
		seed_count = 1;
	if (engine)
		intended_set_engine(engine);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	if (shared == MAP_FAILED)
		err(2, "mmap");
	if (tests_itself)
		return self_test();
	if (hex)
		return run_hex(hex);
	return verbose ? run_verbose() : run_seeds();
}
