# SPDX-License-Identifier: MIT
#
# The engines that tests run on, and the refusals under which auto has to do without kernel AIO: see docs/testing.md.
# Sourced by what runs programs on each of them. Needs $build, the directory with what was built.

all_calls=(io_{setup,destroy,submit,cancel,getevents,pgetevents} p{read,write}v2)
without=("$build/tests/tools/without")

# set_engine NAME: sets "on", the words to put before a command, and "served_by", the engine that its contexts must
# then have. The distribution's library tells no engine.
set_engine() {
	case $1 in
	reference)
		served_by=
		on=(env TRUEAIO_ENGINE=reference LD_LIBRARY_PATH="$(dirname "$(scripts/system-libaio)")")
		return
		;;
	no-kernel-aio) served_by=threads on=("${without[@]}" io_setup:EAGAIN --) ;;
	emulated) served_by=threads on=() ;;
	no-calls) served_by=threads on=("${without[@]}" "${all_calls[@]/%/:ENOSYS}" --) ;;
	quota-used-up) served_by=threads on=("$build/tests/tools/used_up") ;;
	*)
		served_by=$1
		on=(env TRUEAIO_ENGINE="$1")
		return
		;;
	esac
	on=(env TRUEAIO_TEST_EXPECT="$served_by" "${on[@]}")
}
