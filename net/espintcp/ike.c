// SPDX-License-Identifier: GPL-2.0
/*
 * The daemon's side of the socket: IKE messages out and in, poll.
 *
 * The socket behaves as a datagram socket over a TCP connection: one call, one
 * message.
 */
#include <linux/poll.h>
#include <linux/sched/signal.h>
#include <linux/sizes.h>
#include <net/tcp.h>

#include "espintcp.h"

/* MSG_BATCH comes from sendmmsg(); messages are not held back for others. */
#define ESPINTCP_SEND_FLAGS	(MSG_DONTWAIT | MSG_NOSIGNAL | MSG_BATCH | \
				 MSG_CMSG_COMPAT)
/* Memory of messages that wait for the daemon unless it says otherwise, octets. */
#define ESPINTCP_IKE_RCVBUF	SZ_256K

/* SO_RCVBUF, but not what TCP makes of it by itself for a faster stream: no global
 * bound knows of this memory.
 */
static unsigned int ike_rcvbuf(const struct sock *sk)
{
	unsigned int octets = READ_ONCE(sk->sk_rcvbuf);

	lockdep_assert(lockdep_sock_is_held(sk));
	if (sk->sk_userlocks & SOCK_RCVBUF_LOCK)
		return octets;
	return min_t(unsigned int, octets, ESPINTCP_IKE_RCVBUF);
}

/**
 * espintcp_ike_enqueue - a message for the daemon
 * @conn: the connection
 * @skb: the message, in memory of its own; consumed on success
 *
 * Bounded, but not charged to the socket's receive memory, from which TCP derives
 * its window: a daemon that does not read must not hold up ESP. One message is
 * always taken.
 *
 * Context: process or softirq, socket lock held.
 * Return: 0 or -ENOBUFS.
 */
int espintcp_ike_enqueue(struct espintcp_conn *conn, struct sk_buff *skb)
{
	struct sk_buff_head *queue = &conn->ike_queue;
	int err = -ENOBUFS;

	spin_lock_bh(&queue->lock);
	if (conn->ike_truesize < ike_rcvbuf(conn->sk)) {
		conn->ike_truesize += skb->truesize;
		__skb_queue_tail(queue, skb);
		err = 0;
	}
	spin_unlock_bh(&queue->lock);
	return err;
}

/* Takes the next message, or a reference on it. */
static struct sk_buff *ike_next(struct espintcp_conn *conn, bool peek)
{
	struct sk_buff_head *queue = &conn->ike_queue;
	struct sk_buff *skb;

	spin_lock_bh(&queue->lock);
	skb = skb_peek(queue);
	if (skb && peek) {
		skb_get(skb);
	} else if (skb) {
		__skb_unlink(skb, queue);
		conn->ike_truesize -= skb->truesize;
	}
	spin_unlock_bh(&queue->lock);
	return skb;
}

/* There may be messages in what is still to be looked at. */
static bool ike_is_coming(const struct espintcp_conn *conn)
{
	/* Pairs with espintcp_rx_run(): once it is false they are in the queue. */
	return smp_load_acquire(&conn->rx.more) && !READ_ONCE(conn->rx.stopped);
}

/* TCP has closed it, and what came before that has been looked at. */
static bool ike_is_closed(const struct espintcp_conn *conn)
{
	return inet_sk_state_load(conn->sk) == TCP_CLOSE && !ike_is_coming(conn);
}

/* There is an error, and it is not that of a reset behind what is still to be looked
 * at.
 */
static bool ike_failed(const struct espintcp_conn *conn)
{
	if (!READ_ONCE(conn->sk->sk_err))
		return false;
	/* Pairs with ulp_data_ready(). */
	smp_rmb();
	return inet_sk_state_load(conn->sk) != TCP_CLOSE || ike_is_closed(conn);
}

/* The same when TCP is done with it: of a reset it sets the error, then closes the
 * connection, then what came before is looked at. A connection that stays open has an
 * error of another kind, as that of an ICMP message.
 */
