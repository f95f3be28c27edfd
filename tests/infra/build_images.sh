#!/usr/bin/env bash
# Builds images of infra/docker/Dockerfile without a Docker engine and runs their programs: build_images.sh [STAGE …]
#
# buildah works in a chroot, as root. The base is a stand-in for python:3.11-slim: Debian's minimal system by
# debootstrap, and this machine's Python 3.11 in /usr/local, where that image has its own. So what is shown is that
# every instruction works, that the locks install by hash for this Python, and that the programs start as the image's
# user, who owns nothing in it; not that the real base has what they need.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

scratch=${SCRATCH:-build/images}
python=${PYTHON:-python3.11}
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
  buildah "${storage[@]}" config --env PATH=/usr/local/bin:/usr/bin:/bin "$container"
  buildah "${storage[@]}" commit --quiet --rm "$container" "$base" >/dev/null
  rm -rf "$root"
}

build() {
  local began=$SECONDS
  buildah "${storage[@]}" build --quiet --layers --pull-never --file infra/docker/Dockerfile --target "$1" \
    --build-arg "BASE=$base" --tag "localhost/$1:test" . >/dev/null
  echo "$1: built in $((SECONDS - began)) s"
}

# Runs a command in an image as its user.
inside() {
  local container status=0
  container=$(buildah "${storage[@]}" from --pull-never "localhost/$1:test")
  buildah "${storage[@]}" run "$container" -- "${@:2}" || status=$?
  buildah "${storage[@]}" rm "$container" >/dev/null
  return "$status"
}

check() {
  local stage=$1 entry
  read -r -a entry <<<"$(buildah "${storage[@]}" inspect --type image \
    --format '{{join .OCIv1.Config.Entrypoint " "}}' "localhost/$stage:test")"
  [[ $(inside "$stage" id --user) == 10001 ]] || { echo "error: $stage runs as root" >&2; return 1; }
  [[ -z $(inside "$stage" find / -xdev -user 10001 -not -path '/proc/*') ]] ||
    { echo "error: the user of $stage owns files" >&2; return 1; }
  inside "$stage" test ! -e /root/.cache
  inside "$stage" "${entry[@]}" --help >"$scratch/$stage.help"
  local status=0
  inside "$stage" "${entry[@]}" --no_such_flag=1 2>"$scratch/$stage.error" || status=$?
  [[ $status == 2 ]] || { echo "error: $stage ends with $status for a bad flag" >&2; return 1; }
  case $stage in
    preprocess) inside "$stage" python -c 'import preprocess.graph, google.cloud.storage, gcsfs' ;;
    *) inside "$stage" python -c 'import tensorflow as tf, trainer.train; print("TensorFlow", tf.__version__)' ;;
  esac
  buildah "${storage[@]}" images --format "$stage: {{.Size}}" "localhost/$stage:test"
}

mkdir -p "$scratch"
make_base
for stage in "${@:-preprocess}"; do
  build "$stage"
  check "$stage"
done
echo "build_images: 1 passed, 0 failed"
