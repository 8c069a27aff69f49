// SPDX-License-Identifier: GPL-2.0
/*
 * ESP records -> large packet of an inner TCP connection.
 *
 * The peer's segments come in runs: record after record of one SA, with packets
 * of one connection in sequence. The first of them goes the ordinary way. Before
 * XFRM has it back, those after it are decrypted, payload behind payload, and
 * become part of the packet, which then crosses XFRM and the stack above once.
 *
 * It is what GRO would make of the packets, by the same rules: the large packet
 * can be cut into them again, bit by bit, and is when it is forwarded. A record
 * whose packet does not fit ends the run. Checksums are verified.
 *
 * The numbers of the records that joined are marked in XFRM's replay window here,
 * before XFRM looks at the first one's.
 */
#include <net/ip.h>
#include <net/ip6_checksum.h>
#include <net/tcp.h>

#include "espintcp.h"
#include "request.h"
#include "trace.h"

/* Pieces of memory for payload. */
#define ESPINTCP_GRO_PIECES	8
/* Flags a packet must not have to join, nor to be joined. */
#define ESPINTCP_GRO_NO_FLAGS	(TCP_FLAG_CWR | TCP_FLAG_URG | TCP_FLAG_SYN | \
				 TCP_FLAG_RST)
/* Those that end a run. */
#define ESPINTCP_GRO_LAST_FLAGS	(TCP_FLAG_FIN | TCP_FLAG_PSH)

/**
 * struct gro_packet - one of the packets
 * @headers: its IP header, none in transport mode, and TCP header
 * @payload: octets after those
 */
struct gro_packet {
	const u8 *headers;
	unsigned int payload;
};

/**
 * struct gro_piece - memory in which payload lies
 * @page: with a reference
 * @offset: where in @page
 * @size: octets
 * @used: of them
 */
struct gro_piece {
	struct page *page;
	u32 offset;
	unsigned int size;
	unsigned int used;
};

/**
 * struct gro_run - a large packet in the making
 * @x: the SA
 * @skb: the first packet, data at its IP header, or TCP header in transport mode
 * @seg: where its record was
 * @er: for decryption; NULL when it went asynchronous
 * @clear: octets of a record before its IV
 * @ivlen: IV
 * @alen: ICV
 * @nexthdr: what ESP names the packets
 * @v6: they are IPv6
 * @l3len: octets of IP header in each, 0 in transport mode
 * @hdrlen: of IP and TCP header
 * @mss: payload of the first packet; no other has more
 * @first: number of the first record
 * @max: records that may join
 * @n: that have
 * @id: of the last packet, IPv4
 * @id_step: by how much the second's was higher: all others' must be as well
 * @end: TCP sequence number after the last
 * @flags: TCP flags and window, of all together
 * @ended: the last one was the last
 * @piece: memory with the payload of those that joined
 * @pieces: how many
 */
struct gro_run {
	struct xfrm_state *x;
	struct sk_buff *skb;
	struct espintcp_segment *seg;
	struct espintcp_request *er;
	unsigned int clear;
	unsigned int ivlen;
	unsigned int alen;
	u8 nexthdr;
	bool v6;
	unsigned int l3len;
	unsigned int hdrlen;
	unsigned int mss;
	u64 first;
	unsigned int max;
	unsigned int n;
	u16 id;
	u16 id_step;
	u32 end;
	__be32 flags;
	bool ended;
	struct gro_piece piece[ESPINTCP_GRO_PIECES];
	unsigned int pieces;
};

static const struct tcphdr *gro_tcp(const struct gro_run *run,
				    const struct gro_packet *p)
{
	return (const struct tcphdr *)(p->headers + run->l3len);
}

