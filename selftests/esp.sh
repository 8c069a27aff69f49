#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# ESP in TCP with SAs set up by hand: every algorithm in every mode over and
# inside of both IP versions, with real traffic, and exact counters on both
# sides; then what else an SA can be told to do, and the wire.

cd "$(dirname "$0")" || exit 1
# shellcheck source=lib.sh
. ./lib.sh
# shellcheck source=xfrm_lib.sh
. ./xfrm_lib.sh

require_root
require_tools ip nft ping setpriv socat ss tcpdump tshark
require_module
# Captures and sockets want a directory of this machine, not a shared one
TEST_LOG_DIR="" test_dir
ktap_plan

##############################################################################
# Every algorithm, mode and family

# A packet that does not fit is cut before or after ESP, as mode and family will
# have it, and TCP's number is its own: the SAs know how many frames it was.
traffic()
{
	save_counters
	traffic_b "$1" "$2" && only_esp_moved
}

# One of each kind, where one IP version is inside of the other
FEW_ALGOS="gcm cbc-sha256 null-none"

algorithm()
{
	local mode=$1 algo=$2 src=$3 dst=$4

	new_sas "$mode" "${ALGO[$algo]}" && traffic "$src" "$dst"
}

algorithms()
{
	local mode=$1 text=$2 src=$3 dst=$4 algo

	for algo in ${ESP_ALGOS:-$algos}; do
		check "$text, $algo" algorithm "$mode" "$algo" "$src" "$dst"
	done
}

test_matrix()
{
	local out in mode algos

	for out in 4 6; do
		connect_pair $out || { ktap_fail "no IPv$out connection"; return; }
		flush_xfrm
		set_policies transport "$OUT_A" "$OUT_B"
		algos=$ALGOS
		algorithms transport "transport over IPv$out" "$OUT_A" "$OUT_B"
		for mode in tunnel beet; do
			for in in 4 6; do
				inner $in
				flush_xfrm
				set_policies $mode "$IN_A" "$IN_B"
				[ $in = $out ] && algos=$ALGOS || algos=$FEW_ALGOS
				algorithms $mode "$mode, IPv$in over IPv$out" \
					"$IN_A" "$IN_B"
			done
		done
		flush_xfrm
		disconnect_pair "$PAIR_B" "$PAIR_A"
	done
}

##############################################################################
# Replay protection

# tunnel_up, tunnel_down: around the tests that need just one, IPv4 in and out.
# A's end resets, so that nothing waits for a port
tunnel_up()
{
	connect_pair 4 -r || return
	inner 4
	flush_xfrm
	set_policies tunnel "$IN_A" "$IN_B"
}

tunnel_down()
{
	disconnect_pair "$PAIR_A" "$PAIR_B"
	flush_xfrm
}

replay()
{
	new_sas tunnel "$GCM" "$@" && traffic "$IN_A" "$IN_B"
}

# More packets than are left of 32 bits
replay_wrap()
{
	new_sas tunnel "$GCM" flag esn replay-window 128 \
		replay-seq 0xfffffff8 replay-oseq 0xfffffff8 && save_counters &&
	ping_b "$IN_A" "$IN_B" 20 56 && only_esp_moved 20 &&
	ip -n "$NS_B" xfrm state list spi $SPI_AB | grep -q 'seq-hi 0x1, seq 0xc'
}

# The same with records that become one packet: those of a first burst do mostly
replay_wrap_gro()
{
	local i joined=

	for i in 6 7 8 9 a b c d; do
		new_sas tunnel "$GCM" flag esn replay-window 128 \
			replay-seq 0xfffffff$i replay-oseq 0xfffffff$i &&
		save_counters && tcp_b "$IN_A" "$IN_B" || return
		moved A
		[[ $MOVED != *"EspTcpInGro +"* ]] || joined=yes
		[[ $MOVED != *Xfrm* && $MOVED != *Abort* ]] || break
		moved B
		[[ $MOVED != *"EspTcpInGro +"* ]] || joined=yes
		[[ $MOVED != *Xfrm* && $MOVED != *Abort* ]] || break
		MOVED=
	done
	echo "$MOVED"
	[ -z "$MOVED" ] && [ -n "$joined" ]
}

