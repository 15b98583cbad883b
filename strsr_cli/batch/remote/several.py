"""The door to all plans: one INPUT or several, each of them a file, a folder or a URL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath

from strsr_models.errors import ImageError, UsageError

from ...images.places import Place, RemoteFile, place_of
from ...system.paths import is_folder, is_url
from ..job import STREAM, Source
from ..plan import Plan, check_arguments
from ..several import (
    Brought,
    Collection,
    check_folder,
    in_order,
    plan_beside,
    split_arguments,
    without_output,
)
from ..targets import Arriving
from .plan import check_local_name, check_writable, find_objects, output_place, plan_any, single_object


def plan_inputs(
    arguments: list[str],
    kind: str,
    names: list[str] | None = None,
    add: str | None = None,
    frames: bool = False,
    keep_times: bool = False,
    arriving: Arriving | None = None,
) -> Plan:
    """Return the plan for a command's arguments: INPUTs, and OUTPUT behind them. See `make_plan`. Raises UsageError."""
    given, target = split_arguments(arguments, add)
    if not given:
        raise UsageError("INPUT and OUTPUT are missing: strsr upscale photo.jpg large.jpg")
    sources, outputs = without_output(given, target)
    if len(sources) == 1:
        plan = plan_any(sources[0], target, kind, names, add, frames, keep_times, arriving)
    else:
        plan = plan_several(sources, target, kind, names, add, frames, keep_times, arriving)
    if outputs:
        plan.passed_over["output"] += outputs
    return replace(plan, many=len(sources) > 1 or is_folder(Path(sources[0])))


def plan_several(
    sources: list[str],
    target: str | None,
    kind: str,
    names: list[str] | None = None,
    add: str | None = None,
    frames: bool = False,
    keep_times: bool = False,
    arriving: Arriving | None = None,
) -> Plan:
    """Return the plan for several INPUTs. Raises UsageError."""
    check_arguments(sources, target, kind, add)
    if STREAM in sources:
        raise UsageError("INPUT -: standard input is one image; give it as the only INPUT")
    if names is not None:
        raise UsageError("--files-from: names in a list are relative to INPUT; give one folder as INPUT")
    urls = [text for text in (*sources, target) if is_url(text)]
    if add is not None:
        if urls:
            raise UsageError(f"--in-place-suffix: not for URLs such as {urls[0]}; drop the option")
        return plan_beside(sources, target, kind, add, frames)
    if urls and keep_times:
        raise UsageError(f"--keep-times: not for URLs such as {urls[0]}; drop the option")
    try:
        return _plan_together(sources, str(target), kind, frames, arriving)
    except ImageError as error:
        raise UsageError(str(error)) from error


def _plan_together(
    sources: list[str], target: str, kind: str, frames: bool, arriving: Arriving | None
) -> Plan:
    """Return the plan for several INPUTs that go into one OUTPUT. Raises ImageError, UsageError."""
    place, root = None, None
    if is_url(target):
        check_writable(target)
        place = output_place(target)
    else:
        root = check_folder(target)
    collection = Collection(kind, arriving=arriving)
    for source in in_order([source for source in sources if not is_url(source)]):
        collection.add_files(source, root)
    for url in sorted(filter(is_url, sources)):
        _add_remote(collection, url, place, frames)
    if arriving is None:
        collection.require_images(sources)
    plan = collection.plan(_aim(root, place), frames)
    return replace(plan, root=root, place=place)


def _aim(root: Path | None, place: Place | None) -> Callable[[PurePosixPath], Source]:
    """Return what makes a target of its name below OUTPUT."""
    if root is not None:
        return lambda name: root / name
    assert place is not None
    return lambda name: RemoteFile(place, name.as_posix())


def _add_remote(collection: Collection, url: str, output: Place | None, frames: bool) -> None:
    """Add an object, or all below a place. Raises ImageError, UsageError."""
    if frames:
        raise UsageError(f"{url}: --frames all needs local files, whose frames can be counted first")
    place, is_prefix = place_of(url)
    single = None if is_prefix else single_object(url, place)
    above, _, own = place.url.rpartition("/")
    if single is not None:
        check_local_name(single)
        brought = Brought(url, PurePosixPath(single.name), above, is_tree=False)
        collection.take(brought, single, brought.name, (str(single), ""))
    else:
        brought = Brought(url, PurePosixPath(own), above, is_tree=True)
        objects = find_objects(place, output)
        for file in objects.images:
            collection.take(brought, file, brought.name / file.relative, (str(file), ""))
        brought.failed += objects.failed
        collection.passed_over.update(objects.passed_over)
        collection.hints += objects.hints
    collection.finish(brought)
