from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from clipsearch import zoo
from clipsearch.errors import ModelNotFound, NetworkUnavailable, StorageError, UsageError
from clipsearch.model import Clip, ClipConfig, VisionConfig

OPEN_CLIP = ["open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json", "README.md"]


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLIPSEARCH_MODELS", str(tmp_path / "models"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(zoo, "bundled_models", lambda: tmp_path / "bundled")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "models"


class Hub:
    """A hub of one repository, which may break while a file is fetched."""

    def __init__(self, files: list[str]) -> None:
        self.files = files
        self.fetched: list[str] = []
        self.asked: set[str] = set()
        self.breaks_at: dict[str, Exception] = {}

    def list_repo_files(self, repo: str) -> list[str]:
        self.asked.add(repo)
        if "list" in self.breaks_at:
            raise self.breaks_at["list"]
        return self.files

    def hf_hub_download(self, repo: str, file: str, local_dir: Path) -> str:
        self.asked.add(repo)
        if file in self.breaks_at:
            raise self.breaks_at[file]
        self.fetched.append(file)
        (local_dir / ".cache" / "huggingface").mkdir(parents=True, exist_ok=True)
        (local_dir / file).write_text(f"{repo}/{file}")
        return str(local_dir / file)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], Hub]:
    def use(files: list[str]) -> Hub:
        fake = Hub(files)
        monkeypatch.setattr(huggingface_hub, "list_repo_files", fake.list_repo_files)
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", fake.hf_hub_download)
        return fake

    return use


def http_error(kind: type[Exception]) -> Exception:
    error = kind.__new__(kind)
    Exception.__init__(error, "404")
    return error


def test_pulled_models_are_listed_found_and_preferred(
    models: Path, hub: Callable[[list[str]], Hub], tmp_path: Path
) -> None:
    (tmp_path / "bundled" / "mini").mkdir(parents=True)
    assert zoo.best() == zoo.Found("mini", tmp_path / "bundled" / "mini")
    fake = hub([*OPEN_CLIP, "pytorch_model.bin", "vocab.json"])
    found = zoo.pull("vit-b-32-256")
    assert found == zoo.Found("ViT-B-32-256", models / "ViT-B-32-256")
    assert fake.asked == {"laion/CLIP-ViT-B-32-256x256-DataComp-s34B-b86K"}
    assert sorted(path.name for path in found.folder.iterdir()) == sorted(OPEN_CLIP)
    assert [entry.name for entry in zoo.installed()] == ["ViT-B-32-256", "mini"]
    for name in ("ViT-B-32-256", "vit-b-32-256", None):
        assert zoo.resolve(name) == found
    assert zoo.resolve("MINI").name == "mini"
    hub(OPEN_CLIP)
    zoo.pull("RN50")
    assert zoo.best() == found, "the better published accuracy wins"
    zoo.pull("ViT-L-14")
    assert zoo.best().name == "ViT-L-14"


def test_a_model_is_fetched_once(hub: Callable[[list[str]], Hub]) -> None:
    fake = hub(OPEN_CLIP)
    first = zoo.pull("ViT-B-16")
    assert sorted(fake.fetched) == sorted(OPEN_CLIP)
    assert zoo.pull("ViT-B-16") == first
    assert len(fake.fetched) == 4


def test_any_repository_by_its_name(models: Path, hub: Callable[[list[str]], Hub]) -> None:
    fake = hub(["config.json", "model.safetensors", "pytorch_model.bin", "tokenizer.json"])
    found = zoo.pull("hf-hub:someone/My.CLIP-1")
    assert fake.asked == {"someone/My.CLIP-1"}
    assert fake.fetched == ["tokenizer.json", "config.json", "model.safetensors"]
    assert found == zoo.Found("hf-hub:someone/My.CLIP-1", models / "someone--My.CLIP-1")
    assert zoo.resolve("hf-hub:someone/My.CLIP-1") == found


@pytest.mark.parametrize("breaks", ["list", *OPEN_CLIP])
def test_a_download_that_breaks_is_never_seen_and_goes_on(
    models: Path, hub: Callable[[list[str]], Hub], breaks: str
) -> None:
    fake = hub(OPEN_CLIP)
    fake.breaks_at = {breaks: ConnectionError("the network is down")}
    with pytest.raises(NetworkUnavailable, match=r"goes on where it stopped.*mini"):
        zoo.pull("ViT-B-32")
    assert list(zoo.installed()) == []
    assert not (models / "ViT-B-32").exists()
    with pytest.raises(ModelNotFound, match="clipsearch models pull ViT-B-32"):
        zoo.resolve("ViT-B-32")
    fake.breaks_at = {}
    assert zoo.pull("ViT-B-32").folder.is_dir()
    assert [path.name for path in models.iterdir()] == ["ViT-B-32"]


