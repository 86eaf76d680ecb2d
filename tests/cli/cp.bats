#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
#
# trueaio cp: is each copy the source, whole or not there, and is everything said that went wrong?
#
# Method: files of the sizes where blocks, sectors and pages begin and end; trees with everything that can be
# in one; and a file system that goes wrong as told (faultfs.c), which also holds a copy half-way for as
# long as a test needs.  TRUEAIO_SLOW=1 adds 10,000 files and a file of 2 GiB.

load common

setup_file()
{
	load common
	require_tool
	# Without FUSE to build it for, the tests that need it are skipped.
	# shellcheck disable=SC2046 # options are words
	build "$BATS_FILE_TMPDIR/faultfs" faultfs.c $(pkg-config --cflags --libs fuse3) || true
}

# takes_direct DIRECTORY: older kernels' tmpfs does not.
takes_direct()
{
	dd if=/dev/zero of="$1/.direct" bs=4096 count=1 oflag=direct status=none 2> /dev/null
	local status=$?
	rm -f "$1/.direct"
	return $status
}

setup()
{
	cd "$BATS_TEST_TMPDIR" || return
	mkdir there
	copying=''
	outside=''
	direct=''
	! takes_direct . || direct=--direct
}

# What a test mounted or started goes, whatever became of the test.
teardown()
{
	rm -f hold
	[ -z "$copying" ] || kill -KILL "$copying" 2> /dev/null || true
	for mount in faulty stored full plain mounted; do
		! mountpoint -q "$mount" || unmount "$mount" || umount -l "$mount"
	done
	[ -z "$outside" ] || rm -rf "$outside"
}

unmount()
{
	umount "$1" 2> /dev/null || fusermount3 -u "$1"
}

# fault_mount FAULT...: the directory "stored" appears as "faulty".
fault_mount()
{
	[ -x "$BATS_FILE_TMPDIR/faultfs" ] || skip "faultfs could not be built (package libfuse3-dev)"
	[ -w /dev/fuse ] || skip "no FUSE here"
	mkdir -p faulty stored
	"$BATS_FILE_TMPDIR/faultfs" "$PWD/faulty" "$PWD/stored" "$@" 3>&-
}

# random_file NAME BYTES
random_file()
{
	head -c "$2" /dev/urandom > "$1"
}

no_temporaries()
{
	[ -z "$(find "$1" -name '.trueaio-*')" ]
}

has_temporary()
{
	! no_temporaries "$1"
}

# What a copy has to keep of every name in a tree.
listing()
{
	(cd "$1" && find . \( -type d -printf '%p d %m %T@\n' \) -o -printf '%p %y %m %T@ %s %l\n' | sort)
}

same_tree()
{
	diff -r --no-dereference "$1" "$2" && diff <(listing "$1") <(listing "$2")
}

as_nobody()
{
	setpriv --reuid=65534 --regid=65534 --clear-groups "$@"
}

# To a directory that everybody can reach, with a command that everybody can start.
go_outside()
{
	outside=$(mktemp -d "${TMPDIR:-/tmp}/trueaio-cp.XXXXXX")
	chmod 777 "$outside"
	cd "$outside" || return
	cp "$tool" tool
	chmod 755 tool
}

sizes="0 1 511 512 513 4095 4096 4097 262143 262144 262145 1048575 1048576 1048577 9000001"

