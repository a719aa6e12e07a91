"""Layouts that people have their images in: each is read, or refused in a sentence; what is left out is counted and said."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms
from test_images import CLASSES, add, assert_same, by_class, cifar, png, some, sort_by_class

from deepzero_sim.datasets.images import archives, cache
from deepzero_sim.datasets.images.class_folders import ClassFolders, SkippedFiles, reason_to_skip
from deepzero_sim.datasets.images.decoder import header_bits
from deepzero_sim.datasets.images.labelled_images import ImageData, Images, relabel
from deepzero_sim.errors import DataError

TRAIN, TEST = some(6), some(4, 1)
FILES = by_class(TRAIN, TEST)
FEW = {f"{part}/{label}/1.png": png(np.full((4, 4, 3), 9, np.uint8)) for part in ("train", "test") for label in "ab"}


def folder_of(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def tar_of(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            add(archive, name, content)
    return path


def zip_of(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


PACKED: dict[str, Callable[[Path, dict[str, bytes]], Path]] = {
    "folder": lambda folder, files: folder_of(folder / "images", files),
    "tar": lambda folder, files: tar_of(folder / "images.tar.gz", files),
    "zip": lambda folder, files: zip_of(folder / "images.zip", files),
}


def load(source: Path, **options: Any) -> ImageData:
    return cache.load(source, source.parent / "cache", **options)


def encode(pixels: np.ndarray | Image.Image, form: str, **options: Any) -> bytes:
    content = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(content, form, **options)
    return content.getvalue()


def with_(name: str, content: bytes) -> dict[str, bytes]:
    return {**FEW, name: content}


@pytest.mark.parametrize("how", PACKED)
@pytest.mark.parametrize("within", ["", "./", "images/", "a/b/", "/"])
def test_class_folders_are_found_wherever_they_lie(tmp_path: Path, how: str, within: str) -> None:
    if how == "folder" and within == "/":
        pytest.skip("no folder has such names")
    found = load(PACKED[how](tmp_path, {within + name: content for name, content in FILES.items()}))
    assert_same(found, sort_by_class(TRAIN), sort_by_class(TEST))
    assert found.classes == CLASSES and not found.notes


@pytest.mark.parametrize("how", PACKED)
def test_what_is_left_out_is_counted_and_kept_with_the_cache(tmp_path: Path, how: str) -> None:
    others = {
        ".DS_Store": b"x",
        "train/cat/.DS_Store": b"x",
        "train/cat/._0000.png": b"x",
        "__MACOSX/train/cat/._0000.png": b"x",
        "train/dog/Thumbs.db": b"x",
        "README.md": b"x",
        "train/cat/notes.TXT": b"x",
        "train/cat/1.heic": b"x",
        "train/cat/1.eps": b"%!PS",
        "preview.png": png(TRAIN.pixels[0]),
        "val/cat/0.png": png(TRAIN.pixels[0]),
        "train/cat/more/0.png": png(TRAIN.pixels[0]),
    }
    source = PACKED[how](tmp_path, {**FILES, **others})
    for _ in range(2):
        found = load(source)
        assert_same(found, sort_by_class(TRAIN), sort_by_class(TEST))
        said = "; ".join(found.notes)
        assert "left out 5 files of the system" in said and ".ds_store 2" in said.lower() and "._* 2" in said
        assert "left out 4 files that are not read as images" in said and ".heic 1" in said and ".txt 1" in said
        assert "left out 3 files that lie in no train/<class>/ or test/<class>/ (.png 3)" in said


FORMATS = ["png", "webp", "tiff", "bmp", "gif", "ppm", "jpeg2000", "tga", "qoi", "avif", "sgi", "pcx"]
SUFFIXES = {"jpeg2000": "jp2", "tiff": "TIF", "webp": "WebP"}


@pytest.mark.parametrize("form", FORMATS)
def test_whatever_pillow_reads_is_read(tmp_path: Path, form: str) -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[:2] = 255
    options = {"lossless": True} if form == "webp" else {"quality": 100, "subsampling": "4:4:4"} if form == "avif" else {}
    found = load(folder_of(tmp_path / "t", with_(f"train/a/9.{SUFFIXES.get(form, form)}", encode(pixels, form, **options))))
    assert len(found.train) == 3 and not found.notes
    assert np.abs(found.train.pixels[1].astype(int) - pixels).max() <= 2


def grey16(kind: str) -> bytes:
    levels = np.arange(0, 4096, 256, dtype=np.uint16).reshape(4, 4)
    return encode(levels, kind)


def rgb16_png(channels: int, colour_type: int) -> bytes:
    import struct  # noqa: PLC0415 - only here
    import zlib  # noqa: PLC0415

    rows = b"".join(b"\0" + np.arange(4 * channels, dtype=">u2").tobytes() for _ in range(4))

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, colour_type, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def jp2_of_12_bits() -> bytes:
    content = bytearray(encode(np.full((4, 4, 3), 7, np.uint8), "jpeg2000"))
    content[content.index(b"\xff\x4f\xff\x51") + 42] = 11
    return bytes(content)


DEEP = {
    "grey png": ("1.png", lambda: grey16("png")),
    "grey tiff": ("1.tif", lambda: grey16("tiff")),
    "grey jp2": ("1.jp2", lambda: grey16("jpeg2000")),
    "grey pgm": ("1.pgm", lambda: b"P5\n4 4\n65535\n" + bytes(32)),
    "float tiff": ("1.tif", lambda: encode(np.ones((4, 4), np.float32), "tiff")),
    "int tiff": ("1.tif", lambda: encode(np.ones((4, 4), np.int32), "tiff")),
    "colour png": ("1.png", lambda: rgb16_png(3, 2)),
    "colour and alpha png": ("1.png", lambda: rgb16_png(4, 6)),
    "grey and alpha png": ("1.png", lambda: rgb16_png(2, 4)),
    "colour ppm": ("1.ppm", lambda: b"P6\n4 4\n1023\n" + bytes(96)),
    "colour jp2": ("1.jp2", jp2_of_12_bits),
}


@pytest.mark.parametrize("case", DEEP)
def test_more_than_eight_bits_are_never_cut_off(tmp_path: Path, case: str) -> None:
    name, content = DEEP[case]
    with pytest.raises(DataError, match=rf"train/a/0{name}.* has (12|16|32) bits a channel, and images are kept in 8"):
        load(folder_of(tmp_path / "t", with_(f"train/a/0{name}", content())))


def test_the_depth_of_an_avif_is_that_of_its_header() -> None:
    """Pillow can neither write it nor tell it: its decoder gives eight bits whatever there were."""
    content = bytearray(encode(np.full((4, 4, 3), 7, np.uint8), "avif"))
    assert header_bits("AVIF", bytes(content)) == 8
    content[content.index(b"av1C") + 6] |= 0x40
    assert header_bits("AVIF", bytes(content)) == 10


def test_grey_palettes_and_two_levels_are_what_they_look_like(tmp_path: Path) -> None:
    grey = np.arange(16, dtype=np.uint8).reshape(4, 4)
    palette = Image.fromarray(grey).convert("P")
    palette.putpalette([level for i in range(256) for level in (i, 255 - i, 7)])
    two = Image.fromarray(grey > 7)
    files = {
        "train/a/2.png": encode(grey, "png"),
        "train/a/3.png": encode(palette, "png"),
        "train/a/4.png": encode(two, "png"),
    }
    found = load(folder_of(tmp_path / "t", {**FEW, **files}))
    assert not found.notes
    np.testing.assert_array_equal(found.train.pixels[1], np.repeat(grey[..., None], 3, -1))
    np.testing.assert_array_equal(found.train.pixels[2], np.stack([grey, 255 - grey, np.full_like(grey, 7)], -1))
    np.testing.assert_array_equal(found.train.pixels[3, ..., 0], np.where(grey > 7, 255, 0))


def test_what_is_lost_or_changed_is_said(tmp_path: Path) -> None:
    clear = np.zeros((4, 4, 4), np.uint8)
    solid = np.full((4, 4, 4), 255, np.uint8)
    frames = [Image.fromarray(np.full((4, 4), level, np.uint8)) for level in (10, 200)]
    exif = Image.Exif()
    exif[0x0112] = 3
    upside = np.zeros((4, 4, 3), np.uint8)
    upside[0] = 250
    files = {
        "train/a/2.png": encode(clear, "png"),
        "train/a/3.png": encode(solid, "png"),
        "train/a/4.gif": encode(frames[0], "gif", save_all=True, append_images=frames[1:]),
        "train/a/5.png": encode(upside, "png", exif=exif),
        "train/a/6.tif": encode(Image.new("CMYK", (4, 4)), "tiff"),
    }
    found = load(folder_of(tmp_path / "t", {**FEW, **files}))
    assert set(found.notes) == {
        "dropped the transparency of 1 image",
        "took the first frame of 1 image that have several",
        "turned 1 image as their EXIF orientation says",
        "converted 1 image from CMYK to RGB",
    }
    assert found.train.pixels[3].max() == 10 and found.train.pixels[4, -1].min() == 250


def test_an_image_of_a_camera_that_was_held_upright_has_its_own_size(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {name: encode(np.zeros((4, 6, 3), np.uint8), "png") for name in FEW}
    files["train/a/0.jpg"] = encode(np.zeros((6, 4, 3), np.uint8), "jpeg", exif=exif)
    assert load(folder_of(tmp_path / "t", files)).train.pixels.shape == (3, 4, 6, 3)


CUT_OFF = encode(np.zeros((4, 4, 3), np.uint8), "bmp")[:60]
BOMB = encode(Image.new("1", (20_000, 20_000)), "png")
BROKEN: dict[str, tuple[dict[str, bytes], str]] = {
    "text": (with_("train/a/9.png", b"no image"), r"train/a/9\.png cannot be decoded"),
    "empty": (with_("train/a/9.png", b""), r"train/a/9\.png cannot be decoded"),
    "cut off": (with_("train/a/9.bmp", CUT_OFF), r"train/a/9\.bmp cannot be decoded"),
    "PostScript by another name": (with_("train/a/9.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n"), "be decoded"),
    "a bomb": (with_("train/a/9.png", BOMB), r"9\.png (cannot be decoded|has 20000 x)"),
    "only a bomb": ({"train/a/1.png": BOMB}, r"decoded as an image \(Image size"),
    "another size": (
        with_("train/a/9.png", png(np.zeros((4, 5, 3), np.uint8))),
        r"9\.png has 4 x 5 pixels and the first one 4",
    ),
    "another class": (with_("test/c/1.png", FEW["train/a/1.png"]), "has no images of c in train/"),
    "classes in other letters": (with_("test/A/1.png", FEW["train/a/1.png"]), "has no images of A in train/"),
    "a class without images": (with_("train/c/1.heic", b"x"), r"no images of c in train/ \(left out 1 file .*\.heic 1\)"),
    "no classes": ({"train/1.png": b"x", "test/1.png": b"x"}, r"holds none \(left out 2 files that lie in no train/<class>/"),
    "other formats only": (
        {"train/a/1.heic": b"x"},
        r"none \(left out 1 file that are not read as images \(\.heic 1\)\)",
    ),
}


@pytest.mark.parametrize("how", PACKED)
@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_used_is_named(tmp_path: Path, how: str, case: str) -> None:
    files, says = BROKEN[case]
    with pytest.raises(DataError, match=says) as error:
        load(PACKED[how](tmp_path, files))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("cache/*"))


def test_an_empty_folder_of_a_class_is_said(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "t", FEW)
    (source / "train" / "c").mkdir()
    with pytest.raises(DataError, match="has no images of c in train/"):
        load(source)


def test_links_are_followed_in_a_folder_and_counted_where_they_lead_nowhere(tmp_path: Path) -> None:
    elsewhere = folder_of(tmp_path / "all", FEW)
    chosen = tmp_path / "chosen"
    for part in ("train", "test"):
        (chosen / part).mkdir(parents=True)
        for label in "ab":
            (chosen / part / label).symlink_to(elsewhere / part / label)
    (elsewhere / "train" / "a" / "2.png").symlink_to(tmp_path / "nothing.png")
    os.mkfifo(elsewhere / "train" / "a" / "3.png")
    found = load(chosen)
    assert len(found.train) == len(found.test) == 2
    assert "left out 1 file that are links to nothing, or in an archive (.png 1)" in found.notes
    assert "left out 1 file that are pipes, sockets or devices (.png 1)" in found.notes
    (chosen / "train" / "loop").symlink_to(chosen)
    with pytest.raises(DataError, match="is a link to a folder that it lies in"):
        load(chosen)


def test_a_change_behind_a_link_is_seen(tmp_path: Path) -> None:
    elsewhere, chosen = folder_of(tmp_path / "all", FEW), tmp_path / "chosen"
    chosen.mkdir()
    for part in ("train", "test"):
        (chosen / part).symlink_to(elsewhere / part)
    load(chosen)
    path = elsewhere / "train" / "a" / "1.png"
    facts = path.stat()
    path.write_bytes(png(np.full((4, 4, 3), 200, np.uint8)))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))  # as unpacking an archive leaves it
    assert load(chosen).train.pixels[0].max() == 200


def test_the_same_names_and_times_in_another_folder_are_other_images(tmp_path: Path) -> None:
    for level, name in ((10, "one"), (20, "two")):
        files = {file: encode(np.full((4, 4, 3), level, np.uint8), "bmp") for file in ("train/a/1.bmp", "test/a/1.bmp")}
        source = folder_of(tmp_path / name / "images", files)
        for path in source.rglob("*"):
            os.utime(path, (0, 0))
        assert cache.load(source, tmp_path / "cache").train.pixels.max() == level


def test_later_members_of_an_archive_replace_earlier_ones_and_it_is_said(tmp_path: Path) -> None:
    source = tar_of(tmp_path / "a.tar.gz", FEW)
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        for name, content in FEW.items():
            add(archive, name, content)
        add(archive, "./train/a/1.png", png(np.full((4, 4, 3), 77, np.uint8)))
        archive.addfile(_link("train/a/2.png", "train/a/1.png"))
    found = load(tmp_path / "b.tar")
    assert found.train.pixels[0].max() == 77
    assert "left out 1 file that others of the same name replace (.png 1)" in found.notes
    assert "left out 1 file that are links to nothing, or in an archive (.png 1)" in found.notes
    assert not load(source).notes


def _link(name: str, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.LNKTYPE, target
    return member


@pytest.mark.parametrize("left", [512, 1024, 1600])
def test_a_tar_that_is_cut_off_anywhere_is_no_shorter_set_of_images(tmp_path: Path, left: int) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, content in FEW.items():
            add(archive, name, content)
    whole, member = path.read_bytes(), 512 + 512 * -(-len(FEW["train/a/1.png"]) // 512)
    path.write_bytes(whole[: 4 * member + 512])
    assert len(load(path).train) == 2
    path.write_bytes(whole[: 4 * member - member + (left if left < 1600 else 0)])
    with pytest.raises(DataError, match="cannot be read to its end as an archive"):
        load(path)


def test_a_zip_with_a_password_is_said(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", FEW)
    content = bytearray(path.read_bytes())
    place = -1
    while (place := content.find(b"PK\x01\x02", place + 1)) >= 0:
        content[place + 8] |= 1
    place = -1
    while (place := content.find(b"PK\x03\x04", place + 1)) >= 0:
        content[place + 6] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot be read to its end as an archive \(.*password"):
        load(path)


def test_an_archive_that_unpacks_to_far_more_than_it_is_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "FREE", 2**20)
    files = {f"train/a/{i}.txt": bytes(2**20) for i in range(4)}
    for source in (tar_of(tmp_path / "a.tar.gz", files), zip_of(tmp_path / "a.zip", files)):
        with pytest.raises(DataError, match=r"unpacks to more than [\d,]+, as no archive of images does"):
            load(source)


def test_a_file_too_large_for_an_image_is_not_read(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "t", FEW)
    with (source / "train" / "a" / "9.png").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(DataError, match=r"9\.png has 1,099,511,627,776 bytes, more than one may have"):
        load(source)


def test_pipes_devices_sockets_and_no_paths_are_no_sources(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, says in (
        (tmp_path / "pipe", "that is a named pipe"),
        (Path("/dev/zero"), "that is a device"),
        (tmp_path / "a\0b", "that can be no path"),
    ):
        with pytest.raises(DataError, match=says):
            cache.load(path, tmp_path / "cache")


def test_a_file_that_is_no_archive_is_said_in_one_line(tmp_path: Path) -> None:
    for content in (b"", b"none", b"\x1f\x8b", os.urandom(2000)):
        (tmp_path / "a.bin").write_bytes(content)
        with pytest.raises(DataError, match=r"is no archive that can be read|cannot be read to its end") as error:
            load(tmp_path / "a.bin")
        assert "\n" not in str(error.value)


def batches(folder: Path) -> tuple[dict[str, bytes], str]:
    """CIFAR-10's files by their names, and the checksum of their archive."""
    md5 = cifar(folder / "cifar.tar.gz", TRAIN, TEST)
    with tarfile.open(folder / "cifar.tar.gz") as archive:
        found = {Path(member.name).name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    return found, md5


@pytest.mark.parametrize("how", PACKED)
@pytest.mark.parametrize("within", ["", "./", "cifar-10-batches-py/", "./a/cifar-10-batches-py/"])
def test_cifar_is_recognised_by_its_files_wherever_they_lie(tmp_path: Path, how: str, within: str) -> None:
    files, _ = batches(tmp_path)
    others = {f"{within}._data_batch_1": b"x", f"{within}readme.html": b"x", "._cifar-10-batches-py": b"x"}
    source = PACKED[how](tmp_path, {**others, **{within + name: content for name, content in files.items()}})
    options = {} if how != "tar" else {"md5": image_md5(source)}
    found = load(source, **options)
    order = np.concatenate([np.arange(6)[i::5] for i in range(5)])
    assert_same(found, Images(TRAIN.pixels[order], TRAIN.labels[order]), TEST)
    assert found.classes == CLASSES and ".html 1" in "; ".join(found.notes)
    if how != "folder":
        with pytest.raises(DataError, match="must have the md5 checksum 0000"):
            load(source, md5="0000")


def image_md5(path: Path) -> str:
    import hashlib  # noqa: PLC0415 - only here

    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


@pytest.mark.parametrize("missing", ["data_batch_3", "test_batch", "batches.meta"])
def test_cifar_with_a_file_missing_is_refused(tmp_path: Path, missing: str) -> None:
    files, _ = batches(tmp_path)
    del files[missing]
    with pytest.raises(DataError, match=rf"has CIFAR-10's .* but not {missing}: fetch them"):
        load(folder_of(tmp_path / "cifar-10-batches-py", files))


def test_two_sets_of_images_are_never_chosen_from_in_silence(tmp_path: Path) -> None:
    files, _ = batches(tmp_path)
    twice = {f"{place}/{name}": content for place in "ab" for name, content in files.items()}
    with pytest.raises(DataError, match="holds images more than once, in a and b"):
        load(folder_of(tmp_path / "twice", twice))
    with pytest.raises(DataError, match=r"holds images more than once, in \. and train/ and test/"):
        load(folder_of(tmp_path / "both", {**files, **FILES}))
    stray = load(folder_of(tmp_path / "stray", {**FILES, "train/cat/test_batch": b"x"}))
    assert stray.notes == ("left out 1 file that are not read as images (test_batch 1)",)


def nest_lists() -> list[Any]:
    """Nest a list of 10^12 numbers that takes a few bytes to write down."""
    found: list[Any] = [0] * 10
    for _ in range(11):
        found = [found] * 10
    return found


class Claims:
    """An array of many values, without any."""

    def __reduce__(self) -> tuple[Any, ...]:
        return np._core.multiarray._reconstruct, (np.ndarray, (10**12,), b"b")


class CallsNdarray:
    """Makes an array of its own."""

    def __reduce__(self) -> tuple[Any, ...]:
        return np.ndarray, ((10**6,),)


BATCHES: dict[str, Any] = {
    "labels that multiply": {b"data": np.zeros((10, 3072), np.uint8), b"labels": nest_lists()},
    "labels of text": {b"data": np.zeros((1, 3072), np.uint8), b"labels": ["a"]},
    "labels too few": {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]},
    "data of floats": {b"data": np.zeros((1, 3072)), b"labels": [1]},
    "data of other images": {b"data": np.zeros((1, 3000), np.uint8), b"labels": [1]},
    "data in a list": {b"data": [[0] * 3072], b"labels": [1]},
    "an array that claims": {b"data": Claims(), b"labels": [1]},
    "a call": {b"data": CallsNdarray(), b"labels": [1]},
    "no dict": [1],
    "nothing": {},
}


