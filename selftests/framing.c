// SPDX-License-Identifier: GPL-2.0
/*
 * The record rules of espintcp (RFC 9329, section 3).
 *
 * A plain TCP socket writes the stream, so that every octet and every segment
 * is the test's. What came of it is read from the socket with the ULP and from
 * the counters: all of the counters are compared, those that must not move too.
 * There is no SA here; a record of ESP ends in XFRM as one for an unknown SPI,
 * or as a broken header if XFRM finds none in it.
 */
#include "kselftest_harness.h"

#include "espintcp_util.h"

/* xfrm_input() wants SPI and sequence number. */
#define XFRM_ESP_MIN		8

#define STREAM_MAX		(128 * 1024)

struct bench {
	struct pair p;
	struct counters want;
	__u8 *stream;
	__u8 *msg;
};

FIXTURE(framing)
{
	struct bench b;
};

FIXTURE_VARIANT(framing)
{
	struct path path;
};

FIXTURE_VARIANT_ADD(framing, v4_client)
{
	.path = { .family = AF_INET },
};

FIXTURE_VARIANT_ADD(framing, v4_accepted)
{
	.path = { .family = AF_INET, .accepted = true },
};

FIXTURE_VARIANT_ADD(framing, v6_client)
{
	.path = { .family = AF_INET6 },
};

FIXTURE_VARIANT_ADD(framing, v6_accepted)
{
	.path = { .family = AF_INET6, .accepted = true },
};

FIXTURE_VARIANT_ADD(framing, v4mapped_client)
{
	.path = { .family = AF_INET6, .mapped = true },
};

FIXTURE_VARIANT_ADD(framing, v4mapped_accepted)
{
	.path = { .family = AF_INET6, .mapped = true, .accepted = true },
};

FIXTURE_SETUP(framing)
{
	struct bench *b = &self->b;

	ASSERT_EQ(0, new_netns());
	ASSERT_EQ(0, tcp_pair(&b->p, &variant->path));
	counters_read(&b->want);
	b->stream = malloc(STREAM_MAX);
	b->msg = malloc(RECORD_MAX);
	ASSERT_NE(NULL, b->stream);
	ASSERT_NE(NULL, b->msg);
}

FIXTURE_TEARDOWN(framing)
{
	struct bench *b = &self->b;

	close(b->p.ulp);
	close(b->p.raw);
	free(b->stream);
	free(b->msg);
}

/* A test expects a counter to have moved by so much more. No ESP here has an SA. */
static void count(struct counters *want, const char *name, long n)
{
	*counter_of(want, name) += n;
	if (!strcmp(name, "EspTcpInEsp"))
		*counter_of(want, "EspTcpInUnknownSpi") += n;
}

static bool counters_are(const struct counters *want)
{
	struct counters seen;

	counters_read(&seen);
	return !memcmp(&seen, want, sizeof(seen));
}

static void expect_counters(struct __test_metadata *_metadata,
			    const struct counters *want)
{
	struct counters seen;
	size_t i;

	if (wait_for(counters_are(want)))
		return;
	counters_read(&seen);
	for (i = 0; i < NR_COUNTERS; i++) {
		EXPECT_EQ(want->value[i], seen.value[i]) {
			TH_LOG("for %s", counter_names[i]);
		}
	}
}

static void start_ulp(struct __test_metadata *_metadata, struct pair *p,
		      struct counters *want)
{
	ASSERT_EQ(0, set_ulp(p->ulp, "espintcp"));
	count(want, "EspTcpConnOpened", 1);
}

/* Writes one segment and waits until the ULP has seen it. */
static void write_segment(struct __test_metadata *_metadata, struct pair *p,
			  const __u8 *buf, size_t len)
{
	ASSERT_EQ(0, raw_write(p, buf, len));
	ASSERT_EQ(0, settle(p));
}

static void expect_no_message(struct __test_metadata *_metadata, int fd)
{
	__u8 octet;

	EXPECT_EQ(0, poll_now(fd, POLLIN));
	EXPECT_EQ(-1, recv(fd, &octet, 1, MSG_DONTWAIT));
	EXPECT_EQ(EAGAIN, errno);
}

