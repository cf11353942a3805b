"""Laws of low-rank adapters: nothing at first, attached is merged, sums, the best rank."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import sdlearn
from sdlearn.clip import CLIPTextEncoder
from sdlearn.controlnet import ControlNet, unet_with
from sdlearn.lora import Adapter, LowRank, attach, attachments, detach_all
from sdlearn.lora_layers import ATTENTION, CROSS_ATTENTION, TEXT_ATTENTION, TRANSFORMERS, layers
from sdlearn.lora_merging import extract, merge, stack, unmerge
from sdlearn.unet import UNet, UNetConfig
from sdlearn.utils.device import without_memory
from sdlearn.utils.prepack import PackedConv2d, prepack

CONFIG = UNetConfig(
    block_out_channels=(16, 32),
    layers_per_block=1,
    cross_attention=(True, True),
    transformer_depth=(1, 1),
    num_heads=(2, 4),
    cross_attention_dim=12,
    norm_num_groups=4,
)
EVERY = ""  # the pattern that fits every linear layer and every convolution


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def filled(module: nn.Module, seed: int = 0, size: float = 1.0) -> nn.Module:
    """The same module with random parameters of a sensible size."""
    for n, parameter in enumerate(module.parameters()):
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 9
        parameter.data = size * random(*parameter.shape, seed=1000 * seed + n) * fan_in**-0.5
    return module


@pytest.fixture(scope="module")
def base() -> UNet:
    return filled(UNet(CONFIG)).eval()


@pytest.fixture
def unet(base: UNet) -> UNet:
    return copy.deepcopy(base)


def adapter(unet: UNet, seed: int = 1, rank: int = 3, alpha: float = 6.0, pattern: str = ATTENTION):
    return filled(Adapter.for_network(unet, rank, alpha, pattern), seed, size=2.0)


def output(unet: nn.Module) -> Tensor:
    with torch.no_grad():
        return unet(random(2, 4, 8, 8), 321.0, random(2, 5, 12, seed=2))


def error(a: Tensor, b: Tensor) -> float:
    assert a.dtype == b.dtype
    return float((a - b).detach().norm() / b.detach().norm())


# ------------------------------------------------------------------------------------ at the start


def test_a_fresh_adapter_changes_nothing(unet: UNet):
    before = output(unet)
    fresh = Adapter.for_network(unet, rank=2)
    attach(unet, fresh)
    assert torch.equal(output(unet), before)
    for update in fresh.updates.values():
        c_in = update.down[0].numel()
        assert not update.up.any()
        assert 0.5 * c_in**-0.5 < update.down.abs().max() <= c_in**-0.5  # U(-1/√in, 1/√in)
        assert update.alpha == update.rank == 2
    assert {u.down.dtype for u in fresh.updates.values()} == {torch.float64}
    halves = Adapter.for_network(copy.deepcopy(unet).half())
    assert {u.down.dtype for u in halves.updates.values()} == {torch.float32}


def test_the_default_layers_are_the_projections_of_every_attention(unet: UNet):
    assert layers(unet, ATTENTION).keys() == {
        name for name, m in unet.named_modules() if isinstance(m, nn.Linear) and ".attn" in name
    }
    cross = layers(unet, CROSS_ATTENTION).keys()
    assert cross == {name for name in layers(unet, ATTENTION) if ".attn2." in name}


def test_at_first_only_b_moves_then_both(unet: UNet):
    unet.requires_grad_(False)
    fresh = Adapter.for_network(unet, rank=2)
    attach(unet, fresh)
    optimizer = torch.optim.SGD(fresh.parameters(), lr=0.1)
    moving = []
    for _ in range(2):
        optimizer.zero_grad()
        unet(random(2, 4, 8, 8), 321.0, random(2, 5, 12, seed=2)).square().mean().backward()
        moving.append({name for name, p in fresh.named_parameters() if p.grad.any()})
        optimizer.step()
    every = {name for name, _ in fresh.named_parameters()}
    assert moving == [{name for name in every if name.endswith(".up")}, every]
    assert all(p.grad is None for p in unet.parameters())


def test_if_a_and_b_are_zero_nothing_ever_moves(unet: UNet):
    fresh = Adapter.for_network(unet.requires_grad_(False))
    for update in fresh.updates.values():
        nn.init.zeros_(update.down)
    attach(unet, fresh)
    unet(random(2, 4, 8, 8), 321.0, random(2, 5, 12, seed=2)).square().mean().backward()
    assert not any(p.grad.any() for p in fresh.parameters())


# ------------------------------------------------------------------------------ attached and merged


@pytest.mark.parametrize("pattern", [ATTENTION, TRANSFORMERS, EVERY])
@pytest.mark.parametrize("strength", [1.0, -0.7])
def test_attached_is_merged_and_comes_off_again(unet: UNet, pattern: str, strength: float):
    before, weights = output(unet), copy.deepcopy(unet.state_dict())
    trained = adapter(unet, pattern=pattern)
    attachment = attach(unet, trained, strength)
    attached = output(unet)
    assert unet.state_dict().keys() == weights.keys()
    assert error(attached, before) > 0.01
    attachment.detach()
    assert torch.equal(output(unet), before)
    assert attachments(unet) == []
    assert all(torch.equal(weights[key], value) for key, value in unet.state_dict().items())
    merge(unet, trained, strength)
    assert error(output(unet), attached) < 1e-12
    unmerge(unet, trained, strength)
    assert all(error(unet.state_dict()[key], weights[key]) < 1e-12 for key in weights)
    assert error(output(unet), before) < 1e-12


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 6, 3, padding=1),
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.Conv2d(4, 6, (3, 5), padding=(2, 1), dilation=2),
        nn.Conv2d(4, 6, 1),
        nn.Conv2d(4, 6, 3, padding="same"),
    ],
    ids=str,
)
def test_a_convolution_s_update_is_a_kernel(conv: nn.Conv2d):
    net = nn.Sequential(copy.deepcopy(conv).double())
    x = random(2, 4, 9, 10)
    before = net(x)
    change = filled(Adapter.for_network(net, rank=2, alpha=5, pattern=EVERY), 3)
    update = change.updates["0"]
    assert update.down.shape == (2, *conv.weight.shape[1:])
    assert update.up.shape == (6, 2, 1, 1)
    kernel = 2.5 * torch.einsum("or,rihw->oihw", update.up[:, :, 0, 0], update.down)
    net[0].weight.data += kernel
    wanted = net(x)
    net[0].weight.data -= kernel
    attach(net, change)
    assert error(net(x), wanted) < 1e-12
    assert error(wanted, before) > 0.1


def test_a_strength_of_a_half_is_half_the_alpha(unet: UNet):
    whole, half = adapter(unet, alpha=3.0), adapter(unet, alpha=1.5)  # rank 3
    attachment = attach(unet, whole, 0.5)
    halved = output(unet)
    attachment.detach()
    attach(unet, half)
    assert error(halved, output(unet)) < 1e-13


def test_the_strength_can_be_changed_and_zero_is_off(unet: UNet):
    before = output(unet)
    attachment = attach(unet, adapter(unet))
    one = output(unet)
    attachment.strength = 0
    assert torch.equal(output(unet), before)
    attachment.strength = 1
    assert torch.equal(output(unet), one)
    attachment.strength = 2
    assert error(output(unet), one) > 0.01


def test_several_add_up_and_are_one_stacked(unet: UNet):
    one = adapter(unet, 1, rank=3, alpha=6, pattern=EVERY)
    two = adapter(unet, 2, rank=2, alpha=1, pattern=TRANSFORMERS)
    first, second = attach(unet, one, 0.8), attach(unet, two, -1.3)
    assert attachments(unet) == [first, second]
    both = output(unet)
    first.detach()
    assert attachments(unet) == [second]
    only_two = output(unet)
    second.detach()
    attach(unet, two, -1.3)
    assert torch.equal(output(unet), only_two)
    detach_all(unet)
    stacked = stack([(one, 0.8), (two, -1.3)])
    ranks = {name: 5 if name in two.updates else 3 for name in one.updates}
    assert {name: update.rank for name, update in stacked.updates.items()} == ranks
    attach(unet, stacked)
    assert error(output(unet), both) < 1e-12
    assert error(only_two, both) > 0.01


# --------------------------------------------------------------------------------------- extraction


def test_extraction_is_exact_at_full_rank_and_the_best_below(base: UNet, unet: UNet):
    full = adapter(unet, 5, rank=5, alpha=5)
    merge(unet, full)
    tuned = output(unet)
    again = extract(unet, base, rank=5)
    assert {u.alpha for u in again.updates.values()} == {5}
    fresh = copy.deepcopy(base)
    merge(fresh, again)
    assert error(output(fresh), tuned) < 1e-12
    few = extract(unet, base, rank=2)
    for name, update in few.updates.items():
        difference = unet.get_submodule(name).weight - base.get_submodule(name).weight
        s = torch.linalg.svdvals(difference)
        lost = (difference - update.weight(torch.float64)).norm()
        assert float(lost) == pytest.approx(float(s[2:].norm()), rel=1e-9)  # Eckart-Young
        assert torch.allclose(update.down.norm(dim=1), s[:2].sqrt())
        assert torch.allclose(update.up.norm(dim=0), s[:2].sqrt())


def test_extraction_of_kernels_and_of_more_rank_than_there_is(base: UNet, unet: UNet):
    merge(unet, adapter(unet, 6, rank=4, pattern="conv"))
    found = extract(unet, base, rank=4, pattern="conv")
    assert found.updates["conv_in"].down.shape == (4, 4, 3, 3)
    fresh = copy.deepcopy(base)
    merge(fresh, found)
    assert error(output(fresh), output(unet)) < 1e-12
    deep = extract(unet, base, rank=1000, pattern=r"^conv_in$").updates["conv_in"]
    assert deep.rank == deep.alpha == 16  # c_out is 16, and c_in * 3 * 3 is 36


# ----------------------------------------------------------------------- copies, types, compile


def test_a_deep_copy_has_an_adapter_of_its_own(unet: UNet):
    before = output(unet)
    attachment = attach(unet, adapter(unet))
    attached = output(unet)
    twin = copy.deepcopy(unet)
    assert torch.equal(output(twin), attached)
    attachment.strength = 0.0
    assert torch.equal(output(twin), attached)
    (own,) = attachments(twin)
    own.detach()
    assert torch.equal(output(twin), before)
    attachment.strength = 1.0
    assert torch.equal(output(unet), attached)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_output_keeps_the_network_s_type(dtype: torch.dtype):
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).to(dtype)
    fresh = filled(Adapter.for_network(net, pattern=EVERY), 1).float()
    x = random(3, 8).to(dtype)
    before = net(x)
    attach(net, fresh)
    after = net(x)
    assert after.dtype == dtype
    assert (after - before).norm() > 0.1
    merged = copy.deepcopy(net)
    detach_all(merged)
    merge(merged, fresh)
    assert merged[0].weight.dtype == dtype
    assert float((merged(x) - after).norm() / after.norm()) < 20 * torch.finfo(dtype).eps


def test_autocast_leaves_the_type_of_autocast():
    net = nn.Sequential(nn.Linear(8, 8))
    x = random(3, 8).float()
    trained = filled(Adapter.for_network(net, pattern=EVERY), 1).float()
    attach(net, trained)
    with torch.autocast("cpu", torch.bfloat16):
        low = net(x)
    assert low.dtype == torch.bfloat16
    assert float((low.float() - net(x)).norm() / net(x).norm()) < 0.02


def test_half_precision_does_not_come_back_after_unmerge():
    """What the docstring of `unmerge` says: the sum was rounded."""
    net = nn.Sequential(nn.Linear(64, 64)).half()
    weight = net[0].weight.detach().clone()
    big = filled(Adapter.for_network(net, pattern=EVERY), 1, size=8.0)
    merge(net, big)
    unmerge(net, big)
    assert not torch.equal(net[0].weight, weight)


def test_a_compiled_network_is_refused_and_one_compiled_later_is_not():
    net = nn.Sequential(nn.Linear(8, 8))
    x = random(3, 8).float()
    trained = filled(Adapter.for_network(net, pattern=EVERY), 1).float()
    for compiled in (torch.compile(net, backend="eager"), copy.deepcopy(net)):
        if isinstance(compiled, nn.Sequential):
            compiled.compile(backend="eager")
        with pytest.raises(ValueError, match="is compiled and would ignore the adapter"):
            attach(compiled, trained if isinstance(compiled, nn.Sequential) else prefixed(trained))
    before, attachment = net(x), attach(net, trained)
    compiled = torch.compile(net, backend="eager")
    assert torch.equal(compiled(x), net(x))
    assert not torch.equal(compiled(x), before)
    attachment.strength = 0.3
    assert torch.equal(compiled(x), net(x))
    attachment.detach()
    assert torch.equal(compiled(x), before)


def prefixed(trained: Adapter) -> Adapter:
    """The same updates under the names of what torch.compile returns."""
    return Adapter({f"_orig_mod.{name}": update for name, update in trained.updates.items()})


def test_prepacking_keeps_an_attached_adapter_and_refuses_a_later_one():
    net = nn.Sequential(nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 3))
    x = random(1, 16, 9, 9).float()
    trained = filled(Adapter.for_network(net, pattern="^0$"), 1).float()
    other = filled(Adapter.for_network(net, pattern="^1$"), 1).float()
    attach(net, trained)
    with torch.no_grad():
        attached = net(x)
        if prepack(net) == 0:
            pytest.skip("torch was built without oneDNN")
        assert isinstance(net[1], PackedConv2d)
        assert error(net(x), attached) < 1e-5
    with pytest.raises(ValueError, match=r"^1 of this Sequential: a PackedConv2d can't have a low"):
        attach(net, other)
    with pytest.raises(ValueError, match="attach or merge adapters before prepack"):
        merge(net, other)


# --------------------------------------------------------------------------------- what is refused


def test_what_does_not_fit_is_refused_before_anything_changes(unet: UNet):
    before = output(unet)
    narrow = UNet(replace(CONFIG, cross_attention_dim=8)).double()
    deep = UNet(replace(CONFIG, layers_per_block=2)).double()
    for other, sentence in (
        (narrow, r"attn2\.to_k is made for a weight of shape \(16, 8\); .* has shape \(16, 12\)"),
        (deep, r"has an update for down_blocks\.\d\.attentions\.1\..*, which this UNet lacks"),
    ):
        with pytest.raises(ValueError, match=sentence):
            attach(unet, adapter(other))
        with pytest.raises(ValueError, match=sentence):
            merge(unet, adapter(other))
    strided = nn.Sequential(nn.Conv2d(4, 4, 3, stride=2))
    with pytest.raises(ValueError, match="another stride, padding or dilation than"):
        attach(nn.Sequential(nn.Conv2d(4, 4, 3)), Adapter.for_network(strided, pattern=EVERY))
    assert torch.equal(output(unet), before)


def test_arguments_out_of_range_are_refused(base: UNet, unet: UNet):
    for rank in (0, 2.0, True):
        with pytest.raises(
            ValueError, match=r"rank is .*; it must be a whole number of at least 1"
        ):
            Adapter.for_network(unet, rank)
        with pytest.raises(
            ValueError, match=r"rank is .*; it must be a whole number of at least 1"
        ):
            extract(unet, base, rank)
    for alpha in (0, float("nan"), float("inf"), "8"):
        with pytest.raises(ValueError, match=r"alpha is .*; it must be a finite number"):
            Adapter.for_network(unet, alpha=alpha)
    with pytest.raises(ValueError, match="no linear layer or convolution of this UNet has a name"):
        Adapter.for_network(unet, pattern="q_proj")
    with pytest.raises(ValueError, match=r"pattern is '\(to_q', not a regular expression: missing"):
        Adapter.for_network(unet, pattern="(to_q")
    trained = adapter(unet)
    for strength in (float("nan"), "1", True):
        with pytest.raises(ValueError, match=r"strength is .*; it must be a finite number"):
            attach(unet, trained, strength)
        for act in (merge, unmerge):
            with pytest.raises(ValueError, match=r"strength is .*; it must be a finite number"):
                act(unet, trained, strength)
        with pytest.raises(ValueError, match=r"strength is .*; it must be a finite number"):
            stack([(trained, strength)])
    with pytest.raises(ValueError, match="parts is empty; it must hold at least one adapter"):
        stack([])
    attachment = attach(unet, trained)
    with pytest.raises(ValueError, match="already attached to this network; set the strength"):
        attach(unet, trained)
    with pytest.raises(ValueError, match="would count twice; detach it before merging"):
        merge(unet, trained)
    attachment.detach()
    attach(unet, trained)
    grouped = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2))
    with pytest.raises(ValueError, match="groups, or with padding other than zeros, can't"):
        Adapter.for_network(grouped, pattern=EVERY)
    with pytest.raises(ValueError, match=r"base has no layer 0 with a weight of shape \(3, 2\)"):
        extract(nn.Sequential(nn.Linear(2, 3)), nn.Sequential(nn.Linear(3, 3)), 1, EVERY)


def test_an_adapter_on_another_device_is_named():
    net = nn.Sequential(nn.Linear(4, 4))
    attach(net, Adapter.for_network(net, pattern=EVERY).to("meta"))
    with pytest.raises(ValueError, match="the adapter is on meta and its network on cpu; move the"):
        net(torch.zeros(1, 4))


# ---------------------------------------------------------------------------------- the real sizes


@pytest.mark.parametrize(
    ("name", "modules", "r4", "r8", "cross", "wide", "wide_r4"),
    [
        ("sd1.5", 128, 797_184, 1_594_368, 397_824, 192, 1_695_744),
        ("sd2.1", 128, 829_952, 1_659_904, 430_592, 192, 1_728_512),
        ("sdxl", 560, 5_806_080, 11_612_160, 3_143_680, 722, 10_639_360),
        ("storybook", 56, 71_680, 143_360, 34_816, 84, 154_624),
    ],
)
def test_parameters_of_the_published_systems(name, modules, r4, r8, cross, wide, wide_r4):
    with without_memory():
        unet = UNet(sdlearn.SPECS[name].unet)

    def size(**options) -> tuple[int, int]:
        made = Adapter.for_network(unet, **options)
        return len(made.updates), sum(p.numel() for p in made.parameters())

    assert size() == (modules, r4)
    assert size(rank=8) == (modules, r8)
    assert size(pattern=CROSS_ATTENTION) == (modules // 2, cross)
    assert size(pattern=TRANSFORMERS) == (wide, wide_r4)


def test_a_text_encoder_has_an_adapter_too():
    with without_memory():
        encoder = CLIPTextEncoder(sdlearn.SPECS["sd1.5"].text[0])
    assert len(Adapter.for_network(encoder, pattern=TEXT_ATTENTION).updates) == 12 * 4


def test_a_controlled_unet_and_one_for_inpainting_use_it(unet: UNet):
    trained = adapter(unet)
    net = filled(ControlNet(CONFIG, (6, 10)), 4)
    z, context, hint = random(2, 4, 8, 8), random(2, 5, 12, seed=2), torch.rand(2, 3, 16, 16)
    controlled = unet_with(unet, None, [(net, hint.double(), 1.0)])
    with torch.no_grad():
        before = controlled(z, 321.0, context)
        attach(unet, trained)
        attached = controlled(z, 321.0, context)
        detach_all(unet)
        merge(unet, trained)
        assert error(controlled(z, 321.0, context), attached) < 1e-12
    assert error(attached, before) > 0.01
    nine = UNet(replace(CONFIG, in_channels=9)).double()
    nine.load_state_dict(unet.state_dict() | {"conv_in.weight": random(16, 9, 3, 3)})
    attach(nine, trained)  # made for four channels


def test_the_state_dict_of_an_adapter_has_the_network_s_names(unet: UNet):
    trained = adapter(unet)
    names = {f"{name}.{half}" for name in layers(unet, ATTENTION) for half in ("down", "up")}
    assert trained.state_dict().keys() == names
    twin = adapter(unet, seed=2)
    twin.load_state_dict(trained.state_dict())
    assert torch.equal(output_with(unet, twin), output_with(unet, trained))


def output_with(unet: UNet, trained: Adapter) -> Tensor:
    attachment = attach(unet, trained)
    try:
        return output(unet)
    finally:
        attachment.detach()


def test_an_update_alone_is_the_formula():
    down, up, x = random(2, 5), random(7, 2, seed=1), random(3, 5, seed=2)
    update = LowRank(down, up, alpha=6)
    assert error(update(x), 3 * x @ down.T @ up.T) < 1e-15
    assert error(update.weight(torch.float64), 3 * up @ down) < 1e-15
