#!/bin/bash
# Train on two nodes under Slurm, and go on after each time limit until training is done:
#
#   sbatch examples/slurm.sh RUN --config recipes/gldv2_resnet50.yaml --data_dir DIR --checkpoint_steps 1000
#
# RUN is the output directory, on a file system that all nodes see, as is DIR; further arguments are those of
# train_accelerate.py. Submit it from the clone of this repository, in an environment that has prunnet_hf installed.
#
# Five minutes before the time limit Slurm sends SIGTERM to this script, which passes it to the launcher on each node.
# Training then saves a checkpoint, for which the launcher gives it 30 seconds, and stops; the job goes back into the
# queue, and its next start goes on with --resume. If a node fails or Slurm preempts the job, Slurm puts it back by
# itself, and the newest checkpoint of --checkpoint_steps counts.
#SBATCH --job-name=prunnet
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail

run=${1:?RUN is missing: sbatch examples/slurm.sh RUN --config RECIPE --data_dir DIR}
shift
mkdir -p "$run"
pids=$(realpath "$run")/launcher  # one file for each node, with the process id of its launcher

asked=false
stop() {
    asked=true
    trap '' TERM
    # Not to the srun below, which would kill everything.
    # shellcheck disable=SC2016  # expanded on each node
    srun --overlap --ntasks-per-node=1 bash -c 'kill -TERM "$(<"$1.$SLURM_NODEID")"' bash "$pids"
}
trap stop TERM

resume=()
if compgen -G "$run/checkpoints/step-*[0-9]" >/dev/null; then resume=(--resume); fi

export PRUNNET_PIDS=$pids PRUNNET_HEAD
PRUNNET_HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
# shellcheck disable=SC2016  # expanded on each node
srun --kill-on-bad-exit=0 bash -c '
    echo $$ >"$PRUNNET_PIDS.$SLURM_NODEID"
    exec accelerate launch --config_file recipes/accelerate/two_nodes.yaml \
        --num_machines "$SLURM_NNODES" --num_processes "$((SLURM_NNODES * SLURM_GPUS_ON_NODE))" \
        --machine_rank "$SLURM_NODEID" --main_process_ip "$PRUNNET_HEAD" --main_process_port 29500 \
        train_accelerate.py "$@"
' bash --output_dir "$run" "${resume[@]}" "$@" &
training=$!

status=0
wait "$training" || status=$?
if $asked; then  # the signal ended the first `wait` early
    status=0
    wait "$training" || status=$?
    if ((status != 0)); then exec scontrol requeue "$SLURM_JOB_ID"; fi
fi
exit "$status"
