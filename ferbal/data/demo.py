"""The embedded `demo` data set: 48x48 gray faces drawn by code, in the class proportions of FER2013.

A face is a person, the pull of twelve facial muscles, and a photograph of both. `Person` decides on
shapes, tones, hair and glasses; the expression picks a row of `POSES`, whose columns are actions of the
facial action coding system; `photograph` adds the head's pose, light, occlusion, blur and grain.

The task is meant to be hard in the way FER2013 is. Expressions are often faint, muscles twitch on their
own, and most faces carry a trace of their neighbour (fear of surprise, disgust of anger, sadness of
neutral). Three faces in a hundred show the neighbour outright: that is the label noise, in every split.

The bytes follow from the seed alone: chance is uniform numbers from PCG64, and pixels come from sums,
products, quotients and square roots, which IEEE 754 rounds alike on every platform.
"""

from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ferbal.dataset import FER2013

__all__ = ["CLASSES", "VERSION", "draw", "labels"]

VERSION: Final = "1"  # Goes up whenever the drawn bytes change.

CLASSES: Final[tuple[str, ...]] = FER2013
NEIGHBOURS: Final = ("disgust", "angry", "surprise", "neutral", "neutral", "fear", "sad")
FER2013_TRAINING_ROWS: Final = (3995, 436, 4097, 7215, 4830, 3171, 4965)
SPLIT_SIZES: Final = {"train": 3000, "val": 800, "test": 800}
SIDE: Final = 48
BATCH: Final = 64  # Small enough for a batch of pixels to stay in the cache.

LABEL_NOISE: Final = 0.03
BLEND: Final = 0.4  # The largest share of the neighbour in a face.
FAINTEST: Final = 0.4  # The weakest expression, where a full one is 1.
TWITCH: Final = 0.15  # Standard deviation of each muscle's own mind.

Field: TypeAlias = NDArray[np.floating]  # One number per face [faces, 1, 1], or per pixel [faces, 48, 48].
Labels: TypeAlias = NDArray[np.int64]
Images: TypeAlias = NDArray[np.uint8]


class Muscles(NamedTuple):
    """The pull of each action: 0 at rest, 1 in a full expression, negative the other way."""

    inner_brow: Field  # up
    outer_brow: Field  # up
    frown: Field  # brows together
    lids: Field  # upper lids wide open
    squint: Field  # lower lids up
    wrinkle: Field  # nose
    upper_lip: Field  # up
    corners: Field  # of the mouth, up
    stretch: Field  # of the mouth, sideways
    jaw: Field  # dropped
    press: Field  # lips together
    teeth: Field  # bared


# The poses of one class are different ways to make that face, equally likely.
POSES: Final = (
    #            inner outer frown  lids squint wrink upper corner stretch jaw press teeth
    ("angry",    (-0.9, -0.2, 1.0,  0.3,  0.3,  0.1,  0.0, -0.4,  0.0,  0.0,  0.9,  0.0)),
    ("angry",    (-0.9,  0.0, 1.0,  0.4,  0.3,  0.3,  0.1, -0.5,  0.3,  0.3,  0.0,  1.0)),
    ("disgust",  (-0.5, -0.3, 0.4, -0.6,  1.0,  1.2,  1.3, -0.4, -0.2,  0.0,  0.1,  0.1)),
    ("disgust",  (-0.5, -0.3, 0.3, -0.5,  1.0,  1.2,  1.3, -0.4, -0.2,  0.3,  0.0,  0.6)),
    ("fear",     ( 1.0,  0.3, 0.6,  0.9,  0.0,  0.0,  0.1, -0.4,  0.7,  0.3,  0.0,  0.7)),
    ("fear",     ( 0.9,  0.2, 0.7,  1.0,  0.0,  0.0,  0.0, -0.4,  0.5,  0.5,  0.0,  0.2)),
    ("happy",    ( 0.1,  0.1, 0.0, -0.1,  0.5,  0.0,  0.1,  0.9,  0.5,  0.0,  0.0,  0.2)),
    ("happy",    ( 0.1,  0.1, 0.0, -0.2,  0.8,  0.1,  0.2,  1.0,  0.6,  0.4,  0.0,  1.0)),
    ("sad",      ( 0.8, -0.5, 0.3, -0.5,  0.1,  0.0,  0.0, -0.8, -0.1,  0.0,  0.4,  0.0)),
    ("sad",      ( 0.8, -0.4, 0.5, -0.6,  0.5,  0.1,  0.2, -0.8,  0.3,  0.2,  0.0,  0.4)),
    ("surprise", ( 0.9,  1.0, 0.0,  0.9,  0.0,  0.0,  0.0,  0.0, -0.5,  1.0,  0.0,  0.1)),
    ("surprise", ( 1.0,  1.0, 0.0,  0.8,  0.0,  0.0,  0.0,  0.1, -0.4,  0.5,  0.0,  0.1)),
    ("neutral",  ( 0.0,  0.0, 0.0,  0.0,  0.0,  0.0,  0.0,  0.0,  0.0,  0.0,  0.1,  0.0)),
)  # fmt: skip


