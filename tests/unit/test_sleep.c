/* SPDX-License-Identifier: MIT */
/*
 * Goal: who sleeps in the kernel's ring consumes nothing there, leaves when its time, a signal
 * or an event says so, and is woken by what the library ends itself, whatever has become of the
 * descriptor by which it posts; no more than one wake-up stands in a ring.
 *
 * Method: a context of the kernel's, and requests in it that the kernel is not given: the test ends
 * them as the library does.  Threads are seen asleep before anything is done to them.  One who was
 * left by siglongjmp is a sleeper that is counted and not there.
 */
#include "internal.h"

#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#define SLEEPERS 4
/* What is due comes within this time on the busiest machine. */
#define LIMIT_NS (15 * 1000000000LL)
#define PLACES 8

static struct ta_process *process;
static struct ta_context *context;
static io_context_t handle;

static int64_t limit(void)
{
	return ta_now_ns() + LIMIT_NS;
}

static void pause_shortly(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 500000 }, NULL);
}

#define WAIT_UNTIL(condition)                                                                      \
	do {                                                                                       \
		int64_t end_ns_ = limit();                                                         \
		while (!(condition)) {                                                             \
			ck_assert_msg(ta_now_ns() < end_ns_, "%s", #condition);                    \
			pause_shortly();                                                           \
		}                                                                                  \
	} while (0)

static int open_context(void)
{
	int result;

	process = ta_process_enter();
	ck_assert_ptr_nonnull(process);
	handle = NULL;
	result = ta_context_setup(process, PLACES, TA_CONTEXT_MEDIATED, &handle);
	if (result < 0)
		return result;
	context = ta_context_lock(process, handle);
	ta_unlock(&context->lock);
	return 0;
}

/* One of which the library knows nothing. */
static int open_kernel_context(void)
{
	unsigned long made = 0;
	int result = ta_process_enter() ? ta_kaio_setup(PLACES, &made) : -ENOMEM;

	handle = (io_context_t)made;
	return result;
}

#define OPEN_CONTEXT() OPEN_BY(open_context())
#define OPEN_KERNEL_CONTEXT() OPEN_BY(open_kernel_context())
#define OPEN_BY(call)                                                                              \
	do {                                                                                       \
		int error_ = call;                                                                 \
		if (error_ < 0) {                                                                  \
			fprintf(stderr, "SKIP: %s: no kernel AIO (%s)\n", tcase_name(),            \
				strerror(-error_));                                                \
			return;                                                                    \
		}                                                                                  \
	} while (0)

static void close_context(void)
{
	ck_assert_int_eq(ta_context_destroy(process, handle), 0);
}

static uint32_t available(void)
{
	return ta_ring_available(ta_ring_open(context->ring, context->event_count));
}

/* The library's own events reach nobody. */
static void drain(void)
{
	struct ta_work work = { 0 };

	ta_lock(&context->lock);
	ta_drain(context, &work);
	ta_unlock(&context->lock);
	ck_assert(!ta_work_is_any(&work));
	ck_assert_uint_eq(available(), 0);
	ck_assert(!context->wake_posted);
}

static uint32_t read_locked(const uint32_t *count)
{
	uint32_t value;

	ta_lock(&context->lock);
	value = *count;
	ta_unlock(&context->lock);
	return value;
}

static void post(void)
{
	ck_assert_int_eq(ta_kaio_post((unsigned long)handle, 1), 0);
}

static int wait_in_ring(int64_t deadline_ns, const void *mask)
{
	return ta_kaio_wait((unsigned long)handle, 1, deadline_ns, mask);
}

/* A request ends that the kernel does not have; those are woken that are to be. */
static void complete(uintptr_t number)
{
	struct ta_work work = { 0 };
	struct ta_signals before;
	struct ta_slot *slot;

	ta_signals_block(&before);
	ta_lock(&context->lock);
	slot = ta_slot_take(context);
	ck_assert_ptr_nonnull(slot);
	slot->epoch = NULL;
	slot->flags = 0;
	slot->state = TA_SLOT_SUBMITTING;
	slot->iocb.data = (void *)number;
	slot->object = (struct iocb *)(number << 8);
	ta_end(context, slot, (long)number * 3, &work);
	ta_unlock(&context->lock);
	ta_work_finish(&work);
	ta_signals_set(&before, NULL);
}

static int reap(long min_nr, long nr, int64_t timeout_ns, struct io_event *events)
{
	struct ta_wait wait = {
		.min_nr = min_nr, .nr = nr, .events = events, .timeout_ns = timeout_ns
	};

	return ta_reap(process, handle, &wait);
}

static void expect_event(const struct io_event *event, uintptr_t number)
{
	ck_assert_uint_eq((uintptr_t)event->data, number);
	ck_assert_uint_eq((uintptr_t)event->obj, number << 8);
	ck_assert_uint_eq(event->res, number * 3);
}

/*
 * Threads that sleep.
 */

struct sleeper {
	pthread_t thread;
	_Atomic pid_t tid;
	_Atomic bool ended;
	long min_nr; /* of a reaper; 0: it only waits in the ring */
	struct io_event events[PLACES];
	int result;
};

/* As by a sandbox; set while no thread of the case is there. */
static bool sleepers_have_no_ppoll;

static void refuse_ppoll(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ppoll, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(code) / sizeof(code[0]), code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0)
		fprintf(stderr, "no seccomp filter here: nothing is refused\n");
}

