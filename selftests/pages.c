// SPDX-License-Identifier: GPL-2.0
/*
 * Pages that the module does not own stay as they are.
 *
 * A file full of valid ESP records is sent with sendfile(), so that what TCP
 * receives on the other end, over loopback or veth, is the file's page cache
 * and the sender's retransmit queue, and not a copy. ESP that decrypts in place
 * writes plaintext into all of them. Here the file must stay as it was, and so
 * must all segments, those sent a second time too, while the SA takes every
 * record. The same goes for a process's memory, and for what TCP copied, which
 * is in its retransmit queue only.
 *
 * Whoever captures packets has clones of them. A module that takes a segment
 * without clones for its own is found by the tests that capture none.
 */
#include "kselftest_harness.h"

#include <netdb.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/uio.h>

#include "espintcp_hosts.h"

/* In each a packet: datagrams of all sizes, then segments that may be joined. */
#define NR_DATAGRAMS	60
#define NR_SEGMENTS	10
#define NR_RECORDS	(NR_DATAGRAMS + NR_SEGMENTS)
#define SEGMENT_LEN	1000
#define STREAM_MAX	(256 * 1024)
#define INNER_PORT	9

/* What is different with IPv4 and IPv6, without and within the tunnel. */
struct net {
	int family;
	const char *loopback;
	const char *a;
	const char *b;
	const char *inner_a;
	const char *inner_b;
};

static const struct net net4 = {
	.family = AF_INET,
	.loopback = "127.0.0.1",
	.a = ADDR_A,
	.b = ADDR_B,
	.inner_a = "10.0.0.1",
	.inner_b = "10.0.0.2",
};

static const struct net net6 = {
	.family = AF_INET6,
	.loopback = "::1",
	.a = ADDR6_A,
	.b = ADDR6_B,
	.inner_a = "2001:db8:1::1",
	.inner_b = "2001:db8:1::2",
};

struct bench {
	int ns_a;
	int ns_b;
	const struct net *net;
	int file;	/* -1: sent from memory that is a process's only */
	__u8 *sent;	/* the file's or that memory */
	int capture;	/* of what reaches B, -1: none */
	int copies;	/* of what is duplicated there, -1: nothing is */
	__u32 first;	/* sequence number of the first octet */
	size_t largest;	/* octets of a segment that was captured */
	__u8 *want;
	__u8 *got;
	size_t len;
	struct pair p;
};

/* How records are sent, and come. */
struct way {
	const char *algo;
	bool loopback;
	bool v6;
	/* NULL: sendfile() */
	ssize_t (*send)(const struct bench *b, size_t at);
	const char *setup;	/* of B, after all else */
	const char *setup_a;
	bool merges;		/* segments before they reach TCP */
	bool duplicates;	/* to dup0 */
	bool joins;		/* records: nobody else can write to the pages */
};

FIXTURE(pages)
{
	struct bench b;
};

FIXTURE_VARIANT(pages)
{
	struct way way;
};

/* Other senders, and IPv6. */
FIXTURE(senders)
{
	struct bench b;
};

FIXTURE_VARIANT(senders)
{
	struct way way;
};

/* From the process's memory, without a copy where the way leads to a device. */
static ssize_t send_zerocopy(const struct bench *b, size_t at)
{
	set_int(b->p.raw, SOL_SOCKET, SO_ZEROCOPY, 1);
	return send(b->p.raw, b->sent + at, b->len - at, MSG_ZEROCOPY);
}

/* Likewise, without a copy anywhere. */
static ssize_t send_spliced(const struct bench *b, size_t at)
{
	struct iovec iov = { b->sent + at, b->len - at };
	ssize_t len, n = 0;
	int fds[2];

	if (pipe(fds))
		return -1;
	/* As much as the pipe takes. */
	len = vmsplice(fds[1], &iov, 1, SPLICE_F_NONBLOCK);
	if (len > 0)
		n = splice(fds[0], NULL, b->p.raw, NULL, len, 0);
	close(fds[0]);
	close(fds[1]);
	return n;
}

static ssize_t send_copied(const struct bench *b, size_t at)
{
	return send(b->p.raw, b->sent + at, b->len - at, 0);
}

