# SPDX-License-Identifier: MIT
#
# One makefile, read from top to bottom: what is built, how it is tested, how it is used and installed.
# No file lists: a source belongs to what its directory belongs to.
#
#	make				build/libaio.so.1, build/libaio.a, build/trueaio
#	make run [CMD='fio job.fio']	see it work, or run a program on it
#	make check			every test, built with -Werror
#	make check-clients [CLIENTS=fio]	real programs on the library
#	make check-cross [CROSS=i386]	the tests of other architectures, built here and emulated; CROSS_SUBSET=test_submit
#	make check-vm [MACHINE=amd64]	the tests of i386, or these, on Debian's kernel in a virtual machine
#	make check-vm KERNEL=trixie-backports/6.18	on one of another suite: the newest, or the newest of a series
#	make fuzz [SECONDS=n]		random programs on the kernel and on the library, compared
#	make bench			what the library costs, beside the system's
#	make bench-report		the same on a page with pictures
#	make bench-by-hand		io_uring and pread without a library, beside the system's
#	make bench-clients		fio on the library, beside the system's
#	make install, uninstall		PREFIX is /usr/local; DESTDIR works; FORCE=1 goes over a package's files
#	make deb			Debian packages in build/deb, in place of libaio1 and libaio-dev
#	make check-packages		builds, checks, installs and removes them in a chroot (root)
#	make dependencies		the packages that all of these need; each installs its own
#	make format, tidy, clean
#
# CC=clang, LTO=1 and SANITIZE=address|undefined|thread work with every target. A sanitizer has a build
# directory of its own, build/address for one; other changes of flags rebuild what is in build/.
# CROSS=arm64|armhf|i386|ppc64el|s390x builds for another of Debian's architectures, in build/arm64 for one,
# with a copy of that architecture's libraries (build/sysroot) and Debian's cross compilers.

VERSION		:= 0.1.0

PREFIX		?= /usr/local
BINDIR		?= $(PREFIX)/bin
LIBDIR		?= $(PREFIX)/lib
INCLUDEDIR	?= $(PREFIX)/include
MANDIR		?= $(PREFIX)/share/man

ifneq ($(CROSS),)
ifeq ($(filter $(CROSS),$(shell scripts/architecture)),)
$(error CROSS is one of $(shell scripts/architecture), not "$(CROSS)")
endif
MULTIARCH	:= $(shell scripts/architecture $(CROSS) multiarch)
CROSS_COMPILE	:= $(shell scripts/architecture $(CROSS) compiler)-
SYSROOT		:= $(CURDIR)/build/sysroot/$(CROSS)
LOADER		:= $(SYSROOT)$(shell scripts/architecture $(CROSS) loader)
EMULATE		:= scripts/emulate $(CROSS) $(LOADER)
endif

# The contract suite runs on each engine, and where the system refuses what auto would like (see scripts/run-tests).
ENGINES		:= native threads $(if $(SANITIZE),,no-kernel-aio no-calls quota-used-up)
# Where auto is only led to threads, the programs that the choice may matter to; empty: all.
CHOICE_SUBSET	?= test_setup test_submit test_passthrough test_symver test_dlopen test_exit test_fork test_queue \
		   test_eventfd test_stream
# An emulator has no kernel AIO, which auto finds out.
EMULATED_ENGINES := threads emulated
# The differential test compares these with the kernel.
FUZZ_ENGINES	:= native threads

B		:= build$(if $(CROSS),/$(CROSS))$(if $(SANITIZE),/$(SANITIZE))
ifeq ($(origin CC),default)
CC		:= $(CROSS_COMPILE)$(if $(CROSS),gcc,cc)
endif
ifeq ($(origin AR),default)
AR		:= $(CROSS_COMPILE)ar
endif
OBJCOPY		?= $(CROSS_COMPILE)objcopy
NM		?= $(CROSS_COMPILE)nm
PKG_CONFIG	?= pkg-config
INSTALL		?= install
CFLAGS		?= -O2 -g
WARNINGS	:= -Wall -Wextra -Wshadow -Wconversion -Wno-psabi
IS_CLANG	:= $(findstring clang,$(CC))

