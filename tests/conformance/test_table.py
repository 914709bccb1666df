"""docs/support.md says what the code says."""

from tests.conformance.table import PATH, support_table, uncovered


def test_the_support_table_is_up_to_date():
    assert PATH.read_text(encoding="utf-8") == support_table(), (
        "run python -m tests.conformance.table"
    )


def test_the_support_table_leaves_nothing_out():
    networks, methods = uncovered()
    assert not networks
    assert not methods
