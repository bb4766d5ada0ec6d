"""The words in which signatures say shapes: `Float[np.ndarray, "n k"]` is an array of floats with n rows, k columns.

They are jaxtyping's, and are checked where somebody has asked for that, as the tests do. Elsewhere they tell people
the same, and `ferbal list` need not wait a twentieth of a second for a library that it does not use.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Bool as Bool
    from jaxtyping import Float as Float
    from jaxtyping import Float32 as Float32
    from jaxtyping import Float64 as Float64
    from jaxtyping import Int as Int
    from jaxtyping import Real as Real
    from jaxtyping import UInt8 as UInt8
    from jaxtyping import UInt64 as UInt64
else:

    class _Shaped:
        """The array without its shape."""

        def __class_getitem__(cls, said: tuple[Any, str]) -> Any:
            return said[0]

    Bool = Float = Float32 = Float64 = Int = Real = UInt8 = UInt64 = _Shaped
