#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Large segments of inner connections: the sender cuts them itself and the
# receiver makes large packets again (EspTcpOutGso, EspTcpInGro). Nobody can tell
# but by these two counters: what arrives is what was sent, each packet counts for
# the SA and in its replay window, and who is forwarded to gets them as they were.

cd "$(dirname "$0")" || exit 1
# shellcheck source=lib.sh
. ./lib.sh
# shellcheck source=xfrm_lib.sh
. ./xfrm_lib.sh

require_root
require_tools cmp ethtool ip nft socat ss sysctl tcpdump timeout tshark
require_module
# Captures and sockets want a directory of this machine, not a shared one
TEST_LOG_DIR="" test_dir
ktap_plan

# set_wmem MAX: what a connection may have to send, octets. A sender gets so far ahead
# of a slow machine: all together have less than the queue takes, so that it is never
# full.
set_wmem()
{
	local ns

	for ns in "$NS_A" "$NS_B" ${NS_C-}; do
		in_ns "$ns" sysctl -qw "net.ipv4.tcp_wmem=4096 16384 $1" || return
	done
}

readonly WMEM=65536 WMEM_OF_FOUR=24576

# fresh_sas MODE ALGO WORDS...: they have the SPIs and the keys of those of the last
# test. What TCP still repeated of it would be in their windows.
fresh_sas()
{
	wait_for connections_gone && new_sas "$@"
}

