"""Speech synthesis with the library espeak-ng."""

from __future__ import annotations

import ctypes
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# British, American, Scottish, Received Pronunciation, West Midlands, Lancaster, Caribbean and
# New York.
_ACCENTS = "en en-us en-gb-scotland en-gb-x-rp en-gb-x-gbcwmd en-gb-x-gbclan en-029 en-us-nyc"
ACCENTS = tuple(_ACCENTS.split())

_SPEAKERS = (
    "m1 m2 m3 m4 m6 m7 m8 f1 f2 f3 f4 f5 Alicia Andrea Andy Annie Denis Diogo Gene Jacky Lee "
    "Mario Michael Nguyen Reed RicishayMax RicishayMax2 Storm Tweaky anika announcer antonio "
    "aunty belinda benjamin boris caleb david ed edward grandma grandpa ian iven iven2 iven4 "
    "kaukovalta klatt klatt3 linda marcelo max norbert pablo paul pedro quincy rob sandro "
    "shelby steph travis zac"
)
SPEAKERS = tuple(_SPEAKERS.split())
"""Variants of a voice with different mean spectra, without whispers and robots."""

# Constants of espeak-ng's speak_lib.h.
_SYNCHRONOUS, _DO_NOT_EXIT, _UTF8, _CHARACTERS = 2, 0x8000, 1, 1
_RATE, _PITCH = 1, 3
_CALLBACK_TYPE = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


class Utterance(NamedTuple):
    """A text and the voice that speaks it: an accent, alone or with a speaker (``en-us+f2``).

    The rate is in words a minute, 80 to 450; the pitch is 0 to 99, and 50 is the speaker's own.
    """

    text: str
    voice: str
    rate: int = 175
    pitch: int = 50


class SpeechSynthesizer:
    """Speaks text. All instances of a process share the library's state.

    The samples of a text depend on everything spoken before, because the phases and the noise of
    sounds continue. `synthesize_in_subprocess` gives the same samples each time.

    Attributes:
        rate: Sampling rate of the library, in samples a second.

    Raises:
        ValueError: The extra ``speech`` is not installed, or the library cannot be loaded.

    Example:
        >>> samples = SpeechSynthesizer().synthesize("seven", "en-us+f2")
        >>> samples.dtype, 0.3 < len(samples) / 16_000 < 1
        (dtype('float32'), True)
    """

    def __init__(self) -> None:
        loader = _import_loader()
        data = loader.get_data_path()
        try:
            self._library = ctypes.CDLL(loader.get_library_path())
        except OSError as error:
            raise ValueError(f"espeak-ng cannot be loaded: {error}") from error
        self.rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, data.encode(), _DO_NOT_EXIT)
        if self.rate <= 0:
            raise ValueError(f"espeak-ng cannot read its data in {data!r}: reinstall it")
        # By default the time seeds the noise of breathy voices.
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(0))
        self._speakers = {each.name for each in Path(data, "voices", "!v").iterdir()}
        self._buffer: list[NDArray[np.int16]] = []
        # The library keeps only its address: it must live as long as this object.
        self._callback = _CALLBACK_TYPE(self._on_samples)

    @property
    def version(self) -> str:
        """Version of espeak-ng."""
        self._library.espeak_Info.restype = ctypes.c_char_p
        return self._library.espeak_Info(None).decode()

    def synthesize(
        self, text: str, voice: str, rate: int = 175, pitch: int = 50
    ) -> NDArray[np.float32]:
        """Speak a text; see `Utterance` for the arguments, of which a wrong one is a ValueError.

        Returns:
            Shape (samples,), at `spangym.envs.data.log_mel.RATE`, within about -1..1.
        """
        return _resample(self.synthesize_raw(text, voice, rate, pitch), self.rate)

    def synthesize_raw(
        self, text: str, voice: str, rate: int = 175, pitch: int = 50
    ) -> NDArray[np.int16]:
        """Speak a text as `synthesize` does, at the library's own rate."""
        for name, value, low, high in (("rate", rate, 80, 450), ("pitch", pitch, 0, 99)):
            if not low <= value <= high:
                raise ValueError(f"{name} must be in {low}..{high}, got {value}")
        accent, _, speaker = voice.partition("+")
        # The library ignores a speaker that it does not know.
        unknown = speaker and speaker not in self._speakers
        if unknown or self._library.espeak_SetVoiceByName(voice.encode()):
            raise ValueError(
                f"voice {voice!r} is unknown to espeak-ng: it must be an accent as {ACCENTS[1]!r}, "
                f"alone or with a speaker as '{accent}+{SPEAKERS[0]}'"
            )
        self._library.espeak_SetParameter(_RATE, rate, 0)
        self._library.espeak_SetParameter(_PITCH, pitch, 0)
        self._library.espeak_SetSynthCallback(self._callback)
        self._buffer.clear()
        content = text.encode()
        self._library.espeak_Synth(
            content, ctypes.c_size_t(len(content) + 1), 0, _CHARACTERS, 0, _UTF8, None, None
        )
        return np.concatenate([np.zeros(0, np.int16), *self._buffer])

    def _on_samples(self, samples: Any, count: int, _: Any) -> int:
        if samples and count:
            self._buffer.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0


def synthesize_in_subprocess(lines: Sequence[Utterance]) -> Iterator[NDArray[np.float32]]:
    """Speak lines in a new process: the same lines in the same order give the same samples."""
    _import_loader()
    # A forked process would inherit the library's state.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process:
        rate, recordings = process.submit(_synthesize_all, lines).result()
    for samples in recordings:
        yield _resample(samples, rate)


def _synthesize_all(lines: Sequence[Utterance]) -> tuple[int, list[NDArray[np.int16]]]:
    synthesizer = SpeechSynthesizer()
    return synthesizer.rate, [synthesizer.synthesize_raw(*line) for line in lines]


def _resample(samples: NDArray[np.int16], rate: int) -> NDArray[np.float32]:
    # The process that speaks does not import these, and starts in a tenth of the time.
    from scipy.signal import resample_poly

    from spangym.envs.data.log_mel import RATE

    if not len(samples):
        return np.zeros(0, np.float32)
    return resample_poly(samples / 2**15, RATE, rate).astype(np.float32)


def _import_loader() -> Any:
    try:
        import espeakng_loader
    except ImportError as error:
        raise ValueError("speech needs the extra: pip install 'spangym[speech]'") from error
    return espeakng_loader
