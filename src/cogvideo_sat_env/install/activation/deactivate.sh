# cogvideo-sat-env: puts back what activate.d/cogvideo-sat-env.sh changed. POSIX sh; safe under set -eu.

for _cogvideo_sat_name in CUDA_HOME CPATH LIBRARY_PATH TORCH_EXTENSIONS_DIR; do
    case " ${_COGVIDEO_SAT_SET:-} " in
        *" ${_cogvideo_sat_name} "*)
            if eval "[ -n \"\${_COGVIDEO_SAT_OLD_${_cogvideo_sat_name}+x}\" ]"; then
                eval "export ${_cogvideo_sat_name}=\"\${_COGVIDEO_SAT_OLD_${_cogvideo_sat_name}}\""
                unset "_COGVIDEO_SAT_OLD_${_cogvideo_sat_name}"
            else
                unset "${_cogvideo_sat_name}"
            fi
            ;;
    esac
done
unset _cogvideo_sat_name _COGVIDEO_SAT_SET
