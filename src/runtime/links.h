#pragma once

#include <memory>
#include <string>
#include <vector>

#include "device/ops.h"
#include "runtime/hub.h"
#include "runtime/link.h"
#include "runtime/session.h"

namespace layerprobe::runtime {

/// The ways of a run from device to device, each tried before it is used.
class Links {
 public:
  struct Options {
    Transport transport;
    Link::Options each;          // of all of them, the way they go apart
    bool waits_on_host = false;  // whole waves do, between the stages of one device
  };
  /// The hub and the watch outlive this.
  Links(Hub& hub, const Watch& watch, Options options) : hub_(hub), watch_(watch), options_(options) {}

  /// By the way that --transport asks for where it is there and carries what it is given; else through the host, and
  /// the watch and `told` hear why. Throws Error(device) where not even that works.
  Link& make(device::Ops& from, device::Ops& to, RunReport::Transfer& told);

  /// Whether weights are copied from one to the other: where --transport peer asks for it, and a trial as that of links
  /// succeeds.
  bool carries_weights(device::Ops& from, device::Ops& to);

 private:
  std::string why_no_peer(const device::Ops& from, const device::Ops& to) const;

  Hub& hub_;
  const Watch& watch_;
  const Options options_;
  std::vector<std::unique_ptr<Link>> links_;
};

}  // namespace layerprobe::runtime
