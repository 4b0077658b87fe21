#!/bin/bash
# Prepare a job's graph: download, convert, partition; one process. Compute nodes without a network: run
# `gnnsoup prepare JOB` on a login node instead, and this finds it done.
#   sbatch [--mem=…] slurm/prepare.sh [jobs/NAME.toml] [--set KEY=VALUE …]
#SBATCH --job-name=gnnsoup-prepare
#SBATCH --cpus-per-task=4
#SBATCH --time=02:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
set -euo pipefail
spooled=$(scontrol show job "${SLURM_JOB_ID:-0}" 2>/dev/null | sed -n 's|^ *Command=\(.*\)/prepare.sh.*|\1|p' | head -n 1) || true
for slurm in "${GNNSOUP_HOME:+$GNNSOUP_HOME/slurm}" "${GNNSOUP_HOME:-}" "$(dirname "$0")" "$spooled" "${SLURM_SUBMIT_DIR:-.}/slurm"; do
  if [[ -f $slurm/launch.sh ]]; then break; fi
done
# shellcheck source-path=SCRIPTDIR source=launch.sh
source "$slurm/launch.sh" || { echo "prepare.sh: no launch.sh beside it; set GNNSOUP_HOME to the folder that has it, or to the checkout" >&2; exit 2; }
log_under_run prepare "$@"
run_ranks one gnnsoup_hpc prepare "$@"
