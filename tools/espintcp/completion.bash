# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# bash completion for espintcp(8)

_espintcp()
{
	local cur=${COMP_WORDS[COMP_CWORD]} words=

	if [ "$COMP_CWORD" -eq 1 ]; then
		words="status monitor check --help"
	else
		case ${COMP_WORDS[1]} in
		status)		words="--json --interval --count --help" ;;
		monitor)	words="--interval --help" ;;
		check)		words="--port --help" ;;
		esac
	fi
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
	# A host; nothing where an option wants a number
	case ${COMP_WORDS[COMP_CWORD - 1]} in
	-p|--port|-i|--interval|-c|--count)
		COMPREPLY=()
		return
		;;
	esac
	if [ "${COMP_WORDS[1]}" = check ] && [ "$COMP_CWORD" -gt 1 ] &&
	   [[ $cur != -* ]]; then
		mapfile -t COMPREPLY < <(compgen -A hostname -- "$cur")
	fi
}

complete -F _espintcp espintcp
