/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Authentic ESP records for the C tests, the kernel's own: datagrams that are
 * known by their length go into an SA, and what comes out is kept. An SA of the
 * same key and SPI, without a replay window, takes it any number of times.
 *
 * Either one host has both SAs, or A the one and B the other.
 */
#ifndef ESPINTCP_RECORDS_H
#define ESPINTCP_RECORDS_H

#include "espintcp_hosts.h"

#define GCM	"aead 'rfc4106(gcm(aes))' 0x0102030405060708090a0b0c0d0e0f1011121314 128"
/* Of the packets in an SA in tunnel mode */
#define INNER_A		"10.0.0.1"
#define INNER_B		"10.0.0.2"
#define INNER_PORT	9
#define DATAGRAMS	60
#define DATAGRAM_MAX	1300
/* Room for a record of each of them */
#define RECORDS_MAX	(256 * 1024)

static inline size_t make_datagram(__u8 *p, int i)
{
	size_t len = 100 + i * 20;

	fill_pattern(p, len, i);
	return len;
}

/* @p as make_datagram() makes one of this length. */
static inline bool is_datagram(const __u8 *p, size_t len)
{
	__u8 want[DATAGRAM_MAX];

	if (len < 100 || len > DATAGRAM_MAX || len % 20)
		return false;
	make_datagram(want, (len - 100) / 20);
	return !memcmp(p, want, len);
}

/* Loopback would not let XFRM have packets for another address of this host. */
static inline int add_inner_a(void)
{
	return run("set -e; ip link add inner type dummy; ip link set inner up; "
		   "ip addr add " INNER_A "/24 dev inner");
}

/* Each datagram once. */
static inline int send_datagrams(int family, const char *from, const char *to)
{
	struct sockaddr_storage addr;
	__u8 data[DATAGRAM_MAX];
	socklen_t len;
	int fd, i;

	fd = socket(family, SOCK_DGRAM, 0);
	len = set_addr(&addr, from, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&addr, len))
		return -1;
	set_addr(&addr, to, htons(INNER_PORT));
	if (connect(fd, (struct sockaddr *)&addr, len))
		return -1;
	for (i = 0; i < DATAGRAMS; i++) {
		len = make_datagram(data, i);
		if (send(fd, data, len, 0) != (ssize_t)len)
			return -1;
	}
	return close(fd);
}

/* Of the record that begins there, length field included. */
static inline size_t record_len(const __u8 *p)
{
	return p[0] << 8 | p[1];
}

/* Where the @i-th of @records begins. */
static inline const __u8 *record_at(const __u8 *records, int i)
{
	while (i--)
		records += record_len(records);
	return records;
}

/* A copy of it. */
static inline size_t put_record(__u8 *p, const __u8 *records, int i)
{
	const __u8 *record = record_at(records, i);

	memcpy(p, record, record_len(record));
	return record_len(record);
}

/* For ip(8), with variables that set_variables() sets */
#define SA_AB		"src $A dst $B proto esp spi 0x1001"
#define SA_BA		"src $B dst $A proto esp spi 0x1002"
#define TEMPLATE_AB	"src $A dst $B proto esp mode $MODE"
#define TEMPLATE_BA	"src $B dst $A proto esp mode $MODE"

/* For commands: addresses, with prefix lengths in ADDR_A and ADDR_B, and modes. */
static inline int set_variables(int family, const char *mode)
{
	bool v6 = family == AF_INET6, tunnel = !strcmp(mode, "tunnel");

	return setenv("A", v6 ? ADDR6_A : ADDR_A, 1) ||
	       setenv("B", v6 ? ADDR6_B : ADDR_B, 1) ||
	       setenv("ADDR_A", v6 ? ADDR6_A "/64 nodad" : ADDR_A "/24", 1) ||
	       setenv("ADDR_B", v6 ? ADDR6_B "/64 nodad" : ADDR_B "/24", 1) ||
	       setenv("NOWHERE", v6 ? "::" : "0.0.0.0", 1) ||
	       setenv("MODE", mode, 1) ||
	       setenv("INNER_A", tunnel ? INNER_A : getenv("A"), 1) ||
	       setenv("INNER_B", tunnel ? INNER_B : getenv("B"), 1) ||
	       setenv("FLAG", tunnel ? "flag af-unspec" : "", 1) ? -1 : 0;
}

