#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
#
# Programs that take their events by themselves, from the ring or by a system call, are recognized however they
# are linked, and those that leave it to the library are never taken for such: src/caller.c.
#
# linked.c is linked in many ways, and run on each engine. A pass-through program must find the kernel's magic in
# the ring, and all its events with its own iocbs; on an engine without the kernel's ring it must be refused. A
# mediated one must find the other magic, and all its events by the library's functions.
#
# Environment: CC (gcc) and BUILD, which may be another architecture's, and EMULATOR, the command that runs its programs.
# i386 has another kind of relocations.

load common

setup() {
	require_library
	cd "$BATS_TEST_TMPDIR" || return
	unset TRUEAIO_ENGINE TRUEAIO_LOG
	engines=(native threads)
	linkers=(bfd gold lld)
	[ -z "${EMULATOR:-}" ] || engines=(threads) linkers=(bfd gold)
	whole=(-DSETUP -DSUBMIT -DMAIN)
	shared=(-L"$library_dir" -laio)
}

# link_program FLAG...: ./program of linked.c, without flags of its own for libraries.
link_program() {
	${CC:-gcc} -O2 -Wall -Wextra -Werror -I"$repository/include" -o program "$BATS_TEST_DIRNAME/linked.c" "$@"
}

# link_object NAME FLAG...: libNAME.so of linked.c.
link_object() {
	local name=$1

	shift
	${CC:-gcc} -O2 -fPIC -shared -Wall -Wextra -Werror -I"$repository/include" -o "lib$name.so" \
		"$BATS_TEST_DIRNAME/linked.c" "$@"
}

# What the last program prints on one engine; the rest of the line is for those who read a failure.
on() {
	# shellcheck disable=SC2086
	run env LD_LIBRARY_PATH="$library_dir:$PWD" TRUEAIO_ENGINE="$1" timeout 20 ${EMULATOR:-} ./program file
	echo "on $1: status $status: $output; $what"
}

is_mediated() {
	local engine

	for engine in "${engines[@]}"; do
		on "$engine"
		[ "$status $output" = "0 7a10a10a $engine 3" ] || return
	done
}

is_passed_through() {
	local engine

	for engine in "${engines[@]}"; do
		on "$engine"
		if [ "$engine" = native ]; then
			[ "$status $output" = "0 a10a10a1 native-passthrough 3" ] || return
		else
			[ "$status" = 1 ] && [[ $output == *"io_setup: Function not implemented"* ]] || return
		fi
	done
}

# linked_both_ways FLAG...: a program of each kind. What serves it has nothing to do with how it is linked, so two
# engines do.
linked_both_ways() {
	local engines=("${engines[@]}")

	[ "${#engines[@]}" = 1 ] || engines=(native threads)
	what="CC=${CC:-gcc} $*"
	link_program "${whole[@]}" -DTAKE=GETEVENTS "$@"
	is_mediated
	link_program "${whole[@]}" -DTAKE=RING "$@"
	is_passed_through
}

@test "each function that takes events makes a program a mediated one" {
	for take in GETEVENTS GETEVENTS_0_1 PGETEVENTS QUEUE_RUN; do
		what=$take
		link_program "${whole[@]}" -DTAKE=$take "${shared[@]}"
		is_mediated
	done
}

@test "a program without them is passed through, though it calls io_queue_wait" {
	for take in RING SYSCALL "RING -DQUEUE_WAIT" "SYSCALL -DQUEUE_WAIT"; do
		what=$take
		# shellcheck disable=SC2086
		link_program "${whole[@]}" -DTAKE=$take "${shared[@]}"
		is_passed_through
	done
}

@test "whatever the linker" {
	for linker in "${linkers[@]}"; do
		linked_both_ways -fuse-ld="$linker" -Wl,-z,lazy -Wl,--hash-style=gnu "${shared[@]}"
		linked_both_ways -fuse-ld="$linker" -fno-pie -no-pie -Wl,-z,now -Wl,--hash-style=sysv -s "${shared[@]}"
	done
}

@test "whatever the compiler makes of a call" {
	for flags in -fno-plt "-fno-pie -no-pie" -DBY_ADDRESS "-DBY_ADDRESS -fno-pie -no-pie" -flto "-flto -fuse-ld=gold" \
		"-Wl,--as-needed -Wl,-z,lazy -DBY_ADDRESS"; do
		# shellcheck disable=SC2086
		linked_both_ways $flags "${shared[@]}"
	done
	[ -z "${EMULATOR:-}" ] || return 0
	CC=clang linked_both_ways "${shared[@]}"
	CC=clang linked_both_ways -flto -fuse-ld=lld "${shared[@]}"
}

@test "relative relocations in a table of their own" {
	linked_both_ways -Wl,-z,pack-relative-relocs -DBY_ADDRESS "${shared[@]}"
}

@test "by two tables of relocations: calls bound when they are first made, and addresses" {
	# -fno-plt and -fplt for each half of the program in turn.
	for halves in "-fno-plt -fplt" "-fplt -fno-plt"; do
		read -r first second <<<"$halves"
		for take in GETEVENTS RING; do
			what="$halves $take"
			${CC:-gcc} -O2 -c -fPIE "$first" -I"$repository/include" -o half.o -DSETUP -DSUBMIT "$BATS_TEST_DIRNAME/linked.c"
			link_program "$second" -DMAIN -DTAKE=$take -Wl,-z,lazy half.o "${shared[@]}"
			if [ $take = RING ]; then is_passed_through; else is_mediated; fi
		done
	done
}

