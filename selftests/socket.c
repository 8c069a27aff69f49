// SPDX-License-Identifier: GPL-2.0
/*
 * The socket of an espintcp connection, as an IKE daemon sees it.
 *
 * The other end is a plain TCP socket: it writes the records the daemon is to
 * see and reads the records the daemon caused, so nothing of the module is
 * used to judge the module. Framing has a test of its own.
 */
#include "kselftest_harness.h"

#include <linux/errqueue.h>
#include <linux/kcm.h>
#include <linux/sockios.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/uio.h>

#include "espintcp_holder.h"
#include "espintcp_util.h"

#ifndef AF_KCM
#define AF_KCM		41
#endif

#define STREAM_MAX	(256 * 1024)
/* Of the module: memory of received messages, messages to be sent */
#define IKE_RCVBUF	(256 * 1024)
#define IKE_FRAMES	1024
/* Records that are looked at in one go */
#define RX_BUDGET	256

FIXTURE(socket)
{
	struct pair p;
	__u8 *out;	/* what is written */
	__u8 *in;	/* what is read */
};

FIXTURE_VARIANT(socket)
{
	struct path path;
};

FIXTURE_VARIANT_ADD(socket, v4_client)
{
	.path = { .family = AF_INET },
};

FIXTURE_VARIANT_ADD(socket, v4_accepted)
{
	.path = { .family = AF_INET, .accepted = true },
};

FIXTURE_VARIANT_ADD(socket, v6_client)
{
	.path = { .family = AF_INET6 },
};

FIXTURE_VARIANT_ADD(socket, v6_accepted)
{
	.path = { .family = AF_INET6, .accepted = true },
};

FIXTURE_VARIANT_ADD(socket, v4mapped_client)
{
	.path = { .family = AF_INET6, .mapped = true },
};

FIXTURE_VARIANT_ADD(socket, v4mapped_accepted)
{
	.path = { .family = AF_INET6, .mapped = true, .accepted = true },
};

FIXTURE_SETUP(socket)
{
	ASSERT_EQ(0, new_netns());
	ASSERT_EQ(0, tcp_pair(&self->p, &variant->path));
	ASSERT_EQ(0, set_ulp(self->p.ulp, "espintcp"));
	self->out = calloc(1, STREAM_MAX);
	self->in = calloc(1, STREAM_MAX);
	ASSERT_NE(NULL, self->out);
	ASSERT_NE(NULL, self->in);
}

FIXTURE_TEARDOWN(socket)
{
	close(self->p.ulp);
	close(self->p.raw);
	free(self->out);
	free(self->in);
}

/* The peer sends an IKE message; it is in the daemon's queue on return. */
static void peer_sends_ike(struct __test_metadata *_metadata, struct pair *p,
			   size_t len, __u32 seed)
{
	long before = counter("EspTcpInIke");
	__u8 *record = malloc(RECORD_MAX);

	ASSERT_NE(NULL, record);
	ASSERT_EQ(0, raw_write(p, record, put_ike(record, len, seed)));
	free(record);
	ASSERT_EQ(before + 1, counter_wait("EspTcpInIke", before + 1));
}

static void peer_sends_esp(struct __test_metadata *_metadata, struct pair *p,
			   int n)
{
	long before = counter("EspTcpInEsp");
	__u8 record[200];
	int i;

	for (i = 0; i < n; i++) {
		put_esp(record, sizeof(record) - HEADER_LEN);
		ASSERT_EQ(0, raw_write(p, record, sizeof(record)));
	}
	ASSERT_EQ(before + n, counter_wait("EspTcpInEsp", before + n));
}

/* The daemon receives the message the peer sent with these. */
static void expect_message(struct __test_metadata *_metadata, int fd,
			   ssize_t len, __u32 seed)
{
	__u8 *msg = malloc(RECORD_MAX);

	ASSERT_NE(NULL, msg);
	ASSERT_EQ(len, recv_msg(fd, msg, RECORD_MAX));
	ASSERT_TRUE(is_ike(msg, len, seed));
	free(msg);
}

static void expect_no_message(struct __test_metadata *_metadata, int fd)
{
	__u8 octet;

	EXPECT_EQ(0, poll_now(fd, POLLIN));
	EXPECT_EQ(-1, recv(fd, &octet, 1, MSG_DONTWAIT));
	EXPECT_EQ(EAGAIN, errno);
}

/* The peer finds one record on the wire, with that message in it. */
static void peer_reads_ike(struct __test_metadata *_metadata, int fd,
			   ssize_t len, __u32 seed)
{
	__u8 *msg = malloc(RECORD_MAX);

	ASSERT_NE(NULL, msg);
	ASSERT_EQ(len, raw_read_record(fd, msg));
	ASSERT_TRUE(is_ike(msg, len, seed));
	free(msg);
}

/* Both directions still work. */
static void expect_alive(struct __test_metadata *_metadata, struct pair *p)
{
	__u8 msg[100];

	peer_sends_ike(_metadata, p, 99, 4711);
	expect_message(_metadata, p->ulp, 99, 4711);
	make_ike(msg, sizeof(msg), 4712);
	ASSERT_EQ(sizeof(msg), send(p->ulp, msg, sizeof(msg), MSG_DONTWAIT));
	peer_reads_ike(_metadata, p->raw, sizeof(msg), 4712);
}

/* Sends messages numbered from zero, until one is refused or all are sent. */
static int send_numbered(int fd, void *buf, size_t len, int count, int flags)
{
	int n;

	for (n = 0; n < count; n++) {
		make_ike(buf, len, n);
		if (send(fd, buf, len, flags) != (ssize_t)len)
			break;
	}
	return n;
}

/*
 * Sends until there is no room. The peer does not read, but what is under way
 * to it may still make room after this.
 */
static int send_until_full(struct __test_metadata *_metadata, int fd,
			   size_t len)
{
	__u8 *msg = malloc(len);
	int n;

	ASSERT_NE(NULL, msg);
	n = send_numbered(fd, msg, len, 20000, MSG_DONTWAIT);
	ASSERT_GT(20000, n);
	ASSERT_EQ(EAGAIN, errno);
	free(msg);
	return n;
}

static void peer_reads_all(struct __test_metadata *_metadata, int fd,
			   size_t len, int n)
{
	int i;

	for (i = 0; i < n; i++)
		peer_reads_ike(_metadata, fd, len, i);
}

static int reset(int fd)
{
	const struct linger l = { .l_onoff = 1 };

	return setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l)) ||
	       close(fd) ? -1 : 0;
}

/* The peer resets the connection; the daemon's socket knows on return. */
static void peer_resets(struct __test_metadata *_metadata, struct pair *p)
{
	ASSERT_EQ(0, reset(p->raw));
	p->raw = -1;
	ASSERT_NE(0, POLLHUP & poll_wait(p->ulp, 0));
}

/*
 * Setting the ULP
 */

TEST_F(socket, ulp_name)
{
	char name[16] = "";
	socklen_t len = sizeof(name);

	ASSERT_EQ(0, getsockopt(self->p.ulp, SOL_TCP, TCP_ULP, name, &len));
	EXPECT_STREQ("espintcp", name);
	EXPECT_EQ(1, counter("EspTcpConnOpened"));
	EXPECT_EQ(0, counter("EspTcpConnClosed"));
	close(self->p.ulp);
	EXPECT_EQ(1, counter_wait("EspTcpConnClosed", 1));
	EXPECT_EQ(1, counter("EspTcpConnOpened"));
	EXPECT_EQ(0, counter("EspTcpConnAborted"));
}

TEST_F(socket, ulp_twice)
{
	EXPECT_EQ(-1, set_ulp(self->p.ulp, "espintcp"));
	EXPECT_EQ(EEXIST, errno);
	EXPECT_EQ(1, counter("EspTcpConnOpened"));
	expect_alive(_metadata, &self->p);
}

TEST_F(socket, ulp_on_both_ends)
{
	int i;

	ASSERT_EQ(0, set_ulp(self->p.raw, "espintcp"));
	EXPECT_EQ(2, counter("EspTcpConnOpened"));
	for (i = 5; i < 2000; i += 13) {
		make_ike(self->out, i, i);
		ASSERT_EQ(i, send(self->p.ulp, self->out, i, 0));
		expect_message(_metadata, self->p.raw, i, i);
		ASSERT_EQ(i, send(self->p.raw, self->out, i, 0));
		expect_message(_metadata, self->p.ulp, i, i);
	}
}

TEST_F(socket, ulp_listener)
{
	int fd = tcp_listen(variant->path.family, variant->path.mapped, 0);

	ASSERT_LE(0, fd);
	EXPECT_EQ(-1, set_ulp(fd, "espintcp"));
	EXPECT_EQ(ENOTCONN, errno);
}

TEST_F(socket, ulp_not_connected)
{
	int fd = tcp_socket(variant->path.family, 0);

	ASSERT_LE(0, fd);
	EXPECT_EQ(-1, set_ulp(fd, "espintcp"));
	EXPECT_EQ(ENOTCONN, errno);
	EXPECT_EQ(1, counter("EspTcpConnOpened"));
}

TEST_F(socket, ulp_after_reset)
{
	struct pair p;

	ASSERT_EQ(0, tcp_pair(&p, &variant->path));
	peer_resets(_metadata, &p);
	EXPECT_EQ(-1, set_ulp(p.ulp, "espintcp"));
	EXPECT_EQ(ENOTCONN, errno);
}

TEST_F(socket, ulp_tls_first)
{
	struct pair p;

	ASSERT_EQ(0, tcp_pair(&p, &variant->path));
	if (set_ulp(p.ulp, "tls") && errno == ENOENT)
		SKIP(return, "no TLS in this kernel");
	EXPECT_EQ(-1, set_ulp(p.ulp, "espintcp"));
	EXPECT_EQ(EEXIST, errno);
}

TEST_F(socket, ulp_tls_second)
{
	EXPECT_EQ(-1, set_ulp(self->p.ulp, "tls"));
	/* Without TLS in the kernel the call fails earlier. */
	EXPECT_TRUE(errno == EEXIST || errno == ENOENT);
	expect_alive(_metadata, &self->p);
}

TEST_F(socket, ulp_in_sockmap)
{
	int map = sockmap_create();
	struct pair p;

	if (map < 0)
		SKIP(return, "no sockmap in this kernel");
	ASSERT_EQ(0, tcp_pair(&p, &variant->path));
	ASSERT_EQ(0, sockmap_add(map, p.ulp));
	EXPECT_EQ(-1, set_ulp(p.ulp, "espintcp"));
	EXPECT_EQ(EBUSY, errno);
}

TEST_F(socket, sockmap_refuses_ulp)
{
	int map = sockmap_create();

	if (map < 0)
		SKIP(return, "no sockmap in this kernel");
	EXPECT_EQ(-1, sockmap_add(map, self->p.ulp));
	expect_alive(_metadata, &self->p);
}

/* Octets pass unchanged, as without a ULP. */
static void expect_plain(struct __test_metadata *_metadata, struct pair *p)
{
	__u8 sent[100], got[sizeof(sent)];

	fill_pattern(sent, sizeof(sent), 1);
	ASSERT_EQ(0, raw_write(p, sent, sizeof(sent)));
	ASSERT_EQ(sizeof(got), recv(p->ulp, got, sizeof(got), MSG_WAITALL));
	EXPECT_EQ(0, memcmp(sent, got, sizeof(sent)));
	ASSERT_EQ(sizeof(sent), send(p->ulp, sent, sizeof(sent), 0));
	ASSERT_EQ(sizeof(got), raw_read(p->raw, got, sizeof(got)));
	EXPECT_EQ(0, memcmp(sent, got, sizeof(sent)));
}

static void ulp_or_sockmap(struct __test_metadata *_metadata, struct pair *p,
			   int map, int turn)
{
	struct call c[2], *ulp, *add;

	ASSERT_EQ(0, ulp_races_map(&ulp, &add, c, p->ulp, "espintcp", map,
				   turn));
	ASSERT_TRUE(one_has_it(ulp, add));
	if (ulp->ret) {
		expect_plain(_metadata, p);
		ASSERT_EQ(0, sockmap_delete(map));
		ASSERT_EQ(0, set_ulp(p->ulp, "espintcp"));
	}
	expect_alive(_metadata, p);
}

TEST_F(socket, sockmap_races_ulp)
{
	int map = sockmap_create();
	struct pair p;
	int i;

	if (map < 0)
		SKIP(return, "no sockmap in this kernel");
	for (i = 0; i < 20; i++) {
		ASSERT_EQ(0, tcp_pair(&p, &variant->path));
		ulp_or_sockmap(_metadata, &p, map, i);
		close(p.ulp);
		close(p.raw);
	}
	EXPECT_EQ(21, counter("EspTcpConnOpened"));
	EXPECT_EQ(20, counter_wait("EspTcpConnClosed", 20));
}

/* Until the ULP is set, in and out of the map; returns what is unexpected. */
static long call_sockmap_in_and_out(struct call *c)
{
	while (!sockmap_add(c->count, c->fd)) {
		if (sockmap_delete(c->count))
			return -1;
		sched_yield();
	}
	return errno == EBUSY || errno == EINVAL ? 0 : -1;
}

/* Once it is out of the map, and not again in it. */
static long call_set_ulp_at_last(struct call *c)
{
	while (set_ulp(c->fd, c->buf)) {
		if (errno != EBUSY)
			return -1;
		sched_yield();
	}
	return 0;
}

