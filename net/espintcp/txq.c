// SPDX-License-Identifier: GPL-2.0
/*
 * The transmit queue: frames -> queue -> socket.
 *
 * One per connection, shared by IKE and every SA the connection carries, so
 * that a frame which has begun is always finished before the next one. An ESP
 * frame takes its place, and for good its sequence number, before it is
 * encrypted: frames of an SA leave in sequence however many CPUs encrypt, and
 * a receiver with a replay window of 1 (RFC 9329 section 7.4) drops none.
 *
 * Most of the backlog stays here, where the inner senders are charged for it
 * and IKE can overtake it, and not in TCP's write queue.
 */
#include <linux/bvec.h>
#include <linux/mm.h>
#include <net/tcp.h>

#include "espintcp.h"
#include "trace.h"

/* Octets handed to TCP in one go: what it can put into one large segment. */
#define ESPINTCP_TX_BATCH	65536
/* Discontiguous pieces of memory in such a batch. */
#define ESPINTCP_TX_PIECES	48
/* A small SO_SNDBUF must still hold the largest frame of each kind. */
#define ESPINTCP_TX_LIMIT_MIN	(2 * ESPINTCP_MAX_RECORD)
/* How long a large frame waits for others behind it, ns. */
#define ESPINTCP_TX_BATCH_NS	(200 * NSEC_PER_USEC)
/* Smaller ones do not wait, octets. */
#define ESPINTCP_TX_LARGE	1024
/* Frames of ESP, and of IKE, that wait at most: small ones take more memory than
 * they have octets.
 */
#define ESPINTCP_TX_ESP_FRAMES	4096
#define ESPINTCP_TX_IKE_FRAMES	1024
/* When memory ran out and no ACK will come to wake us. */
#define ESPINTCP_TX_RETRY	(HZ / 50 + 1)

/**
 * espintcp_frame_alloc - memory for a frame
 * @conn: the connection it is for
 * @skb: will stand for the frame, of one record; its cb is overwritten
 * @len: octets, length field included
 * @gfp: %GFP_KERNEL or %GFP_ATOMIC
 *
 * Context: as @gfp says, no locks needed.
 * Return: 0 or -ENOMEM.
 */
int espintcp_frame_alloc(const struct espintcp_conn *conn, struct sk_buff *skb,
			 unsigned int len, gfp_t gfp)
{
	struct espintcp_frame *frame = espintcp_frame(skb);
	/* One that waits long would keep a page from being freed that it shares. */
	bool alone = len > PAGE_SIZE || (len < ESPINTCP_TX_LARGE &&
					 READ_ONCE(conn->txq.stalled));

	memset(frame, 0, sizeof(*frame));
	frame->len = len;
	frame->records = 1;
	frame->pending = 1;
	if (alone || !espintcp_frag_get(len, &frame->page, &frame->offset))
		frame->page = alloc_pages(gfp | __GFP_COMP | __GFP_NOWARN,
					  get_order(len));
	if (!frame->page)
		return -ENOMEM;
	espintcp_made(ESPINTCP_OBJECT_FRAME);
	return 0;
}

/**
 * espintcp_frame_alloc_some - memory for a frame of several records
 * @skb: will stand for the frame; its cb is overwritten
 * @record_len: octets of each, length field included
 * @n: how many there are
 *
 * Context: any but hard interrupts.
 * Return: how many of them the frame has room for, at least two if there are as
 *	many; 0 without memory.
 */
unsigned int espintcp_frame_alloc_some(struct sk_buff *skb,
				       unsigned int record_len, unsigned int n)
{
	struct espintcp_frame *frame = espintcp_frame(skb);
	unsigned int len, rest;

	memset(frame, 0, sizeof(*frame));
	len = espintcp_frag_get_some(min(n, 2U) * record_len, n * record_len,
				     &frame->page, &frame->offset);
	if (!len)
		return 0;
	rest = len % record_len;
	espintcp_frag_unget(frame->page, frame->offset + len, rest);
	frame->len = len - rest;
	frame->records = frame->len / record_len;
	frame->pending = frame->records;
	espintcp_made(ESPINTCP_OBJECT_FRAME);
	return frame->records;
}

/**
 * espintcp_frame_free - give the frame's memory back
 * @skb: stands for the frame, on no queue; it stays the caller's
 *
 * Context: any.
 */
