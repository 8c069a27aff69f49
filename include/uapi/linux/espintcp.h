/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * IKE and ESP over one TCP connection (RFC 9329): what user space may ask.
 */
#ifndef _UAPI_LINUX_ESPINTCP_H
#define _UAPI_LINUX_ESPINTCP_H

/*
 * ULPs
 *
 * setsockopt(fd, SOL_TCP, TCP_ULP, NAME) with
 *
 * "espintcp", on a connected socket: from here on it carries records. The stream
 *	prefix, "IKETCP", is the caller's business.
 * "iketcp", on a connected socket that called connect(): sends the stream prefix
 *	first.
 * "iketcp", on a listening socket: accept() returns connections that began with
 *	the stream prefix, with "espintcp" set on them. Others are reset.
 */

/* Level of the options of a socket that listens with the ULP "iketcp" */
#define SOL_ESPINTCP		4500

/**
 * enum espintcp_sockopt - options of a socket that listens with "iketcp"
 * @ESPINTCP_PREFIX_TIMEOUT: int, ms that a peer may take for the stream prefix,
 *	1 to 3600000; at first 10000
 */
enum espintcp_sockopt {
	ESPINTCP_SOCKOPT_UNSPEC,
	ESPINTCP_PREFIX_TIMEOUT,
};

/*
 * diag attributes
 *
 * sock_diag (IPPROTO_TCP, with INET_DIAG_INFO's extension bit set) answers an
 * administrator with INET_DIAG_ULP_INFO, in which INET_ULP_INFO_NAME is
 * "espintcp" or "iketcp" and INET_ULP_INFO_ESPINTCP nests the attributes below. The kernel
 * numbers the ULPs it knows from 1 on; this one takes the number of its RFC.
 *
 * Octets are those of the TCP stream, length fields included. A count that
 * is not there is zero.
 */
#define INET_ULP_INFO_ESPINTCP	9329

/**
 * enum espintcp_diag - attributes of a connection
 * @ESPINTCP_DIAG_PAD: alignment
 * @ESPINTCP_DIAG_STATE: u32, enum espintcp_state
 * @ESPINTCP_DIAG_SAS: u32, SAs whose output this connection carries now
 * @ESPINTCP_DIAG_LAST_VALID: u64, ms since the last authentic ESP message came;
 *	not there when none has come
 * @ESPINTCP_DIAG_IKE_UNREAD: u32, messages the daemon has not read
 * @ESPINTCP_DIAG_IKE_QUEUED: u32, octets of IKE that TCP does not have yet
 * @ESPINTCP_DIAG_ESP_QUEUED: u32, octets of ESP that TCP does not have yet
 * @ESPINTCP_DIAG_IKE_LIMIT: u32, octets @ESPINTCP_DIAG_IKE_QUEUED may grow to
 * @ESPINTCP_DIAG_ESP_LIMIT: u32, octets @ESPINTCP_DIAG_ESP_QUEUED may grow to
 * @ESPINTCP_DIAG_IN_IKE: nest of enum espintcp_diag_count
 * @ESPINTCP_DIAG_IN_ESP: likewise
 * @ESPINTCP_DIAG_IN_KEEPALIVE: likewise
 * @ESPINTCP_DIAG_OUT_IKE: likewise, what TCP has taken
 * @ESPINTCP_DIAG_OUT_ESP: likewise
 * @ESPINTCP_DIAG_DROPS: nest of u32, the type is the cause: enum espintcp_drop
 */
enum espintcp_diag {
	ESPINTCP_DIAG_UNSPEC,
	ESPINTCP_DIAG_PAD,
	ESPINTCP_DIAG_STATE,
	ESPINTCP_DIAG_SAS,
	ESPINTCP_DIAG_LAST_VALID,
	ESPINTCP_DIAG_IKE_UNREAD,
	ESPINTCP_DIAG_IKE_QUEUED,
	ESPINTCP_DIAG_ESP_QUEUED,
	ESPINTCP_DIAG_IKE_LIMIT,
	ESPINTCP_DIAG_ESP_LIMIT,
	ESPINTCP_DIAG_IN_IKE,
	ESPINTCP_DIAG_IN_ESP,
	ESPINTCP_DIAG_IN_KEEPALIVE,
	ESPINTCP_DIAG_OUT_IKE,
	ESPINTCP_DIAG_OUT_ESP,
	ESPINTCP_DIAG_DROPS,
	__ESPINTCP_DIAG_MAX,
};

