# SPDX-License-Identifier: MIT
#
# libmariadbd: a program with MariaDB inside (libmariadbd.c), where the library is looked up after libc.
# packages: libmariadbd19 libmariadb-dev mariadb-server-core e2fsprogs
#
# With the library by LD_LIBRARY_PATH and by LD_PRELOAD: transactions in four threads and a shutdown, which has to end;
# the same killed at work; a recovery. After each, all rows are compared as they are for the server.
source "${BASH_SOURCE%/*}/common.bash"
source "$OLDPWD/tests/clients/mariadb.bash"

reaps_by_itself
program=$WORK/libmariadbd
# An embedded server returns from COMMIT before its log is written, with the system's library as well: a transaction
# counts as acknowledged here when a flush of the log after it has returned.
flush_logs=1
server=(-- --no-defaults --datadir="$data" "${innodb[@]}")

# The headers are those of the client library; so the package with the static server, of 600 MB, is not needed.
cc -O2 -D_GNU_SOURCE -I/usr/include/mariadb -o "$program" "$OLDPWD/tests/clients/libmariadbd.c" \
	-l:libmariadbd.so.19 -pthread >"$WORK/output" 2>&1 || fail "libmariadbd.c does not compile"

# Starts the server inside for it, and shuts it down.
sql() {
	echo "$1" >"$WORK/query"
	timeout 120 "${on[@]}" "$program" "$WORK/query" "${server[@]}" >"$WORK/server.log" 2>&1 ||
		server_failed "the program ended with exit status $?"
	cat "$WORK/query.out"
}

# It logs no more than the library prints where a context is refused; but it can be asked.
expect_native_aio() {
	local native=1
	has_kernel_ring || native=0
	[ "$(sql 'SELECT @@innodb_use_native_aio;')" = $native ] || fail "innodb_use_native_aio is not $native"
	[ $native = 1 ] || grep -qxF "$(grep '^Warning' "$WORK/said-on-system")" "$WORK/server.log" || fail "no warning"
}

# start_program [TRANSACTIONS]: each writer reads a pipe, and another thread one that holds the program until it has
# been looked at.
start_program() {
	local writer hold
	writing=()
	for writer in "${writers[@]}"; do
		statements_of "$writer" "$@" >"$WORK/writer.$writer" &
		writing+=($!)
		: >"$WORK/writer.$writer.out"
	done
	exec {hold}<>"$WORK/hold"
	start server "$program" "$WORK/hold" "${writers[@]/#/$WORK/writer.}" "${server[@]}" {hold}>&-
	wait_for 120 have_acknowledged 1 || server_failed "no transaction is acknowledged"
	is_running "$started" || server_failed "the program has ended"
	expect_library "$started"
	exec {hold}>&-
}

install_database
mkfifo "$WORK/hold" "${writers[@]/#/$WORK/writer.}"
make_ledger
for how in path preload; do
	get_in $how
	expect_native_aio
	start_program 100
	wait_for 120 has_ended "$started" || server_failed "the program does not end"
	wait "$started" || server_failed "the program ended with exit status $?"
	end_writers
	check_ledger

	start_program
	wait_for 120 have_acknowledged 200 || server_failed "no more transactions are acknowledged"
	kill_server
	end_writers
	check_ledger
done
ok "$acknowledged_in_all transactions acknowledged in two runs to the end and two killed ones, lost 0"
