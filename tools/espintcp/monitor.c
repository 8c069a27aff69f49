// SPDX-License-Identifier: GPL-2.0
/*
 * espintcp monitor: events as they come.
 *
 * The kernel announces SAs and the end of sockets. That a socket got the ULP,
 * or lost it, it does not: for this, and for counters, it is asked again and
 * again.
 */
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "espintcp.h"

#define GROUP(n)	(1U << ((n) - 1))
#define COUNTERS_MAX	64

struct counter {
	char name[32];
	unsigned long long value;
};

struct monitor {
	struct conns conns;
	struct counter counters[COUNTERS_MAX];
	size_t n_counters;
	bool polled;		/* what is found now is news */
};

/* One event, one line: the time and what happened */
static void __printf(1, 2) event(const char *fmt, ...)
{
	struct timespec now;
	char when[16];
	struct tm tm;
	va_list ap;

	clock_gettime(CLOCK_REALTIME, &now);
	localtime_r(&now.tv_sec, &tm);
	strftime(when, sizeof(when), "%H:%M:%S", &tm);
	printf("%s.%03ld  ", when, now.tv_nsec / 1000000);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
	fflush(stdout);
}

/* ------------------------------------------------------------- connections */

static struct conn *conns_find(struct conns *conns, const struct conn *conn)
{
	size_t i;

	for (i = 0; i < conns->n; i++)
		if (!memcmp(conns->conn[i].cookie, conn->cookie,
			    sizeof(conn->cookie)))
			return &conns->conn[i];
	return NULL;
}

static void conn_event(const struct conn *conn, const char *what)
{
	char local[END_STRLEN], peer[END_STRLEN];

	event("%-9s %s -> %s", what, end_string(&conn->local, local),
	      end_string(&conn->peer, peer));
}

static void conn_closed(const struct conn *conn)
{
	char local[END_STRLEN], peer[END_STRLEN];

	event("closed    %s -> %s  ESP in %" PRIu64 " out %" PRIu64,
	      end_string(&conn->local, local), end_string(&conn->peer, peer),
	      conn->traffic[IN_ESP].frames, conn->traffic[OUT_ESP].frames);
}

static void conns_compare(struct monitor *mon, struct conns *now)
{
	struct conn *conn;
	size_t i;

	for (i = 0; i < now->n; i++) {
		conn = conns_find(&mon->conns, &now->conn[i]);
		if (!conn)
			conn_event(&now->conn[i], mon->polled ? "opened" : "open");
		else if (conn->state != now->conn[i].state)
			conn_event(&now->conn[i],
				   state_name(now->conn[i].state));
	}
	for (i = 0; i < mon->conns.n; i++)
		if (!conns_find(now, &mon->conns.conn[i]))
			conn_closed(&mon->conns.conn[i]);
}

static void poll_conns(struct monitor *mon)
{
	struct conns now;

	if (conns_get(&now))
		err(EXIT_FAILED, "sock_diag");
	conns_compare(mon, &now);
	conns_free(&mon->conns);
	mon->conns = now;
}

/* The socket is gone: sooner known from here than from asking again. */
static int destroy_cb(const struct nlmsghdr *nlh, void *data)
{
	struct monitor *mon = data;
	struct conn gone, *conn;

	if (!diag_ends(nlh, &gone))
		return MNL_CB_OK;
	conn = conns_find(&mon->conns, &gone);
	if (!conn)
		return MNL_CB_OK;
	conn_closed(conn);
	*conn = mon->conns.conn[--mon->conns.n];
	return MNL_CB_OK;
}

/* ---------------------------------------------------------------- counters */

/* Faults, and paths that move; not what moves with every frame, nor what is told
 * as an event of its own.
 */
static bool counter_is_news(const char *name)
{
	static const char * const traffic[] = {
		"EspTcpInIke", "EspTcpInEsp", "EspTcpInKeepalive",
		"EspTcpInGro", "EspTcpOutIke", "EspTcpOutEsp", "EspTcpOutGso",
		"EspTcpOutRenumbered", "EspTcpOutAqmMark",
		"EspTcpConnOpened", "EspTcpConnClosed",
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(traffic); i++)
		if (!strcmp(name, traffic[i]))
			return false;
	return true;
}

static void counter_seen(struct monitor *mon, const struct counter *now)
{
	struct counter *was = mon->counters;
	struct counter *end = was + mon->n_counters;

	while (was < end && strcmp(was->name, now->name))
		was++;
	if (was == end) {
		if (mon->n_counters == COUNTERS_MAX)
			return;
		mon->n_counters++;
		*was = *now;
	}
	if (was->value != now->value && counter_is_news(now->name))
		event("counter   %s +%llu", now->name,
		      now->value - was->value);
	*was = *now;
}

static void poll_counters(struct monitor *mon)
{
	struct counter now;
	FILE *file;

	/* In-tree espintcp has none */
	file = fopen("/proc/net/espintcp_stat", "r");
	if (!file)
		return;
	while (fscanf(file, "%31s %llu", now.name, &now.value) == 2)
		counter_seen(mon, &now);
	fclose(file);
}

/* -------------------------------------------------------------------- XFRM */

static void sa_event(const struct sa *sa, const char *what)
{
	char src[END_STRLEN], dst[END_STRLEN];

	event("%-9s spi 0x%08x  reqid %u  %s  %s -> %s", what, sa->spi,
	      sa->reqid, sa_mode(sa), end_string(&sa->src, src),
	      end_string(&sa->dst, dst));
}

