// SPDX-License-Identifier: GPL-2.0
/*
 * Random XFRM netlink requests around TCP-encapsulated SAs: whatever a daemon,
 * or one who plays it, can say, in any combination. Every request is answered,
 * and what was set up goes away again, in full.
 *
 * XFRM_REQUESTS=N  how many (default 20000)
 * XFRM_SEED=N      repeats a run
 */
#include "kselftest_harness.h"

#include <linux/netlink.h>
#include <linux/xfrm.h>

#include "espintcp_hosts.h"
#include "espintcp_random.h"

#define DEFAULT_REQUESTS	20000
#define ENCAP_ESPINTCP		7
#define REQUEST_MAX		4096
/* Few of each, so that requests find what others have set up. */
#define NR_SPIS			6
#define NR_REQIDS		3

struct request {
	struct nlmsghdr n;
	__u8 body[REQUEST_MAX];
};

static void *put(struct request *r, size_t len)
{
	void *p = (__u8 *)r + NLMSG_ALIGN(r->n.nlmsg_len);

	memset(p, 0, NLMSG_ALIGN(len));
	r->n.nlmsg_len = NLMSG_ALIGN(r->n.nlmsg_len) + len;
	return p;
}

static void *put_attr(struct request *r, int type, size_t len)
{
	struct nlattr *a = put(r, NLA_HDRLEN + len);

	a->nla_type = type;
	a->nla_len = NLA_HDRLEN + len;
	return a + 1;
}

static void put_random(struct request *r, int type, size_t len)
{
	__u8 *p = put_attr(r, type, len);

	while (len--)
		*p++ = chance(50) ? 0 : rnd64();
}

static void put_u32(struct request *r, int type, __u32 value)
{
	memcpy(put_attr(r, type, sizeof(value)), &value, sizeof(value));
}

static __u16 random_family(void)
{
	static const __u16 families[] = { AF_INET, AF_INET, AF_INET6, AF_UNIX };

	return families[rnd(chance(95) ? 3 : 4)];
}

static __u8 random_proto(void)
{
	static const __u8 protos[] = { IPPROTO_ESP, IPPROTO_AH, IPPROTO_COMP, 0 };

	return chance(90) ? IPPROTO_ESP : protos[rnd(4)];
}

static void random_addr(xfrm_address_t *a, __u16 family)
{
	memset(a, 0, sizeof(*a));
	if (family == AF_INET6) {
		a->a6[3] = htonl(1);
		if (chance(20))
			a->a6[0] = htonl(0x20010db8);
	} else {
		a->a4 = htonl(INADDR_LOOPBACK + rnd(2));
	}
}

static __be32 random_spi(void)
{
	return htonl(chance(97) ? 0x1000 + rnd(NR_SPIS) : rnd(300));
}

/* Names that exist and such that do not, keys that fit and such that do not. */
static void put_aead(struct request *r)
{
	static const struct {
		const char *name;
		int bits;
	} algos[] = {
		{ "rfc4106(gcm(aes))", 160 }, { "rfc4309(ccm(aes))", 152 },
		{ "rfc7539esp(chacha20,poly1305)", 288 },
		{ "rfc4543(gcm(aes))", 160 }, { "gcm(aes)", 128 }, { "no", 0 },
	};
	int i = rnd(ARRAY_SIZE(algos));
	int bits = chance(90) ? algos[i].bits : (int)rnd(64) * 8;
	struct xfrm_algo_aead *a = put_attr(r, XFRMA_ALG_AEAD,
					    sizeof(*a) + bits / 8);

	strcpy(a->alg_name, algos[i].name);
	a->alg_key_len = chance(97) ? bits : (int)rnd(4000);
	a->alg_icv_len = chance(90) ? 128 : (int)rnd(40) * 8;
}

static void put_algo(struct request *r, int type, const char *name, int bits)
{
	struct xfrm_algo *a;

	if (chance(5))
		bits = rnd(64) * 8;
	a = put_attr(r, type, sizeof(*a) + bits / 8);
	strcpy(a->alg_name, name);
	a->alg_key_len = bits;
}

static void put_algorithms(struct request *r)
{
	switch (rnd(8)) {
	case 0:
		put_algo(r, XFRMA_ALG_CRYPT, "cbc(aes)", 128);
		put_algo(r, XFRMA_ALG_AUTH, "hmac(sha256)", 256);
		break;
	case 1:
		put_algo(r, XFRMA_ALG_CRYPT, "ecb(cipher_null)", 0);
		if (chance(80))
			put_algo(r, XFRMA_ALG_AUTH, "digest_null", 0);
		break;
	case 2:
		put_algo(r, XFRMA_ALG_COMP, "deflate", 0);
		break;
	default:
		put_aead(r);
	}
	if (chance(3))
		put_aead(r);
}

