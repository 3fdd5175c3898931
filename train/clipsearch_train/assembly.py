"""What a run is put together from: tokenizer, preprocessing and model, new or those of the start model."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import torch

from clipsearch.errors import TrainingError, UsageError
from clipsearch.model import Clip, ClipConfig
from clipsearch.preprocess import OPENAI_MEAN, OPENAI_STD, Preprocess
from clipsearch.tokenizer import ClipTokenizer
from clipsearch.trunk import TrunkTower
from clipsearch.weights import LoadedModel
from clipsearch_train import recipe as recipes
from clipsearch_train.batches import Views
from clipsearch_train.clip_teacher import ClipTeacher
from clipsearch_train.data import Sample
from clipsearch_train.frozen import FrozenTrunk
from clipsearch_train.readers import Reader, SentenceReader, TowerReader
from clipsearch_train.start import begin
from clipsearch_train.targets import Targets
from clipsearch_train.vision_teacher import VisionTeacher

Report = Callable[[str, int, int], None]


def make_tokenizer(
    config: recipes.Recipe, loaded: LoadedModel | None, texts: Iterable[str], path: Path
) -> ClipTokenizer:
    """The tokenizer of a run, kept at `path`: the start model's, or one that is learnt from `texts`.

    Where there are no texts and a teacher teaches images, it knows single bytes. Raises TrainingError where
    there are no texts and no such teacher.
    """
    text, start = config.model.text, config.start
    if path.is_file():
        return ClipTokenizer.load(path, text.context_length)
    if loaded is not None and start is not None and (start.text != "new" or start.keep_tokenizer):
        tokenizer = loaded.tokenizer
        tokenizer.context_length = text.context_length
    else:
        first = next(iter(texts := iter(texts)), None)
        if first is None and not _teaches_images(config):
            raise TrainingError(
                "Nothing is said about any image, and the tokenizer of a new text tower is learnt from what "
                "is; add captions or labels, or start at a model and keep its text tower."
            )
        texts = () if first is None else itertools.chain([first], texts)
        tokenizer = ClipTokenizer.train(texts, text.vocab_size, text.context_length)
    tokenizer.save(path)
    return tokenizer


def _teaches_images(config: recipes.Recipe) -> bool:
    return config.distill is not None and config.distill.features > 0


def idle_text_tower(config: recipes.Recipe, tokenizer: ClipTokenizer) -> str | None:
    """A sentence for a run that leaves a new text tower as it began; None where it learns.

    The tokenizer tells whether anything is said of the images, which may be too many to look again.
    """
    if not _teaches_images(config) or (config.start is not None and config.start.text != "new"):
        return None
    assert config.distill is not None
    if tokenizer.vocab_size == recipes.MIN_VOCABULARY < config.model.text.vocab_size:
        why = "nothing is said about any image"
    elif config.distill.image and not config.loss.contrastive:
        why = "the teacher knows images alone and loss.contrastive is 0"
    else:
        return None
    return (
        f"The text tower learns nothing, for {why}. This makes an image tower: a recipe that starts there "
        'with [start] text = "new" (such as lit.toml) gives it words.'
    )


def make_preprocess(config: recipes.Recipe, loaded: LoadedModel | None) -> Preprocess:
    """How images become pixels: the way of the start model's image tower, where it is kept, or a new one."""
    if loaded is not None and config.start is not None and config.start.image != "new":
        return loaded.preprocess
    mean, std = OPENAI_MEAN, OPENAI_STD
    if config.teacher is not None:
        from clipsearch_train.image_teacher import TEACHER_MEAN, TEACHER_STD

        mean, std = TEACHER_MEAN, TEACHER_STD
    return Preprocess(config.model.vision.image_size, mean, std)


def make_model(
    config: recipes.Recipe,
    tokenizer: ClipTokenizer,
    loaded: LoadedModel | None,
    targets: Targets | None,
    teacher: ClipTeacher | VisionTeacher | None,
    report: Report,
) -> Clip:
    """A model to train, at the weights that the recipe begins with.

    Raises UsageError where the recipe asks for more blocks than a tower has.
    """
    sizes = config.model
    text = dataclasses.replace(sizes.text, vocab_size=tokenizer.vocab_size)
    torch.manual_seed(config.seed)
    model = Clip(ClipConfig(sizes.embed_dim, sizes.vision, text, sizes.quick_gelu))
    if targets is not None:
        targets.start(model)
    if loaded is not None and config.start is not None:
        begin(model, config.start, loaded)
    if targets is not None and config.teacher is not None and config.teacher.text == recipes.START:
        targets.turn_text(model)
    if targets is not None and config.bag is not None:
        targets.start_text(model, tokenizer, config.bag, config.seed, report)
    if teacher is not None:
        teacher.attach(model)
    _freeze(model, config.freeze)
    model.visual.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def _freeze(model: Clip, patterns: Sequence[str]) -> None:
    """Lock the parameters that a recipe's `freeze` names; `load_recipe` has seen that there are some."""
    for name, weight in model.named_parameters():
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            weight.requires_grad_(False)


def make_frozen(
    config: recipes.Recipe, loaded: LoadedModel | None, samples: Sequence[Sample], cache: Path, report: Report
) -> FrozenTrunk | None:
    """What the start model's locked trunk sees of the samples, where the recipe has it so.

    Raises UsageError for an image tower that is not a trunk and a projection.
    """
    if config.frozen is None:
        return None
    assert loaded is not None
    tower = loaded.model.visual
    if not isinstance(tower, TrunkTower):
        raise UsageError(
            'start: image = "head" is for image towers made of a trunk and a projection, as `mini` has; lock '
            'the whole tower with image = "lock".'
        )
    kept = cache / f"trunk-{loaded.fingerprint[:16]}-{loaded.preprocess.size}"
    return FrozenTrunk(tower.trunk, loaded.preprocess, samples, config.frozen, kept, report)


def make_reader(teacher: recipes.Teacher, loaded: LoadedModel | None) -> Reader:
    """Who reads the texts for the bridge: the text tower of the start model, or a sentence model."""
    if teacher.text != recipes.START:
        return SentenceReader(teacher.text)
    assert loaded is not None
    return TowerReader(loaded)


def make_teacher(config: recipes.Recipe, data: Path) -> ClipTeacher | VisionTeacher | None:
    """The teacher of [distill]. Raises ModelNotFound, ModelInvalid, TrainingError, MissingExtra."""
    if config.distill is None:
        return None
    return VisionTeacher(config.distill, data) if config.distill.image else ClipTeacher(config.distill)


def make_views(
    config: recipes.Recipe, preprocess: Preprocess, teacher: ClipTeacher | VisionTeacher | None
) -> Views:
    """What a batch shows of its images: the student's view, and a teacher's where that is of another size."""
    student = config.data.crop_size or preprocess.size
    size = None if teacher is None else teacher.preprocess.size
    return Views(student, None if size == student else size, preprocess.squash)
