/* SPDX-License-Identifier: MIT */
/* A table of descriptors of our own, and how files of the program get into it.  See table.c. */
#ifndef TA_TABLE_H
#define TA_TABLE_H

#include "internal.h"

/* In place of a descriptor: on its way; or lost, because the table had no room for it. */
#define TA_NUMBER_COMING (-1)
#define TA_NUMBER_LOST (-2)

/* The family, and a name of the kernel's choice: a zero and five digits. */
#define TA_TABLE_ADDRESS_MAX 16
struct ta_receiver;
struct ta_pool_page;

struct ta_table {
	enum ta_own_kind sender; /* of the program: what is sent by it comes here */
	int process_id; /* its own: a filter that comes later may refuse to tell it */
	int listener;
	unsigned char address[TA_TABLE_ADDRESS_MAX]; /* of the listener */
	unsigned address_bytes;
	_Atomic uint32_t files; /* sent, and not closed yet */
	struct ta_lock receive_lock;
	struct ta_receiver *receivers; /* one for each sender; receive_lock, as the next three */
	struct ta_receiver *free_receivers;
	struct ta_pool_page *pages;
	_Atomic uint32_t receiver_count; /* read without */
};

/* The kernel's, whose members have 64 bits on every machine. */
struct ta_limit {
	uint64_t soft;
	uint64_t hard;
};

/*
 * What was accepted must get to the table although the program has lowered its soft limit of
 * descriptors since, and it may have used up in its own table what that allows: it is lifted for
 * the moment, unless it leaves room beside so many.  The limit that was there, for giving back;
 * limit_lock is held in between.
 */
TA_HIDDEN struct ta_limit ta_table_lift_limit(uint64_t descriptors);
TA_HIDDEN void ta_table_lower_limit(struct ta_limit before);

/*
 * Makes the table, and the calling thread with those that it starts from then on its owner.  0; or
 * a negative errno: nothing has changed if that is -ENOSYS, otherwise the thread has an empty
 * table.
 */
TA_HIDDEN int ta_table_make(struct ta_table *table, enum ta_own_kind sender);
/* Is there a way to the table from here? */
TA_HIDDEN int ta_table_try(struct ta_table *table);
/*
 * In a thread of the program: sends the file behind fd.  Its number in the table will be stored
 * where ta_table_number looks for it, at an address that stays valid until it was there, or
 * the file is closed.  0, -EBADF; -EAGAIN if files must be received first; -ENFILE if it cannot be
 * had.
 */
TA_HIDDEN int ta_table_send(struct ta_table *table, _Atomic int *number, int fd);
/*
 * In the only thread of the program: makes the way for what is lent.  0, or a negative errno.  A
 * thread of the table is to receive it before long.
 */
TA_HIDDEN int ta_table_make_pair(struct ta_table *table);
/*
 * As ta_table_send, in a way that ta_table_take_back may find it on.  -ENOTCONN: there is no pair;
 * -ENFILE: it is to be sent.
 */
TA_HIDDEN int ta_table_lend(struct ta_table *table, _Atomic int *number, int fd);
/*
 * In the thread of the program that has lent a file: lets go of it.  False: it is in the table by
 * now, or others are before it.
 */
TA_HIDDEN bool ta_table_take_back(struct ta_table *table, const _Atomic int *number);
/* In a thread of the table: the number of what was sent, or TA_NUMBER_LOST. */
TA_HIDDEN int ta_table_number(struct ta_table *table, _Atomic int *number);
/* In a thread of the table: takes in whatever is on its way. */
TA_HIDDEN void ta_table_receive(struct ta_table *table);
/* In a thread of the table. */
TA_HIDDEN void ta_table_close(struct ta_table *table, int number);

#endif