static ssize_t send_from_file(const struct bench *b, size_t at)
{
	off_t offset = at;

	return sendfile(b->p.raw, b->file, &offset, b->len - at);
}

#define GCM	"aead 'rfc4106(gcm(aes))' 0x0102030405060708090a0b0c0d0e0f1011121314 128"
#define CBC	"enc 'cbc(aes)' 0x0102030405060708090a0b0c0d0e0f10 auth-trunc 'hmac(sha256)' 0x0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20 128"
#define NONE	"enc 'ecb(cipher_null)' '' auth-trunc 'hmac(sha256)' 0x0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20 128"

FIXTURE_VARIANT_ADD(pages, loopback_gcm)
{
	.way = {
		.algo = GCM,
		.loopback = true,
	},
};

FIXTURE_VARIANT_ADD(pages, loopback_cbc)
{
	.way = {
		.algo = CBC,
		.loopback = true,
	},
};

FIXTURE_VARIANT_ADD(pages, veth_gcm)
{
	.way = {
		.algo = GCM,
	},
};

FIXTURE_VARIANT_ADD(pages, veth_cbc)
{
	.way = {
		.algo = CBC,
	},
};

FIXTURE_VARIANT_ADD(pages, veth_null)
{
	.way = {
		.algo = NONE,
	},
};

FIXTURE_VARIANT_ADD(senders, loopback6_gcm)
{
	.way = {
		.algo = GCM,
		.loopback = true,
		.v6 = true,
	},
};

FIXTURE_VARIANT_ADD(senders, veth6_gcm)
{
	.way = {
		.algo = GCM,
		.v6 = true,
	},
};

FIXTURE_VARIANT_ADD(senders, zerocopy_gcm)
{
	.way = {
		.algo = GCM,
		.send = send_zerocopy,
	},
};

FIXTURE_VARIANT_ADD(senders, vmsplice_gcm)
{
	.way = {
		.algo = GCM,
		.send = send_spliced,
		.loopback = true,
	},
};

FIXTURE_VARIANT_ADD(senders, copied_gcm)
{
	.way = {
		.algo = GCM,
		.send = send_copied,
		.loopback = true,
		.joins = true,
	},
};

FIXTURE_VARIANT_ADD(senders, copied6_gcm)
{
	.way = {
		.algo = GCM,
		.send = send_copied,
		.v6 = true,
		.joins = true,
	},
};

/* Packets of one segment each, put together again by the receiver. */
#define GRO_SETUP_A	"ethtool -K veth0 tso off gso off"
#define GRO_SETUP	"ethtool -K veth0 gro on"

FIXTURE_VARIANT_ADD(pages, gro_gcm)
{
	.way = {
		.algo = GCM,
		.setup_a = GRO_SETUP_A,
		.setup = GRO_SETUP,
		.merges = true,
	},
};

FIXTURE_VARIANT_ADD(senders, gro_copied_gcm)
{
	.way = {
		.algo = GCM,
		.send = send_copied,
		.setup_a = GRO_SETUP_A,
		.setup = GRO_SETUP,
		.merges = true,
	},
};

/* Every segment also goes elsewhere, as a clone that shares its pages. */
FIXTURE_VARIANT_ADD(pages, dup_gcm)
{
	.way = {
		.algo = GCM,
		.setup = "set -e; ip link add dup0 type dummy; ip link set dup0 up; "
			 "nft 'add table netdev t; "
			 "add chain netdev t c { type filter hook ingress device veth0 priority 0; }; "
			 "add rule netdev t c dup to dup0'",
		.duplicates = true,
	},
};

/*
 * Two SAs of one key: the first makes what the second is to decrypt, which has
 * another reqid lest it be taken to make records.
 */
static int add_sas(const struct bench *b, const struct pair *p,
		   const char *algo)
{
	const struct net *net = b->net;
	char command[1024], maker[128];

	snprintf(maker, sizeof(maker),
		 "src %s dst %s proto esp spi 0x1001 mode tunnel reqid 1",
		 net->loopback, net->loopback);
	snprintf(command, sizeof(command),
		 "set -e; "
		 "ip xfrm state add %s %s encap espintcp %d %d 0.0.0.0; "
		 "ip xfrm state add src %s dst %s proto esp spi 0x1001 mode tunnel reqid 2 %s encap espintcp 1 1 0.0.0.0; "
		 "ip xfrm policy add src %s dst %s dir out tmpl %s",
		 maker, algo, ntohs(local_port(p->ulp)), ntohs(local_port(p->raw)),
		 net->a, net->b, algo, net->inner_a, net->inner_b, maker);
	return run(command);
}

