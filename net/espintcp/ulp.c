// SPDX-License-Identifier: GPL-2.0
/*
 * A TCP socket becomes a connection for IKE and ESP, and stops being one.
 *
 * The ULP is set by setsockopt() and leaves in close(), which is the last
 * system call on a file: between the two the socket's callbacks and operations
 * are ours, after it none is, and the socket does not keep the module either:
 * it may live on for minutes in FIN-WAIT.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <asm/ioctls.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <net/inet_common.h>
#include <net/inet_ecn.h>
#include <net/tcp.h>

#include "espintcp.h"
#include "trace.h"

enum { ULP_V4, ULP_V6, ULP_NUM };

/* The operations of TCP with ours in between, per family. tcpv6_prot and
 * inet6_stream_ops are not exported: IPv6 is built when the first socket
 * brings them.
 */
static struct {
	struct proto *base;
	struct proto prot;
	struct proto_ops ops;
} ulp_family[ULP_NUM];
static DEFINE_MUTEX(ulp_family_lock);

/**
 * espintcp_conn_put - drop a reference
 * @conn: not used by the caller any more
 *
 * Context: any.
 */
void espintcp_conn_put(struct espintcp_conn *conn)
{
	if (!refcount_dec_and_test(&conn->refcnt))
		return;
	/* ulp_close() frees them. kmemleak does not see what holds on to each other. */
	DEBUG_NET_WARN_ON_ONCE(!skb_queue_empty(&conn->ike_queue));
	DEBUG_NET_WARN_ON_ONCE(conn->rx.spare);
	espintcp_gone(ESPINTCP_OBJECT_CONN);
	kfree_rcu(conn, rcu);
}

/**
 * espintcp_conn_kick - have the tasklet go on
 * @conn: the connection
 *
 * Context: socket lock held, or a system call on the socket.
 */
void espintcp_conn_kick(struct espintcp_conn *conn)
{
	if (!conn->detached)
		tasklet_schedule(&conn->tasklet);
}

/**
 * espintcp_conn_run - receive what was left and send what waits
 * @conn: the connection
 *
 * Context: process or softirq, socket lock held, never sleeps.
 */
void espintcp_conn_run(struct espintcp_conn *conn)
{
	if (conn->detached)
		return;
	if (conn->rx.more)
		espintcp_rx_run(conn);
	espintcp_txq_push(conn);
}

static void ulp_tasklet(struct tasklet_struct *t)
{
	struct espintcp_conn *conn = from_tasklet(conn, t, tasklet);
	struct sock *sk = conn->sk;

	bh_lock_sock(sk);
	if (sock_owned_by_user(sk))
		WRITE_ONCE(conn->deferred, true);
	else
		espintcp_conn_run(conn);
	bh_unlock_sock(sk);
}

static enum hrtimer_restart ulp_batch(struct hrtimer *timer)
{
	struct espintcp_conn *conn = container_of(timer, struct espintcp_conn,
						  batch);

	tasklet_schedule(&conn->tasklet);
	return HRTIMER_NORESTART;
}

/* proto.release_cb: the process that kept the tasklet out lets go. */
static void ulp_release_cb(struct sock *sk)
{
	struct espintcp_conn *conn = espintcp_conn_of(sk);

	if (conn->deferred) {
		WRITE_ONCE(conn->deferred, false);
		espintcp_conn_run(conn);
	}
	conn->prot->release_cb(sk);
}

/* What came while a process had the socket fills TCP's window until all of it has
 * been looked at. Were it taken before, the peer would be told of no room, and of
 * none after: so it is taken when the process lets go.
 */
static void ulp_data_ready(struct sock *sk)
{
	struct espintcp_conn *conn = espintcp_conn_of(sk);

	if (sock_owned_by_user(sk)) {
		WRITE_ONCE(conn->rx.more, true);
		/* Before the error of a reset behind it: see ike_failed(). */
		smp_wmb();
		/* Without the spinlock, when it is from the backlog. */
		WRITE_ONCE(conn->deferred, true);
		return;
	}
	espintcp_rx_run(conn);
}