static bool ike_failed_for_sure(struct espintcp_conn *conn)
{
	struct sock *sk = conn->sk;

	if (!READ_ONCE(sk->sk_err))
		return false;
	/* Pairs with ulp_data_ready(). */
	smp_rmb();
	if (ike_is_coming(conn)) {
		lock_sock(sk);
		release_sock(sk);
	}
	return ike_failed(conn);
}

/* No message will come any more. */
static bool ike_eof(const struct espintcp_conn *conn)
{
	const struct sock *sk = conn->sk;
	/* Pairs with espintcp_conn_abort(): who stopped it has said why. */
	bool stopped = smp_load_acquire(&conn->rx.stopped);

	/* A stream that is about to be reset ends with the error. */
	if (READ_ONCE(conn->abort_err) && inet_sk_state_load(sk) != TCP_CLOSE)
		return false;
	/* Pairs with rx_end_of_stream(): the last message is in the queue. */
	if (smp_load_acquire(&conn->rx.eof))
		return true;
	if (READ_ONCE(conn->rx.closed))
		return true;
	/* Reset. After a FIN there may be data that is still to be read. */
	if (ike_is_closed(conn) && !sock_flag(sk, SOCK_DONE))
		return true;
	/* Unless nobody will. */
	return READ_ONCE(sk->sk_shutdown) & RCV_SHUTDOWN && stopped;
}

/* Takes the next message: NULL and @err 0 at EOF, -EAGAIN to wait. */
static struct sk_buff *ike_recv(struct espintcp_conn *conn, bool peek, int *err)
{
	bool eof = ike_eof(conn), failed;
	struct sk_buff *skb;

	/* TCP sets the error, then the state: an end that has a cause shows it. */
	smp_rmb();
	failed = ike_failed_for_sure(conn);
	/* And what came before them is received before them. */
	smp_rmb();
	skb = ike_next(conn, peek);
	if (skb)
		return skb;
	*err = failed ? sock_error(conn->sk) : 0;
	/* Sending may have waited for that. */
	if (*err)
		espintcp_conn_kick(conn);
	if (!*err && !eof)
		*err = -EAGAIN;
	return NULL;
}

/* Waits for a message, EOF or an error. Returns 0 to look again. */
static int ike_recv_wait(struct espintcp_conn *conn, long *timeo)
{
	struct sock *sk = conn->sk;
	DEFINE_WAIT_FUNC(wait, woken_wake_function);

	if (signal_pending(current))
		return sock_intr_errno(*timeo);

	add_wait_queue(sk_sleep(sk), &wait);
	/* Pairs with wq_has_sleeper(): it sees us, or we see what it woke for. */
	smp_mb();
	if (skb_queue_empty_lockless(&conn->ike_queue) &&
	    !ike_failed(conn) && !ike_eof(conn))
		*timeo = wait_woken(&wait, TASK_INTERRUPTIBLE, *timeo);
	remove_wait_queue(sk_sleep(sk), &wait);
	return 0;
}

/**
 * espintcp_ike_recvmsg - receive one IKE message
 * @sk: the socket
 * @msg: where to
 * @len: room there, octets; the rest of a longer message is lost
 * @flags: MSG_PEEK, MSG_TRUNC, MSG_DONTWAIT as on a datagram socket
 *
 * Context: process.
 * Return: octets of the message, 0 at the end of the stream, the stream's
 *	error (-EBADMSG when framing broke), -EAGAIN, -EINTR or -ERESTARTSYS.
 */
