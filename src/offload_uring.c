/* SPDX-License-Identifier: MIT */
/*
 * The offloader on an io_uring that the library owns.
 *
 * One thread submits to the ring and reaps from it, for as long as the process lives.  The
 * program's threads never enter it: the kernel fails a request whose submitting thread exits, and
 * interrupts epoll_wait in a thread with requests of its own.  They do two things only: *capture* a
 * file into a registered-file slot (that must happen in the caller, while its descriptor still
 * means the file), and queue an operation and ring the doorbell, an eventfd that the ring polls.
 * They do not even make the ring: when one is closed that proves to be of no use, the kernel rouses
 * its maker as for a signal, whose next io_getevents would fail with EINTR (seen with 6.1 and
 * 6.18).
 *
 * The ring is not made with IORING_SETUP_SINGLE_ISSUER, and so without DEFER_TASKRUN: with it the
 * kernel refuses io_uring_register from other threads (-EEXIST since 6.1), and capturing would cost
 * two context switches.
 *
 * A registered slot is no descriptor: giving it back does not drop the process's record locks.
 *
 * offload_lock guards the queue, the free slots and `asleep`.  The ring itself belongs to the ring
 * thread, but for registration, which the kernel serializes.
 */
#include "offload.h"
#include "probe.h"

#include <liburing.h>
#include <linux/fs.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>

/* Files held at a time.  The kernel allows no more than RLIMIT_NOFILE. */
#define HOLDS_MAX 65536
#define HOLDS_FEW 1024
/*
 * Threads of the kernel for what cannot be done without waiting (fsync, FUSE): one slow file must
 * not hold up the rest.
 */
#define KERNEL_WORKERS 64

#define DATA_DOORBELL 0
#define DATA_NOTHING 1
/* Added to the address of an operation: its eventfd has been signalled. */
#define DATA_SIGNALLED 2
/* In the low bits of a tag: the kernel has let go of a file, which nobody may be waiting for. */
#define DATA_CLOSED 3
#define DATA_KIND 3

/* How long a write to an eventfd may take that waits for nothing. */
#define SIGNAL_LIMIT_NS 20000000

/* A server that always says EINTR means it. */
#define INTERRUPTIONS_MAX 100

/* How long an event waits for the kernel to let go of its file: a moment, where nothing is wrong. */
#define CLOSE_LIMIT_NS 100000000

/* Of aio_rw_flags: polling for completion is for rings made for it, and kernel AIO ignores it. */
#ifndef RWF_HIPRI
#define RWF_HIPRI 0x00000001
#endif
#ifndef RWF_NOWAIT
#define RWF_NOWAIT 0x00000008
#endif

enum ring_state {
	RING_STARTING,
	RING_READY,
	RING_FAILED,
};

struct ta_uring {
	struct io_uring ring;
	_Atomic uint32_t state;
	/* What its thread says of it, read once it has started: 0 or a negative errno. */
	int error;
	unsigned missing; /* TA_MISSING_*, for which it is refused */
	int doorbell;
	bool asleep; /* the thread waits in the kernel, or is about to */
	struct ta_operation *queue_head;
	struct ta_operation *queue_tail;
	uint32_t hold_limit;
	uint32_t touched_holds; /* those before have been used */
	uint32_t free_hold_count;
	uint32_t free_holds[HOLDS_MAX]; /* of the touched ones */
	uint64_t last_tag;
	uint64_t tags[HOLDS_MAX]; /* what says that the file of a hold has been let go */
};

static struct ta_uring *the_uring(void)
{
	return ta_process()->uring;
}

/* ---- the ring thread ------------------------------------------------------------------------- */

static struct io_uring_sqe *next_sqe(struct ta_uring *uring)
{
	struct io_uring_sqe *sqe;

	while ((sqe = io_uring_get_sqe(&uring->ring)) == NULL)
		io_uring_submit(&uring->ring);
	return sqe;
}

static void arm_doorbell(struct ta_uring *uring)
{
	struct io_uring_sqe *sqe = next_sqe(uring);

	io_uring_prep_poll_multishot(sqe, uring->doorbell, 1 /* POLLIN */);
	io_uring_sqe_set_data64(sqe, DATA_DOORBELL);
}