@pytest.mark.parametrize("case", BATCHES)
def test_batches_that_are_none_are_refused_whatever_they_hold(tmp_path: Path, case: str) -> None:
    files, _ = batches(tmp_path)
    files["data_batch_2"] = pickle.dumps(BATCHES[case])
    with pytest.raises(DataError, match="is not an archive of CIFAR-10's python version"):
        load(folder_of(tmp_path / "t", files))


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_batches_that_python_3_wrote_are_read(tmp_path: Path, protocol: int) -> None:
    files, _ = batches(tmp_path)
    data = np.arange(2 * 3072, dtype=np.uint32).astype(np.uint8).reshape(2, 3072)
    files["test_batch"] = pickle.dumps({"data": data, "labels": np.array([1, 0])}, protocol)
    files["batches.meta"] = pickle.dumps({"label_names": list(CLASSES)}, protocol)
    found = load(folder_of(tmp_path / "t", files))
    np.testing.assert_array_equal(found.test.pixels[0, ..., 1].ravel(), data[0, 1024:2048])
    assert found.classes == CLASSES


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


LABELS = {"train": np.array([0, 1, 2, 0]), "test": np.array([2, 1])}
NAMES = {
    "ours": "{part}_{kind}",
    "Keras": "{kind}_{part}",
    "large": "{KIND}_{part}",
    "words": "{part}_{word}",
    "camel": "{part}{Word}",
    "dotted": "{part}.{word}",
}


