"""The study file: every mistake is named with file, line and path, and what is right is read as meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import STUDY

from ferbal import files, spec, study_file
from ferbal.errors import UsageError
from ferbal.search import Choices, Point, Range
from ferbal.settings import Knobs

SHIPPED = sorted((Path(__file__).parents[1] / "studies").rglob("*.yaml"))
STARTER = Path(spec.__file__).with_name("starter.yaml")


def complaint(tmp_path: Path, text: str, *changes: str) -> str:
    path = tmp_path / "s.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as raised:
        spec.load(path, changes)
    return str(raised.value).replace(f"{tmp_path}/", "")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("backbones", "backbone", "s.yaml:3: backbone: unknown key (did you mean 'backbones'?)"),
        ("epochs", "epoch", "s.yaml:7: training.epoch: unknown key (did you mean 'epochs'?)"),
        ("name: tiny", "name: tiny\ninterval: 5", "s.yaml:2: interval: unknown key (did you mean 'final'?). Known"),
        (
            "augment: light",
            "interpolation: bicubic",
            "s.yaml:7: training.interpolation: unknown key. Known here: epochs",
        ),
        ("plain: plain", "intense: 5", "s.yaml:5: strategies.intense: input should be a valid string but got 5"),
        ("trials: 2", "trial: 2", "s.yaml:8: search.trial: unknown key (did you mean 'trials'?)"),
        (
            "source: tiny",
            "source: tiny, twins: maybe",
            "s.yaml:2: data.twins: input should be 'drop', 'near' or 'keep'",
        ),
        ("name: tiny", "name: tiny\nname: again", "s.yaml:2: duplicate key 'name'; keep one of the two"),
        ("[1e-3, 1e-2]", "[1e-2, 1e-4]", "s.yaml:8: search.lr: a range is [lowest, highest], but 0.01 is not below"),
        ("[1e-3, 1e-2]", "[1e-2, 1e-4, 1]", "s.yaml:8: search.lr: list should have at most 2 items"),
        ("[1e-3, 1e-2]", "-1", "s.yaml:8: search.lr: input should be greater than 0 but got -1"),
        ("[16, 32]", "[16, x]", "s.yaml:8: search.batch_size.1: input should be a valid integer"),
        (
            "trials: 2",
            "trials: 0",
            "with trials: 0, lr, batch_size and patience need a single value each, e.g. {trials: 0, lr: 3e-3, batch",
        ),
        (
            "trials: 2",
            "trials: 2, weigth_decay: [0, 1]",
            "s.yaml:8: search.weigth_decay: unknown key (did you mean 'weight_decay'?). Known here: trials, lr,",
        ),
        ("trials: 2", "trials: 2, gama: 2", "optimizer, augment, or STRATEGY.PARAMETER"),
        ("epochs: 3", "epochs: 0", "s.yaml:7: training.epochs: input should be greater than or equal to 1 but got 0"),
        ("epochs: 3", "epochs: many", "s.yaml:7: training.epochs: input should be a valid integer"),
        ("augment: light", "augment: heavy", "s.yaml:7: training.augment: input should be 'none', 'flip', 'light'"),
        ("name: tiny", "name: ../up", "s.yaml:1: name: a name has 1 to 64 letters, digits, - or _, begins with"),
        ("name: tiny\n", "", "s.yaml: name: this key is required"),
        ("{seeds: 2}", "{seeds: 2}\nreport: {baseline: plan}", "no strategy 'plan' (did you mean 'plain'?)"),
        ("plain: plain", "plain: [plain", "not valid YAML"),
        ("trials: 2", "sampler: grid, trials: 1", "s.yaml:8: search.trials: a grid over these choices has 2 points"),
        ("[16, 32]", "[]", "s.yaml:8: search.batch_size: value should have at least 1 item"),
        ("[facevgg_small]", "[facevgg_small, resnet18, facevgg_small]", "backbones.2: facevgg_small is named twice"),
        (
            "plain: plain",
            "plain: plain\n  again: plain()",
            "s.yaml:6: strategies.again: the same as 'plain'; every arm",
        ),
        ("{seeds: 2}", "{seeds: 2}\nensembles: [stack, vote, stack]", "ensembles.2: 'stack' is the same as 'stack'"),
        (
            "{seeds: 2}",
            "{seeds: 2}\nensembles: [greedy log loss, greedy log-loss]",
            "ensembles.1: 'greedy log-loss' is the same as 'greedy log loss'; name each ensemble once",
        ),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in STUDY
    assert said in complaint(tmp_path, STUDY.replace(old, new, 1))


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    text = STUDY.replace("epochs: 3", "epochs: 0").replace("seeds: 2", "seeds: 0").replace("source", "sauce")
    assert len(complaint(tmp_path, text).splitlines()) == 3


@pytest.mark.parametrize("text", ["", "- a\n- b", "just words"])
def test_a_file_that_is_no_mapping_says_what_a_study_file_is(tmp_path: Path, text: str) -> None:
    assert "a study file is a mapping" in complaint(tmp_path, text)


def test_a_missing_file_names_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such study file.*ferbal init"):
        spec.load(tmp_path / "none.yaml")


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(UsageError, match="not a text file"):
        spec.load(tmp_path / "s.yaml")


def test_numbers_and_words_are_read_as_meant(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(STUDY.replace("plain: plain", "no: plain\n  on: focal"))
    settings, _ = spec.load(path)
    assert settings.search.lr == (1e-3, 1e-2)
    assert list(settings.strategies) == ["no", "on", "weighted"]
    assert settings.baseline == "no"


def test_changes_from_the_command_line_are_yaml_and_named_in_errors(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(STUDY)
    settings, _ = spec.load(path, ["training.epochs=7", "search.lr=[1e-4, 1e-3]", "final.seeds=3"])
    assert (settings.training.epochs, settings.search.lr, settings.final.seeds) == (7, (1e-4, 1e-3), 3)
    said = complaint(tmp_path, STUDY, "training.epochs=soon")
    assert said.startswith("--set training.epochs=soon: training.epochs: input should be a valid integer")
    assert "expected key=value" in complaint(tmp_path, STUDY, "training.epochs")
    assert "holds no settings of its own" in complaint(tmp_path, STUDY, "name.first=x")


def test_the_number_of_trainings_counts_every_arm(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(STUDY)
    settings, _ = spec.load(path, ["backbones=[facevgg, resnet18]"])
    assert [arm.name for arm in settings.arms] == [
        "plain · facevgg",
        "weighted · facevgg",
        "plain · resnet18",
        "weighted · resnet18",
    ]
    assert settings.trainings == (8, 8)
    fixed, _ = spec.load(path, ["search={trials: 0, lr: 1e-3, batch_size: 8, patience: 2}"])
    assert fixed.trainings == (0, 4)
    grid, _ = spec.load(path, ["search.sampler=grid", "search.trials=17"])
    assert grid.trainings == (2 * 16, 4)  # two sizes, two patiences, four rates


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_study_that_ferbal_ships_is_valid(path: Path) -> None:
    settings, _ = spec.load(path)
    assert settings.name == path.stem


def test_the_schema_describes_every_setting() -> None:
    schema = spec.StudySpec.model_json_schema()
    sections = [schema, *schema["$defs"].values()]
    undescribed = [
        name
        for section in sections
        for name, entry in section.get("properties", {}).items()
        if "description" not in entry and "$ref" not in entry
    ]
    assert undescribed == []


@pytest.mark.parametrize("path", [*SHIPPED, STARTER], ids=lambda path: path.stem)
def test_the_schema_accepts_every_study_file_that_comes_with_ferbal(path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    values, _ = study_file.read(path)
    jsonschema.validate(values, spec.StudySpec.model_json_schema())


def test_the_schema_refuses_a_misspelt_key_and_takes_whatever_a_search_may_vary() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = spec.StudySpec.model_json_schema()
    study = {"name": "x", "backbones": ["resnet18"], "strategies": {"plain": "plain"}}
    varied = {"prune": True, "weight_decay": {"low": 1e-5, "high": 0.1, "log": True}, "focal.gamma": [0, 5]}
    jsonschema.validate(study | {"search": varied}, schema)
    for wrong in ({"trainig": {}}, {"training": {"epoch": 5}}, {"search": {"prune": "mean"}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(study | wrong, schema)


FOCAL = STUDY.replace("weighted: weighted(beta=0.9)", "focal: focal(gamma=2)")


def searched(tmp_path: Path, more: str) -> spec.StudySpec:
    path = tmp_path / "s.yaml"
    path.write_text(FOCAL.replace("patience: [2, 3]}", f"patience: [2, 3], {more}}}"))
    return spec.load(path)[0]


@pytest.mark.parametrize(
    ("written", "name", "values"),
    [
        ("weight_decay: {low: 1e-5, high: 0.1, log: true}", "weight_decay", Range(1e-5, 0.1, log=True)),
        ("label_smoothing: [0, 0.2]", "label_smoothing", Range(0.0, 0.2)),
        ("label_smoothing: {choose: [0, 0.1]}", "label_smoothing", Choices((0, 0.1))),
        ("optimizer: [adamw, sgd]", "optimizer", Choices(("adamw", "sgd"))),
        ("dropout: 0.3", "dropout", Choices((0.3,))),
        ("focal.gamma: [0, 5]", "focal.gamma", Range(0.0, 5.0)),
        ("focal: {gamma: [0, 5]}", "focal.gamma", Range(0.0, 5.0)),
        ("further: {focal.gamma: [0, 5]}", "focal.gamma", Range(0.0, 5.0)),
    ],
)
def test_any_setting_may_vary(tmp_path: Path, written: str, name: str, values: object) -> None:
    settings = searched(tmp_path, written)
    plain, focal = (settings.space(arm).further for arm in settings.arms)
    assert focal == {name: values}
    assert plain == ({} if "gamma" in name else focal)  # a strategy's parameter, only where the strategy is


def test_what_the_search_finds_goes_into_training_and_recipe(tmp_path: Path) -> None:
    settings = searched(tmp_path, "weight_decay: [0, 1], focal.gamma: [0, 5]")
    found = Point(Knobs(0.1, 32, 3), {"weight_decay": 0.5, "focal.gamma": 1.25})
    arm, training = settings.at(settings.arms[1], found)
    assert arm.recipe == "focal(gamma=1.25)"
    assert (training.weight_decay, training.epochs) == (0.5, 3)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("weigth_decay: [0, 1]", "s.yaml:8: search.weigth_decay: unknown key"),
        ("focal.gama: [0, 5]", "s.yaml:8: search.focal.gama: focal has no 'gama' (did you mean 'gamma'?)"),
        (
            "vocal.gamma: [0, 5]",
            "no setting of that name can be searched in this study (did you mean 'focal.gamma'?). Known here",
        ),
        (
            "label_smoothing: [0, 2]",
            "s.yaml:8: search.label_smoothing: input should be less than 1 but got 2",
        ),
        ("dropout: [0.5, 0.1]", "a range is [lowest, highest], but 0.5 is not below 0.1"),
        ("dropout: {low: 0, high: 0.5, log: true}", "begins above 0"),
        ("focal.gamma: [a, b]", "search.focal.gamma: recipe"),
        ("sampler: best", "search.sampler: input should be 'tpe', 'random', 'grid', 'cmaes' or 'gp'"),
        ("prune: sometimes", "s.yaml:8: search.prune: input should be"),
        ("trials: 0, sampler: grid", "duplicate key"),
        (
            "augment: [light, {flip: 0.5}]",
            "s.yaml:8: search.augment: a search chooses among numbers, names, true and",
        ),
        ("optimizer: {choose: adamw}", "search.optimizer: give a value, [lowest, highest], a list"),
    ],
)
def test_what_cannot_vary_is_named(tmp_path: Path, written: str, said: str) -> None:
    assert said in complaint(tmp_path, FOCAL.replace("patience: [2, 3]}", f"patience: [2, 3], {written}}}"))


def test_arms_that_the_search_makes_the_same_are_refused(tmp_path: Path) -> None:
    """They would share every run, and an arm would be compared with itself."""
    mild, strong = "mild: focal(gamma=1)", "strong: focal(gamma=2)"
    two = FOCAL.replace("focal: focal(gamma=2)", f"{mild}\n  {strong}")
    varied = two.replace("patience: [2, 3]}", "patience: [2, 3], focal.gamma: [0, 5]}")
    said = "s.yaml:7: strategies.strong: the same as 'mild' once the search sets what they differ in; every arm"
    assert said in complaint(tmp_path, varied)
    for others in (two, varied.replace(strong, "strong: mirror | focal(gamma=2)")):
        (tmp_path / "s.yaml").write_text(others)
        assert len(spec.load(tmp_path / "s.yaml")[0].arms) == 3


@pytest.mark.parametrize(
    ("written", "pruner"), [("true", "median"), ("false", "none"), ("median", "median"), ("hyperband", "hyperband")]
)
def test_pruning_is_yes_no_or_by_name(tmp_path: Path, written: str, pruner: str) -> None:
    assert searched(tmp_path, f"prune: {written}").search.budget.pruner == pruner


def test_a_method_with_corrections_is_known_by_one_spelling(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(STUDY + "ensembles: [average, greedy+offsets, stack + temperature]\n")
    assert spec.load(path)[0].ensembles == ("average", "greedy + offsets", "stack + temperature")
    assert "no method 'greed' (did you mean 'greedy'?)" in complaint(tmp_path, STUDY + "ensembles: [greed]\n")
    assert "no correction 'offset'" in complaint(tmp_path, STUDY + "ensembles: [greedy + offset]\n")


def test_how_images_are_varied_may_be_said_in_figures(tmp_path: Path) -> None:
    from ferbal.policies import Policy

    path = tmp_path / "s.yaml"
    path.write_text(STUDY, encoding="utf-8")
    settings, _ = spec.load(path, ["training.augment={flip: 0.5, shift: 0.15}"])
    assert settings.training.augment == Policy(flip=0.5, shift=0.15)
    with pytest.raises(UsageError, match=r"training.augment.flip: .*less than or equal to 1 but got 2"):
        spec.load(path, ["training.augment={flip: 2}"])
    with pytest.raises(UsageError, match=r"unknown key .*rotate.*Known here: flip, rotate, scale"):
        spec.load(path, ["training.augment={rotat: 2}"])
    with pytest.raises(UsageError, match=r"training.augment: input should be 'none'.* but got 'extreme'$"):
        spec.load(path, ["training.augment=extreme"])


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_settings_that_a_study_keeps_are_a_study_file(path: Path, tmp_path: Path) -> None:
    """By which one that was run with --set is reported again, or beside others."""
    asked, _ = spec.load(path)
    if asked.search.space.fixed is None:
        asked, _ = spec.load(path, ["search.weight_decay=[0.01, 0.1]"])
    files.write_json(tmp_path / "spec.json", spec.as_json(asked))
    assert spec.load(tmp_path / "spec.json")[0] == asked
