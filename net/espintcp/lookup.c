// SPDX-License-Identifier: GPL-2.0
/*
 * Connections by their addresses and ports.
 *
 * One table has every connection. A second has, for each peer, those that we opened
 * to it, the last one first: an originator that had to reconnect has another port of
 * its own than its SAs were told, but the peer is the same.
 */
#include <linux/jhash.h>
#include <linux/rhashtable.h>

#include "espintcp.h"

static u32 peer_hash_key(const void *data, u32 len, u32 seed)
{
	const struct espintcp_key *key = data;

	seed = jhash2((const u32 *)&key->saddr,
		      sizeof(key->saddr) / sizeof(u32), seed);
	seed = jhash2((const u32 *)&key->daddr,
		      sizeof(key->daddr) / sizeof(u32), seed);
	return jhash_3words((__force u32)key->dport, key->family,
			    net_hash_mix(key->net), seed);
}

static u32 conn_hash_key(const void *data, u32 len, u32 seed)
{
	const struct espintcp_key *key = data;

	return jhash_1word((__force u32)key->sport,
			   peer_hash_key(data, len, seed));
}

static u32 peer_hash_conn(const void *data, u32 len, u32 seed)
{
	const struct espintcp_conn *conn = data;

	return peer_hash_key(&conn->key, len, seed);
}

static u32 conn_hash_conn(const void *data, u32 len, u32 seed)
{
	const struct espintcp_conn *conn = data;

	return conn_hash_key(&conn->key, len, seed);
}

static bool peer_key_equal(const struct espintcp_key *a,
			   const struct espintcp_key *b)
{
	return a->dport == b->dport && a->family == b->family &&
	       net_eq(a->net, b->net) &&
	       xfrm_addr_equal(&a->saddr, &b->saddr, a->family) &&
	       xfrm_addr_equal(&a->daddr, &b->daddr, a->family);
}

/**
 * espintcp_key_equal - do two keys name the same connection?
 * @a: one
 * @b: the other
 *
 * Context: any.
 */
bool espintcp_key_equal(const struct espintcp_key *a,
			const struct espintcp_key *b)
{
	return a->sport == b->sport && peer_key_equal(a, b);
}

static int peer_cmp(struct rhashtable_compare_arg *arg, const void *obj)
{
	const struct espintcp_conn *conn = obj;

	return !peer_key_equal(arg->key, &conn->key);
}

static int conn_cmp(struct rhashtable_compare_arg *arg, const void *obj)
{
	const struct espintcp_conn *conn = obj;

	return !espintcp_key_equal(arg->key, &conn->key);
}

static const struct rhashtable_params conn_params = {
	.head_offset = offsetof(struct espintcp_conn, node),
	.key_offset = offsetof(struct espintcp_conn, key),
	.key_len = sizeof(struct espintcp_key),
	.hashfn = conn_hash_key,
	.obj_hashfn = conn_hash_conn,
	.obj_cmpfn = conn_cmp,
	.automatic_shrinking = true,
};

static const struct rhashtable_params peer_params = {
	.head_offset = offsetof(struct espintcp_conn, peer_node),
	.key_offset = offsetof(struct espintcp_conn, key),
	.key_len = sizeof(struct espintcp_key),
	.hashfn = peer_hash_key,
	.obj_hashfn = peer_hash_conn,
	.obj_cmpfn = peer_cmp,
	.automatic_shrinking = true,
};

/* Several connections can share a key: one that was reset stays until the
 * daemon closes it while its ports are used anew, and VRFs overlap.
 */
static struct rhltable conn_table;
static struct rhltable peer_table;

/**
 * espintcp_lookup_init - empty tables
 *
 * Context: process, module load.
 * Return: 0 or a negative errno.
 */
int espintcp_lookup_init(void)
{
	int err = rhltable_init(&conn_table, &conn_params);

	if (err)
		return err;
	err = rhltable_init(&peer_table, &peer_params);
	if (err)
		rhltable_destroy(&conn_table);
	return err;
}

/**
 * espintcp_lookup_exit - free the tables
 *
 * Context: process, module unload; no connection is left.
 */
void espintcp_lookup_exit(void)
{
	rhltable_destroy(&peer_table);
	rhltable_destroy(&conn_table);
}

/**
 * espintcp_lookup_add - SAs may find a connection
 * @conn: its key and whether it was accepted are set
 *
 * Context: process.
 * Return: 0 or a negative errno.
 */
int espintcp_lookup_add(struct espintcp_conn *conn)
{
	int err = rhltable_insert(&conn_table, &conn->node, conn_params);

	/* An SA may have it from here on, so that there is no way back: without
	 * memory nobody finds it by its peer, and that is all.
	 */
	if (!err && !conn->accepted)
		rhltable_insert(&peer_table, &conn->peer_node, peer_params);
	return err;
}

/**
 * espintcp_lookup_del - SAs do not find a connection any more
 * @conn: the connection; those paths which lead to it see that it is shut
 *
 * Context: process.
 */
void espintcp_lookup_del(struct espintcp_conn *conn)
{
	/* Does nothing if it is not in there. */
	if (!conn->accepted)
		rhltable_remove(&peer_table, &conn->peer_node, peer_params);
	rhltable_remove(&conn_table, &conn->node, conn_params);
}

static bool conn_hold_usable(struct espintcp_conn *conn)
{
	return espintcp_conn_usable(conn) &&
	       refcount_inc_not_zero(&conn->refcnt);
}

/**
 * espintcp_lookup - the connection between two addresses and ports
 * @key: which
 *
 * Context: under RCU.
 * Return: a connection that can send, with a reference, or NULL.
 */
struct espintcp_conn *espintcp_lookup(const struct espintcp_key *key)
{
	struct rhlist_head *list, *pos;
	struct espintcp_conn *conn;

	list = rhltable_lookup(&conn_table, key, conn_params);
	rhl_for_each_entry_rcu(conn, pos, list, node) {
		if (conn_hold_usable(conn))
			return conn;
	}
	return NULL;
}

/**
 * espintcp_lookup_peer - the connection we opened last to a peer
 * @key: which peer, and our address; our port does not matter
 *
 * Context: under RCU.
 * Return: a connection that can send, with a reference, or NULL.
 */
struct espintcp_conn *espintcp_lookup_peer(const struct espintcp_key *key)
{
	struct rhlist_head *list, *pos;
	struct espintcp_conn *conn;

	/* What was inserted last comes first. */
	list = rhltable_lookup(&peer_table, key, peer_params);
	rhl_for_each_entry_rcu(conn, pos, list, peer_node) {
		if (conn_hold_usable(conn))
			return conn;
	}
	return NULL;
}
