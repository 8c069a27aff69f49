// SPDX-License-Identifier: GPL-2.0
/*
 * Socket -> records -> keepalive | IKE queue | ESP.
 *
 * Records are taken straight from the socket's receive queue, in the context
 * data arrives in. One that lies whole in a segment is used where it is; one
 * that does not is put together in memory of our own, where it is copied once.
 * Segments are never changed, nor kept but for asynchronous crypto.
 *
 * Not strparser: it ties the largest record to SO_RCVBUF and the time a record
 * may take to SO_RCVTIMEO, clones a segment for every record, and defers to
 * one thread for the whole machine.
 */
#include <net/dst.h>
#include <net/tcp.h>

#include "espintcp.h"
#include "trace.h"

/* Records in one go. XFRM queues decrypted packets for NAPI, at most
 * netdev_max_backlog (1000) of them; between two goes NAPI takes them away.
 */
#define ESPINTCP_RX_BUDGET	256
/* Before the ESP header: link layer, IP header and some room for XFRM. */
#define ESPINTCP_RX_MAC_MAX	32
#define ESPINTCP_RX_HEADROOM	(ESPINTCP_RX_MAC_MAX + sizeof(struct ipv6hdr) + 16)

static bool rx_is_v6(const struct espintcp_conn *conn)
{
	return conn->key.family == AF_INET6;
}

/* The outer header, so that XFRM sees the packet as from the IP layer. DSCP is the
 * segment's, for SAs that want it inside; ECN is TCP's own (RFC 9329 section 9.5).
 */
static void rx_set_outer(struct espintcp_conn *conn, struct sk_buff *skb,
			 const struct sk_buff *segment, unsigned int esp_len)
{
	u8 dscp = TCP_SKB_CB(segment)->ip_dsfield & ~INET_ECN_MASK;

	if (rx_is_v6(conn)) {
		struct ipv6hdr *ip6h = skb_push(skb, sizeof(*ip6h));

		*ip6h = conn->ip6h;
		ip6_flow_hdr(ip6h, dscp, 0);
		ip6h->payload_len = htons(esp_len);
		skb->protocol = htons(ETH_P_IPV6);
	} else {
		struct iphdr *iph = skb_push(skb, sizeof(*iph));

		*iph = conn->iph;
		iph->tos = dscp;
		iph->tot_len = htons(sizeof(*iph) + esp_len);
		skb->protocol = htons(ETH_P_IP);
	}
	skb_reset_network_header(skb);
}

/* The link-layer header of the segment, for those who capture packets. */
static void rx_set_mac(struct sk_buff *skb, const struct sk_buff *segment)
{
	unsigned int len = segment->mac_len;

	if (!skb_mac_header_was_set(segment) || len > ESPINTCP_RX_MAC_MAX ||
	    skb_mac_header(segment) + len > segment->data)
		len = 0;
	skb_set_mac_header(skb, -(int)len);
	if (len)
		memcpy(skb_mac_header(skb), skb_mac_header(segment), len);
	skb->mac_len = len;
}

/* Where the segment came from. Short of memory TCP makes new segments of others,
 * and forgets it.
 */
static void rx_set_origin(struct espintcp_conn *conn, struct sk_buff *skb,
			  const struct sk_buff *segment)
{
	const struct tcp_skb_cb *cb = TCP_SKB_CB(segment);
	struct espintcp_rx *rx = &conn->rx;

	if (!rx_is_v6(conn)) {
		rx->ip_iif = cb->header.h4.iif;
		rx->ip_flags = cb->header.h4.flags & IPSKB_L3SLAVE;
#if IS_ENABLED(CONFIG_IPV6)
	} else {
		rx->ip_iif = cb->header.h6.iif;
		rx->ip_flags = cb->header.h6.flags & IP6SKB_L3SLAVE;
#endif
	}
	if (likely(segment->skb_iif)) {
		rx->iif = segment->skb_iif;
		rx->mark = segment->mark;
	}
	skb->skb_iif = rx->iif;
	skb->mark = rx->mark;
}

