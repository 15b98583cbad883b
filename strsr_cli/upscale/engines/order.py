"""What a worker has to know of a batch, and whether its node is fit for it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from strsr_models.errors import DeviceError, StrsrError

from ... import __version__
from ...batch.job import Job, Source
from ...batch.locks import FOLDER
from ...batch.remote.state import RemoteState
from ...batch.report import Reporter
from ...batch.state import BatchState
from ...images.places import Place, RemoteFile
from ...system.paths import exists
from ..options import UpscaleOptions, settings_hash
from .ray_cluster import Share

# The variables by which libraries of stores find credentials, which are of no use but together.
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE")
# How the names of the others begin that say where a store is, and who asks.
STORES = (
    "AWS_CA_BUNDLE",
    "AWS_CONFIG_FILE",
    "AWS_DEFAULT_REGION",
    "AWS_EC2_METADATA_DISABLED",
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
    "AWS_REQUEST_",
    "AWS_RESPONSE_",
    "AWS_SHARED_CREDENTIALS_FILE",
    "FSSPEC_",
    "GOOGLE_",
    "HF_ENDPOINT",
    "HF_TOKEN",
    "STORAGE_EMULATOR_HOST",
)
SAMPLES = 8  # inputs that are asked for, until one is there


@dataclass(frozen=True)
class Order:
    """What a worker has to know of a batch; paths are the driver's."""

    options: UpscaleOptions
    root: Path | None  # OUTPUT, where it is a folder
    place: Place | None  # OUTPUT, where it is a URL
    sample: Source | None  # one of the inputs, which the driver can reach
    session: str  # the driver's, which claims the images; "" where nothing can be claimed
    weights: str  # hash
    cpus: int  # of a worker; 0: less than one, for a part of a GPU
    gpus: float  # of a worker; 0: it computes on the CPU
    overwrite: bool = False
    remember: bool = True  # whether there is a journal
    quiet: bool = False
    verbose: bool = False
    relative: bool = True  # whether any path counts from `folder`
    folder: str = "."  # in which the command was started
    models_dir: str | None = None  # STRSR_MODELS_DIR there
    # Those of its variables that stores are reached by; they are secrets.
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    version: str = __version__


def make_order(
    jobs: list[Job], options: UpscaleOptions, reporter: Reporter, state: BatchState, share: Share
) -> Order:
    """Return what workers have to know of a batch."""
    sources = [job.source for job in jobs if isinstance(job.source, Path)]
    targets = [job.target for job in jobs if isinstance(job.target, Path)]
    given = [state.root, options.weights, *sources, *targets]
    if options.big is not None:
        given += [options.big.models_dir, options.big.prompt_from]
    ends = [end for job in jobs for end in (job.source, job.target)]
    is_remote = any(isinstance(end, RemoteFile) for end in ends)
    return Order(
        options=options,
        root=state.root,
        place=state.place if isinstance(state, RemoteState) else None,
        sample=_sample(job.source for job in jobs),
        session=state.session,
        weights=state.weights,
        cpus=share.cpus,
        gpus=share.gpus,
        overwrite=state.overwrite,
        remember=state.remember,
        quiet=reporter.quiet,
        verbose=reporter.verbose,
        relative=not all(path.is_absolute() for path in given if path is not None),
        folder=str(Path.cwd()),
        models_dir=os.environ.get("STRSR_MODELS_DIR"),
        variables=store_variables(os.environ) if is_remote else {},
    )


def store_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return those variables by which a process reaches stores; credentials that are not set are empty, if any is set."""
    chosen = {name: value for name, value in environment.items() if name.startswith(STORES)}
    if any(environment.get(name) for name in CREDENTIALS):
        # A node's own token would not go with another one's key.
        chosen |= {name: environment.get(name, "") for name in CREDENTIALS}
    return chosen


def _sample(sources: Iterable[Source | None]) -> Source | None:
    """Return an input that can be reached from here, among the first ones; None where there is none."""
    return next((source for source in islice(sources, SAMPLES) if source and _is_there(source)), None)


def _is_there(source: Source) -> bool:
    """Whether an input is there, for this process."""
    try:
        return exists(source) if isinstance(source, Path) else source.place.look(source.key) is not None
    except StrsrError:
        return False


def worker_state(order: Order, **settings: Any) -> BatchState:
    """Return the state of a worker's images, under the driver's claims. settings: of BatchState. Raises StrsrError."""
    own = dict(
        settings=lambda job: settings_hash(order.options, job),
        weights=order.weights,
        overwrite=order.overwrite,
        remember=order.remember,
        driver=order.session,
        **settings,
    )
    return BatchState(order.root, **own) if order.place is None else RemoteState(place=order.place, **own)


def check_node(order: Order) -> None:
    """Raise DeviceError where this node has another strsr, or other inputs and outputs, than the driver."""
    if order.version != __version__:
        raise DeviceError(
            f"strsr {__version__} is installed, and {order.version} where the command runs; install the same"
        )
    if order.models_dir is not None:
        os.environ["STRSR_MODELS_DIR"] = order.models_dir
    take_over(order.variables)
    try:
        os.chdir(order.folder)
    except OSError as error:
        if order.relative:
            raise DeviceError(
                f"{order.folder}: is not there; give absolute paths, or start the command in a shared folder"
            ) from error
    # While the driver lives its session is a file in OUTPUT, and in no folder that is only called like it.
    if order.place is not None:
        _check_object(Place(f"{order.place}/{FOLDER}"), order.session)
    elif order.root is not None:
        _check_file(order.root / FOLDER / order.session if order.session else order.root, order.root)
    if isinstance(order.sample, RemoteFile):
        _check_object(order.sample.place, order.sample.key)
    elif order.sample is not None:
        _check_file(order.sample, order.sample)


def take_over(variables: Mapping[str, str]) -> None:
    """Reach stores as the driver does, by its variables."""
    for name, value in variables.items():
        if value:
            os.environ[name] = value
        else:
            os.environ.pop(name, None)
    if any(name.startswith("FSSPEC_") for name in variables):
        from fsspec.config import conf, set_conf_env

        # It may have been imported already, and reads them when it is.
        set_conf_env(conf)


def _check_file(path: Path, shared: Path) -> None:
    if not exists(path):
        raise DeviceError(
            f"{shared}: is not what it is where the command runs; all nodes must share INPUT and OUTPUT at "
            "the same paths"
        )


def _check_object(place: Place, key: str) -> None:
    try:
        if place.look(key) is not None:
            return
        reason = f"{place}/{key}: no such object"
    except StrsrError as error:
        # The place says so, or a package is missing.
        reason = str(error)
    raise DeviceError(f"{reason}; where the command runs it is there")