# What a variable of the caller (CFLAGS=-O0, LDFLAGS=...) must not take away. Files are larger than 2 GiB on every
# machine; and a note of gcc's about an alignment that it changed long ago does not matter for what is built now.
ALL_CFLAGS	:= -std=gnu11 $(WARNINGS) -D_GNU_SOURCE= -D_FILE_OFFSET_BITS=64 -Iinclude -pthread $(CPPFLAGS) $(CFLAGS)
ALL_LDFLAGS	:= -pthread $(LDFLAGS)
LIBRARY_CFLAGS	:= -fPIC -fvisibility=hidden
# The library's assertions about itself: in unit tests and in sanitizer builds, not in what is installed.
CHECKED		:= -DTA_ASSERTIONS

ifneq ($(CROSS),)
ALL_CFLAGS	+= --sysroot=$(SYSROOT)
ALL_LDFLAGS	+= --sysroot=$(SYSROOT)
LIBRARIES	:= $(SYSROOT)/lib/$(MULTIARCH):$(SYSROOT)/usr/lib/$(MULTIARCH)
# Tests run on this machine, which has neither that dynamic linker nor those libraries in their places; and libc, which
# loads libgcc_s when a thread is cancelled, would not find it there.
RUN_HERE	:= -Wl,--dynamic-linker=$(LOADER) -Wl,-rpath,$(LIBRARIES) -Wl,--push-state,--no-as-needed -lgcc_s -Wl,--pop-state
PKG_CONFIG	:= PKG_CONFIG_SYSROOT_DIR=$(SYSROOT) \
		   PKG_CONFIG_LIBDIR=$(SYSROOT)/usr/lib/$(MULTIARCH)/pkgconfig:$(SYSROOT)/usr/share/pkgconfig $(PKG_CONFIG)
endif

ifdef LTO
LTO_FLAG	:= -flto$(if $(IS_CLANG),,=auto)
ALL_CFLAGS	+= $(LTO_FLAG)
ALL_LDFLAGS	+= $(LTO_FLAG) $(CFLAGS)
# The archive has to hold machine code: its reader may use another compiler, and objcopy has to read it.
RELOCATABLE	:= $(LTO_FLAG) $(if $(IS_CLANG),,-flinker-output=nolto-rel) $(CFLAGS)
endif

ifdef SANITIZE
ifeq ($(filter address undefined thread,$(SANITIZE)),)
$(error SANITIZE is address, undefined or thread, not "$(SANITIZE)")
endif
ALL_CFLAGS	+= -fsanitize=$(SANITIZE) -fno-omit-frame-pointer $(if $(filter undefined,$(SANITIZE)),-fno-sanitize-recover=all) $(CHECKED)
ALL_LDFLAGS	+= -fsanitize=$(SANITIZE)
endif

# clang leaves the sanitizer's runtime to the executable, so its symbols are undefined in a shared object.
NO_UNDEFINED	:= $(if $(and $(SANITIZE),$(IS_CLANG)),,-Wl,--no-undefined)

# Inner makes use every CPU, unless the caller said how many.
JOBS		= $(if $(filter -j%,$(MAKEFLAGS)),,-j$(shell nproc))

