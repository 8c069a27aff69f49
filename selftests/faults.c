// SPDX-License-Identifier: GPL-2.0
/*
 * Every allocation that the module makes, or that is made for it, fails once, and
 * so does every copy from and to a process: while a connection, its SAs and
 * traffic both ways come and go. Whoever asked is told, the stream stays whole,
 * and as soon as there is memory again all of it works, on the same connection.
 *
 * Where the kernel has no fault injection there is nothing to test; that of
 * "make check-debug" has.
 */
#include "kselftest_harness.h"

#include <linux/sockios.h>

#include "espintcp_hosts.h"

#define DEBUGFS		"/sys/kernel/debug/"
#define INNER_A		"10.0.1.1"
#define INNER_B		"10.0.2.1"
#define GCM "aead rfc4106(gcm(aes)) 0x0102030405060708090a0b0c0d0e0f1011121314 128"
#define SA_AB "src " ADDR_A " dst " ADDR_B " proto esp spi 0x1001"
#define SA_BA "src " ADDR_B " dst " ADDR_A " proto esp spi 0x1002"
#define MODE " mode tunnel reqid 1 "

#define PREFIX		"IKETCP"
/* Larger than what TCP sends in one piece over veth without offloads. */
#define IKE_LARGE	5000
#define DATAGRAM	1300

/* @ip takes commands for ip(8), and @errors has what it says of them. */
struct host {
	int ns;
	int conn;
	int inner;	/* UDP */
	FILE *ip;
	FILE *errors;
	pid_t ip_pid;
	const char *addr;
	const char *peer_addr;
};

struct bench {
	struct host a;
	struct host b;
	__u8 *buf;
};

FIXTURE(faults)
{
	struct bench bench;
};

/*
 * One that fails is chosen by what passes before it: octets of slab objects, no
 * smaller than @step; pages, and copies, one by one. There are no fewer than
 * @least of them, or the filter has missed the module.
 */
FIXTURE_VARIANT(faults)
{
	const char *what;
	int step;
	int least;
	int least_accepted;
};

FIXTURE_VARIANT_ADD(faults, slab)
{
	.what = "failslab",
	.step = 64,
	.least = 100,
	.least_accepted = 20,
};

FIXTURE_VARIANT_ADD(faults, pages)
{
	.what = "fail_page_alloc",
	.step = 1,
	.least = 1,
};

FIXTURE_VARIANT_ADD(faults, copies)
{
	.what = "fail_usercopy",
	.step = 1,
	.least = 8,
};

static int set_fault(const char *what, const char *name, const char *value)
{
	char path[128];

	snprintf(path, sizeof(path), DEBUGFS "%s/%s", what, name);
	return write_file(path, value);
}

static int set_fault_number(const char *what, const char *name, long value)
{
	char text[32];

	snprintf(text, sizeof(text), "%ld", value);
	return set_fault(what, name, text);
}

static int read_line(const char *path, char *line, int size)
{
	FILE *f = fopen(path, "r");
	char *got;

	if (!f)
		return -1;
	got = fgets(line, size, f);
	fclose(f);
	return got ? 0 : -1;
}

/* Only what happens below the module's code is to fail. */
static int set_range(const char *what)
{
	char start[32], size[32], end[32];

	if (read_line("/sys/module/espintcp/sections/.text", start, sizeof(start)) ||
	    read_line("/sys/module/espintcp/coresize", size, sizeof(size)))
		return -1;
	snprintf(end, sizeof(end), "%#lx",
		 strtoul(start, NULL, 16) + strtoul(size, NULL, 10));
	return set_fault(what, "stacktrace-depth", "32") ||
	       set_fault(what, "require-start", start) ||
	       set_fault(what, "require-end", end) ? -1 : 0;
}

