"""Bad input ends with one message that names file and row, exit code 3, and nothing under data/.

Odd but valid input is read correctly instead.
"""

from __future__ import annotations

import errno
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from ferbal import data
from ferbal.data import demo_files, fer_csv, pictures
from ferbal.data.pictures import Decoding, Pictures
from ferbal.data.table import SPLITS
from ferbal.errors import DataError, FerbalError

HEADER = "emotion,pixels,Usage"
USAGES = ("Training", "PublicTest", "PrivateTest")


def pixels(value: int = 7) -> str:
    return " ".join([str(value)] * 2304)


def rows() -> list[str]:
    return [f"{row % 7},{pixels(row)},{USAGES[row % 3]}" for row in range(21)]


def csv_of(lines: list[str], end: str = "\n", encoding: str = "utf-8") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / "bad.csv"
        path.write_bytes((end.join(lines) + end).encode(encoding))
        return path

    return make


def spoilt(row: int, line: str) -> Callable[[Path], Path]:
    lines = rows()
    lines[row - 1] = line
    return csv_of([HEADER, *lines])


def tree(folder: Path, side: int = 12) -> Path:
    """Three classes, three splits, two images of each."""
    draw = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for name in ("cat", "dog", "eel"):
            for number in range(2):
                path = folder / "tree" / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(draw.integers(0, 256, (side, side)).astype(np.uint8)).save(path)
    return folder / "tree"


def tree_with(spoil: Callable[[Path], object]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        made = tree(folder)
        spoil(made)
        return made

    return make


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000))


def truncated_jpeg(made: Path) -> None:
    path = made / "train" / "dog" / "cut.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (12, 12)).astype(np.uint8)
    Image.fromarray(noise).save(path, quality=95)
    path.write_bytes(path.read_bytes()[:-40])


def animation(made: Path) -> None:
    frames = [Image.new("L", (12, 12), shade) for shade in (0, 255)]
    frames[0].save(made / "train" / "dog" / "moving.gif", save_all=True, append_images=frames[1:])


def misnamed(made: Path) -> None:
    (made / "train" / "dog" / "0.png").rename(made / "train" / "dog" / "really.jpg")


def link_out(made: Path) -> None:
    outside = made.parent / "secret.png"
    Image.new("L", (12, 12)).save(outside)
    (made / "train" / "dog" / "link.png").symlink_to(outside)


def link_in_a_circle(made: Path) -> None:
    (made / "train" / "dog" / "a.png").symlink_to(made / "train" / "dog" / "b.png")
    (made / "train" / "dog" / "b.png").symlink_to(made / "train" / "dog" / "a.png")


def class_twice(made: Path) -> None:
    (made / "train" / "Dog").mkdir()
    Image.new("L", (12, 12)).save(made / "train" / "Dog" / "x.png")


def without(split: str, name: str) -> Callable[[Path], None]:
    def spoil(made: Path) -> None:
        for file in (made / split / name).iterdir():
            file.unlink()

    return spoil


def archive(name: str, content: bytes = b"x", link: bool = False) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        with zipfile.ZipFile(folder / "bad.zip", "w", zipfile.ZIP_DEFLATED) as out:
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o120777 if link else 0o100644) << 16
            out.writestr(entry, content)
        return folder / "bad.zip"

    return make


