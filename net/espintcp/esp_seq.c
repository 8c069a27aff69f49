// SPDX-License-Identifier: GPL-2.0
/*
 * Sequence numbers of an SA: those given to frames, from XFRM's own counter, and
 * those of records that did not pass through XFRM one by one, in XFRM's own
 * replay window.
 */
#include <linux/ktime.h>

#include "espintcp.h"

/* The number XFRM gave out last for this SA. */
static u64 seq_out(const struct xfrm_state *x)
	__must_hold(&x->lock)
{
	switch (x->repl_mode) {
	case XFRM_REPLAY_MODE_LEGACY:
		return x->replay.oseq;
	case XFRM_REPLAY_MODE_BMP:
		return x->replay_esn->oseq;
	case XFRM_REPLAY_MODE_ESN:
		return (u64)x->replay_esn->oseq_hi << 32 | x->replay_esn->oseq;
	}
	return 0;
}

static void seq_set_out(struct xfrm_state *x, u64 seq)
	__must_hold(&x->lock)
{
	switch (x->repl_mode) {
	case XFRM_REPLAY_MODE_LEGACY:
		x->replay.oseq = seq;
		break;
	case XFRM_REPLAY_MODE_BMP:
		x->replay_esn->oseq = seq;
		break;
	case XFRM_REPLAY_MODE_ESN:
		x->replay_esn->oseq = seq;
		x->replay_esn->oseq_hi = seq >> 32;
		break;
	}
}

/* Takes the next number from XFRM's own counter, as if the packet came now. */
static int seq_next(struct xfrm_state *x, u64 *seq)
	__must_hold(&x->lock)
{
	bool esn = x->repl_mode == XFRM_REPLAY_MODE_ESN;
	u64 next = seq_out(x) + 1;

	if (esn ? !next : next > U32_MAX &&
	    !(x->props.extra_flags & XFRM_SA_XFLAG_OSEQ_MAY_WRAP))
		return -EOVERFLOW;
	seq_set_out(x, next);
	*seq = esn ? next : (u32)next;
	return 0;
}

/**
 * espintcp_seq_order - see that a frame's number is above those before it
 * @x: the SA
 * @seq: the number XFRM gave; may be replaced by a later one
 *
 * XFRM gives out sequence numbers under the SA's lock but drops it before the
 * packet reaches us, so that of two CPUs the later may come first. The one that
 * was overtaken takes a new number; a gap is harmless, a frame out of order is
 * not. Someone who set the counter back on purpose is followed.
 *
 * Context: xfrm_state.lock held, and kept until the frame has its place.
 * Return: 0, -EOVERFLOW when there are no more numbers.
 */
int espintcp_seq_order(struct xfrm_state *x, u64 *seq)
{
	struct espintcp_sa *sa = espintcp_sa(x);
	int err;

	lockdep_assert_held(&x->lock);

	if (*seq <= sa->oseq && seq_out(x) >= sa->oseq) {
		err = seq_next(x, seq);
		if (err)
			return err;
		espintcp_count(xs_net(x), ESPINTCP_CNT_OUT_RENUMBERED);
	}
	sa->oseq = *seq;
	return 0;
}

static bool below(u64 now, u64 more, u64 limit)
{
	return limit == XFRM_INF || now + more < limit;
}

static bool life_has_room(const struct xfrm_lifetime_cur *cur,
			  u64 soft_packets, u64 hard_packets, u64 soft_octets,
			  u64 hard_octets, u64 packets, u64 octets)
{
	return below(cur->packets, packets, min(soft_packets, hard_packets)) &&
	       below(cur->bytes, octets, min(soft_octets, hard_octets));
}

/* May many packets be counted at once? Not where one of them would have to be
 * told of: where the SA reaches a limit, or someone follows its numbers.
 */
static bool sa_takes_many(struct xfrm_state *x, u64 packets, u64 octets)
	__must_hold(&x->lock)
{
	/* Once told of the soft limits, they are of no interest. */
	bool dying = x->km.dying;

	return x->km.state == XFRM_STATE_VALID && x->curlft.use_time &&
	       life_has_room(&x->curlft,
			     dying ? XFRM_INF : x->lft.soft_packet_limit,
			     x->lft.hard_packet_limit,
			     dying ? XFRM_INF : x->lft.soft_byte_limit,
			     x->lft.hard_byte_limit, packets, octets) &&
	       !xfrm_aevent_is_on(xs_net(x));
}

/* As XFRM counts each of them. */
static void sa_count(struct xfrm_state *x, u64 packets, u64 octets)
	__must_hold(&x->lock)
{
	x->curlft.packets += packets;
	x->curlft.bytes += octets;
	x->lastused = ktime_get_real_seconds();
}

/**
 * espintcp_seq_take - numbers for packets that do not pass through XFRM
 * @x: the SA
 * @n: how many
 * @octets: what XFRM would have counted for all of them
 * @first: where the first number goes; the others follow it
 *
 * The packets count for the SA as if XFRM had sent each.
 *
 * Context: xfrm_state.lock held, and kept until the frames have their places.
 * Return: false when XFRM is to see each of them; nothing was taken then.
 */
