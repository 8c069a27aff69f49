/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The record rules of RFC 9329 section 3, as pure functions.
 *
 * Nothing here knows of sockets or skbs, and the two files build in user space
 * as they stand (selftests/fuzz), so that what is fuzzed is what runs.
 */
#ifndef ESPINTCP_FRAMING_H
#define ESPINTCP_FRAMING_H

#ifdef __KERNEL__
#include <linux/types.h>
#else
#include <stddef.h>
#include <stdint.h>
typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
#endif

/* The length field, which counts itself. */
#define ESPINTCP_LEN_SIZE	2
/* The non-ESP marker: four zero octets where ESP has its SPI. */
#define ESPINTCP_MARKER_SIZE	4
/* Enough of a record to tell what it is. */
#define ESPINTCP_HEAD_SIZE	(ESPINTCP_LEN_SIZE + ESPINTCP_MARKER_SIZE)
#define ESPINTCP_MAX_RECORD	65535
#define ESPINTCP_MAX_PAYLOAD	(ESPINTCP_MAX_RECORD - ESPINTCP_LEN_SIZE)
#define ESPINTCP_KEEPALIVE	0xff

/**
 * enum espintcp_kind - what a record is
 * @ESPINTCP_MORE: cannot be told yet, more octets are needed
 * @ESPINTCP_BROKEN: a length below 2; the stream is lost (RFC 9329 section 3)
 * @ESPINTCP_EMPTY: a length field and nothing else
 * @ESPINTCP_KEEPALIVE_RECORD: one octet 0xff, a NAT keepalive (RFC 3948)
 * @ESPINTCP_SHORT: 1 to 4 octets which are neither
 * @ESPINTCP_IKE: begins with the non-ESP marker
 * @ESPINTCP_ESP: everything else
 */
enum espintcp_kind {
	ESPINTCP_MORE,
	ESPINTCP_BROKEN,
	ESPINTCP_EMPTY,
	ESPINTCP_KEEPALIVE_RECORD,
	ESPINTCP_SHORT,
	ESPINTCP_IKE,
	ESPINTCP_ESP,
};

/**
 * struct espintcp_head - the beginning of a record, gathered from a stream
 * @octets: the length field and up to four octets of payload
 * @have: how many of @octets are filled
 * @len: the record's length, length field included; valid once @kind is known
 * @kind: ESPINTCP_MORE until the record can be told
 */
struct espintcp_head {
	u8 octets[ESPINTCP_HEAD_SIZE];
	u8 have;
	u16 len;
	enum espintcp_kind kind;
};

enum espintcp_kind espintcp_kind_of(const u8 *octets, size_t n, u16 *len);
size_t espintcp_head_feed(struct espintcp_head *head, const u8 *p, size_t n);

/**
 * espintcp_head_reset - ready for the next record
 * @head: any state
 */
static inline void espintcp_head_reset(struct espintcp_head *head)
{
	head->have = 0;
	head->kind = ESPINTCP_MORE;
}

#endif