def bomb(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "bomb.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as out:
        for part in range(3):
            with out.open(f"train/dog/{part}.png", "w", force_zip64=True) as member:
                for _ in range(400):
                    member.write(bytes(1 << 20))
    return folder / "bomb.zip"


def damaged(folder: Path) -> Path:
    """A zip file whose packed bytes were spoilt on the way."""
    with zipfile.ZipFile(folder / "damaged.zip", "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("train/dog/0.txt", "text that packs well " * 4000)
    content = bytearray((folder / "damaged.zip").read_bytes())
    content[60:90] = bytes(30)
    (folder / "damaged.zip").write_bytes(content)
    return folder / "damaged.zip"


def listing(*lines: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        for name in ("a.png", "b.png"):
            Image.new("L", (8, 8), 9).save(folder / name)
        (folder / "list.csv").write_text("path,label,split\n" + "\n".join(lines) + "\n")
        return folder / "list.csv"

    return make


OPEN_QUOTE = "1 of 21 rows cannot be used:\n  row 1: 2 of 3 columns"

CASES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "truncated row": (csv_of([HEADER, *rows()[:-1], f"0,{pixels()[:500]}"]), "row 21: 2 of 3 columns"),
    "2,303 pixels": (spoilt(17, f"0,{pixels()[2:]},Training"), "row 17: 2,303 pixels; a face has 2,304"),
    "2,305 pixels": (spoilt(17, f"0,{pixels()} 7,Training"), "row 17: 2,305 pixels"),
    "no pixel": (spoilt(2, "0,,Training"), "row 2: 0 pixels"),
    "256": (
        spoilt(5, f"0,256{pixels()[1:]},Training"),
        "row 5: pixel 1 is '256'; a pixel is a whole number in 0..255",
    ),
    "-1": (spoilt(5, f"0,-1{pixels()[1:]},Training"), "row 5: pixel 1 is '-1'"),
    "3.5": (spoilt(5, f"0,3.5{pixels()[1:]},Training"), "row 5: pixel 1 is '3.5'"),
    "1000": (spoilt(5, f"0,1000{pixels()[1:]},Training"), "row 5: pixel 1 is '1000'"),
    "text": (spoilt(21, f"0,x{pixels()[1:]},Training"), "row 21: pixel 1 is 'x'"),
    "NUL in the pixels": (spoilt(3, f"0,7\0 {pixels()[2:]},Training"), "row 3: pixel 1 is '7\\x00'"),
    "NUL in the label": (spoilt(3, f"0\0,{pixels()},Training"), "row 3: emotion is '0\\x00'"),
    "label 7": (spoilt(9, f"7,{pixels()},Training"), "row 9: emotion is '7'; a label is a whole number in 0..6"),
    "label -1": (spoilt(9, f"-1,{pixels()},Training"), "row 9: emotion is '-1'"),
    "label word": (spoilt(9, f"sad,{pixels()},Training"), "row 9: emotion is 'sad'"),
    "unknown Usage": (spoilt(9, f"0,{pixels()},Test"), "row 9: Usage is 'Test'; known are Training, PublicTest"),
    "one column too few": (spoilt(9, f"0,{pixels()}"), "row 9: 2 of 3 columns"),
    "one column too many": (spoilt(9, f"0,{pixels()},Training,x"), "row 9: 4 of 3 columns"),
    "header twice": (csv_of([HEADER, *rows(), HEADER]), "row 22: 1 pixels"),
    "quote left open": (csv_of([HEADER, '0,"1 1 1', *(f"0,{pixels(200)},Training" for _ in range(20))]), OPEN_QUOTE),
    "line ends of an old Mac": (csv_of([HEADER, *rows()], end="\r"), "its lines end in CR alone; save it with"),
    "column twice": (csv_of(["emotion,pixels,emotion", *rows()]), "the column emotion stands twice"),
    "no header": (csv_of(rows()), "no column pixels"),
    "missing column emotion": (csv_of(["pixels,Usage", f"{pixels()},Training"]), "no column emotion"),
    "missing column pixels": (csv_of(["emotion,Usage", "0,Training"]), "no column pixels"),
    "header only": (csv_of([HEADER]), "a header but no rows"),
    "header and blank lines": (csv_of([HEADER, "", ""]), "a header but no rows"),
    "empty file": (lambda folder: _empty(folder / "bad.csv"), "the file is empty"),
    "no text at all": (lambda folder: _bytes(folder / "bad.csv", bytes(range(256)) * 40), "bad.csv"),
    "a class missing from a split": (
        csv_of([HEADER, *(line for line in rows() if not line.startswith("1") or "Private" not in line)]),
        "no image of disgust in the test split",
    ),
    "a split missing": (csv_of([HEADER, *(r for r in rows() if "PublicTest" not in r)][:8]), "split; every class"),
    "truncated JPEG": (tree_with(truncated_jpeg), "train/dog/cut.jpg: image file is truncated"),
    "zero-byte image": (tree_with(lambda t: _empty(t / "train/dog/9.png")), "train/dog/9.png: is an empty file"),
    "no image": (tree_with(lambda t: _bytes(t / "train/dog/9.png", b"hello")), "train/dog/9.png: is no image"),
    "PNG of 50,000 x 50,000": (
        tree_with(lambda t: _bytes(t / "train/dog/9.png", png_that_claims(50_000, 50_000))),
        "train/dog/9.png: has more than 100,000,000 pixels",
    ),
    "PNG of 12,000 x 12,000": (
        tree_with(lambda t: _bytes(t / "train/dog/9.png", png_that_claims(12_000, 12_000))),
        "train/dog/9.png: 12,000 x 12,000 pixels",
    ),
    "animated GIF": (tree_with(animation), "train/dog/moving.gif: is an animation of 2 pictures"),
    "wrong extension": (tree_with(misnamed), "train/dog/really.jpg: holds a PNG image but is named .jpg"),
    "symlink out of the tree": (tree_with(link_out), "train/dog/link.png: points out of"),
    "symlink loop": (tree_with(link_in_a_circle), "train/dog/a.png: "),
    "linked folder": (
        tree_with(lambda t: (t / "train" / "fox").symlink_to(t / "test" / "dog")),
        "a link to a folder",
    ),
    "class names that differ in case": (tree_with(class_twice), "'Dog' and 'dog' differ in nothing but case"),
    "a class folder without test images": (tree_with(without("test", "eel")), "no image of eel in the test split"),
    "different sizes": (
        tree_with(lambda t: Image.new("L", (30, 20)).save(t / "train/dog/9.png")),
        "18 of 19 have 12x12 pixels, but",
    ),
    "one class": (lambda folder: _one_class(folder), "1 class folders with images; at least 2"),
    "empty folder": (lambda folder: _folder(folder / "nothing"), "not a data set that ferbal reads"),
    "no such file": (lambda folder: folder / "none.csv", "no such file or folder"),
    "../x in a zip": (archive("../x.png"), "'../x.png' would be unpacked outside its folder"),
    "/x in a zip": (archive("/x.png"), "'/x.png' would be unpacked outside its folder"),
    "C:\\x in a zip": (archive("C:\\x.png"), "would be unpacked outside its folder"),
    "link in a zip": (archive("train/dog/a.png", b"/etc/passwd", link=True), "is a link"),
    "zip bomb": (bomb, "claim to hold 1,258,291,200, as a zip bomb does"),
    "damaged zip": (lambda folder: _bytes(folder / "bad.zip", b"PK\3\4rubbish"), "not a readable zip file"),
    "listed file missing": (listing("a.png,x,train", "c.png,y,train"), "row 2: 'c.png': no such file"),
    "listed file outside": (
        listing("../a.png,x,train", "b.png,y,train"),
        "row 1: '../a.png' leads out of the folder",
    ),
    "listed twice": (listing("a.png,x,train", "a.png,y,test"), "a.png is listed twice"),
    "listed split": (listing("a.png,x,train", "b.png,y,later"), "row 2: split is 'later'"),
    "list with a quote left open": (listing('a.png,"x,train', *["b.png,y,train"] * 10_000), "is a quote left open"),
    "list in Latin-1": (
        lambda folder: _bytes(listing()(folder), "path,label\na.png,Ä\nb.png,Ö\n".encode("latin-1")),
        "list.csv: line 2 is not UTF-8; save the file in this encoding",
    ),
    "list of one class": (listing("a.png,x,train", "b.png,x,test"), "1 classes; at least 2 are needed"),
    "list without labels": (listing("a.png,,test", "b.png,,test"), "0 classes; at least 2 are needed"),
    "row to train on without a label": (
        listing("a.png,,train", "b.png,y,test"),
        "row 1: no label, though it is of train",
    ),
    "quote left open at the end": (listing("a.png,x,train", 'b.png,"y,train'), "is a quote left open"),
    "zip with spoilt bytes": (damaged, "damaged.zip: not a readable zip file: Error -3 while decompressing data"),
    "listed classes that differ in case": (
        listing("a.png,x,train", "b.png,X,test"),
        "'X' and 'x' differ in nothing but case",
    ),
    "listed row": (listing("a.png,x,train", "b.png"), "row 2: 1 of 3 columns"),
}


def _empty(path: Path) -> Path:
    path.touch()
    return path


def _bytes(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _one_class(folder: Path) -> Path:
    for split in ("train", "test"):
        (folder / "tree" / split / "cat").mkdir(parents=True)
        Image.new("L", (9, 9)).save(folder / "tree" / split / "cat" / "x.png")
    return folder / "tree"


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_message_and_leaves_nothing(tmp_path: Path, case: str) -> None:
    make, said = CASES[case]
    source = make(_folder(tmp_path / "source"))
    with pytest.raises(DataError) as raised:
        data.import_(source, tmp_path / "data" / "x")
    message = str(raised.value)
    assert said in message
    assert raised.value.exit_code == 3
    assert source.name in message or "split; every class" in message or "different sizes" in message
    assert len(message.splitlines()) <= 8
    assert not (tmp_path / "data").exists() or list((tmp_path / "data").iterdir()) == []
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize("case", ["PNG of 50,000 x 50,000", "zip bomb", "truncated row"])
def test_the_command_ends_with_3_in_little_memory(tmp_path: Path, case: str) -> None:
    source = CASES[case][0](_folder(tmp_path / "source"))
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30));"
        "sys.argv = ['ferbal', 'data', 'import', sys.argv[1], '--as', 'x']; from ferbal.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", limited, str(source)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env={"OPENBLAS_NUM_THREADS": "1", "PATH": ""},
    )
    assert done.returncode == 3
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert CASES[case][1] in done.stderr


