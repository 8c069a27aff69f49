// SPDX-License-Identifier: GPL-2.0
/*
 * Open TCP connections from one network namespace to another, put the
 * espintcp ULP on both ends, and keep them open: what two IKE daemons would
 * do for the kernel, without the daemons.
 *
 * usage: tcp_pair [-n COUNT] [-p PORT] [-c CONGESTION] [-w] LEFT RIGHT ADDRESS
 *
 * LEFT connects to ADDRESS (IPv4, in RIGHT).  Connection i has source port
 * PORT + 1 + i and destination port PORT.  -w: open the connections, print
 * "connected" and wait for a line on stdin before the ULP is set.  Prints
 * "ready" when every ULP is set, then waits for end of file on stdin.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define ULP	"espintcp"

struct options {
	int count;
	int port;
	const char *congestion;
	int wait;
	const char *left;
	const char *right;
	struct in_addr address;
};

static void usage(void)
{
	fprintf(stderr,
		"usage: tcp_pair [-n COUNT] [-p PORT] [-c CONGESTION] [-w] LEFT RIGHT ADDRESS\n");
	exit(2);
}

static void enter_netns(const char *name)
{
	char path[256];
	int fd;

	snprintf(path, sizeof(path), "/run/netns/%s", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || setns(fd, CLONE_NEWNET))
		err(1, "namespace %s", name);
	close(fd);
}

static int tcp_socket(const struct options *o, in_addr_t addr, int port)
{
	struct sockaddr_in sin = {
		.sin_family = AF_INET,
		.sin_addr.s_addr = addr,
		.sin_port = htons(port),
	};
	int fd, one = 1;

	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		err(1, "socket");
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)))
		err(1, "SO_REUSEADDR");
	/* A daemon sets it: an IKE message must not wait for an ACK. */
	if (setsockopt(fd, SOL_TCP, TCP_NODELAY, &one, sizeof(one)))
		err(1, "TCP_NODELAY");
	/* An accepted socket inherits it from the listener. */
	if (o->congestion &&
	    setsockopt(fd, SOL_TCP, TCP_CONGESTION, o->congestion,
		       strlen(o->congestion)))
		err(1, "TCP_CONGESTION %s", o->congestion);
	if (bind(fd, (struct sockaddr *)&sin, sizeof(sin)))
		err(1, "bind port %d", port);
	return fd;
}

static void open_pair(const struct options *o, int listener, int port,
		      int pair[2])
{
	struct sockaddr_in to = {
		.sin_family = AF_INET,
		.sin_addr = o->address,
		.sin_port = htons(o->port),
	};

	pair[0] = tcp_socket(o, htonl(INADDR_ANY), port);
	if (connect(pair[0], (struct sockaddr *)&to, sizeof(to)))
		err(1, "connect from port %d", port);
	pair[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (pair[1] < 0)
		err(1, "accept");
}

static void set_ulp(int fd)
{
	if (setsockopt(fd, SOL_TCP, TCP_ULP, ULP, sizeof(ULP)))
		err(1, "TCP_ULP " ULP);
}

static void parse(int argc, char **argv, struct options *o)
{
	int c;

	while ((c = getopt(argc, argv, "n:p:c:w")) != -1) {
		switch (c) {
		case 'n':
			o->count = atoi(optarg);
			break;
		case 'p':
			o->port = atoi(optarg);
			break;
		case 'c':
			o->congestion = optarg;
			break;
		case 'w':
			o->wait = 1;
			break;
		default:
			usage();
		}
	}
	if (argc - optind != 3 || o->count < 1 ||
	    o->port + o->count > 65535 ||
	    !inet_aton(argv[optind + 2], &o->address))
		usage();
	o->left = argv[optind];
	o->right = argv[optind + 1];
}

static void raise_file_limit(int files)
{
	struct rlimit limit = { files, files };

	if (setrlimit(RLIMIT_NOFILE, &limit))
		err(1, "RLIMIT_NOFILE %d", files);
}

/* Blocks until a line, or the end of the file, has come on stdin. */
static void await_stdin(void)
{
	int c;

	do
		c = getchar();
	while (c != '\n' && c != EOF);
}

int main(int argc, char **argv)
{
	struct options o = { .count = 1, .port = 4500 };
	int (*pairs)[2];
	int listener, i;

	parse(argc, argv, &o);
	raise_file_limit(2 * o.count + 16);
	pairs = calloc(o.count, sizeof(*pairs));
	if (!pairs)
		err(1, "calloc");

	enter_netns(o.right);
	listener = tcp_socket(&o, htonl(INADDR_ANY), o.port);
	if (listen(listener, 16))
		err(1, "listen");

	enter_netns(o.left);
	for (i = 0; i < o.count; i++)
		open_pair(&o, listener, o.port + 1 + i, pairs[i]);
	close(listener);
	if (o.wait) {
		puts("connected");
		fflush(stdout);
		await_stdin();
	}
	for (i = 0; i < o.count; i++) {
		set_ulp(pairs[i][0]);
		set_ulp(pairs[i][1]);
	}
	puts("ready");
	fflush(stdout);
	await_stdin();
	return 0;
}