static void *sleep_there(void *argument)
{
	struct sleeper *sleeper = argument;

	if (sleepers_have_no_ppoll)
		refuse_ppoll();
	atomic_store(&sleeper->tid, (pid_t)syscall(SYS_gettid));
	sleeper->result =
		sleeper->min_nr ? reap(sleeper->min_nr, sleeper->min_nr, LIMIT_NS, sleeper->events)
				: wait_in_ring(limit(), NULL);
	atomic_store(&sleeper->ended, true);
	return NULL;
}

/* How often it has slept, if it does now; -1: it runs. */
static long long sleeps_of(pid_t tid)
{
	long long switches = -1, count;
	char path[64], line[256], state = '?';
	FILE *status;

	snprintf(path, sizeof(path), "/proc/self/task/%d/status", (int)tid);
	status = fopen(path, "re");
	while (status && fgets(line, sizeof(line), status)) {
		if (sscanf(line, "State: %c", &state) != 1 &&
		    sscanf(line, "voluntary_ctxt_switches: %lld", &count) == 1)
			switches = count;
	}
	if (status)
		fclose(status);
	return state == 'S' ? switches : -1;
}

/* It was asleep at each of several looks, and all the time between them. */
static bool is_asleep(const struct sleeper *sleeper)
{
	pid_t tid = atomic_load(&sleeper->tid);
	long long sleeps = tid ? sleeps_of(tid) : -1;

	for (int i = 0; i < 8 && sleeps >= 0; i++) {
		pause_shortly();
		if (sleeps_of(tid) != sleeps)
			return false;
	}
	return sleeps >= 0;
}

static void start(struct sleeper *sleeper, long min_nr)
{
	int64_t end_ns = limit();

	memset(sleeper, 0, sizeof(*sleeper));
	sleeper->min_nr = min_nr;
	ck_assert_int_eq(pthread_create(&sleeper->thread, NULL, sleep_there, sleeper), 0);
	while (!is_asleep(sleeper)) {
		ck_assert_msg(!atomic_load(&sleeper->ended), "it does not sleep, but returns %d",
			      sleeper->result);
		ck_assert_msg(ta_now_ns() < end_ns, "it does not sleep");
		pause_shortly();
	}
}

static void start_all(struct sleeper *sleepers, long min_nr)
{
	for (int i = 0; i < SLEEPERS; i++)
		start(&sleepers[i], min_nr);
}

