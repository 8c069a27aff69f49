#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# A device that offers to do ESP does not know it in TCP. An SA that it is given
# anyway sends nothing, rather than something else than was asked for; other SAs
# do not mind what the device offers.

cd "$(dirname "$0")" || exit 1
# shellcheck source=lib.sh
. ./lib.sh
# shellcheck source=xfrm_lib.sh
. ./xfrm_lib.sh

require_root
require_tools cmp dmesg ip modprobe ping socat sysctl tcpdump
require_module
TEST_LOG_DIR="" test_dir
ktap_plan

# Of the simulated devices, by their number
readonly NSIM=/sys/bus/netdevsim
NSIM_A=71 NSIM_B=72
LOG_MARKS=0

# nsim_device NUMBER NS: there, by the name that xfrm_lib.sh knows
nsim_device()
{
	local name

	echo "$1 1" > $NSIM/new_device &&
	on_exit eval "echo $1 > $NSIM/del_device" || return
	wait_for test -d "$NSIM/devices/netdevsim$1/net" || return
	name=$(ls "$NSIM/devices/netdevsim$1/net") &&
	ip link set "$name" netns "$2" name veth0
}

nsim_index()
{
	in_ns "$1" cat /sys/class/net/veth0/ifindex
}

loaded()
{
	grep -q "^$1 " /proc/modules
}

unloaded()
{
	! loaded "$1" || rmmod "$1" 2>/dev/null
}

# For an SA that a device is given the kernel loads what has all others leave their large
# packets to the device, too, which is no matter of the tests that follow
unload_in_the_end()
{
	local module

	for module in esp4_offload esp6_offload; do
		loaded $module || on_exit wait_for unloaded $module
	done
}

# Hosts on the two ends of a cable between simulated devices
setup_nsim()
{
	local a b status

	modprobe -q netdevsim && [ -e $NSIM/link_device ] || return
	setup_ns NS_A NS_B &&
	nsim_device $NSIM_A "$NS_A" && nsim_device $NSIM_B "$NS_B" || return
	exec {a}< "/run/netns/$NS_A" {b}< "/run/netns/$NS_B"
	echo "$a:$(nsim_index "$NS_A") $b:$(nsim_index "$NS_B")" > $NSIM/link_device
	status=$?
	exec {a}<&- {b}<&-
	[ $status -eq 0 ] &&
	setup_addresses "$NS_A" veth0 "$V4_A/24" "$V6_A/64" &&
	setup_addresses "$NS_B" veth0 "$V4_B/24" "$V6_B/64" &&
	start_holders && setup_inner
}

# SAs and packets that A's device knows of
nsim_ipsec()
{
	cat "/sys/kernel/debug/netdevsim/netdevsim$NSIM_A/ports/0/ipsec"
}

# offloaded DIRECTION SRC DST SPI SPORT DPORT: A's SA, anew, for its device
offloaded()
{
	local dir=$1

	shift
	ip -n "$NS_A" xfrm state delete src "$1" dst "$2" proto esp spi "$3" &&
	sa_line "$@" mode tunnel flag af-unspec "$GCM" |
		sed "s/\$/ offload dev veth0 dir $dir/" |
		ip -n "$NS_A" -batch - 2>&1
}

without_offload()
{
	new_sas tunnel "$GCM" && save_counters &&
	ping_b "$IN_A" "$IN_B" 3 56 && only_esp_moved 3 &&
	tcp_b "$IN_A" "$IN_B" && only_esp_moved
}

# An SA that receives: what comes in TCP does not come from the device
incoming()
{
	new_sas tunnel "$GCM" && save_counters &&
	offloaded in "$OUT_B" "$OUT_A" $SPI_BA $PORT "$PORT_A" || return
	ping_b "$IN_A" "$IN_B" 3 56 && only_esp_moved 3
}

# What the kernel says from here on is for kernel_says, and not what it said before
mark_log()
{
	LOG_MARK="offload.sh $$ $((++LOG_MARKS))"
	echo "$LOG_MARK" > /dev/kmsg
}

kernel_says()
{
	dmesg | sed "1,/$LOG_MARK/d" | grep -q "$1" && return
	echo "the kernel did not say: $1"
	return 1
}

