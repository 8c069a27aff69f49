// SPDX-License-Identifier: GPL-2.0
/*
 * How long inner packets wait, and what is done about it.
 *
 * Two queues make an inner packet wait: ours with TCP's unsent octets, and the
 * one the outer connection builds up in the network, which it fills until
 * something is lost. Whoever sends through the tunnel sees neither losses nor
 * marks: TCP repairs the first and carries the second no further. So that the
 * inner senders do not fill both queues, they get their signals here, in the
 * manner of CoDel (RFC 8289): when the wait was too long for an interval, one
 * packet is marked or, where it cannot be, dropped; then more of them, sooner
 * and sooner, until the wait is short again.
 *
 * The wait in the network is how much longer a round trip takes than the
 * shortest one did, unless that is no news of this path: after a pause it begins
 * anew, and when half of what was in flight takes as long as all of it, the path
 * is another or the queue is someone else's, and this is the base from then on.
 */
#include <linux/jiffies.h>
#include <linux/math64.h>
#include <net/inet_ecn.h>
#include <net/tcp.h>

#include "espintcp.h"

/* A wait that is too long, us, on a short path, and for how long it may be,
 * jiffies.
 */
#define ESPINTCP_AQM_TARGET	(5 * USEC_PER_MSEC)
#define ESPINTCP_AQM_INTERVAL	(HZ / 10)
/* From so many signals on the next comes a jiffy later. */
#define ESPINTCP_AQM_COUNT_MAX	(ESPINTCP_AQM_INTERVAL * ESPINTCP_AQM_INTERVAL)
/* Smaller packets, ACKs and the like, are left alone, octets. */
#define ESPINTCP_AQM_SMALL	256
/* A wait for fewer octets than this is none. */
#define ESPINTCP_AQM_ROOM_MIN	4096
/* Fewer segments in flight than this are few. */
#define ESPINTCP_AQM_FLIGHT_MIN	10

/* What TCP should have unsent to be busy until the next ACK, us and octets. */
#define ESPINTCP_AQM_UNSENT	(2 * USEC_PER_MSEC)
#define ESPINTCP_AQM_UNSENT_MIN	16384
#define ESPINTCP_AQM_UNSENT_MAX	131072
/* The most that waits in our queue, us. */
#define ESPINTCP_AQM_LIMIT	(100 * USEC_PER_MSEC)

/* Octets that TCP sends in @us. */
static u64 aqm_octets(const struct tcp_sock *tp, u32 us)
{
	u32 srtt = max(tp->srtt_us >> 3, 1U);

	return div_u64((u64)tcp_snd_cwnd(tp) * tp->mss_cache * us, srtt);
}

/* TCP's last round trip is now the shortest. */
static void aqm_rebase(struct espintcp_aqm *aqm, const struct tcp_sock *tp)
{
	aqm->base = tp->rack.rtt_us;
	aqm->test.state = ESPINTCP_AQM_NO_TEST;
}

/* After as long a pause TCP itself takes what it knew of the path for stale. */
static bool aqm_paused(const struct espintcp_conn *conn)
{
	return time_after(jiffies, conn->txq.aqm.updated +
				   inet_csk(conn->sk)->icsk_rto);
}

/* A wait that is too long, us. A signal takes three tenths off the window of an
 * inner CUBIC: unless half a round trip's worth was waiting, the path runs dry.
 */
static u32 aqm_target(const struct espintcp_aqm *aqm)
{
	return max_t(u32, aqm->base / 2, ESPINTCP_AQM_TARGET);
}

/* Senders are told to slow down for @wait us in the network. Once there is half
 * as much in flight, and a round trip later, it must be shorter: if not by a
 * quarter, it is not we who make it.
 */