def test_many_bad_images_make_one_summary(tmp_path: Path) -> None:
    made = tree(tmp_path)
    for number in range(40):
        (made / "train" / "dog" / f"bad{number:02}.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    with pytest.raises(DataError) as raised:
        data.import_(made, tmp_path / "data" / "x")
    lines = str(raised.value).splitlines()
    assert "40 of 58 images cannot be used" in lines[0]
    assert "bad00.png" in lines[1]
    assert "and 35 more" in lines[-2]
    assert "--skip-bad" in lines[-1]


def test_bad_images_can_be_left_out_and_are_remembered(tmp_path: Path) -> None:
    made = tree(tmp_path)
    truncated_jpeg(made)
    animation(made)
    about = data.import_(made, tmp_path / "data" / "x", data.Options(skip_bad=True))
    assert about["skipped"] == 2
    assert {entry[0] for entry in about["skipped_examples"]} == {"train/dog/cut.jpg", "train/dog/moving.gif"}
    assert len(data.everything("x", tmp_path)[0]) == 18


def test_bad_rows_can_be_left_out_and_keep_their_numbers(tmp_path: Path) -> None:
    lines = [f"{row % 7},{pixels(row)},{USAGES[row // 7 % 3]}" for row in range(42)]
    lines[4], lines[11] = f"0,256 {pixels()[2:]},Training", f"9,{pixels()},Training"
    about = data.import_(csv_of([HEADER, *lines])(tmp_path), tmp_path / "data" / "x", data.Options(skip_bad=True))
    stored, _ = data.everything("x", tmp_path)
    assert about["skipped"] == 2
    assert sorted(stored.source.tolist()) == [row for row in range(42) if row not in (4, 11)]
    assert all(image.flat[0] == row for image, row in zip(stored.images, stored.source, strict=True))


def test_a_bad_row_of_the_competition_moves_no_other(tmp_path: Path) -> None:
    """Votes are joined by place: those of test.csv count from where train.csv ends, what is left out included."""
    lines = [f"{row % 7},{pixels(row)}" for row in range(42)]
    lines[4] = f"0,{pixels()[2:]}"
    (tmp_path / "train.csv").write_text("\n".join(["emotion,pixels", *lines]))
    tests = [pixels(100 + row) for row in range(6)]
    tests[2] = tests[2][4:]
    (tmp_path / "test.csv").write_text("\n".join(["pixels", *tests]))
    about = data.import_(tmp_path, tmp_path / "data" / "x", data.Options(skip_bad=True))
    stored, _ = data.everything("x", tmp_path)
    places = sorted(stored.source[stored.split == "unlabelled"].tolist())
    assert places == [42, 43, 45, 46, 47]
    assert sorted(place for place, _ in about["skipped_examples"]) == ["row 5", "test.csv row 3"]


def test_rows_without_a_label_are_told(tmp_path: Path) -> None:
    for number in range(8):
        Image.new("L", (8, 8), 20 * number).save(tmp_path / f"{number}.png")
    lines = [f"{number}.png,{'xy'[number % 2] if number < 6 else ''}" for number in range(8)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *lines]))
    about = data.import_(tmp_path / "list.csv", tmp_path / "data" / "x")
    assert "2 rows have no label: they can be predicted, but not scored" in about["notes"]


