#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Two libreswan daemons and a router between them that passes neither UDP
# 500/4500 nor ESP. What they negotiate over TCP port 4500 must carry traffic,
# with nothing else on the wire and no counter moving that counts a fault.

cd "$(dirname "$0")" || exit 1
# shellcheck source=lib.sh
. ./lib.sh
# shellcheck source=libreswan_lib.sh
. ./libreswan_lib.sh
# shellcheck source=west_east.sh
. ./west_east.sh

require_root
require_tools ip nft ping socat ss tcpdump certutil
pluto_find || ktap_skip_all "no libreswan"
require_module
# A directory shared with a VM's host has no place for sockets
TEST_LOG_DIR="" test_dir
PLUTO_DIR=$TEST_DIR
ktap_plan

##############################################################################
# Certificates, and something to talk to

make_daemons()
{
	local key ns name serial=1

	pluto_ca && setup_daemons || return
	for ns in "$WEST" "$EAST"; do
		name=${ns%-*}
		for key in rsa ecdsa; do
			pluto_cert "$ns" "$name-$key" $key $((++serial)) || return
		done
	done
	start_daemons
}

start_echo()
{
	head -c 65536 /dev/urandom > "$TEST_DIR/data"
	ip netns exec "$EAST" socat TCP6-LISTEN:7,ipv6only=0,fork,reuseaddr \
		PIPE 2>/dev/null &
	wait_for listens "$EAST" 7
}

listens()
{
	in_ns "$1" ss -Hltn "sport = :$2" | grep -q .
}

##############################################################################
# What a connection has to do

# On the router's link to east: what passed it
watch_start()
{
	counters_save "$WEST" "$TEST_DIR/west.saved"
	counters_save "$EAST" "$TEST_DIR/east.saved"
	capture_start "$ROUTER" east "$TEST_DIR/wire.pcap"
}

watch_stop()
{
	local others

	capture_stop || return
	[ "$(captured "$TEST_DIR/wire.pcap" "tcp port 4500")" -gt 0 ] ||
		{ echo "no TCP port 4500 on the wire"; return 1; }
	others=$(captured "$TEST_DIR/wire.pcap" "not tcp port 4500 and $NOT_ND")
	[ "$others" -eq 0 ] && return
	echo "$others packets of other protocols on the wire:"
	tcpdump -n -c 10 -r "$TEST_DIR/wire.pcap" \
		"not tcp port 4500 and $NOT_ND" 2>/dev/null
	return 1
}

# counters_fine [NAME...]: ESP and IKE moved on both sides, and nothing but
# these, connections and the counters NAME
counters_fine()
{
	local host ns moved fine

	fine="^(EspTcp(In|Out)(Esp|Ike|Gro|Gso)|EspTcpConn(Opened|Closed)$(printf '|%s' "$@")) "
	for host in west east; do
		ns=${host^^}
		moved=$(counters_moved "${!ns}" "$TEST_DIR/$host.saved")
		if grep -Evq "$fine" <<< "$moved"; then
			echo "counters of $host:" "$moved"
			return 1
		fi
		for name in EspTcpInEsp EspTcpOutEsp EspTcpInIke EspTcpOutIke; do
			grep -q "^$name " <<< "$moved" && continue
			echo "$name of $host did not move:" "$moved"
			return 1
		done
	done
}

esp_frames()
{
	echo $(($(counter "$WEST" EspTcpInEsp) + $(counter "$EAST" EspTcpInEsp)))
}

# traffic WEST-ADDRESS EAST-ADDRESS: through the SAs, both ways
traffic()
{
	local src=$1 dst=$2

	in_ns "$WEST" ping -q -n -I "$src" -c 3 -i 0.05 -W 20 "$dst" &&
	in_ns "$WEST" ping -q -n -I "$src" -c 1 -s 4000 -W 20 "$dst" &&
	tcp_traffic "$src" "$dst"
}

# 64 KiB to the echo server and back again
tcp_traffic()
{
	local src=$1 dst=$2 before frames

	before=$(esp_frames)
	[[ $src != *:* ]] || src="[$src]" dst="[$dst]"
	in_ns "$WEST" timeout 60 socat -t 60 - "TCP:$dst:7,bind=$src" \
		< "$TEST_DIR/data" | cmp - "$TEST_DIR/data" || return
	frames=$(($(esp_frames) - before))
	[ $frames -gt 90 ] || { echo "only $frames ESP frames"; return 1; }
}

sas_are_tcp()
{
	local count

	for ns in "$WEST" "$EAST"; do
		count=$(ip -n "$ns" xfrm state |
			grep -c 'encap type espintcp .*port 4500')
		[ "$count" -eq 2 ] && continue
		echo "$count SAs with TCP encapsulation in $ns"
		ip -n "$ns" xfrm state
		return 1
	done
}

