// SPDX-License-Identifier: GPL-2.0
/*
 * Counters per network namespace, read from /proc/net/espintcp_stat.
 */
#include <linux/percpu.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <linux/wait_bit.h>
#include <net/net_namespace.h>
#include <net/netns/generic.h>

#include "stats.h"

struct espintcp_stats {
	u64 cnt[ESPINTCP_COUNTER_MAX];
};

/**
 * struct espintcp_net - what the module keeps for each network namespace
 * @stats: counters, one set per CPU
 * @async: crypto operations under way; the namespace waits for them
 */
struct espintcp_net {
	struct espintcp_stats __percpu *stats;
	atomic_t async;
};

static unsigned int espintcp_net_id __read_mostly;

static const char * const espintcp_counter_name[] = {
#define X(id, name) [ESPINTCP_CNT_##id] = name,
	ESPINTCP_COUNTERS(X)
#undef X
};

/**
 * espintcp_count_n - count several at once
 * @net: the namespace it happened in
 * @id: what happened
 * @n: how often
 *
 * Context: any.
 */
void espintcp_count_n(struct net *net, enum espintcp_counter id, u64 n)
{
	struct espintcp_net *en = net_generic(net, espintcp_net_id);

	this_cpu_add(en->stats->cnt[id], n);
}

/**
 * espintcp_async_begin - a crypto operation has become asynchronous
 * @net: namespace of its SA
 *
 * What completes it counts in @net, when the packet that would keep @net may
 * be gone.
 *
 * Context: any, as long as a packet or socket keeps @net.
 */
void espintcp_async_begin(struct net *net)
{
	struct espintcp_net *en = net_generic(net, espintcp_net_id);

	atomic_inc(&en->async);
}

/**
 * espintcp_async_end - and has ended
 * @net: as at espintcp_async_begin(); not used by the operation any more
 *
 * Context: any.
 */
void espintcp_async_end(struct net *net)
{
	struct espintcp_net *en = net_generic(net, espintcp_net_id);

	/* From zero on @en may be freed: its address is all that is used. */
	if (atomic_dec_and_test(&en->async))
		wake_up_var(&en->async);
}

static u64 espintcp_stats_sum(struct espintcp_net *en, enum espintcp_counter id)
{
	u64 sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += READ_ONCE(per_cpu_ptr(en->stats, cpu)->cnt[id]);
	return sum;
}

static int espintcp_stats_show(struct seq_file *seq, void *v)
{
	struct espintcp_net *en = net_generic(seq->private, espintcp_net_id);
	int i;

	for (i = 0; i < ESPINTCP_COUNTER_MAX; i++)
		seq_printf(seq, "%-24s\t%llu\n", espintcp_counter_name[i],
			   espintcp_stats_sum(en, i));
	return 0;
}

static int __net_init espintcp_net_init(struct net *net)
{
	struct espintcp_net *en = net_generic(net, espintcp_net_id);

	en->stats = alloc_percpu(struct espintcp_stats);
	if (!en->stats)
		return -ENOMEM;

	if (!proc_create_net_single("espintcp_stat", 0444, net->proc_net,
				    espintcp_stats_show, NULL)) {
		free_percpu(en->stats);
		return -ENOMEM;
	}
	return 0;
}

static void __net_exit espintcp_net_exit(struct net *net)
{
	struct espintcp_net *en = net_generic(net, espintcp_net_id);

	wait_var_event(&en->async, !atomic_read(&en->async));
	remove_proc_entry("espintcp_stat", net->proc_net);
	free_percpu(en->stats);
}

/* Registered as a subsystem, not as a device: subsystems leave a dying
 * namespace after its devices and in reverse order of registration, so XFRM's
 * own exit, which flushes SAs, could come later. It counts nothing by then.
 */
static struct pernet_operations espintcp_net_ops = {
	.init = espintcp_net_init,
	.exit = espintcp_net_exit,
	.id = &espintcp_net_id,
	.size = sizeof(struct espintcp_net),
};

/**
 * espintcp_stats_init - counters for every namespace, present and future
 *
 * Context: process, module load.
 * Return: 0 or a negative errno.
 */
int espintcp_stats_init(void)
{
	BUILD_BUG_ON(ARRAY_SIZE(espintcp_counter_name) != ESPINTCP_COUNTER_MAX);
	return register_pernet_subsys(&espintcp_net_ops);
}

/**
 * espintcp_stats_exit - undo espintcp_stats_init()
 *
 * Context: process, module unload; nothing counts any more.
 */
void espintcp_stats_exit(void)
{
	unregister_pernet_subsys(&espintcp_net_ops);
}
