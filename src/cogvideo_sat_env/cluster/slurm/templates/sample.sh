
# ---- sample: one task a GPU; the prompts of the file are shared out among them --------------------------------------
logs=$OUTPUT/logs/$SLURM_JOB_ID/${SLURM_RESTART_COUNT:-0}
mkdir -p "$logs"
say "each rank's output: $logs/rank-N.log"
cd "$SAT"
code=0
# shellcheck disable=SC2016 # expanded in each task
srun --kill-on-bad-exit=1 --output="${logs//%/%%}/rank-%t.log" bash -c 'rank "$@"' rank \
    sample sample_video.py --base "${BASES[@]}" --seed "$SEED" "${MORE[@]}" || code=$?
if [ "$code" != 0 ]; then
    tail -n 15 "$logs/rank-0.log" || :
    say "known failures in a log: $SATENV doctor --explain $logs/rank-0.log"
    die "sampling ended with code $code"
fi
say "sampled; the videos are in the YAML's output_dir"
