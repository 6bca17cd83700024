
# ---- signals --------------------------------------------------------------------------------------------------------
# SIGUSR1 comes some time before the limit (see --signal) or at a preemption: the ranks save and end, the job is requeued.
stopped='' step_pid='' waiting=yes
on_signal() {
    stopped=$1 waiting=yes
    if [ -n "$step_pid" ]; then
        say "SIG$1: the ranks end their step, save and end"
        kill -USR1 "$step_pid" 2>/dev/null || : # srun passes it on to every rank
    fi
}
trap 'on_signal USR1' USR1
