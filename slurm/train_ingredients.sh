#!/bin/bash
# Train a job's ingredients, one rank each; they share the work among them. Resources are set by sbatch's own options:
#   sbatch --ntasks=16 [--partition=…] slurm/train_ingredients.sh [jobs/NAME.toml] [--set KEY=VALUE …]
#   sbatch --nodes=8 --ntasks-per-node=4 --gpus-per-task=1 slurm/train_ingredients.sh [jobs/NAME.toml]
# Where no number of tasks is given, there are as many ranks as the cores have room for, often one.
# Without Slurm, `bash slurm/train_ingredients.sh [JOB]` trains on one rank. Given again, it goes on where it stopped.
# Logs: RUN/logs/train-JOBID.log. docs/cluster.md has the rest.
#SBATCH --job-name=gnnsoup-train
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
set -euo pipefail
spooled=$(scontrol show job "${SLURM_JOB_ID:-0}" 2>/dev/null | sed -n 's|^ *Command=\(.*\)/train_ingredients.sh.*|\1|p' | head -n 1) || true
for slurm in "${GNNSOUP_HOME:+$GNNSOUP_HOME/slurm}" "${GNNSOUP_HOME:-}" "$(dirname "$0")" "$spooled" "${SLURM_SUBMIT_DIR:-.}/slurm"; do
  if [[ -f $slurm/launch.sh ]]; then break; fi
done
# shellcheck source-path=SCRIPTDIR source=launch.sh
source "$slurm/launch.sh" || { echo "train_ingredients.sh: no launch.sh beside it; set GNNSOUP_HOME to the folder that has it, or to the checkout" >&2; exit 2; }
log_under_run train "$@"
run_ranks train gnnsoup_hpc.train "$@"
