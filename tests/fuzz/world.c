/* SPDX-License-Identifier: MIT */
/*
 * The files, streams and memory that programs of the differential test work on.
 *
 * All of it is made once for a process, at the same addresses and descriptor numbers for both
 * runs of a program, and put back to its first state before each run. Only what the program can
 * have touched is put back, because that is most of a program's cost.
 *
 * Blocking streams hold PREFILL_BYTES at the start of a run, and programs read less than that and
 * write less than the space left.  So the reference, which blocks inside io_submit, never does.
 */
#include "fuzz.h"
#include <err.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>

struct world world;

static char scratch[2][PATH_MAX];

static int must(int result, const char *what)
{
	if (result < 0)
		err(2, "%s", what);
	return result;
}

/* Numbers that nothing else in the process gets: what the library opens must not shift them. */
static int at_number(enum target target, int fd)
{
	int number = 100 + (int)target;

	must(dup2(fd, number), "dup2");
	close(fd);
	return number;
}

static void add(enum target target, const char *name, int fd)
{
	world.descriptors[target] = (struct descriptor){
		.name = name,
		.fd = at_number(target, must(fd, name)),
		.inode = NO_INODE,
		.read_channel = NO_CHANNEL,
		.write_channel = NO_CHANNEL,
	};
}

static void add_file(enum target first, enum inode inode, const char *const names[7],
		     const char *directory)
{
	static const int flags[] = {
		O_RDWR, O_RDONLY, O_WRONLY, O_RDWR | O_APPEND, O_RDWR | O_DIRECT, O_PATH, O_ACCMODE
	};
	char path[PATH_MAX + 8];

	snprintf(path, sizeof(path), "%s/file", directory);
	close(must(open(path, O_CREAT | O_RDWR, 0600), path));
	for (unsigned i = 0; i < 7; i++) {
		int fd = open(path, flags[i]);
		bool direct = (flags[i] & O_DIRECT) && fd >= 0;

		/* tmpfs has it since Linux 6.6. */
		if (fd < 0 && errno == EINVAL)
			fd = open(path, flags[i] & ~O_DIRECT);
		add(first + i, names[i], fd);
		world.descriptors[first + i].inode = inode;
		world.descriptors[first + i].append = flags[i] & O_APPEND;
		world.descriptors[first + i].direct = direct;
	}
}

static void make_directory(unsigned which, const char *parent)
{
	snprintf(scratch[which], sizeof(scratch[which]), "%s/trueaio-fuzz.XXXXXX", parent);
	if (!mkdtemp(scratch[which]))
		err(2, "%s", scratch[which]);
}

static void open_files(void)
{
	static const char *const tmpfs_names[] = { "tmpfs",	   "tmpfs_rdonly", "tmpfs_wronly",
						   "tmpfs_append", "tmpfs_direct", "tmpfs_path",
						   "tmpfs_mode3" };
	static const char *const disk_names[] = { "disk",	 "disk_rdonly", "disk_wronly",
						  "disk_append", "disk_direct", "disk_path",
						  "disk_mode3" };
	const char *tmpdir = getenv("TMPDIR");

	make_directory(0, "/dev/shm");
	make_directory(1, tmpdir && *tmpdir ? tmpdir : "/var/tmp");
	add_file(TMPFS, INODE_TMPFS, tmpfs_names, scratch[0]);
	add_file(DISK, INODE_DISK, disk_names, scratch[1]);
	add(MEMFD, "memfd", memfd_create("fuzz", 0));
	world.descriptors[MEMFD].inode = INODE_MEMFD;
	add(DIRECTORY, "directory", open(scratch[1], O_RDONLY | O_DIRECTORY));
	add(DEV_NULL, "/dev/null", open("/dev/null", O_RDWR));
	add(DEV_ZERO, "/dev/zero", open("/dev/zero", O_RDWR));
	add(DEV_FULL, "/dev/full", open("/dev/full", O_RDWR));
	add(PROC_FILE, "ostype", open("/proc/sys/kernel/ostype", O_RDONLY));
}

static void name_channel(enum target reader, enum target writer, enum channel channel)
{
	world.descriptors[reader].read_channel = channel;
	world.descriptors[writer].write_channel = channel;
	world.channel_reader[channel] = world.descriptors[reader].fd;
	world.channel_writer[channel] = world.descriptors[writer].fd;
}

