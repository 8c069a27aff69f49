#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# SAs and policies set up by hand between two hosts, on a connection held by
# tcp_pair. The caller sources lib.sh.

PORT=4500

# Addresses inside the tunnels
# shellcheck disable=SC2034 # for those who source this
IN4_A=10.1.0.1 IN4_B=10.2.0.1 IN6_A=fd00:1::1 IN6_B=fd00:2::1

SPI_AB=0x1001
SPI_BA=0x2001

# $ENCAP is what "ip xfrm state" gets to hear about the encapsulation; %s:%s
# takes source and destination port. Empty for plain ESP.
ENCAP_TCP="encap espintcp %s %s 0.0.0.0"
ENCAP=$ENCAP_TCP

# setup_hosts: $NS_A and $NS_B with veth0, as setup_pair makes them, but joined
# by a bridge in $NS_W. A capture on a host's own device would show the packets
# that come out of a tunnel as if they had come over the wire.
setup_hosts()
{
	setup_ns NS_A NS_B NS_W &&
	in_ns "$NS_W" sysctl -qw net.ipv6.conf.all.disable_ipv6=1 \
		net.ipv6.conf.default.disable_ipv6=1 &&
	ip -n "$NS_W" link add wire type bridge mcast_snooping 0 &&
	ip -n "$NS_W" link set wire up &&
	plug_in "$NS_A" to_a "$V4_A/24" "$V6_A/64" &&
	plug_in "$NS_B" to_b "$V4_B/24" "$V6_B/64" &&
	start_holders &&
	setup_inner
}

# plug_in NS PORT ADDRESS...
plug_in()
{
	local ns=$1 port=$2

	shift 2
	ip link add name "$port" netns "$NS_W" type veth \
		peer name veth0 netns "$ns" &&
	ip -n "$NS_W" link set "$port" master wire up &&
	setup_addresses "$ns" veth0 "$@"
}

setup_inner()
{
	local mac_a mac_b

	# This loads xfrm_user, without which no socket gets a policy
	flush_xfrm || return

	ip -n "$NS_A" addr add $IN4_A/32 dev lo &&
	ip -n "$NS_A" addr add $IN6_A/128 dev lo &&
	ip -n "$NS_B" addr add $IN4_B/32 dev lo &&
	ip -n "$NS_B" addr add $IN6_B/128 dev lo &&
	ip -n "$NS_A" route add $IN4_B via $V4_B src $IN4_A &&
	ip -n "$NS_A" route add $IN6_B via $V6_B src $IN6_A &&
	ip -n "$NS_B" route add $IN4_A via $V4_A src $IN4_B &&
	ip -n "$NS_B" route add $IN6_A via $V6_A src $IN6_B || return

	# A policy for all between two hosts catches neighbour discovery too,
	# which the connection that is to carry it waits for. IKE daemons have
	# a policy for that, we know our neighbours.
	mac_a=$(in_ns "$NS_A" cat /sys/class/net/veth0/address)
	mac_b=$(in_ns "$NS_B" cat /sys/class/net/veth0/address)
	ip -n "$NS_A" neigh replace $V4_B lladdr "$mac_b" dev veth0 &&
	ip -n "$NS_A" neigh replace $V6_B lladdr "$mac_b" dev veth0 &&
	ip -n "$NS_B" neigh replace $V4_A lladdr "$mac_a" dev veth0 &&
	ip -n "$NS_B" neigh replace $V6_A lladdr "$mac_a" dev veth0
}

# outer 4|6, inner 4|6: the addresses as $OUT_A $OUT_B, $IN_A $IN_B
outer()
{
	local a=V$1_A b=V$1_B

	OUT_A=${!a} OUT_B=${!b}
}

inner()
{
	local a=IN$1_A b=IN$1_B

	IN_A=${!a} IN_B=${!b}
}

##############################################################################
# The connection

# connect_pair 4|6 [CONNECTOR-ARGS...]: A connects to B. The pids in $PAIR_A
# and $PAIR_B, A's port in $PORT_A. A reads commands from $PAIR_INPUT, B listens on
# $PAIR_LISTEN, if set.
connect_pair()
{
	local log=$TEST_DIR/pair$1

	outer "$1"
	shift
	rm -f "$log.a" "$log.b"
	ip netns exec "$NS_B" ./tcp_pair -b -l "${PAIR_LISTEN:-$OUT_B}" -p $PORT \
		> "$log.b" 2>&1 < /dev/null &
	PAIR_B=$!
	wait_for grep -q listening "$log.b" || { cat "$log.b"; return 1; }
	ip netns exec "$NS_A" ./tcp_pair -b -c "$OUT_B" -p $PORT "$@" \
		> "$log.a" 2>&1 < "${PAIR_INPUT:-/dev/null}" &
	PAIR_A=$!
	wait_for grep -q ready "$log.a" && wait_for grep -q ready "$log.b" ||
		{ cat "$log.a" "$log.b"; return 1; }
	PORT_A=$(sed -n 's/^ready \([0-9]*\) .*/\1/p' "$log.a")
}

