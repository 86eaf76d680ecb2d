/* SPDX-License-Identifier: MIT */
/*
 * group_commit FILE: a write-ahead log, into which eight threads commit at once.
 *
 * Shows what io_fsync's promise is for.  A commit is durable when its record is in the file and the
 * file has been synchronized after that.  The log's thread takes all records that have gathered,
 * and submits their writes and one fdatasync behind them in a single io_submit: there is no need to
 * wait for the writes first, since the event of the fdatasync comes when they have ended and the
 * disk has them.  Only then are the commits acknowledged.  What comes meanwhile gathers for the
 * next round, so the more threads there are, the more commits one synchronization serves.
 *
 * At last the program reads the file again and looks for each record that was acknowledged.
 *
 * With libaio this program would be wrong: its fdatasync overtakes writes, and a power cut loses
 * commits that were acknowledged.  So it exits with 1 when an fdatasync ends before a write that it
 * was for, which libaio may let happen in any round or in none.
 *
 *	cc -o group_commit group_commit.c -laio -pthread
 *	./group_commit /var/tmp/log
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <libaio.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WRITERS 8
#define COMMITS_EACH 50
#define RECORD_BYTES 4096 /* O_DIRECT wants whole blocks */

struct record {
	uint32_t writer, number;
	char text[RECORD_BYTES - 8];
};

struct commit {
	struct iocb write;
	struct record *record;
	struct commit *next;
	int durable;
};

/* The lock guards the list, what is in the list, and stop. */
struct log {
	pthread_mutex_t lock;
	pthread_cond_t gathered, acknowledged;
	struct commit *first, **last;
	int stop;
	int fd;
	io_context_t ctx;
	long long end;
	int syncs;
};

static struct log wal = { .lock = PTHREAD_MUTEX_INITIALIZER,
			  .gathered = PTHREAD_COND_INITIALIZER,
			  .acknowledged = PTHREAD_COND_INITIALIZER,
			  .last = &wal.first };

/* ---- the log's thread ------------------------------------------------------------------------ */

/* Writes the commits of a group and synchronizes, in one call; returns when both have ended. */
static void make_durable(struct log *log, struct commit *group)
{
	struct iocb sync, *batch[WRITERS + 1];
	struct io_event events[WRITERS + 1];
	int count = 0, left, synced = 0, rc, i;
	struct commit *commit;

	for (commit = group; commit; commit = commit->next) {
		io_prep_pwrite(&commit->write, log->fd, commit->record, RECORD_BYTES, log->end);
		log->end += RECORD_BYTES;
		batch[count++] = &commit->write;
	}
	io_prep_fdsync(&sync, log->fd);
	batch[count++] = &sync;
	rc = io_submit(log->ctx, count, batch);
	if (rc != count)
		errx(1, "io_submit: %s", rc < 0 ? strerror(-rc) : "not all accepted");

	for (left = count; left > 0; left -= rc) {
		do
			rc = io_getevents(log->ctx, 1, left, events, NULL);
		while (rc == -EINTR);
		if (rc < 0)
			errx(1, "io_getevents: %s", strerror(-rc));
		for (i = 0; i < rc; i++) {
			long result = (long)events[i].res;

			/* A log that could not be written must not be written on. */
			if (events[i].obj == &sync ? result != 0 : result != RECORD_BYTES)
				errx(1, "log: %s",
				     result < 0 ? strerror((int)-result) : "a write ended early");
			if (synced)
				errx(1, "the fdatasync overtook a write: this is not trueaio");
			synced = events[i].obj == &sync;
		}
	}
	log->syncs++;
}

static void *run_log(void *argument)
{
	struct log *log = argument;

	pthread_mutex_lock(&log->lock);
	for (;;) {
		struct commit *group, *commit;

		while (!log->first && !log->stop)
			pthread_cond_wait(&log->gathered, &log->lock);
		if (!log->first)
			break;
		group = log->first;
		log->first = NULL;
		log->last = &log->first;
		pthread_mutex_unlock(&log->lock);
		make_durable(log, group);
		pthread_mutex_lock(&log->lock);
		for (commit = group; commit; commit = commit->next)
			commit->durable = 1;
		pthread_cond_broadcast(&log->acknowledged);
	}
	pthread_mutex_unlock(&log->lock);
	return NULL;
}

/* ---- writers --------------------------------------------------------------------------------- */

