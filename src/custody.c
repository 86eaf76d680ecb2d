/* SPDX-License-Identifier: MIT */
/*
 * Custodians: how a held fsync of a pass-through context keeps its file.
 *
 * A custodian is a thread with a descriptor table of its own, copied inside io_submit and emptied
 * of everything but the file (and the eventfd) of one request, under their own numbers.  So
 * whatever the program does with those numbers, here they mean what they meant in the call; and
 * because record locks belong to a descriptor table, closing the copies drops none of the program's
 * (tried on 6.18).  In a pass-through context the thread even submits the program's own iocb with
 * them.
 *
 * A custodian waits for one word and lives for one request.  It is dear (a thread), and rare: only
 * pass-through contexts need one, whose iocb must be submitted under its own number.
 */
#include "custody.h"

#include <linux/close_range.h>
#include <string.h>

enum {
	CUSTODY_STARTING,
	CUSTODY_READY, /* the file is in its table */
	CUSTODY_RELEASED, /* go on: the fsync's turn has come, or it was cancelled */
	CUSTODY_DISMISSED, /* the operation is somebody else's, or gone */
};

struct ta_custodian {
	_Atomic uint32_t word;
	int fd;
	int second_fd; /* -1: none */
	bool owns_table;
	struct ta_operation *operation; /* valid until released */
};

static long close_all_between(long first, long last, unsigned flags)
{
	return first <= last ? ta_syscall3(SYS_close_range, first, last, flags) : 0;
}

/*
 * Makes the thread's table its own and closes all but the two descriptors.  Without close_range
 * (before 5.9) or where it is refused, the table stays the program's: then the request means what
 * its number means when it is issued.
 */
static bool take_table(int low, int high)
{
	if (low > high) {
		int swapped = low;

		low = high;
		high = swapped;
	}
	if (ta_syscall3(SYS_close_range, (long)high + 1, UINT32_MAX, CLOSE_RANGE_UNSHARE) < 0)
		return false;
	if (low < 0)
		low = high;
	close_all_between(low + 1, high - 1, 0);
	close_all_between(0, (long)low - 1, 0);
	return true;
}

static void perform(struct ta_custodian *custodian)
{
	struct ta_operation *operation = custodian->operation;
	long result;

	if (operation->cancelled && !operation->sync) {
		result = -ECANCELED;
	} else if (operation->object) {
		ta_passthrough_sync(operation);
		return;
	} else {
		result = ta_syscall1(operation->sync->group_data_only ? SYS_fdatasync : SYS_fsync,
				     custodian->fd);
	}
	if (custodian->owns_table)
		ta_syscall1(SYS_close, custodian->fd);
	ta_operation_ended(operation, result);
}

static void *custodian_thread(void *argument)
{
	struct ta_custodian *custodian = argument;
	uint32_t word;

	custodian->owns_table = take_table(custodian->fd, custodian->second_fd);
	if (custodian->owns_table)
		ta_thread_becomes_foreign(-1);
	atomic_store(&custodian->word, CUSTODY_READY);
	ta_futex_wake(&custodian->word, 1);
	while ((word = atomic_load(&custodian->word)) == CUSTODY_READY)
		ta_futex_wait(&custodian->word, CUSTODY_READY, TA_NO_DEADLINE);
	if (word == CUSTODY_RELEASED)
		perform(custodian);
	ta_pages_free(custodian, sizeof(*custodian));
	return NULL;
}

/* Called inside io_submit; returns once the file is held.  0, -EBADF or -EAGAIN. */
int ta_custody_begin(struct ta_operation *operation, int fd, int second_fd)
{
	struct ta_custodian *custodian = ta_pages_alloc(sizeof(*custodian));

	if (!custodian)
		return -EAGAIN;
	if (ta_messenger_start() < 0) {
		ta_pages_free(custodian, sizeof(*custodian));
		return -EAGAIN;
	}
	custodian->fd = fd;
	custodian->second_fd = second_fd;
	custodian->operation = operation;
	if (ta_thread_start(custodian_thread, custodian) < 0) {
		ta_pages_free(custodian, sizeof(*custodian));
		return -EAGAIN;
	}
	while (atomic_load(&custodian->word) == CUSTODY_STARTING)
		ta_futex_wait(&custodian->word, CUSTODY_STARTING, TA_NO_DEADLINE);
	operation->custodian = custodian;
	return 0;
}

static void tell(struct ta_custodian *custodian, uint32_t word)
{
	/*
	 * The custodian may be gone with its memory by the time of the wake-up: a futex call on an
	 * address that is no more does nothing.
	 */
	atomic_store(&custodian->word, word);
	ta_futex_wake(&custodian->word, 1);
}

/* The operation is the custodian's from here on: it ends it. */
void ta_custody_release(struct ta_custodian *custodian)
{
	tell(custodian, CUSTODY_RELEASED);
}

void ta_custody_dismiss(struct ta_custodian *custodian)
{
	tell(custodian, CUSTODY_DISMISSED);
}
