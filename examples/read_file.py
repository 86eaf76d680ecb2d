#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""read_file.py FILE: copies a file to standard output, with eight reads in flight.

Shows libaio from Python, through ctypes alone.  The structures are fields of 64 bits whatever the
machine, so a pointer or a long is followed, or on big-endian machines preceded, by padding where it
is half as wide, and the two halves of a pair change places with the byte order.  The functions
return negative error numbers; errno is not set.

An iocb, its buffer and the array that leads to it are Python objects: they must be referred to from
somewhere until the event has been taken.  Here a Read owns them all, and a dictionary finds it by
the address that the event brings.

    ./read_file.py /usr/share/dict/words | cmp - /usr/share/dict/words
"""
import ctypes
import errno
import os
import sys

IO_CMD_PREAD = 0
READS = 8
BLOCK_BYTES = 65536
BIG_ENDIAN = sys.byteorder == "big"
WORD_BYTES = ctypes.sizeof(ctypes.c_long)


def word(name, kind):
    """A field of 64 bits that holds a pointer or a long."""
    if WORD_BYTES == 8:
        return [(name, kind)]
    halves = [(name, kind), ("pad_" + name, ctypes.c_uint32)]
    return halves[::-1] if BIG_ENDIAN else halves


def pair(low, high):
    """A field of 64 bits that is two of 32."""
    halves = [(low, ctypes.c_uint32), (high, ctypes.c_uint32)]
    return halves[::-1] if BIG_ENDIAN else halves


class Iocb(ctypes.Structure):
    _fields_ = [
        *word("data", ctypes.c_void_p),
        *pair("key", "aio_rw_flags"),
        ("aio_lio_opcode", ctypes.c_int16),
        ("aio_reqprio", ctypes.c_int16),
        ("aio_fildes", ctypes.c_int32),
        *word("buf", ctypes.c_void_p),
        *word("nbytes", ctypes.c_ulong),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_int64),
        ("flags", ctypes.c_uint32),
        ("resfd", ctypes.c_uint32),
    ]


class IoEvent(ctypes.Structure):
    _fields_ = [
        *word("data", ctypes.c_void_p),
        *word("obj", ctypes.c_void_p),
        *word("res", ctypes.c_long),
        *word("res2", ctypes.c_long),
    ]


assert ctypes.sizeof(Iocb) == 64 and ctypes.sizeof(IoEvent) == 32

aio = ctypes.CDLL("libaio.so.1")
aio.io_setup.argtypes = [ctypes.c_int, ctypes.POINTER(ctypes.c_void_p)]
aio.io_submit.argtypes = [ctypes.c_void_p, ctypes.c_long, ctypes.POINTER(ctypes.POINTER(Iocb))]
aio.io_getevents.argtypes = [
    ctypes.c_void_p, ctypes.c_long, ctypes.c_long, ctypes.POINTER(IoEvent), ctypes.c_void_p
]
aio.io_destroy.argtypes = [ctypes.c_void_p]


def checked(result, what):
    if result < 0:
        raise OSError(-result, os.strerror(-result), what)
    return result


class Context:
    """A context; the end of its `with` waits for what is in flight."""

    def __init__(self, requests):
        self.handle = ctypes.c_void_p()
        self.events = (IoEvent * requests)()
        checked(aio.io_setup(requests, ctypes.byref(self.handle)), "io_setup")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        checked(aio.io_destroy(self.handle), "io_destroy")

    def submit(self, read):
        iocbs = (ctypes.POINTER(Iocb) * 1)(ctypes.pointer(read.iocb))
        checked(aio.io_submit(self.handle, 1, iocbs), "io_submit")

    def wait(self):
        """At least one event, and as many as there are."""
        count = -errno.EINTR
        while count == -errno.EINTR:
            count = aio.io_getevents(self.handle, 1, len(self.events), self.events, None)
        return self.events[:checked(count, "io_getevents")]


class Read:
    def __init__(self, fd, offset, count):
        self.buffer = ctypes.create_string_buffer(count)
        self.iocb = Iocb(
            aio_lio_opcode=IO_CMD_PREAD,
            aio_fildes=fd,
            buf=ctypes.addressof(self.buffer),
            nbytes=count,
            offset=offset,
        )
        self.address = ctypes.addressof(self.iocb)

    def data(self, event):
        return self.buffer.raw[:checked(event.res, f"read at {self.iocb.offset}")]


def blocks(fd):
    """The blocks of a file, in order; they are read in any."""
    in_flight = {}
    came = {}
    next_read = next_yield = 0
    at_end = False
    # The context's end comes before that of in_flight, which owns the buffers.
    with Context(READS) as context:

        def start(offset, count):
            read = Read(fd, offset, count)
            context.submit(read)
            in_flight[read.address] = read

        while True:
            while not at_end and len(in_flight) + len(came) < READS:
                start(next_read, BLOCK_BYTES)
                next_read += BLOCK_BYTES
            if next_yield in came:
                data = came.pop(next_yield)
                next_yield += len(data)
                yield data
            elif not in_flight:
                return
            else:
                for event in context.wait():
                    read = in_flight.pop(event.obj)
                    data = read.data(event)
                    if data:
                        came[read.iocb.offset] = data
                    else:
                        at_end = True
                    if 0 < len(data) < read.iocb.nbytes:
                        # A short read ends a file only if the next one finds nothing.
                        start(read.iocb.offset + len(data), read.iocb.nbytes - len(data))


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: read_file.py FILE")
    with open(sys.argv[1], "rb") as file:
        for block in blocks(file.fileno()):
            sys.stdout.buffer.write(block)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
