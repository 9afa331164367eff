"""The quantisation in a model's name."""

from __future__ import annotations

import pytest

from orchd.wire.quant import quant_of


@pytest.mark.req("ORCH-3027")
@pytest.mark.parametrize(
    ("model_ref", "quant"),
    [
        ("file:/var/lib/orchd/models/Qwen2.5-7B-Instruct-Q4_K_M.gguf", "Q4_K_M"),
        ("hf:org/Llama-3.1-8B-GGUF/llama-3.1-8b-instruct.q8_0.gguf", "Q8_0"),
        ("file:models/m-IQ2_XXS.gguf", "IQ2_XXS"),
        ("m-IQ4_NL.gguf", "IQ4_NL"),
        ("m-Q4_0_4_8.gguf", "Q4_0_4_8"),
        ("m.Q6_K.gguf", "Q6_K"),
        ("m-F16.gguf", "F16"),
        ("m-bf16-00001-of-00002.gguf", "BF16"),
        ("hf:org/gpt-oss-20b-MXFP4", "MXFP4"),
        ("hf:org/Mistral-7B-AWQ", "AWQ"),
        ("https://host/a/m-Q5_K_S.gguf?download=true&q8_0", "Q5_K_S"),
        # nothing is said, or of something else
        ("mock:lorem", None),
        ("file:/models/Q4_K_M/model.gguf", None),
        ("faq4_bot.gguf", None),
        ("qwen2.5-coder.gguf", None),
        ("", None),
    ],
)
def test_it_is_read_and_never_guessed(model_ref: str, quant: str | None) -> None:
    assert quant_of(model_ref) == quant