/* What is left of the vector after the parts that are done. */
static const struct iovec *rest_of_vector(const struct ta_operation *operation, unsigned *count)
{
	unsigned skipped = operation->vector_skipped;

	*count = operation->vector_count - skipped;
	return operation->vector + skipped;
}

static void prepare_transfer(struct io_uring_sqe *sqe, struct ta_operation *operation)
{
	/* A stream has no positions, and a socket refuses any but the first. */
	uint64_t offset =
		operation->is_stream ? 0 : (uint64_t)operation->offset + operation->transferred;
	const struct iovec *vector;
	unsigned count;

	vector = rest_of_vector(operation, &count);
	if (ta_transfer_is_write(operation))
		io_uring_prep_writev(sqe, operation->hold->file, vector, count, offset);
	else
		io_uring_prep_readv(sqe, operation->hold->file, vector, count, offset);
	sqe->rw_flags = operation->flags & ~RWF_HIPRI;
	/* The ring waits for pipes and sockets even if they do not, unless told not to. */
	if (operation->is_rest ||
	    (operation->nonblocking && (operation->is_pipe || operation->is_socket)))
		sqe->rw_flags |= RWF_NOWAIT;
	sqe->ioprio = operation->io_priority;
}

/* The pages around what is left, into the bounce buffer. */
static void prepare_bounce(struct io_uring_sqe *sqe, const struct ta_operation *operation)
{
	io_uring_prep_read(
		sqe, operation->hold->file, operation->bounce, (unsigned)operation->bounce_bytes,
		(uint64_t)operation->offset + operation->transferred - operation->bounce_skip);
	sqe->ioprio = operation->io_priority;
}

/*
 * Must a thread of the kernel's do it?  Of a file that cannot be told not to wait the ring asks
 * whether it is ready, and then lets the ring thread wait for it after all: a terminal is ready for
 * a write when it has room for one byte, or for a read that somebody else gets.
 */
static bool may_hold_ring(const struct ta_operation *operation)
{
	return operation->opcode != IO_CMD_POLL && operation->is_stream && !operation->is_pipe &&
	       !operation->is_socket && !operation->nonblocking;
}

static void issue(struct ta_uring *uring, struct ta_operation *operation, unsigned sqe_flags)
{
	struct io_uring_sqe *sqe = next_sqe(uring);

	if (may_hold_ring(operation))
		sqe_flags |= IOSQE_ASYNC;
	if (operation->bounce)
		prepare_bounce(sqe, operation);
	else if (operation->opcode == IO_CMD_POLL)
		io_uring_prep_poll_add(sqe, operation->hold->file, operation->poll_events);
	else if (operation->is_sync)
		io_uring_prep_fsync(sqe, operation->hold->file,
				    operation->sync->group_data_only ? IORING_FSYNC_DATASYNC : 0);
	else
		prepare_transfer(sqe, operation);
	io_uring_sqe_set_flags(sqe, sqe_flags | IOSQE_FIXED_FILE);
	io_uring_sqe_set_data64(sqe, (uint64_t)(uintptr_t)operation);
}

static void issue_cancel(struct ta_uring *uring, struct ta_operation *operation)
{
	struct io_uring_sqe *sqe = next_sqe(uring);

	io_uring_prep_cancel64(sqe, (uint64_t)(uintptr_t)operation, 0);
	io_uring_sqe_set_data64(sqe, DATA_NOTHING);
}

/*
 * From here on nobody may queue the operation for cancelling; if somebody has, it leaves the queue.
 */
static void leave_queue(struct ta_uring *uring, struct ta_operation *operation)
{
	struct ta_process *process = ta_process();
	struct ta_operation **link, *previous = NULL;

	ta_lock(&process->offload_lock);
	operation->state = TA_OPERATION_ENDED;
	if (operation->is_queued) {
		for (link = &uring->queue_head; *link != operation; link = &(*link)->queue_next)
			previous = *link;
		*link = operation->queue_next;
		if (uring->queue_tail == operation)
			uring->queue_tail = previous;
		operation->is_queued = false;
	}
	ta_unlock(&process->offload_lock);
}

/*
 * Takes one operation off the queue; what it is to be is settled under the lock that cancelling
 * takes.
 */
static struct ta_operation *next_operation(struct ta_uring *uring, bool *abandon, bool *cancelled)
{
	struct ta_process *process = ta_process();
	struct ta_operation *operation;

