"""What every test of the loaders runs under."""

import pytest


@pytest.fixture(autouse=True)
def _nothing_installed_is_found(request, monkeypatch, tmp_path_factory):
    """No data but what a test makes: neither the environment nor the home folder has any."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("tfds") / "none"))
    if "data_dir" not in request.fixturenames:
        monkeypatch.delenv("JAXROBUST_DATA", raising=False)
