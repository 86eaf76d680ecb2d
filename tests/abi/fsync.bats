#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
#
# io_fsync and io_fdsync are compiled into the program, so what they return depends on the header it
# was compiled with, and what they reach depends on how it was linked and on the library it runs on.
# fsync_result.c is built in every such way and run on both libraries; its output must be, word for
# word, what the header promises there.
#
# io_fsync reaches this library through a weak variable.  An executable at a fixed address is the
# case that goes wrong easily: it may hold a copy of the variable, or a null that the linker put in
# for good, and may not start at all on a library without the variable.

load common

setup()
{
	require_library
	require_system_library
	cd "$BATS_TEST_TMPDIR"
	mkdir ours system
	ln -s "$library" ours/libaio.so.1
	ln -s "$system" system/libaio.so.1
	# A crash that a test expects needs no core file.
	ulimit -c 0
}

# The compilers at hand, as words of one line each: command and language.
compilers()
{
	local compiler

	for compiler in gcc clang g++ clang++; do
		if ! command -v "$compiler" >/dev/null; then
			echo "# $compiler is not installed: not tried" >&3
		elif [[ $compiler == *++ ]]; then
			echo "$compiler c++"
		else
			echo "$compiler c"
		fi
	done
}

# compile COMPILER LANGUAGE pie|fixed FLAG...: makes program.o
compile()
{
	local -A flags=([pie]=-fPIE [fixed]=-fno-pie)

	"$1" -O2 -Wall -Wextra -Werror "${flags[$3]}" "${@:4}" -c -o program.o -x "$2" "$BATS_TEST_DIRNAME/fsync_result.c"
}

# link COMPILER pie|fixed ours|system FLAG...: makes ./program of it, linked with that library
link()
{
	local -A flags=([pie]=-pie [fixed]=-no-pie)

	"$1" "${flags[$2]}" "${@:4}" -o program program.o "$3/libaio.so.1"
}

# expected LIBRARY RESULT BAD...: the output on a library, the result of io_fsync, and the last lines
expected()
{
	printf '%s\n' "library $1/libaio.so.1" \
		"io_fsync $2 errno 77 opcode 2 fd 1" "event 1 obj 1 data 1 res 0 res2 0" \
		"io_fdsync $2 opcode 3 fd 1" "callback 1 iocb 1 res 0" \
		"no context -22" "no file -9" "pipe -22"
	shift 2
	printf '%s\n' "$@"
}

filled_by_library=("read-only iocb -14" "unmapped iocb -14" "null iocb -14" "events 0")
filled_by_inline=(SIGSEGV)

# check_run LIBRARY RESULT BAD...: ./program on that library prints what it should
check_run()
{
	local where=$1
	shift

	LD_LIBRARY_PATH=$where timeout 120 ./program file bad-iocb > printed
	expected "$where" "$@" > expected
	diff -u expected printed
}

# check_everywhere RESULT FLAG...: built with FLAGs and our header, io_fsync returns RESULT everywhere
#
# An executable that was linked with the system's library has no way into this one, and must still
# run on it.
check_everywhere()
{
	local result=$1 builds=0 compiler language position linked
	shift

	while read -r compiler language; do
		for position in pie fixed; do
			compile "$compiler" "$language" "$position" -I"$repository/include" "$@"
			for linked in ours system; do
				echo "$compiler, $position, linked with $linked"
				link "$compiler" "$position" "$linked"
				check_run system "$result" "${filled_by_inline[@]}"
				if [ "$linked" = ours ]; then
					check_run ours "$result" "${filled_by_library[@]}"
				else
					check_run ours "$result" "${filled_by_inline[@]}"
				fi
				builds=$((builds + 1))
			done
		done
	done < <(compilers)
	[ "$builds" -gt 0 ]
}

@test "compiled with this header, io_fsync returns 0 on both libraries, and EFAULT on this one" {
	check_everywhere 0
}

@test "with LIBAIO_FSYNC_RETURNS_COUNT it returns 1" {
	check_everywhere 1 -DLIBAIO_FSYNC_RETURNS_COUNT
}

@test "compiled with the system's header, io_fsync returns 1 on both libraries" {
	local compiler language position linked

	require_system_header
	while read -r compiler language; do
		for position in pie fixed; do
			compile "$compiler" "$language" "$position"
			for linked in ours system; do
				echo "$compiler, $position, linked with $linked"
				link "$compiler" "$position" "$linked"
				check_run system 1 "${filled_by_inline[@]}"
				check_run ours 1 "${filled_by_inline[@]}"
			done
		done
	done < <(compilers)
}

@test "no executable holds a copy of the variable" {
	local position

	for position in pie fixed; do
		compile gcc c "$position" -I"$repository/include"
		link gcc "$position" ours
		run readelf -rW program
		[[ $output == *trueaio_sync_call* ]]
		[[ ! $output =~ _COPY[^$'\n']*trueaio_sync_call ]]
	done
}

@test "gold and lld link programs that run on both libraries" {
	local linker position tried=0

	for position in pie fixed; do
		compile gcc c "$position" -I"$repository/include"
		for linker in gold lld; do
			if ! command -v "ld.$linker" >/dev/null; then
				echo "# ld.$linker is not installed: not tried" >&3
				continue
			fi
			echo "$linker, $position"
			link gcc "$position" ours -fuse-ld="$linker"
			check_run system 0 "${filled_by_inline[@]}"
			check_run ours 0 "${filled_by_library[@]}"
			tried=$((tried + 1))
		done
	done
	[ "$tried" -gt 0 ] || skip "neither gold nor lld is installed"
}

@test "a shared object that is opened at run time finds its way too" {
	local linked

	cat > opener.c <<-'END'
		#include <dlfcn.h>
		#include <stdio.h>
		int main(int argc, char **argv)
		{
			void *object = dlopen("./object.so", RTLD_NOW | RTLD_LOCAL);
			int (*entry)(int, char **);

			if (!object) {
				fprintf(stderr, "%s\n", dlerror());
				return 1;
			}
			entry = (int (*)(int, char **))dlsym(object, "object_main");
			return entry(argc, argv);
		}
	END
	gcc -O2 opener.c -o program
	for linked in ours system; do
		gcc -O2 -shared -fPIC -DMAIN=object_main -I"$repository/include" -o object.so \
			"$BATS_TEST_DIRNAME/fsync_result.c" "$linked/libaio.so.1"
		check_run system 0 "${filled_by_inline[@]}"
		check_run ours 0 "${filled_by_library[@]}"
	done
}

@test "a program that holds the static library reaches it" {
	local flags

	[ -e "$library_dir/libaio.a" ]
	for flags in "-fPIE -pie" "-fno-pie -no-pie" "-static"; do
		echo "$flags"
		# shellcheck disable=SC2086
		gcc -O2 $flags -I"$repository/include" -o program \
			"$BATS_TEST_DIRNAME/fsync_result.c" "$library_dir/libaio.a"
		timeout 120 ./program file bad-iocb > printed
		expected unknown 0 "${filled_by_library[@]}" | tail -n +2 > expected
		tail -n +2 printed | diff -u expected -
	done
}
