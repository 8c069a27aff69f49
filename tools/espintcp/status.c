// SPDX-License-Identifier: GPL-2.0
/*
 * espintcp status: connections beside the SAs they carry.
 */
#include <err.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "espintcp.h"

/* All there is to see at one time */
struct view {
	struct conns conns;
	struct sas sas;
	struct timespec when;
};

struct options {
	bool json;
	unsigned int interval;
	unsigned int count;
};

static const char * const traffic_names[TRAFFIC_MAX] = {
	[IN_IKE] = "ike",
	[IN_ESP] = "esp",
	[IN_KEEPALIVE] = "keepalive",
	[OUT_IKE] = "ike",
	[OUT_ESP] = "esp",
};

static void view_get(struct view *view)
{
	clock_gettime(CLOCK_MONOTONIC, &view->when);
	if (conns_get(&view->conns))
		err(EXIT_FAILED, "sock_diag");
	if (sas_get(&view->sas))
		err(EXIT_FAILED, "XFRM");
}

static void view_free(struct view *view)
{
	conns_free(&view->conns);
	sas_free(&view->sas);
	memset(view, 0, sizeof(*view));
}

static double view_seconds(const struct view *from, const struct view *to)
{
	return to->when.tv_sec - from->when.tv_sec +
	       (to->when.tv_nsec - from->when.tv_nsec) / 1e9;
}

/* The same connection the last time, or NULL */
static const struct conn *view_find(const struct view *view,
				    const struct conn *conn)
{
	size_t i;

	for (i = 0; i < view->conns.n; i++)
		if (!memcmp(view->conns.conn[i].cookie, conn->cookie,
			    sizeof(conn->cookie)))
			return &view->conns.conn[i];
	return NULL;
}

static bool sa_has_conn(const struct sa *sa, const struct conns *conns)
{
	size_t i;

	for (i = 0; i < conns->n; i++)
		if (sa_is_out(sa, &conns->conn[i]) ||
		    sa_is_in(sa, &conns->conn[i]))
			return true;
	return false;
}

static size_t count_lonely(const struct view *view)
{
	size_t i, n = 0;

	for (i = 0; i < view->sas.n; i++)
		n += !sa_has_conn(&view->sas.sa[i], &view->conns);
	return n;
}

/* SAs that send on a connection although they name none: the kernel says of each
 * connection how many it carries, not which. More than name it have come from
 * others, and fewer than name it, of those that ever sent, have gone to others.
 */
static size_t count_moved(const struct view *view)
{
	size_t i, j, come = 0, gone = 0;

	for (i = 0; i < view->conns.n; i++) {
		const struct conn *conn = &view->conns.conn[i];
		size_t named = 0, sent = 0;

		for (j = 0; j < view->sas.n; j++) {
			const struct sa *sa = &view->sas.sa[j];

			if (!sa_is_out(sa, conn))
				continue;
			named++;
			sent += sa->packets > 0;
		}
		if (conn->sas > named)
			come += conn->sas - named;
		else if (conn->sas < sent)
			gone += sent - conn->sas;
	}
	return come > gone ? come - gone : 0;
}

/* SAs whose packets are dropped. What comes in needs no connection of its own. */
static size_t count_dropping(const struct view *view)
{
	size_t i, n = 0, moved = count_moved(view);

	for (i = 0; i < view->sas.n; i++) {
		const struct sa *sa = &view->sas.sa[i];

		n += !sa_has_conn(sa, &view->conns) &&
		     (end_is_local(&sa->src) || !end_is_local(&sa->dst));
	}
	return n > moved ? n - moved : 0;
}

/* ---------------------------------------------------------------- for eyes */

/* "12 (3456 octets)", and a rate where there is a last time */
static void print_traffic(const struct conn *conn, const struct conn *last,
			  double seconds, int which)
{
	const struct traffic *now = &conn->traffic[which];
	const struct traffic *was = last ? &last->traffic[which] : NULL;

	printf("  %s %" PRIu64 " (%" PRIu64 " octets", traffic_names[which],
	       now->frames, now->octets);
	if (was && seconds > 0)
		printf(", %.0f/s, %.3f Mbit/s",
		       (now->frames - was->frames) / seconds,
		       (now->octets - was->octets) * 8 / seconds / 1e6);
	putchar(')');
}

static void print_drops(const struct conn *conn)
{
	bool any = false;
	unsigned int why;

	for (why = 1; why <= ESPINTCP_DROP_MAX; why++) {
		if (!conn->drops[why])
			continue;
		printf("%s  %s %u", any ? "" : "    dropped", drop_name(why),
		       conn->drops[why]);
		any = true;
	}
	if (any)
		putchar('\n');
}

