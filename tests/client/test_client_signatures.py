"""`Client` and `AsyncClient` are one interface, and look it: to help(), to editors, to tools."""

import inspect

import pytest

from pairlens import AsyncClient, Client, _calls
from pairlens._base import ClientBase

OWN = {"close", "target", "name"}


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


CALLS = sorted(public(_calls.Calls))
MANY = ["explain_many", "pair_many"]


def test_both_have_all_calls_and_nothing_else():
    assert public(Client) == public(AsyncClient) == {*CALLS, *OWN}
    assert len(CALLS) == 15


@pytest.mark.parametrize("name", CALLS)
def test_a_call_has_one_signature_and_one_docstring(name: str):
    blocking, awaiting = getattr(Client, name), getattr(AsyncClient, name)
    one, other = inspect.signature(blocking), inspect.signature(awaiting)
    assert one.parameters == other.parameters
    assert blocking.__doc__ == awaiting.__doc__
    assert len(blocking.__doc__) > 40
    for client, method in ((Client, blocking), (AsyncClient, awaiting)):
        assert inspect.isfunction(method)
        assert (method.__name__, method.__qualname__) == (name, f"{client.__name__}.{name}")
    # Every parameter but self and those of a method has a line in the docstring.
    for parameter in list(one.parameters)[1:]:
        assert f"{parameter}:" in blocking.__doc__, parameter


@pytest.mark.parametrize("name", sorted(set(CALLS) - set(MANY)))
def test_a_call_is_awaited_for_what_the_other_returns(name: str):
    blocking, awaiting = getattr(Client, name), getattr(AsyncClient, name)
    assert not inspect.iscoroutinefunction(blocking)
    assert inspect.iscoroutinefunction(awaiting)
    returned = inspect.signature(blocking).return_annotation
    assert returned == inspect.signature(awaiting).return_annotation
    assert blocking.__annotations__["return"] == awaiting.__annotations__["return"] == returned
    assert returned == inspect.signature(getattr(_calls.Calls, name)).return_annotation[6:-1]


@pytest.mark.parametrize("name", MANY)
def test_many_are_iterated_in_either_way(name: str):
    result = {"explain_many": "Explanation", "pair_many": "PairResults"}[name]
    one, other = (
        inspect.signature(getattr(Client, name)),
        inspect.signature(getattr(AsyncClient, name)),
    )
    assert one.return_annotation == f"Generator[Item[{result}], None, None]"
    assert other.return_annotation == f"AsyncGenerator[Item[{result}], None]"


def test_the_constructor_is_the_same():
    assert Client.__init__ is AsyncClient.__init__ is ClientBase.__init__
    assert list(inspect.signature(Client).parameters) == [
        *("target", "timeout", "max_message_bytes", "name", "cache"),
        *("tls", "token", "token_over_plaintext"),
    ]
