# SPDX-License-Identifier: MIT
#
# mariadb-backup: a copy of a server at work, which holds what had been acknowledged by then.
# packages: mariadb-backup mariadb-server-core mariadb-client e2fsprogs gdb
#
# A full backup with the library by LD_LIBRARY_PATH, an incremental one by LD_PRELOAD, both while writers are at work;
# then they are prepared, and a server is started on the result. The backup makes a context and destroys it with its
# reaper inside; preparing reads and writes pages through it.
source "${BASH_SOURCE%/*}/common.bash"
source "$OLDPWD/tests/clients/mariadb.bash"

reaps_by_itself

# run_backup OPTION...: what it says ends with "completed OK!" when it is.
run_backup() {
	must mariadb-backup --no-defaults "${aio[@]}" "$@"
	tail -n 1 "$WORK/output" | grep -q 'completed OK!$' || fail "mariadb-backup does not say that it is done"
	cp "$WORK/output" "$WORK/backup.log"
	expect_aio "$WORK/backup.log"
}

back_up() {
	run_backup --backup --user=root --socket="$socket" --datadir="$data" "$@"
}

install_database
start_server
make_ledger
start_writers
wait_for 120 have_acknowledged 300 || fail "the writers get no acknowledgements"
back_up --target-dir="$WORK/full"
seen=$(acknowledged_now)
wait_for 120 have_acknowledged $((seen + 300)) || fail "the writers get no more acknowledgements"

# The copy is of a moment after this one, and before the end.
note_acknowledged
get_in preload
back_up --target-dir="$WORK/increment" --incremental-basedir="$WORK/full"
at_least=("${acknowledged[@]}")
kill_server
end_writers
acknowledged=("${at_least[@]}")

run_backup --prepare --target-dir="$WORK/full"
get_in path
run_backup --prepare --target-dir="$WORK/full" --incremental-dir="$WORK/increment"
for how in path preload; do
	get_in $how
	mapped_by mariadb-backup --version
done

data=$WORK/full
start_server
check_ledger
stop_server
ok "$(mariadb-backup --version 2>&1 | grep -o '10\.[0-9.]*' | head -n 1), a full and an incremental backup under load," \
	"prepared: all of $(wc -l <"$WORK/expected") rows right"
