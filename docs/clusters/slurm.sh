#!/bin/bash
# A study on a Slurm allocation: sbatch slurm.sh studies/mine.yaml
# Activate the environment first; sbatch passes it on. With another --time, set MAX_TIME about 15 minutes below it:
#   MAX_TIME=7h45m sbatch --time=08:00:00 slurm.sh studies/mine.yaml
#SBATCH --job-name=ferbal
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=04:00:00
#SBATCH --requeue
set -euo pipefail

study=$1
cores=${SLURM_CPUS_PER_TASK:-1}
gpus=${SLURM_GPUS_ON_NODE:-0}
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes%%$'\n'*}
port=$((20000 + SLURM_JOB_ID % 10000)) # jobs that share a node must not meet
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | base64 | tr -d '\n') # of this job alone; srun hands it to every node

# Starts Ray on every node, runs the command on the first one, and ends Ray with it. --max-time is shorter than --time:
# what was done is kept, the exit code is 5, and the job is queued again to go on.
code=0
srun --export=ALL ray symmetric-run --address "$head:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus "$cores" --num-gpus "$gpus" -- \
  ferbal study run "$study" --set engine.kind=ray --set "engine.address=$head:$port" --max-time "${MAX_TIME:-3h45m}" ||
  code=$?
if [ "$code" = 5 ]; then
  scontrol requeue "$SLURM_JOB_ID"
else
  exit "$code"
fi
