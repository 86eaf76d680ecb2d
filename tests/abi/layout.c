/* SPDX-License-Identifier: MIT */
/*
 * Where the kernel looks for the members of struct iocb and puts those of struct io_event, as a
 * table over byte order and width of long.  The header pins the same, in its own terms; this table
 * is apart from it, so that a mistake there does not prove itself right.  Nothing is run.
 */
#include <libaio.h>

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ && __SIZEOF_LONG__ == 8
#define ROW(little_64, little_32, big_64, big_32) little_64
#elif __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define ROW(little_64, little_32, big_64, big_32) little_32
#elif __SIZEOF_LONG__ == 8
#define ROW(little_64, little_32, big_64, big_32) big_64
#else
#define ROW(little_64, little_32, big_64, big_32) big_32
#endif

#define AT(type, member, little_64, little_32, big_64, big_32) \
	_Static_assert(__builtin_offsetof(type, member) == \
		       ROW(little_64, little_32, big_64, big_32), #member)
#define IOCB(member, ...) AT(struct iocb, member, __VA_ARGS__)
#define EVENT(member, ...) AT(struct io_event, member, __VA_ARGS__)
#define BYTES(expression, bytes) _Static_assert(sizeof(expression) == (bytes), #expression)

IOCB(data, 0, 0, 0, 4);
IOCB(key, 8, 8, 12, 12);
IOCB(aio_rw_flags, 12, 12, 8, 8);
IOCB(aio_lio_opcode, 16, 16, 16, 16);
IOCB(aio_reqprio, 18, 18, 18, 18);
IOCB(aio_fildes, 20, 20, 20, 20);
IOCB(u.c.buf, 24, 24, 24, 28);
IOCB(u.c.nbytes, 32, 32, 32, 36);
IOCB(u.c.offset, 40, 40, 40, 40);
IOCB(u.c.__pad3, 48, 48, 48, 48);
IOCB(u.c.flags, 56, 56, 56, 56);
IOCB(u.c.resfd, 60, 60, 60, 60);
IOCB(u.v.vec, 24, 24, 24, 28);
IOCB(u.v.nr, 32, 32, 32, 36);
IOCB(u.v.offset, 40, 40, 40, 40);
IOCB(u.poll.events, 24, 24, 28, 28);
IOCB(u.poll.__pad1, 28, 28, 24, 24);
IOCB(u.saddr.addr, 24, 24, 24, 28);
IOCB(u.saddr.len, 32, 32, 32, 36);
EVENT(data, 0, 0, 0, 4);
EVENT(obj, 8, 8, 8, 12);
EVENT(res, 16, 16, 16, 20);
EVENT(res2, 24, 24, 24, 28);

BYTES(struct iocb, 64);
BYTES(struct io_event, 32);
BYTES(struct io_sigset, 2 * sizeof(long));
BYTES(((struct iocb *)0)->data, sizeof(long));
BYTES(((struct iocb *)0)->key, 4);
BYTES(((struct iocb *)0)->aio_rw_flags, 4);
BYTES(((struct iocb *)0)->aio_lio_opcode, 2);
BYTES(((struct iocb *)0)->aio_reqprio, 2);
BYTES(((struct iocb *)0)->aio_fildes, 4);
BYTES(((struct iocb *)0)->u.c.nbytes, sizeof(long));
BYTES(((struct iocb *)0)->u.c.offset, 8);
BYTES(((struct iocb *)0)->u.c.flags, 4);
BYTES(((struct iocb *)0)->u.poll.events, 4);
BYTES(((struct io_event *)0)->res, sizeof(long));
_Static_assert(__builtin_offsetof(struct io_sigset_compat, ss) == ROW(0, 0, 0, 4), "ss");
_Static_assert(__builtin_offsetof(struct io_sigset_compat, ss_len) == 8, "ss_len");
