// The Python module services.transport._native.
#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include "client.h"
#include "greeting.h"
#include "handshakes.h"
#include "libcrypto.h"
#include "module_experts.h"
#include "server.h"

namespace py = pybind11;

namespace caracal::wire {
namespace {

using Released = py::call_guard<py::gil_scoped_release>;

template <class T>
const T* at(uintptr_t address) {
  return reinterpret_cast<const T*>(address);
}

// An exchange as Python holds it: it keeps the tensors alive that the sockets read from and write to.
class Sent {
 public:
  Sent(std::shared_ptr<Client> client, Exchange* exchange, py::object kept)
      : client_(std::move(client)), exchange_(exchange), kept_(std::move(kept)) {}
  ~Sent() {
    py::gil_scoped_release released;
    client_->release(exchange_);
  }

  void wait(double timeout_s, bool leaves_overdue) { client_->wait(*exchange_, timeout_s, leaves_overdue); }
  std::vector<std::pair<uint32_t, double>> pending() const { return client_->pending(*exchange_); }
  void give_up(uint32_t worker) { client_->give_up(*exchange_, worker); }
  Exchange* exchange() const { return exchange_; }
  double arrived_s() const { return exchange_->arrived_s; }
  bool all_well() const { return exchange_->all_well(); }

  // (worker, outcome, status, epoch, message) of each call that brought no usable rows.
  py::list failures() const {
    py::list failed;
    for (size_t i = 0; i < exchange_->used; ++i) {
      const Call& call = exchange_->calls[i];
      if (call.outcome == Outcome::kAnswered) continue;
      failed.append(py::make_tuple(call.worker, static_cast<int>(call.outcome), static_cast<int>(call.status),
                                   call.epoch, py::bytes(call.message)));
    }
    return failed;
  }

  // Workers whose rows hold infinities or NaNs.
  py::list not_finite() const {
    py::list workers;
    for (size_t i = 0; i < exchange_->used; ++i) {
      const Call& call = exchange_->calls[i];
      if (call.outcome == Outcome::kAnswered && !call.finite) workers.append(call.worker);
    }
    return workers;
  }

