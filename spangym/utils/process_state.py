"""What code of a user's may change in the running process, to be restored."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from spangym.utils.rng import get_global_rng_state, set_global_rng_state


def _set_environment(variables: Mapping[str, str]) -> None:
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    os.environ.update(variables)


def _get_signal_handlers() -> dict[int, Any]:
    handlers = {each: signal.getsignal(each) for each in signal.valid_signals()}
    # Handlers that were not installed from Python are None and cannot be set.
    return {number: handler for number, handler in handlers.items() if handler is not None}


def _set_signal_handlers(handlers: Mapping[int, Any]) -> None:
    for number, handler in handlers.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


def _set_path(path: Sequence[str]) -> None:
    sys.path[:] = path


_STATES: tuple[tuple[Callable[[], Any], Callable[[Any], object]], ...] = (
    (os.getcwd, os.chdir),
    (lambda: {**os.environ}, _set_environment),
    (lambda: [*sys.path], _set_path),
    (sys.getrecursionlimit, sys.setrecursionlimit),
    (np.geterr, lambda state: np.seterr(**state)),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_default_device, torch.set_default_device),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
)
"""Functions that return and set a state that can be compared."""


@contextlib.contextmanager
def preserve_process_state() -> Iterator[None]:
    """Restore at the end of the context what the code in it changed in this process.

    These are the working folder, environment variables, ``sys.path``, the standard streams, signal
    handlers, filters of warnings, the global random generators, and settings of NumPy and PyTorch.
    What other modules hold, for example functions that were replaced, stays changed: trials of
    users' classes run in processes of their own.

    Example:
        >>> with preserve_process_state():
        ...     torch.set_default_dtype(torch.float64)
        >>> torch.get_default_dtype()
        torch.float32
    """
    states = [_get_or_none(get) for get, _ in _STATES]
    in_main_thread = threading.current_thread() is threading.main_thread()
    handlers = _get_signal_handlers() if in_main_thread else {}
    streams, generators = (sys.stdin, sys.stdout, sys.stderr), get_global_rng_state()
    try:
        with warnings.catch_warnings():
            yield
    finally:
        sys.stdin, sys.stdout, sys.stderr = streams
        for (get, set_state), state in zip(_STATES, states, strict=True):
            if state is not None and _get_or_none(get) != state:
                set_state(state)
        _set_signal_handlers(handlers)
        set_global_rng_state(generators)


def _get_or_none(get: Callable[[], Any]) -> Any:
    # The working folder may have been deleted.
    with contextlib.suppress(OSError):
        return get()
    return None
