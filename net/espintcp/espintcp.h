/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The module's own types. What each file does:
 *
 *	main.c		module load and unload, conflict detection
 *	ulp.c		a socket becomes a connection and stops being one
 *	prefix.c	the stream prefix, for daemons that leave it to the kernel
 *	ike.c		the daemon's side of the socket: send, receive, poll
 *	framing.c	the record rules, pure
 *	rx.c		socket -> records -> keepalive | IKE queue | ESP
 *	rest.c		reading a segment where it is
 *	esp_type.c	standing in for the stock ESP type of XFRM
 *	esp_input.c	ESP record -> decrypted packet
 *	esp_output.c	packet of an SA -> ESP frame
 *	esp_gso.c	large segment of an inner connection -> ESP frames
 *	esp_gro.c	ESP records -> large packet of an inner connection
 *	esp_seq.c	sequence numbers of an SA
 *	record.[ch]	how an ESP record is laid out
 *	request.[ch]	one AEAD operation of either
 *	path.c		which connection carries an SA
 *	lookup.c	connections by addresses and ports
 *	txq.c		frames -> transmit queue -> socket
 *	frag.c		memory for frames and decrypted packets
 *	aqm.c		how long inner packets wait, and what is done about it
 *	stats.c		counters
 *	sysctl.c	settings
 *	drop.c		what was dropped and why
 *	diag.c		what sock_diag tells of a connection
 *	trace.[ch]	tracepoints
 *	census.[ch]	objects made and destroyed, in debug builds
 *
 * Locks, outermost first. A lock may be taken while those above it are held,
 * never the other way round:
 *
 *	socket lock (lock_sock(), or its spinlock in softirq while no process
 *	owns the socket)
 *			rx state, txq.wire, sending on the socket
 *	xfrm_state.lock	sequence numbers of an SA
 *	path_lock	which SAs share a path, and where it leads
 *	espintcp_txq.lock
 *			the queues and byte counts of a connection
 *	ike_queue.lock	messages waiting for the daemon
 *	prefix_listener.lock
 *			connections on their way to accept()
 *	a CPU's espintcp_frag_cache.lock
 *			memory for frames and packets; a leaf
 *
 * The output of an SA takes none above xfrm_state.lock: it may run under the socket
 * lock of the inner connection, and must not wait for the outer one.
 */
#ifndef ESPINTCP_H
#define ESPINTCP_H

#include <linux/hrtimer.h>
#include <linux/interrupt.h>
#include <linux/refcount.h>
#include <linux/rhashtable-types.h>
#include <linux/skbuff.h>
#include <linux/workqueue.h>
#include <net/ipv6.h>
#include <net/sock.h>
#include <net/xfrm.h>

#include "census.h"
#include "compat.h"
#include "framing.h"
#include "stats.h"

struct espintcp_request;

/**
 * struct espintcp_key - a connection as an SA names it
 * @net: namespace
 * @saddr: our address; IPv4 in a4 with the rest zero
 * @daddr: the peer's
 * @sport: our port, network order
 * @dport: the peer's
 * @family: AF_INET also for IPv4 on an IPv6 socket
 */
struct espintcp_key {
	struct net *net;
	xfrm_address_t saddr;
	xfrm_address_t daddr;
	__be16 sport;
	__be16 dport;
	u32 family;
};

/**
 * struct espintcp_aqm - keeps short the time inner packets wait
 * @room: octets that may wait in the ESP queue before it is too long; written
 *	under the socket lock, read under txq.lock
 * @updated: when that was, jiffies; likewise
 * @unsent_max: octets TCP is given ahead of what it has sent (socket lock)
 * @base: round trip without a queue of ours, us; 0 when not known (socket lock)
 * @delivered: TCP's count of what arrived when its round trip was last looked
 *	at (socket lock)
 * @wait: by how much that was longer than @base, us (socket lock)
 * @test: whether signals shorten it (socket lock)
 * @above: the queue was too long when the last packet came
 * @signalling: and has been for an interval: senders are told; read lockless
 * @since: begin of @above, jiffies
 * @next: time of the next signal, jiffies
 * @count: signals given, which sets the pace
 *
 * Under txq.lock where nothing else is said.
 */
