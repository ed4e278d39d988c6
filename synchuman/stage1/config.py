"""Sizes of every Stage 1 network, typed, with the published values as defaults."""

from __future__ import annotations

from dataclasses import dataclass, field

from synchuman.configs import require
from synchuman.image_encoder import ImageEncoderConfig


@dataclass(frozen=True)
class StructureFlowConfig:
    """The 3D branch: a transformer over the structure latent."""

    channels: int = 8  # of the structure latent
    resolution: int = 16  # of the structure latent, per axis
    patch: int = 1  # latent voxels per token, per axis
    width: int = 1024
    heads: int = 16
    blocks: int = 24
    slices: tuple[int, int] = (8, 16)  # blocks before the 2D way down, and before the 2D way up
    mlp_ratio: float = 4.0
    condition_width: int = 1024  # of the image encoder's tokens

    @property
    def grid(self) -> int:
        """Tokens per axis."""
        return self.resolution // self.patch

    def __post_init__(self) -> None:
        require(self.resolution % self.patch == 0, "structure resolution must be divisible by patch")
        require(self.width % self.heads == 0, "structure width must be divisible by heads")
        first, second = self.slices
        require(0 <= first <= second <= self.blocks, "structure slices must rise within the number of blocks")


@dataclass(frozen=True)
class SyncConfig:
    """Attention between the 2D and 3D branches; on the way up it happens at the same map sizes as down."""

    heads: int = 16
    head_width: int = 64
    to_structure_after: int = 1  # down block whose maps the structure reads
    to_views_after: int = 2  # down block whose maps read the structure
    kernel: int = 3  # of the convolutions before pooling, odd
    mlp_ratio: int = 4


@dataclass(frozen=True)
class JointNetworkConfig:
    """The joint network: multiview UNet, structure transformer and the attention between them."""

    latent_size: int = 96  # rows and columns of the image latents
    in_channels: int = 8  # noisy latent and condition latent
    out_channels: int = 4
    widths: tuple[int, ...] = (320, 640, 1280, 1280)  # per level, down
    heads: tuple[int, ...] = (5, 10, 20, 20)  # per level; a head is widths / heads wide
    attention: tuple[bool, ...] = (True, True, True, False)  # per level; the middle block always has it
    layers: int = 2  # residual blocks per down block; up blocks have one more
    norm_groups: int = 32
    prompt_width: int = 1024
    class_width: int | None = 2048  # of the class label; None = no class label
    structure: StructureFlowConfig = field(default_factory=StructureFlowConfig)
    sync: SyncConfig = field(default_factory=SyncConfig)

    def map_size(self, level: int) -> int:
        """Rows and columns of the maps at a level."""
        return self.latent_size >> level

    @property
    def levels(self) -> int:
        """Number of map sizes."""
        return len(self.widths)

    def __post_init__(self) -> None:
        levels = self.levels
        require(
            len(self.heads) == levels == len(self.attention), "widths, heads, attention need equal lengths"
        )
        require(
            self.latent_size % (1 << (levels - 1)) == 0,
            f"latent_size {self.latent_size} must halve {levels - 1} times",
        )
        for level in range(levels):
            if self.attention[level] or level == levels - 1:
                require(
                    self.map_size(level) % 3 == 0,
                    f"latent_size {self.latent_size} gives {self.map_size(level)} rows at a level; maps "
                    "with attention need a multiple of 3, as the face fills a third of the front view",
                )
            require(
                self.widths[level] % self.heads[level] == 0,
                f"width {self.widths[level]} must split into heads",
            )
            require(
                self.widths[level] % self.norm_groups == 0, "every width must be divisible by norm_groups"
            )
        after = (self.sync.to_structure_after, self.sync.to_views_after)
        require(
            0 <= after[0] < after[1] <= levels - 2,
            "to_structure_after must come before to_views_after, and both before the last down block",
        )
        require(
            self.structure.width % self.norm_groups == 0, "structure width must be divisible by norm_groups"
        )


