/* SPDX-License-Identifier: MIT */
/*
 * IO_CMD_POLL: what it reports, when, and on what.
 *
 * A poll that is to stay silent is followed by another request that ends: when that one's event is
 * the next, the poll has not fired.
 */
#include "contract.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

static char byte;

static void arm(io_context_t ctx, struct iocb *iocb, int fd, int events, const char *what)
{
	io_prep_poll(iocb, fd, events);
	expect_submitted(ctx, iocb, what);
}

static void expect_poll(io_context_t ctx, int fd, int events, long result, const char *what)
{
	struct iocb iocb;

	io_prep_poll(&iocb, fd, events);
	expect_result(ctx, &iocb, result, what);
}

static void expect_poll_refused(io_context_t ctx, int fd, int events, int error, const char *what)
{
	struct iocb iocb;

	io_prep_poll(&iocb, fd, events);
	expect_refused(ctx, &iocb, error, what);
}

CASE(what_is_ready_at_submit_is_reported_at_once)
{
	io_context_t ctx = new_context(8);
	int ends[2];

	make_pipe(ends, 0);
	expect_poll(ctx, ends[1], POLLOUT, POLLOUT, "write end");
	expect_poll(ctx, ends[1], POLLIN | POLLOUT, POLLOUT, "write end, also in");
	ck_assert_int_eq(write(ends[1], "x", 1), 1);
	expect_poll(ctx, ends[0], POLLIN, POLLIN, "read end");
	expect_poll(ctx, ends[0], POLLIN | POLLRDNORM | POLLOUT | POLLPRI, POLLIN | POLLRDNORM,
		    "read end, all");
	close(ends[1]);
	expect_poll(ctx, ends[0], POLLIN, POLLIN | POLLHUP, "hung up, with data");
	expect_poll(ctx, ends[0], 0, POLLHUP, "hung up, nothing asked");
	close(ends[0]);
	make_pipe(ends, 0);
	close(ends[0]);
	expect_poll(ctx, ends[1], 0, POLLERR, "no reader, nothing asked");
	close(ends[1]);
	free_context_without_events(ctx, HERE);
}

CASE(a_poll_fires_when_the_file_becomes_ready_and_only_once)
{
	io_context_t ctx = new_context(8);
	struct iocb iocb;
	int ends[2];

	make_pipe(ends, 0);
	arm(ctx, &iocb, ends[0], POLLIN, HERE);
	expect_works(ctx, "nothing there");
	ck_assert_int_eq(write(ends[1], "x", 1), 1);
	expect_event(ctx, &iocb, POLLIN | POLLRDNORM, HERE);
	ck_assert_int_eq(write(ends[1], "x", 1), 1);
	expect_works(ctx, "one-shot");
	free_context_without_events(ctx, HERE);
	close_pair(ends);
}

CASE(a_poll_wakes_a_waiter)
{
	io_context_t ctx = new_context(8);
	struct reaper reaper;
	struct iocb iocb;
	int ends[2];

	make_pipe(ends, 0);
	arm(ctx, &iocb, ends[0], POLLIN, HERE);
	reaper_start(&reaper, ctx, 1, 8, NULL);
	reaper_wait_blocked(&reaper);
	ck_assert_int_eq(write(ends[1], "x", 1), 1);
	ck_assert_int_eq(reaper_join(&reaper), 1);
	ck_assert(reaper.events[0].obj == &iocb);
	free_context(ctx);
	close_pair(ends);
}

CASE(an_event_comes_although_the_data_is_gone_by_then)
{
	io_context_t ctx;
	struct iocb iocb;
	int ends[2];

	if (on_threads())
		SKIP("the library looks at the file again, and finds nothing");
	ctx = new_context(8);
	make_pipe(ends, 0);
	arm(ctx, &iocb, ends[0], POLLIN, HERE);
	ck_assert_int_eq(write(ends[1], "x", 1), 1);
	ck_assert_int_eq(read(ends[0], &byte, 1), 1);
	expect_event(ctx, &iocb, POLLIN | POLLRDNORM, HERE);
	free_context(ctx);
	close_pair(ends);
}