/* Which counter a record of @record_len whose payload is all @fill moves. */
static const char *counter_for(size_t record_len, __u8 fill)
{
	size_t len = record_len - HEADER_LEN;

	if (record_len < HEADER_LEN)
		return "EspTcpInBadLength";
	if (!len)
		return "EspTcpInEmpty";
	if (len == 1 && fill == 0xff)
		return "EspTcpInKeepalive";
	if (len <= MARKER_LEN)
		return "EspTcpInShort";
	return fill ? "EspTcpInEsp" : "EspTcpInIke";
}

static const char *xfrm_counter_for(size_t record_len)
{
	return record_len - HEADER_LEN < XFRM_ESP_MIN ? "XfrmInHdrError" :
							"XfrmInNoStates";
}

static void one_record(struct __test_metadata *_metadata,
		       struct bench *b, size_t record_len,
		       __u8 fill)
{
	const char *name = counter_for(record_len, fill);
	const char *xfrm = xfrm_counter_for(record_len);
	long before = xfrm_counter(xfrm);
	bool esp = !strcmp(name, "EspTcpInEsp");
	ssize_t len = record_len - HEADER_LEN;

	put_filled(b->stream, record_len, fill);
	write_segment(_metadata, &b->p, b->stream, record_len);
	count(&b->want, name, 1);
	expect_counters(_metadata, &b->want);
	EXPECT_EQ(before + esp, xfrm_counter(xfrm));
	if (!strcmp(name, "EspTcpInIke")) {
		EXPECT_EQ(len, recv_msg(b->p.ulp, b->msg, RECORD_MAX));
		EXPECT_EQ(0, memcmp(b->msg, b->stream + HEADER_LEN, len));
	}
	expect_no_message(_metadata, b->p.ulp);
}

TEST_F(framing, lengths)
{
	struct bench *b = &self->b;
	static const __u8 fills[] = { 0x00, 0xff, 0x5a };
	size_t i, record_len;

	start_ulp(_metadata, &b->p, &b->want);
	for (i = 0; i < ARRAY_SIZE(fills); i++) {
		for (record_len = HEADER_LEN; record_len <= 24; record_len++)
			one_record(_metadata, b, record_len, fills[i]);
		one_record(_metadata, b, RECORD_MAX - 1, fills[i]);
		one_record(_metadata, b, RECORD_MAX, fills[i]);
	}
}

/* One octet that is not zero among the first four makes it ESP. */
TEST_F(framing, marker)
{
	struct bench *b = &self->b;
	__u8 *p = b->stream;
	int i;

	start_ulp(_metadata, &b->p, &b->want);
	for (i = 0; i <= MARKER_LEN; i++) {
		put_filled(p, HEADER_LEN + 5, 0);
		p[HEADER_LEN + i] = 1;
		write_segment(_metadata, &b->p, p, HEADER_LEN + 5);
		count(&b->want,
		      i < MARKER_LEN ? "EspTcpInEsp" : "EspTcpInIke", 1);
		expect_counters(_metadata, &b->want);
	}
	ASSERT_EQ(5, recv_msg(b->p.ulp, b->msg, RECORD_MAX));
	EXPECT_EQ(1, b->msg[MARKER_LEN]);
	expect_no_message(_metadata, b->p.ulp);
}

static void bad_length(struct __test_metadata *_metadata,
		       struct bench *b, size_t record_len)
{
	int ulp = b->p.ulp;
	__u8 octet;

	start_ulp(_metadata, &b->p, &b->want);
	put_filled(b->stream, record_len, 0);
	ASSERT_EQ(0, raw_write(&b->p, b->stream, HEADER_LEN));

	EXPECT_EQ(-1, recv(b->p.raw, &octet, 1, 0));
	EXPECT_EQ(ECONNRESET, errno);

	EXPECT_EQ(POLLIN | POLLERR | POLLHUP | POLLRDHUP,
		  poll_wait(ulp, POLLIN | POLLRDHUP));
	EXPECT_EQ(-1, recv(ulp, &octet, 1, MSG_DONTWAIT));
	EXPECT_EQ(EBADMSG, errno);
	EXPECT_EQ(0, recv(ulp, &octet, 1, MSG_DONTWAIT));
	EXPECT_EQ(-1, send(ulp, b->stream, 10, MSG_NOSIGNAL));
	EXPECT_EQ(EPIPE, errno);

