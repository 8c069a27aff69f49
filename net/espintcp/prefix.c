// SPDX-License-Identifier: GPL-2.0
/*
 * The stream prefix (RFC 9329 section 4), for daemons that leave it to the
 * kernel: the ULP "iketcp".
 *
 * On a connected socket it sends the prefix and then is the ULP "espintcp". A
 * listening socket that has it hands out only connections that began with the
 * prefix, each with the ULP "espintcp" on; the others are reset, and accept()
 * does not wake for them:
 *
 *	TCP's accept queue -> waiting -> (reset | ready) -> accept()
 *
 * The callbacks of the sockets only queue work. All else is done in one work,
 * where the lock of a socket can be waited for.
 */
#include <linux/list.h>
#include <linux/module.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/workqueue.h>
#include <net/tcp.h>

#include "espintcp.h"

#define PREFIX_SIZE	6

static const u8 prefix[PREFIX_SIZE] = { 'I', 'K', 'E', 'T', 'C', 'P' };

/* Connections taken from TCP in one go. */
#define PREFIX_TAKE_MAX		64
/* How long a peer may take for it, ms. */
#define PREFIX_TIMEOUT		10000
#define PREFIX_TIMEOUT_MAX	(3600 * MSEC_PER_SEC)

/**
 * struct prefix_listener - a listening socket with the ULP
 * @sk: the socket, with a reference
 * @base: its operations before
 * @ops: its operations now
 * @data_ready: its callback before
 * @timeout: how long a peer may take for the prefix, ms; read lockless
 * @lock: guards what follows; taken with a socket's lock held
 * @waiting: connections that have not sent all of the prefix, oldest first
 * @touched: those among them that something happened to
 * @ready: connections for accept()
 * @held: how many are in @waiting and @ready; read lockless
 * @closed: the socket is gone, no work is queued any more but @end
 * @work: takes connections from TCP, looks at those that were touched, and
 *	resets those that are late
 * @end: frees all
 * @rcu: callbacks of the socket may still run when it closes
 *
 * In sk_user_data, from setsockopt() to the end of the socket.
 */
struct prefix_listener {
	struct sock *sk;
	const struct proto_ops *base;
	struct proto_ops ops;
	void (*data_ready)(struct sock *sk);
	unsigned int timeout;

	spinlock_t lock;	/* see above */
	struct list_head waiting;
	struct list_head touched;
	struct list_head ready;
	unsigned int held;
	bool closed;

	struct delayed_work work;
	struct work_struct end;
	struct rcu_head rcu;
};

/**
 * struct prefix_conn - a connection that nobody has accepted yet
 * @sk: its socket, ours alone
 * @listener: where it came in
 * @node: in the listener's waiting or ready (listener's lock)
 * @touched: in its list of that name, or empty (listener's lock)
 * @since: when it came, jiffies
 * @have: octets of the prefix that were right (socket lock)
 * @wrong: and then came another (socket lock)
 * @data_ready: the socket's callback before
 * @state_change: likewise
 *
 * In sk_user_data while it waits.
 */
struct prefix_conn {
	struct sock *sk;
	struct prefix_listener *listener;
	struct list_head node;
	struct list_head touched;
	unsigned long since;
	unsigned int have;
	bool wrong;
	void (*data_ready)(struct sock *sk);
	void (*state_change)(struct sock *sk);
};

static struct prefix_listener *listener_of(const struct sock *sk)
{
	return READ_ONCE(sk->sk_user_data);
}

static void listener_kick(struct prefix_listener *l)
{
	spin_lock_bh(&l->lock);
	if (!l->closed)
		mod_delayed_work(espintcp_wq, &l->work, 0);
	spin_unlock_bh(&l->lock);
}

/* sk_data_ready of a listening socket: TCP has a connection for us. Or of a
 * socket that does not listen any more.
 */
static void listener_data_ready(struct sock *sk)
{
	struct prefix_listener *l;

	rcu_read_lock();
	l = listener_of(sk);
	/* Called without the socket lock. */
	if (inet_sk_state_load(sk) == TCP_LISTEN)
		listener_kick(l);
	else
		l->data_ready(sk);
	rcu_read_unlock();
}

