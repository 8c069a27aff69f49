// SPDX-License-Identifier: GPL-2.0
/*
 * Many connections: one after the other, and at the same time, with SAs on each
 * and packets both ways. What they took, the kernel has back afterwards: as it is
 * after some of them, so it is after many more, in objects and in pages.
 *
 * LOAD_CYCLES=N  connections one after the other (default 2000)
 * LOAD_OPEN=N    connections open at once (default 500)
 */
#define WAIT_MS	120000
#include "kselftest_harness.h"

#include <linux/netlink.h>
#include <linux/xfrm.h>
#include <netinet/in.h>
#include <sys/resource.h>

#include "espintcp_hosts.h"
#include "espintcp_random.h"

/*
 * What may be more afterwards, however many connections there were: a few objects
 * and pages come and go in any kernel. An object of 128 octets that each of 500
 * connections leaks is more, and so is half a page.
 */
#define SLAB_OCTETS_MAX		(48 << 10)
#define PAGES_MAX		160
/* The kernel frees some things after seconds only: kfree_rcu() takes 5. */
#define SETTLE_SECONDS		12

#define ENCAP_ESPINTCP		7
#define POLICY "xfrm policy add dst 10.%d.%d.%d/32 dir out tmpl src %s dst %s proto esp mode tunnel reqid %u\n"
#define PORT			9
#define PACKET			1300
/* Of the SAs of connections one after the other, behind those of all others */
#define CYCLE_V4		60000
#define CYCLE_V6		60001
/* Warms up for all kinds of connections there are */
#define CYCLES_FIRST		60

/* An SA, as XFRM_MSG_NEWSA has it. */
struct sa_request {
	struct nlmsghdr nlh;
	struct xfrm_usersa_info sa;
	struct nlattr aead_attr;
	struct xfrm_algo_aead aead;
	__u8 key[20];
	struct nlattr encap_attr;
	struct xfrm_encap_tmpl encap;
};

struct sa_delete {
	struct nlmsghdr nlh;
	struct xfrm_usersa_id id;
};

struct memory {
	long slab;	/* octets */
	long pages;	/* that are neither free nor of slabs */
};

struct bench {
	__u8 *out;
	__u8 *in;
	int inner;	/* sends the packets, which come back to it */
	int xfrm;
	long opened;
};

FIXTURE(load)
{
	struct bench b;
};

static int inner_socket(void)
{
	struct sockaddr_in sin = {
		.sin_family = AF_INET, .sin_port = htons(PORT),
	};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	return bind(fd, (struct sockaddr *)&sin, sizeof(sin)) ? -1 : fd;
}

/*
 * 10.0.0.0/8 is here, and what is sent there goes through XFRM before it comes
 * back over loopback.
 */
static int inner_up(void)
{
	return run("set -e; sysctl -qw net.ipv4.conf.lo.disable_xfrm=0; "
		   "sysctl -qw net.ipv4.conf.lo.accept_local=1; "
		   "ip addr add 10.255.255.1/8 dev lo");
}

static __u32 spi_of(int i, int dir)
{
	return 0x1000 + 2 * i + dir;
}

static __u32 reqid_of(int i, int dir)
{
	return 1 + 2 * i + dir;
}

/* Of a packet that the policy gives to SA @dir of connection @i. */
static __u32 inner_addr(int i, int dir)
{
	return 10 << 24 | i / 256 << 16 | i % 256 << 8 | (2 + dir);
}

static int add_policies(const char *addr, int first, int n)
{
	FILE *f = popen("ip -batch -", "w");
	int i, dir;

	for (i = first; f && i < first + n; i++)
		for (dir = 0; dir < 2; dir++)
			fprintf(f, POLICY, i / 256, i % 256, 2 + dir, addr, addr,
				reqid_of(i, dir));
	return f ? pclose(f) : -1;
}

