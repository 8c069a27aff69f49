// SPDX-License-Identifier: GPL-2.0
/*
 * Random XFRM netlink requests around TCP-encapsulated SAs: whatever a daemon,
 * or one who plays it, can say, in any combination, while packets of these SAs go
 * both ways. Every request is answered, and what was set up goes away again, in
 * full.
 *
 * XFRM_REQUESTS=N  how many (default 20000)
 * XFRM_SEED=N      repeats a run
 */
#include "kselftest_harness.h"

#include <linux/bpf.h>
#include <linux/netlink.h>
#include <stddef.h>

#include "espintcp_hosts.h"
#include "espintcp_random.h"
#include "xfrm_migrate.h"

#define DEFAULT_REQUESTS	20000
#define ENCAP_ESPINTCP		7
#define REQUEST_MAX		4096
/* Few of each, so that requests find what others have set up. */
#define NR_SPIS			6
#define NR_REQIDS		2
/* What the policies are for, but for a few that are for more of these networks. */
#define INNER_NET4		0x0a000000
#define INNER_NET6		0xfd000000
#define INNER_PEER		2

/* Headers may be older than the kernel. */
#define MODE_IPTFS		5
#define ATTR_MTIMER_THRESH	32
#define ATTR_SA_DIR		33
#define ATTR_NAT_KEEPALIVE	34
#define ATTR_SA_PCPU		35
#define ATTR_IPTFS_DROP_TIME	36
#define ATTR_IPTFS_REORDER	37
#define ATTR_IPTFS_DONT_FRAG	38
#define ATTR_IPTFS_INIT_DELAY	39
#define ATTR_IPTFS_MAX_QSIZE	40
#define ATTR_IPTFS_PKT_SIZE	41

/* Numbers that messages may have one day. */
#define NR_MSGS			32

struct request {
	struct nlmsghdr n;
	__u8 body[REQUEST_MAX];
};

/* What came of one. The reason is empty if none was given. */
struct result {
	int err;
	char reason[128];
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

/* As wide as the attribute is, or is not. */
static void put_number(struct request *r, int type, size_t len, __u64 value)
{
	void *p = put_attr(r, type, len);
	__u32 u32 = value;
	__u16 u16 = value;
	__u8 u8 = value;

	switch (len) {
	case sizeof(u8):
		memcpy(p, &u8, sizeof(u8));
		break;
	case sizeof(u16):
		memcpy(p, &u16, sizeof(u16));
		break;
	case sizeof(u32):
		memcpy(p, &u32, sizeof(u32));
		break;
	case sizeof(value):
		memcpy(p, &value, sizeof(value));
		break;
	}
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
		if (chance(10))
			a->a6[0] = htonl(0x20010db8);
	} else {
		a->a4 = htonl(INADDR_LOOPBACK + chance(10));
	}
}

static __be32 random_spi(void)
{
	return htonl(chance(97) ? 0x1000 + rnd(NR_SPIS) : rnd(300));
}

/* Most often the one that carries the packets of all policies. */
static __u8 random_mode(void)
{
	return chance(70) ? XFRM_MODE_TUNNEL : rnd(MODE_IPTFS + 1);
}

/* Devices there are, with ESP in hardware and without, and such that are not. */
static int random_ifindex(void)
{
	static const char * const names[] = { "lo", "inner", "veth0", "nsim0" };
	unsigned int i = rnd(ARRAY_SIZE(names) + 1);

	return i < ARRAY_SIZE(names) ? if_nametoindex(names[i]) : rnd(1000);
}

static void no_limits(struct xfrm_lifetime_cfg *lft)
{
	lft->soft_byte_limit = XFRM_INF;
	lft->hard_byte_limit = XFRM_INF;
	lft->soft_packet_limit = XFRM_INF;
	lft->hard_packet_limit = XFRM_INF;
}

static void inner_addr(xfrm_address_t *a, __u16 family, __u32 host)
{
	memset(a, 0, sizeof(*a));
	if (family == AF_INET6) {
		a->a6[0] = htonl(INNER_NET6);
		a->a6[3] = htonl(host);
	} else {
		a->a4 = htonl(INNER_NET4 + host);
	}
}