int espintcp_ike_recvmsg(struct sock *sk, struct msghdr *msg, size_t len,
			 int flags)
{
	struct espintcp_conn *conn = espintcp_conn_of_call(sk);
	long timeo = sock_rcvtimeo(sk, flags & MSG_DONTWAIT);
	struct sk_buff *skb;
	int err, copied;

	if (flags & MSG_OOB)
		return -EOPNOTSUPP;

	while (!(skb = ike_recv(conn, flags & MSG_PEEK, &err))) {
		if (err != -EAGAIN || !timeo)
			return err;
		err = ike_recv_wait(conn, &timeo);
		if (err)
			return err;
	}

	copied = min_t(size_t, len, skb->len);
	if (copied < skb->len)
		msg->msg_flags |= MSG_TRUNC;
	err = skb_copy_datagram_msg(skb, 0, msg, copied);
	if (!err)
		err = flags & MSG_TRUNC ? skb->len : copied;
	consume_skb(skb);
	return err;
}

/**
 * espintcp_ike_inq - length of the next message
 * @conn: the connection
 *
 * Context: process.
 * Return: octets, 0 when there is none.
 */
int espintcp_ike_inq(struct espintcp_conn *conn)
{
	struct sk_buff_head *queue = &conn->ike_queue;
	struct sk_buff *skb;
	int len;

	spin_lock_bh(&queue->lock);
	skb = skb_peek(queue);
	len = skb ? skb->len : 0;
	spin_unlock_bh(&queue->lock);
	return len;
}

static bool ike_can_send(const struct sock *sk)
{
	return !READ_ONCE(sk->sk_err) &&
	       !(READ_ONCE(sk->sk_shutdown) & SEND_SHUTDOWN);
}

/* A frame with the message in it, or an error pointer. */
static struct sk_buff *ike_frame(const struct espintcp_conn *conn,
				 struct msghdr *msg, size_t len)
{
	unsigned int frame_len = ESPINTCP_LEN_SIZE + len;
	struct sk_buff *skb;
	u8 *p;
	int err;

	skb = alloc_skb(0, GFP_KERNEL);
	if (!skb)
		return ERR_PTR(-ENOMEM);
	err = espintcp_frame_alloc(conn, skb, frame_len, GFP_KERNEL);
	if (err)
		goto free_skb;

	p = espintcp_frame_data(skb);
	put_unaligned_be16(frame_len, p);
	err = -EFAULT;
	if (!copy_from_iter_full(p + ESPINTCP_LEN_SIZE, len, &msg->msg_iter))
		goto free_frame;
	return skb;

free_frame:
	espintcp_frame_free(skb);
free_skb:
	kfree_skb(skb);
	return ERR_PTR(err);
}

static bool ike_has_room(struct espintcp_conn *conn)
{
	if (espintcp_txq_ike_room(conn))
		return true;
	WRITE_ONCE(conn->ike_wait, true);
	/* Pairs with espintcp_ike_wake_writer(): it sees us, or we see room. */
	smp_mb();
	return espintcp_txq_ike_room(conn);
}

/* Waits until a message would be taken. Socket lock held, dropped meanwhile. */
static int ike_send_wait(struct espintcp_conn *conn, long timeo)
{
	struct sock *sk = conn->sk;
	DEFINE_WAIT_FUNC(wait, woken_wake_function);
	int err = 0;

	if (ike_has_room(conn) || !ike_can_send(sk))
		return 0;

	add_wait_queue(sk_sleep(sk), &wait);
	while (!ike_has_room(conn) && ike_can_send(sk)) {
		if (!timeo) {
			err = -EAGAIN;
			break;
		}
		if (signal_pending(current)) {
			err = sock_intr_errno(timeo);
			break;
		}
		sk_wait_event(sk, &timeo,
			      espintcp_txq_ike_room(conn) || !ike_can_send(sk),
			      &wait);
	}
	remove_wait_queue(sk_sleep(sk), &wait);
	return err;
}

/**
 * espintcp_ike_wake_writer - IKE frames have left the queue
 * @conn: the connection
 *
 * Context: process or softirq, socket lock held.
 */
