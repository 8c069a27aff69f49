#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Two libreswan daemons whose connection gets into trouble while a ping and iperf3
# run through the tunnel, 20 ms there and back: the path is blocked for a while, a
# NAT forgets it, an end of it is reset, the client moves, the path blocks UDP, then
# TCP, then neither. Both have to go on, the first packet that gets through has to be
# answered, and nothing may be in clear on the wire meanwhile. How many packets were
# lost, and how long it took, is printed.
#
# libreswan does not connect anew when it lost its connection: an administrator,
# here the test, takes the tunnel down, and the next packet, or the test, asks for it
# again.

cd "$(dirname "$0")" || exit 1
# shellcheck source=lib.sh
. ./lib.sh
# shellcheck source=libreswan_lib.sh
. ./libreswan_lib.sh
# shellcheck source=west_east.sh
. ./west_east.sh

require_root
require_tools conntrack ip iperf3 nft ping ss tc tcpdump certutil
pluto_find || ktap_skip_all "no libreswan"
require_module
# A directory shared with a VM's host has no place for sockets
TEST_LOG_DIR="" test_dir
PLUTO_DIR=$TEST_DIR
ktap_plan

WEST4_NEW=192.0.2.77

# What the client is told; the responder takes either from the beginning. A daemon
# that is emulated on a busy machine takes seconds to answer, where UDP gets through.
CONN="right=$EAST4 $SUBNETS4 $PSK $TCP"
EITHER="right=$EAST4 $SUBNETS4 $PSK ikev2=insist enable-tcp=fallback
	tcp-remoteport=4500 encapsulation=yes
	retransmit-timeout=20s retransmit-interval=500"

# What must not be on the wire
IN_CLEAR="net 10.0.0.0/8"
TCP_ONLY="$IN_CLEAR or esp or udp port 500 or udp port 4500"

##############################################################################
# The ping

start_ping()
{
	ip netns exec "$WEST" ping -n -D -I $WEST4_IN -i 0.02 $EAST4_IN \
		> "$TEST_DIR/ping" 2>&1 &
	on_exit kill $!
}

# The requests as the responder's host decrypts them, with their times
watch_requests()
{
	ip netns exec "$EAST" tcpdump -i eth0 -l -n -tt \
		"icmp[icmptype] == icmp-echo and dst host $EAST4_IN" \
		> "$TEST_DIR/requests" 2> "$TEST_DIR/requests.log" &
	on_exit kill $!
	wait_for grep -q "listening on" "$TEST_DIR/requests.log"
}

