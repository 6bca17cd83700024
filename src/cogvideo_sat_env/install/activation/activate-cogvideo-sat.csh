# Activates this environment in csh or tcsh without conda or mamba:  source PREFIX/bin/activate-cogvideo-sat.csh
# Undo with:  deactivate        What it does is what activate-cogvideo-sat does, in the words of csh.

setenv _COGVIDEO_SAT_HERE @PREFIX@
if ( ! $?noglob ) set _cogvideo_sat_glob
set noglob
eval `sh -c '[ -x "$_COGVIDEO_SAT_HERE/bin/python" ] && exec "$_COGVIDEO_SAT_HERE/bin/python" -I "$_COGVIDEO_SAT_HERE/etc/cogvideo-sat-env/activate.py" csh activate; echo "cogvideo-sat-env: the Python of $_COGVIDEO_SAT_HERE can not be started: it was moved or removed, or is not open to you; scripts/satenv create --repair -p PREFIX puts it right" >&2; exit 1'`
if ( $?_cogvideo_sat_glob ) unset noglob _cogvideo_sat_glob
unsetenv _COGVIDEO_SAT_HERE
rehash
