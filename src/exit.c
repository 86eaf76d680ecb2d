/* SPDX-License-Identifier: MIT */
/*
 * The end of the process: what io_submit has accepted is not lost at exit().
 *
 * Requests in the kernel's hands are finished by the kernel.  Writes that were offloaded and fsyncs
 * that are held would go with our threads, so exit() waits for them, without limit.  Reads have
 * nobody left to read for.  _exit, exec and SIGKILL do not come by here.
 */
#include "internal.h"

__attribute__((destructor)) static void drain_at_exit(void)
{
	struct ta_process *process = atomic_load(&ta_process_pointer);
	uint32_t owed;

	/*
	 * A child that never called us has inherited nothing; a handler that calls exit() inside
	 * the library cannot wait for it.
	 */
	if (!process || atomic_load(&process->ready) != 2 || ta_thread_is_inside())
		return;
	while ((owed = atomic_load(&process->owed_at_exit)) > 0)
		ta_futex_wait(&process->owed_at_exit, owed, TA_NO_DEADLINE);
}