static __sum16 gro_tcp_check(const struct gro_run *run,
			     const struct gro_packet *p, __wsum sum)
{
	unsigned int len = run->hdrlen - run->l3len + p->payload;

	if (run->v6) {
		const struct ipv6hdr *ip6h = (const void *)p->headers;

		return csum_ipv6_magic(&ip6h->saddr, &ip6h->daddr, len,
				       IPPROTO_TCP, sum);
	} else {
		const struct iphdr *iph = (const void *)p->headers;

		return tcp_v4_check(len, iph->saddr, iph->daddr, sum);
	}
}

/* In transport mode a NAT may have changed the addresses; ESP vouches. */
static bool gro_check_ok(const struct gro_run *run, const struct gro_packet *p,
			 const u8 *payload)
{
	__wsum sum;

	if (!run->l3len)
		return true;
	if (!run->v6 && ip_fast_csum(p->headers, sizeof(struct iphdr) / 4))
		return false;
	sum = csum_partial(payload, p->payload, 0);
	sum = csum_partial(gro_tcp(run, p), run->hdrlen - run->l3len, sum);
	return !gro_tcp_check(run, p, sum);
}

/* Octets of a plain IPv4 header, 0 of any other. */
static unsigned int gro_ipv4_len(const u8 *headers, unsigned int len)
{
	const struct iphdr *iph = (const void *)headers;

	if (len < sizeof(*iph) || iph->version != 4 || iph->ihl != 5 ||
	    iph->protocol != IPPROTO_TCP || ntohs(iph->tot_len) != len ||
	    iph->frag_off & ~htons(IP_DF))
		return 0;
	return sizeof(*iph);
}

static unsigned int gro_ipv6_len(const u8 *headers, unsigned int len)
{
	const struct ipv6hdr *ip6h = (const void *)headers;

	if (len < sizeof(*ip6h) || ip6h->version != 6 ||
	    ip6h->nexthdr != IPPROTO_TCP ||
	    ntohs(ip6h->payload_len) + sizeof(*ip6h) != len)
		return 0;
	return sizeof(*ip6h);
}

/* Is the packet one of TCP, as XFRM's mode has it? */
static bool gro_first_l3(struct gro_run *run, const u8 *headers,
			 unsigned int len)
{
	if (run->x->props.mode == XFRM_MODE_TRANSPORT) {
		run->v6 = run->x->props.family == AF_INET6;
		return run->nexthdr == IPPROTO_TCP;
	}
	run->v6 = run->nexthdr == IPPROTO_IPV6;
	if (run->v6)
		run->l3len = gro_ipv6_len(headers, len);
	else if (run->nexthdr == IPPROTO_IPIP)
		run->l3len = gro_ipv4_len(headers, len);
	return run->l3len;
}

/* Can the packet that XFRM is to have be joined by others? */
static bool gro_first(struct gro_run *run)
{
	const struct sk_buff *skb = run->skb;
	struct gro_packet p = { .headers = skb->data };
	unsigned int len = skb->len;
	const struct tcphdr *th;

	if (!gro_first_l3(run, p.headers, len))
		return false;
	th = gro_tcp(run, &p);
	if (len < run->l3len + sizeof(*th) || th->doff < sizeof(*th) / 4)
		return false;
	run->hdrlen = run->l3len + th->doff * 4;
	run->flags = tcp_flag_word(th);
	if (len <= run->hdrlen ||
	    run->flags & (ESPINTCP_GRO_NO_FLAGS | ESPINTCP_GRO_LAST_FLAGS) ||
	    !(run->flags & TCP_FLAG_ACK))
		return false;

	run->mss = len - run->hdrlen;
	run->end = ntohl(th->seq) + run->mss;
	p.payload = run->mss;
	if (run->l3len && !run->v6)
		run->id = ntohs(((const struct iphdr *)p.headers)->id);
	return gro_check_ok(run, &p, p.headers + run->hdrlen);
}

/* Is the next record whole, of the SA, and next in sequence? Returns its octets
 * without the length field, 0 if not.
 */