/* Packets for the SA: loopback itself would not let XFRM have them. */
static int add_inner(const struct net *net)
{
	char command[256];

	snprintf(command, sizeof(command),
		 "set -e; ip link add inner type dummy; ip link set inner up; "
		 "ip addr add %s/%s dev inner", net->inner_a,
		 net->family == AF_INET6 ? "64 nodad" : "24");
	return run(command);
}

/* From the one inner address to the other. */
static int inner_socket(const struct net *net, int type, int protocol)
{
	struct addrinfo hints = {
		.ai_family = net->family, .ai_flags = AI_NUMERICHOST,
	}, *from = NULL, *to = NULL;
	int fd = socket(net->family, type, protocol);
	int err = -1;

	if (fd >= 0 && !getaddrinfo(net->inner_a, NULL, &hints, &from) &&
	    !getaddrinfo(net->inner_b, NULL, &hints, &to)) {
		/* Both families have the port there; raw sockets have none. */
		if (type == SOCK_DGRAM)
			((struct sockaddr_in6 *)to->ai_addr)->sin6_port =
				htons(INNER_PORT);
		err = bind(fd, from->ai_addr, from->ai_addrlen) ||
		      connect(fd, to->ai_addr, to->ai_addrlen);
	}
	freeaddrinfo(from);
	freeaddrinfo(to);
	return err ? -1 : fd;
}

static size_t datagram_len(int i)
{
	return 100 + i * 20;
}

static int send_datagrams(const struct net *net)
{
	int fd = inner_socket(net, SOCK_DGRAM, 0), i;
	__u8 data[1300];

	if (fd < 0)
		return -1;
	for (i = 0; i < NR_DATAGRAMS; i++) {
		ssize_t len = datagram_len(i);

		fill_pattern(data, len, i);
		if (send(fd, data, len, 0) != len)
			return -1;
	}
	return close(fd);
}

/* A TCP segment after what its checksum covers besides. */
struct segment {
	struct in6_addr from;	/* of IPv4 the first octets only */
	struct in6_addr to;
	__be32 len;
	__be32 protocol;
	struct tcphdr tcp;
	__u8 data[SEGMENT_LEN];
};

static void fill_segment(const struct net *net, struct segment *s, int i)
{
	const size_t len = sizeof(s->tcp) + sizeof(s->data);
	__u8 stream[NR_SEGMENTS * SEGMENT_LEN];

	memset(s, 0, sizeof(*s));
	inet_pton(net->family, net->inner_a, &s->from);
	inet_pton(net->family, net->inner_b, &s->to);
	s->len = htonl(len);
	s->protocol = htonl(IPPROTO_TCP);
	s->tcp.source = htons(INNER_PORT);
	s->tcp.dest = htons(INNER_PORT);
	s->tcp.seq = htonl(i * SEGMENT_LEN);
	s->tcp.ack = 1;
	s->tcp.doff = sizeof(s->tcp) / 4;
	s->tcp.window = htons(1000);
	fill_pattern(stream, sizeof(stream), 0);
	memcpy(s->data, stream + i * SEGMENT_LEN, SEGMENT_LEN);
	s->tcp.check = inet_sum(s, sizeof(*s));
}

static int send_segments(const struct net *net)
{
	int fd = inner_socket(net, SOCK_RAW, IPPROTO_TCP), i;
	const ssize_t len = sizeof(struct segment) -
			    offsetof(struct segment, tcp);
	struct segment s;

	if (fd < 0)
		return -1;
	for (i = 0; i < NR_SEGMENTS; i++) {
		fill_segment(net, &s, i);
		if (send(fd, &s.tcp, len, 0) != len)
			return -1;
	}
	return close(fd);
}

