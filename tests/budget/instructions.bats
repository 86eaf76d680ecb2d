#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
#
# How many instructions of the library a request costs, submission and reaping together, as callgrind counts them. That is
# nearly the same in every run; how long they take is what bench/run measures. The bounds are above what gcc 12 makes: what a
# descriptor is gets learned each 4 ms, which counts for more where callgrind is slow.

bats_require_minimum_version 1.5.0

setup_file() {
	repository=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
	export library_dir=${BUILD:-$repository/build}
	[ "$(uname -m)" = x86_64 ] || skip "the bounds are those of x86-64"
	grep -q -- '-O2' "$library_dir/flags" || skip "the bounds are those of -O2"
	cd "$BATS_FILE_TMPDIR"
	${CC:-cc} -O2 -I"$repository/include" -o reads "$BATS_TEST_DIRNAME/reads.c" -L"$library_dir" -laio
	head -c 1048576 /dev/zero > file
}

# What the library alone has executed: the lines of callgrind's file that are about it, without those of calls.
executed() {
	LD_LIBRARY_PATH=$library_dir valgrind --tool=callgrind --compress-strings=no --compress-pos=no \
		--callgrind-out-file=counts ./reads "$@" 2> valgrind.log || { cat valgrind.log; return 1; }
	awk '/^ob=/ { ours = /libaio/ } /^calls=/ { getline; next } ours && /^[0-9]/ { sum += $2 } END { print sum }' counts
}

# expect_at_most BOUND read|write ELEMENTS STRIDE: for each request, of 2,000 arrays after 100.
expect_at_most() {
	cd "$BATS_FILE_TMPDIR"
	first=$(executed "$2" file 100 "$3" "$4")
	second=$(executed "$2" file 2100 "$3" "$4")
	each=$(((second - first) / 2000 / $3))
	echo "# $each instructions, at most $1" >&3
	[ "$each" -gt 20 ] && [ "$each" -le "$1" ]
}

@test "a cached read" { expect_at_most 1000 read 1 512; }
@test "32 cached reads that follow one another, each" { expect_at_most 215 read 32 512; }
@test "32 cached reads here and there, each" { expect_at_most 275 read 32 4096; }
@test "a buffered write" { expect_at_most 1250 write 1 512; }
@test "32 buffered writes that follow one another, each" { expect_at_most 225 write 32 512; }
