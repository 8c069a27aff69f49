#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A host whose connection is in a VRF, and what comes out of its tunnels too: who
# filters at the device sees all packets, large ones as well, and sockets outside of
# the VRF are out of the peer's reach.

cd "$(dirname "$0")" || exit 1
# shellcheck source=lib.sh
. ./lib.sh
# shellcheck source=xfrm_lib.sh
. ./xfrm_lib.sh

require_root
require_tools ip nft ping socat ss sysctl
require_module
TEST_LOG_DIR="" test_dir
ktap_plan

readonly INNER_PORT=4242

# B's device goes into a VRF, and B's address inside the tunnel. Sockets that listen
# are in none: what they accept is in the VRF.
setup_vrf()
{
	local mac

	mac=$(in_ns "$NS_A" cat /sys/class/net/veth0/address)
	ip -n "$NS_B" link add vrf0 type vrf table 7 &&
	ip -n "$NS_B" link set vrf0 up &&
	ip -n "$NS_B" link set veth0 master vrf0 &&
	ip -n "$NS_B" addr del $IN4_B/32 dev lo &&
	ip -n "$NS_B" addr add $IN4_B/32 dev vrf0 &&
	ip -n "$NS_B" route add $IN4_A via $V4_A src $IN4_B table 7 &&
	ip -n "$NS_B" neigh replace $V4_A lladdr "$mac" dev veth0 &&
	in_ns "$NS_B" sysctl -qw net.ipv4.tcp_l3mdev_accept=1
}

accepted_in_vrf()
{
	# An address in a VRF is nobody's outside of it
	PAIR_LISTEN=0.0.0.0 connect_pair 4 -r &&
	in_ns "$NS_B" ss -Htn "sport = :$PORT" | grep -q "%vrf0:$PORT"
}

tunnel()
{
	set_policies tunnel "$IN_A" "$IN_B" && new_sas tunnel "$GCM" &&
	save_counters && ping_b "$IN_A" "$IN_B" 3 56 && only_esp_moved 3
}

# Large packets of B that its filters see leave by veth0
seen()
{
	in_ns "$NS_B" nft list counter inet look "$1" |
		sed -n 's/.*packets \([0-9]*\).*/\1/p'
}

filters_see_all()
{
	in_ns "$NS_B" nft -f - <<-EOF || return
	table inet look {
		counter output { }
		counter postrouting { }
		chain output {
			type filter hook output priority filter
			oifname veth0 ip saddr $IN_B meta length > 1500 counter name output
		}
		chain postrouting {
			type filter hook postrouting priority filter
			oifname veth0 ip saddr $IN_B meta length > 1500 counter name postrouting
		}
	}
	EOF
	make_more_data && save_counters && tcp_b "$IN_A" "$IN_B" || return
	moved B
	echo "B: $MOVED; output $(seen output), postrouting $(seen postrouting)"
	[[ $MOVED == *"EspTcpOutGso +"* && $MOVED != *Xfrm* ]] &&
	[ "$(seen output)" -gt 0 ] && [ "$(seen postrouting)" -gt 0 ]
}

transport()
{
	local ab="src $OUT_A dst $OUT_B proto tcp dport $INNER_PORT"
	local ba="src $OUT_B dst $OUT_A proto tcp sport $INNER_PORT"
	local tmpl="proto esp reqid 1 mode transport"

	flush_xfrm && new_sas transport "$GCM" && save_counters &&
	ip -n "$NS_A" -batch - <<-EOF &&
	xfrm policy add $ab dir out tmpl src $OUT_A dst $OUT_B $tmpl
	xfrm policy add $ba dir in tmpl src $OUT_B dst $OUT_A $tmpl
	EOF
	ip -n "$NS_B" -batch - <<-EOF || return
	xfrm policy add $ba dir out tmpl src $OUT_B dst $OUT_A $tmpl
	xfrm policy add $ab dir in tmpl src $OUT_A dst $OUT_B $tmpl
	EOF
	ip netns exec "$NS_B" socat TCP4-LISTEN:$INNER_PORT,fork,reuseaddr PIPE &
	on_exit kill $!
	wait_for listens && talk
}

listens()
{
	in_ns "$NS_B" ss -Hltn "sport = :$INNER_PORT" | grep -q .
}

talk()
{
	local said

	said=$(echo hello | in_ns "$NS_A" socat -t 20 - "TCP4:$OUT_B:$INNER_PORT" 2>&1)
	echo "$said"
	[ "$said" = hello ]
}

# What comes by the SA is in the VRF, as what comes without. The last packets of the
# connection before are not what is counted.
not_from_vrf()
{
	local said

	wait_for connections_gone $INNER_PORT && wait_for frames_agree &&
	in_ns "$NS_B" sysctl -qw net.ipv4.tcp_l3mdev_accept=0 && save_counters &&
	said=$(talk)
	echo "$said"
	[[ $said == *"Connection refused"* ]] &&
	expect_moved B "EspTcpInEsp +1 EspTcpOutEsp +1"
}

setup_hosts && outer 4 && inner 4 || ktap_skip_all "no hosts"
setup_vrf || ktap_skip_all "no VRF"
start_echo || ktap_fail "an echo server"
check "a connection in a VRF" accepted_in_vrf || ktap_finish
check "a tunnel in it" tunnel
check "filters of the device see its large packets" filters_see_all
check "transport mode, and a socket that listens for all VRFs" transport
check "one that does not is out of reach" not_from_vrf
flush_xfrm
disconnect_pair "$PAIR_A" "$PAIR_B"
ktap_finish
