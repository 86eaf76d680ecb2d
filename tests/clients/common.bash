# SPDX-License-Identifier: MIT
#
# What the scripts in this directory share. Each is one program (or family of programs) on the library, on one engine:
# scripts/run-clients starts it with the program's packages installed, in namespaces of its own for mounts and
# processes, and removes what is left in $WORK. Its verdict is the last line it prints and its exit status.
#
#	BUILD		where the library is		WORK	a directory on the disk that BUILD is on
#	CLIENT, ENGINE	what runs on what		SOCKETS	a directory with a short path
#
# A run passes only if it has looked into /proc/PID/maps (expect_library, mapped_by), and if the library's log tells
# the engine that was asked for: a program that fell back to something else would pass for nothing.
set -uE -o pipefail
shopt -s nullglob
build=$BUILD
source scripts/engines.bash
set_engine "$ENGINE"

# What the library says of each context: the engine that serves it.
library_log=$WORK/library.log
system_library=$(scripts/system-libaio)
if [ "$ENGINE" = reference ]; then
	library=$system_library
else
	library=$BUILD/libaio.so.1
fi
on_engine=("${on[@]}")

# get_in path|preload: how the library comes into what is started from now on.
get_in() {
	case $1 in
	path) on=(env LD_LIBRARY_PATH="${library%/*}" TRUEAIO_LOG="$library_log" "${on_engine[@]}") ;;
	preload) on=(env LD_PRELOAD="$library" TRUEAIO_LOG="$library_log" "${on_engine[@]}") ;;
	esac
}
get_in path
cd "$WORK" || exit 1

# In namespaces that run side by side the same process ids occur, of which some programs make the names of their
# temporary files.
export TMPDIR=$WORK

# What a script's contexts must be: "served" by the engine; "passed-through" by it, as those of programs that take their
# events by themselves; or "none", where such a program gets no context on this engine, and the script has to show what
# it makes of that.
contexts=served

say() {
	echo "$CLIENT on $ENGINE: $* [$SECONDS s]"
}

fail() {
	[ ! -s "$WORK/output" ] || tail -n 30 "$WORK/output"
	say "FAILED: $*"
	exit 1
}
# In functions, too; and in what is substituted, whose output this is then part of.
trap 'fail "line $LINENO of ${BASH_SOURCE[0]##*/} failed unexpectedly"' ERR

skip() {
	say "skipped: $*"
	exit 77
}

# Kernel AIO with the kernel's own ring: what programs that reap past the library need.
has_kernel_ring() {
	case $ENGINE in
	native | reference) true ;;
	*) false ;;
	esac
}

# reaps_by_itself: for scripts of such programs.
reaps_by_itself() {
	if has_kernel_ring; then contexts=passed-through; else contexts=none; fi
}

# on_library COMMAND...: runs it on the library and this engine, for two minutes at most. Its output, both kinds, is in
# $WORK/output.
on_library() {
	timeout -k 5 "${LIMIT:-120}" "${on[@]}" "$@" >"$WORK/output" 2>&1
}

# must COMMAND...: the same, and it has to succeed.
must() {
	local words="$*"
	on_library "$@" || fail "$1 ended with exit status $?: ${words:0:200}"
}

# refused_as_on_libaio COMMAND...: a program that gets no context on this engine says and does what it does on the
# distribution's library where io_setup fails in the same way. The library may have its own say when TRUEAIO_ENGINE
# cannot start: one line, and the first.
refused_as_on_libaio() {
	local errno=EAGAIN line= status=0 expected=0
	if [ "$ENGINE" = threads ]; then
		errno=ENOSYS
		line='1{/^trueaio: TRUEAIO_ENGINE cannot be /d}'
	fi
	timeout -k 5 120 env LD_LIBRARY_PATH="$(dirname "$system_library")" "${without[@]}" io_setup:$errno -- "$@" \
		>"$WORK/expected" 2>&1 || expected=$?
	on_library "$@" || status=$?
	[ $status = $expected ] || fail "$1 ended with exit status $status, and with $expected on the distribution's library"
	sed "$line" "$WORK/output" | diff "$WORK/expected" - || fail "$1 says other things on the distribution's library"
}

