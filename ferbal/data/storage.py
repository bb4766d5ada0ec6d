"""What `data/<name>/` holds, how one is written and opened.

images.npy      uint8 [N, C, H, W], the splits one after another, opened as a memory map
rows.parquet    id, split, label, group, source (row or file of the source, counted from 0), and votes and cast where
                there are any
dataset.json    classes, digest, counts, shape, reader, options, mean, std: written last, so present means complete

Within a split, rows are sorted by the fingerprint of their pixels: the same images give the same file, whatever form
they came in.
"""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ferbal import files
from ferbal.data import brightness, columns, demo
from ferbal.data.pictures import NO_FACE
from ferbal.data.splits import Twins, divided, fingerprints
from ferbal.data.table import SPLITS, UNLABELLED, Problems, Table, shown
from ferbal.dataset import Dataset, Split
from ferbal.errors import DataError, FerbalError, nearest
from ferbal.shapes import Float, Int, UInt8

FORMAT: Final = 2  # raised when the same images would be stored otherwise
ORDER: Final = (*SPLITS, UNLABELLED)
AT_ONCE: Final = 1 << 25  # bytes of images that are copied in one go
NEAR: Final = 1  # raised when other images would be near twins
SKIPPED_SHOWN: Final = 1000  # in dataset.json; beyond them only their number


@dataclass(frozen=True, eq=False)
class Rows:
    """Every row of a data set, whatever its split. images is a memory map; source counts rows of the source.

    votes, cast: as in `Table`.
    """

    images: UInt8[np.ndarray, "n c h w"]
    label: Int[np.ndarray, " n"]
    split: np.ndarray
    id: np.ndarray
    group: Int[np.ndarray, " n"]
    source: Int[np.ndarray, " n"]
    votes: Float[np.ndarray, "n k"] | None
    cast: Float[np.ndarray, "n k"] | None

    def __len__(self) -> int:
        return len(self.label)


def open(source: str, root: Path, *, twins: Twins = "drop") -> Dataset:  # noqa: A001  `data.open` reads well
    """The data set `source` under `root/data`, or one at a path. `demo` is drawn when it is first asked for.

    twins: with `near`, rows that show the same picture re-encoded, resized or mirrored are of one group too.
    """
    folder, about = _found(source, root)
    rows = _rows(folder, about)
    group = _near_groups(rows, folder, about["digest"]) if twins == "near" else rows.group
    soft = about["options"].get("targets") == "soft"

    def part(name: str) -> Split:
        where = np.flatnonzero(rows.split == name)
        span = slice(int(where[0]), int(where[-1]) + 1) if where.size else slice(0, 0)  # no pixel is copied
        votes = rows.votes[span] if soft and rows.votes is not None else None
        return Split(rows.images[span], rows.label[span], rows.id[span], group[span], votes)

    return Dataset(
        name=about["name"],
        classes=tuple(about["classes"]),
        digest=about["digest"],
        mean=about["mean"],
        std=about["std"],
        **{name: part(name) for name in SPLITS},
        unlabelled=part(UNLABELLED) if about["unlabelled"] else None,
    )


def everything(source: str, root: Path) -> tuple[Rows, dict[str, Any]]:
    """All rows of a data set, as they are stored, and what its dataset.json says."""
    folder, about = _found(source, root)
    return _rows(folder, about), about


def order_of(sources: tuple[str, str], root: Path) -> dict[str, Int[np.ndarray, " n"]] | None:
    """Where the rows of val and test of one data set lie in another of the same rows, whose pixels alone differ.

    None where they are not the same rows with the same labels, by their ids and places in what was imported.
    """
    (one, about), (other, theirs) = (everything(source, root) for source in sources)
    found = {}
    for split in ("val", "test"):
        here, there = (np.flatnonzero(rows.split == split) for rows in (one, other))
        if about["classes"] != theirs["classes"] or len(here) != len(there):
            return None
        sort, place = np.argsort(other.source[there]), np.argsort(np.argsort(one.source[here]))
        order = sort[place]
        matched = there[order]
        if any((a[here] != b[matched]).any() for a, b in ((one.source, other.source), (one.label, other.label))):
            return None
        if (one.id[here] != other.id[matched]).any():
            return None
        found[split] = order
    return found


