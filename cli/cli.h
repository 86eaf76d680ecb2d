/* SPDX-License-Identifier: MIT */
/*
 * The map of the command `trueaio`: what its files show each other, grouped by the file that
 * implements it.  The copying engine and the doctor have maps of their own, cp.h and doctor.h.
 *
 * A command is a function with main's arguments and an exit status.  It reports through report.c,
 * so that every message carries the command's name and none is written into the middle of the
 * progress bar.
 */
#ifndef TRUEAIO_CLI_H
#define TRUEAIO_CLI_H

#include <signal.h>
#include <stdbool.h>
#include <sys/types.h>

/*
 * The first two are those of `trueaio` itself, cp and doctor, the others those of run, which are
 * env(1)'s.
 */
enum {
	STATUS_FAILURE = 1,
	STATUS_USAGE = 2,
	STATUS_NOT_TRIED = 125, /* the command itself was wrong, or found no library */
	STATUS_UNFIT = 126, /* the program is there, but cannot be started, or not on the library */
	STATUS_NOT_FOUND = 127,
};

/* main.c */
int print_version(void);
int print_help(const char *usage);

/* run.c */
extern const char run_usage[];
int run_main(int argc, char **argv);

/* program.c: what exec would start, and whether the library can come along. */
int program_find(const char *name, char **path);
int program_check(const char *path, const char *library);

/* cp.c */
extern const char cp_usage[];
int cp_main(int argc, char **argv);

/* doctor.c */
extern const char doctor_usage[];
int doctor_main(int argc, char **argv);

/* report.c: messages on stderr. */
void report_as(const char *command);
void report_error(int error, const char *format, ...) __attribute__((format(printf, 2, 3)));
void report_note(const char *format, ...) __attribute__((format(printf, 1, 2)));
unsigned report_errors(void);

/* interrupt.c */
void interrupt_catch(sigset_t *waiting_mask);
int interrupting_signal(void);
void interrupt_end(void);

/* progress.c: the bar on a terminal.  Without progress_begin the others do nothing. */
void progress_begin(off_t total_bytes);
void progress_add(off_t bytes);
struct timespec *progress_interval(void);
void progress_show(void);
void progress_hide(void);
void progress_end(void);

#endif
