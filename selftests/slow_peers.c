// SPDX-License-Identifier: GPL-2.0
/*
 * A peer that is slow, or never reads, has no hold on anything but its own
 * connection, and of that only on as much as the buffers allow.
 */
#include "kselftest_harness.h"

#include <linux/sockios.h>

#include "espintcp_hosts.h"

#define NR_SENDERS	60
#define PACKET_LEN	1300
#define PACKETS_MAX	300
/* Twice the send buffer for each of IKE and ESP, and what TCP has itself. */
#define OUTQ_MAX	(4 << 20)
/* Softirqs that a machine at rest may see meanwhile. A loop makes millions. */
#define TASKLETS_MAX	2000

#define GCM "aead 'rfc4106(gcm(aes))' 0x0102030405060708090a0b0c0d0e0f1011121314 128"
#define SA "src 127.0.0.1 dst 127.0.0.1 proto esp spi 0x1001 mode tunnel reqid 1"

FIXTURE(slow_peers)
{
	struct pair slow;
	struct pair other;
	__u8 *out;
	__u8 *in;
};

FIXTURE_SETUP(slow_peers)
{
	const struct path slow = { .family = AF_INET, .raw_rcvbuf = 4096 };
	const struct path other = { .family = AF_INET6 };

	self->out = calloc(1, RECORD_MAX);
	self->in = calloc(1, RECORD_MAX);
	ASSERT_EQ(0, new_netns());
	ASSERT_EQ(0, tcp_pair(&self->slow, &slow));
	ASSERT_EQ(0, tcp_pair(&self->other, &other));
	ASSERT_EQ(0, set_ulp(self->slow.ulp, "espintcp"));
	ASSERT_EQ(0, set_ulp(self->other.ulp, "espintcp"));
}

FIXTURE_TEARDOWN(slow_peers)
{
	close(self->slow.ulp);
	close(self->slow.raw);
	close(self->other.ulp);
	close(self->other.raw);
	free(self->out);
	free(self->in);
}

static void expect_alive(struct __test_metadata *_metadata, struct pair *p,
			 __u8 *out, __u8 *in)
{
	ASSERT_EQ(0, raw_write(p, out, put_ike(out, 500, 4711)));
	ASSERT_EQ(500, recv_msg(p->ulp, in, RECORD_MAX));
	ASSERT_TRUE(is_ike(in, 500, 4711));
	make_ike(out, 600, 4712);
	ASSERT_EQ(600, send(p->ulp, out, 600, MSG_DONTWAIT));
	ASSERT_EQ(600, raw_read_record(p->raw, in));
	ASSERT_TRUE(is_ike(in, 600, 4712));
}

TEST_F(slow_peers, octet_by_octet)
{
	__u8 record[RECORD_MAX];
	size_t len = put_ike(record, 300, 1), i;

	for (i = 0; i < len; i++) {
		EXPECT_EQ(0, poll_now(self->slow.ulp, POLLIN));
		ASSERT_EQ(0, raw_write(&self->slow, record + i, 1));
		ASSERT_EQ(0, settle(&self->slow));
		if (i % 50 == 0)
			expect_alive(_metadata, &self->other, self->out,
				     self->in);
	}
	ASSERT_EQ(300, recv_msg(self->slow.ulp, self->in, RECORD_MAX));
	ASSERT_TRUE(is_ike(self->in, 300, 1));
}

/*
 * Sends from the @n-th message on until there is no room; what is under way may
 * make some after this. Returns how many there are now.
 */
static int fill_ike(int fd, __u8 *buf, int n)
{
	while (n < 20000 && send(fd, buf, make_ike(buf, 1200, n),
				 MSG_DONTWAIT) == 1200)
		n++;
	return n;
}

static long outq(int fd)
{
	int octets;

	return ioctl(fd, SIOCOUTQ, &octets) ? -1 : octets;
}

/* How often any processor ran tasklets, which is what sends for us. */
static long tasklets(void)
{
	FILE *f = fopen("/proc/softirqs", "r");
	long sum = 0, n;
	char line[4096], *p;
	int used;

	if (!f)
		return -1;
	while (fgets(line, sizeof(line), f)) {
		p = strstr(line, "TASKLET:");
		for (p = p ? strchr(p, ':') + 1 : NULL;
		     p && sscanf(p, "%ld%n", &n, &used) == 1; p += used)
			sum += n;
	}
	fclose(f);
	return sum;
}

