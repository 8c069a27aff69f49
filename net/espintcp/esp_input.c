// SPDX-License-Identifier: GPL-2.0
/*
 * ESP record -> decrypted packet.
 *
 * The ciphertext is read where TCP received it and the plaintext is written
 * into the packet's own memory: received pages may be a file's page cache or
 * the sender's retransmit queue and are never written.
 */
#include <net/ip.h>

#include "espintcp.h"
#include "request.h"

/* A linear packet with all of the ciphertext in it: the record was put
 * together there, or is copied now.
 */
static int input_in_place(struct espintcp_request *er, struct sk_buff *skb,
			  struct espintcp_segment *seg, unsigned int assoclen)
{
	unsigned int hlen = sizeof(struct ip_esp_hdr);
	int err;

	if (seg->skb) {
		err = skb_copy_bits(seg->skb, seg->offset + hlen,
				    skb->data + hlen, skb->len - hlen);
		if (err)
			return err;
	}
	sg_init_table(er->dst, 2);
	sg_set_buf(&er->dst[0], er->dst_aad, assoclen);
	sg_set_buf(&er->dst[1], skb->data + hlen, skb->len - hlen);
	er->segment = NULL;
	aead_request_set_crypt(&er->req, er->dst, er->dst, skb->len - hlen,
			       er->iv);
	return 0;
}

/* Reads from the segment, writes to the packet. */
static int input_from_segment(struct espintcp_request *er, struct sk_buff *skb,
			      struct espintcp_segment *seg,
			      unsigned int assoclen)
{
	unsigned int hlen = sizeof(struct ip_esp_hdr), skip;
	int err;

	err = espintcp_request_from_segment(er, seg->rest, seg->offset + hlen,
					    skb->len - hlen, &assoclen);
	if (err)
		return err;

	/* Behind the IV, of which there is no use any more. */
	skip = hlen + crypto_aead_ivsize(crypto_aead_reqtfm(&er->req));
	sg_init_table(er->dst, 2);
	sg_set_buf(&er->dst[0], er->dst_aad, assoclen);
	sg_set_buf(&er->dst[1], skb->data + skip, skb->len - skip);
	aead_request_set_crypt(&er->req, er->src, er->dst, skb->len - hlen,
			       er->iv);
	return 0;
}

/* Takes padding and ICV off. Returns the next header. */
static int input_trim(struct xfrm_state *x, struct sk_buff *skb)
{
	struct crypto_aead *aead = x->data;
	unsigned int alen = crypto_aead_authsize(aead);
	unsigned int hlen = sizeof(struct ip_esp_hdr) +
			    crypto_aead_ivsize(aead);
	const u8 *tail = skb_tail_pointer(skb) - alen;
	unsigned int padlen = tail[-2];
	u8 nexthdr = tail[-1];

	if (hlen + padlen + 2 + alen > skb->len)
		return -EINVAL;
	/* Dummy packets are dropped (RFC 4303 section 2.6). */
	if (nexthdr == IPPROTO_NONE)
		return -EINVAL;

	__skb_trim(skb, skb->len - padlen - 2 - alen);
	__skb_pull(skb, hlen);
	return nexthdr;
}

static u64 input_seq(const struct sk_buff *skb)
{
	const struct xfrm_skb_cb *cb = XFRM_SKB_CB(skb);

	return (u64)ntohl(cb->seq.input.hi) << 32 | ntohl(cb->seq.input.low);
}

/* What came for an SA and is not its peer's: the stream has lost its way, or
 * is someone else's (RFC 9329 section 6.1).
 */
static void input_bad_auth(struct xfrm_state *x, struct espintcp_conn *conn)
{
	espintcp_count(xs_net(x), ESPINTCP_CNT_IN_BAD_AUTH);
	espintcp_conn_abort(conn, EKEYREJECTED);
}

/* Decrypted: hand back to XFRM what it expects. Returns the next header. */
static int input_finish(struct xfrm_state *x, struct sk_buff *skb,
			struct espintcp_conn *conn, int err)
{
	int nexthdr;

	if (err == -EBADMSG)
		input_bad_auth(x, conn);
	if (err)
		return err;
	WRITE_ONCE(conn->stats.last_valid, jiffies | 1);
	espintcp_path_heard(x, conn, input_seq(skb));

	nexthdr = input_trim(x, skb);
	if (nexthdr < 0)
		return nexthdr;

