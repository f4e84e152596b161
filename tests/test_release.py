"""What a release holds: one version everywhere, and every file that the package reads."""

from __future__ import annotations

import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]
PACKAGES = [name.rstrip("*") for name in SETUPTOOLS["packages"]["find"]["include"]]


def tracked() -> list[str]:
    """Files that are in the wheel if the packages are: all but Python modules."""
    done = subprocess.run(
        ["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip("not a git repository")
    return [name for name in done.stdout.splitlines() if not name.endswith(".py")]


def test_every_file_that_is_no_module_is_in_the_wheel() -> None:
    files = tracked()
    assert len(files) > 20
    left_out = []
    for name in files:
        patterns = [
            f"{package.replace('.', '/')}/{pattern}" if package != "*" else f"*/{pattern}"
            for package, listed in SETUPTOOLS["package-data"].items()
            for pattern in listed
        ]
        deep = PurePosixPath(name)
        if not any(fnmatch(name, p) and len(deep.parts) >= p.count("/") + 1 for p in patterns):
            left_out.append(name)
    assert left_out == []


def test_the_citation_names_the_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == PROJECT["project"]["version"]
    assert cited["license"] == PROJECT["project"]["license"]


def test_workflows_and_templates_can_be_read() -> None:
    files = [*(ROOT / ".github").rglob("*.yml")]
    assert len(files) >= 6
    for file in files:
        assert isinstance(yaml.safe_load(file.read_text(encoding="utf-8")), dict), file
    release = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8"))
    publish = release["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}  # trusted publishing; no token is stored
    assert publish["needs"] == "smoke"
    assert "tag" in publish["if"]
