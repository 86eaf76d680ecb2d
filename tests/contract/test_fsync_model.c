/* SPDX-License-Identifier: MIT */
/*
 * Goal: the promise of fsync holds in histories that nobody has thought of.
 *
 * Method: random histories and a model.  Requests of all kinds go through two contexts and four
 * descriptors of one file, and a disk that waits (holdfs) answers them in any order.  Three things
 * must hold for each fsync.  When its event is there, all earlier requests have been answered, and
 * a flush of its kind has begun after the last answer and ended.  Earlier fsyncs of its context
 * have had their events before it.  And once all earlier requests have been answered, the event
 * comes, whatever else is still held.
 *
 * The seed of a history is printed; TRUEAIO_TEST_SEED plays that one alone.  On the reference, with
 * the same histories, the model must find violations.
 */
#include "scene.h"

#define HISTORY_REQUESTS 200

struct record {
	struct iocb iocb;
	int context;
	unsigned kind;
	unsigned block;
	bool ended;
	unsigned answered;
	unsigned last_before; /* the last answer to a request before this one */
};

struct history {
	struct scene scene;
	io_context_t contexts[2];
	int descriptors[4];
	struct record records[HISTORY_REQUESTS];
	unsigned count;
	unsigned answered; /* all records before this one have been answered, or are syncs */
	unsigned last_answer;
	unsigned violations;
	unsigned random;
};

static unsigned draw(struct history *history, unsigned limit)
{
	history->random ^= history->random << 13;
	history->random ^= history->random >> 17;
	history->random ^= history->random << 5;
	return history->random % limit;
}

static void print_history(struct history *history)
{
	static const char *const opcodes[] = { "read", "write", "fsync", "fdsync" };

	for (unsigned i = 0; i < history->count; i++) {
		struct record *record = &history->records[i];

		fprintf(stderr, "request %u: context %d, %s through %d%s\n", i, record->context,
			opcodes[record->iocb.aio_lio_opcode], record->iocb.aio_fildes,
			record->ended ? ", ended" : "");
	}
	holdfs_print_log(history->scene.fs);
}

static void violation(struct history *history, const struct record *record, const char *what)
{
	history->violations++;
	if (on_reference())
		return;
	print_history(history);
	ck_abort_msg("request %u: %s", (unsigned)(record - history->records), what);
}

static unsigned answer_to(struct history *history, const struct record *record)
{
	struct holdfs *fs = history->scene.fs;
	unsigned length = holdfs_log_length(fs);

	for (unsigned index = 0; index < length; index++) {
		struct holdfs_operation operation = holdfs_operation(fs, index);

		if (operation.kind == record->kind && operation.file == SUBJECT &&
		    operation.offset == (off_t)record->block * BLOCK_BYTES)
			return operation.answered;
	}
	return 0;
}

static void look_at_answers(struct history *history)
{
	while (history->answered < history->count) {
		struct record *record = &history->records[history->answered];

		record->last_before = history->last_answer;
		if (record->kind != HOLDFS_FSYNC) {
			record->answered = answer_to(history, record);
			if (!record->answered)
				return;
			if (record->answered > history->last_answer)
				history->last_answer = record->answered;
		}
		history->answered++;
	}
}

static bool has_been_flushed(struct history *history, const struct record *record)
{
	struct holdfs *fs = history->scene.fs;
	unsigned length = holdfs_log_length(fs);

	for (unsigned index = 0; index < length; index++) {
		struct holdfs_operation operation = holdfs_operation(fs, index);

		if (operation.kind == HOLDFS_FSYNC && operation.file == SUBJECT &&
		    operation.arrived > record->last_before && operation.answered &&
		    (record->iocb.aio_lio_opcode == IO_CMD_FDSYNC || !operation.data_only))
			return true;
	}
	return false;
}

static void judge_event(struct history *history, const struct io_event *event)
{
	struct record *record = event->data;

	ck_assert_ptr_eq(event->obj, &record->iocb);
	ck_assert(!record->ended);
	record->ended = true;
	if (record->kind != HOLDFS_FSYNC) {
		ck_assert_int_eq((long)event->res, BLOCK_BYTES);
		return;
	}
	ck_assert_int_eq((long)event->res, 0);
	look_at_answers(history);
	if (history->answered <= (unsigned)(record - history->records))
		violation(history, record, "an earlier request has not ended");
	else if (!has_been_flushed(history, record))
		violation(history, record, "not flushed after the last earlier request");
	for (struct record *other = history->records; other < record; other++)
		if (other->kind == HOLDFS_FSYNC && !other->ended &&
		    other->context == record->context)
			violation(history, record, "an earlier fsync has not ended");
}

static void reap(struct history *history, int context)
{
	struct io_event events[16];
	int count = take_events_now(history->contexts[context], events, 16);

	ck_assert_int_ge(count, 0);
	for (int i = 0; i < count; i++)
		judge_event(history, &events[i]);
}

