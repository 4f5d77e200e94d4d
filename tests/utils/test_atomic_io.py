import os
from pathlib import Path

import pytest

from spangym.utils.atomic_io import check_writable_file
from spangym.utils.errors import UserError


def test_a_pipe_is_not_replaced_by_a_file(tmp_path: Path):
    """Nor a device: as the superuser that would damage the machine."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(UserError, match="no regular file"):
            check_writable_file("--json", tmp_path / name)
    (tmp_path / "file").touch()
    check_writable_file("--json", tmp_path / "file")
    check_writable_file("--json", tmp_path / "new")