	ta_lock(&process->offload_lock);
	operation = uring->queue_head;
	if (operation) {
		uring->queue_head = operation->queue_next;
		if (!uring->queue_head)
			uring->queue_tail = NULL;
		operation->queue_next = NULL;
		operation->is_queued = false;
		*cancelled = operation->cancelled && operation->state != TA_OPERATION_RUNNING;
		*abandon = operation->abandon_wanted;
		operation->abandon_wanted = false;
		if (!*cancelled)
			operation->state = TA_OPERATION_RUNNING;
	}
	ta_unlock(&process->offload_lock);
	return operation;
}

/*
 * Is a short count not the end of it?  Writes to a stream go on until all is written, and a device
 * like /dev/zero stops short when its reader has other things to do.
 */
static bool goes_on(const struct ta_operation *operation)
{
	return operation->is_device || (operation->is_stream && ta_transfer_is_write(operation));
}

/* The refused request once more, so that the flag does not matter: 0, or a negative errno. */
static int begin_anew(struct ta_uring *uring, struct ta_operation *operation)
{
	if (ta_transfer_may_bounce(operation) && ta_transfer_bounce(operation)) {
		issue(uring, operation, 0);
		return 0;
	}
	if (!ta_transfer_may_begin_anew(operation) || operation->is_rewritten)
		return -EINVAL;
	return ta_uring_rewrite(operation) ? 0 : -EAGAIN;
}

/* What is left, after so many bytes.  False: nothing is. */
static bool issue_rest(struct ta_uring *uring, struct ta_operation *operation, int bytes)
{
	ta_transfer_skip(operation, (size_t)bytes);
	if (ta_transfer_left(operation) == 0)
		return false;
	operation->retried = false;
	operation->is_rewritten = false;
	operation->interruptions = 0;
	operation->transferred += (size_t)bytes;
	issue(uring, operation, 0);
	return true;
}

/*
 * True: it is not the end of it.  A buffered request may have found its first pages in the cache,
 * and its file with O_DIRECT when it came to the others.  So the rest is asked for without waiting:
 * a file system that would wait for a disk says EAGAIN, and the end of a file says 0.  FUSE and the
 * like cannot say so: their servers' short counts are the end, which nobody waits beyond.
 */
static bool continues(struct ta_uring *uring, struct ta_operation *operation, int result)
{
	operation->is_rest = false;
	if (operation->nonblocking)
		return false;
	if (result == -EAGAIN && !operation->retried && !operation->is_rewritten) {
		/*
		 * XFS says so for blocking files, and sockets after many wake-ups.  A kernel thread
		 * may wait: what it says is the answer.
		 */
		operation->retried = true;
		issue(uring, operation, IOSQE_ASYNC);
		return true;
	}
	if (result <= 0)
		return false;
	operation->is_rest = ta_transfer_may_be_cut(operation, result);
	return (operation->is_rest || goes_on(operation)) && issue_rest(uring, operation, result);
}

/*
 * A thread says EINTR when its request is cancelled while it waits for a terminal or FUSE; but also
 * when it was roused for something else, and then the request begins again.  And a request for
 * which the kernel can have no thread ends with ECANCELED.
 */
static int reason_of(struct ta_operation *operation, int result)
{
	struct ta_process *process = ta_process();
	bool is_cancelled;

	if (result != -EINTR && result != -ECANCELED)
		return result;
	ta_lock(&process->offload_lock);
	is_cancelled = operation->cancel_tried;
	operation->cancel_told = is_cancelled;
	ta_unlock(&process->offload_lock);
	if (is_cancelled)
		return -ECANCELED;
	return result == -EINTR ? -EINTR : -EAGAIN;
}

static void end(struct ta_uring *uring, struct ta_operation *operation, int result)
{
	result = reason_of(operation, result);
	if (result == -EINTR && operation->interruptions < INTERRUPTIONS_MAX) {
		operation->interruptions++;
		issue(uring, operation, operation->retried ? IOSQE_ASYNC : 0);
		return;
	}
	if (operation->is_sync) {
		ta_operation_ended(operation, result);
		return;
	}
	if (operation->opcode == IO_CMD_POLL) {
		leave_queue(uring, operation);
		ta_operation_ended(operation, result);
		return;
	}
	if (operation->bounce) {
		result = (int)ta_transfer_unbounce(operation, result);
	} else if (result == -EINVAL) {
		result = begin_anew(uring, operation);
		if (result == 0)
			return;
	}
	if (continues(uring, operation, result))
		return;
	leave_queue(uring, operation);
	ta_operation_ended(operation, result);
}

