/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A thread that holds a socket's lock for as long as a test wants: it sets an option
 * that the kernel copies, under the lock, from a page that is not there yet.
 */
#ifndef ESPINTCP_HOLDER_H
#define ESPINTCP_HOLDER_H

#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "espintcp_util.h"

#define HOLDER_OPTION_LEN	40

struct holder {
	int sock;
	int uffd;
	size_t page;
	char *option;	/* four octets of it are there */
	pthread_t thread;
};

static inline void *holder_set_option(void *arg)
{
	struct holder *h = arg;

	setsockopt(h->sock, IPPROTO_IP, IP_OPTIONS, h->option, HOLDER_OPTION_LEN);
	return NULL;
}

/* Returns 0 when the lock is held, 1 when this kernel cannot do it. */
static inline int holder_begin(struct holder *h, int sock)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	char *mem;

	h->sock = sock;
	h->page = sysconf(_SC_PAGESIZE);
	h->uffd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (h->uffd < 0)
		return 1;
	mem = mmap(NULL, 2 * h->page, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mem == MAP_FAILED)
		return -1;
	h->option = mem + h->page - sizeof(int);
	memset(h->option, 0, sizeof(int));
	reg.range.start = (__u64)(mem + h->page);
	reg.range.len = h->page;
	if (ioctl(h->uffd, UFFDIO_API, &api) ||
	    ioctl(h->uffd, UFFDIO_REGISTER, &reg) ||
	    pthread_create(&h->thread, NULL, holder_set_option, h))
		return -1;
	return wait_for(is_readable(h->uffd)) ? 0 : -1;
}

static inline int holder_end(struct holder *h)
{
	struct uffdio_zeropage zero = {
		.range.start = (__u64)(h->option + sizeof(int)),
		.range.len = h->page,
	};

	if (ioctl(h->uffd, UFFDIO_ZEROPAGE, &zero) ||
	    pthread_join(h->thread, NULL) || close(h->uffd))
		return -1;
	return munmap(h->option + sizeof(int) - h->page, 2 * h->page);
}

#endif /* ESPINTCP_HOLDER_H */
