"""Where the examples' data come from: embedded, a folder, a checked cache, or a clear word."""

from __future__ import annotations

import gzip
import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from PIL import Image

from examples import data


def idx(array):
    """The bytes of an IDX file."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.dim()]) + sizes + bytes(array.flatten().tolist())


@pytest.fixture
def files():
    """Four small files with the names of MNIST's."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (6, 4, 5), generator=generator)
    labels = torch.arange(6)
    return dict(
        zip(data.SHA256, (idx(images), idx(labels), idx(images[:2]), idx(labels[:2])), strict=True)
    )


@pytest.fixture(autouse=True)
def _no_data_of_this_machine(monkeypatch):
    monkeypatch.delenv("DNI_DATA", raising=False)


def check(images):
    assert images.train_x.shape == (6, 1, 4, 5)
    assert images.test_x.shape == (2, 1, 4, 5)
    assert images.train_y.tolist() == list(range(6))
    torch.testing.assert_close(images.train_x.mean(), torch.tensor(0.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(images.train_x.std(), torch.tensor(1.0))


def test_the_embedded_digits_need_nothing():
    digits = data.load()
    assert digits.name == "digits"
    assert digits.train_x.shape == (1437, 1, 8, 8)
    assert digits.test_x.shape == (360, 1, 8, 8)
    assert torch.equal(digits.train_y, data.load("digits").train_y)


@pytest.mark.parametrize("packed", [True, False])
def test_a_folder_of_idx_files(tmp_path, files, packed, monkeypatch):
    for name, content in files.items():
        path = tmp_path / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(content) if packed else content)
    check(data.load(str(tmp_path)))
    monkeypatch.setenv("DNI_DATA", str(tmp_path))
    check(data.load())


def test_a_folder_of_several_data_sets(tmp_path, files, monkeypatch):
    (tmp_path / "mnist").mkdir()
    for name, content in files.items():
        (tmp_path / "mnist" / name).write_bytes(content)
    monkeypatch.setenv("DNI_DATA", str(tmp_path))
    check(data.load())


def test_a_folder_without_files_says_what_to_do(tmp_path):
    with pytest.raises(SystemExit, match="has no train-images.*--data mnist .*--data digits"):
        data.load(str(tmp_path))


@pytest.fixture
def sheets(tmp_path):
    """Twelve coloured images on six sheets."""
    generator = torch.Generator().manual_seed(0)
    names = [name for part in data.SHEETS.values() for name in part]
    pixels = torch.randint(256, (6, 2, 3, 4, 4), generator=generator, dtype=torch.uint8)
    for name, images in zip(names, pixels, strict=True):
        rows = images.flatten(2).transpose(1, 2).contiguous()  # (2, 16, 3)
        Image.fromarray(rows.numpy()).save(tmp_path / name)
    for part, count in (("train", 10), ("test", 2)):
        (tmp_path / f"{part}_lables.json").write_text(str(list(range(count))))
    return pixels


def test_sheets_of_coloured_images(tmp_path, sheets):
    images = data.load(str(tmp_path))
    assert data.name_of(str(tmp_path)) == images.name == "cifar10"
    assert images.train_y.tolist() == list(range(10))
    train = sheets[:5].flatten(0, 1).float()
    torch.testing.assert_close(images.train_x, (train - train.mean()) / train.std())
    torch.testing.assert_close(images.test_x, (sheets[5] - train.mean()) / train.std())


def test_a_part_can_be_held_out():
    whole, kept = data.load(), data.load("digits held out")
    assert kept.name == data.name_of("digits held out") == "digits held out"
    assert torch.equal(torch.cat([kept.train_x, kept.test_x]), whole.train_x)
    assert torch.equal(torch.cat([kept.train_y, kept.test_y]), whole.train_y)
    assert len(kept.test_y) == pytest.approx(len(whole.train_y) / 6, abs=1)


def test_a_name_of_data_is_enough_for_tables_and_not_to_train(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert [data.name_of(name) for name in ("mnist", "cifar10")] == ["mnist", "cifar10"]
    with pytest.raises(SystemExit, match=r"data_batch_1.png: expected --data FOLDER with"):
        data.load("cifar10")


def test_sheets_that_do_not_fit_are_refused(tmp_path, sheets):
    (tmp_path / "test_lables.json").write_text("[1, 2, 3]")
    with pytest.raises(SystemExit, match="2 images of 16 pixels and labels of shape .3,"):
        data.load(str(tmp_path))
    (tmp_path / "data_batch_3.png").unlink()
    with pytest.raises(SystemExit, match=r"has no data_batch_3.png"):
        data.load(str(tmp_path))


def test_other_images_have_another_name(tmp_path, files):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert data.name_of(str(tmp_path)) == data.load(str(tmp_path)).name == tmp_path.name


def test_a_file_of_another_kind_is_refused(tmp_path, files):
    for name in files:
        (tmp_path / name).write_bytes(b"PNG")
    with pytest.raises(SystemExit, match="is not an IDX file"):
        data.load(str(tmp_path))


@pytest.fixture
def mirror(tmp_path, files, monkeypatch):
    """A mirror on disk, and an empty cache."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    for name, content in files.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(data, "SHA256", sums)
    monkeypatch.setattr(data, "MIRRORS", ("file:///nowhere/", folder.as_uri() + "/"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def test_the_cache_is_filled_once_and_checked(mirror, tmp_path):
    check(data.load("mnist"))
    for path in mirror.iterdir():
        path.unlink()
    check(data.load("mnist"))
    (tmp_path / "cache/dni/mnist/train-labels-idx1-ubyte").write_bytes(b"spoilt")
    with pytest.raises(SystemExit, match="could not be downloaded.*--data digits"):
        data.load("mnist")


def test_several_processes_may_fill_the_cache_at_once(mirror, tmp_path, monkeypatch):
    arrived, pids = threading.Barrier(2, timeout=30), iter(range(100))

    def late(name, expected):
        arrived.wait()
        return gzip.decompress((mirror / f"{name}.gz").read_bytes())

    monkeypatch.setattr(data, "_download", late)
    monkeypatch.setattr(data.os, "getpid", lambda: next(pids))  # threads in place of processes
    with ThreadPoolExecutor(2) as pool:
        for images in pool.map(data.load, ["mnist", "mnist"]):
            check(images)
    assert not list(tmp_path.rglob("*.partial"))


def test_a_wrong_checksum_is_refused(mirror):
    (mirror / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"something else"))
    with pytest.raises(SystemExit, match="wrong checksum"):
        data.load("mnist")
