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
PORT_A=$PORT
ENCAP_UDP="encap espinudp %s %s 0.0.0.0"

# At the least so many packets a direction before TCP begins
ECHOES=12

module_refcount()
{
	cat /sys/module/espintcp/refcnt
}

# What other tests left behind goes when XFRM gets round to it
idle()
{
	[ "$(module_refcount)" -eq 0 ]
}

# echoes_on_wire FILE: length, SPI, sequence number of the packets that carried
# echoes, each direction by itself: which of two directions comes first is a
# matter of timing, as is what TCP sends after the echoes. Identifications are
# random. To tcpdump a fragment of UDP in IPv6 has no port.
echoes_on_wire()
{
	local from

	for from in "$OUT_A" "$OUT_B"; do
		tcpdump -n -t -v -r "$1" "src host $from and
			(ip proto 50 or ip6 proto 50 or udp port $PORT or
			 ip6[6] == 44)" \
			2>/dev/null |
		awk '/^[^ \t]/ && NR > 1 { printf "\n" } { printf "%s", $0 }
		     END { printf "\n" }' |
		sed 's/ id [0-9]*,//; s/flowlabel [x0-9a-f]*, //
		     s/frag (0x[0-9a-f]*:/frag (/' |
		head -n $ECHOES
	done
}

# What to know when traffic was lost
account()
{
	local ns

	for ns in "$NS_A" "$NS_B"; do
		in_ns "$ns" grep -v "[^0-9]0$" /proc/net/xfrm_stat
		ip -n "$ns" -s xfrm state
		in_ns "$ns" ss -aun
	done
	tcpdump -n -r "$1.pcap" -c 20
}

# run_traffic MODE FILE: what was on the wire goes to the file
run_traffic()
{
	new_sas "$1" "$GCM" &&
	capture_start "$NS_W" to_a "$2.pcap" || return
	{
		ping_b "$IN_A" "$IN_B" 3 0 56 1000 3000 && tcp_b "$IN_A" "$IN_B"
	} || { capture_stop; account "$2"; return 1; }
	capture_stop || return
	echoes_on_wire "$2.pcap" > "$2"
	[ "$(wc -l < "$2")" -eq $((2 * ECHOES)) ] ||
		{ echo "no ESP on the wire"; cat "$2"; return 1; }
}

# untouched MODE FILE: traffic, and nothing of it reached the module
untouched()
{
	save_counters
	run_traffic "$1" "$2" || return
	expect_moved A "" && expect_moved B "" &&
	expect "references on the module" 0 "$(module_refcount)"
}

# same_without MODE FILE: traffic, and the same packets as with the module
same_without()
{
	run_traffic "$1" "$2.without" && diff "$2.without" "$2"
}

# Addresses and policies for mode $1, inside and outside IPv$2
prepare()
{
	outer "$2"
	inner "$2"
	[ "$1" != transport ] || IN_A=$OUT_A IN_B=$OUT_B
	flush_xfrm && set_policies "$1" "$IN_A" "$IN_B"
}

# test_each COMMAND TEXT: all kinds of SA that are none of the module's business
test_each()
{
	local command=$1 text=$2 kind family mode

	for kind in ESP UDP; do
		ENCAP=""
		[ $kind = ESP ] || ENCAP=$ENCAP_UDP
		for family in 4 6; do
			for mode in transport tunnel beet; do
				prepare $mode $family
				check "$kind, IPv$family, $mode, $text" \
					"$command" $mode \
					"$TEST_DIR/$kind-$mode$family"
			done
		done
	done
}

# Like an IKE daemon's, the sockets bypass the policies: one for all between two
# hosts in transport mode would have what comes in UDP dropped.
start_udp()
{
	local family

	for family in 4 6; do
		outer $family
		ip netns exec "$NS_A" ./tcp_pair -b -u "$OUT_A" -p $PORT \
			> "$TEST_DIR/udp-a$family" 2>&1 < /dev/null &
		ip netns exec "$NS_B" ./tcp_pair -b -u "$OUT_B" -p $PORT \
			> "$TEST_DIR/udp-b$family" 2>&1 < /dev/null &
		wait_for grep -q listening "$TEST_DIR/udp-a$family" &&
		wait_for grep -q listening "$TEST_DIR/udp-b$family" || return
	done
}

wait_for idle || ktap_skip_all "the module is in use"
setup_hosts && start_echo && start_udp || ktap_skip_all "no hosts"
MODULE=$(module_file) || ktap_skip_all "no module file"

test_each untouched "with the module"
check "the module goes" rmmod espintcp
check "an SA lives on without it" ping_b "$IN_A" "$IN_B" 1 56
test_each same_without "the same without it"
check "the module comes" insmod "$MODULE"
check "an SA lives on with it" ping_b "$IN_A" "$IN_B" 1 56
ktap_finish