copy_all_sizes()
{
	local size

	mkdir source
	for size in $sizes; do
		random_file "source/$size" "$size"
		touch -d "2001-02-03 04:05:06.$size" "source/$size"
	done
	run -0 "$tool" cp "$@" source/* there
	[ -z "$output" ]
	same_tree source there || diff <(listing source | tail -n +2) <(listing there | tail -n +2)
	for size in $sizes; do
		rm "there/$size"
		"$tool" cp "$@" "source/$size" "there/$size"
		cmp "source/$size" "there/$size"
	done
}

@test "files of every size" {
	copy_all_sizes
}

@test "files of every size, verified" {
	copy_all_sizes --verify
}

@test "files of every size, with O_DIRECT" {
	[ -n "$direct" ] || skip "no O_DIRECT in $PWD"
	copy_all_sizes --direct
}

@test "files of every size, with O_DIRECT and verified, one block at a time" {
	[ -n "$direct" ] || skip "no O_DIRECT in $PWD"
	copy_all_sizes --direct --verify --depth 1
}

@test "files of every size, a thousand blocks at a time" {
	copy_all_sizes --depth 1024
}

@test "mode and times are the source's, set-ID bits go, whatever the umask" {
	random_file source 10
	for mode in 400 644 777 4755 2755; do
		chmod "$mode" source
		touch -a -d 2001-02-03 source
		touch -m -d 2004-05-06 source
		(umask 077 && "$tool" cp source there/copy)
		[ "$(stat -c %a there/copy)" = "${mode: -3}" ]
		[ "$(stat -c %Y there/copy)" = "$(date -d 2004-05-06 +%s)" ]
		rm -f there/copy
	done
	chmod 644 source
	touch -a -d 2001-02-03 source
	wanted=$(stat -c %X source)
	"$tool" cp source there/copy
	[ "$(stat -c %X there/copy)" = "$wanted" ]
}

@test "an existing file is replaced by a new one" {
	random_file source 300000
	random_file there/copy 500000
	cp there/copy old
	ln there/copy other-name
	chmod 600 source
	chmod 644 there/copy
	run -0 "$tool" cp source there/copy
	cmp source there/copy
	cmp old other-name
	[ "$(stat -c %a there/copy)" = 600 ]
	no_temporaries there
}

@test "into a directory, by several spellings" {
	mkdir -p source
	random_file source/a 5
	random_file source/b 6
	run -0 "$tool" cp source/a source/b there
	run -0 "$tool" cp source//a there/
	run -0 "$tool" cp ./source/b there/c
	cmp source/a there/a
	cmp source/b there/b
	cmp source/b there/c
	cd there
	run -0 "$tool" cp ../source/a .
	run -0 "$tool" cp a d
	cmp a d
}

@test "several sources need a directory, a slash names one" {
	random_file a 5
	random_file b 6
	run -2 "$tool" cp a b there/missing
	[[ $output == *"there/missing: is not a directory"* ]]
	run -1 "$tool" cp a there/missing/
	[[ $output == *"there/missing/: Not a directory"* ]]
	run -1 "$tool" cp a there/missing/a
	[[ $output == *"there/missing/a: cannot create: No such file or directory"* ]]
	[ -z "$(ls there)" ]
}

@test "of two sources for one name the last stays" {
	mkdir a b
	random_file a/x 3000000
	random_file b/x 10
	run -0 "$tool" cp a/x b/x there
	cmp b/x there/x
	no_temporaries there
}

@test "a file is not copied onto itself" {
	random_file a 100000
	cp a kept
	ln a hard
	ln -s a soft
	for target in a ./a hard soft .; do
		run -1 "$tool" cp a "$target"
		[[ $output == *"is the same file as a" ]]
	done
	cmp a kept
	no_temporaries .
}

@test "a link to a file as the destination stays a link" {
	random_file a 1000
	random_file there/b 2000
	ln -s there/b link
	run -0 "$tool" cp a link
	[ -L link ]
	cmp a there/b
	no_temporaries .
	ln -s missing dangling
	run -1 "$tool" cp a dangling
	[[ $output == *"dangling: cannot follow the link: No such file or directory" ]]
	[ ! -e missing ]
}

@test "without -r a link is followed, with -r it is copied" {
	random_file a 1000
	ln -s a link
	run -0 "$tool" cp link there/file
	[ ! -L there/file ]
	cmp a there/file
	run -0 "$tool" cp -r link there/link
	[ "$(readlink there/link)" = a ]
}

@test "a directory needs -r; the others are copied" {
	mkdir directory
	random_file a 5
	random_file b 6
	run -1 "$tool" cp a directory b there
	[ "$output" = "trueaio cp: directory: is a directory: not copied without -r" ]
	cmp a there/a
	cmp b there/b
	[ ! -e there/directory ]
}

make_tree()
{
	mkdir -p "$1/deep/er/still" "$1/empty" "$1/closed"
	random_file "$1/top" 700000
	random_file "$1/deep/a" 0
	random_file "$1/deep/er/b" 4097
	random_file "$1/deep/er/still/with space and ü" 262144
	random_file "$1/closed/in" 100
	ln -s ../top "$1/deep/link"
	ln -s /no/where "$1/dangling"
	ln -s deep "$1/to-directory"
	chmod 600 "$1/top"
	chmod 1777 "$1/empty"
	chmod 555 "$1/closed"
	touch -h -d 2002-02-02 "$1/dangling"
	touch -d 2001-01-01 "$1/deep/er/b"
	touch -d 2003-03-03 "$1/deep/er" "$1/empty" "$1/closed" "$1"
}

@test "a tree" {
	make_tree source
	run -0 "$tool" cp -r source there
	same_tree source there/source
	run -0 "$tool" cp -r --verify source there/new-name
	same_tree source there/new-name
	run -0 "$tool" cp --recursive --direct source/ there/slash
	same_tree source there/slash
	no_temporaries there
}

@test "a tree without privileges: into directories that it may not write to in the end" {
	require_root "to become another user"
	go_outside
	make_tree source
	run -1 as_nobody ./tool cp -r --verify source there
	[ "$output" = "trueaio cp: source/top: cannot open: Permission denied" ]
	rm -rf source/top there
	run -0 as_nobody ./tool cp -r --verify source there
	diff <(listing source) <(listing there)
}

@test "a tree merges into one that is there" {
	mkdir -p source/a/b there/source/a/c
	random_file source/a/b/new 10
	random_file source/a/changed 20
	random_file there/source/a/changed 30
	random_file there/source/a/c/kept 40
	chmod 700 there/source/a
	cp there/source/a/c/kept kept
	run -0 "$tool" cp -r source there
	cmp source/a/b/new there/source/a/b/new
	cmp source/a/changed there/source/a/changed
	cmp kept there/source/a/c/kept
	[ "$(stat -c %a there/source/a)" = 700 ]
	run -0 "$tool" cp -r source/. there
	cmp source/a/b/new there/a/b/new
	(cd source/a && run -0 "$tool" cp -r .. ../../there)
}

@test "a directory does not replace a file, nor a file a directory" {
	mkdir -p source/x there/source
	random_file source/x/y 10
	random_file source/z 20
	random_file there/source/x 30
	mkdir -p there/source/z
	run -1 "$tool" cp -r source there
	[[ $output == *"there/source/x: is not a directory: not replaced by one"* ]]
	[[ $output == *"there/source/z: is not a regular file: not replaced"* ]]
	[ -f there/source/x ]
	[ -d there/source/z ]
}

@test "a tree does not leave its destination through a link to a directory" {
	mkdir -p source/x elsewhere there/source
	random_file source/x/y 10
	ln -s ../../elsewhere there/source/x
	run -1 "$tool" cp -r source there
	[[ $output == *"there/source/x: is not a directory"* ]]
	[ -z "$(ls elsewhere)" ]
}

@test "links replace files and links" {
	mkdir source
	ln -s right source/a
	ln -s right source/b
	random_file there/a 10
	ln -s wrong there/b
	mkdir there/c
	ln -s right source/c
	run -1 "$tool" cp -r source/. there
	[ "$output" = "trueaio cp: there/c: is neither a file nor a link: not replaced" ]
	[ "$(readlink there/a)" = right ]
	[ "$(readlink there/b)" = right ]
	[ -d there/c ]
	no_temporaries there
}

@test "a directory is not copied into itself" {
	mkdir -p source/sub
	random_file source/a 10
	for target in source source/ source/sub source/sub/new source/new ./source/../source/sub .; do
		before=$(find . | sort)
		run -1 "$tool" cp -r source "$target"
		[[ $output == *"source: cannot copy a directory into itself"* ]]
		[ "$before" = "$(find . | sort)" ]
	done
	# A name that begins alike is another directory.
	mkdir source-too
	run -0 "$tool" cp -r source source-too
}

@test "a directory is not copied into itself through a bind mount" {
	require_root "to mount"
	mkdir -p source/sub mounted
	random_file source/sub/a 10
	mount --bind source/sub mounted || skip "no bind mounts here"
	run -1 timeout -s KILL 20 "$tool" cp -r source mounted/copy
	[ "$output" = "trueaio cp: source/sub/copy: is the copy itself: left out" ]
	cmp source/sub/a source/sub/copy/sub/a
	[ ! -e source/sub/copy/sub/copy ]
}

@test "special files are refused and the rest is copied" {
	mkdir source
	mkfifo source/fifo
	random_file source/a 10
	run -1 timeout -s KILL 20 "$tool" cp -r source there
	[ "$output" = "trueaio cp: source/fifo: is not a regular file: not copied" ]
	cmp source/a there/source/a
	[ ! -e there/source/fifo ]
	run -1 timeout -s KILL 20 "$tool" cp source/fifo there
	[ "$output" = "trueaio cp: source/fifo: is not a regular file: not copied" ]
	run -1 timeout -s KILL 20 "$tool" cp /dev/zero there
	run -1 timeout -s KILL 20 "$tool" cp source/a source/fifo
	[ "$output" = "trueaio cp: source/fifo: is not a regular file: not replaced" ]
	[ -p source/fifo ]
}

@test "files that have contents and no size are refused" {
	[ -r /proc/version ] || skip "no /proc here"
	run -1 "$tool" cp /proc/version there
	[[ $output == *"/proc/version: has contents but says that its size is 0: not copied" ]]
	run -1 "$tool" cp /proc/self/mem there
	[[ $output == *"/proc/self/mem: cannot read: Input/output error" ]]
	[ -z "$(ls -A there)" ]
}

@test "a file that cannot be read asynchronously is an error like others" {
	odd=
	for file in /proc/config.gz /proc/bus/pci/*/*; do
		[ ! -r "$file" ] || [ "$(stat -c %s "$file")" = 0 ] || odd=$file
	done
	[ -n "$odd" ] || skip "no such file here"
	random_file a 10
	run -1 timeout -s KILL 20 "$tool" cp "$odd" a there
	[ "$output" = "trueaio cp: $odd: cannot read: Invalid argument" ]
	cmp a there/a
}

