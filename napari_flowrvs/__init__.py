"""napari plugin of flowrvs: sentences to editable masks to a dataset split.

napari finds everything through the manifest ``napari.yaml``; importing this package
imports neither Qt, nor napari, nor torch.
"""

from __future__ import annotations

__all__: list[str] = []
