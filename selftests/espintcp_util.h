/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the C tests of espintcp share: a network namespace and a TCP
 * connection of their own, the record format, and the counters.
 *
 * One end of the connection ("ulp") gets the ULP, the other ("raw") stays a
 * plain TCP socket, so that a test decides on every octet and every segment
 * that the ULP sees, and sees every octet that it sends.
 */
#ifndef ESPINTCP_UTIL_H
#define ESPINTCP_UTIL_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/tcp.h>
#include <linux/types.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef SOL_TCP
#define SOL_TCP			6
#endif

#ifndef MSG_ZEROCOPY
#define MSG_ZEROCOPY		0x4000000
#endif

/* Not a measure of anything, only the point where a test gives up. */
#ifndef WAIT_MS
#define WAIT_MS			20000
#endif

/*
 * An emulated machine on a busy host is slow. It must not be the harness that
 * ends a test, which could then not say what it was waiting for.
 */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	300

#define HEADER_LEN		2
#define MARKER_LEN		4
#define RECORD_MAX		65535
#define MESSAGE_MAX		(RECORD_MAX - HEADER_LEN)

/* In the order of /proc/net/espintcp_stat. */
static const char * const counter_names[] = {
	"EspTcpInIke", "EspTcpInEsp", "EspTcpInKeepalive", "EspTcpInEmpty",
	"EspTcpInShort", "EspTcpInBadLength", "EspTcpInTruncated",
	"EspTcpInIkeFull", "EspTcpInNoMem", "EspTcpInNoDev", "EspTcpInNoRoute",
	"EspTcpInBadAuth", "EspTcpInUnknownSpi", "EspTcpInGro",
	"EspTcpOutIke", "EspTcpOutEsp", "EspTcpOutGso", "EspTcpOutQueueFull",
	"EspTcpOutAqmMark", "EspTcpOutAqmDrop",
	"EspTcpOutNoConn", "EspTcpOutClosed", "EspTcpOutTooBig",
	"EspTcpOutLoop", "EspTcpOutNoMem", "EspTcpOutCrypto",
	"EspTcpOutRenumbered",
	"EspTcpConnOpened", "EspTcpConnClosed", "EspTcpConnAborted",
	"EspTcpPathMoved", "EspTcpPrefixBad", "EspTcpPrefixLate",
};

#define NR_COUNTERS	ARRAY_SIZE(counter_names)

struct counters {
	long value[NR_COUNTERS];
};

struct pair {
	int ulp;
	int raw;
	__u64 written;	/* by raw since the connection began */
};

/* Where a connection runs, and which of its ends gets the ULP. */
struct path {
	int family;		/* of the ULP's socket */
	bool mapped;		/* AF_INET6 over IPv4 */
	bool accepted;		/* the ULP's socket comes from accept() */
	int raw_rcvbuf;		/* 0: leave the default */
	int ulp_rcvbuf;
	int (*prepare)(int fd);	/* NULL, or called before either end connects */
};

static inline __s64 now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

static inline void poll_pause(void)
{
	const struct timespec ts = { .tv_nsec = 1000000 };

	nanosleep(&ts, NULL);
}

/* Evaluates @cond until it is true or the test has waited far too long. */
#define wait_for(cond) ({						\
	__s64 __end = now_ms() + WAIT_MS;				\
	bool __ok;							\
									\
	while (!(__ok = (cond)) && now_ms() < __end)			\
		poll_pause();						\
	__ok;								\
})

/* -1 if there is no such counter. */
static inline long read_stat(const char *file, const char *name)
{
	char path[64], key[64];
	long value, found = -1;
	FILE *f;

	/* Not /proc/net: that is the namespace of the main thread. */
	snprintf(path, sizeof(path), "/proc/thread-self/net/%s", file);
	f = fopen(path, "r");
	if (!f)
		return -1;
	while (found < 0 && fscanf(f, "%63s %ld", key, &value) == 2)
		if (!strcmp(key, name))
			found = value;
	fclose(f);
	return found;
}

static inline long counter(const char *name)
{
	return read_stat("espintcp_stat", name);
}

static inline long xfrm_counter(const char *name)
{
	return read_stat("xfrm_stat", name);
}

/* Waits until the counter has reached @value; returns what it is then. */
static inline long counter_wait(const char *name, long value)
{
	wait_for(counter(name) >= value);
	return counter(name);
}

static inline void counters_read(struct counters *c)
{
	size_t i;

	for (i = 0; i < NR_COUNTERS; i++)
		c->value[i] = counter(counter_names[i]);
}