struct espintcp_aqm {
	unsigned int room;
	unsigned long updated;
	unsigned int unsent_max;
	u32 base;
	u32 delivered;
	u32 wait;
	struct espintcp_aqm_test {
		u32 flight;
		u32 wait;
		unsigned long end;
		enum {
			ESPINTCP_AQM_NO_TEST,
			ESPINTCP_AQM_SIGNALS_GO_OUT,
			ESPINTCP_AQM_SENDERS_SLOWED,
		} state;
	} test;
	bool above;
	bool signalling;
	unsigned int count;
	unsigned long since;
	unsigned long next;
};

/**
 * struct espintcp_txq - frames on their way to the socket
 * @lock: guards all but @limit, @esp_limit, @segment and what follows @shut. The
 *	destructors of inner packets may run under it: a sender is woken, or goes at
 *	last.
 * @ike: IKE frames, sent before @esp
 * @esp: ESP frames in the order of their sequence numbers; those whose
 *	encryption still runs keep their place
 * @ike_octets: octets in @ike and, of IKE, in @wire
 * @esp_octets: octets in @esp and, of ESP, in @wire
 * @limit: bound for @ike_octets, octets, written under the socket lock
 * @esp_limit: bound for @esp_octets, octets, likewise
 * @segment: octets TCP makes one segment of, written under the socket lock
 * @burst: when a burst of large frames began, CLOCK_MONOTONIC in ns
 * @aqm: whether inner senders are told to slow down
 * @shut: nothing more is taken; set once, at reset, shutdown or close
 * @wire: frames handed to the socket next, in this order (socket lock)
 * @sent: octets of the first frame of @wire which TCP already has (socket lock)
 * @pushing: espintcp_txq_push() runs (socket lock)
 * @acked: octets the peer had acknowledged when the backlog was last looked at
 *	(socket lock)
 * @stalled: nothing since the time before (socket lock; read lockless)
 */
struct espintcp_txq {
	spinlock_t lock;	/* see above */
	struct sk_buff_head ike;
	struct sk_buff_head esp;
	unsigned int ike_octets;
	unsigned int esp_octets;
	unsigned int limit;
	unsigned int esp_limit;
	unsigned int segment;
	u64 burst;
	struct espintcp_aqm aqm;
	bool shut;

	struct sk_buff_head wire;
	unsigned int sent;
	bool pushing;
	u64 acked;
	bool stalled;
};

/**
 * struct espintcp_rx - where the record splitter is in the stream
 * @head: first octets of a record that does not lie whole in one segment
 * @skb: the record being put together, NULL when its octets are thrown away
 * @left: octets of it still to come
 * @unknown: messages since the last one of IKE or of a known SA
 * @stopped: the stream is broken or the socket closes; nothing more is read.
 *	Also set without the socket lock.
 * @more: the budget ran out or a process had the socket, data may be left in TCP's
 *	receive queue; read lockless
 * @eof: the peer has finished and its last record was taken; read lockless
 * @closed: the daemon wants no more of it: its own shutdown(); read lockless
 * @spare: stands in for a segment whose pages asynchronous crypto still reads
 * @iif: index of the interface that the last segment came in by of which it is
 *	known; not of those that TCP has made of others
 * @mark: its mark
 * @ip_iif: as TCP has it from the IP layer: in a VRF the device below
 * @ip_flags: likewise, and whether there is a VRF
 *
 * All under the socket lock.
 */
struct espintcp_rx {
	struct espintcp_head head;
	struct sk_buff *skb;
	unsigned int left;
	unsigned int unknown;
	bool stopped;
	bool more;
	bool eof;
	bool closed;
	struct sk_buff *spare;
	int iif;
	u32 mark;
	int ip_iif;
	u16 ip_flags;
};

