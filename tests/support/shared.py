"""Where the project's shared material lies (tools, catalogues, vectors): beside the clone, or FASTROUTE_SHARED."""

from __future__ import annotations

import os
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def shared(*parts: str) -> pathlib.Path:
    """The path below shared/; skips the test, saying so, where there is none."""
    base = pathlib.Path(os.environ.get("FASTROUTE_SHARED", ROOT.parent / "shared"))
    path = base.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path} is not here: set FASTROUTE_SHARED to the folder with the shared tools and data")
    return path