@test "holes stay holes" {
	truncate -s 64M source
	random_file data 300000
	dd if=data of=source bs=1M seek=3 conv=notrunc status=none
	dd if=data of=source bs=1000 seek=20001 conv=notrunc status=none
	[ "$(stat -c %b source)" -lt 8192 ] || skip "no holes in $PWD"
	for options in "" --verify --direct "--direct --verify"; do
		# shellcheck disable=SC2086 # options are words
		run -0 "$tool" cp $options source there/copy
		cmp source there/copy
		[ "$(stat -c %b there/copy)" -lt 8192 ]
		rm there/copy
	done
	truncate -s 5000001 empty
	run -0 "$tool" cp --verify empty there
	cmp empty there/empty
	[ "$(stat -c %b there/empty)" -lt 8 ]
}

# The answers of faultfs come in any order, so that blocks which overlap would be seen.
@test "holes smaller than what O_DIRECT writes at once" {
	require_root "to mount"
	[ -n "$direct" ] || skip "no O_DIRECT in $PWD"
	mkdir stored
	truncate -s 30M image
	mkfs.ext4 -q -b 1024 image 2> /dev/null || skip "no mkfs.ext4 here"
	mount -o loop image stored || skip "no loop devices here"
	random_file data 1024
	for i in $(seq 0 2 1000); do
		dd if=data of=stored/source bs=1024 seek="$i" conv=notrunc status=none
	done
	fault_mount
	run -0 "$tool" cp --direct faulty/source there/copy
	cmp stored/source there/copy
}