static void put_encap(struct request *r, __u16 sport, __u16 dport)
{
	struct xfrm_encap_tmpl *e = put_attr(r, XFRMA_ENCAP, sizeof(*e));

	e->encap_type = chance(85) ? ENCAP_ESPINTCP : rnd(9);
	e->encap_sport = chance(70) ? sport : htons(rnd(65536));
	e->encap_dport = chance(70) ? dport : htons(rnd(65536));
}

static void put_esn(struct request *r)
{
	struct xfrm_replay_state_esn *e;
	__u32 words = chance(90) ? 1 + rnd(8) : rnd(200);

	e = put_attr(r, XFRMA_REPLAY_ESN_VAL, sizeof(*e) + words * 4);
	e->bmp_len = chance(90) ? words : rnd(300);
	e->replay_window = rnd(words * 32 + (chance(5) ? 100 : 1));
	e->oseq = chance(80) ? rnd(10) : rnd64();
	e->oseq_hi = chance(80) ? 0 : rnd64();
}

/* What else can be in a request, each now and then. */
static void put_extras(struct request *r, __u16 family)
{
	struct xfrm_replay_state *rs;
	struct xfrm_mark *mark;
	xfrm_address_t *coaddr;

	if (chance(30))
		put_esn(r);
	if (chance(10)) {
		rs = put_attr(r, XFRMA_REPLAY_VAL, sizeof(*rs));
		rs->oseq = rnd64();
		rs->seq = rnd64();
	}
	if (chance(10)) {
		mark = put_attr(r, XFRMA_MARK, sizeof(*mark));
		mark->v = rnd(3);
		mark->m = chance(50) ? ~0U : rnd(4);
	}
	if (chance(10)) {
		coaddr = put_attr(r, XFRMA_COADDR, sizeof(*coaddr));
		random_addr(coaddr, family);
	}
	if (chance(10))
		put_u32(r, XFRMA_TFCPAD, chance(50) ? rnd(2000) : rnd64());
	if (chance(10))
		put_u32(r, XFRMA_IF_ID, rnd(3));
	if (chance(10))
		put_u32(r, XFRMA_SA_EXTRA_FLAGS, rnd(8));
	if (chance(5))
		put_u32(r, XFRMA_SET_MARK, rnd64());
	if (chance(5))
		put_random(r, XFRMA_OFFLOAD_DEV, 8);
	if (chance(5))
		put_random(r, XFRMA_SEC_CTX, 8 + rnd(20));
	if (chance(5))
		put_random(r, rnd(40), rnd(64));
}

static void put_sa(struct request *r, const struct pair *p)
{
	__u16 family = random_family();
	struct xfrm_usersa_info *sa = put(r, sizeof(*sa));

	random_addr(&sa->id.daddr, family);
	random_addr(&sa->saddr, family);
	sa->id.spi = random_spi();
	sa->id.proto = random_proto();
	sa->family = chance(97) ? family : random_family();
	sa->mode = chance(97) ? rnd(5) : rnd(256);
	sa->reqid = rnd(NR_REQIDS);
	sa->replay_window = chance(50) ? 0 : rnd(chance(90) ? 33 : 256);
	sa->flags = chance(50) ? 0 : rnd(256);
	sa->lft.soft_byte_limit = chance(90) ? XFRM_INF : rnd(2000);
	sa->lft.hard_byte_limit = chance(90) ? XFRM_INF : rnd(4000);
	sa->lft.soft_packet_limit = XFRM_INF;
	sa->lft.hard_packet_limit = chance(90) ? XFRM_INF : rnd(20);
	put_algorithms(r);
	if (chance(90))
		put_encap(r, local_port(p->ulp), local_port(p->raw));
	put_extras(r, family);
}

static void put_sa_id(struct request *r)
{
	__u16 family = random_family();
	struct xfrm_usersa_id *id = put(r, sizeof(*id));

	random_addr(&id->daddr, family);
	id->spi = random_spi();
	id->family = family;
	id->proto = random_proto();
	put_extras(r, family);
}

static void put_alloc_spi(struct request *r, const struct pair *p)
{
	__u16 family = random_family();
	struct xfrm_userspi_info *spi = put(r, sizeof(*spi));

	random_addr(&spi->info.id.daddr, family);
	random_addr(&spi->info.saddr, family);
	spi->info.id.proto = random_proto();
	spi->info.family = family;
	spi->info.mode = rnd(5);
	spi->info.reqid = rnd(NR_REQIDS);
	spi->min = 0x1000;
	spi->max = 0x1000 + rnd(NR_SPIS);
	if (chance(30))
		put_encap(r, local_port(p->ulp), local_port(p->raw));
	put_extras(r, family);
}