TEST_F(socket, sockmap_in_and_out)
{
	int map = sockmap_create();
	struct call c[2];
	struct pair p;
	int i;

	if (map < 0)
		SKIP(return, "no sockmap in this kernel");
	for (i = 0; i < 20; i++) {
		ASSERT_EQ(0, tcp_pair(&p, &variant->path));
		c[i % 2] = (struct call){
			.fn = call_set_ulp_at_last, .fd = p.ulp,
			.buf = "espintcp",
		};
		c[!(i % 2)] = (struct call){
			.fn = call_sockmap_in_and_out, .fd = p.ulp,
			.count = map,
		};
		ASSERT_EQ(0, calls_race(c));
		EXPECT_EQ(0, c[0].ret);
		EXPECT_EQ(0, c[1].ret);
		expect_alive(_metadata, &p);
		close(p.ulp);
		close(p.raw);
	}
}

/* KCM wants a program that tells the length of a message. */
static int kcm_attach(int kcm, int fd)
{
	static const struct bpf_insn insns[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .imm = 1 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	union bpf_attr attr = {
		.prog_type = BPF_PROG_TYPE_SOCKET_FILTER,
		.insns = (unsigned long)insns,
		.insn_cnt = ARRAY_SIZE(insns),
		.license = (unsigned long)"GPL",
	};
	struct kcm_attach attach = {
		.fd = fd, .bpf_fd = bpf(BPF_PROG_LOAD, &attr),
	};

	if (attach.bpf_fd < 0)
		return -1;
	return ioctl(kcm, SIOCKCMATTACH, &attach);
}

TEST_F(socket, ulp_in_kcm)
{
	int kcm = socket(AF_KCM, SOCK_DGRAM, KCMPROTO_CONNECTED);
	struct pair p;

	if (kcm < 0)
		SKIP(return, "no KCM in this kernel");
	ASSERT_EQ(0, tcp_pair(&p, &variant->path));
	ASSERT_EQ(0, kcm_attach(kcm, p.ulp));
	EXPECT_EQ(-1, set_ulp(p.ulp, "espintcp"));
	EXPECT_EQ(EBUSY, errno);
}

TEST_F(socket, kcm_refuses_ulp)
{
	int kcm = socket(AF_KCM, SOCK_DGRAM, KCMPROTO_CONNECTED);

	if (kcm < 0)
		SKIP(return, "no KCM in this kernel");
	EXPECT_EQ(-1, kcm_attach(kcm, self->p.ulp));
	expect_alive(_metadata, &self->p);
}

TEST_F(socket, listen_again)
{
	EXPECT_EQ(-1, listen(self->p.ulp, 1));
	expect_alive(_metadata, &self->p);
}

static int connect_unspec(int fd)
{
	const struct sockaddr sa = { .sa_family = AF_UNSPEC };

	return connect(fd, &sa, sizeof(sa));
}

TEST_F(socket, disconnect_refused)
{
	EXPECT_EQ(-1, connect_unspec(self->p.ulp));
	EXPECT_EQ(-1, listen(self->p.ulp, 1));
	expect_alive(_metadata, &self->p);
}

/* Nor can the socket start anew when its connection is gone. */
TEST_F(socket, disconnect_refused_after_reset)
{
	struct sockaddr_storage addr;
	socklen_t len;
	int fd;

	fd = tcp_listen(variant->path.family, variant->path.mapped, 0);
	ASSERT_LE(0, fd);
	len = loopback_addr(&addr, variant->path.family, variant->path.mapped,
			    local_port(fd));
	peer_resets(_metadata, &self->p);
	EXPECT_EQ(-1, connect_unspec(self->p.ulp));
	EXPECT_EQ(-1, connect(self->p.ulp, (struct sockaddr *)&addr, len));
	EXPECT_EQ(-1, listen(self->p.ulp, 1));
}

/*
 * Receiving
 */

TEST_F(socket, recv_one_message_a_call)
{
	__u8 *p = self->out;
	int i;

	for (i = 0; i < 10; i++)
		p += put_ike(p, 10 + i, i);
	ASSERT_EQ(0, raw_write(&self->p, self->out, p - self->out));
	for (i = 0; i < 10; i++)
		expect_message(_metadata, self->p.ulp, 10 + i, i);
	expect_no_message(_metadata, self->p.ulp);
}

/* As read() is a stream's call, a daemon may well use it. */
TEST_F(socket, read_one_message_a_call)
{
	peer_sends_ike(_metadata, &self->p, 100, 1);
	peer_sends_ike(_metadata, &self->p, 200, 2);
	ASSERT_EQ(100, read(self->p.ulp, self->in, RECORD_MAX));
	EXPECT_TRUE(is_ike(self->in, 100, 1));
	/* Reads nothing, and takes no message, on sockets of any kind. */
	EXPECT_EQ(0, read(self->p.ulp, self->in, 0));
	ASSERT_EQ(200, read(self->p.ulp, self->in, RECORD_MAX));
	EXPECT_TRUE(is_ike(self->in, 200, 2));
}

static ssize_t recvmsg_len(int fd, struct msghdr *msg, void *buf, size_t len,
			   int flags)
{
	static struct iovec iov;

	iov = (struct iovec){ buf, len };
	*msg = (struct msghdr){ .msg_iov = &iov, .msg_iovlen = 1 };
	return recvmsg(fd, msg, flags);
}

TEST_F(socket, recv_short_buffer)
{
	struct msghdr msg;
	int i;

	for (i = 0; i < 3; i++)
		peer_sends_ike(_metadata, &self->p, 500, i);
	memset(self->in, 0xaa, 200);
	EXPECT_EQ(100, recvmsg_len(self->p.ulp, &msg, self->in, 100, MSG_DONTWAIT));
	EXPECT_EQ(MSG_TRUNC, msg.msg_flags);
	EXPECT_TRUE(is_ike(self->in, 100, 0));
	EXPECT_EQ(0xaa, self->in[100]);

	/* The rest of the first message is gone. */
	EXPECT_EQ(500, recvmsg_len(self->p.ulp, &msg, self->in, 500, MSG_DONTWAIT));
	EXPECT_EQ(0, msg.msg_flags);
	EXPECT_TRUE(is_ike(self->in, 500, 1));

	/* A buffer larger than the message is not filled from the next. */
	EXPECT_EQ(500, recvmsg_len(self->p.ulp, &msg, self->in, 501, MSG_DONTWAIT));
	EXPECT_EQ(0, msg.msg_flags);
	EXPECT_TRUE(is_ike(self->in, 500, 2));
	expect_no_message(_metadata, self->p.ulp);
}

TEST_F(socket, recv_trunc)
{
	struct msghdr msg;

	peer_sends_ike(_metadata, &self->p, 1000, 1);
	peer_sends_ike(_metadata, &self->p, 2000, 2);
	EXPECT_EQ(1000, recv(self->p.ulp, self->in, 10,
			     MSG_TRUNC | MSG_DONTWAIT));
	EXPECT_TRUE(is_ike(self->in, 10, 1));
	EXPECT_EQ(2000, recvmsg_len(self->p.ulp, &msg, self->in, RECORD_MAX,
				    MSG_TRUNC | MSG_DONTWAIT));
	EXPECT_EQ(0, msg.msg_flags);
	EXPECT_TRUE(is_ike(self->in, 2000, 2));
	expect_no_message(_metadata, self->p.ulp);
}

TEST_F(socket, recv_peek)
{
	struct msghdr msg;
	int i;

	peer_sends_ike(_metadata, &self->p, 300, 1);
	peer_sends_ike(_metadata, &self->p, 400, 2);
	for (i = 0; i < 3; i++) {
		EXPECT_EQ(300, recv(self->p.ulp, self->in, RECORD_MAX,
				    MSG_PEEK | MSG_DONTWAIT));
		EXPECT_TRUE(is_ike(self->in, 300, 1));
		EXPECT_EQ(20, recvmsg_len(self->p.ulp, &msg, self->in, 20,
					  MSG_PEEK | MSG_DONTWAIT));
		EXPECT_EQ(MSG_TRUNC, msg.msg_flags);
		EXPECT_EQ(300, recv(self->p.ulp, NULL, 0,
				    MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT));
	}
	expect_message(_metadata, self->p.ulp, 300, 1);
	expect_message(_metadata, self->p.ulp, 400, 2);
	expect_no_message(_metadata, self->p.ulp);
	EXPECT_EQ(-1, recv(self->p.ulp, self->in, 1, MSG_PEEK | MSG_DONTWAIT));
	EXPECT_EQ(EAGAIN, errno);
}

TEST_F(socket, recv_no_buffer)
{
	struct msghdr msg;

	peer_sends_ike(_metadata, &self->p, 300, 1);
	peer_sends_ike(_metadata, &self->p, 400, 2);
	EXPECT_EQ(0, recvmsg_len(self->p.ulp, &msg, NULL, 0, MSG_DONTWAIT));
	EXPECT_EQ(MSG_TRUNC, msg.msg_flags);
	expect_message(_metadata, self->p.ulp, 400, 2);
	EXPECT_EQ(-1, recv(self->p.ulp, NULL, 0, MSG_DONTWAIT));
	EXPECT_EQ(EAGAIN, errno);
}

TEST_F(socket, recv_scattered)
{
	struct iovec iov[300];
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = ARRAY_SIZE(iov) };
	size_t i;

	for (i = 0; i < ARRAY_SIZE(iov); i++)
		iov[i] = (struct iovec){ self->in + i, 1 };
	peer_sends_ike(_metadata, &self->p, ARRAY_SIZE(iov), 5);
	EXPECT_EQ(ARRAY_SIZE(iov), recvmsg(self->p.ulp, &msg, 0));
	EXPECT_TRUE(is_ike(self->in, ARRAY_SIZE(iov), 5));

	peer_sends_ike(_metadata, &self->p, ARRAY_SIZE(iov), 6);
	EXPECT_EQ(ARRAY_SIZE(iov), readv(self->p.ulp, iov, ARRAY_SIZE(iov)));
	EXPECT_TRUE(is_ike(self->in, ARRAY_SIZE(iov), 6));
}

TEST_F(socket, recvmmsg)
{
	struct mmsghdr msgs[8] = { 0 };
	struct iovec iov[8];
	size_t i;

	for (i = 0; i < ARRAY_SIZE(msgs); i++) {
		iov[i] = (struct iovec){ self->in + i * 1000, 1000 };
		msgs[i].msg_hdr.msg_iov = &iov[i];
		msgs[i].msg_hdr.msg_iovlen = 1;
	}
	for (i = 0; i < 5; i++)
		peer_sends_ike(_metadata, &self->p, 100 + i, i);
	EXPECT_EQ(5, recvmmsg(self->p.ulp, msgs, ARRAY_SIZE(msgs),
			      MSG_DONTWAIT, NULL));
	for (i = 0; i < 5; i++) {
		EXPECT_EQ(100 + i, msgs[i].msg_len);
		EXPECT_TRUE(is_ike(self->in + i * 1000, 100 + i, i));
	}
}

TEST_F(socket, recv_unsupported_flags)
{
	EXPECT_EQ(-1, recv(self->p.ulp, self->in, 10, MSG_OOB | MSG_DONTWAIT));
	EXPECT_NE(EAGAIN, errno);
	EXPECT_EQ(-1, recv(self->p.ulp, self->in, 10,
			   MSG_ERRQUEUE | MSG_DONTWAIT));
	expect_alive(_metadata, &self->p);
}

TEST_F(socket, recv_nonblock)
{
	long sleeps = 0;
	int i;

	ASSERT_EQ(0, fcntl(self->p.ulp, F_SETFL, O_NONBLOCK));
	/* The first calls may wait for the pages of this program. */
	for (i = 0; i < 2; i++) {
		sleeps = sleeps_of(gettid());
		EXPECT_EQ(-1, recv(self->p.ulp, self->in, RECORD_MAX, 0));
		EXPECT_EQ(EAGAIN, errno);
		EXPECT_EQ(-1, read(self->p.ulp, self->in, RECORD_MAX));
		EXPECT_EQ(EAGAIN, errno);
	}
	EXPECT_EQ(sleeps, sleeps_of(gettid()));
	expect_alive(_metadata, &self->p);
}

TEST_F(socket, recv_timeout)
{
	ASSERT_EQ(0, set_timeout(self->p.ulp, SO_RCVTIMEO, 50));
	EXPECT_EQ(-1, recv(self->p.ulp, self->in, RECORD_MAX, 0));
	EXPECT_EQ(EAGAIN, errno);
	/* ESP is nothing for the daemon, and does not start it anew. */
	peer_sends_esp(_metadata, &self->p, 10);
	EXPECT_EQ(-1, recv(self->p.ulp, self->in, RECORD_MAX, 0));
	EXPECT_EQ(EAGAIN, errno);
	expect_alive(_metadata, &self->p);
}

static long call_recv(struct call *c)
{
	return recv(c->fd, c->buf, c->len, 0);
}

static struct call receiver_of(int fd, void *buf)
{
	return (struct call){
		.fn = call_recv, .fd = fd, .buf = buf, .len = RECORD_MAX,
	};
}

