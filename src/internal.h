/* SPDX-License-Identifier: MIT */
/*
 * The map of the library: what its files share.  Nothing here is public.
 *
 * Words.  A *context* is what io_setup makes.  Its *handle* is the address the program holds: the
 * kernel's completion ring.  A *slot* is storage for one request of a mediated context; its address
 * is what the kernel is given, so that every completion names its request exactly, whatever the
 * program does with its iocb meanwhile.  A *trial* is a buffered read sent with RWF_NOWAIT: a hit
 * is done, a *miss* goes on by the workers.  An *operation* is a request that the library itself
 * carries out: offloaded, or an fsync that is *held*. An *epoch* counts the requests of one
 * descriptor between two barriers; a *sync* is an fsync that waits for epochs.  The *driver* is the
 * one thread of a context that waits in the kernel for its completions and moves them on.
 *
 * An *offloaded context* has no kernel AIO behind it: all its requests are operations.
 *
 * Threads.  Any thread of the program enters through api.c.  Of our own there are: the keeper, the
 * poller and the workers (offload_threads.c), assistants that drive contexts in which something is
 * owed while no caller is inside (progress.c), retirers that pay the 30 ms of the kernel's
 * io_destroy (context.c), and one custodian a sync that is held in a pass-through context
 * (custody.c).  All are started when first needed.  The keeper's threads and the custodians have
 * descriptor tables of their own: to them the program's numbers, and those of our own wake-ups,
 * mean nothing or something else.  They are *foreign*, and the messenger (progress.c) does for them
 * what takes a descriptor of the program's table.
 *
 * Locks, outermost first.  A thread that holds one takes only those below it, and never two
 * contexts' at once.
 *
 *	process->table_lock	which contexts exist, retired kernel contexts
 *	context->lock		everything in a context, its slots, epochs, descriptors, waiters
 *	process->barrier_lock	the syncs of all contexts, by file
 *	process->offload_lock	operations: pool, queues, streams, file holds
 *	receive_lock		of offload_threads.c: files that are on their way to its table
 *
 * No system call that can wait is made, no engine called and no eventfd signalled with a lock held:
 * what a step finds to do is collected in a struct ta_work and done by ta_work_finish after the
 * context's lock is released.
 *
 * Fork.  All process-wide state is in one page range that the kernel gives a child as zeroes
 * (MADV_WIPEONFORK); all-zero is its valid initial state, so a child starts empty without any
 * handler run by fork.  Contexts and slots are in ranges the child does not get.
 */
#ifndef TA_INTERNAL_H
#define TA_INTERNAL_H

#include "barrier.h"
#include "libaio.h"
#include "ring.h"
#include "sys.h"

#include <string.h>
#include <sys/uio.h>

struct ta_context;
struct ta_operation;

/* Of iocb.u.c.flags; <linux/aio_abi.h> has them beside structures whose names are ours, too. */
#define IOCB_FLAG_RESFD 1u
#define IOCB_FLAG_IOPRIO 2u

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
	TA_SLOT_TRIED, /* a trial that ended; what it came to is being looked at */
	TA_SLOT_OPERATION, /* in ours: slot->operation */
	TA_SLOT_READY, /* ended, its event waits to be reaped */
};

/* slot->flags */
#define TA_SLOT_TRIAL 0x01u /* RWF_NOWAIT is ours, not the program's */
#define TA_SLOT_SIGNAL                                                                             \
	0x02u /* IOCB_FLAG_RESFD was taken off for a trial: its end must signal u.c.resfd */

#define TA_SLOT_KEY_CLEARED 0x04u /* refused so late that the kernel would have cleared the key */
#define TA_SLOT_CANCELLED 0x08u /* io_cancel has said so */

/*
 * Guarded by the context's lock, but for a slot being submitted or missed: those belong to the one
 * thread that handles them.
 */