class Dice:
    """Traits drawn by lot for `faces` faces, from uniform numbers only."""

    def __init__(self, rng: np.random.Generator, faces: int) -> None:
        self.rng, self.faces = rng, faces

    def flat(self, low: float, high: float) -> Field:
        return low + (high - low) * self.rng.random((self.faces, 1, 1), dtype=np.float32)

    def bell(self, mean: float, deviation: float) -> Field:
        """Near enough to normal: the sum of four uniform numbers, scaled."""
        total = self.flat(-1, 1) + self.flat(-1, 1) + self.flat(-1, 1) + self.flat(-1, 1)
        return mean + deviation * 0.866 * total

    def chance(self, probability: float) -> Field:
        """One with the given probability, else zero."""
        return (self.flat(0, 1) < probability).astype(np.float32)


class Person:
    """What stays when the expression goes. Lengths are in half heights of the face."""

    def __init__(self, dice: Dice) -> None:
        man = dice.chance(0.5)
        self.skin = dice.flat(0.42, 0.85)
        self.hair = self.skin * dice.flat(0.1, 0.75) + 0.3 * dice.chance(0.08)
        self.age = dice.flat(0, 1)
        self.width, self.taper = dice.bell(0.76, 0.04), dice.bell(0.17, 0.04)
        self.eye_gap, self.eye_size = dice.bell(0.34, 0.018), dice.bell(0.17, 0.012)
        self.iris = dice.flat(0.08, 0.35)
        self.brow_height, self.brow_arch = dice.bell(0.33, 0.02), dice.flat(0, 0.24)
        self.brow_weight = dice.flat(0.022, 0.04) + 0.012 * man
        self.nose_tip, self.nose_width = dice.bell(0.24, 0.025), dice.bell(0.125, 0.015)
        self.mouth_height, self.mouth_width = dice.bell(0.55, 0.02), dice.bell(0.29, 0.02)
        self.lips = dice.flat(0.03, 0.06)
        self.hairline, self.parting, self.curls = dice.bell(0.72, 0.08), dice.flat(-0.5, 0.5), dice.flat(0, 1)
        self.long_hair = dice.chance(0.75) * (1 - man)
        self.beard = dice.chance(0.3) * man * dice.flat(0.2, 0.9)
        self.glasses = dice.chance(0.14)


class Canvas:
    """Gray paint over face coordinates: x to the right, y down, chin and crown near y = 1 and y = -1."""

    def __init__(self, x: Field, y: Field, pixel: Field) -> None:
        self.x, self.y, self.pixel = x, y, pixel
        self.across = np.abs(x)  # Drawn with this instead of x, a shape appears on both sides.
        self.image: Field = np.zeros_like(x)

    def inside(self, distance: Field, blur: float = 1) -> Field:
        """Coverage of a shape with this signed distance, its edge softened over `blur` pixels."""
        return np.clip(0.5 - distance / (blur * self.pixel), 0, 1)

    def paint(self, mask: Field, tone: Field | float) -> None:
        self.image += mask * (tone - self.image)

    def shade(self, mask: Field) -> None:
        """Darken what is there, or lighten it where `mask` is negative."""
        self.image *= 1 - mask


