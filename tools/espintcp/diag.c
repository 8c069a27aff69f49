// SPDX-License-Identifier: GPL-2.0
/*
 * Connections, from sock_diag.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "espintcp.h"

/* enum in the kernel's net/tcp_states.h */
#define STATE_LISTEN	10
#define STATES_OPEN	((1 << 1) | (1 << 4) | (1 << 5) | (1 << 8) | \
			 (1 << 9) | (1 << 11))

static const uint8_t v4_mapped[12] = { [10] = 0xff, [11] = 0xff };

/* An IPv4 connection of an IPv6 socket is one to its SAs, too. */
static void end_from_diag(struct end *end, int family, const __be32 *addr,
			  __be16 port)
{
	memset(end, 0, sizeof(*end));
	end->family = family;
	end->port = ntohs(port);
	if (family == AF_INET) {
		memcpy(end->addr, addr, 4);
	} else if (!memcmp(addr, v4_mapped, sizeof(v4_mapped))) {
		end->family = AF_INET;
		memcpy(end->addr, &addr[3], 4);
	} else {
		memcpy(end->addr, addr, 16);
	}
}

/**
 * end_address - the address of an end, as text
 * @end: the end
 * @buf: END_STRLEN octets
 */
const char *end_address(const struct end *end, char *buf)
{
	if (!inet_ntop(end->family, end->addr, buf, END_STRLEN))
		strcpy(buf, "?");
	return buf;
}

/**
 * end_string - address and port of an end, as text
 * @end: the end
 * @buf: END_STRLEN octets
 */
const char *end_string(const struct end *end, char *buf)
{
	char addr[END_STRLEN];

	end_address(end, addr);
	snprintf(buf, END_STRLEN, end->family == AF_INET6 ? "[%.45s]:%u" :
		 "%.45s:%u", addr, end->port);
	return buf;
}

/**
 * end_equal - are they the same?
 * @a: one end
 * @b: another
 */
bool end_equal(const struct end *a, const struct end *b)
{
	return a->family == b->family && a->port == b->port &&
	       !memcmp(a->addr, b->addr, sizeof(a->addr));
}

/**
 * end_is_local - is its address one of this host's?
 * @end: the end
 */
bool end_is_local(const struct end *end)
{
	struct sockaddr_in6 sin6 = { .sin6_family = AF_INET6 };
	struct sockaddr_in sin = { .sin_family = AF_INET };
	int fd, err;

	fd = socket(end->family, SOCK_DGRAM, 0);
	if (fd < 0)
		return false;
	memcpy(&sin.sin_addr, end->addr, sizeof(sin.sin_addr));
	memcpy(&sin6.sin6_addr, end->addr, sizeof(sin6.sin6_addr));
	if (end->family == AF_INET)
		err = bind(fd, (struct sockaddr *)&sin, sizeof(sin));
	else
		err = bind(fd, (struct sockaddr *)&sin6, sizeof(sin6));
	close(fd);
	return !err;
}

static const char * const state_names[] = {
	[ESPINTCP_STATE_OPEN] = "open",
	[ESPINTCP_STATE_FINISHED] = "finished",
	[ESPINTCP_STATE_SHUT] = "shut",
	[ESPINTCP_STATE_BROKEN] = "broken",
};

/**
 * state_name - enum espintcp_state in a word
 * @state: perhaps one of a later kernel module
 */
const char *state_name(unsigned int state)
{
	if (state < ARRAY_SIZE(state_names) && state_names[state])
		return state_names[state];
	return "unknown";
}

static const char * const drop_names[] = {
	[ESPINTCP_DROP_IN_SHORT] = "in_short",
	[ESPINTCP_DROP_IN_TRUNCATED] = "in_truncated",
	[ESPINTCP_DROP_IN_IKE_FULL] = "in_ike_full",
	[ESPINTCP_DROP_IN_NO_MEM] = "in_no_mem",
	[ESPINTCP_DROP_IN_NO_DEV] = "in_no_dev",
	[ESPINTCP_DROP_OUT_QUEUE_FULL] = "out_queue_full",
	[ESPINTCP_DROP_OUT_NO_CONN] = "out_no_conn",
	[ESPINTCP_DROP_OUT_CLOSED] = "out_closed",
	[ESPINTCP_DROP_OUT_TOO_BIG] = "out_too_big",
	[ESPINTCP_DROP_OUT_LOOP] = "out_loop",
	[ESPINTCP_DROP_OUT_NO_MEM] = "out_no_mem",
	[ESPINTCP_DROP_OUT_CRYPTO] = "out_crypto",
	[ESPINTCP_DROP_OUT_AQM] = "out_aqm",
	[ESPINTCP_DROP_IN_NO_ROUTE] = "in_no_route",
};