/* TCP got room, but is in the middle of its own work: send after it. The
 * saved callback would tell the daemon, whom this is no news for: see
 * espintcp_ike_wake_writer().
 */
static void ulp_write_space(struct sock *sk)
{
	struct espintcp_conn *conn = espintcp_conn_of(sk);

	clear_bit(SOCK_NOSPACE, &sk->sk_socket->flags);
	/* In the middle of our own send it means that there is no memory: that is
	 * waited for.
	 */
	if (!conn->txq.pushing)
		espintcp_conn_kick(conn);
}

static void ulp_state_change(struct sock *sk)
{
	struct espintcp_conn *conn = espintcp_conn_of(sk);

	if (sk->sk_state == TCP_CLOSE) {
		/* What came before a reset is received before it. */
		if (conn->rx.more)
			espintcp_rx_run(conn);
		espintcp_txq_shut(conn);
	}
	conn->state_change(sk);
}

static void ulp_abort_work(struct work_struct *work)
{
	struct espintcp_conn *conn = container_of(work, struct espintcp_conn,
						  abort);

	trace_espintcp_abort(conn, -conn->abort_err);
	/* Unless it has come to its end, or was reset, by itself. */
	if (!tcp_abort(conn->sk, conn->abort_err))
		espintcp_count(conn->key.net, ESPINTCP_CNT_CONN_ABORTED);
}

/**
 * espintcp_conn_abort - reset a connection whose stream cannot be trusted
 * @conn: the connection
 * @err: what the daemon sees: %EBADMSG when framing broke, %EKEYREJECTED when
 *	an ESP message was not authentic, %EPROTO when too many messages in a
 *	row were neither IKE nor of a known SA, %EFAULT when the processor cannot
 *	read what TCP received. The first cause stays.
 *
 * Nothing more is read; the reset itself comes soon after.
 *
 * Context: any; the caller has a reference or is under RCU.
 */
void espintcp_conn_abort(struct espintcp_conn *conn, int err)
{
	/* Under the lock: once detached, nothing may schedule the work. */
	spin_lock_bh(&conn->txq.lock);
	if (!conn->detached && !conn->abort_err) {
		/* Read by ike_eof() without the lock. */
		WRITE_ONCE(conn->abort_err, err);
		queue_work(espintcp_wq, &conn->abort);
	}
	spin_unlock_bh(&conn->txq.lock);
	/* Pairs with ike_eof(). */
	smp_store_release(&conn->rx.stopped, true);
}

static void ulp_retry_work(struct work_struct *work)
{
	struct espintcp_conn *conn = container_of(to_delayed_work(work),
						  struct espintcp_conn, retry);

	tasklet_schedule(&conn->tasklet);
}

/* No work of the system's queue waits for a socket that a process holds. */
static void ulp_stall_work(struct work_struct *work)
{
	struct espintcp_conn *conn = container_of(to_delayed_work(work),
						  struct espintcp_conn, stall);
	struct sock *sk = conn->sk;

	local_bh_disable();
	bh_lock_sock(sk);
	if (sock_owned_by_user(sk))
		schedule_delayed_work(&conn->stall, ESPINTCP_TX_STALL);
	else if (!conn->detached)
		espintcp_txq_check_stall(conn);
	bh_unlock_sock(sk);
	local_bh_enable();
}

