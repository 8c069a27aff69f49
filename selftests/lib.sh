#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Shared by the shell tests: KTAP points, two hosts on a wire, counters,
# captures.

# Kselftest framework constants.
# shellcheck disable=SC2034 # for those who source this
ksft_pass=0
ksft_fail=1
ksft_skip=4

# How long wait_for waits, in seconds.  Generous: an emulated machine whose
# host is busy is slow, and nothing here measures time.
: "${WAIT_TIMEOUT:=60}"

readonly NOBODY=65534

# as_nobody COMMAND...: an unprivileged user
as_nobody()
{
	setpriv --reuid=$NOBODY --regid=$NOBODY --clear-groups -- "$@"
}

##############################################################################
# KTAP

KTAP_COUNT=0
KTAP_FAILED=0

# ktap_plan [N]: without N the plan comes at the end, from ktap_finish
ktap_plan()
{
	echo "TAP version 13"
	[ -z "${1:-}" ] || echo "1..$1"
	KTAP_PLAN="${1:-}"
}

ktap_point()
{
	local verdict="$1" text="$2"

	KTAP_COUNT=$((KTAP_COUNT + 1))
	echo "$verdict $KTAP_COUNT $text"
}

ktap_pass()
{
	ktap_point "ok" "$*"
}

ktap_fail()
{
	KTAP_FAILED=$((KTAP_FAILED + 1))
	ktap_point "not ok" "$*"
}

# ktap_skip TEXT [WHY]
ktap_skip()
{
	ktap_point "ok" "$1 # SKIP ${2:-}"
}

ktap_note()
{
	echo "# $*"
}

# expect WHAT EXPECTED ACTUAL
expect()
{
	[ "$2" = "$3" ] && return
	echo "$1: expected '$2', got '$3'"
	return 1
}

# The whole test cannot run here.
ktap_skip_all()
{
	[ -n "${KTAP_PLAN+set}" ] || echo "TAP version 13"
	echo "1..0 # SKIP $*"
	exit $ksft_skip
}

# Last call of a test.
ktap_finish()
{
	[ -n "${KTAP_PLAN:-}" ] || echo "1..$KTAP_COUNT"
	[ $KTAP_FAILED -eq 0 ] || exit $ksft_fail
	exit $ksft_pass
}

# check TEXT COMMAND...: a point that passes if the command succeeds; what it
# printed is shown only if it does not.  No subshell: the command may set
# variables.
check()
{
	local text="$1" log

	shift
	log="$(mktemp)"
	if "$@" >"$log" 2>&1; then
		rm -f "$log"
		ktap_pass "$text"
		return 0
	fi
	ktap_note "failed: $*"
	sed 's/^/#   /' "$log"
	rm -f "$log"
	ktap_fail "$text"
	return 1
}

