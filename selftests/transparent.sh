#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# SAs that are not encapsulated in TCP never notice the module: ESP as such and
# ESP in UDP carry the same traffic in the same packets as before it was loaded,
# none of its counters moves, and it is free to go at any time.

cd "$(dirname "$0")" || exit 1
# shellcheck source=lib.sh
. ./lib.sh
# shellcheck source=xfrm_lib.sh
. ./xfrm_lib.sh

require_root
require_tools ip ping socat tcpdump
require_module
# Captures and sockets want a directory of this machine, not a shared one
TEST_LOG_DIR="" test_dir
ktap_plan

# shellcheck disable=SC2034 # for xfrm_lib.sh
ENCAP_UDP="encap espinudp %s %s 0.0.0.0"

module_refcount()
{
	cat /sys/module/espintcp/refcnt
}

# What other tests left behind goes when XFRM gets round to it
idle()
{
	[ "$(module_refcount)" -eq 0 ]
}

# echoes_on_wire FILE: length, SPI, sequence number of every ESP packet that carried an
# echo. Identifications are random, and those of TCP depend on timing.
echoes_on_wire()
{
	tcpdump -n -t -v -r "$1" "ip proto 50 or ip6 proto 50 or udp port $PORT" \
		2>/dev/null | sed 's/ id [0-9]*,//; s/flowlabel [x0-9a-f]*, //; s/frag (0x[0-9a-f]*:/frag (/' |
		head -n 24
}

# run_traffic ALGORITHM MODE FILE
run_traffic()
{
	new_sas "$2" "${ALGO[$1]}" &&
	capture_start "$NS_W" to_a "$3.pcap" || return
	{
		ping_b "$IN_A" "$IN_B" 3 0 56 1000 3000 && tcp_b "$IN_A" "$IN_B"
	} || { capture_stop; return 1; }
	capture_stop || return
	echoes_on_wire "$3.pcap" > "$3"
	[ "$(wc -l < "$3")" -ge 24 ] ||
		{ echo "no ESP on the wire"; cat "$3"; return 1; }
}

# untouched ALGORITHM MODE: traffic, and nothing of it reached the module
untouched()
{
	save_counters
	run_traffic "$1" "$2" "$TEST_DIR/with" || return
	expect_moved A "" && expect_moved B "" &&
	expect "references on the module" 0 "$(module_refcount)"
}

# same_without ALGORITHM MODE: the same packets, whether the module is loaded.
# SAs from before it goes, and from before it comes, live on.
same_without()
{
	local status=0

	run_traffic "$1" "$2" "$TEST_DIR/with" || return
	rmmod espintcp || return
	ping_b "$IN_A" "$IN_B" 1 56 &&
	run_traffic "$1" "$2" "$TEST_DIR/without" || status=1
	insmod "$MODULE" || return
	[ $status -eq 0 ] || return
	ping_b "$IN_A" "$IN_B" 1 56 &&
	diff "$TEST_DIR/without" "$TEST_DIR/with"
}

# Addresses and policies for mode $1, inside and outside IPv$2
prepare()
{
	outer "$2"
	inner "$2"
	[ "$1" != transport ] || IN_A=$OUT_A IN_B=$OUT_B
	flush_xfrm && add_policies "$1" "$IN_A" "$IN_B"
}

# test_each TEXT CHECK ALGORITHMS FAMILIES
test_each()
{
	local text=$1 command=$2 family mode algo

	for family in $4; do
		for mode in transport tunnel beet; do
			prepare $mode "$family"
			for algo in $3; do
				check "$text, IPv$family, $mode, $algo" \
					"$command" "$algo" $mode
			done
		done
	done
	flush_xfrm
}

start_udp()
{
	local family

	for family in 4 6; do
		outer $family
		ip netns exec "$NS_A" ./tcp_pair -u "$OUT_A" -p $PORT \
			> "$TEST_DIR/udp-a$family" 2>&1 < /dev/null &
		ip netns exec "$NS_B" ./tcp_pair -u "$OUT_B" -p $PORT \
			> "$TEST_DIR/udp-b$family" 2>&1 < /dev/null &
		wait_for grep -q listening "$TEST_DIR/udp-a$family" &&
		wait_for grep -q listening "$TEST_DIR/udp-b$family" || return
	done
}

wait_for idle || ktap_skip_all "the module is in use"
setup_hosts && start_echo && start_udp || ktap_skip_all "no hosts"
PORT_A=$PORT
MODULE=$(module_file) || ktap_skip_all "no module file"

ENCAP=""
test_each "ESP" untouched "gcm cbc-sha256" "4 6"
test_each "ESP, without the module" same_without gcm "4 6"
ENCAP=$ENCAP_UDP
test_each "ESP in UDP" untouched gcm "4 6"
ktap_finish
