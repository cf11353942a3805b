"""config.json of a text encoder in a published folder, read and written."""

from pathlib import Path
from typing import Any

from sdlearn.clip import CLIPTextConfig
from sdlearn.utils.validation import shown
from sdlearn.weights.config_fields import TEXT_FIXED
from sdlearn.weights.json_config import MOST_LAYERS, Config, Json, check_fixed, written

# The classes of a text encoder, without and with a projection.
TEXT_CLASSES = ("CLIPTextModel", "CLIPTextModelWithProjection")


def text_config_from_json(path: Path, class_name: str | None = None) -> CLIPTextConfig:
    """Read text_encoder/config.json.

    projection_dim only counts if the class is CLIPTextModelWithProjection. Old files say 2 for
    eos_token_id, which is wrong for all of them; transformers then takes the highest id, and so
    does the text encoder here.

    The file of a whole CLIP has the text encoder's entries in its entry text_config.

    Args:
        path: The file.
        class_name: The class in model_index.json, which overrides the one in the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If an entry is missing, malformed or not supported.
    """
    whole = Config(path)
    inner = whole.get("text_config")
    config = check_fixed(Config(path, inner) if isinstance(inner, dict) else whole, TEXT_FIXED)
    name, *_ = (
        [class_name] if class_name else config.texts("architectures", ()) or [TEXT_CLASSES[0]]
    )
    model_type = config.get("model_type") or "clip_text_model"  # null, too, says nothing
    if name not in TEXT_CLASSES or model_type != "clip_text_model":
        raise ValueError(
            f"{path} describes a {shown(name)} of the type {shown(model_type)}; "
            "only CLIP's text encoder is supported, of the class CLIPTextModel or "
            "CLIPTextModelWithProjection and the type clip_text_model"
        )
    eos = config.integer("eos_token_id", 49407, least=0)
    activation: Any = config.text("hidden_act", "quick_gelu")
    if activation not in ("quick_gelu", "gelu"):
        raise ValueError(
            f"{path}: hidden_act is {shown(activation)}; only 'quick_gelu' and 'gelu' are supported"
        )
    return CLIPTextConfig(
        vocab_size=config.integer("vocab_size"),
        hidden_size=config.integer("hidden_size"),
        num_layers=config.integer("num_hidden_layers", most=MOST_LAYERS),
        num_heads=config.integer("num_attention_heads"),
        intermediate_size=config.integer("intermediate_size"),
        max_positions=config.integer("max_position_embeddings", 77, least=3),
        activation=activation,
        projection_dim=config.integer("projection_dim", 512) if name == TEXT_CLASSES[1] else None,
        eos_token_id=None if eos == 2 else eos,
    )


def text_config_to_json(config: CLIPTextConfig, bos_token_id: int) -> Json:
    """The content of text_encoder/config.json.

    Args:
        config: The text encoder's configuration.
        bos_token_id: The start-of-text token, which only the tokenizer knows.
    """
    has_projection = config.projection_dim is not None
    eos = 2 if config.eos_token_id is None else config.eos_token_id
    return written(TEXT_FIXED) | {
        "architectures": [TEXT_CLASSES[has_projection]],
        "bos_token_id": bos_token_id,
        "eos_token_id": eos,
        "hidden_act": config.activation,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_positions,
        "model_type": "clip_text_model",
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "pad_token_id": eos,
        "projection_dim": config.projection_dim or config.hidden_size,
        # Always float32, also if the weights are stored in half precision: without this entry
        # transformers would compute in the stored type in this part only.
        "torch_dtype": "float32",
        "vocab_size": config.vocab_size,
    }