def test_an_interrupted_download_is_never_seen(models: Path, hub: Callable[[list[str]], Hub]) -> None:
    fake = hub(OPEN_CLIP)
    fake.breaks_at = {"tokenizer.json": KeyboardInterrupt()}  # type: ignore[dict-item]
    with pytest.raises(KeyboardInterrupt):
        zoo.pull("ViT-B-32")
    assert list(zoo.installed()) == []


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (http_error(RepositoryNotFoundError), ModelNotFound, "no repository a/b"),
        (http_error(GatedRepoError), ModelNotFound, "accepted its terms"),
        (OSError(28, "No space left on device"), StorageError, "disk is full"),
        (PermissionError(13, "Permission denied"), StorageError, "cannot be opened or written"),
        (TimeoutError("timed out"), NetworkUnavailable, "TimeoutError"),
        (RuntimeError("some transport's own"), NetworkUnavailable, "RuntimeError"),
    ],
)
def test_errors_of_the_hub_are_sentences(
    hub: Callable[[list[str]], Hub], error: Exception, kind: type[Exception], message: str
) -> None:
    hub(OPEN_CLIP).breaks_at = {"list": error}
    with pytest.raises(kind, match=message):
        zoo.pull("hf-hub:a/b")


@pytest.mark.parametrize(
    ("files", "message"), [(["README.md", "tokenizer.json"], "no weights"), (OPEN_CLIP[:2], "no tokenizer")]
)
def test_repositories_without_a_clip_model(
    hub: Callable[[list[str]], Hub], files: list[str], message: str
) -> None:
    fake = hub(files)
    with pytest.raises(ModelNotFound, match=message):
        zoo.pull("hf-hub:a/b")
    assert fake.fetched == []


@pytest.mark.parametrize("value", ["1", "true", "ON"])
def test_offline_nothing_is_asked(
    hub: Callable[[list[str]], Hub], monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    fake = hub(OPEN_CLIP)
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    with pytest.raises(NetworkUnavailable, match="HF_HUB_OFFLINE is set"):
        zoo.pull("ViT-B-32")
    assert fake.asked == set()


@pytest.mark.parametrize(
    "name",
    ["ViT-B-99", "mini", "", "hf-hub:", "hf-hub:x", "hf-hub:a/b/c", "hf-hub:../x", "hf-hub:a/..", "../x"],
)
def test_names_that_are_no_model_cannot_be_pulled(
    models: Path, hub: Callable[[list[str]], Hub], name: str
) -> None:
    fake = hub(OPEN_CLIP)
    with pytest.raises(UsageError, match="clipsearch models list"):
        zoo.pull(name)
    assert fake.asked == set()
    assert not models.exists()


def test_unknown_names_say_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"no model or folder 'ViT-X'.*mini, ViT-B-32-256"):
        zoo.resolve("ViT-X")
    with pytest.raises(ModelNotFound, match="clipsearch models pull RN50"):
        zoo.resolve("rn50")
    with pytest.raises(ModelNotFound, match="clipsearch models pull hf-hub:a/b"):
        zoo.resolve("hf-hub:a/b")
    with pytest.raises(ModelNotFound, match="lacks the bundled model"):
        zoo.resolve("mini")
    with pytest.raises(ModelNotFound, match="No model is installed"):
        zoo.resolve(None)
    with pytest.raises(ModelNotFound):
        zoo.resolve("~nobody-of-that-name/x")


def test_folders_are_models(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert zoo.resolve("mine") == zoo.resolve(tmp_path / "mine") == zoo.Found("mine", tmp_path / "mine")


def test_sizes_of_the_table_are_the_models() -> None:
    import torch

    entry = zoo.release("ViT-L-14")
    assert entry is not None
    with torch.device("meta"):
        model = Clip(ClipConfig(entry.dim, VisionConfig(entry.edge, 24, 1024, 14)))
    assert model.text_projection.shape[1] == 768
    assert len({release.name.lower() for release in zoo.RELEASES}) == len(zoo.RELEASES)
    assert all(release.repository.count("/") == 1 for release in zoo.RELEASES)
    assert zoo.RECOMMENDED.name == "ViT-B-32-256"
