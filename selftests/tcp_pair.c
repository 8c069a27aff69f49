// SPDX-License-Identifier: GPL-2.0
/*
 * One end of an espintcp connection for the shell tests.
 *
 * Two instances, one listening and one connecting, stand in for a pair of IKE
 * daemons: they exchange the "IKETCP" stream prefix, attach the ULP and hold
 * the socket open until they are killed, so that a script can hang SAs set up
 * with "ip xfrm" on the connection.
 *
 * stdout, one event a line:
 *	listening PORT		(listener and UDP only)
 *	waiting			(with -w, before the prefix)
 *	ready LOCAL-PORT PEER-PORT
 *	ike LENGTH		an IKE message came in
 *	sent LENGTH		an IKE message was accepted by the kernel
 *	eof			the peer closed
 *	error NAME		a call failed
 *
 * stdin, one command a line, and end of file is not a command:
 *	go			(with -w) go on, with what has come meanwhile
 *	send LENGTH		send an IKE message of LENGTH octets
 *	shutdown		send nothing more
 *	close			close the socket
 */
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <linux/udp.h>
#include <linux/xfrm.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef TCP_ULP
#define TCP_ULP		31
#endif
#ifndef IP_XFRM_POLICY
#define IP_XFRM_POLICY	17
#endif
#ifndef IPV6_XFRM_POLICY
#define IPV6_XFRM_POLICY	35
#endif

#define IKETCP_PREFIX	"IKETCP"
#define PREFIX_LEN	(sizeof(IKETCP_PREFIX) - 1)
#define MAX_MSG		65535

static const char usage[] =
	"usage: tcp_pair [-b] [-n] [-r] [-w] -l ADDR -p PORT\n"
	"       tcp_pair [-b] [-n] [-r] [-s PORT] -c ADDR -p PORT\n"
	"       tcp_pair -u ADDR -p PORT\n"
	"  -l ADDR  listen on ADDR for one connection\n"
	"  -c ADDR  connect to ADDR\n"
	"  -u ADDR  no TCP at all: a UDP socket that takes ESP in UDP\n"
	"  -p PORT  port to listen on or to connect to\n"
	"  -s PORT  local port of a connecting socket\n"
	"  -b       have the socket bypass the IPsec policies\n"
	"  -n       plain TCP: no prefix, no ULP\n"
	"  -r       reset the connection on close instead of a FIN\n"
	"  -w       read nothing before a command says so\n";

struct options {
	const char *addr;
	const char *port;
	const char *local_port;
	bool listening;
	bool udp;
	bool bypass;
	bool plain;
	bool reset;
	bool wait;
};

static unsigned char msg[MAX_MSG];

static struct addrinfo *resolve(const char *addr, const char *port)
{
	struct addrinfo hints = {
		.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV,
		.ai_socktype = SOCK_STREAM,
	};
	struct addrinfo *ai;
	int ret;

	ret = getaddrinfo(addr, port, &hints, &ai);
	if (ret)
		errx(1, "%s port %s: %s", addr, port, gai_strerror(ret));
	return ai;
}

/*
 * As IKE daemons do: whatever the policies say, this socket passes. Needs
 * CAP_NET_ADMIN, and xfrm_user.
 */
static void bypass_policies(int fd, int family)
{
	int level = family == AF_INET6 ? IPPROTO_IPV6 : IPPROTO_IP;
	int name = family == AF_INET6 ? IPV6_XFRM_POLICY : IP_XFRM_POLICY;
	struct xfrm_userpolicy_info policy = {
		.action = XFRM_POLICY_ALLOW,
		.sel.family = family,
	};

	for (policy.dir = XFRM_POLICY_IN; policy.dir <= XFRM_POLICY_OUT;
	     policy.dir++)
		if (setsockopt(fd, level, name, &policy, sizeof(policy)))
			err(1, "XFRM_POLICY");
}

