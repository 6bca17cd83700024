# cogvideo-sat-env: the same as cogvideo-sat-env.sh, for fish.

if set -q _COGVIDEO_SAT_SET
    source "$CONDA_PREFIX/etc/conda/deactivate.d/cogvideo-sat-env.fish"
end
set -gx _COGVIDEO_SAT_SET ""

if test -x "$CONDA_PREFIX/bin/nvcc"
    set -q CUDA_HOME; and set -gx _COGVIDEO_SAT_OLD_CUDA_HOME "$CUDA_HOME"
    set -gx CUDA_HOME "$CONDA_PREFIX"
    set -gx _COGVIDEO_SAT_SET "$_COGVIDEO_SAT_SET CUDA_HOME"
end

for _cogvideo_sat_target in x86_64-linux sbsa-linux aarch64-linux
    set -l dir "$CONDA_PREFIX/targets/$_cogvideo_sat_target"
    if test -d "$dir/include"
        # CPATH and LIBRARY_PATH may be lists in fish: they are kept as one string with colons
        if set -q CPATH
            set -gx _COGVIDEO_SAT_OLD_CPATH (string join : -- $CPATH)
            set -gx CPATH (string join : -- "$dir/include" $CPATH)
        else
            set -gx CPATH "$dir/include"
        end
        set -gx _COGVIDEO_SAT_SET "$_COGVIDEO_SAT_SET CPATH"
        if test -d "$dir/lib"
            if set -q LIBRARY_PATH
                set -gx _COGVIDEO_SAT_OLD_LIBRARY_PATH (string join : -- $LIBRARY_PATH)
                set -gx LIBRARY_PATH (string join : -- "$dir/lib" "$dir/lib/stubs" $LIBRARY_PATH)
            else
                set -gx LIBRARY_PATH "$dir/lib:$dir/lib/stubs"
            end
            set -gx _COGVIDEO_SAT_SET "$_COGVIDEO_SAT_SET LIBRARY_PATH"
        end
        break
    end
end

if test -z "$TORCH_EXTENSIONS_DIR"
    set -l base /tmp
    test -n "$TMPDIR"; and set base "$TMPDIR"
    test -n "$SLURM_TMPDIR"; and set base "$SLURM_TMPDIR"
    set -l sum (printf '%s' "$CONDA_PREFIX" | cksum | string split ' ')
    set -l dir "$base/torch_extensions-"(id -u)"-$sum[1]"
    mkdir -m 700 "$dir" 2>/dev/null
    if test -d "$dir" -a ! -L "$dir" -a -O "$dir"
        chmod 700 "$dir"
        set -q TORCH_EXTENSIONS_DIR; and set -gx _COGVIDEO_SAT_OLD_TORCH_EXTENSIONS_DIR "$TORCH_EXTENSIONS_DIR"
        set -gx TORCH_EXTENSIONS_DIR "$dir"
        set -gx _COGVIDEO_SAT_SET "$_COGVIDEO_SAT_SET TORCH_EXTENSIONS_DIR"
    else
        echo "cogvideo-sat-env: $dir can't be made or is not your own directory; TORCH_EXTENSIONS_DIR is left unset (set it to a directory of your own)" >&2
    end
end

# torch asks for the user's name when it is imported: a number that no passwd file has, as in containers, needs another.
if test -z "$LOGNAME$USER$LNAME$USERNAME"; and not id -un >/dev/null 2>&1
    set -q USER; and set -gx _COGVIDEO_SAT_OLD_USER "$USER"
    set -gx USER uid(id -u)
    set -gx _COGVIDEO_SAT_SET "$_COGVIDEO_SAT_SET USER"
end