static void print_sa(const char *way, const struct sa *sa)
{
	printf("    SA %-3s   spi 0x%08x  reqid %u  %s  %" PRIu64
	       " packets (%" PRIu64 " octets)\n", way, sa->spi, sa->reqid,
	       sa_mode(sa), sa->packets, sa->octets);
}

static void print_conn(const struct conn *conn, const struct conn *last,
		       double seconds)
{
	char local[END_STRLEN], peer[END_STRLEN];

	printf("%s -> %s  %s", end_string(&conn->local, local),
	       end_string(&conn->peer, peer), state_name(conn->state));
	if (conn->was_valid)
		printf(", last valid ESP %.1f s ago\n", conn->last_valid / 1e3);
	else
		printf(", no valid ESP yet\n");

	printf("    in     ");
	print_traffic(conn, last, seconds, IN_IKE);
	print_traffic(conn, last, seconds, IN_ESP);
	print_traffic(conn, last, seconds, IN_KEEPALIVE);
	printf("\n    out    ");
	print_traffic(conn, last, seconds, OUT_IKE);
	print_traffic(conn, last, seconds, OUT_ESP);
	printf("\n    queued   ike %u of %u  esp %u of %u octets",
	       conn->ike_queued, conn->ike_limit,
	       conn->esp_queued, conn->esp_limit);
	if (conn->ike_unread)
		printf("; the daemon has not read %u messages",
		       conn->ike_unread);
	putchar('\n');
	print_drops(conn);
}

static void print_lonely(const struct view *view)
{
	char src[END_STRLEN], dst[END_STRLEN];
	const struct sa *sa;
	size_t i;

	if (!count_lonely(view))
		return;
	if (count_dropping(view))
		printf("SAs without a connection: what they send is dropped\n");
	else
		printf("SAs that moved to another connection than they name\n");
	for (i = 0; i < view->sas.n; i++) {
		sa = &view->sas.sa[i];
		if (!sa_has_conn(sa, &view->conns))
			printf("    %s -> %s  spi 0x%08x  reqid %u  %s\n",
			       end_string(&sa->src, src),
			       end_string(&sa->dst, dst), sa->spi, sa->reqid,
			       sa_mode(sa));
	}
}

static void print_view(const struct view *view, const struct view *last)
{
	const struct conn *conn;
	size_t i, j;

	for (i = 0; i < view->conns.n; i++) {
		conn = &view->conns.conn[i];
		print_conn(conn, view_find(last, conn),
			   view_seconds(last, view));
		for (j = 0; j < view->sas.n; j++) {
			if (sa_is_out(&view->sas.sa[j], conn))
				print_sa("out", &view->sas.sa[j]);
			else if (sa_is_in(&view->sas.sa[j], conn))
				print_sa("in", &view->sas.sa[j]);
		}
	}
	print_lonely(view);
	if (!view->conns.n && !view->sas.n)
		printf("no connections and no SAs\n");
}

/* -------------------------------------------------------------------- JSON */

static void json_end(const char *name, const struct end *end)
{
	char addr[END_STRLEN];

	printf("\"%s\":{\"address\":\"%s\",\"port\":%u}", name,
	       end_address(end, addr), end->port);
}

static void json_traffic(const struct conn *conn, int from, int to)
{
	int i;

	for (i = from; i <= to; i++)
		printf("%s\"%s\":{\"frames\":%" PRIu64 ",\"octets\":%" PRIu64
		       "}", i == from ? "" : ",", traffic_names[i],
		       conn->traffic[i].frames, conn->traffic[i].octets);
}

static void json_drops(const struct conn *conn)
{
	unsigned int why;

	for (why = 1; why <= ESPINTCP_DROP_MAX; why++)
		printf("%s\"%s\":%u", why == 1 ? "" : ",", drop_name(why),
		       conn->drops[why]);
}

static void json_sa(const struct sa *sa, const char *way)
{
	putchar('{');
	if (way)
		printf("\"direction\":\"%s\",", way);
	json_end("src", &sa->src);
	putchar(',');
	json_end("dst", &sa->dst);
	printf(",\"spi\":%u,\"reqid\":%u,\"mode\":\"%s\",\"packets\":%" PRIu64
	       ",\"octets\":%" PRIu64 "}", sa->spi, sa->reqid, sa_mode(sa),
	       sa->packets, sa->octets);
}