void espintcp_frame_free(struct sk_buff *skb)
{
	espintcp_gone(ESPINTCP_OBJECT_FRAME);
	put_page(espintcp_frame(skb)->page);
}

/* TCP has it. */
static void frame_sent(struct sk_buff *skb)
{
	espintcp_frame_free(skb);
	consume_skb(skb);
}

static void frame_drop(struct sk_buff *skb)
{
	espintcp_frame_free(skb);
	espintcp_drop_skb(skb, ESPINTCP_DROP_OUT_CLOSED);
}

/**
 * espintcp_txq_init - an empty queue
 * @txq: the queue
 */
void espintcp_txq_init(struct espintcp_txq *txq)
{
	spin_lock_init(&txq->lock);
	__skb_queue_head_init(&txq->ike);
	__skb_queue_head_init(&txq->esp);
	__skb_queue_head_init(&txq->wire);
	txq->limit = ESPINTCP_TX_LIMIT_MIN;
	txq->esp_limit = ESPINTCP_TX_LIMIT_MIN;
	txq->aqm.room = ESPINTCP_TX_LIMIT_MIN;
}

/* Accounts for a frame that joins (@sign 1) or leaves (-1) the queue. */
static void txq_account(struct espintcp_txq *txq, struct sk_buff *skb, int sign)
	__must_hold(&txq->lock)
{
	struct espintcp_frame *frame = espintcp_frame(skb);
	unsigned int *octets = frame->ike ? &txq->ike_octets : &txq->esp_octets;

	lockdep_assert_held(&txq->lock);
	/* Looked at without the lock, see espintcp_txq_ike_room(). */
	WRITE_ONCE(*octets, *octets + sign * (int)frame->len);
}

/**
 * espintcp_txq_ike_room - would an IKE message be taken?
 * @conn: the connection
 *
 * Whatever its size, as long as those before it stay below the limits; ESP
 * waiting in the queue never keeps IKE out.
 *
 * Context: any.
 */
bool espintcp_txq_ike_room(struct espintcp_conn *conn)
{
	struct espintcp_txq *txq = &conn->txq;

	return READ_ONCE(txq->ike_octets) < READ_ONCE(txq->limit) &&
	       skb_queue_len_lockless(&txq->ike) < ESPINTCP_TX_IKE_FRAMES;
}

/**
 * espintcp_txq_enqueue_ike - queue an IKE frame
 * @conn: the connection
 * @skb: the frame, complete; consumed on success
 *
 * Context: process, socket lock held. The caller pushes.
 * Return: 0, -EPIPE when nothing is sent any more.
 */
int espintcp_txq_enqueue_ike(struct espintcp_conn *conn, struct sk_buff *skb)
{
	struct espintcp_txq *txq = &conn->txq;
	int err = 0;

	sock_owned_by_me(conn->sk);

	espintcp_frame(skb)->ike = true;
	espintcp_frame(skb)->pending = 0;

	spin_lock_bh(&txq->lock);
	if (txq->shut) {
		err = -EPIPE;
	} else {
		__skb_queue_tail(&txq->ike, skb);
		txq_account(txq, skb, 1);
		trace_espintcp_queued(conn, ESPINTCP_IKE,
				      espintcp_frame(skb)->len);
	}
	spin_unlock_bh(&txq->lock);
	return err;
}

/* Has a packet's sender told to slow down if that is due. */
static bool txq_signal(struct espintcp_txq *txq, const struct xfrm_state *x,
		       struct sk_buff *skb)
	__must_hold(&txq->lock)
{
	if (likely(!espintcp_aqm_signal(&txq->aqm, skb->len, txq->esp_octets)))
		return true;
	espintcp_frame(skb)->mark = espintcp_aqm_markable(x, skb);
	return espintcp_frame(skb)->mark;
}

static bool txq_esp_room(const struct espintcp_txq *txq)
	__must_hold(&txq->lock)
{
	lockdep_assert_held(&txq->lock);
	return txq->esp_octets < READ_ONCE(txq->esp_limit) &&
	       skb_queue_len(&txq->esp) < ESPINTCP_TX_ESP_FRAMES;
}

static void txq_add_esp(struct espintcp_conn *conn, struct sk_buff *skb)
	__must_hold(&conn->txq.lock)
{
	/* Not shut: the socket still has its own reference. */
	refcount_inc(&conn->refcnt);
	__skb_queue_tail(&conn->txq.esp, skb);
	txq_account(&conn->txq, skb, 1);
	trace_espintcp_queued(conn, ESPINTCP_ESP, espintcp_frame(skb)->len);
}

