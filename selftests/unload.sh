#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The module goes when nobody uses it and not before: a socket with the ULP or
# an SA encapsulated in TCP keeps it. What it leaves behind is the kernel as it
# was, and it can come again.

cd "$(dirname "$0")" || exit 1
# shellcheck source=lib.sh
. ./lib.sh
# shellcheck source=xfrm_lib.sh
. ./xfrm_lib.sh

require_root
require_tools ip ping socat rmmod insmod
require_module
# Captures and sockets want a directory of this machine, not a shared one
TEST_LOG_DIR="" test_dir
ktap_plan

ROUNDS=${UNLOAD_ROUNDS:-5}

loaded()
{
	grep -q '^espintcp ' /proc/modules
}

not_loaded()
{
	! loaded
}

# refused: rmmod fails because the module is in use, and it stays
refused()
{
	local why

	why=$(rmmod espintcp 2>&1) && { echo "it went"; return 1; }
	[[ $why == *"is in use"* ]] || { echo "rmmod: $why"; return 1; }
	loaded
}

# SAs are freed some time after they are deleted
unload()
{
	wait_for rmmod espintcp || rmmod espintcp || return
	not_loaded
}

load()
{
	loaded && { echo "it is there already"; return 1; }
	insmod "$MODULE" && loaded
}

references()
{
	expect "references" "$1" "$(cat /sys/module/espintcp/refcnt)"
}

# SAs of any kind between the inner addresses: $ENCAP
sas_up()
{
	outer "$1"
	inner "$1"
	flush_xfrm && set_policies tunnel "$IN_A" "$IN_B" &&
	new_sas tunnel "$GCM"
}

# plain_works 4|6: ESP as the stock type does it
plain_works()
{
	local ENCAP=""

	sas_up "$1" && ping_b "$IN_A" "$IN_B" 3 56 1300 &&
	read_sas "$NS_B" && expect "packets" 6 "${SA_PACKETS[$SPI_AB]}" &&
	flush_xfrm
}

# An SA with TCP encapsulation is refused as a kernel without it does
tcp_sa_refused()
{
	local ENCAP=$ENCAP_TCP

	outer 4
	! sa_line "$OUT_A" "$OUT_B" $SPI_AB 1 2 mode tunnel "$GCM" |
		ip -n "$NS_A" -batch -
}

tcp_works()
{
	sas_up "$1" && ping_b "$IN_A" "$IN_B" 3 56 4000
}

# in_use 4|6: kept by sockets, by SAs, and by packets' worth of both
in_use()
{
	local family=$1

	connect_pair "$family" -r || { ktap_fail "a connection"; return; }
	check "IPv$family: kept by the sockets" refused
	check "IPv$family: traffic" tcp_works "$family"
	disconnect_pair "$PAIR_A" "$PAIR_B"
	check "IPv$family: kept by SAs without a socket" refused
	ip -n "$NS_A" xfrm state flush
	check "IPv$family: kept by the SAs of another namespace" refused
	flush_xfrm
	check "IPv$family: goes when they are gone" unload
	check "IPv$family: ESP works without it" plain_works "$family"
	check "IPv$family: no SA over TCP without it" tcp_sa_refused
	check "IPv$family: comes again" load
}

# A whole life, and no residue that a next one would meet
whole_life()
{
	# Whatever the one before this left
	loaded || load || return
	connect_pair "$1" -r && tcp_works "$1" || return
	disconnect_pair "$PAIR_A" "$PAIR_B"
	flush_xfrm && unload && plain_works "$1" && load
}

# Traffic is under way when connection and SAs are torn down
in_full_flight()
{
	local ping

	loaded || load || return
	connect_pair 4 -r && tcp_works 4 || return
	ip netns exec "$NS_A" ping -q -f -I "$IN_A" "$IN_B" \
		> /dev/null 2>&1 < /dev/null &
	ping=$!
	wait_for frames_exceed 200 || { kill $ping; return 1; }
	disconnect_pair "$PAIR_A" "$PAIR_B"
	flush_xfrm
	kill $ping
	unload && plain_works 4 && load
}

frames_exceed()
{
	local -A stats

	stats_of "$HOLD_A" stats
	[ "${stats[EspTcpOutEsp]}" -gt "$1" ]
}

# The namespaces with the sockets and SAs go first. The sockets reset, since TCP
# keeps a namespace for as long as an orphan of it waits for the ACK of its FIN.
namespace_goes()
{
	local NS_A NS_B NS_W HOLD_A HOLD_B

	loaded || load || return
	setup_hosts && connect_pair 4 -r && tcp_works 4 || return
	for ns in "$NS_A" "$NS_B" "$NS_W"; do
		cleanup_ns "$ns"
	done
	unload && load
}

# Without IPv6's ESP there is IPv4. The kernel does not find modules by itself
# meanwhile.
without_esp6()
{
	local helper status=1

	! loaded || unload || return
	helper=$(cat /proc/sys/kernel/modprobe)
	on_exit set_modprobe "$helper"
	rmmod esp6 && set_modprobe /bin/false || return
	if load; then
		connect_pair 4 -r && tcp_works 4 && esp6_is_missing && status=0
		disconnect_pair "$PAIR_A" "$PAIR_B"
		flush_xfrm && unload || status=1
	fi
	set_modprobe "$helper"
	modprobe esp6 && load && return $status
}

set_modprobe()
{
	echo "$1" > /proc/sys/kernel/modprobe
}

esp6_may_go()
{
	[ "$(cat /sys/module/esp6/refcnt 2>/dev/null)" = "$(loaded && echo 1 || echo 0)" ]
}

esp6_is_missing()
{
	local ENCAP=$ENCAP_TCP

	outer 6
	! sa_line "$OUT_A" "$OUT_B" $SPI_AB 1 2 mode tunnel "$GCM" |
		ip -n "$NS_A" -batch -
}

setup_hosts || ktap_skip_all "no hosts"
MODULE=$(module_file) || ktap_skip_all "no module file"
rmmod espintcp || ktap_skip_all "the module is in use"

check "loads" load
check "nobody uses it" references 0
in_use 4
in_use 6
for ((round = 1; round <= ROUNDS; round++)); do
	check "loaded, used, unloaded, round $round" \
		whole_life $((round % 2 ? 4 : 6))
done
check "unloaded after traffic was cut off" in_full_flight
check "unloaded after the namespaces went" namespace_goes
if esp6_may_go; then
	check "without ESP for IPv6" without_esp6
else
	ktap_skip "without ESP for IPv6" "it is built in, or in use"
fi
ktap_finish