/* Of all packets to the inner peer, or of any that are not the connection's. */
static void random_selector(struct xfrm_selector *sel, __u16 family)
{
	int bits = family == AF_INET6 ? 128 : 32;

	sel->family = family;
	sel->prefixlen_d = bits;
	inner_addr(&sel->daddr, family, INNER_PEER);
	if (chance(80))
		return;
	inner_addr(&sel->daddr, family, rnd(4));
	inner_addr(&sel->saddr, family, rnd(4));
	sel->prefixlen_d = 8 + rnd(bits - 7);
	sel->prefixlen_s = chance(50) ? 0 : rnd(bits + 1);
	sel->proto = chance(50) ? IPPROTO_UDP : rnd(256);
	sel->dport = htons(chance(50) ? 9 : rnd(65536));
	sel->dport_mask = chance(50) ? 0xffff : rnd(65536);
	sel->sport_mask = chance(80) ? 0 : rnd(65536);
	sel->ifindex = chance(80) ? 0 : random_ifindex();
	sel->user = chance(90) ? 0 : rnd64();
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
	int i = chance(50) ? 0 : rnd(ARRAY_SIZE(algos));
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

static void put_auth_trunc(struct request *r)
{
	struct xfrm_algo_auth *a = put_attr(r, XFRMA_ALG_AUTH_TRUNC,
					    sizeof(*a) + 256 / 8);

	strcpy(a->alg_name, "hmac(sha256)");
	a->alg_key_len = chance(95) ? 256 : (int)rnd(4000);
	a->alg_trunc_len = chance(80) ? 128 : (int)rnd(40) * 8;
}

static void put_algorithms(struct request *r)
{
	switch (rnd(12)) {
	case 0:
		put_algo(r, XFRMA_ALG_CRYPT, "cbc(aes)", 128);
		if (chance(50))
			put_auth_trunc(r);
		if (chance(60))
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

/* Of an SA out or in; one of this host's can be both. */
static void put_encap(struct request *r, const struct pair *p, int type)
{
	struct xfrm_encap_tmpl *e = put_attr(r, XFRMA_ENCAP, sizeof(*e));
	bool out = chance(70);

	e->encap_type = type;
	e->encap_sport = local_port(out ? p->ulp : p->raw);
	e->encap_dport = local_port(out ? p->raw : p->ulp);
	if (chance(10))
		e->encap_sport = htons(rnd(65536));
	if (chance(10))
		e->encap_dport = htons(rnd(65536));
}

static int random_encap_type(void)
{
	return chance(90) ? ENCAP_ESPINTCP : rnd(9);
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

static void put_replay(struct request *r)
{
	struct xfrm_replay_state *rs = put_attr(r, XFRMA_REPLAY_VAL, sizeof(*rs));

	rs->oseq = chance(50) ? rnd(10) : rnd64();
	rs->seq = chance(50) ? rnd(10) : rnd64();
	rs->bitmap = rnd64();
}

static void put_lifetime(struct request *r)
{
	struct xfrm_lifetime_cur *l = put_attr(r, XFRMA_LTIME_VAL, sizeof(*l));

	l->bytes = rnd(5000);
	l->packets = rnd(30);
	l->add_time = chance(50) ? 0 : rnd64();
	l->use_time = chance(50) ? 0 : rnd64();
}

static void put_mark(struct request *r)
{
	struct xfrm_mark *mark = put_attr(r, XFRMA_MARK, sizeof(*mark));

	mark->v = rnd(3);
	mark->m = chance(50) ? ~0U : rnd(4);
}

static void put_addr(struct request *r, int type, __u16 family)
{
	random_addr(put_attr(r, type, sizeof(xfrm_address_t)), family);
}

static void put_kmaddress(struct request *r, __u16 family)
{
	struct xfrm_user_kmaddress *k = put_attr(r, XFRMA_KMADDRESS, sizeof(*k));

	random_addr(&k->local, family);
	random_addr(&k->remote, family);
	k->family = family;
}

static void put_address_filter(struct request *r, __u16 family)
{
	struct xfrm_address_filter *f = put_attr(r, XFRMA_ADDRESS_FILTER,
						 sizeof(*f));

	random_addr(&f->saddr, family);
	random_addr(&f->daddr, family);
	f->family = chance(90) ? family : rnd(40);
	f->splen = chance(50) ? 0 : rnd(chance(90) ? 33 : 256);
	f->dplen = chance(50) ? 0 : rnd(chance(90) ? 33 : 256);
}

static void put_policy_type(struct request *r)
{
	struct xfrm_userpolicy_type *t = put_attr(r, XFRMA_POLICY_TYPE,
						  sizeof(*t));

	t->type = chance(80) ? XFRM_POLICY_TYPE_MAIN : rnd(4);
}

static void put_offload(struct request *r)
{
	struct xfrm_user_offload *o = put_attr(r, XFRMA_OFFLOAD_DEV, sizeof(*o));

	o->ifindex = random_ifindex();
	o->flags = chance(90) ? rnd(4) : rnd(256);
}

/* Below @max most often. */
static const struct {
	int type;
	__u8 len;
	__u8 percent;
	__u32 max;
} numbers[] = {
	{ XFRMA_TFCPAD, 4, 10, 2000 },
	{ XFRMA_IF_ID, 4, 10, 3 },
	{ XFRMA_SA_EXTRA_FLAGS, 4, 10, 8 },
	{ XFRMA_SET_MARK, 4, 10, 3 },
	{ XFRMA_SET_MARK_MASK, 4, 5, 3 },
	{ XFRMA_REPLAY_THRESH, 4, 5, 10 },
	{ XFRMA_ETIMER_THRESH, 4, 5, 10 },
	{ XFRMA_PROTO, 1, 3, 256 },
	{ XFRMA_LASTUSED, 8, 3, 1000 },
	{ ATTR_MTIMER_THRESH, 4, 3, 10 },
	{ ATTR_SA_DIR, 1, 10, 3 },
	{ ATTR_NAT_KEEPALIVE, 4, 5, 3 },
	{ ATTR_SA_PCPU, 4, 3, 2 },
	{ ATTR_IPTFS_DROP_TIME, 4, 2, 1000 },
	{ ATTR_IPTFS_REORDER, 2, 2, 10 },
	{ ATTR_IPTFS_DONT_FRAG, 0, 2, 1 },
	{ ATTR_IPTFS_INIT_DELAY, 4, 2, 1000 },
	{ ATTR_IPTFS_MAX_QSIZE, 4, 2, 100000 },
	{ ATTR_IPTFS_PKT_SIZE, 4, 2, 1500 },
};

static void put_numbers(struct request *r)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(numbers); i++)
		if (chance(numbers[i].percent))
			put_number(r, numbers[i].type, numbers[i].len,
				   chance(90) ? rnd(numbers[i].max) : rnd64());
}

/* What else can be in a request, each now and then. */
static void put_extras(struct request *r, __u16 family)
{
	if (chance(50))
		return;
	put_numbers(r);
	if (chance(30))
		put_esn(r);
	if (chance(10))
		put_replay(r);
	if (chance(5))
		put_lifetime(r);
	if (chance(10))
		put_mark(r);
	if (chance(10))
		put_addr(r, XFRMA_COADDR, family);
	if (chance(10))
		put_addr(r, XFRMA_SRCADDR, family);
	if (chance(5))
		put_kmaddress(r, family);
	if (chance(5))
		put_address_filter(r, family);
	if (chance(10))
		put_policy_type(r);
	if (chance(10))
		put_offload(r);
	if (chance(5))
		put_random(r, XFRMA_SEC_CTX, 8 + rnd(20));
	if (chance(5))
		put_random(r, rnd(60), rnd(64));
}

static void random_sa(struct xfrm_usersa_info *sa, __u16 family)
{
	random_addr(&sa->id.daddr, family);
	random_addr(&sa->saddr, family);
	sa->id.spi = random_spi();
	sa->id.proto = random_proto();
	sa->family = chance(97) ? family : random_family();
	sa->mode = chance(97) ? random_mode() : rnd(256);
	sa->reqid = rnd(NR_REQIDS);
	sa->replay_window = chance(50) ? 0 : rnd(chance(90) ? 33 : 256);
	sa->flags = chance(70) ? 0 : rnd(256);
	if (chance(20))
		random_selector(&sa->sel, family);
	no_limits(&sa->lft);
	if (chance(10))
		sa->lft.soft_byte_limit = rnd(2000);
	if (chance(10))
		sa->lft.hard_byte_limit = rnd(4000);
	if (chance(10))
		sa->lft.hard_packet_limit = rnd(20);
}

/*
 * XFRM has no code, or not always, for packets of SAs of other modes, and tells
 * by a splat, whoever encrypts them: such SAs are asked for in TCP only.
 */
static bool has_code(int mode)
{
	return mode == XFRM_MODE_TRANSPORT || mode == XFRM_MODE_TUNNEL ||
	       mode == XFRM_MODE_BEET;
}

/* The encapsulation comes first, lest a request that is cut off be without. */
static void put_sa(struct request *r, const struct pair *p)
{
	struct xfrm_usersa_info *sa = put(r, sizeof(*sa));
	__u16 family = random_family();

	random_sa(sa, family);
	if (!has_code(sa->mode))
		put_encap(r, p, ENCAP_ESPINTCP);
	else if (chance(90))
		put_encap(r, p, random_encap_type());
	put_algorithms(r);
	put_extras(r, family);
}

static void random_sa_id(struct xfrm_usersa_id *id, __u16 family)
{
	random_addr(&id->daddr, family);
	id->spi = random_spi();
	id->family = family;
	id->proto = random_proto();
}

static void put_sa_id(struct request *r, const struct pair *p)
{
	__u16 family = random_family();

	random_sa_id(put(r, sizeof(struct xfrm_usersa_id)), family);
	put_extras(r, family);
}

static void put_get_sa(struct request *r, const struct pair *p)
{
	put_sa_id(r, p);
	if (chance(30))
		r->n.nlmsg_flags |= NLM_F_DUMP;
}

static void put_alloc_spi(struct request *r, const struct pair *p)
{
	__u16 family = random_family();
	struct xfrm_userspi_info *spi = put(r, sizeof(*spi));

	random_sa(&spi->info, family);
	spi->min = 0x1000;
	spi->max = 0x1000 + rnd(NR_SPIS);
	if (chance(30))
		put_encap(r, p, random_encap_type());
	put_extras(r, family);
}

/* Takes effect only as one that replaces. */
static void put_ae(struct request *r, const struct pair *p)
{
	__u16 family = random_family();
	struct xfrm_aevent_id *ae = put(r, sizeof(*ae));

	random_sa_id(&ae->sa_id, family);
	random_addr(&ae->saddr, family);
	ae->flags = rnd(256);
	ae->reqid = rnd(NR_REQIDS);
	if (chance(80))
		r->n.nlmsg_flags |= NLM_F_REPLACE;
	if (chance(30))
		put_lifetime(r);
	if (chance(30))
		put_replay(r);
	put_extras(r, family);
}

static void put_expire(struct request *r, const struct pair *p)
{
	__u16 family = random_family();
	struct xfrm_user_expire *e = put(r, sizeof(*e));

	random_sa(&e->state, family);
	e->hard = rnd(2);
	put_extras(r, family);
}

static void random_template(struct xfrm_user_tmpl *t, __u16 family)
{
	random_addr(&t->id.daddr, family);
	random_addr(&t->saddr, family);
	t->id.proto = random_proto();
	t->id.spi = chance(95) ? 0 : random_spi();
	t->family = family;
	t->mode = random_mode();
	t->reqid = rnd(NR_REQIDS);
	t->optional = chance(5);
	t->aalgos = ~0U;
	t->ealgos = ~0U;
	t->calgos = ~0U;
}

/* One of ESP is what most policies have. */
static void put_templates(struct request *r, __u16 family)
{
	int i, n = chance(90) ? 1 : rnd(8);
	struct xfrm_user_tmpl *t = put_attr(r, XFRMA_TMPL, n * sizeof(*t));

	for (i = 0; i < n; i++)
		random_template(&t[i], chance(90) ? family : random_family());
}

static void random_policy(struct xfrm_userpolicy_info *pol, __u16 family)
{
	random_selector(&pol->sel, family);
	no_limits(&pol->lft);
	if (chance(5))
		pol->lft.hard_packet_limit = rnd(20);
	pol->dir = chance(50) ? XFRM_POLICY_OUT : rnd(chance(95) ? 3 : 256);
	pol->priority = rnd(3);
	pol->action = chance(97) ? XFRM_POLICY_ALLOW : rnd(3);
	pol->flags = chance(80) ? 0 : rnd(256);
	pol->share = chance(95) ? XFRM_SHARE_ANY : rnd(5);
	pol->index = chance(95) ? 0 : rnd(40) * 8 + pol->dir;
}

static void put_policy(struct request *r, const struct pair *p)
{
	__u16 family = random_family();

	random_policy(put(r, sizeof(struct xfrm_userpolicy_info)), family);
	if (chance(95))
		put_templates(r, chance(90) ? family : random_family());
	put_extras(r, family);
}

static void put_policy_id(struct request *r, const struct pair *p)
{
	__u16 family = random_family();
	struct xfrm_userpolicy_id *id = put(r, sizeof(*id));

	random_selector(&id->sel, family);
	id->dir = rnd(chance(95) ? 3 : 256);
	id->index = chance(80) ? 0 : rnd(40) * 8 + id->dir;
	put_extras(r, family);
}

static void put_get_policy(struct request *r, const struct pair *p)
{
	put_policy_id(r, p);
	if (chance(30))
		r->n.nlmsg_flags |= NLM_F_DUMP;
}

static void put_policy_expire(struct request *r, const struct pair *p)
{
	__u16 family = random_family();
	struct xfrm_user_polexpire *e = put(r, sizeof(*e));

	random_policy(&e->pol, family);
	e->hard = rnd(2);
	put_extras(r, family);
}

static void put_acquire(struct request *r, const struct pair *p)
{
	__u16 family = random_family();
	struct xfrm_user_acquire *a = put(r, sizeof(*a));

	random_addr(&a->id.daddr, family);
	a->id.spi = random_spi();
	a->id.proto = random_proto();
	random_addr(&a->saddr, family);
	random_selector(&a->sel, family);
	random_policy(&a->policy, family);
	a->aalgos = rnd64();
	a->ealgos = rnd64();
	a->seq = rnd(10);
	put_templates(r, family);
	put_extras(r, family);
}

static void random_migrate(struct xfrm_user_migrate *m, __u16 family,
			   __u32 reqid)
{
	__u16 new_family = chance(70) ? family : random_family();

	random_addr(&m->old_daddr, family);
	random_addr(&m->old_saddr, family);
	random_addr(&m->new_daddr, new_family);
	random_addr(&m->new_saddr, new_family);
	m->proto = random_proto();
	m->mode = random_mode();
	m->reqid = reqid;
	m->old_family = family;
	m->new_family = new_family;
}

/*
 * With a reqid and without one an entry may mean the same SA as another, which the
 * kernel, whatever the SA, then deletes a second time when it may be gone.
 */
static void put_migrate(struct request *r, const struct pair *p)
{
	__u32 reqid = rnd(NR_REQIDS);
	__u16 family = random_family();
	struct xfrm_userpolicy_id *pol = put(r, sizeof(*pol));
	int i, n = chance(70) ? 1 : rnd(8);
	struct xfrm_user_migrate *m;

	random_selector(&pol->sel, family);
	pol->dir = rnd(3);
	m = put_attr(r, XFRMA_MIGRATE, n * sizeof(*m));
	for (i = 0; i < n; i++)
		random_migrate(&m[i], chance(90) ? family : random_family(),
			       reqid);
	if (chance(70))
		put_encap(r, p, random_encap_type());
	put_extras(r, family);
}

/* Of one SA. Whatever else it could be told, it refuses. */
static void put_migrate_state(struct request *r, const struct pair *p)
{
	__u16 family = random_family(), new_family;
	struct xfrm_user_migrate_state *m = put(r, sizeof(*m));

	new_family = chance(70) ? family : random_family();
	random_sa_id(&m->id, family);
	random_addr(&m->new_daddr, new_family);
	random_addr(&m->new_saddr, new_family);
	random_selector(&m->new_sel, new_family);
	m->new_reqid = rnd(NR_REQIDS);
	m->new_family = new_family;
	m->flags = chance(80) ? 0 : rnd(8);
	if (chance(20))
		put_encap(r, p, random_encap_type());
	if (chance(10))
		put_mark(r);
	if (chance(10))
		put_offload(r);
	if (chance(5))
		put_extras(r, family);
}

static void put_flush_sa(struct request *r, const struct pair *p)
{
	struct xfrm_usersa_flush *f = put(r, sizeof(*f));

	f->proto = chance(50) ? 0 : random_proto();
	put_extras(r, AF_INET);
}

static void put_nothing(struct request *r, const struct pair *p)
{
	put_extras(r, random_family());
}

/* Four octets of flags. */
static void put_info(struct request *r, const struct pair *p)
{
	*(__u32 *)put(r, sizeof(__u32)) = rnd64();
	put_extras(r, random_family());
}

static void put_spd_info(struct request *r, const struct pair *p)
{
	struct xfrmu_spdhthresh *t;
	int type;

	*(__u32 *)put(r, sizeof(__u32)) = rnd64();
	for (type = XFRMA_SPD_IPV4_HTHRESH; type <= XFRMA_SPD_IPV6_HTHRESH; type++) {
		if (chance(30))
			continue;
		t = put_attr(r, type, sizeof(*t));
		t->lbits = rnd(chance(90) ? 33 : 256);
		t->rbits = rnd(chance(90) ? 33 : 256);
	}
	if (chance(10))
		put_extras(r, AF_INET);
}

static void put_default(struct request *r, const struct pair *p)
{
	struct xfrm_userpolicy_default *d = put(r, sizeof(*d));

	d->in = rnd(4);
	d->fwd = rnd(4);
	d->out = rnd(4);
	put_extras(r, AF_INET);
}

/* What only the kernel says, in a form that would do for an SA. */
static void put_report(struct request *r, const struct pair *p)
{
	random_selector(&((struct xfrm_user_report *)
			  put(r, sizeof(struct xfrm_user_report)))->sel,
			random_family());
	put_extras(r, random_family());
}

static void put_mapping(struct request *r, const struct pair *p)
{
	__u16 family = random_family();
	struct xfrm_user_mapping *m = put(r, sizeof(*m));

	random_sa_id(&m->id, family);
	random_addr(&m->old_saddr, family);
	random_addr(&m->new_saddr, family);
	m->old_sport = local_port(p->raw);
	m->new_sport = htons(rnd(65536));
	m->reqid = rnd(NR_REQIDS);
	put_extras(r, family);
}

/* Whether a kernel ever takes one: not every kernel has all of them. */
enum acceptance { TAKES, MAY_TAKE, REFUSES };

/* Those that leave nothing behind come so rarely that something is there. */
static const struct message {
	int type;
	int weight;
	void (*put)(struct request *r, const struct pair *p);
	enum acceptance accepted;
} messages[] = {
	{ XFRM_MSG_NEWSA, 300, put_sa, TAKES },
	{ XFRM_MSG_UPDSA, 120, put_sa, TAKES },
	{ XFRM_MSG_DELSA, 40, put_sa_id, TAKES },
	{ XFRM_MSG_GETSA, 60, put_get_sa, TAKES },
	{ XFRM_MSG_NEWPOLICY, 40, put_policy, TAKES },
	{ XFRM_MSG_UPDPOLICY, 80, put_policy, TAKES },
	{ XFRM_MSG_DELPOLICY, 20, put_policy_id, TAKES },
	{ XFRM_MSG_GETPOLICY, 40, put_get_policy, TAKES },
	{ XFRM_MSG_POLEXPIRE, 20, put_policy_expire, TAKES },
	{ XFRM_MSG_ALLOCSPI, 40, put_alloc_spi, TAKES },
	{ XFRM_MSG_ACQUIRE, 30, put_acquire, TAKES },
	{ XFRM_MSG_EXPIRE, 40, put_expire, TAKES },
	{ XFRM_MSG_NEWAE, 60, put_ae, TAKES },
	{ XFRM_MSG_GETAE, 40, put_ae, TAKES },
	{ XFRM_MSG_MIGRATE, 100, put_migrate, TAKES },
	{ XFRM_MSG_MIGRATE_STATE, 60, put_migrate_state, MAY_TAKE },
	{ XFRM_MSG_FLUSHSA, 2, put_flush_sa, TAKES },
	{ XFRM_MSG_FLUSHPOLICY, 2, put_nothing, TAKES },
	{ XFRM_MSG_GETSADINFO, 10, put_info, TAKES },
	{ XFRM_MSG_GETSPDINFO, 10, put_info, TAKES },
	{ XFRM_MSG_NEWSADINFO, 5, put_info, REFUSES },
	{ XFRM_MSG_NEWSPDINFO, 10, put_spd_info, TAKES },
	{ XFRM_MSG_SETDEFAULT, 10, put_default, TAKES },
	{ XFRM_MSG_GETDEFAULT, 10, put_default, TAKES },
	{ XFRM_MSG_REPORT, 5, put_report, REFUSES },
	{ XFRM_MSG_MAPPING, 5, put_mapping, REFUSES },
};

static const struct message *random_message(void)
{
	int i, left, sum = 0;

	for (i = 0; i < (int)ARRAY_SIZE(messages); i++)
		sum += messages[i].weight;
	left = rnd(sum);
	for (i = 0; left >= messages[i].weight; i++)
		left -= messages[i].weight;
	return &messages[i];
}

static void begin_request(struct request *r, int type)
{
	memset(&r->n, 0, sizeof(r->n));
	r->n.nlmsg_len = NLMSG_HDRLEN;
	r->n.nlmsg_type = type;
	r->n.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
}

/* For the mode see has_code(). */
static void spoil_octet(struct request *r)
{
	unsigned int at = rnd(r->n.nlmsg_len - NLMSG_HDRLEN + 1);

	if (at != offsetof(struct xfrm_usersa_info, mode))
		r->body[at] = rnd64();
}

/* Some are shorter than they say, or have something else in them. */
static void random_request(struct request *r, const struct pair *p)
{
	const struct message *m = random_message();

	begin_request(r, m->type);
	m->put(r, p);
	if (chance(3))
		r->n.nlmsg_len -= rnd(r->n.nlmsg_len - NLMSG_HDRLEN + 1);
	if (chance(5))
		spoil_octet(r);
	if (chance(1))
		r->n.nlmsg_type = XFRM_MSG_BASE + rnd(NR_MSGS);
}

static void read_reason(const struct nlmsghdr *n, struct result *res)
{
	const struct nlmsgerr *e = NLMSG_DATA(n);
	size_t at = NLMSG_LENGTH(sizeof(*e));
	const struct nlattr *a;

	if (!(n->nlmsg_flags & NLM_F_ACK_TLVS))
		return;
	if (!(n->nlmsg_flags & NLM_F_CAPPED))
		at += NLMSG_ALIGN(e->msg.nlmsg_len - NLMSG_HDRLEN);
	for (; at + NLA_HDRLEN <= n->nlmsg_len; at += NLA_ALIGN(a->nla_len)) {
		a = (const void *)((const __u8 *)n + at);
		if ((a->nla_type & NLA_TYPE_MASK) == NLMSGERR_ATTR_MSG)
			snprintf(res->reason, sizeof(res->reason), "%s",
				 (const char *)(a + 1));
	}
}

/* Whether it is the last word on a request. A dump ends with another one. */
static bool is_answer(const struct nlmsghdr *n, __u32 seq, struct result *res)
{
	if (n->nlmsg_seq != seq ||
	    (n->nlmsg_type != NLMSG_ERROR && n->nlmsg_type != NLMSG_DONE))
		return false;
	memcpy(&res->err, NLMSG_DATA(n), sizeof(res->err));
	if (n->nlmsg_type == NLMSG_ERROR)
		read_reason(n, res);
	return true;
}

/* Says @r and reads until the answer; false if none comes. */
static bool ask(int fd, struct request *r, struct result *res)
{
	static __u8 buf[65536];
	static __u32 seq;
	struct nlmsghdr *n;
	int len;

	memset(res, 0, sizeof(*res));
	r->n.nlmsg_seq = ++seq;
	if (send(fd, r, r->n.nlmsg_len, 0) < 0)
		return false;
	while ((len = recv(fd, buf, sizeof(buf), 0)) > 0)
		for (n = (void *)buf; NLMSG_OK(n, (unsigned int)len);
		     n = NLMSG_NEXT(n, len))
			if (is_answer(n, seq, res))
				return true;
	return false;
}

/* Tells why it refuses something, without repeating all of it. */
static int xfrm_socket(void)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_XFRM);

	return fd < 0 || set_int(fd, SOL_NETLINK, NETLINK_EXT_ACK, 1) ||
	       set_int(fd, SOL_NETLINK, NETLINK_CAP_ACK, 1) ||
	       set_timeout(fd, SO_RCVTIMEO, WAIT_MS) ? -1 : fd;
}

