// SPDX-License-Identifier: GPL-2.0
/*
 * XFRM_MSG_MIGRATE and XFRM_MSG_MIGRATE_STATE, for which iproute2 has no command.
 *
 * The first moves a tunnel policy and its SAs from one pair of addresses to
 * another, the second (Linux 7.2) one SA; with -e to another encapsulation.
 * Prints the kernel's error, if any, and exits with 1 then.
 */
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <linux/netlink.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "xfrm_migrate.h"

static const char usage[] =
	"usage: xfrm_migrate [-e TYPE,SPORT,DPORT] policy out|in SEL-SRC SEL-DST REQID\n"
	"                    OLD-SRC OLD-DST NEW-SRC NEW-DST\n"
	"       xfrm_migrate [-e TYPE,SPORT,DPORT] state OLD-DST SPI REQID NEW-SRC NEW-DST\n"
	"  -e TYPE,SPORT,DPORT  encapsulation: 0 is none, 2 ESP in UDP, 7 ESP in TCP\n";

struct request {
	struct nlmsghdr nlh;
	char payload[1024];
};

/* The fixed part of a message, which attributes follow */
static void *request_begin(struct request *req, int type, size_t len)
{
	memset(req, 0, sizeof(*req));
	req->nlh.nlmsg_len = NLMSG_LENGTH(len);
	req->nlh.nlmsg_type = type;
	req->nlh.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
	return NLMSG_DATA(&req->nlh);
}

static int parse_address(const char *text, xfrm_address_t *addr)
{
	if (inet_pton(AF_INET, text, addr) == 1)
		return AF_INET;
	if (inet_pton(AF_INET6, text, addr) == 1)
		return AF_INET6;
	errx(2, "not an address: %s", text);
}

static void add_attr(struct request *req, int type, const void *data,
		     size_t len)
{
	struct nlattr *nla = (void *)req + NLMSG_ALIGN(req->nlh.nlmsg_len);

	nla->nla_type = type;
	nla->nla_len = NLA_HDRLEN + len;
	memcpy((char *)nla + NLA_HDRLEN, data, len);
	req->nlh.nlmsg_len = NLMSG_ALIGN(req->nlh.nlmsg_len) +
			     NLA_ALIGN(nla->nla_len);
}

static void add_encap(struct request *req, const char *text)
{
	struct xfrm_encap_tmpl encap = {};
	unsigned int type, sport, dport;

	if (sscanf(text, "%u,%u,%u", &type, &sport, &dport) != 3)
		errx(2, "not TYPE,SPORT,DPORT: %s", text);
	encap.encap_type = type;
	encap.encap_sport = htons(sport);
	encap.encap_dport = htons(dport);
	add_attr(req, XFRMA_ENCAP, &encap, sizeof(encap));
}

static void set_policy(struct xfrm_userpolicy_id *policy, char **arg)
{
	struct xfrm_selector *sel = &policy->sel;

	if (strcmp(arg[0], "out") && strcmp(arg[0], "in"))
		errx(2, "neither out nor in: %s", arg[0]);
	policy->dir = strcmp(arg[0], "in") ? XFRM_POLICY_OUT : XFRM_POLICY_IN;
	sel->family = parse_address(arg[1], &sel->saddr);
	parse_address(arg[2], &sel->daddr);
	sel->prefixlen_s = sel->family == AF_INET ? 32 : 128;
	sel->prefixlen_d = sel->prefixlen_s;
}

static void migrate_policy(struct request *req, char **arg)
{
	struct xfrm_user_migrate m = {
		.proto = IPPROTO_ESP,
		.mode = XFRM_MODE_TUNNEL,
		.reqid = strtoul(arg[3], NULL, 0),
	};

	set_policy(request_begin(req, XFRM_MSG_MIGRATE,
				 sizeof(struct xfrm_userpolicy_id)), arg);
	m.old_family = parse_address(arg[4], &m.old_saddr);
	parse_address(arg[5], &m.old_daddr);
	m.new_family = parse_address(arg[6], &m.new_saddr);
	parse_address(arg[7], &m.new_daddr);
	add_attr(req, XFRMA_MIGRATE, &m, sizeof(m));
}

static void migrate_state(struct request *req, char **arg)
{
	struct xfrm_user_migrate_state *m;

	m = request_begin(req, XFRM_MSG_MIGRATE_STATE, sizeof(*m));
	m->id.family = parse_address(arg[0], &m->id.daddr);
	m->id.spi = htonl(strtoul(arg[1], NULL, 0));
	m->id.proto = IPPROTO_ESP;
	m->new_reqid = strtoul(arg[2], NULL, 0);
	m->new_family = parse_address(arg[3], &m->new_saddr);
	parse_address(arg[4], &m->new_daddr);
}

/* Returns the kernel's answer, 0 or an errno */
static int transact(const struct request *req)
{
	unsigned int answer[1024];
	const struct nlmsghdr *nlh = (void *)answer;
	const struct nlmsgerr *ack = NLMSG_DATA(nlh);
	ssize_t len;
	int fd;

	fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_XFRM);
	if (fd < 0)
		err(2, "NETLINK_XFRM");
	if (send(fd, req, req->nlh.nlmsg_len, 0) < 0)
		err(2, "send");
	len = recv(fd, answer, sizeof(answer), 0);
	if (len < (ssize_t)NLMSG_LENGTH(sizeof(*ack)) ||
	    nlh->nlmsg_type != NLMSG_ERROR)
		errx(2, "no answer of the kernel");
	close(fd);
	return -ack->error;
}

int main(int argc, char **argv)
{
	const char *encap = NULL;
	struct request req;
	int c, error;

	while ((c = getopt(argc, argv, "e:")) != -1) {
		if (c != 'e')
			goto bad;
		encap = optarg;
	}
	argc -= optind;
	argv += optind;

	if (argc == 9 && !strcmp(argv[0], "policy"))
		migrate_policy(&req, argv + 1);
	else if (argc == 6 && !strcmp(argv[0], "state"))
		migrate_state(&req, argv + 1);
	else
		goto bad;
	if (encap)
		add_encap(&req, encap);

	error = transact(&req);
	if (!error)
		return 0;
	printf("%s\n", strerrorname_np(error));
	return 1;
bad:
	fputs(usage, stderr);
	return 2;
}
