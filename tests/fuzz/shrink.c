/* SPDX-License-Identifier: MIT */
/*
 * Makes a program that shows a difference as small as it gets, without knowing what it means.
 *
 * Records are left out, many at first and then one by one, and after that bytes are made zero.
 * Both go round until nothing helps any more or the time is over.
 */
#include "fuzz.h"

static time_t deadline;

static bool time_is_over(void)
{
	return time(NULL) >= deadline;
}

/* Leaves records out, `count` at once. */
static bool drop_records(uint8_t *bytes, size_t *size, shrink_test fails, unsigned count)
{
	size_t length = (size_t)count * RECORD_BYTES;
	uint8_t candidate[PROGRAM_BYTES];
	bool smaller = false;

	for (size_t at = 1; at < *size && !time_is_over();) {
		size_t end = at + length < *size ? at + length : *size;
		size_t candidate_size = *size - (end - at);

		memcpy(candidate, bytes, at);
		memcpy(candidate + at, bytes + end, *size - end);
		if (!fails(candidate, candidate_size)) {
			at += length;
			continue;
		}
		memcpy(bytes, candidate, candidate_size);
		*size = candidate_size;
		smaller = true;
	}
	return smaller;
}

static bool write_zeros(uint8_t *bytes, size_t size, shrink_test fails, size_t count)
{
	uint8_t candidate[PROGRAM_BYTES];
	bool simpler = false;

	for (size_t at = count == 1 ? 0 : 1; at + count <= size && !time_is_over(); at += count) {
		memcpy(candidate, bytes, size);
		memset(candidate + at, 0, count);
		if (memcmp(candidate, bytes, size) == 0 || !fails(candidate, size))
			continue;
		memcpy(bytes, candidate, size);
		simpler = true;
	}
	return simpler;
}

void shrink(uint8_t bytes[PROGRAM_BYTES], size_t *size, shrink_test fails, unsigned seconds)
{
	bool progress = true;

	deadline = time(NULL) + (time_t)seconds;
	while (progress && !time_is_over()) {
		progress = false;
		for (unsigned count = RECORDS_MAX / 2; count > 0; count /= 2)
			progress |= drop_records(bytes, size, fails, count);
		progress |= write_zeros(bytes, *size, fails, RECORD_BYTES / 4);
		progress |= write_zeros(bytes, *size, fails, 1);
	}
}