/* Long before its own time is up. */
static int end(struct sleeper *sleeper)
{
	int64_t end_ns = ta_now_ns() + LIMIT_NS / 2;

	while (!atomic_load(&sleeper->ended)) {
		ck_assert_msg(ta_now_ns() < end_ns, "it sleeps on");
		pause_shortly();
	}
	pthread_join(sleeper->thread, NULL);
	return sleeper->result;
}

static void expect_all_end(struct sleeper *sleepers, int result)
{
	for (int i = 0; i < SLEEPERS; i++)
		ck_assert_int_eq(end(&sleepers[i]), result);
}

static void expect_nobody_counted(void)
{
	ck_assert_uint_eq(context->sleepers, 0);
	ck_assert_uint_eq(context->unaware, 0);
	ck_assert_uint_eq(context->unlimited, 0);
	ck_assert_uint_eq(context->inside, 0);
}

/* All who slept have left, and have left nothing behind. */
static void expect_nobody(void)
{
	expect_nobody_counted();
	ck_assert_uint_eq(context->used, 0);
	ck_assert_uint_eq(available(), context->wake_posted);
	drain();
}

/*
 * Waiting in the kernel's ring.
 */

START_TEST(a_wait_consumes_nothing)
{
	OPEN_CONTEXT();
	post();
	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(wait_in_ring(TA_NO_DEADLINE, NULL), 0);
		ck_assert_int_eq(wait_in_ring(ta_now_ns() - 1, NULL), 0);
		ck_assert_uint_eq(available(), 1);
	}
	post();
	ck_assert_int_eq(wait_in_ring(limit(), NULL), 0);
	ck_assert_uint_eq(available(), 2);
	close_context();
}
END_TEST

START_TEST(a_wait_ends_at_its_deadline_and_not_before)
{
	int64_t deadline_ns;

	OPEN_CONTEXT();
	ck_assert_int_eq(wait_in_ring(ta_now_ns() - 1, NULL), -ETIMEDOUT);
	ck_assert_int_eq(wait_in_ring(0, NULL), -ETIMEDOUT);
	for (int ms = 1; ms <= 16; ms *= 4) {
		deadline_ns = ta_now_ns() + ms * 1000000LL;
		ck_assert_int_eq(wait_in_ring(deadline_ns, NULL), -ETIMEDOUT);
		ck_assert_int_ge(ta_now_ns(), deadline_ns);
	}
	close_context();
}
END_TEST

START_TEST(a_wait_ends_with_its_context)
{
	struct sleeper sleepers[SLEEPERS];

	OPEN_KERNEL_CONTEXT();
	start_all(sleepers, 0);
	ck_assert_int_eq(ta_kaio_destroy((unsigned long)handle), 0);
	expect_all_end(sleepers, -EINVAL);
	ck_assert_int_eq(wait_in_ring(TA_NO_DEADLINE, NULL), -EINVAL);
}
END_TEST

static _Atomic int signals_handled;

static void count_signal(int number)
{
	(void)number;
	atomic_fetch_add(&signals_handled, 1);
}

/* And the mask before is there again afterwards. */
START_TEST(a_wait_sleeps_with_its_mask)
{
	struct sigaction action = { .sa_handler = count_signal };
	struct ta_signals open, closed, after;
	sigset_t one;

	OPEN_CONTEXT();
	sigaction(SIGUSR1, &action, NULL);
	ta_signals_set(NULL, &open);
	sigemptyset(&one);
	sigaddset(&one, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &one, NULL);
	ta_signals_set(NULL, &closed);
	raise(SIGUSR1);
	ck_assert_int_eq(wait_in_ring(ta_now_ns() + 1000000, NULL), -ETIMEDOUT);
	ck_assert_int_eq(atomic_load(&signals_handled), 0);
	ck_assert_int_eq(wait_in_ring(limit(), &open), -EINTR);
	ck_assert_int_eq(atomic_load(&signals_handled), 1);
	ta_signals_set(NULL, &after);
	ck_assert_mem_eq(&closed, &after, sizeof(closed));
	ck_assert_int_eq(wait_in_ring(ta_now_ns() + 1000000, &open), -ETIMEDOUT);
	ta_signals_set(&open, NULL);
	close_context();
}
END_TEST