# assert_eq TEXT EXPECTED ACTUAL
assert_eq()
{
	if [ $# -eq 3 ] && [ "$2" = "$3" ]; then
		ktap_pass "$1"
		return 0
	fi
	ktap_note "expected: ${2-}"
	ktap_note "actual:   ${3-}"
	ktap_fail "$1"
	return 1
}

##############################################################################
# Prerequisites and cleaning up

require_root()
{
	[ "$(id -u)" -eq 0 ] || ktap_skip_all "must run as root"
}

require_tools()
{
	local tool

	for tool; do
		command -v "$tool" >/dev/null || ktap_skip_all "no $tool"
	done
}

require_module()
{
	[ -e /proc/net/espintcp_stat ] || ktap_skip_all "espintcp is not loaded"
}

# Run last in, first out when the test exits, however it does.
CLEANUPS=()

on_exit()
{
	CLEANUPS+=("$(printf '%q ' "$@")")
}

run_cleanups()
{
	local i

	for ((i = ${#CLEANUPS[@]} - 1; i >= 0; i--)); do
		eval "${CLEANUPS[i]}" >/dev/null 2>&1
	done
	CLEANUPS=()
}

trap run_cleanups EXIT
trap 'exit 130' INT TERM

# wait_for COMMAND...: until it succeeds; fails after $WAIT_TIMEOUT seconds
wait_for()
{
	local end=$((SECONDS + WAIT_TIMEOUT))

	until "$@" >/dev/null 2>&1; do
		[ "$SECONDS" -lt "$end" ] || return 1
		sleep 0.05
	done
}

# A directory for this test's files, kept with the logs of a failed run if the
# runner gave us a place for them.
test_dir()
{
	local name

	name="$(basename "$0" .sh)"
	if [ -n "${TEST_LOG_DIR:-}" ]; then
		TEST_DIR="$TEST_LOG_DIR/$name"
		mkdir -p "$TEST_DIR"
	else
		TEST_DIR="$(mktemp -d "${TMPDIR:-/tmp}/$name.XXXXXX")"
		on_exit rm -rf "$TEST_DIR"
	fi
}

##############################################################################
# Network namespaces

NAMESPACES=()

# setup_ns NAME...: a namespace for each, its unique name in the variable $NAME
setup_ns()
{
	local name ns

	for name; do
		ns="${name,,}-$(mktemp -u XXXXXX)"
		[ ${#NAMESPACES[@]} -gt 0 ] || on_exit cleanup_all_ns
		ip netns add "$ns" || return
		NAMESPACES+=("$ns")
		ip -n "$ns" link set lo up
		# No router here speaks: an address is usable when it is set.
		ip netns exec "$ns" sysctl -qw \
			net.ipv6.conf.all.accept_dad=0 \
			net.ipv6.conf.default.accept_dad=0
		printf -v "$name" '%s' "$ns"
	done
}

cleanup_ns()
{
	ip netns pids "$1" | xargs -r kill -KILL
	ip netns del "$1"
}

# A closed connection keeps its namespace until the peer acknowledged its FIN,
# and a namespace its SAs: have both ends closed while there is a wire between
# them, and leave no SA to a namespace that cannot go yet.
cleanup_all_ns()
{
	local ns

	for ns in "${NAMESPACES[@]}"; do
		ip netns pids "$ns" | xargs -r kill -KILL
	done
	for ns in "${NAMESPACES[@]}"; do
		ip -n "$ns" xfrm state flush
	done
	for ns in "${NAMESPACES[@]}"; do
		cleanup_ns "$ns"
	done
	NAMESPACES=()
}

# shellcheck disable=SC2034 # for those who source this
V4_A=192.0.2.1 V4_B=192.0.2.2 V6_A=2001:db8::1 V6_B=2001:db8::2

# setup_pair: the hosts $NS_A and $NS_B, joined by veth0 on either side
setup_pair()
{
	setup_ns NS_A NS_B &&
	ip link add veth0 netns "$NS_A" type veth \
		peer name veth0 netns "$NS_B" &&
	setup_addresses "$NS_A" veth0 "$V4_A/24" "$V6_A/64" &&
	setup_addresses "$NS_B" veth0 "$V4_B/24" "$V6_B/64"
}

# setup_addresses NS DEV ADDRESS...
setup_addresses()
{
	local ns="$1" dev="$2" address

	shift 2
	ip -n "$ns" link set "$dev" up
	for address; do
		case "$address" in
		*:*)	ip -n "$ns" addr add "$address" dev "$dev" nodad ;;
		*)	ip -n "$ns" addr add "$address" dev "$dev" ;;
		esac || return
	done
}

# in_ns NS COMMAND...
in_ns()
{
	ip netns exec "$@"
}

# Drop what IPsec without TCP would need: UDP ports 500 and 4500, and ESP.
# block_udp_esp NS [HOOK]
block_udp_esp()
{
	in_ns "$1" nft -f - <<-EOF
	table inet block_udp_esp {
		counter drop_udp500 { }
		counter drop_udp4500 { }
		counter drop_esp { }
		chain filter {
			type filter hook ${2:-input} priority filter
			udp dport 500 counter name drop_udp500 drop
			udp dport 4500 counter name drop_udp4500 drop
			meta l4proto esp counter name drop_esp drop
		}
	}
	EOF
}

# blocked NS udp500|udp4500|esp: how many packets that was
blocked()
{
	in_ns "$1" nft list counter inet block_udp_esp "drop_$2" |
		sed -n 's/.*packets \([0-9]*\).*/\1/p'
}

##############################################################################
# Counters

# counter NS NAME: by its name, one of espintcp's or XFRM's own
counter()
{
	local file=espintcp_stat

	[[ $2 != Xfrm* ]] || file=xfrm_stat
	in_ns "$1" awk -v name="$2" '$1 == name { print $2 }' "/proc/net/$file"
}

counter_is()
{
	[ "$(counter "$1" "$2")" = "$3" ]
}

# assert_counter TEXT NS NAME EXPECTED: waits for it, since what moves a
# counter may still be on its way.  So it proves no upper bound: for "nothing
# was dropped", see the packets arrive first.
assert_counter()
{
	wait_for counter_is "$2" "$3" "$4"
	assert_eq "$1 ($3)" "${4:?}" "$(counter "$2" "$3")"
}

# counters_save NS FILE, counters_moved NS FILE: which of all the counters
# moved since, and by how much, as "Name +N" lines
counters_save()
{
	in_ns "$1" cat /proc/net/espintcp_stat /proc/net/xfrm_stat >"$2"
}

counters_moved()
{
	in_ns "$1" cat /proc/net/espintcp_stat /proc/net/xfrm_stat |
		awk 'NR == FNR { was[$1] = $2; next }
		     $2 != was[$1] { print $1, "+" $2 - was[$1] }' "$2" -
}

##############################################################################
# Captures

# The marker that ends a capture: a broadcast to the discard port.
readonly CAPTURE_MARKER="udp dst port 9 and dst host 255.255.255.255"

# All but what belongs to the link: ARP, neighbour discovery and multicast listener
# reports, which have an extension header before their ICMPv6
# shellcheck disable=SC2034 # for those who source this
readonly NOT_ND="not arp and not (ip6 and (ip6[6] = 0 or
	(ip6[6] = 58 and ip6[40] >= 133 and ip6[40] <= 136)))"

# capture_start NS DEV FILE [FILTER]: returns once it captures
capture_start()
{
	local ns="$1" dev="$2" file="$3" filter="${4:-}"

	[ -z "$filter" ] || filter="($filter) or ($CAPTURE_MARKER)"
	# No function of ours in between: the process to stop is tcpdump
	ip netns exec "$ns" tcpdump -i "$dev" -n -s 0 -B 32768 -U \
		--immediate-mode -Z root -w "$file.raw" "$filter" \
		2>"$file.log" &
	CAPTURE_PID=$!
	CAPTURE_NS="$ns" CAPTURE_DEV="$dev" CAPTURE_FILE="$file"
	on_exit kill "$CAPTURE_PID"
	wait_for grep -q "listening on" "$file.log" && return
	ktap_note "no capture on $dev: $(cat "$file.log")"
	return 1
}

capture_marked()
{
	tcpdump -n -r "$CAPTURE_FILE.raw" "$CAPTURE_MARKER" 2>/dev/null |
		grep -q .
}

# Packets come to the capture in order: once it has the marker, it has all that
# went before.  The marker is then taken out again.
capture_stop()
{
	local status=0

	echo | in_ns "$CAPTURE_NS" socat - \
		"UDP4-DATAGRAM:255.255.255.255:9,broadcast,so-bindtodevice=$CAPTURE_DEV"
	wait_for capture_marked || status=1
	kill "$CAPTURE_PID"
	wait "$CAPTURE_PID"
	if ! grep -q "^0 packets dropped by kernel" "$CAPTURE_FILE.log"; then
		ktap_note "the capture is incomplete:"
		sed 's/^/#   /' "$CAPTURE_FILE.log"
		status=1
	fi
	tcpdump -n -r "$CAPTURE_FILE.raw" -w "$CAPTURE_FILE" \
		"not ($CAPTURE_MARKER)" 2>/dev/null || status=1
	rm -f "$CAPTURE_FILE.raw"
	return $status
}

# captured FILE FILTER: how many packets match
captured()
{
	tcpdump -n -r "$1" "$2" 2>/dev/null | wc -l
}
