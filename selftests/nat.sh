#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Transport mode behind a NAT: the receiver gets packets whose TCP checksum was
# made for an address that it never sees, and has to take them all the same.

cd "$(dirname "$0")" || exit 1
# shellcheck source=lib.sh
. ./lib.sh
# shellcheck source=xfrm_lib.sh
. ./xfrm_lib.sh

require_root
require_tools ip nft socat ss
require_module
# Captures and sockets want a directory of this machine, not a shared one
TEST_LOG_DIR="" test_dir
ktap_plan

HIDDEN=192.0.2.1 NAT=198.51.100.254 PEER=198.51.100.1

make_hosts()
{
	setup_ns NS_A NS_B NS_W &&
	in_ns "$NS_W" sysctl -qw net.ipv4.ip_forward=1 &&
	ip link add name to_a netns "$NS_W" type veth \
		peer name veth0 netns "$NS_A" &&
	ip link add name to_b netns "$NS_W" type veth \
		peer name veth0 netns "$NS_B" &&
	setup_addresses "$NS_A" veth0 $HIDDEN/24 &&
	setup_addresses "$NS_W" to_a 192.0.2.254/24 &&
	setup_addresses "$NS_W" to_b $NAT/24 &&
	setup_addresses "$NS_B" veth0 $PEER/24 &&
	ip -n "$NS_A" route add default via 192.0.2.254 &&
	in_ns "$NS_W" nft -f - <<-EOF &&
	table ip nat {
		chain postrouting {
			type nat hook postrouting priority srcnat
			oif to_b masquerade random
		}
	}
	EOF
	start_holders && flush_xfrm && start_echo
}

# connect_pair, but of these addresses; $PORT_NAT is A's port as B sees it
connect_through_nat()
{
	# shellcheck disable=SC2034 # outer reads it
	local V4_A=$HIDDEN V4_B=$PEER

	connect_pair 4 -r || return
	PORT_NAT=$(sed -n 's/^ready [0-9]* \([0-9]*\)/\1/p' "$TEST_DIR/pair4.b")
	[ "$PORT_NAT" != "$PORT_A" ]
}

# sas NS ADDRESS PORT: those of a host that has A at this address and port
sas()
{
	{
		sa_line "$2" $PEER $SPI_AB "$3" $PORT mode transport "$GCM"
		sa_line $PEER "$2" $SPI_BA $PORT "$3" mode transport "$GCM"
	} | ip -n "$1" -batch -
}

# policies NS ADDRESS TO-B FROM-B: TCP to the echo server and back
policies()
{
	local tmpl="proto esp reqid 1 mode transport"

	ip -n "$1" -batch - <<-EOF
	xfrm policy add src $2 dst $PEER proto tcp dport 7 dir $3 tmpl src $2 dst $PEER $tmpl
	xfrm policy add src $PEER dst $2 proto tcp sport 7 dir $4 tmpl src $PEER dst $2 $tmpl
	EOF
}

protect()
{
	sas "$NS_A" $HIDDEN "$PORT_A" && sas "$NS_B" $NAT "$PORT_NAT" &&
	policies "$NS_A" $HIDDEN out in && policies "$NS_B" $NAT in out
}

tcp_through_nat()
{
	local ab ba

	save_counters
	tcp_b $HIDDEN $PEER && wait_for frames_agree || return
	read_sas "$NS_A"
	ab=${SA_PACKETS[$SPI_AB]} ba=${SA_PACKETS[$SPI_BA]}
	[ "$ab" -gt 40 ] || { echo "only $ab packets"; return 1; }
	expect_moved A "EspTcpInEsp +$ba EspTcpOutEsp +$ab" &&
	expect_moved B "EspTcpInEsp +$ab EspTcpOutEsp +$ba"
}

no_bad_checksums()
{
	expect "bad checksums in A" "0 0" "$(checksum_errors "$HOLD_A")" &&
	expect "bad checksums in B" "0 0" "$(checksum_errors "$HOLD_B")"
}

# TcpInCsumErrors, UdpInCsumErrors
checksum_errors()
{
	awk '$1 == "Tcp:" || $1 == "Udp:" {
		if (!n[$1]++)
			for (i = 1; i <= NF; i++)
				col[$1, $i] = i
		else
			printf "%s%s", sep, $col[$1, "InCsumErrors"]
		if (n[$1] == 2)
			sep = " "
	}' "/proc/$1/net/snmp"
}

make_hosts || ktap_skip_all "no hosts"
check "a connection through the NAT, ports changed" connect_through_nat
check "SAs in transport mode" protect
check "TCP through them, the address translated" tcp_through_nat
check "no checksum was found bad" no_bad_checksums
ktap_finish