/*
 * Posting.
 */

static int count_descriptors(void)
{
	DIR *directory = opendir("/proc/self/fd");
	int count = 0;

	ck_assert_ptr_nonnull(directory);
	while (readdir(directory))
		count++;
	closedir(directory);
	return count;
}

START_TEST(a_post_wakes_every_sleeper)
{
	struct sleeper sleepers[SLEEPERS];

	OPEN_CONTEXT();
	for (int round = 0; round < 3; round++) {
		start_all(sleepers, 0);
		post();
		expect_all_end(sleepers, 0);
		ck_assert_uint_eq(available(), 1);
		drain();
	}
	close_context();
}
END_TEST

static int wake_number(void)
{
	int number;

	post();
	drain();
	number = ta_own_find(TA_OWN_WAKE);
	ck_assert_int_ge(number, 0);
	return number;
}

/* A program may close what it does not know, more often than there are records of what was ours. */
START_TEST(a_post_does_without_a_descriptor_that_was_closed)
{
	struct sleeper sleepers[SLEEPERS];
	int count;

	OPEN_CONTEXT();
	ck_assert_int_ge(wake_number(), 0);
	count = count_descriptors();
	for (int round = 0; round < 10; round++) {
		close(wake_number());
		if (round % 5 == 0)
			start_all(sleepers, 0);
		post();
		if (round % 5 == 0)
			expect_all_end(sleepers, 0);
		drain();
		ck_assert_int_eq(count_descriptors(), count);
	}
	close_context();
}
END_TEST

/* The pipe is as much as ours, but silent: who would post by it would wake nobody. */
START_TEST(a_post_leaves_files_alone_that_have_taken_the_number)
{
	struct ta_file_identity identity, after;
	struct sleeper sleepers[SLEEPERS];
	int ends[2], taken[10];

	OPEN_CONTEXT();
	ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
	ck_assert_int_eq(ta_file_identify(ends[0], &identity), 0);
	for (int round = 0; round < 10; round++) {
		taken[round] = wake_number();
		ck_assert_int_eq(dup2(ends[0], taken[round]), taken[round]);
		if (round % 5 == 0)
			start_all(sleepers, 0);
		post();
		if (round % 5 == 0)
			expect_all_end(sleepers, 0);
		drain();
		ck_assert_int_ne(wake_number(), taken[round]);
	}
	for (int round = 0; round < 10; round++) {
		ck_assert_int_eq(ta_file_identify(taken[round], &after), 0);
		ck_assert_uint_eq(after.inode, identity.inode);
		close(taken[round]);
	}
	close(ends[0]);
	close(ends[1]);
	close_context();
}
END_TEST

/*
 * Returns whether it could have a table of its own, in which it posts after it has lost what was
 * there.
 */
static void *post_with_own_table(void *argument)
{
	if (unshare(CLONE_FILES) < 0)
		return NULL;
	for (int i = 0; i < 2; i++) {
		close(wake_number());
		post();
		ck_assert_uint_eq(available(), 1);
		drain();
	}
	return argument;
}

START_TEST(each_table_of_descriptors_has_its_own)
{
	pthread_t thread;
	void *result;
	int number;

	OPEN_CONTEXT();
	number = wake_number();
	ck_assert_int_eq(pthread_create(&thread, NULL, post_with_own_table, &number), 0);
	pthread_join(thread, &result);
	if (!result)
		fprintf(stderr, "SKIP: %s: unshare: %s\n", tcase_name(), strerror(errno));
	ck_assert_int_eq(ta_own_find(TA_OWN_WAKE), number);
	close_context();
}
END_TEST

START_TEST(a_full_ring_refuses_a_post_until_it_is_drained)
{
	uint32_t count = 0;
	int result;

	OPEN_CONTEXT();
	do
		result = ta_kaio_post((unsigned long)handle, 1);
	while (result == 0 && ++count < context->event_count);
	ck_assert_int_eq(result, -EAGAIN);
	ck_assert_uint_ge(count, PLACES);
	ck_assert_uint_eq(available(), count);
	drain();
	post();
	drain();
	close_context();
}
END_TEST

