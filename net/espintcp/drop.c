// SPDX-License-Identifier: GPL-2.0
/*
 * Why a record or a frame was dropped: one place that counts it for its
 * namespace and its connection, traces it, and tells whoever watches drops.
 */
#include "espintcp.h"
#include "trace.h"

static const struct {
	enum espintcp_counter counter;
	enum skb_drop_reason reason;
} drop_info[ESPINTCP_DROP_MAX + 1] = {
#define DROP(why, reason) \
	[ESPINTCP_DROP_##why] = { ESPINTCP_CNT_##why, SKB_DROP_REASON_##reason }
	DROP(IN_TRUNCATED, HDR_TRUNC),
	DROP(IN_IKE_FULL, SOCKET_RCVBUFF),
	DROP(IN_NO_DEV, DEV_READY),
	DROP(OUT_CLOSED, TCP_CLOSE),
	DROP(OUT_CRYPTO, NOT_SPECIFIED),
	DROP(OUT_AQM, QDISC_DROP),
	/* Never a packet of ours */
	DROP(IN_SHORT, NOT_SPECIFIED),
	DROP(IN_NO_MEM, NOT_SPECIFIED),
	/* Freed before XFRM had it */
	DROP(IN_NO_ROUTE, NOT_SPECIFIED),
	/* XFRM's to free */
	DROP(OUT_QUEUE_FULL, NOT_SPECIFIED),
	DROP(OUT_NO_CONN, NOT_SPECIFIED),
	DROP(OUT_TOO_BIG, NOT_SPECIFIED),
	DROP(OUT_LOOP, NOT_SPECIFIED),
	DROP(OUT_NO_MEM, NOT_SPECIFIED),
#undef DROP
};

/**
 * espintcp_drop_n - several were dropped
 * @net: the namespace it happened in
 * @conn: the connection, or NULL when it was not known yet
 * @why: the cause
 * @n: how many, may be 0
 *
 * Context: any.
 */
void espintcp_drop_n(struct net *net, struct espintcp_conn *conn,
		     enum espintcp_drop why, unsigned int n)
{
	if (!n)
		return;
	espintcp_count_n(net, drop_info[why].counter, n);
	/* Not all who drop hold a lock, and there are never many. */
	if (conn)
		atomic_add(n, &conn->stats.drops[why]);
	trace_espintcp_drop(net, conn, why, n);
}

/**
 * espintcp_drop_skb - free what was dropped
 * @skb: consumed
 * @why: the cause, already counted
 *
 * Context: any.
 */
void espintcp_drop_skb(struct sk_buff *skb, enum espintcp_drop why)
{
	kfree_skb_reason(skb, drop_info[why].reason);
}
