/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Two hosts in namespaces of their own for the C tests, joined by veth0 on
 * either side, with a TCP connection between them: A's end stays plain TCP,
 * B's is to get the ULP.
 */
#ifndef ESPINTCP_HOSTS_H
#define ESPINTCP_HOSTS_H

#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <sys/wait.h>

#include "espintcp_util.h"

#define ADDR_A		"192.0.2.1"
#define ADDR_B		"192.0.2.2"
/* Whoever wants them adds them. */
#define ADDR6_A		"2001:db8::1"
#define ADDR6_B		"2001:db8::2"

static inline int run(const char *command)
{
	int status = system(command);

	return status == -1 || !WIFEXITED(status) ? -1 : WEXITSTATUS(status);
}

static inline int own_ns(void)
{
	return open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
}

static inline int enter(int ns)
{
	return setns(ns, CLONE_NEWNET);
}

/* A and B joined by veth0. */
static inline int join_hosts(int ns_a, int ns_b)
{
	char command[256];

	snprintf(command, sizeof(command),
		 "set -e; ip link add veth0 type veth peer name veth0 netns /proc/%d/fd/%d; "
		 "ip addr add " ADDR_A "/24 dev veth0 && ip link set veth0 up",
		 getpid(), ns_b);
	return enter(ns_a) || run(command) || enter(ns_b) ||
	       run("ip addr add " ADDR_B "/24 dev veth0 && ip link set veth0 up");
}

static inline socklen_t set_addr(struct sockaddr_storage *ss, const char *addr,
				 in_port_t port)
{
	struct sockaddr_in6 *a6 = (struct sockaddr_in6 *)ss;
	struct sockaddr_in *a4 = (struct sockaddr_in *)ss;

	memset(ss, 0, sizeof(*ss));
	ss->ss_family = strchr(addr, ':') ? AF_INET6 : AF_INET;
	inet_pton(ss->ss_family, addr, ss->ss_family == AF_INET6 ?
		  (void *)&a6->sin6_addr : &a4->sin_addr);
	a6->sin6_port = port;	/* both families have it there */
	return ss->ss_family == AF_INET6 ? sizeof(*a6) : sizeof(*a4);
}

static inline int bind_to(int fd, const char *addr)
{
	struct sockaddr_storage ss;
	socklen_t len = set_addr(&ss, addr, 0);

	return bind(fd, (struct sockaddr *)&ss, len);
}

static inline int bind_to_device(int fd, const char *dev)
{
	return setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, dev, strlen(dev));
}

/* Where B accepts connections, at @addr, of a VRF only if @vrf is not NULL. */
static inline int listen_host(int ns_b, const char *vrf, const char *addr)
{
	int lfd;

	if (enter(ns_b))
		return -1;
	lfd = socket(strchr(addr, ':') ? AF_INET6 : AF_INET,
		     SOCK_STREAM | SOCK_CLOEXEC, 0);
	return lfd < 0 || (vrf && bind_to_device(lfd, vrf)) ||
	       bind_to(lfd, addr) || listen(lfd, 1) ? -1 : lfd;
}

/*
 * A connection to where B listens, from the address @from if that matters. A's end
 * of it is plain TCP, B's is to get the ULP.
 */
static inline int connect_to(struct pair *p, int lfd, int ns_a, int ns_b,
			     const char *from)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);

	p->written = 0;
	if (getsockname(lfd, (struct sockaddr *)&ss, &len) || enter(ns_a))
		return -1;
	p->raw = socket(ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (p->raw < 0 || (from && bind_to(p->raw, from)) ||
	    connect(p->raw, (struct sockaddr *)&ss, len))
		return -1;
	p->ulp = accept4(lfd, NULL, NULL, SOCK_CLOEXEC);
	return p->ulp < 0 || enter(ns_b) ||
	       set_timeout(p->raw, SO_SNDTIMEO, WAIT_MS) ? -1 : 0;
}

/* The only one there will be. */
static inline int connect_hosts_over(struct pair *p, const char *vrf,
				     const char *addr, int ns_a, int ns_b)
{
	int lfd = listen_host(ns_b, vrf, addr), err;

	err = lfd < 0 ? -1 : connect_to(p, lfd, ns_a, ns_b, NULL);
	close(lfd);
	return err;
}

static inline int connect_hosts_at(struct pair *p, const char *addr, int ns_a,
				   int ns_b)
{
	return connect_hosts_over(p, NULL, addr, ns_a, ns_b);
}

static inline int connect_hosts(struct pair *p, int ns_a, int ns_b)
{
	return connect_hosts_at(p, ADDR_B, ns_a, ns_b);
}

/* Packets that come in by @dev, from the IP header on: ETH_P_IP or ETH_P_IPV6. */
static inline int open_capture(const char *dev, int protocol)
{
	struct sockaddr_ll sll = {
		.sll_family = AF_PACKET, .sll_protocol = htons(protocol),
		.sll_ifindex = if_nametoindex(dev),
	};
	int fd = socket(AF_PACKET, SOCK_DGRAM | SOCK_NONBLOCK, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&sll, sizeof(sll)) ||
	    set_int(fd, SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20))
		return -1;
	return fd;
}

/* The next @n records of a stream, length fields included. Returns octets or -1. */
static inline ssize_t read_records(int fd, __u8 *p, int n)
{
	ssize_t len, at = 0;
	int i;

	for (i = 0; i < n; i++) {
		len = raw_read_record(fd, p + at + HEADER_LEN);
		if (len < 0)
			return -1;
		put_header(p + at, HEADER_LEN + len);
		at += HEADER_LEN + len;
	}
	return at;
}

/* Packets the SA took: authentic, all of them. @id is for ip(8). */
static inline long sa_packets(const char *id)
{
	bool current = false;
	char line[256];
	long n = -1;
	FILE *f;

	snprintf(line, sizeof(line), "ip -s xfrm state get %s", id);
	f = popen(line, "r");
	/* The line after this one has octets and packets. */
	while (f && fgets(line, sizeof(line), f)) {
		if (current && sscanf(line, "%*d(bytes), %ld", &n) == 1)
			break;
		current = strstr(line, "lifetime current");
	}
	if (f)
		pclose(f);
	return n;
}

#endif /* ESPINTCP_HOSTS_H */