static void aqm_test(struct espintcp_aqm *aqm, const struct tcp_sock *tp,
		     u32 wait)
{
	struct espintcp_aqm_test *test = &aqm->test;
	u32 flight = tcp_packets_in_flight(tp);

	switch (test->state) {
	case ESPINTCP_AQM_NO_TEST:
		if (!READ_ONCE(aqm->signalling) || wait < aqm_target(aqm))
			break;
		test->flight = flight;
		test->wait = wait;
		test->state = ESPINTCP_AQM_SIGNALS_GO_OUT;
		break;
	case ESPINTCP_AQM_SIGNALS_GO_OUT:
		if (flight > test->flight / 2)
			break;
		test->end = jiffies + usecs_to_jiffies(tp->rack.rtt_us) + 1;
		test->state = ESPINTCP_AQM_SENDERS_SLOWED;
		break;
	case ESPINTCP_AQM_SENDERS_SLOWED:
		if (time_before_eq(jiffies, test->end))
			break;
		test->state = ESPINTCP_AQM_NO_TEST;
		if (wait > test->wait - test->wait / 4)
			aqm_rebase(aqm, tp);
		break;
	}
}

/* A segment was acknowledged since the last time: see how long it took. */
static void aqm_measure(struct espintcp_aqm *aqm, const struct tcp_sock *tp)
{
	u32 rtt = tp->rack.rtt_us;

	if (!aqm->base || rtt < aqm->base)
		aqm_rebase(aqm, tp);
	aqm_test(aqm, tp, rtt - aqm->base);
	/* With few in flight a long round trip tells of a late ACK. */
	if (tcp_packets_in_flight(tp) < ESPINTCP_AQM_FLIGHT_MIN)
		aqm->wait = 0;
	else
		aqm->wait = rtt - aqm->base;
}

/* What may wait here besides what waits in the network, octets. */
static u64 aqm_room(const struct espintcp_aqm *aqm, const struct tcp_sock *tp)
{
	u32 target = aqm_target(aqm);

	if (aqm->wait >= target)
		return 0;
	/* The rate is still unknown, and doubles with each round trip. */
	if (tcp_in_slow_start(tp))
		return INT_MAX;
	return max_t(u64, aqm_octets(tp, target - aqm->wait),
		     ESPINTCP_AQM_ROOM_MIN);
}

/**
 * espintcp_aqm_update - see how fast TCP sends
 * @conn: the connection
 *
 * Context: process or softirq, socket lock held.
 */
void espintcp_aqm_update(struct espintcp_conn *conn)
{
	const struct tcp_sock *tp = tcp_sk(conn->sk);
	struct espintcp_aqm *aqm = &conn->txq.aqm;

	if (aqm_paused(conn)) {
		aqm->base = 0;
		aqm->wait = 0;
		aqm->delivered = tp->delivered;
		aqm->test.state = ESPINTCP_AQM_NO_TEST;
	} else if (aqm->delivered != tp->delivered) {
		aqm->delivered = tp->delivered;
		aqm_measure(aqm, tp);
	}
	WRITE_ONCE(aqm->room, min_t(u64, aqm_room(aqm, tp), INT_MAX));
	WRITE_ONCE(aqm->updated, jiffies);
	aqm->unsent_max = clamp_t(u64, aqm_octets(tp, ESPINTCP_AQM_UNSENT),
				  ESPINTCP_AQM_UNSENT_MIN,
				  ESPINTCP_AQM_UNSENT_MAX);
}

/**
 * espintcp_aqm_limit - what the ESP queue may hold
 * @conn: the connection
 *
 * Context: process or softirq, socket lock held.
 * Return: octets.
 */
unsigned int espintcp_aqm_limit(struct espintcp_conn *conn)
{
	return min_t(u64, aqm_octets(tcp_sk(conn->sk), ESPINTCP_AQM_LIMIT),
		     READ_ONCE(conn->sk->sk_sndbuf));
}

/* The next signal comes sooner the more there were: RFC 8289 section 3.3. Not at
 * once: the pause is one jiffy at least.
 */
static unsigned long aqm_pause(unsigned int count)
{
	return ESPINTCP_AQM_INTERVAL * 16 / int_sqrt(256UL * count);
}

