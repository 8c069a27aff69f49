// SPDX-License-Identifier: GPL-2.0
/*
 * Every allocation that the module makes, or that is made for it, fails once, and
 * so does every copy from and to a process: while a connection, its SAs and
 * traffic both ways come and go, while another one takes its place, and while it
 * ends. Whoever asked is told, the stream stays whole, and as soon as there is
 * memory again all of it works, on the same connection.
 *
 * FAULTS_PASSES=N  of tests with many, or long, passes: about how many, one as far
 *                  from the next as it takes (0: each one fails)
 * FAULTS_START=N   repeats a run: which is the first
 *
 * Where the kernel has no fault injection there is nothing to test; that of
 * "make check-debug" has.
 */
#include "kselftest_harness.h"

#include <linux/sockios.h>
#include <sys/param.h>

#include "espintcp_hosts.h"
#include "espintcp_random.h"

#define DEBUGFS		"/sys/kernel/debug/"
#define INNER_A		"10.0.1.1"
#define INNER_B		"10.0.2.1"
#define GCM "aead rfc4106(gcm(aes)) 0x0102030405060708090a0b0c0d0e0f1011121314 128"
#define MODE " mode tunnel reqid 1 "

#define PREFIX		"IKETCP"
/* Larger than what TCP sends in one piece over veth without offloads. */
#define IKE_LARGE	5000
#define DATAGRAM	1300
/* Many of the largest segments. */
#define STREAM		(2 * 1024 * 1024)
#define SOME_PASSES	30
/* Of those with new hosts for each */
#define LONG_PASSES	6
/* More than there are in any pass */
#define NONE_FAILS	1000000000L
/* One more failure may be a matter of chance, but not of so many passes. */
#define CLEAN_PASSES	3

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

/* Addresses of the connection, and the SAs on it. */
static const struct outer {
	int family;
	const char *b;
	const char *sa_ab;
	const char *sa_ba;
} outer_v4 = {
	AF_INET, ADDR_B,
	"src " ADDR_A " dst " ADDR_B " proto esp spi 0x1001",
	"src " ADDR_B " dst " ADDR_A " proto esp spi 0x1002",
}, outer_v6 = {
	AF_INET6, ADDR6_B,
	"src " ADDR6_A " dst " ADDR6_B " proto esp spi 0x1001",
	"src " ADDR6_B " dst " ADDR6_A " proto esp spi 0x1002",
};

/* @inner is a TCP connection through the SAs, where a test has one. */
struct bench {
	const struct outer *outer;
	struct host a;
	struct host b;
	struct pair inner;
	__u8 *buf;
};

FIXTURE(faults)
{
	struct bench bench;
};

/*
 * One that fails is chosen by what passes before it: octets of slab objects, no
 * smaller than @step; pages, and copies, one by one. There are no fewer than
 * @least of them that fail, and than @all that could where only some do, or the
 * filter has missed the module. That is about half of the fewest there ever were: the
 * slower the machine, the less of what is @large goes in one piece, and pages are
 * asked for only where the caches of slabs have run out. To close a connection may
 * take none.
 */
FIXTURE_VARIANT(faults)
{
	const char *what;
	int step;
	int least;
	int least_accepted;
	struct {
		long first;
		long v6;
		long moving;
		long closing;
		long large;
	} all;
};

FIXTURE_VARIANT_ADD(faults, slab)
{
	.what = "failslab",
	.step = 64,
	.least = 800,
	.least_accepted = 20,
	.all = {
		.first = 60000, .v6 = 50000, .moving = 40000,
		.closing = 6000, .large = 500000,
	},
};

FIXTURE_VARIANT_ADD(faults, pages)
{
	.what = "fail_page_alloc",
	.step = 1,
	.least = 8,
	.all = { .first = 2, .v6 = 2, .moving = 3, .large = 130 },
};