@test "a full destination: the old file stays, the error is said, the rest is copied" {
	require_root "to mount"
	mkdir full
	mount -t tmpfs -o size=1m trueaio-test full || skip "no tmpfs here"
	random_file full/big 200000
	cp full/big old
	random_file big 2000000
	random_file small 10000
	tried=("" --verify)
	! takes_direct full || tried+=(--direct)
	for options in "${tried[@]}"; do
		# shellcheck disable=SC2086 # options are words
		run -1 "$tool" cp $options big full
		[ "$output" = "trueaio cp: full/big: cannot write: No space left on device" ]
		cmp old full/big
		no_temporaries full
		# With one block in flight the room is free again when the next file begins.
		# shellcheck disable=SC2086 # options are words
		run -1 "$tool" cp --depth 1 $options big small full
		[ "$output" = "trueaio cp: full/big: cannot write: No space left on device" ]
		cmp old full/big
		cmp small full/small
		no_temporaries full
		rm full/small
	done
}

@test "a limit of the file size is an error like others" {
	random_file big 2000000
	random_file small 10000
	run -1 bash -c "ulimit -f 500; exec '$tool' cp big small there"
	[[ $output == *"there/big: cannot create: File too large" ]]
	cmp small there/small
	[ ! -e there/big ]
	no_temporaries there
}

