"""The nets that timm lacks. Importing this registers them with timm, under the names of their functions."""

from __future__ import annotations

from ferbal.models.nets import plain, residual

__all__ = ["plain", "residual"]