FIXTURE_VARIANT_ADD(faults, copies)
{
	.what = "fail_usercopy",
	.step = 1,
	.least = 8,
	.all = { .first = 8, .v6 = 8, .moving = 8 },
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

/*
 * Those of the reference tracker, which would see nothing any more, are not to fail:
 * from its address to that of the next symbol.
 */
static int spare_tracker(const char *what)
{
	char line[512], start[32] = "0x", end[32] = "0x", name[128] = "";
	FILE *f = fopen("/proc/kallsyms", "r");

	while (f && !end[2] && fgets(line, sizeof(line), f)) {
		if (!strcmp(name, "ref_tracker_alloc"))
			sscanf(line, "%29s", end + 2);
		else
			sscanf(line, "%29s %*c %127s", start + 2, name);
	}
	if (f)
		fclose(f);
	/* Most kernels have none. */
	if (!end[2])
		return 0;
	return set_fault(what, "reject-start", start) ||
	       set_fault(what, "reject-end", end) ? -1 : 0;
}

static int set_faults_up(const char *what)
{
	/* Those that do not apply to this kind are not there. */
	set_fault(what, "ignore-gfp-wait", "N");
	set_fault(what, "ignore-gfp-highmem", "N");
	set_fault(what, "min-order", "0");
	return set_range(what) || spare_tracker(what) ||
	       set_fault(what, "times", "0") ||
	       set_fault(what, "verbose", "0") ||
	       set_fault(what, "interval", "1") ||
	       set_fault(what, "probability", "100") ? -1 : 0;
}

/* The @n after @pass of them fail, in what units see above. */
static int arm_some(const char *what, long pass, int n)
{
	return set_fault_number(what, "space", pass) ||
	       set_fault_number(what, "times", n) ? -1 : 0;
}

static int arm(const char *what, long pass)
{
	return arm_some(what, pass, 1);
}

/* Whether any of the @n has failed since, -1 if that is not known. */
static int disarm_some(const char *what, int n)
{
	char path[128], times[32];

	snprintf(path, sizeof(path), DEBUGFS "%s/times", what);
	if (read_line(path, times, sizeof(times)) || set_fault(what, "times", "0"))
		return -1;
	return strtol(times, NULL, 10) < n;
}

static int disarm(const char *what)
{
	return disarm_some(what, 1);
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

/* In as few programs as can be: starting them takes longer than all else. */
static int set_host_up(struct host *h, const char *outer6, const char *peer,
		       const char *sa_out, const char *sa_in)
{
	char command[1024];

	snprintf(command, sizeof(command),
		 "ethtool -K veth0 tso off gso off && ip -batch - <<EOT\n"
		 "link add inner type dummy\n"
		 "link set inner up\n"
		 "addr add %s/24 dev inner\n"
		 "addr add %s/64 dev veth0 nodad\n"
		 "route add %s via %s rto_min 20ms\n"
		 "xfrm policy add dst %s dir out tmpl %s" MODE "\n"
		 "xfrm policy add dst %s dir in tmpl %s" MODE "\n"
		 "EOT", h->addr, outer6, h->peer_addr, peer,
		 h->peer_addr, sa_out, h->addr, sa_in);
	if (enter(h->ns) || run(command))
		return -1;
	h->inner = inner_socket(h->addr);
	return h->inner < 0 ? -1 : 0;
}

static int set_hosts_up(struct bench *b)
{
	const char *ab = b->outer->sa_ab, *ba = b->outer->sa_ba;

	return join_hosts(b->a.ns, b->b.ns) ||
	       set_host_up(&b->a, ADDR6_A, ADDR_B, ab, ba) ||
	       set_host_up(&b->b, ADDR6_B, ADDR_A, ba, ab) ? -1 : 0;
}

static int new_hosts(struct bench *b)
{
	if (new_netns())
		return -1;
	b->a.ns = own_ns();
	if (new_netns())
		return -1;
	b->b.ns = own_ns();
	return set_hosts_up(b);
}

static int set_bench_up(struct bench *b, const struct outer *outer)
{
	b->outer = outer;
	b->buf = calloc(1, RECORD_MAX);
	b->a.addr = INNER_A;
	b->a.peer_addr = INNER_B;
	b->b.addr = INNER_B;
	b->b.peer_addr = INNER_A;
	return new_hosts(b);
}

/* For each test to ask: older harnesses run those whose setup skips them. */
static bool can_fail(void)
{
	return !access(DEBUGFS "failslab/require-start", F_OK);
}

#define NO_FAULTS	"a kernel without fault injection"

FIXTURE_SETUP(faults)
{
	struct bench *b = &self->bench;

	if (!can_fail())
		return;
	ASSERT_EQ(0, set_bench_up(b, &outer_v4));
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

/* Whether it does the last of what it was told; ip ends with an error. */
static bool ip_is_done(struct host *h)
{
	char line[256];

	fprintf(h->ip, DONE "\n");
	fflush(h->ip);
	while (fgets(line, sizeof(line), h->errors))
		if (strstr(line, "\"" DONE "\""))
			return fgets(line, sizeof(line), h->errors);
	stop_ip(h);
	return false;
}

static void add_sa(const struct host *h, const char *sa, int sport, int dport)
{
	fprintf(h->ip, "xfrm state add %s" MODE "flag af-unspec " GCM
		" encap espintcp %d %d 0.0.0.0\n",
		sa, sport, dport);
}

/* Both SAs of @h for the connection, anew; false if they were not to be had. */
static bool add_sas(const struct bench *b, struct host *h)
{
	int port_a = ntohs(local_port(b->a.conn));
	int port_b = ntohs(local_port(b->b.conn));

	if (!h->ip && start_ip(h))
		return false;
	fprintf(h->ip, "xfrm state flush\n");
	add_sa(h, b->outer->sa_ab, port_a, port_b);
	add_sa(h, b->outer->sa_ba, port_b, port_a);
	return ip_is_done(h);
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

/* Whether anything failed since arm(), and both ends are to go on. */
static int end_of_failures(struct __test_metadata *_metadata, struct bench *b,
			   const char *what)
{
	int failed = disarm(what);

	ASSERT_LE(0, failed);
	ASSERT_TRUE(has_ulp(_metadata, b->a.conn));
	ASSERT_TRUE(has_ulp(_metadata, b->b.conn));
	return failed;
}

/* One connection from A to B, new. */
static void open_conn(struct __test_metadata *_metadata, struct bench *b, int lfd)
{
	struct pair p;

	ASSERT_EQ(0, connect_to(&p, lfd, b->a.ns, b->b.ns, NULL));
	b->a.conn = p.raw;
	b->b.conn = p.ulp;
}

static void open_only_conn(struct __test_metadata *_metadata, struct bench *b)
{
	int lfd = listen_host(b->b.ns, NULL, b->outer->b);

	ASSERT_LE(0, lfd);
	open_conn(_metadata, b, lfd);
	close(lfd);
}

static void close_conn(struct bench *b)
{
	close(b->a.conn);
	close(b->b.conn);
}

static void expect_service_both_ways(struct __test_metadata *_metadata,
				     struct bench *b)
{
	expect_service(_metadata, b, &b->a, &b->b);
	expect_service(_metadata, b, &b->b, &b->a);
}

/* Whether something failed. */
static int fail_one(struct __test_metadata *_metadata, struct bench *b,
		    const char *what, long pass)
{
	struct host *a = &b->a, *z = &b->b;
	bool ulps, sas_a, sas_b;
	int failed;

	open_only_conn(_metadata, b);
	ASSERT_EQ(0, arm(what, pass));
	ulps = has_ulp(_metadata, a->conn) && has_ulp(_metadata, z->conn);
	sas_a = add_sas(b, a);
	sas_b = add_sas(b, z);
	/* Without the ULP it would be no records. */
	if (ulps) {
		talk(_metadata, b, a, z);
		talk(_metadata, b, z, a);
	}
	failed = end_of_failures(_metadata, b, what);

	ASSERT_TRUE(sas_a || add_sas(b, a));
	ASSERT_TRUE(sas_b || add_sas(b, z));
	expect_service_both_ways(_metadata, b);
	close_conn(b);
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

static void expect_hosts_clean(struct __test_metadata *_metadata,
			       struct bench *b)
{
	expect_none_left(_metadata, &b->a);
	expect_none_left(_metadata, &b->b);
}

static void leave_hosts(struct bench *b)
{
	close(b->a.inner);
	close(b->b.inner);
	close(b->a.ns);
	close(b->b.ns);
}

/*
 * As fail_one(), on hosts that have never had a connection or an SA: what a
 * namespace has once, such as netfilter's hooks, is not there yet.
 */
static int fail_first(struct __test_metadata *_metadata, struct bench *b,
		      const char *what, long pass)
{
	int failed = fail_one(_metadata, b, what, pass);

	expect_hosts_clean(_metadata, b);
	leave_hosts(b);
	ASSERT_EQ(0, new_hosts(b));
	return failed;
}

/*
 * Another connection takes the place of one, as after a change of networks: A opens
 * it, closes the old one and speaks on the new one, which B follows.
 */
static int fail_moving(struct __test_metadata *_metadata, struct bench *b,
		       const char *what, long pass)
{
	int lfd = listen_host(b->b.ns, NULL, b->outer->b);
	struct host *a = &b->a, *z = &b->b;
	int failed, old_a, old_b;
	long moved;
	bool ulps;

	ASSERT_LE(0, lfd);
	open_conn(_metadata, b, lfd);
	ASSERT_TRUE(has_ulp(_metadata, a->conn) && has_ulp(_metadata, z->conn));
	ASSERT_TRUE(add_sas(b, a) && add_sas(b, z));
	expect_service_both_ways(_metadata, b);
	old_a = a->conn;
	old_b = z->conn;
	ASSERT_EQ(0, enter(z->ns));
	moved = counter("EspTcpPathMoved");

	ASSERT_EQ(0, arm(what, pass));
	open_conn(_metadata, b, lfd);
	ulps = has_ulp(_metadata, a->conn) && has_ulp(_metadata, z->conn);
	close(old_a);
	if (ulps) {
		talk(_metadata, b, a, z);
		talk(_metadata, b, z, a);
	}
	close(old_b);
	failed = end_of_failures(_metadata, b, what);
	close(lfd);

	/* Found by its peer only if there was memory to note it. */
	if (!failed) {
		ASSERT_EQ(0, enter(z->ns));
		EXPECT_LT(moved, counter("EspTcpPathMoved"));
	} else {
		ASSERT_TRUE(add_sas(b, a) && add_sas(b, z));
	}
	expect_service_both_ways(_metadata, b);
	close_conn(b);
	return failed;
}

/* Of both hosts together. */
static long counter_of_both(const struct bench *b, const char *name)
{
	long sum;

	enter(b->a.ns);
	sum = counter(name);
	enter(b->b.ns);
	return sum + counter(name);
}

typedef int (*fail_fn)(struct __test_metadata *_metadata, struct bench *b,
		       const char *what, long pass);

/* From @pass on, until none is left to fail. Returns how many did. */
static long fail_from(struct __test_metadata *_metadata, struct bench *b,
		      const char *what, long pass, long step, fail_fn fail)
{
	int clean = 0;
	long n = 0;

	for (; clean < CLEAN_PASSES; pass += step) {
		if (fail(_metadata, b, what, pass)) {
			clean = 0;
			n++;
		} else {
			clean++;
		}
	}
	TH_LOG("%ld failures, up to %ld, %ld from each other", n, pass, step);
	return n;
}

/* One after the other. Returns how many did. */
static long fail_each(struct __test_metadata *_metadata, struct bench *b,
		      const char *what, int step, fail_fn fail)
{
	/* What is made once, such as a protocol's table, is there then. */
	ASSERT_EQ(0, fail(_metadata, b, what, NONE_FAILS));
	return fail_from(_metadata, b, what, 0, step, fail);
}

/* In what units see above, the space that is left. */
static long space_left(const char *what)
{
	char path[128], space[32];

	snprintf(path, sizeof(path), DEBUGFS "%s/space", what);
	return read_line(path, space, sizeof(space)) ? -1 : strtol(space, NULL, 10);
}

/*
 * How many fail at least, from @first on. Of slab objects that is half of @all, for it
 * is not quite the same each time. Of pages, by what is at hand from before, another
 * pass may have a tenth: no more than @least are sure to be there.
 */
static long sure_to_fail(const char *what, long all, long least, long first,
			 long step)
{
	long sure = first < least ? 1 + (least - 1 - first) / step : 0;

	return strcmp(what, "failslab") ? sure : MAX(sure, all / step / 2);
}

/* How many could fail, in those units: the fewest of a few passes, which differ. */
static long could_fail(struct __test_metadata *_metadata, struct bench *b,
		       const char *what, fail_fn fail)
{
	long fewest = NONE_FAILS, n;
	int i;

	for (i = 0; i < 3; i++) {
		ASSERT_EQ(0, fail(_metadata, b, what, NONE_FAILS));
		n = NONE_FAILS - space_left(what);
		fewest = n < fewest ? n : fewest;
	}
	return fewest;
}

/*
 * Some of them, in about @passes passes; not the same ones in each run. At least
 * @least could fail, in the units of @step.
 */
static void fail_some(struct __test_metadata *_metadata, struct bench *b,
		      const char *what, long step, long least, long passes,
		      fail_fn fail)
{
	long all, first, n;

	passes = env_number("FAULTS_PASSES", passes);
	all = could_fail(_metadata, b, what, fail);
	EXPECT_LE(least, all);
	if (passes)
		step = MAX(step, all / passes);
	first = env_number("FAULTS_START", time(NULL)) % step;
	TH_LOG("%ld could fail, FAULTS_START=%ld", all, first);
	n = fail_from(_metadata, b, what, first, step, fail);
	EXPECT_LE(sure_to_fail(what, all, least, first, step), n);
}

TEST_F_TIMEOUT(faults, one_by_one, 3600)
{
	struct bench *b = &self->bench;

	if (!can_fail())
		SKIP(return, NO_FAULTS);
	EXPECT_LE(variant->least,
		  fail_each(_metadata, b, variant->what, variant->step, fail_one));
	if (!strcmp(variant->what, "failslab")) {
		EXPECT_LT(0, counter_of_both(b, "EspTcpInNoMem"));
		EXPECT_LT(0, counter_of_both(b, "EspTcpOutNoMem"));
	}
	expect_hosts_clean(_metadata, b);
}

TEST_F_TIMEOUT(faults, first_sa, 3600)
{
	struct bench *b = &self->bench;

	if (!can_fail())
		SKIP(return, NO_FAULTS);
	fail_some(_metadata, b, variant->what, variant->step,
		  variant->all.first, LONG_PASSES, fail_first);
}

/* The same over IPv6. */
TEST_F_TIMEOUT(faults, v6, 3600)
{
	struct bench *b = &self->bench;

	if (!can_fail())
		SKIP(return, NO_FAULTS);
	leave_hosts(b);
	b->outer = &outer_v6;
	ASSERT_EQ(0, new_hosts(b));
	fail_some(_metadata, b, variant->what, variant->step,
		  variant->all.v6, SOME_PASSES, fail_one);
	expect_hosts_clean(_metadata, b);
}

TEST_F_TIMEOUT(faults, moving, 3600)
{
	struct bench *b = &self->bench;

	if (!can_fail())
		SKIP(return, NO_FAULTS);
	fail_some(_metadata, b, variant->what, variant->step,
		  variant->all.moving, SOME_PASSES, fail_moving);
	expect_hosts_clean(_metadata, b);
}

/* What a socket of B's sent and what came of it. */
static long lost_on_the_way_in(void)
{
	return counter("EspTcpOutQueueFull") + counter("EspTcpOutAqmDrop") +
	       counter("EspTcpOutNoConn") + counter("EspTcpOutNoMem");
}

/* Fills the queue of B's end; returns how many messages it has accepted. */
static long fill_queue(struct __test_metadata *_metadata, struct bench *b)
{
	long lost = lost_on_the_way_in(), n = 0;
	int i;

	ASSERT_EQ(0, set_int(b->a.conn, SOL_SOCKET, SO_RCVBUF, 4096));
	ASSERT_EQ(0, set_int(b->b.conn, SOL_SOCKET, SO_SNDBUF, 4096));
	for (i = 0; i < 100; i++, n++)
		ASSERT_EQ(DATAGRAM, send_inner(&b->b, b->buf, i));
	while (send_ike(&b->b, b->buf, IKE_LARGE, n) == IKE_LARGE)
		n++;
	EXPECT_EQ(EAGAIN, errno);
	return n - (lost_on_the_way_in() - lost);
}

/* To the end of the stream, where a record may be cut off. */
static long read_whole_records(int fd, __u8 *buf)
{
	long n = 0;

	while (raw_read_record(fd, buf) >= 0)
		n++;
	return n;
}

/*
 * A connection ends while its peer does not read: A's end is plain TCP here. TCP
 * has room for some of what is left before it asks for memory: it has to do so
 * twice in vain until it takes nothing.
 */
static int fail_closing(struct __test_metadata *_metadata, struct bench *b,
			const char *what, long pass)
{
	long accepted, closed, no_conn, delivered;
	int failed;

	open_only_conn(_metadata, b);
	ASSERT_EQ(0, set_timeout(b->a.conn, SO_RCVTIMEO, WAIT_MS));
	ASSERT_TRUE(has_ulp(_metadata, b->b.conn));
	ASSERT_TRUE(add_sas(b, &b->b));
	ASSERT_EQ(0, enter(b->b.ns));
	accepted = fill_queue(_metadata, b);
	closed = counter("EspTcpOutClosed");
	no_conn = counter("EspTcpOutNoConn");

	ASSERT_EQ(0, arm_some(what, pass, 2));
	close(b->b.conn);
	failed = disarm_some(what, 2);
	ASSERT_LE(0, failed);

	EXPECT_EQ(counter("EspTcpConnOpened"), counter("EspTcpConnClosed"));
	send_inner(&b->b, b->buf, 0);
	EXPECT_EQ(no_conn + 1, counter("EspTcpOutNoConn"));
	delivered = read_whole_records(b->a.conn, b->buf);
	closed = counter("EspTcpOutClosed") - closed;
	EXPECT_EQ(accepted, delivered + closed);
	if (!failed)
		EXPECT_EQ(0, closed);
	close(b->a.conn);
	return failed;
}

TEST_F_TIMEOUT(faults, closing, 3600)
{
	struct bench *b = &self->bench;

	if (!can_fail())
		SKIP(return, NO_FAULTS);
	fail_some(_metadata, b, variant->what, variant->step,
		  variant->all.closing, SOME_PASSES, fail_closing);
	if (variant->all.closing && !getenv("FAULTS_PASSES"))
		EXPECT_LT(0, counter("EspTcpOutClosed"));
	expect_none_left(_metadata, &b->b);
}

/* A TCP connection from A to B, through the SAs. */
static int connect_inner(struct bench *b)
{
	int lfd = listen_host(b->b.ns, NULL, INNER_B);
	int err = connect_to(&b->inner, lfd, b->a.ns, b->b.ns, INNER_A);

	close(lfd);
	return err;
}

/* One direction of a stream of @STREAM octets. */
struct flow {
	int from;
	int to;
	__u8 *sent;
	__u8 *got;
	size_t out;
	size_t in;
};

/* As far as it goes; whether all of it has come. */
static bool flow_on(struct flow *f)
{
	ssize_t n;

	n = send(f->from, f->sent + f->out, STREAM - f->out,
		 MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n > 0)
		f->out += n;
	n = recv(f->to, f->got + f->in, STREAM - f->in, MSG_DONTWAIT);
	if (n > 0)
		f->in += n;
	return f->in == STREAM;
}

/* Both directions at once, whatever fails meanwhile. */
static int fail_large(struct __test_metadata *_metadata, struct bench *b,
		      const char *what, long pass)
{
	static __u8 sent[STREAM], got[2][STREAM];
	struct flow there = {
		.from = b->inner.raw, .to = b->inner.ulp,
		.sent = sent, .got = got[0],
	};
	struct flow back = {
		.from = b->inner.ulp, .to = b->inner.raw,
		.sent = sent, .got = got[1],
	};
	int failed;

	fill_pattern(sent, STREAM, pass);
	ASSERT_EQ(0, arm(what, pass));
	EXPECT_TRUE(wait_for(flow_on(&there) & flow_on(&back)));
	failed = disarm(what);
	ASSERT_LE(0, failed);

	EXPECT_EQ(STREAM, there.in);
	EXPECT_EQ(STREAM, back.in);
	EXPECT_EQ(0, memcmp(sent, there.got, STREAM));
	EXPECT_EQ(0, memcmp(sent, back.got, STREAM));
	expect_service_both_ways(_metadata, b);
	return failed;
}

static void expect_large(struct __test_metadata *_metadata, const struct host *h)
{
	ASSERT_EQ(0, enter(h->ns));
	EXPECT_LT(0, counter("EspTcpOutGso"));
	EXPECT_LT(0, counter("EspTcpInGro"));
}

static int offload(const struct host *h)
{
	return enter(h->ns) || run("ethtool -K veth0 tso on gso on") ? -1 : 0;
}

TEST_F_TIMEOUT(faults, large, 3600)
{
	struct bench *b = &self->bench;

	if (!can_fail())
		SKIP(return, NO_FAULTS);
	ASSERT_EQ(0, offload(&b->a));
	ASSERT_EQ(0, offload(&b->b));
	open_only_conn(_metadata, b);
	ASSERT_TRUE(has_ulp(_metadata, b->a.conn));
	ASSERT_TRUE(has_ulp(_metadata, b->b.conn));
	ASSERT_TRUE(add_sas(b, &b->a) && add_sas(b, &b->b));
	ASSERT_EQ(0, connect_inner(b));
	ASSERT_EQ(0, fail_large(_metadata, b, variant->what, NONE_FAILS));
	expect_large(_metadata, &b->a);
	expect_large(_metadata, &b->b);
	fail_some(_metadata, b, variant->what, variant->step,
		  variant->all.large, SOME_PASSES, fail_large);
	close_conn(b);
	close(b->inner.raw);
	close(b->inner.ulp);
	expect_hosts_clean(_metadata, b);
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

	if (!can_fail())
		SKIP(return, NO_FAULTS);
	EXPECT_LE(variant->least_accepted,
		  fail_each(_metadata, b, variant->what, variant->step,
			    fail_one_accepted));
	expect_none_left(_metadata, &b->b);
}

TEST_HARNESS_MAIN
