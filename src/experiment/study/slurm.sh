#!/bin/bash
# @about, one cell a task. Lines of #SBATCH are yours to complete (partition, account, time, memory). Then, in the
# folder that `study slurm` was called in:
#     sbatch SCRIPT
# What is behind the name goes to each `study run`, as --device cuda does. Submitted again, it computes what is missing.
#SBATCH --job-name=study
#SBATCH --array=1-@cells
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --gpus=1
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300

# 300 s before its time is over a task gets USR1: the cell is asked to keep what it did after this step and to end, and the task
# is queued again, where the cell goes on. A task that is to make room (TERM) is queued again by Slurm itself.
again=
trap 'again=yes; kill -TERM "$!" 2>/dev/null' USR1
trap 'kill -TERM "$!" 2>/dev/null' TERM

deep-affect study run @study --out @out --cell "$SLURM_ARRAY_TASK_ID" "$@" &

# A signal ends `wait`, not the cell.
wait "$!"
code=$?
while [ "$code" -gt 128 ] && kill -0 "$!" 2>/dev/null; do
    wait "$!"
    code=$?
done
if [ -n "$again" ] && [ "$code" -ne 0 ]; then
    exec scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
fi
exit "$code"