/* Hears of everything, so that there is somebody whom the kernel can ask. */
static int monitor_socket(void)
{
	struct sockaddr_nl addr = { .nl_family = AF_NETLINK, .nl_groups = ~0U };
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_XFRM);

	return fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) ? -1 : fd;
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

/* As daemons do for the connection, whatever the policies are. */
static int bypass(int fd)
{
	int family = get_int(fd, SOL_SOCKET, SO_DOMAIN);
	struct xfrm_userpolicy_info pol = {
		.sel.family = family,
		.action = XFRM_POLICY_ALLOW,
	};

	no_limits(&pol.lft);
	for (pol.dir = XFRM_POLICY_IN; pol.dir <= XFRM_POLICY_OUT; pol.dir++)
		if (setsockopt(fd, family == AF_INET6 ? IPPROTO_IPV6 : IPPROTO_IP,
			       family == AF_INET6 ? IPV6_XFRM_POLICY : IP_XFRM_POLICY,
			       &pol, sizeof(pol)))
			return -1;
	return 0;
}

static void close_pair(struct pair *p)
{
	close(p->ulp);
	close(p->raw);
}

static bool is_open(const struct pair *p)
{
	struct tcp_info ti;

	return !tcp_info(p->ulp, &ti) && ti.tcpi_state == BPF_TCP_ESTABLISHED;
}