static void put_ae(struct request *r)
{
	__u16 family = random_family();
	struct xfrm_aevent_id *ae = put(r, sizeof(*ae));

	random_addr(&ae->sa_id.daddr, family);
	ae->sa_id.spi = random_spi();
	ae->sa_id.family = family;
	ae->sa_id.proto = random_proto();
	ae->flags = rnd(256);
	ae->reqid = rnd(NR_REQIDS);
	put_extras(r, family);
}

static void put_expire(struct request *r)
{
	__u16 family = random_family();
	struct xfrm_user_expire *e = put(r, sizeof(*e));

	random_addr(&e->state.id.daddr, family);
	e->state.id.spi = random_spi();
	e->state.id.proto = random_proto();
	e->state.family = family;
	e->hard = rnd(2);
	put_extras(r, family);
}

static void put_migrate(struct request *r, const struct pair *p)
{
	__u16 family = random_family();
	struct xfrm_userpolicy_id *pol = put(r, sizeof(*pol));
	struct xfrm_user_migrate *m;

	pol->sel.family = family;
	pol->dir = rnd(3);
	m = put_attr(r, XFRMA_MIGRATE, sizeof(*m));
	random_addr(&m->old_daddr, family);
	random_addr(&m->old_saddr, family);
	family = random_family();
	random_addr(&m->new_daddr, family);
	random_addr(&m->new_saddr, family);
	m->proto = IPPROTO_ESP;
	m->mode = rnd(3);
	m->reqid = rnd(NR_REQIDS);
	m->old_family = pol->sel.family;
	m->new_family = family;
	if (chance(70))
		put_encap(r, local_port(p->ulp), local_port(p->raw));
	put_extras(r, family);
}

static void put_policy(struct request *r)
{
	__u16 family = random_family();
	struct xfrm_userpolicy_info *pol = put(r, sizeof(*pol));
	struct xfrm_user_tmpl *t;

	pol->sel.family = family;
	pol->dir = rnd(3);
	pol->lft.soft_byte_limit = XFRM_INF;
	pol->lft.hard_byte_limit = XFRM_INF;
	pol->lft.soft_packet_limit = XFRM_INF;
	pol->lft.hard_packet_limit = XFRM_INF;
	/* 10.0.0.2 only: the connections themselves are to stay. */
	pol->sel.prefixlen_d = family == AF_INET6 ? 128 : 32;
	pol->sel.daddr.a4 = htonl(0x0a000002);
	t = put_attr(r, XFRMA_TMPL, sizeof(*t));
	random_addr(&t->id.daddr, family);
	random_addr(&t->saddr, family);
	t->id.proto = IPPROTO_ESP;
	t->family = family;
	t->mode = rnd(5);
	t->reqid = rnd(NR_REQIDS);
	t->aalgos = ~0U;
	t->ealgos = ~0U;
	t->calgos = ~0U;
}

static void random_request(struct request *r, const struct pair *p)
{
	static const __u16 types[] = {
		XFRM_MSG_NEWSA, XFRM_MSG_NEWSA, XFRM_MSG_NEWSA, XFRM_MSG_UPDSA,
		XFRM_MSG_UPDSA, XFRM_MSG_DELSA, XFRM_MSG_GETSA,
		XFRM_MSG_ALLOCSPI, XFRM_MSG_NEWAE, XFRM_MSG_GETAE,
		XFRM_MSG_EXPIRE, XFRM_MSG_MIGRATE, XFRM_MSG_UPDPOLICY,
	};

	memset(&r->n, 0, sizeof(r->n));
	r->n.nlmsg_len = NLMSG_HDRLEN;
	r->n.nlmsg_type = types[rnd(ARRAY_SIZE(types))];
	r->n.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
	switch (r->n.nlmsg_type) {
	case XFRM_MSG_NEWSA:
	case XFRM_MSG_UPDSA:
		put_sa(r, p);
		break;
	case XFRM_MSG_ALLOCSPI:
		put_alloc_spi(r, p);
		break;
	case XFRM_MSG_NEWAE:
	case XFRM_MSG_GETAE:
		put_ae(r);
		break;
	case XFRM_MSG_EXPIRE:
		put_expire(r);
		break;
	case XFRM_MSG_MIGRATE:
		put_migrate(r, p);
		break;
	case XFRM_MSG_UPDPOLICY:
		put_policy(r);
		break;
	default:
		put_sa_id(r);
	}
	/* Shorter than it says, or an octet that is something else. */
	if (chance(3))
		r->n.nlmsg_len -= rnd(r->n.nlmsg_len - NLMSG_HDRLEN + 1);
	if (chance(5))
		r->body[rnd(r->n.nlmsg_len - NLMSG_HDRLEN + 1)] = rnd64();
}

