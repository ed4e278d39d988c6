"""Sizes of every Stage 2 network, typed, with the published values as defaults."""

from __future__ import annotations

from dataclasses import dataclass, field

from synchuman.configs import require


@dataclass(frozen=True)
class SlatFlowConfig:
    """The flow over structured latents."""

    resolution: int = 64  # of the voxel grid, per axis
    channels: int = 8  # of a structured latent
    width: int = 1024  # of the tokens, which live at resolution / 2^len(io_widths)
    condition_width: int = 1024  # of the image encoder's tokens
    heads: int = 16
    blocks: int = 24
    mlp_ratio: float = 4.0
    io_widths: tuple[int, ...] = (128,)  # of the residual blocks at the finer resolutions, finest first
    io_blocks: int = 2  # residual blocks per finer resolution on the way in, and as many on the way out

    def __post_init__(self) -> None:
        require(self.width % self.heads == 0, "slat flow: width must be divisible by heads")
        require(
            len(self.io_widths) >= 1 and self.io_blocks >= 1, "slat flow: io_widths and io_blocks must be set"
        )
        factor = 1 << len(self.io_widths)
        require(self.resolution % factor == 0, f"slat flow: resolution must be divisible by {factor}")


@dataclass(frozen=True)
class ViewTokensConfig:
    """What the decoders see of the four body views: patch tokens of several layers of the image encoder."""

    view_size: int = 768  # rows and columns that views are brought to first
    image_size: int = 896  # rows and columns of a view as the encoder sees it
    patch: int = 14  # of the encoder
    encoder_width: int = 1024
    layers: tuple[int, ...] = (4, 11, 17, 23)  # blocks of the encoder, counted from 0

    @property
    def side(self) -> int:
        """Rows and columns of the token map."""
        return self.image_size // self.patch

    @property
    def channels(self) -> int:
        """Channels of a token: all layers."""
        return self.encoder_width * len(self.layers)

    def __post_init__(self) -> None:
        require(self.image_size % self.patch == 0, "view tokens: image_size must be divisible by patch")
        require(len(self.layers) > 0, "view tokens: name at least one layer")


@dataclass(frozen=True)
class DecoderTrunkConfig:
    """The transformer that both decoders have, each with its own weights."""

    resolution: int = 64  # of the voxel grid, per axis
    channels: int = 8  # of a structured latent
    width: int = 768
    heads: int = 12
    blocks: int = 12
    mlp_ratio: float = 4.0
    window: int = 8  # voxels per axis; every other block shifts by half
    view_width: int = 1024  # of a projected view token
    view_hidden_ratio: float = 4.0  # hidden width of the multiview layer over width

    def __post_init__(self) -> None:
        require(self.width % self.heads == 0, "decoder: width must be divisible by heads")
        require(self.window >= 2 and self.window % 2 == 0, "decoder: window must be even")


@dataclass(frozen=True)
class MeshDecoderConfig:
    """From structured latents to the features of FlexiCubes, two subdivisions finer."""

    trunk: DecoderTrunkConfig = field(default_factory=DecoderTrunkConfig)
    widths: tuple[int, ...] = (192, 96)  # per subdivision
    norm_groups: int = 32

    @property
    def resolution(self) -> int:
        """Of the grid of the features, per axis."""
        return self.trunk.resolution << len(self.widths)

    def __post_init__(self) -> None:
        for width in (self.trunk.width, *self.widths):
            require(width % self.norm_groups == 0, f"mesh decoder: width {width} must divide by norm_groups")


@dataclass(frozen=True)
class GaussianDecoderConfig:
    """From structured latents to gaussians."""

    trunk: DecoderTrunkConfig = field(default_factory=DecoderTrunkConfig)
    per_voxel: int = 32  # gaussians
    reach: float = 1.5  # of a gaussian's centre around its voxel's, in voxels, both ways together
    smallest_scale: float = 0.0009  # of the cube's side, added in quadrature
    scale_bias: float = 0.004  # scale at output 0, of the cube's side
    opacity_bias: float = 0.1  # opacity at output 0
    rotation_gain: float = 0.1


@dataclass(frozen=True)
class SlatNormalisation:
    """Mean and spread of structured latents per channel: the flow works on (latent - mean) / std."""

    mean: tuple[float, ...] = (
        -2.1687545776367188,
        -0.004347046371549368,
        -0.13352349400520325,
        -0.08418072760105133,
        -0.5271206498146057,
        0.7238689064979553,
        -1.1414450407028198,
        1.2039363384246826,
    )
    std: tuple[float, ...] = (
        2.377650737762451,
        2.386378288269043,
        2.124418020248413,
        2.1748552322387695,
        2.663944721221924,
        2.371192216873169,
        2.6217446327209473,
        2.684523105621338,
    )

    def __post_init__(self) -> None:
        require(
            len(self.mean) == len(self.std), "slat normalisation: mean and std need one value per channel"
        )
        require(all(value > 0 for value in self.std), "slat normalisation: std must be positive")


@dataclass(frozen=True)
class SlatSamplerConfig:
    """How structured latents are sampled."""

    steps: int = 25
    rescale: float = 3.0  # of the times, towards noise
    guidance: float = 6.0  # 1 = off
    guidance_from: float = 0.5  # guided where guidance_from <= t <= guidance_to
    guidance_to: float = 1.0

    def __post_init__(self) -> None:
        require(self.steps >= 1 and self.rescale > 0, "slat sampler: steps and rescale must be positive")
        require(
            self.guidance_from <= self.guidance_to, "slat sampler: guidance_from must not exceed guidance_to"
        )


@dataclass(frozen=True)
class Stage2Config:
    """Everything that tells one Stage 2 variant from another, weights aside.

    Attributes:
        latents_at: Where the structured latents live: "structure", where the logits of Stage 1 are above 0,
            or "surface", at the voxels that its closed coarse surface touches. The latter forgives gaps in
            the structure, of which the decoder makes holes.
        follow_normals: Whether the decoded surface takes its relief from the normal views (`surface.relief`)
            and its place from the coarse surface, for decoders that are too small to carry both over.
    """

    flow: SlatFlowConfig = field(default_factory=SlatFlowConfig)
    views: ViewTokensConfig = field(default_factory=ViewTokensConfig)
    mesh_decoder: MeshDecoderConfig = field(default_factory=MeshDecoderConfig)
    gaussian_decoder: GaussianDecoderConfig | None = field(default_factory=GaussianDecoderConfig)
    normalisation: SlatNormalisation = field(default_factory=SlatNormalisation)
    sampler: SlatSamplerConfig = field(default_factory=SlatSamplerConfig)
    latents_at: str = "structure"
    follow_normals: bool = False

    def __post_init__(self) -> None:
        require(self.latents_at in ("structure", "surface"), "stage 2: latents_at is structure or surface")
        gaussian = self.gaussian_decoder
        trunks = [self.mesh_decoder.trunk] + ([] if gaussian is None else [gaussian.trunk])
        for name in ("resolution", "channels"):
            wanted = getattr(self.flow, name)
            require(
                all(getattr(trunk, name) == wanted for trunk in trunks), f"flow and decoders differ in {name}"
            )
        require(
            len(self.normalisation.mean) == self.flow.channels, "slat normalisation: one value per channel"
        )
