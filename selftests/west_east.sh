#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Two hosts, west and east, each with a libreswan daemon, and a router between
# them that passes neither UDP 500/4500 nor ESP. The caller sources lib.sh and
# libreswan_lib.sh.

# Outside and inside addresses
WEST4=192.0.2.1 EAST4=198.51.100.1 NAT4=198.51.100.254
WEST6=2001:db8:1::1 EAST6=2001:db8:2::1
WEST4_IN=10.1.0.1 EAST4_IN=10.2.0.1
WEST6_IN=fd00:1::1 EAST6_IN=fd00:2::1
SUBNETS4="leftsubnet=10.1.0.0/24 rightsubnet=10.2.0.0/24"
SUBNETS6="leftsubnet=fd00:1::/64 rightsubnet=fd00:2::/64"
PSK="authby=secret leftid=@west.test rightid=@east.test"
TCP="ikev2=insist enable-tcp=yes tcp-remoteport=4500"

##############################################################################
# The hosts

make_host()
{
	local ns=$1 dev=$2

	ip link add "$dev" netns "$ROUTER" type veth \
		peer name eth0 netns "$ns" &&
	setup_addresses "$ROUTER" "$dev" "$5" "$6" &&
	setup_addresses "$ns" eth0 "$3" "$4" &&
	ip -n "$ns" route add default via "${5%/*}" &&
	ip -n "$ns" route add default via "${6%/*}" &&
	setup_addresses "$ns" lo "$7" "$8"
}

make_hosts()
{
	setup_ns WEST EAST ROUTER &&
	in_ns "$ROUTER" sysctl -qw net.ipv4.ip_forward=1 \
		net.ipv6.conf.all.forwarding=1 &&
	make_host "$WEST" west $WEST4/24 $WEST6/64 \
		192.0.2.254/24 2001:db8:1::fe/64 $WEST4_IN/24 $WEST6_IN/64 &&
	make_host "$EAST" east $EAST4/24 $EAST6/64 \
		$NAT4/24 2001:db8:2::fe/64 $EAST4_IN/24 $EAST6_IN/64 &&
	block_udp_esp "$ROUTER" forward
}

##############################################################################
# Their daemons

setup_daemons()
{
	local ns

	for ns in "$WEST" "$EAST"; do
		pluto_setup "$ns" || return
		pluto_psk "$ns" "a secret of espintcp's tests, as long as a PRF's key wants it to be"
	done
}

start_daemons()
{
	pluto_start "$WEST" && pluto_start "$EAST"
}

# load CONN LINE...: the same description on both sides
load()
{
	pluto_conn "$WEST" "$@" && pluto_conn "$EAST" "$@"
}

# bring_up NAMESPACE CONN
bring_up()
{
	pluto_up "$1" "$2" && return
	tail -n 5 "$PLUTO_DIR/$1/whack.log"
	return 1
}

show_logs()
{
	for ns in "$WEST" "$EAST"; do
		echo "the log of ${ns%-*}:"
		tail -n "${LOG_LINES:-12}" "$(pluto_log "$ns")" | cut -c -200
	done
}

keep_logs()
{
	[ -n "${TEST_LOG_DIR:-}" ] || return 0
	for ns in "$WEST" "$EAST"; do
		cp "$(pluto_log "$ns")" "$TEST_LOG_DIR/pluto-${ns%-*}.log"
	done
}
