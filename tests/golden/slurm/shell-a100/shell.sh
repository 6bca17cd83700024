#!/bin/bash
# A shell in the environment, on a node: one GPU, for A100 island. Written by satenv VERSION; it is yours to edit.
# Run it on a login node: bash THIS [COMMAND…]; without COMMAND an interactive shell, in the environment, on a node.

if [ -z "${SLURM_JOB_ID:-}" ]; then # not in an allocation: ask for one, and run this file in it
    terminal=()
    if [ -t 0 ]; then terminal=(--pty); fi
    exec env SRUN_CPUS_PER_TASK=16 salloc --job-name=sat-shell --nodes=1 --gpus-per-node=a100:1 --cpus-per-task=16 --partition=gpu --account=proj-video --time=24:00:00 '--comment=cogvideo-sat-env release 2026-11-26-0123456789ab' \
        srun --nodes=1 --ntasks=1 --overlap "${terminal[@]}" bash "$0" "$@"
fi

set -euo pipefail

say() { printf '%s  %s\n' "$(date '+%F %T')" "$*"; }
die() { say "$*" >&2; exit 1; }

# ---- what runs, and where: edit these -------------------------------------------------------------------------------
PREFIX=/home/ana/sw/releases/2026-11-26-0123456789ab
SAT=/home/ana/CogVideo/sat
STAGE=auto # how each node gets the release's image: auto, mount, copy, shared
NODE_TMP="/local/$USER" # on the node's own disk

# ---- the environment ------------------------------------------------------------------------------------------------
mine=$(id -u)-$(printf '%s' "$PREFIX" | cksum | cut -d ' ' -f 1) # caches of compiled code lie on the node
export TORCH_EXTENSIONS_DIR=$NODE_TMP/torch_extensions-$mine TRITON_CACHE_DIR=$NODE_TMP/triton-$mine
export NCCL_IB_HCA="mlx5"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-16}
RELEASE=$PREFIX
activate=$("${RELEASE%/releases/*}/stage" "$RELEASE" --how "$STAGE") || die "it isn't staged"
trap '"${RELEASE%/releases/*}/stage" "$RELEASE" --release || :' EXIT
# shellcheck source=/dev/null
. "$activate"
PREFIX=$CONDA_PREFIX # where the image is mounted or unpacked

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
