# SPDX-License-Identifier: GPL-2.0
#
# A thin wrapper: Kbuild says what the module is made of, selftests/ has the
# tests, selftests/vm/ the VM they run in.

# The running kernel's headers or, where it has none, the newest installed.
# Deferred, since "make check" may install them first.
KDIR ?= $(or $(shell ls -d /lib/modules/$$(uname -r)/build/ 2>/dev/null), \
	    $(shell ls -d /lib/modules/*/build/ 2>/dev/null | sort -V | tail -n 1), \
	    $(error no kernel headers installed; say KDIR=...))

# Of the kernel that KDIR is for, as its uname -r says, and where its modules are.
RELEASE = $(shell sed -n 's/.*UTS_RELEASE "\(.*\)"/\1/p' \
		  $(KDIR)/include/generated/utsrelease.h)
PREFIX = $(abspath $(or $(INSTALL_MOD_PATH),$(DESTDIR),/))

VM := selftests/vm
KDIR_GIVEN := $(if $(filter undefined file,$(origin KDIR)),,$(KDIR))
BUILD_FLAGS := $(if $(KERNEL),--kernel $(KERNEL)) \
	       $(if $(KDIR_GIVEN),--kdir $(KDIR_GIVEN)) \
	       $(if $(ROOT),--root $(ROOT))
LINT_FLAGS := $(if $(KERNEL),--kernel $(KERNEL)) \
	      $(if $(KDIR_GIVEN),--kdir $(KDIR_GIVEN))
VM_FLAGS := $(if $(KERNEL),--kernel $(KERNEL)) $(if $(ROOT),--root $(ROOT)) \
	    $(VMFLAGS)

.PHONY: modules install uninstall clean tools install-tools uninstall-tools \
	htmldocs deps deps-kernel tests check debug-kernel check-debug check-matrix \
	check-arm64 demo lint checkpatch bench fuzz dist packages check-packages help

modules:
	$(MAKE) -C $(KDIR) M=$(CURDIR) modules

# Kbuild leaves depmod out where it finds no System.map, as in Debian's headers.
install: modules
	$(MAKE) -C $(KDIR) M=$(CURDIR) INSTALL_MOD_PATH=$(PREFIX) modules_install
	depmod -b $(PREFIX) $(RELEASE)

# What DKMS has built is DKMS's.
uninstall:
	$(if $(RELEASE),,$(error no headers of a kernel in $(KDIR); say KDIR=...))
	find $(PREFIX)/lib/modules/$(RELEASE)/ -name 'espintcp.ko*' \
		! -path '*/updates/dkms/*' -delete
	depmod -b $(PREFIX) $(RELEASE)

clean:
	$(MAKE) -C $(KDIR) M=$(CURDIR) clean
	$(if $(wildcard selftests/Makefile),$(MAKE) -C selftests clean)
	$(if $(wildcard tools/espintcp/Makefile),$(MAKE) -C tools/espintcp clean)
	$(RM) -r Documentation/_build

tools:
	$(MAKE) -C tools/espintcp

install-tools uninstall-tools:
	$(MAKE) -C tools/espintcp DESTDIR=$(DESTDIR) $(@:-tools=)

htmldocs:
	sphinx-build -q -n -W -b html Documentation Documentation/_build/html

deps:
	@$(VM)/deps

tests:
	$(MAKE) -C selftests

check: deps
	@$(VM)/build $(BUILD_FLAGS)
	@$(VM)/check $(VM_FLAGS) -- $(TESTS)

deps-kernel:
	@$(VM)/deps --kernel

debug-kernel: deps-kernel
	@$(VM)/debug-kernel memory um

check-debug: deps-kernel
	@$(VM)/debug-check $(DEBUG) -- $(TESTS)

demo: deps
	@$(VM)/build $(BUILD_FLAGS)
	@echo '  booting it in a VM, which takes a minute'
	@$(VM)/run $(VM_FLAGS) -- selftests/demo.sh

lint: deps
	@$(VM)/lint $(LINT_FLAGS)

checkpatch: deps
	@$(VM)/lint --checkpatch

check-matrix: deps
	@$(VM)/matrix $(CELLS)

check-arm64:
	@$(VM)/deps --arm64
	@$(VM)/arm64 -- $(TESTS)

dist:
	@tools/package/dist

packages:
	@tools/package/build

check-packages: deps packages
	@tools/package/check

bench:
	@$(VM)/deps --bench
	tools/bench/run -m -n 2 -d Documentation/benchmark

fuzz:
	@$(MAKE) -s -C selftests/fuzz run

help:
	@echo 'Building:'
	@echo '  make             build espintcp.ko'
	@echo '  make install     install it for "modprobe espintcp" (as root)'
	@echo '  make uninstall   remove what "make install" installed'
	@echo '  make tools       build the program espintcp, which shows connections'
	@echo '                   (needs libmnl-dev); make install-tools, uninstall-tools'
	@echo '  make htmldocs    the documents as HTML (needs python3-sphinx)'
	@echo '  make clean       remove what was built'
	@echo
	@echo 'Trying, as root, in a VM that boots an unmodified kernel:'
	@echo '  make demo        an IKEv2 tunnel over TCP between two libreswan daemons'
	@echo '  make check       all tests'
	@echo '  make check-debug tests on a kernel that finds what tests cannot see;'
	@echo '                   builds it first; make debug-kernel builds the one for'
	@echo '                   memory and no more'
	@echo '  make check-matrix  all tests on each kernel of Debian 12, 13 and sid, each'
	@echo '                   with its own user space; takes hours'
	@echo '  make check-arm64 the C tests on the kernel Debian has for arm64'
	@echo '  make lint        checkpatch, sparse and W=1'
	@echo '  make deps        only install what these need'
	@echo '  make fuzz        the record rules under libFuzzer (needs clang)'
	@echo '  make bench       compare with direct ESP, ESP in UDP and in-tree espintcp;'
	@echo '                   builds two kernels first and takes hours'
	@echo
	@echo 'Packaging:'
	@echo '  make dist        a source tarball, which builds without git'
	@echo '  make packages    Debian packages, for DKMS and of the tools'
	@echo '  make check-packages  install, use and remove them in a clean Debian 13'
	@echo
	@echo 'Variables:'
	@echo '  KDIR=DIR         headers or build tree of the kernel to build for'
	@echo '                   (default: of the running kernel or, where it has none,'
	@echo '                   the newest installed)'
	@echo '  KERNEL=BZIMAGE   kernel to boot (default: the newest in /boot)'
	@echo '  TESTS="A B"      tests to run (default: all)'
	@echo '  DEBUG=KIND       memory, races, rt or pc (default: memory)'
	@echo '  TEST_ENV="A=1"   settings for the tests of check-debug, as RECORDS=500000'
	@echo '  KSRC=DIR         kernel source for check-debug and bench (default: the'
	@echo '                   newest linux-source package)'
	@echo '  ROOT=DIR         root file system of the VM (default: this one); its'
	@echo '                   compiler, headers and newest kernel are used'
	@echo '  CELLS="A B"      kernels of "make check-matrix" (default: all)'
	@echo '  VMFLAGS=...      more options of selftests/vm/run'
	@echo '  DESTDIR=DIR      "make install" below DIR instead of below /'
