"""Image layouts: finding, checking and unpacking an image."""

import json
import tarfile
from pathlib import Path

import pytest

from kata.errors import NotFoundError, ProtocolError, UnsupportedError, UsageError
from kata.storage.oci_layout import ImageConfig, unpack_image
from unit.storage.image_layout import INDEX, LayoutMaker, file


@pytest.fixture
def maker(tmp_path: Path) -> LayoutMaker:
    return LayoutMaker(tmp_path / "layout")


def unpack(place: str, tmp_path: Path) -> tuple[Path, ImageConfig]:
    rootfs = tmp_path / "rootfs"
    return rootfs, unpack_image(place, str(rootfs), str(tmp_path / "scratch"))


@pytest.mark.parametrize("how", ["none", "gzip", "zstd"])
def test_layers_are_laid_over_each_other_whatever_compresses_them(maker: LayoutMaker, tmp_path: Path, how: str) -> None:
    maker.add_image([[file("etc/a", b"1"), file("etc/b", b"1")], [file("etc/b", b"2"), file("etc/.wh.a")]], how=how)
    rootfs, _ = unpack(maker.finish(), tmp_path)
    assert [path.name for path in (rootfs / "etc").iterdir()] == ["b"]
    assert (rootfs / "etc/b").read_bytes() == b"2"


def test_what_the_image_says_of_its_process_comes_back(maker: LayoutMaker, tmp_path: Path) -> None:
    maker.add_image(
        [[file("f")]], Entrypoint=["/e"], Cmd=["c"], Env=["A=1"], WorkingDir="/w", User="daemon:adm", Labels=None
    )
    _, config = unpack(maker.finish(), tmp_path)
    assert config == ImageConfig(("/e",), ("c",), ("A=1",), "/w", "daemon:adm")


def test_a_tag_chooses_among_several_images(maker: LayoutMaker, tmp_path: Path) -> None:
    maker.add_image([[file("one")]], tag="v1")
    maker.add_image([[file("two")]], tag="v2")
    place = maker.finish()
    rootfs, _ = unpack(f"{place}:v2", tmp_path)
    assert (rootfs / "two").exists()
    with pytest.raises(UsageError, match=r"several images \(append one of :v1, :v2\)"):
        unpack(place, tmp_path)
    with pytest.raises(NotFoundError, match=r"no image 'v3' \(it has v1, v2\)"):
        unpack(f"{place}:v3", tmp_path)


def test_an_index_inside_the_index_is_searched_for_this_machine(maker: LayoutMaker, tmp_path: Path) -> None:
    other = maker.add_image([[file("other")]]) | {"platform": {"architecture": "mips", "os": "linux"}}
    ours = maker.add_image([[file("ours")]])
    maker.manifests = [maker.add_document({"schemaVersion": 2, "manifests": [other, ours]}, mediaType=INDEX)]
    rootfs, _ = unpack(maker.finish(), tmp_path)
    assert (rootfs / "ours").exists()


def test_an_archive_of_a_layout_is_as_good_as_a_directory(maker: LayoutMaker, tmp_path: Path) -> None:
    maker.add_image([[file("f")]])
    place = maker.finish()
    with tarfile.open(tmp_path / "image.tar", "w") as archive:
        archive.add(place, ".")
    rootfs, _ = unpack(str(tmp_path / "image.tar"), tmp_path)
    assert (rootfs / "f").exists()


def test_an_archive_cannot_write_beside_its_blobs(tmp_path: Path) -> None:
    (tmp_path / "evil").write_text("evil")
    with tarfile.open(tmp_path / "image.tar", "w") as archive:
        for name in ("../evil", "blobs/sha256/../../../evil", "/evil", "blobs/sha256/x/y"):
            archive.add(tmp_path / "evil", name)
    with pytest.raises(NotFoundError, match="is no image layout"):
        unpack(str(tmp_path / "image.tar"), tmp_path)
    assert [path for path in (tmp_path / "scratch").rglob("*") if path.is_file()] == []


def find_blob(maker: LayoutMaker, index: int) -> Path:
    manifest = json.loads((maker.path / "blobs" / maker.manifests[0]["digest"].replace(":", "/")).read_text())
    descriptor = [manifest["config"], *manifest["layers"]][index]
    return maker.path / "blobs" / str(descriptor["digest"]).replace(":", "/")


@pytest.mark.parametrize("index", [0, 1])
def test_a_blob_that_was_changed_is_refused(maker: LayoutMaker, tmp_path: Path, index: int) -> None:
    maker.add_image([[file("f")]])
    blob = find_blob(maker, index)
    blob.write_bytes(blob.read_bytes() + b" ")
    with pytest.raises(ProtocolError, match="does not have the digest that is its name"):
        unpack(maker.finish(), tmp_path)


def test_a_missing_blob_is_named(maker: LayoutMaker, tmp_path: Path) -> None:
    maker.add_image([[file("f")]])
    find_blob(maker, 1).unlink()
    with pytest.raises(NotFoundError, match="lacks the blob sha256:"):
        unpack(maker.finish(), tmp_path)


def test_a_layer_that_is_not_the_one_that_the_image_means_is_refused(maker: LayoutMaker, tmp_path: Path) -> None:
    first = maker.add_image([[file("f")]])
    second = maker.add_image([[file("g")]])
    documents = [
        json.loads((maker.path / "blobs" / d["digest"].replace(":", "/")).read_text()) for d in (first, second)
    ]
    maker.manifests = [maker.add_document(documents[0] | {"layers": documents[1]["layers"]})]
    with pytest.raises(ProtocolError, match="does not unpack to sha256:"):
        unpack(maker.finish(), tmp_path)


@pytest.mark.parametrize("digest", ["sha256:../../etc/passwd", "sha512:" + "0" * 128, "", "sha256:" + "G" * 64])
def test_a_digest_that_is_none_is_refused(maker: LayoutMaker, tmp_path: Path, digest: str) -> None:
    maker.manifests = [{"digest": digest, "size": 1}]
    with pytest.raises(UnsupportedError):
        unpack(maker.finish(), tmp_path)


def test_what_is_no_layout_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="does not exist"):
        unpack(str(tmp_path / "nowhere:tag"), tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFoundError, match="is no image layout"):
        unpack(str(tmp_path / "empty"), tmp_path)
    (tmp_path / "text").write_text("no archive")
    with pytest.raises(ProtocolError, match="is no tar archive"):
        unpack(str(tmp_path / "text"), tmp_path)