struct ta_slot {
	struct iocb iocb; /* first: what the kernel gets is the address of the slot */
	struct iocb
		*object; /* the program's iocb: a number for the event's obj, never read again */
	struct ta_epoch *epoch; /* NULL: not waited for by an fsync */
	struct ta_slot *next; /* in the free list, the ready list or a work list */
	long result;
	union {
		struct ta_operation *operation; /* from TA_SLOT_OPERATION on */
		/* Of a trial: whose io_submit is still running; NULL: nobody's. */
		const void *submitter;
	};
	uint64_t sequence; /* by age of submission: io_cancel takes the oldest match */
	uint8_t state;
	uint8_t flags;
	long asked; /* of a trial: the bytes that make it a hit */
};

_Static_assert(sizeof(struct iocb) == 64, "the kernel's struct iocb");
_Static_assert(sizeof(void *) != 8 || sizeof(struct ta_slot) == 128, "two cache lines a request");

/* What a descriptor is, as far as a submission must know. */
enum ta_file_class {
	TA_FILE_KERNEL, /* kernel AIO does all of it without waiting, or as well as can be had */
	TA_FILE_DEVICE, /* the same, and reads can say "would block" */
	TA_FILE_BUFFERED, /* reads go through the page cache, and RWF_NOWAIT tells a miss */
	TA_FILE_SLOW, /* reads go through the page cache, and only trying them tells */
	TA_FILE_STREAM, /* pipe, socket, terminal: may wait for ever, order matters */
};

/* One descriptor number in one context.  Guarded by the context's lock. */
struct ta_descriptor {
	int number;
	uint8_t file_class;
	bool is_direct; /* O_DIRECT made it TA_FILE_KERNEL */
	uint8_t trial_pause; /* reads to send to the workers without a trial */
	uint8_t trial_backoff; /* how many the next miss will send there */
	int64_t tick_ns; /* when the class was read: a number may be closed and reused */
	uint64_t checked_at; /* the batch in which it was last seen to be what it was */
	uint64_t device; /* file system of the class, so that it is asked for its type once */
	struct ta_epoch *open; /* the epoch that new requests join; NULL: none yet */
	struct ta_epoch *epochs; /* all that are not drained, the open one included */
	struct ta_descriptor *next; /* in its bucket */
};

/*
 * A thread in io_getevents that found too little.  On its stack; linked under the context's lock.
 */
struct ta_waiter {
	struct ta_waiter *next;
	struct ta_waiter *previous;
	uint32_t want; /* events that satisfy it */
	int event_fd; /* where its wake-up is written, if it sleeps in ppoll; -1: on the word */
	bool bell_wanted; /* the messenger shall write it */
	_Atomic uint32_t word; /* 1: look again */
};

enum ta_context_mode {
	TA_CONTEXT_MEDIATED,
	TA_CONTEXT_PASSTHROUGH,
	TA_CONTEXT_OFFLOADED, /* no kernel AIO: the handle is a range of our own */
};

/*
 * Type-stable: the memory of a context is never given back and never becomes anything else, so a
 * stale look-up may read it. All fields but the first three are guarded by lock.
 */
#define TA_DESCRIPTOR_BUCKETS 64

struct ta_context {
	struct ta_lock lock;
	_Atomic uintptr_t handle; /* 0: no context.  Written under table_lock and lock */
	_Atomic(struct ta_context *) next; /* in its bucket; written under table_lock */
	struct ta_context *all_next; /* list of all that live; table_lock */
	struct ta_context *all_previous; /* table_lock */

	enum ta_context_mode mode;
	bool dying; /* io_destroy has begun */
	unsigned long kernel_handle;
	unsigned asked; /* nr_events of io_setup */
	struct ta_ring *ring;

	struct ta_slot *slots;
	uint32_t slot_count;
	uint32_t touched_slots; /* those before have been used; the rest is memory never touched */
	uint32_t used; /* slots that are not free */
	struct ta_slot *free_slots; /* of the touched ones */
	uint64_t sequence;
	uint64_t batches; /* submitted so far */