/**
 * struct espintcp_conn - a TCP connection with the ULP set
 * @sk: the socket. Set while attached; the ULP lives no longer than the file,
 *	so the socket is there as long as @detached is false
 * @key: fixed at attach
 * @node: in the table of lookup.c
 * @peer_node: in its table of connections that we opened, unless @accepted
 * @accepted: the peer opened it; fixed at attach
 * @refcnt: held by the socket until detach, by every path that leads here, by
 *	every frame while it is encrypted, and by every asynchronous operation
 * @rcu: readers find a connection without a reference
 * @detached: the socket is gone for this module (socket lock; set under
 *	txq.lock as well)
 * @deferred: something found the socket owned by a process, which runs the
 *	tasklet's work when it lets go (set by whoever has the socket or its
 *	spinlock, read and cleared by who has both)
 * @rx: receive side
 * @iph: template of the outer header decrypted packets are given to XFRM with
 * @ip6h: the same for IPv6
 * @ike_queue: messages for the daemon
 * @ike_truesize: memory in @ike_queue, octets (ike_queue.lock)
 * @txq: transmit side
 * @ike_wait: the daemon waits for room to send
 * @stats: what happened so far
 * @batch: has the tasklet send what a process queued a moment ago
 * @tasklet: continues receiving and sending where the socket lock was not
 *	to be had, or had been held long enough
 * @abort: resets the connection, where sleeping is allowed
 * @abort_err: errno the daemon then sees, 0 before (txq.lock)
 * @retry: sends again after memory ran out with nothing in flight, or after an
 *	error that the daemon had not read
 * @stall: looks after a backlog, whose senders may be waiting in vain
 * @prot: the socket's own, restored at detach
 * @ops: likewise
 * @data_ready: likewise
 * @write_space: likewise
 * @state_change: likewise
 */
struct espintcp_conn {
	struct sock *sk;
	struct espintcp_key key;
	struct rhlist_head node;
	struct rhlist_head peer_node;
	bool accepted;
	refcount_t refcnt;
	struct rcu_head rcu;
	bool detached;
	bool deferred;

	struct espintcp_rx rx;
	union {
		struct iphdr iph;
		struct ipv6hdr ip6h;
	};

	struct sk_buff_head ike_queue;
	unsigned int ike_truesize;

	struct espintcp_txq txq;
	bool ike_wait;

	struct espintcp_conn_stats stats;

	struct hrtimer batch;
	struct tasklet_struct tasklet;
	struct work_struct abort;
	int abort_err;
	struct delayed_work retry;
	struct delayed_work stall;

	struct proto *prot;
	const struct proto_ops *ops;
	void (*data_ready)(struct sock *sk);
	void (*write_space)(struct sock *sk);
	void (*state_change)(struct sock *sk);
};

/**
 * espintcp_conn_of - the connection of a socket which has the ULP
 * @sk: the socket
 *
 * Context: a system call on the socket, or one of its callbacks: the ULP is
 *	there from setsockopt() to the last close of the file.
 */
static inline struct espintcp_conn *espintcp_conn_of(const struct sock *sk)
{
	return (__force struct espintcp_conn *)inet_csk(sk)->icsk_ulp_data;
}

/**
 * espintcp_conn_of_call - the connection of a socket, without its lock
 * @sk: the socket
 *
 * Context: a system call on the socket which may run beside the setsockopt() that
 *	set the ULP.
 */
static inline struct espintcp_conn *espintcp_conn_of_call(const struct sock *sk)
{
	/* Pairs with conn_install(): a call that found our operations, and came
	 * here by no more than a branch, finds the connection too.
	 */
	smp_rmb();
	return espintcp_conn_of(sk);
}