/* sk_data_ready and sk_state_change of a connection that waits. */
static void conn_event(struct sock *sk)
{
	struct prefix_conn *pc = READ_ONCE(sk->sk_user_data);
	struct prefix_listener *l = pc->listener;

	spin_lock_bh(&l->lock);
	if (list_empty(&pc->touched))
		list_add_tail(&pc->touched, &l->touched);
	if (!l->closed)
		mod_delayed_work(espintcp_wq, &l->work, 0);
	spin_unlock_bh(&l->lock);
}

/* Returns false if someone else, sockmap for one, was faster. */
static bool conn_hook(struct prefix_conn *pc)
{
	struct sock *sk = pc->sk;
	bool ours;

	sock_owned_by_me(sk);

	write_lock_bh(&sk->sk_callback_lock);
	ours = !rcu_access_pointer(__sk_user_data(sk));
	if (ours) {
		pc->data_ready = sk->sk_data_ready;
		pc->state_change = sk->sk_state_change;
		rcu_assign_sk_user_data(sk, pc);
		WRITE_ONCE(sk->sk_data_ready, conn_event);
		WRITE_ONCE(sk->sk_state_change, conn_event);
	}
	write_unlock_bh(&sk->sk_callback_lock);
	return ours;
}

static void conn_unhook(struct prefix_conn *pc)
{
	struct sock *sk = pc->sk;

	sock_owned_by_me(sk);

	write_lock_bh(&sk->sk_callback_lock);
	WRITE_ONCE(sk->sk_data_ready, pc->data_ready);
	WRITE_ONCE(sk->sk_state_change, pc->state_change);
	rcu_assign_sk_user_data(sk, NULL);
	write_unlock_bh(&sk->sk_callback_lock);
}

static void conn_reset(struct sock *sk)
{
	sock_no_linger(sk);
	sk->sk_prot->close(sk, 0);
}

/* Off all lists; no callback leads to it any more. */
static void conn_unlink(struct prefix_conn *pc)
{
	struct prefix_listener *l = pc->listener;

	spin_lock_bh(&l->lock);
	list_del(&pc->node);
	list_del(&pc->touched);
	WRITE_ONCE(l->held, l->held - 1);
	spin_unlock_bh(&l->lock);
}

static void conn_free(struct prefix_conn *pc)
{
	espintcp_gone(ESPINTCP_OBJECT_CANDIDATE);
	kfree(pc);
}

static void conn_destroy(struct prefix_conn *pc)
{
	conn_unlink(pc);
	conn_reset(pc->sk);
	conn_free(pc);
}

/* sk_read_actor_t: takes octets as long as they are those of the prefix. */
static int conn_compare(read_descriptor_t *desc, struct sk_buff *skb,
			unsigned int offset, size_t len)
{
	struct prefix_conn *pc = desc->arg.data;
	unsigned int n = min_t(size_t, len, PREFIX_SIZE - pc->have);
	u8 octets[PREFIX_SIZE];

	if (skb_copy_bits(skb, offset, octets, n))
		return 0;
	if (memcmp(octets, prefix + pc->have, n)) {
		pc->wrong = true;
		return 0;
	}
	pc->have += n;
	return n;
}

enum prefix_verdict {
	PREFIX_MORE,
	PREFIX_RIGHT,
	PREFIX_BAD,
};

static enum prefix_verdict conn_verdict(const struct prefix_conn *pc)
{
	if (pc->wrong)
		return PREFIX_BAD;
	/* With TCP Fast Open it may come before the handshake ends. */
	if (pc->have == PREFIX_SIZE && pc->sk->sk_state != TCP_SYN_RECV)
		return PREFIX_RIGHT;
	/* Finished or reset before it was complete? */
	return (1 << pc->sk->sk_state) & (TCPF_ESTABLISHED | TCPF_SYN_RECV) ?
	       PREFIX_MORE : PREFIX_BAD;
}

/* What has come of the prefix so far; the connection is unhooked if that
 * decides.
 */