#define NETDEVSIM "/sys/bus/netdevsim/"

/* One that offers to do ESP, where the kernel can play it. */
static void add_esp_device(void)
{
	/* It comes to this namespace, which had no eth0. */
	run("modprobe -q netdevsim");
	if (!write_file(NETDEVSIM "new_device", "77 1"))
		run("ip link set eth0 name nsim0 && ip link set nsim0 up");
}

static void del_esp_device(void)
{
	write_file(NETDEVSIM "del_device", "77");
}

/*
 * @record is the last that the ULP has sent: it is authentic, since an SA from
 * this host to itself is one both ways. What came of requests counts by type.
 */
struct scene {
	struct request r;
	struct pair p;
	int xfrm;
	int monitor;
	int udp4;
	int udp6;
	__u8 record[RECORD_MAX];
	size_t record_len;
	long opened;
	long taken[NR_MSGS];
	long refused[NR_MSGS];
	bool missing[NR_MSGS];
};

static int open_pair(struct scene *s)
{
	const struct path path = {
		.family = chance(75) ? AF_INET : AF_INET6,
		.accepted = chance(50),
		.prepare = bypass,
	};

	s->opened++;
	return tcp_pair(&s->p, &path) || set_ulp(s->p.ulp, "espintcp") ? -1 : 0;
}

