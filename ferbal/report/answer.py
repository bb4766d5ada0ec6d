"""The study's answer in words, and numbers as the page writes them."""

from __future__ import annotations

import pandas as pd

SEEDS_NEEDED = 6
MISSING = "\N{EN DASH}"


def answer(board: pd.DataFrame, seeds: pd.DataFrame, baseline: str) -> str:
    """What leads, by how much, and how sure that is, in a few sentences.

    `board` is the leaderboard, `seeds` the score of every seed, `baseline` a strategy.
    """
    board = board[board["macro_f1"].notna()]
    if board.empty:
        return "No run has been scored yet."
    best, plain = board.iloc[0], board[(board["kind"] == "arm") & (board["strategy"] == baseline)]
    same = plain[plain["backbone"] == best["backbone"]]
    said = [f"Best on test macro-F1: {_told(best)}."]
    if len(board) == 1:
        return f"{said[0]} It is the only model, so there is nothing to compare it with."
    if best["kind"] == "ensemble" and (board["kind"] == "arm").any():
        said.append(f"Best single arm: {_told(board[board['kind'] == 'arm'].iloc[0])}.")
    if best["strategy"] == baseline and best["kind"] == "arm":
        rival = board.iloc[1]
        said.append(f"It is the baseline; next comes {_told(rival)}.")
    elif len(plain):
        rival = same.iloc[0] if len(same) else plain.iloc[0]
        said.append(f"Baseline: {_told(rival)}, a difference of {best['macro_f1'] - rival['macro_f1']:+.3f}.")
    else:
        rival = board.iloc[1]
        said.append(f"Next comes {_told(rival)}.")
    return " ".join([*said, _confidence(best, rival, seeds)])


def too_few_seeds(board: pd.DataFrame) -> str:
    """The sentence under a table of arms with fewer seeds than any test of a difference needs, or nothing."""
    seeds = board.loc[board["kind"] == "arm", "seeds"]
    fewest = int(seeds.min()) if len(seeds) else SEEDS_NEEDED
    if fewest >= SEEDS_NEEDED:
        return ""
    plural = "seed" if fewest == 1 else "seeds"
    return f"With {fewest} {plural} a side no difference here can be called significant; six are needed."


def plus_minus(mean: float, sd: float) -> str:
    """`0.612 ± 0.010`; an en dash stands for a number that is not there."""
    return f"{number(mean)} ± {number(sd)}" if pd.notna(mean) else MISSING


def number(value: float, form: str = ".3f") -> str:
    """The number as text, or an en dash where there is none."""
    return format(value, form) if pd.notna(value) else MISSING


def _told(row: pd.Series) -> str:
    if row["kind"] == "ensemble":
        told = f"the ensemble {row['model']} {row['macro_f1']:.3f} (one score, no seeds)"
    else:
        plural = "seed" if row["seeds"] == 1 else "seeds"
        told = f"{row['model']} {plus_minus(row['macro_f1'], row['macro_f1_sd'])} ({row['seeds']} {plural})"
    return told + (f", counting {row['left_out']}, which it leaves out, as 0" if row["left_out"] else "")


def _confidence(best: pd.Series, rival: pd.Series, seeds: pd.DataFrame) -> str:
    if few := too_few_seeds(pd.DataFrame([best, rival])):
        return few
    if best["kind"] == "ensemble" or rival["kind"] == "ensemble":
        return "An ensemble has one score and no spread over seeds, so its lead is not tested here."
    seeds = seeds[seeds["over"] == "all"]
    by_model = seeds.pivot_table(index="seed", columns="model", values="macro_f1")
    lead = (by_model[best["model"]] - by_model[rival["model"]]).dropna()
    won = int((lead > 0).sum())
    return f"It is ahead in {won} of {len(lead)} shared seeds; ± is the spread over seeds, not a test."
