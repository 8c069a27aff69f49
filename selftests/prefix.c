// SPDX-License-Identifier: GPL-2.0
/*
 * The ULP "iketcp": the stream prefix (RFC 9329 section 4) in the kernel's hands,
 * of a socket that listens and of one that connects.
 *
 * The other end is a plain TCP socket, which sends the prefix right, wrong, in
 * pieces or late.
 */
#include "kselftest_harness.h"

#include <linux/capability.h>
#include <linux/espintcp.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>

#include "espintcp_holder.h"
#include "espintcp_util.h"

static const char prefix[] = "IKETCP";
#define PREFIX_LEN	(sizeof(prefix) - 1)

FIXTURE(prefix)
{
	int listener;	/* does not block */
};

FIXTURE_VARIANT(prefix)
{
	int family;
	bool mapped;
};

FIXTURE_VARIANT_ADD(prefix, v4)
{
	.family = AF_INET,
};

FIXTURE_VARIANT_ADD(prefix, v6)
{
	.family = AF_INET6,
};

FIXTURE_VARIANT_ADD(prefix, v4mapped)
{
	.family = AF_INET6,
	.mapped = true,
};

FIXTURE_SETUP(prefix)
{
	ASSERT_EQ(0, new_netns());
	self->listener = tcp_listen(variant->family, variant->mapped, 0);
	ASSERT_LE(0, self->listener);
	ASSERT_EQ(0, fcntl(self->listener, F_SETFL, O_NONBLOCK));
	ASSERT_EQ(0, set_ulp(self->listener, "iketcp"));
}

FIXTURE_TEARDOWN(prefix)
{
	close(self->listener);
}

/* A connection, on which every write is a segment. */
static int connect_port(in_port_t port, int family)
{
	int fd = tcp_socket(family, 0);
	struct sockaddr_storage addr;
	socklen_t len;

	len = loopback_addr(&addr, family, false, port);
	if (fd < 0 || connect(fd, (struct sockaddr *)&addr, len) ||
	    set_int(fd, SOL_TCP, TCP_NODELAY, 1) ||
	    set_timeout(fd, SO_RCVTIMEO, WAIT_MS))
		return -1;
	return fd;
}

static int client_of(int listener, bool mapped, int family)
{
	return connect_port(local_port(listener), mapped ? AF_INET : family);
}

#define new_client() \
	client_of(self->listener, variant->mapped, variant->family)

static int send_all(int fd, const void *buf, size_t len)
{
	return send(fd, buf, len, MSG_NOSIGNAL) == (ssize_t)len ? 0 : -1;
}

/* TCP at the other end has all that was written. */
static bool is_acked(int fd)
{
	int left = -1;

	return !ioctl(fd, TIOCOUTQ, &left) && !left;
}

static int accept_one(int listener)
{
	int fd = -1;

	if (wait_for(is_readable(listener)))
		fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (fd >= 0)
		set_timeout(fd, SO_RCVTIMEO, WAIT_MS);
	return fd;
}

static void expect_reset(struct __test_metadata *_metadata, int fd)
{
	char c;

	EXPECT_EQ(-1, recv(fd, &c, 1, 0));
	EXPECT_EQ(ECONNRESET, errno);
}

/* Nobody is there for accept(), which says so. */
static void expect_nobody(struct __test_metadata *_metadata, int listener)
{
	EXPECT_FALSE(is_readable(listener));
	EXPECT_EQ(-1, accept4(listener, NULL, NULL, SOCK_CLOEXEC));
	EXPECT_EQ(EAGAIN, errno);
}

/* Both ways, between a socket with the ULP and a plain one. */
static void expect_messages(struct __test_metadata *_metadata, int ulp, int raw)
{
	__u8 buf[200], record[200 + HEADER_LEN];
	size_t len = make_ike(buf, 100, 1);

	ASSERT_EQ(0, send_all(raw, record, put_ike(record, 150, 2)));
	ASSERT_EQ((ssize_t)len, send(ulp, buf, len, 0));
	ASSERT_EQ(150, recv(ulp, buf, sizeof(buf), 0));
	EXPECT_TRUE(is_ike(buf, 150, 2));
	ASSERT_EQ((ssize_t)len, raw_read_record(raw, buf));
	EXPECT_TRUE(is_ike(buf, len, 1));
}