# start NAME COMMAND...: starts a server on the library; $started is its process id and NAME.log its output.
start() {
	local name=$1
	shift
	"${on[@]}" "$@" >"$WORK/$name.log" 2>&1 &
	started=$!
}

# The first thread may be gone while another still gives back what the process had open, with its locks.
is_running() {
	[ -d "/proc/$1" ] || return 1
	! awk '/^State:/ { ended = $2 == "Z" } /^Threads:/ { threads = $2 } END { exit !(ended && threads <= 1) }' \
		"/proc/$1/status" 2>/dev/null
}

# wait_for SECONDS COMMAND...: until the command succeeds; false if it has not by then.
wait_for() {
	local end=$((SECONDS + $1))
	shift
	until "$@"; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.05
	done
}

has_ended() {
	! is_running "$1"
}

# expect_library PID: the libaio that this process has mapped is ours, and it has no other.
expect_library() {
	local mapped
	mapped=$(awk '$NF ~ /\/libaio\.so/ { print $NF }' "/proc/$1/maps" | sort -u)
	[ "$mapped" = "$library" ] || fail "process $1 has mapped ${mapped:-no libaio}, not $library"
	touch "$WORK/mapped"
}

# expect_context PID: so has this process, and it has a context on the engine.
expect_context() {
	expect_library "$1"
	[ "$ENGINE" = reference ] || grep -q "^trueaio\[$1\]: io_setup(.*: engine $served_by\$" "$library_log" ||
		fail "process $1 got no context of engine $served_by"
}

# mapped_by COMMAND...: the same for a program that is gone too soon to be looked at. The debugger runs it and reads
# its mappings when it is about to exit.
mapped_by() {
	local mapped
	timeout -k 5 60 "${on[@]}" gdb -batch -iex 'set startup-with-shell off' -iex 'set debuginfod enabled off' \
		-ex 'catch syscall exit_group' -ex run -ex 'info proc mappings' --args "$@" >"$WORK/output" 2>&1
	mapped=$(awk '$NF ~ /\/libaio\.so/ { print $NF }' "$WORK/output" | sort -u)
	[ "$mapped" = "$library" ] || fail "$1 has mapped ${mapped:-no libaio}, not $library"
	touch "$WORK/mapped"
}

# own_network: goes on in a network that nobody else is in, with loopback alone: for servers whose ports are fixed.
own_network() {
	if [ -z "${IN_OWN_NETWORK:-}" ]; then
		cd "$OLDPWD" || exit 1
		IN_OWN_NETWORK=1 exec unshare --net bash "$0"
	fi
	ip link set lo up
}

# loop_device FILE SIZE: makes the file and a block device of it, $device.
loop_device() {
	truncate -s "$2" "$1"
	device=$(losetup --find --show "$1") || fail "losetup $1"
}

# scratch_filesystem TYPE SIZE: mounts a new one on $WORK/TYPE.
scratch_filesystem() {
	mkdir -p "$WORK/$1"
	case $1 in
	tmpfs) mount -t tmpfs -o size="$2" tmpfs "$WORK/$1" ;;
	*)
		truncate -s "$2" "$WORK/$1.image"
		"mkfs.$1" -q "$WORK/$1.image" >"$WORK/output" 2>&1 && mount -o loop "$WORK/$1.image" "$WORK/$1"
		;;
	esac || fail "no $1 could be mounted"
}

# The engines that the library's log names, one a line.
engines_in_log() {
	sed -n 's/.*io_setup(.*): engine //p' "$library_log" 2>/dev/null | sort -u
}

expect_engine() {
	local engine wanted
	[ "$ENGINE" != reference ] || return 0
	if [ "$contexts" = none ]; then
		[ -z "$(engines_in_log)" ] || fail "got a context of engine $(engines_in_log), where there is none"
		return
	fi
	[ -n "$(engines_in_log)" ] || fail "no context was made"
	wanted=$served_by
	[ "$contexts" != passed-through ] || wanted=$served_by-passthrough
	for engine in $(engines_in_log); do
		[ "$engine" = "$wanted" ] || fail "a context was served by $engine, not by $wanted"
	done
}

# ok TEXT: the verdict, once it is certain what was tested.
ok() {
	[ -e "$WORK/mapped" ] || fail "nobody has looked which library was mapped"
	expect_engine
	say "ok: $*"
	exit 0
}
