"""Data sets: what `data/<name>/` holds, how one is written, opened and divided.

images.npy      uint8 [N, C, H, W], the splits one after another, opened as a memory map
rows.parquet    id, split, label, group, source
dataset.json    name, classes, digest, counts, reader, mean, std: written last, so present means complete
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int, UInt8

from ferbal import files
from ferbal.data import demo, fer_csv
from ferbal.data.table import SPLITS, Table
from ferbal.errors import DataError, nearest
from ferbal.plan import Dataset, Split

Twins = Literal["drop", "keep"]


def open(source: str, root: Path) -> Dataset:  # noqa: A001  `data.open` reads as what it does
    """The data set `source` under `root/data`, or one at a path. `demo` is drawn when it is first asked for."""
    folder = root / "data" / source
    if source == "demo" and _described(folder).get("version") != demo.VERSION:
        save(demo_table(), folder, replace=True)
    if not (folder / "dataset.json").exists() and (Path(source) / "dataset.json").exists():
        folder = Path(source)
    about = _described(folder)
    if not about:
        raise DataError(
            f"no data set {source!r} under {root / 'data'}{nearest(source, names(root))}. "
            f"Bring it in with `ferbal data import FILE --as {source}`, or use `demo`"
        )
    rows = pq.read_table(folder / "rows.parquet")
    images = np.load(folder / "images.npy", mmap_mode="r")
    if len(rows) != len(images):
        raise DataError(f"{folder}: {len(images)} images but {len(rows)} rows; import the data set again")
    split = rows["split"].to_numpy()
    return Dataset(
        name=about["name"],
        classes=tuple(about["classes"]),
        digest=about["digest"],
        mean=about["mean"],
        std=about["std"],
        **{name: _part(images, rows, split == name) for name in SPLITS},
    )


def names(root: Path) -> list[str]:
    """The data sets that can be opened by name."""
    return sorted({"demo", *(found.parent.name for found in (root / "data").glob("*/dataset.json"))})


def read(source: Path) -> Table:
    """A data set as users have it, checked to the last pixel. Nothing is written."""
    if not source.exists():
        raise DataError(f"{source}: no such file. FER2013 is the file fer2013.csv of the Kaggle competition")
    if source.is_file() and source.suffix.lower() == ".csv":
        return fer_csv.read(source)
    raise DataError(f"{source}: not a data set ferbal reads; give a CSV with the columns emotion, pixels, Usage")


def save(table: Table, folder: Path, *, replace: bool = False) -> dict[str, Any]:
    """Write a data set as a folder that appears complete or not at all. Returns its description."""
    if folder.exists() and not replace:
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


def groups(images: UInt8[np.ndarray, "n c h w"]) -> Int[np.ndarray, " n"]:
    """A number for every distinct image: rows with equal pixels share one."""
    seen: dict[bytes, int] = {}
    return np.array(
        [seen.setdefault(hashlib.blake2b(row.tobytes(), digest_size=16).digest(), len(seen)) for row in images],
        dtype=np.int64,
    )


def training_rows(dataset: Dataset, twins: Twins) -> Int[np.ndarray, " m"]:
    """The training rows a study may use: with `drop`, none whose picture is also in validation or test."""
    if twins == "keep":
        return np.arange(len(dataset.train))
    return np.flatnonzero(~np.isin(dataset.train.group, np.concatenate([dataset.val.group, dataset.test.group])))


def without_twin(dataset: Dataset) -> Int[np.ndarray, " r"]:
    """The test rows whose picture is in neither training nor validation."""
    return np.flatnonzero(~np.isin(dataset.test.group, np.concatenate([dataset.train.group, dataset.val.group])))


@dataclass(frozen=True, eq=False)
class Halves:
    """Validation, divided. select: early stopping, search, pruning. blend: whatever is fitted afterwards."""

    select: Int[np.ndarray, " s"]
    blend: Int[np.ndarray, " b"]


def halves(val: Split) -> Halves:
    """Divide validation in two, class by class, with equal images kept together. Always the same way."""
    half = np.zeros(len(val), dtype=bool)
    draw = np.random.default_rng(20130414)
    owner, member = np.unique(val.group, return_inverse=True)
    size = np.bincount(member)
    label = np.zeros(len(owner), dtype=np.int64)
    label[member] = val.labels
    for k in np.unique(label):
        balance = 0
        pictures = draw.permutation(np.flatnonzero(label == k))
        for picture in pictures[np.argsort(-size[pictures], kind="stable")]:
            to_blend = balance > 0
            balance += -size[picture] if to_blend else size[picture]
            half[member == picture] = to_blend
    return Halves(select=np.flatnonzero(~half), blend=np.flatnonzero(half))


def demo_table() -> Table:
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


def _described(folder: Path) -> dict[str, Any]:
    path = folder / "dataset.json"
    return dict(files.read_json(path)) if path.exists() else {}


def _part(images: np.ndarray, rows: pa.Table, mask: np.ndarray) -> Split:
    where = np.flatnonzero(mask)
    if len(where) == 0:
        raise DataError("a data set needs rows in each of train, val and test")
    span = slice(int(where[0]), int(where[-1]) + 1)  # the splits lie one after another: no pixel is copied
    part = rows.slice(span.start, span.stop - span.start)
    return Split(
        images=images[span],
        labels=part["label"].to_numpy(),
        ids=np.array(part["id"].to_pylist()),
        group=part["group"].to_numpy(),
    )
