// SPDX-License-Identifier: GPL-2.0
/*
 * Large segment of an inner TCP connection -> ESP frames.
 *
 * Left to itself XFRM cuts a large segment into packets before it asks an ESP
 * type for anything, and each crosses it alone. Here the segment is taken as it
 * leaves the routing code, after netfilter has had its say, and cut as it is
 * copied into frames: headers are written, the payload is copied and summed up
 * in one go, and encrypted where it lies.
 *
 * That is for the plain case. Whatever is unusual about a segment, its SA or the
 * connection is left to XFRM, before anything is changed: it cuts the segment
 * and says what is wrong, if it is.
 */
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/netfilter.h>
#include <linux/netfilter_ipv4.h>
#include <linux/netfilter_ipv6.h>
#include <net/dst.h>
#include <net/ip.h>
#include <net/ip6_checksum.h>
#include <net/netfilter/nf_conntrack.h>
#include <net/netfilter/nf_conntrack_extend.h>
#include <net/netns/generic.h>
#include <net/tcp.h>

#include "espintcp.h"
#include "record.h"
#include "request.h"

/* The rest is for XFRM: tunnels in the tunnel, devices' offers. */
#define ESPINTCP_GSO_TYPES	(SKB_GSO_TCPV4 | SKB_GSO_TCPV6 |	\
				 SKB_GSO_TCP_ECN | SKB_GSO_TCP_FIXEDID)

/**
 * struct gso_cut - a large segment and how it is cut
 * @x: the SA
 * @conn: the connection
 * @skb: the segment, data at its IP header
 * @v6: it is IPv6
 * @l3len: octets of IP header in each packet: none in transport mode
 * @thlen: of TCP header
 * @hdrlen: of both
 * @segs: packets
 * @nexthdr: their protocol, as ESP names it
 * @full: layout of all records but the last
 * @last: of the last
 * @headers: of the packet being made
 */
struct gso_cut {
	struct xfrm_state *x;
	struct espintcp_conn *conn;
	const struct sk_buff *skb;
	bool v6;
	unsigned int l3len;
	unsigned int thlen;
	unsigned int hdrlen;
	unsigned int segs;
	u8 nexthdr;
	struct espintcp_record full;
	struct espintcp_record last;
	u8 headers[ESPINTCP_HEADERS_MAX] __aligned(4);
};

/* Octets of IP header, 0 for one that is not plain. */
static unsigned int gso_l3len(const struct sk_buff *skb)
{
	const struct ipv6hdr *ip6h = (struct ipv6hdr *)skb->data;
	const struct iphdr *iph = (struct iphdr *)skb->data;

	if (skb->protocol == htons(ETH_P_IP) &&
	    skb_headlen(skb) >= sizeof(*iph) && iph->ihl == 5 &&
	    iph->protocol == IPPROTO_TCP && ntohs(iph->tot_len) == skb->len)
		return sizeof(*iph);
	if (skb->protocol == htons(ETH_P_IPV6) &&
	    skb_headlen(skb) >= sizeof(*ip6h) &&
	    ip6h->nexthdr == IPPROTO_TCP &&
	    ntohs(ip6h->payload_len) + sizeof(*ip6h) == skb->len)
		return sizeof(*ip6h);
	return 0;
}

/* What is done to connections when a packet leaves, by hooks after ours, was
 * done with their first packet; except for those whose numbers change on the way,
 * and those of which a helper reads every packet. A local packet that has got its
 * SA with another address is still to be seen by its cgroup.
 */
static bool gso_conntrack_done(const struct sk_buff *skb)
{
#if IS_ENABLED(CONFIG_NF_CONNTRACK)
	enum ip_conntrack_info info;
	const struct nf_conn *ct = nf_ct_get(skb, &info);
	int source_nat;

	if (!ct)
		return true;
	/* A reply's source is changed back from what its destination NAT made. */
	source_nat = CTINFO2DIR(info) == IP_CT_DIR_REPLY ? IPS_DST_NAT_BIT :
							   IPS_SRC_NAT_BIT;
	return nf_ct_is_confirmed(ct) &&
	       !nf_ct_ext_exist(ct, NF_CT_EXT_HELPER) &&
	       !(skb->sk && test_bit(source_nat, &ct->status)) &&
	       !test_bit(IPS_SEQ_ADJUST_BIT, &ct->status);
#else
	return true;
#endif
}