# give_outgoing: A's SA that sends, given to its device. Linux before 6.15 refuses
# that: $REFUSED has what it said.
give_outgoing()
{
	REFUSED=
	mark_log
	REFUSED=$(offloaded out "$OUT_A" "$OUT_B" $SPI_AB "$PORT_A" $PORT)
	ip -n "$NS_A" xfrm state list spi $SPI_AB | grep -q . || return
	REFUSED=
	nsim_ipsec
	nsim_ipsec | grep -q "^SA count=1 tx=0$"
}

refused()
{
	echo "refused: $REFUSED"
	[[ $REFUSED == *offload* ]]
}

# nothing_left FILE: on the wire, and the device had none
nothing_left()
{
	expect "packets outside of TCP" 0 \
		"$(captured "$1" "(ip or ip6) and not tcp port $PORT and $NOT_ND")" &&
	expect "SAs and packets of the device" "SA count=1 tx=0" \
		"$(nsim_ipsec | head -n 1)" &&
	kernel_says "espintcp: SPI $SPI_AB: no device can do ESP in TCP"
}

outgoing()
{
	local file=$TEST_DIR/outgoing.pcap

	new_sas tunnel "$GCM" || return
	if ! give_outgoing; then
		refused
		return
	fi
	save_counters
	capture_start "$NS_A" veth0 "$file" || return
	ping_lost "$IN_A" "$IN_B" 3
	capture_stop || return
	expect_moved A "XfrmOutStateProtoError +3" &&
	expect_moved B "" &&
	nothing_left "$file"
}

# An inner connection that is there before the device has its SA. Killed, it is reset,
# and sends nothing into a later test.
connect_inner()
{
	coproc INNER {
		exec ip netns exec "$NS_A" socat -b $ECHO_BLOCK - \
			"TCP:$IN_B:7,bind=$IN_A,linger=0" > "$TEST_DIR/answer"
	}
	# bash forgets it when the process has ended
	INNER_SOCAT=$INNER_PID
	on_exit kill "$INNER_SOCAT"
	# bash closes a coprocess's own descriptors in background commands
	exec {TO_INNER}>&"${INNER[1]}"
	timeout "$ECHO_TIMEOUT" cat "$TEST_DIR/data" >&"$TO_INNER" &&
	WAIT_TIMEOUT=$ECHO_TIMEOUT \
		wait_for cmp -s "$TEST_DIR/answer" "$TEST_DIR/data" &&
	wait_for frames_agree
}

makes_large()
{
	moved A
	[[ $MOVED == *"EspTcpOutGso +"* ]] && return
	echo "no large segments: $MOVED"
	return 1
}

# sent_or_dropped FILE: a packet has got somewhere
sent_or_dropped()
{
	moved A
	[[ $MOVED == *XfrmOutStateProtoError* ]] ||
	[ "$(captured "$1.raw" "ip proto 50 or host $IN_A")" -gt 0 ]
}

# Large segments go the way that the SA's offload type says. The simulated device has XFRM
# cut them before it asks that; real ones may take them whole.
outgoing_large()
{
	local file=$TEST_DIR/large.pcap pid

	make_more_data && new_sas tunnel "$GCM" && save_counters &&
	connect_inner && makes_large || return
	if ! give_outgoing; then
		refused
		return
	fi
	save_counters
	capture_start "$NS_A" veth0 "$file" || return
	head -c 100000 "$TEST_DIR/data" >&"$TO_INNER" & pid=$!
	wait_for sent_or_dropped "$file"
	capture_stop || return
	{ kill -KILL "$INNER_SOCAT"; wait "$INNER_SOCAT" "$pid"; } 2>/dev/null
	exec {TO_INNER}>&-
	moved A
	echo "A: $MOVED"
	[[ $MOVED == *"XfrmOutStateProtoError +"* && $MOVED != *EspTcpOut* ]] || return
	# B may miss the last acknowledgement, and repeat what it had answered
	moved B
	echo "B: $MOVED"
	[[ $MOVED != *EspTcpIn* ]] && nothing_left "$file"
}

unload_in_the_end
setup_nsim && start_echo || ktap_skip_all "no netdevsim"
connect_pair 4 -r || ktap_fail "a connection"
inner 4
set_policies tunnel "$IN_A" "$IN_B"
check "a device that offers ESP does none in TCP" without_offload
check "an SA that receives, given to the device: as without" incoming
check "one that sends, given to the device, sends nothing" outgoing
check "no large segments of a connection that was there before" outgoing_large
disconnect_pair "$PAIR_A" "$PAIR_B"
flush_xfrm
ktap_finish
