# Environment for Ascend NPUs: source launch/env_npu.sh
# Finds CANN and sets variables of torch_npu and HCCL. Variables that are set already keep their values.

if [ -z "${BASH_VERSION:-}" ]; then
  echo "launch/env_npu.sh needs bash. Start one, and source it there: bash; source launch/env_npu.sh" >&2
  # shellcheck disable=SC2317
  return 1 2>/dev/null || exit 1
fi

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
  if [[ -z ${ASCEND_TOOLKIT_HOME:-} ]]; then # otherwise the script of CANN has been sourced already
    if ! set_env=$(_ds2f_find_cann); then
      echo "CANN is not found: there is no set_env.sh under /usr/local/Ascend/ascend-toolkit, nor where" \
        "/etc/Ascend/ascend_cann_install.info says. Install CANN, or source its set_env.sh yourself, or choose" \
        "another device with --device=cuda or --device=cpu." >&2
      return 1
    fi
    set +eu # the script of CANN reads unset variables
    # shellcheck disable=SC1090
    source "$set_env"
    [[ $options == *e* ]] && set -e
    [[ $options == *u* ]] && set -u
  fi

  # Otherwise torch imports torch_npu by itself and fails if torch_npu fails. ds2f imports torch_npu where it is used.
  export TORCH_DEVICE_BACKEND_AUTOLOAD=0
  # 1: each process stays on the cores next to its device.
  export CPU_AFFINITY_CONF=${CPU_AFFINITY_CONF:-1}
  # Optimises combinations of two non-contiguous operators.
  export COMBINED_ENABLE=${COMBINED_ENABLE:-1}
  # Devices need not be on the list of trusted addresses of HCCL.
  export HCCL_WHITELIST_DISABLE=${HCCL_WHITELIST_DISABLE:-1}
  # Timeouts of HCCL in seconds, both shorter than --collective_timeout (default 1800). On the first generation of chips
  # HCCL_EXEC_TIMEOUT counts in multiples of 68.
  export HCCL_CONNECT_TIMEOUT=${HCCL_CONNECT_TIMEOUT:-600}
  export HCCL_EXEC_TIMEOUT=${HCCL_EXEC_TIMEOUT:-1768}
  # Errors only (3), in the log files of CANN and not on the terminal.
  export ASCEND_GLOBAL_LOG_LEVEL=${ASCEND_GLOBAL_LOG_LEVEL:-3}
  export ASCEND_SLOG_PRINT_TO_STDOUT=${ASCEND_SLOG_PRINT_TO_STDOUT:-0}
  # Not set here: HCCL_DETERMINISTIC=true all-reduces in the same order every time. TASK_QUEUE_ENABLE=2 launches more
  # operators from a second thread; CANN recommends it, torch_npu 2.13 reserves it for inference. The default is 1.
  # For debugging: ASCEND_LAUNCH_BLOCKING=1 reports errors at the operator that caused them.
  # TORCH_NPU_FALLBACK_CPU_DISABLE=1 turns operators that silently run on the CPU into errors.
}

_ds2f_env_npu
