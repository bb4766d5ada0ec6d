"""Mixing: shares against scipy's Beta distribution, boxes and targets against their papers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats

from ferbal.errors import UsageError
from ferbal.plan import Mix, Plan, Strategy, chain, start
from ferbal.strategies.mixing import balanced_mixup, cmo, cutmix, mixup, remix
from ferbal.strategies.rows import balanced_draw, oversample
from ferbal.strategies.stages import deferred

torch.set_num_threads(1)

COUNTS = np.array([40, 9, 3, 1])  # 9 is three times 3, though as shares of 53 it rounds to less
ALL = {"mixup": mixup, "cutmix": cutmix, "cmo": cmo, "remix": remix, "balanced_mixup": balanced_mixup}
every = pytest.mark.parametrize("strategy", [factory() for factory in ALL.values()], ids=ALL)
PROPORTIONAL = {"mixup": mixup(1), "cutmix": cutmix(1), "cmo": cmo(1, share=1), "balanced_mixup": balanced_mixup(1)}


def plan_of(counts: np.ndarray = COUNTS, epochs: int = 4) -> Plan:
    labels = np.repeat(np.arange(len(counts)), counts)
    return start(("many", "some", "few", "one")[: len(counts)], labels, epochs=epochs, allow_double_correction=True)


def mix_of(strategy: Strategy, counts: np.ndarray = COUNTS) -> Mix:
    mix = strategy(plan_of(counts)).stages[-1].mix
    assert mix is not None
    return mix


def mixed(
    strategy: Strategy, images: torch.Tensor, targets: torch.Tensor, seed: int = 0, counts: np.ndarray = COUNTS
) -> tuple[np.ndarray, np.ndarray]:
    found, labels = mix_of(strategy, counts)(images, targets, torch.Generator().manual_seed(seed))
    assert (found.shape, found.dtype) == (images.shape, images.dtype)
    assert (labels.shape, labels.dtype) == (targets.shape, targets.dtype)
    return found.numpy(), labels.numpy()


def numbered(rows: int) -> torch.Tensor:
    """An image for each row whose channels are the bits of the row's number: two of them differ somewhere."""
    return ((torch.arange(rows)[:, None] >> torch.arange(15)) & 1).double()[:, :, None, None]


def kept(images: np.ndarray) -> np.ndarray:
    """The share of itself that each image of `numbered` kept: 1 for one that met itself."""
    return 1 - np.abs(images - numbered(len(images)).numpy()).max((1, 2, 3))


def partners(images: np.ndarray) -> np.ndarray:
    """The number of the row that each image of `numbered` was blended with."""
    own, share = numbered(len(images)).numpy()[:, :, 0, 0], kept(images)
    other = own + (images[:, :, 0, 0] - own) / np.maximum(1 - share, 1e-12)[:, None]
    return other.round().astype(int) @ (1 << np.arange(15))


def labels_of(counts: np.ndarray, rows: int) -> np.ndarray:
    return np.random.default_rng(3).choice(len(counts), size=rows, p=counts / counts.sum())


# A double cannot tell a share from 1 when it is nearer than 1e-16, as one in twelve of Beta(0.05, 0.05) is,
# so the Kolmogorov-Smirnov distance is taken over points that a double can tell from both ends.
POINTS = np.concatenate([np.geomspace(1e-12, 0.5, 2000), 1 - np.geomspace(1e-12, 0.5, 2000)])


def distance(shares: np.ndarray, distribution: stats.rv_continuous) -> float:
    below = np.searchsorted(np.sort(shares), POINTS, side="right") / len(shares)
    return np.abs(below - distribution.cdf(POINTS)).max()


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("kind", ["mixup", "remix", "balanced_mixup"])
def test_shares_follow_the_beta_distribution(kind: str, alpha: float) -> None:
    rows = 20_000
    targets = torch.eye(2, dtype=torch.float64)[torch.arange(rows) % 2]
    images, _ = mixed(ALL[kind](alpha), numbered(rows), targets, counts=np.array([30, 30]))
    law = stats.beta(1, alpha) if kind == "balanced_mixup" else stats.beta(alpha, alpha)
    assert distance(kept(images), law) < 1.63 / np.sqrt(rows)  # the level of 1 %


