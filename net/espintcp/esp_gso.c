// SPDX-License-Identifier: GPL-2.0
/*
 * Large segments from inner TCP connections.
 *
 * A local TCP connection whose route leads into an SA makes large segments only
 * if the SA has an offload type; otherwise its whole stack is crossed once for
 * each packet. With one, XFRM cuts the segment right before it calls our
 * output: it does not offload an SA that is encapsulated, so that of the type
 * itself nothing is ever called.
 */
#include <linux/module.h>

#include "espintcp.h"

static void gso_encap(struct xfrm_state *x, struct sk_buff *skb)
{
}

static int gso_input_tail(struct xfrm_state *x, struct sk_buff *skb)
{
	return -EOPNOTSUPP;
}

static int gso_xmit(struct xfrm_state *x, struct sk_buff *skb,
		    netdev_features_t features)
{
	return -EOPNOTSUPP;
}

static const struct xfrm_type_offload gso_type = {
	.owner = THIS_MODULE,
	.proto = IPPROTO_ESP,
	.encap = gso_encap,
	.input_tail = gso_input_tail,
	.xmit = gso_xmit,
};

/**
 * espintcp_gso_allow - let inner connections make large segments
 * @x: the SA; the module reference of the type goes with it
 *
 * Context: SA under construction, or xfrm_state.lock held.
 */
void espintcp_gso_allow(struct xfrm_state *x)
{
	if (x->type_offload)
		return;
	__module_get(THIS_MODULE);
	WRITE_ONCE(x->type_offload, &gso_type);
}
