"""What the docs say of the code is what the code says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from market_data_pipeline.codec import encode
from market_data_pipeline.frame import Frame
from market_data_pipeline.settings import Settings
from market_data_pipeline.settings_tree import leaves

ROOT = Path(__file__).resolve().parents[3]


def test_the_settings_table() -> None:
    text = (ROOT / "docs" / "usage.md").read_text()
    section = text.partition("\n## Settings\n")[2].partition("\n## ")[0]
    table = re.findall(r"^\| ([\w.]+) \|([^|]*)\|([^|]*)\|$", section, re.M)
    documented = {name: (default.strip(), meaning.strip()) for name, default, meaning in table if name != "name"}
    actual = {
        leaf.name: ("" if leaf.field.default is None else str(leaf.field.default), leaf.field.description)
        for leaf in leaves(Settings)
    }
    assert documented == actual


def test_the_example_bytes_of_the_wire_format() -> None:
    text = (ROOT / "docs" / "wire-format.md").read_text()
    block = text[text.index("\n97 ") :].split("```")[0]
    shown = "".join(re.findall(r"^((?:[0-9a-f]{2} )+)", block, re.M)).replace(" ", "")
    assert shown == encode("x/0", Frame([{"n": 1}])).hex()


def test_links_in_the_docs_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_a_light_import_stays_light() -> None:
    """``mdp --help`` must not pay for numpy or the server's client."""
    heavy = ("numpy", "redis", "aiohttp", "rich", "ccxt")
    code = f"import sys, market_data_pipeline.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
