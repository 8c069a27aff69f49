# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# The guest's side of vm/run, which puts VM_REPO, VM_OUT, VM_KO and VM_COMMAND in
# front of it.  It may run on any root file system: a POSIX shell, mount, kmod
# and iproute2 is all it can count on.

PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
HOME=/run/home
export PATH HOME VM_REPO VM_OUT

# The root file system is read-only here.  virtme-ng puts overlays on /etc, /usr,
# /var and /tmp and a tmpfs on /run; these are what else tools expect to find.  Its
# /tmp is root's alone until systemd-tmpfiles runs, which not every root has.
setup_directories()
{
	mkdir -p "$HOME" /run/netns /run/lock
	chmod 1777 /tmp
}

load_module()
{
	modprobe -a esp4 esp6 || [ -z "$VM_KO" ] || return
	[ -z "$VM_KO" ] || insmod "$VM_KO"
}

# A debug build of the module counts its objects, and complains of those that
# are left when it goes. It can when the last socket has: TCP may keep one for a
# while, to say goodbye.
is_counting()
{
	[ -n "$VM_KO" ] && [ -d /sys/module/espintcp ] &&
	[ "$(modinfo -F census "$VM_KO")" = y ]
}

take_census()
{
	is_counting || return 0
	tries=120
	until rmmod espintcp 2>/dev/null; do
		tries=$((tries - 1))
		[ $tries -gt 0 ] || { echo "# the module is still in use"; return 1; }
		sleep 1
	done
	dmesg | sed -n 's/.*espintcp: census: /  /p' | tail -n 6
}

# A scan finds what nobody points to. Objects need to be some seconds old, and
# to be found twice, hence the repetition.
kmemleak=/sys/kernel/debug/kmemleak

scan_twice()
{
	echo scan >$kmemleak
	sleep 6
	echo scan >$kmemleak
}

# What boot left behind is not ours
forget_leaks()
{
	[ -e $kmemleak ] || return 0
	scan_twice
	echo clear >$kmemleak
}

# Any fails the run: nothing is left from boot, and of a module that has gone a backtrace
# names no function.
#
# To a file: the log takes no line longer than a kilobyte, nor many at once
report_leaks()
{
	[ -e $kmemleak ] || return 0
	if ! echo scan >$kmemleak; then
		echo "# kmemleak has given up"
		return 1
	fi
	scan_twice
	sleep 6
	echo scan >$kmemleak
	cat $kmemleak >"$VM_OUT/kmemleak" || return
	[ -s "$VM_OUT/kmemleak" ] || return 0
	echo "# leaks:"
	head -n 60 "$VM_OUT/kmemleak"
	return 1
}

# Lockdep does after its first report, and when its tables are full
watches_locks()
{
	[ -e /proc/lockdep_stats ] || return 0
	grep -q 'debug_locks: *1' /proc/lockdep_stats && return
	echo "# lockdep has given up"
	return 1
}

# A kernel that finds data races does so when told to. What it finds while it
# boots is not ours.
kcsan=/sys/kernel/debug/kcsan

find_races()
{
	[ ! -e $kcsan ] || echo on >$kcsan
}

# Who wants to know when packets came has the kernel patch code that every packet runs
# through, and with two emulated processors one of them now and then meets what the
# other writes there (Oops: int3). So somebody wants to know all the time.
want_timestamps()
{
	command -v tcpdump >/dev/null || return 0
	tcpdump -n -i lo -w /dev/null "less 0" 2>/dev/null </dev/null &
}

# Renamed into place: a guest that dies halfway leaves no status at all.
publish()
{
	echo "$2" >"$VM_OUT/.$1" && mv "$VM_OUT/.$1" "$VM_OUT/$1"
}

run_command()
{
	if ! load_module; then
		echo "# the module does not load:"
		dmesg | tail -n 5
		return 125
	fi
	cd "$VM_REPO" && sh -c "$VM_COMMAND" </dev/null
}

# virtme-ng's init calls poweroff next, and an init that cannot is one more
# kernel panic.  Small root file systems come without it.
power_off()
{
	command -v poweroff >/dev/null && return
	sync
	echo o >/proc/sysrq-trigger
	sleep 60
}

setup_directories
want_timestamps
forget_leaks
find_races
run_command 2>&1
status=$?
take_census || [ $status -ne 0 ] || status=1
watches_locks || [ $status -ne 0 ] || status=1
report_leaks || [ $status -ne 0 ] || status=1
dmesg >"$VM_OUT/dmesg.log"
publish tainted "$(cat /proc/sys/kernel/tainted)"
publish status $status
power_off
