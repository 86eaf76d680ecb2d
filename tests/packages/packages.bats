#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
#
# The Debian packages on a system of their own: does every program that depends on libaio1 come to trueaio and back,
# with none removed?
#
# Method: a chroot with Debian's fio and MariaDB in it, made from the sources that apt has on this machine. What a
# program has loaded is read from its /proc/PID/maps while it runs. Each command has mounts and processes of its own,
# so nothing outlives it. ROOT is the chroot, with the packages in /packages. The cases build upon one another.

bats_require_minimum_version 1.5.0

ours=/usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH)/libaio.so.1.1.0
theirs=/usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH)/libaio.so.1.0.2
programs="fio mariadb-server mariadb-server-core"

# in_root COMMAND...: in the chroot, with /proc of its own; everything that it starts ends with it.
in_root()
{
	unshare --mount --pid --fork --kill-child sh -c 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"' \
		"$ROOT" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C HOME=/root DEBIAN_FRONTEND=noninteractive "$@"
}

apt_install()
{
	in_root apt-get -q -y install --no-install-recommends "$@"
}

package()
{
	(cd "$ROOT/packages" && echo "/packages/$(ls -- "$1"_[0-9]*.deb)")
}

status()
{
	in_root dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null || echo absent
}

installed()
{
	in_root dpkg-query -W -f '${db:Status-Status} ${Package}\n' | sed -n 's/^installed //p' | sort
}

# The programs are there, and dpkg has nothing to complain of.
intact()
{
	local program

	for program in $programs; do
		[ "$(status "$program")" = installed ] || { echo "$program: $(status "$program")" >&2; return 1; }
	done
	[ "$(in_root dpkg --audit)" = "" ]
	in_root apt-get -q check
}

# What fio has loaded while its job runs, which reads back and checks what it wrote; then MariaDB's.
library_of_fio()
{
	in_root bash -euc '
		cd /tmp
		fio --name=verify --ioengine=libaio --direct=0 --rw=randwrite --bs=4k --iodepth=16 --size=8m --verify=crc32c \
			--verify_fatal=1 --filename=/tmp/data --output=/tmp/fio.log &
		fio=$! library=
		while [ -z "$library" ] && kill -0 $fio 2>/dev/null; do
			library=$(awk "/\/libaio\.so/ { print \$NF; exit }" /proc/$fio/maps 2>/dev/null || true)
		done
		wait $fio
		rm -f /tmp/data
		echo "$library"'
}

library_of_mariadb()
{
	in_root bash -euc '
		client() { mariadb --no-defaults --socket=/tmp/db.socket -N -B "$@"; }
		start() {
			mariadbd --no-defaults --user=root --datadir=/tmp/db --skip-networking --socket=/tmp/db.socket \
				--innodb-use-native-aio=1 --innodb-linux-aio=aio --log-error=/tmp/db.log &
			server=$!
			for try in $(seq 1200); do
				! client -e "select 1" >/dev/null 2>&1 || return 0
				kill -0 $server || break
				sleep 0.1
			done
			cat /tmp/db.log >&2
			return 1
		}
		rm -rf /tmp/db
		mariadb-install-db --no-defaults --force --user=root --datadir=/tmp/db --skip-test-db >/tmp/install.log 2>&1
		start
		library=$(awk "/\/libaio\.so/ { print \$NF; exit }" /proc/$server/maps)
		client -e "create database d; use d; create table t (a int primary key, b char(200)) engine=innodb;
			insert into t select seq, repeat(seq, 10) from seq_1_to_5000"
		kill -KILL $server
		wait $server 2>/dev/null || true
		start
		[ "$(client -e "check table d.t" | cut -f 4)" = OK ]
		[ "$(client -e "select count(*), sum(a) from d.t" | xargs)" = "5000 12502500" ]
		kill $server
		wait $server
		grep -q "Using Linux native AIO" /tmp/db.log
		rm -rf /tmp/db /tmp/db.log
		echo "$library"'
}

