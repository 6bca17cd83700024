#!/bin/bash
# A shell in the environment, on a node: 1 node, on their CPUs. Written by satenv VERSION; it is yours to edit.
# Run it on a login node: bash THIS [COMMAND…]; without COMMAND an interactive shell, in the environment, on a node.

if [ -z "${SLURM_JOB_ID:-}" ]; then # not in an allocation: ask for one, and run this file in it
    terminal=()
    if [ -t 0 ]; then terminal=(--pty); fi
    exec salloc --job-name=sat-shell --nodes=1 \
        srun --nodes=1 --ntasks=1 --overlap "${terminal[@]}" bash "$0" "$@"
fi

set -euo pipefail

say() { printf '%s  %s\n' "$(date '+%F %T')" "$*"; }
die() { say "$*" >&2; exit 1; }

# ---- what runs, and where: edit these -------------------------------------------------------------------------------
PREFIX=/home/ana/envs/sat
SAT=/home/ana/CogVideo/sat
NODE_TMP=${SLURM_TMPDIR:-${TMPDIR:-/tmp}} # on the node's own disk

# ---- the environment ------------------------------------------------------------------------------------------------
mine=$(id -u)-$(printf '%s' "$PREFIX" | cksum | cut -d ' ' -f 1) # caches of compiled code lie on the node
export TORCH_EXTENSIONS_DIR=$NODE_TMP/torch_extensions-$mine TRITON_CACHE_DIR=$NODE_TMP/triton-$mine
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
activate=$PREFIX/bin/activate-cogvideo-sat
[ -r "$activate" ] || die "$(hostname): $PREFIX: no environment, or not readable"
# shellcheck source=/dev/null
. "$activate"

own_folder() { # make it; one that somebody else put there is refused
    (umask 077 && mkdir -p "$1")
    if [ ! -O "$1" ] || [ -L "$1" ]; then
        die "$(hostname): $1: is not a folder of your own"
    fi
}

own_folder "$TORCH_EXTENSIONS_DIR"
own_folder "$TRITON_CACHE_DIR"
cd "$SAT"
say "$(hostname), in $PREFIX; $SAT" >&2
if [ $# -gt 0 ]; then
    "$@"
else
    set +eu
    bash --norc -i
fi
