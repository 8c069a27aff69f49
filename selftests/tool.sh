#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The program espintcp: what it says, to eyes and to programs, and its exit
# codes. That its numbers are right is diag.sh's to show.

cd "$(dirname "$0")" || exit 1
# shellcheck source=lib.sh
. ./lib.sh
# shellcheck source=xfrm_lib.sh
. ./xfrm_lib.sh

TOOL=../tools/espintcp/espintcp

require_root
require_tools cmp ip jq ping setpriv socat ss
require_module
[ -x $TOOL ] || ktap_skip_all "no $TOOL"
TEST_LOG_DIR="" test_dir
ktap_plan

# in NAMESPACE STATUS COMMAND...: in $OUTPUT what it said
exits()
{
	local ns=$1 expected=$2 status

	shift 2
	in_ns "$ns" "$@" > "$TEST_DIR/out" 2>&1
	status=$?
	cat "$TEST_DIR/out"
	expect "exit status" "$expected" $status
}

# says REGEX...: the last output has a line for each
says()
{
	local regex

	for regex; do
		grep -Eq -- "$regex" "$TEST_DIR/out" && continue
		echo "no line with '$regex'"
		return 1
	done
}

test_usage()
{
	exits "$NS_A" 2 $TOOL && says "^Usage:" &&
	exits "$NS_A" 2 $TOOL nonsense && says 'no command "nonsense"' &&
	exits "$NS_A" 2 $TOOL status -x &&
	exits "$NS_A" 2 $TOOL status --interval=0 &&
	exits "$NS_A" 2 $TOOL check -p 70000 &&
	exits "$NS_A" 0 $TOOL --help && says "status" "monitor" "check" &&
	exits "$NS_A" 0 $TOOL monitor --help
}

test_nothing()
{
	exits "$NS_A" 1 $TOOL status && says "^no connections and no SAs$" &&
	exits "$NS_A" 1 $TOOL status --json &&
	expect JSON '{"connections":[],"sas_without_connection":[],"sas_moved":0}' \
		"$(jq -c . "$TEST_DIR/out")"
}

test_no_privilege()
{
	exits "$NS_A" 3 setpriv --bounding-set=-net_admin \
		--inh-caps=-net_admin -- $TOOL status &&
	says "espintcp: XFRM: Operation not permitted"
}

test_status()
{
	local a="$V4_A:$PORT_A" b="$V4_B:$PORT"

	new_sas tunnel "${ALGO[gcm]}" && ping_b "$IN_A" "$IN_B" 3 100 || return
	wait_for frames_agree &&
	exits "$NS_A" 0 $TOOL status &&
	says "^$a -> $b  open, last valid ESP [0-9.]+ s ago$" \
		"^    in .* esp 3 \(498 octets\)" \
		"^    out .* esp 3 \(498 octets\)$" \
		"^    queued   ike 0 of [0-9]+  esp 0 of [0-9]+ octets$" \
		"^    SA out   spi 0x00001001  reqid 1  tunnel  3 packets" \
		"^    SA in    spi 0x00002001  reqid 1  tunnel  3 packets" &&
	! grep -Eq "dropped|without" "$TEST_DIR/out"
}

test_rates()
{
	exits "$NS_A" 0 $TOOL status --interval=1 --count=2 &&
	expect "times" 2 "$(grep -c "^$V4_A" "$TEST_DIR/out")" &&
	expect "rates" 5 "$(grep -o "/s, [0-9.]* Mbit/s" "$TEST_DIR/out" | wc -l)"
}

# An object a line, and each of them whole
test_json_lines()
{
	exits "$NS_A" 0 $TOOL status --json -i 1 -c 2 &&
	expect "objects" "$(printf '1\n1')" \
		"$(jq '.connections | length' "$TEST_DIR/out")" &&
	expect "ports" "[$PORT_A,$PORT]" \
		"$(head -n 1 "$TEST_DIR/out" |
		   jq -c '.connections[0] | [.local.port, .peer.port]')"
}

test_lonely_sa()
{
	disconnect_pair "$PAIR_A" "$PAIR_B"
	exits "$NS_A" 1 $TOOL status &&
	says "^SAs without a connection" "spi 0x00001001" "spi 0x00002001" &&
	exits "$NS_A" 1 $TOOL status --json &&
	expect "SAs without" "[4097,8193]" \
		"$(jq -c '[.sas_without_connection[].spi] | sort' "$TEST_DIR/out")"
}

##############################################################################
# monitor

monitored()
{
	grep -Eq -- "$1" "$TEST_DIR/monitor"
}

expect_monitored()
{
	local regex

	for regex; do
		wait_for monitored "$regex" && continue
		echo "no '$regex' in:"
		cat "$TEST_DIR/monitor"
		return 1
	done
}

# Large packets moved counters, and were no event
no_traffic_told()
{
	local -A a

	stats_of "$HOLD_A" a
	{ [ "${a[EspTcpInGro]}" -gt 0 ] || gcm_is_asynchronous; } &&
		! monitored "counter .*(Gro|Gso)" &&
		return
	echo "EspTcpInGro is ${a[EspTcpInGro]}; told was:"
	cat "$TEST_DIR/monitor"
	return 1
}

