# Completes the last word of the line for a command: _ds2f_complete COMMAND.
_ds2f_complete() {
  local command=$1 current=$words[CURRENT] flag
  case $current in
    --*=*)
      flag=${current%%=*}
      compset -P '*='
      compadd -- $(_ds2f_values $command $flag)
      case $(_ds2f_paths $command $flag) in
        yes) _files ;;
        flags) _files -g '*.flags' ;;
      esac
      ;;
    -*)
      local -a all=($(_ds2f_flags $command))
      compadd -S '' -- ${(M)all:#*=}
      compadd -- ${all:#*=}
      ;;
    *)
      compadd -- $(_ds2f_words $command)
      _files
      ;;
  esac
}

_ds2f() {
  if ((CURRENT == 2)); then
    compadd -- $(_ds2f_commands) --help --version --completion=zsh
  else
    _ds2f_complete $words[2]
  fi
}

_ds2f_python() {
  if [[ $words[2] != -m ]]; then
    (( $+functions[_python] )) || autoload -Uz _python
    _python
  elif ((CURRENT == 3)); then
    local -a all=($(_ds2f_commands))
    compadd -- launch.$^all
  elif [[ $words[3] == launch.* ]]; then
    _ds2f_complete ${words[3]#launch.}
  else
    _files
  fi
}

compdef _ds2f ds2f
compdef _ds2f_python python python3