/* Reads until the answer; 0 or a negative errno, 1 if none came. */
static int answer(int fd, __u32 seq)
{
	static __u8 buf[65536];
	struct nlmsghdr *n;
	int len;

	while ((len = recv(fd, buf, sizeof(buf), 0)) > 0)
		for (n = (void *)buf; NLMSG_OK(n, len); n = NLMSG_NEXT(n, len))
			if (n->nlmsg_type == NLMSG_ERROR && n->nlmsg_seq == seq)
				return ((struct nlmsgerr *)NLMSG_DATA(n))->error;
	return 1;
}

static long module_refs(void)
{
	FILE *f = fopen("/sys/module/espintcp/refcnt", "r");
	long refs = -1;

	if (f && fscanf(f, "%ld", &refs) != 1)
		refs = -1;
	if (f)
		fclose(f);
	return refs;
}

/* A packet for whatever SA the policies lead to, and one from it. */
static void some_traffic(struct pair *p, int udp)
{
	static __u8 record[2000];
	struct sockaddr_in to = {
		.sin_family = AF_INET, .sin_port = htons(9),
		.sin_addr.s_addr = htonl(0x0a000002),
	};
	__be32 spi = random_spi();

	sendto(udp, record, rnd(1400), MSG_DONTWAIT, (struct sockaddr *)&to,
	       sizeof(to));
	put_esp(record, 100);
	memcpy(record + HEADER_LEN, &spi, sizeof(spi));
	raw_write(p, record, HEADER_LEN + 100);
	recv(p->raw, record, sizeof(record), MSG_DONTWAIT);
}

FIXTURE(xfrm)
{
	struct request *r;
	struct pair p;
	int xfrm;
	int udp;
};

FIXTURE_SETUP(xfrm)
{
	const struct path path = { .family = AF_INET };

	self->r = calloc(1, sizeof(*self->r));
	ASSERT_NE(NULL, self->r);
	ASSERT_EQ(0, new_netns());
	ASSERT_EQ(0, run("set -e; ip link add inner type dummy; ip link set inner up; "
			 "ip addr add 10.0.0.1/24 dev inner"));
	ASSERT_EQ(0, tcp_pair(&self->p, &path));
	ASSERT_EQ(0, set_ulp(self->p.ulp, "espintcp"));
	self->udp = socket(AF_INET, SOCK_DGRAM, 0);
	self->xfrm = socket(AF_NETLINK, SOCK_RAW, NETLINK_XFRM);
	ASSERT_LE(0, self->xfrm);
	ASSERT_EQ(0, set_timeout(self->xfrm, SO_RCVTIMEO, WAIT_MS));
}

FIXTURE_TEARDOWN(xfrm)
{
	close(self->p.ulp);
	close(self->p.raw);
	close(self->udp);
	close(self->xfrm);
	free(self->r);
}

TEST_F_TIMEOUT(xfrm, random_requests, 3600)
{
	long n = env_number("XFRM_REQUESTS", DEFAULT_REQUESTS), i;
	long seed = env_number("XFRM_SEED", time(NULL));
	long refs = module_refs(), taken = 0, refused = 0;
	struct request *r = self->r;
	int err;

	TH_LOG("XFRM_SEED=%ld", seed);
	random_state = seed;
	for (i = 1; i <= n; i++) {
		random_request(r, &self->p);
		r->n.nlmsg_seq = i;
		ASSERT_LT(0, send(self->xfrm, r, r->n.nlmsg_len, 0));
		err = answer(self->xfrm, i);
		ASSERT_GE(0, err) {
			TH_LOG("no answer to request %ld, type %u", i,
			       r->n.nlmsg_type);
		}
		taken += !err;
		refused += !!err;
		if (chance(20))
			some_traffic(&self->p, self->udp);
	}
	TH_LOG("%ld taken, %ld refused", taken, refused);
	EXPECT_LT(n / 50, taken);
	EXPECT_LT(n / 50, refused);

	/* Nothing of it keeps the module. */
	EXPECT_EQ(0, run("ip xfrm policy flush && ip xfrm state flush"));
	EXPECT_TRUE(wait_for(module_refs() <= refs)) {
		TH_LOG("%ld references, %ld before", module_refs(), refs);
	}
}

TEST_HARNESS_MAIN
