"""Columns of a parquet file as arrays, and back.

pyarrow's own conversions, `pa.array` and `to_numpy`, import pandas, which takes a second.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ferbal.shapes import Float, Int


def numbers(rows: pa.Table, column: str) -> Int[np.ndarray, " n"]:
    return np.from_dlpack(rows[column].combine_chunks()).astype(np.int64)


def listed(rows: pa.Table, column: str) -> Float[np.ndarray, "n k"] | None:
    return np.array(rows[column].to_pylist(), dtype=np.float32) if column in rows.column_names else None


def shares(values: Float[np.ndarray, "n k"]) -> pa.Array:
    flat = pa.Array.from_buffers(pa.float32(), values.size, [None, pa.py_buffer(values.astype("<f4"))])
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def whole(values: Int[np.ndarray, " n"]) -> pa.Array:
    return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(values.astype("<i8"))])


def texts(values: np.ndarray) -> pa.Array:
    encoded = [text.encode() for text in values.tolist()]
    ends = np.cumsum([0, *map(len, encoded)]).astype("<i8")
    return pa.LargeStringArray.from_buffers(len(encoded), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded)))
