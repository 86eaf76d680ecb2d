/* SPDX-License-Identifier: MIT */
/*
 * What `trueaio doctor` finds, before it is printed for people (doctor.c) or programs
 * (doctor_json.c).
 *
 * Of the library only what asks the system is used (src/probe.h, and src/file.c for what a file
 * is): so that the answers are those that the library would get.
 */
#ifndef TRUEAIO_DOCTOR_H
#define TRUEAIO_DOCTOR_H

#include "probe.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum engine { ENGINE_AUTO, ENGINE_NATIVE, ENGINE_THREADS, ENGINES };

/* What would come of io_setup on an engine. */
struct engine_outlook {
	enum engine served_by; /* of auto, if it works; else the engine itself */
	int error; /* what io_setup fails with, negative; 0: it works */
	const struct ta_probe *cause; /* NULL: it works */
};

struct system_facts {
	char release[128];
	struct ta_evidence evidence;
	struct ta_features features;
	struct ta_probe aio, threads, table;
	struct engine_outlook engines[ENGINES];
	bool has_workers; /* for what native cannot do without waiting */
	/* The environment; NULL: not set. */
	const char *engine_variable, *threads_variable, *log_variable;
	bool engine_is_known;
	unsigned threads_max; /* what the variable comes to */
	enum engine engine; /* what programs of this environment get, if its outlook is good */
};

/* Where a request is carried out, and who goes on if that would wait. */
enum route {
	ROUTE_NOT_KNOWN,
	ROUTE_REFUSED, /* by the kernel, with an error */
	ROUTE_KERNEL,
	ROUTE_AT_ONCE, /* inside io_submit, and cannot wait more than there */
	ROUTE_TRIAL, /* the same for what is in the page cache, the rest by the workers */
	ROUTE_WORKERS,
	ROUTE_WORKERS_IN_TURN, /* one request at a time */
	ROUTE_KERNEL_OR_HELD, /* an fsync: kernel AIO, or if it was held the workers */
	ROUTE_WAITING, /* in io_submit, which waits */
};

struct file_facts {
	const char *path;
	int error; /* errno that kept it from being looked at; 0: none */
	mode_t mode;
	char file_system[64]; /* "" : not known */
	char source[256]; /* what is mounted there */
	unsigned device_major, device_minor; /* the file system's, or of a device its own */
	int says_would_block; /* 1, 0, -1: does not apply or could not be asked */
	int takes_dontcache; /* likewise */
	int takes_direct; /* O_DIRECT can be opened: 1, 0, -1 */
	uint32_t direct_memory_bytes, direct_offset_bytes; /* alignment; 0: not known */
	uint32_t atomic_min_bytes, atomic_max_bytes; /* of RWF_ATOMIC writes; 0: none known */
	bool is_in_memory;
	bool is_opened; /* else only its type is known */
	enum route buffered_reads, direct_reads, writes, syncs;
};

/* doctor.c */
const char *engine_name(enum engine engine);
bool engine_outlook_is_good(const struct system_facts *system);
size_t doctor_advice(const struct system_facts *system, const char **lines, size_t size,
		     char texts[][TA_PROBE_TEXT_BYTES]);

/* doctor_file.c */
int doctor_look_at_file(const char *path, const struct system_facts *system,
			struct file_facts *facts);
const char *file_type_name(mode_t mode);

/* doctor_json.c: prints one object; false: there was no memory for it. */
bool doctor_print_json(const struct system_facts *system, const struct file_facts *files,
		       size_t file_count);

#endif
