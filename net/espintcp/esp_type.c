// SPDX-License-Identifier: GPL-2.0
/*
 * Standing in for the stock ESP type of XFRM.
 *
 * XFRM knows one ESP type per family. Ours takes the stock one's place, keeps
 * the SAs with encap espintcp and hands every other one to the stock type for
 * good, before it carries its first packet.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <crypto/aead.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/rcupdate.h>
#include <net/xfrm.h>

#include "espintcp.h"
#include "request.h"

static int type_init_state(struct xfrm_state *x,
			   struct netlink_ext_ack *extack);
static void type_destructor(struct xfrm_state *x);

/**
 * struct espintcp_type - one family's ESP type
 * @type: ours, as registered
 * @family: AF_INET or AF_INET6
 * @stock: the one it stands in for; its module is pinned while it does
 */
struct espintcp_type {
	struct xfrm_type type;
	unsigned short family;
	const struct xfrm_type *stock;
};

#define ESPINTCP_XFRM_TYPE {				\
	.owner = THIS_MODULE,				\
	.proto = IPPROTO_ESP,				\
	.flags = XFRM_TYPE_REPLAY_PROT,			\
	.init_state = type_init_state,			\
	.destructor = type_destructor,			\
	.input = espintcp_esp_input,			\
	.output = espintcp_esp_output,			\
}

static struct espintcp_type espintcp_types[] = {
	{ .family = AF_INET, .type = ESPINTCP_XFRM_TYPE },
#if IS_ENABLED(CONFIG_IPV6)
	{ .family = AF_INET6, .type = ESPINTCP_XFRM_TYPE },
#endif
};

/* Where espintcp_sa objects come from, several to a page. */
static DEFINE_MUTEX(sa_frag_lock);
static struct page_frag sa_frag;

static int sa_alloc(struct xfrm_state *x)
{
	unsigned int size = ALIGN(sizeof(struct espintcp_sa), SMP_CACHE_BYTES);
	int err = -ENOMEM;

	mutex_lock(&sa_frag_lock);
	if (skb_page_frag_refill(size, &sa_frag, GFP_KERNEL)) {
		get_page(sa_frag.page);
		x->xfrag.page = sa_frag.page;
		x->xfrag.offset = sa_frag.offset;
		x->xfrag.size = size;
		sa_frag.offset += size;
		memset(espintcp_sa(x), 0, size);
		err = 0;
	}
	mutex_unlock(&sa_frag_lock);
	return err;
}

/* The stock type sets up keys and algorithms. It refuses the encapsulation, or
 * would provide for headers that TCP sends, so it does not get to see it.
 */
static int stock_init_state(const struct xfrm_type *stock,
			    struct xfrm_state *x,
			    struct netlink_ext_ack *extack)
{
	struct xfrm_encap_tmpl *encap = x->encap;
	int err;

	x->encap = NULL;
	err = stock->init_state(x, extack);
	x->encap = encap;
	if (err)
		return err;

	if (crypto_aead_ivsize(x->data) > ESPINTCP_IV_MAX) {
		NL_SET_ERR_MSG(extack,
			       "espintcp: IV of this algorithm is too long");
		return -EINVAL;
	}
	x->props.header_len += ESPINTCP_LEN_SIZE;
	return 0;
}

static bool sa_mode_is_known(u8 mode)
{
	return mode == XFRM_MODE_TRANSPORT || mode == XFRM_MODE_TUNNEL ||
	       mode == XFRM_MODE_BEET;
}

static int tcp_init_state(const struct xfrm_type *stock, struct xfrm_state *x,
			  struct netlink_ext_ack *extack)
{
	int err;

	if (!espintcp_permitted(xs_net(x))) {
		NL_SET_ERR_MSG(extack,
			       "espintcp: needs CAP_NET_ADMIN of the machine, or allow_userns");
		return -EPERM;
	}

	/* Of the others XFRM does not know what to make of a decrypted packet. */
	if (!sa_mode_is_known(x->props.mode)) {
		NL_SET_ERR_MSG(extack,
			       "espintcp: in transport, tunnel and BEET mode only");
		return -EOPNOTSUPP;
	}

	/* XFRM would have the caller find the packet's protocol. */
	if (!IS_ENABLED(CONFIG_NETFILTER) &&
	    x->props.mode != XFRM_MODE_TUNNEL) {
		NL_SET_ERR_MSG(extack,
			       "espintcp: without CONFIG_NETFILTER in tunnel mode only");
		return -EOPNOTSUPP;
	}

	err = espintcp_gso_start(xs_net(x));
	if (err)
		return err;
	err = sa_alloc(x);
	if (err)
		return err;

