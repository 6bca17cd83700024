# cogvideo-sat-env: loads the current release into this shell, without modules and without conda:
#     . @ROOT@/load.sh                                 (sh, dash, bash, zsh; also under set -euo pipefail)
#     SATENV_RELEASE=NAME; . @ROOT@/load.sh            another release
# Undo with:  deactivate
# Written by satenv deploy; the next deploy writes it anew.

_cogvideo_sat_root=@QUOTED@
if [ -n "${ZSH_VERSION-}" ]; then
    case "${ZSH_EVAL_CONTEXT-}" in *:file*) _cogvideo_sat_here=sourced ;; *) _cogvideo_sat_here=executed ;; esac
elif [ -n "${BASH_VERSION-}" ]; then
    if [ "${BASH_SOURCE-}" = "$0" ]; then _cogvideo_sat_here=executed; else _cogvideo_sat_here=sourced; fi
elif [ "$0" -ef "${_cogvideo_sat_root}/load.sh" ]; then
    _cogvideo_sat_here=executed
else
    _cogvideo_sat_here=sourced
fi
if [ "${_cogvideo_sat_here}" = executed ]; then
    echo "load.sh must be sourced, it can't change the shell that starts it:  . '$0'" >&2
    exit 1
fi

# Everything is looked at before anything in this shell is changed.
_cogvideo_sat_here=''
_cogvideo_sat_wanted="${_cogvideo_sat_root}/current"
if [ -n "${SATENV_RELEASE-}" ]; then _cogvideo_sat_wanted="${_cogvideo_sat_root}/releases/${SATENV_RELEASE}"; fi
_cogvideo_sat_release="$(cd -P -- "${_cogvideo_sat_wanted}" 2>/dev/null && pwd -P)" || _cogvideo_sat_release=''
if [ -z "${_cogvideo_sat_release}" ] &&
    [ -f "${_cogvideo_sat_root}/images/$(basename "$(readlink -f "${_cogvideo_sat_wanted}")").sqfs" ]; then
    _cogvideo_sat_here="the release is an image; have it on the node, in a job:  . \"\$(${_cogvideo_sat_root}/stage)\""
elif [ -z "${_cogvideo_sat_release}" ] || ! [ -d "${_cogvideo_sat_release}/conda-meta" ]; then
    _cogvideo_sat_here="no release at ${_cogvideo_sat_wanted}; there are: $(command ls -1 "${_cogvideo_sat_root}/releases" 2>/dev/null | grep -v '\.json$' | tr '\n' ' ' || :)"
elif ! [ -r "${_cogvideo_sat_release}/bin/activate-cogvideo-sat" ]; then
    _cogvideo_sat_here="${_cogvideo_sat_release}: not whole, or not readable for you"
elif ! "${_cogvideo_sat_release}/bin/python" -I -c '' >&2; then
    _cogvideo_sat_here="${_cogvideo_sat_release}: its Python doesn't start on $(uname -n) (see above)"
fi
if [ -n "${_cogvideo_sat_here}" ]; then
    echo "cogvideo-sat-env: ${_cogvideo_sat_here}" >&2
    unset _cogvideo_sat_root _cogvideo_sat_here _cogvideo_sat_wanted _cogvideo_sat_release
    return 1
fi

# A login node has no GPU driver, and needs none. In a job that was given GPUs its absence is worth a word.
if [ -n "${SLURM_JOB_ID-}" ]; then
    _cogvideo_sat_here="compute node, job ${SLURM_JOB_ID}"
    if [ -n "${SLURM_JOB_GPUS-}${SLURM_STEP_GPUS-}${SLURM_GPUS_ON_NODE-}" ] && ! [ -e /proc/driver/nvidia/version ]; then
        echo "cogvideo-sat-env: warning: this job was given GPUs, and $(uname -n) has no NVIDIA driver loaded" >&2
    fi
    if [ -d "${_cogvideo_sat_root}/leases" ] && [ -w "${_cogvideo_sat_root}/leases" ]; then
        touch "${_cogvideo_sat_root}/leases/${_cogvideo_sat_release##*/}@${SLURM_JOB_ID}" 2>/dev/null || :
    fi
elif [ -e /proc/driver/nvidia/version ]; then
    _cogvideo_sat_here="no job, GPU driver loaded"
else
    _cogvideo_sat_here="no job and no GPU driver: a login node"
fi
echo "cogvideo-sat-env: ${_cogvideo_sat_release##*/} on $(uname -n) (${_cogvideo_sat_here})" >&2
unset _cogvideo_sat_root _cogvideo_sat_here _cogvideo_sat_wanted
. "${_cogvideo_sat_release}/bin/activate-cogvideo-sat" || { unset _cogvideo_sat_release; return 1; }
unset _cogvideo_sat_release
