"""fer2013.csv: right files are read exactly, wrong ones are named by file and row and leave nothing behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferbal import data
from ferbal.data import fer_csv
from ferbal.errors import DataError

HEADER = "emotion,pixels,Usage"
USAGES = ("Training", "PublicTest", "PrivateTest")


def pixels(value: int = 7) -> str:
    return " ".join([str(value)] * 2304)


def rows(count: int = 21) -> list[str]:
    return [f"{row % 7},{pixels(row)},{USAGES[row % 3]}" for row in range(count)]


def written(path: Path, lines: list[str], **how: str) -> Path:
    path.write_bytes((how.get("end", "\n").join(lines) + how.get("end", "\n")).encode(how.get("encoding", "utf-8")))
    return path


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2**32)), min_size=3, max_size=12))
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[int, int]]) -> None:
    images = [np.random.default_rng(seed).integers(0, 256, 2304) for _, seed in drawn]
    lines = [
        f"{label},{' '.join(map(str, image))},{USAGES[row % 3]}"
        for row, ((label, _), image) in enumerate(zip(drawn, images, strict=True))
    ]
    table = fer_csv.read(written(tmp_path_factory.mktemp("csv") / "f.csv", [HEADER, *lines]))
    assert np.array_equal(table.images.reshape(len(drawn), -1), np.stack(images))
    assert table.label.tolist() == [label for label, _ in drawn]
    assert table.split.tolist() == [("train", "val", "test")[row % 3] for row in range(len(drawn))]


@pytest.mark.parametrize("odd", [{"end": "\r\n"}, {"encoding": "utf-8-sig"}])
def test_line_ends_of_windows_and_byte_order_marks_are_read(tmp_path: Path, odd: dict[str, str]) -> None:
    plain = fer_csv.read(written(tmp_path / "a.csv", [HEADER, *rows()]))
    other = fer_csv.read(written(tmp_path / "b.csv", [HEADER, *rows()], **odd))
    assert np.array_equal(plain.images, other.images)


def test_quoted_pixels_and_spaces_are_read(tmp_path: Path) -> None:
    lines = [f' {row % 7},"{pixels(row)} ",{USAGES[row % 3]}' for row in range(6)]
    assert len(fer_csv.read(written(tmp_path / "a.csv", ["emotion, pixels, Usage", *lines])).label) == 6


def spoilt(row: int, line: str) -> list[str]:
    lines = rows()
    lines[row - 1] = line
    return [HEADER, *lines]


BAD = {
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
    "label 7": (spoilt(9, f"7,{pixels()},Training"), "row 9: emotion is '7'; a label is a whole number in 0..6"),
    "label -1": (spoilt(9, f"-1,{pixels()},Training"), "row 9: emotion is '-1'"),
    "label word": (spoilt(9, f"sad,{pixels()},Training"), "row 9: emotion is 'sad'"),
    "usage": (spoilt(9, f"0,{pixels()},Test"), "row 9: Usage is 'Test'; known are Training, PublicTest, PrivateTest"),
    "columns": (spoilt(9, f"0,{pixels()}"), "not a readable CSV"),
    "no header": (rows(), "no column emotion or pixels or Usage"),
    "missing column": (["emotion,pixels", f"0,{pixels()}"], "no column Usage"),
    "header only": ([HEADER], "a header but no rows"),
    "one split": (
        [HEADER, *(f"0,{pixels()},Training" for _ in range(3))],
        "no row with Usage PublicTest or PrivateTest",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_by_file_and_row(tmp_path: Path, case: str) -> None:
    lines, said = BAD[case]
    path = written(tmp_path / "bad.csv", lines)
    with pytest.raises(DataError) as raised:
        data.read(path)
    assert said in str(raised.value)
    assert str(path) in str(raised.value)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").touch()
    with pytest.raises(DataError, match="the file is empty"):
        data.read(tmp_path / "empty.csv")


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "odd.csv").write_bytes(b"emotion,pixels,Usage\n\xff\xfe\x00,1,Training\n")
    with pytest.raises(DataError):
        data.read(tmp_path / "odd.csv")