#define ESPINTCP_DIAG_MAX (__ESPINTCP_DIAG_MAX - 1)

/**
 * enum espintcp_diag_count - traffic of one kind in one direction
 * @ESPINTCP_DIAG_COUNT_PAD: alignment
 * @ESPINTCP_DIAG_COUNT_FRAMES: u64
 * @ESPINTCP_DIAG_COUNT_OCTETS: u64
 */
enum espintcp_diag_count {
	ESPINTCP_DIAG_COUNT_UNSPEC,
	ESPINTCP_DIAG_COUNT_PAD,
	ESPINTCP_DIAG_COUNT_FRAMES,
	ESPINTCP_DIAG_COUNT_OCTETS,
	__ESPINTCP_DIAG_COUNT_MAX,
};

#define ESPINTCP_DIAG_COUNT_MAX (__ESPINTCP_DIAG_COUNT_MAX - 1)

/**
 * enum espintcp_state - how a connection is
 * @ESPINTCP_STATE_OPEN: both directions work
 * @ESPINTCP_STATE_FINISHED: the peer has sent its FIN and all before it is taken
 * @ESPINTCP_STATE_SHUT: nothing more is sent: shut down or reset
 * @ESPINTCP_STATE_BROKEN: the stream cannot be parsed any more, a reset follows
 */
enum espintcp_state {
	ESPINTCP_STATE_UNSPEC,
	ESPINTCP_STATE_OPEN,
	ESPINTCP_STATE_FINISHED,
	ESPINTCP_STATE_SHUT,
	ESPINTCP_STATE_BROKEN,
};

/**
 * enum espintcp_drop - why a record or a frame was dropped
 * @ESPINTCP_DROP_IN_SHORT: 1 to 4 octets that are no keepalive
 * @ESPINTCP_DROP_IN_TRUNCATED: cut off by the end of the stream
 * @ESPINTCP_DROP_IN_IKE_FULL: the daemon does not read its messages
 * @ESPINTCP_DROP_IN_NO_MEM: no memory
 * @ESPINTCP_DROP_IN_NO_DEV: the interface it came in by is gone
 * @ESPINTCP_DROP_OUT_QUEUE_FULL: no room in the connection's queue
 * @ESPINTCP_DROP_OUT_NO_CONN: no connection carries the SA
 * @ESPINTCP_DROP_OUT_CLOSED: it waited when the connection ended
 * @ESPINTCP_DROP_OUT_TOO_BIG: does not fit a record
 * @ESPINTCP_DROP_OUT_LOOP: a segment of the connection that would carry it
 * @ESPINTCP_DROP_OUT_NO_MEM: no memory
 * @ESPINTCP_DROP_OUT_CRYPTO: encryption failed
 * @ESPINTCP_DROP_OUT_AQM: packets wait too long, and this one's sender is to
 *	slow down
 * @ESPINTCP_DROP_IN_NO_ROUTE: there is no route to the address it came to any more
 */
enum espintcp_drop {
	ESPINTCP_DROP_UNSPEC,
	ESPINTCP_DROP_IN_SHORT,
	ESPINTCP_DROP_IN_TRUNCATED,
	ESPINTCP_DROP_IN_IKE_FULL,
	ESPINTCP_DROP_IN_NO_MEM,
	ESPINTCP_DROP_IN_NO_DEV,
	ESPINTCP_DROP_OUT_QUEUE_FULL,
	ESPINTCP_DROP_OUT_NO_CONN,
	ESPINTCP_DROP_OUT_CLOSED,
	ESPINTCP_DROP_OUT_TOO_BIG,
	ESPINTCP_DROP_OUT_LOOP,
	ESPINTCP_DROP_OUT_NO_MEM,
	ESPINTCP_DROP_OUT_CRYPTO,
	ESPINTCP_DROP_OUT_AQM,
	ESPINTCP_DROP_IN_NO_ROUTE,
	__ESPINTCP_DROP_MAX,
};

#define ESPINTCP_DROP_MAX (__ESPINTCP_DROP_MAX - 1)

#endif