/* The place of the counter @name in @c. */
static inline long *counter_of(struct counters *c, const char *name)
{
	size_t i;

	for (i = 0; i < NR_COUNTERS; i++)
		if (!strcmp(counter_names[i], name))
			return &c->value[i];
	fprintf(stderr, "no counter is called %s\n", name);
	abort();
}

static inline int new_netns(void)
{
	struct ifreq ifr = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int fd, err;

	if (unshare(CLONE_NEWNET))
		return -1;
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	if (fd < 0)
		return -1;
	err = ioctl(fd, SIOCSIFFLAGS, &ifr);
	close(fd);
	return err;
}

/* To a file of the kernel's. */
static inline int write_file(const char *path, const char *value)
{
	ssize_t n;
	int fd;

	fd = open(path, O_WRONLY);
	if (fd < 0)
		return -1;
	n = write(fd, value, strlen(value));
	close(fd);
	return n < 0 ? -1 : 0;
}

/* Of this namespace, in net.espintcp. */
static inline int set_sysctl(const char *name, const char *value)
{
	char path[128];

	snprintf(path, sizeof(path), "/proc/sys/net/espintcp/%s", name);
	return write_file(path, value);
}

static inline int set_ulp(int fd, const char *name)
{
	return setsockopt(fd, SOL_TCP, TCP_ULP, name, strlen(name));
}

static inline socklen_t loopback_addr(struct sockaddr_storage *ss, int family,
				      bool mapped, in_port_t port)
{
	struct sockaddr_in6 *a6 = (struct sockaddr_in6 *)ss;
	struct sockaddr_in *a4 = (struct sockaddr_in *)ss;

	memset(ss, 0, sizeof(*ss));
	ss->ss_family = family;
	if (family == AF_INET) {
		a4->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		a4->sin_port = port;
		return sizeof(*a4);
	}
	a6->sin6_port = port;
	inet_pton(AF_INET6, mapped ? "::ffff:127.0.0.1" : "::1",
		  &a6->sin6_addr);
	return sizeof(*a6);
}

static inline in_port_t local_port(int fd)
{
	struct sockaddr_in6 addr;	/* both families have the port there */
	socklen_t len = sizeof(addr);

	if (getsockname(fd, (struct sockaddr *)&addr, &len))
		return 0;
	return addr.sin6_port;
}

static inline int set_int(int fd, int level, int name, int value)
{
	return setsockopt(fd, level, name, &value, sizeof(value));
}

static inline int get_int(int fd, int level, int name)
{
	socklen_t len = sizeof(int);
	int value = -1;

	if (getsockopt(fd, level, name, &value, &len))
		return -1;
	return value;
}

static inline int set_timeout(int fd, int name, int ms)
{
	struct timeval tv = {
		.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000,
	};

	return setsockopt(fd, SOL_SOCKET, name, &tv, sizeof(tv));
}

static inline int tcp_socket(int family, int rcvbuf)
{
	int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd >= 0 && rcvbuf)
		set_int(fd, SOL_SOCKET, SO_RCVBUF, rcvbuf);
	return fd;
}

static inline int tcp_listen(int family, bool mapped, int rcvbuf)
{
	int fd = tcp_socket(family, rcvbuf);
	struct sockaddr_storage addr;
	socklen_t len;

	if (fd < 0)
		return -1;
	len = loopback_addr(&addr, family, mapped, 0);
	if (bind(fd, (struct sockaddr *)&addr, len) || listen(fd, 8)) {
		close(fd);
		return -1;
	}
	return fd;
}

/* A TCP connection over loopback; neither end has a ULP yet. */
static inline int tcp_pair(struct pair *p, const struct path *path)
{
	int raw_family = path->mapped ? AF_INET : path->family;
	struct sockaddr_storage addr;
	int lfd, cfd, afd = -1;
	socklen_t len;

	if (path->accepted) {
		lfd = tcp_listen(path->family, path->mapped, path->ulp_rcvbuf);
		cfd = tcp_socket(raw_family, path->raw_rcvbuf);
		len = loopback_addr(&addr, raw_family, false, local_port(lfd));
	} else {
		lfd = tcp_listen(raw_family, false, path->raw_rcvbuf);
		cfd = tcp_socket(path->family, path->ulp_rcvbuf);
		len = loopback_addr(&addr, path->family, path->mapped,
				    local_port(lfd));
	}
	if (lfd >= 0 && cfd >= 0 &&
	    (!path->prepare || (!path->prepare(lfd) && !path->prepare(cfd))) &&
	    !connect(cfd, (struct sockaddr *)&addr, len))
		afd = accept4(lfd, NULL, NULL, SOCK_CLOEXEC);
	close(lfd);
	if (afd < 0) {
		close(cfd);
		return -1;
	}
	p->ulp = path->accepted ? afd : cfd;
	p->raw = path->accepted ? cfd : afd;
	p->written = 0;

	/* A test decides itself what is a segment, and never hangs. */
	return set_int(p->raw, SOL_TCP, TCP_NODELAY, 1) ||
	       set_timeout(p->raw, SO_RCVTIMEO, WAIT_MS) ||
	       set_timeout(p->raw, SO_SNDTIMEO, WAIT_MS) ? -1 : 0;
}

