/* SPDX-License-Identifier: MIT */
/*
 * The custodian: a thread that keeps the files of held fsyncs of pass-through contexts.
 *
 * When its turn has come, such an fsync must be submitted with the program's own iocb, which names
 * its file and its eventfd by their numbers in the program.  By then these may mean something else
 * there.  So the custodian has a descriptor table of its own, to which both are sent inside
 * io_submit.  It alone uses that table: so it may put them at the program's numbers for the moment
 * of the system call, and back what stood there.
 *
 * helper_lock guards the queue.
 */
#include "internal.h"

#include "pool.h"
#include "table.h"
#include "work.h"

#include <fcntl.h>

#define CUSTODIAN_STACK_BYTES (32 * 1024)
/* Where the ring has no room, or the table no number. */
#define RETRY_NS 1000000LL

/* What is kept for one held fsync. */
struct ta_kept {
	struct ta_kept *next; /* in the queue, or free */
	struct ta_operation *operation; /* NULL: it is not wanted any more */
	_Atomic int file; /* in the table; NOT_SENT: it never was */
	_Atomic int eventfd; /* likewise */
};

#define NOT_SENT (-3)

struct ta_custody {
	struct ta_table table;
	_Atomic int error; /* of the start; 1: not known yet */
	_Atomic uint32_t word; /* changes when the queue grows */
	struct ta_kept *queue; /* newest first; helper_lock */
	struct ta_kept *free; /* helper_lock */
	struct ta_pool_page *pages; /* helper_lock */
};

/*
 * ---- numbers, on the custodian's thread --------------------------------------------------------
 */

/* A file and an eventfd at the numbers that they have in the program; -1 for no eventfd. */
struct places {
	int number[2];
	int copy[2]; /* of the file and the eventfd */
	int saved[2]; /* of what stood at the numbers; -1: nothing */
	bool is_put[2];
};

/* A copy at neither of the two numbers; or a negative errno. */
static int copy_apart(int fd, const struct places *places)
{
	int copy = (int)ta_syscall3(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 0), another;

	if (copy < 0 || (copy != places->number[0] && copy != places->number[1]))
		return copy;
	another = copy_apart(fd, places);
	ta_syscall1(SYS_close, copy);
	return another;
}

/* 0 or a negative errno. */
static int put_in_place(struct places *places, int i)
{
	int saved;

	if (places->number[i] < 0)
		return 0;
	saved = copy_apart(places->number[i], places);
	if (saved < 0 && saved != -EBADF)
		return saved;
	places->saved[i] = saved < 0 ? -1 : saved;
	places->is_put[i] =
		ta_syscall3(SYS_dup3, places->copy[i], places->number[i], O_CLOEXEC) >= 0;
	return places->is_put[i] ? 0 : -EMFILE;
}

static void close_number(int number)
{
	if (number >= 0)
		ta_syscall1(SYS_close, number);
}

/* The last first, because what was saved of one may stand at the number of another. */
static void put_back(const struct places *places)
{
	int i;

	for (i = 1; i >= 0; i--) {
		if (places->is_put[i] && places->saved[i] >= 0)
			ta_syscall3(SYS_dup3, places->saved[i], places->number[i], O_CLOEXEC);
		else if (places->is_put[i])
			ta_syscall1(SYS_close, places->number[i]);
		close_number(places->saved[i]);
		close_number(places->copy[i]);
	}
}

/* ---- submitting ------------------------------------------------------------------------------ */

/* 0 or a negative errno.  The program's own limit of descriptors is not meant for this table. */
static int fill(struct ta_custody *custody, struct ta_kept *kept, struct places *places)
{
	int file = ta_table_number(&custody->table, &kept->file), eventfd = -1, result = 0;
	struct ta_limit before;

	if (places->number[1] >= 0)
		eventfd = ta_table_number(&custody->table, &kept->eventfd);
	before = ta_table_lift_limit(UINT64_MAX);
	places->copy[0] = copy_apart(file, places);
	if (places->number[1] >= 0)
		places->copy[1] = copy_apart(eventfd, places);
	if (places->copy[0] < 0 || (places->number[1] >= 0 && places->copy[1] < 0))
		result = -EMFILE;
	if (result == 0)
		result = put_in_place(places, 0);
	if (result == 0)
		result = put_in_place(places, 1);
	ta_table_lower_limit(before);
	return result;
}

/*
 * 1: submitted; -EAGAIN or -EMFILE: to be tried again; -ESHUTDOWN: the context is being destroyed;
 * or why it is refused.
 */
static long submit(struct ta_custody *custody, struct ta_kept *kept)
{
	struct ta_operation *operation = kept->operation;
	struct places places = {
		.number = { operation->proxy.aio_fildes, operation->resfd },
		.copy = { -1, -1 },
		.saved = { -1, -1 },
	};
	long result = fill(custody, kept, &places);
	struct ta_limit before;

	if (result == 0)
		result = ta_passthrough_submit_held(operation);
	else if (ta_passthrough_is_dying(operation))
		result = -ESHUTDOWN;
	before = ta_table_lift_limit(UINT64_MAX);
	put_back(&places);
	ta_table_lower_limit(before);
	return result;
}

static void close_sent(struct ta_custody *custody, _Atomic int *number)
{
	if (atomic_load(number) != NOT_SENT)
		ta_table_close(&custody->table, ta_table_number(&custody->table, number));
}

static void let_go(struct ta_process *process, struct ta_kept *kept)
{
	struct ta_custody *custody = process->custody;

	close_sent(custody, &kept->file);
	close_sent(custody, &kept->eventfd);
	ta_lock(&process->helper_lock);
	TA_POOL_PUT(&custody->free, kept, next);
	ta_unlock(&process->helper_lock);
}

