# Completes the last word of the line for a command: _ds2f_complete COMMAND.
_ds2f_complete() {
  local command=$1 line=${COMP_LINE:0:COMP_POINT} current flag value prefix=""
  current=${line##*[[:space:]]}
  COMPREPLY=()
  case $current in
    --*=*)
      flag=${current%%=*} value=${current#*=}
      [[ $COMP_WORDBREAKS == *=* ]] || prefix=$flag=
      COMPREPLY=($(compgen -P "$prefix" -W "$(_ds2f_values "$command" "$flag")" -- "$value"))
      case $(_ds2f_paths "$command" "$flag") in
        yes) _ds2f_files "$prefix" "$value" '' ;;
        flags) _ds2f_files "$prefix" "$value" '!*.flags' ;;
      esac
      ;;
    -*)
      COMPREPLY=($(compgen -W "$(_ds2f_flags "$command")" -- "$current"))
      [[ ${COMPREPLY[0]-} != *= ]] || compopt -o nospace 2>/dev/null
      ;;
    *)
      COMPREPLY=($(compgen -W "$(_ds2f_words "$command")" -- "$current"))
      _ds2f_files '' "$current" ''
      ;;
  esac
}

# Adds files that fit a filter, and folders.
_ds2f_files() {
  local found
  while IFS= read -r found; do
    if [[ -d $found ]]; then
      found+=/
      compopt -o nospace 2>/dev/null
    fi
    COMPREPLY+=("$1$(printf '%q' "$found")")
  done < <({ compgen -f -X "$3" -- "$2"; compgen -d -- "$2"; } | sort -u)
}

_ds2f() {
  if ((COMP_CWORD == 1)); then
    COMPREPLY=($(compgen -W "$(_ds2f_commands) --help --version --completion=bash" -- "${COMP_WORDS[1]}"))
  else
    _ds2f_complete "${COMP_WORDS[1]}"
  fi
}

_ds2f_python() {
  local module=${COMP_WORDS[2]-}
  if [[ ${COMP_WORDS[1]-} != -m ]]; then
    ! declare -F _python >/dev/null || _python "$@"
  elif ((COMP_CWORD == 2)); then
    COMPREPLY=($(compgen -W "$(printf 'launch.%s ' $(_ds2f_commands))" -- "$module"))
  elif [[ $module == launch.* ]]; then
    _ds2f_complete "${module#launch.}"
  fi
}

complete -F _ds2f ds2f
complete -o bashdefault -o default -F _ds2f_python python python3
