/* SPDX-License-Identifier: MIT */
/*
 * The end of the process: what io_submit has accepted is not lost at exit().
 *
 * Requests in the kernel's hands are finished by the kernel.  Writes that workers carry out and
 * fsyncs that are held would go with our threads, so exit() waits for those that were accepted
 * before it began, without limit, whatever other threads go on submitting.  Reads have nobody left
 * to read for.  _exit, exec and SIGKILL do not come by here.
 */
#include "internal.h"

__attribute__((destructor)) static void drain_at_exit(void)
{
	struct ta_process *process = atomic_load(&ta_process_pointer);
	uint32_t owed;

	/* A child that never called us has inherited nothing. */
	if (!process || atomic_load(&process->ready) != 2)
		return;
	/* exit() may be called by a handler that has interrupted the library. */
	ta_thread_abandon_locks();
	atomic_store(&process->exit_phase, 1);
	while ((owed = atomic_load(&process->owed_at_exit[0])) > 0)
		ta_futex_wait(&process->owed_at_exit[0], owed, TA_NO_DEADLINE);
}