# A sender that begins to count anew sends what the receiver has seen
replay_attack()
{
	new_sas tunnel "$GCM" "$@" && ping_b "$IN_A" "$IN_B" 3 56 || return
	ip -n "$NS_A" xfrm state delete src "$OUT_A" dst "$OUT_B" proto esp \
		spi $SPI_AB
	grep "src $OUT_A" "$TEST_DIR/batch" | ip -n "$NS_A" -batch -
	save_counters
	ping_lost "$IN_A" "$IN_B" 2
	wait_for frames_agree
	expect_moved A "EspTcpOutEsp +2" &&
	expect_moved B "EspTcpInEsp +2 XfrmInStateSeqError +2"
}

test_replay()
{
	tunnel_up || { ktap_fail "a connection"; return; }
	check "no replay window" replay
	check "legacy replay window of 32" replay replay-window 32
	check "legacy replay window of 1" replay replay-window 1
	check "ESN, replay window of 1" replay flag esn replay-window 1
	check "ESN, replay window of 128" replay flag esn replay-window 128
	check "ESN, past 32 bits" replay_wrap
	check "ESN, past 32 bits, large packets" replay_wrap_gro
	check "replayed frames are dropped, legacy window" \
		replay_attack replay-window 32
	check "replayed frames are dropped, ESN" \
		replay_attack flag esn replay-window 128
	tunnel_down
}

##############################################################################
# Frames that are not what the SA wants

# replace_out ALGORITHM [SPI]: A's outbound SA alone
replace_out()
{
	ip -n "$NS_A" xfrm state delete src "$OUT_A" dst "$OUT_B" proto esp \
		spi $SPI_AB
	sa_line "$OUT_A" "$OUT_B" "${2:-$SPI_AB}" "$PORT_A" $PORT mode tunnel "$1" |
		ip -n "$NS_A" -batch -
}

# refused COUNTERS ALGORITHM [SPI]: one packet moves these in B
refused()
{
	local counters=$1

	shift
	new_sas tunnel "$GCM" && replace_out "$@" && save_counters || return
	ping_lost "$IN_A" "$IN_B" 1 || return
	wait_for moved_are B "EspTcpInEsp +1 $counters"
	expect_moved A "EspTcpOutEsp +1" &&
	expect_moved B "EspTcpInEsp +1 $counters"
}

test_refused()
{
	tunnel_up || { ktap_fail "a connection"; return; }
	check "another SPI: XfrmInNoStates" refused \
		"EspTcpInUnknownSpi +1 XfrmInNoStates +1" "$GCM" 0x9999
	check "another key: XfrmInStateProtoError, and a reset" refused \
		"EspTcpInBadAuth +1 EspTcpConnAborted +1 XfrmInStateProtoError +1" \
		"aead rfc4106(gcm(aes)) 0x$(printf '%040d' 1) 128"
	tunnel_down
}

##############################################################################
# One frame a packet, padding, interfaces, lifetimes

frame_per_packet()
{
	new_sas tunnel "$GCM" && save_counters &&
	ping_b "$IN_A" "$IN_B" 5 0 1 56 1300 && only_esp_moved 20
}

# An echo waits for the one before, so that each has a segment of its own
segment_lengths()
{
	tcpdump -n -t -r "$1" "tcp port $PORT" 2>/dev/null |
		sed -n 's/.* length \([1-9][0-9]*\).*/\1/p' | sort | uniq -c | xargs
}

tfc()
{
	local file=$TEST_DIR/tfc.pcap

	new_sas tunnel "$GCM" tfcpad 1200 && save_counters &&
	capture_start "$NS_W" to_a "$file" || return
	ping_b "$IN_A" "$IN_B" 2 56 900
	capture_stop || return
	# 2 length, 8 SPI and sequence, 8 IV, 1200, 2 of trailer and 2 to have
	# it a multiple of four, 16 ICV
	expect "segments of each length" "8 1238" "$(segment_lengths "$file")" &&
	only_esp_moved 4
}

xfrm_interface()
{
	flush_xfrm
	set_policies tunnel 0.0.0.0/0 0.0.0.0/0 if_id 7 &&
	new_sas tunnel "$GCM" if_id 7 && save_counters &&
	xfrm_device "$NS_A" 10.7.0.1/24 && xfrm_device "$NS_B" 10.7.0.2/24 &&
	ping_b 10.7.0.1 10.7.0.2 3 56 && only_esp_moved 3 &&
	expect "packets into A's device" 3 "$(device_packets "$NS_A" tx)" &&
	expect "packets out of B's device" 3 "$(device_packets "$NS_B" rx)" &&
	tcp_b 10.7.0.1 10.7.0.2 && only_esp_moved
}

