#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# libreswan in a network namespace: one pluto per namespace, each with its own
# configuration, secrets, NSS database, control socket and log below
# $PLUTO_DIR/NAMESPACE, so that several run side by side and none sees what
# the machine itself has configured. The caller sources lib.sh and sets PLUTO_DIR.

PLUTO_LIBEXEC=${PLUTO_LIBEXEC:-}

# Distributions disagree about where pluto, whack and addconn live
pluto_find()
{
	local dir

	[ -n "$PLUTO_LIBEXEC" ] && return 0
	for dir in /usr/libexec/ipsec /usr/lib/ipsec /usr/local/libexec/ipsec; do
		if [ -x "$dir/pluto" ]; then
			PLUTO_LIBEXEC=$dir
			return 0
		fi
	done
	return 1
}

pluto_log()	{ echo "$PLUTO_DIR/$1/pluto.log"; }
pluto_nss()	{ echo "sql:$PLUTO_DIR/$1/nss"; }

# whack NAMESPACE ARGS...
whack()
{
	local ns=$1

	shift
	"$PLUTO_LIBEXEC/whack" --ctlsocket "$PLUTO_DIR/$ns/run/pluto.ctl" "$@"
}

# pluto_setup NAMESPACE [SETUP-LINE...]: the files of a daemon, which
# pluto_conn, pluto_psk and pluto_ca add to
pluto_setup()
{
	local ns=$1 dir=$PLUTO_DIR/$1 line

	shift
	mkdir -p "$dir/run" "$dir/nss" "$dir/ipsec.d" || return 1
	certutil -N -d "$(pluto_nss "$ns")" --empty-password || return 1

	{
		echo "config setup"
		printf '\tlisten-tcp=yes\n'
		printf '\tvirtual-private=%%v4:10.0.0.0/8,%%v6:fd00::/8\n'
		for line; do
			printf '\t%s\n' "$line"
		done
	} > "$dir/ipsec.conf"
	: > "$dir/ipsec.secrets"
	chmod 600 "$dir/ipsec.secrets"
}

pluto_ready()
{
	whack "$1" --status 2>/dev/null | grep -q 'interface .*TCP'
}

# pluto_start NAMESPACE: returns when the daemon listens on its TCP port
pluto_start()
{
	local ns=$1 dir=$PLUTO_DIR/$1

	# pluto forks: it is the daemon that is left when this returns
	in_ns "$ns" "$PLUTO_LIBEXEC/pluto" \
		--config "$dir/ipsec.conf" --rundir "$dir/run" \
		--ipsecdir "$dir/ipsec.d" --nssdir "$dir/nss" \
		--secretsfile "$dir/ipsec.secrets" \
		--logfile "$dir/pluto.log" --log-no-audit \
		>> "$dir/pluto.out" 2>&1 || return 1
	whack "$ns" --listen >> "$dir/pluto.out" 2>&1
	on_exit pluto_stop "$ns"
	wait_for pluto_ready "$ns"
}

pluto_pid()
{
	cut -d ' ' -f 1 "$PLUTO_DIR/$1/run/pluto.pid" 2>/dev/null
}

# pluto_stop NAMESPACE: orderly, with the delete messages on their way
pluto_stop()
{
	local ns=$1 pid

	pid=$(pluto_pid "$ns")
	[ -n "$pid" ] || return 0
	whack "$ns" --shutdown > /dev/null 2>&1 || kill "$pid" 2>/dev/null
	wait_for pluto_gone "$pid" && return 0
	kill -KILL "$pid" 2>/dev/null
	wait_for pluto_gone "$pid"
}

pluto_gone()
{
	! [ -d "/proc/$1" ]
}

# pluto_start_anew NAMESPACE NAME: the daemon is gone without a word; the next one
# finds neither its files nor its SAs, and gets the connection
pluto_start_anew()
{
	ip -n "$1" xfrm state flush
	ip -n "$1" xfrm policy flush
	rm -f "$PLUTO_DIR/$1"/run/pluto.*
	pluto_start "$1" && pluto_reload "$1" "$2"
}

# pluto_psk NAMESPACE SECRET
pluto_psk()
{
	echo "%any %any : PSK \"$2\"" >> "$PLUTO_DIR/$1/ipsec.secrets"
	[ -z "$(pluto_pid "$1")" ] || whack "$1" --rereadsecrets > /dev/null
}

# pluto_conn NAMESPACE NAME [LINE...]: describe a connection and load it
pluto_conn()
{
	local ns=$1 name=$2 line

	shift 2
	{
		echo "conn $name"
		for line; do
			printf '\t%s\n' "$line"
		done
		echo
	} >> "$PLUTO_DIR/$ns/ipsec.conf"
	pluto_reload "$ns" "$name"
}

# pluto_reload NAMESPACE NAME: (again) load a connection already described
pluto_reload()
{
	in_ns "$1" "$PLUTO_LIBEXEC/addconn" \
		--config "$PLUTO_DIR/$1/ipsec.conf" \
		--ctlsocket "$PLUTO_DIR/$1/run/pluto.ctl" "$2" \
		>> "$PLUTO_DIR/$1/pluto.out" 2>&1
}

