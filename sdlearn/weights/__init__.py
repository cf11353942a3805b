"""Weight files: the published folders and the original single files, read and written.

    sdlearn.weights.load(module, path)          fill one network from a file or a folder, strictly
    sdlearn.weights.save(module, path)          write one network as safetensors, published names
    sdlearn.weights.load_original(spec, path)   read a whole system from one original file

The modules, in reading order:

    state_dict        a network's tensors: published names, strict match, load
    saving            a network's tensors written as safetensors
    tensor_files      safetensors files and pickles, opened without reading the tensors
    pickles           pickles, read without running what they name
    pickle_names      the classes and functions that a pickle names
    weight_names      which file of a folder is loaded: variants, shards
    ldm_keys          the tensor names of the original CompVis and Stability files
    file_parts        where a network is in a file
    leftovers         the tensors in a file that are not weights
    markers           what a file says about its training
    model_detection   which system a file is for, from the names and shapes of its tensors
    system_parts      the networks of a whole system, filled from one original file
    single_file       a whole system in one original file
    diffusers_folder  a whole system as a folder in the published layout
    model_index       model_index.json: the classes of a folder's parts, and its system
    tokenizer_files   a tokenizer, read and written
    configs           config.json of the U-Net, a ControlNet and the autoencoder, read and written
    text_config       config.json of a text encoder, read and written
    config_fields     the settings in these files that have only one accepted value
    scheduler_config  scheduler_config.json, read and written
    scheduler_classes   what each published scheduler class is and has
    scheduler_fallback  what is done instead of a setting that is not supported
    json_config       a JSON file's entries, checked
    controlnet_files  ControlNets, as a folder or as one file
    transformer_files  diffusion transformers, as a folder
    adapter_files     files of low-rank adapters, read and attached
    adapter_names     their names in each format: peft, diffusers, kohya
    adapter_metadata  their alpha, as tensors or in the file's header
    adapter_saving    low-rank adapters, written
    embedding_files   vectors of new words (textual inversion), read and written
    differences       a fine-tuned network as its difference to another
    storybook_models  the small models in this package
    hub               folders on the Hugging Face hub

Importing this package does not import torch: each name is loaded when it is first used (PEP 562).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .saving import save as save
    from .single_file import load_original as load_original
    from .state_dict import load as load
    from .system_parts import Parts as Parts

# Where each public name comes from.
_HOME = {
    "Parts": "system_parts",
    "load": "state_dict",
    "load_original": "single_file",
    "save": "saving",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