static enum prefix_verdict conn_read(struct prefix_conn *pc)
{
	read_descriptor_t desc = { .arg.data = pc, .count = 1 };
	enum prefix_verdict verdict;
	struct sock *sk = pc->sk;

	lock_sock(sk);
	/* As in espintcp_rx_run(). */
	WRITE_ONCE(tcp_sk(sk)->urg_data, 0);
	tcp_read_sock(sk, &desc, conn_compare);
	verdict = conn_verdict(pc);
	if (verdict != PREFIX_MORE)
		conn_unhook(pc);
	release_sock(sk);
	return verdict;
}

static void conn_ready(struct prefix_conn *pc)
{
	struct prefix_listener *l = pc->listener;

	spin_lock_bh(&l->lock);
	list_move_tail(&pc->node, &l->ready);
	list_del_init(&pc->touched);
	spin_unlock_bh(&l->lock);
	l->data_ready(l->sk);
}

/* Returns false if it goes on waiting. */
static bool conn_check(struct prefix_conn *pc)
{
	switch (conn_read(pc)) {
	case PREFIX_MORE:
		return false;
	case PREFIX_RIGHT:
		conn_ready(pc);
		break;
	case PREFIX_BAD:
		espintcp_count(sock_net(pc->sk), ESPINTCP_CNT_PREFIX_BAD);
		conn_destroy(pc);
		break;
	}
	return true;
}

static void listener_add(struct prefix_listener *l, struct sock *sk)
{
	struct prefix_conn *pc = kzalloc(sizeof(*pc), GFP_KERNEL);
	bool ours;

	if (!pc) {
		espintcp_count(sock_net(sk), ESPINTCP_CNT_IN_NO_MEM);
		conn_reset(sk);
		return;
	}
	espintcp_made(ESPINTCP_OBJECT_CANDIDATE);
	pc->sk = sk;
	pc->listener = l;
	pc->since = jiffies;
	INIT_LIST_HEAD(&pc->touched);
	spin_lock_bh(&l->lock);
	list_add_tail(&pc->node, &l->waiting);
	WRITE_ONCE(l->held, l->held + 1);
	spin_unlock_bh(&l->lock);

	lock_sock(sk);
	ours = conn_hook(pc);
	release_sock(sk);
	if (ours) {
		conn_check(pc);
		return;
	}
	espintcp_count(sock_net(sk), ESPINTCP_CNT_PREFIX_BAD);
	conn_destroy(pc);
}

static struct prefix_conn *listener_touched(struct prefix_listener *l)
{
	struct prefix_conn *pc;

	spin_lock_bh(&l->lock);
	pc = list_first_entry_or_null(&l->touched, struct prefix_conn, touched);
	if (pc)
		list_del_init(&pc->touched);
	spin_unlock_bh(&l->lock);
	return pc;
}

static struct prefix_conn *listener_oldest(struct prefix_listener *l)
{
	struct prefix_conn *pc;

	spin_lock_bh(&l->lock);
	pc = list_first_entry_or_null(&l->waiting, struct prefix_conn, node);
	spin_unlock_bh(&l->lock);
	return pc;
}

static void conn_too_late(struct prefix_conn *pc)
{
	lock_sock(pc->sk);
	conn_unhook(pc);
	release_sock(pc->sk);
	espintcp_count(sock_net(pc->sk), ESPINTCP_CNT_PREFIX_LATE);
	conn_destroy(pc);
}

/* No more than may wait in TCP's own accept queue. */
static bool listener_has_room(const struct prefix_listener *l)
{
	return READ_ONCE(l->held) <= READ_ONCE(l->sk->sk_max_ack_backlog);
}

/* Whoever says nothing does not keep out those who come later: the oldest go. Those
 * that began right stay.
 */
static bool listener_make_room(struct prefix_listener *l)
{
	struct prefix_conn *pc;

	while (!listener_has_room(l) && (pc = listener_oldest(l)))
		if (!conn_check(pc))
			conn_too_late(pc);
	return listener_has_room(l);
}