static void send_inner(int fd, int family)
{
	static const __u8 payload[1400];
	struct sockaddr_in6 a6 = { .sin6_family = AF_INET6, .sin6_port = htons(9) };
	struct sockaddr_in a4 = { .sin_family = AF_INET, .sin_port = htons(9) };
	xfrm_address_t peer;

	inner_addr(&peer, family, INNER_PEER);
	a4.sin_addr.s_addr = peer.a4;
	memcpy(&a6.sin6_addr, &peer, sizeof(a6.sin6_addr));
	if (family == AF_INET6)
		sendto(fd, payload, rnd(sizeof(payload)), MSG_DONTWAIT,
		       (struct sockaddr *)&a6, sizeof(a6));
	else
		sendto(fd, payload, rnd(sizeof(payload)), MSG_DONTWAIT,
		       (struct sockaddr *)&a4, sizeof(a4));
}

/* Of a known SA it ends the connection, which is not to be always. */
static size_t put_garbage(__u8 *record)
{
	__be32 spi = chance(10) ? random_spi() : htonl(0x2000 + rnd(1000));
	size_t len = put_esp(record, 100);

	memcpy(record + HEADER_LEN, &spi, sizeof(spi));
	return len;
}

static void take_records(struct scene *s)
{
	ssize_t len;

	while (poll_now(s->p.raw, POLLIN) & POLLIN) {
		len = raw_read_record(s->p.raw, s->record + HEADER_LEN);
		if (len < 0)
			break;
		s->record_len = HEADER_LEN + len;
		put_header(s->record, s->record_len);
	}
}

