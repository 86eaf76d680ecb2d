# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# What the tests of the command share.
#
# TRUEAIO_TOOL names the command under test; without it, the one in the build directory (BUILD, else build/)
# is meant.  Its library stands beside it.

bats_require_minimum_version 1.5.0

repository=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
tool=$(realpath -m "${TRUEAIO_TOOL:-${BUILD:-$repository/build}/trueaio}")
library=$(dirname "$tool")/libaio.so.1

unset LD_LIBRARY_PATH LD_PRELOAD TRUEAIO_ENGINE TRUEAIO_LOG
export LC_ALL=C

require_tool()
{
	if [ ! -x "$tool" ]; then
		echo "no $tool: run make first, or set TRUEAIO_TOOL" >&2
		return 1
	fi
}

require_root()
{
	[ "$(id -u)" = 0 ] || skip "needs root: $1"
}

# Waits until a command succeeds, 20 seconds at most.
wait_until()
{
	local tries

	for tries in $(seq 2000); do
		if "$@"; then
			return 0
		fi
		sleep 0.01
	done
	echo "not after $tries tries: $*" >&2
	return 1
}

# A program of this directory, built where the test keeps its files: build NAME SOURCE ARGUMENT...
build()
{
	"${CC:-cc}" -std=gnu11 -Wall -Wextra -D_GNU_SOURCE= -o "$1" "$BATS_TEST_DIRNAME/$2" "${@:3}"
}
