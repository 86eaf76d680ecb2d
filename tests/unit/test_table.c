/* SPDX-License-Identifier: MIT */
/*
 * Goal: a file that is on its way to a table of ours is held, whatever the program does with its
 * number; who has lent it can take it back, which lets go of it and of nothing else; and what has
 * arrived is the table's.  A child holds nothing.
 *
 * Method: one thread, the owner, has the table and does what it is asked to.  What is sent is the
 * writer of a pipe: its reader tells whether anybody holds it.
 */
#include "work.h"

#include <check.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static struct ta_table table;
static int made = 1; /* what ta_table_make says */

/* What the owner is asked for: to take in the file of this number; NULL: to end. */
static pthread_barrier_t asked, answered;
static _Atomic int *wanted;
static int found;

static void *own(void *unused)
{
	(void)unused;
	made = ta_table_make(&table, TA_OWN_SENDER);
	pthread_barrier_wait(&answered);
	for (;;) {
		pthread_barrier_wait(&asked);
		if (!wanted)
			return NULL;
		found = ta_table_number(&table, wanted);
		if (found >= 0)
			ta_table_close(&table, found);
		pthread_barrier_wait(&answered);
	}
}

static pthread_t owner;

static void set_up(void)
{
	ck_assert_ptr_nonnull(ta_process_enter());
	ck_assert_int_eq(pthread_barrier_init(&asked, NULL, 2), 0);
	ck_assert_int_eq(pthread_barrier_init(&answered, NULL, 2), 0);
	ck_assert_int_eq(pthread_create(&owner, NULL, own, NULL), 0);
	pthread_barrier_wait(&answered);
}

static void tear_down(void)
{
	wanted = NULL;
	pthread_barrier_wait(&asked);
	ck_assert_int_eq(pthread_join(owner, NULL), 0);
	/* What leads to that table is of no use to the next case. */
	ta_own_close_inherited();
}

#define NEEDS_TABLE()                                                                              \
	do {                                                                                       \
		if (made < 0) {                                                                    \
			fprintf(stderr, "SKIP: %s: no table: %s\n", tcase_name(),                  \
				strerror(-made));                                                  \
			return;                                                                    \
		}                                                                                  \
	} while (0)

/* The owner has found the file, and closed it. */
static bool arrives(_Atomic int *number)
{
	wanted = number;
	pthread_barrier_wait(&asked);
	pthread_barrier_wait(&answered);
	return found >= 0;
}

static int lend(_Atomic int *number, int fd)
{
	if (ta_own_find(TA_OWN_LENDER) < 0)
		ck_assert_int_eq(ta_table_make_pair(&table), 0);
	return ta_table_lend(&table, number, fd);
}