static void begin_queued(struct ta_uring *uring)
{
	struct ta_operation *operation;
	bool abandon = false, cancelled = false;

	while ((operation = next_operation(uring, &abandon, &cancelled)) != NULL) {
		if (abandon)
			issue_cancel(uring, operation);
		else if (cancelled)
			ta_operation_ended(operation, -ECANCELED);
		else if (operation->refusal) {
			leave_queue(uring, operation);
			ta_operation_ended(operation, operation->refusal);
		} else if (operation->is_rewritten) {
			end(uring, operation, (int)operation->ready_result);
		} else {
			ta_transfer_skip(operation, operation->transferred);
			issue(uring, operation, 0);
		}
	}
}

static unsigned reap(struct ta_uring *uring)
{
	struct io_uring_cqe *cqe;
	unsigned reaped = 0;

	while (io_uring_peek_cqe(&uring->ring, &cqe) == 0) {
		uint64_t data = cqe->user_data;
		int result = cqe->res;
		bool more = cqe->flags & IORING_CQE_F_MORE;

		io_uring_cqe_seen(&uring->ring, cqe);
		reaped++;
		if (data == DATA_DOORBELL) {
			if (!more)
				arm_doorbell(uring);
		} else if ((data & DATA_KIND) == DATA_CLOSED) {
			continue;
		} else if (data & DATA_SIGNALLED) {
			ta_complete_end((struct ta_operation *)(uintptr_t)(data - DATA_SIGNALLED));
		} else if (data != DATA_NOTHING) {
			end(uring, (struct ta_operation *)(uintptr_t)data, result);
		}
	}
	return reaped;
}

static bool fall_asleep(struct ta_uring *uring)
{
	struct ta_process *process = ta_process();
	bool asleep;

	ta_lock(&process->offload_lock);
	asleep = uring->queue_head == NULL;
	uring->asleep = asleep;
	ta_unlock(&process->offload_lock);
	return asleep;
}

static void wake_up(struct ta_uring *uring)
{
	struct ta_process *process = ta_process();

	ta_lock(&process->offload_lock);
	uring->asleep = false;
	ta_unlock(&process->offload_lock);
}

/* ---- making the ring, in its thread ---------------------------------------------------------- */

static int make_ring(struct ta_uring *uring)
{
	struct io_uring_params parameters = {
		.flags = IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE | IORING_SETUP_COOP_TASKRUN,
		.cq_entries = TA_URING_COMPLETIONS,
	};
	int result = io_uring_queue_init_params(TA_URING_ENTRIES, &uring->ring, &parameters);

	if (result == -EINVAL) {
		/* Before 5.19. */
		parameters = (struct io_uring_params){
			.flags = IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE,
			.cq_entries = TA_URING_COMPLETIONS,
		};
		result = io_uring_queue_init_params(TA_URING_ENTRIES, &uring->ring, &parameters);
	}
	if (result < 0)
		return result;
	io_uring_ring_dontfork(&uring->ring);
	return 0;
}

/* As many as may be; fewer where the kernel has no memory for the table. */
static int make_holds(struct ta_uring *uring)
{
	uint64_t limit = ta_descriptor_limit();
	uint32_t count = limit < HOLDS_MAX ? (uint32_t)limit : HOLDS_MAX;
	int result;

	while ((result = io_uring_register_files_sparse(&uring->ring, count)) == -ENOMEM &&
	       count > HOLDS_FEW)
		count = HOLDS_FEW;
	uring->hold_limit = count;
	return result;
}

/* Nothing of it is left where it fails or is of no use. */
static int make_useful_ring(struct ta_uring *uring)
{
	unsigned workers[2] = { KERNEL_WORKERS, 0 };
	int result = make_ring(uring);

	if (result < 0)
		return result;
	result = make_holds(uring);
	/* A file that is still open once its event is seen breaks the promise of hold.c. */
	if (result == 0)
		result = ta_probe_prompt_close(&uring->ring, &uring->missing);
	if (result < 0 || uring->missing) {
		io_uring_queue_exit(&uring->ring);
		return result;
	}
	uring->ring.ring_fd = uring->ring.enter_ring_fd = ta_high_descriptor(uring->ring.ring_fd);
	io_uring_register_iowq_max_workers(&uring->ring, workers);
	return 0;
}