# first_request SINCE: sequence number and time of the first that got through
first_request()
{
	sed -n 's/^\([0-9.]*\) .* seq \([0-9]*\),.*/\2 \1/p' "$TEST_DIR/requests" |
		awk -v since="$1" '$2 > since { print; exit }'
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
# the end. The first request that got through has to have its answer: nobody but
# the kernel says which connection that goes out on.
report()
{
	local request

	request=$(first_request "$2")
	answers "$2" | grep -q "^${request% *} " ||
		{ echo "no answer to the first request that came, $request"; return 1; }
	answers | awk -v text="$1" -v since="$2" -v request="$request" '
		BEGIN { split(request, came) }
		$1 == came[1] { took = $2 - came[2] }
		$2 <= since { last = $1; next }
		!n++ { first = $1; at = $2 }
		prev && $1 > prev + 1 { lost += $1 - prev - 1 }
		{ prev = $1 }
		END {
			if (first > last)
				lost += first - last - 1
			printf "%s: %d packets lost, the next answer after " \
				"%.2f s, %.0f ms after the first to get through\n",
				text, lost, at - since, took * 1000
		}' >> "$TEST_DIR/report"
}

##############################################################################
# iperf3

# One TCP connection for all of the test. Its rate is nothing to a real processor,
# and leaves an emulated one time for the daemons.
start_flow()
{
	# It would give up after two minutes without data, by itself.
	ip netns exec "$EAST" iperf3 -s -B $EAST4_IN --rcv-timeout 86400000 \
		> "$TEST_DIR/iperf3-server" 2>&1 &
	on_exit kill $!
	wait_for listening "$EAST" 5201 || return
	ip netns exec "$WEST" iperf3 -c $EAST4_IN -B $WEST4_IN -b 500K -l 1K -t 86400 \
		> "$TEST_DIR/iperf3" 2>&1 &
	on_exit kill $!
	wait_for flow_beyond 10000
}

listening()
{
	[ -n "$(in_ns "$1" ss -Htln "sport = :$2")" ]
}

# What the server's TCP received, of control messages too
flow_octets()
{
	in_ns "$EAST" ss -Htin state established "sport = :5201" |
		sed -n 's/.* bytes_received:\([0-9]*\).*/\1/p' |
		awk '{ sum += $1 } END { print sum + 0 }'
}

flow_beyond()
{
	[ "$(flow_octets)" -gt "$1" ]
}

flow_goes_on()
{
	wait_for flow_beyond $(($(flow_octets) + 10000)) && return
	echo "iperf3 does not go on"
	tail -n 5 "$TEST_DIR/iperf3"
	return 1
}

##############################################################################
# Trouble

# watch_start FILTER: what must not be seen on the router's link to the client
watch_start()
{
	capture_start "$ROUTER" west "$TEST_DIR/clear.pcap" "$1"
}

watch_stop()
{
	capture_stop || return
	tcpdump -n -c 3 -r "$TEST_DIR/clear.pcap" 2>/dev/null
	expect "packets that must not be there" 0 "$(captured "$TEST_DIR/clear.pcap" "")"
}

# goes_on TEXT SINCE
goes_on()
{
	wait_for answered "$2" || { echo "no answer"; return 1; }
	report "$1" "$2" && flow_goes_on
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

# asks_again CONN: what an administrator does; the next packet asks for the tunnel
asks_again()
{
	pluto_drop "$WEST" "$1"
	whack "$WEST" --name "$1" --route > /dev/null
}

# goes_on_after_down TEXT: once the connection is gone
goes_on_after_down()
{
	local since

	wait_for connection_gone && wait_for quiet || return
	since=$EPOCHREALTIME
	asks_again road
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
	asks_again road
	goes_on "$1" "$since"
}

# over KIND: both SAs are encapsulated so
over()
{
	[ "$(ip -n "$WEST" xfrm state | grep -c "encap type $1 ")" -eq 2 ] && return
	ip -n "$WEST" xfrm state
	return 1
}

# again_over KIND TEXT: an administrator sees that nothing comes back. libreswan 5
# does not fall back for a packet that asks for a tunnel.
again_over()
{
	local since

	wait_for quiet || return
	since=$EPOCHREALTIME
	pluto_drop "$WEST" either
	whack "$WEST" --name either --initiate --asynchronous > /dev/null
	goes_on "$2" "$since" && wait_for over "$1"
}

# libreswan 4.10's responder has crashed by now, mostly at the end of the move, when
# it takes SAs down whose connection is no more.
# shellcheck disable=SC2086 # lists of lines
udp_first()
{
	local since

	pluto_forget "$WEST" road
	pluto_stop "$EAST"
	pluto_start_anew "$EAST" road && wait_for quiet || return
	since=$EPOCHREALTIME
	in_ns "$ROUTER" nft delete table inet block_udp_esp
	pluto_conn "$WEST" either left=%defaultroute $EITHER &&
	whack "$WEST" --name either --route > /dev/null &&
	goes_on "$1" "$since" && wait_for over espinudp
}

blocks_udp()
{
	block_udp_esp "$ROUTER" forward && again_over espintcp "$1"
}

blocks_tcp()
{
	in_ns "$ROUTER" nft delete table inet block_udp_esp &&
	block_tcp && again_over espinudp "$1"
}

# There is nothing to do
blocks_neither()
{
	local since=$EPOCHREALTIME

	in_ns "$ROUTER" nft delete table inet block_tcp &&
	goes_on "$1" "$since" && over espinudp
}

# trouble TEXT COMMAND: with the wire watched
trouble()
{
	watch_start "${WIRE:-$TCP_ONLY}" || return
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

# block_clear NS NET: while the daemon has no policy either. What an administrator
# does who wants nothing to leave in clear
block_clear()
{
	in_ns "$1" nft -f - <<-EOF
	table inet no_clear {
		chain output {
			type filter hook output priority filter
			ip daddr $2 rt ipsec missing drop
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
	masquerade 20000-29999 &&
	block_clear "$WEST" 10.2.0.0/24 && block_clear "$EAST" 10.1.0.0/24 &&
	pluto_conn "$WEST" road left=%defaultroute $CONN &&
	pluto_conn "$EAST" road left=%any $EITHER &&
	whack "$WEST" --name road --route > /dev/null &&
	watch_requests && start_ping && wait_for answered 0
}

on_exit keep_logs
make_hosts || ktap_skip_all "no hosts"
check "two daemons" eval "setup_daemons && start_daemons" || ktap_finish
check "a tunnel through a NAT, and a ping in it" tunnel_up || ktap_finish
check "iperf3 in it" start_flow || ktap_finish
for text in "the path is blocked for a while:blocked_for_a_while" \
	    "the NAT forgets the connection:nat_rebinds" \
	    "the responder's end is reset:peer_resets" \
	    "the client moves to another address:client_moves"; do
	check "${text%:*}" trouble "${text%:*}" "${text#*:}"
done
for text in "the responder starts anew, UDP gets through:udp_first" \
	    "the path blocks UDP:blocks_udp" \
	    "the path blocks TCP:blocks_tcp" \
	    "the path blocks neither:blocks_neither"; do
	WIRE=$IN_CLEAR check "${text%:*}" trouble "${text%:*}" "${text#*:}"
done
while read -r line; do
	ktap_note "$line"
done < "$TEST_DIR/report"
ktap_finish