# expect_library PATH: all programs have that one, and their data is right.
expect_library()
{
	local fio mariadb

	fio=$(library_of_fio)
	mariadb=$(library_of_mariadb)
	[ "$fio" = "$1" ] || { echo "fio has $fio" >&2; return 1; }
	[ "$mariadb" = "$1" ] || { echo "MariaDB has $mariadb" >&2; return 1; }
}

@test "Debian's own library is what the programs have at first" {
	intact
	expect_library "$theirs"
}

@test "the command alone changes nothing, and runs a program on a library of its own" {
	apt_install "$(package trueaio)"
	[ "$(status libaio1)" = installed ]
	[ "$(in_root trueaio run sh -c 'echo $LD_PRELOAD')" = /usr/lib/trueaio/libaio.so.1 ]
	in_root trueaio doctor --json > "$BATS_TEST_TMPDIR/doctor" || [ $? = 1 ]
	grep -q '"version"' "$BATS_TEST_TMPDIR/doctor"
}

@test "libtrueaio1 takes the place of libaio1: no program is removed, and all have ours" {
	installed >"$BATS_TEST_TMPDIR/before"
	# dpkg by itself, which is told less than apt tells it, would do the same.
	in_root dpkg --no-act -i "$(package libtrueaio1)"
	apt_install "$(package libtrueaio1)"
	installed >"$BATS_TEST_TMPDIR/after"
	# Nothing else has come or gone.
	[ "$(comm -3 "$BATS_TEST_TMPDIR/before" "$BATS_TEST_TMPDIR/after" | xargs)" = "libaio1 libtrueaio1" ]
	[ ! -e "$ROOT$theirs" ]
	intact
	expect_library "$ours"
}

@test "a program that is installed later gets ours, and the library stays" {
	apt_install stressapptest
	[ "$(status libtrueaio1)" = installed ]
	intact
	in_root apt-get -q -y purge stressapptest
}

# needs DEPENDENCY: /tmp/needs.deb in the chroot, a package that depends on this.
needs()
{
	mkdir -p "$BATS_TEST_TMPDIR/needs/DEBIAN"
	printf '%s\n' "Package: needs" "Architecture: all" "Version: 1" "Maintainer: nobody" "Depends: $1" \
		"Description: a package" > "$BATS_TEST_TMPDIR/needs/DEBIAN/control"
	dpkg-deb --build "$BATS_TEST_TMPDIR/needs" "$ROOT/tmp/needs.deb"
}

@test "libtrueaio-dev stands in for libaio-dev, which brings libaio1 back" {
	apt_install libaio-dev
	[ "$(status libaio1)" = installed ]
	[ "$(status libtrueaio1)" != installed ]
	apt_install "$(package libtrueaio1)" "$(package libtrueaio-dev)"
	[ "$(status libtrueaio-dev)" = installed ]
	[ "$(status libaio-dev)" != installed ]
	intact
	grep -q trueaio "$ROOT/usr/include/libaio.h"
	[ -e "$ROOT${ours%.so*}.a" ]
	needs "libaio-dev (>= 0.3.112)"
	in_root apt-get -q -s install --no-remove /tmp/needs.deb
	rm "$ROOT/tmp/needs.deb"
}

@test "libaio1 comes back: no program is removed, and nothing of ours is left" {
	apt_install libaio1
	[ "$(status libaio1)" = installed ]
	[ "$(status libtrueaio1)" != installed ]
	[ "$(status trueaio)" = installed ]
	intact
	expect_library "$theirs"
	in_root apt-get -q -y purge trueaio
	[ "$(find "$ROOT" -xdev -name '*trueaio*' ! -path "$ROOT/packages/*" ! -path "$ROOT/var/log/*" \
		! -path "$ROOT/var/cache/*")" = "" ]
	[ ! -e "$ROOT$ours" ]
	[ ! -e "$ROOT${ours%.so*}.so.1t64" ]
}
