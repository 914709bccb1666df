"""The contract may grow, but not change: old peers are still out there."""

import pytest
from google.protobuf import descriptor_pb2

from pairlens.v1 import model_service_pb2
from tests.compat import descriptors
from tests.compat.breaking import breaking_changes
from tests.compat.descriptors import FileSet
from tests.compat.dynamic import Contract, known

Field = descriptor_pb2.FieldDescriptorProto


def test_there_are_released_contracts():
    assert descriptors.frozen()


def test_nothing_that_was_there_has_changed(older: FileSet):
    assert breaking_changes(older, descriptors.today()) == []


def test_old_peers_know_nothing_newer(older: FileSet):
    """What the tests of this folder rely on: newer fields do not get through."""
    contract = Contract(older)
    (list_models,) = [rpc for rpc in contract.rpcs() if rpc.name == "ListModels"]
    model = model_service_pb2.ModelInfo(name="vit", classes=5)
    newer = b"\xfa\x7f\x03new"  # field 2047, three bytes
    answer = b"\x0a" + bytes([model.ByteSize() + len(newer)]) + model.SerializeToString() + newer
    response = model_service_pb2.ListModelsResponse
    assert answer == response.FromString(answer).SerializeToString()
    left = known(answer, list_models.response)
    assert left == response(models=[model]).SerializeToString()


SOURCE = FileSet()
_file = SOURCE.file.add(name="pairlens/v1/x.proto", package="pairlens.v1", syntax="proto3")
_message = _file.message_type.add(name="Thing")
_message.field.add(name="size", number=1, type=Field.TYPE_INT32, label=Field.LABEL_OPTIONAL)
_message.field.add(
    name="kind",
    number=2,
    type=Field.TYPE_ENUM,
    type_name=".pairlens.v1.Kind",
    label=Field.LABEL_OPTIONAL,
)
_message.oneof_decl.add(name="what")
for _number, _name in ((3, "text"), (4, "data")):
    _message.field.add(
        name=_name,
        number=_number,
        type=Field.TYPE_BYTES,
        label=Field.LABEL_OPTIONAL,
        oneof_index=0,
    )
_message.reserved_range.add(start=9, end=10)
_enum = _file.enum_type.add(name="Kind")
_enum.value.add(name="KIND_UNSPECIFIED", number=0)
_enum.value.add(name="KIND_BIG", number=1)
_service = _file.service.add(name="ThingService")
_service.method.add(
    name="GetThing", input_type=".pairlens.v1.Thing", output_type=".pairlens.v1.Thing"
)


def message(files: FileSet) -> descriptor_pb2.DescriptorProto:
    return files.file[0].message_type[0]


def remove(files: FileSet, index: int, *, number: bool, name: bool) -> None:
    thing = message(files)
    gone = thing.field[index]
    if number:
        thing.reserved_range.add(start=gone.number, end=gone.number + 1)
    if name:
        thing.reserved_name.append(gone.name)
    del thing.field[index]


def remove_value(files: FileSet, *, number: bool, name: bool) -> None:
    enum = files.file[0].enum_type[0]
    if number:
        enum.reserved_range.add(start=1, end=1)
    if name:
        enum.reserved_name.append("KIND_BIG")
    del enum.value[1]


def rename(files: FileSet) -> None:
    message(files).field[0].name = "length"


def renumber(files: FileSet) -> None:
    message(files).field[0].number = 7


def retype(files: FileSet) -> None:
    message(files).field[0].type = Field.TYPE_INT64


def other_enum(files: FileSet) -> None:
    message(files).field[1].type_name = ".pairlens.v1.Other"


def repeat(files: FileSet) -> None:
    message(files).field[0].label = Field.LABEL_REPEATED


def make_optional(files: FileSet) -> None:
    message(files).field[0].proto3_optional = True


def leave_choice(files: FileSet) -> None:
    message(files).field[2].ClearField("oneof_index")


