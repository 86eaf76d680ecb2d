#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
#
# trueaio doctor: does it find out what the system refuses, why, and what the library makes of that?
#
# Method: the system refuses what it is told to: by a seccomp filter (tests/tools/without.c), by limits of the
# process and of a control group of the test's own.  Sysctls are everybody's and stay as they are;
# tests/unit/test_probe.c makes up systems for them.  What is printed for people is compared with what is
# printed for programs.

load common

setup_file()
{
	load common
	require_tool
	top=$(mktemp -d "${TMPDIR:-/tmp}/trueaio-doctor.XXXXXX")
	export top
	chmod 755 "$top"
}

teardown_file()
{
	rm -rf "$top"
}

setup()
{
	without=${BUILD:-$repository/build}/tests/tools/without
	unset TRUEAIO_THREADS
	cd "$BATS_TEST_TMPDIR" || return
	echo data > file
}

teardown()
{
	if [ -n "${group:-}" ]; then
		# The kernel needs a moment to see that the last process of a group has gone.
		wait_until rmdir "$group"
	fi
	if mountpoint -q faulty; then
		umount faulty
	fi
}

require_without()
{
	[ -x "$without" ] || skip "no $without: make check-build"
	command -v jq > /dev/null || skip "no jq here"
	"$without" io_setup:EPERM -- true || skip "no seccomp filters here"
}

# Of a healthy machine, which the tests of refusals need: they look for one refusal at a time.
require_health()
{
	[ "$("$tool" doctor --json | jq '.kernel_aio.works and .threads.works')" = true ] ||
		skip "$1 is refused on this machine without the test's doing"
}

# What a machine refuses nothing by, asked without the command.
require_signs_of_health()
{
	[ "$(uname -r | cut -d. -f1)" -ge 6 ] || skip "Linux $(uname -r) may be too old"
	grep -q '^Seccomp:.*0$' /proc/self/status || skip "a seccomp filter is in force"
	[ "$(cat /proc/sys/fs/aio-nr)" -lt "$(cat /proc/sys/fs/aio-max-nr)" ] || skip "fs.aio-max-nr"
}

# is JQ-FILTER VALUE: of $json.
is()
{
	local found

	found=$(jq -r "$1" <<< "$json")
	[ "$found" = "$2" ] || { echo "$1 is \"$found\", not \"$2\"" >&2; return 1; }
}

# says TEXT: the text for people has it.
says()
{
	[[ $text == *"$1"* ]] || { echo "no \"$1\" in:" "$text" >&2; return 1; }
}

