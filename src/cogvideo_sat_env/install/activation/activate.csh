# cogvideo-sat-env: the same as cogvideo-sat-env.sh, for csh and tcsh.

if ( $?_COGVIDEO_SAT_SET ) then
    source "${CONDA_PREFIX}/etc/conda/deactivate.d/cogvideo-sat-env.csh"
endif
setenv _COGVIDEO_SAT_SET ""

if ( -x "${CONDA_PREFIX}/bin/nvcc" ) then
    if ( $?CUDA_HOME ) then
        setenv _COGVIDEO_SAT_OLD_CUDA_HOME "${CUDA_HOME}"
    endif
    setenv CUDA_HOME "${CONDA_PREFIX}"
    setenv _COGVIDEO_SAT_SET "${_COGVIDEO_SAT_SET} CUDA_HOME"
endif

foreach _cogvideo_sat_target ( x86_64-linux sbsa-linux aarch64-linux )
    set _cogvideo_sat_dir = "${CONDA_PREFIX}/targets/${_cogvideo_sat_target}"
    if ( -d "${_cogvideo_sat_dir}/include" ) then
        if ( $?CPATH ) then
            setenv _COGVIDEO_SAT_OLD_CPATH "${CPATH}"
            setenv CPATH "${_cogvideo_sat_dir}/include:${CPATH}"
        else
            setenv CPATH "${_cogvideo_sat_dir}/include"
        endif
        setenv _COGVIDEO_SAT_SET "${_COGVIDEO_SAT_SET} CPATH"
        if ( -d "${_cogvideo_sat_dir}/lib" ) then
            if ( $?LIBRARY_PATH ) then
                setenv _COGVIDEO_SAT_OLD_LIBRARY_PATH "${LIBRARY_PATH}"
                setenv LIBRARY_PATH "${_cogvideo_sat_dir}/lib:${_cogvideo_sat_dir}/lib/stubs:${LIBRARY_PATH}"
            else
                setenv LIBRARY_PATH "${_cogvideo_sat_dir}/lib:${_cogvideo_sat_dir}/lib/stubs"
            endif
            setenv _COGVIDEO_SAT_SET "${_COGVIDEO_SAT_SET} LIBRARY_PATH"
        endif
        break
    endif
end
unset _cogvideo_sat_target _cogvideo_sat_dir

set _cogvideo_sat_ext = ""
if ( $?TORCH_EXTENSIONS_DIR ) then
    set _cogvideo_sat_ext = "${TORCH_EXTENSIONS_DIR}"
endif
if ( "${_cogvideo_sat_ext}" == "" ) then
    set _cogvideo_sat_base = /tmp
    if ( $?TMPDIR ) then
        if ( "${TMPDIR}" != "" ) then
            set _cogvideo_sat_base = "${TMPDIR}"
        endif
    endif
    if ( $?SLURM_TMPDIR ) then
        if ( "${SLURM_TMPDIR}" != "" ) then
            set _cogvideo_sat_base = "${SLURM_TMPDIR}"
        endif
    endif
    set _cogvideo_sat_sum = `printf %s "${CONDA_PREFIX}" | cksum`
    set _cogvideo_sat_uid = `id -u`
    set _cogvideo_sat_dir = "${_cogvideo_sat_base}/torch_extensions-${_cogvideo_sat_uid}-$_cogvideo_sat_sum[1]"
    mkdir -m 700 "${_cogvideo_sat_dir}" >& /dev/null
    if ( -d "${_cogvideo_sat_dir}" && ! -l "${_cogvideo_sat_dir}" && -o "${_cogvideo_sat_dir}" ) then
        chmod 700 "${_cogvideo_sat_dir}"
        if ( $?TORCH_EXTENSIONS_DIR ) then
            setenv _COGVIDEO_SAT_OLD_TORCH_EXTENSIONS_DIR "${TORCH_EXTENSIONS_DIR}"
        endif
        setenv TORCH_EXTENSIONS_DIR "${_cogvideo_sat_dir}"
        setenv _COGVIDEO_SAT_SET "${_COGVIDEO_SAT_SET} TORCH_EXTENSIONS_DIR"
    else
        sh -c 'echo "cogvideo-sat-env: $1 can not be made or is not your own directory; TORCH_EXTENSIONS_DIR is left unset (set it to a directory of your own)" >&2' sh "${_cogvideo_sat_dir}"
    endif
    unset _cogvideo_sat_base _cogvideo_sat_sum _cogvideo_sat_uid _cogvideo_sat_dir
endif
unset _cogvideo_sat_ext

# torch asks for the user's name when it is imported: a number that no passwd file has, as in containers, needs another.
set _cogvideo_sat_user = "`printenv LOGNAME``printenv USER``printenv LNAME``printenv USERNAME`"
if ( "${_cogvideo_sat_user}" == "" ) then
    id -un >& /dev/null
    if ( $status != 0 ) then
        if ( $?USER ) setenv _COGVIDEO_SAT_OLD_USER "${USER}"
        setenv USER "uid`id -u`"
        setenv _COGVIDEO_SAT_SET "${_COGVIDEO_SAT_SET} USER"
    endif
endif
unset _cogvideo_sat_user
