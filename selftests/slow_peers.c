// SPDX-License-Identifier: GPL-2.0
/*
 * A peer that is slow, or never reads, has no hold on anything but its own
 * connection, and of that only on as much as the buffers allow.
 */
#include "kselftest_harness.h"

#include <linux/espintcp.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/sockios.h>
#include <signal.h>

#include "espintcp_records.h"

#define NR_SENDERS	60
#define PACKET_LEN	1300
#define PACKETS_MAX	300
/* Twice the send buffer for each of IKE and ESP, and what TCP has itself. */
#define OUTQ_MAX	(4 << 20)
/* What waits, as Documentation/security.rst has it; two of the longest records */
#define LIMIT_MIN	(2 * RECORD_MAX)
#define UNSENT_MAX	(128 << 10)
#define IKE_FRAMES	1024
#define ESP_FRAMES	4096
#define IKE_RCVBUF	(256 << 10)
/* Octets that have left the queue before TCP knows whether it takes them */
#define BATCH		65536
/* Softirqs that a machine at rest may see meanwhile. A loop makes millions. */
#define TASKLETS_MAX	2000
/* Likewise of any other kind in some seconds, with the ticks of many processors */
#define EVENTS_MAX	20000

/* On the slow connection; the other has those of espintcp_records.h */
#define SLOW_A		"10.0.9.1"
#define SLOW_B		"10.0.9.2"
#define SA "src 127.0.0.1 dst 127.0.0.1 proto esp spi 0x1001 mode tunnel reqid 9"

struct bench {
	int ns_a;
	int ns_b;
	struct pair slow;
	/* To another host, with an SA in each direction */
	struct pair other;
	int inner;
	long trips;
	__u8 *records;
	__u8 *out;
	__u8 *in;
};

FIXTURE(slow_peers)
{
	struct bench b;
};

/* From B to A, by the other connection. No packet leaves by the route itself. */
static int add_sa_back(const struct pair *p)
{
	return run("ip route add " INNER_A " dev veth0 src " INNER_B) ||
	       add_sa_out(SA_BA, "src $INNER_B dst $INNER_A dir out tmpl "
			  TEMPLATE_BA, local_port(p->ulp), local_port(p->raw));
}

FIXTURE_SETUP(slow_peers)
{
	struct bench *b = &self->b;
	const struct path slow = { .family = AF_INET, .raw_rcvbuf = 4096 };

	b->out = calloc(1, RECORD_MAX);
	b->in = calloc(1, RECORD_MAX);
	b->records = calloc(1, RECORDS_MAX);
	ASSERT_EQ(0, set_variables(AF_INET6, "tunnel"));
	ASSERT_EQ(0, new_netns());
	b->ns_a = own_ns();
	ASSERT_EQ(0, new_netns());
	b->ns_b = own_ns();
	ASSERT_EQ(0, join_hosts_over(AF_INET6, b->ns_a, b->ns_b));
	ASSERT_LT(0, record_datagrams(b->ns_a, b->ns_b, b->records));
	ASSERT_EQ(0, add_sa_in());
	b->inner = inner_socket();
	ASSERT_LE(0, b->inner);
	ASSERT_EQ(0, connect_hosts_at(&b->other, ADDR6_B, b->ns_a, b->ns_b));
	ASSERT_EQ(0, set_timeout(b->other.raw, SO_RCVTIMEO, WAIT_MS));
	ASSERT_EQ(0, set_ulp(b->other.ulp, "espintcp"));
	ASSERT_EQ(0, add_sa_back(&b->other));
	ASSERT_EQ(0, tcp_pair(&b->slow, &slow));
	ASSERT_EQ(0, set_ulp(b->slow.ulp, "espintcp"));
}

FIXTURE_TEARDOWN(slow_peers)
{
	struct bench *b = &self->b;

	run("ip xfrm policy flush; ip xfrm state flush");
	close(b->slow.ulp);
	close(b->slow.raw);
	close(b->other.ulp);
	close(b->other.raw);
	close(b->inner);
	close(b->ns_a);
	close(b->ns_b);
	free(b->records);
	free(b->out);
	free(b->in);
}

