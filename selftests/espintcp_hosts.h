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

/* What listens in the current namespace, at an address of any family. */
static inline int listen_at(const char *addr, struct sockaddr_storage *ss,
			    socklen_t *len)
{
	struct sockaddr_in6 *a6 = (struct sockaddr_in6 *)ss;
	struct sockaddr_in *a4 = (struct sockaddr_in *)ss;
	int fd;

	memset(ss, 0, sizeof(*ss));
	*len = sizeof(*ss);
	ss->ss_family = strchr(addr, ':') ? AF_INET6 : AF_INET;
	inet_pton(ss->ss_family, addr, ss->ss_family == AF_INET6 ?
		  (void *)&a6->sin6_addr : &a4->sin_addr);
	fd = socket(ss->ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)ss, sizeof(*ss)) ||
	    listen(fd, 1) || getsockname(fd, (struct sockaddr *)ss, len))
		return -1;
	return fd;
}

/*
 * A's end of the connection is plain TCP, B's, at @addr, is to get the ULP.
 */
static inline int connect_hosts_at(struct pair *p, const char *addr, int ns_a,
				   int ns_b)
{
	struct sockaddr_storage ss;
	socklen_t len;
	int lfd;

	if (enter(ns_b))
		return -1;
	lfd = listen_at(addr, &ss, &len);
	if (lfd < 0 || enter(ns_a))
		return -1;
	p->raw = socket(ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (p->raw < 0 || connect(p->raw, (struct sockaddr *)&ss, len))
		return -1;
	p->ulp = accept4(lfd, NULL, NULL, SOCK_CLOEXEC);
	p->written = 0;
	close(lfd);
	return p->ulp < 0 || enter(ns_b) ||
	       set_timeout(p->raw, SO_SNDTIMEO, WAIT_MS) ? -1 : 0;
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

#endif /* ESPINTCP_HOSTS_H */
