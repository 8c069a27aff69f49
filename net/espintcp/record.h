/* SPDX-License-Identifier: GPL-2.0 */
/*
 * How an ESP record of the TCP stream is laid out:
 *
 *	length field | SPI | sequence number | IV | payload |
 *	TFC padding | padding | pad length | next header | ICV
 */
#ifndef ESPINTCP_RECORD_H
#define ESPINTCP_RECORD_H

#include <linux/types.h>

struct espintcp_request;
struct xfrm_state;

/**
 * struct espintcp_record - an ESP record to be made, octets
 * @ivlen: IV, after SPI and sequence number
 * @payload: the inner packet
 * @tfclen: traffic flow confidentiality padding
 * @padlen: ESP padding, without the two octets that follow it
 * @alen: ICV
 * @len: the record, length field included
 */
struct espintcp_record {
	unsigned int ivlen;
	unsigned int payload;
	unsigned int tfclen;
	unsigned int padlen;
	unsigned int alen;
	unsigned int len;
};

void espintcp_record_init(struct espintcp_record *rec,
			  const struct xfrm_state *x, unsigned int payload,
			  unsigned int tfclen);
u8 *espintcp_record_payload(const struct espintcp_record *rec, u8 *record);
void espintcp_record_begin(const struct espintcp_record *rec,
			   const struct xfrm_state *x, u8 *record, u64 seq);
void espintcp_record_end(const struct espintcp_record *rec, u8 *record,
			 u8 nexthdr);
void espintcp_record_set_request(const struct espintcp_record *rec,
				 struct espintcp_request *er, u8 *record,
				 u64 seq);

#endif
