"""Where the cache and the environments go for a user without a home directory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cogvideo_sat_env.base.errors import InputError
from cogvideo_sat_env.base.paths import cache_dir, envs_dir


@pytest.mark.parametrize(("place", "variable"), [(cache_dir, "SATENV_CACHE"), (envs_dir, "SATENV_ENVS")])
def test_without_a_home_directory_the_variable_to_set_is_named(
    place: Callable[[], Path], variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", variable):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a user id without a passwd entry
    with pytest.raises(InputError) as refused:
        place()
    assert variable in str(refused.value.remedy)
    monkeypatch.setenv(variable, str(tmp_path))
    assert place() == tmp_path
