"""Data sets: what `data/<name>/` holds, how one is written, opened and divided.

images.npy      uint8 [N, C, H, W], the splits one after another, opened as a memory map
rows.parquet    id, split, label, group, source
dataset.json    name, classes, digest, counts, reader, mean, std: written last, so present means complete
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int, UInt8

from ferbal import files
from ferbal.data import class_folders, demo, fer_csv
from ferbal.data.splits import Halves as Halves
from ferbal.data.splits import Twins as Twins
from ferbal.data.splits import groups, halves, part, training_rows, without_twin
from ferbal.data.table import SPLITS, Table
from ferbal.errors import DataError, nearest
from ferbal.plan import Dataset, Split

__all__ = [
    "Halves",
    "Twins",
    "describe",
    "digest",
    "groups",
    "halves",
    "names",
    "open",
    "read",
    "save",
    "training_rows",
    "without_twin",
]


def open(source: str, root: Path) -> Dataset:  # noqa: A001  `data.open` reads as what it does
    """The data set `source` under `root/data`, or one at a path. `demo` is drawn when it is first asked for."""
    folder = root / "data" / source
    if source == "demo" and _described(folder).get("version") != demo.VERSION:
        save(_drawn(), folder, overwrite=True)
    if not (folder / "dataset.json").exists() and (Path(source) / "dataset.json").exists():
        folder = Path(source)
    about = _described(folder)
    if not about:
        raise DataError(
            f"no data set {source!r} under {root / 'data'}{nearest(source, names(root))}. "
            f"Bring it in with `ferbal data import FILE --as {source}`, or use `demo`"
        )
    rows = pq.ParquetFile(folder / "rows.parquet").read()  # read_table would import pandas
    images = np.load(folder / "images.npy", mmap_mode="r")
    if len(rows) != len(images):
        raise DataError(f"{folder}: {len(images)} images but {len(rows)} rows; import the data set again")
    split = np.array(rows["split"].to_pylist())
    return Dataset(
        name=about["name"],
        classes=tuple(about["classes"]),
        digest=about["digest"],
        mean=about["mean"],
        std=about["std"],
        **{name: _split(images, rows, split == name) for name in SPLITS},
    )


def names(root: Path) -> list[str]:
    """The data sets that can be opened by name."""
    return sorted({"demo", *(found.parent.name for found in (root / "data").glob("*/dataset.json"))})


def read(source: Path, size: int | None = None) -> Table:
    """A data set as users have it, checked to the last pixel. Nothing is written.

    size: side in pixels that images of a folder are resized to. Where there is no validation split, an eighth of
    training becomes it.
    """
    if not source.exists():
        raise DataError(f"{source}: no such file. FER2013 is the file fer2013.csv of the Kaggle competition")
    if source.is_file() and source.suffix.lower() == ".csv":
        return fer_csv.read(source)
    if source.is_dir():
        return _with_validation(class_folders.read(source, size))
    raise DataError(
        f"{source}: not a data set ferbal reads; give a CSV with the columns emotion, pixels, Usage, or a folder "
        "with train/<class>/* and test/<class>/*"
    )


def save(table: Table, folder: Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Write a data set as a folder that appears complete or not at all. Returns its description."""
    if folder.exists() and not overwrite:
        raise DataError(f"{folder} exists already; give another name with --as, or --replace to overwrite it")
    order = np.argsort([SPLITS.index(name) for name in table.split], kind="stable")
    images, split, label = table.images[order], table.split[order], table.label[order]
    train = images[split == "train"]
    about = {
        "name": folder.name,
        "classes": list(table.classes),
        "digest": digest(images, label, split, table.classes),
        "counts": {part: np.bincount(label[split == part], minlength=len(table.classes)).tolist() for part in SPLITS},
        "shape": list(images.shape),
        "mean": round(float(train.mean()) / 255, 6),
        "std": max(round(float(train.std()) / 255, 6), 1e-3),
        "reader": table.reader,
        "source": table.source,
        "version": table.version,
    }
    rows = pa.table(
        {
            "id": table.id[order].tolist(),
            "split": split.tolist(),
            "label": label,
            "group": groups(images),
            "source": np.arange(len(order))[order],
        }
    )
    draft = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        np.save(draft / "images.npy", images)
        pq.write_table(rows, draft / "rows.parquet")
        files.write_json(draft / "dataset.json", about)
        if folder.exists():
            shutil.rmtree(folder)
        draft.rename(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return about


def describe(source: str, root: Path) -> dict[str, Any]:
    """What dataset.json says of a data set."""
    dataset = open(source, root)
    folder = root / "data" / source
    return _described(folder if folder.exists() else Path(source)) | {"name": dataset.name}


def digest(
    images: UInt8[np.ndarray, "n c h w"],
    label: Int[np.ndarray, " n"],
    split: np.ndarray,
    classes: tuple[str, ...],
) -> str:
    """SHA-256 over pixels, labels, splits and classes: another data set, another digest."""
    sha = hashlib.sha256(json.dumps([list(classes), list(images.shape), split.tolist()]).encode())
    sha.update(label.astype("<i8").tobytes())
    sha.update(np.ascontiguousarray(images).data)
    return sha.hexdigest()


def _drawn() -> Table:
    """The demo data set, drawn."""
    drawn = demo.draw()
    return Table(
        images=np.concatenate([drawn[name][0] for name in SPLITS]),
        label=np.concatenate([drawn[name][1] for name in SPLITS]),
        split=np.concatenate([np.full(len(drawn[name][1]), name) for name in SPLITS]),
        id=np.array([f"{name}/{row}" for name in SPLITS for row in range(len(drawn[name][1]))]),
        classes=demo.CLASSES,
        reader="demo",
        source="drawn by ferbal",
        version=demo.VERSION,
    )


def _with_validation(table: Table) -> Table:
    """The table itself if it has a validation split, else with an eighth of training as one."""
    train = np.flatnonzero(table.split == "train")
    if (table.split == "val").any() or len(train) == 0:
        return table
    split = table.split.copy()
    split[train[part(table.label[train], groups(table.images[train]), share=1 / 8)]] = "val"
    return replace(table, split=split)


def _described(folder: Path) -> dict[str, Any]:
    path = folder / "dataset.json"
    return dict(files.read_json(path)) if path.exists() else {}


def _split(images: np.ndarray, rows: pa.Table, mask: np.ndarray) -> Split:
    where = np.flatnonzero(mask)
    if len(where) == 0:
        raise DataError("a data set needs rows in each of train, val and test")
    span = slice(int(where[0]), int(where[-1]) + 1)  # the splits lie one after another: no pixel is copied
    part = rows.slice(span.start, span.stop - span.start)
    return Split(
        images=images[span],
        labels=_numbers(part, "label"),
        ids=np.array(part["id"].to_pylist()),
        group=_numbers(part, "group"),
    )


def _numbers(rows: pa.Table, column: str) -> Int[np.ndarray, " n"]:
    """A column of whole numbers. pyarrow's own `to_numpy` would import pandas, which takes a second."""
    return np.from_dlpack(rows[column].combine_chunks())