/* The waker's bits, not cut to those asked for. */
CASE(a_late_result_is_what_the_waker_says)
{
	io_context_t ctx = new_context(8);
	char filling[4096] = { 0 };
	int ends[2], sockets[2];
	struct iocb iocb;

	make_pipe(ends, O_NONBLOCK);
	arm(ctx, &iocb, ends[0], POLLIN, HERE);
	close(ends[1]);
	expect_event(ctx, &iocb, POLLHUP, "the writer closes");
	close(ends[0]);

	make_pipe(ends, O_NONBLOCK);
	while (write(ends[1], filling, sizeof(filling)) > 0)
		;
	arm(ctx, &iocb, ends[1], POLLOUT, HERE);
	expect_works(ctx, "full");
	close(ends[0]);
	expect_event(ctx, &iocb, POLLERR, "the reader closes");
	close(ends[1]);

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
	arm(ctx, &iocb, sockets[0], POLLIN, HERE);
	ck_assert_int_eq(send(sockets[1], "x", 1, 0), 1);
	ck_assert_int_eq(take_event(ctx, HERE).res & (POLLIN | POLLRDNORM), POLLIN | POLLRDNORM);
	ck_assert_int_eq(recv(sockets[0], &byte, 1, 0), 1);
	arm(ctx, &iocb, sockets[0], POLLIN | POLLRDHUP, HERE);
	shutdown(sockets[1], SHUT_WR);
	ck_assert_int_eq(take_event(ctx, HERE).obj == &iocb, 1);
	close_pair(sockets);
	free_context_without_events(ctx, HERE);
}

CASE(asking_for_nothing_waits_for_error_and_hangup)
{
	io_context_t ctx = new_context(8);
	struct iocb iocb;
	int ends[2];

	make_pipe(ends, 0);
	arm(ctx, &iocb, ends[0], 0, HERE);
	ck_assert_int_eq(write(ends[1], "x", 1), 1);
	expect_works(ctx, "data");
	ck_assert_int_eq(read(ends[0], &byte, 1), 1);
	close(ends[1]);
	expect_event(ctx, &iocb, POLLHUP, "hangup");
	free_context(ctx);
	close(ends[0]);
}

CASE(poll_checks_its_operands)
{
	io_context_t ctx = new_context(8);
	struct iocb iocb;
	int ends[2];

	make_pipe(ends, 0);
	expect_poll_refused(ctx, -1, POLLIN, -EBADF, "descriptor");
	expect_poll_refused(ctx, ends[0], 0x10000, -EINVAL, "17 bits");
	expect_poll_refused(ctx, ends[0], -1, -EINVAL, "all bits");
	io_prep_poll(&iocb, ends[0], POLLIN);
	iocb.u.c.nbytes = 1;
	expect_refused(ctx, &iocb, -EINVAL, "nbytes");
	io_prep_poll(&iocb, ends[0], POLLIN);
	iocb.u.c.offset = 1;
	expect_refused(ctx, &iocb, -EINVAL, "offset");
	io_prep_poll(&iocb, ends[0], POLLIN);
	iocb.aio_rw_flags = 1;
	expect_refused(ctx, &iocb, -EINVAL, "flags");
	io_prep_poll(&iocb, ends[0], POLLIN);
	iocb.u.c.__pad3 = 1;
	expect_refused(ctx, &iocb, -EINVAL, "reserved");
	io_prep_poll(&iocb, ends[1], POLLOUT);
	iocb.aio_reqprio = 9;
	expect_result(ctx, &iocb, POLLOUT, "reqprio");
	/* All of 16 bits may be asked for. */
	arm(ctx, &iocb, ends[0], 0xffff, "16 bits");
	ck_assert_int_eq(write(ends[1], "x", 1), 1);
	expect_event(ctx, &iocb, POLLIN | POLLRDNORM, "16 bits");
	free_context_without_events(ctx, HERE);
	close_pair(ends);
}

