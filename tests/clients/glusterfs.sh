# SPDX-License-Identifier: MIT
#
# GlusterFS: three storage nodes with a replicated volume, and a client that mounts it. One node dies in the middle of
# writing, comes back, and is healed; then the three copies are compared with what was written.
# packages: glusterfs-server glusterfs-client btrfs-progs iproute2 fio
#
# Each node is a glusterd with an address, directories and a brick of its own, as on three machines. It is the brick's
# process, glusterfsd, that uses libaio: several threads submit, one reaps, and O_DIRECT is switched on and off for each
# request. Bricks are on btrfs: Gluster's unaligned buffers are refused by ext4 and xfs, whatever the library.
source "${BASH_SOURCE%/*}/common.bash"
own_network

nodes=(1 2 3)
volume=$WORK/volume
declare -A glusterd
mkdir "$volume" written

# gluster NODE ARGUMENT...: the administrator's command on a node; what it prints is in $WORK/output.
gluster() {
	timeout -k 5 60 nsenter --mount --target "${glusterd[$1]}" gluster --mode=script "${@:2}" >output 2>&1
}

# administer ARGUMENT...: on node 1, and it has to succeed.
administer() {
	gluster 1 "$@" || fail "gluster $*"
}

# start_node NODE: its glusterd, which starts the brick if the node has one. Their directories are fixed, so each node
# has a mount namespace. Geo-replication is not used here, and setting it up takes glusterd many seconds.
printf '#!/bin/sh\necho gsyncd\n' >gsyncd
chmod +x gsyncd
start_node() {
	mkdir -p "node$1"/{lib,log} "$SOCKETS/$1/gluster"
	start "node$1" unshare --mount sh -ec '
		mount --bind "$1/lib" /var/lib/glusterd
		mount --bind "$1/log" /var/log/glusterfs
		mount --bind gsyncd /usr/lib/*/glusterfs/gsyncd
		mount --bind "$2" /run
		exec glusterd --no-daemon --xlator-option "management.transport.socket.bind-address=$3"' \
		start_node "node$1" "$SOCKETS/$1" "127.1.1.$1"
	glusterd[$1]=$started
}

sees_all_nodes() {
	gluster "$1" pool list && [ "$(grep -c '\bConnected' output)" = ${#nodes[@]} ]
}

# brick NODE: the process id of the node's glusterfsd.
brick() {
	cat "$SOCKETS/$1"/gluster/vols/data/*.pid
}

# A brick has an id before it has loaded all of itself, and a glusterd that comes back may start its brick twice.
brick_is_up() {
	local process
	process=$(brick "$1") && grep -q '/libaio\.so' "/proc/$process/maps" 2>/dev/null &&
		{ [ "$ENGINE" = reference ] || grep -q "^trueaio\[$process\]: io_setup(" "$library_log"; }
}

expect_bricks() {
	local node
	for node in "${nodes[@]}"; do
		wait_for 30 brick_is_up "$node" || fail "the brick of node $node has no context"
		expect_context "$(brick "$node")"
	done
}

is_mounted() {
	mountpoint -q "$volume"
}

# same NAME: what the volume has is what was written, by way of the page cache and past it.
same() {
	cmp "written/$1" "$volume/$1" && dd if="$volume/$1" iflag=direct bs=64k status=none | cmp - "written/$1" ||
		fail "file $1 on the volume is not what was written"
}

# The cluster.
scratch_filesystem btrfs 2G
for node in "${nodes[@]}"; do
	start_node "$node"
done
for node in "${nodes[@]}"; do
	wait_for 30 test -S "$SOCKETS/$node/glusterd.socket" || fail "glusterd of node $node did not start"
	[ "$node" = 1 ] || administer peer probe "127.1.1.$node"
done
for node in "${nodes[@]}"; do
	wait_for 30 sees_all_nodes "$node" || fail "node $node does not see the others"
done
administer volume create data replica 3 "127.1.1.1:$WORK/btrfs/1" "127.1.1.2:$WORK/btrfs/2" "127.1.1.3:$WORK/btrfs/3"
administer volume set data storage.linux-aio on
# O_DIRECT of a client reaches the bricks, and a read is answered by a brick.
administer volume set data performance.strict-o-direct on
administer volume set data performance.quick-read off
administer volume set data performance.io-cache off
administer volume start data
expect_bricks
glusterfs --volfile-server=127.1.1.1 --volfile-id=data --log-file="$WORK/client.log" "$volume"
wait_for 30 is_mounted || fail "the volume could not be mounted"

# Files of all sizes, from several writers at a time; every second one past the page cache as far as its size allows.
for size in 1 511 4096 65537 1048576 3000001 8388608; do
	head -c $size /dev/urandom >written/$size
	cp written/$size "$volume/$size" &
	writers[size]=$!
	cp written/$size written/direct.$size
	dd if=written/$size of="$volume/direct.$size" bs=64k oflag=direct conv=fsync status=none &
	direct_writers[size]=$!
done
for size in "${!writers[@]}"; do
	wait "${writers[size]}" && wait "${direct_writers[size]}" || fail "copying a file of $size bytes to the volume"
	same "$size"
	same "direct.$size"
done

# The client is on the library, too.
for direct in 0 1; do
	must fio --name=verify --directory="$volume" --filename_format='fio.$jobnum' --numjobs=2 --size=4m --bs=4k-16k \
		--ioengine=libaio --iodepth=8 --direct=$direct --rw=randrw --verify=crc32c --verify_fatal=1 --minimal
done
rm "$volume"/fio.*

# append NAME: goes on until the node has died, and a while longer.
append() {
	local more=16
	until [ $more = 0 ]; do
		head -c 100000 /dev/urandom | tee -a "written/$1" >>"$volume/$1" || return 1
		[ ! -e died ] || more=$((more - 1))
	done
}
half_written() {
	[ "$(stat -c %s "btrfs/2/$1" 2>/dev/null || echo 0)" -ge 500000 ]
}
for writer in 1 2 3 4; do
	append $writer &
	writers[writer]=$!
done
for writer in 1 2 3 4; do
	wait_for 60 half_written $writer || fail "writer $writer gets nowhere"
done
victim=$(brick 2)
kill -KILL "$victim" ${glusterd[2]}
wait_for 10 has_ended "$victim" || fail "the brick of node 2 survived SIGKILL"
touch died
for writer in 1 2 3 4; do
	wait ${writers[writer]} || fail "writer $writer noticed that a node died"
	same $writer
done

# What the node misses: a file that changes in the middle, one that goes, one that comes.
head -c 64K /dev/urandom >change
for file in written volume; do
	dd if=change of="$file/8388608" seek=21 bs=64k conv=notrunc status=none
	rm "$file/65537"
	cp change "$file/new"
done
same 8388608
! diff -rq --exclude='.glusterfs*' written btrfs/2 >/dev/null || fail "node 2 is dead and has missed nothing"

# As after a reboot, nothing is left of what was running.
rm -r "$SOCKETS/2"
start_node 2
brick_runs() {
	[ -s "$(echo "$SOCKETS/2"/gluster/vols/data/*.pid)" ] && is_running "$(brick 2)"
}
healed() {
	gluster 1 volume heal data info && [ "$(grep -c '^Number of entries: 0$' output)" = ${#nodes[@]} ]
}
wait_for 30 brick_runs || fail "the brick of node 2 did not come back"
wait_for 120 healed || fail "node 2 was not healed"
expect_bricks

umount "$volume"
for node in "${nodes[@]}"; do
	diff -r --exclude='.glusterfs*' written "btrfs/$node" || fail "the brick of node $node differs from what was written"
done
files=(written/*)
ok "$(glusterd --version | sed -n '1s/glusterfs \([^ ]*\).*/\1/p'), 3 nodes: ${#files[@]} files from parallel writers," \
	"one node killed and healed, all three bricks right"
