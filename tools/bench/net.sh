# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# The network the benchmark's rows run on: namespaces, links, SAs and, for the
# TCP variants, the connections.  Sourced by guest; $variant is one of direct,
# udp, intree, ours.
#
#   left (L, inner LI) ---- right (R, inner RI)
#
# or, for the gateway row, with a host behind each of the two.

readonly L=192.0.2.1 R=192.0.2.2
readonly LI=10.1.0.1 RI=10.2.0.1
readonly LH=10.1.0.2 RH=10.2.0.2	# the hosts behind the gateways
readonly port=4500

declare -rA algorithms=(
	[gcm]="aead rfc4106(gcm(aes)) 0x$(printf '%040d' 7) 128"
	[null]="enc ecb(cipher_null) \"\" auth digest_null \"\""
)

daemons=() fds=()

net_clean()
{
	local ns fd pid

	set +e	# as a trap it runs to its end, whatever was left standing
	for fd in "${fds[@]}"; do
		exec {fd}>&-
	done
	for ns in $(ip netns list | cut -d' ' -f1); do
		ip netns pids "$ns" | xargs -r kill 2>/dev/null
	done
	for pid in "${daemons[@]}"; do
		wait "$pid" 2>/dev/null
	done
	daemons=() fds=()
	for ns in $(ip netns list | cut -d' ' -f1); do
		ip netns del "$ns"
	done
}

net_ns()
{
	local ns

	for ns; do
		ip netns add "$ns"
		ip -n "$ns" link set lo up
	done
}

# net_link NS DEV ADDR PEER_NS PEER_DEV PEER_ADDR
net_link()
{
	ip link add "$2" netns "$1" type veth peer name "$5" netns "$4"
	ip -n "$1" addr add "$3/24" dev "$2"
	ip -n "$4" addr add "$6/24" dev "$5"
	ip -n "$1" link set "$2" up
	ip -n "$4" link set "$5" up
}

net_two_hosts()
{
	net_ns left right
	net_link left wire $L right wire $R
	ip -n left route add local 10.1.0.0/16 dev lo
	ip -n right route add local 10.2.0.0/16 dev lo
	ip -n left route add 10.2.0.0/16 via $R src $LI
	ip -n right route add 10.1.0.0/16 via $L src $RI
}

net_gateways()
{
	net_ns left right lefthost righthost
	net_link left wire $L right wire $R
	net_link left lan $LI lefthost lan $LH
	net_link right lan $RI righthost lan $RH
	ip -n left route add 10.2.0.0/16 via $R
	ip -n right route add 10.1.0.0/16 via $L
	ip -n lefthost route add default via $LI
	ip -n righthost route add default via $RI
	ip netns exec left sysctl -qw net.ipv4.ip_forward=1
	ip netns exec right sysctl -qw net.ipv4.ip_forward=1
}

# The same queue discipline for both directions of the wire.
net_shape()
{
	local ns

	for ns in left right; do
		tc -n $ns qdisc replace dev wire root "$@"
	done
}

# net_esp_offload on|off: software ESP offload lets an inner TCP hand over 64 KiB at
# a time. Nothing loads it by itself, but it is the best the others can do.
net_esp_offload()
{
	[ "$variant" != ours ] && [ -z "${NO_OFFLOAD:-}" ] || return 0
	if [ "$1" = on ]; then
		modprobe -qa esp4_offload esp6_offload || true
		return
	fi
	# SAs that were there go some time after their namespace.
	until modprobe -qr esp4_offload esp6_offload; do
		sleep 0.1
	done
}

# Packets on the wire no larger than its MTU, if the SAs are made after it
net_no_segmentation()
{
	local ns

	net_esp_offload off
	for ns in left right; do
		ip netns exec $ns ethtool -K wire tso off gso off
	done
}

