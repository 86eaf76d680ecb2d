/* SPDX-License-Identifier: MIT */
/*
 * The caller's memory: EFAULT instead of SIGSEGV, without a system call per request.
 *
 * A page is asked about once, by a system call that touches it without changing it, and remembered.
 * A page that was good when first seen and has been unmapped since may fault: documented as
 * undefined, and the price of not paying 100 ns a request.
 *
 * Writable: FUTEX_WAKE_OP adds zero to a word of the page, atomically, so it may race with
 * anybody's use of it.  Readable: rt_sigprocmask copies the new mask in before it looks at `how`,
 * and refuses an unknown `how` (kernel: sys_rt_sigprocmask, all versions).
 *
 * Reads and writes of streams by the caller leave alone what nobody has used yet: a page fault may
 * wait, for a disk or for a file system that does not answer.
 *
 * The memory of pages is a direct-mapped table of page numbers; entries are single words, so
 * threads need no lock: a lost update only costs another question.
 */
#include "internal.h"

#include <string.h>

static bool page_answers(uintptr_t page, bool write)
{
	/*
	 * Not the first word: in the first page that would be a null pointer, which asks for
	 * nothing.
	 */
	uintptr_t address = (page << TA_PAGE_SHIFT) + 8;
	uint32_t add_nothing = FUTEX_OP(FUTEX_OP_ADD, 0, FUTEX_OP_CMP_LT, 0);
	uint32_t unused_word = 0;

	if (write)
		return ta_syscall(SYS_futex, (long)&unused_word, FUTEX_WAKE_OP | FUTEX_PRIVATE_FLAG,
				  0, 0, (long)address, (long)add_nothing) != -EFAULT;
	return ta_syscall4(SYS_rt_sigprocmask, -1, address, NULL, 8) != -EFAULT;
}

static uintptr_t entry_of(uintptr_t page)
{
	/* relaxed: the word is the whole message. */
	return atomic_load_explicit(ta_page_entry(ta_process(), page), memory_order_relaxed);
}

/* What is writable is readable. */
static bool tells(uintptr_t entry, uintptr_t page, bool write)
{
	return (entry | TA_PAGE_WRITABLE) == ta_page_value(page, true) &&
	       (!write || entry & TA_PAGE_WRITABLE);
}

static void remember(uintptr_t page, uintptr_t value)
{
	/* relaxed: as above. */
	atomic_store_explicit(ta_page_entry(ta_process(), page), value, memory_order_relaxed);
}

static TA_COLD bool ask(uintptr_t page, bool write)
{
	if (!page_answers(page, write))
		return false;
	remember(page, ta_page_value(page, write));
	return true;
}

bool ta_memory_probe_slow(const void *address, size_t bytes, bool write)
{
	uintptr_t page = (uintptr_t)address >> TA_PAGE_SHIFT;
	uintptr_t last;

	if (bytes == 0)
		return true;
	if ((uintptr_t)address + bytes - 1 < (uintptr_t)address)
		return false;
	for (last = ((uintptr_t)address + bytes - 1) >> TA_PAGE_SHIFT; page <= last; page++) {
		if (!ta_likely(tells(entry_of(page), page, write)) && !ask(page, write))
			return false;
	}
	return true;
}

bool ta_memory_was_used(const void *address, bool write)
{
	uintptr_t page = (uintptr_t)address >> TA_PAGE_SHIFT;

	return tells(entry_of(page) & ~(uintptr_t)TA_PAGE_USED, page, write);
}

void ta_memory_remember_use(const void *address, bool write)
{
	uintptr_t page = (uintptr_t)address >> TA_PAGE_SHIFT;

	if (!ta_memory_was_used(address, write))
		remember(page, ta_page_value(page, write) | TA_PAGE_USED);
}

/* Can it be written now, whatever is remembered of its page? */
bool ta_memory_ask(const void *address)
{
	return page_answers((uintptr_t)address >> TA_PAGE_SHIFT, true);
}

bool ta_copy_in(void *to, const void *from, size_t bytes)
{
	/* Nothing may come from nowhere: an empty vector needs no address. */
	if (bytes == 0)
		return true;
	if (!ta_memory_probe(from, bytes, false))
		return false;
	memcpy(to, from, bytes);
	return true;
}