def test_a_full_disk_is_one_message_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reserve(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", reserve)
    with pytest.raises(FerbalError, match=r"x: no space left on the disk; nothing was written"):
        data.import_(tree(tmp_path), tmp_path / "data" / "x")
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize(
    "odd", [{"end": "\r\n"}, {"encoding": "utf-8-sig"}, {"end": "\r\n", "encoding": "utf-8-sig"}], ids=str
)
def test_line_ends_of_windows_and_byte_order_marks_are_read(tmp_path: Path, odd: dict[str, str]) -> None:
    plain = fer_csv.read(csv_of([HEADER, *rows()])(_folder(tmp_path / "a")))
    other = fer_csv.read(csv_of([HEADER, *rows()], **odd)(_folder(tmp_path / "b")))
    assert np.array_equal(plain.images, other.images)
    assert plain.split.tolist() == other.split.tolist()


def test_a_list_with_line_ends_of_an_old_mac_is_read(tmp_path: Path) -> None:
    made = tree(tmp_path)
    lines = [f"{file.relative_to(made)},{file.parent.name}" for file in sorted(made.rglob("*.png"))]
    (made / "list.csv").write_bytes("\r".join(["path,label", *lines]).encode())
    assert data.import_(made / "list.csv", tmp_path / "data" / "x")["classes"] == ["cat", "dog", "eel"]


def test_odd_but_valid_rows_are_read_one_by_one(tmp_path: Path) -> None:
    lines = [f' {row % 7},"{pixels(row).replace(" ", "  ")} ",{USAGES[row % 3]}' for row in range(21)]
    odd = fer_csv.read(csv_of(["emotion, pixels, Usage", *lines[:10], "", *lines[10:]])(tmp_path))
    assert odd.images[:, 0, 0, 0].tolist() == list(range(21))


def decoded(path: Path, gray: bool = False) -> np.ndarray:
    return np.asarray(Pictures([path], path.parent, Decoding(gray=gray)))[0]


def test_cmyk_is_read_as_the_colours_it_stands_for(tmp_path: Path) -> None:
    red = Image.new("RGB", (16, 16), (255, 0, 0))
    red.convert("CMYK").save(tmp_path / "ink.jpg", quality=100)
    mean = decoded(tmp_path / "ink.jpg").mean((1, 2))
    assert mean[0] > 240
    assert mean[1:].max() < 15


def test_16_bit_gray_is_scaled_and_not_cut(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    Image.fromarray(values).save(tmp_path / "deep.tif")
    for name in ("deep.png", "deep.tif"):
        image = decoded(tmp_path / name)
        assert image.shape == (1, 16, 16)
        assert np.abs(image[0].astype(int) - np.rint(values / 257)).max() <= 1


def test_bytes_stored_as_long_numbers_stay_bytes_and_floats_are_refused(tmp_path: Path) -> None:
    values = np.arange(256).reshape(16, 16)
    Image.fromarray(values.astype(np.int32)).save(tmp_path / "long.tif")
    assert np.array_equal(decoded(tmp_path / "long.tif")[0], values)
    Image.fromarray((values / 255).astype(np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(DataError, match=r"float.tif: has floating-point pixels"):
        decoded(tmp_path / "float.tif")


@pytest.mark.parametrize("ending", ["png", "webp", "tif"])
def test_a_photo_on_its_side_is_turned(ending: str, tmp_path: Path) -> None:
    image = Image.fromarray(np.repeat([[255], [0]], [4, 12], axis=0).astype(np.uint8).repeat(8, 1))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    image.save(tmp_path / f"side.{ending}", exif=exif, lossless=True)
    turned = decoded(tmp_path / f"side.{ending}")[0]
    assert np.array_equal(pictures.photo(tmp_path / f"side.{ending}").reshape(8, 16, -1)[:, :, 0], turned)
    assert turned.shape == (8, 16)
    assert turned[:, -4:].min() == 255
    assert turned[:, :12].max() == 0


def test_transparency_and_palettes_are_read(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (10, 20, 30, 128)).save(tmp_path / "clear.png")
    Image.new("RGB", (4, 4), (10, 20, 30)).quantize(4).save(tmp_path / "palette.png")
    for name in ("clear.png", "palette.png"):
        assert decoded(tmp_path / name)[:, 0, 0].tolist() == [10, 20, 30]


def test_a_motionless_gif_and_every_known_ending_are_read(tmp_path: Path) -> None:
    image = Image.new("L", (6, 6), 77)
    for ending in pictures.FORMATS:
        image.convert("RGB" if ending == ".ppm" else "L").save(tmp_path / f"x{ending}")
        assert abs(int(decoded(tmp_path / f"x{ending}", gray=True)[0, 0, 0]) - 77) <= 1


def test_other_files_in_a_tree_are_passed_over_and_said(tmp_path: Path) -> None:
    made = tree(tmp_path)
    (made / "README.txt").write_text("hello")
    (made / "train" / "dog" / "Thumbs.db").write_bytes(b"x")
    (made / "train" / ".DS_Store").write_bytes(b"x")
    about = data.import_(made, tmp_path / "data" / "x")
    assert about["notes"] == ["2 files that are no images were passed over (README.txt, say)"]


def test_one_colour_image_makes_all_colour(tmp_path: Path) -> None:
    made = tree(tmp_path)
    Image.new("RGB", (12, 12), "red").save(made / "train" / "cat" / "red.png")
    assert data.import_(made, tmp_path / "data" / "x")["shape"] == [19, 3, 12, 12]


@pytest.mark.parametrize("spelling", ["fer2013", "challenge"])
def test_emotions_without_a_row_are_no_classes(tmp_path: Path, spelling: Literal["fer2013", "challenge"]) -> None:
    def without(*absent: int) -> Path:
        draw = np.random.default_rng(0)
        labels = np.repeat([k for k in range(7) if k not in absent], 20)
        drawn = {
            split: (draw.integers(0, 256, (len(labels), 1, 48, 48)).astype(np.uint8), labels) for split in SPLITS
        }
        return demo_files.write_csv(tmp_path / "-".join(map(str, absent)), drawn, spelling)[0]

    about = data.import_(without(1), tmp_path / "data" / "x")
    assert about["classes"] == ["angry", "fear", "happy", "sad", "surprise", "neutral"]
    assert about["notes"][-1 - 2 * (spelling == "challenge")] == "no row is of disgust: the others are the classes"
    assert np.array(list(about["counts"].values())).sum(0).tolist() == [20 if spelling == "challenge" else 60] * 6
    with pytest.raises(DataError, match=r"labels 0 to 5, .* --classes angry,disgust,fear,happy,sad,surprise"):
        data.import_(without(6), tmp_path / "data" / "y")
    named = ("angry", "fear", "happy", "sad", "surprise", "neutral")
    assert data.import_(without(6), tmp_path / "data" / "y", data.Options(classes=named))["classes"] == list(named)
    with pytest.raises(DataError, match="1 classes; at least 2"):
        data.import_(without(0, 1, 2, 3, 4, 5), tmp_path / "data" / "z")


def votes_in(folder: Path, change: Callable[[list[str]], list[str]]) -> tuple[Path, Path]:
    draw = np.random.default_rng(0)
    drawn = {}
    for split in ("train", "val", "test"):
        labels = np.tile(np.arange(7), 6)
        drawn[split] = (draw.integers(0, 256, (len(labels), 1, 48, 48)).astype(np.uint8), labels)
    votes = demo_files.write_votes(folder, drawn)
    votes.write_text("\n".join(change(votes.read_text().splitlines())) + "\n")
    return demo_files.write_csv(folder, drawn)[0], votes


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: [*lines[:50], *lines[51:]], "125 rows of votes for 126 images"),
        (lambda lines: [lines[0], *lines[50:], *lines[1:50]], "the rows are not in the same order"),
        (
            lambda lines: [*lines[:7], lines[7].replace(",8,", ",x,").replace(",6,", ",x,"), *lines[8:]],
            "row 7: votes are",
        ),
        (lambda lines: [lines[0].replace("contempt", "pride"), *lines[1:]], "no column contempt"),
        (lambda lines: [*lines[:9], lines[9].replace("Training", "Later"), *lines[10:]], "row 9: Usage is 'Later'"),
        (lambda lines: lines[:1], "no column Usage"),
        (lambda lines: [*lines[:9], f'"{lines[9]}', *lines[10:] * 99], "is a quote left open"),
    ],
)
def test_votes_that_do_not_fit_are_refused(
    tmp_path: Path, change: Callable[[list[str]], list[str]], said: str
) -> None:
    source, votes = votes_in(tmp_path, change)
    with pytest.raises(DataError) as raised:
        data.import_(source, tmp_path / "data" / "x", data.Options(votes=votes))
    assert said in str(raised.value)
    assert str(votes) in str(raised.value)
    assert list((tmp_path / "data").iterdir()) == [] if (tmp_path / "data").exists() else True


def test_votes_for_class_folders_are_refused(tmp_path: Path) -> None:
    _, votes = votes_in(tmp_path, lambda lines: lines)
    with pytest.raises(DataError, match="which class folders do not keep"):
        data.import_(tree(tmp_path), tmp_path / "data" / "x", data.Options(votes=votes))


def test_votes_that_are_not_there_are_missed_before_anything_is_read(tmp_path: Path) -> None:
    options = data.Options(votes=tmp_path / "typo.csv")
    with pytest.raises(DataError, match=r"typo.csv: no such file of votes"):
        data.import_("no/source", tmp_path / "data" / "x", options)
