from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from strsr_cli.images.read import read_image
from strsr_models import UsageError
from strsr_models.losses.fdl import FrequencyDistributionLoss
from strsr_models.spectrum import lattice_excess

from ...conftest import EXAMPLES


def load(name: str) -> Tensor:
    """(1, 3, h, w) in [0, 1]."""
    return torch.from_numpy(np.array(read_image(EXAMPLES / name).rgb8())).permute(2, 0, 1)[None] / 255


def lines(side: int) -> Tensor:
    """A lattice (h, w) of bright lines, 1 px thick, 16 px apart: what a transformer's patches print."""
    at = torch.arange(side) % 16 == 0
    return (at[:, None] | at).float()


def pyramid(image: Tensor) -> list[Tensor]:
    """Two fixed layers somewhat like VGG's, whose filters are smooth: 16 maps, and 32 at half size."""
    rng = torch.Generator().manual_seed(0)
    first = F.interpolate(torch.randn(16, 3, 2, 2, generator=rng), (5, 5), mode="bilinear") / 8
    second = F.interpolate(torch.randn(32, 16, 2, 2, generator=rng), (5, 5), mode="bilinear") / 16
    x = F.relu(F.conv2d(image - 0.5, first, padding=2))
    return [x, F.relu(F.conv2d(F.avg_pool2d(x, 2), second, padding=2))]


def slopes(image: Tensor) -> list[Tensor]:
    """Differences of neighbouring pixels of grey, to the right and below."""
    grey = image.mean(1, keepdim=True)
    here = grey[..., :-1, :-1]
    return [torch.cat([grey[..., 1:, :-1] - here, grey[..., :-1, 1:] - here], dim=1)]


def by_numpy(loss: FrequencyDistributionLoss, pred: np.ndarray, target: np.ndarray, stride: int) -> float:
    """The definition, spelled out for one map (b, c, h, w)."""
    projections = loss.projections_0.double().numpy()
    k = projections.shape[-1]
    terms = []
    for split, weight in ((np.abs, 1.0), (np.angle, loss.phase_weight)):
        for b in range(len(pred)):
            x, y = (split(np.fft.fft2(maps[b])) for maps in (pred, target))
            for kernel in projections:
                ranked = [
                    np.sort(
                        [
                            (kernel * z[:, row : row + k, column : column + k]).sum()
                            for row in range(0, z.shape[1] - k + 1, stride)
                            for column in range(0, z.shape[2] - k + 1, stride)
                        ]
                    )
                    for z in (x, y)
                ]
                terms.append(weight * np.abs(ranked[0] - ranked[1]).mean())
    return 2 * float(np.mean(terms))  # amplitude and phase are summed, the rest is averaged


@pytest.mark.parametrize(
    ("channels", "projections", "kernel", "stride"), [(1, 1, 1, 1), (2, 3, 2, 1), (3, 4, 3, 2)]
)
def test_fdl_is_what_its_definition_says(channels: int, projections: int, kernel: int, stride: int) -> None:
    loss = FrequencyDistributionLoss([channels], projections, kernel, strides=stride, phase_weight=0.7)
    # Odd sides and a positive mean: no bin is negative and real, where -pi and pi are one phase.
    pred, target = 2 + torch.randn(2, 2, channels, 7, 5, dtype=torch.float64)
    expected = by_numpy(loss, pred.numpy(), target.numpy(), stride)
    assert float(loss([pred], [target])) == pytest.approx(expected, rel=1e-9)
    assert float(loss([pred.float()], [target.float()])) == pytest.approx(expected, rel=1e-5)


def test_fdl_is_that_of_a_case_by_hand() -> None:
    """Rows (1, 3) and (2, 2): amplitudes {4, 2} and {4, 0}, phases {0, pi} and {0, 0}."""
    loss = FrequencyDistributionLoss([1], projections=1, kernel=1)
    pred, target = torch.tensor([1.0, 3.0]).view(1, 1, 1, 2), torch.tensor([2.0, 2.0]).view(1, 1, 1, 2)
    assert float(loss([pred], [target])) == pytest.approx((2 + np.pi) / 2, rel=1e-6)


