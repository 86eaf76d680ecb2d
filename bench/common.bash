# SPDX-License-Identifier: MIT
#
# What the drivers here share: two libraries side by side, each in a directory of its own. Sourced.

die() {
	printf '%s: %s\n' "$(basename "$0")" "$*" >&2
	exit 1
}

# library[ours] and library[system] are the files that are compared.
declare -A library

# find_libraries BUILD DIRECTORY [SYSTEM_LIBRARY]: the loader is to be given DIRECTORY/ours or DIRECTORY/system, which
# hold nothing but the library in question.
find_libraries() {
	local scripts side
	scripts=$(dirname "${BASH_SOURCE[0]}")/../scripts
	[ -e "$1/libaio.so.1" ] || die "$1/libaio.so.1 is missing: run make first"
	library[ours]=$(readlink -f "$1/libaio.so.1")
	if [ $# -gt 2 ]; then
		library[system]=$(readlink -e "$3") || die "$3: no such library"
	else
		library[system]=$("$scripts/system-libaio") || exit 1
	fi
	for side in "${!library[@]}"; do
		mkdir "$2/$side"
		ln -s "${library[$side]}" "$2/$side/libaio.so.1"
	done
}

# The order changes from round to round, so that a busy neighbour hits both alike.
sides_of_round() {
	if [ $(($1 % 2)) -eq 1 ]; then echo system ours; else echo ours system; fi
}

# What the figures were measured on, and the file system of a directory.
machine() {
	local processor files
	processor=$(sed -n 's/^model name[[:space:]]*: //p;T;q' /proc/cpuinfo)
	files=$(df --output=fstype,source "$1" | awk 'NR > 1 { print $1 " on " $2 }')
	echo "$(uname -srm), $(nproc) CPUs${processor:+ ($processor)}, $files"
}
