import builtins
import hashlib
import io
import json
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spangym.envs import SB3SpanControlVecEnv, SpanControlEnv
from spangym.envs.data.dataset import (
    Dataset,
    MixtureDataset,
    RepeatedLetterDataset,
    Stream,
    TextDataset,
)
from spangym.envs.data.dataset_registry import make_dataset, validate_dataset_name
from spangym.envs.data.files import ArrayDataset, AudioDataset, FilesDataset, make_file_dataset
from spangym.envs.data.log_mel import HOP, MELS, RATE, WINDOW, log_mel, mel_filterbank
from spangym.envs.env_config import parse_env_kwargs

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file of bytes, an array, several of them, or audio below the test's folder."""

    def write(name: str, content: Any, rate: int = RATE) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, dict):
            np.savez(path, **content)
        elif path.suffix == ".npy":
            np.save(path, content)
        else:
            with path.open("wb") as file:
                soundfile.write(file, content, rate, format=path.suffix[1:])
        return path

    return write


def tone(seconds: float = 1.0, rate: int = RATE, hertz: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


def draw(source: Dataset, chunks: int = 2, ctx: int = 4, seed: int = 0) -> Stream:
    return source.sample(np.random.default_rng(seed), chunks, ctx)


def refused(make: Callable[[], object], *said: object) -> str:
    """The message of what is refused; it is one line and says all of these."""
    with pytest.raises(ValueError, match=r".") as error:
        make()
    message = str(error.value)
    assert "\n" not in message
    for each in said:
        assert str(each) in message
    return message


# Bytes


@given(
    length=st.integers(1, 300),
    chunks=st.integers(1, 4),
    ctx=st.integers(1, 20),
    split=st.sampled_from(["train", "evaluation"]),
    seed=st.integers(0, 9),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_streams_are_passages_of_their_split(
    write: Write, length: int, chunks: int, ctx: int, split: str, seed: int
):
    content = np.random.default_rng(length).bytes(length)
    path = write("a.bin", content)
    boundary = length * 4 // 5
    part = content[:boundary] if split == "train" else content[boundary:]
    if not part:
        refused(lambda: FilesDataset(path, split), path)
        return
    source = FilesDataset(path, split)
    if len(part) < chunks * ctx:
        refused(lambda: draw(source, chunks, ctx, seed), path, len(part), chunks * ctx)
        return
    stream = draw(source, chunks, ctx, seed)
    assert stream.content.dtype == np.uint8
    assert stream.content.shape == (chunks, ctx)
    assert stream.content_types == ("a.bin",) * chunks
    assert stream.content.tobytes() in part
    np.testing.assert_array_equal(stream.content, draw(source, chunks, ctx, seed).content)


def test_splits_do_not_overlap(write: Write):
    path = write("a.bin", bytes(range(250)))
    whole = draw(FilesDataset(path, "train"), 20, 10), draw(FilesDataset(path, "evaluation"), 5, 10)
    assert b"".join(each.content.tobytes() for each in whole) == bytes(range(250))


def test_files_are_drawn_at_odds_that_go_with_their_length(write: Write):
    write("long.txt", b"l" * 3000)
    write("deep/er/short.txt", b"s" * 1000)
    write("tiny.txt", b"t" * 9)
    write("empty.txt", b"")
    write(".hidden.txt", b"h" * 9000)
    write(".git/hidden.txt", b"h" * 9000)
    folder = write("deep/empty.txt", b"").parents[1]
    source = FilesDataset(folder, "train")
    generator = np.random.default_rng(0)
    drawn = [source.sample(generator, 2, 10) for _ in range(400)]
    kinds = [each.content_types[0] for each in drawn]
    assert set(kinds) == {"long.txt", "deep/er/short.txt"}
    assert kinds.count("long.txt") / len(kinds) == pytest.approx(0.75, abs=0.06)
    for each in drawn:
        assert {*each.content.flat} == {ord(Path(each.content_types[0]).name[0])}
    assert draw(source, 1, 2400).content_types == ("long.txt",)
    refused(lambda: draw(source, 1, 2401), folder, "'long.txt'", 2400, 2401)


def test_a_hidden_file_can_be_named(write: Write):
    assert (
        draw(FilesDataset(write(".hidden", b"h" * 50), "train")).content_types == (".hidden",) * 2
    )


def test_hashes_are_of_the_split(write: Write):
    folder = write("a.txt", b"a" * 50).parent
    write("b.txt", b"b" * 10)
    assert FilesDataset(folder, "train").fingerprint() == {
        "a.txt": hashlib.sha256(b"a" * 40).hexdigest(),
        "b.txt": hashlib.sha256(b"b" * 8).hexdigest(),
    }


@pytest.mark.parametrize("kind", [FilesDataset, ArrayDataset, AudioDataset, make_file_dataset])
@pytest.mark.parametrize(
    "name", ["nowhere", "", "nul\0", "x" * 300, "line\nbreak", "a.txt/b", "folder"]
)
def test_there_must_be_a_file(tmp_path: Path, write: Write, kind: Any, name: str):
    write("a.txt", b"a")
    write("folder/.hidden", b"a")
    path = str(tmp_path / name) if name else str(tmp_path / "folder")
    refused(lambda: kind(path, "train"), repr(path))


def test_nothing_but_regular_files_is_read(tmp_path: Path, write: Write):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path)
    write("a.txt", b"a" * 50)
    assert set(FilesDataset(tmp_path, "train").fingerprint()) == {"a.txt"}
    refused(lambda: FilesDataset(tmp_path / "fifo", "train"), tmp_path / "fifo")
    refused(lambda: FilesDataset("/dev/zero", "train"), "/dev/zero")


@pytest.mark.parametrize("name", ["a.txt", "a.npy", "a.npz", "a.wav"])
def test_files_that_may_not_be_read(write: Write, monkeypatch: pytest.MonkeyPatch, name: str):
    path = write(name, b"a" * 99)
    path.chmod(0)
    if os.access(path, os.R_OK):  # Root may read all; so it is refused in its stead.

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        for module, function in ((np, "fromfile"), (np, "load"), (soundfile, "read")):
            monkeypatch.setattr(module, function, refuse)
    refused(lambda: make_file_dataset(path, "train"), repr(str(path)), "cannot be read")


def test_folders_that_may_not_be_read(write: Write, monkeypatch: pytest.MonkeyPatch):
    folder = write("folder/below/a.txt", b"a" * 50).parent

    def scandir(path: Any) -> Any:
        if Path(path) == folder:
            raise PermissionError(13, "Permission denied", str(folder))
        return real(path)

    real = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)
    refused(lambda: FilesDataset(folder.parent, "train"), f"{folder!s}", "Permission denied")


