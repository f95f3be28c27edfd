#!/usr/bin/env bash
# The whole job on scikit-learn's digits; every public command is shown as it is run, to be copied.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH="$PWD/.venv/bin:$PATH"

run() {
  printf '\n$ %s\n' "$*"
  "$@"
}

demo=runs/demo
rm -rf "$demo"
python infra/demo/write_digits.py "$demo/digits"

# TensorFlow's sums in one order, so that the demo repeats; one device needs no more than one operation at a time.
run export TF_NUM_INTEROP_THREADS=1
run python -m preprocess --input="$demo/digits" --output="$demo/data" --name=digits
run python -m trainer train --config=configs/digits_mobilenetv2.py --data="$demo/data/digits/1.0.0" --workdir="$demo/work"
run python -m trainer evaluate --workdir="$demo/work" --split=test

held_out=$(python infra/demo/held_out.py "$demo/data/digits/1.0.0" "$demo/digits")
images=()
while IFS= read -r image; do images+=("$image"); done <<<"$held_out"
run python -m trainer predict --workdir="$demo/work" "${images[@]}"

python - "$demo/work/report/metrics.json" <<'END'
import json, sys
accuracy = json.load(open(sys.argv[1]))["accuracy"]
if accuracy < 0.98:  # rounding differs between processors if it is little, something is broken if it is much
    print(f"\nwarning: test accuracy {accuracy:.2%} is below the 98 % that this experiment reached where it was measured")
END

printf '\nDone in %d s. The report: %s\n' "$SECONDS" "$demo/work/report/index.html"
printf 'To run the commands above yourself: source .venv/bin/activate\n'
