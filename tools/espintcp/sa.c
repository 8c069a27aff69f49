// SPDX-License-Identifier: GPL-2.0
/*
 * SAs, from XFRM.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/netlink.h>
#include <stdlib.h>
#include <string.h>

#include "espintcp.h"

#ifndef TCP_ENCAP_ESPINTCP
#define TCP_ENCAP_ESPINTCP	7
#endif

/**
 * end_from_xfrm - an end as XFRM tells it
 * @end: gets it
 * @family: AF_INET or AF_INET6
 * @addr: its address
 * @port: its port, network order
 */
void end_from_xfrm(struct end *end, int family, const xfrm_address_t *addr,
		   uint16_t port)
{
	memset(end, 0, sizeof(*end));
	end->family = family;
	end->port = ntohs(port);
	memcpy(end->addr, addr, family == AF_INET ? 4 : 16);
}

static int encap_attr(const struct nlattr *attr, void *data)
{
	const struct xfrm_encap_tmpl **encap = data;

	if (mnl_attr_get_type(attr) == XFRMA_ENCAP &&
	    mnl_attr_get_payload_len(attr) >= sizeof(**encap))
		*encap = mnl_attr_get_payload(attr);
	return MNL_CB_OK;
}

/**
 * sa_parse - an SA from XFRM's message
 * @nlh: XFRM_MSG_NEWSA or XFRM_MSG_UPDSA
 * @sa: gets the SA
 *
 * Return: false if it is not encapsulated in TCP.
 */
bool sa_parse(const struct nlmsghdr *nlh, struct sa *sa)
{
	const struct xfrm_usersa_info *info = mnl_nlmsg_get_payload(nlh);
	const struct xfrm_encap_tmpl *encap = NULL;

	if (mnl_nlmsg_get_payload_len(nlh) < sizeof(*info))
		return false;
	mnl_attr_parse(nlh, sizeof(*info), encap_attr, &encap);
	if (!encap || encap->encap_type != TCP_ENCAP_ESPINTCP)
		return false;

	end_from_xfrm(&sa->src, info->family, &info->saddr, encap->encap_sport);
	end_from_xfrm(&sa->dst, info->family, &info->id.daddr,
		      encap->encap_dport);
	sa->spi = ntohl(info->id.spi);
	sa->reqid = info->reqid;
	sa->mode = info->mode;
	sa->octets = info->curlft.bytes;
	sa->packets = info->curlft.packets;
	return true;
}

static int sas_cb(const struct nlmsghdr *nlh, void *data)
{
	struct sas *sas = data;
	struct sa sa;

	if (nlh->nlmsg_type != XFRM_MSG_NEWSA || !sa_parse(nlh, &sa))
		return MNL_CB_OK;
	sas->sa = array_grow(sas->sa, sas->n, sizeof(sa));
	sas->sa[sas->n++] = sa;
	return MNL_CB_OK;
}

/**
 * sas_get - all SAs of this namespace that are encapsulated in TCP
 * @sas: gets them; sas_free() them
 *
 * Return: 0, or -1 with errno set.
 */
int sas_get(struct sas *sas)
{
	char buf[MNL_NLMSG_HDRLEN];
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);

	int ret;

	nlh->nlmsg_type = XFRM_MSG_GETSA;
	sas->sa = NULL;
	do {
		sas->n = 0;
		ret = nl_dump(NETLINK_XFRM, nlh, sas_cb, sas);
	} while (ret && errno == EINTR);
	return ret;
}

/**
 * sas_free - done with them
 * @sas: of sas_get()
 */
void sas_free(struct sas *sas)
{
	free(sas->sa);
}

/**
 * sa_is_out - does the connection carry the SA's output?
 * @sa: the SA
 * @conn: the connection
 */
bool sa_is_out(const struct sa *sa, const struct conn *conn)
{
	return end_equal(&sa->src, &conn->local) &&
	       end_equal(&sa->dst, &conn->peer);
}

/**
 * sa_is_in - is the SA's input expected on the connection?
 * @sa: the SA
 * @conn: the connection
 */
bool sa_is_in(const struct sa *sa, const struct conn *conn)
{
	return end_equal(&sa->src, &conn->peer) &&
	       end_equal(&sa->dst, &conn->local);
}

/**
 * sa_mode - its mode in a word
 * @sa: the SA
 */
const char *sa_mode(const struct sa *sa)
{
	switch (sa->mode) {
	case XFRM_MODE_TRANSPORT:	return "transport";
	case XFRM_MODE_TUNNEL:		return "tunnel";
	case XFRM_MODE_BEET:		return "beet";
	}
	return "other";
}
