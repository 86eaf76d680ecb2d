# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# What the tests of the binary interface share: the library under test, and the libaio that it must
# be exchangeable for.
#
# TRUEAIO_LIBRARY_DIR names the directory of the library under test; without it, the build directory
# is meant.  The other library and header are the system's own.  Where they are missing, there is
# nothing to compare with, and the tests that compare are skipped.

repository=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
library_dir=$(realpath -m "${TRUEAIO_LIBRARY_DIR:-${BUILD:-$repository/build}}")
library=$library_dir/libaio.so.1

# Programs of this test must meet the libraries that it names, and no others.
unset LD_LIBRARY_PATH LD_PRELOAD CPATH C_INCLUDE_PATH CPLUS_INCLUDE_PATH LIBRARY_PATH
PATH=$PATH:/usr/sbin:/sbin
# comm and sort must agree on the order.
export LC_ALL=C

elf_class()
{
	readelf -h "$1" | grep -E '^ *(Class|Data|Machine):'
}

is_trueaio()
{
	readelf --dyn-syms -W "$1" | grep -q trueaio_
}

# Where the libraries of another architecture are, if the build is for one.
sysroot=$repository/build/sysroot/${CROSS:-}

# Defined dynamic symbols, one a line: type, place (version nodes are absolute symbols), name@version
# or name@@version.  GNU and WEAK binding come to the same thing in a shared object; LOCAL does not,
# and such a symbol is left out.
exported_symbols()
{
	readelf --dyn-syms -W "$1" | sed 's/\[<localentry>: [0-9]*\]//' |
		awk '$1 ~ /^[0-9]+:$/ && $5 != "LOCAL" && $6 == "DEFAULT" && $7 != "UND" {
			print $4, ($7 == "ABS" ? "ABS" : "-"), $8
		}' | sort
}

# The path of the system's libaio.so.1 for the same machine as ours; empty if there is none.  What an
# earlier `make install` has left beside it is not the system's.
system_library()
{
	local path

	if [ -n "${CROSS:-}" ]; then
		readlink -e "$sysroot/libaio/libaio.so.1"
		return
	fi
	while read -r path; do
		if [ "$(elf_class "$path")" = "$(elf_class "$library")" ] && ! is_trueaio "$path"; then
			readlink -f "$path"
			return
		fi
	done < <(ldconfig -p | awk '$1 == "libaio.so.1" { print $NF }')
}

# The path of the header that a plain #include <libaio.h> finds; empty if there is none.
system_header()
{
	echo '#include <libaio.h>' | gcc -M -x c - 2>/dev/null | grep -o '/[^ ]*/libaio\.h' | head -n 1
}

require_library()
{
	if [ ! -e "$library" ]; then
		echo "no $library: run make first, or set TRUEAIO_LIBRARY_DIR" >&2
		return 1
	fi
	if readelf -dW "$library" | grep -qE 'NEEDED.*lib(a|t|ub)san'; then
		skip "the library under test is a sanitizer's build, whose interface is not ours"
	fi
}

require_system_library()
{
	system=$(system_library)
	if [ -z "$system" ]; then
		skip "this system has no libaio.so.1 of its own to compare with (Debian: libaio1)"
	fi
}

require_system_header()
{
	local header

	header=$(system_header)
	if [ -z "$header" ]; then
		skip "this system has no <libaio.h> to compare with (Debian: libaio-dev)"
	fi
	if grep -q trueaio_ "$header"; then
		skip "the system's <libaio.h> is trueaio's"
	fi
}

require_command()
{
	if ! command -v "$1" >/dev/null; then
		skip "$1 is not installed"
	fi
}
