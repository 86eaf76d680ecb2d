/* SPDX-License-Identifier: MIT */
/*
 * The map of the library: what its files share.  Nothing here is public.
 *
 * Words.  A *context* is what io_setup makes.  Its *handle* is the address the program holds: the
 * kernel's completion ring.  A *slot* is storage for one request of a mediated context; its address
 * is what the kernel is given, so that every completion names its request exactly, whatever the
 * program does with its iocb meanwhile.  An *operation* is a request that the library itself
 * carries out: because kernel AIO would make io_submit wait for it, or an fsync that is *held*.  An
 * *epoch* counts the requests of one descriptor between two fsyncs; a *sync* is an fsync that waits
 * for epochs.  An *offloaded context* has no kernel AIO behind it: all its requests are operations.
 *
 * Threads.  Any thread of the program enters through api.c.  Of our own there are two families.
 * Helpers (helper.c) use the program's descriptor table: the first starts other threads, the
 * follower watches contexts in which an fsync awaits something, retirers pay the 30 ms of the
 * kernel's io_destroy.  The supervisor, the poller and the workers share a table of their own, and
 * the custodian has another: to them the program's numbers mean nothing or something else, they are
 * *foreign*.
 *
 * Locks, outermost first.  A thread that holds one takes only those below it, and never two
 * contexts' at once.
 *
 *	process->table_lock	which contexts exist, which are busy, retired kernel contexts
 *	context->lock		everything in a context, its slots and epochs
 *	process->barrier_lock	the syncs of all contexts and the sealed epochs, by file
 *	process->offload_lock	operations: pool, queues, lines, files
 *	receive_lock		of the workers: files that are on their way to their table
 *	process->limit_lock	the limit of descriptors, while it is not the program's
 *	process->helper_lock	what helpers have to do
 *	pages.lock		free pages
 *
 * No system call that can wait is made and no eventfd signalled with a lock held: what a step finds
 * to do is collected in a struct ta_work and done by ta_work_finish after the context's lock is
 * released.
 *
 * Signals.  A handler may interrupt a thread anywhere and call the library, fork, exit, or never
 * come back.  Where more than a moment is spent with something unfinished (waiting, batches that
 * are not the kernel's alone) signals are blocked, but for the sleep itself, in which nothing is
 * held and nothing depends on coming back.
 *
 * Fork.  All memory of the library is in page ranges that the kernel gives a child as zeroes
 * (MADV_WIPEONFORK); all-zero is the valid initial state, so a child starts empty without any
 * handler run by fork, and one that was forked by a signal handler and returns into a wait finds a
 * context that is none.
 */
#ifndef TA_INTERNAL_H
#define TA_INTERNAL_H

#include "barrier.h"
#include "libaio.h"
#include "pages.h"
#include "ring.h"
#include "sys.h"

#include <stddef.h>
#include <string.h>
#include <sys/uio.h>

struct ta_context;
struct ta_operation;
struct ta_file_identity;

/* Of iocb.u.c.flags; <linux/aio_abi.h> has them beside structures whose names are ours, too. */
#define IOCB_FLAG_RESFD 1u
#define IOCB_FLAG_IOPRIO 2u

/* Of aio_rw_flags, what older headers lack. */
#ifndef RWF_HIPRI
#define RWF_HIPRI 0x00000001
#endif
#ifndef RWF_DSYNC
#define RWF_DSYNC 0x00000002
#endif
#ifndef RWF_SYNC
#define RWF_SYNC 0x00000004
#endif
#ifndef RWF_NOWAIT
#define RWF_NOWAIT 0x00000008
#endif
#ifndef RWF_APPEND
#define RWF_APPEND 0x00000010
#endif
#ifndef RWF_NOAPPEND
#define RWF_NOAPPEND 0x00000020
#endif
#ifndef RWF_ATOMIC
#define RWF_ATOMIC 0x00000040
#endif
#ifndef RWF_DONTCACHE
#define RWF_DONTCACHE 0x00000080
#endif
#ifndef RWF_NOSIGNAL
#define RWF_NOSIGNAL 0x00000100
#endif
/* All that a kernel has given a meaning by 6.18. */
#define TA_KNOWN_FLAGS                                                                             \
	(RWF_HIPRI | RWF_DSYNC | RWF_SYNC | RWF_NOWAIT | RWF_APPEND | RWF_NOAPPEND | RWF_ATOMIC |  \
	 RWF_DONTCACHE | RWF_NOSIGNAL)

/*
 * What is a pointer or a long to the program is a field of 64 bits to the kernel, padding included:
 * its place in struct iocb, or in struct io_event.
 */
#define TA_FIELD_BUF 24
#define TA_FIELD_NBYTES 32
#define TA_FIELD_RES 16

static inline uint64_t ta_iocb_field(const struct iocb *iocb, size_t place)
{
	uint64_t value;

	memcpy(&value, (const char *)iocb + place, sizeof(value));
	return value;
}

static inline bool ta_iocb_is_transfer(const struct iocb *iocb)
{
	switch (iocb->aio_lio_opcode) {
	case IO_CMD_PREAD:
	case IO_CMD_PREADV:
	case IO_CMD_PWRITE:
	case IO_CMD_PWRITEV:
		return true;
	default:
		return false;
	}
}

/* What the kernel refuses before it looks at anything else. */
static inline bool ta_iocb_is_malformed(const struct iocb *iocb)
{
	return iocb->u.c.__pad3 || (int64_t)ta_iocb_field(iocb, TA_FIELD_NBYTES) < 0;
}

/* ---- requests -------------------------------------------------------------------------------- */

enum ta_slot_state {
	TA_SLOT_FREE,
	TA_SLOT_SUBMITTING, /* its io_submit is still running */
	TA_SLOT_KERNEL, /* in the kernel's hands */
	TA_SLOT_OPERATION, /* in ours: slot->operation */
	TA_SLOT_READY, /* ended, its event waits to be reaped */
};

