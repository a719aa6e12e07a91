"""Images from archives, folders and arrays: read once, kept in HDF5, and refused in one sentence if something is wrong."""

from __future__ import annotations

import hashlib
import io
import pickle
import resource
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from training_cases import fill

from deepzero_sim.datasets.images import cache, cifar10
from deepzero_sim.datasets.images.labelled_images import ImageData, Images
from deepzero_sim.errors import DataError

CLASSES = ("cat", "dog")


def some(count: int, seed: int = 0, size: int = 32) -> Images:
    generator = np.random.default_rng(seed)
    pixels = generator.integers(256, size=(count, size, size, 3), dtype=np.uint8)
    return Images(pixels, np.arange(count) % len(CLASSES))


def assert_same(found: ImageData, train: Images, test: Images) -> None:
    for ours, expected in ((found.train, train), (found.test, test)):
        np.testing.assert_array_equal(ours.pixels, expected.pixels)
        np.testing.assert_array_equal(ours.labels, expected.labels)


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def cifar(path: Path, train: Images, test: Images, meta: Any = None) -> str:
    """Write an archive of the form that CIFAR-10's authors publish; return its md5 checksum."""

    def batch(part: Images) -> dict[bytes, Any]:
        planes = part.pixels.transpose(0, 3, 1, 2).reshape(len(part), -1)
        return {b"data": planes, b"labels": part.labels.tolist(), b"filenames": [b"x"] * len(part)}

    batches = {name: Images(train.pixels[i::5], train.labels[i::5]) for i, name in enumerate(cifar10.TRAIN)}
    named = {name: batch(part) for name, part in {**batches, "test_batch": test}.items()}
    named["batches.meta"] = {b"label_names": [name.encode() for name in CLASSES]} if meta is None else meta
    with tarfile.open(path, "w:gz") as archive:
        for name, content in named.items():
            add(archive, f"cifar-10-batches-py/{name}", pickle.dumps(content, protocol=2))
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "png")
    return content.getvalue()


def by_class(train: Images, test: Images) -> dict[str, bytes]:
    parts = {"train": train, "test": test}
    return {
        f"{name}/{CLASSES[label]}/{i:04}.png": png(pixels)
        for name, part in parts.items()
        for i, (pixels, label) in enumerate(zip(part.pixels, part.labels, strict=True))
    }