@pytest.mark.parametrize("kind", [FilesDataset, ArrayDataset, AudioDataset])
def test_splits_are_checked(write: Write, kind: Any):
    path = write("a.npy" if kind is ArrayDataset else "a.wav", np.zeros((99, 2)))
    refused(lambda: kind(path, "test"), "'test'", "train", "evaluation")


# Arrays


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, ">i4"])
def test_integers_are_bytes(write: Write, dtype: Any):
    content = np.arange(200).astype(dtype)
    for source in (
        ArrayDataset(content, "evaluation"),
        ArrayDataset(write("a.npy", content), "evaluation"),
        ArrayDataset(torch.from_numpy(content.astype(np.int32)), "evaluation"),
    ):
        stream = draw(source, 4, 10)
        assert source.channels == 0
        assert stream.content.dtype == np.uint8
        assert stream.content.ravel().tolist() == list(range(160, 200))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_floats_are_frames(write: Write, dtype: Any):
    content = np.arange(150).reshape(50, 3).astype(dtype)
    for source in (
        ArrayDataset(content, "train"),
        ArrayDataset(write("a.npy", content), "train"),
        ArrayDataset(torch.from_numpy(content.astype(np.float32)), "train"),
    ):
        stream = draw(source, 4, 10)
        assert source.channels == 3
        assert stream.content.dtype == np.dtype(np.float32)
        np.testing.assert_array_equal(stream.content.reshape(40, 3), content[:40])


def test_tensors_of_any_kind():
    frames = torch.arange(24.0).reshape(8, 3)
    for tensor in (frames.bfloat16(), frames.double().requires_grad_(), frames.T.clone().T):
        np.testing.assert_array_equal(draw(ArrayDataset(tensor, "train"), 2, 3).content.sum(), 153)
    refused(lambda: ArrayDataset(frames.to(torch.complex64), "train"), "the array", "complex64")