static void expect_ulp(struct __test_metadata *_metadata, int fd,
		       const char *name)
{
	char ulp[16] = "";
	socklen_t len = sizeof(ulp);

	EXPECT_EQ(0, getsockopt(fd, SOL_TCP, TCP_ULP, ulp, &len));
	EXPECT_STREQ(name, ulp);
}

TEST_F(prefix, right)
{
	int fd, client = new_client();

	ASSERT_LE(0, client);
	ASSERT_EQ(0, send_all(client, prefix, PREFIX_LEN));
	fd = accept_one(self->listener);
	ASSERT_LE(0, fd);
	expect_ulp(_metadata, fd, "espintcp");
	expect_ulp(_metadata, self->listener, "iketcp");
	expect_messages(_metadata, fd, client);
	EXPECT_EQ(1, counter("EspTcpConnOpened"));
	EXPECT_EQ(0, counter("EspTcpPrefixBad"));
	expect_nobody(_metadata, self->listener);
}

TEST_F(prefix, octet_by_octet)
{
	int fd, client = new_client();
	unsigned int i;

	ASSERT_LE(0, client);
	for (i = 0; i < PREFIX_LEN; i++) {
		expect_nobody(_metadata, self->listener);
		ASSERT_EQ(0, send_all(client, prefix + i, 1));
		ASSERT_TRUE(wait_for(is_acked(client)));
	}
	fd = accept_one(self->listener);
	ASSERT_LE(0, fd);
	expect_messages(_metadata, fd, client);
}

/* What follows the prefix in the same segment is not lost. */
TEST_F(prefix, with_records)
{
	int fd, client = new_client();
	__u8 buf[256];
	size_t len;

	ASSERT_LE(0, client);
	memcpy(buf, prefix, PREFIX_LEN);
	len = PREFIX_LEN + put_ike(buf + PREFIX_LEN, 100, 3);
	ASSERT_EQ(0, send_all(client, buf, len));
	fd = accept_one(self->listener);
	ASSERT_LE(0, fd);
	ASSERT_EQ(100, recv(fd, buf, sizeof(buf), 0));
	EXPECT_TRUE(is_ike(buf, 100, 3));
	expect_messages(_metadata, fd, client);
}

TEST_F(prefix, wrong)
{
	char octets[PREFIX_LEN];
	unsigned int i;
	int client;

	for (i = 0; i < PREFIX_LEN; i++) {
		client = new_client();
		ASSERT_LE(0, client);
		memcpy(octets, prefix, PREFIX_LEN);
		octets[i] ^= 0x20;
		ASSERT_EQ(0, send_all(client, octets, PREFIX_LEN));
		expect_reset(_metadata, client);
		EXPECT_EQ(i + 1, counter("EspTcpPrefixBad"));
		close(client);
	}
	expect_nobody(_metadata, self->listener);
	EXPECT_EQ(0, counter("EspTcpConnOpened"));
}

TEST_F(prefix, cut_off)
{
	int client = new_client();

	ASSERT_LE(0, client);
	ASSERT_EQ(0, send_all(client, prefix, PREFIX_LEN - 1));
	ASSERT_EQ(0, shutdown(client, SHUT_WR));
	expect_reset(_metadata, client);
	EXPECT_EQ(1, counter("EspTcpPrefixBad"));
	expect_nobody(_metadata, self->listener);
}

TEST_F(prefix, late)
{
	int fd, in_time, slow = new_client(), silent = new_client();

	ASSERT_LE(0, slow);
	ASSERT_LE(0, silent);
	ASSERT_EQ(0, send_all(slow, prefix, PREFIX_LEN - 1));
	in_time = new_client();
	ASSERT_LE(0, in_time);
	ASSERT_EQ(0, send_all(in_time, prefix, PREFIX_LEN));

	/* Those before it do not hold it up, nor does their end affect it. */
	ASSERT_TRUE(wait_for(is_readable(self->listener)));
	EXPECT_EQ(0, counter("EspTcpPrefixLate"));
	ASSERT_EQ(0, set_int(self->listener, SOL_ESPINTCP,
			     ESPINTCP_PREFIX_TIMEOUT, 1));
	expect_reset(_metadata, slow);
	expect_reset(_metadata, silent);
	EXPECT_EQ(2, counter("EspTcpPrefixLate"));
	fd = accept_one(self->listener);
	ASSERT_LE(0, fd);
	expect_messages(_metadata, fd, in_time);
}