FIXTURE_SETUP(load)
{
	struct bench *b = &self->b;

	b->out = calloc(1, RECORD_MAX);
	b->in = calloc(1, RECORD_MAX);
	ASSERT_EQ(0, new_netns());
	/* Nothing of a connection is to stay, its last state neither. */
	ASSERT_EQ(0, run("sysctl -qw net.ipv4.tcp_max_tw_buckets=0"));
	ASSERT_EQ(0, inner_up());
	b->inner = inner_socket();
	ASSERT_LE(0, b->inner);
	b->xfrm = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_XFRM);
	ASSERT_LE(0, b->xfrm);
}

FIXTURE_TEARDOWN(load)
{
	struct bench *b = &self->b;

	close(b->inner);
	close(b->xfrm);
	free(b->out);
	free(b->in);
}

/* Octets in slab objects in use, all caches together. */
static long slab_octets(void)
{
	FILE *f = fopen("/proc/slabinfo", "r");
	long active, num, size, sum = 0;
	char line[512];

	if (!f)
		return -1;
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "%*s %ld %ld %ld", &active, &num, &size) == 3)
			sum += active * size;
	fclose(f);
	return sum;
}

/* Pages that are free, also those that a processor keeps for itself, or slabs. */
static long free_pages(void)
{
	static const char * const lines[] = {
		" pages free %ld", " count: %ld", " nr_slab_reclaimable %ld",
		" nr_slab_unreclaimable %ld",
	};
	FILE *f = fopen("/proc/zoneinfo", "r");
	char line[512];
	long n, sum = 0;
	size_t i;

	while (f && fgets(line, sizeof(line), f))
		for (i = 0; i < ARRAY_SIZE(lines); i++)
			if (sscanf(line, lines[i], &n) == 1)
				sum += n;
	if (f)
		fclose(f);
	return sum;
}

/* Without what is only kept in case it is wanted again. */
static void memory_now(struct __test_metadata *_metadata, struct memory *m)
{
	/* Not every kernel has all of these. */
	ASSERT_EQ(0, run("sync; echo 3 >/proc/sys/vm/drop_caches; "
			 "for f in /sys/kernel/slab/*/shrink /proc/sys/vm/stat_refresh; "
			 "do [ ! -e \"$f\" ] || echo 1 >\"$f\"; "
			 "done"));
	m->slab = slab_octets();
	ASSERT_LT(0, m->slab);
	m->pages = -free_pages();
	ASSERT_GT(0, m->pages);
}

/* What is about to be freed is not to hide a leak. */
static void memory_settled(struct __test_metadata *_metadata, struct memory *m)
{
	memory_now(_metadata, m);
	sleep(SETTLE_SECONDS);
	memory_now(_metadata, m);
}

static bool is_back(struct __test_metadata *_metadata,
		    const struct memory *before, struct memory *more)
{
	memory_now(_metadata, more);
	more->slab -= before->slab;
	more->pages -= before->pages;
	return more->slab < SLAB_OCTETS_MAX && more->pages < PAGES_MAX;
}

static void expect_back(struct __test_metadata *_metadata,
			const struct memory *before, long connections)
{
	struct memory more;

	memory_settled(_metadata, &more);
	EXPECT_TRUE(wait_for(is_back(_metadata, before, &more)));
	TH_LOG("%ld octets of objects and %ld pages more after %ld connections",
	       more.slab, more.pages, connections);
}

/* Sends a request; 0 or a negative errno. */
static int xfrm_request(int fd, void *request, __u32 len)
{
	struct nlmsghdr *nlh = request;
	struct {
		struct nlmsghdr nlh;
		struct nlmsgerr err;
		char rest[1024];
	} answer;

	nlh->nlmsg_len = len;
	nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
	if (send(fd, request, len, 0) != (ssize_t)len ||
	    recv(fd, &answer, sizeof(answer), 0) < (ssize_t)NLMSG_HDRLEN ||
	    answer.nlh.nlmsg_type != NLMSG_ERROR)
		return -EIO;
	return answer.err.error;
}

