#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Packets that wait too long in front of a slow connection are marked or, where
# they cannot be, dropped, so that inner senders slow down.

cd "$(dirname "$0")" || exit 1
# shellcheck source=lib.sh
. ./lib.sh
# shellcheck source=xfrm_lib.sh
. ./xfrm_lib.sh

require_root
require_tools ip tc nft socat
require_module
test_dir
ktap_plan

GCM="aead rfc4106(gcm(aes)) 0x$(printf '%040d' 7) 128"
RATE=4mbit

ECT0=2
NOT_ECT=0

slow_wire()
{
	tc -n "$NS_A" qdisc replace dev veth0 root netem rate $RATE limit 10000
}

# How many packets with a mark came out of the tunnel in B
count_marks()
{
	in_ns "$NS_B" nft -f - <<-EOF
	table inet aqm {
		counter ce { }
		chain in {
			type filter hook input priority 0
			ip ecn ce udp dport 9 counter name ce
			ip6 ecn ce udp dport 9 counter name ce
		}
	}
	EOF
}

marks_seen()
{
	in_ns "$NS_B" nft list counter inet aqm ce |
		sed -n 's/.*packets \([0-9]*\).*/\1/p'
}

# above COUNTER LIMIT
above()
{
	[ "$(counter "$NS_A" "$1")" -gt "$2" ]
}

all_marks_came()
{
	[ "$(marks_seen)" = "$(counter "$NS_A" EspTcpOutAqmMark)" ]
}

# flood_until COUNTER LIMIT ADDRESS SOURCE TOS-OPTION: as much UDP as the socket
# takes, until the counter is above the limit
flood_until()
{
	local pid status=0

	ip netns exec "$NS_A" socat -u -b 1200 OPEN:/dev/zero \
		"UDP-SENDTO:$3:9,bind=$4,$5" 2>/dev/null &
	pid=$!
	wait_for above "$1" "$2" || status=1
	kill $pid
	wait $pid 2>/dev/null
	[ $status = 0 ] || echo "$1 stays at $(counter "$NS_A" "$1")"
	return $status
}

# The frame carries the mark, and the header's checksum still holds
marked()
{
	local dropped

	dropped=$(counter "$NS_A" EspTcpOutAqmDrop)
	flood_until EspTcpOutAqmMark "$(counter "$NS_A" EspTcpOutAqmMark)" "$@" &&
	wait_for all_marks_came ||
		{ echo "$(marks_seen) marks came"; return 1; }
	expect "packets dropped" "$dropped" \
		"$(counter "$NS_A" EspTcpOutAqmDrop)"
}

dropped()
{
	local marked

	marked=$(counter "$NS_A" EspTcpOutAqmMark)
	flood_until EspTcpOutAqmDrop "$(counter "$NS_A" EspTcpOutAqmDrop)" "$@" &&
	expect "packets marked" "$marked" \
		"$(counter "$NS_A" EspTcpOutAqmMark)"
}

setup_hosts && outer 4 && inner 4 && connect_pair 4 && flush_xfrm &&
	new_sas tunnel "$GCM" &&
	set_policies tunnel "$IN4_A" "$IN4_B" &&
	set_policies tunnel "$IN6_A" "$IN6_B" &&
	count_marks && slow_wire ||
	{ ktap_fail "a slow connection"; exit 1; }

check "IPv4, ECN-capable: marked" \
	marked "$IN4_B" "$IN4_A" "ip-tos=$ECT0"
check "IPv6, ECN-capable: marked" \
	marked "[$IN6_B]" "[$IN6_A]" "ipv6-tclass=$ECT0"
check "IPv4, not ECN-capable: dropped" \
	dropped "$IN4_B" "$IN4_A" "ip-tos=$NOT_ECT"

ktap_finish
