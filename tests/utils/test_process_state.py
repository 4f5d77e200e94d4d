"""What a user's code changes in the process is restored."""

import contextlib
import io
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spangym.utils.process_state import preserve_process_state


def _delete_working_folder() -> None:
    gone = Path("gone").absolute()
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()


CHANGES: dict[str, tuple[Callable[[], object], Callable[[], Any]]] = {
    "working folder": (lambda: os.chdir("/"), os.getcwd),
    "deleted working folder": (_delete_working_folder, os.getcwd),
    "environment": (lambda: os.environ.pop("HOME"), lambda: {**os.environ}),
    "new variable": (lambda: os.environ.update(SPANGYM_TEST="1"), lambda: {**os.environ}),
    "path": (lambda: sys.path.insert(0, "/"), lambda: [*sys.path]),
    "stdout": (lambda: setattr(sys, "stdout", io.StringIO()), lambda: sys.stdout),
    "signals": (
        lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
        lambda: signal.getsignal(signal.SIGTERM),
    ),
    "warnings": (lambda: warnings.simplefilter("ignore"), lambda: [*warnings.filters]),
    "random": (lambda: random.seed(1), random.getstate),
    "numpy": (lambda: np.random.seed(1), lambda: str(np.random.get_state())),  # noqa: NPY002
    "numpy errors": (lambda: np.seterr(all="raise"), np.geterr),
    "torch": (lambda: torch.manual_seed(1), lambda: torch.get_rng_state().tolist()),
    "dtype": (lambda: torch.set_default_dtype(torch.float64), torch.get_default_dtype),
    "device": (lambda: torch.set_default_device("meta"), torch.get_default_device),
    "threads": (lambda: torch.set_num_threads(3), torch.get_num_threads),
    "gradients": (lambda: torch.set_grad_enabled(False), torch.is_grad_enabled),
    "determinism": (
        lambda: torch.use_deterministic_algorithms(True),
        torch.are_deterministic_algorithms_enabled,
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes_are_undone_after_an_error_too(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    change, get = CHANGES[name]
    monkeypatch.chdir(tmp_path)
    before = get()
    with contextlib.suppress(ArithmeticError), preserve_process_state():
        change()
        raise ArithmeticError
    assert get() == before
