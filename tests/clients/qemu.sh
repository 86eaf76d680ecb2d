# SPDX-License-Identifier: MIT
#
# QEMU's image tools and block servers with aio=native. They call io_submit with an eventfd in every request, take the
# events from the kernel's ring by themselves and move its head. Where there is no ring, they have to refuse
# what they refuse on libaio, in the same words, and go on with aio=threads.
# packages: qemu-utils qemu-system-common gdb
source "${BASH_SOURCE%/*}/common.bash"

size=$((48 << 20))
aio=native
reaps_by_itself
has_kernel_ring || aio=threads

raw() {
	echo "driver=raw,file.driver=file,file.aio=${2:-$aio},file.cache.direct=on,cache.direct=on,file.discard=unmap,discard=unmap,file.filename=$1"
}

qcow2() {
	echo "driver=qcow2,file.driver=file,file.aio=$aio,file.cache.direct=on,cache.direct=on,discard=unmap,file.filename=$1"
}

# qemu_io ARGUMENT...: prints what a read finds wrong, and ends well all the same.
qemu_io() {
	must qemu-io "$@"
	! grep -Eqi 'failed|mismatch|error' output || fail "qemu-io: a pattern was not read back, or a request failed"
}

# patterns ARGUMENT...: many requests in flight, vectors of odd parts, flushes between and after them, zeroes, discard.
patterns() {
	local i writes=() reads=()
	for ((i = 0; i < 128; i++)); do
		writes+=(-c "aio_write -q -P $((i + 1)) $((i * 36))k 36k")
		reads+=(-c "aio_read -q -P $((i + 1)) $((i * 36))k 36k")
	done
	qemu_io "$@" "${writes[@]}" -c aio_flush -c flush "${reads[@]}" -c aio_flush \
		-c 'aio_write -P 0x51 8M 4M' -c 'aio_write -P 0x52 12M 64k' -c flush -c aio_flush \
		-c 'aio_read -P 0x51 8M 4M' -c 'aio_read -P 0x52 12M 64k' -c aio_flush \
		-c 'writev -P 7 16M 4k 8k 512 1M' -c flush -c 'readv -P 7 16M 512 4k 8k 1M' \
		-c 'write -z 0 64k' -c 'read -P 0 0 64k' -c 'discard 8M 1M' -c 'read -P 0x51 9M 3M' -c 'write -P 0x53 8M 1M' \
		-c 'read -P 0x53 8M 1M'
}

# image_tools: a file converted to another and to qcow2 and back, eight requests in flight and out of order.
image_tools() {
	local options=(-n --image-opts --target-image-opts -t none -T none -m 8 -W)
	truncate -s $size copy.raw back.raw
	must qemu-img convert "${options[@]}" "$(raw source.raw)" "$(raw copy.raw)"
	cmp source.raw copy.raw || fail "qemu-img convert: the copy differs"
	must qemu-img create -q -f qcow2 copy.qcow2 $size
	must qemu-img convert "${options[@]}" "$(raw source.raw)" "$(qcow2 copy.qcow2)"
	must qemu-img compare --image-opts -T none "$(raw source.raw)" "$(qcow2 copy.qcow2)"
	must qemu-img check --image-opts "$(qcow2 copy.qcow2)"
	must qemu-img convert "${options[@]}" "$(qcow2 copy.qcow2)" "$(raw back.raw)"
	cmp source.raw back.raw || fail "qemu-img convert: what came back from qcow2 differs"
	must qemu-img bench -f raw -t none -i $aio -w --pattern=171 -c $((size / 4096)) -d 64 -s 4096 --flush-interval=500 back.raw
	must qemu-img bench -f raw -t none -i $aio -c 20000 -d 64 -s 4096 back.raw
	[ "$(tr -d '\253' <back.raw | wc -c)" = 0 ] || fail "qemu-img bench: not all that it wrote is in the file"
}

# exported URL FILE: what a server exports is read and written through it, and found in the file.
exported() {
	must qemu-img compare -f raw -F raw source.raw "$1"
	qemu_io -f raw "$1" -c 'aio_write -P 9 0 8M' -c 'aio_write -P 8 8M 8M' -c 'aio_write -P 7 16M 4k' -c aio_flush \
		-c flush -c 'aio_read -P 9 0 8M' -c 'aio_read -P 8 8M 8M' -c 'read -P 7 16M 4k'
	must qemu-img bench -f raw -c 5000 -d 16 -s 4096 "$1"
	[ "$(head -c 8M "$2" | tr -d '\011' | wc -c)" = 0 ] || fail "what was written through $1 is not in the file"
	cmp <(tail -c +$(((16 << 20) + 4097)) source.raw) <(tail -c +$(((16 << 20) + 4097)) "$2") ||
		fail "what was not written to through $1 has changed"
}

stop() {
	kill "$1"
	wait_for 20 has_ended "$1" || fail "process $1 does not stop"
}

servers() {
	local server
	cp source.raw nbd.raw
	start nbd qemu-nbd --aio=$aio --cache=none --discard=unmap -f raw -t -e 4 -k "$SOCKETS/nbd" nbd.raw
	server=$started
	wait_for 20 test -S "$SOCKETS/nbd" || fail "qemu-nbd does not listen: $(cat nbd.log)"
	expect_library "$server"
	exported "nbd+unix:///?socket=$SOCKETS/nbd" nbd.raw
	stop "$server"

	cp source.raw daemon.raw
	start daemon qemu-storage-daemon --blockdev "driver=file,node-name=disk,aio=$aio,cache.direct=on,filename=daemon.raw" \
		--nbd-server "addr.type=unix,addr.path=$SOCKETS/daemon" --export type=nbd,id=export,node-name=disk,name=disk,writable=on
	server=$started
	wait_for 20 test -S "$SOCKETS/daemon" || fail "qemu-storage-daemon does not listen: $(cat daemon.log)"
	expect_library "$server"
	exported "nbd+unix:///disk?socket=$SOCKETS/daemon" daemon.raw
	stop "$server"
}

head -c $size /dev/urandom >source.raw
if [ $contexts = none ]; then
	refused_as_on_libaio qemu-io --image-opts "$(raw source.raw native)" -c 'aio_read 0 4k' -c aio_flush
	refused_as_on_libaio qemu-img bench -f raw -t none -i native -c 10 source.raw
	refused_as_on_libaio qemu-nbd --aio=native --cache=none -f raw -k "$SOCKETS/refused" source.raw
fi

truncate -s 64M patterns.raw
patterns --image-opts "$(raw patterns.raw)"
must qemu-img create -q -f qcow2 patterns.qcow2 64M
patterns --image-opts "$(qcow2 patterns.qcow2)"
must qemu-img check --image-opts "$(qcow2 patterns.qcow2)"
image_tools
servers
mapped_by qemu-io --image-opts "$(raw source.raw)" -c 'aio_read 0 4k' -c aio_flush
mapped_by qemu-img bench -f raw -t none -i $aio -c 10 source.raw

version=$(qemu-img --version | awk 'NR == 1 { print $3 }')
if [ $contexts = none ]; then
	ok "$version: aio=native refused as on libaio, aio=threads works"
else
	ok "$version: raw and qcow2, patterns, copies, two servers: every byte right, the ring read by QEMU itself"
fi
