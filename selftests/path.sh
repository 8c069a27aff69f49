#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Which connection carries an SA (RFC 9329 section 6.1): the host that the peer
# connects to answers on the connection that an authentic packet, newer than
# all before, came on; nothing else moves an SA. And what becomes of a
# connection whose stream cannot be trusted.

cd "$(dirname "$0")" || exit 1
# shellcheck source=lib.sh
. ./lib.sh
# shellcheck source=xfrm_lib.sh
. ./xfrm_lib.sh

require_root
require_tools dd ip nft ping socat ss sysctl tcpdump tshark
require_module
# Captures and sockets want a directory of this machine, not a shared one
TEST_LOG_DIR="" test_dir
ktap_plan

V4_C=192.0.2.66
SPI_ODD=0x5151

##############################################################################
# Connections

# connect_another [CONNECTOR-ARGS...]: as connect_pair, and the connection that
# is there stays: A's port of it in $OLD_PORT_A
OLDER=()

connect_another()
{
	OLDER+=("$PAIR_A" "$PAIR_B")
	OLD_PORT_A=$PORT_A
	connect_pair 4 "$@"
}

# sa NS add|update A-B|B-A PORT [WORDS...]: one SA, whose template says that A
# has PORT
sa()
{
	local ns=$1 verb=$2 dir=$3 port=$4

	shift 4
	case $dir in
	A-B)	set -- "$OUT_A" "$OUT_B" $SPI_AB "$port" $PORT "$@" ;;
	B-A)	set -- "$OUT_B" "$OUT_A" $SPI_BA $PORT "$port" "$@" ;;
	esac
	sa_line "$@" mode tunnel flag af-unspec "$GCM" |
		sed "s/^xfrm state add/xfrm state $verb/" |
		ip -n "$ns" -batch -
}

# What the daemon of the originator does once it has a new connection
use_new_connection()
{
	sa "$NS_A" update A-B "$PORT_A" && sa "$NS_A" update B-A "$PORT_A"
}

# tunnel_up [WORDS...]: one connection, SAs, policies
tunnel_up()
{
	connect_pair 4 -r && inner 4 && flush_xfrm &&
	set_policies tunnel "$IN_A" "$IN_B" &&
	new_sas tunnel "$GCM" "$@" &&
	ping_b "$IN_A" "$IN_B" 1 56
}

tunnel_down()
{
	flush_xfrm
	# A, first in each pair, resets, so that nothing waits for a port
	disconnect_pair "${OLDER[@]}" "$PAIR_A" "$PAIR_B"
	OLDER=()
}

# frames FILE FILTER: TCP segments with data
frames()
{
	captured "$1" "tcp and ($2) and
		(ip[2:2] - ((ip[0] & 15) << 2) - ((tcp[12] & 240) >> 2)) != 0"
}

##############################################################################
# The peer moves

# ping_moves PORT MOVES: the answers to A's pings go to A's port PORT and
# nowhere else, for which B moved its SAs MOVES times and A never
ping_moves()
{
	local port=$1 moves=$2 file=$TEST_DIR/moves.pcap a b

	a=$(counter "$NS_A" EspTcpPathMoved)
	b=$(counter "$NS_B" EspTcpPathMoved)
	capture_start "$NS_W" to_b "$file" || return
	ping_b "$IN_A" "$IN_B" 5 56 || return
	capture_stop || return
	expect "moves in A" 0 $(($(counter "$NS_A" EspTcpPathMoved) - a)) &&
	expect "moves in B" "$moves" \
		$(($(counter "$NS_B" EspTcpPathMoved) - b)) &&
	expect "frames from B to another port" 0 \
		"$(frames "$file" "src port $PORT and not dst port $port")" &&
	[ "$(frames "$file" "src port $PORT and dst port $port")" -gt 0 ] &&
	expect "packets outside of TCP" 0 "$(captured "$file" "ip and not tcp")"
}

monitor_start()
{
	ip -n "$NS_B" xfrm monitor > "$TEST_DIR/monitor" 2>&1 &
	MONITOR=$!
	on_exit kill $MONITOR
	# It shows something once it listens
	wait_for monitor_shows "Deleted" touch_xfrm
}

touch_xfrm()
{
	ip -n "$NS_B" xfrm policy add src 192.0.2.77 dst 192.0.2.78 dir out
	ip -n "$NS_B" xfrm policy delete src 192.0.2.77 dst 192.0.2.78 dir out
}