static bool gso_sa_is_plain(const struct xfrm_state *x)
{
	return (x->props.mode == XFRM_MODE_TUNNEL ||
		x->props.mode == XFRM_MODE_TRANSPORT) &&
	       !x->tfcpad && !READ_ONCE(x->xso.dev);
}

/* Looks at @skb, without a word if it is not for us. */
static bool gso_describe(struct gso_cut *cut, struct xfrm_state *x,
			 const struct sk_buff *skb)
{
	unsigned int mss = skb_shinfo(skb)->gso_size, l3len = gso_l3len(skb);
	unsigned int payload;

	if (!l3len || skb_transport_offset(skb) != l3len ||
	    !skb_frags_readable(skb) || skb_is_decrypted(skb) ||
	    skb->ip_summed != CHECKSUM_PARTIAL || skb->encapsulation ||
	    skb_shinfo(skb)->gso_type & ~ESPINTCP_GSO_TYPES ||
	    !(skb_shinfo(skb)->gso_type & (SKB_GSO_TCPV4 | SKB_GSO_TCPV6)) ||
	    skb_headlen(skb) < l3len + sizeof(struct tcphdr))
		return false;

	cut->x = x;
	cut->skb = skb;
	cut->v6 = l3len == sizeof(struct ipv6hdr);
	cut->thlen = tcp_hdrlen(skb);
	cut->l3len = x->props.mode == XFRM_MODE_TUNNEL ? l3len : 0;
	cut->hdrlen = cut->l3len + cut->thlen;
	if (cut->thlen < sizeof(struct tcphdr) ||
	    skb_headlen(skb) < l3len + cut->thlen ||
	    skb->len <= l3len + cut->thlen + mss)
		return false;

	payload = skb->len - l3len - cut->thlen;
	cut->segs = DIV_ROUND_UP(payload, mss);
	cut->nexthdr = !cut->l3len ? IPPROTO_TCP :
		       cut->v6 ? IPPROTO_IPV6 : IPPROTO_IPIP;
	espintcp_record_init(&cut->full, x, cut->hdrlen + mss, 0);
	espintcp_record_init(&cut->last, x, cut->hdrlen + payload -
					    (cut->segs - 1) * mss, 0);
	if (cut->full.len > ESPINTCP_MAX_RECORD)
		return false;
	memcpy(cut->headers, skb->data + l3len - cut->l3len, cut->hdrlen);
	return skb_gso_validate_network_len(skb, dst_mtu(skb_dst(skb)));
}

/* The frames' memory, in as few pieces as the cache allows. @skb stands for the
 * last of them, empty ones that keep the route, and with it the SA, for the rest.
 */
static bool gso_alloc(const struct gso_cut *cut, struct sk_buff *skb,
		      struct espintcp_gso_frames *gso)
{
	unsigned int left = cut->segs, n;
	struct sk_buff *frame;

	while (left) {
		if (gso->n == ESPINTCP_GSO_FRAMES)
			return false;
		n = espintcp_frame_alloc_some(skb, cut->full.len, left);
		if (!n)
			return false;
		left -= n;
		frame = skb;
		if (left) {
			frame = alloc_skb(0, GFP_ATOMIC | __GFP_NOWARN);
			if (!frame) {
				espintcp_frame_free(skb);
				return false;
			}
			memcpy(frame->cb, skb->cb, sizeof(frame->cb));
			skb_dst_set(frame, dst_clone(skb_dst(skb)));
		}
		gso->frame[gso->n++] = frame;
	}
	espintcp_frame(skb)->len -= cut->full.len - cut->last.len;
	return true;
}

static void gso_free(struct sk_buff *skb, struct espintcp_gso_frames *gso)
{
	while (gso->n) {
		struct sk_buff *frame = gso->frame[--gso->n];

		espintcp_frame_free(frame);
		if (frame != skb)
			consume_skb(frame);
	}
}

static __sum16 gso_tcp_check(const struct gso_cut *cut, unsigned int payload,
			     __wsum payload_sum)
{
	const u8 *th = cut->headers + cut->l3len;
	unsigned int len = cut->thlen + payload;
	__wsum sum = csum_partial(th, cut->thlen, payload_sum);

	if (cut->v6) {
		const struct ipv6hdr *ip6h = ipv6_hdr(cut->skb);

		return csum_ipv6_magic(&ip6h->saddr, &ip6h->daddr, len,
				       IPPROTO_TCP, sum);
	}
	return tcp_v4_check(len, ip_hdr(cut->skb)->saddr,
			    ip_hdr(cut->skb)->daddr, sum);
}