static __u32 get_be32(const __u8 *p)
{
	__be32 value;

	memcpy(&value, p, sizeof(value));
	return ntohl(value);
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

/* A datagram comes on the other connection, and goes back. */
static void round_trip(struct __test_metadata *_metadata, struct bench *b)
{
	int i = b->trips++ % DATAGRAMS;
	struct sockaddr_storage from;
	socklen_t from_len = sizeof(from);
	struct pair *p = &b->other;
	ssize_t len;

	ASSERT_EQ(0, raw_write(p, b->out,
			       put_record(b->out, b->records, i)));
	ASSERT_TRUE(poll_wait(b->inner, POLLIN));
	len = recvfrom(b->inner, b->in, RECORD_MAX, 0,
		       (struct sockaddr *)&from, &from_len);
	ASSERT_LT(0, len);
	ASSERT_TRUE(is_datagram(b->in, len));
	ASSERT_EQ(len, sendto(b->inner, b->in, len, 0,
			      (struct sockaddr *)&from, from_len));
	ASSERT_LT(len, raw_read_record(p->raw, b->in));
	ASSERT_EQ(0x1002, get_be32(b->in));
	ASSERT_EQ(b->trips, get_be32(b->in + 4));
}

/*
 * Before the slow peer has made the least progress the other connection has
 * carried some hundred packets and two messages.
 */
static void expect_others_alive(struct __test_metadata *_metadata,
				struct bench *b)
{
	struct tcp_info before, after;
	int i;

	ASSERT_EQ(0, tcp_info(b->slow.ulp, &before));
	for (i = 0; i < 100; i++)
		round_trip(_metadata, b);
	expect_alive(_metadata, &b->other, b->out, b->in);
	ASSERT_EQ(0, tcp_info(b->slow.ulp, &after));
	EXPECT_EQ(before.tcpi_bytes_acked, after.tcpi_bytes_acked);
	EXPECT_EQ(before.tcpi_bytes_received, after.tcpi_bytes_received);
}

/*
 * Returns how often it had to sleep, as it has each time for whoever has the lock.
 */
static long call_ask(struct call *c)
{
	long sleeps = 0;
	struct tcp_info ti;
	int i, octets;

	for (i = 0; i <= c->count; i++) {
		/* The first time a program does anything it may sleep. */
		if (i == 1)
			sleeps = sleeps_of(c->tid);
		if (ioctl(c->fd, SIOCOUTQ, &octets) ||
		    ioctl(c->fd, SIOCINQ, &octets) ||
		    tcp_info(c->fd, &ti) ||
		    get_int(c->fd, SOL_SOCKET, SO_SNDBUF) < 0 ||
		    get_int(c->fd, SOL_TCP, TCP_NODELAY) < 0)
			return -1;
	}
	return sleeps_of(c->tid) - sleeps;
}

static void expect_no_lock_held(struct __test_metadata *_metadata, int fd)
{
	struct call c = { .fn = call_ask, .fd = fd, .count = 1000 };

	ASSERT_EQ(0, call_start(&c));
	ASSERT_EQ(0, call_join(&c));
	EXPECT_LE(0, c.ret);
	EXPECT_GT(c.count / 10, c.ret);
}

static const struct nlattr *find_attr(const void *attrs, int len, int type)
{
	const struct nlattr *attr = attrs;

	while (len >= NLA_HDRLEN && attr->nla_len >= NLA_HDRLEN) {
		if ((attr->nla_type & NLA_TYPE_MASK) == type)
			return attr;
		len -= NLA_ALIGN(attr->nla_len);
		attr = (const void *)attr + NLA_ALIGN(attr->nla_len);
	}
	return NULL;
}

static const void *attr_data(const struct nlattr *attr)
{
	return (const void *)attr + NLA_HDRLEN;
}

static const struct nlattr *find_nested(const struct nlattr *nest, int type)
{
	if (!nest)
		return NULL;
	return find_attr(attr_data(nest), nest->nla_len - NLA_HDRLEN, type);
}

/* The slow connection's socket: IPv4 */
static int ask_diag(int nl, int fd)
{
	struct {
		struct nlmsghdr nlh;
		struct inet_diag_req_v2 req;
	} msg = {
		.nlh.nlmsg_len = sizeof(msg),
		.nlh.nlmsg_type = SOCK_DIAG_BY_FAMILY,
		.nlh.nlmsg_flags = NLM_F_REQUEST,
		.req.sdiag_family = AF_INET,
		.req.sdiag_protocol = IPPROTO_TCP,
		.req.idiag_ext = 1 << (INET_DIAG_INFO - 1) |
				 1 << (INET_DIAG_SKMEMINFO - 1),
		.req.idiag_states = -1,
		.req.id.idiag_cookie = { INET_DIAG_NOCOOKIE, INET_DIAG_NOCOOKIE },
	};
	struct sockaddr_in ours, peer;
	socklen_t len = sizeof(ours);

	if (getsockname(fd, (struct sockaddr *)&ours, &len) ||
	    getpeername(fd, (struct sockaddr *)&peer, &len))
		return -1;
	msg.req.id.idiag_sport = ours.sin_port;
	msg.req.id.idiag_src[0] = ours.sin_addr.s_addr;
	msg.req.id.idiag_dport = peer.sin_port;
	msg.req.id.idiag_dst[0] = peer.sin_addr.s_addr;
	return send(nl, &msg, sizeof(msg), 0) == sizeof(msg) ? 0 : -1;
}

/* What sock_diag tells of a socket */
struct diag {
	__u64 buf[1024];
	const struct nlattr *mem;
	const struct nlattr *conn;
};

static int get_diag(int fd, struct diag *d)
{
	const size_t head = NLMSG_SPACE(sizeof(struct inet_diag_msg));
	const __u8 *attrs = (__u8 *)d->buf + head;
	struct nlmsghdr *nlh = (struct nlmsghdr *)d->buf;
	const struct nlattr *ulp;
	int nl;

	nl = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	if (nl < 0)
		return -1;
	if (ask_diag(nl, fd) || recv(nl, d->buf, sizeof(d->buf), 0) < (ssize_t)head ||
	    nlh->nlmsg_type != SOCK_DIAG_BY_FAMILY) {
		close(nl);
		return -1;
	}
	close(nl);
	d->mem = find_attr(attrs, nlh->nlmsg_len - head, INET_DIAG_SKMEMINFO);
	ulp = find_attr(attrs, nlh->nlmsg_len - head, INET_DIAG_ULP_INFO);
	d->conn = find_nested(ulp, INET_ULP_INFO_ESPINTCP);
	return d->mem && d->conn ? 0 : -1;
}

static long diag_u32(const struct diag *d, int type)
{
	const struct nlattr *attr = find_nested(d->conn, type);

	return attr ? (long)*(const __u32 *)attr_data(attr) : -1;
}

static long diag_mem(const struct diag *d, int which)
{
	return ((const __u32 *)attr_data(d->mem))[which];
}

/*
 * One frame of at most @len octets joins a queue that is not full, and makes it
 * longer than its limit.
 */
static void expect_bounded(struct __test_metadata *_metadata, int fd, long len)
{
	long sndbuf, most;
	struct tcp_info ti;
	struct diag d;

	ASSERT_EQ(0, get_diag(fd, &d));
	/* TCP does not make it smaller. */
	sndbuf = get_int(fd, SOL_SOCKET, SO_SNDBUF);
	most = sndbuf > LIMIT_MIN ? sndbuf : LIMIT_MIN;
	EXPECT_LE(LIMIT_MIN, diag_u32(&d, ESPINTCP_DIAG_IKE_LIMIT));
	EXPECT_GE(most, diag_u32(&d, ESPINTCP_DIAG_IKE_LIMIT));
	EXPECT_LE(LIMIT_MIN, diag_u32(&d, ESPINTCP_DIAG_ESP_LIMIT));
	EXPECT_GE(most, diag_u32(&d, ESPINTCP_DIAG_ESP_LIMIT));
	EXPECT_GT(diag_u32(&d, ESPINTCP_DIAG_IKE_LIMIT) + len,
		  diag_u32(&d, ESPINTCP_DIAG_IKE_QUEUED));
	/* Its limit goes with TCP's rate, and may have been higher. */
	EXPECT_GT(most + len, diag_u32(&d, ESPINTCP_DIAG_ESP_QUEUED));

	ASSERT_EQ(0, tcp_info(fd, &ti));
	EXPECT_GE(UNSENT_MAX, ti.tcpi_notsent_bytes);
	EXPECT_GE(2 * sndbuf, diag_mem(&d, SK_MEMINFO_WMEM_QUEUED));
	EXPECT_EQ(0, diag_mem(&d, SK_MEMINFO_RMEM_ALLOC));
}

static const char * const softirqs[] = {
	"TASKLET:", "TIMER:", "HRTIMER:", "NET_RX:", "NET_TX:",
};

/* What all processors have done so far */
struct activity {
	long softirqs[ARRAY_SIZE(softirqs)];
	long switches;
	long works;	/* ticks of kernel threads that do work and softirqs */
	__s64 ms;
};

static void read_softirqs(struct activity *a)
{
	FILE *f = fopen("/proc/softirqs", "r");
	char line[4096], name[32], *p;
	int used;
	size_t i;
	long n;

	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%31s%n", name, &used) != 1)
			continue;
		p = line + used;
		for (i = 0; i < ARRAY_SIZE(softirqs); i++)
			if (!strcmp(name, softirqs[i]))
				break;
		for (; i < ARRAY_SIZE(softirqs) &&
		     sscanf(p, "%ld%n", &n, &used) == 1; p += used)
			a->softirqs[i] += n;
	}
	if (f)
		fclose(f);
}