/* How many the listener may keep from accept() at a time, and TCP besides. */
#define BACKLOG	1
#define HELD	(BACKLOG + 1)

static void set_backlog(struct __test_metadata *_metadata, int listener)
{
	ASSERT_EQ(0, listen(listener, BACKLOG));
	ASSERT_EQ(0, set_int(listener, SOL_ESPINTCP, ESPINTCP_PREFIX_TIMEOUT,
			     3600000));
}

/* Those who say nothing make room for those who come after them, oldest first. */
TEST_F(prefix, silent_make_room)
{
	int silent[HELD], fd, client, i;

	set_backlog(_metadata, self->listener);
	for (i = 0; i < HELD; i++) {
		silent[i] = new_client();
		ASSERT_LE(0, silent[i]);
	}
	client = new_client();
	ASSERT_LE(0, client);
	ASSERT_EQ(0, send_all(client, prefix, PREFIX_LEN));
	fd = accept_one(self->listener);
	ASSERT_LE(0, fd);
	expect_messages(_metadata, fd, client);

	expect_reset(_metadata, silent[0]);
	EXPECT_EQ(1, counter("EspTcpPrefixLate"));
	ASSERT_EQ(0, send_all(silent[1], prefix, PREFIX_LEN));
	fd = accept_one(self->listener);
	ASSERT_LE(0, fd);
	expect_messages(_metadata, fd, silent[1]);
}

/* Whoever holds a listener's lock holds up nobody but that listener. */
TEST_F(prefix, lock_held)
{
	int family = variant->mapped ? AF_INET : variant->family;
	in_port_t port = local_port(self->listener);
	int fd, client, other, to_other, err;
	struct holder h;

	other = tcp_listen(variant->family, variant->mapped, 0);
	ASSERT_LE(0, other);
	ASSERT_EQ(0, set_ulp(other, "iketcp"));
	err = holder_begin(&h, self->listener);
	if (err == 1)
		SKIP(return, "no userfaultfd in this kernel");
	ASSERT_EQ(0, err);

	client = connect_port(port, family);
	ASSERT_LE(0, client);
	ASSERT_EQ(0, send_all(client, prefix, PREFIX_LEN));
	to_other = connect_port(local_port(other), family);
	ASSERT_LE(0, to_other);
	ASSERT_EQ(0, send_all(to_other, prefix, PREFIX_LEN));
	fd = accept_one(other);
	EXPECT_LE(0, fd);

	ASSERT_EQ(0, holder_end(&h));
	ASSERT_LE(0, fd);
	expect_messages(_metadata, fd, to_other);
	fd = accept_one(self->listener);
	ASSERT_LE(0, fd);
	expect_messages(_metadata, fd, client);
}

/* Which of @n clients is at the other end? Who is ready first comes first. */
static int client_at(int fd, const int *clients, int n)
{
	struct sockaddr_in6 peer;	/* its port is where IPv4's is */
	socklen_t len = sizeof(peer);
	int i;

	if (getpeername(fd, (struct sockaddr *)&peer, &len))
		return -1;
	for (i = 0; i < n; i++)
		if (local_port(clients[i]) == peer.sin6_port)
			return i;
	return -1;
}

/* Those who began right do not. */
TEST_F(prefix, ready_make_no_room)
{
	int clients[HELD + 1], i;

	set_backlog(_metadata, self->listener);
	for (i = 0; i <= HELD; i++) {
		clients[i] = new_client();
		ASSERT_LE(0, clients[i]);
		ASSERT_EQ(0, send_all(clients[i], prefix, PREFIX_LEN));
		ASSERT_TRUE(wait_for(is_acked(clients[i])));
	}
	for (i = 0; i <= HELD; i++) {
		int fd = accept_one(self->listener), n;

		ASSERT_LE(0, fd);
		n = client_at(fd, clients, HELD + 1);
		ASSERT_LE(0, n);
		expect_messages(_metadata, fd, clients[n]);
	}
	EXPECT_EQ(0, counter("EspTcpPrefixLate"));
}

/* inet_diag asks under a spinlock, which a debug kernel watches. */
TEST_F(prefix, is_shown)
{
	EXPECT_EQ(0, system("ss -Htlni | grep -q ."));
}

