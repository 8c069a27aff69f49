#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Run the tests on this machine, usually a VM, and count their KTAP points.
# The list comes from kselftest-list.txt, which the Makefile writes.
#
# A test also fails if it exits with a failure that no point of its explains,
# prints other than the points it planned, or takes longer than settings allow.

set -u

cd "$(dirname "$0")" || exit 1

usage()
{
	cat <<-EOT
	Usage: ${0##*/} [-v] [-l] [-t FILE] [-r FILE] [-s DIR] [TEST]...

	Run the TESTs (default: all) and close with "N passed, N failed, N skipped".

	  -v       show all the tests print, not only what failed
	  -l       list the tests
	  -t FILE  keep the totals in FILE, test by test, and leave the closing
	           line to the caller
	  -r FILE  add a line for each test to FILE: its name, and how many of its
	           points passed, failed and were skipped
	  -s DIR   share the tests with other runs that were given DIR, empty at
	           first: each test is run by the first who comes to it
	EOT
}

list_tests()
{
	if [ -f kselftest-list.txt ]; then
		sed 's/.*://' kselftest-list.txt
	else
		make -s emit_tests | sed 's/.*://'
	fi
}

setting()
{
	sed -n "s/^$1=//p" settings 2>/dev/null
}

parse_args()
{
	verbose=0
	totals=
	results=
	shared=
	while getopts vlt:r:s:h option; do
		case $option in
		v)	verbose=1 ;;
		l)	list_tests; exit 0 ;;
		t)	totals="$OPTARG" ;;
		r)	results="$OPTARG" ;;
		s)	shared="$OPTARG" ;;
		h)	usage; exit 0 ;;
		*)	usage >&2; exit 2 ;;
		esac
	done
	shift $((OPTIND - 1))

	[ -z "$shared" ] || [ -w "$shared" ] ||
		{ echo "${0##*/}: cannot write to $shared" >&2; exit 1; }
	tests=("$@")
	[ ${#tests[@]} -gt 0 ] || mapfile -t tests < <(list_tests)
	limit="${TEST_TIMEOUT:-$(setting timeout)}"
	: "${limit:=900}"
}

# Whole logs stay where the host can see them, if it gave us a place.
make_log_dir()
{
	if [ -n "${VM_OUT:-}" ]; then
		log_dir="$VM_OUT/logs"
		rm -rf "$log_dir"
		mkdir -p "$log_dir"
	else
		log_dir="$(mktemp -d "${TMPDIR:-/tmp}/espintcp-tests.XXXXXX")"
	fi || exit
	export TEST_LOG_DIR="$log_dir"
}

# Passed, failed and skipped points, and what was planned (-1: nothing).  An
# expected failure is no failure.  Points of subtests are indented, and their
# parent's point stands for them.
count_points()
{
	awk '
	BEGIN { plan = -1 }
	/^1\.\.[0-9]+/ { plan = substr($1, 4) + 0 }
	/^ok( |$)/ { if (/# *SKIP/) skipped++; else passed++ }
	/^not ok( |$)/ {
		if (/# *(SKIP)/) skipped++
		else if (/# *(XFAIL|TODO)/) passed++
		else failed++
	}
	END { print passed + 0, failed + 0, skipped + 0, plan }' "$1"
}

# What is wrong with a test beyond its failing points, if anything.
find_fault()
{
	local status="$1" points=$((passed + failed + skipped))

	if [ "$status" -eq 124 ] || [ "$status" -eq 137 ]; then
		echo "no end after $limit seconds"
	elif [ "$status" -eq 126 ] || [ "$status" -eq 127 ]; then
		echo "cannot be run"
	elif [ "$status" -gt 128 ]; then
		echo "killed by signal $((status - 128))"
	elif [ "$status" -ne 0 ] && [ "$status" -ne 4 ] && [ "$failed" -eq 0 ]; then
		echo "exit status $status, but no failing point"
	elif [ "$plan" -lt 0 ] && [ "$status" -ne 4 ]; then
		echo "no plan"
	elif [ "$plan" -ge 0 ] && [ "$points" -ne "$plan" ]; then
		echo "$plan points planned, $points reported"
	fi
}

# The failing points, each with what was said since the point before it, and
# the end of the output if the test as a whole went wrong.
show_failures()
{
	local log="$1" fault="$2"

	awk '
	/^(ok|not ok)( |$)/ {
		if (/^not ok/ && !/# *(SKIP|XFAIL|TODO)/) {
			first = said > 20 ? said - 20 : 0
			for (i = first; i < said; i++)
				print "    " lines[i]
			print "    " $0
		}
		said = 0
		next
	}
	{ lines[said++] = $0 }' "$log"
	[ -n "$fault" ] || return
	echo "    not ok - $fault; the end of its output:"
	tail -n 20 "$log" | sed 's/^/    | /'
}

run_one()
{
	local test="$1"

	if [ ! -e "$test" ]; then
		echo "no such test" >"$log"
		return 127
	fi
	if [ "$verbose" -eq 1 ]; then
		timeout --kill-after=10 "$limit" "./$test" 2>&1 </dev/null |
			tee "$log" | sed 's/^/# /'
		return "${PIPESTATUS[0]}"
	fi
	timeout --kill-after=10 "$limit" "./$test" >"$log" 2>&1 </dev/null
}

run_test()
{
	local test="$1" log="$log_dir/$1.log" start=$SECONDS status fault
	local passed failed skipped plan why='' name=''

	# Others would print into the middle of the line
	[ -n "$shared" ] || printf '%-18s ' "$test"
	[ "$verbose" -eq 0 ] || echo
	: >"$log"
	# bash itself would remark on a test that crashes
	run_one "$test" 2>/dev/null || status=$?
	read -r passed failed skipped plan < <(count_points "$log")
	fault="$(find_fault "${status:-0}")"
	[ -z "$fault" ] || failed=$((failed + 1))
	# A test that skips itself as a whole is one skipped test.
	if [ -z "$fault" ] && [ $((passed + failed + skipped)) -eq 0 ]; then
		skipped=1
		why="$(sed -n 's/^1\.\.0 *# *SKIP */: /p' "$log" | head -n 1)"
	fi

	[ -z "$shared" ] || printf -v name '%-18s ' "$test"
	printf '%s%4d passed, %d failed, %d skipped%s  (%d s)\n' "$name" \
		"$passed" "$failed" "$skipped" "$why" $((SECONDS - start))
	[ "$failed" -eq 0 ] || show_failures "$log" "$fault"
	[ -z "$results" ] ||
		echo "$test $passed $failed $skipped" >>"$results"

	total_passed=$((total_passed + passed))
	total_failed=$((total_failed + failed))
	total_skipped=$((total_skipped + skipped))
}

# The last word tells a reader whether all tests are in it.
save_totals()
{
	[ -z "$totals" ] ||
		echo "$total_passed $total_failed $total_skipped $1" >"$totals"
}

is_mine()
{
	[ -z "$shared" ] || mkdir "$shared/$1" 2>/dev/null
}

run_all()
{
	local test

	total_passed=0 total_failed=0 total_skipped=0
	for test in "${tests[@]}"; do
		is_mine "$test" || continue
		save_totals "$test"
		run_test "$test"
	done
	save_totals "done"
}

parse_args "$@"
[ ${#tests[@]} -gt 0 ] || { echo "no tests; run make first" >&2; exit 1; }
make_log_dir
run_all
[ -n "$totals" ] ||
	echo "$total_passed passed, $total_failed failed, $total_skipped skipped"
[ $total_failed -eq 0 ]
