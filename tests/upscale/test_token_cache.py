from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from strsr_cli.upscale.token_cache import TokenCache, make_key


def test_entries_come_back_bit_for_bit(tmp_path: Path) -> None:
    cache = TokenCache(tmp_path / "below" / "tokens")
    tokens = torch.randn(1, 5, 7).transpose(1, 2) * 1e-30
    cache.put("k", tokens)
    found = TokenCache(tmp_path / "below" / "tokens").get("k")
    assert found is not None
    assert torch.equal(found, tokens)
    assert [path.name for path in (tmp_path / "below" / "tokens").iterdir()] == ["k.safetensors"]
    assert cache.get("other") is None


def test_damage_of_an_entry_is_seen(tmp_path: Path) -> None:
    cache = TokenCache(tmp_path)
    cache.put("k", torch.ones(1, 2, 3))
    path = tmp_path / "k.safetensors"
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-3] ^= 1
    for damaged in (b"", whole[:-1], whole + b"x", bytes(flipped), b"rubbish" * 50):
        path.write_bytes(damaged)
        assert cache.get("k") is None
    path.write_bytes(whole)
    assert cache.get("k") is not None


def test_a_cache_without_a_folder_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cache = TokenCache(None)
    cache.put("k", torch.ones(1, 2, 3))
    assert torch.equal(cache.get("k"), torch.ones(1, 2, 3))
    cache.trim(["k"])
    assert list(tmp_path.iterdir()) == []


def test_entries_used_longest_ago_go_first(tmp_path: Path) -> None:
    cache = TokenCache(tmp_path)
    for age, key in enumerate(["new", "middle", "old", "oldest"]):
        cache.put(key, torch.full((1, 100, 10), float(age)))
        os.utime(tmp_path / f"{key}.safetensors", (1e9 - age, 1e9 - age))
    (tmp_path / ".strsr-left.safetensors").write_bytes(b"of a run that was killed")
    os.utime(tmp_path / ".strsr-left.safetensors", (1, 1))
    size = (tmp_path / "new.safetensors").stat().st_size
    assert cache.get("old") is not None  # has been used just now
    cache.trim(keep=["oldest"], largest=3 * size)
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["new", "old", "oldest"]
    cache.trim(keep=["oldest"], largest=0)
    assert [path.stem for path in tmp_path.iterdir()] == ["oldest"]


def test_keys_differ_by_every_part() -> None:
    parts = {"model": "zimage", "image": [1, 3, 2, 2, "ab"], "prompt": "a"}
    keys = {make_key(**parts)} | {make_key(**{**parts, name: None}) for name in parts}
    assert len(keys) == 4
    assert make_key(**dict(reversed(parts.items()))) == make_key(**parts)


def test_a_cache_that_may_only_be_read_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    TokenCache(tmp_path).put("key", torch.ones(1, 2, 3))

    def refuse(_path: Path) -> None:
        raise PermissionError("read-only file system")

    monkeypatch.setattr(os, "utime", refuse)
    assert TokenCache(tmp_path).get("key") is not None
