// SPDX-License-Identifier: GPL-2.0
/*
 * Which connection carries an SA.
 *
 * The one between the SA's addresses and the ports of its encapsulation
 * template. It is looked up once and then kept with the SA until it, or the
 * template, changes. Neither pins the socket: an SA holds the connection
 * object, which outlives its socket, and the socket's namespace can always go.
 */
#include <linux/jhash.h>
#include <linux/rhashtable.h>

#include "espintcp.h"
#include "trace.h"

static u32 path_hash_key(const void *data, u32 len, u32 seed)
{
	const struct espintcp_key *key = data;
	u32 ports = (__force u32)key->sport << 16 | (__force u32)key->dport;

	seed = jhash2((const u32 *)&key->saddr,
		      sizeof(key->saddr) / sizeof(u32), seed);
	seed = jhash2((const u32 *)&key->daddr,
		      sizeof(key->daddr) / sizeof(u32), seed);
	return jhash_3words(ports, key->family, net_hash_mix(key->net), seed);
}

static u32 path_hash_conn(const void *data, u32 len, u32 seed)
{
	const struct espintcp_conn *conn = data;

	return path_hash_key(&conn->key, len, seed);
}

static bool path_key_equal(const struct espintcp_key *a,
			   const struct espintcp_key *b)
{
	return a->sport == b->sport && a->dport == b->dport &&
	       a->family == b->family && net_eq(a->net, b->net) &&
	       xfrm_addr_equal(&a->saddr, &b->saddr, a->family) &&
	       xfrm_addr_equal(&a->daddr, &b->daddr, a->family);
}

static int path_cmp(struct rhashtable_compare_arg *arg, const void *obj)
{
	const struct espintcp_conn *conn = obj;

	return !path_key_equal(arg->key, &conn->key);
}

static const struct rhashtable_params path_params = {
	.head_offset = offsetof(struct espintcp_conn, node),
	.key_offset = offsetof(struct espintcp_conn, key),
	.key_len = sizeof(struct espintcp_key),
	.hashfn = path_hash_key,
	.obj_hashfn = path_hash_conn,
	.obj_cmpfn = path_cmp,
	.automatic_shrinking = true,
};

/* Several connections can share a key: one that was reset stays until the
 * daemon closes it while its ports are used anew, and VRFs overlap.
 */
static struct rhltable path_table;

/**
 * espintcp_path_init - an empty table of connections
 *
 * Context: process, module load.
 * Return: 0 or a negative errno.
 */
int espintcp_path_init(void)
{
	return rhltable_init(&path_table, &path_params);
}

/**
 * espintcp_path_exit - free the table
 *
 * Context: process, module unload; no connection is left.
 */
void espintcp_path_exit(void)
{
	rhltable_destroy(&path_table);
}

/**
 * espintcp_path_add - SAs may find a connection
 * @conn: its key is set
 *
 * Context: process.
 * Return: 0 or a negative errno.
 */
int espintcp_path_add(struct espintcp_conn *conn)
{
	return rhltable_insert(&path_table, &conn->node, path_params);
}

/**
 * espintcp_path_del - SAs do not find a connection any more
 * @conn: the connection; those SAs which cached it drop it when they see that
 *	it is shut
 *
 * Context: process.
 */
void espintcp_path_del(struct espintcp_conn *conn)
{
	rhltable_remove(&path_table, &conn->node, path_params);
}

static bool path_usable(const struct espintcp_conn *conn)
{
	return !READ_ONCE(conn->txq.shut);
}

static struct espintcp_conn *path_find(const struct espintcp_key *key)
{
	struct rhlist_head *list, *pos;
	struct espintcp_conn *conn;

	list = rhltable_lookup(&path_table, key, path_params);
	rhl_for_each_entry_rcu(conn, pos, list, node) {
		if (path_usable(conn) && refcount_inc_not_zero(&conn->refcnt))
			return conn;
	}
	return NULL;
}

static void path_key_of_sa(struct xfrm_state *x, struct espintcp_key *key)
{
	memset(key, 0, sizeof(*key));
	key->net = xs_net(x);
	key->family = x->props.family;
	if (key->family == AF_INET) {
		key->saddr.a4 = x->props.saddr.a4;
		key->daddr.a4 = x->id.daddr.a4;
	} else {
		key->saddr = x->props.saddr;
		key->daddr = x->id.daddr;
	}
	key->sport = READ_ONCE(x->encap->encap_sport);
	key->dport = READ_ONCE(x->encap->encap_dport);
}

static void path_set(struct xfrm_state *x, struct espintcp_conn *conn)
{
	struct espintcp_sa *sa = espintcp_sa(x);
	struct espintcp_conn *old;

	spin_lock_bh(&x->lock);
	old = rcu_replace_pointer(sa->path, conn, lockdep_is_held(&x->lock));
	if (conn)
		atomic_inc(&conn->stats.sas);
	if (old)
		atomic_dec(&old->stats.sas);
	if (old != conn)
		trace_espintcp_path(x, old, conn);
	if (conn)
		espintcp_gso_allow(x);
	spin_unlock_bh(&x->lock);

	if (old)
		espintcp_conn_put(old);
}

/**
 * espintcp_path_get - the connection that carries an SA's output
 * @x: the SA
 *
 * Context: process or softirq, under RCU; may take the SA's lock.
 * Return: a connection, valid under RCU, or NULL.
 */
struct espintcp_conn *espintcp_path_get(struct xfrm_state *x)
{
	struct espintcp_conn *conn = rcu_dereference(espintcp_sa(x)->path);
	struct espintcp_key key;

	if (likely(conn && path_usable(conn) &&
		   conn->key.sport == READ_ONCE(x->encap->encap_sport) &&
		   conn->key.dport == READ_ONCE(x->encap->encap_dport)))
		return conn;

	path_key_of_sa(x, &key);
	conn = path_find(&key);
	path_set(x, conn);
	return conn;
}

/**
 * espintcp_path_drop - an SA forgets its connection
 * @x: the SA, on its way out
 *
 * Context: process.
 */
void espintcp_path_drop(struct xfrm_state *x)
{
	path_set(x, NULL);
}