/**
 * espintcp_conn_usable - can frames be sent on a connection?
 * @conn: the connection
 *
 * Context: any.
 */
static inline bool espintcp_conn_usable(const struct espintcp_conn *conn)
{
	return !READ_ONCE(conn->txq.shut);
}

/**
 * struct espintcp_frame - a frame, in the cb of the skb that stands for it
 * @page: holds the frame; the skb owns a reference
 * @offset: where in @page
 * @len: octets, length fields included
 * @records: how many there are in it, one behind the other; more than one if
 *	they were cut from one large segment
 * @pending: those still to be encrypted: until there are none, only the
 *	frame's place is kept (txq.lock)
 * @failed: encryption of one of them did (txq.lock)
 * @ike: an IKE message
 * @mark: the first inner packet is to carry an ECN mark
 *
 * For ESP the skb is the inner packet: as long as its frame waits, the inner
 * sender stays charged for it and is held back as by a device queue. Of the
 * frames of a large segment the last has it. The others' skbs, and those for
 * IKE, are empty.
 */
struct espintcp_frame {
	struct page *page;
	u32 offset;
	u32 len;
	u16 records;
	u16 pending;
	bool failed;
	bool ike;
	bool mark;
};

static inline struct espintcp_frame *espintcp_frame(struct sk_buff *skb)
{
	BUILD_BUG_ON(sizeof(struct espintcp_frame) > sizeof(skb->cb));
	return (struct espintcp_frame *)skb->cb;
}

static inline u8 *espintcp_frame_data(struct sk_buff *skb)
{
	struct espintcp_frame *frame = espintcp_frame(skb);

	return (u8 *)page_address(frame->page) + frame->offset;
}

/* How often a backlog is looked at, and how long a connection may stand still
 * until its senders are let go.
 */
#define ESPINTCP_TX_STALL	HZ

/* Of a large segment; what does not fit that many is left to XFRM to cut. */
#define ESPINTCP_GSO_FRAMES	5

/**
 * struct espintcp_gso_frames - the frames of a large segment
 * @frame: what stands for each, in order
 * @n: how many
 * @records: in all of them
 * @record_len: octets of the first record, length field included
 * @octets: what the SA counts for all packets
 * @ect: the inner packets can carry an ECN mark
 * @lost: the first packet was left out, for its sender to slow down
 * @seq: sequence number of the first record; the others follow it
 */
struct espintcp_gso_frames {
	struct sk_buff *frame[ESPINTCP_GSO_FRAMES];
	unsigned int n;
	unsigned int records;
	unsigned int record_len;
	unsigned int octets;
	bool ect;
	bool lost;
	u64 seq;
};

/**
 * enum espintcp_dir - a direction that an SA carries packets in
 * @ESPINTCP_IN: towards us
 * @ESPINTCP_OUT: towards the peer
 * @ESPINTCP_DIRS: one SA can have both, between two sockets of one host
 */
enum espintcp_dir {
	ESPINTCP_IN,
	ESPINTCP_OUT,
	ESPINTCP_DIRS,
};

/**
 * struct espintcp_sa - what the module keeps for an SA
 * @path: which connection carries it, in each direction it was used in
 *	(RCU; replaced by xchg())
 * @oseq: highest sequence number a frame was given (xfrm_state.lock)
 * @iseq: highest sequence number that was authentic; read and written lockless
 * @request: a crypto request kept for the next packet, or NULL
 * @displaced: offload type that XFRM gave the SA and we took away, with its
 *	module's reference, or NULL (xfrm_state.lock)
 * @mapped_addr: peer address last reported with XFRM_MSG_MAPPING
 *	(xfrm_state.lock, as is all that follows)
 * @mapped_port: and port
 * @untold: a change has not been reported yet; read lockless
 * @mapped_at: when that was, jiffies
 *
 * Lives in the page fragment of the state (xfrm_state.xfrag), which the stock
 * ESP type uses for output and which the kernel gives back with the state.
 */
