"""The view prompts: what the text encoder says about fourteen fixed sentences, made once and kept.

The published checkpoint holds the text encoder (that of Stable Diffusion 2.1) but not what it says. The
recipe: every sentence "a rendering image of 3D human, V view, color map." (or "normal map.") becomes CLIP's
tokens (byte pair encoding, Radford et al. 2021), lower case, between start and end, filled up to 77 with the
tokenizer's padding "!"; the prompt is the encoder's last hidden state after its final norm, causal, without a
mask for the padding, in float16. The tokens are written down here, so no tokenizer is needed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from synchuman.weights.checkpoint import WeightsError, find_weights, read_json
from synchuman.weights.files import write_weights
from synchuman.weights.keymaps import clip_names
from synchuman.weights.load import NetworkWeights, blank, fill

PROMPTS_FILE = "view_prompts.safetensors"
PROMPTS_KEY = "view_prompts"
LENGTH = 77
VIEWS = ("front", "front_right", "right", "back", "left", "front_left", "face")
DOMAINS = ("normal", "color")

_START, _END, _PADDING = 49406, 49407, 0
_BEFORE = (320, 21339, 2867, 539, 274, 323, 2751, 267)  # a rendering image of 3 d human ,
_VIEW_TOKENS = {
    "front": (2184,),
    "front_right": (2184, 318, 1155),
    "right": (1155,),
    "back": (893,),
    "left": (1823,),
    "front_left": (2184, 318, 1823),
    "face": (1710,),
}
_DOMAIN_TOKENS = {"normal": 5967, "color": 3140}
_BETWEEN, _AFTER = (1093, 267), (3923, 269)  # view ,   map .

# Of the prompts that the published method uses, [7, 77, 1024] float16 little-endian, by domain.
PUBLISHED_SHA256 = {
    "normal": "d92c4319e16ada74c8741dac0fa325ecf4065fb343fc8323a4bce00937131286",
    "color": "3d87a1884e223f5ec5f29d753f8bfe668bdda246f73ab84bb994ce3d29e8fc2a",
}
# Their means and standard deviations. Another machine rounds differently in float16, but not by this much.
PUBLISHED_FIGURES = {"normal": (-0.16776, 1.02705), "color": (-0.16779, 1.02612)}
TOLERANCE = 2e-3
PUBLISHED_WIDTH = 1024
IDENTICAL, ROUNDED, OTHER_SIZE = "identical", "rounded differently", "of another size"


def token_ids() -> Tensor:
    """Return the tokens of all sentences, [2 domains, 7 views, 77] int64."""
    rows = []
    for domain in DOMAINS:
        for view in VIEWS:
            words = (*_BEFORE, *_VIEW_TOKENS[view], *_BETWEEN, _DOMAIN_TOKENS[domain], *_AFTER)
            row = [_START, *words, _END]
            rows.append(row + [_PADDING] * (LENGTH - len(row)))
    return torch.tensor(rows).unflatten(0, (len(DOMAINS), len(VIEWS)))


def make_prompts(text_encoder: Path, device: torch.device | str = "cpu") -> Tensor:
    """Let a text encoder say the prompts.

    Args:
        text_encoder: Its folder: config.json and weights.
        device: Where to compute, in float32.

    Returns:
        [2, 7, 77, width] float16 on the CPU.

    Raises:
        FileNotFoundError: A file is missing.
        WeightsError: A file is damaged.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    known = CLIPTextConfig().to_dict()
    sizes = {k: v for k, v in read_json(text_encoder / "config.json").items() if k in known}
    for name in ("dtype", "torch_dtype", "architectures", "transformers_version", "_name_or_path"):
        sizes.pop(name, None)
    with blank():
        model = CLIPTextModel(CLIPTextConfig(**sizes))
    fill(model, NetworkWeights(find_weights(text_encoder), _names_for(model)), device)
    model.eval()
    with torch.inference_mode():
        hidden = [model(input_ids=ids.to(device)).last_hidden_state.half().cpu() for ids in token_ids()]
    return torch.stack(hidden).clone()


def check_prompts(prompts: Tensor) -> str:
    """Compare prompts with those of the published method.

    Returns:
        IDENTICAL, ROUNDED, or OTHER_SIZE where there is nothing to compare with.

    Raises:
        WeightsError: They are of the published size, but say something else.
    """
    if prompts.shape[-1] != PUBLISHED_WIDTH:
        return OTHER_SIZE
    identical = True
    for domain, half in zip(DOMAINS, prompts.half()):
        raw = half.contiguous().view(torch.uint8).numpy().tobytes()
        identical &= hashlib.sha256(raw).hexdigest() == PUBLISHED_SHA256[domain]
        mean, std = PUBLISHED_FIGURES[domain]
        got = float(half.double().mean()), float(half.double().std())
        if max(abs(got[0] - mean), abs(got[1] - std)) > TOLERANCE:
            raise WeightsError(
                f"The {domain} view prompts have mean {got[0]:.4f} and deviation {got[1]:.4f}, those of "
                f"the published method {mean:.4f} and {std:.4f}: this is not its text encoder. Take "
                "normal_embeds.pt and clr_embeds.pt of the published code instead: "
                "`python -m synchuman weights prompts --embeds FOLDER`."
            )
    return IDENTICAL if identical else ROUNDED


def read_embeds(folder: Path) -> Tensor:
    """Read the prompts that come with the published code: normal_embeds.pt and clr_embeds.pt.

    They are torch's own files, read as weights only, which runs no code in them.

    Raises:
        FileNotFoundError: One is missing.
        WeightsError: One is something else.
    """
    halves = []
    for name in ("normal_embeds.pt", "clr_embeds.pt"):
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; the published code has it in its folder `data`.")
        try:
            half: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # torch raises many kinds for a file that is not its own
            raise WeightsError(f"{path} cannot be read as weights ({type(error).__name__}).") from None
        if not isinstance(half, Tensor) or half.ndim != 3 or half.shape[:2] != (len(VIEWS), LENGTH):
            raise WeightsError(f"{path} does not hold prompts [{len(VIEWS)}, {LENGTH}, width].")
        halves.append(half)
    return torch.stack(halves)


def keep_prompts(prompts: Tensor, folder: Path) -> Path:
    """Write prompts into a folder: our own home, or a checkpoint's OneStage; return the file."""
    path = folder / PROMPTS_FILE
    write_weights({PROMPTS_KEY: prompts}, path, torch.float16)
    return path


def _names_for(model: torch.nn.Module) -> Any:
    """Return the names of the text encoder's weights as this transformers has them, with a prefix or not."""
    prefix = "text_model."
    prefixed = next(iter(model.state_dict())).startswith(prefix)

    def names(name: str) -> tuple[str, ...]:
        bare = name.removeprefix(prefix)
        return clip_names(f"{prefix}{bare}" if prefixed else bare)

    return names