TEST_F(prefix, reset_before)
{
	struct linger now = { .l_onoff = 1 };
	int client = new_client();

	ASSERT_LE(0, client);
	ASSERT_EQ(0, send_all(client, prefix, 3));
	ASSERT_EQ(0, setsockopt(client, SOL_SOCKET, SO_LINGER, &now,
				sizeof(now)));
	close(client);
	EXPECT_EQ(1, counter_wait("EspTcpPrefixBad", 1));
	expect_nobody(_metadata, self->listener);
}

/* It was ready, and then was reset: accept() says so, once. */
TEST_F(prefix, reset_after)
{
	struct linger now = { .l_onoff = 1 };
	int client = new_client();

	ASSERT_LE(0, client);
	ASSERT_EQ(0, send_all(client, prefix, PREFIX_LEN));
	ASSERT_TRUE(wait_for(is_readable(self->listener)));
	ASSERT_EQ(0, setsockopt(client, SOL_SOCKET, SO_LINGER, &now,
				sizeof(now)));
	/* Over loopback the reset has arrived when close() returns. */
	close(client);
	EXPECT_EQ(-1, accept4(self->listener, NULL, NULL, SOCK_CLOEXEC));
	EXPECT_EQ(ECONNABORTED, errno);
	expect_nobody(_metadata, self->listener);
	EXPECT_EQ(0, counter("EspTcpConnOpened"));
}

/* Those who were not accepted are reset with the listener. */
TEST_F(prefix, close_listener)
{
	int ready = new_client(), waiting = new_client();

	ASSERT_LE(0, ready);
	ASSERT_LE(0, waiting);
	ASSERT_EQ(0, send_all(waiting, prefix, 1));
	ASSERT_EQ(0, send_all(ready, prefix, PREFIX_LEN));
	ASSERT_TRUE(wait_for(is_readable(self->listener)));
	close(self->listener);
	expect_reset(_metadata, ready);
	expect_reset(_metadata, waiting);
	self->listener = -1;
}

static void on_signal(int signal)
{
}

static void *accept_thread(void *arg)
{
	int listener = *(int *)arg;

	if (accept4(listener, NULL, NULL, SOCK_CLOEXEC) >= 0)
		return NULL;
	return (void *)(long)errno;
}

/* How a thread that waits in accept() is: 'S' for sleeping */
static bool sleeps(pid_t tid)
{
	char path[64], state = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
	f = fopen(path, "r");
	if (!f)
		return false;
	if (fscanf(f, "%*d (%*[^)]) %c", &state) != 1)
		state = 0;
	fclose(f);
	return state == 'S';
}

static pid_t other_task(void)
{
	pid_t tid;

	for (tid = getpid() + 1; tid < getpid() + 1000; tid++) {
		char path[64];

		snprintf(path, sizeof(path), "/proc/self/task/%d", tid);
		if (!access(path, F_OK))
			return tid;
	}
	return -1;
}

TEST_F(prefix, accept_interrupted)
{
	struct sigaction sa = { .sa_handler = on_signal };
	pthread_t thread;
	void *error;

	ASSERT_EQ(0, sigaction(SIGUSR1, &sa, NULL));
	ASSERT_EQ(0, fcntl(self->listener, F_SETFL, 0));
	ASSERT_EQ(0, pthread_create(&thread, NULL, accept_thread,
				    &self->listener));
	ASSERT_TRUE(wait_for(sleeps(other_task())));
	ASSERT_EQ(0, pthread_kill(thread, SIGUSR1));
	ASSERT_EQ(0, pthread_join(thread, &error));
	EXPECT_EQ(EINTR, (long)error);
}

TEST_F(prefix, accept_times_out)
{
	ASSERT_EQ(0, fcntl(self->listener, F_SETFL, 0));
	ASSERT_EQ(0, set_timeout(self->listener, SO_RCVTIMEO, 10));
	EXPECT_EQ(-1, accept4(self->listener, NULL, NULL, SOCK_CLOEXEC));
	EXPECT_EQ(EAGAIN, errno);
}

