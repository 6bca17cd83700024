# cogvideo-sat-env: puts back what activate.d/cogvideo-sat-env.csh changed.

if ( ! $?_COGVIDEO_SAT_SET ) setenv _COGVIDEO_SAT_SET ""
if ( " ${_COGVIDEO_SAT_SET} " =~ "* CUDA_HOME *" ) then
    if ( $?_COGVIDEO_SAT_OLD_CUDA_HOME ) then
        setenv CUDA_HOME "${_COGVIDEO_SAT_OLD_CUDA_HOME}"
        unsetenv _COGVIDEO_SAT_OLD_CUDA_HOME
    else
        unsetenv CUDA_HOME
    endif
endif
if ( " ${_COGVIDEO_SAT_SET} " =~ "* CPATH *" ) then
    if ( $?_COGVIDEO_SAT_OLD_CPATH ) then
        setenv CPATH "${_COGVIDEO_SAT_OLD_CPATH}"
        unsetenv _COGVIDEO_SAT_OLD_CPATH
    else
        unsetenv CPATH
    endif
endif
if ( " ${_COGVIDEO_SAT_SET} " =~ "* LIBRARY_PATH *" ) then
    if ( $?_COGVIDEO_SAT_OLD_LIBRARY_PATH ) then
        setenv LIBRARY_PATH "${_COGVIDEO_SAT_OLD_LIBRARY_PATH}"
        unsetenv _COGVIDEO_SAT_OLD_LIBRARY_PATH
    else
        unsetenv LIBRARY_PATH
    endif
endif
if ( " ${_COGVIDEO_SAT_SET} " =~ "* TORCH_EXTENSIONS_DIR *" ) then
    if ( $?_COGVIDEO_SAT_OLD_TORCH_EXTENSIONS_DIR ) then
        setenv TORCH_EXTENSIONS_DIR "${_COGVIDEO_SAT_OLD_TORCH_EXTENSIONS_DIR}"
        unsetenv _COGVIDEO_SAT_OLD_TORCH_EXTENSIONS_DIR
    else
        unsetenv TORCH_EXTENSIONS_DIR
    endif
endif
unsetenv _COGVIDEO_SAT_SET