SOURCES		:= $(wildcard src/*.c)
SHARED_OBJECTS	:= $(SOURCES:src/%.c=$(B)/obj/shared/%.o)
STATIC_OBJECTS	:= $(SOURCES:src/%.c=$(B)/obj/static/%.o)
UNIT_OBJECTS	:= $(SOURCES:src/%.c=$(B)/obj/unit/%.o)
CLI_OBJECTS	:= $(patsubst cli/%.c,$(B)/obj/cli/%.o,$(wildcard cli/*.c))
UNIT_TESTS	:= $(patsubst tests/unit/%.c,$(B)/tests/unit/%,$(wildcard tests/unit/*.c))
CONTRACT_TESTS	:= $(patsubst tests/contract/%.c,$(B)/tests/contract/%,$(wildcard tests/contract/programs/*.c) \
			$(or $(CROSS_SUBSET:%=tests/contract/%.c),$(wildcard tests/contract/*.c))) \
		   $(patsubst tests/contract/%.c,$(B)/tests/contract/%.so,$(wildcard tests/contract/objects/*.c))
TEST_TOOLS	:= $(patsubst tests/tools/%.c,$(B)/tests/tools/%,$(wildcard tests/tools/*.c))
FUZZ_SOURCES	:= $(filter-out tests/fuzz/libfuzzer.c,$(wildcard tests/fuzz/*.c))

# make would take them for intermediate files and remove them: only pattern rules ask for them.
.SECONDARY: $(UNIT_OBJECTS)

.PHONY: all
all: $(B)/libaio.so.1 $(B)/libaio.so $(B)/libaio.a $(if $(CLI_OBJECTS),$(B)/trueaio)

# Objects are newer than the flags they were compiled with: the file changes only when the flags do.
FLAGS		:= $(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS) $(VERSION)
$(B)/flags: always
	@mkdir -p $(@D)
	@echo '$(FLAGS)' | cmp -s - $@ || echo '$(FLAGS)' > $@

# With STRICT, warnings are errors. A build without it leaves objects that may have warned, so it takes
# the mark away, and the next strict build compiles everything again.
ifdef STRICT
ALL_CFLAGS	+= -Werror
STRICT_MARK	:= $(B)/strict
$(B)/strict: $(B)/flags
	@touch $@
else
NOT_STRICT	= @rm -f $(B)/strict
endif

COMPILE		= @mkdir -p $(@D)$(if $(V),,; echo "  CC   $@")
BUILT_WITH	:= $(B)/flags $(STRICT_MARK) $(SYSROOT)
Q		:= $(if $(V),,@)

ifneq ($(CROSS),)
$(SYSROOT): scripts/sysroot
	@echo "  GET  $@"
	$(Q)scripts/sysroot $(CROSS) $@
endif

$(B)/obj/shared/%.o: src/%.c $(BUILT_WITH)
	$(COMPILE)
	$(NOT_STRICT)
	$(Q)$(CC) $(ALL_CFLAGS) $(LIBRARY_CFLAGS) -MMD -MP -c -o $@ $<

$(B)/obj/static/%.o: src/%.c $(BUILT_WITH)
	$(COMPILE)
	$(NOT_STRICT)
	$(Q)$(CC) $(ALL_CFLAGS) $(LIBRARY_CFLAGS) -DTA_STATIC -MMD -MP -c -o $@ $<

$(B)/obj/unit/%.o: src/%.c $(BUILT_WITH)
	$(COMPILE)
	$(NOT_STRICT)
	$(Q)$(CC) $(ALL_CFLAGS) $(LIBRARY_CFLAGS) -DTA_STATIC $(CHECKED) -MMD -MP -c -o $@ $<

$(B)/obj/cli/%.o: cli/%.c $(BUILT_WITH)
	$(COMPILE)
	$(NOT_STRICT)
	$(Q)$(CC) $(ALL_CFLAGS) -DTRUEAIO_VERSION='"$(VERSION)"' -MMD -MP -c -o $@ $<

# libaio.so.1 needs libc alone.
$(B)/libaio.so.1: $(SHARED_OBJECTS) src/libaio.map $(B)/flags
	@echo "  LD   $@"
	$(Q)$(CC) -shared -Wl,-soname,libaio.so.1 -Wl,--version-script=src/libaio.map -Wl,--exclude-libs,ALL \
		-Wl,-z,nodelete -Wl,-z,relro -Wl,-z,now $(NO_UNDEFINED) $(ALL_LDFLAGS) -o $@ $(SHARED_OBJECTS)

$(B)/libaio.so: $(B)/libaio.so.1
	$(Q)ln -sf libaio.so.1 $@

# Two objects, so that a program which takes its events by itself gets only the first (src/caller.c). Global are the
# names that the shared library exports, and those by which the two refer to each other. No groups are left, which a
# program's linker would take for its own (i386 has such functions, of the compiler's).
ARCHIVED	:= $(B)/obj/libaio.o $(B)/obj/libaio_reap.o
RELOCATABLE	+= -r -nostdlib -Wl,--force-group-allocation

$(B)/libaio.a: $(STATIC_OBJECTS) $(B)/libaio.so.1 $(B)/flags
	@echo "  AR   $@"
	$(Q)$(CC) $(RELOCATABLE) -o $(B)/obj/libaio.o $(filter-out %/api_reap.o,$(STATIC_OBJECTS))
	$(Q)$(CC) $(RELOCATABLE) -o $(B)/obj/libaio_reap.o $(filter %/api_reap.o,$(STATIC_OBJECTS))
	$(Q)$(NM) -D --defined-only $(B)/libaio.so.1 | awk '{ sub(/@.*/, "", $$3); print $$3 }' > $(B)/obj/global.symbols
	$(Q)$(NM) $(ARCHIVED) | awk '/ [UV] ta_/ { print $$NF }' >> $(B)/obj/global.symbols
	$(Q)for object in $(ARCHIVED); do $(OBJCOPY) --keep-global-symbols=$(B)/obj/global.symbols $$object || exit 1; done
	$(Q)rm -f $@ && $(AR) rcs $@ $(ARCHIVED)

