/* SPDX-License-Identifier: MIT */
/*
 * Pipes, sockets and terminals: io_submit never holds its caller for them, requests of one file and
 * direction are carried out one at a time in the order of submission, and a blocking write is
 * written whole.
 *
 * The reference library does this work inside io_submit, so that most cases would hang there.
 */
#include "contract.h"

#include <arpa/inet.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/timerfd.h>
#include <termios.h>

#define HOLDS_SUBMIT "the request would hold io_submit itself"

/* What is written to writer can be read from reader. */
struct stream {
	const char *name;
	int reader, writer;
};

enum stream_kind {
	STREAM_PIPE,
	STREAM_SOCKET,
	STREAM_TCP,
	STREAM_TERMINAL,
	STREAM_KINDS,
};

/* With so little room, or as it comes: 0. */
static void open_tcp(struct stream *stream, int room)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof(address);
	int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	stream->writer = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	for (int i = 0; room > 0 && i < 2; i++) {
		int fd = i ? server : stream->writer, segment = 536;

		setsockopt(fd, IPPROTO_TCP, TCP_MAXSEG, &segment, sizeof(segment));
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room));
	}
	ck_assert_int_eq(bind(server, (struct sockaddr *)&address, length), 0);
	ck_assert_int_eq(listen(server, 1), 0);
	ck_assert_int_eq(getsockname(server, (struct sockaddr *)&address, &length), 0);
	ck_assert_int_eq(connect(stream->writer, (struct sockaddr *)&address, length), 0);
	stream->reader = accept4(server, NULL, NULL, SOCK_CLOEXEC);
	ck_assert_int_ge(stream->reader, 0);
	close(server);
}

/* Raw, so that bytes are passed on as they come. */
static void open_terminal(struct stream *stream)
{
	struct termios settings;
	char name[64];

	stream->writer = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	ck_assert_int_ge(stream->writer, 0);
	ck_assert(grantpt(stream->writer) == 0 && unlockpt(stream->writer) == 0);
	ck_assert_int_eq(ptsname_r(stream->writer, name, sizeof(name)), 0);
	stream->reader = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	ck_assert_int_ge(stream->reader, 0);
	ck_assert_int_eq(tcgetattr(stream->reader, &settings), 0);
	cfmakeraw(&settings);
	ck_assert_int_eq(tcsetattr(stream->reader, TCSANOW, &settings), 0);
}

static struct stream open_stream(enum stream_kind kind)
{
	static const char *const names[] = { "pipe", "socket", "tcp", "terminal" };
	struct stream stream = { .name = names[kind] };
	int ends[2];

	switch (kind) {
	case STREAM_PIPE:
		make_pipe(ends, 0);
		break;
	case STREAM_SOCKET:
		ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
		break;
	case STREAM_TCP:
		open_tcp(&stream, 0);
		return stream;
	case STREAM_TERMINAL:
	case STREAM_KINDS:
		open_terminal(&stream);
		return stream;
	}
	stream.reader = ends[0];
	stream.writer = ends[1];
	return stream;
}

static void close_stream(struct stream *stream)
{
	close(stream->reader);
	close(stream->writer);
}

static void put(int fd, const void *bytes, size_t count)
{
	ck_assert_int_eq(write(fd, bytes, count), (ssize_t)count);
}

/* Reads so many bytes with read(2). */
static void take(int fd, void *bytes, size_t count)
{
	char *place = bytes;

	while (count > 0) {
		ssize_t got = read(fd, place, count);

		ck_assert_int_gt(got, 0);
		place += got;
		count -= (size_t)got;
	}
}

/* A pipe or socket that takes nothing more. */
static size_t fill(int writer)
{
	static char zeroes[4096];
	int flags = fcntl(writer, F_GETFL);
	size_t filled = 0;
	ssize_t got;

	fcntl(writer, F_SETFL, flags | O_NONBLOCK);
	while ((got = write(writer, zeroes, sizeof(zeroes))) > 0)
		filled += (size_t)got;
	fcntl(writer, F_SETFL, flags);
	return filled;
}

CASE(what_is_there_is_read_at_once)
{
	io_context_t ctx = new_context(8);
	char bytes[16];
	struct iocb iocb;

	for (int kind = 0; kind < STREAM_KINDS; kind++) {
		struct stream stream = open_stream((enum stream_kind)kind);
		struct pollfd readable = { .fd = stream.reader, .events = POLLIN };

		put(stream.writer, "hello", 5);
		ck_assert_int_eq(poll(&readable, 1, EVENT_LIMIT_SECONDS * 1000), 1);
		io_prep_pread(&iocb, stream.reader, bytes, sizeof(bytes), 0);
		expect_result(ctx, &iocb, 5, stream.name);
		ck_assert_mem_eq(bytes, "hello", 5);
		io_prep_pwrite(&iocb, stream.writer, bytes, 5, 0);
		expect_result(ctx, &iocb, 5, stream.name);
		take(stream.reader, bytes, 5);
		ck_assert_mem_eq(bytes, "hello", 5);
		close_stream(&stream);
	}
	free_context_without_events(ctx, HERE);
}

/* Kernels before 6.18 cannot be told to raise no SIGPIPE for a pipe. */
static bool pipes_are_quiet(void)
{
	struct iovec vector = { (void *)(uintptr_t) "", 1 };
	int ends[2];
	bool result;

	make_pipe(ends, 0);
	result = pwritev2(ends[1], &vector, 1, -1, RWF_NOWAIT | RWF_NOSIGNAL) == 1;
	close_pair(ends);
	return result;
}

/* Is it over when io_submit returns? */
static bool is_served(io_context_t ctx, struct iocb *iocb, const char *what)
{
	struct io_event event;
	bool at_once;

	expect_submitted(ctx, iocb, what);
	at_once = take_events_now(ctx, &event, 1) == 1;
	if (!at_once)
		event = take_event(ctx, what);
	ck_assert_int_eq((long)event.res, (long)iocb->u.c.nbytes);
	return at_once;
}

/* A read of what is there, and a write that has room. */
static bool stream_is_served(io_context_t ctx, const struct stream *stream, bool writes_too)
{
	struct pollfd readable = { .fd = stream->reader, .events = POLLIN };
	static _Alignas(4096) char bytes[4096]; /* a page without an iocb */
	struct iocb iocb;
	bool at_once;

	put(stream->writer, "hello", 5);
	ck_assert_int_eq(poll(&readable, 1, EVENT_LIMIT_SECONDS * 1000), 1);
	io_prep_pread(&iocb, stream->reader, bytes, 5, 0);
	at_once = is_served(ctx, &iocb, stream->name);
	ck_assert_mem_eq(bytes, "hello", 5);
	io_prep_pwrite(&iocb, stream->writer, bytes, 5, 0);
	at_once &= is_served(ctx, &iocb, stream->name) || !writes_too;
	take(stream->reader, bytes, 5);
	ck_assert_mem_eq(bytes, "hello", 5);
	return at_once;
}

/*
 * The first such request is a worker's.  On native no worker would be as quick so often in a row;
 * without kernel AIO one may be.
 */
enum { IN_A_ROW = 30, SERVED_ROUNDS = 3000 };

static void expect_served(io_context_t ctx, const struct stream *stream)
{
	for (int in_a_row = 0, rounds = 0; in_a_row < IN_A_ROW; rounds++) {
		in_a_row = stream_is_served(ctx, stream, true) ? in_a_row + 1 : 0;
		ck_assert_msg(rounds < SERVED_ROUNDS, "%s", stream->name);
	}
}

CASE(sockets_that_are_ready_are_served_when_submit_returns)
{
	io_context_t ctx = new_context(8);

	for (int kind = STREAM_SOCKET; kind <= STREAM_TCP; kind++) {
		struct stream stream = open_stream((enum stream_kind)kind);

		expect_served(ctx, &stream);
		close_stream(&stream);
	}
	free_context_without_events(ctx, HERE);
}

/*
 * A pipe has no calls of its own: a number that becomes a file's would be read at its position, so
 * only in a program with one thread.
 */
CASE(other_streams_that_are_ready_are_served_when_submit_returns)
{
	io_context_t ctx = new_context(8);
	struct stream stream = open_stream(STREAM_PIPE);
	int counter = open_eventfd(SERVED_ROUNDS, EFD_CLOEXEC | EFD_SEMAPHORE), in_a_row = 0,
	    rounds = 0;
	bool are_quiet;
	uint64_t count;
	struct iocb iocb;

	NEEDS_FLAGS();
	if (is_emulated() || UNDER_THREAD_SANITIZER)
		SKIP("an emulator, and ThreadSanitizer, have threads of their own");
	are_quiet = pipes_are_quiet();
	while (in_a_row < IN_A_ROW) {
		bool at_once = stream_is_served(ctx, &stream, are_quiet);

		io_prep_pread(&iocb, counter, &count, sizeof(count), 0);
		at_once &= is_served(ctx, &iocb, "an eventfd");
		ck_assert_uint_eq(count, 1);
		in_a_row = at_once ? in_a_row + 1 : 0;
		ck_assert_int_lt(++rounds, SERVED_ROUNDS);
	}
	close(counter);
	close_stream(&stream);
	free_context_without_events(ctx, HERE);
}

