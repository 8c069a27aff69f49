#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# SAs that change their addresses and encapsulation while a ping runs through
# them (RFC 9329 section 7.1, RFC 4555 section 3.5): afterwards frames are on the
# new transport only, no packet was ever in clear, none is taken for a replay,
# and the ping goes on without a rekey.

cd "$(dirname "$0")" || exit 1
# shellcheck source=lib.sh
. ./lib.sh
# shellcheck source=xfrm_lib.sh
. ./xfrm_lib.sh

require_root
require_tools ip nft ping socat ss tcpdump
require_module
# Captures and sockets want a directory of this machine, not a shared one
TEST_LOG_DIR="" test_dir
ktap_plan

UDP_PORT=4501
ESPINUDP=2
ESPINTCP=7

##############################################################################
# Traffic, and what it may look like on the wire

start_ping()
{
	ip netns exec "$NS_A" ping -n -I "$IN_A" -i 0.1 "$IN_B" \
		> "$TEST_DIR/ping" 2>&1 &
	PING=$!
	on_exit kill $PING
	answers_come
}

# Answers to packets that are sent from now on
answers_come()
{
	local seq

	seq=$(sent_by_ping)
	wait_for answered_after "$seq" || { tail -n 3 "$TEST_DIR/ping"; return 1; }
}

# The last that was answered; what comes a few later was sent after now
sent_by_ping()
{
	sed -n 's/.*icmp_seq=\([0-9]*\) .*/\1/p' "$TEST_DIR/ping" | tail -n 1
}

answered_after()
{
	[ "$(sent_by_ping)" -gt $((${1:-0} + 10)) ]
}

declare -A FRAMES=(
	[tcp4]="ip and tcp port $PORT"
	[tcp6]="ip6 and tcp port $PORT"
	[udp]="udp port $UDP_PORT"
	[esp]="esp"
)

# only_on TRANSPORT: what the ping needs is on this one, and nothing is in clear.
# Connections that carry nothing may still be there.
only_on()
{
	local file=$TEST_DIR/wire.pcap other

	# What was in flight has come, and was acknowledged
	answers_come && capture_start "$NS_W" to_a "$file" && answers_come &&
	capture_stop || return
	expect "packets in clear" 0 \
		"$(captured "$file" "host $IN_A or host $IN_B")" || return
	[ "$(captured "$file" "${FRAMES[$1]}")" -gt 10 ] || return
	for other in "${!FRAMES[@]}"; do
		[ "$other" = "$1" ] ||
		expect "packets on $other" 0 \
			"$(captured "$file" "${FRAMES[$other]}")" || return
	done
}

# No packet of the SAs was taken for a replay, or failed in another way
nothing_refused()
{
	local name

	for name in XfrmInStateSeqError XfrmInStateProtoError; do
		expect "$name in A" 0 "$(counter "$NS_A" $name)" &&
		expect "$name in B" 0 "$(counter "$NS_B" $name)" || return
	done
}

##############################################################################
# Changes

# migrate NS ENCAP-TYPE PORT-A PORT-B NEW-A NEW-B: both SAs and policies of a
# host, now between $OUT_A and $OUT_B
migrate()
{
	local ns=$1 type=$2 port_a=$3 port_b=$4 a=$5 b=$6
	local ab=out ba=in

	[ "$ns" = "$NS_A" ] || ab=in ba=out
	in_ns "$ns" ./xfrm_migrate -e "$type,$port_a,$port_b" policy $ab \
		"$IN_A" "$IN_B" 1 "$OUT_A" "$OUT_B" "$a" "$b" &&
	in_ns "$ns" ./xfrm_migrate -e "$type,$port_b,$port_a" policy $ba \
		"$IN_B" "$IN_A" 1 "$OUT_B" "$OUT_A" "$b" "$a"
}

# As an IKE responder and then its initiator do it
migrate_both()
{
	migrate "$NS_B" "$@" && migrate "$NS_A" "$@" &&
	OUT_A=$4 OUT_B=$5
}

# to_connection FROM TO: from one over IPvFROM to a new one over IPvTO
to_connection()
{
	local from=$1 to=$2 a=V$2_A b=V$2_B old_a=$PAIR_A old_b=$PAIR_B

	connect_pair "$to" -r || return
	outer "$from"
	migrate_both $ESPINTCP "$PORT_A" $PORT "${!a}" "${!b}" &&
	only_on "tcp$to" || return
	disconnect_pair "$old_a" "$old_b"
}

# udp_socket NS ADDRESS: one that takes ESP in UDP
udp_socket()
{
	local log=$TEST_DIR/udp.$1

	ip netns exec "$1" ./tcp_pair -u "$2" -p $UDP_PORT > "$log" 2>&1 &
	on_exit kill $!
	wait_for grep -q listening "$log"
}

to_udp()
{
	udp_socket "$NS_A" $V4_A && udp_socket "$NS_B" $V4_B &&
	migrate_both $ESPINUDP $UDP_PORT $UDP_PORT $V4_A $V4_B &&
	only_on udp
}