/* Returns when the record can no longer be lost. */
static void commit_record(struct log *log, struct record *record)
{
	struct commit commit = { .record = record };

	pthread_mutex_lock(&log->lock);
	*log->last = &commit;
	log->last = &commit.next;
	pthread_cond_signal(&log->gathered);
	while (!commit.durable)
		pthread_cond_wait(&log->acknowledged, &log->lock);
	pthread_mutex_unlock(&log->lock);
}

static void fill(struct record *record, unsigned writer, unsigned number)
{
	memset(record, 0, sizeof(*record));
	record->writer = writer;
	record->number = number;
	snprintf(record->text, sizeof(record->text), "transaction %u of writer %u", number, writer);
}

static void *run_writer(void *argument)
{
	unsigned writer = (unsigned)(uintptr_t)argument, number;
	void *record;

	if (posix_memalign(&record, RECORD_BYTES, RECORD_BYTES) != 0)
		errx(1, "out of memory");
	for (number = 0; number < COMMITS_EACH; number++) {
		fill(record, writer, number);
		commit_record(&wal, record);
	}
	free(record);
	return NULL;
}

/* ---- afterwards ------------------------------------------------------------------------------ */

/* A writer's records stand in the log in its order, for it waited for each. */
static void check_log(const char *path)
{
	static struct record found, expected;
	unsigned next[WRITERS] = { 0 }, writer;
	FILE *log = fopen(path, "r");

	if (!log)
		err(1, "%s", path);
	while (fread(&found, sizeof(found), 1, log) == 1) {
		writer = found.writer;
		if (writer >= WRITERS)
			errx(1, "%s: a record of nobody", path);
		fill(&expected, writer, next[writer]++);
		if (memcmp(&found, &expected, sizeof(found)) != 0)
			errx(1, "%s: a record of writer %u is not what was committed", path,
			     writer);
	}
	if (ferror(log))
		err(1, "%s", path);
	fclose(log);
	for (writer = 0; writer < WRITERS; writer++)
		if (next[writer] != COMMITS_EACH)
			errx(1, "writer %u: %u of %u commits are there", writer, next[writer],
			     COMMITS_EACH);
}

static void open_log(struct log *log, const char *path)
{
	int flags = O_WRONLY | O_CREAT | O_TRUNC, rc;

	/* Without O_DIRECT, where a file system has none, the writes are done inside io_submit. */
	log->fd = open(path, flags | O_DIRECT, 0666);
	if (log->fd < 0 && errno == EINVAL)
		log->fd = open(path, flags, 0666);
	if (log->fd < 0)
		err(1, "%s", path);
	/* Writes that make a file longer would wait in io_submit, so it has its length before. */
	rc = posix_fallocate(log->fd, 0, (off_t)WRITERS * COMMITS_EACH * RECORD_BYTES);
	if (rc != 0)
		errx(1, "%s: %s", path, strerror(rc));
	rc = io_setup(WRITERS + 1, &log->ctx);
	if (rc < 0)
		errx(1, "io_setup: %s", strerror(-rc));
}

int main(int argc, char **argv)
{
	pthread_t log_thread, writers[WRITERS];
	int i, rc;

	if (argc != 2)
		errx(2, "usage: group_commit FILE");
	open_log(&wal, argv[1]);
	rc = pthread_create(&log_thread, NULL, run_log, &wal);
	for (i = 0; i < WRITERS && rc == 0; i++)
		rc = pthread_create(&writers[i], NULL, run_writer, (void *)(uintptr_t)i);
	if (rc != 0)
		errx(1, "pthread_create: %s", strerror(rc));
	for (i = 0; i < WRITERS; i++)
		pthread_join(writers[i], NULL);
	pthread_mutex_lock(&wal.lock);
	wal.stop = 1;
	pthread_cond_signal(&wal.gathered);
	pthread_mutex_unlock(&wal.lock);
	pthread_join(log_thread, NULL);
	rc = io_destroy(wal.ctx);
	if (rc < 0)
		errx(1, "io_destroy: %s", strerror(-rc));
	if (close(wal.fd) < 0)
		err(1, "%s", argv[1]);

	check_log(argv[1]);
	if (printf("%d commits, %d synchronizations\n", WRITERS * COMMITS_EACH, wal.syncs) < 0 ||
	    fflush(stdout) != 0)
		err(1, "standard output");
	return 0;
}
