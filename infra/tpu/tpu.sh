#!/usr/bin/env bash
# One training on a TPU VM, by the settings beside this file:
#   infra/tpu/tpu.sh train     all of it: create, setup, run, and delete at the end, however it ends
#   infra/tpu/tpu.sh create | setup | run | logs | status | delete
set -euo pipefail
shopt -s inherit_errexit
# shellcheck source-path=SCRIPTDIR source=settings.env
source "${SETTINGS:-"$(dirname "${BASH_SOURCE[0]}")/settings.env"}"

place=(--project="$PROJECT" --zone="$ZONE")

create() {
  local capacity
  case "$CAPACITY" in
    spot | guaranteed) capacity="--$CAPACITY" ;;
    *) echo "error: CAPACITY=$CAPACITY: expected spot or guaranteed" >&2; exit 2 ;;
  esac
  gcloud compute tpus queued-resources create "$NAME" "${place[@]}" \
    --node-id="$NAME" --accelerator-type="$ACCELERATOR_TYPE" --runtime-version="$RUNTIME_VERSION" \
    --service-account="$SERVICE_ACCOUNT" --valid-until-duration="$WAIT_FOR" "$capacity"
  wait_for_machine
}

# For hours, where there is none; --valid-until-duration ends that as FAILED.
wait_for_machine() {
  local state
  while state=$(status); [[ $state != ACTIVE ]]; do
    if [[ $state == FAILED || $state == SUSPENDED ]]; then
      echo "error: the request for $NAME is $state: delete it and train again, from the last checkpoint" >&2
      exit 1
    fi
    echo "waiting for a TPU: $state"
    sleep "${POLL_S:-30}"
  done
}

status() {
  gcloud compute tpus queued-resources describe "$NAME" "${place[@]}" --format='value(state.state)'
}

on_machine() {
  gcloud compute tpus tpu-vm ssh "$NAME" "${place[@]}" --command="$1"
}

setup() {
  on_machine "sudo gcloud auth configure-docker --quiet ${IMAGE%%/*} && sudo docker pull --quiet $IMAGE"
}

# The container outlives the connection; what is there of an earlier one has to end first.
run() {
  local stop="{ sudo docker stop trainer; sudo docker rm trainer; } >/dev/null 2>&1"
  local options="--detach --name=trainer --privileged --network=host --shm-size=2g --ulimit=memlock=-1 --user=0:0"
  local flags="--strategy=tpu --config=$CONFIG --data=$DATA --workdir=$WORKDIR --grace_s=30"
  on_machine "$stop; sudo docker run $options --stop-timeout=60 $IMAGE $flags"
  logs
}

# Ends with the container's own status: 0 done, 2 bad config or input, 42 preempted. The training goes on without a
# connection, so a lost one is made again.
logs() {
  local ended lost=0
  until ended=$(on_machine "sudo docker logs --follow --tail=50 trainer >&2; sudo docker wait trainer"); do
    if (( ++lost == 10 )); then
      echo "error: $NAME can't be reached, perhaps preempted: train again goes on from the last checkpoint" >&2
      return 42
    fi
    sleep "${POLL_S:-30}"
  done
  return "$ended"
}

delete() {
  gcloud compute tpus queued-resources delete "$NAME" "${place[@]}" --force --quiet
}

train() {
  trap delete EXIT
  create
  setup
  run
}

case "${1:-}" in
  train | create | setup | run | logs | status | delete) "$1" ;;
  *) sed -n '2,4s/^# //p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
