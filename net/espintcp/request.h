/* SPDX-License-Identifier: GPL-2.0 */
/*
 * One AEAD operation on one ESP packet.
 */
#ifndef ESPINTCP_REQUEST_H
#define ESPINTCP_REQUEST_H

#include <crypto/aead.h>
#include <linux/ipv6.h>
#include <linux/scatterlist.h>
#include <net/esp.h>
#include <net/xfrm.h>

/* IVs of all ESP algorithms fit, as do SPI, high and low sequence number. */
#define ESPINTCP_IV_MAX		16
#define ESPINTCP_AAD_MAX	12
/* Of the ciphers there are. */
#define ESPINTCP_BLOCK		16
/* AAD and a record that crosses two page fragments. */
#define ESPINTCP_SRC_PIECES	4
/* IP without options, TCP with all it can have. */
#define ESPINTCP_HEADERS_MAX	(sizeof(struct ipv6hdr) + 60)

/**
 * struct espintcp_request - an AEAD operation
 * @x: the SA; held by @skb's secpath (input) or route (output)
 * @skb: the packet
 * @conn: the connection it came on or leaves on; with a reference once the
 *	operation went asynchronous
 * @segment: received segment the operation reads from, or NULL
 * @hold: keeps @segment's pages once the operation went asynchronous
 * @page: memory of a result nobody waits for once the operation went
 *	asynchronous, or NULL; it has a reference then, and @x one more
 * @done: called when an asynchronous operation has ended
 * @err: its result
 * @parties: the submitter and the completion; the second to come calls @done
 * @aad: what is authenticated, not encrypted: SPI and sequence number and, for
 *	what was received, the IV: in one piece it need not be copied by ciphers
 * @dst_aad: the same on the destination's side, which templates may write
 * @iv: for the algorithm
 * @head: where headers are written of an inner packet that will not be a packet
 *	of its own, and some of its payload
 * @src: where octets are read
 * @dst: where they are written; memory of this module
 * @req: the crypto API's part, last because its size depends on the algorithm
 */
struct espintcp_request {
	struct xfrm_state *x;
	struct sk_buff *skb;
	struct espintcp_conn *conn;
	struct sk_buff *segment;
	struct sk_buff *hold;
	struct page *page;
	void (*done)(struct espintcp_request *er);
	int err;
	atomic_t parties;
	u8 aad[ESPINTCP_AAD_MAX + ESPINTCP_IV_MAX] __aligned(4);
	u8 dst_aad[ESPINTCP_AAD_MAX + ESPINTCP_IV_MAX] __aligned(4);
	u8 iv[ESPINTCP_IV_MAX] __aligned(16);
	u8 head[ESPINTCP_HEADERS_MAX + ESPINTCP_BLOCK] __aligned(4);
	struct scatterlist src[ESPINTCP_SRC_PIECES];
	struct scatterlist dst[3];
	struct aead_request req;
};

struct espintcp_request *espintcp_request_get(struct xfrm_state *x);
void espintcp_request_put(struct espintcp_request *er);
void espintcp_request_free_cached(struct xfrm_state *x);
unsigned int espintcp_request_set_aad(struct espintcp_request *er,
				      __be32 seq_hi, __be32 seq_low);
int espintcp_request_from_segment(struct espintcp_request *er,
				  struct espintcp_rest *rest,
				  unsigned int offset, unsigned int len,
				  unsigned int *assoclen);
int espintcp_request_run(struct espintcp_request *er,
			 int (*op)(struct aead_request *req));

#endif