static void set_loopback(xfrm_address_t *a, int family)
{
	if (family == AF_INET)
		a->a4 = htonl(INADDR_LOOPBACK);
	else
		memcpy(a, &in6addr_loopback, sizeof(in6addr_loopback));
}

/* SA @dir of connection @i, from one port to the other. */
static int add_sa(const struct bench *b, int family, int i, int dir, int from,
		  int to)
{
	struct sa_request r = {
		.nlh.nlmsg_type = XFRM_MSG_NEWSA,
		.sa = {
			.sel.family = AF_INET,
			.id.spi = htonl(spi_of(i, dir)),
			.id.proto = IPPROTO_ESP,
			.lft = {
				XFRM_INF, XFRM_INF, XFRM_INF, XFRM_INF,
			},
			.reqid = reqid_of(i, dir),
			.family = family,
			.mode = XFRM_MODE_TUNNEL,
			.replay_window = 32,
		},
		.aead_attr = {
			.nla_type = XFRMA_ALG_AEAD,
			.nla_len = NLA_HDRLEN + sizeof(r.aead) + sizeof(r.key),
		},
		.aead = {
			.alg_name = "rfc4106(gcm(aes))",
			.alg_key_len = sizeof(r.key) * 8,
			.alg_icv_len = 128,
		},
		.key = "a key and its salt",
		.encap_attr = {
			.nla_type = XFRMA_ENCAP,
			.nla_len = NLA_HDRLEN + sizeof(r.encap),
		},
		.encap = {
			.encap_type = ENCAP_ESPINTCP,
			.encap_sport = local_port(from),
			.encap_dport = local_port(to),
		},
	};

	set_loopback(&r.sa.saddr, family);
	set_loopback(&r.sa.id.daddr, family);
	return xfrm_request(b->xfrm, &r, (__u8 *)(&r.encap + 1) - (__u8 *)&r);
}

/* One for each direction. Each end knows both. */
static int add_sas(const struct bench *b, const struct pair *p, int family, int i)
{
	return add_sa(b, family, i, 0, p->ulp, p->raw) ?:
	       add_sa(b, family, i, 1, p->raw, p->ulp);
}

static int delete_sas(const struct bench *b, int family, int i)
{
	int dir, err = 0;

	for (dir = 0; dir < 2 && !err; dir++) {
		struct sa_delete r = {
			.nlh.nlmsg_type = XFRM_MSG_DELSA,
			.id = {
				.spi = htonl(spi_of(i, dir)),
				.family = family,
				.proto = IPPROTO_ESP,
			},
		};

		set_loopback(&r.id.daddr, family);
		err = xfrm_request(b->xfrm, &r, sizeof(r));
	}
	return err;
}

static void give_ulp(struct __test_metadata *_metadata, struct bench *b, int fd)
{
	ASSERT_EQ(0, set_ulp(fd, "espintcp"));
	b->opened++;
}

static void send_inner(struct __test_metadata *_metadata, struct bench *b,
		       int i, int dir)
{
	struct sockaddr_in to = {
		.sin_family = AF_INET, .sin_port = htons(PORT),
		.sin_addr.s_addr = htonl(inner_addr(i, dir)),
	};

	fill_pattern(b->out, PACKET, 2 * i + dir);
	ASSERT_EQ(PACKET, sendto(b->inner, b->out, PACKET, 0,
				 (struct sockaddr *)&to, sizeof(to)));
}

static void expect_inner(struct __test_metadata *_metadata, struct bench *b,
			 int i, int dir)
{
	fill_pattern(b->out, PACKET, 2 * i + dir);
	ASSERT_EQ(PACKET, recv_msg(b->inner, b->in, RECORD_MAX));
	ASSERT_EQ(0, memcmp(b->out, b->in, PACKET));
}

