# SPDX-License-Identifier: MIT
#
# sysbench fileio in its asynchronous mode: every test mode, buffered and O_DIRECT, in one and in several threads.
# packages: sysbench gdb
#
# A thread of sysbench has one buffer, which it uses again while requests are in flight. So what it reads it can check
# (--validate) with a single request in flight, and only then. With 128 in flight, as many as the context was made for,
# every write is of zeros, and this script looks for them in the files. What is read then is not checked: only that
# each read had its event with the right length, and that the files are as they were.
source "${BASH_SOURCE%/*}/common.bash"

blocks=1024
block_size=4096
runs=0
options=(fileio --file-io-mode=async --file-num=4 --file-total-size="$((blocks * block_size))"
	--file-block-size="$block_size")

# run MODE EVENTS OPTION...: exactly so many requests, fsyncs included, and no complaint. No file is in the page cache
# when it begins.
run() {
	local events file
	for file in test_file.?; do
		dd if="$file" iflag=nocache count=0 status=none
	done
	must sysbench "${options[@]}" "${flags[@]}" --file-test-mode="$1" --events="$2" --time=0 "${@:3}" run
	! grep -E 'FATAL|WARNING|failed' output || fail "sysbench $* complained"
	events=$(awk '/total number of events:/ { print $NF }' output)
	[ "$events" = "$2" ] || fail "sysbench $* made $events requests"
	runs=$((runs + 1))
}

# Files of random blocks, each with its offset and a checksum.
prepare() {
	must sysbench "${options[@]}" cleanup
	must sysbench "${options[@]}" --validate=on prepare
}

checksums() {
	sha256sum test_file.?
}

# Files of the right size with nothing but zeros in them.
expect_zeros() {
	[ "$(cat test_file.? | wc -c)" = $((blocks * block_size)) ] || fail "$* left files of the wrong size"
	cat test_file.? | cmp -s - <(head -c $((blocks * block_size)) /dev/zero) || fail "$*: something was not written"
}

validated=(--validate=on --file-async-backlog=1)
in_flight=(--file-async-backlog=128 --file-fsync-freq=0 --file-fsync-end=on)

for direct in no yes; do
	flags=()
	[ $direct = no ] || flags=(--file-extra-flags=direct)

	# One in flight: what is read is checked, and after each way of writing everything is read.
	prepare
	run seqrd $blocks "${validated[@]}" --threads=4
	run rndrd $blocks "${validated[@]}" --threads=4
	for mode in seqrewr rndwr rndrw; do
		run $mode $blocks "${validated[@]}" --file-fsync-mode=fdatasync
		run seqrd $blocks "${validated[@]}"
	done
	must sysbench "${options[@]}" cleanup
	run seqwr $blocks "${validated[@]}" --file-fsync-freq=0
	run seqrd $blocks "${validated[@]}"

	# 128 in flight in each thread.
	prepare
	before=$(checksums)
	run seqrd $blocks "${in_flight[@]}"
	run rndrd $((blocks * 4)) "${in_flight[@]}" --threads=4
	[ "$(checksums)" = "$before" ] || fail "reading has changed the files"

	# A byte that has changed is zero now.
	cat test_file.? >before
	run rndwr $((blocks / 4)) "${in_flight[@]}" --threads=4
	cat test_file.? | cmp -l before - >changed || true
	[ -s changed ] || fail "rndwr has written nothing"
	awk '$3 != "0" { exit 1 }' changed || fail "rndwr has written something else than zeros"
	rm before changed

	run seqrewr $blocks "${in_flight[@]}"
	expect_zeros seqrewr
	prepare
	run seqrewr $blocks "${in_flight[@]}" --threads=4
	expect_zeros seqrewr in four threads
	must sysbench "${options[@]}" cleanup
	run seqwr $blocks "${in_flight[@]}" --threads=4
	expect_zeros seqwr

	# fsyncs come in between, by sysbench's own calls, and after each write.
	run rndrw $((blocks * 2)) --file-async-backlog=128 --threads=4 --file-fsync-freq=256
	run rndwr 128 --file-async-backlog=128 --file-fsync-all=on --file-fsync-mode=fdatasync
	expect_zeros rndrw and rndwr
done

mapped_by sysbench "${options[@]}" --file-test-mode=seqrd --events=64 --time=0 run
ok "$(sysbench --version | awk '{ print $1, $2 }'), $runs runs, what can be checked is right"
