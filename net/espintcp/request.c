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
	unsigned int n = 0;

	er->aad[n++] = er->x->id.spi;
	if (er->x->props.flags & XFRM_STATE_ESN)
		er->aad[n++] = seq_hi;
	er->aad[n++] = seq_low;
	memcpy(er->dst_aad, er->aad, sizeof(er->aad));

	aead_request_set_ad(&er->req, n * sizeof(__be32));
	return n * sizeof(__be32);
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