	struct ta_slot *ready_head; /* ended requests in order of completion */
	struct ta_slot *ready_tail;
	uint32_t ready_count;

	struct ta_waiter *waiters; /* oldest first */
	struct ta_waiter *waiters_tail;
	struct ta_waiter *driver; /* NULL: nobody waits in the kernel */
	bool driver_is_assistant; /* a caller may take the role from it without asking */
	bool driver_asleep; /* between its unlock before the kernel's wait and its lock after */
	bool driver_sliced; /* and it looks again by itself before long */
	bool wake_posted; /* a wake-up is in the ring and not yet drained */
	bool assisted; /* an assistant is on its way or here */
	struct ta_context *assist_next; /* in process->assist_head; offload_lock */
	struct ta_context *message_next; /* in process->message_head; offload_lock */
	bool message_pending; /* it is there */
	uint32_t owed; /* epochs that a sync waits for: followed even if nobody calls */
	uint32_t trials; /* in the kernel's hands: followed likewise */
	struct ta_slot *tried; /* trials that ended while their io_submit runs, for it to follow */
	uint32_t operations; /* ours that have not ended */
	uint32_t inside; /* threads that sleep here, and completions being announced */
	_Atomic uint32_t inside_word; /* changes when inside falls to zero while dying */
	_Atomic uint32_t assist_word; /* where an assistant sleeps while a caller drives */
	uint32_t proxies; /* eventfd proxies in the kernel's ring (see operation.c) */

	struct ta_descriptor *descriptors[TA_DESCRIPTOR_BUCKETS];
	struct ta_descriptor *last_descriptor;
	struct ta_descriptor *free_descriptors;
	struct ta_epoch *free_epochs;
	struct ta_pool_page *pool_pages; /* what the two free lists were cut from */

	struct ta_tracking *tracking; /* pass-through contexts: what is in flight */
};

/* ---- operations ------------------------------------------------------------------------------ */

enum ta_operation_state {
	TA_OPERATION_HELD, /* a sync whose epochs are not drained, or behind another */
	TA_OPERATION_QUEUED, /* waits for a worker, or for its stream */
	TA_OPERATION_RUNNING, /* a worker has taken it */
	TA_OPERATION_ENDED, /* its event is on the way */
};

/* The kernel's UIO_MAXIOV. */
#define TA_VECTOR_MAX 1024
/* What the kernel moves in one request at most (MAX_RW_COUNT with 4 KiB pages). */
#define TA_TRANSFER_MAX 0x7ffff000UL
#define TA_OPERATION_VECTOR 8

/*
 * Guarded by offload_lock from its queueing on; before that it belongs to the thread that submits
 * it.
 */
struct ta_operation {
	struct ta_operation *next; /* in a batch, a stream or the pool */
	struct ta_operation *previous; /* in a stream */
	struct ta_operation *queue_next; /* in a queue of the workers */
	struct ta_operation *queue_previous;
	bool is_queued; /* there */
	bool is_parked; /* taken by a worker, and waiting for its file to become ready */
	bool abandon_wanted; /* to be cancelled as soon as can be */
	struct ta_context *context;
	struct ta_slot *slot;
	uint8_t state;
	uint8_t opcode; /* IO_CMD_PREAD, PREADV, PWRITE, PWRITEV, FSYNC, FDSYNC, POLL */
	uint16_t poll_events; /* of a POLL; of a parked stream: what it waits for */
	uint16_t position; /* in its batch */
	bool nonblocking; /* O_NONBLOCK or RWF_NOWAIT: EAGAIN and a short write are final */
	bool is_direct; /* O_DIRECT when it was submitted */
	bool appends; /* a write whose place is the end of the file */
	bool is_device; /* a character device with positions: gives all that is asked for */
	bool cancelled; /* ends with -ECANCELED before it begins */
	bool is_sync;
	bool is_stream; /* its file is one; stays set when it has left its stream */
	bool is_socket;
	int refusal; /* what its file would say to it, known beforehand; 0: it is to be tried */
	bool has_proxy;
	bool is_ready; /* its result was there at submission */
	int resfd; /* the program's eventfd as numbered at submission; -1: none */
	struct ta_hold *hold; /* the file; NULL: none, or given back */
	struct ta_hold *eventfd; /* likewise, in an offloaded context */
	long ready_result;
	int flags; /* aio_rw_flags */
	uint16_t io_priority;
	int64_t offset;
	size_t bytes; /* from there, done or not */
	size_t transferred; /* by earlier parts of it */
	struct iovec *vector;
	struct iovec *vector_memory; /* where it does not fit inline_vector */
	size_t vector_bytes;
	unsigned vector_count;
	unsigned vector_skipped; /* parts that are done */
	struct iovec inline_vector[TA_OPERATION_VECTOR];
	struct ta_stream *stream;
	struct ta_custodian *custodian;
	struct ta_sync *sync;
	char *bounce; /* see ta_transfer_bounce */
	size_t bounce_bytes;
	size_t bounce_skip;
	struct iocb proxy; /* see ta_proxy_arm */
	struct iocb *object; /* of a sync in a pass-through context: the program's iocb */
};

