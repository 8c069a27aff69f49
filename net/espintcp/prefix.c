// SPDX-License-Identifier: GPL-2.0
/*
 * The stream prefix in the kernel, for daemons that want it.
 *
 * On a listening socket the segment that completes the handshake, or the first
 * with data, decides: it makes a connection if it begins with the whole prefix,
 * and until then there is only TCP's request for one, which the kernel bounds in
 * number, time and memory. So accept() and poll() have nothing to hide, and
 * someone slow holds up nobody.
 *
 * The hook is the address family's syn_recv_sock(), in a copy of its operations
 * that a listening socket can be given and a connection gives back. The option
 * itself comes by way of netfilter's, the only ones that a socket of TCP which
 * has no ULP passes on.
 */
#include <linux/espintcp.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/netfilter.h>
#include <net/request_sock.h>
#include <net/tcp.h>

#include "espintcp.h"

#define PREFIX		"IKETCP"
#define PREFIX_LEN	(sizeof(PREFIX) - 1)
/* TCP repeats a SYN-ACK after 1, 2, 4... seconds, but not for ever. */
#define PREFIX_TRIES_MAX	6

/**
 * struct prefix_family - the operations of TCP with ours in between
 * @base: TCP's for a connection of this family, NULL until the first is asked for
 * @base_ops: those of its socket
 * @af_ops: a listening socket's
 * @ops: those of its socket
 */
struct prefix_family {
	const struct inet_connection_sock_af_ops *base;
	const struct proto_ops *base_ops;
	struct inet_connection_sock_af_ops af_ops;
	struct proto_ops ops;
};

static struct prefix_family prefix_v4, prefix_v6;
static DEFINE_MUTEX(prefix_lock);	/* filling in these two */

/* By its family, not by its operations: the option may be switched off just now. */
static struct prefix_family *prefix_family_of(const struct sock *sk)
{
	return sk->sk_family == AF_INET6 ? &prefix_v6 : &prefix_v4;
}

enum prefix_verdict { PREFIX_WAIT, PREFIX_GOOD, PREFIX_BAD };

static enum prefix_verdict prefix_look(struct request_sock *req,
				       const struct sk_buff *skb)
{
	const struct tcphdr *th = tcp_hdr(skb);
	int offset = skb_transport_offset(skb) + th->doff * 4;
	unsigned int n = min_t(int, skb->len - offset, PREFIX_LEN);
	u8 octets[PREFIX_LEN];

	if (ntohl(th->seq) + th->syn != tcp_rsk(req)->rcv_isn + 1 ||
	    (int)skb->len < offset)
		return PREFIX_WAIT;
	if (skb_copy_bits(skb, offset, octets, n))
		return PREFIX_WAIT;
	if (memcmp(octets, PREFIX, n))
		return PREFIX_BAD;
	return n == PREFIX_LEN ? PREFIX_GOOD : PREFIX_WAIT;
}

static void prefix_refuse(const struct sock *sk, struct sk_buff *skb,
			  struct request_sock *req)
{
	espintcp_count(sock_net(sk), ESPINTCP_CNT_PREFIX_BAD);
	compat_send_reset(req, sk, skb);
	/* A SYN cookie makes a request that nobody else has. */
	if (!hlist_nulls_unhashed(&req_to_sk(req)->sk_nulls_node))
		inet_csk_reqsk_queue_drop(req->rsk_listener, req);
}

/* The request stays as it is when this returns NULL, as it does when the accept
 * queue is full: the peer sends again.
 */
static struct sock *prefix_syn_recv(COMPAT_SYN_RECV_PARAMS)
{
	const struct prefix_family *pf = prefix_family_of(sk);
	struct sock *child;

	switch (prefix_look(req, skb)) {
	case PREFIX_WAIT:
		return NULL;
	case PREFIX_BAD:
		prefix_refuse(sk, skb, req);
		return NULL;
	case PREFIX_GOOD:
		break;
	}

	child = pf->base->syn_recv_sock(COMPAT_SYN_RECV_ARGS);
	/* Locked still. IPv4 on an IPv6 socket has got others already. */
	if (child && inet_csk(child)->icsk_af_ops == &pf->af_ops)
		inet_csk(child)->icsk_af_ops = pf->base;
	return child;
}

/* sk_read_actor_t: takes the prefix and nothing behind it. */
static int prefix_take(read_descriptor_t *desc, struct sk_buff *skb,
		       unsigned int offset, size_t len)
{
	unsigned int n = min_t(size_t, len, desc->count);
	u8 octets[PREFIX_LEN];

	if (skb_copy_bits(skb, offset, octets, n) ||
	    memcmp(octets, PREFIX + PREFIX_LEN - desc->count, n)) {
		desc->error = -ECONNABORTED;
		return 0;
	}
	desc->count -= n;
	return n;
}

