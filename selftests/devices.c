// SPDX-License-Identifier: GPL-2.0
/*
 * Devices, addresses, routes and VRFs that go and come under a connection, while
 * ESP of an SA that B has comes on it: what is decrypted came in by one of them.
 */
#include "kselftest_harness.h"

#include "espintcp_records.h"

struct bench {
	int family;
	int rounds;
	int ns_a;
	int ns_b;
	struct pair p;
	int inner;		/* takes the datagrams that were delivered */
	__u8 *records;		/* authentic */
	size_t len;
	__u8 *out;
	__u8 *in;
};

FIXTURE(devices)
{
	struct bench b;
};

FIXTURE_VARIANT(devices)
{
	int family;
	const char *mode;
	int rounds;	/* in a flood */
};

FIXTURE_VARIANT_ADD(devices, v4_tunnel)
{
	.family = AF_INET,
	.mode = "tunnel",
	.rounds = 10,
};

/* Decrypted, a packet has the route of the connection's segments. */
FIXTURE_VARIANT_ADD(devices, v6_transport)
{
	.family = AF_INET6,
	.mode = "transport",
	.rounds = 3,
};

FIXTURE_SETUP(devices)
{
	struct bench *b = &self->b;

	b->family = variant->family;
	b->rounds = variant->rounds;
	b->out = calloc(1, RECORD_MAX);
	b->in = calloc(1, RECORD_MAX);
	b->records = calloc(1, RECORDS_MAX);
	ASSERT_EQ(0, set_variables(variant->family, variant->mode));
	ASSERT_EQ(0, new_netns());
	b->ns_a = own_ns();
	ASSERT_EQ(0, new_netns());
	b->ns_b = own_ns();
	ASSERT_EQ(0, join_hosts_over(b->family, b->ns_a, b->ns_b));
	b->len = record_datagrams(b->ns_a, b->ns_b, b->records);
	ASSERT_LT(DATAGRAMS * 100, (ssize_t)b->len);
	ASSERT_EQ(0, add_sa_in());
	/* What goes down comes up with it. */
	ASSERT_EQ(0, run("sysctl -qw net.ipv6.conf.all.keep_addr_on_down=1"));
	b->inner = inner_socket();
	ASSERT_LE(0, b->inner);
	ASSERT_EQ(0, connect_hosts_at(&b->p, getenv("B"), b->ns_a, b->ns_b));
}

FIXTURE_TEARDOWN(devices)
{
	struct bench *b = &self->b;

	close(b->p.ulp);
	close(b->p.raw);
	close(b->inner);
	close(b->ns_a);
	close(b->ns_b);
	free(b->records);
	free(b->out);
	free(b->in);
}

/* What was delivered before does not count. */
static void expect_delivery(struct __test_metadata *_metadata, struct bench *b)
{
	int n = drain_inner(b->inner);

	ASSERT_LE(0, n);
	wait_for((n = drain_inner(b->inner)) != 0);
	ASSERT_LT(0, n);
}

/* ESP all of which was authentic, of the SA, and got past its policy. */
static void expect_authentic(struct __test_metadata *_metadata, struct bench *b)
{
	EXPECT_EQ(0, xfrm_counter("XfrmInNoStates"));
	EXPECT_EQ(0, xfrm_counter("XfrmInStateProtoError"));
	EXPECT_EQ(0, xfrm_counter("XfrmInNoPols"));
	EXPECT_EQ(0, xfrm_counter("XfrmInTmplMismatch"));
	/* Without its address there is no route to B. */
	EXPECT_EQ(counter("EspTcpInEsp") - counter("EspTcpInNoRoute"),
		  sa_packets(SA_AB));
}

