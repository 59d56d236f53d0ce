"""An S3 for the whole session, and how many kills are wanted."""

import os
from collections.abc import Iterator

import pytest

pytest.importorskip("moto", reason="needs moto[server] and s3fs: nox -s tests_cloud")
pytest.importorskip("s3fs", reason="needs moto[server] and s3fs: nox -s tests_cloud")

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
FIGURES = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=6, help="How often the job is killed.")


def pytest_terminal_summary(terminalreporter, config) -> None:
    for line in config.stash.get(FIGURES, []):
        terminalreporter.line(line)


@pytest.fixture
def figures(request) -> list[str]:
    """Lines that are printed at the end."""
    return request.config.stash.setdefault(FIGURES, [])


@pytest.fixture(scope="session")
def server() -> Iterator["object"]:
    import boto3

    from tests.cloud.server import BUCKET, Server

    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        server = Server()
        patch.setenv("AWS_ENDPOINT_URL", server.url)
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield server
        server.close()