/**
 * espintcp_rx_alloc_esp - a packet for an ESP record
 * @conn: the connection
 * @segment: the record began there
 * @len: its octets, without the length field
 *
 * Context: softirq or BH disabled, socket lock held.
 * Return: outer headers set, data at the ESP header, room for all of the record;
 *	NULL without memory.
 */
struct sk_buff *espintcp_rx_alloc_esp(struct espintcp_conn *conn,
				      const struct sk_buff *segment,
				      unsigned int len)
{
	struct sk_buff *skb;

	skb = __netdev_alloc_skb(NULL, ESPINTCP_RX_HEADROOM + len,
				 GFP_ATOMIC | __GFP_NOWARN);
	if (!skb)
		return NULL;
	skb_reserve(skb, ESPINTCP_RX_HEADROOM);
	rx_set_outer(conn, skb, segment, len);
	rx_set_mac(skb, segment);
	__skb_pull(skb, skb->len);
	skb_reset_transport_header(skb);
	__skb_put(skb, len);

	rx_set_origin(conn, skb, segment);
	skb->pkt_type = PACKET_HOST;
	return skb;
}

/* The route TCP keeps for its own segments spares a look-up. */
static void rx_set_dst(struct sock *sk, struct sk_buff *skb)
{
	struct dst_entry *dst = rcu_dereference(sk->sk_rx_dst);

	if (dst && sk->sk_rx_dst_ifindex == skb->skb_iif)
		dst = dst_check(dst, sk->sk_rx_dst_cookie);
	else
		dst = NULL;
	if (dst)
		skb_dst_set_noref(skb, dst);
}

/* The processor cannot read what TCP received, a device's memory: there is no way to
 * the next record either. Consumes @skb, if any.
 */
static void rx_unreadable(struct espintcp_conn *conn, struct sk_buff *skb)
{
	espintcp_conn_abort(conn, EFAULT);
	kfree_skb(skb);
}

/* IKE, or ESP of an SA there is. */
static void rx_count_known(struct espintcp_conn *conn)
{
	if (unlikely(conn->rx.unknown))
		conn->rx.unknown = 0;
}

/* Neither. Databases may be out of step for a while, but not for ever. */
static void rx_count_unknown(struct espintcp_conn *conn)
{
	unsigned int limit =
		READ_ONCE(espintcp_settings(conn->key.net)->unknown_limit);

	if (++conn->rx.unknown >= limit && limit)
		espintcp_conn_abort(conn, EPROTO);
}

/* skb->destructor until espintcp_esp_input(): XFRM drops a message before it asks
 * us to decrypt. It may have looked for the SA by another mark than the packet's, a
 * VTI's, but if it has found one it says so.
 */
static void rx_refused(struct sk_buff *skb)
{
	const struct sec_path *sp = skb_sec_path(skb);

	if (sp && sp->len)
		espintcp_input_cb(skb)->segment->known = true;
}

/* A message was dropped and XFRM has found no SA for it: is there none, or had it not
 * come to look yet?
 */
static void rx_unclaimed(struct espintcp_conn *conn, u32 mark, __be32 spi)
{
	struct net *net = conn->key.net;
	struct xfrm_state *x;

	x = xfrm_state_lookup(net, mark, &conn->key.saddr, spi, IPPROTO_ESP,
			      conn->key.family);
	if (x) {
		xfrm_state_put(x);
		espintcp_drop(net, conn, ESPINTCP_DROP_IN_NO_ROUTE);
		rx_count_known(conn);
		return;
	}
	espintcp_count(net, ESPINTCP_CNT_IN_UNKNOWN_SPI);
	rx_count_unknown(conn);
}

