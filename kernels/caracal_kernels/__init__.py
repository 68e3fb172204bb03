"""The ops. Each file holds one: `op_reference`, plain torch and the oracle, and `op`, dispatched by torch."""

from caracal_kernels.backend import KernelsUnavailable, cpu_backend, is_compiled
from caracal_kernels.checksum import crc32, joined_crc32
from caracal_kernels.combine import combine, combine_reference
from caracal_kernels.grouped_swiglu import grouped_swiglu, grouped_swiglu_reference
from caracal_kernels.grouped_swiglu_fp8 import grouped_swiglu_fp8, grouped_swiglu_fp8_reference
from caracal_kernels.latent_cache import row_width
from caracal_kernels.linear import linear, linear_reference
from caracal_kernels.linear_fp8 import linear_fp8, linear_fp8_reference
from caracal_kernels.mla_attention import mla_attention, mla_attention_reference
from caracal_kernels.mla_output import mla_output, mla_output_reference
from caracal_kernels.mla_project import MlaWeights, mla_project, mla_project_reference
from caracal_kernels.mla_values import mla_values, mla_values_reference
from caracal_kernels.pack_fp8 import FP8_DEPTH, FP8_OUTPUTS, pack_fp8, pack_fp8_reference, takes_fp8
from caracal_kernels.pack_weights import outputs_of, pack_weights, pack_weights_reference
from caracal_kernels.plan_rows import plan_rows, plan_rows_reference
from caracal_kernels.probe import probe
from caracal_kernels.quantize import quantize, quantize_reference
from caracal_kernels.rms_norm import rms_norm, rms_norm_reference
from caracal_kernels.route import GateConfig, GateWeights, route, route_reference
from caracal_kernels.route_rows import route_rows, route_rows_reference
from caracal_kernels.row_checks import row_checks, row_checks_reference
from caracal_kernels.sample import sample, sample_reference
from caracal_kernels.swiglu import swiglu, swiglu_reference
from caracal_kernels.swiglu_inner import swiglu_inner, swiglu_inner_reference

__all__ = [
    "FP8_DEPTH",
    "FP8_OUTPUTS",
    "GateConfig",
    "GateWeights",
    "KernelsUnavailable",
    "MlaWeights",
    "combine",
    "combine_reference",
    "cpu_backend",
    "crc32",
    "grouped_swiglu",
    "grouped_swiglu_fp8",
    "grouped_swiglu_fp8_reference",
    "grouped_swiglu_reference",
    "is_compiled",
    "joined_crc32",
    "linear",
    "linear_fp8",
    "linear_fp8_reference",
    "linear_reference",
    "mla_attention",
    "mla_attention_reference",
    "mla_output",
    "mla_output_reference",
    "mla_project",
    "mla_project_reference",
    "mla_values",
    "mla_values_reference",
    "outputs_of",
    "pack_fp8",
    "pack_fp8_reference",
    "pack_weights",
    "pack_weights_reference",
    "plan_rows",
    "plan_rows_reference",
    "probe",
    "quantize",
    "quantize_reference",
    "rms_norm",
    "rms_norm_reference",
    "route",
    "route_reference",
    "route_rows",
    "route_rows_reference",
    "row_checks",
    "row_checks_reference",
    "row_width",
    "sample",
    "sample_reference",
    "swiglu",
    "swiglu_inner",
    "swiglu_inner_reference",
    "swiglu_reference",
    "takes_fp8",
]
