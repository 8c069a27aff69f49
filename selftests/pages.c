// SPDX-License-Identifier: GPL-2.0
/*
 * Pages that the module does not own stay as they are.
 *
 * A file full of valid ESP records is sent with sendfile(), so that what TCP
 * receives on the other end, over loopback or veth, is the file's page cache
 * and the sender's retransmit queue, and not a copy. ESP that decrypts in place
 * writes plaintext into all of them. Here the file must stay as it was, and so
 * must all segments, those sent a second time too, while the SA takes every
 * record.
 */
#include "kselftest_harness.h"

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <netinet/ip.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/wait.h>

#include "espintcp_hosts.h"

#define NR_RECORDS	60
#define STREAM_MAX	(256 * 1024)
/* SAs, the latter in another reqid lest it be taken to make records. */
#define MAKER "src 127.0.0.1 dst 127.0.0.1 proto esp spi 0x1001 mode tunnel reqid 1"
#define TAKER_ID "src " ADDR_A " dst " ADDR_B " proto esp spi 0x1001"
#define TAKER TAKER_ID " mode tunnel reqid 2"

struct bench {
	int ns_a;
	int ns_b;
	int file;
	int capture;
	__u8 *want;
	__u8 *got;
	size_t len;
	struct pair p;
};

FIXTURE(pages)
{
	struct bench b;
};

FIXTURE_VARIANT(pages)
{
	const char *algo;
	bool loopback;
	const char *setup;	/* of B, after all else */
	const char *setup_a;
};

#define GCM	"aead 'rfc4106(gcm(aes))' 0x0102030405060708090a0b0c0d0e0f1011121314 128"
#define CBC	"enc 'cbc(aes)' 0x0102030405060708090a0b0c0d0e0f10 auth-trunc 'hmac(sha256)' 0x0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20 128"
#define NONE	"enc 'ecb(cipher_null)' '' auth-trunc 'hmac(sha256)' 0x0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20 128"

FIXTURE_VARIANT_ADD(pages, loopback_gcm)
{
	.algo = GCM,
	.loopback = true,
};

FIXTURE_VARIANT_ADD(pages, loopback_cbc)
{
	.algo = CBC,
	.loopback = true,
};

FIXTURE_VARIANT_ADD(pages, veth_gcm)
{
	.algo = GCM,
};

FIXTURE_VARIANT_ADD(pages, veth_cbc)
{
	.algo = CBC,
};

FIXTURE_VARIANT_ADD(pages, veth_null)
{
	.algo = NONE,
};

/* Packets of one segment each, put together again by the receiver. */
FIXTURE_VARIANT_ADD(pages, gro_gcm)
{
	.algo = GCM,
	.setup_a = "ethtool -K veth0 tso off gso off",
	.setup = "ethtool -K veth0 gro on",
};

/* Every segment also goes elsewhere, as a clone that shares its pages. */
FIXTURE_VARIANT_ADD(pages, dup_gcm)
{
	.algo = GCM,
	.setup = "set -e; ip link add dup0 type dummy; ip link set dup0 up; "
		 "nft 'add table netdev t; "
		 "add chain netdev t c { type filter hook ingress device veth0 priority 0; }; "
		 "add rule netdev t c dup to dup0'",
};

/* Two SAs of one key: the first makes what the second is to decrypt. */
static int add_sas(const struct pair *p, const char *algo)
{
	char command[1024];

	snprintf(command, sizeof(command),
		 "set -e; "
		 "ip xfrm state add " MAKER " %s encap espintcp %d %d 0.0.0.0; "
		 "ip xfrm state add " TAKER " %s encap espintcp 1 1 0.0.0.0; "
		 "ip xfrm policy add src 10.0.0.1 dst 10.0.0.2 dir out tmpl " MAKER,
		 algo, ntohs(local_port(p->ulp)), ntohs(local_port(p->raw)),
		 algo);
	return run(command);
}