TEST_F(prefix, accept_blocks)
{
	int client = new_client();
	pthread_t thread;
	void *error;

	ASSERT_LE(0, client);
	ASSERT_EQ(0, fcntl(self->listener, F_SETFL, 0));
	ASSERT_EQ(0, pthread_create(&thread, NULL, accept_thread,
				    &self->listener));
	ASSERT_TRUE(wait_for(sleeps(other_task())));
	ASSERT_EQ(0, send_all(client, prefix, PREFIX_LEN));
	ASSERT_EQ(0, pthread_join(thread, &error));
	EXPECT_EQ(0, (long)error);
}

/* shutdown() of a listening socket wakes who waits in accept(). */
TEST_F(prefix, shutdown_listener)
{
	pthread_t thread;
	void *error;

	ASSERT_EQ(0, fcntl(self->listener, F_SETFL, 0));
	ASSERT_EQ(0, pthread_create(&thread, NULL, accept_thread,
				    &self->listener));
	ASSERT_TRUE(wait_for(sleeps(other_task())));
	ASSERT_EQ(0, shutdown(self->listener, SHUT_RDWR));
	ASSERT_EQ(0, pthread_join(thread, &error));
	EXPECT_EQ(EINVAL, (long)error);
}

TEST_F(prefix, options)
{
	int fd = self->listener, client = new_client();
	char c = 1;

	EXPECT_EQ(10000, get_int(fd, SOL_ESPINTCP, ESPINTCP_PREFIX_TIMEOUT));
	EXPECT_EQ(0, set_int(fd, SOL_ESPINTCP, ESPINTCP_PREFIX_TIMEOUT, 2500));
	EXPECT_EQ(2500, get_int(fd, SOL_ESPINTCP, ESPINTCP_PREFIX_TIMEOUT));

	EXPECT_EQ(-1, set_int(fd, SOL_ESPINTCP, ESPINTCP_PREFIX_TIMEOUT, 0));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, set_int(fd, SOL_ESPINTCP, ESPINTCP_PREFIX_TIMEOUT,
			      3600001));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, setsockopt(fd, SOL_ESPINTCP, ESPINTCP_PREFIX_TIMEOUT, &c,
				 sizeof(c)));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, set_int(fd, SOL_ESPINTCP, 77, 1));
	EXPECT_EQ(ENOPROTOOPT, errno);
	EXPECT_EQ(-1, get_int(fd, SOL_ESPINTCP, 77));
	EXPECT_EQ(ENOPROTOOPT, errno);
	EXPECT_EQ(2500, get_int(fd, SOL_ESPINTCP, ESPINTCP_PREFIX_TIMEOUT));

	/* Those of other levels are where they were, and others have not ours. */
	EXPECT_EQ(0, set_int(fd, SOL_TCP, TCP_MAXSEG, 1000));
	EXPECT_EQ(1000, get_int(fd, SOL_TCP, TCP_MAXSEG));
	EXPECT_EQ(-1, set_int(client, SOL_ESPINTCP, ESPINTCP_PREFIX_TIMEOUT,
			      2500));
	EXPECT_EQ(ENOPROTOOPT, errno);
}

TEST_F(prefix, listener_twice)
{
	EXPECT_EQ(-1, set_ulp(self->listener, "iketcp"));
	EXPECT_EQ(EEXIST, errno);
	EXPECT_EQ(-1, set_ulp(self->listener, "espintcp"));
	EXPECT_EQ(EEXIST, errno);
}

/* What came before the ULP was set is looked at as well. */
TEST_F(prefix, listener_had_connections)
{
	int fd, client;

	close(self->listener);
	self->listener = tcp_listen(variant->family, variant->mapped, 0);
	ASSERT_LE(0, self->listener);
	client = new_client();
	ASSERT_LE(0, client);
	ASSERT_EQ(0, send_all(client, prefix, PREFIX_LEN));
	ASSERT_TRUE(wait_for(is_acked(client)));
	ASSERT_EQ(0, set_ulp(self->listener, "iketcp"));
	fd = accept_one(self->listener);
	ASSERT_LE(0, fd);
	expect_ulp(_metadata, fd, "espintcp");
	expect_messages(_metadata, fd, client);
}

/* A listening socket that does not block, without the ULP. */
static int listen_with(int option, int family, bool mapped, in_port_t port)
{
	int fd = tcp_socket(family, 0);
	struct sockaddr_storage addr;
	socklen_t len;

	len = loopback_addr(&addr, family, mapped, port);
	if (fd < 0 || set_int(fd, SOL_SOCKET, option, 1) ||
	    bind(fd, (struct sockaddr *)&addr, len) || listen(fd, 8) ||
	    fcntl(fd, F_SETFL, O_NONBLOCK))
		return -1;
	return fd;
}

