// SPDX-License-Identifier: GPL-2.0
/*
 * Which connection carries an SA.
 *
 * The SAs of a pair, in and out, share a path: a pointer to the connection they
 * use now. It begins with the connection that the template of the SAs names and
 * then follows the peer (RFC 9329 section 6.1): an authentic packet, newer than
 * all before it, that comes on another connection moves the path there. Output
 * looks at the pointer and at nothing else.
 *
 * Nothing here pins a socket: a path holds the connection object, which outlives
 * its socket, and the socket's namespace can always go.
 */
#include <linux/jhash.h>
#include <linux/jiffies.h>
#include <linux/rhashtable.h>
#include <linux/slab.h>
#include <linux/spinlock.h>

#include "espintcp.h"
#include "trace.h"

/**
 * struct espintcp_path_key - what the SAs of a pair have in common
 * @conn: the connection their templates name, seen from our side
 * @mark: of the SAs
 * @reqid: likewise
 * @if_id: likewise
 * @mix: of the namespace, which an SA may outlive by a moment
 */
struct espintcp_path_key {
	struct espintcp_key conn;
	struct xfrm_mark mark;
	u32 reqid;
	u32 if_id;
	u32 mix;
};

/**
 * struct espintcp_path - what carries a pair of SAs
 * @key: fixed
 * @node: in path_table
 * @users: SAs which point here (path_lock)
 * @outs: those of them that point here for output (path_lock)
 * @conn: the connection in use, with a reference, or NULL
 *	(RCU; written under path_lock)
 * @rcu: packets look at a path without a reference
 */
struct espintcp_path {
	struct espintcp_path_key key;
	struct rhash_head node;
	unsigned int users;
	unsigned int outs;
	struct espintcp_conn __rcu *conn;
	struct rcu_head rcu;
};

static u32 path_hash_key(const void *data, u32 len, u32 seed)
{
	const struct espintcp_path_key *key = data;
	u32 ports = (__force u32)key->conn.sport << 16 |
		    (__force u32)key->conn.dport;

	seed = jhash2((const u32 *)&key->conn.daddr,
		      sizeof(key->conn.daddr) / sizeof(u32), seed);
	return jhash_3words(ports, key->reqid ^ key->if_id ^ key->mark.v,
			    key->mix, seed);
}

static u32 path_hash_path(const void *data, u32 len, u32 seed)
{
	const struct espintcp_path *path = data;

	return path_hash_key(&path->key, len, seed);
}

static int path_cmp(struct rhashtable_compare_arg *arg, const void *obj)
{
	const struct espintcp_path_key *a = arg->key;
	const struct espintcp_path *path = obj;
	const struct espintcp_path_key *b = &path->key;

	return a->reqid != b->reqid || a->if_id != b->if_id ||
	       a->mark.v != b->mark.v || a->mark.m != b->mark.m ||
	       !espintcp_key_equal(&a->conn, &b->conn);
}

static const struct rhashtable_params path_params = {
	.head_offset = offsetof(struct espintcp_path, node),
	.key_offset = offsetof(struct espintcp_path, key),
	.key_len = sizeof(struct espintcp_path_key),
	.hashfn = path_hash_key,
	.obj_hashfn = path_hash_path,
	.obj_cmpfn = path_cmp,
	.automatic_shrinking = true,
};

static struct rhashtable path_table;
/* Who joins and leaves which path, and where paths lead. Taken when one of
 * these changes, not for each packet.
 */
static DEFINE_SPINLOCK(path_lock);

/**
 * espintcp_path_init - no SA has a path
 *
 * Context: process, module load.
 * Return: 0 or a negative errno.
 */
int espintcp_path_init(void)
{
	return rhashtable_init(&path_table, &path_params);
}

/**
 * espintcp_path_exit - free the table
 *
 * Context: process, module unload; no SA is ours.
 */
void espintcp_path_exit(void)
{
	rhashtable_destroy(&path_table);
}

