"""The commands of `strsr models`: list, pull, verify and find the published checkpoints of a models folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from strsr_models.checkpoints.judges import GROUP, OF_LITE
from strsr_models.checkpoints.published import FAMILIES, FOLDERS, Published, named, pull_command
from strsr_models.errors import UsageError, WeightsError

from ..system.atomic import sha256_of
from ..system.console import Tell, print_table, size_text
from . import cache, hub, judges, store

UNKNOWN = "unknown, as no home folder is"


def describe(root: Path) -> dict[str, Any]:
    """Return what exists and what of it is in `root`, for programs."""
    models = []
    for name, published in FOLDERS.items():
        state = store.state_of(root, published)
        models.append(
            {
                "name": name,
                "state": state.word,
                "missing": list(state.missing) if state.word == "incomplete" else [],
                "bytes": state.size,
                "cached_bytes": cache.cached_bytes(published),
                "about_bytes": round(published.gigabytes * 1e9),
                "licence": published.licence,
                "repository": published.repository,
                "revision": state.revision or None,
                "path": str(root / name),
            }
        )
    families = {family: list(folders) for family, folders in FAMILIES.items()}
    return {
        "models_dir": str(root),
        "cache": _text(cache.known_cache_folder()),
        "models": models,
        "families": families,
        "judges": judges.describe(),
        "judges_dir": _text(judges.known_folder()),
    }


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def list_models(root: Path, as_json: bool, report: Tell) -> None:
    """Print the table of published checkpoints, or JSON."""
    description = describe(root)
    if as_json:
        report(json.dumps(description))
        return
    report(f"models folder: {root}")
    report(f"Hugging Face cache: {description['cache'] or UNKNOWN}")
    rows = []
    for model in description["models"]:
        absent = model["state"] == "absent"
        size = f"about {size_text(model['about_bytes'])}" if absent else size_text(model["bytes"])
        state = model["state"] + (f": no {', '.join(model['missing'][:3])}" if model["missing"] else "")
        if model["cached_bytes"] and model["state"] in ("absent", "incomplete"):
            state += f"; {size_text(model['cached_bytes'])} in the cache, for pull to use"
        rows.append([model["name"], state, size, model["licence"], model["repository"]])
    for judge in description["judges"]:
        here = judge["state"] == "pulled"
        size = size_text(judge["bytes"]) if here else f"about {size_text(judge['about_bytes'])}"
        rows.append([judge["name"], judge["state"], size, judge["licence"], judge["source"].split("/")[2]])
    print_table(["name", "state", "size", "licence", "repository"], rows)
    for family, folders in FAMILIES.items():
        report(f"{family} = {' + '.join(folders)}")
    report(
        f"{GROUP} = {' + '.join(OF_LITE)}: what lite is trained by; in {description['judges_dir'] or UNKNOWN}"
    )
    report("lite comes with strsr")


def lies_elsewhere(name: str) -> bool:
    """Whether a name is of files that do not lie in the models folder."""
    return bool(judges.named(name))


def pull(name: str, root: Path, revision: str | None, text_encoder: bool, report: Tell) -> None:
    """Bring a folder, or all of a family, into `root`; the same call goes on after an interruption.

    Everything is looked up, and the disk measured, before the first file is fetched. Files that are
    there already are kept if the hub vouches for them. Raises UsageError, WeightsError.
    """
    if wanted_judges := judges.named(name):
        if revision is not None or text_encoder:
            raise UsageError(f"--revision and --text-encoder: {name} has neither")
        judges.pull(wanted_judges, report)
        return
    wanted = named(name)
    if revision is not None and len({entry.repository for entry in wanted}) > 1:
        raise UsageError(f"--revision belongs to one repository; name one of {', '.join(FAMILIES[name])}")
    hub.refuse_offline()
    try:
        listings = [look_up(root, entry, revision, text_encoder) for entry in wanted]
        for listing in listings:
            entry = listing.published
            report(
                f"{entry.folder}: {size_text(listing.size)} from {entry.repository} at {listing.revision[:12]}, "
                f"licence: {listing.licence}"
            )
        check_space(root, listings)
        for listing in listings:
            pull_one(root, listing, report)
    except OSError as error:
        where = error.filename or root
        raise WeightsError(f"{where}: cannot be written ({error.strerror or error})") from error


def look_up(root: Path, published: Published, revision: str | None, text_encoder: bool) -> hub.Listing:
    """Return what to fetch; a text encoder that was pulled once stays part of its folder."""
    record = store.read_record(root / published.folder)
    pulled_before = record is not None and any(file.startswith("text_encoder/") for file in record.files)
    return hub.look_up(published, revision, text_encoder or pulled_before)


def check_space(root: Path, listings: list[hub.Listing]) -> None:
    """Raise WeightsError unless all that is still to be fetched fits on the disk."""
    needed, linking = 0, cache.can_link(root)
    for listing in listings:
        for file in listing.files:
            paths = [folder / file.name for folder in folders_of(root, listing.published)]
            there = file.size in [store.size_of(path) for path in paths]
            cached = linking and cache.cached_copies(listing.published, file)
            needed += 0 if there or cached else file.size
    store.check_room(root, needed, "name another folder (--models-dir)")


def folders_of(root: Path, published: Published) -> tuple[Path, Path]:
    """Return the folders in which published files may lie: that in which a pull gathers them, and their place."""
    return store.staging(root, published), root / published.folder


def pull_one(root: Path, listing: hub.Listing, report: Tell) -> None:
    """Get the files that are missing or damaged, from the cache or the hub, then put all in their place."""
    published = listing.published
    gathered, folder = folders_of(root, published)
    files = {}
    fetched = 0
    if gathered.is_dir() or folder.is_dir():
        report(f"{published.folder}: checking what is there")
    for number, file in enumerate(listing.files, start=1):
        paths = [gathered / file.name, folder / file.name]
        intact = [path for path in paths if vouched(file, path)]
        if not intact:
            line = f"  {number}/{len(listing.files)} {file.name} {size_text(file.size)}"
            intact = [obtain(listing, file, gathered / file.name, line, report)]
            fetched += 1
        files[file.name] = store.FileRecord(file.size, file.sha256 or sha256_of(intact[0]))
    record = store.read_record(folder)
    if fetched or gathered.is_dir() or record is None or not files.items() <= record.files.items():
        gathered.mkdir(parents=True, exist_ok=True)
        store.settle(root, published, store.Record(published.repository, listing.revision, files))
    report(f"{published.folder}: whole, in {folder}" if fetched else f"{published.folder}: is there already")


def obtain(listing: hub.Listing, file: hub.RemoteFile, target: Path, line: str, report: Tell) -> Path:
    """Bring one file to `target`, from the cache where it is whole there. Raises WeightsError, OSError.

    line: what is reported of it.
    """
    for path in cache.cached_copies(listing.published, file):
        if vouched(file, path):
            report(f"{line}, from the Hugging Face cache")
            hub.give_name(path, target)
            return target
    report(line)
    # On another disk the cache would take the space twice.
    folder = cache.cache_folder() if cache.can_link(target.parent) else None
    hub.fetch(listing, file, target, folder, again=any(cache.places(listing.published, file)))
    if not vouched(file, target):
        target.unlink()
        # Nor does it stay in the cache, where other programs would take it for the file.
        for path in cache.places(listing.published, file):
            if not vouched(file, path):
                path.unlink(missing_ok=True)
        raise WeightsError(
            f"{listing.published.repository}: {file.path} came damaged (its hash is not the one listed); pull again"
        )
    return target


def vouched(file: hub.RemoteFile, path: Path) -> bool:
    """Whether a file is there and is the one that the hub lists, by its hash."""
    if store.size_of(path) != file.size:
        return False
    if file.sha256:
        return sha256_of(path) == file.sha256
    return store.git_blob_of(path) == file.git_blob


def verify(name: str, root: Path, report: Tell) -> None:
    """Read every file again and compare it with the record of its pull. Raises WeightsError."""
    if wanted_judges := judges.named(name):
        judges.verify(wanted_judges, name, report)
        return
    problems, faulty = [], []
    for published in named(name):
        folder = root / published.folder
        record = store.read_record(folder)
        if record is None:
            state = store.state_of(root, published)
            why = "was not pulled by strsr: no record to compare with" if state.usable else state.word
            problems.append(f"{published.folder}: {why}")
            faulty.append(published.folder)
            report(f"{published.folder}: {why}")
            continue
        faults = [(file, fault) for file, fault in store.verify(folder, record) if fault]
        for file, fault in faults:
            report(f"{folder / file}: {fault}")
        for file in store.strangers(folder, record):
            report(f"{folder / file}: extra, not from the pull; left alone")
        problems += [f"{published.folder}/{file} {fault}" for file, fault in faults]
        if faults:
            faulty.append(published.folder)
        else:
            report(f"{published.folder}: {len(record.files)} files as pulled ({record.revision[:12]})")
    if problems:
        raise WeightsError(f"{root}: {'; '.join(problems[:5])}; to repair: {pull_command(root, faulty)}")


def path(name: str, root: Path, report: Tell) -> None:
    """Print where a folder, or each of a family, is. Raises WeightsError if one is not whole."""
    if wanted_judges := judges.named(name):
        judges.path(wanted_judges, name, report)
        return
    wanted = named(name)
    lacking = [entry.folder for entry in wanted if not store.state_of(root, entry).usable]
    if lacking:
        raise WeightsError(
            f"{root}: {', '.join(lacking)} not there or not whole; get it by: {pull_command(root, lacking)}"
        )
    for entry in wanted:
        report(str(root / entry.folder))