def test_shares_of_single_precision_follow_it_too() -> None:
    targets = torch.eye(2)[torch.arange(20_000) % 2]
    images, _ = mixed(mixup(1), numbered(20_000).float(), targets, counts=np.array([30, 30]))
    assert stats.kstest(kept(images), "uniform").pvalue > 0.01


def test_every_row_of_a_batch_is_the_partner_of_one() -> None:
    images, _ = mixed(mixup(5), numbered(512), torch.eye(4, dtype=torch.float64)[torch.arange(512) % 4])
    met = partners(images)
    assert sorted(met) == list(range(512))
    assert (met == np.arange(512)).sum() < 10  # one is expected, as in any random order


@pytest.mark.parametrize("strategy", PROPORTIONAL.values(), ids=PROPORTIONAL)
def test_targets_hold_as_much_of_a_row_as_its_image_does(strategy: Strategy) -> None:
    rows = 64
    images = torch.arange(rows).double()[:, None, None, None].expand(rows, 2, 24, 16)
    found, labels = mixed(strategy, images, torch.eye(rows, dtype=torch.float64), counts=np.ones(rows, dtype=int))
    assert found.mean((1, 2, 3)) == pytest.approx(labels @ np.arange(rows), rel=1e-9)
    assert (labels.max(1) < 1).sum() > rows / 2  # and most are mixed at all


@every
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_mixed_targets_stay_distributions(strategy: Strategy, soft: bool) -> None:
    targets = torch.eye(4)[labels_of(COUNTS, 200)] * (0.9 if soft else 1) + (0.025 if soft else 0)
    images, labels = mixed(strategy, torch.rand(200, 1, 8, 8), targets)
    assert labels.sum(1) == pytest.approx(1, abs=1e-6)
    assert labels.min() >= 0
    assert images.min() >= 0
    assert images.max() <= 1


@every
def test_the_generator_decides_and_the_batch_stays_as_it_was(strategy: Strategy) -> None:
    images, targets = torch.rand(32, 1, 8, 8), torch.eye(4)[labels_of(COUNTS, 32)]
    before = images.clone(), targets.clone()
    torch.manual_seed(1)
    first = mixed(strategy, images, targets, seed=5)
    torch.manual_seed(2)
    again, other = mixed(strategy, images, targets, seed=5), mixed(strategy, images, targets, seed=6)
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])
    assert torch.equal(images, before[0])
    assert torch.equal(targets, before[1])


# --- cutmix


def boxes(alpha: float, rows: int, height: int, width: int) -> np.ndarray:
    """Bool [rows, height, width]: which pixels came from another row."""
    images = torch.arange(rows)[:, None, None, None].expand(rows, 1, height, width).float()
    found, _ = mixed(cutmix(alpha), images, torch.eye(rows), counts=np.ones(rows, dtype=int))
    own = found[:, 0] == images.numpy()[:, 0]
    # no pixel is a blend, nor of a third row
    assert all(len(set(row[~same])) <= 1 for row, same in zip(found[:, 0], own, strict=True))
    assert set(found.ravel()) <= set(range(rows))
    return ~own


def test_cutmix_pastes_one_box_of_the_image_s_shape() -> None:
    inside = 0
    for box in boxes(1.0, 400, 48, 24):
        rows, columns = box.any(1), box.any(0)
        assert np.array_equal(box, rows[:, None] & columns[None])
        assert all(np.abs(np.diff(line.astype(int))).sum() <= 2 for line in (rows, columns))
        if not (box[0].any() or box[-1].any() or box[:, 0].any() or box[:, -1].any()):
            inside += 1
            assert abs(rows.mean() - columns.mean()) <= 1 / 48 + 1 / 24
    assert inside > 50