test_monitor()
{
	local a b="$V4_B:$PORT"

	ip -n "$NS_A" xfrm state flush
	ip netns exec "$NS_A" $TOOL monitor -i 50 > "$TEST_DIR/monitor" 2>&1 &
	on_exit kill $!
	expect_monitored "watching" && connect_pair 4 || return
	a="$V4_A:$PORT_A"
	expect_monitored "opened +$a -> $b" && new_sas tunnel "${ALGO[gcm]}" &&
	expect_monitored "SA added  spi 0x00001001  reqid 1  tunnel  $a -> $b" \
		"SA added  spi 0x00002001  reqid 1  tunnel  $b -> $a" &&
	ping_b "$IN_A" "$IN_B" 2 100 && tcp_b "$IN_A" "$IN_B" || return
	disconnect_pair "$PAIR_A" "$PAIR_B"
	expect_monitored "closed +$a -> $b"
	ping_lost "$IN_A" "$IN_B" 1
	expect_monitored "counter   EspTcpOutNoConn \+[0-9]" && no_traffic_told ||
		return
	ip -n "$NS_A" xfrm state delete src "$V4_A" dst "$V4_B" \
		proto esp spi $SPI_AB &&
	expect_monitored "SA gone   spi 0x00001001  to $V4_B" || return
	ip -n "$NS_A" xfrm state flush
	expect_monitored "SAs gone  all"
}

# An authentic packet from another port than its SA has
test_moved()
{
	connect_pair 4 && new_sas tunnel "${ALGO[gcm]}" || return
	disconnect_pair "$PAIR_A" "$PAIR_B"
	ip netns exec "$NS_B" $TOOL monitor -i 50 > "$TEST_DIR/monitor" 2>&1 &
	on_exit kill $!
	expect_monitored "watching"
	local old=$PORT_A
	connect_pair 4 &&
	ip -n "$NS_A" xfrm state flush &&
	ip -n "$NS_A" -batch - <<< "$(sa_line "$V4_A" "$V4_B" $SPI_AB \
		"$PORT_A" $PORT mode tunnel "${ALGO[gcm]}")" || return
	ping_lost "$IN_A" "$IN_B" 1
	expect_monitored \
		"moved +spi 0x00001001  reqid 1  peer $V4_A:$old -> $V4_A:$PORT_A" &&
	exits "$NS_B" 0 $TOOL status &&
	says "^SAs that moved to another connection" "spi 0x00001001" \
		"spi 0x00002001" || return
	disconnect_pair "$PAIR_A" "$PAIR_B"
}

##############################################################################
# check

# The machine's own libreswan, if any, is no part of this test
check_host()
{
	local expected=$1

	shift
	exits "$NS_B" "$expected" \
		env PATH=/nowhere "$(realpath $TOOL)" check "$@"
}

test_check()
{
	check_host 0 &&
	says "^ok .*kernel $(uname -r | sed 's/[.+]/\\&/g') does IPsec" \
		"^ok .*the module espintcp is loaded" \
		"^ok .*a TCP socket takes the ULP" \
		"^note .*libreswan is not installed" \
		"^note .*nobody listens on TCP port 4500"
}

test_check_peer()
{
	check_host 1 -p 4711 "$V4_A" &&
	says "^FAULT +$V4_A refuses connections on TCP port 4711" || return
	ip netns exec "$NS_A" ./tcp_pair -n -l "$V4_A" -p 4711 \
		> "$TEST_DIR/listener" 2>&1 < /dev/null &
	wait_for grep -q listening "$TEST_DIR/listener" &&
	check_host 0 -p 4711 "$V4_A" &&
	says "^ok +$V4_A takes connections on TCP port 4711"
}

test_check_no_privilege()
{
	in_ns "$NS_B" setpriv --bounding-set=-net_admin --inh-caps=-net_admin \
		-- $TOOL check > "$TEST_DIR/out"
	expect "exit status" 1 $? &&
	says "^FAULT +a TCP socket does not take the ULP: Operation not permitted" \
		"^ +needs CAP_NET_ADMIN of the machine, or allow_userns=1"
}

setup_hosts && outer 4 && inner 4 && flush_xfrm &&
	set_policies tunnel "$IN_A" "$IN_B" ||
	{ ktap_fail "two hosts"; exit 1; }
check "usage and its exit status" test_usage
check "status: nothing there" test_nothing
check "status: not allowed to know" test_no_privilege
start_echo && make_more_data && connect_pair 4 || { ktap_fail "a connection"; exit 1; }
check "status: a connection and its SAs" test_status
check "status: rates" test_rates
check "status: JSON, again and again" test_json_lines
check "status: SAs without a connection" test_lonely_sa
check "monitor: a connection's and its SAs' life" test_monitor
check "monitor: a peer that moved" test_moved
check "check: a host where it works" test_check
check "check: a peer that listens, and one that does not" test_check_peer
check "check: not allowed to use it" test_check_no_privilege
ktap_finish
