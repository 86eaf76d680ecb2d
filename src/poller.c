/* SPDX-License-Identifier: MIT */
/*
 * Parked operations: polls, and reads and writes of streams that found nothing.  They hold no
 * worker; the poller, one thread, waits for all their files at once, and gives what has become
 * ready to the workers.
 */
#include "work.h"

#include <poll.h>
#include <sys/epoll.h>

/* Tells epoll to report the file once.  The number may be known there, or not, by a former use. */
static int tell_epoll(const struct ta_workers *workers, int number, struct epoll_event event)
{
	long result = ta_syscall4(SYS_epoll_ctl, workers->epoll, EPOLL_CTL_MOD, number, &event);

	if (result == -ENOENT)
		result = ta_syscall4(SYS_epoll_ctl, workers->epoll, EPOLL_CTL_ADD, number, &event);
	return (int)result;
}

/* 0, where a sandbox refuses it, too: epoll takes no file then; or a negative errno. */
int ta_poller_open(struct ta_workers *workers)
{
	struct epoll_event event;
	long result = ta_syscall1(SYS_epoll_create1, EPOLL_CLOEXEC);

	workers->epoll = (int)result;
	if (result >= 0)
		result = ta_syscall(SYS_epoll_pwait, result, (long)&event, 1, 0, 0, 0);
	if (result < 0 && workers->epoll >= 0) {
		ta_syscall1(SYS_close, workers->epoll);
		workers->epoll = -1;
	}
	return ta_call_is_refused(result) ? 0 : (int)result;
}

/* epoll does not take the file: workers look at it in turns.  offload_lock is held. */
static uint32_t leave_to_workers(struct ta_workers *workers, struct ta_hold *file)
{
	struct ta_operation *operation;
	uint32_t count = 0;

	for (; (operation = file->parked.head) != NULL; count++) {
		ta_list_remove(&file->parked, operation, TA_LIST_QUEUE);
		operation->is_unwatched = true;
		ta_queue_push(workers, operation);
	}
	return count;
}

/*
 * Has the file watched for what is parked there.  epoll asks the file, and a file of FUSE asks its
 * server: so no lock is held meanwhile.  Only one thread at a time arms a file; another that parks
 * an operation there meanwhile leaves it to that one, which looks again.  offload_lock is held, and
 * let go meanwhile.  Returns how many operations are the workers', because it is not watched.
 */
static uint32_t arm(struct ta_workers *workers, struct ta_hold *file)
{
	struct ta_process *process = ta_process();
	uint32_t generation = file->generation;
	int result = 0;

	while (result == 0 && !file->is_arming && file->parked.head &&
	       file->wanted_events != file->armed_events) {
		struct epoll_event event = {
			.events = (file->wanted_events & ~(uint32_t)TA_EVENTS_ARMED) | EPOLLONESHOT,
			.data.ptr = file,
		};
		int number = atomic_load(&file->number);

		file->is_arming = true;
		file->is_watched = true;
		file->armed_events = file->wanted_events;
		ta_unlock(&process->offload_lock);
		result = tell_epoll(workers, number, event);
		ta_lock(&process->offload_lock);
		/* What was parked may be over, and the place in other hands. */
		if (file->generation != generation)
			return 0;
		file->is_arming = false;
		if (result < 0)
			file->armed_events = 0;
	}
	return result < 0 ? leave_to_workers(workers, file) : 0;
}

/*
 * A worker's operation waits until its file is ready for one of these.  False: it is wanted no
 * more, and runs still.
 */
bool ta_poller_park(struct ta_workers *workers, struct ta_operation *operation, uint16_t events)
{
	struct ta_process *process = ta_process();
	struct ta_hold *file = operation->hold;

	ta_lock(&process->offload_lock);
	if (operation->cancelled) {
		ta_unlock(&process->offload_lock);
		return false;
	}
	ta_queue_stopped(workers, operation);
	operation->state = TA_OPERATION_PARKED;
	operation->poll_events = events;
	ta_list_push(&file->parked, operation, TA_LIST_QUEUE);
	file->wanted_events |= events | TA_EVENTS_ARMED;
	ta_workers_announce(workers, arm(workers, file));
	return true;
}

/* What a parked operation is told of, whether it asked or not, as from poll(2). */
static uint32_t wanted_events(const struct ta_operation *operation)
{
	return operation->poll_events | EPOLLERR | EPOLLHUP;
}

/*
 * Gives the workers what the file is ready for, and looks what the others still wait for.
 * offload_lock is held, and let go meanwhile.  Returns how many they are.
 */
static uint32_t unpark_ready(struct ta_workers *workers, struct ta_hold *file, uint32_t reported)
{
	struct ta_process *process = ta_process();
	uint32_t generation = file->generation, count = 0;
	uint16_t events = (uint16_t)file->wanted_events;
	struct ta_operation *operation, *following;
	int number = atomic_load(&file->number), there;

	ta_unlock(&process->offload_lock);
	there = ta_file_poll(number, events, 0);
	ta_lock(&process->offload_lock);
	/* The file may have been given back meanwhile, and its place taken by another. */
	if (file->generation != generation)
		return 0;
	/* poll(2) tells nothing where the program may have no descriptor at all. */
	if (there >= 0)
		reported = (uint32_t)there;
	file->wanted_events = TA_EVENTS_ARMED;
	for (operation = file->parked.head; operation; operation = following) {
		following = operation->links[TA_LIST_QUEUE].next;
		if (!(reported & wanted_events(operation))) {
			file->wanted_events |= operation->poll_events;
			continue;
		}
		ta_list_remove(&file->parked, operation, TA_LIST_QUEUE);
		if (operation->opcode == IO_CMD_POLL)
			ta_workers_end(workers, operation,
				       (long)(reported & wanted_events(operation)));
		else
			ta_queue_push(workers, operation);
		count++;
	}
	return count;
}

/* What had been reported once is not watched any more until it is armed again. */
static void look_at(struct ta_workers *workers, struct ta_hold *file, uint32_t reported)
{
	uint32_t count = 0;

	ta_lock(&ta_process()->offload_lock);
	file->armed_events = 0;
	if (file->parked.head)
		count = unpark_ready(workers, file, reported);
	count += arm(workers, file);
	ta_workers_announce(workers, count);
}

void *ta_poller(void *argument)
{
	struct ta_workers *workers = argument;
	struct epoll_event event;
	long result;

	if (!ta_workers_pass_gate(workers))
		return NULL;
	do {
		result = ta_syscall(SYS_epoll_pwait, workers->epoll, (long)&event, 1, -1, 0, 0);
		if (result == 1)
			look_at(workers, event.data.ptr, event.events);
	} while (result >= 0 || result == -EINTR);
	/* A filter has come.  What is not parked yet goes another way. */
	workers->epoll = -1;
	return NULL;
}
