"""The lattice loss: silent on photos, loud on a grid that all pictures share, and descending it removes the grid."""

import pytest
import torch
from skimage import data
from torch import Tensor

from strsr_models.errors import UsageError
from strsr_models.losses.lattice import lattice_loss
from strsr_models.spectrum import lattice_excess


@pytest.fixture(scope="module")
def photos() -> Tensor:
    images = (data.astronaut(), data.coffee()[:, :400], data.chelsea()[:300, :300])
    crops = [torch.from_numpy(image[60:188, 80:208].copy()).permute(2, 0, 1) for image in images]
    return torch.stack(crops).float() / 255


def grid(amplitude: float, period: int = 4, side: int = 128) -> Tensor:
    """A line of the given amplitude in every period-th column."""
    return amplitude * (torch.arange(side) % period == 0).float().expand(side, side)


def white_noise(rms: float) -> Tensor:
    return rms * torch.randn(3, 3, 128, 128, generator=torch.Generator().manual_seed(0))


def over(image: Tensor, photos: Tensor, period: int) -> float:
    """Lattice excess on the axes over that of the photos, in dB."""
    excess, own = (lattice_excess(x, (period,), where="axes") for x in (image, photos))
    return float((excess - own).mean())


def test_equal_pictures_cost_nothing(photos: Tensor) -> None:
    assert lattice_loss(photos, photos).item() == 0


def test_a_smoother_picture_costs_nothing_either(photos: Tensor) -> None:
    with_grid = photos + grid(4 / 255)
    assert lattice_loss(photos, with_grid).item() < lattice_loss(with_grid, photos).item() / 50


def test_lattice_loss_grows_with_the_grid(photos: Tensor) -> None:
    losses = [lattice_loss(photos + grid(a / 255), photos).item() for a in (0.5, 1, 2, 4)]
    assert losses == sorted(losses)
    noise = lattice_loss(photos + white_noise(0.5 / 255), photos).item()
    assert losses[0] > 5 * noise  # half an 8-bit step, which L1 hardly sees


def test_a_line_in_one_picture_of_three_costs_less_than_in_all(photos: Tensor) -> None:
    one = photos.clone()
    one[0] += grid(2 / 255)
    assert lattice_loss(one, photos).item() < lattice_loss(photos + grid(2 / 255), photos).item() / 2


def test_lattice_loss_descent_removes_a_grid(photos: Tensor) -> None:
    pattern = torch.zeros(4)
    pattern[0] = 4 / 255
    pattern.requires_grad_(True)  # what a decoder's biases print
    optimizer = torch.optim.Adam([pattern], lr=5e-4)
    before = over(photos + pattern.detach().repeat(32), photos, 4)
    for _ in range(60):
        optimizer.zero_grad()
        lattice_loss(photos + pattern.repeat(32), photos).backward()
        optimizer.step()
    after = over(photos + pattern.detach().repeat(32), photos, 4)
    assert before > 4
    assert after < before / 3


def test_gradients_are_finite_where_nothing_is_to_be_seen() -> None:
    flat = torch.full((2, 3, 128, 128), 0.5, requires_grad=True)
    lattice_loss(flat, torch.rand(2, 3, 128, 128)).backward()
    assert flat.grad is not None
    assert flat.grad.isfinite().all()


def test_a_checkerboard_is_seen_though_nothing_is_on_the_axes(photos: Tensor) -> None:
    steps = torch.arange(128) // 4
    board = ((steps[:, None] + steps) % 2 * 2 - 1) / 255  # squares of 4 px: period 8 on both axes
    assert over(photos + board, photos, 8) < 1
    noise = lattice_loss(photos + white_noise(1 / 255), photos).item()
    assert lattice_loss(photos + board, photos).item() > 10 * noise


def test_small_pictures_are_an_error() -> None:
    with pytest.raises(UsageError, match="48 px hold no 4 periods of 16 px"):
        lattice_loss(torch.rand(1, 3, 48, 80), torch.rand(1, 3, 48, 80))
