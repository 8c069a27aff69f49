// SPDX-License-Identifier: GPL-2.0
/*
 * espintcp check: will TCP encapsulation work here? Each finding comes with
 * what to do about it.
 */
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/netlink.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "espintcp.h"

#ifndef TCP_ULP
#define TCP_ULP		31
#endif

#define CONNECT_TIMEOUT	10000	/* ms */

enum verdict { OK, NOTE, FAULT };

static bool faulty;

/* What was found, and below it what to do, NULL if nothing */
static void __printf(3, 4)
finding(enum verdict verdict, const char *todo, const char *fmt, ...)
{
	static const char * const words[] = { "ok   ", "note ", "FAULT" };
	va_list ap;

	printf("%s  ", words[verdict]);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
	if (todo)
		printf("       %s\n", todo);
	faulty |= verdict == FAULT;
}

/* ------------------------------------------------------- kernel and module */

static void check_privilege(void)
{
	if (geteuid())
		finding(NOTE, "run it again as root",
			"not root: some of this cannot be seen");
}

static void check_xfrm(void)
{
	struct utsname uts;
	struct sas sas;

	uname(&uts);
	if (sas_get(&sas)) {
		finding(FAULT, errno == EPERM ? "run it as root" :
			"try \"modprobe xfrm_user\"; the kernel needs CONFIG_XFRM_USER",
			"kernel %s does not answer about SAs: %s", uts.release,
			strerror(errno));
		return;
	}
	finding(OK, NULL, "kernel %s does IPsec", uts.release);
	sas_free(&sas);
}

static bool file_has(const char *path, const char *word)
{
	char line[4096];
	bool has = false;
	FILE *file;

	file = fopen(path, "r");
	if (!file)
		return false;
	while (!has && fgets(line, sizeof(line), file))
		has = strstr(line, word);
	fclose(file);
	return has;
}

static bool module_loaded(void)
{
	return !access("/sys/module/espintcp", F_OK);
}

static bool module_installed(void)
{
	char path[256];
	struct utsname uts;

	uname(&uts);
	snprintf(path, sizeof(path), "/lib/modules/%s/modules.dep",
		 uts.release);
	return file_has(path, "/espintcp.ko");
}

static bool ulp_known(void)
{
	return file_has("/proc/sys/net/ipv4/tcp_available_ulp", "espintcp");
}

static void check_module(void)
{
	/* The list of ULPs is shown in the first namespace only */
	if (module_loaded())
		finding(OK, NULL, "the module espintcp is loaded");
	else if (ulp_known())
		finding(NOTE, "use that; the module would decline to load",
			"this kernel has an espintcp of its own");
	else if (module_installed())
		finding(NOTE, "\"modprobe espintcp\", or let root's first use load it",
			"the module espintcp is installed, but not loaded");
	else
		finding(FAULT, "\"make && make install\", or the package espintcp-dkms",
			"no module espintcp for this kernel");
}

/* A connection of this machine with itself; the ends in @fd. */
static int connect_self(int fd[2])
{
	struct sockaddr_in addr = {
		.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	socklen_t len = sizeof(addr);
	int listener = socket(AF_INET, SOCK_STREAM, 0);

	fd[0] = socket(AF_INET, SOCK_STREAM, 0);
	fd[1] = -1;
	if (listener >= 0 && fd[0] >= 0 &&
	    !bind(listener, (struct sockaddr *)&addr, len) &&
	    !listen(listener, 1) &&
	    !getsockname(listener, (struct sockaddr *)&addr, &len) &&
	    !connect(fd[0], (struct sockaddr *)&addr, len))
		fd[1] = accept(listener, NULL, NULL);
	close(listener);
	return fd[1] < 0 ? -1 : 0;
}

static const char *ulp_todo(int error)
{
	switch (error) {
	case ENOENT:
		return "load the module: \"modprobe espintcp\"";
	case EPERM:
		return "needs CAP_NET_ADMIN of the machine, or allow_userns=1";
	case ENOPROTOOPT:
		return "this kernel has no upper-layer protocols on TCP";
	}
	return "see the kernel's log";
}

static void check_ulp(void)
{
	int fd[2];

	if (connect_self(fd)) {
		finding(NOTE, "is the interface lo up?",
			"no TCP connection to this machine itself: %s",
			strerror(errno));
		return;
	}
	if (setsockopt(fd[0], IPPROTO_TCP, TCP_ULP, "espintcp",
		       sizeof("espintcp")))
		finding(FAULT, ulp_todo(errno),
			"a TCP socket does not take the ULP: %s",
			strerror(errno));
	else
		finding(OK, NULL, "a TCP socket takes the ULP");
	close(fd[0]);
	close(fd[1]);
}

/* --------------------------------------------------------------- libreswan */

/* Runs @command. Returns how many lines have @word, -1 if it fails. */
static int count_lines(const char *command, const char *word)
{
	char line[1024];
	FILE *pipe;
	int n = 0;

	pipe = popen(command, "r");
	if (!pipe)
		return -1;
	while (fgets(line, sizeof(line), pipe))
		n += !!strstr(line, word);
	return pclose(pipe) ? -1 : n;
}

static void check_listen_tcp(void)
{
	switch (count_lines("ipsec addconn --configsetup 2>/dev/null",
			    "listen_tcp='yes'")) {
	case -1:
		finding(FAULT, "\"ipsec addconn --checkconfig\" says why",
			"libreswan cannot read its configuration");
		break;
	case 0:
		finding(FAULT, "listen-tcp=yes below \"config setup\" in /etc/ipsec.conf",
			"libreswan does not do TCP");
		break;
	default:
		finding(OK, NULL, "libreswan does TCP (listen-tcp=yes)");
	}
}

static void check_enable_tcp(void)
{
	int n = count_lines("ipsec readwriteconf 2>/dev/null", "enable-tcp=");

	if (n > 0)
		finding(OK, NULL, "connections with enable-tcp: %d", n);
	else
		finding(NOTE, "a client needs enable-tcp=fallback (or yes)",
			"no connection has enable-tcp");
}

static void check_libreswan(void)
{
	if (count_lines("command -v ipsec", "ipsec") < 1) {
		finding(NOTE, "\"apt install libreswan\", if it is to be your IKE daemon",
			"libreswan is not installed");
		return;
	}
	check_listen_tcp();
	check_enable_tcp();
}

/* ------------------------------------------------------------------- ports */

static void check_listener(const char *port)
{
	bool found;

	if (tcp_listens(atoi(port), &found))
		finding(NOTE, "try \"modprobe tcp_diag\"",
			"who listens is not to be known: %s", strerror(errno));
	else if (found)
		finding(OK, NULL, "somebody listens on TCP port %s", port);
	else
		finding(NOTE, "for a server: start the IKE daemon; a client needs no listener",
			"nobody listens on TCP port %s", port);
}

static int wait_connected(int fd)
{
	struct pollfd pfd = { .fd = fd, .events = POLLOUT };
	socklen_t len = sizeof(int);
	int error = 0;

	if (poll(&pfd, 1, CONNECT_TIMEOUT) <= 0)
		return -ETIMEDOUT;
	getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len);
	return -error;
}

