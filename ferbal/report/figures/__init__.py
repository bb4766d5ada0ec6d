"""Data frames drawn as figures: each `draw_` takes what `frames` made and adds nothing to it.

A trace that only one choice of the reader shows says so in its `meta`: {control: option}.
"""
