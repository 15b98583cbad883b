"""Tiles through OpenVINO in PyTorch's place, on CPUs: the same networks, in less time.

PyTorch records what lite does with one tile; OpenVINO makes of that a network for tiles of any size, and compiles it
for this processor. That takes some seconds, so that what comes of it can be kept (`CompiledCache`).
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import sys
import threading
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from ..compute.surroundings import own_start
from ..errors import DeviceError, UsageError
from ..networks import autoencoder, dit
from ..packages import install_command
from . import base, int8, lite
from .int8 import Ranges, in_whole_numbers
from .lite import LitePipeline

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

# The precisions by the types that stand for them, and what OpenVINO calls these.
HINTS = {torch.float32: "f32", torch.bfloat16: "bf16"}
TELEMETRY = "openvino_telemetry"


class CompiledCache(Protocol):
    """A place where compiled networks are kept, by a key that holds all that made them."""

    def read(self, key: str) -> bytes | None:
        """Return what was kept under a key, None where there is nothing that is whole."""

    def write(self, key: str, data: bytes) -> None:
        """Keep data under a key, if it can be."""


class OpenVinoTiles:
    """The networks of lite that see tiles, compiled by OpenVINO: a `TileBackend`.

    Several threads may use it. What it computes does not depend on their number. Processors that do not multiply
    bfloat16 take float32 for it. A copy, or one that was sent to another process, compiles anew.
    """

    def __init__(
        self,
        pipeline: LitePipeline,
        threads: int,
        workers: int = 1,
        cache: CompiledCache | None = None,
        ranges: Ranges | None = None,
    ) -> None:
        """Load OpenVINO; `compile` does the rest, at the latest with the first tile.

        pipeline: on the CPU, with parameters in float32 that do not change from now on. threads: of all tiles that
        are computed at a time; workers: how many those are. ranges: of the layers that are computed in whole
        numbers, whatever the precision of the others (`int8.measure_ranges`); None: all in floats. Raises DeviceError
        where OpenVINO is not there or does not work, UsageError for a pipeline on another device or of another
        precision.
        """
        if pipeline.device.type != "cpu" or any(p.dtype != torch.float32 for p in pipeline.parameters()):
            raise UsageError("OpenVINO: takes a pipeline on the CPU with parameters in float32")
        self._begin(pipeline, threads, workers, cache, ranges)

    def _begin(
        self,
        pipeline: LitePipeline,
        threads: int,
        workers: int,
        cache: CompiledCache | None,
        ranges: Ranges | None,
    ) -> None:
        self.pipeline, self.threads, self.workers, self.cache = pipeline, threads, workers, cache
        self.ranges = ranges
        self._core = load_core()
        self._networks: dict[tuple[torch.dtype, int], Any] = {}
        self._compiling = threading.Lock()
        self._of_thread = threading.local()

    def __getstate__(self) -> tuple[Any, ...]:
        """Return what a copy needs; compiled networks stay here."""
        return self.pipeline, self.threads, self.workers, self.cache, self.ranges

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Become what `__getstate__` gave."""
        self._begin(*state)

    def restore(self, lq_up: Tensor, cond: Tensor, steps: int = 1) -> Tensor:
        """Restore tiles (b, 3, H, W) in [0, 1] as the pipeline's own `restore` does; returns float32.

        As there, the precision is autocast's: float32 where there is none. Raises UsageError for float16, which
        OpenVINO does not compute in on CPUs, MemoryError where there is too little memory.
        """
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
        request = self._request(dtype, steps)
        tiles = lq_up.float().contiguous()  # (b, 3, H, W)
        conds = cond.float().expand(len(tiles), -1, -1).contiguous()  # (b, m, d)
        restored = [self._restored(request, *pair) for pair in zip(tiles, conds, strict=True)]
        return restored[0] if len(restored) == 1 else torch.cat(restored)

    @staticmethod
    def _restored(request: Any, tile: Tensor, cond: Tensor) -> Tensor:
        """One tile (3, H, W), restored, (1, 3, H, W). Raises MemoryError where there is too little memory."""
        try:
            (result,) = request.infer([tile[None].numpy(), cond[None].numpy()], share_inputs=True).values()
        except RuntimeError as error:
            if "alloc" in str(error):
                raise MemoryError(str(error)) from error
            raise
        # Where memory does not suffice, OpenVINO may return an empty array.
        if result.shape[1:] != tile.shape:
            raise MemoryError("OpenVINO found no memory for a tile")
        return torch.from_numpy(result)

    def _request(self, dtype: torch.dtype, steps: int) -> Any:
        """The calling thread's own request of a network: one takes no two tiles at a time."""
        requests = self._of_thread.__dict__.setdefault("requests", {})
        if (dtype, steps) not in requests:
            requests[dtype, steps] = self.compile(dtype, steps).create_infer_request()
        return requests[dtype, steps]

    def compile(self, dtype: torch.dtype, steps: int = 1) -> Any:
        """Compile for a precision, or take what was kept; returns OpenVINO's CompiledModel.

        Raises UsageError for a precision that OpenVINO has not got, DeviceError where it does not work.
        """
        if dtype not in HINTS:
            raise UsageError(f"OpenVINO: computes in fp32 and bf16, not in {dtype}")
        with self._compiling:
            if (dtype, steps) not in self._networks:
                try:
                    self._networks[dtype, steps] = self._compiled(dtype, steps)
                except RuntimeError as error:
                    reason = (str(error).strip().splitlines() or ["no reason given"])[-1]
                    raise DeviceError(f"OpenVINO cannot compile lite here: {reason}") from error
            return self._networks[dtype, steps]

    def _compiled(self, dtype: torch.dtype, steps: int) -> Any:
        settings = settings_of(dtype, self.threads, self.workers)
        key = "" if self.cache is None else self._key(dtype, steps)
        kept = None if self.cache is None else self.cache.read(key)
        if kept is not None:
            try:
                return self._core.import_model(kept, "CPU", settings)
            except RuntimeError as error:
                log.debug("OpenVINO does not take what it has made: %s", error)
        log.info("lite is compiled for this processor by OpenVINO, which is done once")
        pipeline = self.pipeline
        if self.ranges is not None:
            with own_start(pipeline.device):
                pipeline = in_whole_numbers(pipeline, self.ranges)
        network = self._core.compile_model(converted(pipeline, steps), "CPU", settings)
        if self.cache is not None:
            self.cache.write(key, network.export_model().getvalue())
        return network

    def _key(self, dtype: torch.dtype, steps: int) -> str:
        """The hash of all that makes a compiled network: weights, code, versions, processor, precision."""
        processor = [
            self._core.get_property("CPU", name) for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")
        ]
        versions = [importlib.import_module("openvino").__version__, torch.__version__]
        made_of = [processor, versions, dtype, steps, self.pipeline.config, self.ranges]
        digest = hashlib.sha256(repr(made_of).encode())
        for module in (autoencoder, dit, base, int8, lite, sys.modules[__name__]):
            digest.update(Path(str(module.__file__)).read_bytes())
        for network in self.pipeline.tile_networks:
            for name, tensor in network.state_dict().items():
                digest.update(name.encode())
                digest.update(tensor.contiguous().numpy())
        return digest.hexdigest()


