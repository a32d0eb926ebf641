"""Run a checkout of the published code on this machine, without its text in this repository.

The published code needs torchvision (of which there is no CPU build), names a GPU and
16-bit numbers, and reads a folder ``Wan2.1-T2V-1.3B-Diffusers`` in the working folder.
`torchvision_names` stands in for the few names it imports, `runner` calls its own
``prepare`` and ``eval_mevis`` in a process of its own, and `layouts` writes random
checkpoints in its layout.
"""

from __future__ import annotations

import sys
from pathlib import Path

# The tests' fixtures are no installed package.
sys.path.append(str(Path(__file__).resolve().parents[2]))
