# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# What the tests of the installation share: what was built is installed below a directory of the test's, and looked at.

bats_require_minimum_version 1.5.0

repository=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
build=$(realpath -m "${BUILD:-$repository/build}")
version=$(sed -n 's/^VERSION[\t ]*:= //p' "$repository/Makefile")
library=libaio.so.1.1.0

unset LD_LIBRARY_PATH LD_PRELOAD TRUEAIO_ENGINE CPATH C_INCLUDE_PATH LIBRARY_PATH DESTDIR PREFIX
unset "${!PKG_CONFIG_@}" MAKEFLAGS MFLAGS MAKELEVEL
export LC_ALL=C

setup()
{
	if [ ! -e "$build/libaio.so.1" ]; then
		echo "no $build/libaio.so.1: run make first" >&2
		return 1
	fi
	cd "$BATS_TEST_TMPDIR" || return
	prefix=$PWD/prefix
	# The test's installations are none that the dynamic linker should know of. The mark shows who asked.
	printf '#!/bin/sh\ntouch "%s/ldconfig-ran"\n' "$PWD" > ldconfig
	chmod +x ldconfig
	export LDCONFIG=$PWD/ldconfig
}

# What was built is what is installed: make must not build anything here (-o all).
make_()
{
	make --no-print-directory -C "$repository" -o all B="$build" "$@"
}

# Everything below a directory: mode, and path, and where a link leads to.
tree()
{
	(cd "$1" && find . ! -type d \( -type l -printf 'link %P -> %l\n' -o -printf '%m %P\n' \) | sort -k 2)
}

# The same with contents.
state()
{
	tree "$1"
	(cd "$1" && find . -type f -exec sha256sum {} + | sort -k 2)
}
