/* SPDX-License-Identifier: MIT */
/*
 * The completion ring that the kernel maps into the process for each AIO context, and reaping from
 * it without a system call.
 *
 * The kernel writes an event, then tail; the consumer reads tail, the events, then writes head.
 * The kernel takes the consumer's word for head: slots before it are free again at once.  There may
 * be one consumer at a time; ours holds the context's lock. Together with kaio.c this is the only
 * place that touches head and tail.
 */
#ifndef TA_RING_H
#define TA_RING_H

#include "libaio.h"
#include "sys.h"

#include <stddef.h>

#define TA_RING_MAGIC_KERNEL 0xa10a10a1u
/* Readers that check the magic (fio, SPDK) find it foreign and call io_getevents instead. */
#define TA_RING_MAGIC_MEDIATED 0x7a10a10au

struct ta_ring {
	uint32_t id;
	uint32_t event_count; /* slots in the ring; one stays empty */
	_Atomic uint32_t head;
	_Atomic uint32_t tail;
	_Atomic uint32_t magic;
	uint32_t compat_features;
	uint32_t incompat_features;
	uint32_t header_length;
	struct io_event events[];
};

_Static_assert(offsetof(struct ta_ring, head) == 8, "the kernel's struct aio_ring");
_Static_assert(offsetof(struct ta_ring, tail) == 12, "the kernel's struct aio_ring");
_Static_assert(offsetof(struct ta_ring, events) == 32, "the kernel's struct aio_ring");

/*
 * A stretch of the ring that one consumer walks; head moves locally and is published by
 * ta_ring_publish.  The ring is the program's memory: who scribbles over head and tail loses
 * events, but nothing outside the ring is read, and no walk is longer than the ring.  So the number
 * of events is not the one that stands there.
 */
struct ta_ring_reader {
	struct ta_ring *ring;
	uint32_t head;
	uint32_t tail;
	uint32_t count;
};

static inline struct ta_ring_reader ta_ring_open(struct ta_ring *ring, uint32_t event_count)
{
	struct ta_ring_reader reader = { .ring = ring };

	/* In a child that a handler has forked a moment ago the context is wiped. */
	if (ta_unlikely(!ring || event_count == 0))
		return reader;
	/* A child that a handler forks here gets a ring to look at, too: fork.c. */
	ta_thread.ring = ring;
	ta_thread.ring_bytes = sizeof(*ring) + event_count * sizeof(struct io_event);
	atomic_signal_fence(memory_order_seq_cst);
	TA_KERNEL_ACQUIRE(ring);
	/* relaxed: only consumers under the context's lock write head. */
	reader.head = atomic_load_explicit(&ring->head, memory_order_relaxed);
	/* acquire: pairs with the kernel's barrier between storing an event and storing tail. */
	reader.tail = atomic_load_explicit(&ring->tail, memory_order_acquire);
	reader.count = event_count;
	if (ta_unlikely(reader.head >= event_count))
		reader.head %= event_count;
	if (ta_unlikely(reader.tail >= event_count))
		reader.tail %= event_count;
	return reader;
}

static inline uint32_t ta_ring_head(const struct ta_ring *ring)
{
	/* relaxed: as above. */
	return atomic_load_explicit(&ring->head, memory_order_relaxed);
}

static inline uint32_t ta_ring_available(struct ta_ring_reader reader)
{
	return reader.tail >= reader.head ? reader.tail - reader.head
					  : reader.tail + reader.count - reader.head;
}

static inline const struct io_event *ta_ring_next(struct ta_ring_reader *reader)
{
	const struct io_event *event;

	if (reader->head == reader->tail)
		return NULL;
	event = &reader->ring->events[reader->head];
	if (++reader->head == reader->count)
		reader->head = 0;
	return event;
}

static inline void ta_ring_publish(struct ta_ring_reader reader)
{
	/*
	 * release: the kernel may overwrite the events from here on, so they must have been read.
	 */
	atomic_store_explicit(&reader.ring->head, reader.head, memory_order_release);
}

#endif
