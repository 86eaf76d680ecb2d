#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
#
# The dynamic symbol table and the dynamic section of libaio.so.1, against the system's libaio.so.1.
# A program linked with one starts on the other only if each symbol it asks for is there with the
# same version; one linked now gets the default versions.

load common

setup()
{
	require_library
}

dynamic_values()
{
	readelf -dW "$1" | sed -n "s/^.*($2).*\[\(.*\)\]$/\1/p"
}

@test "every symbol of the system's library is there: type, version and default" {
	require_system_library
	exported_symbols "$system" > "$BATS_TEST_TMPDIR/system"
	exported_symbols "$library" > "$BATS_TEST_TMPDIR/ours"
	[ "$(grep -c '^FUNC' "$BATS_TEST_TMPDIR/system")" -ge 13 ]
	run comm -23 "$BATS_TEST_TMPDIR/system" "$BATS_TEST_TMPDIR/ours"
	echo "missing: $output"
	[ "$output" = "" ]
}

@test "what is exported beyond that is unversioned, named trueaio_*, and declared in the header" {
	require_system_library
	exported_symbols "$system" > "$BATS_TEST_TMPDIR/system"
	exported_symbols "$library" > "$BATS_TEST_TMPDIR/ours"
	comm -13 "$BATS_TEST_TMPDIR/system" "$BATS_TEST_TMPDIR/ours" \
		> "$BATS_TEST_TMPDIR/additions"
	cat "$BATS_TEST_TMPDIR/additions"
	while read -r type place name; do
		[[ $name =~ ^trueaio_[a-z_]+$ ]]
		[ "$place" = "-" ]
		grep -qw "$name" "$repository/include/libaio.h"
	done < "$BATS_TEST_TMPDIR/additions"
}

@test "the additions that the header declares are exported" {
	run exported_symbols "$library"
	[[ $output == *"FUNC - trueaio_engine"* ]]
	[[ $output == *"OBJECT - trueaio_sync_call"* ]]
}

@test "the version nodes have the system's parents" {
	require_system_library
	version_nodes()
	{
		readelf -VW "$1" | sed -n '/^Version definition/,/^Version needs/{
			s/^.*Flags: \([^ ]*\).*Name: \(.*\)$/\1 \2/p
			s/^.*Parent/Parent/p
		}'
	}
	version_nodes "$system" > "$BATS_TEST_TMPDIR/system"
	version_nodes "$library" > "$BATS_TEST_TMPDIR/ours"
	[ -s "$BATS_TEST_TMPDIR/system" ]
	diff -u "$BATS_TEST_TMPDIR/system" "$BATS_TEST_TMPDIR/ours"
}

@test "the soname is libaio.so.1" {
	run dynamic_values "$library" SONAME
	[ "$output" = "libaio.so.1" ]
}

@test "libc.so.6 is the only library needed" {
	# On some machines a part of it, the dynamic linker, is named as well.
	run dynamic_values "$library" NEEDED
	[[ $output =~ ^libc\.so\.6($'\n'ld-linux-[a-z0-9]+\.so\.[0-9])?$ ]]
}

@test "dlclose cannot unload the library while its threads run" {
	run readelf -dW "$library"
	[[ $output =~ \(FLAGS_1\)[^$'\n']*NODELETE ]]
}

@test "loading needs neither an executable stack nor writable code" {
	run readelf -dW "$library"
	[[ $output != *TEXTREL* ]]
	run readelf -lW "$library"
	[[ $output =~ GNU_STACK[^$'\n']*\ RW\  ]]
}
