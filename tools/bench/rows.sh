# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# The benchmark's rows.  row_NAME sets up its network, measures, and calls
# `metric NAME VALUE` for each figure.  Sourced by guest; $variant is one of
# direct, udp, intree, ours.

readonly rows_main="bulk-gcm bulk-null rtt20-gcm loss-outer-bbr bottleneck"
readonly rows_more="rtt-rises loss-outer-cubic loss-inner-bbr loss-wire small-udp latency-idle latency-load
	flows-4 flows-16 conns-1 conns-100 conns-10000 gateway bulk-gcm-gro
	bulk-null-gro memory"

is_tcp()
{
	[ "$variant" = intree ] || [ "$variant" = ours ]
}

# setup CIPHER [tcp_pair options]: on a path as $shape says from the begin, since
# TCP remembers the shortest round trip it ever saw, and on a wire as $on_wire makes it
shape= on_wire=true

setup()
{
	local cipher=$1

	shift
	net_two_hosts
	"$on_wire"
	# shellcheck disable=SC2086 # words
	[ -z "$shape" ] || net_shape $shape
	net_connect "$@"
	sa_add "$cipher"
	# The first packet of a tunnel finds no path MTU and an empty ARP cache.
	ip netns exec left ping -q -c 2 -i 0.2 $RI >/dev/null ||
		die "no answer through the tunnel"
}

# iperf CLIENT_NS SERVER_NS ADDRESS NAME [options]: leaves NAME.json
iperf()
{
	local client=$1 server=$2 address=$3 name=$4

	shift 4
	ip netns exec "$server" iperf3 -s -1 -D >/dev/null
	until ip netns exec "$server" ss -Hltn | grep -q :5201; do
		sleep 0.01
	done
	ip netns exec "$client" iperf3 -J -c "$address" "$@" \
		>"$out/$name.json" || die "iperf3 failed: see $name.json"
}

# goodput NAME: Mbit/s that arrived
goodput()
{
	jq '.end.sum_received.bits_per_second / 1e6' "$out/$1.json"
}

# The clock counts instructions: a longer run changes no digit that matters.
bulk()
{
	iperf left right $RI "$row" -t 2 -O 1 "$@"
	metric mbit "$(goodput "$row")"
}

row_bulk_gcm()
{
	setup gcm
	bulk
}

row_bulk_null()
{
	setup null
	bulk
}

readonly delay="netem limit 100000 delay 10ms"

# Without the begin, which depends on where slow start ends.
row_rtt20_gcm()
{
	shape=$delay
	setup gcm
	bulk -O 5 -t 5
}

# The path gets longer under the connection, as when a host moves
row_rtt_rises()
{
	setup gcm
	# shellcheck disable=SC2086 # words
	net_shape $delay
	bulk -O 5 -t 5
}

# The begin does not count: how soon a flow leaves slow start depends on where
# the first losses fall, and no two runs agree.
# loss INNER_CONGESTION [tcp_pair options]
loss()
{
	local inner=$1

	shift
	shape="$delay loss 1%"
	setup gcm "$@"
	iperf left right $RI "$row" -O 15 -t 15 -C "$inner"
	# Few packets make few losses, and where those fall is chance.
	if jq -e '.end.sum_received.bits_per_second < 50e6' "$out/$row.json"; then
		iperf left right $RI "$row" -O 15 -t 120 -C "$inner"
	fi >/dev/null
	metric mbit "$(goodput "$row")"
}

row_loss_outer_bbr()
{
	loss cubic -c bbr
}

row_loss_outer_cubic()
{
	loss cubic -c cubic
}

# A large segment is one packet to netem, and lost as one; here it is not.
row_loss_wire()
{
	on_wire=net_no_segmentation
	loss cubic -c bbr
}

row_loss_inner_bbr()
{
	loss bbr -c cubic
}

# average_ping FILE
average_ping()
{
	sed -n 's|^rtt .* = [^/]*/\([^/]*\)/.*|\1|p' "$1"
}

