// SPDX-License-Identifier: GPL-2.0
/*
 * Settings per network namespace, in /proc/sys/net/espintcp.
 */
#include <linux/slab.h>
#include <linux/sysctl.h>
#include <net/net_namespace.h>
#include <net/netns/generic.h>

#include "espintcp.h"

/* A tunnel that goes down leaves its peer sending to an SA which is no more,
 * for a round trip: 50 ms of full packets at 250 Mbit/s.
 */
#define ESPINTCP_UNKNOWN_LIMIT	1024

/**
 * struct espintcp_sysctl - a namespace's settings and their files
 * @settings: what is set
 * @table: describes the files; the header points to it
 * @header: of the registered table
 */
struct espintcp_sysctl {
	struct espintcp_settings settings;
	struct ctl_table *table;
	struct ctl_table_header *header;
};

static unsigned int espintcp_sysctl_id __read_mostly;

/* .data is an offset into struct espintcp_settings until it is registered. */
static const struct ctl_table espintcp_table[] = {
	{
		.procname = "follow",
		.data = (void *)offsetof(struct espintcp_settings, follow),
		.maxlen = sizeof(u8),
		.mode = 0644,
		.proc_handler = proc_dou8vec_minmax,
		.extra1 = SYSCTL_ZERO,
		.extra2 = SYSCTL_ONE,
	},
	{
		.procname = "gro",
		.data = (void *)offsetof(struct espintcp_settings, gro),
		.maxlen = sizeof(u8),
		.mode = 0644,
		.proc_handler = proc_dou8vec_minmax,
		.extra1 = SYSCTL_ZERO,
		.extra2 = SYSCTL_ONE,
	},
	{
		.procname = "unknown_limit",
		.data = (void *)offsetof(struct espintcp_settings,
					 unknown_limit),
		.maxlen = sizeof(unsigned int),
		.mode = 0644,
		.proc_handler = proc_douintvec,
	},
};

/**
 * espintcp_settings - what is set in a namespace
 * @net: the namespace
 *
 * Context: any; valid as long as @net.
 */
struct espintcp_settings *espintcp_settings(struct net *net)
{
	struct espintcp_sysctl *es = net_generic(net, espintcp_sysctl_id);

	return &es->settings;
}

static int __net_init sysctl_net_init(struct net *net)
{
	struct espintcp_sysctl *es = net_generic(net, espintcp_sysctl_id);
	unsigned int i;

	es->settings.follow = 1;
	es->settings.gro = 1;
	es->settings.unknown_limit = ESPINTCP_UNKNOWN_LIMIT;
	if (!IS_ENABLED(CONFIG_SYSCTL))
		return 0;

	/* And an empty one, which marks the end up to 6.5. */
	es->table = kcalloc(ARRAY_SIZE(espintcp_table) + 1,
			    sizeof(*es->table), GFP_KERNEL);
	if (!es->table)
		return -ENOMEM;
	for (i = 0; i < ARRAY_SIZE(espintcp_table); i++) {
		es->table[i] = espintcp_table[i];
		es->table[i].data = (void *)&es->settings +
				    (uintptr_t)espintcp_table[i].data;
	}
	es->header = compat_register_net_sysctl(net, "net/espintcp", es->table,
						ARRAY_SIZE(espintcp_table));
	if (!es->header) {
		kfree(es->table);
		return -ENOMEM;
	}
	return 0;
}

static void __net_exit sysctl_net_exit(struct net *net)
{
	struct espintcp_sysctl *es = net_generic(net, espintcp_sysctl_id);

	if (es->header)
		unregister_net_sysctl_table(es->header);
	kfree(es->table);
}

static struct pernet_operations espintcp_sysctl_ops = {
	.init = sysctl_net_init,
	.exit = sysctl_net_exit,
	.id = &espintcp_sysctl_id,
	.size = sizeof(struct espintcp_sysctl),
};

/**
 * espintcp_sysctl_init - settings for every namespace, present and future
 *
 * Context: process, module load.
 * Return: 0 or a negative errno.
 */
int espintcp_sysctl_init(void)
{
	return register_pernet_subsys(&espintcp_sysctl_ops);
}

/**
 * espintcp_sysctl_exit - undo espintcp_sysctl_init()
 *
 * Context: process, module unload; nobody looks at a setting any more.
 */
void espintcp_sysctl_exit(void)
{
	unregister_pernet_subsys(&espintcp_sysctl_ops);
}
