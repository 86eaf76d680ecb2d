# SPDX-License-Identifier: MIT
#
# For scripts that mount file systems, make block devices and start servers: a directory and namespaces of their own, so
# that nothing of it outlives them, however they end; but for the directory and its loop devices, if they are killed.
# Sourced. Takes root.
#
#	make_work PARENT	makes a directory in PARENT, $work
#	in_private COMMAND...	runs the command in namespaces of its own for mounts and processes; its status
#	remove_work		ends what runs there and removes $work, with the loop devices of its files
#
# The caller is ended by a signal while a command runs, too: remove_work is called whenever it exits.
work=
namespace=

make_work() {
	work=$(mktemp -d "$1/$(basename "$0").XXXXXX") || exit 1
}

# In the background, because bash runs a trap only between commands.
in_private() {
	local status=0
	setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child --mount-proc "$@" </dev/null &
	namespace=$!
	wait $namespace || status=$?
	namespace=
	return $status
}

# With the first process of its namespace, all of them are gone.
remove_work() {
	local device
	[ -z "$namespace" ] || kill -KILL "$namespace" 2>/dev/null
	{ wait; } 2>/dev/null
	[ -n "$work" ] || return 0
	while read -r device; do
		losetup -d "$device"
	done < <(losetup --list --noheadings --output NAME,BACK-FILE | awk -v under="$work/" 'index($2, under) == 1 { print $1 }')
	rm -rf --one-file-system "$work"
	work=
}
trap remove_work EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
