// SPDX-License-Identifier: GPL-2.0
/*
 * Packet of an SA -> ESP frame.
 *
 * The inner packet may share its pages with anyone, so it is copied into the
 * frame, and encrypted there.
 */
#include <linux/bottom_half.h>

#include "espintcp.h"
#include "record.h"
#include "request.h"

static unsigned int output_tfclen(struct xfrm_state *x, struct sk_buff *skb)
{
	struct xfrm_dst *dst = (struct xfrm_dst *)skb_dst(skb);
	unsigned int padto;

	if (likely(!x->tfcpad))
		return 0;
	padto = min_t(unsigned int, x->tfcpad,
		      xfrm_state_mtu(x, dst->child_mtu_cached));
	return padto > skb->len ? padto - skb->len : 0;
}

/* Everything of the frame but what the algorithm adds. */
static int output_build(struct xfrm_state *x, struct sk_buff *skb,
			const struct espintcp_record *rec, u64 seq, u8 nexthdr)
{
	u8 *frame = espintcp_frame_data(skb);
	u8 *payload = espintcp_record_payload(rec, frame);
	int err;

	espintcp_record_begin(rec, x, frame, seq);
	err = skb_copy_bits(skb, 0, payload, rec->payload);
	if (err)
		return err;
	if (unlikely(espintcp_frame(skb)->mark)) {
		espintcp_aqm_mark(payload);
		espintcp_count(xs_net(x), ESPINTCP_CNT_OUT_AQM_MARK);
	}
	espintcp_record_end(rec, frame, nexthdr);
	return 0;
}

/**
 * espintcp_esp_output_settle - records of a frame are encrypted
 * @conn: the connection
 * @skb: the frame's, the queue's from its last record on
 * @n: how many, at least 1
 * @err: 0, or why they are not
 *
 * Context: process or softirq, BH disabled.
 */
void espintcp_esp_output_settle(struct espintcp_conn *conn, struct sk_buff *skb,
				unsigned int n, int err)
{
	if (!espintcp_txq_complete_esp(conn, skb, n, err))
		return;
	espintcp_drop_n(conn->key.net, conn, ESPINTCP_DROP_OUT_CRYPTO,
			espintcp_frame(skb)->records);
	espintcp_drop_skb(skb, ESPINTCP_DROP_OUT_CRYPTO);
}

/**
 * espintcp_esp_output_done - asynchronous encryption of a record has ended
 * @er: the operation
 *
 * Context: process or softirq, BH disabled; the operation holds what it needs.
 */
void espintcp_esp_output_done(struct espintcp_request *er)
{
	struct espintcp_conn *conn = er->conn;
	struct sk_buff *skb = er->skb;
	int err = er->err;

	espintcp_request_put(er);
	espintcp_esp_output_settle(conn, skb, 1, err);
	espintcp_conn_put(conn);
}

/* The frame has its place on the queue: fill it. Returns as the caller does. */
static int output_encrypt(struct espintcp_conn *conn, struct xfrm_state *x,
			  struct sk_buff *skb, const struct espintcp_record *rec,
			  u64 seq, u8 nexthdr)
{
	struct espintcp_request *er;
	int err = -ENOMEM;

	er = espintcp_request_get(x);
	if (!er) {
		espintcp_drop(xs_net(x), conn, ESPINTCP_DROP_OUT_NO_MEM);
		goto out;
	}
	er->skb = skb;
	er->conn = conn;
	er->done = espintcp_esp_output_done;

	err = output_build(x, skb, rec, seq, nexthdr);
	if (!err) {
		espintcp_record_set_request(rec, er, espintcp_frame_data(skb),
					    seq);
		err = espintcp_request_run(er, crypto_aead_encrypt);
		if (err == -EINPROGRESS)
			return err;
	}
	espintcp_request_put(er);
	if (err)
		espintcp_drop(xs_net(x), conn, ESPINTCP_DROP_OUT_CRYPTO);
out:
	espintcp_txq_complete_esp(conn, skb, 1, err);
	return err ?: -EINPROGRESS;
}

/* Lost as in a router's queue, so that its sender slows down: not an error that
 * the rest of a large segment would be lost for.
 */