	count(&b->want, "EspTcpInBadLength", 1);
	count(&b->want, "EspTcpConnAborted", 1);
	expect_counters(_metadata, &b->want);
}

TEST_F(framing, length_0_aborts)
{
	bad_length(_metadata, &self->b, 0);
}

TEST_F(framing, length_1_aborts)
{
	bad_length(_metadata, &self->b, 1);
}

TEST_F(framing, bad_length_is_so_error)
{
	struct bench *b = &self->b;

	start_ulp(_metadata, &b->p, &b->want);
	put_filled(b->stream, 0, 0);
	ASSERT_EQ(0, raw_write(&b->p, b->stream, HEADER_LEN));
	EXPECT_NE(0, POLLERR & poll_wait(b->p.ulp, POLLIN));
	EXPECT_EQ(EBADMSG, get_int(b->p.ulp, SOL_SOCKET, SO_ERROR));
	EXPECT_EQ(0, get_int(b->p.ulp, SOL_SOCKET, SO_ERROR));
}

static long call_recv(struct call *c)
{
	return recv(c->fd, c->buf, c->len, 0);
}

TEST_F(framing, bad_length_wakes_receiver)
{
	struct bench *b = &self->b;
	struct call c = {
		.fn = call_recv, .fd = b->p.ulp,
		.buf = b->msg, .len = RECORD_MAX,
	};

	start_ulp(_metadata, &b->p, &b->want);
	ASSERT_EQ(0, call_start(&c));
	ASSERT_TRUE(call_blocks(&c));
	put_filled(b->stream, 1, 0);
	ASSERT_EQ(0, raw_write(&b->p, b->stream, HEADER_LEN));
	ASSERT_EQ(0, call_join(&c));
	EXPECT_EQ(-1, c.ret);
	EXPECT_EQ(EBADMSG, c.err);
}

/* And with the end of the stream right behind it: an end that has a cause shows it. */
TEST_F(framing, bad_length_and_fin)
{
	struct bench *b = &self->b;
	int round;

	for (round = 0; round < 20; round++) {
		struct call c = {
			.fn = call_recv, .buf = b->msg, .len = RECORD_MAX,
		};

		if (round)
			ASSERT_EQ(0, tcp_pair(&b->p, &variant->path));
		start_ulp(_metadata, &b->p, &b->want);
		c.fd = b->p.ulp;
		ASSERT_EQ(0, call_start(&c));
		ASSERT_TRUE(call_blocks(&c));
		put_filled(b->stream, 0, 0);
		ASSERT_EQ(HEADER_LEN,
			  send(b->p.raw, b->stream, HEADER_LEN, MSG_MORE));
		ASSERT_EQ(0, shutdown(b->p.raw, SHUT_WR));
		ASSERT_EQ(0, call_join(&c));
		EXPECT_EQ(-1, c.ret);
		EXPECT_EQ(EBADMSG, c.err);
		close(b->p.ulp);
		close(b->p.raw);
		count(&b->want, "EspTcpInBadLength", 1);
		count(&b->want, "EspTcpConnAborted", 1);
		count(&b->want, "EspTcpConnClosed", 1);
		expect_counters(_metadata, &b->want);
	}
	b->p.ulp = -1;
	b->p.raw = -1;
}

/* What is before the broken record is good, what is behind it is lost. */
TEST_F(framing, bad_length_between_messages)
{
	struct bench *b = &self->b;
	int messages = 0, errors = 0, i;
	__u8 *p = b->stream;
	ssize_t len;

	start_ulp(_metadata, &b->p, &b->want);
	p += put_ike(p, 40, 1);
	p += put_filled(p, 0, 0);
	p += put_ike(p, 41, 2);
	ASSERT_EQ(0, raw_write(&b->p, b->stream, p - b->stream));
	/* The error is there at once, the reset comes from a worker. */
	while (!(POLLHUP & poll_wait(b->p.ulp, 0)))
		;

	for (i = 0; i < 3; i++) {
		len = recv(b->p.ulp, b->msg, RECORD_MAX, MSG_DONTWAIT);
		messages += len == 40 && is_ike(b->msg, 40, 1);
		errors += len < 0 && errno == EBADMSG;
	}
	EXPECT_EQ(0, len);
	EXPECT_EQ(1, messages);
	EXPECT_EQ(1, errors);

	count(&b->want, "EspTcpInIke", 1);
	count(&b->want, "EspTcpInBadLength", 1);
	count(&b->want, "EspTcpConnAborted", 1);
	expect_counters(_metadata, &b->want);
}

