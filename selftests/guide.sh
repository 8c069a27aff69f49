#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The examples of the user's guide, as they stand, with nothing changed but the
# gateway's name, and where UDP passes how long it is waited for: a laptop behind a
# NAT, and firewalls that pass more or less.

cd "$(dirname "$0")" || exit 1
# shellcheck source=lib.sh
. ./lib.sh
# shellcheck source=libreswan_lib.sh
. ./libreswan_lib.sh

EXAMPLES=../examples
TOOLS=$PWD/../tools/espintcp

require_root
require_tools certutil ip jq nft ping ss
pluto_find || ktap_skip_all "no libreswan"
require_module
[ -d $EXAMPLES ] || ktap_skip_all "no examples"
[ -x "$TOOLS/espintcp" ] || ktap_skip_all "no $TOOLS/espintcp"
# A directory shared with a VM's host has no place for sockets
TEST_LOG_DIR="" test_dir
PLUTO_DIR=$TEST_DIR
ktap_plan

GATEWAY_IP=198.51.100.1
GATEWAY_IN=10.2.0.1
LAPTOP_IN=10.1.0.1

# make_host NAMESPACE DEV-IN-ROUTER ADDRESS ROUTER'S-ADDRESS INNER-ADDRESS
make_host()
{
	ip link add "$2" netns "$ROUTER" type veth \
		peer name eth0 netns "$1" &&
	setup_addresses "$ROUTER" "$2" "$4/24" &&
	setup_addresses "$1" eth0 "$3/24" &&
	setup_addresses "$1" lo "$5/24" &&
	ip -n "$1" route add default via "$4"
}

make_hosts()
{
	setup_ns LAPTOP GATEWAY ROUTER &&
	in_ns "$ROUTER" sysctl -qw net.ipv4.ip_forward=1 &&
	make_host "$LAPTOP" laptop 192.0.2.7 192.0.2.254 $LAPTOP_IN &&
	make_host "$GATEWAY" gateway $GATEWAY_IP 198.51.100.254 $GATEWAY_IN &&
	in_ns "$ROUTER" nft -f - <<-EOF
	table ip hotel {
		chain nat {
			type nat hook postrouting priority srcnat
			oif gateway masquerade
		}
		chain firewall {
			type filter hook forward priority filter
		}
	}
	EOF
}

# firewall RULE...: what the hotel's drops
firewall()
{
	local rule

	in_ns "$ROUTER" nft flush chain ip hotel firewall || return
	for rule; do
		# shellcheck disable=SC2086 # words of a rule
		in_ns "$ROUTER" nft add rule ip hotel firewall $rule || return
	done
}

# daemon NAMESPACE EXAMPLE [SED-SCRIPT]: started; it loads what has auto=add, as
# ipsec.service does
daemon()
{
	local dir=$PLUTO_DIR/$1

	pluto_setup "$1" || return
	sed "s/vpn.example.com/$GATEWAY_IP/; ${3:-}" "$EXAMPLES/$2" \
		> "$dir/ipsec.conf"
	cat $EXAMPLES/ipsec.secrets > "$dir/ipsec.secrets"
	pluto_start "$1" && pluto_load_all "$1" && pluto_loaded "$1" office
}

# An emulated machine that has more to do may take more than five seconds to answer
daemons()
{
	daemon "$GATEWAY" gateway.conf &&
	daemon "$LAPTOP" laptop.conf "s/timeout=5s/timeout=60s/" ||
		show_logs
}

change_daemon()
{
	pluto_stop "$1"
	rm -rf "${PLUTO_DIR:?}/$1"
	daemon "$1" "$2"
}

show_logs()
{
	local ns

	for ns in "$LAPTOP" "$GATEWAY"; do
		echo "the log of ${ns%-*}:"
		tail -n 15 "$(pluto_log "$ns")" | cut -c -160
	done
	return 1
}

# office ENCAPSULATION PORT: up, traffic, and what it travels in
office()
{
	whack "$LAPTOP" --name office --initiate --asynchronous
	wait_for pluto_established "$LAPTOP" office &&
	wait_for pluto_established "$GATEWAY" office || { show_logs; return; }
	in_ns "$LAPTOP" ping -q -n -I $LAPTOP_IN -c 3 -i 0.1 -W 20 \
		$GATEWAY_IN || return
	ip -n "$LAPTOP" xfrm state | grep "encap type $1 .*$2" && return
	ip -n "$LAPTOP" xfrm state
	return 1
}