	/* Section 6.6: TCP's own segments keep a mapping alive. */
	compat_no_nat_keepalive(x);
	/* Not that of the stock type, which would send bare ESP. */
	if (compat_early_type_offload(x))
		espintcp_gso_allow(x);
	return stock_init_state(stock, x, extack);
}

/* Not our business: from here on this SA is the stock type's as if this module
 * did not exist.
 */
static int hand_to_stock(const struct xfrm_type *stock, struct xfrm_state *x,
			 struct netlink_ext_ack *extack)
{
	int err;

	__module_get(stock->owner);
	x->type = stock;
	err = stock->init_state(x, extack);

	/* The reference XFRM took when it found our type. The few instructions
	 * from here to its code are covered by espintcp_type_exit(), which
	 * waits for every task to leave this module's text.
	 */
	module_put(THIS_MODULE);
	return err;
}

static const struct xfrm_type *stock_of(const struct xfrm_state *x)
{
	const struct espintcp_type *et =
		container_of(x->type, struct espintcp_type, type);

	return et->stock;
}

static int type_init_state(struct xfrm_state *x,
			   struct netlink_ext_ack *extack)
{
	const struct xfrm_type *stock = stock_of(x);

	if (!x->encap || x->encap->encap_type != TCP_ENCAP_ESPINTCP)
		return hand_to_stock(stock, x, extack);
	return tcp_init_state(stock, x, extack);
}

/* Process context; no packet uses the SA any more. */
static void type_destructor(struct xfrm_state *x)
{
	/* Refused before it had anything. */
	if (!x->xfrag.page)
		return;

	espintcp_path_drop(x);
	espintcp_request_free_cached(x);
	if (espintcp_sa(x)->displaced)
		module_put(espintcp_sa(x)->displaced->owner);
	stock_of(x)->destructor(x);
}

/* Takes a reference on the module of the stock type, if there is one. */
static void type_pin(struct espintcp_type *et)
{
	const struct xfrm_state_afinfo *afinfo;
	const struct xfrm_type *stock;

	rcu_read_lock();
	afinfo = xfrm_state_afinfo_get_rcu(et->family);
	stock = afinfo ? afinfo->type_esp : NULL;
	if (stock && try_module_get(stock->owner))
		et->stock = stock;
	rcu_read_unlock();
}

static void type_unpin(struct espintcp_type *et)
{
	if (et->stock)
		module_put(et->stock->owner);
	et->stock = NULL;
}

static void type_replace(struct espintcp_type *et)
{
	if (!et->stock)
		return;

	xfrm_unregister_type(et->stock, et->family);
	/* The place is free, and whose it was is pinned. */
	if (WARN_ON(xfrm_register_type(&et->type, et->family))) {
		xfrm_register_type(et->stock, et->family);
		type_unpin(et);
	}
}

static void type_restore(struct espintcp_type *et)
{
	if (!et->stock)
		return;

	xfrm_unregister_type(&et->type, et->family);
	xfrm_register_type(et->stock, et->family);
	type_unpin(et);
}

/**
 * espintcp_type_init - hold the stock ESP types
 *
 * Without IPv6, or its ESP, there is IPv4 only.
 *
 * Context: process, module load.
 * Return: 0, or -EAFNOSUPPORT without ESP for IPv4.
 */
int espintcp_type_init(void)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(espintcp_types); i++)
		type_pin(&espintcp_types[i]);
	if (!espintcp_types[0].stock) {
		pr_err("no ESP for IPv4; is esp4 loaded?\n");
		espintcp_type_unpin();
		return -EAFNOSUPPORT;
	}
	if (ARRAY_SIZE(espintcp_types) > 1 && !espintcp_types[1].stock)
		pr_info("no ESP for IPv6 here: SAs of IPv4 only\n");
	return 0;
}

/**
 * espintcp_type_unpin - let the stock ESP types go
 *
 * Context: process, failed module load; they are in place.
 */
void espintcp_type_unpin(void)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(espintcp_types); i++)
		type_unpin(&espintcp_types[i]);
}

/**
 * espintcp_type_replace - stand in for the stock ESP types
 *
 * From here on SAs use this module.
 *
 * Context: process, module load.
 */
void espintcp_type_replace(void)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(espintcp_types); i++)
		type_replace(&espintcp_types[i]);
}

/**
 * espintcp_type_exit - give the stock ESP types their place back
 *
 * Context: process, module unload; no SA is ours.
 */
void espintcp_type_exit(void)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(espintcp_types); i++)
		type_restore(&espintcp_types[i]);

	/* hand_to_stock() and ulp_close() drop a reference on this module and
	 * then return: a task may still be between the two.
	 */
	synchronize_rcu_tasks();

	if (sa_frag.page)
		put_page(sa_frag.page);
	sa_frag.page = NULL;
}
