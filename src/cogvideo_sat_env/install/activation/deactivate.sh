# cogvideo-sat-env: undoes what activate.d/cogvideo-sat-env.sh set. POSIX sh; safe under set -eu.
# Where a variable was changed since, only the part of ours goes: a folder that you put into CPATH stays.

for _cogvideo_sat_name in CUDA_HOME CPATH LIBRARY_PATH TORCH_EXTENSIONS_DIR USER; do
    case " ${_COGVIDEO_SAT_SET:-} " in
        *" ${_cogvideo_sat_name} "*)
            eval "_cogvideo_sat_now=\"\${${_cogvideo_sat_name}-}\""
            eval "_cogvideo_sat_new=\"\${_COGVIDEO_SAT_NEW_${_cogvideo_sat_name}-}\""
            eval "_cogvideo_sat_old=\"\${_COGVIDEO_SAT_OLD_${_cogvideo_sat_name}-}\""
            if [ "${_cogvideo_sat_now}" != "${_cogvideo_sat_new}" ]; then
                _cogvideo_sat_new="${_cogvideo_sat_new%"${_cogvideo_sat_old}"}"
                _cogvideo_sat_new=":${_cogvideo_sat_new%:}:"
                _cogvideo_sat_now=":${_cogvideo_sat_now}:"
                case "${_cogvideo_sat_now}" in
                    "${_cogvideo_sat_new}") unset "${_cogvideo_sat_name}" ;;
                    *"${_cogvideo_sat_new}"*)
                        _cogvideo_sat_old="${_cogvideo_sat_now%%"${_cogvideo_sat_new}"*}:"
                        _cogvideo_sat_now="${_cogvideo_sat_old}${_cogvideo_sat_now#*"${_cogvideo_sat_new}"}"
                        _cogvideo_sat_now="${_cogvideo_sat_now#:}"
                        _cogvideo_sat_now="${_cogvideo_sat_now%:}"
                        eval "export ${_cogvideo_sat_name}=\"\${_cogvideo_sat_now}\""
                        ;;
                esac
            elif eval "[ -n \"\${_COGVIDEO_SAT_OLD_${_cogvideo_sat_name}+x}\" ]"; then
                eval "export ${_cogvideo_sat_name}=\"\${_cogvideo_sat_old}\""
            else
                unset "${_cogvideo_sat_name}"
            fi
            ;;
    esac
    unset "_COGVIDEO_SAT_NEW_${_cogvideo_sat_name}" "_COGVIDEO_SAT_OLD_${_cogvideo_sat_name}"
done
unset _cogvideo_sat_name _cogvideo_sat_now _cogvideo_sat_new _cogvideo_sat_old _COGVIDEO_SAT_SET