# The command uses the library by its public interface, but for the doctor: he has the library's own questions to
# the system. json-c is linked in where there is an archive of it, so that the command, too, needs libc alone.
CLI_QUESTIONS	:= $(B)/obj/static/probe.o $(B)/obj/static/probe_text.o $(B)/obj/static/file.o
JSON_C		= $(if $(findstring /,$(shell $(CC) $(ALL_CFLAGS) -print-file-name=libjson-c.a)),-l:libjson-c.a,-ljson-c)

$(patsubst cli/%.c,$(B)/obj/cli/%.o,$(wildcard cli/doctor*.c)): ALL_CFLAGS += -Isrc
$(B)/trueaio: $(CLI_OBJECTS) $(CLI_QUESTIONS) $(B)/libaio.a
	@echo "  LD   $@"
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $(CLI_OBJECTS) $(CLI_QUESTIONS) $(B)/libaio.a $(JSON_C)

TEST_LDFLAGS	:= $(ALL_LDFLAGS) $(RUN_HERE)

# Unit tests see the library's inside and are linked with its objects.
$(B)/tests/unit/%: tests/unit/%.c $(UNIT_OBJECTS) $(BUILT_WITH)
	$(COMPILE)
	$(NOT_STRICT)
	$(Q)$(CC) $(ALL_CFLAGS) -DTA_STATIC $(CHECKED) -Isrc -Itests $$($(PKG_CONFIG) --cflags check) -MMD -MP -MF $@.d \
		-o $@ $< $(UNIT_OBJECTS) $(TEST_LDFLAGS) $$($(PKG_CONFIG) --libs check)

# It plays the kernel.
$(B)/tests/unit/test_ring: TEST_LDFLAGS += -Wl,--wrap=ta_kaio_post

# Contract tests are programs like any other. So are the ones that they start (programs/) and the shared
# objects that they load (objects/), which must import what they import and no test framework.
WITH_LIBAIO	= -L$(B) -Wl,-rpath,$(abspath $(B)) -laio

$(B)/tests/contract/programs/%: tests/contract/programs/%.c $(B)/libaio.so $(BUILT_WITH)
	$(COMPILE)
	$(NOT_STRICT)
	$(Q)$(CC) $(ALL_CFLAGS) -MMD -MP -MF $@.d -o $@ $< $(TEST_LDFLAGS) $(WITH_LIBAIO)