static void read_switches(struct activity *a)
{
	FILE *f = fopen("/proc/stat", "r");
	char line[16384];

	while (f && fgets(line, sizeof(line), f))
		sscanf(line, "ctxt %ld", &a->switches);
	if (f)
		fclose(f);
}

/* A work that is queued again at once needs no switch, but all the time. */
static void read_works(struct activity *a)
{
	FILE *f = popen("cat /proc/[0-9]*/stat 2>/dev/null | grep -E '\\((kworker|ksoftirqd)/'",
			"r");
	long user, system;
	char line[1024], *p;

	while (f && fgets(line, sizeof(line), f)) {
		p = strrchr(line, ')');
		if (p && sscanf(p + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %ld %ld",
				&user, &system) == 2)
			a->works += user + system;
	}
	if (f)
		pclose(f);
}

static void read_activity(struct activity *a)
{
	memset(a, 0, sizeof(*a));
	read_softirqs(a);
	read_switches(a);
	read_works(a);
	a->ms = now_ms();
}

/* Nobody runs in circles: for many ticks, and two looks at a backlog, all rest. */
static void expect_rest(struct __test_metadata *_metadata)
{
	const long hz = sysconf(_SC_CLK_TCK);
	struct activity before, after;
	size_t i;

	read_activity(&before);
	sleep(2);
	read_activity(&after);
	for (i = 0; i < ARRAY_SIZE(softirqs); i++)
		EXPECT_GT(before.softirqs[i] + EVENTS_MAX, after.softirqs[i])
			TH_LOG("%s", softirqs[i]);
	EXPECT_GT(before.softirqs[0] + TASKLETS_MAX, after.softirqs[0]);
	EXPECT_GT(before.switches + EVENTS_MAX, after.switches);
	/* Not half of the time of one processor. */
	EXPECT_GT((after.ms - before.ms) * hz / 2000,
		  after.works - before.works);
}

