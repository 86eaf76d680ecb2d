# SPDX-License-Identifier: MIT
#
# multipath.py SERVER BROKEN SLOW GOOD...: asks many paths to block devices whether they are up, through the directio
# checker of multipath-tools, as multipathd does. BROKEN answers reads with errors; SLOW does not answer while the
# process SERVER is stopped. Prints which libaio the checker has, and last what was asked. Raises what was wrong.
import ctypes
import os
import resource
import signal
import sys
import time

# The states of libmultipath that the checker gives.
DOWN, UP, PENDING = 2, 3, 6
# One context of the checker is for 1024 paths; this makes two of them.
OPENINGS = 260
# A path is down when it has not answered so many times. multipathd asks once a second, this program as fast as it can:
# so the good paths, which only need a moment, have more patience.
TIMEOUT = 5
PATIENCE = 1 << 30


class Checker(ctypes.Structure):
    """struct checker of libmultipath 0.9."""

    _fields_ = [
        ("type", ctypes.c_void_p),
        ("fd", ctypes.c_int),
        ("timeout", ctypes.c_uint),
        ("disable", ctypes.c_int),
        ("message", ctypes.c_short),
        ("context", ctypes.c_void_p),
        ("mpcontext", ctypes.c_void_p),
    ]


class Path:
    def __init__(self, library, device, timeout=PATIENCE):
        self.library = library
        self.checker = Checker(fd=os.open(device, os.O_RDONLY | os.O_DIRECT), timeout=timeout)
        self.questions = 0
        if library.libcheck_init(ctypes.byref(self.checker)) != 0:
            raise SystemExit(f"{device}: the checker could not be set up")

    def ask(self):
        self.questions += 1
        return self.library.libcheck_check(ctypes.byref(self.checker))

    def close(self):
        self.library.libcheck_free(ctypes.byref(self.checker))
        os.close(self.checker.fd)


def expect(paths, state, what):
    """All of them are asked in turns until each has an answer, which has to be that state."""
    end = time.monotonic() + 60
    while paths:
        answers = [(path, path.ask()) for path in paths]
        if wrong := {given for _, given in answers} - {state, PENDING}:
            raise SystemExit(f"{what}: a path is in state {wrong}, not {state}")
        paths = [path for path, given in answers if given == PENDING]
        if time.monotonic() > end:
            raise SystemExit(f"{what}: {len(paths)} paths stay pending")


def wait_until_up(path):
    end = time.monotonic() + 60
    while path.ask() != UP:
        if time.monotonic() > end:
            raise SystemExit("a disk that answers is not up")


def main():
    server, broken, slow, *good = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))

    library = ctypes.CDLL("/lib/multipath/libcheckdirectio.so")
    with open("/proc/self/maps") as maps:
        for mapped in sorted({line.split()[-1] for line in maps if "/libaio.so" in line}):
            print("library", mapped)

    paths = [Path(library, device) for _ in range(OPENINGS) for device in good]
    for _ in range(3):
        expect(paths, UP, "good disks")
    broken_path, slow_path = Path(library, broken), Path(library, slow, TIMEOUT)
    expect([broken_path], DOWN, "a disk that answers with errors")
    wait_until_up(slow_path)

    os.kill(int(server), signal.SIGSTOP)
    # Down after so many questions, and each of them comes back.
    states = [slow_path.ask() for _ in range(TIMEOUT + 1)]
    if states != [PENDING] * TIMEOUT + [DOWN]:
        raise SystemExit(f"a disk that does not answer: {states}")
    expect(paths, UP, "good disks beside one that does not answer")
    if slow_path.ask() != DOWN:
        raise SystemExit("a disk that does not answer is up")
    os.kill(int(server), signal.SIGCONT)
    wait_until_up(slow_path)

    everyone = paths + [broken_path, slow_path]
    for path in everyone:
        path.close()
    # Gives the contexts back.
    library.libcheck_reset()
    print(f"{len(everyone)} paths, {sum(path.questions for path in everyone)} questions; "
          "down with errors, down while it did not answer, up again")


main()
