"""Models by name: the bundled one, the released ones on the hub, and folders."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clipsearch.config import OFFLINE_VARIABLE, bundled_models, models_folder
from clipsearch.durable import make_directory, storage_error
from clipsearch.errors import ModelNotFound, NetworkUnavailable, UsageError

BUNDLED = "mini"
HUB_PREFIX = "hf-hub:"
# What a model folder needs besides weights; repositories also hold them in formats clipsearch does not read.
_HUB_FILES = (
    "open_clip_config.json",
    "tokenizer.json",
    "README.md",
    "config.json",
    "preprocessor_config.json",
)
# In the order of `clipsearch.weights`: the first that is there is fetched.
_HUB_WEIGHTS = (
    "open_clip_model.safetensors",
    "model.safetensors",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
)


@dataclass(frozen=True)
class Release:
    """A released model: where it is and how good its authors measured it.

    `imagenet` is zero-shot ImageNet top-1 in percent (OpenCLIP's published results);
    `parameters` in millions; `edge` the input in pixels.
    """

    name: str
    repository: str
    parameters: int
    edge: int
    dim: int
    imagenet: float


RELEASES = (
    Release("ViT-B-32-256", "laion/CLIP-ViT-B-32-256x256-DataComp-s34B-b86K", 151, 256, 512, 72.8),
    Release("ViT-B-32", "laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K", 151, 224, 512, 69.2),
    Release("ViT-B-16", "laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K", 150, 224, 512, 73.5),
    Release("ViT-L-14", "laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K", 428, 224, 768, 79.2),
    Release("RN50", "timm/resnet50_clip.openai", 102, 224, 1024, 59.8),
    Release("RN101", "timm/resnet101_clip.openai", 120, 224, 512, 62.3),
    Release("RN50x4", "timm/resnet50x4_clip.openai", 178, 288, 640, 66.2),
    Release("RN50x16", "timm/resnet50x16_clip.openai", 291, 384, 768, 70.7),
    Release("RN50x64", "timm/resnet50x64_clip.openai", 623, 448, 1024, 73.9),
    Release("ViT-B-32-openai", "timm/vit_base_patch32_clip_224.openai", 151, 224, 512, 63.3),
    Release("ViT-B-16-openai", "timm/vit_base_patch16_clip_224.openai", 150, 224, 512, 68.3),
    Release("ViT-L-14-openai", "timm/vit_large_patch14_clip_224.openai", 428, 224, 768, 75.5),
)
RECOMMENDED = RELEASES[0]


@dataclass(frozen=True)
class Found:
    """A model that is on this machine."""

    name: str
    folder: Path


def release(name: str) -> Release | None:
    """The release of that name, whatever its case."""
    return next((entry for entry in RELEASES if entry.name.lower() == name.lower()), None)


def local_folder(name: str) -> Path:
    """Where a pulled model of that name is, or would be."""
    return models_folder() / name.removeprefix(HUB_PREFIX).replace("/", "--")


def installed() -> Iterator[Found]:
    """Every model on this machine, the bundled one last."""
    if models_folder().is_dir():
        for folder in sorted(models_folder().iterdir()):
            if folder.is_dir() and not folder.name.startswith("."):
                yield Found(folder.name, folder)
    if (bundled_models() / BUNDLED).is_dir():
        yield Found(BUNDLED, bundled_models() / BUNDLED)


def best() -> Found:
    """The default for a new library: the pulled release with the best published accuracy, else `mini`."""
    pulled = {found.name: found for found in installed()}
    ranked = sorted(RELEASES, key=lambda entry: entry.imagenet, reverse=True)
    for name in [entry.name for entry in ranked] + [BUNDLED]:
        if name in pulled:
            return pulled[name]
    raise ModelNotFound("No model is installed; `clipsearch models pull ViT-B-32-256` fetches one.")


def resolve(name_or_folder: str | Path | None) -> Found:
    """Find a model on this machine by name or folder; None means the best there is.

    Raises ModelNotFound with the way to get it.
    """
    if name_or_folder is None:
        return best()
    name = str(name_or_folder)
    known = release(name)
    canonical = known.name if known is not None else name
    for found in installed():
        if found.name.lower() == local_folder(canonical).name.lower():
            return Found(canonical if known or name.startswith(HUB_PREFIX) else found.name, found.folder)
    path = Path(os.path.expanduser(name))  # noqa: PTH111 (Path's raises for a user that is not there)
    if path.exists():
        return Found(path.resolve().name, path.resolve())
    if name.lower() == BUNDLED:
        raise ModelNotFound(
            f"This installation lacks the bundled model {BUNDLED}; "
            f"`clipsearch models pull {RECOMMENDED.name}` fetches another."
        )
    if known is not None or name.startswith(HUB_PREFIX):
        raise ModelNotFound(
            f"The model {canonical} is not on this machine; `clipsearch models pull {canonical}` fetches it."
        )
    names = ", ".join([BUNDLED, *(entry.name for entry in RELEASES)])
    raise ModelNotFound(f"There is no model or folder {name!r}. Models by name: {names}.")


def repository(name: str) -> str:
    """The hub repository of a release or of `hf-hub:owner/name`. Raises UsageError."""
    known = release(name)
    if known is not None:
        return known.repository
    if re.fullmatch(rf"{HUB_PREFIX}\w[\w.-]*/\w[\w.-]*", name):
        return name.removeprefix(HUB_PREFIX)
    raise UsageError(
        f"{name!r} is neither a known model nor hf-hub:owner/name; see `clipsearch models list`."
    )


def pull(name: str) -> Found:
    """Download a model from the hub into the models folder, with progress on standard error.

    The folder appears under its name only when it is whole. Raises NetworkUnavailable, ModelNotFound,
    UsageError, StorageError.
    """
    repo = repository(name)
    known = release(name)
    canonical = known.name if known is not None else name
    target = local_folder(canonical)
    if target.is_dir():
        return Found(canonical, target)
    if os.environ.get(OFFLINE_VARIABLE, "").lower() in ("1", "true", "yes", "on"):
        raise NetworkUnavailable(
            f"{OFFLINE_VARIABLE} is set, so {canonical} is not downloaded; unset it and try again."
        )
    staging = target.with_name(f".{target.name}.partial")
    make_directory(staging)
    _download(repo, canonical, staging)
    # The hub client's notes on what was fetched.
    shutil.rmtree(staging / ".cache", ignore_errors=True)
    try:
        staging.rename(target)
    except OSError as error:
        if not target.is_dir():  # else another process was first, with the same files
            raise storage_error(error, target) from error
    return Found(canonical, target)


def _download(repo: str, name: str, staging: Path) -> None:
    from huggingface_hub import hf_hub_download, list_repo_files
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
    from huggingface_hub.utils import logging

    # Its retries are logged as warnings; the sentence below says it once.
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        for file in _wanted(repo, set(list_repo_files(repo))):
            hf_hub_download(repo, file, local_dir=staging)
    except ModelNotFound:
        raise
    except GatedRepoError as error:
        raise ModelNotFound(
            f"The hub gives {repo} only to those who accepted its terms; do that at "
            f"https://huggingface.co/{repo}, then `hf auth login`."
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelNotFound(f"The hub has no repository {repo}, or it is private.") from error
    except Exception as error:  # the hub client's transport, and so its errors, change with its version
        # The disk's own; those of the network are subclasses of OSError too.
        if isinstance(error, OSError) and type(error) in (OSError, PermissionError):
            raise storage_error(error, staging) from error
        raise NetworkUnavailable(
            f"{name} could not be downloaded from huggingface.co/{repo} ({type(error).__name__}); "
            "check the network and run the same command again: it goes on where it stopped. "
            "Meanwhile the bundled model `mini` works offline."
        ) from error


def _wanted(repo: str, files: set[str]) -> list[str]:
    """The files to fetch, weights last. Raises ModelNotFound where some are not there."""
    weights = next((file for file in _HUB_WEIGHTS if file in files), None)
    if weights is None:
        raise ModelNotFound(
            f"The repository {repo} holds no weights that clipsearch reads ({_HUB_WEIGHTS[0]}, …)."
        )
    if "tokenizer.json" not in files:
        raise ModelNotFound(f"The repository {repo} holds no tokenizer.json, which clipsearch needs.")
    return [*(file for file in _HUB_FILES if file in files), weights]