bool espintcp_seq_take(struct xfrm_state *x, unsigned int n,
		       unsigned int octets, u64 *first)
{
	u64 max = x->repl_mode == XFRM_REPLAY_MODE_ESN ? U64_MAX : U32_MAX;
	u64 last = seq_out(x);

	lockdep_assert_held(&x->lock);

	if (max - last < n || !sa_takes_many(x, n, octets))
		return false;
	*first = last + 1;
	seq_set_out(x, last + n);
	espintcp_sa(x)->oseq = last + n;
	sa_count(x, n, octets);
	return true;
}

/* How many numbers the window holds; without one, none is looked at. An
 * administrator may change it at any time (XFRM_MSG_NEWAE).
 */
static unsigned int window_size(const struct xfrm_state *x)
	__must_hold(&x->lock)
{
	if (x->repl_mode == XFRM_REPLAY_MODE_LEGACY)
		return x->props.replay_window;
	return x->replay_esn->replay_window;
}

/**
 * espintcp_seq_top - the highest number XFRM marked as received
 * @x: the SA
 *
 * XFRM does not mark any without a window.
 *
 * Context: xfrm_state.lock held.
 * Return: the number, extended if the SA's are.
 */
u64 espintcp_seq_top(const struct xfrm_state *x)
{
	lockdep_assert_held(&x->lock);

	switch (x->repl_mode) {
	case XFRM_REPLAY_MODE_LEGACY:
		return x->replay.seq;
	case XFRM_REPLAY_MODE_BMP:
		return x->replay_esn->seq;
	case XFRM_REPLAY_MODE_ESN:
		return (u64)x->replay_esn->seq_hi << 32 | x->replay_esn->seq;
	}
	return 0;
}

/**
 * espintcp_seq_run_max - how many records may follow one that XFRM checks
 * @x: the SA
 * @seq: number of that record
 *
 * XFRM looks at its number after those that follow it were marked, and must
 * still find it in the window.
 *
 * Context: softirq or BH disabled; takes the SA's lock.
 * Return: 0 when @seq is not above all that were received.
 */
unsigned int espintcp_seq_run_max(struct xfrm_state *x, u64 seq)
{
	unsigned int window, max = ESPINTCP_SEQ_RUN;

	spin_lock_bh(&x->lock);
	window = window_size(x);
	if (window && seq <= espintcp_seq_top(x))
		max = 0;
	else if (!sa_takes_many(x, max, max * ESPINTCP_MAX_RECORD))
		max = 0;
	spin_unlock_bh(&x->lock);
	return window ? min(max, window - 1) : max;
}

static void mark_bitmap(struct xfrm_state *x, u32 first, u32 last)
	__must_hold(&x->lock)
{
	u32 shift = last - x->replay.seq, n = last - first + 1;
	u32 bitmap = shift < 32 ? x->replay.bitmap << shift : 0;

	x->replay.bitmap = bitmap | (n < 32 ? BIT(n) - 1 : U32_MAX);
	x->replay.seq = last;
}

/* XFRM's window is a ring in which a number has the bit after its predecessor's,
 * and the highest one that which XFRM reckons from: so from there, backwards. The
 * bits between the highest number before and @first are cleared.
 */
static void mark_ring(struct xfrm_replay_state_esn *ring, u32 first, u32 last)
{
	u32 size = ring->replay_window, bit = (last - 1) % size;
	/* What lies further back is out of the window. */
	u32 new = min(last - ring->seq, size), n = last - first + 1;

	for (; new; new--) {
		u32 mask = BIT(bit % 32);

		if (n) {
			ring->bmp[bit / 32] |= mask;
			n--;
		} else {
			ring->bmp[bit / 32] &= ~mask;
		}
		bit = (bit ?: size) - 1;
	}
	ring->seq = last;
}

/**
 * espintcp_seq_mark - records that did not pass through XFRM were received
 * @x: the SA
 * @seq: number of the record before them, which XFRM has yet to mark
 * @n: how many follow it, no more than espintcp_seq_run_max() said, and none
 *	of which begins another 2^32
 * @octets: of their headers, which XFRM does not get to count
 *
 * Context: softirq or BH disabled; takes the SA's lock.
 * Return: false when another CPU has received a later one meanwhile; nothing
 *	was marked.
 */
bool espintcp_seq_mark(struct xfrm_state *x, u64 seq, unsigned int n,
		       unsigned int octets)
{
	unsigned int window;
	bool newest;

	spin_lock_bh(&x->lock);
	window = window_size(x);
	newest = !window || seq > espintcp_seq_top(x);
	if (newest) {
		if (window && x->repl_mode == XFRM_REPLAY_MODE_LEGACY)
			mark_bitmap(x, seq + 1, seq + n);
		else if (window)
			mark_ring(x->replay_esn, seq + 1, seq + n);
		/* XFRM, which does this as well, finds @seq below the top. */
		if (window && x->repl_mode == XFRM_REPLAY_MODE_ESN)
			x->replay_esn->seq_hi = (seq + n) >> 32;
		sa_count(x, n, octets);
	}
	spin_unlock_bh(&x->lock);
	return newest;
}
