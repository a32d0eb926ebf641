#!/usr/bin/env bash
# Build the wheel, install it in an empty environment, and let npe2 find and validate it.
# Usage: tools/check_wheel.sh PYTHON
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath -s "$1")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# An sdist, and from it the wheel, from a copy of what git knows, so that files lying about get neither in nor in the way.
mkdir "$scratch/source"
git ls-files -z --cached --others --exclude-standard | xargs -0 cp -P --parents -t "$scratch/source"
"$python" -m build --no-isolation --outdir "$scratch/dist" "$scratch/source" >"$scratch/build.log" 2>&1 ||
  { tail -n 40 "$scratch/build.log" >&2; exit 1; }
wheel=$(ls "$scratch"/dist/*.whl)

"$python" -m venv "$scratch/venv"
"$scratch/venv/bin/python" -m pip install -qq --disable-pip-version-check npe2 lazy-loader
"$scratch/venv/bin/python" -m pip install -qq --disable-pip-version-check --no-deps "$wheel"
cd "$scratch" # away from the checkout, so that only what was installed is found
venv/bin/npe2 list --fields name,version | grep -q napari-flowrvs ||
  { echo "npe2 does not find the plugin in the installed wheel" >&2; exit 1; }
venv/bin/npe2 validate napari-flowrvs
venv/bin/flowrvs --version
"$python" - "$wheel" <<'CHECK'
import sys
import zipfile

names = zipfile.ZipFile(sys.argv[1]).namelist()
for wanted in (
    "napari_flowrvs/napari.yaml",
    "flowrvs/py.typed",
    "flowrvs/__init__.pyi",
    "flowrvs/evaluation/report.html",
    "flowrvs/training/scratch/configs/tiny.toml",
    "flowrvs/checkpoints/weights/tiny/model_index.json",
):
    assert wanted in names, f"{wanted} is missing from the wheel"
needs = zipfile.ZipFile(sys.argv[1]).read(next(n for n in names if n.endswith("/METADATA"))).decode()
heavy = [line for line in needs.splitlines() if line.startswith("Requires-Dist: torch")]
assert heavy and all("extra ==" in line for line in heavy), "the plain wheel must not bring torch"
stray = [name for name in names if not name.startswith(("flowrvs/", "napari_flowrvs"))]
assert not stray, f"the wheel carries files of no package: {stray}"
weights = sum(item.file_size for item in zipfile.ZipFile(sys.argv[1]).infolist()
              if item.filename.endswith(".safetensors"))
print(f"wheel: {len(names)} files, {weights / 1e6:.1f} MB of weights")
CHECK