def oval(x: Field, y: Field, rx: Field | float, ry: Field | float) -> Field:
    """Signed distance to an ellipse, good near its edge."""
    u, v = x / rx, y / ry
    distance: Field = (np.sqrt(u * u + v * v) - 1) * np.minimum(rx, ry)
    return distance


def stroke(along: Field, off: Field, length: Field | float, weight: Field | float) -> Field:
    """Signed distance to a bar of half `length` and half `weight`."""
    return np.maximum(np.abs(along) - length, np.abs(off) - weight)


def ripple(phase: Field) -> Field:
    """A triangle wave between -1 and 1, with period 1."""
    wave: Field = 4 * np.abs(phase - np.floor(phase) - 0.5) - 1
    return wave


def positive(pull: Field) -> Field:
    return np.maximum(pull, 0)


def outline(c: Canvas, who: Person) -> Field:
    """Signed distance to the edge of the face, an egg that narrows to the chin."""
    return oval(c.x, c.y - 0.02, who.width * (1 - who.taper * c.y * np.abs(c.y)), 1.0)


def scalp(c: Canvas, who: Person) -> Field:
    return oval(c.x, c.y + 0.2, who.width + 0.1, 0.95)


def draw_head(c: Canvas, who: Person) -> None:
    """Neck, ears and face, on top of the hair that falls behind them."""
    curtain = np.maximum(c.across - who.width - 0.12, -c.y - 0.3)
    c.paint(c.inside(scalp(c, who), 2), who.hair)
    c.paint(who.long_hair * c.inside(curtain, 2), who.hair)
    c.paint(c.inside(np.maximum(c.across - 0.45, 0.6 - c.y), 2), 0.7 * who.skin)
    ears = oval(c.across - who.width, c.y - 0.02, 0.08, 0.17)
    c.paint((1 - who.long_hair) * c.inside(ears), 0.82 * who.skin)
    c.paint(c.inside(outline(c, who)), who.skin)


def draw_hair(c: Canvas, who: Person) -> None:
    """A parted fringe of many strands, and a beard up to the ears."""
    strands = who.hair * (1 + 0.1 * ripple(7 * c.x + (1 + 3 * who.curls) * c.y))
    u = c.x - who.parting
    fringe = c.y + who.hairline - (0.55 - 0.2 * who.long_hair) * u * u + 0.04 * ripple(3 * u)
    c.paint(c.inside(np.maximum(fringe, scalp(c, who)), 1.5), strands)
    beard = np.maximum(outline(c, who), 0.42 - 0.4 * c.across - c.y)
    c.paint(who.beard * c.inside(beard, 3), 0.8 * who.hair)


def draw_cheeks(c: Canvas, who: Person, pull: Muscles) -> None:
    """The folds from nose to mouth, deep in a smile, a sneer or an old face."""
    smile, sneer = positive(pull.corners), positive(pull.upper_lip)
    down = (c.y - who.nose_tip) / 0.32
    bend = (0.14 + 0.05 * smile) * down + 0.06 * smile * down * (1 - down)
    fold = stroke(down - 0.5 + 0.15 * sneer, c.across - who.nose_width - 0.05 - bend, 0.5, 0.02)
    c.shade((0.05 + 0.12 * who.age + 0.2 * smile + 0.25 * sneer) * c.inside(fold, 1.8))
    apples = oval(c.across - 0.42, c.y - 0.2, 0.2, 0.15)
    c.shade(-0.14 * (smile + 0.4 * sneer) * c.inside(apples, 5))


