/* SPDX-License-Identifier: MIT */
/*
 * The differential test behind libFuzzer, which looks for bytes that reach new code of the library.
 *
 * make fuzz-libfuzzer builds it with clang, the library's sources instrumented and linked in.  A
 * difference is a crash to libFuzzer; it keeps the bytes, and differential --bytes takes them too.
 */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static struct side reference, library;
	static struct program program;
	static bool opened;
	struct difference difference;

	if (!opened) {
		world_open();
		world_forget();
		side_open(&reference, &calls_reference);
		side_open(&library, &calls_library);
		opened = true;
	}
	if (size > PROGRAM_BYTES)
		return -1;
	program_decode(&program, bytes, size);
	run_reference(&program, &reference);
	run_library(&program, &library, &reference, &difference);
	if (!difference.found)
		return 0;
	program_print(&program, stderr);
	fprintf(stderr, "difference: %s\n", difference.text);
	abort();
}