/* A record comes in pieces, the other connection goes on between any two. */
static void expect_stuck_in_record(struct __test_metadata *_metadata,
				   struct bench *b)
{
	expect_others_alive(_metadata, b);
	expect_no_lock_held(_metadata, b->slow.ulp);
	expect_bounded(_metadata, b->slow.ulp, 0);
	expect_rest(_metadata);
}

TEST_F(slow_peers, octet_by_octet)
{
	struct bench *b = &self->b;
	__u8 record[RECORD_MAX];
	size_t len = put_ike(record, 300, 1), i;

	for (i = 0; i < len; i++) {
		EXPECT_EQ(0, poll_now(b->slow.ulp, POLLIN));
		ASSERT_EQ(0, raw_write(&b->slow, record + i, 1));
		ASSERT_EQ(0, settle(&b->slow));
		round_trip(_metadata, b);
		if (i % 50 == 0)
			expect_alive(_metadata, &b->other, b->out,
				     b->in);
		if (i == len / 2)
			expect_stuck_in_record(_metadata, b);
	}
	ASSERT_EQ(300, recv_msg(b->slow.ulp, b->in, RECORD_MAX));
	ASSERT_TRUE(is_ike(b->in, 300, 1));
}

/* What of the longest record comes next: of its middle more than an octet. */
static size_t next_piece(size_t at, size_t len)
{
	return at < 2000 || at > len - 2000 ? 1 : 100;
}

static void expect_one_buffer(struct __test_metadata *_metadata,
			      struct bench *b, long records)
{
	struct diag d;