def draw_nose(c: Canvas, who: Person, pull: Muscles, sunny_side: Field) -> None:
    """Ridge, wings and nostrils; wrinkling lifts the tip and creases the bridge."""
    wrinkle = positive(pull.wrinkle)
    y = c.y - who.nose_tip + 0.06 * wrinkle
    ridge = np.abs(y + 0.25) - 0.25
    c.shade(-0.18 * c.inside(np.maximum(ridge, c.across - 0.05), 3))
    flank = stroke(ridge, c.x + 0.09 * np.sign(sunny_side), 0.02, 0.03)
    c.shade(0.3 * np.abs(sunny_side) * c.inside(flank, 2.5))
    c.shade(-0.15 * c.inside(oval(c.x, y + 0.03, 0.07, 0.06), 2.5))
    wings = np.abs(oval(c.across - who.nose_width + 0.03, y, 0.06, 0.06)) - 0.01
    c.shade(0.28 * c.inside(np.maximum(wings, who.nose_width - 0.02 - c.across), 1.5))
    c.shade(0.6 * c.inside(oval(c.across - 0.55 * who.nose_width, y - 0.045, 0.04, 0.022), 1.5))
    creases = positive(ripple(9 * (c.y - 0.7 * c.across)))
    c.shade(0.5 * wrinkle * creases * c.inside(oval(c.x, c.y + 0.07, 0.15, 0.15), 1.5))


def draw_eyes(c: Canvas, who: Person, pull: Muscles, gaze: Field) -> None:
    """Sockets, whites and irises, and the lids that frame them."""
    x, y = c.across - who.eye_gap, c.y + 0.12
    c.shade(0.22 * c.inside(oval(x + 0.03, y + 0.02, 0.27, 0.2), 5))

    u = x / who.eye_size
    upper = y + (0.075 + 0.055 * pull.lids - 0.02 * pull.squint) * (1 - u * u)
    lower = y - (0.045 + 0.015 * pull.lids - 0.04 * pull.squint) * (1 - u * u)
    opening = np.maximum(-upper, lower)
    c.paint(c.inside(opening), 0.35 + 0.6 * who.skin)
    x = c.x - np.sign(c.x) * who.eye_gap - gaze  # Both eyes look, and glint, to the same side.
    c.paint(c.inside(np.maximum(opening, oval(x, y + 0.01, 0.075, 0.08))), who.iris)
    c.paint(0.8 * c.inside(oval(x + 0.03, y + 0.04, 0.02, 0.02)), 1.0)

    c.paint(0.85 * c.inside(stroke(u, upper, 1.1, 0.016)), 0.25 * who.skin)
    c.shade(0.25 * c.inside(stroke(u, lower, 0.9, 0.01)))
    c.shade(0.2 * c.inside(stroke(u, upper + 0.06 + 0.02 * pull.lids, 0.9, 0.01), 1.5))
    bags = stroke(u, lower - 0.07 + 0.02 * pull.squint, 0.9, 0.015)
    c.shade((0.1 * who.age + 0.3 * positive(pull.squint)) * c.inside(bags, 1.5))


def draw_brows(c: Canvas, who: Person, pull: Muscles) -> None:
    """Two tapering strokes, with the lines that knitting or raising them brings."""
    t = (c.across - 0.14 + 0.05 * pull.frown) / 0.4  # 0 at the inner end, 1 at the outer
    lift = (0.11 * pull.inner_brow - 0.03 * pull.frown) * (1 - t) + 0.11 * pull.outer_brow * t
    y = c.y + who.brow_height
    line, weight = y + lift + who.brow_arch * t * (1 - t), who.brow_weight * (1.2 - 0.6 * t)
    hairs = stroke(0.4 * (t - 0.5), line, 0.2, weight)
    c.paint(0.9 * c.inside(hairs), 0.9 * who.hair)
    c.shade(0.5 * positive(pull.frown) * c.inside(stroke(y, c.across - 0.06, 0.09, 0.015)))
    raised = positive(pull.inner_brow + pull.outer_brow) * (0.08 + 0.12 * who.age)
    creases = positive(ripple(7 * (c.y + 0.6 * lift)))
    c.shade(raised * creases * c.inside(oval(c.x, c.y + 0.58, 0.45, 0.14), 3))


