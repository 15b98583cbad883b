from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from strsr_models import UsageError
from strsr_models.encoders.dit_trunk import DiTTrunk
from strsr_models.losses.adversarial import discriminator_loss, generator_loss, r1_penalty
from strsr_models.networks.discriminator import BlurPool, Coach, Discriminator, DiscriminatorConfig
from strsr_models.pipelines.lite import LitePipeline

CONFIG = DiscriminatorConfig(channels=(8, 12), embedding_channels=6, hidden=16)


class TinyTrunk(nn.Module):
    """A real little trunk: two maps and an embedding, with BatchNorm and Dropout to be kept still."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.GELU())
        self.second = nn.Sequential(nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.Dropout(0.5))
        self.pooled = nn.Linear(12, 6)

    def forward(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        one = self.first(image)
        two = self.second(one)
        return [one, two], self.pooled(two.mean((2, 3)))


def inputs(b: int = 2, h: int = 8, w: int = 8) -> tuple[list[Tensor], Tensor]:
    return [torch.randn(b, 8, h, w), torch.randn(b, 12, h, w)], torch.randn(b, 6)


@pytest.mark.parametrize(
    ("h", "w", "logits"), [(1, 1, (1, 1)), (2, 2, (1, 1)), (8, 8, (2, 2)), (5, 9, (2, 3)), (64, 3, (16, 1))]
)
def test_heads_give_logits_for_maps_of_any_size(h: int, w: int, logits: tuple[int, int]) -> None:
    maps, embedding = inputs(2, h, w)
    found = Discriminator(CONFIG)(maps, embedding)
    assert [tuple(x.shape) for x in found] == [(2, 1, *logits), (2, 1, *logits), (2, 1)]


def test_heads_learn_in_all_their_parameters() -> None:
    heads = Discriminator(CONFIG)
    sum(logits.square().sum() for logits in heads(*inputs())).backward()
    assert all(p.grad is not None and p.grad.count_nonzero() > 0 for p in heads.parameters())


def test_the_published_heads_have_512_channels() -> None:
    heads = Discriminator(DiscriminatorConfig(channels=(384, 768, 1536), embedding_channels=1024))
    weights = 9 * 512 * (384 + 768 + 1536) + 3 * 512 + 1024 * 512 + 512
    biases = 4 * (512 + 1)
    assert sum(p.numel() for p in heads.parameters()) == weights + biases


def test_the_spectral_norm_of_every_layer_is_one() -> None:
    heads = Discriminator(CONFIG)
    for _ in range(20):  # the power iteration settles
        heads(*inputs())
    layers = [m for m in heads.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == 6
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2).item() == pytest.approx(1, abs=0.02)


def test_blur_pool_is_that_by_hand() -> None:
    dot = torch.zeros(1, 2, 5, 5)
    dot[0, 0, 2, 2] = 16
    blurred = BlurPool()(dot)
    assert blurred[0, 0, 1:4, 1:4].tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]
    assert blurred[0, 1].count_nonzero() == 0
    flat = torch.full((1, 3, 2, 7), 0.3)
    torch.testing.assert_close(BlurPool()(flat), flat)  # repeated borders darken nothing


def test_a_checkerboard_does_not_alias_into_a_map_head() -> None:
    """What the blur is for: the finest pattern would turn into a constant under a stride of 2."""
    y, x = torch.arange(16)[:, None], torch.arange(16)
    board = (1 - 2.0 * ((x + y) % 2)).expand(1, 1, 16, 16)
    assert BlurPool()(board)[..., 1:-1, 1:-1].abs().max() < 1e-6


def test_power_iteration_moves_in_train_mode_and_rests_in_eval() -> None:
    heads, (maps, embedding) = Discriminator(CONFIG), inputs()
    state = copy.deepcopy(heads.state_dict())
    heads.eval()(maps, embedding)
    assert all(torch.equal(state[key], value) for key, value in heads.state_dict().items())
    heads.train()(maps, embedding)
    moved = {key for key, value in heads.state_dict().items() if not torch.equal(state[key], value)}
    assert moved
    assert all(key.endswith(("_u", "_v")) for key in moved)


def steps(coach: Coach, optimizer: torch.optim.Optimizer, rng: torch.Generator, count: int) -> None:
    for _ in range(count):
        real, fake = torch.rand(2, 2, 3, 32, 32, generator=rng).unbind(0)
        optimizer.zero_grad()
        with torch.nn.utils.parametrize.cached():
            real_logits = coach(real)
            loss = discriminator_loss(real_logits, coach(fake))
            loss = loss + 10 * r1_penalty(coach, real, real_logits, rng)
        loss.backward()
        optimizer.step()


def test_training_stopped_and_resumed_equals_straight() -> None:
    trunk = TinyTrunk()

    def fresh() -> tuple[Coach, torch.optim.Optimizer, torch.Generator]:
        torch.manual_seed(7)
        coach = Coach(trunk, Discriminator(CONFIG)).train()
        return coach, torch.optim.AdamW(coach.heads.parameters(), 1e-3), torch.Generator().manual_seed(3)

    straight, optimizer, rng = fresh()
    steps(straight, optimizer, rng, 4)

    stopped, optimizer, rng = fresh()
    steps(stopped, optimizer, rng, 2)
    file = io.BytesIO()
    torch.save((stopped.heads.state_dict(), optimizer.state_dict(), rng.get_state()), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    torch.manual_seed(99)  # other random starts, which the saved state must replace
    heads = Discriminator(CONFIG)
    resumed = Coach(trunk, heads).train()
    optimizer = torch.optim.AdamW(resumed.heads.parameters(), 1e-3)
    heads.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    rng.set_state(saved[2])
    steps(resumed, optimizer, rng, 2)

    for key, value in straight.heads.state_dict().items():
        assert torch.equal(value, resumed.heads.state_dict()[key]), key


def test_a_coach_learns_to_tell_light_from_dark() -> None:
    coach = Coach(TinyTrunk(), Discriminator(CONFIG)).train()
    optimizer = torch.optim.AdamW(coach.heads.parameters(), 1e-2)
    rng = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(60):
        light = 5 * torch.rand(4, 3, 32, 32, generator=rng)  # spectral norms of 1 want a large difference
        loss = discriminator_loss(coach(light), coach(0.1 * light))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_a_trunk_never_trains_and_passes_gradients_on() -> None:
    trunk = TinyTrunk()
    coach = Coach(trunk, Discriminator(CONFIG))
    before = copy.deepcopy(trunk.state_dict())
    coach.train()
    assert not trunk.training
    assert not any(module.training for module in trunk.modules())
    assert coach.heads.training
    image = torch.rand(2, 3, 32, 32, requires_grad=True)
    generator_loss([logits.detach() for logits in coach(image.detach())], coach(image)).backward()
    assert image.grad is not None
    assert image.grad.count_nonzero() > 0
    assert all(p.grad is None for p in trunk.parameters())
    assert all(torch.equal(before[key], value) for key, value in trunk.state_dict().items())
    assert not coach.eval().heads.training


def test_autocast_leaves_the_heads_in_float32() -> None:
    heads, (maps, embedding) = Discriminator(CONFIG).eval(), inputs()
    expected = heads(maps, embedding)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = heads(maps, embedding)
        coached = Coach(TinyTrunk(), Discriminator(CONFIG)).train()(torch.rand(1, 3, 32, 32))
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a, b)
    assert all(logits.dtype == torch.float32 for logits in coached)


@pytest.mark.parametrize(
    ("maps", "embedding", "message"),
    [
        ([(1, 8, 4, 4)], (1, 6), r"heads are on maps of \(8, 12\) channels, got \[\(1, 8, 4, 4\)\]"),
        ([(1, 8, 4, 4), (1, 11, 4, 4)], (1, 6), "heads are on maps"),
        ([(1, 8, 4, 4), (1, 12, 0, 4)], (1, 6), "too small for the trunk"),
        ([(1, 8, 4, 4), (1, 12, 4, 4)], None, "embedding of 6 channels, got 0"),
        ([(1, 8, 4, 4), (1, 12, 4, 4)], (1, 7), "embedding of 6 channels, got 7"),
    ],
)
def test_maps_that_do_not_fit_are_named(
    maps: list[tuple[int, ...]], embedding: tuple[int, ...] | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Discriminator(CONFIG)(
            [torch.zeros(shape) for shape in maps], None if embedding is None else torch.zeros(embedding)
        )


@pytest.mark.parametrize("settings", [{"channels": ()}, {"channels": (0,)}, {"channels": (8,), "hidden": 0}])
def test_heads_without_channels_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"channels|map"):
        DiscriminatorConfig(**settings)


def test_an_embedding_alone_is_enough_and_so_are_maps_alone() -> None:
    only = Discriminator(DiscriminatorConfig(channels=(), embedding_channels=6, hidden=4))
    assert [tuple(x.shape) for x in only([], torch.randn(3, 6))] == [(3, 1)]
    maps = Discriminator(DiscriminatorConfig(channels=(8,), hidden=4))
    assert [tuple(x.shape) for x in maps([torch.randn(3, 8, 4, 4)])] == [(3, 1, 1, 1)]


def test_a_dit_coaches_by_its_hidden_states(tiny: LitePipeline) -> None:
    trunk = DiTTrunk(tiny.structural_encoder, tiny.dit, maps=2)
    assert trunk.channels == (32, 32)
    assert trunk.blocks == [0, 1]
    coach = Coach(trunk, Discriminator(DiscriminatorConfig(trunk.channels, hidden=8))).train()
    image = torch.rand(2, 3, 48, 64, requires_grad=True)
    maps, embedding = trunk(image)
    assert [tuple(x.shape) for x in maps] == [(2, 32, 3, 4)] * 2
    assert embedding is None
    sum(logits.sum() for logits in coach(image)).backward()
    assert image.grad is not None
    assert image.grad.count_nonzero() > 0
    assert not any(p.requires_grad for p in trunk.parameters())
    assert all(p.requires_grad for p in tiny.parameters())  # the student's own are untouched
    with torch.no_grad():
        tiny.dit.patch_in.weight.zero_()
    torch.testing.assert_close(trunk(image)[0], maps)  # a copy: the student may move


def test_hidden_states_are_those_that_the_velocity_is_made_of(tiny: LitePipeline) -> None:
    latents, timestep, tokens = torch.randn(2, 8, 6, 4), torch.tensor([800.0, 3.0]), torch.randn(2, 4, 32)
    first, last = tiny.dit.hidden_states(latents, timestep, tokens, [0, 1])
    assert first.shape == last.shape == (2, 6, 32)
    assert not torch.equal(first, last)
    torch.testing.assert_close(tiny.dit.hidden_states(latents, timestep, tokens, [0])[0], first)
    velocity = tiny.dit.patch_out(tiny.dit.norm_out(last)).transpose(1, 2).unflatten(2, (3, 2))
    expected = nn.functional.pixel_shuffle(velocity, 2)
    torch.testing.assert_close(tiny.dit(latents, timestep, tokens), expected)


@pytest.mark.parametrize("maps", [0, 3])
def test_a_dit_trunk_taps_blocks_that_exist(maps: int, tiny: LitePipeline) -> None:
    with pytest.raises(UsageError, match=f"{maps} maps of 2 blocks"):
        DiTTrunk(tiny.structural_encoder, tiny.dit, maps=maps)


def test_a_dit_trunk_refuses_sides_that_are_no_multiple(tiny: LitePipeline) -> None:
    with pytest.raises(UsageError, match="40 x 32 must be multiples of 16 px"):
        DiTTrunk(tiny.structural_encoder, tiny.dit, maps=1)(torch.rand(1, 3, 40, 32))
