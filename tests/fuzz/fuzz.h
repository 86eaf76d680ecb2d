/* SPDX-License-Identifier: MIT */
/*
 * What the differential test is made of.
 *
 * A string of bytes is decoded into a program of AIO calls (program.c). The program runs in a
 * world of files, pipes and memory (world.c), once with the kernel's own system calls, which are
 * the reference, and once with the library (run.c). Both runs see the same addresses, descriptors
 * and contents, so that what they observe can be compared as it is. What may differ is listed in
 * intended.c, and nowhere else.
 *
 * A program's outcome must not depend on time. Three rules see to that. The stretch between two
 * moments at which nothing is in flight is a period; within a period, no request writes what
 * another one reads or writes (program.c changes requests that would). Requests that must end are
 * waited for before anything that could change their outcome, and what a wait returns before that
 * is compared with bounds (run.c). And nothing that waits for ever is ever asked of the
 * reference.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <errno.h>
#include <fcntl.h>
#include <libaio.h>
#include <limits.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define FLAG_RESFD 1u
#define FLAG_IOPRIO 2u

/* ---- program.c: bytes to programs ------------------------------------------------------------ */

enum {
	RECORD_BYTES = 16,
	RECORDS_MAX = 24,
	PROGRAM_BYTES = 1 + RECORDS_MAX * RECORD_BYTES,
	BATCH_MAX = 8,
	OPERATIONS_MAX = 2 * RECORDS_MAX + 2,
};

enum operation_kind {
	OP_SUBMIT,
	OP_WAIT,
	OP_CANCEL,
	OP_SETTLE, /* wait until all that must end has ended, and take the events */
	OP_WRITE_CHANNEL, /* write(2), which may make a POLL ready */
	OP_READ_CHANNEL,
	OP_COUNTER, /* read an eventfd */
	OP_SETUP, /* io_setup that must fail */
	OP_DESTROY, /* io_destroy that must fail */
	OP_LIFE, /* a context from io_setup to io_destroy and beyond */
	OP_DROP_CACHE,
};

/* Which context a call is given.  The others are no contexts. */
enum handle { HANDLE_A, HANDLE_B, HANDLE_NULL, HANDLE_MEMORY, HANDLE_UNMAPPED, HANDLE_INSIDE };

enum wait_timeout {
	TIMEOUT_ZERO,
	TIMEOUT_NONE,
	TIMEOUT_NEGATIVE, /* waits for ever */
	TIMEOUT_CARRY, /* nanoseconds of more than a second */
	TIMEOUT_SHORT,
	TIMEOUT_UNMAPPED,
	TIMEOUT_KERNEL,
	TIMEOUTS
};

enum events_array {
	EVENTS_GOOD,
	EVENTS_NULL,
	EVENTS_UNMAPPED,
	EVENTS_READ_ONLY,
	EVENTS_AT_EDGE, /* as many as are waited for, and not one more */
	EVENTS_ARRAYS
};

/* An iocb, where it lies, and what is stored there before the call. */
struct element {
	struct iocb iocb;
	struct iocb *address;
	size_t stored_bytes; /* 0: nothing can be stored there */
	uint8_t record;
	uint8_t target; /* enum target */
	bool noop;
	bool repeated; /* the address of an earlier element of its batch */
	bool checks_key;
};

struct operation {
	enum operation_kind kind;
	uint8_t record;
	enum handle handle;
	union {
		struct {
			unsigned count;
			long nr;
			struct iocb **array;
			bool array_is_bad;
			bool array_at_edge;
			struct element elements[BATCH_MAX];
		} submit;
		struct {
			long min_nr, nr;
			enum wait_timeout timeout;
			enum events_array events;
			bool pgetevents;
			uint8_t mask; /* 0: null, 1: a mask, 2: a bad pointer */
		} wait;
		struct {
			struct iocb *address;
			struct io_event *result;
		} cancel;
		struct {
			unsigned channel;
			size_t bytes;
		} transfer;
		struct {
			unsigned counter;
		} counter;
		struct {
			int nr;
			uint8_t pointer; /* 0: good, 1: null, 2: read-only, 3: kernel, 4: in use */
		} setup;
	};
};

