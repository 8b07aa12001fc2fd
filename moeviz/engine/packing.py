"""How the slow tier keeps experts in fewer bytes than a slot does.

A checkpoint whose experts are quantised is kept as it is: the very bytes of the checkpoint. transformers' own
operations unpack them into a slot when they arrive, to the bits that it loads them to. Lossless.

The experts of any other checkpoint can be rounded to 8 or 4 bits. That is lossy and has to be asked for. The
arithmetic is torchao's. Knows neither slots nor tiers.

    rounded("int8")        # 8, the bits of a weight
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from moeviz.engine import unpacking
from moeviz.engine.layout import Layout, Packing, Row, Tensors
from moeviz.engine.sources import LayerSources, same_bits
from moeviz.errors import ModelError
from moeviz.numbers.lossy import EXPERTS, GROUP


class AsStored:
    """Experts as their checkpoint holds them, quantised by whoever made it."""

    def __init__(self, name: str, layer: LayerSources, plain: Layout) -> None:
        sample = layer.one(0)
        self.name = name
        self.tensors = {key: (tensor.dtype, tuple(tensor.shape)) for key, tensor in sample.items()}
        self._shapes, self._dtype = plain.shapes, plain.dtype
        self._make: Callable[[Tensors], Tensors] = layer.make
        self._fast = _same(self._make(sample), quickly(sample, self._shapes, self._dtype))

    def unpack(self, record: Tensors) -> Tensors:
        """The parameters of an expert, on the device where its record is."""
        made = quickly(record, self._shapes, self._dtype) if self._fast else None
        return self._make(record) if made is None else made


def quickly(record: Tensors, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> Tensors | None:
    """The parameters that `LayerSources.make` makes of a quantised expert, sooner; None where its tensors are
    not of a form that is known.

    record: what the checkpoint holds of each parameter, by its name with ".0", ".1", ...; shapes: of the
    parameters.
    """
    found: dict[str, torch.Tensor] = {}
    for name, shape in shapes.items():
        parts = [tensor for key, tensor in record.items() if key.rpartition(".")[0] == name]
        out = found[name] = torch.empty(shape, dtype=dtype, device=parts[0].device)
        dtypes = [part.dtype for part in parts]
        if dtypes == [torch.uint8, torch.uint8] and parts[0].dim() == 4:
            unpacking.mxfp4(parts[0][0], parts[1][0], out)
        elif dtypes[0::2] == [torch.float8_e4m3fn] * (len(parts) // 2) and len(parts) % 2 == 0:
            at = 0
            for values, scales in zip(parts[0::2], parts[1::2], strict=True):  # gate and up
                if values.dim() != 2 or scales.dim() != 2 or values.shape[1] % 2:
                    return None
                unpacking.fp8(values, scales, out[at : at + len(values)])
                at += len(values)
        elif len(parts) == 1 and parts[0].is_floating_point():
            out.copy_(parts[0].view(shape))
        else:
            return None
    return found


def as_stored(layers: Sequence[LayerSources], plain: Layout, config: Any) -> Packing | None:
    """How the slow tier keeps the experts of a quantised checkpoint; None where it keeps them as a slot does.

    That is so where they are not quantised, where layers are quantised in different ways, and where an expert
    cannot be unpacked without the others of its layer.
    """
    first = layers[0]
    if not first.quantised or any(layer.form != first.form for layer in layers) or not first.one_by_one():
        return None
    packing = AsStored(config.quantization_config["quant_method"], first, plain)
    return packing if Row(packing.tensors).weights < plain.expert_bytes else None


class Rounded:
    """Experts rounded to 8 or 4 bits: symmetric, with one scale for the weights of an output (8 bits) or for
    each group of them (4 bits). What is no matrix, a bias, stays as it is.
    """

    def __init__(
        self, bits: int, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, transposed: bool
    ) -> None:
        """shapes: of the parameters of one expert; transposed: their matrices stand as [in, out]. Raises
        ModelError where torchao is not installed.
        """
        self.name = f"int{bits}"
        self._arithmetic = _torchao()
        self._dtype, self._bits, self._shapes = dtype, bits, shapes
        self._blocks: dict[str, tuple[int, int]] = {}  # matrix -> sides of the piece that shares a scale
        self.tensors: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
        for name, shape in shapes.items():
            if len(shape) != 2:
                self.tensors[name] = dtype, shape
                continue
            wide = shape[0 if transposed else 1]  # weights that a product sums up
            size = wide if bits == 8 else math.gcd(wide, GROUP)
            block = self._blocks[name] = (size, 1) if transposed else (1, size)
            scales = shape[0] // block[0], shape[1] // block[1]
            values = (torch.int8, shape) if bits == 8 else (torch.uint8, (-(-math.prod(shape) // 2),))
            self.tensors |= {f"{name}.scale": (torch.float32, scales), f"{name}.values": values}

    def pack(self, expert: Tensors) -> Tensors:
        """What a record holds of an expert. expert: its parameters, on the host"""
        ao, found = self._arithmetic, dict(expert)
        for name, block in self._blocks.items():
            weights = found.pop(name).float()
            scale, zero = ao.choose_qparams_affine(
                weights,
                ao.MappingType.SYMMETRIC_NO_CLIPPING_ERR,
                block,
                torch.int8,
                *self._range,
                scale_dtype=torch.float32,
                keepdim=True,
            )
            values = ao.quantize_affine(weights, block, scale, zero, torch.int8, *self._range)
            found[f"{name}.scale"] = scale
            found[f"{name}.values"] = values if self._bits == 8 else _two_in_a_byte(values)
        return found

    def unpack(self, record: Tensors) -> Tensors:
        """The parameters of an expert, on the device where its record is."""
        found = dict(record)
        for name, block in self._blocks.items():
            scale, values = found.pop(f"{name}.scale"), found.pop(f"{name}.values")
            if self._bits == 4:
                values = _one_in_a_byte(values, self._shapes[name])
            found[name] = self._arithmetic.dequantize_affine(
                values, block, scale, None, torch.int8, *self._range, output_dtype=self._dtype
            )
        return found

    @property
    def _range(self) -> tuple[int, int]:
        """The least and the largest value."""
        return -(1 << self._bits - 1), (1 << self._bits - 1) - 1


def _same(a: Tensors, b: Tensors | None) -> bool:
    """Whether two ways of making an expert come to the same bits."""
    if b is None or a.keys() != b.keys():
        return False
    return all(same_bits(tensor, b[name]) for name, tensor in a.items())


def rounded(name: str) -> int:
    """Bits of the rounding that is asked for by name; 0: none. Raises ModelError."""
    if name not in EXPERTS:
        raise ModelError(f"experts {name!r} is not known. Choose one of {', '.join(EXPERTS)}.")
    return EXPERTS[name]


def _torchao() -> Any:
    """The arithmetic of rounding. Imported when it is used: that takes seconds."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # of kernels for machines that this is not
    try:
        from torchao.quantization import quant_primitives
    except ImportError:
        raise ModelError(
            "Rounding experts needs the package torchao, which is not installed. Install it: "
            "pip install torchao==0.18.0"
        ) from None
    finally:
        logging.disable(before)
    return quant_primitives


def _two_in_a_byte(values: torch.Tensor) -> torch.Tensor:
    """Values from -8 to 7, int8, two in a byte each: the first in its lower half. uint8 [(count + 1) / 2]"""
    flat = torch.nn.functional.pad(values.flatten(), (0, values.numel() % 2)).view(torch.uint8) & 15
    return flat[0::2] | flat[1::2] << 4


def _one_in_a_byte(packed: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """What `_two_in_a_byte` packed. int8 [shape]"""
    both = torch.stack([packed << 4, packed & 0xF0], 1).flatten()[: math.prod(shape)]
    return (both.view(torch.int8) >> 4).view(shape)  # the shift keeps the sign
