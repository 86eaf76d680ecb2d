#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
#
# trueaio run: does the program meet our library, and is it refused, with a word why, where it cannot?
#
# Method: small programs that say which libaio they have, built against another one of that name; and files
# that are only looked at (their headers changed to another machine's, say).  Users other than root must
# reach the command, so it is copied with its library to a directory of the test's own.

load common

setup_file()
{
	load common
	require_tool
	top=$(mktemp -d "${TMPDIR:-/tmp}/trueaio-run.XXXXXX")
	export top
	chmod 755 "$top"
	mkdir "$top/other" "$top/t64"
	build "$top/other/libaio.so.1" other_libaio.c -shared -fPIC -Wl,-soname,libaio.so.1 \
		-Wl,--version-script="$BATS_TEST_DIRNAME/other_libaio.map"
	build "$top/t64/libaio.so.1t64" other_libaio.c -shared -fPIC -Wl,-soname,libaio.so.1t64 \
		-Wl,--version-script="$BATS_TEST_DIRNAME/other_libaio.map"
	build "$top/names" names_libaio.c "$top/other/libaio.so.1" -Wl,-rpath,"$top/other"
	build "$top/names-rpath" names_libaio.c "$top/other/libaio.so.1" \
		-Wl,--disable-new-dtags,-rpath,"$top/other"
	build "$top/names-t64" names_libaio.c "$top/t64/libaio.so.1t64" -Wl,-rpath,"$top/t64"
	echo 'int main(void) { return 0; }' > "$top/nothing.c"
	"${CC:-cc}" -o "$top/nothing" "$top/nothing.c"
}

teardown_file()
{
	rm -rf "$top"
}

setup()
{
	[ -e "$library" ] || skip "no $library"
	mkdir -p "$top/build"
	cp "$tool" "$library" "$top/build"
	chmod -R a+rX "$top/build"
	trueaio=$top/build/trueaio
	ours=$top/build/libaio.so.1
	mkdir "$top/$BATS_TEST_NUMBER"
	cd "$top/$BATS_TEST_NUMBER" || return
}

as_nobody()
{
	setpriv --reuid=65534 --regid=65534 --clear-groups "$@"
}

