"""TensorRT's timing cache: kept for its like, left out when it does not fit, pinned by its digest."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from reprune.core.errors import BuildError
from reprune.core.params import Target
from reprune.runtimes.cuda import Gpu
from reprune.runtimes.tensorrt import TensorRT, tensorrt
from reprune.runtimes.tensorrt_build import Options
from reprune.runtimes.timing_cache import CachePlan, attach, cache_path, keep

FACTS = {"library": "10.16", "GPU": "Orin", "driver": "540.4"}


class Cache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content


class Config:
    """A builder's config that takes caches which begin with `mark`, and adds `learns` while it builds."""

    def __init__(self, mark: bytes = b"ours", learns: bytes = b"") -> None:
        self.mark, self.learns, self.cache = mark, learns, Cache(b"")

    def create_timing_cache(self, content: bytes) -> Cache:
        if content == b"corrupt":
            raise RuntimeError("corrupt")
        return Cache(content or self.mark)

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        fits = ignore_mismatch or cache.content.startswith(self.mark)
        if fits:
            self.cache = Cache(cache.content + self.learns)
        return fits

    def get_timing_cache(self) -> Cache:
        return self.cache


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_a_cache_is_found_by_all_that_it_depends_on(tmp_path: Path) -> None:
    """Another driver is another file."""
    paths = {cache_path(tmp_path, FACTS), cache_path(tmp_path, {**FACTS, "driver": "540.5"})}
    paths.add(cache_path(tmp_path, dict(reversed(FACTS.items()))))
    assert len(paths) == 2


def test_products_in_fp32_and_in_tf32_are_timed_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured with the rounded products allowed says nothing where they are not."""
    monkeypatch.setattr(TensorRT, "version", lambda _: "10.16")
    gpu = Gpu(index=0, name="GPU", uuid="GPU-0", compute_capability="9.0", driver="570")
    plans = [
        tensorrt()._cache(Target(runtime="tensorrt"), Options(tf32=tf32), gpu)
        for tf32 in (True, False)
    ]
    assert None not in plans
    assert len({plan.path for plan in plans if plan}) == 2


def test_what_one_build_learns_the_next_one_is_told(tmp_path: Path) -> None:
    """Written whole, and attached by the next build."""
    plan = CachePlan(path=cache_path(tmp_path, FACTS))
    first, second = Config(learns=b"+conv"), Config()
    assert attach(first, plan).notes == ()
    assert keep(first, plan) == digest(b"ours+conv")
    attach(second, plan)
    assert second.cache.content == b"ours+conv"


@pytest.mark.parametrize("stored", [b"theirs", b"corrupt"])
def test_a_foreign_or_corrupt_cache_is_replaced_with_a_note(stored: bytes, tmp_path: Path) -> None:
    """It is never loaded in spite of a mismatch, and costs no build."""
    plan = CachePlan(path=tmp_path / "c.cache")
    plan.path.write_bytes(stored)
    config = Config()
    (note,) = attach(config, plan).notes
    assert "fresh" in note
    assert config.cache.content == b"ours"
    keep(config, plan)
    assert plan.path.read_bytes() == b"ours"


def test_a_pinned_cache_must_be_there_be_the_one_and_suffice(tmp_path: Path) -> None:
    """Else another build may choose other kernels, and it is refused."""
    path = tmp_path / "c.cache"
    plan = CachePlan(path=path, pin=digest(b"ours+conv"))
    with pytest.raises(BuildError, match="no timing cache to pin"):
        attach(Config(), plan)
    path.write_bytes(b"ours+pool")
    with pytest.raises(BuildError, match="not the pinned one"):
        attach(Config(), plan)
    path.write_bytes(b"ours+conv")
    config = Config()
    attach(config, plan)
    assert keep(config, plan) == plan.pin
    learning = Config(learns=b"+gemm")
    attach(learning, plan)
    with pytest.raises(BuildError, match="does not hold"):
        keep(learning, plan)
    assert path.read_bytes() == b"ours+conv"
    with pytest.raises(BuildError, match="another device"):
        attach(Config(mark=b"another machine's"), plan)


def test_what_a_build_records_can_be_pinned_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the error and the pages say: build once, pin the digest of the record. Later builds without a pin
    learn more, and leave the pinned one as it was.
    """
    monkeypatch.setenv("REPRUNE_WORK", str(tmp_path))
    monkeypatch.setattr(TensorRT, "version", lambda _: "10.16")
    gpu = Gpu(index=0, name="GPU", uuid="GPU-0", compute_capability="9.0", driver="570")

    def plan(pin: str = "", *, rebuilt: bool = False) -> CachePlan:
        target = Target(runtime="tensorrt", rebuilt=rebuilt)
        found = tensorrt()._cache(target, Options(timing_cache=pin), gpu)
        assert found is not None
        return found

    first = Config(learns=b"+conv")
    attach(first, plan())
    pin = keep(first, plan())
    more = Config(learns=b"+gemm")
    attach(more, plan())
    assert keep(more, plan()) != pin
    for rebuilt in (False, True):
        again = Config()
        assert attach(again, plan(pin, rebuilt=rebuilt)).notes == ()
        assert again.cache.content == b"ours+conv"
        assert keep(again, plan(pin, rebuilt=rebuilt)) == pin
    with pytest.raises(BuildError, match="no timing cache to pin"):
        attach(Config(), plan(digest(b"never made here")))


def test_a_cache_that_cannot_be_written_costs_no_build(tmp_path: Path) -> None:
    """The folder's name is taken by a file."""
    (tmp_path / "timing-caches").write_text("")
    plan = CachePlan(path=cache_path(tmp_path, FACTS))
    config = Config()
    attach(config, plan)
    assert keep(config, plan) == digest(b"ours")
