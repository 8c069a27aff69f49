// SPDX-License-Identifier: GPL-2.0
/*
 * Random and mutated records in random segments, to live connections.
 *
 * A stream is made up, often damaged, and cut into segments at random. The
 * rules of RFC 9329, written down once more in expect_stream(), say what is to
 * become of it: every IKE message arrives as it was, every other record is
 * counted for what it is, and what breaks the stream resets the connection
 * with nothing lost that came before.
 *
 * With an SA, the ESP records are its peer's: most of them, since some are damaged,
 * cut off, or sent twice. expect_esp() says what is to become of these.
 *
 * RECORDS=N       how many to send in each family (default 50000)
 * RECORDS_SEED=N  repeats a run
 */
#define WAIT_MS	120000
#include "kselftest_harness.h"

#include <linux/filter.h>
#include <linux/if_alg.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <stddef.h>
#include <sys/uio.h>

#include "espintcp_hosts.h"
#include "espintcp_random.h"

#define DEFAULT_RECORDS	50000
#define STREAM_MAX	(256 * 1024)
#define RECORDS_MAX	400	/* of a connection */
#define WRITES_MAX	600
#define RCVBUF		(16 << 20)
/* What XFRM takes for an ESP header: SPI and sequence number. */
#define ESP_HEADER_LEN	8
#define SPI		0x1001
#define WINDOW		32
#define KEY		"0123456789abcdef"
#define SALT		"salt"
#define IV_LEN		8
#define ICV_LEN		16
#define NUMBERS_MAX	(RECORDS_MAX * 2)
/* More would not go through AF_ALG in one piece. */
#define INNER_MAX	50000
/* Around it: padding and the rest of a record. */
#define SEAL_MAX	300
#define GCM		"aead 'rfc4106(gcm(aes))' '" KEY SALT "' %d"
#define ENCAP		" encap espintcp 1 1 0.0.0.0 sel src 10.0.0.1 dst 10.0.0.2"
#define INNER_SRC	0x0a000001
#define INNER_DST	0x0a000002
#define TCP_HEADERS	(sizeof(struct iphdr) + sizeof(struct tcphdr))
#define UDP_HEADERS	(sizeof(struct iphdr) + sizeof(struct udphdr))

struct message {
	const __u8 *p;
	size_t len;
};

/* What is to become of a stream. */
struct expected {
	struct message ike[RECORDS_MAX * 4];
	int nr_ike;
	struct message inner[RECORDS_MAX * 4];
	int nr_inner;
	long records;
	long esp;
	long esp_no_header;
	long unknown_spi;
	long no_state;
	long replayed;
	long not_inner;
	long keepalive;
	long empty;
	long shorts;
	bool broken;
	bool bad_auth;
	bool truncated;
};

/*
 * A record of the peer's, without its length field, and the packet in it. Without
 * one @inner.p is NULL.
 */
struct sealed {
	struct message record;
	struct message inner;
};

/* Numbers that were received: the highest is the lowest bit. */
struct window {
	__u32 top;
	__u32 bits;
};

/* The SA, and the peer's records in this stream by number. */
struct sa {
	bool is_there;
	struct window window;
	__u32 first;
	struct sealed sealed[NUMBERS_MAX];
};

/* The inner connection that the peer sends packets of. */
struct flow {
	__u32 seq;
	__u16 id;
	size_t mss;
	int left;
};

/* Who has the key, and makes the records. */
struct peer {
	int cipher;
	__u32 next;
	__u32 late;	/* a number that others overtake, or 0 */
	struct flow flow;
};

struct bench {
	struct expected e;
	struct counters before;
	struct sa sa;
	struct peer peer;
	int capture;
	__u8 *stream;
	__u8 *clean;	/* the stream before it was damaged */
	__u8 *packets;	/* what is in the peer's records, one after the other */
	size_t packets_len;
	__u8 *msg;
	long delivered;
	long replayed;
	long bad_auth;
};

static __u32 get_be32(const __u8 *p)
{
	__be32 value;

	memcpy(&value, p, sizeof(value));
	return ntohl(value);
}

static bool is_replayed(const struct window *w, __u32 seq)
{
	if (seq > w->top)
		return false;
	return !seq || w->top - seq >= WINDOW || w->bits >> (w->top - seq) & 1;
}

static void mark_received(struct window *w, __u32 seq)
{
	__u32 ahead = seq - w->top;

	if (seq <= w->top) {
		w->bits |= 1U << (w->top - seq);
		return;
	}
	w->bits = (ahead < WINDOW ? w->bits << ahead : 0) | 1;
	w->top = seq;
}

