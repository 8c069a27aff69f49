# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034
#
# The Debian packages that the scripts of the VM harness install, by what they
# are for.

# Building the module, the tools and the test programs.
BUILD_PACKAGES=(gcc libc6-dev libmnl-dev make)

# What the tests call, inside the VM.
TEST_PACKAGES=(
	conntrack ethtool iperf3 iproute2 iputils-ping kmod libnss3-tools
	jq libreswan nftables openssl perl procps socat strace tcpdump tshark
)

# The kernel's checks and test headers, and the VM.
HOST_PACKAGES=(
	busybox-static file linux-source qemu-system-x86 sparse udev
	virtme-ng xz-utils
)

# Debian packages of our own.
PACKAGING_PACKAGES=(debhelper dh-dkms dpkg-dev lintian)

apt_install()
{
	DEBIAN_FRONTEND=noninteractive apt-get -q -y \
		-o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 \
		install --no-install-recommends "$@"
}

# The archive this machine already uses, whatever its name: "main" of the
# suite itself, not of its updates.
archive_uri()
{
	apt-get indextargets --format '$(REPO_URI) $(SUITE) $(CODENAME)' \
		'Created-By: Packages' 'Component: main' |
		awk '$2 !~ /-/ && $3 !~ /-/ { print $1; exit }'
}

# Its neighbour with the security updates, if this machine uses that.
security_uri()
{
	apt-get indextargets --format '$(REPO_URI) $(CODENAME)' \
		'Created-By: Packages' 'Component: main' |
		awk '$2 ~ /-security$/ { print $1; exit }'
}
