"""The share of each kind of work in a profile: of a CPU's operators, of a card's kernels, and of a real step."""

import json

import pytest
import torch

from ds2f import config
from ds2f.config import Config, ModelConfig, OptimConfig
from ds2f.runner.device.backend import open_backend
from launch.bench import step, trace_kinds
from launch.bench.comparison import Ours
from launch.synthetic_batches import make_batch


def event(name, start, duration, *, category="cpu_op", number=0, thread=1):
    return {
        "ph": "X",
        "cat": category,
        "name": name,
        "ts": start,
        "dur": duration,
        "tid": thread,
        "args": {"External id": number},
    }


def test_the_time_of_an_operator_is_its_own_without_the_operators_that_it_calls():
    events = [
        event("aten::convolution", 0, 100),
        event("aten::add_", 10, 20),  # of the convolution
        event("aten::copy_", 40, 30),
        event("aten::lstm", 100, 50),
        event("aten::mul", 0, 50, thread=2),
        {"ph": "X", "cat": "user_annotation", "name": "conv forward", "ts": 0, "dur": 900},
    ]
    found = trace_kinds.shares({"traceEvents": events})
    assert found == pytest.approx({"convolutions": 0.35, "recurrent layers": 0.25, "elementwise": 0.25, "copies": 0.15})
    assert next(iter(found)) == "convolutions"


def test_a_kernel_has_the_kind_of_the_operator_that_has_started_it():
    events = [
        event("aten::_cudnn_rnn", 0, 1000, number=7),
        event("sm90_xmma_gemm_f16", 5, 30, category="kernel", number=7),
        event("cutlass_gemm", 50, 50, category="kernel", number=8),
        event("Memcpy HtoD", 90, 20, category="gpu_memcpy", number=9),
    ]
    found = trace_kinds.shares({"traceEvents": events})
    total = 30 + 50 + 20 + 15  # from 35 to 50, no kernel runs
    expected = {"matrix products": 50, "recurrent layers": 30, "host-device copies": 20, "idle": 15}
    assert found == pytest.approx({kind: duration / total for kind, duration in expected.items()})
    assert trace_kinds.shares({}) == {}


# Names as torch's profiler writes them on CUDA; kernels of NCCL and copies beside them have no operator of ours.
CARD = (
    ("aten::_cudnn_rnn", "void RNN_blockPersist_fp_LSTM<__half, ...>", 900, "recurrent layers"),
    ("aten::_cudnn_rnn_backward", "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128", 400, "recurrent layers"),
    ("", "void elemWiseRNNcell<__nv_bfloat16, float, (cudnnRNNMode_t)2>", 100, "recurrent layers"),
    ("aten::cudnn_convolution", "void cudnn::engines_precompiled::nchwToNhwcKernel<__half>", 20, "convolutions"),
    ("aten::convolution_backward", "sm80_xmma_wgrad_implicit_gemm_indexed_f16f16", 80, "convolutions"),
    ("", "void cutlass__5x_cudnn::Kernel<cutlass_tensorop_s16816fprop_optimized_f16>", 0, "matrix products"),
    ("aten::addmm", "nvjet_tst_128x256_64x4_1x2_h_bz_coopA_NTT", 60, "matrix products"),
    ("", "ampere_bf16_s16816gemm_bf16_128x128_ldg8_f2f_stages_32x5_tn", 40, "matrix products"),
    ("", "void splitKreduce_kernel<32, 16, int, float, __nv_bfloat16>", 5, "matrix products"),
    ("aten::_ctc_loss", "void at::native::ctc_loss_log_alpha_gpu_kernel<float, long>", 30, "CTC"),
    ("aten::_fused_adamw_", "void at::native::multi_tensor_apply_kernel<FusedAdam>", 50, "optimizer"),
    ("aten::_foreach_norm", "void at::native::(anonymous namespace)::lpnorm_cleanup<float>", 10, "optimizer"),
    ("aten::mul", "void at::native::vectorized_elementwise_kernel<4, at::native::BinaryFunctor>", 25, "elementwise"),
    ("", "void at::native::unrolled_elementwise_kernel<at::native::direct_copy_kernel_cuda>", 15, "copies"),
    ("aten::sum", "void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float>>", 35, "reductions"),
    ("aten::_log_softmax", "void at::native::cunn_SoftMaxForward<4, float, float>", 5, "reductions"),
    ("aten::index_select", "void at::native::indexSelectLargeIndex<float>", 12, "copies"),
    ("aten::copy_", "Memcpy DtoD (Device -> Device)", 8, "copies"),
    ("aten::copy_", "Memcpy HtoD (Pinned -> Device)", 45, "host-device copies"),
    ("aten::copy_", "Memcpy DtoH (Device -> Pageable)", 1, "host-device copies"),
    ("aten::zero_", "Memset (Device)", 3, "elementwise"),
    ("c10d::allreduce_", "ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)", 70, "all-reduce"),
    ("", "some_vendors_kernel", 2, "other"),
)  # fmt: skip