@pytest.mark.parametrize("habit", NAMES)
def test_arrays_are_found_by_usual_names(tmp_path: Path, habit: str) -> None:
    arrays = {}
    for part, labels in LABELS.items():
        for kind, word, array in (("x", "images", np.full((len(labels), 8, 8, 3), 5, np.uint8)), ("y", "labels", labels)):
            name = NAMES[habit].format(part=part, kind=kind, KIND=kind.upper(), word=word, Word=word.capitalize())
            arrays[name] = array
    path = npz(tmp_path / "a.npz", **arrays, val_images=np.zeros(3)).rename(tmp_path / "a.NPZ")
    found = load(path)
    assert found.train.labels.tolist() == [0, 1, 2, 0] and found.notes == ("left out 1 arrays (val_images)",)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((8, 6), (8, 6, 1)),
        ((8, 6, 1), (8, 6, 1)),
        ((8, 6, 3), (8, 6, 3)),
        ((8, 6, 4), (8, 6, 4)),
        ((1, 8, 6), (8, 6, 1)),
        ((3, 8, 6), (8, 6, 3)),
        ((9, 8, 6), (9, 8, 6)),
        ((3, 3, 3), (3, 3, 3)),
    ],
)
def test_axes_of_arrays_are_put_in_order(tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    values = np.arange(4 * np.prod(shape)).astype(np.uint8).reshape(4, *shape)
    found = load(npz(tmp_path / "a.npz", train_x=values, train_y=np.arange(4), test_x=values, test_y=np.arange(4)))
    assert found.train.pixels.shape == (4, *expected)
    moved = values[..., None] if len(shape) == 2 else values if expected == shape else np.moveaxis(values, 1, -1)
    np.testing.assert_array_equal(found.train.pixels, moved)
    assert bool(found.notes) == (expected != shape)


def arrays_with(**changes: Any) -> dict[str, Any]:
    pixels = np.zeros((3, 8, 8, 3), np.uint8)
    return {"train_x": pixels, "train_y": np.arange(3), "test_x": pixels, "test_y": np.arange(3)} | changes


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "sixteen bits": (arrays_with(train_x=np.full((3, 8, 8, 3), 300, np.uint16)), "as uint8 from 0 to 255, not uint16"),
    "shares": (arrays_with(train_x=np.zeros((3, 8, 8, 3), np.float32)), "as uint8 from 0 to 255, not float32"),
    "flat": (arrays_with(train_x=np.zeros((3, 64), np.uint8)), r"or \(N, H, W\), not \(3, 64\)"),
    "either way": (arrays_with(train_x=np.zeros((3, 3, 8, 3), np.uint8)), "whose channels may be the first or the last"),
    "grey to train on": (arrays_with(train_x=np.zeros((3, 8, 8), np.uint8)), "must hold images of one size"),
    "one-hot": (arrays_with(train_y=np.eye(3, dtype=int)), r"a label for each image, not labels of shape \(3, 3\)"),
    "too few labels": (arrays_with(train_y=np.arange(2)), "a label for each image"),
    "objects": (arrays_with(train_x=np.array([None, 1, 2], object)), "allow_pickle"),
    "two of a name": (arrays_with(x_train=np.zeros(3)), "one array must be train_x, but there is train_x and x_train"),
    "none": ({"a": np.zeros(3)}, "one array must be train_x, but there is only a"),
}