struct espintcp_sa {
	struct espintcp_path __rcu *path[ESPINTCP_DIRS];
	u64 oseq;
	u64 iseq;
	struct espintcp_request *request;
	const struct xfrm_type_offload *displaced;
	xfrm_address_t mapped_addr;
	__be16 mapped_port;
	bool untold;
	unsigned long mapped_at;
};

static inline struct espintcp_sa *espintcp_sa(const struct xfrm_state *x)
{
	return page_address(x->xfrag.page) + x->xfrag.offset;
}

/**
 * struct espintcp_settings - what an administrator sets, per network namespace
 * @follow: SAs follow the peer to the connection it speaks on
 * @gro: records of one inner connection become one large packet
 * @unknown_limit: messages in a row that are neither IKE nor of a known SA
 *	before a connection is reset; 0 to never do so
 *
 * Written by sysctl at any time. Documentation/mobility.rst has more.
 */
struct espintcp_settings {
	u8 follow;
	u8 gro;
	unsigned int unknown_limit;
};

/**
 * struct espintcp_rest - what of a segment is still to be read
 * @skb: the segment in the socket's receive queue. Its pages may belong to a
 *	file or to the sender: read only
 * @offset: of the next octet
 * @end: of the octets there are
 * @budget: records that may be taken now; one that is long counts as several
 * @fixed: nobody writes to the octets while we read them, and we can
 * @piece: octets of @skb that lie in one piece
 * @piece_begin: number of the first of them
 * @piece_end: and of the first that is not
 */
struct espintcp_rest {
	struct sk_buff *skb;
	unsigned int offset;
	unsigned int end;
	unsigned int budget;
	bool fixed;
	const u8 *piece;
	unsigned int piece_begin;
	unsigned int piece_end;
};

/* Of a record more is decrypted in one go than of several small ones. */
#define ESPINTCP_REST_LONG	4096

static inline void espintcp_rest_charge(struct espintcp_rest *rest,
					unsigned int len)
{
	rest->budget -= min(rest->budget, 1 + len / ESPINTCP_REST_LONG);
}

/**
 * struct espintcp_segment - where the octets of an ESP record are
 * @conn: the connection it came on
 * @skb: the segment that holds all of it; NULL when the record was put together
 *	in memory of our own, or is plain
 * @offset: of the ESP header in @skb
 * @len: octets of the record, without its length field
 * @rest: what comes after it; espintcp_esp_gro() may take from there
 * @known: XFRM found the SA
 * @plain: SA that has decrypted it already, or NULL
 * @plain_seq: by this number
 * @late: the record after those that became one packet, which has been decrypted
 *	and is to be delivered next, or NULL
 * @late_sa: SA that has decrypted @late, to be compared with
 * @late_seq: by this number, likewise
 *
 * On the stack of the receive path, for the time of one xfrm_input() call.
 */
struct espintcp_segment {
	struct espintcp_conn *conn;
	struct sk_buff *skb;
	unsigned int offset;
	unsigned int len;
	struct espintcp_rest *rest;
	bool known;
	const struct xfrm_state *plain;
	u64 plain_seq;
	struct sk_buff *late;
	const struct xfrm_state *late_sa;
	u64 late_seq;
};

/**
 * struct espintcp_input_cb - cb of a packet on its way through xfrm_input()
 * @xfrm: belongs to XFRM
 * @segment: where the ciphertext is
 */
struct espintcp_input_cb {
	struct xfrm_skb_cb xfrm;
	struct espintcp_segment *segment;
};

static inline struct espintcp_input_cb *espintcp_input_cb(struct sk_buff *skb)
{
	BUILD_BUG_ON(sizeof(struct espintcp_input_cb) > sizeof(skb->cb));
	return (struct espintcp_input_cb *)skb->cb;
}

/* main.c */
extern struct workqueue_struct *espintcp_wq;
bool espintcp_permitted(struct net *net);

