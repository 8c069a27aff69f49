#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The tracepoints say what happens: each is seen in tracefs, with the values of
# the traffic that was sent, and at a drop the kernel's own reason with it.

cd "$(dirname "$0")" || exit 1
# shellcheck source=lib.sh
. ./lib.sh
# shellcheck source=xfrm_lib.sh
. ./xfrm_lib.sh

require_root
require_tools ip ping socat
require_module
# A directory shared with a VM's host has no place for fifos
TEST_LOG_DIR="" test_dir
ktap_plan

TRACING=/sys/kernel/tracing
INSTANCE=$TRACING/instances/espintcp-test

trace_start()
{
	[ -d $TRACING/events ] || mount -t tracefs nodev $TRACING || return
	[ -d $TRACING/events/espintcp ] || return
	mkdir $INSTANCE && on_exit rmdir $INSTANCE || return
	echo 1 > $INSTANCE/events/espintcp/enable
	on_exit trace_stop
}

trace_stop()
{
	echo 0 > $INSTANCE/events/enable
}

trace_forget()
{
	echo > $INSTANCE/trace
}

# traced EVENT REGEX: it is there
traced()
{
	grep -Eq " $1: .*$2" $INSTANCE/trace
}

# expect_traced EVENT REGEX...: each of the pairs comes to be there
expect_traced()
{
	while [ $# -gt 0 ]; do
		if ! wait_for traced "$1" "$2"; then
			echo "no $1 with $2 in:"
			grep -v '^#' $INSTANCE/trace | cut -c 34-
			return 1
		fi
		shift 2
	done
}

test_esp()
{
	local a="$V4_A:$PORT_A" b="$V4_B:$PORT" len

	trace_forget
	new_sas tunnel "${ALGO[gcm]}" && ping_b $IN4_A $IN4_B 1 100 || return
	# Two octets of length, SPI and number, IV, ping, padding, ICV
	len=$((2 + 8 + 8 + 20 + 8 + 100 + 4 + 16))
	expect_traced \
		espintcp_path "spi=0x00001001 reqid=1 .* local=$a peer=$b" \
		espintcp_queued "local=$a peer=$b kind=esp len=$len" \
		espintcp_sent "local=$a peer=$b kind=esp len=$len" \
		espintcp_received "local=$b peer=$a kind=esp len=$len" \
		espintcp_sent "local=$b peer=$a kind=esp len=$len" \
		espintcp_received "local=$a peer=$b kind=esp len=$len"
}

test_no_connection()
{
	trace_forget
	disconnect_pair "$PAIR_A" "$PAIR_B"
	# From the connection to none
	ping_lost $IN4_A $IN4_B 1
	expect_traced espintcp_path "spi=0x00001001 .* old_local=$V4_A:$PORT_A" \
		espintcp_drop "why=out_no_conn n=1"
}

# A listener that has the ULP, and a peer that has not
raw_peer()
{
	ip netns exec "$NS_B" ./tcp_pair -b -l $V4_B -p $PORT \
		> "$TEST_DIR/raw.b" 2>&1 < /dev/null &
	wait_for grep -q listening "$TEST_DIR/raw.b" || return
	mkfifo "$TEST_DIR/raw" || return
	ip netns exec "$NS_A" socat -u - "TCP:$V4_B:$PORT,nodelay" \
		< "$TEST_DIR/raw" &
	exec 9> "$TEST_DIR/raw"
	printf 'IKETCP' >&9
	wait_for grep -q ready "$TEST_DIR/raw.b"
}

test_records()
{
	trace_forget
	raw_peer || return
	printf '\0\3\377\0\4ab\0\2\0\20\0\0\0\0----------' >&9
	expect_traced espintcp_received "kind=keepalive len=3" \
		espintcp_received "kind=short len=4" \
		espintcp_drop "why=in_short n=1" \
		espintcp_received "kind=empty len=2" \
		espintcp_received "kind=ike len=16"
}

test_abort()
{
	printf '\0\0' >&9
	expect_traced espintcp_received "kind=broken" \
		espintcp_abort "local=$V4_B:$PORT peer=$V4_A:[0-9]* err=-74"
}

# Octets of a record that never ends are freed with the kernel's reason
test_reason()
{
	trace_forget
	exec 9>&-
	rm -f "$TEST_DIR/raw"
	raw_peer || return
	echo 1 > $INSTANCE/events/skb/kfree_skb/enable || return
	printf '\1\0\1\2\3\4half' >&9
	exec 9>&-
	expect_traced espintcp_drop "why=in_truncated n=1" \
		kfree_skb "reason: HDR_TRUNC"
}

setup_hosts && outer 4 && inner 4 && connect_pair 4 && flush_xfrm &&
	set_policies tunnel "$IN_A" "$IN_B" ||
	{ ktap_fail "a connection"; exit 1; }
trace_start || { ktap_fail "the tracepoints are in tracefs"; exit 1; }
ktap_pass "the tracepoints are in tracefs"
check "ESP: path, queued, sent, received" test_esp
check "no connection: path, drop" test_no_connection
check "records of every kind: received, drop" test_records
check "a broken stream: received, abort" test_abort
check "a drop has the kernel's reason" test_reason
ktap_finish
