/* SPDX-License-Identifier: GPL-2.0 */
/*
 * For arch/um/kernel/stacktrace.c
 *
 * It looks at each word of the stack whether it is in the text of the kernel or of a
 * module, and then keeps those that are where a frame has its return address. With KASAN
 * and kmemleak, which save the stack with whatever is allocated and freed, four fifths of
 * the time went there. Only the latter are looked at; a report has none of those with a
 * question mark.
 *
 * It leaves out none of the innermost functions, though who asks says how many. KCSAN's
 * reports then name what saves the stack instead of who accessed the data.
 */
#include <linux/kernel.h>
#include <linux/stacktrace.h>

#define __kernel_text_address(addr)					\
	((unsigned long)sp == bp + sizeof(long) && __kernel_text_address(addr))

static void um_save_addr(void *data, unsigned long address, int reliable);
noinline void um_save_stack_trace(struct stack_trace *trace);

static void save_addr(void *data, unsigned long address, int reliable)
{
	struct stack_trace *trace = data;

	if (reliable && trace->skip)
		trace->skip--;
	else
		um_save_addr(data, address, reliable);
}

void save_stack_trace(struct stack_trace *trace)
{
	trace->skip += 2;	/* this function and the one it calls */
	um_save_stack_trace(trace);
	barrier();
}

#define save_addr(data, address, reliable)				\
	um_save_addr(data, address, reliable)
#define save_stack_trace(trace)						\
	um_save_stack_trace(trace)
