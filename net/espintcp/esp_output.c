// SPDX-License-Identifier: GPL-2.0
/*
 * Packet of an SA -> ESP frame.
 *
 * The inner packet may share its pages with anyone, so it is copied into the
 * frame, and encrypted there.
 */
#include <linux/bottom_half.h>

#include "espintcp.h"
#include "request.h"

/**
 * struct esp_layout - how a frame is laid out, octets
 * @ivlen: IV, after SPI and sequence number
 * @payload: the inner packet
 * @tfclen: traffic flow confidentiality padding
 * @padlen: ESP padding, without the two octets that follow it
 * @alen: ICV
 * @len: the frame, length field included
 */
struct esp_layout {
	unsigned int ivlen;
	unsigned int payload;
	unsigned int tfclen;
	unsigned int padlen;
	unsigned int alen;
	unsigned int len;
};

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

static void output_layout(struct xfrm_state *x, struct sk_buff *skb,
			  struct esp_layout *l)
{
	struct crypto_aead *aead = x->data;
	unsigned int block = ALIGN(crypto_aead_blocksize(aead), 4);
	unsigned int clear;

	l->ivlen = crypto_aead_ivsize(aead);
	l->alen = crypto_aead_authsize(aead);
	l->payload = skb->len;
	l->tfclen = output_tfclen(x, skb);
	clear = l->payload + l->tfclen + 2;
	l->padlen = ALIGN(clear, block) - clear;
	l->len = ESPINTCP_LEN_SIZE + sizeof(struct ip_esp_hdr) + l->ivlen +
		 clear + l->padlen + l->alen;
}

/* Everything of the frame but what the algorithm adds. */
static int output_build(struct xfrm_state *x, struct sk_buff *skb,
			const struct esp_layout *l, u64 seq, u8 nexthdr)
{
	u8 *p = espintcp_frame_data(skb);
	unsigned int i;
	int err;

	put_unaligned_be16(l->len, p);
	p += ESPINTCP_LEN_SIZE;
	put_unaligned(x->id.spi, (__be32 *)p);
	put_unaligned_be32(seq, p + sizeof(__be32));
	p += sizeof(struct ip_esp_hdr) + l->ivlen;

	err = skb_copy_bits(skb, 0, p, l->payload);
	if (err)
		return err;
	if (unlikely(espintcp_frame(skb)->mark)) {
		espintcp_aqm_mark(p);
		espintcp_count(xs_net(x), ESPINTCP_CNT_OUT_AQM_MARK);
	}
	p += l->payload;
	memset(p, 0, l->tfclen);
	p += l->tfclen;
	for (i = 1; i <= l->padlen; i++)
		*p++ = i;
	*p++ = l->padlen;
	*p = nexthdr;
	return 0;
}

static void output_set_request(struct espintcp_request *er, struct sk_buff *skb,
			       const struct esp_layout *l, u64 seq)
{
	unsigned int skip = ESPINTCP_LEN_SIZE + sizeof(struct ip_esp_hdr);
	__be64 be_seq = cpu_to_be64(seq);
	unsigned int n, assoclen;

	assoclen = espintcp_request_set_aad(er, htonl(seq >> 32), htonl(seq));
	sg_init_table(er->dst, 2);
	sg_set_buf(&er->dst[0], er->aad, assoclen);
	sg_set_buf(&er->dst[1], espintcp_frame_data(skb) + skip, l->len - skip);

	/* The IV generators turn the sequence number into a unique IV. */
	n = min_t(unsigned int, l->ivlen, sizeof(be_seq));
	memset(er->iv, 0, sizeof(er->iv));
	memcpy(er->iv + l->ivlen - n, (u8 *)&be_seq + sizeof(be_seq) - n, n);

	aead_request_set_crypt(&er->req, er->dst, er->dst,
			       l->len - skip - l->alen, er->iv);
}

static void output_done(struct espintcp_request *er)
{
	struct espintcp_conn *conn = er->conn;
	struct net *net = xs_net(er->x);
	struct sk_buff *skb = er->skb;
	int err = er->err;

	espintcp_request_put(er);
	espintcp_txq_complete_esp(conn, skb, err);
	if (err) {
		espintcp_drop(net, conn, ESPINTCP_DROP_OUT_CRYPTO);
		espintcp_drop_skb(skb, ESPINTCP_DROP_OUT_CRYPTO);
	}
	espintcp_conn_put(conn);
}

/* The frame has its place on the queue: fill it. Returns as the caller does. */
static int output_encrypt(struct espintcp_conn *conn, struct xfrm_state *x,
			  struct sk_buff *skb, const struct esp_layout *l,
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
	er->done = output_done;

	err = output_build(x, skb, l, seq, nexthdr);
	if (!err) {
		output_set_request(er, skb, l, seq);
		err = espintcp_request_run(er, crypto_aead_encrypt);
		if (err == -EINPROGRESS)
			return err;
	}
	espintcp_request_put(er);
	if (err)
		espintcp_drop(xs_net(x), conn, ESPINTCP_DROP_OUT_CRYPTO);
out:
	espintcp_txq_complete_esp(conn, skb, err);
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
		     struct sk_buff *skb, const struct esp_layout *l)
{
	u64 seq = (u64)XFRM_SKB_CB(skb)->seq.output.hi << 32 |
		  XFRM_SKB_CB(skb)->seq.output.low;
	u8 nexthdr = *skb_mac_header(skb);
	int err;

	/* A policy that catches the connection's own segments is a loop. */
	if (skb->sk && skb->sk == READ_ONCE(conn->sk)) {
		espintcp_drop(xs_net(x), conn, ESPINTCP_DROP_OUT_LOOP);
		return -ELOOP;
	}

	err = espintcp_frame_alloc(skb, l->len, GFP_ATOMIC);
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
	return output_encrypt(conn, x, skb, l, seq, nexthdr);
}

/**
 * espintcp_esp_output - encrypt a packet of a TCP-encapsulated SA and queue it
 * @x: the SA, held by @skb's route
 * @skb: as XFRM hands it: data at the payload, the protocol of which the mac
 *	header points at, sequence number in the cb
 *
 * xfrm_type.output. Context: process or softirq, no locks of this module; the
 * inner sender's socket lock may be held.
 * Return: -EINPROGRESS, and @skb is the queue's, when the frame is on its way.
 *	Everything else drops the packet, which XFRM frees: %NET_XMIT_DROP for
 *	a full queue, -ENOTCONN without a connection, -EMSGSIZE, -ELOOP,
 *	-ENOMEM, -EOVERFLOW, or what crypto says.
 */
int espintcp_esp_output(struct xfrm_state *x, struct sk_buff *skb)
{
	struct espintcp_conn *conn;
	struct esp_layout layout;
	int err;

	output_layout(x, skb, &layout);
	if (layout.len > ESPINTCP_MAX_RECORD) {
		espintcp_drop(xs_net(x), NULL, ESPINTCP_DROP_OUT_TOO_BIG);
		return -EMSGSIZE;
	}

	rcu_read_lock();
	local_bh_disable();
	conn = espintcp_path_get(x);
	if (!IS_ERR(conn)) {
		err = output_on(conn, x, skb, &layout);
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