TEST_F(socket, recv_waits_for_message)
{
	struct call c = receiver_of(self->p.ulp, self->in);

	ASSERT_EQ(0, call_start(&c));
	ASSERT_TRUE(call_blocks(&c));
	peer_sends_esp(_metadata, &self->p, 10);
	EXPECT_FALSE(call_done(&c));
	peer_sends_ike(_metadata, &self->p, 1234, 1);
	ASSERT_EQ(0, call_join(&c));
	EXPECT_EQ(1234, c.ret);
	EXPECT_TRUE(is_ike(self->in, 1234, 1));
}

TEST_F(socket, recv_waits_for_fin)
{
	struct call c = receiver_of(self->p.ulp, self->in);

	ASSERT_EQ(0, call_start(&c));
	ASSERT_TRUE(call_blocks(&c));
	ASSERT_EQ(0, shutdown(self->p.raw, SHUT_WR));
	ASSERT_EQ(0, call_join(&c));
	EXPECT_EQ(0, c.ret);
}

TEST_F(socket, recv_waits_for_reset)
{
	struct call c = receiver_of(self->p.ulp, self->in);

	ASSERT_EQ(0, call_start(&c));
	ASSERT_TRUE(call_blocks(&c));
	ASSERT_EQ(0, reset(self->p.raw));
	ASSERT_EQ(0, call_join(&c));
	EXPECT_EQ(-1, c.ret);
	EXPECT_EQ(ECONNRESET, c.err);
}

TEST_F(socket, recv_waits_for_shutdown)
{
	struct call c = receiver_of(self->p.ulp, self->in);

	ASSERT_EQ(0, call_start(&c));
	ASSERT_TRUE(call_blocks(&c));
	ASSERT_EQ(0, shutdown(self->p.ulp, SHUT_RD));
	ASSERT_EQ(0, call_join(&c));
	EXPECT_EQ(0, c.ret);
}

/* Asks poll() again and again whether to receive, and does when it says so. */
static long call_poll_and_recv(struct call *c)
{
	while (!poll_now(c->fd, POLLIN))
		;
	return recv(c->fd, c->buf, c->len, MSG_DONTWAIT);
}

/* A message and the FIN in one segment, while @c receives. */
static void expect_message_with_fin(struct __test_metadata *_metadata,
				    struct call *c, struct pair *p, __u8 *out,
				    __u32 seed)
{
	ASSERT_EQ(0, set_int(p->raw, SOL_TCP, TCP_CORK, 1));
	ASSERT_EQ(0, raw_write(p, out, put_ike(out, 2000, seed)));
	ASSERT_EQ(0, shutdown(p->raw, SHUT_WR));
	ASSERT_EQ(0, call_join(c));
	ASSERT_EQ(2000, c->ret)
		TH_LOG("errno %d, round %u", c->err, seed);
	ASSERT_TRUE(is_ike(c->buf, 2000, seed));
	EXPECT_EQ(0, recv_msg(p->ulp, c->buf, RECORD_MAX));
	close(p->raw);
	close(p->ulp);
}

/*
 * The FIN is in the same segment as the message and wakes the reader, which
 * must not find an empty queue and an end.
 */
TEST_F(socket, recv_message_with_fin)
{
	struct call c;
	struct pair p;
	int i;

	for (i = 0; i < 100; i++) {
		ASSERT_EQ(0, tcp_pair(&p, &variant->path));
		ASSERT_EQ(0, set_ulp(p.ulp, "espintcp"));
		c = receiver_of(p.ulp, self->in);
		ASSERT_EQ(0, call_start(&c));
		ASSERT_TRUE(call_blocks(&c));
		expect_message_with_fin(_metadata, &c, &p, self->out, i);
	}
}

static bool in_state(int fd, int state)
{
	struct tcp_info ti;

	return !tcp_info(fd, &ti) && ti.tcpi_state == state;
}

/* When the daemon has finished before, TCP closes, and only then tells of the data. */
TEST_F(socket, recv_message_with_last_fin)
{
	struct call c;
	struct pair p;
	int i;

	for (i = 0; i < 50; i++) {
		ASSERT_EQ(0, tcp_pair(&p, &variant->path));
		ASSERT_EQ(0, set_ulp(p.ulp, "espintcp"));
		ASSERT_EQ(0, shutdown(p.ulp, SHUT_WR));
		ASSERT_TRUE(wait_for(in_state(p.ulp, BPF_TCP_FIN_WAIT2)));
		c = receiver_of(p.ulp, self->in);
		c.fn = call_poll_and_recv;
		ASSERT_EQ(0, call_start(&c));
		expect_message_with_fin(_metadata, &c, &p, self->out, i);
	}
}

/* Many records before the FIN, none of them for the daemon. */
static void fin_after_records(struct __test_metadata *_metadata, struct pair *p,
			      __u8 *out, int n, long (*fn)(struct call *c))
{
	struct call c = receiver_of(p->ulp, out + STREAM_MAX / 2);
	size_t len = 0;
	int i;

	c.fn = fn;
	for (i = 0; i < n; i++)
		len += put_esp(out + len, 40);
	ASSERT_EQ(0, call_start(&c));
	ASSERT_TRUE(call_blocks(&c));
	ASSERT_EQ(0, set_int(p->raw, SOL_TCP, TCP_CORK, 1));
	ASSERT_EQ(0, raw_write(p, out, len));
	ASSERT_EQ(0, shutdown(p->raw, SHUT_WR));
	ASSERT_EQ(0, call_join(&c));
	EXPECT_EQ(fn == call_recv ? 0 : POLLIN, c.ret);
	EXPECT_EQ(0, recv(p->ulp, out, RECORD_MAX, MSG_DONTWAIT));
}

static long call_poll(struct call *c)
{
	struct pollfd pfd = { .fd = c->fd, .events = POLLIN };

	return poll(&pfd, 1, -1) == 1 ? pfd.revents : -1;
}

TEST_F(socket, recv_fin_after_many_records)
{
	static const int counts[] = { 1, 255, 256, 257, 512, 1000, 2500 };
	struct pair p;
	size_t i;

	/* None of them has an SA. */
	ASSERT_EQ(0, set_sysctl("unknown_limit", "0"));
	for (i = 0; i < 2 * ARRAY_SIZE(counts); i++) {
		ASSERT_EQ(0, tcp_pair(&p, &variant->path));
		ASSERT_EQ(0, set_ulp(p.ulp, "espintcp"));
		fin_after_records(_metadata, &p, self->out, counts[i / 2],
				  i % 2 ? call_recv : call_poll);
		close(p.raw);
		close(p.ulp);
	}
}

/* The daemon reads no more, but TCP and ESP go on. */
TEST_F(socket, shutdown_read_keeps_framing)
{
	size_t len = put_esp(self->out, 500);
	int i;

	ASSERT_EQ(0, shutdown(self->p.ulp, SHUT_RD));
	for (i = 0; i < 20; i++) {
		ASSERT_EQ(0, raw_write(&self->p, self->out, 1 + i * 20));
		ASSERT_EQ(0, settle(&self->p));
		ASSERT_EQ(0, raw_write(&self->p, self->out + 1 + i * 20,
				       len - 1 - i * 20));
	}
	EXPECT_EQ(20, counter_wait("EspTcpInEsp", 20));
	EXPECT_EQ(0, counter("EspTcpInTruncated"));
	EXPECT_EQ(0, counter("EspTcpInBadLength"));
	EXPECT_EQ(0, recv(self->p.ulp, self->in, RECORD_MAX, 0));
}

static int signals;

static void count_signal(int sig)
{
	__atomic_add_fetch(&signals, 1, __ATOMIC_RELAXED);
}

static int catch_signal(int sig)
{
	const struct sigaction sa = { .sa_handler = count_signal };

	signals = 0;
	return sigaction(sig, &sa, NULL);
}

TEST_F(socket, recv_interrupted)
{
	struct call c = receiver_of(self->p.ulp, self->in);

	ASSERT_EQ(0, catch_signal(SIGUSR1));
	ASSERT_EQ(0, call_start(&c));
	ASSERT_TRUE(call_blocks(&c));
	ASSERT_EQ(0, pthread_kill(c.thread, SIGUSR1));
	ASSERT_EQ(0, call_join(&c));
	EXPECT_EQ(-1, c.ret);
	EXPECT_EQ(EINTR, c.err);
	expect_alive(_metadata, &self->p);
}

TEST_F(socket, recv_bad_address)
{
	peer_sends_ike(_metadata, &self->p, 100, 1);
	EXPECT_EQ(-1, recv(self->p.ulp, (void *)8, 100, MSG_DONTWAIT));
	EXPECT_EQ(EFAULT, errno);
	/* Whether the message is lost is not promised, but nothing else is. */
	while (recv(self->p.ulp, self->in, RECORD_MAX, MSG_DONTWAIT) > 0)
		;
	expect_alive(_metadata, &self->p);
}

TEST_F(socket, recv_fin_after_messages)
{
	int i;

	for (i = 0; i < 5; i++)
		peer_sends_ike(_metadata, &self->p, 600, i);
	ASSERT_EQ(0, shutdown(self->p.raw, SHUT_WR));
	ASSERT_NE(0, POLLRDHUP & poll_wait(self->p.ulp, POLLRDHUP));
	for (i = 0; i < 5; i++)
		expect_message(_metadata, self->p.ulp, 600, i);
	EXPECT_EQ(0, recv(self->p.ulp, self->in, RECORD_MAX, 0));
	EXPECT_EQ(0, recv(self->p.ulp, self->in, RECORD_MAX, MSG_DONTWAIT));
	EXPECT_EQ(0, recv(self->p.ulp, self->in, 1, MSG_PEEK));

	/* The other direction is still open. */
	ASSERT_EQ(50, send(self->p.ulp, self->out, make_ike(self->out, 50, 1),
			   0));
	peer_reads_ike(_metadata, self->p.raw, 50, 1);
}

TEST_F(socket, recv_reset)
{
	peer_resets(_metadata, &self->p);
	EXPECT_EQ(-1, recv(self->p.ulp, self->in, RECORD_MAX, 0));
	EXPECT_EQ(ECONNRESET, errno);
	EXPECT_EQ(0, recv(self->p.ulp, self->in, RECORD_MAX, 0));
}

/* What came before the reset is not lost, nor is the error. */
TEST_F(socket, recv_reset_after_messages)
{
	int i, messages = 0, resets = 0;
	ssize_t len;

	for (i = 0; i < 5; i++)
		peer_sends_ike(_metadata, &self->p, 600, i);
	peer_resets(_metadata, &self->p);
	for (i = 0; i < 7; i++) {
		len = recv(self->p.ulp, self->in, RECORD_MAX, MSG_DONTWAIT);
		if (len == 600)
			messages += is_ike(self->in, 600, messages);
		resets += len < 0 && errno == ECONNRESET;
	}
	EXPECT_EQ(5, messages);
	EXPECT_EQ(1, resets);
	EXPECT_EQ(0, len);
}

#define RESETS_BEHIND	20

/* Asks for a message again and again, and does not wait for one. */
static long call_recv_at_once(struct call *c)
{
	long len;

	do {
		len = recv(c->fd, c->buf, c->len, MSG_DONTWAIT);
	} while (len < 0 && errno == EAGAIN);
	return len;
}

static void expect_message_then_reset(struct __test_metadata *_metadata,
				      struct call *c, __u32 seed)
{
	ASSERT_EQ(0, call_join(c));
	ASSERT_EQ(600, c->ret)
		TH_LOG("%ld, errno %d, round %u", c->ret, c->err, seed);
	ASSERT_TRUE(is_ike(c->buf, 600, seed));
	EXPECT_EQ(-1, recv(c->fd, c->buf, c->len, 0));
	EXPECT_EQ(ECONNRESET, errno);
}

/*
 * A message and a reset come while somebody has the socket, and are looked at when
 * it is free. Nobody sees the reset who has not seen the message.
 */
TEST_F(socket, recv_message_before_reset)
{
	struct call c = receiver_of(-1, self->in);
	struct holder h;
	struct pair p;
	int i, err;

	for (i = 0; i < RESETS_BEHIND; i++) {
		c.fn = i % 2 ? call_poll_and_recv : call_recv_at_once;
		ASSERT_EQ(0, tcp_pair(&p, &variant->path));
		ASSERT_EQ(0, set_ulp(p.ulp, "espintcp"));
		err = holder_begin(&h, p.ulp);
		if (err == 1)
			SKIP(return, "no userfaultfd in this kernel");
		ASSERT_EQ(0, err);
		c.fd = p.ulp;
		ASSERT_EQ(0, call_start(&c));
		ASSERT_EQ(0, raw_write(&p, self->out, put_ike(self->out, 600, i)));
		ASSERT_EQ(0, reset(p.raw));
		ASSERT_EQ(0, holder_end(&h));
		expect_message_then_reset(_metadata, &c, i);
		close(p.ulp);
	}
}

/*
 * What comes before a reset is looked at in several goes, the last of which finds the
 * stream broken with its last record. Who sleeps is woken all the same.
 */
TEST_F(socket, recv_reset_behind_many_records)
{
	struct call c = receiver_of(self->p.ulp, self->in);
	__u8 *record = self->out;
	struct holder h;
	int i, err;

	for (i = 1; i < 3 * RX_BUDGET; i++, record += HEADER_LEN)
		put_header(record, HEADER_LEN);
	put_header(record, 0);
	err = holder_begin(&h, self->p.ulp);
	if (err == 1)
		SKIP(return, "no userfaultfd in this kernel");
	ASSERT_EQ(0, err);
	ASSERT_EQ(0, call_start(&c));
	ASSERT_TRUE(call_blocks(&c));
	ASSERT_EQ(0, raw_write(&self->p, self->out, 3 * RX_BUDGET * HEADER_LEN));
	ASSERT_EQ(0, reset(self->p.raw));
	self->p.raw = -1;
	ASSERT_EQ(0, holder_end(&h));
	ASSERT_EQ(0, call_join(&c));
	EXPECT_EQ(-1, c.ret);
	EXPECT_EQ(ECONNRESET, c.err);
	EXPECT_EQ(3 * RX_BUDGET - 1, counter("EspTcpInEmpty"));
	EXPECT_EQ(1, counter("EspTcpInBadLength"));
}

