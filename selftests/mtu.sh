#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# How large a packet may be: in the tunnel what the route leaves after ESP and the
# length field, outside what TCP negotiates, and neither more than the path takes.

cd "$(dirname "$0")" || exit 1
# shellcheck source=lib.sh
. ./lib.sh
# shellcheck source=xfrm_lib.sh
. ./xfrm_lib.sh

require_root
require_tools ip ping ss tcpdump socat
require_module
TEST_LOG_DIR="" test_dir
ktap_plan

# An IPv4 header, the length, ESP's header, IV and ICV of GCM, and two octets of a
# trailer that ends on a multiple of four
readonly ESP_OVERHEAD=58
readonly INNER_PORT=4242
# A ping's headers
readonly ICMP_OVERHEAD=28

mss_negotiated()
{
	local file=$TEST_DIR/syn.pcap

	capture_start "$NS_W" to_a "$file" "tcp[tcpflags] & tcp-syn != 0" &&
	connect_pair 4 -r && capture_stop &&
	expect "SYNs with an MSS of 1460" 2 \
		"$(tcpdump -n -r "$file" 2>/dev/null | grep -c "mss 1460,")"
}

tunnel_up()
{
	inner 4 && flush_xfrm && set_policies tunnel "$IN_A" "$IN_B" &&
	new_sas tunnel "$GCM" && ping_b "$IN_A" "$IN_B" 1 56
}

# ping_whole LENGTH: an IP packet that may not be fragmented
ping_whole()
{
	in_a "LC_ALL=C ping -n -I $IN_A -M do -c 1 -W 20 -s $(($1 - ICMP_OVERHEAD)) $IN_B"
}

inner_connections()
{
	in_ns "$NS_A" ss -Htni "dport = :$INNER_PORT" | grep pmtu:
}

# What the kernel tells TCP inside. Not every ping says what it was told.
pmtu_inside()
{
	local server client

	ip netns exec "$NS_B" socat -u "TCP-LISTEN:$INNER_PORT,reuseaddr" \
		OPEN:/dev/null &
	server=$!
	wait_for listens_inside
	ip netns exec "$NS_A" socat -u "EXEC:sleep 100" \
		"TCP:$IN_B:$INNER_PORT,bind=$IN_A" &
	client=$!
	wait_for inner_connections >/dev/null
	inner_connections | grep -o 'pmtu:[0-9]*'
	kill $client $server
	wait $client $server 2>/dev/null
}

listens_inside()
{
	in_ns "$NS_B" ss -Htln "sport = :$INNER_PORT" | grep -q LISTEN
}

# largest MTU: that passes in one piece, and one octet more does not
largest()
{
	ping_whole "$1" || { echo "$1 octets do not pass"; return 1; }
	ping_whole $(($1 + 1)) > "$TEST_DIR/larger" 2>&1 &&
		{ echo "$1 octets and one pass"; return 1; }
	cat "$TEST_DIR/larger"
	grep -q "[Mm]essage too long" "$TEST_DIR/larger" &&
	expect "path MTU of a TCP connection inside" "pmtu:$1" "$(pmtu_inside)"
}

# Without TCP the ESP packet would be fragmented. A stream has no fragments.
in_one_frame()
{
	local before

	before=$(counter "$NS_A" EspTcpOutEsp)
	ping_b "$IN_A" "$IN_B" 1 4000 || return
	expect "frames" 1 $(($(counter "$NS_A" EspTcpOutEsp) - before))
}

segments_shrink()
{
	in_ns "$NS_A" ss -Htni "dport = :$PORT" | grep -o 'mss:[0-9]*'
	in_ns "$NS_A" ss -Htni "dport = :$PORT" | grep -q ' mss:1248 '
}

# Its MTU is what an ICMP message or an administrator says it is
path_shrinks()
{
	ip -n "$NS_A" route add "$V4_B/32" dev veth0 mtu 1300 &&
	ping_b "$IN_A" "$IN_B" 3 56 && wait_for segments_shrink && return
	segments_shrink
	return 1
}

setup_hosts && outer 4 || ktap_skip_all "no hosts"
check "the connection negotiates its MSS" mss_negotiated || ktap_finish
check "a tunnel" tunnel_up || ktap_finish
check "the MTU in it is the route's less ESP" largest $((1500 - ESP_OVERHEAD))
check "a larger packet that may be fragmented is one frame" in_one_frame
check "the path's MTU falls to 1300, and the segments with it" path_shrinks
check "so does the MTU in the tunnel" largest $((1300 - ESP_OVERHEAD))
ktap_finish