@test "few descriptors are enough" {
	mkdir source
	for i in $(seq 300); do
		echo "$i" > "source/$i"
	done
	run -0 bash -c "ulimit -n 40; exec '$tool' cp -r --verify source there"
	same_tree source there/source
}

@test "what may not be read or replaced is said, and the rest is copied" {
	require_root "to become another user"
	go_outside
	mkdir -m 777 target
	mkdir -m 755 shut
	random_file readable 1000
	random_file secret 1000
	chmod 600 secret
	random_file target/kept 500
	cp target/kept old
	mkdir -p tree/secret
	chmod 700 tree/secret

	run -1 as_nobody ./tool cp secret readable target
	[ "$output" = "trueaio cp: secret: cannot open: Permission denied" ]
	cmp readable target/readable
	run -1 as_nobody ./tool cp readable target/kept
	[ "$output" = "trueaio cp: target/kept: cannot replace: Permission denied" ]
	cmp old target/kept
	run -1 as_nobody ./tool cp readable shut
	[ "$output" = "trueaio cp: shut/readable: cannot create: Permission denied" ]
	run -1 as_nobody ./tool cp -r tree target
	[ "$output" = "trueaio cp: tree/secret: Permission denied" ]
	[ -d target/tree ]
	no_temporaries .
}

@test "a source that is not there" {
	random_file a 5
	for option in -q -r; do
		run -1 "$tool" cp $option missing a there
		[ "$output" = "trueaio cp: missing: No such file or directory" ]
		cmp a there/a
		rm there/a
	done
}

@test "a read error: the file is named, the old one stays, the rest is copied" {
	mkdir stored
	random_file stored/bad 1000000
	random_file stored/good 600000
	random_file there/bad 70000
	cp there/bad old
	fault_mount read-error=700000
	for options in "" "$direct" "--verify --depth 1"; do
		# shellcheck disable=SC2086 # options are words
		run -1 "$tool" cp $options faulty/bad faulty/good there
		[ "$output" = "trueaio cp: faulty/bad: cannot read: Input/output error" ]
		cmp old there/bad
		cmp stored/good there/good
		no_temporaries there
		rm there/good
	done
}

@test "a failing fsync: the old file stays" {
	mkdir stored
	random_file source 600000
	random_file stored/copy 70000
	cp stored/copy old
	fault_mount sync-error
	run -1 "$tool" cp source faulty/copy
	[ "$output" = "trueaio cp: faulty/copy: cannot synchronize: Input/output error" ]
	cmp old stored/copy
	no_temporaries stored
}

@test "a file system without modes: said once, and copied" {
	fault_mount no-modes
	random_file a 10
	random_file b 20
	run -0 "$tool" cp a b faulty
	[ "$output" = "trueaio cp: faulty/a: the file system does not keep modes" ]
	cmp a stored/a
	cmp b stored/b
}

@test "short reads go on where they stopped" {
	mkdir stored
	random_file stored/source 1000001
	fault_mount short=50000
	for options in "" --direct --verify "--direct --verify"; do
		# shellcheck disable=SC2086 # options are words
		run -0 "$tool" cp $options faulty/source there/copy
		cmp stored/source there/copy
		rm there/copy
	done
	run -0 "$tool" cp --direct --verify there/../stored/source faulty/copy
	cmp stored/source stored/copy
}

@test "damage on the way to the disk is found by --verify, and the old file stays" {
	mkdir stored
	random_file source 1000001
	random_file stored/copy 70000
	cp stored/copy old
	fault_mount damage=300000
	for options in --verify "--verify $direct" "--verify --depth 1"; do
		# shellcheck disable=SC2086 # options are words
		run -1 "$tool" cp $options source faulty/copy
		[ "$output" = "trueaio cp: faulty/copy: the copy differs from source at byte 300000" ]
		cmp old stored/copy
		no_temporaries stored
	done
	# Without the option nobody looks: the damage was real.
	run -0 "$tool" cp source faulty/copy
	run ! cmp source stored/copy
	[[ $output == *" 300001,"* ]]
}

