"""Sets prepared by tensorflow-datasets: found, read without TensorFlow, cached; the errors."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxrobust import data
from jaxrobust.data import _tfds

ROOT = Path(__file__).parents[2]
needs_tfds = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_datasets") is None, reason="no tensorflow-datasets"
)


def pretend(data_dir, name="mnist", version="3.0.1", file_format="array_record"):
    """The folder of a prepared set, without records; the mock makes those up."""
    folder = data_dir / name / version
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text(json.dumps({"fileFormat": file_format}))
    return data_dir


@pytest.fixture
def mock():
    tfds = pytest.importorskip("tensorflow_datasets")
    with tfds.testing.mock_data(num_examples=8):
        yield


@pytest.mark.usefixtures("mock")
@pytest.mark.parametrize(
    ("load", "name", "version", "shape"),
    [(data.mnist, "mnist", "3.0.1", (28, 28, 1)), (data.cifar10, "cifar10", "3.0.2", (32, 32, 3))],
)
def test_a_prepared_set_is_read(tmp_path, load, name, version, shape):
    dataset = load(data_dir=pretend(tmp_path, name, version))
    assert dataset.x_train.shape == dataset.x_test.shape == (8, *shape)
    assert dataset.x_train.dtype == np.float32
    assert dataset.y_train.dtype == np.int32
    assert float(dataset.x_train.max()) <= 1
    assert dataset.info.source == f"TFDS {tmp_path / name / version}"


@pytest.mark.usefixtures("mock")
@pytest.mark.parametrize("where", ["JAXROBUST_DATA", "TFDS_DATA_DIR"])
def test_the_environment_leads_to_a_prepared_set(tmp_path, monkeypatch, where):
    pretend(tmp_path / "tfds")
    monkeypatch.setenv(where, str(tmp_path if where == "JAXROBUST_DATA" else tmp_path / "tfds"))
    assert data.mnist().info.source == f"TFDS {tmp_path / 'tfds' / 'mnist' / '3.0.1'}"


def test_the_newest_version_is_taken(tmp_path):
    for version in ("1.0.0", "2.9.1", "2.10.0"):
        pretend(tmp_path, version=version)
    (tmp_path / "mnist" / "9.0.0").mkdir()  # not prepared: no dataset_info.json
    assert _tfds.prepared("mnist", [tmp_path]) == tmp_path / "mnist" / "2.10.0"


def test_the_environments_folder_comes_before_the_default(tmp_path, monkeypatch):
    """As the documentation has it, also where both have the set."""
    for name in ("tfds", "default"):
        store(tmp_path, pretend(tmp_path / name), 1)
    monkeypatch.setenv("JAXROBUST_DATA", str(tmp_path))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "default"))
    source = data.mnist(cache_dir=tmp_path).info.source
    assert source == f"TFDS {tmp_path / 'tfds' / 'mnist' / '3.0.1'}"


@pytest.mark.usefixtures("mock")
def test_files_come_before_a_prepared_set(tmp_path, monkeypatch):
    pretend(tmp_path / "tfds")
    x, y = np.zeros((2, 4, 4), np.uint8), np.zeros(2, np.uint8)
    np.savez(tmp_path / "mnist.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    monkeypatch.setenv("JAXROBUST_DATA", str(tmp_path))
    assert data.mnist().info.source == f"npz files in {tmp_path}"
    # An argument beats the environment.
    assert data.mnist(data_dir=tmp_path / "tfds").info.source.startswith("TFDS")


def test_the_cache_is_written_once_and_read(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    folder, cache = pretend(tmp_path / "tfds"), tmp_path / "deep" / "cache"
    with tfds.testing.mock_data(num_examples=8):
        first = data.mnist(data_dir=folder, cache_dir=cache)
    (file,) = cache.iterdir()
    assert file.match("mnist-3.0.1-*.npz")
    with np.load(file) as stored:
        assert stored["x_train"].dtype == np.uint8
    # Without the mock there is nothing to read but the cache.
    again = data.mnist(data_dir=folder, cache_dir=cache)
    for array, other in zip(first[:4], again[:4], strict=True):
        np.testing.assert_array_equal(array, other)


def store(cache, data_dir, label):
    """A cache of the set in ``data_dir`` whose labels are all ``label``."""
    x, y = np.zeros((2, 4, 4, 1), np.uint8), np.full(2, label)
    name = _tfds._cache_name(data_dir / "mnist" / "3.0.1")
    np.savez(cache / name, x_train=x, y_train=y, x_test=x, y_test=y)


def test_each_folder_has_a_cache_of_its_own(tmp_path):
    for label in (3, 7):
        store(tmp_path, pretend(tmp_path / f"tfds{label}"), label)
    for label in (3, 7):
        dataset = data.mnist(data_dir=tmp_path / f"tfds{label}", cache_dir=tmp_path)
        assert dataset.info.source == f"TFDS {tmp_path / f'tfds{label}' / 'mnist' / '3.0.1'}"
        np.testing.assert_array_equal(dataset.y_train, label)
    # Another way to name a folder is no other folder.
    dataset = data.mnist(data_dir=tmp_path / "tfds7" / ".." / "tfds3", cache_dir=tmp_path)
    np.testing.assert_array_equal(dataset.y_train, 3)


def test_a_cache_of_wrong_labels_is_an_error(tmp_path):
    folder = pretend(tmp_path / "tfds")
    store(tmp_path, folder, 10)
    with pytest.raises(ValueError, match=r"mnist/3.0.1: y_train: labels must be in 0\.\.9, got 10"):
        data.mnist(data_dir=folder, cache_dir=tmp_path)


def test_a_damaged_cache_is_an_error(tmp_path):
    folder = pretend(tmp_path / "tfds")
    (tmp_path / _tfds._cache_name(folder / "mnist" / "3.0.1")).write_bytes(b"PK")
    with pytest.raises(ValueError, match="mnist-3.0.1-.*.npz is truncated or no npz file"):
        data.mnist(data_dir=folder, cache_dir=tmp_path)


def test_a_cache_that_cannot_be_written_is_an_error_before_the_set_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(_tfds, "_split", lambda *_: pytest.fail("records were read"))
    folder = pretend(tmp_path / "tfds")
    (tmp_path / "file").write_text("")
    for cache_dir in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(
            OSError, match=f"cache_dir must be a folder to write to, got {cache_dir}"
        ):
            data.mnist(data_dir=folder, cache_dir=cache_dir)

    def refuse(dir):
        raise PermissionError("no")

    # By itself: for a root user no folder is read-only.
    monkeypatch.setattr(_tfds.tempfile, "TemporaryFile", refuse)
    with pytest.raises(OSError, match="cache_dir must be a folder to write to"):
        data.mnist(data_dir=folder, cache_dir=tmp_path / "cache")


def test_a_given_data_dir_without_the_set_is_an_error_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(pretend(tmp_path / "default")))
    (tmp_path / "given").mkdir()
    with pytest.raises(FileNotFoundError, match="MNIST was not found") as caught:
        data.mnist(data_dir=tmp_path / "given")
    assert f"tensorflow-datasets: {tmp_path / 'given' / 'mnist'}/<version>/" in str(caught.value)
    assert "default" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="data_dir must be an existing folder, got"):
        data.mnist(data_dir=tmp_path / "nowhere")


def test_a_format_without_random_access_is_an_error(tmp_path):
    pretend(tmp_path, file_format="tfrecord")
    with pytest.raises(ValueError, match="prepared as tfrecord.*file_format='array_record'"):
        data.mnist(data_dir=tmp_path)


def test_a_missing_package_names_the_extra(tmp_path, monkeypatch):
    pretend(tmp_path)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r'tensorflow-datasets.*pip install "jaxrobust\[data\]"'):
        data.mnist(data_dir=tmp_path)


@needs_tfds
def test_a_missing_image_decoder_names_the_extra(tmp_path, monkeypatch):
    pretend(tmp_path)
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r'needs Pillow.*pip install "jaxrobust\[data\]"'):
        data.mnist(data_dir=tmp_path)


def run_where_tensorflow_fails(tmp_path, code):
    """Runs the code in a process in which TensorFlow can be found, but not be imported."""
    decoy = tmp_path / "decoy" / "tensorflow"
    decoy.mkdir(parents=True)
    (decoy / "__init__.py").write_text("raise SystemExit('TensorFlow was imported')")
    path = os.pathsep.join([str(decoy.parent), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path}
    code += "\nimport sys; assert 'tensorflow' not in sys.modules; print('read')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("read")


@needs_tfds
def test_reading_does_not_import_tensorflow(tmp_path):
    folder = pretend(tmp_path / "tfds")
    run_where_tensorflow_fails(
        tmp_path,
        "import tensorflow_datasets as tfds\n"
        "from jaxrobust import data\n"
        "with tfds.testing.mock_data(num_examples=4):\n"
        f"    assert data.mnist(data_dir={str(folder)!r}).x_train.shape == (4, 28, 28, 1)",
    )


@needs_tfds
@pytest.mark.slow
@pytest.mark.data("tfds/mnist", "mnist")
def test_the_real_prepared_mnist_is_that_of_the_files(tmp_path, data_dir):
    """70,000 records. tensorflow-datasets shuffles them, so what is compared is sorted."""
    run_where_tensorflow_fails(
        tmp_path,
        "from jaxrobust import data\n"
        f"data.mnist(data_dir={str(data_dir / 'tfds')!r}, cache_dir={str(tmp_path)!r})",
    )
    prepared = data.mnist(data_dir=data_dir / "tfds", cache_dir=tmp_path)
    files = data.mnist(data_dir)
    for x, y, x_other, y_other in ((*prepared[:2], *files[:2]), (*prepared[2:4], *files[2:4])):
        np.testing.assert_array_equal(sorted_rows(x, y), sorted_rows(x_other, y_other))


def sorted_rows(x, y):
    pixels = np.rint(np.asarray(x).reshape(len(x), -1) * 255).astype(np.uint8)
    rows = np.concatenate([pixels, np.asarray(y, np.uint8)[:, None]], axis=1)
    return np.sort(np.ascontiguousarray(rows).view(f"V{rows.shape[1]}").astype(object).ravel())