/* NR_RECORDS valid records, the kernel's own. Returns octets or -1. */
static ssize_t make_records(const struct bench *b, const char *algo)
{
	const struct path path = { .family = b->net->family };
	struct pair maker;
	ssize_t len;

	if (tcp_pair(&maker, &path) || set_ulp(maker.ulp, "espintcp") ||
	    add_sas(b, &maker, algo) || add_inner(b->net) ||
	    send_datagrams(b->net) || send_segments(b->net))
		return -1;
	len = read_records(maker.raw, b->want, NR_RECORDS);
	close(maker.ulp);
	close(maker.raw);
	return len;
}

static int capture_b(const struct bench *b)
{
	return open_capture(b->ns_a == b->ns_b ? "lo" : "veth0",
			    b->net->family == AF_INET6 ? ETH_P_IPV6 : ETH_P_IP);
}

/* Nobody has a clone of what is received. */
static void stop_capture(struct bench *b)
{
	close(b->capture);
	close(b->copies);
	b->capture = -1;
	b->copies = -1;
}

/* The pages that are sent. */
static int fill_pages(struct bench *b, bool in_file)
{
	b->file = in_file ? memfd_create("records", MFD_CLOEXEC) : -1;
	if (in_file && write(b->file, b->want, b->len) != (ssize_t)b->len)
		return -1;
	b->sent = mmap(NULL, b->len, PROT_READ | PROT_WRITE,
		       in_file ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS,
		       b->file, 0);
	if (b->sent == MAP_FAILED)
		return -1;
	if (!in_file)
		memcpy(b->sent, b->want, b->len);
	return 0;
}

static int add_addresses(const struct bench *b, bool loopback)
{
	if (loopback && b->net == &net4)
		return run("ip addr add " ADDR_B "/32 dev lo");
	if (loopback)
		return run("ip addr add " ADDR6_B "/128 dev lo");
	if (join_hosts(b->ns_a, b->ns_b))
		return -1;
	if (b->net == &net4)
		return 0;
	return enter(b->ns_a) ||
	       run("ip addr add " ADDR6_A "/64 dev veth0 nodad") ||
	       enter(b->ns_b) ||
	       run("ip addr add " ADDR6_B "/64 dev veth0 nodad");
}

static void setup(struct __test_metadata *_metadata, struct bench *b,
		  const struct way *way)
{
	b->net = way->v6 ? &net6 : &net4;
	b->want = calloc(1, STREAM_MAX);
	b->got = calloc(1, STREAM_MAX);
	ASSERT_EQ(0, new_netns());
	b->ns_a = own_ns();
	b->ns_b = b->ns_a;
	if (!way->loopback) {
		ASSERT_EQ(0, new_netns());
		b->ns_b = own_ns();
	}
	ASSERT_EQ(0, add_addresses(b, way->loopback));
	b->len = make_records(b, way->algo);
	ASSERT_LT(NR_RECORDS * 100, (ssize_t)b->len);

	ASSERT_EQ(0, fill_pages(b, !way->send));
	if (way->setup_a) {
		ASSERT_EQ(0, enter(b->ns_a));
		ASSERT_EQ(0, run(way->setup_a));
	}
	ASSERT_EQ(0, enter(b->ns_b));
	if (way->setup)
		ASSERT_EQ(0, run(way->setup));
	ASSERT_EQ(0, connect_hosts_at(&b->p, b->net->b, b->ns_a, b->ns_b));
	b->first = write_seq(b->p.raw);
	b->capture = capture_b(b);
	ASSERT_LE(0, b->capture);
	/* There it goes out, which only who wants all packets gets to see. */
	b->copies = way->duplicates ? open_capture("dup0", ETH_P_ALL) : -1;
	ASSERT_TRUE(!way->duplicates || b->copies >= 0);
}

static void teardown(struct bench *b)
{
	run("ip xfrm state flush; ip xfrm policy flush");
	close(b->p.ulp);
	close(b->p.raw);
	stop_capture(b);
	munmap(b->sent, b->len);
	close(b->file);
	close(b->ns_a);
	if (b->ns_b != b->ns_a)
		close(b->ns_b);
	free(b->want);
	free(b->got);
}

FIXTURE_SETUP(pages)
{
	setup(_metadata, &self->b, &variant->way);
}

FIXTURE_TEARDOWN(pages)
{
	teardown(&self->b);
}

FIXTURE_SETUP(senders)
{
	setup(_metadata, &self->b, &variant->way);
}

