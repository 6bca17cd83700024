"""Atomic writes."""

import os

import pytest

from cogvideo_sat_env.base.files import replacing, write_atomically


def test_a_file_is_whole_or_as_it_was(tmp_path):
    target = tmp_path / "deep" / "file"
    assert write_atomically(target, b"one") and not write_atomically(target, b"one") and target.read_bytes() == b"one"
    with pytest.raises(ZeroDivisionError), replacing(target) as partial:
        partial.write_bytes(b"half")
        raise ZeroDivisionError
    assert target.read_bytes() == b"one" and os.listdir(target.parent) == ["file"]


def test_modes_are_those_of_the_umask(tmp_path):
    for umask, mode in ((0o002, 0o664), (0o077, 0o600), (0o022, 0o644)):
        before = os.umask(umask)
        try:
            write_atomically(tmp_path / f"{umask:o}", b"x")
        finally:
            os.umask(before)
        assert (tmp_path / f"{umask:o}").stat().st_mode & 0o777 == mode


def test_a_link_at_the_target_is_replaced_never_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.write_bytes(b"theirs")
    (tmp_path / "link").symlink_to(outside)
    write_atomically(tmp_path / "link", b"ours")
    assert outside.read_bytes() == b"theirs" and not (tmp_path / "link").is_symlink()


def test_two_links_to_one_file_leave_nothing_beside_it(tmp_path):
    (tmp_path / "one").write_bytes(b"x")
    os.link(tmp_path / "one", tmp_path / "two")
    with replacing(tmp_path / "two") as partial:
        os.link(tmp_path / "one", partial)
    assert sorted(os.listdir(tmp_path)) == ["one", "two"]
