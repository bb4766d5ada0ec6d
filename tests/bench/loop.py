"""ferbal's training loop against the bare step of the same net, and against what people use instead.

    PYTHONPATH=tests python -m bench.loop [--pairs 5] [--backbones resnet18 ...] [--compile both] [--label WORD]

The bare step passes one fixed batch, forward, backward and optimiser, and is the limit; on a GPU both are compared
plain, then both compiled. On a CPU that step is also set against that of the same net with torch's convolutions of
small maps, which the peers have too. ferbal's loop does all that a training does, with the standard augmentation
and averaged weights. The notebook reads PIL images through torchvision transforms and a DataLoader with two workers
and trains with Adam; skorch, where it is installed, does the same with its own loop, and both are asked in turns in
processes of their own. Batches of 128 gray images of 48 px. Writes reports/bench/loop-<label>-<device>.json after
each pair.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing as mp
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import timm
import torch
from bench.pairs import Pair, alternate, write
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms

from ferbal import hardware, train
from ferbal.augment import View
from ferbal.batches import EVALUATION_BATCH
from ferbal.dataset import Split
from ferbal.engine.measure import speeds_of, worthwhile
from ferbal.hardware import Machine
from ferbal.models.build import build
from ferbal.plan import start
from ferbal.recipe import parse
from ferbal.settings import Knobs, Precision, Training

BATCH, CLASSES = 128, 7
Measure = Callable[[], float]
Make = Callable[[str, int], nn.Module]
AIMS = {"resnet18": "0.95", "test_resnet": "0.90", "mobilenetv2_100": "0.90"}
WAYS = {"false": (False,), "true": (True,), "both": (False, True)}
PEER_AIMS = {"resnet18": "1.8", "test_resnet": "2.5"}


def fer_like(rows: int, size: int) -> Split:
    """Noise with the class shares of FER2013: what is in a picture costs no time."""
    draw = np.random.default_rng(0)
    odds = np.array([3995, 436, 4097, 7215, 4830, 3171, 4965])
    labels = draw.choice(CLASSES, size=rows, p=odds / odds.sum())
    images = draw.integers(0, 256, (rows, 1, size, size), dtype=np.uint8)
    return Split(images, labels, np.arange(rows).astype(str), np.arange(rows))


def net(backbone: str, size: int) -> nn.Module:
    return build(backbone, Training(image_size=size), classes=CLASSES, channels=1, seed=0)


def timms(backbone: str, size: int) -> nn.Module:
    """The net as everybody else trains it."""
    made: nn.Module = timm.create_model(backbone, num_classes=CLASSES, in_chans=1)
    return made.to(memory_format=torch.channels_last)


def wait(machine: Machine) -> None:
    if machine.device.type == "cuda":
        torch.cuda.synchronize(machine.device)


def bare_step(backbone: str, size: int, machine: Machine, batches: int, made: Make = net) -> Measure:
    """Images a second of the bare step on a fixed batch, with the same optimiser as ferbal takes."""
    model = made(backbone, size).to(machine.device).train()
    stepped = machine.prepared(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.02, fused=True)
    images = torch.randn(BATCH, 1, size, size, device=machine.device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, CLASSES, (BATCH,), device=machine.device)

    def measured() -> float:
        wait(machine)
        start = time.perf_counter()
        for _ in range(batches):
            with machine.autocast():
                logits = stepped(images)
            loss = nn.functional.cross_entropy(logits.float(), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        wait(machine)
        return batches * BATCH / (time.perf_counter() - start)

    return measured


def ferbal_loop(backbone: str, size: int, machine: Machine, batches: int, recipe: str = "plain") -> Measure:
    """Images a second of one epoch of ferbal's own loop."""
    rows = fer_like(batches * BATCH, size)
    begun = start(tuple("abcdefg"), rows.labels, epochs=1000)
    epochs = train.fit(
        net(backbone, size),
        parse(recipe)(begun),
        Knobs(lr=1e-4, batch_size=BATCH, patience=1000),
        Training(image_size=size, epochs=1000),
        train=rows,
        watch=fer_like(8, size),
        view=View(size, 0.5, 0.25),
        machine=machine,
    )
    return lambda: next(epochs).row.images_per_s


class Pictures(TorchDataset[Any]):
    """As notebooks hold FER2013: an array, an image at a time through PIL."""

    def __init__(self, rows: Split, transform: Any) -> None:
        self.rows, self.transform = rows, transform

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Any:
        return self.transform(Image.fromarray(self.rows.images[row, 0])), int(self.rows.labels[row])


def notebook_data(size: int, batches: int) -> Pictures:
    steps = [
        transforms.RandomHorizontalFlip(),
        transforms.RandomAffine(12, translate=(0.1, 0.1), scale=(0.85, 1.15)),
        transforms.ColorJitter(0.2, 0.2),
        transforms.ToTensor(),
        transforms.Normalize((0.5,), (0.25,)),
        transforms.RandomErasing(0.25),
    ]
    return Pictures(fer_like(batches * BATCH, size), transforms.Compose(steps))


def notebook_loop(backbone: str, size: int, machine: Machine, batches: int) -> Measure:
    model = timms(backbone, size).to(machine.device, memory_format=torch.contiguous_format).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    loader = DataLoader(
        notebook_data(size, batches), BATCH, shuffle=True, num_workers=2, drop_last=True, persistent_workers=True
    )

    def measured() -> float:
        start, losses = time.perf_counter(), 0.0
        for images, labels in loader:
            images, labels = images.to(machine.device), labels.to(machine.device)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            losses += loss.item()
        return batches * BATCH / (time.perf_counter() - start)

    return measured


