#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What sock_diag tells of a connection is what happened on it, to the octet:
# read with "espintcp status --json" right after known traffic.

cd "$(dirname "$0")" || exit 1
# shellcheck source=lib.sh
. ./lib.sh
# shellcheck source=xfrm_lib.sh
. ./xfrm_lib.sh

TOOL=../tools/espintcp/espintcp

# Octets, more than any connection here has in flight
SEND_BUFFER=200000000

require_root
require_tools ip jq ping socat ss
require_module
[ -x $TOOL ] || ktap_skip_all "no $TOOL"
# A directory shared with a VM's host has no place for fifos
TEST_LOG_DIR="" test_dir
ktap_plan

# status NS FILTER: of the only connection there
status()
{
	in_ns "$1" $TOOL status --json > "$TEST_DIR/json"
	jq -c ".connections | if length == 1 then .[0] | $2 else length end" \
		"$TEST_DIR/json"
}

status_is()
{
	[ "$(status "$1" "$2")" = "$3" ]
}

# assert_status TEXT NS FILTER EXPECTED: waits for it
assert_status()
{
	wait_for status_is "$2" "$3" "$4"
	assert_eq "$1" "$4" "$(status "$2" "$3")"
}

# Two ends whose commands come through fifos
connect_commanded()
{
	in_ns "$NS_A" sysctl -qw \
		net.ipv4.tcp_wmem="4096 $SEND_BUFFER $SEND_BUFFER" || return
	mkfifo "$TEST_DIR/a.in" "$TEST_DIR/b.in" || return
	ip netns exec "$NS_B" ./tcp_pair -b -l "$V4_B" -p $PORT \
		< "$TEST_DIR/b.in" > "$TEST_DIR/b" 2>&1 &
	exec 8> "$TEST_DIR/b.in"
	wait_for grep -q listening "$TEST_DIR/b" || return
	ip netns exec "$NS_A" ./tcp_pair -b -c "$V4_B" -p $PORT \
		< "$TEST_DIR/a.in" > "$TEST_DIR/a" 2>&1 &
	exec 9> "$TEST_DIR/a.in"
	wait_for grep -q ready "$TEST_DIR/a" &&
	wait_for grep -q ready "$TEST_DIR/b" || return
	PORT_A=$(sed -n 's/^ready \([0-9]*\) .*/\1/p' "$TEST_DIR/a")
}

received()
{
	[ "$(grep -c "^ike" "$TEST_DIR/$1")" -eq "$2" ]
}

test_fresh()
{
	assert_status "fresh: who and how" "$NS_A" \
		"[.local.address, .local.port, .peer.address, .peer.port, .state]" \
		"[\"$V4_A\",$PORT_A,\"$V4_B\",$PORT,\"open\"]"
	assert_status "fresh: no traffic, no SA, nothing valid" "$NS_A" \
		"[.in, .out | .[] | .frames, .octets] + [.carries_sas, .last_valid_ms, (.drops | add)]" \
		"[0,0,0,0,0,0,0,0,0,0,0,null,0]"
	assert_status "fresh: nothing queued" "$NS_A" \
		"[.queued.ike, .queued.esp, .ike_unread, (.queued.ike_limit > 65535), (.queued.esp_limit > 65535)]" \
		"[0,0,0,true,true]"
}

test_ike()
{
	echo "send 100" >&9
	echo "send 1000" >&9
	echo "send 50" >&8
	wait_for received b 2 && wait_for received a 1
	assert_status "IKE, sent" "$NS_A" ".out.ike" '{"frames":2,"octets":1104}'
	assert_status "IKE, received" "$NS_B" ".in.ike" \
		'{"frames":2,"octets":1104}'
	assert_status "IKE, the other way" "$NS_A" ".in.ike" \
		'{"frames":1,"octets":52}'
	# What ESP may have is what the connection carries in a while
	assert_status "IKE may queue a send buffer of octets, ESP less" "$NS_A" \
		"[.queued.ike_limit, (.queued.esp_limit < .queued.ike_limit)]" \
		"[$SEND_BUFFER,true]"
}

test_esp()
{
	# An echo of 100 octets is a frame of 166: see trace.sh
	new_sas tunnel "${ALGO[gcm]}" && ping_b "$IN_A" "$IN_B" 5 100 ||
		ktap_fail "ping"
	assert_status "ESP, sent" "$NS_A" ".out.esp" '{"frames":5,"octets":830}'
	assert_status "ESP, received" "$NS_B" ".in.esp" \
		'{"frames":5,"octets":830}'
	assert_status "ESP: valid, and an SA is carried" "$NS_B" \
		"[.last_valid_ms < 600000, .carries_sas]" "[true,1]"
	assert_status "the SAs beside it" "$NS_A" \
		"[.sas[] | [.direction, .spi, .packets]] | sort" \
		'[["in",8193,5],["out",4097,5]]'
	ip -n "$NS_A" xfrm state flush
	assert_status "the SAs are gone" "$NS_A" "[.carries_sas, .sas]" "[0,[]]"
}

test_names()
{
	assert_eq "ss -ti shows the name of the ULP, and no more" \
		"tcp-ulp-espintcp" "$(in_ns "$NS_A" ss -tiOHn "dport = :$PORT" |
			grep -o 'tcp-ulp-[^ ]*')"
}

# What does not belong to the connection stays out of it
test_plain()
{
	ip netns exec "$NS_B" ./tcp_pair -n -l "$V4_B" -p 80 \
		> "$TEST_DIR/plain.b" 2>&1 < /dev/null &
	wait_for grep -q listening "$TEST_DIR/plain.b"
	ip netns exec "$NS_A" ./tcp_pair -n -c "$V4_B" -p 80 \
		> "$TEST_DIR/plain.a" 2>&1 < /dev/null &
	wait_for grep -q ready "$TEST_DIR/plain.a" ||
		ktap_fail "a plain connection"
	assert_status "other TCP connections are not shown" "$NS_A" \
		".peer.port" $PORT
}

# From a peer that has not the ULP
test_records()
{
	echo close >&9
	echo close >&8
	wait_for status_is "$NS_B" . 0
	ip netns exec "$NS_B" ./tcp_pair -b -l "$V4_B" -p $PORT \
		> "$TEST_DIR/c" 2>&1 < /dev/null &
	wait_for grep -q listening "$TEST_DIR/c"
	mkfifo "$TEST_DIR/raw"
	ip netns exec "$NS_A" socat -u - "TCP:$V4_B:$PORT,nodelay" \
		< "$TEST_DIR/raw" &
	exec 7> "$TEST_DIR/raw"
	printf 'IKETCP' >&7
	wait_for grep -q ready "$TEST_DIR/c"
	printf '\0\3\377\0\3\377\0\4ab' >&7
	assert_status "keepalives and a short record" "$NS_B" \
		"[.in.keepalive, .drops.in_short, .in.ike.frames]" \
		'[{"frames":2,"octets":6},1,0]'
	exec 7>&-
	assert_status "the peer has finished" "$NS_B" ".state" '"finished"'
}

setup_hosts && outer 4 && inner 4 && connect_commanded && flush_xfrm &&
	set_policies tunnel "$IN_A" "$IN_B" ||
	{ ktap_fail "a connection"; exit 1; }
test_fresh
test_ike
test_esp
test_names
test_plain
test_records
ktap_finish
