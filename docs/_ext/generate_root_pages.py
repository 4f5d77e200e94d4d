"""The pages of the repository's root that are part of the site."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md")


def pages() -> dict[str, str]:
    """Changelog and contributing guide; their links are those of `docs/reference`."""
    return {name.lower(): _relinked((ROOT / name).read_text("utf-8")) for name in PAGES}


def _relinked(text: str) -> str:
    text = re.sub(r"\]\(docs/", "](../", text)
    return re.sub(rf"\]\(({'|'.join(PAGES)})", lambda match: f"]({match[1].lower()}", text)
