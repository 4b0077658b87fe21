#!/bin/bash
# Soup a job's ingredients by all its methods, and report.
#   sbatch [--ntasks=8 …] slurm/soup.sh [jobs/NAME.toml] [--set KEY=VALUE …]
# Without Slurm, `bash slurm/soup.sh [JOB]` soups on one rank. SRUN_MPI names the plugin that your MPI knows (pmix, pmi2).
#SBATCH --job-name=gnnsoup-soup
#SBATCH --ntasks=4
#SBATCH --cpus-per-task=4
#SBATCH --time=01:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=gnnsoup-soup-%j.log
set -euo pipefail
for home in "$PWD" "$(dirname "$0")/.."; do  # the checkout's own environment, where there is one
  if [[ -x $home/.venv/bin/python ]]; then PATH="$home/.venv/bin:$PATH"; break; fi
done
exec ${SLURM_JOB_ID:+srun ${SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK} --mpi=${SRUN_MPI:-pmi2}} python -m gnnsoup_hpc.soup "$@"
