#!/bin/bash
# Train a job's ingredients, one rank each; they share the work among them. Resources are set by sbatch's own options:
#   sbatch [--ntasks=16 --gpus-per-task=1 --partition=…] slurm/train_ingredients.sh [jobs/NAME.toml] [--set KEY=VALUE …]
# Without Slurm, `bash slurm/train_ingredients.sh [JOB]` trains on one rank. Given again, it goes on where it stopped.
#SBATCH --job-name=gnnsoup-train
#SBATCH --ntasks=8
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=gnnsoup-train-%j.log
set -euo pipefail
for home in "$PWD" "$(dirname "$0")/.."; do  # the checkout's own environment, where there is one
  if [[ -x $home/.venv/bin/python ]]; then PATH="$home/.venv/bin:$PATH"; break; fi
done
exec ${SLURM_JOB_ID:+srun ${SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK} --kill-on-bad-exit=0} python -m gnnsoup_hpc.train "$@"
