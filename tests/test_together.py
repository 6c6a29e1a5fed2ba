"""What `make test` promises: the tests of a file run in one worker, in their order."""

import pytest

seen: list[str] = []


@pytest.mark.parametrize("nth", range(6))
def test_the_tests_of_a_file_stay_together(request: pytest.FixtureRequest, nth: int) -> None:
    here = [item.name for item in request.session.items if item.path == request.path]

    assert seen == here[: here.index(request.node.name)]
    seen.append(request.node.name)
