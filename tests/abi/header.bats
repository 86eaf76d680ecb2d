#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
#
# include/libaio.h as a compiler sees it: every dialect, every warning, every layout, every inline
# function.  Compilers for other machines need no C library of theirs here, because the three things
# that the header takes from one are declared in a directory of the test.

load common

setup()
{
	header=$repository/include/libaio.h
	cd "$BATS_TEST_TMPDIR"
}

c_dialects="c90 gnu90 c99 gnu99 c11 gnu11 c17 gnu17 c2x gnu2x"
cxx_dialects="c++98 gnu++98 c++11 gnu++11 c++14 c++17 c++20 gnu++20"
warnings=(-Wall -Wextra -Wshadow -Wconversion -Wsign-conversion -Wundef -pedantic -Werror)

# compiles_everywhere COMPILER FLAG...: in each dialect of C and of C++
compiles_everywhere()
{
	local compiler=$1 dialect
	shift

	for dialect in $c_dialects; do
		echo "$compiler -std=$dialect"
		"$compiler" -std="$dialect" "${warnings[@]}" "$@" -O2 -I"$repository/include" \
			-c -o /dev/null -x c "$BATS_TEST_DIRNAME/every_call.c"
	done
	for dialect in $cxx_dialects; do
		echo "$compiler -std=$dialect"
		"$compiler" -std="$dialect" "${warnings[@]}" "$@" -O2 -I"$repository/include" \
			-c -o /dev/null -x c++ "$BATS_TEST_DIRNAME/every_call.c"
	done
}

# What the header takes from the C library, for machines whose C library is not installed.
freestanding()
{
	mkdir -p libc/sys
	echo 'typedef __SIZE_TYPE__ size_t;' > libc/sys/types.h
	cat > libc/string.h <<-'END'
		#ifdef __cplusplus
		extern "C"
		#endif
		void *memset(void *, int, __SIZE_TYPE__);
	END
	cat > libc/sys/select.h <<-'END'
		#ifndef TEST_SIGSET
		#define TEST_SIGSET
		typedef struct { unsigned long bits[16]; } sigset_t;
		#endif
	END
	cp libc/sys/select.h libc/signal.h
}

# The machines that clang knows, one for each way to lay out the structures and some more.
targets="x86_64-linux-gnu x86_64-linux-gnux32 i386-linux-gnu aarch64-linux-gnu aarch64_be-linux-gnu
	arm-linux-gnueabihf armeb-linux-gnueabi powerpc-linux-gnu powerpc64-linux-gnu
	powerpc64le-linux-gnu s390x-linux-gnu riscv32-linux-gnu riscv64-linux-gnu mips-linux-gnu
	mipsel-linux-gnu mips64-linux-gnuabi64 mips64el-linux-gnuabi64 sparc-linux-gnu
	sparc64-linux-gnu m68k-linux-gnu"

# for_target TARGET FLAG... FILE: compiles FILE for that machine, by clang
for_target()
{
	local target=$1
	shift

	clang --target="$target" -nostdinc -isystem libc -Werror -fsyntax-only "$@"
}

@test "gcc compiles every dialect without a warning" {
	compiles_everywhere gcc
}

@test "clang compiles every dialect without a warning" {
	require_command clang
	compiles_everywhere clang
}

@test "a program may define LIBAIO_FSYNC_RETURNS_COUNT, position independent or not" {
	# What it changes is written in the same way for all dialects.
	local c_dialects="c90 gnu2x" cxx_dialects="c++98 gnu++20"

	compiles_everywhere gcc -DLIBAIO_FSYNC_RETURNS_COUNT -fno-pie
}

@test "programs that have declared io_queue_wait for themselves still compile" {
	cat > own.c <<-'END'
		#include <libaio.h>
		extern int io_queue_wait(io_context_t ctx, struct timespec *timeout);
		int own(io_context_t ctx, struct timespec *timeout);
		int own(io_context_t ctx, struct timespec *timeout)
		{
			return io_queue_wait(ctx, timeout);
		}
	END
	gcc "${warnings[@]}" -I"$repository/include" -c own.c
	g++ "${warnings[@]}" -I"$repository/include" -c -x c++ own.c
}