/* Packets for whatever SAs the policies lead to, and some from them. */
static void some_traffic(struct scene *s)
{
	__u8 garbage[HEADER_LEN + 100];
	size_t len = put_garbage(garbage);

	send_inner(s->udp4, AF_INET);
	send_inner(s->udp6, AF_INET6);
	take_records(s);
	if (chance(80) && s->record_len)
		raw_write(&s->p, s->record, s->record_len);
	else
		raw_write(&s->p, garbage, len);
	recv_all(s->p.ulp);
	recv_all(s->monitor);
}

/*
 * By a new one when it is gone, and now and then when it is not. As a daemon would,
 * most often without the SAs of the one before.
 */
static int keep_connected(struct scene *s)
{
	struct result res;

	if (rnd(300) && is_open(&s->p))
		return 0;
	close_pair(&s->p);
	if (chance(80)) {
		begin_request(&s->r, XFRM_MSG_FLUSHSA);
		put(&s->r, sizeof(struct xfrm_usersa_flush));
		if (!ask(s->xfrm, &s->r, &res) || res.err)
			return -1;
	}
	return open_pair(s);
}

static void count_result(struct scene *s, const struct result *res)
{
	unsigned int i = s->r.n.nlmsg_type - XFRM_MSG_BASE;

	if (res->err)
		s->refused[i]++;
	else
		s->taken[i]++;
	if (res->err == -ENOPROTOOPT)
		s->missing[i] = true;
}