def settings_of(dtype: torch.dtype, threads: int, workers: int = 1) -> dict[str, Any]:
    """OpenVINO's settings of a compiled network."""
    return {
        "INFERENCE_PRECISION_HINT": HINTS[dtype],
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": workers,
        # Else two processes are tied to the same cores.
        "ENABLE_CPU_PINNING": False,
    }


def load_core() -> Any:
    """Import OpenVINO and return its Core. Raises DeviceError where it is not there or does not work.

    Its telemetry, which is sent without asking, is kept off.
    """
    try:
        with without_telemetry():
            openvino = importlib.import_module("openvino")
            # The first call makes OpenVINO's table of types. Two threads that make that call at once, as workers do
            # with their first tiles, wait for each other for ever.
            openvino.Type.f32.to_dtype()
            return openvino.Core()
    except ModuleNotFoundError as error:
        raise DeviceError(f"OpenVINO is not installed: {install_command('strsr[openvino]')}") from error
    except (ImportError, OSError, RuntimeError) as error:
        raise DeviceError(f"OpenVINO does not work here: {error}") from error


@contextmanager
def without_telemetry() -> Iterator[None]:
    """A context in which the package openvino_telemetry cannot be imported; openvino does without it then."""
    absent = object()
    before: Any = sys.modules.get(TELEMETRY, absent)
    sys.modules[TELEMETRY] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if before is absent:
            del sys.modules[TELEMETRY]
        else:
            sys.modules[TELEMETRY] = before


class _Tile(nn.Module):
    """What PyTorch records: the way of one tile, with its number of steps."""

    def __init__(self, pipeline: LitePipeline, steps: int) -> None:
        super().__init__()
        self.pipeline, self.steps = pipeline, steps

    def forward(self, lq_up: Tensor, cond: Tensor) -> Tensor:
        return self.pipeline.restore(lq_up, cond, self.steps)


def converted(pipeline: LitePipeline, steps: int = 1) -> Any:
    """Return lite's way of one tile as OpenVINO's Model: (1, 3, H, W) and tokens (1, m, d) to (1, 3, H, W).

    H and W are any multiples of the pipeline's `multiple_of`.
    """
    tokens = (1, pipeline.config.semantic.grid**2, pipeline.token_width)
    # A tile of the smallest side also goes through the padding that larger ones may need.
    side = pipeline.multiple_of
    with own_start(pipeline.device):
        example = torch.zeros(1, 3, side, 2 * side), torch.zeros(tokens)
        return recorded(_Tile(pipeline, steps).eval(), example, [[1, 3, -1, -1], list(tokens)])


def recorded(network: nn.Module, example: tuple[Tensor, ...], shapes: list[list[int]]) -> Any:
    """Return a network as OpenVINO's Model, for inputs of some shapes, in which -1 is any size.

    It is recorded on an example by torch.jit.trace: torch.export takes five times as long.
    """
    with without_telemetry(), torch.no_grad(), warnings.catch_warnings():
        openvino = importlib.import_module("openvino")
        # That recording is deprecated, and that sizes are followed only where they become tensors.
        warnings.simplefilter("ignore")
        trace: Any = torch.jit.trace
        traced = trace(network, example, check_trace=False)
        return openvino.convert_model(traced, input=[openvino.PartialShape(shape) for shape in shapes])