static void open_streams(void)
{
	int ends[2];

	must(pipe2(ends, O_NONBLOCK), "pipe2");
	add(PIPE_READ, "pipe_read", ends[0]);
	add(PIPE_WRITE, "pipe_write", ends[1]);
	name_channel(PIPE_READ, PIPE_WRITE, CHANNEL_PIPE);
	must(pipe2(ends, 0), "pipe2");
	add(BLOCKING_PIPE_READ, "blocking_pipe_read", ends[0]);
	add(BLOCKING_PIPE_WRITE, "blocking_pipe_write", ends[1]);
	name_channel(BLOCKING_PIPE_READ, BLOCKING_PIPE_WRITE, CHANNEL_BLOCKING_PIPE);
	must(pipe2(ends, 0), "pipe2");
	add(HUNG_UP_PIPE, "hung_up_pipe", ends[0]);
	close(ends[1]);
	must(pipe2(ends, 0), "pipe2");
	add(BROKEN_PIPE, "broken_pipe", ends[1]);
	close(ends[0]);
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends), "socketpair");
	add(SOCKET_A, "socket_a", ends[0]);
	add(SOCKET_B, "socket_b", ends[1]);
	name_channel(SOCKET_A, SOCKET_B, CHANNEL_SOCKET_TO_A);
	name_channel(SOCKET_B, SOCKET_A, CHANNEL_SOCKET_TO_B);
	must(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), "socketpair");
	add(BLOCKING_SOCKET_A, "blocking_socket_a", ends[0]);
	add(BLOCKING_SOCKET_B, "blocking_socket_b", ends[1]);
	name_channel(BLOCKING_SOCKET_A, BLOCKING_SOCKET_B, CHANNEL_BLOCKING_TO_A);
	name_channel(BLOCKING_SOCKET_B, BLOCKING_SOCKET_A, CHANNEL_BLOCKING_TO_B);
}