@pytest.mark.parametrize("case", WRONG)
def test_arrays_that_cannot_be_used_are_named(tmp_path: Path, case: str) -> None:
    arrays, says = WRONG[case]
    with pytest.raises(DataError, match=says):
        load(npz(tmp_path / "a.npz", **arrays))


def test_labels_in_a_column_are_labels(tmp_path: Path) -> None:
    found = load(npz(tmp_path / "a.npz", **arrays_with(train_y=np.arange(3, dtype=np.uint8)[:, None])))
    assert found.train.labels.tolist() == [0, 1, 2]


def test_an_array_that_claims_far_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", **arrays_with())
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**13, 8, 8, 3)})
    with zipfile.ZipFile(path) as old:
        contents = {name: old.read(name) for name in old.namelist()}
    zip_of(path.with_suffix(".zip"), {**contents, "train_x.npy": header.getvalue()}).rename(path)
    with pytest.raises(DataError, match="cannot be read so"):
        load(path)


def test_classes_of_other_data_are_found_by_their_names(tmp_path: Path) -> None:
    part = Images(np.zeros((3, 4, 4, 3), np.uint8), np.array([0, 1, 0]))
    assert relabel(part, ("dog", "cat"), ("bird", "cat", "dog"), tmp_path).labels.tolist() == [2, 1, 2]
    assert relabel(part, ("0", "1"), ("bird", "cat", "dog"), tmp_path).labels.tolist() == [0, 1, 0]
    assert relabel(part, ("dog", "cat"), ("0", "1"), tmp_path).labels.tolist() == [0, 1, 0]
    with pytest.raises(DataError, match="of the classes bird, cat, not of dog"):
        relabel(part, ("dog", "cat"), ("bird", "cat"), tmp_path)
    with pytest.raises(DataError, match="not of 0, 1, 2"):
        relabel(part, ("0", "1", "2"), ("bird", "cat"), tmp_path)