static void rx_input_esp(struct espintcp_conn *conn, struct sk_buff *skb)
{
	const struct espintcp_rx *rx = &conn->rx;

	if (!rx_is_v6(conn)) {
		IPCB(skb)->iif = rx->ip_iif;
		IPCB(skb)->flags = rx->ip_flags;
		xfrm4_rcv_encap(skb, IPPROTO_ESP, 0, TCP_ENCAP_ESPINTCP);
		return;
	}
#if IS_ENABLED(CONFIG_IPV6)
	IP6CB(skb)->iif = rx->ip_iif;
	IP6CB(skb)->flags = rx->ip_flags;
	IP6CB(skb)->nhoff = offsetof(struct ipv6hdr, nexthdr);
	xfrm6_rcv_encap(skb, IPPROTO_ESP, 0, TCP_ENCAP_ESPINTCP);
#endif
}

/**
 * espintcp_rx_count_esp - an ESP record was received
 * @conn: the connection
 * @len: its octets, without the length field
 *
 * Context: softirq or BH disabled, socket lock held.
 */
void espintcp_rx_count_esp(struct espintcp_conn *conn, unsigned int len)
{
	espintcp_count(conn->key.net, ESPINTCP_CNT_IN_ESP);
	espintcp_traffic_add(&conn->stats.in_esp, 1, ESPINTCP_LEN_SIZE + len);
}

/* Consumes @skb. */
static void rx_deliver_one(struct espintcp_conn *conn, struct sk_buff *skb,
			   struct espintcp_segment *seg)
{
	__be32 spi = ((struct ip_esp_hdr *)skb->data)->spi;
	struct net *net = conn->key.net;
	u32 mark = skb->mark;

	skb->dev = dev_get_by_index_rcu(net, skb->skb_iif);
	if (!skb->dev) {
		espintcp_drop(net, conn, ESPINTCP_DROP_IN_NO_DEV);
		espintcp_drop_skb(skb, ESPINTCP_DROP_IN_NO_DEV);
		return;
	}
	espintcp_rx_count_esp(conn, skb->len);

	memset(skb->cb, 0, sizeof(skb->cb));
	espintcp_input_cb(skb)->segment = seg;
	skb->destructor = rx_refused;
	seg->len = skb->len;
	rx_set_dst(conn->sk, skb);

	rx_input_esp(conn, skb);
	if (seg->known)
		rx_count_known(conn);
	else
		rx_unclaimed(conn, mark, spi);
}

/* Consumes @skb, and records after it that become one packet with it. The first
 * that does not is plain by then, and comes next.
 */
static void rx_deliver_esp(struct espintcp_conn *conn, struct sk_buff *skb,
			   struct espintcp_segment *seg)
{
	rx_deliver_one(conn, skb, seg);
	while (seg->late) {
		struct espintcp_segment next = {
			.conn = conn,
			.rest = seg->rest,
			.plain = seg->late_sa,
			.plain_seq = seg->late_seq,
		};

		skb = seg->late;
		*seg = next;
		rx_deliver_one(conn, skb, seg);
	}
}

/* A record of @len octets, payload only, at @offset of the segment; @rest is
 * what comes after it.
 */
static void rx_esp(struct espintcp_conn *conn, struct espintcp_rest *rest,
		   unsigned int offset, unsigned int len)
{
	struct espintcp_segment seg = {
		.conn = conn,
		.skb = rest->skb,
		.offset = offset,
		.rest = rest,
	};
	unsigned int hlen = min_t(unsigned int, len, sizeof(struct ip_esp_hdr));
	struct sk_buff *skb = espintcp_rx_alloc_esp(conn, rest->skb, len);

	if (!skb) {
		espintcp_drop(conn->key.net, conn, ESPINTCP_DROP_IN_NO_MEM);
		return;
	}
	/* XFRM looks for the SA before it asks us for the rest. */
	if (skb_copy_bits(rest->skb, offset, skb->data, hlen)) {
		rx_unreadable(conn, skb);
		return;
	}
	rx_deliver_esp(conn, skb, &seg);
}

static struct sk_buff *rx_alloc_ike(unsigned int len)
{
	struct sk_buff *skb = alloc_skb(len, GFP_ATOMIC | __GFP_NOWARN);

	if (skb)
		__skb_put(skb, len);
	return skb;
}

