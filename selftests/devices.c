// SPDX-License-Identifier: GPL-2.0
/*
 * Devices, addresses and routes that go and come under a connection.
 */
#include "kselftest_harness.h"

#include "espintcp_hosts.h"

#define FLOOD_ROUNDS	10

struct bench {
	int ns_a;
	int ns_b;
	struct pair p;
	__u8 *out;
	__u8 *in;
};

FIXTURE(devices)
{
	struct bench b;
};

FIXTURE_SETUP(devices)
{
	struct bench *b = &self->b;

	b->out = calloc(1, RECORD_MAX);
	b->in = calloc(1, RECORD_MAX);
	ASSERT_EQ(0, new_netns());
	b->ns_a = own_ns();
	ASSERT_EQ(0, new_netns());
	b->ns_b = own_ns();
	ASSERT_EQ(0, join_hosts(b->ns_a, b->ns_b));
	ASSERT_EQ(0, connect_hosts(&b->p, b->ns_a, b->ns_b));
}

FIXTURE_TEARDOWN(devices)
{
	struct bench *b = &self->b;

	close(b->p.ulp);
	close(b->p.raw);
	close(b->ns_a);
	close(b->ns_b);
	free(b->out);
	free(b->in);
}

/* One IKE message gets through, after however many retransmissions. */
static void expect_alive(struct __test_metadata *_metadata,
			 struct bench *b)
{
	ASSERT_EQ(0, raw_write(&b->p, b->out,
			       put_ike(b->out, 500, 4711)));
	ASSERT_EQ(500, recv_msg(b->p.ulp, b->in, RECORD_MAX));
	ASSERT_TRUE(is_ike(b->in, 500, 4711));
	make_ike(b->out, 600, 4712);
	ASSERT_EQ(600, send(b->p.ulp, b->out, 600, 0));
	ASSERT_EQ(600, raw_read_record(b->p.raw, b->in));
	ASSERT_TRUE(is_ike(b->in, 600, 4712));
}

/* Segments wait in the socket when the device they came from is deleted. */
TEST_F(devices, ingress_device_gone)
{
	struct bench *b = &self->b;
	size_t len;
	int i;

	for (i = 0; i < 10; i++) {
		len = put_ike(b->out, 100, i);
		len += put_esp(b->out + len, 200);
		ASSERT_EQ(0, raw_write(&b->p, b->out, len));
	}
	ASSERT_EQ(0, settle(&b->p));
	ASSERT_EQ(0, run("ip link del veth0"));
	ASSERT_EQ(0, set_ulp(b->p.ulp, "espintcp"));

	/* No device, no packet; but messages have none. */
	for (i = 0; i < 10; i++) {
		ASSERT_EQ(100, recv_msg(b->p.ulp, b->in, RECORD_MAX));
		ASSERT_TRUE(is_ike(b->in, 100, i));
	}
	EXPECT_EQ(10, counter("EspTcpInNoDev"));
	EXPECT_EQ(0, counter("EspTcpInEsp"));

	ASSERT_EQ(0, join_hosts(b->ns_a, b->ns_b));
	expect_alive(_metadata, b);
}

static int put_into_queue(int fd, const void *buf, size_t len)
{
	ssize_t n = -1;

	if (!set_int(fd, SOL_TCP, TCP_REPAIR, TCP_REPAIR_ON) &&
	    !set_int(fd, SOL_TCP, TCP_REPAIR_QUEUE, 1))
		n = send(fd, buf, len, 0);
	return n != (ssize_t)len ||
	       set_int(fd, SOL_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP);
}

/*
 * Segments that TCP has made itself, as it does of small ones when memory is short,
 * came in by no interface. TCP_REPAIR makes the same.
 */
TEST_F(devices, segment_of_tcp_itself)
{
	struct bench *b = &self->b;
	size_t len;

	ASSERT_EQ(0, raw_write(&b->p, b->out, put_ike(b->out, 100, 1)));
	ASSERT_EQ(0, settle(&b->p));
	len = put_ike(b->out, 100, 2);
	len += put_esp(b->out + len, 200);
	len += put_esp(b->out + len, 3000);
	ASSERT_EQ(0, put_into_queue(b->p.ulp, b->out, len));
	ASSERT_EQ(0, set_ulp(b->p.ulp, "espintcp"));

	ASSERT_EQ(100, recv_msg(b->p.ulp, b->in, RECORD_MAX));
	ASSERT_EQ(100, recv_msg(b->p.ulp, b->in, RECORD_MAX));
	ASSERT_TRUE(is_ike(b->in, 100, 2));
	EXPECT_EQ(2, counter_wait("EspTcpInEsp", 2));
	EXPECT_EQ(0, counter("EspTcpInNoDev"));
}

