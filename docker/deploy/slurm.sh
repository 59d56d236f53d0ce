#!/usr/bin/env bash
# Eight shards of one sweep as a job array, each on a GPU of its own, by Apptainer. Once, where there is a network:
#   apptainer build gradient-harness.sif docker://REGISTRY/OWNER/gradient-harness:TAG
# Then: PUBLISH=/shared/folder/run sbatch docker/deploy/slurm.sh     (or s3://…; then also AWS_ACCESS_KEY_ID and the like)
#SBATCH --job-name=gradient-harness
#SBATCH --array=0-7
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --gres=gpu:1
#SBATCH --time=02:00:00
#SBATCH --signal=B:USR1@60
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=gradient-harness-%A-%a.log
set -euo pipefail

shards=8 # as many as --array has
image=${IMAGE:-gradient-harness.sif}
publish=${PUBLISH:-}
if [ -z "$publish" ]; then
  echo "say where the records go: PUBLISH=/shared/folder/run sbatch docker/deploy/slurm.sh" >&2
  exit 2
fi

# Two endings. Time is nearly up: Slurm sends USR1 to this shell alone, 60 s before (--signal=B:…), and the job puts itself
# back into the queue. Cancelled or preempted: Slurm sends TERM, and puts the job back itself where that is due (--requeue).
# Either way the program gets SIGTERM, writes what it has, and ends with 130.
child='' time_is_up=no woken=no
# shellcheck disable=SC2329 # called by the traps
hand_on() {
  woken=yes
  [ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true
}
trap 'time_is_up=yes; hand_on' USR1
trap hand_on TERM INT

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/results" # what counts is what is published
binds=(--bind "$scratch/results:/results")
case $publish in
  *://*) ;;
  *) mkdir -p "$publish" && publish=$(realpath "$publish") && binds+=(--bind "$publish:$publish") ;;
esac
# A contained environment has neither the GPU that Slurm chose nor keys for object storage.
for name in CUDA_VISIBLE_DEVICES AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_ENDPOINT_URL; do
  [ -z "${!name:-}" ] || export "APPTAINERENV_$name=${!name}"
done

# In the background, as bash hears no signal while it waits for a program in the foreground.
apptainer run --nv --containall --workdir "$scratch" "${binds[@]}" "$image" \
  run --device cuda --shard "$SLURM_ARRAY_TASK_ID/$shards" --publish "$publish" --out /results &
child=$!
while :; do
  woken=no code=0
  wait "$child" || code=$?
  [ "$woken" = yes ] || break # else it was the signal that ended the waiting
done

if [ "$time_is_up" = yes ] && [ "$code" = 130 ]; then
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
fi
exit "$code"