struct program {
	unsigned count;
	bool disk;
	uint32_t files_touched; /* by inode number of enum inode */
	uint32_t channels_touched;
	size_t buffer_bytes; /* of the buffer area, from its start */
	unsigned edges_used, vectors_used;
	struct operation operations[OPERATIONS_MAX];
};

void program_from_seed(uint64_t seed, uint8_t bytes[PROGRAM_BYTES], size_t *size);
void program_decode(struct program *program, const uint8_t *bytes, size_t size);
void program_print(const struct program *program, FILE *stream);

/* ---- world.c: files, streams, memory --------------------------------------------------------- */

enum target {
	TMPFS,
	TMPFS_READ_ONLY,
	TMPFS_WRITE_ONLY,
	TMPFS_APPEND,
	TMPFS_DIRECT,
	TMPFS_PATH,
	TMPFS_NO_ACCESS,
	DISK,
	DISK_READ_ONLY,
	DISK_WRITE_ONLY,
	DISK_APPEND,
	DISK_DIRECT,
	DISK_PATH,
	DISK_NO_ACCESS,
	MEMFD,
	DIRECTORY,
	PIPE_READ,
	PIPE_WRITE,
	BLOCKING_PIPE_READ,
	BLOCKING_PIPE_WRITE,
	HUNG_UP_PIPE,
	BROKEN_PIPE,
	SOCKET_A,
	SOCKET_B,
	BLOCKING_SOCKET_A,
	BLOCKING_SOCKET_B,
	COUNTER_A,
	COUNTER_B,
	EVENTFD,
	SEMAPHORE,
	DEV_NULL,
	DEV_ZERO,
	DEV_FULL,
	PROC_FILE,
	EPOLL,
	INOTIFY,
	TIMER,
	LISTENER,
	CLOSED,
	MINUS_ONE,
	HUGE_NUMBER,
	TARGETS
};

enum inode { INODE_TMPFS, INODE_DISK, INODE_MEMFD, INODES, NO_INODE = INODES };

/* One direction of a stream.  The blocking ones always have data to read and space to write. */
enum channel {
	CHANNEL_PIPE,
	CHANNEL_SOCKET_TO_A,
	CHANNEL_SOCKET_TO_B,
	CHANNEL_EVENTFD,
	CHANNEL_BLOCKING_PIPE,
	CHANNEL_BLOCKING_TO_A,
	CHANNEL_BLOCKING_TO_B,
	CHANNELS,
	NO_CHANNEL = CHANNELS,
	CHANNELS_NONBLOCKING = CHANNEL_BLOCKING_PIPE,
};

struct descriptor {
	const char *name;
	int fd;
	enum inode inode;
	enum channel read_channel, write_channel;
	bool direct, append;
};

enum {
	PAGE = 4096,
	FILE_BYTES = 9 * PAGE + 3136,
	PREFILL_BYTES = 8192,
	IOCBS_MAX = 64,
	BUFFERS_BYTES = 768 * 1024,
	EDGES = 32,
	EDGE_BYTES = 2 * PAGE,
	VECTOR_MAX = 4,
	CONTENT_MAX = 128 * 1024,
};

struct world {
	struct descriptor descriptors[TARGETS];
	int channel_reader[CHANNELS], channel_writer[CHANNELS];
	struct iocb *iocbs; /* a page, written through iocbs */
	struct iocb *iocbs_read_only; /* the same page */
	char *iocbs_misaligned;
	char *iocb_at_edge; /* its second half cannot be read */
	char *no_access;
	char *read_only;
	char *pointers_end; /* what follows cannot be read */
	char *events_end; /* likewise */
	struct iocb **pointers;
	struct iovec *vectors;
	struct iovec *vectors_empty; /* 1026 elements of no bytes */
	char *vectors_end;
	char *buffers;
	char *edges[EDGES]; /* EDGE_BYTES that are followed by what cannot be accessed */
	uint8_t *pattern;
};

extern struct world world;

/* On 32-bit machines the last page, which belongs to nobody. */
#if __SIZEOF_POINTER__ == 8
#define KERNEL_ADDRESS ((void *)0xffff800000001000ul)
#else
#define KERNEL_ADDRESS ((void *)0xfffff000ul)
#endif
#define UNMAPPED_ADDRESS ((void *)0x1000ul)

