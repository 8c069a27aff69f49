// SPDX-License-Identifier: GPL-2.0
/*
 * How many objects were made, and how many are gone.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/atomic.h>
#include <linux/module.h>

#include "census.h"

/**
 * struct espintcp_census - one kind of object
 * @name: several of them, as the log calls them
 * @made: since the module was loaded
 * @gone: likewise
 */
static struct espintcp_census {
	const char *name;
	atomic_long_t made;
	atomic_long_t gone;
} census[ESPINTCP_OBJECTS] = {
	[ESPINTCP_OBJECT_CONN] = { .name = "connections" },
	[ESPINTCP_OBJECT_FRAME] = { .name = "frames" },
	[ESPINTCP_OBJECT_PATH] = { .name = "paths" },
	[ESPINTCP_OBJECT_REQUEST] = { .name = "requests" },
	[ESPINTCP_OBJECT_LISTENER] = { .name = "listeners" },
	[ESPINTCP_OBJECT_CANDIDATE] = { .name = "candidates" },
};

/**
 * espintcp_made - an object begins
 * @object: its kind
 *
 * Context: any.
 */
void espintcp_made(enum espintcp_object object)
{
	atomic_long_inc(&census[object].made);
}

/**
 * espintcp_gone - an object is freed, or will be at the end of a grace period
 * @object: its kind
 *
 * Context: any.
 */
void espintcp_gone(enum espintcp_object object)
{
	atomic_long_inc(&census[object].gone);
}

/**
 * espintcp_census_exit - say how many there were, and complain of those left
 *
 * Context: module unload, nothing of the module runs any more.
 */
void espintcp_census_exit(void)
{
	int i;

	for (i = 0; i < ESPINTCP_OBJECTS; i++) {
		long made = atomic_long_read(&census[i].made);
		long gone = atomic_long_read(&census[i].gone);

		pr_info("census: %s: %ld made, %ld gone\n", census[i].name,
			made, gone);
		WARN(made != gone, "%ld %s are left\n", made - gone,
		     census[i].name);
	}
}

MODULE_INFO(census, "y");
