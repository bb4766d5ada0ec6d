"""What holds of every plan that a strategy makes, each law an AssertionError that says what came out instead.

`ferbal.testing` runs them all on a strategy. Laws of the data look at a plan or two. Laws of the functions that a
plan holds (losses, mixing, ...) try each on a few rows, as `contents` walks the plan.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from ferbal.plan import Adjust, Fit, LinearClassifier, Loss, Mix, Plan, Resample, Schedule, Stage, Weigh
from ferbal.shapes import Float, Int

EXTREME = 50.0  # logits of an utterly certain model


def contents(plan: Plan) -> dict[str, Any]:
    """Everything that training sees of a plan, as plain values by their place: functions by what they give.

    A function that training could not use is an AssertionError.
    """
    return dict(_walk("", plan, len(plan.classes)))


# --- laws of the data


def fits_together(plan: Plan) -> None:
    """Classes, rows and stages agree with each other."""
    k, samples = len(plan.classes), plan.samples
    holds(len(set(plan.classes)) == k >= 2, f"its classes are {plan.classes}; at least 2 different ones must stay")
    holds(len(samples) > 0, "it leaves no row to train on")
    columns = {len(column) for column in (samples.source, samples.label, samples.mirror)}
    holds(len(columns) == 1, f"source, label and mirror have different lengths: {sorted(columns)}")
    for name, values, least in (("label", samples.label, 0), ("becomes", plan.becomes, -1)):
        outside = (values < least) | (values >= k)
        holds(not outside.any(), f"{name} {values[outside][:1]} is not among {least}..{k - 1}, of {k} classes")
    holds(len(plan.stages) > 0, "it leaves no stage to train")
    for number, stage in enumerate(plan.stages):
        place = f"stages[{number}]"
        holds(stage.epochs >= 1, f"{place} has {stage.epochs} epochs; a stage has at least 1")
        sound = np.isfinite(stage.radius) and stage.radius >= 0
        holds(bool(sound), f"{place} has a radius of {stage.radius}; it is finite and not negative")
        for odds in _odds(stage):
            holds(odds.shape == (k,), f"{place} has odds of shape {odds.shape} for {k} classes")
            sound = bool(np.isfinite(odds).all() and (odds >= 0).all() and odds.sum() > 0)
            holds(sound, f"{place} has odds {odds.tolist()}; they are finite, not negative, and not all 0")
            empty = [name for name, n, p in zip(plan.classes, plan.counts, odds, strict=True) if p and not n]
            holds(not empty, f"{place} draws {', '.join(empty)}, which has no rows")
        if stage.shifts is not None:
            shape, meant = stage.shifts.shape, (plan.head.copies, k)
            holds(shape == meant, f"{place} has shifts of shape {shape} for {meant[0]} classifiers of {k} classes")
            holds(bool(np.isfinite(stage.shifts).all()), f"{place} has shifts of {_odd(stage.shifts)}")


def labels_stay_true(before: Plan, after: Plan, labels: Int[np.ndarray, " n"]) -> None:
    """Every row comes from the plan's rows, and has the label that `becomes` gives to its source's own class."""
    source, label = after.samples.source, after.samples.label
    strange = ~np.isin(source, before.samples.source)
    holds(not strange.any(), f"it trains on row {source[strange][:1]} of the split, which the plan leaves out")
    meant = after.becomes[labels[source]]
    for row in np.flatnonzero(meant != label)[:1]:
        told = "none of its classes" if meant[row] < 0 else repr(after.classes[meant[row]])
        holds(False, f"row {source[row]} is labelled {after.classes[label[row]]!r} but becomes {told}")


def notes_are_told(before: Plan, after: Plan) -> None:
    """A plan that is changed has at least one note more, and every note is one line."""
    kept, new = after.notes[: len(before.notes)], after.notes[len(before.notes) :]
    holds(kept == before.notes, f"it loses the notes of what came before: {before.notes} became {after.notes}")
    holds(bool(new) or after is before, "it leaves no note; end with plan.noted('name: what changed')")
    for note in new:
        holds(isinstance(note, str) and len(note.splitlines()) == 1, f"its note {note!r} is not one line")


def counts_are_told(before: Plan, after: Plan) -> None:
    """What the new notes say of rows, as `disgust 436 -> 872`, is what became of the plan, step by step.

    Where no class is left out or merged, a class whose count changes is told.
    """
    had, has = (dict(zip(plan.classes, plan.counts.tolist(), strict=True)) for plan in (before, after))
    told, same_classes = " ".join(after.notes[len(before.notes) :]), np.array_equal(before.becomes, after.becomes)
    for name in {**had, **has}:
        steps = re.findall(rf"(?<!\w){re.escape(name)} ([\d,]+) -> ([\d,]+)", told)
        counts = [int(n.replace(",", "")) for step in steps for n in step]
        if counts:
            true = [had.get(name, counts[0]), *(n for n in counts[1:-1:2] for _ in "ab"), has.get(name, counts[-1])]
            holds(counts == true, f"its notes tell {name} {_arrows(counts)} but it is {_arrows(true)}")
        elif same_classes:
            now, was = has[name], had[name]
            holds(
                now == was, f"{name} {was} -> {now} is told in no note; end with plan.resampled(samples, by='name')"
            )


# --- laws of the functions: each gives plain values, or says why training cannot use it


def _loss(loss: Loss, k: int) -> list[Any]:
    import torch

    draw = torch.Generator().manual_seed(0)
    usual, other = (2 * torch.randn(8, k, generator=draw) for _ in "ab")
    right = torch.arange(8) % k
    hard, sure = torch.eye(k)[right], EXTREME * (2 * torch.eye(k) - 1)
    given = []
    for kind, logits, targets in (
        ("hard targets", usual, hard),
        ("soft targets", usual, other.softmax(-1)),
        (f"logits of ±{EXTREME:g} that are right", sure[right], hard),
        (f"logits of ±{EXTREME:g} that are wrong", sure[(right + 1) % k], hard),
        ("a batch of one", usual[:1], hard[:1]),
    ):
        leaf, wanted = logits.clone().requires_grad_(), targets.clone()
        values = loss(leaf, wanted)
        same = torch.equal(leaf.detach(), logits) and torch.equal(wanted, targets)
        holds(same, "it writes into the logits or targets that it is given")
        holds(values.ndim > 0, "it reduces the batch to one number; the loop takes the mean, a loss gives one a row")
        shape = tuple(values.shape)
        holds(shape == (len(leaf),), f"it gives shape {shape} for {len(leaf)} rows, on {kind}")
        holds(bool(values.isfinite().all()), f"it gives {_odd(values.detach())} on {kind}")
        holds(values.requires_grad, "it gives no gradient: it does not depend on the logits")
        values.sum().backward()
        slope = leaf.grad if leaf.grad is not None else torch.zeros_like(leaf)
        holds(bool(slope.isfinite().all()), f"its gradient is {_odd(slope)} on {kind}")
        given.append((values.tolist(), slope.tolist()))
    return given


def _weigh(weigh: Weigh, k: int) -> list[float]:
    import torch

    draw = torch.Generator().manual_seed(1)
    features, logits, wanted = (torch.randn(6, n, generator=draw) for n in (4, k, k))
    factors = weigh(features, logits, wanted.softmax(-1))
    holds(tuple(factors.shape) == (6,), f"it gives shape {tuple(factors.shape)} for 6 rows")
    holds(bool(factors.isfinite().all()), f"it gives {_odd(factors)}")
    holds(bool((factors >= 0).all()), f"it gives {factors.min().item():g}; a factor of a row is not negative")
    return factors.tolist()


def _mix(mix: Mix, k: int) -> list[Any]:
    import torch

    images = torch.rand(8, 1, 6, 6, generator=torch.Generator().manual_seed(2))
    hard = torch.eye(k)[torch.arange(8) % k]
    given = []
    for seed, targets in enumerate((hard, 0.9 * hard + 0.1 / k)):
        found, labels = mix(images.clone(), targets.clone(), torch.Generator().manual_seed(seed))
        for name, now, was in (("images", found, images), ("targets", labels, targets)):
            holds(now.shape == was.shape, f"it gives {name} of shape {tuple(now.shape)} for {tuple(was.shape)}")
            holds(bool(now.isfinite().all()), f"it gives {_odd(now)} in the {name}")
        holds(bool((labels >= 0).all()), f"it gives a target of {labels.min().item():g}; none is negative")
        sums = labels.sum(-1)
        worst = sums[(sums - 1).abs().argmax()].item()
        holds(abs(worst - 1) < 1e-5, f"the targets of a row sum to {worst:g}; they sum to 1")
        given.append((found.tolist(), labels.tolist()))
    return given


def _adjust(adjust: Adjust, k: int) -> list[list[float]]:
    logits = np.random.default_rng(3).normal(0, 5, (6, k))
    before = logits.copy()
    after = adjust(logits)
    holds(after.shape == (6, k), f"it gives shape {after.shape} for logits of {(6, k)}")
    holds(bool(np.isfinite(after).all()), f"it gives {_odd(after)}")
    holds(np.array_equal(logits, before), "it writes into the logits that it is given")
    return after.tolist()


def _schedule(schedule: Schedule, k: int) -> list[float]:
    multiples = [schedule(progress) for progress in (0, 0.05, 0.25, 0.5, 0.75, 1)]
    sound = np.isfinite(multiples).all() and min(multiples) > -1e-12
    holds(bool(sound), f"it multiplies the learning rate by {multiples}; multiples are finite and not negative")
    return multiples


def _share(share: Callable[[float], float], k: int) -> list[float]:
    parts = [share(progress) for progress in (0, 0.05, 0.25, 0.5, 0.75, 1)]
    holds(all(0 <= part <= 1 for part in parts), f"it gives shares of a target of {parts}; shares are 0..1")
    return parts


def _resample(resample: Resample, k: int) -> list[Any]:
    draw = np.random.default_rng(4)
    labels = np.repeat(np.arange(k), np.geomspace(20, 2, k).round().astype(np.int64))
    features = draw.normal(0, 1, (len(labels), 4)) + 2 * labels[:, None]
    found, new = resample(features, labels, 0)
    holds(found.ndim == 2 and found.shape[1] == 4, f"it gives features of shape {found.shape} for {features.shape}")
    holds(len(found) == len(new) > 0, f"it gives {len(found)} rows with {len(new)} labels")
    holds(bool(np.isfinite(found).all()), f"it gives {_odd(found)} in the features")
    lost = np.setdiff1d(labels, new)
    holds(set(new.tolist()) <= set(range(k)), f"it gives labels {np.unique(new).tolist()} for {k} classes")
    holds(len(lost) == 0, f"it leaves no row of class {lost[:1]}")
    return [found.tolist(), new.tolist()]


def _fit(fit: Fit, k: int) -> list[Any]:
    draw = np.random.default_rng(5)
    labels = np.arange(40) % k
    logits = draw.normal(0, 2, (40, k)) + 2 * np.eye(k)[labels]
    adjust, note = fit(logits, labels, LinearClassifier(draw.uniform(0.5, 2, k), draw.normal(0, 1, k)))
    holds(isinstance(note, str) and len(note.splitlines()) == 1, f"its note {note!r} is not one line")
    return [_adjust(adjust, k), note]


_PROBES: dict[str, Callable[[Any, int], Any]] = {
    "loss": _loss,
    "weigh": _weigh,
    "mix": _mix,
    "adjust": _adjust,
    "schedule": _schedule,
    "share": _share,
    "resample": _resample,
    "fits": _fit,
    "odds": lambda odds, k: [moment.tolist() for moment in _odds(Stage(1, odds=odds))],
}
"""By the name of the field that holds the function."""


def _walk(place: str, value: Any, k: int) -> Iterator[tuple[str, Any]]:
    if is_dataclass(value):
        for one in fields(value):
            yield from _walk(f"{place}.{one.name}".lstrip("."), getattr(value, one.name), k)
    elif isinstance(value, tuple):
        yield f"len({place})", len(value)
        for number, part in enumerate(value):
            yield from _walk(f"{place}[{number}]", part, k)
    elif callable(value):
        yield place, _probed(place, value, k)
    else:
        yield place, value.tolist() if isinstance(value, np.ndarray) else value


def _probed(place: str, function: Callable[..., Any], k: int) -> Any:
    probe = _PROBES.get(re.sub(r".*\.|\[\d+\]", "", place))
    if probe is None:
        return name_of(function)
    try:
        return probe(function, k)
    except AssertionError as broken:
        raise AssertionError(f"{place}: {broken}") from broken
    except Exception as error:  # somebody else's function may fail in any way
        raise AssertionError(f"{place}: it raises {said(error)}") from error


def _odds(stage: Stage) -> list[Float[np.ndarray, " k"]]:
    """The odds of a stage at its beginning, middle and end, if it has any."""
    moments = (0.0, 0.5, 1.0) if callable(stage.odds) else (0.0,)
    return [odds for moment in moments if (odds := stage.odds_at(moment)) is not None]


def differences(one: dict[str, Any], other: dict[str, Any]) -> str:
    """The places at which the contents of two plans differ."""
    return ", ".join(place for place in {**one, **other} if one.get(place) != other.get(place))


def _arrows(counts: list[int]) -> str:
    return ", ".join(f"{old} -> {new}" for old, new in zip(counts[::2], counts[1::2], strict=True))


def _odd(values: Any) -> str:
    """The first number of an array or tensor that is not finite, if there is one."""
    return next((str(value) for value in np.asarray(values).ravel() if not np.isfinite(value)), "")


def name_of(function: Callable[..., Any]) -> str:
    """A function's name, without where it is nested."""
    return getattr(function, "__qualname__", repr(function)).replace(".<locals>", "")


def said(error: Exception) -> str:
    """`ValueError: the first line of its message`."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def holds(true: bool, otherwise: str) -> None:
    """Raise an AssertionError, also where Python runs without assertions."""
    if not true:
        raise AssertionError(otherwise)