/* The record in question if it is the peer's, bit by bit. */
static const struct sealed *find_sealed(const struct sa *sa, __u32 seq,
					const __u8 *payload, size_t len)
{
	__u32 i = seq - sa->first;
	const struct message *record;

	if (i >= NUMBERS_MAX)
		return NULL;
	record = &sa->sealed[i].record;
	if (record->len != len || memcmp(record->p, payload, len))
		return NULL;
	return &sa->sealed[i];
}

/*
 * An SA looks at the number first, whoever may have sent it. What has a new one
 * and is not the peer's ends the connection. A number counts as received with a
 * packet that is one.
 */
static void expect_for_sa(struct expected *e, struct sa *sa,
			  const __u8 *payload, size_t len)
{
	__u32 seq = get_be32(payload + 4);
	const struct sealed *s = find_sealed(sa, seq, payload, len);

	if (is_replayed(&sa->window, seq)) {
		e->replayed++;
	} else if (!s) {
		e->bad_auth = true;
	} else if (!s->inner.p) {
		e->not_inner++;
	} else {
		mark_received(&sa->window, seq);
		e->inner[e->nr_inner++] = s->inner;
	}
}

static void expect_esp(struct expected *e, struct sa *sa, const __u8 *payload,
		       size_t len)
{
	bool known = sa->is_there && get_be32(payload) == SPI;

	e->esp++;
	e->unknown_spi += !known;
	if (len < ESP_HEADER_LEN)
		e->esp_no_header++;
	else if (!known)
		e->no_state++;
	else
		expect_for_sa(e, sa, payload, len);
}

static void expect_record(struct expected *e, struct sa *sa,
			  const __u8 *payload, size_t len)
{
	static const __u8 marker[MARKER_LEN];

	e->records++;
	if (!len)
		e->empty++;
	else if (len == 1 && payload[0] == 0xff)
		e->keepalive++;
	else if (len <= MARKER_LEN)
		e->shorts++;
	else if (memcmp(payload, marker, MARKER_LEN))
		expect_esp(e, sa, payload, len);
	else
		e->ike[e->nr_ike++] = (struct message){ payload, len };
}

/* The connection's last record is the last one, too, that is looked at. */
static bool is_over(const struct expected *e)
{
	return e->broken || e->bad_auth;
}

static bool has_room(const struct expected *e)
{
	return e->nr_ike < (int)ARRAY_SIZE(e->ike) &&
	       e->nr_inner < (int)ARRAY_SIZE(e->inner);
}

/* False if there are too many messages in it. */
static bool expect_stream(struct expected *e, struct sa *sa, const __u8 *p,
			  size_t len)
{
	memset(e, 0, sizeof(*e));
	while (len >= HEADER_LEN && has_room(e)) {
		size_t record = p[0] << 8 | p[1];

		if (record < HEADER_LEN) {
			e->records++;
			e->broken = true;
			return true;
		}
		if (record > len)
			break;
		expect_record(e, sa, p + HEADER_LEN, record - HEADER_LEN);
		if (is_over(e))
			return true;
		p += record;
		len -= record;
	}
	e->truncated = len > 0;
	return has_room(e);
}

/* Small ones mostly, and those around the limits of pages and of a record. */
static size_t random_length(void)
{
	static const size_t limits[] = { 4096, 8192, 16384, 32768, MESSAGE_MAX };
	__u32 dice = rnd(100);

	if (dice < 70)
		return MARKER_LEN + 1 + rnd(200);
	if (dice < 95)
		return MARKER_LEN + 1 + rnd(1500);
	if (dice < 99)
		return limits[rnd(4)] - 8 + rnd(16);
	return chance(50) ? MESSAGE_MAX - rnd(4) : MARKER_LEN + 1 + rnd(60000);
}

/* Returns its length, 0 when it does not fit. */
static size_t random_record(__u8 *p, size_t room)
{
	size_t len = random_length();
	__u32 dice = rnd(100);

	if (room < HEADER_LEN + len)
		return 0;
	if (dice < 50)
		return put_ike(p, len, rnd64());
	if (dice < 75)
		return put_esp(p, len);
	if (dice < 83)
		return put_keepalive(p);
	if (dice < 92)
		return put_filled(p, HEADER_LEN + 1 + rnd(MARKER_LEN), rnd(256));
	return put_filled(p, HEADER_LEN, 0);
}

