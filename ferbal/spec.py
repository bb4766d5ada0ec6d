"""The study file: what it may say, read once, every mistake named with file and line."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, model_validator

from ferbal import database, ensemble, recipe, spec_errors, study_file
from ferbal.data import Twins
from ferbal.engine import EngineSpec
from ferbal.errors import UsageError, nearest
from ferbal.search import Choices, Point, Range, Space, Values
from ferbal.search_spec import Count, SearchSpec, Section, Several
from ferbal.settings import TUNABLE, Arm, Training
from ferbal.store import slug
from ferbal.study_file import Places


def _known_method(text: str) -> str:
    try:
        ensemble.named(text)
    except UsageError as error:
        raise ValueError(str(error)) from None
    return " + ".join(part.strip() for part in text.split("+"))


Method = Annotated[str, AfterValidator(_known_method)]


class DataSpec(Section):
    source: str = "demo"
    """A data set under data/, a path to one, or `demo`."""
    twins: Twins = "drop"
    """What to do with training rows whose picture is also in validation or test: leave them out, also where it is
    only nearly the same (re-encoded, resized, mirrored), or keep them."""


class FinalSpec(Section):
    seeds: Count = 6
    """Fresh seeds on which every arm is trained with its best knobs, the same for all arms."""
    first_seed: Count = 1
    """The first of these seeds, the others follow it: a study on seeds that an earlier one has not used."""


class ReportSpec(Section):
    baseline: str = ""
    """The strategy that the others are compared with; the first one if not given."""
    grad_cam: bool = False
    """Whether to add Grad-CAM overlays to the pictures of mistakes."""


class StudySpec(Section):
    """Everything a study file says, checked. Unknown keys are errors."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
    """Names the folder studies/NAME and the page reports/NAME.html."""
    data: DataSpec = DataSpec()
    backbones: Annotated[tuple[str, ...], Several, Field(min_length=1)]
    """Any timm names, or ferbal's own nets."""
    strategies: Annotated[dict[str, str], Field(min_length=1)]
    """Label: recipe, for each strategy to compare."""
    allow_double_correction: bool = False
    """Whether a recipe may even out the classes twice, by a draw and by weights for example. Usually a mistake."""
    training: Training = Training()
    search: SearchSpec = SearchSpec()
    final: FinalSpec = FinalSpec()
    ensembles: Annotated[tuple[Method, ...], Several] = ("average", "stack")
    """How the final runs of all arms are combined."""
    report: ReportSpec = ReportSpec()
    engine: EngineSpec = EngineSpec()
    storage: str = "sqlite"
    """Where the search is kept: sqlite (a file in the study's folder) or the URL of a database, such as
    postgresql+psycopg://user@host/name. Passwords come only from PGPASSWORD, ~/.pgpass or a service file."""

    @model_validator(mode="after")
    def _known_baseline(self) -> StudySpec:
        if self.report.baseline and self.report.baseline not in self.strategies:
            raise ValueError(
                f"report.baseline: no strategy {self.report.baseline!r}"
                f"{nearest(self.report.baseline, self.strategies)}"
            )
        return self

    @property
    def baseline(self) -> str:
        return self.report.baseline or next(iter(self.strategies))

    @property
    def arms(self) -> tuple[Arm, ...]:
        """Every strategy on every backbone, backbone by backbone."""
        return tuple(
            Arm(label, recipe, backbone) for backbone in self.backbones for label, recipe in self.strategies.items()
        )

    @property
    def seeds(self) -> range:
        """Of the final runs. The search uses seed 0, so these are fresh."""
        return range(self.final.first_seed, self.final.first_seed + self.final.seeds)

    def space(self, arm: Arm) -> Space:
        """What the search varies for an arm: a strategy's own parameter only where its recipe has the strategy."""
        varied = self.search.space
        used = recipe.names(arm.recipe)
        further = {
            name: _typed(name, values)
            for name, values in varied.further.items()
            if name in TUNABLE or name.rpartition(".")[0] in used
        }
        return replace(varied, further=further)

    def at(self, arm: Arm, point: Point) -> tuple[Arm, Training]:
        """The arm and its training with what a point of the search sets besides the knobs."""
        tuned = {name: value for name, value in point.further.items() if name not in TUNABLE}
        training: Any = {name: value for name, value in point.further.items() if name in TUNABLE}
        text = recipe.tuned(arm.recipe, tuned) if tuned else arm.recipe
        return replace(arm, recipe=text), replace(self.training, **training)

    def trials(self, arm: Arm) -> int:
        """How many trials an arm gets at most."""
        space = self.space(arm)
        if space.fixed:
            return 0
        return len(space.grid(self.search.trials)) if self.search.sampler == "grid" else self.search.trials

    @property
    def trainings(self) -> tuple[int, int]:
        """How many trials and final runs there are at most."""
        return sum(self.trials(arm) for arm in self.arms), len(self.seeds) * len(self.arms)


def load(path: Path, changes: Sequence[str] = ()) -> tuple[StudySpec, Places]:
    """Read a study file, with `key.path=value` changes. Raises one UsageError that names every mistake."""
    if not path.is_file():
        raise UsageError(f"{path}: no such study file. `ferbal init {path}` writes one to start from")
    values, lines = study_file.read(path)
    overridden: dict[tuple[str, ...], str] = {}
    for change in changes:
        study_file.change(values, change, overridden)
    places = Places(path, lines, overridden)
    try:
        settings = StudySpec.model_validate(values)
    except ValidationError as error:
        raise UsageError("\n".join(spec_errors.told(error, StudySpec, places))) from None
    if senseless := list(_senseless(settings, places)):
        raise UsageError("\n".join(senseless))
    return settings, places


