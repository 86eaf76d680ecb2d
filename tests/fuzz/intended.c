/* SPDX-License-Identifier: MIT */
/*
 * What the library may do otherwise than the kernel: this list, and nothing else.
 *
 * Most of what the two answer differently needs no entry, because the reference is the kernel and
 * not the older library. Argument checks of io_getevents with a zero timeout and checks of
 * handles are the kernel's. How many requests fit into a context is not tested here; programs
 * stay below both.
 *
 *  noop		The manual says that IO_CMD_NOOP is skipped: it counts in io_submit's
 *		result and has no event. The kernel refuses it. So the reference is given what
 *		stands between the NOOPs.
 *  key		What io_submit leaves in the key of the one iocb that it refuses is not compared
 *		(run.c).
 *  cancel	io_cancel of a request in flight that cannot be cancelled any more, or whose event
 *		nobody has taken yet, is -EAGAIN, as the manual says; the kernel says -EINVAL.
 *  cancelled	The library can cancel reads and fsyncs that it has not started: -EINPROGRESS, and
 *		the event's res is -ECANCELED; that of a POLL is 0, ready or not. What they would
 *		have read is then not compared (run.c), and others are never cancelled in flight.
 *  torn		An O_DIRECT write of several parts whose later part is misaligned is
 *		-EINVAL, and the kernel may have written the parts before it: twice in 200 times
 *		on ext4. What the file holds from there on is not compared, nor what was read
 *		(run.c).
 *  collision	A cached write that meets an O_DIRECT write in flight leaves -EIO with the file
 *		("Page cache invalidation failure" in the kernel's log). The next fsync gets it,
 *		and that may be the other run's or a later program's.
 *  late		Where requests do not go to the kernel's AIO, what the file itself refuses
 *		shows only when the request is made: io_submit accepts it, and its event carries
 *		the error. Those are EINVAL (the file has no such operation) and EOPNOTSUPP (it
 *		does not know a flag).
 *  mask		Where POLLs do not go to the kernel's AIO, res holds the bits that were
 *		asked for (with IN also RDNORM, with OUT also WRNORM), and ERR and HUP. The kernel
 *		gives the waker's bits, which are more: a Unix socket that gets data claims PRI,
 *		too, and so ends a POLL that asked for PRI alone. Such POLLs are not made.
 *  flags	Whether a file knows DONTCACHE or NOWAIT cannot be asked where it is not
 *		open for reading. Requests of such a file do not have these flags.
 */
#include "fuzz.h"

static bool uses_kernel_aio = true;

void intended_set_engine(const char *name)
{
	uses_kernel_aio = strcmp(name, "threads") != 0;
}

/* noop: the number that would have been accepted if the NOOPs counted. */
int intended_submit(const struct calls *calls, io_context_t context,
		    const struct operation *operation)
{
	long nr = operation->submit.nr, count = (long)operation->submit.count;
	long start = 0;

	if (operation->submit.array_is_bad || nr < 0)
		return calls->submit(context, nr, operation->submit.array);
	for (long i = 0; i < count && i < nr; i++) {
		int result;

		if (!operation->submit.elements[i].noop)
			continue;
		/* Of no requests, for what is said about the context. */
		result = calls->submit(context, i - start, operation->submit.array + start);
		if (result < i - start)
			return (int)(result < 0 && start > 0 ? start : start + result);
		start = i + 1;
	}
	if (start > 0 && start >= nr)
		return (int)start;
	nr = calls->submit(context, nr - start, operation->submit.array + start);
	return (int)(nr < 0 && start > 0 ? start : start + nr);
}

/* late: has the library accepted more? */
bool intended_late_submit(int reference, int library)
{
	return !uses_kernel_aio && library > 0 && library > reference &&
	       (reference >= 0 || intended_late_error(reference));
}

/* mask: what a POLL of the target may ask for. */
int intended_poll_events(enum target target, int events)
{
	bool is_socket = target >= SOCKET_A && target <= BLOCKING_SOCKET_B;

	if (uses_kernel_aio || !is_socket || events & ~UINT16_MAX)
		return events;
	return events & (POLLIN | POLLOUT) ? events & ~POLLPRI : POLLIN;
}

