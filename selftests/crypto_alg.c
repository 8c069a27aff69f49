// SPDX-License-Identifier: GPL-2.0
/*
 * Makes an instance of a crypto template, or takes it away:
 *
 *	crypto_alg add|delete NAME DRIVER
 *
 * NAME is what it does, as in "seqiv(rfc4106(gcm(aes)))", and DRIVER who does it, the
 * driver that it is made of included: "cryptd(seqiv(rfc4106-gcm-aesni))". The kernel
 * prefers it to that one, so that who asks for NAME from then on gets one that works
 * asynchronously.
 *
 * Exits with 4, for a test to be skipped, where the kernel does not know the template,
 * or takes no such requests; with 1 if anything else goes wrong.
 */
#include <errno.h>
#include <linux/cryptouser.h>
#include <linux/netlink.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define EXIT_SKIP	4

/* As the kernel's own header has them */
#define CRYPTO_ALG_TYPE_AEAD	0x3
#define CRYPTO_ALG_TYPE_MASK	0xf

struct request {
	struct nlmsghdr nlh;
	struct crypto_user_alg alg;
};

struct answer {
	struct nlmsghdr nlh;
	struct nlmsgerr err;
};

static int ask(int type, const char *name, const char *driver)
{
	struct request req = {
		.nlh = {
			.nlmsg_len = sizeof(req),
			.nlmsg_type = type,
			.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK,
		},
		.alg = {
			.cru_type = CRYPTO_ALG_TYPE_AEAD,
			.cru_mask = CRYPTO_ALG_TYPE_MASK,
		},
	};
	struct answer answer;
	ssize_t len;
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_CRYPTO);

	snprintf(req.alg.cru_name, sizeof(req.alg.cru_name), "%s", name);
	snprintf(req.alg.cru_driver_name, sizeof(req.alg.cru_driver_name), "%s",
		 driver);
	if (fd < 0 || send(fd, &req, sizeof(req), 0) != sizeof(req))
		return -errno;
	len = recv(fd, &answer, sizeof(answer), 0);
	if (len < 0)
		return -errno;
	close(fd);
	return len < (ssize_t)sizeof(answer) ? -EPROTO : answer.err.error;
}

int main(int argc, char **argv)
{
	int err;

	if (argc != 4 || (strcmp(argv[1], "add") && strcmp(argv[1], "delete"))) {
		fprintf(stderr, "Usage: %s add|delete NAME DRIVER\n", argv[0]);
		return 2;
	}
	err = ask(*argv[1] == 'a' ? CRYPTO_MSG_NEWALG : CRYPTO_MSG_DELALG,
		  argv[2], argv[3]);
	if (!err)
		return 0;
	fprintf(stderr, "%s %s: %s\n", argv[1], argv[3], strerror(-err));
	return err == -ENOENT || err == -EPROTONOSUPPORT ? EXIT_SKIP : 1;
}