@test "damage that the page cache hides is found by --verify" {
	mkdir stored
	random_file source 1000001
	fault_mount cached damage=300000
	run -1 "$tool" cp --verify source faulty/copy
	[ "$output" = "trueaio cp: faulty/copy: the copy differs from source at byte 300000" ]
}

@test "the fsync comes behind the writes, the rename behind it, the directory's fsync last" {
	mkdir stored
	random_file source 8388608
	for options in "" --direct; do
		rm -f log
		fault_mount slow-writes log="$PWD/log"
		# shellcheck disable=SC2086 # options are words
		run -0 "$tool" cp $options source faulty/copy
		[ "$(grep -c '^write' log)" -gt 0 ]
		behind=$'fsync\nrename /copy\nfsync directory'
		[ "$(grep -v '^write' log)" = "$behind" ]
		[ "$(tail -n 3 log)" = "$behind" ]
		unmount faulty
	done
}

# begin_held_copy TARGET: a copy that waits with its first reads; the shell here ignores SIGINT for it.
begin_held_copy()
{
	mkdir stored
	random_file stored/source 3000000
	touch hold
	fault_mount hold="$PWD/hold"
	env --default-signal=INT,TERM,HUP "$tool" cp faulty/source "$1" > said 2>&1 3>&- &
	copying=$!
	wait_until test -e hold.reached
	has_temporary there
}

# The status of the copy, and nothing left to be killed.
end_of_copy()
{
	status=0
	wait "$copying" || status=$?
	copying=
}

for_each_signal()
{
	random_file there/copy 70000
	cp there/copy old
	begin_held_copy there/copy
	kill -"$1" "$copying"
	rm hold
	end_of_copy
	[ "$status" = "$2" ]
	cmp old there/copy
	[ ! -s said ]
}

@test "SIGINT: the old file stays, and nothing else" {
	for_each_signal INT 130
	no_temporaries there
}

@test "SIGTERM: the old file stays, and nothing else" {
	for_each_signal TERM 143
	no_temporaries there
}

@test "SIGHUP: the old file stays, and nothing else" {
	for_each_signal HUP 129
	no_temporaries there
}

@test "SIGKILL: the old file stays" {
	for_each_signal KILL 137
}

@test "a signal ends a copy that has nothing to wait for" {
	mkdir source
	for i in $(seq 50); do
		ln -s "$i" "source/$i"
	done
	# The signal is there from the start: exec keeps what is pending.
	# shellcheck disable=SC2016 # $$ and "$@" are the inner shell's
	run -143 env --default-signal=TERM --block-signal=TERM \
		sh -c 'kill -TERM $$; exec "$@"' sh "$tool" cp -r source there
	[ -z "$(ls -A there)" ]
}

@test "a signal that is ignored stays ignored" {
	mkdir stored
	random_file stored/source 3000000
	touch hold
	fault_mount hold="$PWD/hold"
	env --ignore-signal=HUP "$tool" cp faulty/source there 3>&- &
	copying=$!
	wait_until test -e hold.reached
	kill -HUP "$copying"
	rm hold
	end_of_copy
	[ "$status" = 0 ]
	cmp stored/source there/source
}

@test "killed at any moment: the old file or the whole new one" {
	random_file source 30000000
	random_file other 20000000
	cp source there/copy
	for i in $(seq 0 39); do
		next=source
		[ $((i % 2)) = 0 ] || next=other
		timeout -s KILL "0.0$((i / 4))$((RANDOM % 10))" "$tool" cp "$next" there/copy || true
		cmp -s source there/copy || cmp -s other there/copy
	done
}

@test "a file that shrinks while it is copied is an error" {
	random_file there/copy 70000
	cp there/copy old
	begin_held_copy there/copy
	truncate -s 1000000 stored/source
	rm hold
	end_of_copy
	[ "$status" = 1 ]
	[ "$(cat said)" = "trueaio cp: faulty/source: ended before the size that it had when opened" ]
	cmp old there/copy
	no_temporaries there
}