/* ---- what a step leaves to do ---------------------------------------------------------------- */

struct ta_work {
	struct ta_slot *tried; /* trials that were no plain hit, newest first */
	struct ta_sync *issue; /* syncs whose turn has come */
	bool wake_driver;
	bool want_assistant;
};

/* ---- the process ----------------------------------------------------------------------------- */

enum ta_offload_state {
	TA_OFFLOAD_NOT_TRIED,
	TA_OFFLOAD_BEING_TRIED,
	TA_OFFLOAD_THERE,
	TA_OFFLOAD_REFUSED,
};

#define TA_BUCKETS 4096
#define TA_KNOWN_PAGES 1024

#define TA_HOLD_BUCKETS 256

struct ta_threads;

struct ta_process {
	_Atomic uint32_t ready; /* 0: wiped or new, 1: being set up, 2: usable */

	struct ta_lock table_lock;
	_Atomic(struct ta_context *) buckets[TA_BUCKETS]; /* read without a lock */
	struct ta_context *contexts; /* table_lock */
	struct ta_context *free_contexts; /* table_lock */
	struct ta_context *retired; /* idle kernel contexts about to be destroyed; table_lock */
	uint32_t retired_count; /* table_lock */
	uint32_t retirers; /* threads that destroy them; table_lock */

	struct ta_lock barrier_lock;
	struct ta_barrier barrier; /* barrier_lock */

	struct ta_lock offload_lock;
	struct ta_operation *free_operations; /* offload_lock */
	struct ta_pool_page *operation_pages; /* offload_lock */
	struct ta_stream *streams; /* offload_lock */
	struct ta_stream *free_streams; /* offload_lock */
	struct ta_hold *holds[TA_HOLD_BUCKETS]; /* that may be shared; offload_lock */
	struct ta_hold *free_holds; /* offload_lock */
	uint32_t parked_assistants; /* offload_lock */
	struct ta_context *assist_head; /* contexts that ask for an assistant; offload_lock */
	uint32_t assist_count; /* offload_lock */
	_Atomic uint32_t assist_word; /* changes when assist_queue grows */

	bool has_messenger; /* offload_lock */
	bool message_assist; /* assistants are to be started; offload_lock */
	struct ta_context *message_head; /* contexts with waiters to be woken; offload_lock */
	struct ta_operation *message_signals; /* whose eventfds have numbers alone; offload_lock */
	_Atomic uint32_t message_word; /* changes with any of these */

	_Atomic uint32_t owed_at_exit; /* writes and syncs that exit() waits for */
	_Atomic uint32_t reads_offloaded;
	_Atomic int wake_fd; /* eventfd that is never signalled, plus one; 0: none yet */