/* Our port and the peer's, as the template of an SA has them. */
static __be16 sa_sport(const struct xfrm_state *x, enum espintcp_dir dir)
{
	return dir == ESPINTCP_OUT ? READ_ONCE(x->encap->encap_sport) :
				     READ_ONCE(x->encap->encap_dport);
}

static __be16 sa_dport(const struct xfrm_state *x, enum espintcp_dir dir)
{
	return dir == ESPINTCP_OUT ? READ_ONCE(x->encap->encap_dport) :
				     READ_ONCE(x->encap->encap_sport);
}

static void path_key_of_sa(struct xfrm_state *x, enum espintcp_dir dir,
			   struct espintcp_path_key *key)
{
	const xfrm_address_t *ours = &x->props.saddr, *peer = &x->id.daddr;

	if (dir == ESPINTCP_IN)
		swap(ours, peer);

	memset(key, 0, sizeof(*key));
	key->conn.net = xs_net(x);
	key->mix = net_hash_mix(xs_net(x));
	key->conn.family = x->props.family;
	if (x->props.family == AF_INET) {
		key->conn.saddr.a4 = ours->a4;
		key->conn.daddr.a4 = peer->a4;
	} else {
		key->conn.saddr = *ours;
		key->conn.daddr = *peer;
	}
	key->mark = x->mark;
	key->reqid = x->props.reqid;

	/* XFRM_MSG_UPDSA writes these under the lock. */
	spin_lock_bh(&x->lock);
	key->conn.sport = sa_sport(x, dir);
	key->conn.dport = sa_dport(x, dir);
	key->if_id = READ_ONCE(x->if_id);
	spin_unlock_bh(&x->lock);
}

/* XFRM_MSG_UPDSA changes these and no more. */
static bool path_is_of(const struct espintcp_path *path,
		       const struct xfrm_state *x, enum espintcp_dir dir)
{
	return path->key.conn.sport == sa_sport(x, dir) &&
	       path->key.conn.dport == sa_dport(x, dir) &&
	       path->key.if_id == READ_ONCE(x->if_id);
}

static struct espintcp_path *path_create(const struct espintcp_path_key *key)
	__must_hold(&path_lock)
{
	struct espintcp_path *path = kzalloc(sizeof(*path), GFP_ATOMIC);

	if (!path)
		return NULL;
	path->key = *key;
	if (rhashtable_insert_fast(&path_table, &path->node, path_params)) {
		kfree(path);
		return NULL;
	}
	espintcp_made(ESPINTCP_OBJECT_PATH);
	return path;
}

static void path_count_out(struct espintcp_path *path, int sas)
	__must_hold(&path_lock)
{
	struct espintcp_conn *conn =
		rcu_dereference_protected(path->conn,
					  lockdep_is_held(&path_lock));

	path->outs += sas;
	if (conn)
		atomic_add(sas, &conn->stats.sas);
}

static void path_leave(struct espintcp_path *path, enum espintcp_dir dir)
{
	struct espintcp_conn *conn;
	bool last;

	spin_lock_bh(&path_lock);
	if (dir == ESPINTCP_OUT)
		path_count_out(path, -1);
	conn = rcu_dereference_protected(path->conn,
					 lockdep_is_held(&path_lock));
	last = !--path->users;
	if (last)
		rhashtable_remove_fast(&path_table, &path->node, path_params);
	spin_unlock_bh(&path_lock);

	if (!last)
		return;
	if (conn)
		espintcp_conn_put(conn);
	espintcp_gone(ESPINTCP_OBJECT_PATH);
	kfree_rcu(path, rcu);
}

/* The path of the SA's pair; the one it had is left. NULL without memory. */
static struct espintcp_path *path_join(struct xfrm_state *x,
				       enum espintcp_dir dir)
{
	struct espintcp_path_key key;
	struct espintcp_path *path, *old;

	path_key_of_sa(x, dir, &key);

	spin_lock_bh(&path_lock);
	path = rhashtable_lookup_fast(&path_table, &key, path_params);
	if (!path)
		path = path_create(&key);
	if (path)
		path->users++;
	if (path && dir == ESPINTCP_OUT)
		path_count_out(path, 1);
	spin_unlock_bh(&path_lock);

