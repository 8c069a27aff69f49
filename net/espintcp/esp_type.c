// SPDX-License-Identifier: GPL-2.0
/*
 * Standing in for the stock ESP type of XFRM.
 *
 * XFRM knows one ESP type per family. Ours takes the stock one's place, keeps
 * the SAs with encap espintcp and hands every other one to the stock type for
 * good, before it carries its first packet.
 */
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

static int tcp_init_state(const struct xfrm_type *stock, struct xfrm_state *x,
			  struct netlink_ext_ack *extack)
{
	int err;

	if (!espintcp_permitted(xs_net(x))) {
		NL_SET_ERR_MSG(extack,
			       "espintcp: needs CAP_NET_ADMIN of the machine, or allow_userns");
		return -EPERM;
	}

	err = espintcp_gso_start(xs_net(x));
	if (err)
		return err;
	err = sa_alloc(x);
	if (err)
		return err;

	/* Section 6.6: TCP's own segments keep a mapping alive. */
	compat_no_nat_keepalive(x);
	/* Never that of the stock type, which would send bare ESP. */
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
	stock_of(x)->destructor(x);
}

static int type_replace(struct espintcp_type *et)
{
	const struct xfrm_state_afinfo *afinfo;
	const struct xfrm_type *stock;
	int err = -EAFNOSUPPORT;

	rcu_read_lock();
	afinfo = xfrm_state_afinfo_get_rcu(et->family);
	stock = afinfo ? afinfo->type_esp : NULL;
	if (stock && try_module_get(stock->owner))
		err = 0;
	rcu_read_unlock();
	if (err) {
		pr_err("no ESP for address family %u; is esp%c loaded?\n",
		       et->family, et->family == AF_INET ? '4' : '6');
		return err;
	}

	et->stock = stock;
	xfrm_unregister_type(stock, et->family);
	err = xfrm_register_type(&et->type, et->family);
	if (err) {
		xfrm_register_type(stock, et->family);
		module_put(stock->owner);
		et->stock = NULL;
	}
	return err;
}

static void type_restore(struct espintcp_type *et)
{
	if (!et->stock)
		return;

	xfrm_unregister_type(&et->type, et->family);
	xfrm_register_type(et->stock, et->family);
	module_put(et->stock->owner);
	et->stock = NULL;
}

/**
 * espintcp_type_init - stand in for the stock ESP types
 *
 * Context: process, module load.
 * Return: 0 or a negative errno, with the stock types in place.
 */
int espintcp_type_init(void)
{
	unsigned int i;
	int err = 0;

	for (i = 0; !err && i < ARRAY_SIZE(espintcp_types); i++)
		err = type_replace(&espintcp_types[i]);
	if (err)
		espintcp_type_exit();
	return err;
}

/**
 * espintcp_type_exit - give the stock ESP types their place back
 *
 * Context: process, module unload or failed load; no SA is ours.
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
