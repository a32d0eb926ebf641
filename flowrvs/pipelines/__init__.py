"""Layer 3: the pipeline, from frames and sentences to logits."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "loading": ["load"],
        "pipeline": ["EncodedVideo", "FlowRVSOutput", "FlowRVSPipeline"],
    },
)