/* Three records, or what goes for that many, and what they come to. */
struct script {
	size_t (*put[3])(__u8 *p, int nr);
	long ike, esp, keepalive, empty, shorts;
};

static size_t script_ike(__u8 *p, int nr)
{
	return put_ike(p, 5 + 4 * nr, nr);
}

static size_t script_esp(__u8 *p, int nr)
{
	return put_esp(p, 16 + nr);
}

static size_t script_keepalive(__u8 *p, int nr)
{
	return put_keepalive(p);
}

static size_t script_empty(__u8 *p, int nr)
{
	return put_filled(p, HEADER_LEN, 0);
}

static size_t script_short(__u8 *p, int nr)
{
	return put_filled(p, HEADER_LEN + 2 + nr, 0);
}

/*
 * Lengths of which either octet alone, put before what follows, would be a
 * length too.
 */
static size_t script_long_ike(__u8 *p, int nr)
{
	return put_ike(p, 0x100 - HEADER_LEN, nr);
}

static size_t script_long_esp(__u8 *p, int nr)
{
	return put_esp(p, 0x201 - HEADER_LEN);
}

static const struct script long_script = {
	{ script_long_ike, script_long_esp, script_long_ike },
	.ike = 2, .esp = 1,
};

static const struct script scripts[] = {
	{ { script_ike, script_keepalive, script_esp },
	  .ike = 1, .keepalive = 1, .esp = 1 },
	{ { script_esp, script_ike, script_ike }, .esp = 1, .ike = 2 },
	{ { script_keepalive, script_esp, script_ike },
	  .keepalive = 1, .esp = 1, .ike = 1 },
	{ { script_empty, script_short, script_ike },
	  .empty = 1, .shorts = 1, .ike = 1 },
};

static size_t put_script(__u8 *p, const struct script *s)
{
	size_t len = 0;
	int i;

	for (i = 0; i < 3; i++)
		len += s->put[i](p + len, i);
	return len;
}

static void count_script(struct counters *want, const struct script *s)
{
	count(want, "EspTcpInIke", s->ike);
	count(want, "EspTcpInEsp", s->esp);
	count(want, "EspTcpInKeepalive", s->keepalive);
	count(want, "EspTcpInEmpty", s->empty);
	count(want, "EspTcpInShort", s->shorts);
}

static void expect_script(struct __test_metadata *_metadata,
			  struct bench *b, const struct script *s)
{
	ssize_t len;
	int i;

	for (i = 0; i < 3; i++) {
		if (s->put[i] == script_ike)
			len = 5 + 4 * i;
		else if (s->put[i] == script_long_ike)
			len = 0x100 - HEADER_LEN;
		else
			continue;
		ASSERT_EQ(len, recv_msg(b->p.ulp, b->msg, RECORD_MAX));
		ASSERT_TRUE(is_ike(b->msg, len, i));
	}
}

/*
 * Sends the script cut at @first and @second; a cut at the end or two in one place make
 * fewer segments.
 */
static int write_cut(struct __test_metadata *_metadata,
		     struct bench *b, size_t len, size_t first,
		     size_t second)
{
	const size_t cuts[] = { 0, first, second, len };
	int i, segments = 0;

	for (i = 0; i < 3; i++) {
		if (cuts[i] == cuts[i + 1])
			continue;
		write_segment(_metadata, &b->p, b->stream + cuts[i],
			      cuts[i + 1] - cuts[i]);
		segments++;
	}
	return segments;
}

/* The cuts were no cuts if TCP had put the pieces together again. */
static void expect_segments(struct __test_metadata *_metadata, int fd,
			    __u32 segments)
{
	struct tcp_info ti;

	ASSERT_EQ(0, tcp_info(fd, &ti));
	EXPECT_LE(segments, ti.tcpi_data_segs_in);
}

