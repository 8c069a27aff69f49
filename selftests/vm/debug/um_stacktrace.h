/* SPDX-License-Identifier: GPL-2.0 */
/*
 * For arch/um/kernel/stacktrace.c, which looks at each word of the stack whether it is
 * in the text of the kernel or of a module, and then keeps those that are where a frame
 * has its return address. With KASAN and kmemleak, which save the stack with whatever is
 * allocated and freed, four fifths of the time went there. Only the latter are looked
 * at; a report has none of those with a question mark. No other file of that name uses
 * the function.
 */
#include <linux/kernel.h>

#define __kernel_text_address(addr)					\
	((unsigned long)sp == bp + sizeof(long) && __kernel_text_address(addr))
