# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Where the instructions of a row go: perf's CPU clock counts instructions
# under icount.  Sourced by guest.

profile_start()
{
	# No throttling: the guest thinks its own samples take all its time.
	sysctl -qw kernel.perf_event_max_sample_rate=100000 \
		kernel.perf_cpu_time_max_percent=0 \
		kernel.kptr_restrict=0
	cat /proc/kallsyms >"$out/kallsyms"
	perf record -a -g -e cpu-clock -F 4999 -o "$tmp/perf.data" \
		>"$out/perf.log" 2>&1 &
	perf_pid=$!
}

profile_stop()
{
	kill -INT $perf_pid
	wait $perf_pid || true
	cp "$tmp/perf.data" "$out/perf.data"
}