/**
 * drop_name - enum espintcp_drop in a word
 * @why: at most ESPINTCP_DROP_MAX
 */
const char *drop_name(unsigned int why)
{
	return drop_names[why] ? drop_names[why] : "unknown";
}

static int traffic_attr(const struct nlattr *attr, void *data)
{
	struct traffic *traffic = data;

	if (mnl_attr_validate(attr, MNL_TYPE_U64) < 0)
		return MNL_CB_OK;
	switch (mnl_attr_get_type(attr)) {
	case ESPINTCP_DIAG_COUNT_FRAMES:
		traffic->frames = mnl_attr_get_u64(attr);
		break;
	case ESPINTCP_DIAG_COUNT_OCTETS:
		traffic->octets = mnl_attr_get_u64(attr);
		break;
	}
	return MNL_CB_OK;
}

static int drops_attr(const struct nlattr *attr, void *data)
{
	unsigned int why = mnl_attr_get_type(attr);
	struct conn *conn = data;

	if (why <= ESPINTCP_DROP_MAX &&
	    mnl_attr_validate(attr, MNL_TYPE_U32) == 0)
		conn->drops[why] = mnl_attr_get_u32(attr);
	return MNL_CB_OK;
}

static uint32_t *conn_u32(struct conn *conn, int type)
{
	switch (type) {
	case ESPINTCP_DIAG_STATE:	return &conn->state;
	case ESPINTCP_DIAG_SAS:		return &conn->sas;
	case ESPINTCP_DIAG_IKE_UNREAD:	return &conn->ike_unread;
	case ESPINTCP_DIAG_IKE_QUEUED:	return &conn->ike_queued;
	case ESPINTCP_DIAG_ESP_QUEUED:	return &conn->esp_queued;
	case ESPINTCP_DIAG_IKE_LIMIT:	return &conn->ike_limit;
	case ESPINTCP_DIAG_ESP_LIMIT:	return &conn->esp_limit;
	}
	return NULL;
}

static int conn_attr(const struct nlattr *attr, void *data)
{
	int type = mnl_attr_get_type(attr);
	struct conn *conn = data;

	switch (type) {
	case ESPINTCP_DIAG_IN_IKE ... ESPINTCP_DIAG_OUT_ESP:
		return mnl_attr_parse_nested(attr, traffic_attr,
			&conn->traffic[type - ESPINTCP_DIAG_IN_IKE]);
	case ESPINTCP_DIAG_DROPS:
		return mnl_attr_parse_nested(attr, drops_attr, conn);
	case ESPINTCP_DIAG_LAST_VALID:
		if (mnl_attr_validate(attr, MNL_TYPE_U64) == 0) {
			conn->was_valid = true;
			conn->last_valid = mnl_attr_get_u64(attr);
		}
		return MNL_CB_OK;
	}
	if (conn_u32(conn, type) && mnl_attr_validate(attr, MNL_TYPE_U32) == 0)
		*conn_u32(conn, type) = mnl_attr_get_u32(attr);
	return MNL_CB_OK;
}

/* What is in INET_DIAG_ULP_INFO */
struct ulp_info {
	const char *name;
	const struct nlattr *espintcp;
};

static int ulp_attr(const struct nlattr *attr, void *data)
{
	struct ulp_info *info = data;

	switch (mnl_attr_get_type(attr)) {
	case INET_ULP_INFO_NAME:
		if (mnl_attr_validate(attr, MNL_TYPE_NUL_STRING) == 0)
			info->name = mnl_attr_get_str(attr);
		break;
	case INET_ULP_INFO_ESPINTCP:
		info->espintcp = attr;
		break;
	}
	return MNL_CB_OK;
}

static int diag_attr(const struct nlattr *attr, void *data)
{
	if (mnl_attr_get_type(attr) == INET_DIAG_ULP_INFO)
		return mnl_attr_parse_nested(attr, ulp_attr, data);
	return MNL_CB_OK;
}

