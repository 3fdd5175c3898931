"""What the student is distilled to: cached teacher features, joined by the bridge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from clipsearch.errors import UsageError
from clipsearch.model import Clip
from clipsearch.tokenizer import ClipTokenizer
from clipsearch_train import recipe as recipes
from clipsearch_train.bag import Bag, begin_as_bag, fit_bag
from clipsearch_train.bridge import Projections, TeacherSpace, fit
from clipsearch_train.cache import cached_rows, sample_keys
from clipsearch_train.corpus import in_many_words, read_names, read_texts, texts_of, widen
from clipsearch_train.data import Sample, find_shards
from clipsearch_train.frozen import FrozenTrunk
from clipsearch_train.image_teacher import ImageTeacher
from clipsearch_train.kinds import kinds, words_of_kinds
from clipsearch_train.readers import Reader
from clipsearch_train.teachers import imagenet_classes, teacher_vocabulary
from clipsearch_train.validation import Validation

Report = Callable[[str, int, int], None]


@dataclass
class Targets:
    """Target embeddings of every sample (image) and every text of the corpus, unit rows.

    `looked_at` are a few samples by which a new trunk begins at the teacher's weights; none for another.
    """

    corpus: list[str]
    image_NE: Tensor
    text_ME: Tensor
    row_of: dict[str, int]
    caption_pairs: npt.NDArray[np.int64]
    teacher: ImageTeacher
    looked_at: Sequence[Sample]
    bridge: Projections

    def start(self, model: Clip) -> None:
        """Begin the image tower at the teacher's weights and the bridge's projection.

        The trunk is left alone where a locked one stood in for the teacher.
        """
        tower = model.visual
        if self.looked_at:
            self.teacher.begin(tower.trunk, self.looked_at)  # type: ignore[arg-type]
        first, last = self.bridge.image[0], self.bridge.image[3]
        assert isinstance(first, nn.Linear)
        assert isinstance(last, nn.Linear)
        mlp = getattr(tower.head, "mlp", None)
        if mlp is None or mlp.fc1.weight.shape != first.weight.shape:
            return
        with torch.no_grad():
            # The bridge standardises its input; the tower's first layer does it in its weights.
            weight = first.weight / self.bridge.std
            mlp.fc1.weight.copy_(weight)
            mlp.fc1.bias.copy_(first.bias - weight @ self.bridge.mean)
            mlp.fc2.weight.copy_(last.weight)
            model.logit_scale.copy_(self.bridge.logit_scale)

    def turn_text(self, model: Clip) -> None:
        """Take the bridge's text half, a matrix, into the projection of a text tower that was kept."""
        matrix = self.bridge.text
        assert isinstance(matrix, nn.Linear)
        with torch.no_grad():
            model.text_projection.copy_(model.text_projection @ matrix.weight.T)

    def start_text(self, model: Clip, tokenizer: ClipTokenizer, bag: Bag, seed: int, report: Report) -> None:
        """Begin the text tower as a bag of words: see `clipsearch_train.bag`."""
        parts = [tokenizer(self.corpus[start : start + 4096]) for start in range(0, len(self.corpus), 4096)]
        tokens_ML = torch.from_numpy(np.concatenate(parts))
        vectors = fit_bag(tokens_ML, self.text_ME, tokenizer.vocab_size, bag, seed, report)
        begin_as_bag(model, vectors, self.text_ME, seed)

    def image(self, rows: npt.NDArray[np.int64]) -> Tensor:
        """Targets of samples: (n, E)."""
        return self.image_NE[rows]

    def text(self, texts: Sequence[str]) -> tuple[list[int], Tensor]:
        """Which of the texts have a target, and those targets: (known, E)."""
        known = [row for row, text in enumerate(texts) if text in self.row_of]
        return known, self.text_ME[[self.row_of[texts[row]] for row in known]]

    def bank(self, size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Targets of random captioned images and of a caption of each: (size, E) twice."""
        pairs = self.caption_pairs[rng.integers(len(self.caption_pairs), size=size)]
        return self.image_NE[pairs[:, 0]], self.text_ME[pairs[:, 1]]


def prepare_targets(
    recipe: recipes.Recipe,
    data: Path,
    samples: Sequence[Sample],
    validation: Validation,
    cache: Path,
    report: Report,
    reader: Reader,
    frozen: FrozenTrunk | None = None,
) -> Targets:
    """Run both teachers (or read their cached features), fit the bridge, project everything.

    `reader` is the teacher that reads the texts.
    With `frozen` the locked trunk of the start model looks at the images in the image teacher's place, which
    then only says what classes it sees. Raises UsageError for a new trunk of another kind than the teacher's,
    TrainingError, MissingExtra.
    """
    assert recipe.teacher is not None
    settings = recipe.teacher
    teacher = ImageTeacher(settings.image, data, settings.image_size)
    new = recipe.start is None or recipe.start.image == "new"
    if new and recipe.model.vision.trunk != teacher.name:
        raise UsageError(
            f"The image teacher is of the kind {teacher.name!r}, and a new image tower begins at its "
            f'weights: say trunk = "{teacher.name}" in [model.vision].'
        )
    texts = _corpus(recipe, data, samples)
    corpus = texts.corpus
    embedded = cached_rows(
        cache / reader.name,
        corpus,
        lambda rows, told: reader.read([corpus[row] for row in rows], told),
        report,
    )
    if frozen is None or texts.class_rows or texts.kind_rows:
        looked_NF = _looked(teacher, samples, cache, report)
    else:  # nobody asks what it sees
        looked_NF = torch.zeros(len(samples), teacher.trunk.num_features)
    image_features = looked_NF if frozen is None else torch.from_numpy(frozen.views.plain).float()
    space = TeacherSpace(
        samples,
        image_features,
        teacher.class_logits(looked_NF),
        torch.from_numpy(embedded).float(),
        texts.row_of,
        texts.class_rows,
        texts.kind_rows,
        None if frozen is None else frozen.views,
    )
    bridge = fit(space, recipe, report)
    pairs = [(row, texts.row_of[text]) for row, sample in enumerate(samples) for text in sample.captions]
    with torch.inference_mode():
        image_NE = bridge.embed_images(space.image_features)
        text_ME = bridge.embed_texts(space.text_features)
    if recipe.data.limit is None:  # a few samples say nothing
        _score_bridge(bridge, frozen or teacher, reader, validation, report)
    return Targets(
        corpus,
        image_NE.clone(),
        text_ME.clone(),
        texts.row_of,
        np.array(pairs, dtype=np.int64),
        teacher,
        samples[:64] if new else (),
        bridge,
    )


def _looked(teacher: ImageTeacher, samples: Sequence[Sample], cache: Path, report: Report) -> Tensor:
    """The image teacher's features of the samples, or what an earlier run kept of them: (N, F)."""
    rows = cached_rows(
        cache / f"image-{teacher.name}-{teacher.digest}-{teacher.preprocess.size}",
        sample_keys(samples),
        lambda rows, told: teacher.features([samples[row] for row in rows], told),
        report,
    )
    return torch.from_numpy(rows).float()


@dataclass(frozen=True)
class _Texts:
    """The texts that have a target; where each stands, and those that name classes and kinds."""

    corpus: list[str]
    row_of: dict[str, int]
    class_rows: list[list[int]]
    kind_rows: list[list[list[int]]]


def _corpus(recipe: recipes.Recipe, data: Path, samples: Sequence[Sample]) -> _Texts:
    assert recipe.teacher is not None
    limit, templates = recipe.data.limit, recipe.data.templates
    classes = (imagenet_classes() if recipe.teacher.classes else [])[:limit]
    names = [name for names, _ in classes for name in names]
    general = words_of_kinds() if recipe.bridge.kind_weight else []
    texts = texts_of(samples, templates)
    texts += [text for name in [*names, *general] for text in _spoken(name, templates)]
    if recipe.teacher.text != recipes.START:  # a text tower that learns wants more than the bridge says
        texts += [definition for _, definition in classes]
        texts += _more_texts(recipe, data, samples, names)
    corpus = list(dict.fromkeys(texts))
    row_of = {text: row for row, text in enumerate(corpus)}

    def rows(names: Sequence[str]) -> list[int]:
        return [row_of[text] for name in names for text in _spoken(name, templates)]

    class_rows = [rows(names) for names, _ in classes]
    kind_rows = [[rows(kind.words) for kind in group] for group in (kinds() if general else ())]
    return _Texts(corpus, row_of, class_rows, kind_rows)


def _more_texts(
    recipe: recipes.Recipe, data: Path, samples: Sequence[Sample], names: Sequence[str]
) -> list[str]:
    """Texts without images: captions, words and phrases that the text teacher knows."""
    assert recipe.teacher is not None
    settings, limit, templates = recipe.teacher, recipe.data.limit, recipe.data.templates
    rng = np.random.default_rng(recipe.seed)
    lines = read_texts(find_shards(data, recipe.data.texts))[:limit]
    words = teacher_vocabulary(settings.text)[:limit]
    texts = [*lines, *widen([*lines, *(c for s in samples for c in s.captions[:1])], words, templates, rng)]
    if settings.names:
        named = [*read_names(find_shards(data, (settings.names,))), *names]
        texts += in_many_words(list(dict.fromkeys(named))[:limit], rng)
    return texts


def _spoken(name: str, templates: Sequence[str]) -> list[str]:
    return [name, *(template.format(name) for template in templates)]


def _score_bridge(
    bridge: Projections,
    looker: ImageTeacher | FrozenTrunk,
    reader: Reader,
    validation: Validation,
    report: Report,
) -> None:
    """Score the teachers' own space: the ceiling of what distillation alone can give."""

    def images(samples: Sequence[Sample]) -> npt.NDArray[np.float32]:
        features = torch.from_numpy(looker.features(samples, report)).float()
        return np.asarray(bridge.embed_images(features).numpy())

    class Texts:
        def encode_text(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
            rows = torch.from_numpy(reader.read(texts, report)).float()
            return np.asarray(bridge.embed_texts(rows).numpy())

    validation.teacher_results = validation.score(images, Texts())