def test_the_gradient_is_that_of_finite_differences() -> None:
    loss = FrequencyDistributionLoss([2, 1], projections=3, kernel=2, strides=[1, 2])
    target = [torch.randn(1, 2, 3, 4, dtype=torch.float64), torch.randn(2, 1, 4, 3, dtype=torch.float64)]
    pred = [torch.randn_like(x).requires_grad_() for x in target]
    assert torch.autograd.gradcheck(lambda *maps: loss(list(maps), target), pred)


def test_equal_pictures_have_no_distance_and_no_gradient() -> None:
    loss = FrequencyDistributionLoss([16, 32], projections=8)
    image = torch.rand(2, 3, 32, 40, requires_grad=True)
    distance = loss(pyramid(image), pyramid(image.detach()))
    distance.backward()
    assert distance.item() == 0
    assert image.grad is not None
    assert image.grad.count_nonzero() == 0


def test_the_target_gets_no_gradient() -> None:
    loss = FrequencyDistributionLoss([3], projections=4)
    pred, target = torch.rand(2, 1, 3, 16, 16, requires_grad=True).unbind(0)
    target.retain_grad()
    loss([pred], [target]).backward()
    assert target.grad is None
    without = FrequencyDistributionLoss([3], projections=4)([pred.detach()], [target.detach()])
    assert not without.requires_grad


@pytest.mark.parametrize("pred", ["black", "grey", "noise", "dot"])
@pytest.mark.parametrize("target", ["black", "grey", "noise"])
def test_gradients_are_finite_whatever_the_picture(pred: str, target: str) -> None:
    pictures = {
        "black": torch.zeros(1, 3, 24, 24),
        "grey": torch.full((1, 3, 24, 24), 0.5),
        "noise": torch.rand(1, 3, 24, 24),
        "dot": F.pad(torch.ones(1, 3, 1, 1), (3, 20, 5, 18)),
    }
    loss = FrequencyDistributionLoss([3, 16, 32], projections=4)
    image = pictures[pred].clone().requires_grad_()
    distance = loss([image, *pyramid(image)], [pictures[target], *pyramid(pictures[target])])
    distance.backward()
    assert torch.isfinite(distance)
    assert image.grad is not None
    assert torch.isfinite(image.grad).all()


def test_chunks_do_not_change_the_result() -> None:
    pred, target = torch.rand(2, 2, 3, 20, 20).unbind(0)
    found = []
    for chunk in (1, 3 * 2 * 16 * 16, 1 << 24):  # 1, 3 and all 8 projections at a time
        image = pred.clone().requires_grad_()
        distance = FrequencyDistributionLoss([3], projections=8, chunk=chunk)([image], [target])
        distance.backward()
        found.append((distance.detach(), image.grad))
    for distance, gradient in found[:2]:
        torch.testing.assert_close(distance, found[2][0])
        torch.testing.assert_close(gradient, found[2][1])


def test_fdl_is_not_rounded_by_autocast() -> None:
    loss = FrequencyDistributionLoss([16, 32], projections=8)
    pred, target = pyramid(torch.rand(1, 3, 24, 24)), pyramid(torch.rand(1, 3, 24, 24))
    for maps in pred:
        maps.requires_grad_()
    expected = loss(pred, target)
    expected.backward()
    gradients = [maps.grad for maps in pred]
    for maps in pred:
        maps.grad = None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(pred, target)
    found.backward()
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert all(torch.equal(maps.grad, gradient) for maps, gradient in zip(pred, gradients, strict=True))
    half = loss([maps.bfloat16() for maps in pred], [maps.bfloat16() for maps in target])
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(expected.item(), rel=0.05)


