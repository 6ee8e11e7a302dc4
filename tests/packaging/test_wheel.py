"""The built wheel: what is in it, and that it works where no checkout is."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

import sae_lens_poly
from tests.test_cli import SETTINGS, SMALL

ROOT = Path(__file__).parents[2]
PACKAGE = Path("sae_lens_poly")


def run(*command, cwd):
    """Run a command without what the surrounding shell says about paths; its output."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    finished = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode:
        pytest.fail(f"{command}: {finished.stderr[-2000:]}")
    return finished.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, since setuptools reuses what an earlier build left beside the sources."""
    copy = tmp_path_factory.mktemp("source")
    shutil.copytree(
        ROOT / PACKAGE, copy / PACKAGE, ignore=shutil.ignore_patterns("__pycache__", ".*")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    options = ("--no-deps", "--no-build-isolation", "--wheel-dir", "dist")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", *options, ".", cwd=copy)
    (built,) = copy.glob("dist/*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A new environment with the wheel, which finds its dependencies in the running one.

    A folder that a ``.pth`` file adds is searched last, and its own ``.pth`` files are not read:
    the editable installation there cannot be imported.
    """
    folder = tmp_path_factory.mktemp("clean")
    run(sys.executable, "-m", "venv", "--without-pip", "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps")
    run(*pip, "--no-index", wheel, cwd=folder)
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    dependencies = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (packages / "dependencies.pth").write_text("\n".join(dependencies))
    return folder


def test_holds_every_file_of_the_package(wheel):
    sources = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / PACKAGE).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == sources
    assert "sae_lens_poly/py.typed" in packed


@pytest.mark.slow
def test_trains_evaluates_and_compares_outside_the_checkout(installed):
    command = installed / "venv" / "bin" / "sae-lens-poly"
    asked = "import sae_lens_poly as p; print(p.__file__, p.__version__)"
    file, number = run(command.with_name("python"), "-c", asked, cwd=installed).split()
    assert Path(file).is_relative_to(installed)
    assert number == sae_lens_poly.__version__ == version("sae-lens-poly")

    hooks = ("--hook_name", "blocks.{1..2}.hook_resid_post")
    run(command, "train", *SMALL, *hooks, "--output_path", "output", cwd=installed)
    few = ("--n_batches", "1", "--batch_size_prompts", "2", "--n_headroom_tokens", "0")
    few += ("--probing",)
    printed = run(command, "evaluate", "output", *few, cwd=installed)
    assert "pooled / all spliced" in printed
    figures = json.loads((installed / "output" / "evaluation.json").read_text())
    assert list(figures["per_hook"]) == [f"blocks.{i}.hook_resid_post" for i in (1, 2)]

    tiny = ("--training_tokens", SETTINGS["training_tokens"], "--learning_rates", "0.001")
    one = ("--preset", "stdlib-polysae", "--arms", "TopK", "--output", "compared")
    run(command, "compare", *one, *tiny, *few, cwd=installed)
    tables = json.loads((installed / "compared" / "table.json").read_text())["tables"]
    reconstruction = tables["Reconstruction and latents, pooled over hook points"]["TopK"]
    assert reconstruction["latents"]["mean"] == 2048
