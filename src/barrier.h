/* SPDX-License-Identifier: MIT */
/*
 * The order that an fsync keeps: it starts after every earlier request on its file has ended.
 *
 * An *epoch* counts the requests of one descriptor that joined it and have not ended.  Whoever
 * submits an fsync seals all epochs with requests in flight (later requests join new ones) and
 * files each under what its descriptor refers to; one whose descriptor is closed already may be of
 * any file.  An fsync that finds sealed epochs of its file becomes a *sync* and attaches to each.
 * Syncs of one file queue in order of arrival.  The one at the head is issued once all its epochs
 * are drained; those right behind it ride along if they came by the same descriptor number and are
 * drained too, so that one call serves them all.  A sync of another descriptor gets a call of its
 * own, because the kernel reports a writeback error once per open file description, and one call
 * would swallow the other's report.
 *
 * Pure logic: no I/O, no lock, no thread.  The caller holds process->barrier_lock; an epoch's
 * own fields but waits belong to its context's lock, waits to both.  What has become due is handed
 * back in a list, and the caller issues it after unlocking.
 */
#ifndef TA_BARRIER_H
#define TA_BARRIER_H

#include <stdbool.h>
#include <stdint.h>

struct ta_context;
struct ta_barrier_file;
struct ta_barrier_wait;
struct ta_pool_page;

struct ta_epoch {
	uint32_t in_flight;
	int number; /* of the descriptor */
	bool sealed; /* takes no more requests; goes away when drained */
	struct ta_context *context;
	struct ta_epoch *next; /* open: of the same context; sealed: of the same file */
	struct ta_epoch *previous;
	struct ta_epoch *bucket_next; /* open: in its bucket; free */
	struct ta_barrier_file *file; /* sealed: NULL if it may be any */
	uint64_t filed_at; /* sealed: later ones have higher numbers */
	struct ta_barrier_wait *waits;
};

enum ta_sync_state {
	TA_SYNC_WAITING,
	TA_SYNC_RUNNING, /* issued, or riding along with the one that is */
	TA_SYNC_CANCELLED, /* keeps its place until its event is visible */
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
	uint64_t entered_at; /* as an epoch's filed_at */
};

#define TA_BARRIER_BUCKETS 256

struct ta_barrier {
	struct ta_barrier_file *buckets[TA_BARRIER_BUCKETS];
	struct ta_epoch *anywhere; /* sealed epochs that may be of any file */
	uint32_t files; /* with a sealed epoch or a sync */
	uint64_t filed; /* epochs and syncs, ever */
	struct ta_barrier_file *free_files;
	struct ta_barrier_wait *free_waits;
	struct ta_sync *free_syncs;
	struct ta_pool_page *pages; /* what the free lists were cut from */
};

__attribute__((visibility("hidden"))) int ta_barrier_file_epoch(struct ta_barrier *barrier,
								struct ta_epoch *epoch,
								uint64_t device, uint64_t inode);
__attribute__((visibility("hidden"))) void ta_barrier_file_anywhere(struct ta_barrier *barrier,
								    struct ta_epoch *epoch);
__attribute__((visibility("hidden"))) bool ta_barrier_is_empty(const struct ta_barrier *barrier);
__attribute__((visibility("hidden"))) bool
ta_barrier_must_wait(struct ta_barrier *barrier, uint64_t device, uint64_t inode, uint64_t filed);
__attribute__((visibility("hidden"))) struct ta_epoch *
ta_barrier_epochs(struct ta_barrier *barrier, uint64_t device, uint64_t inode);
__attribute__((visibility("hidden"))) struct ta_sync *
ta_barrier_enter(struct ta_barrier *barrier, uint64_t device, uint64_t inode, int descriptor,
		 bool data_only, void *owner);
__attribute__((visibility("hidden"))) int
ta_barrier_attach(struct ta_barrier *barrier, struct ta_sync *sync, struct ta_epoch *epoch);
__attribute__((visibility("hidden"))) void
ta_barrier_arm(struct ta_barrier *barrier, struct ta_sync *sync, struct ta_sync **due);
__attribute__((visibility("hidden"))) void ta_barrier_cancel(struct ta_sync *sync);
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