CASE(what_is_always_ready_is_always_ready)
{
	io_context_t ctx = new_context(8);
	struct {
		const char *name;
		int fd;
	} rows[] = {
		{ "a file", scratch_file(0) },
		{ "a directory", open_device(scratch_directory(), O_RDONLY | O_DIRECTORY) },
		{ "/dev/zero", open_device("/dev/zero", O_RDWR) },
		{ "/dev/null", open_device("/dev/null", O_RDWR) },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		expect_poll(ctx, rows[i].fd, POLLIN, POLLIN, rows[i].name);
		expect_poll(ctx, rows[i].fd, POLLIN | POLLOUT | POLLPRI, POLLIN | POLLOUT,
			    rows[i].name);
		/* It has no queue to wait in for the rest. */
		expect_poll_refused(ctx, rows[i].fd, POLLPRI, -EINVAL, rows[i].name);
		expect_poll_refused(ctx, rows[i].fd, 0, -EINVAL, rows[i].name);
		close(rows[i].fd);
	}
	free_context_without_events(ctx, HERE);
}

CASE(two_polls_of_one_file_both_fire)
{
	io_context_t ctx = new_context(8);
	struct iocb iocbs[2];
	struct io_event events[2];
	int ends[2];

	make_pipe(ends, 0);
	for (int i = 0; i < 2; i++)
		io_prep_poll(&iocbs[i], ends[0], POLLIN);
	expect_all_submitted(ctx, iocbs, 2, HERE);
	ck_assert_int_eq(write(ends[1], "x", 1), 1);
	events[0] = take_event(ctx, HERE);
	events[1] = take_event(ctx, HERE);
	ck_assert(events[0].obj != events[1].obj);
	ck_assert(events[0].res == (POLLIN | POLLRDNORM) && events[1].res == (POLLIN | POLLRDNORM));
	free_context_without_events(ctx, HERE);
	close_pair(ends);
}

CASE(counters_timers_and_watches_fire)
{
	io_context_t ctx = new_context(8);
	int counter = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC),
	    epoll = epoll_create1(EPOLL_CLOEXEC);
	int watch = inotify_init1(IN_CLOEXEC), ends[2];
	struct itimerspec soon = { .it_value = { .tv_nsec = 1000000 } };
	struct epoll_event interest = { .events = EPOLLIN };
	uint64_t one = 1;
	char path[PATH_MAX];
	struct iocb iocb;

	arm(ctx, &iocb, counter, POLLIN, "eventfd");
	expect_works(ctx, "eventfd");
	ck_assert_int_eq(write(counter, &one, sizeof(one)), sizeof(one));
	expect_event(ctx, &iocb, POLLIN, "eventfd");
	expect_poll(ctx, counter, POLLIN | POLLOUT, POLLIN | POLLOUT, "eventfd, ready");

	arm(ctx, &iocb, timer, POLLIN, "timerfd");
	ck_assert_int_eq(timerfd_settime(timer, 0, &soon, NULL), 0);
	expect_event(ctx, &iocb, POLLIN, "timerfd");

	make_pipe(ends, 0);
	ck_assert_int_eq(epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], &interest), 0);
	arm(ctx, &iocb, epoll, POLLIN, "epoll");
	expect_works(ctx, "epoll");
	ck_assert_int_eq(write(ends[1], "x", 1), 1);
	ck_assert_int_eq((take_event(ctx, "epoll").res & POLLIN) != 0, 1);

	ck_assert_int_ge(inotify_add_watch(watch, scratch_directory(), IN_CREATE), 0);
	arm(ctx, &iocb, watch, POLLIN, "inotify");
	expect_works(ctx, "inotify");
	snprintf(path, sizeof(path), "%s/created", scratch_directory());
	close(open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
	unlink(path);
	ck_assert_int_eq((take_event(ctx, "inotify").res & POLLIN) != 0, 1);

	free_context_without_events(ctx, HERE);
	close(counter);
	close(timer);
	close(epoll);
	close(watch);
	close_pair(ends);
}

CASE(a_signalfd_with_a_pending_signal_is_ready)
{
	io_context_t ctx = new_context(8);
	sigset_t signals, old;
	siginfo_t taken;
	int fd;

	sigemptyset(&signals);
	sigaddset(&signals, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, &signals, &old);
	fd = signalfd(-1, &signals, SFD_CLOEXEC);
	ck_assert_int_eq(pthread_kill(pthread_self(), SIGUSR2), 0);
	expect_poll(ctx, fd, POLLIN, POLLIN, HERE);
	ck_assert_int_eq(sigwaitinfo(&signals, &taken), SIGUSR2);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	free_context(ctx);
	close(fd);
}

