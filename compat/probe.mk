# SPDX-License-Identifier: GPL-2.0
#
# What the kernel's headers have, found by looking: distributions backport, so
# that a version tells little. One line for each block of compat.h.

probe = $(if $(shell grep -Eqs '$(2)' $(srctree)/include/$(1) && echo y),-D$(3))

ccflags-y += $(call probe,linux/unaligned.h,.,COMPAT_HAVE_LINUX_UNALIGNED)
ccflags-y += $(call probe,net/gso.h,.,COMPAT_HAVE_NET_GSO)
ccflags-y += $(call probe,linux/skbuff.h,skb_splice_from_iter,COMPAT_HAVE_SPLICE_PAGES)
ccflags-y += $(call probe,linux/crypto.h,crypto_completion_t.*void \*,COMPAT_HAVE_CRYPTO_COMPLETION_DATA)
ccflags-y += $(call probe,net/tcp.h,int tcp_ioctl.*int \*karg,COMPAT_HAVE_IOCTL_KARG)
ccflags-y += $(call probe,net/tcp.h,int flags. int \*addr_len.;,COMPAT_HAVE_RECVMSG_ADDR_LEN)
ccflags-y += $(call probe,linux/hrtimer.h,hrtimer_setup,COMPAT_HAVE_HRTIMER_SETUP)
ccflags-y += $(call probe,net/xfrm.h,xfrm_set_type_offload,COMPAT_HAVE_SET_TYPE_OFFLOAD)
ccflags-y += $(call probe,net/tcp.h,\*get_info_size.*net_admin,COMPAT_HAVE_ULP_INFO_NET_ADMIN)
ccflags-y += $(call probe,net/net_namespace.h,register_net_sysctl_sz,COMPAT_HAVE_NET_SYSCTL_SZ)
ccflags-y += $(call probe,net/tcp.h,tcp_ecn_mode_set,COMPAT_HAVE_TCP_ECN_MODE)
ccflags-y += $(call probe,net/xfrm.h,nat_keepalive_interval,COMPAT_HAVE_NAT_KEEPALIVE)
ccflags-y += $(call probe,linux/net.h,proto_accept_arg,COMPAT_HAVE_PROTO_ACCEPT_ARG)
ccflags-y += $(call probe,net/sock.h,sk_use_task_frag;,COMPAT_HAVE_USE_TASK_FRAG)
ccflags-y += $(call probe,net/sock.h,__sk_charge,COMPAT_HAVE_INET_ACCEPT)
ccflags-y += $(call probe,linux/skbuff.h,skb_frags_readable,COMPAT_HAVE_FRAGS_READABLE)
ccflags-y += $(call probe,linux/skbuff.h,skb_is_decrypted,COMPAT_HAVE_SKB_IS_DECRYPTED)