def take_reserved(files: FileSet) -> None:
    message(files).field.add(
        name="new", number=9, type=Field.TYPE_INT32, label=Field.LABEL_OPTIONAL
    )


def renumber_value(files: FileSet) -> None:
    files.file[0].enum_type[0].value[1].number = 2


def rename_value(files: FileSet) -> None:
    files.file[0].enum_type[0].value[1].name = "KIND_LARGE"


def drop_message(files: FileSet) -> None:
    del files.file[0].message_type[0]


def drop_enum(files: FileSet) -> None:
    del files.file[0].enum_type[0]


def drop_call(files: FileSet) -> None:
    del files.file[0].service[0].method[0]


def drop_service(files: FileSet) -> None:
    del files.file[0].service[0]


def stream(files: FileSet) -> None:
    files.file[0].service[0].method[0].server_streaming = True


def other_answer(files: FileSet) -> None:
    files.file[0].service[0].method[0].output_type = ".pairlens.v1.Other"


BREAKING = {
    rename: ".Thing.size: name was 'size', now 'length'",
    renumber: ".Thing.size: removed or renumbered, and 1 is not reserved",
    retype: ".Thing.size: type was 5, now 3",
    other_enum: ".Thing.kind: type_name was '.pairlens.v1.Kind', now '.pairlens.v1.Other'",
    repeat: ".Thing.size: label was 1, now 3",
    make_optional: ".Thing.size: proto3_optional was False, now True",
    leave_choice: ".Thing.text: oneof was 'what', now ''",
    take_reserved: ".Thing.new: takes the reserved number 9",
    renumber_value: ".Kind.KIND_BIG: number was 1, now 2",
    rename_value: ".Kind.KIND_BIG: removed or renamed, and 1 is not reserved",
    drop_message: ".Thing: the message is gone",
    drop_enum: ".Kind: the enum is gone",
    drop_call: ".ThingService.GetThing: the call is gone",
    drop_service: ".ThingService: the service is gone",
    stream: ".ThingService.GetThing: server_streaming was False, now True",
    other_answer: ".ThingService.GetThing: output_type was '.pairlens.v1.Thing', "
    "now '.pairlens.v1.Other'",
    lambda files: remove(files, 0, number=False, name=True): ".Thing.size: removed or renumbered, "
    "and 1 is not reserved",
    lambda files: remove(files, 0, number=True, name=False): ".Thing.size: removed, "
    "and its name is not reserved",
    lambda files: remove_value(files, number=False, name=True): ".Kind.KIND_BIG: removed or "
    "renamed, and 1 is not reserved",
    lambda files: remove_value(files, number=True, name=False): ".Kind.KIND_BIG: removed, "
    "and its name is not reserved",
}


@pytest.mark.parametrize("change", BREAKING, ids=lambda change: BREAKING[change].lstrip("."))
def test_changes_that_break(change):
    new = FileSet.FromString(SOURCE.SerializeToString())
    change(new)
    assert breaking_changes(SOURCE, new) == [f"pairlens.v1{BREAKING[change]}"]


def grow(files: FileSet) -> None:
    message(files).field.add(
        name="new", number=20, type=Field.TYPE_INT32, label=Field.LABEL_OPTIONAL
    )
    files.file[0].enum_type[0].value.add(name="KIND_NEW", number=5)
    files.file[0].message_type.add(name="Other")
    files.file[0].service[0].method.add(
        name="ListThings", input_type=".pairlens.v1.Other", output_type=".pairlens.v1.Other"
    )


@pytest.mark.parametrize(
    "change",
    [
        grow,
        lambda files: remove(files, 0, number=True, name=True),
        lambda files: remove_value(files, number=True, name=True),
    ],
    ids=["additions", "a field that is reserved", "a value that is reserved"],
)
def test_changes_that_do_not(change):
    new = FileSet.FromString(SOURCE.SerializeToString())
    change(new)
    assert breaking_changes(SOURCE, new) == []
