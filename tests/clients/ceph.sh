# SPDX-License-Identifier: MIT
#
# Ceph: a monitor and three storage nodes that keep three copies of each object. One node dies in the middle of
# writing, is checked, and comes back; then every copy is compared with what was written.
# packages: ceph-mon ceph-osd ceph-common iproute2 fuse3 jq
#
# It is the storage node's process, ceph-osd, that uses libaio, and so do the tools that open its store: eight threads
# and more submit, one for each device reaps, with a timeout of 250 ms; each opens several contexts.
source "${BASH_SOURCE%/*}/common.bash"
own_network

nodes=(0 1 2)
groups=(1.0 1.1 1.2 1.3)
mkdir monitor osd.{0,1,2} written

export CEPH_CONF=$WORK/ceph.conf
cluster=$(cat /proc/sys/kernel/random/uuid)
cat >ceph.conf <<END
[global]
	fsid = $cluster
	mon host = 127.0.0.1
	mon data = $WORK/monitor
	run dir = $SOCKETS
	log file = $WORK/\$name.log
	auth cluster required = none
	auth service required = none
	auth client required = none
	osd pool default size = ${#nodes[@]}
	osd pool default pg autoscale mode = off
	osd data = $WORK/osd.\$id
	bluestore block size = 1G
	crush location = root=default host=node\$id
END

# start_node NUMBER: a storage node.
start_node() {
	start "node$1" ceph-osd --id "$1" --foreground
	node[$1]=$started
}

# Every copy of every placement group is there and up to date.
is_clean() {
	local group
	for group in "${groups[@]}"; do
		timeout -k 5 20 ceph tell "$group" query >output 2>&1 && [ "$(jq -r .state output)" = active+clean ] || return 1
	done
}

# client ARGUMENT...: reads or writes objects.
client() {
	timeout -k 5 120 rados --pool data "$@"
}

# same NAME: the object is what was written.
same() {
	client get "$1" - | cmp - "written/$1" || fail "object $1 is not what was written"
}

# check_store NODE: the store of a node that is down is consistent, every checksum included.
check_store() {
	must ceph-bluestore-tool fsck --deep 1 --path "osd.$1"
	grep -q '^fsck success' output || fail "the store of node $1 has errors"
}

# The cluster. Nodes make their stores at the same time.
must monmaptool --create --fsid "$cluster" --addv a '[v2:127.0.0.1:3300,v1:127.0.0.1:6789]' monmap
must ceph-mon --id a --mkfs --monmap monmap
ceph-mon --id a --foreground >monitor.log 2>&1 &
for number in "${nodes[@]}"; do
	identity[number]=$(cat /proc/sys/kernel/random/uuid)
	start "mkfs$number" ceph-osd --id "$number" --mkfs --osd-uuid "${identity[number]}" --monmap monmap
	making[number]=$started
done
for number in "${nodes[@]}"; do
	wait "${making[number]}" || fail "node $number could not make its store: $(tail "mkfs$number.log")"
done
{
	printf 'osd new %s\n' "${identity[@]}"
	echo "osd pool create data ${#groups[@]}"
} | timeout -k 5 60 ceph >output 2>&1 || fail "the monitor does not take the nodes"
for number in "${nodes[@]}"; do
	start_node "$number"
done
wait_for 120 is_clean || fail "the cluster does not become clean"
for number in "${nodes[@]}"; do
	expect_context "${node[number]}"
done

# Objects of all sizes, from several writers at a time; and many of one size, which the reader checks.
for size in 1 4095 4096 65537 1048576 9000001; do
	head -c $size /dev/urandom >"written/size.$size"
	client put "size.$size" "written/size.$size" &
	writers[size]=$!
done
for size in "${!writers[@]}"; do
	wait "${writers[size]}" || fail "writing an object of $size bytes"
	same "size.$size"
done
client bench 60 write -b 65536 -t 16 --max-objects 300 --no-cleanup >output 2>&1 || fail "rados bench write"
client bench 60 seq -t 16 >output 2>&1 || fail "rados bench seq"
[ "$(sed -n 's/^Total reads made: *//p' output)" = 300 ] || fail "rados bench has not read what it wrote"

# write_objects NAME: new objects, each with a small change in the middle, until the node has died and a while longer.
write_objects() {
	local more=2 count=0 name
	until [ $more = 0 ]; do
		count=$((count + 1))
		name=$1.$count
		head -c 150000 /dev/urandom >"written/$name"
		client put "$name" "written/$name" || return 1
		head -c 3000 /dev/urandom >"change.$1"
		client put "$name" "change.$1" --offset 70001 || return 1
		dd if="change.$1" of="written/$name" bs=3000 oflag=seek_bytes seek=70001 conv=notrunc status=none
		[ ! -e died ] || more=$((more - 1))
	done
}
for writer in 1 2 3 4; do
	write_objects "writer$writer" &
	writers[writer]=$!
done
for writer in 1 2 3 4; do
	wait_for 60 test -e "written/writer$writer.2" || fail "writer $writer gets nowhere"
done
kill -KILL "${node[1]}"
wait_for 10 has_ended "${node[1]}" || fail "node 1 survived SIGKILL"
touch died
for writer in 1 2 3 4; do
	wait "${writers[writer]}" || fail "writer $writer noticed that a node died"
done
client put size.1048576 written/size.65537 --offset 4096
dd if=written/size.65537 of=written/size.1048576 oflag=seek_bytes seek=4096 bs=64k conv=notrunc status=none

check_store 1
start_node 1
wait_for 120 is_clean || fail "node 1 did not recover"
expect_context "${node[1]}"
for object in size.1048576 writer{1,2,3,4}.2; do
	same "$object"
done

# Each node's copies, by a tool that shows a store as a file system.
for number in "${nodes[@]}"; do
	kill "${node[number]}"
done
mkdir copies
for number in "${nodes[@]}"; do
	wait_for 60 has_ended "${node[number]}" || fail "node $number does not stop"
	check_store "$number"
	start "copies$number" ceph-objectstore-tool --data-path "osd.$number" --op fuse --mountpoint copies
	wait_for 60 mountpoint -q copies || fail "the store of node $number cannot be shown: $(tail "copies$number.log")"
	expect_context "$started"
	for file in written/*; do
		cmp "$file" copies/*_head/all/*:::"${file#written/}":head\#/data ||
			fail "node $number has no copy of ${file#written/}, or a wrong one"
	done
	umount copies
	wait_for 60 has_ended "$started" || fail "the tool that shows a store does not end"
done
files=(written/*)
ok "$(ceph-osd --version | cut -d ' ' -f 3), ${#nodes[@]} nodes: ${#files[@]} objects from parallel writers," \
	"one node killed and recovered, all three stores consistent and right"
