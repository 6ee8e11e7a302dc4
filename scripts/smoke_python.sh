#!/usr/bin/env bash
# Install the package into a new environment, import it, train and evaluate a tiny dictionary,
# once for each interpreter that is named:
#
#     scripts/smoke_python.sh python3.10 python3.13
#
# Environments are made in a temporary folder (TMPDIR) and removed. Without arguments: every Python
# from 3.10 to 3.13 that is on the path or that pyenv has installed. The first failure ends it.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ $# -eq 0 ]; then
    for minor in 10 11 12 13; do
        for python in "python3.$minor" "${PYENV_ROOT:-$HOME/.pyenv}/versions/3.$minor".*/bin/python; do
            if "$python" -c "import sys; assert sys.version_info[:2] == (3, $minor)" 2>/dev/null; then
                set -- "$@" "$python"
                break
            fi
        done
    done
fi

for python in "$@"; do
    version=$("$python" -c 'import platform; print(platform.python_version())')
    echo "== Python $version"
    cd "$work"
    "$python" -m venv venv
    pip="venv/bin/python -m pip install --quiet --constraint $root/constraints.txt"
    $pip torch # first: with it in place nothing that follows pulls another build
    $pip "$root"
    venv/bin/python -c 'import sae_lens_poly as p; print("version", p.__version__, p.__file__)'
    venv/bin/sae-lens-poly train --output_path output --training_tokens 4096 --d_sae 128 --k 8 \
        --rank_2 8 --rank_3 8 --context_size 64 --train_batch_size_tokens 512 \
        --n_batches_in_buffer 16 --store_batch_size_prompts 4 >train.txt
    venv/bin/sae-lens-poly evaluate output --n_batches 1 --probing >evaluate.txt
    grep pooled evaluate.txt
    rm -rf venv output
    echo "== Python $version: passed"
done
