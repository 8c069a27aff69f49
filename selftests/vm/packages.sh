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

# Building a kernel.
KERNEL_PACKAGES=(bc bison flex libelf-dev libssl-dev)

# What the benchmark calls, inside the VM.
BENCH_PACKAGES=(python3-minimal sockperf)

# Building for arm64 here, and the VM that runs it.
ARM64_PACKAGES=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-system-arm)

# What the C tests and what starts them call in that VM.
ARM64_GUEST_PACKAGES=(
	bash busybox-static coreutils dash ethtool grep iproute2 kmod mawk mount
	nftables procps sed util-linux
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

# release_sources SUITE [OPTIONS]: its lines for apt.  Security updates bring the
# newest kernels, and some that are nowhere else.
release_sources()
{
	local suite="$1" options="${2:+$2 }" uri security

	uri="$(archive_uri)"
	[ -n "$uri" ] || { echo "no package archive configured" >&2; return 1; }
	echo "deb $options$uri $suite main"
	security="$(security_uri)"
	if [ "$suite" != sid ] && [ -n "$security" ]; then
		echo "deb $options$security $suite-security main"
	fi
}

# use_release DIR SUITE [ARCH]: from now on "${PRIVATE[@]}" has apt see that
# release, with nothing of it installed, so that the machine's own package sources
# and architectures stay what they are.
use_release()
{
	local dir="$1" suite="$2" arch="${3:-$(dpkg --print-architecture)}"

	chmod 755 "$dir"	# apt drops its privileges to download
	mkdir -p "$dir"/{lists/partial,archives/partial,parts}
	: >"$dir/status"
	release_sources "$suite" \
		"[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]" \
		>"$dir/sources.list" || return
	PRIVATE=(
		-o APT::Architecture="$arch"
		-o APT::Architectures="$arch"
		-o Dir::Etc::SourceList="$dir/sources.list"
		-o Dir::Etc::SourceParts="$dir/parts"
		-o Dir::State::Lists="$dir/lists"
		-o Dir::State::status="$dir/status"
		-o Dir::Cache="$dir"
		# A development suite may be old where the archive is a snapshot
		-o Acquire::Check-Valid-Until=false
	)
	apt-get -q "${PRIVATE[@]}" update
}

# download DIR PACKAGE..., of the release in use
download()
{
	(cd "$1" && shift && apt-get -q "${PRIVATE[@]}" download "$@")
}

# in_scratch COMMAND...: with a directory as its last argument
in_scratch()
{
	local dir status

	dir="$(mktemp -d)" || return
	"$@" "$dir"
	status=$?
	rm -rf "$dir"
	return $status
}