	_Atomic uint32_t offload_state; /* enum ta_offload_state */
	_Atomic int64_t offload_retry_ns; /* when a refusal is put to the test again */
	struct ta_threads *threads; /* written before the state says that they are there */

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

/* ---- select.c: environment, choice, log ------------------------------------------------------ */

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
TA_HIDDEN void ta_inherited_add(int fd);

/* ---- usermem.c: the caller's memory ---------------------------------------------------------- */

#ifdef TA_UNCHECKED_MEMORY
/* For the benchmark alone: what the checks cost is what they make slower than this. */
static inline bool ta_memory_probe(const void *address, size_t bytes, bool write)
{
	(void)address;
	(void)bytes;
	(void)write;
	return true;
}
#else
TA_HIDDEN bool ta_memory_probe(const void *address, size_t bytes, bool write);
#endif
TA_HIDDEN bool ta_copy_in(void *to, const void *from, size_t bytes);

/* ---- kaio.c: the kernel's calls -------------------------------------------------------------- */

TA_HIDDEN int ta_kaio_setup(unsigned nr_events, unsigned long *handle);
TA_HIDDEN int ta_kaio_destroy(unsigned long handle);
TA_HIDDEN long ta_kaio_submit(unsigned long handle, long count, struct iocb **iocbs);
TA_HIDDEN int ta_kaio_cancel(unsigned long handle, struct iocb *iocb, struct io_event *event);
TA_HIDDEN int ta_kaio_getevents(unsigned long handle, long min_nr, long nr, struct io_event *events,
				const struct timespec *timeout, const sigset_t *mask);
TA_HIDDEN int ta_kaio_wait(unsigned long handle, int64_t deadline_ns, const sigset_t *mask);
TA_HIDDEN int ta_kaio_post(unsigned long handle, int resfd);
TA_HIDDEN int ta_kaio_check(unsigned long handle, const struct iocb *like);
TA_HIDDEN int ta_kaio_wake_fd(void);
TA_HIDDEN void ta_thread_becomes_foreign(int own_wake_fd);
TA_HIDDEN int ta_high_descriptor(int fd);

/* ---- context.c: handles, pools, set-up and destruction --------------------------------------- */

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