static int output_lose(struct espintcp_conn *conn, struct sk_buff *skb)
{
	espintcp_drop(conn->key.net, conn, ESPINTCP_DROP_OUT_AQM);
	espintcp_drop_skb(skb, ESPINTCP_DROP_OUT_AQM);
	return -EINPROGRESS;
}

static int output_on(struct espintcp_conn *conn, struct xfrm_state *x,
		     struct sk_buff *skb, const struct espintcp_record *rec)
{
	u64 seq = (u64)XFRM_SKB_CB(skb)->seq.output.hi << 32 |
		  XFRM_SKB_CB(skb)->seq.output.low;
	u8 nexthdr = *skb_mac_header(skb);
	int err;

	/* What only a device should turn into TLS is plaintext for the peer. */
	if (skb_is_decrypted(skb)) {
		espintcp_drop(xs_net(x), conn, ESPINTCP_DROP_OUT_CRYPTO);
		return -EOPNOTSUPP;
	}

	/* A policy that catches the connection's own segments is a loop. */
	if (skb->sk && skb->sk == READ_ONCE(conn->sk)) {
		espintcp_drop(xs_net(x), conn, ESPINTCP_DROP_OUT_LOOP);
		return -ELOOP;
	}

	err = espintcp_frame_alloc(conn, skb, rec->len, GFP_ATOMIC);
	if (err) {
		espintcp_drop(xs_net(x), conn, ESPINTCP_DROP_OUT_NO_MEM);
		return err;
	}

	err = espintcp_txq_reserve_esp(conn, x, skb, &seq);
	if (err) {
		/* Out of sequence numbers: XFRM counts what its types refuse. */
		if (err == NET_XMIT_DROP)
			espintcp_drop(xs_net(x), conn, ESPINTCP_DROP_OUT_QUEUE_FULL);
		else if (err == -ENOTCONN)
			espintcp_drop(xs_net(x), conn, ESPINTCP_DROP_OUT_NO_CONN);
		espintcp_frame_free(skb);
		if (err == -ENOBUFS)
			return output_lose(conn, skb);
		return err;
	}
	return output_encrypt(conn, x, skb, rec, seq, nexthdr);
}

/**
 * espintcp_esp_output - encrypt a packet of a TCP-encapsulated SA and queue it
 * @x: the SA, held by @skb's route
 * @skb: as XFRM hands it: data at the payload, the protocol of which the mac
 *	header points at, sequence number in the cb
 *
 * xfrm_type.output. Context: process or softirq, no locks of this module; the
 * inner sender's socket lock may be held.
 * Return: -EINPROGRESS when the frame is on its way, and @skb the queue's, or gone
 *	with a signal to its sender. Everything else drops the packet, which XFRM
 *	frees: %NET_XMIT_DROP for a full queue, -ENOTCONN without a connection,
 *	-EMSGSIZE, -ELOOP, -ENOMEM, -EOVERFLOW, -EOPNOTSUPP for a packet that is
 *	not XFRM's or is not to be seen as it is, or what crypto says.
 */
int espintcp_esp_output(struct xfrm_state *x, struct sk_buff *skb)
{
	struct espintcp_conn *conn;
	struct espintcp_record rec;
	int err;

	/* pktgen calls types as well, but frees what they keep. */
	if (unlikely(!skb_dst(skb) || skb_dst_is_noref(skb)))
		return -EOPNOTSUPP;

	espintcp_record_init(&rec, x, skb->len, output_tfclen(x, skb));
	if (rec.len > ESPINTCP_MAX_RECORD) {
		espintcp_drop(xs_net(x), NULL, ESPINTCP_DROP_OUT_TOO_BIG);
		return -EMSGSIZE;
	}

	rcu_read_lock();
	local_bh_disable();
	conn = espintcp_path_get(x);
	if (!IS_ERR(conn)) {
		err = output_on(conn, x, skb, &rec);
	} else {
		err = PTR_ERR(conn);
		espintcp_drop(xs_net(x), NULL, err == -ENOMEM ?
			      ESPINTCP_DROP_OUT_NO_MEM :
			      ESPINTCP_DROP_OUT_NO_CONN);
	}
	local_bh_enable();
	rcu_read_unlock();
	return err;
}