/* slot->flags */
#define TA_SLOT_KEY_CLEARED 0x01u /* refused so late that the kernel would have cleared the key */
#define TA_SLOT_CANCELLED 0x02u /* io_cancel has said so */
#define TA_SLOT_AT_ONCE 0x04u /* the thread of io_submit is to carry it out */
#define TA_SLOT_BRIEF 0x08u /* ... within a moment: in no epoch until then */
#define TA_SLOT_TRIED 0x10u /* a read that has asked the kernel to fetch what it missed */

/*
 * Guarded by the context's lock; one that is being submitted belongs to the thread that submits it.
 */
struct ta_slot {
	struct iocb iocb; /* first: what the kernel gets is the address of the slot */
	struct iocb
		*object; /* the program's iocb: a number for the event's obj, never read again */
	struct ta_epoch *epoch; /* NULL: not waited for by an fsync */
	struct ta_slot *next; /* in the free list or the ready list */
	struct ta_slot *index_next; /* in the index of io_cancel */
	long result;
	struct ta_operation *operation; /* of TA_SLOT_OPERATION */
	uint64_t sequence; /* by age of submission: io_cancel takes the oldest match */
	uint8_t state;
	uint8_t flags;
	uint8_t file_class; /* of its descriptor, when it was submitted */
};

_Static_assert(sizeof(struct iocb) == 64, "the kernel's struct iocb");
_Static_assert(sizeof(void *) != 8 || sizeof(struct ta_slot) == 128, "two cache lines a request");

/*
 * Slots come by the page.  The page of a slot tells whose it is, so that any address can be
 * checked.
 */
struct ta_slot_page {
	struct ta_slot_page *next; /* of the same context */
	struct ta_context *context;
	_Alignas(64) struct ta_slot slots[];
};

#define TA_SLOTS_A_PAGE                                                                            \
	((TA_PAGE_BYTES - offsetof(struct ta_slot_page, slots)) / sizeof(struct ta_slot))

/* What a descriptor is, as far as a submission must know. */
enum ta_file_class {
	TA_FILE_KERNEL, /* kernel AIO does all of it without waiting, or nothing does it better */
	TA_FILE_MEMORY, /* a regular file in memory: nothing of it ever waits */
	TA_FILE_DEVICE, /* a memory device: reads can say "would block" */
	TA_FILE_BUFFERED, /* goes through the page cache: one of the next, which is not known yet */
	TA_FILE_CACHED, /* RWF_NOWAIT tells a miss, and kernel AIO makes writes in the caller */
	TA_FILE_SYNCHRONOUS, /* the same, but writes return when the disk has them */
	TA_FILE_SLOW, /* only trying a read tells whether it waits; writes are the kernel's */
	TA_FILE_STREAM, /* pipe, socket, terminal: may wait for ever, order matters */
};

enum ta_context_mode {
	TA_CONTEXT_MEDIATED,
	TA_CONTEXT_PASSTHROUGH,
	TA_CONTEXT_OFFLOADED, /* no kernel AIO: the handle is a range of our own */
};

#define TA_EPOCH_BUCKETS 32

/*
 * Type-stable: the memory of a context never becomes anything else, so a stale look-up may read it.
 * All fields but the first two and those that say so are guarded by lock.
 */
struct ta_context {
	struct ta_lock lock;
	_Atomic uintptr_t handle; /* 0: no context.  Written under table_lock and lock */
	_Atomic(struct ta_context *) next; /* in its bucket; written under table_lock */
	struct ta_context *list_next; /* retired or free; table_lock */
	struct ta_context *busy_next; /* among those with requests in open epochs: epoch.c */
	struct ta_context *follow_next; /* helper_lock */
	struct ta_context *concerned_next; /* by an fsync that looks; table_lock */
	uint64_t looked_at; /* by which look; table_lock */
	/*
	 * Changes when io_destroy begins: who slept meanwhile is a stranger.  Written with
	 * ta_context_set_generation, for those who read it without the lock.
	 */
	uint32_t generation;
	bool is_busy; /* linked there */
	bool is_followed; /* linked by follow_next; helper_lock */
	bool dying; /* io_destroy has begun */

	enum ta_context_mode mode;
	unsigned asked; /* nr_events of io_setup */
	unsigned long kernel_handle;
	struct ta_ring *ring; /* NULL: gone, or about to go */
	/* Of the ring, which the program can write to. */
	uint32_t event_count;
	uint32_t ring_id;

	struct ta_slot_page *slot_pages;
	uint32_t slot_count; /* as many may be used */
	uint32_t used; /* slots that are not free */
	struct ta_slot *free_slots;
	uint64_t sequence;
	struct ta_slot **index; /* see cancel.c; NULL: nobody has cancelled anything here */

	struct ta_slot *ready_head; /* ended requests in order of completion */
	struct ta_slot *ready_tail;
	uint32_t ready_count;

	/* See reap.c.  A thread that left its sleep by other means than return stays counted. */
	uint32_t arrivals; /* changes with each request that is added to the ready list */
	uint32_t sleepers; /* threads that sleep, or are about to */
	uint32_t unaware; /* of these, those that have not looked since the last arrival */
	uint32_t unlimited; /* of these, those that sleep until there is an event */
	uint32_t most_wanted; /* events that one of them may sleep for, if above 1 */
	bool wake_posted; /* a wake-up is in the ring and not yet drained */
	bool may_post; /* requests have ended here, or will, that are not the kernel's */
	_Atomic uint32_t word; /* of an offloaded context: changes when sleepers are woken */

	_Atomic uint32_t
		/* epochs that a sync waits for: followed even if nobody calls; barrier_lock */
		owed;
	uint32_t operations; /* ours that have not ended */
	struct ta_operation *latest; /* of these, or one that has ended since */
	uint32_t
		/* io_submits that are not the kernel's alone, and completions being announced */
		inside;
	uint32_t at_once; /* io_submits whose requests are all brief; a handler may jump out */
	_Atomic uint32_t inside_word; /* changes when one of the two falls to zero while dying */