def test_cutmix_boxes_cover_the_share_they_are_drawn_with() -> None:
    met = [box for box in boxes(100.0, 1000, 80, 80) if box.any()]  # a row that meets itself shows no box
    whole = [box.mean() for box in met if not (box[0] | box[-1] | box[:, 0] | box[:, -1]).any()]
    assert len(whole) > 50
    assert np.mean(whole) == pytest.approx(0.5, abs=0.02)  # Beta(100, 100) is 0.5 ± 0.035
    assert np.std(whole) == pytest.approx(0.035, abs=0.01)


def test_cutmix_centres_lie_anywhere() -> None:
    where = boxes(1.0, 3000, 20, 20).mean(0)
    assert np.abs(where - where[::-1]).max() < 0.06  # as likely above as below, left as right
    assert np.abs(where - where[:, ::-1]).max() < 0.06
    assert where[0, 0] > 0.1  # corners too


# --- cmo


def test_cmo_pastes_every_class_as_often_onto_a_share_of_the_images() -> None:
    rows = 6000
    labels = labels_of(COUNTS, rows)
    targets = torch.eye(len(COUNTS), dtype=torch.float64)[labels]
    background = torch.zeros(rows, 1, 1, 1, dtype=torch.float64) - torch.tensor(labels)[:, None, None, None] - 1
    whole = cmo(share=0.25)(plan_of()).stages[-1].mix
    assert whole is not None
    images, found = whole(background.expand(-1, 1, 8, 8).contiguous(), targets, torch.Generator().manual_seed(0))
    pasted = images != background
    assert pasted.any((1, 2, 3)).double().mean() < 0.25  # what is pasted on its own kind, or outside, is not seen
    onto = found[:, 0] < 1  # images of the first class that hold something else
    other = found[onto & torch.tensor(labels == 0)][:, 1:] > 0
    assert other.double().mean(0).numpy() == pytest.approx([1 / 3] * 3, abs=0.06)
    untouched = (found.max(1).values == 1).double().mean()
    assert 0.75 < untouched < 0.9


def test_cmo_with_power_0_on_every_image_is_cutmix_with_partners_drawn() -> None:
    targets = torch.eye(4, dtype=torch.float64)[labels_of(np.array([8, 3, 1, 4]), 4000)]
    images = targets[:, :, None, None].expand(-1, 4, 16, 16).contiguous()
    _, one = mixed(cmo(power=0, share=1), images, targets)
    _, other = mixed(cutmix(), images, targets)
    assert one.mean(0) == pytest.approx(other.mean(0), abs=0.02)


# --- remix


@pytest.mark.parametrize(("kappa", "tau"), [(3.0, 0.5), (3.0, 0.2), (10.0, 0.9)])
def test_remix_gives_the_label_to_the_smaller_class_as_the_paper_says(kappa: float, tau: float) -> None:
    labels = labels_of(COUNTS, 600)
    targets = torch.eye(4, dtype=torch.float64)[labels]
    images, found = mixed(remix(1.0, kappa, tau), numbered(600), targets)
    share, met, cases = kept(images), partners(images), set()
    for row in range(600):
        ratio, lam = COUNTS[labels[row]] / COUNTS[labels[met[row]]], share[row]  # Chou et al. 2020, eq. 6
        if ratio >= kappa and lam < tau:
            case, lam = "yields", 0.0
        elif ratio <= 1 / kappa and 1 - lam < tau:
            case, lam = "wins", 1.0
        else:
            case = "shares"
        cases.add(case)
        expected = lam * np.eye(4)[labels[row]] + (1 - lam) * np.eye(4)[labels[met[row]]]
        assert found[row] == pytest.approx(expected, abs=1e-9)
    assert cases == {"yields", "wins", "shares"}


def test_remix_looks_at_the_images_of_a_class_however_often_they_are_drawn() -> None:
    images, targets = torch.rand(64, 1, 4, 4), torch.eye(4)[torch.arange(64) % 4]
    plain = mixed(remix(), images, targets)
    for drawn in (chain(balanced_draw(), remix()), chain(oversample(), remix()), chain(remix(), oversample())):
        found = mixed(drawn, images, targets)
        assert np.array_equal(found[0], plain[0])
        assert np.array_equal(found[1], plain[1])


