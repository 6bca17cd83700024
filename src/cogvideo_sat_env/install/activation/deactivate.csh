# cogvideo-sat-env: puts back what activate.d/cogvideo-sat-env.csh changed.

if ( ! $?_COGVIDEO_SAT_SET ) setenv _COGVIDEO_SAT_SET ""
foreach _cogvideo_sat_name ( CUDA_HOME CPATH LIBRARY_PATH TORCH_EXTENSIONS_DIR USER )
    if ( " ${_COGVIDEO_SAT_SET} " =~ "* ${_cogvideo_sat_name} *" ) then
        printenv "_COGVIDEO_SAT_OLD_${_cogvideo_sat_name}" >& /dev/null
        if ( $status == 0 ) then
            setenv ${_cogvideo_sat_name} "`printenv _COGVIDEO_SAT_OLD_${_cogvideo_sat_name}`"
            unsetenv "_COGVIDEO_SAT_OLD_${_cogvideo_sat_name}"
        else
            unsetenv ${_cogvideo_sat_name}
        endif
    endif
end
unset _cogvideo_sat_name
unsetenv _COGVIDEO_SAT_SET