def _near_groups(rows: Rows, folder: Path, digest: str) -> Int[np.ndarray, " n"]:
    """Groups of near twins. They are cached beside the images if possible: half a million images take a minute."""
    kept = folder / f"near-{digest[:16]}-{NEAR}.npy"
    if kept.exists():
        return np.load(kept)
    from ferbal.data import near  # scipy takes a third of a second, which nothing else here needs

    groups = near.clusters(near.find(rows.images, rows.group), len(rows), rows.group)
    with suppress(OSError, FerbalError):  # a data set that others own, or a full disk: it is found again
        files.write(kept, lambda file: np.save(file, groups))
    return groups


def names(root: Path) -> list[str]:
    """The data sets that can be opened by name."""
    return sorted({"demo", *(found.parent.name for found in (root / "data").glob("*/dataset.json"))})


def describe(source: str, root: Path) -> dict[str, Any]:
    """What dataset.json says of a data set."""
    return _found(source, root)[1]


def save(table: Table, folder: Path, *, overwrite: bool = False, skip_bad: bool = False) -> dict[str, Any]:
    """Decode, divide and write a data set, as a folder that appears whole or not at all. Returns its description."""
    with files.alone(folder):
        return _save(table, folder, overwrite, skip_bad)


def _save(table: Table, folder: Path, overwrite: bool, skip_bad: bool) -> dict[str, Any]:
    if folder.exists() and not overwrite:
        raise DataError(f"{folder} exists already; give another name with --as, or --replace to overwrite it")
    with files.whole_folder(folder) as draft:
        about = _write(*_decode(table, draft / "decoded.npy", skip_bad), draft, folder.name)
        (draft / "decoded.npy").unlink(missing_ok=True)
        files.write_json(draft / "dataset.json", about)
    return about


def digest(
    images: UInt8[np.ndarray, "n c h w"],
    label: Int[np.ndarray, " n"],
    split: np.ndarray,
    classes: tuple[str, ...],
    votes: Float[np.ndarray, "n k"] | None = None,
) -> str:
    """SHA-256 over pixels, labels, splits and classes (and soft targets): another data set, another digest."""
    sha = hashlib.sha256(json.dumps([list(classes), list(images.shape), split.tolist()]).encode())
    sha.update(label.astype("<i8").tobytes())
    if votes is not None:
        sha.update(votes.astype("<f4").tobytes())
    sha.update(np.ascontiguousarray(images).data)
    return sha.hexdigest()


def _decode(table: Table, file: Path, skip_bad: bool) -> tuple[Table, Int[np.ndarray, " g"]]:
    """The table with its images in an array, which lies in `file` if they came from files, and its good rows."""
    if isinstance(table.images, np.ndarray):
        return table, np.arange(len(table))
    out = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=table.images.shape)
    _reserve(file)
    wrong = table.images.fill(out)
    found = [(str(table.id[row]), why) for row, why in wrong.items()]
    bad = Problems(table.source, tuple(f for f in found if f[1] != NO_FACE), "images", len(table))
    bad.refuse_unless(skip_bad)
    if faceless := len(found) - len(bad.found):
        table = table.noted(f"{faceless:,} photos in which no face was found are left out")
    if len(wrong) == len(table):
        raise DataError(f"{table.source}: not one of {len(table):,} images can be used: {found[0][0]}: {found[0][1]}")
    good = np.setdiff1d(np.arange(len(table)), list(wrong))
    return replace(table, images=_one_channel(out), skipped=(*table.skipped, *found)), good


def _reserve(file: Path) -> None:
    """Take the space of a file that is mapped: writing to a map on a full disk kills the process."""
    if not hasattr(os, "posix_fallocate"):
        return
    with file.open("r+b") as opened:
        try:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
        except OSError as error:  # not every file system can
            if files.disk_full(error):
                raise