static void wait_ended(struct history *history, struct record *record)
{
	long long end_ns = monotonic_ns() + EVENT_LIMIT_SECONDS * 1000000000LL;

	while (reap(history, record->context), !record->ended) {
		if (monotonic_ns() > end_ns)
			violation(history, record, "does not end");
		contract_pause();
	}
}

/* Every fsync that nothing stands before any more must end now. */
static void settle(struct history *history)
{
	look_at_answers(history);
	for (unsigned i = 0; i < history->answered; i++)
		if (history->records[i].kind == HOLDFS_FSYNC)
			wait_ended(history, &history->records[i]);
}

static void fill_record(struct history *history, struct record *record, int context)
{
	unsigned number = (unsigned)(record - history->records);
	/* The last descriptor is a buffered one, whose reads wait for the disk. */
	int which = (int)draw(history, on_reference() ? 3 : 4), fd = history->descriptors[which];
	unsigned choice = draw(history, 8);

	*record = (struct record){ .context = context, .block = number };
	if (choice < 3) {
		record->kind = HOLDFS_FSYNC;
		prepare_sync(&record->iocb, fd, choice == 0 ? IO_CMD_FDSYNC : IO_CMD_FSYNC);
	} else if (choice < 6 && which < 3) {
		record->kind = HOLDFS_WRITE;
		prepare_write(&record->iocb, fd, number);
	} else {
		record->kind = HOLDFS_READ;
		prepare_read(&record->iocb, fd, number);
	}
	record->iocb.data = record;
}

static void submit_some(struct history *history)
{
	int context = (int)draw(history, 2);
	struct iocb *batch[5];
	long size = 1 + (long)draw(history, 5);

	for (long i = 0; i < size; i++) {
		struct record *record = &history->records[history->count + (unsigned)i];

		fill_record(history, record, context);
		batch[i] = &record->iocb;
	}
	ck_assert_int_eq(io_submit(history->contexts[context], size, batch), size);
	history->count += (unsigned)size;
}

static void release_some(struct history *history)
{
	struct holdfs *fs = history->scene.fs;
	unsigned held[HISTORY_REQUESTS], count = 0, length = holdfs_log_length(fs);

	for (unsigned index = 0; index < length; index++)
		if (!holdfs_operation(fs, index).answered && count < HISTORY_REQUESTS)
			held[count++] = index;
	if (count) {
		unsigned index = held[draw(history, count)];

		holdfs_release(fs, index, 0);
		holdfs_wait_answered(fs, index);
	}
}

static void open_history(struct history *history, unsigned seed)
{
	struct scene *scene = &history->scene;

	history->random = seed * 2654435761u | 1;
	history->contexts[0] = scene->ctx;
	history->contexts[1] = new_context(HISTORY_REQUESTS);
	history->descriptors[0] = scene->fd;
	history->descriptors[1] = fcntl(scene->fd, F_DUPFD_CLOEXEC, 0);
	history->descriptors[2] = holdfs_open(scene->fs, SUBJECT, O_RDWR | O_DIRECT);
	history->descriptors[3] = holdfs_open(scene->fs, SUBJECT, O_RDONLY);
}

static void close_history(struct history *history)
{
	free_context(history->contexts[1]);
	for (int i = 1; i < 4; i++)
		close(history->descriptors[i]);
}

static void play(struct history *history, unsigned seed)
{
	fprintf(stderr, "seed %u\n", seed);
	open_history(history, seed);
	/* There a write that is held would keep all other writes and syncs from the disk. */
	holdfs_hold(history->scene.fs, on_threads() ? HOLDFS_READ : HOLDFS_READ | HOLDFS_WRITE);
	while (history->count + 5 <= HISTORY_REQUESTS) {
		submit_some(history);
		for (unsigned i = draw(history, 6); i > 0; i--)
			release_some(history);
		settle(history);
	}
	holdfs_release_all(history->scene.fs);
	for (unsigned i = 0; i < history->count; i++)
		wait_ended(history, &history->records[i]);
	close_history(history);
}

CASE(random_histories_agree_with_the_model)
{
	const char *chosen = getenv("TRUEAIO_TEST_SEED");
	unsigned first = chosen ? (unsigned)strtoul(chosen, NULL, 10) : 1, violations = 0;

	for (unsigned seed = first; seed < first + (chosen ? 1 : 5); seed++) {
		static struct history history;

		memset(&history, 0, sizeof(history));
		SCENE_OPEN(&history.scene);
		/* As many as this may wait there for their turn. */
		free_context(history.scene.ctx);
		history.scene.ctx = new_context(HISTORY_REQUESTS);
		play(&history, seed);
		violations += history.violations;
		scene_close(&history.scene);
	}
	if (on_reference())
		ck_assert_uint_gt(violations, 0);
}