/* ulp.c */
int espintcp_ulp_init(void);
void espintcp_ulp_exit(void);
int espintcp_ulp_accept(struct sock *sk);
void espintcp_conn_put(struct espintcp_conn *conn);
void espintcp_conn_abort(struct espintcp_conn *conn, int err);
void espintcp_conn_run(struct espintcp_conn *conn);
void espintcp_conn_kick(struct espintcp_conn *conn);

/* prefix.c */
int espintcp_prefix_send(struct sock *sk);
int espintcp_prefix_listen(struct sock *sk, const struct tcp_ulp_ops *ulp);
void espintcp_prefix_clone(struct sock *newsk);
void espintcp_prefix_release(struct sock *sk);

/* ike.c */
int espintcp_ike_enqueue(struct espintcp_conn *conn, struct sk_buff *skb);
int espintcp_sendmsg(struct sock *sk, struct msghdr *msg, size_t len);
int espintcp_ike_recvmsg(struct sock *sk, struct msghdr *msg, size_t len,
			 int flags);
int espintcp_ike_inq(struct espintcp_conn *conn);
void espintcp_ike_wake_writer(struct espintcp_conn *conn);
__poll_t espintcp_poll(struct file *file, struct socket *sock,
		       struct poll_table_struct *wait);

/* rx.c */
void espintcp_rx_run(struct espintcp_conn *conn);
struct sk_buff *espintcp_rx_alloc_esp(struct espintcp_conn *conn,
				      const struct sk_buff *segment,
				      unsigned int len);
void espintcp_rx_count_esp(struct espintcp_conn *conn, unsigned int len);
void espintcp_rx_stop(struct espintcp_conn *conn);

/* rest.c */
bool espintcp_rest_fixed(const struct sk_buff *segment);
const u8 *espintcp_rest_piece(struct espintcp_rest *rest, unsigned int offset,
			      unsigned int len);
const u8 *espintcp_rest_octets(struct espintcp_rest *rest, unsigned int offset,
			       unsigned int len, u8 *buf);

/* drop.c */
void espintcp_drop_n(struct net *net, struct espintcp_conn *conn,
		     enum espintcp_drop why, unsigned int n);
void espintcp_drop_skb(struct sk_buff *skb, enum espintcp_drop why);

static inline void espintcp_drop(struct net *net, struct espintcp_conn *conn,
				 enum espintcp_drop why)
{
	espintcp_drop_n(net, conn, why, 1);
}

/* diag.c */
int espintcp_diag_put(struct sock *sk, struct sk_buff *skb);
size_t espintcp_diag_size(void);

/* esp_type.c */
int espintcp_type_init(void);
void espintcp_type_unpin(void);
void espintcp_type_replace(void);
void espintcp_type_exit(void);

/* esp_input.c */
int espintcp_esp_input(struct xfrm_state *x, struct sk_buff *skb);

/* esp_output.c */
int espintcp_esp_output(struct xfrm_state *x, struct sk_buff *skb);
void espintcp_esp_output_settle(struct espintcp_conn *conn, struct sk_buff *skb,
				unsigned int n, int err);
void espintcp_esp_output_done(struct espintcp_request *er);

/* esp_gso.c */
int espintcp_gso_init(void);
void espintcp_gso_exit(void);
void espintcp_gso_allow(struct xfrm_state *x);
void espintcp_gso_keep_off(struct xfrm_state *x);
int espintcp_gso_start(struct net *net);

/* km.c */
void espintcp_km_init(void);
void espintcp_km_exit(void);

/* esp_gro.c */
void espintcp_esp_gro(struct xfrm_state *x, struct sk_buff *skb,
		      struct espintcp_segment *seg, int nexthdr);

/* esp_seq.c */
/* No run of records is longer: of packets of 536 octets, 64 KiB. */
#define ESPINTCP_SEQ_RUN	127

