# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034
#
# What the scripts of the VM harness share.

VM_DIR="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)"
REPO="$(cd "$VM_DIR/../.." && pwd -P)"

# Outside of the tree: a clone stays as small as it was, and "git clean" keeps
# what takes long to get.
CACHE="${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/espintcp"
ROOTS="${ROOTS:-$CACHE/roots}"

# newest_kernel [ROOT]
newest_kernel()
{
	# shellcheck disable=SC2012 # kernel image names are tame
	ls "${1:-}"/boot/vmlinuz-* 2>/dev/null | sort -V | tail -n 1
}

# newest_source DIR...: of the kernels whose source is there
newest_source()
{
	find "$@" -maxdepth 1 -name 'linux-source-*.tar.*' -printf '%f %p\n' \
		2>/dev/null | sort -V | sed -n '$s/.* //p'
}

# kernel_version IMAGE: as uname -r will say
kernel_version()
{
	local version

	version="$(file -bL "$1" | sed -n 's/.*[, ]version \([^ ]*\).*/\1/p')"
	echo "${version:-${1##*/vmlinuz-}}"
}

# copy_sources DIR: from the source tarball, so that building for another kernel
# leaves what lies around here alone, and none of it is in there
copy_sources()
{
	local tarball

	tarball="$REPO/$("$REPO/tools/package/dist")" || return
	rm -rf "$1" && mkdir -p "$1" &&
	tar -C "$1" --strip-components=1 -xf "$tarball"
}

# step TEXT COMMAND...: one line of progress; what the command says goes to
# $LOG, whose end is shown if the command fails
step()
{
	local text="$1" start

	shift
	start="$(wc -l <"$LOG")"
	printf '  %-58s ' "$text"
	if "$@" >>"$LOG" 2>&1 </dev/null; then
		echo ok
		return
	fi
	echo FAILED
	tail -n "+$((start + 1))" "$LOG" | tail -n 30 | sed 's/^/    /'
	echo "  The whole log is in $LOG"
	return 1
}

# lacks_9p IMAGE: a distribution's kernel without 9p, as Debian's for clouds. Those
# that are built here have it.
lacks_9p()
{
	local config="${1%/*}/config-${1##*/vmlinuz-}"

	[[ ${1##*/} == vmlinuz-* ]] && [ -f "$config" ] &&
		! grep -q '^CONFIG_9P_FS=' "$config"
}