CASE(a_listening_socket_fires_when_somebody_connects)
{
	io_context_t ctx = new_context(8);
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof(address);
	int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct iocb iocb;

	ck_assert_int_eq(bind(server, (struct sockaddr *)&address, length), 0);
	ck_assert_int_eq(listen(server, 5), 0);
	ck_assert_int_eq(getsockname(server, (struct sockaddr *)&address, &length), 0);
	arm(ctx, &iocb, server, POLLIN, HERE);
	expect_works(ctx, HERE);
	ck_assert_int_eq(connect(client, (struct sockaddr *)&address, length), 0);
	ck_assert_int_eq((take_event(ctx, HERE).res & POLLIN) != 0, 1);
	expect_poll(ctx, client, POLLIN | POLLOUT, POLLOUT, "connected");
	free_context_without_events(ctx, HERE);
	close(server);
	close(client);
}

static int open_terminal(int *master)
{
	char name[64];

	*master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (*master < 0 || grantpt(*master) != 0 || unlockpt(*master) != 0 ||
	    ptsname_r(*master, name, sizeof(name)) != 0)
		return -1;
	return open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
}

CASE(a_terminal_is_ready_when_it_has_a_line)
{
	io_context_t ctx = new_context(8);
	int master, terminal = open_terminal(&master);
	struct pollfd readable = { .fd = terminal, .events = POLLIN };

	if (terminal < 0) {
		free_context(ctx);
		SKIP("no pseudo terminals here");
	}
	/* It has two queues to wait in, and the kernel waits in one. */
	expect_poll_refused(ctx, terminal, POLLIN, -EINVAL, "nothing to read");
	expect_poll(ctx, terminal, POLLOUT, POLLOUT, "room to write");
	ck_assert_int_eq(write(master, "line\n", 5), 5);
	ck_assert_int_eq(poll(&readable, 1, EVENT_LIMIT_SECONDS * 1000), 1);
	expect_poll(ctx, terminal, POLLIN, POLLIN, "a line");
	free_context_without_events(ctx, HERE);
	close(terminal);
	close(master);
}

CASE(an_armed_poll_holds_the_file)
{
	io_context_t ctx = new_context(8);
	struct iocb iocb;
	int ends[2], number;

	make_pipe(ends, 0);
	number = ends[0];
	arm(ctx, &iocb, ends[0], POLLIN, HERE);
	close(ends[0]);
	/* The number means something else now. */
	ck_assert_int_eq(open_device("/dev/null", O_RDONLY), number);
	expect_works(ctx, HERE);
	ck_assert(!has_no_reader(ends[1]));
	ck_assert_int_eq(write(ends[1], "x", 1), 1);
	expect_event(ctx, &iocb, POLLIN | POLLRDNORM, HERE);
	WAIT_UNTIL(has_no_reader(ends[1]));
	free_context(ctx);
	close(number);
	close(ends[1]);
}

/* Splicing wakes a pipe's readers without saying what has happened. */
CASE(a_wakeup_without_bits_is_not_lost)
{
	io_context_t ctx = new_context(8);
	int ends[2], file = scratch_file(4096);
	struct iocb iocb;
	struct io_event event;
	loff_t offset = 0;

	make_pipe(ends, 0);
	arm(ctx, &iocb, ends[0], POLLIN, HERE);
	ck_assert_int_eq(splice(file, &offset, ends[1], NULL, 100, 0), 100);
	event = take_event(ctx, HERE);
	ck_assert(event.obj == &iocb && (event.res & POLLIN));
	free_context_without_events(ctx, HERE);
	close_pair(ends);
	close(file);
}

CASE(a_poll_of_its_own_eventfd_fires_once)
{
	io_context_t ctx = new_context(8);
	int counter = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	uint64_t three = 3;
	struct iocb iocb;

	io_prep_poll(&iocb, counter, POLLIN);
	io_set_eventfd(&iocb, counter);
	expect_submitted(ctx, &iocb, HERE);
	expect_works(ctx, HERE);
	ck_assert_int_eq(write(counter, &three, sizeof(three)), sizeof(three));
	expect_event(ctx, &iocb, POLLIN, HERE);
	expect_count(counter, 4, HERE);
	free_context_without_events(ctx, HERE);
	close(counter);
}