/* Packets for the SA: loopback itself would not let XFRM have them. */
static int send_inner(void)
{
	struct sockaddr_in to = {
		.sin_family = AF_INET, .sin_port = htons(9),
	}, from = {
		.sin_family = AF_INET,
	};
	__u8 data[1300];
	int fd, i;

	if (run("set -e; ip link add inner type dummy; ip link set inner up; "
		"ip addr add 10.0.0.1/24 dev inner"))
		return -1;
	inet_pton(AF_INET, "10.0.0.1", &from.sin_addr);
	inet_pton(AF_INET, "10.0.0.2", &to.sin_addr);
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&from, sizeof(from)))
		return -1;
	for (i = 0; i < NR_RECORDS; i++) {
		size_t len = 100 + i * 20;

		fill_pattern(data, len, i);
		if (sendto(fd, data, len, 0, (struct sockaddr *)&to,
			   sizeof(to)) != (ssize_t)len)
			return -1;
	}
	return close(fd);
}

/* NR_RECORDS valid records, the kernel's own. Returns octets or -1. */
static ssize_t make_records(__u8 *p, const char *algo)
{
	const struct path path = { .family = AF_INET };
	struct pair maker;
	ssize_t len, at = 0;
	int i;

	if (tcp_pair(&maker, &path) || set_ulp(maker.ulp, "espintcp") ||
	    add_sas(&maker, algo) || send_inner())
		return -1;
	for (i = 0; i < NR_RECORDS; i++) {
		len = raw_read_record(maker.raw, p + at + HEADER_LEN);
		if (len < 0)
			return -1;
		put_header(p + at, HEADER_LEN + len);
		at += HEADER_LEN + len;
	}
	close(maker.ulp);
	close(maker.raw);
	return at;
}

static int open_capture(const char *dev)
{
	struct sockaddr_ll sll = {
		.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP),
		.sll_ifindex = if_nametoindex(dev),
	};
	int fd = socket(AF_PACKET, SOCK_DGRAM | SOCK_NONBLOCK, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&sll, sizeof(sll)) ||
	    set_int(fd, SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20))
		return -1;
	return fd;
}

FIXTURE_SETUP(pages)
{
	struct bench *b = &self->b;

	b->want = calloc(1, STREAM_MAX);
	b->got = calloc(1, STREAM_MAX);
	ASSERT_EQ(0, new_netns());
	b->ns_a = own_ns();
	b->ns_b = b->ns_a;
	if (!variant->loopback) {
		ASSERT_EQ(0, new_netns());
		b->ns_b = own_ns();
		ASSERT_EQ(0, join_hosts(b->ns_a, b->ns_b));
	} else {
		ASSERT_EQ(0, run("ip addr add " ADDR_B "/32 dev lo"));
	}
	b->len = make_records(b->want, variant->algo);
	ASSERT_LT(NR_RECORDS * 100, (ssize_t)b->len);

	b->file = memfd_create("records", MFD_CLOEXEC);
	ASSERT_EQ((ssize_t)b->len,
		  write(b->file, b->want, b->len));
	if (variant->setup_a) {
		ASSERT_EQ(0, enter(b->ns_a));
		ASSERT_EQ(0, run(variant->setup_a));
	}
	ASSERT_EQ(0, enter(b->ns_b));
	if (variant->setup)
		ASSERT_EQ(0, run(variant->setup));
	ASSERT_EQ(0, connect_hosts(&b->p, b->ns_a, b->ns_b));
	b->capture = open_capture(variant->loopback ? "lo" : "veth0");
	ASSERT_LE(0, b->capture);
}

FIXTURE_TEARDOWN(pages)
{
	struct bench *b = &self->b;

	run("ip xfrm state flush; ip xfrm policy flush");
	close(b->p.ulp);
	close(b->p.raw);
	close(b->capture);
	close(b->file);
	close(b->ns_a);
	if (b->ns_b != b->ns_a)
		close(b->ns_b);
	free(b->want);
	free(b->got);
}

