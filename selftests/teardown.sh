#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Connections end in every way there is while packets flood both ways, and
# namespaces are deleted with SAs and sockets in them. Nothing hangs or stays
# behind, and what comes next works.

cd "$(dirname "$0")" || exit 1
# shellcheck source=lib.sh
. ./lib.sh
# shellcheck source=xfrm_lib.sh
. ./xfrm_lib.sh

require_root
require_tools ip ping ss mkfifo
require_module
# Captures and sockets want a directory of this machine, not a shared one
TEST_LOG_DIR="" test_dir
ktap_plan

ROUNDS=${TEARDOWN_ROUNDS:-3}
PORT_FIXED=40002

# More than the connection takes at once, so that queues are full, and write
# space is waited for, on both sides. A flood ends only when it is told to.
flood_start()
{
	FLOODS=()
	ip netns exec "$NS_A" ping -f -q -l 400 -s 1200 -I "$IN4_A" "$IN4_B" &>/dev/null &
	FLOODS+=($!)
	ip netns exec "$NS_B" ping -f -q -l 400 -s 1200 -I "$IN4_B" "$IN4_A" &>/dev/null &
	FLOODS+=($!)
	wait_for flows "$NS_A" && wait_for flows "$NS_B"
}

flood_stop()
{
	kill "${FLOODS[@]}" 2>/dev/null
	wait "${FLOODS[@]}" 2>/dev/null
	FLOODS=()
}

# Since the last look at it
declare -A SEEN

flows()
{
	local now

	now=$(counter "$1" EspTcpInEsp)
	[ "$now" -gt $((${SEEN[$1]:-0} + 100)) ] && SEEN[$1]=$now
}

all_closed()
{
	[ "$(counter "$1" EspTcpConnOpened)" = "$(counter "$1" EspTcpConnClosed)" ]
}

no_sockets()
{
	! in_ns "$1" ss -Htan "sport = :$PORT_FIXED or dport = :$PORT_FIXED" |
		grep -q .
}

# B has got A's FIN
half_closed()
{
	in_ns "$NS_B" ss -Htn state close-wait "sport = :$PORT" | grep -q .
}

# How A's end, or B's, ends. A command that nobody read before A's end was killed
# would be read by the next one.
by_exit()	{ kill -TERM "$PAIR_A"; }
by_kill()	{ kill -KILL "$PAIR_B"; }
by_close()	{ echo close >&8; wait_for all_closed "$NS_A"; }
by_shutdown()	{ echo shutdown >&8; wait_for half_closed && kill "$PAIR_B"; }
by_reset()	{ kill -TERM "$PAIR_A"; }
by_destroy()	{ in_ns "$NS_B" ss -K "sport = :$PORT" >/dev/null; }

# Both ends are there, and a flood of packets both ways
begin()
{
	connect_pair 4 -s $PORT_FIXED "$@" && new_sas tunnel "$GCM" &&
		ping_b "$IN_A" "$IN_B" 3 56 && flood_start
}

# ends HOW [CONNECTOR-ARGS...]: the flood goes on when the end has come. A port
# in TIME_WAIT would have to wait, so that what is left of A's end resets.
ends()
{
	local how=$1 round

	shift
	for ((round = 0; round < ROUNDS; round++)); do
		begin "$@" || { echo "round $round does not begin"; break; }
		"by_$how" || { echo "round $round does not end"; break; }
		disconnect_pair "$PAIR_A" "$PAIR_B"
		wait_for all_closed "$NS_A" && wait_for all_closed "$NS_B" ||
			{ echo "a connection is left"; break; }
		flood_stop
		wait_for no_sockets "$NS_A" && wait_for no_sockets "$NS_B" ||
			{ echo "a socket is left"; break; }
	done
	[ "$round" -eq "$ROUNDS" ] && return
	flood_stop
	disconnect_pair "$PAIR_A" "$PAIR_B"
	return 1
}

has_link()
{
	ip -n "$NS_W" link show "$1"
}

# The other end of its device goes with a namespace, and a namespace when
# nothing refers to it any more
namespace_goes()
{
	local ns=$1 port=$2

	has_link "$port" || return
	ip netns pids "$ns" | xargs -r kill -KILL
	ip netns del "$ns"
	wait_for gone "$port" || { echo "it is still there"; return 1; }
}

gone()
{
	! has_link "$1"
}

setup_hosts && outer 4 && inner 4 && flush_xfrm &&
	set_policies tunnel "$IN_A" "$IN_B" && mkfifo "$TEST_DIR/input" &&
	exec 8<>"$TEST_DIR/input" || ktap_skip_all "no hosts"
# shellcheck disable=SC2034 # for connect_pair
PAIR_INPUT=$TEST_DIR/input
# The port is used again and again
in_ns "$NS_A" sysctl -qw net.ipv4.tcp_max_tw_buckets=0
in_ns "$NS_B" sysctl -qw net.ipv4.tcp_max_tw_buckets=0
on_exit flood_stop

check "a process ends" ends exit
check "a process is killed" ends kill
check "the socket is closed" ends close
check "one side is shut down, then the other closes" ends shutdown
check "a reset" ends reset -r
check "the socket is destroyed from outside" ends destroy

asynchronous cryptd pcrypt
case $? in
0)
	check "asynchronous crypto is what new SAs use" new_sas_are_asynchronous
	check "asynchronous crypto, a process is killed" ends kill
	check "asynchronous crypto, the socket is closed" ends close
	check "asynchronous crypto, a reset" ends reset -r
	synchronous && set_policies tunnel "$IN_A" "$IN_B" ||
		ktap_fail "the kernel's own choice comes back" ;;
"$ksft_skip")
	for how in "is what new SAs use" "a process is killed" \
		   "the socket is closed" "a reset"; do
		ktap_skip "asynchronous crypto, $how" "no cryptd or pcrypt"
	done ;;
*)
	ktap_fail "asynchronous crypto" ;;
esac

# What is left of A's end, with nobody to answer it, is not to wait
check "a connection with traffic to come" begin -r
check "its namespace is deleted with SAs and sockets" \
	namespace_goes "$NS_B" to_b
flood_stop
check "so is the peer's" namespace_goes "$NS_A" to_a

ktap_finish