/* The listener hands out what begins right. */
static void expect_served(struct __test_metadata *_metadata, int listener,
			  int client)
{
	int fd;

	ASSERT_LE(0, client);
	ASSERT_EQ(0, send_all(client, prefix, PREFIX_LEN));
	fd = accept_one(listener);
	ASSERT_LE(0, fd);
	expect_ulp(_metadata, fd, "espintcp");
	expect_messages(_metadata, fd, client);
	close(fd);
	close(client);
}

/* And without the ULP whatever comes. */
static void expect_plain(struct __test_metadata *_metadata, int listener,
			 int client)
{
	char c = 0;
	int fd;

	ASSERT_LE(0, client);
	fd = accept_one(listener);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, send_all(client, "x", 1));
	EXPECT_EQ(1, recv(fd, &c, 1, 0));
	EXPECT_EQ('x', c);
	close(fd);
	close(client);
}

#define new_listener(option, port) \
	listen_with(option, variant->family, variant->mapped, port)

/* What else may have a listening socket does not get one that has the ULP. */
static void map_refuses(struct __test_metadata *_metadata, int lfd, int map,
			bool mapped, int family)
{
	ASSERT_LE(0, lfd);
	ASSERT_EQ(0, set_ulp(lfd, "iketcp"));
	EXPECT_EQ(-1, sockmap_add(map, lfd));
	EXPECT_TRUE(errno == EBUSY || errno == EINVAL);
	expect_served(_metadata, lfd, client_of(lfd, mapped, family));
	close(lfd);
}

TEST_F(prefix, sockmap_refuses_listener)
{
	int map = sockmap_create();

	if (map < 0)
		SKIP(return, "no sockmap in this kernel");
	map_refuses(_metadata, new_listener(SO_REUSEPORT, 0), map,
		    variant->mapped, variant->family);
}

TEST_F(prefix, array_refuses_listener)
{
	int map = socket_map_create(BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);

	if (map < 0)
		SKIP(return, "no array of sockets in this kernel");
	map_refuses(_metadata, new_listener(SO_REUSEPORT, 0), map,
		    variant->mapped, variant->family);
}

static void listener_or_map(struct __test_metadata *_metadata, int lfd,
			    int map, int turn, bool mapped, int family)
{
	struct call c[2], *ulp, *add;

	ASSERT_EQ(0, ulp_races_map(&ulp, &add, c, lfd, "iketcp", map, turn));
	ASSERT_TRUE(one_has_it(ulp, add));
	if (ulp->ret) {
		expect_plain(_metadata, lfd, client_of(lfd, mapped, family));
		ASSERT_EQ(0, sockmap_delete(map));
		ASSERT_EQ(0, set_ulp(lfd, "iketcp"));
	}
	expect_served(_metadata, lfd, client_of(lfd, mapped, family));
}

static void listeners_race(struct __test_metadata *_metadata, int map,
			   bool mapped, int family)
{
	int lfd, i;

	for (i = 0; i < 10; i++) {
		lfd = listen_with(SO_REUSEPORT, family, mapped, 0);
		ASSERT_LE(0, lfd);
		listener_or_map(_metadata, lfd, map, i, mapped, family);
		close(lfd);
	}
}

TEST_F(prefix, sockmap_races_listener)
{
	int map = sockmap_create();

	if (map < 0)
		SKIP(return, "no sockmap in this kernel");
	listeners_race(_metadata, map, variant->mapped, variant->family);
}

/* It does not take the socket's lock. */
TEST_F(prefix, array_races_listener)
{
	int map = socket_map_create(BPF_MAP_TYPE_REUSEPORT_SOCKARRAY);

	if (map < 0)
		SKIP(return, "no array of sockets in this kernel");
	listeners_race(_metadata, map, variant->mapped, variant->family);
}

/* Clients that come all the time, whether or not anyone listens. */
struct flood {
	in_port_t port;
	int family;
	bool stop;
	long connected;
	pthread_t thread;
};

#define FLOOD_LEN	100

