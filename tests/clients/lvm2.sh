# SPDX-License-Identifier: MIT
#
# LVM's label scan and metadata, which go through its block cache: each command makes a context, reads the labels of all
# devices through it, and destroys it. Logical volumes take device-mapper, which need not be there; the metadata does not.
# packages: lvm2 gdb
source "${BASH_SOURCE%/*}/common.bash"

group=trueaio
devices=()
accepted=
for number in 1 2 3 4; do
	loop_device "disk$number" 64M
	devices+=("$device")
	accepted+="\"a|^$device\$|\", "
done

# A configuration of our own, by which LVM sees these devices and no other.
mkdir -p etc run
export LVM_SYSTEM_DIR=$WORK/etc LVM_SUPPRESS_FD_WARNINGS=1
cat >etc/lvm.conf <<EOT
devices {
	filter = [ $accepted"r|.*|" ]
	use_devicesfile = 0
	obtain_device_list_from_udev = 0
	external_device_info_source = "none"
	hints = "none"
}
activation {
	udev_sync = 0
	udev_rules = 0
	monitoring = 0
}
global {
	locking_dir = "$WORK/run"
	event_activation = 0
}
backup {
	backup_dir = "$WORK/etc/backup"
	archive_dir = "$WORK/etc/archive"
}
EOT
# What LVM keeps outside of its configuration: which devices are there.
mount -t tmpfs tmpfs /run
mkdir /run/lvm

# lvm COMMAND...: has to succeed, without a complaint, and with a context: it goes on without one, and says so.
lvm() {
	must lvm "$@"
	! grep -Eqi 'async io|error|invalid|failed|falling back|mismatch|corrupt|missing' output || fail "lvm $* complained"
}

# report FIELDS VALUES COMMAND...: the command reports these values.
report() {
	lvm "${@:3}" --noheadings --options "$1"
	[ "$(xargs <output)" = "$2" ] || fail "lvm ${*:3} reports $(xargs <output), not $2"
}

tags_in() {
	grep -aEo 'tag[0-9]{2}_[0-9]{100}' "$1" | sort -u | wc -l
}

# label DEVICE: what stands in its second sector, read past the library.
label() {
	dd if="$1" bs=512 skip=1 count=1 iflag=direct status=none | head -c 8 | tr -d '\0'
}

lvm pvcreate --yes "${devices[@]}"
for device in "${devices[@]}"; do
	[ "$(label "$device")" = LABELONE ] || fail "pvcreate has written no label to $device"
done
lvm vgcreate $group "${devices[@]:0:2}"
lvm vgextend $group "${devices[2]}"
# Metadata of some size: every change writes all of it to each device.
for number in {1..24}; do
	tags+=(--addtag "$(printf 'tag%02d_%0100d' "$number" "$number")")
done
lvm vgchange "${tags[@]}" $group
report pv_count,vg_name "3 $group" vgs $group
lvm vgck $group
for device in "${devices[@]:0:3}"; do
	lvm pvck "$device"
	lvm pvck --dump metadata "$device"
	mv output metadata
	env LD_LIBRARY_PATH="$(dirname "$system_library")" lvm pvck --dump metadata "$device" >expected ||
		fail "pvck fails on the distribution's library"
	cmp metadata expected || fail "pvck reads other metadata from $device than on the distribution's library"
	dd if="$device" bs=1M count=1 iflag=direct status=none >area
	for file in metadata area; do
		[ "$(tags_in $file)" = 24 ] || fail "there are not 24 tags in the $file of $device"
	done
done
lvm vgrename $group renamed
lvm vgreduce renamed "${devices[2]}"
lvm pvremove "${devices[@]:2}"
[ "$(label "${devices[2]}")" != LABELONE ] || fail "pvremove has left the label on ${devices[2]}"

# A damaged header of the metadata must be seen.
header=(bs=512 count=1 status=none)
dd if="${devices[0]}" of=saved skip=8 iflag=direct "${header[@]}"
dd if=/dev/urandom of="${devices[0]}" seek=8 oflag=direct "${header[@]}"
on_library lvm vgs
grep -q "wrong checksum .* in mda header on ${devices[0]}" output || fail "the damage on ${devices[0]} was not seen"
dd if=saved of="${devices[0]}" seek=8 oflag=direct "${header[@]}"

# Commands one after another, with a context each.
for number in {1..8}; do
	report pv_name "$(printf '%s\n' "${devices[@]:0:2}" | sort | xargs)" pvs --select "vg_name = renamed"
done
lvm vgremove --yes renamed
lvm pvremove "${devices[@]:0:2}"
lvm pvs --noheadings
[ ! -s output ] || fail "pvs reports what was removed"

mapped_by lvm pvs
ok "$(command lvm version 2>/dev/null | awk '/LVM version/ { print $3 }'): labels and metadata of four devices"