/* Returns 0 or a negative errno. */
static int try_connect(const struct addrinfo *ai)
{
	int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
	int error = 0;

	if (fd < 0)
		return -errno;
	if (connect(fd, ai->ai_addr, ai->ai_addrlen))
		error = errno == EINPROGRESS ? wait_connected(fd) : -errno;
	close(fd);
	return error;
}

static void check_peer(const char *host, const char *port)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
	struct addrinfo *list, *ai;
	int ret, error = 0;

	ret = getaddrinfo(host, port, &hints, &list);
	if (ret) {
		finding(FAULT, "is the name right? try its address",
			"%s: %s", host, gai_strerror(ret));
		return;
	}
	for (ai = list; ai; ai = ai->ai_next) {
		error = try_connect(ai);
		if (!error)
			break;
	}
	freeaddrinfo(list);
	if (!error)
		finding(OK, NULL, "%s takes connections on TCP port %s", host,
			port);
	else if (error == -ECONNREFUSED)
		finding(FAULT, "does its IKE daemon listen there? (listen-tcp=yes)",
			"%s refuses connections on TCP port %s", host, port);
	else
		finding(FAULT, "something on the way drops it: try port 443",
			"%s, TCP port %s: %s", host, port, strerror(-error));
}

/* ----------------------------------------------------------------- command */

static void usage(FILE *to)
{
	fputs("Usage: espintcp check [-p PORT] [HOST]\n"
	      "\n"
	      "With HOST, also connect to it.\n"
	      "\n"
	      "  -p, --port=PORT  the TCP port of IKE (default 4500)\n"
	      "\n"
	      "Exit status: 0 without a FAULT, 1 with one.\n", to);
}

/**
 * cmd_check - the subcommand
 * @argc: as for main()
 * @argv: likewise
 *
 * Return: an exit code.
 */
int cmd_check(int argc, char **argv)
{
	static const struct option options[] = {
		{ "port", required_argument, NULL, 'p' },
		{ "help", no_argument, NULL, 'h' },
		{}
	};
	const char *port = "4500";
	int c;

	while ((c = getopt_long(argc, argv, "p:h", options, NULL)) != -1) {
		switch (c) {
		case 'p':
			port = optarg;
			if (atoi(port) < 1 || atoi(port) > 65535)
				errx(EXIT_USAGE, "%s: not a port", port);
			break;
		case 'h':
			usage(stdout);
			return EXIT_FINE;
		default:
			usage(stderr);
			return EXIT_USAGE;
		}
	}
	if (argc - optind > 1) {
		usage(stderr);
		return EXIT_USAGE;
	}

	setvbuf(stdout, NULL, _IOLBF, 0);
	check_privilege();
	check_xfrm();
	check_module();
	check_ulp();
	check_libreswan();
	check_listener(port);
	if (optind < argc)
		check_peer(argv[optind], port);
	return faulty ? EXIT_NOT_FINE : EXIT_FINE;
}