/* What one sends: all that is due, a part, nothing, something else. */
static size_t flood_octets(__u8 *buf, int kind)
{
	memcpy(buf, prefix, PREFIX_LEN);
	switch (kind) {
	case 0:
		return PREFIX_LEN + put_ike(buf + PREFIX_LEN, FLOOD_LEN, 1);
	case 1:
		return PREFIX_LEN - 1;
	case 2:
		return 0;
	default:
		buf[0] ^= 0x20;
		return PREFIX_LEN;
	}
}

/* Who begins right stays until there is an answer, or a reset. */
static void flood_one(struct flood *f, int kind)
{
	__u8 buf[PREFIX_LEN + HEADER_LEN + FLOOD_LEN];
	int fd = tcp_socket(f->family, 0);
	struct sockaddr_storage addr;
	socklen_t len;
	size_t n;

	/* With the accept queue full, TCP would try again for minutes. */
	set_timeout(fd, SO_SNDTIMEO, 200);
	set_timeout(fd, SO_RCVTIMEO, 1000);
	len = loopback_addr(&addr, f->family, false, f->port);
	if (!connect(fd, (struct sockaddr *)&addr, len)) {
		f->connected++;
		n = flood_octets(buf, kind);
		if (!send_all(fd, buf, n) && kind == 0)
			recv(fd, buf, sizeof(buf), 0);
	}
	close(fd);
}

static void *flood_main(void *arg)
{
	struct flood *f = arg;
	int i;

	for (i = 0; !__atomic_load_n(&f->stop, __ATOMIC_RELAXED); i++) {
		flood_one(f, i % 4);
		sched_yield();
	}
	return NULL;
}

/* Those of this namespace, other than in TIME-WAIT. */
static int tcp_sockets(void)
{
	static const char * const files[] = { "tcp", "tcp6" };
	unsigned int state;
	char line[512];
	int n = 0;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(files); i++) {
		FILE *f;

		snprintf(line, sizeof(line), "/proc/thread-self/net/%s",
			 files[i]);
		f = fopen(line, "r");
		while (f && fgets(line, sizeof(line), f))
			if (sscanf(line, "%*d: %*s %*s %x", &state) == 1)
				n += state != BPF_TCP_TIME_WAIT;
		if (f)
			fclose(f);
	}
	return n;
}

/* One that began right, out of the flood. */
static void serve_one(struct __test_metadata *_metadata, int listener)
{
	__u8 buf[FLOOD_LEN + 1];
	int fd = accept_one(listener);

	ASSERT_LE(0, fd);
	expect_ulp(_metadata, fd, "espintcp");
	ASSERT_EQ(FLOOD_LEN, recv(fd, buf, sizeof(buf), 0));
	EXPECT_TRUE(is_ike(buf, FLOOD_LEN, 1));
	EXPECT_EQ(FLOOD_LEN, send(fd, buf, FLOOD_LEN, MSG_NOSIGNAL));
	close(fd);
}

/* The ULP finds connections in any state, and so does the end. */
TEST_F(prefix, set_and_close_in_syn_flood)
{
	struct flood floods[3] = { 0 };
	const int rounds = 40;
	int i, n, lfd;
	size_t k;

	/* A reset is lost that comes just as a client's close() has TCP wait for a FIN. */
	ASSERT_EQ(0, system("sysctl -qw net.ipv4.tcp_fin_timeout=1"));
	close(self->listener);
	self->listener = -1;
	lfd = new_listener(SO_REUSEADDR, 0);
	ASSERT_LE(0, lfd);
	for (k = 0; k < ARRAY_SIZE(floods); k++) {
		floods[k].port = local_port(lfd);
		floods[k].family = variant->mapped ? AF_INET : variant->family;
		ASSERT_EQ(0, pthread_create(&floods[k].thread, NULL, flood_main,
					    &floods[k]));
	}
	for (i = 0; i < rounds; i++) {
		/* Some of them come before the ULP does. */
		if (i % 3 == 0)
			ASSERT_TRUE(wait_for(is_readable(lfd)));
		ASSERT_EQ(0, set_ulp(lfd, "iketcp"));
		for (n = 0; n < i % 5; n++)
			serve_one(_metadata, lfd);
		close(lfd);
		lfd = new_listener(SO_REUSEADDR, floods[0].port);
		ASSERT_LE(0, lfd);
	}
	close(lfd);
	for (k = 0; k < ARRAY_SIZE(floods); k++) {
		__atomic_store_n(&floods[k].stop, true, __ATOMIC_RELAXED);
		ASSERT_EQ(0, pthread_join(floods[k].thread, NULL));
		EXPECT_LT(0, floods[k].connected);
	}
	EXPECT_EQ(rounds / 5 * (1 + 2 + 3 + 4), counter("EspTcpConnOpened"));
	EXPECT_EQ(counter("EspTcpConnOpened"),
		  counter_wait("EspTcpConnClosed",
			       counter("EspTcpConnOpened")));
	EXPECT_TRUE(wait_for(!tcp_sockets())) {
		system("ss -tan | grep -v TIME-WAIT");
	}
}