void world_open(void);
void world_forget(void); /* removes the scratch directories; descriptors stay */
void world_reset(const struct program *program);
size_t world_content(enum inode inode, uint8_t *content);
size_t world_drain(enum channel channel, uint8_t *content, size_t size);
const char *world_name_of(const void *address, char *text, size_t size);

/* ---- run.c: one program on one implementation ------------------------------------------------ */

struct calls {
	const char *name;
	int (*setup)(int, io_context_t *);
	int (*destroy)(io_context_t);
	int (*submit)(io_context_t, long, struct iocb **);
	int (*cancel)(io_context_t, struct iocb *, struct io_event *);
	int (*getevents)(io_context_t, long, long, struct io_event *, struct timespec *);
	int (*pgetevents)(io_context_t, long, long, struct io_event *, struct timespec *,
			  sigset_t *);
};

/* A request as it was accepted. */
struct request {
	struct iocb iocb;
	struct iocb *address;
	uint8_t record;
	uint8_t target;
	uint8_t context;
	bool is_poll;
	bool of_this_period;
	bool cancelled; /* the library said so */
	bool ended;
	long result; /* once it has ended */
};

enum observation_kind {
	SAW_RESULT, /* of a call */
	SAW_BOUNDS, /* the result of a call that depends on time: within `low` and `high` */
	SAW_CANCEL,
	SAW_COUNT, /* events at a settlement */
	SAW_EVENT,
	SAW_KEY,
	SAW_COUNTER,
	SAW_BYTES, /* of a stream: count and sum */
	SAW_BUFFERS,
	SAW_FILE,
};

struct observation {
	enum observation_kind kind;
	uint8_t operation;
	uint8_t record; /* of the request meant, or 0xff */
	const char *what;
	long value, low, high;
	long total; /* of the period, as far as the wait may count on it */
	struct io_event event;
	struct request request; /* of an event or a cancellation */
};

enum { OBSERVATIONS_MAX = 1024, REQUESTS_MAX = 256 };

struct trace {
	unsigned count;
	struct observation seen[OBSERVATIONS_MAX];
	uint8_t *buffers; /* copy of the buffer area and of the edges */
	uint8_t *content[INODES];
	size_t content_bytes[INODES];
};

struct side {
	const struct calls *calls;
	io_context_t contexts[2];
	struct trace trace;
};

struct difference {
	bool found;
	char text[400];
};

extern int event_limit_s; /* for one event that must come */
extern const struct calls calls_reference, calls_library;

void side_open(struct side *side, const struct calls *calls);
void run_reference(const struct program *program, struct side *side);
void run_library(const struct program *program, struct side *side, const struct side *reference,
		 struct difference *difference);
void trace_print(const struct trace *trace, FILE *stream);
void observation_print(const struct observation *seen, FILE *stream);

/* ---- intended.c: what may differ ------------------------------------------------------------- */

void intended_set_engine(const char *name);
int intended_submit(const struct calls *calls, io_context_t context,
		    const struct operation *operation);
bool intended_late_submit(int reference, int library);
bool intended_late_error(long res);
/* RWF_DONTCACHE, which older headers lack. */
#define DONT_CACHE 0x80
unsigned intended_rw_flags(int fd, unsigned flags);
int intended_poll_events(enum target target, int events);
bool intended_cancel_is_clear(unsigned candidates);
bool intended_cancellable(const struct request *request);
bool intended_to_be_torn(const struct request *request);
const char *intended_difference(const struct observation *reference,
				const struct observation *library);

/* ---- shrink.c: smaller programs with the same fault ------------------------------------------ */

typedef bool (*shrink_test)(const uint8_t *bytes, size_t size);

void shrink(uint8_t bytes[PROGRAM_BYTES], size_t *size, shrink_test fails, unsigned seconds);

/* ---- planted.c: libraries with a known defect ------------------------------------------------ */

struct planted {
	const char *name;
	const char *sign; /* what the report of the difference must contain */
	struct calls calls;
};

extern const struct planted planted[];
extern const unsigned planted_count;

#endif
