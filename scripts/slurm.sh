#!/usr/bin/env bash
# Train on machines that SLURM lends, and queue again when their time is over; arguments go to train.py.
#
#   sbatch --nodes 2 --gpus-per-node 8 scripts/slurm.sh --dataroot DATA --name RUN --batch_size 16
#
# Three minutes before the end all processes are asked to save; the next start goes on from there.
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@180
set -uo pipefail
case " $* " in
    *" --help "* | *" -h "*)
        sed -n '2,/^#SBATCH/{/^#SBATCH/!s/^# \{0,1\}//p}' "$0"
        exit
        ;;
esac
cd "${SLURM_SUBMIT_DIR:-.}" || exit 1

if [[ -z ${SLURM_JOB_ID:-} ]]; then
    echo "error: this is for sbatch; without SLURM see docs/scaling.md" >&2
    exit 2
fi
# Two jobs may share a node, so each has a port of its own.
port=$((20000 + SLURM_JOB_ID % 40000))
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
torchrun=.venv/bin/torchrun
[[ -x $torchrun ]] || torchrun=torchrun

# So long torchrun's processes have to save and end, not 30 seconds: the step under way may compile or be measured.
export PET_SHUTDOWN_TIMEOUT="${PET_SHUTDOWN_TIMEOUT:-150}"

signals=0
stop() {
    signals=$((signals + 1))
    kill -TERM "$training"
}
trap stop USR1 TERM

srun "$torchrun" --nnodes "$SLURM_JOB_NUM_NODES" --nproc_per_node "${SLURM_GPUS_ON_NODE:-1}" \
    --rdzv_id "$SLURM_JOB_ID" --rdzv_backend c10d --rdzv_endpoint "$first:$port" train.py "$@" &
training=$!

# `wait` returns early when a signal comes, with the signal's number instead of the status.
while true; do
    before=$signals
    wait "$training"
    status=$?
    [[ $signals != "$before" ]] || break
done
if ((signals)); then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
