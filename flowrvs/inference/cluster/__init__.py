"""Computing on the workers of a dask cluster, with the same masks as here."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={"link": ["Scheduler"], "segmenter": ["Cluster"], "spread": ["SpreadCluster"]},
)
