// SPDX-License-Identifier: GPL-2.0
/*
 * XFRM_MSG_MIGRATE, for which iproute2 has no command.
 *
 * Moves a tunnel policy and its SAs from one pair of addresses to another and,
 * with -e, to another encapsulation. Prints the kernel's error, if any, and
 * exits with 1 then.
 */
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <linux/netlink.h>
#include <linux/xfrm.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char usage[] =
	"usage: xfrm_migrate [-e TYPE,SPORT,DPORT] out|in SEL-SRC SEL-DST REQID\n"
	"                    OLD-SRC OLD-DST NEW-SRC NEW-DST\n"
	"  -e TYPE,SPORT,DPORT  encapsulation: 2 is ESP in UDP, 7 ESP in TCP\n";

struct request {
	struct nlmsghdr nlh;
	struct xfrm_userpolicy_id policy;
	char attrs[512];
};

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

static void set_policy(struct request *req, char **arg)
{
	struct xfrm_selector *sel = &req->policy.sel;

	if (strcmp(arg[0], "out") && strcmp(arg[0], "in"))
		errx(2, "neither out nor in: %s", arg[0]);
	req->policy.dir = strcmp(arg[0], "in") ? XFRM_POLICY_OUT :
						 XFRM_POLICY_IN;
	sel->family = parse_address(arg[1], &sel->saddr);
	parse_address(arg[2], &sel->daddr);
	sel->prefixlen_s = sel->family == AF_INET ? 32 : 128;
	sel->prefixlen_d = sel->prefixlen_s;
}

static void add_migrate(struct request *req, char **arg)
{
	struct xfrm_user_migrate m = {
		.proto = IPPROTO_ESP,
		.mode = XFRM_MODE_TUNNEL,
		.reqid = strtoul(arg[0], NULL, 0),
	};

	m.old_family = parse_address(arg[1], &m.old_saddr);
	parse_address(arg[2], &m.old_daddr);
	m.new_family = parse_address(arg[3], &m.new_saddr);
	parse_address(arg[4], &m.new_daddr);
	add_attr(req, XFRMA_MIGRATE, &m, sizeof(m));
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
	struct request req = {
		.nlh.nlmsg_len = NLMSG_LENGTH(sizeof(req.policy)),
		.nlh.nlmsg_type = XFRM_MSG_MIGRATE,
		.nlh.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK,
	};
	const char *encap = NULL;
	int c, error;

	while ((c = getopt(argc, argv, "e:")) != -1) {
		if (c != 'e')
			goto bad;
		encap = optarg;
	}
	if (argc - optind != 8)
		goto bad;

	set_policy(&req, argv + optind);
	add_migrate(&req, argv + optind + 3);
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
