# SPDX-License-Identifier: MIT
#
# sanlock: two hosts that have nothing in common but a disk, on which they keep leases. Each renews its own, and they
# take turns in holding one for a counter that only its holder may change.
# packages: sanlock
#
# Every thread that works on the disk has a context of its own, for one request, and waits for it with a timeout.
source "${BASH_SOURCE%/*}/common.bash"

export SANLOCK_PRIVILEGED=0
rounds=6
loop_device "$WORK/disk" 16M
lockspace=leases:0:$device:0
resource=leases:counter:$device:1048576
spare=leases:spare:$device:2097152
declare -A daemon

# client HOST ACTION...: asks the daemon of that host; what it says is in $WORK/output.HOST.
client() {
	SANLOCK_RUN_DIR=$SOCKETS/$1 timeout -k 5 60 sanlock client "${@:2}" >"output.$1" 2>&1
}

# Two seconds are the time that a host gives a request to the disk, ten are the default. After eight such times without
# a renewal it gives its leases up.
for what in "-s $lockspace" "-r $resource" "-r $spare"; do
	must sanlock direct init $what -o 2
done
must sanlock direct read_leader -r "$resource"
grep -q '^resource_name counter$' output || fail "the lease that was written is not there"

joined() {
	client "$1" status && grep -q "^s leases:$1:" "output.$1"
}

for host in 1 2; do
	mkdir "$SOCKETS/$host"
	SANLOCK_RUN_DIR=$SOCKETS/$host start "host$host" \
		sanlock daemon -D -w 0 -l 0 -h 0 -L -1 -S -1 -U root -G root -e "host$host"
	daemon[$host]=$started
	wait_for 30 client "$host" status || fail "the daemon of host $host does not answer"
	client "$host" add_lockspace -s "leases:$host:$device:0" -o 2 || fail "host $host cannot join"
	joined "$host" || fail "host $host has not joined"
	expect_library "${daemon[$host]}"
done

# While one host holds the lease the other cannot have it, and is told so.
mkfifo held
client 1 command -r "$spare" -c /bin/sh -c "echo >held; exec sleep 600" &
holder=$!
read -r <held
! client 2 command -r "$spare" -c /bin/true || fail "both hosts hold a lease"
grep -q 'acquire done -243' output.2 || fail "host 2 was not told that host 1 holds the lease: $(tail -n 1 output.2)"

# The counter is read, and written a moment later: two holders at once would lose a step.
echo 0 >counter
cat >step <<'STEP'
#!/bin/sh
read -r value <counter
sleep 0.1
echo $((value + 1)) >counter
STEP
chmod +x step

# Refused as long as the other host holds the lease.
take_turns() {
	local round
	for round in $(seq $rounds); do
		wait_for 60 client "$1" command -r "$resource" -c "$WORK/step" || return 1
	done
}
take_turns 1 &
first=$!
take_turns 2 &
second=$!
wait $first || fail "host 1 did not get the lease: $(tail -n 1 output.1)"
wait $second || fail "host 2 did not get the lease: $(tail -n 1 output.2)"
[ "$(cat counter)" = $((2 * rounds)) ] || fail "the counter is $(cat counter) after $((2 * rounds)) steps: two held the lease at once"

has_renewed() {
	client "$1" renewal -s leases && [ "$(grep -c '^timestamp=' "output.$1")" -ge 3 ]
}
for host in 1 2; do
	wait_for 60 has_renewed "$host" || fail "host $host has not renewed its lease three times"
	! grep 'next_errors=[1-9]' "output.$host" || fail "host $host renewed with errors"
done

kill $holder
for host in 1 2; do
	client "$host" shutdown -f 1 || fail "host $host does not shut down"
	wait_for 30 has_ended "${daemon[$host]}" || fail "the daemon of host $host does not end"
	# Said of a lease that the other host holds, and of a disk that takes more than two seconds.
	! grep -E 'aio |error' "host$host.log" | grep -vE 'acquire_token held error|aio timeout' ||
		fail "the daemon of host $host complained"
done
must sanlock direct dump "$device:0:16M"
grep -q 'counter' output || fail "the leases cannot be dumped"
ok "$(dpkg-query -W -f '${Version}' sanlock), two hosts, $((2 * rounds)) turns with a lease, none at the same time"
