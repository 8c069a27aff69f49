/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Every difference between the kernels we build for.
 *
 * net/espintcp is written for the newest kernel. Each block here names the
 * release that brought what it stands in for; when that is the oldest kernel
 * supported, the block and its line in probe.mk go.
 */
#ifndef ESPINTCP_COMPAT_H
#define ESPINTCP_COMPAT_H

#include <linux/bvec.h>
#include <linux/crypto.h>
#include <linux/module.h>
#include <linux/uio.h>
#include <net/inet_common.h>
#include <net/net_namespace.h>
#include <net/sock.h>
#include <net/tcp.h>
#include <net/xfrm.h>

/* 6.12: asm/unaligned.h moved to linux/ */
#ifdef COMPAT_HAVE_LINUX_UNALIGNED
#include <linux/unaligned.h>
#else
#include <asm/unaligned.h>
#endif

/* 6.5: GSO has a header of its own */
#ifdef COMPAT_HAVE_NET_GSO
#include <net/gso.h>
#endif

/*
 * 6.5: pages go to TCP through MSG_SPLICE_PAGES, and proto and proto_ops lost
 * sendpage. (Debian's 6.1 has the flag's name, but TCP does not know it.)
 */
#ifdef COMPAT_HAVE_SPLICE_PAGES
static inline int compat_tcp_send_pages(struct sock *sk, struct bio_vec *bvec,
					unsigned int n, size_t octets,
					int flags)
{
	struct msghdr msg = {
		.msg_flags = flags | MSG_SPLICE_PAGES,
	};

	iov_iter_bvec(&msg.msg_iter, ITER_SOURCE, bvec, n, octets);
	return tcp_sendmsg_locked(sk, &msg, octets);
}

static inline void compat_prot_no_sendpage(struct proto *prot)
{
}

static inline void compat_ops_no_sendpage(struct proto_ops *ops)
{
}
#else
static inline int compat_tcp_send_pages(struct sock *sk, struct bio_vec *bvec,
					unsigned int n, size_t octets,
					int flags)
{
	int sent = 0, ret;

	/* Would have the pages copied by way of kmap(), which may sleep. */
	if (!(sk->sk_route_caps & NETIF_F_SG)) {
		struct msghdr msg = { .msg_flags = flags };

		iov_iter_bvec(&msg.msg_iter, ITER_SOURCE, bvec, n, octets);
		return tcp_sendmsg_locked(sk, &msg, octets);
	}
	for (; n; n--, bvec++) {
		int more = n > 1 ? MSG_MORE | MSG_SENDPAGE_NOTLAST : 0;

		ret = tcp_sendpage_locked(sk, bvec->bv_page, bvec->bv_offset,
					  bvec->bv_len, flags | more);
		if (ret < 0)
			return sent ?: ret;
		sent += ret;
		if (ret < bvec->bv_len)
			break;
	}
	return sent;
}

static inline int compat_sendpage(struct sock *sk, struct page *page,
				  int offset, size_t size, int flags)
{
	return -EOPNOTSUPP;
}

static inline void compat_prot_no_sendpage(struct proto *prot)
{
	prot->sendpage = compat_sendpage;
}

static inline void compat_ops_no_sendpage(struct proto_ops *ops)
{
	ops->sendpage_locked = NULL;
	ops->sendmsg_locked = NULL;
}
#endif

/* 6.13: hrtimer_setup() */
#ifdef COMPAT_HAVE_HRTIMER_SETUP
#define compat_hrtimer_setup hrtimer_setup
#else
static inline void
compat_hrtimer_setup(struct hrtimer *timer,
		     enum hrtimer_restart (*function)(struct hrtimer *),
		     clockid_t clock_id, enum hrtimer_mode mode)
{
	hrtimer_init(timer, clock_id, mode);
	timer->function = function;
}
#endif

/* 6.3: crypto completions get their data, not the request */
#ifdef COMPAT_HAVE_CRYPTO_COMPLETION_DATA
typedef void *compat_crypto_data_t;

static inline void *compat_crypto_data(compat_crypto_data_t data)
{
	return data;
}
#else
typedef struct crypto_async_request *compat_crypto_data_t;

static inline void *compat_crypto_data(compat_crypto_data_t data)
{
	return data->data;
}
#endif

/* 6.5: proto.ioctl gets a kernel pointer */
#ifdef COMPAT_HAVE_IOCTL_KARG
typedef int *compat_ioctl_arg_t;

static inline int compat_ioctl_return(int value, compat_ioctl_arg_t arg)
{
	*arg = value;
	return 0;
}
#else
typedef unsigned long compat_ioctl_arg_t;

static inline int compat_ioctl_return(int value, compat_ioctl_arg_t arg)
{
	return put_user(value, (int __user *)arg);
}
#endif

/* 7.1: proto.recvmsg lost addr_len */
#ifdef COMPAT_HAVE_RECVMSG_ADDR_LEN
#define COMPAT_RECVMSG_PARAMS	struct sock *sk, struct msghdr *msg, \
				size_t len, int flags, int *addr_len
#define COMPAT_RECVMSG_ARGS	sk, msg, len, flags, addr_len
#else
#define COMPAT_RECVMSG_PARAMS	struct sock *sk, struct msghdr *msg, \
				size_t len, int flags
#define COMPAT_RECVMSG_ARGS	sk, msg, len, flags
#endif

