# SPDX-License-Identifier: MIT
#
# stressapptest with a disk thread on each of two block devices: it writes blocks at random places with O_DIRECT, and
# reads and compares them later.
# packages: stressapptest
#
# A disk thread has a context for 5 events with one request in it, for which it waits with a timeout. It begins to read
# only when it has written more than --cache-size; with the 16 MiB that are the default it reads nothing in a short run.
# Two options find differences by themselves, with any libaio, and are not used: --random-threads, and blocks for reading
# that are smaller than 4 KiB and than those for writing.
source "${BASH_SOURCE%/*}/common.bash"

loop_device disk1 64M
first=$device
loop_device disk2 64M
second=$device

options=(-M 64 -m 0 -s 4 -v 20 --destructive -d "$first" -d "$second" --cache-size 65536 --segment-size 1048576
	--blocks-per-segment 16 --read-threshold 60000000 --write-threshold 60000000)
checked=0

has_mapped_libaio() {
	grep -q /libaio "/proc/$started/maps"
}

# test_disks OPTION...: passes, without a complaint, and blocks of each disk have been written and read.
test_disks() {
	local disk blocks
	start disks stressapptest "${options[@]}" "$@"
	wait_for 20 has_mapped_libaio || fail "stressapptest does not load libaio"
	expect_library "$started"
	wait_for 120 has_ended "$started" || fail "stressapptest does not end"
	mv disks.log output
	wait "$started" || fail "stressapptest ended with exit status $?"
	grep -q '^Status: PASS' output || fail "stressapptest does not say PASS"
	! grep -E 'Hardware Error|Process Error' output || fail "stressapptest complained"
	for disk in "$first" "$second"; do
		grep -q "^Log: Writing .* on disk $disk " output || fail "nothing was written to $disk"
		blocks=$(grep -c "^Log: Reading sectors .* on disk $disk " output) || fail "nothing on $disk was checked"
		checked=$((checked + blocks))
	done
}

test_disks
test_disks --write-block-size 65536 --read-block-size 4096

ok "$(stressapptest --help 2>&1 | sed -n 's/.*SAT revision \([^,]*\),.*/stressapptest \1/p'), PASS, $checked blocks read back"
