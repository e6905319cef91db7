"""docs/configuration.md is true: its examples can be used, every key of the grammar is on it."""

from __future__ import annotations

import re

import msgspec
import pytest

from fastroute.config import schema
from fastroute.config.load import loads
from tests.support.shared import ROOT

PAGE = (ROOT / "docs" / "configuration.md").read_text()
EXAMPLES = re.findall(r"```toml\n(.*?)```", PAGE, re.S)


@pytest.mark.parametrize("text", EXAMPLES, ids=["smallest", "fleet"])
def test_example_of_the_page_can_be_used(text):
    secrets = {"FASTROUTE_SECRET": "0123456789abcdef" * 2, "FASTROUTE_IDENTITY": "fedcba9876543210" * 2}
    assert loads(text, environment=secrets).warnings == ()


@pytest.mark.parametrize(
    "struct",
    [getattr(schema, name) for name in schema.__all__ if name.endswith(("Config", "Limits", "Timeouts"))],
    ids=lambda struct: struct.__name__,
)
def test_every_key_is_on_the_page(struct):
    for info in msgspec.structs.fields(struct):
        assert re.search(rf"[`\[. ]{info.encode_name}\b", PAGE), info.encode_name