/* The same where A's and B's addresses have been there for each of them. */
static void expect_none_unrouted(struct __test_metadata *_metadata,
				 struct bench *b)
{
	EXPECT_EQ(0, counter("EspTcpInNoRoute"));
	expect_authentic(_metadata, b);
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

/* One record, whose datagram is the only one that is delivered. */
static void expect_record(struct __test_metadata *_metadata, struct bench *b,
			  int i)
{
	ASSERT_EQ(0, raw_write(&b->p, b->out, put_record(b->out, b->records, i)));
	ASSERT_TRUE(poll_wait(b->inner, POLLIN));
	EXPECT_EQ(1, drain_inner(b->inner));
}

/* Segments wait in the socket when the device they came from is deleted. */
TEST_F(devices, ingress_device_gone)
{
	struct bench *b = &self->b;
	size_t len;
	int i;

	for (i = 0; i < 10; i++) {
		len = put_ike(b->out, 100, i);
		len += put_record(b->out + len, b->records, i);
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
	EXPECT_EQ(0, drain_inner(b->inner));

	ASSERT_EQ(0, join_hosts_over(b->family, b->ns_a, b->ns_b));
	expect_alive(_metadata, b);
	expect_record(_metadata, b, 10);
	expect_none_unrouted(_metadata, b);
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
	len += put_record(b->out + len, b->records, 3);
	ASSERT_EQ(0, put_into_queue(b->p.ulp, b->out, len));
	ASSERT_EQ(0, set_ulp(b->p.ulp, "espintcp"));

	ASSERT_EQ(100, recv_msg(b->p.ulp, b->in, RECORD_MAX));
	ASSERT_EQ(100, recv_msg(b->p.ulp, b->in, RECORD_MAX));
	ASSERT_TRUE(is_ike(b->in, 100, 2));
	EXPECT_EQ(3, counter_wait("EspTcpInEsp", 3));
	EXPECT_EQ(0, counter("EspTcpInNoDev"));
	EXPECT_EQ(2, xfrm_counter("XfrmInNoStates"));
	ASSERT_TRUE(poll_wait(b->inner, POLLIN));
	EXPECT_EQ(1, drain_inner(b->inner));
}

/* A record has begun when the device that it came in by goes. */
static void begin_record(struct __test_metadata *_metadata, struct bench *b,
			 const void *record, size_t len, const char *away)
{
	ASSERT_EQ(0, set_ulp(b->p.ulp, "espintcp"));
	ASSERT_EQ(0, raw_write(&b->p, record, len));
	ASSERT_EQ(0, settle(&b->p));
	ASSERT_EQ(0, run(away));
}

/* The rest comes by another device, and that record is lost alone. */
static void expect_one_lost(struct __test_metadata *_metadata, struct bench *b,
			    const __u8 *rest, size_t len)
{
	ASSERT_EQ(0, raw_write(&b->p, rest, len));
	EXPECT_EQ(1, counter_wait("EspTcpInNoDev", 1));
	EXPECT_EQ(0, counter("EspTcpInEsp"));
	EXPECT_EQ(0, drain_inner(b->inner));
	expect_record(_metadata, b, 1);
	expect_alive(_metadata, b);
	EXPECT_EQ(1, counter("EspTcpInNoDev"));
	EXPECT_EQ(1, counter("EspTcpInEsp"));
	expect_none_unrouted(_metadata, b);
}

TEST_F(devices, half_a_record_then_device_gone)
{
	struct bench *b = &self->b;
	const __u8 *record = record_at(b->records, 30);
	size_t len = record_len(record), half = len / 2;

	begin_record(_metadata, b, record, half, "ip link del veth0");
	ASSERT_EQ(0, join_hosts_over(b->family, b->ns_a, b->ns_b));
	expect_one_lost(_metadata, b, record + half, len - half);
}

/* No device, no packet; but a message has none. */
TEST_F(devices, half_a_message_then_device_gone)
{
	struct bench *b = &self->b;
	size_t len = put_ike(b->out, 1000, 1);

	begin_record(_metadata, b, b->out, 500, "ip link del veth0");
	ASSERT_EQ(0, join_hosts_over(b->family, b->ns_a, b->ns_b));
	ASSERT_EQ(0, raw_write(&b->p, b->out + 500, len - 500));
	ASSERT_EQ(1000, recv_msg(b->p.ulp, b->in, RECORD_MAX));
	ASSERT_TRUE(is_ike(b->in, 1000, 1));
	expect_record(_metadata, b, 1);
	EXPECT_EQ(0, counter("EspTcpInNoDev"));
	expect_none_unrouted(_metadata, b);
}

static void expect_truncated(struct __test_metadata *_metadata, struct bench *b)
{
	EXPECT_EQ(1, counter("EspTcpInTruncated"));
	EXPECT_EQ(0, counter("EspTcpInNoDev"));
	EXPECT_EQ(0, counter("EspTcpInEsp"));
	EXPECT_EQ(0, drain_inner(b->inner));
	expect_none_unrouted(_metadata, b);
}

static void begin_half_a_record(struct __test_metadata *_metadata,
				struct bench *b)
{
	const __u8 *record = record_at(b->records, 30);

	begin_record(_metadata, b, record, record_len(record) / 2,
		     "ip link del veth0");
}

TEST_F(devices, half_a_record_then_end)
{
	struct bench *b = &self->b;

	begin_half_a_record(_metadata, b);
	ASSERT_EQ(0, join_hosts_over(b->family, b->ns_a, b->ns_b));
	ASSERT_EQ(0, shutdown(b->p.raw, SHUT_WR));
	ASSERT_EQ(0, recv_msg(b->p.ulp, b->in, RECORD_MAX));
	expect_truncated(_metadata, b);
}

TEST_F(devices, half_a_record_then_close)
{
	struct bench *b = &self->b;

	begin_half_a_record(_metadata, b);
	ASSERT_EQ(0, close(b->p.ulp));
	b->p.ulp = -1;
	expect_truncated(_metadata, b);
}

static struct call flood_of(const struct bench *b)
{
	return (struct call) {
		.fn = call_flood, .fd = b->p.raw, .buf = b->records,
		.len = b->len,
	};
}

/*
 * What is in the send buffer when the flood ends has to go through first: much less
 * than TCP would let it become.
 */
static void start_flood(struct __test_metadata *_metadata, struct call *c)
{
	ASSERT_EQ(0, set_int(c->fd, SOL_SOCKET, SO_SNDBUF, 64 * 1024));
	ASSERT_EQ(0, call_start(c));
}

static void end_flood(struct __test_metadata *_metadata, struct bench *b,
		      struct call *c)
{
	/* The rest of the flood finds no reader. */
	ASSERT_EQ(0, shutdown(b->p.raw, SHUT_WR));
	ASSERT_EQ(0, call_join(c));
	EXPECT_EQ(EPIPE, c->ret);
	ASSERT_EQ(0, recv_msg(b->p.ulp, b->in, RECORD_MAX));
	EXPECT_EQ(0, counter("EspTcpInBadLength"));
	expect_authentic(_metadata, b);
}

/*
 * Records flood in while @away and @back take turns. Without @back the hosts are
 * joined anew.
 */
static void flood_through(struct __test_metadata *_metadata,
			  struct bench *b, const char *away,
			  const char *back)
{
	struct call c = flood_of(b);
	int i;

	ASSERT_EQ(0, set_ulp(b->p.ulp, "espintcp"));
	start_flood(_metadata, &c);
	for (i = 0; i < b->rounds; i++) {
		expect_delivery(_metadata, b);
		ASSERT_EQ(0, run(away));
		ASSERT_EQ(0, back ? run(back) :
				    join_hosts_over(b->family, b->ns_a, b->ns_b));
	}
	expect_delivery(_metadata, b);
	end_flood(_metadata, b, &c);
}

TEST_F(devices, address_goes_and_comes)
{
	flood_through(_metadata, &self->b, "ip addr del $ADDR_B dev veth0",
		      "ip addr add $ADDR_B dev veth0");
}

TEST_F(devices, route_goes_and_comes)
{
	flood_through(_metadata, &self->b, "ip route replace unreachable $A",
		      "ip route del unreachable $A");
}

TEST_F(devices, link_goes_and_comes)
{
	flood_through(_metadata, &self->b, "ip link set veth0 down",
		      "ip link set veth0 up");
}

TEST_F(devices, device_is_replaced)
{
	flood_through(_metadata, &self->b, "ip link del veth0", NULL);
}

#define NEW_VRF "set -e; ip link add vrf0 type vrf table 7; ip link set vrf0 up"
#define INTO_VRF "ip link set veth0 master vrf0"

/* False without VRFs. */
static bool add_vrf(struct __test_metadata *_metadata)
{
	if (run("ip link add vrf0 type vrf table 7 2>/dev/null"))
		return false;
	ASSERT_EQ(0, run("ip link set vrf0 up"));
	/* Else a segment out of the VRF would be answered by a reset. */
	ASSERT_EQ(0, write_file("/proc/sys/net/ipv4/tcp_l3mdev_accept", "1"));
	ASSERT_EQ(0, write_file("/proc/sys/net/ipv4/udp_l3mdev_accept", "1"));
	return true;
}

/* What a socket outside of the VRF does not get is not lost for ever. */
TEST_F(devices, vrf_takes_device_and_gives_it_back)
{
	if (!add_vrf(_metadata))
		SKIP(return, "no VRF");
	flood_through(_metadata, &self->b, INTO_VRF,
		      "ip link set veth0 nomaster");
}

/* It has the device when it goes, which is outside of it from then on. */
TEST_F(devices, vrf_goes_and_comes)
{
	struct bench *b = &self->b;
	struct call c = flood_of(b);
	int i;

	if (!add_vrf(_metadata))
		SKIP(return, "no VRF");
	ASSERT_EQ(0, set_ulp(b->p.ulp, "espintcp"));
	start_flood(_metadata, &c);
	for (i = 0; i < b->rounds; i++) {
		/* The socket is outside: it has to find the peer. */
		ASSERT_EQ(0, run("set -e; " INTO_VRF "; ip route add $A dev vrf0"));
		expect_delivery(_metadata, b);
		ASSERT_EQ(0, run("ip link del vrf0"));
		expect_delivery(_metadata, b);
		ASSERT_EQ(0, run(NEW_VRF));
	}
	end_flood(_metadata, b, &c);
}

/* Of a segment out of a VRF that is the device. */
TEST_F(devices, half_a_record_then_vrf_gone)
{
	struct bench *b = &self->b;
	const __u8 *record = record_at(b->records, 30);
	size_t len = record_len(record), half = len / 2;

	if (!add_vrf(_metadata))
		SKIP(return, "no VRF");
	ASSERT_EQ(0, run(INTO_VRF));
	begin_record(_metadata, b, record, half, "ip link del vrf0");
	expect_one_lost(_metadata, b, record + half, len - half);
}

static void connect_anew(struct __test_metadata *_metadata, struct bench *b,
			 const char *vrf)
{
	close(b->p.ulp);
	close(b->p.raw);
	ASSERT_EQ(0, connect_hosts_over(&b->p, vrf, getenv("B"), b->ns_a,
					b->ns_b));
	ASSERT_EQ(0, set_ulp(b->p.ulp, "espintcp"));
}

/*
 * A socket bound to a VRF goes with it: segments find it no more, and the peer is
 * reset. What it had received is delivered, and so is what comes on the next one.
 */
TEST_F(devices, vrf_goes_under_bound_socket)
{
	struct bench *b = &self->b;
	struct call c;

	if (!add_vrf(_metadata))
		SKIP(return, "no VRF");
	ASSERT_EQ(0, run(INTO_VRF));
	connect_anew(_metadata, b, "vrf0");
	c = flood_of(b);
	start_flood(_metadata, &c);
	expect_delivery(_metadata, b);
	ASSERT_EQ(0, run("ip link del vrf0"));
	ASSERT_EQ(0, call_join(&c));
	EXPECT_EQ(ECONNRESET, c.ret);
	EXPECT_EQ(0, poll_now(b->p.ulp, POLLIN));
	expect_authentic(_metadata, b);

	connect_anew(_metadata, b, NULL);
	ASSERT_LE(0, drain_inner(b->inner));
	expect_record(_metadata, b, 1);
	expect_alive(_metadata, b);
	expect_authentic(_metadata, b);
}

TEST_HARNESS_MAIN