static void mapping_event(const struct nlmsghdr *nlh)
{
	const struct xfrm_user_mapping *map = mnl_nlmsg_get_payload(nlh);
	char was[END_STRLEN], is[END_STRLEN];
	struct end old, new;

	if (mnl_nlmsg_get_payload_len(nlh) < sizeof(*map))
		return;
	end_from_xfrm(&old, map->id.family, &map->old_saddr, map->old_sport);
	end_from_xfrm(&new, map->id.family, &map->new_saddr, map->new_sport);
	event("moved     spi 0x%08x  reqid %u  peer %s -> %s",
	      ntohl(map->id.spi), map->reqid, end_string(&old, was),
	      end_string(&new, is));
}

static void deleted_event(const struct nlmsghdr *nlh)
{
	const struct xfrm_usersa_id *id = mnl_nlmsg_get_payload(nlh);
	char addr[END_STRLEN];
	struct end dst;

	if (mnl_nlmsg_get_payload_len(nlh) < sizeof(*id) ||
	    id->proto != IPPROTO_ESP)
		return;
	end_from_xfrm(&dst, id->family, &id->daddr, 0);
	event("SA gone   spi 0x%08x  to %s", ntohl(id->spi),
	      end_address(&dst, addr));
}

static void expire_event(const struct nlmsghdr *nlh)
{
	const struct xfrm_user_expire *expire = mnl_nlmsg_get_payload(nlh);

	if (mnl_nlmsg_get_payload_len(nlh) < sizeof(*expire) ||
	    expire->state.id.proto != IPPROTO_ESP)
		return;
	event("%s spi 0x%08x  reqid %u", expire->hard ? "expired  " : "expires  ",
	      ntohl(expire->state.id.spi), expire->state.reqid);
}

static int xfrm_cb(const struct nlmsghdr *nlh, void *data)
{
	struct sa sa;

	(void)data;
	switch (nlh->nlmsg_type) {
	case XFRM_MSG_NEWSA:
	case XFRM_MSG_UPDSA:
		if (sa_parse(nlh, &sa))
			sa_event(&sa, nlh->nlmsg_type == XFRM_MSG_NEWSA ?
				      "SA added" : "SA new");
		break;
	case XFRM_MSG_DELSA:
		deleted_event(nlh);
		break;
	case XFRM_MSG_FLUSHSA:
		event("SAs gone  all");
		break;
	case XFRM_MSG_EXPIRE:
		expire_event(nlh);
		break;
	case XFRM_MSG_MAPPING:
		mapping_event(nlh);
		break;
	}
	return MNL_CB_OK;
}

/* ----------------------------------------------------------------- command */

static struct mnl_socket *listen_to(int bus, unsigned int groups)
{
	struct mnl_socket *nl = nl_open(bus, groups);

	if (!nl)
		err(EXIT_FAILED, "netlink groups");
	return nl;
}

static void hear(struct mnl_socket *nl, mnl_cb_t cb, void *data)
{
	static char buf[32768];
	ssize_t len = mnl_socket_recvfrom(nl, buf, sizeof(buf));

	if (len < 0 && errno == ENOBUFS)
		event("lost      the kernel had more to say than was listened to");
	else if (len < 0 && errno != EINTR)
		err(EXIT_FAILED, "netlink");
	if (len > 0)
		mnl_cb_run(buf, len, 0, 0, cb, data);
}

/* Until a signal ends it, or the kernel does not answer. */
static void run(struct monitor *mon, int interval)
{
	struct mnl_socket *xfrm, *diag;
	struct pollfd fds[2];

	xfrm = listen_to(NETLINK_XFRM, GROUP(XFRMNLGRP_SA) |
			 GROUP(XFRMNLGRP_EXPIRE) | GROUP(XFRMNLGRP_MAPPING));
	diag = listen_to(NETLINK_SOCK_DIAG, GROUP(SKNLGRP_INET_TCP_DESTROY) |
			 GROUP(SKNLGRP_INET6_TCP_DESTROY));
	fds[0] = (struct pollfd){ mnl_socket_get_fd(xfrm), POLLIN, 0 };
	fds[1] = (struct pollfd){ mnl_socket_get_fd(diag), POLLIN, 0 };

	for (;;) {
		poll_conns(mon);
		poll_counters(mon);
		if (!mon->polled)
			event("watching");
		mon->polled = true;
		if (poll(fds, ARRAY_SIZE(fds), interval) < 0)
			err(EXIT_FAILED, "poll");
		if (fds[0].revents)
			hear(xfrm, xfrm_cb, mon);
		if (fds[1].revents)
			hear(diag, destroy_cb, mon);
	}
}

static void usage(FILE *to)
{
	fputs("Usage: espintcp monitor [-i MILLISECONDS]\n"
	      "\n"
	      "  -i, --interval=MS  how often to look for connections and counters\n"
	      "                     (default 500); SAs are told at once\n"
	      "\n"
	      "Goes on until it is interrupted. Exit status 3 if the kernel did not tell.\n",
	      to);
}

/**
 * cmd_monitor - the subcommand
 * @argc: as for main()
 * @argv: likewise
 *
 * Return: an exit code.
 */
int cmd_monitor(int argc, char **argv)
{
	static const struct option options[] = {
		{ "interval", required_argument, NULL, 'i' },
		{ "help", no_argument, NULL, 'h' },
		{}
	};
	struct monitor mon = {};
	int interval = 500;
	int c;

	while ((c = getopt_long(argc, argv, "i:h", options, NULL)) != -1) {
		switch (c) {
		case 'i':
			interval = atoi(optarg);
			if (interval > 0)
				break;
			errx(EXIT_USAGE, "%s: not a number above 0", optarg);
		case 'h':
			usage(stdout);
			return EXIT_FINE;
		default:
			usage(stderr);
			return EXIT_USAGE;
		}
	}
	if (optind < argc) {
		usage(stderr);
		return EXIT_USAGE;
	}

	run(&mon, interval);
	return EXIT_FAILED;
}