/* How often TCP asked for a window in this namespace, -1 if it does not say. */
static long probes(void)
{
	FILE *f = fopen("/proc/thread-self/net/netstat", "r");
	static char names[16384], values[16384];
	char *name, *value, *n = NULL, *v = NULL;
	long found = -1;

	if (!f)
		return -1;
	while (found < 0 && fgets(names, sizeof(names), f) &&
	       fgets(values, sizeof(values), f)) {
		name = strtok_r(names, "\n ", &n);
		value = strtok_r(values, "\n ", &v);
		while (name && value && strcmp(name, "TCPWinProbe")) {
			name = strtok_r(NULL, "\n ", &n);
			value = strtok_r(NULL, "\n ", &v);
		}
		if (name && value)
			found = strtol(value, NULL, 10);
	}
	fclose(f);
	return found;
}

TEST_F(slow_peers, zero_window)
{
	long before;
	int n, i;

	n = fill_ike(self->slow.ulp, self->out, 0);
	ASSERT_GT(20000, n);
	EXPECT_EQ(EAGAIN, errno);
	EXPECT_GT(OUTQ_MAX, outq(self->slow.ulp));

	/* TCP asks for a window once nothing is under way any more. */
	ASSERT_TRUE(wait_for(probes() >= 1));
	n = fill_ike(self->slow.ulp, self->out, n);
	ASSERT_GT(20000, n);

	/* Nobody runs in circles while it does so now and then. */
	before = tasklets();
	ASSERT_TRUE(wait_for(probes() >= 3));
	EXPECT_GT(before + TASKLETS_MAX, tasklets());
	EXPECT_EQ(0, poll_now(self->slow.ulp, POLLOUT));
	expect_alive(_metadata, &self->other, self->out, self->in);

	/* What was accepted is not lost. */
	for (i = 0; i < n; i++) {
		ASSERT_EQ(1200, raw_read_record(self->slow.raw, self->in));
		ASSERT_TRUE(is_ike(self->in, 1200, i));
	}
	expect_alive(_metadata, &self->slow, self->out, self->in);
}

/* All that goes to 10.0.0.2 goes into an SA on the connection. */
static int add_sa(const struct pair *p)
{
	char command[1024];

	snprintf(command, sizeof(command),
		 "set -e; ip link add inner type dummy; ip link set inner up; "
		 "ip addr add 10.0.0.1/24 dev inner; "
		 "ip xfrm state add " SA " " GCM " encap espintcp %d %d 0.0.0.0; "
		 "ip xfrm policy add dst 10.0.0.2 dir out tmpl " SA,
		 ntohs(local_port(p->ulp)), ntohs(local_port(p->raw)));
	return run(command);
}

/* Packets until the socket takes no more, or the queue. */
static int send_inner(int fd, __u8 *buf)
{
	struct sockaddr_in to = {
		.sin_family = AF_INET, .sin_port = htons(9),
		.sin_addr.s_addr = htonl(0x0a000002),
	};
	struct sockaddr *addr = (struct sockaddr *)&to;
	int n = 0;

	while (n < PACKETS_MAX && sendto(fd, buf, PACKET_LEN, MSG_DONTWAIT,
					 addr, sizeof(to)) > 0)
		n++;
	return n;
}

/* Nothing is left with the sender, nor on the way. */
static bool all_read(const struct pair *p)
{
	int octets;

	return !outq(p->ulp) && !ioctl(p->raw, FIONREAD, &octets) && !octets;
}

TEST_F(slow_peers, esp_that_nobody_reads)
{
	int fd[NR_SENDERS];
	long records = 0, i;

	ASSERT_EQ(0, add_sa(&self->slow));
	for (i = 0; i < NR_SENDERS; i++) {
		fd[i] = socket(AF_INET, SOCK_DGRAM, 0);
		ASSERT_LT(0, send_inner(fd[i], self->out));
	}
	/* More was refused than was taken, and that is bounded. */
	EXPECT_LT(0, counter("EspTcpOutQueueFull"));
	EXPECT_GT(OUTQ_MAX, outq(self->slow.ulp));
	expect_alive(_metadata, &self->other, self->out, self->in);

	/* IKE has its own room, and overtakes. */
	make_ike(self->out, 600, 1);
	ASSERT_EQ(600, send(self->slow.ulp, self->out, 600, MSG_DONTWAIT));
	while (!all_read(&self->slow)) {
		ASSERT_LT(0, raw_read_record(self->slow.raw, self->in));
		records++;
	}
	/* And what IKE the other connection sent. */
	EXPECT_EQ(records + 1, counter("EspTcpOutEsp") + counter("EspTcpOutIke"));
	for (i = 0; i < NR_SENDERS; i++) {
		/* What is not charged any more can be used again. */
		EXPECT_TRUE(wait_for(!outq(fd[i])));
		close(fd[i]);
	}
	expect_alive(_metadata, &self->slow, self->out, self->in);
	EXPECT_EQ(0, run("ip xfrm policy flush && ip xfrm state flush"));
}

TEST_HARNESS_MAIN