# --- balanced_mixup


def test_balanced_mixup_takes_partners_of_every_class_as_often() -> None:
    rows, labels = 20_000, labels_of(COUNTS, 20_000)
    targets = torch.eye(4, dtype=torch.float64)[labels]
    images, found = mixed(balanced_mixup(5.0), numbered(rows), targets)
    of_partner = np.bincount(labels[partners(images)], minlength=4) / rows
    assert of_partner == pytest.approx([0.25] * 4, abs=0.03)  # the batch itself holds 2 % ± 0.1 % of the smallest
    given = (1 - kept(images)).mean()
    assert given == pytest.approx(5 / 6, abs=0.005)
    assert found.mean(0) == pytest.approx((1 - given) * COUNTS / COUNTS.sum() + given / 4, abs=0.03)


def test_balanced_mixup_is_not_put_off_by_a_class_without_rows() -> None:
    labels = labels_of(np.array([9, 1, 0]), 4000)
    targets = torch.eye(3, dtype=torch.float64)[labels]
    images, _ = mixed(balanced_mixup(5.0), numbered(4000), targets, counts=np.array([9, 1, 0]))
    assert np.bincount(labels[partners(images)]) / 4000 == pytest.approx([0.5, 0.5], abs=0.04)


# --- plans


@every
def test_every_stage_mixes_and_the_rest_of_the_plan_stays(strategy: Strategy) -> None:
    plan = deferred(balanced_draw())(plan_of())
    changed = strategy(plan)
    assert all(stage.mix is not None for stage in changed.stages)
    assert all(stage.mix is None for stage in plan.stages)
    for before, now in zip(plan.stages, changed.stages, strict=True):
        assert (now.loss, now.odds is before.odds, now.epochs) == (before.loss, True, before.epochs)
    assert changed.samples is plan.samples


@every
@pytest.mark.parametrize("name", ALL)
def test_two_ways_to_mix_are_refused(strategy: Strategy, name: str) -> None:
    told = rf"{name}: the images are mixed already; keep one of balanced_mixup, cmo, cutmix, mixup, remix"
    for plan in (strategy(plan_of()), deferred(strategy)(plan_of())):
        with pytest.raises(UsageError, match=told):
            ALL[name]()(plan)


def test_mixing_can_wait() -> None:
    first, tail = deferred(mixup(), after=0.5)(plan_of()).stages
    assert first.mix is None
    assert tail.mix is not None


@pytest.mark.parametrize(
    ("strategy", "note"),
    [
        (mixup(), "mixup: shares from Beta(0.2, 0.2)"),
        (cutmix(0.5), "cutmix: boxes of a share from Beta(0.5, 0.5)"),
        (remix(), "remix: shares from Beta(1, 1), kappa 3, tau 0.5"),
        (balanced_mixup(0.25), "balanced_mixup: 20.0% of each image from a class-balanced partner"),
    ],
)
def test_a_strategy_notes_its_numbers(strategy: Strategy, note: str) -> None:
    assert strategy(plan_of()).notes == (note,)


@pytest.mark.parametrize(
    ("strategy", "wrong", "message"),
    [
        (mixup, {"alpha": 0.0}, "mixup: alpha must be in 0.01..100 but got 0.0"),
        (cutmix, {"alpha": -1.0}, "cutmix: alpha must be in 0.01..100 but got -1.0"),
        (balanced_mixup, {"alpha": float("nan")}, "balanced_mixup: alpha must be in 0.01..100 but got nan"),
        (remix, {"alpha": float("inf")}, "remix: alpha must be in 0.01..100 but got inf"),
        (remix, {"kappa": 1.0}, "remix: kappa must be above 1 but got 1.0"),
        (remix, {"tau": 1.5}, "remix: tau must be in 0..1 but got 1.5"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(
    strategy: Callable[..., Strategy], wrong: dict[str, float], message: str
) -> None:
    with pytest.raises(UsageError) as refused:
        strategy(**wrong)
    assert message in str(refused.value)
