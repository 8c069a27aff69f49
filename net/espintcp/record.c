// SPDX-License-Identifier: GPL-2.0
/*
 * How an ESP record is laid out (RFC 4303 section 2, RFC 9329 section 3.2), and
 * what of it is encrypted.
 */
#include <net/esp.h>

#include "espintcp.h"
#include "record.h"
#include "request.h"

/**
 * espintcp_record_init - the layout of a record
 * @rec: to be filled in
 * @x: the SA
 * @payload: octets of the inner packet
 * @tfclen: octets of traffic flow confidentiality padding
 *
 * Context: any.
 */
void espintcp_record_init(struct espintcp_record *rec,
			  const struct xfrm_state *x, unsigned int payload,
			  unsigned int tfclen)
{
	struct crypto_aead *aead = x->data;
	unsigned int block = ALIGN(crypto_aead_blocksize(aead), 4);
	unsigned int clear = payload + tfclen + 2;

	rec->ivlen = crypto_aead_ivsize(aead);
	rec->alen = crypto_aead_authsize(aead);
	rec->payload = payload;
	rec->tfclen = tfclen;
	rec->padlen = ALIGN(clear, block) - clear;
	rec->len = ESPINTCP_LEN_SIZE + sizeof(struct ip_esp_hdr) + rec->ivlen +
		   clear + rec->padlen + rec->alen;
}

/**
 * espintcp_record_payload - where the inner packet goes
 * @rec: the layout
 * @record: memory for the record
 *
 * Context: any.
 */
u8 *espintcp_record_payload(const struct espintcp_record *rec, u8 *record)
{
	return record + ESPINTCP_LEN_SIZE + sizeof(struct ip_esp_hdr) +
	       rec->ivlen;
}

/**
 * espintcp_record_begin - write what comes before the IV
 * @rec: the layout
 * @x: the SA
 * @record: memory for the record
 * @seq: sequence number
 *
 * Context: any.
 */
void espintcp_record_begin(const struct espintcp_record *rec,
			   const struct xfrm_state *x, u8 *record, u64 seq)
{
	put_unaligned_be16(rec->len, record);
	record += ESPINTCP_LEN_SIZE;
	put_unaligned(x->id.spi, (__be32 *)record);
	put_unaligned_be32(seq, record + sizeof(__be32));
}

/**
 * espintcp_record_end - write what comes between payload and ICV
 * @rec: the layout
 * @record: memory for the record
 * @nexthdr: protocol of the payload
 *
 * Context: any.
 */
void espintcp_record_end(const struct espintcp_record *rec, u8 *record,
			 u8 nexthdr)
{
	u8 *p = espintcp_record_payload(rec, record) + rec->payload;
	unsigned int i;

	memset(p, 0, rec->tfclen);
	p += rec->tfclen;
	for (i = 1; i <= rec->padlen; i++)
		*p++ = i;
	*p++ = rec->padlen;
	*p = nexthdr;
}

/**
 * espintcp_record_set_request - have a record encrypted where it is
 * @rec: the layout
 * @er: the operation
 * @record: complete but for IV and ICV
 * @seq: sequence number, extended if the SA's are
 *
 * Context: any.
 */
void espintcp_record_set_request(const struct espintcp_record *rec,
				 struct espintcp_request *er, u8 *record,
				 u64 seq)
{
	unsigned int skip = ESPINTCP_LEN_SIZE + sizeof(struct ip_esp_hdr);
	__be64 be_seq = cpu_to_be64(seq);
	unsigned int n, assoclen;

	if (er->x->props.flags & XFRM_STATE_ESN) {
		assoclen = espintcp_request_set_aad(er, htonl(seq >> 32),
						    htonl(seq));
		sg_init_table(er->dst, 2);
		sg_set_buf(&er->dst[0], er->aad, assoclen);
		sg_set_buf(&er->dst[1], record + skip, rec->len - skip);
	} else {
		/* What is authenticated is what is on the wire. */
		aead_request_set_ad(&er->req, sizeof(struct ip_esp_hdr));
		sg_init_one(er->dst, record + ESPINTCP_LEN_SIZE,
			    rec->len - ESPINTCP_LEN_SIZE);
	}

	/* The IV generators turn the sequence number into a unique IV. */
	n = min_t(unsigned int, rec->ivlen, sizeof(be_seq));
	memset(er->iv, 0, sizeof(er->iv));
	memcpy(er->iv + rec->ivlen - n, (u8 *)&be_seq + sizeof(be_seq) - n, n);

	aead_request_set_crypt(&er->req, er->dst, er->dst,
			       rec->len - skip - rec->alen, er->iv);
}
