/* SPDX-License-Identifier: MIT */
/*
 * Parked operations: polls, and reads and writes of streams that found nothing.  They hold no
 * worker; the poller waits for all their files at once, and queues or ends what has become ready.
 */
#include "threads.h"

#include <poll.h>
#include <sys/epoll.h>

/* Tells epoll to report the file once.  The number may be known there, or not, by a former use. */
static int tell_epoll(const struct ta_threads *threads, int number, struct epoll_event event)
{
	long result = ta_syscall4(SYS_epoll_ctl, threads->epoll, EPOLL_CTL_MOD, number, &event);

	if (result == -ENOENT)
		result = ta_syscall4(SYS_epoll_ctl, threads->epoll, EPOLL_CTL_ADD, number, &event);
	return (int)result;
}

/*
 * epoll asks the file, and a file of FUSE asks its server: so no lock is held meanwhile.  Only one
 * thread at a time arms a file; another that parks an operation there meanwhile leaves it to that
 * one, which looks again.  offload_lock is held, and let go meanwhile.  0 or a negative errno.
 */
static int arm(struct ta_threads *threads, struct ta_threads_file *file)
{
	struct ta_process *process = ta_process();
	uint32_t generation = file->generation;
	int result = 0;

	while (result == 0 && !file->is_arming && file->parked &&
	       file->wanted_events != file->armed_events) {
		struct epoll_event event = {
			.events = (file->wanted_events & ~(uint32_t)TA_EVENTS_ARMED) | EPOLLONESHOT,
			.data.u64 = (uint64_t)(file - threads->files),
		};
		int number = atomic_load(&file->number);

		file->is_arming = true;
		file->is_watched = true;
		file->armed_events = file->wanted_events;
		ta_unlock(&process->offload_lock);
		result = tell_epoll(threads, number, event);
		ta_lock(&process->offload_lock);
		/* What was parked may be over, and the place in other hands. */
		if (file->generation != generation)
			return 0;
		file->is_arming = false;
		if (result < 0)
			file->armed_events = 0;
	}
	return result;
}

/* A file that cannot be waited for: so ends what waits for it.  offload_lock is held. */
static struct ta_operation *give_up_waiting(struct ta_threads_file *file, long result)
{
	struct ta_operation *given_up = NULL, *operation;

	while ((operation = file->parked) != NULL) {
		ta_threads_parked_remove(file, operation);
		operation->state = TA_OPERATION_ENDED;
		operation->ready_result = result;
		operation->queue_next = given_up;
		given_up = operation;
	}
	return given_up;
}

void ta_threads_end_all(struct ta_operation *operation)
{
	struct ta_operation *following;

	for (; operation; operation = following) {
		following = operation->queue_next;
		ta_operation_ended(operation, operation->ready_result);
	}
}

/*
 * The operation waits until its file is ready.  False: it is wanted no more, and still the
 * caller's.
 */
bool ta_threads_park(struct ta_threads *threads, struct ta_operation *operation, uint16_t events)
{
	struct ta_process *process = ta_process();
	struct ta_threads_file *file = ta_threads_file_of(threads, operation);
	struct ta_operation *given_up = NULL;
	int result;

	ta_lock(&process->offload_lock);
	if (operation->abandon_wanted) {
		ta_unlock(&process->offload_lock);
		return false;
	}
	operation->poll_events = events;
	ta_threads_parked_push(file, operation);
	file->wanted_events |= events | TA_EVENTS_ARMED;
	result = arm(threads, file);
	if (result < 0)
		given_up = give_up_waiting(file, result);
	ta_unlock(&process->offload_lock);
	ta_threads_end_all(given_up);
	return true;
}

/* What a parked operation is told of, whether it asked or not, as from poll(2). */
static uint32_t wanted_events(const struct ta_operation *operation)
{
	return operation->poll_events | EPOLLERR | EPOLLHUP;
}

/*
 * Takes those off the file that it is ready for, and has the others watched again.  offload_lock is
 * held, and let go meanwhile.
 */
static struct ta_operation *unpark_ready(struct ta_threads_file *file)
{
	struct ta_process *process = ta_process();
	struct ta_operation *operation, *following, *ready = NULL;
	uint32_t generation = file->generation, there;
	int number = atomic_load(&file->number);
	uint16_t events = (uint16_t)file->wanted_events;

	if (!file->parked)
		return NULL;
	ta_unlock(&process->offload_lock);
	there = (uint32_t)ta_file_poll(number, events);
	ta_lock(&process->offload_lock);
	/* The file may have been given back meanwhile, and its place taken by another. */
	if (file->generation != generation)
		return NULL;
	file->wanted_events = TA_EVENTS_ARMED;
	for (operation = file->parked; operation; operation = following) {
		following = operation->queue_next;
		if (!(there & wanted_events(operation))) {
			file->wanted_events |= operation->poll_events;
			continue;
		}
		ta_threads_parked_remove(file, operation);
		if (operation->opcode == IO_CMD_POLL)
			operation->state = TA_OPERATION_ENDED;
		operation->ready_result = (long)(there & wanted_events(operation));
		operation->queue_next = ready;
		ready = operation;
	}
	return ready;
}

/* What had been reported once is not watched any more until it is armed again. */
static void look_at(struct ta_threads *threads, struct ta_threads_file *file)
{
	struct ta_process *process = ta_process();
	struct ta_operation *operation, *following, *given_up = NULL;
	int result;

	ta_lock(&process->offload_lock);
	file->armed_events = 0;
	operation = unpark_ready(file);
	result = arm(threads, file);
	if (result < 0)
		given_up = give_up_waiting(file, result);
	ta_unlock(&process->offload_lock);
	for (; operation; operation = following) {
		following = operation->queue_next;
		if (operation->opcode == IO_CMD_POLL) {
			ta_operation_ended(operation, operation->ready_result);
			continue;
		}
		ta_lock(&process->offload_lock);
		ta_threads_queue_push(threads, ta_threads_file_of(threads, operation), operation);
		ta_threads_announce_work(threads);
	}
	ta_threads_end_all(given_up);
}

void *ta_threads_poller(void *argument)
{
	struct ta_threads *threads = argument;
	struct epoll_event event;

	ta_threads_enter_table(threads);
	for (;;)
		if (ta_syscall(SYS_epoll_pwait, threads->epoll, (long)&event, 1, -1, 0, 0) == 1)
			look_at(threads, &threads->files[event.data.u64]);
	return NULL;
}
