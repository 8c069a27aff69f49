// SPDX-License-Identifier: GPL-2.0
/*
 * News of SAs.
 *
 * XFRM goes on with an SA after its type has set it up, and may undo what the
 * type did. Key managers are told when an SA is complete: so this module is one,
 * which does nothing else that key managers do.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <net/xfrm.h>

#include "espintcp.h"

/* XFRM has given an SA to a device, which does not ask us. An SA that sends would send
 * something else than ESP in TCP.
 */
static void km_offloaded(struct xfrm_state *x)
{
	espintcp_gso_keep_off(x);
	if (x->xso.dir == XFRM_DEV_OFFLOAD_OUT)
		pr_warn_ratelimited("SPI 0x%x: no device can do ESP in TCP, nothing is sent; add the SA without offload\n",
				    ntohl(x->id.spi));
}

/* Under RCU. Events of other kinds may come with x->lock held, or without an SA. */
static int km_notify(struct xfrm_state *x, const struct km_event *c)
{
	if (c->event != XFRM_MSG_NEWSA && c->event != XFRM_MSG_UPDSA)
		return 0;
	if (x->type->output != espintcp_esp_output)
		return 0;
	if (READ_ONCE(x->xso.dev))
		km_offloaded(x);
	else
		espintcp_gso_allow(x);
	return 0;
}

static int km_acquire(struct xfrm_state *x, struct xfrm_tmpl *t,
		      struct xfrm_policy *pol)
{
	return -EOPNOTSUPP;
}

/* What @dir says stands: nobody has compiled it, or another key manager's error. */
static struct xfrm_policy *km_compile_policy(struct sock *sk, int opt, u8 *data,
					     int len, int *dir)
{
	return NULL;
}

static struct xfrm_mgr espintcp_km = {
	.notify = km_notify,
	.acquire = km_acquire,
	.compile_policy = km_compile_policy,
};

/**
 * espintcp_km_init - hear of SAs from now on
 *
 * Context: process, module load.
 */
void espintcp_km_init(void)
{
	xfrm_register_km(&espintcp_km);
}

/**
 * espintcp_km_exit - hear of no more
 *
 * Context: process, module unload; sleeps until nobody is being told.
 */
void espintcp_km_exit(void)
{
	xfrm_unregister_km(&espintcp_km);
}
