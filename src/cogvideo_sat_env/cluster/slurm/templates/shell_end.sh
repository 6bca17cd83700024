own_folder "$TORCH_EXTENSIONS_DIR"
own_folder "$TRITON_CACHE_DIR"
cd "$SAT"
say "$(hostname), in $PREFIX; $SAT" >&2
if [ $# -gt 0 ]; then
    "$@"
else
    set +eu
    bash --norc -i
fi