/*
 * Its context is being destroyed, which drops its event: the file is synchronized, and the eventfd
 * signalled.
 */
static void carry_out(struct ta_custody *custody, struct ta_kept *kept)
{
	const struct ta_operation *operation = kept->operation;

	ta_syscall1(operation->opcode == IO_CMD_FDSYNC ? SYS_fdatasync : SYS_fsync,
		    ta_table_number(&custody->table, &kept->file));
	if (operation->resfd >= 0)
		ta_eventfd_signal(ta_table_number(&custody->table, &kept->eventfd));
}

/* True: done with. */
static bool handle(struct ta_process *process, struct ta_kept *kept)
{
	struct ta_operation *operation = kept->operation;
	long result = operation ? submit(process->custody, kept) : 1;

	if (result == -EAGAIN || result == -EMFILE)
		return false;
	if (result == -ESHUTDOWN)
		carry_out(process->custody, kept);
	let_go(process, kept);
	if (result == 1)
		return true;
	if (result != -ESHUTDOWN)
		ta_log("pass-through: the iocb of a held fsync was changed before its event; "
		       "it has none");
	ta_operation_ended(operation, 0);
	return true;
}

/* Takes the queue, oldest first, behind what is left of it. */
static void take_queue(struct ta_process *process, struct ta_kept **list)
{
	struct ta_kept *newest, *oldest = NULL;

	ta_lock(&process->helper_lock);
	newest = process->custody->queue;
	process->custody->queue = NULL;
	ta_unlock(&process->helper_lock);
	while (newest) {
		struct ta_kept *kept = newest;

		newest = kept->next;
		kept->next = oldest;
		oldest = kept;
	}
	while (*list)
		list = &(*list)->next;
	*list = oldest;
}

static void work(struct ta_process *process)
{
	struct ta_custody *custody = process->custody;
	struct ta_kept *list = NULL, **link;

	for (;;) {
		uint32_t seen = atomic_load(&custody->word);

		ta_table_receive(&custody->table);
		take_queue(process, &list);
		for (link = &list; *link;) {
			struct ta_kept *kept = *link, *following = kept->next;

			if (handle(process, kept))
				*link = following;
			else
				link = &kept->next;
		}
		ta_futex_wait(&custody->word, seen, list ? ta_now_ns() + RETRY_NS : TA_NO_DEADLINE);
	}
}

static void *custodian(void *argument)
{
	struct ta_process *process = argument;
	struct ta_custody *custody = process->custody;
	int error = ta_table_make(&custody->table, TA_OWN_CUSTODY);
	int wake_fd = error < 0 ? error : ta_wake_fd_make();

	if (wake_fd < 0)
		error = wake_fd;
	else
		ta_thread_becomes_foreign(wake_fd);
	atomic_store(&custody->error, error);
	atomic_fetch_add(&custody->word, 1);
	ta_futex_wake(&custody->word, 1);
	if (error == 0)
		work(process);
	return NULL;
}

/* ---- elsewhere ------------------------------------------------------------------------------- */

/* On the first helper: 0, or a negative errno. */
int ta_custody_open(struct ta_process *process)
{
	struct ta_custody *custody = process->custody;
	int error;

	/* It is there; only the way to it is not. */
	if (custody && atomic_load(&custody->error) == 0)
		return ta_table_try(&custody->table);
	if (!custody)
		custody = ta_page_take();
	if (!custody)
		return -ENOMEM;
	memset(custody, 0, sizeof(*custody));
	atomic_store(&custody->error, 1);
	process->custody = custody;
	error = ta_thread_start("trueaio-custody", CUSTODIAN_STACK_BYTES, custodian, process);
	if (error < 0)
		return error;
	while ((error = atomic_load(&custody->error)) == 1)
		ta_futex_wait(&custody->word, 0, TA_NO_DEADLINE);
	return error == 0 ? ta_table_try(&custody->table) : error;
}

static void call(struct ta_process *process, struct ta_kept *kept)
{
	struct ta_custody *custody = process->custody;

	ta_lock(&process->helper_lock);
	kept->next = custody->queue;
	custody->queue = kept;
	ta_unlock(&process->helper_lock);
	atomic_fetch_add(&custody->word, 1);
	ta_futex_wake(&custody->word, 1);
}

static int send(struct ta_custody *custody, _Atomic int *number, int fd)
{
	int result = fd < 0 ? 0 : ta_table_send(&custody->table, number, fd);

	if (fd < 0 || result < 0)
		atomic_store(number, NOT_SENT);
	return result;
}

/*
 * Inside io_submit: the file and the eventfd of the operation are kept from now on.  0, or a
 * negative errno.
 */
int ta_custody_take(struct ta_operation *operation)
{
	struct ta_process *process = ta_process();
	struct ta_custody *custody = process->custody;
	struct ta_kept *kept;
	int result;

	ta_lock(&process->helper_lock);
	kept = TA_POOL_TAKE(&custody->free, &custody->pages, next);
	ta_unlock(&process->helper_lock);
	if (!kept)
		return -EAGAIN;
	kept->operation = operation;
	atomic_store(&kept->eventfd, NOT_SENT);
	result = send(custody, &kept->file, operation->proxy.aio_fildes);
	if (result == 0)
		result = send(custody, &kept->eventfd, operation->resfd);
	if (result == 0) {
		operation->kept = kept;
		return 0;
	}
	/* What has been sent is on its way: the custodian gives it back. */
	kept->operation = NULL;
	call(process, kept);
	return result;
}

/* The operation is not wanted after all. */
void ta_custody_release(struct ta_operation *operation)
{
	operation->kept->operation = NULL;
	call(ta_process(), operation->kept);
}

/* Its turn has come. */
void ta_custody_submit(struct ta_operation *operation)
{
	call(ta_process(), operation->kept);
}
