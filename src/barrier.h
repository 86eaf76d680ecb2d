/* SPDX-License-Identifier: MIT */
/*
 * The order that an fsync keeps: it starts after every earlier request on its file has ended.
 *
 * An *epoch* counts the requests of one descriptor that joined it and have not ended.  An fsync
 * that finds requests in flight becomes a *sync*: it seals the epochs it must wait for (later
 * requests join new ones) and attaches to each.  Syncs of one file queue in order of arrival.  The
 * one at the head is issued once all its epochs are drained; those right behind it ride along if
 * they came by the same descriptor number and are drained too, so that one call serves them all.  A
 * sync of another descriptor gets a call of its own, because the kernel reports a writeback error
 * once per open file description, and one call would swallow the other's report.
 *
 * Pure logic: no I/O, no lock, no thread.  Whoever calls holds process->barrier_lock; an epoch's
 * own fields but waits belong to its context's lock, waits to both.  What has become due is handed
 * back in a list, and the caller issues it after unlocking.
 */
#ifndef TA_BARRIER_H
#define TA_BARRIER_H

#include <stdbool.h>
#include <stdint.h>

struct ta_descriptor;
struct ta_barrier_file;
struct ta_barrier_wait;
struct ta_pool_page;

struct ta_epoch {
	uint32_t in_flight;
	bool sealed; /* takes no more requests; goes away when drained */
	uint64_t sealed_at; /* submissions with a higher sequence are later */
	struct ta_descriptor *descriptor;
	struct ta_epoch *next; /* of the same descriptor */
	struct ta_barrier_wait *waits;
};

enum ta_sync_state {
	TA_SYNC_WAITING,
	TA_SYNC_RUNNING, /* issued, or riding along with the one that is */
	TA_SYNC_WITHDRAWN, /* gone, but epochs still refer to it */
};

struct ta_sync {
	struct ta_sync *next; /* arrived later on the same file */
	struct ta_sync *previous;
	struct ta_sync *due_next; /* in a list handed back */
	struct ta_barrier_file *file;
	void *owner;
	int descriptor;
	bool data_only;
	bool group_data_only; /* of an issued one: no rider needs more than fdatasync */
	bool armed; /* its submission is over */
	uint8_t state;
	uint32_t pending; /* epochs not drained, plus one until armed */
};

struct ta_barrier {
	struct ta_barrier_file *files;
	struct ta_barrier_file *free_files;
	struct ta_barrier_wait *free_waits;
	struct ta_sync *free_syncs;
	struct ta_pool_page *pages; /* what the free lists were cut from */
};

__attribute__((visibility("hidden"))) struct ta_sync *
ta_barrier_enter(struct ta_barrier *barrier, uint64_t device, uint64_t inode, int descriptor,
		 bool data_only, void *owner);
__attribute__((visibility("hidden"))) int
ta_barrier_attach(struct ta_barrier *barrier, struct ta_sync *sync, struct ta_epoch *epoch);
__attribute__((visibility("hidden"))) bool ta_barrier_is_alone(const struct ta_sync *sync);
__attribute__((visibility("hidden"))) void
ta_barrier_arm(struct ta_barrier *barrier, struct ta_sync *sync, struct ta_sync **due);
__attribute__((visibility("hidden"))) void
ta_barrier_withdraw(struct ta_barrier *barrier, struct ta_sync *sync, struct ta_sync **due);
__attribute__((visibility("hidden"))) void
ta_barrier_drained(struct ta_barrier *barrier, struct ta_epoch *epoch, struct ta_sync **due);
__attribute__((visibility("hidden"))) struct ta_sync *ta_barrier_group(struct ta_sync *leader);
__attribute__((visibility("hidden"))) struct ta_sync *
ta_barrier_ended(struct ta_barrier *barrier, struct ta_sync *leader, struct ta_sync **due);
__attribute__((visibility("hidden"))) void ta_barrier_release(struct ta_barrier *barrier,
							      struct ta_sync *sync);

#endif
