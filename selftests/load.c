// SPDX-License-Identifier: GPL-2.0
/*
 * Many connections: one after the other, and at the same time with SAs on each.
 * What they took, the kernel has back afterwards.
 *
 * LOAD_CYCLES=N  connections one after the other (default 2000)
 * LOAD_OPEN=N    connections open at once (default 500)
 */
#define WAIT_MS	120000
#include "kselftest_harness.h"

#include <sys/resource.h>

#include "espintcp_hosts.h"
#include "espintcp_random.h"

/* Less than the smallest object a connection has. */
#define LEAK_OCTETS	192
#define GCM "aead rfc4106(gcm(aes)) 0x0102030405060708090a0b0c0d0e0f1011121314 128"
#define ID "src 127.0.0.1 dst 127.0.0.1 proto esp"
#define SA ID " spi %ld mode tunnel reqid %ld " GCM " encap espintcp %d %d"

struct bench {
	__u8 *out;
	__u8 *in;
};

FIXTURE(load)
{
	struct bench b;
};

FIXTURE_SETUP(load)
{
	struct bench *b = &self->b;

	b->out = calloc(1, RECORD_MAX);
	b->in = calloc(1, RECORD_MAX);
	ASSERT_EQ(0, new_netns());
	/* Nothing of a connection is to stay, its last state neither. */
	ASSERT_EQ(0, run("sysctl -qw net.ipv4.tcp_max_tw_buckets=0"));
}

FIXTURE_TEARDOWN(load)
{
	struct bench *b = &self->b;

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

/* Messages and ESP both ways over one connection, which one end closes. */
static void cycle(struct __test_metadata *_metadata,
		  struct bench *b, int i)
{
	static const struct path paths[] = {
		{ .family = AF_INET },
		{ .family = AF_INET6, .accepted = true },
	};
	const struct linger reset = { .l_onoff = 1 };
	struct pair p;
	size_t len;

	ASSERT_EQ(0, tcp_pair(&p, &paths[i % ARRAY_SIZE(paths)]));
	ASSERT_EQ(0, set_ulp(p.ulp, "espintcp"));
	len = put_ike(b->out, 300, i);
	len += put_esp(b->out + len, 400);
	len += put_ike(b->out + len, 2000, i + 1);
	ASSERT_EQ(0, raw_write(&p, b->out, len));
	ASSERT_EQ(300, recv_msg(p.ulp, b->in, RECORD_MAX));
	ASSERT_EQ(2000, recv_msg(p.ulp, b->in, RECORD_MAX));
	ASSERT_TRUE(is_ike(b->in, 2000, i + 1));
	ASSERT_EQ(100, send(p.ulp, b->in, 100, 0));
	ASSERT_EQ(100, raw_read_record(p.raw, b->in));
	/* Half a record is left every third time. */
	if (i % 3 == 0)
		ASSERT_EQ(0, raw_write(&p, b->out, 150));
	if (i % 2)
		setsockopt(p.raw, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	close(i % 4 < 2 ? p.ulp : p.raw);
	close(i % 4 < 2 ? p.raw : p.ulp);
}

TEST_F_TIMEOUT(load, one_after_the_other, 3600)
{
	struct bench *b = &self->b;
	long cycles = env_number("LOAD_CYCLES", 2000);
	long before;
	int i;

	for (i = 0; i < cycles / 10; i++)
		cycle(_metadata, b, i);
	before = slab_octets();
	ASSERT_LT(0, before);
	for (i = 0; i < cycles; i++)
		cycle(_metadata, b, i);

	EXPECT_EQ(cycles / 10 + cycles, counter("EspTcpConnOpened"));
	EXPECT_EQ(cycles / 10 + cycles, counter("EspTcpConnClosed"));
	EXPECT_TRUE(wait_for(slab_octets() - before < cycles * LEAK_OCTETS)) {
		TH_LOG("%ld octets more after %ld connections",
		       slab_octets() - before, cycles);
	}
}

static int allow_files(long n)
{
	const struct rlimit limit = { n, n };

	return setrlimit(RLIMIT_NOFILE, &limit);
}

/* An SA for each direction on every connection. */
static int add_sas(const struct pair *pairs, long n)
{
	FILE *f = popen("ip -batch -", "w");
	long i;

	if (!f)
		return -1;
	for (i = 0; i < n; i++) {
		int a = ntohs(local_port(pairs[i].ulp));
		int b = ntohs(local_port(pairs[i].raw));

		fprintf(f, "xfrm state add " SA " 0.0.0.0\n",
			2 * i + 1000, i + 1, a, b);
		fprintf(f, "xfrm state add " SA " 0.0.0.0\n",
			2 * i + 1001, n + i + 1, b, a);
		fprintf(f, "xfrm policy add dst 10.%ld.%ld.2/32 dir out tmpl " ID
			" mode tunnel reqid %ld\n",
			i / 256, i % 256, i + 1);
	}
	return pclose(f);
}

/* A packet for the SA of connection @i leaves on connection @i. */
static void use_sa(struct __test_metadata *_metadata,
		   struct bench *b, const struct pair *p, int fd,
		   int i)
{
	struct sockaddr_in to = {
		.sin_family = AF_INET, .sin_port = htons(9),
		.sin_addr.s_addr = htonl(10 << 24 | i / 256 << 16 |
					 i % 256 << 8 | 2),
	};
	__be32 spi;

	ASSERT_EQ(200, sendto(fd, b->out, 200, 0, (struct sockaddr *)&to,
			      sizeof(to)));
	ASSERT_LT(200, raw_read_record(p->raw, b->in));
	memcpy(&spi, b->in, sizeof(spi));
	ASSERT_EQ(2 * (__u32)i + 1000, ntohl(spi));
}

TEST_F_TIMEOUT(load, at_the_same_time, 3600)
{
	struct bench *b = &self->b;
	const struct path path = { .family = AF_INET };
	long n = env_number("LOAD_OPEN", 500);
	struct pair *pairs = calloc(n, sizeof(*pairs));
	long before = slab_octets();
	int fd, i;

	ASSERT_NE(NULL, pairs);
	ASSERT_EQ(0, allow_files(2 * n + 100));
	ASSERT_EQ(0, run("set -e; ip link add inner type dummy; "
			 "ip addr add 10.255.255.1/8 dev inner; "
			 "ip link set inner up"));
	for (i = 0; i < n; i++) {
		ASSERT_EQ(0, tcp_pair(&pairs[i], &path));
		ASSERT_EQ(0, set_ulp(pairs[i].ulp, "espintcp"));
	}
	ASSERT_EQ(0, add_sas(pairs, n));

	fd = socket(AF_INET, SOCK_DGRAM, 0);
	for (i = 0; i < n; i++)
		use_sa(_metadata, b, &pairs[i], fd, i);
	TH_LOG("%ld octets for each connection, its peer and its SAs",
	       (slab_octets() - before) / n);
	for (i = 0; i < n; i++) {
		close(pairs[i].ulp);
		close(pairs[i].raw);
	}
	close(fd);
	EXPECT_EQ(n, counter("EspTcpConnClosed"));
	EXPECT_EQ(0, run("ip xfrm policy flush && ip xfrm state flush"));
	EXPECT_TRUE(wait_for(slab_octets() - before < n * 4 * LEAK_OCTETS)) {
		TH_LOG("%ld octets more after %ld connections",
		       slab_octets() - before, n);
	}
	free(pairs);
}

TEST_HARNESS_MAIN