static int txq_append_esp(struct espintcp_conn *conn, struct xfrm_state *x,
			  struct sk_buff *skb)
{
	struct espintcp_txq *txq = &conn->txq;
	int err = 0;

	spin_lock(&txq->lock);
	if (txq->shut)
		err = -ENOTCONN;
	else if (!txq_esp_room(txq))
		err = NET_XMIT_DROP;
	else if (!txq_signal(txq, x, skb))
		err = -ENOBUFS;
	else
		txq_add_esp(conn, skb);
	spin_unlock(&txq->lock);
	return err;
}

/**
 * espintcp_txq_reserve_esp - keep a place for an ESP frame
 * @conn: the connection
 * @x: the SA
 * @skb: the inner packet, its frame allocated; on the queue on success, but
 *	the caller's to encrypt until espintcp_txq_complete_esp(), and @conn
 *	has a reference as long
 * @seq: the sequence number XFRM gave; may be replaced by a later one
 *
 * Context: process or softirq, under RCU; takes the SA's lock.
 * Return: 0; %NET_XMIT_DROP when the queue is full, which tells a local
 *	sender of congestion; -ENOBUFS when the packet is to be lost for the
 *	sender to slow down; -ENOTCONN when nothing is sent any more;
 *	-EOVERFLOW when the SA has no sequence numbers left.
 */
int espintcp_txq_reserve_esp(struct espintcp_conn *conn, struct xfrm_state *x,
			     struct sk_buff *skb, u64 *seq)
{
	int err;

	spin_lock_bh(&x->lock);
	err = espintcp_seq_order(x, seq);
	if (!err)
		err = txq_append_esp(conn, x, skb);
	spin_unlock_bh(&x->lock);
	return err;
}

/* The signal that is due: a mark on the first packet, or its loss. The first
 * frame has more than that one.
 */
static void txq_signal_gso(struct espintcp_txq *txq,
			   struct espintcp_gso_frames *gso)
	__must_hold(&txq->lock)
{
	struct espintcp_frame *first = espintcp_frame(gso->frame[0]);

	if (likely(!espintcp_aqm_signal(&txq->aqm, gso->record_len,
					txq->esp_octets)))
		return;
	if (gso->ect) {
		first->mark = true;
		return;
	}
	gso->lost = true;
	gso->records--;
	first->records--;
	first->pending--;
	first->len -= gso->record_len;
}

static bool txq_append_gso(struct espintcp_conn *conn, struct xfrm_state *x,
			   struct espintcp_gso_frames *gso)
	__must_hold(&x->lock)
{
	struct espintcp_txq *txq = &conn->txq;
	unsigned int i;
	bool taken;

	spin_lock(&txq->lock);
	taken = !txq->shut && txq_esp_room(txq) &&
		espintcp_seq_take(x, gso->records, gso->octets, &gso->seq);
	if (taken) {
		txq_signal_gso(txq, gso);
		for (i = 0; i < gso->n; i++)
			txq_add_esp(conn, gso->frame[i]);
	}
	spin_unlock(&txq->lock);
	return taken;
}

/**
 * espintcp_txq_reserve_gso - keep places for the frames of a large segment
 * @conn: the connection
 * @x: the SA
 * @gso: the frames, allocated; on success they are on the queue, one after the
 *	other, as after espintcp_txq_reserve_esp()
 *
 * Context: process or softirq, under RCU; takes the SA's lock.
 * Return: false when the queue or the SA does not take all of them; nothing has
 *	changed then.
 */
bool espintcp_txq_reserve_gso(struct espintcp_conn *conn, struct xfrm_state *x,
			      struct espintcp_gso_frames *gso)
{
	bool taken;

	spin_lock_bh(&x->lock);
	taken = txq_append_gso(conn, x, gso);
	spin_unlock_bh(&x->lock);
	return taken;
}

static bool txq_has_ready(const struct espintcp_txq *txq)
	__must_hold(&txq->lock)
{
	struct sk_buff *skb = skb_peek(&txq->esp);

	return !skb_queue_empty(&txq->ike) ||
	       (skb && !espintcp_frame(skb)->pending);
}