# in_moved A|B NAME: by how much a counter moved, 0 if it did not
in_moved()
{
	moved "$1"
	[[ " $MOVED " == *" $2 +"* ]] || { echo 0; return; }
	local rest=${MOVED#*"$2 +"}
	echo "${rest%% *}"
}

# The sender's and the receiver's large packets, both directions
both_large()
{
	local end name

	for end in A B; do
		for name in EspTcpOutGso EspTcpInGro; do
			[ "$(in_moved $end $name)" -gt 0 ] && continue
			moved $end
			echo "$name of $end did not move: $MOVED"
			return 1
		done
	done
}

# nothing_lost [NAME]...: what moved on either end tells of no error and no drop,
# and of nothing else but NAME
nothing_lost()
{
	local names="EspTcp(In|Out)(Esp|Gro|Gso)|EspTcpOutRenumbered" end other

	names+=$(printf '|%s' "$@")
	for end in A B; do
		moved $end
		other=$(sed -E "s/($names) \+[0-9]+ ?//g" <<< "$MOVED")
		expect "other counters of $end" "" "$other" || return
	done
}

# Both hosts have counted as many packets for both SAs, and as many as there were frames
sas_agree()
{
	local -A a_packets
	local spi

	read_sas "$NS_A"
	for spi in $SPI_AB $SPI_BA; do
		a_packets[$spi]=${SA_PACKETS[$spi]}
	done
	read_sas "$NS_B"
	for spi in $SPI_AB $SPI_BA; do
		expect "packets of $spi" "${a_packets[$spi]}" \
			"${SA_PACKETS[$spi]}" || return
	done
	moved A
	expect "packets and frames of A" "$(in_moved A EspTcpOutEsp)" \
		"${SA_PACKETS[$SPI_AB]}" &&
	expect "packets and frames of B" "$(in_moved B EspTcpOutEsp)" \
		"${SA_PACKETS[$SPI_BA]}"
}

# whole SRC DST [NAME]...: a transfer both ways, with large packets at both ends. It
# is the first that the SAs see. NAME as for nothing_lost.
whole()
{
	save_counters
	tcp_b "$1" "$2" && wait_for frames_agree && both_large &&
		nothing_lost "${@:3}" && sas_agree
}

# large OUTER INNER MODE [WORDS...]
large()
{
	local mode=$3

	connect_pair "$1" && inner "$2" && shift 3 && flush_xfrm || return
	[ "$mode" = tunnel ] || IN_A=$OUT_A IN_B=$OUT_B
	set_policies "$mode" "$IN_A" "$IN_B" && fresh_sas "$mode" "$@" &&
		whole "$IN_A" "$IN_B"
}

tunnel_down()
{
	flush_xfrm
	disconnect_pair "$PAIR_A" "$PAIR_B"
}

# bits N: N ones as such words, the last ones first
bits()
{
	local n=$1

	[ $((n % 32)) -eq 0 ] || printf '%08x ' $(((1 << n % 32) - 1))
	for (( ; n >= 32; n -= 32)); do
		printf 'ffffffff '
	done
	echo
}

# marked SIZE WORDS...: every number is marked as received. With ECN a packet is
# marked, and not lost, where the machine is so slow that its sender is to slow down.
marked()
{
	local size=$1 seq window status=0

	shift
	fresh_sas tunnel "$GCM" "$@" && in_ns "$NS_A" sysctl -qw net.ipv4.tcp_ecn=1 ||
		return
	whole "$IN_A" "$IN_B" EspTcpOutAqmMark || status=1
	in_ns "$NS_A" sysctl -qw net.ipv4.tcp_ecn=2 && [ $status -eq 0 ] || return
	read -r seq window <<< "$(window_of_b)"
	read_sas "$NS_B"
	expect "last number" "${SA_PACKETS[$SPI_AB]}" $((16#$seq)) &&
	expect "window" "$(bits "$size" | xargs)" "$(xargs <<< "$window")"
}

# A connection whose packets a helper of connection tracking reads, one by one
with_helper()
{
	local status=0

	fresh_sas tunnel "$GCM" && save_counters &&
	tcp_b "$IN_A" "$IN_B" && wait_for frames_agree && nothing_lost &&
	expect "frames cut here" 0 "$(in_moved A EspTcpOutGso)" || status=1
	in_ns "$NS_A" nft delete table ip helper && return $status
}

set_helper()
{
	in_ns "$NS_A" nft -f - 2>/dev/null <<-EOF
	table ip helper {
		ct helper ftp {
			type "ftp" protocol tcp
		}
		chain output {
			type filter hook output priority filter
			tcp dport 7 ct helper set "ftp"
		}
	}
	EOF
}

# A window of 1 holds no second number while XFRM looks at the first
window_of_one()
{
	fresh_sas tunnel "$GCM" replay-window 1 && save_counters &&
	tcp_b "$IN_A" "$IN_B" && wait_for frames_agree && nothing_lost &&
	expect "records that joined" 0 "$(in_moved B EspTcpInGro)"
}

turned_off()
{
	fresh_sas tunnel "$GCM" && save_counters &&
	in_ns "$NS_B" sysctl -qw net.espintcp.gro=0 &&
	tcp_b "$IN_A" "$IN_B" && wait_for frames_agree && nothing_lost &&
	expect "records that joined" 0 "$(in_moved B EspTcpInGro)" &&
	in_ns "$NS_B" sysctl -qw net.espintcp.gro=1
}

# Records of several connections, one after the other as they come. They may be
# told to slow down, and a packet that is lost for that is sent again.
several()
{
	local pids=() i pid status=0

	fresh_sas tunnel "$GCM" replay-window 32 && save_counters &&
	set_wmem $WMEM_OF_FOUR || return
	for i in 1 2 3 4; do
		tcp_b "$IN_A" "$IN_B" & pids+=($!)
	done
	for pid in "${pids[@]}"; do
		wait "$pid" || status=1
	done
	set_wmem $WMEM || return
	wait_for frames_agree && both_large &&
		nothing_lost EspTcpOutAqmDrop EspTcpOutAqmMark &&
		[ $status -eq 0 ]
}

sent_all_it_may()
{
	[ "$(in_moved A EspTcpOutEsp)" -ge "$1" ]
}

# The SA sends as many packets as it may, and not one more, however large the
# segments that hold them
limit()
{
	local max=150 pid

	fresh_sas tunnel "$GCM" limit packet-hard $max && save_counters || return
	timeout 300 ip netns exec "$NS_A" sh -c \
		"$(tcp_command "$IN_A" "$IN_B")" > /dev/null 2>&1 &
	pid=$!
	wait_for sent_all_it_may $max
	kill $pid
	wait $pid
	[ "$(in_moved A EspTcpOutGso)" -gt 0 ] &&
		expect "packets" $max "$(in_moved A EspTcpOutEsp)"
}

FAULTS=/sys/kernel/debug FAULTS_MAX=1000000

# set_faults KIND NAME=VALUE...: what the kernel has no such setting for is left out
set_faults()
{
	local dir=$FAULTS/$1 setting

	shift
	for setting; do
		[ -e "$dir/${setting%%=*}" ] || continue
		echo "${setting#*=}" > "$dir/${setting%%=*}" || return
	done
}

# Those of the reference tracker, which would see nothing any more, are not to fail:
# from its address to that of the next symbol.
tracker_range()
{
	grep -A 1 ' ref_tracker_alloc$' /proc/kallsyms | awk '
		{ at[NR] = "0x" $1 }
		END { if (NR == 2) print "reject-start=" at[1], "reject-end=" at[2] }'
}

# fail_some KIND N: one in N of the allocations below the module's code
fail_some()
{
	local module=/sys/module/espintcp start end tracker

	read -r start < $module/sections/.text
	read -r end < $module/coresize
	printf -v end '%#x' $((start + end))
	read -ra tracker < <(tracker_range)
	# What a test before left as space would have to be used up first
	set_faults "$1" ignore-gfp-wait=N ignore-gfp-highmem=N min-order=0 \
		stacktrace-depth=32 require-start="$start" require-end="$end" \
		"${tracker[@]}" verbose=0 space=0 interval="$2" times=$FAULTS_MAX probability=100
}

# failed KIND: how many have
failed()
{
	local left

	read -r left < $FAULTS/"$1"/times
	echo $((FAULTS_MAX - left))
}

# Large segments without memory for them, records without memory to join: they
# go the ordinary way, or are lost and sent again
without_memory()
{
	local kind status=0

	new_sas tunnel "$GCM" && save_counters || return
	for kind in failslab fail_page_alloc; do
		on_exit set_faults $kind probability=0
	done
	fail_some failslab 100 && fail_some fail_page_alloc 5 || return
	tcp_b "$IN_A" "$IN_B" || status=1
	for kind in failslab fail_page_alloc; do
		set_faults $kind probability=0
	done
	echo "failed: $(failed failslab) objects, $(failed fail_page_alloc) pages"
	both_large && [ $status -eq 0 ] && [ "$(failed failslab)" -gt 0 ] &&
		[ "$(failed fail_page_alloc)" -gt 0 ]
}

# C behind B has B's inner address; its link carries packets as they are
setup_behind()
{
	setup_ns NS_C && set_wmem $WMEM &&
	ip link add lan netns "$NS_B" type veth \
		peer name veth0 netns "$NS_C" &&
	setup_addresses "$NS_B" lan 10.3.0.1/24 &&
	setup_addresses "$NS_C" veth0 10.3.0.2/24 "$IN_B/32" &&
	ip -n "$NS_C" route add default via 10.3.0.1 src "$IN_B" &&
	ip -n "$NS_B" addr del "$IN_B/32" dev lo &&
	ip -n "$NS_B" route add "$IN_B" via 10.3.0.2 &&
	ip -n "$NS_B" route replace "$IN_A" via "$OUT_A" &&
	ip -n "$NS_B" xfrm policy add src "$IN_A" dst "$IN_B" dir fwd \
		tmpl src "$OUT_A" dst "$OUT_B" proto esp reqid 1 mode tunnel &&
	in_ns "$NS_B" sysctl -qw net.ipv4.ip_forward=1 &&
	in_ns "$NS_B" ethtool -K lan tso off gso off tx off > /dev/null
}

start_echo_behind()
{
	ip netns exec "$NS_C" socat -b $ECHO_BLOCK \
		TCP-LISTEN:7,fork,reuseaddr PIPE 2>/dev/null &
	on_exit kill $!
	wait_for listens_behind
}

listens_behind()
{
	in_ns "$NS_C" ss -Hltn "sport = :7" | grep -q .
}

# as_many FILE: C gets as many packets as there were in the tunnel
as_many()
{
	read_sas "$NS_B"
	expect "packets" "${SA_PACKETS[$SPI_AB]}" \
		"$(captured "$1" "tcp and src $IN_A")"
}

# in_order FILE: where one processor does all the work, nothing overtakes anything
in_order()
{
	[ "$(nproc)" -gt 1 ] ||
	expect "packets missing or sent again" "" \
		"$(tshark -r "$1" -Y "tcp.analysis.retransmission ||
			tcp.analysis.lost_segment" 2>/dev/null | head -n 3)"
}

# B cuts again what it has made large, into as many packets as there were, and cuts
# for the tunnel what C sent. Not in this order, where two processors share the work.
# A sum of 0 is sent as 0xffff by skb_checksum_help(). Where it is right but for that,
# tshark says so and calls it bad all the same.
forwarded()
{
	local file=$TEST_DIR/lan.pcap

	fresh_sas tunnel "$GCM" replay-window 32 || return
	capture_start "$NS_C" veth0 "$file" "tcp and src $IN_A" || return
	whole "$IN_A" "$IN_B" || return
	wait_for as_many "$file.raw" || { as_many "$file.raw"; return 1; }
	capture_stop &&
	expect "packets that are too long or damaged" "" \
		"$(tshark -r "$file" -o tcp.check_checksum:TRUE \
			-o ip.check_checksum:TRUE -Y "frame.len > 1514 ||
			(tcp.checksum.status == 0 && !tcp.checksum.ffff) ||
			ip.checksum.status == 0" \
			2>/dev/null | head -n 3)" &&
	in_order "$file"
}

setup_hosts && set_wmem $WMEM || ktap_skip_all "no hosts"
start_echo || ktap_skip_all "no echo server"
make_more_data

for outer in 4 6; do
	for inner in 4 6; do
		check "IPv$inner in IPv$outer, tunnel mode" \
			large $outer $inner tunnel "$GCM"
		tunnel_down
	done
	check "IPv$outer, transport mode" large $outer $outer transport "$GCM"
	tunnel_down
done
for algo in cbc-sha256 chacha20poly1305 null-none; do
	check "with $algo" large 4 4 tunnel "${ALGO[$algo]}"
	tunnel_down
done

check "with ESN" large 4 4 tunnel "$GCM" flag esn replay-window 64
check "all numbers are marked, legacy window of 32" \
	marked 32 replay-window 32
check "all numbers are marked, window of 128" marked 128 replay-window 128
check "all numbers are marked, ESN, window of 40" \
	marked 40 flag esn replay-window 40
check "a window of 1" window_of_one
if set_helper; then
	check "with a conntrack helper" with_helper
else
	ktap_skip "with a conntrack helper" "no helpers"
fi
check "several connections" several
check "net.espintcp.gro=0" turned_off
check "a host behind the gateway" setup_behind
check "an echo server there" start_echo_behind
check "what is forwarded is in packets again" forwarded
# The connection this leaves behind goes on trying, with whatever SA there is
check "an SA with a limit" limit
# Last, since frames are lost and never agree again
if [ -d $FAULTS/failslab ]; then
	check "while allocations fail" without_memory
else
	ktap_skip "while allocations fail" "no fault injection"
fi
tunnel_down
ktap_finish
