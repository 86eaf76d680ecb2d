#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
#
# A build for another architecture, which CROSS names. What is asked of it here is what would
# only show on such a machine.

load common

setup()
{
	[ -n "${CROSS:-}" ] || skip "the build is for this machine"
	require_library
	compiler=$("$repository/scripts/architecture" "$CROSS" compiler)-gcc
}

@test "the kernel finds each member where it looks" {
	"$compiler" -std=gnu11 --sysroot="$sysroot" -I"$repository/include" -S -o /dev/null \
		"$BATS_TEST_DIRNAME/layout.c"
}

@test "the table of layouts holds for that architecture's own header too" {
	"$compiler" -std=gnu11 --sysroot="$sysroot" -I"$sysroot/libaio" -S -o /dev/null \
		"$BATS_TEST_DIRNAME/layout.c"
}

@test "the symbols are those of every machine" {
	exported_symbols "$("$repository/scripts/system-libaio")" > "$BATS_TEST_TMPDIR/here"
	exported_symbols "$(system_library)" > "$BATS_TEST_TMPDIR/there"
	exported_symbols "$library" | grep -v trueaio_ > "$BATS_TEST_TMPDIR/ours"
	diff -u "$BATS_TEST_TMPDIR/here" "$BATS_TEST_TMPDIR/there"
	diff -u "$BATS_TEST_TMPDIR/here" "$BATS_TEST_TMPDIR/ours"
}
