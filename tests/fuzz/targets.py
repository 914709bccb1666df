"""Readers of what strangers and operators write, each as a function of bytes.

Each returns for whatever is right or is refused as it should be, and raises for a finding.
"""

from __future__ import annotations

import struct
import tempfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from google.protobuf.message import DecodeError

from pairlens.v1 import explanation_service_pb2, image_service_pb2
from pairlens_server.cache.codec import CorruptValueError, decode, encode
from pairlens_server.command_line import load_settings
from pairlens_server.errors import (
    ConfigurationError,
    ImageTooLargeError,
    ImageUndecodableError,
    PairlensError,
)
from pairlens_server.images.admission import ImageLimits, measure
from pairlens_server.images.admission import decode as decode_picture
from pairlens_server.models.checkpoints import read_checkpoint
from pairlens_server.models.config import load_model_configs
from pairlens_server.rpc.auth import read_grants
from pairlens_server.rpc.caller import Caller
from pairlens_server.rpc.convert_images import read_digests, read_uploads
from pairlens_server.rpc.convert_requests import explain_command, pair_command
from pairlens_server.rpc.convert_scores import embed_command, score_command
from pairlens_server.rpc.convert_warm import warm_command

_LIMITS = ImageLimits(max_bytes=200_000, max_pixels=1_000_000)
_KEY = "pairlens:v1:fuzz"
_LENGTH_AT, _CRC_AT, _HEADER = 12, 20, 24  # as `cache/codec.py` lays a value out


def picture(data: bytes) -> None:
    """A picture decodes to what its header says, or is refused."""
    try:
        sides = measure(data, _LIMITS, "image")
        found = decode_picture(data, _LIMITS, "image")
    except (ImageUndecodableError, ImageTooLargeError):
        return
    assert found.height * found.width <= _LIMITS.max_pixels
    # Turned upright, perhaps.
    assert (found.height, found.width) in (sides, sides[::-1])
    assert found.image.mode == "RGB"
    assert np.asarray(found.image).shape == (found.height, found.width, 3)


def cached(data: bytes) -> None:
    """A value of the cache is one that `encode` writes, or corrupt, also where its CRC is right.

    The first byte says whether its length is set right as well.
    """
    is_long, data = data[:1] > b"\x7f", data[1:]
    if is_long and len(data) >= _HEADER:
        length = max(0, len(data) - _HEADER - 4 * data[7])
        data = data[:_LENGTH_AT] + struct.pack("<Q", length) + data[_CRC_AT:]
    if len(data) >= _HEADER:
        rest = zlib.crc32(data[:_CRC_AT], zlib.crc32(_KEY.encode()))
        checksum = struct.pack("<I", zlib.crc32(data[_HEADER:], rest))
        data = data[:_CRC_AT] + checksum + data[_HEADER:]
    try:
        value = decode(_KEY, data)
    except CorruptValueError:
        return
    assert encode(_KEY, value) == data


def checkpoint(data: bytes) -> None:
    """A checkpoint holds tensors, or is refused; the first byte says of which format it is."""
    suffix = (".safetensors", ".pth")[data[0] % 2 if data else 0]
    with tempfile.NamedTemporaryFile(suffix=suffix) as file:
        file.write(data[1:])
        file.flush()
        try:
            state = read_checkpoint(Path(file.name))
        except ConfigurationError as error:
            _is_one_line(error)
            return
    assert state
    # Read, each of them: what lies outside of the file would end the process.
    for tensor in state.values():
        if tensor.layout is torch.strided and tensor.numel() < 2**20:
            tensor.clone()


def tokens(data: bytes) -> None:
    """A tokens file."""
    try:
        grants = read_grants(data, "tokens.yaml")
    except ConfigurationError as error:
        _is_one_line(error)
        return
    assert all(grant.name and len(grant.digest) == 32 for grant in grants)


def models_file(data: bytes) -> None:
    """A models file."""
    with tempfile.NamedTemporaryFile(suffix=".yaml") as file:
        file.write(data)
        file.flush()
        try:
            assert load_model_configs(Path(file.name))
        except ConfigurationError as error:
            _is_one_line(error)


def config_file(data: bytes) -> None:
    """A file of settings."""
    with tempfile.NamedTemporaryFile(suffix=".yaml") as file:
        file.write(data)
        file.flush()
        try:
            load_settings({}, file.name)
        except ConfigurationError as error:
            _is_one_line(error)


# What each RPC's request becomes.
COMMANDS: tuple[tuple[Any, Callable[[Any], object]], ...] = (
    (explanation_service_pb2.ExplainRequest, lambda r: explain_command(r, Caller())),
    (explanation_service_pb2.PairSimilarityRequest, lambda r: pair_command(r, Caller())),
    (explanation_service_pb2.ScoreSaliencyRequest, lambda r: score_command(r, Caller())),
    (explanation_service_pb2.EmbedRequest, lambda r: embed_command(r, Caller())),
    (explanation_service_pb2.WarmRequest, lambda r: warm_command(r, Caller())),
    (image_service_pb2.UploadImagesRequest, read_uploads),
    (image_service_pb2.FindMissingImagesRequest, lambda r: read_digests(r.digests, "digests")),
)


def request(data: bytes) -> None:
    """A request becomes a command, or is refused; the first byte says of which RPC it is."""
    kind, read = COMMANDS[data[0] % len(COMMANDS) if data else 0]
    try:
        message = kind.FromString(data[1:])
    except DecodeError:
        return
    # Its base alone stands for a bug.
    with suppress(*PairlensError.__subclasses__()):
        read(message)


def _is_one_line(error: ConfigurationError) -> None:
    text = str(error)
    assert text
    assert len(text.splitlines()) == 1, text


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (picture, cached, checkpoint, tokens, models_file, config_file, request)
}