static unsigned int gro_peek(const struct gro_run *run)
{
	u8 buf[ESPINTCP_LEN_SIZE + sizeof(struct ip_esp_hdr)];
	struct espintcp_rest *rest = run->seg->rest;
	unsigned int left = rest->end - rest->offset, len;
	u32 seq = run->first + run->n + 1;
	const u8 *octets;

	if (left < sizeof(buf) || !rest->budget)
		return 0;
	octets = espintcp_rest_octets(rest, rest->offset, sizeof(buf), buf);
	if (!octets)
		return 0;
	len = get_unaligned_be16(octets);
	if (len > left ||
	    get_unaligned((__be32 *)(octets + 2)) != run->x->id.spi ||
	    get_unaligned_be32(octets + 6) != seq || !seq)
		return 0;
	return len - ESPINTCP_LEN_SIZE;
}

/* Room for @need octets of payload, padding and ICV. */
static struct gro_piece *gro_room(struct gro_run *run, unsigned int need)
{
	const struct espintcp_rest *rest = run->seg->rest;
	struct gro_piece *piece = run->piece;

	if (run->pieces) {
		piece += run->pieces - 1;
		if (piece->size - piece->used >= need)
			return piece;
		piece++;
	}
	if (run->pieces == ESPINTCP_GRO_PIECES)
		return NULL;
	/* All the ciphertext there is, less what is certainly no payload. */
	piece->size = espintcp_frag_get_some(need,
					     max(need, rest->end - rest->offset),
					     &piece->page, &piece->offset);
	if (!piece->size)
		return NULL;
	piece->used = 0;
	run->pieces++;
	return piece;
}

static u8 *gro_piece_end(const struct gro_piece *piece)
{
	return (u8 *)page_address(piece->page) + piece->offset + piece->used;
}

/* Nobody waits for the result: the record is taken again, the ordinary way. */
static void gro_abandoned(struct espintcp_request *er)
{
	struct espintcp_conn *conn = er->conn;
	struct xfrm_state *x = er->x;
	struct sk_buff *hold = er->hold;
	struct page *page = er->page;

	espintcp_request_put(er);
	consume_skb(hold);
	put_page(page);
	xfrm_state_put(x);
	espintcp_conn_put(conn);
}

/* Decrypts the next record, of @len octets: headers go to the request, what
 * follows them to the end of @piece. Returns false when it is left as it is.
 */
static bool gro_decrypt(struct gro_run *run, struct gro_piece *piece,
			unsigned int len)
{
	unsigned int cryptlen = len - run->clear, assoclen, early, left;
	struct espintcp_rest *rest = run->seg->rest;
	struct espintcp_request *er = run->er;
	u64 seq = run->first + run->n + 1;
	int err;

	assoclen = espintcp_request_set_aad(er, htonl(seq >> 32), htonl(seq));
	err = espintcp_request_from_segment(er, rest, rest->offset +
					    ESPINTCP_LEN_SIZE + run->clear,
					    cryptlen, &assoclen);
	if (err)
		return false;

	left = cryptlen - run->ivlen - run->hdrlen;
	/* A piece that ends within a block would be decrypted by way of a buffer,
	 * so that the first octets of payload go where the headers do.
	 */
	early = min(ALIGN(run->hdrlen, ESPINTCP_BLOCK) - run->hdrlen, left);
	sg_set_buf(&er->dst[0], er->dst_aad, assoclen);
	sg_set_buf(&er->dst[1], er->head, run->hdrlen + early);
	sg_set_buf(&er->dst[2], gro_piece_end(piece) + early, left - early);
	aead_request_set_crypt(&er->req, er->src, er->dst, cryptlen, er->iv);
	er->page = piece->page;

	err = espintcp_request_run(er, crypto_aead_decrypt);
	if (err == -EINPROGRESS) {
		/* Its memory is not ours any more. */
		run->er = NULL;
		piece->size = piece->used;
	}
	if (err)
		return false;
	memcpy(gro_piece_end(piece), er->head + run->hdrlen, early);
	return true;
}