# What XFRM_MSG_UPDSA may not do
updsa_refused()
{
	local words="mode tunnel flag af-unspec" line

	# shellcheck disable=SC2086 # words
	line=$(sa_line $V4_A $V4_B $SPI_AB "$PORT_A" $PORT $words "$GCM")
	! ip -n "$NS_A" xfrm state update ${line#xfrm state add } \
		2> "$TEST_DIR/error" &&
	grep -q "Invalid argument" "$TEST_DIR/error"
}

# The replay state of an SA, as "ip xfrm state add" takes it. What may have been
# sent meanwhile is skipped.
replay_state()
{
	ip -n "$1" xfrm state list spi "$2" |
		sed -n 's/.*context: seq \(0x[0-9a-f]*\), oseq \(0x[0-9a-f]*\),.*/\1 \2/p'
}

# replace NS SRC DST SPI SPORT DPORT: delete, and add with $ENCAP
replace()
{
	local ns=$1 src=$2 dst=$3 spi=$4 seq oseq

	shift
	read -r seq oseq <<< "$(replay_state "$ns" "$spi")" &&
	ip -n "$ns" xfrm state delete src "$src" dst "$dst" proto esp \
		spi "$spi" || return
	sa_line "$@" mode tunnel flag af-unspec replay-window 32 \
		replay-seq "$seq" replay-oseq $((oseq + 1000)) "$GCM" |
		ip -n "$ns" -batch -
}

replace_all()
{
	local ns

	for ns in "$NS_B" "$NS_A"; do
		replace "$ns" $V4_A $V4_B $SPI_AB "$PORT_A" $PORT &&
		replace "$ns" $V4_B $V4_A $SPI_BA $PORT "$PORT_A" || return
	done
}

to_plain()
{
	ENCAP='' replace_all && only_on esp
}

back_to_tcp()
{
	replace_all && only_on tcp4
}

##############################################################################
# XFRM_MSG_MIGRATE_STATE, which moves one SA and leaves policies to the daemon

# Of an SA that there is not, a kernel that knows the message can say so
migrate_state_known()
{
	[ "$(in_ns "$NS_A" ./xfrm_migrate state "$OUT_B" 0x7777 1 \
		"$OUT_A" "$OUT_B")" = ESRCH ]
}

# migrate_states ENCAP NEW-A NEW-B: the SAs of both hosts, then their policies.
# ENCAP is empty, or what "xfrm_migrate -e" takes and the same both ways.
migrate_states()
{
	local encap=${1:+-e $1} a=$2 b=$3 ns

	for ns in "$NS_B" "$NS_A"; do
		# shellcheck disable=SC2086 # an option
		in_ns "$ns" ./xfrm_migrate $encap state "$OUT_B" $SPI_AB 1 \
			"$a" "$b" &&
		in_ns "$ns" ./xfrm_migrate $encap state "$OUT_A" $SPI_BA 1 \
			"$b" "$a" || return
	done
	OUT_A=$a OUT_B=$b
	set_policies tunnel "$IN_A" "$IN_B"
}

state_to_tcp_refused()
{
	expect "the kernel's answer" EINVAL \
		"$(in_ns "$NS_A" ./xfrm_migrate -e "$ESPINTCP,$PORT_A,$PORT" \
			state "$OUT_B" $SPI_AB 1 "$OUT_A" "$OUT_B")" &&
	answers_come
}

# state_to_family FROM TO: the SAs keep their template, whose port of A no
# connection has there. A sends on the one it opened last, and B follows.
state_to_family()
{
	local from=$1 to=$2 a=V$2_A b=V$2_B old_a=$PAIR_A old_b=$PAIR_B

	connect_pair "$to" -r || return
	outer "$from"
	migrate_states "" "${!a}" "${!b}" && only_on "tcp$to" || return
	disconnect_pair "$old_a" "$old_b"
}

state_to_udp()
{
	migrate_states $ESPINUDP,$UDP_PORT,$UDP_PORT $V4_A $V4_B && only_on udp
}

state_to_plain()
{
	migrate_states 0,0,0 $V4_A $V4_B && only_on esp
}

test_migrate_state()
{
	if ! migrate_state_known; then
		ktap_skip "XFRM_MSG_MIGRATE_STATE" "not in this kernel"
		return
	fi
	check "XFRM_MSG_MIGRATE_STATE: TCP is refused" state_to_tcp_refused
	check "XFRM_MSG_MIGRATE_STATE: TCP from IPv4 to IPv6" \
		state_to_family 4 6
	check "XFRM_MSG_MIGRATE_STATE: TCP from IPv6 to IPv4" \
		state_to_family 6 4
	check "XFRM_MSG_MIGRATE_STATE: from TCP to UDP" state_to_udp
	check "XFRM_MSG_MIGRATE_STATE: from UDP to none" state_to_plain
}

##############################################################################

tunnel_up()
{
	connect_pair 4 -r && inner 4 && flush_xfrm &&
	set_policies tunnel "$IN_A" "$IN_B" &&
	new_sas tunnel "$GCM" replay-window 32 && start_ping
}

print_ping()
{
	kill -INT "$PING"
	wait "$PING"
	ktap_note "$(grep transmitted "$TEST_DIR/ping")"
}

setup_hosts || ktap_skip_all "no hosts"
check "a tunnel, and a ping in it" tunnel_up || ktap_finish
check "XFRM_MSG_MIGRATE: to another TCP connection" to_connection 4 4
check "XFRM_MSG_MIGRATE: from IPv4 to IPv6" to_connection 4 6
check "XFRM_MSG_MIGRATE: from IPv6 to IPv4" to_connection 6 4
check "XFRM_MSG_MIGRATE: from TCP to UDP" to_udp
check "XFRM_MSG_UPDSA: not from UDP to TCP" updsa_refused
check "delete and add: from UDP to none" to_plain
check "delete and add: from none to TCP" back_to_tcp
test_migrate_state
check "nothing was taken for a replay" nothing_refused
print_ping
ktap_finish
