#include "runtime/link.h"

#include <doctest/doctest.h>

#include <cstring>
#include <thread>

#include "base/error.h"
#include "device/ops.h"
#include "tests/support/forwarding_ops.h"

namespace layerprobe {
namespace {

using runtime::Hub;
using runtime::Link;

/// A device whose copies to others change one byte.
class Damaging : public test::ForwardingOps {
 public:
  explicit Damaging(device::Ops& ops) : ForwardingOps(ops, ops.name()) {}

  std::unique_ptr<device::Moment> send(const Send& args) override {
    auto moment = ForwardingOps::send(args);
    static_cast<std::byte*>(args.out.data)[5] ^= std::byte{1};
    return moment;
  }
};

Link::Options options(bool is_peer) {
  return {.is_peer = is_peer, .capacity = 2, .max_tokens = 9, .hidden_size = 5, .dtype = Dtype::f32};
}

}  // namespace

TEST_CASE("a link carries what is sent, in order and both ways of carrying, with and without a state") {
  const auto from = device::cpu_ops(1, "cpu:0"), to = device::cpu_ops(1, "cpu:1");
  for (const bool is_peer : {true, false}) {
    CAPTURE(is_peer);
    Hub hub;
    Link link(hub, *from, *to, options(is_peer));
    CHECK(link.carries());
    constexpr std::size_t kTasks = 50;
    std::thread sender([&] {
      for (std::size_t task = 0; task < kTasks; ++task) {
        const std::vector<float> values(45, static_cast<float>(task));
        const device::Buffer memory = from->allocate(45 * sizeof(float));
        const auto tokens = static_cast<std::int64_t>(task % 9 + 1);
        const auto state = device::Tensor::contiguous(memory.data(), Dtype::f32, tokens, 5);
        from->copy_from_host(state, values.data());
        link.send(task, task % 7 == 3 ? std::nullopt : std::optional(state));
      }
      link.end();
    });
    for (std::size_t task = 0; task < kTasks; ++task) {
      const Link::Message message = link.receive();
      CHECK(message.task == task);
      REQUIRE(message.state.has_value() == (task % 7 != 3));
      if (!message.state) continue;
      CHECK(message.state->rows == static_cast<std::int64_t>(task % 9 + 1));
      std::vector<float> found(static_cast<std::size_t>(message.state->rows) * 5);
      to->copy_to_host(found.data(), *message.state);
      CHECK(found == std::vector<float>(found.size(), static_cast<float>(task)));
      link.release(message);
    }
    sender.join();
    bool has_ended = false;
    hub.change([&] { has_ended = link.has_ended(); });
    CHECK(has_ended);
  }
}

TEST_CASE("a pair of devices whose copies arrive damaged is found, and its way through the host is not") {
  const auto from = device::cpu_ops(1, "cpu:0"), to = device::cpu_ops(1, "cpu:1");
  Damaging damaging(*from);
  Hub hub;
  CHECK_FALSE(Link(hub, damaging, *to, options(true)).carries());
  CHECK(Link(hub, damaging, *to, options(false)).carries());
}

TEST_CASE("whoever waits at a link is let go when the run is stopped") {
  const auto from = device::cpu_ops(1, "cpu:0"), to = device::cpu_ops(1, "cpu:1");
  Hub hub;
  Link link(hub, *from, *to, options(true));
  std::thread receiver([&] { CHECK_THROWS_AS(link.receive(), Hub::Stopped); });
  hub.stop(std::make_exception_ptr(Error({.kind = ErrorKind::device, .where = "cpu:0", .what = "smoke"})));
  receiver.join();
  CHECK_THROWS_WITH_AS(hub.rethrow_failure(), doctest::Contains("smoke"), Error);
}

TEST_CASE("a transport that is none is refused") {
  CHECK(runtime::parse_transport("auto") == runtime::Transport::automatic);
  CHECK_THROWS_WITH_AS(runtime::parse_transport("nvlink"), doctest::Contains("\"nvlink\" is no transport"), Error);
}

}  // namespace layerprobe
