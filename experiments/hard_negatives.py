"""When does the hardest negative teach best, and when does it hurt?

Two towers embed two views of the same things, so that each view retrieves its partner. In every
batch a loss pushes away negatives: all of them, the hardest, the 10 hardest, those that are
semi-hard, or all by a softmax. Recall on pairs that were not seen tells what was learned.

*Views* are noisy functions of points around 100 centers: no other item fits as well as the partner.
*Digits* are the left and right halves of handwritten digits: many right halves fit a left one, so
the hardest negative is often as good as a positive; pushed away all the time, it brings embeddings
to where different ones look alike, also after a warm-up. Deep narrow towers, in which everything
looks alike at the start, stay collapsed under the hardest negative.

At size full, what was measured before with another program; what the size of a batch does at equal
numbers of steps; and what it does if some of the negatives are views of the same thing. With files:
images and texts of *Wikipedia* articles; English captions and their German *translations*;
*captions* that several people wrote for an image.

Presets:
    quick: 100 s on 2 cores; views for 30 epochs, digits for 30, 3 seeds
    full: 30 min beside other work; views, digits: 60 epochs, 8 seeds; batch sizes; copies
    wikipedia: 2 min on 2 cores; 2,173 pairs of Wikipedia (JAXROBUST_DATA)
    captions: 20 min on 2 cores; Multi30k (JAXROBUST_DATA), 10,000 images; bags of words
    recurrent: 80 min beside other work; the same of 5,000 images with GRUs, by five methods
"""

import dataclasses
import time
from typing import Any

import jax
import numpy as np

from experiments import hard_negatives_before as past
from experiments import hard_negatives_claims as told
from experiments import hard_negatives_examples as examples
from experiments import hard_negatives_found as seen
from experiments import hard_negatives_plots, hard_negatives_tables, silent
from experiments.encoders import Bag, ImageTower, Recurrent, Tower
from experiments.hard_negatives_found import Found
from experiments.hard_negatives_problems import (
    CAPTIONS,
    DIGITS,
    IMAGES,
    TRANSLATIONS,
    VIEWS,
    WIKIPEDIA,
    Problem,
    Texts,
    digit_halves,
    digit_images,
    several_captions,
    translations,
    untold,
    views,
    wikipedia,
)
from experiments.hard_negatives_runs import (
    ALL,
    HARDEST,
    INFO_NCE,
    METHODS,
    ORDERS,
    SOFT,
    WARM,
    Run,
    Setting,
    train,
)
from experiments.report import Result

TOUR = False
WIDTH = 64  # of the embeddings of vectors
DEEP_METHODS = (ALL, HARDEST, WARM, SOFT)
SIZE_METHODS = (ALL, HARDEST, SOFT)
COPY_METHODS = (ALL, HARDEST, SOFT, INFO_NCE)
TEXT_METHODS = (*METHODS, *ORDERS)
RECURRENT_METHODS = (ALL, HARDEST, WARM, SOFT, INFO_NCE)
TEXT_WIDTH, RECURRENT_WIDTH = 256, 256
EQUAL_PAIRS = 4_096  # that the batch sizes divide