	struct ta_epoch *open_epochs; /* those that new requests join */
	struct ta_epoch *epoch_buckets[TA_EPOCH_BUCKETS]; /* the same by number */
	struct ta_epoch
		*last_epoch; /* of the latest request; alone of the open ones it may be empty */
	struct ta_epoch *free_epochs;
	struct ta_pool_page *pool_pages; /* what the free list was cut from */

	struct ta_tracking *tracking; /* pass-through contexts: what is in flight */
};

/* ---- operations ------------------------------------------------------------------------------ */

/*
 *	HELD ----+              +-----> PARKED ----> ENDED
 *	         v              |          |           ^
 *	NEW -> QUEUED <---> RUNNING -------|-----------+
 *	 |      ^  ^                       |           |
 *	 +-> IN_LINE +---------------------+           |
 *	 +-> CALLERS ----------------------------------+
 *
 * What waits (HELD, IN_LINE, QUEUED, PARKED) goes straight to ENDED when it is cancelled.
 */
enum ta_operation_state {
	TA_OPERATION_NEW, /* its io_submit is at it, and a worker is to have it */
	TA_OPERATION_CALLERS, /* a thread of the program carries it out, in io_submit or waiting */
	TA_OPERATION_HELD, /* a sync whose epochs are not drained, or behind another */
	TA_OPERATION_IN_LINE, /* others of its file come first */
	TA_OPERATION_QUEUED, /* waits for a worker */
	TA_OPERATION_RUNNING, /* a worker has taken it */
	TA_OPERATION_PARKED, /* waits for its file to become ready */
	TA_OPERATION_ENDED, /* its result is there: ready_result, unless somebody knows it better */
};

/* What a transfer is made on. */
enum ta_target {
	TA_TARGET_FILE, /* a file or block device */
	/* a character device with positions, which never waits: a memory device */
	TA_TARGET_DEVICE,
	/* From here on: streams, which may wait for ever, and have no position. */
	TA_TARGET_LOOSE, /* eventfds, tun and the like, in no line */
	TA_TARGET_STREAM, /* pipes and terminals */
	TA_TARGET_SOCKET,
};

/* The kernel's UIO_MAXIOV. */
#define TA_VECTOR_MAX 1024
/* What the kernel moves in one request at most (MAX_RW_COUNT with 4 KiB pages). */
#define TA_TRANSFER_MAX 0x7ffff000UL
#define TA_OPERATION_VECTOR 8

/* The lists in which an operation stands, by either neighbour. */
enum ta_list_kind {
	TA_LIST_LINE, /* of an inode */
	TA_LIST_QUEUE, /* of a file: for a worker, or for the file to become ready */
	TA_LISTS,
};

struct ta_list {
	struct ta_operation *head;
	struct ta_operation *tail;
};

/*
 * Guarded by offload_lock from its start on; before that it belongs to the thread that submits it.
 */
struct ta_operation {
	struct ta_operation *next; /* in the pool */
	struct {
		struct ta_operation *next;
		struct ta_operation *previous;
	} links[TA_LISTS];
	/* Up to is_sync: what is looked at for others of its line, close together. */
	int64_t offset; /* -1: a stream's own */
	int64_t end; /* the first byte behind it; of an append, the last that there can be */
	uint8_t state;
	uint8_t target;
	uint8_t owed_phase; /* of exit(): when it was accepted */
	uint8_t opcode; /* IO_CMD_PREAD, PREADV, PWRITE, PWRITEV, FSYNC, FDSYNC, POLL */
	bool nonblocking; /* O_NONBLOCK or RWF_NOWAIT: EAGAIN and a short write are final */
	bool is_direct; /* O_DIRECT when it was submitted */
	bool cancelled; /* ends with -ECANCELED at the next chance */
	bool is_unwatched; /* epoll has not taken its file: a worker looks at it now and then */
	bool is_sync;
	struct ta_context *context;
	struct ta_slot *slot;
	uint16_t poll_events; /* of a POLL; of a parked transfer: what it waits for */
	uint16_t io_priority;
	int flags; /* aio_rw_flags */
	uint32_t to_submit; /* slots that its io_submit has for it and what comes after it */
	int resfd; /* the program's eventfd as numbered at submission; -1: none */
	struct ta_hold *hold; /* the file; NULL: none, or given back */
	struct ta_hold *eventfd; /* NULL: none, or resfd means it still */
	struct ta_inode *inode; /* in a line of which it stands; NULL: in none */
	long ready_result;
	int64_t started_ns;
	size_t transferred; /* by earlier parts of it */
	struct iovec *vector;
	struct iovec *vector_memory; /* where it does not fit inline_vector */
	size_t vector_bytes;
	unsigned vector_count;
	unsigned vector_skipped; /* parts that are done */
	struct iovec inline_vector[TA_OPERATION_VECTOR];
	struct ta_kept *kept; /* of a sync in a pass-through context: custody.c */
	struct ta_sync *sync;
	struct iocb proxy; /* see passthrough.c */
	struct iocb *object; /* of a sync in a pass-through context: the program's iocb */
};

/* ---- what a step leaves to do ---------------------------------------------------------------- */

struct ta_work {
	struct ta_sync *issue; /* syncs whose turn has come */
	struct ta_operation *ended; /* held fsyncs whose events are in a pass-through ring */
};

static inline bool ta_work_is_any(const struct ta_work *work)
{
	return work->issue || work->ended;
}

/* ---- the process ----------------------------------------------------------------------------- */

/* What needs threads, and is started when it is first wanted. */
enum ta_service {
	TA_SERVICE_WORK, /* supervisor, poller, workers */
	TA_SERVICE_FOLLOW, /* the follower */
	TA_SERVICE_CUSTODY, /* the custodian */
	TA_SERVICES,
};