/* The reader of a pipe whose writer is on its way, and no longer the program's. */
static int send_writer_by(_Atomic int *number, bool lends)
{
	int ends[2];

	ck_assert_int_eq(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
	ck_assert_int_eq(lends ? lend(number, ends[1]) : ta_table_send(&table, number, ends[1]), 0);
	close(ends[1]);
	return ends[0];
}

static int lend_writer(_Atomic int *number)
{
	return send_writer_by(number, true);
}

static bool is_held(int reader)
{
	char byte;

	return read(reader, &byte, 1) < 0;
}

START_TEST(what_is_on_its_way_is_held_until_it_is_taken_back)
{
	_Atomic int number;
	int reader;

	NEEDS_TABLE();
	reader = lend_writer(&number);
	ck_assert(is_held(reader));
	ck_assert_uint_eq(atomic_load(&table.files), 1);
	ck_assert(ta_table_take_back(&table, &number));
	ck_assert(!is_held(reader));
	ck_assert_uint_eq(atomic_load(&table.files), 0);
	ck_assert(!ta_table_take_back(&table, &number));
	/* What is sent after that arrives. */
	reader = lend_writer(&number);
	ck_assert(arrives(&number));
	ck_assert(!is_held(reader));
}
END_TEST

START_TEST(what_was_sent_is_not_taken_back)
{
	_Atomic int number;
	int reader;

	NEEDS_TABLE();
	reader = send_writer_by(&number, false);
	ck_assert(!ta_table_take_back(&table, &number));
	ck_assert(arrives(&number));
	ck_assert(!is_held(reader));
}
END_TEST

START_TEST(what_has_arrived_is_not_taken_back)
{
	_Atomic int number;
	int reader;

	NEEDS_TABLE();
	for (int i = 0; i < 3; i++) {
		reader = lend_writer(&number);
		ck_assert(arrives(&number));
		ck_assert(!ta_table_take_back(&table, &number));
		ck_assert(!is_held(reader));
	}
}
END_TEST

START_TEST(the_first_on_its_way_is_taken_back_first)
{
	_Atomic int numbers[2];
	int readers[2];

	NEEDS_TABLE();
	for (int i = 0; i < 2; i++)
		readers[i] = lend_writer(&numbers[i]);
	ck_assert(!ta_table_take_back(&table, &numbers[1]));
	ck_assert(is_held(readers[0]) && is_held(readers[1]));
	ck_assert(ta_table_take_back(&table, &numbers[0]));
	ck_assert(!is_held(readers[0]) && is_held(readers[1]));
	ck_assert(arrives(&numbers[1]));
	ck_assert(!is_held(readers[1]));
}
END_TEST

/* The program may write to numbers that it does not know, too. */
START_TEST(what_is_no_file_is_no_end)
{
	const enum ta_own_kind kinds[] = { TA_OWN_SENDER, TA_OWN_LENDER };
	_Atomic int number;
	int reader;

	NEEDS_TABLE();
	lend_writer(&number);
	ck_assert(arrives(&number));
	for (int kind = 0; kind < 2; kind++) {
		ck_assert_int_eq(write(ta_own_find(kinds[kind]), "", 0), 0);
		ck_assert_int_eq(write(ta_own_find(kinds[kind]), "stranger", 8), 8);
		reader = send_writer_by(&number, kind == 1);
		ck_assert(arrives(&number));
		ck_assert(!is_held(reader));
	}
}
END_TEST

/* Who lends learns that the table takes in no more of it, and makes another way. */
START_TEST(a_way_that_has_ended_is_made_again)
{
	_Atomic int number;
	int reader;

	NEEDS_TABLE();
	lend_writer(&number);
	ck_assert(arrives(&number));
	ck_assert_int_eq(shutdown(ta_own_find(TA_OWN_LENDER), SHUT_WR), 0);
	send_writer_by(&number, false);
	ck_assert(arrives(&number));
	ck_assert_int_eq(lend(&number, 0), -ENFILE);
	reader = lend_writer(&number);
	ck_assert(arrives(&number));
	ck_assert(!is_held(reader));
}
END_TEST

static int open_descriptors(void)
{
	int count = 0;

	for (int fd = 0; fd < 256; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

/* The program may close numbers that it does not know. */
START_TEST(a_way_that_was_closed_is_made_again)
{
	int reader, before = 0;
	_Atomic int number;

	NEEDS_TABLE();
	for (int i = 0; i < 20; i++) {
		reader = lend_writer(&number);
		if (i % 2) {
			close(ta_own_find(TA_OWN_RECEIVER));
			ck_assert(!ta_table_take_back(&table, &number));
			ck_assert(arrives(&number));
			close(ta_own_find(TA_OWN_LENDER));
		} else {
			close(ta_own_find(i % 4 ? TA_OWN_LENDER : TA_OWN_SENDER));
			ck_assert(ta_table_take_back(&table, &number));
		}
		ck_assert(!is_held(reader));
		ck_assert_uint_eq(atomic_load(&table.files), 0);
		close(reader);
		if (i == 3)
			before = open_descriptors();
	}
	ck_assert_int_eq(open_descriptors(), before);
	/* The table's ends of those that are gone go, too. */
	lend_writer(&number);
	ck_assert(arrives(&number));
	ck_assert_uint_le(atomic_load(&table.receiver_count), 2);
	ck_assert_int_le(found, 8);
}
END_TEST

/* Is the byte locked, for another process? */
static bool is_locked(int file)
{
	struct flock lock = { .l_type = F_WRLCK, .l_len = 1 };
	pid_t child = fork();
	int status;

	ck_assert_int_ge(child, 0);
	if (child == 0)
		_exit(fcntl(file, F_GETLK, &lock) == 0 && lock.l_type != F_UNLCK);
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	return WIFEXITED(status) && WEXITSTATUS(status) == 1;
}

/* The parent dies with files on their way: its child must not keep them. */
START_TEST(a_child_holds_nothing)
{
	enum { NO_TABLE = 2 };
	int ends[2], life[2], status;
	pid_t parent;
	char byte;

#ifdef __SANITIZE_THREAD__
	fprintf(stderr, "SKIP: %s: ThreadSanitizer does not work in a forked child\n",
		tcase_name());
	return;
#endif
	ck_assert_int_eq(pipe2(life, O_CLOEXEC), 0);
	ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
	parent = fork();
	ck_assert_int_ge(parent, 0);
	if (parent == 0) {
		_Atomic int numbers[2];

		close(ends[0]);
		set_up();
		if (made < 0)
			_exit(NO_TABLE);
		/* The pair is there when the child comes. */
		ck_assert_int_eq(lend(&numbers[0], ends[1]), 0);
		if (fork() == 0) {
			close(ends[1]);
			close(life[1]);
			_exit(read(life[0], &byte, 1) != 0);
		}
		ck_assert_int_eq(lend(&numbers[1], ends[1]), 0);
		ck_assert_int_eq(ta_table_send(&table, &numbers[1], ends[1]), 0);
		_exit(0);
	}
	close(ends[1]);
	ck_assert_int_eq(waitpid(parent, &status, 0), parent);
	ck_assert(WIFEXITED(status));
	if (WEXITSTATUS(status) == NO_TABLE) {
		fprintf(stderr, "SKIP: %s: no table\n", tcase_name());
		return;
	}
	ck_assert_int_eq(WEXITSTATUS(status), 0);
	/* The child lives as long as this case, and this waits while anybody holds the writer. */
	ck_assert_int_eq(read(ends[0], &byte, 1), 0);
	close(life[1]);
}
END_TEST

/* Closing any descriptor of a file in the program's table would drop its record locks. */
START_TEST(record_locks_stay)
{
	struct flock lock = { .l_type = F_WRLCK, .l_len = 1 };
	char name[] = "/tmp/trueaio-table-XXXXXX";
	_Atomic int number;
	int file;

	NEEDS_TABLE();
	file = mkstemp(name);
	ck_assert_int_ge(file, 0);
	unlink(name);
	ck_assert_int_eq(fcntl(file, F_SETLK, &lock), 0);
	ck_assert_int_eq(lend(&number, file), 0);
	ck_assert(ta_table_take_back(&table, &number));
	ck_assert(is_locked(file));
	ck_assert_int_eq(ta_table_send(&table, &number, file), 0);
	ck_assert(arrives(&number));
	ck_assert(is_locked(file));
	close(file);
}
END_TEST

/* With real workers: nothing is left of a hold, and nobody is asked to close it. */
START_TEST(what_a_waiter_is_to_read_is_lent)
{
	struct ta_process *process = ta_process_enter();
	struct ta_file_identity identity;
	struct ta_hold *hold, *first = NULL;
	char name[] = "/tmp/trueaio-table-XXXXXX";
	int file = mkstemp(name);
	struct ta_workers *workers;

	ck_assert(process && file >= 0);
	unlink(name);
	if (ta_service_open(TA_SERVICE_WORK) != 0 || !process->workers->owns_table ||
	    !ta_is_only_thread(process)) {
		fprintf(stderr, "SKIP: %s: no workers with a table, or more threads\n",
			tcase_name());
		return;
	}
	workers = process->workers;
	ck_assert_int_eq(ta_file_identify(file, &identity), 0);
	atomic_store(&process->leaves_to_waiter, true);
	/* The pair does not stay on its way: that counts against a limit of the user. */
	ck_assert_int_eq(ta_hold_take(file, &identity, O_RDWR, &hold), 0);
	while (atomic_load(&workers->table.receiver_count) < 2)
		usleep(1000);
	ta_hold_release(hold);
	ta_workers_wait_closed(workers);
	for (int i = 0; i < 100; i++) {
		ck_assert_int_eq(ta_hold_take(file, &identity, O_RDWR, &hold), 0);
		first = first ? first : hold;
		ck_assert_ptr_eq(hold, first);
		ck_assert_uint_eq(ta_holds_count(), 1);
		ck_assert(ta_hold_take_back(hold));
		ck_assert_uint_eq(ta_holds_count(), 0);
	}
	ck_assert_uint_eq(atomic_load(&workers->closings), 0);
	atomic_store(&process->leaves_to_waiter, false);
	ck_assert_int_eq(ta_hold_take(file, &identity, O_RDWR, &hold), 0);
	ck_assert(!ta_hold_take_back(hold));
	ta_hold_release(hold);
	ta_workers_wait_closed(workers);
	ck_assert_uint_eq(ta_holds_count(), 0);
	close(file);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("table");
	TCase *cases = tcase_create("table"), *holds = tcase_create("holds");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(cases, set_up, tear_down);
	tcase_set_timeout(cases, 30);
	tcase_add_test(cases, what_is_on_its_way_is_held_until_it_is_taken_back);
	tcase_add_test(cases, what_was_sent_is_not_taken_back);
	tcase_add_test(cases, what_has_arrived_is_not_taken_back);
	tcase_add_test(cases, the_first_on_its_way_is_taken_back_first);
	tcase_add_test(cases, what_is_no_file_is_no_end);
	tcase_add_test(cases, a_way_that_has_ended_is_made_again);
	tcase_add_test(cases, a_way_that_was_closed_is_made_again);
	tcase_add_test(cases, record_locks_stay);
	suite_add_tcase(suite, cases);
	tcase_set_timeout(holds, 30);
	/* Without an owner: emulators start no threads in the child of a process with threads. */
	tcase_add_test(holds, a_child_holds_nothing);
	tcase_add_test(holds, what_a_waiter_is_to_read_is_lent);
	suite_add_tcase(suite, holds);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed > 0;
}
