/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Tracepoints: /sys/kernel/tracing/events/espintcp, perf, bpftrace. What each
 * says is in Documentation/tracing.rst.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM espintcp

#if !defined(ESPINTCP_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define ESPINTCP_TRACE_H

#include <linux/tracepoint.h>

#include "espintcp.h"

#ifndef ESPINTCP_TRACE_HELPERS
#define ESPINTCP_TRACE_HELPERS

/* Either end of a connection, for %pISpc; 0.0.0.0:0 of none. */
static inline void espintcp_trace_end(void *to, u32 family,
				      const xfrm_address_t *addr, __be16 port)
{
	struct sockaddr_in6 *sin6 = to;
	struct sockaddr_in *sin = to;

	memset(to, 0, sizeof(*sin6));
	if (family == AF_INET6) {
		sin6->sin6_family = AF_INET6;
		sin6->sin6_port = port;
		sin6->sin6_addr = addr->in6;
	} else {
		sin->sin_family = AF_INET;
		sin->sin_port = port;
		sin->sin_addr.s_addr = addr->a4;
	}
}

static inline void espintcp_trace_ends(void *local, void *peer,
				       const struct espintcp_conn *conn)
{
	static const struct espintcp_key none;
	const struct espintcp_key *key = conn ? &conn->key : &none;

	espintcp_trace_end(local, key->family, &key->saddr, key->sport);
	espintcp_trace_end(peer, key->family, &key->daddr, key->dport);
}

#endif

#define ESPINTCP_TRACE_ENDS					\
	__array(__u8, local, sizeof(struct sockaddr_in6))	\
	__array(__u8, peer, sizeof(struct sockaddr_in6))

TRACE_DEFINE_ENUM(ESPINTCP_ESP);
TRACE_DEFINE_ENUM(ESPINTCP_IKE);
TRACE_DEFINE_ENUM(ESPINTCP_KEEPALIVE_RECORD);
TRACE_DEFINE_ENUM(ESPINTCP_EMPTY);
TRACE_DEFINE_ENUM(ESPINTCP_SHORT);
TRACE_DEFINE_ENUM(ESPINTCP_BROKEN);

#define espintcp_show_kind(kind)				\
	__print_symbolic(kind,					\
			 { ESPINTCP_ESP, "esp" },		\
			 { ESPINTCP_IKE, "ike" },		\
			 { ESPINTCP_KEEPALIVE_RECORD, "keepalive" }, \
			 { ESPINTCP_EMPTY, "empty" },		\
			 { ESPINTCP_SHORT, "short" },		\
			 { ESPINTCP_BROKEN, "broken" })

TRACE_DEFINE_ENUM(ESPINTCP_DROP_IN_SHORT);
TRACE_DEFINE_ENUM(ESPINTCP_DROP_IN_TRUNCATED);
TRACE_DEFINE_ENUM(ESPINTCP_DROP_IN_IKE_FULL);
TRACE_DEFINE_ENUM(ESPINTCP_DROP_IN_NO_MEM);
TRACE_DEFINE_ENUM(ESPINTCP_DROP_IN_NO_DEV);
TRACE_DEFINE_ENUM(ESPINTCP_DROP_OUT_QUEUE_FULL);
TRACE_DEFINE_ENUM(ESPINTCP_DROP_OUT_NO_CONN);
TRACE_DEFINE_ENUM(ESPINTCP_DROP_OUT_CLOSED);
TRACE_DEFINE_ENUM(ESPINTCP_DROP_OUT_TOO_BIG);
TRACE_DEFINE_ENUM(ESPINTCP_DROP_OUT_LOOP);
TRACE_DEFINE_ENUM(ESPINTCP_DROP_OUT_NO_MEM);
TRACE_DEFINE_ENUM(ESPINTCP_DROP_OUT_CRYPTO);
TRACE_DEFINE_ENUM(ESPINTCP_DROP_OUT_AQM);
TRACE_DEFINE_ENUM(ESPINTCP_DROP_IN_NO_ROUTE);

#define espintcp_show_drop(why)					\
	__print_symbolic(why,					\
			 { ESPINTCP_DROP_IN_SHORT, "in_short" }, \
			 { ESPINTCP_DROP_IN_TRUNCATED, "in_truncated" }, \
			 { ESPINTCP_DROP_IN_IKE_FULL, "in_ike_full" }, \
			 { ESPINTCP_DROP_IN_NO_MEM, "in_no_mem" }, \
			 { ESPINTCP_DROP_IN_NO_DEV, "in_no_dev" }, \
			 { ESPINTCP_DROP_OUT_QUEUE_FULL, "out_queue_full" }, \
			 { ESPINTCP_DROP_OUT_NO_CONN, "out_no_conn" }, \
			 { ESPINTCP_DROP_OUT_CLOSED, "out_closed" }, \
			 { ESPINTCP_DROP_OUT_TOO_BIG, "out_too_big" }, \
			 { ESPINTCP_DROP_OUT_LOOP, "out_loop" }, \
			 { ESPINTCP_DROP_OUT_NO_MEM, "out_no_mem" }, \
			 { ESPINTCP_DROP_OUT_CRYPTO, "out_crypto" }, \
			 { ESPINTCP_DROP_OUT_AQM, "out_aqm" }, \
			 { ESPINTCP_DROP_IN_NO_ROUTE, "in_no_route" })