/**
 * diag_ends - which socket sock_diag speaks of
 * @nlh: its message
 * @conn: gets both ends and the cookie
 *
 * Return: false if the message makes no sense.
 */
bool diag_ends(const struct nlmsghdr *nlh, struct conn *conn)
{
	const struct inet_diag_msg *msg = mnl_nlmsg_get_payload(nlh);
	const struct inet_diag_sockid *id = &msg->id;

	if (mnl_nlmsg_get_payload_len(nlh) < sizeof(*msg))
		return false;
	end_from_diag(&conn->local, msg->idiag_family, id->idiag_src,
		      id->idiag_sport);
	end_from_diag(&conn->peer, msg->idiag_family, id->idiag_dst,
		      id->idiag_dport);
	memcpy(conn->cookie, id->idiag_cookie, sizeof(conn->cookie));
	return true;
}

/**
 * conn_parse - a connection from sock_diag's message
 * @nlh: the message
 * @conn: gets the connection
 *
 * Return: false if the socket is no connection. In-tree espintcp has a name and
 *	nothing more, a socket that listens with "iketcp" another name.
 */
bool conn_parse(const struct nlmsghdr *nlh, struct conn *conn)
{
	struct ulp_info info = {};

	memset(conn, 0, sizeof(*conn));
	if (!diag_ends(nlh, conn))
		return false;
	mnl_attr_parse(nlh, sizeof(struct inet_diag_msg), diag_attr, &info);
	if (!info.name || (strcmp(info.name, "espintcp") && !info.espintcp))
		return false;
	if (info.espintcp)
		mnl_attr_parse_nested(info.espintcp, conn_attr, conn);
	return true;
}

static int conns_cb(const struct nlmsghdr *nlh, void *data)
{
	struct conns *conns = data;
	struct conn conn;

	if (!conn_parse(nlh, &conn))
		return MNL_CB_OK;
	conns->conn = array_grow(conns->conn, conns->n, sizeof(conn));
	conns->conn[conns->n++] = conn;
	return MNL_CB_OK;
}

static int tcp_dump(int family, unsigned int states, mnl_cb_t cb, void *data)
{
	char buf[MNL_NLMSG_HDRLEN + MNL_ALIGN(sizeof(struct inet_diag_req_v2))];
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);
	struct inet_diag_req_v2 *req;

	nlh->nlmsg_type = SOCK_DIAG_BY_FAMILY;
	req = mnl_nlmsg_put_extra_header(nlh, sizeof(*req));
	req->sdiag_family = family;
	req->sdiag_protocol = IPPROTO_TCP;
	req->idiag_states = states;
	/* What asks for the ULP's attributes, too. */
	req->idiag_ext = 1 << (INET_DIAG_INFO - 1);
	return nl_dump(NETLINK_SOCK_DIAG, nlh, cb, data);
}

/**
 * conns_get - all connections of this namespace
 * @conns: gets them; conns_free() them
 *
 * Return: 0, or -1 with errno set.
 */
int conns_get(struct conns *conns)
{
	int ret;

	conns->conn = NULL;
	do {
		conns->n = 0;
		ret = tcp_dump(AF_INET, STATES_OPEN, conns_cb, conns) ||
		      tcp_dump(AF_INET6, STATES_OPEN, conns_cb, conns);
	} while (ret && errno == EINTR);
	return ret ? -1 : 0;
}

/**
 * conns_free - done with them
 * @conns: of conns_get()
 */
void conns_free(struct conns *conns)
{
	free(conns->conn);
}

/* A port that may be listened on */
struct port {
	uint16_t number;
	bool found;
};

static int listens_cb(const struct nlmsghdr *nlh, void *data)
{
	struct port *port = data;
	struct conn conn;

	if (diag_ends(nlh, &conn) && conn.local.port == port->number)
		port->found = true;
	return MNL_CB_OK;
}

/**
 * tcp_listens - does anyone listen on a TCP port?
 * @number: the port
 * @found: gets the answer
 *
 * Return: 0, or -1 with errno set.
 */
int tcp_listens(uint16_t number, bool *found)
{
	struct port port = { .number = number };

	if (tcp_dump(AF_INET, 1 << STATE_LISTEN, listens_cb, &port) ||
	    tcp_dump(AF_INET6, 1 << STATE_LISTEN, listens_cb, &port))
		return -1;
	*found = port.found;
	return 0;
}
