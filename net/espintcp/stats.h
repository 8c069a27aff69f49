/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What happened to every record and frame, per network namespace and per
 * connection.
 */
#ifndef ESPINTCP_STATS_H
#define ESPINTCP_STATS_H

#include <linux/atomic.h>
#include <linux/espintcp.h>
#include <linux/types.h>

struct net;

/* X(enumerator, name in /proc/net/espintcp_stat); Documentation/counters.rst
 * says what moves each.
 */
#define ESPINTCP_COUNTERS(X)					\
	X(IN_IKE,		"EspTcpInIke")			\
	X(IN_ESP,		"EspTcpInEsp")			\
	X(IN_KEEPALIVE,		"EspTcpInKeepalive")		\
	X(IN_EMPTY,		"EspTcpInEmpty")		\
	X(IN_SHORT,		"EspTcpInShort")		\
	X(IN_BAD_LENGTH,	"EspTcpInBadLength")		\
	X(IN_TRUNCATED,		"EspTcpInTruncated")		\
	X(IN_IKE_FULL,		"EspTcpInIkeFull")		\
	X(IN_NO_MEM,		"EspTcpInNoMem")		\
	X(IN_NO_DEV,		"EspTcpInNoDev")		\
	X(IN_NO_ROUTE,		"EspTcpInNoRoute")		\
	X(IN_BAD_AUTH,		"EspTcpInBadAuth")		\
	X(IN_UNKNOWN_SPI,	"EspTcpInUnknownSpi")		\
	X(IN_GRO,		"EspTcpInGro")			\
	X(OUT_IKE,		"EspTcpOutIke")			\
	X(OUT_ESP,		"EspTcpOutEsp")			\
	X(OUT_GSO,		"EspTcpOutGso")			\
	X(OUT_QUEUE_FULL,	"EspTcpOutQueueFull")		\
	X(OUT_AQM_MARK,		"EspTcpOutAqmMark")		\
	X(OUT_AQM,		"EspTcpOutAqmDrop")		\
	X(OUT_NO_CONN,		"EspTcpOutNoConn")		\
	X(OUT_CLOSED,		"EspTcpOutClosed")		\
	X(OUT_TOO_BIG,		"EspTcpOutTooBig")		\
	X(OUT_LOOP,		"EspTcpOutLoop")		\
	X(OUT_NO_MEM,		"EspTcpOutNoMem")		\
	X(OUT_CRYPTO,		"EspTcpOutCrypto")		\
	X(OUT_RENUMBERED,	"EspTcpOutRenumbered")		\
	X(CONN_OPENED,		"EspTcpConnOpened")		\
	X(CONN_CLOSED,		"EspTcpConnClosed")		\
	X(CONN_ABORTED,		"EspTcpConnAborted")		\
	X(PATH_MOVED,		"EspTcpPathMoved")		\
	X(PREFIX_BAD,		"EspTcpPrefixBad")		\
	X(PREFIX_LATE,		"EspTcpPrefixLate")

/**
 * enum espintcp_counter - index of a counter
 * @ESPINTCP_COUNTER_MAX: how many there are
 */
enum espintcp_counter {
#define X(id, name) ESPINTCP_CNT_##id,
	ESPINTCP_COUNTERS(X)
#undef X
	ESPINTCP_COUNTER_MAX
};

void espintcp_count_n(struct net *net, enum espintcp_counter id, u64 n);

/**
 * espintcp_count - count one
 * @net: the namespace it happened in
 * @id: what happened
 *
 * Context: any.
 */
static inline void espintcp_count(struct net *net, enum espintcp_counter id)
{
	espintcp_count_n(net, id, 1);
}

void espintcp_async_begin(struct net *net);
void espintcp_async_end(struct net *net);

/**
 * struct espintcp_traffic - what passed, of one kind and in one direction
 * @frames: records or frames
 * @octets: of the TCP stream, length fields included
 */
struct espintcp_traffic {
	u64 frames;
	u64 octets;
};

/**
 * struct espintcp_conn_stats - what happened on a connection
 * @in_ike: received (socket lock)
 * @in_esp: likewise
 * @in_keepalive: likewise
 * @out_ike: taken by TCP (socket lock)
 * @out_esp: likewise
 * @drops: by cause
 * @last_valid: when an authentic ESP message came last, jiffies; 0: never
 * @sas: SAs whose output goes this way
 */
struct espintcp_conn_stats {
	struct espintcp_traffic in_ike;
	struct espintcp_traffic in_esp;
	struct espintcp_traffic in_keepalive;
	struct espintcp_traffic out_ike;
	struct espintcp_traffic out_esp;
	atomic_t drops[ESPINTCP_DROP_MAX + 1];
	unsigned long last_valid;
	atomic_t sas;
};

static inline void espintcp_traffic_add(struct espintcp_traffic *traffic,
					unsigned int frames,
					unsigned int octets)
{
	traffic->frames += frames;
	traffic->octets += octets;
}

int espintcp_stats_init(void);
void espintcp_stats_exit(void);

#endif
