#!/usr/bin/env bash
# Start a SLURM cluster of one node on this machine, run a command in it, and end it:
#   tests/slurm/run.sh COMMAND...
# Nothing of an installed SLURM is read or changed: key, configuration, ports and state are its own.
set -euo pipefail

[ "$(id -u)" = 0 ] || { echo "$0: needs root, as SLURM's daemons do" >&2; exit 1; }
for program in munged slurmctld slurmd squeue; do
  command -v "$program" > /dev/null || {
    echo "$0: $program is missing; on Debian: apt-get install slurmctld slurmd slurm-client munge" >&2
    exit 1
  }
done

set -m # process groups: an interrupted terminal must not end the daemons before the jobs
folder=$(mktemp -d /tmp/pcsr-slurm-XXXXXX) # short: the path of a socket has at most 107 bytes
export SLURM_CONF=$folder/slurm.conf
daemons=()
command=

finish() {
  trap '' INT TERM
  if [ -n "$command" ]; then
    kill -INT -- "-$command" 2> /dev/null || true
    for _ in {1..60}; do
      kill -0 "$command" 2> /dev/null || break
      sleep 0.5
    done
    kill -KILL -- "-$command" 2> /dev/null || true # it may have been started to ignore the first
    wait -f "$command" 2> /dev/null || true
  fi
  # Jobs next: slurmd leaves them behind.
  timeout 30 scancel --user=root 2> /dev/null || true
  for _ in {1..60}; do
    [ -n "$(timeout 10 squeue --noheader 2> /dev/null)" ] || break
    sleep 0.5
  done
  for pid in "${daemons[@]}"; do kill "$pid" 2> /dev/null || true; done
  wait
  rm -rf "$folder"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

start() { # NAME COMMAND...
  "${@:2}" > "$folder/$1.out" 2>&1 &
  daemons=($! "${daemons[@]}") # the last one started ends first
}

wait_for() { # NAME COMMAND...: until the command succeeds
  for _ in {1..120}; do
    timeout 10 "${@:2}" > /dev/null 2>&1 && return
    sleep 0.5
  done
  echo "$0: $1 has not started within a minute:" >&2
  tail -n 20 "$folder/$1".* >&2
  exit 1
}

mkdir "$folder/state" "$folder/spool" "$folder/bin"
(umask 077 && head -c 1024 /dev/urandom > "$folder/munge.key")

# nproc takes OMP_NUM_THREADS for the number of CPUs.
cpus=$(env -u OMP_NUM_THREADS nproc)
memory=$(awk '/^MemTotal/ {print int($2 / 1024) - 100}' /proc/meminfo)

# A job is one process tree, and is known for a day after its end: there is no database of jobs, so
# it is `squeue` that must still tell how it ended. A requeued job starts when its old credential has
# expired, by default two minutes later.
cat > "$SLURM_CONF" << END
ClusterName=pcsr
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=15
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
MinJobAge=86400
KillWait=10
ReturnToService=2
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$memory
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END

# The executor starts srun without the variables of SLURM, SLURM_CONF among them.
cat > "$folder/bin/srun" << END
#!/bin/sh
SLURM_CONF='$SLURM_CONF' exec '$(command -v srun)' "\$@"
END
chmod +x "$folder/bin/srun"
export PATH="$folder/bin:$PATH"

start munged munged --foreground --force --key-file="$folder/munge.key" \
  --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" --seed-file="$folder/munged.seed"
wait_for munged munge --no-input --socket="$folder/munge.socket"
start slurmctld slurmctld -D -f "$SLURM_CONF"
wait_for slurmctld scontrol ping
start slurmd slurmd -D -f "$SLURM_CONF"
wait_for slurmd srun --ntasks=1 true

"$@" &
command=$!
status=0
wait -f "$command" || status=$? # -f: one that is only stopped has not ended
command=
exit "$status"
