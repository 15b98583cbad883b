"""The stem and stages 1 to 3 of ResNet-50 v2 (pre-activation, arXiv 1603.05027): a trunk to coach with.

Letters: b batch, h w pixels, e channels.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

STEM_CHANNELS = 64
STAGES = ((256, 3), (512, 4), (1024, 6))  # channels and blocks


class PreActivationBlock(nn.Module):
    """A bottleneck with normalisation and ReLU in front of each convolution."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        narrow = channels // 4
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, narrow, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(narrow)
        self.conv2 = nn.Conv2d(narrow, narrow, 3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(narrow)
        self.conv3 = nn.Conv2d(narrow, channels, 1, bias=False)
        self.downsample: nn.Module | None = None
        if channels_in != channels:
            self.downsample = nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map features (b, e, h, w) to (b, e', h/stride, w/stride)."""
        active = F.relu(self.bn1(x))
        skip = x if self.downsample is None else self.downsample(active)  # (b, e', h/stride, w/stride)
        y = self.conv1(active)  # (b, e'/4, h, w)
        y = self.conv2(F.relu(self.bn2(y)))  # (b, e'/4, h/stride, w/stride)
        return skip + self.conv3(F.relu(self.bn3(y)))  # type: ignore[no-any-return]  # (b, e', h/stride, w/stride)


class ResNet50V2Stages(nn.Module):
    """The network from images, normalised by ImageNet's mean and std, to four maps."""

    def __init__(self) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(3)
        self.conv0 = nn.Conv2d(3, STEM_CHANNELS, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM_CHANNELS)
        self.stages = nn.ModuleList()
        channels_in = STEM_CHANNELS
        for number, (channels, count) in enumerate(STAGES):
            first = PreActivationBlock(channels_in, channels, stride=2 if number else 1)
            rest = [PreActivationBlock(channels, channels, stride=1) for _ in range(count - 1)]
            self.stages.append(nn.Sequential(first, *rest))
            channels_in = channels

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the maps of an image (b, 3, h, w).

        They are (b, 64, h/2, w/2), (b, 256, h/4, w/4), (b, 512, h/8, w/8) and (b, 1024, h/16, w/16).
        """
        x = F.relu(self.bn1(self.conv0(self.bn0(x))))  # (b, 64, h/2, w/2)
        maps = [x]
        x = F.max_pool2d(x, 3, stride=2, padding=1)  # (b, 64, h/4, w/4)
        for stage in self.stages:
            x = stage(x)  # (b, e, h/4, w/4), then h/8 and h/16
            maps.append(x)
        return maps