/* Neither this nor raw_read() is for the end with the ULP. */
static inline int raw_write(struct pair *p, const void *buf, size_t len)
{
	ssize_t n = send(p->raw, buf, len, MSG_NOSIGNAL);

	if (n > 0)
		p->written += n;
	return n == (ssize_t)len ? 0 : -1;
}

static inline ssize_t raw_read(int fd, void *buf, size_t len)
{
	size_t got = 0;
	ssize_t n;

	while (got < len) {
		n = recv(fd, (char *)buf + got, len - got, 0);
		if (n < 0)
			return -1;
		if (!n)
			break;
		got += n;
	}
	return got;
}

/* Reads one record; returns the length of its payload, -1 if it is not whole */
static inline ssize_t raw_read_record(int fd, __u8 *payload)
{
	__u8 h[HEADER_LEN];
	ssize_t len;

	if (raw_read(fd, h, sizeof(h)) != sizeof(h))
		return -1;
	len = (h[0] << 8 | h[1]) - HEADER_LEN;
	if (len < 0 || raw_read(fd, payload, len) != len)
		return -1;
	return len;
}

static inline int tcp_info(int fd, struct tcp_info *ti)
{
	socklen_t len = sizeof(*ti);

	memset(ti, 0, sizeof(*ti));
	return getsockopt(fd, SOL_TCP, TCP_INFO, ti, &len);
}

static inline __u64 bytes_received(int fd)
{
	struct tcp_info ti;

	return tcp_info(fd, &ti) ? 0 : ti.tcpi_bytes_received;
}

/* The sequence number of the next octet written, with nothing on the way. */
static inline __u32 write_seq(int fd)
{
	socklen_t len = sizeof(__u32);
	__u32 seq = 0;

	set_int(fd, SOL_TCP, TCP_REPAIR, TCP_REPAIR_ON);
	set_int(fd, SOL_TCP, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE);
	getsockopt(fd, SOL_TCP, TCP_QUEUE_SEQ, &seq, &len);
	set_int(fd, SOL_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP);
	return seq;
}

/*
 * Waits until the ULP's TCP has taken in all that raw wrote. It does so in
 * softirq, and the ULP looks at it there: what is written next is another
 * segment and finds another state.
 */
static inline int settle(struct pair *p)
{
	return wait_for(bytes_received(p->ulp) >= p->written) ? 0 : -1;
}

/* The internet checksum of an even number of octets. */
static inline __u16 inet_sum(const void *data, size_t len)
{
	const __u16 *p = data;
	__u32 sum = 0;

	for (; len; len -= 2)
		sum += *p++;
	sum = (sum & 0xffff) + (sum >> 16);
	return ~(sum + (sum >> 16));
}

static inline void fill_pattern(__u8 *p, size_t len, __u32 seed)
{
	size_t i;

	for (i = 0; i < len; i++)
		p[i] = seed * 31 + i * 7 + (i >> 8);
}

/* An IKE message as the daemon sees it: marker, its seed, and a pattern. */
static inline size_t make_ike(__u8 *p, size_t len, __u32 seed)
{
	__be32 head[2] = { 0, htonl(seed) };

	fill_pattern(p, len, seed);
	memcpy(p, head, len < sizeof(head) ? len : sizeof(head));
	return len;
}

/* Only for a message that has room for it. */
static inline __u32 ike_seed(const __u8 *p)
{
	__be32 seed;

	memcpy(&seed, p + MARKER_LEN, sizeof(seed));
	return ntohl(seed);
}

static inline bool is_ike(const __u8 *p, size_t len, __u32 seed)
{
	static __thread __u8 want[MESSAGE_MAX];

	make_ike(want, len, seed);
	return !memcmp(p, want, len);
}