/* A page whose faults wait until somebody answers the descriptor: -1, or that. */
static int open_faults(char *page, size_t bytes)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register range = {
		.range = { (uintptr_t)page, bytes },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	int faults = (int)syscall(SYS_userfaultfd, O_CLOEXEC);

	if (faults < 0)
		return -1;
	ck_assert_int_eq(ioctl(faults, UFFDIO_API, &api), 0);
	ck_assert_int_eq(ioctl(faults, UFFDIO_REGISTER, &range), 0);
	return faults;
}

/* Reads are served at once where the memory was used before; elsewhere a worker may wait for it. */
CASE(submit_does_not_wait_for_a_page)
{
	enum { BYTES = 4096 };
	io_context_t ctx = new_context(8);
	struct stream stream = open_stream(STREAM_SOCKET);
	char *page = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdio_zeropage answer = { .range = { (uintptr_t)page, BYTES } };
	int faults = open_faults(page, BYTES);
	struct iocb iocb;

	SKIP_ON_REFERENCE(HOLDS_SUBMIT);
	if (faults < 0)
		SKIP("userfaultfd is refused here");
	expect_served(ctx, &stream);
	put(stream.writer, "hello", 5);
	io_prep_pread(&iocb, stream.reader, page, BYTES, 0);
	expect_submitted(ctx, &iocb, HERE);
	expect_works(ctx, HERE);
	ck_assert_int_eq(ioctl(faults, UFFDIO_ZEROPAGE, &answer), 0);
	expect_event(ctx, &iocb, 5, HERE);
	ck_assert_mem_eq(page, "hello", 5);
	close(faults);
	munmap(page, BYTES);
	close_stream(&stream);
	free_context_without_events(ctx, HERE);
}

/* What does not fit goes on in the background, behind what did; a later write comes behind it. */
CASE(a_write_that_begins_at_once_is_written_whole)
{
	enum { BYTES = 1 << 20 };
	io_context_t ctx = new_context(8);
	uint32_t *sent = malloc(BYTES), *received = malloc(BYTES + 4);

	SKIP_ON_REFERENCE(HOLDS_SUBMIT);
	ck_assert(sent && received);
	for (uint32_t i = 0; i < BYTES / 4; i++)
		sent[i] = i;
	for (int kind = 0; kind < STREAM_TERMINAL; kind++) {
		struct stream stream = open_stream((enum stream_kind)kind);
		struct iocb iocbs[2];

		io_prep_pwrite(&iocbs[0], stream.writer, sent, BYTES, 0);
		io_prep_pwrite(&iocbs[1], stream.writer, (void *)(uintptr_t) "tail", 4, 0);
		expect_submitted(ctx, &iocbs[0], stream.name);
		expect_submitted(ctx, &iocbs[1], stream.name);
		take(stream.reader, (char *)received, BYTES + 4);
		ck_assert_msg(memcmp(received, sent, BYTES) == 0, "%s", stream.name);
		ck_assert_mem_eq(received + BYTES / 4, "tail", 4);
		expect_event(ctx, &iocbs[0], BYTES, stream.name);
		expect_event(ctx, &iocbs[1], 4, stream.name);
		close_stream(&stream);
	}
	free(sent);
	free(received);
	free_context_without_events(ctx, HERE);
}

/* A filter ends with its thread. */
static void run_with_a_filter(void (*run)(void *))
{
	struct worker worker;

	SKIP_ON_REFERENCE(HOLDS_SUBMIT);
	if (is_emulated())
		SKIP("an emulator has no seccomp");
	worker_start(&worker, run, NULL);
	worker_join(&worker);
}

/* Files go to the workers by messages: those of this thread are refused, but to the socket. */
static bool refuse_messages_but_to(int socket)
{
	const unsigned first = __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ ? sizeof(long) - 4 : 0;
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_sendmsg, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0]) + first),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)socket, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};

	return install_filter(code, sizeof(code) / sizeof(code[0]), 0);
}

struct reading {
	int fd;
	size_t bytes;
	char *place;
	pid_t writer; /* not before this thread sleeps */
};

static pid_t interrupted_task;

static void take_all(void *argument)
{
	const struct reading *reading = argument;

	while (!task_is_blocked(reading->writer))
		contract_pause();
	take(reading->fd, reading->place, reading->bytes);
}

/* First by one that is ignored: the writer has looked for signals several times since. */
static void interrupt(void *argument)
{
	const pthread_t *writer = argument;
	struct task_look before, now;

	while (!task_is_blocked(interrupted_task))
		contract_pause();
	pthread_kill(*writer, SIGURG);
	ck_assert(task_look(interrupted_task, &before));
	do
		contract_pause();
	while (task_look(interrupted_task, &now) && now.switches < before.switches + 6);
	pthread_kill(*writer, SIGUSR1);
}

/* Nobody reads: only a signal that has a handler ends it. */
static void interrupt_write(io_context_t ctx, int fd, char *bytes, size_t count)
{
	pthread_t self = pthread_self();
	struct io_event event;
	struct worker worker;
	struct iocb iocb;

	interrupted_task = gettid();
	catch_signal(SIGUSR1, SA_RESTART);
	worker_start(&worker, interrupt, &self);
	io_prep_pwrite(&iocb, fd, bytes, count, 0);
	expect_submitted(ctx, &iocb, HERE);
	worker_join(&worker);
	ck_assert_int_eq(atomic_load(&contract_signal_count), 1);
	ck_assert_int_eq(io_getevents(ctx, 1, 1, &event, NULL), 1);
	ck_assert_int_gt((long)event.res, 0);
	ck_assert_int_lt((long)event.res, (long)count);
	restore_signal(SIGUSR1);
}

/*
 * The workers are there, but no file can be given to them any more.  A write is refused while there
 * is something to wait for, unless there is room; else it goes on inside io_submit, as libaio's,
 * until all is written or a signal comes.
 */
static void write_without_workers(void *unused)
{
	enum { BYTES = 4 << 20 };
	io_context_t ctx = new_context(8);
	struct stream stream = open_stream(STREAM_SOCKET);
	char *sent = calloc(1, BYTES), *received = malloc(BYTES);
	struct reading reading = { stream.reader, BYTES, received, gettid() };
	struct iocb iocb, waiting, *submitted = &iocb;
	struct worker reader;
	size_t filled;
	int ends[2];

	(void)unused;
	ck_assert(sent && received);
	for (size_t i = 0; i < BYTES; i++)
		sent[i] = (char)(i / 4096);
	make_pipe(ends, 0);
	io_prep_pread(&waiting, ends[0], received, 1, 0);
	expect_submitted(ctx, &waiting, HERE);
	/* The workers are there now, and the memory is used. */
	io_prep_pwrite(&iocb, stream.writer, sent, 4, 0);
	expect_result(ctx, &iocb, 4, HERE);
	take(stream.reader, received, 4);
	expect_served(ctx, &stream);
	worker_start(&reader, take_all, &reading);
	ck_assert(refuse_messages_but_to(stream.writer));
	io_prep_pwrite(&iocb, stream.writer, sent, BYTES, 0);
	expect_result(ctx, &iocb, BYTES, HERE);
	worker_join(&reader);
	ck_assert_mem_eq(sent, received, BYTES);

	filled = fill(stream.writer);
	io_prep_pwrite(&iocb, stream.writer, sent, BYTES, 0);
	ck_assert_int_eq(io_submit(ctx, 1, &submitted), -EAGAIN);
	put(ends[1], "x", 1);
	expect_event(ctx, &waiting, 1, HERE);
	reading.bytes = filled + 4;
	worker_start(&reader, take_all, &reading);
	io_prep_pwrite(&iocb, stream.writer, sent, 4, 0);
	expect_result(ctx, &iocb, 4, HERE);
	worker_join(&reader);

	interrupt_write(ctx, stream.writer, sent, BYTES);
	close_stream(&stream);
	close_pair(ends);
	free(sent);
	free(received);
	free_context_without_events(ctx, HERE);
}

CASE(a_write_that_no_worker_can_finish_is_written_whole)
{
	run_with_a_filter(write_without_workers);
}

