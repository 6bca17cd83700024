# cogvideo-sat-env: puts back what activate.d/cogvideo-sat-env.fish changed.

for _cogvideo_sat_name in CUDA_HOME CPATH LIBRARY_PATH TORCH_EXTENSIONS_DIR USER
    if string match -q "* $_cogvideo_sat_name *" " $_COGVIDEO_SAT_SET "
        set -l old "_COGVIDEO_SAT_OLD_$_cogvideo_sat_name"
        if set -q $old
            set -gx $_cogvideo_sat_name "$$old"
            set -e $old
        else
            set -e $_cogvideo_sat_name
        end
    end
end
set -e _COGVIDEO_SAT_SET
