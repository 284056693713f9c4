#include "runtime/links.h"

#include <cstdlib>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/text.h"

namespace layerprobe::runtime {
namespace {

bool is_set(const char* variable) {
  const char* const value = std::getenv(variable);
  return value != nullptr && *value != '\0' && std::string_view(value) != "0";
}

}  // namespace

/// Why no peer copy goes from one to the other, where --transport lets it; empty: it can.
std::string Links::why_no_peer(const device::Ops& from, const device::Ops& to) const {
  if (options_.transport == Transport::automatic && is_set("NCCL_P2P_DISABLE")) return "NCCL_P2P_DISABLE is set";
  return from.reaches(to) ? "" : "the devices have no way to each other";
}

bool Links::carries_weights(device::Ops& from, device::Ops& to) {
  if (options_.transport != Transport::peer || !why_no_peer(from, to).empty()) return false;
  Link::Options options = options_.each;
  options.is_peer = true;
  Link link(hub_, from, to, options);
  if (link.carries()) return true;
  watch_.warn(text(from.name(), " to ", to.name(), ": peer copies arrive damaged; ", to.name(), " reads the weights"));
  return false;
}

Link& Links::make(device::Ops& from, device::Ops& to, RunReport::Transfer& told) {
  Link::Options options = options_.each;
  options.is_peer = options_.transport != Transport::host;
  options.is_by_nccl = options_.transport == Transport::nccl;
  std::string why;
  if (options.is_peer && options_.waits_on_host) {
    why = "a device has several stages, between which whole waves wait";
  } else if (options.is_peer && !options.is_by_nccl) {
    why = why_no_peer(from, to);
  }
  options.is_peer = options.is_peer && why.empty();
  const std::string way = text(from.name(), " to ", to.name());
  std::unique_ptr<Link> link;
  try {
    link = std::make_unique<Link>(hub_, from, to, options);
  } catch (const Error& error) {
    if (!options.is_peer || !options.is_by_nccl || error.kind() != ErrorKind::device) throw;
    why = error.parts().what;
  }
  if (link && link->is_peer() && !link->carries()) {
    why = text(options.is_by_nccl ? "NCCL's" : "peer", " copies arrive damaged");
    watch_.warn(text(way, ": ", why, "; hidden states go through the host's memory"));
    link.reset();
  }
  if (!link) {
    options.is_peer = false;
    link = std::make_unique<Link>(hub_, from, to, options);
  }
  if (!link->is_peer() && !link->carries()) {
    throw Error({.kind = ErrorKind::device,
                 .where = way,
                 .what = "copies through the host's memory arrive damaged too",
                 .fix = "run on other devices: --device-map"});
  }
  const bool is_asked = options_.transport == Transport::peer || options_.transport == Transport::nccl;
  if (is_asked && !link->is_peer()) {
    watch_.warn(text("--transport ", options.is_by_nccl ? "nccl" : "peer", ": ", way, " goes through the host: ", why));
  }
  told = {.from = from.name(), .to = to.name(), .transport = link->transport(), .why = why};
  return *links_.emplace_back(std::move(link));
}

}  // namespace layerprobe::runtime
