#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "device/ops.h"
#include "runtime/hub.h"

namespace layerprobe::runtime {

/// --transport: how hidden states go from device to device.
enum class Transport {
  automatic,  // peer where it is possible and proven, else host
  peer,       // straight, by the sending device
  nccl,       // straight, by NCCL
  host,       // through pinned memory of the host
};
/// "auto", "peer", "nccl", "host". Throws Error(usage) naming --transport for anything else.
Transport parse_transport(std::string_view text);

/// Carries the hidden states of micro-batches from a stage to the next one's device, in order. One thread sends, one
/// receives; both wait: for room, for a message. Ends before its devices do.
class Link {
 public:
  struct Options {
    bool is_peer = false;      // straight; else through the host
    bool is_by_nccl = false;   // and if straight, by NCCL
    std::size_t capacity = 2;  // messages that have been sent and not released; of the host's way 3 at least
    std::int64_t max_tokens = 0;
    std::int64_t hidden_size = 0;
    Dtype dtype = Dtype::bf16;
  };
  /// Throws Error(device) where NCCL is asked for and is not there.
  Link(Hub& hub, device::Ops& from, device::Ops& to, const Options& options);

  bool is_peer() const { return options_.is_peer; }
  /// "peer", "nccl" or "host".
  const char* transport() const { return !options_.is_peer ? "host" : options_.is_by_nccl ? "nccl" : "peer"; }
  const device::Ops& from() const { return from_; }
  const device::Ops& to() const { return to_; }

  /// By the sender's thread: the task's state, or that it has none yet.
  void send(std::size_t task, const std::optional<device::Tensor>& state);
  void end();

  struct Message {
    std::size_t task = 0;
    std::optional<device::Tensor> state;  // on the receiver, in order with its operations; until release()
    std::size_t slot = 0;
  };
  /// By the receiver's thread.
  Message receive();
  /// What has been queued so far reads the state last.
  void release(const Message& message);

  // Under the hub's lock.
  bool has_room(std::size_t count) const;
  bool has_message() const { return !messages_.empty(); }
  std::size_t next_task() const { return messages_.front().task; }
  bool has_ended() const { return ended_ && messages_.empty(); }

  /// Moves patterns that the sender makes, while it computes, and has the receiver read them: whether each arrived as
  /// it was. Before anything else is sent, and no other thread uses the devices.
  bool carries();

 private:
  struct OnItsWay {
    std::size_t task = 0;
    bool has_state = false;
    std::int64_t tokens = 0;
    std::size_t slot = 0;  // of the inboxes; of the host's way: of the rooms
    void* room = nullptr;
    std::unique_ptr<device::Moment> arrived = {};  // peer
    std::unique_ptr<device::Mark> on_host = {};    // host
  };
  struct Slot {
    std::size_t index = 0;
    std::unique_ptr<device::Moment> free = {};  // nothing: it was never used
  };
  device::Tensor inbox(std::size_t slot, std::int64_t tokens) const;
  device::Tensor bring(OnItsWay& message, std::size_t& slot);

  Hub& hub_;
  device::Ops &from_, &to_;
  const Options options_;
  const std::size_t state_bytes_;  // of max_tokens
  const std::unique_ptr<device::Channel> channel_;
  std::vector<device::Buffer> inboxes_;  // on the receiver
  std::vector<device::Buffer> rooms_;    // on the host; the sender's, made as they are needed
  // The receiver's own: which inbox is next, since when each is free, and what the last copy from the host reads.
  std::size_t next_inbox_ = 0;
  std::vector<std::unique_ptr<device::Moment>> inbox_free_;
  std::unique_ptr<device::Moment> room_read_;
  std::size_t room_in_use_ = 0;

  // Under the hub's lock.
  std::deque<OnItsWay> messages_;
  std::deque<Slot> free_;   // peer: inboxes; host: rooms
  std::size_t in_use_ = 0;  // messages sent and not released
  bool ended_ = false;
};

}  // namespace layerprobe::runtime