# Of the file only a hole goes, so that every read is as it should be.
@test "a file that ends in a hole and shrinks while it is copied is an error" {
	mkdir stored
	random_file source 4096
	truncate -s 50M source
	[ "$(stat -c %b source)" -lt 64 ] || skip "no holes in $PWD"
	touch hold
	fault_mount hold="$PWD/hold"
	"$tool" cp source faulty > said 2>&1 3>&- &
	copying=$!
	wait_until test -e hold.reached
	truncate -s 1M source
	rm hold
	end_of_copy
	[ "$status" = 1 ]
	[ "$(cat said)" = "trueaio cp: source: ended before the size that it had when opened" ]
	no_temporaries stored
	[ ! -e stored/source ]
}

@test "a file that grows while it is copied is copied as it was" {
	begin_held_copy there/copy
	cp stored/source as-it-was
	random_file more 1000000
	cat more >> stored/source
	rm hold
	end_of_copy
	[ "$status" = 0 ]
	cmp as-it-was there/copy
}

@test "a file system without O_DIRECT: said once, and copied" {
	require_root "to mount"
	mkdir plain
	mount -t ramfs trueaio-test plain || skip "no ramfs here"
	random_file a 300000
	random_file b 5
	dd if=a of=plain/try oflag=direct status=none 2> /dev/null && skip "ramfs takes O_DIRECT here"
	rm -f plain/try
	run -0 "$tool" cp --direct --verify a b plain
	[ "$output" = "trueaio cp: plain/a: the file system refuses O_DIRECT: written through the page cache" ]
	cmp a plain/a
	run -0 "$tool" cp --direct plain/a plain/b there
	[ "$output" = "trueaio cp: plain/a: the file system refuses O_DIRECT: read through the page cache" ]
	cmp a there/a
}

# on_terminal COMMAND...: standard error is a terminal, and what it shows is the output.
on_terminal()
{
	run -0 script -qec "$*" /dev/null
}

@test "the progress bar: on a terminal, unless it is to be quiet" {
	random_file a 3145728
	on_terminal "'$tool' cp a there"
	[[ $output == *"100% ["*"] 3.0 MiB of 3.0 MiB, "*"/s, 0:0"* ]]
	on_terminal "'$tool' cp -r --verify a there/b"
	[[ $output == *"100% ["*"] 6.0 MiB of 6.0 MiB, "* ]]
	on_terminal "'$tool' cp -q a there"
	[ -z "$output" ]
	run -0 "$tool" cp a there
	[ -z "$output" ]
}

@test "the progress bar makes room for messages and reaches its end with holes" {
	truncate -s 5M holes
	on_terminal "'$tool' cp holes there; '$tool' cp missing holes there || :"
	[[ $output == *"100% ["*"] 5.0 MiB of 5.0 MiB"* ]]
	[[ $output == *$'\r\033[K'"trueaio cp: missing: No such file"* || $output == *$'\n'"trueaio cp: missing: No such file"* ]]
}

@test "wrong usage" {
	run -2 "$tool" cp
	run -2 "$tool" cp only-one
	run -2 "$tool" cp --no-such-option a b
	for depth in 0 1025 -1 x "" 1x; do
		run -2 "$tool" cp --depth "$depth" a b
		[[ $output == *"--depth takes a number from 1 to 1024"* ]]
	done
}

@test "slow: ten thousand files, with few descriptors" {
	[ -n "${TRUEAIO_SLOW:-}" ] || skip "slow: set TRUEAIO_SLOW=1"
	mkdir source
	for directory in $(seq 100); do
		mkdir "source/$directory"
		random_file chunk $((RANDOM * 8 + 1000))
		split -a 2 -d -n 100 chunk "source/$directory/"
	done
	[ "$(find source -type f | wc -l)" = 10000 ]
	run -0 bash -c "ulimit -n 100; exec '$tool' cp -r --verify source there"
	same_tree source there/source
	no_temporaries there
}

@test "slow: a file of 2 GiB" {
	[ -n "${TRUEAIO_SLOW:-}" ] || skip "slow: set TRUEAIO_SLOW=1"
	random_file source 2147483649
	for options in "" "--direct --verify"; do
		# shellcheck disable=SC2086 # options are words
		run -0 "$tool" cp $options source there/copy
		cmp source there/copy
		rm there/copy
	done
}
