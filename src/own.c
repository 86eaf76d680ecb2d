/* SPDX-License-Identifier: MIT */
/*
 * Descriptors of ours in the program's descriptor tables.
 *
 * A number there is never trusted.  The program may close descriptors that it does not know and
 * open its own files at the same numbers; a thread may have a table of its own
 * (unshare(CLONE_FILES)); a forked child inherits the numbers and may have closed and reused them.
 * So each of ours is a pipe or a socket, whose inode nobody else has, and its identity is checked
 * each time before it is used or closed.  The look takes one system call.
 *
 * The records survive fork: their second purpose is to tell a child what it must close.  They need
 * no lock: an entry is written once its slot is claimed, and a reader that finds half of it finds
 * an identity that no file has.
 */
#include "internal.h"

#include <fcntl.h>

/* A table each for a few threads that have their own, or descriptors made again after a loss. */
#define RECORDS_A_KIND 4

struct record {
	_Atomic int number; /* plus one; 0: free, or being written */
	_Atomic uint64_t device;
	_Atomic uint64_t inode;
};

static struct record records[TA_OWN_KINDS][RECORDS_A_KIND];
static _Atomic uint32_t next_record[TA_OWN_KINDS];
/*
 * What this thread has made: however many tables there are, it makes no more than one in its own.
 */
static __thread struct record latest[TA_OWN_KINDS] __attribute__((tls_model("initial-exec")));

/*
 * Programs count on the lowest numbers, so ours move up.  Not higher than this: a process starts
 * with room for 64, and a larger table makes a process with threads wait for a grace period of the
 * kernel, some 10 ms inside an io_submit.
 */
#define HIGH_DESCRIPTOR 48

static int move_up(int fd)
{
	long high;

	if (fd >= HIGH_DESCRIPTOR)
		return fd;
	high = ta_syscall3(SYS_fcntl, fd, F_DUPFD_CLOEXEC, HIGH_DESCRIPTOR);
	if (high < 0)
		return fd;
	ta_syscall1(SYS_close, fd);
	return (int)high;
}

static bool is_ours(const struct record *record, int number)
{
	const struct ta_file_identity identity = {
		.device = atomic_load(&record->device),
		.inode = atomic_load(&record->inode),
	};

	return ta_file_is_still(number, &identity);
}

/* A descriptor of this kind in the table of this thread, or -ENOENT. */
int ta_own_find(enum ta_own_kind kind)
{
	int i;

	for (i = -1; i < RECORDS_A_KIND; i++) {
		const struct record *record = i < 0 ? &latest[kind] : &records[kind][i];
		int number = atomic_load(&record->number) - 1;

		if (number >= 0 && is_ours(record, number))
			return number;
	}
	return -ENOENT;
}

/* One was made, and may be gone.  No system call. */
bool ta_own_is_known(enum ta_own_kind kind)
{
	return atomic_load(&latest[kind].number) != 0 || atomic_load(&next_record[kind]) != 0;
}

/*
 * Remembers a descriptor that was just made.  Returns its number, which is another now if there was
 * room higher up.  The oldest record of its kind goes.
 */
int ta_own_add(enum ta_own_kind kind, int fd)
{
	uint32_t place = atomic_fetch_add(&next_record[kind], 1) % RECORDS_A_KIND;
	struct record *record = &records[kind][place];
	struct ta_file_identity identity = { 0 };

	/* Its former tenant is in a table that is gone, or was closed by the program. */
	atomic_store(&record->number, 0);
	fd = move_up(fd);
	(void)ta_file_identify(fd, &identity);
	atomic_store(&record->device, identity.device);
	atomic_store(&record->inode, identity.inode);
	atomic_store(&record->number, fd + 1);
	atomic_store(&latest[kind].device, identity.device);
	atomic_store(&latest[kind].inode, identity.inode);
	atomic_store(&latest[kind].number, fd + 1);
	return fd;
}

/* In a forked child, which has no use for its parent's. */
void ta_own_close_inherited(void)
{
	int kind, i;

	for (kind = 0; kind < TA_OWN_KINDS; kind++) {
		for (i = -1; i < RECORDS_A_KIND; i++) {
			struct record *record = i < 0 ? &latest[kind] : &records[kind][i];
			int number = atomic_exchange(&record->number, 0) - 1;

			if (number >= 0 && is_ours(record, number))
				ta_syscall1(SYS_close, number);
		}
	}
}