/* TCP takes a part at once where its room ends there: the rest goes on in the caller. */
static void begin_without_workers(void *unused)
{
	enum { BYTES = 4096, ROUNDS = 40, NARROW = 4608 };
	static char bytes[BYTES], received[1 << 20];
	io_context_t ctx = new_context(8);
	struct stream stream = { .name = "a narrow tcp" };
	struct reading reading = { .place = received, .writer = gettid() };
	int counter = open_eventfd(0, EFD_CLOEXEC);

	(void)unused;
	open_tcp(&stream, NARROW);
	reading.fd = stream.reader;
	expect_served(ctx, &stream);
	ck_assert(refuse_messages_but_to(stream.writer));
	for (int i = 0; i < ROUNDS; i++) {
		struct pollfd room = { stream.writer, POLLOUT, 0 };
		size_t filled = fill(stream.writer);
		struct worker reader;
		struct iocb iocb;
		uint64_t count;
		ssize_t got;

		ck_assert_uint_lt(filled, sizeof(received) - BYTES);
		for (; poll(&room, 1, 1) == 0; filled -= 300)
			take(stream.reader, received, 300);
		/* Somewhere there the room is less than the request. */
		got = send(stream.writer, bytes, (size_t)i * 100, MSG_DONTWAIT);
		filled += got > 0 ? (size_t)got : 0;
		reading.bytes = filled + BYTES;
		worker_start(&reader, take_all, &reading);
		io_prep_pwrite(&iocb, stream.writer, bytes, BYTES, 0);
		io_set_eventfd(&iocb, counter);
		expect_result(ctx, &iocb, BYTES, HERE);
		ck_assert_int_eq(read(counter, &count, sizeof(count)), sizeof(count));
		worker_join(&reader);
	}
	close(counter);
	close_stream(&stream);
	free_context_without_events(ctx, HERE);
}

CASE(a_write_that_has_begun_and_no_worker_can_finish_is_written_whole)
{
	run_with_a_filter(begin_without_workers);
}

struct reuse {
	int number, reader, other;
	size_t left; /* of what is in flight */
};

/* From the first byte on the request has its file: the number may be given to another. */
static void reuse_at_first_byte(void *argument)
{
	struct reuse *reuse = argument;
	char *bytes = malloc(reuse->left);

	ck_assert_ptr_nonnull(bytes);
	while (recv(reuse->reader, bytes, 1, MSG_PEEK | MSG_DONTWAIT) != 1)
		contract_pause();
	ck_assert_int_eq(dup2(reuse->other, reuse->number), reuse->number);
	take(reuse->reader, bytes, reuse->left);
	free(bytes);
}

CASE(a_write_goes_to_its_socket_whatever_its_number_becomes)
{
	enum { BYTES = 400000, ROUNDS = 1500 };
	io_context_t ctx = new_context(8);
	struct stream stream = open_stream(STREAM_SOCKET), other = open_stream(STREAM_SOCKET);
	int kept = fcntl(stream.writer, F_DUPFD_CLOEXEC, 0);
	char *bytes = calloc(1, BYTES);

	ck_assert_ptr_nonnull(bytes);
	/* The workers are there, and the memory is used. */
	if (!on_reference())
		expect_served(ctx, &stream);
	for (int i = 0; i < ROUNDS; i++) {
		struct reuse reuse = { stream.writer, stream.reader, other.writer, BYTES };
		struct worker worker;
		struct iocb iocb;
		char byte;

		worker_start(&worker, reuse_at_first_byte, &reuse);
		io_prep_pwrite(&iocb, stream.writer, bytes, BYTES, 0);
		expect_result(ctx, &iocb, BYTES, HERE);
		worker_join(&worker);
		ck_assert_msg(recv(other.reader, &byte, 1, MSG_DONTWAIT) < 0, "round %d", i);
		ck_assert_int_eq(dup2(kept, stream.writer), stream.writer);
	}
	free(bytes);
	close(kept);
	close_stream(&stream);
	close_stream(&other);
	free_context(ctx);
}

/* What is known of a buffer, which may be gone, says nothing of an array or an iocb. */
CASE(memory_that_was_a_buffer_is_efault_when_it_is_gone)
{
	enum { BYTES = 4096 };
	io_context_t ctx = new_context(8);
	struct stream stream = open_stream(STREAM_SOCKET);
	char *page = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct iocb iocb, *gone = (struct iocb *)(void *)page;

	for (int i = 0; i < 10; i++) {
		put(stream.writer, "hello", 5);
		io_prep_pread(&iocb, stream.reader, page, 5, 0);
		expect_result(ctx, &iocb, 5, HERE);
	}
	munmap(page, BYTES);
	put(stream.writer, "hello", 5);
	io_prep_pread(&iocb, stream.reader, &iocb.u.c.offset, 1, 0);
	expect_submitted(ctx, &iocb, HERE);
	ck_assert_int_eq(io_getevents(ctx, 1, 1, (struct io_event *)(void *)page, NULL), -EFAULT);
	ck_assert_int_eq(io_submit(ctx, 1, &gone), -EFAULT);
	expect_event(ctx, &iocb, 1, HERE);
	close_stream(&stream);
	free_context_without_events(ctx, HERE);
}

struct writing {
	int fd;
	char letter;
};

enum { MIXED_BYTES = 1 << 20, MIXED_WRITES = 100 };

static void write_again_and_again(void *argument)
{
	const struct writing *writing = argument;
	char *bytes = malloc(MIXED_BYTES);
	io_context_t ctx = new_context(1);
	struct iocb iocb;

	ck_assert_ptr_nonnull(bytes);
	memset(bytes, writing->letter, MIXED_BYTES);
	for (int i = 0; i < MIXED_WRITES; i++) {
		io_prep_pwrite(&iocb, writing->fd, bytes, MIXED_BYTES, 0);
		expect_result(ctx, &iocb, MIXED_BYTES, HERE);
	}
	free_context(ctx);
	free(bytes);
}

/* Two threads write to one socket, each by its own context: what is tried stands in line. */
CASE(writes_of_two_threads_are_not_mixed)
{
	struct stream stream = open_stream(STREAM_SOCKET);
	struct writing writings[2] = { { stream.writer, 'a' }, { stream.writer, 'b' } };
	char *found = malloc(MIXED_BYTES);
	struct worker workers[2];

	SKIP_ON_REFERENCE("the writes are the kernel's, which mixes them");
	ck_assert_ptr_nonnull(found);
	for (int i = 0; i < 2; i++)
		worker_start(&workers[i], write_again_and_again, &writings[i]);
	for (int i = 0; i < 2 * MIXED_WRITES; i++) {
		take(stream.reader, found, MIXED_BYTES);
		/* All of its bytes are the same. */
		ck_assert_msg(memcmp(found, found + 1, MIXED_BYTES - 1) == 0, "write %d is mixed",
			      i);
	}
	for (int i = 0; i < 2; i++)
		worker_join(&workers[i]);
	free(found);
	close_stream(&stream);
}

CASE(nothing_is_read_into_nothing_at_once)
{
	io_context_t ctx = new_context(8);
	struct iocb iocb;
	int ends[2];

	make_pipe(ends, 0);
	io_prep_pread(&iocb, ends[0], NULL, 0, 0);
	expect_result(ctx, &iocb, 0, HERE);
	free_context(ctx);
	close_pair(ends);
}

CASE(submit_does_not_wait_for_data)
{
	io_context_t ctx = new_context(8);
	char bytes[16];
	struct iocb iocb;

	SKIP_ON_REFERENCE(HOLDS_SUBMIT);
	for (int kind = 0; kind < STREAM_KINDS; kind++) {
		struct stream stream = open_stream((enum stream_kind)kind);
		int flags = fcntl(stream.reader, F_GETFL);
		struct reaper reaper;

		io_prep_pread(&iocb, stream.reader, bytes, sizeof(bytes), 0);
		expect_submitted(ctx, &iocb, stream.name);
		expect_works(ctx, stream.name);
		/* The descriptor is shared: nobody else may notice. */
		ck_assert_int_eq(fcntl(stream.reader, F_GETFL), flags);
		reaper_start(&reaper, ctx, 1, 1, NULL);
		reaper_wait_blocked(&reaper);
		put(stream.writer, "later", 5);
		ck_assert_int_eq(reaper_join(&reaper), 1);
		ck_assert(reaper.events[0].obj == &iocb && reaper.events[0].res == 5);
		ck_assert_mem_eq(bytes, "later", 5);
		ck_assert_int_eq(fcntl(stream.reader, F_GETFL), flags);
		close_stream(&stream);
	}
	free_context_without_events(ctx, HERE);
}

CASE(submit_does_not_wait_for_room)
{
	io_context_t ctx = new_context(8);
	char *drained = malloc(1 << 20);
	struct iocb iocb;
	int ends[2];
	size_t filled;

	SKIP_ON_REFERENCE(HOLDS_SUBMIT);
	ck_assert_ptr_nonnull(drained);
	make_pipe(ends, 0);
	filled = fill(ends[1]);
	io_prep_pwrite(&iocb, ends[1], (void *)(uintptr_t) "tail", 4, 0);
	expect_submitted(ctx, &iocb, HERE);
	expect_works(ctx, HERE);
	take(ends[0], drained, filled);
	take(ends[0], drained, 4);
	ck_assert_mem_eq(drained, "tail", 4);
	expect_event(ctx, &iocb, 4, HERE);
	free(drained);
	free_context_without_events(ctx, HERE);
	close_pair(ends);
}

