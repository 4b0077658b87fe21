#!/bin/bash
# Train a job's ingredients by an array of jobs, one rank each; they share the work as ranks of one job do, start when
# there is room for each, and stop alone. Any other job may train on the same run meanwhile.
#   sbatch [--array=0-31%8 --gpus=1 --partition=…] slurm/train_array.sh [jobs/NAME.toml] [--set KEY=VALUE …]
# Logs: RUN/logs/train-ARRAYID_TASK.log. docs/cluster.md has the rest.
#SBATCH --job-name=gnnsoup-train
#SBATCH --array=0-7
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%A_%a.out
set -euo pipefail
spooled=$(scontrol show job "${SLURM_JOB_ID:-0}" 2>/dev/null | sed -n 's|^ *Command=\(.*\)/train_array.sh.*|\1|p' | head -n 1) || true
for slurm in "${GNNSOUP_HOME:+$GNNSOUP_HOME/slurm}" "${GNNSOUP_HOME:-}" "$(dirname "$0")" "$spooled" "${SLURM_SUBMIT_DIR:-.}/slurm"; do
  if [[ -f $slurm/launch.sh ]]; then break; fi
done
# shellcheck source-path=SCRIPTDIR source=launch.sh
source "$slurm/launch.sh" || { echo "train_array.sh: no launch.sh beside it; set GNNSOUP_HOME to the folder that has it, or to the checkout" >&2; exit 2; }
log_under_run train "$@"
run_ranks train gnnsoup_hpc.train "$@"