/* Does a burst of large frames go on? Its first frame is not made to wait. */
static bool txq_in_burst(struct espintcp_txq *txq, unsigned int len)
	__must_hold(&txq->lock)
{
	u64 now = ktime_get_ns();

	if (len >= ESPINTCP_TX_LARGE &&
	    now - txq->burst < ESPINTCP_TX_BATCH_NS)
		return true;
	txq->burst = now;
	return false;
}

/* A frame may go. TCP sends 64 KiB for little more than it costs to send one
 * frame, and large frames come in bursts: wait for the end of the burst. In
 * softirq that is when the tasklet's turn comes. A process gives no sign, so
 * that of its bursts a full batch is waited for, or a moment. Not of those that
 * an inner connection has made a large segment of: it is a burst. A timer that
 * has expired, even if it is not done yet, may have been too early for this frame.
 */
static void txq_schedule(struct espintcp_conn *conn,
			 const struct espintcp_frame *frame)
	__must_hold(&conn->txq.lock)
{
	struct espintcp_txq *txq = &conn->txq;

	if (in_serving_softirq() || txq->esp_octets >= ESPINTCP_TX_BATCH ||
	    frame->records > 1 || !txq_in_burst(txq, frame->len))
		tasklet_schedule(&conn->tasklet);
	else if (!hrtimer_is_queued(&conn->batch))
		hrtimer_start(&conn->batch, ESPINTCP_TX_BATCH_NS,
			      HRTIMER_MODE_REL);
}

/* The last record of a frame is encrypted, or could not be. Returns whether
 * the frame stays on the queue.
 */
static bool txq_settle(struct espintcp_conn *conn, struct sk_buff *skb)
	__must_hold(&conn->txq.lock)
{
	struct espintcp_frame *frame = espintcp_frame(skb);
	struct espintcp_txq *txq = &conn->txq;
	bool stays = !frame->failed && !txq->shut;

	if (stays) {
		/* It may wait long: pin neither routes nor conntracks, nor the
		 * SA it came in by.
		 */
		skb_dst_drop(skb);
		nf_reset_ct(skb);
		secpath_reset(skb);
	} else {
		__skb_unlink(skb, &txq->esp);
		txq_account(txq, skb, -1);
	}
	/* Under the lock: after @shut nothing may schedule the tasklet. */
	if (!txq->shut && txq_has_ready(txq))
		txq_schedule(conn, frame);
	return stays;
}

/**
 * espintcp_txq_complete_esp - encryption ended
 * @conn: the connection
 * @skb: on the queue since its place was kept; with the frame's last record
 *	it is the queue's, and may be gone already
 * @n: of its records, with the same result; at least 1
 * @err: 0, or why they cannot be sent, nor the rest of the frame
 *
 * The frame's last record also gives up the reference that came with the place;
 * under RCU, or with another one, the caller may still use @conn.
 *
 * Context: process or softirq.
 * Return: false; true when that was the last one and the frame has failed: it
 *	is off the queue, and @skb, without its memory, the caller's again.
 */
bool espintcp_txq_complete_esp(struct espintcp_conn *conn, struct sk_buff *skb,
			       unsigned int n, int err)
{
	struct espintcp_frame *frame = espintcp_frame(skb);
	struct espintcp_txq *txq = &conn->txq;
	bool last, stays = false, failed;

	spin_lock_bh(&txq->lock);
	frame->pending -= n;
	if (err)
		frame->failed = true;
	failed = frame->failed;
	last = !frame->pending;
	if (last)
		stays = txq_settle(conn, skb);
	spin_unlock_bh(&txq->lock);
	if (!last)
		return false;

	if (failed) {
		espintcp_frame_free(skb);
	} else if (!stays) {
		espintcp_drop_n(conn->key.net, conn, ESPINTCP_DROP_OUT_CLOSED,
				frame->records);
		frame_drop(skb);
	}
	espintcp_conn_put(conn);
	return failed;
}

static unsigned int txq_wire_octets(const struct espintcp_txq *txq)
{
	unsigned int octets = 0;
	struct sk_buff *skb;

	skb_queue_walk(&txq->wire, skb)
		octets += espintcp_frame(skb)->len;
	return octets - txq->sent;
}

/* Moves the next frames from the queues to @wire, IKE first, until there are
 * @max octets. Returns whether more is ready after those.
 */