row_bottleneck()
{
	shape="netem limit 600 delay 10ms rate 50mbit"
	# The queue is counted in packets: the same for every variant only if
	# they are of one size.
	on_wire=net_no_segmentation
	setup gcm
	iperf left right $RI "$row" -O 5 -t 30 &
	sleep 5
	ip netns exec left ping -q -i 0.1 -c 295 $RI >"$out/$row.ping"
	wait $!
	metric mbit "$(goodput "$row")"
	metric ping_ms "$(average_ping "$out/$row.ping")"
}

row_small_udp()
{
	setup gcm
	small_packets
}

# Guest nanoseconds are instructions, the one CPU is never idle here, so
# time / packets is what a packet costs from sendto() to recvfrom().
small_packets()
{
	iperf left right $RI "$row" -u -l 64 -b 0 -t 2
	metric ns_packet "$(jq '.end.sum | .seconds * 1e9 /
		(.packets - .lost_packets)' "$out/$row.json")"
	metric lost_percent "$(jq .end.sum.lost_percent "$out/$row.json")"
}

# sockperf ping-pong, full round trips
round_trips()
{
	ip netns exec right sockperf sr --tcp -i $RI -p 11111 >/dev/null &
	until ip netns exec right ss -Hltn | grep -q :11111; do
		sleep 0.01
	done
	ip netns exec left sockperf pp --tcp --full-rtt -i $RI -p 11111 -m 64 \
		-t "$1" >"$out/$row.sockperf" || die "sockperf failed"
	metric p50_us "$(percentile 50)"
	metric p99_us "$(percentile 99)"
}

percentile()
{
	sed -n "s/.*percentile $1\\.000 = *//p" "$out/$row.sockperf"
}

row_latency_idle()
{
	setup gcm
	round_trips 2
}

row_latency_load()
{
	local bulk

	setup gcm
	net_shape netem limit 100000 delay 1ms rate 100mbit
	iperf left right $RI "$row" -t 25 &
	bulk=$!
	sleep 5
	round_trips 15
	kill -0 $bulk || die "the flow beside it ended first"
	wait $bulk
}

row_flows_4()
{
	setup gcm
	bulk -P 4
}

row_flows_16()
{
	setup gcm
	bulk -P 16
}

# Many tunnels between the two hosts, the traffic in the last one.
# connections N
connections()
{
	local count=$1 from to

	net_two_hosts
	net_connect -n "$count"
	sa_add_many "$count"
	inner from 1 "$count"
	inner to 2 "$count"
	iperf left right "$to" "$row" -B "$from" -t 2 -O 1
	metric mbit "$(goodput "$row")"
}

row_conns_1()
{
	connections 1
}

row_conns_100()
{
	connections 100
}

row_conns_10000()
{
	connections 10000
}

row_gateway()
{
	net_gateways
	net_connect
	sa_add gcm
	ip netns exec lefthost ping -q -c 2 -i 0.2 $RH >/dev/null ||
		die "no answer through the gateways"
	iperf lefthost righthost $RH "$row" -t 2 -O 1
	metric mbit "$(goodput "$row")"
}

# Decrypted packets enter GRO if the device their segments came by has it on:
# a network card has, veth has not.
receive_offload()
{
	local ns

	for ns in left right; do
		ip netns exec $ns ethtool -K wire gro on
	done
}

row_bulk_gcm_gro()
{
	setup gcm
	receive_offload
	bulk
}

row_bulk_null_gro()
{
	setup null
	receive_offload
	bulk
}

# Kernel memory of an idle connection with its two SAs, both ends counted,
# and of the ULP alone on a TCP connection that is open already.
row_memory()
{
	local count=1000 base tcp ulp sa

	# run_row() is a subshell; there is no network to account for.
	is_tcp || exit 0
	net_two_hosts
	base=$(memory_used)
	net_daemon connected "$tools/tcp_pair" -w -p $port -n $count left right $R
	tcp=$(memory_used)
	echo >&"$daemon_in"
	net_expect ready
	ulp=$(memory_used)
	sa_add_many $count
	sa=$(memory_used)
	metric tcp_bytes $(((tcp - base) / count))
	metric ulp_bytes $(((ulp - tcp) / count))
	metric sa_bytes $(((sa - ulp) / count))
}

# Octets, counted from wherever
memory_used()
{
	sync
	echo 3 >/proc/sys/vm/drop_caches
	echo $((-1024 * $(awk '/^MemFree/ { print $2 }' /proc/meminfo)))
}