static void conn_set_key(struct espintcp_conn *conn)
{
	struct espintcp_key *key = &conn->key;
	struct sock *sk = conn->sk;
	struct inet_sock *inet = inet_sk(sk);

	key->net = sock_net(sk);
	key->sport = inet->inet_sport;
	key->dport = inet->inet_dport;
	key->family = AF_INET;
	key->saddr.a4 = inet->inet_rcv_saddr;
	key->daddr.a4 = inet->inet_daddr;
#if IS_ENABLED(CONFIG_IPV6)
	if (sk->sk_family == AF_INET6 && !ipv6_addr_v4mapped(&sk->sk_v6_daddr)) {
		key->family = AF_INET6;
		key->saddr.in6 = sk->sk_v6_rcv_saddr;
		key->daddr.in6 = sk->sk_v6_daddr;
	}
#endif
}

/* Marks do not cross from a TCP segment to the ESP in it: RFC 9329 section 9.5 */
static void conn_set_outer(struct espintcp_conn *conn)
{
	const struct espintcp_key *key = &conn->key;

	if (key->family == AF_INET6) {
		conn->ip6h = (struct ipv6hdr) {
			.version = 6,
			.nexthdr = IPPROTO_ESP,
			.hop_limit = IPDEFTTL,
			.saddr = key->daddr.in6,
			.daddr = key->saddr.in6,
		};
	} else {
		conn->iph = (struct iphdr) {
			.version = 4,
			.ihl = sizeof(struct iphdr) / 4,
			.protocol = IPPROTO_ESP,
			.ttl = IPDEFTTL,
			.saddr = key->daddr.a4,
			.daddr = key->saddr.a4,
		};
	}
}

/* Did the peer open this connection? A socket from accept() has its listener's
 * backlog, which may be 0; and only the originator sends before the ULP is set,
 * the stream prefix (RFC 9329 section 4).
 */
static bool conn_was_accepted(const struct sock *sk)
{
	const struct tcp_sock *tp = tcp_sk(sk);

	return READ_ONCE(sk->sk_max_ack_backlog) ||
	       (tp->bytes_received && !tp->bytes_sent);
}

static struct espintcp_conn *conn_alloc(struct sock *sk)
{
	struct espintcp_conn *conn = kzalloc(sizeof(*conn), GFP_KERNEL);

	if (!conn)
		return NULL;
	espintcp_made(ESPINTCP_OBJECT_CONN);
	conn->sk = sk;
	refcount_set(&conn->refcnt, 1);
	conn_set_key(conn);
	conn_set_outer(conn);
	conn->accepted = conn_was_accepted(sk);
	conn->rx.iif = sk->sk_rx_dst_ifindex;
	skb_queue_head_init(&conn->ike_queue);
	espintcp_txq_init(&conn->txq);
	compat_hrtimer_setup(&conn->batch, ulp_batch, CLOCK_MONOTONIC,
			     HRTIMER_MODE_REL);
	tasklet_setup(&conn->tasklet, ulp_tasklet);
	INIT_WORK(&conn->abort, ulp_abort_work);
	INIT_DELAYED_WORK(&conn->retry, ulp_retry_work);
	INIT_DELAYED_WORK(&conn->stall, ulp_stall_work);
	return conn;
}

/* A frame and a segment have nothing to do with each other, so that no mark of
 * one means anything for the other: the connection is not ECN-capable (section
 * 9.5, RFC 6040's compatibility mode), and its flow label stays (section 6.1).
 * DSCP is the socket's own, for all frames alike (section 9.3).
 */
static void conn_set_markings(struct sock *sk)
{
	compat_tcp_ecn_disable(sk);
	INET_ECN_dontxmit(sk);
	WRITE_ONCE(sk->sk_txrehash, SOCK_TXREHASH_DISABLED);
}

/* Keeps sockmap, KCM and the like off: they may come without the socket lock.
 * Returns 0 or -EBUSY when one was faster.
 */
static int conn_claim(struct espintcp_conn *conn, int family)
{
	struct sock *sk = conn->sk;
	int err = -EBUSY;

	sock_owned_by_me(sk);

	write_lock_bh(&sk->sk_callback_lock);
	if (!rcu_access_pointer(__sk_user_data(sk)) &&
	    sk->sk_prot == READ_ONCE(ulp_family[family].base)) {
		rcu_assign_sk_user_data(sk, conn);
		err = 0;
	}
	write_unlock_bh(&sk->sk_callback_lock);
	return err;
}