static bool txq_fill_wire(struct espintcp_txq *txq, unsigned int max)
{
	unsigned int octets = txq_wire_octets(txq);
	struct sk_buff *skb;
	bool more;

	spin_lock_bh(&txq->lock);
	while (octets < max) {
		skb = __skb_dequeue(&txq->ike);
		if (!skb) {
			skb = skb_peek(&txq->esp);
			if (!skb || espintcp_frame(skb)->pending)
				break;
			__skb_unlink(skb, &txq->esp);
		}
		__skb_queue_tail(&txq->wire, skb);
		octets += espintcp_frame(skb)->len;
	}
	more = octets > max || txq_has_ready(txq);
	spin_unlock_bh(&txq->lock);
	return more;
}

/* Describes the first @max octets of @wire to TCP, contiguous frames as one
 * piece.
 */
static unsigned int txq_wire_pieces(struct espintcp_txq *txq, unsigned int max,
				    struct bio_vec *bvec, size_t *octets)
{
	unsigned int n = 0, skip = txq->sent;
	struct sk_buff *skb;

	*octets = 0;
	skb_queue_walk(&txq->wire, skb) {
		struct espintcp_frame *frame = espintcp_frame(skb);
		unsigned int offset = frame->offset + skip;
		unsigned int len = min_t(unsigned int, frame->len - skip,
					 max - *octets);
		struct bio_vec *last = n ? &bvec[n - 1] : NULL;

		if (last && last->bv_page == frame->page &&
		    last->bv_offset + last->bv_len == offset) {
			last->bv_len += len;
		} else if (n < ESPINTCP_TX_PIECES) {
			bvec[n].bv_page = frame->page;
			bvec[n].bv_offset = offset;
			bvec[n++].bv_len = len;
		} else {
			break;
		}
		*octets += len;
		skip = 0;
		if (*octets == max)
			break;
	}
	return n;
}

static void txq_count_sent(struct espintcp_conn *conn,
			   const struct espintcp_frame *frame)
{
	struct espintcp_conn_stats *stats = &conn->stats;

	trace_espintcp_sent(conn, frame->ike ? ESPINTCP_IKE : ESPINTCP_ESP,
			    frame->len);
	espintcp_traffic_add(frame->ike ? &stats->out_ike : &stats->out_esp,
			     frame->records, frame->len);
}

/* TCP has taken @octets of @wire: the frames it has whole are done. */
static void txq_wire_advance(struct espintcp_conn *conn, unsigned int octets)
{
	struct espintcp_txq *txq = &conn->txq;
	unsigned int ike = 0, esp = 0;
	struct sk_buff_head done;
	struct sk_buff *skb;

	__skb_queue_head_init(&done);
	txq->sent += octets;
	while ((skb = skb_peek(&txq->wire)) &&
	       txq->sent >= espintcp_frame(skb)->len) {
		txq->sent -= espintcp_frame(skb)->len;
		__skb_unlink(skb, &txq->wire);
		__skb_queue_tail(&done, skb);
	}
	if (skb_queue_empty(&done))
		return;
	if (unlikely(txq->stalled))
		WRITE_ONCE(txq->stalled, false);

	spin_lock_bh(&txq->lock);
	skb_queue_walk(&done, skb) {
		txq_account(txq, skb, -1);
		if (espintcp_frame(skb)->ike)
			ike++;
		else
			esp += espintcp_frame(skb)->records;
	}
	spin_unlock_bh(&txq->lock);

	while ((skb = __skb_dequeue(&done))) {
		txq_count_sent(conn, espintcp_frame(skb));
		frame_sent(skb);
	}

	espintcp_count_n(conn->key.net, ESPINTCP_CNT_OUT_IKE, ike);
	espintcp_count_n(conn->key.net, ESPINTCP_CNT_OUT_ESP, esp);
	if (ike)
		espintcp_ike_wake_writer(conn);
}

/* For good. */
static bool tcp_send_ended(const struct sock *sk)
{
	return sk->sk_shutdown & SEND_SHUTDOWN ||
	       !((1 << sk->sk_state) & (TCPF_ESTABLISHED | TCPF_CLOSE_WAIT));
}

/* Octets TCP is to be given now: the backlog stays here. */
static unsigned int txq_tcp_room(struct espintcp_conn *conn)
{
	const struct tcp_sock *tp = tcp_sk(conn->sk);
	unsigned int unsent = tp->write_seq - tp->snd_nxt;

	if (unsent >= conn->txq.aqm.unsent_max)
		return 0;
	return min_t(unsigned int, conn->txq.aqm.unsent_max - unsent,
		     ESPINTCP_TX_BATCH);
}

