#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# On a kernel with an espintcp of its own (CONFIG_INET_ESPINTCP) the module
# declines to load, says why in one line, and leaves the kernel's as it was.
# Run without the module loaded: "make check-matrix" has such a kernel.

cd "$(dirname "$0")" || exit 1
# shellcheck source=lib.sh
. ./lib.sh

readonly MODULE=../espintcp.ko

require_root
require_tools ip insmod dmesg
[ -f "$MODULE" ] || ktap_skip_all "no $MODULE"
if [ -e /proc/net/espintcp_stat ] ||
	! grep -qw espintcp /proc/sys/net/ipv4/tcp_available_ulp; then
	ktap_skip_all "this kernel has no espintcp of its own"
fi
ktap_plan 7

# What the module said, newest last; the kernel speaks of taint in its name
log_lines()
{
	dmesg | sed -n 's/^\[[^]]*\] espintcp: //p' | grep -v taint
}

# A pair of sockets with the ULP, which is the kernel's
kernels_own_works()
{
	local dir

	setup_ns NS_A || return
	dir="$(mktemp -d)"
	on_exit rm -rf "$dir"
	ip netns exec "$NS_A" ./tcp_pair -l 127.0.0.1 -p 4500 \
		>"$dir/listener" 2>&1 &
	wait_for grep -q listening "$dir/listener" || return
	ip netns exec "$NS_A" ./tcp_pair -c 127.0.0.1 -p 4500 \
		>"$dir/client" 2>&1 &
	wait_for grep -q ready "$dir/client" &&
	wait_for grep -q ready "$dir/listener" &&
	in_ns "$NS_A" ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp \
		spi 0x100 mode tunnel encap espintcp 4500 4501 0.0.0.0 \
		aead "rfc4106(gcm(aes))" \
		0x000102030405060708090a0b0c0d0e0f10111213 128
}

before="$(log_lines | wc -l)"
output="$(insmod "$MODULE" 2>&1)"
status=$?
assert_eq "insmod fails" 1 $status
assert_eq "with EEXIST" yes "$(grep -q 'File exists' <<<"$output" && echo yes)"
said="$(log_lines | tail -n "+$((before + 1))")"
assert_eq "one line in the log" 1 "$(wc -l <<<"$said")"
assert_eq "which names CONFIG_INET_ESPINTCP" yes \
	"$(grep -q CONFIG_INET_ESPINTCP <<<"$said" && echo yes)"
assert_eq "no module, no counters" "" \
	"$(grep '^espintcp ' /proc/modules; ls /proc/net/espintcp_stat 2>/dev/null)"
# A leftover of the first attempt would be noticed by the second
assert_eq "the second attempt ends the same way" "$output" \
	"$(insmod "$MODULE" 2>&1)"
check "the kernel's own works as before" kernels_own_works
ktap_finish