def _senseless(settings: StudySpec, places: Places) -> Iterator[str]:
    """What is wrong with settings that are each well formed."""
    yield from _twice(settings, places)
    yield from _same_arms(settings, places)
    yield from _same_ensembles(settings, places)
    yield from _no_database(settings, places)
    yield from _uneven_batches(settings, places)
    yield from _grid_too_large(settings, places)
    for name, values in settings.search.further.items():
        yield from _not_searchable(name, values, settings, places.of(("search", "further", name)))


def _twice(settings: StudySpec, places: Places) -> Iterator[str]:
    for number, backbone in enumerate(settings.backbones):
        if backbone in settings.backbones[:number]:
            yield f"{places.of(('backbones', str(number)))}: {backbone} is named twice"


def _same_arms(settings: StudySpec, places: Places) -> Iterator[str]:
    """Strategies that are one, or are one with what the search sets."""
    same: dict[str, str] = {}
    searched: dict[str, str] = {}
    for label, text in settings.strategies.items():
        with suppress(UsageError):  # a recipe that cannot be read is reported where it is checked
            if (first := same.setdefault(recipe.canonical(text), label)) != label:
                yield f"{places.of(('strategies', label))}: the same as {first!r}; every arm must differ"
                continue
            tuned = recipe.canonical(_tuned(text, settings.search.further))
            if (first := searched.setdefault(tuned, label)) != label:
                yield (
                    f"{places.of(('strategies', label))}: the same as {first!r} once the search sets what they "
                    "differ in; every arm must differ"
                )


def _same_ensembles(settings: StudySpec, places: Places) -> Iterator[str]:
    """Ensembles that would lie in one folder."""
    folders: dict[str, str] = {}
    for number, method in enumerate(settings.ensembles):
        if folders.setdefault(slug(method), method) in settings.ensembles[:number]:
            told = f"{method!r} is the same as {folders[slug(method)]!r}; name each ensemble once"
            yield f"{places.of(('ensembles', str(number)))}: {told}"


def _no_database(settings: StudySpec, places: Places) -> Iterator[str]:
    """A URL that is no database's."""
    if settings.storage != "sqlite":
        try:
            database.check(settings.storage)
        except UsageError as error:
            where = places.of(("storage",)).replace(settings.storage, "...")  # it may hold a password
            yield f"{where}: {error}"


def _uneven_batches(settings: StudySpec, places: Places) -> Iterator[str]:
    """Batches that several devices cannot share evenly."""
    devices, sizes = settings.training.devices, settings.search.batch_size
    if uneven := [str(size) for size in (sizes if isinstance(sizes, tuple) else (sizes,)) if size % devices]:
        yield (
            f"{places.of(('search', 'batch_size'))}: training.devices: {devices} share each batch, so its size must "
            f"be a multiple of {devices} but got {', '.join(uneven)}"
        )


def _grid_too_large(settings: StudySpec, places: Places) -> Iterator[str]:
    """A grid of more points than the search has trials."""
    try:
        _ = settings.trainings
    except UsageError as error:
        yield f"{places.of(('search', 'trials'))}: {error}"


def _not_searchable(name: str, values: Values, settings: StudySpec, place: str) -> Iterator[str]:
    """What else than the knobs the search varies: a setting of that name that takes these values, or a complaint."""
    used = {one for text in settings.strategies.values() for one in recipe.names(text)}
    owner = name.rpartition(".")[0]
    if name not in TUNABLE and owner not in used:
        known = [*TUNABLE, *(f"{one}.{parameter}" for one in sorted(used) for parameter in _parameters(one))]
        told = f"no setting of that name can be searched in this study{nearest(name, known)}"
        yield f"{place}: {told}. Known here: {', '.join(known)}"
        return
    try:
        for value in values.values if isinstance(values, Choices) else (values.low, values.high):
            if name in TUNABLE:
                TypeAdapter(Training).validate_python({name: value})
                continue
            for text in settings.strategies.values():
                if owner in recipe.names(text):
                    recipe.parse(recipe.tuned(text, {name: value}))
    except ValidationError as error:
        problem = error.errors()[0]
        yield f"{place}: {problem['msg'][:1].lower()}{problem['msg'][1:]} but got {problem['input']!r}"
    except UsageError as error:
        yield f"{place}: {error}"


def _tuned(text: str, further: dict[str, Values]) -> str:
    """A recipe with one of the values that the search gives to the parameters of its strategies."""
    used = recipe.names(text)
    mine = {name: values for name, values in further.items() if name.rpartition(".")[0] in used}
    some = {name: each.values[0] if isinstance(each, Choices) else each.low for name, each in mine.items()}
    return recipe.tuned(text, some) if some else text


def _typed(name: str, values: Values) -> Values:
    """A range over whole numbers only where the setting takes nothing else: [0, 5] for a float means 0.0 to 5.0."""
    owner, _, parameter = name.rpartition(".")
    hint = typing.get_type_hints(Training)[name] if name in TUNABLE else _parameters(owner).get(parameter)
    if isinstance(values, Range) and hint is not int:
        return Range(float(values.low), float(values.high), values.log)
    return values


def _parameters(strategy: str) -> dict[str, Any]:
    try:
        return recipe.parameters(strategy)
    except UsageError:  # an unknown strategy is reported where its recipe is checked
        return {}


def as_json(spec: StudySpec) -> dict[str, Any]:
    """Every setting, defaults included."""
    return spec.model_dump(mode="json")
