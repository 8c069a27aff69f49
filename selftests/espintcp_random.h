/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Numbers for the C tests that try what comes: random ones, the same for the
 * same seed, and those that whoever runs a test sets in its environment.
 */
#ifndef ESPINTCP_RANDOM_H
#define ESPINTCP_RANDOM_H

#include <linux/types.h>
#include <stdbool.h>
#include <stdlib.h>

static __u64 random_state;

/* splitmix64 */
static inline __u64 rnd64(void)
{
	__u64 z = random_state += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

/* 0 to n - 1 */
static inline __u32 rnd(__u32 n)
{
	return (rnd64() >> 32) * n >> 32;
}

static inline bool chance(unsigned int percent)
{
	return rnd(100) < percent;
}

static inline long env_number(const char *name, long value)
{
	const char *text = getenv(name);

	return text ? strtol(text, NULL, 0) : value;
}

#endif /* ESPINTCP_RANDOM_H */