over()
{
	whack "$LAPTOP" --name office --terminate > /dev/null
	wait_for gone "$LAPTOP" && wait_for gone "$GATEWAY"
}

gone()
{
	! ip -n "$1" xfrm state | grep -q .
}

test_udp_passes()
{
	firewall && office espinudp "dport 4500" && over
}

test_udp_blocked()
{
	firewall "udp dport { 500, 4500 } drop" "ip protocol esp drop" &&
	change_daemon "$LAPTOP" laptop.conf &&
	office espintcp "dport 4500" && over
}

test_web_only()
{
	firewall "tcp dport { 80, 443 } accept" "iif laptop drop" &&
	in_ns "$GATEWAY" nft -f "$EXAMPLES/port-443.nft" &&
	change_daemon "$LAPTOP" laptop-443.conf &&
	office espintcp "dport 443" && over
}

# fake_ipsec DIR: what ipsec(8) does, for the laptop's daemon and not the machine's
fake_ipsec()
{
	local dir=$PLUTO_DIR/$LAPTOP

	mkdir "$1" &&
	cat > "$1/ipsec" <<-EOF &&
	#!/bin/sh
	whack="$PLUTO_LIBEXEC/whack --ctlsocket $dir/run/pluto.ctl"
	case "\$1 \$2" in
	"auto --add")
		exec $PLUTO_LIBEXEC/addconn --config $dir/ipsec.conf \\
			--ctlsocket $dir/run/pluto.ctl "\$3" ;;
	"auto --up")
		exec \$whack --initiate --name "\$3" ;;
	"auto --delete")
		exec \$whack --delete --name "\$3" ;;
	*)
		exec \$whack --\$1 ;;
	esac
	EOF
	chmod +x "$1/ipsec"
}

# The laptop's end of the TCP connection
connection()
{
	in_ns "$LAPTOP" ss -Htn state established "dport = :4500" |
		awk '{ print $3 }'
}

# connected_anew OLD: and the tunnel works
connected_anew()
{
	local now

	now=$(connection)
	[ -n "$now" ] && [ "$now" != "$1" ] &&
	in_ns "$LAPTOP" ping -q -n -I $LAPTOP_IN -c 1 -W 5 $GATEWAY_IN > /dev/null
}

# The gateway's daemon is gone without a word, with its connections, and starts anew
gateway_restarts()
{
	local pid

	pid=$(pluto_pid "$GATEWAY")
	kill -KILL "$pid" && wait_for pluto_gone "$pid" &&
	pluto_start_anew "$GATEWAY" office
}

test_reconnect()
{
	local loop old status log=$PLUTO_DIR/reconnect.log

	firewall "udp dport { 500, 4500 } drop" "ip protocol esp drop" &&
	change_daemon "$LAPTOP" laptop.conf &&
	office espintcp "dport 4500" && fake_ipsec "$PLUTO_DIR/bin" || return
	old=$(connection)
	ip netns exec "$LAPTOP" env PATH="$PLUTO_DIR/bin:$TOOLS:$PATH" \
		$EXAMPLES/reconnect office > "$log" 2>&1 &
	loop=$!
	on_exit kill $loop
	gateway_restarts &&
	WAIT_TIMEOUT=$((3 * WAIT_TIMEOUT)) wait_for connected_anew "$old" &&
	grep "office: there is no connection, making one" "$log"
	status=$?
	kill $loop
	wait $loop
	[ $status -ne 0 ] || return 0
	cat "$log"
	show_logs
}

make_hosts || ktap_skip_all "no hosts"
check "the daemons start with the examples" daemons || ktap_finish
check "nothing is blocked: UDP port 4500" test_udp_passes
check "UDP and ESP are blocked: TCP port 4500" test_udp_blocked
check "all but the Web is blocked: TCP port 443" test_web_only
check "the connection is lost: a new one" test_reconnect
ktap_finish