def test_arrays_handed_in_are_copied():
    frames = np.zeros((20, 2), np.float32)
    source = ArrayDataset(frames, "train")
    frames += 1
    assert not draw(source).content.any()
    assert frames.flags.writeable


def test_several_sequences():
    content = np.arange(6)[:, None, None] + np.zeros((6, 10, 2))
    source = ArrayDataset(content, "train")
    drawn = [draw(source, 2, 4, seed) for seed in range(60)]
    assert {float(each.content.mean()) for each in drawn} == set(range(6))
    assert all(each.content.std() == 0 for each in drawn)
    digest = hashlib.sha256(content[:, :8].astype(np.float32).tobytes()).hexdigest()
    assert source.fingerprint() == {"array": digest}


def test_each_array_of_an_npz_is_a_sequence(write: Write):
    arrays = {"low": np.zeros((20, 2)), "high": np.ones((20, 2))}
    source = ArrayDataset(write("a.npz", arrays), "train")
    drawn = [draw(source, seed=seed) for seed in range(20)]
    assert {each.content_types for each in drawn} == {("low", "low"), ("high", "high")}
    assert all((each.content == (each.content_types[0] == "high")).all() for each in drawn)
    assert set(source.fingerprint()) == {"low", "high"}


def test_a_folder_of_arrays(write: Write):
    write("a.npz", {"x": np.zeros((20, 2))})
    write("b/a.npz", {"x": np.ones((20, 2))})
    folder = write("c.npy", np.ones((20, 2))).parent
    hashes = ArrayDataset(folder, "train").fingerprint()
    assert set(hashes) == {"a.npz/x", "b/a.npz/x", "c.npy"}
    assert hashes["b/a.npz/x"] == hashes["c.npy"] != hashes["a.npz/x"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (np.array([[0.0, np.nan]] * 9), "NaN"),
        (np.array([[0.0, -np.inf]] * 9), "infinite"),
        (np.array([[1e300]] * 9), "float32"),
        (np.array([3, 256] * 9), "3..256"),
        (np.array([3, -1] * 9), "-1..3"),
        (np.array([2**64 - 1], np.uint64), 2**64 - 1),
        (np.zeros(9), "float64 of shape (9,)"),
        (np.zeros((9, 2), int), "int64 of shape (9, 2)"),
        (np.zeros((9, 2), complex), "complex128"),
        (np.zeros(9, bool), "bool"),
        (np.array(["a"] * 9), "<U1"),
        (np.float64(3), "shape ()"),
        (np.zeros((2, 2, 2, 2)), "shape (2, 2, 2, 2)"),
        (np.zeros((9, 0)), "(9, 0)"),
        (np.zeros((0, 9)), "(0, 9)"),
        (np.zeros(0, int), "no tokens"),
    ],
)
def test_arrays_of_another_form(write: Write, content: np.ndarray, said: object):
    refused(lambda: ArrayDataset(content, "train"), "the array", said)
    path = write("a.npy", content)
    refused(lambda: ArrayDataset(path, "train"), path, said)
    path = write("a.npz", {"name": content})
    refused(lambda: ArrayDataset(path, "train"), path, said)


def test_arrays_of_a_source_are_alike(write: Write):
    path = write("a.npz", {"x": np.zeros((20, 2)), "y": np.zeros((20, 3))})
    refused(lambda: ArrayDataset(path, "train"), path, "'x'", "'y'", "2 channels", "3 channels")
    folder = write("b/x.npy", np.zeros((20, 2))).parent
    write("b/y.npy", np.arange(20))
    refused(lambda: ArrayDataset(folder, "train"), folder / "x.npy", folder / "y.npy", "bytes")


def test_arrays_are_not_unpickled(write: Write):
    class Harm:
        def __reduce__(self) -> Any:
            return pytest.fail, ("unpickled",)

    path = write("a.npy", np.array([Harm()], dtype=object))
    refused(lambda: ArrayDataset(path, "train"), path)
    path.write_bytes(pickle.dumps(Harm()))
    refused(lambda: ArrayDataset(path, "train"), path)


