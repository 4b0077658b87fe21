#!/bin/bash
# One rank of training under mpirun, which ends all ranks when one ends badly: it is told that all is well, the exit code
# goes into a file, and the signals that mpirun hands on go to the command.
#   mpirun -n 4 rank.sh CODES COMMAND …       writes CODES.HOST.PID
codes=$1 child=
shift
trap 'heard=yes; ${child:+kill -USR1 $child} 2>/dev/null' USR1 USR2 TERM
"$@" &
child=$!
while heard=; wait "$child" && code=0 || code=$?; [[ -n $heard ]]; do :; done
echo "$code" >"$codes.$(hostname).$$"
