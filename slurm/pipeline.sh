#!/bin/bash
# The whole pipeline. As three jobs, each with resources of its own and begun when the one before has succeeded:
#   bash slurm/pipeline.sh [SBATCH-OPTION … --] [jobs/NAME.toml] [--set KEY=VALUE …]
# GNNSOUP_PREPARE_OPTIONS, GNNSOUP_TRAIN_OPTIONS and GNNSOUP_SOUP_OPTIONS hold sbatch options of one of them; where no
# number of tasks is given, 8 train and 4 soup.
# In one allocation: sbatch --ntasks=8 slurm/pipeline.sh [JOB …]. Without Slurm, `bash slurm/pipeline.sh [JOB]` runs on one rank.
#SBATCH --job-name=gnnsoup
#SBATCH --cpus-per-task=4
#SBATCH --time=05:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
set -euo pipefail
spooled=$(scontrol show job "${SLURM_JOB_ID:-0}" 2>/dev/null | sed -n 's|^ *Command=\(.*\)/pipeline.sh.*|\1|p' | head -n 1) || true
for slurm in "${GNNSOUP_HOME:+$GNNSOUP_HOME/slurm}" "${GNNSOUP_HOME:-}" "$(dirname "$0")" "$spooled" "${SLURM_SUBMIT_DIR:-.}/slurm"; do
  if [[ -f $slurm/launch.sh ]]; then break; fi
done
# shellcheck source-path=SCRIPTDIR source=launch.sh
source "$slurm/launch.sh" || { echo "pipeline.sh: no launch.sh beside it; set GNNSOUP_HOME to the folder that has it, or to the checkout" >&2; exit 2; }

if [[ -n ${SLURM_JOB_ID:-} || ${GNNSOUP_LAUNCHER:-} == none ]] || ! command -v sbatch >/dev/null; then
  log_under_run run "$@"
  run_ranks mpi gnnsoup_hpc run "$@"
fi

options=()
if [[ " $* " == *" -- "* ]]; then
  while [[ $1 != -- ]]; do options+=("$1"); shift; done
  shift
fi
prepare=() train=() soup=()  # each command's share of the arguments
while (($#)); do
  case $1 in
    --offline) prepare+=("$1"); train+=("$1") ;;
    --again) soup+=("$1") ;;
    --memory-limit) train+=("$1" "${2?a size}"); soup+=("$1" "$2"); shift ;;
    --memory-limit=*) train+=("$1"); soup+=("$1") ;;
    *) prepare+=("$1"); train+=("$1"); soup+=("$1") ;;
  esac
  shift
done

submit() {  # NAME TASKS "OPTIONS" SCRIPT ARGUMENTS…: submit after `last`, if any, and print and keep the id
  local name=$1 tasks=$2 script=$slurm/$4 own all after=()
  read -ra own <<<"$3"; shift 4
  all=("${options[@]}" "${own[@]}")
  case " ${all[*]}" in *" -n"* | *" --nt"*) ;; *) all=("--ntasks=$tasks" "${all[@]}") ;; esac
  if [[ -n $last ]]; then after=(--dependency="afterok:$last" --kill-on-invalid-dep=yes); fi
  last=$(sbatch --parsable "${after[@]}" "${all[@]}" "$script" "$@")
  last=${last%%;*}
  echo "$name: job $last"
}
last=
submit prepare 1 "${GNNSOUP_PREPARE_OPTIONS:-}" prepare.sh "${prepare[@]}"
submit train 8 "${GNNSOUP_TRAIN_OPTIONS:-}" train_ingredients.sh "${train[@]}"
submit soup 4 "${GNNSOUP_SOUP_OPTIONS:-}" soup.sh "${soup[@]}"