/* Headers of packet number @i, with @payload octets that add up to @sum. */
static void gso_headers(struct gso_cut *cut, unsigned int i,
			unsigned int payload, __wsum sum)
{
	struct tcphdr *th = (struct tcphdr *)(cut->headers + cut->l3len);
	const struct skb_shared_info *shinfo = skb_shinfo(cut->skb);
	const struct tcphdr *first = tcp_hdr(cut->skb);
	bool last = i == cut->segs - 1;

	th->seq = htonl(ntohl(first->seq) + i * shinfo->gso_size);
	th->fin = first->fin && last;
	th->psh = first->psh && last;
	th->cwr = first->cwr && !i;
	th->check = 0;
	th->check = gso_tcp_check(cut, payload, sum);
	if (!cut->l3len)
		return;

	if (cut->v6) {
		struct ipv6hdr *ip6h = (struct ipv6hdr *)cut->headers;

		ip6h->payload_len = htons(cut->thlen + payload);
	} else {
		struct iphdr *iph = (struct iphdr *)cut->headers;
		u16 id = ntohs(ip_hdr(cut->skb)->id);

		if (!(shinfo->gso_type & SKB_GSO_TCP_FIXEDID))
			iph->id = htons(id + i);
		iph->tot_len = htons(cut->hdrlen + payload);
		ip_send_check(iph);
	}
}

/* Packet number @i into its record. */
static void gso_build(struct gso_cut *cut, unsigned int i,
		      const struct espintcp_record *rec, u8 *record, u64 seq)
{
	const struct sk_buff *skb = cut->skb;
	unsigned int payload = rec->payload - cut->hdrlen;
	unsigned int offset = skb_transport_offset(skb) + cut->thlen +
			      i * skb_shinfo(skb)->gso_size;
	u8 *packet = espintcp_record_payload(rec, record);
	__wsum sum;

	espintcp_record_begin(rec, cut->x, record, seq);
	sum = skb_copy_and_csum_bits(skb, offset, packet + cut->hdrlen,
				     payload);
	gso_headers(cut, i, payload, sum);
	memcpy(packet, cut->headers, cut->hdrlen);
	espintcp_record_end(rec, record, cut->nexthdr);
}

/* As espintcp_request_run(). */
static int gso_encrypt(struct gso_cut *cut, unsigned int i,
		       const struct espintcp_record *rec, u8 *record, u64 seq,
		       struct sk_buff *frame)
{
	struct espintcp_request *er = espintcp_request_get(cut->x);
	int err;

	if (!er)
		return -ENOMEM;
	er->skb = frame;
	er->conn = cut->conn;
	er->done = espintcp_esp_output_done;
	espintcp_record_set_request(rec, er, record, seq);
	err = espintcp_request_run(er, crypto_aead_encrypt);
	if (err != -EINPROGRESS)
		espintcp_request_put(er);
	return err;
}

/* Fills a frame with packets from number @i on. */
static void gso_fill(struct gso_cut *cut, struct sk_buff *frame,
		     unsigned int i, u64 seq)
{
	unsigned int left = espintcp_frame(frame)->records, ended = 0;
	bool mark = espintcp_frame(frame)->mark;
	u8 *record = espintcp_frame_data(frame);
	int err = 0;

	for (; left && !err; left--, i++) {
		const struct espintcp_record *rec =
			i == cut->segs - 1 ? &cut->last : &cut->full;

		gso_build(cut, i, rec, record, seq + i);
		if (unlikely(mark))
			espintcp_aqm_mark(espintcp_record_payload(rec, record));
		mark = false;
		err = gso_encrypt(cut, i, rec, record, seq + i, frame);
		if (err == -EINPROGRESS)
			err = 0;
		else
			ended++;
		record += rec->len;
	}
	/* When all went asynchronous, the frame may have gone already. */
	if (ended)
		espintcp_esp_output_settle(cut->conn, frame, ended + left, err);
}

static void gso_count(const struct espintcp_conn *conn,
		      const struct espintcp_gso_frames *gso)
{
	struct net *net = conn->key.net;

	espintcp_count_n(net, ESPINTCP_CNT_OUT_GSO, gso->records);
	if (espintcp_frame(gso->frame[0])->mark)
		espintcp_count(net, ESPINTCP_CNT_OUT_AQM_MARK);
}

