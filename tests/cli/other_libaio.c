/* SPDX-License-Identifier: MIT */
/*
 * A libaio that is not ours, for programs to be led away from: it has the function that
 * names_libaio.c asks for, and its version.
 */
int io_submit(void *context, long nr, void *requests[]);

int io_submit(void *context, long nr, void *requests[])
{
	(void)context, (void)nr, (void)requests;
	return -38;
}