CASE(io_poll_prepares_and_submits)
{
	io_context_t ctx = new_context(8);
	struct iocb iocb;
	struct io_event event;
	int ends[2];
	io_callback_t callback = (io_callback_t)(uintptr_t)0x1234;

	make_pipe(ends, 0);
	ck_assert_int_eq(io_poll(ctx, &iocb, callback, ends[1], POLLOUT), 1);
	event = take_event(ctx, HERE);
	ck_assert(event.obj == &iocb && event.data == (void *)0x1234L && event.res == POLLOUT);
	ck_assert_int_eq(io_poll(ctx, &iocb, callback, -1, POLLOUT), -EBADF);
	free_context(ctx);
	close_pair(ends);
}

/*
 * Eventfds share one inode, and so do timers: with nothing but that to go by, the number of one
 * that was closed would be taken for the next one's, while the first is still in use.
 */
struct source {
	const char *name;
	int (*make)(void);
	void (*fire)(int fd);
};

static int make_counter(void)
{
	return open_eventfd(0, EFD_CLOEXEC);
}

static void fire_counter(int fd)
{
	const uint64_t one = 1;

	ck_assert_int_eq(write(fd, &one, sizeof(one)), sizeof(one));
}

static int make_timer(void)
{
	return timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
}

static void fire_timer(int fd)
{
	const struct itimerspec soon = { .it_value = { .tv_nsec = 1 } };

	ck_assert_int_eq(timerfd_settime(fd, 0, &soon, NULL), 0);
}

static const struct source sources[] = {
	{ "eventfd", make_counter, fire_counter },
	{ "timerfd", make_timer, fire_timer },
};

/* With a poll of the first armed, the number becomes the second one's. */
static int take_over_number(io_context_t ctx, struct iocb *iocb, const struct source *source,
			    int *kept)
{
	int first = source->make(), second;

	ck_assert_int_ge(first, 0);
	*kept = fcntl(first, F_DUPFD_CLOEXEC, 100);
	arm(ctx, iocb, first, POLLIN, source->name);
	/* It must have got as far as it gets. */
	expect_works(ctx, source->name);
	close(first);
	second = source->make();
	ck_assert_int_eq(second, first);
	return second;
}

CASE(a_reused_number_means_the_new_counter_or_timer)
{
	for (size_t i = 0; i < sizeof(sources) / sizeof(sources[0]); i++) {
		const struct source *source = &sources[i];
		io_context_t ctx = new_context(8);
		struct iocb first, second;
		int kept, number = take_over_number(ctx, &first, source, &kept);

		arm(ctx, &second, number, POLLIN, source->name);
		expect_works(ctx, source->name);
		source->fire(number);
		expect_event(ctx, &second, POLLIN, source->name);
		expect_works(ctx, source->name);
		arm(ctx, &second, number, POLLPRI, source->name);
		source->fire(kept);
		expect_event(ctx, &first, POLLIN, source->name);
		ck_assert_int_eq(io_cancel(ctx, &second, NULL), -EINPROGRESS);
		expect_event(ctx, &second, 0, source->name);
		free_context_without_events(ctx, source->name);
		close(number);
		close(kept);
	}
}

CASE(a_read_of_a_reused_number_is_of_the_new_counter_or_timer)
{
	if (!on_threads())
		SKIP("the read would hold io_submit itself");
	NEEDS_KERNELS_COUNTS();
	for (size_t i = 0; i < sizeof(sources) / sizeof(sources[0]); i++) {
		const struct source *source = &sources[i];
		io_context_t ctx = new_context(8);
		struct iocb first, second;
		uint64_t count = 0;
		int kept, number = take_over_number(ctx, &first, source, &kept);

		io_prep_pread(&second, number, &count, sizeof(count), 0);
		expect_submitted(ctx, &second, source->name);
		expect_works(ctx, source->name);
		source->fire(number);
		expect_event(ctx, &second, sizeof(count), source->name);
		ck_assert_uint_eq(count, 1);
		source->fire(kept);
		expect_event(ctx, &first, POLLIN, source->name);
		free_context_without_events(ctx, source->name);
		close(number);
		close(kept);
	}
}