xfrm_device()
{
	ip -n "$1" link add ipsec7 type xfrm dev veth0 if_id 7 &&
	in_ns "$1" sysctl -qw net.ipv6.conf.ipsec7.disable_ipv6=1 &&
	ip -n "$1" link set ipsec7 up &&
	ip -n "$1" addr add "$2" dev ipsec7
}

device_packets()
{
	in_ns "$1" cat "/sys/class/net/ipsec7/statistics/$2_packets"
}

# Records whose length is about what buffers, pages and segments are made for, up to
# the longest there is, and a packet that makes a longer one
record_lengths()
{
	local about size sizes=()

	for about in 4096 8192 16384 32768 65444; do
		for ((size = about - 80; size <= about + 8; size += 11)); do
			sizes+=($size)
		done
	done
	new_sas tunnel "$1" && save_counters &&
	ping_b "$IN_A" "$IN_B" 1 "${sizes[@]}" &&
	only_esp_moved ${#sizes[@]} || return
	save_counters
	ping_lost "$IN_A" "$IN_B" 1 65500
	expect_moved A "EspTcpOutTooBig +1 XfrmOutStateProtoError +1" &&
	expect_moved B ""
}

# What comes by it with no mark is theirs as well, so that they may not stay
vti()
{
	local status=0 limit

	limit=$(in_ns "$NS_B" sysctl -n net.espintcp.unknown_limit) || return
	marked_by_vti || status=1
	del_vti_device "$NS_A" && del_vti_device "$NS_B" &&
	in_ns "$NS_B" sysctl -qw "net.espintcp.unknown_limit=$limit" || status=1
	return $status
}

# The SAs have a mark that no packet on the wire has: the device adds it. What
# comes twice is still of an SA there is, and no reason to reset the connection.
marked_by_vti()
{
	local sas="mark 7 replay-window 32"

	flush_xfrm
	in_ns "$NS_B" sysctl -qw net.espintcp.unknown_limit=4 &&
	set_policies tunnel 0.0.0.0/0 0.0.0.0/0 mark 7 &&
	new_sas tunnel "$GCM" $sas && save_counters &&
	vti_device "$NS_A" "$OUT_A" "$OUT_B" 10.8.0.1/24 &&
	vti_device "$NS_B" "$OUT_B" "$OUT_A" 10.8.0.2/24 &&
	ping_b 10.8.0.1 10.8.0.2 8 56 && only_esp_moved 8 &&
	tcp_b 10.8.0.1 10.8.0.2 && only_esp_moved || return

	ip -n "$NS_A" xfrm state delete src "$OUT_A" dst "$OUT_B" proto esp \
		spi $SPI_AB mark 7 &&
	grep "src $OUT_A" "$TEST_DIR/batch" | ip -n "$NS_A" -batch - || return
	save_counters
	ping_lost 10.8.0.1 10.8.0.2 6
	wait_for frames_agree
	expect_moved A "EspTcpOutEsp +6" &&
	expect_moved B "EspTcpInEsp +6 XfrmInStateSeqError +6"
}

vti_device()
{
	ip -n "$1" link add vti7 type vti local "$2" remote "$3" key 7 &&
	in_ns "$1" sysctl -qw net.ipv6.conf.vti7.disable_ipv6=1 &&
	ip -n "$1" link set vti7 up &&
	ip -n "$1" addr add "$4" dev vti7
}

# Where a test failed early there is none
del_vti_device()
{
	! ip -n "$1" link show vti7 >/dev/null 2>&1 || ip -n "$1" link delete vti7
}

# The kernel loads ip_vti for that, if it has it. Whatever else goes wrong is no reason
# to leave the test out.
have_vti()
{
	local said

	said=$(ip -n "$NS_A" link add vti0 type vti local 192.0.2.77 2>&1) &&
		ip -n "$NS_A" link delete vti0
	[[ $said != *"Unknown device type"* && $said != *"not supported"* ]]
}

packet_limit()
{
	new_sas tunnel "$GCM" limit packet-hard 3 && save_counters &&
	ping_b "$IN_A" "$IN_B" 3 56 && only_esp_moved 3 || return
	save_counters
	ping_lost "$IN_A" "$IN_B" 2
	# The first finds the SA used up, and for the second there is none
	moved A
	[[ $MOVED == *XfrmOutStateExpired* && $MOVED != *EspTcp* ]] ||
		{ echo "A's counters: $MOVED"; return 1; }
}

# octets and packets of all SAs after some traffic
lifetimes()
{
	ping_b "$IN_A" "$IN_B" 2 0 56 1200 5000 > /dev/null
	for ns in "$NS_A" "$NS_B"; do
		read_sas "$ns"
		echo "${SA_OCTETS[$SPI_AB]} in ${SA_PACKETS[$SPI_AB]} out," \
			"${SA_OCTETS[$SPI_BA]} in ${SA_PACKETS[$SPI_BA]} back"
	done
}

lifetimes_as_plain()
{
	local plain tcp

	ENCAP=
	new_sas tunnel "$GCM" && plain=$(lifetimes)
	ENCAP=$ENCAP_TCP
	new_sas tunnel "$GCM" && tcp=$(lifetimes)
	[[ $plain == *[1-9]* ]] && expect "octets, packets" "$plain" "$tcp"
}

test_more()
{
	tunnel_up || { ktap_fail "a connection"; return; }
	check "one frame a packet" frame_per_packet
	check "records around powers of two" record_lengths "$GCM"
	check "the same in blocks" record_lengths "${ALGO[cbc-sha256]}"
	check "TFC padding" tfc
	check "lifetime counters move as those of plain ESP" lifetimes_as_plain
	check "an SA of three packets" packet_limit
	check "XFRM interface" xfrm_interface
	if have_vti; then
		check "VTI" vti
	else
		ktap_skip "VTI" "no ip_vti"
	fi
	tunnel_down
}

##############################################################################
# The wire

only_tcp_on_wire()
{
	expect "other packets" 0 "$(captured "$1" "not tcp port $PORT and $NOT_ND")" &&
	[ "$(captured "$1" "tcp port $PORT")" -gt 0 ]
}

# esp_sas ALGORITHM AUTHENTICATION KEY AUTH-KEY: for tshark, both directions
esp_sas()
{
	local spi

	for spi in $SPI_AB $SPI_BA; do
		printf -- '-o\nuat:esp_sa:"IPv4","*","*","%s","%s","%s","%s","%s"\n' \
			"0x0000${spi#0x}" "$1" "$3" "$2" "$4"
	done
}

# dissect FILE ESP-SAS-ARGS...: what tshark finds in every segment with a frame,
# which can be several, separated by commas. Not as root, for whom Wireshark 4.4
# loads no Lua.
dissect()
{
	local file=$1 uat

	shift
	mapfile -t uat < <(esp_sas "$@")
	chmod 711 "$TEST_DIR" && cp iketcp.lua "$TEST_DIR" || return
	HOME=/nonexistent as_nobody \
		tshark -X lua_script:"$TEST_DIR/iketcp.lua" \
		-o esp.enable_encryption_decode:TRUE \
		-o esp.enable_authentication_check:TRUE "${uat[@]}" -r - \
		-Y iketcp.length -T fields -E separator=/s -E quote=d \
		-e esp.spi -e esp.sequence -e esp.icv_good -e icmp.type \
		< "$file" 2> "$file.log"
}

# field NUMBER: out of what dissect says, one value a line
field()
{
	cut -d ' ' -f "$1" | tr -d '"' | tr ',' '\n' | grep .
}

count_of()
{
	grep -c -- "$1"
}

# wire ALGO ICV-GOOD TSHARK-ALGORITHM TSHARK-AUTHENTICATION KEY AUTH-KEY: ten
# echoes and their replies, seen by tshark
wire()
{
	local algo=$1 icv_good=$2 file=$TEST_DIR/wire-$1.pcap seen

	shift 2
	new_sas tunnel "${ALGO[$algo]}" && save_counters &&
	capture_start "$NS_W" to_a "$file" || return
	ping_b "$IN_A" "$IN_B" 5 56 1000
	only_esp_moved 10
	capture_stop || return

	only_tcp_on_wire "$file" || return
	seen=$(dissect "$file" "$@")
	echo "$seen"
	expect "frames from A" 10 "$(field 1 <<< "$seen" | count_of "1001$")" &&
	expect "frames from B" 10 "$(field 1 <<< "$seen" | count_of "2001$")" &&
	expect "sequence numbers" "1 1 2 2 3 3 4 4 5 5 6 6 7 7 8 8 9 9 10 10" \
		"$(field 2 <<< "$seen" | sort -n | xargs)" &&
	expect "echoes decrypted" 10 "$(field 4 <<< "$seen" | count_of '^8$')" &&
	expect "replies decrypted" 10 "$(field 4 <<< "$seen" | count_of '^0$')" &&
	expect "good ICVs" "$icv_good" "$(field 3 <<< "$seen" | count_of '^1$\|True')"
}

# With another key tshark finds the same frames and nothing in them, or what chance
# has look like something: ESP in one of 256.
wrong_key()
{
	local seen

	seen=$(dissect "$TEST_DIR/wire-$1.pcap" "$2" "$3" "$4" "")
	expect "frames" 20 "$(field 1 <<< "$seen" | count_of '[12]001$')" &&
	expect "echoes decrypted" 0 "$(field 4 <<< "$seen" | count_of '^[80]$')"
}

test_wire()
{
	local gcm="AES-GCM with 16 octet ICV [RFC4106]"

	tunnel_up || { ktap_fail "a connection"; return; }
	check "wire: tshark reads, authenticates and decrypts gcm" \
		wire gcm 20 "$gcm" NULL "$(key 20)" ""
	check "wire: tshark does not with another key" \
		wrong_key gcm "$gcm" NULL "0x$(printf '%040d' 1)"
	check "wire: tshark reads, authenticates and decrypts cbc-sha256" \
		wire cbc-sha256 20 "AES-CBC [RFC3602]" \
		"HMAC-SHA-256-128 [RFC4868]" "$(key 16)" "$(key 32)"
	tunnel_down
}

##############################################################################
# An SA without its connection

# nothing_leaves: packets for the SA are counted and seen nowhere
nothing_leaves()
{
	local file=$TEST_DIR/gone-$1.pcap

	save_counters
	capture_start "$NS_W" to_a "$file" || return
	ping_lost "$IN_A" "$IN_B" 3
	capture_stop || return
	# The latter is XFRM's for whatever goes wrong in the output of a type
	expect_moved A "EspTcpOutNoConn +3 XfrmOutStateProtoError +3" &&
	expect_moved B "" &&
	expect "packets on the wire" 0 "$(captured "$file" "$NOT_ND")"
}

no_connection()
{
	new_sas tunnel "$GCM" && nothing_leaves never
}

# The socket's own last packets are not what is looked for
socket_closed()
{
	wait_for connection_gone "$NS_A" && wait_for connection_gone "$NS_B" &&
	nothing_leaves closed
}

connection_gone()
{
	! in_ns "$1" ss -Htn "( sport = :$PORT or dport = :$PORT )" | grep -q .
}

resumes()
{
	ping_b "$IN_A" "$IN_B" 3 56 || return
	wait_for frames_agree
	expect_moved A "EspTcpInEsp +3 EspTcpOutEsp +3"
}

test_no_connection()
{
	outer 4
	inner 4
	PORT_A=40001
	flush_xfrm
	set_policies tunnel "$IN_A" "$IN_B"
	check "an SA that never had a connection sends nothing" no_connection

	connect_pair 4 -s $PORT_A -r || { ktap_fail "reconnect"; return; }
	save_counters
	check "its connection comes: traffic flows" resumes
	# A's end resets, so that no TIME_WAIT keeps the port
	disconnect_pair "$PAIR_A" "$PAIR_B"
	check "the socket is closed under the SA: nothing leaves" socket_closed

	connect_pair 4 -s $PORT_A -r || { ktap_fail "reconnect"; return; }
	save_counters
	check "a new connection on the same ports: traffic resumes" resumes
	tunnel_down
}

setup_hosts && start_echo || ktap_skip_all "no hosts"

for test in ${ESP_TESTS:-matrix replay refused wire more no_connection}; do
	"test_$test"
done
ktap_finish
