#!/bin/bash
# A graph that is not to be in memory whole: each rank stays within a limit, from preparing to exact accuracies.
#   bash bounded.sh
set -euo pipefail

job=(--set name=bounded --set graph.source=synthetic:arxiv --set graph.synthetic.scale=0.05 --set partition.parts=16)
job+=(--set train.ingredients=2 --set train.epochs=2 --set train.batch=cluster)
gnnsoup prepare quick-sage-arxiv "${job[@]}"
# Too little is refused before anything begins, and the line says how much would do.
gnnsoup train quick-sage-arxiv "${job[@]}" --memory-limit "200 MiB" && exit 1 || [[ $? == 3 ]]
gnnsoup run quick-sage-arxiv "${job[@]}" --set 'soup.methods=["best", "pls"]' --memory-limit "1 GiB"
gnnsoup report runs/bounded --quiet --csv runs/bounded/tables
cut -d, -f1-3 runs/bounded/tables/methods.csv