/* A packet for the first SA of connection @i leaves on @p. Returns its length. */
static ssize_t read_esp(struct __test_metadata *_metadata, struct bench *b,
			const struct pair *p, int i)
{
	ssize_t len;
	__be32 spi;

	send_inner(_metadata, b, i, 0);
	len = raw_read_record(p->raw, b->in);
	ASSERT_LT(PACKET, len);
	memcpy(&spi, b->in, sizeof(spi));
	ASSERT_EQ(spi_of(i, 0), ntohl(spi));
	return len;
}

/* The peer, not being one, has nothing to say but what it heard. */
static void echo_esp(struct __test_metadata *_metadata, struct bench *b,
		     struct pair *p, int i)
{
	ssize_t len = read_esp(_metadata, b, p, i);

	put_header(b->out, HEADER_LEN + len);
	memcpy(b->out + HEADER_LEN, b->in, len);
	ASSERT_EQ(0, raw_write(p, b->out, HEADER_LEN + len));
	expect_inner(_metadata, b, i, 0);
}

/* A packet each way, on connection @i, both ends of which have the ULP. */
static void exchange_esp(struct __test_metadata *_metadata, struct bench *b,
			 const struct pair *p, int i)
{
	int dir;

	for (dir = 0; dir < 2; dir++) {
		int to = dir ? p->ulp : p->raw;
		__u64 before = bytes_received(to);

		send_inner(_metadata, b, i, dir);
		expect_inner(_metadata, b, i, dir);
		ASSERT_LT(before + PACKET, bytes_received(to));
	}
}

/* Messages both ways, and ESP for nobody. */
static void talk(struct __test_metadata *_metadata, struct bench *b,
		 struct pair *p, int i)
{
	size_t len;

	len = put_ike(b->out, 300, i);
	len += put_esp(b->out + len, 400);
	len += put_ike(b->out + len, 2000, i + 1);
	ASSERT_EQ(0, raw_write(p, b->out, len));
	ASSERT_EQ(300, recv_msg(p->ulp, b->in, RECORD_MAX));
	ASSERT_EQ(2000, recv_msg(p->ulp, b->in, RECORD_MAX));
	ASSERT_TRUE(is_ike(b->in, 2000, i + 1));
	ASSERT_EQ(100, send(p->ulp, b->in, 100, 0));
	ASSERT_EQ(100, raw_read_record(p->raw, b->in));
}

/*
 * Half a record is left every third time. Otherwise the peer gets the ULP as
 * well.
 */
static void use_sas(struct __test_metadata *_metadata, struct bench *b,
		    struct pair *p, int i, int sas)
{
	if (i % 3 == 0) {
		echo_esp(_metadata, b, p, sas);
		if (i % 2)
			put_ike(b->out, 300, i);
		else
			put_esp(b->out, 400);
		ASSERT_EQ(0, raw_write(p, b->out, 150));
		return;
	}
	give_ulp(_metadata, b, p->raw);
	exchange_esp(_metadata, b, p, sas);
}