/* Some of those that TCP has: then those that waited before have their turn. */
static void listener_take(struct prefix_listener *l)
{
	unsigned int n = 0;
	struct sock *sk;

	while (!reqsk_queue_empty(&inet_csk(l->sk)->icsk_accept_queue) &&
	       listener_make_room(l)) {
		if (n++ == PREFIX_TAKE_MAX) {
			listener_kick(l);
			break;
		}
		sk = compat_accept(l->sk);
		if (!sk)
			break;
		listener_add(l, sk);
	}
}

/* Unless an event has queued it for sooner. */
static void listener_look_in(struct prefix_listener *l, unsigned long delay)
{
	spin_lock_bh(&l->lock);
	if (!l->closed)
		queue_delayed_work(espintcp_wq, &l->work, delay);
	spin_unlock_bh(&l->lock);
}

static void listener_expire(struct prefix_listener *l)
{
	unsigned long timeout = msecs_to_jiffies(READ_ONCE(l->timeout));
	struct prefix_conn *pc;

	while ((pc = listener_oldest(l))) {
		unsigned long now = jiffies, end = pc->since + timeout;

		if (time_before(now, end)) {
			listener_look_in(l, end - now);
			break;
		}
		conn_too_late(pc);
	}
}

static void listener_work(struct work_struct *work)
{
	struct prefix_listener *l = container_of(to_delayed_work(work),
						 struct prefix_listener, work);
	struct prefix_conn *pc;

	listener_take(l);
	while ((pc = listener_touched(l)))
		conn_check(pc);
	listener_expire(l);
}

static void listener_drop(struct list_head *conns, bool hooked)
{
	struct prefix_conn *pc, *next;

	list_for_each_entry_safe(pc, next, conns, node) {
		lock_sock(pc->sk);
		if (hooked)
			conn_unhook(pc);
		release_sock(pc->sk);
		conn_destroy(pc);
	}
}

static void listener_free(struct prefix_listener *l)
{
	espintcp_gone(ESPINTCP_OBJECT_LISTENER);
	kfree_rcu(l, rcu);
}

static void listener_end(struct work_struct *work)
{
	struct prefix_listener *l = container_of(work, struct prefix_listener,
						 end);

	cancel_delayed_work_sync(&l->work);
	listener_drop(&l->waiting, true);
	listener_drop(&l->ready, false);
	sock_put(l->sk);
	listener_free(l);
}

static bool listener_listens(const struct prefix_listener *l)
{
	return READ_ONCE(l->sk->sk_state) == TCP_LISTEN;
}

static struct sock *listener_pop(struct prefix_listener *l)
{
	struct prefix_conn *pc;
	struct sock *sk;

	spin_lock_bh(&l->lock);
	pc = list_first_entry_or_null(&l->ready, struct prefix_conn, node);
	if (pc) {
		list_del(&pc->node);
		WRITE_ONCE(l->held, l->held - 1);
	}
	spin_unlock_bh(&l->lock);
	if (!pc)
		return NULL;

	sk = pc->sk;
	conn_free(pc);
	/* There is room for another. */
	listener_kick(l);
	return sk;
}

/* The next connection for accept(), or an error. */
static struct sock *listener_wait(struct prefix_listener *l, int flags)
{
	long timeo = sock_rcvtimeo(l->sk, flags & O_NONBLOCK), left = timeo;
	wait_queue_head_t *wq = sk_sleep(l->sk);
	struct sock *sk;

	while (!(sk = listener_pop(l))) {
		if (!listener_listens(l))
			return ERR_PTR(-EINVAL);
		if (!left)
			return ERR_PTR(-EAGAIN);
		left = wait_event_interruptible_timeout(*wq,
							!listener_listens(l) ||
							!list_empty(&l->ready),
							left);
		if (left < 0)
			return ERR_PTR(sock_intr_errno(timeo));
	}
	return sk;
}

/* proto_ops.accept */
static int prefix_accept(COMPAT_ACCEPT_PARAMS)
{
	struct prefix_listener *l = listener_of(sock->sk);
	struct sock *sk;
	int err;

	/* accept() gave it the listener's, which are for nobody else. */
	newsock->ops = l->base;

	sk = listener_wait(l, COMPAT_ACCEPT_FLAGS);
	if (IS_ERR(sk))
		return PTR_ERR(sk);

	lock_sock(sk);
	compat_graft(sock, newsock, sk);
	err = espintcp_ulp_accept(sk);
	release_sock(sk);
	/* Reset while it waited for us. */
	return err == -ENOTCONN ? -ECONNABORTED : err;
}