static bool gso_reserve(struct gso_cut *cut, struct sk_buff *skb,
			struct espintcp_gso_frames *gso)
{
	if (!gso_alloc(cut, skb, gso))
		return false;
	return espintcp_txq_reserve_gso(cut->conn, cut->x, gso);
}

/* The records of a segment should fill one segment of the outer connection, not
 * that and a bit of another: then each crosses the stacks of both ends once. What
 * the route allows is a little too much for that, by the records' overhead. A
 * socket whose segment passes here has its lock held by us, but for segments that
 * were held up on the way, with which the limit comes late.
 */
static void gso_fit(const struct gso_cut *cut, struct sock *sk)
{
	unsigned int max = READ_ONCE(cut->conn->txq.segment) / cut->full.len *
			   skb_shinfo(cut->skb)->gso_size;

	if (!sk || !sk_fullsock(sk) || sk->sk_protocol != IPPROTO_TCP)
		return;
	if (max && READ_ONCE(sk->sk_gso_max_size) > max)
		WRITE_ONCE(sk->sk_gso_max_size, max);
}

static bool gso_output_on(struct gso_cut *cut, struct sk_buff *skb)
{
	struct espintcp_gso_frames gso = {
		.records = cut->segs,
		.record_len = cut->full.len,
		.octets = cut->segs * cut->hdrlen + skb->len -
			  skb_transport_offset(skb) - cut->thlen,
		.ect = cut->l3len && espintcp_aqm_is_ect(cut->headers),
	};
	u8 cb[sizeof(skb->cb)];
	unsigned int i, packet = 0;

	memcpy(cb, skb->cb, sizeof(cb));
	if (!gso_reserve(cut, skb, &gso)) {
		gso_free(skb, &gso);
		memcpy(skb->cb, cb, sizeof(cb));
		return false;
	}

	gso_count(cut->conn, &gso);
	gso_fit(cut, skb->sk);
	if (gso.lost) {
		espintcp_drop(cut->conn->key.net, cut->conn,
			      ESPINTCP_DROP_OUT_AQM);
		packet++;
	}
	for (i = 0; i < gso.n; i++) {
		unsigned int records = espintcp_frame(gso.frame[i])->records;

		gso_fill(cut, gso.frame[i], packet, gso.seq);
		packet += records;
	}
	return true;
}

/* Returns whether @skb, unchanged if not, is the queue's. */
static bool gso_output(struct xfrm_state *x, struct sk_buff *skb)
{
	struct gso_cut cut;
	bool taken = false;

	if (!gso_sa_is_plain(x) || !gso_conntrack_done(skb) ||
	    !gso_describe(&cut, x, skb))
		return false;

	local_bh_disable();
	cut.conn = espintcp_path_get(x);
	/* A policy that catches the connection's own segments is a loop. */
	if (!IS_ERR(cut.conn) &&
	    !(skb->sk && skb->sk == READ_ONCE(cut.conn->sk)))
		taken = gso_output_on(&cut, skb);
	local_bh_enable();
	return taken;
}

#if IS_ENABLED(CONFIG_NETFILTER)
/* Under RCU. */
static unsigned int gso_post_routing(void *priv, struct sk_buff *skb,
				     const struct nf_hook_state *state)
{
	const struct dst_entry *dst = skb_dst(skb);
	struct xfrm_state *x = dst ? dst->xfrm : NULL;

	if (!x || !skb_is_gso(skb) || x->type->output != espintcp_esp_output)
		return NF_ACCEPT;
	/* A VRF has hooks called before XFRM does, for its own device. */
	if (state->out != dst->dev)
		return NF_ACCEPT;
	/* Without its route XFRM could not have it either. */
	if (!skb_dst_force(skb)) {
		XFRM_INC_STATS(xs_net(x), LINUX_MIB_XFRMOUTERROR);
		return NF_DROP_ERR(-EHOSTUNREACH);
	}
	return gso_output(x, skb) ? NF_STOLEN : NF_ACCEPT;
}

/* After all that may look at a packet or change it, but for connection tracking's
 * last word: see gso_conntrack_done().
 */
static const struct nf_hook_ops gso_hooks[] = {
	{
		.hook = gso_post_routing,
		.pf = NFPROTO_IPV4,
		.hooknum = NF_INET_POST_ROUTING,
		.priority = NF_IP_PRI_LAST,
	},
	{
		.hook = gso_post_routing,
		.pf = NFPROTO_IPV6,
		.hooknum = NF_INET_POST_ROUTING,
		.priority = NF_IP6_PRI_LAST,
	},
};