# sa_tunnel CIPHER NUMBER LEFT_NET RIGHT_NET: prints the left's commands of one
# tunnel for `ip -batch`, and adds those of the right. Without a process: there may
# be 10,000 tunnels.
sa_tunnel()
{
	local cipher=$1 i=$2 lnet=$3 rnet=$4
	local lport=$((port + i)) to="" back=""

	case $variant in
	udp)
		to="encap espinudp $port $port 0.0.0.0"
		back=$to
		;;
	intree|ours)
		to="encap espintcp $lport $port 0.0.0.0"
		back="encap espintcp $port $lport 0.0.0.0"
		;;
	esac
	sa_state $L $R $((2 * i)) "$cipher" "$to"
	sa_state $R $L $((2 * i + 1)) "$cipher" "$back"
	sa_policy out $L $R $((2 * i)) "$lnet" "$rnet"
	sa_policy in $R $L $((2 * i + 1)) "$rnet" "$lnet"
	sa_policy fwd $R $L $((2 * i + 1)) "$rnet" "$lnet"
	{
		sa_state $L $R $((2 * i)) "$cipher" "$to"
		sa_state $R $L $((2 * i + 1)) "$cipher" "$back"
		sa_policy out $R $L $((2 * i + 1)) "$rnet" "$lnet"
		sa_policy in $L $R $((2 * i)) "$lnet" "$rnet"
		sa_policy fwd $L $R $((2 * i)) "$lnet" "$rnet"
	} >>"$tmp/right.xfrm"
}

# sa_state SRC DST SPI CIPHER ENCAP
sa_state()
{
	echo "xfrm state add src $1 dst $2 proto esp spi $3 reqid $3" \
		"mode tunnel replay-window 128 ${algorithms[$4]} $5"
}

# sa_policy DIR SRC DST REQID SRC_NET DST_NET
sa_policy()
{
	echo "xfrm policy add src $5 dst $6 dir $1" \
		"tmpl src $2 dst $3 proto esp mode tunnel reqid $4"
}

# sa_add CIPHER: one tunnel for everything
sa_add()
{
	: >"$tmp/right.xfrm"
	sa_tunnel "$1" 1 10.1.0.0/16 10.2.0.0/16 >"$tmp/left.xfrm"
	sa_load
}

# inner NAME SIDE NUMBER: the variable NAME gets the address of SIDE, 1 or 2, that
# only tunnel NUMBER, from 1, has inside
inner()
{
	printf -v "$1" "10.$2.$(($3 / 250 + 1)).$(($3 % 250 + 1))"
}

# sa_add_many COUNT: tunnel i is for one pair of addresses, and uses
# connection i of tcp_pair where the variant has connections.
sa_add_many()
{
	local i left right

	: >"$tmp/right.xfrm"
	for ((i = 1; i <= $1; i++)); do
		inner left 1 $i
		inner right 2 $i
		sa_tunnel gcm $i "$left" "$right"
	done >"$tmp/left.xfrm"
	sa_load
}

sa_load()
{
	local ns

	for ns in left right; do
		ip -n $ns -batch "$tmp/$ns.xfrm"
	done
}

# net_daemon WORD COMMAND...: start a helper and wait until it says WORD.  It
# stays until its stdin is closed, by net_clean; daemon_in and daemon_out are
# the descriptors to talk with the last one started.
net_daemon()
{
	local word=$1 fifo=$tmp/daemon.${#daemons[@]}

	shift
	mkfifo "$fifo.in" "$fifo.out"
	"$@" <"$fifo.in" >"$fifo.out" &
	daemons+=($!)
	exec {daemon_in}>"$fifo.in" {daemon_out}<"$fifo.out"
	fds+=("$daemon_in" "$daemon_out")
	rm "$fifo.in" "$fifo.out"
	net_expect "$word"
}

net_expect()
{
	local line

	read -r line <&"$daemon_out"
	[ "$line" = "$1" ] || die "expected '$1' and got '$line'"
}

# What the hosts counted, for whoever wants to know why a figure is as it is.
net_account()
{
	local ns

	for ns in left right; do
		{
			ip netns exec $ns ss -tinm
			tc -n $ns -s qdisc show dev wire
			ip netns exec $ns nstat -as
			ip netns exec $ns cat /proc/net/xfrm_stat
			[ "$variant" != ours ] ||
				ip netns exec $ns cat /proc/net/espintcp_stat
		} >"$out/$ns.account"
	done
}

# The sockets that carry ESP: net_connect [tcp_pair options]
net_connect()
{
	local ns

	case $variant in
	udp)
		for ns in left right; do
			net_daemon ready ip netns exec $ns "$here/udp_encap.py" $port
		done
		;;
	intree|ours)
		net_daemon ready "$tools/tcp_pair" -p $port "$@" left right $R
		;;
	esac
}