def test_projections_depend_on_the_seed_alone_and_are_not_saved() -> None:
    first = FrequencyDistributionLoss([3, 4], projections=5, seed=1)
    torch.manual_seed(123)
    state = torch.get_rng_state()
    again, other = (FrequencyDistributionLoss([3, 4], projections=5, seed=seed) for seed in (1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first.projections_1, again.projections_1)
    assert not torch.equal(first.projections_1, other.projections_1)
    torch.testing.assert_close(first.projections_1.flatten(1).norm(dim=1), torch.ones(5))
    assert not first.state_dict()


@pytest.mark.parametrize("name", ["cat.png", "astronaut.jpg"])
def test_fdl_grows_with_a_lattice_and_exceeds_equal_noise(name: str) -> None:
    loss = FrequencyDistributionLoss([16, 32], projections=16)
    photo = load(name)[..., :112, :112]
    light = torch.arange(112) % 16 < 8
    boxes = (light[:, None].float() + light.float()) / 2
    target = pyramid(photo)
    with_lattice, with_noise = [], []
    for amplitude in (0.5, 1, 2, 4, 8):
        planted = amplitude / 255 * boxes
        noise = torch.randn(photo.shape, generator=torch.Generator().manual_seed(0)) * planted.std()
        with_lattice.append(float(loss(pyramid(photo + planted), target)))
        with_noise.append(float(loss(pyramid(photo + noise), target)))
    assert with_lattice == sorted(with_lattice)
    assert all(a > 1.3 * b for a, b in zip(with_lattice, with_noise, strict=True))


def test_fdl_descent_to_a_shifted_target_takes_a_lattice_away() -> None:
    photo, loss = load("rocket.jpg"), FrequencyDistributionLoss([2], projections=16)
    clean, goal = photo[..., 60:156, 40:136], slopes(photo[..., 63:159, 43:139])
    planted = clean + 8 / 255 * lines(96)
    image = planted.clone().requires_grad_()
    optimizer = torch.optim.Adam([image], lr=0.01)
    for step in range(30):
        optimizer.param_groups[0]["lr"] = 0.01 * (1 - step / 30)
        optimizer.zero_grad()
        loss(slopes(image), goal).backward()
        optimizer.step()

    pattern = lines(96) - lines(96).mean()

    def strength(x: Tensor) -> float:
        """Of the lattice in grey levels: 8 at the start."""
        return float(255 * ((x - clean).mean(1) * pattern).sum() / pattern.square().sum())

    before, after = (float(lattice_excess(x)[0, 2]) for x in (planted, image.detach()))
    assert strength(planted) == pytest.approx(8)
    assert strength(image.detach()) < 6
    assert before > 8
    assert after < before - 3


@pytest.mark.parametrize(
    ("pred", "target", "message"),
    [
        ([(1, 3, 4, 9)], [(1, 3, 4, 9)], "map 0: 4 x 9 is smaller than the kernel, 5 x 5"),
        ([(1, 3, 8, 8)], [(1, 3, 8, 9)], r"map 0: prediction \(1, 3, 8, 8\), target \(1, 3, 8, 9\)"),
        ([(1, 4, 8, 8)], [(1, 4, 8, 8)], r"expected \(b, 3, h, w\), got \(1, 4, 8, 8\)"),
        ([(3, 8, 8)], [(3, 8, 8)], r"expected \(b, 3, h, w\)"),
        ([(1, 3, 8, 8)] * 2, [(1, 3, 8, 8)] * 2, "built for 1 maps, got 2"),
        ([(1, 3, 8, 8)], [], "and 0 of the target"),
    ],
)
def test_wrong_maps_are_named(
    pred: list[tuple[int, ...]], target: list[tuple[int, ...]], message: str
) -> None:
    loss = FrequencyDistributionLoss([3], projections=2)
    with pytest.raises(UsageError, match=message):
        loss([torch.zeros(shape) for shape in pred], [torch.zeros(shape) for shape in target])


@pytest.mark.parametrize(
    "settings",
    [{"channels": []}, {"projections": 0}, {"kernel": 0}, {"strides": [1, 2]}, {"strides": 0}, {"chunk": 0}],
)
def test_settings_that_make_no_sense_are_refused(settings: dict) -> None:
    with pytest.raises(UsageError, match="frequency loss"):
        FrequencyDistributionLoss(**{"channels": [3], **settings})
