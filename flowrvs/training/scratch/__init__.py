"""Training from random weights on the synthetic world: how the bundled model was made."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "config": ["FlowStage", "Phase", "ScratchConfig", "VaeStage", "load_scratch_config"],
        "train": ["train_scratch"],
    },
)