static void conn_disclaim(struct espintcp_conn *conn)
{
	struct sock *sk = conn->sk;

	write_lock_bh(&sk->sk_callback_lock);
	rcu_assign_sk_user_data(sk, NULL);
	write_unlock_bh(&sk->sk_callback_lock);
}

static void conn_install(struct espintcp_conn *conn, int family)
{
	struct sock *sk = conn->sk;

	write_lock_bh(&sk->sk_callback_lock);
	conn->prot = sk->sk_prot;
	conn->ops = sk->sk_socket->ops;
	conn->data_ready = sk->sk_data_ready;
	conn->write_space = sk->sk_write_space;
	conn->state_change = sk->sk_state_change;

	rcu_assign_pointer(inet_csk(sk)->icsk_ulp_data, conn);
	WRITE_ONCE(sk->sk_data_ready, ulp_data_ready);
	WRITE_ONCE(sk->sk_write_space, ulp_write_space);
	WRITE_ONCE(sk->sk_state_change, ulp_state_change);
	/* Whoever calls our operations finds the connection set. */
	smp_store_release(&sk->sk_prot, &ulp_family[family].prot);
	/* Likewise. */
	smp_store_release(&sk->sk_socket->ops, &ulp_family[family].ops);
	write_unlock_bh(&sk->sk_callback_lock);

	/* Sent to from softirq, where neither may sleep nor use a task's page. */
	sk->sk_allocation = GFP_ATOMIC;
	compat_no_task_frag(sk);
	/* Frames are complete: there is never more of one to wait for. */
	tcp_sk(sk)->nonagle |= TCP_NAGLE_OFF;
	WRITE_ONCE(sk->sk_rcvlowat, 1);
	conn_set_markings(sk);
}

static void conn_uninstall(struct espintcp_conn *conn)
{
	struct sock *sk = conn->sk;

	write_lock_bh(&sk->sk_callback_lock);
	WRITE_ONCE(sk->sk_prot, conn->prot);
	WRITE_ONCE(sk->sk_socket->ops, conn->ops);
	WRITE_ONCE(sk->sk_data_ready, conn->data_ready);
	WRITE_ONCE(sk->sk_write_space, conn->write_space);
	WRITE_ONCE(sk->sk_state_change, conn->state_change);
	rcu_assign_sk_user_data(sk, NULL);
	rcu_assign_pointer(inet_csk(sk)->icsk_ulp_data, NULL);
	/* The reference on the module that goes with it is ours from here. */
	WRITE_ONCE(inet_csk(sk)->icsk_ulp_ops, NULL);
	write_unlock_bh(&sk->sk_callback_lock);
}

static void ulp_build(int family, const struct sock *sk);

/* What a socket has that nobody has changed. Sockmap, which may come without the
 * socket lock, gives its operations the same name.
 */
static void ulp_learn_v6(struct sock *sk)
{
	write_lock_bh(&sk->sk_callback_lock);
	if (sk->sk_family == AF_INET6 &&
	    !rcu_access_pointer(__sk_user_data(sk)) &&
	    !strcmp(sk->sk_prot->name, "TCPv6"))
		ulp_build(ULP_V6, sk);
	write_unlock_bh(&sk->sk_callback_lock);
}

/* Which operations to use for a socket, -EBUSY if someone else changed its. */
static int ulp_family_of(struct sock *sk)
{
	int family = ULP_V4;

	if (sk->sk_prot != &tcp_prot) {
		family = ULP_V6;
		mutex_lock(&ulp_family_lock);
		if (!ulp_family[ULP_V6].base)
			ulp_learn_v6(sk);
		mutex_unlock(&ulp_family_lock);
	}
	return sk->sk_prot == READ_ONCE(ulp_family[family].base) ? family :
								   -EBUSY;
}

