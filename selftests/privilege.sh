#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Who may use espintcp: whoever has CAP_NET_ADMIN over the initial user
# namespace.  A user with namespaces of its own may not, unless the module
# parameter allow_userns says so.

. "$(dirname "$0")/lib.sh"

readonly PARAMETER=/sys/module/espintcp/parameters/allow_userns

require_root
require_module
require_tools setpriv unshare ip
ktap_plan ""

# The repository may be where others cannot read.
BIN="$(mktemp -d)"
on_exit rm -rf "$BIN"
cp "$(dirname "$0")/tcp_pair" "$BIN" && chmod 755 "$BIN" || exit $ksft_fail

# Runs in namespaces as the case may be.  Says what either end of a connection
# got from setting the ULP ("ready", or the error), and which counters moved.
cat >"$BIN/attach" <<'EOT'
#!/bin/bash
ended_or() { ! kill -0 "$1" 2>/dev/null || grep -q "$2" "$3"; }
wait_for() { for ((i = 0; i < 600; i++)); do "$@" && return; sleep 0.05; done; }

ip link set lo up 2>/dev/null
dir="$(mktemp -d)"
"$1/tcp_pair" -l 127.0.0.1 -p 4500 >"$dir/listener" 2>&1 </dev/null &
listener=$!
wait_for ended_or $listener listening "$dir/listener"
"$1/tcp_pair" -c 127.0.0.1 -p 4500 >"$dir/client" 2>&1 </dev/null &
client=$!
wait_for ended_or $listener ready "$dir/listener"
wait_for ended_or $client ready "$dir/client"
grep -v listening "$dir/listener" | sed 's/^ready.*/ready/; s/^/listener: /'
sed 's/^ready.*/ready/; s/^/client: /' "$dir/client"
awk '/^EspTcp/ && $2 { print $1, $2 }' /proc/self/net/espintcp_stat
kill $listener $client 2>/dev/null
wait
rm -rf "$dir"
EOT

# The arguments are those of the encapsulation, none for plain ESP.
cat >"$BIN/add_sa" <<'EOT'
#!/bin/bash
ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x100 mode tunnel \
	"$@" aead "rfc4106(gcm(aes))" \
	0x000102030405060708090a0b0c0d0e0f10111213 128 2>&1 && echo added
ip xfrm state list | grep -c ^src
awk '$2 { print $1, $2 }' /proc/self/net/espintcp_stat /proc/self/net/xfrm_stat
EOT
chmod 755 "$BIN/attach" "$BIN/add_sa"

readonly ESPINTCP_SA=(encap espintcp 4500 4501 0.0.0.0)
readonly DENIED="listener: tcp_pair: TCP_ULP espintcp: Operation not permitted
client: tcp_pair: TCP_ULP espintcp: Operation not permitted"
readonly GRANTED="listener: ready
client: ready
EspTcpConnOpened 2"
readonly ADDED="added
1"

# What an unprivileged user can get without asking anybody.
in_userns()
{
	as_nobody unshare --map-root-user --net -- "$@"
}

as_root()
{
	unshare --net -- sh -c 'ip link set lo up; exec "$@"' sh "$@"
}

# Root, but not over the network.
without_net_admin()
{
	as_root setpriv --bounding-set=-net_admin --inh-caps=-net_admin -- "$@"
}

allow_userns()
{
	echo "$1" >$PARAMETER
}

# An SA is refused with the reason, and is not there.
assert_sa_refused()
{
	local output

	output="$(in_userns "$BIN/add_sa" "${ESPINTCP_SA[@]}")"
	grep -q "^Error: .*CAP_NET_ADMIN.*allow_userns" <<<"$output"
	assert_eq "$1: the reason is told" 0 $?
	assert_eq "$1: no SA, no counter moved" 0 \
		"$(grep -v "^Error:" <<<"$output")"
}

if ! in_userns true 2>/dev/null; then
	ktap_skip "user namespaces" "no unprivileged user namespaces here"
	ktap_finish
fi

was="$(cat $PARAMETER)"
on_exit allow_userns "$was"

assert_eq "allow_userns is off by default" N "$was"

# That the cases below fail for no other reason.
assert_eq "root in a network namespace: ULP" \
	"$GRANTED" "$(as_root "$BIN/attach" "$BIN")"
assert_eq "root in a network namespace: SA" \
	"$ADDED" "$(as_root "$BIN/add_sa" "${ESPINTCP_SA[@]}")"

for allow in N Y; do
	allow_userns $allow
	assert_eq "no namespace, allow_userns=$allow: no ULP" \
		"$DENIED" "$(as_nobody "$BIN/attach" "$BIN" | grep -v ^Esp)"
	assert_eq "no CAP_NET_ADMIN, allow_userns=$allow: no ULP" \
		"$DENIED" "$(without_net_admin "$BIN/attach" "$BIN")"
done

allow_userns N
assert_eq "user namespace: no ULP, no counter moved" \
	"$DENIED" "$(in_userns "$BIN/attach" "$BIN")"
assert_sa_refused "user namespace"
assert_eq "user namespace: SA without TCP is the kernel's own business" \
	"$ADDED" "$(in_userns "$BIN/add_sa")"

allow_userns Y
assert_eq "user namespace, allow_userns=Y: ULP" \
	"$GRANTED" "$(in_userns "$BIN/attach" "$BIN")"
assert_eq "user namespace, allow_userns=Y: SA" \
	"$ADDED" "$(in_userns "$BIN/add_sa" "${ESPINTCP_SA[@]}")"

# It is no matter of once allowed, always allowed.
allow_userns N
assert_eq "user namespace, allow_userns=N again: no ULP" \
	"$DENIED" "$(in_userns "$BIN/attach" "$BIN")"

ktap_finish
