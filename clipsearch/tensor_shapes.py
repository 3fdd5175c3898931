"""Which tensors a CLIP model of given sizes has, known without building it, and whether they are there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from clipsearch.errors import ModelInvalid
from clipsearch.sizes import ClipConfig, VisionConfig
from clipsearch.trunk_blocks import FEATURES, STEM, TRUNKS

Shape = tuple[int, ...]
Named = Iterator[tuple[str, Shape]]

COUNTER = "num_batches_tracked"
"""A batch norm's counter of training steps, an integer that changes nothing and may be missing."""


def tensor_shapes(config: ClipConfig) -> dict[str, Shape]:
    """Name → shape, under OpenAI's names: the state dict of `clipsearch.model.Clip`."""
    text = config.text
    return {
        "logit_scale": (),
        "token_embedding.weight": (text.vocab_size, text.width),
        "positional_embedding": (text.context_length, text.width),
        "text_projection": (text.width, config.embed_dim),
        **dict(_norm("ln_final", text.width)),
        **dict(_blocks("transformer", text.layers, text.width)),
        **{f"visual.{name}": shape for name, shape in _visual(config.vision, config.embed_dim)},
    }


def check_tensors(found: Mapping[str, tuple[Shape, bool]], config: ClipConfig) -> None:
    """Raise ModelInvalid unless these tensors (name → shape, whether floating) are just the model's."""
    wanted = tensor_shapes(config)
    missing = [name for name in wanted if name not in found and not name.endswith(COUNTER)]
    left_over = [name for name in found if name not in wanted]
    wrong = [
        f"{name} {found[name][0]} instead of {shape}"
        for name, shape in wanted.items()
        if name in found and found[name] != (shape, not name.endswith(COUNTER))
    ]
    told = [
        f"{len(names)} tensors {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for what, names in (("are missing", missing), ("are left over", left_over), ("do not fit", wrong))
        if names
    ]
    if told:
        raise ModelInvalid(f"These weights are not a CLIP model that clipsearch knows: {'; '.join(told)}.")


def _visual(vision: VisionConfig, embed_dim: int) -> Named:
    if vision.trunk is not None:
        return _trunk_tower(vision, embed_dim)
    if isinstance(vision.layers, tuple):
        return _resnet(vision, vision.layers, embed_dim)
    return _vit(vision, vision.layers, embed_dim)


def _vit(vision: VisionConfig, layers: int, embed_dim: int) -> Named:
    assert vision.patch_size is not None
    width, patch = vision.width, vision.patch_size
    yield "conv1.weight", (width, 3, patch, patch)
    yield "class_embedding", (width,)
    yield "positional_embedding", ((vision.image_size // patch) ** 2 + 1, width)
    yield from _norm("ln_pre", width)
    yield from _blocks("transformer", layers, width)
    yield from _norm("ln_post", width)
    yield "proj", (width, embed_dim)


def _resnet(vision: VisionConfig, layers: tuple[int, int, int, int], embed_dim: int) -> Named:
    width = vision.width
    yield from _conv("conv1", "bn1", 3, width // 2, 3)
    yield from _conv("conv2", "bn2", width // 2, width // 2, 3)
    yield from _conv("conv3", "bn3", width // 2, width, 3)
    inplanes = width
    for stage, blocks in enumerate(layers):
        planes = width * 2**stage
        for index in range(blocks):
            name, outplanes = f"layer{stage + 1}.{index}.", planes * 4
            yield from _conv(f"{name}conv1", f"{name}bn1", inplanes, planes, 1)
            yield from _conv(f"{name}conv2", f"{name}bn2", planes, planes, 3)
            yield from _conv(f"{name}conv3", f"{name}bn3", planes, outplanes, 1)
            if index == 0:
                yield from _conv(f"{name}downsample.0", f"{name}downsample.1", inplanes, outplanes, 1)
            inplanes = outplanes
    yield "attnpool.positional_embedding", ((vision.image_size // 32) ** 2 + 1, inplanes)
    for kind in "qkv":
        yield from _linear(f"attnpool.{kind}_proj", inplanes, inplanes)
    yield from _linear("attnpool.c_proj", inplanes, embed_dim)


def _trunk_tower(vision: VisionConfig, embed_dim: int) -> Named:
    assert vision.trunk is not None
    trunk = TRUNKS[vision.trunk]
    yield from _conv("trunk.conv_stem", "trunk.bn1", 3, STEM, 3)
    for stage, blocks in enumerate(trunk.stages):
        for index, block in enumerate(blocks):
            name, mid = f"trunk.blocks.{stage}.{index}.", block.mid
            if block.kind == "cn":
                yield from _conv(f"{name}conv", f"{name}bn1", block.inplanes, block.planes, 1)
            elif block.kind == "er":
                yield from _conv(f"{name}conv_exp", f"{name}bn1", block.inplanes, mid, block.kernel)
                yield from _conv(f"{name}conv_pwl", f"{name}bn2", mid, block.planes, 1)
            elif block.kind == "ds":
                yield from _conv(f"{name}conv_dw", f"{name}bn1", 1, block.inplanes, block.kernel)
                yield from _conv(f"{name}conv_pw", f"{name}bn2", block.inplanes, block.planes, 1)
            else:
                yield from _conv(f"{name}conv_pw", f"{name}bn1", block.inplanes, mid, 1)
                yield from _conv(f"{name}conv_dw", f"{name}bn2", 1, mid, block.kernel)
                yield from _conv(f"{name}conv_pwl", f"{name}bn3", mid, block.planes, 1)
    yield from _conv("trunk.conv_head", "trunk.bn2", trunk.planes, FEATURES, 1)
    if vision.trunk_proj == "mlp":
        yield from _linear("head.mlp.fc1", FEATURES, 2 * embed_dim)
        yield "head.mlp.fc2.weight", (embed_dim, 2 * embed_dim)
    else:
        yield "head.proj.weight", (embed_dim, FEATURES)


def _blocks(name: str, layers: int, width: int) -> Named:
    """The blocks of a transformer."""
    for index in range(layers):
        block = f"{name}.resblocks.{index}."
        yield from _norm(f"{block}ln_1", width)
        yield f"{block}attn.in_proj_weight", (3 * width, width)
        yield f"{block}attn.in_proj_bias", (3 * width,)
        yield from _linear(f"{block}attn.out_proj", width, width)
        yield from _norm(f"{block}ln_2", width)
        yield from _linear(f"{block}mlp.c_fc", width, 4 * width)
        yield from _linear(f"{block}mlp.c_proj", 4 * width, width)


def _linear(name: str, inputs: int, outputs: int) -> Named:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def _norm(name: str, width: int) -> Named:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _conv(conv: str, norm: str, inplanes: int, planes: int, kernel: int) -> Named:
    """A square convolution and its batch norm; `inplanes` are those that one group sees."""
    yield f"{conv}.weight", (planes, inplanes, kernel, kernel)
    yield from _norm(norm, planes)
    yield f"{norm}.running_mean", (planes,)
    yield f"{norm}.running_var", (planes,)
    yield f"{norm}.{COUNTER}", ()
