"""Names of schemes: what toolchains call their recipes is what the fields say, and the fields come back from it."""

from dataclasses import replace

import pytest

from edge_assets.core.scheme import Scheme
from edge_assets.families.families import FAMILIES
from edge_assets.spec.model import Search
from edge_assets.targets.project import catalog
from tests.tiny.spec import TINY_QAT

WHOLE = replace(TINY_QAT, schemes="all", search=Search())
SPELLED = {
    "int8_static_qdq_u8s8_perchannel_reducedrange_minmax": Scheme(
        precision="int8",
        kind="static",
        form="qdq",
        activations="u8",
        weights="s8",
        granularity="perchannel",
        has_reduced_range=True,
        method="minmax",
    ),
    "int8_static_qdq_s8s8_symmetric_perchannel_entropy_fp16": Scheme(
        precision="int8",
        kind="static",
        form="qdq",
        activations="s8",
        weights="s8",
        is_symmetric=True,
        granularity="perchannel",
        method="entropy",
        rest="fp16",
    ),
    "int8_weights_s8_perchannel_block128_level4": Scheme(
        precision="int8", kind="weights", weights="s8", granularity="perchannel", block=128, accuracy_level=4
    ),
    "int4_weights_matmulnbits_u4_block32_gptq": Scheme(
        precision="int4", kind="weights", form="matmulnbits", weights="u4", block=32, method="gptq"
    ),
    "int4_dynamic_8da4w_s8s4_group32": Scheme(
        precision="int4", kind="dynamic", form="8da4w", activations="s8", weights="s4", granularity="group", block=32
    ),
    "int4_weightonly_linear_f16s4_perblock32": Scheme(
        precision="int4",
        kind="weightonly",
        form="linear",
        activations="f16",
        weights="s4",
        granularity="perblock",
        block=32,
    ),
    "int8_static_torch_x86_pertensor_histogram": Scheme(
        precision="int8", kind="static", form="torch", engine="x86", granularity="pertensor", method="histogram"
    ),
    "int8_static_litert_s8s8_perchannel_minmax_integerio": Scheme(
        precision="int8",
        kind="static",
        form="litert",
        activations="s8",
        weights="s8",
        granularity="perchannel",
        method="minmax",
        has_integer_interface=True,
    ),
    "int8_dynamic_s8_perchannel_mixed_keep3_int8block128": Scheme(
        precision="int8", kind="dynamic", weights="s8", granularity="perchannel", kept_layers=3, kept_block=128
    ),
    "fp16": Scheme(precision="fp16"),
}


@pytest.mark.parametrize("name", SPELLED)
def test_a_name_is_its_fields(name: str) -> None:
    assert SPELLED[name].name == name
    assert Scheme.named(name) == SPELLED[name]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_recipe_of_every_family_and_target_comes_back_from_its_name(family: str) -> None:
    targets = [entry for entry in catalog().values() if entry.family == family]
    for variant in FAMILIES[family].of(WHOLE).variants:
        for target in targets:
            name = variant.parameters(WHOLE, target).get("recipe", variant.precision)
            scheme = Scheme.named(name)
            assert scheme is not None, variant.name
            assert scheme.name == name, variant.name


def test_words_of_another_version_are_passed_over() -> None:
    scheme = Scheme.named("int8_static_qdq_u8s8_conv_minmax")
    assert scheme is not None
    assert (scheme.kind, scheme.activations, scheme.method) == ("static", "u8", "minmax")
    assert Scheme.named("some_other_name") is None