def _one_channel(images: UInt8[np.ndarray, "n c h w"]) -> UInt8[np.ndarray, "n d h w"]:
    """The images with one channel where all are gray: WebP and many tools store gray as three equal channels."""
    at_once = max(AT_ONCE // max(images[0].nbytes, 1), 1)
    batches = (images[first : first + at_once] for first in range(0, len(images), at_once))
    return images[:, :1] if all((batch == batch[:, :1]).all() for batch in batches) else images


def _write(table: Table, good: Int[np.ndarray, " g"], draft: Path, name: str) -> dict[str, Any]:
    images = table.images
    assert isinstance(images, np.ndarray)
    prints = fingerprints(images)[good]
    by_content = np.lexsort((table.label[good], prints[:, 1], prints[:, 0]))
    rows, prints = good[by_content], prints[by_content]
    group = np.unique(prints, axis=0, return_inverse=True)[1].reshape(-1)
    split, notes = divided(table.split[rows], table.label[rows], group, table.classes)
    by_split = np.argsort([ORDER.index(name) for name in split], kind="stable")
    rows, group, split = rows[by_split], group[by_split], split[by_split]
    label, votes = table.label[rows], None if table.votes is None else table.votes[rows]
    stored = {
        "id": columns.texts(table.id[rows]),
        "split": columns.texts(split),
        "label": columns.whole(label),
        "group": columns.whole(group),
        "source": columns.whole(table.places[rows]),
    }
    for column, shares in (("votes", votes), ("cast", None if table.cast is None else table.cast[rows])):
        if shares is not None:
            stored[column] = columns.shares(shares)
    pq.write_table(pa.table(stored), draft / "rows.parquet")
    mean, std = _copy(images, rows, draft / "images.npy", in_training=int((split == "train").sum()))
    written = np.load(draft / "images.npy", mmap_mode="r")
    soft = table.options.get("targets") == "soft"
    return {
        "name": name,
        "classes": list(table.classes),
        "digest": digest(written, label, split, table.classes, votes if soft else None),
        "counts": {part: np.bincount(label[split == part], minlength=len(table.classes)).tolist() for part in SPLITS},
        "unlabelled": int((split == UNLABELLED).sum()),
        "shape": list(written.shape),
        "mean": round(mean, 6),
        "std": max(round(std, 6), 1e-3),
        "reader": table.reader,
        "source": shown(table.source),
        "options": dict(table.options),
        "notes": [*table.notes, *notes],
        "skipped": len(table.skipped),
        "skipped_examples": [list(entry) for entry in table.skipped[:SKIPPED_SHOWN]],
        "version": table.version,
    }


def _copy(
    images: UInt8[np.ndarray, "n c h w"], rows: Int[np.ndarray, " r"], to: Path, in_training: int
) -> tuple[float, float]:
    """Write these rows as a .npy file. Returns mean and deviation of the pixels of the first `in_training`, 0..1."""
    at_once = max(AT_ONCE // max(images[0].nbytes, 1), 1)
    with to.open("wb") as file:
        shape = (len(rows), *images.shape[1:])
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for first in range(0, len(rows), at_once):
            file.write(images[rows[first : first + at_once]].data)
        file.flush()
        with ThreadPoolExecutor(1) as pool:  # the disk writes while the values are counted
            flushed = pool.submit(os.fsync, file.fileno())
            counted = brightness.histogram(np.load(to, mmap_mode="r")[:in_training])
        flushed.result()
    return brightness.moments(counted)


def _found(source: str, root: Path) -> tuple[Path, dict[str, Any]]:
    """The folder of a data set and what it says of itself."""
    folder = root / "data" / source
    drawn = f"{demo.VERSION}/{FORMAT}"
    if source == "demo" and _described(folder).get("version") != drawn:
        with files.alone(folder):
            if _described(folder).get("version") != drawn:  # nor has another process drawn it meanwhile
                _save(_drawn(), folder, overwrite=True, skip_bad=False)
    if not (folder / "dataset.json").exists() and (Path(source) / "dataset.json").exists():
        folder = Path(source)
    about = _described(folder)
    if not about:
        raise DataError(
            f"no data set {source!r} under {root / 'data'}{nearest(source, names(root))}. "
            f"Bring it in with `ferbal data import FILE --as {source}`, or use `demo`"
        )
    if "options" not in about:
        raise DataError(f"{folder}: written by an older ferbal; import the data set again, with --replace")
    return folder, about


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
        version=f"{demo.VERSION}/{FORMAT}",
    )


def _described(folder: Path) -> dict[str, Any]:
    path = folder / "dataset.json"
    return dict(files.read_json(path)) if path.exists() else {}


def _rows(folder: Path, about: dict[str, Any]) -> Rows:
    table = pq.ParquetFile(folder / "rows.parquet").read()  # read_table would import pandas
    images = np.load(folder / "images.npy", mmap_mode="r")
    if list(images.shape) != about["shape"] or len(table) != len(images):
        raise DataError(f"{folder}: {len(images)} images but {len(table)} rows; import the data set again")
    return Rows(
        images=images,
        label=columns.numbers(table, "label"),
        split=np.repeat(ORDER, [*(sum(about["counts"][name]) for name in SPLITS), about["unlabelled"]]),
        id=np.array(table["id"].to_pylist(), dtype=np.str_),
        group=columns.numbers(table, "group"),
        source=columns.numbers(table, "source"),
        votes=columns.listed(table, "votes"),
        cast=columns.listed(table, "cast"),
    )
