/* SPDX-License-Identifier: MIT */
/*
 * epoll_server FILE: serves the blocks of a file over a socket, from one thread that never waits
 * for the disk.
 *
 * Shows libaio in an event loop.  Every request signals one eventfd, which stands in the epoll set
 * beside the client's socket; when it is readable, events are there, and are taken without waiting.
 * As many blocks are read at a time as there are slots; while none is free the socket is not
 * watched.  There is one client, so a send that has to wait for it holds up nobody else.
 *
 * The client is a child process that asks for every block in a mixed order, with as many questions
 * on their way as the socket takes, and compares each answer with the file.
 *
 *	cc -o epoll_server epoll_server.c -laio
 *	./epoll_server /usr/share/dict/words
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <libaio.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SLOTS 16
#define BLOCK_BYTES 4096

/* A question is the number of a block; SOCK_SEQPACKET keeps messages apart. */
struct answer {
	uint32_t block;
	int32_t result; /* bytes, or a negative errno */
	char data[BLOCK_BYTES];
};

struct slot {
	struct iocb iocb;
	struct answer answer;
	struct slot *next_free;
};

/* ---- the server ------------------------------------------------------------------------------ */

struct server {
	io_context_t ctx;
	int file, socket, signal, epoll;
	struct slot slots[SLOTS];
	struct slot *free;
	int in_flight;
	int client_is_done;
};

/* The socket is watched while there is a slot for what it brings. */
static void watch_socket(struct server *server)
{
	struct epoll_event event = { .events = 0, .data.fd = server->socket };

	if (server->free && !server->client_is_done)
		event.events = EPOLLIN;
	if (epoll_ctl(server->epoll, EPOLL_CTL_MOD, server->socket, &event) < 0)
		err(1, "epoll_ctl");
}

static void take_questions(struct server *server)
{
	struct iocb *batch[SLOTS];
	int count = 0, rc;
	uint32_t block;

	while (server->free) {
		struct slot *slot = server->free;
		ssize_t got = recv(server->socket, &block, sizeof(block), MSG_DONTWAIT);

		if (got < 0 && (errno == EAGAIN || errno == EINTR))
			break;
		if (got < 0)
			err(1, "recv");
		if (got == 0) {
			server->client_is_done = 1;
			break;
		}
		server->free = slot->next_free;
		slot->answer.block = block;
		io_prep_pread(&slot->iocb, server->file, slot->answer.data, BLOCK_BYTES,
			      (long long)block * BLOCK_BYTES);
		io_set_eventfd(&slot->iocb, server->signal);
		slot->iocb.data = slot;
		batch[count++] = &slot->iocb;
	}
	/* All questions that were there, in one call. */
	rc = count > 0 ? io_submit(server->ctx, count, batch) : 0;
	if (rc != count)
		errx(1, "io_submit: %s", rc < 0 ? strerror(-rc) : "not all accepted");
	server->in_flight += count;
}

static void send_answers(struct server *server)
{
	struct timespec at_once = { 0, 0 };
	struct io_event events[SLOTS];
	uint64_t signals;
	int count, i;

	/* The eventfd first: what ends after this signals it again. */
	if (read(server->signal, &signals, sizeof(signals)) < 0 && errno != EAGAIN)
		err(1, "eventfd");
	count = io_getevents(server->ctx, 0, SLOTS, events, &at_once);
	if (count < 0)
		errx(1, "io_getevents: %s", strerror(-count));
	for (i = 0; i < count; i++) {
		struct slot *slot = events[i].data;

		slot->answer.result = (int32_t)(long)events[i].res;
		if (send(server->socket, &slot->answer, sizeof(slot->answer), MSG_NOSIGNAL) < 0)
			err(1, "send");
		slot->next_free = server->free;
		server->free = slot;
	}
	server->in_flight -= count;
}

static void serve(struct server *server)
{
	struct epoll_event watched = { .events = EPOLLIN };
	int i, rc;

	rc = io_setup(SLOTS, &server->ctx);
	if (rc < 0)
		errx(1, "io_setup: %s", strerror(-rc));
	for (i = 0; i < SLOTS; i++) {
		server->slots[i].next_free = server->free;
		server->free = &server->slots[i];
	}
	server->signal = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	server->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (server->signal < 0 || server->epoll < 0)
		err(1, "eventfd or epoll");
	watched.data.fd = server->signal;
	if (epoll_ctl(server->epoll, EPOLL_CTL_ADD, server->signal, &watched) < 0)
		err(1, "epoll_ctl");
	watched.data.fd = server->socket;
	if (epoll_ctl(server->epoll, EPOLL_CTL_ADD, server->socket, &watched) < 0)
		err(1, "epoll_ctl");

	while (!server->client_is_done || server->in_flight > 0) {
		struct epoll_event ready[2];
		int count = epoll_wait(server->epoll, ready, 2, -1);

		if (count < 0 && errno != EINTR)
			err(1, "epoll_wait");
		for (i = 0; i < count; i++) {
			if (ready[i].data.fd == server->signal)
				send_answers(server);
			else
				take_questions(server);
		}
		watch_socket(server);
	}
	rc = io_destroy(server->ctx);
	if (rc < 0)
		errx(1, "io_destroy: %s", strerror(-rc));
}

/* ---- the client ------------------------------------------------------------------------------ */

static void check_answer(int socket, int file)
{
	static struct answer answer;
	char expected[BLOCK_BYTES];
	ssize_t got = recv(socket, &answer, sizeof(answer), 0), bytes;

	if (got != (ssize_t)sizeof(answer))
		errx(1, "the server has gone");
	bytes = pread(file, expected, sizeof(expected), (off_t)answer.block * BLOCK_BYTES);
	if (answer.result != bytes || memcmp(answer.data, expected, (size_t)bytes) != 0)
		errx(1, "block %u: wrong answer", answer.block);
}

/* Asks while the socket takes questions; a stride of 7919 mixes the order. */
static void ask_for_all(int socket, int file, uint32_t blocks)
{
	uint32_t asked = 0, answered = 0;

	while (answered < blocks) {
		uint32_t block = (uint32_t)((uint64_t)asked * 7919 % blocks);

		if (asked < blocks && send(socket, &block, sizeof(block), MSG_DONTWAIT) > 0) {
			asked++;
			continue;
		}
		check_answer(socket, file);
		answered++;
	}
}

int main(int argc, char **argv)
{
	static struct server server;
	int sockets[2], status;
	uint32_t blocks;
	struct stat about;
	pid_t client;

	if (argc != 2)
		errx(2, "usage: epoll_server FILE");
	server.file = open(argv[1], O_RDONLY | O_CLOEXEC);
	if (server.file < 0 || fstat(server.file, &about) < 0)
		err(1, "%s", argv[1]);
	blocks = (uint32_t)((about.st_size + BLOCK_BYTES - 1) / BLOCK_BYTES);
	if (blocks % 7919 == 0)
		blocks++; /* the block behind the end is answered with no bytes */
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) < 0)
		err(1, "socketpair");

	/* The child comes before the context, which would not be its own. */
	client = fork();
	if (client < 0)
		err(1, "fork");
	if (client == 0) {
		close(sockets[1]);
		ask_for_all(sockets[0], server.file, blocks);
		_exit(0);
	}
	close(sockets[0]);
	server.socket = sockets[1];
	serve(&server);

	if (waitpid(client, &status, 0) != client || status != 0)
		errx(1, "the client was not content");
	if (printf("%u blocks served\n", blocks) < 0 || fflush(stdout) != 0)
		err(1, "standard output");
	return 0;
}
