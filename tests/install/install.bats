#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
#
# make install, make uninstall: is everything there and usable, does everything go again, and is nothing touched
# that belongs to a package?
#
# Method: installations below a directory of the test's. What packages own there is said by a dpkg database of the
# test's own (DPKG_ADMINDIR), so the real dpkg tools answer and the system's files are never in question.

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
	mkdir -p "$prefix/lib" "$prefix/include"
	echo "the distribution's library" > "$prefix/lib/libaio.so.1.0.2"
	ln -s libaio.so.1.0.2 "$prefix/lib/libaio.so.1"
	ln -s libaio.so.1.0.2 "$prefix/lib/libaio.so"
	echo "the distribution's header" > "$prefix/include/libaio.h"
	make_package fake-libaio1 "$prefix/lib/libaio.so.1" "$prefix/lib/libaio.so.1.0.2"
	make_package fake-libaio-dev "$prefix/lib/libaio.so" "$prefix/include/libaio.h"
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

@test "with DESTDIR: exactly these files, and nothing outside" {
	run -0 make_ install DESTDIR="$PWD/root" BINDIR=/b LIBDIR=/l INCLUDEDIR=/i MANDIR=/m
	[ "$output" = "" ]
	{
		printf '%s\n' "755 b/trueaio" "644 i/libaio.h" "644 l/libaio.a" "644 l/$library" \
			"644 l/pkgconfig/libaio.pc" "link l/libaio.so -> libaio.so.1" "link l/libaio.so.1 -> $library"
		(cd "$repository/man" && for page in *; do echo "644 m/man${page##*.}/$page"; done)
	} | sort -k 2 > expected
	tree root | diff expected -
	[ "$(grep -c ' m/man3/' expected)" -ge 20 ]
	cmp "$build/libaio.so.1" "root/l/$library"
	cmp "$build/libaio.a" root/l/libaio.a
	cmp "$repository/include/libaio.h" root/i/libaio.h
	[ ! -e ldconfig-ran ]
}

@test "PREFIX goes for everything; the dynamic linker's cache is renewed; the user is told what to do" {
	run -0 make_ install PREFIX="$prefix"
	[ "$(cd "$prefix" && echo *)" = "bin include lib share" ]
	[ -e "$prefix/share/man/man7/trueaio.7" ]
	[[ $output == *"$prefix/bin/trueaio run PROGRAM"* ]]
	if [ "$(id -u)" = 0 ]; then
		[ -e ldconfig-ran ]
	fi
}

@test "pkg-config: a program is built on the installed library and runs on it" {
	make_ install PREFIX="$prefix"
	export PKG_CONFIG_PATH=$prefix/lib/pkgconfig
	# shellcheck disable=SC2046
	"${CC:-cc}" -Wall -Wextra -Werror -D_GNU_SOURCE= $(pkg-config --cflags libaio) -o program \
		"$BATS_TEST_DIRNAME/program.c" $(pkg-config --libs libaio) -Wl,-rpath,"$prefix/lib"
	run -0 ./program
	[[ $output == "$prefix/lib/libaio.so.1 "* ]]
	[ "$(pkg-config --modversion libaio)" = 0.3.113 ]
	[ "$(pkg-config --variable=trueaio_version libaio)" = "$version" ]
}

@test "pkg-config: a static program needs nothing but what it says" {
	make_ install PREFIX="$prefix"
	export PKG_CONFIG_PATH=$prefix/lib/pkgconfig
	[ "$(pkg-config --static --libs-only-l libaio | xargs)" = -laio ]
	# shellcheck disable=SC2046
	"${CC:-cc}" -static -Wall -Wextra -D_GNU_SOURCE= $(pkg-config --cflags libaio) -o program \
		"$BATS_TEST_DIRNAME/program.c" $(pkg-config --static --libs libaio)
	rm -r "$prefix"
	run -0 ./program
	readelf -lW program | grep -q INTERP && return 1
	true
}

@test "pkg-config: with DESTDIR, by its sysroot" {
	make_ install DESTDIR="$PWD/root" PREFIX=/opt/trueaio
	export PKG_CONFIG_LIBDIR=$PWD/root/opt/trueaio/lib/pkgconfig PKG_CONFIG_SYSROOT_DIR=$PWD/root
	# shellcheck disable=SC2046
	"${CC:-cc}" -D_GNU_SOURCE= $(pkg-config --cflags libaio) -o program "$BATS_TEST_DIRNAME/program.c" \
		$(pkg-config --libs libaio)
	run -0 env LD_LIBRARY_PATH="$PWD/root/opt/trueaio/lib" ./program
	[[ $output == "$PWD/root/opt/trueaio/lib/libaio.so.1 "* ]]
}

@test "the installed command finds the installed library, in lib64 too" {
	local directory

	for directory in lib lib64; do
		make_ install PREFIX="$prefix" LIBDIR="$prefix/$directory"
		run -0 "$prefix/bin/trueaio" run env
		[[ $'\n'$output$'\n' == *$'\n'"LD_PRELOAD=$prefix/$directory/libaio.so.1"$'\n'* ]]
		rm -r "$prefix"
	done
}

@test "a file that is replaced keeps its contents for who has it mapped" {
	make_ install PREFIX="$prefix"
	ln "$prefix/lib/$library" mapped
	ln "$prefix/bin/trueaio" running
	make_ install PREFIX="$prefix"
	[ "$(stat -c %h mapped running | xargs)" = "1 1" ]
}

@test "uninstall leaves nothing" {
	make_ install PREFIX="$prefix"
	make_ uninstall PREFIX="$prefix"
	[ ! -e "$prefix" ]
	make_ install DESTDIR="$PWD/root" PREFIX=/usr/local
	make_ uninstall DESTDIR="$PWD/root" PREFIX=/usr/local
	[ "$(cd root && find . -mindepth 3 | sort | xargs)" = \
		"./usr/local/bin ./usr/local/include ./usr/local/lib ./usr/local/share ./usr/local/share/man" ]
}

@test "uninstall leaves what others have put there" {
	mkdir -p "$prefix"/{bin,include,lib/pkgconfig,share/man/man3}
	for directory in bin include lib lib/pkgconfig share/man/man3; do
		echo other > "$prefix/$directory/other"
	done
	state "$prefix" > before
	make_ install PREFIX="$prefix"
	make_ uninstall PREFIX="$prefix"
	state "$prefix" | diff before -
}

@test "files of a package: nothing is installed, and each one is named" {
	make_distribution
	refused "$prefix/lib/libaio.so.1 (package fake-libaio1)" "$prefix/lib/libaio.so (package fake-libaio-dev)" \
		"$prefix/include/libaio.h (package fake-libaio-dev)"
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
	mkdir -p "$prefix/lib/pkgconfig" "$prefix/include"
	for file in lib/libaio.so.1 lib/libaio.a lib/pkgconfig/libaio.pc include/libaio.h; do
		echo "built by the administrator" > "$prefix/$file"
	done
	refused "$prefix"/{lib/libaio.so.1,lib/libaio.a,lib/pkgconfig/libaio.pc,include/libaio.h}" (a libaio that is not trueaio's)"
	run -0 make_ uninstall PREFIX="$prefix"
	[[ $output == *"left alone: $prefix/lib/libaio.a (a libaio that is not trueaio's)"* ]]
	state "$prefix" | diff before -
	run -0 make_ install PREFIX="$prefix" FORCE=1
	cmp "$build/libaio.a" "$prefix/lib/libaio.a"
}
