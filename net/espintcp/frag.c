// SPDX-License-Identifier: GPL-2.0
/*
 * Memory for the octets of frames and of decrypted packets: page fragments which
 * lie back to back, so that those used together make few pieces.
 */
#include <linux/mm.h>
#include <linux/percpu.h>
#include <linux/spinlock.h>
#include <net/sock.h>

#include "espintcp.h"

/**
 * struct espintcp_frag_cache - where the next octets come from
 * @lock: a CPU's own, contended only by a task that migrated
 * @frag: what is left of a page
 */
struct espintcp_frag_cache {
	spinlock_t lock;	/* a leaf */
	struct page_frag frag;
};

static DEFINE_PER_CPU(struct espintcp_frag_cache, espintcp_frag_cache) = {
	.lock = __SPIN_LOCK_UNLOCKED(espintcp_frag_cache.lock),
};

/**
 * espintcp_frag_get_some - memory of a size that suits the cache
 * @min: octets it must have
 * @max: octets that are of use
 * @page: holds them; the caller owns a reference
 * @offset: where in @page
 *
 * Context: any but hard interrupts.
 * Return: how many octets, 0 without memory.
 */
unsigned int espintcp_frag_get_some(unsigned int min, unsigned int max,
				    struct page **page, u32 *offset)
{
	struct espintcp_frag_cache *cache = raw_cpu_ptr(&espintcp_frag_cache);
	struct page_frag *frag = &cache->frag;
	unsigned int len = 0;

	spin_lock_bh(&cache->lock);
	/* It may come back with less, when memory is in pieces. */
	if (skb_page_frag_refill(min, frag, GFP_ATOMIC) &&
	    frag->offset + min <= frag->size) {
		len = min_t(unsigned int, max, frag->size - frag->offset);
		*page = frag->page;
		*offset = frag->offset;
		get_page(frag->page);
		frag->offset += len;
	}
	spin_unlock_bh(&cache->lock);
	return len;
}

/**
 * espintcp_frag_unget - give the end of a piece back
 * @page: as from espintcp_frag_get_some(); the reference stays the caller's
 * @end: where the piece ended
 * @n: octets before @end that were not used
 *
 * Does nothing when another piece was taken since, or on another CPU.
 *
 * Context: any but hard interrupts.
 */
void espintcp_frag_unget(const struct page *page, u32 end, unsigned int n)
{
	struct espintcp_frag_cache *cache = raw_cpu_ptr(&espintcp_frag_cache);
	struct page_frag *frag = &cache->frag;

	spin_lock_bh(&cache->lock);
	if (frag->page == page && frag->offset == end)
		frag->offset -= n;
	spin_unlock_bh(&cache->lock);
}

/**
 * espintcp_frag_exit - give the caches back
 *
 * Context: process, module unload; no connection is left.
 */
void espintcp_frag_exit(void)
{
	int cpu;

	for_each_possible_cpu(cpu) {
		struct page_frag *frag =
			&per_cpu(espintcp_frag_cache, cpu).frag;

		if (frag->page)
			put_page(frag->page);
	}
}