 private:
  std::shared_ptr<Client> client_;
  Exchange* exchange_;
  py::object kept_;
};

struct Plan {
  uintptr_t serial, row, row_count, row_of, expert, count;
  size_t workers;
};

std::unique_ptr<Sent> scatter(const std::shared_ptr<Client>& client, uint64_t step, uint32_t layer, uint64_t epoch,
                              uint32_t deadline_ms, uint32_t hidden, uint32_t dtype,
                              const std::vector<std::pair<uintptr_t, size_t>>& planes, const Plan& plan,
                              uintptr_t reply, size_t reply_row_bytes, py::object kept) {
  Scatter wanted;
  wanted.step = step;
  wanted.layer = layer;
  wanted.epoch = epoch;
  wanted.deadline_ms = deadline_ms;
  wanted.hidden = hidden;
  wanted.dtype = dtype;
  for (const auto& [address, bytes] : planes) wanted.planes.push_back({at<char>(address), bytes});
  wanted.workers = plan.workers;
  wanted.serial = at<int64_t>(plan.serial);
  wanted.row = at<int32_t>(plan.row);
  wanted.row_count = at<int32_t>(plan.row_count);
  wanted.row_of = at<int32_t>(plan.row_of);
  wanted.expert = at<int32_t>(plan.expert);
  wanted.count = at<int32_t>(plan.count);
  wanted.reply = reinterpret_cast<char*>(reply);
  wanted.reply_row_bytes = reply_row_bytes;
  Exchange* exchange;
  {
    py::gil_scoped_release released;
    exchange = client->scatter(wanted);
  }
  return std::make_unique<Sent>(client, exchange, std::move(kept));
}

// The client's Scatterer, for other extensions; the capsule keeps the client alive.
py::capsule scatterer(const std::shared_ptr<Client>& client) {
  py::capsule capsule(static_cast<Scatterer*>(client.get()), kScattererCapsule);
  auto owner = std::make_unique<std::shared_ptr<Client>>(client);
  if (PyCapsule_SetContext(capsule.ptr(), owner.get()) ||
      PyCapsule_SetDestructor(capsule.ptr(), [](PyObject* each) {
        delete static_cast<std::shared_ptr<Client>*>(PyCapsule_GetContext(each));
      })) {
    throw py::error_already_set();
  }
  owner.release();
  return capsule;
}

// Takes over an exchange that another extension began with this client's Scatterer, from the capsule that owned it.
std::unique_ptr<Sent> adopt(const std::shared_ptr<Client>& client, const py::capsule& owner, py::object kept) {
  auto* exchange = static_cast<Exchange*>(PyCapsule_GetPointer(owner.ptr(), kExchangeCapsule));
  if (!exchange) throw py::error_already_set();
  if (PyCapsule_SetName(owner.ptr(), kAdoptedCapsule)) throw py::error_already_set();
  return std::make_unique<Sent>(client, exchange, std::move(kept));
}

// Waits until one more call is concluded of scatters that this client has sent.
void wait_for_one(Client& client, const std::vector<const Sent*>& sent, double timeout_s) {
  std::vector<Exchange*> exchanges;
  for (const Sent* each : sent) exchanges.push_back(each->exchange());
  client.wait_for_one(exchanges, timeout_s);
}

// Serials, assignments and seconds.
py::tuple take_latencies(Client& client) {
  std::vector<Latency> taken;
  {
    py::gil_scoped_release released;
    taken = client.take_latencies();
  }
  const auto count = static_cast<py::ssize_t>(taken.size());
  py::array_t<int64_t> serials(count), assignments(count);
  py::array_t<double> seconds(count);
  for (py::ssize_t i = 0; i < count; ++i) {
    const Latency& each = taken[static_cast<size_t>(i)];
    serials.mutable_at(i) = static_cast<int64_t>(each.serial);
    assignments.mutable_at(i) = each.assignments;
    seconds.mutable_at(i) = each.seconds;
  }
  return py::make_tuple(serials, assignments, seconds);
}

py::memoryview bytes_at(const void* memory, size_t bytes) {
  return py::memoryview::from_memory(memory, static_cast<py::ssize_t>(bytes));
}

// Calls `launch(layer, waited, rows, payload, row, expert, out)`, which returns None, or (status, message); a status
// of None means that the launch failed through no fault of the calls.
LaunchResult call_python(const py::object& launch, const Launch& wanted) {
  py::gil_scoped_acquire acquired;
  LaunchResult result;
  try {
    py::list waited;
    for (size_t i = 0; i < wanted.calls; ++i) waited.append(wanted.waited_s[i]);
    const size_t id_bytes = wanted.assignments * sizeof(int32_t);
    py::object answer;
    if (wanted.assignments) {
      answer = launch(wanted.layer, waited, wanted.rows, bytes_at(wanted.payload, wanted.payload_bytes),
                      bytes_at(wanted.row, id_bytes), bytes_at(wanted.expert, id_bytes),
                      py::memoryview::from_memory(wanted.out, static_cast<py::ssize_t>(wanted.out_bytes)));
    } else {
      answer = launch(wanted.layer, waited, 0, py::none(), py::none(), py::none(), py::none());
    }
    if (answer.is_none()) return result;
    result.ok = false;
    const auto [status, message] = answer.cast<std::pair<py::object, std::string>>();
    result.broken = status.is_none();
    if (!result.broken) result.status = static_cast<Status>(status.cast<uint32_t>());
    result.message = message;
  } catch (py::error_already_set& error) {
    error.discard_as_unraisable("services.transport._native");
    result.ok = false;
    result.broken = true;
  } catch (const py::cast_error&) {
    result.ok = false;
    result.broken = true;
  }
  return result;
}

// `direct`, if given, computes what it can without Python.
std::shared_ptr<Server> make_server(const Expected& expected, size_t max_sessions, double spin_s, py::object launch,
                                    std::shared_ptr<ExpertTable> direct) {
  ServerOptions options;
  options.expected = expected;
  options.max_sessions = max_sessions;
  options.spin_s = spin_s;
  // The last reference may be dropped by a thread without the GIL.
  std::shared_ptr<py::object> held(new py::object(std::move(launch)), [](py::object* object) {
    py::gil_scoped_acquire acquired;
    delete object;
  });
  const auto compute = [held, direct](const Launch& wanted) {
    if (direct && wanted.assignments && direct->compute(wanted)) return LaunchResult{};
    return call_python(*held, wanted);
  };
  return {new Server(options, compute),
          [](Server* server) {
            py::gil_scoped_release released;
            delete server;
          }};
}

std::shared_ptr<Client> make_client(double heartbeat_s, int silent_beats, double spin_s, uint32_t reply_dtype) {
  return {new Client({heartbeat_s, silent_beats, spin_s, reply_dtype}), [](Client* client) {
            py::gil_scoped_release released;
            delete client;
          }};
}

// A session's keys; empty: it is not encrypted.
std::string checked_keys(const py::bytes& keys) {
  std::string checked = keys;
  if (!checked.empty() && checked.size() != kKeysBytes) throw py::value_error("keys of a session have another length");
  if (!checked.empty() && !libcrypto()) throw py::value_error(std::string("there is no ") + kLibcrypto);
  return checked;
}

void define_client(py::module_& m) {
  py::class_<Sent>(m, "Sent")
      .def("wait", &Sent::wait, Released(), py::arg("timeout_s"), py::arg("leaves_overdue"))
      .def("pending", &Sent::pending, Released())
      .def("give_up", &Sent::give_up, Released(), py::arg("worker"))
      .def("failures", &Sent::failures)
      .def("not_finite", &Sent::not_finite)
      .def_property_readonly("all_well", &Sent::all_well)
      .def_property_readonly("arrived_s", &Sent::arrived_s);
  py::class_<Plan>(m, "Plan").def(py::init<uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, size_t>(),
                                  py::arg("serial"), py::arg("row"), py::arg("row_count"), py::arg("row_of"),
                                  py::arg("expert"), py::arg("count"), py::arg("workers"));
  py::class_<Client, std::shared_ptr<Client>>(m, "Client")
      .def(py::init(&make_client), py::arg("heartbeat_s"), py::arg("silent_beats"), py::arg("spin_s"), py::arg("reply_dtype"))
      .def("add", [](Client& client, int fd, uint64_t session, const py::bytes& keys) {
             const std::string checked = checked_keys(keys);
             py::gil_scoped_release released;
             return client.add(fd, session, checked);
           }, py::arg("fd"), py::arg("session"), py::arg("keys"))
      .def("end", [](Client& client, int64_t serial, const std::string& why) { client.end(serial, why.c_str()); }, Released())
      .def("why_over", &Client::why_over, Released())
      .def_property_readonly("generation", py::cpp_function(&Client::generation, Released()))
      .def_property_readonly("sessions", py::cpp_function(&Client::sessions, Released()))
      .def("touch", &Client::touch, Released())
      .def("scatterer", &scatterer)
      .def("adopt", &adopt, py::arg("owner"), py::arg("kept"))
      .def("wait_for_one", &wait_for_one, Released(), py::arg("sent"), py::arg("timeout_s"))
      .def("set_limits", &Client::set_limits, Released(), py::arg("serial"), py::arg("overdue_after_s"), py::arg("silent_beats"))
      .def("take_latencies", &take_latencies)
      .def("answered", &Client::answered, Released())
      .def("scatter", &scatter);
}

void define_server(py::module_& m) {
  py::class_<Expected>(m, "Expected")
      .def(py::init([](uint32_t layers, uint32_t experts, uint32_t hidden, uint32_t dispatch_dtype, uint32_t reply_dtype,
                       std::string dispatch_dtype_name, std::vector<size_t> planes, uint32_t max_rows,
                       uint32_t max_assignments) {
             return Expected{layers, experts, hidden, dispatch_dtype, reply_dtype, std::move(dispatch_dtype_name),
                             std::move(planes), max_rows, max_assignments};
           }),
           py::arg("layers"), py::arg("experts"), py::arg("hidden"), py::arg("dispatch_dtype"), py::arg("reply_dtype"),
           py::arg("dispatch_dtype_name"), py::arg("planes"), py::arg("max_rows"), py::arg("max_assignments"));
  py::class_<ServerCounters>(m, "ServerCounters")
      .def_readonly("answered", &ServerCounters::answered)
      .def_readonly("rejected", &ServerCounters::rejected)
      .def_readonly("late", &ServerCounters::late)
      .def_readonly("opened", &ServerCounters::opened)
      .def_readonly("refused", &ServerCounters::refused);
  py::class_<Server, std::shared_ptr<Server>>(m, "Server")
      .def(py::init(&make_server), py::arg("expected"), py::arg("max_sessions"), py::arg("spin_s"), py::arg("launch"), py::arg("direct") = nullptr)
      .def("listen", &Server::listen, Released())
      .def("adopt", &Server::adopt, Released())
      .def("expect", [](Server& server, const py::bytes& token, uint64_t session, double ttl_s, const py::bytes& keys) {
             const std::string secret = token, checked = checked_keys(keys);
             py::gil_scoped_release released;
             return server.expect(secret, session, ttl_s, checked);
           }, py::arg("token"), py::arg("session"), py::arg("ttl_s"), py::arg("keys"))
      .def("set_epoch", &Server::set_epoch)
      .def("end_sessions", &Server::end_sessions, Released())
      .def("stop", &Server::stop, Released())
      .def_property_readonly("sessions", py::cpp_function(&Server::sessions, Released()))
      .def_property_readonly("counters", py::cpp_function(&Server::counters, Released()))
      .def("endings", &Server::endings, Released());
}

void define_experts(py::module_& m) {
  py::class_<ExpertTable, std::shared_ptr<ExpertTable>>(m, "ExpertTable")
      .def(py::init<uint32_t, uint32_t, uint32_t, int>(), py::arg("layers"), py::arg("experts"), py::arg("hidden"), py::arg("threads"))
      .def("set", &ExpertTable::set, Released())
      .def("drop", &ExpertTable::drop, Released())
      .def_property_readonly("running_s", &ExpertTable::running_s)
      .def_property_readonly("running", &ExpertTable::running)
      .def_property_readonly("running_thread", &ExpertTable::running_thread)
      .def("take_counts", [](ExpertTable& table) {
        LaunchCounts counts;
        {
          py::gil_scoped_release released;  // a thread that has the lock may be waiting for the GIL
          counts = table.take_counts();
        }
        py::array_t<int64_t> assigned(static_cast<py::ssize_t>(table.assigned().size()));
        table.assigned().take(assigned.mutable_data());
        return py::make_tuple(counts.launches, counts.calls, counts.rows, counts.assignments, counts.busy_s, counts.waited_s,
                              assigned);
      });
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "Native sessions between attention and expert workers.";
  define_client(m);
  define_experts(m);
  define_server(m);
  m.def("hello", [](uint64_t session, const py::bytes& token, const py::bytes& keys) {
    return py::bytes(hello(session, token, checked_keys(keys)));
  }, py::arg("session"), py::arg("token"), py::arg("keys"));
  m.def("welcome_bytes", [](const py::bytes& keys) { return welcome_bytes(checked_keys(keys)); });
  m.def("welcome_fault", [](const py::bytes& data, uint64_t session, const py::bytes& keys) {
    return welcome_fault(data, session, checked_keys(keys));
  }, py::arg("data"), py::arg("session"), py::arg("keys"));
  m.def("crc32c", [](const py::bytes& data) {
    const std::string_view view = data;
    return crc32c(0, view.data(), view.size());
  });
  m.def("crc32c_table", [](const py::bytes& data) {
    const std::string_view view = data;
    return crc32c_table(0, view.data(), view.size());
  });
  m.def("count_failed_handshakes", &count_failed_handshakes);
  m.def("failed_handshakes", &failed_handshakes);
  m.attr("HEADER_BYTES") = sizeof(Header);
  m.attr("CALL_SIZES") = kSizes;
  m.attr("TOKEN_BYTES") = kTokenBytes;
  m.attr("KEYS_BYTES") = kKeysBytes;
  m.attr("BUILD_ID") = CARACAL_BUILD_ID;
}

}  // namespace caracal::wire
