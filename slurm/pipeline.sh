#!/bin/bash
# The whole pipeline in one allocation: prepare, train, soup, report.
#   sbatch [--ntasks=8 …] slurm/pipeline.sh [jobs/NAME.toml] [--set KEY=VALUE …]
# Without Slurm, `bash slurm/pipeline.sh [JOB]` runs on one rank. SRUN_MPI names the plugin that your MPI knows.
#SBATCH --job-name=gnnsoup
#SBATCH --ntasks=8
#SBATCH --cpus-per-task=4
#SBATCH --time=05:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=gnnsoup-%j.log
set -euo pipefail
for home in "$PWD" "$(dirname "$0")/.."; do  # the checkout's own environment, where there is one
  if [[ -x $home/.venv/bin/python ]]; then PATH="$home/.venv/bin:$PATH"; break; fi
done
exec ${SLURM_JOB_ID:+srun ${SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK} --mpi=${SRUN_MPI:-pmi2}} python -m gnnsoup_hpc run "$@"
