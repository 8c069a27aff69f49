/* SPDX-License-Identifier: GPL-2.0 */
/*
 * For user-mode Linux with more than one processor, each a thread of the host's: for what
 * arch/um/os-Linux/ has in smp.c (where UM_SMP is defined), time.c and skas/process.c.
 *
 * Interrupts from other processors are the one kind that it has the host hold back, so
 * that each disabling, and lockdep does that with every lock, is a system call. Here they
 * are held back as the others are: the handler of the signal notes what comes while
 * interrupts are disabled, and it is handled when they are enabled.
 *
 * A process is one of the host's, too. Between it and the processor that runs it goes a
 * wake-up with every system call and page fault, which takes ten times as long from one of
 * the host's processors to another that idles. Each processor therefore keeps to one of
 * them, and takes the process it runs along.
 */
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <kern_util.h>
#include <os.h>
#include <skas/mm_id.h>
#include <smp.h>
#include <um_malloc.h>

#define UM_IPI_SIGNAL	SIGRTMIN

extern __thread unsigned int um_ipis_pending;
extern __thread unsigned long um_host_cpu;	/* as a mask, 0: any */

static inline unsigned int um_ipis(void)
{
	return __atomic_load_n(&um_ipis_pending, __ATOMIC_RELAXED);
}

static inline void um_keep_to(int pid, unsigned long cpu)
{
	syscall(__NR_sched_setaffinity, pid, sizeof(cpu), &cpu);
}

#ifdef UM_SMP

extern __thread int signals_enabled;

__thread unsigned int um_ipis_pending;
__thread unsigned long um_host_cpu;

static void (*um_ipi_handle)(int sig, siginfo_t *info, void *context);

/* Each vector once: whoever sends it leaves what it is about elsewhere. */
static void um_ipi_note(int vector)
{
	__atomic_or_fetch(&um_ipis_pending, 1U << vector, __ATOMIC_SEQ_CST);
}

void os_local_ipi_enable(void)
{
	unsigned int vectors;
	siginfo_t info;

	while (um_ipis()) {
		vectors = __atomic_exchange_n(&um_ipis_pending, 0, __ATOMIC_SEQ_CST);
		for (; vectors; vectors &= vectors - 1) {
			info.si_value.sival_int = __builtin_ctz(vectors);
			um_ipi_handle(UM_IPI_SIGNAL, &info, NULL);
		}
	}
}

void os_local_ipi_disable(void)
{
}

static void um_ipi_come(int sig, siginfo_t *info, void *context)
{
	if (!signals_enabled) {
		um_ipi_note(info->si_value.sival_int);
		return;
	}
	um_ipi_handle(sig, info, context);
	os_local_ipi_enable();
}

/* The first processor calls this before there are others. */
static void um_choose_host_cpu(void)
{
	static unsigned long all;
	unsigned long left;
	int n;

	if (uml_ncpus == 1)
		return;
	if (!all)
		syscall(__NR_sched_getaffinity, 0, sizeof(all), &all);
	left = all;
	for (n = uml_curr_cpu(); n; n--) {
		left &= left - 1;
		if (!left)
			left = all;
	}
	um_host_cpu = left & -left;
	um_keep_to(0, um_host_cpu);
}

static int um_sigaction(int sig, struct sigaction *action)
{
	um_choose_host_cpu();
	um_ipi_handle = action->sa_sigaction;
	action->sa_sigaction = um_ipi_come;
	action->sa_flags |= SA_NODEFER;
	sigdelset(&action->sa_mask, sig);
	return sigaction(sig, action, NULL);
}

static void um_start_secondary(void *parameters)
{
	um_choose_host_cpu();
	uml_start_secondary(parameters);
}

/*
 * A new processor frees its parameters before RCU knows it, and kmemleak frees by RCU.
 * They are kept instead, where kmemleak sees them.
 */
static void um_keep(void *object)
{
	static void *kept;

	*(void **)object = kept;
	kept = object;
}

/* What the file has to the same end goes by other names. */
void um_unused_ipi_enable(void);
void um_unused_ipi_disable(void);

#define os_local_ipi_enable		um_unused_ipi_enable
#define os_local_ipi_disable		um_unused_ipi_disable
#define sigaction(sig, action, old)	um_sigaction(sig, action)
#define uml_start_secondary(object)	um_start_secondary(object)
#define kfree(object)			um_keep(object)
/* Nor is it blocked in a new processor. */
#define sigaddset(set, sig)						\
	((sig) == UM_IPI_SIGNAL ? 0 : (sigaddset)(set, sig))

#else

/* time.c: an idle processor must not miss one before it sleeps. */
#define sigaddset(set, sig)						\
	((void)(sigaddset)(set, sig), (void)(sigaddset)(set, UM_IPI_SIGNAL))
#define uml_need_resched()	(uml_need_resched() || um_ipis())

/*
 * skas/process.c, where a process goes on. Who follows whom is noted by the last digits
 * of the PID: a wrong note costs time only.
 */
static inline void um_take_along(const struct mm_id *id)
{
	static unsigned long follows[1 << 16];
	unsigned long *cpu;

	if (!um_host_cpu)
		return;
	cpu = &follows[(unsigned int)id->pid % (1 << 16)];
	if (*cpu == um_host_cpu)
		return;
	*cpu = um_host_cpu;
	um_keep_to(id->pid, um_host_cpu);
}

/* A header of KCSAN's wants it, which the file includes without. */
struct list_head {
	struct list_head *next, *prev;
};

enum { UM_FUTEX_WAKE = FUTEX_WAKE };

#undef FUTEX_WAKE
#define FUTEX_WAKE	(um_take_along(mm_idp), UM_FUTEX_WAKE)

#endif
