"""fer2013.csv: right files are read exactly, wrong ones are named by file and row and leave nothing behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


def test_a_file_of_many_spans_is_read_like_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "f.csv", [HEADER, *rows(60)])
    whole = fer_csv.read(path)
    monkeypatch.setattr(fer_csv, "SPAN", 20_000)
    parts = fer_csv.read(path)
    assert np.array_equal(whole.images, parts.images)
    assert whole.id.tolist() == parts.id.tolist()
    (tmp_path / "bad.csv").write_text(path.read_text().replace("\n3,", "\n9,", 1))
    with pytest.raises(DataError, match="row 4: emotion is '9'"):
        fer_csv.read(tmp_path / "bad.csv")


def test_the_last_line_needs_no_end(tmp_path: Path) -> None:
    path = written(tmp_path / "f.csv", [HEADER, *rows()])
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert len(fer_csv.read(path)) == 21


def test_columns_stand_in_any_order(tmp_path: Path) -> None:
    lines = [f"{USAGES[row % 3]},{pixels(row)},x,{row % 7}" for row in range(21)]
    read = fer_csv.read(written(tmp_path / "f.csv", ["Usage,pixels,remark,emotion", *lines]))
    assert np.array_equal(read.images, fer_csv.read(written(tmp_path / "g.csv", [HEADER, *rows()])).images)
