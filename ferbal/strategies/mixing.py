"""Strategies that blend each image, and its target, with another of the same batch.

Every row draws a mixing ratio of its own. A recipe mixes in one way: of two, the second would blend blends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ferbal.errors import UsageError
from ferbal.plan import Generator, Mix, Plan, Stage, Strategy, Tensor
from ferbal.shapes import Bool, Float, Int
from ferbal.strategies.building import class_images, constant, require

__all__ = ["balanced_mixup", "cmo", "cutmix", "mixup", "remix"]

Images = Float[Tensor, "b c h w"]
Targets = Float[Tensor, "b k"]
KNOTS = 4096  # of the quantile function: its draws are off by less than 1/4096 in probability


def mixup(alpha: float = 0.2) -> Strategy:
    """Blend each image and its target with another's, in shares from Beta(alpha, alpha) (Zhang et al. 2018).

    arXiv:1710.09412. A small alpha leaves most images nearly alone; 1 draws every share equally often.

    Formula: x -> a x + (1 - a) x', t -> a t + (1 - a) t', a ~ Beta(alpha, alpha)
    Example: mixup(alpha=0.2)
    """
    draw = _beta("mixup", alpha, alpha)

    def mix(images: Images, targets: Targets, generator: Generator) -> tuple[Images, Targets]:
        kept = draw(targets, generator)
        partner = _shuffled(targets, generator)
        return _blended(images, partner, kept), _blended(targets, partner, kept)

    return _mixing("mixup", lambda plan, stage: mix, f"shares from Beta({alpha:g}, {alpha:g})")


def cutmix(alpha: float = 1.0) -> Strategy:
    """Paste a box of another image into each; targets mix by area (Yun et al. 2019, arXiv:1905.04899).

    The box has the shape of the image, its share of the area is from Beta(alpha, alpha), and its centre may lie
    anywhere: what falls outside is lost, and targets follow the area that is really pasted.

    Formula: x -> x' in the box and x around it, t -> a t + (1 - a) t', a = share of the pixels around it
    Example: cutmix(alpha=1)
    """
    draw = _beta("cutmix", alpha, alpha)

    def mix(images: Images, targets: Targets, generator: Generator) -> tuple[Images, Targets]:
        box = _boxes(images, draw(targets, generator), generator)
        return _pasted(images, targets, _shuffled(targets, generator), box)

    return _mixing("cutmix", lambda plan, stage: mix, f"boxes of a share from Beta({alpha:g}, {alpha:g})")


def cmo(alpha: float = 1.0, power: float = 1.0, share: float = 0.5) -> Strategy:
    """Paste boxes of small classes' images onto the others (context-rich minority oversampling: Park et al. 2022).

    arXiv:2112.00412. As cutmix, but what is pasted comes from rows drawn with odds 1 / prior ** power of their class:
    power 1 pastes every class equally often. share: how many of the rows are pasted onto, 0..1. The authors draw from
    the whole training set; here the rows come from the batch.

    Formula: x -> x' in the box and x around it, t -> a t + (1 - a) t', x' drawn with odds prior ** -power
    Example: cmo(alpha=1, power=1)
    """
    draw = _beta("cmo", alpha, alpha)
    require("cmo", "at least 0", power=power)
    require("cmo", "above 0 and at most 1", share=share)

    def mix_in(plan: Plan, stage: Stage) -> Mix:
        drawn = _drawn(plan.prior(stage), power)

        def mix(images: Images, targets: Targets, generator: Generator) -> tuple[Images, Targets]:
            box = _boxes(images, draw(targets, generator), generator)
            chosen = targets.new_empty(len(targets)).uniform_(generator=generator) < share
            return _pasted(images, targets, drawn(targets, generator), box & chosen[:, None, None, None])

        return mix

    note = f"boxes of rows drawn with odds 1 / prior ** {power:g}, on {share:.0%} of the images"
    mixing = _mixing("cmo", mix_in, note)
    return lambda plan: mixing(plan).rebalanced("cmo")


def remix(alpha: float = 1.0, kappa: float = 3.0, tau: float = 0.5) -> Strategy:
    """Blend as mixup does, but give the target to the smaller class (Chou et al. 2020, arXiv:2007.03943).

    It has all of it where the other class has at least `kappa` times as many images, however often they are drawn,
    and less than `tau` of the blend is its own; elsewhere targets mix as images do.

    Formula: t -> b t + (1 - b) t', b = 0 if n >= kappa n' and a < tau, 1 if n' >= kappa n and 1 - a < tau, else a
    Example: remix(alpha=1, kappa=3, tau=0.5)
    """
    draw = _beta("remix", alpha, alpha)
    require("remix", "above 1", kappa=kappa)
    require("remix", "in 0..1", tau=tau)

    def mix_in(plan: Plan) -> Mix:
        n = class_images(plan)
        larger = constant(n[:, None] * (1 + 1e-9) >= kappa * n[None])  # just kappa must not hang on rounding

        def mix(images: Images, targets: Targets, generator: Generator) -> tuple[Images, Targets]:
            kept = draw(targets, generator)
            partner = _shuffled(targets, generator)
            other, much = targets[partner], larger(targets)
            yields = (targets @ much * other).sum(-1) > 0.5
            wins = (other @ much * targets).sum(-1) > 0.5
            label = kept.masked_fill(yields & (kept < tau), 0).masked_fill(wins & (1 - kept < tau), 1)
            return _blended(images, partner, kept), _blended(targets, partner, label)

        return mix

    note = f"shares from Beta({alpha:g}, {alpha:g}), kappa {kappa:g}, tau {tau:g}"
    mixing = _mixing("remix", lambda plan, stage: mix_in(plan), note)
    return lambda plan: replace(mixing(plan), per_class="remix")


def balanced_mixup(alpha: float = 0.2) -> Strategy:
    """Blend each image with one of a class-balanced draw (Galdran et al. 2021, arXiv:2109.09850).

    The partner's share is from Beta(alpha, 1), alpha / (alpha + 1) on average. The paper draws partners from the
    whole training set; here they come from the batch, with odds 1 / prior of their class.

    Formula: x -> (1 - a) x + a x', t -> (1 - a) t + a t', a ~ Beta(alpha, 1), x' of a class-balanced draw
    Example: balanced_mixup(alpha=0.2)
    """
    draw = _beta("balanced_mixup", 1, alpha)  # what is kept is 1 minus the partner's share

    def mix_in(plan: Plan, stage: Stage) -> Mix:
        drawn = _drawn(plan.prior(stage), power=1)

        def mix(images: Images, targets: Targets, generator: Generator) -> tuple[Images, Targets]:
            kept = draw(targets, generator)
            partner = drawn(targets, generator)
            return _blended(images, partner, kept), _blended(targets, partner, kept)

        return mix

    note = f"{alpha / (alpha + 1):.1%} of each image from a class-balanced partner"
    mixing = _mixing("balanced_mixup", mix_in, note)
    return lambda plan: mixing(plan).rebalanced("balanced_mixup")


def _mixing(name: str, mix_in: Callable[[Plan, Stage], Mix], note: str) -> Strategy:
    """Mix in every stage."""

    def apply(plan: Plan) -> Plan:
        if any(stage.mix is not None for stage in plan.stages):
            raise UsageError(f"{name}: the images are mixed already; keep one of {', '.join(__all__)}")
        return plan.each_stage(lambda stage: replace(stage, mix=mix_in(plan, stage))).noted(f"{name}: {note}")

    return apply


def _beta(name: str, a: float, b: float) -> Callable[[Targets, Generator], Float[Tensor, " b"]]:
    """Draws a number from Beta(a, b) for each row, by looking up its quantile function."""
    for alpha in (a, b):
        require(name, "in 0.01..100", alpha=alpha)
    from scipy.special import betaincinv

    quantiles = constant(betaincinv(a, b, np.linspace(0, 1, KNOTS + 1)))

    def draw(targets: Targets, generator: Generator) -> Float[Tensor, " b"]:
        place = targets.new_empty(len(targets)).uniform_(generator=generator) * KNOTS
        knot, table = place.long(), quantiles(targets)
        return table[knot].lerp(table[knot + 1], place - knot)

    return draw


def _shuffled(targets: Targets, generator: Generator) -> Int[Tensor, " b"]:
    """A random order of the batch."""
    return targets.new_empty(len(targets)).uniform_(generator=generator).argsort()


def _drawn(prior: Float[np.ndarray, " k"], power: float) -> Callable[[Targets, Generator], Int[Tensor, " b"]]:
    """Draws rows of the batch with replacement, each with odds 1 / prior ** power of its class."""
    odds = constant(np.where(prior > 0, np.where(prior > 0, prior, 1.0) ** -power, 0.0))

    def draw(targets: Targets, generator: Generator) -> Int[Tensor, " b"]:
        return (targets @ odds(targets)).multinomial(len(targets), replacement=True, generator=generator)

    return draw


def _boxes(images: Images, kept: Float[Tensor, " b"], generator: Generator) -> Bool[Tensor, "b 1 h w"]:
    """For each image the pixels of a box of its shape, about a random centre, of 1 - kept of its area."""
    side = (1 - kept).sqrt()
    rows, columns = (_stretch(side, length, generator) for length in images.shape[-2:])
    return rows[:, None, :, None] & columns[:, None, None, :]


def _pasted(
    images: Images, targets: Targets, partner: Int[Tensor, " b"], box: Bool[Tensor, "b 1 h w"]
) -> tuple[Images, Targets]:
    """Each image with its partner's pixels in the box; targets mix by area."""
    kept = 1 - box.to(targets.dtype).mean((1, 2, 3))
    return images[partner].where(box, images), _blended(targets, partner, kept)


def _stretch(side: Float[Tensor, " b"], length: int, generator: Generator) -> Bool[Tensor, "b length"]:
    """Which of `length` pixels lie in a stretch of that share of them, about a random centre."""
    centre = side.new_empty(len(side), 1).uniform_(0, length, generator=generator)
    pixels = side.new_ones(length).cumsum(0) - 0.5
    return (pixels - centre).abs() < side[:, None] * length / 2


def _blended(
    rows: Float[Tensor, "b ..."], partner: Int[Tensor, " b"], kept: Float[Tensor, " b"]
) -> Float[Tensor, "b ..."]:
    """`kept` of each row, and of its partner the rest."""
    own = kept.to(rows.dtype).reshape(-1, *[1] * (rows.ndim - 1))
    return own * rows + (1 - own) * rows[partner]