	ASSERT_EQ(0, settle(&b->slow));
	ASSERT_EQ(0, get_diag(b->slow.ulp, &d));
	ASSERT_EQ(0, diag_mem(&d, SK_MEMINFO_RMEM_ALLOC));
	ASSERT_EQ(records, counter("EspTcpInEsp"));
}

/* Of the longest record too, there is one buffer and no segment that is kept. */
TEST_F(slow_peers, longest_record_octet_by_octet)
{
	struct bench *b = &self->b;
	__u8 record[RECORD_MAX];
	size_t len = put_esp(record, MESSAGE_MAX), at, n;
	int pieces = 0;

	for (at = 0; at < len; at += n) {
		if (pieces++ % 50 == 0) {
			expect_one_buffer(_metadata, b, b->trips);
			round_trip(_metadata, b);
		}
		n = next_piece(at, len);
		ASSERT_EQ(0, raw_write(&b->slow, record + at, n));
		if (at == 30000) {
			ASSERT_EQ(0, settle(&b->slow));
			expect_stuck_in_record(_metadata, b);
		}
	}
	EXPECT_EQ(b->trips + 1, counter_wait("EspTcpInEsp", b->trips + 1));
	EXPECT_EQ(1, xfrm_counter("XfrmInNoStates"));
	expect_alive(_metadata, &b->slow, b->out, b->in);
}