/* flags: what a request of the file may ask for. */
unsigned intended_rw_flags(int fd, unsigned flags)
{
	int access = fcntl(fd, F_GETFL) & O_ACCMODE;
	bool is_unreadable = access != O_RDONLY && access != O_RDWR;

	return !uses_kernel_aio && is_unreadable ? flags & ~(unsigned)(RWF_NOWAIT | DONT_CACHE)
						 : flags;
}

bool intended_late_error(long res)
{
	return res == -EINVAL || res == -EOPNOTSUPP;
}

/*
 * cancelled: is it clear which request is meant?  Of several at one address the oldest is, that has
 * not begun.
 */
bool intended_cancel_is_clear(unsigned candidates)
{
	return uses_kernel_aio || candidates <= 1;
}

/* cancelled: may it be asked for while the request is in flight? */
bool intended_cancellable(const struct request *request)
{
	const struct descriptor *target = &world.descriptors[request->target];

	switch (request->iocb.aio_lio_opcode) {
	case IO_CMD_PREAD:
	case IO_CMD_PREADV:
		return target->read_channel == NO_CHANNEL && request->target != SEMAPHORE;
	case IO_CMD_POLL:
	case IO_CMD_FSYNC:
	case IO_CMD_FDSYNC:
		return true;
	default:
		return false;
	}
}

/* torn: may the file hold some of what was refused? */
bool intended_to_be_torn(const struct request *request)
{
	return request->ended && request->iocb.aio_lio_opcode == IO_CMD_PWRITEV &&
	       request->iocb.u.c.nbytes > 1 && world.descriptors[request->target].direct &&
	       request->result == -EINVAL;
}

/* collision: both runs ask the file for its error, and the error is given once. */
static bool is_intended_fsync(const struct observation *reference,
			      const struct observation *library)
{
	const struct request *request = &library->request;
	long one = (long)reference->event.res, other = (long)library->event.res;

	return (request->iocb.aio_lio_opcode == IO_CMD_FSYNC ||
		request->iocb.aio_lio_opcode == IO_CMD_FDSYNC) &&
	       world.descriptors[request->target].inode == INODE_DISK &&
	       ((one == -EIO && other == 0) || (one == 0 && other == -EIO)) &&
	       reference->event.data == library->event.data &&
	       reference->event.obj == library->event.obj;
}

static bool is_intended_cancel(const struct observation *reference,
			       const struct observation *library)
{
	const struct request *request = &library->request;

	if (reference->value != -EINVAL || !request->address)
		return false;
	return library->value == -EAGAIN ||
	       (library->value == -EINPROGRESS && (!request->is_poll || !uses_kernel_aio));
}

/*
 * Is only the result another one, and may be?  Where a long has 32 bits, its sign is in the
 * padding, too.
 */
static bool is_intended_event(const struct observation *reference,
			      const struct observation *library)
{
	const struct io_event *event = &library->event, *expected = &reference->event;
	const struct request *request = &library->request;
	bool is_intended = request->cancelled &&
			   (request->is_poll ? event->res == 0 : (long)event->res == -ECANCELED);

	if (request->is_poll && !uses_kernel_aio && (long)expected->res > 0) {
		unsigned long asked = (unsigned)request->iocb.u.poll.events | POLLERR | POLLHUP;

		asked |= asked & POLLIN ? POLLRDNORM : 0;
		asked |= asked & POLLOUT ? POLLWRNORM : 0;
		is_intended |= event->res == (expected->res & asked);
	}
	return is_intended && event->data == expected->data && event->obj == expected->obj &&
	       event->res2 == expected->res2;
}

/* The entry's name, or null. */
const char *intended_difference(const struct observation *reference,
				const struct observation *library)
{
	if (reference->kind == SAW_CANCEL && is_intended_cancel(reference, library))
		return "cancel";
	if (reference->kind == SAW_EVENT && is_intended_event(reference, library))
		return library->request.cancelled ? "cancelled" : "mask";
	if (reference->kind == SAW_EVENT && is_intended_fsync(reference, library))
		return "collision";
	return NULL;
}
