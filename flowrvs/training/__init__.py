"""Layer 5: training on the synthetic world; `flowrvs train` from Python."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "config": ["FlowConfig", "Phase", "VaeConfig", "load_config"],
        "flow": ["train_flow"],
        "vae": ["train_vae"],
    },
)