$(B)/tests/contract/objects/%.so: tests/contract/objects/%.c $(B)/libaio.so $(BUILT_WITH)
	$(COMPILE)
	$(NOT_STRICT)
	$(Q)$(CC) $(ALL_CFLAGS) -fPIC -shared -MMD -MP -MF $@.d -o $@ $< $(ALL_LDFLAGS) $(WITH_LIBAIO)

$(B)/tests/contract/%: tests/contract/%.c $(B)/libaio.so $(BUILT_WITH)
	$(COMPILE)
	$(NOT_STRICT)
	$(Q)$(CC) $(ALL_CFLAGS) -Itests $$($(PKG_CONFIG) --cflags check fuse3) -MMD -MP -MF $@.d \
		-o $@ $< $(TEST_LDFLAGS) $(WITH_LIBAIO) $$($(PKG_CONFIG) --libs check fuse3)

# Programs that tests start others with. They have nothing to do with the library.
$(B)/tests/tools/%: tests/tools/%.c $(BUILT_WITH)
	$(COMPILE)
	$(NOT_STRICT)
	$(Q)$(CC) $(ALL_CFLAGS) $$($(PKG_CONFIG) --cflags libseccomp) -MMD -MP -MF $@.d -o $@ $< $(TEST_LDFLAGS) $$($(PKG_CONFIG) --libs libseccomp)

# One program, in which both implementations run.
$(B)/tests/fuzz/differential: $(FUZZ_SOURCES) tests/fuzz/fuzz.h $(B)/libaio.so $(BUILT_WITH)
	$(COMPILE)
	$(NOT_STRICT)
	$(Q)$(CC) $(ALL_CFLAGS) -o $@ $(FUZZ_SOURCES) $(TEST_LDFLAGS) $(WITH_LIBAIO)

$(B)/scale: bench/scale.c $(B)/libaio.so $(BUILT_WITH)
	$(COMPILE)
	$(NOT_STRICT)
	$(Q)$(CC) $(ALL_CFLAGS) -MMD -MP -MF $@.d -o $@ $< $(TEST_LDFLAGS) $(WITH_LIBAIO)

# Built with the same binary for both libraries: it finds the one that LD_LIBRARY_PATH names, or the system's.
$(B)/fsync_promise: bench/fsync_promise.c $(B)/libaio.so $(BUILT_WITH)
	$(COMPILE)
	$(NOT_STRICT)
	$(Q)$(CC) $(ALL_CFLAGS) -MMD -MP -MF $@.d -o $@ $< $(TEST_LDFLAGS) -L$(B) -laio