/*
 * With a timeout a send is not begun again after a signal, and that a child of
 * run() ended is none of its business.
 */
static long call_flood(struct call *c)
{
	sigset_t child;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	pthread_sigmask(SIG_BLOCK, &child, NULL);
	while (send(c->fd, c->buf, c->len, MSG_NOSIGNAL) > 0)
		;
	return 0;
}

static bool esp_comes(long *seen)
{
	long now = counter("EspTcpInEsp");

	if (now <= *seen)
		return false;
	*seen = now;
	return true;
}

/* Records flood in while @away and @back take turns. */
static void flood_through(struct __test_metadata *_metadata,
			  struct bench *b, const char *away,
			  const char *back)
{
	struct call c = {
		.fn = call_flood, .fd = b->p.raw, .buf = b->out,
		.len = put_esp(b->out, 1000),
	};
	long seen = 0;
	int i;

	/* A flood without an SA is no fault of the stream here. */
	ASSERT_EQ(0, set_sysctl("unknown_limit", "0"));
	ASSERT_EQ(0, set_ulp(b->p.ulp, "espintcp"));
	ASSERT_EQ(0, call_start(&c));
	for (i = 0; i < FLOOD_ROUNDS; i++) {
		ASSERT_TRUE(wait_for(esp_comes(&seen)));
		ASSERT_EQ(0, run(away));
		ASSERT_EQ(0, run(back));
	}
	ASSERT_TRUE(wait_for(esp_comes(&seen)));
	/* The rest of the flood finds no reader. */
	ASSERT_EQ(0, shutdown(b->p.raw, SHUT_WR));
	ASSERT_EQ(0, call_join(&c));
	ASSERT_EQ(0, recv_msg(b->p.ulp, b->in, RECORD_MAX));
	EXPECT_EQ(0, counter("EspTcpInBadLength"));
	EXPECT_EQ(counter("EspTcpInEsp"), xfrm_counter("XfrmInNoStates"));
}

TEST_F(devices, address_goes_and_comes)
{
	struct bench *b = &self->b;

	flood_through(_metadata, b,
		      "ip addr del " ADDR_B "/24 dev veth0",
		      "ip addr add " ADDR_B "/24 dev veth0");
}

TEST_F(devices, route_goes_and_comes)
{
	struct bench *b = &self->b;

	flood_through(_metadata, b,
		      "ip route replace unreachable " ADDR_A "/32",
		      "ip route del unreachable " ADDR_A "/32");
}

TEST_F(devices, link_goes_and_comes)
{
	struct bench *b = &self->b;

	flood_through(_metadata, b, "ip link set veth0 down",
		      "ip link set veth0 up");
}

/* What a socket outside of the VRF does not get is not lost for ever. */
TEST_F(devices, vrf_takes_device_and_gives_it_back)
{
	struct bench *b = &self->b;

	if (run("ip link add vrf0 type vrf table 7 2>/dev/null"))
		SKIP(return, "no VRF");
	/* Else a segment out of the VRF would be answered by a reset. */
	ASSERT_EQ(0, run("set -e; ip link set vrf0 up; "
			 "sysctl -qw net.ipv4.tcp_l3mdev_accept=1"));
	flood_through(_metadata, b, "ip link set veth0 master vrf0",
		      "ip link set veth0 nomaster");
}

TEST_F(devices, device_is_replaced)
{
	struct bench *b = &self->b;
	char back[512];

	snprintf(back, sizeof(back),
		 "set -e; ip link add veth0 type veth peer name veth0 netns /proc/%d/fd/%d; "
		 "ip addr add " ADDR_B "/24 dev veth0; ip link set veth0 up; "
		 "nsenter --net=/proc/%d/fd/%d ip addr add " ADDR_A "/24 dev veth0; "
		 "nsenter --net=/proc/%d/fd/%d ip link set veth0 up",
		 getpid(), b->ns_a, getpid(), b->ns_a, getpid(), b->ns_a);
	flood_through(_metadata, b, "ip link del veth0", back);
}

TEST_HARNESS_MAIN