# all_gone: neither SAs nor connections are left
all_gone()
{
	for ns in "$WEST" "$EAST"; do
		! ip -n "$ns" xfrm state | grep -q . || return
		! in_ns "$ns" ss -Htn state established \
			"( sport = :4500 or dport = :4500 )" | grep -q . || return
	done
}

# unload CONN: forget it on both sides
unload()
{
	pluto_forget "$WEST" "$1"
	pluto_forget "$EAST" "$1"
	wait_for all_gone && return
	echo "SAs or connections are left:"
	for ns in "$WEST" "$EAST"; do
		ip -n "$ns" xfrm state
		in_ns "$ns" ss -tn
	done
	return 1
}

# tunnel CONN INITIATOR WEST-ADDRESS EAST-ADDRESS: up and traffic
tunnel()
{
	bring_up "$2" "$1" && sas_are_tcp && traffic "$3" "$4"
}

# transport CONN WEST-ADDRESS EAST-ADDRESS
transport()
{
	bring_up "$WEST" "$1" && sas_are_tcp && tcp_traffic "$2" "$3"
}

# point TEXT CONN COMMAND...: with the wire and the counters watched, the
# command must succeed and all be gone afterwards
point()
{
	local text=$1 conn=$2

	shift 2
	check "$text" watched "$conn" "$@"
}

watched()
{
	local conn=$1 status=0

	shift
	watch_start || return
	"$@" || status=1
	unload "$conn" || status=1
	watch_stop || status=1
	# shellcheck disable=SC2086 # a list
	counters_fine ${ALSO_FINE:-} || status=1
	[ $status -eq 0 ] || show_logs
	return $status
}

##############################################################################
# Points

# shellcheck disable=SC2086 # lists of lines
test_basics()
{
	load psk4 left=$WEST4 right=$EAST4 $SUBNETS4 $PSK $TCP
	point "PSK, IPv4" psk4 \
		tunnel psk4 "$WEST" $WEST4_IN $EAST4_IN
	load psk4-east left=$WEST4 right=$EAST4 $SUBNETS4 $PSK $TCP
	point "PSK, IPv4, the other side begins" psk4-east \
		tunnel psk4-east "$EAST" $WEST4_IN $EAST4_IN
	load psk6 left=$WEST6 right=$EAST6 $SUBNETS6 $PSK $TCP
	point "PSK, IPv6" psk6 \
		tunnel psk6 "$WEST" $WEST6_IN $EAST6_IN
	load psk46 left=$WEST6 right=$EAST6 $SUBNETS4 $PSK $TCP
	point "PSK, IPv4 in IPv6" psk46 \
		tunnel psk46 "$WEST" $WEST4_IN $EAST4_IN
}

# shellcheck disable=SC2086 # lists of lines
test_certificates()
{
	local key lines

	for key in rsa ecdsa; do
		lines="left=$WEST4 right=$EAST4 $SUBNETS4 $TCP"
		lines+=" authby=$key-sha2 leftca=%same rightca=%same"
		lines+=" leftid=@west-$key.test rightid=@east-$key.test"
		# Each has its own certificate and gets to see the other's
		pluto_conn "$WEST" cert-$key $lines leftcert=west-$key
		pluto_conn "$EAST" cert-$key $lines rightcert=east-$key
		point "certificates, $key" cert-$key \
			tunnel cert-$key "$WEST" $WEST4_IN $EAST4_IN
	done
}

# UDP comes to nothing in the router, where it is counted, and TCP takes over
fallback()
{
	local before

	before=$(blocked "$ROUTER" udp500)
	whack "$WEST" --name fallback --initiate --asynchronous
	wait_for pluto_established "$WEST" fallback &&
	wait_for pluto_established "$EAST" fallback ||
		{ echo "no tunnel"; return 1; }
	sas_are_tcp && traffic $WEST4_IN $EAST4_IN || return
	[ "$(blocked "$ROUTER" udp500)" -gt "$before" ] ||
		{ echo "UDP was not tried"; return 1; }
}

# shellcheck disable=SC2086 # lists of lines
test_fallback()
{
	load fallback left=$WEST4 right=$EAST4 $SUBNETS4 $PSK ikev2=insist \
		enable-tcp=fallback tcp-remoteport=4500 \
		retransmit-timeout=3s retransmit-interval=500
	point "fallback from UDP" fallback fallback
}

serials_differ()
{
	[ -n "$(pluto_serials "$WEST" "$1" "$2")" ] &&
	[ "$(pluto_serials "$WEST" "$1" "$2")" != "$3" ]
}

# rekeyed CONN IKE|CHILD: traffic, rekey, traffic
rekeyed()
{
	local conn=$1 what=$2 before

	tunnel "$conn" "$WEST" $WEST4_IN $EAST4_IN || return
	before=$(pluto_serials "$WEST" "$conn" "$what")
	pluto_rekey "$WEST" "$conn" "$what" || return
	wait_for serials_differ "$conn" "$what" "$before" ||
		{ echo "still state $before"; return 1; }
	# The old SAs go once the peer agrees that they do
	wait_for sas_are_tcp || { sas_are_tcp; return 1; }
	traffic $WEST4_IN $EAST4_IN
}