enum ta_service_state {
	TA_SERVICE_NOT_TRIED,
	TA_SERVICE_BEING_TRIED,
	TA_SERVICE_THERE,
	TA_SERVICE_REFUSED,
};

#define TA_BUCKETS 2048
#define TA_KNOWN_PAGES 1024
#define TA_KNOWN_CLASSES 512

#define TA_HOLD_BUCKETS 256
#define TA_INODE_BUCKETS 256

struct ta_workers;
struct ta_custody;

struct ta_process {
	_Atomic uint32_t ready; /* 0: wiped or new, 1: being set up, 2: usable */

	struct ta_lock table_lock;
	_Atomic(struct ta_context *) buckets[TA_BUCKETS]; /* read without a lock */
	struct ta_context *free_contexts; /* table_lock */
	struct ta_context *retired; /* idle kernel contexts about to be destroyed; table_lock */
	uint32_t retired_count; /* table_lock */
	uint32_t retirers; /* threads that destroy them; table_lock */
	_Atomic(struct ta_context *)
		busy; /* pushed by who joins an epoch; taken under table_lock */
	_Atomic bool is_sealing; /* what was taken; written under table_lock */
	uint64_t latest_look; /* of an fsync for what has ended; table_lock */
	_Atomic bool has_kernel_contexts; /* has ever had one */

	struct ta_lock barrier_lock;
	struct ta_barrier barrier; /* barrier_lock */

	struct ta_lock offload_lock;
	struct ta_operation *free_operations; /* offload_lock */
	_Atomic(struct ta_operation *) spent_operations; /* to be added to the free ones */
	_Atomic(struct ta_operation *) unsignalled; /* whose eventfds the first helper signals */
	struct ta_pool_page *operation_pages; /* offload_lock */
	struct ta_inode *inodes[TA_INODE_BUCKETS]; /* of files in flight; offload_lock */
	struct ta_inode *free_inodes; /* offload_lock */
	struct ta_hold *holds[TA_HOLD_BUCKETS]; /* that may be shared; offload_lock */
	struct ta_hold *free_holds; /* offload_lock */
	struct ta_lock limit_lock; /* held while the limit of descriptors is another (table.c) */

	struct ta_lock helper_lock;
	struct ta_context *followed; /* helper_lock */
	_Atomic uint32_t follow_word; /* changes when that grows */
	_Atomic uint32_t helper_word; /* changes when there is something for the first helper */
	_Atomic uint32_t services_wanted; /* a bit each, for the first helper */
	_Atomic uint32_t retirers_wanted; /* to be started by it */
	_Atomic bool has_helper;

	struct {
		_Atomic uint32_t state; /* enum ta_service_state */
		_Atomic int64_t retry_ns; /* when a refusal is put to the test again */
	} services[TA_SERVICES];

	_Atomic uint32_t
		owed_at_exit[2]; /* writes and syncs, by the phase in which they were accepted */
	_Atomic uint32_t exit_phase; /* 1: exit() has begun */
	_Atomic uint32_t reads_offloaded;
	_Atomic uint32_t own_threads; /* of the library, that run */
	_Atomic uint32_t in_lines; /* operations in lines of files: line.c */

	struct ta_workers *workers; /* written before its service is there */
	struct ta_custody *custody; /* the same */

	struct ta_pages pages;
	_Atomic bool leaves_to_waiter; /* what its only thread will wait for: help.c */
	_Atomic bool lacks_nosignal; /* the kernel has no RWF_NOSIGNAL: at_once.c */
	_Atomic uint64_t known_classes[TA_KNOWN_CLASSES]; /* route.c */
	_Atomic uintptr_t known_pages[TA_KNOWN_PAGES]; /* usermem.c */
};

extern TA_HIDDEN _Atomic(struct ta_process *) ta_process_pointer;

TA_HIDDEN struct ta_process *ta_process_enter_slow(void);

/* The process's state, made or remade where there is none; NULL when there is no memory for it. */
static inline struct ta_process *ta_process_enter(void)
{
	/* acquire: pairs with the release that published it. */
	struct ta_process *process =
		atomic_load_explicit(&ta_process_pointer, memory_order_acquire);

	/* acquire: pairs with the release at the end of its set-up. */
	if (ta_unlikely(!process ||
			atomic_load_explicit(&process->ready, memory_order_acquire) != 2))
		return ta_process_enter_slow();
	return process;
}

/* Inside the library, after ta_process_enter has succeeded. */
static inline struct ta_process *ta_process(void)
{
	return atomic_load_explicit(&ta_process_pointer, memory_order_relaxed);
}

/*
 * ---- process.c: environment, state, log -------------------------------------------------------
 */

enum ta_engine {
	TA_ENGINE_AUTO,
	TA_ENGINE_NATIVE,
	TA_ENGINE_THREADS,
	TA_ENGINE_UNKNOWN, /* TRUEAIO_ENGINE names none that there is */
};

struct ta_settings {
	enum ta_engine engine; /* TRUEAIO_ENGINE */
	unsigned threads; /* TRUEAIO_THREADS: workers at most */
	const char *log; /* TRUEAIO_LOG */
};