/* proto_ops.poll */
static __poll_t prefix_poll(struct file *file, struct socket *sock,
			    struct poll_table_struct *wait)
{
	struct prefix_listener *l = listener_of(sock->sk);

	if (!listener_listens(l))
		return l->base->poll(file, sock, wait);
	sock_poll_wait(file, sock, wait);
	return list_empty(&l->ready) ? 0 : EPOLLIN | EPOLLRDNORM;
}

/* proto_ops.setsockopt */
static int prefix_setsockopt(struct socket *sock, int level, int optname,
			     sockptr_t optval, unsigned int optlen)
{
	struct prefix_listener *l = listener_of(sock->sk);
	int timeout;

	if (level != SOL_ESPINTCP)
		return l->base->setsockopt(sock, level, optname, optval,
					   optlen);
	if (optname != ESPINTCP_PREFIX_TIMEOUT)
		return -ENOPROTOOPT;
	if (optlen < sizeof(timeout))
		return -EINVAL;
	if (copy_from_sockptr(&timeout, optval, sizeof(timeout)))
		return -EFAULT;
	if (timeout < 1 || timeout > PREFIX_TIMEOUT_MAX)
		return -EINVAL;
	WRITE_ONCE(l->timeout, timeout);
	listener_kick(l);
	return 0;
}

/* proto_ops.getsockopt */
static int prefix_getsockopt(struct socket *sock, int level, int optname,
			     char __user *optval, int __user *optlen)
{
	struct prefix_listener *l = listener_of(sock->sk);
	int timeout = READ_ONCE(l->timeout);
	int len;

	if (level != SOL_ESPINTCP)
		return l->base->getsockopt(sock, level, optname, optval,
					   optlen);
	if (optname != ESPINTCP_PREFIX_TIMEOUT)
		return -ENOPROTOOPT;
	if (get_user(len, optlen))
		return -EFAULT;
	if (len < 0)
		return -EINVAL;
	len = min_t(unsigned int, len, sizeof(timeout));
	if (put_user(len, optlen) || copy_to_user(optval, &timeout, len))
		return -EFAULT;
	return 0;
}

static struct prefix_listener *listener_alloc(struct sock *sk)
{
	struct prefix_listener *l = kzalloc(sizeof(*l), GFP_KERNEL);

	if (!l)
		return NULL;
	espintcp_made(ESPINTCP_OBJECT_LISTENER);
	l->sk = sk;
	l->timeout = PREFIX_TIMEOUT;
	spin_lock_init(&l->lock);
	INIT_LIST_HEAD(&l->waiting);
	INIT_LIST_HEAD(&l->touched);
	INIT_LIST_HEAD(&l->ready);
	INIT_DELAYED_WORK(&l->work, listener_work);
	INIT_WORK(&l->end, listener_end);

	l->base = sk->sk_socket->ops;
	l->ops = *l->base;
	l->ops.accept = prefix_accept;
	l->ops.poll = prefix_poll;
	l->ops.setsockopt = prefix_setsockopt;
	l->ops.getsockopt = prefix_getsockopt;
	return l;
}

/* Sockmap and BPF's array of sockets may come without the socket lock. For now, no
 * copy gets the pointer. Returns 0 or -EBUSY when one of them was faster.
 */
static int listener_claim(struct prefix_listener *l,
			  const struct tcp_ulp_ops *ulp)
{
	struct sock *sk = l->sk;
	int err = -EBUSY;

	write_lock_bh(&sk->sk_callback_lock);
	if (!rcu_access_pointer(__sk_user_data(sk))) {
		l->data_ready = sk->sk_data_ready;
		__rcu_assign_sk_user_data_with_flags(sk, l,
						     SK_USER_DATA_NOCOPY);
		WRITE_ONCE(inet_csk(sk)->icsk_ulp_ops, ulp);
		err = 0;
	}
	write_unlock_bh(&sk->sk_callback_lock);
	return err;
}