/* Consumes @skb. */
static void rx_deliver_ike(struct espintcp_conn *conn, struct sk_buff *skb)
{
	unsigned int len = ESPINTCP_LEN_SIZE + skb->len;

	rx_count_known(conn);
	if (espintcp_ike_enqueue(conn, skb)) {
		espintcp_drop(conn->key.net, conn, ESPINTCP_DROP_IN_IKE_FULL);
		espintcp_drop_skb(skb, ESPINTCP_DROP_IN_IKE_FULL);
		return;
	}
	espintcp_traffic_add(&conn->stats.in_ike, 1, len);
	espintcp_count(conn->key.net, ESPINTCP_CNT_IN_IKE);
	conn->data_ready(conn->sk);
}

static void rx_ike(struct espintcp_conn *conn, struct sk_buff *segment,
		   unsigned int offset, unsigned int len)
{
	struct sk_buff *skb = rx_alloc_ike(len);

	if (!skb) {
		espintcp_drop(conn->key.net, conn, ESPINTCP_DROP_IN_NO_MEM);
		return;
	}
	if (skb_copy_bits(segment, offset, skb->data, len)) {
		rx_unreadable(conn, skb);
		return;
	}
	rx_deliver_ike(conn, skb);
}

/* Nothing of the stream can be trusted any more (RFC 9329 section 3). */
static void rx_broken(struct espintcp_conn *conn)
{
	espintcp_count(conn->key.net, ESPINTCP_CNT_IN_BAD_LENGTH);
	espintcp_conn_abort(conn, EBADMSG);
}

/* Records without a payload anyone wants. */
static void rx_other(struct espintcp_conn *conn, enum espintcp_kind kind)
{
	switch (kind) {
	case ESPINTCP_KEEPALIVE_RECORD:
		espintcp_traffic_add(&conn->stats.in_keepalive, 1,
				     ESPINTCP_LEN_SIZE + 1);
		espintcp_count(conn->key.net, ESPINTCP_CNT_IN_KEEPALIVE);
		break;
	case ESPINTCP_EMPTY:
		espintcp_count(conn->key.net, ESPINTCP_CNT_IN_EMPTY);
		break;
	case ESPINTCP_SHORT:
		espintcp_drop(conn->key.net, conn, ESPINTCP_DROP_IN_SHORT);
		rx_count_unknown(conn);
		break;
	case ESPINTCP_BROKEN:
		rx_broken(conn);
		break;
	default:
		break;
	}
}

static void rx_record(struct espintcp_conn *conn, struct espintcp_rest *rest,
		      unsigned int offset, unsigned int len,
		      enum espintcp_kind kind)
{
	trace_espintcp_received(conn, kind, ESPINTCP_LEN_SIZE + len);
	if (kind == ESPINTCP_ESP)
		rx_esp(conn, rest, offset, len);
	else if (kind == ESPINTCP_IKE)
		rx_ike(conn, rest->skb, offset, len);
	else
		rx_other(conn, kind);
}

/* Uses the next record where it is. Returns false when it does not lie whole in
 * the segment.
 */
static bool rx_whole(struct espintcp_conn *conn, struct espintcp_rest *rest)
{
	unsigned int len = rest->end - rest->offset, offset;
	unsigned int n = min_t(unsigned int, len, ESPINTCP_HEAD_SIZE);
	u8 buf[ESPINTCP_HEAD_SIZE];
	enum espintcp_kind kind;
	const u8 *octets;
	u16 record_len;

	octets = espintcp_rest_octets(rest, rest->offset, n, buf);
	if (!octets)
		return false;
	kind = espintcp_kind_of(octets, n, &record_len);
	if (kind == ESPINTCP_BROKEN)
		record_len = ESPINTCP_LEN_SIZE;
	else if (kind == ESPINTCP_MORE || record_len > len)
		return false;

	offset = rest->offset + ESPINTCP_LEN_SIZE;
	rest->offset += record_len;
	espintcp_rest_charge(rest, record_len);
	rx_record(conn, rest, offset, record_len - ESPINTCP_LEN_SIZE, kind);
	return true;
}