static void damage(__u8 *p, size_t len)
{
	int n = 1 + rnd(8);

	while (n--) {
		size_t at = rnd(len);

		switch (rnd(3)) {
		case 0:
			p[at] ^= 1 << rnd(8);
			break;
		case 1:
			p[at] = rnd64();
			break;
		default:
			memmove(p, p + 1, at);
			break;
		}
	}
}

static void random_octets(__u8 *p, size_t len)
{
	while (len--)
		*p++ = rnd64();
}

/* Returns how long it became. */
static size_t random_stream(__u8 *p)
{
	int n = 1 + rnd(RECORDS_MAX);
	size_t len = 0;

	if (chance(5)) {
		len = 1 + rnd(STREAM_MAX);
		random_octets(p, len);
		return len;
	}
	while (n--)
		len += random_record(p + len, STREAM_MAX - len);
	if (!len)
		len = put_keepalive(p);
	if (chance(30))
		damage(p, len);
	if (chance(20))
		len -= rnd(len < 100 ? len : 100);
	return len;
}

/* Mostly one after the other. Some are late, and some are never seen. */
static __u32 random_number(struct peer *peer)
{
	__u32 late = peer->late;

	if (late && chance(20)) {
		peer->late = 0;
		return late;
	}
	if (!late && chance(3))
		peer->late = peer->next++;
	else if (chance(2))
		peer->next++;
	return peer->next++;
}

static __u32 add_octets(__u32 sum, const void *data, size_t len)
{
	const __u8 *p = data;
	size_t i;

	for (i = 0; i < len; i++)
		sum += i % 2 ? p[i] : p[i] << 8;
	return sum;
}

static __be16 checksum(__u32 sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return htons(~sum);
}

/* Around @len octets that follow it. Returns the length of the packet. */
static size_t put_ip(__u8 *p, int protocol, size_t len, __u16 id)
{
	struct iphdr ip = {
		.version = 4,
		.ihl = 5,
		.tot_len = htons(sizeof(ip) + len),
		.id = htons(id),
		.ttl = 64,
		.protocol = protocol,
		.saddr = htonl(INNER_SRC),
		.daddr = htonl(INNER_DST),
	};

	ip.check = checksum(add_octets(0, &ip, sizeof(ip)));
	memcpy(p, &ip, sizeof(ip));
	return sizeof(ip) + len;
}

static size_t random_datagram(__u8 *p)
{
	size_t len = chance(98) ? rnd(1400) : rnd(INNER_MAX);
	struct udphdr udp = {
		.source = htons(1), .dest = htons(9),
		.len = htons(sizeof(udp) + len),
	};

	memcpy(p + sizeof(struct iphdr), &udp, sizeof(udp));
	random_octets(p + UDP_HEADERS, len);
	return put_ip(p, IPPROTO_UDP, sizeof(udp) + len, rnd64());
}

/* The next one of a run of the same length, but for the last one. */
static size_t random_segment_of(struct flow *flow, __u8 *p)
{
	struct tcphdr tcp = {
		.source = htons(1), .dest = htons(9),
		.seq = htonl(flow->seq), .ack_seq = htonl(1),
		.doff = 5, .ack = 1, .psh = chance(3),
		.window = htons(1000),
	};
	size_t len;
	__u32 sum;

	if (!flow->left) {
		flow->left = 1 + rnd(60);
		flow->mss = 1 + rnd(1400);
	}
	len = --flow->left ? flow->mss : 1 + rnd(flow->mss);
	random_octets(p + TCP_HEADERS, len);
	sum = (INNER_SRC >> 16) + (INNER_SRC & 0xffff) + (INNER_DST >> 16) +
	      (INNER_DST & 0xffff) + IPPROTO_TCP + sizeof(tcp) + len;
	sum = add_octets(sum, &tcp, sizeof(tcp));
	tcp.check = checksum(add_octets(sum, p + TCP_HEADERS, len));
	memcpy(p + sizeof(struct iphdr), &tcp, sizeof(tcp));
	flow->seq += len;
	return put_ip(p, IPPROTO_TCP, sizeof(tcp) + len, flow->id++);
}

/* Behind the packet: padding, its length, and what kind of packet it is. */
static size_t put_trailer(__u8 *p, size_t len, __u8 next)
{
	int n = (2 - (int)len) & 3, i;

	if (chance(10))
		n += 4 * rnd(60);
	for (i = 1; i <= n; i++)
		p[len++] = i;
	p[len++] = n;
	p[len++] = next;
	return len;
}

