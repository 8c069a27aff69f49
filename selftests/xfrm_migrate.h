/* SPDX-License-Identifier: GPL-2.0 */
/*
 * XFRM_MSG_MIGRATE_STATE, for headers that are older than the kernel.
 */
#ifndef XFRM_MIGRATE_H
#define XFRM_MIGRATE_H

#include <linux/xfrm.h>

#ifndef XFRM_MSG_MIGRATE_STATE
#define XFRM_MSG_MIGRATE_STATE	(XFRM_MSG_GETDEFAULT + 1)

struct xfrm_user_migrate_state {
	struct xfrm_usersa_id id;
	xfrm_address_t new_daddr;
	xfrm_address_t new_saddr;
	struct xfrm_mark old_mark;
	struct xfrm_selector new_sel;
	__u32 new_reqid;
	__u32 flags;
	__u16 new_family;
	__u16 reserved;
};
#endif

#endif /* XFRM_MIGRATE_H */