/* The head of a record that crosses segments is known: memory for the rest. */
static void rx_begin(struct espintcp_conn *conn, const struct sk_buff *segment)
{
	struct espintcp_rx *rx = &conn->rx;
	unsigned int len = rx->head.len - ESPINTCP_LEN_SIZE;

	if (rx->head.kind == ESPINTCP_ESP)
		rx->skb = espintcp_rx_alloc_esp(conn, segment, len);
	else
		rx->skb = rx_alloc_ike(len);
	if (rx->skb)
		memcpy(rx->skb->data, rx->head.octets + ESPINTCP_LEN_SIZE,
		       ESPINTCP_MARKER_SIZE);
	else
		espintcp_drop(conn->key.net, conn, ESPINTCP_DROP_IN_NO_MEM);
	rx->left = len - ESPINTCP_MARKER_SIZE;
}

/* The record that crosses segments is complete. */
static void rx_end(struct espintcp_conn *conn, struct espintcp_rest *rest)
{
	struct espintcp_segment seg = { .conn = conn, .rest = rest };
	struct espintcp_rx *rx = &conn->rx;
	enum espintcp_kind kind = rx->head.kind;
	struct sk_buff *skb = rx->skb;

	rx->skb = NULL;
	trace_espintcp_received(conn, kind, rx->head.len);
	espintcp_rest_charge(rest, rx->head.len);
	espintcp_head_reset(&rx->head);
	if (!skb)
		return;
	if (kind == ESPINTCP_ESP)
		rx_deliver_esp(conn, skb, &seg);
	else
		rx_deliver_ike(conn, skb);
}

/* Goes on with the head of a record. */
static void rx_part_head(struct espintcp_conn *conn, struct espintcp_rest *rest)
{
	unsigned int n = min_t(unsigned int, rest->end - rest->offset,
			       ESPINTCP_HEAD_SIZE);
	struct espintcp_rx *rx = &conn->rx;
	u8 buf[ESPINTCP_HEAD_SIZE];
	const u8 *octets;

	octets = espintcp_rest_octets(rest, rest->offset, n, buf);
	if (!octets) {
		rx_unreadable(conn, NULL);
		rest->offset = rest->end;
		return;
	}
	rest->offset += espintcp_head_feed(&rx->head, octets, n);

	switch (rx->head.kind) {
	case ESPINTCP_MORE:
		break;
	case ESPINTCP_ESP:
	case ESPINTCP_IKE:
		rx_begin(conn, rest->skb);
		break;
	default:
		trace_espintcp_received(conn, rx->head.kind, rx->head.len);
		rx_other(conn, rx->head.kind);
		espintcp_rest_charge(rest, 0);
		espintcp_head_reset(&rx->head);
		break;
	}
}

/* Goes on with a record that crosses segments. */
static void rx_part(struct espintcp_conn *conn, struct espintcp_rest *rest)
{
	struct espintcp_rx *rx = &conn->rx;
	unsigned int len;

	if (rx->head.kind == ESPINTCP_MORE) {
		rx_part_head(conn, rest);
		return;
	}

	len = min(rest->end - rest->offset, rx->left);
	if (rx->skb && skb_copy_bits(rest->skb, rest->offset,
				     skb_tail_pointer(rx->skb) - rx->left,
				     len)) {
		rx_unreadable(conn, rx->skb);
		rx->skb = NULL;
	}
	rest->offset += len;
	rx->left -= len;
	if (!rx->left)
		rx_end(conn, rest);
}

static bool rx_midway(const struct espintcp_rx *rx)
{
	return rx->head.have;
}

/* sk_read_actor_t: @desc->count is the budget. */
static int rx_segment(read_descriptor_t *desc, struct sk_buff *segment,
		      unsigned int offset, size_t len)
{
	struct espintcp_conn *conn = desc->arg.data;
	struct espintcp_rx *rx = &conn->rx;
	struct espintcp_rest rest = {
		.skb = segment,
		.offset = offset,
		.end = offset + len,
		.budget = desc->count,
		.fixed = espintcp_rest_fixed(segment),
	};

	while (rest.offset < rest.end && rest.budget) {
		if (unlikely(READ_ONCE(rx->stopped)))
			return len;
		if (rx_midway(rx) || !rx_whole(conn, &rest))
			rx_part(conn, &rest);
	}
	desc->count = rest.budget;
	return rest.offset - offset;
}