/* Nothing that could be delivered: a dummy, or more padding than there is. */
static size_t random_no_packet(__u8 *p)
{
	random_octets(p, 44);
	if (chance(50))
		return put_trailer(p, rnd(40), IPPROTO_NONE);
	p[42] = 255;
	p[43] = IPPROTO_IPIP;
	return 44;
}

static int open_cipher(void)
{
	struct sockaddr_alg addr = {
		.salg_family = AF_ALG, .salg_type = "aead",
		.salg_name = "gcm(aes)",
	};
	int fd = socket(AF_ALG, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), cipher;

	if (fd < 0)
		return -1;
	cipher = -1;
	if (!bind(fd, (struct sockaddr *)&addr, sizeof(addr)) &&
	    !setsockopt(fd, SOL_ALG, ALG_SET_KEY, KEY, strlen(KEY)) &&
	    !setsockopt(fd, SOL_ALG, ALG_SET_AEAD_AUTHSIZE, NULL, ICV_LEN))
		cipher = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
	close(fd);
	return cipher;
}

static void put_cmsg(struct msghdr *msg, int type, const void *data, size_t len)
{
	struct cmsghdr *cmsg;

	cmsg = (void *)((__u8 *)msg->msg_control + msg->msg_controllen);
	cmsg->cmsg_level = SOL_ALG;
	cmsg->cmsg_type = type;
	cmsg->cmsg_len = CMSG_LEN(len);
	memcpy(CMSG_DATA(cmsg), data, len);
	msg->msg_controllen += CMSG_SPACE(len);
}

/*
 * ESP header, IV, and @len octets of @clear encrypted, with their ICV. Returns how
 * long that is.
 */
static size_t seal(const struct peer *peer, __u8 *p, __u32 seq, __u8 *clear,
		   size_t len)
{
	__be32 esp[ESP_HEADER_LEN / 4] = { htonl(SPI), htonl(seq) };
	struct {
		__u32 len;
		__u8 salt[4];
		__be32 iv[IV_LEN / 4];
	} iv = {
		.len = 4 + IV_LEN, .salt = SALT, .iv = { 0, esp[1] },
	};
	__u8 control[256] __attribute__((aligned(8))) = {};
	__u32 op = ALG_OP_ENCRYPT, assoclen = ESP_HEADER_LEN;
	struct iovec in[] = { { esp, ESP_HEADER_LEN }, { clear, len } };
	struct msghdr msg = {
		.msg_iov = in, .msg_iovlen = ARRAY_SIZE(in),
		.msg_control = control,
	};
	__u8 *behind_iv = p + ESP_HEADER_LEN + IV_LEN;
	struct iovec out[] = {
		{ p, ESP_HEADER_LEN }, { behind_iv, len + ICV_LEN },
	};

	put_cmsg(&msg, ALG_SET_OP, &op, sizeof(op));
	put_cmsg(&msg, ALG_SET_IV, &iv, sizeof(iv));
	put_cmsg(&msg, ALG_SET_AEAD_ASSOCLEN, &assoclen, sizeof(assoclen));
	memcpy(p + ESP_HEADER_LEN, iv.iv, IV_LEN);
	len += ESP_HEADER_LEN;
	if (sendmsg(peer->cipher, &msg, 0) != (ssize_t)len ||
	    readv(peer->cipher, out, 2) != (ssize_t)len + ICV_LEN) {
		perror("AF_ALG");
		abort();
	}
	return len + IV_LEN + ICV_LEN;
}

/* One of the peer's. Returns its length, 0 when there is no room. */
static size_t random_sealed(struct bench *b, __u8 *p, size_t room)
{
	__u8 *packet = b->packets + b->packets_len;
	struct sealed *s;
	__u32 seq;
	size_t len;

	if (room < INNER_MAX + SEAL_MAX || b->peer.next - b->sa.first > NUMBERS_MAX - 4)
		return 0;
	seq = random_number(&b->peer);
	s = &b->sa.sealed[seq - b->sa.first];
	if (chance(5)) {
		len = random_no_packet(packet);
	} else {
		len = chance(80) ? random_segment_of(&b->peer.flow, packet) :
				   random_datagram(packet);
		s->inner = (struct message){ packet, len };
		b->packets_len += len;
		len = put_trailer(packet, len, IPPROTO_IPIP);
	}
	len = seal(&b->peer, p + HEADER_LEN, seq, packet, len);
	put_header(p, HEADER_LEN + len);
	s->record.p = b->clean + (p + HEADER_LEN - b->stream);
	s->record.len = len;
	return HEADER_LEN + len;
}