static struct path path_of(int family, bool mapped, bool accepted)
{
	return (struct path){
		.family = family, .mapped = mapped, .accepted = accepted,
	};
}

TEST_F(prefix, originator)
{
	struct path path = path_of(variant->family, variant->mapped, false);
	char got[PREFIX_LEN];
	struct pair p;

	ASSERT_EQ(0, tcp_pair(&p, &path));
	ASSERT_EQ(0, set_ulp(p.ulp, "iketcp"));
	ASSERT_EQ((ssize_t)PREFIX_LEN, raw_read(p.raw, got, PREFIX_LEN));
	EXPECT_EQ(0, memcmp(got, prefix, PREFIX_LEN));
	set_timeout(p.ulp, SO_RCVTIMEO, WAIT_MS);
	expect_messages(_metadata, p.ulp, p.raw);
	EXPECT_EQ(-1, set_ulp(p.ulp, "espintcp"));
	EXPECT_EQ(EEXIST, errno);
}

TEST_F(prefix, not_an_originator)
{
	struct path path = path_of(variant->family, variant->mapped, true);
	int fd = tcp_socket(variant->family, 0);
	struct pair p;

	ASSERT_LE(0, fd);
	EXPECT_EQ(-1, set_ulp(fd, "iketcp"));
	EXPECT_EQ(ENOTCONN, errno);

	ASSERT_EQ(0, tcp_pair(&p, &path));
	EXPECT_EQ(-1, set_ulp(p.ulp, "iketcp"));
	EXPECT_EQ(EOPNOTSUPP, errno);
	EXPECT_EQ(0, bytes_received(p.raw));
}

static int drop_net_admin(void)
{
	struct __user_cap_header_struct head = {
		.version = _LINUX_CAPABILITY_VERSION_3,
	};
	struct __user_cap_data_struct caps[_LINUX_CAPABILITY_U32S_3];

	if (syscall(SYS_capget, &head, caps))
		return -1;
	caps[CAP_TO_INDEX(CAP_NET_ADMIN)].effective &=
		~CAP_TO_MASK(CAP_NET_ADMIN);
	return syscall(SYS_capset, &head, caps);
}

TEST_F(prefix, needs_net_admin)
{
	struct path path = path_of(variant->family, variant->mapped, false);
	int lfd = tcp_listen(variant->family, variant->mapped, 0);
	struct pair p;

	ASSERT_LE(0, lfd);
	ASSERT_EQ(0, tcp_pair(&p, &path));
	ASSERT_EQ(0, drop_net_admin());
	EXPECT_EQ(-1, set_ulp(lfd, "iketcp"));
	EXPECT_EQ(EPERM, errno);
	EXPECT_EQ(-1, set_ulp(p.ulp, "iketcp"));
	EXPECT_EQ(EPERM, errno);
	EXPECT_EQ(0, bytes_received(p.raw));
}

TEST_F(prefix, both_ends)
{
	int fd, client = new_client();
	__u8 buf[200];

	ASSERT_LE(0, client);
	ASSERT_EQ(0, set_ulp(client, "iketcp"));
	fd = accept_one(self->listener);
	ASSERT_LE(0, fd);
	ASSERT_EQ(100, send(client, buf, make_ike(buf, 100, 5), 0));
	ASSERT_EQ(100, recv(fd, buf, sizeof(buf), 0));
	EXPECT_TRUE(is_ike(buf, 100, 5));
	EXPECT_EQ(2, counter("EspTcpConnOpened"));
}

TEST_HARNESS_MAIN
