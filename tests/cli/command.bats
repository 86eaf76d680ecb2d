#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
#
# trueaio itself: its commands are found, explained, and everything else is refused.

load common

setup_file()
{
	load common
	require_tool
}

@test "the version" {
	for arguments in --version -V "run --version" "cp --version" "cp -V" "doctor --version"; do
		# shellcheck disable=SC2086 # arguments are words
		run -0 "$tool" $arguments
		[[ $output =~ ^trueaio\ [0-9]+\.[0-9]+\.[0-9]+$ ]]
	done
}

@test "help names every command, and each command's help its usage" {
	run -0 "$tool" --help
	general=$output
	run -0 "$tool" help
	[ "$output" = "$general" ]
	for command in run cp doctor; do
		[[ $general == *$'\n'"  $command "* ]]
		run -0 "$tool" help "$command"
		[[ $output == "Usage: trueaio $command "* ]]
		explained=$output
		run -0 "$tool" "$command" --help
		[ "$output" = "$explained" ]
	done
}

@test "what is no command" {
	run -2 "$tool"
	[[ $output == "Usage: trueaio COMMAND"* ]]
	run -2 "$tool" steam
	[[ $output == *'no command "steam"'* ]]
	run -2 "$tool" help steam
	[[ $output == *'no command "steam"'* ]]
}

@test "output that cannot be written is a failure" {
	[ -w /dev/full ] || skip "no /dev/full here"
	run -1 bash -c "'$tool' --help > /dev/full"
	[[ $output == *"cannot write to standard output"* ]]
	run -1 bash -c "'$tool' cp --version > /dev/full"
}

@test "the manual page is well formed and knows every option that the help does" {
	command -v mandoc > /dev/null || skip "no mandoc here"
	page=$repository/man/trueaio.1
	mandoc -T lint -W warning "$page"
	for option in $("$tool" help run; "$tool" help cp; "$tool" help doctor); do
		[[ $option == --[a-z]* ]] || continue
		option=${option%]}
		grep -q -e "Fl ${option#-}" "$page" || {
			echo "$option is not in $page" >&2
			return 1
		}
	done
}