/* Receives when a signal says that there is something, and until it is no message. */
static long call_recv_on_sigio(struct call *c)
{
	const struct timespec limit = { .tv_sec = WAIT_MS / 2000 };
	sigset_t sigio;
	long len;

	sigemptyset(&sigio);
	sigaddset(&sigio, SIGIO);
	do {
		if (sigtimedwait(&sigio, NULL, &limit) < 0)
			return -2;
		len = recv(c->fd, c->buf, c->len, MSG_DONTWAIT);
	} while (len < 0 && errno == EAGAIN);
	return len;
}

/* Blocked in all threads, so that it waits for the one that wants it */
static int send_sigio(int fd)
{
	sigset_t sigio;

	sigemptyset(&sigio);
	sigaddset(&sigio, SIGIO);
	return pthread_sigmask(SIG_BLOCK, &sigio, NULL) ||
	       fcntl(fd, F_SETOWN, getpid()) ||
	       fcntl(fd, F_SETFL, O_ASYNC) ? -1 : 0;
}

/* Many records and the end in one go, while somebody has the socket. */
static void end_behind_records(struct __test_metadata *_metadata, struct pair *p,
			       const __u8 *out, bool resets, struct holder *h)
{
	ASSERT_EQ(0, set_int(p->raw, SOL_TCP, TCP_CORK, !resets));
	ASSERT_EQ(0, raw_write(p, out, 3 * RX_BUDGET * HEADER_LEN));
	ASSERT_EQ(0, resets ? reset(p->raw) : shutdown(p->raw, SHUT_WR));
	ASSERT_EQ(0, holder_end(h));
}

/* TCP's own signal comes before the records have been looked at. */
TEST_F(socket, sigio_at_end)
{
	struct call c = receiver_of(-1, self->in);
	struct holder h;
	struct pair p;
	int i, err;

	c.fn = call_recv_on_sigio;
	for (i = 0; i < 3 * RX_BUDGET; i++)
		put_header(self->out + i * HEADER_LEN, HEADER_LEN);
	for (i = 0; i < 20; i++) {
		ASSERT_EQ(0, tcp_pair(&p, &variant->path));
		ASSERT_EQ(0, set_ulp(p.ulp, "espintcp"));
		ASSERT_EQ(0, send_sigio(p.ulp));
		err = holder_begin(&h, p.ulp);
		if (err == 1)
			SKIP(return, "no userfaultfd in this kernel");
		ASSERT_EQ(0, err);
		c.fd = p.ulp;
		ASSERT_EQ(0, call_start(&c));
		end_behind_records(_metadata, &p, self->out, i % 2, &h);
		ASSERT_EQ(0, call_join(&c));
		ASSERT_EQ(i % 2 ? -1 : 0, c.ret)
			TH_LOG("errno %d, round %d", c.err, i);
		close(p.ulp);
		if (i % 2 == 0)
			close(p.raw);
	}
}

/* A small message must not be charged for the segment it came in. */
TEST_F(socket, recv_100_from_one_segment)
{
	struct tcp_info before, after;
	__u8 *p = self->out;
	int i;

	for (i = 0; i < 100; i++)
		p += put_ike(p, 150, i);
	ASSERT_EQ(0, tcp_info(self->p.ulp, &before));
	ASSERT_EQ(0, raw_write(&self->p, self->out, p - self->out));
	EXPECT_EQ(100, counter_wait("EspTcpInIke", 100));
	ASSERT_EQ(0, tcp_info(self->p.ulp, &after));
	EXPECT_EQ(1, after.tcpi_data_segs_in - before.tcpi_data_segs_in);
	for (i = 0; i < 100; i++)
		expect_message(_metadata, self->p.ulp, 150, i);
	EXPECT_EQ(0, counter("EspTcpInIkeFull"));
}

/* Writes @n messages in large segments, numbered. */
static void peer_sends_many(struct __test_metadata *_metadata, struct pair *p,
			    __u8 *buf, size_t len, int n)
{
	size_t have = 0;
	int i;

	for (i = 0; i < n; i++) {
		have += put_ike(buf + have, len, i);
		if (have + len + HEADER_LEN < RECORD_MAX && i + 1 < n)
			continue;
		/* raw's SO_SNDTIMEO ends this if the window has closed. */
		ASSERT_EQ(0, raw_write(p, buf, have));
		have = 0;
	}
}

static long ike_seen(void)
{
	return counter("EspTcpInIke") + counter("EspTcpInIkeFull");
}

/* What was kept is whole and in order; returns how many messages it was. */
static long read_kept(struct __test_metadata *_metadata, int fd, __u8 *buf,
		      size_t len)
{
	long n, last = -1;

	for (n = 0; recv(fd, buf, RECORD_MAX, MSG_DONTWAIT) == (ssize_t)len;
	     n++) {
		ASSERT_LT(last, (long)ike_seed(buf));
		last = ike_seed(buf);
		ASSERT_TRUE(is_ike(buf, len, last));
	}
	ASSERT_EQ(EAGAIN, errno);
	return n;
}

static void nobody_reads(struct __test_metadata *_metadata, struct pair *p,
			 __u8 *buf, size_t len, int n)
{
	long rcvbuf, kept;

	peer_sends_many(_metadata, p, buf, len, n);
	EXPECT_TRUE(wait_for(ike_seen() >= n));
	EXPECT_EQ(n, ike_seen());
	EXPECT_LT(0, counter("EspTcpInIkeFull"));

	/* ESP does not wait behind messages nobody reads. */
	peer_sends_esp(_metadata, p, 20);

	/* What TCP may have made of it meanwhile is not for these. */
	rcvbuf = get_int(p->ulp, SOL_SOCKET, SO_RCVBUF);
	if (rcvbuf > IKE_RCVBUF)
		rcvbuf = IKE_RCVBUF;
	kept = read_kept(_metadata, p->ulp, buf, len);
	EXPECT_EQ(counter("EspTcpInIke"), kept);
	EXPECT_LE((kept - 1) * (long)len, rcvbuf);
	EXPECT_GE((kept + 1) * (long)len, rcvbuf / 16);
	expect_no_message(_metadata, p->ulp);
	expect_alive(_metadata, p);
}

TEST_F(socket, nobody_reads_small)
{
	nobody_reads(_metadata, &self->p, self->out, 150, 30000);
}

TEST_F(socket, nobody_reads_large)
{
	nobody_reads(_metadata, &self->p, self->out, 60000, 200);
}

/* A buffer of the daemon's own choice stays as it is: the first ones are kept. */
TEST_F(socket, rcvbuf_bounds_queue)
{
	struct path path = variant->path;
	long kept, full, i;
	struct pair p;

	path.ulp_rcvbuf = 20000;
	ASSERT_EQ(0, tcp_pair(&p, &path));
	ASSERT_EQ(0, set_ulp(p.ulp, "espintcp"));
	peer_sends_many(_metadata, &p, self->out, 500, 1000);
	EXPECT_TRUE(wait_for(ike_seen() >= 1000));
	kept = counter("EspTcpInIke");
	full = counter("EspTcpInIkeFull");
	EXPECT_EQ(1000, kept + full);
	EXPECT_LE((kept - 1) * 500, 40000);
	EXPECT_GE((kept + 1) * 500, 40000 / 4);
	for (i = 0; i < kept; i++)
		expect_message(_metadata, p.ulp, 500, i);
	expect_no_message(_metadata, p.ulp);
	/* Room again. */
	peer_sends_many(_metadata, &p, self->out, 500, kept);
	EXPECT_TRUE(wait_for(ike_seen() >= 1000 + kept));
	EXPECT_EQ(full, counter("EspTcpInIkeFull"));
}

/* Two daemons' threads in recv(): each message goes to one of them. */
static long call_recv_many(struct call *c)
{
	long n = 0, len;

	while ((len = recv(c->fd, c->buf, c->len, 0)) > 0)
		n += len == 777;
	return len ?: n;
}

TEST_F(socket, recv_from_threads)
{
	struct call c[4];
	long n = 0;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(c); i++) {
		c[i] = (struct call){
			.fn = call_recv_many, .fd = self->p.ulp,
			.buf = self->in + i * 1000, .len = 1000,
		};
		ASSERT_EQ(0, call_start(&c[i]));
	}
	for (i = 0; i < 1000; i++) {
		ASSERT_EQ(0, raw_write(&self->p, self->out,
				       put_ike(self->out, 777, i)));
	}
	ASSERT_EQ(0, shutdown(self->p.raw, SHUT_WR));
	for (i = 0; i < ARRAY_SIZE(c); i++) {
		ASSERT_EQ(0, call_join(&c[i]));
		EXPECT_LE(0, c[i].ret);
		n += c[i].ret;
	}
	EXPECT_EQ(1000, n + counter("EspTcpInIkeFull"));
	EXPECT_EQ(counter("EspTcpInIke"), n);
}

/* TCP wakes its reader for so many octets; here there is none to wake. */
TEST_F(socket, rcvlowat_is_no_obstacle)
{
	ASSERT_EQ(0, set_int(self->p.ulp, SOL_SOCKET, SO_RCVLOWAT, 100000));
	expect_alive(_metadata, &self->p);
	peer_sends_esp(_metadata, &self->p, 3);
	peer_sends_ike(_metadata, &self->p, 60, 1);
	EXPECT_EQ(POLLIN, poll_now(self->p.ulp, POLLIN));
	EXPECT_EQ(60, recv(self->p.ulp, self->in, RECORD_MAX, 0));
}

TEST_F(socket, rcvtimeo_spares_half_record)
{
	size_t len = put_ike(self->out, 400, 1);
	int i;

	ASSERT_EQ(0, set_timeout(self->p.ulp, SO_RCVTIMEO, 50));
	ASSERT_EQ(0, raw_write(&self->p, self->out, len / 2));
	for (i = 0; i < 10; i++) {
		EXPECT_EQ(-1, recv(self->p.ulp, self->in, RECORD_MAX, 0));
		EXPECT_EQ(EAGAIN, errno);
	}
	ASSERT_EQ(0, raw_write(&self->p, self->out + len / 2, len - len / 2));
	expect_message(_metadata, self->p.ulp, 400, 1);
	EXPECT_EQ(0, counter("EspTcpInTruncated"));
}

TEST_F(socket, small_rcvbuf_large_record)
{
	ASSERT_EQ(0, set_int(self->p.ulp, SOL_SOCKET, SO_RCVBUF, 10000));
	put_filled(self->out, RECORD_MAX, 0x11);
	ASSERT_EQ(0, raw_write(&self->p, self->out, RECORD_MAX));
	EXPECT_EQ(1, counter_wait("EspTcpInEsp", 1));
	peer_sends_ike(_metadata, &self->p, MESSAGE_MAX, 1);
	expect_message(_metadata, self->p.ulp, MESSAGE_MAX, 1);
	expect_alive(_metadata, &self->p);
}

/* The same with a window that never had room for it. */
TEST_F(socket, small_window_large_record)
{
	struct path path = variant->path;
	struct pair p;

	path.ulp_rcvbuf = 1;
	ASSERT_EQ(0, tcp_pair(&p, &path));
	ASSERT_EQ(0, set_ulp(p.ulp, "espintcp"));
	put_filled(self->out, RECORD_MAX, 0x11);
	ASSERT_EQ(0, raw_write(&p, self->out, RECORD_MAX));
	EXPECT_EQ(1, counter_wait("EspTcpInEsp", 1));
	peer_sends_ike(_metadata, &p, MESSAGE_MAX, 1);
	expect_message(_metadata, p.ulp, MESSAGE_MAX, 1);
	expect_alive(_metadata, &p);
}

/* The stream has no use for urgent data: it is data like any other. */
TEST_F(socket, urgent_data)
{
	ssize_t len, k;

	len = put_ike(self->out, 30, 1);
	for (k = 1; k <= len; k++) {
		ASSERT_EQ(k, send(self->p.raw, self->out, k, MSG_OOB));
		if (k < len) {
			ASSERT_EQ(len - k, send(self->p.raw, self->out + k,
						len - k, 0));
		}
		expect_message(_metadata, self->p.ulp, 30, 1);
	}
	/* Written together, the mark is in the middle of what arrives. */
	ASSERT_EQ(0, set_int(self->p.raw, SOL_TCP, TCP_CORK, 1));
	ASSERT_EQ(10, send(self->p.raw, self->out, 10, MSG_OOB));
	ASSERT_EQ(len - 10, send(self->p.raw, self->out + 10, len - 10, 0));
	ASSERT_EQ(0, set_int(self->p.raw, SOL_TCP, TCP_CORK, 0));
	expect_message(_metadata, self->p.ulp, 30, 1);
	expect_alive(_metadata, &self->p);
}

/*
 * Sending
 */