FIXTURE_TEARDOWN(senders)
{
	teardown(&self->b);
}

typedef ssize_t (*send_fn)(const struct bench *b, size_t at);

/* Some of the records, from @at. */
static ssize_t send_some(const struct bench *b, send_fn fn, size_t at)
{
	return fn ? fn(b, at) : send_from_file(b, at);
}

static void send_all(struct __test_metadata *_metadata, struct bench *b,
		     send_fn fn)
{
	size_t at = 0;
	ssize_t n;

	while (at < b->len) {
		n = send_some(b, fn, at);
		ASSERT_LT(0, n);
		at += n;
	}
	b->p.written += b->len;
	ASSERT_EQ(0, settle(&b->p));
}

/* What the SA took: authentic, all of it. */
static long packets_taken(const struct bench *b)
{
	char id[128];

	snprintf(id, sizeof(id), "src %s dst %s proto esp spi 0x1001", b->net->a,
		 b->net->b);
	return sa_packets(id);
}

static void expect_untouched(struct __test_metadata *_metadata,
			     struct bench *b)
{
	if (b->file >= 0) {
		ASSERT_EQ((ssize_t)b->len,
			  pread(b->file, b->got, STREAM_MAX, 0));
		ASSERT_EQ(0, memcmp(b->want, b->got, b->len));
	}
	ASSERT_EQ(0, memcmp(b->want, b->sent, b->len));
}

/* An IP packet that was captured. */
struct packet {
	int protocol;
	const __u8 *payload;	/* behind the IP header */
	size_t len;
};

static struct packet parse(const __u8 *octets)
{
	const struct iphdr *ip = (const struct iphdr *)octets;
	const struct ip6_hdr *ip6 = (const struct ip6_hdr *)octets;

	if (ip->version == 6)
		return (struct packet){
			.protocol = ip6->ip6_nxt,
			.payload = octets + sizeof(*ip6),
			.len = ntohs(ip6->ip6_plen),
		};
	if (ip->version == 4)
		return (struct packet){
			.protocol = ip->protocol,
			.payload = octets + ip->ihl * 4,
			.len = ntohs(ip->tot_len) - ip->ihl * 4,
		};
	return (struct packet){ 0 };
}

/*
 * All that went to B as it was captured, against what was sent. Returns the
 * number of octets seen.
 */
static size_t check_segments(struct __test_metadata *_metadata,
			     struct bench *b, int capture)
{
	static __u8 octets[65536 + 100];
	in_port_t sport = local_port(b->p.raw);
	size_t seen = 0;

	while (recv(capture, octets, sizeof(octets), 0) > 0) {
		struct packet p = parse(octets);
		const struct tcphdr *tcp = (const struct tcphdr *)p.payload;
		size_t at, len;

		if (p.protocol != IPPROTO_TCP || tcp->source != sport)
			continue;
		len = p.len - tcp->doff * 4;
		at = ntohl(tcp->seq) - b->first;
		/* The FIN, and ACKs, may be anywhere. */
		if (!len)
			continue;
		ASSERT_GE(b->len, at + len);
		ASSERT_EQ(0, memcmp(p.payload + tcp->doff * 4, b->want + at,
				    len));
		if (len > b->largest)
			b->largest = len;
		seen += len;
	}
	return seen;
}

static size_t mss_of(int fd)
{
	struct tcp_info ti;

	return tcp_info(fd, &ti) ? 0 : ti.tcpi_snd_mss;
}

static bool unacked(int fd)
{
	struct tcp_info ti;

	return tcp_info(fd, &ti) || ti.tcpi_unacked;
}

static __u32 retransmits(int fd)
{
	struct tcp_info ti;

	return tcp_info(fd, &ti) ? 0 : ti.tcpi_total_retrans;
}

/* All were sent and are decrypted, and whoever has the octets still has them. */
static void expect_taken(struct __test_metadata *_metadata, struct bench *b,
			 bool joins)
{
	ASSERT_TRUE(wait_for(packets_taken(b) == NR_RECORDS));
	if (joins)
		EXPECT_LT(0, counter("EspTcpInGro"));
	expect_untouched(_metadata, b);
}

