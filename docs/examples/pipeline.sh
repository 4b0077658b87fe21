#!/bin/bash
# The batch scripts out of the installed package, and a chain of jobs with them: prepare, train, soup.
#   bash pipeline.sh [job.toml]       # under Slurm three jobs are submitted; without it the same is done here, by one rank
set -euo pipefail

job=${1:-sweep.toml}
gnnsoup slurm scripts                  # scripts/environment.sh is the place for modules and variables of your site
export GNNSOUP_TRAIN_OPTIONS="--ntasks=2" GNNSOUP_SOUP_OPTIONS="--ntasks=2"
bash scripts/pipeline.sh "$job"