/* Any of the peer's in the stream; NULL if that is a number nobody has. */
static const struct message *pick_sealed(const struct bench *b)
{
	__u32 n = b->peer.next - b->sa.first;
	const struct message *record;

	if (!n)
		return NULL;
	record = &b->sa.sealed[rnd(n)].record;
	return record->p ? record : NULL;
}

static __u8 *in_stream(const struct bench *b, const struct message *record)
{
	return b->stream + (record->p - b->clean);
}

/* Once more, as it was. */
static size_t random_replay(struct bench *b, __u8 *p, size_t room)
{
	const struct message *record = pick_sealed(b);

	if (!record || room < HEADER_LEN + record->len)
		return 0;
	memcpy(p + HEADER_LEN, in_stream(b, record), record->len);
	return put_header(p, HEADER_LEN + record->len) + record->len;
}

static void flip_bit(__u8 *p, size_t from, size_t to)
{
	p[from + rnd(to - from)] ^= 1 << rnd(8);
}

/* Leaves @keep octets, and a length field that says so. */
static size_t cut_off(struct bench *b, const struct message *record,
		      size_t keep, size_t stream)
{
	__u8 *p = in_stream(b, record), *end = p + record->len;

	put_header(p - HEADER_LEN, HEADER_LEN + keep);
	memmove(p + keep, end, b->stream + stream - end);
	return stream - (record->len - keep);
}

/* What someone without the key may do to a record. Returns the stream's length. */
static size_t damage_sealed(struct bench *b, size_t stream)
{
	const struct message *record = pick_sealed(b);
	size_t head = ESP_HEADER_LEN + IV_LEN, len;
	__u8 *p;

	if (!record)
		return stream;
	p = in_stream(b, record);
	len = record->len;
	switch (rnd(7)) {
	case 0:		/* SPI */
		flip_bit(p, 0, 4);
		return stream;
	case 1:		/* number */
		flip_bit(p, 4, 8);
		return stream;
	case 2:		/* IV */
		flip_bit(p, ESP_HEADER_LEN, head);
		return stream;
	case 3:		/* ciphertext */
		flip_bit(p, head, len - ICV_LEN);
		return stream;
	case 4:		/* ICV */
		flip_bit(p, len - ICV_LEN, len);
		return stream;
	case 5:
		return cut_off(b, record, head + 2 + ICV_LEN +
			       rnd(len - head - 2 - ICV_LEN), stream);
	default:	/* no room for what every record has */
		return cut_off(b, record, ESP_HEADER_LEN +
			       rnd(IV_LEN + 2 + ICV_LEN), stream);
	}
}

static size_t random_sa_record(struct bench *b, __u8 *p, size_t room)
{
	__u32 dice = rnd(100);

	if (dice < 75)
		return random_sealed(b, p, room);
	if (dice < 80)
		return random_replay(b, p, room);
	return random_record(p, room);
}

/* Returns how long it became. */
static size_t random_sa_stream(struct bench *b)
{
	int n = 1 + rnd(RECORDS_MAX);
	size_t len = 0;

	memset(b->sa.sealed, 0, sizeof(b->sa.sealed));
	b->sa.first = b->peer.next;
	b->peer.late = 0;
	b->packets_len = 0;
	while (n--)
		len += random_sa_record(b, b->stream + len, STREAM_MAX - len);
	if (!len)
		len = put_keepalive(b->stream);
	memcpy(b->clean, b->stream, len);
	if (chance(40))
		len = damage_sealed(b, len);
	if (chance(10))
		damage(b->stream, len);
	if (chance(20))
		len -= rnd(len < 100 ? len : 100);
	return len;
}

/* A write is a segment, as long as there is room on the way. */
static size_t random_segment(size_t stream)
{
	static const __u32 sizes[] = { 2, 16, 100, 1500, 9000, 65536, STREAM_MAX };
	size_t n = 1 + rnd(sizes[rnd(ARRAY_SIZE(sizes))]);

	return n + stream / WRITES_MAX;
}

/* The rest of a broken stream finds a reset connection. */
static int write_stream(struct pair *p, const __u8 *stream, size_t len,
			bool broken)
{
	size_t at = 0;

	while (at < len) {
		size_t n = random_segment(len);

		if (n > len - at)
			n = len - at;
		if (raw_write(p, stream + at, n))
			return broken && (errno == EPIPE || errno == ECONNRESET) ?
			       0 : -1;
		at += n;
	}
	return shutdown(p->raw, SHUT_WR) && !broken ? -1 : 0;
}