	old = unrcu_pointer(xchg(&espintcp_sa(x)->path[dir],
				 RCU_INITIALIZER(path)));
	if (old)
		path_leave(old, dir);
	if (path && rcu_access_pointer(path->conn))
		trace_espintcp_path(x, NULL, rcu_dereference(path->conn));
	/* A migrated SA is new, and no key manager is told. */
	if (dir == ESPINTCP_OUT)
		espintcp_gso_allow(x);
	return path;
}

static struct espintcp_path *path_of(struct xfrm_state *x,
				     enum espintcp_dir dir)
{
	struct espintcp_path *path =
		rcu_dereference(espintcp_sa(x)->path[dir]);

	if (likely(path && path_is_of(path, x, dir)))
		return path;
	return path_join(x, dir);
}

/* From @old, unless another CPU has changed it meanwhile, to @conn, which comes with
 * a reference, or is NULL.
 */
static bool path_set(struct espintcp_path *path, const struct xfrm_state *x,
		     struct espintcp_conn *old, struct espintcp_conn *conn)
{
	bool set;

	spin_lock_bh(&path_lock);
	/* Without users, the last left while we looked at it under RCU. */
	set = path->users && old != conn && rcu_access_pointer(path->conn) == old;
	if (set) {
		rcu_assign_pointer(path->conn, conn);
		if (conn)
			atomic_add(path->outs, &conn->stats.sas);
		if (old)
			atomic_sub(path->outs, &old->stats.sas);
		trace_espintcp_path(x, old, conn);
	}
	spin_unlock_bh(&path_lock);

	if (set)
		conn = old;
	if (conn)
		espintcp_conn_put(conn);
	return set;
}

static bool path_may_follow(const struct espintcp_path *path)
{
	return READ_ONCE(espintcp_settings(path->key.conn.net)->follow);
}

/* Where the path leads, or where it has to begin: at the connection that the
 * template names or, if we are the originator and had to connect anew, at the
 * newest one to the same peer. NULL when there is none.
 */
static struct espintcp_conn *path_conn(struct espintcp_path *path,
				       const struct xfrm_state *x)
{
	struct espintcp_conn *old = rcu_dereference(path->conn), *conn;

	if (likely(old && espintcp_conn_usable(old)))
		return old;

	conn = espintcp_lookup(&path->key.conn);
	if (!conn && path_may_follow(path))
		conn = espintcp_lookup_peer(&path->key.conn);
	if (path_set(path, x, old, conn))
		return conn;
	/* As before, or another CPU was faster, or nobody is on it any more. */
	old = rcu_dereference(path->conn);
	return old && espintcp_conn_usable(old) ? old : conn;
}

/**
 * espintcp_path_get - the connection that carries an SA's output
 * @x: the SA
 *
 * Context: process or softirq, under RCU; may take the SA's lock.
 * Return: a connection, valid under RCU; -ENOTCONN if there is none now, -ENOMEM.
 */
struct espintcp_conn *espintcp_path_get(struct xfrm_state *x)
{
	struct espintcp_path *path = path_of(x, ESPINTCP_OUT);
	struct espintcp_conn *conn;

	if (unlikely(!path))
		return ERR_PTR(-ENOMEM);
	conn = path_conn(path, x);
	return likely(conn) ? conn : ERR_PTR(-ENOTCONN);
}

/* Is this the newest packet of the SA? One that was replayed is not, whether or
 * not the SA has a replay window, nor is one that was only late.
 */
static bool sa_is_newest(struct xfrm_state *x, u64 seq)
	__must_hold(&x->lock)
{
	struct espintcp_sa *sa = espintcp_sa(x);

	lockdep_assert_held(&x->lock);
	/* espintcp_path_heard() sets it without the lock. */
	if (seq <= READ_ONCE(sa->iseq) || seq <= espintcp_seq_top(x))
		return false;
	WRITE_ONCE(sa->iseq, seq);
	return true;
}

/* Moves the path to the connection the peer speaks on, if it may. We never
 * leave a connection we opened: the packet may just have been on its way when
 * our daemon moved the SA.
 */