static int set_faults_up(const char *what)
{
	/* Those that do not apply to this kind are not there. */
	set_fault(what, "ignore-gfp-wait", "N");
	set_fault(what, "ignore-gfp-highmem", "N");
	set_fault(what, "min-order", "0");
	return set_range(what) ||
	       set_fault(what, "times", "0") ||
	       set_fault(what, "verbose", "0") ||
	       set_fault(what, "interval", "1") ||
	       set_fault(what, "probability", "100") ? -1 : 0;
}

/* The one after @pass of them fails, in what units see above. */
static int arm(const char *what, long pass)
{
	return set_fault_number(what, "space", pass) ||
	       set_fault(what, "times", "1") ? -1 : 0;
}

/* Whether one has failed since, -1 if that is not known. */
static int disarm(const char *what)
{
	char path[128], times[32];

	snprintf(path, sizeof(path), DEBUGFS "%s/times", what);
	if (read_line(path, times, sizeof(times)) || set_fault(what, "times", "0"))
		return -1;
	return !strtol(times, NULL, 10);
}

static int inner_socket(const char *addr)
{
	struct sockaddr_in sin = {
		.sin_family = AF_INET, .sin_port = htons(9),
	};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	inet_pton(AF_INET, addr, &sin.sin_addr);
	return fd < 0 || bind(fd, (struct sockaddr *)&sin, sizeof(sin)) ? -1 : fd;
}

static int set_host_up(struct host *h, const char *setup)
{
	if (enter(h->ns) || run("set -e; ip link add inner type dummy; "
				"ip link set inner up; "
				"ethtool -K veth0 tso off gso off") ||
	    run(setup))
		return -1;
	h->inner = inner_socket(h->addr);
	return h->inner < 0 ? -1 : 0;
}

static int set_hosts_up(struct bench *b)
{
	return join_hosts(b->a.ns, b->b.ns) ||
	       set_host_up(&b->a, "set -e; ip addr add " INNER_A "/24 dev inner; "
			   "ip route add 10.0.2.0/24 via " ADDR_B "; "
			   "ip xfrm policy add dst " INNER_B " dir out tmpl " SA_AB MODE "; "
			   "ip xfrm policy add dst " INNER_A " dir in tmpl " SA_BA MODE) ||
	       set_host_up(&b->b, "set -e; ip addr add " INNER_B "/24 dev inner; "
			   "ip route add 10.0.1.0/24 via " ADDR_A "; "
			   "ip xfrm policy add dst " INNER_A " dir out tmpl " SA_BA MODE "; "
			   "ip xfrm policy add dst " INNER_B " dir in tmpl " SA_AB MODE)
	       ? -1 : 0;
}

FIXTURE_SETUP(faults)
{
	struct bench *b = &self->bench;

	if (access(DEBUGFS "failslab/require-start", F_OK))
		SKIP(return, "a kernel without fault injection");
	b->buf = calloc(1, RECORD_MAX);
	b->a.addr = INNER_A;
	b->a.peer_addr = INNER_B;
	b->b.addr = INNER_B;
	b->b.peer_addr = INNER_A;
	ASSERT_EQ(0, new_netns());
	b->a.ns = own_ns();
	ASSERT_EQ(0, new_netns());
	b->b.ns = own_ns();
	ASSERT_EQ(0, set_hosts_up(b));
	ASSERT_EQ(0, set_faults_up(variant->what));
}

FIXTURE_TEARDOWN(faults)
{
	set_fault(variant->what, "probability", "0");
	free(self->bench.buf);
}

/* The only way that a call may fail. */
static bool is_failure(void)
{
	return errno == ENOMEM || errno == ENOBUFS || errno == EFAULT;
}

/* A message goes whole, or not at all. */
static bool is_sent_or_failure(long ret, long len)
{
	return ret == len || (ret == -1 && is_failure());
}