@dataclasses.dataclass(frozen=True)
class Config:
    """Which pairs, and how long they are trained on."""

    methods: tuple[str, ...] = METHODS
    """Ways to choose negatives of views and digits; the claims need the first four."""
    problems: tuple[str, ...] = (VIEWS, DIGITS)
    """Of `views`, `digits`, `digits as images` (for which towers are convolutional), `wikipedia`,
    `translations`, `captions`."""
    seeds: int = 3
    """Number of data sets, initial weights and orders of batches."""
    batch: int = 128
    """Pairs of a batch."""
    epochs: int = 30
    """Passes over the pairs."""
    early: bool = True
    """Whether to show the first 12 epochs of views, of runs that end there."""
    compared: bool = False
    """Whether views are trained for 30 epochs, too, next to what was measured before."""
    epochs_of_deep: int = 15
    """Passes over 2,000 pairs of views, with deep towers; 0 for none."""
    batch_sizes: tuple[int, ...] = ()
    """Whose effect on views is shown, at equal steps; they divide 4,096."""
    equal_steps: int = 1_024
    """These steps."""
    copies: tuple[int, ...] = ()
    """Views of each thing in the training set, of which nobody says that they are of one thing; and
    five of 400 things for 30 epochs, as measured before. None to leave both out."""
    images: int = 10_000
    """Of Multi30k, to train on."""
    encoder: str = "bag"
    """Of captions: `bag` of words, or `gru`."""

    def __post_init__(self):
        known = (VIEWS, DIGITS, IMAGES, WIKIPEDIA, TRANSLATIONS, CAPTIONS)
        if not self.problems or set(self.problems) - set(known):
            raise ValueError(f"problems must be of {known}, got {self.problems}")
        if set(self.methods) - set(METHODS) or not set(self.methods) >= set(DEEP_METHODS):
            raise ValueError(
                f"methods must be of {METHODS}, {DEEP_METHODS} among them, got {self.methods}"
            )
        if self.seeds < 2:
            raise ValueError(f"seeds must be at least 2, for an error bar, got {self.seeds}")
        if self.epochs < 4 or (self.epochs_of_deep and self.epochs_of_deep < 4):
            raise ValueError(
                f"epochs must be at least 4, got {self.epochs} and {self.epochs_of_deep}"
            )
        if self.compared and self.seeds < seen.LEAST_COMPARED:
            raise ValueError(
                f"seeds must be at least {seen.LEAST_COMPARED} with compared, got {self.seeds}"
            )
        if not 2 <= self.batch <= 1_000:
            raise ValueError(f"batch must be in 2..1000, got {self.batch}")
        for size in self.batch_sizes:
            if size < 2 or EQUAL_PAIRS % size or self.equal_steps % (EQUAL_PAIRS // size):
                raise ValueError(
                    f"batch_sizes must divide {EQUAL_PAIRS} into parts that divide equal_steps, "
                    f"{self.equal_steps}, got {size}"
                )
        if min(self.copies, default=1) < 1:
            raise ValueError(f"copies must be at least 1, got {self.copies}")
        for name in ("batch_sizes", "copies"):
            if len(set(getattr(self, name))) == 1:
                raise ValueError(f"{name} must be several, to be compared, or none")
        if not 1_000 <= self.images <= 29_000:
            raise ValueError(f"images must be in 1000..29000, got {self.images}")
        if self.encoder not in ("bag", "gru"):
            raise ValueError(f"encoder must be 'bag' or 'gru', got {self.encoder!r}")

    def check(self):
        """Reads what comes from files."""
        for name in set(self.problems) & set(_FROM_FILES):
            _FROM_FILES[name](self.images)


_FROM_FILES: dict[str, Any] = {
    WIKIPEDIA: wikipedia, TRANSLATIONS: translations, CAPTIONS: several_captions,
}  # fmt: skip
_CAPTIONS = Config(problems=(TRANSLATIONS, CAPTIONS), epochs=8, epochs_of_deep=0, early=False)
_RECURRENT_IMAGES = 5_000
PRESETS = {
    "full": Config(
        problems=(VIEWS, DIGITS, IMAGES),
        seeds=8,
        epochs=60,
        compared=True,
        batch_sizes=(16, 64, 256, 1024),
        copies=(1, 4, 20),
    ),
    "wikipedia": Config(problems=(WIKIPEDIA,), epochs=40, epochs_of_deep=0, early=False),
    "captions": _CAPTIONS,
    "recurrent": dataclasses.replace(_CAPTIONS, encoder="gru", images=_RECURRENT_IMAGES),
}


def run(config: Config, progress=silent) -> Result:
    """Every problem by every way to choose negatives, and the parts that are asked for."""
    found: Found = {}
    shown: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    extra = {
        seen.EARLY: config.early,
        seen.COMPARED: config.compared,
        "deep": config.epochs_of_deep,
        "sizes": config.batch_sizes,
        "copies": config.copies,
    }
    parts = [*config.problems, *(name for name, wanted in extra.items() if wanted)]
    for number, name in enumerate(parts):
        progress(number / len(parts), name)
        begin = time.perf_counter()
        if name == seen.EARLY:
            found |= {name: _early(config)}
        elif name == seen.COMPARED:
            found |= {name: _compared(config)}
        elif name == "deep":
            found |= {name: _deep(config)}
        elif name == "sizes":
            found |= _sizes(config)
        elif name == "copies":
            found |= _copies(config)
        else:
            found[name], shown[name] = _problem(config, name, progress)
        seconds[name] = time.perf_counter() - begin
    progress(1.0)
    return Result(
        summary=told.summary(found),
        claims=told.claims(config, found),
        series={
            "examples": {name: one.images for name, one in shown.items()},
            "batch": config.batch,
            **{
                name: {method: one._asdict() for method, one in by.items()}
                for name, by in found.items()
            },
        },
        tables=[
            *hard_negatives_tables.tables(config, found),
            *(t for one in shown.values() for t in one.tables),
        ],
        words=told.WORDS,
        wall_time=seconds,
    )


def _problem(config: Config, name: str, progress=silent) -> tuple[dict[str, Run], examples.Shown]:
    """All methods on one problem, and what one of them retrieves."""
    texts = None
    if name in (TRANSLATIONS, CAPTIONS):
        texts = _FROM_FILES[name](config.images)
        problems, towers = [texts.problem] * config.seeds, _text_towers(config, texts)
        methods = TEXT_METHODS if config.encoder == "bag" else RECURRENT_METHODS
    else:
        problems = [_MAKERS[name](seed) for seed in range(config.seeds)]
        towers = _twice(ImageTower(WIDTH) if name == IMAGES else Tower((2 * WIDTH, WIDTH)))
        methods = TEXT_METHODS if name == WIKIPEDIA else config.methods
    setting = Setting(towers, config.epochs, config.batch)
    runs, embedded = {}, {}
    for method in methods:
        progress(f"{name}: {method}")
        runs[method], embedded[method] = repeated(method, setting, problems)
    if texts is not None and texts.untrained is not None:
        runs[seen.UNTRAINED] = seen.untrained(texts, config.seeds)
    return runs, examples.show(name, problems[0], texts, embedded)


_MAKERS: dict[str, Any] = {
    VIEWS: views, DIGITS: digit_halves, IMAGES: digit_images, WIKIPEDIA: wikipedia,
}  # fmt: skip


def _twice(tower: Any) -> tuple[Any, Any]:
    return tower, tower


def _text_towers(config: Config, texts: Texts) -> Any:
    make = Bag if config.encoder == "bag" else Recurrent
    width = TEXT_WIDTH if config.encoder == "bag" else RECURRENT_WIDTH
    return tuple(make(size, width) for size in texts.sizes)


def _early(config: Config) -> dict[str, Run]:
    towers = _twice(Tower((2 * WIDTH, WIDTH)))
    setting = Setting(towers, past.EARLY_EPOCHS, config.batch, warm_by_mean=True)  # as before
    problems = [views(seed) for seed in range(config.seeds)]
    return {method: repeated(method, setting, problems)[0] for method in past.EARLY_BEFORE}


def _compared(config: Config) -> dict[str, Run]:
    epochs, before = past.BEFORE[VIEWS]
    setting = Setting(_twice(Tower((2 * WIDTH, WIDTH))), epochs, config.batch)
    problems = [views(seed) for seed in range(config.seeds)]
    return {method: repeated(method, setting, problems)[0] for method in before}


def _deep(config: Config) -> dict[str, Run]:
    towers = _twice(Tower((WIDTH,) * 9, 0.1))
    deep = Setting(towers, config.epochs_of_deep, config.batch, warm=3)
    problems = [views(seed, 2_000, 500) for seed in range(config.seeds)]
    return {method: repeated(method, deep, problems)[0] for method in DEEP_METHODS}


def _sizes(config: Config) -> Found:
    """By batch size, at equal steps."""
    towers = _twice(Tower((2 * WIDTH, WIDTH)))
    problems = [views(seed, EQUAL_PAIRS) for seed in range(config.seeds)]
    found = {}
    for size in config.batch_sizes:
        setting = Setting(towers, config.equal_steps * size // EQUAL_PAIRS, size)
        runs = {method: repeated(method, setting, problems)[0] for method in SIZE_METHODS}
        found[seen.of_size(size)] = {method: _last(run) for method, run in runs.items()}
    return found


def _copies(config: Config) -> Found:
    """By views of each thing; with the methods that are not told, and the hardest that is."""
    setting = Setting(_twice(Tower((2 * WIDTH, WIDTH))), config.epochs, config.batch)
    found = {}
    for copies in config.copies:
        known = [views(seed, copies=copies) for seed in range(config.seeds)]
        problems = [untold(one) for one in known]
        runs = {method: repeated(method, setting, problems)[0] for method in COPY_METHODS}
        runs |= {
            seen.TOLD.format(method): repeated(method, setting, known)[0]
            for method in (HARDEST, INFO_NCE)
        }
        found[seen.of_copies(copies)] = {method: _last(run) for method, run in runs.items()}
    short = setting._replace(epochs=past.FIVE_EPOCHS)
    kinds = ((seen.FIVE, True), (seen.FIVE_VIEWS, False))
    return found | {name: _five(config, short, same_x) for name, same_x in kinds}


def _five(config: Config, setting: Setting, same_x: bool) -> dict[str, Run]:
    """Told that views are of one thing, and not; as the specification's with ``same_x``."""
    known = [views(seed, 2_000, 500, copies=5, same_x=same_x) for seed in range(config.seeds)]
    problems = [untold(one) for one in known]
    runs = {}
    for method in (HARDEST, ALL):
        runs[method] = _last(repeated(method, setting, problems)[0])
        runs[seen.TOLD.format(method)] = _last(repeated(method, setting, known)[0])
    return runs


def _last(run: Run) -> Run:
    """The last epoch alone."""
    return Run(*(part[:, -1:] for part in run))


def repeated(method: str, setting: Setting, problems: list[Problem]) -> tuple[Run, Any]:
    """The runs of all seeds, ``(seeds, epochs)``, and the embeddings of the first."""
    runs = [train(method, setting, one, jax.random.key(seed)) for seed, one in enumerate(problems)]
    stacked = Run(*(np.stack(part) for part in zip(*(run for run, _ in runs), strict=True)))
    return stacked, runs[0][1]


def plot(result: Result):
    """Learning curves, what becomes of deep towers, and what is retrieved."""
    figures: dict[str, Any] = {"curves": hard_negatives_plots.curves(result)}
    series = result.series
    if VIEWS in series:
        figures["overtaking"] = hard_negatives_plots.overtaking(result)
    if seen.EARLY in series:
        figures["early"] = hard_negatives_plots.early(result)
    if "deep" in series:
        figures["collapse"] = hard_negatives_plots.collapse(result)
    if any(name.startswith(seen.SIZE) for name in series):
        figures["sizes"] = hard_negatives_plots.sizes(result)
    if any(name.startswith(seen.COPIES) for name in series):
        figures["copies"] = hard_negatives_plots.copies(result)
    if any(images is not None for images in series["examples"].values()):
        figures["retrieved"] = hard_negatives_plots.retrieved(result)
    return figures