static int one_cut(struct __test_metadata *_metadata, struct bench *b,
		   const struct script *s, size_t len, size_t first,
		   size_t second)
{
	int segments = write_cut(_metadata, b, len, first, second);

	count_script(&b->want, s);
	expect_script(_metadata, b, s);
	return segments;
}

/* A first cut at zero leaves two segments, or one. */
TEST_F(framing, every_split)
{
	struct bench *b = &self->b;
	size_t i, first, second, len, segments = 0;

	start_ulp(_metadata, &b->p, &b->want);
	for (i = 0; i < ARRAY_SIZE(scripts); i++) {
		len = put_script(b->stream, &scripts[i]);
		for (first = 0; first < len; first++)
			for (second = first + !!first; second <= len; second++)
				segments += one_cut(_metadata, b, &scripts[i],
						    len, first, second);
		expect_counters(_metadata, &b->want);
		expect_no_message(_metadata, b->p.ulp);
	}
	expect_segments(_metadata, b->p.ulp, segments);
}

TEST_F(framing, every_split_of_long_records)
{
	struct bench *b = &self->b;
	size_t cut, len, segments = 0;

	start_ulp(_metadata, &b->p, &b->want);
	len = put_script(b->stream, &long_script);
	for (cut = 1; cut < len; cut++)
		segments += one_cut(_metadata, b, &long_script, len, 0, cut);
	expect_counters(_metadata, &b->want);
	expect_no_message(_metadata, b->p.ulp);
	expect_segments(_metadata, b->p.ulp, segments);
}

static size_t octet_by_octet(struct __test_metadata *_metadata,
			     struct bench *b, const struct script *s)
{
	size_t i, len = put_script(b->stream, s);

	for (i = 0; i < len; i++)
		write_segment(_metadata, &b->p, b->stream + i, 1);
	count_script(&b->want, s);
	expect_script(_metadata, b, s);
	expect_counters(_metadata, &b->want);
	expect_no_message(_metadata, b->p.ulp);
	return len;
}

TEST_F(framing, octet_by_octet)
{
	struct bench *b = &self->b;
	size_t i, segments = 0;

	start_ulp(_metadata, &b->p, &b->want);
	for (i = 0; i < ARRAY_SIZE(scripts); i++)
		segments += octet_by_octet(_metadata, b, &scripts[i]);
	segments += octet_by_octet(_metadata, b, &long_script);
	expect_segments(_metadata, b->p.ulp, segments);
}

/*
 * All of the segments are there before the receiver looks: they are read from
 * the receive queue, in which TCP may have put them together.
 */
TEST_F(framing, queued_before_ulp)
{
	struct bench *b = &self->b;
	size_t i, k, len;
	int round;

	for (round = 0; round < 20; round++) {
		for (i = 0; i < ARRAY_SIZE(scripts); i++) {
			len = put_script(b->stream, &scripts[i]);
			k = round % len;
			write_segment(_metadata, &b->p, b->stream, k + 1);
			write_segment(_metadata, &b->p, b->stream + k + 1,
				      len - k - 1);
			count_script(&b->want, &scripts[i]);
		}
	}
	start_ulp(_metadata, &b->p, &b->want);
	expect_counters(_metadata, &b->want);
	for (round = 0; round < 20; round++)
		for (i = 0; i < ARRAY_SIZE(scripts); i++)
			expect_script(_metadata, b, &scripts[i]);
	expect_no_message(_metadata, b->p.ulp);
}

/* The ULP may come in the middle of a record, at any octet of it. */
TEST_F(framing, queued_part_before_ulp)
{
	struct bench *b = &self->b;
	size_t len, cut;

	len = put_script(b->stream, &scripts[0]);
	for (cut = 1; cut < len; cut++) {
		write_segment(_metadata, &b->p, b->stream, cut);
		start_ulp(_metadata, &b->p, &b->want);
		write_segment(_metadata, &b->p, b->stream + cut,
			      len - cut);
		count_script(&b->want, &scripts[0]);
		expect_script(_metadata, b, &scripts[0]);
		expect_counters(_metadata, &b->want);

		close(b->p.ulp);
		close(b->p.raw);
		ASSERT_EQ(0, tcp_pair(&b->p, &variant->path));
		count(&b->want, "EspTcpConnClosed", 1);
	}
}