/* The packet in a decrypted record of @len octets. Returns whether there is one. */
static bool gro_packet(const struct gro_run *run, const struct gro_piece *piece,
		       unsigned int len, struct gro_packet *p)
{
	unsigned int octets = len - run->clear - run->ivlen - run->hdrlen -
			      run->alen;
	const u8 *payload = gro_piece_end(piece);
	unsigned int trailer = payload[octets - 2] + 2;

	if (trailer >= octets || payload[octets - 1] != run->nexthdr)
		return false;
	p->headers = run->er->head;
	p->payload = octets - trailer;
	return true;
}

/* Do two IPv4 headers differ in length, identification and checksum only, and
 * does the identification go on as it did?
 */
static bool gro_ipv4_fits(struct gro_run *run, const struct iphdr *first,
			  const struct gro_packet *p)
{
	const struct iphdr *iph = (const void *)p->headers;
	u16 step = ntohs(iph->id) - run->id;

	if (memcmp(first, iph, offsetof(struct iphdr, tot_len)) ||
	    ntohs(iph->tot_len) != run->hdrlen + p->payload ||
	    first->frag_off != iph->frag_off ||
	    first->ttl != iph->ttl || first->protocol != iph->protocol ||
	    first->saddr != iph->saddr || first->daddr != iph->daddr)
		return false;
	/* Without fragments it means nothing, and may stand still. */
	if (!run->n)
		run->id_step = iph->frag_off && !step ? 0 : 1;
	return step == run->id_step;
}

static bool gro_ipv6_fits(const struct gro_run *run,
			  const struct ipv6hdr *first,
			  const struct gro_packet *p)
{
	const struct ipv6hdr *ip6h = (const void *)p->headers;
	unsigned int len = run->hdrlen - sizeof(*ip6h) + p->payload;

	return !memcmp(first, ip6h, offsetof(struct ipv6hdr, payload_len)) &&
	       ntohs(ip6h->payload_len) == len &&
	       !memcmp(&first->nexthdr, &ip6h->nexthdr,
		       sizeof(*ip6h) - offsetof(struct ipv6hdr, nexthdr));
}

static bool gro_tcp_fits(const struct gro_run *run, const struct tcphdr *first,
			 const struct gro_packet *p)
{
	const struct tcphdr *th = gro_tcp(run, p);
	__be32 differs = tcp_flag_word(first) ^ tcp_flag_word(th);

	return first->source == th->source && first->dest == th->dest &&
	       ntohl(th->seq) == run->end && first->ack_seq == th->ack_seq &&
	       !(differs & ~ESPINTCP_GRO_LAST_FLAGS) &&
	       !memcmp(first + 1, th + 1,
		       run->hdrlen - run->l3len - sizeof(*th));
}

/* Can the decrypted packet join, so that cutting makes the same of it again? */
static bool gro_fits(struct gro_run *run, const struct gro_piece *piece,
		     const struct gro_packet *p)
{
	const u8 *first = run->skb->data;
	unsigned int total = run->skb->len + run->n * run->mss + p->payload;

	/* In transport mode the IP header is still to come. */
	if (!run->l3len)
		total += sizeof(struct ipv6hdr);
	if (p->payload > run->mss || total > IP_MAX_MTU)
		return false;
	if (run->l3len && run->v6 &&
	    !gro_ipv6_fits(run, (const void *)first, p))
		return false;
	if (run->l3len && !run->v6 &&
	    !gro_ipv4_fits(run, (const void *)first, p))
		return false;
	return gro_tcp_fits(run, (const void *)(first + run->l3len), p) &&
	       gro_check_ok(run, p, gro_piece_end(piece));
}

static void gro_take(struct gro_run *run, unsigned int len)
{
	struct espintcp_rest *rest = run->seg->rest;

	rest->offset += ESPINTCP_LEN_SIZE + len;
	espintcp_rest_charge(rest, len);
	trace_espintcp_received(run->seg->conn, ESPINTCP_ESP,
				ESPINTCP_LEN_SIZE + len);
}

