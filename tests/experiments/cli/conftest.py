import shutil
from pathlib import Path

import pytest


@pytest.fixture
def copied_run(finished_run: tuple[Path, str], tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run[0], tmp_path / "copied"))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(each): each.read_bytes() for each in folder.rglob("*") if each.is_file()}