	if (x->props.mode != XFRM_MODE_TRANSPORT &&
	    x->props.mode != XFRM_MODE_BEET) {
		skb_reset_transport_header(skb);
		return nexthdr;
	}

	/* Where XFRM is to move the IP header: right before the payload. */
	skb_set_transport_header(skb, -skb_network_header_len(skb));
	/* A NAT may have changed the addresses the inner checksum covers; ESP
	 * has authenticated the payload (RFC 3948 section 3.1.2).
	 */
	if (x->props.mode == XFRM_MODE_TRANSPORT)
		skb->ip_summed = CHECKSUM_UNNECESSARY;
	return nexthdr;
}

static void input_done(struct espintcp_request *er)
{
	struct espintcp_conn *conn = er->conn;
	struct sk_buff *skb = er->skb;
	struct sk_buff *hold = er->hold;
	int nexthdr;

	rcu_read_lock();
	nexthdr = input_finish(er->x, skb, conn, er->err);
	rcu_read_unlock();
	espintcp_request_put(er);
	consume_skb(hold);
	xfrm_input_resume(skb, nexthdr);
	espintcp_conn_put(conn);
}

/* Returns 0, -EINPROGRESS when crypto owns @skb, another negative errno. */
static int input_decrypt(struct xfrm_state *x, struct sk_buff *skb,
			 struct espintcp_segment *seg)
{
	const struct ip_esp_hdr *esph = (struct ip_esp_hdr *)skb->data;
	struct espintcp_request *er;
	unsigned int assoclen;
	int err;

	er = espintcp_request_get(x);
	if (!er) {
		espintcp_drop(xs_net(x), seg->conn, ESPINTCP_DROP_IN_NO_MEM);
		return -ENOMEM;
	}
	er->skb = skb;
	er->conn = seg->conn;
	er->done = input_done;
	assoclen = espintcp_request_set_aad(er,
					    XFRM_SKB_CB(skb)->seq.input.hi,
					    esph->seq_no);

	err = -EINVAL;
	if (seg->skb)
		err = input_from_segment(er, skb, seg, assoclen);
	if (err)
		err = input_in_place(er, skb, seg, assoclen);
	if (!err)
		err = espintcp_request_run(er, crypto_aead_decrypt);
	if (err != -EINPROGRESS)
		espintcp_request_put(er);
	return err;
}

/* It was decrypted by a number that came of the one before it. XFRM has made one of
 * the window, which another processor may have moved far ahead in the meantime.
 */
static int input_plain(const struct xfrm_state *x, const struct sk_buff *skb,
		       const struct espintcp_segment *seg)
{
	return seg->plain == x && seg->plain_seq == input_seq(skb) ? 0 : -EINVAL;
}

/**
 * espintcp_esp_input - decrypt a packet of a TCP-encapsulated SA
 * @x: the SA, held by @skb's secpath
 * @skb: from rx.c: linear, data at the ESP header, as long as the record; what
 *	comes after the ESP header may still be in the received segment only
 *
 * Records after this one may become part of the packet, see espintcp_esp_gro().
 *
 * xfrm_type.input. Context: softirq or BH disabled, under RCU, lock of the
 * outer socket held.
 * Return: the next header; -EINPROGRESS when crypto went asynchronous and owns
 *	@skb; another negative errno when the packet is bad, -EBADMSG if not
 *	authentic. XFRM frees @skb then.
 */
int espintcp_esp_input(struct xfrm_state *x, struct sk_buff *skb)
{
	struct espintcp_segment *seg = espintcp_input_cb(skb)->segment;
	struct crypto_aead *aead = x->data;
	int err, nexthdr;

	seg->known = true;
	skb->destructor = NULL;
	if (skb->len < sizeof(struct ip_esp_hdr) + crypto_aead_ivsize(aead) +
		       2 + crypto_aead_authsize(aead)) {
		input_bad_auth(x, seg->conn);
		return -EINVAL;
	}

	if (seg->plain)
		err = input_plain(x, skb, seg);
	else
		err = input_decrypt(x, skb, seg);
	if (err == -EINPROGRESS)
		return err;

	nexthdr = input_finish(x, skb, seg->conn, err);
	if (nexthdr > 0)
		espintcp_esp_gro(x, skb, seg, nexthdr);
	return nexthdr;
}