def tar_of(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:xz") as archive:
        for name, content in files.items():
            add(archive, name, content)
    return path


def sort_by_class(part: Images) -> Images:
    order = np.argsort(part.labels, kind="stable")
    return Images(part.pixels[order], part.labels[order])


def test_the_authors_archive(tmp_path: Path) -> None:
    train, test = some(10), some(4, 1)
    path = tmp_path / "cifar-10-python.tar.gz"
    md5 = cifar(path, train, test)
    found = cache.load(path, tmp_path / "cache", md5)
    order = np.concatenate([np.arange(10)[i::5] for i in range(5)])
    assert_same(found, Images(train.pixels[order], train.labels[order]), test)
    assert found.classes == CLASSES


def test_a_folder_and_an_archive_by_class(tmp_path: Path) -> None:
    train, test = some(6), some(4, 1)
    files = by_class(train, test)
    for name, content in files.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(content)
    for source in (tmp_path / "folder", tar_of(tmp_path / "images.tar.xz", files)):
        found = cache.load(source, tmp_path / "cache")
        assert_same(found, sort_by_class(train), sort_by_class(test))
        assert found.classes == CLASSES


def test_arrays(tmp_path: Path) -> None:
    train, test = some(6), some(4, 1)
    arrays = {"train_x": train.pixels, "train_y": train.labels, "test_x": test.pixels, "test_y": test.labels}
    np.savez(tmp_path / "arrays.npz", **arrays)
    assert_same(cache.load(tmp_path / "arrays.npz", tmp_path), train, test)


def test_they_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tar_of(tmp_path / "images.tar.xz", by_class(some(4), some(4)))
    first = cache.load(source, tmp_path / "cache")
    monkeypatch.setattr(cache, "read_source", lambda *args: pytest.fail("it was read again"))
    assert_same(cache.load(source, tmp_path / "cache"), first.train, first.test)


def test_what_has_changed_is_read_again(tmp_path: Path) -> None:
    for seed in (0, 1):
        source = tar_of(tmp_path / "images.tar.xz", by_class(some(4, seed), some(4)))
        assert_same(cache.load(source, tmp_path / "cache"), sort_by_class(some(4, seed)), sort_by_class(some(4)))


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return open, (str(self.path), "w")


def test_a_pickle_cannot_run_programs(tmp_path: Path) -> None:
    path = tmp_path / "cifar.tar.gz"
    md5 = cifar(path, some(5), some(2), Malicious(tmp_path / "written"))
    with pytest.raises(DataError, match=r"is not an archive of CIFAR-10's python version .*it would call"):
        cache.load(path, tmp_path, md5)
    assert not (tmp_path / "written").exists()


def damage_archive(folder: Path) -> Path:
    path = folder / "cifar.tar.gz"
    cifar(path, some(5), some(2))
    path.write_bytes(path.read_bytes()[:-400])
    return path


def cut_short(folder: Path) -> Path:
    path = tar_of(folder / "images.tar.xz", by_class(some(20), some(4)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def without_a_class(folder: Path) -> Path:
    files = by_class(some(4), some(4))
    return tar_of(folder / "a.tar.xz", {name: x for name, x in files.items() if not name.startswith("test/dog")})


def of_two_sizes(folder: Path) -> Path:
    return tar_of(folder / "a.tar.xz", {**by_class(some(4), some(4)), "train/dog/9999.png": png(some(1, size=20).pixels[0])})


def no_image(folder: Path) -> Path:
    return tar_of(folder / "a.tar.xz", {**by_class(some(4), some(4)), "train/dog/9999.png": b"none"})


def text(folder: Path) -> Path:
    (folder / "a.txt").write_text("none")
    return folder / "a.txt"


def empty(folder: Path) -> Path:
    (folder / "nothing").mkdir()
    return folder / "nothing"


def other_arrays(folder: Path) -> Path:
    np.savez(folder / "a.npz", x=np.zeros(3))
    return folder / "a.npz"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (damage_archive, "must have the md5 checksum c58f30108f718f92721af3b95e74349a, but has"),
        (cut_short, "cut short"),
        (without_a_class, "has no images of dog in test/"),
        (of_two_sizes, "train/dog/9999.png has 20 x 20 pixels and the first one 32 x 32"),
        (no_image, "train/dog/9999.png cannot be decoded"),
        (text, "is no archive that can be read"),
        (empty, "holds none"),
        (other_arrays, "must hold train_x and test_x"),
        (lambda folder: folder / "missing", "there is nothing"),
    ],
)
def test_what_cannot_be_used_is_said(source: Callable[[Path], Path], says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=says):
        cache.load(source(tmp_path), tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*"))  # nothing half-written


def test_a_disk_that_fills_up_leaves_no_cache(tmp_path: Path) -> None:
    source = tar_of(tmp_path / "images.tar.xz", by_class(some(4), some(4)))

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # nearest to a full disk that a test may make
    try:
        with pytest.raises(OSError, match="File too large"):
            cache.load(source, tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "cache").glob("*"))
    assert len(cache.load(source, tmp_path / "cache").train) == 4


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train_y": np.array([0, 300_000, 1, 1])}, "training images of every class, numbered from 0 without gaps"),
        ({"train_y": np.array([0, 2, 0, 2])}, "training images of every class, numbered from 0 without gaps"),
        ({"train_y": np.array([0.5, 1.5, 0.5, 1.5])}, "labels that are whole numbers, not float64"),
        ({"train_y": np.array([0.0, np.nan, 1.0, 1.0])}, "labels that are whole numbers, not float64"),
        ({"train_y": np.array(["0", "1", "0", "1"])}, "labels that are whole numbers, not <U1"),
        ({"test_y": np.array([0, 1, 2, 4])}, "must have labels from 0 to 1"),
        ({"test_y": np.array([0, 1, -1, 0])}, "must have labels from 0 to 1"),
        ({"train_x": np.zeros((4, 0, 8, 3), np.uint8), "test_x": np.zeros((4, 0, 8, 3), np.uint8)}, "images of some size"),
    ],
    ids=["large", "gap", "halves", "NaN", "text", "untrained", "negative", "no pixels"],
)
def test_wrong_arrays_are_said(changes: dict[str, np.ndarray], says: str, tmp_path: Path) -> None:
    images = some(4)
    arrays = {f"{name}_{part}": x for name in ("train", "test") for part, x in (("x", images.pixels), ("y", images.labels))}
    np.savez(tmp_path / "a.npz", **(arrays | changes))
    with pytest.raises(DataError, match=says):
        cache.load(tmp_path / "a.npz", tmp_path / "cache")


def test_a_single_array_is_said(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(3))
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    with pytest.raises(DataError, match="must hold train_x and test_x"):
        cache.load(tmp_path / "a.npz", tmp_path / "cache")


@pytest.mark.parametrize("left", [0, 2, 10])
def test_a_full_disk_leaves_no_cache(tmp_path: Path, tiny_disk: Path, left: int) -> None:
    source = tar_of(tmp_path / "images.tar.xz", by_class(some(40), some(4)))
    filler = fill(tiny_disk, 4096 * left)
    with pytest.raises(OSError, match=r"[Nn]o space left|errno = 28"):
        cache.load(source, tiny_disk)
    assert [path.name for path in tiny_disk.iterdir()] == ["filler"]
    filler.unlink()
    assert len(cache.load(source, tiny_disk).train) == 40


def test_a_damaged_cache_is_refused(tmp_path: Path) -> None:
    cache.load(tar_of(tmp_path / "images.tar.xz", by_class(some(4), some(4))), tmp_path / "cache")
    (kept,) = (tmp_path / "cache").glob("*.h5")
    kept.write_bytes(kept.read_bytes()[:3000])
    with pytest.raises(DataError, match="cannot be read as HDF5 images"):
        cache.load_file(kept)


def test_statistics() -> None:
    part = some(7)
    mean, deviation = part.statistics()
    scaled = part.pixels / 255
    np.testing.assert_allclose(mean, scaled.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(deviation, scaled.std((0, 1, 2)), rtol=1e-9)