static void gro_join(struct gro_run *run, struct gro_piece *piece,
		     const struct gro_packet *p, unsigned int len)
{
	gro_take(run, len);
	espintcp_rx_count_esp(run->seg->conn, len);
	piece->used += p->payload;
	run->n++;
	run->id += run->id_step;
	run->end += p->payload;
	run->flags |= tcp_flag_word(gro_tcp(run, p)) & ESPINTCP_GRO_LAST_FLAGS;
	run->ended = p->payload < run->mss ||
		     run->flags & ESPINTCP_GRO_LAST_FLAGS;
}

/* A record of @len octets has been decrypted in vain: it becomes a packet of its
 * own, and is delivered after this one. Without memory it is left in the stream.
 */
static void gro_late(struct gro_run *run, const struct gro_piece *piece,
		     unsigned int len)
{
	struct espintcp_segment *seg = run->seg;
	const struct espintcp_rest *rest = seg->rest;
	unsigned int skip = run->clear + run->ivlen;
	u64 seq = run->first + run->n + 1;
	struct ip_esp_hdr *esph;
	struct sk_buff *skb;
	u8 *p;

	skb = espintcp_rx_alloc_esp(seg->conn, rest->skb, len);
	if (!skb)
		return;
	/* What it was decrypted with, whatever the stream has there now. */
	esph = (struct ip_esp_hdr *)skb->data;
	esph->spi = run->x->id.spi;
	esph->seq_no = htonl(seq);
	p = skb->data + skip;
	memcpy(p, run->er->head, run->hdrlen);
	memcpy(p + run->hdrlen, gro_piece_end(piece),
	       len - skip - run->hdrlen - run->alen);
	gro_take(run, len);
	seg->late = skb;
	seg->late_sa = run->x;
	seg->late_seq = seq;
}

/* Returns whether the next record joined, and more may. */
static bool gro_next(struct gro_run *run)
{
	unsigned int len, least, headlen = run->clear + run->ivlen + run->hdrlen;
	struct gro_piece *piece;
	struct gro_packet p;

	/* Payload, and the two octets after the padding. */
	least = headlen + 1 + 2 + run->alen;
	len = gro_peek(run);
	if (len < least || len > run->seg->len)
		return false;
	piece = gro_room(run, len - headlen);
	if (!piece || !gro_decrypt(run, piece, len))
		return false;

	if (!gro_packet(run, piece, len, &p) || !gro_fits(run, piece, &p)) {
		gro_late(run, piece, len);
		return false;
	}
	gro_join(run, piece, &p, len);
	return !run->ended && run->n < run->max;
}

/* Hands the payload of those that joined over to the packet, or frees it. */
static void gro_settle_pieces(struct gro_run *run, bool joined)
{
	struct skb_shared_info *shinfo = skb_shinfo(run->skb);
	unsigned int i;

	for (i = 0; i < run->pieces; i++) {
		struct gro_piece *piece = &run->piece[i];

		espintcp_frag_unget(piece->page, piece->offset + piece->size,
				    piece->size - piece->used);
		if (joined && piece->used)
			skb_add_rx_frag(run->skb, shinfo->nr_frags, piece->page,
					piece->offset, piece->used, piece->used);
		else
			put_page(piece->page);
	}
}

/* The headers of the large packet, which is in memory of our own. */
static void gro_set_headers(struct gro_run *run)
{
	struct sk_buff *skb = run->skb;
	struct gro_packet p = {
		.headers = run->l3len ? skb->data : skb_network_header(skb),
		.payload = skb->len - run->hdrlen,
	};
	struct tcphdr *th = (struct tcphdr *)(skb->data + run->l3len);
	struct ipv6hdr *ip6h = (struct ipv6hdr *)skb->data;
	struct iphdr *iph = (struct iphdr *)skb->data;

	tcp_flag_word(th) = run->flags;
	if (run->l3len && run->v6) {
		ip6h->payload_len = htons(skb->len - sizeof(*ip6h));
	} else if (run->l3len) {
		iph->tot_len = htons(skb->len);
		ip_send_check(iph);
	}
	th->check = ~gro_tcp_check(run, &p, 0);
	skb->csum_start = (u8 *)th - skb->head;
	skb->csum_offset = offsetof(struct tcphdr, check);
	skb->ip_summed = CHECKSUM_PARTIAL;
}

