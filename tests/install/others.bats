#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
#
# make install, make uninstall: is nothing touched that belongs to a package, or that somebody else has put there?
#
# Method: what packages own is said by a dpkg database of the test's own (DPKG_ADMINDIR), so the real dpkg tools answer
# and the system's files are never in question.

load common

# make_package PACKAGE FILE...: a dpkg database in which the package is installed and owns the files.
make_package()
{
	export DPKG_ADMINDIR=$PWD/dpkg
	mkdir -p dpkg/info dpkg/updates
	touch dpkg/diversions dpkg/statoverride
	echo 1 > dpkg/info/format
	printf '%s\n' "Package: $1" "Status: install ok installed" "Architecture: all" \
		"Maintainer: nobody" "Version: 1" "Description: a package" "" >> dpkg/status
	printf '%s\n' "${@:2}" > "dpkg/info/$1.list"
}

# A distribution's library below $prefix, with its package.
make_distribution()
{
	mkdir -p "$prefix"/{lib,include,share/man/man3}
	echo "the distribution's library" > "$prefix/lib/libaio.so.1.0.2"
	ln -s libaio.so.1.0.2 "$prefix/lib/libaio.so.1"
	ln -s libaio.so.1.0.2 "$prefix/lib/libaio.so"
	echo "the distribution's header" > "$prefix/include/libaio.h"
	echo "the distribution's page" > "$prefix/share/man/man3/io.3"
	make_package fake-libaio1 "$prefix/lib/libaio.so.1" "$prefix/lib/libaio.so.1.0.2"
	make_package fake-libaio-dev "$prefix"/{lib/libaio.so,include/libaio.h,share/man/man3/io.3}
}

# refused FILE...: make install says that these are in the way, of whom, and has changed nothing.
refused()
{
	local file

	state "$prefix" > before
	run -2 make_ install PREFIX="$prefix"
	[[ $output == *"Nothing was installed."*"FORCE=1"* ]]
	for file; do
		[[ $output == *"  $file"$'\n'* ]] || { echo "not named: $file" "$output" >&2; return 1; }
	done
	[ "$(grep -c '^  /' <<< "$output")" -eq $# ]
	state "$prefix" | diff before -
}

@test "files of a package: nothing is installed, and each one is named" {
	make_distribution
	refused "$prefix/lib/libaio.so.1 (package fake-libaio1)" "$prefix/lib/libaio.so (package fake-libaio-dev)" \
		"$prefix/include/libaio.h (package fake-libaio-dev)" "$prefix/share/man/man3/io.3 (package fake-libaio-dev)"
}

@test "files of a package: by another path to them, and by DESTDIR" {
	make_distribution
	ln -s "$prefix" alias
	state "$prefix" > before
	run -2 make_ install PREFIX="$PWD/alias"
	[[ $output == *"alias/lib/libaio.so.1 (package fake-libaio1"* ]]
	run -2 make_ install DESTDIR="$PWD" PREFIX=/prefix
	[[ $output == *"prefix/lib/libaio.so.1 (package fake-libaio1"* ]]
	state "$prefix" | diff before -
}

@test "files of a package: as they were named before /lib became a link to /usr/lib" {
	[ "$(realpath /lib)" = /usr/lib ] || skip "/lib is no link to /usr/lib here"
	unshare -m true 2>/dev/null || skip "mounts of its own need root"
	make_package fake-libaio1 /lib/trueaio-test/libaio.so.1
	# Read only, so that a defect could not do any harm.
	run -2 unshare -m bash -c 'mount --bind / / && mount -o remount,bind,ro / && mount -t tmpfs none /mnt && "$@"' - \
		make --no-print-directory -C "$repository" -o all B="$build" install PREFIX=/usr LIBDIR=/usr/lib/trueaio-test
	[[ $output == *"/usr/lib/trueaio-test/libaio.so.1 (package fake-libaio1"* ]]
}

@test "files of a package, with FORCE=1: diverted, and put back by uninstall" {
	make_distribution
	state "$prefix" > before
	run -0 make_ install PREFIX="$prefix" FORCE=1
	cmp "$build/libaio.so.1" "$prefix/lib/libaio.so.1"
	grep -q trueaio "$prefix/include/libaio.h"
	[ "$(cat "$prefix/lib/libaio.so.1.before-trueaio")" = "the distribution's library" ]
	[ "$(cat "$prefix/include/libaio.h.before-trueaio")" = "the distribution's header" ]
	cmp "$repository/man/io.3" "$prefix/share/man/man3/io.3"
	[ "$(cat "$prefix/share/man/man3/io.3.before-trueaio")" = "the distribution's page" ]
	[ "$(dpkg-divert --truename "$prefix/lib/libaio.so.1")" = "$prefix/lib/libaio.so.1.before-trueaio" ]
	# A later one needs not be told again.
	run -0 make_ install PREFIX="$prefix"
	[ "$(cat "$prefix/lib/libaio.so.1.before-trueaio")" = "the distribution's library" ]

	run -0 make_ uninstall PREFIX="$prefix"
	state "$prefix" | diff before -
	[ "$(dpkg-divert --list)" = "" ]
}

@test "a file that the administrator has diverted is not ours: refused, and left by uninstall" {
	make_distribution
	dpkg-divert --local --rename --add "$prefix/lib/libaio.so.1"
	echo "built by the administrator" > "$prefix/lib/libaio.so.1"
	state "$prefix" > before
	dpkg-divert --list > diversions
	run -2 make_ install PREFIX="$prefix"
	run -0 make_ uninstall PREFIX="$prefix"
	[[ $output == *"left alone: $prefix/lib/libaio.so.1 ("* ]]
	state "$prefix" | diff before -
	dpkg-divert --list | diff diversions -
}

@test "files of a package: uninstall leaves them, and says so" {
	make_distribution
	state "$prefix" > before
	run -0 make_ uninstall PREFIX="$prefix"
	[[ $output == *"left alone: $prefix/lib/libaio.so.1 (package fake-libaio1"* ]]
	state "$prefix" | diff before -
}

@test "another libaio, of no package: refused, left by uninstall, replaced with FORCE=1" {
	local foreign="(a libaio that is not trueaio's)"
	local files=("$prefix"/{lib/libaio.so.1,lib/libaio.a,lib/pkgconfig/libaio.pc,include/libaio.h,share/man/man3/io.3})

	mkdir -p "$prefix"/{lib/pkgconfig,include,share/man/man3}
	for file in "${files[@]}"; do
		echo "built by the administrator" > "$file"
	done
	refused "${files[@]/%/ $foreign}"
	run -0 make_ uninstall PREFIX="$prefix"
	[[ $output == *"left alone: $prefix/lib/libaio.a $foreign"* ]]
	state "$prefix" | diff before -
	run -0 make_ install PREFIX="$prefix" FORCE=1
	cmp "$build/libaio.a" "$prefix/lib/libaio.a"
}