def draw_mouth(c: Canvas, who: Person, pull: Muscles) -> None:
    """Lips around an opening, with the teeth hanging into it."""
    width = who.mouth_width * (1 + 0.25 * pull.stretch + 0.1 * positive(pull.corners))
    u = c.x / width
    bow = 1 - u * u
    ring = np.sqrt(positive(bow))
    jaw, teeth = positive(pull.jaw), np.clip(pull.teeth, 0, 1)
    line = c.y - who.mouth_height - 0.05 * jaw + 0.16 * pull.corners * (u * u - 0.35)
    line += 0.07 * pull.upper_lip * bow
    upper = line + 0.1 * jaw * ring + (0.03 * teeth + 0.02 * positive(pull.upper_lip)) * bow
    lower = line - 0.2 * jaw * ring - 0.05 * teeth * bow
    lips = who.lips * (1 - 0.5 * positive(pull.press))

    c.shade(0.25 * c.inside(oval(c.x, lower - lips - 0.08, 0.16, 0.04), 3))
    between_corners = c.across - width
    lips_around = np.maximum(-upper - lips * bow, lower - 1.3 * lips * bow)
    c.paint(c.inside(np.maximum(lips_around, between_corners), 1.3), 0.68 * who.skin)
    opening = np.maximum(np.maximum(-upper, lower), between_corners)
    c.paint(np.clip(8 * (jaw + teeth) - 0.4, 0, 1) * c.inside(opening), 0.16 * who.skin)
    c.paint(teeth * c.inside(np.maximum(opening + 0.012, upper - 0.09)), 0.92)
    c.paint(0.8 * c.inside(stroke(u, upper, 1, 0.012)), 0.25 * who.skin)
    c.shade(0.3 * c.inside(oval(np.abs(u) - 1, line, 0.15, 0.04), 2))


def draw_glasses(c: Canvas, who: Person) -> None:
    """Two round rims, a bridge, and temples as far as the face shows them."""
    rims = np.abs(oval(c.across - who.eye_gap, c.y + 0.1, 0.25, 0.2)) - 0.014
    bars = stroke(np.abs(c.across - 0.34) - 0.34, c.y + 0.13, 0.1, 0.014)
    c.paint(0.85 * who.glasses * c.inside(np.minimum(rims, bars)), 0.12)


def frame(dice: Dice) -> Canvas:
    """A plain backdrop, and face coordinates for a head that leans, turns, nods and comes closer."""
    grid = (np.arange(SIDE, dtype=np.float32) + 0.5) * (2 / SIDE) - 1
    scale = dice.bell(1.0, 0.06)
    x = scale * (grid[None, None, :] - dice.bell(0, 0.05))
    y = scale * (grid[None, :, None] - dice.bell(0, 0.05))
    lean = dice.bell(0, 0.06)  # From the tangent of half an angle, division gives its cosine and sine.
    cos, sin = (1 - lean * lean) / (1 + lean * lean), 2 * lean / (1 + lean * lean)
    x, y = cos * x + sin * y, cos * y - sin * x
    c = Canvas(
        x=x + dice.bell(0, 0.06) * positive(1 - x * x),
        y=y + dice.bell(0, 0.05) * positive(1 - y * y),
        pixel=scale * (2 / SIDE),
    )
    c.image += dice.flat(0.1, 0.9) + dice.flat(-0.2, 0.2) * x + dice.flat(-0.2, 0.2) * y
    return c


def light(c: Canvas, who: Person, sunny_side: Field, dice: Dice) -> None:
    """Lambert's law on an ellipsoid, with some light from everywhere."""
    x, y = c.x / (who.width + 0.15), c.y / 1.2
    z = np.sqrt(np.maximum(1 - x * x - y * y, 0.04))
    direct = positive(x * sunny_side - y * dice.flat(-0.2, 0.6) + 0.8 * z)
    ambient = dice.flat(0.35, 0.9)
    c.image *= ambient + (1.25 - ambient) * direct


def occlude(c: Canvas, who: Person, dice: Dice) -> None:
    """Sometimes a hand at the mouth or cheek, a lock of hair over one eye, or a bar anywhere."""
    what = dice.flat(0, 1)
    x = c.x * (2 * dice.chance(0.5) - 1)
    along = x - dice.flat(0.2, 0.7)
    off = c.y - dice.flat(0.35, 0.9) + dice.flat(-0.6, 0.6) * along
    fingers = who.skin * (0.85 + 0.18 * ripple(6 * off + 0.5))
    c.paint((what < 0.06) * c.inside(stroke(along - 0.6, off, 0.6, 0.33), 1.5), fingers)
    lock = np.maximum(np.abs(x - 0.35 + 0.4 * c.y) - 0.1 * (c.y + 1.1), c.y - 0.3)
    c.paint((what > 0.9) * (what < 0.95) * c.inside(lock, 1.5), who.hair)
    c.paint((what > 0.95) * c.inside(np.abs(off + dice.flat(-0.2, 0.8)) - 0.12), dice.flat(0, 1))