/* Each request is known by what it read: records of four bytes that carry their number. */
static void reads_in_order(enum stream_kind kind, int batch, bool two_contexts,
			   bool two_descriptors)
{
	enum { COUNT = 48 };
	io_context_t contexts[2];
	struct stream stream = open_stream(kind);
	int readers[2] = { stream.reader, two_descriptors ? dup(stream.reader) : stream.reader };
	uint32_t records[COUNT];
	struct iocb iocbs[COUNT];
	struct io_event event;
	int next[2] = { 0, 1 };

	contexts[0] = new_context(COUNT);
	contexts[1] = two_contexts ? new_context(COUNT) : contexts[0];
	for (int i = 0; i < COUNT; i++)
		io_prep_pread(&iocbs[i], readers[i % 2], &records[i], sizeof(records[i]), 0);
	for (int i = 0; i < COUNT; i += batch)
		expect_all_submitted(contexts[i % 2], iocbs + i, batch, stream.name);
	for (uint32_t i = 0; i < COUNT; i++)
		put(stream.writer, &i, sizeof(i));
	for (int i = 0; i < COUNT; i++) {
		int which = two_contexts ? i % 2 : 0;
		int step = two_contexts ? 2 : 1;

		event = take_event(contexts[which], stream.name);
		ck_assert_msg(event.obj == &iocbs[next[which]],
			      "%s: request %td ends in the place of %d", stream.name,
			      event.obj - iocbs, next[which]);
		ck_assert_int_eq((long)event.res, sizeof(records[0]));
		next[which] += step;
	}
	for (uint32_t i = 0; i < COUNT; i++)
		ck_assert_msg(records[i] == i, "%s: request %u got record %u", stream.name, i,
			      records[i]);
	free_context(contexts[0]);
	if (two_contexts)
		free_context(contexts[1]);
	if (two_descriptors)
		close(readers[1]);
	close_stream(&stream);
}

CASE(reads_take_their_turn)
{
	SKIP_ON_REFERENCE(HOLDS_SUBMIT);
	for (int kind = 0; kind < STREAM_KINDS; kind++) {
		reads_in_order((enum stream_kind)kind, 1, false, false);
		reads_in_order((enum stream_kind)kind, 16, false, false);
	}
}

CASE(reads_take_their_turn_over_contexts)
{
	SKIP_ON_REFERENCE(HOLDS_SUBMIT);
	reads_in_order(STREAM_PIPE, 1, true, false);
	reads_in_order(STREAM_SOCKET, 1, true, false);
}

CASE(reads_take_their_turn_over_duplicated_descriptors)
{
	SKIP_ON_REFERENCE(HOLDS_SUBMIT);
	reads_in_order(STREAM_PIPE, 1, false, true);
	reads_in_order(STREAM_PIPE, 1, true, true);
}

CASE(a_read_takes_what_is_there_and_leaves_the_rest_to_the_next)
{
	io_context_t ctx = new_context(8);
	char bytes[3][8];
	struct iocb iocbs[3];
	int ends[2];

	SKIP_ON_REFERENCE(HOLDS_SUBMIT);
	make_pipe(ends, 0);
	for (int i = 0; i < 3; i++)
		io_prep_pread(&iocbs[i], ends[0], bytes[i], 8, 0);
	expect_all_submitted(ctx, iocbs, 3, HERE);
	put(ends[1], "ab", 2);
	expect_event(ctx, &iocbs[0], 2, HERE);
	expect_no_event(ctx, HERE);
	put(ends[1], "cdefghijklmn", 12);
	expect_event(ctx, &iocbs[1], 8, HERE);
	expect_event(ctx, &iocbs[2], 4, HERE);
	ck_assert_mem_eq(bytes[0], "ab", 2);
	ck_assert_mem_eq(bytes[1], "cdefghij", 8);
	ck_assert_mem_eq(bytes[2], "klmn", 4);
	free_context_without_events(ctx, HERE);
	close_pair(ends);
}

CASE(blocking_writes_are_written_whole_and_in_order)
{
	enum { COUNT = 4, BYTES = 300000 };
	char *buffers[COUNT], *found = malloc(BYTES);

	SKIP_ON_REFERENCE(HOLDS_SUBMIT);
	ck_assert_ptr_nonnull(found);
	for (int i = 0; i < COUNT; i++) {
		buffers[i] = malloc(BYTES);
		ck_assert_ptr_nonnull(buffers[i]);
		memset(buffers[i], 'A' + i, BYTES);
	}
	for (int kind = 0; kind < STREAM_KINDS; kind++) {
		struct stream stream = open_stream((enum stream_kind)kind);
		io_context_t ctx = new_context(8);
		struct iocb iocbs[COUNT];

		for (int i = 0; i < COUNT; i++)
			io_prep_pwrite(&iocbs[i], stream.writer, buffers[i], BYTES, 0);
		expect_all_submitted(ctx, iocbs, COUNT, stream.name);
		for (int i = 0; i < COUNT; i++) {
			take(stream.reader, found, BYTES);
			ck_assert_msg(memcmp(found, buffers[i], BYTES) == 0, "%s: write %d is torn",
				      stream.name, i);
			expect_event(ctx, &iocbs[i], BYTES, stream.name);
		}
		free_context_without_events(ctx, stream.name);
		close_stream(&stream);
	}
	for (int i = 0; i < COUNT; i++)
		free(buffers[i]);
	free(found);
}

/* It has room for a part of the write, and says that it is ready. */
CASE(a_terminal_that_nobody_reads_holds_nobody_up)
{
	enum { BYTES = 1 << 20 };
	struct stream stream = open_stream(STREAM_TERMINAL);
	io_context_t ctx = new_context(8);
	char *bytes = calloc(1, BYTES), found[512];
	struct iocb write, read;
	int file = scratch_file(1 << 16);

	SKIP_ON_REFERENCE(HOLDS_SUBMIT);
	ck_assert_ptr_nonnull(bytes);
	io_prep_pwrite(&write, stream.writer, bytes, BYTES, 0);
	expect_submitted(ctx, &write, HERE);
	/* The write has begun. */
	take(stream.reader, found, 1);
	for (int round = 0; round < 20; round++) {
		posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
		io_prep_pread(&read, file, found, sizeof(found), round * 512);
		expect_submitted(ctx, &read, HERE);
		expect_event(ctx, &read, sizeof(found), HERE);
		expect_pattern(found, round * 512, sizeof(found), HERE);
	}
	ck_assert_int_eq(io_destroy(ctx), 0);
	close_stream(&stream);
	close(file);
	free(bytes);
}

CASE(a_vectored_write_is_written_whole)
{
	enum { BYTES = 200001, PARTS = 7 };
	io_context_t ctx = new_context(8);
	char *bytes = malloc(BYTES), *found = malloc(BYTES);
	struct iovec vectors[PARTS];
	struct iocb iocb;
	int ends[2];

	SKIP_ON_REFERENCE(HOLDS_SUBMIT);
	ck_assert(bytes && found);
	fill_pattern(bytes, 0, BYTES);
	make_pipe(ends, 0);
	for (size_t i = 0; i < PARTS; i++)
		vectors[i] = (struct iovec){ bytes + i * 28571,
					     i == PARTS - 1 ? BYTES - 6 * 28571 : 28571 };
	io_prep_pwritev(&iocb, ends[1], vectors, PARTS, 0);
	expect_submitted(ctx, &iocb, HERE);
	memset(vectors, 0, sizeof(vectors));
	take(ends[0], found, BYTES);
	expect_pattern(found, 0, BYTES, HERE);
	expect_event(ctx, &iocb, BYTES, HERE);
	free(bytes);
	free(found);
	free_context_without_events(ctx, HERE);
	close_pair(ends);
}

CASE(a_vectored_read_fills_its_vectors_in_order)
{
	io_context_t ctx = new_context(8);
	char first[3], second[8];
	struct iovec vectors[2] = { { first, 3 }, { second, 8 } };
	struct iocb iocb;
	int ends[2];

	SKIP_ON_REFERENCE(HOLDS_SUBMIT);
	make_pipe(ends, 0);
	io_prep_preadv(&iocb, ends[0], vectors, 2, 0);
	expect_submitted(ctx, &iocb, HERE);
	put(ends[1], "abcdefgh", 8);
	expect_event(ctx, &iocb, 8, HERE);
	ck_assert_mem_eq(first, "abc", 3);
	ck_assert_mem_eq(second, "defgh", 5);
	free_context(ctx);
	close_pair(ends);
}

