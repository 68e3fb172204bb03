// The Python module services.attention_worker._native.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/utils/pybind.h>

#include "draw.h"
#include "stack.h"

namespace py = pybind11;

namespace caracal::stack {
namespace {

// Where the routes are given up by a thread without the GIL.
std::shared_ptr<void> held(py::object object) {
  return {new py::object(std::move(object)), [](void* owner) {
            py::gil_scoped_acquire acquired;
            delete static_cast<py::object*>(owner);
          }};
}

std::shared_ptr<Routes> make_routes(const py::capsule& scatterer, uint64_t generation, uint64_t epoch, Tensor serial,
                                    std::vector<Tensor> replica_offset, std::vector<Tensor> worker, const Gate& gate,
                                    bool drops_zero, uint32_t dtype, double timeout_s, bool leaves_overdue, Tensor counts,
                                    Tensor seconds, Tensor shadow) {
  auto* at = static_cast<wire::Scatterer*>(PyCapsule_GetPointer(scatterer.ptr(), wire::kScattererCapsule));
  if (!at) throw py::error_already_set();
  const auto layers = static_cast<int64_t>(worker.size());
  TORCH_CHECK(counts.sizes() == at::IntArrayRef({layers, kCounts}) && seconds.sizes() == at::IntArrayRef({layers, kSeconds}),
              "routes: counters of other sizes than [", layers, ", ", static_cast<int>(kCounts), "] and [", layers, ", ",
              static_cast<int>(kSeconds), "]");
  TORCH_CHECK(shadow.numel() == 1 && shadow.scalar_type() == at::kLong, "routes: shadow is no int64 [1]");
  return std::make_shared<Routes>(Routes{held(scatterer), at, generation, epoch, std::move(serial), std::move(replica_offset),
                                         std::move(worker), gate, drops_zero, dtype, timeout_s, leaves_overdue,
                                         std::move(counts), std::move(seconds), std::move(shadow)});
}

void release(PyObject* capsule) {
  auto* routes = static_cast<std::shared_ptr<const Routes>*>(PyCapsule_GetContext(capsule));
  if (PyCapsule_IsValid(capsule, wire::kExchangeCapsule)) {
    (*routes)->scatterer->release(static_cast<wire::Exchange*>(PyCapsule_GetPointer(capsule, wire::kExchangeCapsule)));
  }
  delete routes;
}

// The exchange, owned by the capsule until the session's client adopts it.
py::capsule take_exchange(InFlight& moe) {
  wire::Exchange* exchange = moe.take_exchange();
  TORCH_CHECK(exchange, "the exchange was taken before");
  py::capsule capsule(exchange, wire::kExchangeCapsule);
  auto routes = std::make_unique<std::shared_ptr<const Routes>>(moe.routes);
  if (PyCapsule_SetContext(capsule.ptr(), routes.get()) || PyCapsule_SetDestructor(capsule.ptr(), release)) {
    throw py::error_already_set();
  }
  routes.release();
  return capsule;
}

Outcome run(const Stack& stack, size_t first, size_t until, std::optional<Tensor> x, uint64_t number, Tensor ids, Tensor positions,
            Tensor seq, Tensor slot_mapping, Tensor page_table, Tensor sample_rows, std::vector<Tensor> caches,
            const std::shared_ptr<Routes>& routes) {
  const Step step{number,
                  std::move(ids),
                  std::move(positions),
                  std::move(seq),
                  std::move(slot_mapping),
                  std::move(page_table),
                  std::move(sample_rows),
                  std::move(caches)};
  return stack.run(first, until, std::move(x), step, routes);
}

std::pair<Tensor, Tensor> draft(const Stack& stack, const Tensor& hidden, Tensor ids, Tensor positions, Tensor seq,
                                Tensor slot_mapping, Tensor page_table, Tensor sample_rows, Tensor cache) {
  const Step step{0,
                  std::move(ids),
                  std::move(positions),
                  std::move(seq),
                  std::move(slot_mapping),
                  std::move(page_table),
                  std::move(sample_rows),
                  {std::move(cache)}};
  return stack.draft(hidden, step);
}

void define_weights(py::module_& m) {
  py::class_<Attention>(m, "Attention")
      .def(py::init([](Tensor norm, Tensor q_a, Tensor q_a_norm, Tensor q_b, Tensor kv_a, Tensor kv_a_norm, Tensor w_uk,
                       Tensor w_uv, Tensor o_proj, Tensor cos_sin, double norm_eps, double lora_eps, double q_scale,
                       double kv_scale, double scale, int64_t latent, int64_t sink_blocks, int64_t recent_blocks) {
             return Attention{{norm, q_a, q_a_norm, q_b, kv_a, kv_a_norm, w_uk, w_uv, o_proj, cos_sin, norm_eps, lora_eps,
                               q_scale, kv_scale},
                              scale, latent, sink_blocks, recent_blocks};
           }),
           py::kw_only(), py::arg("norm"), py::arg("q_a"), py::arg("q_a_norm"), py::arg("q_b"), py::arg("kv_a"),
           py::arg("kv_a_norm"), py::arg("w_uk"), py::arg("w_uv"), py::arg("o_proj"), py::arg("cos_sin"), py::arg("norm_eps"),
           py::arg("lora_eps"), py::arg("q_scale"), py::arg("kv_scale"), py::arg("scale"), py::arg("latent"),
           py::arg("sink_blocks"), py::arg("recent_blocks"));
  py::class_<Mlp>(m, "Mlp").def(py::init<Tensor, Tensor>(), py::arg("gate_up"), py::arg("down"));
  py::class_<Draft>(m, "Draft")
      .def(py::init([](Tensor word, Tensor token_norm, Tensor hidden_norm, Tensor join, const Attention& attention,
                       Tensor post_norm, const Mlp& mlp, Tensor norm, double norm_eps) {
             return Draft{word, token_norm, hidden_norm, join, attention, post_norm, mlp, norm, norm_eps};
           }),
           py::kw_only(), py::arg("word"), py::arg("token_norm"), py::arg("hidden_norm"), py::arg("join"),
           py::arg("attention"), py::arg("post_norm"), py::arg("mlp"), py::arg("norm"), py::arg("norm_eps"));
  py::class_<Layer>(m, "Layer")
      .def(py::init([](const std::array<Attention, 2>& attention, const std::array<Tensor, 2>& post_norm, double norm_eps,
                       const std::array<Mlp, 2>& mlp, Tensor classifier, Tensor bias) {
             return Layer{attention, post_norm, norm_eps, mlp, classifier, bias};
           }),
           py::kw_only(), py::arg("attention"), py::arg("post_norm"), py::arg("norm_eps"), py::arg("mlp"),
           py::arg("classifier"), py::arg("bias"));
}

void define_run(py::module_& m) {
  py::class_<Gate>(m, "Gate").def(py::init<int64_t, int64_t, double, bool>(), py::kw_only(), py::arg("top_k"),
                                  py::arg("num_ffn"), py::arg("scale"), py::arg("norm_topk"));
  py::class_<Routes, std::shared_ptr<Routes>>(m, "Routes")
      .def(py::init(&make_routes), py::kw_only(), py::arg("scatterer"), py::arg("generation"), py::arg("epoch"),
           py::arg("serial"), py::arg("replica_offset"), py::arg("worker"), py::arg("gate"), py::arg("drops_zero"),
           py::arg("dtype"), py::arg("timeout_s"), py::arg("leaves_overdue"), py::arg("counts"), py::arg("seconds"),
           py::arg("shadow"));
  py::class_<InFlight, std::shared_ptr<InFlight>>(m, "InFlight")
      .def_readonly("step", &InFlight::step)
      .def_readonly("layer", &InFlight::layer)
      .def_readonly("h", &InFlight::h)
      .def_readonly("ids", &InFlight::ids)
      .def_readonly("weights", &InFlight::weights)
      .def_readonly("zero", &InFlight::zero)
      .def_readonly("y", &InFlight::y)
      .def_property_readonly("plan", [](const InFlight& moe) {
        return std::make_tuple(moe.row, moe.row_count, moe.row_of, moe.expert, moe.count, moe.reply_index);
      })
      .def_readonly("sent_s", &InFlight::sent_s)
      .def_readonly("waits_since_s", &InFlight::waits_since_s)
      .def("take_exchange", &take_exchange);
  py::class_<Outcome>(m, "Outcome")
      .def_readonly("reached", &Outcome::reached)
      .def_readonly("x", &Outcome::x)
      .def_readonly("messages", &Outcome::messages)
      .def_readonly("interrupted", &Outcome::interrupted)
      .def_readonly("logits", &Outcome::logits)
      .def_readonly("hidden", &Outcome::hidden)
      .def_readonly("kept", &Outcome::kept);
  py::class_<Head>(m, "Head").def(
      py::init([](Tensor norm, double norm_eps, Tensor matrix) { return Head{norm, norm_eps, matrix}; }), py::kw_only(),
      py::arg("norm"), py::arg("norm_eps"), py::arg("matrix"));
  py::class_<Stack>(m, "Stack")
      .def(py::init<std::vector<Layer>, std::optional<Tensor>, Head, std::optional<Draft>>(), py::arg("layers"),
           py::arg("word"), py::arg("head"), py::arg("draft"))
      .def("draft", torch::wrap_pybind_function_no_gil(&draft), py::arg("hidden"), py::arg("ids"), py::arg("positions"),
           py::arg("seq"), py::arg("slot_mapping"), py::arg("page_table"), py::arg("sample_rows"), py::arg("cache"))
      .def("run", torch::wrap_pybind_function_no_gil(&run), py::arg("first"), py::arg("until"), py::arg("x"), py::arg("number"),
           py::arg("ids"), py::arg("positions"), py::arg("seq"), py::arg("slot_mapping"), py::arg("page_table"),
           py::arg("sample_rows"), py::arg("caches"), py::arg("routes"));
}

std::tuple<std::vector<int64_t>, std::vector<int64_t>, std::vector<uint8_t>> draw_rows(
    const Tensor& logits, std::vector<int64_t> seeds, std::vector<int64_t> positions, std::vector<float> temperature,
    std::vector<int32_t> top_k, std::vector<float> top_p, std::vector<float> min_p) {
  Sampling sampling{std::move(seeds), std::move(positions), std::move(temperature),
                    std::move(top_k), std::move(top_p),     std::move(min_p)};
  Drawn drawn = draw(logits, sampling);
  return {std::move(drawn.ids), std::move(drawn.checksums), std::move(drawn.finite)};
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "An attention worker's layers, run without Python.";
  define_weights(m);
  define_run(m);
  m.def("draw", torch::wrap_pybind_function_no_gil(&draw_rows), py::arg("logits"), py::arg("seeds"), py::arg("positions"),
        py::arg("temperature"), py::arg("top_k"), py::arg("top_p"), py::arg("min_p"));
  m.attr("COUNTS") = py::cast(kCountNames);
  m.attr("SECONDS") = py::cast(kSecondsNames);
  m.attr("BUILD_ID") = CARACAL_BUILD_ID;
}

}  // namespace caracal::stack