static int new_socket(const struct addrinfo *ai, const struct options *opt)
{
	int one = 1;
	int fd;

	fd = socket(ai->ai_family, SOCK_STREAM, IPPROTO_TCP);
	if (fd < 0)
		err(1, "socket");
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)))
		err(1, "SO_REUSEADDR");
	if (opt->bypass)
		bypass_policies(fd, ai->ai_family);
	return fd;
}

static int port_of(const struct sockaddr_storage *ss)
{
	/* sin_port and sin6_port share their place */
	return ntohs(((const struct sockaddr_in *)ss)->sin_port);
}

static int local_port(int fd)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);

	if (getsockname(fd, (struct sockaddr *)&ss, &len))
		err(1, "getsockname");
	return port_of(&ss);
}

static int peer_port(int fd)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);

	if (getpeername(fd, (struct sockaddr *)&ss, &len))
		err(1, "getpeername");
	return port_of(&ss);
}

static int accept_one(const struct options *opt)
{
	struct addrinfo *ai = resolve(opt->addr, opt->port);
	int listener = new_socket(ai, opt);
	int fd;

	if (bind(listener, ai->ai_addr, ai->ai_addrlen))
		err(1, "bind");
	if (listen(listener, 1))
		err(1, "listen");
	printf("listening %d\n", local_port(listener));

	fd = accept(listener, NULL, NULL);
	if (fd < 0)
		err(1, "accept");
	close(listener);
	freeaddrinfo(ai);
	return fd;
}

static void bind_local_port(int fd, int family, const char *port)
{
	struct addrinfo *ai = resolve(family == AF_INET6 ? "::" : "0.0.0.0",
				      port);

	if (bind(fd, ai->ai_addr, ai->ai_addrlen))
		err(1, "bind to port %s", port);
	freeaddrinfo(ai);
}

static int connect_one(const struct options *opt)
{
	struct addrinfo *ai = resolve(opt->addr, opt->port);
	int fd = new_socket(ai, opt);

	if (opt->local_port)
		bind_local_port(fd, ai->ai_family, opt->local_port);
	if (connect(fd, ai->ai_addr, ai->ai_addrlen))
		err(1, "connect");
	freeaddrinfo(ai);
	return fd;
}

static void read_prefix(int fd)
{
	char prefix[PREFIX_LEN];
	ssize_t ret;

	/* MSG_WAITALL, and not an octet more: what follows is the ULP's */
	ret = recv(fd, prefix, sizeof(prefix), MSG_WAITALL);
	if (ret != (ssize_t)sizeof(prefix))
		errx(1, "stream prefix: %zd octets", ret);
	if (memcmp(prefix, IKETCP_PREFIX, sizeof(prefix)))
		errx(1, "stream prefix is not " IKETCP_PREFIX);
}

static void attach_ulp(int fd, const struct options *opt)
{
	if (opt->plain)
		return;

	/* Only the TCP originator sends the prefix, see RFC 9329 section 4 */
	if (opt->listening)
		read_prefix(fd);
	else if (send(fd, IKETCP_PREFIX, PREFIX_LEN, 0) != PREFIX_LEN)
		err(1, "stream prefix");

	if (setsockopt(fd, IPPROTO_TCP, TCP_ULP, "espintcp",
		       sizeof("espintcp")))
		err(1, "TCP_ULP espintcp");
}

static void wait_for_command(void)
{
	char line[64];

	printf("waiting\n");
	if (!fgets(line, sizeof(line), stdin))
		errx(1, "no command");
}

static void send_ike(int fd, size_t len)
{
	size_t i;

	if (len < 4 || len > sizeof(msg)) {
		printf("error EINVAL\n");
		return;
	}

	memset(msg, 0, 4);
	for (i = 4; i < len; i++)
		msg[i] = i;
	if (send(fd, msg, len, MSG_NOSIGNAL) == (ssize_t)len)
		printf("sent %zu\n", len);
	else
		printf("error %s\n", strerrorname_np(errno));
}

