"""Every kind of photo comes out upright and 8-bit; everything else is refused with a sentence."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pillow_heif
import pytest
from fuzzing import FUZZ
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from synchuman.events import PhotoError
from synchuman.photo import decode as module
from synchuman.photo.decode import decode, shrink

WIDTH, HEIGHT = 96, 64


def picture() -> Image.Image:
    """Red left top, green right top, blue left bottom, white right bottom."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[: HEIGHT // 2, : WIDTH // 2] = (220, 20, 20)
    pixels[: HEIGHT // 2, WIDTH // 2 :] = (20, 200, 20)
    pixels[HEIGHT // 2 :, : WIDTH // 2] = (20, 20, 220)
    pixels[HEIGHT // 2 :, WIDTH // 2 :] = (240, 240, 240)
    return Image.fromarray(pixels)


def save(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def heic(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, quality=95, **options)
    return buffer.getvalue()


def assert_picture(pixels: np.ndarray, tolerance: int = 24) -> None:
    assert pixels.dtype == np.uint8 and pixels.shape == (HEIGHT, WIDTH, 3)
    expected = np.array(picture()).astype(int)
    for row in (HEIGHT // 4, 3 * HEIGHT // 4):
        for column in (WIDTH // 4, 3 * WIDTH // 4):
            assert np.abs(pixels[row, column] - expected[row, column]).max() <= tolerance


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(lambda: save(picture(), "JPEG", quality=95), id="jpeg"),
        pytest.param(lambda: save(picture(), "JPEG", quality=95, progressive=True), id="progressive"),
        pytest.param(lambda: save(picture(), "PNG"), id="png"),
        pytest.param(lambda: save(picture(), "WEBP", quality=95), id="webp"),
        pytest.param(lambda: save(picture(), "WEBP", lossless=True), id="webp-lossless"),
        pytest.param(lambda: heic(picture()), id="heic"),
        pytest.param(lambda: save(picture().convert("CMYK"), "JPEG", quality=95), id="cmyk"),
        pytest.param(lambda: save(picture().quantize(8), "PNG"), id="palette"),
        pytest.param(lambda: save(picture().convert("RGBA"), "PNG"), id="opaque-rgba"),
        pytest.param(
            lambda: save(
                picture(),
                "PNG",
                icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
            ),
            id="profile",
        ),
        pytest.param(lambda: save(picture(), "PNG", icc_profile=b"not a profile" * 20), id="broken-profile"),
        pytest.param(
            lambda: save(picture(), "JPEG", quality=95, exif=b"Exif\0\0MM\0*junk junk"), id="broken-exif"
        ),
        pytest.param(
            lambda: save(picture(), "JPEG", quality=95) + b"<script>alert(1)</script>", id="jpeg-and-html"
        ),
        pytest.param(
            lambda: save(picture(), "PNG", save_all=True, append_images=[Image.new("RGB", (WIDTH, HEIGHT))]),
            id="animated-png",
        ),
        pytest.param(
            lambda: save(
                picture(),
                "WEBP",
                quality=95,
                save_all=True,
                append_images=[Image.new("RGB", (WIDTH, HEIGHT))],
            ),
            id="animated-webp",
        ),
    ],
)
def test_kinds(data):
    assert_picture(decode(data()))


# What was done to the upright picture before it was stored with each orientation.
STORED = {
    1: [],
    2: [Image.Transpose.FLIP_LEFT_RIGHT],
    3: [Image.Transpose.ROTATE_180],
    4: [Image.Transpose.FLIP_TOP_BOTTOM],
    5: [Image.Transpose.TRANSPOSE],
    6: [Image.Transpose.ROTATE_90],
    7: [Image.Transpose.TRANSVERSE],
    8: [Image.Transpose.ROTATE_270],
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_orientation(orientation, kind):
    image = picture()
    for step in STORED[orientation]:
        image = image.transpose(step)
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert_picture(decode(save(image, kind, exif=exif, **({} if kind == "PNG" else {"quality": 95}))))


def test_orientation_of_heic():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert_picture(decode(heic(picture().transpose(Image.Transpose.ROTATE_90), exif=exif.tobytes())))


def test_deep_grey():
    ramp = np.linspace(0, 65535, WIDTH).astype(np.uint16)[None].repeat(HEIGHT, axis=0)
    pixels = decode(save(Image.fromarray(ramp), "PNG"))
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert (pixels[0, :, 0] == ramp[0] >> 8).all() and (pixels[..., 0] == pixels[..., 2]).all()


def test_deep_colour():
    assert_picture(decode(png_chunks(WIDTH, HEIGHT, 16, 2, deep_rows(picture()))))


def test_grey_and_bits():
    assert decode(save(picture().convert("L"), "PNG")).shape == (HEIGHT, WIDTH, 3)
    bits = decode(save(picture().convert("1"), "PNG"))
    assert set(np.unique(bits)) <= {0, 255}


def test_alpha_is_kept():
    image = picture().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize((WIDTH, HEIGHT)))
    for data in (save(image, "PNG"), save(image, "WEBP", lossless=True), save(image.convert("LA"), "PNG")):
        pixels = decode(data)
        assert pixels.shape == (HEIGHT, WIDTH, 4)
        assert (pixels[..., 3] == np.array(image)[..., 3]).all()


def test_palette_transparency():
    image = picture().quantize(4)
    transparent = image.getpixel((2, 2))
    pixels = decode(save(image, "PNG", transparency=transparent))
    assert pixels[2, 2, 3] == 0 and pixels[2, -2, 3] == 255


def test_profile_is_applied():
    lab = ImageCms.ImageCmsProfile(
        ImageCms.createProfile("LAB")
    ).tobytes()  # of no use for RGB pixels: ignored
    assert_picture(decode(save(picture(), "PNG", icc_profile=lab)))


# ---- hostile ones


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_chunks(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def deep_rows(image: Image.Image) -> bytes:
    deep = (np.array(image).astype(np.uint16) * 257).astype(">u2")
    return b"".join(b"\0" + row.tobytes() for row in deep)


def jpeg() -> bytes:
    return save(picture(), "JPEG", quality=95)


def jpeg_claiming(width: int, height: int) -> bytes:
    data = bytearray(jpeg())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


HOSTILE = {
    "empty": lambda: b"",
    "one byte": lambda: b"\xff",
    "text": lambda: b"this is not a photo" * 100,
    "svg": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "html": lambda: b"<!doctype html><img src=x onerror=alert(1)>",
    "pdf": lambda: b"%PDF-1.7\n1 0 obj\n<<>>\nendobj",
    "zip": lambda: b"PK\x03\x04" + bytes(200),
    "gif": lambda: save(picture(), "GIF"),
    "gif and javascript": lambda: b"GIF89a/*" + bytes(40) + b"*/=1;alert(1)",
    "bmp": lambda: save(picture(), "BMP"),
    "tiff": lambda: save(picture(), "TIFF"),
    "postscript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    "avif brand": lambda: b"\0\0\0\x1cftypavif" + bytes(40),
    "signature only (jpeg)": lambda: b"\xff\xd8\xff",
    "signature only (png)": lambda: b"\x89PNG\r\n\x1a\n",
    "signature only (webp)": lambda: b"RIFF\x10\0\0\0WEBP",
    "signature only (heic)": lambda: b"\0\0\0\x18ftypheic" + bytes(12),
    "truncated jpeg": lambda: jpeg()[: len(jpeg()) // 2],
    "truncated png": lambda: save(picture(), "PNG")[:-40],
    "truncated webp": lambda: save(picture(), "WEBP")[:-60],
    "truncated heic": lambda: heic(picture())[:-100],
    "png bomb": lambda: png_chunks(60_000, 60_000, 1, 0, bytes(1000)),
    "png of 41 megapixels": lambda: png_chunks(8_200, 5_000, 1, 0, bytes(1026) * 5_000),
    "huge sides": lambda: png_chunks(2**31 - 1, 2**31 - 1, 8, 2, b""),
    "no sides": lambda: png_chunks(0, 0, 8, 2, b""),
    "jpeg bomb": lambda: jpeg_claiming(65_000, 65_000),
    "text bomb": lambda: png_chunks(
        64, 64, 8, 0, bytes(65 * 64), chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(80_000_000)))
    ),
    "profile bomb": lambda: png_chunks(
        4_096, 64, 8, 2, b"\0", chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(80_000_000)))
    ),
    "bad checksum": lambda: save(picture(), "PNG").replace(b"IHDR", b"IHDQ"),
    "one row": lambda: save(Image.new("RGB", (4_000, 1)), "PNG"),
    "tiny": lambda: save(Image.new("RGB", (8, 8)), "PNG"),
    "33 MiB": lambda: jpeg() + bytes(33 * 2**20),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile(name):
    with pytest.raises(PhotoError) as caught:
        decode(HOSTILE[name]())
    message = str(caught.value)
    assert "Please" in message and message.endswith(".") and "Error" not in message


@pytest.mark.parametrize("name", ["png bomb", "png of 41 megapixels", "jpeg bomb", "huge sides"])
def test_bombs_are_refused_before_decoding(name, monkeypatch):
    data = HOSTILE[name]()

    def never(*_):
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", never)
    with pytest.raises(PhotoError, match="megapixels"):
        decode(data)


def test_limits_are_those_promised():
    assert module.MAX_BYTES == 32 * 2**20 and module.MAX_PIXELS == 40_000_000


@settings(max_examples=150 * FUZZ, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.binary(max_size=400),
    st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"\0\0\0\x18ftypheic"]),
)
def test_random_bytes(tail, head):
    with contextlib.suppress(PhotoError):
        decode(head + tail)


SEEDS = [
    jpeg(),
    save(picture(), "PNG"),
    save(picture().quantize(8), "PNG"),
    save(picture(), "WEBP"),
    save(picture().convert("CMYK"), "JPEG"),
    heic(picture()),
]


@settings(max_examples=250 * FUZZ, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(range(len(SEEDS))),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=12),
    st.floats(0.02, 1),
)
def test_mutated_photos(seed, changes, kept):
    data = bytearray(SEEDS[seed])
    for place, value in changes:
        data[int(place * len(data))] = value
    try:
        pixels = decode(bytes(data[: max(int(kept * len(data)), 1)]))
    except PhotoError:
        return
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] in (3, 4)


def test_shrink():
    assert shrink(np.zeros((100, 50, 4), np.uint8), 40).shape == (40, 20, 4)
    small = np.zeros((10, 20, 3), np.uint8)
    assert shrink(small, 40) is small
