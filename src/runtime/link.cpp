#include "runtime/link.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <span>
#include <utility>

#include "base/error.h"
#include "base/text.h"

namespace layerprobe::runtime {
namespace {

constexpr std::size_t kInboxes = 2;     // one is read while the other is filled
constexpr std::size_t kLeastRooms = 3;  // one is filled, one waits, one is copied from
constexpr std::size_t kProofBytes = std::size_t{16} << 20;

std::unique_ptr<device::Channel> channel_of(device::Ops& from, const device::Ops& to, const Link::Options& options) {
  if (!options.is_peer || !options.is_by_nccl) return nullptr;
  auto channel = from.nccl_channel(to);
  if (channel) return channel;
  throw Error({.kind = ErrorKind::device,
               .where = text(from.name(), " to ", to.name()),
               .what = "NCCL is between GPUs",
               .fix = "choose --transport auto, peer or host"});
}

/// Words of which no two are alike, in this turn and the others.
void fill_pattern(std::span<std::byte> out, std::uint64_t turn) {
  for (std::size_t at = 0; at < out.size(); at += sizeof(std::uint64_t)) {
    const std::uint64_t word = ((turn << 40) + at) * 0x9e3779b97f4a7c15;  // odd: each has its own, and mixes them
    std::memcpy(out.data() + at, &word, std::min(sizeof word, out.size() - at));
  }
}

}  // namespace

Transport parse_transport(std::string_view given) {
  constexpr std::array<std::pair<std::string_view, Transport>, 4> kWords = {{{"auto", Transport::automatic},
                                                                             {"peer", Transport::peer},
                                                                             {"nccl", Transport::nccl},
                                                                             {"host", Transport::host}}};
  for (const auto& [word, transport] : kWords) {
    if (given == word) return transport;
  }
  throw Error({.kind = ErrorKind::usage,
               .where = "--transport",
               .what = text("\"", given.substr(0, 200), "\" is no transport"),
               .fix = "choose auto, peer, nccl or host"});
}

Link::Link(Hub& hub, device::Ops& from, device::Ops& to, const Options& options)
    : hub_(hub),
      from_(from),
      to_(to),
      options_{.is_peer = options.is_peer,
               .is_by_nccl = options.is_by_nccl,
               .capacity = options.is_peer ? kInboxes : std::max(options.capacity, kLeastRooms),
               .max_tokens = options.max_tokens,
               .hidden_size = options.hidden_size,
               .dtype = options.dtype},
      state_bytes_(static_cast<std::size_t>(options.max_tokens * options.hidden_size) * size_of(options.dtype)),
      channel_(channel_of(from, to, options)),
      inbox_free_(kInboxes) {
  for (std::size_t i = 0; i < kInboxes; ++i) {
    inboxes_.push_back(to.allocate_shared(state_bytes_));
    if (options_.is_peer) free_.push_back({.index = i, .free = {}});
  }
}

device::Tensor Link::inbox(std::size_t slot, std::int64_t tokens) const {
  return device::Tensor::contiguous(inboxes_[slot].data(), options_.dtype, tokens, options_.hidden_size);
}

bool Link::has_room(std::size_t count) const {
  // Of the host's rooms one stays with the receiver until it takes the next message.
  const std::size_t usable = options_.capacity - (options_.is_peer ? 0 : 1);
  return count > usable || in_use_ + count <= options_.capacity;
}

void Link::send(std::size_t task, const std::optional<device::Tensor>& state) {
  OnItsWay message{.task = task, .has_state = state.has_value()};
  Slot slot;
  if (state) {
    bool makes_room = false;
    hub_.wait([&] {
      if (in_use_ >= options_.capacity) return false;
      ++in_use_;
      makes_room = free_.empty();
      if (makes_room) return true;
      slot = std::move(free_.front());
      free_.pop_front();
      return true;
    });
    if (makes_room) {
      slot.index = rooms_.size();
      rooms_.push_back(from_.allocate_on_host(state_bytes_));
    }
    message.tokens = state->rows;
    message.slot = slot.index;
    if (options_.is_peer) {
      message.arrived = from_.send({.out = inbox(slot.index, state->rows),
                                    .receiver = to_,
                                    .x = *state,
                                    .after = slot.free.get(),
                                    .channel = channel_.get()});
    } else {
      message.room = rooms_[slot.index].data();
      from_.start_copy_to_host(message.room, *state);
      message.on_host = from_.mark();
    }
  }
  hub_.change([&] { messages_.push_back(std::move(message)); });
}

void Link::end() {
  hub_.change([&] { ended_ = true; });
}

Link::Message Link::receive() {
  OnItsWay way;
  hub_.wait([&] {
    if (messages_.empty()) return false;
    way = std::move(messages_.front());
    messages_.pop_front();
    return true;
  });
  Message message{.task = way.task, .state = {}};
  if (way.has_state) message.state = bring(way, message.slot);
  return message;
}

device::Tensor Link::bring(OnItsWay& way, std::size_t& slot) {
  if (options_.is_peer) {
    to_.follow(*way.arrived);
    slot = way.slot;
    return inbox(slot, way.tokens);
  }
  way.on_host->wait();
  if (room_read_) {
    room_read_->wait();
    hub_.change([&] {
      free_.push_back({.index = room_in_use_, .free = {}});
      --in_use_;
    });
  }
  slot = next_inbox_;
  next_inbox_ = (next_inbox_ + 1) % kInboxes;
  const device::Tensor out = inbox(slot, way.tokens);
  room_read_ = to_.start_copy_from_host(out, way.room, inbox_free_[slot].get());
  room_in_use_ = way.slot;
  to_.follow(*room_read_);
  return out;
}

void Link::release(const Message& message) {
  if (!message.state) return;
  std::unique_ptr<device::Moment> free = to_.moment();
  if (!options_.is_peer) {
    inbox_free_[message.slot] = std::move(free);
    return;
  }
  hub_.change([&] {
    free_.push_back({.index = message.slot, .free = std::move(free)});
    --in_use_;
  });
}

bool Link::carries() {
  const std::size_t row_bytes = static_cast<std::size_t>(options_.hidden_size) * size_of(options_.dtype);
  const auto rows =
      std::clamp<std::int64_t>(static_cast<std::int64_t>(kProofBytes / row_bytes), 1, options_.max_tokens);
  const std::size_t bytes = static_cast<std::size_t>(rows) * row_bytes;
  const auto tensor = [&](const device::Buffer& buffer) {
    return device::Tensor::contiguous(buffer.data(), options_.dtype, rows, options_.hidden_size);
  };
  const device::Buffer table = from_.allocate(bytes), x = from_.allocate_shared(bytes);
  std::vector<std::int32_t> reversed(static_cast<std::size_t>(rows));
  std::iota(reversed.rbegin(), reversed.rend(), 0);
  const std::vector<std::int32_t> zeros(reversed.size());
  std::vector<std::byte> pattern(bytes), found(bytes);
  bool all_arrived = true;
  for (std::uint32_t turn = 0; turn < 2 * kInboxes; ++turn) {
    fill_pattern(pattern, turn);
    from_.copy_from_host(tensor(table), pattern.data());
    from_.embedding({.out = tensor(x), .weight = tensor(table), .input_ids = reversed});  // a kernel writes it
    send(turn, tensor(x));
    // The source goes on, and writes over it: not before it has been read.
    for (int i = 0; i < 4; ++i) from_.embedding({.out = tensor(x), .weight = tensor(table), .input_ids = reversed});
    from_.embedding({.out = tensor(x), .weight = tensor(table), .input_ids = zeros});
    const Message message = receive();
    to_.copy_to_host(found.data(), *message.state);
    release(message);
    for (std::int64_t row = 0; row < rows && all_arrived; ++row) {
      const std::byte* const expected = pattern.data() + static_cast<std::size_t>(rows - 1 - row) * row_bytes;
      all_arrived = std::memcmp(found.data() + static_cast<std::size_t>(row) * row_bytes, expected, row_bytes) == 0;
    }
  }
  from_.synchronize();
  return all_arrived;
}

}  // namespace layerprobe::runtime