# The end given first closes first, and has the TIME_WAIT
disconnect_pair()
{
	local pid

	for pid; do
		kill "$pid" 2>/dev/null
		wait "$pid" 2>/dev/null
	done
	return 0
}

##############################################################################
# SAs and policies

flush_xfrm()
{
	local flush=$'xfrm state flush\nxfrm policy flush'

	ip -n "$NS_A" -batch - <<< "$flush" &&
	ip -n "$NS_B" -batch - <<< "$flush"
}

# sa_line SRC DST SPI SPORT DPORT WORDS...
sa_line()
{
	local src=$1 dst=$2 spi=$3 sport=$4 dport=$5 encap

	shift 5
	# shellcheck disable=SC2059 # that is what it is for
	printf -v encap "$ENCAP" "$sport" "$dport"
	[ -n "$ENCAP" ] || encap=
	echo "xfrm state add src $src dst $dst proto esp spi $spi" \
		"reqid 1 $* $encap"
}

# new_sas MODE ALGORITHM [WORDS...]: one SA for each direction, on both hosts,
# and none but these. BEET mode has the inner addresses in the SA's selector.
new_sas()
{
	local mode=$1 algo=$2 sel_ab="" sel_ba="" ab ba

	shift 2
	case $mode in
	beet)	sel_ab="sel src $IN_A dst $IN_B"
		sel_ba="sel src $IN_B dst $IN_A" ;;
	tunnel)	set -- "$@" flag af-unspec ;;
	esac
	ab=$(sa_line "$OUT_A" "$OUT_B" $SPI_AB "$PORT_A" $PORT \
	     mode "$mode" "$@" "$algo" "$sel_ab")
	ba=$(sa_line "$OUT_B" "$OUT_A" $SPI_BA $PORT "$PORT_A" \
	     mode "$mode" "$@" "$algo" "$sel_ba")
	printf '%s\n' "xfrm state flush" "$ab" "$ba" > "$TEST_DIR/batch"
	ip -n "$NS_A" -batch "$TEST_DIR/batch" &&
	ip -n "$NS_B" -batch "$TEST_DIR/batch" ||
		{ cat "$TEST_DIR/batch"; return 1; }
}

# set_policies MODE SRC DST [WORDS...]: for all between A's address SRC and B's
# address DST
set_policies()
{
	local mode=$1 src=$2 dst=$3 ab ba

	shift 3
	ab="tmpl src $OUT_A dst $OUT_B proto esp reqid 1 mode $mode"
	ba="tmpl src $OUT_B dst $OUT_A proto esp reqid 1 mode $mode"
	ip -n "$NS_A" -batch - <<-EOF &&
	xfrm policy update src $src dst $dst dir out $* $ab
	xfrm policy update src $dst dst $src dir in $* $ba
	EOF
	ip -n "$NS_B" -batch - <<-EOF
	xfrm policy update src $dst dst $src dir out $* $ba
	xfrm policy update src $src dst $dst dir in $* $ab
	EOF
}

# read_sas NS: octets and packets of its SAs so far, by SPI, in $SA_OCTETS and
# $SA_PACKETS. In bash alone: a test asks for this hundreds of times.
declare -A SA_OCTETS SA_PACKETS

