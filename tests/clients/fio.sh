# SPDX-License-Identifier: MIT
#
# fio with its libaio engine: what it writes it reads back and checks.
# packages: fio e2fsprogs gdb
source "${BASH_SOURCE%/*}/common.bash"

jobs=0
scheduled=()
base=(--ioengine=libaio --directory="$WORK" --filename_format='file.$jobnum' --size=24m --bs=4k --group_reporting --minimal)

# job NAME OPTION...: must end well, and without one of the complaints that fio makes of what it survives. It always
# warns of several writers who verify; here each has a file of its own.
job() {
	must "${scheduled[@]}" fio --name="$1" "${base[@]}" "${@:2}"
	! grep '^fio: ' output | grep -v 'multiple writers may overwrite' || fail "job $1 complained"
	jobs=$((jobs + 1))
}
verified=(--rw=randrw --verify=crc32c --verify_fatal=1 --verify_backlog=1024)

for direct in 0 1; do
	for depth in 1 32 128; do
		job "verify, direct=$direct, depth $depth" --thread --direct=$direct --iodepth=$depth "${verified[@]}"
	done
	job "batches, direct=$direct" --thread --direct=$direct --iodepth=64 --bs=512-64k --blockalign=4k --bsrange=4k-64k \
		--iodepth_batch_submit=16 --iodepth_batch_complete_min=4 --iodepth_batch_complete_max=32 "${verified[@]}"
	# fio looks into the ring and moves its head, where the magic number is the kernel's.
	job "userspace_reap, direct=$direct" --thread --direct=$direct --iodepth=16 --userspace_reap \
		--iodepth_batch_complete_min=0 "${verified[@]}"
	job "fsync and fdatasync, direct=$direct" --thread --direct=$direct --iodepth=16 --fsync=64 --fdatasync=16 "${verified[@]}"
done
job processes --direct=1 --iodepth=16 --numjobs=4 --size=8m "${verified[@]}"
job threads --thread --direct=1 --iodepth=16 --numjobs=4 --size=8m "${verified[@]}"
job rate --thread --direct=1 --iodepth=16 --size=8m --rate_iops=4000 --rate_process=poisson "${verified[@]}"

# io_submit_mode=offload: a thread of fio's for each request in flight, with a context of its own. fio 3.33 makes them in
# such a way (start_worker() assigns the flags in which the new thread has set SW_F_RUNNING) that it waits for ever when
# one of them is up too soon; so they get one CPU, on which none runs before the one that made it has to wait.
cpu=$(awk '/^Cpus_allowed_list/ { split($2, cpus, /[-,]/); print cpus[1] }' /proc/self/status)
scheduled=(taskset --cpu-list "$cpu" chrt --fifo 1)
for direct in 0 1; do
	offload=(--thread --direct=$direct --iodepth=16 --size=8m --verify=crc32c --verify_fatal=1)
	job "offload, direct=$direct" "${offload[@]}" --io_submit_mode=offload --rw=randwrite
	job "offloaded reads, direct=$direct" "${offload[@]}" --io_submit_mode=offload --rw=randread
	scheduled=()
	job "reads of what was offloaded, direct=$direct" "${offload[@]}" --rw=read
	scheduled=(taskset --cpu-list "$cpu" chrt --fifo 1)
done
scheduled=()

# A full file system: ENOSPC comes in the events, and fio cancels and reaps the rest.
scratch_filesystem ext4 16M
! on_library fio --name=full --thread --ioengine=libaio --filename="$WORK/ext4/file" --size=32m --fallocate=none \
	--rw=randwrite --bs=16k --iodepth=16 --direct=1 || fail "fio found room for 32 MiB in 16"
grep -q 'No space left on device' output || fail "fio on a full file system did not say so"

mapped_by fio --name=mapped --thread "${base[@]}" --size=1m --rw=read --direct=1
ok "$(fio --version), $jobs jobs, every block right; a full file system reported"
