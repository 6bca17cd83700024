
# ---- from where: the newest whole checkpoint of this job, else what the YAMLs say -----------------------------------
start=${SLURM_RESTART_COUNT:-0}
logs=$OUTPUT/logs/$SLURM_JOB_ID/$start
mkdir -p "$logs"
export SATENV_JOB_RUN=$OUTPUT/logs/$SLURM_JOB_ID.run # a file: the folder in which this run saves
asked=$OUTPUT/logs/$SLURM_JOB_ID.stopped # a file: the ranks were told to end, by whomever
rm -f "$asked"
newest() { "$PREFIX/bin/python" -I "$OUTPUT/sat_job.py" step "$SATENV_JOB_RUN"; }
begin=$("$PREFIX/bin/python" -I "$OUTPUT/sat_job.py" settings \
    "$OUTPUT/logs/$SLURM_JOB_ID.yaml" "$SATENV_JOB_RUN" "$NAME-$SLURM_JOB_ID" "$RESUME")
before=$(newest)
say "start $start: $begin; each rank's output: $logs/rank-N.log"

# ---- train: one task a GPU ------------------------------------------------------------------------------------------
[ -z "$stopped" ] || die "told to end before training began: not started"
cd "$SAT"
# shellcheck disable=SC2016 # expanded in each task
srun --kill-on-bad-exit=1 --output="${logs//%/%%}/rank-%t.log" bash -c 'rank "$@"' rank \
    train train_video.py --base "${BASES[@]}" "$OUTPUT/logs/$SLURM_JOB_ID.yaml" --seed "$SEED" "${MORE[@]}" &
step_pid=$!
trap 'on_signal TERM' TERM
while [ -n "$waiting" ]; do # a signal ends `wait`, not the step
    waiting='' code=0
    wait "$step_pid" || code=$?
done
step_pid=''
step=$(newest)

# ---- how it ended ---------------------------------------------------------------------------------------------------
if [ "$code" = 0 ] && [ -z "$stopped" ] && [ ! -e "$asked" ]; then
    say "trained to the end; the newest checkpoint is of step $step in $(cat "$SATENV_JOB_RUN")"
    exit 0
fi
say "start $start ended with code $code${stopped:+ after SIG$stopped}; the newest whole checkpoint is of step $step"
if [ "$code" != 0 ] && [ ! -e "$asked" ]; then
    tail -n 15 "$logs/rank-0.log" || :
    say "known failures in a log: $SATENV doctor --explain $logs/rank-0.log"
fi
[ "$step" -gt "$before" ] || die "no checkpoint newer than at its start (step $before): it would fail again; not requeued"
[ "$start" -lt "$REQUEUES" ] || die "started $((start + 1)) times (REQUEUES=$REQUEUES): not requeued"
case $(scontrol show job "$SLURM_JOB_ID") in # a preempted job that ends in its time of grace isn't requeued by Slurm
    *JobState=RUNNING*) ;;
    *) die "the job is being cancelled: not requeued" ;;
esac
say "requeued: it goes on from step $step"
scontrol requeue "$SLURM_JOB_ID" ||
    die "Slurm doesn't requeue it; go on with: sbatch --export=ALL,RESUME='$(cat "$SATENV_JOB_RUN")' $OUTPUT/train.sbatch"
