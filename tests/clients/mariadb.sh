# SPDX-License-Identifier: MIT
#
# MariaDB: transactions are acknowledged, the server is killed, and what was acknowledged is there.
# packages: mariadb-server-core mariadb-client sysbench xfsprogs e2fsprogs
#
# InnoDB submits through the library and reaps by a system call of its own. MARIADB_ROUNDS times (2) the server is
# killed at work and recovers, in turn with the library by LD_PRELOAD and by LD_LIBRARY_PATH; every second time its
# file system loses what was not synchronized, too. Where the library has no kernel context to give, the server has to
# do without, as on any system without kernel AIO.
source "${BASH_SOURCE%/*}/common.bash"
source "$OLDPWD/tests/clients/mariadb.bash"

rounds=${MARIADB_ROUNDS:-2}
reaps_by_itself
has_kernel_ring || rounds=1
cuts=0 recoveries_killed=0

sysbench() {
	command sysbench oltp_read_write --db-driver=mysql --mysql-socket="$socket" --mysql-user=root --tables=2 \
		--table-size=40000 --time=0 "$@" >"$WORK/output" 2>&1
}

# The page cache is lost and the journal with what it had not written: what xfs_io calls a shutdown does to ext4, too.
# What has reached the block device stays, whether it was flushed there or not.
lose_unsynchronized() {
	xfs_io -x -c shutdown "$WORK/ext4" && umount "$WORK/ext4" && mount -o loop "$WORK/ext4.image" "$WORK/ext4" ||
		fail "shutdown of the file system"
	cuts=$((cuts + 1))
}

# Native AIO must have had something to do: InnoDB writes dirty pages and reads ahead through it, and nothing else.
expect_pages() {
	[ "$(status_of_server Innodb_buffer_pool_pages_flushed)" -gt 100 ] || fail "no pages were written"
	[ "$(status_of_server Innodb_buffer_pool_read_ahead)" -gt 100 ] || fail "no pages were read ahead"
}

recovery_has_begun() {
	has_ended "$started" || grep -q 'Starting crash recovery' "$WORK/server.log" 2>/dev/null
}

# A server that is killed while it recovers leaves the next one more to do.
kill_a_recovery() {
	launch_server
	wait_for 60 recovery_has_begun || fail "no recovery"
	kill_server
	recoveries_killed=$((recoveries_killed + 1))
}

# one_round NUMBER: killed after a number of acknowledgements that is different each time.
one_round() {
	local load
	start_writers
	# It goes on until the server is gone.
	{ sysbench --threads=2 run || true; } &
	load=$!
	wait_for 120 have_acknowledged $((100 + $1 * 317 % 700)) || fail "the writers get no acknowledgements"
	kill_server
	end_writers
	wait "$load"
	[ $(($1 % 2)) = 1 ] || lose_unsynchronized
	[ $(($1 % 5)) != 2 ] || kill_a_recovery
	get_in "$([ $(($1 % 2)) = 1 ] && echo preload || echo path)"
	start_server
	recovery_has_begun || [ $(($1 % 5)) = 2 ] || fail "no crash recovery"
	check_ledger
	check_tables sbtest.sbtest1 sbtest.sbtest2
	expect_pages
	echo "round $1: $acknowledged_in_all transactions acknowledged so far, all there [$SECONDS s]"
}

install_database
start_server
make_ledger
sql 'CREATE DATABASE sbtest'
sysbench prepare || fail "sysbench prepare"

# First what must go well without a kill, and a shutdown, which must end.
start_writers 50
sysbench --threads=4 --events=200 run || fail "sysbench"
end_writers
[ "$acknowledged_in_all" = 200 ] || fail "$acknowledged_in_all of 200 transactions were acknowledged"
check_ledger
check_tables sbtest.sbtest1 sbtest.sbtest2
expect_pages
stop_server

start_server
for ((round = 1; round <= rounds; round++)); do
	one_round "$round"
done
stop_server
has_kernel_ring && with='on native AIO' || with="without native AIO, warned as by the system's library,"
ok "$(mariadbd --version | awk '{ print $3 }') $with: kill -9 and recovery $rounds times ($cuts times with the loss of" \
	"what was not synchronized, $recoveries_killed recoveries killed), $acknowledged_in_all transactions acknowledged, lost 0"
