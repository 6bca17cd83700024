set -euo pipefail

say() { printf '%s  %s\n' "$(date '+%F %T')" "$*"; }
die() { say "$*" >&2; exit 1; }

# ---- what runs, and where: edit these -------------------------------------------------------------------------------
@@values@@

# ---- the environment ------------------------------------------------------------------------------------------------
mine=$(id -u)-$(printf '%s' "$PREFIX" | cksum | cut -d ' ' -f 1) # caches of compiled code lie on the node
export TORCH_EXTENSIONS_DIR=$NODE_TMP/torch_extensions-$mine TRITON_CACHE_DIR=$NODE_TMP/triton-$mine
@@setup@@

own_folder() { # make it; one that somebody else put there is refused
    (umask 077 && mkdir -p "$1")
    if [ ! -O "$1" ] || [ -L "$1" ]; then
        die "$(hostname): $1: is not a folder of your own"
    fi
}
