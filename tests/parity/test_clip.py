"""The text encoder against transformers' CLIPTextModel and CLIPTextModelWithProjection."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import CLIPTextConfig as TheirConfig
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from sdlearn import clip
from sdlearn.clip import CLIPTextConfig, CLIPTextEncoder, contrastive_loss

from .oracle import (
    DTYPES,
    TOLERANCE,
    VISIBLE,
    normal,
    published,
    randomise,
    relative_error,
)

EOS = 98
SMALL = CLIPTextConfig(
    vocab_size=99,
    hidden_size=24,
    num_layers=3,
    num_heads=3,
    intermediate_size=56,
    eos_token_id=EOS,
)
CONFIGS = {
    "quick gelu": SMALL,
    "gelu": replace(SMALL, activation="gelu", num_heads=4),
    "projected": replace(SMALL, activation="gelu", projection_dim=20),
}


def their_encoder(config: CLIPTextConfig) -> CLIPTextModel | CLIPTextModelWithProjection:
    theirs = TheirConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        projection_dim=config.projection_dim or 512,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        max_position_embeddings=config.max_positions,
        hidden_act=config.activation,
        bos_token_id=config.eos_token_id - 1,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.eos_token_id,
    )
    return (CLIPTextModelWithProjection if config.projection_dim else CLIPTextModel)(theirs)


def pair(
    config: CLIPTextConfig, dtype: torch.dtype = torch.float64
) -> tuple[CLIPTextEncoder, torch.nn.Module]:
    theirs = randomise(their_encoder(config).to(dtype))
    ours = CLIPTextEncoder(config).to(dtype)
    ours.load_state_dict(published(theirs), strict=True)
    return ours, theirs


def tokens(padding: int = EOS) -> Tensor:
    """Two texts of 77 tokens: a short, padded one and one that fills the window."""
    ids = torch.randint(0, 97, (2, 77), generator=torch.Generator().manual_seed(0))
    ids[:, 0] = 97
    ids[0, 9] = EOS
    ids[0, 10:] = padding
    ids[1, -1] = EOS
    return ids


def errors(
    ours: CLIPTextEncoder, theirs: torch.nn.Module, ids: Tensor | None = None
) -> dict[str, float]:
    ids = tokens() if ids is None else ids
    states, wanted = ours(ids), theirs(ids, output_hidden_states=True)
    projected = ours.config.projection_dim is not None
    assert len(states.hidden) == len(wanted.hidden_states) == ours.config.num_layers + 1
    hidden = zip(states.hidden, wanted.hidden_states, strict=True)
    return {
        "last": relative_error(states.last, wanted.last_hidden_state),
        "hidden": max(relative_error(a, b) for a, b in hidden),
        "pooled": relative_error(
            states.pooled, wanted.text_embeds if projected else wanted.pooler_output
        ),
    }


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_all_states_are_those_of_transformers(name: str, dtype: torch.dtype) -> None:
    assert max(errors(*pair(CONFIGS[name], dtype)).values()) <= TOLERANCE[dtype]


def test_padding_with_another_token() -> None:
    ours, theirs = pair(CONFIGS["projected"])
    assert max(errors(ours, theirs, tokens(padding=0)).values()) <= 1e-12


def test_a_text_cut_after_its_end_has_the_same_states() -> None:
    ours, _ = pair(CONFIGS["projected"])
    whole, cut = ours(tokens()[:1]), ours(tokens()[:1, :10])
    assert relative_error(cut.last, whole.last[:, :10]) <= 1e-12
    assert relative_error(cut.pooled, whole.pooled) <= 1e-12


def test_final_norm_of_the_last_layer_is_the_last_state() -> None:
    ours, _ = pair(SMALL)
    states = ours(tokens())
    assert torch.equal(ours.final_norm(states.hidden[-1]), states.last)


def test_the_penultimate_state_with_the_final_norm_is_an_encoder_of_one_layer_less() -> None:
    """As the files of SD 2 have it, without the last of OpenCLIP's 24 layers."""
    ours, theirs = pair(CONFIGS["gelu"])
    shorter = their_encoder(replace(CONFIGS["gelu"], num_layers=2)).double().eval()
    left = {key: theirs.state_dict()[key] for key in shorter.state_dict()}
    shorter.load_state_dict(left, strict=True)
    hidden = ours(tokens()).hidden
    wanted = shorter(tokens()).last_hidden_state
    assert relative_error(ours.final_norm(hidden[-2]), wanted) <= 1e-12
    assert relative_error(hidden[-2], wanted) > 0.1


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"78 tokens: .* at most 77"):
        CLIPTextEncoder(SMALL)(torch.zeros(1, 78, dtype=torch.long))
    with pytest.raises(ValueError, match="activation = 'relu'"):
        replace(SMALL, activation="relu")
    with pytest.raises(ValueError, match=r"hidden_size = 24 .* 5 heads"):
        replace(SMALL, num_heads=5)