# shellcheck disable=SC2086 # lists of lines
test_rekey()
{
	load rekey-ipsec left=$WEST4 right=$EAST4 $SUBNETS4 $PSK $TCP
	point "rekey of the child SA" rekey-ipsec \
		rekeyed rekey-ipsec CHILD
	load rekey-ike left=$WEST4 right=$EAST4 $SUBNETS4 $PSK $TCP
	point "rekey of the IKE SA" rekey-ike \
		rekeyed rekey-ike IKE
}

pings()
{
	in_ns "$WEST" ping -q -n -I $WEST4_IN -c 1 -W 1 $EAST4_IN
}

ondemand()
{
	whack "$WEST" --name ondemand --route &&
	! pluto_established "$WEST" ondemand || return
	# The first packet asks for the tunnel and is lost on it
	wait_for pings || { echo "no tunnel came of it"; return 1; }
	sas_are_tcp && traffic $WEST4_IN $EAST4_IN
}

# shellcheck disable=SC2086 # lists of lines
test_ondemand()
{
	load ondemand left=$WEST4 right=$EAST4 $SUBNETS4 $PSK $TCP
	# What comes meanwhile has no SA, or is blocked: the daemon's choice
	ALSO_FINE="XfrmOutNoStates XfrmOutPolBlock" point "on demand" ondemand ondemand
}

# The connection that carries the SAs has to stay out of their selectors: a
# daemon connects before it can tell its socket to bypass them
readonly TO_ECHO="type=transport leftprotoport=tcp rightprotoport=tcp/7"

# shellcheck disable=SC2086 # lists of lines
test_transport()
{
	load transport4 left=$WEST4 right=$EAST4 $TO_ECHO $PSK $TCP
	point "transport mode, IPv4" transport4 \
		transport transport4 $WEST4 $EAST4
	load transport6 left=$WEST6 right=$EAST6 $TO_ECHO $PSK $TCP
	point "transport mode, IPv6" transport6 \
		transport transport6 $WEST6 $EAST6
}

# libreswan 4.10 answers TS_UNACCEPTABLE to transport mode through a NAT, whatever
# carries it; nat.sh has that with SAs set up by hand.

# through_nat COMMAND...: and the other side of the NAT is what east sees
through_nat()
{
	"$@" &&
	ip -n "$EAST" xfrm state | grep -q "src $NAT4 dst $EAST4" ||
		{ echo "the NAT did not hide west"; return 1; }
}

# shellcheck disable=SC2086 # lists of lines
test_nat()
{
	in_ns "$ROUTER" nft -f - <<-EOF
	table ip nat {
		chain postrouting {
			type nat hook postrouting priority srcnat
			oif east ip saddr $WEST4 masquerade random
		}
	}
	EOF
	pluto_conn "$WEST" nat left=$WEST4 right=$EAST4 $SUBNETS4 $PSK $TCP
	pluto_conn "$EAST" nat left=%any right=$EAST4 $SUBNETS4 $PSK $TCP
	point "tunnel through a NAT" nat \
		through_nat tunnel nat "$WEST" $WEST4_IN $EAST4_IN
	in_ns "$ROUTER" nft delete table ip nat
}

reconnect()
{
	local round

	for round in 1 2 3; do
		tunnel reconnect "$WEST" $WEST4_IN $EAST4_IN || return
		whack "$WEST" --name reconnect --terminate > /dev/null
		wait_for all_gone ||
			{ echo "round $round: SAs are left"; return 1; }
	done
	# And with the sides changed
	tunnel reconnect "$EAST" $WEST4_IN $EAST4_IN
}

# The daemon goes without a word: its sockets close, its SAs go with the
# next one's initial contact
peer_restarts()
{
	tunnel restart "$WEST" $WEST4_IN $EAST4_IN || return
	kill -KILL "$(pluto_pid "$EAST")"
	wait_for pluto_gone "$(pluto_pid "$EAST")" || return
	pluto_start_anew "$EAST" restart || return
	pluto_drop "$WEST" restart
	wait_for all_gone || { echo "SAs are left"; return 1; }
	tunnel restart "$WEST" $WEST4_IN $EAST4_IN
}

# shellcheck disable=SC2086 # lists of lines
test_reconnect()
{
	load reconnect left=$WEST4 right=$EAST4 $SUBNETS4 $PSK $TCP
	point "delete and reconnect" reconnect reconnect
	load restart left=$WEST4 right=$EAST4 $SUBNETS4 $PSK $TCP
	point "the peer's daemon is killed and comes back" restart peer_restarts
}

on_exit keep_logs
make_hosts && start_echo || ktap_skip_all "no hosts"
check "two daemons" make_daemons || ktap_finish
for test in ${LIBRESWAN_TESTS:-basics certificates fallback rekey ondemand
	    transport nat reconnect}; do
	"test_$test"
done
ktap_finish