static void path_follow(struct espintcp_path *path, const struct xfrm_state *x,
			struct espintcp_conn *conn)
{
	struct espintcp_conn *old = path_conn(path, x);

	if (old == conn || !path_may_follow(path) ||
	    (old && !conn->accepted) || !espintcp_conn_usable(conn) ||
	    !refcount_inc_not_zero(&conn->refcnt))
		return;
	if (path_set(path, x, old, conn))
		espintcp_count(path->key.conn.net, ESPINTCP_CNT_PATH_MOVED);
}

static bool mapping_is(const struct espintcp_key *key,
		       const xfrm_address_t *addr, __be16 port)
{
	return key->dport == port &&
	       xfrm_addr_equal(&key->daddr, addr, key->family);
}

/* The peer is at @key. If that is not where the SA's template says, is it time to
 * tell the daemon? Once for each new place and at most once a second.
 */
static bool sa_mapping_due(struct xfrm_state *x, const struct espintcp_key *key)
	__must_hold(&x->lock)
{
	struct espintcp_sa *sa = espintcp_sa(x);
	bool tell, early;

	lockdep_assert_held(&x->lock);
	tell = !mapping_is(key, &x->props.saddr,
			   READ_ONCE(x->encap->encap_sport)) &&
	       !mapping_is(key, &sa->mapped_addr, sa->mapped_port);
	early = tell && sa->mapped_port &&
		time_before(jiffies, sa->mapped_at + HZ);
	/* The next packet on this connection tells. */
	WRITE_ONCE(sa->untold, early);
	if (!tell || early)
		return false;
	sa->mapped_addr = key->daddr;
	sa->mapped_port = key->dport;
	sa->mapped_at = jiffies;
	return true;
}

/* In one step under the SA's lock: which packet is the newest, and what follows
 * from it, else one that is not could have the last word on another CPU.
 */
static void path_heard_elsewhere(struct xfrm_state *x,
				 struct espintcp_conn *conn, u64 seq)
{
	struct espintcp_path *path = path_of(x, ESPINTCP_IN);
	xfrm_address_t addr = conn->key.daddr;
	bool tell = false;

	if (!path)
		return;

	spin_lock_bh(&x->lock);
	if (sa_is_newest(x, seq)) {
		path_follow(path, x, conn);
		tell = sa_mapping_due(x, &conn->key);
	}
	spin_unlock_bh(&x->lock);

	if (tell)
		km_new_mapping(x, &addr, conn->key.dport);
}

/**
 * espintcp_path_heard - an authentic packet came
 * @x: its SA
 * @conn: the connection it came on
 * @seq: its sequence number, extended if the SA's are
 *
 * The SAs of the pair leave on @conn from now on if the rule at the top says so.
 *
 * Context: softirq or BH disabled, under RCU; may take the SA's lock.
 */
void espintcp_path_heard(struct xfrm_state *x, struct espintcp_conn *conn,
			 u64 seq)
{
	struct espintcp_sa *sa = espintcp_sa(x);
	struct espintcp_path *path = rcu_dereference(sa->path[ESPINTCP_IN]);

	if (unlikely(!path || rcu_access_pointer(path->conn) != conn ||
		     !path_is_of(path, x, ESPINTCP_IN) ||
		     READ_ONCE(sa->untold))) {
		path_heard_elsewhere(x, conn, seq);
		return;
	}
	/* An SA whose packets come on one connection has one writer; two may
	 * set each other back by the few packets in flight.
	 */
	if (seq > READ_ONCE(sa->iseq))
		WRITE_ONCE(sa->iseq, seq);
}

/**
 * espintcp_path_drop - an SA leaves its paths
 * @x: the SA, on its way out
 *
 * Context: process; no packet uses @x any more.
 */
void espintcp_path_drop(struct xfrm_state *x)
{
	struct espintcp_path *path;
	unsigned int dir;

	for (dir = 0; dir < ESPINTCP_DIRS; dir++) {
		path = unrcu_pointer(xchg(&espintcp_sa(x)->path[dir], NULL));
		if (path)
			path_leave(path, dir);
	}
}