CASE(the_two_directions_do_not_wait_for_each_other)
{
	io_context_t ctx = new_context(8);
	char bytes[8];
	struct iocb read_iocb, write_iocb;
	int sockets[2];

	SKIP_ON_REFERENCE(HOLDS_SUBMIT);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
	io_prep_pread(&read_iocb, sockets[0], bytes, 8, 0);
	expect_submitted(ctx, &read_iocb, HERE);
	io_prep_pwrite(&write_iocb, sockets[0], (void *)(uintptr_t) "ping", 4, 0);
	expect_submitted(ctx, &write_iocb, HERE);
	expect_event(ctx, &write_iocb, 4, HERE);
	take(sockets[1], bytes, 4);
	put(sockets[1], "pong", 4);
	expect_event(ctx, &read_iocb, 4, HERE);
	ck_assert_mem_eq(bytes, "pong", 4);
	free_context(ctx);
	close_pair(sockets);
}

CASE(many_streams_wait_side_by_side)
{
	enum { COUNT = 200 };
	io_context_t ctx = new_context(COUNT);
	struct iocb iocbs[COUNT];
	char bytes[COUNT];
	int ends[COUNT][2];

	SKIP_ON_REFERENCE(HOLDS_SUBMIT);
	for (int i = 0; i < COUNT; i++) {
		make_pipe(ends[i], 0);
		io_prep_pread(&iocbs[i], ends[i][0], &bytes[i], 1, 0);
	}
	expect_all_submitted(ctx, iocbs, COUNT, HERE);
	for (int i = COUNT - 1; i >= 0; i--) {
		put(ends[i][1], "x", 1);
		expect_event(ctx, &iocbs[i], 1, HERE);
	}
	free_context_without_events(ctx, HERE);
	for (int i = 0; i < COUNT; i++)
		close_pair(ends[i]);
}

CASE(datagrams_keep_their_bounds)
{
	static const int types[] = { SOCK_DGRAM, SOCK_SEQPACKET };
	io_context_t ctx = new_context(16);

	SKIP_ON_REFERENCE(HOLDS_SUBMIT);
	for (int type = 0; type < 2; type++) {
		int sockets[2];
		char bytes[4][16];
		struct iocb reads[4], writes[4];

		ck_assert_int_eq(socketpair(AF_UNIX, types[type] | SOCK_CLOEXEC, 0, sockets), 0);
		for (int i = 0; i < 4; i++)
			io_prep_pread(&reads[i], sockets[0], bytes[i], 16, 0);
		expect_all_submitted(ctx, reads, 4, HERE);
		for (int i = 0; i < 4; i++) {
			io_prep_pwrite(&writes[i], sockets[1], (void *)(uintptr_t) "abcdefgh",
				       (size_t)i + 1, 0);
			expect_submitted(ctx, &writes[i], HERE);
		}
		for (int i = 0, done = 0; i < 8; i++) {
			struct io_event event = take_event(ctx, HERE);

			if (event.obj >= reads && event.obj < reads + 4) {
				ck_assert_ptr_eq(event.obj, &reads[done]);
				ck_assert_int_eq((long)event.res, ++done);
			}
		}
		close_pair(sockets);
	}
	free_context_without_events(ctx, HERE);
}

CASE(a_non_blocking_descriptor_says_eagain_in_the_event)
{
	io_context_t ctx = new_context(8);
	static char big[1 << 20];
	struct iocb iocb;

	for (int kind = 0; kind < STREAM_KINDS; kind++) {
		struct stream stream = open_stream((enum stream_kind)kind);

		fcntl(stream.reader, F_SETFL, fcntl(stream.reader, F_GETFL) | O_NONBLOCK);
		io_prep_pread(&iocb, stream.reader, big, 16, 0);
		expect_result(ctx, &iocb, -EAGAIN, stream.name);
		close_stream(&stream);
	}
	for (int kind = 0; kind < STREAM_TCP; kind++) {
		struct stream stream = open_stream((enum stream_kind)kind);
		struct io_event event;

		fcntl(stream.writer, F_SETFL, fcntl(stream.writer, F_GETFL) | O_NONBLOCK);
		io_prep_pwrite(&iocb, stream.writer, big, sizeof(big), 0);
		expect_submitted(ctx, &iocb, stream.name);
		event = take_event(ctx, stream.name);
		ck_assert_msg((long)event.res > 0 && event.res < sizeof(big), "%s: %ld of %zu",
			      stream.name, (long)event.res, sizeof(big));
		io_prep_pwrite(&iocb, stream.writer, big, 65536, 0);
		expect_result(ctx, &iocb, -EAGAIN, stream.name);
		close_stream(&stream);
	}
	free_context_without_events(ctx, HERE);
}

CASE(nowait_makes_one_request_non_blocking)
{
	io_context_t ctx = new_context(8);
	char bytes[16];
	struct iovec vector = { bytes, sizeof(bytes) };
	struct iocb iocb;

	NEEDS_FLAGS();
	for (int kind = 0; kind < STREAM_TERMINAL; kind++) {
		struct stream stream = open_stream((enum stream_kind)kind);

		io_prep_preadv2(&iocb, stream.reader, &vector, 1, 0, RWF_NOWAIT);
		expect_result(ctx, &iocb, -EAGAIN, stream.name);
		put(stream.writer, "abc", 3);
		io_prep_preadv2(&iocb, stream.reader, &vector, 1, 0, RWF_NOWAIT);
		expect_result(ctx, &iocb, 3, stream.name);
		close_stream(&stream);
	}
	free_context_without_events(ctx, HERE);
}

CASE(whether_it_blocks_is_asked_of_each_request)
{
	io_context_t ctx = new_context(8);
	char byte;
	struct iocb iocb;
	int ends[2];

	SKIP_ON_REFERENCE(HOLDS_SUBMIT);
	make_pipe(ends, 0);
	for (int i = 0; i < 10; i++) {
		fcntl(ends[0], F_SETFL, O_NONBLOCK);
		io_prep_pread(&iocb, ends[0], &byte, 1, 0);
		expect_result(ctx, &iocb, -EAGAIN, HERE);
		fcntl(ends[0], F_SETFL, 0);
		io_prep_pread(&iocb, ends[0], &byte, 1, 0);
		expect_submitted(ctx, &iocb, HERE);
		put(ends[1], "x", 1);
		expect_event(ctx, &iocb, 1, HERE);
	}
	free_context_without_events(ctx, HERE);
	close_pair(ends);
}

CASE(a_non_blocking_request_behind_a_waiting_one_takes_its_turn)
{
	io_context_t ctx = new_context(8);
	char bytes[3] = "--";
	struct iocb iocbs[3];
	int ends[2];

	SKIP_ON_REFERENCE(HOLDS_SUBMIT);
	make_pipe(ends, 0);
	io_prep_pread(&iocbs[0], ends[0], &bytes[0], 1, 0);
	expect_submitted(ctx, &iocbs[0], HERE);
	fcntl(ends[0], F_SETFL, O_NONBLOCK);
	for (int i = 1; i < 3; i++)
		io_prep_pread(&iocbs[i], ends[0], &bytes[i], 1, 0);
	expect_all_submitted(ctx, iocbs + 1, 2, HERE);
	expect_no_event(ctx, HERE);
	put(ends[1], "ab", 2);
	expect_event(ctx, &iocbs[0], 1, HERE);
	expect_event(ctx, &iocbs[1], 1, HERE);
	expect_event(ctx, &iocbs[2], -EAGAIN, HERE);
	ck_assert_mem_eq(bytes, "ab", 2);
	free_context_without_events(ctx, HERE);
	close_pair(ends);
}

CASE(a_waiting_read_ends_with_zero_when_the_peer_goes)
{
	io_context_t ctx = new_context(8);
	char byte;
	struct iocb iocbs[2];

	SKIP_ON_REFERENCE(HOLDS_SUBMIT);
	for (int kind = 0; kind < STREAM_TERMINAL; kind++) {
		struct stream stream = open_stream((enum stream_kind)kind);

		for (int i = 0; i < 2; i++)
			io_prep_pread(&iocbs[i], stream.reader, &byte, 1, 0);
		expect_all_submitted(ctx, iocbs, 2, stream.name);
		close(stream.writer);
		expect_event(ctx, &iocbs[0], 0, stream.name);
		expect_event(ctx, &iocbs[1], 0, stream.name);
		close(stream.reader);
	}
	free_context_without_events(ctx, HERE);
}

