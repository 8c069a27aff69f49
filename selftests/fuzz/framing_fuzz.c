// SPDX-License-Identifier: GPL-2.0
/*
 * libFuzzer target for the record rules: the same stream, told whole and told
 * octet by octet and in random pieces, must give the same records.
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
	if (head.kind == ESPINTCP_BROKEN || head.len > len - *at)
		return 0;
	assert(taken <= head.len);
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
		assert(whole.kind == pieces.kind);
		if (whole.kind == ESPINTCP_MORE)
			break;
		assert(whole.len == pieces.len);
		if (whole.kind == ESPINTCP_IKE || whole.kind == ESPINTCP_ESP)
			assert(whole.len > ESPINTCP_HEAD_SIZE);
	} while (more);

	free(stream);
	return 0;
}
