// SPDX-License-Identifier: GPL-2.0
/*
 * espintcp: see what IPsec over TCP does on this machine.
 */
#include <stdio.h>
#include <string.h>

#include "espintcp.h"

static const struct {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *what;
} commands[] = {
	{ "status", cmd_status, "connections and the SAs they carry" },
	{ "monitor", cmd_monitor, "events, as they come" },
	{ "check", cmd_check, "will TCP encapsulation work here?" },
};

static int usage(FILE *to)
{
	unsigned int i;

	fputs("Usage: espintcp COMMAND [OPTION]...\n\n", to);
	for (i = 0; i < ARRAY_SIZE(commands); i++)
		fprintf(to, "  %-10s %s\n", commands[i].name, commands[i].what);
	fputs("\n\"espintcp COMMAND --help\" tells its options, espintcp(8) the rest.\n",
	      to);
	return to == stdout ? EXIT_FINE : EXIT_USAGE;
}

int main(int argc, char **argv)
{
	unsigned int i;

	if (argc < 2)
		return usage(stderr);
	if (!strcmp(argv[1], "-h") || !strcmp(argv[1], "--help"))
		return usage(stdout);
	for (i = 0; i < ARRAY_SIZE(commands); i++)
		if (!strcmp(argv[1], commands[i].name))
			return commands[i].run(argc - 1, argv + 1);
	fprintf(stderr, "espintcp: no command \"%s\"\n", argv[1]);
	return usage(stderr);
}
