#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
#
# make install, make uninstall: is everything there and usable, and does everything go again?

load common

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
