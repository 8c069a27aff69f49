#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What the segments of a connection are marked with (RFC 9329 sections 6.1, 9.3
# and 9.5): nothing that comes from an inner packet, no ECN, and one flow label.

cd "$(dirname "$0")" || exit 1
# shellcheck source=lib.sh
. ./lib.sh
# shellcheck source=xfrm_lib.sh
. ./xfrm_lib.sh

require_root
require_tools ip nft ping socat ss sysctl tcpdump tshark
require_module
# Captures and sockets want a directory of this machine, not a shared one
TEST_LOG_DIR="" test_dir
ktap_plan

# Expedited forwarding, and congestion experienced
TOS=0xbb

tunnel_up()
{
	connect_pair "$1" -r && inner 4 && flush_xfrm &&
	set_policies tunnel "$IN_A" "$IN_B" && new_sas tunnel "$GCM" &&
	ping_b "$IN_A" "$IN_B" 1 56
}

tunnel_down()
{
	flush_xfrm
	disconnect_pair "$PAIR_A" "$PAIR_B"
}

# ECN was negotiated when the connection began: both SYNs say so
ecn_negotiated()
{
	local file=$TEST_DIR/syn.pcap

	capture_start "$NS_W" to_a "$file" && tunnel_up 4 && capture_stop &&
	expect "SYNs with ECN" 2 \
		"$(captured "$file" "tcp[13] & 2 != 0 and tcp[13] & 64 != 0")"
}

# The inner packets of A are marked, those of the connection are not
inner_marks()
{
	local outer=$TEST_DIR/outer.pcap

	capture_start "$NS_W" to_a "$outer" &&
	in_a "ping -q -n -I $IN_A -Q $TOS -c 3 -i 0.01 -W 20 $IN_B" &&
	capture_stop || return
	[ "$(captured "$outer" tcp)" -ge 6 ] || return
	expect "marked segments" 0 "$(captured "$outer" "tcp and ip[1] != 0")"
}

# A host's own device shows what comes out of its tunnel
inner_marks_stay()
{
	local file=$TEST_DIR/inner.pcap

	capture_start "$NS_B" veth0 "$file" "icmp" &&
	in_a "ping -q -n -I $IN_A -Q $TOS -c 3 -i 0.01 -W 20 $IN_B" &&
	capture_stop || return
	expect "marked packets of A in B" 3 \
		"$(captured "$file" "src $IN_A and ip[1] = $TOS")"
}

# An SA whose daemon wants the outer DSCP inside gets that of the segments, which
# is the network's word and not the inner packet's
outer_dscp_inside()
{
	local file=$TEST_DIR/dscp.pcap

	in_ns "$NS_A" nft -f - <<-EOF &&
	table ip dscp {
		chain output {
			type filter hook output priority mangle
			tcp dport $PORT ip dscp set ef
		}
	}
	EOF
	new_sas tunnel "$GCM" flag decap-dscp &&
	capture_start "$NS_B" veth0 "$file" "icmp" &&
	in_a "ping -q -n -I $IN_A -Q 0x28 -c 3 -i 0.01 -W 20 $IN_B" &&
	capture_stop || return
	in_ns "$NS_A" nft delete table ip dscp
	expect "packets of A with the outer DSCP" 3 \
		"$(captured "$file" "src $IN_A and ip[1] = 0xb8")"
}

retransmitted()
{
	in_ns "$NS_A" ss -Htni "dport = :$PORT" | grep -q 'retrans:[0-9]*/[3-9]'
}

# A timeout has TCP choose another label, unless it is told not to
flow_label()
{
	local file=$TEST_DIR/label.pcap labels

	capture_start "$NS_A" veth0 "$file" "tcp and dst port $PORT" &&
	ping_b "$IN_A" "$IN_B" 1 56 &&
	in_ns "$NS_W" nft -f - <<-EOF || return
	table bridge cut {
		chain forward {
			type filter hook forward priority filter
			ip6 nexthdr tcp drop
		}
	}
	EOF
	ping_lost "$IN_A" "$IN_B" 1 && wait_for retransmitted || return
	in_ns "$NS_W" nft delete table bridge cut
	ping_b "$IN_A" "$IN_B" 1 56 && capture_stop || return
	labels=$(tshark -r "$file" -Y tcp -T fields -e ipv6.flow 2>/dev/null |
		 sort -u)
	expect "flow labels" 1 "$(wc -l <<< "$labels")" &&
	[ $((labels)) -ne 0 ]
}

setup_hosts || ktap_skip_all "no hosts"
for ns in "$NS_A" "$NS_B"; do
	in_ns "$ns" sysctl -qw net.ipv4.tcp_ecn=1
done
check "a connection that both sides want ECN for" ecn_negotiated
check "its segments have no mark of an inner packet, nor ECN" inner_marks
check "the inner packets keep theirs" inner_marks_stay
check "but for an SA that is told otherwise" outer_dscp_inside
tunnel_down
check "a connection over IPv6" tunnel_up 6
check "its flow label survives timeouts" flow_label
tunnel_down
ktap_finish