/* Gives the ULP to an end that does not have it; false if that fails. */
static bool has_ulp(struct __test_metadata *_metadata, int fd)
{
	char name[16] = "";
	socklen_t len = sizeof(name);

	if (!getsockopt(fd, SOL_TCP, TCP_ULP, name, &len) &&
	    !strcmp(name, "espintcp"))
		return true;
	if (!set_ulp(fd, "espintcp"))
		return true;
	EXPECT_TRUE(is_failure()) {
		TH_LOG("TCP_ULP: %s", strerror(errno));
	}
	return false;
}

/* Starting a program takes longer than all else. */
static int start_ip(struct host *h)
{
	int in[2], errors[2];

	if (enter(h->ns) || pipe2(in, O_CLOEXEC) || pipe2(errors, O_CLOEXEC))
		return -1;
	h->ip_pid = fork();
	if (!h->ip_pid) {
		dup2(in[0], STDIN_FILENO);
		dup2(errors[1], STDERR_FILENO);
		execlp("ip", "ip", "-force", "-batch", "-", NULL);
		_exit(127);
	}
	close(in[0]);
	close(errors[1]);
	h->ip = fdopen(in[1], "w");
	h->errors = fdopen(errors[0], "r");
	return h->ip_pid < 0 || !h->ip || !h->errors ? -1 : 0;
}

static void stop_ip(struct host *h)
{
	fclose(h->ip);
	fclose(h->errors);
	h->ip = NULL;
	waitpid(h->ip_pid, NULL, 0);
}

/* No command of ip's: its complaint tells that it has come so far. */
#define DONE "done"

/* Both SAs, anew; false if they were not to be had. ip ends with an error. */
static bool add_sas(struct host *h, int port_a, int port_b)
{
	char line[256];

	if (!h->ip && start_ip(h))
		return false;
	fprintf(h->ip, "xfrm state flush\n"
		"xfrm state add " SA_AB MODE GCM " encap espintcp %d %d 0.0.0.0\n"
		"xfrm state add " SA_BA MODE GCM " encap espintcp %d %d 0.0.0.0\n"
		DONE "\n", port_a, port_b, port_b, port_a);
	fflush(h->ip);
	while (fgets(line, sizeof(line), h->errors))
		if (strstr(line, "\"" DONE "\""))
			return fgets(line, sizeof(line), h->errors);
	stop_ip(h);
	return false;
}

