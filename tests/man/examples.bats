#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
#
# The manual of the library: its pages are well formed, complete and agree with each other, and the program
# in each page is shown as it is compiled, compiles without a warning, and does what its page says.
#
# Environment: BUILD, where libaio.so.1 is (build); CC (cc). Without a built library the programs are
# compiled and not run. What they are run on is a few files in the test's own directory, so these tests say
# that an example is right, and little about the library.

bats_require_minimum_version 1.5.0

setup() {
	repository=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
	build=$(cd "$repository" && realpath -m "${BUILD:-build}")
	pages=$repository/man
	extract=$BATS_TEST_DIRNAME/extract-example
	export LC_ALL=C
	unset LD_PRELOAD LD_LIBRARY_PATH TRUEAIO_ENGINE TRUEAIO_LOG
	cd "$BATS_TEST_TMPDIR" || return
}

# The pages of the library that are not another name for one.
own_pages() {
	grep -L '^\.so ' "$pages"/*.3 "$pages"/*.7
}

# The names in the NAME section of a page.
names_of() {
	sed -n '/^\.Sh NAME/,/^\.Nd/s/^\.Nm \([^ ]*\).*/\1/p' "$1"
}

# compile NAME: the program of the page NAME(3), as ./NAME. Skips the rest of the test if there is no library.
compile() {
	local warnings="-Wall -Wextra -Wshadow -Wconversion -Werror"

	"$extract" "$pages/$1.3" >"$1.c"
	# shellcheck disable=SC2086
	if [ ! -e "$build/libaio.so.1" ]; then
		${CC:-cc} $warnings -I"$repository/include" -c -o "$1.o" "$1.c"
		skip "compiled but not run: there is no $build/libaio.so.1"
	fi
	# shellcheck disable=SC2086
	${CC:-cc} $warnings -I"$repository/include" -o "$1" "$1.c" -L"$build" -l:libaio.so.1
}

# example NAME [ARGUMENT...]: compiles the program and runs it on the library; it must succeed.
example() {
	local name=$1

	shift
	[ -x "./$name" ] || compile "$name"
	run -0 timeout 20 env LD_LIBRARY_PATH="$build" "./$name" "$@"
}

# make_file NAME LINES: lines of 16 bytes whose contents tell where they are.
make_file() {
	seq -f '%015.0f' 1 "$2" >"$1"
}

require_direct_io() {
	dd if=/dev/zero of=direct bs=4096 count=1 oflag=direct status=none 2>/dev/null ||
		skip "no O_DIRECT in $PWD: set TMPDIR to a directory on a disk"
}

@test "pages pass mandoc's lint" {
	local page

	for page in $(own_pages); do
		mandoc -T lint -W warning "$page"
	done
}

@test "every name in a page has a file, and every link leads to a page that has its name" {
	local page name section link target

	for page in $(own_pages); do
		section=${page##*.}
		for name in $(names_of "$page"); do
			[ -e "$pages/$name.$section" ] || { echo "no $name.$section, named in $page"; false; }
		done
	done
	for link in "$pages"/*.3; do
		grep -q '^\.so ' "$link" || continue
		name=$(basename "$link" .3)
		target=$pages/$(sed -n 's,^\.so man3/,,p' "$link")
		names_of "$target" | grep -qx "$name" || { echo "$target does not name $name"; false; }
	done
}

@test "every function of the header has a page" {
	local name

	for name in $(grep -E '^(extern|static)' "$repository/include/libaio.h" |
		      grep -oE '\b(io_[a-z0-9_]+|trueaio_engine)\(' | tr -d '('); do
		[ -e "$pages/$name.3" ] || { echo "no page for $name"; false; }
	done
	[ -n "$name" ]
}

@test "cross references to our own pages lead somewhere" {
	local page name section

	for page in $(own_pages); do
		while read -r name section; do
			[ -e "$pages/$name.$section" ] || { echo "$page: no $name($section)"; false; }
		done < <(sed -nE 's/^\.(Xr|It Xr) ((io|trueaio)[a-z0-9_]*) ([137]).*/\2 \4/p' "$page")
	done
}

@test "pages have the sections that a reader looks for" {
	local page section

	for page in "$pages"/*.3; do
		! grep -q '^\.so ' "$page" || continue
		for section in NAME SYNOPSIS DESCRIPTION "RETURN VALUES" EXAMPLES ERRORS "SEE ALSO"; do
			# io(3) describes no function of its own.
			[ "${page##*/}" = io.3 ] && [[ "$section" = R* || "$section" = ERRORS ]] && continue
			grep -qx "\\.Sh $section" "$page" || { echo "$page has no $section"; false; }
		done
	done
}

