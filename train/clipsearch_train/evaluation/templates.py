"""Prompt templates: what a class name is put into before it is embedded (paper §3.1.4)."""

from __future__ import annotations

from pathlib import Path

from clipsearch.errors import UsageError

ONE = ("a photo of a {}.",)
"""The paper's single template."""

# fmt: off
IMAGENET_80 = (
    "a bad photo of a {}.", "a photo of many {}.", "a sculpture of a {}.", "a photo of the hard to see {}.",
    "a low resolution photo of the {}.", "a rendering of a {}.", "graffiti of a {}.",
    "a bad photo of the {}.", "a cropped photo of the {}.", "a tattoo of a {}.", "the embroidered {}.",
    "a photo of a hard to see {}.", "a bright photo of a {}.", "a photo of a clean {}.",
    "a photo of a dirty {}.", "a dark photo of the {}.", "a drawing of a {}.", "a photo of my {}.",
    "the plastic {}.", "a photo of the cool {}.", "a close-up photo of a {}.",
    "a black and white photo of the {}.", "a painting of the {}.", "a painting of a {}.",
    "a pixelated photo of the {}.", "a sculpture of the {}.", "a bright photo of the {}.",
    "a cropped photo of a {}.", "a plastic {}.", "a photo of the dirty {}.",
    "a jpeg corrupted photo of a {}.", "a blurry photo of the {}.", "a photo of the {}.",
    "a good photo of the {}.", "a rendering of the {}.", "a {} in a video game.", "a photo of one {}.",
    "a doodle of a {}.", "a close-up photo of the {}.", "a photo of a {}.", "the origami {}.",
    "the {} in a video game.", "a sketch of a {}.", "a doodle of the {}.", "a origami {}.",
    "a low resolution photo of a {}.", "the toy {}.", "a rendition of the {}.", "a photo of the clean {}.",
    "a photo of a large {}.", "a rendition of a {}.", "a photo of a nice {}.", "a photo of a weird {}.",
    "a blurry photo of a {}.", "a cartoon {}.", "art of a {}.", "a sketch of the {}.", "a embroidered {}.",
    "a pixelated photo of a {}.", "itap of the {}.", "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.", "a plushie {}.", "a photo of the nice {}.", "a photo of the small {}.",
    "a photo of the weird {}.", "the cartoon {}.", "art of the {}.", "a drawing of the {}.",
    "a photo of the large {}.", "a black and white photo of a {}.", "the plushie {}.",
    "a dark photo of a {}.", "itap of a {}.", "graffiti of the {}.", "a toy {}.", "itap of my {}.",
    "a photo of a cool {}.", "a photo of a small {}.", "a tattoo of the {}.",
)
# fmt: on
"""The eighty of openai/CLIP's notebook Prompt_Engineering_for_ImageNet, in its order."""

IMAGENET_7 = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
"""The subset of the eighty that its authors found, by forward selection, to do as well."""

NAMED = {"imagenet-80": IMAGENET_80, "imagenet-7": IMAGENET_7, "one": ONE}


def load_templates(name: str) -> tuple[str, ...]:
    """Templates by name (`imagenet-80`, `imagenet-7`, `one`), or from a text file with one a line.

    Raises UsageError: no such file, or a line without exactly one {}.
    """
    if name in NAMED:
        return NAMED[name]
    try:
        text = Path(name).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{name!r} is neither a file of templates nor one of {', '.join(NAMED)}.") from error
    templates = tuple(line.strip() for line in text.splitlines() if line.strip())
    check_templates(templates, name)
    return templates


def check_templates(templates: tuple[str, ...], where: str) -> None:
    """Raise UsageError unless there are templates and each has one {} for the class name."""
    if not templates:
        raise UsageError(f"{where} holds no template.")
    for template in templates:
        rest = template.replace("{}", "")
        if template.count("{}") != 1 or "{" in rest or "}" in rest:
            raise UsageError(f"{where}: a template must have one {{}} for the class name, not {template!r}.")