static void json_sas_of(const struct view *view, const struct conn *conn)
{
	const char *comma = "";
	const struct sa *sa;
	size_t i;
	bool out;

	for (i = 0; i < view->sas.n; i++) {
		sa = &view->sas.sa[i];
		out = sa_is_out(sa, conn);
		if (!out && !sa_is_in(sa, conn))
			continue;
		fputs(comma, stdout);
		json_sa(sa, out ? "out" : "in");
		comma = ",";
	}
}

static void json_conn(const struct view *view, const struct conn *conn)
{
	putchar('{');
	json_end("local", &conn->local);
	putchar(',');
	json_end("peer", &conn->peer);
	printf(",\"state\":\"%s\",\"last_valid_ms\":", state_name(conn->state));
	if (conn->was_valid)
		printf("%" PRIu64, conn->last_valid);
	else
		printf("null");
	printf(",\"carries_sas\":%u,\"ike_unread\":%u", conn->sas,
	       conn->ike_unread);
	printf(",\"queued\":{\"ike\":%u,\"ike_limit\":%u", conn->ike_queued,
	       conn->ike_limit);
	printf(",\"esp\":%u,\"esp_limit\":%u}", conn->esp_queued,
	       conn->esp_limit);
	printf(",\"in\":{");
	json_traffic(conn, IN_IKE, IN_KEEPALIVE);
	printf("},\"out\":{");
	json_traffic(conn, OUT_IKE, OUT_ESP);
	printf("},\"drops\":{");
	json_drops(conn);
	printf("},\"sas\":[");
	json_sas_of(view, conn);
	printf("]}");
}

static void json_view(const struct view *view)
{
	const char *comma = "";
	size_t i;

	printf("{\"connections\":[");
	for (i = 0; i < view->conns.n; i++) {
		fputs(i ? "," : "", stdout);
		json_conn(view, &view->conns.conn[i]);
	}
	printf("],\"sas_without_connection\":[");
	for (i = 0; i < view->sas.n; i++) {
		if (sa_has_conn(&view->sas.sa[i], &view->conns))
			continue;
		fputs(comma, stdout);
		json_sa(&view->sas.sa[i], NULL);
		comma = ",";
	}
	printf("],\"sas_moved\":%zu}\n", count_moved(view));
}

/* ----------------------------------------------------------------- command */

static void usage(FILE *to)
{
	fputs("Usage: espintcp status [-j] [-i SECONDS [-c COUNT]]\n"
	      "\n"
	      "  -j, --json          for programs: one object a line\n"
	      "  -i, --interval=SEC  again every SEC seconds, with rates\n"
	      "  -c, --count=N       that often, then stop\n"
	      "\n"
	      "Exit status: 0 if there is a connection and no SA that sends is without,\n"
	      "1 if not, 3 if the kernel did not tell.\n", to);
}

static unsigned int number(const char *arg)
{
	unsigned long n;
	char *end;

	n = strtoul(arg, &end, 10);
	if (*end || end == arg || !n || n > 86400)
		errx(EXIT_USAGE, "%s: not a number from 1 to 86400", arg);
	return n;
}

static void parse_options(int argc, char **argv, struct options *opt)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "interval", required_argument, NULL, 'i' },
		{ "count", required_argument, NULL, 'c' },
		{ "help", no_argument, NULL, 'h' },
		{}
	};
	int c;

	*opt = (struct options){};
	while ((c = getopt_long(argc, argv, "ji:c:h", options, NULL)) != -1) {
		switch (c) {
		case 'j':
			opt->json = true;
			break;
		case 'i':
			opt->interval = number(optarg);
			break;
		case 'c':
			opt->count = number(optarg);
			break;
		case 'h':
			usage(stdout);
			exit(EXIT_FINE);
		default:
			usage(stderr);
			exit(EXIT_USAGE);
		}
	}
	if (optind < argc) {
		usage(stderr);
		exit(EXIT_USAGE);
	}
	/* With an interval and no count: for ever */
	if (!opt->count && !opt->interval)
		opt->count = 1;
}

/**
 * cmd_status - the subcommand
 * @argc: as for main()
 * @argv: likewise
 *
 * Return: an exit code.
 */
int cmd_status(int argc, char **argv)
{
	struct view last = {}, view = {};
	struct options opt;
	unsigned int n = 0;

	parse_options(argc, argv, &opt);
	for (;;) {
		view_get(&view);
		if (opt.json)
			json_view(&view);
		else
			print_view(&view, &last);
		fflush(stdout);
		if (++n == opt.count)
			break;
		view_free(&last);
		last = view;
		sleep(opt.interval ? opt.interval : 1);
		if (!opt.json)
			putchar('\n');
	}
	return view.conns.n && !count_dropping(&view) ? EXIT_FINE :
							EXIT_NOT_FINE;
}