@test "an object of the program's that makes, submits and takes" {
	for take in GETEVENTS RING SYSCALL; do
		what=$take
		link_object whole -DSETUP -DSUBMIT -DTAKE=$take "${shared[@]}"
		link_program -DMAIN -L. -lwhole "${shared[@]}"
		if [ $take = GETEVENTS ]; then is_mediated; else is_passed_through; fi
	done
}

@test "an object counts for itself, whatever the program imports, and by io_queue_init, too" {
	for flags in "" -Dio_setup=io_queue_init; do
		what=$flags
		# shellcheck disable=SC2086
		link_object whole -DSETUP $flags -DSUBMIT -DTAKE=RING "${shared[@]}"
		link_program -DMAIN -DREFERS -L. -lwhole "${shared[@]}"
		is_passed_through
	done
}

# The call's return address is in the program, which imports nothing that tells.
@test "an object that jumps to io_setup instead of calling it" {
	for take in GETEVENTS RING; do
		what=$take
		link_object whole -DSETUP -DTAIL_CALL -DSUBMIT -DTAKE=$take "${shared[@]}"
		link_program -DMAIN -L. -lwhole "${shared[@]}"
		if [ $take = GETEVENTS ]; then is_mediated; else is_passed_through; fi
	done
}

@test "an object that does no more than io_setup, and another that does the rest" {
	for take in GETEVENTS RING; do
		what=$take
		link_object wrap -DSETUP "${shared[@]}"
		link_object rest -DSUBMIT -DTAKE=$take "${shared[@]}"
		link_program -DMAIN -L. -lwrap -lrest "${shared[@]}"
		if [ $take = GETEVENTS ]; then is_mediated; else is_passed_through; fi
	done
}

# It looks like one that takes by itself, and the kernel serves it so: the library's functions work there, too.
@test "an object that submits, and a program that takes what it submits" {
	link_object submit -DSETUP -DSUBMIT "${shared[@]}"
	for take in GETEVENTS PGETEVENTS QUEUE_RUN; do
		what=$take
		link_program -DMAIN -DTAKE=$take -L. -lsubmit "${shared[@]}"
		is_passed_through
	done
}

@test "a program that looks the functions up is a mediated one" {
	what=dlsym
	link_program "${whole[@]}" -DBY_DLSYM -DTAKE=GETEVENTS
	is_mediated
}

# As tracers do. What it stands in front of is found all the same.
@test "a preloaded function in front of io_setup" {
	cat >front.c <<'END'
#define _GNU_SOURCE
#include <dlfcn.h>
int io_setup(int count, void *ctx);
int io_setup(int count, void *ctx)
{
	int (*next)(int, void *) = (int (*)(int, void *))dlsym(RTLD_NEXT, "io_setup"), result = next(count, ctx);
	return result > 0 ? 0 : result;
}
END
	${CC:-gcc} -shared -fPIC -o libfront.so front.c
	what="front, linked before the library"
	link_program "${whole[@]}" -DTAKE=GETEVENTS -L. -Wl,--no-as-needed -lfront "${shared[@]}"
	is_mediated
	link_program "${whole[@]}" -DTAKE=RING -L. -Wl,--no-as-needed -lfront "${shared[@]}"
	is_passed_through
}

@test "the static library" {
	local archive=$library_dir/libaio.a

	for linker in "${linkers[@]}"; do
		linked_both_ways -fuse-ld="$linker" "$archive"
		linked_both_ways -fuse-ld="$linker" -static -Wl,--gc-sections "$archive"
	done
	linked_both_ways -fno-pie -no-pie "$archive"
	linked_both_ways -static-pie "$archive"
	linked_both_ways -flto "$archive"
	[ -n "${EMULATOR:-}" ] || CC=clang linked_both_ways -flto -fuse-ld=lld "$archive"
	for take in PGETEVENTS QUEUE_RUN; do
		what="static $take"
		link_program "${whole[@]}" -DTAKE=$take "$archive"
		is_mediated
	done
	for take in SYSCALL "RING -DQUEUE_WAIT"; do
		what="static $take"
		# shellcheck disable=SC2086
		link_program "${whole[@]}" -DTAKE=$take "$archive"
		is_passed_through
	done
}

@test "the static library in a shared object" {
	for take in GETEVENTS RING; do
		what=$take
		link_object whole -DSETUP -DSUBMIT -DTAKE=$take "$library_dir/libaio.a"
		link_program -DMAIN -L. -lwhole
		if [ $take = GETEVENTS ]; then is_mediated; else is_passed_through; fi
	done
}

# All of the archive is there, so nothing can be told.
@test "the static library linked in whole makes a program a mediated one" {
	what='whole archive'
	link_program "${whole[@]}" -DTAKE=GETEVENTS -Wl,--whole-archive "$library_dir/libaio.a" -Wl,--no-whole-archive
	is_mediated
}