def develop(c: Canvas, dice: Dice) -> Images:
    """Blur, contrast, exposure and grain, then bytes."""
    image, blur = c.image, dice.flat(0, 0.25)
    for axis in (1, 2):
        image = image + blur * (np.roll(image, 1, axis) + np.roll(image, -1, axis) - 2 * image)
    image = 0.5 + dice.flat(0.75, 1.25) * (image - 0.5) + dice.flat(-0.1, 0.1)
    grain = dice.rng.random((2, *image.shape), dtype=np.float32)
    image = image + dice.flat(0.01, 0.09) * (grain[0] + grain[1] - 1)
    return np.asarray(np.rint(255 * np.clip(image, 0, 1)), dtype=np.uint8)


def express(truth: Labels, dice: Dice) -> Muscles:
    """The muscles behind each label, pulled anywhere between a hint and the full expression."""
    table = np.array([pulls for _, pulls in POSES], dtype=np.float32)
    owners = np.array([CLASSES.index(name) for name, _ in POSES])
    neighbours = np.array([CLASSES.index(name) for name in NEIGHBOURS])

    def poses(classes: Labels) -> Field:
        first = np.searchsorted(owners, classes)
        count = np.searchsorted(owners, classes, side="right") - first
        return table[first + (dice.flat(0, 1).ravel() * count).astype(np.int64)]

    own, other = poses(truth), poses(neighbours[truth])
    share = np.maximum(dice.flat(0, BLEND), dice.chance(LABEL_NOISE))[:, 0]
    pulls = dice.flat(FAINTEST, 1.1)[:, 0] * (own + share * (other - own))
    return Muscles(*(pull[:, None, None] + dice.bell(0, TWITCH) for pull in pulls.T))


def photograph(truth: Labels, rng: np.random.Generator) -> Images:
    """One picture per label [faces, 48, 48]."""
    dice = Dice(rng, len(truth))
    who, pull, c = Person(dice), express(truth, dice), frame(dice)
    gaze, sunny_side = dice.bell(0, 0.02), dice.flat(-0.8, 0.8)
    draw_head(c, who)
    draw_cheeks(c, who, pull)
    draw_nose(c, who, pull, sunny_side)
    draw_hair(c, who)
    draw_eyes(c, who, pull, gaze)
    draw_brows(c, who, pull)
    draw_mouth(c, who, pull)
    draw_glasses(c, who)
    light(c, who, sunny_side, dice)
    occlude(c, who, dice)
    return develop(c, dice)


def quotas(size: int) -> list[int]:
    """Rows per class for `size` rows in FER2013's proportions, by largest remainder."""
    whole, remainders = np.divmod(size * np.array(FER2013_TRAINING_ROWS), sum(FER2013_TRAINING_ROWS))
    whole[np.argsort(-remainders, kind="stable")[: size - whole.sum()]] += 1
    return [int(rows) for rows in whole]


def labels() -> dict[str, Labels]:
    """The labels of each split, the same for every seed."""
    rng = np.random.Generator(np.random.PCG64(2013))
    sets = {}
    for split, size in SPLIT_SIZES.items():
        in_order = np.repeat(np.arange(len(CLASSES), dtype=np.int64), quotas(size))
        sets[split] = in_order[np.argsort(rng.random(size), kind="stable")]
    return sets


def draw(seed: int = 0) -> dict[str, tuple[Images, Labels]]:
    """Images [rows, 1, 48, 48] and labels [rows] of each split."""
    rng = np.random.Generator(np.random.PCG64(seed))
    sets = {}
    for split, truth in labels().items():
        batches = [photograph(truth[at : at + BATCH], rng) for at in range(0, len(truth), BATCH)]
        sets[split] = (np.concatenate(batches)[:, None], truth)
    return sets
