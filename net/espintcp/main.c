// SPDX-License-Identifier: GPL-2.0
/*
 * Module load and unload.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/capability.h>
#include <linux/kmod.h>
#include <linux/module.h>
#include <linux/workqueue.h>
#include <net/tcp.h>

#include "espintcp.h"

/* For what waits for the lock of a socket, which a process may hold for long: not
 * on a queue of the kernel's, and one such wait keeps no other work waiting.
 */
struct workqueue_struct *espintcp_wq;

static bool allow_userns;
module_param(allow_userns, bool, 0644);
MODULE_PARM_DESC(allow_userns, "also serve network namespaces of other user namespaces (default N)");

/**
 * espintcp_permitted - may the caller set the ULP, or add an SA for it?
 * @net: network namespace of the socket or SA
 *
 * By default the administrator of the machine only: an unprivileged user with
 * a namespace of their own does not reach this code.
 *
 * Context: process, system call.
 */
bool espintcp_permitted(struct net *net)
{
	if (capable(CAP_NET_ADMIN))
		return true;
	return READ_ONCE(allow_userns) &&
	       ns_capable(net->user_ns, CAP_NET_ADMIN);
}

static int __init espintcp_init(void)
{
	int err;

	/* The stock types must be there to stand in for. */
	request_module("xfrm-type-%d-%d", AF_INET, XFRM_PROTO_ESP);
	if (IS_ENABLED(CONFIG_IPV6))
		request_module("xfrm-type-%d-%d", AF_INET6, XFRM_PROTO_ESP);

	err = espintcp_stats_init();
	if (err)
		return err;
	err = espintcp_sysctl_init();
	if (err)
		goto exit_stats;
	err = espintcp_lookup_init();
	if (err)
		goto exit_sysctl;
	err = espintcp_path_init();
	if (err)
		goto exit_lookup;
	err = espintcp_gso_init();
	if (err)
		goto exit_path;
	espintcp_wq = alloc_workqueue("espintcp", WQ_UNBOUND, 0);
	if (!espintcp_wq) {
		err = -ENOMEM;
		goto exit_gso;
	}
	err = espintcp_type_init();
	if (err)
		goto destroy_wq;

	/* Sockets and SAs may use the module from the first of these on: if that
	 * fails, none does yet, and those after it do not fail.
	 */
	err = espintcp_ulp_init();
	if (err) {
		pr_err("this kernel has a ULP named espintcp already (CONFIG_INET_ESPINTCP): use that one\n");
		goto exit_type;
	}
	espintcp_type_replace();
	espintcp_km_init();

	pr_info("IPsec over TCP (RFC 9329) ready\n");
	return 0;

exit_type:
	espintcp_type_unpin();
destroy_wq:
	destroy_workqueue(espintcp_wq);
exit_gso:
	espintcp_gso_exit();
exit_path:
	espintcp_path_exit();
exit_lookup:
	espintcp_lookup_exit();
exit_sysctl:
	espintcp_sysctl_exit();
exit_stats:
	espintcp_stats_exit();
	return err;
}

static void __exit espintcp_exit(void)
{
	espintcp_km_exit();
	espintcp_type_exit();
	espintcp_ulp_exit();
	/* What closed listening sockets have left comes to its end. */
	destroy_workqueue(espintcp_wq);
	espintcp_gso_exit();
	espintcp_path_exit();
	espintcp_lookup_exit();
	espintcp_frag_exit();
	espintcp_sysctl_exit();
	espintcp_stats_exit();
	espintcp_census_exit();
	/* Connections are freed by kfree_rcu(), which needs none of our code. */
}

module_init(espintcp_init);
module_exit(espintcp_exit);

MODULE_DESCRIPTION("IKE and ESP over TCP (RFC 9329)");
MODULE_LICENSE("GPL");
MODULE_ALIAS_TCP_ULP("espintcp");
MODULE_ALIAS_TCP_ULP("iketcp");
MODULE_SOFTDEP("pre: esp4 esp6");