/* What the daemon does not read is bounded too, and holds nobody up. */
TEST_F(slow_peers, messages_that_the_daemon_does_not_read)
{
	struct bench *b = &self->b;
	const struct path path = { .family = AF_INET };
	struct pair p;
	struct diag d;
	long unread;
	int i;

	/* More than a daemon is given that does not ask for it. */
	ASSERT_EQ(0, run("sysctl -qw net.ipv4.tcp_rmem='4096 4194304 4194304'"));
	ASSERT_EQ(0, tcp_pair(&p, &path));
	ASSERT_EQ(0, set_ulp(p.ulp, "espintcp"));
	for (i = 0; i < 1000; i++)
		ASSERT_EQ(0, raw_write(&p, b->out, put_ike(b->out, 2000, i)));
	ASSERT_EQ(0, settle(&p));
	ASSERT_EQ(0, get_diag(p.ulp, &d));
	unread = diag_u32(&d, ESPINTCP_DIAG_IKE_UNREAD);
	EXPECT_LT(0, unread);
	EXPECT_GT(IKE_RCVBUF + 2000, unread * 2000);
	EXPECT_EQ(1000 - unread, counter("EspTcpInIkeFull"));
	EXPECT_EQ(0, diag_mem(&d, SK_MEMINFO_RMEM_ALLOC));
	expect_others_alive(_metadata, b);
	expect_no_lock_held(_metadata, p.ulp);
	expect_rest(_metadata);
	close(p.ulp);
	close(p.raw);
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

/* TCP asks for a window once nothing is under way any more. */
static bool window_is_closed(void)
{
	return wait_for(probes() >= 1);
}

TEST_F(slow_peers, zero_window)
{
	struct bench *b = &self->b;
	struct activity before, after;
	int n, i;

	/* Not so much that the frames are what bounds the queue. */
	ASSERT_EQ(0, set_int(b->slow.ulp, SOL_SOCKET, SO_SNDBUF, 48 << 10));
	n = fill_ike(b->slow.ulp, b->out, 0);
	ASSERT_GT(20000, n);
	EXPECT_EQ(EAGAIN, errno);
	EXPECT_GT(OUTQ_MAX, outq(b->slow.ulp));

	ASSERT_TRUE(window_is_closed());
	n = fill_ike(b->slow.ulp, b->out, n);
	ASSERT_GT(20000, n);

	/* Nobody runs in circles while it does so now and then. */
	read_activity(&before);
	ASSERT_TRUE(wait_for(probes() >= 3));
	read_activity(&after);
	EXPECT_GT(before.softirqs[0] + TASKLETS_MAX, after.softirqs[0]);
	EXPECT_EQ(0, poll_now(b->slow.ulp, POLLOUT));
	expect_rest(_metadata);
	expect_bounded(_metadata, b->slow.ulp, HEADER_LEN + 1200);
	expect_others_alive(_metadata, b);
	expect_no_lock_held(_metadata, b->slow.ulp);

	/* What was accepted is not lost. */
	for (i = 0; i < n; i++) {
		ASSERT_EQ(1200, raw_read_record(b->slow.raw, b->in));
		ASSERT_TRUE(is_ike(b->in, 1200, i));
	}
	expect_alive(_metadata, &b->slow, b->out, b->in);
}

/* However small, only so many messages wait. */
TEST_F(slow_peers, small_messages_that_nobody_reads)
{
	struct bench *b = &self->b;
	int n = 0, i;
	long waiting;

	ASSERT_EQ(0, set_int(b->slow.ulp, SOL_SOCKET, SO_SNDBUFFORCE,
			     32 << 20));
	/* TCP itself has all it takes. */
	while (counter("EspTcpOutIke") == n) {
		ASSERT_GT(20000, n);
		make_ike(b->out, 9000, n++);
		ASSERT_EQ(9000, send(b->slow.ulp, b->out, 9000,
				     MSG_DONTWAIT));
	}
	for (i = n; i < 20000; i++)
		if (send(b->slow.ulp, b->out, make_ike(b->out, 8, i),
			 MSG_DONTWAIT) != 8)
			break;
	EXPECT_EQ(EAGAIN, errno);
	waiting = i - counter("EspTcpOutIke");
	EXPECT_LE(IKE_FRAMES / 2, waiting);
	/* With those that TCP was to take when it did not */
	EXPECT_GE(IKE_FRAMES + BATCH / 9000 + 1, waiting);
	ASSERT_TRUE(window_is_closed());
	expect_bounded(_metadata, b->slow.ulp, HEADER_LEN + 9000);
	expect_others_alive(_metadata, b);
	for (n = 0; n < i; n++)
		ASSERT_LT(0, raw_read_record(b->slow.raw, b->in));
	expect_alive(_metadata, &b->slow, b->out, b->in);
}

/* All that goes to SLOW_B goes into an SA on the connection. */
static int add_sa(const struct pair *p)
{
	char command[1024];

	snprintf(command, sizeof(command),
		 "set -e; ip link add inner type dummy; ip link set inner up; "
		 "ip addr add " SLOW_A "/24 dev inner; "
		 "ip xfrm state add " SA " " GCM " encap espintcp %d %d 0.0.0.0; "
		 "ip xfrm policy add dst " SLOW_B " dir out tmpl " SA,
		 ntohs(local_port(p->ulp)), ntohs(local_port(p->raw)));
	return run(command);
}

static ssize_t send_one_inner(int fd, const void *buf, size_t len, int flags)
{
	struct sockaddr_storage to;
	socklen_t to_len;

	to_len = set_addr(&to, SLOW_B, htons(INNER_PORT));
	return sendto(fd, buf, len, flags, (struct sockaddr *)&to, to_len);
}

/* Packets until the socket takes no more, or the queue. */
static int send_inner(int fd, __u8 *buf, size_t len)
{
	int n = 0;

	while (n < PACKETS_MAX && send_one_inner(fd, buf, len, MSG_DONTWAIT) > 0)
		n++;
	return n;
}

/* Nothing is left with the sender, nor on the way. */
static bool all_read(const struct pair *p)
{
	int octets;

	return !outq(p->ulp) && !ioctl(p->raw, FIONREAD, &octets) && !octets;
}

static void fill_esp(struct __test_metadata *_metadata, struct bench *b,
		     int *fd, size_t len)
{
	int i;

	ASSERT_EQ(0, add_sa(&b->slow));
	for (i = 0; i < NR_SENDERS; i++) {
		fd[i] = socket(AF_INET, SOCK_DGRAM, 0);
		ASSERT_LT(0, send_inner(fd[i], b->out, len));
	}
	/* More was refused than was taken, and that is bounded. */
	EXPECT_LT(0, counter("EspTcpOutQueueFull"));
	EXPECT_GT(OUTQ_MAX, outq(b->slow.ulp));
}

static long read_all(struct __test_metadata *_metadata, struct bench *b)
{
	long records = 0;

	while (!all_read(&b->slow)) {
		/* The last acknowledgment may be on its way. */
		if (!poll_now(b->slow.raw, POLLIN)) {
			poll_pause();
			continue;
		}
		ASSERT_LT(0, raw_read_record(b->slow.raw, b->in));
		records++;
	}
	return records;
}

static void expect_not_charged(struct __test_metadata *_metadata, const int *fd)
{
	int i;

	for (i = 0; i < NR_SENDERS; i++) {
		/* What is not charged any more can be used again. */
		EXPECT_TRUE(wait_for(!outq(fd[i])));
		close(fd[i]);
	}
}

TEST_F(slow_peers, esp_that_nobody_reads)
{
	struct bench *b = &self->b;
	int fd[NR_SENDERS];
	long records;

	/* Not so much that the limit depends on what TCP sends. */
	ASSERT_EQ(0, set_int(b->slow.ulp, SOL_SOCKET, SO_SNDBUF, 48 << 10));
	fill_esp(_metadata, b, fd, PACKET_LEN);
	ASSERT_TRUE(window_is_closed());
	expect_bounded(_metadata, b->slow.ulp, 2 * PACKET_LEN);
	expect_others_alive(_metadata, b);
	expect_no_lock_held(_metadata, b->slow.ulp);
	expect_rest(_metadata);

	/* IKE has its own room, and overtakes. */
	make_ike(b->out, 600, 1);
	ASSERT_EQ(600, send(b->slow.ulp, b->out, 600, MSG_DONTWAIT));
	records = read_all(_metadata, b);
	/* And what the other connection sent. */
	EXPECT_EQ(records + b->trips + 1,
		  counter("EspTcpOutEsp") + counter("EspTcpOutIke"));
	expect_not_charged(_metadata, fd);
	expect_alive(_metadata, &b->slow, b->out, b->in);
}

/* However small, only so many packets wait. */
TEST_F(slow_peers, small_esp_that_nobody_reads)
{
	struct bench *b = &self->b;
	/* One that takes large segments: what may wait is the more octets. */
	const struct path path = { .family = AF_INET };
	int fd[NR_SENDERS];
	long sent;

	close(b->slow.ulp);
	close(b->slow.raw);
	ASSERT_EQ(0, tcp_pair(&b->slow, &path));
	ASSERT_EQ(0, set_ulp(b->slow.ulp, "espintcp"));
	ASSERT_EQ(0, set_int(b->slow.ulp, SOL_SOCKET, SO_SNDBUFFORCE,
			     32 << 20));
	fill_esp(_metadata, b, fd, 1);
	sent = counter("EspTcpOutEsp");
	ASSERT_TRUE(window_is_closed());
	expect_bounded(_metadata, b->slow.ulp, 2 * PACKET_LEN);
	expect_others_alive(_metadata, b);
	read_all(_metadata, b);
	/* With those that TCP was to take when it did not */
	EXPECT_GE(ESP_FRAMES + BATCH / 64,
		  counter("EspTcpOutEsp") - b->trips - sent);
	expect_not_charged(_metadata, fd);
	expect_alive(_metadata, &b->slow, b->out, b->in);
}

#define MESSAGES	3000
#define MESSAGE_LEN	1200

static int interrupts, restarts;

static void handle_signal(int sig)
{
	__atomic_add_fetch(sig == SIGUSR1 ? &interrupts : &restarts, 1,
			   __ATOMIC_RELAXED);
}

static int catch_signals(void)
{
	const struct sigaction interrupt = { .sa_handler = handle_signal };
	const struct sigaction restart = {
		.sa_handler = handle_signal,
		.sa_flags = SA_RESTART,
	};

	interrupts = 0;
	restarts = 0;
	return sigaction(SIGUSR1, &interrupt, NULL) ||
	       sigaction(SIGUSR2, &restart, NULL);
}

/* Which messages were accepted, in order */
struct accepted {
	__u32 seed[MESSAGES];
	int n;
};

/* Messages, each of which is tried once; returns how many were interrupted. */
static long call_send_ike(struct call *c)
{
	struct accepted *accepted = c->buf;
	__u8 message[MESSAGE_LEN];
	long interrupted = 0;
	__u32 seed;

	for (seed = 0; accepted->n < c->count; seed++) {
		make_ike(message, sizeof(message), seed);
		if (send(c->fd, message, sizeof(message), 0) ==
		    sizeof(message))
			accepted->seed[accepted->n++] = seed;
		else if (errno == EINTR)
			interrupted++;
		else
			return -1;
	}
	return interrupted;
}

/* Packets as long as there is someone to stop it. */
static long call_send_esp(struct call *c)
{
	__u8 data[PACKET_LEN] = { 0 };
	long n = 0;

	while (!__atomic_load_n(&c->count, __ATOMIC_RELAXED)) {
		if (send_one_inner(c->fd, data, sizeof(data), MSG_DONTWAIT) > 0)
			n++;
		else
			poll_pause();
	}
	return n;
}

/* Signals of both kinds reach the call while it waits for room. */
static bool is_interrupted(struct call *c, int times)
{
	if (!call_done(c) && call_asleep(c)) {
		pthread_kill(c->thread, SIGUSR1);
		pthread_kill(c->thread, SIGUSR2);
	}
	return __atomic_load_n(&interrupts, __ATOMIC_RELAXED) >= times &&
	       __atomic_load_n(&restarts, __ATOMIC_RELAXED) >= times;
}

/* What the peer has read */
struct stream {
	__u32 seed[MESSAGES];
	int messages;
	__u32 packets;
	__u32 seq;
	ssize_t packet_len;
};

/* A whole record: a message, or a later packet of the SA and as long as all */
static void read_one(struct __test_metadata *_metadata, struct bench *b,
		     struct stream *s)
{
	ssize_t len = raw_read_record(b->slow.raw, b->in);

	ASSERT_LT(MARKER_LEN, len);
	if (!get_be32(b->in)) {
		ASSERT_EQ(MESSAGE_LEN, len);
		ASSERT_GT(MESSAGES, s->messages);
		s->seed[s->messages] = ike_seed(b->in);
		ASSERT_TRUE(is_ike(b->in, len, s->seed[s->messages++]));
		return;
	}
	ASSERT_EQ(0x1001, get_be32(b->in));
	/* Those refused have a number too. */
	ASSERT_LT(s->seq, get_be32(b->in + 4));
	s->seq = get_be32(b->in + 4);
	s->packets++;
	if (!s->packet_len)
		s->packet_len = len;
	ASSERT_LT(PACKET_LEN, len);
	ASSERT_EQ(s->packet_len, len);
}

/* Reads on with signals now and then, until both senders have ended. */
static void read_stream(struct __test_metadata *_metadata, struct bench *b,
			struct call *ike, struct call *esp, struct stream *s)
{
	int i;

	for (i = 0; !call_done(ike); i++) {
		read_one(_metadata, b, s);
		if (i % 32 == 0)
			is_interrupted(ike, 0);
	}
	__atomic_store_n(&esp->count, 1, __ATOMIC_RELAXED);
	while (!call_done(esp) || !all_read(&b->slow)) {
		if (poll_now(b->slow.raw, POLLIN))
			read_one(_metadata, b, s);
		else
			poll_pause();
	}
}

/*
 * IKE that waits for room, is interrupted and begun again, and ESP that is queued
 * meanwhile: each message that was accepted, and no other, is on the wire, once
 * and in order, and all is whole.
 */
TEST_F(slow_peers, ike_blocked_beside_esp)
{
	struct bench *b = &self->b;
	static struct accepted accepted;
	static struct stream stream;
	struct call ike = {
		.fn = call_send_ike, .fd = b->slow.ulp, .buf = &accepted,
		.count = MESSAGES,
	};
	struct call esp = { .fn = call_send_esp };

	ASSERT_EQ(0, catch_signals());
	ASSERT_EQ(0, add_sa(&b->slow));
	esp.fd = socket(AF_INET, SOCK_DGRAM, 0);
	ASSERT_EQ(0, call_start(&ike));
	ASSERT_TRUE(call_blocks(&ike));
	ASSERT_EQ(0, call_start(&esp));
	ASSERT_TRUE(wait_for(is_interrupted(&ike, 20)));
	ASSERT_FALSE(call_done(&ike));
	expect_no_lock_held(_metadata, b->slow.ulp);
	expect_bounded(_metadata, b->slow.ulp, 2 * PACKET_LEN);

	read_stream(_metadata, b, &ike, &esp, &stream);
	ASSERT_EQ(0, call_join(&ike));
	ASSERT_EQ(0, call_join(&esp));
	EXPECT_LE(20, ike.ret);
	EXPECT_EQ(MESSAGES, stream.messages);
	EXPECT_EQ(0, memcmp(accepted.seed, stream.seed, sizeof(stream.seed)));
	EXPECT_EQ(MESSAGES, counter("EspTcpOutIke"));
	EXPECT_LT(0, stream.packets);
	EXPECT_EQ(stream.packets, counter("EspTcpOutEsp"));
	close(esp.fd);
	expect_alive(_metadata, &b->slow, b->out, b->in);
}

TEST_HARNESS_MAIN