CASE(a_peer_that_is_gone_is_told_in_the_event)
{
	io_context_t ctx = new_context(8);
	char byte = 0;
	struct iocb iocb;

	signal(SIGPIPE, SIG_IGN);
	for (int kind = 0; kind < STREAM_TCP; kind++) {
		struct stream stream = open_stream((enum stream_kind)kind);

		close(stream.reader);
		io_prep_pwrite(&iocb, stream.writer, &byte, 1, 0);
		expect_result(ctx, &iocb, -EPIPE, stream.name);
		close(stream.writer);
		stream = open_stream((enum stream_kind)kind);
		close(stream.writer);
		io_prep_pread(&iocb, stream.reader, &byte, 1, 0);
		expect_result(ctx, &iocb, 0, stream.name);
		close(stream.reader);
	}
	restore_signal(SIGPIPE);
	free_context_without_events(ctx, HERE);
}

CASE(a_write_that_waits_learns_that_the_reader_goes)
{
	io_context_t ctx = new_context(8);
	char byte = 0;
	struct iocb iocb;
	int ends[2];

	SKIP_ON_REFERENCE(HOLDS_SUBMIT);
	signal(SIGPIPE, SIG_IGN);
	make_pipe(ends, 0);
	fill(ends[1]);
	io_prep_pwrite(&iocb, ends[1], &byte, 1, 0);
	expect_submitted(ctx, &iocb, HERE);
	expect_works(ctx, HERE);
	close(ends[0]);
	expect_event(ctx, &iocb, -EPIPE, HERE);
	restore_signal(SIGPIPE);
	free_context(ctx);
	close(ends[1]);
}

static void write_without_reader(void *argument)
{
	struct timespec seconds = { .tv_sec = EVENT_LIMIT_SECONDS };
	io_context_t ctx = NULL;
	struct io_event event;
	struct iocb iocb;

	CHILD_CHECK(io_setup(4, &ctx) == 0);
	io_prep_pwrite(&iocb, *(int *)argument, &seconds, 1, 0);
	CHILD_CHECK(submit_one(ctx, &iocb) == 1);
	CHILD_CHECK(io_getevents(ctx, 1, 1, &event, &seconds) == 1 && (long)event.res == -EPIPE);
}

CASE(a_write_in_the_background_raises_no_sigpipe)
{
	int ends[2], status;

	if (UNDER_THREAD_SANITIZER)
		SKIP("a child of a process with threads has no thread sanitizer");
	make_pipe(ends, 0);
	close(ends[0]);
	status = run_in_child(write_without_reader, &ends[1]);
	if (on_reference())
		ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGPIPE);
	else
		ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "wait status 0x%x",
			      (unsigned)status);
	close(ends[1]);
	free_context(new_context(1));
}

/* On its way into the kernel it is past cancelling for a moment; once it waits there it is not. */
static void cancel_waiting(io_context_t ctx, struct iocb *iocb, const char *what)
{
	int result = -EAGAIN;

	WAIT_UNTIL((result = io_cancel(ctx, iocb, NULL)) != -EAGAIN);
	ck_assert_msg(result == -EINPROGRESS, "%s: io_cancel: %d", what, result);
}

CASE(a_waiting_read_can_be_cancelled)
{
	io_context_t ctx = new_context(8);
	int counter = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	char byte = '-';
	struct iocb iocb;

	SKIP_ON_REFERENCE(HOLDS_SUBMIT);
	for (int kind = 0; kind < STREAM_KINDS; kind++) {
		struct stream stream = open_stream((enum stream_kind)kind);

		io_prep_pread(&iocb, stream.reader, &byte, 1, 0);
		io_set_eventfd(&iocb, counter);
		expect_submitted(ctx, &iocb, stream.name);
		cancel_waiting(ctx, &iocb, stream.name);
		expect_event(ctx, &iocb, -ECANCELED, stream.name);
		expect_count(counter, 1, HERE);
		ck_assert_int_eq(io_cancel(ctx, &iocb, NULL), -EINVAL);
		/* It takes nothing any more. */
		put(stream.writer, "k", 1);
		take(stream.reader, &byte, 1);
		ck_assert_int_eq(byte, 'k');
		close_stream(&stream);
	}
	free_context_without_events(ctx, HERE);
	ck_assert_uint_eq(take_count(counter), 0);
	close(counter);
}

CASE(cancelling_one_read_leaves_the_others_their_turn)
{
	io_context_t ctx = new_context(8);
	char bytes[4];
	struct iocb iocbs[4];
	int ends[2];

	SKIP_ON_REFERENCE(HOLDS_SUBMIT);
	make_pipe(ends, 0);
	for (int cancelled = 0; cancelled < 4; cancelled++) {
		memset(bytes, '-', sizeof(bytes));
		for (int i = 0; i < 4; i++)
			io_prep_pread(&iocbs[i], ends[0], &bytes[i], 1, 0);
		expect_all_submitted(ctx, iocbs, 4, HERE);
		cancel_waiting(ctx, &iocbs[cancelled], HERE);
		expect_event(ctx, &iocbs[cancelled], -ECANCELED, HERE);
		put(ends[1], "abc", 3);
		for (int i = 0; i < 4; i++)
			if (i != cancelled)
				expect_event(ctx, &iocbs[i], 1, HERE);
		for (int i = 0, j = 0; i < 4; i++)
			ck_assert_int_eq(bytes[i], i == cancelled ? '-' : "abc"[j++]);
	}
	free_context_without_events(ctx, HERE);
	close_pair(ends);
}

CASE(cancel_against_arriving_data_loses_neither)
{
	io_context_t ctx = new_context(8);
	char byte;
	int ends[2], read_by_request = 0;

	SKIP_ON_REFERENCE(HOLDS_SUBMIT);
	make_pipe(ends, 0);
	for (int i = 0; i < 500; i++) {
		struct io_event event;
		struct iocb iocb;
		int result;

		io_prep_pread(&iocb, ends[0], &byte, 1, 0);
		expect_submitted(ctx, &iocb, HERE);
		put(ends[1], "x", 1);
		result = io_cancel(ctx, &iocb, NULL);
		event = take_event(ctx, HERE);
		ck_assert_ptr_eq(event.obj, &iocb);
		if ((long)event.res == 1) {
			read_by_request++;
		} else {
			ck_assert_int_eq((long)event.res, -ECANCELED);
			ck_assert_int_eq(result, -EINPROGRESS);
			take(ends[0], &byte, 1);
		}
		expect_no_event(ctx, HERE);
	}
	fcntl(ends[0], F_SETFL, O_NONBLOCK);
	ck_assert_msg(read(ends[0], &byte, 1) == -1, "data is left over; %d were read",
		      read_by_request);
	free_context(ctx);
	close_pair(ends);
}

CASE(a_write_cancelled_in_the_middle_tells_what_it_has_written)
{
	enum { BYTES = 1 << 20 };
	io_context_t ctx = new_context(8);
	char *bytes = malloc(BYTES), *found = malloc(BYTES);
	struct pollfd readable;
	struct io_event event;
	struct iocb iocb;
	int ends[2], unread;

	SKIP_ON_REFERENCE(HOLDS_SUBMIT);
	ck_assert(bytes && found);
	fill_pattern(bytes, 0, BYTES);
	make_pipe(ends, 0);
	io_prep_pwrite(&iocb, ends[1], bytes, BYTES, 0);
	expect_submitted(ctx, &iocb, HERE);
	readable = (struct pollfd){ .fd = ends[0], .events = POLLIN };
	ck_assert_int_eq(poll(&readable, 1, EVENT_LIMIT_SECONDS * 1000), 1);
	cancel_waiting(ctx, &iocb, HERE);
	event = take_event(ctx, HERE);
	ck_assert_int_eq(ioctl(ends[0], FIONREAD, &unread), 0);
	ck_assert_msg((long)event.res == unread || ((long)event.res == -ECANCELED && unread == 0),
		      "the event says %ld, the pipe holds %d", (long)event.res, unread);
	take(ends[0], found, (size_t)unread);
	expect_pattern(found, 0, (size_t)unread, HERE);
	free(bytes);
	free(found);
	free_context_without_events(ctx, HERE);
	close_pair(ends);
}

CASE(destroy_cancels_waiting_reads)
{
	int counter = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	char bytes[3];
	struct iocb iocbs[3];

	SKIP_ON_REFERENCE(HOLDS_SUBMIT);
	for (int kind = 0; kind < STREAM_KINDS; kind++) {
		struct stream stream = open_stream((enum stream_kind)kind);
		io_context_t ctx = new_context(8);

		memset(bytes, '-', sizeof(bytes));
		for (int i = 0; i < 3; i++) {
			io_prep_pread(&iocbs[i], stream.reader, &bytes[i], 1, 0);
			io_set_eventfd(&iocbs[i], counter);
		}
		expect_all_submitted(ctx, iocbs, 3, stream.name);
		free_context(ctx);
		ck_assert_msg(take_count(counter) == 3, "%s: the eventfd", stream.name);
		/* Nothing of what comes later is taken. */
		put(stream.writer, "abc", 3);
		take(stream.reader, bytes, 3);
		ck_assert_mem_eq(bytes, "abc", 3);
		close_stream(&stream);
	}
	close(counter);
}

