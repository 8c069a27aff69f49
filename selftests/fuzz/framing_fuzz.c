// SPDX-License-Identifier: GPL-2.0
/*
 * libFuzzer target for the record rules: the same stream, told whole and told
 * octet by octet and in random pieces, must give the same records, and they must
 * be what the RFC says.
 *
 * The first octet of the input seeds the sizes of the pieces.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../../net/espintcp/framing.h"

struct record {
	enum espintcp_kind kind;
	size_t at;
	u16 len;
};

/*
 * RFC 9329 section 3 and RFC 3948 section 2.3 once more, in numbers of their own,
 * lest one mistake be made on both sides.
 */
static enum espintcp_kind kind_by_rfc(const u8 *p, size_t n, u16 *len)
{
	static const u8 marker[4];
	size_t telling;

	if (n < 2)
		return ESPINTCP_MORE;
	*len = p[0] * 256 + p[1];
	telling = *len < 6 ? *len : 6;
	if (n < telling)
		return ESPINTCP_MORE;

	switch (*len) {
	case 0:
	case 1:
		return ESPINTCP_BROKEN;
	case 2:
		return ESPINTCP_EMPTY;
	case 3:
		return p[2] == 0xff ? ESPINTCP_KEEPALIVE_RECORD : ESPINTCP_SHORT;
	case 4:
	case 5:
	case 6:
		return ESPINTCP_SHORT;
	default:
		return memcmp(p + 2, marker, 4) ? ESPINTCP_ESP : ESPINTCP_IKE;
	}
}

/* Is @rec what the RFC makes of the octets at its place? */
static void check_kind(const u8 *stream, size_t len, const struct record *rec)
{
	u16 want_len = 0;
	enum espintcp_kind want = kind_by_rfc(stream + rec->at, len - rec->at,
					      &want_len);

	assert(rec->kind == want);
	if (want != ESPINTCP_MORE)
		assert(rec->len == want_len);
}

/* Of the octets of a record of @len no more are taken than are needed. */
static void check_taken(size_t taken, u16 len)
{
	if (len < 2)
		assert(taken == 2);
	else
		assert(taken == (len < 6 ? len : 6));
}

/* The next record of a stream that is all there. */
static int next_whole(const u8 *stream, size_t len, size_t *at,
		      struct record *rec)
{
	rec->at = *at;
	rec->kind = espintcp_kind_of(stream + *at, len - *at, &rec->len);
	if (rec->kind == ESPINTCP_MORE || rec->kind == ESPINTCP_BROKEN)
		return 0;
	if (rec->len > len - *at)
		return 0;
	*at += rec->len;
	return 1;
}

/*
 * The same from pieces, as the kernel takes a record that crosses segments: the
 * head is gathered, then the rest is skipped.
 */
static int next_pieces(const u8 *stream, size_t len, size_t *at,
		       struct record *rec, uint32_t *seed)
{
	struct espintcp_head head;
	size_t taken = 0;

	espintcp_head_reset(&head);
	rec->at = *at;
	while (head.kind == ESPINTCP_MORE) {
		size_t left = len - *at - taken;
		size_t piece;
		size_t n;

		if (!left) {
			rec->kind = ESPINTCP_MORE;
			return 0;
		}
		*seed = *seed * 1103515245 + 12345;
		piece = 1 + (*seed >> 16) % 7;
		if (piece > left)
			piece = left;
		n = espintcp_head_feed(&head, stream + *at + taken, piece);
		assert(n && n <= piece);
		taken += n;
		assert(taken == head.have && taken <= ESPINTCP_HEAD_SIZE);
	}

	rec->kind = head.kind;
	rec->len = head.len;
	check_taken(taken, head.len);
	if (head.kind == ESPINTCP_BROKEN || head.len > len - *at)
		return 0;
	*at += head.len;
	return 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct record whole = {}, pieces = {};
	size_t at_whole = 0, at_pieces = 0;
	uint32_t seed;
	u8 *stream;
	int more;

	if (!size)
		return 0;
	seed = data[0];
	size--;
	/* A copy of exactly this size, so that ASan sees a read past its end. */
	stream = malloc(size ? size : 1);
	memcpy(stream, data + 1, size);

	do {
		more = next_whole(stream, size, &at_whole, &whole);
		assert(more == next_pieces(stream, size, &at_pieces, &pieces,
					   &seed));
		assert(at_whole == at_pieces);
		check_kind(stream, size, &whole);
		check_kind(stream, size, &pieces);
	} while (more);

	free(stream);
	return 0;
}