/* What the one is told of must not be all that the file is watched for. */
CASE(a_poll_for_nothing_still_waits_when_another_has_fired)
{
	for (int nothing_first = 0; nothing_first < 2; nothing_first++) {
		io_context_t ctx = new_context(8);
		struct iocb nothing, data;
		int ends[2];

		make_pipe(ends, 0);
		if (nothing_first)
			arm(ctx, &nothing, ends[0], 0, HERE);
		arm(ctx, &data, ends[0], POLLIN, HERE);
		if (!nothing_first)
			arm(ctx, &nothing, ends[0], 0, HERE);
		expect_works(ctx, HERE);
		ck_assert_int_eq(write(ends[1], "x", 1), 1);
		expect_event(ctx, &data, POLLIN | POLLRDNORM, "data");
		expect_works(ctx, "data");
		ck_assert_int_eq(read(ends[0], &byte, 1), 1);
		close(ends[1]);
		expect_event(ctx, &nothing, POLLHUP, "hangup");
		free_context_without_events(ctx, HERE);
		close(ends[0]);
	}
}

/* More files than any table of a usual size, in a process that may open so many. */
enum { CROWD = 5000, CROWD_DESCRIPTORS = 12000, NOT_ALLOWED = 77 };

static void poll_a_crowd(void *unused)
{
	const struct rlimit limit = { CROWD_DESCRIPTORS, CROWD_DESCRIPTORS };
	struct iocb *iocbs = calloc(CROWD, sizeof(*iocbs)), **list = calloc(CROWD, sizeof(*list));
	struct io_event *events = calloc(CROWD, sizeof(*events));
	struct timespec timeout = { .tv_sec = EVENT_LIMIT_SECONDS };
	bool *fired = calloc(CROWD, sizeof(*fired));
	int *fds = calloc(CROWD, sizeof(*fds));
	io_context_t ctx = NULL;
	const uint64_t one = 1;
	int done = 0, result;

	(void)unused;
	CHILD_CHECK(iocbs && list && events && fired && fds);
	if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
		_exit(NOT_ALLOWED);
	CHILD_CHECK(io_setup(CROWD, &ctx) == 0);
	for (int i = 0; i < CROWD; i++) {
		fds[i] = open_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		CHILD_CHECK(fds[i] >= 0);
		io_prep_poll(&iocbs[i], fds[i], POLLIN);
		list[i] = &iocbs[i];
	}
	while (done < CROWD) {
		result = io_submit(ctx, CROWD - done, list + done);
		CHILD_CHECK(result > 0);
		done += result;
	}
	for (int i = 0; i < CROWD; i++)
		CHILD_CHECK(write(fds[i], &one, sizeof(one)) == sizeof(one));
	for (done = 0; done < CROWD; done += result) {
		result = io_getevents(ctx, 1, CROWD, events, &timeout);
		CHILD_CHECK(result > 0);
		for (int i = 0; i < result; i++) {
			long which = events[i].obj - iocbs;

			CHILD_CHECK(which >= 0 && which < CROWD && !fired[which]);
			CHILD_CHECK(events[i].res == POLLIN);
			fired[which] = true;
		}
	}
	CHILD_CHECK(io_destroy(ctx) == 0);
	for (int i = 0; i < CROWD; i++)
		close(fds[i]);
	free(iocbs);
	free(list);
	free(events);
	free(fired);
	free(fds);
}

CASE(thousands_of_files_are_polled_at_once)
{
	int status;

	if (UNDER_THREAD_SANITIZER)
		SKIP("ThreadSanitizer does not work in a forked child");
	status = run_in_child(poll_a_crowd, NULL);
	if (WIFEXITED(status) && WEXITSTATUS(status) == NOT_ALLOWED)
		SKIP("RLIMIT_NOFILE cannot be raised so far");
	ck_assert_msg(status == 0, "the child's wait status is 0x%x", (unsigned)status);
	free_context(new_context(1));
}