static void expect_accepted(struct __test_metadata *_metadata,
			    const struct scene *s, const struct message *m)
{
	long taken = s->taken[m->type - XFRM_MSG_BASE];
	long refused = s->refused[m->type - XFRM_MSG_BASE];

	TH_LOG("type %#x: %ld taken, %ld refused", m->type, taken, refused);
	if (m->accepted == TAKES && !s->missing[m->type - XFRM_MSG_BASE])
		EXPECT_LT(0, taken);
	if (m->accepted == REFUSES)
		EXPECT_EQ(0, taken);
}

static void expect_traffic(struct __test_metadata *_metadata, long n)
{
	long in = counter("EspTcpInEsp"), out = counter("EspTcpOutEsp");
	long known = in - counter("EspTcpInUnknownSpi");

	TH_LOG("%ld packets in, %ld of them for an SA, %ld out, %ld connections aborted",
	       in, known, out, counter("EspTcpConnAborted"));
	EXPECT_LE(n / 10, in);
	EXPECT_LE(n / 50, known);
	EXPECT_LE(n / 200, out);
	EXPECT_LT(0, counter("EspTcpConnAborted"));
}

FIXTURE(xfrm)
{
	struct scene *s;
};

FIXTURE_SETUP(xfrm)
{
	struct scene *s = calloc(1, sizeof(*s));

	ASSERT_NE(NULL, s);
	self->s = s;
	ASSERT_EQ(0, new_netns());
	ASSERT_EQ(0, run("set -e; ip link add inner type dummy; ip link set inner up; "
			 "ip addr add 10.0.0.1/24 dev inner; "
			 "ip addr add fd00::1/64 dev inner nodad; "
			 "ip link add veth0 type veth peer name veth1; "
			 "ip link set veth0 up; ip link set veth1 up"));
	s->udp4 = socket(AF_INET, SOCK_DGRAM, 0);
	s->udp6 = socket(AF_INET6, SOCK_DGRAM, 0);
	s->xfrm = xfrm_socket();
	s->monitor = monitor_socket();
	ASSERT_LE(0, s->xfrm);
	ASSERT_LE(0, s->monitor);
	add_esp_device();
}

FIXTURE_TEARDOWN(xfrm)
{
	del_esp_device();
	close_pair(&self->s->p);
	close(self->s->udp4);
	close(self->s->udp6);
	close(self->s->xfrm);
	close(self->s->monitor);
	free(self->s);
}

