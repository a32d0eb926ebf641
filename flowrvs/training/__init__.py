"""Layer 6: training; `flowrvs train` from Python.

`train_flow` and `train_decoder` learn from real data (splits, projects, RefCOCO),
`train_scratch` from nothing on the synthetic world, `improve` from a person's corrections.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submod_attrs={
        "config": ["PRESETS", "DecoderConfig", "FlowConfig", "build_config"],
        "decoder": ["train_decoder"],
        "flow": ["train_flow"],
        "corrections": ["Improvement", "improve", "plan_improvement"],
        "lora": ["merge_lora"],
        "run": ["Trained"],
        "scratch": ["ScratchConfig", "load_scratch_config", "train_scratch"],
        "sources": ["open_sources"],
    },
)