	/* acquire: pairs with the release that linked the context. */
	context = atomic_load_explicit(&process->buckets[ta_bucket(address)], memory_order_acquire);
	/* relaxed: a hint, checked again under the lock. */
	if (ta_likely(context &&
		      atomic_load_explicit(&context->handle, memory_order_relaxed) == address)) {
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
TA_HIDDEN struct ta_descriptor *ta_descriptor_find(struct ta_context *context, int number);
TA_HIDDEN int ta_epoch_open(struct ta_context *context, struct ta_descriptor *descriptor);
TA_HIDDEN void ta_epoch_drained(struct ta_context *context, struct ta_epoch *epoch,
				struct ta_work *work);

static inline struct ta_descriptor *ta_descriptor_of(struct ta_context *context, int number)
{
	struct ta_descriptor *last = context->last_descriptor;

	return ta_likely(last && last->number == number) ? last
							 : ta_descriptor_find(context, number);
}

/* One request of the epoch has ended. */
static inline void ta_epoch_leave(struct ta_context *context, struct ta_epoch *epoch,
				  struct ta_work *work)
{
	ta_assert(epoch->in_flight > 0);
	if (ta_unlikely(--epoch->in_flight == 0 && epoch->sealed))
		ta_epoch_drained(context, epoch, work);
}

/* The slot an event names; NULL for the library's own wake-ups and proxies. */
static inline struct ta_slot *ta_slot_of(struct ta_context *context, const struct iocb *object)
{
	uintptr_t distance = (uintptr_t)object - (uintptr_t)context->slots;

	return distance < (uintptr_t)context->slot_count * sizeof(struct ta_slot)
		       ? (struct ta_slot *)object
		       : NULL;
}

static inline struct ta_slot *ta_slot_take(struct ta_context *context)
{
	struct ta_slot *slot = context->free_slots;

	if (ta_likely(slot != NULL)) {
		context->free_slots = slot->next;
		context->used++;
	} else if (context->touched_slots < context->slot_count) {
		slot = &context->slots[context->touched_slots++];
		context->used++;
	}
	return slot;
}

static inline void ta_slot_free(struct ta_context *context, struct ta_slot *slot)
{
	slot->state = TA_SLOT_FREE;
	slot->next = context->free_slots;
	context->free_slots = slot;
	context->used--;
}

static inline void ta_ready_push(struct ta_context *context, struct ta_slot *slot, long result)
{
	slot->result = result;
	slot->state = TA_SLOT_READY;
	slot->next = NULL;
	if (context->ready_tail)
		context->ready_tail->next = slot;
	else
		context->ready_head = slot;
	context->ready_tail = slot;
	context->ready_count++;
}

/* ---- request.c: submission, completion, cancellation ----------------------------------------- */

TA_HIDDEN int ta_submit(struct ta_process *process, io_context_t handle, long nr,
			struct iocb **iocbs);
TA_HIDDEN int ta_cancel(struct ta_process *process, io_context_t handle, struct iocb *iocb);
TA_HIDDEN void ta_complete(struct ta_operation *operation, long result);
TA_HIDDEN void ta_complete_end(struct ta_operation *operation);
TA_HIDDEN bool ta_trial_ended(struct ta_context *context, struct ta_slot *slot, long result,
			      struct ta_work *work);
TA_HIDDEN void ta_work_finish(struct ta_context *context, struct ta_work *work);

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
TA_HIDDEN void ta_drain(struct ta_context *context, struct ta_work *work);
TA_HIDDEN void ta_wake_satisfied(struct ta_context *context, struct ta_work *work);
TA_HIDDEN void ta_driver_wake(struct ta_context *context, struct ta_work *work);
TA_HIDDEN void ta_waiter_wake(struct ta_context *context, struct ta_waiter *waiter);
TA_HIDDEN bool ta_driver_must_look(struct ta_context *context);
TA_HIDDEN bool ta_drive_once(struct ta_context *context, struct ta_waiter *self,
			     int64_t deadline_ns, const sigset_t *mask, int *error);
TA_HIDDEN void ta_driver_leave(struct ta_context *context, struct ta_waiter *self,
			       struct ta_work *work);

/* ---- file.c: what a descriptor is ------------------------------------------------------------ */

struct ta_file_identity {
	uint64_t device;
	uint64_t inode;
	uint64_t node; /* of a device: which one it is */
	uint32_t mode;
};

TA_HIDDEN long ta_file_transfer(bool is_write, int fd, const struct iovec *vector, unsigned count,
				int64_t offset, int flags);
TA_HIDDEN int ta_file_reopen_buffered(int fd, long file_flags);
TA_HIDDEN int ta_file_identify(int fd, struct ta_file_identity *identity);
TA_HIDDEN void ta_file_classify(struct ta_descriptor *descriptor);
TA_HIDDEN bool ta_file_cannot_sync(int fd, uint32_t mode);
TA_HIDDEN bool ta_file_has_changed(struct ta_descriptor *descriptor, bool is_read);
TA_HIDDEN bool ta_file_ends_at(int fd, int64_t offset, long count);
TA_HIDDEN bool ta_file_is_stream(int fd, uint32_t mode);
TA_HIDDEN bool ta_file_line(int fd, struct ta_file_identity *identity);
TA_HIDDEN bool ta_file_cannot_transfer(int fd, const struct ta_file_identity *identity,
				       bool is_write);
TA_HIDDEN int ta_file_check_flags(int fd, long file_flags, uint32_t mode, int flags, bool is_write);
/* The inode of an eventfd that cannot be told from others, and the mode of the others. */
#define TA_UNKNOWN_EVENTFD 0
#define TA_MODE_EVENTFD UINT32_MAX
TA_HIDDEN int ta_file_eventfd(int fd, struct ta_file_identity *identity);
TA_HIDDEN int ta_file_poll(int fd, uint16_t events);
TA_HIDDEN bool ta_file_polls_once(int fd, uint32_t mode, long file_flags);

/* ---- operation.c: requests the library carries out ------------------------------------------- */

TA_HIDDEN int ta_operation_prepare(struct ta_context *context, struct ta_slot *slot,
				   struct ta_operation **prepared);
TA_HIDDEN void ta_operation_start(struct ta_operation *operation);
TA_HIDDEN void ta_operation_submit(struct ta_operation *operation);
TA_HIDDEN void ta_operation_leave_stream(struct ta_operation *operation);
TA_HIDDEN void ta_operation_discard(struct ta_operation *operation);
TA_HIDDEN bool ta_operation_enroll(struct ta_operation *operation, uint8_t state);
TA_HIDDEN void ta_operation_ended(struct ta_operation *operation, long result);
TA_HIDDEN void ta_operation_finish(struct ta_operation *operation, long result);
TA_HIDDEN int ta_operation_cancel(struct ta_operation *operation, struct ta_work *work);
TA_HIDDEN void ta_operation_abandon(struct ta_operation *operation, struct ta_work *work);
TA_HIDDEN struct ta_operation *ta_operation_alloc(void);
TA_HIDDEN void ta_operation_free(struct ta_operation *operation);
TA_HIDDEN void ta_proxy_arm(struct ta_operation *operation);
TA_HIDDEN void ta_proxy_fire(struct ta_operation *operation);
TA_HIDDEN void ta_eventfd_signal(struct ta_context *context, int eventfd);
TA_HIDDEN int ta_eventfd_check(struct ta_context *context, const struct iocb *iocb);
TA_HIDDEN int ta_eventfd_capture(struct ta_operation *operation, int fd);

/* ---- sync.c: fsync requests ------------------------------------------------------------------ */

TA_HIDDEN int ta_sync_prepare(struct ta_context *context, struct ta_slot *slot,
			      struct ta_operation **prepared);
TA_HIDDEN bool ta_sync_eventfd_is_good(struct ta_context *context, const struct iocb *iocb);
TA_HIDDEN int ta_sync_enter(struct ta_operation *operation, const struct ta_file_identity *identity,
			    int descriptor, int group, uint64_t before, bool *alone);
TA_HIDDEN void ta_syncs_issue(struct ta_sync *issue);
TA_HIDDEN void ta_sync_accepted(struct ta_operation *operation);
TA_HIDDEN void ta_sync_refused(struct ta_operation *operation);
TA_HIDDEN void ta_sync_ended(struct ta_operation *leader, long result);
TA_HIDDEN bool ta_sync_cancel(struct ta_operation *operation, struct ta_work *work);

/* ---- progress.c ------------------------------------------------------------------------------ */

TA_HIDDEN void ta_assist_want(struct ta_context *context, struct ta_work *work);
TA_HIDDEN void ta_assist_start(void);
TA_HIDDEN int ta_messenger_start(void);
TA_HIDDEN void ta_message_bell(struct ta_context *context);
TA_HIDDEN void ta_message_signal(struct ta_operation *operation);

/* ---- passthrough.c --------------------------------------------------------------------------- */

TA_HIDDEN void ta_passthrough_sync(struct ta_operation *operation);
TA_HIDDEN void ta_passthrough_finished(struct ta_operation *operation);
TA_HIDDEN int ta_passthrough_open(struct ta_context *context);
TA_HIDDEN void ta_passthrough_close(struct ta_context *context);
TA_HIDDEN int ta_passthrough_submit(struct ta_process *process, struct ta_context *context, long nr,
				    struct iocb **iocbs);
TA_HIDDEN int ta_passthrough_cancel(struct ta_context *context, struct iocb *iocb);
TA_HIDDEN void ta_passthrough_scan(struct ta_context *context, struct ta_work *work);

/* ---- caller.c -------------------------------------------------------------------------------- */

TA_HIDDEN bool ta_caller_reaps_by_itself(const void *return_address);

#endif