@test "programs are shown as they are compiled, and fit 80 columns" {
	local page program shown

	for page in "$pages"/*.3; do
		! grep -q '^\.so ' "$page" || continue
		"$extract" "$page" >program
		program=$(expand program)
		shown=$(mandoc -T ascii "$page" | col -bx | sed 's/^     //')
		[[ $shown == *"$program"* ]] || { echo "$page shows something else"; false; }
		! mandoc -T ascii "$page" | col -bx | grep -nE '.{81}' || { echo "$page is too wide"; false; }
	done
}

@test "every program is run by a test of this file" {
	local page name

	for page in "$pages"/*.3; do
		! grep -q '^\.so ' "$page" || continue
		name=$(basename "$page" .3)
		grep -qE "^	example $name( |\$)" "$BATS_TEST_FILENAME" || { echo "$name is not run"; false; }
	done
}

@test "extract-example refuses what a reader would see differently" {
	printf '.Sh EXAMPLES\n.Bd -literal\nputs("a\\en");\n\\&.x = 1\n.Ed\n' >good
	run -0 "$extract" good
	[ "$output" = $'puts("a\\n");\n.x = 1' ]
	printf '.Sh EXAMPLES\n.Bd -literal\nputs("a\\n");\n.Ed\n' >raw-backslash
	printf '.Sh EXAMPLES\n.Bd -literal\n.x = 1\n.Ed\n' >request
	printf '.Sh EXAMPLES\n.Bd -literal\nx\n.Ed\n.Bd -literal\ny\n.Ed\n' >two
	printf '.Sh EXAMPLES\n.Bd -literal\nx\n' >open
	printf '.Sh DESCRIPTION\n.Bd -literal\nx\n.Ed\n.Sh EXAMPLES\n' >none
	for bad in raw-backslash request two open none; do
		run -1 "$extract" "$bad"
	done
}

@test "io(3) copies a file" {
	make_file source 40001
	example io source target
	cmp source target
	: >source
	example io source target
	cmp source target
}

@test "io_setup(3) gets a context" {
	example io_setup
	[[ $output =~ ^'a context for '[0-9]+' requests'$ ]]
}

@test "io_destroy(3) ends a poll" {
	example io_destroy
	[ "$output" = $'requests ended: 1\na second time: Invalid argument' ]
}

@test "io_submit(3) reads a file of more blocks than its context takes" {
	make_file input 128001
	example io_submit input
	[ "$output" = "501 blocks, 2048016 bytes" ]
}

@test "io_getevents(3) sees a signal and a pipe" {
	example io_getevents
	[ "$output" = $'nothing yet: 0\na signal\nthe pipe is readable' ]
}

@test "io_cancel(3) withdraws a poll" {
	example io_cancel
	[ "$output" = $'cancelled\nits event: 0\nonce more: Invalid argument' ]
}

@test "io_fsync(3) reports after all writes" {
	require_direct_io
	# A second time into blocks that are there: only then every file system writes in the background.
	example io_fsync output
	[ "$output" = "synchronized after 8 of 8 writes" ]
	example io_fsync output
	[ "$output" = "synchronized after 8 of 8 writes" ]
}

@test "io_prep_fsync(3) reports after the write of the same call" {
	example io_prep_fsync output
	[ "$output" = $'write: 8\nfdatasync: 0' ]
	[ "$(cat output)" = durable ]
}

@test "io_prep_pread(3) prints the first kilobyte" {
	make_file input 200
	example io_prep_pread input
	[ "$output" = "$(head -c 1024 input)" ]
	printf short >input
	example io_prep_pread input
	[ "$output" = short ]
}

@test "io_prep_pwrite(3) writes at a position" {
	printf 0123456789 >output
	example io_prep_pwrite output 3 XYZ
	[ "$(cat output)" = 012XYZ6789 ]
}

@test "io_prep_preadv(3) fills two buffers" {
	printf '%016d%064d%s' 1 2 rest >input
	example io_prep_preadv input
	[ "$output" = "$(printf 'header: %016d\nbody: %064d' 1 2)" ]
}

@test "io_prep_pwritev(3) appends a line" {
	example io_prep_pwritev output one
	example io_prep_pwritev output two
	[ "$(cat output)" = $'log: one\nlog: two' ]
}

@test "io_prep_poll(3) sees data and the hangup" {
	example io_prep_poll
	[ "$output" = $'5 bytes\nthe writer has gone' ]
}

@test "io_set_eventfd(3) waits in poll" {
	make_file input 700
	example io_set_eventfd input
	[ "$output" = "4 reads, 11200 bytes" ]
}

@test "io_set_callback(3) finds its structure" {
	make_file input 100
	example io_set_callback input
	[ "$output" = "input: 1600 bytes" ]
}

@test "io_queue_init(3) reads" {
	example io_queue_init
	[ "$output" = "read: 512" ]
}

@test "io_queue_release(3) waits for a write" {
	require_direct_io
	example io_queue_release output
	[ "$output" = "1048576 bytes written" ]
	cmp output <(head -c 1048576 /dev/zero | tr '\0' x)
}

@test "io_queue_run(3) calls every callback" {
	make_file one 100
	make_file two 300
	example io_queue_run one two one
	[ "$output" = "3 files, 7296 bytes" ]
}

@test "io_queue_wait(3) waits, and leaves the event" {
	example io_queue_wait
	[ "$output" = $'nothing yet\nthe pipe is ready' ]
}

@test "trueaio_engine(3) names the engine, and starts on another libaio" {
	local other

	example trueaio_engine
	[ "$output" = native ]

	other=$(PATH=$PATH:/sbin:/usr/sbin ldconfig -p | awk '$1 == "libaio.so.1" { print $NF; exit }')
	[ -n "$other" ] || skip "no other libaio on this system: half of the test was not run"
	! grep -q trueaio_engine "$other" || skip "the system's libaio is trueaio: half of the test was not run"
	run -0 env LD_LIBRARY_PATH="$(dirname "$other")" ./trueaio_engine
	[ "$output" = "another libaio" ]
}