static bool is_connected(const struct sock *sk)
{
	return (1 << sk->sk_state) & (TCPF_ESTABLISHED | TCPF_CLOSE_WAIT);
}

/* May the current task set a ULP of ours on a socket? */
static int ulp_check(const struct sock *sk)
{
	if (!espintcp_permitted(sock_net(sk)))
		return -EPERM;
	return rcu_access_pointer(__sk_user_data(sk)) ? -EBUSY : 0;
}

/* A connected socket becomes a connection. Process, socket lock held. */
static int ulp_attach(struct sock *sk)
{
	struct espintcp_conn *conn;
	int family, err;

	family = ulp_family_of(sk);
	if (family < 0)
		return family;

	conn = conn_alloc(sk);
	if (!conn)
		return -ENOMEM;
	/* What came before us is taken when the system call lets the socket go. */
	conn->rx.more = true;
	conn->deferred = true;
	err = conn_claim(conn, family);
	if (err)
		goto put;
	err = espintcp_lookup_add(conn);
	if (err)
		goto disclaim;
	conn_install(conn, family);
	espintcp_count(conn->key.net, ESPINTCP_CNT_CONN_OPENED);
	return 0;

disclaim:
	conn_disclaim(conn);
put:
	espintcp_conn_put(conn);
	return err;
}

/* Socket lock held: the last moment at which this is our socket. */
static void conn_detach(struct espintcp_conn *conn)
{
	struct sock *sk = conn->sk;

	do {
		espintcp_rx_run(conn);
		cond_resched();
	} while (conn->rx.more && !READ_ONCE(conn->rx.stopped));
	espintcp_rx_stop(conn);

	if (!(sock_flag(sk, SOCK_LINGER) && !sk->sk_lingertime))
		espintcp_txq_flush(conn);
	spin_lock_bh(&conn->txq.lock);
	conn->detached = true;
	spin_unlock_bh(&conn->txq.lock);
	espintcp_txq_shut(conn);
	espintcp_lookup_del(conn);
	conn_uninstall(conn);
	espintcp_count(conn->key.net, ESPINTCP_CNT_CONN_CLOSED);
}

/* What has broken the stream resets it, and is counted, if the work has not come to
 * that.
 */
static void conn_abort_now(struct espintcp_conn *conn)
{
	if (cancel_work_sync(&conn->abort))
		ulp_abort_work(&conn->abort);
}

/* proto.close: nobody else is in a system call on this socket. */
static void ulp_close(struct sock *sk, long timeout)
{
	struct espintcp_conn *conn = espintcp_conn_of(sk);
	struct proto *prot = conn->prot;

	/* Before the daemon's own end of the stream. */
	conn_abort_now(conn);
	lock_sock(sk);
	conn_detach(conn);
	release_sock(sk);

	/* Detached: none of them starts again. */
	conn_abort_now(conn);
	cancel_delayed_work_sync(&conn->retry);
	cancel_delayed_work_sync(&conn->stall);
	hrtimer_cancel(&conn->batch);
	tasklet_kill(&conn->tasklet);
	skb_queue_purge(&conn->ike_queue);
	WRITE_ONCE(conn->sk, NULL);
	espintcp_conn_put(conn);

	prot->close(sk, timeout);
	/* As in hand_to_stock(), unloading waits until we have returned. */
	module_put(THIS_MODULE);
}

/* proto.shutdown: socket lock held, sk_shutdown already tells. */
static void ulp_shutdown(struct sock *sk, int how)
{
	struct espintcp_conn *conn = espintcp_conn_of(sk);

	if (how & RCV_SHUTDOWN)
		WRITE_ONCE(conn->rx.closed, true);
	if (how & SEND_SHUTDOWN) {
		/* What was accepted goes out before the FIN. */
		WRITE_ONCE(sk->sk_shutdown, sk->sk_shutdown & ~SEND_SHUTDOWN);
		espintcp_txq_flush(conn);
		WRITE_ONCE(sk->sk_shutdown, sk->sk_shutdown | SEND_SHUTDOWN);
		espintcp_txq_shut(conn);
	}
	conn->prot->shutdown(sk, how);
}

