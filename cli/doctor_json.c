/* SPDX-License-Identifier: MIT */
/*
 * trueaio doctor --json: the facts as one JSON object.
 *
 * Its members are documented in trueaio(1).  They may become more; none changes its meaning.  What
 * is not known is null.
 */
#include "doctor.h"

#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REPLACEMENT "\xef\xbf\xbd"

/* Bytes of the UTF-8 character that begins here; 0: none does. */
static size_t character_bytes(const unsigned char *text)
{
	size_t bytes = text[0] < 0x80		  ? 1
		       : (text[0] & 0xe0) == 0xc0 ? 2
		       : (text[0] & 0xf0) == 0xe0 ? 3
		       : (text[0] & 0xf8) == 0xf0 ? 4
						  : 0;

	for (size_t i = 1; i < bytes; i++)
		if ((text[i] & 0xc0) != 0x80)
			return 0;
	return bytes;
}

/* File names are bytes, and JSON is UTF-8. */
static struct json_object *text_object(const char *text)
{
	char *clean = malloc(strlen(text) * strlen(REPLACEMENT) + 1), *to = clean;
	struct json_object *object;

	if (!clean)
		return NULL;
	while (*text) {
		size_t bytes = character_bytes((const unsigned char *)text);

		to = bytes ? mempcpy(to, text, bytes) : stpcpy(to, REPLACEMENT);
		text += bytes ? bytes : 1;
	}
	*to = '\0';
	object = json_object_new_string(clean);
	free(clean);
	return object;
}

static void add(struct json_object *object, const char *key, struct json_object *value)
{
	json_object_object_add(object, key, value);
}

static void add_text(struct json_object *object, const char *key, const char *text)
{
	add(object, key, text ? text_object(text) : NULL);
}

static void add_number(struct json_object *object, const char *key, int64_t number)
{
	add(object, key, json_object_new_int64(number));
}

/* Negative: not known. */
static void add_count(struct json_object *object, const char *key, int64_t number)
{
	add(object, key, number < 0 ? NULL : json_object_new_int64(number));
}

/* 0: not known. */
static void add_bytes(struct json_object *object, const char *key, uint32_t bytes)
{
	add(object, key, bytes == 0 ? NULL : json_object_new_int64(bytes));
}

static void add_truth(struct json_object *object, const char *key, int answer)
{
	add(object, key, answer < 0 ? NULL : json_object_new_boolean(answer));
}

static void add_errno(struct json_object *object, int error)
{
	const char *name = ta_probe_error_name(error);

	if (error && !name)
		add_number(object, "errno", -error);
	else
		add_text(object, "errno", name);
}

static struct json_object *probe_object(const struct ta_probe *probe)
{
	struct json_object *object = json_object_new_object();
	char text[TA_PROBE_TEXT_BYTES];

	add_truth(object, "works", probe->reason == TA_PROBE_WORKS);
	add_text(object, "reason", ta_probe_word(probe->reason));
	add_errno(object, probe->error);
	add_count(object, "used", probe->used);
	add_count(object, "limit", probe->limit);
	ta_probe_sentence(probe, text, sizeof(text));
	add_text(object, "sentence", text);
	ta_probe_advice(probe, text, sizeof(text));
	add_text(object, "advice", *text ? text : NULL);
	return object;
}

/* The member of the whole object that tells more. */
static const char *subject_key(enum ta_probe_subject subject)
{
	static const char *const keys[] = {
		[TA_PROBE_KERNEL_AIO] = "kernel_aio",
		[TA_PROBE_THREADS] = "threads",
		[TA_PROBE_TABLE] = "descriptor_tables",
	};

	return keys[subject];
}

static struct json_object *engines_object(const struct system_facts *system)
{
	struct json_object *engines = json_object_new_object();

	for (enum engine engine = ENGINE_AUTO; engine < ENGINES; engine++) {
		const struct engine_outlook *outlook = &system->engines[engine];
		struct json_object *object = json_object_new_object();
		bool is_native = !outlook->cause && outlook->served_by == ENGINE_NATIVE;

		add_truth(object, "works", !outlook->cause);
		add_errno(object, outlook->error);
		add_text(object, "lacks",
			 outlook->cause ? subject_key(outlook->cause->subject) : NULL);
		add_text(object, "engine", outlook->cause ? NULL : engine_name(outlook->served_by));
		add_text(object, "offloader", is_native && system->has_workers ? "threads" : NULL);
		add(engines, engine_name(engine), object);
	}
	return engines;
}

static struct json_object *environment_object(const struct system_facts *system)
{
	struct json_object *object = json_object_new_object();

	add_text(object, "TRUEAIO_ENGINE", system->engine_variable);
	add_text(object, "TRUEAIO_THREADS", system->threads_variable);
	add_text(object, "TRUEAIO_LOG", system->log_variable);
	add_text(object, "engine",
		 engine_outlook_is_good(system) ? engine_name(system->engine) : NULL);
	add_number(object, "threads_max", system->threads_max);
	return object;
}