FORMS: dict[str, Callable[[str], Any]] = {
    "str": str,
    "fixed": lambda text: np.bytes_(text.encode()),
    "padded": lambda text: np.array(text.encode(), dtype="S60"),
    "array of one": lambda text: np.array([text], dtype=h5py.string_dtype()),
    "fixed array of one": lambda text: np.array([text.encode()]),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_cache_is_read_in_any_form_of_text(tmp_path: Path, form: str) -> None:
    load(folder_of(tmp_path / "t", FEW))
    (kept,) = (tmp_path / "cache").glob("*.h5")
    with h5py.File(kept, "a") as file:
        for key in ("format", "classes", "notes"):
            file.attrs[key] = FORMS[form](file.attrs[key])
        file.attrs["version"] = np.array([cache.VERSION], ">i2")
    assert cache.load_file(kept).classes == ("a", "b")


@pytest.mark.parametrize("key", ["format", "version", "classes"])
@pytest.mark.parametrize("value", [h5py.Empty("f4"), np.arange(3), 1.5, "other", np.zeros((0,))])
def test_a_cache_with_other_attributes_is_refused_in_a_sentence(tmp_path: Path, key: str, value: Any) -> None:
    load(folder_of(tmp_path / "t", FEW))
    (kept,) = (tmp_path / "cache").glob("*.h5")
    with h5py.File(kept, "a") as file:
        file.attrs[key] = value
    with pytest.raises(DataError, match=r"\.h5 "):
        cache.load_file(kept)


@given(st.lists(st.sampled_from(["train/a/1.png", "test/a/1.png", "x.txt", ".DS_Store", "val/a/1.png", "train/a/b.md"])))
def test_every_file_is_an_image_or_is_counted(names: list[str]) -> None:
    skipped = SkippedFiles()
    found = ClassFolders("here", skipped)
    content = FEW["train/a/1.png"]
    for name in names:
        entry = archives.Entry(name, "file", len(content), lambda: content)
        reason = reason_to_skip(entry)
        found.add_image(entry, content) if reason is None else skipped.add(reason, name)
    counted = sum(int(sentence.split()[2]) for sentence in skipped.sentences())
    assert counted + len(found) == len(names)


def test_a_cache_of_an_earlier_version_is_not_used(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "t", FEW)
    load(source)
    (kept,) = (tmp_path / "cache").glob("*.h5")
    with h5py.File(kept, "a") as file:
        file.attrs["version"] = 1
    with pytest.raises(DataError, match="not a file of 'deepzero-sim images', version 2: delete it"):
        load(source)
    shutil.rmtree(tmp_path / "cache")
    assert len(load(source).train) == 2


def test_profiles_of_colours_do_no_harm(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    content = encode(np.full((4, 4, 3), 8, np.uint8), "png", icc_profile=profile)
    assert load(folder_of(tmp_path / "t", with_("train/a/2.png", content))).train.pixels[1].max() == 8
