"""Sets from files: made-up tiny ones for every path and error, the real ones where they are."""

import gzip
import struct

import numpy as np
import pytest

from jaxrobust import data

EPS = float(np.finfo(np.float32).eps)
IDX_NAMES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


@pytest.fixture
def arrays():
    """Five training and three test images of 4x3 pixels."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (n, 4, 3), dtype=np.uint8) for n in (5, 3)]
    labels = [np.array([3, 0, 9, 1, 1], np.uint8), np.array([7, 7, 2], np.uint8)]
    return {"x_train": images[0], "y_train": labels[0], "x_test": images[1], "y_test": labels[1]}


def idx_bytes(array):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


def write_idx(folder, arrays, *, zipped=True, dot=False):
    folder.mkdir(parents=True, exist_ok=True)
    for role, name in IDX_NAMES.items():
        name = name.replace("-idx", ".idx") if dot else name
        raw = idx_bytes(arrays[role])
        (folder / (name + ".gz" * zipped)).write_bytes(gzip.compress(raw) if zipped else raw)
    return folder


def assert_is(dataset, arrays):
    for array, role in zip(dataset[:4], IDX_NAMES, strict=True):
        if role.startswith("y"):
            np.testing.assert_array_equal(array, arrays[role])
            assert array.dtype == np.int32
            continue
        expected = arrays[role].astype(np.float64) / 255
        expected = expected[..., None] if expected.ndim == 3 else expected
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, expected, rtol=EPS)


# MNIST ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("dot", [True, False])
def test_mnist_reads_idx_files(tmp_path, arrays, zipped, dot):
    dataset = data.mnist(write_idx(tmp_path, arrays, zipped=zipped, dot=dot))
    assert_is(dataset, arrays)
    assert dataset.info.feature_shape == (4, 3, 1)
    assert dataset.info.class_names == tuple("0123456789")
    assert dataset.info.source == f"idx files in {tmp_path}"


def test_mnist_reads_npz(tmp_path, arrays):
    np.savez(tmp_path / "mnist.npz", **arrays)
    dataset = data.mnist(str(tmp_path))
    assert_is(dataset, arrays)
    assert dataset.info.source == f"npz files in {tmp_path}"


def test_the_argument_beats_the_environment_beats_nothing(tmp_path, arrays, monkeypatch):
    other = {role: array[::-1] for role, array in arrays.items()}
    write_idx(tmp_path / "given" / "mnist", arrays)
    write_idx(tmp_path / "environment" / "mnist", other)
    monkeypatch.setenv("JAXROBUST_DATA", str(tmp_path / "environment"))
    assert_is(data.mnist(tmp_path / "given"), arrays)
    assert_is(data.mnist(tmp_path / "given" / "mnist"), arrays)
    assert_is(data.mnist(), other)


def test_the_environment_may_name_the_folder_of_the_files(tmp_path, arrays, monkeypatch):
    monkeypatch.setenv("JAXROBUST_DATA", str(write_idx(tmp_path, arrays)))
    assert_is(data.mnist(), arrays)


def test_the_subfolder_comes_before_the_folder(tmp_path, arrays, monkeypatch):
    other = {role: array[::-1] for role, array in arrays.items()}
    write_idx(write_idx(tmp_path, other) / "mnist", arrays)
    monkeypatch.setenv("JAXROBUST_DATA", str(tmp_path))
    assert_is(data.mnist(), arrays)


@pytest.mark.parametrize(("load", "name"), [(data.mnist, "mnist"), (data.cifar10, "cifar10")])
def test_nothing_found_says_where_and_how(tmp_path, monkeypatch, load, name):
    monkeypatch.setenv("JAXROBUST_DATA", str(tmp_path))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "elsewhere"))
    with pytest.raises(FileNotFoundError) as caught:
        load()
    message = str(caught.value)
    for part in (
        "was not found (synthetic data are never used instead)",
        f"environment variable JAXROBUST_DATA: {tmp_path / name}\n",
        f"environment variable JAXROBUST_DATA: {tmp_path}\n",
        f"tensorflow-datasets: {tmp_path / 'tfds' / name}/<version>/",
        f"tensorflow-datasets: {tmp_path / 'elsewhere' / name}/<version>/",
        'pip install "jaxrobust[data]" tensorflow',
        "importlib_resources",
        f"tfds.builder('{name}', file_format='array_record').download_and_prepare()",
        "Pillow",
        f"put it as {name}/ into a folder that the environment variable JAXROBUST_DATA names",
    ):
        assert part in message
    names = [f"{file}.gz" for file in IDX_NAMES.values()] if name == "mnist" else []
    for file in names or ["cifar10_train.npz", "cifar10_test_10k.npz", "data_batch_3.bin"]:
        assert file in message


def test_nothing_set_is_said(monkeypatch):
    with pytest.raises(FileNotFoundError, match="JAXROBUST_DATA: not set") as caught:
        data.mnist()
    assert "argument path: not given" in str(caught.value)


def test_a_given_folder_without_the_files_is_an_error_at_once(tmp_path, arrays, monkeypatch):
    monkeypatch.setenv("JAXROBUST_DATA", str(write_idx(tmp_path / "environment", arrays)))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FileNotFoundError, match=f"argument path: {empty}") as caught:
        data.mnist(empty)
    assert "environment variable JAXROBUST_DATA:" not in str(caught.value)
    assert "tensorflow-datasets: " not in str(caught.value)


@pytest.mark.parametrize("load", [data.mnist, data.cifar10, data.khan])
def test_folders_that_do_not_exist_are_errors(tmp_path, monkeypatch, load):
    with pytest.raises(FileNotFoundError, match="path must be an existing folder, got .*nowhere"):
        load(tmp_path / "nowhere")
    monkeypatch.setenv("JAXROBUST_DATA", str(tmp_path / "misspelt"))
    with pytest.raises(FileNotFoundError, match="JAXROBUST_DATA names no folder: .*misspelt"):
        load()


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_a_part_of_the_files_is_an_error(tmp_path, arrays, monkeypatch, by):
    (write_idx(tmp_path, arrays) / "t10k-labels-idx1-ubyte.gz").unlink()
    monkeypatch.setenv("JAXROBUST_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="holds a part of the idx files") as caught:
        data.mnist(tmp_path if by == "argument" else None)
    assert "missing: t10k-labels-idx1-ubyte.gz or t10k-labels-idx1-ubyte or" in str(caught.value)
    assert "train-images" not in str(caught.value)


def test_path_and_data_dir_exclude_each_other(tmp_path):
    with pytest.raises(ValueError, match="path and data_dir exclude each other"):
        data.mnist(tmp_path, data_dir=tmp_path)


def damage(raw, how):
    if how == "truncated":
        return raw[:-7]
    if how == "header only":
        return raw[:10]
    if how == "too long":
        return raw + b"\0"
    if how == "wrong magic":
        return b"\0\0\x0d" + raw[3:]
    return b""


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", r"train-images-idx3-ubyte is truncated: 69 bytes, its header says 76"),
        ("header only", "train-images-idx3-ubyte is truncated: 10 bytes, its header alone has 16"),
        ("too long", "is too long: 77 bytes, its header says 76"),
        ("wrong magic", r"is no idx file of uint8: .* got \[0, 0, 13, 3\]"),
        ("empty", r"is no idx file of uint8: .* got \[\]"),
    ],
)
def test_damaged_idx_files_are_errors(tmp_path, arrays, how, message):
    write_idx(tmp_path, arrays, zipped=False)
    path = tmp_path / IDX_NAMES["x_train"]
    path.write_bytes(damage(path.read_bytes(), how))
    with pytest.raises(ValueError, match=message):
        data.mnist(tmp_path)


@pytest.mark.parametrize("position", [-5, 30])
def test_damaged_gzip_is_an_error(tmp_path, arrays, position):
    write_idx(tmp_path, arrays)
    path = tmp_path / f"{IDX_NAMES['x_test']}.gz"
    raw = bytearray(path.read_bytes())
    raw[position] ^= 0xFF
    path.write_bytes(bytes(raw))
    with pytest.raises(ValueError, match="t10k-images-idx3-ubyte.gz is truncated or damaged"):
        data.mnist(tmp_path)
    path.write_bytes(bytes(raw[: len(raw) // 2]))
    with pytest.raises(ValueError, match="t10k-images-idx3-ubyte.gz is truncated or damaged"):
        data.mnist(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_train": np.zeros((5, 1), np.uint8)}, r"must have 1 axes, got shape \(5, 1\)"),
        ({"x_train": np.zeros((5, 12), np.uint8)}, r"must have 3 axes, got shape \(5, 12\)"),
        ({"y_train": np.zeros(4, np.uint8)}, "x_train and y_train must have equal lengths"),
        (
            {"y_test": np.array([1, 2, 13], np.uint8)},
            r"labels-idx1-ubyte.gz: labels .* 0\.\.9, got 13",
        ),
    ],
)
def test_idx_files_that_do_not_fit_are_errors(tmp_path, arrays, change, message):
    with pytest.raises(ValueError, match=message):
        data.mnist(write_idx(tmp_path, {**arrays, **change}))


def test_bad_npz_files_are_errors(tmp_path, arrays):
    path = tmp_path / "mnist.npz"
    np.savez(path, x_train=arrays["x_train"])
    with pytest.raises(ValueError, match=r"missing: \['y_train', 'x_test', 'y_test'\]"):
        data.mnist(tmp_path)
    np.savez(path, **{**arrays, "y_test": np.array([1, None, "x"], object)})
    with pytest.raises(ValueError, match="cannot be read as npz"):
        data.mnist(tmp_path)
    np.savez(path, **{**arrays, "x_train": arrays["x_train"] / 255})
    with pytest.raises(ValueError, match="mnist.npz: x_train: images must be uint8, got float64"):
        data.mnist(tmp_path)
    np.savez(path, **arrays)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match="is truncated or no npz file"):
        data.mnist(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_test": np.zeros((3, 784), np.uint8)}, r"x_test: images must .* 1\), got \(3, 784\)"),
        ({"x_train": np.zeros((5, 4, 3, 3), np.uint8)}, "x_train: images must have shape"),
        ({"y_train": np.full(5, 0.5)}, "y_train: labels must be .* whole numbers, got float64"),
        (
            {"y_train": np.zeros((5, 1), int)},
            r"y_train: labels must .* got int64 of shape \(5, 1\)",
        ),
        ({"y_train": np.full(5, 10)}, r"y_train: labels must be in 0\.\.9, got 10"),
        ({"y_test": np.full(3, -1)}, r"y_test: labels must be in 0\.\.9, got -1"),
        ({"y_train": np.full(4, 1)}, "x_train and y_train must have equal lengths"),
    ],
)
def test_npz_files_of_wrong_arrays_are_errors(tmp_path, arrays, change, message):
    np.savez(tmp_path / "mnist.npz", **{**arrays, **change})
    with pytest.raises(ValueError, match=f"{tmp_path}.*: {message}"):
        data.mnist(tmp_path)


def test_a_flipped_byte_in_an_npz_file_is_an_error(tmp_path, arrays):
    path = tmp_path / "mnist.npz"
    np.savez(path, **arrays)
    raw = path.read_bytes()
    start = raw.index(arrays["x_train"].tobytes())
    path.write_bytes(raw[:start] + bytes([raw[start] ^ 1]) + raw[start + 1 :])
    with pytest.raises(ValueError, match="cannot be read as npz: .*CRC"):
        data.mnist(tmp_path)


# CIFAR-10 ---------------------------------------------------------------------------------------


@pytest.fixture
def colours():
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, 12, dtype=np.uint8)
    parts = images[:10], labels[:10], images[10:], labels[10:]
    return dict(zip(IDX_NAMES, parts, strict=True))


@pytest.mark.parametrize("names", [("train", "test"), ("train_10k_stratified_seed0", "test_10k")])
def test_cifar10_reads_npz(tmp_path, colours, names):
    for part, name in zip(("train", "test"), names, strict=True):
        arrays = {"images": colours[f"x_{part}"], "labels": colours[f"y_{part}"]}
        np.savez(tmp_path / f"cifar10_{name}.npz", **arrays)
    dataset = data.cifar10(tmp_path)
    assert_is(dataset, colours)
    assert dataset.info.feature_shape == (32, 32, 3)
    assert dataset.info.class_names[3] == "cat"
    assert "training set: 10 of 50000 images" in dataset.info.notes


@pytest.mark.parametrize("subfolder", ["", "cifar-10-batches-bin"])
def test_cifar10_reads_the_binary_version(tmp_path, colours, subfolder):
    folder = tmp_path / subfolder
    folder.mkdir(exist_ok=True)

    def write(name, images, labels):
        planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        (folder / name).write_bytes(np.concatenate([labels[:, None], planes], axis=1).tobytes())

    for number in range(5):
        rows = slice(2 * number, 2 * number + 2)
        write(f"data_batch_{number + 1}.bin", colours["x_train"][rows], colours["y_train"][rows])
    write("test_batch.bin", colours["x_test"], colours["y_test"])
    assert_is(data.cifar10(tmp_path), colours)
    path = folder / "data_batch_2.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="data_batch_2.bin is damaged: 6145 bytes"):
        data.cifar10(tmp_path)


def test_cifar10_test_without_train_is_an_error(tmp_path, colours):
    np.savez(tmp_path / "cifar10_test.npz", images=colours["x_test"], labels=colours["y_test"])
    with pytest.raises(FileNotFoundError, match="missing: cifar10_train.npz or cifar10_train_10k"):
        data.cifar10(tmp_path)


# The real sets ----------------------------------------------------------------------------------


@pytest.mark.data("mnist")
def test_the_real_mnist(data_dir):
    dataset = data.mnist(data_dir)
    assert dataset.x_train.shape == (60_000, 28, 28, 1)
    assert dataset.x_test.shape == (10_000, 28, 28, 1)
    np.testing.assert_array_equal(dataset.y_train[:5], [5, 0, 4, 1, 9])
    np.testing.assert_array_equal(
        np.bincount(dataset.y_test), [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    )
    # The canonical mean and standard deviation of the training pixels.
    x = np.asarray(dataset.x_train)
    np.testing.assert_allclose(x.mean(dtype=np.float64), 0.1307, atol=5e-5)
    np.testing.assert_allclose(x.std(dtype=np.float64), 0.3081, atol=5e-5)


@pytest.mark.data("cifar10")
def test_the_real_cifar10(data_dir):
    dataset = data.cifar10()
    assert dataset.x_test.shape == (10_000, 32, 32, 3)
    np.testing.assert_array_equal(np.bincount(dataset.y_test), [1000] * 10)
    assert dataset.info.source.endswith(str(data_dir / "cifar10"))
    few = data.subset(dataset, 100, 50)
    np.testing.assert_array_equal(np.bincount(few.y_train), [10] * 10)
