
# ---- how the nodes find each other ----------------------------------------------------------------------------------
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
address_of() { # a node's name where it leads somewhere, else the address that Slurm has for it
    if getent hosts "$1" >/dev/null; then
        echo "$1"
    else
        scontrol show node "$1" | sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p'
    fi
}
FIRST_NODE=$(address_of "${nodes[0]}")
LAST_NODE=$(address_of "${nodes[-1]}")
MASTER_ADDR=$FIRST_NODE
if [ -n "$INTERFACE" ]; then # this script runs on the first node
    MASTER_ADDR=$({ ip -o -4 addr show dev "$INTERFACE" || :; } | awk '{sub("/.*", "", $4); print $4; exit}')
    [ -n "$MASTER_ADDR" ] || die "${nodes[0]}: interface $INTERFACE has no address; there are: $(ls -m /sys/class/net)"
fi
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export PREFIX OUTPUT FIRST_NODE LAST_NODE MASTER_ADDR MASTER_PORT INTERFACE BACKEND
say "job $SLURM_JOB_ID on ${#nodes[@]} nodes: $SLURM_JOB_NODELIST; rank 0 at $MASTER_ADDR:$MASTER_PORT, $BACKEND"

interface() { # the one that leads to the other nodes, as this node calls it; empty: the library chooses
    local peer=$FIRST_NODE
    if [ -n "$INTERFACE" ] || [ "$SLURM_NNODES" = 1 ]; then
        echo "$INTERFACE"
        return
    fi
    [ "$SLURM_NODEID" != 0 ] || peer=$LAST_NODE
    peer=$(getent ahostsv4 "$peer" | awk '{print $1; exit}')
    { ip -o route get "$peer" 2>/dev/null || :; } | sed -n 's/.* dev \([^ ]*\).*/\1/p'
}

rank() { # one process: a task of srun. Upstream's programs read these variables.
    set -eu
    trap '' USR1 # until Python listens
    export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_STEP_NUM_TASKS LOCAL_RANK=$SLURM_LOCALID
    export LOCAL_WORLD_SIZE=$((SLURM_STEP_NUM_TASKS / SLURM_NNODES))
    own_folder "$TORCH_EXTENSIONS_DIR"
    own_folder "$TRITON_CACHE_DIR"
    chosen=$(interface)
    if [ -n "$chosen" ]; then
        export NCCL_SOCKET_IFNAME=$chosen GLOO_SOCKET_IFNAME=$chosen
    fi
    say "rank $RANK of $WORLD_SIZE on $SLURMD_NODENAME: local rank $LOCAL_RANK, $BACKEND over ${chosen:-what it chooses}"
    exec "$PREFIX/bin/python" -s "$OUTPUT/sat_job.py" "$@"
}
export -f say die own_folder interface rank

# ---- the doctor, on all nodes, once for the nodes of this job -------------------------------------------------------
checked=$OUTPUT/logs/$SLURM_JOB_ID.checked
if [ ${#DOCTOR[@]} -gt 0 ] && [ "$(cat "$checked" 2>/dev/null)" != "$SLURM_JOB_NODELIST" ]; then
    together=()
    if [ "$SLURM_NNODES" -gt 1 ]; then
        together=(--nodes "$SLURM_NNODES" --ntasks "$SLURM_NNODES")
    fi
    "$SATENV" doctor -p "$PREFIX" "${DOCTOR[@]}" "${together[@]}" ||
        die "the doctor has found a failure: nothing was started. In a ticket: $OUTPUT/logs/$SLURM_JOB_ID.out"
    printf '%s' "$SLURM_JOB_NODELIST" >"$checked"
fi
