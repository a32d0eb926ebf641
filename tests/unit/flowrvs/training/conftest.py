"""A real model with random weights, and a split to train it on."""

from __future__ import annotations

from pathlib import Path

import pytest
from diffusers import AutoencoderKLWan

from tests.fixtures.micro import micro_pipeline
from tests.fixtures.training_data import make_mevis


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of models, which is not there yet."""
    monkeypatch.setenv("FLOWRVS_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "models"


@pytest.fixture(scope="session")
def micro_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that ``--model`` takes."""
    folder = tmp_path_factory.mktemp("models") / "micro"
    micro_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def mevis_split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MeViS-like split, not to be changed."""
    return make_mevis(tmp_path_factory.mktemp("mevis"))


@pytest.fixture(scope="module")
def vae() -> AutoencoderKLWan:
    """A VAE with random weights, whose latents have a mean of a half and a spread of two."""
    pipeline = micro_pipeline()
    pipeline.vae.register_to_config(latents_mean=[0.5] * 16, latents_std=[2.0] * 16)
    return pipeline.vae.requires_grad_(False)