-include $(wildcard $(B)/obj/*/*.d $(B)/tests/*/*.d $(B)/tests/*/*/*.d $(B)/*.d)

# Tests. The dependencies come first, and the makefile is read again once they are there.

.PHONY: check check-suites check-build check-clients check-cross
check:
	@CC='$(CC)' scripts/install-dependencies build check
	@$(MAKE) --no-print-directory check-suites

check-suites:
	@$(MAKE) --no-print-directory $(JOBS) STRICT=1 check-build
	@CC='$(CC)' SANITIZE='$(SANITIZE)' CROSS='$(CROSS)' ENGINES='$(ENGINES)' EMULATED_ENGINES='$(EMULATED_ENGINES)' \
		CHOICE_SUBSET='$(CHOICE_SUBSET)' EMULATED_SUBSET='$(SUBSET)' PROGRAMS='$(CROSS_SUBSET)' FUZZ_ENGINES='$(FUZZ_ENGINES)' \
		$(EMULATE) scripts/run-tests $(B)

check-build: all $(UNIT_TESTS) $(CONTRACT_TESTS) $(B)/tests/fuzz/differential $(TEST_TOOLS) $(B)/fsync_promise $(B)/scale

# Other architectures: CROSS, or all that there are compilers for; of the contract programs all, or CROSS_SUBSET.
MACHINES	:= $(or $(CROSS),$(shell scripts/architecture))
check-cross:
	@CROSS='$(MACHINES)' scripts/install-dependencies build check cross
	@scripts/check-cross $(MACHINES)

# Another kernel: Debian's own in a virtual machine, which runs programs of 32 bits (MACHINE=i386), and is older than many
# (MACHINE=amd64); or one of another suite of Debian (KERNEL). Where QEMU has to translate, that is slow: after the first
# engine only those of SUBSET run, or all if it is empty.
MACHINE		?= i386
KERNEL		?=
VM_KERNEL	:= build/vm/kernel$(if $(KERNEL),-$(subst /,-,$(KERNEL)))
VM_ENGINES	?= native threads
SUBSET		?= test_submit test_getevents test_destroy test_cancel test_setup test_transfer test_eventfd

.PHONY: check-vm vm-suites
check-vm:
	@CROSS='$(filter-out amd64,$(MACHINE))' scripts/install-dependencies build check cross vm
	@$(MAKE) --no-print-directory CROSS='$(filter-out amd64,$(MACHINE))' vm-suites

vm-suites: $(VM_KERNEL)
	@$(MAKE) --no-print-directory $(JOBS) STRICT=1 check-build
	@CC='$(CC)' CROSS='$(CROSS)' ENGINES='$(VM_ENGINES)' FUZZ_ENGINES='$(VM_ENGINES)' SUBSET='$(SUBSET)' \
		KERNEL='$(KERNEL)' scripts/check-vm $(MACHINE) $(B) $(VM_KERNEL)

$(VM_KERNEL): scripts/vm-kernel scripts/vm-init
	@echo "  GET  $@"
	$(Q)scripts/vm-kernel $@.new $(KERNEL) && rm -rf $@ && mv $@.new $@

# Real programs: those in tests/clients, or CLIENTS='fio qemu'.
CLIENT_ENGINES	?= native threads no-kernel-aio

check-clients:
	@CC='$(CC)' scripts/install-dependencies build check
	@$(MAKE) --no-print-directory $(JOBS) all $(TEST_TOOLS)
	@ENGINES='$(CLIENT_ENGINES)' scripts/run-clients $(B) $(CLIENTS)

# The differential test: SECONDS on each of FUZZ_ENGINES, from the seed SEED on, or from one that is new each time.

SECONDS		?= 60
SEED		?= $(shell date +%s)000

.PHONY: fuzz fuzz-libfuzzer
fuzz:
	@CC='$(CC)' scripts/install-dependencies build
	@$(MAKE) --no-print-directory $(JOBS) $(B)/tests/fuzz/differential
	@for engine in $(FUZZ_ENGINES); do \
		TRUEAIO_ENGINE=$$engine $(B)/tests/fuzz/differential --seed $(SEED) --seconds $(SECONDS) || exit 1; \
	done

# The same with bytes from libFuzzer, which looks for what reaches new code. What it finds useful stays in
# build/corpus.
FUZZER_SOURCES	:= $(filter-out tests/fuzz/differential.c tests/fuzz/shrink.c tests/fuzz/planted.c,$(wildcard tests/fuzz/*.c))

$(B)/tests/fuzz/libfuzzer: $(FUZZER_SOURCES) $(SOURCES) tests/fuzz/fuzz.h $(wildcard src/*.h) $(BUILT_WITH)
	$(COMPILE)
	$(Q)clang -fsanitize=fuzzer $(filter-out -flto%,$(ALL_CFLAGS)) -DTA_STATIC $(CHECKED) -o $@ $(FUZZER_SOURCES) $(SOURCES)

fuzz-libfuzzer: $(B)/tests/fuzz/libfuzzer
	@mkdir -p $(B)/corpus
	@for engine in $(FUZZ_ENGINES); do \
		TRUEAIO_ENGINE=$$engine $< -max_total_time=$(SECONDS) -len_control=0 -max_len=385 -timeout=20 \
			-artifact_prefix=$(B)/ $(B)/corpus || exit 1; \
	done

# Use.

.PHONY: run run-build bench bench-report bench-by-hand bench-clients dependencies
run:
	@CC='$(CC)' scripts/install-dependencies build run
	@$(MAKE) --no-print-directory $(JOBS) run-build
	@CMD='$(subst ','\'',$(value CMD))' scripts/run $(B)

run-build: all $(B)/fsync_promise

# Beside the system's library: all of it, and what waits for a disk on worker threads alone. Then beside a copy of itself that
# takes the program's word for its memory, to show what EFAULT costs.
bench:
	@CC='$(CC)' scripts/install-dependencies build bench
	@$(MAKE) --no-print-directory $(JOBS) all $(B)/unchecked/libaio.so.1
	@bench/run $(B) && cp $(B)/bench/results.tsv $(B)/bench/native.tsv
	@[ -n "$(QUICK)" ] || { echo; echo "TRUEAIO_ENGINE=threads"; TRUEAIO_ENGINE=threads bench/run $(B) && \
		cp $(B)/bench/results.tsv $(B)/bench/threads.tsv; }
	@[ -n "$(QUICK)" ] || { echo; echo "system: this library without its checks of memory"; \
		ONLY='(zero|cache)-.*' bench/run $(B) $(B)/unchecked/libaio.so.1; }

# The same on one page, with the distributions of the times of cold reads.
bench-report: bench
	@bench/report $(B)

# The same work by io_uring and by pread, without a library like libaio.
bench-by-hand:
	@CC='$(CC)' scripts/install-dependencies build bench by-hand
	@$(MAKE) --no-print-directory $(JOBS) all
	@for way in io_uring pread; do \
		BY_HAND=$$way bench/run $(B) && cp $(B)/bench/results.tsv $(B)/bench/$$way.tsv || exit; \
	done

$(B)/unchecked/libaio.so.1: $(SOURCES) $(wildcard src/*.h) src/libaio.map $(B)/flags
	$(COMPILE)
	$(Q)$(CC) $(ALL_CFLAGS) $(LIBRARY_CFLAGS) -DTA_UNCHECKED_MEMORY -shared -Wl,-soname,libaio.so.1 \
		-Wl,--version-script=src/libaio.map -Wl,--exclude-libs,ALL $(ALL_LDFLAGS) -o $@ $(SOURCES)

# fio beside the system's library. ONLY='ext4-randread-4k-.*' selects cases, ENGINE=threads another engine than native;
# ROUNDS is 7.
bench-clients:
	@CC='$(CC)' scripts/install-dependencies build bench-clients
	@$(MAKE) --no-print-directory $(JOBS) all
	@bench/clients $(B)

dependencies:
	@CC='$(CC)' scripts/install-dependencies build check run bench

# What is in the way and belongs to a package, or is another libaio, is left alone without FORCE=1.
.PHONY: install uninstall
install: all
	@$(INSTALL_FILES) scripts/install-files install $(B)

uninstall:
	@$(INSTALL_FILES) scripts/install-files uninstall $(B)

INSTALL_FILES	= DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' BINDIR='$(BINDIR)' LIBDIR='$(LIBDIR)' INCLUDEDIR='$(INCLUDEDIR)' \
		  MANDIR='$(MANDIR)' VERSION='$(VERSION)' INSTALL='$(INSTALL)' FORCE='$(FORCE)'

# Packages. packaging/debian has what dpkg-buildpackage is told.
.PHONY: deb check-packages
deb:
	@scripts/install-dependencies build deb
	@scripts/build-packages build/deb
	@ls build/deb/*.deb

check-packages:
	@scripts/install-dependencies build deb check-packages
	@scripts/check-packages build

# Upkeep.

.PHONY: format tidy clean help always
format:
	clang-format -i $(wildcard include/*.h src/*.[ch] cli/*.[ch] tests/*/*.[ch] bench/*.[ch] examples/*.c examples/*.cpp)

tidy:
	@scripts/tidy

clean:
	rm -rf build

help:
	@sed -n '/^# One makefile/,/^# directory/s/^# \{0,1\}//p' Makefile
