#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Frames of an SA leave in sequence-number order, so that a receiver with a
# replay window of 1 drops none, however many processors send and though the
# crypto works asynchronously and on all of them.

cd "$(dirname "$0")" || exit 1
# shellcheck source=lib.sh
. ./lib.sh
# shellcheck source=xfrm_lib.sh
. ./xfrm_lib.sh

require_root
require_tools ip iperf3 modprobe
require_module
test_dir
ktap_plan

GCM="aead rfc4106(gcm(aes)) 0x$(printf '%040d' 7) 128"
FLOWS=4
OCTETS=2M

# Outgoing UDP as fast as the sockets take it: flows on all processors. None of them has
# enough in its socket to fill the queue, which loses the datagram that begins another.
flood()
{
	local port pids=() pid status=0

	for port in $(seq 5301 $((5300 + FLOWS))); do
		ip netns exec "$NS_B" iperf3 -s -1 -p "$port" > /dev/null 2>&1 &
		pids+=($!)
		wait_for listens "$port" || return
	done
	for port in $(seq 5301 $((5300 + FLOWS))); do
		ip netns exec "$NS_A" iperf3 -c $IN4_B -B $IN4_A -p "$port" \
			-u -b 0 -w 16K -l 1000 -n $OCTETS > /dev/null 2>&1 &
		pids+=($!)
	done
	for pid in "${pids[@]}"; do
		wait "$pid" || status=1
	done
	return $status
}

listens()
{
	in_ns "$NS_B" ss -Hltn "sport = :$1" | grep -q .
}

# The receiver takes every frame that is sent, in order
flood_in_order()
{
	local sent received status=0

	save_counters || return
	flood || { echo "the flood failed"; status=1; }
	wait_for frames_agree || { echo "frames are missing"; status=1; }
	moved A
	sent=$MOVED
	moved B
	received=$MOVED
	echo "A: $sent"
	echo "B: $received"
	[ $status -eq 0 ] && [[ $sent == *"EspTcpOutEsp +"* ]] &&
		[[ $received == *"EspTcpInEsp +"* && $received != *XfrmIn* ]]
}

in_order()
{
	new_sas tunnel "$GCM" "$@" && flood_in_order
}

# renew_sender [WORDS...]: its SA is new, and nothing has gone by it
renew_sender()
{
	ip -n "$NS_A" xfrm state delete src "$OUT_A" dst "$OUT_B" proto esp \
		spi $SPI_AB &&
	sa_line "$OUT_A" "$OUT_B" $SPI_AB "$PORT_A" $PORT mode tunnel "$@" "$GCM" |
		ip -n "$NS_A" -batch -
}

# sender_in_order TEMPLATE [WORDS...]: asynchronous is the sender alone. A receiver's
# window would see in what order its own crypto ends, on all processors.
sender_in_order()
{
	local template=$1 status

	shift
	new_sas tunnel "$GCM" "$@" && asynchronous "$template" && renew_sender "$@" &&
		set_policies tunnel "$IN_A" "$IN_B" && flood_in_order
	status=$?
	synchronous && return $status
}

# in_order_asynchronous TEMPLATE
in_order_asynchronous()
{
	local template=$1 name

	name="asynchronous crypto ($template)"
	asynchronous "$template"
	case $? in
	0)
		;;
	"$ksft_skip")
		ktap_skip "$name is what new SAs use" "no $template"
		ktap_skip "$name, replay window of 1" "likewise"
		ktap_skip "$name, ESN, replay window of 1" "likewise"
		return ;;
	*)
		ktap_fail "$name"
		return ;;
	esac
	check "$name is what new SAs use" new_sas_are_asynchronous
	synchronous || ktap_fail "$template goes again"
	check "$name, replay window of 1" sender_in_order "$template" replay-window 1
	check "$name, ESN, replay window of 1" \
		sender_in_order "$template" flag esn replay-window 1
}

setup_hosts && outer 4 && inner 4 && connect_pair 4 && flush_xfrm &&
	set_policies tunnel "$IN_A" "$IN_B" ||
	{ ktap_fail "a connection"; exit 1; }

check "replay window of 1" in_order replay-window 1
check "ESN, replay window of 1" in_order flag esn replay-window 1

in_order_asynchronous pcrypt
in_order_asynchronous cryptd
ktap_finish
