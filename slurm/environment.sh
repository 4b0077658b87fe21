# shellcheck shell=bash disable=SC2034
# What jobs find here: each batch script sources this file first, on the node where it runs, also under --export=NONE.
# Yours to edit; a line that fails ends the job. What ranks are to see is exported. docs/cluster.md describes the
# GNNSOUP_… variables.
#
# source /etc/profile                      # where jobs do not know the command `module`
# module load openmpi                      # where MPI=system; PyPI's MPICH needs none
# GNNSOUP_LAUNCHER=${GNNSOUP_LAUNCHER:-srun}
# GNNSOUP_TRAIN_OPTIONS=${GNNSOUP_TRAIN_OPTIONS:-"--nodes=8 --ntasks-per-node=4 --gpus-per-task=1 --cpus-per-task=8"}
# GNNSOUP_SOUP_OPTIONS=${GNNSOUP_SOUP_OPTIONS:-"--nodes=1 --ntasks-per-node=4 --gpus-per-task=1 --cpus-per-task=8"}
