# SPDX-License-Identifier: MIT
#
# What the MariaDB scripts share: the server, writers whose transactions can be checked one by one, and what they left.
# Sourced after common.bash.
#
# A writer is a client of the server that sends one transaction after the other and notes the number of each once the
# server has acknowledged its commit; mariadb-ledger.awk makes the transactions, and from the same numbers the rows
# that must be there. So what is there is compared with what was acknowledged row by row and byte by byte.

ledger=$OLDPWD/tests/clients/mariadb-ledger.awk
data=$WORK/ext4/data
socket=$SOCKETS/server
client=(--no-defaults --user=root --socket="$socket")
# By writer: the latest transaction that was acknowledged to it, and the latest that it can have sent.
writers=(1 2 3 4)
acknowledged=(0 0 0 0 0)
sent=(0 0 0 0 0)
acknowledged_in_all=0
ulimit -c 0

# MariaDB would rather use an io_uring of its own. A small buffer pool and eager read-ahead make it read and write
# pages all the time; a small log makes it write checkpoints.
aio=(--innodb-use-native-aio=1 --innodb-linux-aio=aio --innodb-flush-method=O_DIRECT)
innodb=("${aio[@]}" --innodb-doublewrite=1 --innodb-flush-log-at-trx-commit=1 --innodb-buffer-pool-size=16M
	--innodb-log-file-size=16M --innodb-read-ahead-threshold=8)

# The lines by which InnoDB says what it does its I/O with, without their times.
said_of_aio() {
	grep -h 'io_setup(\|native AIO' "$1" | sed 's/^[-0-9]* *[0-9:]* 0 //'
}

# What it says on the system's library where io_setup is refused with the error that ours answers on this engine.
said_on_system() {
	local error=ENOSYS
	[ "$ENGINE" != no-kernel-aio ] || error=EAGAIN
	timeout 60 env LD_LIBRARY_PATH="${system_library%/*}" "${without[@]}" io_setup:$error io_uring_setup:EPERM -- \
		mariadbd --no-defaults --user=root --datadir="$data" "${innodb[@]}" --bootstrap \
		--log-error="$WORK/system.log" </dev/null >"$WORK/output" 2>&1 || fail "no server on the system's library"
	said_of_aio "$WORK/system.log"
}

# expect_aio LOG: native AIO; or, where the library has no context for it, the warnings of any system without.
expect_aio() {
	if has_kernel_ring; then
		grep -q 'InnoDB: Using Linux native AIO$' "$1" || fail "no native AIO: $(said_of_aio "$1")"
		return
	fi
	grep -q 'native AIO failed: falling back to innodb_use_native_aio=OFF$' "$1" || fail "no warning"
	said_of_aio "$1" | diff "$WORK/said-on-system" - >"$WORK/output" || fail "not the warnings of the system's library"
}

sql() {
	timeout 120 mariadb "${client[@]}" --batch --skip-column-names --quick --execute "$1"
}

# On a file system that can be shut down, but of the kind that most servers have.
install_database() {
	scratch_filesystem ext4 2G
	must mariadb-install-db --no-defaults --user=root --datadir="$data" --auth-root-authentication-method=normal \
		--skip-test-db "${innodb[@]}"
	has_kernel_ring || said_on_system >"$WORK/said-on-system"
}

answers_or_has_ended() {
	has_ended "$started" || timeout 10 mariadb-admin "${client[@]}" ping >/dev/null 2>&1
}

# Without waiting for it; its log is server.log.
launch_server() {
	rm -f "$WORK/server.log"
	start mariadbd mariadbd --no-defaults --user=root --datadir="$data" "${innodb[@]}" --skip-networking \
		--socket="$socket" --log-error="$WORK/server.log"
}

start_server() {
	launch_server
	wait_for 120 answers_or_has_ended || fail "the server does not answer"
	is_running "$started" || server_failed "the server has ended"
	expect_library "$started"
	expect_aio "$WORK/server.log"
}

server_failed() {
	cp "$WORK/server.log" "$WORK/output"
	fail "$@"
}

# A thread of the server waits in the kernel's io_getevents for completions; only io_destroy ends that.
stop_server() {
	timeout 60 mariadb-admin "${client[@]}" shutdown || server_failed "shutdown"
	wait_for 60 has_ended "$started" || server_failed "the server does not end"
	wait "$started" || server_failed "the server ended with exit status $?"
	! grep -qiE '\[ERROR\]|corrupt|assert|signal' "$WORK/server.log" || server_failed "complaints in the server's log"
}