/* As a responder does: the stream's prefix is read first, by the daemon. */
TEST_F(framing, prefix_read_before_ulp)
{
	struct bench *b = &self->b;
	static const char prefix[] = "IKETCP";
	__u8 *p = b->stream;

	memcpy(p, prefix, strlen(prefix));
	p += strlen(prefix);
	p += put_ike(p, 300, 9);
	write_segment(_metadata, &b->p, b->stream, p - b->stream);
	ASSERT_EQ(6, recv(b->p.ulp, b->msg, strlen(prefix), 0));
	EXPECT_EQ(0, memcmp(b->msg, prefix, strlen(prefix)));
	start_ulp(_metadata, &b->p, &b->want);
	count(&b->want, "EspTcpInIke", 1);
	EXPECT_EQ(300, recv_msg(b->p.ulp, b->msg, RECORD_MAX));
	EXPECT_TRUE(is_ike(b->msg, 300, 9));
	expect_counters(_metadata, &b->want);
}

TEST_F(framing, bad_length_queued_before_ulp)
{
	struct bench *b = &self->b;
	__u8 *p = b->stream;
	__u8 octet;

	p += put_esp(p, 100);
	p += put_filled(p, 1, 0);
	write_segment(_metadata, &b->p, b->stream, p - b->stream);
	start_ulp(_metadata, &b->p, &b->want);
	EXPECT_EQ(-1, recv(b->p.raw, &octet, 1, 0));
	EXPECT_EQ(ECONNRESET, errno);
	ASSERT_NE(0, POLLERR & poll_wait(b->p.ulp, 0));
	EXPECT_EQ(-1, recv(b->p.ulp, &octet, 1, MSG_DONTWAIT));
	EXPECT_EQ(EBADMSG, errno);
	count(&b->want, "EspTcpInEsp", 1);
	count(&b->want, "EspTcpInBadLength", 1);
	count(&b->want, "EspTcpConnAborted", 1);
	expect_counters(_metadata, &b->want);
}

/* Ends the stream after @cut octets and expects @ike messages of @script. */
static void cut_off(struct __test_metadata *_metadata,
		    struct bench *b, const struct path *path,
		    size_t cut, bool truncated)
{
	__u8 octet;

	start_ulp(_metadata, &b->p, &b->want);
	if (cut)
		write_segment(_metadata, &b->p, b->stream, cut);
	ASSERT_EQ(0, shutdown(b->p.raw, SHUT_WR));
	EXPECT_EQ(0, recv_msg(b->p.ulp, &octet, 1));
	EXPECT_EQ(0, recv_msg(b->p.ulp, &octet, 1));
	count(&b->want, "EspTcpInTruncated", truncated);
	expect_counters(_metadata, &b->want);

	close(b->p.ulp);
	close(b->p.raw);
	ASSERT_EQ(0, tcp_pair(&b->p, path));
	count(&b->want, "EspTcpConnClosed", 1);
}

TEST_F(framing, cut_off_by_fin)
{
	struct bench *b = &self->b;
	size_t len, cut;

	len = put_ike(b->stream, 20, 3);
	for (cut = 0; cut < len; cut++)
		cut_off(_metadata, b, &variant->path, cut, cut);
	len = put_esp(b->stream, 24);
	for (cut = 1; cut < len; cut++)
		cut_off(_metadata, b, &variant->path, cut, true);
	len = put_esp(b->stream, MESSAGE_MAX);
	cut_off(_metadata, b, &variant->path, len - 1, true);
}

/* What was whole before the end is delivered, the rest is not. */
TEST_F(framing, cut_off_after_message)
{
	struct bench *b = &self->b;
	__u8 *p = b->stream;

	start_ulp(_metadata, &b->p, &b->want);
	p += put_ike(p, 77, 1);
	p += put_esp(p, 78);
	p += put_ike(p, 79, 2);
	write_segment(_metadata, &b->p, b->stream, p - b->stream - 1);
	ASSERT_EQ(0, shutdown(b->p.raw, SHUT_WR));
	EXPECT_EQ(77, recv_msg(b->p.ulp, b->msg, RECORD_MAX));
	EXPECT_TRUE(is_ike(b->msg, 77, 1));
	EXPECT_EQ(0, recv_msg(b->p.ulp, b->msg, RECORD_MAX));
	count(&b->want, "EspTcpInIke", 1);
	count(&b->want, "EspTcpInEsp", 1);
	count(&b->want, "EspTcpInTruncated", 1);
	expect_counters(_metadata, &b->want);
}

