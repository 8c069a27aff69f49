// SPDX-License-Identifier: GPL-2.0
/*
 * Random and mutated records in random segments, to live connections.
 *
 * A stream is made up, often damaged, and cut into segments at random. The
 * rules of RFC 9329, written down once more in expect_stream(), say what is to
 * become of it: every IKE message arrives as it was, every other record is
 * counted for what it is, and what breaks the stream resets the connection
 * with nothing lost that came before.
 *
 * RECORDS=N       how many to send in each family (default 50000)
 * RECORDS_SEED=N  repeats a run
 */
#define WAIT_MS	120000
#include "kselftest_harness.h"
#include "espintcp_random.h"
#include "espintcp_util.h"

#define DEFAULT_RECORDS	50000
#define STREAM_MAX	(256 * 1024)
#define RECORDS_MAX	400	/* of a connection */
#define WRITES_MAX	600
#define RCVBUF		(16 << 20)
/* What XFRM takes for an ESP header: SPI and sequence number. */
#define ESP_HEADER_LEN	8

struct message {
	const __u8 *p;
	size_t len;
};

/* What is to become of a stream. */
struct expected {
	struct message ike[RECORDS_MAX * 4];
	int nr_ike;
	long records;
	long esp;
	long esp_no_header;
	long keepalive;
	long empty;
	long shorts;
	bool broken;
	bool truncated;
};

static void expect_record(struct expected *e, const __u8 *payload, size_t len)
{
	static const __u8 marker[MARKER_LEN];

	e->records++;
	if (!len) {
		e->empty++;
	} else if (len == 1 && payload[0] == 0xff) {
		e->keepalive++;
	} else if (len <= MARKER_LEN) {
		e->shorts++;
	} else if (memcmp(payload, marker, MARKER_LEN)) {
		e->esp++;
		e->esp_no_header += len < ESP_HEADER_LEN;
	} else {
		e->ike[e->nr_ike++] = (struct message){ payload, len };
	}
}

/* False if there are too many messages in it. */
static bool expect_stream(struct expected *e, const __u8 *p, size_t len)
{
	memset(e, 0, sizeof(*e));
	while (len >= HEADER_LEN && e->nr_ike < (int)ARRAY_SIZE(e->ike)) {
		size_t record = p[0] << 8 | p[1];

		if (record < HEADER_LEN) {
			e->records++;
			e->broken = true;
			return true;
		}
		if (record > len)
			break;
		expect_record(e, p + HEADER_LEN, record - HEADER_LEN);
		p += record;
		len -= record;
	}
	e->truncated = len > 0;
	return e->nr_ike < (int)ARRAY_SIZE(e->ike);
}

/* Small ones mostly, and those around the limits of pages and of a record. */
static size_t random_length(void)
{
	static const size_t limits[] = { 4096, 8192, 16384, 32768, MESSAGE_MAX };
	__u32 dice = rnd(100);

	if (dice < 70)
		return MARKER_LEN + 1 + rnd(200);
	if (dice < 95)
		return MARKER_LEN + 1 + rnd(1500);
	if (dice < 99)
		return limits[rnd(4)] - 8 + rnd(16);
	return chance(50) ? MESSAGE_MAX - rnd(4) : MARKER_LEN + 1 + rnd(60000);
}

/* Returns its length, 0 when it does not fit. */
static size_t random_record(__u8 *p, size_t room)
{
	size_t len = random_length();
	__u32 dice = rnd(100);

	if (room < HEADER_LEN + len)
		return 0;
	if (dice < 50)
		return put_ike(p, len, rnd64());
	if (dice < 75)
		return put_esp(p, len);
	if (dice < 83)
		return put_keepalive(p);
	if (dice < 92)
		return put_filled(p, HEADER_LEN + 1 + rnd(MARKER_LEN), rnd(256));
	return put_filled(p, HEADER_LEN, 0);
}

static void damage(__u8 *p, size_t len)
{
	int n = 1 + rnd(8);

	while (n--) {
		size_t at = rnd(len);

		switch (rnd(3)) {
		case 0:
			p[at] ^= 1 << rnd(8);
			break;
		case 1:
			p[at] = rnd64();
			break;
		default:
			memmove(p, p + 1, at);
			break;
		}
	}
}

/* Returns how long it became. */
static size_t random_stream(__u8 *p)
{
	int n = 1 + rnd(RECORDS_MAX);
	size_t len = 0, i;

	if (chance(5)) {
		len = 1 + rnd(STREAM_MAX);
		for (i = 0; i < len; i++)
			p[i] = rnd64();
		return len;
	}
	while (n--)
		len += random_record(p + len, STREAM_MAX - len);
	if (!len)
		len = put_keepalive(p);
	if (chance(30))
		damage(p, len);
	if (chance(20))
		len -= rnd(len < 100 ? len : 100);
	return len;
}

/* A write is a segment, as long as there is room on the way. */
static size_t random_segment(size_t stream)
{
	static const __u32 sizes[] = { 2, 16, 100, 1500, 9000, 65536, STREAM_MAX };
	size_t n = 1 + rnd(sizes[rnd(ARRAY_SIZE(sizes))]);

	return n + stream / WRITES_MAX;
}