static void end(struct pair *p, int i)
{
	const struct linger reset = { .l_onoff = 1 };

	if (i % 2)
		setsockopt(p->raw, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	close(i % 4 < 2 ? p->ulp : p->raw);
	close(i % 4 < 2 ? p->raw : p->ulp);
}

/*
 * Messages and ESP both ways over one connection, which one end closes. Its SAs
 * go after it, or before.
 */
static void cycle(struct __test_metadata *_metadata, struct bench *b, int i)
{
	static const struct path paths[] = {
		{ .family = AF_INET },
		{ .family = AF_INET6, .accepted = true },
	};
	const struct path *path = &paths[i % ARRAY_SIZE(paths)];
	int sas = path->family == AF_INET ? CYCLE_V4 : CYCLE_V6;
	struct pair p;

	ASSERT_EQ(0, tcp_pair(&p, path));
	give_ulp(_metadata, b, p.ulp);
	talk(_metadata, b, &p, i);
	ASSERT_EQ(0, add_sas(b, &p, path->family, sas));
	use_sas(_metadata, b, &p, i, sas);
	if (i % 5)
		end(&p, i);
	ASSERT_EQ(0, delete_sas(b, path->family, sas));
	if (i % 5 == 0)
		end(&p, i);
}

TEST_F_TIMEOUT(load, one_after_the_other, 3600)
{
	struct bench *b = &self->b;
	long cycles = env_number("LOAD_CYCLES", 2000);
	struct memory before;
	int i;

	ASSERT_EQ(0, add_policies("127.0.0.1", CYCLE_V4, 1));
	ASSERT_EQ(0, add_policies("::1", CYCLE_V6, 1));
	for (i = 0; i < CYCLES_FIRST + cycles / 10; i++)
		cycle(_metadata, b, i);
	memory_settled(_metadata, &before);
	for (i = 0; i < cycles; i++)
		cycle(_metadata, b, i);

	EXPECT_EQ(b->opened, counter("EspTcpConnOpened"));
	EXPECT_EQ(b->opened, counter("EspTcpConnClosed"));
	EXPECT_EQ(0, counter("EspTcpInBadAuth"));
	EXPECT_EQ(CYCLES_FIRST + cycles / 10 + cycles,
		  counter("EspTcpInUnknownSpi"));
	expect_back(_metadata, &before, cycles);
}

static int allow_files(long n)
{
	const struct rlimit limit = { n, n };

	return setrlimit(RLIMIT_NOFILE, &limit);
}

static void open_connection(struct __test_metadata *_metadata, struct bench *b,
			    struct pair *p, int i)
{
	const struct path path = { .family = AF_INET };

	ASSERT_EQ(0, tcp_pair(p, &path));
	give_ulp(_metadata, b, p->ulp);
	ASSERT_EQ(0, add_sas(b, p, AF_INET, i));
}

/* All at once, and none any more in the end. */
static void all_at_once(struct __test_metadata *_metadata, struct bench *b,
			struct pair *pairs, int n)
{
	long before = slab_octets();
	int i;

	ASSERT_LT(0, before);
	for (i = 0; i < n; i++)
		open_connection(_metadata, b, &pairs[i], i);
	ASSERT_EQ(0, add_policies("127.0.0.1", 0, n));
	for (i = 0; i < n; i++)
		read_esp(_metadata, b, &pairs[i], i);
	for (i = 0; i < n; i++)
		give_ulp(_metadata, b, pairs[i].raw);
	for (i = 0; i < n; i++)
		exchange_esp(_metadata, b, &pairs[i], i);
	TH_LOG("%ld octets for each connection, its peer and its SAs",
	       (slab_octets() - before) / n);
	for (i = 0; i < n; i++) {
		close(pairs[i].ulp);
		close(pairs[i].raw);
	}
	EXPECT_EQ(b->opened, counter("EspTcpConnClosed"));
	EXPECT_EQ(0, run("ip xfrm policy flush && ip xfrm state flush"));
}

TEST_F_TIMEOUT(load, at_the_same_time, 3600)
{
	struct bench *b = &self->b;
	long n = env_number("LOAD_OPEN", 500);
	struct pair *pairs = calloc(n, sizeof(*pairs));
	struct memory before;

	ASSERT_NE(NULL, pairs);
	ASSERT_GE(CYCLE_V4, n);
	ASSERT_EQ(0, allow_files(2 * n + 100));
	all_at_once(_metadata, b, pairs, n);
	memory_settled(_metadata, &before);
	all_at_once(_metadata, b, pairs, n);
	expect_back(_metadata, &before, n);
	EXPECT_EQ(0, counter("EspTcpInBadAuth"));
	free(pairs);
}

TEST_HARNESS_MAIN