def skorch_loop(backbone: str, size: int, machine: Machine, batches: int) -> Measure:
    from skorch import NeuralNetClassifier

    theirs = NeuralNetClassifier(
        timms(backbone, size),
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=1e-4,
        max_epochs=1,
        batch_size=BATCH,
        train_split=None,
        verbose=0,
        device=machine.device.type,
        iterator_train__num_workers=2,
        iterator_train__persistent_workers=True,
        iterator_train__shuffle=True,
        iterator_train__drop_last=True,
    )
    data = notebook_data(size, batches)
    theirs.initialize()

    def measured() -> float:
        start = time.perf_counter()
        theirs.partial_fit(data, None)
        return batches * BATCH / (time.perf_counter() - start)

    return measured


def apart(make: Callable[..., Measure], *given: Any) -> Measure:
    """The same measure taken in a process of its own, where ferbal has not told the C library to keep memory."""
    ours, theirs = mp.get_context("spawn").Pipe()
    mp.get_context("spawn").Process(target=_answer, args=(theirs, mp.get_start_method(), make, given)).start()
    theirs.close()

    def measured() -> float:
        ours.send("go")
        return float(ours.recv())

    return measured


def _answer(pipe: Connection, method: str, make: Callable[..., Measure], given: tuple[Any, ...]) -> None:
    """Measure whenever that is asked for, until whoever asks is gone."""
    mp.set_start_method(method, force=True)  # of loaders' workers, as usual and not as this process was started
    warnings.filterwarnings("ignore", category=UserWarning)
    measured = make(*given)
    with suppress(EOFError):
        while pipe.recv():
            pipe.send(measured())


def evaluations(backbone: str, size: int, machine: Machine, batches: int) -> tuple[Measure, Measure]:
    """Seconds of ferbal's evaluation of a split, and of the bare forward passes of the same batches."""
    model, rows, view = net(backbone, size).to(machine.device), fer_like(batches * BATCH, size), View(size, 0.5, 0.25)
    ready = [
        view.plain(torch.tensor(rows.images[first : first + EVALUATION_BATCH], device=machine.device)).contiguous(
            memory_format=torch.channels_last
        )
        for first in range(0, len(rows), EVALUATION_BATCH)
    ]

    def ours() -> float:
        start = time.perf_counter()
        train.predict(model, rows.images, view, machine)
        return time.perf_counter() - start

    @torch.no_grad()
    def bare() -> float:
        model.eval()
        start = time.perf_counter()
        with machine.autocast():
            for images in ready:
                model(images)
        wait(machine)
        return time.perf_counter() - start

    return ours, bare


def chosen(backbone: str, size: int) -> Precision:
    """What `precision: auto` takes here."""
    where = hardware.pick()
    return worthwhile(speeds_of(net(backbone, size), (BATCH, 1, size, size), where))


def measure(backbone: str, size: int, batches: int, pairs: int, compiled: tuple[bool, ...]) -> Iterator[Pair]:
    """compiled: whether plain nets, compiled ones or both are set against the bare step."""
    where, quick = hardware.pick(), chosen(backbone, size)
    turns = partial(alternate, unit="images/s", pairs=pairs)
    formats: list[Precision] = list(dict.fromkeys(("fp32", quick)))
    for precision, how in itertools.product(formats, compiled):
        machine = Machine(where, precision, how)
        ours, bare = (make(backbone, size, machine, batches) for make in (ferbal_loop, bare_step))
        name = f"{backbone} {size} px {precision}{' compiled' if how else ''}"
        yield turns(name, ours, "bare step", bare, aim=AIMS.get(backbone, ""))
        if where.type == "cpu":
            usual = bare_step(backbone, size, machine, batches, timms)
            yield turns(f"{name}, bare step", bare, "with torch's convolutions", usual)
    machine = Machine(where, quick)
    ours = ferbal_loop(backbone, size, machine, batches)
    peers = {"notebook loop": notebook_loop} | ({"skorch": skorch_loop} if find_spec("skorch") else {})
    for peer, made in peers.items():
        theirs = apart(made, backbone, size, machine, batches)
        yield turns(f"{backbone} {size} px auto", ours, peer, theirs, aim=PEER_AIMS.get(backbone, ""))
    one, other = evaluations(backbone, size, machine, 2 * batches)
    name = f"{backbone} {size} px {quick} evaluation"
    yield alternate(name, one, "bare forward passes", other, unit="s", pairs=pairs, aim="1.1")


def main() -> None:
    on_gpu = hardware.pick().type == "cuda"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--batches", type=int, default=64 if on_gpu else 16, help="of an epoch")
    parser.add_argument("--sizes", type=int, nargs="+", default=[48])
    parser.add_argument("--backbones", nargs="+", default=["test_resnet", "mobilenetv2_100", "resnet18"])
    parser.add_argument("--compile", choices=WAYS, default="both" if on_gpu else "false")
    parser.add_argument("--label", default="", help="a word for the name of the file")
    how = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    found = []
    for size, backbone in itertools.product(how.sizes, how.backbones):
        for pair in measure(backbone, size, how.batches, how.pairs, WAYS[how.compile]):
            found.append(pair)
            write("loop", {"batch": BATCH, "pairs": found}, how.label)


if __name__ == "__main__":
    main()