@dataclass(frozen=True)
class StructureDecoderConfig:
    """From the structure latent to occupancy logits; every level after the first doubles the resolution."""

    latent_channels: int = 8
    out_channels: int = 1
    channels: tuple[int, ...] = (512, 128, 32)
    res_blocks: int = 2  # per level
    res_blocks_middle: int = 2


@dataclass(frozen=True)
class AutoencoderConfig:
    """The image autoencoder (diffusers' AutoencoderKL); every level after the first halves the resolution."""

    widths: tuple[int, ...] = (128, 256, 512, 512)
    layers: int = 2
    norm_groups: int = 32
    latent_channels: int = 4
    scaling: float = 0.18215

    @property
    def factor(self) -> int:
        """Image pixels per latent pixel, per axis."""
        return 1 << (len(self.widths) - 1)


@dataclass(frozen=True)
class ClipConfig:
    """The image embedding in the class label (transformers' CLIPVisionModelWithProjection)."""

    width: int = 1280
    hidden: int = 5120
    depth: int = 32
    heads: int = 16
    patch: int = 14
    image_size: int = 224
    projection: int = 1024


@dataclass(frozen=True)
class JointSamplerConfig:
    """How far from the likeliest result samples may stray; the defaults are the published method.

    Less noise at the start gives likelier and less varied samples, as a low temperature does (Kingma and
    Dhariwal, Glow, 2018, section 6; of GANs: Brock et al., 2019, section 3.1).
    """

    views_noise: float = 1.0  # standard deviation of the noise that views start from
    structure_noise: float = 1.0  # and of the structure's
    structure_guidance: float | None = None  # of the structure, where there is guidance; None: the views'

    def __post_init__(self) -> None:
        require(min(self.views_noise, self.structure_noise) >= 0, "joint sampler: noise must not be negative")
        require((self.structure_guidance or 1) >= 1, "joint sampler: structure_guidance must be at least 1")


@dataclass(frozen=True)
class Stage1Config:
    """Everything that tells one Stage 1 variant from another, weights aside."""

    image_size: int = 768  # rows and columns of the generated views
    prompt_length: int = 77  # tokens of a view prompt
    preview_interval: int = 10  # steps between previews; decoding ten images takes as long as a step or more
    joint_network: JointNetworkConfig = field(default_factory=JointNetworkConfig)
    # None: the structure is carved from the views instead of decoded.
    structure_decoder: StructureDecoderConfig | None = field(default_factory=StructureDecoderConfig)
    image_autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    image_encoder: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)
    clip: ClipConfig | None = field(default_factory=ClipConfig)
    sampler: JointSamplerConfig = field(default_factory=JointSamplerConfig)
    match_colors: bool = False  # correct the views' hues by what the generated front view got wrong

    def __post_init__(self) -> None:
        joint, autoencoder = self.joint_network, self.image_autoencoder
        require(
            self.image_size == joint.latent_size * autoencoder.factor,
            f"image_size {self.image_size} must be latent_size {joint.latent_size} x {autoencoder.factor}",
        )
        require(
            self.image_size % 3 == 0, "image_size must be divisible by 3: the face fills a third of the front"
        )
        require(
            joint.in_channels == 2 * autoencoder.latent_channels
            and joint.out_channels == autoencoder.latent_channels,
            "the joint network takes two latents of the image autoencoder (noisy, condition) and returns one",
        )
        require(
            self.structure_decoder is None
            or joint.structure.channels == self.structure_decoder.latent_channels,
            "structure channels must equal the structure decoder's latent_channels",
        )
        require(
            joint.structure.condition_width == self.image_encoder.width,
            "condition_width must equal the image encoder's width",
        )
        label = None if self.clip is None else 2 * self.clip.projection
        require(joint.class_width == label, f"class_width must be {label}: image embedding and noise level")
