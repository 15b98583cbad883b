"""The plan of a batch whose INPUT or OUTPUT is a URL; names of outputs are found as for folders.

Objects are images by their suffixes: to look into those of other names would cost a request each.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from strsr_models.errors import ImageError, UsageError

from ...images.find import (
    IMAGE_SUFFIXES,
    OWN,
    describe_passed_over,
    find_files,
    is_hidden,
    list_files,
)
from ...images.formats import FORMAT_BY_SUFFIX
from ...images.places import WEB, WRITABLE, Place, RemoteFile, place_of, split_url
from ...system.limits import rare_collections
from ...system.paths import is_folder, is_url
from ..job import STREAM, Job, Source
from ..journal_files import JOURNAL
from ..naming import output_name, output_names
from ..plan import Plan, jobs_with_names, make_plan, outputs_hint, pass_over_recorded, plan_single
from ..targets import Arriving, has_file_suffix, is_stdout, job_of, kept_kind, output_stream, refused_name
from .journal import read_sources


def plan_any(
    source: str,
    target: str | None,
    kind: str,
    names: list[str] | None = None,
    add: str | None = None,
    frames: bool = False,
    keep_times: bool = False,
    arriving: Arriving | None = None,
) -> Plan:
    """Return the plan for INPUT and OUTPUT, each of which may be a URL. See `make_plan`. Raises UsageError."""
    urls = [text for text in (source, target) if is_url(text)]
    if not urls:
        return make_plan(source, target, kind, names, add, frames, arriving)
    for option, given in (("--in-place-suffix", add is not None), ("--keep-times", keep_times)):
        if given:
            raise UsageError(f"{option}: not for URLs such as {urls[0]}; drop the option")
    if frames and is_url(source):
        raise UsageError(f"{source}: --frames all needs a local file, whose frames can be counted first")
    if target is None:
        raise UsageError("OUTPUT is missing: a folder, a file, or a URL of s3:// or gs://")
    if is_url(target):
        check_writable(target)
    try:
        if is_url(source):
            with rare_collections():
                return _plan_remote_input(source, target, kind, names)
        return _plan_local_input(source, target, kind, names, frames)
    except ImageError as error:
        raise UsageError(str(error)) from error


# --- INPUT is a URL ---


def _plan_remote_input(source: str, target: str, kind: str, names: list[str] | None) -> Plan:
    """Return the plan for an object, or for all below a place, or for those that a list names. Raises ImageError."""
    place, is_prefix = place_of(source)
    if names is None and not is_prefix:
        single = single_object(source, place)
        if single is not None:
            return _plan_single_object(single, target, kind)
    if place.scheme in WEB and names is not None:
        # Of a website, no list can be had but the one that is given.
        objects = Objects(images=[RemoteFile(place, name) for name in dict.fromkeys(names)])
    else:
        objects = find_objects(place, place_of(target)[0] if is_url(target) else None)
        if names is not None:
            objects = objects.named(names)
    if not objects.images and not objects.failed:
        counts = describe_passed_over(objects.passed_over)
        known = ", ".join(FORMAT_BY_SUFFIX)
        raise UsageError("; ".join(filter(None, [f"{source}: no images there ({known})", counts])))
    return _plan_objects(objects, place, target, kind)


def single_object(source: str, place: Place) -> RemoteFile | None:
    """Return the object that a URL names, None where it is a prefix. Raises ImageError, UsageError."""
    if place.scheme not in WEB and place.url.count("/") < 3:
        # It is a bucket.
        return None
    above, key = split_url(source)
    there = above.look(key)
    if there is None and place.scheme in WEB:
        raise UsageError(f"{source}: no such page; a page that lists others ends in /")
    return there


def _plan_single_object(source: RemoteFile, target: str, kind: str) -> Plan:
    """Return the plan for one object. Raises UsageError."""
    kept = FORMAT_BY_SUFFIX.get(source.suffix.lower(), "png") if kind == "keep" else kind
    if is_url(target):
        return _plan_to_object(Job(source, None, kept), PurePosixPath(source.name), target, kind)
    job = job_of(None, target, kind)
    if isinstance(job.target, Path) and job.target != Path(target):
        # OUTPUT is a folder.
        check_local_name(source)
        return plan_single(Job(source, Path(target) / output_name(Path(source.name), kept), kept), target)
    return plan_single(replace(job, source=source), target)


def check_local_name(source: RemoteFile) -> None:
    """Raise UsageError for an object whose name no file can have."""
    if (reason := _unsafe(source.name)) is not None:
        raise UsageError(f"{source}: {reason}; name the OUTPUT file")


@dataclass
class Objects:
    """The objects of a place: images in the order of their names, failures, and the number of others by kind."""

    images: list[RemoteFile] = field(default_factory=list)
    failed: list[tuple[Source, str]] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    hints: list[str] = field(default_factory=list)

    def add(self, file: RemoteFile) -> None:
        """Add an object, told by its name alone."""
        name = file.relative
        is_image = file.suffix.lower() in IMAGE_SUFFIXES
        if name.startswith(OWN) or f"/{OWN}" in name:
            return
        if is_image and (reason := _unsafe(name)) is not None:
            self.failed.append((file, reason))
        elif any(map(is_hidden, name.split("/"))):
            self.passed_over["hidden"] += 1
        elif not is_image:
            self.passed_over["other"] += 1
        else:
            self.images.append(file)

    def named(self, names: list[str]) -> Objects:
        """Return those that a list names, in its order; what is not there fails."""
        by_key = {file.key: file for file in self.images}
        chosen = Objects(passed_over=self.passed_over)
        for name in dict.fromkeys(names):
            key = str(PurePosixPath(name))
            file = by_key.get(key)
            if file is not None:
                chosen.images.append(file)
            elif key.startswith("/") or PurePosixPath(key).suffix.lower() in IMAGE_SUFFIXES:
                chosen.failed.append((Path(name), "no such object; names in a list are relative to INPUT"))
            else:
                chosen.passed_over["other"] += 1
        return chosen


def find_objects(place: Place, output: Place | None) -> Objects:
    """List a place, but for what lies in OUTPUT below it, and for what journals below it name as outputs.

    Raises ImageError.
    """
    objects, journals = Objects(), set()
    inside = _key_below(output, place)
    for file in place.objects():
        above, mark, _ = f"/{file.key}".partition(f"/{JOURNAL}/")
        if inside and file.key.startswith(f"{inside}/"):
            if OWN not in file.key:
                objects.passed_over["output"] += 1
        elif mark and above:
            journals.add(above[1:])
        else:
            objects.add(file)
    objects.images.sort(key=lambda file: file.key)
    for folder in sorted(journals):
        _pass_over_outputs(objects, place, folder)
    return objects


def _pass_over_outputs(objects: Objects, place: Place, folder: str) -> None:
    """Take away, and count, the images that the journal of a prefix below `place` names as outputs."""
    own = Place(f"{place.url}/{folder}")
    outputs = {f"{folder}/{name}" for name in read_sources(own)}
    inputs = [file for file in objects.images if file.key not in outputs]
    count = len(objects.images) - len(inputs)
    if count:
        objects.hints.append(outputs_hint(own, "place", count))
        objects.passed_over["output"] += count
        objects.images = inputs


def _key_below(place: Place | None, above: Place) -> str:
    """Return the name of a place below another one; empty where it lies elsewhere."""
    return place.url.removeprefix(f"{above.url}/") if place and place.url.startswith(f"{above.url}/") else ""


def _unsafe(key: str) -> str | None:
    """Return why no output can be named after an object, or None: stores take names that lead out of a folder."""
    # An empty part is dropped, as in paths; what is left must go downwards.
    if any(part in (".", "..") for part in key.split("/")):
        return "its name has a part . or .., which no output may have; copy it to another name"
    if "\0" in key or "\\" in key:
        return "its name has a NUL or a backslash, which no output may have; copy it to another name"
    return None


def _plan_objects(objects: Objects, place: Place, target: str, kind: str) -> Plan:
    """Return the plan for many objects. Raises UsageError."""
    output = output_place(target) if is_url(target) else None
    root = None if output else _output_folder(target)
    if output == place:
        raise UsageError(
            f"{target}: OUTPUT is INPUT, where outputs would replace inputs; choose another OUTPUT"
        )
    kinds = [
        FORMAT_BY_SUFFIX.get(file.suffix.lower(), "png") if kind == "keep" else kind
        for file in objects.images
    ]
    names = output_names([PurePosixPath(file.relative) for file in objects.images], kinds)
    plan = Plan([], root, objects.failed, objects.passed_over, objects.hints, place=output, tree=True)
    above = _key_below(place, output) if output else ""
    inputs = {f"{above}/{file.key}" for file in objects.images} if above else set()
    for number, (file, own) in enumerate(zip(objects.images, kinds, strict=True)):
        name = names[number].as_posix()
        if output is None:
            assert root is not None
            destination: Source = root / name
            reason = refused_name(root / name)
        else:
            destination = RemoteFile(output, name)
            replaces = name in inputs
            reason = (
                f"its output {destination} would replace an input; choose another OUTPUT"
                if replaces
                else None
            )
        if reason is None:
            plan.jobs.append(Job(file, destination, own))
        else:
            plan.refused.append((file, reason))
    return plan


def _output_folder(target: str) -> Path:
    """Return OUTPUT as a folder for many images. Raises UsageError."""
    root = Path(target)
    if is_stdout(target) or output_stream(target) is not None:
        raise UsageError(f"{target}: INPUT is many images, so OUTPUT must be a folder, not a stream")
    if not is_folder(root) and not target.endswith("/") and has_file_suffix(root):
        raise UsageError(f"{target}: INPUT is many images, so OUTPUT must be a folder, not an image file")
    return root


def output_place(target: str) -> Place:
    """Return OUTPUT as a place for many images. Raises UsageError."""
    place, is_prefix = place_of(target)
    if not is_prefix and has_file_suffix(Path(place.url)):
        raise UsageError(f"{target}: INPUT is many images, so OUTPUT must be a prefix, not an image")
    return place


def check_writable(target: str) -> None:
    """Raise UsageError for a place that takes no objects."""
    if place_of(target)[0].scheme not in WRITABLE:
        known = " and ".join(f"{scheme}://" for scheme in WRITABLE)
        raise UsageError(f"{target}: outputs go to {known}, or to files; choose another OUTPUT")


# --- OUTPUT is a URL, and INPUT is not ---


def _plan_local_input(source: str, target: str, kind: str, names: list[str] | None, frames: bool) -> Plan:
    """Return the plan for local images that become objects. Raises UsageError."""
    folder = Path(source)
    if source != STREAM and is_folder(folder):
        return _plan_folder(folder, target, kind, names, frames)
    # What INPUT is, and that it can be read, is found out as for a local OUTPUT, of which nothing is asked.
    asked = make_plan(source, STREAM, kind, names, None, frames)
    job = asked.jobs[0]
    kept = kept_kind(job.source) if kind == "keep" and isinstance(job.source, Path) else job.kind
    name = PurePosixPath(job.source.name if isinstance(job.source, Path) else "stdin")
    return _plan_to_object(replace(job, kind=kept), name, target, kind)


def _plan_to_object(job: Job, name: PurePosixPath, target: str, kind: str) -> Plan:
    """Return the plan for one image that becomes an object: OUTPUT itself, where it has the suffix of an image."""
    place, is_prefix = place_of(target)
    suffix = PurePosixPath(place.url).suffix.lower()
    if is_prefix or not has_file_suffix(Path(place.url)) or place.url.count("/") < 3:
        output = RemoteFile(place, output_name(Path(name), job.kind).as_posix())
        return _checked(Plan([replace(job, target=output)]))
    if suffix not in FORMAT_BY_SUFFIX:
        known = ", ".join(FORMAT_BY_SUFFIX)
        raise UsageError(f"{target}: cannot write {suffix} files; use one of {known}")
    named = FORMAT_BY_SUFFIX[suffix]
    if kind not in ("keep", named):
        raise UsageError(f"{target}: its suffix says {named}, --format says {kind}; drop one of them")
    above, key = split_url(target)
    output = RemoteFile(above, key)
    return _checked(Plan([replace(job, kind=named, target=output)], single=output))


def _checked(plan: Plan) -> Plan:
    """Return a plan of one image. Raises UsageError where its output would replace its input."""
    job = plan.jobs[0]
    if str(job.source) == str(job.target):
        raise UsageError(f"{job.target}: the output would replace its own input; choose another OUTPUT")
    return plan


def _plan_folder(source: Path, target: str, kind: str, names: list[str] | None, frames: bool) -> Plan:
    """Return the plan for the images of a folder, or those of a list, that become objects. Raises UsageError."""
    output = output_place(target)
    nowhere = source / f"{OWN}nowhere"
    files = find_files(source) if names is None else list_files(names, source, nowhere)
    hints = [*files.hints, *pass_over_recorded(files, source)]
    if not files.images and not files.failed:
        counts = describe_passed_over(files.passed_over)
        raise UsageError("; ".join(filter(None, [f"{source}: no images in this folder", counts, *hints])))
    plan = Plan([], None, list(files.failed), files.passed_over, hints, place=output)
    for job, name in jobs_with_names(files.images, source, kind, plan.refused, frames=frames):
        plan.jobs.append(replace(job, target=RemoteFile(output, name.as_posix())))
    return plan