FIXTURE(records)
{
	struct bench b;
};

FIXTURE_VARIANT(records)
{
	struct path path;
	const char *addr;	/* of the SA; NULL: without one */
};

FIXTURE_VARIANT_ADD(records, v4)
{
	.path = { .family = AF_INET },
};

FIXTURE_VARIANT_ADD(records, v6)
{
	.path = { .family = AF_INET6, .accepted = true },
};

FIXTURE_VARIANT_ADD(records, v4_with_sa)
{
	.path = { .family = AF_INET },
	.addr = "127.0.0.1",
};

FIXTURE_VARIANT_ADD(records, v6_with_sa)
{
	.path = { .family = AF_INET6, .accepted = true },
	.addr = "::1",
};

/* Of the other packets there are many. */
static int capture_inner(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct iphdr, saddr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, INNER_SRC, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, 0xffffffff),
		BPF_STMT(BPF_RET | BPF_K, 0),
	};
	struct sock_fprog filter = { ARRAY_SIZE(code), code };
	int fd = open_capture("lo", ETH_P_IP);

	return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter,
			  sizeof(filter)) ? -1 : fd;
}

/*
 * On one processor packets are captured in the order of their records, and without
 * GRO of the interface what is captured is what the module made.
 */
static int set_up_sa(struct bench *b, const char *addr)
{
	cpu_set_t first;
	char command[512];

	CPU_ZERO(&first);
	CPU_SET(0, &first);
	snprintf(command, sizeof(command),
		 "set -e; ethtool -K lo gro off; "
		 "ip xfrm state add src %s dst %s proto esp spi %#x mode tunnel reqid 1 replay-window %d "
		 GCM ENCAP,
		 addr, addr, SPI, WINDOW, ICV_LEN * 8);
	b->sa.is_there = true;
	b->peer.next = 1;
	b->capture = capture_inner();
	return sched_setaffinity(0, sizeof(first), &first) || b->capture < 0 ?
	       -1 : run(command);
}

/* For each test to ask: older harnesses run those whose setup skips them. */
static bool lacks_cipher(const struct bench *b)
{
	return b->peer.cipher < 0;
}

#define NO_CIPHER	"a kernel without AF_ALG's aead"

FIXTURE_SETUP(records)
{
	struct bench *b = &self->b;

	if (variant->addr)
		b->peer.cipher = open_cipher();
	if (lacks_cipher(b))
		return;
	ASSERT_EQ(0, new_netns());
	b->stream = malloc(STREAM_MAX);
	b->clean = malloc(STREAM_MAX);
	b->packets = malloc(STREAM_MAX);
	b->msg = malloc(RECORD_MAX);
	ASSERT_NE(NULL, b->stream);
	ASSERT_NE(NULL, b->clean);
	ASSERT_NE(NULL, b->packets);
	ASSERT_NE(NULL, b->msg);
	if (variant->addr)
		ASSERT_EQ(0, set_up_sa(b, variant->addr));
}

FIXTURE_TEARDOWN(records)
{
	struct bench *b = &self->b;

	free(b->stream);
	free(b->clean);
	free(b->packets);
	free(b->msg);
}

static void expect_messages(struct __test_metadata *_metadata,
			    struct bench *b, int fd)
{
	const struct expected *e = &b->e;
	int i;

	for (i = 0; i < e->nr_ike; i++) {
		ASSERT_EQ((ssize_t)e->ike[i].len,
			  recv_msg(fd, b->msg, RECORD_MAX));
		ASSERT_EQ(0, memcmp(b->msg, e->ike[i].p, e->ike[i].len));
	}
	ASSERT_EQ(is_over(e) ? -1 : 0, recv_msg(fd, b->msg, RECORD_MAX));
	if (is_over(e))
		ASSERT_EQ(e->broken ? EBADMSG : EKEYREJECTED, errno);
}

static const struct tcphdr *tcp_of(const __u8 *packet)
{
	const struct iphdr *ip = (const void *)packet;

	return ip->protocol == IPPROTO_TCP ? (const void *)(ip + 1) : NULL;
}

/*
 * Are the octets at @p, of a packet of the inner connection, the payload of the
 * packets from the @i-th on? Returns how many of these there are.
 */