/* Hands a batch of @max octets to TCP. Returns octets taken, 0 with nothing to
 * send.
 */
static int txq_send_batch(struct espintcp_conn *conn, unsigned int max)
{
	struct bio_vec bvec[ESPINTCP_TX_PIECES];
	struct espintcp_txq *txq = &conn->txq;
	unsigned int n;
	size_t octets;
	bool more;

	more = txq_fill_wire(txq, max);
	if (skb_queue_empty(&txq->wire))
		return 0;

	n = txq_wire_pieces(txq, max, bvec, &octets);
	/* A peer on this machine may read them in place: nobody writes to a frame
	 * that is complete.
	 */
	return compat_tcp_send_pages(conn->sk, bvec, n, octets,
				     MSG_DONTWAIT | MSG_NOSIGNAL |
				     MSG_NO_SHARED_FRAGS |
				     (more ? MSG_MORE : 0));
}

/* TCP takes no more for now: see to it that someone comes back. */
static void txq_wait_for_tcp(struct espintcp_conn *conn)
{
	struct sock *sk = conn->sk;

	/* Every ACK now calls sk_write_space(). */
	set_bit(SOCK_NOSPACE, &sk->sk_socket->flags);
	if (tcp_rtx_and_write_queues_empty(sk))
		schedule_delayed_work(&conn->retry, ESPINTCP_TX_RETRY);
	schedule_delayed_work(&conn->stall, ESPINTCP_TX_STALL);
}

/* An ICMP error, if the daemon asked for those, is for the daemon to read, and no
 * end: TCP would hand it to whoever sends next.
 */
static void txq_wait_for_daemon(struct espintcp_conn *conn)
{
	schedule_delayed_work(&conn->retry, ESPINTCP_TX_STALL);
	schedule_delayed_work(&conn->stall, ESPINTCP_TX_STALL);
}

/**
 * espintcp_txq_check_stall - let senders go that a stuck connection holds
 * @conn: the connection
 *
 * Every %ESPINTCP_TX_STALL while frames wait for TCP. When the peer has
 * acknowledged nothing since the last time, those charged for the backlog wait
 * for a path that may never come back, and could not even use another one: a
 * socket with its send buffer full of frames here sends nothing on the new
 * connection, and TCP repeats nothing that still waits in its own host. The
 * frames stay, within the queue's limit, and leave when the path is back.
 *
 * Context: BH disabled, socket spinlock held and no process owns the socket.
 */
void espintcp_txq_check_stall(struct espintcp_conn *conn)
{
	u64 acked = tcp_sk(conn->sk)->bytes_acked;
	struct espintcp_txq *txq = &conn->txq;
	bool stuck = acked == txq->acked;
	struct sk_buff *skb;

	lockdep_assert(lockdep_sock_is_held(conn->sk));

	txq->acked = acked;
	WRITE_ONCE(txq->stalled, stuck);
	spin_lock_bh(&txq->lock);
	if (stuck) {
		skb_queue_walk(&txq->wire, skb)
			skb_orphan(skb);
		/* Of the others somebody else writes the packet. */
		skb_queue_walk(&txq->esp, skb)
			if (!espintcp_frame(skb)->pending)
				skb_orphan(skb);
	}
	if (txq->esp_octets)
		schedule_delayed_work(&conn->stall, ESPINTCP_TX_STALL);
	spin_unlock_bh(&txq->lock);
}

static void txq_push(struct espintcp_conn *conn, bool flush)
{
	struct espintcp_txq *txq = &conn->txq;
	struct sock *sk = conn->sk;
	int n;

	lockdep_assert(lockdep_sock_is_held(sk));

	/* TCP may call back from within the send below. */
	if (txq->pushing)
		return;
	txq->pushing = true;
	espintcp_aqm_update(conn);
	WRITE_ONCE(txq->segment, rounddown(READ_ONCE(sk->sk_gso_max_size),
					   tcp_sk(sk)->mss_cache));
	WRITE_ONCE(txq->limit, max_t(unsigned int, READ_ONCE(sk->sk_sndbuf),
				     ESPINTCP_TX_LIMIT_MIN));
	/* Before the end nothing joins. */
	WRITE_ONCE(txq->esp_limit,
		   flush ? 0 : max_t(unsigned int, espintcp_aqm_limit(conn),
				     ESPINTCP_TX_LIMIT_MIN));

	for (;;) {
		unsigned int room = flush ? ESPINTCP_TX_BATCH :
					    txq_tcp_room(conn);

		if (tcp_send_ended(sk)) {
			espintcp_txq_shut(conn);
			break;
		}
		if (READ_ONCE(sk->sk_err)) {
			txq_wait_for_daemon(conn);
			break;
		}
		if (!room) {
			txq_wait_for_tcp(conn);
			break;
		}
		n = txq_send_batch(conn, room);
		if (!n)
			break;
		if (n < 0) {
			txq_wait_for_tcp(conn);
			break;
		}
		txq_wire_advance(conn, n);
	}
	txq->pushing = false;
}