# What stands for people in each line is the same as for programs. Contexts of other programs come and go.
agree()
{
	local expected line

	expected=$(jq -r '"Linux \(.kernel), trueaio \(.version)",
		(.kernel_aio, .threads | .sentence | sub("promised .*"; "")),
		(.advice[] | "Advice: " + .),
		(select(.advice == []) | "Nothing to do.")' <<< "$json")
	while IFS= read -r line; do
		says "$line"
	done <<< "$expected"
	[ "$(grep -c '^Advice: ' <<< "$text")" = "$(grep -c '^Advice: ' <<< "$expected")" ]

	expected=$(jq -r '.engines | to_entries[] | "^  \(.key) +" +
		if .value.works | not then "io_setup fails with -\(.value.errno): "
		elif .key == "auto" then "works, as \(.value.engine)$" else "works" end' <<< "$json")
	[ "$(wc -l <<< "$expected")" = 3 ]
	while IFS= read -r line; do
		grep -Eq "$line" <<< "$text" || { echo "no \"$line\" in:" "$text" >&2; return 1; }
	done <<< "$expected"
}

# doctor STATUS [FILE...] [-- BEFORE...]: text and json of it, started by what comes before.
doctor()
{
	local status=$1 files=()

	shift
	while [ $# -gt 0 ] && [ "$1" != -- ]; do
		files+=("$1")
		shift
	done
	shift || true
	run -"$status" --separate-stderr "$@" "$tool" doctor --json "${files[@]}"
	json=$output
	run -"$status" --separate-stderr "$@" "$tool" doctor "${files[@]}"
	text=$output
	# shellcheck disable=SC2154 # set by run
	errors=$stderr
	agree
}

# doctor_without STATUS RULE...: a filter refuses that.
doctor_without()
{
	local status=$1

	shift
	require_without
	doctor "$status" file -- "$without" "$@" --
}

@test "the system as it is" {
	command -v jq > /dev/null || skip "no jq here"
	local works

	works=$("$tool" doctor --json | jq '.engines.auto.works')
	doctor "$([ "$works" = true ] && echo 0 || echo 1)"
	is .kernel "$(uname -r)"
	is .aio_max_nr "$(cat /proc/sys/fs/aio-max-nr)"
	is .environment.engine "$(jq -r '.engines.auto.engine' <<< "$json")"
	is '.environment | [.TRUEAIO_ENGINE, .TRUEAIO_THREADS, .TRUEAIO_LOG] | @json' '[null,null,null]'
	is .environment.threads_max 64
	is .files '[]'
	[ "$works" = true ] || skip "no engine works here: the rest was not run"
	# Each of them was asked; a poll needs a context of the kernel's.
	is '.features | to_entries | map(select(.key != "io_cmd_poll" and .value == null)) | length' 0
}

@test "everything is there on a machine that refuses nothing" {
	command -v jq > /dev/null || skip "no jq here"
	require_signs_of_health
	doctor 0
	is '[.kernel_aio, .threads, .descriptor_tables] | map(.reason) | @json' '["works","works","works"]'
	is '.engines | map_values(.engine) | @json' '{"auto":"native","native":"native","threads":"threads"}'
	is .engines.auto.offloader threads
	says "; what would wait goes to worker threads"
}

@test "kernel AIO is refused with EPERM" {
	require_health "kernel AIO"
	doctor_without 0 io_setup:EPERM
	is .kernel_aio.reason seccomp
	is .kernel_aio.errno EPERM
	is .seccomp_mode 2
	is .engines.auto.engine threads
	is .engines.native.errno ENOSYS
	is .engines.native.lacks kernel_aio
	is .environment.engine threads
	is '.files[0] | [.buffered_reads, .direct_reads, .writes, .fsync] | flatten | contains(["kernel_aio"])' false
	is .features.io_cmd_poll null
	is '.advice | length' 1
	says "Programs that take their events from the kernel's ring by themselves get kernel AIO's error."
	says "on the engine threads these go to:"
}

@test "kernel AIO is refused with ENOSYS" {
	require_health "kernel AIO"
	doctor_without 0 io_setup:ENOSYS
	is .kernel_aio.reason seccomp
	is .kernel_aio.errno ENOSYS
	is .engines.auto.engine threads
	is .engines.native.errno ENOSYS
}

@test "kernel AIO is refused with EAGAIN by a filter, while the quota has room" {
	require_health "kernel AIO"
	doctor_without 0 io_setup:EAGAIN
	is .kernel_aio.reason seccomp
	is .engines.auto.engine threads
	# As the library: only what means that kernel AIO is not there becomes ENOSYS.
	is .engines.native.errno EAGAIN
}

@test "no memory is no refusal: auto does not fall back" {
	require_health "kernel AIO"
	doctor_without 1 io_setup:ENOMEM
	is .kernel_aio.reason no-memory
	is .engines.auto.errno ENOMEM
	is .engines.threads.works true
	is .environment.engine null
	is '.files[0].writes' null
	says "TRUEAIO_ENGINE is not set: every io_setup fails with -ENOMEM"
}

@test "threads are refused: native waits" {
	require_health threads
	doctor_without 0 clone3:EPERM clone:EPERM
	is .threads.reason seccomp
	is .engines.threads.errno ENOSYS
	is .engines.threads.lacks threads
	is .engines.native.works true
	is .engines.native.offloader null
	is '.files[0].fsync | @json' '["kernel_aio"]'
	is '.advice | length' 1
	says "what would wait, waits in io_submit"
	if [ "$(jq '.files[0].in_memory' <<< "$json")" = false ]; then
		is '.files[0].buffered_reads | @json' '["io_submit"]'
		says "kernel AIO inside io_submit, which waits"
	fi
}

@test "nothing is left" {
	doctor_without 1 io_setup:ENOSYS clone3:EPERM clone:EPERM
	is .engines.auto.works false
	is .engines.auto.errno ENOSYS
	is .environment.engine null
	says "TRUEAIO_ENGINE is not set: every io_setup fails with -ENOSYS"
}

@test "threads without a descriptor table of their own" {
	require_health threads
	doctor_without 0 close_range:ENOSYS
	is .descriptor_tables.works true
	is .features.close_range_unshare false
	is .features.unshare_files true
	doctor_without 0 close_range:ENOSYS unshare:EPERM
	is .descriptor_tables.reason seccomp
	is .features.unshare_files false
	is .engines.threads.works true
	says "A descriptor table of their own: refused by a seccomp filter (EPERM)."
	says "Advice: Let the seccomp filter allow close_range, unshare"
	doctor_without 0 socketpair:EPERM
	is .descriptor_tables.reason seccomp
	is .engines.threads.works true
	doctor_without 0 socketpair:EPERM epoll_create1:EPERM
	is .engines.threads.works true
}

@test "features that are refused" {
	require_health "kernel AIO"
	doctor_without 0 preadv2:ENOSYS io_pgetevents:ENOSYS io_submit:EINVAL
	is '.features | [.rwf_nowait, .rwf_dontcache, .io_pgetevents, .io_cmd_poll] | unique | @json' '[false]'
	says "RWF_NOWAIT: no, RWF_DONTCACHE: no"
	says "io_pgetevents: no, IO_CMD_POLL: no"
}

@test "the user has too many processes" {
	require_root "to become somebody else"
	require_health threads
	cp "$tool" "$top/trueaio"
	chmod 755 "$top/trueaio"
	tool=$top/trueaio
	# Somebody who has no other processes; the shell makes none.
	doctor 0 -- prlimit --nproc=1 setpriv --reuid=64321 --regid=64321 --clear-groups
	is .threads.reason process-limit
	is .threads.errno EAGAIN
	is .threads.limit 1
	is .engines.native.offloader null
	says "as many processes and threads as allowed: RLIMIT_NPROC = 1 (EAGAIN)"
	says "Advice: Raise the limit: ulimit -u"
}

@test "the control group has too many processes" {
	local mount

	require_root "to make a control group"
	require_health threads
	for mount in /sys/fs/cgroup /sys/fs/cgroup/pids; do
		group=$mount/trueaio-doctor-$$
		mkdir "$group" 2> /dev/null || { group=; continue; }
		[ -w "$group/pids.max" ] && break
		rmdir "$group"
		group=
	done
	[ -n "$group" ] || skip "no control group with pids.max can be made here"
	# A group below shows nothing; the full one is above.
	mkdir "$group/below"
	echo 1 > "$group/pids.max"
	cat > enter << END
#!/bin/sh
echo \$\$ > "$group/below/cgroup.procs" && exec "\$@"
END
	chmod +x enter
	run -0 sh ./enter "$tool" doctor --json
	wait_until rmdir "$group/below"
	json=$output
	is .threads.reason cgroup-pids
	is .threads.used 1
	is .threads.limit 1
}

@test "the process has no descriptors left" {
	require_health threads
	# One is free: enough for epoll, and not for a pair of sockets.
	doctor 0 -- bash -c 'exec 3>&-; ulimit -n 4; exec "$@"' bash
	is .descriptor_tables.reason process-files
	is .descriptor_tables.errno EMFILE
	is .descriptor_tables.limit 4
	is .engines.native.offloader threads
	says "this process has no descriptor left for it: RLIMIT_NOFILE = 4 (EMFILE)"
}

@test "the environment decides" {
	require_health "something"
	export TRUEAIO_ENGINE=threads TRUEAIO_THREADS=5000 TRUEAIO_LOG=/dev/null
	doctor 0 file
	is .environment.engine threads
	is .environment.threads_max 1024
	is .environment.TRUEAIO_ENGINE threads
	is '.files[0] | [.writes, .fsync] | flatten | contains(["kernel_aio"])' false
	says "TRUEAIO_ENGINE=threads: programs get the engine threads"
	says "TRUEAIO_THREADS=5000: at most 1024 worker threads"
	says "TRUEAIO_LOG=/dev/null"
	TRUEAIO_THREADS=7 TRUEAIO_ENGINE= doctor 0
	is .environment.threads_max 7
	is .environment.engine native
	TRUEAIO_ENGINE=auto TRUEAIO_THREADS=many doctor 0
	is .environment.engine native
	is .environment.threads_max 64
}

@test "an engine that does not work is a failure" {
	require_health threads
	export TRUEAIO_ENGINE=threads
	doctor_without 1 clone3:EPERM clone:EPERM
	is .environment.engine null
	is .engines.auto.works true
	says "TRUEAIO_ENGINE=threads: every io_setup fails with -ENOSYS"
	says "Advice: Unset TRUEAIO_ENGINE: another engine works here."
	TRUEAIO_ENGINE=steam doctor 1
	is .environment.engine null
	says "TRUEAIO_ENGINE=steam: there is no such engine"
	says "Advice: Unset TRUEAIO_ENGINE, or set it to auto, native or threads."
	TRUEAIO_ENGINE=steam run -1 "$tool" cp file copy
	[ "$(grep -c 'that this library does not have; use auto, native or threads, or unset it$' <<< "$output")" = 1 ]
}

@test "a file on a disk" {
	require_health "something"
	doctor 0 "$PWD/file"
	is '.files | length' 1
	is .files[0].path "$PWD/file"
	is .files[0].error null
	is .files[0].type "regular file"
	is .files[0].opened true
	is .files[0].file_system "$(findmnt -n -o FSTYPE -T file)"
	is .files[0].source "$(findmnt -n -v -o SOURCE -T file)"
	is .files[0].device "$(findmnt -n -o MAJ:MIN -T file | tr -d ' ')"
	[ "$(jq '.files[0].in_memory' <<< "$json")" = false ] || skip "$PWD is in memory: half of the test was not run"
	is '.files[0].writes | @json' '["at_once"]'
	is '.files[0].fsync | @json' '["kernel_aio","threads"]'
	if [ "$(jq '.files[0].rwf_nowait' <<< "$json")" = true ]; then
		is '.files[0].buffered_reads | @json' '["at_once","threads"]'
		says "buffered reads  at once what is in the page cache; the rest by worker threads"
	else
		is '.files[0].buffered_reads | @json' '["threads"]'
	fi
	if dd if=/dev/zero of=direct bs=4096 count=1 oflag=direct status=none 2> /dev/null; then
		is .files[0].o_direct true
		is '.files[0].direct_reads | @json' '["kernel_aio"]'
		if [ "$(jq '.files[0].o_direct_offset_bytes' <<< "$json")" != null ]; then
			bytes=$(jq '.files[0].o_direct_offset_bytes' <<< "$json")
			dd if=direct of=/dev/null bs="$bytes" count=1 iflag=direct status=none
			run -1 dd if=direct of=/dev/null bs=$((bytes / 2)) count=1 iflag=direct
			says "O_DIRECT: yes, aligned to $bytes bytes in the file"
		fi
	else
		is .files[0].o_direct false
		is '.files[0].direct_reads | @json' '[]'
	fi
}

@test "a file in memory, and one of FUSE" {
	require_health "something"
	[ "$(stat -f -c %T /dev/shm)" = tmpfs ] || skip "no tmpfs at /dev/shm"
	memory=$(mktemp /dev/shm/trueaio-doctor.XXXXXX)
	doctor 0 "$memory" || { rm "$memory"; false; }
	rm "$memory"
	is .files[0].file_system tmpfs
	is .files[0].in_memory true
	is '.files[0].buffered_reads | @json' '["at_once"]'
	is '.files[0].writes | @json' '["at_once"]'
	says "regular file on tmpfs (in memory)"

	# shellcheck disable=SC2046 # options are words
	build ./faultfs faultfs.c $(pkg-config --cflags --libs fuse3) ||
		skip "no FUSE to build for: half of the test was not run"
	[ -w /dev/fuse ] || skip "no FUSE here: half of the test was not run"
	mkdir faulty stored
	echo data > stored/file
	./faultfs "$PWD/faulty" "$PWD/stored" 3>&-
	doctor 0 faulty/file
	is '.files[0].file_system | startswith("fuse")' true
	is .files[0].rwf_nowait false
	is '.files[0].buffered_reads | @json' '["threads"]'
	is '.files[0].writes | @json' '["kernel_aio"]'
	says 'reads can say "would block": no'
}

@test "looking at a FIFO does not wake its writer" {
	require_health "something"
	mkfifo fifo
	(echo kept > fifo) 3>&- &
	doctor 0 fifo
	is .files[0].type FIFO
	is .files[0].opened false
	is '.files[0].buffered_reads | @json' '["threads"]'
	is '.files[0].fsync | @json' '[]'
	says "worker threads, one after the other"
	[ "$(timeout 20 cat fifo)" = kept ]
	wait
}

@test "devices, sockets and directories" {
	require_health "something"
	doctor 0 /dev/zero /dev/tty . /proc/version
	is .files[0].type "character device"
	is .files[0].device 1:5
	is .files[0].opened true
	is '.files[0].writes | @json' '["kernel_aio"]'
	is .files[1].opened false
	is '.files[1].writes | @json' '["threads"]'
	is .files[2].type directory
	is '.files[2].writes | @json' '[]'
	is '.files[2].fsync | @json' '["kernel_aio","threads"]'
	is .files[3].in_memory true
	is '.files[3].fsync | @json' '[]'
	# A device that may do anything when it is opened.
	mknod device c 10 254 2> /dev/null || skip "no device can be made here: the rest was not run"
	doctor 0 device
	is .files[0].opened false
	is .files[0].writes null
	says "not opened, because that may have effects"
}

@test "files that cannot be looked at are named, and the others looked at" {
	command -v jq > /dev/null || skip "no jq here"
	doctor 1 missing file
	is .files[0].path missing
	is .files[0].error "No such file or directory"
	is .files[1].type "regular file"
	[ "$errors" = "trueaio doctor: missing: No such file or directory" ]
	says $'\nfile\n'
	require_root "to become somebody else"
	cp "$tool" "$top/trueaio"
	cp file "$top/secret"
	chmod 755 "$top/trueaio"
	chmod 600 "$top/secret"
	tool=$top/trueaio
	doctor 1 "$top/secret" -- setpriv --reuid=64321 --regid=64321 --clear-groups
	is .files[0].error "Permission denied"
}

@test "every member of the object is in the manual page" {
	command -v jq > /dev/null || skip "no jq here"
	keys=$("$tool" doctor --json file | jq -r '[paths | map(strings)] | flatten | unique | .[]')
	[ "$(wc -l <<< "$keys")" -gt 50 ]
	for key in $keys; do
		grep -Eq "^\.(It )?(Cm|Ev) ([a-zA-Z_]+ , )*$key( |\$)" "$repository/man/trueaio.1" || {
			echo "$key is not in trueaio(1)" >&2
			return 1
		}
	done
}

# An io_setup of the command's own tells, under the same filter, what the library has made of it.
@test "the library does what the doctor says" {
	local rules

	require_without
	for rules in "io_pgetevents:EPERM" "io_setup:EPERM" "io_setup:EAGAIN" "io_setup:ENOSYS" \
		"io_setup:EPERM clone3:EPERM clone:EPERM"; do
		rm -f log copy
		# shellcheck disable=SC2086 # rules are words
		engine=$("$without" $rules -- "$tool" doctor --json | jq -r .environment.engine)
		# shellcheck disable=SC2086
		TRUEAIO_LOG=$PWD/log "$without" $rules -- timeout -k 1 20 "$tool" cp file copy 2> /dev/null || true
		if [ "$engine" = null ]; then
			[ ! -e copy ]
			! grep "io_setup" log || { echo "$rules: an engine" >&2; return 1; }
		else
			grep "io_setup.*engine $engine" log || { echo "$rules: not $engine" >&2; cat log; return 1; }
		fi
	done
}

@test "JSON is JSON, whatever the names are" {
	command -v jq > /dev/null || skip "no jq here"
	touch $'bad \xff\xc3 "quoted"\n' $'g\xc3\xb6\xc3\xb6d' 2> /dev/null || skip "no such names here"
	run -0 "$tool" doctor --json $'bad \xff\xc3 "quoted"\n' $'g\xc3\xb6\xc3\xb6d'
	json=$output
	is '.files[0].path' $'bad \xef\xbf\xbd\xef\xbf\xbd "quoted"'
	is '.files[1].path' $'g\xc3\xb6\xc3\xb6d'
	python3 -c 'import json, sys; json.load(sys.stdin)' <<< "$json"
}

@test "the help is the usage, and its options are in the manual page" {
	run -0 "$tool" help doctor
	[[ $output == "Usage: trueaio doctor "* ]]
	[ "$("$tool" doctor --help)" = "$output" ]
	[[ $("$tool" doctor -V) == "trueaio "[0-9]* ]]
	for option in $(grep -oE -- '--[a-z]+' <<< "$output" | sort -u); do
		grep -q -e "Fl ${option#-}" "$repository/man/trueaio.1" || { echo "$option is not in it" >&2; return 1; }
	done
}

@test "what cannot be printed is a failure, and wrong usage is another" {
	[ -w /dev/full ] || skip "no /dev/full here"
	run -1 bash -c "'$tool' doctor > /dev/full"
	[[ $output == *"cannot write to standard output"* ]]
	run -1 bash -c "'$tool' doctor --json > /dev/full"
	[[ $output == *"cannot write to standard output"* ]]
	run -2 "$tool" doctor --steam
	[[ $output == "trueaio doctor: unrecognized option '--steam'" ]]
}
