/* SPDX-License-Identifier: MIT */
/*
 * io_cancel.
 *
 * The request is found by the address of the program's iocb, in an index that a context gets with
 * its first io_cancel and keeps up to date from then on; contexts in which nothing is ever
 * cancelled do without.  The context's lock guards it.
 */
#include "internal.h"

#include "work.h"

#define INDEX_BUCKETS (TA_PAGE_BYTES / sizeof(struct ta_slot *))

static struct ta_slot **bucket_of(struct ta_context *context, const struct iocb *object)
{
	uint64_t hash = (uintptr_t)object * 0x9e3779b97f4a7c15u;

	return &context->index[(hash >> 32) % INDEX_BUCKETS];
}

void ta_index_add(struct ta_context *context, struct ta_slot *slot)
{
	struct ta_slot **bucket = bucket_of(context, slot->object);

	slot->index_next = *bucket;
	*bucket = slot;
}

void ta_index_remove(struct ta_context *context, struct ta_slot *slot)
{
	struct ta_slot **link = bucket_of(context, slot->object);

	while (*link != slot)
		link = &(*link)->index_next;
	*link = slot->index_next;
}

static bool is_in_flight(const struct ta_slot *slot)
{
	return slot->state != TA_SLOT_FREE && slot->state != TA_SLOT_READY;
}

/* 0 or -EAGAIN. */
static int make_index(struct ta_context *context)
{
	struct ta_slot_page *page;
	size_t i;

	if (context->index)
		return 0;
	context->index = ta_page_take();
	if (!context->index)
		return -EAGAIN;
	memset(context->index, 0, TA_PAGE_BYTES);
	for (page = context->slot_pages; page; page = page->next)
		for (i = 0; i < TA_SLOTS_A_PAGE; i++)
			if (is_in_flight(&page->slots[i]))
				ta_index_add(context, &page->slots[i]);
	return 0;
}

/* The oldest request of the iocb that is in flight, younger than the one of this sequence. */
static struct ta_slot *oldest_request(struct ta_context *context, const struct iocb *object,
				      uint64_t after)
{
	struct ta_slot *oldest = NULL, *slot;

	for (slot = *bucket_of(context, object); slot; slot = slot->index_next) {
		if (slot->object != object || slot->sequence <= after ||
		    slot->flags & TA_SLOT_CANCELLED)
			continue;
		if (!oldest || slot->sequence < oldest->sequence)
			oldest = slot;
	}
	return oldest;
}

static int cancel_one(struct ta_context *context, struct ta_slot *slot)
{
	struct io_event unused_event;

	if (slot->state == TA_SLOT_OPERATION)
		return ta_operation_cancel(slot->operation);
	if (slot->state == TA_SLOT_KERNEL &&
	    ta_kaio_cancel(context->kernel_handle, &slot->iocb, &unused_event) == -EINPROGRESS)
		return -EINPROGRESS;
	return -EAGAIN;
}

/*
 * The program may have used one iocb for several requests: the oldest is meant.  One that is past
 * cancelling is in the way of other transfers, but of no POLL, for which alone the kernel looks.
 */
static int cancel_oldest(struct ta_context *context, const struct iocb *iocb, struct ta_work *work)
{
	struct ta_slot *slot;
	uint64_t after = 0;
	int result = make_index(context);

	if (result < 0)
		return result;
	result = -EINVAL;
	ta_drain(context, work);
	ta_wake_unaware(context);
	while ((slot = oldest_request(context, iocb, after)) != NULL) {
		bool is_in_the_way = after && slot->iocb.aio_lio_opcode != IO_CMD_POLL;

		after = slot->sequence;
		if (is_in_the_way)
			continue;
		result = cancel_one(context, slot);
		if (result != -EINPROGRESS)
			continue;
		slot->flags |= TA_SLOT_CANCELLED;
		break;
	}
	return result;
}

/*
 * io_cancel(3): -EINPROGRESS if its event will say -ECANCELED, -EAGAIN if it is past cancelling,
 * -EINVAL if nothing is known of it.
 */
int ta_cancel(struct ta_process *process, io_context_t handle, struct iocb *iocb)
{
	struct ta_work work = { 0 };
	struct ta_signals before;
	struct ta_context *context;
	int result = -EINVAL;

	if (!ta_memory_probe(iocb, sizeof(*iocb), false))
		return -EFAULT;
	ta_signals_block(&before);
	context = ta_context_lock(process, handle);
	if (context) {
		result = context->mode == TA_CONTEXT_PASSTHROUGH
				 ? ta_passthrough_cancel(context, iocb)
				 : cancel_oldest(context, iocb, &work);
		ta_unlock(&context->lock);
		ta_work_finish(&work);
	}
	ta_signals_set(&before, NULL);
	return result;
}