/**
 * espintcp_txq_push - send what TCP takes
 * @conn: the connection
 *
 * Comes back by itself, through sk_write_space() and the tasklet, for what TCP
 * does not take now. On a connection that can send no more, drops everything.
 *
 * Context: process or softirq, socket lock held, never sleeps.
 */
void espintcp_txq_push(struct espintcp_conn *conn)
{
	txq_push(conn, false);
}

/**
 * espintcp_txq_flush - hand everything to TCP whatever its send buffer says
 * @conn: the connection
 *
 * Before a FIN: what send() accepted goes out before it, as on any TCP socket,
 * whether or not the daemon has read an error.
 * The memory is bounded by the queue's own limit. The caller shuts the queue then.
 *
 * Context: process, socket lock held.
 */
void espintcp_txq_flush(struct espintcp_conn *conn)
{
	struct sock *sk = conn->sk;
	u32 lowat = tcp_sk(sk)->notsent_lowat;
	int sndbuf = sk->sk_sndbuf;
	int err = 0;

	sock_owned_by_me(sk);

	/* Of a living connection: recv() and SO_ERROR take it without the lock. */
	if (!tcp_send_ended(sk))
		err = xchg(&sk->sk_err, 0);
	WRITE_ONCE(sk->sk_sndbuf, INT_MAX);
	WRITE_ONCE(tcp_sk(sk)->notsent_lowat, UINT_MAX);
	txq_push(conn, true);
	WRITE_ONCE(tcp_sk(sk)->notsent_lowat, lowat);
	WRITE_ONCE(sk->sk_sndbuf, sndbuf);
	if (err) {
		WRITE_ONCE(sk->sk_err, err);
		/* Whoever waits for it may have looked meanwhile. */
		sk_error_report(sk);
	}
}

/**
 * espintcp_txq_shut - take nothing more and drop what waits
 * @conn: the connection
 *
 * Frames whose encryption still runs stay until it ends.
 *
 * Context: process or softirq, socket lock held.
 */
void espintcp_txq_shut(struct espintcp_conn *conn)
{
	struct espintcp_txq *txq = &conn->txq;
	struct sk_buff *skb, *next;
	struct sk_buff_head drop;
	unsigned int records = 0;

	__skb_queue_head_init(&drop);
	skb_queue_splice_tail_init(&txq->wire, &drop);
	txq->sent = 0;

	spin_lock_bh(&txq->lock);
	WRITE_ONCE(txq->shut, true);
	skb_queue_splice_tail_init(&txq->ike, &drop);
	skb_queue_walk_safe(&txq->esp, skb, next) {
		if (espintcp_frame(skb)->pending)
			continue;
		__skb_unlink(skb, &txq->esp);
		__skb_queue_tail(&drop, skb);
	}
	skb_queue_walk(&drop, skb) {
		txq_account(txq, skb, -1);
		records += espintcp_frame(skb)->records;
	}
	spin_unlock_bh(&txq->lock);

	espintcp_drop_n(conn->key.net, conn, ESPINTCP_DROP_OUT_CLOSED, records);
	while ((skb = __skb_dequeue(&drop)))
		frame_drop(skb);
}

/**
 * espintcp_txq_octets - octets accepted which TCP does not have yet
 * @conn: the connection
 *
 * Context: process, socket lock held.
 */
unsigned int espintcp_txq_octets(struct espintcp_conn *conn)
{
	struct espintcp_txq *txq = &conn->txq;

	return READ_ONCE(txq->ike_octets) + READ_ONCE(txq->esp_octets) -
	       txq->sent;
}
