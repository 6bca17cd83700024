# Activates this environment in fish without conda or mamba:  source PREFIX/bin/activate-cogvideo-sat.fish
# Undo with:  deactivate        What it does is what activate-cogvideo-sat does, in the words of fish.

begin
    set -l prefix @PREFIX@
    if test -x "$prefix/bin/python"
        "$prefix/bin/python" -I "$prefix/etc/cogvideo-sat-env/activate.py" fish activate | source
    else
        echo "cogvideo-sat-env: the Python of $prefix can't be started: it was moved or removed, or isn't open to you; scripts/satenv create --repair -p PREFIX puts it right" >&2
        return 1
    end
end