/* After a time without packets that can be chosen signals do not catch up. */
static void aqm_go_on(struct espintcp_aqm *aqm)
{
	if (aqm->count < ESPINTCP_AQM_COUNT_MAX)
		aqm->count++;
	aqm->next += aqm_pause(aqm->count);
	if (time_before(aqm->next, jiffies))
		aqm->next = jiffies + aqm_pause(aqm->count);
}

static void aqm_begin(struct espintcp_aqm *aqm)
{
	/* Soon after the last time: go on where that ended. */
	if (aqm->count > 2 && time_before(jiffies, aqm->next + 8 *
					  ESPINTCP_AQM_INTERVAL))
		aqm->count -= 2;
	else
		aqm->count = 1;
	WRITE_ONCE(aqm->signalling, true);
	aqm->next = jiffies + aqm_pause(aqm->count);
}

/* Is there no wait that is too long? What TCP knew when it last had something to
 * send tells nothing after a pause: with the queue empty too, begin anew.
 */
static bool aqm_is_short(const struct espintcp_aqm *aqm, unsigned int waiting)
{
	if (waiting < READ_ONCE(aqm->room))
		return true;
	return !waiting && time_after(jiffies, READ_ONCE(aqm->updated) +
					       ESPINTCP_AQM_INTERVAL);
}

/**
 * espintcp_aqm_signal - should the sender of this packet be told to slow down?
 * @aqm: the connection's
 * @len: of the packet, octets
 * @waiting: octets in the queue
 *
 * Context: softirq or BH disabled, espintcp_txq.lock held.
 * Return: true to mark or drop the packet.
 */
bool espintcp_aqm_signal(struct espintcp_aqm *aqm, unsigned int len,
			 unsigned int waiting)
{
	/* No room at all when the wait in the network alone is too long. */
	if (likely(aqm_is_short(aqm, waiting))) {
		aqm->above = false;
		WRITE_ONCE(aqm->signalling, false);
		return false;
	}
	if (!aqm->above) {
		aqm->above = true;
		aqm->since = jiffies;
		return false;
	}
	if (len < ESPINTCP_AQM_SMALL)
		return false;

	if (!aqm->signalling) {
		if (time_before(jiffies, aqm->since + ESPINTCP_AQM_INTERVAL))
			return false;
		aqm_begin(aqm);
		return true;
	}
	if (time_before(jiffies, aqm->next))
		return false;
	aqm_go_on(aqm);
	return true;
}

/**
 * espintcp_aqm_is_ect - does the sender of a packet know marks?
 * @packet: its IP header
 *
 * Context: any.
 */
bool espintcp_aqm_is_ect(const u8 *packet)
{
	u8 tos = packet[1];

	/* The last two bits of the traffic class. */
	if (*packet >> 4 == 6)
		tos = packet[1] >> 4;
	return !INET_ECN_is_not_ect(tos);
}

/**
 * espintcp_aqm_markable - can a packet be marked with ECN?
 * @x: the SA
 * @skb: the packet, as XFRM hands it to the ESP type
 *
 * In transport mode the IP header is the outer connection's.
 *
 * Context: any.
 */
bool espintcp_aqm_markable(const struct xfrm_state *x,
			   const struct sk_buff *skb)
{
	u8 protocol = *skb_mac_header(skb);

	return x->props.mode == XFRM_MODE_TUNNEL &&
	       (protocol == IPPROTO_IPIP || protocol == IPPROTO_IPV6) &&
	       skb_headlen(skb) >= sizeof(struct iphdr) &&
	       espintcp_aqm_is_ect(skb->data);
}

/**
 * espintcp_aqm_mark - mark a packet: congestion experienced
 * @packet: its IP header, in the frame: the packet's own memory may be shared
 *
 * Context: any.
 */
void espintcp_aqm_mark(u8 *packet)
{
	struct iphdr iph;

	if (*packet >> 4 == 6) {
		/* The last two bits of the traffic class. */
		packet[1] |= INET_ECN_CE << 4;
		return;
	}
	memcpy(&iph, packet, sizeof(iph));
	IP_ECN_set_ce(&iph);
	memcpy(packet, &iph, sizeof(iph));
}
