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
	${CC:-cc} -O2 -I"$repository/include" -o requests "$BATS_TEST_DIRNAME/requests.c" -L"$library_dir" -laio
	head -c 1048576 /dev/zero > file
}

# What the library alone has executed: the lines of callgrind's file that are about it, without those of calls.
executed() {
	LD_LIBRARY_PATH=$library_dir valgrind --tool=callgrind --compress-strings=no --compress-pos=no \
		--callgrind-out-file=counts ./requests "$@" 2> valgrind.log || { cat valgrind.log; return 1; }
	awk '/^ob=/ { ours = /libaio/ } /^calls=/ { getline; next } ours && /^[0-9]/ { sum += $2 } END { print sum }' counts
}

# count KIND ELEMENTS STRIDE [CROWD]: for each of 2,000 arrays after 100.
count() {
	local first second

	cd "$BATS_FILE_TMPDIR"
	first=$(executed "$1" "${file:-file}" 100 "${@:2}")
	second=$(executed "$1" "${file:-file}" 2100 "${@:2}")
	echo $(((second - first) / 2000))
}

# expect_at_most BOUND KIND ELEMENTS STRIDE: for each request.
expect_at_most() {
	each=$(($(count "${@:2}") / $3))
	echo "# $each instructions, at most $1" >&3
	[ "$each" -gt 20 ] && [ "$each" -le "$1" ]
}

# Beside ten times as many contexts, descriptors and requests in flight: within a tenth.
expect_the_same() {
	few=$(count "$@" 20)
	many=$(count "$@" 200)
	echo "# $few instructions beside 20, $many beside 200" >&3
	[ "$few" -gt 20 ] && [ $((many * 10)) -le $((few * 11)) ]
}

@test "a cached read" { expect_at_most 1000 read 1 512; }
@test "32 cached reads that follow one another, each" { expect_at_most 215 read 32 512; }
@test "32 cached reads here and there, each" { expect_at_most 275 read 32 4096; }
@test "a buffered write" { expect_at_most 1000 write 1 512; }
@test "32 buffered writes that follow one another, each" { expect_at_most 225 write 32 512; }
@test "a cached read in a crowd" { expect_the_same read 1 512; }
@test "a write and an fdsync in a crowd" { expect_the_same pair 2 512; }

@test "a write and an fdsync in memory, in a crowd" {
	file=$(mktemp -p /dev/shm trueaio-budget.XXXXXX)
	head -c 1048576 /dev/zero > "$file"
	expect_the_same pair 2 512 || status=$?
	rm "$file"
	[ "${status:-0}" = 0 ]
}