/* A connection made before the option was set has not been looked at. */
static int prefix_attach(struct sock *sk)
{
	read_descriptor_t desc = { .count = PREFIX_LEN };
	char ulp[] = "espintcp";

	lock_sock(sk);
	tcp_read_sock(sk, &desc, prefix_take);
	release_sock(sk);
	if (desc.count) {
		espintcp_count(sock_net(sk), ESPINTCP_CNT_PREFIX_BAD);
		tcp_abort(sk, ECONNABORTED);
		return -ECONNABORTED;
	}
	return sk->sk_prot->setsockopt(sk, SOL_TCP, TCP_ULP,
				       KERNEL_SOCKPTR(ulp), sizeof(ulp) - 1);
}

static bool prefix_is_on(const struct sock *sk)
{
	return READ_ONCE(inet_csk(sk)->icsk_af_ops) ==
	       &prefix_family_of(sk)->af_ops;
}

/* proto_ops.accept of a listening socket. */
static int prefix_accept(COMPAT_ACCEPT_PARAMS)
{
	const struct prefix_family *pf = prefix_family_of(sock->sk);
	int err;

	err = pf->base_ops->accept(COMPAT_ACCEPT_ARGS);
	if (err)
		return err;
	WRITE_ONCE(newsock->ops, pf->base_ops);
	return prefix_is_on(sock->sk) ? prefix_attach(newsock->sk) : 0;
}

static void prefix_switch_off(struct sock *sk)
{
	struct inet_connection_sock *icsk = inet_csk(sk);

	if (!prefix_is_on(sk))
		return;
	WRITE_ONCE(icsk->icsk_accept_queue.rskq_defer_accept, 0);
	WRITE_ONCE(icsk->icsk_syn_retries, 0);
	WRITE_ONCE(icsk->icsk_af_ops, prefix_family_of(sk)->base);
}

/* proto_ops.release of a socket that the option was set on once: a task may
 * sleep in prefix_accept() until then.
 */
static int prefix_release(struct socket *sock)
{
	const struct prefix_family *pf = prefix_family_of(sock->sk);
	int err;

	lock_sock(sock->sk);
	prefix_switch_off(sock->sk);
	WRITE_ONCE(sock->ops, pf->base_ops);
	release_sock(sock->sk);
	err = pf->base_ops->release(sock);
	/* As in hand_to_stock(), unloading waits until we have returned. */
	module_put(THIS_MODULE);
	return err;
}

/* TCP's own operations are not exported: look at those of a socket. */
static int prefix_family_fill(struct prefix_family *pf, int family)
{
	struct socket *sock;
	int err;

	err = sock_create_kern(&init_net, family, SOCK_STREAM, IPPROTO_TCP,
			       &sock);
	if (err)
		return err;
	pf->base_ops = sock->ops;
	pf->ops = *sock->ops;
	pf->ops.accept = prefix_accept;
	pf->ops.release = prefix_release;
	/* Once a listening socket, never a connection. */
	pf->ops.connect = sock_no_connect;
	pf->base = inet_csk(sock->sk)->icsk_af_ops;
	pf->af_ops = *pf->base;
	pf->af_ops.syn_recv_sock = prefix_syn_recv;
	sock_release(sock);
	return 0;
}

static int prefix_prepare(const struct sock *sk)
{
	struct prefix_family *pf = prefix_family_of(sk);
	int err = 0;

	mutex_lock(&prefix_lock);
	if (!pf->base)
		err = prefix_family_fill(pf, sk->sk_family);
	mutex_unlock(&prefix_lock);
	return err;
}

/* How often a SYN-ACK is repeated in @seconds: after 1, 3, 7... of them. */
static unsigned int prefix_tries(int seconds)
{
	unsigned int n = 1;

	while (n < PREFIX_TRIES_MAX && (2 << n) - 1 < seconds)
		n++;
	return n;
}

/* For as long as the socket is open. */
static int prefix_install(struct sock *sk, const struct prefix_family *pf)
{
	if (sk->sk_socket->ops == &pf->ops)
		return 0;
	if (inet_csk(sk)->icsk_af_ops != pf->base ||
	    sk->sk_socket->ops != pf->base_ops)
		return -EBUSY;
	__module_get(THIS_MODULE);
	WRITE_ONCE(sk->sk_socket->ops, &pf->ops);
	return 0;
}

static int prefix_set_listener(struct sock *sk, int seconds)
{
	struct inet_connection_sock *icsk = inet_csk(sk);
	const struct prefix_family *pf = prefix_family_of(sk);
	unsigned int tries = prefix_tries(seconds);
	int err;

	if (!seconds) {
		prefix_switch_off(sk);
		return 0;
	}
	err = prefix_install(sk, pf);
	if (err)
		return err;
	/* An ACK without data makes no connection, and is not repeated for. */
	WRITE_ONCE(icsk->icsk_syn_retries, tries);
	WRITE_ONCE(icsk->icsk_accept_queue.rskq_defer_accept, tries);
	WRITE_ONCE(icsk->icsk_af_ops, &pf->af_ops);
	return 0;
}