static void expect_captured(struct __test_metadata *_metadata, struct bench *b,
			    bool merges)
{
	ASSERT_LE(b->len, check_segments(_metadata, b, b->capture));
	if (merges)
		EXPECT_LT(mss_of(b->p.raw), b->largest);
	if (b->copies >= 0)
		ASSERT_LE(b->len, check_segments(_metadata, b, b->copies));
}

static void ulp_before_data(struct __test_metadata *_metadata, struct bench *b,
			    const struct way *way)
{
	ASSERT_EQ(0, set_ulp(b->p.ulp, "espintcp"));
	send_all(_metadata, b, way->send);
	expect_taken(_metadata, b, way->joins);
	expect_captured(_metadata, b, way->merges);
}

TEST_F(pages, ulp_before_data)
{
	ulp_before_data(_metadata, &self->b, &variant->way);
}

TEST_F(senders, ulp_before_data)
{
	ulp_before_data(_metadata, &self->b, &variant->way);
}

TEST_F(pages, ulp_after_data)
{
	struct bench *b = &self->b;

	send_all(_metadata, b, variant->way.send);
	ASSERT_EQ(0, set_ulp(b->p.ulp, "espintcp"));
	expect_taken(_metadata, b, variant->way.joins);
	expect_captured(_metadata, b, variant->way.merges);
}

/* By then the retransmit queue has let go of them, too. */
static void not_captured(struct __test_metadata *_metadata, struct bench *b,
			 const struct way *way)
{
	stop_capture(b);
	send_all(_metadata, b, way->send);
	ASSERT_TRUE(wait_for(!unacked(b->p.raw)));
	ASSERT_EQ(0, set_ulp(b->p.ulp, "espintcp"));
	expect_taken(_metadata, b, way->joins);
}

TEST_F(pages, ulp_after_data_not_captured)
{
	not_captured(_metadata, &self->b, &variant->way);
}

TEST_F(senders, ulp_after_data_not_captured)
{
	not_captured(_metadata, &self->b, &variant->way);
}

/* What B acknowledges does not get through to A, or does again. */
static void set_acks(struct __test_metadata *_metadata, const struct bench *b,
		     bool on)
{
	const char *family = b->net == &net6 ? "ip6" : "ip";
	char command[256];

	if (on)
		snprintf(command, sizeof(command), "nft delete table %s acks",
			 family);
	else
		snprintf(command, sizeof(command),
			 "nft 'add table %s acks; "
			 "add chain %s acks c { type filter hook input priority 0; }; "
			 "add rule %s acks c tcp dport %d drop'",
			 family, family, family, ntohs(local_port(b->p.raw)));
	ASSERT_EQ(0, enter(b->ns_a));
	ASSERT_EQ(0, run(command));
	ASSERT_EQ(0, enter(b->ns_b));
}

/* What was decrypted long since goes out once more, because no ACK came. */
static void retransmit(struct __test_metadata *_metadata, struct bench *b,
		       send_fn fn)
{
	__u32 before;

	ASSERT_EQ(0, set_ulp(b->p.ulp, "espintcp"));
	set_acks(_metadata, b, false);
	/* There may be no room for all of it before an ACK comes. */
	ASSERT_EQ(0, fcntl(b->p.raw, F_SETFL, O_NONBLOCK));
	ASSERT_LT(0, send_some(b, fn, 0));
	ASSERT_TRUE(wait_for(packets_taken(b) > 0));
	if (b->capture < 0)
		b->capture = capture_b(b);
	before = retransmits(b->p.raw);
	ASSERT_TRUE(wait_for(retransmits(b->p.raw) > before + 1));
	expect_untouched(_metadata, b);
	set_acks(_metadata, b, true);
	ASSERT_TRUE(wait_for(!unacked(b->p.raw)));
	ASSERT_LT(0, check_segments(_metadata, b, b->capture));
	if (b->copies >= 0)
		ASSERT_LT(0, check_segments(_metadata, b, b->copies));
	expect_untouched(_metadata, b);
}

TEST_F(pages, retransmitted)
{
	retransmit(_metadata, &self->b, variant->way.send);
}

/* Only what is sent again is captured: before it was the retransmit queue's. */
TEST_F(pages, retransmitted_not_captured)
{
	stop_capture(&self->b);
	retransmit(_metadata, &self->b, variant->way.send);
}

