#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What a user sees with "make demo": two libreswan daemons behind a path that
# passes neither UDP 500/4500 nor ESP set up an IKEv2 tunnel over TCP port 4500
# with the kernel's own data path. Runs as root with the module loaded.
# Exit status 0 only if every part held.

set -u
cd "$(dirname "$0")" || exit 1
# shellcheck source=lib.sh
. ./lib.sh
# shellcheck source=libreswan_lib.sh
. ./libreswan_lib.sh

WEST_IP=192.0.2.1
EAST_IP=198.51.100.1
WEST_NET=10.1.0.0/24
EAST_NET=10.2.0.0/24
WEST_IN=10.1.0.1
EAST_IN=10.2.0.1
IPERF_SECONDS=${DEMO_SECONDS:-5}

# Captures and sockets want a directory of this machine, not a shared one
TEST_LOG_DIR="" test_dir
PLUTO_DIR=$TEST_DIR
LOG=$TEST_DIR/step.log
WIRE=$TEST_DIR/wire.pcap

# step TEXT COMMAND...: one line of progress, and the end of the demo with the
# reason if the command fails
step()
{
	local text=$1

	shift
	printf '  %-62s ' "$text"
	if "$@" > "$LOG" 2>&1; then
		echo "ok"
		return
	fi
	echo "FAILED"
	give_up "$@"
}

give_up()
{
	local ns

	echo
	echo "  What \"$*\" said:"
	tail -n 20 "$LOG" | sed 's/^/    /'
	for ns in "${WEST:-}" "${EAST:-}"; do
		[ -s "$(pluto_log "$ns")" ] || continue
		echo "  The last lines of the daemon in $ns:"
		tail -n 12 "$(pluto_log "$ns")" | sed 's/^/    /'
	done
	echo
	echo "The demo FAILED."
	exit 1
}

title()
{
	printf '\n%s\n' "$1"
}

# ---------------------------------------------------------------- the scene

prerequisites()
{
	local tool

	for tool in ip nft ss tcpdump iperf3 ping socat certutil; do
		command -v $tool > /dev/null || {
			echo "$tool is not installed"
			return 1
		}
	done
	pluto_find || { echo "libreswan is not installed"; return 1; }
	grep -qw espintcp /proc/modules || {
		echo "the module espintcp is not loaded"
		return 1
	}
}

# make_host NAMESPACE DEV-IN-ROUTER ADDRESS GATEWAY INNER-ADDRESS
make_host()
{
	local ns=$1 dev=$2 addr=$3 gateway=$4 inner=$5

	ip link add "$dev" netns "$ROUTER" type veth \
		peer name eth0 netns "$ns" &&
	setup_addresses "$ROUTER" "$dev" "$gateway/24" &&
	setup_addresses "$ns" eth0 "$addr/24" &&
	setup_addresses "$ns" lo "$inner/24" &&
	ip -n "$ns" route add default via "$gateway" src "$addr"
}

make_network()
{
	local ns

	setup_ns WEST EAST ROUTER || return
	for ns in "$WEST" "$EAST" "$ROUTER"; do
		# One protocol the less to explain away on the wire
		in_ns "$ns" sysctl -qw net.ipv6.conf.all.disable_ipv6=1 \
			net.ipv6.conf.default.disable_ipv6=1 || return
	done
	in_ns "$ROUTER" sysctl -qw net.ipv4.ip_forward=1 &&
	make_host "$WEST" west $WEST_IP 192.0.2.254 $WEST_IN &&
	make_host "$EAST" east $EAST_IP 198.51.100.254 $EAST_IN &&
	in_ns "$WEST" ping -q -c 1 -W 5 $EAST_IP
}

all_blocked()
{
	echo "$(blocked "$ROUTER" udp500) $(blocked "$ROUTER" udp4500)" \
		"$(blocked "$ROUTER" esp)"
}

# Send one packet of each kind, and see each of them end in the router
probe_filter()
{
	echo x | in_ns "$WEST" socat - UDP4-SENDTO:$EAST_IP:500
	echo x | in_ns "$WEST" socat - UDP4-SENDTO:$EAST_IP:4500
	echo x | in_ns "$WEST" socat - IP4-SENDTO:$EAST_IP:50
	[ "$(all_blocked)" = "1 1 1" ] &&
	in_ns "$ROUTER" nft reset counters
}

start_daemon()
{
	pluto_setup "$1" &&
	pluto_psk "$1" "no secret at all: a demo of espintcp, and long enough for FIPS mode" &&
	pluto_start "$1"
}

start_daemons()
{
	start_daemon "$WEST" && start_daemon "$EAST"
}

add_conn()
{
	pluto_conn "$1" demo left=$WEST_IP right=$EAST_IP \
		leftsubnet=$WEST_NET rightsubnet=$EAST_NET \
		authby=secret ikev2=insist enable-tcp=yes tcp-remoteport=4500
}

bring_up()
{
	add_conn "$WEST" && add_conn "$EAST" && pluto_up "$WEST" demo &&
	pluto_established "$WEST" demo && pluto_established "$EAST" demo
}

sas_are_tcp()
{
	[ "$(ip -n "$1" xfrm state | grep -c 'encap type espintcp')" -eq 2 ]
}

ping_through()
{
	in_ns "$WEST" ping -n -c 5 -i 0.2 -W 5 -I $WEST_IN $EAST_IN \
		> "$TEST_DIR/ping.log" || { cat "$TEST_DIR/ping.log"; return 1; }
	in_ns "$WEST" ping -q -c 3 -i 0.2 -W 5 -s 4000 -I $WEST_IN $EAST_IN
}

