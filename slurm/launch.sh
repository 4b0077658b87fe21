# shellcheck shell=bash
# What the batch scripts here share; each sources it. docs/cluster.md describes the GNNSOUP_… variables.

scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
job_id=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job_id=${job_id:-${SLURM_JOB_ID:-}}
[[ -n $job_id && ${0##*/} == slurm_script ]] && batch=yes || batch=  # else a terminal, perhaps inside salloc

say() { echo "$(date +%FT%T) slurm: $*" | tee -a /dev/fd/3; }  # in the run's log, and where sbatch puts output
exec 3>/dev/null

set +eu  # for modules, whose scripts use variables that are not set, and commands that fail
trap 'say "$scripts/environment.sh, line $LINENO: ended with $?: $BASH_COMMAND" >&2; exit 2' ERR
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$scripts/environment.sh"
trap - ERR
set -eu
if [[ -n $batch ]]; then unset SLURM_EXPORT_ENV; fi  # sbatch's --export=NONE, which srun would take as its own

python=${GNNSOUP_PYTHON:-}  # else the environment beside the job or in the checkout, else what is activated
for folder in "$PWD" "${scripts%/*}"; do
  if [[ -z $python && -x $folder/.venv/bin/python ]]; then python=$folder/.venv/bin/python; fi
done
if [[ -n ${GNNSOUP_PYTHON:-} && -z ${GNNSOUP_WRAP:-} ]] && ! command -v "$python" >/dev/null; then
  say "GNNSOUP_PYTHON=$python: there is no such program here" >&2
  exit 2
fi
read -ra program <<<"${GNNSOUP_WRAP:-}"  # such as "apptainer exec --nv image.sif"
program+=("${python:-python}")

# Output goes to RUN/logs/NAME-JOBID.log from now on. The error of a job that cannot be read ends the script.
log_under_run() {  # NAME JOB-ARGUMENTS…
  local name=$1 words=() word; shift
  [[ -n $batch ]] || return 0
  for word in "$@"; do [[ $word == --offline || $word == --again ]] || words+=("$word"); done
  logs=$("${program[@]}" -m gnnsoup_hpc job --logs "${words[@]}")
  if mkdir -p "$logs" && : >>"$logs/$name-$job_id.log"; then
    exec 3>&1
    echo "the log is $logs/$name-$job_id.log"
    exec >>"$logs/$name-$job_id.log" 2>&1
  else
    echo "no log can be written in $logs; it is here"
  fi
  before=$(state_of_run)
  say "job $job_id, restart ${SLURM_RESTART_COUNT:-0}, on ${SLURM_JOB_NODELIST:-?}, of $SLURM_SUBMIT_DIR"
}

# What the run holds that a later start goes on from.
state_of_run() {
  (cd "$logs/.." && { ls -ln --time-style=full-iso trunk.h5 ingredients checkpoints soups 2>/dev/null || true; }) | cksum
}

mpi_library() {
  "${program[@]}" -c 'import mpi4py; mpi4py.rc.initialize = False
from mpi4py import MPI; print(MPI.Get_library_version())' 2>/dev/null || true
}

# The plugin that the MPI library knows, of those that this Slurm has.
mpi_plugin() {
  local offered wanted plugin
  case $library in
    *"Open MPI"*) wanted="pmix pmi2" ;;
    *CRAY*) wanted="cray_shasta pmi2" ;;
    *) wanted="pmi2 pmix" ;;
  esac
  offered=$(srun --mpi=list 2>&1 || true)
  for plugin in $wanted; do
    if grep -qw "$plugin" <<<"$offered"; then echo "$plugin"; return; fi
  done
  echo none
}

# What starts ranks in a job: srun, but an MPICH that has its own mpirun is started by that. Slurm's pmi2 takes a long
# request for two, and now and then one of MPICH's is too long, which ends the job (docs/cluster.md).
default_launcher() {
  [[ -n ${SLURM_JOB_ID:-} ]] || return 0
  if [[ $kind == mpi && -z ${SRUN_MPI:-}${GNNSOUP_WRAP:-} && $library == *MPICH* ]] &&
    [[ $("$mpirun" --version 2>/dev/null) == *HYDRA* ]]; then echo mpirun; else echo srun; fi
}