static void send_file(struct __test_metadata *_metadata,
		      struct bench *b)
{
	off_t at = 0;

	while (at < (off_t)b->len)
		ASSERT_LT(0, sendfile(b->p.raw, b->file, &at,
				      b->len - at));
	b->p.written += b->len;
	ASSERT_EQ(0, settle(&b->p));
}

/* Packets the SA took: authentic, all of them. */
static long sa_packets(void)
{
	FILE *f = popen("ip -s xfrm state get " TAKER_ID, "r");
	bool current = false;
	char line[256];
	long n = -1;

	/* The line after this one has octets and packets. */
	while (f && fgets(line, sizeof(line), f)) {
		if (current && sscanf(line, "%*d(bytes), %ld", &n) == 1)
			break;
		current = strstr(line, "lifetime current");
	}
	if (f)
		pclose(f);
	return n;
}

static void expect_untouched(struct __test_metadata *_metadata,
			     struct bench *b)
{
	ASSERT_EQ((ssize_t)b->len,
		  pread(b->file, b->got, STREAM_MAX, 0));
	ASSERT_EQ(0, memcmp(b->want, b->got, b->len));
}

/*
 * All that went to B as it was captured, against the file. Returns the number
 * of octets seen.
 */
static size_t check_segments(struct __test_metadata *_metadata,
			     struct bench *b)
{
	static __u8 packet[65536 + 100];
	in_port_t sport = local_port(b->p.raw);
	__u32 first = 0;
	bool started = false;
	size_t octets = 0;
	ssize_t n;

	while ((n = recv(b->capture, packet, sizeof(packet), 0)) > 0) {
		struct iphdr *ip = (struct iphdr *)packet;
		struct tcphdr *tcp = (struct tcphdr *)(packet + ip->ihl * 4);
		size_t head = ip->ihl * 4 + tcp->doff * 4;
		size_t len = ntohs(ip->tot_len) - head;

		if (ip->protocol != IPPROTO_TCP || tcp->source != sport || !len)
			continue;
		if (!started)
			first = ntohl(tcp->seq);
		started = true;
		ASSERT_GE(b->len, ntohl(tcp->seq) - first + len);
		ASSERT_EQ(0, memcmp(packet + head,
				    b->want + (ntohl(tcp->seq) - first),
				    len));
		octets += len;
	}
	return octets;
}

TEST_F(pages, ulp_before_data)
{
	struct bench *b = &self->b;

	ASSERT_EQ(0, set_ulp(b->p.ulp, "espintcp"));
	send_file(_metadata, b);
	ASSERT_TRUE(wait_for(sa_packets() == NR_RECORDS));
	expect_untouched(_metadata, b);
	ASSERT_LE(b->len, check_segments(_metadata, b));
}

TEST_F(pages, ulp_after_data)
{
	struct bench *b = &self->b;

	send_file(_metadata, b);
	ASSERT_EQ(0, set_ulp(b->p.ulp, "espintcp"));
	ASSERT_TRUE(wait_for(sa_packets() == NR_RECORDS));
	expect_untouched(_metadata, b);
	ASSERT_LE(b->len, check_segments(_metadata, b));
}