# monitor_shows PATTERN [COMMAND...]
monitor_shows()
{
	[ $# -eq 1 ] || "${@:2}"
	grep -q -e "$1" "$TEST_DIR/monitor"
}

# The daemon of B is told once
mapping_shown()
{
	local new="-> .*:$PORT_A\\b"

	wait_for monitor_shows "$new" || { cat "$TEST_DIR/monitor"; return 1; }
	expect "messages of a new mapping" 1 \
		"$(grep -c -e "$new" "$TEST_DIR/monitor")"
}

new_port()
{
	connect_another -r && use_new_connection && ping_moves "$PORT_A" 1
}

# Of two connections both are good to receive on
back_to_old()
{
	PORT_A=$OLD_PORT_A use_new_connection &&
	ping_moves "$OLD_PORT_A" 1 &&
	use_new_connection && ping_moves "$PORT_A" 1
}

# An address and port of A that B does not know, as a NAT gives out when it has
# forgotten the old ones
new_address()
{
	in_ns "$NS_A" nft -f - <<-EOF &&
	table ip nat {
		chain postrouting {
			type nat hook postrouting priority srcnat
			tcp dport $PORT snat to 192.0.2.11:20000-29999
		}
	}
	EOF
	ip -n "$NS_A" addr add 192.0.2.11/24 dev veth0 &&
	connect_another -r && use_new_connection || return
	PORT_NAT=$(sed -n 's/^ready [0-9]* \([0-9]*\)/\1/p' "$TEST_DIR/pair4.b")
	[ "$PORT_NAT" != "$PORT_A" ] && ping_moves "$PORT_NAT" 1
}

# Host A lost its old connection, of which B knows nothing
half_open()
{
	in_ns "$NS_A" nft delete table ip nat
	connect_another -r && use_new_connection && ping_moves "$PORT_A" 1 ||
		return
	in_ns "$NS_W" nft -f - <<-EOF
	table bridge cut {
		chain forward {
			type filter hook forward priority filter
			tcp sport $PORT_A drop
			tcp dport $PORT_A drop
		}
	}
	EOF
	kill "$PAIR_A"
	wait_for gone "$NS_A" "sport = :$PORT_A" || return
	connect_another -r && use_new_connection &&
	ping_moves "$PORT_A" 1 &&
	! gone "$NS_B" "dport = :$OLD_PORT_A"
}

# gone NS FILTER: no such connection
gone()
{
	[ -z "$(in_ns "$1" ss -Htn state established "$2")" ]
}

switched_off()
{
	in_ns "$NS_B" sysctl -qw net.espintcp.follow=0 || return
	connect_another -r && use_new_connection && ping_moves "$OLD_PORT_A" 0 &&
	mapping_shown || return
	in_ns "$NS_B" sysctl -qw net.espintcp.follow=1 &&
	ping_moves "$PORT_A" 1
}

test_peer_moves()
{
	check "a tunnel" tunnel_up replay-window 32 || return
	monitor_start
	check "a new port: the answers follow" new_port
	check "and the daemon is told" mapping_shown
	check "both connections are good to receive on" back_to_old
	check "a new address and port" new_address
	check "the old connection is half-open" half_open
	check "switched off in a namespace" switched_off
	# As long as somebody follows an SA's numbers, XFRM sees them one by one
	disconnect_pair "$MONITOR"
	tunnel_down
}

##############################################################################
# Who has no keys moves nothing

host_c()
{
	[ -n "${NS_C-}" ] || { setup_ns NS_C && plug_in "$NS_C" to_c $V4_C/24; }
}

# attacker_connect [-w]: a connection of host C to B, over which "attack HEX" sends.
# With -w B reads nothing until "victim_reads"
attacker_connect()
{
	local log=$TEST_DIR/victim

	rm -f "$log" "$TEST_DIR/attack" "$TEST_DIR/victim.in"
	mkfifo "$TEST_DIR/attack" "$TEST_DIR/victim.in"
	exec {VICTIM_FD}<> "$TEST_DIR/victim.in"
	ip netns exec "$NS_B" ./tcp_pair -b "$@" -l $V4_B -p $PORT > "$log" 2>&1 \
		< "$TEST_DIR/victim.in" &
	VICTIM=$!
	wait_for grep -q listening "$log" || return
	# shellcheck disable=SC2016 # for the shell in there
	ip netns exec "$NS_C" bash -c '
		exec 3<> "/dev/tcp/$1/$2"
		while read -r hex; do
			printf "$(sed "s/../\\\\x&/g" <<< "$hex")" |
				dd bs=65536 iflag=fullblock status=none >&3
		done' attacker $V4_B $PORT < "$TEST_DIR/attack" &
	ATTACKER=$!
	exec {ATTACK_FD}> "$TEST_DIR/attack"
	attack "$(hex_of IKETCP)"
	wait_for grep -Eq "ready|waiting" "$log"
}

# victim_reads OCTETS: all of them in one go, as TCP has put them together
victim_reads()
{
	wait_for victim_has "$1" && echo go >&"$VICTIM_FD" &&
	wait_for grep -q ready "$TEST_DIR/victim"
}

victim_has()
{
	local queued

	read -r queued _ <<< \
		"$(in_ns "$NS_B" ss -Htn state established "dst $V4_C")"
	[ "${queued:-0}" -ge "$1" ]
}

attacker_gone()
{
	exec {ATTACK_FD}>&- {VICTIM_FD}>&-
	disconnect_pair "$VICTIM" "$ATTACKER"
}

hex_of()
{
	printf '%s' "$1" | od -An -v -tx1 | tr -d ' \n'
}

attack()
{
	echo "$1" >&"$ATTACK_FD"
}

# capture_frame: the hex of one frame from A to B, as it was on the wire, and
# nothing comes after it
capture_frame()
{
	local file=$TEST_DIR/frame.pcap

	capture_start "$NS_W" to_b "$file" "dst port $PORT" || return
	ping_b "$IN_A" "$IN_B" 1 56 || return
	capture_stop || return
	FRAME=$(tshark -r "$file" -Y "tcp.len > 0" -T fields -e tcp.payload \
		2>/dev/null | head -n 1 | tr -d :)
	[ -n "$FRAME" ]
}

# frame_as SPI|- SEQUENCE-NUMBER|-: $FRAME with another
frame_as()
{
	local spi=${FRAME:4:8} seq=${FRAME:12:8}

	[ "$1" = - ] || printf -v spi %08x "$1"
	[ "$2" = - ] || printf -v seq %08x "$2"
	echo "${FRAME:0:4}$spi$seq${FRAME:20}"
}

# attack_moves_nothing HEX COUNTERS: those of B move and no others; its traffic
# goes to A and nothing goes to the attacker
attack_moves_nothing()
{
	local file=$TEST_DIR/attack.pcap

	save_counters
	attack "$1"
	wait_for moved_are B "$2" || { expect_moved B "$2"; return 1; }
	capture_start "$NS_W" to_b "$file" || return
	ping_b "$IN_A" "$IN_B" 3 56 || return
	capture_stop &&
	expect "frames to the attacker" 0 "$(frames "$file" "dst host $V4_C")"
}

replayed()
{
	capture_frame &&
	attack_moves_nothing "$FRAME" "EspTcpInEsp +1 XfrmInStateSeqError +1"
}

# An SA without a window takes the packet, answers it, and stays where it is
replayed_no_window()
{
	new_sas tunnel "$GCM" replay-window 0 && capture_frame || return
	attack_moves_nothing "$FRAME" "EspTcpInEsp +1 EspTcpOutEsp +1"
}

forged()
{
	capture_frame &&
	attack_moves_nothing "$(frame_as - 0x7fffffff)" \
		"EspTcpInEsp +1 EspTcpInBadAuth +1 EspTcpConnAborted +1 XfrmInStateProtoError +1"
}

# victim_sees ERROR: what the daemon of B has from the attacker's connection
victim_sees()
{
	wait_for grep -q "^error $1\$" "$TEST_DIR/victim" ||
		{ cat "$TEST_DIR/victim"; return 1; }
}

unknown_spis()
{
	local n

	in_ns "$NS_B" sysctl -qw net.espintcp.unknown_limit=4 || return
	# Three, a message of IKE, three more, a keepalive, and one too many
	save_counters
	for n in 1 2 3; do
		attack "$(frame_as $SPI_ODD $n)"
	done
	attack 000a00000000deadbeef
	for n in 4 5 6; do
		attack "$(frame_as $SPI_ODD $n)"
	done
	attack 0003ff
	wait_for moved_are B "EspTcpInIke +1 EspTcpInEsp +6 EspTcpInKeepalive +1 EspTcpInUnknownSpi +6 XfrmInNoStates +6" ||
		{ moved B; echo "before the last: $MOVED"; return 1; }
	attack "$(frame_as $SPI_ODD 7)"
	wait_for moved_are B "EspTcpInIke +1 EspTcpInEsp +7 EspTcpInKeepalive +1 EspTcpInUnknownSpi +7 EspTcpConnAborted +1 XfrmInNoStates +7" ||
		{ moved B; echo "after it: $MOVED"; return 1; }
}

unlimited()
{
	local n hex=

	in_ns "$NS_B" sysctl -qw net.espintcp.unknown_limit=0 || return
	for ((n = 1; n <= 100; n++)); do
		hex+=$(frame_as $SPI_ODD $n)
	done
	attack_moves_nothing "$hex" \
		"EspTcpInEsp +100 EspTcpInUnknownSpi +100 XfrmInNoStates +100"
}

test_attacks()
{
	host_c || return
	check "a tunnel, and a connection of someone else" tunnel_up \
		replay-window 32 && attacker_connect || return
	check "a replayed packet moves nothing" replayed
	check "nor on an SA without a replay window" replayed_no_window
	check "a forged packet moves nothing" forged
	check "and has its connection reset" victim_sees EKEYREJECTED
	attacker_gone
	attacker_connect
	check "a run of messages without an SA" unknown_spis
	check "has the connection reset" victim_sees EPROTO
	attacker_gone
	attacker_connect
	check "no limit to them" unlimited
	attacker_gone
	tunnel_down
}

##############################################################################
# Records in one segment

# The sender of what an attack repeats
SPI_NEW=0x1002

connected()
{
	! gone "$NS_A" "dport = :7"
}

# rekey NS WORDS...: A's new SA to B
rekey()
{
	local ns=$1

	shift
	sa_line "$OUT_A" "$OUT_B" $SPI_NEW "$PORT_A" $PORT mode tunnel \
		flag af-unspec "$GCM" "$@" | ip -n "$ns" -batch -
}

# refused_new BEFORE COUNT: B has had so many records, whose SA it does not know
refused_new()
{
	[ $(($(counter "$NS_B" EspTcpInUnknownSpi) - $1)) -ge "$2" ]
}

# stream_of_new FILE WORDS...: what A sends first with its new SA, which B does not
# know yet: segments of a connection that the SA before it has set up
stream_of_new()
{
	local fifo=$TEST_DIR/fifo file=$1 fd pid before

	shift
	before=$(counter "$NS_B" EspTcpInUnknownSpi)
	mkfifo "$fifo"
	ip netns exec "$NS_A" socat -u -b 40960 - "TCP:$IN_B:7,bind=$IN_A" \
		< "$fifo" 2> /dev/null &
	pid=$!
	exec {fd}> "$fifo"
	rm "$fifo"
	wait_for connected && rekey "$NS_A" "$@" &&
	ip -n "$NS_A" xfrm state delete src "$OUT_A" dst "$OUT_B" proto esp \
		spi $SPI_AB &&
	capture_start "$NS_W" to_b "$file" "dst port $PORT" &&
	head -c 13000 "$TEST_DIR/data" >&"$fd" &&
	wait_for refused_new "$before" 9 &&
	ip -n "$NS_A" xfrm state flush && capture_stop
	local status=$?
	kill $pid
	exec {fd}>&-
	return $status
}

# all_marked NUMBER...: as received, number 1 in the lowest bit of the window's last
# word, and none where none can be yet
all_marked()
{
	local seq high last number

	read -r seq high <<< "$(window_of_b $SPI_NEW)"
	last=$((16#${high##* }))
	[ "${high% *}" = "00000000 00000000 00000000" ] &&
	[ $((last >> 16#$seq)) -eq 0 ] || return
	for number; do
		((last >> (16#$number - 1) & 1)) || return
	done
}

# first_run WORDS...: the first records of an SA come in one segment
first_run()
{
	local file=$TEST_DIR/first.pcap numbers

	new_sas tunnel "$GCM" && wait_for connections_gone &&
	stream_of_new "$file" "$@" || return
	FRAME=$(tshark -r "$file" -Y "tcp.len > 0" -T fields -e tcp.payload \
		2>/dev/null | tr -d ':\n')
	mapfile -t numbers < <(grep -oE "$(printf '%08x' $SPI_NEW)000000.." \
		<<< "$FRAME" | cut -c 9-)
	[ ${#numbers[@]} -ge 9 ] && [ "${numbers[0]}" = 00000001 ] ||
		{ echo "A sent ${numbers[*]}"; return 1; }
	rekey "$NS_B" "$@" && save_counters && attacker_connect -w &&
	attack "$FRAME" && victim_reads $((6 + ${#FRAME} / 2)) || return
	wait_for all_marked "${numbers[@]}"
	local marked=$?
	moved B
	[ $marked -eq 0 ] && [[ $MOVED != *SeqError* ]] &&
	[[ $MOVED == *EspTcpInGro* ]] && return
	echo "sent: ${numbers[*]}; top and window: $(window_of_b $SPI_NEW); $MOVED"
	return 1
}

test_first_run()
{
	local words

	if gcm_is_asynchronous; then
		ktap_skip "an SA's first records in one segment" "crypto is asynchronous"
		return
	fi
	host_c || return
	check "a tunnel to an echo server" tunnel_up && start_echo || return
	for words in "replay-window 100" "flag esn replay-window 100"; do
		# shellcheck disable=SC2086 # words
		check "an SA's first records in one segment, $words" \
			first_run $words
		attacker_gone
	done
	tunnel_down
}

##############################################################################
# No connection

# nothing_leaves NS PORT-OF-BRIDGE COMMAND: no packet of IPv4, which is all that
# the tunnel has inside and outside
nothing_leaves()
{
	local file=$TEST_DIR/none.pcap before

	before=$(counter "$1" EspTcpOutNoConn)
	capture_start "$NS_W" "$2" "$file" "ip" || return
	"${@:3}" || return
	capture_stop || return
	expect "packets on the wire" 0 "$(captured "$file" "")" ||
		{ tcpdump -n -r "$file" 2>/dev/null; return 1; }
	expect "drops" 3 $(($(counter "$1" EspTcpOutNoConn) - before))
}

ping_a_lost()
{
	in_ns "$NS_B" ping -q -n -I "$IN_B" -c 3 -i 0.01 -W 0.2 "$IN_A" >&2
	[ $? -eq 1 ]
}

# Nor is anything left to be repeated
closed()
{
	[ -z "$(in_ns "$1" ss -Htn state connected exclude time-wait "$2")" ]
}

lose_connection()
{
	disconnect_pair "$PAIR_A" "$PAIR_B"
	wait_for closed "$NS_A" "sport = :$PORT_A" &&
	wait_for closed "$NS_B" "dport = :$PORT_A"
}

# The originator connects anew and nobody tells the SAs
resumes()
{
	local seq

	read_sas "$NS_A"
	seq=${SA_PACKETS[$SPI_AB]}
	connect_pair 4 -r && save_counters &&
	ping_b "$IN_A" "$IN_B" 3 56 || return
	wait_for frames_agree
	expect_moved A "EspTcpInEsp +3 EspTcpOutEsp +3" &&
	expect_moved B "EspTcpInEsp +3 EspTcpOutEsp +3 EspTcpPathMoved +1" ||
		return
	# Those that were dropped had a number each
	read_sas "$NS_A"
	expect "packets of A's SA" $((seq + 3)) "${SA_PACKETS[$SPI_AB]}" &&
	ip -n "$NS_B" -s xfrm state list spi $SPI_AB |
		grep -q "replay-window 0 replay 0 failed 0"
}

# The newest of the connections goes, those that are left are as good
survivor()
{
	local gone=("$PAIR_A" "$PAIR_B") ports=("$PORT_A") a b port

	connect_pair 4 -r && a=$PAIR_A b=$PAIR_B port=$PORT_A &&
	connect_pair 4 -r || return
	disconnect_pair "${gone[@]}" "$PAIR_A" "$PAIR_B"
	ports+=("$PORT_A")
	PAIR_A=$a PAIR_B=$b PORT_A=$port
	for port in "${ports[@]}"; do
		wait_for closed "$NS_A" "sport = :$port" || return
	done
	ping_b "$IN_A" "$IN_B" 3 56
}

test_no_connection()
{
	check "a tunnel" tunnel_up replay-window 32 || return
	check "its connection goes" lose_connection
	check "packets of A are dropped, none goes out otherwise" \
		nothing_leaves "$NS_A" to_a ping_lost "$IN_A" "$IN_B" 3
	check "packets of B likewise" nothing_leaves "$NS_B" to_b ping_a_lost
	check "a new one carries the same SAs" resumes
	check "so does another when the newest is gone" survivor
	tunnel_down
}

setup_hosts || ktap_skip_all "no hosts"
for test in ${PATH_TESTS:-peer_moves attacks no_connection first_run}; do
	"test_$test"
done
ktap_finish
