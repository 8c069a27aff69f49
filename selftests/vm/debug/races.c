// SPDX-License-Identifier: GPL-2.0
/*
 * Has KCSAN look at the module's own accesses.
 *
 * KCSAN watches one of so many accesses for another CPU's, whoever makes them. On
 * an emulated machine it gets to few of the module's, and two CPUs seldom meet
 * in the short time each is watched. Built in for a kernel with KCSAN ("make
 * ESPINTCP_RACES=address of kcsan_skip"), these stand in for what the compiler
 * calls before each access, and have KCSAN watch every so many of them whatever
 * it has just skipped. Then it may skip all of the kernel's.
 */
#include <linux/kcsan-checks.h>
#include <linux/percpu.h>

/* No divisor of the number of accesses in a loop. */
#define RACES_ONE_IN	53

static DEFINE_PER_CPU(unsigned int, races_count);

static __always_inline void races_watch(void)
{
	long __percpu *skip = (long __percpu *)ESPINTCP_RACES;

	if (!(this_cpu_inc_return(races_count) % RACES_ONE_IN))
		this_cpu_write(*skip, 0);
}

__diag_push();
__diag_ignore_all("-Wmissing-prototypes", "only the compiler calls them");

/* The last call is a jump, so that reports name the caller. */
#define RACES_OF(name, size, type)			\
	void name(void *p)				\
	{						\
		races_watch();				\
		__kcsan_check_access(p, size, type);	\
	}

RACES_OF(__tsan_read1, 1, 0)
RACES_OF(__tsan_read2, 2, 0)
RACES_OF(__tsan_read4, 4, 0)
RACES_OF(__tsan_read8, 8, 0)
RACES_OF(__tsan_write1, 1, KCSAN_ACCESS_WRITE)
RACES_OF(__tsan_write2, 2, KCSAN_ACCESS_WRITE)
RACES_OF(__tsan_write4, 4, KCSAN_ACCESS_WRITE)
RACES_OF(__tsan_write8, 8, KCSAN_ACCESS_WRITE)

__diag_pop();