static inline int join_hosts_over(int family, int ns_a, int ns_b)
{
	if (join_hosts(ns_a, ns_b))
		return -1;
	return family == AF_INET6 &&
	       (enter(ns_a) || run("ip addr add $ADDR_A dev veth0") ||
		enter(ns_b) || run("ip addr add $ADDR_B dev veth0")) ? -1 : 0;
}

/* An SA of this host, and the policy for it, on a connection with these ports */
static inline int add_sa_out(const char *sa, const char *policy, in_port_t sport,
			     in_port_t dport)
{
	char command[1024];

	snprintf(command, sizeof(command),
		 "set -e; ip xfrm state add %s mode $MODE $FLAG " GCM
		 " encap espintcp %d %d $NOWHERE; ip xfrm policy add %s",
		 sa, ntohs(sport), ntohs(dport), policy);
	return run(command);
}

/* Each datagram from A to B goes by a connection with the ULP on A's end. */
static inline int send_from_a(const struct pair *p)
{
	bool v6 = strchr(getenv("INNER_A"), ':');

	return add_sa_out(SA_AB, "src $INNER_A dst $INNER_B proto udp dir out tmpl "
			  TEMPLATE_AB, local_port(p->raw), local_port(p->ulp)) ||
	       add_inner_a() ||
	       send_datagrams(v6 ? AF_INET6 : AF_INET, getenv("INNER_A"),
			      getenv("INNER_B")) ? -1 : 0;
}

/* A sends B a record for each datagram. Returns their octets or -1. */
static inline ssize_t record_datagrams(int ns_a, int ns_b, __u8 *p)
{
	struct pair maker;
	ssize_t len = -1;

	if (connect_hosts_at(&maker, getenv("B"), ns_a, ns_b) ||
	    set_timeout(maker.ulp, SO_RCVTIMEO, WAIT_MS) ||
	    set_ulp(maker.raw, "espintcp"))
		return -1;
	if (!enter(ns_a) && !send_from_a(&maker))
		len = read_records(maker.ulp, p, DATAGRAMS);
	if (run("ip xfrm policy flush && ip xfrm state flush") || enter(ns_b))
		return -1;
	close(maker.raw);
	close(maker.ulp);
	return len;
}

/* B takes them on any connection, and delivers what was in them. */
static inline int add_sa_in(void)
{
	return run("set -e; ip addr add " INNER_B "/32 dev lo; "
		   "ip xfrm state add " SA_AB " mode $MODE $FLAG " GCM
		   " encap espintcp 1 1 $NOWHERE; "
		   "ip xfrm policy add src $INNER_A dst $INNER_B proto udp dir in tmpl "
		   TEMPLATE_AB);
}

/* Where datagrams are delivered */
static inline int inner_socket(void)
{
	int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	struct sockaddr_storage addr;
	socklen_t len;

	len = set_addr(&addr, "::", htons(INNER_PORT));
	return fd < 0 || bind(fd, (struct sockaddr *)&addr, len) ? -1 : fd;
}

/* Takes datagrams that were delivered. -1 if one is not as it was sent. */
static inline int drain_inner(int fd)
{
	__u8 data[DATAGRAM_MAX + 1];
	ssize_t len;
	int n;

	/* More than can have waited: in a flood there is no end. */
	for (n = 0; n < 1000; n++) {
		len = recv(fd, data, sizeof(data), 0);
		if (len < 0)
			break;
		if (!is_datagram(data, len))
			return -1;
	}
	return n;
}

#endif /* ESPINTCP_RECORDS_H */
