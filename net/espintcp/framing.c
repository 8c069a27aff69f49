// SPDX-License-Identifier: GPL-2.0
/*
 * The record rules of RFC 9329 section 3.
 */
#include "framing.h"

/**
 * espintcp_kind_of - tell a record by its first octets
 * @octets: the record from its length field on
 * @n: how many octets are there; more than %ESPINTCP_HEAD_SIZE change nothing
 * @len: where the record's length goes, length field included; written
 *	whenever @n reaches the length field
 *
 * A record which is too short to hold all of %ESPINTCP_HEAD_SIZE is told as
 * soon as the whole of it is there.
 *
 * Context: any, no locks.
 * Return: the kind, %ESPINTCP_MORE when @n octets do not tell.
 */
enum espintcp_kind espintcp_kind_of(const u8 *octets, size_t n, u16 *len)
{
	const u8 *payload = octets + ESPINTCP_LEN_SIZE;
	size_t payload_len;

	if (n < ESPINTCP_LEN_SIZE)
		return ESPINTCP_MORE;

	*len = (u16)(octets[0] << 8 | octets[1]);
	if (*len < ESPINTCP_LEN_SIZE)
		return ESPINTCP_BROKEN;

	payload_len = *len - ESPINTCP_LEN_SIZE;
	if (!payload_len)
		return ESPINTCP_EMPTY;

	if (payload_len <= ESPINTCP_MARKER_SIZE) {
		if (n < *len)
			return ESPINTCP_MORE;
		if (payload_len == 1 && payload[0] == ESPINTCP_KEEPALIVE)
			return ESPINTCP_KEEPALIVE_RECORD;
		return ESPINTCP_SHORT;
	}

	if (n < ESPINTCP_HEAD_SIZE)
		return ESPINTCP_MORE;
	if (!(payload[0] | payload[1] | payload[2] | payload[3]))
		return ESPINTCP_IKE;
	return ESPINTCP_ESP;
}

/**
 * espintcp_head_feed - gather the head of a record from a stream
 * @head: state, reset before the first octet of a record
 * @p: the next octets of the stream
 * @n: how many
 *
 * Takes octets until the record can be told and not one more, so that the
 * octets after a short record stay with their own record.
 *
 * Context: any; the caller serialises access to @head.
 * Return: how many octets were taken.
 */
size_t espintcp_head_feed(struct espintcp_head *head, const u8 *p, size_t n)
{
	size_t taken = 0;

	while (head->kind == ESPINTCP_MORE && taken < n) {
		head->octets[head->have++] = p[taken++];
		head->kind = espintcp_kind_of(head->octets, head->have,
					      &head->len);
	}
	return taken;
}
