/* SPDX-License-Identifier: MIT */
/*
 * SIGINT, SIGTERM and SIGHUP: asking a command to end, with its temporary files removed.
 *
 * They are blocked from interrupt_catch on, so that they come at two places only: where the command
 * waits, with the mask that it has been given (a handler notes them, and the wait ends), and where
 * it asks whether one has come, since it may work long without waiting.
 */
#include "cli.h"

#include <errno.h>
#include <time.h>

static volatile sig_atomic_t noted_signal;
static sigset_t caught;

static void note_signal(int number)
{
	noted_signal = number;
}

/*
 * @waiting_mask: receives the mask under which they arrive, also if who started us had them
 * blocked.  One that is ignored from the start (nohup, a shell's background jobs) stays ignored.
 */
void interrupt_catch(sigset_t *waiting_mask)
{
	static const int numbers[] = { SIGINT, SIGTERM, SIGHUP };
	struct sigaction action = { .sa_handler = note_signal }, old;

	sigemptyset(&caught);
	sigprocmask(SIG_SETMASK, NULL, waiting_mask);
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		if (sigaction(numbers[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN) {
			sigaction(numbers[i], &action, NULL);
			sigaddset(&caught, numbers[i]);
			sigdelset(waiting_mask, numbers[i]);
		}
	}
	sigprocmask(SIG_BLOCK, &caught, NULL);
}

/* The signal that has come, or 0.  Leaves errno alone. */
int interrupting_signal(void)
{
	static const struct timespec at_once;

	if (!noted_signal) {
		int error = errno;
		int number = sigtimedwait(&caught, NULL, &at_once);
		if (number > 0)
			noted_signal = number;
		errno = error;
	}
	return noted_signal;
}

/* Ends as the signal would have ended the command, so that a shell stops its loop too. */
void interrupt_end(void)
{
	sigset_t mask;

	signal(noted_signal, SIG_DFL);
	raise(noted_signal);
	sigemptyset(&mask);
	sigaddset(&mask, noted_signal);
	sigprocmask(SIG_UNBLOCK, &mask, NULL);
}