TEST_F_TIMEOUT(xfrm, random_requests, 3600)
{
	long n = env_number("XFRM_REQUESTS", DEFAULT_REQUESTS), i;
	long seed = env_number("XFRM_SEED", time(NULL));
	long refs, taken = 0, refused = 0;
	struct scene *s = self->s;
	struct result res;

	TH_LOG("XFRM_SEED=%ld", seed);
	random_state = seed;
	ASSERT_EQ(0, open_pair(s));
	refs = module_refs();
	for (i = 1; i <= n; i++) {
		random_request(&s->r, &s->p);
		ASSERT_TRUE(ask(s->xfrm, &s->r, &res)) {
			TH_LOG("no answer to request %ld, type %#x", i,
			       s->r.n.nlmsg_type);
		}
		count_result(s, &res);
		taken += !res.err;
		refused += !!res.err;
		if (chance(20))
			some_traffic(s);
		ASSERT_EQ(0, keep_connected(s));
	}
	TH_LOG("%ld taken, %ld refused, %ld connections", taken, refused,
	       s->opened);
	EXPECT_LT(n / 50, taken);
	EXPECT_LT(n / 50, refused);
	/* Fewer may have left out any of it. */
	if (n >= DEFAULT_REQUESTS) {
		for (i = 0; i < (long)ARRAY_SIZE(messages); i++)
			expect_accepted(_metadata, s, &messages[i]);
		expect_traffic(_metadata, n);
	}

	/* Nothing of it keeps the module. */
	EXPECT_EQ(0, run("ip xfrm policy flush && ip xfrm state flush"));
	EXPECT_TRUE(wait_for(module_refs() <= refs)) {
		TH_LOG("%ld references, %ld before", module_refs(), refs);
	}
}

/* Of which nothing is wrong but who asks, or what the caller makes of it. */
static struct xfrm_usersa_info *put_good_sa(struct request *r, bool encap)
{
	struct xfrm_usersa_info *sa;
	struct xfrm_encap_tmpl *e;
	struct xfrm_algo_aead *a;

	begin_request(r, XFRM_MSG_NEWSA);
	sa = put(r, sizeof(*sa));
	inner_addr(&sa->id.daddr, AF_INET6, 2);
	inner_addr(&sa->saddr, AF_INET6, 1);
	sa->id.spi = htonl(encap ? 0x1001 : 0x1002);
	sa->id.proto = IPPROTO_ESP;
	sa->family = AF_INET6;
	sa->mode = XFRM_MODE_TUNNEL;
	no_limits(&sa->lft);
	a = put_attr(r, XFRMA_ALG_AEAD, sizeof(*a) + 160 / 8);
	strcpy(a->alg_name, "rfc4106(gcm(aes))");
	a->alg_key_len = 160;
	a->alg_icv_len = 128;
	if (!encap)
		return sa;
	e = put_attr(r, XFRMA_ENCAP, sizeof(*e));
	e->encap_type = ENCAP_ESPINTCP;
	e->encap_sport = htons(4500);
	e->encap_dport = htons(4501);
	return sa;
}

FIXTURE(refusals)
{
	struct request *r;
	struct result res;
};

FIXTURE_SETUP(refusals)
{
	self->r = calloc(1, sizeof(*self->r));
	ASSERT_NE(NULL, self->r);
	ASSERT_EQ(0, new_netns());
}

FIXTURE_TEARDOWN(refusals)
{
	free(self->r);
}

/* Of this namespace; the result is an error if there is no answer. */
static int ask_here(struct request *r, struct result *res)
{
	int fd = xfrm_socket();

	if (!ask(fd, r, res))
		res->err = 1;
	close(fd);
	return res->err;
}

static bool is_ours(const struct result *res)
{
	return !strncmp(res->reason, "espintcp: ", strlen("espintcp: "));
}

/* One who is root in a world of its own gets to know why it has no such SA. */
TEST_F(refusals, user_namespace)
{
	put_good_sa(self->r, true);
	ASSERT_EQ(0, ask_here(self->r, &self->res));
	if (unshare(CLONE_NEWUSER | CLONE_NEWNET))
		SKIP(return, "no user namespaces here");
	put_good_sa(self->r, false);
	EXPECT_EQ(0, ask_here(self->r, &self->res));
	put_good_sa(self->r, true);
	EXPECT_EQ(-EPERM, ask_here(self->r, &self->res));
	EXPECT_TRUE(is_ours(&self->res)) {
		TH_LOG("the reason is \"%s\"", self->res.reason);
	}
}

/* XFRM takes it, to find with the first packet that it has no code for those. */
TEST_F(refusals, route_optimization)
{
	put_good_sa(self->r, true)->mode = XFRM_MODE_ROUTEOPTIMIZATION;
	EXPECT_GT(0, ask_here(self->r, &self->res));
	EXPECT_TRUE(is_ours(&self->res)) {
		TH_LOG("the reason is \"%s\"", self->res.reason);
	}
}

/* Likewise, unless there is another module. */
TEST_F(refusals, iptfs)
{
	put_good_sa(self->r, true)->mode = MODE_IPTFS;
	put_number(self->r, ATTR_SA_DIR, sizeof(__u8), 2);
	EXPECT_GT(0, ask_here(self->r, &self->res));
}

TEST_HARNESS_MAIN