CASE(destroy_cancels_waiting_writes)
{
	io_context_t ctx = new_context(8);
	char byte = 'w', *drained = malloc(1 << 20);
	struct iocb iocbs[2];
	int ends[2], unread;
	size_t filled;

	SKIP_ON_REFERENCE(HOLDS_SUBMIT);
	ck_assert_ptr_nonnull(drained);
	make_pipe(ends, 0);
	filled = fill(ends[1]);
	for (int i = 0; i < 2; i++)
		io_prep_pwrite(&iocbs[i], ends[1], &byte, 1, 0);
	expect_all_submitted(ctx, iocbs, 2, HERE);
	free_context(ctx);
	take(ends[0], drained, filled);
	ck_assert_int_eq(ioctl(ends[0], FIONREAD, &unread), 0);
	ck_assert_int_eq(unread, 0);
	free(drained);
	close_pair(ends);
}

CASE(destroying_one_context_leaves_the_requests_of_another)
{
	io_context_t ctx = new_context(8), other = new_context(8);
	char bytes[2];
	struct iocb first, second;
	int ends[2];

	SKIP_ON_REFERENCE(HOLDS_SUBMIT);
	make_pipe(ends, 0);
	io_prep_pread(&first, ends[0], &bytes[0], 1, 0);
	io_prep_pread(&second, ends[0], &bytes[1], 1, 0);
	expect_submitted(ctx, &first, HERE);
	expect_submitted(other, &second, HERE);
	free_context(ctx);
	put(ends[1], "x", 1);
	expect_event(other, &second, 1, HERE);
	ck_assert_int_eq(bytes[1], 'x');
	free_context(other);
	close_pair(ends);
}

CASE(a_request_holds_the_file_of_the_call)
{
	io_context_t ctx = new_context(8);
	char bytes[2] = { 0 };
	struct iocb iocbs[2];
	int ends[2], others[2], number;

	SKIP_ON_REFERENCE(HOLDS_SUBMIT);
	make_pipe(ends, 0);
	make_pipe(others, 0);
	number = ends[0];
	for (int i = 0; i < 2; i++)
		io_prep_pread(&iocbs[i], ends[0], &bytes[i], 1, 0);
	expect_all_submitted(ctx, iocbs, 2, HERE);
	ck_assert_int_eq(dup2(others[0], number), number);
	put(others[1], "??", 2);
	expect_works(ctx, HERE);
	put(ends[1], "a", 1);
	expect_event(ctx, &iocbs[0], 1, HERE);
	put(ends[1], "b", 1);
	expect_event(ctx, &iocbs[1], 1, HERE);
	ck_assert_mem_eq(bytes, "ab", 2);
	/* With the last request the last reader has gone. */
	WAIT_UNTIL(has_no_reader(ends[1]));
	/* The number is asked again. */
	io_prep_pread(&iocbs[0], number, bytes, 2, 0);
	expect_result(ctx, &iocbs[0], 2, HERE);
	ck_assert_mem_eq(bytes, "??", 2);
	free_context_without_events(ctx, HERE);
	close(number);
	close(ends[1]);
	close_pair(others);
}

/* A library may remember what a number is, but not for longer than it is that. */
CASE(a_number_that_has_just_become_an_empty_pipe_does_not_hold_the_caller)
{
	enum { KINDS = 4 };
	io_context_t ctx = new_context(8);
	int file = scratch_file(4096), number = dup(file), ends[2];
	int kinds[KINDS] = { file, reopen_file(file, O_RDONLY | O_DIRECT),
			     memfd_create("memory", MFD_CLOEXEC),
			     open_device("/dev/zero", O_RDONLY) };
	char *buffer = aligned_buffer(4096);
	struct iocb iocb;

	SKIP_ON_REFERENCE(HOLDS_SUBMIT);
	make_pipe(ends, 0);
	for (int round = 0; round < 20 * KINDS; round++) {
		if (kinds[round % KINDS] < 0)
			continue;
		ck_assert_int_eq(dup2(kinds[round % KINDS], number), number);
		io_prep_pread(&iocb, number, buffer, 4096, 0);
		expect_submitted(ctx, &iocb, HERE);
		ck_assert_int_eq(take_event(ctx, HERE).obj == &iocb, 1);
		ck_assert_int_eq(dup2(ends[0], number), number);
		io_prep_pread(&iocb, number, buffer, 1, 0);
		expect_submitted(ctx, &iocb, HERE);
		put(ends[1], "x", 1);
		expect_event(ctx, &iocb, 1, HERE);
	}
	free_context_without_events(ctx, HERE);
	for (int i = 0; i < KINDS; i++)
		close(kinds[i]);
	close(number);
	close_pair(ends);
	free(buffer);
}

CASE(destroy_lets_go_of_the_file)
{
	io_context_t ctx = new_context(8);
	char byte;
	struct iocb iocb;
	int ends[2];

	SKIP_ON_REFERENCE(HOLDS_SUBMIT);
	make_pipe(ends, 0);
	io_prep_pread(&iocb, ends[0], &byte, 1, 0);
	expect_submitted(ctx, &iocb, HERE);
	close(ends[0]);
	free_context(ctx);
	WAIT_UNTIL(has_no_reader(ends[1]));
	close(ends[1]);
}

struct leaving_submitter {
	struct worker worker;
	io_context_t ctx;
	int fd;
	char *byte;
	struct iocb *iocb;
};

static void submit_and_leave(void *argument)
{
	struct leaving_submitter *submitter = argument;

	io_prep_pread(submitter->iocb, submitter->fd, submitter->byte, 1, 0);
	expect_submitted(submitter->ctx, submitter->iocb, HERE);
}

CASE(a_request_outlives_the_thread_that_submitted_it)
{
	struct leaving_submitter submitter = { .ctx = new_context(8) };
	char byte = '-';
	struct iocb iocb;
	int ends[2];

	SKIP_ON_REFERENCE(HOLDS_SUBMIT);
	make_pipe(ends, 0);
	submitter.fd = ends[0];
	submitter.byte = &byte;
	submitter.iocb = &iocb;
	worker_start(&submitter.worker, submit_and_leave, &submitter);
	worker_join(&submitter.worker);
	put(ends[1], "x", 1);
	expect_event(submitter.ctx, &iocb, 1, HERE);
	ck_assert_int_eq(byte, 'x');
	free_context(submitter.ctx);
	close_pair(ends);
}

CASE(signals_of_the_program_do_not_interrupt_a_waiting_request)
{
	io_context_t ctx = new_context(8);
	char byte;
	struct iocb iocb;
	int ends[2];

	SKIP_ON_REFERENCE(HOLDS_SUBMIT);
	catch_signal(SIGUSR1, 0);
	make_pipe(ends, 0);
	io_prep_pread(&iocb, ends[0], &byte, 1, 0);
	expect_submitted(ctx, &iocb, HERE);
	for (int i = 0; i < 10; i++)
		ck_assert_int_eq(kill(getpid(), SIGUSR1), 0);
	WAIT_UNTIL(atomic_load(&contract_signal_count) > 0);
	expect_works(ctx, HERE);
	put(ends[1], "x", 1);
	expect_event(ctx, &iocb, 1, HERE);
	restore_signal(SIGUSR1);
	free_context(ctx);
	close_pair(ends);
}

static void feed_slowly(void *argument)
{
	for (int i = 0; i < 200; i++) {
		sched_yield();
		if (write(*(int *)argument, "x", 1) != 1)
			break;
	}
}

/* A ring of requests in the program's own thread would have its sleeps interrupted. */
CASE(requests_in_flight_do_not_interrupt_the_programs_own_waits)
{
	io_context_t ctx = new_context(8);
	int counter = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
	    epoll = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event interest = { .events = EPOLLIN };
	struct worker feeder;
	char byte;
	int ends[2];

	SKIP_ON_REFERENCE(HOLDS_SUBMIT);
	make_pipe(ends, 0);
	ck_assert_int_eq(epoll_ctl(epoll, EPOLL_CTL_ADD, counter, &interest), 0);
	worker_start(&feeder, feed_slowly, &ends[1]);
	for (int i = 0; i < 200; i++) {
		struct epoll_event ready;
		struct io_event event;
		struct iocb iocb;
		int result;

		io_prep_pread(&iocb, ends[0], &byte, 1, 0);
		io_set_eventfd(&iocb, counter);
		expect_submitted(ctx, &iocb, HERE);
		result = epoll_wait(epoll, &ready, 1, EVENT_LIMIT_SECONDS * 1000);
		ck_assert_msg(result == 1, "epoll_wait: %d (%s)", result, strerror(errno));
		ck_assert_uint_eq(take_count(counter), 1);
		ck_assert_int_eq(take_events_now(ctx, &event, 1), 1);
	}
	worker_join(&feeder);
	free_context(ctx);
	close(counter);
	close(epoll);
	close_pair(ends);
}

