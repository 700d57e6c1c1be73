#!/usr/bin/env bash
# Checks everything that a CUDA device does differently from a CPU, and writes the results and the machine to a JSON.
#   scripts/gpu_suite.sh [FILE]      FILE: results/gpu/<name of the device>.json, unless given
# Needs CUDA and torch >= 2.11; takes some minutes. Other arguments: PYTHONPATH=scripts python -m benchmarks.gpu --help
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python - <<'PYTHON'
import sys, torch
version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
if version < (2, 11):
    sys.exit(f"torch {torch.__version__}: 2.11 or later is needed")
if not torch.cuda.is_available():
    sys.exit("there is no CUDA device here; nothing was run and nothing is written")
PYTHON
name=$(python -c 'import torch; print(torch.cuda.get_device_name().lower().replace(" ", "_"))')
exec env PYTHONPATH=scripts python -m benchmarks.gpu --device cuda --json "${1:-results/gpu/$name.json}"
