# cogvideo-sat-env: sourced by conda, mamba, micromamba and bin/activate-cogvideo-sat. POSIX sh; safe under set -eu.
# What is set here is undone by deactivate.d/cogvideo-sat-env.sh: _COGVIDEO_SAT_SET names the variables,
# _COGVIDEO_SAT_OLD_<NAME> holds what was there before (absent when it was unset), _COGVIDEO_SAT_NEW_<NAME> what is now.

if [ -n "${_COGVIDEO_SAT_SET+x}" ]; then  # stacked on another such environment: back to the start first
    . "${CONDA_PREFIX}/etc/conda/deactivate.d/cogvideo-sat-env.sh"
fi
export _COGVIDEO_SAT_SET=""

if [ -x "${CONDA_PREFIX}/bin/nvcc" ]; then  # torch, DeepSpeed and SAT look for nvcc and the headers there
    if [ -n "${CUDA_HOME+x}" ]; then export _COGVIDEO_SAT_OLD_CUDA_HOME="${CUDA_HOME}"; fi
    export CUDA_HOME="${CONDA_PREFIX}"
    _COGVIDEO_SAT_SET="${_COGVIDEO_SAT_SET} CUDA_HOME"
fi

# conda-forge keeps CUDA's headers and link stubs below targets/, where only nvcc itself looks. CPATH and LIBRARY_PATH
# are read by the compilers themselves, so they work for torch's JIT, DeepSpeed's builders and setup.py alike.
for _cogvideo_sat_target in x86_64-linux sbsa-linux aarch64-linux; do
    _cogvideo_sat_dir="${CONDA_PREFIX}/targets/${_cogvideo_sat_target}"
    if [ -d "${_cogvideo_sat_dir}/include" ]; then
        if [ -n "${CPATH+x}" ]; then export _COGVIDEO_SAT_OLD_CPATH="${CPATH}"; fi
        export CPATH="${_cogvideo_sat_dir}/include${CPATH:+:${CPATH}}"
        _COGVIDEO_SAT_SET="${_COGVIDEO_SAT_SET} CPATH"
        if [ -d "${_cogvideo_sat_dir}/lib" ]; then
            if [ -n "${LIBRARY_PATH+x}" ]; then export _COGVIDEO_SAT_OLD_LIBRARY_PATH="${LIBRARY_PATH}"; fi
            export LIBRARY_PATH="${_cogvideo_sat_dir}/lib:${_cogvideo_sat_dir}/lib/stubs${LIBRARY_PATH:+:${LIBRARY_PATH}}"
            _COGVIDEO_SAT_SET="${_COGVIDEO_SAT_SET} LIBRARY_PATH"
        fi
        break
    fi
done
unset _cogvideo_sat_target _cogvideo_sat_dir

# Compiled extensions: on the node, one directory per user and prefix; the default, below the home directory, is shared
# by nodes and by environments that must not share them. A value of the user's own stays.
if [ -z "${TORCH_EXTENSIONS_DIR:-}" ]; then
    _cogvideo_sat_sum="$(printf '%s' "${CONDA_PREFIX}" | cksum)"
    _cogvideo_sat_dir="${SLURM_TMPDIR:-${TMPDIR:-/tmp}}/torch_extensions-$(id -u)-${_cogvideo_sat_sum%% *}"
    mkdir -m 700 "${_cogvideo_sat_dir}" 2>/dev/null || :  # it may be there; what it is, is looked at next
    if [ -d "${_cogvideo_sat_dir}" ] && [ ! -L "${_cogvideo_sat_dir}" ] && [ -O "${_cogvideo_sat_dir}" ]; then
        chmod 700 "${_cogvideo_sat_dir}"
        if [ -n "${TORCH_EXTENSIONS_DIR+x}" ]; then
            export _COGVIDEO_SAT_OLD_TORCH_EXTENSIONS_DIR="${TORCH_EXTENSIONS_DIR}"
        fi
        export TORCH_EXTENSIONS_DIR="${_cogvideo_sat_dir}"
        _COGVIDEO_SAT_SET="${_COGVIDEO_SAT_SET} TORCH_EXTENSIONS_DIR"
    else
        echo "cogvideo-sat-env: ${_cogvideo_sat_dir} can't be made or is not your own directory;" \
            "TORCH_EXTENSIONS_DIR is left unset (set it to a directory of your own)" >&2
    fi
    unset _cogvideo_sat_sum _cogvideo_sat_dir
fi

# torch asks for the user's name when it is imported: a number that no passwd file has, as in containers, needs another.
if [ -z "${LOGNAME:-}${USER:-}${LNAME:-}${USERNAME:-}" ] && ! id -un >/dev/null 2>&1; then
    if [ -n "${USER+x}" ]; then export _COGVIDEO_SAT_OLD_USER="${USER}"; fi
    export USER="uid$(id -u)"
    _COGVIDEO_SAT_SET="${_COGVIDEO_SAT_SET} USER"
fi

for _cogvideo_sat_name in CUDA_HOME CPATH LIBRARY_PATH TORCH_EXTENSIONS_DIR USER; do
    case " ${_COGVIDEO_SAT_SET} " in
        *" ${_cogvideo_sat_name} "*) eval "export _COGVIDEO_SAT_NEW_${_cogvideo_sat_name}=\"\${${_cogvideo_sat_name}}\"" ;;
    esac
done
unset _cogvideo_sat_name