static inline size_t put_header(__u8 *p, size_t record_len)
{
	p[0] = record_len >> 8;
	p[1] = record_len;
	return HEADER_LEN;
}

static inline size_t put_ike(__u8 *p, size_t len, __u32 seed)
{
	put_header(p, len + HEADER_LEN);
	return HEADER_LEN + make_ike(p + HEADER_LEN, len, seed);
}

/* @len counts from the SPI, which no SA has. */
static inline size_t put_esp(__u8 *p, size_t len)
{
	put_header(p, len + HEADER_LEN);
	fill_pattern(p + HEADER_LEN, len, len);
	p[HEADER_LEN] = 0xe5;
	return HEADER_LEN + len;
}

static inline size_t put_keepalive(__u8 *p)
{
	put_header(p, HEADER_LEN + 1);
	p[HEADER_LEN] = 0xff;
	return HEADER_LEN + 1;
}

/* A record of any other content, all of it the octet @fill. */
static inline size_t put_filled(__u8 *p, size_t record_len, __u8 fill)
{
	put_header(p, record_len);
	if (record_len < HEADER_LEN)
		return HEADER_LEN;
	memset(p + HEADER_LEN, fill, record_len - HEADER_LEN);
	return record_len;
}

static inline short poll_now(int fd, short events)
{
	struct pollfd pfd = { .fd = fd, .events = events };

	return poll(&pfd, 1, 0) < 0 ? -1 : pfd.revents;
}

static inline bool is_readable(int fd)
{
	short events = poll_now(fd, POLLIN);

	return events > 0 && events & POLLIN;
}

/* The events of @events that came, and errors; 0 if none did in good time. */
static inline short poll_wait(int fd, short events)
{
	struct pollfd pfd = { .fd = fd, .events = events };

	return poll(&pfd, 1, WAIT_MS) < 0 ? -1 : pfd.revents;
}

/* One message from the ULP; fails instead of waiting for ever. */
static inline ssize_t recv_msg(int fd, void *buf, size_t len)
{
	if (!poll_wait(fd, POLLIN)) {
		errno = ETIMEDOUT;
		return -1;
	}
	return recv(fd, buf, len, MSG_DONTWAIT);
}

/*
 * Counts the messages in the queue and drops them. Only for a queue that
 * nothing arrives in.
 */
static inline int recv_all(int fd)
{
	__u8 buf[MARKER_LEN];
	int n = 0;

	while (recv(fd, buf, sizeof(buf), MSG_DONTWAIT) > 0)
		n++;
	return n;
}

static inline int bpf(int cmd, union bpf_attr *attr)
{
	return syscall(__NR_bpf, cmd, attr, sizeof(*attr));
}

/* A map with room for one socket. */
static inline int socket_map_create(enum bpf_map_type type)
{
	union bpf_attr attr = {
		.map_type = type,
		.key_size = sizeof(int),
		.value_size = sizeof(int),
		.max_entries = 1,
	};

	return bpf(BPF_MAP_CREATE, &attr);
}

static inline int sockmap_create(void)
{
	return socket_map_create(BPF_MAP_TYPE_SOCKMAP);
}

static inline int sockmap_add(int map, int fd)
{
	int key = 0;
	union bpf_attr attr = {
		.map_fd = map,
		.key = (unsigned long)&key,
		.value = (unsigned long)&fd,
	};

	return bpf(BPF_MAP_UPDATE_ELEM, &attr);
}

static inline int sockmap_delete(int map)
{
	int key = 0;
	union bpf_attr attr = {
		.map_fd = map,
		.key = (unsigned long)&key,
	};

	return bpf(BPF_MAP_DELETE_ELEM, &attr);
}

/*
 * A call in a thread of its own, for a test to see whether it sleeps. What it
 * returned and its errno are valid once it is done.
 */
struct call {
	long (*fn)(struct call *c);
	int fd;
	void *buf;
	size_t len;
	int count;
	long ret;
	int err;
	pid_t tid;
	bool done;
	pthread_t thread;
	pthread_barrier_t *start;	/* waits for others there, NULL: does not */
};

static inline void *call_main(void *arg)
{
	struct call *c = arg;

	__atomic_store_n(&c->tid, syscall(__NR_gettid), __ATOMIC_RELEASE);
	if (c->start)
		pthread_barrier_wait(c->start);
	errno = 0;
	c->ret = c->fn(c);
	c->err = errno;
	__atomic_store_n(&c->done, true, __ATOMIC_RELEASE);
	return NULL;
}

static inline int call_start(struct call *c)
{
	c->tid = 0;
	c->done = false;
	return pthread_create(&c->thread, NULL, call_main, c);
}