@pytest.mark.parametrize("shape", ["(10**15,)", "(999999999999999,)", "(-3,)"])
def test_headers_that_promise_too_much(write: Write, shape: str):
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    path = write(
        "a.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    )
    refused(lambda: ArrayDataset(path, "train"), path)


def array_bytes(name: str) -> bytes:
    buffer = io.BytesIO()
    arrays = np.arange(40), np.arange(40)
    {"a.npy": np.save, "a.npz": np.savez, "c.npz": np.savez_compressed}[name](buffer, arrays[0])
    return buffer.getvalue()


@given(
    name=st.sampled_from(["a.npy", "a.npz", "c.npz"]),
    cut=st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 0.99), st.integers(0, 255)), max_size=4),
)
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)
def test_damaged_arrays(write: Write, name: str, cut: float, flips: list[tuple[float, int]]):
    content = bytearray(array_bytes(name))
    for place, value in flips:
        content[int(place * len(content))] = value
    path = write(name, bytes(content[: int(np.ceil(cut * len(content)))]))
    try:
        ArrayDataset(path, "train")
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017


# Audio


def test_frames_are_those_of_torch():
    samples = np.random.default_rng(0).normal(size=RATE // 2) * 0.1
    spectrum = torch.stft(
        torch.from_numpy(samples),
        WINDOW,
        HOP,
        window=torch.hann_window(WINDOW, dtype=torch.float64),
        return_complex=True,
    )
    power = spectrum[:, :-1].abs().numpy() ** 2
    log = np.log10(np.maximum(mel_filterbank(RATE, WINDOW, MELS) @ power, 1e-10))
    whisper = (np.maximum(log, log.max() - 8) + 4) / 4
    np.testing.assert_allclose(log_mel(samples), whisper.T, atol=1e-6)


def test_filters_are_those_of_librosa():
    # librosa.filters.mel(sr=22050, n_fft=2048), as the documentation of its ports prints it.
    bank = mel_filterbank(22050, 2048, 128)
    assert bank.shape == (128, 1025)
    first = [0, 0.016182853208219942, 0.032365706416439884, 0.028990088037379964]
    second = [0, 0, 0, 0.009779235793639925, 0.025962089001859864, 0.035393705451959974]
    np.testing.assert_allclose(bank[0, :4], first, rtol=1e-12)
    np.testing.assert_allclose(bank[1, :6], second, rtol=1e-12)


@pytest.mark.parametrize("rate", [1500, 8000, RATE, 44100])
def test_filters_have_equal_areas(rate: int):
    bank = mel_filterbank(rate, 4096, 20)
    np.testing.assert_allclose(bank.sum(axis=1) * rate / 4096, 1, rtol=0.02)


@pytest.mark.parametrize("hertz", [200.0, 440.0, 3000.0])
@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
def test_a_tone_lies_in_its_band(write: Write, hertz: float, rate: int, suffix: str):
    source = AudioDataset(write("a" + suffix, tone(1, rate, hertz), rate), "train")
    stream = draw(source, 2, 30)
    assert source.channels == 80
    assert stream.content.dtype == np.float32
    assert stream.content.shape == (2, 30, 80)
    assert stream.content_types == ("a" + suffix,) * 2
    bins = np.fft.rfftfreq(WINDOW, 1 / RATE)
    bank = mel_filterbank(RATE, WINDOW, MELS)
    centers = bank @ bins / bank.sum(axis=1)
    # The ends may ring.
    bands = source.sample(np.random.default_rng(0), 1, 80).content[0, 5:-5].argmax(axis=1)
    assert np.abs(centers[bands] - hertz).max() < 1.5 * RATE / WINDOW


def test_lengths_and_splits_of_audio(write: Write):
    path = write("a.wav", np.concatenate([tone(4), tone(1, hertz=3000)]))
    train, evaluation = (AudioDataset(path, split) for split in ("train", "evaluation"))
    assert draw(train, 4, 100).content.shape == (4, 100, 80)
    refused(lambda: draw(train, 1, 401), path, 400, 401)
    refused(lambda: draw(evaluation, 1, 101), path, 100, 101)
    low, high = (draw(each, 1, 100).content[0].argmax(axis=1) for each in (train, evaluation))
    assert low.max() < high.min()


def test_the_training_part_knows_nothing_of_the_other(write: Write):
    quiet = 0.01 * tone(4)
    hashes = [
        AudioDataset(write("a.wav", np.append(quiet, end)), "train").fingerprint()
        for end in (tone(1), tone(1, hertz=3000), np.zeros(RATE))
    ]
    assert hashes[0] == hashes[1] == hashes[2]


def test_channels_are_mixed(write: Write):
    left, right = tone(1), tone(1, hertz=2000)
    stereo = AudioDataset(write("a.wav", np.stack([left, right], axis=1)), "train")
    mono = AudioDataset(write("b.wav", (left + right) / 2), "train")
    difference = draw(stereo, 1, 80).content - draw(mono, 1, 80).content
    # Rounded to 16 bits, the files are alike where they are loud.
    loud = draw(mono, 1, 80).content > 0.5
    assert loud.any()
    assert np.abs(difference[loud]).max() < 0.01


def test_resampling_keeps_the_frames(write: Write):
    near, far = (
        draw(AudioDataset(write(f"{rate}.wav", tone(1, rate), rate), "train"), 1, 80).content[
            0, 5:75
        ]
        for rate in (RATE, 44100)
    )
    loud = near > near.max() - 0.5
    np.testing.assert_allclose(near[loud], far[loud], atol=0.02)


def test_silence_and_blocks():
    assert (log_mel(np.zeros(RATE)) == -1.5).all()
    # Longer than a block.
    samples = np.random.default_rng(0).normal(size=45 * RATE)
    frames = log_mel(samples)
    assert frames.shape == (4500, 80)
    alone = log_mel(samples[40 * RATE :])
    np.testing.assert_allclose(frames[4010:], alone[10:], atol=1e-6)


@pytest.mark.parametrize("samples", [0, 1, 159])
def test_audio_of_no_frame(write: Write, samples: int):
    assert log_mel(np.zeros(samples)).shape == (0, 80)
    path = write("a.wav", np.zeros(samples))
    refused(lambda: AudioDataset(path, "train"), path)


@pytest.mark.parametrize("samples", [160, 161, 200, 201, 399, 400])
def test_audio_of_few_frames(samples: int):
    assert log_mel(tone()[:samples]).shape == (samples // 160, 80)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_samples_are_finite(tmp_path: Path, wrong: float):
    soundfile.write(tmp_path / "a.wav", np.array([0, wrong] * 400), RATE, subtype="FLOAT")
    refused(lambda: AudioDataset(tmp_path / "a.wav", "train"), tmp_path / "a.wav", "NaN")


@pytest.mark.parametrize("content", [b"", b"no audio", b"RIFF" + bytes(40)])
def test_what_is_no_audio(write: Write, content: bytes):
    path = write("a.wav", content)
    refused(lambda: AudioDataset(path, "train"), path, "audio")


@given(cut=st.floats(0, 1), flips=st.lists(st.tuples(st.floats(0, 0.99), st.integers(0, 255))))
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25
)
@pytest.mark.parametrize("suffix", [".flac", ".ogg"])
def test_damaged_audio(write: Write, suffix: str, cut: float, flips: list[tuple[float, int]]):
    content = bytearray(write("whole" + suffix, tone(0.1)).read_bytes())
    for place, value in flips:
        content[int(place * len(content))] = value
    path = write("a" + suffix, bytes(content[: int(np.ceil(cut * len(content)))]))
    try:
        AudioDataset(path, "train")
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize("error", [ImportError, OSError])
def test_the_extra_is_named(write: Write, monkeypatch: pytest.MonkeyPatch, error: type[Exception]):
    path = write("a.wav", tone())

    def refuse(name: str, *rest: Any, **named: Any) -> Any:
        if name == "soundfile":
            raise error("sndfile library not found")
        return real(name, *rest, **named)

    real = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", refuse)
    refused(lambda: AudioDataset(path, "train"), "audio", "pip install 'spangym[audio]'")


# By name


def test_suffixes_decide(write: Write):
    assert isinstance(make_file_dataset(write("t/a.txt", b"a" * 9), "train"), FilesDataset)
    assert isinstance(make_file_dataset(write("n/a.npy", np.zeros((9, 2))), "train"), ArrayDataset)
    assert isinstance(
        make_file_dataset(write("n/a.npz", {"x": np.zeros((9, 2))}), "train"), ArrayDataset
    )
    assert isinstance(make_file_dataset(write("s/a.flac", tone()), "train"), AudioDataset)
    audio = write("s/below/a.WAV", tone())
    assert isinstance(make_file_dataset(str(audio), "train"), AudioDataset)
    source = make_file_dataset(audio.parents[1], "train")
    assert isinstance(source, AudioDataset)
    assert set(source.fingerprint()) == {"a.flac", "below/a.WAV"}
    assert isinstance(make_file_dataset(audio.parents[2] / "t", "train"), FilesDataset)
    assert isinstance(make_file_dataset(audio.parents[2] / "n", "train"), ArrayDataset)


@pytest.mark.parametrize(
    "names", [("a.txt", "b.wav"), ("a.npy", "b.wav"), ("a.npy", "deep/b"), ("a", "b.npy", "c.ogg")]
)
def test_folders_are_of_one_kind(tmp_path: Path, write: Write, names: tuple[str, ...]):
    for name in names:
        write(name, b"a" * 99)
    refused(lambda: make_file_dataset(tmp_path, "train"), tmp_path, "separate", *map(repr, names))


def test_hidden_files_do_not_mix(write: Write):
    write(".DS_Store", b"a")
    assert isinstance(
        make_file_dataset(write("a.npy", np.arange(99)).parent, "train"), ArrayDataset
    )


def test_names_of_files(write: Write, monkeypatch: pytest.MonkeyPatch):
    path = write("text", b"a" * 99)
    monkeypatch.chdir(path.parent)
    assert isinstance(make_dataset("text", "train"), TextDataset)
    assert isinstance(make_dataset("./text", "train"), FilesDataset)
    assert isinstance(make_dataset(str(path.parent), "train"), FilesDataset)
    validate_dataset_name("./text")


@pytest.mark.parametrize("name", ["", "texd", "x" * 300, "nul\0", "text/below"])
def test_names_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.chdir(tmp_path)
    for check in (validate_dataset_name, lambda name: make_dataset(name, "train")):
        refused(lambda check=check: check(name), repr(name))


def test_mixtures_copies_and_pickles(write: Write):
    source = FilesDataset(write("a.txt", bytes(range(250))), "train")
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(draw(source).content, draw(copy).content)
    mixture = MixtureDataset([source, RepeatedLetterDataset()])
    assert draw(mixture, 20, 5).content.shape == (20, 5)
    with pytest.raises(ValueError, match="same channels"):
        MixtureDataset([source, ArrayDataset(np.zeros((9, 2)), "train")])


STRANGE = os.fsdecode(b"caf\xe9\x1b[31m.txt")
SHOWN = r"caf\xe9\x1b[31m.txt"
ENV_SIZES: dict[str, Any] = {"dims": 8, "heads": 2, "ctx": 16, "chunks_per_episode": 2}


def sb3_env(dataset: str) -> SB3SpanControlVecEnv:
    config, components = parse_env_kwargs({"dataset": dataset, **ENV_SIZES})
    return SB3SpanControlVecEnv(config, 1, components)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (STRANGE, b"to be or not " * 40),
        (f"{STRANGE}/{STRANGE}", b"to be or not " * 40),
        (f"{STRANGE}.npy", np.zeros((200, 3), np.float32)),
        (f"{STRANGE}.wav", tone()),
    ],
    ids=["text", "folder", "array", "audio"],
)
def test_names_that_are_not_utf_8_are_escaped(write: Write, name: str, content: Any):
    place = write(f"data/{name}", content).parents[name.count("/")]
    for path in (place, place / name):
        dataset = make_dataset(str(path), "train")
        (content_type,) = dataset.fingerprint()
        assert SHOWN in content_type
        env = SpanControlEnv(dataset=str(path), **ENV_SIZES, render_mode="ansi")
        stable = sb3_env(str(path))
        infos = [env.reset(seed=0)[1], env.step(3)[4]]
        stable.reset()
        infos += [*stable.reset_infos, *stable.step(np.array([3]))[3]]
        assert {info["content_type"] for info in infos} == {content_type}
        assert env.content_type() == content_type
        for shown in (json.dumps(infos, ensure_ascii=False), env.render(), repr(infos)):
            assert SHOWN.replace("\\", "") in shown.replace("\\", "")
            shown.encode()
            assert "\x1b" not in shown


