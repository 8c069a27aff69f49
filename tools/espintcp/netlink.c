// SPDX-License-Identifier: GPL-2.0
/*
 * Asking the kernel.
 */
#include <err.h>
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "espintcp.h"

/**
 * nl_open - a netlink socket
 * @bus: NETLINK_*
 * @groups: mask of multicast groups to hear
 *
 * Return: the socket, or NULL with errno set.
 */
struct mnl_socket *nl_open(int bus, unsigned int groups)
{
	struct mnl_socket *nl = mnl_socket_open(bus);

	if (!nl)
		return NULL;
	if (mnl_socket_bind(nl, groups, MNL_SOCKET_AUTOPID) < 0) {
		mnl_socket_close(nl);
		return NULL;
	}
	return nl;
}

static int nl_receive(struct mnl_socket *nl, unsigned int seq, mnl_cb_t cb,
		      void *data)
{
	static char buf[32768];
	unsigned int port = mnl_socket_get_portid(nl);
	ssize_t len;
	int ret;

	do {
		len = mnl_socket_recvfrom(nl, buf, sizeof(buf));
		if (len < 0)
			return -1;
		ret = mnl_cb_run(buf, len, seq, port, cb, data);
	} while (ret > 0);
	return ret;
}

/**
 * nl_dump - have the kernel list things
 * @bus: NETLINK_*
 * @request: the question; gets its sequence number here
 * @cb: called with each answer
 * @data: for @cb
 *
 * Return: 0, or -1 with errno set; EINTR when what was listed changed meanwhile.
 */
int nl_dump(int bus, struct nlmsghdr *request, mnl_cb_t cb, void *data)
{
	struct mnl_socket *nl = nl_open(bus, 0);
	int ret, saved;

	if (!nl)
		return -1;
	request->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	request->nlmsg_seq = time(NULL);

	ret = -1;
	if (mnl_socket_sendto(nl, request, request->nlmsg_len) >= 0)
		ret = nl_receive(nl, request->nlmsg_seq, cb, data);
	saved = errno;
	mnl_socket_close(nl);
	errno = saved;
	return ret < 0 ? -1 : 0;
}

/**
 * array_grow - room for one more
 * @array: allocated, or NULL when @n is 0
 * @n: how many are in it
 * @size: octets of one
 *
 * Return: the array, perhaps elsewhere; does not return without memory.
 */
void *array_grow(void *array, size_t n, size_t size)
{
	/* Doubled whenever it is full: at powers of two */
	if (n & (n - 1))
		return array;
	array = reallocarray(array, n ? 2 * n : 1, size);
	if (!array)
		err(EXIT_FAILED, "memory");
	return array;
}