/* @len: octets of the stream, length field included */
DECLARE_EVENT_CLASS(espintcp_record,

	TP_PROTO(const struct espintcp_conn *conn, enum espintcp_kind kind,
		 unsigned int len),

	TP_ARGS(conn, kind, len),

	TP_STRUCT__entry(
		ESPINTCP_TRACE_ENDS
		__field(int, kind)
		__field(unsigned int, len)
	),

	TP_fast_assign(
		espintcp_trace_ends(__entry->local, __entry->peer, conn);
		__entry->kind = kind;
		__entry->len = len;
	),

	TP_printk("local=%pISpc peer=%pISpc kind=%s len=%u",
		  __entry->local, __entry->peer,
		  espintcp_show_kind(__entry->kind), __entry->len)
);

DEFINE_EVENT(espintcp_record, espintcp_received,
	TP_PROTO(const struct espintcp_conn *conn, enum espintcp_kind kind,
		 unsigned int len),
	TP_ARGS(conn, kind, len)
);

DEFINE_EVENT(espintcp_record, espintcp_queued,
	TP_PROTO(const struct espintcp_conn *conn, enum espintcp_kind kind,
		 unsigned int len),
	TP_ARGS(conn, kind, len)
);

DEFINE_EVENT(espintcp_record, espintcp_sent,
	TP_PROTO(const struct espintcp_conn *conn, enum espintcp_kind kind,
		 unsigned int len),
	TP_ARGS(conn, kind, len)
);

TRACE_EVENT(espintcp_drop,

	TP_PROTO(const struct net *net, const struct espintcp_conn *conn,
		 enum espintcp_drop why, unsigned int n),

	TP_ARGS(net, conn, why, n),

	TP_STRUCT__entry(
		ESPINTCP_TRACE_ENDS
		__field(unsigned int, netns)
		__field(int, why)
		__field(unsigned int, n)
	),

	TP_fast_assign(
		espintcp_trace_ends(__entry->local, __entry->peer, conn);
		__entry->netns = net->ns.inum;
		__entry->why = why;
		__entry->n = n;
	),

	TP_printk("netns=%u local=%pISpc peer=%pISpc why=%s n=%u",
		  __entry->netns, __entry->local, __entry->peer,
		  espintcp_show_drop(__entry->why), __entry->n)
);

/* The SA's pair changed over to another connection, or has none any more. */
TRACE_EVENT(espintcp_path,

	TP_PROTO(const struct xfrm_state *x, const struct espintcp_conn *from,
		 const struct espintcp_conn *to),

	TP_ARGS(x, from, to),

	TP_STRUCT__entry(
		__field(__u32, spi)
		__field(__u32, reqid)
		__array(__u8, old_local, sizeof(struct sockaddr_in6))
		__array(__u8, old_peer, sizeof(struct sockaddr_in6))
		__array(__u8, local, sizeof(struct sockaddr_in6))
		__array(__u8, peer, sizeof(struct sockaddr_in6))
	),

	TP_fast_assign(
		__entry->spi = be32_to_cpu(x->id.spi);
		__entry->reqid = x->props.reqid;
		espintcp_trace_ends(__entry->old_local, __entry->old_peer, from);
		espintcp_trace_ends(__entry->local, __entry->peer, to);
	),

	TP_printk("spi=0x%08x reqid=%u old_local=%pISpc old_peer=%pISpc local=%pISpc peer=%pISpc",
		  __entry->spi, __entry->reqid, __entry->old_local, __entry->old_peer,
		  __entry->local, __entry->peer)
);

TRACE_EVENT(espintcp_abort,

	TP_PROTO(const struct espintcp_conn *conn, int err),

	TP_ARGS(conn, err),

	TP_STRUCT__entry(
		ESPINTCP_TRACE_ENDS
		__field(int, err)
	),

	TP_fast_assign(
		espintcp_trace_ends(__entry->local, __entry->peer, conn);
		__entry->err = err;
	),

	TP_printk("local=%pISpc peer=%pISpc err=%d",
		  __entry->local, __entry->peer, __entry->err)
);

#endif

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
