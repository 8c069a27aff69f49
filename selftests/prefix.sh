#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The stream prefix left to the kernel (ESPINTCP_SO_PREFIX): accept() gives out
# connections that have sent it, with the ULP set, and no others; connections of
# ours begin with it.

cd "$(dirname "$0")" || exit 1
# shellcheck source=lib.sh
. ./lib.sh
# shellcheck source=xfrm_lib.sh
. ./xfrm_lib.sh

require_root
require_tools ip nft ss tcpdump tshark
require_module
# Captures and sockets want a directory of this machine, not a shared one
TEST_LOG_DIR="" test_dir
ktap_plan

B_LOG=$TEST_DIR/b
A_LOG=$TEST_DIR/a

# listener ADDRESS [ARGS...]: in B, the prefix left to the kernel
listener()
{
	rm -f "$B_LOG"
	ip netns exec "$NS_B" ./tcp_pair -b -r -k -l "$1" -p $PORT \
		> "$B_LOG" 2>&1 < /dev/null &
	LISTENER=$!
	on_exit kill $LISTENER
	wait_for grep -q listening "$B_LOG"
}

listener_gone()
{
	kill "$LISTENER"
	wait "$LISTENER"
	return 0
}

# A bare connection of A, over which "say TEXT" sends
dial()
{
	exec {DIAL_FD}>&-
	rm -f "$TEST_DIR/say" "$TEST_DIR/heard"
	mkfifo "$TEST_DIR/say"
	# shellcheck disable=SC2016 # for the shell in there
	ip netns exec "$NS_A" bash -c '
		exec 3<> "/dev/tcp/$1/$2" || exit
		echo "connected"
		{ cat <&3 >&2; echo "ended"; } &
		while read -r hex; do
			printf "$(sed "s/../\\\\x&/g" <<< "$hex")" >&3
			echo "said"
		done' dial "$1" $PORT \
		< "$TEST_DIR/say" > "$TEST_DIR/heard" 2>&1 &
	on_exit kill $!
	exec {DIAL_FD}> "$TEST_DIR/say"
	wait_for grep -q connected "$TEST_DIR/heard"
}

say()
{
	printf '%s' "$1" | od -An -v -tx1 | tr -d ' \n' >&"$DIAL_FD"
	echo >&"$DIAL_FD"
}

said()
{
	[ "$(grep -c said "$TEST_DIR/heard")" -eq "$1" ]
}

# Of a connection that is not one yet, for its listener
half_open()
{
	in_ns "$NS_B" ss -Htn state syn-recv "sport = :$PORT" | grep -q .
}

not_accepted()
{
	! grep -q ready "$B_LOG"
}

accepted()
{
	wait_for grep -q ready "$B_LOG" &&
	in_ns "$NS_B" ss -Htni "sport = :$PORT" | grep -q tcp-ulp-espintcp
}

heard_ike()
{
	wait_for grep -qx "ike $1" "$B_LOG" || { cat "$B_LOG"; return 1; }
}

refused()
{
	wait_for grep -q ended "$TEST_DIR/heard" && not_accepted
}

bad_is()
{
	expect "bad prefixes" "$1" "$(counter "$NS_B" EspTcpPrefixBad)"
}


wrong()
{
	dial $V4_B && say "GET / HTTP/1.1" && refused && bad_is 1
}

nearly()
{
	dial $V4_B && say "IKETCQ" && refused && bad_is 2
}

# Half a prefix makes no connection, and is not wrong either
half()
{
	dial $V4_B && say "IKE" && wait_for said 1 && half_open &&
	not_accepted && bad_is 2
}

# pair ADDRESS CONNECTOR-ARGS...: A connects, and a message gets through
pair()
{
	local addr=$1

	shift
	listener "$addr" || return
	rm -f "$A_LOG"
	mkfifo "$TEST_DIR/cmd"
	ip netns exec "$NS_A" ./tcp_pair -b "$@" -c "$addr" -p $PORT \
		< "$TEST_DIR/cmd" > "$A_LOG" 2>&1 &
	exec {CMD_FD}> "$TEST_DIR/cmd"
	rm "$TEST_DIR/cmd"
	wait_for grep -q ready "$A_LOG" || { cat "$A_LOG"; return 1; }
	echo "send 8" >&"$CMD_FD"
	accepted && heard_ike 8
}

pair_gone()
{
	exec {CMD_FD}>&-
	listener_gone
}

# pair, and what A sends begins with the prefix once
kernel_to_kernel()
{
	local file=$TEST_DIR/prefix.pcap stream

	capture_start "$NS_W" to_b "$file" "dst port $PORT" && pair "$1" -k &&
	capture_stop || return
	stream=$(tshark -r "$file" -Y "tcp.len > 0" -T fields -e tcp.payload \
		 2>/dev/null | tr -d '\n')
	expect "stream" "$(printf IKETCP | od -An -tx1 | tr -d ' ')000a00000000" \
		"${stream:0:24}" &&
	grep -qx "prefix 1" "$A_LOG" && grep -qx "prefix 3" "$B_LOG"
}

setup_hosts || ktap_skip_all "no hosts"
exec {DIAL_FD}> /dev/null
check "a listening socket takes the option" listener $V4_B
check "another protocol is reset, and not accepted" wrong
check "a prefix wrong in its last octet likewise" nearly
check "half a prefix is waited on, and not accepted" half
listener_gone
check "a daemon that sends the prefix itself" pair $V4_B
pair_gone
check "the kernel at both ends" kernel_to_kernel $V4_B
pair_gone
check "the kernel at both ends, IPv6" kernel_to_kernel $V6_B
pair_gone
ktap_finish