START_TEST(a_context_that_is_gone_takes_no_post)
{
	OPEN_KERNEL_CONTEXT();
	ck_assert_int_eq(ta_kaio_destroy((unsigned long)handle), 0);
	ck_assert_int_eq(ta_kaio_post((unsigned long)handle, 1), -EINVAL);
}
END_TEST

/*
 * Reapers that sleep, and what the library ends.
 */

START_TEST(each_completion_wakes_one_who_takes_it)
{
	struct sleeper sleepers[SLEEPERS];
	bool seen[SLEEPERS + 1] = { false };

	OPEN_CONTEXT();
	for (int round = 0; round < 3; round++) {
		memset(seen, 0, sizeof(seen));
		start_all(sleepers, 1);
		ck_assert_uint_eq(read_locked(&context->sleepers), SLEEPERS);
		for (uintptr_t number = 1; number <= SLEEPERS; number++)
			complete(number);
		expect_all_end(sleepers, 1);
		for (int i = 0; i < SLEEPERS; i++) {
			uintptr_t number = (uintptr_t)sleepers[i].events[0].data;

			ck_assert(number >= 1 && number <= SLEEPERS && !seen[number]);
			seen[number] = true;
			expect_event(&sleepers[i].events[0], number);
		}
		expect_nobody();
	}
	close_context();
}
END_TEST

START_TEST(who_waits_for_several_gets_them_when_they_are_there)
{
	struct sleeper one, two;

	OPEN_CONTEXT();
	start(&two, 2);
	start(&one, 1);
	complete(1);
	ck_assert_int_eq(end(&one), 1);
	expect_event(&one.events[0], 1);
	complete(2);
	ck_assert(!atomic_load(&two.ended));
	complete(3);
	ck_assert_int_eq(end(&two), 2);
	expect_event(&two.events[0], 2);
	expect_event(&two.events[1], 3);
	expect_nobody();
	close_context();
}
END_TEST

/* An event of no request wakes them, and they sleep on. */
START_TEST(a_stray_event_is_slept_over)
{
	struct sleeper sleepers[SLEEPERS];

	OPEN_CONTEXT();
	start_all(sleepers, 1);
	for (int i = 0; i < 3; i++) {
		post();
		WAIT_UNTIL(available() == 0);
		ck_assert_uint_eq(read_locked(&context->unaware), 0);
	}
	for (uintptr_t number = 1; number <= SLEEPERS; number++)
		complete(number);
	expect_all_end(sleepers, 1);
	expect_nobody();
	close_context();
}
END_TEST

/* Who was left by siglongjmp, or for ever, never looks. */
static void leave_a_sleeper(void)
{
	ta_lock(&context->lock);
	context->sleepers++;
	ta_unlock(&context->lock);
}

START_TEST(one_who_never_looks_costs_no_more_than_a_place)
{
	struct io_event event;

	OPEN_CONTEXT();
	leave_a_sleeper();
	for (uintptr_t number = 1; number <= 100; number++) {
		complete(number);
		ck_assert_uint_eq(available(), 1);
		ck_assert_int_eq(reap(1, 1, LIMIT_NS, &event), 1);
		expect_event(&event, number);
		ck_assert_uint_eq(available(), 0);
	}
	close_context();
}
END_TEST

/*
 * Who takes the wake-up from the ring and wants more posts it again for the others, and sleeps
 * beside it.
 */
static void expect_a_wait_for_two_beside_others(void)
{
	struct sleeper two;

	start(&two, 2);
	leave_a_sleeper();
	complete(1);
	WAIT_UNTIL(read_locked(&context->unaware) == 1);
	WAIT_UNTIL(available() == 1);
	WAIT_UNTIL(is_asleep(&two));
	ck_assert(!atomic_load(&two.ended));
	complete(2);
	ck_assert_int_eq(end(&two), 2);
	expect_event(&two.events[0], 1);
	expect_event(&two.events[1], 2);
}