static void open_others(void)
{
	struct sockaddr_un nameless = { .sun_family = AF_UNIX };

	add(COUNTER_A, "counter_a", eventfd(0, EFD_NONBLOCK));
	add(COUNTER_B, "counter_b", eventfd(0, EFD_NONBLOCK));
	add(EVENTFD, "eventfd", eventfd(0, EFD_NONBLOCK));
	name_channel(EVENTFD, EVENTFD, CHANNEL_EVENTFD);
	add(SEMAPHORE, "semaphore", eventfd(1 << 30, EFD_SEMAPHORE));
	add(EPOLL, "epoll", epoll_create1(0));
	add(INOTIFY, "inotify", inotify_init1(IN_NONBLOCK));
	add(TIMER, "timer", timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
	add(LISTENER, "listener", socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0));
	must(bind(world.descriptors[LISTENER].fd, (struct sockaddr *)&nameless,
		  sizeof(sa_family_t)),
	     "bind");
	must(listen(world.descriptors[LISTENER].fd, 1), "listen");
	world.descriptors[CLOSED] = world.descriptors[HUGE_NUMBER] = world.descriptors[MINUS_ONE] =
		(struct descriptor){
			.inode = NO_INODE,
			.read_channel = NO_CHANNEL,
			.write_channel = NO_CHANNEL,
		};
	world.descriptors[CLOSED].name = "closed";
	world.descriptors[CLOSED].fd = 100 + CLOSED;
	world.descriptors[MINUS_ONE].name = "-1";
	world.descriptors[MINUS_ONE].fd = -1;
	world.descriptors[HUGE_NUMBER].name = "INT_MAX";
	world.descriptors[HUGE_NUMBER].fd = INT_MAX;
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* Memory that is followed by a page that cannot be accessed. */
static char *map(size_t bytes)
{
	char *memory = mmap(NULL, bytes + PAGE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (memory == MAP_FAILED)
		err(2, "mmap");
	must(mprotect(memory + bytes, PAGE, PROT_NONE), "mprotect");
	return memory;
}

static void *map_shared(int fd, int protection)
{
	void *memory = mmap(NULL, PAGE, protection, MAP_SHARED, fd, 0);

	if (memory == MAP_FAILED)
		err(2, "mmap");
	return memory;
}

static void open_memory(void)
{
	int fd = must(memfd_create("iocbs", 0), "memfd_create");
	char *edges = map(EDGES * (EDGE_BYTES + PAGE));

	must(ftruncate(fd, PAGE), "ftruncate");
	world.iocbs = map_shared(fd, PROT_READ | PROT_WRITE);
	world.iocbs_read_only = map_shared(fd, PROT_READ);
	close(fd);
	world.iocbs_misaligned = map(2 * PAGE) + 3;
	world.iocb_at_edge = map(PAGE) + PAGE - 32;
	world.no_access = map(PAGE) + PAGE;
	world.read_only = map(4 * PAGE);
	must(mprotect(world.read_only, 4 * PAGE, PROT_READ), "mprotect");
	world.pointers = (struct iocb **)map(PAGE);
	world.pointers_end = map(PAGE) + PAGE;
	world.events_end = map(PAGE) + PAGE;
	world.vectors = (struct iovec *)map(PAGE);
	world.vectors_end = map(PAGE) + PAGE;
	world.vectors_empty = (struct iovec *)map(5 * PAGE);
	world.buffers = map(BUFFERS_BYTES);
	for (unsigned i = 0; i < EDGES; i++) {
		world.edges[i] = edges + i * (EDGE_BYTES + PAGE);
		must(mprotect(world.edges[i] + EDGE_BYTES, PAGE, PROT_NONE), "mprotect");
	}
	world.pattern = malloc(BUFFERS_BYTES);
	if (!world.pattern)
		err(2, "malloc");
	/* No two blocks alike, and no byte like its neighbours. */
	for (size_t i = 0; i < BUFFERS_BYTES; i++)
		world.pattern[i] = (uint8_t)((i * 167 + (i >> 8) * 59 + (i >> 16) * 13) | 1);
}

void world_open(void)
{
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
	open_files();
	open_streams();
	open_others();
	open_memory();
	for (enum channel channel = CHANNELS_NONBLOCKING; channel < CHANNELS; channel++)
		if (write(world.channel_writer[channel], world.pattern, PREFILL_BYTES) !=
		    PREFILL_BYTES)
			err(2, "filling a stream");
}

void world_forget(void)
{
	char path[PATH_MAX + 8];

	for (unsigned i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "%s/file", scratch[i]);
		unlink(path);
		rmdir(scratch[i]);
	}
}

/* ---- the first state, and what a run made of it ---------------------------------------------- */

static int file_of(enum inode inode)
{
	static const enum target targets[] = { TMPFS, DISK, MEMFD };

	return world.descriptors[targets[inode]].fd;
}

static void reset_file(enum inode inode)
{
	int fd = file_of(inode);

	/* Not from nothing: that would take the blocks away, and give them back one by one. */
	must(ftruncate(fd, FILE_BYTES), "ftruncate");
	if (pwrite(fd, world.pattern + 1000 * inode, FILE_BYTES, 0) != FILE_BYTES)
		err(2, "writing a file's first content");
}

void world_reset(const struct program *program)
{
	memcpy(world.buffers, world.pattern, program->buffer_bytes);
	for (unsigned i = 0; i < program->edges_used; i++)
		memcpy(world.edges[i], world.pattern + i * 64, EDGE_BYTES);
	for (enum inode inode = 0; inode < INODES; inode++)
		if (program->files_touched & 1u << inode)
			reset_file(inode);
}

/*
 * What is in a stream is read; a blocking one is filled again, by as much as is in it at the start.
 */
size_t world_drain(enum channel channel, uint8_t *content, size_t size)
{
	struct pollfd readable = { .fd = world.channel_reader[channel], .events = POLLIN };
	size_t total = 0;
	ssize_t got;

	while (total < size && poll(&readable, 1, 0) == 1) {
		got = read(readable.fd, content + total, size - total);
		if (got <= 0)
			break;
		total += (size_t)got;
	}
	if (channel >= CHANNELS_NONBLOCKING &&
	    write(world.channel_writer[channel], world.pattern, PREFILL_BYTES) != PREFILL_BYTES)
		err(2, "filling a stream");
	return total;
}

/* Returns the size.  Of a file that is larger than CONTENT_MAX, and sparse, the start is there. */
size_t world_content(enum inode inode, uint8_t *content)
{
	struct stat status;
	ssize_t got = pread(file_of(inode), content, CONTENT_MAX, 0);

	if (got < 0 || fstat(file_of(inode), &status) < 0)
		err(2, "reading a file's content");
	memset(content + got, 0, (size_t)(CONTENT_MAX - got));
	return (size_t)status.st_size;
}

static bool name_if_within(const char *at, const void *base, size_t bytes, const char *name,
			   char *text, size_t size)
{
	const char *start = base;

	if (at < start || at > start + bytes)
		return false;
	snprintf(text, size, "%s+%#zx", name, (size_t)(at - start));
	return true;
}

/* An address as a reader of a program would write it. */
const char *world_name_of(const void *address, char *text, size_t size)
{
	const char *at = address;

	if (name_if_within(at, world.buffers, BUFFERS_BYTES, "buffers", text, size) ||
	    name_if_within(at, world.iocbs_misaligned, PAGE, "misaligned", text, size) ||
	    name_if_within(at, world.iocb_at_edge, 64, "iocb_at_edge", text, size) ||
	    name_if_within(at, world.no_access, PAGE - 1, "no_access", text, size) ||
	    name_if_within(at, world.read_only, PAGE, "read_only", text, size) ||
	    name_if_within(at, world.vectors, PAGE, "vectors", text, size))
		return text;
	for (unsigned i = 0; i < 2; i++) {
		const struct iocb *page = i ? world.iocbs_read_only : world.iocbs;

		if (at >= (const char *)page && at < (const char *)page + PAGE) {
			snprintf(text, size, "%s%td]", i ? "read_only_iocb[" : "&iocb[",
				 (at - (const char *)page) / (ptrdiff_t)sizeof(*page));
			return text;
		}
	}
	for (unsigned i = 0; i < EDGES; i++) {
		char name[16];

		snprintf(name, sizeof(name), "edge[%u]", i);
		if (name_if_within(at, world.edges[i], EDGE_BYTES, name, text, size))
			return text;
	}
	snprintf(text, size, "%p", address);
	return text;
}