static struct json_object *features_object(const struct ta_features *features)
{
	struct json_object *object = json_object_new_object();

	add_truth(object, "rwf_nowait", features->rwf_nowait);
	add_truth(object, "rwf_dontcache", features->rwf_dontcache);
	add_truth(object, "io_pgetevents", features->io_pgetevents);
	add_truth(object, "io_cmd_poll", features->io_cmd_poll);
	add_truth(object, "close_range_unshare", features->close_range_unshare);
	add_truth(object, "unshare_files", features->unshare_files);
	return object;
}

/* Who has the request in its hands, one after the other; null: not known, []: refused. */
static struct json_object *route_object(const struct system_facts *system, enum route route)
{
	struct json_object *steps;

	if (route == ROUTE_NOT_KNOWN || !engine_outlook_is_good(system))
		return NULL;
	steps = json_object_new_array();
	if (route == ROUTE_KERNEL || route == ROUTE_KERNEL_OR_HELD)
		json_object_array_add(steps, text_object("kernel_aio"));
	if (route == ROUTE_AT_ONCE || route == ROUTE_TRIAL)
		json_object_array_add(steps, text_object("at_once"));
	if (route == ROUTE_WAITING)
		json_object_array_add(steps, text_object("io_submit"));
	if (route == ROUTE_TRIAL || route == ROUTE_KERNEL_OR_HELD || route == ROUTE_WORKERS ||
	    route == ROUTE_WORKERS_IN_TURN)
		json_object_array_add(steps, text_object("threads"));
	return steps;
}

static void add_abilities(struct json_object *object, const struct file_facts *file)
{
	add_truth(object, "rwf_nowait", file->says_would_block);
	add_truth(object, "rwf_dontcache", file->takes_dontcache);
	add_truth(object, "o_direct", file->takes_direct);
	add_bytes(object, "o_direct_offset_bytes", file->direct_offset_bytes);
	add_bytes(object, "o_direct_memory_bytes", file->direct_memory_bytes);
	add_bytes(object, "rwf_atomic_min_bytes", file->atomic_min_bytes);
	add_bytes(object, "rwf_atomic_max_bytes", file->atomic_max_bytes);
}

static struct json_object *file_object(const struct system_facts *system,
				       const struct file_facts *file)
{
	struct json_object *object = json_object_new_object();
	char device[32];

	add_text(object, "path", file->path);
	add_text(object, "error", file->error ? strerror(file->error) : NULL);
	if (file->error)
		return object;
	snprintf(device, sizeof(device), "%u:%u", file->device_major, file->device_minor);
	add_text(object, "type", file_type_name(file->mode));
	add_text(object, "file_system", *file->file_system ? file->file_system : NULL);
	add_text(object, "source", *file->source ? file->source : NULL);
	add_text(object, "device", device);
	add_truth(object, "opened", file->is_opened);
	add_truth(object, "in_memory", file->is_in_memory);
	add_abilities(object, file);
	add(object, "buffered_reads", route_object(system, file->buffered_reads));
	add(object, "direct_reads", route_object(system, file->direct_reads));
	add(object, "writes", route_object(system, file->writes));
	add(object, "fsync", route_object(system, file->syncs));
	return object;
}

static struct json_object *advice_object(const struct system_facts *system)
{
	struct json_object *array = json_object_new_array();
	char texts[3][TA_PROBE_TEXT_BYTES];
	const char *lines[5];
	size_t count = doctor_advice(system, lines, 5, texts);

	for (size_t i = 0; i < count; i++)
		json_object_array_add(array, text_object(lines[i]));
	return array;
}

static void add_evidence(struct json_object *object, const struct ta_evidence *evidence)
{
	add_count(object, "seccomp_mode", evidence->seccomp_mode);
	add_count(object, "aio_nr", evidence->aio_nr);
	add_count(object, "aio_max_nr", evidence->aio_max_nr);
}

bool doctor_print_json(const struct system_facts *system, const struct file_facts *files,
		       size_t file_count)
{
	struct json_object *object = json_object_new_object();
	struct json_object *file_array = json_object_new_array();
	const char *text;

	add_text(object, "version", TRUEAIO_VERSION);
	add_text(object, "kernel", system->release);
	add_evidence(object, &system->evidence);
	add(object, "kernel_aio", probe_object(&system->aio));
	add(object, "threads", probe_object(&system->threads));
	add(object, "descriptor_tables", probe_object(&system->table));
	add(object, "engines", engines_object(system));
	add(object, "environment", environment_object(system));
	add(object, "features", features_object(&system->features));
	for (size_t i = 0; i < file_count; i++)
		json_object_array_add(file_array, file_object(system, &files[i]));
	add(object, "files", file_array);
	add(object, "advice", advice_object(system));
	text = json_object_to_json_string_ext(object, JSON_C_TO_STRING_PRETTY |
							      JSON_C_TO_STRING_SPACED |
							      JSON_C_TO_STRING_NOSLASHESCAPE);
	if (text)
		puts(text);
	json_object_put(object);
	return text != NULL;
}