static long send_ike(const struct host *h, __u8 *buf, size_t len, __u32 seed)
{
	make_ike(buf, len, seed);
	return send(h->conn, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static long send_inner(const struct host *h, __u8 *buf, __u32 seed)
{
	struct sockaddr_in to = {
		.sin_family = AF_INET, .sin_port = htons(9),
	};

	make_ike(buf, DATAGRAM, seed);
	inet_pton(AF_INET, h->peer_addr, &to.sin_addr);
	return sendto(h->inner, buf, DATAGRAM, MSG_DONTWAIT,
		      (struct sockaddr *)&to, sizeof(to));
}

/* Reads until the message @seed comes; one that comes is as it was sent. */
static bool hears(struct __test_metadata *_metadata, int fd, __u8 *buf,
		  __u32 seed)
{
	__u32 got = 0;
	ssize_t len;

	while (got != seed) {
		len = recv_msg(fd, buf, RECORD_MAX);
		if (len < 0)
			return false;
		got = ike_seed(buf);
		EXPECT_TRUE(is_ike(buf, len, got));
	}
	return true;
}

static bool all_acked(int fd)
{
	int octets;

	return !ioctl(fd, SIOCOUTQ, &octets) && !octets;
}

/* Reads what has come; it is what was sent, or nothing was read. */
static void listen_to(struct __test_metadata *_metadata, struct bench *b, int fd)
{
	ssize_t len;

	while ((len = recv(fd, b->buf, RECORD_MAX, MSG_DONTWAIT)) > 0)
		EXPECT_TRUE(is_ike(b->buf, len, ike_seed(b->buf)));
	EXPECT_EQ(-1, len);
	EXPECT_TRUE(errno == EAGAIN || is_failure());
}

/* Whatever comes of it: all is sent in the end, or was refused. */
static void talk(struct __test_metadata *_metadata, struct bench *b,
		 const struct host *from, const struct host *to)
{
	EXPECT_TRUE(is_sent_or_failure(send_ike(from, b->buf, 100, 1), 100));
	EXPECT_TRUE(is_sent_or_failure(send_ike(from, b->buf, IKE_LARGE, 2),
				       IKE_LARGE));
	EXPECT_TRUE(is_sent_or_failure(send_inner(from, b->buf, 3), DATAGRAM)) {
		TH_LOG("inner: %s", strerror(errno));
	}
	EXPECT_TRUE(wait_for(all_acked(from->conn)));
	listen_to(_metadata, b, to->conn);
}

static void expect_service(struct __test_metadata *_metadata, struct bench *b,
			   const struct host *from, const struct host *to)
{
	ASSERT_EQ(IKE_LARGE, send_ike(from, b->buf, IKE_LARGE, 10));
	ASSERT_TRUE(hears(_metadata, to->conn, b->buf, 10));
	ASSERT_EQ(DATAGRAM, send_inner(from, b->buf, 11));
	ASSERT_TRUE(hears(_metadata, to->inner, b->buf, 11));
}

/* Whether something failed. */
static int fail_one(struct __test_metadata *_metadata, struct bench *b,
		    const char *what, long pass)
{
	struct host *a = &b->a, *z = &b->b;
	bool ulps, sas_a, sas_b;
	int pa, pb, failed;
	struct pair p;

	ASSERT_EQ(0, connect_hosts(&p, a->ns, z->ns));
	a->conn = p.raw;
	z->conn = p.ulp;
	pa = ntohs(local_port(a->conn));
	pb = ntohs(local_port(z->conn));

	ASSERT_EQ(0, arm(what, pass));
	ulps = has_ulp(_metadata, a->conn) && has_ulp(_metadata, z->conn);
	sas_a = add_sas(a, pa, pb);
	sas_b = add_sas(z, pa, pb);
	/* Without the ULP it would be no records. */
	if (ulps) {
		talk(_metadata, b, a, z);
		talk(_metadata, b, z, a);
	}
	failed = disarm(what);
	ASSERT_LE(0, failed);

	ASSERT_TRUE(has_ulp(_metadata, a->conn));
	ASSERT_TRUE(has_ulp(_metadata, z->conn));
	ASSERT_TRUE(sas_a || add_sas(a, pa, pb));
	ASSERT_TRUE(sas_b || add_sas(z, pa, pb));
	expect_service(_metadata, b, a, z);
	expect_service(_metadata, b, z, a);
	close(a->conn);
	close(z->conn);
	return failed;
}

static void expect_none_left(struct __test_metadata *_metadata, struct host *h)
{
	if (h->ip)
		stop_ip(h);
	ASSERT_EQ(0, enter(h->ns));
	EXPECT_LT(0, counter("EspTcpConnOpened"));
	EXPECT_EQ(counter("EspTcpConnOpened"), counter("EspTcpConnClosed"));
	EXPECT_EQ(0, counter("EspTcpConnAborted"));
	EXPECT_EQ(0, run("ip xfrm state flush && ip xfrm policy flush"));
}

typedef int (*fail_fn)(struct __test_metadata *_metadata, struct bench *b,
		       const char *what, long pass);

/* One after the other, until none is left to fail. Returns how many did. */
static long fail_each(struct __test_metadata *_metadata, struct bench *b,
		      const char *what, int step, fail_fn fail)
{
	long pass = 0, n = 0;

	/* What is made once, such as a protocol's table, is there then. */
	ASSERT_EQ(0, fail(_metadata, b, what, 1 << 30));
	while (fail(_metadata, b, what, pass)) {
		pass += step;
		n++;
	}
	TH_LOG("%ld failures, up to %ld", n, pass);
	return n;
}

TEST_F_TIMEOUT(faults, one_by_one, 3600)
{
	struct bench *b = &self->bench;

	EXPECT_LE(variant->least,
		  fail_each(_metadata, b, variant->what, variant->step, fail_one));
	expect_none_left(_metadata, &b->a);
	expect_none_left(_metadata, &b->b);
}

/* Records in pieces, each of them a segment; whatever comes of them. */
static void say(struct __test_metadata *_metadata, int client,
		const __u8 *records, const size_t *ends, int n)
{
	size_t from = 0;
	int i;

	for (i = 0; i < n; from = ends[i++]) {
		/* It is a reset that says no here. */
		if (send(client, records + from, ends[i] - from, MSG_NOSIGNAL) < 0)
			return;
		EXPECT_TRUE(wait_for(all_acked(client) ||
				     poll_now(client, POLLIN) & POLLHUP));
	}
}

/* Accepts a client that begins as it should, unless it is reset. */
static int serve(struct __test_metadata *_metadata, struct bench *b,
		 int listener, int *client)
{
	const size_t prefix = strlen(PREFIX);
	struct sockaddr_storage addr;
	size_t half, len;
	int conn;

	*client = tcp_socket(AF_INET, 0);
	len = loopback_addr(&addr, AF_INET, false, local_port(listener));
	if (connect(*client, (struct sockaddr *)&addr, len) ||
	    set_int(*client, SOL_TCP, TCP_NODELAY, 1))
		return -1;
	memcpy(b->buf, PREFIX, prefix);
	half = prefix + put_ike(b->buf + prefix, 100, 1);
	say(_metadata, *client, b->buf, (size_t[]){ prefix - 1, half - 50 }, 2);
	EXPECT_TRUE(wait_for(poll_now(listener, POLLIN) ||
			     poll_now(*client, POLLIN) & POLLHUP));
	conn = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (conn < 0)
		return -1;
	memmove(b->buf, b->buf + half - 50, 50);
	half = 50 + put_esp(b->buf + 50, 2000) - 1000;
	len = half + 1000;
	len += put_ike(b->buf + len, IKE_LARGE, 2);
	say(_metadata, *client, b->buf, (size_t[]){ half, len - 1000, len }, 3);
	return conn;
}

/* As fail_one(), with a peer whose stream prefix is the kernel's business. */
static int fail_one_accepted(struct __test_metadata *_metadata,
			     struct bench *b, const char *what, long pass)
{
	int listener = tcp_listen(AF_INET, false, 0);
	int client = -1, conn = -1, failed;
	bool listens;
	size_t len;

	ASSERT_EQ(0, fcntl(listener, F_SETFL, O_NONBLOCK));
	ASSERT_EQ(0, arm(what, pass));
	listens = !set_ulp(listener, "iketcp");
	EXPECT_TRUE(listens || is_failure());
	if (listens)
		conn = serve(_metadata, b, listener, &client);
	failed = disarm(what);
	ASSERT_LE(0, failed);

	if (!listens)
		ASSERT_EQ(0, set_ulp(listener, "iketcp"));
	if (conn < 0) {
		close(client);
		conn = serve(_metadata, b, listener, &client);
	}
	ASSERT_LE(0, conn);
	len = put_ike(b->buf, 300, 10);
	ASSERT_EQ(len, send(client, b->buf, len, MSG_NOSIGNAL));
	ASSERT_TRUE(hears(_metadata, conn, b->buf, 10));
	ASSERT_EQ(100, send(conn, b->buf, 100, 0));
	ASSERT_EQ(100, raw_read_record(client, b->buf));
	close(client);
	close(conn);
	close(listener);
	return failed;
}

TEST_F_TIMEOUT(faults, one_by_one_with_prefix, 3600)
{
	struct bench *b = &self->bench;

	EXPECT_LE(variant->least_accepted,
		  fail_each(_metadata, b, variant->what, variant->step,
			    fail_one_accepted));
	expect_none_left(_metadata, &b->b);
}

TEST_HARNESS_MAIN
