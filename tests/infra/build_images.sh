#!/usr/bin/env bash
# Builds images of infra/docker/Dockerfile without a Docker engine and does small work in them:
# build_images.sh [preprocess [trainer]]
#
# buildah works in a chroot, as root. The base is a stand-in for python:3.11-slim: Debian's minimal system by
# debootstrap, and this machine's Python 3.11 in /usr/local, where that image has its own. So what is shown is that
# every instruction works, that the locks install by hash for this Python, and that the programs start as the image's
# user, who owns nothing in it; not that the real base has what they need.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

scratch=${SCRATCH:-build/images}
python=${PYTHON:-python3.11}
stages=("$@")
[[ $# -gt 0 ]] || stages=(preprocess)
export STORAGE_DRIVER=${STORAGE_DRIVER:-overlay} BUILDAH_ISOLATION=chroot
storage=(--root "$PWD/$scratch/storage" --runroot "$PWD/$scratch/run")
base=localhost/python-stand-in:3.11

skip() { echo "build_images: skipped, $1"; exit 0; }
[[ $EUID == 0 ]] || skip "it needs root"
for program in buildah debootstrap; do
  command -v "$program" >/dev/null || skip "it needs $program"
done
prefix=$("$python" -c 'import sys; print(sys.base_prefix)') || skip "it needs Python 3.11 (PYTHON=…)"
[[ $prefix != /usr ]] || skip "Debian's own Python can't be moved to /usr/local: PYTHON=… one that was built there"

make_base() {
  local root=$scratch/root container mirror
  rm -rf "$root" && mkdir -p "$root"
  # shellcheck disable=SC2016  # apt's own format
  mirror=$(apt-get indextargets --format '$(REPO_URI)' | sed -n 1p)
  # Also the libraries that Python's own modules are linked with.
  debootstrap --variant=minbase \
    --include=ca-certificates,libbz2-1.0,libffi8,liblzma5,libreadline8,libsqlite3-0,libssl3,zlib1g \
    bookworm "$root" "$mirror" >"$scratch/debootstrap.log"
  cp --archive "$prefix"/lib/libpython3* "$root/usr/local/lib/"
  cp --archive "$prefix"/lib/python3.11 "$root/usr/local/lib/"
  cp --archive "$prefix"/bin/python3.11 "$root/usr/local/bin/"
  find "$root/usr/local/lib/python3.11/site-packages" -mindepth 1 -maxdepth 1 ! -name 'pip*' -exec rm -rf {} +
  ln -s python3.11 "$root/usr/local/bin/python"
  chroot "$root" ldconfig
  # How this machine trusts the registry is no part of the image.
  cp --dereference /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
  printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' >"$root/etc/pip.conf"
  container=$(buildah "${storage[@]}" from scratch)
  buildah "${storage[@]}" add --quiet "$container" "$root" / >/dev/null
  buildah "${storage[@]}" config --env PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
  buildah "${storage[@]}" commit --quiet --rm "$container" "$base" >/dev/null
  rm -rf "$root"
}

build() {
  local began=$SECONDS
  buildah "${storage[@]}" build --quiet --layers --pull-never --file infra/docker/Dockerfile --target "$1" \
    --build-arg "BASE=$base" --tag "localhost/$1:test" . >/dev/null
  echo "$1: built in $((SECONDS - began)) s"
}

# Runs a command in an image, as its user, with a folder that stays at /scratch.
inside() {
  local stage=$1 container status=0
  shift
  container=$(buildah "${storage[@]}" from --pull-never "localhost/$stage:test")
  local options=(--volume "$PWD/$scratch/work:/scratch")
  buildah "${storage[@]}" run "${options[@]}" "$container" -- "$@" 2>"$scratch/$stage.error" || status=$?
  buildah "${storage[@]}" rm "$container" >/dev/null
  return "$status"
}

fail() {
  echo "error: $1" >&2
  cat "$scratch"/*.error >&2
  exit 1
}

check() {
  local stage=$1 format='{{range .OCIv1.Config.Entrypoint}}{{.}} {{end}}' entry status=0
  read -r -a entry <<<"$(buildah "${storage[@]}" inspect --type image --format "$format" "localhost/$stage:test")"
  [[ ${#entry[@]} -gt 0 ]] || fail "$stage starts nothing"
  [[ $(inside "$stage" id --user) == 10001 ]] || fail "$stage runs as root"
  [[ -z $(inside "$stage" find /shardline /usr /opt /etc /var -user 10001) ]] || fail "the user of $stage owns files"
  inside "$stage" "${entry[@]}" --help >/dev/null || fail "$stage does not start"
  inside "$stage" "${entry[@]}" --no_such_flag=1 || status=$?
  [[ $status == 2 ]] || fail "$stage ends with $status for a bad flag"
  try "$stage" "${entry[@]}" || fail "$stage does not do its work"
  buildah "${storage[@]}" images --format "$stage: {{.Size}}" "localhost/$stage:test"
}

# What the stage is for: 60 pictures become a dataset, and three steps are trained on that.
try() {
  local stage=$1
  shift
  if [[ $stage == preprocess ]]; then
    inside "$stage" python -c "
import pathlib
from PIL import Image
for number in range(60):
    picture = pathlib.Path('/scratch/photos', 'ab'[number % 2], f'{number}.png')
    picture.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((32, 32), 8 + number).save(picture)
"
    inside "$stage" "$@" --input=/scratch/photos --output=/scratch/data --name=noise --splits=train=0.8,validation=0.2 \
      --max_workers=1 --overwrite
  else
    inside "$stage" "$@" --config=configs/digits_mobilenetv2.py --data=/scratch/data/noise/1.0.0 --workdir=/scratch/run \
      --config.global_batch=16 --config.phases[0].epochs=1 --config.phases[0].warmup_epochs=0
  fi
}

mkdir -p "$scratch"
buildah "${storage[@]}" inspect --type image "$base" >/dev/null 2>&1 || make_base
rm -rf "$scratch/work" && mkdir -p "$scratch/work" && chmod 777 "$scratch/work"
for stage in "${stages[@]}"; do
  build "$stage"
  check "$stage"
done
echo "build_images: 1 passed, 0 failed"