/* Records at random, the same ones in every run. */
struct source {
	__u32 state;
	__u64 made;		/* octets of the stream */
	__u32 nr_made;	/* IKE messages in it; the number is the seed */
	__u32 nr_read;
	struct {
		size_t len;
		__u64 end;	/* its place in the stream */
	} unread[1024];
};

#define UNREAD(s, nr)	(&(s)->unread[(nr) % 1024])

static __u32 random32(struct source *s)
{
	s->state ^= s->state << 13;
	s->state ^= s->state >> 17;
	s->state ^= s->state << 5;
	return s->state;
}

static size_t random_length(struct source *s)
{
	__u32 r = random32(s);

	/* Mostly like a packet, now and then as long as can be. */
	return 5 + (r % 64 ? (r >> 8) % 1500 : (r >> 8) % (MESSAGE_MAX - 4));
}

static size_t random_ike(struct source *s, __u8 *p, struct counters *want)
{
	size_t len = random_length(s);

	UNREAD(s, s->nr_made)->len = len;
	UNREAD(s, s->nr_made)->end = s->made + HEADER_LEN + len;
	count(want, "EspTcpInIke", 1);
	return put_ike(p, len, s->nr_made++);
}

static size_t random_other(struct source *s, __u8 *p, struct counters *want)
{
	size_t record_len;

	switch (random32(s) % 8) {
	case 0:
		count(want, "EspTcpInKeepalive", 1);
		return put_keepalive(p);
	case 1:
		record_len = HEADER_LEN + random32(s) % 5;
		count(want, counter_for(record_len, 0x77), 1);
		return put_filled(p, record_len, 0x77);
	default:
		count(want, "EspTcpInEsp", 1);
		return put_esp(p, random_length(s));
	}
}

static size_t random_record(struct source *s, __u8 *p,
			    struct counters *want)
{
	size_t len = random32(s) % 4 ? random_other(s, p, want) :
				       random_ike(s, p, want);

	s->made += len;
	return len;
}

/* Reads the messages that have arrived whole. */
static void read_messages(struct __test_metadata *_metadata,
			  struct bench *b, struct source *s)
{
	ssize_t len;

	while (s->nr_read != s->nr_made &&
	       UNREAD(s, s->nr_read)->end <= b->p.written) {
		len = UNREAD(s, s->nr_read)->len;
		ASSERT_EQ(len, recv_msg(b->p.ulp, b->msg, RECORD_MAX));
		ASSERT_TRUE(is_ike(b->msg, len, s->nr_read));
		s->nr_read++;
	}
}

/* Writes one segment of any length; returns how much of @have is left. */
static size_t write_some(struct __test_metadata *_metadata,
			 struct bench *b, struct source *s,
			 size_t have)
{
	size_t len = 1 + random32(s) % have;

	write_segment(_metadata, &b->p, b->stream, len);
	memmove(b->stream, b->stream + len, have - len);
	read_messages(_metadata, b, s);
	return have - len;
}

TEST_F(framing, random_stream)
{
	struct bench *b = &self->b;
	struct source s = { .state = 9329 };
	size_t have = 0;
	int records;

	/* Two of the longest messages may come in one segment. */
	ASSERT_EQ(0, set_int(b->p.ulp, SOL_SOCKET, SO_RCVBUF, 200000));
	start_ulp(_metadata, &b->p, &b->want);
	for (records = 0; records < 20000; records++) {
		have += random_record(&s, b->stream + have, &b->want);
		while (have > RECORD_MAX || (have && random32(&s) % 4 == 0))
			have = write_some(_metadata, b, &s, have);
	}
	while (have)
		have = write_some(_metadata, b, &s, have);
	EXPECT_EQ(s.nr_made, s.nr_read);
	expect_counters(_metadata, &b->want);
	expect_no_message(_metadata, b->p.ulp);
}

TEST_HARNESS_MAIN
