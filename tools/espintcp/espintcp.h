/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the parts of the tool share:
 *
 *	main.c		subcommands
 *	diag.c		connections, from sock_diag
 *	sa.c		SAs, from XFRM
 *	netlink.c	asking the kernel
 *	status.c	connections beside the SAs they carry
 *	monitor.c	events as they come
 *	check.c		will it work here?
 */
#ifndef TOOL_ESPINTCP_H
#define TOOL_ESPINTCP_H

#include <libmnl/libmnl.h>
#include <linux/espintcp.h>
#include <linux/inet_diag.h>
#include <linux/xfrm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define __printf(fmt, args) __attribute__((format(printf, fmt, args)))
#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))

/* Exit codes, for scripts */
enum {
	EXIT_FINE,
	EXIT_NOT_FINE,		/* it was found out, and is not as it should be */
	EXIT_USAGE,
	EXIT_FAILED,		/* it could not be found out */
};

/* One end of a connection. Unused octets of @addr are zero. */
struct end {
	int family;
	uint8_t addr[16];
	uint16_t port;
};

#define END_STRLEN	64

struct traffic {
	uint64_t frames;
	uint64_t octets;
};

enum {
	IN_IKE,
	IN_ESP,
	IN_KEEPALIVE,
	OUT_IKE,
	OUT_ESP,
	TRAFFIC_MAX,
};

struct conn {
	struct end local;
	struct end peer;
	uint32_t cookie[2];
	unsigned int state;
	bool was_valid;
	uint64_t last_valid;	/* ms ago */
	uint32_t sas;
	uint32_t ike_unread;
	uint32_t ike_queued;
	uint32_t esp_queued;
	uint32_t ike_limit;
	uint32_t esp_limit;
	struct traffic traffic[TRAFFIC_MAX];
	uint32_t drops[ESPINTCP_DROP_MAX + 1];
};

struct conns {
	struct conn *conn;
	size_t n;
};

/* An SA with encap espintcp */
struct sa {
	struct end src;
	struct end dst;
	uint32_t spi;
	uint32_t reqid;
	int mode;
	uint64_t octets;
	uint64_t packets;
};

struct sas {
	struct sa *sa;
	size_t n;
};

/* netlink.c */
struct mnl_socket *nl_open(int bus, unsigned int groups);
int nl_dump(int bus, struct nlmsghdr *request, mnl_cb_t cb, void *data);
void *array_grow(void *array, size_t n, size_t size);

/* diag.c */
int conns_get(struct conns *conns);
void conns_free(struct conns *conns);
bool conn_parse(const struct nlmsghdr *nlh, struct conn *conn);
bool diag_ends(const struct nlmsghdr *nlh, struct conn *conn);
int tcp_listens(uint16_t port, bool *found);
const char *state_name(unsigned int state);
const char *drop_name(unsigned int why);
const char *end_string(const struct end *end, char *buf);
const char *end_address(const struct end *end, char *buf);
bool end_equal(const struct end *a, const struct end *b);
bool end_is_local(const struct end *end);

/* sa.c */
int sas_get(struct sas *sas);
void sas_free(struct sas *sas);
bool sa_parse(const struct nlmsghdr *nlh, struct sa *sa);
bool sa_is_out(const struct sa *sa, const struct conn *conn);
bool sa_is_in(const struct sa *sa, const struct conn *conn);
const char *sa_mode(const struct sa *sa);
void end_from_xfrm(struct end *end, int family, const xfrm_address_t *addr,
		   uint16_t port);

/* Subcommands: their own name is argv[0]; the result is an exit code */
int cmd_status(int argc, char **argv);
int cmd_monitor(int argc, char **argv);
int cmd_check(int argc, char **argv);

#endif
