"""The interface holds what its document says, under hundreds of drawn requests; `make fuzz` draws thousands."""

from uuid import uuid4

import pytest

from tests.security.fuzz import attack, served

pytestmark = [pytest.mark.extended, pytest.mark.long]


@pytest.mark.timeout(600)
def test_schemathesis_finds_nothing(mongodb_uri, mongo, tmp_path):
    name = f"test_{uuid4().hex}"
    with served({"MONGODB_URI": mongodb_uri, "MONGODB_DATABASE": name}, tmp_path) as port:
        well, cases, told = attack(port, tmp_path, examples=15, seed=1)
    mongo.drop_database(name)
    assert well, told
    assert cases >= 300, told
    assert "Traceback" not in (tmp_path / "log").read_text()