static int match_payload(const struct expected *e, int i, const __u8 *p,
			 size_t len)
{
	int n = 0;

	while (len && i + n < e->nr_inner) {
		const struct message *m = &e->inner[i + n];

		if (!tcp_of(m->p) || m->len - TCP_HEADERS > len ||
		    memcmp(m->p + TCP_HEADERS, p, m->len - TCP_HEADERS))
			return 0;
		p += m->len - TCP_HEADERS;
		len -= m->len - TCP_HEADERS;
		n++;
	}
	return len ? 0 : n;
}

/* How many packets, from the @i-th on, have come as this one; 0: others. */
static int match_packet(const struct expected *e, int i, const __u8 *packet,
			size_t len)
{
	const struct message *m = &e->inner[i];

	if (m->len == len && !memcmp(m->p, packet, len))
		return 1;
	if (len < TCP_HEADERS || !tcp_of(packet) || !tcp_of(m->p) ||
	    tcp_of(packet)->seq != tcp_of(m->p)->seq)
		return 0;
	return match_payload(e, i, packet + TCP_HEADERS, len - TCP_HEADERS);
}

/* All packets of the peer, and in this order, each once. */
static void expect_packets(struct __test_metadata *_metadata, struct bench *b)
{
	const struct expected *e = &b->e;
	int i = 0, n;
	ssize_t len;

	while (i < e->nr_inner) {
		len = recv_msg(b->capture, b->msg, RECORD_MAX);
		ASSERT_LT(0, len);
		n = match_packet(e, i, b->msg, len);
		ASSERT_LT(0, n) {
			TH_LOG("%zd octets where packet %d of %d should be",
			       len, i, e->nr_inner);
		}
		i += n;
	}
	ASSERT_EQ(-1, recv(b->capture, b->msg, RECORD_MAX, MSG_DONTWAIT));
	ASSERT_EQ(EAGAIN, errno);
}

static void expect_count(struct __test_metadata *_metadata,
			 struct counters *before, const char *name, long n)
{
	long want = *counter_of(before, name) + n;

	ASSERT_EQ(want, counter_wait(name, want)) {
		TH_LOG("%s", name);
	}
}

static void expect_counts(struct __test_metadata *_metadata,
			  struct bench *b)
{
	const struct expected *e = &b->e;
	struct counters *c = &b->before;

	expect_count(_metadata, c, "EspTcpInIke", e->nr_ike);
	expect_count(_metadata, c, "EspTcpInEsp", e->esp);
	expect_count(_metadata, c, "EspTcpInKeepalive", e->keepalive);
	expect_count(_metadata, c, "EspTcpInEmpty", e->empty);
	expect_count(_metadata, c, "EspTcpInShort", e->shorts);
	expect_count(_metadata, c, "EspTcpInBadLength", e->broken);
	expect_count(_metadata, c, "EspTcpConnAborted", is_over(e));
	expect_count(_metadata, c, "EspTcpInTruncated", e->truncated);
	expect_count(_metadata, c, "EspTcpInIkeFull", 0);
	expect_count(_metadata, c, "EspTcpInNoMem", 0);
}

/* What there was of each of these, and what has come. */
static const struct {
	const char *file;
	const char *name;
} esp_counters[] = {
	{ "espintcp_stat", "EspTcpInBadAuth" },
	{ "espintcp_stat", "EspTcpInUnknownSpi" },
	{ "xfrm_stat", "XfrmInNoStates" },
	{ "xfrm_stat", "XfrmInHdrError" },
	{ "xfrm_stat", "XfrmInStateSeqError" },
	{ "xfrm_stat", "XfrmInStateProtoError" },
};

static void esp_counters_read(long *values)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(esp_counters); i++)
		values[i] = read_stat(esp_counters[i].file, esp_counters[i].name);
}

static bool esp_counters_reach(const long *want, long *now)
{
	size_t i;

	esp_counters_read(now);
	for (i = 0; i < ARRAY_SIZE(esp_counters); i++)
		if (now[i] < want[i])
			return false;
	return true;
}

static void expect_esp_counts(struct __test_metadata *_metadata,
			      const struct expected *e, const long *before)
{
	long want[] = {
		e->bad_auth, e->unknown_spi, e->no_state, e->esp_no_header,
		e->replayed, e->not_inner + e->bad_auth,
	};
	long now[ARRAY_SIZE(esp_counters)];
	size_t i;

	for (i = 0; i < ARRAY_SIZE(esp_counters); i++)
		want[i] += before[i];
	wait_for(esp_counters_reach(want, now));
	for (i = 0; i < ARRAY_SIZE(esp_counters); i++) {
		ASSERT_EQ(want[i], now[i]) {
			TH_LOG("%s", esp_counters[i].name);
		}
	}
}

