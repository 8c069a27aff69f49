/* SPDX-License-Identifier: GPL-2.0 */
/*
 * For mm/init-mm.c, which initializes what user-mode Linux has in a struct mm_struct, with
 * a macro that there is none of with PREEMPT_RT.
 */
#ifdef CONFIG_PREEMPT_RT
#define __SPIN_LOCK_INITIALIZER(name)	__SPIN_LOCK_UNLOCKED(name)
#endif