static void listener_hook(struct prefix_listener *l)
{
	struct sock *sk = l->sk;

	write_lock_bh(&sk->sk_callback_lock);
	WRITE_ONCE(sk->sk_data_ready, listener_data_ready);
	/* Whoever calls our operations finds the listener set. */
	smp_store_release(&sk->sk_socket->ops, &l->ops);
	write_unlock_bh(&sk->sk_callback_lock);
}

/**
 * espintcp_prefix_listen - have a socket hand out only what began right
 * @sk: listens
 * @ulp: that is being set, with espintcp_prefix_clone()
 *
 * TCP makes connections of copies of the socket, under RCU but without its lock:
 * a copy may have one of two values that are set here and not the other. With a
 * grace period in between, one that has our callback has the listener, too, and
 * one that has the listener is given to espintcp_prefix_clone().
 *
 * Context: process, socket lock held.
 * Return: 0; -ENOMEM; -EBUSY when something else uses sk_user_data.
 */
int espintcp_prefix_listen(struct sock *sk, const struct tcp_ulp_ops *ulp)
{
	struct prefix_listener *l = listener_alloc(sk);
	int err;

	sock_owned_by_me(sk);

	if (!l)
		return -ENOMEM;
	err = listener_claim(l, ulp);
	if (err) {
		listener_free(l);
		return err;
	}

	sock_hold(sk);
	synchronize_rcu();
	rcu_assign_sk_user_data(sk, l);
	synchronize_rcu();
	listener_hook(l);

	/* What came before us. */
	listener_kick(l);
	return 0;
}

/**
 * espintcp_prefix_send - begin a stream
 * @sk: a connected socket without the ULP
 *
 * Context: process, socket lock held, does not wait.
 * Return: 0; -EAGAIN when the send buffer is full; -ECONNABORTED when TCP had
 *	memory for a part only, and the connection is reset; another error of TCP's.
 */
int espintcp_prefix_send(struct sock *sk)
{
	struct msghdr msg = { .msg_flags = MSG_DONTWAIT | MSG_NOSIGNAL };
	struct kvec vec = {
		.iov_base = (void *)prefix,
		.iov_len = PREFIX_SIZE,
	};
	int n;

	iov_iter_kvec(&msg.msg_iter, ITER_SOURCE, &vec, 1, PREFIX_SIZE);
	n = tcp_sendmsg_locked(sk, &msg, PREFIX_SIZE);
	if (n < 0)
		return n;
	if (n == PREFIX_SIZE)
		return 0;
	sk->sk_prot->disconnect(sk, 0);
	return -ECONNABORTED;
}

/**
 * espintcp_prefix_clone - make a connection of TCP's own of a listener's copy
 * @newsk: the copy, new
 *
 * tcp_ulp_ops.clone. Context: softirq, under RCU.
 */
void espintcp_prefix_clone(struct sock *newsk)
{
	struct prefix_listener *l = listener_of(newsk);

	/* Not there yet when this was copied: nor was our callback. */
	if (l)
		newsk->sk_data_ready = l->data_ready;
	newsk->sk_user_data = NULL;
	inet_csk(newsk)->icsk_ulp_ops = NULL;
}

/**
 * espintcp_prefix_release - a listening socket ends
 * @sk: the socket
 *
 * tcp_ulp_ops.release; of a connection, proto.close has taken the ULP before.
 * Context: process or softirq; what waits is reset soon after.
 */
void espintcp_prefix_release(struct sock *sk)
{
	struct prefix_listener *l = listener_of(sk);

	write_lock_bh(&sk->sk_callback_lock);
	WRITE_ONCE(sk->sk_data_ready, l->data_ready);
	write_unlock_bh(&sk->sk_callback_lock);

	spin_lock_bh(&l->lock);
	l->closed = true;
	spin_unlock_bh(&l->lock);
	/* No timer is left that queues it when there is no queue any more. */
	cancel_delayed_work(&l->work);
	queue_work(espintcp_wq, &l->end);
}