int espintcp_seq_order(struct xfrm_state *x, u64 *seq)
	__must_hold(&x->lock);
bool espintcp_seq_take(struct xfrm_state *x, unsigned int n,
		       unsigned int octets, u64 *first)
	__must_hold(&x->lock);
u64 espintcp_seq_top(const struct xfrm_state *x)
	__must_hold(&x->lock);
unsigned int espintcp_seq_run_max(struct xfrm_state *x, u64 seq);
bool espintcp_seq_mark(struct xfrm_state *x, u64 seq, unsigned int n,
		       unsigned int octets);

/* frag.c */
unsigned int espintcp_frag_get_some(unsigned int min, unsigned int max,
				    struct page **page, u32 *offset);
void espintcp_frag_unget(const struct page *page, u32 end, unsigned int n);
void espintcp_frag_exit(void);

static inline bool espintcp_frag_get(unsigned int len, struct page **page,
				     u32 *offset)
{
	return espintcp_frag_get_some(len, len, page, offset);
}

/* lookup.c */
int espintcp_lookup_init(void);
void espintcp_lookup_exit(void);
int espintcp_lookup_add(struct espintcp_conn *conn);
void espintcp_lookup_del(struct espintcp_conn *conn);
bool espintcp_key_equal(const struct espintcp_key *a,
			const struct espintcp_key *b);
struct espintcp_conn *espintcp_lookup(const struct espintcp_key *key);
struct espintcp_conn *espintcp_lookup_peer(const struct espintcp_key *key);

/* path.c */
int espintcp_path_init(void);
void espintcp_path_exit(void);
struct espintcp_conn *espintcp_path_get(struct xfrm_state *x);
void espintcp_path_heard(struct xfrm_state *x, struct espintcp_conn *conn,
			 u64 seq);
void espintcp_path_drop(struct xfrm_state *x);

/* sysctl.c */
int espintcp_sysctl_init(void);
void espintcp_sysctl_exit(void);
struct espintcp_settings *espintcp_settings(struct net *net);

/* txq.c */
void espintcp_txq_init(struct espintcp_txq *txq);
int espintcp_frame_alloc(const struct espintcp_conn *conn, struct sk_buff *skb,
			 unsigned int len, gfp_t gfp);
unsigned int espintcp_frame_alloc_some(struct sk_buff *skb,
				       unsigned int record_len, unsigned int n);
void espintcp_frame_free(struct sk_buff *skb);
int espintcp_txq_enqueue_ike(struct espintcp_conn *conn, struct sk_buff *skb);
int espintcp_txq_reserve_esp(struct espintcp_conn *conn, struct xfrm_state *x,
			     struct sk_buff *skb, u64 *seq);
bool espintcp_txq_reserve_gso(struct espintcp_conn *conn, struct xfrm_state *x,
			      struct espintcp_gso_frames *gso);
bool espintcp_txq_complete_esp(struct espintcp_conn *conn, struct sk_buff *skb,
			       unsigned int n, int err);
bool espintcp_txq_ike_room(struct espintcp_conn *conn);
void espintcp_txq_push(struct espintcp_conn *conn);
void espintcp_txq_check_stall(struct espintcp_conn *conn);
void espintcp_txq_flush(struct espintcp_conn *conn);
void espintcp_txq_shut(struct espintcp_conn *conn);
unsigned int espintcp_txq_octets(struct espintcp_conn *conn);

/* aqm.c */
void espintcp_aqm_update(struct espintcp_conn *conn);
unsigned int espintcp_aqm_limit(struct espintcp_conn *conn);
bool espintcp_aqm_signal(struct espintcp_aqm *aqm, unsigned int len,
			 unsigned int waiting);
bool espintcp_aqm_is_ect(const u8 *packet);
bool espintcp_aqm_markable(const struct xfrm_state *x,
			   const struct sk_buff *skb);
void espintcp_aqm_mark(u8 *packet);

#endif