/* One that is not too much to expect something of. */
static size_t make_stream(struct bench *b)
{
	const struct window window = b->sa.window;
	size_t len;

	do {
		b->sa.window = window;
		len = b->sa.is_there ? random_sa_stream(b) :
				       random_stream(b->stream);
	} while (!expect_stream(&b->e, &b->sa, b->stream, len));
	return len;
}

static void one_connection(struct __test_metadata *_metadata,
			   struct bench *b,
			   const struct path *path)
{
	long before[ARRAY_SIZE(esp_counters)];
	size_t len = make_stream(b);
	struct pair p;

	counters_read(&b->before);
	esp_counters_read(before);

	ASSERT_EQ(0, tcp_pair(&p, path));
	ASSERT_EQ(0, set_int(p.ulp, SOL_SOCKET, SO_RCVBUFFORCE, RCVBUF));
	ASSERT_EQ(0, set_ulp(p.ulp, "espintcp"));
	ASSERT_EQ(0, write_stream(&p, b->stream, len, is_over(&b->e)));
	expect_messages(_metadata, b, p.ulp);
	expect_counts(_metadata, b);
	expect_esp_counts(_metadata, &b->e, before);
	if (b->sa.is_there)
		expect_packets(_metadata, b);
	close(p.raw);
	close(p.ulp);
}

/* Of everything there has been some. */
static void expect_variety(struct __test_metadata *_metadata,
			   const struct bench *b)
{
	TH_LOG("%ld packets, %ld of them joined others, %ld records replayed, %ld not authentic",
	       b->delivered, counter("EspTcpInGro"), b->replayed, b->bad_auth);
	EXPECT_LT(0, b->delivered);
	EXPECT_LT(0, counter("EspTcpInGro"));
	EXPECT_LT(0, b->replayed);
	EXPECT_LT(0, b->bad_auth);
	EXPECT_EQ(b->bad_auth, counter("EspTcpInBadAuth"));
}

TEST_F_TIMEOUT(records, random, 3600)
{
	struct bench *b = &self->b;
	long left = env_number("RECORDS", DEFAULT_RECORDS);
	long seed = env_number("RECORDS_SEED", time(NULL));
	long connections = 0;

	if (lacks_cipher(b))
		SKIP(return, NO_CIPHER);
	TH_LOG("RECORDS_SEED=%ld", seed);
	random_state = seed;
	while (left > 0) {
		one_connection(_metadata, b, &variant->path);
		left -= b->e.records;
		b->delivered += b->e.nr_inner;
		b->replayed += b->e.replayed;
		b->bad_auth += b->e.bad_auth;
		connections++;
	}
	TH_LOG("%ld connections", connections);
	/* Few connections may have been spared. */
	if (variant->addr && connections > 20)
		expect_variety(_metadata, b);
}

/* A record that breaks the stream, or is not authentic. */
static size_t put_last_record(struct bench *b)
{
	__be32 spi = htonl(SPI);
	size_t len;

	if (!b->sa.is_there)
		return put_filled(b->stream, 0, 0);
	len = put_filled(b->stream, 100, 0xff);
	memcpy(b->stream + HEADER_LEN, &spi, sizeof(spi));
	return len;
}

/*
 * Such a record and the end of the stream are found together: it is the error that
 * the daemon sees, not an end as any other.
 */
TEST_F(records, broken_at_end)
{
	struct bench *b = &self->b;
	ssize_t n;
	struct pair p;
	int i;

	if (lacks_cipher(b))
		SKIP(return, NO_CIPHER);
	for (i = 0; i < 100; i++) {
		ASSERT_EQ(0, tcp_pair(&p, &variant->path));
		ASSERT_EQ(0, raw_write(&p, b->stream, put_last_record(b)));
		ASSERT_EQ(0, shutdown(p.raw, SHUT_WR));
		ASSERT_TRUE(wait_for(poll_now(p.ulp, POLLRDHUP) & POLLRDHUP));
		ASSERT_EQ(0, set_ulp(p.ulp, "espintcp"));
		wait_for((n = recv(p.ulp, b->msg, RECORD_MAX, MSG_DONTWAIT)) >= 0 ||
			 errno != EAGAIN);
		ASSERT_EQ(-1, n);
		ASSERT_EQ(variant->addr ? EKEYREJECTED : EBADMSG, errno);
		close(p.raw);
		close(p.ulp);
	}
}

TEST_HARNESS_MAIN