static bool start(struct ta_uring *uring)
{
	enum ring_state state;

	uring->error = make_useful_ring(uring);
	state = uring->error < 0 || uring->missing ? RING_FAILED : RING_READY;
	/*
	 * After a failure the memory may be gone by the time of the wake-up: a futex call on an
	 * address that is no more does nothing.
	 */
	atomic_store(&uring->state, state);
	ta_futex_wake(&uring->state, 1);
	return state == RING_READY;
}

static void *ring_thread(void *argument)
{
	struct ta_uring *uring = argument;

	if (!start(uring))
		return NULL;
	ta_thread.is_ring = true;
	/*
	 * By its registered number the ring stays ours even if the program closes descriptors it
	 * does not know.
	 */
	io_uring_register_ring_fd(&uring->ring);
	arm_doorbell(uring);
	for (;;) {
		begin_queued(uring);
		if (reap(uring) > 0)
			continue;
		if (!fall_asleep(uring))
			continue;
		io_uring_submit_and_wait(&uring->ring, 1);
		wake_up(uring);
	}
	return NULL;
}

/* ---- opening --------------------------------------------------------------------------------- */

static TA_COLD void log_refusal(int error, unsigned missing)
{
	struct ta_evidence evidence;
	struct ta_probe probe;
	char reason[256];

	if (!ta_settings()->log)
		return;
	ta_probe_look(&evidence);
	ta_probe_judge(TA_PROBE_URING, error, missing, &evidence, &probe);
	ta_probe_sentence(&probe, reason, sizeof(reason));
	ta_log("offloader: io_uring: %s", reason);
}

/* Returns once the thread has made the ring, or could not. */
static int start_ring_thread(struct ta_uring *uring, unsigned *missing)
{
	int result = ta_thread_start(ring_thread, uring);

	if (result < 0)
		return result;
	while (atomic_load(&uring->state) == RING_STARTING)
		ta_futex_wait(&uring->state, RING_STARTING, TA_NO_DEADLINE);
	*missing = uring->missing;
	return uring->error;
}