TEST_F(socket, send_sizes)
{
	ssize_t len;

	for (len = MARKER_LEN; len <= MESSAGE_MAX; len += len < 64 ? 1 : 997) {
		make_ike(self->out, len, len);
		ASSERT_EQ(len, send(self->p.ulp, self->out, len, 0));
		peer_reads_ike(_metadata, self->p.raw, len, len);
	}
	for (len = MESSAGE_MAX - 8; len <= MESSAGE_MAX; len++) {
		make_ike(self->out, len, len);
		ASSERT_EQ(len, write(self->p.ulp, self->out, len));
		peer_reads_ike(_metadata, self->p.raw, len, len);
	}
}

TEST_F(socket, send_too_large)
{
	static const size_t lens[] = {
		MESSAGE_MAX + 1, MESSAGE_MAX + 2, MESSAGE_MAX + 3,
		2 * MESSAGE_MAX, STREAM_MAX,
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(lens); i++) {
		EXPECT_EQ(-1, send(self->p.ulp, self->out, lens[i], 0));
		EXPECT_EQ(EMSGSIZE, errno);
	}
	/* Nothing of them went out. */
	expect_alive(_metadata, &self->p);
	EXPECT_EQ(1, counter("EspTcpOutIke"));
}

TEST_F(socket, sendmsg_gathers)
{
	struct iovec iov[500];
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = ARRAY_SIZE(iov) };
	ssize_t len = 0;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(iov); i++) {
		/* Empty ones too. */
		iov[i] = (struct iovec){ self->out + len, i % 200 };
		len += i % 200;
	}
	make_ike(self->out, len, 1);
	ASSERT_EQ(len, sendmsg(self->p.ulp, &msg, 0));
	peer_reads_ike(_metadata, self->p.raw, len, 1);

	make_ike(self->out, len, 2);
	ASSERT_EQ(len, writev(self->p.ulp, iov, ARRAY_SIZE(iov)));
	peer_reads_ike(_metadata, self->p.raw, len, 2);
	expect_alive(_metadata, &self->p);
}

TEST_F(socket, sendmmsg)
{
	struct mmsghdr msgs[5] = { 0 };
	struct iovec iov[5];
	size_t i;

	for (i = 0; i < ARRAY_SIZE(msgs); i++) {
		make_ike(self->out + i * 1000, 500 + i, i);
		iov[i] = (struct iovec){ self->out + i * 1000, 500 + i };
		msgs[i].msg_hdr.msg_iov = &iov[i];
		msgs[i].msg_hdr.msg_iovlen = 1;
	}
	EXPECT_EQ(5, sendmmsg(self->p.ulp, msgs, ARRAY_SIZE(msgs), 0));
	for (i = 0; i < ARRAY_SIZE(msgs); i++)
		peer_reads_ike(_metadata, self->p.raw, 500 + i, i);
}

TEST_F(socket, send_bad_address)
{
	struct iovec iov[2] = { { self->out, 50 }, { (void *)8, 50 } };

	EXPECT_EQ(-1, writev(self->p.ulp, iov, 2));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(0, counter("EspTcpOutIke"));
	expect_alive(_metadata, &self->p);
}

static const int allowed_flags[] = {
	0, MSG_DONTWAIT, MSG_NOSIGNAL, MSG_DONTWAIT | MSG_NOSIGNAL,
};

static const int refused_flags[] = {
	MSG_OOB, MSG_DONTROUTE, MSG_MORE, MSG_EOR, MSG_CONFIRM, MSG_ZEROCOPY,
	MSG_FASTOPEN, MSG_MORE | MSG_DONTWAIT, MSG_OOB | MSG_NOSIGNAL,
};

TEST_F(socket, send_flags)
{
	size_t i;

	make_ike(self->out, 100, 1);
	for (i = 0; i < ARRAY_SIZE(refused_flags); i++) {
		EXPECT_EQ(-1, send(self->p.ulp, self->out, 100,
				   refused_flags[i])) {
			TH_LOG("for flags 0x%x", refused_flags[i]);
		}
		EXPECT_EQ(EOPNOTSUPP, errno);
	}
	for (i = 0; i < ARRAY_SIZE(allowed_flags); i++) {
		EXPECT_EQ(100, send(self->p.ulp, self->out, 100,
				    allowed_flags[i])) {
			TH_LOG("for flags 0x%x", allowed_flags[i]);
		}
		peer_reads_ike(_metadata, self->p.raw, 100, 1);
	}
	EXPECT_EQ(ARRAY_SIZE(allowed_flags), counter("EspTcpOutIke"));
}

TEST_F(socket, send_control_messages)
{
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec iov = { self->out, 100 };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
	/* With a place in a TCP socket, in IP, and in none of them. */
	static const struct { int level, type; } kinds[] = {
		{ SOL_SOCKET, SO_MARK }, { SOL_SOCKET, SO_TIMESTAMPING },
		{ SOL_IP, IP_TTL }, { SOL_IPV6, IPV6_HOPLIMIT }, { 12345, 1 },
	};
	size_t i;

	make_ike(self->out, 100, 1);
	for (i = 0; i < ARRAY_SIZE(kinds); i++) {
		cmsg->cmsg_len = CMSG_LEN(sizeof(int));
		cmsg->cmsg_level = kinds[i].level;
		cmsg->cmsg_type = kinds[i].type;
		EXPECT_EQ(-1, sendmsg(self->p.ulp, &msg, 0));
		EXPECT_EQ(EOPNOTSUPP, errno);
	}
	EXPECT_EQ(0, counter("EspTcpOutIke"));
	expect_alive(_metadata, &self->p);
}

static int file_with_message(size_t len)
{
	int fd = memfd_create("message", 0);
	__u8 *msg = malloc(len);

	make_ike(msg, len, 1);
	if (fd >= 0 && write(fd, msg, len) != (ssize_t)len)
		return -1;
	free(msg);
	return fd;
}

#define EXPECT_REFUSED(call) do {					\
	EXPECT_EQ(-1, call);						\
	EXPECT_TRUE(errno == EOPNOTSUPP || errno == EINVAL) {		\
		TH_LOG("errno %d", errno);				\
	}								\
} while (0)

/*
 * Neither writes one message a call, nor may the kernel get hold of pages
 * that others still write to.
 */
TEST_F(socket, sendfile_refused)
{
	int file = file_with_message(3000);
	off_t off = 0;

	ASSERT_LE(0, file);
	EXPECT_REFUSED(sendfile(self->p.ulp, file, &off, 3000));
	EXPECT_EQ(0, off);
	EXPECT_EQ(0, counter("EspTcpOutIke"));
	expect_alive(_metadata, &self->p);
}

TEST_F(socket, splice_to_refused)
{
	int fds[2];

	ASSERT_EQ(0, pipe(fds));
	make_ike(self->out, 3000, 1);
	ASSERT_EQ(3000, write(fds[1], self->out, 3000));
	EXPECT_REFUSED(splice(fds[0], NULL, self->p.ulp, NULL, 3000, 0));
	EXPECT_EQ(0, counter("EspTcpOutIke"));
	expect_alive(_metadata, &self->p);
}

TEST_F(socket, splice_from_refused)
{
	int fds[2];

	ASSERT_EQ(0, pipe(fds));
	peer_sends_ike(_metadata, &self->p, 3000, 1);
	EXPECT_REFUSED(splice(self->p.ulp, NULL, fds[1], NULL, 3000,
			      SPLICE_F_NONBLOCK));
	/* Not even after data that is no message. */
	peer_sends_esp(_metadata, &self->p, 1);
	EXPECT_REFUSED(splice(self->p.ulp, NULL, fds[1], NULL, 3000,
			      SPLICE_F_NONBLOCK));
	expect_message(_metadata, self->p.ulp, 3000, 1);
	EXPECT_EQ(0, poll_now(fds[0], POLLIN));
}

/* A way into the receive queue past the ULP. */
TEST_F(socket, zerocopy_receive_refused)
{
	struct tcp_zerocopy_receive zc = { 0 };
	socklen_t len = sizeof(zc);
	void *map;

	map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, self->p.ulp, 0);
	if (map != MAP_FAILED) {
		zc.address = (unsigned long)map;
		zc.length = 4096;
	}
	zc.copybuf_address = (unsigned long)self->in;
	zc.copybuf_len = 4096;
	/* Half a record, which is not the daemon's yet. */
	ASSERT_EQ(0, raw_write(&self->p, self->out,
			       put_ike(self->out, 600, 1) - 100));
	ASSERT_EQ(0, settle(&self->p));
	if (!getsockopt(self->p.ulp, SOL_TCP, TCP_ZEROCOPY_RECEIVE, &zc,
			&len)) {
		EXPECT_EQ(0, zc.length);
		EXPECT_GE(0, zc.copybuf_len);
	}
	ASSERT_EQ(0, raw_write(&self->p, self->out + 502, 100));
	expect_message(_metadata, self->p.ulp, 600, 1);
}

TEST_F(socket, send_eagain_then_pollout)
{
	long sleeps;
	int n;

	sleeps = sleeps_of(gettid());
	n = send_until_full(_metadata, self->p.ulp, 1400);
	EXPECT_EQ(sleeps, sleeps_of(gettid()));
	EXPECT_LT(0, n);
	peer_reads_all(_metadata, self->p.raw, 1400, n);
	EXPECT_EQ(POLLOUT, poll_wait(self->p.ulp, POLLOUT));
	EXPECT_EQ(n, counter("EspTcpOutIke"));
	expect_alive(_metadata, &self->p);
}

/* What poll() promised, send() keeps, whatever the message's length. */
TEST_F(socket, pollout_means_room)
{
	static const ssize_t lens[] = { MESSAGE_MAX, 4, 1400, 20000 };
	int n = 0, i;
	ssize_t len;

	ASSERT_EQ(0, set_int(self->p.ulp, SOL_SOCKET, SO_SNDBUF, 1));
	while (poll_now(self->p.ulp, POLLOUT) & POLLOUT) {
		len = lens[n % ARRAY_SIZE(lens)];
		make_ike(self->out, len, n);
		ASSERT_EQ(len, send(self->p.ulp, self->out, len, MSG_DONTWAIT));
		ASSERT_GT(1000, ++n);
	}
	EXPECT_LT(0, n);
	for (i = 0; i < n; i++)
		peer_reads_ike(_metadata, self->p.raw,
			       lens[i % ARRAY_SIZE(lens)], i);
	EXPECT_EQ(POLLOUT, poll_wait(self->p.ulp, POLLOUT));
	expect_alive(_metadata, &self->p);
}

/*
 * Small messages take more memory than they have octets, and are bounded by their
 * number, whatever SO_SNDBUF says. The large ones before them fill what TCP takes.
 */
TEST_F(socket, send_small_bounded)
{
	const int large = 200;
	int n, i;

	ASSERT_EQ(0, set_int(self->p.ulp, SOL_SOCKET, SO_SNDBUFFORCE, 32 << 20));
	ASSERT_EQ(large, send_numbered(self->p.ulp, self->out, 16000, large,
				       MSG_DONTWAIT));
	n = send_numbered(self->p.ulp, self->out, 8, 20000, MSG_DONTWAIT);
	EXPECT_EQ(EAGAIN, errno);
	EXPECT_LT(IKE_FRAMES / 2, n);
	EXPECT_GE(IKE_FRAMES, n);

	peer_reads_all(_metadata, self->p.raw, 16000, large);
	for (i = 0; i < n; i++)
		peer_reads_ike(_metadata, self->p.raw, 8, i);
	EXPECT_EQ(POLLOUT, poll_wait(self->p.ulp, POLLOUT));
	expect_alive(_metadata, &self->p);
}

/* A router says that @fd's segment at @seq did not find the peer's host. */
static int host_unreachable(int fd, __u32 seq)
{
	struct sockaddr_in ours, peer;
	struct {
		struct icmphdr icmp;
		struct iphdr ip;
		__be16 sport;
		__be16 dport;
		__be32 seq;
	} m = {
		.icmp = { .type = ICMP_DEST_UNREACH, .code = ICMP_HOST_UNREACH },
		.ip = { .version = 4, .ihl = 5, .protocol = IPPROTO_TCP,
			.tot_len = htons(40) },
		.seq = htonl(seq),
	};
	socklen_t len = sizeof(ours);
	int raw, err;

	if (getsockname(fd, (struct sockaddr *)&ours, &len) ||
	    getpeername(fd, (struct sockaddr *)&peer, &len))
		return -1;
	m.ip.saddr = ours.sin_addr.s_addr;
	m.ip.daddr = peer.sin_addr.s_addr;
	m.sport = ours.sin_port;
	m.dport = peer.sin_port;
	m.icmp.checksum = inet_sum(&m, sizeof(m));

	raw = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
	ours.sin_port = 0;
	err = raw < 0 || sendto(raw, &m, sizeof(m), 0, (struct sockaddr *)&ours,
				sizeof(ours)) != sizeof(m);
	close(raw);
	return err ? -1 : 0;
}

/*
 * A full connection whose daemon, which asked for ICMP errors, has one to read.
 * Returns how many messages are on their way, and how many the peer has.
 */
