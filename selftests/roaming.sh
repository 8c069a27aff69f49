#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Two libreswan daemons whose connection gets into trouble while a ping runs
# through the tunnel, 20 ms there and back: the path is blocked for a while, a NAT
# forgets it, an end of it is reset, the client moves. The ping has to go on, with
# nothing in clear on the wire meanwhile; how much of it was lost is printed.
#
# libreswan does not connect anew when it lost its connection: an administrator,
# here the test, takes the tunnel down, and the next packet asks for it again.

cd "$(dirname "$0")" || exit 1
# shellcheck source=lib.sh
. ./lib.sh
# shellcheck source=libreswan_lib.sh
. ./libreswan_lib.sh
# shellcheck source=west_east.sh
. ./west_east.sh

require_root
require_tools conntrack ip nft ping ss tc tcpdump certutil
pluto_find || ktap_skip_all "no libreswan"
require_module
# A directory shared with a VM's host has no place for sockets
TEST_LOG_DIR="" test_dir
PLUTO_DIR=$TEST_DIR
ktap_plan

WEST4_NEW=192.0.2.77

CONN="right=$EAST4 $SUBNETS4 $PSK $TCP"

##############################################################################
# The ping

start_ping()
{
	ip netns exec "$WEST" ping -n -D -I $WEST4_IN -i 0.02 $EAST4_IN \
		> "$TEST_DIR/ping" 2>&1 &
	on_exit kill $!
}

# answers [SINCE]: sequence numbers and times of answers, since then
answers()
{
	sed -n 's/^\[\([0-9.]*\)\].*icmp_seq=\([0-9]*\) .*time=.*/\2 \1/p' \
		"$TEST_DIR/ping" | awk -v since="${1:-0}" '$2 > since'
}

# answered SINCE: packets that were sent since then
answered()
{
	[ "$(answers "$1" | wc -l)" -gt 20 ]
}

# quiet SINCE: nothing came for a while
quiet()
{
	local before

	before=$(answers | wc -l)
	sleep 1
	[ "$before" -eq "$(answers | wc -l)" ]
}

# report TEXT SINCE: what was lost around the time, and when it went on. Shown at
# the end.
report()
{
	answers | awk -v text="$1" -v since="$2" '
		$2 <= since { last = $1; next }
		!n++ { first = $1; at = $2 }
		prev && $1 > prev + 1 { lost += $1 - prev - 1 }
		{ prev = $1 }
		END {
			if (first > last)
				lost += first - last - 1
			printf "%s: %d packets lost, the next answer after %.2f s\n",
				text, lost, at - since
		}' >> "$TEST_DIR/report"
}

##############################################################################
# Trouble

# Packets that belong into the tunnel, on the router's link to the client
watch_start()
{
	capture_start "$ROUTER" west "$TEST_DIR/clear.pcap" \
		"net 10.0.0.0/8 or esp or udp port 500 or udp port 4500"
}

watch_stop()
{
	capture_stop || return
	expect "packets outside of TCP" 0 "$(captured "$TEST_DIR/clear.pcap" "")"
}

# goes_on TEXT SINCE
goes_on()
{
	wait_for answered "$2" || return
	report "$1" "$2"
}

block_tcp()
{
	in_ns "$ROUTER" nft -f - <<-EOF
	table inet block_tcp {
		chain forward {
			type filter hook forward priority filter
			tcp sport 4500 drop
			tcp dport 4500 drop
		}
	}
	EOF
}

# Shorter than the daemons wait: TCP itself goes on where it was
blocked_for_a_while()
{
	local since

	block_tcp && wait_for quiet && since=$EPOCHREALTIME &&
	in_ns "$ROUTER" nft delete table inet block_tcp &&
	goes_on "$1" "$since"
}

# goes_on_after_down TEXT: once the connection is gone
goes_on_after_down()
{
	local since

	wait_for connection_gone && wait_for quiet || return
	since=$EPOCHREALTIME
	whack "$WEST" --name road --terminate > /dev/null
	goes_on "$1" "$since"
}

# Its port changes in the middle of the connection, of which the responder knows
# nothing: it resets what it gets from there
nat_rebinds()
{
	in_ns "$ROUTER" nft delete table ip nat
	masquerade 30000-39999
	in_ns "$ROUTER" conntrack -D -p tcp > /dev/null 2>&1
	goes_on_after_down "$1"
}

connection_gone()
{
	[ -z "$(in_ns "$WEST" ss -Htn state established "dport = :4500")" ]
}

peer_resets()
{
	in_ns "$EAST" ss -K "sport = :4500" > /dev/null
	goes_on_after_down "$1"
}

client_moves()
{
	local since

	ip -n "$WEST" addr del $WEST4/24 dev eth0
	ip -n "$WEST" addr add $WEST4_NEW/24 dev eth0
	ip -n "$WEST" route replace default via 192.0.2.254
	whack "$WEST" --listen > /dev/null
	wait_for quiet || return
	since=$EPOCHREALTIME
	pluto_reload "$WEST" road
	whack "$WEST" --name road --route > /dev/null
	goes_on "$1" "$since"
}

# trouble TEXT COMMAND: with the wire watched
trouble()
{
	watch_start || return
	"$2" "$1" || { watch_stop; show_logs; return 1; }
	watch_stop
}

##############################################################################

# masquerade PORTS
masquerade()
{
	in_ns "$ROUTER" nft -f - <<-EOF
	table ip nat {
		chain postrouting {
			type nat hook postrouting priority srcnat
			oif east ip saddr 192.0.2.0/24 tcp dport 4500 masquerade to :$1
		}
	}
	EOF
}

# While the daemon has no policy either: what an administrator does who wants
# nothing to leave in clear
block_clear()
{
	in_ns "$WEST" nft -f - <<-EOF
	table inet no_clear {
		chain output {
			type filter hook output priority filter
			ip daddr 10.2.0.0/24 rt ipsec missing drop
		}
	}
	EOF
}

# shellcheck disable=SC2086 # lists of lines
tunnel_up()
{
	local dev

	for dev in west east; do
		tc -n "$ROUTER" qdisc add dev $dev root netem delay 10ms
	done
	masquerade 20000-29999 && block_clear &&
	pluto_conn "$WEST" road left=%defaultroute $CONN &&
	pluto_conn "$EAST" road left=%any $CONN &&
	whack "$WEST" --name road --route > /dev/null && start_ping && wait_for answered 0
}

on_exit keep_logs
make_hosts || ktap_skip_all "no hosts"
check "two daemons" eval "setup_daemons && start_daemons" || ktap_finish
check "a tunnel through a NAT, and a ping in it" tunnel_up || ktap_finish
for text in "the path is blocked for a while:blocked_for_a_while" \
	    "the NAT forgets the connection:nat_rebinds" \
	    "the responder's end is reset:peer_resets" \
	    "the client moves to another address:client_moves"; do
	check "${text%:*}" trouble "${text%:*}" "${text#*:}"
done
while read -r line; do
	ktap_note "$line"
done < "$TEST_DIR/report"
ktap_finish
