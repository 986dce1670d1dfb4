# Source this before a training on Ascend NPUs: source launch/env_npu.sh
# Finds CANN and sets what torch_npu and HCCL read. What is set already stays as it is.

_ds2f_find_cann() {
  local folder installed=/usr/local/Ascend
  if [[ -r /etc/Ascend/ascend_cann_install.info ]]; then
    installed=$(sed -n 's/^.*[Ii]nstall_[Pp]ath=//p' /etc/Ascend/ascend_cann_install.info | head -n 1)
  fi
  for folder in "$installed" "$installed"/{ascend-toolkit,cann,nnae} /usr/local/Ascend/ascend-toolkit \
    "${HOME:-}"/Ascend/ascend-toolkit; do
    if [[ -r $folder/set_env.sh ]]; then
      echo "$folder/set_env.sh"
      return 0
    fi
  done
  return 1
}

_ds2f_env_npu() {
  local set_env options=$-
  if [[ -z ${ASCEND_TOOLKIT_HOME:-} ]]; then # otherwise CANN's script has been sourced already
    if ! set_env=$(_ds2f_find_cann); then
      echo "CANN is not found: there is no set_env.sh under /usr/local/Ascend/ascend-toolkit, nor where" \
        "/etc/Ascend/ascend_cann_install.info says. Install CANN, or source its set_env.sh yourself, or choose" \
        "another device with --device=cuda or --device=cpu." >&2
      return 1
    fi
    set +eu # CANN's script reads variables that are not set
    # shellcheck disable=SC1090
    source "$set_env"
    [[ $options == *e* ]] && set -e
    [[ $options == *u* ]] && set -u
  fi

  # torch would import torch_npu by itself and fail as a whole when that fails; the launchers import it where it is used.
  export TORCH_DEVICE_BACKEND_AUTOLOAD=0
  # 1: each process stays on the cores next to its card.
  export CPU_AFFINITY_CONF=${CPU_AFFINITY_CONF:-1}
  # Contiguous inputs may be put together by non-contiguous operators at once.
  export COMBINED_ENABLE=${COMBINED_ENABLE:-1}
  # Cards of one machine need not be on HCCL's list of trusted addresses.
  export HCCL_WHITELIST_DISABLE=${HCCL_WHITELIST_DISABLE:-1}
  # HCCL's patience in seconds: both have to be shorter than --collective_timeout, 1800 by default, and on the first
  # generation of chips the second counts in multiples of 68.
  export HCCL_CONNECT_TIMEOUT=${HCCL_CONNECT_TIMEOUT:-600}
  export HCCL_EXEC_TIMEOUT=${HCCL_EXEC_TIMEOUT:-1768}
  # Errors only (3), in CANN's log files and not on the terminal.
  export ASCEND_GLOBAL_LOG_LEVEL=${ASCEND_GLOBAL_LOG_LEVEL:-3}
  export ASCEND_SLOG_PRINT_TO_STDOUT=${ASCEND_SLOG_PRINT_TO_STDOUT:-0}
  # Left to you: HCCL_DETERMINISTIC=true sums over the cards in the same order every time. TASK_QUEUE_ENABLE=2 moves more
  # of the launching to a second thread; CANN recommends it, torch_npu 2.13 reserves it for inference. 1 is the default.
  # For finding errors: ASCEND_LAUNCH_BLOCKING=1 reports them where they happen, TORCH_NPU_FALLBACK_CPU_DISABLE=1 turns
  # operators that silently run on the CPU into errors.
}

_ds2f_env_npu