static int open_uring(struct ta_process *process, unsigned *missing)
{
	struct ta_uring *uring = ta_pages_alloc(sizeof(*uring));
	int result;

	if (!uring)
		return -ENOMEM;
	result = (int)ta_syscall2(SYS_eventfd2, 0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (result < 0)
		goto free_memory;
	uring->doorbell = ta_high_descriptor(result);
	process->uring = uring;
	result = start_ring_thread(uring, missing);
	if (result == 0 && !*missing) {
		ta_inherited_add(uring->doorbell);
		ta_inherited_add(uring->ring.ring_fd);
		return 0;
	}
	process->uring = NULL;
	ta_syscall1(SYS_close, uring->doorbell);
free_memory:
	ta_pages_free(uring, sizeof(*uring));
	return result;
}

int ta_uring_open(struct ta_process *process)
{
	int saved_errno = errno;
	unsigned missing = 0;
	int result = open_uring(process, &missing);

	errno = saved_errno;
	if (result == 0 && !missing) {
		ta_log("offloader: io_uring");
		return 0;
	}
	log_refusal(result, missing);
	return result < 0 ? result : -ENOSYS;
}

/* ---- what the program's threads do ----------------------------------------------------------- */

/*
 * The program may have closed our descriptor: then nothing new can be captured, and what runs goes
 * on.
 */
static bool ring_is_lost(struct ta_uring *uring)
{
	struct io_uring_probe probe;

	memset(&probe, 0, sizeof(probe));
	if (ta_syscall4(SYS_io_uring_register, uring->ring.ring_fd, IORING_REGISTER_PROBE, &probe,
			0) == 0)
		return false;
	ta_offload_lost(&ta_uring_offloader);
	return true;
}

/*
 * Puts a file into a registered slot, or -1 for none: 1, or a negative errno.  The tag comes as a
 * completion when the kernel has let go of the file; 0 is none.  By the ring's own
 * descriptor: newer versions of liburing would use the number that the ring thread has registered,
 * which means nothing (or another ring) in the program's threads.
 */
static int update_hold(struct ta_uring *uring, uint32_t hold, int fd, uint64_t tag)
{
	struct io_uring_rsrc_update2 update;

	memset(&update, 0, sizeof(update));
	update.offset = hold;
	update.data = (uint64_t)(uintptr_t)&fd;
	update.tags = (uint64_t)(uintptr_t)&tag;
	update.nr = 1;
	return (int)ta_syscall4(SYS_io_uring_register, uring->ring.ring_fd,
				IORING_REGISTER_FILES_UPDATE2, &update, sizeof(update));
}

/* The last completion is looked at first: there it mostly is. */
static bool has_come(const struct ta_uring *uring, uint64_t tag)
{
	const struct io_uring_cq *completions = &uring->ring.cq;
	unsigned head = *completions->khead;
	unsigned tail = io_uring_smp_load_acquire(completions->ktail);

	while (tail != head)
		if (completions->cqes[--tail & completions->ring_mask].user_data == tag)
			return true;
	return false;
}

/*
 * A thread of the kernel's announces the end of its request before it lets go of the request's
 * file, and what it does then may still need the ring thread.  The other completions that come
 * meanwhile keep.
 */
static void wait_until_closed(struct ta_uring *uring, uint64_t tag)
{
	int64_t left, deadline = 0;
	struct __kernel_timespec limit;
	struct io_uring_cqe *cqe;
	unsigned ready;

	while (!has_come(uring, tag)) {
		if (deadline == 0)
			deadline = ta_now_ns() + CLOSE_LIMIT_NS;
		left = deadline - ta_now_ns();
		ready = io_uring_cq_ready(&uring->ring);
		if (left <= 0 || ready >= uring->ring.cq.ring_entries)
			return;
		limit = (struct __kernel_timespec){ .tv_nsec = left };
		io_uring_submit_and_wait_timeout(&uring->ring, &cqe, ready + 1, &limit, NULL);
	}
}

/*
 * A registered-file slot that holds the open file behind fd; -EBADF, or -ENFILE when all are taken.
 */
static int capture(int fd)
{
	struct ta_process *process = ta_process();
	struct ta_uring *uring = the_uring();
	uint64_t tag;
	uint32_t hold;
	int result;

	ta_lock(&process->offload_lock);
	if (uring->free_hold_count > 0) {
		hold = uring->free_holds[--uring->free_hold_count];
	} else if (uring->touched_holds < uring->hold_limit) {
		hold = uring->touched_holds++;
	} else {
		ta_unlock(&process->offload_lock);
		return -ENFILE;
	}
	tag = (++uring->last_tag * (DATA_KIND + 1)) | DATA_CLOSED;
	uring->tags[hold] = tag;
	ta_unlock(&process->offload_lock);
	result = update_hold(uring, hold, fd, tag);
	if (result == 1)
		return (int)hold;
	ta_lock(&process->offload_lock);
	uring->free_holds[uring->free_hold_count++] = hold;
	ta_unlock(&process->offload_lock);
	return result != -EBADF || ring_is_lost(uring) ? -ENFILE : -EBADF;
}

static void release(int hold)
{
	struct ta_process *process = ta_process();
	struct ta_uring *uring = the_uring();

	if (update_hold(uring, (uint32_t)hold, -1, 0) == 1 && ta_thread.is_ring)
		wait_until_closed(uring, uring->tags[hold]);
	ta_lock(&process->offload_lock);
	uring->free_holds[uring->free_hold_count++] = (uint32_t)hold;
	ta_unlock(&process->offload_lock);
}

static void ring_the_doorbell(struct ta_uring *uring)
{
	const uint64_t one = 1;

	ta_syscall3(SYS_write, uring->doorbell, &one, sizeof(one));
}

/* For a thread to which the doorbell's number means nothing. */
void ta_uring_ring_doorbell(void)
{
	ring_the_doorbell(the_uring());
}

static void enqueue(struct ta_uring *uring, struct ta_operation *operation)
{
	bool ring_doorbell;

	/* offload_lock is held, and let go. */
	if (!operation->is_queued) {
		operation->is_queued = true;
		operation->queue_next = NULL;
		if (uring->queue_tail)
			uring->queue_tail->queue_next = operation;
		else
			uring->queue_head = operation;
		uring->queue_tail = operation;
	}
	ring_doorbell = uring->asleep;
	uring->asleep = false;
	ta_unlock(&ta_process()->offload_lock);
	if (!ring_doorbell)
		return;
	if (ta_thread.is_foreign)
		ta_message_doorbell();
	else
		ring_the_doorbell(uring);
}

static void submit(struct ta_operation *operation)
{
	enqueue(the_uring(), operation);
}

void ta_uring_rewritten(struct ta_operation *operation, long result)
{
	operation->ready_result = result;
	operation->is_rewritten = true;
	ta_lock(&ta_process()->offload_lock);
	enqueue(the_uring(), operation);
}

static void abandon(struct ta_operation *operation)
{
	struct ta_process *process = ta_process();

	ta_lock(&process->offload_lock);
	if (operation->state != TA_OPERATION_RUNNING) {
		ta_unlock(&process->offload_lock);
		return;
	}
	operation->abandon_wanted = true;
	operation->cancel_tried = true;
	enqueue(the_uring(), operation);
}

/* By the ring's own descriptor, as in update_hold. */
static int cancel_in_ring(const struct ta_operation *operation)
{
	struct io_uring_sync_cancel_reg target;

	memset(&target, 0, sizeof(target));
	target.addr = (uint64_t)(uintptr_t)operation;
	target.fd = -1;
	/* Not even a moment: what has begun to end, ends by itself. */
	target.timeout.tv_sec = 0;
	target.timeout.tv_nsec = 0;
	return (int)ta_syscall4(SYS_io_uring_register, the_uring()->ring.ring_fd,
				IORING_REGISTER_SYNC_CANCEL, &target, 1);
}

/*
 * Cancels an operation that runs: 0 if it ends with -ECANCELED.  Its context's lock is held, which
 * keeps the operation from ending and its address from meaning another.
 *
 * The ring thread may look at the completion before this thread has the kernel's answer.  So it is
 * told first; and what it has ended as cancelled meanwhile is, whatever the answer.
 */
static int cancel(struct ta_operation *operation)
{
	struct ta_process *process = ta_process();
	bool was_tried;
	int result;

	ta_lock(&process->offload_lock);
	was_tried = operation->cancel_tried;
	operation->cancel_tried = true;
	ta_unlock(&process->offload_lock);
	result = cancel_in_ring(operation);
	if (result == -ENOENT && operation->opcode == IO_CMD_POLL) {
		/*
		 * On its way into the ring, where it would stay, or out of it: either way its event
		 * comes soon.
		 */
		abandon(operation);
		return 0;
	}
	ta_lock(&process->offload_lock);
	if (operation->cancel_told)
		result = 0;
	else if (result < 0)
		operation->cancel_tried = was_tried;
	ta_unlock(&process->offload_lock);
	return result < 0 ? result : 0;
}

/*
 * On the ring thread.  The eventfd is a registered file, so only the ring can write to it; it does
 * that in a thread of the kernel's, which would wait for ever for one at its maximum.  Such a one
 * is readable as it should be: the write is given up.
 */
static void signal_eventfd(struct ta_operation *operation)
{
	static const uint64_t one = 1;
	static struct __kernel_timespec limit = { .tv_nsec = SIGNAL_LIMIT_NS };
	struct ta_uring *uring = the_uring();
	struct io_uring_sqe *sqe;

	if (io_uring_sq_space_left(&uring->ring) < 2)
		io_uring_submit(&uring->ring);
	sqe = next_sqe(uring);
	io_uring_prep_write(sqe, operation->eventfd->file, &one, sizeof(one), 0);
	io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE | IOSQE_ASYNC | IOSQE_IO_LINK);
	io_uring_sqe_set_data64(sqe, (uint64_t)(uintptr_t)operation + DATA_SIGNALLED);
	sqe = next_sqe(uring);
	io_uring_prep_link_timeout(sqe, &limit, 0);
	io_uring_sqe_set_data64(sqe, DATA_NOTHING);
}

const struct ta_offloader ta_uring_offloader = {
	.name = "uring",
	.capture = capture,
	.release = release,
	.submit = submit,
	.cancel = cancel,
	.abandon = abandon,
	.signal = signal_eventfd,
};