def test_messages_escape_names(tmp_path: Path):
    missing = tmp_path / STRANGE
    message = refused(lambda: FilesDataset(missing, "train"), SHOWN)
    message.encode()
    assert message.isprintable()


class StrangeTypes(Dataset):
    def sample(self, generator: np.random.Generator, chunks: int, ctx: int) -> Stream:
        content = generator.integers(256, size=(chunks, ctx)).astype(np.uint8)
        return Stream(content, (STRANGE,) * chunks)


def test_content_types_of_the_users_own_are_escaped():
    env = SpanControlEnv(dataset=StrangeTypes(), **ENV_SIZES)
    assert env.reset(seed=0)[1] == {"content_type": SHOWN}
    assert env.step(3)[4]["content_type"] == SHOWN


def test_a_binary_file_beside_texts_is_named(write: Write, tmp_path: Path):
    write("texts/a.txt", b"to be or not " * 40)
    write("texts/below/picture.png", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" * 40)
    write("texts/late.txt", b"x" * 8000 + b"\0")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for split in ("train", "evaluation", "train"):
            make_dataset(str(tmp_path / "texts"), split)
    (message,) = [str(each.message) for each in warned]
    assert "picture.png' is a binary file beside texts" in message


@pytest.mark.parametrize("names", [["a.txt"], ["a.bin"], ["a.bin", "b.bin"]])
def test_binary_files_alone_are_meant(write: Write, tmp_path: Path, names: list[str]):
    for name in names:
        write(f"files/{name}", bytes(range(1, 256)) if name == "a.txt" else bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_dataset(str(tmp_path / "files"), "train")
        make_dataset(str(tmp_path / "files" / names[0]), "train")


def test_a_list_of_files_is_read_as_a_folder_of_them(write: Write, tmp_path: Path):
    paths = [write(f"texts/{name}", name.encode() * 50) for name in ("b/one.txt", "a.txt", "c.md")]

    folder = tmp_path / "texts"
    for split in ("train", "evaluation"):
        for listing in (paths, [*map(str, reversed(paths))], tuple(paths)):
            listed, whole = make_file_dataset(listing, split), make_file_dataset(folder, split)
            assert listed.fingerprint() == whole.fingerprint()
            streams = [each.sample(np.random.default_rng(3), 2, 8) for each in (listed, whole)]
            assert streams[0].content_types == streams[1].content_types
            assert streams[0].content.tolist() == streams[1].content.tolist()
    config, _ = parse_env_kwargs({"dataset": paths})
    assert config.dataset == tuple(map(str, paths))
    assert config.make_dataset().fingerprint() == make_file_dataset(folder, "train").fingerprint()


@pytest.mark.parametrize(
    ("names", "words"),
    [([], "at least one"), (["a.txt", "gone.txt"], "gone.txt"), (["a.txt", "a.txt"], "twice")],
)
def test_wrong_lists_of_files(names: list[str], words: str, write: Write, tmp_path: Path):
    write("a.txt", b"abc" * 50)
    with pytest.raises(ValueError, match=words):
        SpanControlEnv(dataset=[tmp_path / name for name in names])


def test_transcripts_beside_recordings_are_ignored(write: Write, tmp_path: Path):
    wave = np.sin(np.arange(RATE) / 20)
    paths = [write("spoken/one.wav", wave), write("spoken/sub/two.wav", wave / 2)]
    fingerprint = make_file_dataset(tmp_path / "spoken", "train").fingerprint()
    transcripts = [write("spoken/one.txt", b"one"), write("spoken/sub/two.TXT", b"two")]
    assert make_file_dataset(tmp_path / "spoken", "train").fingerprint() == fingerprint
    assert make_file_dataset([*paths, *transcripts], "train").fingerprint() == fingerprint
    write("spoken/notes.txt", b"not of a recording")
    with pytest.raises(ValueError, match=r"'notes\.txt' and 'one\.wav'"):
        make_file_dataset(tmp_path / "spoken", "train")