# Tasks that the allocation's cores have room for: what srun takes where sbatch was told no number.
count_tasks() {
  local each times tasks=0
  for each in ${SLURM_TASKS_PER_NODE//,/ }; do  # such as 4(x2)
    times=${each#*x}
    [[ $each == *x* ]] || times=1
    tasks=$((tasks + ${each%(*} * ${times%)}))
  done
  echo "$tasks"
}

# Put into `launcher` what starts a command on all ranks; `kind` is one (rank), train (ranks are alone) or mpi.
set_launcher() {
  local mpirun=${GNNSOUP_MPIRUN:-} library='' ranks=${SLURM_NTASKS:-}
  if [[ -z $mpirun ]]; then
    mpirun=${python%/*}/mpirun
    [[ -x $mpirun ]] || mpirun=mpirun
  elif ! command -v "$mpirun" >/dev/null; then
    say "GNNSOUP_MPIRUN=$mpirun: there is no such program here"
    exit 2
  fi
  if [[ $kind == mpi && -n ${SLURM_JOB_ID:-} ]]; then library=$(mpi_library); fi
  if [[ $kind == one ]]; then
    ranks=1
  elif [[ -z $ranks && -n ${SLURM_TASKS_PER_NODE:-} && ${GNNSOUP_LAUNCHER:-} != none ]]; then
    export SLURM_NTASKS; SLURM_NTASKS=$(count_tasks)
    ranks=$SLURM_NTASKS
    say "ranks: $ranks, as many as the cores have room for, since no number of tasks was given (--ntasks=8, or --nodes=2 --ntasks-per-node=4)"
  fi
  read -ra launcher <<<"${GNNSOUP_LAUNCH_OPTIONS:-}"
  case ${GNNSOUP_LAUNCHER:-$(default_launcher)} in
    srun)
      launcher=(srun ${SLURM_CPUS_PER_TASK:+"--cpus-per-task=$SLURM_CPUS_PER_TASK"} "${launcher[@]}")
      if [[ $kind != mpi ]]; then
        launcher+=(--mpi=none --kill-on-bad-exit=0 --no-kill)  # whoever is lost, the others finish
      else
        launcher+=("--mpi=${SRUN_MPI:-$(mpi_plugin)}" --kill-on-bad-exit=1)
      fi
      if [[ $kind == one ]]; then launcher+=(--nodes=1 --ntasks=1); fi ;;
    mpirun)
      if [[ -n ${SLURM_GPUS_PER_TASK:-} ]]; then  # mpirun's own step has a task a node, whose ranks share its GPUs
        export SLURM_GPUS=$((ranks * ${SLURM_GPUS_PER_TASK##*:}))
        unset SLURM_GPUS_PER_TASK SLURM_TRES_PER_TASK
      fi
      # MPICH's tells all nodes what this one has in its environment, and Slurm has told each its own GPUs.
      if [[ -n $batch && $("$mpirun" --version 2>/dev/null) == *HYDRA* ]]; then unset CUDA_VISIBLE_DEVICES; fi
      launcher=("$mpirun" -n "${ranks:-1}" "${launcher[@]}")
      export OMPI_MCA_odls_base_sigkill_timeout=25  # Open MPI kills 1 s after SIGTERM, too soon for a checkpoint
      if [[ $kind != mpi && -n $batch ]]; then
        codes=$(mktemp -d "$logs/.codes-XXXXXX")
        launcher+=("$scripts/rank.sh" "$codes/code")
      fi ;;
    none | "") launcher=() ;;
    *) say "GNNSOUP_LAUNCHER=$GNNSOUP_LAUNCHER: expected srun, mpirun or none"; exit 2 ;;
  esac
}

# All ranks in the background, so that this shell hears signals and hands them on. Sets `code`, the highest of theirs.
step() {
  say "$*"
  "$@" <&0 &
  child=$!
  while heard=; wait "$child" && code=0 || code=$?; [[ -n $heard ]]; do :; done
  if [[ -n $codes ]]; then
    code=$({ echo "$code"; cat "$codes"/code.* 2>/dev/null || true; } | sort -n | tail -n 1)
    rm -f "$codes"/code.*
  fi
  case $code in
    138 | 140) code=75 ;;  # SIGUSR1, SIGUSR2 before Python could hear them
    143) [[ -z $stopped ]] || code=75 ;;
  esac
}

hand_on() { heard=yes; stopped=$1; [[ -z $child ]] || kill -USR1 "$child" 2>/dev/null || true; }

# Run a module of the package on all ranks; end with its exit code, after a requeue where it was stopped by a signal.
run_ranks() {  # KIND MODULE ARGUMENTS…
  kind=$1 child="" stopped="" codes=""; shift
  set_launcher
  if [[ -z $batch ]]; then exec "${launcher[@]}" "${program[@]}" -m "$@"; fi
  trap 'hand_on SIGUSR1' USR1
  trap 'hand_on SIGUSR2' USR2
  trap 'hand_on SIGTERM' TERM
  step "${launcher[@]}" "${program[@]}" -m "$@"
  if [[ $kind != mpi && -z $stopped ]] && ((code > 3 && code != 75)); then
    say "the step ended with $code: seeing what is missing"
    if [[ ${launcher[*]} == srun* ]]; then launcher+=(--nodes=1 --ntasks=1); fi  # a node may be gone
    step "${launcher[@]}" "${program[@]}" -m "$@"
  fi
  if [[ -n $codes ]]; then rmdir "$codes"; fi
  if ((code == 75)); then requeue; fi
  say "ended with $code"
  exit "$code"
}

# Put this job into the queue again, unless Slurm is about to end it anyhow or it would never get further.
requeue() {
  local shown again state
  shown=$(scontrol show job "$job_id")
  again="to go on: cd '$SLURM_SUBMIT_DIR' && sbatch $(sed -n 's/^ *Command=//p' <<<"$shown" | head -n 1)"
  state=$(sed -n 's/^ *JobState=\([A-Z_]*\).*/\1/p' <<<"$shown" | head -n 1)
  if [[ $state != RUNNING ]]; then
    say "Slurm is ending this job ($state), so it is not requeued from here; $again"
  elif [[ $(state_of_run) == "$before" ]]; then
    say "stopped, but nothing was finished or saved since this start, so a requeue could go on for ever. Give more time (--time), or a signal earlier before the limit (--signal=B:USR1@SECONDS: more than an epoch takes); $again"
  else
    trap '' TERM
    if scontrol requeue "$job_id"; then say "requeued"; else say "this site does not let a job requeue itself; $again"; fi
  fi
}