start_iperf_server()
{
	in_ns "$EAST" iperf3 -s -B $EAST_IN -D --logfile "$TEST_DIR/iperf3-s.log"
	wait_for listening_on 5201
}

listening_on()
{
	in_ns "$EAST" ss -Hltn "sport = :$1" | grep -q LISTEN
}

iperf_through()
{
	start_iperf_server &&
	in_ns "$WEST" iperf3 -c $EAST_IN -B $WEST_IN -t "$IPERF_SECONDS" -f m \
		> "$TEST_DIR/iperf3.log" 2>&1 || { cat "$TEST_DIR/iperf3.log"; return 1; }
	[ -n "$(iperf_rate)" ]
}

iperf_rate()
{
	sed -n 's/.* \([0-9.]* Mbits\/sec\) .*receiver$/\1/p' "$TEST_DIR/iperf3.log"
}

# Frames that left and frames that came are the same number only when nothing
# is under way, so wait for that
quiet()
{
	[ "$(counter "$WEST" EspTcpOutEsp)" = "$(counter "$EAST" EspTcpInEsp)" ] &&
	[ "$(counter "$EAST" EspTcpOutEsp)" = "$(counter "$WEST" EspTcpInEsp)" ]
}

# -------------------------------------------------------------- the account

# Counting without printing each packet: there are many
on_wire()
{
	tcpdump -n --count -r "$WIRE" "$1" 2>/dev/null | cut -d ' ' -f 1
}

check_wire()
{
	TCP=$(on_wire 'tcp port 4500')
	UDP=$(on_wire 'udp port 500 or udp port 4500')
	ESP=$(on_wire 'ip proto 50')
	ARP=$(on_wire 'arp')
	OTHER=$(on_wire 'not (tcp port 4500 or udp port 500 or udp port 4500 or ip proto 50 or arp)')
	[ "$TCP" -gt 0 ] && [ "$UDP$ESP$OTHER" = 000 ]
}

nothing_blocked()
{
	[ "$(all_blocked)" = "0 0 0" ]
}

version_of_pluto()
{
	"$PLUTO_LIBEXEC/pluto" --version | cut -d ' ' -f 1,2
}

show_scene()
{
	title "What was set up"
	cat <<-EOF
	    west ------------------- router ------------------- east
	    $WEST_IP          drops UDP 500 and 4500    $EAST_IP
	    $WEST_NET              and ESP             $EAST_NET

	    kernel    $(uname -r), unmodified
	    IKE       $(version_of_pluto) in west and in east, IKEv2, PSK
	    tunnel    $WEST_NET to $EAST_NET, IKE and ESP in one TCP connection
	EOF
}

show_sas()
{
	title "The SAs in west (ip xfrm state)"
	ip -n "$WEST" xfrm state list nokeys | expand -t 4 | sed 's/^/    /'
}

show_socket()
{
	title "The socket in west (ss -ti)"
	in_ns "$WEST" ss -tiOHn "dport = :4500" | tr -s ' ' |
		fold -s -w 74 | sed 's/^/    /'
}

show_traffic()
{
	title "Through the tunnel"
	cat <<-EOF
	    ping      $(sed -n 's/^\([0-9]* packets transmitted.*\), time.*/\1/p' "$TEST_DIR/ping.log")
	    rtt       $(sed -n 's/^rtt //p' "$TEST_DIR/ping.log")
	    iperf3    $(iperf_rate) for $IPERF_SECONDS s (every instruction here is emulated)
	    ESP       $(counter "$WEST" EspTcpOutEsp) frames west to east, $(counter "$EAST" EspTcpOutEsp) east to west, none lost
	EOF
}

show_wire()
{
	title "On the wire, in packets (captured between west and the router)"
	cat <<-EOF
	    TCP port 4500              $TCP
	    UDP port 500 or 4500       $UDP
	    ESP (IP protocol 50)       $ESP
	    anything else              $OTHER  (not counting $ARP ARP)
	EOF
	title "Dropped by the router, in packets"
	cat <<-EOF
	    UDP port 500               $(blocked "$ROUTER" udp500)
	    UDP port 4500              $(blocked "$ROUTER" udp4500)
	    ESP (IP protocol 50)       $(blocked "$ROUTER" esp)  (since nobody tried; one probe of each, before
	                                  the daemons started, did not pass)
	EOF
}

socket_has_ulp()
{
	in_ns "$1" ss -tiOHn "$2 = :4500" | grep -q 'tcp-ulp-espintcp'
}

echo "espintcp: IKE and ESP over one TCP connection (RFC 9329)"
echo
step "the tools and the module are there" prerequisites
step "two hosts and a router between them" make_network
step "the router drops UDP 500, UDP 4500 and ESP" \
	block_udp_esp "$ROUTER" forward
step "one probe of each: all three dropped" probe_filter
step "a capture on the router's link to west" \
	capture_start "$ROUTER" west "$WIRE"
step "libreswan starts in west and in east" start_daemons
step "west sets up an IKEv2 tunnel to east over TCP 4500" bring_up
step "the SAs in west are encapsulated in TCP" sas_are_tcp "$WEST"
step "the SAs in east are encapsulated in TCP" sas_are_tcp "$EAST"
step "the ULP is on the socket in west" socket_has_ulp "$WEST" dport
step "the ULP is on the socket in east" socket_has_ulp "$EAST" sport
step "ping through the tunnel" ping_through
step "iperf3 through the tunnel, $IPERF_SECONDS seconds" iperf_through
step "every ESP frame that left has come" wait_for quiet
step "the capture is complete" capture_stop
step "on the wire: TCP port 4500 and nothing else" check_wire
step "nothing was left for the router to drop" nothing_blocked

show_scene
show_sas
show_socket
show_traffic
show_wire

echo
echo "Every part held."