/* A connection we opened. */
static int prefix_send(struct sock *sk)
{
	struct kvec iov = { .iov_base = PREFIX, .iov_len = PREFIX_LEN };
	struct espintcp_conn *conn = espintcp_conn_of(sk);
	struct msghdr msg = { .msg_flags = MSG_DONTWAIT | MSG_NOSIGNAL };
	struct tcp_sock *tp = tcp_sk(sk);
	int n;

	if (conn->accepted)
		return -EOPNOTSUPP;
	/* Not a second time, nor behind something else. */
	if (conn->prefix || tp->bytes_sent || tp->write_seq != tp->snd_nxt)
		return -EALREADY;

	iov_iter_kvec(&msg.msg_iter, ITER_SOURCE, &iov, 1, PREFIX_LEN);
	n = tcp_sendmsg_locked(sk, &msg, PREFIX_LEN);
	if (n < 0)
		return n;
	conn->prefix = true;
	return 0;
}

static bool prefix_is_conn(const struct sock *sk)
{
	return inet_csk(sk)->icsk_ulp_ops &&
	       inet_csk(sk)->icsk_ulp_ops->owner == THIS_MODULE;
}

static bool prefix_is_tcp(const struct sock *sk)
{
	return sk->sk_type == SOCK_STREAM && sk->sk_protocol == IPPROTO_TCP &&
	       sk->sk_socket;
}

/* nf_sockopt_ops.set: process, socket not locked. */
static int prefix_set(struct sock *sk, int optname, sockptr_t arg,
		      unsigned int len)
{
	int value, err;

	if (!prefix_is_tcp(sk))
		return -ENOPROTOOPT;
	if (!espintcp_permitted(sock_net(sk)))
		return -EPERM;
	if (len < sizeof(value) ||
	    copy_from_sockptr(&value, arg, sizeof(value)) || value < 0)
		return -EINVAL;
	err = prefix_prepare(sk);
	if (err)
		return err;

	lock_sock(sk);
	if (sk->sk_state == TCP_LISTEN)
		err = prefix_set_listener(sk, value);
	else if (!prefix_is_conn(sk))
		err = -ENOTCONN;
	else
		err = value ? prefix_send(sk) : -EINVAL;
	release_sock(sk);
	return err;
}

/* What a listening socket was given, rounded up. */
static int prefix_seconds(const struct sock *sk)
{
	return (2 << inet_csk(sk)->icsk_syn_retries) - 1;
}

/* nf_sockopt_ops.get: process, socket not locked. */
static int prefix_get(struct sock *sk, int optname, void __user *user, int *len)
{
	int value = 0;

	if (!prefix_is_tcp(sk))
		return -ENOPROTOOPT;
	if (*len < (int)sizeof(value))
		return -EINVAL;

	lock_sock(sk);
	if (prefix_is_on(sk))
		value = prefix_seconds(sk);
	else if (prefix_is_conn(sk))
		value = espintcp_conn_of(sk)->prefix;
	release_sock(sk);

	*len = sizeof(value);
	return copy_to_user(user, &value, sizeof(value)) ? -EFAULT : 0;
}

static struct nf_sockopt_ops prefix_sockopts[] = {
	{
		.pf = PF_INET,
		.set_optmin = ESPINTCP_SO_BASE,
		.set_optmax = ESPINTCP_SO_END,
		.set = prefix_set,
		.get_optmin = ESPINTCP_SO_BASE,
		.get_optmax = ESPINTCP_SO_END,
		.get = prefix_get,
		.owner = THIS_MODULE,
	},
	{
		.pf = PF_INET6,
		.set_optmin = ESPINTCP_SO_BASE,
		.set_optmax = ESPINTCP_SO_END,
		.set = prefix_set,
		.get_optmin = ESPINTCP_SO_BASE,
		.get_optmax = ESPINTCP_SO_END,
		.get = prefix_get,
		.owner = THIS_MODULE,
	},
};

/**
 * espintcp_prefix_init - offer the option
 *
 * Context: process, module load.
 * Return: 0 or a negative errno.
 */
int espintcp_prefix_init(void)
{
	int err = nf_register_sockopt(&prefix_sockopts[0]);

	if (err)
		return err;
	err = nf_register_sockopt(&prefix_sockopts[1]);
	if (err)
		nf_unregister_sockopt(&prefix_sockopts[0]);
	return err;
}

/**
 * espintcp_prefix_exit - withdraw the option
 *
 * Context: process, module unload; no socket has it set.
 */
void espintcp_prefix_exit(void)
{
	nf_unregister_sockopt(&prefix_sockopts[1]);
	nf_unregister_sockopt(&prefix_sockopts[0]);
	/* prefix_syn_recv() may have been entered before its socket closed. */
	synchronize_net();
}
