"""Layer 3: the pipeline, from frames and sentences to logits."""

from typing import Any

import lazy_loader as _lazy

_attach, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "loading": ["load"],
        "pipeline": ["EncodedVideo", "FlowRVSOutput", "FlowRVSPipeline"],
    },
)


def __getattr__(name: str) -> Any:
    from flowrvs.errors import missing_extra

    try:
        return _attach(name)
    except ImportError as error:
        if extra := missing_extra(error):
            raise extra from error
        raise
