#!/bin/bash
# Soup a job's ingredients by all its methods, and report.
#   sbatch --ntasks=4 [--partition=…] slurm/soup.sh [jobs/NAME.toml] [--set KEY=VALUE …]
# Without Slurm, `bash slurm/soup.sh [JOB]` soups on one rank. Logs: RUN/logs/soup-JOBID.log. docs/cluster.md has the rest.
#SBATCH --job-name=gnnsoup-soup
#SBATCH --cpus-per-task=4
#SBATCH --time=01:00:00
#SBATCH --signal=B:USR1@60
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
set -euo pipefail
spooled=$(scontrol show job "${SLURM_JOB_ID:-0}" 2>/dev/null | sed -n 's|^ *Command=\(.*\)/soup.sh.*|\1|p' | head -n 1) || true
for slurm in "${GNNSOUP_HOME:+$GNNSOUP_HOME/slurm}" "${GNNSOUP_HOME:-}" "$(dirname "$0")" "$spooled" "${SLURM_SUBMIT_DIR:-.}/slurm"; do
  if [[ -f $slurm/launch.sh ]]; then break; fi
done
# shellcheck source-path=SCRIPTDIR source=launch.sh
source "$slurm/launch.sh" || { echo "soup.sh: no launch.sh beside it; set GNNSOUP_HOME to the folder that has it, or to the checkout" >&2; exit 2; }
log_under_run soup "$@"
run_ranks mpi gnnsoup_hpc.soup "$@"
