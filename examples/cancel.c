/* SPDX-License-Identifier: MIT */
/*
 * cancel [ROUNDS]: asks a server questions, and gives up on an answer that is late.
 *
 * Shows how to end a request early without losing track of it.  io_cancel only asks.  Whatever it
 * says, the request has exactly one event, which comes through io_getevents like any other; until
 * it has been taken, the iocb and its buffers are in use.  So the answers of io_cancel are one
 * case, and the event alone tells how the request ended:
 *
 *	-EINPROGRESS	it is cancelled: the event of a poll has result 0, of others -ECANCELED
 *	-EAGAIN		it is past cancelling, and goes on to its normal end
 *	-EINVAL		it has ended, and its event waits to be taken (or it never was submitted)
 *
 * The server here is a thread that answers about as fast as the client is patient, so that in some
 * rounds the answer and the cancellation meet.  At last each answer must have been found either in
 * time or late, and no event may be left.
 *
 *	cc -o cancel cancel.c -laio -pthread
 *	./cancel
 */
#include <err.h>
#include <errno.h>
#include <libaio.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE_NS 1000000

static int client_end, server_end;

static void *answer_questions(void *unused)
{
	unsigned seed = 1;
	int question;

	while (read(server_end, &question, sizeof(question)) == (ssize_t)sizeof(question)) {
		struct timespec delay = { 0, 0 };

		delay.tv_nsec = rand_r(&seed) % (2 * PATIENCE_NS);
		nanosleep(&delay, NULL);
		if (write(server_end, &question, sizeof(question)) != (ssize_t)sizeof(question))
			err(1, "server");
	}
	return unused;
}

/* The one event of the one request in flight; 0 if it does not come in time. */
static int take_event(io_context_t ctx, struct timespec *patience, struct io_event *event)
{
	int rc;

	do
		rc = io_getevents(ctx, 1, 1, event, patience);
	while (rc == -EINTR);
	if (rc < 0)
		errx(1, "io_getevents: %s", strerror(-rc));
	return rc;
}

/* Whether there is something to read before patience ends. */
static int wait_readable(io_context_t ctx, int fd, struct timespec *patience)
{
	struct iocb poll_in, *batch[] = { &poll_in };
	struct io_event event, unused;
	int rc;

	io_prep_poll(&poll_in, fd, POLLIN);
	rc = io_submit(ctx, 1, batch);
	if (rc != 1)
		errx(1, "io_submit: %s", strerror(-rc));
	if (!take_event(ctx, patience, &event)) {
		rc = io_cancel(ctx, &poll_in, &unused);
		if (rc != -EINPROGRESS && rc != -EAGAIN && rc != -EINVAL)
			errx(1, "io_cancel: %s", strerror(-rc));
		/* poll_in is on this stack: the function does not end before the request does. */
		take_event(ctx, NULL, &event);
	}
	if (event.obj != &poll_in)
		errx(1, "an event of another request");
	if ((long)event.res < 0 && (long)event.res != -ECANCELED)
		errx(1, "poll: %s", strerror((int)-(long)event.res));
	return (long)event.res > 0 && (event.res & POLLIN);
}

static void read_answer(int expected)
{
	int answer;

	if (read(client_end, &answer, sizeof(answer)) != (ssize_t)sizeof(answer))
		err(1, "read");
	if (answer != expected)
		errx(1, "an answer to question %d instead of %d", answer, expected);
}

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 500, in_time = 0, late = 0, sockets[2], round, rc;
	struct timespec patience = { 0, PATIENCE_NS }, at_once = { 0, 0 };
	struct io_event event;
	io_context_t ctx = NULL;
	pthread_t server;

	if (rounds < 1)
		errx(2, "usage: cancel [ROUNDS]");
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sockets) < 0)
		err(1, "socketpair");
	client_end = sockets[0];
	server_end = sockets[1];
	rc = pthread_create(&server, NULL, answer_questions, NULL);
	if (rc != 0)
		errx(1, "pthread_create: %s", strerror(rc));
	rc = io_setup(1, &ctx);
	if (rc < 0)
		errx(1, "io_setup: %s", strerror(-rc));

	for (round = 0; round < rounds; round++) {
		if (write(client_end, &round, sizeof(round)) != (ssize_t)sizeof(round))
			err(1, "write");
		if (wait_readable(ctx, client_end, &patience))
			in_time++;
		else
			late++;
		/* A client with better things to do would do them now. */
		read_answer(round);
	}
	if (take_event(ctx, &at_once, &event))
		errx(1, "an event that nobody was waiting for");

	rc = io_destroy(ctx);
	if (rc < 0)
		errx(1, "io_destroy: %s", strerror(-rc));
	close(client_end);
	pthread_join(server, NULL);
	if (printf("%d questions, %d answered in time, %d late\n", rounds, in_time, late) < 0 ||
	    fflush(stdout) != 0)
		err(1, "standard output");
	return 0;
}