/* What was decrypted long since goes out once more, because no ACK came. */
TEST_F(pages, retransmitted)
{
	struct bench *b = &self->b;
	struct tcp_info ti;
	char command[256];
	off_t offset = 0;

	ASSERT_EQ(0, set_ulp(b->p.ulp, "espintcp"));
	ASSERT_EQ(0, enter(b->ns_a));
	snprintf(command, sizeof(command),
		 "nft 'add table ip acks; "
		 "add chain ip acks c { type filter hook input priority 0; }; "
		 "add rule ip acks c tcp dport %d drop'",
		 ntohs(local_port(b->p.raw)));
	ASSERT_EQ(0, run(command));
	ASSERT_EQ(0, enter(b->ns_b));
	ASSERT_LT(0, sendfile(b->p.raw, b->file, &offset, b->len));
	ASSERT_TRUE(wait_for(sa_packets() > 0));
	ASSERT_TRUE(wait_for(!tcp_info(b->p.raw, &ti) &&
			     ti.tcpi_total_retrans > 1));
	expect_untouched(_metadata, b);
	ASSERT_EQ(0, enter(b->ns_a));
	ASSERT_EQ(0, run("nft delete table ip acks"));
	ASSERT_EQ(0, enter(b->ns_b));
	ASSERT_TRUE(wait_for(!tcp_info(b->p.raw, &ti) && !ti.tcpi_unacked));
	ASSERT_LT(0, check_segments(_metadata, b));
	expect_untouched(_metadata, b);
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

/* A process that changes the records, and back, for as long as it lives. */
static pid_t start_changes(const struct bench *b)
{
	__u8 *map = mmap(NULL, b->len, PROT_READ | PROT_WRITE, MAP_SHARED,
			 b->file, 0);
	size_t at[NR_RECORDS];
	pid_t pid;
	int i = 0;

	if (map == MAP_FAILED)
		return -1;
	find_payloads(b, at);
	pid = fork();
	if (!pid)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (!pid) {
		__atomic_fetch_xor(&map[at[i]], 1, __ATOMIC_RELAXED);
		i = (i + 1) % NR_RECORDS;
	}
	munmap(map, b->len);
	return pid;
}

static int stop_changes(const struct bench *b, pid_t pid)
{
	if (kill(pid, SIGKILL) || waitpid(pid, NULL, 0) != pid)
		return -1;
	return pwrite(b->file, b->want, b->len, 0) == (ssize_t)b->len ? 0 : -1;
}

/* On a connection of its own, until all was received or it was reset. */
static void send_changing(struct __test_metadata *_metadata, struct bench *b)
{
	struct tcp_info ti;
	off_t at = 0;

	close(b->p.ulp);
	close(b->p.raw);
	ASSERT_EQ(0, connect_hosts(&b->p, b->ns_a, b->ns_b));
	ASSERT_EQ(0, set_ulp(b->p.ulp, "espintcp"));
	while (at < (off_t)b->len &&
	       sendfile(b->p.raw, b->file, &at, b->len - at) > 0)
		;
	ASSERT_TRUE(wait_for(!tcp_info(b->p.raw, &ti) &&
			     (ti.tcpi_state != BPF_TCP_ESTABLISHED ||
			      !ti.tcpi_unacked)));
}

/* Decrypted packets that were captured: all are as they were sent. */
static int check_inner(struct __test_metadata *_metadata, struct bench *b)
{
	static __u8 packet[65536 + 100], pattern[65536];
	const __u8 *payload = packet + sizeof(struct iphdr) + 8;
	const struct iphdr *ip = (struct iphdr *)packet;
	ssize_t n, len;
	int found = 0;

	while ((n = recv(b->capture, packet, sizeof(packet), 0)) > 0) {
		if (ip->protocol != IPPROTO_UDP)
			continue;
		len = ntohs(ip->tot_len) - sizeof(*ip) - 8;
		fill_pattern(pattern, len, (len - 100) / 20);
		ASSERT_EQ(0, memcmp(pattern, payload, len));
		found++;
	}
	return found;
}

/*
 * The file changes all the time: a record is authentic and what is delivered is
 * what was authenticated, or it is neither. Needs two processors to fail.
 */
TEST_F(pages, changed_meanwhile)
{
	struct bench *b = &self->b;
	pid_t pid = start_changes(b);
	int i, found = 0;

	ASSERT_LT(0, pid);
	signal(SIGPIPE, SIG_IGN);
	for (i = 0; i < 20; i++) {
		send_changing(_metadata, b);
		check_inner(_metadata, b);
	}
	ASSERT_EQ(0, stop_changes(b, pid));
	send_changing(_metadata, b);
	ASSERT_TRUE(wait_for((found += check_inner(_metadata, b)) >=
			     NR_RECORDS));
}

TEST_HARNESS_MAIN
