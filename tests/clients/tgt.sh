# SPDX-License-Identifier: MIT
#
# tgt, an iSCSI target, with its aio backing store: an eventfd in every request, awaited by epoll, and one iocb that is
# used for the next request while the last one is in flight. What initiators write is compared with what they read and
# with what is in the backing files.
# packages: tgt qemu-utils qemu-block-extra libiscsi-bin iproute2
source "${BASH_SOURCE%/*}/common.bash"
own_network

target=iqn.2026-01.test.trueaio:target
export TGT_IPC_SOCKET=$SOCKETS/tgt

adm() {
	timeout -k 5 60 tgtadm "$@" >output 2>&1
}

administer() {
	adm --lld iscsi "$@" || fail "tgtadm $*"
}

# lun NUMBER: where initiators find it.
lun() {
	echo "iscsi://127.0.0.1/$target/$1"
}

# initiator COMMAND...: a program on the other side, which has nothing to do with the library.
initiator() {
	timeout -k 5 60 "$@" >output 2>&1 || fail "$1 $2 ended with exit status $?"
}

# small_requests: 1536 writes of one to four sectors at odd places, 16 at a time, each with its own byte. Then the same
# are read, and compared by the initiator.
small_requests() {
	local kind number
	for kind in write read; do
		for ((number = 0; number < 1536; number++)); do
			echo "aio_$kind -q -P $((number % 251 + 1)) $((number * 2560)) $((number % 4 * 512 + 512))"
			((number % 16 < 15)) || echo aio_flush
		done
	done
}

start tgtd tgtd --foreground --control-port 0 --iscsi portal=127.0.0.1:3260
tgtd=$started
wait_for 20 adm --op show --mode system || fail "tgtd does not answer: $(cat tgtd.log)"
administer --op new --mode target --tid 1 --targetname $target
head -c 64M /dev/urandom >source.raw
for number in 1 2; do
	truncate -s 64M lun$number
	administer --op new --mode logicalunit --tid 1 --lun $number --backing-store "$WORK/lun$number" --bstype aio
done
administer --op bind --mode target --tid 1 --initiator-address 127.0.0.1
expect_library "$tgtd"

# A second initiator keeps another logical unit busy, with a context of its own, until everything is done.
timeout -k 5 300 iscsi-perf -i iqn.2026-01.test.trueaio:reader -r -m 32 -b 8 -t 300 "$(lun 2)" >perf.log 2>&1 &
perf=$!

initiator qemu-img convert -n -m 8 -W -f raw -O raw source.raw "$(lun 1)"
initiator qemu-img compare -f raw -F raw source.raw "$(lun 1)"
cmp source.raw lun1 || fail "the backing file is not what was written"

small_requests >commands
initiator qemu-io -f raw "$(lun 1)" <commands
! grep -Eqi 'failed|mismatch|error' output || fail "small writes were not read back"
initiator qemu-io -f raw source.raw <commands
cmp source.raw lun1 || fail "small writes are not in the backing file, or more than they"

# It prints a figure each second.
is_running $perf || fail "iscsi-perf has ended: $(tail -c 200 perf.log)"
wait_for 20 grep -q 'iops average [1-9]' perf.log || fail "iscsi-perf has read nothing"
kill $perf
cmp lun2 <(head -c 64M /dev/zero) || fail "the other logical unit has changed"

# Stopped by its administrator: the contexts are destroyed with the logical units.
administer --op unbind --mode target --tid 1 --initiator-address 127.0.0.1
administer --op delete --force --mode target --tid 1
adm --op delete --mode system
wait_for 20 has_ended "$tgtd" || fail "tgtd does not stop"
wait "$tgtd" || fail "tgtd ended with exit status $?"
! grep 'bs_aio\|io error' tgtd.log | grep -Ev 'bs_aio_open.*(create|open |opened)' || fail "tgtd complained: $(cat tgtd.log)"
ok "$(tgtd --version): two logical units, every byte right on both sides"
