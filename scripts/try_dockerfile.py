"""Run the steps of the Dockerfile without Docker: as written, in bare Debian roots, then strsr as ordinary users.

    sudo python scripts/try_dockerfile.py WORK --build-arg TORCH_INDEX=https://pypi.org/simple

WORK: a folder of some 15 GB for the roots; what debootstrap makes there is used again. Needs root, for chroot, and
debootstrap. What a machine behind a proxy must tell its containers goes in by --env NAME=VALUE and --file PATH.
Not tried here: the layers, and the base image itself, whose packages are those of debootstrap's minbase.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
MIRROR = "http://deb.debian.org/debian"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PICTURE = "examples/cat.png"


@dataclass
class Stage:
    """One FROM of the file: its root, and what was said in it."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)
    user: str = "root"
    folder: str = "/"
    entrypoint: list[str] = field(default_factory=list)


def instructions(text: str) -> list[tuple[str, str]]:
    """Return the words of a Dockerfile, (FROM, debian:...) and so on, with continued lines joined."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        (word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.split("\n"))
    ]


def run_in(
    stage: Stage, command: list[str], user: str | None = None, folder: str | None = None, **more: str
) -> int:
    """Run a command in a stage's root, in namespaces of its own, and return its exit code."""
    variables = {"PATH": PATH, **stage.environment, **more}
    mounts = f"mount -t proc proc {shlex.quote(str(stage.root))}/proc"
    mounts += f" && mount -t tmpfs tmpfs {shlex.quote(str(stage.root))}/dev/shm"
    enter = ["chroot", *(["--userspec", user] if user else []), str(stage.root), "/usr/bin/env", "-i"]
    enter += [f"--chdir={folder or stage.folder}", *(f"{k}={v}" for k, v in variables.items()), *command]
    inside = f"{mounts} && exec {shlex.join(enter)}"
    return subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "sh", "-c", inside], check=False
    ).returncode


def begin(base: Path, work: Path, number: int, files: list[Path]) -> Stage:
    """Make the root of a stage, a copy of the bare one."""
    stage = Stage(work / f"stage-{number}")
    shutil.rmtree(stage.root, ignore_errors=True)
    subprocess.run(["cp", "-a", "--reflink=auto", str(base), str(stage.root)], check=True)
    for path in [Path("/etc/resolv.conf"), *files]:
        target = stage.root / path.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return stage


def copy(words: str, stage: Stage, stages: dict[str, Stage]) -> None:
    """Carry out a COPY, of files and folders by their names."""
    parts = words.split()
    source = REPOSITORY
    if parts[0].startswith("--from="):
        source = stages[parts.pop(0).removeprefix("--from=")].root
    *names, target = parts
    for name in names:
        path, goal = source / name.lstrip("/"), stage.root / target.lstrip("/")
        if path.is_dir():
            shutil.copytree(
                path,
                goal,
                symlinks=True,
                dirs_exist_ok=True,
                ignore=shutil.ignore_patterns("__pycache__") if source == REPOSITORY else None,
            )
        else:
            goal.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, goal / path.name)


def build(
    text: str, base: Path, work: Path, given: dict[str, str], extra: dict[str, str], files: list[Path]
) -> Stage:
    """Carry out all instructions; return the last stage. Ends this program where a RUN fails."""
    stages: dict[str, Stage] = {}
    stage = Stage(base)
    for word, rest in instructions(text):
        print(f"== {word} {rest}", flush=True)
        if word == "FROM":
            stage = begin(base, work, len(stages), files)
            stages[rest.split(" AS ")[-1]] = stage
        elif word == "ARG":
            name, _, default = rest.partition("=")
            stage.arguments[name] = given.get(name, default)
        elif word == "ENV":
            stage.environment |= dict(part.split("=", 1) for part in shlex.split(rest))
        elif word == "RUN":
            code = run_in(stage, ["/bin/sh", "-c", rest], **stage.arguments, **extra)
            if code:
                sys.exit(f"RUN ended with exit code {code}: {rest}")
        elif word == "COPY":
            copy(rest, stage, stages)
        elif word == "USER":
            stage.user = rest
        elif word == "WORKDIR":
            stage.folder = rest
            (stage.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif word == "ENTRYPOINT":
            stage.entrypoint = json.loads(rest)
        elif word != "CMD":
            sys.exit(f"this script does not know {word}")
    return stage


def check(stage: Stage) -> None:
    """Run strsr in the last stage as its own user, as one of no name, and without HOME."""
    photos = stage.root / stage.folder.lstrip("/")
    nameless = {key: value for key, value in stage.environment.items() if key != "HOME"}
    for name, user, environment in (
        ("own", stage.user, stage.environment),
        ("nameless", "4321:4321", stage.environment),
        ("homeless", "4321:4321", nameless),
    ):
        folder = photos / name
        (folder / "in").mkdir(parents=True)
        shutil.copy(REPOSITORY / PICTURE, folder / "in")
        owner = 1000 if user == stage.user else 4321
        os.chown(folder, owner, owner)
        (folder / "in").chmod(0o755)
        inside = f"{stage.folder}/{name}"
        command = [*stage.entrypoint, "upscale", f"{inside}/in", f"{inside}/out", "--scale", "2"]
        tried = Stage(stage.root, environment, folder=stage.folder)
        code = run_in(tried, command, user)
        made = folder / "out" / Path(PICTURE).name
        if code or not made.is_file() or made.stat().st_uid != owner:
            sys.exit(f"{name}: exit code {code}, {made} {'is there' if made.exists() else 'is missing'}")
        print(f"== {name}: {made} belongs to {made.stat().st_uid}", flush=True)
    if run_in(stage, [*stage.entrypoint, "doctor"], stage.user):
        sys.exit("strsr doctor failed")


def main() -> None:
    """Read the arguments, and try the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--file", action="append", default=[], type=Path, metavar="PATH")
    options = parser.parse_args()
    text = (REPOSITORY / "Dockerfile").read_text()
    suite = instructions(text)[0][1].split()[0].removeprefix("debian:").removesuffix("-slim")
    base = options.work / suite
    if not base.is_dir():
        subprocess.run(["debootstrap", "--variant=minbase", suite, str(base), MIRROR], check=True)
    pairs = [dict(pair.split("=", 1) for pair in given) for given in (options.build_arg, options.env)]
    check(build(text, base, options.work, pairs[0], pairs[1], options.file))
    print("all steps ran", flush=True)


if __name__ == "__main__":
    main()