# pluto_load_all NAMESPACE: the connections that say so themselves, with auto=
pluto_load_all()
{
	in_ns "$1" "$PLUTO_LIBEXEC/addconn" --autoall \
		--config "$PLUTO_DIR/$1/ipsec.conf" \
		--ctlsocket "$PLUTO_DIR/$1/run/pluto.ctl" \
		>> "$PLUTO_DIR/$1/pluto.out" 2>&1
}

# pluto_loaded NAMESPACE NAME
pluto_loaded()
{
	whack "$1" --status | grep -q "\"$2\"" ||
		{ echo "$1 has no connection $2"; return 1; }
}

# pluto_drop NAMESPACE NAME: its SAs go, whether the peer hears of it or not.
# libreswan 5's --terminate waits for the peer's answer, and whoever called it does:
# for ever, when the connection is no more that the question went into.
pluto_drop()
{
	whack "$1" --name "$2" --delete > /dev/null 2>&1
	pluto_reload "$1" "$2"
}

# pluto_forget NAMESPACE NAME: bring the connection down and unload it
pluto_forget()
{
	whack "$1" --name "$2" --delete > /dev/null 2>&1
	sed -i "/^conn $2\$/,/^\$/d" "$PLUTO_DIR/$1/ipsec.conf"
}

# pluto_up NAMESPACE NAME: whack follows the negotiation until the child SA
# is there or the daemon gives up
pluto_up()
{
	timeout "$WAIT_TIMEOUT" "$PLUTO_LIBEXEC/whack" \
		--ctlsocket "$PLUTO_DIR/$1/run/pluto.ctl" \
		--name "$2" --initiate >> "$PLUTO_DIR/$1/whack.log" 2>&1
}

# pluto_rekey NAMESPACE NAME IKE|CHILD. libreswan 5 calls child SAs by their name.
pluto_rekey()
{
	local option

	case $3 in
	IKE)	option=--rekey-ike ;;
	CHILD)	option=--rekey-child
		"$PLUTO_LIBEXEC/whack" --help 2>&1 | grep -qe "$option" ||
			option=--rekey-ipsec ;;
	esac
	timeout "$WAIT_TIMEOUT" "$PLUTO_LIBEXEC/whack" \
		--ctlsocket "$PLUTO_DIR/$1/run/pluto.ctl" --name "$2" $option
}

# pluto_established NAMESPACE NAME: a child SA of that connection is up
pluto_established()
{
	whack "$1" --trafficstatus | grep -q "\"$2\".*add_time="
}

# pluto_serials NAMESPACE NAME IKE|CHILD: the state numbers of the established
# SAs, which change when an SA is rekeyed
pluto_serials()
{
	local state

	case $3 in
	IKE)	state=ESTABLISHED_IKE_SA ;;
	CHILD)	state=ESTABLISHED_CHILD_SA ;;
	esac
	whack "$1" --showstates |
		sed -n "s/^[^#]*#\([0-9]*\): \"$2\".*$state.*/\1/p" | sort -n |
		paste -sd ' '
}

# A certificate authority below $PLUTO_DIR/ca
pluto_ca()
{
	local db=sql:$PLUTO_DIR/ca

	mkdir -p "$PLUTO_DIR/ca"
	head -c 4096 /dev/urandom > "$PLUTO_DIR/noise"
	certutil -N -d "$db" --empty-password &&
	printf 'y\n\ny\n' | certutil -S -d "$db" -x -n ca \
		-s "CN=ca.test,O=espintcp" -t CT,C,C -m 1 -v 12 -2 \
		-k ec -q secp256r1 -Z SHA256 --keyUsage certSigning,crlSigning \
		-z "$PLUTO_DIR/noise" > /dev/null 2>&1 &&
	certutil -L -d "$db" -n ca -r > "$PLUTO_DIR/ca.der"
}

# pluto_cert NAMESPACE NAME rsa|ecdsa SERIAL: a certificate for NAME.test. The
# key never leaves the daemon's database, so that none needs to be wrapped in a
# PKCS#12 file: that derives keys for minutes when instructions are emulated.
pluto_cert()
{
	local nss name=$2 file=$PLUTO_DIR/$2 key

	nss=$(pluto_nss "$1")
	case $3 in
	rsa)	key="-k rsa -g 2048 -Z SHA256" ;;
	ecdsa)	key="-k ec -q secp256r1 -Z SHA256" ;;
	esac
	# shellcheck disable=SC2086 # an option list
	certutil -R -d "$nss" -s "CN=$name.test,O=espintcp" $key \
		-z "$PLUTO_DIR/noise" -o "$file.req" &&
	certutil -C -d "sql:$PLUTO_DIR/ca" -c ca -i "$file.req" -o "$file.der" \
		-m "$4" -v 12 -Z SHA256 --keyUsage digitalSignature \
		--extSAN "dns:$name.test" &&
	certutil -A -d "$nss" -n ca -t CT,C,C -i "$PLUTO_DIR/ca.der" &&
	certutil -A -d "$nss" -n "$name" -t ,, -i "$file.der"
}