static int pair_with_error(struct __test_metadata *_metadata, struct pair *p,
			   int *have)
{
	const struct path path = { .family = AF_INET };
	struct tcp_info before, after;
	__u32 seq;
	int n;

	ASSERT_EQ(0, new_netns());
	ASSERT_EQ(0, tcp_pair(p, &path));
	ASSERT_EQ(0, set_int(p->ulp, IPPROTO_IP, IP_RECVERR, 1));
	ASSERT_EQ(0, set_ulp(p->ulp, "espintcp"));
	seq = write_seq(p->ulp);
	ASSERT_EQ(0, tcp_info(p->ulp, &before));

	n = send_until_full(_metadata, p->ulp, 1400);
	ASSERT_EQ(0, tcp_info(p->ulp, &after));
	/* An ACK may be on its way: the next octet stays in TCP's window. */
	seq += after.tcpi_bytes_sent - before.tcpi_bytes_sent;
	seq -= after.tcpi_bytes_retrans - before.tcpi_bytes_retrans;
	ASSERT_EQ(0, host_unreachable(p->ulp, seq));
	ASSERT_NE(0, POLLERR & poll_wait(p->ulp, 0));
	*have = (after.tcpi_bytes_acked - before.tcpi_bytes_acked) /
		(1400 + HEADER_LEN);
	return n;
}

/* The error is for the daemon, and the connection goes on. */
TEST(icmp_error)
{
	struct pair p;
	int have, n = pair_with_error(_metadata, &p, &have);
	__u8 c;

	/* With the peer's window open again, more would be sent. */
	peer_reads_all(_metadata, p.raw, 1400, have);
	EXPECT_EQ(-1, recv(p.ulp, &c, 1, MSG_DONTWAIT));
	EXPECT_EQ(EHOSTUNREACH, errno);
	for (; have < n; have++)
		peer_reads_ike(_metadata, p.raw, 1400, have);
	EXPECT_EQ(0, counter("EspTcpOutClosed"));
	expect_alive(_metadata, &p);
}

/* What was accepted is delivered before the error is read, which stays. */
TEST(icmp_error_then_shutdown)
{
	struct pair p;
	int have, n = pair_with_error(_metadata, &p, &have);
	__u8 c;

	ASSERT_EQ(0, shutdown(p.ulp, SHUT_WR));
	peer_reads_all(_metadata, p.raw, 1400, n);
	EXPECT_EQ(0, raw_read(p.raw, &c, 1));
	EXPECT_EQ(-1, recv(p.ulp, &c, 1, MSG_DONTWAIT));
	EXPECT_EQ(EHOSTUNREACH, errno);
	EXPECT_EQ(0, counter("EspTcpOutClosed"));
}

/* What was accepted is delivered, whether or not the daemon looks at errors. */
TEST(icmp_error_then_close)
{
	struct pair p;
	int have, n = pair_with_error(_metadata, &p, &have);
	__u8 c;

	ASSERT_EQ(0, close(p.ulp));
	peer_reads_all(_metadata, p.raw, 1400, n);
	EXPECT_EQ(0, raw_read(p.raw, &c, 1));
	EXPECT_EQ(0, counter("EspTcpOutClosed"));
}

static long call_send(struct call *c)
{
	return send_numbered(c->fd, c->buf, c->len, c->count, MSG_NOSIGNAL);
}

/* Far more than there is room for, in a thread that waits for it. */
static struct call sender_of(int fd, void *buf)
{
	return (struct call){
		.fn = call_send, .fd = fd, .buf = buf, .len = 20000,
		.count = 2000,
	};
}

TEST_F(socket, send_waits_for_room)
{
	struct call c = sender_of(self->p.ulp, self->out);

	ASSERT_EQ(0, call_start(&c));
	ASSERT_TRUE(call_blocks(&c));
	peer_reads_all(_metadata, self->p.raw, c.len, c.count);
	ASSERT_EQ(0, call_join(&c));
	EXPECT_EQ(c.count, c.ret);
	expect_alive(_metadata, &self->p);
}

/* The message that timed out is not on the wire, not even in part. */
TEST_F(socket, send_timeout)
{
	int n;

	ASSERT_EQ(0, set_timeout(self->p.ulp, SO_SNDTIMEO, 50));
	n = send_numbered(self->p.ulp, self->out, 20000, 2000, 0);
	EXPECT_EQ(EAGAIN, errno);
	EXPECT_LT(0, n);
	EXPECT_GT(2000, n);
	peer_reads_all(_metadata, self->p.raw, 20000, n);
	EXPECT_EQ(n, counter("EspTcpOutIke"));
	expect_alive(_metadata, &self->p);
}

/* Sends the signal again if it came just when the thread was not waiting. */
static bool interrupts(struct call *c)
{
	if (!call_done(c))
		pthread_kill(c->thread, SIGUSR1);
	return call_done(c);
}

TEST_F(socket, send_interrupted)
{
	struct call c = sender_of(self->p.ulp, self->out);

	ASSERT_EQ(0, catch_signal(SIGUSR1));
	ASSERT_EQ(0, call_start(&c));
	ASSERT_TRUE(call_blocks(&c));
	ASSERT_TRUE(wait_for(interrupts(&c)));
	ASSERT_EQ(0, call_join(&c));
	EXPECT_EQ(EINTR, c.err);
	EXPECT_LT(0, c.ret);
	EXPECT_GT(c.count, c.ret);
	peer_reads_all(_metadata, self->p.raw, c.len, c.ret);
	expect_alive(_metadata, &self->p);
}

TEST_F(socket, send_waits_for_reset)
{
	struct call c = sender_of(self->p.ulp, self->out);

	ASSERT_EQ(0, call_start(&c));
	ASSERT_TRUE(call_blocks(&c));
	ASSERT_EQ(0, reset(self->p.raw));
	self->p.raw = -1;
	ASSERT_EQ(0, call_join(&c));
	EXPECT_EQ(ECONNRESET, c.err);
	EXPECT_GT(c.count, c.ret);
}

TEST_F(socket, send_waits_for_shutdown)
{
	struct call c = sender_of(self->p.ulp, self->out);

	ASSERT_EQ(0, call_start(&c));
	ASSERT_TRUE(call_blocks(&c));
	ASSERT_EQ(0, shutdown(self->p.ulp, SHUT_WR));
	ASSERT_EQ(0, call_join(&c));
	EXPECT_EQ(EPIPE, c.err);
	EXPECT_GT(c.count, c.ret);
	peer_reads_all(_metadata, self->p.raw, c.len, c.ret);
	EXPECT_EQ(0, raw_read(self->p.raw, self->in, 1));
}

/* Each sends messages of its own length, all of them with its own seed. */
static long call_send_many(struct call *c)
{
	int i;

	for (i = 0; i < 200; i++)
		if (send(c->fd, c->buf, c->len, 0) != (ssize_t)c->len)
			return -1;
	return i;
}

TEST_F(socket, send_from_threads)
{
	static const size_t lens[] = { 9, 1300, 5000, 17000 };
	struct call c[ARRAY_SIZE(lens)];
	size_t i, k, len, seen[ARRAY_SIZE(lens)] = { 0 };

	ASSERT_EQ(0, set_int(self->p.ulp, SOL_SOCKET, SO_SNDBUF, 30000));
	for (i = 0; i < ARRAY_SIZE(c); i++) {
		c[i] = (struct call){
			.fn = call_send_many, .fd = self->p.ulp,
			.buf = self->out + i * 20000, .len = lens[i],
		};
		make_ike(c[i].buf, lens[i], i);
		ASSERT_EQ(0, call_start(&c[i]));
	}
	for (i = 0; i < 200 * ARRAY_SIZE(c); i++) {
		len = raw_read_record(self->p.raw, self->in);
		for (k = 0; k < ARRAY_SIZE(c) && lens[k] != len; k++)
			;
		ASSERT_GT(ARRAY_SIZE(c), k);
		ASSERT_TRUE(is_ike(self->in, len, k));
		seen[k]++;
	}
	for (i = 0; i < ARRAY_SIZE(c); i++) {
		ASSERT_EQ(0, call_join(&c[i]));
		EXPECT_EQ(200, c[i].ret);
		EXPECT_EQ(200, seen[i]);
	}
}

TEST_F(socket, send_after_shutdown)
{
	ASSERT_EQ(0, catch_signal(SIGPIPE));
	ASSERT_EQ(0, shutdown(self->p.ulp, SHUT_WR));
	EXPECT_EQ(-1, send(self->p.ulp, self->out, 100, MSG_NOSIGNAL));
	EXPECT_EQ(EPIPE, errno);
	EXPECT_EQ(0, signals);
	EXPECT_EQ(-1, send(self->p.ulp, self->out, 100, 0));
	EXPECT_EQ(EPIPE, errno);
	EXPECT_EQ(1, signals);
	EXPECT_EQ(-1, write(self->p.ulp, self->out, 100));
	EXPECT_EQ(EPIPE, errno);
	EXPECT_EQ(2, signals);

	/* The other direction is still open. */
	EXPECT_EQ(0, raw_read(self->p.raw, self->in, 1));
	peer_sends_esp(_metadata, &self->p, 2);
	peer_sends_ike(_metadata, &self->p, 80, 1);
	expect_message(_metadata, self->p.ulp, 80, 1);
}

TEST_F(socket, send_after_reset)
{
	ASSERT_EQ(0, catch_signal(SIGPIPE));
	peer_resets(_metadata, &self->p);
	EXPECT_EQ(-1, send(self->p.ulp, self->out, 100, 0));
	EXPECT_EQ(ECONNRESET, errno);
	EXPECT_EQ(-1, send(self->p.ulp, self->out, 100, 0));
	EXPECT_EQ(EPIPE, errno);
	EXPECT_EQ(0, counter("EspTcpOutIke"));
}

/*
 * poll() and epoll
 */

#define POLL_ALL	(POLLIN | POLLOUT | POLLRDHUP | POLLPRI)

TEST_F(socket, poll_idle)
{
	EXPECT_EQ(POLLOUT, poll_now(self->p.ulp, POLL_ALL));
}

TEST_F(socket, poll_message)
{
	peer_sends_ike(_metadata, &self->p, 100, 1);
	peer_sends_ike(_metadata, &self->p, 100, 2);
	EXPECT_EQ(POLLIN | POLLOUT, poll_now(self->p.ulp, POLL_ALL));
	expect_message(_metadata, self->p.ulp, 100, 1);
	EXPECT_EQ(POLLIN | POLLOUT, poll_now(self->p.ulp, POLL_ALL));
	expect_message(_metadata, self->p.ulp, 100, 2);
	EXPECT_EQ(POLLOUT, poll_now(self->p.ulp, POLL_ALL));
}

TEST_F(socket, poll_esp_is_silent)
{
	__u8 keepalive[3];
	int i;

	for (i = 0; i < 50; i++) {
		peer_sends_esp(_metadata, &self->p, 1);
		EXPECT_EQ(POLLOUT, poll_now(self->p.ulp, POLL_ALL));
	}
	ASSERT_EQ(0, raw_write(&self->p, keepalive, put_keepalive(keepalive)));
	EXPECT_EQ(1, counter_wait("EspTcpInKeepalive", 1));
	EXPECT_EQ(POLLOUT, poll_now(self->p.ulp, POLL_ALL));
	/* Nor does the first half of a message say anything. */
	ASSERT_EQ(0, raw_write(&self->p, self->out,
			       put_ike(self->out, 100, 1) - 1));
	ASSERT_EQ(0, settle(&self->p));
	EXPECT_EQ(POLLOUT, poll_now(self->p.ulp, POLL_ALL));
}

/* Not even a look into the socket and back to sleep. */
static void esp_wakes_nobody(struct __test_metadata *_metadata, struct pair *p,
			     struct call *c)
{
	long sleeps;

	ASSERT_EQ(0, call_start(c));
	ASSERT_TRUE(call_blocks(c));
	/* What is written now finds the thread where it stays. */
	peer_sends_esp(_metadata, p, 1);
	ASSERT_TRUE(wait_for(call_asleep(c)));
	sleeps = sleeps_of(c->tid);
	ASSERT_LT(0, sleeps);
	peer_sends_esp(_metadata, p, 200);
	EXPECT_TRUE(call_asleep(c));
	EXPECT_EQ(sleeps, sleeps_of(c->tid));
	peer_sends_ike(_metadata, p, 90, 1);
	ASSERT_EQ(0, call_join(c));
}

TEST_F(socket, esp_does_not_wake_poll)
{
	struct call c = { .fn = call_poll, .fd = self->p.ulp };

	esp_wakes_nobody(_metadata, &self->p, &c);
	EXPECT_EQ(POLLIN, c.ret);
}

TEST_F(socket, esp_does_not_wake_recv)
{
	struct call c = receiver_of(self->p.ulp, self->in);

	esp_wakes_nobody(_metadata, &self->p, &c);
	EXPECT_EQ(90, c.ret);
}

TEST_F(socket, poll_fin)
{
	ASSERT_EQ(0, shutdown(self->p.raw, SHUT_WR));
	EXPECT_EQ(POLLIN | POLLRDHUP,
		  poll_wait(self->p.ulp, POLLIN | POLLRDHUP));
	EXPECT_EQ(POLLIN | POLLRDHUP | POLLOUT,
		  poll_now(self->p.ulp, POLL_ALL));
	ASSERT_EQ(0, shutdown(self->p.ulp, SHUT_WR));
	EXPECT_NE(0, POLLHUP & poll_wait(self->p.ulp, 0));
}