read_sas()
{
	local lines line spi i

	SA_OCTETS=() SA_PACKETS=()
	mapfile -t lines < <(ip -n "$1" -s xfrm state list)
	for ((i = 0; i < ${#lines[@]}; i++)); do
		case ${lines[i]} in
		*" spi "*)
			spi=${lines[i]#* spi 0x}
			printf -v spi '0x%x' "0x${spi%%(*}"
			;;
		*"lifetime current"*)
			line=${lines[i + 1]//[!0-9,]/}
			SA_OCTETS[$spi]=${line%,*}
			SA_PACKETS[$spi]=${line#*,}
			;;
		esac
	done
}

##############################################################################
# Algorithms

# key OCTETS: the same every time, and no octet twice in a row
key()
{
	local i

	printf 0x
	for ((i = 1; i <= $1; i++)); do
		printf %02x $((i * 37 % 256))
	done
}

KEY16=$(key 16)
HMAC_SHA1="auth-trunc hmac(sha1) $(key 20) 96"
HMAC_SHA256="auth-trunc hmac(sha256) $(key 32) 128"
HMAC_SHA384="auth-trunc hmac(sha384) $(key 48) 192"
HMAC_SHA512="auth-trunc hmac(sha512) $(key 64) 256"
CBC="enc cbc(aes) $KEY16"
CTR="enc rfc3686(ctr(aes)) $(key 20)"
NULL='enc ecb(cipher_null) ""'
GCM="aead rfc4106(gcm(aes)) $(key 20) 128"

declare -A ALGO=(
	[gcm]=$GCM
	[gcm256]="aead rfc4106(gcm(aes)) $(key 36) 128"
	[gcm-icv8]="aead rfc4106(gcm(aes)) $(key 20) 64"
	[ccm]="aead rfc4309(ccm(aes)) $(key 19) 128"
	[gmac]="aead rfc4543(gcm(aes)) $(key 20) 128"
	[chacha20poly1305]="aead rfc7539esp(chacha20,poly1305) $(key 36) 128"
	[cbc-sha1]="$CBC $HMAC_SHA1"
	[cbc-sha256]="$CBC $HMAC_SHA256"
	[cbc-sha384]="$CBC $HMAC_SHA384"
	[cbc-sha512]="$CBC $HMAC_SHA512"
	[ctr-sha1]="$CTR $HMAC_SHA1"
	[ctr-sha256]="$CTR $HMAC_SHA256"
	[ctr-sha384]="$CTR $HMAC_SHA384"
	[ctr-sha512]="$CTR $HMAC_SHA512"
	[null-none]="$NULL auth digest_null \"\""
	[null-sha1]="$NULL $HMAC_SHA1"
	[null-sha256]="$NULL $HMAC_SHA256"
	[null-sha384]="$NULL $HMAC_SHA384"
	[null-sha512]="$NULL $HMAC_SHA512"
)

ALGOS="gcm gcm256 gcm-icv8 ccm gmac chacha20poly1305
	cbc-sha1 cbc-sha256 cbc-sha384 cbc-sha512
	ctr-sha1 ctr-sha256 ctr-sha384 ctr-sha512
	null-none null-sha1 null-sha256 null-sha384 null-sha512"

# What the kernel makes of $GCM, and who does it
SEQIV="seqiv(rfc4106(gcm(aes)))"

# It may be there already
# shellcheck disable=SC2154 # lib.sh has ksft_skip
seqiv_driver()
{
	./crypto_alg add "$SEQIV" "$SEQIV" 2>/dev/null
	[ $? -ne $ksft_skip ] || return $ksft_skip
	awk -v name="$SEQIV" '
		$1 == "name" { ours = $3 == name }
		$1 == "driver" && ours && $3 ~ /^seqiv/ { print $3; found = 1; exit }
		END { exit !found }
	' /proc/crypto
}

# crypto_users DRIVER: how many there are, nothing if there is no such driver
crypto_users()
{
	awk -v driver="$1" '
		$1 == "driver" { ours = $3 == driver }
		$1 == "refcnt" && ours { print $3; exit }
	' /proc/crypto
}

# asynchronous TEMPLATE...: new SAs of GCM answer later, until synchronous, by the first
# of these that the kernel has; without one the status is $ksft_skip. With pcrypt each
# operation is spread over the processors, with cryptd it is for a worker.
asynchronous()
{
	local driver template status=$ksft_skip

	driver=$(seqiv_driver) || return
	for template; do
		modprobe -q "$template"
		ASYNCHRONOUS="$template($driver)"
		./crypto_alg add "$SEQIV" "$ASYNCHRONOUS"
		status=$?
		[ $status -eq $ksft_skip ] || break
	done
	[ $status -ne 0 ] || on_exit take_back "$ASYNCHRONOUS"
	return $status
}

# Where a test ends before synchronous
take_back()
{
	[ -n "$(crypto_users "$1")" ] || return
	flush_xfrm
	wait_for ./crypto_alg delete "$SEQIV" "$1"
}

# new_sas_are_asynchronous: one more is one more user of the instance
new_sas_are_asynchronous()
{
	local spi=0x3001 before after

	before=$(crypto_users "$ASYNCHRONOUS")
	sa_line "$OUT_A" "$OUT_B" $spi "$PORT_A" $PORT mode tunnel "$GCM" |
		ip -n "$NS_A" -batch - || return
	after=$(crypto_users "$ASYNCHRONOUS")
	ip -n "$NS_A" xfrm state delete src "$OUT_A" dst "$OUT_B" proto esp \
		spi $spi || return
	echo "users of $ASYNCHRONOUS: $before, with an SA $after"
	[ "$after" -gt "$before" ]
}

# What comes after this, other tests too, has the kernel's own first choice again. All
# SAs are deleted, but go some time after that.
synchronous()
{
	flush_xfrm && wait_for ./crypto_alg delete "$SEQIV" "$ASYNCHRONOUS"
}

##############################################################################
# Traffic

# socat writes so many octets at a time: where poll() says that something can be
# written, so many can, to a pipe and to a TCP connection. With more a write waits
# for room, and meanwhile the other direction stands still, until both do for ever.
ECHO_BLOCK=4096

# An echo server in B that the TCP traffic talks to
start_echo()
{
	dd if=/dev/urandom of="$TEST_DIR/data" bs=1024 count=64 2>/dev/null
	ip netns exec "$NS_B" socat -b $ECHO_BLOCK \
		TCP6-LISTEN:7,ipv6only=0,fork,reuseaddr PIPE 2>/dev/null &
	on_exit kill $!
	wait_for echo_listens
}

# Enough for some large segments, however small the first ones are; a slow machine
# takes its time
make_more_data()
{
	ECHO_TIMEOUT=600
	dd if=/dev/urandom of="$TEST_DIR/data" bs=1024 count=512 2>/dev/null
}

echo_listens()
{
	in_ns "$NS_B" ss -Hltn "sport = :7" | grep -q .
}

# in_a COMMAND: a shell command in A
in_a()
{
	ip netns exec "$NS_A" sh -c "$1"
}

# ping_b SRC DST COUNT SIZE...: COUNT of each size, one after the other, and all must
# come back
ping_b()
{
	local src=$1 dst=$2 count=$3 size script="set -e"

	shift 3
	for size; do
		script+="; ping -q -n -I $src -c $count -A -W 20 -s $size $dst"
	done
	in_a "$script"
}

# ping_lost SRC DST COUNT [SIZE]: none may come back in time
ping_lost()
{
	in_a "ping -q -n -I $1 -c $3 -i 0.01 -W 0.2 -s ${4:-56} $2 >&2; [ \$? -eq 1 ]"
}

# tcp_command SRC DST: what comes back must be what was sent. socat waits so long
# for the rest when it has sent all.
ECHO_TIMEOUT=60

tcp_command()
{
	local src=$1 dst=$2

	[[ $src != *:* ]] || src="[$src]" dst="[$dst]"
	echo "socat -b $ECHO_BLOCK -t $ECHO_TIMEOUT -T $ECHO_TIMEOUT - \
		'TCP:$dst:7,bind=$src' < $TEST_DIR/data | cmp - $TEST_DIR/data"
}

tcp_b()
{
	in_a "$(tcp_command "$1" "$2")"
}

# traffic_b SRC DST: pings of several sizes and TCP, in one go
traffic_b()
{
	local ping="ping -q -n -I $1 -i 0.01 -W 20"

	in_a "set -e
		$ping -c 3 -s 56 $2
		$ping -c 1 -s 1320 $2
		$ping -c 1 -s 6000 $2
		$(tcp_command "$1" "$2")"
}

# window_of_b [SPI]: the replay state of A's SA in B: number of the last packet and
# the bits of its window, as words of 32
window_of_b()
{
	ip -n "$NS_B" xfrm state get src "$OUT_A" dst "$OUT_B" proto esp \
		spi "${1:-$SPI_AB}" | awk '
		/anti-replay context/ { gsub(",", ""); print $4, $8 }
		/seq-hi/ { gsub(",", ""); seq = $4 }
		esn { print seq, $0; esn = 0 }
		/bitmap-length/ { esn = 1 }' | sed 's/0x//g'
}

# AES-GCM answers later, as long as one of these does it, and no records join
gcm_is_asynchronous()
{
	grep -qE "^driver.*: (pcrypt|cryptd)\(seqiv\(rfc4106" /proc/crypto
}

# connections_of NS [PORT]: inner ones that may still repeat something
connections_of()
{
	local port=${2:-7}

	in_ns "$1" ss -Htn state established state syn-sent state syn-recv \
		state fin-wait-1 state fin-wait-2 state close-wait state last-ack \
		state closing "sport = :$port or dport = :$port"
}

# connections_gone [PORT]
connections_gone()
{
	local ns

	for ns in "$NS_A" "$NS_B" ${NS_C-}; do
		[ -z "$(connections_of "$ns" "$@")" ] || return
	done
}

##############################################################################
# Counters of both hosts, read without a process of their own

start_holders()
{
	ip netns exec "$NS_A" sleep infinity < /dev/null > /dev/null 2>&1 &
	HOLD_A=$!
	ip netns exec "$NS_B" sleep infinity < /dev/null > /dev/null 2>&1 &
	HOLD_B=$!
	# Until ip has changed over they show the counters of this namespace
	wait_for holds $HOLD_A && wait_for holds $HOLD_B
}

holds()
{
	[ "$(cat "/proc/$1/comm")" = sleep ]
}

# read_counters PID: all lines as the array $COUNTERS
read_counters()
{
	mapfile -t COUNTERS < "/proc/$1/net/espintcp_stat"
	mapfile -t -O ${#COUNTERS[@]} COUNTERS < "/proc/$1/net/xfrm_stat"
}

save_counters()
{
	read_counters "$HOLD_A"
	SAVED_A=("${COUNTERS[@]}")
	read_counters "$HOLD_B"
	SAVED_B=("${COUNTERS[@]}")
}

# moved A|B: what moved since save_counters, as "Name +N ..." in $MOVED
moved()
{
	local hold=HOLD_$1 i before
	local -n saved=SAVED_$1

	MOVED=
	read_counters "${!hold}"
	for i in "${!COUNTERS[@]}"; do
		[ "${COUNTERS[i]}" = "${saved[i]}" ] && continue
		before=${saved[i]##*[[:space:]]}
		MOVED+="${MOVED:+ }${COUNTERS[i]%%[[:space:]]*}"
		MOVED+=" +$((${COUNTERS[i]##*[[:space:]]} - before))"
	done
}

# packets_moved A|B: the same without the counters that say how packets passed,
# one by one or in large segments, and nothing of how many
packets_moved()
{
	local name

	moved "$1"
	for name in EspTcpInGro EspTcpOutGso; do
		[[ " $MOVED" =~ " $name +"[0-9]+ ]] || continue
		MOVED=" $MOVED"
		MOVED=${MOVED/"${BASH_REMATCH[0]}"/}
		MOVED=${MOVED# }
	done
}

# moved_are A|B EXPECTED: for wait_for
moved_are()
{
	packets_moved "$1"
	[ "$MOVED" = "$2" ]
}

# frames_agree: all ESP frames that left have come. True again only if none was
# lost since the namespaces are there.
frames_agree()
{
	local -A a b

	stats_of "$HOLD_A" a
	stats_of "$HOLD_B" b
	[ "${a[EspTcpOutEsp]} ${b[EspTcpOutEsp]}" = \
	  "${b[EspTcpInEsp]} ${a[EspTcpInEsp]}" ]
}

# stats_of PID ARRAY: counters by name, in an associative array of the caller
stats_of()
{
	local -n stats_out=$2
	local line

	read_counters "$1"
	for line in "${COUNTERS[@]}"; do
		stats_out[${line%%[[:space:]]*}]=${line##*[[:space:]]}
	done
}

# expect_moved A|B EXPECTED
expect_moved()
{
	packets_moved "$1"
	expect "$1's counters" "$2" "$MOVED"
}

# only_esp_moved [FRAMES]: ESP frames, as many out here as in there and as the
# SAs say, FRAMES in each direction, and no other counter
only_esp_moved()
{
	local ab ba

	wait_for frames_agree || echo "frames are missing"
	read_sas "$NS_A"
	ab=${SA_PACKETS[$SPI_AB]} ba=${SA_PACKETS[$SPI_BA]}
	read_sas "$NS_B"
	expect "packets of A's SA in B" "$ab" "${SA_PACKETS[$SPI_AB]}" &&
	expect "packets of B's SA in B" "$ba" "${SA_PACKETS[$SPI_BA]}" || return
	[ $# -eq 0 ] || expect "packets each way" "$1 $1" "$ab $ba" || return
	expect_moved A "EspTcpInEsp +$ba EspTcpOutEsp +$ab" &&
	expect_moved B "EspTcpInEsp +$ab EspTcpOutEsp +$ba"
}

##############################################################################
# The module

# module_file: where to load it from again: what the VM was started with, the
# build next to these tests, or the one installed
module_file()
{
	local file

	for file in "${VM_OUT:-}/module.ko" ../espintcp.ko; do
		[ -f "$file" ] || continue
		realpath "$file"
		return
	done
	modinfo -n espintcp 2>/dev/null
}