# change_byte FILE OFFSET VALUE (octal)
change_byte()
{
	printf "\\$3" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

@test "the other library is the one that the test programs meet by themselves" {
	[ "$("$top/names")" = "$top/other/libaio.so.1" ]
	[ "$("$top/names-rpath")" = "$top/other/libaio.so.1" ]
	[ "$("$top/names-t64")" = "$top/t64/libaio.so.1t64" ]
}

@test "a program meets our library" {
	[ "$("$trueaio" run "$top/names")" = "$ours" ]
}

@test "a program with a search path of its own (DT_RPATH) meets our library" {
	[ "$("$trueaio" run "$top/names-rpath")" = "$ours" ]
}

@test "a program that asks for libaio.so.1t64 meets our library" {
	[ "$("$trueaio" run "$top/names-t64")" = "$ours" ]
}

@test "what the program starts meets our library too" {
	[ "$("$trueaio" run sh -c "'$top/names'")" = "$ours" ]
}

@test "installed in bin and lib, the library is found too" {
	mkdir bin lib
	cp "$tool" bin
	cp "$library" lib
	[ "$(bin/trueaio run "$top/names")" = "$PWD/lib/libaio.so.1" ]
}

@test "installed without the library, the command has one of its own" {
	mkdir -p bin lib/trueaio
	cp "$tool" bin
	cp "$library" lib/trueaio
	cp "$top/other/libaio.so.1" lib
	[ "$(bin/trueaio run "$top/names")" = "$PWD/lib/trueaio/libaio.so.1" ]
}

@test "a libaio beside the command that is not ours is not taken" {
	mkdir bin lib
	cp "$tool" bin
	cp "$top/other/libaio.so.1" bin
	cp "$library" lib
	[ "$(bin/trueaio run "$top/names")" = "$PWD/lib/libaio.so.1" ]
}

@test "without a library nothing is started" {
	mkdir bin
	cp "$tool" bin
	if ldconfig -p | awk '$1 == "libaio.so.1" { print $NF }' | xargs -r nm -D | grep -q trueaio_engine; then
		skip "trueaio's library is installed on this system"
	fi
	run -125 bin/trueaio run touch started
	[[ $output == *"libaio.so.1 is neither beside this program nor installed"* ]]
	[ ! -e started ]
}

@test "a directory that the dynamic linker cannot be told of is refused" {
	mkdir "a b"
	cp "$tool" "$library" "a b"
	run -125 "a b/trueaio" run touch started
	[[ $output == *"a b: the dynamic linker cannot be told"* ]]
	[ ! -e started ]
}

@test "the environment: paths are put in front, the engine and the log named" {
	run -0 "$trueaio" run --engine native --log log -- env
	[[ $'\n'$output$'\n' == *$'\n'"LD_LIBRARY_PATH=$top/build"$'\n'* ]]
	[[ $'\n'$output$'\n' == *$'\n'"LD_PRELOAD=$ours"$'\n'* ]]
	[[ $'\n'$output$'\n' == *$'\n'"TRUEAIO_ENGINE=native"$'\n'* ]]
	[[ $'\n'$output$'\n' == *$'\n'"TRUEAIO_LOG=$PWD/log"$'\n'* ]]

	"${CC:-cc}" -shared -fPIC -o another.so "$top/nothing.c"
	run -0 env LD_LIBRARY_PATH=/a:/b LD_PRELOAD="$PWD/another.so" "$trueaio" run env
	[[ $'\n'$output$'\n' == *$'\n'"LD_LIBRARY_PATH=$top/build:/a:/b"$'\n'* ]]
	[[ $'\n'$output$'\n' == *$'\n'"LD_PRELOAD=$ours:$PWD/another.so"$'\n'* ]]
}

@test "the environment: without options, engine and log stay what they were" {
	run -0 "$trueaio" run env
	[[ $output != *TRUEAIO_ENGINE=* && $output != *TRUEAIO_LOG=* ]]
	run -0 env TRUEAIO_ENGINE=native TRUEAIO_LOG=/x "$trueaio" run env
	[[ $'\n'$output$'\n' == *$'\n'"TRUEAIO_ENGINE=native"$'\n'* ]]
	[[ $'\n'$output$'\n' == *$'\n'"TRUEAIO_LOG=/x"$'\n'* ]]
}

@test "an engine that does not exist, a log that cannot be written: nothing is started" {
	run -125 "$trueaio" run --engine steam touch started
	[[ $output == *'no engine "steam"'* ]]
	run -125 "$trueaio" run --log missing/log touch started
	[[ $output == *"missing/log: cannot open the log: No such file or directory"* ]]
	[ ! -e started ]
}

@test "the program's arguments are its own, options too" {
	run -0 "$trueaio" run printf '%s|' --engine -- "a b"
	[ "$output" = "--engine|--|a b|" ]
	run -0 "$trueaio" run -- printf '%s|' --log ""
	[ "$output" = "--log||" ]
}

@test "the exit status is the program's" {
	run -0 "$trueaio" run true
	run -42 "$trueaio" run "$top/names" 42
	run -143 "$trueaio" run sh -c 'kill -TERM $$'
}

@test "a program that is not there, or cannot be executed" {
	# A directory in PATH that may not be searched would make it "Permission denied".
	run -127 env PATH=/usr/bin:/bin "$trueaio" run no-such-program
	[[ $output == "trueaio run: no-such-program: No such file or directory" ]]
	run -127 "$trueaio" run ./no-such-program
	run -127 "$trueaio" run ""
	echo text > text
	run -126 "$trueaio" run ./text
	[[ $output == "trueaio run: ./text: Permission denied" ]]
	run -126 "$trueaio" run "$PWD"
	run -126 env PATH="$PWD" "$trueaio" run text
}

@test "no program, unknown options" {
	run -125 "$trueaio" run
	[[ $output == *"no program given"* ]]
	run -125 "$trueaio" run --no-such-option true
	[[ $output == *"no-such-option"* ]]
}

@test "the program is looked for in PATH, an empty element being the current directory" {
	cp "$top/names" here
	[ "$(PATH=/nowhere::/usr/bin "$trueaio" run here)" = "$ours" ]
	mkdir first second
	cp "$top/nothing" first/it
	chmod -x first/it
	cp "$top/names" second/it
	[ "$(PATH=$PWD/first:$PWD/second "$trueaio" run it)" = "$ours" ]
}

@test "a static program is refused" {
	"${CC:-cc}" -static -o static "$top/nothing.c" || skip "no static C library here"
	./static
	run -126 "$trueaio" run ./static
	[[ $output == "trueaio run: ./static: is statically linked"* ]]
	"${CC:-cc}" -static-pie -o static-pie "$top/nothing.c" || skip "no static PIE here"
	run -126 "$trueaio" run ./static-pie
	[[ $output == "trueaio run: ./static-pie: is statically linked"* ]]
}

@test "the dynamic linker, started as a program, is no static program" {
	interpreter=$(readelf -lW "$top/names" | sed -n 's/.*interpreter: \(.*\)\].*/\1/p')
	[ "$("$trueaio" run "$interpreter" "$top/names")" = "$ours" ]
}

@test "a program for another architecture is refused" {
	cp "$top/nothing" machine
	change_byte machine 18 0	# the low byte of e_machine, and
	change_byte machine 19 377	# its high byte
	run -126 "$trueaio" run ./machine
	[[ $output == "trueaio run: ./machine: is built for another architecture (ELF machine "* ]]

	cp "$top/nothing" class
	if [ "$(getconf LONG_BIT)" = 64 ]; then
		change_byte class 4 1
		other=32-bit
	else
		change_byte class 4 2
		other=64-bit
	fi
	run -126 "$trueaio" run ./class
	[[ $output == "trueaio run: ./class: is built for another architecture ("*"$other) than"* ]]
}

@test "a program for another C library is refused, one without its dynamic linker not found" {
	echo > ld-musl-any.so.1
	"${CC:-cc}" -o musl "$top/nothing.c" -Wl,--dynamic-linker="$PWD/ld-musl-any.so.1"
	run -126 "$trueaio" run ./musl
	[[ $output == "trueaio run: ./musl: is built for another C library"* ]]
	rm ld-musl-any.so.1
	run -127 "$trueaio" run ./musl
	[[ $output == *"ld-musl-any.so.1: No such file or directory"* ]]
}

@test "of a script, the interpreter counts" {
	printf '#!%s\n' "$top/names" > dynamic
	printf '#! /bin/sh\necho "$0 $1"\n' > shell
	printf 'echo "plain $1"\n' > plain
	printf '#!%s/shell -x\n' "$PWD" > nested
	printf '#!/no/such/interpreter -x\n' > missing
	chmod +x dynamic shell plain nested missing
	[ "$("$trueaio" run ./dynamic)" = "$ours" ]
	[ "$("$trueaio" run ./shell a)" = "./shell a" ]
	[ "$("$trueaio" run ./plain a)" = "plain a" ]
	run -0 "$trueaio" run ./nested
	run -127 "$trueaio" run ./missing
	[[ $output == *'./missing: its interpreter "/no/such/interpreter": No such file or directory' ]]

	"${CC:-cc}" -static -o static "$top/nothing.c" || skip "no static C library here"
	printf '#!%s/static\n' "$PWD" > refused
	printf '#!%s/refused\n' "$PWD" > refused-too
	chmod +x refused refused-too
	run -126 "$trueaio" run ./refused
	[[ $output == *"$PWD/static: is statically linked"* ]]
	run -126 "$trueaio" run ./refused-too
	[[ $output == *"$PWD/static: is statically linked"* ]]
}

@test "scripts that interpret each other without end are refused" {
	printf '#!%s/two\n' "$PWD" > one
	printf '#!%s/one\n' "$PWD" > two
	chmod +x one two
	run -126 "$trueaio" run ./one
	[[ $output == *"too many interpreters"* ]]
}

@test "a program that may be executed and not read is started" {
	require_root "to run as another user"
	cp "$top/names" unreadable
	chmod 711 .
	chmod 111 unreadable
	run ! as_nobody cat unreadable
	run -0 as_nobody "$trueaio" run ./unreadable
}

@test "a set-user-ID or set-group-ID program of somebody else is refused" {
	require_root "to make one"
	! findmnt -n -o OPTIONS -T . | grep -q nosuid || skip "$PWD is mounted nosuid"
	cp "$top/names" user
	cp "$top/names" group
	chown 65534 user
	chmod 4755 user
	chgrp 65534 group
	chmod 2755 group
	# The reason: the dynamic linker leaves our library out, and says nothing.
	[ "$(LD_PRELOAD=$ours ./user)" != "$ours" ]
	run -126 "$trueaio" run ./user
	[[ $output == "trueaio run: ./user: is set-user-ID"* ]]
	run -126 "$trueaio" run ./group
	[[ $output == "trueaio run: ./group: is set-group-ID"* ]]
}

@test "set-user-ID that changes nothing is no reason to refuse" {
	require_root "to make one"
	cp "$top/names" own
	chmod 4755 own
	[ "$("$trueaio" run ./own)" = "$ours" ]
	chown 65534 own
	chmod 4755 own
	[ "$(setpriv --no-new-privs "$trueaio" run ./own)" = "$ours" ]
}

@test "a program with file capabilities is refused, except to root" {
	require_root "to make one"
	PATH=$PATH:/sbin:/usr/sbin
	command -v setcap > /dev/null || skip "no setcap here (package libcap2-bin)"
	cp "$top/names" capable
	setcap cap_net_bind_service+ep capable || skip "no file capabilities in $PWD"
	chmod 755 .
	run -126 as_nobody "$trueaio" run ./capable
	[[ $output == "trueaio run: ./capable: has file capabilities"* ]]
	[ "$("$trueaio" run ./capable)" = "$ours" ]
}