def test_the_kernels_of_a_card_have_their_kinds_and_gaps_are_idle():
    events, expected, now = [], {"idle": 0.0}, 0.0
    for number, (operator, kernel, duration, kind) in enumerate(CARD):
        category = "gpu_memcpy" if kernel.startswith("Memcpy") else "gpu_memset" if "Memset" in kernel else "kernel"
        if operator:
            events.append(event(operator, now - 200, 5, number=number))  # the host is ahead
        gap = 4.0 if number % 5 == 0 and number else 0.0
        now += gap
        events.append(event(kernel, now, duration, category=category, number=number, thread=7))
        now += duration
        expected["idle"] += gap
        expected[kind] = expected.get(kind, 0) + duration
    found = trace_kinds.shares({"traceEvents": events})
    assert sum(found.values()) == pytest.approx(1)
    assert found == pytest.approx({kind: value / now for kind, value in expected.items()})


def test_kernels_at_the_same_time_leave_nothing_idle_and_count_each():
    events = [event("sgemm", 0, 80, category="kernel"), event("ncclDevKernel_AllReduce", 20, 60, category="kernel")]
    assert trace_kinds.shares({"traceEvents": events}) == pytest.approx({"matrix products": 4 / 7, "all-reduce": 3 / 7})


def test_time_between_the_operators_of_a_cpu_is_pythons():
    events = [event("aten::mm", 0, 60), event("aten::mm", 90, 10), event("aten::add", 70, 5, thread=2)]
    found = trace_kinds.shares({"traceEvents": events})
    assert found == pytest.approx({"matrix products": 70 / 105, "between operators": 30 / 105, "elementwise": 5 / 105})


def test_a_real_step_on_a_cpu_is_in_its_layers(tmp_path):
    model = ModelConfig(hidden_size=32, hidden_layers=2, kernel="fused")
    cfg = config.resolve(Config(device="cpu", model=model, optim=OptimConfig(schedule="constant")))
    backend = open_backend("cpu")
    step._trace(Ours(cfg, backend), make_batch(cfg, [90, 60]), backend, tmp_path / "trace.json")
    found = trace_kinds.shares(json.loads((tmp_path / "trace.json").read_text()))
    assert sum(found.values()) == pytest.approx(1)
    assert {"convolutions", "recurrent layers", "CTC", "optimizer", "between operators"} <= set(found)
    assert found["convolutions"] + found["recurrent layers"] > 0.4
    assert found.get("other", 0) < 0.1


def test_a_device_is_profiled_over_three_steps_to_their_end(tmp_path):
    class Implementation:
        steps = 0

        def step(self, batch):
            self.steps += 1
            return torch.ones(3) * 2

    class Backend:
        name, waits = "cuda", 0

        def synchronize(self):
            self.waits += 1

    implementation, backend = Implementation(), Backend()
    step._trace(implementation, None, backend, tmp_path / "trace.json")
    names = [each["name"] for each in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]]
    assert names.count("aten::mul") == 3, "the step before, of a new shape, is left out"
    assert (implementation.steps, backend.waits) == (4, 2)
