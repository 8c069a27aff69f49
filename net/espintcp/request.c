// SPDX-License-Identifier: GPL-2.0
/*
 * AEAD operations: their memory, and what happens when one goes asynchronous.
 */
#include "espintcp.h"
#include "request.h"

/**
 * espintcp_request_get - memory for an operation with an SA's key
 * @x: the SA
 *
 * Mostly the one that the SA's last operation left behind.
 *
 * Context: any.
 * Return: a request with @x and its transform set, or NULL.
 */
struct espintcp_request *espintcp_request_get(struct xfrm_state *x)
{
	struct crypto_aead *aead = x->data;
	struct espintcp_request *er;

	er = xchg(&espintcp_sa(x)->request, NULL);
	if (!er) {
		er = kmalloc(sizeof(*er) + crypto_aead_reqsize(aead),
			     GFP_ATOMIC);
		if (!er)
			return NULL;
		espintcp_made(ESPINTCP_OBJECT_REQUEST);
	}
	er->x = x;
	er->segment = NULL;
	er->hold = NULL;
	er->page = NULL;
	er->conn = NULL;
	aead_request_set_tfm(&er->req, aead);
	return er;
}

static void request_free(struct espintcp_request *er)
{
	espintcp_gone(ESPINTCP_OBJECT_REQUEST);
	kfree(er);
}

/**
 * espintcp_request_put - the operation is over
 * @er: not used any more
 *
 * Context: any; the SA is still held.
 */
void espintcp_request_put(struct espintcp_request *er)
{
	if (cmpxchg(&espintcp_sa(er->x)->request, NULL, er))
		request_free(er);
}

/**
 * espintcp_request_free_cached - free the request an SA keeps
 * @x: the SA, on its way out
 *
 * Context: process; no operation of @x runs.
 */
void espintcp_request_free_cached(struct xfrm_state *x)
{
	if (espintcp_sa(x)->request)
		request_free(espintcp_sa(x)->request);
}

/**
 * espintcp_request_set_aad - what ESP authenticates in clear
 * @er: the request
 * @seq_hi: high half of an extended sequence number, ignored without
 * @seq_low: the half on the wire
 *
 * The extended number's high half is not on the wire (RFC 4303 section 2.2.1),
 * so the AAD never lies in the packet but always here.
 *
 * Context: any.
 * Return: its length in octets.
 */
unsigned int espintcp_request_set_aad(struct espintcp_request *er,
				      __be32 seq_hi, __be32 seq_low)
{
	__be32 *aad = (__be32 *)er->aad;
	unsigned int n = 0;

	aad[n++] = er->x->id.spi;
	if (er->x->props.flags & XFRM_STATE_ESN)
		aad[n++] = seq_hi;
	aad[n++] = seq_low;
	n *= sizeof(*aad);
	memcpy(er->dst_aad, er->aad, n);

	aead_request_set_ad(&er->req, n);
	return n;
}

static void request_meet(struct espintcp_request *er)
{
	struct net *net = xs_net(er->x);

	if (atomic_dec_and_test(&er->parties)) {
		er->done(er);
		espintcp_async_end(net);
	}
}

static void request_complete(compat_crypto_data_t data, int err)
{
	struct espintcp_request *er = compat_crypto_data(data);

	/* Only tells that a backlogged request was started. */
	if (err == -EINPROGRESS)
		return;
	er->err = err;
	request_meet(er);
}

/* References the operation needs once its submitter has gone on. */
static void request_go_async(struct espintcp_request *er)
{
	struct espintcp_rx *rx = &er->conn->rx;

	espintcp_async_begin(xs_net(er->x));
	refcount_inc(&er->conn->refcnt);
	if (er->segment) {
		er->hold = skb_morph(rx->spare, er->segment);
		rx->spare = NULL;
	}
	if (er->page) {
		get_page(er->page);
		xfrm_state_hold(er->x);
	}
}

/**
 * espintcp_request_from_segment - have a record read where TCP received it
 * @er: the request; @conn and the AAD are set
 * @rest: holds all of it
 * @offset: of the IV there
 * @len: octets from there on
 * @assoclen: octets of AAD; of AAD and IV, which then are one piece of the
 *	source and have to be one of the destination, on return
 *
 * Fills in the source. It is read twice, for the ICV and for the plaintext: whoever
 * can write to it meanwhile would have us deliver what nobody authenticated.
 *
 * Context: BH disabled, lock of the outer socket held.
 * Return: 0 or a negative errno: have it copied then.
 */
int espintcp_request_from_segment(struct espintcp_request *er,
				  struct espintcp_rest *rest,
				  unsigned int offset, unsigned int len,
				  unsigned int *assoclen)
{
	unsigned int ivlen = crypto_aead_ivsize(crypto_aead_reqtfm(&er->req));
	struct espintcp_rx *rx = &er->conn->rx;
	u8 *iv = er->aad + *assoclen;
	const u8 *octets;
	int n;

	if (!rest->fixed)
		return -EFAULT;
	/* Asynchronous crypto would need it, and cannot be told to wait. */
	if (!rx->spare)
		rx->spare = alloc_skb(0, GFP_ATOMIC);
	if (!rx->spare)
		return -ENOMEM;

	octets = espintcp_rest_octets(rest, offset, ivlen, iv);
	if (!octets)
		return -EFAULT;
	if (octets != iv)
		memcpy(iv, octets, ivlen);
	*assoclen += ivlen;
	offset += ivlen;
	len -= ivlen;

	er->segment = rest->skb;
	octets = espintcp_rest_piece(rest, offset, len);
	if (octets) {
		sg_init_table(er->src, 2);
		sg_set_buf(&er->src[1], octets, len);
		n = 0;
	} else {
		sg_init_table(er->src, ESPINTCP_SRC_PIECES);
		n = skb_to_sgvec(rest->skb, &er->src[1], offset, len);
	}
	sg_set_buf(&er->src[0], er->aad, *assoclen);
	return min(n, 0);
}

/**
 * espintcp_request_run - encrypt or decrypt
 * @er: complete, with @done for the case that it goes asynchronous
 * @op: crypto_aead_encrypt() or crypto_aead_decrypt()
 *
 * Context: BH disabled, under RCU. On input the socket lock is held and a
 *	spare skb is there if the request reads a segment.
 * Return: 0 or the operation's error, @er still the caller's; -EINPROGRESS
 *	when @done gets both.
 */
int espintcp_request_run(struct espintcp_request *er,
			 int (*op)(struct aead_request *req))
{
	int err;

	atomic_set(&er->parties, 2);
	aead_request_set_callback(&er->req, 0, request_complete, er);

	err = op(&er->req);
	if (err != -EINPROGRESS)
		return err;

	request_go_async(er);
	request_meet(er);
	return -EINPROGRESS;
}