/* The rest of a broken stream finds a reset connection. */
static int write_stream(struct pair *p, const __u8 *stream, size_t len,
			bool broken)
{
	size_t at = 0;

	while (at < len) {
		size_t n = random_segment(len);

		if (n > len - at)
			n = len - at;
		if (raw_write(p, stream + at, n))
			return broken && (errno == EPIPE || errno == ECONNRESET) ?
			       0 : -1;
		at += n;
	}
	return shutdown(p->raw, SHUT_WR) && !broken ? -1 : 0;
}

struct bench {
	struct expected e;
	struct counters before;
	__u8 *stream;
	__u8 *msg;
};

FIXTURE(records)
{
	struct bench b;
};

FIXTURE_VARIANT(records)
{
	struct path path;
};

FIXTURE_VARIANT_ADD(records, v4)
{
	.path = { .family = AF_INET },
};

FIXTURE_VARIANT_ADD(records, v6)
{
	.path = { .family = AF_INET6, .accepted = true },
};

FIXTURE_SETUP(records)
{
	struct bench *b = &self->b;

	ASSERT_EQ(0, new_netns());
	b->stream = malloc(STREAM_MAX);
	b->msg = malloc(RECORD_MAX);
	ASSERT_NE(NULL, b->stream);
	ASSERT_NE(NULL, b->msg);
}

FIXTURE_TEARDOWN(records)
{
	struct bench *b = &self->b;

	free(b->stream);
	free(b->msg);
}

static void expect_messages(struct __test_metadata *_metadata,
			    struct bench *b, int fd)
{
	const struct expected *e = &b->e;
	int i;

	for (i = 0; i < e->nr_ike; i++) {
		ASSERT_EQ((ssize_t)e->ike[i].len,
			  recv_msg(fd, b->msg, RECORD_MAX));
		ASSERT_EQ(0, memcmp(b->msg, e->ike[i].p, e->ike[i].len));
	}
	ASSERT_EQ(e->broken ? -1 : 0, recv_msg(fd, b->msg, RECORD_MAX));
	if (e->broken)
		ASSERT_EQ(EBADMSG, errno);
}

static void expect_count(struct __test_metadata *_metadata,
			 struct counters *before, const char *name, long n)
{
	long want = *counter_of(before, name) + n;

	ASSERT_EQ(want, counter_wait(name, want)) {
		TH_LOG("%s", name);
	}
}

static void expect_counts(struct __test_metadata *_metadata,
			  struct bench *b)
{
	const struct expected *e = &b->e;
	struct counters *c = &b->before;

	expect_count(_metadata, c, "EspTcpInIke", e->nr_ike);
	expect_count(_metadata, c, "EspTcpInEsp", e->esp);
	expect_count(_metadata, c, "EspTcpInKeepalive", e->keepalive);
	expect_count(_metadata, c, "EspTcpInEmpty", e->empty);
	expect_count(_metadata, c, "EspTcpInShort", e->shorts);
	expect_count(_metadata, c, "EspTcpInBadLength", e->broken);
	expect_count(_metadata, c, "EspTcpConnAborted", e->broken);
	expect_count(_metadata, c, "EspTcpInTruncated", e->truncated);
	expect_count(_metadata, c, "EspTcpInIkeFull", 0);
	expect_count(_metadata, c, "EspTcpInNoMem", 0);
}

static void one_connection(struct __test_metadata *_metadata,
			   struct bench *b,
			   const struct path *path)
{
	long no_states = xfrm_counter("XfrmInNoStates");
	long hdr_error = xfrm_counter("XfrmInHdrError");
	struct pair p;
	size_t len;

	do {
		len = random_stream(b->stream);
	} while (!expect_stream(&b->e, b->stream, len));
	counters_read(&b->before);

	ASSERT_EQ(0, tcp_pair(&p, path));
	ASSERT_EQ(0, set_int(p.ulp, SOL_SOCKET, SO_RCVBUFFORCE, RCVBUF));
	ASSERT_EQ(0, set_ulp(p.ulp, "espintcp"));
	ASSERT_EQ(0, write_stream(&p, b->stream, len, b->e.broken));
	expect_messages(_metadata, b, p.ulp);
	expect_counts(_metadata, b);
	ASSERT_EQ(no_states + b->e.esp - b->e.esp_no_header,
		  xfrm_counter("XfrmInNoStates"));
	ASSERT_EQ(hdr_error + b->e.esp_no_header,
		  xfrm_counter("XfrmInHdrError"));
	close(p.raw);
	close(p.ulp);
}

TEST_F_TIMEOUT(records, random, 3600)
{
	struct bench *b = &self->b;
	long left = env_number("RECORDS", DEFAULT_RECORDS);
	long seed = env_number("RECORDS_SEED", time(NULL));
	long connections = 0;

	TH_LOG("RECORDS_SEED=%ld", seed);
	random_state = seed;
	while (left > 0) {
		one_connection(_metadata, b, &variant->path);
		left -= b->e.records;
		connections++;
	}
	TH_LOG("%ld connections", connections);
}

TEST_HARNESS_MAIN
