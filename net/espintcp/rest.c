// SPDX-License-Identifier: GPL-2.0
/*
 * Reading a received segment where it is. Its octets lie in pieces, but of a
 * large segment mostly in few: the one that was read last is remembered.
 */
#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/skbuff.h>

#include "espintcp.h"

/* The piece of @skb, whose first octet is number @begin, that holds @offset. */
static bool rest_find_in(struct espintcp_rest *rest, const struct sk_buff *skb,
			 unsigned int begin, unsigned int offset)
{
	unsigned int end = begin + skb_headlen(skb), i;

	rest->piece = skb->data;
	for (i = 0; offset >= end && i < skb_shinfo(skb)->nr_frags; i++) {
		const skb_frag_t *frag = &skb_shinfo(skb)->frags[i];
		const struct page *page = skb_frag_page(frag);

		begin = end;
		end += skb_frag_size(frag);
		rest->piece = page && !PageHighMem(page) ?
			      skb_frag_address(frag) : NULL;
	}
	rest->piece_begin = begin;
	rest->piece_end = rest->piece ? end : begin;
	return offset < end;
}

static void rest_find(struct espintcp_rest *rest, unsigned int offset)
{
	unsigned int begin = skb_pagelen(rest->skb);
	const struct sk_buff *skb;

	if (rest_find_in(rest, rest->skb, 0, offset))
		return;
	skb_walk_frags(rest->skb, skb) {
		if (offset < begin + skb->len) {
			rest_find_in(rest, skb, begin, offset);
			return;
		}
		begin += skb->len;
	}
}

/* A packet socket sends from memory that it shares with its process, and does not
 * say so.
 */
static bool rest_is_mapped(const struct sk_buff *skb)
{
	unsigned int i;

	for (i = 0; i < skb_shinfo(skb)->nr_frags; i++) {
		struct page *page = skb_frag_page(&skb_shinfo(skb)->frags[i]);

		if (page && folio_mapped(page_folio(page)))
			return true;
	}
	return false;
}

static bool rest_fixed_in(const struct sk_buff *skb)
{
	return !skb_has_shared_frag(skb) && skb_frags_readable(skb) &&
	       !rest_is_mapped(skb);
}

/**
 * espintcp_rest_fixed - can a segment be read twice and be the same?
 * @segment: the segment
 *
 * Its pages may be a file's that a process has mapped, or another process' own, when
 * the sender is on this machine and had them sent without a copy.
 *
 * Context: the socket's receive path, socket lock held.
 * Return: false if not, or if the processor cannot read it at all.
 */
bool espintcp_rest_fixed(const struct sk_buff *segment)
{
	const struct sk_buff *skb;

	if (!rest_fixed_in(segment))
		return false;
	/* What was a fragment of a fragment is not looked into. */
	skb_walk_frags(segment, skb)
		if (skb_has_frag_list(skb) || !rest_fixed_in(skb))
			return false;
	return true;
}

/**
 * espintcp_rest_piece - octets of a segment, if they lie in one piece
 * @rest: the segment
 * @offset: of the first
 * @len: how many
 *
 * Context: the socket's receive path, socket lock held.
 * Return: the octets, read only, or NULL.
 */
const u8 *espintcp_rest_piece(struct espintcp_rest *rest, unsigned int offset,
			      unsigned int len)
{
	if (offset < rest->piece_begin || offset >= rest->piece_end)
		rest_find(rest, offset);
	if (offset < rest->piece_begin || offset + len > rest->piece_end)
		return NULL;
	return rest->piece + (offset - rest->piece_begin);
}

/**
 * espintcp_rest_octets - some octets of a segment
 * @rest: the segment
 * @offset: of the first
 * @len: how many
 * @buf: has room for them, where they do not lie in one piece
 *
 * Context: the socket's receive path, socket lock held.
 * Return: the octets, read only, or NULL when they cannot be read.
 */
const u8 *espintcp_rest_octets(struct espintcp_rest *rest, unsigned int offset,
			       unsigned int len, u8 *buf)
{
	const u8 *octets = espintcp_rest_piece(rest, offset, len);

	if (!octets && !skb_copy_bits(rest->skb, offset, buf, len))
		octets = buf;
	return octets;
}