static int gso_register(struct net *net)
{
	return nf_register_net_hooks(net, gso_hooks, ARRAY_SIZE(gso_hooks));
}

static void gso_unregister(struct net *net)
{
	nf_unregister_net_hooks(net, gso_hooks, ARRAY_SIZE(gso_hooks));
}
#else
/* XFRM cuts them all. */
static int gso_register(struct net *net)
{
	return 0;
}

static void gso_unregister(struct net *net)
{
}
#endif

/**
 * struct espintcp_gso_net - a namespace's hooks
 * @started: they are there (gso_lock)
 */
struct espintcp_gso_net {
	bool started;
};

static unsigned int espintcp_gso_id __read_mostly;
static DEFINE_MUTEX(gso_lock);

/**
 * espintcp_gso_start - take large segments from now on
 * @net: a namespace that gets an SA
 *
 * Namespaces without one never have a hook.
 *
 * Context: process.
 * Return: 0 or -ENOMEM.
 */
int espintcp_gso_start(struct net *net)
{
	struct espintcp_gso_net *gn = net_generic(net, espintcp_gso_id);
	int err = 0;

	mutex_lock(&gso_lock);
	if (!gn->started)
		err = gso_register(net);
	if (!err)
		gn->started = true;
	mutex_unlock(&gso_lock);
	return err;
}

static void __net_exit gso_net_exit(struct net *net)
{
	struct espintcp_gso_net *gn = net_generic(net, espintcp_gso_id);

	mutex_lock(&gso_lock);
	if (gn->started)
		gso_unregister(net);
	gn->started = false;
	mutex_unlock(&gso_lock);
}

static struct pernet_operations espintcp_gso_ops = {
	.exit = gso_net_exit,
	.id = &espintcp_gso_id,
	.size = sizeof(struct espintcp_gso_net),
};

/**
 * espintcp_gso_init - no namespace has a hook
 *
 * Context: process, module load.
 * Return: 0 or a negative errno.
 */
int espintcp_gso_init(void)
{
	return register_pernet_subsys(&espintcp_gso_ops);
}

/**
 * espintcp_gso_exit - take all hooks away
 *
 * Context: process, module unload; no SA is ours.
 */
void espintcp_gso_exit(void)
{
	unregister_pernet_subsys(&espintcp_gso_ops);
}

/* A local TCP connection whose route leads into an SA makes large segments only
 * if the SA has an offload type. XFRM does not offload an SA that is
 * encapsulated, so that of the type itself nothing is called, unless an
 * administrator wants a device to have the SA: then it refuses every packet.
 */
static void gso_encap(struct xfrm_state *x, struct sk_buff *skb)
{
}

static int gso_input_tail(struct xfrm_state *x, struct sk_buff *skb)
{
	return -EOPNOTSUPP;
}

static int gso_xmit(struct xfrm_state *x, struct sk_buff *skb,
		    netdev_features_t features)
{
	return -EOPNOTSUPP;
}

static const struct xfrm_type_offload gso_type = {
	.owner = THIS_MODULE,
	.proto = IPPROTO_ESP,
	.encap = gso_encap,
	.input_tail = gso_input_tail,
	.xmit = gso_xmit,
};

/**
 * espintcp_gso_allow - let inner connections make large segments
 * @x: the SA; the module reference of the type goes with it
 *
 * Context: process or softirq; takes xfrm_state.lock.
 */
void espintcp_gso_allow(struct xfrm_state *x)
{
	spin_lock_bh(&x->lock);
	if (!x->type_offload) {
		__module_get(THIS_MODULE);
		WRITE_ONCE(x->type_offload, &gso_type);
	}
	spin_unlock_bh(&x->lock);
}

/**
 * espintcp_gso_keep_off - have nothing of an SA sent by a device on its own
 * @x: the SA, complete, which a device has been given: from Linux 6.15 on XFRM
 *	takes such a request for encapsulated SAs as well, and would send bare ESP
 *
 * Packets may still be in the code of the offload type it had, which is held as long
 * as the SA.
 *
 * Context: process, under RCU; takes xfrm_state.lock.
 */
void espintcp_gso_keep_off(struct xfrm_state *x)
{
	spin_lock_bh(&x->lock);
	if (x->type_offload != &gso_type) {
		espintcp_sa(x)->displaced = x->type_offload;
		__module_get(THIS_MODULE);
		WRITE_ONCE(x->type_offload, &gso_type);
	}
	spin_unlock_bh(&x->lock);
}
