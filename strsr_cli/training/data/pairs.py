"""Pairs made once: photos, their degraded versions and what the teachers make of them, as bytes on a disk.

    FOLDER/pairs.json   what they were made from, and how many are done
    FOLDER/hq.npy       (n, 3, s, s) uint8: photos. lq_up.npy: the same, degraded and enlarged by bicubic.
                        teacher.npy: what the teachers make of the degraded ones. picture.npy (n, 3, 128, 128):
                        pictures for the semantic encoder. kind.npy (n,): index into KINDS, or DROPPED

A large teacher takes a hundred times as long as a step of its student. With its outputs on the disk, a
student draws windows of them in all places and turns (`PairWindows`), and never waits. Teachers see whole pairs,
larger than the windows: cut to less context they restore worse.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
from filelock import Timeout
from torch import Tensor

from strsr_models.config import as_tuple
from strsr_models.errors import StrsrError, UsageError

from ...system.atomic import free_space, is_unfinished, sweep, whole_file, writing
from ...system.refusals import UNKNOWN, bring_to_disk, exclusive
from .crops import PICTURE_SIZE, Batch, Crops, batches
from .degrade import KINDS
from .photos import STORED, Photos, colors_of, data_hash
from .seeds import generator_for
from .teachers import Teachers, teacher_files, teacher_hashes

if TYPE_CHECKING:
    from ...system.console import Tell
    from ..settings import DistillConfig


FORMAT = 2
GROUP = 32  # pairs that are made together and share scale and sizes
DROPPED = 255  # in kind.npy: a teacher's output was not finite
IMAGES = ("hq", "lq_up", "teacher", "picture")
ON_DEVICE = 0.5  # part of a GPU's free memory that pairs may take
NOTE_EVERY = 25  # groups


def make_pairs(
    config: DistillConfig,
    photos: Photos,
    count: int,
    device: torch.device,
    precision: str,
    report: Tell,
    group: int = GROUP,
    note_every: int = NOTE_EVERY,
) -> Path:
    """Make, or go on making, at least `count` pairs in `config.pairs`; returns the folder.

    Raises UsageError for a folder of other pairs or other things, WeightsError for teachers that cannot be used,
    StrsrError when the disk is full; pairs that are whole stay and are gone on from.

    group: pairs that are made together and share scale and sizes; it decides their bytes.
    note_every: groups between two notes in pairs.json.
    """
    folder = pairs_folder(config)
    groups = -(-count // group)
    made_from = origin(config, photos)
    teachers = Teachers(config.teacher, device, precision)
    with locked(folder):
        state = begin(folder, made_from, groups * group)
        done = state["done"] // group
        size = groups * group * sum(_bytes(name, config.pair_size) for name in (*IMAGES, "kind"))
        report(f"{folder}: {groups * group} pairs of {config.pair_size} px, {size / 1e9:.1f} GB in all")
        _check_room(folder, size * (groups - done) // groups)
        crops = Crops(photos, config.pair_size, config.seed, config.graphics_share)
        loader = batches(
            crops,
            config.degrade,
            device,
            start=done,
            stop=groups,
            batch_size=group,
            workers=config.workers,
            teachers=teachers,
        )
        advice = "the pairs made so far stay; the same command goes on"
        with writing(folder, advice), _files(folder, config.pair_size, groups * group, done * group) as files:
            _write_state(folder, state)
            for number, batch in enumerate(loader, done + 1):
                _append(files, batch)
                state["done"] = number * group
                state["dropped"] += len(batch.dropped)
                if number % note_every == 0 or number == groups:
                    for file in files.values():
                        file.flush()
                        bring_to_disk(file.fileno(), folder)
                    _write_state(folder, state)
                    report(f"{number * group} of {groups * group} pairs, {state['dropped']} dropped")
    if state["dropped"] == state["done"]:
        raise StrsrError(f"{folder}: no output of the teachers was finite")
    return folder


def are_made(config: DistillConfig, photos: Photos, count: int, group: int = GROUP) -> bool:
    """Whether these very pairs lie in `config.pairs`, whole."""
    try:
        state = read_state(pairs_folder(config))
    except UsageError:
        return False
    if state["made_from"] != origin(config, photos):
        return False
    wanted = -(-count // group) * group
    return bool(state["done"] == state["count"] == wanted)


def origin(config: DistillConfig, photos: Photos) -> dict[str, Any]:
    """The facts that decide each byte of the pairs, as JSON has them."""
    own = {"seed": config.seed, "graphics_share": config.graphics_share}
    return {"data": data_hash(photos), **own, **settings(config), **colors_of(photos)}


def pairs_folder(config: DistillConfig) -> Path:
    """The folder that pairs are made in. Raises UsageError where the setting names several."""
    names = as_tuple(config.pairs)
    if len(names) != 1 or not names[0]:
        raise UsageError(f"pairs {config.pairs!r}: name one folder to make them in")
    return Path(names[0])


def settings(config: DistillConfig, teachers: bool = True) -> dict[str, Any]:
    """All settings that decide what pairs of any seed are like, as JSON has them.

    teachers: whether the teachers' files, which are read for their hashes, are among them.
    """
    decisive: dict[str, Any] = {
        "format": FORMAT,
        "size": config.pair_size,
        "degrade": asdict(config.degrade),
    }
    if teachers:
        decisive["teacher"] = teacher_hashes(config.teacher)
    return dict(json.loads(json.dumps(decisive)))


def begin(folder: Path, made_from: dict[str, Any], count: int) -> dict[str, Any]:
    """The state of pairs to go on with, or that of new ones. Raises UsageError for other pairs."""
    fresh = {"made_from": made_from, "count": count, "done": 0, "dropped": 0}
    if not (folder / "pairs.json").exists():
        if any(path.name != "lock" and not is_unfinished(path.name) for path in folder.iterdir()):
            raise UsageError(f"pairs {folder}: is neither empty nor a folder of pairs; choose another")
        return fresh
    state = read_state(folder)
    check_same(folder, state["made_from"], made_from)
    if state["count"] != count:
        raise UsageError(f"pairs {folder}: was begun for {state['count']} pairs, not {count}")
    return state


def read_state(folder: Path) -> dict[str, Any]:
    """Read pairs.json. Raises UsageError for a folder without it, or where it is damaged."""
    try:
        state = json.loads((folder / "pairs.json").read_text())
        missing = {"made_from", "count", "done", "dropped"} - state.keys()
    except OSError as error:
        raise UsageError(
            f"pairs {folder}: no pairs there ({error.strerror}); make them by strsr distill --make-pairs N"
        ) from error
    except (ValueError, AttributeError) as error:
        raise UsageError(f"pairs {folder}: pairs.json is damaged ({error})") from error
    if missing:
        raise UsageError(f"pairs {folder}: pairs.json lacks {', '.join(sorted(missing))}")
    counts = [state[name] for name in ("count", "done", "dropped")]
    if not isinstance(state["made_from"], dict) or not all(type(count) is int for count in counts):
        raise UsageError(f"pairs {folder}: pairs.json is damaged (a value of another type)")
    return dict(state)


def check_same(folder: Path, made_from: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise UsageError, naming what differs, for pairs that were made otherwise than is wanted."""
    changed = sorted(key for key, value in wanted.items() if made_from.get(key) != value)
    if made_from.get("colors", STORED) != wanted.get("colors", STORED):
        raise UsageError(
            f"pairs {folder}: were made with photo_colors={made_from.get('colors', STORED)}, and some photos have "
            "profiles; set the same, or make other pairs"
        )
    if changed:
        words = {"data": "other photos", "format": "another version of strsr", "teacher": "other teachers"}
        what = ", ".join(words.get(key, f"another {key}") for key in changed)
        raise UsageError(f"pairs {folder}: were made with {what}; give the same, or another folder")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other commands out of a folder of pairs, which is made where it is missing."""
    with writing(folder, ""):
        folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(exclusive(folder / "lock", timeout=0))
        except Timeout as error:
            raise StrsrError(f"another process makes pairs in {folder}; wait for it") from error
        sweep([folder])
        yield


def _shape(name: str, side: int) -> tuple[int, ...]:
    """The shape of one row of an array."""
    if name == "kind":
        return ()
    side = PICTURE_SIZE if name == "picture" else side
    return 3, side, side


def _bytes(name: str, side: int) -> int:
    """The size of one row of an array in bytes."""
    return int(np.prod(_shape(name, side), dtype=np.int64))


def _check_room(folder: Path, size: int) -> None:
    """Raise StrsrError where the disk has less than `size` bytes free."""
    free = free_space(folder)
    if free is not None and size > free:
        raise StrsrError(f"{folder}: needs {size / 1e9:.1f} GB, and the disk has {free / 1e9:.1f} GB free")


@contextlib.contextmanager
def _files(folder: Path, side: int, count: int, done: int) -> Iterator[dict[str, BinaryIO]]:
    """The arrays' files, open behind row `done`.

    They are written, not mapped: on a full disk, a mapped file would kill the process.
    """
    with contextlib.ExitStack() as stack:
        files: dict[str, BinaryIO] = {}
        for name in (*IMAGES, "kind"):
            path = folder / f"{name}.npy"
            file = stack.enter_context(open(path, "r+b" if done else "wb"))
            header = {"descr": "|u1", "fortran_order": False, "shape": (count, *_shape(name, side))}
            np.lib.format.write_array_header_1_0(file, header)
            end = file.tell() + done * _bytes(name, side)
            if file.seek(0, os.SEEK_END) < end:
                raise UsageError(f"pairs {path}: is shorter than pairs.json says; make them again elsewhere")
            file.truncate(file.seek(end))
            files[name] = file
        yield files


def _append(files: dict[str, BinaryIO], batch: Batch) -> None:
    """Write the rows of a batch behind those that are there."""
    assert batch.teacher is not None
    for name in IMAGES:
        pixels = getattr(batch, name).clamp(0, 1).mul(255).round().byte()
        files[name].write(pixels.cpu().numpy().tobytes())
    kinds = [KINDS.index(kind) for kind in batch.kinds]
    for row in batch.dropped:
        kinds[row] = DROPPED
    files["kind"].write(bytes(kinds))


def _write_state(folder: Path, state: dict[str, Any]) -> None:
    """Write pairs.json, whole."""
    with whole_file(folder / "pairs.json") as file:
        file.write((json.dumps(state, indent=2) + "\n").encode())


class PairWindows:
    """Windows of pairs that were made before, as batches to train on."""

    def __init__(self, config: DistillConfig, photos: Photos, multiple_of: int, device: torch.device) -> None:
        """multiple_of: px that windows' sides are multiples of. On a GPU the pairs move into its memory where that has room.

        Raises UsageError for pairs that are not whole, of other photos, or made with other settings.
        """
        # Where the teachers' files are gone, what they taught is still here.
        files = itertools.chain.from_iterable(teacher_files(config.teacher).values())
        comparable = all(path.exists() for path in files)
        wanted = {
            "data": data_hash(photos),
            **settings(config, teachers=comparable),
            **colors_of(photos),
        }
        self.config, self.device, self.multiple_of = config, device, multiple_of
        self._parts = [Part(Path(name), wanted, device, photos.old_hash) for name in as_tuple(config.pairs)]
        # The upper 32 bits number the part, the lower ones the row in it.
        self.usable = torch.cat([part.usable + 2**32 * number for number, part in enumerate(self._parts)])

    def __len__(self) -> int:
        """The number of pairs that there are to draw from."""
        return len(self.usable)

    def draw(self, step: int, rank: int = 0, world: int = 1) -> tuple[Batch, list[int]]:
        """Draw one process's part of the batch of a step, and its samples' numbers: a function of seed and step.

        The side of the windows is drawn for each step; of larger ones there are fewer, so that steps cost alike.
        """
        config, rng = self.config, generator_for("pairs", self.config.seed, step)
        most = max(config.crop_size, config.largest_crop)
        sides = range(config.crop_size, most + 1, self.multiple_of)
        side = sides[int(torch.randint(len(sides), (), generator=rng))]
        parts = world * config.accumulate
        count = max(1, round(config.batch_size * (config.crop_size / side) ** 2 / parts)) * parts
        rows = self.usable[torch.randint(len(self.usable), (count,), generator=rng)]
        # An enlargement by 4 has a phase at every fourth pixel, and networks always see it at the same one.
        places = 4 * torch.randint((config.pair_size - side) // 4 + 1, (2, count), generator=rng)
        turns = torch.rand(3, count, generator=rng) < 0.5
        part = slice(rank * count // world, (rank + 1) * count // world)
        numbers = list(range(step * config.batch_size + part.start, step * config.batch_size + part.stop))
        rows, places, turns = rows[part], places[:, part].to(self.device), turns[:, part].to(self.device)
        window = _window(side, places, turns)
        hq, lq_up, teacher = (_cut(self._rows(name, rows), *window) for name in ("hq", "lq_up", "teacher"))
        whole = _window(PICTURE_SIZE, torch.zeros_like(places), turns)
        picture = _cut(self._rows("picture", rows), *whole)
        return Batch(hq, lq_up, picture, teacher), numbers

    def _rows(self, name: str, rows: Tensor) -> Tensor:
        """The rows of one of IMAGES, numbered (b,) as in `usable`, on the device."""
        numbers, rows = rows >> 32, rows & (2**32 - 1)
        images: Tensor | None = None
        for number, part in enumerate(self._parts):
            places = (numbers == number).nonzero()[:, 0]
            own = part.rows(name, rows[places]).to(self.device)
            if len(places) == len(rows):
                return own
            if images is None:
                images = own.new_empty((len(rows), *own.shape[1:]))
            images[places.to(self.device)] = own
        assert images is not None
        return images


class Part:
    """The pairs of one folder."""

    def __init__(self, folder: Path, wanted: dict[str, Any], device: torch.device, old_hash: str) -> None:
        """wanted: what the pairs must have been made from. old_hash: their data's in earlier versions, see `load_photos`.

        Raises the UsageErrors of `PairWindows`.
        """
        state = read_state(folder)
        if old_hash and state["made_from"].get("data") == old_hash:
            wanted = {**wanted, "data": old_hash}
        check_same(folder, state["made_from"], wanted)
        if state["done"] < state["count"]:
            raise UsageError(
                f"pairs {folder}: {state['done']} of {state['count']} are made; run --make-pairs again"
            )
        arrays = {name: _read(folder / f"{name}.npy", state["count"]) for name in (*IMAGES, "kind")}
        self.usable = (arrays.pop("kind") != DROPPED).nonzero()[:, 0]
        if device.type == "cuda":
            size = sum(array.numel() for array in arrays.values())
            if size <= ON_DEVICE * torch.cuda.mem_get_info(device)[0]:
                arrays = {name: array.to(device) for name, array in arrays.items()}
        self._arrays = arrays

    def rows(self, name: str, rows: Tensor) -> Tensor:
        """The rows of one of IMAGES, numbered (b,), on the device where they lie."""
        return self._arrays[name][rows.to(self._arrays[name].device)]


def _window(side: int, places: Tensor, turns: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns (b, s, s) of windows at `places` (2, b), flipped and turned by `turns` (3, b) of truths."""
    along = torch.arange(side, device=places.device)
    flipped = [torch.where(turn[:, None], along.flip(0), along) for turn in turns[:2]]  # each (b, s)
    rows, columns = (place[:, None] + axis for place, axis in zip(places, flipped, strict=True))
    rows, columns = rows[:, :, None].expand(-1, -1, side), columns[:, None].expand(-1, side, -1)
    swap = turns[2][:, None, None]
    return torch.where(swap, rows.mT, rows), torch.where(swap, columns.mT, columns)


def _cut(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pixels of (b, 3, h, w) uint8 at rows and columns (b, s, s), as float (b, 3, s, s) in [0, 1]."""
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    return images[batch, :, rows, columns].permute(0, 3, 1, 2).float().div(255).contiguous()


def _read(path: Path, count: int) -> Tensor:
    """Map an array of `count` rows: it is copied into memory page by page as it is read, and never written."""
    try:
        try:
            array = np.load(path, mmap_mode="c")
        except OSError as error:
            if error.errno not in UNKNOWN | {errno.ENODEV}:
                raise
            # The disk knows no maps: the array is read whole.
            array = np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"pairs {path}: cannot be read ({error}); make them again") from error
    if len(array) != count or array.dtype != np.uint8:
        raise UsageError(f"pairs {path}: is not what pairs.json says; make them again")
    return torch.from_numpy(array)