TEST_F(socket, poll_shutdown_read)
{
	ASSERT_EQ(0, shutdown(self->p.ulp, SHUT_RD));
	EXPECT_EQ(POLLIN | POLLRDHUP | POLLOUT,
		  poll_now(self->p.ulp, POLL_ALL));
	EXPECT_EQ(0, recv(self->p.ulp, self->in, 100, 0));
	/* Sending and ESP are not concerned. */
	make_ike(self->out, 100, 1);
	EXPECT_EQ(100, send(self->p.ulp, self->out, 100, 0));
	peer_reads_ike(_metadata, self->p.raw, 100, 1);
	peer_sends_esp(_metadata, &self->p, 5);
}

TEST_F(socket, poll_reset)
{
	ASSERT_EQ(0, reset(self->p.raw));
	self->p.raw = -1;
	ASSERT_NE(0, POLLHUP & poll_wait(self->p.ulp, 0));
	EXPECT_EQ(POLLIN | POLLOUT | POLLRDHUP | POLLERR | POLLHUP,
		  poll_now(self->p.ulp, POLLIN | POLLOUT | POLLRDHUP));
	EXPECT_EQ(ECONNRESET, get_int(self->p.ulp, SOL_SOCKET, SO_ERROR));
	EXPECT_EQ(0, get_int(self->p.ulp, SOL_SOCKET, SO_ERROR));
	EXPECT_EQ(0, POLLERR & poll_now(self->p.ulp, POLL_ALL));
	EXPECT_EQ(0, recv(self->p.ulp, self->in, 100, 0));
}

static int epoll_on(int fd, __u32 events)
{
	struct epoll_event ev = { .events = events };
	int ep = epoll_create1(0);

	if (ep < 0 || epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev))
		return -1;
	return ep;
}

/* The events, 0 if none come in @ms, -1 on error. */
static int epoll_next(int ep, int ms)
{
	struct epoll_event ev;
	int n = epoll_wait(ep, &ev, 1, ms);

	return n == 1 ? (int)ev.events : n;
}

TEST_F(socket, epoll_level)
{
	int ep = epoll_on(self->p.ulp, EPOLLIN | EPOLLRDHUP);

	ASSERT_LE(0, ep);
	peer_sends_esp(_metadata, &self->p, 20);
	EXPECT_EQ(0, epoll_next(ep, 0));
	peer_sends_ike(_metadata, &self->p, 100, 1);
	EXPECT_EQ(EPOLLIN, epoll_next(ep, WAIT_MS));
	EXPECT_EQ(EPOLLIN, epoll_next(ep, 0));
	expect_message(_metadata, self->p.ulp, 100, 1);
	EXPECT_EQ(0, epoll_next(ep, 0));
	ASSERT_EQ(0, shutdown(self->p.raw, SHUT_WR));
	EXPECT_EQ(EPOLLIN | EPOLLRDHUP, epoll_next(ep, WAIT_MS));
}

TEST_F(socket, epoll_edge_in)
{
	int ep = epoll_on(self->p.ulp, EPOLLIN | EPOLLRDHUP | EPOLLET);
	int i;

	ASSERT_LE(0, ep);
	EXPECT_EQ(0, epoll_next(ep, 0));
	for (i = 0; i < 5; i++) {
		/* Each is an edge, also with others in the queue. */
		peer_sends_ike(_metadata, &self->p, 100, i);
		EXPECT_EQ(EPOLLIN, epoll_next(ep, WAIT_MS));
		EXPECT_EQ(0, epoll_next(ep, 0));
		/* ESP is none. */
		peer_sends_esp(_metadata, &self->p, 3);
		EXPECT_EQ(0, epoll_next(ep, 0));
	}
	EXPECT_EQ(5, recv_all(self->p.ulp));
	EXPECT_EQ(0, epoll_next(ep, 0));
	ASSERT_EQ(0, shutdown(self->p.raw, SHUT_WR));
	EXPECT_EQ(EPOLLIN | EPOLLRDHUP, epoll_next(ep, WAIT_MS));
	ASSERT_EQ(0, reset(self->p.raw));
	self->p.raw = -1;
	EXPECT_NE(0, EPOLLHUP & epoll_next(ep, WAIT_MS));
}

TEST_F(socket, epoll_edge_out)
{
	int sent[64], ep, n, i, round;

	ASSERT_EQ(0, set_int(self->p.ulp, SOL_SOCKET, SO_SNDBUF, 100000));
	ep = epoll_on(self->p.ulp, EPOLLOUT | EPOLLET);
	ASSERT_LE(0, ep);
	EXPECT_EQ(EPOLLOUT, epoll_next(ep, 0));
	for (round = 0; round < 3; round++) {
		/*
		 * TCP may still find room for some: an edge that is taken then
		 * is followed by another only after the next EAGAIN.
		 */
		n = 0;
		do {
			ASSERT_GT(64, n);
			sent[n++] = send_until_full(_metadata, self->p.ulp,
						    1400);
		} while (epoll_next(ep, 0) & EPOLLOUT);
		for (i = 0; i < n; i++)
			peer_reads_all(_metadata, self->p.raw, 1400, sent[i]);
		EXPECT_NE(0, EPOLLOUT & epoll_next(ep, WAIT_MS));
		EXPECT_NE(0, POLLOUT & poll_now(self->p.ulp, POLLOUT));
	}
}

/*
 * What the queues hold
 */

static int inq(int fd)
{
	int n;

	return ioctl(fd, SIOCINQ, &n) ? -1 : n;
}

static int outq(int fd)
{
	int n;

	return ioctl(fd, SIOCOUTQ, &n) ? -1 : n;
}

TEST_F(socket, siocinq)
{
	EXPECT_EQ(0, inq(self->p.ulp));
	peer_sends_esp(_metadata, &self->p, 5);
	EXPECT_EQ(0, inq(self->p.ulp));
	peer_sends_ike(_metadata, &self->p, 123, 1);
	peer_sends_ike(_metadata, &self->p, 45, 2);
	EXPECT_EQ(123, inq(self->p.ulp));
	expect_message(_metadata, self->p.ulp, 123, 1);
	EXPECT_EQ(45, inq(self->p.ulp));
	expect_message(_metadata, self->p.ulp, 45, 2);
	EXPECT_EQ(0, inq(self->p.ulp));
}

static __u64 bytes_acked(int fd)
{
	struct tcp_info ti;

	return tcp_info(fd, &ti) ? 0 : ti.tcpi_bytes_acked;
}

/* The same before and after, or the peer acknowledged more in between. */
static bool outq_adds_up(int fd, __u64 written, __u64 acked_before)
{
	return outq(fd) + bytes_acked(fd) - acked_before == written;
}

TEST_F(socket, siocoutq)
{
	__u64 before = bytes_acked(self->p.ulp);
	__u64 written;
	int n;

	EXPECT_EQ(0, outq(self->p.ulp));
	n = send_until_full(_metadata, self->p.ulp, 1400);
	written = n * (1400ULL + HEADER_LEN);
	EXPECT_LT(0, outq(self->p.ulp));
	EXPECT_TRUE(wait_for(outq_adds_up(self->p.ulp, written, before))) {
		TH_LOG("%d + %llu, not %llu", outq(self->p.ulp),
		       bytes_acked(self->p.ulp) - before, written);
	}
	peer_reads_all(_metadata, self->p.raw, 1400, n);
	EXPECT_TRUE(wait_for(!outq(self->p.ulp)));
	EXPECT_EQ(written, bytes_acked(self->p.ulp) - before);
}

/*
 * The end of a connection
 */

/* A peer with a small window, and a queue full of messages for it. */
static int fill_slow_pair(struct __test_metadata *_metadata, struct pair *p,
			  const struct path *from)
{
	struct path path = *from;

	path.raw_rcvbuf = 8000;
	ASSERT_EQ(0, tcp_pair(p, &path));
	ASSERT_EQ(0, set_int(p->ulp, SOL_SOCKET, SO_SNDBUF, 200000));
	ASSERT_EQ(0, set_ulp(p->ulp, "espintcp"));
	return send_until_full(_metadata, p->ulp, 700);
}

TEST_F(socket, shutdown_delivers)
{
	struct pair p;
	int n = fill_slow_pair(_metadata, &p, &variant->path);

	ASSERT_EQ(0, shutdown(p.ulp, SHUT_WR));
	EXPECT_EQ(-1, send(p.ulp, self->out, 700, MSG_NOSIGNAL | MSG_DONTWAIT));
	EXPECT_EQ(EPIPE, errno);
	peer_reads_all(_metadata, p.raw, 700, n);
	EXPECT_EQ(0, raw_read(p.raw, self->in, 1));
	/* The peer may still send. */
	peer_sends_ike(_metadata, &p, 321, 1);
	expect_message(_metadata, p.ulp, 321, 1);
}

TEST_F(socket, close_delivers)
{
	struct pair p;
	int n = fill_slow_pair(_metadata, &p, &variant->path);

	ASSERT_EQ(0, close(p.ulp));
	peer_reads_all(_metadata, p.raw, 700, n);
	EXPECT_EQ(0, raw_read(p.raw, self->in, 1));
}

/* Whatever TCP is told to let wait. */
TEST_F(socket, close_delivers_lowat)
{
	struct pair p;
	int n = fill_slow_pair(_metadata, &p, &variant->path);

	ASSERT_EQ(0, set_int(p.ulp, SOL_TCP, TCP_NOTSENT_LOWAT, 1));
	ASSERT_EQ(0, close(p.ulp));
	peer_reads_all(_metadata, p.raw, 700, n);
	EXPECT_EQ(0, raw_read(p.raw, self->in, 1));
	EXPECT_EQ(0, counter("EspTcpOutClosed"));
}

/* The same for what is left by a process that ends. */
TEST_F(socket, exit_delivers)
{
	struct pair p;
	int n = fill_slow_pair(_metadata, &p, &variant->path);
	pid_t pid = fork();
	int status;

	ASSERT_LE(0, pid);
	if (!pid)
		_exit(0);
	close(p.ulp);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	peer_reads_all(_metadata, p.raw, 700, n);
	EXPECT_EQ(0, raw_read(p.raw, self->in, 1));
}

TEST_F(socket, close_sends_fin)
{
	ASSERT_EQ(0, close(self->p.ulp));
	EXPECT_EQ(0, raw_read(self->p.raw, self->in, 1));
	EXPECT_EQ(1, counter_wait("EspTcpConnClosed", 1));
	EXPECT_EQ(0, counter("EspTcpConnAborted"));
}

/* With half a record received there is nothing to keep the socket for. */
TEST_F(socket, close_within_record)
{
	ASSERT_EQ(0, raw_write(&self->p, self->out,
			       put_ike(self->out, 5000, 1) - 1));
	ASSERT_EQ(0, settle(&self->p));
	ASSERT_EQ(0, close(self->p.ulp));
	EXPECT_EQ(1, counter_wait("EspTcpConnClosed", 1));
	EXPECT_NE(0, POLLRDHUP & poll_wait(self->p.raw, POLLRDHUP));
}

TEST_F(socket, linger_0_resets)
{
	struct pair p;

	fill_slow_pair(_metadata, &p, &variant->path);
	ASSERT_EQ(0, reset(p.ulp));
	ASSERT_NE(0, POLLHUP & poll_wait(p.raw, 0));
	EXPECT_EQ(ECONNRESET, get_int(p.raw, SOL_SOCKET, SO_ERROR));
	EXPECT_EQ(1, counter_wait("EspTcpConnClosed", 1));
}

static long call_close(struct call *c)
{
	return close(c->fd);
}

TEST_F(socket, linger_waits)
{
	const struct linger l = { .l_onoff = 1, .l_linger = 100 };
	struct call c = { .fn = call_close };
	struct pair p;
	int n = fill_slow_pair(_metadata, &p, &variant->path);
	int i;

	ASSERT_EQ(0, setsockopt(p.ulp, SOL_SOCKET, SO_LINGER, &l, sizeof(l)));
	c.fd = p.ulp;
	ASSERT_EQ(0, call_start(&c));
	ASSERT_TRUE(call_blocks(&c));
	/* All but what fits into the window. */
	peer_reads_all(_metadata, p.raw, 700, n / 2);
	EXPECT_FALSE(call_done(&c));
	for (i = n / 2; i < n; i++)
		peer_reads_ike(_metadata, p.raw, 700, i);
	EXPECT_EQ(0, raw_read(p.raw, self->in, 1));
	ASSERT_EQ(0, call_join(&c));
	EXPECT_EQ(0, c.ret);
}

/*
 * Records arrive when the ULP is set, as it works and when it goes. What the
 * daemon gets is whole; the rest is for the kernel to complain about.
 */
static void set_and_close_in_flood(struct __test_metadata *_metadata,
				   const struct path *path, struct call *c,
				   __u8 *in)
{
	struct pair p;
	ssize_t len;
	int i;

	ASSERT_EQ(0, tcp_pair(&p, path));
	c->fd = p.raw;
	ASSERT_EQ(0, call_start(c));
	ASSERT_EQ(POLLIN, poll_wait(p.ulp, POLLIN));
	ASSERT_EQ(0, set_ulp(p.ulp, "espintcp"));
	for (i = 0; i < 20; i++) {
		len = recv_msg(p.ulp, in, RECORD_MAX);
		ASSERT_EQ(700, len);
		ASSERT_TRUE(is_ike(in, len, 1));
		make_ike(in, 900, 1);
		ASSERT_EQ(900, send(p.ulp, in, 900, 0)) {
			TH_LOG("message %d: %s", i, strerror(errno));
		}
	}
	ASSERT_EQ(0, close(p.ulp));
	/* TCP tells the peer that nobody is left to read. */
	ASSERT_EQ(0, call_join(c));
	close(p.raw);
}