@test "on every machine the kernel finds each member where it looks" {
	local target tried=0

	require_command clang
	freestanding
	for target in $targets; do
		echo "$target"
		if ! echo 'int known;' | clang --target="$target" -fsyntax-only -x c - 2>/dev/null; then
			echo "# clang does not know $target: not tried" >&3
			continue
		fi
		for_target "$target" -std=c11 -I"$repository/include" \
			"$BATS_TEST_DIRNAME/layout.c"
		tried=$((tried + 1))
	done
	[ "$tried" -ge 10 ]
}

@test "the table of layouts holds for the system's header too" {
	local target

	require_command clang
	require_system_header
	freestanding
	mkdir system
	cp "$(system_header)" system/libaio.h
	# One target for each row.
	for target in x86_64-linux-gnu i386-linux-gnu powerpc64-linux-gnu powerpc-linux-gnu; do
		echo "$target"
		for_target "$target" -std=c11 -Isystem "$BATS_TEST_DIRNAME/layout.c"
	done
}

@test "gcc lays out 32-bit structures in the same way" {
	local width

	freestanding
	for width in -m32 -mx32; do
		gcc "$width" -nostdinc -isystem libc -std=c11 -S -o /dev/null \
			-I"$repository/include" "$BATS_TEST_DIRNAME/layout.c"
	done
}

@test "another layout does not compile, in any dialect" {
	local dialect language target change

	require_command clang
	freestanding
	mkdir moved grown swapped
	sed 's/short aio_lio_opcode;/short reserved; &/' "$header" > moved/libaio.h
	sed 's/unsigned resfd;/long long resfd;/' "$header" > grown/libaio.h
	sed 's/LIBAIO_HALVES(unsigned key, unsigned aio_rw_flags)/unsigned aio_rw_flags, key/
		s/LIBAIO_HALVES(low, high) high; low/LIBAIO_HALVES(low, high) low; high/' \
		"$header" > swapped/libaio.h
	echo '#include <libaio.h>' > user.c
	for dialect in gnu89 c99 c11 c++98 c++11; do
		language=c
		[[ $dialect == *++* ]] && language=c++
		for target in x86_64-linux-gnu i386-linux-gnu powerpc64-linux-gnu powerpc-linux-gnu; do
			echo "$dialect on $target"
			for_target "$target" -std="$dialect" -x "$language" \
				-I"$repository/include" user.c
			for change in moved grown swapped; do
				run for_target "$target" -std="$dialect" -x "$language" \
					-I"$change" user.c
				[ "$status" -ne 0 ]
				[[ $output == *libaio_assert_* || $output == *tatic_assert* ]]
			done
		done
	done
}

@test "an unknown byte order is refused" {
	local name

	require_command clang
	freestanding
	echo '#include <libaio.h>' > user.c
	for name in __BYTE_ORDER__ __SIZEOF_LONG__; do
		run for_target x86_64-linux-gnu -I"$repository/include" -Wno-builtin-macro-redefined \
			-U"$name" user.c
		[ "$status" -ne 0 ]
		[[ $output == *"this compiler defines neither"* ]]
	done
}

@test "each inline function makes the same 64 bytes as the system's header" {
	require_library
	require_system_header
	gcc -O2 -o system "$BATS_TEST_DIRNAME/prepared.c" "$library"
	gcc -O2 -I"$repository/include" -o ours "$BATS_TEST_DIRNAME/prepared.c" "$library"
	mkdir library
	ln -s "$library" library/libaio.so.1
	LD_LIBRARY_PATH=library ./system > system.txt
	LD_LIBRARY_PATH=library ./ours > ours.txt
	[ "$(grep -c . ours.txt)" -eq 16 ]
	diff -u system.txt ours.txt
}
