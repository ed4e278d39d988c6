"""The API against its own description: whatever fits it, or nearly, is answered as it says; FUZZ=100 for long."""

from __future__ import annotations

import pytest
from fuzzing import FUZZ
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from service_server import Server, shared_server

schemathesis = pytest.importorskip("schemathesis")

ROUTES = 15  # at least so many are described


@pytest.fixture(scope="module")
def server() -> Server:
    """Local callers have no rates; random bytes are no photo, so nothing that is tried here starts a run."""
    return shared_server().ready()


@st.composite
def possible(draw: st.DrawFn, cases: st.SearchStrategy[object]) -> object:
    """Leave out what Schemathesis fails to judge itself: now and then it puts a file where a name should be."""
    try:
        return draw(cases)
    except ValueError as error:
        if "Unsupported type: 'Binary'" not in str(error):
            raise
        reject()


def test_every_answer_is_as_described(server: Server) -> None:
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks as described

    checks = [
        not_a_server_error, described.status_code_conformance, described.content_type_conformance,
        described.response_schema_conformance, described.response_headers_conformance,
    ]  # fmt: skip
    schema = schemathesis.openapi.from_url(server.address + "/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) >= ROUTES
    modes = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
    tried: set[str] = set()
    for operation in operations:
        cases = possible(st.one_of([operation.as_strategy(mode) for mode in modes]))

        @settings(
            max_examples=8 * FUZZ, deadline=None, database=None, suppress_health_check=list(HealthCheck)
        )
        @given(case=cases)
        def answers(case: object) -> None:
            tried.add(case.operation.label)  # type: ignore[attr-defined]
            case.call_and_validate(checks=checks, timeout=30)  # type: ignore[attr-defined]

        answers()
    assert len(tried) >= ROUTES
    assert server.client.get("/health").status_code == 200
    assert "a request failed" not in server.log.read_text()