static void gro_set_gso(struct gro_run *run)
{
	struct skb_shared_info *shinfo = skb_shinfo(run->skb);

	shinfo->gso_size = run->mss;
	shinfo->gso_segs = run->n + 1;
	shinfo->gso_type = run->v6 ? SKB_GSO_TCPV6 : SKB_GSO_TCPV4;
	if (!run->v6 && run->l3len && !run->id_step)
		shinfo->gso_type |= SKB_GSO_TCP_FIXEDID;
}

static void gro_finish(struct gro_run *run)
{
	struct espintcp_conn *conn = run->seg->conn;
	struct net *net = xs_net(run->x);
	bool joined;

	if (!run->n) {
		gro_settle_pieces(run, false);
		return;
	}
	espintcp_path_heard(run->x, conn, run->first + run->n);
	joined = espintcp_seq_mark(run->x, run->first, run->n,
				   run->n * run->hdrlen);
	gro_settle_pieces(run, joined);
	if (!joined) {
		/* As XFRM counts what is too late. */
		XFRM_ADD_STATS(net, LINUX_MIB_XFRMINSTATESEQERROR, run->n);
		return;
	}
	gro_set_headers(run);
	gro_set_gso(run);
	espintcp_count_n(net, ESPINTCP_CNT_IN_GRO, run->n);
}

static bool gro_begin(struct gro_run *run)
{
	struct crypto_aead *aead = run->x->data;
	const struct xfrm_skb_cb *cb = XFRM_SKB_CB(run->skb);

	run->first = (u64)ntohl(cb->seq.input.hi) << 32 |
		     ntohl(cb->seq.input.low);
	run->clear = sizeof(struct ip_esp_hdr);
	run->ivlen = crypto_aead_ivsize(aead);
	run->alen = crypto_aead_authsize(aead);

	/* In this order: what is most likely to say no costs least. */
	if (!gro_peek(run) || !gro_first(run))
		return false;
	run->max = espintcp_seq_run_max(run->x, run->first);
	if (!run->max)
		return false;
	run->er = espintcp_request_get(run->x);
	if (!run->er)
		return false;
	run->er->conn = run->seg->conn;
	run->er->done = gro_abandoned;
	sg_init_table(run->er->dst, ARRAY_SIZE(run->er->dst));
	return true;
}

/**
 * espintcp_esp_gro - let the records that follow become part of a packet
 * @x: the SA
 * @skb: a packet that XFRM is to have, decrypted, data at its IP header, or at
 *	its TCP header in transport mode; becomes a large one if any joined
 * @seg: where its record was; tells what came with it, and is told of a record
 *	to be delivered next
 * @nexthdr: what ESP calls the packet
 *
 * Records are taken from the stream as they join. In doubt they are not, and go
 * the ordinary way. Before XFRM looks at @skb's number the SA has counted, and
 * marked as received, the others.
 *
 * Context: softirq or BH disabled, under RCU, lock of the outer socket held.
 */
void espintcp_esp_gro(struct xfrm_state *x, struct sk_buff *skb,
		      struct espintcp_segment *seg, int nexthdr)
{
	struct gro_run run = {
		.x = x,
		.skb = skb,
		.seg = seg,
		.nexthdr = nexthdr,
	};

	if ((x->props.mode != XFRM_MODE_TUNNEL &&
	     x->props.mode != XFRM_MODE_TRANSPORT) ||
	    !READ_ONCE(espintcp_settings(xs_net(x))->gro))
		return;
	if (!gro_begin(&run))
		return;
	while (gro_next(&run))
		;
	if (run.er)
		espintcp_request_put(run.er);
	gro_finish(&run);
}