kill_server() {
	is_running "$started" || server_failed "the server has ended by itself"
	kill -KILL "$started"
	wait "$started" 2>/dev/null || true
}

status_of_server() {
	sql "SHOW GLOBAL STATUS LIKE '$1'" | cut -f 2
}

# check_tables TABLE...
check_tables() {
	sql "CHECK TABLE $(IFS=,; echo "$*") EXTENDED;" >"$WORK/output"
	[ "$(awk '$3 == "status" && $4 == "OK"' "$WORK/output" | wc -l)" = $# ] || fail "CHECK TABLE"
}

make_ledger() {
	local rows
	rows=$(printf '(%d, 0), ' "${writers[@]}")
	sql "CREATE DATABASE ledger;
		CREATE TABLE ledger.entries (writer INT, number INT, part INT, version INT, content MEDIUMTEXT,
			PRIMARY KEY (writer, number, part), KEY (version, number), KEY (content(32))) ENGINE=InnoDB;
		CREATE TABLE ledger.latest (writer INT PRIMARY KEY, number INT) ENGINE=InnoDB;
		INSERT INTO ledger.latest VALUES ${rows%, };"
}

# statements_of WRITER [TRANSACTIONS]: what it has to send next, without end or so many transactions. Who reads it may
# be killed.
statements_of() {
	local from=$((acknowledged[$1] + 1))
	awk -v as=sql -v writer="$1" -v from=$from -v to=$((from + ${2:-1000000} - 1)) -v flush="${flush_logs:-}" \
		-f "$ledger" 2>/dev/null || true
}

# start_writers [TRANSACTIONS]: they go on until the server is gone or they have sent so many. A writer that has sent a
# COMMIT notes its number when the answer to the next statement is there, and then sends the next transaction.
start_writers() {
	local writer
	writing=()
	for writer in "${writers[@]}"; do
		: >"$WORK/writer.$writer.out"
		statements_of "$writer" "$@" |
			mariadb "${client[@]}" --batch --skip-column-names --unbuffered --skip-reconnect \
				>"$WORK/writer.$writer.out" 2>"$WORK/writer.$writer.log" &
		writing+=($!)
	done
}

acknowledged_now() {
	cat "$WORK"/writer.?.out | wc -l
}

have_acknowledged() {
	has_ended "$started" || [ "$(acknowledged_now)" -ge "$1" ]
}

# Takes down what the writers have been told so far.
note_acknowledged() {
	local writer last
	for writer in "${writers[@]}"; do
		last=$(tail -n 1 "$WORK/writer.$writer.out")
		acknowledged[writer]=${last:-${acknowledged[writer]}}
	done
}

# The same once they have ended. The last transaction may have been sent and committed, but not acknowledged.
end_writers() {
	local writer
	wait "${writing[@]}" 2>/dev/null || true
	note_acknowledged
	for writer in "${writers[@]}"; do
		sent[writer]=$((acknowledged[writer] + 1))
	done
	acknowledged_in_all=$((acknowledged_in_all + $(acknowledged_now)))
}

# Every transaction that was acknowledged is there, complete; perhaps later ones that were sent, complete, too; and
# nothing else.
check_ledger() {
	local writer latest
	check_tables ledger.entries ledger.latest
	sql 'SELECT number FROM ledger.latest ORDER BY writer;' >"$WORK/latest"
	mapfile -t -O 1 latest <"$WORK/latest"
	[ ${#latest[@]} = ${#writers[@]} ] || fail "there are ${#latest[@]} writers"
	: >"$WORK/expected"
	for writer in "${writers[@]}"; do
		[ "${latest[writer]}" -ge "${acknowledged[writer]}" ] ||
			fail "writer $writer had transaction ${acknowledged[writer]} acknowledged; ${latest[writer]} are there"
		[ "${latest[writer]}" -le "${sent[writer]}" ] ||
			fail "writer $writer never sent transaction ${latest[writer]}, which is there"
		acknowledged[writer]=${latest[writer]}
		awk -v as=rows -v writer="$writer" -v from=1 -v to="${latest[writer]}" -f "$ledger" >>"$WORK/expected"
	done
	sql 'SELECT * FROM ledger.entries ORDER BY writer, number, part;' >"$WORK/found"
	cmp "$WORK/expected" "$WORK/found" >"$WORK/output" 2>&1 || fail "other rows than those of the transactions"
}
