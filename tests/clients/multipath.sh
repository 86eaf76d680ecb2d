# SPDX-License-Identifier: MIT
#
# multipath: the directio checker, which multipathd loads to ask each path to a disk whether it is up. A thousand paths
# share a context; each asks with a timeout of next to nothing, and takes the others' events with its own.
# packages: multipath-tools python3 bindfs fuse3
#
# multipath.py does with the checker what multipathd does. One disk is on a FUSE server that is stopped for a while: a
# path that does not answer must not hold up the others, and is up again when it answers.
here=$(realpath "${BASH_SOURCE%/*}")
source "$here/common.bash"

for number in 1 2 3 4; do
	dd if=/dev/urandom of="disk$number" bs=1M count=4 status=none
	loop_device "$WORK/disk$number" 4M
	good+=("$device")
done

# A disk that answers with errors: the device is longer than what is behind it.
loop_device "$WORK/broken" 4M
truncate -s 0 broken
broken=$device

mkdir behind slow
truncate -s 4M behind/disk
bindfs -f behind slow >bindfs.log 2>&1 &
server=$!
wait_for 20 mountpoint -q slow || fail "bindfs has not mounted"
slow=$(losetup --find --show --direct-io=on slow/disk) || fail "losetup"
# Before the run ends, or the server could not be read from to detach the device.
trap 'kill -CONT $server; losetup -d "$slow"; kill $server' EXIT

must python3 "$here/multipath.py" "$server" "$broken" "$slow" "${good[@]}"
cat output
grep -qx "library $library" output || fail "the checker runs on $(sed -n 's/^library //p' output)"
touch mapped
ok "$(dpkg-query -W -f '${Version}' multipath-tools), $(tail -n 1 output)"