def test_starting_values_keep_the_states_near_one() -> None:
    """PyTorch's own embeddings, of variance one, would drown what the layers add."""
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=500, hidden_size=128, num_layers=4, num_heads=4, intermediate_size=512
    )
    ours = CLIPTextEncoder(config)
    assert ours.embeddings.token_embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert ours.encoder.layers[3].mlp.fc2.weight.std().item() == pytest.approx(1 / 32, rel=0.05)
    assert ours.encoder.layers[0].self_attn.q_proj.weight.std().item() == pytest.approx(
        128**-0.5, rel=0.05
    )


# --- mistakes that are easily made: each must be far outside the tolerance


def test_a_missing_final_norm_would_show() -> None:
    ours, theirs = pair(SMALL)
    ours.final_norm = lambda hidden: hidden  # type: ignore[method-assign]
    assert errors(ours, theirs)["last"] > 0.1


def test_the_other_gelu_would_show() -> None:
    ours, theirs = pair(SMALL)
    for layer in ours.encoder.layers:
        layer.mlp.quick = False
    assert errors(ours, theirs)["last"] > VISIBLE


def test_pooling_at_the_last_token_would_show() -> None:
    ours, theirs = pair(CONFIGS["projected"])
    states = ours(tokens())
    last = ours.text_projection(states.last[:, -1])
    assert relative_error(last, theirs(tokens()).text_embeds) > 0.1


def test_pooling_at_the_highest_id_would_show() -> None:
    """It is right until tokens are added above the end-of-text token, as textual inversion does."""
    config = replace(CONFIGS["projected"], vocab_size=101)
    ours, theirs = pair(config)
    ids = tokens()
    ids[0, 5] = 100
    assert errors(ours, theirs, ids)["pooled"] <= 1e-12
    highest = ours(ids).last[torch.arange(2), ids.argmax(1)]
    assert relative_error(ours.text_projection(highest), theirs(ids).text_embeds) > 0.1


def test_looking_ahead_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    right = clip.F.scaled_dot_product_attention
    ours, theirs = pair(SMALL)
    wanted = theirs(tokens()).last_hidden_state
    monkeypatch.setattr(
        clip.F, "scaled_dot_product_attention", lambda q, k, v, is_causal: right(q, k, v)
    )
    assert relative_error(ours(tokens()).last, wanted) > 0.1


# --- the contrastive loss


def test_contrastive_loss_is_the_mean_of_both_directions() -> None:
    images, texts = normal(4, 6), normal(4, 6, seed=1)
    scale = torch.tensor(1.3).double()
    cosines = torch.nn.functional.cosine_similarity(images[:, None], texts[None], dim=-1)
    p = cosines * scale.exp()
    picture_finds_text = -p.log_softmax(1).diagonal().mean()
    text_finds_picture = -p.log_softmax(0).diagonal().mean()
    wanted = (picture_finds_text + text_finds_picture) / 2
    assert relative_error(contrastive_loss(images, texts, scale), wanted) <= 1e-12
    assert relative_error(contrastive_loss(3 * images, 5 * texts, scale), wanted) <= 1e-12


def test_contrastive_loss_with_wrong_texts_added() -> None:
    images, texts, wrong = normal(4, 6), normal(4, 6, seed=1), normal(3, 6, seed=2)
    scale = torch.tensor(1.0).double()
    loss = contrastive_loss(images, torch.cat([texts, wrong]), scale)
    unit = torch.nn.functional.normalize
    p = unit(images, dim=-1) @ unit(torch.cat([texts, wrong]), dim=-1).T * scale.exp()
    wanted = -(p.log_softmax(1).diagonal().mean() + p[:, :4].log_softmax(0).diagonal().mean()) / 2
    assert relative_error(loss, wanted) <= 1e-12


def test_contrastive_temperature_is_bounded() -> None:
    images, texts = normal(4, 6), normal(4, 6, seed=1)
    warm, cold = (
        contrastive_loss(images, texts, torch.tensor(s).double()) for s in (100.0**0.5, 50.0)
    )
    assert torch.equal(warm, cold)