static inline bool call_done(struct call *c)
{
	return __atomic_load_n(&c->done, __ATOMIC_ACQUIRE);
}

/* Waits for the end of the call. */
static inline int call_join(struct call *c)
{
	if (!wait_for(call_done(c)))
		return -1;
	return pthread_join(c->thread, NULL);
}

/* All at the same time. Starts those of @n calls, or returns -1. */
static inline int calls_start(struct call *c, int n, pthread_barrier_t *start)
{
	int i;

	if (pthread_barrier_init(start, NULL, n))
		return -1;
	for (i = 0; i < n; i++) {
		c[i].start = start;
		if (call_start(&c[i]))
			return -1;
	}
	return 0;
}

/* Two calls at the same time, until both are over. */
static inline int calls_race(struct call *c)
{
	pthread_barrier_t start;

	if (calls_start(c, 2, &start) || call_join(&c[0]) || call_join(&c[1]))
		return -1;
	return pthread_barrier_destroy(&start);
}

/*
 * Writes the records in @buf over and over until the connection is gone, and returns
 * what that was. A send that stops within a record is not the end of it: the next one
 * goes on there. With a timeout a send is not begun again after a signal, and that a
 * child of run() ended is none of its business.
 */
static inline long call_flood(struct call *c)
{
	sigset_t child;
	size_t at = 0;
	ssize_t n;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	pthread_sigmask(SIG_BLOCK, &child, NULL);
	while ((n = send(c->fd, (__u8 *)c->buf + at, c->len - at,
			 MSG_NOSIGNAL)) > 0)
		at = (at + n) % c->len;
	return errno;
}

/* Sets the ULP whose name is in @buf. */
static inline long call_set_ulp(struct call *c)
{
	return set_ulp(c->fd, c->buf);
}

/* Adds the socket to the map whose descriptor is @count. */
static inline long call_sockmap_add(struct call *c)
{
	return sockmap_add(c->count, c->fd);
}

/*
 * A call that sets the ULP @name, and one that adds the socket to @map. The last
 * to come to the start is the first to leave it: @turn tells which one.
 */
static inline int ulp_races_map(struct call **ulp, struct call **map_add,
				struct call *c, int fd, char *name, int map,
				int turn)
{
	*ulp = &c[turn % 2];
	*map_add = &c[!(turn % 2)];
	**ulp = (struct call){ .fn = call_set_ulp, .fd = fd, .buf = name };
	**map_add = (struct call){
		.fn = call_sockmap_add, .fd = fd, .count = map,
	};
	return calls_race(c);
}

/* One of them has the socket, and the other was told so. */
static inline bool one_has_it(const struct call *ulp, const struct call *map_add)
{
	bool one;

	if (ulp->ret)
		one = ulp->err == EBUSY && !map_add->ret;
	else
		one = map_add->ret == -1 &&
		      (map_add->err == EBUSY || map_add->err == EINVAL);
	if (!one)
		fprintf(stderr, "# the ULP: %ld, %s; the map: %ld, %s\n",
			ulp->ret, strerror(ulp->err), map_add->ret,
			strerror(map_add->err));
	return one;
}

/* A line of /proc/self/task/TID/status, 0 if it cannot be had. */
static inline int task_status(pid_t tid, const char *key, char *value)
{
	char path[64], line[256];
	size_t len = strlen(key);
	int found = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%d/status", tid);
	f = fopen(path, "r");
	if (!f)
		return 0;
	while (!found && fgets(line, sizeof(line), f))
		if (!strncmp(line, key, len) && line[len] == ':')
			found = sscanf(line + len + 1, "%63s", value) == 1;
	fclose(f);
	return found;
}

static inline bool call_asleep(struct call *c)
{
	pid_t tid = __atomic_load_n(&c->tid, __ATOMIC_ACQUIRE);
	char state[64];

	return tid && task_status(tid, "State", state) && state[0] == 'S';
}

/*
 * Waits until the call sleeps or has ended; true if it sleeps. A call that has
 * nothing to wait for ends.
 */
static inline bool call_blocks(struct call *c)
{
	wait_for(call_done(c) || call_asleep(c));
	return !call_done(c);
}

/* How often a thread of this process went to sleep. */
static inline long sleeps_of(pid_t tid)
{
	char count[64];

	if (!task_status(tid, "voluntary_ctxt_switches", count))
		return -1;
	return strtol(count, NULL, 10);
}

#endif /* ESPINTCP_UTIL_H */