TEST_F(socket, set_and_close_in_flood)
{
	struct call c = { .fn = call_flood, .buf = self->out };
	int i;

	for (i = 0; i < 20; i++) {
		c.len += put_esp(self->out + c.len, 300);
		c.len += put_ike(self->out + c.len, 700, 1);
	}
	for (i = 0; i < 30; i++)
		set_and_close_in_flood(_metadata, &variant->path, &c, self->in);
	EXPECT_EQ(31, counter("EspTcpConnOpened"));
	EXPECT_EQ(30, counter("EspTcpConnClosed"));
	EXPECT_EQ(0, counter("EspTcpInBadLength"));
	expect_alive(_metadata, &self->p);
}

/*
 * The ULP is set while others are in system calls on the socket
 */

#define RACE_MESSAGES	40
#define RACE_LEN	200

/* Both ends' messages, and those who look on as long as there are more. */
struct race {
	struct pair p;
	int written;	/* by the peer */
	int wait;	/* for so many, before the ULP is set */
	bool over;
};

static bool race_goes_on(struct call *c)
{
	const struct race *r = c->buf;

	sched_yield();
	return !__atomic_load_n(&r->over, __ATOMIC_ACQUIRE);
}

static long race_peer(struct call *c)
{
	__u8 record[HEADER_LEN + RACE_LEN];
	struct race *r = c->buf;
	int i;

	for (i = 0; i < RACE_MESSAGES; i++) {
		put_ike(record, RACE_LEN, i);
		if (raw_write(&r->p, record, sizeof(record)))
			return -1;
		__atomic_store_n(&r->written, i + 1, __ATOMIC_RELEASE);
		sched_yield();
	}
	return 0;
}

static long race_ulp(struct call *c)
{
	struct race *r = c->buf;

	while (__atomic_load_n(&r->written, __ATOMIC_ACQUIRE) < r->wait)
		sched_yield();
	return set_ulp(r->p.ulp, "espintcp");
}

/* Records: the peer gets them as they are, or each as one message. */
static long race_send(struct call *c)
{
	__u8 record[HEADER_LEN + RACE_LEN];
	struct race *r = c->buf;
	int i;

	for (i = 0; i < RACE_MESSAGES; i++) {
		put_ike(record, RACE_LEN, i);
		if (send(r->p.ulp, record, sizeof(record), 0) !=
		    sizeof(record))
			return -1;
		sched_yield();
	}
	return 0;
}

/* The first record of the stream, or the first message. Takes neither away. */
static long race_peek(struct call *c)
{
	__u8 buf[HEADER_LEN + RACE_LEN];
	struct race *r = c->buf;
	ssize_t n;

	while (race_goes_on(c)) {
		n = recv(r->p.ulp, buf, sizeof(buf), MSG_PEEK | MSG_DONTWAIT);
		if (n < 0 && errno == EAGAIN)
			continue;
		if (!(n == RACE_LEN && is_ike(buf, n, 0)) &&
		    !(n == sizeof(buf) && is_ike(buf + HEADER_LEN, RACE_LEN, 0)))
			return -1;
	}
	return 0;
}

static long race_poll(struct call *c)
{
	struct race *r = c->buf;

	while (race_goes_on(c))
		if (poll_now(r->p.ulp, POLLIN | POLLOUT) & ~(POLLIN | POLLOUT))
			return -1;
	return 0;
}

static long race_ioctl(struct call *c)
{
	struct race *r = c->buf;
	int n;

	while (race_goes_on(c))
		if (ioctl(r->p.ulp, SIOCINQ, &n) || n < 0 ||
		    ioctl(r->p.ulp, SIOCOUTQ, &n) || n < 0)
			return -1;
	return 0;
}

static long race_options(struct call *c)
{
	struct tcp_info ti;
	struct race *r = c->buf;

	while (race_goes_on(c))
		if (set_int(r->p.ulp, SOL_SOCKET, SO_RCVLOWAT, 1) ||
		    tcp_info(r->p.ulp, &ti))
			return -1;
	return 0;
}

/* The peer reads what race_send() sent, before and after the ULP was set. */
static void expect_race_sent(struct __test_metadata *_metadata, int fd,
			     __u8 *buf)
{
	bool as_message = false;
	ssize_t len;
	int i;

	for (i = 0; i < RACE_MESSAGES; i++) {
		len = raw_read_record(fd, buf);
		if (len == HEADER_LEN + RACE_LEN)
			as_message = true;
		if (as_message) {
			ASSERT_EQ(HEADER_LEN + RACE_LEN, len);
			ASSERT_TRUE(is_ike(buf + HEADER_LEN, RACE_LEN, i));
		} else {
			ASSERT_EQ(RACE_LEN, len);
			ASSERT_TRUE(is_ike(buf, RACE_LEN, i));
		}
	}
}

/* The first two set the ULP, and the first four end. */
static long (*const racers[])(struct call *c) = {
	race_ulp, race_ulp, race_peer, race_send,
	race_peek, race_poll, race_ioctl, race_options,
};

static void ulp_race(struct __test_metadata *_metadata, struct race *r,
		     __u8 *buf)
{
	struct call c[ARRAY_SIZE(racers)] = { 0 };
	pthread_barrier_t start;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(c); i++)
		c[i] = (struct call){ .fn = racers[i], .buf = r };
	ASSERT_EQ(0, calls_start(c, ARRAY_SIZE(c), &start));
	for (i = 0; i < ARRAY_SIZE(c); i++) {
		if (i == 4)
			__atomic_store_n(&r->over, true, __ATOMIC_RELEASE);
		ASSERT_EQ(0, call_join(&c[i]));
		if (i >= 2)
			EXPECT_EQ(0, c[i].ret);
	}
	EXPECT_EQ(-1, c[0].ret + c[1].ret);
	EXPECT_EQ(EEXIST, c[0].ret ? c[0].err : c[1].err);

	for (i = 0; i < RACE_MESSAGES; i++)
		expect_message(_metadata, r->p.ulp, RACE_LEN, i);
	expect_race_sent(_metadata, r->p.raw, buf);
	expect_alive(_metadata, &r->p);
}

TEST_F(socket, ulp_races_calls)
{
	const int rounds = 10;
	int i;

	for (i = 0; i < rounds; i++) {
		struct race r = { .wait = i * RACE_MESSAGES / rounds };

		ASSERT_EQ(0, tcp_pair(&r.p, &variant->path));
		ulp_race(_metadata, &r, self->in);
		close(r.p.ulp);
		close(r.p.raw);
	}
	EXPECT_EQ(rounds + 1, counter("EspTcpConnOpened"));
	EXPECT_EQ(rounds, counter_wait("EspTcpConnClosed", rounds));
	EXPECT_EQ(rounds * (RACE_MESSAGES + 1), counter("EspTcpInIke"));
	EXPECT_EQ(0, counter("EspTcpConnAborted"));
}

static long call_shutdown(struct call *c)
{
	return shutdown(c->fd, SHUT_WR);
}

/*
 * The ULP is set just when the socket is shut down or closed, with records
 * arriving all the time. Returns whether it was.
 */
static bool ulp_races_end(struct __test_metadata *_metadata,
			  const struct path *path, struct call *flood,
			  long (*end)(struct call *c), int turn)
{
	struct call c[2];
	struct call *ulp = &c[turn % 2], *other = &c[!(turn % 2)];
	struct pair p;

	ASSERT_EQ(0, tcp_pair(&p, path));
	*ulp = (struct call){
		.fn = call_set_ulp, .fd = p.ulp, .buf = "espintcp",
	};
	*other = (struct call){ .fn = end, .fd = p.ulp };
	flood->fd = p.raw;
	ASSERT_EQ(0, call_start(flood));
	ASSERT_EQ(POLLIN, poll_wait(p.ulp, POLLIN));
	ASSERT_EQ(0, calls_race(c));
	EXPECT_EQ(0, other->ret);
	if (ulp->ret)
		EXPECT_EQ(end == call_close ? EBADF : ENOTCONN, ulp->err);
	if (end != call_close)
		ASSERT_EQ(0, close(p.ulp));
	ASSERT_EQ(0, call_join(flood));
	close(p.raw);
	return !ulp->ret;
}

TEST_F(socket, ulp_races_close)
{
	struct call flood = { .fn = call_flood, .buf = self->out };
	int i, opened = 0;

	flood.len = put_esp(self->out, 300);
	flood.len += put_ike(self->out + flood.len, 700, 1);
	for (i = 0; i < 40; i++)
		opened += ulp_races_end(_metadata, &variant->path, &flood,
					i % 4 < 2 ? call_close : call_shutdown,
					i);
	EXPECT_EQ(1 + opened, counter("EspTcpConnOpened"));
	EXPECT_EQ(opened, counter_wait("EspTcpConnClosed", opened));
	EXPECT_EQ(0, counter("EspTcpInBadLength"));
	expect_alive(_metadata, &self->p);
}

/* The reset for a broken stream is due just when the socket is closed. */
TEST_F(socket, close_when_broken)
{
	struct pair p;
	int i;

	put_filled(self->out, 0, 0);
	for (i = 0; i < 100; i++) {
		ASSERT_EQ(0, tcp_pair(&p, &variant->path));
		ASSERT_EQ(0, set_ulp(p.ulp, "espintcp"));
		send_numbered(p.ulp, self->in, 3000, i, MSG_DONTWAIT);
		ASSERT_EQ(0, raw_write(&p, self->out, HEADER_LEN));
		ASSERT_EQ(0, close(p.ulp));
		close(p.raw);
	}
	EXPECT_EQ(101, counter("EspTcpConnOpened"));
	EXPECT_EQ(100, counter_wait("EspTcpConnClosed", 100));
	expect_alive(_metadata, &self->p);
}

/* It is close() that finds the stream broken, behind so many records. */
TEST_F(socket, close_finds_broken)
{
	const int records = 30000;
	struct pair p;
	__u8 octet;
	int i;

	for (i = 0; i < records; i++)
		put_header(self->out + i * HEADER_LEN, HEADER_LEN);
	put_header(self->out + i * HEADER_LEN, 0);
	for (i = 1; i <= 20; i++) {
		ASSERT_EQ(0, tcp_pair(&p, &variant->path));
		ASSERT_EQ(0, set_ulp(p.ulp, "espintcp"));
		ASSERT_EQ(0, raw_write(&p, self->out, (records + 1) * HEADER_LEN));
		ASSERT_EQ(0, settle(&p));
		ASSERT_EQ(0, close(p.ulp));
		ASSERT_EQ(i, counter("EspTcpInBadLength"));
		ASSERT_EQ(i, counter("EspTcpConnAborted"));
		EXPECT_EQ(-1, recv(p.raw, &octet, 1, 0));
		EXPECT_EQ(ECONNRESET, errno);
		close(p.raw);
	}
	EXPECT_EQ(20L * records, counter("EspTcpInEmpty"));
}

TEST_F(socket, dup_keeps_connection)
{
	int fd = dup(self->p.ulp);

	ASSERT_LE(0, fd);
	ASSERT_EQ(0, close(self->p.ulp));
	self->p.ulp = fd;
	EXPECT_EQ(0, counter("EspTcpConnClosed"));
	expect_alive(_metadata, &self->p);
}

TEST_F(socket, fork_keeps_connection)
{
	pid_t pid = fork();
	int status;

	ASSERT_LE(0, pid);
	if (!pid) {
		if (recv_msg(self->p.ulp, self->in, RECORD_MAX) != 88 ||
		    !is_ike(self->in, 88, 1))
			_exit(1);
		make_ike(self->out, 89, 2);
		if (send(self->p.ulp, self->out, 89, 0) != 89)
			_exit(2);
		_exit(0);
	}
	ASSERT_EQ(0, close(self->p.ulp));
	ASSERT_EQ(0, raw_write(&self->p, self->out, put_ike(self->out, 88, 1)));
	peer_reads_ike(_metadata, self->p.raw, 89, 2);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_EQ(0, raw_read(self->p.raw, self->in, 1));
}

static int pass_fd(int via, int fd)
{
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec iov = { "", 1 };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = &control, .msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	cmsg->cmsg_len = CMSG_LEN(sizeof(int));
	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	memcpy(CMSG_DATA(cmsg), &fd, sizeof(fd));
	return sendmsg(via, &msg, 0) == 1 ? 0 : -1;
}

static int take_fd(int via)
{
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	char octet;
	struct iovec iov = { &octet, 1 };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = &control, .msg_controllen = sizeof(control),
	};
	int fd;

	if (recvmsg(via, &msg, 0) != 1 || !CMSG_FIRSTHDR(&msg))
		return -1;
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(fd));
	return fd;
}

TEST_F(socket, passed_fd_keeps_connection)
{
	int sv[2];

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sv));
	ASSERT_EQ(0, pass_fd(sv[0], self->p.ulp));
	ASSERT_EQ(0, close(self->p.ulp));
	/* Between two processes no one has it open. */
	peer_sends_ike(_metadata, &self->p, 500, 1);
	peer_sends_esp(_metadata, &self->p, 5);
	self->p.ulp = take_fd(sv[1]);
	ASSERT_LE(0, self->p.ulp);
	expect_message(_metadata, self->p.ulp, 500, 1);
	expect_alive(_metadata, &self->p);
	EXPECT_EQ(0, counter("EspTcpConnClosed"));
}

TEST_HARNESS_MAIN