void espintcp_ike_wake_writer(struct espintcp_conn *conn)
{
	struct socket_wq *wq;

	/* Pairs with ike_has_room(). */
	smp_mb();
	if (!READ_ONCE(conn->ike_wait) || !espintcp_txq_ike_room(conn))
		return;
	WRITE_ONCE(conn->ike_wait, false);

	rcu_read_lock();
	wq = rcu_dereference(conn->sk->sk_wq);
	if (skwq_has_sleeper(wq))
		wake_up_interruptible_poll(&wq->wait, EPOLLOUT |
					   EPOLLWRNORM | EPOLLWRBAND);
	if (wq && wq->fasync_list)
		sock_wake_async(wq, SOCK_WAKE_SPACE, POLL_OUT);
	rcu_read_unlock();
}

/**
 * espintcp_sendmsg - send one IKE message
 * @sk: the socket
 * @msg: the message; control messages are not supported
 * @len: its octets, at most %ESPINTCP_MAX_PAYLOAD; 0 sends nothing
 *
 * proto.sendmsg. Context: process.
 * Return: @len; -EMSGSIZE, -EOPNOTSUPP, -EAGAIN when a full queue must not be
 *	waited for, -EINTR or -ERESTARTSYS, -EPIPE or the stream's error. A
 *	message is sent whole or not at all.
 */
int espintcp_sendmsg(struct sock *sk, struct msghdr *msg, size_t len)
{
	struct espintcp_conn *conn = espintcp_conn_of_call(sk);
	struct sk_buff *skb;
	int err;

	if (msg->msg_flags & ~ESPINTCP_SEND_FLAGS || msg->msg_controllen)
		return -EOPNOTSUPP;
	if (len > ESPINTCP_MAX_PAYLOAD)
		return -EMSGSIZE;
	if (!len)
		return 0;

	skb = ike_frame(conn, msg, len);
	if (IS_ERR(skb))
		return PTR_ERR(skb);

	lock_sock(sk);
	err = ike_send_wait(conn, sock_sndtimeo(sk, msg->msg_flags &
						    MSG_DONTWAIT));
	if (!err && !ike_can_send(sk))
		err = -EPIPE;
	if (!err)
		err = espintcp_txq_enqueue_ike(conn, skb);
	if (err) {
		espintcp_frame_free(skb);
		kfree_skb(skb);
		err = sk_stream_error(sk, msg->msg_flags, err);
	}
	/* Also what waited for an error to be read. */
	espintcp_txq_push(conn);
	release_sock(sk);
	return err ?: len;
}

/**
 * espintcp_poll - what the daemon can do without waiting
 * @file: the socket's file
 * @sock: the socket
 * @wait: poll table
 *
 * proto_ops.poll. Readable for a message, EOF or an error, not for ESP;
 * writable when a message of any size would be taken.
 *
 * Context: process.
 */
__poll_t espintcp_poll(struct file *file, struct socket *sock,
		       struct poll_table_struct *wait)
{
	struct sock *sk = sock->sk;
	struct espintcp_conn *conn = espintcp_conn_of_call(sk);
	__poll_t mask = 0;
	u8 shutdown;
	bool eof;

	sock_poll_wait(file, sock, wait);

	/* Who is told of an end may not come back for a message before it. */
	eof = ike_eof(conn);
	shutdown = READ_ONCE(sk->sk_shutdown);
	if (eof && (shutdown == SHUTDOWN_MASK ||
		    inet_sk_state_load(sk) == TCP_CLOSE))
		mask |= EPOLLHUP;
	if (eof && shutdown & RCV_SHUTDOWN)
		mask |= EPOLLRDHUP;
	if (eof || !skb_queue_empty_lockless(&conn->ike_queue))
		mask |= EPOLLIN | EPOLLRDNORM;
	if (shutdown & SEND_SHUTDOWN || ike_has_room(conn))
		mask |= EPOLLOUT | EPOLLWRNORM;
	/* As in ike_recv(). */
	smp_rmb();
	if (ike_failed(conn) ||
	    !skb_queue_empty_lockless(&sk->sk_error_queue))
		mask |= EPOLLERR;
	return mask;
}