/* 6.6: tables of sysctls are registered with their length */
#ifdef COMPAT_HAVE_NET_SYSCTL_SZ
#define compat_register_net_sysctl register_net_sysctl_sz
#else
static inline struct ctl_table_header *
compat_register_net_sysctl(struct net *net, const char *path,
			   struct ctl_table *table, size_t n)
{
	return register_net_sysctl(net, path, table);
}
#endif

/* 6.15: ECN of a connection is a mode, not a flag */
#ifdef COMPAT_HAVE_TCP_ECN_MODE
static inline void compat_tcp_ecn_disable(struct sock *sk)
{
	tcp_ecn_mode_set(tcp_sk(sk), TCP_ECN_DISABLED);
}
#else
static inline void compat_tcp_ecn_disable(struct sock *sk)
{
	tcp_sk(sk)->ecn_flags &= ~TCP_ECN_OK;
}
#endif

/* 6.12: the CPU may be unable to read what a packet carries */
#ifndef COMPAT_HAVE_FRAGS_READABLE
static inline bool skb_frags_readable(const struct sk_buff *skb)
{
	return true;
}
#endif

/* 6.12: several at once */
#ifndef XFRM_ADD_STATS
#ifdef CONFIG_XFRM_STATISTICS
#define XFRM_ADD_STATS(net, field, val) \
	SNMP_ADD_STATS((net)->mib.xfrm_statistics, field, val)
#else
#define XFRM_ADD_STATS(net, field, val)	((void)(net))
#endif
#endif

/* 6.11: XFRM can send NAT keepalives by itself, for whatever encapsulation */
#ifdef COMPAT_HAVE_NAT_KEEPALIVE
static inline void compat_no_nat_keepalive(struct xfrm_state *x)
{
	x->nat_keepalive_interval = 0;
}
#else
static inline void compat_no_nat_keepalive(struct xfrm_state *x)
{
}
#endif

/* 6.15: tcp_ulp_ops.get_info learns who asks; before, only administrators did */
#ifdef COMPAT_HAVE_ULP_INFO_NET_ADMIN
#define COMPAT_ULP_INFO_PARAMS	struct sock *sk, struct sk_buff *skb, \
				bool net_admin
#define COMPAT_ULP_INFO_SIZE_PARAMS	const struct sock *sk, bool net_admin
#define COMPAT_ULP_INFO_NET_ADMIN	net_admin
#else
#define COMPAT_ULP_INFO_PARAMS	struct sock *sk, struct sk_buff *skb
#define COMPAT_ULP_INFO_SIZE_PARAMS	const struct sock *sk
#define COMPAT_ULP_INFO_NET_ADMIN	true
#endif

/* 6.10: accept() has its arguments in a structure */
#ifdef COMPAT_HAVE_PROTO_ACCEPT_ARG
#define COMPAT_ACCEPT_PARAMS	struct socket *sock, struct socket *newsock, \
				struct proto_accept_arg *arg
#define COMPAT_ACCEPT_FLAGS	arg->flags

static inline struct sock *compat_accept(struct sock *sk)
{
	struct proto_accept_arg arg = { .flags = O_NONBLOCK };

	return sk->sk_prot->accept(sk, &arg);
}
#else
#define COMPAT_ACCEPT_PARAMS	struct socket *sock, struct socket *newsock, \
				int flags, bool kern
#define COMPAT_ACCEPT_FLAGS	flags

static inline struct sock *compat_accept(struct sock *sk)
{
	int err;

	return sk->sk_prot->accept(sk, O_NONBLOCK, &err, false);
}
#endif

/* 7.0: the memory of a connection is charged to who accepts it, when that is done;
 * before, TCP's part of accept() did it
 */
#ifdef COMPAT_HAVE_INET_ACCEPT
#define compat_graft __inet_accept
#else
static inline void compat_graft(struct socket *sock, struct socket *newsock,
				struct sock *sk)
{
	sock_graft(sk, newsock);
	newsock->state = SS_CONNECTED;
}
#endif

/* 6.2: which page fragment TCP copies into is a field's to say. Before, a socket
 * that allocates atomically uses none of a task's. (Debian's later 6.1 has it.)
 */
#ifdef COMPAT_HAVE_USE_TASK_FRAG
static inline void compat_no_task_frag(struct sock *sk)
{
	sk->sk_use_task_frag = false;
}
#else
static inline void compat_no_task_frag(struct sock *sk)
{
}
#endif

/* 6.8: who asks for skb->decrypted need not know whether there is such a thing */
#ifndef COMPAT_HAVE_SKB_IS_DECRYPTED
static inline bool skb_is_decrypted(const struct sk_buff *skb)
{
#ifdef CONFIG_TLS_DEVICE
	return skb->decrypted;
#else
	return false;
#endif
}
#endif

/* 6.15: XFRM sets an SA's offload type after init_state(), not before. Returns
 * true when init_state() may set another.
 */
#ifdef COMPAT_HAVE_SET_TYPE_OFFLOAD
static inline bool compat_early_type_offload(struct xfrm_state *x)
{
	return false;
}
#else
static inline bool compat_early_type_offload(struct xfrm_state *x)
{
	if (x->type_offload) {
		module_put(x->type_offload->owner);
		x->type_offload = NULL;
	}
	return true;
}
#endif

#endif
