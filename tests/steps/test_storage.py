"""A build of masked models counts what their zeros come to in bytes, and the page tells it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch
from msgspec import UNSET

from reprune.compress.bundle import load_bundle, save_bundle
from reprune.compress.masks.choosing import apply_masks
from reprune.core.artifacts import (
    Cost,
    Engines,
    ModelBundle,
    StorageFact,
    Surgery,
    TensorSparsity,
)
from reprune.core.params import Target
from reprune.core.store import Artifact
from reprune.report import storage as told_forms
from reprune.report.engines import engines_section
from reprune.report.facts import ReportFacts
from reprune.report.html import render_html
from reprune.report.markdown import render_markdown
from reprune.runtimes.sparse import FORMS, storage_lines
from tests.measure.test_measuring_steps import (
    PARAMS,
    World,
    bundle_manifest,
    put_data,
    put_dense,
    put_previous,
)
from tests.report.scenes import PASSED
from tests.report.verdicts import facts

ONE = {"one": Target()}
COST = Cost(params=1, macs=1, bytes=4)


def masked_by(
    dense: Artifact[ModelBundle], pattern: str
) -> tuple[dict[str, torch.Tensor], Surgery]:
    """Two tensors, one weight of ten kept, or 2 of every 4."""
    random = torch.Generator().manual_seed(0)
    masks = {}
    for name in ("0.weight", "2.weight"):
        weight = load_bundle(dense).module.state_dict()[name]
        if pattern == "2:4":
            mask = torch.zeros_like(weight, dtype=torch.bool)
            mask[:, ::4] = mask[:, 1::4] = True
        else:
            mask = torch.rand(weight.shape, generator=random) < 0.1
        masks[name] = mask
    tensors = tuple(
        TensorSparsity(
            tensor=name,
            size=mask.numel(),
            requested=int((~mask).sum()),
            zeros=int((~mask).sum()),
            pattern=pattern,
        )
        for name, mask in masks.items()
    )
    surgery = Surgery(
        criterion="magnitude", groups=(), before=COST, after=COST, equality_max_abs=0.0, loss_dense=1.0,
        loss_cut=1.0, loss_compensated=None, loss_recalibrated=None, kept="cut", sparsity=tensors,
    )  # fmt: skip
    return masks, surgery


def built(root: Path, pattern: str) -> tuple[Engines, dict[str, torch.Tensor]]:
    world = World(root)
    dense = put_dense(world, "dense")
    put_previous(world, "none")
    put_data(world, "data", dense)
    masks, surgery = masked_by(dense, pattern)
    module = apply_masks(load_bundle(dense).module, masks)
    with torch.no_grad():
        # As training with masks that multiply leaves them.
        for name, mask in masks.items():
            weight = module.get_parameter(name)
            weight.copy_(torch.where(mask, weight, torch.tensor(-0.0)))
    world.put(
        "candidate",
        msgspec.structs.replace(bundle_manifest(), surgery=surgery),
        lambda draft: save_bundle(draft, module, None, dense, masks),
    )
    made = world.step(
        "build", "engines", params=msgspec.structs.replace(PARAMS, targets=ONE),
        candidate="candidate", dense="dense", previous="none", data="data",
    )  # fmt: skip
    return made.manifest, load_bundle(dense).module.state_dict()


@pytest.fixture(autouse=True)
def own_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPRUNE_WORK", str(tmp_path / "work"))


@pytest.mark.slow
def test_a_build_counts_the_bytes_of_masked_arms_alone(tmp_path: Path) -> None:
    """One weight of ten is kept: the file is as large as its values and their places."""
    engines, dense = built(tmp_path, "unstructured")
    assert engines.storage is not UNSET
    assert set(engines.storage) == {"candidate"}
    lines = {line.dtype: line for line in engines.storage["candidate"]}
    assert set(lines) == {"fp32", "fp16", "int8"}
    whole = sum(4 * tensor.numel() for tensor in dense.values())
    assert lines["fp32"].forms["dense"] == whole
    assert set(lines["fp32"].forms) == set(FORMS)
    for line in lines.values():
        assert line.pattern == "2:4"
        assert line.file < 0.3 * line.forms["dense"]
        assert line.file <= min(line.forms.values()) + 200


@pytest.mark.slow
def test_the_pattern_is_that_of_the_masks(tmp_path: Path) -> None:
    """2:4 is packed to half its values and two bits each."""
    engines, _ = built(tmp_path, "2:4")
    assert engines.storage is not UNSET
    (fp32, *_) = engines.storage["candidate"]
    assert fp32.forms["n:m"] < 0.56 * fp32.forms["dense"]


@pytest.fixture
def told(tmp_path: Path) -> ReportFacts:
    found = facts(PASSED, tmp_path)
    (engines,) = found.engines
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 64, generator=random).where(
        torch.rand(64, 64, generator=random) < 0.1, torch.tensor(0.0)
    )
    lines = tuple(
        StorageFact(dtype=line.dtype, pattern="2:4", forms=line.forms, file=line.file)
        for line in storage_lines({"w": weight.numpy()})
    )
    return replace(found, engines=(msgspec.structs.replace(engines, storage={"candidate": lines}),))


def test_the_page_tells_every_form_and_sells_no_speed(told: ReportFacts) -> None:
    section = engines_section(told)
    assert section is not None
    text = "".join(map(str, section.content))
    for word in ("Run lengths", "Bitmask", "Delta-index", "Packed 2:4", "fp16", "% of dense"):
        assert word in text
    assert set(told_forms.FORMS) == set(FORMS)
    # It holds no 2:4: the cell is empty, not the dense number again.
    row = text.partition(told_forms.CAPTION)[2].partition("fp32</td>")[2].partition("</tr>")[0]
    assert row.count("16.4") == 1
    assert '<td class="n"></td>' in row
    assert "nothing here says that zeros are faster" in text
    assert "Run lengths" in render_html(told)


def test_without_masks_there_is_no_such_table(told: ReportFacts) -> None:
    (engines,) = told.engines
    plain = replace(told, engines=(msgspec.structs.replace(engines, storage=UNSET),))
    assert "Run lengths" not in render_html(plain)
    assert "zeros" not in render_markdown(plain)


def test_the_markdown_tells_the_smallest_file_and_sells_no_speed(told: ReportFacts) -> None:
    """In the part on how it was measured; one sentence a model, whatever the number of machines."""
    twice = replace(told, engines=(*told.engines, *told.engines))
    (line,) = [one for one in render_markdown(twice).splitlines() if "zeros stored" in one]
    assert line.startswith("- Were its zeros stored compactly, pruned v3 would come to ")
    for dtype in ("fp32", "fp16", "int8"):
        assert f" in {dtype} (" in line
    assert line.endswith("nothing says that zeros are faster.")
