#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
#
# The types of the interface: header against header, and the library's functions, as its debug
# information has them, against a library built from the system's header (reference.c).  libabigail
# compares.

load common

setup()
{
	require_command abidiff
	require_system_header
	cd "$BATS_TEST_TMPDIR"
}

# Every difference counts here, also those that abidiff calls harmless: a renamed member stops a
# program from compiling.
same_types()
{
	abidiff --harmless --redundant --fail-no-debug-info "$@"
}

build_types()
{
	gcc -g -shared -fPIC "$@" "$BATS_TEST_DIRNAME/types.c"
}

@test "the header's types, members, enumerators and functions are those of the system's header" {
	build_types -o system.so
	build_types -o ours.so -I"$repository/include"
	same_types system.so ours.so
}

@test "the comparison of headers sees one renamed member, one sign, one argument" {
	local header=$repository/include/libaio.h

	mkdir renamed sign argument
	sed 's/\<resfd\>/resource/g' "$header" > renamed/libaio.h
	sed 's/unsigned long len, __pad2/long len, __pad2/' "$header" > sign/libaio.h
	sed '/io_prep_poll(struct iocb/s/int events/long events/' "$header" > argument/libaio.h
	build_types -o system.so
	for change in renamed sign argument; do
		run cmp -s "$header" "$change/libaio.h"
		[ "$status" -eq 1 ]
		build_types -o changed.so -I"$change"
		run same_types system.so changed.so
		[ "$status" -ne 0 ]
	done
}

@test "the system's header declares no function that ours lacks" {
	functions()
	{
		echo '#include <libaio.h>' | gcc "$@" -x c -fsyntax-only -aux-info all -
		sed -n 's,^/\* [^ ]*/libaio\.h:.*\<\(io_[a-z0-9_]*\) (.*$,\1,p' all | sort
	}
	functions > system
	functions -I"$repository/include" > ours
	[ "$(grep -c . system)" -ge 23 ]
	run comm -23 system ours
	echo "missing: $output"
	[ "$output" = "" ]
}

@test "the header leaves no macro behind but its guard" {
	macros()
	{
		printf '#include <%s>\n' "$@" | gcc -I"$repository/include" -x c -E -dM - | sort
	}
	macros sys/types.h sys/select.h string.h signal.h > without
	macros libaio.h > with
	run comm -13 without with
	[ "$output" = "#define __LIBAIO_H " ]
}

@test "the library's functions take and return what the system's header says" {
	require_library
	gcc -g -shared -fPIC -o reference.so "$BATS_TEST_DIRNAME/reference.c" \
		-Wl,-soname,libaio.so.1 -Wl,--version-script="$BATS_TEST_DIRNAME/reference.map"
	[ "$(readelf --dyn-syms -W reference.so | grep -c 'FUNC.*@LIBAIO_0')" -eq 13 ]
	if ! readelf -SW "$library" | grep -qF .debug_info; then
		skip "the library under test has no debug information"
	fi
	# Differences called harmless stay out here: the names of the C functions behind the versions,
	# and types that one side knows in full and the other only by name.
	abidiff --no-added-syms --fail-no-debug-info reference.so "$library"
}
