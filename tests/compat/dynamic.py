"""Messages and calls of a contract that is given as descriptors, in a pool of its own.

No stub is involved, so that what speaks through this knows the contract that it was given and
nothing newer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message

from tests.compat.descriptors import FileSet, own_files


@dataclass(frozen=True)
class Rpc:
    """One call of a contract.

    Attributes:
        service: Full name.
        name: Of the call.
        request: Its class.
        response: Its class.
    """

    service: str
    name: str
    request: type[Message]
    response: type[Message]

    @property
    def path(self) -> str:
        """As it stands in a request."""
        return f"/{self.service}/{self.name}"


class Contract:
    """The classes of a contract."""

    def __init__(self, files: FileSet) -> None:
        self._pool = descriptor_pool.DescriptorPool()
        for file in files.file:
            self._pool.Add(file)
        self._own = [file.name for file in own_files(files)]

    def rpcs(self) -> Iterator[Rpc]:
        """All calls."""
        for name in self._own:
            for service in self._pool.FindFileByName(name).services_by_name.values():
                for method in service.methods:
                    yield Rpc(
                        service.full_name,
                        method.name,
                        message_factory.GetMessageClass(method.input_type),
                        message_factory.GetMessageClass(method.output_type),
                    )


def known(data: bytes, kind: type[Message]) -> bytes:
    """The part of an encoded message that a contract knows."""
    message = kind.FromString(data)
    message.DiscardUnknownFields()
    return message.SerializeToString()
