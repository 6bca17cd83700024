#!/bin/bash
# @@title@@
# Run it on a login node: bash THIS [COMMAND…]; without COMMAND an interactive shell, in the environment, on a node.

if [ -z "${SLURM_JOB_ID:-}" ]; then # not in an allocation: ask for one, and run this file in it
    terminal=()
    if [ -t 0 ]; then terminal=(--pty); fi
    exec @@salloc@@ \
        srun --nodes=1 --ntasks=1 --overlap "${terminal[@]}" bash "$0" "$@"
fi