CASE(a_terminal_gives_one_line_to_one_read)
{
	io_context_t ctx = new_context(8);
	struct stream stream = open_stream(STREAM_TERMINAL);
	struct termios settings;
	char bytes[2][32];
	struct iocb iocbs[2];

	SKIP_ON_REFERENCE(HOLDS_SUBMIT);
	ck_assert_int_eq(tcgetattr(stream.reader, &settings), 0);
	settings.c_lflag |= ICANON;
	settings.c_lflag &= ~(tcflag_t)ECHO;
	settings.c_iflag |= ICRNL;
	ck_assert_int_eq(tcsetattr(stream.reader, TCSANOW, &settings), 0);
	for (int i = 0; i < 2; i++)
		io_prep_pread(&iocbs[i], stream.reader, bytes[i], sizeof(bytes[i]), 0);
	expect_all_submitted(ctx, iocbs, 2, HERE);
	put(stream.writer, "half", 4);
	expect_works(ctx, "half a line");
	put(stream.writer, " a line\nand another\n", 20);
	expect_event(ctx, &iocbs[0], 12, HERE);
	expect_event(ctx, &iocbs[1], 12, HERE);
	ck_assert_mem_eq(bytes[0], "half a line\n", 12);
	ck_assert_mem_eq(bytes[1], "and another\n", 12);
	free_context_without_events(ctx, HERE);
	close_stream(&stream);
}

CASE(a_named_pipe_is_a_pipe)
{
	io_context_t ctx = new_context(8);
	char path[PATH_MAX], byte;
	struct iocb iocb;
	int fd;

	SKIP_ON_REFERENCE(HOLDS_SUBMIT);
	snprintf(path, sizeof(path), "%s/fifo", scratch_directory());
	ck_assert_int_eq(mkfifo(path, 0600), 0);
	fd = open_device(path, O_RDWR);
	unlink(path);
	io_prep_pread(&iocb, fd, &byte, 1, 0);
	expect_submitted(ctx, &iocb, HERE);
	expect_works(ctx, HERE);
	put(fd, "x", 1);
	expect_event(ctx, &iocb, 1, HERE);
	free_context(ctx);
	close(fd);
}

static void write_and_exit(void *argument)
{
	enum { COUNT = 3, BYTES = 300000 };
	static char bytes[COUNT][BYTES];
	io_context_t ctx = NULL;
	struct iocb iocbs[COUNT], *list[COUNT];

	CHILD_CHECK(io_setup(8, &ctx) == 0);
	for (int i = 0; i < COUNT; i++) {
		memset(bytes[i], 'A' + i, BYTES);
		io_prep_pwrite(&iocbs[i], *(int *)argument, bytes[i], BYTES, 0);
		list[i] = &iocbs[i];
	}
	CHILD_CHECK(io_submit(ctx, COUNT, list) == COUNT);
	exit(0);
}

CASE(exit_finishes_the_writes_that_were_accepted)
{
	enum { BYTES = 300000 };
	static char found[BYTES];
	int ends[2], status;
	pid_t child;

	if (UNDER_THREAD_SANITIZER)
		SKIP("a child of a process with threads has no thread sanitizer");
	SKIP_ON_REFERENCE(HOLDS_SUBMIT);
	make_pipe(ends, 0);
	fflush(NULL);
	child = fork();
	if (child == 0)
		write_and_exit(&ends[1]);
	ck_assert_int_gt(child, 0);
	close(ends[1]);
	for (int i = 0; i < 3; i++) {
		int same = 0;

		take(ends[0], found, BYTES);
		while (same < BYTES && found[same] == 'A' + i)
			same++;
		ck_assert_int_eq(same, BYTES);
	}
	ck_assert_int_eq(read(ends[0], found, 1), 0);
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	close(ends[0]);
	free_context(new_context(1));
}

/*
 * Lines of requests are for what is one thing.  The masters of all terminals are one device file,
 * and all eventfds and timers have one inode, but each is a thing of its own.
 */

static int open_raw_terminal(int *terminal)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	struct termios settings;
	char name[64];

	if (master < 0 || grantpt(master) != 0 || unlockpt(master) != 0 ||
	    ptsname_r(master, name, sizeof(name)) != 0)
		return -1;
	*terminal = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (*terminal < 0 || tcgetattr(*terminal, &settings) != 0)
		return -1;
	cfmakeraw(&settings);
	return tcsetattr(*terminal, TCSANOW, &settings) == 0 ? master : -1;
}

CASE(masters_of_terminals_do_not_wait_for_each_other)
{
	io_context_t ctx = new_context(8);
	int masters[2], terminals[2];
	struct iocb iocbs[3];
	char bytes[3];

	SKIP_ON_REFERENCE(HOLDS_SUBMIT);
	for (int i = 0; i < 2; i++) {
		masters[i] = open_raw_terminal(&terminals[i]);
		if (masters[i] < 0)
			SKIP("no pseudo terminals here");
	}
	for (int i = 0; i < 3; i++)
		io_prep_pread(&iocbs[i], masters[i == 1], &bytes[i], 1, 0);
	expect_all_submitted(ctx, iocbs, 3, HERE);
	expect_works(ctx, "nothing there");
	put(terminals[1], "b", 1);
	expect_event(ctx, &iocbs[1], 1, "the second one's");
	expect_works(ctx, "the first one");
	/* But those of one master do, in their order. */
	put(terminals[0], "ac", 2);
	expect_event(ctx, &iocbs[0], 1, "the first one's");
	expect_event(ctx, &iocbs[2], 1, "the first one's, again");
	ck_assert_mem_eq(bytes, "abc", 3);
	free_context_without_events(ctx, HERE);
	close_pair(masters);
	close_pair(terminals);
}

CASE(reads_of_counters_and_timers_do_not_wait_for_each_other)
{
	const struct itimerspec soon = { .it_value = { .tv_nsec = 1 } };
	io_context_t ctx = new_context(8);
	uint64_t counts[4] = { 0 }, three = 3;
	struct iocb iocbs[4];
	int fds[4];

	if (!on_threads()) {
		free_context(ctx);
		SKIP(HOLDS_SUBMIT);
	}
	NEEDS_KERNELS_COUNTS();
	for (int i = 0; i < 4; i++) {
		fds[i] = i < 2 ? open_eventfd(0, EFD_CLOEXEC)
			       : timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
		ck_assert_int_ge(fds[i], 0);
		io_prep_pread(&iocbs[i], fds[i], &counts[i], sizeof(counts[i]), 0);
		expect_submitted(ctx, &iocbs[i], HERE);
	}
	expect_works(ctx, HERE);
	/* The one that was asked first comes last. */
	for (int i = 3; i >= 0; i--) {
		if (i < 2)
			put(fds[i], &three, sizeof(three));
		else
			ck_assert_int_eq(timerfd_settime(fds[i], 0, &soon, NULL), 0);
		expect_event(ctx, &iocbs[i], sizeof(counts[i]), HERE);
		ck_assert_uint_eq(counts[i], i < 2 ? three : 1);
		expect_works(ctx, HERE);
	}
	free_context_without_events(ctx, HERE);
	for (int i = 0; i < 4; i++)
		close(fds[i]);
}

/* Not only the data: the one that is woken by the first event finds that of the first read. */
CASE(events_come_in_the_order_of_submission_when_all_data_comes_at_once)
{
	enum { ROUNDS = 100, COUNT = 64 };
	io_context_t ctx = new_context(COUNT);
	char bytes[COUNT], found[COUNT];
	struct iocb iocbs[COUNT];
	int ends[2];

	SKIP_ON_REFERENCE(HOLDS_SUBMIT);
	make_pipe(ends, 0);
	for (int i = 0; i < COUNT; i++)
		bytes[i] = (char)(i + 1);
	for (int round = 0; round < ROUNDS; round++) {
		for (int i = 0; i < COUNT; i++)
			io_prep_pread(&iocbs[i], ends[0], &found[i], 1, 0);
		for (int i = 0, batch = round % 2 ? COUNT : 1; i < COUNT; i += batch)
			expect_all_submitted(ctx, iocbs + i, batch, HERE);
		put(ends[1], bytes, COUNT);
		for (int i = 0; i < COUNT; i++) {
			struct io_event event = take_event(ctx, HERE);

			ck_assert_msg(event.obj == &iocbs[i], "round %d: %td in the place of %d",
				      round, event.obj - iocbs, i);
			ck_assert_int_eq((long)event.res, 1);
		}
		ck_assert_mem_eq(found, bytes, COUNT);
	}
	free_context_without_events(ctx, HERE);
	close_pair(ends);
}
