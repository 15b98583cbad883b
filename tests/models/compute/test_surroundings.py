from __future__ import annotations

import torch

from strsr_models.checkpoints.files import read_tensors
from strsr_models.checkpoints.locations import CONFIG_NAME, WEIGHTS_NAME, lite_folder
from strsr_models.compute.surroundings import Unfilled
from strsr_models.load import read_config
from strsr_models.networks.dit import DiT, DiTConfig
from strsr_models.pipelines.lite import LitePipeline


def test_layers_that_are_unfilled_draw_nothing() -> None:
    state = torch.get_rng_state()
    with Unfilled():
        DiT(DiTConfig())
    assert torch.equal(torch.get_rng_state(), state)
    DiT(DiTConfig())
    assert not torch.equal(torch.get_rng_state(), state)


def test_no_tensor_of_lite_is_left_unfilled_by_its_file() -> None:
    config = read_config(lite_folder(None) / CONFIG_NAME)
    with Unfilled():
        pipeline = LitePipeline(config)
    tensors = {name for name, _ in (*pipeline.named_parameters(), *pipeline.named_buffers())}
    assert tensors == read_tensors(lite_folder(None) / WEIGHTS_NAME).keys()