/* Where in the stream the payload of each record can be changed. */
static void find_payloads(const struct bench *b, size_t *at)
{
	size_t offset = 0;
	int i;

	for (i = 0; i < NR_RECORDS; i++) {
		offset += b->want[offset] << 8 | b->want[offset + 1];
		/* Before padding and ICV, behind all headers. */
		at[i] = offset - 60;
	}
}

/* A thread that changes the records, and back, until it is to stop. */
struct changes {
	const struct bench *b;
	bool stop;
	pthread_t thread;
};

static void *change(void *arg)
{
	struct changes *c = arg;
	size_t at[NR_RECORDS];
	int i = 0;

	find_payloads(c->b, at);
	while (!__atomic_load_n(&c->stop, __ATOMIC_RELAXED)) {
		__atomic_fetch_xor(&c->b->sent[at[i]], 1, __ATOMIC_RELAXED);
		i = (i + 1) % NR_RECORDS;
	}
	return NULL;
}

static int stop_changes(struct changes *c)
{
	__atomic_store_n(&c->stop, true, __ATOMIC_RELAXED);
	if (pthread_join(c->thread, NULL))
		return -1;
	memcpy(c->b->sent, c->b->want, c->b->len);
	return 0;
}

/* On a connection of its own, until all was received or it was reset. */
static void send_changing(struct __test_metadata *_metadata, struct bench *b,
			  send_fn fn)
{
	struct tcp_info ti;
	size_t at = 0;
	ssize_t n;

	close(b->p.ulp);
	close(b->p.raw);
	ASSERT_EQ(0, connect_hosts_at(&b->p, b->net->b, b->ns_a, b->ns_b));
	ASSERT_EQ(0, set_ulp(b->p.ulp, "espintcp"));
	while (at < b->len && (n = send_some(b, fn, at)) > 0)
		at += n;
	ASSERT_TRUE(wait_for(!tcp_info(b->p.raw, &ti) &&
			     (ti.tcpi_state != BPF_TCP_ESTABLISHED ||
			      !ti.tcpi_unacked)));
}

/* A decrypted packet is as it was sent. Returns of how many records it is. */
static int check_packet(struct __test_metadata *_metadata,
			const struct packet *p)
{
	const struct tcphdr *tcp = (const struct tcphdr *)p->payload;
	static __u8 pattern[65536];
	size_t len, at = 0, head = 8;
	int records = 1, seed = 0;

	if (p->protocol == IPPROTO_TCP && tcp->source == htons(INNER_PORT)) {
		head = tcp->doff * 4;
		at = ntohl(tcp->seq);
		len = p->len - head;
		records = len / SEGMENT_LEN;
	} else if (p->protocol == IPPROTO_UDP) {
		len = p->len - head;
		seed = (len - 100) / 20;
	} else {
		return 0;
	}
	fill_pattern(pattern, at + len, seed);
	ASSERT_EQ(0, memcmp(pattern + at, p->payload + head, len));
	return records;
}

/* Decrypted packets that were captured; returns of how many records. */
static int check_inner(struct __test_metadata *_metadata, struct bench *b)
{
	static __u8 octets[65536 + 100];
	int found = 0;

	while (recv(b->capture, octets, sizeof(octets), 0) > 0) {
		struct packet p = parse(octets);

		found += check_packet(_metadata, &p);
	}
	return found;
}

/*
 * What is sent changes all the time: a record is authentic and what is delivered is
 * what was authenticated, or it is neither. Needs two processors to fail.
 */
TEST_F(pages, changed_meanwhile)
{
	struct bench *b = &self->b;
	struct changes c = { .b = b };
	int i, found = 0;

	signal(SIGPIPE, SIG_IGN);
	ASSERT_EQ(0, pthread_create(&c.thread, NULL, change, &c));
	for (i = 0; i < 20; i++) {
		send_changing(_metadata, b, variant->way.send);
		check_inner(_metadata, b);
	}
	ASSERT_EQ(0, stop_changes(&c));
	send_changing(_metadata, b, variant->way.send);
	ASSERT_TRUE(wait_for((found += check_inner(_metadata, b)) >=
			     NR_RECORDS));
}

TEST_HARNESS_MAIN
