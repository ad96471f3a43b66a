#!/usr/bin/env bash
# Install a built wheel into an empty environment and use it from a folder that knows nothing of the project.
set -euo pipefail
wheel=$(realpath "$1")
constraints=$(realpath "$(dirname "$0")/../constraints.txt")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --constraint "$constraints" "$wheel"
cd "$folder"
./venv/bin/biomedllama --version
./venv/bin/python -m biomedllama_cli --help >/dev/null
./venv/bin/biomedllama prepare --sample --vocabulary-size 1024 --output-dir corpus --json >prepare.json
./venv/bin/biomedllama pretrain --corpus corpus --model scratch:tiny --max-steps 2 \
  --sequence-length 64 --global-batch-size 4 --precision fp32 --json >pretrain.json
./venv/bin/biomedllama evaluate --task sample-questions --limit 4 --json >evaluate.json 2>evaluate.log || {
  cat evaluate.log evaluate.json; exit 1; }
./venv/bin/python -m json.tool evaluate.json >/dev/null
echo "wheel: installed into an empty environment, three commands ran in $folder"