/* A record cut off by the end of the connection is discarded. */
static void rx_discard(struct espintcp_conn *conn)
{
	struct espintcp_rx *rx = &conn->rx;

	if (!rx_midway(rx))
		return;
	espintcp_drop(conn->key.net, conn, ESPINTCP_DROP_IN_TRUNCATED);
	if (rx->skb)
		espintcp_drop_skb(rx->skb, ESPINTCP_DROP_IN_TRUNCATED);
	rx->skb = NULL;
	espintcp_head_reset(&rx->head);
}

/* Not RCV_SHUTDOWN, which the daemon may set while the peer still sends. */
static bool rx_peer_finished(const struct sock *sk)
{
	return sock_flag(sk, SOCK_DONE) &&
	       skb_queue_empty(&sk->sk_receive_queue);
}

/* TCP told of the end before all that came before it had been looked at, and who was
 * told waits again.
 */
static void rx_tell_end(struct espintcp_conn *conn)
{
	struct sock *sk = conn->sk;

	conn->state_change(sk);
	if (sk->sk_err)
		sk_error_report(sk);
	else
		sk_wake_async(sk, SOCK_WAKE_WAITD, POLL_IN);
}

static void rx_end_of_stream(struct espintcp_conn *conn)
{
	rx_discard(conn);
	if (conn->rx.eof)
		return;
	/* After the last message was queued: see ike_eof(). */
	smp_store_release(&conn->rx.eof, true);
	rx_tell_end(conn);
}

/* Returns whether there may be more to look at. */
static bool rx_read(struct espintcp_conn *conn)
{
	read_descriptor_t desc = {
		.arg.data = conn,
		.count = ESPINTCP_RX_BUDGET,
	};
	struct sock *sk = conn->sk;

	/* Urgent data is data (RFC 6093); left set, it would stop the reader. */
	WRITE_ONCE(tcp_sk(sk)->urg_data, 0);

	local_bh_disable();
	rcu_read_lock();
	tcp_read_sock(sk, &desc, rx_segment);
	rcu_read_unlock();
	local_bh_enable();
	return !desc.count;
}

/**
 * espintcp_rx_run - take records from the socket
 * @conn: the connection
 *
 * As many as the budget allows; with more to come, the tasklet goes on.
 *
 * Context: process or softirq, socket lock held, never sleeps.
 */
void espintcp_rx_run(struct espintcp_conn *conn)
{
	struct espintcp_rx *rx = &conn->rx;
	bool stopped = READ_ONCE(rx->stopped), before = rx->more, more = false;

	lockdep_assert(lockdep_sock_is_held(conn->sk));

	if (stopped && !before)
		return;
	if (!stopped) {
		more = rx_read(conn);
		stopped = READ_ONCE(rx->stopped);
	}

	/* Pairs with ike_is_coming(): the messages are in the queue. */
	smp_store_release(&rx->more, more && !stopped);
	if (rx->more)
		espintcp_conn_kick(conn);
	else if (rx_peer_finished(conn->sk) && !stopped)
		rx_end_of_stream(conn);
	else if ((before || stopped) && conn->sk->sk_state == TCP_CLOSE)
		rx_tell_end(conn);
}

/**
 * espintcp_rx_stop - read nothing more
 * @conn: the connection
 *
 * Context: process, socket lock held.
 */
void espintcp_rx_stop(struct espintcp_conn *conn)
{
	struct espintcp_rx *rx = &conn->rx;

	sock_owned_by_me(conn->sk);

	WRITE_ONCE(rx->stopped, true);
	rx_discard(conn);
	consume_skb(rx->spare);
	rx->spare = NULL;
}