START_TEST(who_waits_for_more_lets_others_look)
{
	OPEN_CONTEXT();
	expect_a_wait_for_two_beside_others();
	close_context();
}
END_TEST

START_TEST(who_waits_for_more_waits_on_where_ppoll_is_refused)
{
	OPEN_CONTEXT();
	sleepers_have_no_ppoll = true;
	expect_a_wait_for_two_beside_others();
	sleepers_have_no_ppoll = false;
	close_context();
}
END_TEST

/* The one wake-up that stands in the ring is for all who sleep. */
START_TEST(a_reaper_that_takes_the_wake_up_posts_another)
{
	struct io_event event;

	OPEN_CONTEXT();
	leave_a_sleeper();
	complete(1);
	complete(2);
	ck_assert(context->wake_posted);
	ck_assert_uint_eq(available(), 1);
	ck_assert_int_eq(reap(1, 1, 0, &event), 1);
	/* The old one was drained, so what is there now is new. */
	ck_assert(context->wake_posted);
	ck_assert_uint_eq(available(), 1);
	ck_assert_int_eq(reap(1, 1, 0, &event), 1);
	ck_assert(!context->wake_posted);
	ck_assert_uint_eq(available(), 0);
	close_context();
}
END_TEST

/* It was idle, so its kernel context is not destroyed by then. */
START_TEST(a_destroyed_context_lets_all_sleepers_go)
{
	struct sleeper sleepers[SLEEPERS];

	OPEN_CONTEXT();
	start_all(sleepers, 2);
	close_context();
	expect_all_end(sleepers, -EINVAL);
	ck_assert_int_eq(reap(1, 1, 0, sleepers[0].events), -EINVAL);
}
END_TEST

/* Its memory may be another context's by the time they look: that one's counts are not theirs. */
START_TEST(sleepers_of_a_former_context_are_strangers)
{
	struct sleeper sleepers[SLEEPERS];

	OPEN_CONTEXT();
	start_all(sleepers, 1);
	ta_lock(&context->lock);
	context->generation++;
	context->sleepers = context->unlimited = context->unaware = 0;
	post();
	ta_unlock(&context->lock);
	expect_all_end(sleepers, -EINVAL);
	expect_nobody_counted();
	close_context();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("sleep");
	TCase *cases = tcase_create("sleep");
	SRunner *runner;
	int failed;

	tcase_set_timeout(cases, 60);
	tcase_add_test(cases, a_wait_consumes_nothing);
	tcase_add_test(cases, a_wait_ends_at_its_deadline_and_not_before);
	tcase_add_test(cases, a_wait_ends_with_its_context);
	tcase_add_test(cases, a_wait_sleeps_with_its_mask);
	tcase_add_test(cases, a_post_wakes_every_sleeper);
	tcase_add_test(cases, a_post_does_without_a_descriptor_that_was_closed);
	tcase_add_test(cases, a_post_leaves_files_alone_that_have_taken_the_number);
	tcase_add_test(cases, each_table_of_descriptors_has_its_own);
	tcase_add_test(cases, a_full_ring_refuses_a_post_until_it_is_drained);
	tcase_add_test(cases, a_context_that_is_gone_takes_no_post);
	tcase_add_test(cases, each_completion_wakes_one_who_takes_it);
	tcase_add_test(cases, who_waits_for_several_gets_them_when_they_are_there);
	tcase_add_test(cases, a_stray_event_is_slept_over);
	tcase_add_test(cases, one_who_never_looks_costs_no_more_than_a_place);
	tcase_add_test(cases, who_waits_for_more_lets_others_look);
	tcase_add_test(cases, who_waits_for_more_waits_on_where_ppoll_is_refused);
	tcase_add_test(cases, a_reaper_that_takes_the_wake_up_posts_another);
	tcase_add_test(cases, a_destroyed_context_lets_all_sleepers_go);
	tcase_add_test(cases, sleepers_of_a_former_context_are_strangers);
	suite_add_tcase(suite, cases);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed > 0;
}
