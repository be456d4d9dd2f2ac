"""Pairs and captions: made-up tiny files for every path and error, the real ones where they are."""

import gzip

import numpy as np
import pytest
from scipy import io

from jaxrobust import data

X, Y = np.arange(12.0).reshape(4, 3), np.arange(8.0).reshape(4, 2) / 3


def write_wikipedia(folder, train="t\ti\t6\nt\ti\t10\nt\ti\t1\n", **change):
    folder.mkdir(exist_ok=True)
    arrays = {"I_tr": X[:3], "T_tr": Y[:3], "I_te": X[3:], "T_te": Y[3:], **change}
    io.savemat(folder / "raw_features.mat", {k: v for k, v in arrays.items() if v is not None})
    (folder / "trainset_txt_img_cat.list").write_text(train)
    (folder / "testset_txt_img_cat.list").write_text("t\ti\t2\n")
    return folder


def test_wikipedia(tmp_path, monkeypatch):
    write_wikipedia(tmp_path / "wikipedia")
    monkeypatch.setenv("JAXROBUST_DATA", str(tmp_path))
    pairs = data.wikipedia()
    np.testing.assert_allclose(pairs.x_train, X[:3])
    np.testing.assert_allclose(pairs.y_test, Y[3:], rtol=1e-6)
    np.testing.assert_array_equal(pairs.labels_train, [5, 9, 0])
    np.testing.assert_array_equal(pairs.labels_test, [1])
    assert pairs.info.class_names[9] == "warfare"
    assert pairs.x_train.dtype == pairs.y_train.dtype == np.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": "t\ti\t6\n"}, "to train must be as many, got 3, 3 and 1"),
        ({"train": "t\ti\t6\nt\ti\t11\n"}, "list, line 2: must be text, image and category"),
        ({"train": "t i 6\n"}, "list, line 1: must be text, image and category"),
        ({"T_te": None}, r"lacks \['T_te'\]"),
        ({"I_tr": X[:3] * np.nan}, "I_tr must be a matrix of finite numbers"),
        ({"T_te": Y[3:, :1]}, "to train and to test must be as many"),
    ],
)
def test_damaged_wikipedia(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        data.wikipedia(write_wikipedia(tmp_path, **change))


def test_wikipedia_that_is_no_matlab_file(tmp_path):
    write_wikipedia(tmp_path)
    (tmp_path / "raw_features.mat").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"raw_features.mat cannot be read as a MATLAB file"):
        data.wikipedia(tmp_path)
    with pytest.raises(FileNotFoundError, match="The Wikipedia data set was not found"):
        data.wikipedia()


SIZES = {"train": 3, "val": 2, "test": 1}


def write_multi30k(folder, columns=("en", "de", "2.en"), zipped=True):
    names = {"task1": "test_2016_flickr", "task2": "test_2016"}
    for column in columns:
        task = "task2" if "." in column else "task1"
        (folder / task / "raw").mkdir(parents=True, exist_ok=True)
        for part, size in SIZES.items():
            name = f"{names[task] if part == 'test' else part}.{column}"
            text = "".join(f"{column} {part} {row}\u2028é\n" for row in range(size)).encode()
            path = folder / task / "raw" / (name + ".gz" * zipped)
            path.write_bytes(gzip.compress(text) if zipped else text)
    return folder


@pytest.mark.parametrize("zipped", [True, False])
def test_multi30k(tmp_path, zipped, monkeypatch):
    write_multi30k(tmp_path / "multi30k", zipped=zipped)
    monkeypatch.setenv("JAXROBUST_DATA", str(tmp_path))
    found = data.multi30k(["2.en", "de"])
    assert [len(part) for part in (found.train, found.val, found.test)] == [3, 2, 1]
    assert found.train[1] == ("2.en train 1\u2028é", "de train 1\u2028é")
    assert found.columns == found.info.class_names == ("2.en", "de")
    with pytest.raises(FileNotFoundError, match=r"Looked in"):
        data.multi30k(["1.de"])


def test_bad_multi30k(tmp_path):
    for columns in ((), ("en", "en"), ("it",)):
        with pytest.raises(ValueError, match="columns must be different ones of"):
            data.multi30k(columns)
    with pytest.raises(FileNotFoundError, match="Multi30k was not found"):
        data.multi30k()
    write_multi30k(tmp_path)
    path = tmp_path / "task1" / "raw" / "val.de.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with pytest.raises(ValueError, match=r"val.de.gz is truncated or damaged"):
        data.multi30k(path=tmp_path)
    path.write_bytes(gzip.compress(b"one\n"))
    with pytest.raises(ValueError, match=r"to val must have as many lines, got \[2, 1\]"):
        data.multi30k(path=tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"missing: task1/raw/val.de.gz"):
        data.multi30k(path=tmp_path)


@pytest.mark.data("wikipedia", "multi30k")
def test_the_real_ones(data_dir):
    if not ((data_dir / "wikipedia").is_dir() and (data_dir / "multi30k").is_dir()):
        pytest.skip("not in JAXROBUST_DATA")
    pairs = data.wikipedia()
    assert pairs.x_train.shape == (2173, 128)
    assert pairs.y_test.shape == (693, 10)
    np.testing.assert_allclose(np.asarray(pairs.x_train).sum(1), 1, rtol=1e-5)
    counts = np.bincount(pairs.labels_train, minlength=10)
    assert (counts.min(), counts.max()) == (138, 347)
    captions = data.multi30k(["en", "de", "1.en"])
    assert [len(part) for part in captions[:3]] == [29_000, 1_014, 1_000]
    assert captions.train[0][0] == "Two young, White males are outside near many bushes."
