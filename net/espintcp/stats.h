/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What happened to every record and frame, per network namespace.
 */
#ifndef ESPINTCP_STATS_H
#define ESPINTCP_STATS_H

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
	X(OUT_IKE,		"EspTcpOutIke")			\
	X(OUT_ESP,		"EspTcpOutEsp")			\
	X(OUT_QUEUE_FULL,	"EspTcpOutQueueFull")		\
	X(OUT_NO_CONN,		"EspTcpOutNoConn")		\
	X(OUT_CLOSED,		"EspTcpOutClosed")		\
	X(OUT_TOO_BIG,		"EspTcpOutTooBig")		\
	X(OUT_LOOP,		"EspTcpOutLoop")		\
	X(OUT_NO_MEM,		"EspTcpOutNoMem")		\
	X(OUT_CRYPTO,		"EspTcpOutCrypto")		\
	X(OUT_RENUMBERED,	"EspTcpOutRenumbered")		\
	X(CONN_OPENED,		"EspTcpConnOpened")		\
	X(CONN_CLOSED,		"EspTcpConnClosed")		\
	X(CONN_ABORTED,		"EspTcpConnAborted")

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

int espintcp_stats_init(void);
void espintcp_stats_exit(void);

#endif