TA_HIDDEN const struct ta_settings *ta_settings(void);
TA_HIDDEN void ta_log(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- usermem.c: the caller's memory ---------------------------------------------------------- */

TA_HIDDEN bool ta_memory_probe_slow(const void *address, size_t bytes, bool write);

/* The smallest page size there is; larger pages are asked about in pieces. */
#define TA_PAGE_SHIFT 12

static inline _Atomic uintptr_t *ta_page_entry(struct ta_process *process, uintptr_t page)
{
	return &process->known_pages[(page ^ page >> 10) % TA_KNOWN_PAGES];
}

#define TA_PAGE_WRITABLE 1
#define TA_PAGE_ANSWERED 2 /* when it was asked */
#define TA_PAGE_USED 4 /* by a stream: a buffer, which may be gone by now */

/* Never zero, which is an empty entry. */
static inline uintptr_t ta_page_value(uintptr_t page, bool write)
{
	return page << 3 | TA_PAGE_ANSWERED | (write ? TA_PAGE_WRITABLE : 0);
}

/* Can all of it be read, or written if write is set?  Fast path: one page that is writable. */
static inline bool ta_memory_probe(const void *address, size_t bytes, bool write)
{
#ifdef TA_UNCHECKED_MEMORY
	/* For the benchmark alone: what the checks cost is what they make slower than this. */
	(void)address, (void)bytes, (void)write;
	return true;
#else
	uintptr_t first = (uintptr_t)address, page = first >> TA_PAGE_SHIFT;

	/* relaxed: the word is the whole message. */
	if (ta_likely(page == (first + bytes - 1) >> TA_PAGE_SHIFT &&
		      atomic_load_explicit(ta_page_entry(ta_process(), page),
					   memory_order_relaxed) == ta_page_value(page, true)))
		return true;
	return ta_memory_probe_slow(address, bytes, write);
#endif
}
TA_HIDDEN bool ta_memory_ask(const void *address);
/* Has anything been read, or written, in the page before?  It may be gone by now. */
TA_HIDDEN bool ta_memory_was_used(const void *address, bool write);
TA_HIDDEN void ta_memory_remember_use(const void *address, bool write);
TA_HIDDEN bool ta_copy_in(void *to, const void *from, size_t bytes);

/*
 * ---- own.c: descriptors of ours in the program's tables ---------------------------------------
 */

enum ta_own_kind {
	TA_OWN_WAKE, /* a pipe's end that is always ready for POLL */
	TA_OWN_SENDER, /* the socket by which files go to the workers' table */
	TA_OWN_CUSTODY, /* the same, to the custodian's */
	TA_OWN_LENDER, /* the end of a pair of sockets by which files go that may come back */
	TA_OWN_RECEIVER, /* the other end, by which they do */
	TA_OWN_KINDS, /* last */
};

TA_HIDDEN int ta_own_find(enum ta_own_kind kind);
TA_HIDDEN int ta_own_add(enum ta_own_kind kind, int fd);
TA_HIDDEN bool ta_own_is_known(enum ta_own_kind kind);
TA_HIDDEN void ta_own_close_inherited(void);

/* ---- kaio.c: the kernel's calls -------------------------------------------------------------- */

TA_HIDDEN int ta_kaio_setup(unsigned nr_events, unsigned long *handle);
TA_HIDDEN int ta_kaio_destroy(unsigned long handle);
TA_HIDDEN long ta_kaio_submit(unsigned long handle, long count, struct iocb **iocbs);
TA_HIDDEN int ta_kaio_cancel(unsigned long handle, struct iocb *iocb, struct io_event *event);
TA_HIDDEN int ta_kaio_getevents(unsigned long handle, long min_nr, long nr, struct io_event *events,
				const struct timespec *timeout, const void *mask);
TA_HIDDEN int ta_kaio_wait(unsigned long handle, uint32_t events, int64_t deadline_ns,
			   const void *mask);
TA_HIDDEN int ta_kaio_post(unsigned long handle, uint32_t events);
/* As many events are posted, or waited for, at once. */
#define TA_POSTED_MAX 64
TA_HIDDEN int ta_kaio_check(unsigned long handle, const struct iocb *like);
TA_HIDDEN void ta_thread_becomes_foreign(int own_wake_fd);
/* A descriptor that such a thread, or another, posts with; or a negative errno. */
TA_HIDDEN int ta_wake_fd_make(void);
TA_HIDDEN bool ta_kaio_can_post(void);

/* ---- context.c: handles, slots, set-up and destruction --------------------------------------- */

TA_HIDDEN struct ta_context *ta_context_lock_slow(struct ta_process *process, uintptr_t handle);

static inline uint32_t ta_bucket(uintptr_t handle)
{
	return (uint32_t)((handle >> 12) ^ (handle >> 24)) & (TA_BUCKETS - 1);
}

/*
 * The context of a handle, locked; NULL if the handle is none.  The handle itself is never
 * followed.  Fast path: no system call, one acquire for the bucket, one for the lock.
 */
static inline struct ta_context *ta_context_lock(struct ta_process *process, io_context_t handle)
{
	uintptr_t address = (uintptr_t)handle;
	struct ta_context *context;

	/*
	 * acquire: pairs with the release that linked the context.  A chain that changes meanwhile
	 * leads to a miss.
	 */
	context = atomic_load_explicit(&process->buckets[ta_bucket(address)], memory_order_acquire);
	/* relaxed: a hint, checked again under the lock. */
	while (context && atomic_load_explicit(&context->handle, memory_order_relaxed) != address)
		context = atomic_load_explicit(&context->next, memory_order_acquire);
	if (ta_likely(context != NULL)) {
		ta_lock(&context->lock);
		if (ta_likely(atomic_load_explicit(&context->handle, memory_order_relaxed) ==
			      address))
			return context;
		ta_unlock(&context->lock);
	}
	return ta_context_lock_slow(process, address);
}

TA_HIDDEN int ta_context_setup(struct ta_process *process, unsigned nr_events,
			       enum ta_context_mode mode, io_context_t *handle);
TA_HIDDEN int ta_context_destroy(struct ta_process *process, io_context_t handle);
TA_HIDDEN void ta_context_leave(struct ta_context *context);

/* relaxed, both: io_destroy waits long after it for who has not seen it. */
static inline void ta_context_set_generation(struct ta_context *context, uint32_t generation)
{
	__atomic_store_n(&context->generation, generation, __ATOMIC_RELAXED);
}

static inline bool ta_context_is_of(const struct ta_context *context, uint32_t generation)
{
	return __atomic_load_n(&context->generation, __ATOMIC_RELAXED) == generation;
}

TA_HIDDEN void ta_context_leave_at_once(struct ta_context *context, uint32_t generation);
TA_HIDDEN void *ta_retirer(void *process);
TA_HIDDEN struct ta_slot *ta_slots_grow(struct ta_context *context);
TA_HIDDEN void ta_slots_abandon(struct ta_context *context, uint64_t after, uint64_t latest);

/*
 * The slot that an event names; NULL for the library's own wake-ups and for what the program has
 * written there.
 */
static inline struct ta_slot *ta_slot_of(struct ta_context *context, const struct iocb *object)
{
	uintptr_t place = (uintptr_t)object % TA_PAGE_BYTES - offsetof(struct ta_slot_page, slots);
	const struct ta_slot_page *page =
		(const void *)((uintptr_t)object - (uintptr_t)object % TA_PAGE_BYTES);

	if (place % sizeof(struct ta_slot) || place / sizeof(struct ta_slot) >= TA_SLOTS_A_PAGE ||
	    !ta_page_is_ours(object) || page->context != context)
		return NULL;
	return (struct ta_slot *)object;
}

static inline struct ta_slot *ta_slot_take(struct ta_context *context)
{
	struct ta_slot *slot = context->free_slots;

	if (ta_unlikely(context->used == context->slot_count))
		return NULL;
	if (ta_unlikely(!slot && !(slot = ta_slots_grow(context))))
		return NULL;
	context->free_slots = slot->next;
	context->used++;
	return slot;
}

static inline void ta_slot_free(struct ta_context *context, struct ta_slot *slot)
{
	slot->state = TA_SLOT_FREE;
	slot->next = context->free_slots;
	context->free_slots = slot;
	context->used--;
}

/* ---- epoch.c: what is in flight -------------------------------------------------------------- */

TA_HIDDEN struct ta_epoch *ta_epoch_open(struct ta_context *context, int number);
TA_HIDDEN void ta_epoch_empty(struct ta_context *context, struct ta_epoch *epoch,
			      struct ta_work *work);
TA_HIDDEN void ta_epochs_seal(struct ta_process *process);
TA_HIDDEN void ta_epochs_drain(struct ta_process *process, const struct ta_file_identity *identity);
TA_HIDDEN void ta_context_becomes_busy(struct ta_context *context);

/* The epoch that a new request of the descriptor joins; NULL when there is no memory for one. */
static inline struct ta_epoch *ta_epoch_join(struct ta_context *context, int number)
{
	struct ta_epoch *epoch = context->last_epoch;

	if (ta_unlikely(!epoch || epoch->number != number)) {
		epoch = ta_epoch_open(context, number);
		if (!epoch)
			return NULL;
	}
	epoch->in_flight++;
	if (ta_unlikely(!context->is_busy))
		ta_context_becomes_busy(context);
	return epoch;
}

/* One request of the epoch has ended. */
static inline void ta_epoch_leave(struct ta_context *context, struct ta_epoch *epoch,
				  struct ta_work *work)
{
	ta_assert(epoch->in_flight > 0);
	if (--epoch->in_flight == 0 && epoch != context->last_epoch)
		ta_epoch_empty(context, epoch, work);
}

/*
 * ---- complete.c: the ways a request ends ------------------------------------------------------
 */

TA_HIDDEN void ta_drain_slow(struct ta_context *context, struct ta_work *work);
TA_HIDDEN struct ta_slot *ta_kernel_event(struct ta_context *context, const struct io_event *event,
					  struct ta_work *work);
TA_HIDDEN void ta_end(struct ta_context *context, struct ta_slot *slot, long result,
		      struct ta_work *work);
TA_HIDDEN void ta_complete(struct ta_operation *operation, long result);
TA_HIDDEN void ta_complete_end(struct ta_context *context);
TA_HIDDEN void ta_wake(struct ta_context *context);

/* How many events wake all who sleep.  The lock is held. */
static inline uint32_t ta_wake_events(const struct ta_context *context)
{
	return context->most_wanted > 1 ? context->most_wanted : 1;
}

TA_HIDDEN void ta_work_finish_slow(struct ta_work *work);

/*
 * Does what a step under the context's lock has left to do.  The context may be destroyed by the
 * time this returns.
 */
static inline void ta_work_finish(struct ta_work *work)
{
	if (ta_unlikely(ta_work_is_any(work)))
		ta_work_finish_slow(work);
}

/* Events in the kernel's ring.  The lock is held. */
static inline uint32_t ta_events_in_ring(const struct ta_context *context)
{
	/* An offloaded one has an empty ring. */
	if (ta_unlikely(context->mode == TA_CONTEXT_OFFLOADED))
		return 0;
	return ta_ring_available(ta_ring_open(context->ring, context->event_count));
}

/* Moves them all into the ready list.  The lock is held. */
static inline void ta_drain(struct ta_context *context, struct ta_work *work)
{
	if (ta_unlikely(ta_events_in_ring(context) > 0))
		ta_drain_slow(context, work);
}

/* The index of io_cancel: cancel.c. */
TA_HIDDEN void ta_index_add(struct ta_context *context, struct ta_slot *slot);
TA_HIDDEN void ta_index_remove(struct ta_context *context, struct ta_slot *slot);

/*
 * Before a request that is not the kernel's ends: the sleepers come to the lock, and find it ended.
 * The lock is held; signals are blocked, unless a wake-up is posted already.
 */
static inline void ta_wake_sleepers(struct ta_context *context)
{
	context->may_post = true;
	if (ta_unlikely(context->sleepers > 0))
		ta_wake(context);
}

/*
 * What has been moved to the ready list, or left there, must not wait for somebody who sleeps.  In
 * an offloaded context nobody moves it, and each arrival wakes all.  The lock is held, and signals
 * are blocked.
 */
static inline void ta_wake_unaware(struct ta_context *context)
{
	if (ta_unlikely(context->unaware > 0) && context->ready_count > 0 &&
	    context->mode == TA_CONTEXT_MEDIATED)
		ta_wake(context);
}

static inline void ta_ready_push(struct ta_context *context, struct ta_slot *slot, long result)
{
	slot->result = result;
	slot->state = TA_SLOT_READY;
	slot->next = NULL;
	/* Complete before it is linked, for a handler that does not come back. */
	atomic_signal_fence(memory_order_seq_cst);
	if (context->ready_tail)
		context->ready_tail->next = slot;
	else
		context->ready_head = slot;
	context->ready_tail = slot;
	context->ready_count++;
	context->arrivals++;
	context->unaware = context->sleepers;
}

/* The rest of ta_end, when the ring is drained and the sleepers are woken. */
static inline void ta_end_drained(struct ta_context *context, struct ta_slot *slot, long result,
				  struct ta_work *work)
{
	if (slot->epoch)
		ta_epoch_leave(context, slot->epoch, work);
	if (ta_unlikely(context->index != NULL))
		ta_index_remove(context, slot);
	ta_ready_push(context, slot, result);
}

/* ---- request.c: submission ------------------------------------------------------------------- */

TA_HIDDEN int ta_submit(struct ta_process *process, io_context_t handle, long nr,
			struct iocb **iocbs);

static inline bool ta_iocb_is_sync(const struct iocb *iocb)
{
	return iocb->aio_lio_opcode == IO_CMD_FSYNC || iocb->aio_lio_opcode == IO_CMD_FDSYNC;
}

/* Synchronizes the file as the fsync asks for: 0 or a negative errno. */
static inline long ta_iocb_sync_now(const struct iocb *iocb)
{
	return ta_syscall1(iocb->aio_lio_opcode == IO_CMD_FDSYNC ? SYS_fdatasync : SYS_fsync,
			   iocb->aio_fildes);
}

/* ---- cancel.c: cancellation ------------------------------------------------------------------ */

TA_HIDDEN int ta_cancel(struct ta_process *process, io_context_t handle, struct iocb *iocb);

/* ---- reap.c: waiting and reaping ------------------------------------------------------------- */

struct ta_wait {
	long min_nr;
	long nr;
	struct io_event *events;
	int64_t timeout_ns; /* < 0: for ever */
	const struct timespec
		*timeout; /* the same as the program gave it, copied; NULL: for ever */
	const sigset_t *mask; /* NULL: none to be installed */
	bool peek; /* only wait, take nothing */
};

TA_HIDDEN int ta_reap(struct ta_process *process, io_context_t handle, const struct ta_wait *wait);
TA_HIDDEN int ta_sleep_in_kernel(struct ta_context *context, uint32_t want, int64_t deadline_ns,
				 const void *mask);
TA_HIDDEN int64_t ta_sleep_limit_ns(const struct ta_context *context);

/* ---- help.c: waiters that carry out what they wait for --------------------------------------- */

TA_HIDDEN bool ta_help(struct ta_process *process, struct ta_context *context);
TA_HIDDEN bool ta_help_is_possible(const struct ta_context *context);
/* Is this thread the program's only one?  The library's do not count. */
TA_HIDDEN bool ta_is_only_thread(const struct ta_process *process);

/* ---- file.c: what a descriptor is ------------------------------------------------------------ */

struct ta_file_identity {
	uint64_t device;
	uint64_t inode;
	uint64_t node; /* of a device: which one it is */
	uint32_t mode;
};

TA_HIDDEN long ta_file_transfer_otherwise(bool is_write, int fd, const struct iovec *vector,
					  unsigned count, int64_t offset, int flags);

/*
 * preadv2 and pwritev2; and what there is of them where they are missing (before Linux 4.6, in
 * emulators and sandboxes): no flag, but that which means nothing here.  -1 is the file's own
 * position.
 */
static inline long ta_file_transfer(bool is_write, int fd, const struct iovec *vector,
				    unsigned count, int64_t offset, int flags)
{
	/* The system call takes it in two parts where a part is half of it. */
	long low = (long)offset;
	long high = sizeof(long) == 8 ? 0 : (long)((uint64_t)offset >> 32);
	long result = ta_syscall(is_write ? SYS_pwritev2 : SYS_preadv2, fd, (long)vector,
				 (long)count, low, high, flags);

	if (ta_likely(result >= 0) || !ta_call_is_refused(result))
		return result;
	return ta_file_transfer_otherwise(is_write, fd, vector, count, offset, flags);
}

TA_HIDDEN int ta_file_reopen_buffered(int fd, long file_flags);
TA_HIDDEN int ta_file_identify(int fd, struct ta_file_identity *identity);
TA_HIDDEN bool ta_file_is_still(int fd, const struct ta_file_identity *identity);
TA_HIDDEN enum ta_file_class ta_file_classify(int fd, bool *is_direct);
TA_HIDDEN enum ta_file_class ta_file_settle(int fd, bool says_would_block);
TA_HIDDEN bool ta_file_may_have_changed(int fd, bool is_read, bool was_direct);
TA_HIDDEN bool ta_file_is_on_disk(const struct ta_file_identity *identity);
TA_HIDDEN unsigned long ta_file_system_type(int fd);
TA_HIDDEN bool ta_file_close_has_effects(int fd, uint32_t mode, long file_flags);
TA_HIDDEN bool ta_file_cannot_sync(int fd, uint32_t mode);
TA_HIDDEN bool ta_file_ends_at(int fd, int64_t offset, long count);
TA_HIDDEN enum ta_target ta_file_target(int fd, struct ta_file_identity *identity);
TA_HIDDEN bool ta_file_has_position(int fd);
TA_HIDDEN bool ta_file_cannot_transfer(int fd, const struct ta_file_identity *identity,
				       bool is_write);
TA_HIDDEN int ta_file_check_flags(int fd, long file_flags, const struct ta_file_identity *identity,
				  int flags, bool is_write);
/* The inode of an eventfd that cannot be told from others, and the mode of the others. */
#define TA_UNKNOWN_EVENTFD 0
#define TA_MODE_EVENTFD UINT32_MAX
TA_HIDDEN int ta_file_is_eventfd(int fd);
TA_HIDDEN void ta_file_tell_eventfd(int fd, struct ta_file_identity *identity);
TA_HIDDEN int ta_file_poll(int fd, uint16_t events, int wait_ms);
TA_HIDDEN bool ta_file_polls_once(int fd, uint32_t mode, long file_flags);

/*
 * ---- prepare.c: what kernel AIO would say to a request, and who is to carry it out -------------
 */

TA_HIDDEN int ta_operation_prepare(struct ta_context *context, struct ta_slot *slot,
				   uint32_t to_submit, struct ta_operation **prepared);
TA_HIDDEN void ta_operation_discard(struct ta_operation *operation);
TA_HIDDEN void ta_eventfd_signal(int fd);
TA_HIDDEN int ta_eventfd_check(struct ta_context *context, const struct iocb *iocb);
TA_HIDDEN int ta_request_check(struct ta_context *context, unsigned long kernel_handle,
			       const struct iocb *iocb);
TA_HIDDEN int ta_eventfd_capture(struct ta_operation *operation, int fd);

/*
 * ---- operation.c: the life of a request that the library carries out ---------------------------
 */

TA_HIDDEN struct ta_operation *ta_operation_alloc(void);
TA_HIDDEN void ta_operation_free(struct ta_operation *operation);
TA_HIDDEN void ta_operation_start(struct ta_operation *operation, const struct ta_signals *open);
TA_HIDDEN void ta_operation_enroll(struct ta_operation *operation, uint8_t state);
TA_HIDDEN void ta_operation_submit(struct ta_operation *operation);
TA_HIDDEN void ta_operation_ended(struct ta_operation *operation, long result);
TA_HIDDEN void ta_operations_signal(struct ta_process *process);
TA_HIDDEN void ta_operation_finish(struct ta_operation *operation, long result);
TA_HIDDEN int ta_operation_cancel(struct ta_operation *operation);
TA_HIDDEN void ta_operation_abandon(struct ta_operation *operation);

/* ---- sync.c: fsync requests ------------------------------------------------------------------ */

enum ta_sync_way { TA_SYNC_HELD, TA_SYNC_KERNEL, TA_SYNC_DONE };

TA_HIDDEN int ta_sync_prepare(struct ta_context *context, struct ta_slot *slot,
			      enum ta_sync_way *way, long *result);
TA_HIDDEN void ta_sync_wait_in_caller(struct ta_process *process,
				      const struct ta_file_identity *identity);
TA_HIDDEN int ta_sync_enter(struct ta_operation *operation, const struct ta_file_identity *identity,
			    int group);
TA_HIDDEN void ta_sync_arm(struct ta_operation *operation);
TA_HIDDEN bool ta_sync_is_clear(struct ta_context *context, struct ta_work *work);
TA_HIDDEN bool ta_sync_must_wait(struct ta_process *process, int fd,
				 struct ta_file_identity *identity);
TA_HIDDEN bool ta_sync_fields_are_set(const struct iocb *iocb);
TA_HIDDEN void ta_syncs_issue(struct ta_sync *issue);
TA_HIDDEN void ta_sync_ended(struct ta_operation *leader, long result);
TA_HIDDEN bool ta_sync_cancel(struct ta_operation *operation);

/*
 * ---- helper.c: threads in the program's descriptor table --------------------------------------
 */

TA_HIDDEN int ta_service_open(enum ta_service service);
static inline bool ta_service_is_there(enum ta_service service)
{
	return atomic_load(&ta_process()->services[service].state) == TA_SERVICE_THERE;
}
TA_HIDDEN bool ta_program_has_one_thread(void);
TA_HIDDEN void ta_helper_begin(struct ta_process *process);
TA_HIDDEN void ta_helper_wake(struct ta_process *process);
TA_HIDDEN bool ta_retirer_start(struct ta_process *process);
TA_HIDDEN void ta_follow(struct ta_context *context);
TA_HIDDEN int64_t ta_look_interval_ns(int64_t since_ns);

/* ---- passthrough.c --------------------------------------------------------------------------- */

TA_HIDDEN long ta_passthrough_submit_held(struct ta_operation *operation);
TA_HIDDEN bool ta_passthrough_is_dying(struct ta_operation *operation);
TA_HIDDEN void ta_passthrough_ended(struct ta_operation *operation);
TA_HIDDEN void ta_passthrough_finished(struct ta_operation *operation);
TA_HIDDEN int ta_passthrough_open(struct ta_context *context);
TA_HIDDEN void ta_passthrough_close(struct ta_context *context);
TA_HIDDEN int ta_passthrough_submit(struct ta_process *process, struct ta_context *context, long nr,
				    struct iocb **iocbs);
TA_HIDDEN int ta_passthrough_cancel(struct ta_context *context, struct iocb *iocb);
TA_HIDDEN void ta_passthrough_scan(struct ta_context *context, struct ta_work *work);

/*
 * ---- custody.c: held fsyncs of pass-through contexts ------------------------------------------
 */

TA_HIDDEN int ta_custody_open(struct ta_process *process);
TA_HIDDEN int ta_custody_take(struct ta_operation *operation);
TA_HIDDEN void ta_custody_release(struct ta_operation *operation);
TA_HIDDEN void ta_custody_submit(struct ta_operation *operation);

/* ---- caller.c -------------------------------------------------------------------------------- */

TA_HIDDEN bool ta_caller_reaps_by_itself(const void *return_address);

#endif