static int ulp_disconnect(struct sock *sk, int flags)
{
	return -EOPNOTSUPP;
}

static int ulp_set_rcvlowat(struct sock *sk, int val)
{
	/* Would hold up ESP. A message is always worth waking for. */
	return 0;
}

static ssize_t ulp_splice_read(struct socket *sock, loff_t *ppos,
			       struct pipe_inode_info *pipe, size_t len,
			       unsigned int flags)
{
	return -EOPNOTSUPP;
}

static int ulp_outq(struct espintcp_conn *conn, bool unsent)
{
	const struct tcp_sock *tp = tcp_sk(conn->sk);
	int octets;

	lock_sock(conn->sk);
	octets = tp->write_seq - (unsent ? tp->snd_nxt : tp->snd_una);
	/* A FIN counts as one in TCP's own arithmetic. */
	octets = max(octets, 0) + espintcp_txq_octets(conn);
	release_sock(conn->sk);
	return octets;
}

static int ulp_ioctl_value(struct sock *sk, int cmd, int *value)
{
	struct espintcp_conn *conn = espintcp_conn_of_call(sk);

	switch (cmd) {
	case SIOCINQ:
		*value = espintcp_ike_inq(conn);
		return 0;
	case SIOCOUTQ:
		*value = ulp_outq(conn, false);
		return 0;
	case SIOCOUTQNSD:
		*value = ulp_outq(conn, true);
		return 0;
	case SIOCATMARK:
		*value = 0;
		return 0;
	}
	return -ENOIOCTLCMD;
}

static int ulp_ioctl(struct sock *sk, int cmd, compat_ioctl_arg_t arg)
{
	int value;
	int err = ulp_ioctl_value(sk, cmd, &value);

	return err ?: compat_ioctl_return(value, arg);
}

static int ulp_recvmsg(COMPAT_RECVMSG_PARAMS)
{
	if (flags & MSG_ERRQUEUE)
		return espintcp_conn_of_call(sk)->prot->recvmsg(COMPAT_RECVMSG_ARGS);
	return espintcp_ike_recvmsg(sk, msg, len, flags);
}

/* ulp_family_lock held, or module load. */
static void ulp_build(int family, const struct sock *sk)
{
	const struct proto_ops *base_ops = sk ? sk->sk_socket->ops :
						&inet_stream_ops;
	struct proto *base = sk ? sk->sk_prot : &tcp_prot;
	struct proto_ops *ops = &ulp_family[family].ops;
	struct proto *prot = &ulp_family[family].prot;

	*prot = *base;
	prot->close = ulp_close;
	prot->shutdown = ulp_shutdown;
	prot->disconnect = ulp_disconnect;
	prot->sendmsg = espintcp_sendmsg;
	prot->recvmsg = ulp_recvmsg;
	prot->ioctl = ulp_ioctl;
	prot->release_cb = ulp_release_cb;
	compat_prot_no_sendpage(prot);

	*ops = *base_ops;
	ops->poll = espintcp_poll;
	ops->splice_read = ulp_splice_read;
	ops->set_rcvlowat = ulp_set_rcvlowat;
	ops->read_sock = NULL;
	ops->read_skb = NULL;
	compat_ops_no_sendpage(ops);

	WRITE_ONCE(ulp_family[family].base, base);
}

/* The name is for everyone, the rest for administrators. */
static int ulp_get_info(COMPAT_ULP_INFO_PARAMS)
{
	return COMPAT_ULP_INFO_NET_ADMIN ? espintcp_diag_put(sk, skb) : 0;
}