/* Returns false once there is nothing more to come */
static bool receive_ike(int fd)
{
	ssize_t len = recv(fd, msg, sizeof(msg), MSG_DONTWAIT);

	if (len > 0) {
		printf("ike %zd\n", len);
		return true;
	}
	if (len < 0 && errno == EAGAIN)
		return true;
	if (len)
		printf("error %s\n", strerrorname_np(errno));
	else
		printf("eof\n");
	return false;
}

/* Returns false once there are no more commands */
static bool run_command(int *fd)
{
	char line[64];
	size_t len;

	if (!fgets(line, sizeof(line), stdin))
		return false;

	if (sscanf(line, "send %zu", &len) == 1) {
		send_ike(*fd, len);
	} else if (!strcmp(line, "shutdown\n")) {
		shutdown(*fd, SHUT_WR);
	} else if (!strcmp(line, "close\n")) {
		close(*fd);
		*fd = -1;
	} else {
		printf("error EINVAL\n");
	}
	return true;
}

static void serve(int fd)
{
	struct pollfd pfd[] = {
		{ .fd = fd, .events = POLLIN },
		{ .fd = STDIN_FILENO, .events = POLLIN },
	};

	for (;;) {
		if (poll(pfd, 2, -1) < 0)
			err(1, "poll");
		/* a negative fd takes the entry out of the poll set */
		if (pfd[0].revents && !receive_ike(fd))
			pfd[0].fd = -1;
		if (pfd[1].revents && !run_command(&fd))
			pfd[1].fd = -1;
		if (fd < 0)
			pfd[0].fd = -1;
	}
}

static void hold_udp_socket(const struct options *opt)
{
	struct addrinfo *ai = resolve(opt->addr, opt->port);
	int encap = UDP_ENCAP_ESPINUDP;
	int fd;

	fd = socket(ai->ai_family, SOCK_DGRAM, IPPROTO_UDP);
	if (fd < 0)
		err(1, "socket");
	if (opt->bypass)
		bypass_policies(fd, ai->ai_family);
	if (bind(fd, ai->ai_addr, ai->ai_addrlen))
		err(1, "bind");
	if (setsockopt(fd, IPPROTO_UDP, UDP_ENCAP, &encap, sizeof(encap)))
		err(1, "UDP_ENCAP");
	freeaddrinfo(ai);
	printf("listening %d\n", local_port(fd));
	for (;;)
		pause();
}

static void set_reset_on_close(int fd)
{
	struct linger linger = { .l_onoff = 1, .l_linger = 0 };

	if (setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)))
		err(1, "SO_LINGER");
}

static void parse_options(int argc, char **argv, struct options *opt)
{
	int c;

	while ((c = getopt(argc, argv, "l:c:u:p:s:bnrw")) != -1) {
		switch (c) {
		case 'l':
		case 'c':
		case 'u':
			opt->listening = c == 'l';
			opt->udp = c == 'u';
			opt->addr = optarg;
			break;
		case 'p':
			opt->port = optarg;
			break;
		case 's':
			opt->local_port = optarg;
			break;
		case 'b':
			opt->bypass = true;
			break;
		case 'n':
			opt->plain = true;
			break;
		case 'r':
			opt->reset = true;
			break;
		case 'w':
			opt->wait = true;
			break;
		default:
			goto bad;
		}
	}
	if (opt->addr && opt->port && optind == argc)
		return;
bad:
	fputs(usage, stderr);
	exit(2);
}

int main(int argc, char **argv)
{
	struct options opt = {};
	int fd;

	parse_options(argc, argv, &opt);

	/* A script reads the events as they happen, and commands unbuffered */
	setvbuf(stdout, NULL, _IOLBF, 0);
	setvbuf(stdin, NULL, _IONBF, 0);

	if (opt.udp)
		hold_udp_socket(&opt);
	fd = opt.listening ? accept_one(&opt) : connect_one(&opt);
	if (opt.reset)
		set_reset_on_close(fd);
	if (opt.wait)
		wait_for_command();
	attach_ulp(fd, &opt);
	printf("ready %d %d\n", local_port(fd), peer_port(fd));

	serve(fd);
	return 0;
}
