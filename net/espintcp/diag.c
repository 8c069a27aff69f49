// SPDX-License-Identifier: GPL-2.0
/*
 * What sock_diag tells of a connection; the attributes are in
 * include/uapi/linux/espintcp.h.
 */
#include <linux/jiffies.h>
#include <linux/module.h>
#include <net/netlink.h>

#include "espintcp.h"

static enum espintcp_state diag_state(const struct espintcp_conn *conn)
{
	/* An abort sets it without the socket lock. */
	if (READ_ONCE(conn->rx.stopped))
		return ESPINTCP_STATE_BROKEN;
	if (READ_ONCE(conn->txq.shut))
		return ESPINTCP_STATE_SHUT;
	if (conn->rx.eof)
		return ESPINTCP_STATE_FINISHED;
	return ESPINTCP_STATE_OPEN;
}

static int diag_put_u64(struct sk_buff *skb, int type, u64 value)
{
	return nla_put_u64_64bit(skb, type, value, ESPINTCP_DIAG_PAD);
}

static int diag_put_traffic(struct sk_buff *skb, int type,
			    const struct espintcp_traffic *traffic)
{
	struct nlattr *nest;

	if (!traffic->frames)
		return 0;
	nest = nla_nest_start(skb, type);
	if (!nest ||
	    nla_put_u64_64bit(skb, ESPINTCP_DIAG_COUNT_FRAMES, traffic->frames,
			      ESPINTCP_DIAG_COUNT_PAD) ||
	    nla_put_u64_64bit(skb, ESPINTCP_DIAG_COUNT_OCTETS, traffic->octets,
			      ESPINTCP_DIAG_COUNT_PAD))
		return -EMSGSIZE;
	nla_nest_end(skb, nest);
	return 0;
}

static int diag_put_all_traffic(struct sk_buff *skb,
				const struct espintcp_conn_stats *stats)
{
	return diag_put_traffic(skb, ESPINTCP_DIAG_IN_IKE, &stats->in_ike) ?:
	       diag_put_traffic(skb, ESPINTCP_DIAG_IN_ESP, &stats->in_esp) ?:
	       diag_put_traffic(skb, ESPINTCP_DIAG_IN_KEEPALIVE,
				&stats->in_keepalive) ?:
	       diag_put_traffic(skb, ESPINTCP_DIAG_OUT_IKE, &stats->out_ike) ?:
	       diag_put_traffic(skb, ESPINTCP_DIAG_OUT_ESP, &stats->out_esp);
}

static int diag_put_drops(struct sk_buff *skb,
			  const struct espintcp_conn_stats *stats)
{
	struct nlattr *nest = nla_nest_start(skb, ESPINTCP_DIAG_DROPS);
	unsigned int why, n;

	if (!nest)
		return -EMSGSIZE;
	for (why = 1; why <= ESPINTCP_DROP_MAX; why++) {
		n = atomic_read(&stats->drops[why]);
		if (n && nla_put_u32(skb, why, n))
			return -EMSGSIZE;
	}
	nla_nest_end(skb, nest);
	return 0;
}

static int diag_put_queues(struct sk_buff *skb, struct espintcp_conn *conn)
{
	const struct espintcp_txq *txq = &conn->txq;

	if (nla_put_u32(skb, ESPINTCP_DIAG_IKE_UNREAD,
			skb_queue_len_lockless(&conn->ike_queue)) ||
	    nla_put_u32(skb, ESPINTCP_DIAG_IKE_QUEUED,
			READ_ONCE(txq->ike_octets)) ||
	    nla_put_u32(skb, ESPINTCP_DIAG_ESP_QUEUED,
			READ_ONCE(txq->esp_octets)) ||
	    nla_put_u32(skb, ESPINTCP_DIAG_IKE_LIMIT, READ_ONCE(txq->limit)) ||
	    nla_put_u32(skb, ESPINTCP_DIAG_ESP_LIMIT,
			READ_ONCE(txq->esp_limit)))
		return -EMSGSIZE;
	return 0;
}

static int diag_put_last_valid(struct sk_buff *skb,
			       const struct espintcp_conn_stats *stats)
{
	unsigned long last = READ_ONCE(stats->last_valid);

	if (!last)
		return 0;
	/* Its lowest bit says that it is set: now may be a jiffy before it. */
	return diag_put_u64(skb, ESPINTCP_DIAG_LAST_VALID,
			    time_after(last, jiffies) ? 0 :
			    jiffies_to_msecs(jiffies - last));
}

static int diag_put_conn(struct sk_buff *skb, struct espintcp_conn *conn)
{
	struct nlattr *nest = nla_nest_start(skb, INET_ULP_INFO_ESPINTCP);

	if (!nest)
		return -EMSGSIZE;
	if (nla_put_u32(skb, ESPINTCP_DIAG_STATE, diag_state(conn)) ||
	    nla_put_u32(skb, ESPINTCP_DIAG_SAS,
			atomic_read(&conn->stats.sas)) ||
	    diag_put_last_valid(skb, &conn->stats) ||
	    diag_put_queues(skb, conn) ||
	    diag_put_all_traffic(skb, &conn->stats) ||
	    diag_put_drops(skb, &conn->stats)) {
		nla_nest_cancel(skb, nest);
		return -EMSGSIZE;
	}
	nla_nest_end(skb, nest);
	return 0;
}

/**
 * espintcp_diag_put - what sock_diag adds to a socket that has the ULP
 * @sk: the socket, with a reference; it may be closed meanwhile
 * @skb: the answer to an administrator, in the ULP's attribute
 *
 * Context: process; takes the socket's lock. Of sockets that listen, of which there
 *	is nothing to tell, inet_diag asks under a spinlock of theirs.
 * Return: 0 or -EMSGSIZE.
 */
int espintcp_diag_put(struct sock *sk, struct sk_buff *skb)
{
	struct espintcp_conn *conn;
	int err = 0;
	bool slow;

	if (inet_sk_state_load(sk) == TCP_LISTEN)
		return 0;
	/* Who asks holds no reference on the module, and may sleep here. */
	if (!try_module_get(THIS_MODULE))
		return 0;
	slow = lock_sock_fast(sk);
	conn = espintcp_conn_of(sk);
	if (conn)
		err = diag_put_conn(skb, conn);
	unlock_sock_fast(sk, slow);
	/* As in hand_to_stock(), unloading waits until we have returned. */
	module_put(THIS_MODULE);
	return err;
}

/**
 * espintcp_diag_size - room espintcp_diag_put() needs at most
 *
 * Return: octets.
 */
size_t espintcp_diag_size(void)
{
	const size_t traffic = nla_total_size(2 * nla_total_size_64bit(8));
	const size_t drops = ESPINTCP_DROP_MAX * nla_total_size(sizeof(u32));

	return nla_total_size(7 * nla_total_size(sizeof(u32)) +
			      nla_total_size_64bit(sizeof(u64)) +
			      5 * traffic + nla_total_size(drops));
}