static size_t ulp_get_info_size(COMPAT_ULP_INFO_SIZE_PARAMS)
{
	return espintcp_diag_size();
}

/* tcp_ulp_ops.init: process, socket lock held. */
static int ulp_init(struct sock *sk)
{
	int err;

	if (!is_connected(sk))
		return -ENOTCONN;
	err = ulp_check(sk);
	return err ?: ulp_attach(sk);
}

static struct tcp_ulp_ops espintcp_ulp_ops __read_mostly = {
	.name = "espintcp",
	.owner = THIS_MODULE,
	.init = ulp_init,
	.get_info = ulp_get_info,
	.get_info_size = ulp_get_info_size,
};

static struct tcp_ulp_ops iketcp_ulp_ops;

/* Likewise. */
static int iketcp_init(struct sock *sk)
{
	int err;

	if (sk->sk_state != TCP_LISTEN && !is_connected(sk))
		return -ENOTCONN;
	err = ulp_check(sk);
	if (err)
		return err;
	if (sk->sk_state == TCP_LISTEN)
		return espintcp_prefix_listen(sk, &iketcp_ulp_ops);
	if (conn_was_accepted(sk))
		return -EOPNOTSUPP;
	err = ulp_family_of(sk);
	if (err < 0)
		return err;
	err = espintcp_prefix_send(sk);
	if (err)
		return err;
	err = ulp_attach(sk);
	/* It has begun, and cannot begin again. */
	if (err)
		sk->sk_prot->disconnect(sk, 0);
	return err;
}

static void iketcp_clone(const struct request_sock *req, struct sock *newsk,
			 const gfp_t priority)
{
	espintcp_prefix_clone(newsk);
}

static struct tcp_ulp_ops iketcp_ulp_ops __read_mostly = {
	.name = "iketcp",
	.owner = THIS_MODULE,
	.init = iketcp_init,
	.clone = iketcp_clone,
	.release = espintcp_prefix_release,
	.get_info = ulp_get_info,
	.get_info_size = ulp_get_info_size,
};

/**
 * espintcp_ulp_accept - set the ULP on a connection that began with the prefix
 * @sk: its socket, in a file already
 *
 * Context: process, socket lock held; the caller's code cannot be unloaded.
 * Return: 0; -ENOTCONN when it was reset; -EBUSY when something else uses it;
 *	-ENOMEM.
 */
int espintcp_ulp_accept(struct sock *sk)
{
	int err;

	if (!is_connected(sk))
		return -ENOTCONN;
	if (rcu_access_pointer(__sk_user_data(sk)))
		return -EBUSY;
	err = ulp_attach(sk);
	if (err)
		return err;
	__module_get(THIS_MODULE);
	WRITE_ONCE(inet_csk(sk)->icsk_ulp_ops, &espintcp_ulp_ops);
	return 0;
}

/* Without it espintcp still works. */
static bool iketcp_registered;

/**
 * espintcp_ulp_init - make the ULPs known
 *
 * Context: process, module load.
 * Return: 0; -EEXIST when the kernel has one named espintcp, and none is known.
 */
int espintcp_ulp_init(void)
{
	int err;

	ulp_build(ULP_V4, NULL);
	err = tcp_register_ulp(&espintcp_ulp_ops);
	if (err)
		return err;
	iketcp_registered = !tcp_register_ulp(&iketcp_ulp_ops);
	if (!iketcp_registered)
		pr_warn("this kernel has a ULP named iketcp, which stays\n");
	return 0;
}

/**
 * espintcp_ulp_exit - withdraw the ULPs
 *
 * Context: process, module unload; no socket has one.
 */
void espintcp_ulp_exit(void)
{
	if (iketcp_registered)
		tcp_unregister_ulp(&iketcp_ulp_ops);
	tcp_unregister_ulp(&espintcp_ulp_ops);
}
